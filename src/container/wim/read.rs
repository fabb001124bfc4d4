//! Reads header, blob table and resources.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use sha1::{Digest, Sha1};

use super::{
    codec::{Decoder, Method},
    format::{self, BLOB_LEN, HASH_LEN, HEADER_LEN, RESOURCE_LEN, SOLID_MARK, flag, res},
    split::Part,
};
use crate::{
    bytes::{View, put},
    device::{BlockDevice, Device},
    error::{At, Error, Result},
};

/// SHA-1 of contents.
pub(super) type Hash = [u8; HASH_LEN];

/// Longest blob table and XML that is read, and longest metadata of an image.
const TABLE_LIMIT: u64 = 512 << 20;
const XML_LIMIT: u64 = 16 << 20;
/// Longest XML data of all parts of a set together.
const SET_XML_LIMIT: u64 = 64 << 20;
/// Longest chunk that is decoded: the longest that Windows takes (`wimlib.h`).
const CHUNK_LIMIT: u64 = 64 << 20;
/// From this length on a second thread is worth its start.
const FAST_FROM: u64 = 1 << 20;
/// From this length on chunks are decoded one at a time.
const LARGE_CHUNK: u64 = 4 << 20;
/// Metadata may be so many times longer than the file: more is a bomb.
const METADATA_RATIO: u64 = 512;
pub(super) const METADATA_LIMIT: u64 = 2 << 30;

fn poisoned() -> Error {
    Error::internal("WIM: lock poisoned")
}

/// A length as a position.
pub(super) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A position as a length.
pub(super) fn narrow(len: u64, what: &str) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::limit(format!("{what}: {len} bytes are too many")))
}

/// Where contents lie in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resource {
    /// Bytes in the file.
    pub size: u64,
    pub flags: u8,
    pub offset: u64,
    /// Bytes of the contents.
    pub len: u64,
}

impl Resource {
    pub(super) fn parse(view: &View<'_>, at: usize) -> Result<Self> {
        let one = view.sub(at, RESOURCE_LEN, "WIM resource header")?;
        let first = one.u64(0)?;
        Ok(Self {
            size: first & ((1 << 56) - 1),
            flags: u8::try_from(first >> 56).unwrap_or(0),
            offset: one.u64(format::RESOURCE_OFFSET)?,
            len: one.u64(format::RESOURCE_CONTENTS)?,
        })
    }

    pub(super) fn bytes(&self) -> [u8; RESOURCE_LEN] {
        let mut out = [0; RESOURCE_LEN];
        let first = self.size | (u64::from(self.flags) << 56);
        let words = [first, self.offset, self.len];
        for (place, word) in out.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The same behind `start` other bytes.
    pub(super) fn shifted(self, start: u64) -> Self {
        Self {
            offset: self.offset.saturating_add(start),
            ..self
        }
    }

    /// The bytes of the file that it takes.
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }

    /// The same from the start of a file on that begins at `start`.
    pub(super) fn inside(self, start: u64) -> Self {
        Self {
            offset: self.offset.saturating_sub(start),
            ..self
        }
    }

    /// Fails unless it lies behind the header of the file that takes `range`.
    fn check_inside(&self, what: &str, range: &Range<u64>) -> Result<()> {
        let start = self.offset.checked_sub(range.start);
        let end = self.offset.checked_add(self.size);
        match (start, end) {
            (Some(start), Some(end))
                if end <= range.end && (self.size == 0 || start >= format::HEADER_END) =>
            {
                Ok(())
            }
            _ => Err(Error::malformed(format!(
                "{what}: {} bytes between the header and the end of the file at {:#x} expected, \
                 found them at {:#x}",
                self.size,
                range.end.saturating_sub(range.start),
                self.offset.saturating_sub(range.start)
            ))
            .at("image offset", format_args!("{:#x}", self.offset))),
        }
    }
}

/// The header.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub bytes: Vec<u8>,
    pub flags: u32,
    pub chunk_size: u32,
    pub part: u16,
    pub parts: u16,
    pub images: u32,
    pub table: Resource,
    pub xml: Resource,
    pub boot: Resource,
    pub boot_index: u32,
    pub integrity: Resource,
}

