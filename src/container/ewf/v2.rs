//! EWF2: Ex01. Sections are chained from the end of each file to its front.

use std::ops::Range;

use md5::{Digest, Md5};
use miniz_oxide::inflate::TINFLStatus;

use super::{
    Bounds, ENTRIES_LIMIT, EX01, SECTIONS_LIMIT, Segment, TEXT_LIMIT, check, chunk_len, compare,
    digest, evidence, files,
    format::{CHECKSUM, v2 as facts},
    magics, main_values, note, said, shown_value, wide_text,
};
use crate::{
    bytes::{View, all_zero},
    container::{
        Disk, Facts, Source,
        chunked::{Chunked, Chunks as Read},
        mapped::wide,
        packed::{Wrap, inflate},
    },
    error::{Error, Result},
    text::escape,
};

/// Longest data of a section whose MD5 is compared: a table of all entries.
const HASHED_LIMIT: u64 = 128 << 20;

const CUT: &str = "if the file was cut, restore it; if the acquisition was broken off, the tool that \
                   made it may finish it";

pub(super) fn open(source: &Source<'_>) -> Result<Disk> {
    let mut set = Set::default();
    EX01.walk(source, |segment| {
        let index = set.segments.len();
        set.segments.push(segment.clone());
        set.read_segment(&segment, index)
    })?;
    set.finish()
}

fn encrypted() -> Error {
    Error::refused("Ex01: evidence that is not encrypted expected, found keys or encrypted data")
        .advise("let EnCase or the tool that made it write a copy that is not encrypted")
}

/// A section: what it holds, and where its data lies.
#[derive(Debug)]
struct Section {
    kind: u32,
    data: Range<u64>,
    /// MD5 of the data.
    hash: Option<[u8; 16]>,
    /// Where the descriptor of the one before lies; 0 in the first.
    previous: u64,
}

impl Section {
    /// The section whose descriptor lies at `at`.
    fn read(segment: &Segment, at: u64) -> Result<Self> {
        let bytes = segment.read(at, facts::DESCRIPTOR_BYTES)?;
        check(&bytes, "Ex01 section").map_err(|error| error.advise(CUT))?;
        let view = View::new(&bytes, "Ex01 section");
        let own = view.u32(facts::OWN_LEN)?;
        if u64::from(own) != wide(facts::DESCRIPTOR_BYTES) {
            return Err(Error::unsupported(format!(
                "Ex01 section: a descriptor of {} bytes expected, found {own}",
                facts::DESCRIPTOR_BYTES
            )));
        }
        let kind = view.u32(facts::KIND)?;
        let flags = view.u32(facts::FLAGS)?;
        if flags & facts::ENCRYPTED != 0 || kind == facts::KEYS {
            return Err(encrypted());
        }
        let len = view.u64(facts::DATA_LEN)?;
        let previous = view.u64(facts::PREVIOUS)?;
        // Backwards only: a chain that comes back would never end.
        let lowest = match previous {
            0 => wide(facts::HEADER_BYTES),
            previous => previous.saturating_add(wide(facts::DESCRIPTOR_BYTES)),
        };
        let start = at.checked_sub(len).filter(|start| *start >= lowest);
        let Some(start) = start.filter(|_| previous == 0 || previous >= wide(facts::HEADER_BYTES))
        else {
            return Err(Error::malformed(format!(
                "Ex01 section {kind:#x}: the one before, then its {len} bytes of data expected, \
                 found the one before at {previous:#x}"
            )));
        };
        Ok(Self {
            kind,
            data: start..at,
            hash: match flags & facts::HASHED {
                0 => None,
                _ => Some(view.array(facts::HASH)?),
            },
            previous,
        })
    }

