//! Reads header, blob table and resources.

use std::{collections::HashMap, ops::Range, sync::Arc};

use sha1::{Digest, Sha1};

use super::{
    chunks::{Chunks, Keeper},
    codec::Method,
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
/// Metadata may be so many times longer than the file: more is a bomb.
const METADATA_RATIO: u64 = 512;
pub(super) const METADATA_LIMIT: u64 = 2 << 30;

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
    pub keeper: Keeper,
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
            keeper: Keeper::new(),
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
}