impl Header {
    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let view = View::new(&bytes, "WIM header");
        if view.get(0, format::MAGIC.len())? != format::MAGIC {
            return Err(Error::malformed("WIM header: MSWIM expected, not found"));
        }
        let size = view.u32(format::SIZE)?;
        if u32::try_from(HEADER_LEN) != Ok(size) {
            return Err(Error::malformed(format!(
                "WIM header: a length of {HEADER_LEN} expected, found {size}"
            )));
        }
        let version = view.u32(format::VERSION)?;
        if ![format::PLAIN_VERSION, format::SOLID_VERSION].contains(&version) {
            return Err(Error::unsupported(format!(
                "WIM header: version {:#x} or {:#x} expected, found {version:#x}",
                format::PLAIN_VERSION,
                format::SOLID_VERSION
            ))
            .advise("export it with a program of today: wimexport IMAGE all new.wim"));
        }
        let resource = |at| Resource::parse(&view, at);
        Ok(Self {
            flags: view.u32(format::FLAGS)?,
            chunk_size: view.u32(format::CHUNK_SIZE)?,
            part: view.u16(format::PART)?,
            parts: view.u16(format::PART.saturating_add(2))?,
            images: view.u32(format::IMAGES)?,
            table: resource(format::TABLE)?,
            xml: resource(format::XML)?,
            boot: resource(format::BOOT)?,
            boot_index: view.u32(format::BOOT_INDEX)?,
            integrity: resource(format::INTEGRITY)?,
            bytes,
        })
    }

    /// Reads the header of a file.
    pub(super) fn read(host: &dyn BlockDevice) -> Result<Self> {
        if host.len() < format::HEADER_END {
            return Err(Error::malformed(format!(
                "WIM header: {HEADER_LEN} bytes expected, found {}",
                host.len()
            )));
        }
        let mut bytes = vec![0; HEADER_LEN];
        host.read_at(0, &mut bytes)?;
        Self::parse(bytes).at("image offset", "0x0")
    }

    /// What all parts of a split archive have in common.
    pub(super) fn guid(&self) -> Option<&[u8]> {
        let end = format::GUID.saturating_add(format::GUID_LEN);
        self.bytes.get(format::GUID..end)
    }

    pub(super) fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// How compressed resources outside solid ones are compressed.
    pub(super) fn method(&self) -> Result<Option<Method>> {
        let methods = [
            (flag::XPRESS | flag::XPRESS2, Method::Xpress),
            (flag::LZX, Method::Lzx),
            (flag::LZMS, Method::Lzms),
        ];
        let mut named = methods.iter().filter(|(bits, _)| self.flags & bits != 0);
        match (named.next(), named.next()) {
            (Some((_, method)), None) => Ok(Some(*method)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(Error::malformed(format!(
                "WIM header: one compression method expected, found several in flags {:#x}",
                self.flags
            ))),
        }
    }

    /// The header with other places of its resources.
    pub(super) fn with(
        &self,
        table: Resource,
        xml: Resource,
        boot: Resource,
        integrity: Resource,
    ) -> Result<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        for (at, one) in [
            (format::TABLE, table),
            (format::XML, xml),
            (format::BOOT, boot),
            (format::INTEGRITY, integrity),
        ] {
            put(&mut bytes, at, &one.bytes(), "WIM header")?;
        }
        Ok(bytes)
    }
}

/// An entry of the blob table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub resource: Resource,
    pub part: u16,
    pub refs: u32,
    pub hash: Hash,
}