    /// All of its data, as its MD5 says.
    fn bytes(&self, segment: &Segment) -> Result<Vec<u8>> {
        let len = self.data.end.saturating_sub(self.data.start);
        if len > HASHED_LIMIT {
            return Err(Error::limit(format!(
                "Ex01 section {:#x}: at most {HASHED_LIMIT} bytes expected, found {len}",
                self.kind
            )));
        }
        let len = usize::try_from(len).map_err(|_| Error::internal("Ex01: length of a section"))?;
        let bytes = segment.read(self.data.start, len)?;
        if let Some(says) = self.hash {
            let is: [u8; 16] = Md5::digest(&bytes).into();
            if is != says {
                return Err(Error::malformed(format!(
                    "Ex01 section {:#x}: data with the MD5 {} expected, as it says, found {}",
                    self.kind,
                    hex::encode(says),
                    hex::encode(is)
                )));
            }
        }
        Ok(bytes)
    }
}

/// A text about the device or the case.
#[derive(Debug)]
struct Text(String);

impl Text {
    fn read(section: &Section, segment: &Segment, compression: u16) -> Result<Self> {
        let len = section.data.end.saturating_sub(section.data.start);
        if len > TEXT_LIMIT {
            return Err(Error::limit(format!(
                "Ex01 text: at most {TEXT_LIMIT} bytes expected, found {len}"
            )));
        }
        let from = section.bytes(segment)?;
        if compression == facts::NONE {
            return Ok(Self(wide_text(&from)));
        }
        let limit = usize::try_from(TEXT_LIMIT).map_err(|_| Error::internal("Ex01: a limit"))?;
        let mut to = vec![0; limit];
        let (status, len) = inflate(&from, &mut to, Wrap::Zlib);
        if status != TINFLStatus::Done {
            return Err(Error::malformed(format!(
                "Ex01 text: a zlib stream of at most {TEXT_LIMIT} bytes expected, found {len} \
                 ({status:?})"
            )));
        }
        to.truncate(len);
        Ok(Self(wide_text(&to)))
    }

    fn pairs(&self) -> Result<Vec<(&str, &str)>> {
        main_values(&self.0).ok_or_else(|| {
            Error::malformed("Ex01 text: names and values of `main` expected, found none")
        })
    }

    /// A number that must be there.
    fn number(&self, name: &str) -> Result<u64> {
        let pairs = self.pairs()?;
        let text = pairs.iter().find(|(known, _)| *known == name);
        let text = text.map_or("", |(_, value)| value.trim());
        text.parse().map_err(|_| {
            let found: String = text.chars().take(40).collect();
            Error::malformed(format!(
                "Ex01 text: a number as `{name}` expected, found `{}`",
                escape(&found)
            ))
        })
    }
}

/// What a first file says of the disk.
#[derive(Debug, Default)]
struct About {
    device: Option<Text>,
    case: Option<Text>,
}

/// A table, checked.
#[derive(Debug)]
struct Table {
    /// Index of the file.
    segment: usize,
    /// The disk's chunk that its first entry stands for.
    first: u64,
    count: u32,
    /// Where its entries lie.
    entries: u64,
}

/// Where a chunk lies in its file.
#[derive(Debug)]
struct Entry {
    /// Or what it is filled with.
    offset: u64,
    len: u32,
    flags: u32,
}

impl Entry {
    fn read(bytes: &[u8]) -> Result<Self> {
        let view = View::new(bytes, "Ex01 table entry");
        Ok(Self {
            offset: view.u64(facts::OFFSET)?,
            len: view.u32(facts::LEN)?,
            flags: view.u32(facts::CHUNK_FLAGS)?,
        })
    }

    fn is_filled(&self) -> bool {
        const BOTH: u32 = facts::FILLED | facts::COMPRESSED;
        self.flags & BOTH == BOTH
    }

