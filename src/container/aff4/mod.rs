//! AFF4: a zip archive with the disk in chunks (an image stream), a map of where each part of the disk
//! is, and a text that says so.
//!
//! Source: "AFF4 Standard v1.0a" (Schatz, Cohen), sections 1 to 5 and 7.
//!
//! # Why
//! - **Own code.** The reader of the archive is the central directory and no more: members are found
//!   by name, nothing is extracted, and the disk's own members are read where they lie.
//! - **One file.** An image over several archives is refused, not read with zeros in the gaps: what
//!   lies in them would be called clean.
//! - **Never written.** It is evidence, with digests over everything.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    bytes::View,
    container::{
        Disk, Edges, Facts, Format, Open, Places, ScanOnly, Source,
        chunked::{Chunked, Chunks},
        format,
        mapped::wide,
        packed::{Wrap, unpack},
    },
    device::{BlockDevice, Device},
    error::{At, Error, Result},
    text::escape,
};

mod turtle;
mod zip;

use turtle::{TYPE, Triples, Value};
use zip::Archive;

pub(super) const FORMAT: Format = Format {
    name: "aff4",
    title: "an AFF4 evidence file",
    probe: |edges: &Edges| {
        if !edges.has(0, format::ZIP) {
            return None;
        }
        // The first members of the archive: their names stand in the first kilobytes.
        let front = edges.head.get(..edges.head.len().min(4096))?;
        format::AFF4_MEMBERS
            .into_iter()
            .any(|name| front.windows(name.len()).any(|window| window == name))
            .then(|| "a zip archive with AFF4 members".to_owned())
    },
    open: Open::Disk(open),
};

const ADVICE: &str = "declone never writes evidence: clean -o OUT --to raw writes the cleaned disk \
                      as a raw file";
const EXPORT: &str = "export a raw copy first with the tool that made it";

/// The namespace of everything AFF4.
const SCHEMA: &str = "http://aff4.org/Schema#";
/// Longest `information.turtle`.
const TURTLE_LIMIT: u64 = 16 << 20;
/// Longest map: 8 million entries.
const MAP_LIMIT: u64 = 224 << 20;
/// Longest other text.
const TEXT_LIMIT: u64 = 1 << 20;
/// Most bytes of compressed indexes, which are kept.
const INDEX_LIMIT: u64 = 64 << 20;
/// Largest chunk.
const CHUNK_LIMIT: u64 = 64 << 20;
/// Most chunks in a bevy.
const BEVY_LIMIT: u64 = 1 << 24;
/// Bytes of an entry of a bevy's index: offset u64, length u32.
const INDEX_BYTES: u64 = 12;
/// Bytes of an entry of a map: offset u64, length u64, offset in the target u64, target u32.
const MAP_BYTES: usize = 28;
/// Bytes after which a repeated text begins anew.
const TILE: u64 = 1 << 20;

/// What the text says, by name.
struct About(Triples);

impl About {
    fn values(&self, subject: &str, name: &str) -> impl Iterator<Item = &Value> {
        let wanted = match name {
            TYPE => name.to_owned(),
            name => format!("{SCHEMA}{name}"),
        };
        self.0
            .get(subject)
            .into_iter()
            .flatten()
            .filter(move |(known, _)| *known == wanted)
            .map(|(_, value)| value)
    }

    fn is(&self, subject: &str, kind: &str) -> bool {
        self.values(subject, TYPE)
            .any(|value| value.text.strip_prefix(SCHEMA) == Some(kind))
    }

    fn of_kind(&self, kind: &str) -> Vec<&str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|subject| self.is(subject, kind))
            .collect()
    }

    fn number(&self, subject: &str, name: &str) -> Result<u64> {
        let text = self.values(subject, name).next().map(|value| &*value.text);
        text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::malformed(format!(
                "AFF4 information.turtle: a number as {name} of `{}` expected, found `{}`",
                escape(subject),
                escape(text.unwrap_or("nothing"))
            ))
        })
    }
}

/// The archive, and what it says.
struct Container {
    host: Device,
    archive: Archive,
    about: About,
    /// Its own name.
    volume: String,
    /// Bytes of indexes that are kept.
    kept: u64,
}