impl Blob {
    fn parse(view: &View<'_>) -> Result<Self> {
        Ok(Self {
            resource: Resource::parse(view, 0)?,
            part: view.u16(format::BLOB_PART)?,
            refs: view.u32(format::BLOB_REFS)?,
            hash: view.array(format::BLOB_HASH)?,
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOB_LEN);
        out.extend(self.resource.bytes());
        out.extend(self.part.to_le_bytes());
        out.extend(self.refs.to_le_bytes());
        out.extend(self.hash);
        out
    }

    pub(super) fn is_metadata(&self) -> bool {
        self.resource.is(res::METADATA)
    }

    /// Whether the entry is a solid resource, not contents.
    pub(super) fn is_solid_resource(&self) -> bool {
        self.resource.is(res::SOLID) && self.resource.len == SOLID_MARK
    }

    /// Length of the contents.
    pub(super) fn len(&self) -> u64 {
        match self.resource.is(res::SOLID) {
            true => self.resource.size,
            false => self.resource.len,
        }
    }
}

/// A solid resource: many blobs compressed as one.
#[derive(Clone, Debug)]
pub(super) struct Solid {
    /// Its index in the blob table.
    pub blob: usize,
    /// Where its contents begin in those of its run.
    pub start: u64,
    /// Number of the run of neighbouring entries it belongs to.
    pub run: usize,
    pub chunks: Arc<Chunks>,
}

/// Contents in chunks.
#[derive(Clone, Debug)]
pub(super) struct Chunks {
    /// None: chunks are stored as they are.
    pub method: Option<Method>,
    pub chunk_size: u32,
    /// Bytes of the contents.
    pub len: u64,
    /// Where each chunk begins in the file, and where the last ends.
    pub bounds: Vec<u64>,
}

impl Chunks {
    pub(super) fn count(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// A chunk's place in the file.
    pub(super) fn place(&self, index: usize) -> Result<Range<u64>> {
        match (
            self.bounds.get(index),
            self.bounds.get(index.saturating_add(1)),
        ) {
            (Some(start), Some(end)) => Ok(*start..*end),
            _ => Err(Error::internal("WIM chunk: its number")),
        }
    }

    /// A chunk's place in the contents.
    pub(super) fn contents(&self, index: usize) -> Range<u64> {
        let size = u64::from(self.chunk_size);
        let start = wide(index).saturating_mul(size);
        start..start.saturating_add(size).min(self.len)
    }
}

/// A WIM file, opened.
#[derive(Debug)]
pub(super) struct File {
    /// The file; of a split archive, the address space of all its files.
    pub host: Device,
    /// Its files in the order of their numbers: several if it is split.
    pub parts: Vec<Part>,
    /// The first part's.
    pub header: Header,
    pub method: Option<Method>,
    pub blobs: Vec<Blob>,
    pub solids: Vec<Solid>,
    by_hash: HashMap<Hash, usize>,
    /// For blobs in solid resources: the run.
    runs: Vec<Option<usize>>,
    /// The last chunks that were decoded: place in the file, contents.
    kept: Mutex<Kept>,
    /// Whose the chunk in [`LARGE`] is.
    id: u64,
}

/// The large chunk that was decoded last: file, place in it, contents. One for all files, and decoded
/// one at a time: each takes much memory, and the next one to be read is mostly the same.
static LARGE: Mutex<Option<(u64, u64, Vec<u8>)>> = Mutex::new(None);

/// Numbers for the files that are open.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Decoders that nobody uses now, and the small chunk that was decoded last.
struct Kept {
    decoders: Vec<(Method, u32, Decoder)>,
    chunk: Option<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl File {
    /// `parts` are the files of `host`.
    pub(super) fn open(host: &Device, parts: Vec<Part>) -> Result<Self> {
        let header = parts.first().map(|part| part.header.clone());
        let header = header.ok_or_else(|| Error::internal("WIM parts: none"))?;
        let method = header.method().at("image offset", "0x0")?;
        if let Some(method) = method
            && !(header.chunk_size.is_power_of_two()
                && method.chunk_sizes().contains(&header.chunk_size))
        {
            return Err(Error::malformed(format!(
                "WIM header: a chunk size between {} and {} expected, found {}",
                method.chunk_sizes().start(),
                method.chunk_sizes().end(),
                header.chunk_size
            ))
            .at("image offset", "0x0"));
        }
        let mut file = Self {
            host: host.clone(),
            parts,
            method,
            blobs: Vec::new(),
            solids: Vec::new(),
            by_hash: HashMap::new(),
            runs: Vec::new(),
            kept: Mutex::new(Kept {
                decoders: Vec::new(),
                chunk: None,
            }),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            header,
        };
        let mut run = 0;
        file.check_totals()?;
        for index in 0..file.parts.len() {
            let part = file.part(index)?;
            let (table, number, range) = (part.table(), part.header.part, part.range.clone());
            let read = file.read_table(table, number, &range, &mut run);
            read.map_err(|error| file.climb(index, error))?;
        }
        file.blobs.shrink_to_fit();
        file.check_overlaps()?;
        file.check_solid_overlaps()?;
        Ok(file)
    }

    /// All parts together may not need more memory than a few files would.
    fn check_totals(&self) -> Result<()> {
        let headers = || self.parts.iter().map(|part| &part.header);
        let tables: u64 = headers()
            .map(|one| one.table.len)
            .fold(0, u64::saturating_add);
        let xml: u64 = headers()
            .map(|one| one.xml.len)
            .fold(0, u64::saturating_add);
        for (what, total, limit) in [
            ("blob tables", tables, TABLE_LIMIT),
            ("XML data", xml, SET_XML_LIMIT),
        ] {
            if self.is_split() && total > limit {
                return Err(Error::limit(format!(
                    "WIM {what}: at most {limit} bytes of all parts expected, found {total}"
                )));
            }
        }
        Ok(())
    }

    /// Whether it is several files.
    pub(super) fn is_split(&self) -> bool {
        self.parts.len() > 1
    }

    fn part(&self, index: usize) -> Result<&Part> {
        let part = self.parts.get(index);
        part.ok_or_else(|| Error::internal("WIM part: its number"))
    }

    fn climb(&self, index: usize, error: Error) -> Error {
        match self.parts.get(index) {
            Some(part) => part.climb(error),
            None => error,
        }
    }

    /// In which of the parts an entry is listed.
    pub(super) fn part_of(&self, blob: &Blob) -> usize {
        match self.is_split() {
            true => usize::from(blob.part).saturating_sub(1),
            false => 0,
        }
    }

    /// Whether contents lie in what was opened.
    pub(super) fn has_part(&self, blob: &Blob) -> bool {
        self.is_split() || blob.part == self.header.part
    }

    /// Bytes of all files.
    fn len(&self) -> u64 {
        let lens = self.parts.iter();
        lens.map(|part| part.range.end.saturating_sub(part.range.start))
            .fold(0, u64::saturating_add)
    }

    /// Reads the table of the part that takes `range` of the host; `run` counts runs of solid entries.
    fn read_table(
        &mut self,
        table: Resource,
        number: u16,
        range: &Range<u64>,
        run: &mut usize,
    ) -> Result<()> {
        let bytes = self.small(&table, range, "WIM blob table", TABLE_LIMIT)?;
        let (entries, rest) = bytes.as_chunks::<BLOB_LEN>();
        if !rest.is_empty() {
            return Err(Error::malformed(format!(
                "WIM blob table: entries of {BLOB_LEN} bytes expected, found {} bytes",
                bytes.len()
            ))
            .at("image offset", format_args!("{:#x}", table.offset)));
        }
        // Where the next solid resource of the run begins.
        let mut start = 0_u64;
        let mut in_run = false;
        for (index, entry) in entries.iter().enumerate() {
            let at = || {
                let inside = wide(index).saturating_mul(wide(BLOB_LEN));
                format!("{:#x}", table.offset.saturating_add(inside))
            };
            let mut blob = Blob::parse(&View::new(entry, "WIM blob"))?;
            if blob.resource.is(res::SPANNED) {
                return Err(Error::unsupported(
                    "WIM blob: a whole resource expected, found one that spans parts",
                )
                .at("image offset", at()));
            }
            let solid = blob.resource.is(res::SOLID);
            if solid && !in_run {
                *run = run.saturating_add(1);
                start = 0;
            }
            in_run = solid;
            let here = number == blob.part;
            if !here && self.is_split() {
                return Err(Error::malformed(format!(
                    "WIM blob: contents of part {number} expected, found some of part {}",
                    blob.part
                ))
                .at("image offset", at()));
            }
            let index = self.blobs.len();
            if blob.is_solid_resource() {
                blob.resource = blob.resource.shifted(range.start);
                blob.resource
                    .check_inside("WIM solid resource", range)
                    .at("image offset", at())?;
                let chunks = self.solid_chunks(&blob.resource).at("image offset", at())?;
                let len = chunks.len;
                self.solids.push(Solid {
                    blob: index,
                    start,
                    run: *run,
                    chunks: Arc::new(chunks),
                });
                start = start.saturating_add(len);
            } else if !solid && here {
                blob.resource = blob.resource.shifted(range.start);
                blob.resource
                    .check_inside("WIM resource", range)
                    .at("image offset", at())?;
                if !blob.resource.is(res::COMPRESSED) && blob.resource.size != blob.resource.len {
                    return Err(Error::malformed(format!(
                        "WIM blob: as many bytes in the file as contents expected, found {} and {}",
                        blob.resource.size, blob.resource.len
                    ))
                    .at("image offset", at()));
                }
            }
            self.runs.push(solid.then_some(*run));
            if !blob.is_metadata()
                && !blob.is_solid_resource()
                && self.by_hash.insert(blob.hash, index).is_some()
            {
                return Err(Error::malformed(format!(
                    "WIM blob table: contents listed once expected, found {} twice",
                    hex::encode(blob.hash)
                ))
                .at("image offset", at()));
            }
            self.blobs.push(blob);
        }
        Ok(())
    }

    /// As [`Self::check_overlaps`], inside solid resources.
    fn check_solid_overlaps(&self) -> Result<()> {
        let inside = self.runs.iter().zip(&self.blobs).filter_map(|(run, blob)| {
            let taken = !blob.is_solid_resource() && blob.resource.size > 0;
            let start = blob.resource.offset;
            let end = start.saturating_add(blob.resource.size);
            Some(((*run)?, start..end)).filter(|_| taken)
        });
        let mut taken: Vec<(usize, Range<u64>)> = inside.collect();
        taken.sort_unstable_by_key(|(run, range)| (*run, range.start, range.end));
        for ((run, one), (other, next)) in taken.iter().zip(taken.iter().skip(1)) {
            if run == other && next.start < one.end {
                return Err(Error::malformed(format!(
                    "WIM solid resource: contents in a place of their own expected, found some at \
                     {:#x} in those at {:#x}",
                    next.start, one.start
                )));
            }
        }
        Ok(())
    }

    /// For contents in a solid resource: which one, and where in it they begin.
    pub(super) fn solid_of(&self, index: usize) -> Result<Option<(usize, u64)>> {
        let Some(run) = self.runs.get(index).copied().flatten() else {
            return Ok(None);
        };
        let blob = self
            .blobs
            .get(index)
            .ok_or_else(|| Error::internal("WIM blob: its number"))?;
        let start = blob.resource.offset;
        // Those of a run lie one behind the other.
        let behind = self
            .solids
            .partition_point(|solid| (solid.run, solid.start) <= (run, start));
        let found = behind
            .checked_sub(1)
            .and_then(|at| Some((at, self.solids.get(at)?)))
            .filter(|(_, solid)| {
                let end = solid.start.saturating_add(solid.chunks.len.max(1));
                solid.run == run && start < end
            });
        match found {
            Some((at, solid)) => {
                let inside = start.saturating_sub(solid.start);
                let end = inside.saturating_add(blob.resource.size);
                if end > solid.chunks.len {
                    return Err(Error::malformed(format!(
                        "WIM blob: contents inside one solid resource of {} bytes expected, found \
                         them end at {end}",
                        solid.chunks.len
                    )));
                }
                Ok(Some((at, inside)))
            }
            None => Err(Error::malformed(format!(
                "WIM blob: contents in a solid resource expected, found them at {start:#x} of none"
            ))),
        }
    }

    /// No two resources may share a byte: writing one would change the other.
    fn check_overlaps(&self) -> Result<()> {
        let mut taken: Vec<Range<u64>> = self.resources().map(|one| one.range()).collect();
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| (range.start, range.end));
        for (one, next) in taken.iter().zip(taken.iter().skip(1)) {
            if next.start < one.end {
                return Err(Error::malformed(format!(
                    "WIM: each resource in a place of its own expected, found one at {:#x} in that \
                     at {:#x}",
                    next.start, one.start
                ))
                .at("image offset", format_args!("{:#x}", next.start)));
            }
        }
        Ok(())
    }