    /// `Malformed` if it does not lie in the file.
    fn check(&self, segment: &Segment, index: usize) -> Result<()> {
        let known = facts::COMPRESSED | facts::CHECKSUMED | facts::FILLED;
        let end = self.offset.checked_add(self.len.into());
        let inside = self.offset >= wide(facts::HEADER_BYTES)
            && end.is_some_and(|end| end <= segment.host.len());
        if self.flags & !known != 0 || !(inside || self.is_filled()) {
            return Err(Error::malformed(format!(
                "Ex01 table: a chunk in the file ({:#x} bytes) and known flags expected, found {} \
                 bytes at {:#x} and flags {:#x} in entry {index}",
                segment.host.len(),
                self.len,
                self.offset,
                self.flags
            )));
        }
        Ok(())
    }
}

impl Table {
    fn read(segment: &Segment, index: usize, section: &Section, first: u64) -> Result<Self> {
        let bytes = section.bytes(segment)?;
        let view = View::new(&bytes, "Ex01 table");
        check(view.get(0, facts::TABLE_CHECKED)?, "Ex01 table")?;
        let says = view.u64(facts::FIRST)?;
        if says != first {
            return Err(Error::malformed(format!(
                "Ex01 table: chunk {first} as its first expected, found {says}"
            )));
        }
        let count = view.u32(facts::ENTRIES)?;
        let len = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(facts::ENTRY_BYTES))
            .filter(|_| count <= ENTRIES_LIMIT)
            .filter(|len| {
                let behind = len.saturating_add(facts::TABLE_BYTES);
                behind.saturating_add(CHECKSUM) <= bytes.len()
            });
        let Some(len) = len else {
            return Err(Error::malformed(format!(
                "Ex01 table: as many entries as the section has room for, at most {ENTRIES_LIMIT}, \
                 expected, found {count}"
            )));
        };
        let entries = view.get(facts::TABLE_BYTES, len)?;
        let says = view.u32(facts::TABLE_BYTES.saturating_add(len))?;
        compare(entries, says, "Ex01 table entries")?;
        for (index, entry) in entries.chunks_exact(facts::ENTRY_BYTES).enumerate() {
            Entry::read(entry)?.check(segment, index)?;
        }
        Ok(Self {
            segment: index,
            first,
            count,
            entries: section.data.start.saturating_add(wide(facts::TABLE_BYTES)),
        })
    }
}

/// The set of files, as far as it was read.
#[derive(Debug, Default)]
struct Set {
    segments: Vec<Segment>,
    id: Option<[u8; 16]>,
    about: About,
    compression: u16,
    tables: Vec<Table>,
    sections: u64,
    /// Chunks of all tables.
    chunks: u64,
    md5: Option<String>,
    sha1: Option<String>,
    notes: Vec<String>,
}

impl Set {
    /// Reads the sections of a file; whether another file follows.
    fn read_segment(&mut self, segment: &Segment, index: usize) -> Result<bool> {
        let header = segment.read(0, facts::HEADER_BYTES)?;
        let view = View::new(&header, "Ex01 header");
        let major = view.u8(facts::MAJOR)?;
        if view.get(0, magics::EX01.len())? != magics::EX01 {
            let error = Error::malformed("Ex01 header: EVF2 expected, not found");
            return Err(error.at("image offset", "0x0"));
        }
        if major != 2 {
            return Err(Error::unsupported(format!(
                "Ex01 header: version 2 expected, found {major}"
            )));
        }
        let compression = view.u16(facts::COMPRESSION)?;
        match compression {
            facts::NONE | facts::ZLIB => {}
            facts::BZIP2 => {
                return Err(Error::unsupported(
                    "Ex01 header: chunks compressed with zlib expected, found bzip2",
                )
                .advise("export a raw copy first (ewfexport, or the tool that made it)"));
            }
            other => {
                return Err(Error::malformed(format!(
                    "Ex01 header: compression 0, 1 or 2 expected, found {other}"
                ))
                .at("image offset", "0xa"));
            }
        }
        let (number, want) = (view.u32(facts::SEGMENT)?, index.saturating_add(1));
        if usize::try_from(number) != Ok(want) {
            return Err(EX01.wrong_number(want, number));
        }
        let id = view.array(facts::SET)?;
        if self.id.replace(id).is_some_and(|known| known != id) {
            return Err(Error::malformed(
                "Ex01: files of one set expected, found another set's identifier",
            )
            .advise("put the files of one set beside each other, under their own names"));
        }
        if index == 0 {
            self.compression = compression;
        }
        let sections = self.sections(segment)?;
        let last = sections.last().map_or(0, |section| section.kind);
        if !matches!(last, facts::NEXT | facts::DONE) {
            return Err(Error::malformed(format!(
                "Ex01: the section `next` or `done` at the end expected, found {last:#x}"
            ))
            .advise(CUT));
        }
        for section in &sections {
            self.take(segment, index, section)
                .map_err(|e| segment.place(e, section.data.start))?;
        }
        Ok(last == facts::NEXT)
    }