/// What fills a part of the disk.
#[derive(Clone, Debug)]
enum Target {
    Stream(Device),
    Byte(u8),
    Text(&'static [u8]),
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let archive = Archive::open(host)?;
    let text = |name: &str, limit: u64| -> Result<Option<String>> {
        let Some(member) = archive.find(name) else {
            return Ok(None);
        };
        let bytes = archive.read(name, &member, limit)?;
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::malformed(format!("AFF4: `{name}` in UTF-8 expected")))
    };
    let turtle = text("information.turtle", TURTLE_LIMIT)?.ok_or_else(|| {
        Error::malformed("AFF4: the member information.turtle expected, not found").advise(EXPORT)
    })?;
    let version = text("version.txt", TEXT_LIMIT)?.unwrap_or_default();
    let said = |name: &str| {
        let mut lines = version.lines().filter_map(|line| line.split_once('='));
        lines.find(|(known, _)| known.trim() == name)
    };
    let said = |name: &str| said(name).map(|(_, value)| value.trim().to_owned());
    if let Some(major) = said("major").filter(|major| major != "1") {
        return Err(Error::unsupported(format!(
            "AFF4 version.txt: major version 1 expected, found `{}`",
            escape(&major)
        ))
        .advise(EXPORT));
    }
    let volume = match text("container.description", TEXT_LIMIT)? {
        Some(volume) => volume.trim_matches(['\0', ' ', '\r', '\n']).to_owned(),
        None => archive.comment.trim_matches(['\0', ' ']).to_owned(),
    };
    let about = About(turtle::parse(turtle.trim_start_matches('\u{feff}'))?);
    let mut container = Container {
        host: Arc::clone(host),
        archive,
        about,
        volume,
        kept: 0,
    };
    let image = container.image()?;
    let top = match container.about.values(&image, "dataStream").next() {
        Some(value) => value.text.clone(),
        None => image.clone(),
    };
    let mut streams = Streams::default();
    let device = match container.about.is(&top, "Map") {
        true => container.map(&top, &mut streams)?,
        false => container.stream(&top, &mut streams)?,
    };
    let mut facts = Facts {
        kind: Some(format!(
            "{}, {}",
            match container.about.is(&top, "Map") {
                true => "map",
                false => "image stream",
            },
            match streams.methods.first() {
                Some(method) => *method,
                None => "no stream",
            }
        )),
        creator: said("tool").filter(|tool| !tool.is_empty()),
        block_size: streams.chunk,
        blocks: streams
            .chunk
            .map(|chunk| device.len().div_ceil(chunk.max(1))),
        allocated: Some(streams.chunks),
        id: (!container.volume.is_empty()).then(|| container.volume.clone()),
        ..Facts::default()
    };
    for subject in [&image, &top] {
        for value in container.about.values(subject, "hash") {
            let is_hex = value.text.bytes().all(|c| c.is_ascii_hexdigit());
            let kind = value
                .kind
                .as_deref()
                .and_then(|kind| kind.strip_prefix(SCHEMA));
            let digest = Some(value.text.to_ascii_lowercase());
            match (kind, value.text.len()) {
                (Some("MD5"), 32) if is_hex => facts.md5 = facts.md5.or(digest),
                (Some("SHA1"), 40) if is_hex => facts.sha1 = facts.sha1.or(digest),
                _ => {}
            }
        }
    }
    let mut disk = Disk::plain(device);
    disk.notes = streams.notes;
    for (kind, digest) in [("MD5", &facts.md5), ("SHA-1", &facts.sha1)] {
        if let Some(digest) = digest {
            disk.notes
                .push(format!("the file says that the disk's {kind} is {digest}"));
        }
    }
    disk.places = Places::none();
    disk.opaque = true;
    disk.facts = facts;
    disk.scan_only = Some(ScanOnly {
        reason: "AFF4: a disk image that may be changed expected, found evidence".to_owned(),
        advice: ADVICE,
    });
    Ok(disk)
}

/// What was seen of the streams of a disk.
#[derive(Default)]
struct Streams {
    chunk: Option<u64>,
    chunks: u64,
    methods: Vec<&'static str>,
    notes: Vec<String>,
}