    /// Everything that takes bytes of the files, the tables included, the headers not.
    pub(super) fn resources(&self) -> impl Iterator<Item = Resource> {
        let blobs = self.blobs.iter().filter(|blob| {
            self.has_part(blob) && (!blob.resource.is(res::SOLID) || blob.is_solid_resource())
        });
        let tables = self.parts.iter();
        let tables = tables.flat_map(|part| [part.table(), part.xml(), part.integrity()]);
        blobs.map(|blob| blob.resource).chain(tables)
    }

    /// A resource that is read whole and is not too long for that.
    fn small(&self, one: &Resource, range: &Range<u64>, what: &str, limit: u64) -> Result<Vec<u8>> {
        one.check_inside(what, range)?;
        let at = |error: Error| error.at("image offset", format_args!("{:#x}", one.offset));
        if !one.is(res::COMPRESSED) && one.size != one.len {
            return Err(at(Error::malformed(format!(
                "{what}: as many bytes in the file as contents expected, found {} and {}",
                one.size, one.len
            ))));
        }
        if one.len > limit {
            return Err(at(Error::limit(format!(
                "{what}: at most {limit} bytes expected, found {}",
                one.len
            ))));
        }
        self.whole(one, what)
    }

    /// The blob table of a part, as it is.
    pub(super) fn table(&self, part: &Part) -> Result<Vec<u8>> {
        self.small(&part.table(), &part.range, "WIM blob table", TABLE_LIMIT)
    }

