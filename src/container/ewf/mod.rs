//! EWF: EnCase evidence files (E01 of EWF1, Ex01 of EWF2) and those of SMART (S01), with all files of
//! a set.
//!
//! Sections in each file; the disk is in chunks, compressed one by one, behind tables of their
//! offsets. Nearly everything has a checksum.
//!
//! # Why
//! - **Own code.** The crate `ewf` (0.4.10) opens the set by a pattern over the directory; here a file
//!   is opened through [`Source`] only, under the name that follows from the image's own. It also
//!   believes the first table without its checksum.
//! - **Nothing of the tables is kept.** At the opening each is read once and checked; later the
//!   entries of a chunk are read again. A disk of 2 TiB has 64 million chunks.
//! - **Never written.** It is evidence: checksums and digests over everything say that nobody did.

use std::sync::Arc;

use adler2::adler32_slice;
use miniz_oxide::inflate::TINFLStatus;

use super::{
    Disk, Edges, Facts, Format, Open, Places, ScanOnly, Source, format as magics,
    mapped::wide,
    packed::{Wrap, inflate},
};
use crate::{
    bytes::{View, all_zero},
    device::Device,
    error::{At, Error, Result},
    text::escape,
};

mod format;
mod v1;
mod v2;

pub(super) const FORMAT: Format = Format {
    name: "e01",
    title: "an EnCase or SMART evidence file (E01)",
    probe: |edges: &Edges| edges.has(0, magics::E01).then(|| "EVF at 0x0".to_owned()),
    open: Open::Disk(v1::open),
};

pub(super) const FORMAT_2: Format = Format {
    name: "ex01",
    title: "an EnCase evidence file (Ex01)",
    probe: |edges: &Edges| edges.has(0, magics::EX01).then(|| "EVF2 at 0x0".to_owned()),
    open: Open::Disk(v2::open),
};

/// Most sections of a set: 64 TiB in tables of 16,375 chunks of 32 KiB need 400,000.
const SECTIONS_LIMIT: u64 = 1 << 20;
/// Most entries of a table: EnCase 1 to 5 write 16,375, libewf more.
const ENTRIES_LIMIT: u32 = 1 << 22;
/// Largest chunk: 32,768 sectors of 512 bytes are 16 MiB.
const CHUNK_LIMIT: u64 = 64 << 20;
/// Longest text about the acquisition, decompressed and not.
const TEXT_LIMIT: u64 = 256 << 10;
/// Characters of a value in it that are shown.
const SHOWN: usize = 200;

const ADVICE: &str = "declone never writes evidence: clean -o OUT --to raw writes the cleaned disk \
                      as a raw file";

/// How the files of a set are called.
#[derive(Clone, Copy, Debug)]
struct Naming {
    /// The format.
    what: &'static str,
    /// What stands between the dot and the letter that counts.
    ahead: &'static str,
}

const E01: Naming = Naming {
    what: "E01",
    ahead: "",
};
const EX01: Naming = Naming {
    what: "Ex01",
    ahead: "E",
};