impl Container {
    /// The one image in the archive.
    fn image(&self) -> Result<String> {
        let about = &self.about;
        for kind in ["EncryptedStream", "KeyBag", "PasswordWrappedKeyBag"] {
            if !about.of_kind(kind).is_empty() {
                return Err(Error::refused(format!(
                    "AFF4: evidence that is not encrypted expected, found {kind}"
                ))
                .advise("let the tool that made it write a copy that is not encrypted"));
            }
        }
        for kind in [
            "DiskImage",
            "ContiguousImage",
            "Image",
            "Map",
            "ImageStream",
        ] {
            let mut found = about.of_kind(kind);
            // Single files are images of their own kind.
            found.retain(|subject| !about.is(subject, "FileImage"));
            match found.as_slice() {
                [] => {}
                [one] => return Ok((*one).to_owned()),
                more => {
                    return Err(Error::unsupported(format!(
                        "AFF4: one {kind} in the file expected, found {}",
                        more.len()
                    ))
                    .advise(EXPORT));
                }
            }
        }
        Err(match about.of_kind("FileImage").is_empty() {
            false => Error::unsupported("AFF4: a disk expected, found single files (AFF4-L)"),
            true => Error::malformed("AFF4 information.turtle: an image expected, found none"),
        }
        .advise(EXPORT))
    }

    /// The name of a member: inside the archive's own name it is relative.
    fn member_name(&self, subject: &str, behind: &str) -> String {
        let whole = zip::unescaped(&format!("{subject}{behind}"));
        match whole.strip_prefix(&self.volume) {
            Some(inside) if !self.volume.is_empty() => inside.trim_start_matches('/').to_owned(),
            _ => whole,
        }
    }

    /// A member that must be there.
    fn member(&self, subject: &str, behind: &str) -> Result<(String, zip::Member)> {
        let name = self.member_name(subject, behind);
        match self.archive.find(&name) {
            Some(member) => Ok((name, member)),
            None => Err(Error::refused(format!(
                "AFF4: all of the image in this file expected, `{}` is not in it",
                escape(&name)
            ))
            .advise(
                "an image over several files (striped) is not read: let the tool that made it write \
                 one file, or export a raw copy",
            )),
        }
    }

    /// A stream of chunks.
    fn stream(&mut self, subject: &str, streams: &mut Streams) -> Result<Device> {
        let about = &self.about;
        if !about.is(subject, "ImageStream") {
            return Err(Error::refused(format!(
                "AFF4: a stream in this file expected, found `{}`, of which it says nothing",
                escape(subject)
            ))
            .advise(
                "an image over several files (striped) is not read: let the tool that made it write \
                 one file, or export a raw copy",
            ));
        }
        let len = about.number(subject, "size")?;
        let chunk = about.number(subject, "chunkSize")?;
        let per_bevy = match about.values(subject, "chunksInSegment").next() {
            Some(_) => about.number(subject, "chunksInSegment")?,
            None => about.number(subject, "chunksPerSegment")?,
        };
        if chunk == 0 || chunk > CHUNK_LIMIT || per_bevy == 0 || per_bevy > BEVY_LIMIT {
            return Err(Error::malformed(format!(
                "AFF4 stream: chunks of at most {CHUNK_LIMIT} bytes, at most {BEVY_LIMIT} in a bevy, \
                 expected, found {per_bevy} of {chunk} bytes"
            )));
        }
        let method = about.values(subject, "compressionMethod").next();
        let wrap = wrap_of(method.map_or("", |value| &*value.text))?;
        let chunks = len.div_ceil(chunk);
        let mut bevies = Vec::new();
        for number in 0..chunks.div_ceil(per_bevy) {
            let first = number.saturating_mul(per_bevy);
            let count = chunks.saturating_sub(first).min(per_bevy);
            let bevy = self.bevy(subject, number, count)?;
            bevies.push(bevy);
        }
        streams.chunk.get_or_insert(chunk);
        streams.chunks = streams.chunks.saturating_add(chunks);
        streams.methods.push(match wrap {
            None => "stored",
            Some(Wrap::Deflate) => "deflate",
            Some(Wrap::Zlib) => "zlib",
            Some(Wrap::Snappy) => "snappy",
            Some(Wrap::Lz4) => "lz4",
            Some(Wrap::Zstd) => "zstd",
        });
        let stream = Stream {
            host: Arc::clone(&self.host),
            chunk,
            per_bevy,
            wrap,
            bevies,
        };
        Ok(Chunked::device(stream, chunk, len))
    }