    /// The XML data of a part.
    pub(super) fn xml(&self, part: &Part) -> Result<Vec<u8>> {
        self.small(&part.xml(), &part.range, "WIM XML data", XML_LIMIT)
    }

    /// The integrity table of a part; empty if there is none.
    pub(super) fn integrity(&self, part: &Part) -> Result<Vec<u8>> {
        let one = part.integrity();
        self.small(&one, &part.range, "WIM integrity table", TABLE_LIMIT)
    }

    /// An image's metadata, its hash checked.
    pub(super) fn metadata(&self, blob: &Blob) -> Result<Vec<u8>> {
        let limit = self
            .len()
            .saturating_mul(METADATA_RATIO)
            .min(METADATA_LIMIT);
        let range = &self.part(self.part_of(blob))?.range;
        let bytes = self.small(&blob.resource, range, "WIM metadata", limit)?;
        let found: Hash = Sha1::digest(&bytes).into();
        match found == blob.hash {
            true => Ok(bytes),
            false => Err(Error::malformed(format!(
                "WIM metadata: SHA-1 {} expected, found {}",
                hex::encode(blob.hash),
                hex::encode(found)
            ))
            .at("image offset", format_args!("{:#x}", blob.resource.offset))),
        }
    }

    /// The blob with these contents.
    pub(super) fn blob(&self, hash: &Hash) -> Option<(usize, &Blob)> {
        let index = *self.by_hash.get(hash)?;
        Some((index, self.blobs.get(index)?))
    }

    /// How the contents of a resource outside solid ones are cut.
    pub(super) fn chunks(&self, one: &Resource, what: &str) -> Result<Chunks> {
        let fail = |found: String| {
            Error::malformed(format!("{what}: {found}"))
                .at("image offset", format_args!("{:#x}", one.offset))
        };
        if !one.is(res::COMPRESSED) {
            // One chunk a megabyte: nothing is ever read whole that need not be.
            let chunk_size = 1_u32 << 20;
            let count = one.len.div_ceil(u64::from(chunk_size));
            let bounds = (0..=count)
                .map(|index| {
                    let inside = index.saturating_mul(u64::from(chunk_size)).min(one.len);
                    one.offset.saturating_add(inside)
                })
                .collect();
            return Ok(Chunks {
                method: None,
                chunk_size,
                len: one.len,
                bounds,
            });
        }
        let method = self.method.ok_or_else(|| {
            fail("a compression method in the header expected, found none".into())
        })?;
        let chunk_size = self.header.chunk_size;
        let count = one.len.div_ceil(u64::from(chunk_size)).max(1);
        let width: u64 = if one.len > format::WIDE_OFFSETS { 8 } else { 4 };
        let table_len = count.saturating_sub(1).saturating_mul(width);
        if table_len > one.size {
            return Err(fail(format!(
                "a table of {count} chunks expected, found only {} bytes",
                one.size
            )));
        }
        let mut table = vec![0; narrow(table_len, what)?];
        self.host
            .read_at(one.offset, &mut table)
            .at("image offset", format_args!("{:#x}", one.offset))?;
        let data = one.offset.saturating_add(table_len);
        let end = one.range().end;
        let mut bounds = vec![data];
        for entry in table.chunks_exact(narrow(width, what)?) {
            let inside = entry
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
            bounds.push(data.saturating_add(inside));
        }
        bounds.push(end);
        self.checked(method, chunk_size, one.len, bounds, &fail)
    }