impl Naming {
    /// The name of a segment file, after that of the first: `.E01`, `.E02` to `.E99`, `.EAA` to
    /// `.EZZ`, `.FAA` to `.ZZZ`; `.Ex01` to `.Ex99`, `.ExAA` to `.EzZZ`.
    fn segment(self, first: Option<&str>, number: usize) -> Result<String> {
        let what = self.what;
        let wrong = |found: &str| {
            Error::refused(format!(
                "{what}: a name that ends in .{what} expected, from which that of segment {number} \
                 follows, found {found}"
            ))
            .advise(format!(
                "give all files of the set their names back: NAME.{what}, NAME.{}02, ...",
                what.trim_end_matches("01")
            ))
        };
        let first = first.ok_or_else(|| wrong("none"))?;
        let shown = || format!("`{}`", escape(first));
        let stem = first
            .len()
            .checked_sub(3)
            .and_then(|at| first.split_at_checked(at))
            .filter(|(stem, end)| self.is_stem(stem) && end.ends_with("01"));
        let letter = stem.and_then(|(_, end)| end.bytes().next());
        let (Some((stem, _)), Some(letter)) = (stem, letter.filter(u8::is_ascii_alphabetic)) else {
            return Err(wrong(&shown()));
        };
        if number < 100 {
            return Ok(format!("{stem}{}{number:02}", char::from(letter)));
        }
        let last = match letter.is_ascii_lowercase() {
            true => b'z',
            false => b'Z',
        };
        // The two behind it are as the first letter of the ending.
        let is_small = match self.ahead {
            "" => letter.is_ascii_lowercase(),
            _ => stem.ends_with(|c: char| c.is_ascii_lowercase()),
        };
        let start = if is_small { b'a' } else { b'A' };
        let rest = number.saturating_sub(100);
        let digit = |places: usize| {
            let value = rest.checked_div(places).and_then(|n| n.checked_rem(26));
            start.saturating_add(value.and_then(|n| u8::try_from(n).ok()).unwrap_or(0))
        };
        let ahead = u8::try_from(rest / (26 * 26)).unwrap_or(u8::MAX);
        let letter = letter.saturating_add(ahead);
        if letter > last {
            return Err(Error::limit(format!(
                "{what}: segments up to the ending in zZZ expected, found number {number}"
            )));
        }
        let name: String = [letter, digit(26), digit(1)]
            .map(char::from)
            .iter()
            .collect();
        Ok(format!("{stem}{name}"))
    }

    /// Whether a name without its last three letters is one of this format.
    fn is_stem(self, stem: &str) -> bool {
        let at = stem.len().checked_sub(self.ahead.len());
        at.and_then(|at| stem.split_at_checked(at))
            .is_some_and(|(stem, ahead)| {
                stem.ends_with('.') && ahead.eq_ignore_ascii_case(self.ahead)
            })
    }

    /// Calls `read` with each file of the set, as long as it says that another one follows.
    fn walk(
        self,
        source: &Source<'_>,
        mut read: impl FnMut(Segment) -> Result<bool>,
    ) -> Result<()> {
        for number in 1_usize.. {
            let (host, name) = match number {
                1 => (Arc::clone(source.host), None),
                _ => {
                    let name = self.segment(source.own_name(), number)?;
                    let host = source.open_bytes(&name).at("segment", number)?;
                    (host, Some(name))
                }
            };
            let more = read(Segment {
                host,
                name: name.clone(),
            });
            let more = match name {
                None => more?,
                Some(name) => more.at("file", escape(&name))?,
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// The error for a file that is another one of the set.
    fn wrong_number(self, want: usize, found: u32) -> Error {
        let what = self.what;
        Error::refused(format!(
            "{what} header: segment {want} of the set expected, found segment {found}"
        ))
        .advise(match want {
            1 => format!("give the first file of the set (NAME.{what})"),
            _ => "put the files of one set beside each other, under their own names".to_owned(),
        })
    }
}

/// Bytes whose last four are the Adler-32 of the others.
fn check(bytes: &[u8], what: &'static str) -> Result<()> {
    let at = bytes.len().saturating_sub(format::CHECKSUM);
    let (data, _) = bytes.split_at_checked(at).unwrap_or_default();
    compare(data, View::new(bytes, what).u32(at)?, what)
}

fn compare(data: &[u8], says: u32, what: &'static str) -> Result<()> {
    let is = adler32_slice(data);
    match is == says {
        true => Ok(()),
        false => Err(Error::malformed(format!(
            "{what}: checksum {says:#010x} expected, as it says, found {is:#010x}"
        ))),
    }
}

/// A file of the set.
#[derive(Clone, Debug)]
struct Segment {
    host: Device,
    /// None of the first one.
    name: Option<String>,
}

impl Segment {
    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.host.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    /// An error at a place of this file.
    fn place(&self, error: Error, at: u64) -> Error {
        let error = error.at("image offset", format_args!("{at:#x}"));
        match &self.name {
            Some(name) => error.at("file", escape(name)),
            None => error,
        }
    }
}

/// The size of sectors and chunks: `Malformed` if it cannot be. Bytes in a chunk.
fn chunk_len(what: &str, sector: u64, per_chunk: u64) -> Result<u64> {
    if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
        return Err(Error::malformed(format!(
            "{what}: sectors of 512 to 4096 bytes expected, found {sector}"
        )));
    }
    let chunk = per_chunk.saturating_mul(sector);
    if chunk == 0 || chunk > CHUNK_LIMIT {
        return Err(Error::malformed(format!(
            "{what}: chunks of at most {CHUNK_LIMIT} bytes expected, found {chunk}"
        )));
    }
    Ok(chunk)
}

/// How a chunk of `full` bytes lies in its file, of which the disk needs `want`.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    what: &'static str,
    at: u64,
    /// Bytes that it may have there.
    room: u64,
    full: usize,
    want: usize,
}

impl Bounds {
    /// The bytes of a compressed chunk.
    fn inflate(self, segment: &Segment) -> Result<Vec<u8>> {
        // What cannot be compressed grows a little; more is never needed.
        let limit = wide(self.full).saturating_mul(2).saturating_add(1024);
        let room = usize::try_from(self.room.min(limit))
            .map_err(|_| Error::internal("EWF: the length of a chunk"))?;
        let from = segment.read(self.at, room)?;
        let mut to = vec![0; self.full];
        let (status, len) = inflate(&from, &mut to, Wrap::Zlib);
        if status != TINFLStatus::Done || (len != self.full && len != self.want) {
            return Err(Error::malformed(format!(
                "{}: {} compressed bytes expected, found {len} ({status:?})",
                self.what, self.want
            )));
        }
        to.truncate(self.want);
        Ok(to)
    }