    /// A bevy of `count` chunks.
    fn bevy(&mut self, subject: &str, number: u64, count: u64) -> Result<Bevy> {
        let (name, member) = self.member(subject, &format!("/{number:08}"))?;
        let at = self.archive.place(&name, &member)?.ok_or_else(|| {
            Error::unsupported(format!(
                "AFF4 zip archive: a bevy that is stored expected, found `{}` deflated",
                escape(&name)
            ))
            .advise(EXPORT)
        })?;
        let (name, index) = match self.member(subject, &format!("/{number:08}.index")) {
            Ok(found) => found,
            // As the first AFF4 tools called it.
            Err(error) => self
                .member(subject, &format!("/{number:08}/index"))
                .map_err(|_| error)?,
        };
        let wanted = count.saturating_mul(INDEX_BYTES);
        if index.len < wanted {
            return Err(Error::malformed(format!(
                "AFF4: an index of {count} chunks ({wanted} bytes) expected, found `{}` with {} bytes",
                escape(&name),
                index.len
            ))
            .advise(EXPORT));
        }
        let index = match self.archive.place(&name, &index)? {
            Some(at) => Index::At(at),
            None => {
                self.kept = self.kept.saturating_add(index.len);
                if self.kept > INDEX_LIMIT {
                    return Err(Error::limit(format!(
                        "AFF4: at most {INDEX_LIMIT} bytes of compressed indexes expected, found \
                         more"
                    )));
                }
                Index::Kept(self.archive.read(&name, &index, INDEX_LIMIT)?)
            }
        };
        Ok(Bevy {
            data: at..at.saturating_add(member.len),
            index,
        })
    }

    /// What an IRI in a map stands for.
    fn target(&mut self, name: &str, streams: &mut Streams) -> Result<Target> {
        let symbol = name.strip_prefix(SCHEMA).or_else(|| {
            name.strip_prefix("aff4:")
                .filter(|name| !name.starts_with('/'))
        });
        let byte = symbol
            .and_then(|symbol| symbol.strip_prefix("SymbolicStream"))
            .filter(|digits| digits.len() == 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = byte {
            return Ok(Target::Byte(byte));
        }
        let missing = |text: &'static [u8], notes: &mut Vec<String>| {
            notes.push(format!(
                "AFF4: parts of the disk are {}: they are not in the file",
                String::from_utf8_lossy(text).to_lowercase()
            ));
            Ok(Target::Text(text))
        };
        match symbol {
            Some("Zero") => Ok(Target::Byte(0)),
            Some("UnknownData") => missing(b"UNKNOWN", &mut streams.notes),
            Some("UnreadableData") => missing(b"UNREADABLEDATA", &mut streams.notes),
            _ => Ok(Target::Stream(self.stream(name, streams)?)),
        }
    }