    fn checked(
        &self,
        method: Method,
        chunk_size: u32,
        len: u64,
        bounds: Vec<u64>,
        fail: &dyn Fn(String) -> Error,
    ) -> Result<Chunks> {
        let chunks = Chunks {
            method: Some(method),
            chunk_size,
            len,
            bounds,
        };
        let mut rest = len;
        for (index, pair) in chunks.bounds.windows(2).enumerate() {
            let [start, end] = pair else { continue };
            let full = rest.min(u64::from(chunk_size));
            rest = rest.saturating_sub(full);
            let size = end.saturating_sub(*start);
            if end < start || size > full || (size == 0 && full > 0) {
                return Err(fail(format!(
                    "1 to {full} bytes for chunk {index} expected, found them from {start:#x} to \
                     {end:#x}"
                )));
            }
        }
        Ok(chunks)
    }

    fn solid_chunks(&self, one: &Resource) -> Result<Chunks> {
        let fail = |found: String| {
            Error::malformed(format!("WIM solid resource: {found}"))
                .at("image offset", format_args!("{:#x}", one.offset))
        };
        let mut head = vec![0; format::SOLID_HEADER];
        if one.size < wide(head.len()) {
            return Err(fail("a header expected, found too few bytes".to_owned()));
        }
        self.host.read_at(one.offset, &mut head)?;
        let view = View::new(&head, "WIM solid resource");
        let (len, chunk_size) = (view.u64(0)?, view.u32(8)?);
        let method = match view.u32(12)? {
            1 => Method::Xpress,
            2 => Method::Lzx,
            3 => Method::Lzms,
            other => {
                return Err(fail(format!(
                    "compression method 1, 2 or 3 expected, found {other}"
                )));
            }
        };
        if !(chunk_size.is_power_of_two() && method.chunk_sizes().contains(&chunk_size)) {
            return Err(fail(format!(
                "a chunk size between {} and {} expected, found {chunk_size}",
                method.chunk_sizes().start(),
                method.chunk_sizes().end()
            )));
        }
        let count = len.div_ceil(u64::from(chunk_size));
        let table_len = count.saturating_mul(4);
        let head_len = wide(format::SOLID_HEADER);
        if head_len.saturating_add(table_len) > one.size {
            return Err(fail(format!(
                "a table of {count} chunks expected, found {} bytes",
                one.size
            )));
        }
        let mut table = vec![0; narrow(table_len, "WIM solid resource")?];
        let at = one.offset.saturating_add(head_len);
        self.host.read_at(at, &mut table)?;
        let mut next = at.saturating_add(table_len);
        let mut bounds = vec![next];
        let (sizes, _) = table.as_chunks::<4>();
        for size in sizes {
            next = next.saturating_add(u64::from(u32::from_le_bytes(*size)));
            bounds.push(next);
        }
        if next != one.range().end {
            return Err(fail(format!(
                "chunks up to {:#x} expected, found them up to {next:#x}",
                one.range().end
            )));
        }
        self.checked(method, chunk_size, len, bounds, &fail)
    }