    /// The bytes of a stored chunk without a checksum.
    fn plain(self, segment: &Segment) -> Result<Vec<u8>> {
        if self.room < wide(self.want) {
            return Err(Error::malformed(format!(
                "{}: {} bytes expected, found {}",
                self.what, self.want, self.room
            )));
        }
        segment.read(self.at, self.want)
    }

    /// The bytes of a stored chunk, with its checksum behind it.
    fn stored(self, segment: &Segment) -> Result<Vec<u8>> {
        let len = match self.room >= wide(self.full.saturating_add(format::CHECKSUM)) {
            true => self.full,
            false => self.want,
        };
        let there = len.saturating_add(format::CHECKSUM);
        if self.room < wide(there) {
            return Err(Error::malformed(format!(
                "{}: {there} bytes expected, found {}",
                self.what, self.room
            )));
        }
        let mut bytes = segment.read(self.at, there)?;
        if self.want < len && check(&bytes, self.what).is_err() {
            // The last one, short, and something else behind it.
            let short = self.want.saturating_add(format::CHECKSUM);
            let short = bytes.get(..short).unwrap_or_default();
            check(short, self.what)?;
        } else {
            check(&bytes, self.what)?;
        }
        bytes.truncate(self.want);
        Ok(bytes)
    }
}

/// A digest in hex; zeros are none.
fn digest(bytes: &[u8], at: usize, len: usize) -> Result<Option<String>> {
    let bytes = View::new(bytes, "EWF hash").get(at, len)?;
    Ok((!all_zero(bytes)).then(|| hex::encode(bytes)))
}

/// Text in UTF-16, little-endian, with or without a mark of the byte order.
fn wide_text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .collect();
    let units = units.strip_prefix(&[0xFEFF]).unwrap_or(&units);
    String::from_utf16_lossy(units)
}

/// The values of the category `main` in a text: one line with their names, one with themselves.
fn main_values(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut lines = text.lines().skip_while(|line| *line != "main").skip(1);
    let (names, values) = (lines.next()?, lines.next()?);
    Some(names.split('\t').zip(values.split('\t')).collect())
}