    /// The sections of a file, in their order.
    fn sections(&mut self, segment: &Segment) -> Result<Vec<Section>> {
        let mut all = Vec::new();
        let mut at = segment
            .host
            .len()
            .checked_sub(wide(facts::DESCRIPTOR_BYTES))
            .filter(|at| *at >= wide(facts::HEADER_BYTES))
            .ok_or_else(|| {
                Error::malformed("Ex01: a section expected, found the end").advise(CUT)
            })?;
        loop {
            self.sections = self.sections.saturating_add(1);
            if self.sections > SECTIONS_LIMIT {
                return Err(Error::limit(format!(
                    "Ex01: at most {SECTIONS_LIMIT} sections expected, found more"
                )));
            }
            let section = Section::read(segment, at).map_err(|e| segment.place(e, at))?;
            let previous = section.previous;
            all.push(section);
            if previous == 0 {
                all.reverse();
                return Ok(all);
            }
            at = previous;
        }
    }

    fn take(&mut self, segment: &Segment, index: usize, section: &Section) -> Result<()> {
        match section.kind {
            facts::DEVICE if self.about.device.is_none() => {
                self.about.device = Some(Text::read(section, segment, self.compression)?);
            }
            facts::CASE if self.about.case.is_none() => {
                self.about.case = Some(Text::read(section, segment, self.compression)?);
            }
            facts::TABLE => {
                let table = Table::read(segment, index, section, self.chunks)?;
                self.chunks = self.chunks.saturating_add(table.count.into());
                self.tables.push(table);
            }
            facts::MD5 => match Self::hash(segment, section, 16) {
                Ok(digest) => self.md5 = digest,
                Err(error) => self.ignored("MD5", &error),
            },
            facts::SHA1 => match Self::hash(segment, section, 20) {
                Ok(digest) => self.sha1 = digest,
                Err(error) => self.ignored("SHA-1", &error),
            },
            facts::ERRORS => note(
                &mut self.notes,
                "Ex01: sectors that could not be read at the acquisition are zeros here".to_owned(),
            ),
            facts::INCREMENT => note(
                &mut self.notes,
                "Ex01: a section of increments is ignored".to_owned(),
            ),
            kind if kind >= facts::SINGLE_FILES => {
                return Err(Error::unsupported(format!(
                    "Ex01: a disk expected, found a section of single files ({kind:#x})"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    fn ignored(&mut self, what: &str, error: &Error) {
        note(
            &mut self.notes,
            format!("{}: the stored {what} is ignored", error.what()),
        );
    }

    fn hash(segment: &Segment, section: &Section, len: usize) -> Result<Option<String>> {
        let bytes = section.bytes(segment)?;
        let all = View::new(&bytes, "Ex01 hash").get(0, len.saturating_add(CHECKSUM))?;
        check(all, "Ex01 hash")?;
        digest(all, 0, len)
    }

    fn finish(self) -> Result<Disk> {
        let gone = |what: &str| {
            Error::malformed(format!(
                "Ex01: a section about the {what} expected, not found"
            ))
            .advise(CUT)
        };
        let device = self.about.device.ok_or_else(|| gone("device"))?;
        let case = self.about.case.ok_or_else(|| gone("case"))?;
        let sector = device.number("bp")?;
        let sectors = device.number("ts")?;
        let per_chunk = case.number("sb")?;
        let chunk = chunk_len("Ex01 case", sector, per_chunk)?;
        let len = sectors.saturating_mul(sector);
        let blocks = case.number("tb")?;
        if len == 0 || len.div_ceil(chunk) != blocks || self.chunks != blocks {
            return Err(Error::malformed(format!(
                "Ex01: as many chunks as {sectors} sectors fill, {per_chunk} in each, expected, \
                 found {blocks} in the case and {} in the tables",
                self.chunks
            ))
            .advise(CUT));
        }
        let (device_pairs, case_pairs) = (device.pairs()?, case.pairs()?);
        let creator: Vec<String> = ["av", "os"]
            .into_iter()
            .filter_map(|name| shown_value(&case_pairs, name))
            .collect();
        let mut texts = said(
            &case_pairs,
            &[
                ("cn", "case number"),
                ("en", "evidence number"),
                ("nm", "description"),
                ("ex", "examiner"),
                ("nt", "notes"),
                ("at", "time"),
            ],
        );
        texts.extend(said(
            &device_pairs,
            &[("md", "model"), ("sn", "serial number")],
        ));
        let id = self.id.unwrap_or_default();
        let facts = Facts {
            kind: Some(format!("EnCase 7, {}", files(self.segments.len()))),
            creator: (!creator.is_empty()).then(|| creator.join(", ")),
            block_size: Some(chunk),
            blocks: Some(blocks),
            allocated: Some(blocks),
            id: (!all_zero(&id)).then(|| hex::encode(id)),
            md5: self.md5,
            sha1: self.sha1,
            ..Facts::default()
        };
        let chunks = Chunks {
            segments: self.segments,
            tables: self.tables,
            chunk,
        };
        let disk = Chunked::device(chunks, chunk, len);
        Ok(evidence("Ex01", disk, facts, &texts, self.notes))
    }
}

/// Where the disk lies.
#[derive(Debug)]
struct Chunks {
    segments: Vec<Segment>,
    /// Ascending on the disk, without gaps.
    tables: Vec<Table>,
    /// Bytes in a chunk.
    chunk: u64,
}

impl Read for Chunks {
    fn read_chunk(&self, number: u64, want: usize) -> Result<Vec<u8>> {
        let gone = || Error::internal("Ex01: a chunk without a table");
        let behind = self.tables.partition_point(|table| table.first <= number);
        let table = behind.checked_sub(1).and_then(|at| self.tables.get(at));
        let table = table.ok_or_else(gone)?;
        let segment = self.segments.get(table.segment).ok_or_else(gone)?;
        let index = number.saturating_sub(table.first);
        if index >= u64::from(table.count) {
            return Err(gone());
        }
        let place = table
            .entries
            .saturating_add(index.saturating_mul(wide(facts::ENTRY_BYTES)));
        let entry = Entry::read(&segment.read(place, facts::ENTRY_BYTES)?)?;
        entry.check(segment, usize::try_from(index).unwrap_or(usize::MAX))?;
        if entry.is_filled() {
            let pattern = entry.offset.to_le_bytes();
            return Ok(pattern.iter().copied().cycle().take(want).collect());
        }
        let bounds = Bounds {
            what: "Ex01 chunk",
            at: entry.offset,
            room: entry.len.into(),
            full: usize::try_from(self.chunk).map_err(|_| gone())?,
            want,
        };
        match entry.flags & (facts::COMPRESSED | facts::CHECKSUMED) {
            0 => bounds.plain(segment),
            facts::CHECKSUMED => bounds.stored(segment),
            _ => bounds.inflate(segment),
        }
        .map_err(|e| segment.place(e, entry.offset))
    }
}