    /// The contents of a chunk; `Malformed` if they do not decode.
    pub(super) fn chunk(&self, chunks: &Chunks, index: usize) -> Result<Vec<u8>> {
        let place = chunks.place(index)?;
        let contents = chunks.contents(index);
        let len = narrow(contents.end.saturating_sub(contents.start), "WIM chunk")?;
        let size = narrow(place.end.saturating_sub(place.start), "WIM chunk")?;
        if contents.end.saturating_sub(contents.start) > CHUNK_LIMIT {
            return Err(Error::limit(format!(
                "WIM chunk: at most {CHUNK_LIMIT} bytes expected, found {len}"
            ))
            .at("image offset", format_args!("{:#x}", place.start))
            .advise("export it with smaller chunks: wimexport IMAGE all new.esd --solid"));
        }
        let mut packed = vec![0; size];
        self.host
            .read_at(place.start, &mut packed)
            .at("image offset", format_args!("{:#x}", place.start))?;
        let Some(method) = chunks.method.filter(|_| size != len) else {
            return Ok(packed);
        };
        let mut out = vec![0; len];
        let fail = |fault: super::codec::Fault| {
            Error::malformed(format!(
                "WIM chunk: {len} bytes expected from {size}, found: {fault}"
            ))
            .at("image offset", format_args!("{:#x}", place.start))
        };
        let wanted = (method, chunks.chunk_size);
        let idle = self.with_kept(|kept| {
            let known = kept
                .decoders
                .iter()
                .position(|(m, size, _)| (*m, *size) == wanted);
            known.map(|at| kept.decoders.swap_remove(at).2)
        })?;
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(method, chunks.chunk_size).map_err(fail)?,
        };
        let decoded = decoder.decode(&packed, &mut out).map_err(fail);
        self.with_kept(|kept| kept.decoders.push((method, chunks.chunk_size, decoder)))?;
        decoded?;
        Ok(out)
    }

    /// The contents of chunks that follow one another, decoded by two threads if they are small.
    pub(super) fn chunks_from(&self, chunks: &Chunks, which: Range<usize>) -> Result<Vec<Vec<u8>>> {
        let all = |which: Range<usize>| which.map(|index| self.chunk(chunks, index)).collect();
        if which.len() < 2 || u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            return all(which);
        }
        let middle = which.start.saturating_add(which.len().div_euclid(2));
        let (front, back): (Result<Vec<_>>, _) = std::thread::scope(|scope| {
            let back = scope.spawn(|| all(middle..which.end));
            (all(which.start..middle), back.join())
        });
        let mut found = front?;
        let back: Result<Vec<_>> =
            back.map_err(|_| Error::internal("WIM chunks: the thread died"))?;
        found.extend(back?);
        Ok(found)
    }