/// A value of such a text, cut to a length that can be shown.
fn shown_value(pairs: &[(&str, &str)], name: &str) -> Option<String> {
    let (_, value) = pairs.iter().find(|(known, _)| *known == name)?;
    let shown: String = value.trim().chars().take(SHOWN).collect();
    (!shown.is_empty()).then_some(shown)
}

/// The values that are there, with their titles.
fn said(pairs: &[(&str, &str)], titles: &[(&str, &str)]) -> Vec<String> {
    titles
        .iter()
        .filter_map(|(name, title)| Some(format!("{title} {}", escape(&shown_value(pairs, name)?))))
        .collect()
}

/// Notes are few, whatever the file says.
fn note(notes: &mut Vec<String>, note: String) {
    if notes.len() < 16 && !notes.contains(&note) {
        notes.push(note);
    }
}

/// `1 segment file`, `2 segment files`.
fn files(count: usize) -> String {
    format!(
        "{count} segment file{}",
        match count {
            1 => "",
            _ => "s",
        }
    )
}

/// The disk of a set, with what is said about it.
fn evidence(what: &str, device: Device, facts: Facts, said: &[String], notes: Vec<String>) -> Disk {
    let mut notes = notes;
    if !said.is_empty() {
        notes.push(format!("acquisition: {}", said.join(", ")));
    }
    for (kind, digest) in [("MD5", &facts.md5), ("SHA-1", &facts.sha1)] {
        if let Some(digest) = digest {
            notes.push(format!("the file says that the disk's {kind} is {digest}"));
        }
    }
    let mut disk = Disk::plain(device);
    disk.places = Places::none();
    disk.opaque = true;
    disk.notes = notes;
    disk.facts = facts;
    disk.scan_only = Some(ScanOnly {
        reason: format!("{what}: a disk image that may be changed expected, found evidence"),
        advice: ADVICE,
    });
    disk
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_encase_names_them() {
        let name = |first: &str, number| E01.segment(Some(first), number).unwrap();
        assert_eq!(name("a.b.E01", 2), "a.b.E02");
        assert_eq!(name("a.e01", 99), "a.e99");
        assert_eq!(name("a.E01", 100), "a.EAA");
        assert_eq!(name("a.E01", 101), "a.EAB");
        assert_eq!(name("a.E01", 126), "a.EBA");
        assert_eq!(name("a.E01", 775), "a.EZZ");
        assert_eq!(name("a.E01", 776), "a.FAA");
        assert_eq!(name("a.s01", 776), "a.taa");
        assert_eq!(name("a.E01", 14_971), "a.ZZZ");
        assert!(E01.segment(Some("a.E01"), 14_972).is_err());
        assert!(E01.segment(Some("a.s01"), 65_535).is_err());
        for wrong in [
            "",
            "01",
            "E01",
            "a.E02",
            "a.001",
            "a.img",
            "\u{e9}01",
            ".\u{e9}01",
            "a.Ex01",
        ] {
            assert!(E01.segment(Some(wrong), 2).is_err(), "{wrong}");
        }
        assert!(E01.segment(None, 2).is_err());

        let name = |first: &str, number| EX01.segment(Some(first), number).unwrap();
        assert_eq!(name("a.Ex01", 2), "a.Ex02");
        assert_eq!(name("a.ex01", 99), "a.ex99");
        assert_eq!(name("a.Ex01", 100), "a.ExAA");
        assert_eq!(name("a.ex01", 100), "a.exaa");
        assert_eq!(name("a.Ex01", 775), "a.ExZZ");
        assert_eq!(name("a.Ex01", 776), "a.EyAA");
        assert_eq!(name("a.Ex01", 2127), "a.EzZZ");
        assert!(EX01.segment(Some("a.Ex01"), 2128).is_err());
        for wrong in ["", "x01", "Ex01", "a.E01", "a.Lx01", "a.Ex02", "\u{e9}x01"] {
            assert!(EX01.segment(Some(wrong), 2).is_err(), "{wrong}");
        }
    }
}