    /// A disk whose parts are those of streams.
    fn map(&mut self, subject: &str, streams: &mut Streams) -> Result<Device> {
        let len = self.about.number(subject, "size")?;
        let gap = self.about.values(subject, "mapGapDefaultStream").next();
        let gap = gap.map_or_else(|| format!("{SCHEMA}Zero"), |value| value.text.clone());
        let (name, member) = self.member(subject, "/idx")?;
        let names = self.archive.read(&name, &member, TEXT_LIMIT)?;
        let names = String::from_utf8_lossy(&names).into_owned();
        let (name, member) = self.member(subject, "/map")?;
        let bytes = self.archive.read(&name, &member, MAP_LIMIT)?;
        let mut runs = Vec::with_capacity(bytes.len() / MAP_BYTES);
        let names: Vec<&str> = names.lines().map(str::trim).collect();
        let wrong = |what: &str| Error::malformed(format!("AFF4 map: {what}"));
        if bytes.len().checked_rem(MAP_BYTES) != Some(0) {
            return Err(wrong(&format!(
                "entries of {MAP_BYTES} bytes expected, found {} bytes",
                bytes.len()
            )));
        }
        for entry in bytes.chunks_exact(MAP_BYTES) {
            let view = View::new(entry, "AFF4 map entry");
            let (disk, run_len) = (view.u64(0)?, view.u64(8)?);
            let (at, target) = (view.u64(16)?, view.u32(24)?);
            let end = disk.checked_add(run_len).filter(|end| *end <= len);
            let known = usize::try_from(target).is_ok_and(|target| target < names.len());
            if end.is_none() || at.checked_add(run_len).is_none() || !known {
                return Err(wrong(&format!(
                    "a part of the disk's {len} bytes and one of {} targets expected, found {run_len} \
                     bytes at {disk:#x} in target {target}",
                    names.len()
                )));
            }
            if run_len > 0 {
                runs.push(Run {
                    disk: disk..disk.saturating_add(run_len),
                    at,
                    target,
                });
            }
        }
        runs.sort_unstable_by_key(|run| run.disk.start);
        if let Some([_, b]) = runs
            .array_windows::<2>()
            .find(|[a, b]| a.disk.end > b.disk.start)
        {
            return Err(wrong(&format!(
                "one entry for each part of the disk expected, found two for {:#x}",
                b.disk.start
            )));
        }
        let mut targets = BTreeMap::new();
        for run in &runs {
            let number = usize::try_from(run.target).unwrap_or(usize::MAX);
            if let std::collections::btree_map::Entry::Vacant(place) = targets.entry(run.target) {
                let name = names.get(number).copied().unwrap_or_default();
                place.insert(self.target(name, streams).at("target", escape(name))?);
            }
            if let Some(Target::Stream(stream)) = targets.get(&run.target) {
                let run_len = run.disk.end.saturating_sub(run.disk.start);
                let end = run.at.saturating_add(run_len);
                // The last chunk is filled up, and a map may say so.
                if end > stream.len() {
                    return Err(wrong(&format!(
                        "parts of a stream of {} bytes expected, found one that ends at {end}",
                        stream.len()
                    )));
                }
            }
        }
        let gap = self.target(&gap, streams)?;
        Ok(Arc::new(Map {
            len,
            runs,
            targets,
            gap,
        }))
    }
}

/// How chunks are compressed; none if they are not.
fn wrap_of(method: &str) -> Result<Option<Wrap>> {
    let has = |part: &str| method.contains(part);
    Ok(match method {
        "" => None,
        _ if has("NullCompressor") => None,
        _ if has("snappy") => Some(Wrap::Snappy),
        _ if has("lz4") => Some(Wrap::Lz4),
        _ if has("rfc1951") => Some(Wrap::Deflate),
        _ if has("rfc1950") => Some(Wrap::Zlib),
        other => {
            return Err(Error::unsupported(format!(
                "AFF4 stream: chunks stored or compressed with snappy, lz4 or deflate expected, found \
                 `{}`",
                escape(other)
            ))
            .advise(EXPORT));
        }
    })
}

/// Where the lengths and places of a bevy's chunks are.
#[derive(Debug)]
enum Index {
    At(u64),
    Kept(Vec<u8>),
}

/// Chunks that lie together.
#[derive(Debug)]
struct Bevy {
    data: Range<u64>,
    index: Index,
}

/// A stream of chunks.
#[derive(Debug)]
struct Stream {
    host: Device,
    chunk: u64,
    per_bevy: u64,
    wrap: Option<Wrap>,
    bevies: Vec<Bevy>,
}