    /// As [`Self::read_blob`], by two threads if the chunks are small.
    pub(super) fn read_blob_fast(&self, index: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (chunks, _) = self.place_of(index)?;
        if wide(buf.len()) < FAST_FROM || u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            return self.read_blob(index, offset, buf);
        }
        let half = buf.len().div_euclid(2);
        let (front, back) = buf.split_at_mut(half);
        let behind = offset.saturating_add(wide(half));
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| self.read_blob(index, behind, back));
            (self.read_blob(index, offset, front), second.join())
        });
        first?;
        second.map_err(|_| Error::internal("WIM contents: the thread died"))?
    }

    /// Fills `buf` from `offset` of the contents.
    fn read_chunks(&self, chunks: &Chunks, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(wide(buf.len()));
        if end > chunks.len {
            return Err(Error::malformed(format!(
                "WIM contents: {} bytes expected at {offset:#x}, they end at {:#x}",
                buf.len(),
                chunks.len
            )));
        }
        let size = u64::from(chunks.chunk_size);
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let index = narrow(at.checked_div(size).unwrap_or(0), "WIM chunk")?;
            let inside = narrow(at.checked_rem(size).unwrap_or(0), "WIM chunk")?;
            let take = self.with_chunk(chunks, index, |bytes| {
                let from = bytes.get(inside..).unwrap_or_default();
                let take = from.len().min(rest.len());
                if let (Some(to), Some(from)) = (rest.get_mut(..take), from.get(..take)) {
                    to.copy_from_slice(from);
                }
                take
            })?;
            if take == 0 {
                return Err(Error::internal("WIM contents: an empty chunk"));
            }
            at = at.saturating_add(wide(take));
            rest = std::mem::take(&mut rest).split_at_mut(take).1;
        }
        Ok(())
    }

    /// Shows a chunk's contents, and keeps them for the next one who asks.
    fn with_chunk<T>(
        &self,
        chunks: &Chunks,
        index: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let place = chunks.place(index)?.start;
        if u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            let mut kept = LARGE.lock().map_err(|_| poisoned())?;
            match kept.as_ref() {
                Some((id, at, bytes)) if (*id, *at) == (self.id, place) => return Ok(look(bytes)),
                // Before the next one takes as much again.
                _ => *kept = None,
            }
            let bytes = self.chunk(chunks, index)?;
            let out = look(&bytes);
            *kept = Some((self.id, place, bytes));
            return Ok(out);
        }
        let mut look = Some(look);
        let seen = self.with_kept(|kept| {
            let (_, bytes) = kept.chunk.as_ref().filter(|(at, _)| *at == place)?;
            look.take().map(|look| look(bytes))
        })?;
        if let Some(seen) = seen {
            return Ok(seen);
        }
        let look = look.ok_or_else(|| Error::internal("WIM chunk: looked at twice"))?;
        let bytes = self.chunk(chunks, index)?;
        let out = look(&bytes);
        self.with_kept(|kept| kept.chunk = Some((place, bytes)))?;
        Ok(out)
    }

    /// The number of the chunk that is kept, if it is one of these.
    pub(super) fn kept_chunk(&self, chunks: &Chunks) -> Result<Option<usize>> {
        let kept = LARGE.lock().map_err(|_| poisoned())?;
        let own = kept.as_ref().filter(|(id, _, _)| *id == self.id);
        Ok(own.and_then(|(_, at, _)| {
            let starts = chunks.bounds.get(..chunks.count())?;
            starts.binary_search(at).ok()
        }))
    }

    /// As [`Self::chunk`]; what is kept of the last large one goes out or away.
    pub(super) fn take_chunk(&self, chunks: &Chunks, index: usize) -> Result<Vec<u8>> {
        let place = chunks.place(index)?.start;
        let kept = LARGE.lock().map_err(|_| poisoned())?.take();
        match kept {
            Some((id, at, bytes)) if (id, at) == (self.id, place) => Ok(bytes),
            other => {
                drop(other);
                self.chunk(chunks, index)
            }
        }
    }

    /// Whether contents are best read from their begin to their end: each of their chunks takes long.
    pub(super) fn is_read_in_order(&self, index: usize) -> Result<bool> {
        let (chunks, _) = self.place_of(index)?;
        Ok(u64::from(chunks.chunk_size) >= LARGE_CHUNK)
    }

    fn with_kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> Result<T> {
        let mut kept = self.kept.lock().map_err(|_| poisoned())?;
        Ok(look(&mut kept))
    }

    /// The chunks that hold a blob, and where in them it begins.
    pub(super) fn place_of(&self, index: usize) -> Result<(Arc<Chunks>, u64)> {
        let blob = self
            .blobs
            .get(index)
            .ok_or_else(|| Error::internal("WIM blob: its number"))?;
        if !self.has_part(blob) {
            return Err(Error::unsupported(format!(
                "WIM blob: contents in this part ({}) expected, found them in part {}",
                self.header.part, blob.part
            ))
            .advise("join the parts first: wimjoin all.wim part*.swm"));
        }
        match self.solid_of(index)? {
            None => Ok((Arc::new(self.chunks(&blob.resource, "WIM resource")?), 0)),
            Some((at, inside)) => {
                let solid = self.solids.get(at);
                let solid =
                    solid.ok_or_else(|| Error::internal("WIM solid resource: its number"))?;
                Ok((Arc::clone(&solid.chunks), inside))
            }
        }
    }

    /// Fills `buf` from `offset` of a blob's contents.
    pub(super) fn read_blob(&self, index: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (chunks, start) = self.place_of(index)?;
        let len = self.blobs.get(index).map_or(0, Blob::len);
        if offset.saturating_add(wide(buf.len())) > len {
            return Err(Error::malformed(format!(
                "WIM contents: {} bytes expected at {offset:#x}, they end at {len:#x}",
                buf.len()
            )));
        }
        self.read_chunks(&chunks, start.saturating_add(offset), buf)
    }

    /// How many bytes of a range of the file are not zero.
    pub(super) fn host_dirt(&self, range: Range<u64>) -> Result<u64> {
        let mut dirty = 0_u64;
        let mut at = range.start;
        let mut buffer = vec![0; 1 << 16];
        while at < range.end {
            let take = range.end.saturating_sub(at).min(wide(buffer.len()));
            let piece = buffer.get_mut(..narrow(take, "WIM gap")?);
            let piece = piece.unwrap_or_default();
            self.host.read_at(at, piece)?;
            let found = piece.iter().filter(|byte| **byte != 0).count();
            dirty = dirty.saturating_add(wide(found));
            at = at.saturating_add(take);
        }
        Ok(dirty)
    }

    /// How many bytes of a range of contents are not zero.
    pub(super) fn count_dirty(&self, chunks: &Chunks, range: Range<u64>) -> Result<u64> {
        let mut dirty = 0_u64;
        let mut at = range.start;
        let mut buffer = vec![0; 1 << 16];
        while at < range.end {
            let take = range.end.saturating_sub(at).min(wide(buffer.len()));
            let piece = buffer.get_mut(..narrow(take, "WIM contents")?);
            let piece = piece.unwrap_or_default();
            self.read_chunks(chunks, at, piece)?;
            let found = piece.iter().filter(|byte| **byte != 0).count();
            dirty = dirty.saturating_add(wide(found));
            at = at.saturating_add(take);
        }
        Ok(dirty)
    }

    fn whole(&self, one: &Resource, what: &str) -> Result<Vec<u8>> {
        let chunks = self.chunks(one, what)?;
        let mut out = Vec::new();
        if one.len > 0 {
            for index in 0..chunks.count() {
                out.extend(self.chunk(&chunks, index)?);
            }
        }
        out.shrink_to_fit();
        Ok(out)
    }
}

impl Drop for File {
    /// A large chunk of a closed file is of no use.
    fn drop(&mut self) {
        if let Ok(mut kept) = LARGE.lock()
            && kept.as_ref().is_some_and(|(id, _, _)| *id == self.id)
        {
            *kept = None;
        }
    }
}
