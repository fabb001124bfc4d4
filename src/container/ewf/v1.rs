//! EWF1: E01 and S01. A chain of sections in each file, tables with a second copy.

use std::ops::Range;

use miniz_oxide::inflate::TINFLStatus;

use super::{
    Bounds, E01, ENTRIES_LIMIT, SECTIONS_LIMIT, Segment, TEXT_LIMIT, check, chunk_len, compare,
    digest, evidence, files, format::v1 as facts, magics, main_values, said, shown_value,
    wide_text,
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

pub(super) fn open(source: &Source<'_>) -> Result<Disk> {
    let mut set = Set::default();
    E01.walk(source, |segment| {
        let index = set.segments.len();
        set.segments.push(segment.clone());
        set.read_segment(&segment, index)
    })?;
    set.finish()
}

/// A section: its name, and where its data lies.
#[derive(Debug)]
struct Section {
    name: String,
    data: Range<u64>,
    next: Option<u64>,
}

impl Section {
    fn read(segment: &Segment, at: u64) -> Result<Self> {
        let bytes = segment.read(at, facts::DESCRIPTOR_BYTES)?;
        check(&bytes, "E01 section")?;
        let view = View::new(&bytes, "E01 section");
        let name = view.get(0, facts::NAME)?;
        let end = name.iter().position(|byte| *byte == 0);
        let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let (next, len) = (view.u64(facts::NEXT)?, view.u64(facts::LEN)?);
        let start = at.saturating_add(wide(facts::DESCRIPTOR_BYTES));
        if matches!(name.as_str(), "next" | "done") {
            let data = start..start;
            return Ok(Self {
                name,
                data,
                next: None,
            });
        }
        // Forwards only: a chain that goes back would never end.
        if next < start || next > segment.host.len() {
            return Err(Error::malformed(format!(
                "E01 section `{}`: the next one expected behind it, in the file's {} bytes, found \
                 {next:#x}",
                escape(&name),
                segment.host.len()
            ))
            .advise(
                "if the file was cut, restore it; if the acquisition was broken off, ewfrecover or \
                 the tool that made it may finish it",
            ));
        }
        let end = match len {
            0 => next,
            len => at.saturating_add(len),
        };
        if end < start || end > next {
            return Err(Error::malformed(format!(
                "E01 section `{}`: an end before the next section at {next:#x} expected, found \
                 {end:#x}",
                escape(&name)
            )));
        }
        Ok(Self {
            name,
            data: start..end,
            next: Some(next),
        })
    }

    /// The front of its data.
    fn front(&self, segment: &Segment, len: usize) -> Result<Vec<u8>> {
        let there = self.data.end.saturating_sub(self.data.start);
        if there < wide(len) {
            return Err(Error::malformed(format!(
                "E01 section `{}`: {len} bytes expected, found {there}",
                escape(&self.name)
            )));
        }
        segment.read(self.data.start, len)
    }
}

/// What the volume section says.
#[derive(Clone, Copy, Debug)]
struct Volume {
    chunks: u64,
    /// Bytes in a chunk.
    chunk: u64,
    /// Bytes of the disk.
    len: u64,
    set: [u8; 16],
    smart: bool,
}

impl Volume {
    fn read(segment: &Segment, section: &Section) -> Result<Self> {
        let there = section.data.end.saturating_sub(section.data.start);
        let smart = there < wide(facts::VOLUME_BYTES);
        let len = match smart {
            true => facts::SMART_VOLUME_BYTES,
            false => facts::VOLUME_BYTES,
        };
        let bytes = section.front(segment, len)?;
        check(&bytes, "E01 volume")?;
        let view = View::new(&bytes, "E01 volume");
        let chunks = u64::from(view.u32(facts::CHUNKS)?);
        let per_chunk = u64::from(view.u32(facts::CHUNK_SECTORS)?);
        let sector = u64::from(view.u32(facts::SECTOR_BYTES)?);
        let (sectors, set) = match smart {
            true => (u64::from(view.u32(facts::SECTORS)?), [0; 16]),
            false => (view.u64(facts::SECTORS)?, view.array(facts::SET)?),
        };
        let chunk = chunk_len("E01 volume", sector, per_chunk)?;
        let len = sectors.saturating_mul(sector);
        if len == 0 || len.div_ceil(chunk) != chunks {
            return Err(Error::malformed(format!(
                "E01 volume: as many chunks as {sectors} sectors fill expected, found {chunks} of \
                 {per_chunk} sectors"
            ))
            .advise("an acquisition that was broken off: ewfrecover may finish it"));
        }
        Ok(Self {
            chunks,
            chunk,
            len,
            set,
            smart,
        })
    }
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
    base: u64,
    /// From this entry on all 32 bits are the offset, and chunks are stored.
    beyond: u32,
    /// Where its last chunk ends at the latest.
    end: u64,
}

/// Where a chunk lies in its file.
#[derive(Debug, PartialEq, Eq)]
struct Chunk {
    at: u64,
    end: u64,
    compressed: bool,
}

impl Table {
    /// Reads and checks a table; `sectors` is where its chunks lie, if not in the table's section.
    fn read(
        segment: &Segment,
        index: usize,
        section: &Section,
        sectors: Option<&Range<u64>>,
        first: u64,
    ) -> Result<Self> {
        let header = section.front(segment, facts::TABLE_BYTES)?;
        check(&header, "E01 table")?;
        let view = View::new(&header, "E01 table");
        let count = view.u32(facts::ENTRIES)?;
        let base = view.u64(facts::BASE)?;
        let entries = section.data.start.saturating_add(wide(facts::TABLE_BYTES));
        let len = u64::from(count).saturating_mul(4);
        let end = entries.saturating_add(len);
        if count > ENTRIES_LIMIT || end > section.data.end {
            return Err(Error::malformed(format!(
                "E01 table: as many entries as the section has room for, at most {ENTRIES_LIMIT}, \
                 expected, found {count}"
            )));
        }
        let len = usize::try_from(len).map_err(|_| Error::internal("E01: length of a table"))?;
        let bytes = segment.read(entries, len)?;
        let chunks = sectors.unwrap_or(&section.data);
        let mut table = Self {
            segment: index,
            first,
            count,
            entries,
            base,
            beyond: count,
            end: chunks.end,
        };
        let lowest = table.check_order(&bytes, chunks)?;
        // SMART has the chunks right behind the entries.
        let has_checksum = sectors.is_some() || lowest >= end.saturating_add(4);
        if has_checksum && end.saturating_add(4) > section.data.end {
            return Err(Error::malformed(
                "E01 table: a checksum behind the entries expected, the section ends there",
            ));
        }
        if has_checksum {
            let mut says = [0; 4];
            segment.host.read_at(end, &mut says)?;
            compare(&bytes, u32::from_le_bytes(says), "E01 table entries")?;
        }
        Ok(table)
    }

    /// Finds from where on offsets have 32 bits, and checks that they ascend and lie in `chunks`:
    /// the lowest.
    fn check_order(&mut self, bytes: &[u8], chunks: &Range<u64>) -> Result<u64> {
        let mut lowest = None;
        let mut before = None;
        for (index, entry) in (0_u32..).zip(bytes.as_chunks::<4>().0) {
            let raw = u32::from_le_bytes(*entry);
            let fits = |offset: u32| {
                let at = self.base.saturating_add(u64::from(offset));
                (chunks.contains(&at) && before.is_none_or(|before| before < at)).then_some(at)
            };
            let at = match index < self.beyond {
                true => fits(raw & !facts::COMPRESSED),
                false => None,
            };
            // EnCase 6 put chunks beyond 2 GiB, where the bit for compression is part of the offset.
            let at = match at {
                Some(at) => at,
                None => {
                    self.beyond = self.beyond.min(index);
                    fits(raw).ok_or_else(|| {
                        Error::malformed(format!(
                            "E01 table: offsets of chunks expected that ascend from {:#x} to {:#x}, \
                             found {raw:#x} in entry {index} over {:#x}",
                            chunks.start, chunks.end, self.base
                        ))
                    })?
                }
            };
            lowest.get_or_insert(at);
            before = Some(at);
        }
        Ok(lowest.unwrap_or(u64::MAX))
    }

    /// Where the chunk of an entry lies: the entries are read again.
    fn chunk(&self, segment: &Segment, index: u32) -> Result<Chunk> {
        let place = self
            .entries
            .saturating_add(u64::from(index).saturating_mul(4));
        let last = index.saturating_add(1) >= self.count;
        let bytes = segment.read(place, if last { 4 } else { 8 })?;
        let view = View::new(&bytes, "E01 table");
        let offset = |raw: u32, index: u32| {
            let low = match index < self.beyond {
                true => raw & !facts::COMPRESSED,
                false => raw,
            };
            self.base.saturating_add(u64::from(low))
        };
        let raw = view.u32(0)?;
        let end = match last {
            true => self.end,
            false => offset(view.u32(4)?, index.saturating_add(1)),
        };
        Ok(Chunk {
            at: offset(raw, index),
            end,
            compressed: index < self.beyond && raw & facts::COMPRESSED != 0,
        })
    }

    fn has_same_entries(&self, other: &Self, segment: &Segment) -> Result<bool> {
        let len = usize::try_from(self.count)
            .ok()
            .and_then(|count| count.checked_mul(4))
            .ok_or_else(|| Error::internal("E01: length of a table"))?;
        Ok((self.count, self.base) == (other.count, other.base)
            && segment.read(self.entries, len)? == segment.read(other.entries, len)?)
    }
}

/// The set of files, as far as it was read.
#[derive(Debug, Default)]
struct Set {
    segments: Vec<Segment>,
    volume: Option<Volume>,
    tables: Vec<Table>,
    sections: u64,
    /// Chunks of all tables.
    chunks: u64,
    md5: Option<String>,
    sha1: Option<String>,
    /// From `header2`, else `header`.
    acquired: Acquired,
    notes: Vec<String>,
}

/// What earlier sections of a file mean for the next one.
#[derive(Debug, Default)]
struct Before {
    /// Where the chunks of the next table lie.
    sectors: Option<Range<u64>>,
    /// What is wrong with the table just before, and where it lies.
    broken: Option<(Error, u64)>,
    /// Whether a good table is just before.
    has_table: bool,
}

/// Text about the acquisition.
#[derive(Debug, Default)]
struct Acquired {
    is_wide: bool,
    creator: Option<String>,
    said: Vec<String>,
}

impl Set {
    /// Reads the sections of the file that was pushed last; whether another file follows.
    fn read_segment(&mut self, segment: &Segment, index: usize) -> Result<bool> {
        let header = segment.read(0, facts::HEADER_BYTES)?;
        let view = View::new(&header, "E01 header");
        if view.get(0, magics::E01.len())? != magics::E01
            || view.u8(facts::FIELDS)? != 1
            || view.u16(facts::FIELDS_END)? != 0
        {
            return Err(
                Error::malformed("E01 header: EVF and its fields expected, not found")
                    .at("image offset", "0x0"),
            );
        }
        let (number, want) = (view.u16(facts::SEGMENT)?, index.saturating_add(1));
        if usize::from(number) != want {
            return Err(E01.wrong_number(want, number.into()));
        }
        let mut at = wide(facts::HEADER_BYTES);
        let mut before = Before::default();
        loop {
            self.sections = self.sections.saturating_add(1);
            if self.sections > SECTIONS_LIMIT {
                return Err(Error::limit(format!(
                    "E01: at most {SECTIONS_LIMIT} sections expected, found more"
                )));
            }
            let section = Section::read(segment, at).map_err(|e| segment.place(e, at))?;
            // What is damaged in a table must be good in its copy, which is the next section.
            if section.name != "table2" {
                if let Some((error, at)) = before.broken.take() {
                    return Err(segment.place(error, at));
                }
                before.has_table = false;
            }
            self.take(segment, index, &section, &mut before)
                .map_err(|e| segment.place(e, at))?;
            match section.next {
                Some(next) => at = next,
                None => return Ok(section.name == "next"),
            }
        }
    }

    fn take(
        &mut self,
        segment: &Segment,
        index: usize,
        section: &Section,
        before: &mut Before,
    ) -> Result<()> {
        match section.name.as_str() {
            "volume" | "disk" => {
                let volume = Volume::read(segment, section)?;
                if self.volume.replace(volume).is_some() {
                    return Err(Error::malformed(
                        "E01: one volume section expected, found another",
                    ));
                }
            }
            // The volume's copy; the first file has it, too.
            "data" => self.check_set(segment, section)?,
            "sectors" => before.sectors = Some(section.data.clone()),
            "table" => {
                let sectors = before.sectors.as_ref();
                match Table::read(segment, index, section, sectors, self.chunks) {
                    Ok(table) => {
                        self.push(table);
                        before.has_table = true;
                    }
                    Err(error) => before.broken = Some((error, section.data.start)),
                }
            }
            "table2" => self.take_copy(segment, index, section, before)?,
            "hash" => match section.front(segment, facts::HASH_BYTES) {
                Ok(bytes) if check(&bytes, "E01 hash").is_ok() => {
                    self.md5 = digest(&bytes, 0, facts::MD5)?.or(self.md5.take());
                }
                _ => self
                    .note("E01 hash: a section with its checksum expected, it is ignored".into()),
            },
            "digest" => match section.front(segment, facts::DIGEST_BYTES) {
                Ok(bytes) if check(&bytes, "E01 digest").is_ok() => {
                    self.md5 = digest(&bytes, 0, facts::MD5)?.or(self.md5.take());
                    self.sha1 = digest(&bytes, facts::MD5, facts::SHA1)?;
                }
                _ => {
                    self.note(
                        "E01 digest: a section with its checksum expected, it is ignored".into(),
                    );
                }
            },
            "header" | "header2" => {
                let is_wide = section.name == "header2";
                let known = self.acquired.is_wide || !self.acquired.said.is_empty();
                if !known || (is_wide && !self.acquired.is_wide) {
                    match Acquired::read(segment, section, is_wide) {
                        Some(acquired) => self.acquired = acquired,
                        None => self.note(format!(
                            "E01 {}: a text about the acquisition expected, it is ignored",
                            section.name
                        )),
                    }
                }
            }
            "incomplete" => self.note(
                "E01: the file has a section `incomplete`: its acquisition was broken off".into(),
            ),
            "error2" => self.note(
                "E01: sectors that could not be read at the acquisition are zeros here".into(),
            ),
            "ltree" | "ltypes" => {
                return Err(Error::unsupported(
                    "E01: a disk expected, found single files (L01)",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// The second copy of a table.
    fn take_copy(
        &mut self,
        segment: &Segment,
        index: usize,
        section: &Section,
        before: &mut Before,
    ) -> Result<()> {
        let known = self.tables.last().filter(|_| before.has_table);
        before.has_table = false;
        let first = known.map_or(self.chunks, |table| table.first);
        let sectors = before.sectors.as_ref();
        let read = Table::read(segment, index, section, sectors, first);
        match (before.broken.take(), known, read) {
            (Some((error, _)), _, Ok(table)) => {
                self.note(format!(
                    "{}: its second copy is used, which is good",
                    error.what()
                ));
                self.push(table);
            }
            (Some((error, _)), _, Err(_)) | (None, None, Err(error)) => return Err(error),
            (None, None, Ok(table)) => self.push(table),
            (None, Some(known), Ok(table)) => {
                if !known.has_same_entries(&table, segment)? {
                    return Err(Error::malformed(
                        "E01 table: two copies that say the same expected, found others",
                    ));
                }
            }
            (None, Some(_), Err(error)) => self.note(format!(
                "{}: in the second copy of a table, the first one is good",
                error.what()
            )),
        }
        Ok(())
    }

    fn note(&mut self, note: String) {
        super::note(&mut self.notes, note);
    }

    fn push(&mut self, table: Table) {
        self.chunks = self.chunks.saturating_add(table.count.into());
        self.tables.push(table);
    }

    fn check_set(&mut self, segment: &Segment, section: &Section) -> Result<()> {
        let there = section.data.end.saturating_sub(section.data.start);
        let Some(volume) = self.volume.filter(|_| there >= wide(facts::VOLUME_BYTES)) else {
            return Ok(());
        };
        let bytes = section.front(segment, facts::VOLUME_BYTES)?;
        if let Err(error) = check(&bytes, "E01 data") {
            self.note(format!("{}: the volume section is good", error.what()));
            return Ok(());
        }
        let set: [u8; 16] = View::new(&bytes, "E01 data").array(facts::SET)?;
        if set != volume.set && !all_zero(&set) {
            return Err(Error::malformed(
                "E01: files of one set expected, found another set's identifier",
            )
            .advise("put the files of one set beside each other, under their own names"));
        }
        Ok(())
    }

    fn finish(self) -> Result<Disk> {
        let volume = self.volume.ok_or_else(|| {
            Error::malformed("E01: a volume section expected, not found")
                .advise("an acquisition that was broken off: ewfrecover may finish it")
        })?;
        if self.chunks != volume.chunks {
            return Err(Error::malformed(format!(
                "E01 tables: {} chunks expected, as the volume says, found {}",
                volume.chunks, self.chunks
            )));
        }
        let facts = Facts {
            kind: Some(format!(
                "{}, {}",
                match volume.smart {
                    true => "SMART",
                    false => "EnCase",
                },
                files(self.segments.len())
            )),
            creator: self.acquired.creator,
            block_size: Some(volume.chunk),
            blocks: Some(volume.chunks),
            allocated: Some(volume.chunks),
            id: (!all_zero(&volume.set)).then(|| hex::encode(volume.set)),
            md5: self.md5,
            sha1: self.sha1,
            ..Facts::default()
        };
        let chunks = Chunks {
            segments: self.segments,
            tables: self.tables,
            chunk: volume.chunk,
        };
        let device = Chunked::device(chunks, volume.chunk, volume.len);
        Ok(evidence(
            "E01",
            device,
            facts,
            &self.acquired.said,
            self.notes,
        ))
    }
}

impl Acquired {
    /// The values of the category `main`: one line with their names, one with themselves.
    fn read(segment: &Segment, section: &Section, is_wide: bool) -> Option<Self> {
        let len = section.data.end.checked_sub(section.data.start)?;
        let from = segment
            .read(
                section.data.start,
                usize::try_from(len.min(TEXT_LIMIT)).ok()?,
            )
            .ok()?;
        let mut to = vec![0; usize::try_from(TEXT_LIMIT).ok()?];
        let (TINFLStatus::Done, len) = inflate(&from, &mut to, Wrap::Zlib) else {
            return None;
        };
        to.truncate(len);
        let text = match is_wide {
            true => wide_text(&to),
            false => String::from_utf8_lossy(&to).into_owned(),
        };
        let pairs = main_values(&text)?;
        let said = said(
            &pairs,
            &[
                ("c", "case number"),
                ("n", "evidence number"),
                ("a", "description"),
                ("e", "examiner"),
                ("t", "notes"),
                ("md", "model"),
                ("sn", "serial number"),
                ("m", "time"),
            ],
        );
        let creator: Vec<String> = ["av", "ov"]
            .into_iter()
            .filter_map(|name| shown_value(&pairs, name))
            .collect();
        Some(Self {
            is_wide,
            creator: (!creator.is_empty()).then(|| creator.join(", ")),
            said,
        })
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
        let gone = || Error::internal("E01: a chunk without a table");
        let behind = self.tables.partition_point(|table| table.first <= number);
        let table = behind.checked_sub(1).and_then(|at| self.tables.get(at));
        let table = table.ok_or_else(gone)?;
        let segment = self.segments.get(table.segment).ok_or_else(gone)?;
        let index = number.saturating_sub(table.first);
        let index = u32::try_from(index).map_err(|_| gone())?;
        if index >= table.count {
            return Err(gone());
        }
        let chunk = table.chunk(segment, index)?;
        let bounds = Bounds {
            what: "E01 chunk",
            at: chunk.at,
            room: chunk.end.saturating_sub(chunk.at),
            full: usize::try_from(self.chunk).map_err(|_| gone())?,
            want,
        };
        match chunk.compressed {
            true => bounds.inflate(segment),
            false => bounds.stored(segment),
        }
        .map_err(|e| segment.place(e, chunk.at))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::{Device, Memory};

    /// Chunks beyond 2 GiB: by their order, and by where the section lies.
    #[test]
    fn offsets_beyond_2_gib_have_32_bits() {
        let table = |entries: &[u32], chunks: Range<u64>| {
            let mut table = Table {
                segment: 0,
                first: 0,
                count: u32::try_from(entries.len()).unwrap(),
                entries: 0,
                base: 0,
                beyond: u32::try_from(entries.len()).unwrap(),
                end: chunks.end,
            };
            let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
            let lowest = table.check_order(&bytes, &chunks);
            let host: Device = Arc::new(Memory::new(bytes));
            let segment = Segment { host, name: None };
            lowest.map(|lowest| {
                let all: Vec<Chunk> = (0..table.count)
                    .map(|index| table.chunk(&segment, index).unwrap())
                    .collect();
                (lowest, table.beyond, all)
            })
        };
        let chunk = |at: u64, end: u64, compressed| Chunk {
            at,
            end,
            compressed,
        };
        let (lowest, beyond, all) = table(
            &[0xFFFF_0000, 0x7FFF_8000, 0x8000_0004, 0x8000_8008],
            0x1000..0x8001_000C,
        )
        .unwrap();
        assert_eq!((lowest, beyond), (0x7FFF_0000, 2));
        let want = [
            chunk(0x7FFF_0000, 0x7FFF_8000, true),
            chunk(0x7FFF_8000, 0x8000_0004, false),
            chunk(0x8000_0004, 0x8000_8008, false),
            chunk(0x8000_8008, 0x8001_000C, false),
        ];
        assert_eq!(all, want);
        // A table all of whose chunks lie there: below, the section has none.
        let (_, beyond, all) = table(&[0x9000_0000], 0x9000_0000..0x9000_8004).unwrap();
        assert_eq!(beyond, 0);
        assert_eq!(all, [chunk(0x9000_0000, 0x9000_8004, false)]);
        // Back, twice the same, outside.
        for wrong in [&[0x2000, 0x1000][..], &[0x2000, 0x2000], &[0x10], &[0x8000]] {
            assert!(table(wrong, 0x1000..0x8000).is_err(), "{wrong:x?}");
        }
    }
}