impl Chunks for Stream {
    fn read_chunk(&self, number: u64, want: usize) -> Result<Vec<u8>> {
        let gone = || Error::internal("AFF4: a chunk without a bevy");
        let bevy = number.checked_div(self.per_bevy).ok_or_else(gone)?;
        let bevy = usize::try_from(bevy)
            .ok()
            .and_then(|at| self.bevies.get(at));
        let bevy = bevy.ok_or_else(gone)?;
        let place = number
            .checked_rem(self.per_bevy)
            .unwrap_or(0)
            .saturating_mul(INDEX_BYTES);
        let mut entry = [0; 12];
        match &bevy.index {
            Index::At(at) => self.host.read_at(at.saturating_add(place), &mut entry)?,
            Index::Kept(bytes) => {
                let from = usize::try_from(place).map_err(|_| gone())?;
                let to = from.saturating_add(entry.len());
                entry.copy_from_slice(bytes.get(from..to).ok_or_else(gone)?);
            }
        }
        let view = View::new(&entry, "AFF4 index");
        let (offset, len) = (view.u64(0)?, u64::from(view.u32(8)?));
        let at = bevy.data.start.saturating_add(offset);
        let inside = at.checked_add(len).is_some_and(|end| end <= bevy.data.end);
        // What cannot be compressed is stored; more is never needed.
        if !inside || len > self.chunk.saturating_mul(2).saturating_add(1024) {
            return Err(Error::malformed(format!(
                "AFF4 index: chunk {number} in its bevy ({:#x} to {:#x}) expected, found {len} bytes \
                 at {at:#x}",
                bevy.data.start, bevy.data.end
            )));
        }
        let mut from = vec![0; usize::try_from(len).map_err(|_| gone())?];
        self.host.read_at(at, &mut from)?;
        let full = usize::try_from(self.chunk).map_err(|_| gone())?;
        let mut bytes = match self.wrap {
            Some(wrap) if len != self.chunk => {
                let mut to = vec![0; full];
                match unpack(&from, &mut to, wrap) {
                    Ok(len) => to.truncate(len),
                    Err(how) => {
                        return Err(Error::malformed(format!(
                            "AFF4 chunk: {want} compressed bytes expected, found damage ({how})"
                        ))
                        .at("image offset", format_args!("{at:#x}")));
                    }
                }
                to
            }
            _ => from,
        };
        if bytes.len() < want {
            return Err(Error::malformed(format!(
                "AFF4 chunk: {want} bytes expected, found {}",
                bytes.len()
            ))
            .at("image offset", format_args!("{at:#x}")));
        }
        bytes.truncate(want);
        Ok(bytes)
    }
}

/// A part of the disk.
#[derive(Debug)]
struct Run {
    disk: Range<u64>,
    /// Offset in the target.
    at: u64,
    target: u32,
}

/// A disk whose parts are those of streams.
#[derive(Debug)]
struct Map {
    len: u64,
    /// Ascending, without overlaps.
    runs: Vec<Run>,
    targets: BTreeMap<u32, Target>,
    gap: Target,
}

impl Map {
    /// What is at `at`: the target, the offset in it, and where the next part begins.
    fn part(&self, at: u64) -> (&Target, u64, u64) {
        let behind = self.runs.partition_point(|run| run.disk.start <= at);
        let run = behind.checked_sub(1).and_then(|index| self.runs.get(index));
        if let Some(run) = run.filter(|run| run.disk.end > at) {
            let target = self.targets.get(&run.target).unwrap_or(&self.gap);
            let inside = at.saturating_sub(run.disk.start);
            return (target, run.at.saturating_add(inside), run.disk.end);
        }
        let next = self.runs.get(behind).map_or(self.len, |run| run.disk.start);
        (&self.gap, at, next)
    }
}

impl BlockDevice for Map {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(wide(buf.len()));
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::malformed(format!(
                "disk: {} bytes expected at {offset:#x}, it ends at {:#x}",
                buf.len(),
                self.len
            )));
        }
        let leaves = || Error::internal("disk: a piece leaves the buffer");
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (target, inside, next) = self.part(at);
            let take = usize::try_from(next.saturating_sub(at)).unwrap_or(usize::MAX);
            let take = take.min(rest.len());
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .filter(|_| take > 0)
                .ok_or_else(leaves)?;
            match target {
                Target::Stream(stream) => {
                    let there = stream.len().saturating_sub(inside);
                    let there = usize::try_from(there).unwrap_or(usize::MAX).min(take);
                    let (shown, behind) = now.split_at_mut_checked(there).ok_or_else(leaves)?;
                    behind.fill(0);
                    if !shown.is_empty() {
                        stream.read_at(inside, shown)?;
                    }
                }
                Target::Byte(byte) => now.fill(*byte),
                Target::Text(text) => {
                    for (place, byte) in (inside..).zip(now) {
                        let index = (place % TILE).checked_rem(wide(text.len())).unwrap_or(0);
                        let index = usize::try_from(index).unwrap_or(0);
                        *byte = text.get(index).copied().unwrap_or(0);
                    }
                }
            }
            at = at.saturating_add(wide(take));
            rest = later;
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let mut at = from;
        while at < self.len {
            let (target, _, next) = self.part(at);
            if !matches!(target, Target::Byte(0)) {
                return Ok(Some(at..next.min(self.len)));
            }
            at = next.max(at.saturating_add(1));
        }
        Ok(None)
    }
}
