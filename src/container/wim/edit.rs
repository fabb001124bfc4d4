//! Writes a WIM whose trees were edited: new contents, metadata, tables, and zeros where nothing is
//! any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use sha1::{Digest, Sha1};

use super::{
    Pending, Tree, Wim,
    codec::{Encoder, Method},
    format::{self, BLOB_LEN, HASH_LEN, res},
    links_of,
    read::{Blob, Chunks, File, Hash, Resource, narrow, wide},
    xml::{Less, Xml},
};
use crate::{
    bytes::{View, all_zero, put},
    error::{Error, Result},
    text::WinPath,
};

/// Bytes compared and hashed in one go.
const STEP: u64 = 1 << 20;
/// Most remarks on contents that stay.
const MAX_KEPT: usize = 10;
/// Zeros are written in pages, so that what is zero already stays untouched.
const PAGE: u64 = 4096;

/// Contents as they are to stand in the file.
struct Packed {
    hash: Hash,
    /// Place still open.
    resource: Resource,
    bytes: Vec<u8>,
    /// Where the old contents are.
    old: u64,
}

/// An old compressed chunk, and what it is to a new one.
enum Old {
    None,
    /// It holds the same.
    Same(Vec<u8>),
    /// It holds nearly the same: its matches are a good start.
    Like(Vec<u8>),
}

/// Gives chunk after chunk: what it holds, and the old chunk in its place.
type Source<'a> = &'a mut dyn FnMut(usize, Range<u64>) -> Result<(Vec<u8>, Old)>;

/// Makes one resource of contents, chunk by chunk.
struct Packer {
    method: Option<Method>,
    chunk_size: u32,
    encoder: Option<Encoder>,
}

impl Packer {
    fn new(file: &File) -> Self {
        Self {
            method: file.method,
            chunk_size: file.header.chunk_size,
            encoder: None,
        }
    }

    fn encode(
        &mut self,
        method: Method,
        plain: &[u8],
        like: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>> {
        if self.encoder.is_none() {
            let made = Encoder::new(method, self.chunk_size);
            self.encoder =
                Some(made.map_err(|fault| Error::internal(format!("WIM codec: {fault}")))?);
        }
        Ok(self.encoder.as_mut().and_then(|encoder| match like {
            Some(old) => encoder.encode_like(old, plain),
            None => encoder.encode(plain),
        }))
    }

    /// The new resource's bytes, whether they are compressed, and the hash of the contents.
    fn pack(
        &mut self,
        len: u64,
        compress: bool,
        contents: Source<'_>,
    ) -> Result<(Vec<u8>, bool, Hash)> {
        let method = self.method.filter(|_| compress);
        let size = match method {
            Some(_) => u64::from(self.chunk_size),
            None => STEP,
        };
        let count = narrow(len.div_ceil(size), "WIM resource")?;
        let mut hash = Sha1::new();
        let mut data = Vec::new();
        let mut starts = Vec::new();
        for index in 0..count {
            let start = wide(index).saturating_mul(size);
            let (plain, packed) = contents(index, start..start.saturating_add(size).min(len))?;
            hash.update(&plain);
            starts.push(wide(data.len()));
            match (method, packed) {
                (Some(_), Old::Same(packed)) => data.extend(packed),
                (Some(method), old) => {
                    let like = match &old {
                        Old::Like(packed) => Some(packed.as_slice()),
                        _ => None,
                    };
                    data.extend(self.encode(method, &plain, like)?.unwrap_or(plain));
                }
                (None, _) => data.extend(plain),
            }
        }
        let hash: Hash = hash.finalize().into();
        if method.is_none() {
            return Ok((data, false, hash));
        }
        let mut bytes = Vec::with_capacity(data.len());
        for start in starts.iter().skip(1) {
            match len > format::WIDE_OFFSETS {
                true => bytes.extend(start.to_le_bytes()),
                false => bytes.extend(u32::try_from(*start).unwrap_or(0).to_le_bytes()),
            }
        }
        bytes.extend(data);
        Ok((bytes, true, hash))
    }

    /// As [`Self::pack`]; what would not become shorter is stored as it is.
    fn resource(
        &mut self,
        len: u64,
        compress: bool,
        flags: u8,
        contents: Source<'_>,
        plain: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<(Vec<u8>, Resource, Hash)> {
        let (mut bytes, mut packed, hash) = self.pack(len, compress, contents)?;
        if packed && wide(bytes.len()) >= len {
            bytes = Vec::new();
            let mut at = 0;
            while at < len {
                let end = at.saturating_add(STEP).min(len);
                bytes.extend(plain(at..end)?);
                at = end;
            }
            packed = false;
        }
        let resource = Resource {
            size: wide(bytes.len()),
            flags: flags | if packed { res::COMPRESSED } else { 0 },
            offset: 0,
            len,
        };
        Ok((bytes, resource, hash))
    }
}

/// What is written over contents.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
enum Change {
    Zeros,
    Bytes(BTreeMap<u64, Vec<u8>>),
}

impl Change {
    /// Applies itself to the bytes `at..at + plain.len()` of the contents.
    fn apply(&self, at: u64, plain: &mut [u8]) -> Result<()> {
        match self {
            Self::Zeros => plain.fill(0),
            Self::Bytes(writes) => {
                let end = at.saturating_add(wide(plain.len()));
                for (offset, bytes) in writes {
                    let stop = offset.saturating_add(wide(bytes.len()));
                    let (from, to) = ((*offset).max(at), stop.min(end));
                    if from >= to {
                        continue;
                    }
                    let skip = narrow(from.saturating_sub(*offset), "WIM file")?;
                    let take = narrow(to.saturating_sub(from), "WIM file")?;
                    let new = View::new(bytes, "WIM file").get(skip, take)?;
                    put(
                        plain,
                        narrow(from.saturating_sub(at), "WIM file")?,
                        new,
                        "WIM file",
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// New contents of a blob: the old ones with a change.
fn changed(file: &File, index: usize, change: &Change) -> Result<Packed> {
    let blob = file
        .blobs
        .get(index)
        .ok_or_else(|| Error::internal("WIM blob: its number"))?;
    if blob.resource.is(res::SOLID) {
        return Err(Error::refused(
            "WIM: contents in a resource of their own expected, found them in a solid one",
        ));
    }
    let (chunks, _) = file.place_of(index)?;
    let mut was = Sha1::new();
    let mut contents = |at: usize, range: Range<u64>| {
        let mut plain = file.chunk(&chunks, at)?;
        was.update(&plain);
        let old = plain.clone();
        change.apply(range.start, &mut plain)?;
        let same = old == plain;
        let packed = packed_chunk(file, &chunks, at)?;
        Ok((plain, old_of(packed, same)))
    };
    let mut packer = Packer::new(file);
    let compress = blob.resource.is(res::COMPRESSED);
    let mut again = |range: Range<u64>| {
        let mut plain = vec![0; narrow(range.end.saturating_sub(range.start), "WIM file")?];
        file.read_blob(index, range.start, &mut plain)?;
        change.apply(range.start, &mut plain)?;
        Ok(plain)
    };
    let (bytes, resource, hash) = packer.resource(
        blob.len(),
        compress,
        blob.resource.flags & !res::COMPRESSED,
        &mut contents,
        &mut again,
    )?;
    let was: Hash = was.finalize().into();
    if was != blob.hash {
        return Err(Error::malformed(format!(
            "WIM contents: SHA-1 {} expected, found {}",
            hex::encode(blob.hash),
            hex::encode(was)
        ))
        .at("image offset", format_args!("{:#x}", blob.resource.offset))
        .advise("the file is damaged: take another copy of it"));
    }
    Ok(Packed {
        hash,
        resource,
        bytes,
        old: blob.resource.offset,
    })
}

/// The bytes of a chunk as they stand in the file; none if it is not compressed.
fn packed_chunk(file: &File, chunks: &Chunks, index: usize) -> Result<Option<Vec<u8>>> {
    if chunks.method.is_none() || index >= chunks.count() {
        return Ok(None);
    }
    let place = chunks.place(index)?;
    let size = place.end.saturating_sub(place.start);
    let mut packed = vec![0; narrow(size, "WIM chunk")?];
    file.host.read_at(place.start, &mut packed)?;
    Ok(Some(packed))
}

fn old_of(packed: Option<Vec<u8>>, same: bool) -> Old {
    match packed {
        None => Old::None,
        Some(packed) if same => Old::Same(packed),
        Some(packed) => Old::Like(packed),
    }
}

/// New metadata of an image.
fn metadata(file: &File, blob: &Blob, old: &[u8], new: &[u8]) -> Result<Packed> {
    let compressed = blob.resource.is(res::COMPRESSED);
    let chunks = file.chunks(&blob.resource, "WIM metadata")?;
    let piece = |bytes: &[u8], range: &Range<u64>| -> Option<Vec<u8>> {
        let (from, to) = (
            usize::try_from(range.start).ok()?,
            usize::try_from(range.end).ok()?,
        );
        bytes.get(from..to).map(<[u8]>::to_vec)
    };
    let lost = || Error::internal("WIM metadata: a piece of it");
    let mut contents = |at: usize, range: Range<u64>| {
        let plain = piece(new, &range).ok_or_else(lost)?;
        let same = compressed
            && piece(old, &range).as_ref() == Some(&plain)
            && chunks.contents(at) == range;
        // A chunk of the same length: one stored as it is looks like no compressed one.
        let alike = compressed && chunks.contents(at) == range;
        let packed = match alike {
            true => packed_chunk(file, &chunks, at)?,
            false => None,
        };
        Ok((plain, old_of(packed, same)))
    };
    let mut again = |range: Range<u64>| piece(new, &range).ok_or_else(lost);
    let (bytes, resource, hash) = Packer::new(file).resource(
        wide(new.len()),
        file.method.is_some(),
        res::METADATA,
        &mut contents,
        &mut again,
    )?;
    Ok(Packed {
        hash,
        resource,
        bytes,
        old: blob.resource.offset,
    })
}

/// What one image's edit does.
struct ImageEdit {
    image: usize,
    gone: HashSet<usize>,
    /// Places of hashes in the metadata, and the new hash.
    hashes: Vec<(usize, Hash)>,
    less: Less,
}

fn image_edit(
    wim: &Wim,
    image: usize,
    pending: &Pending,
    renamed: &HashMap<(usize, usize), Hash>,
) -> Result<Option<ImageEdit>> {
    let tree = wim.tree(image)?;
    let mut edit = ImageEdit {
        image,
        gone: HashSet::new(),
        hashes: Vec::new(),
        less: Less::default(),
    };
    for (_, first) in pending.gone.iter().filter(|(of, _)| *of == image) {
        edit.gone.extend(tree.dentries_of(*first));
    }
    for ((_, first), hash) in renamed.iter().filter(|((of, _), _)| *of == image) {
        for number in tree.dentries_of(*first) {
            let one = tree.metadata.dentries.get(number);
            let stream = one.and_then(|one| one.streams.get(one.data?));
            let stream = stream.ok_or_else(|| Error::internal("WIM: a stream that was written"))?;
            edit.hashes.push((stream.hash_at, *hash));
        }
    }
    if edit.gone.is_empty() && edit.hashes.is_empty() {
        return Ok(None);
    }
    for (first, names) in links_of(tree, &edit.gone) {
        let streams = tree.metadata.dentries.get(first).map(|one| &one.streams);
        let bytes: u64 = streams
            .into_iter()
            .flatten()
            .filter_map(|stream| wim.file.blob(&stream.hash))
            .map(|(_, blob)| blob.len())
            .fold(0, u64::saturating_add);
        edit.less.files = edit.less.files.saturating_add(names);
        edit.less.bytes = edit.less.bytes.saturating_add(bytes.saturating_mul(names));
        let linked = bytes.saturating_mul(names.saturating_sub(1));
        edit.less.link_bytes = edit.less.link_bytes.saturating_add(linked);
    }
    Ok(Some(edit))
}

/// How often each contents are referenced when the edits are made.
fn count_refs(wim: &Wim, edits: &[ImageEdit]) -> HashMap<Hash, u32> {
    let mut refs: HashMap<Hash, u32> = HashMap::new();
    for (image, tree) in wim.trees.iter().enumerate() {
        let edit = edits.iter().find(|edit| edit.image == image);
        let new: HashMap<usize, Hash> = edit
            .map(|edit| edit.hashes.iter().copied().collect())
            .unwrap_or_default();
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            if edit.is_some_and(|edit| edit.gone.contains(&number)) {
                continue;
            }
            for stream in &one.streams {
                let hash = new.get(&stream.hash_at).unwrap_or(&stream.hash);
                if *hash != format::NO_HASH {
                    let count = refs.entry(*hash).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
    }
    refs
}

/// Writes what is pending; says what of the old contents stays.
pub(super) fn write(wim: &Wim) -> Result<Vec<String>> {
    let pending = std::mem::take(&mut *wim.pending()?);
    let file = &wim.file;
    let (renamed, mut new_blobs) = new_contents(wim, &pending)?;
    let mut edits = Vec::new();
    for image in 0..wim.trees.len() {
        edits.extend(image_edit(wim, image, &pending, &renamed)?);
    }
    if edits.is_empty() {
        return Ok(Vec::new());
    }
    let refs = count_refs(wim, &edits);
    let xml = wim.xml.clone();
    let mut xml = xml.ok_or_else(|| Error::internal("WIM XML data: none to be changed"))?;
    let mut new_metadata: HashMap<usize, Packed> = HashMap::new();
    for edit in &edits {
        let Tree {
            blob,
            metadata: old,
            ..
        } = wim.tree(edit.image)?;
        let entry = file
            .blobs
            .get(*blob)
            .ok_or_else(|| Error::internal("WIM blob: its number"))?;
        let new = old.rebuilt(&edit.gone, &edit.hashes)?;
        new_metadata.insert(*blob, metadata(file, entry, &old.bytes, &new)?);
        let number = u32::try_from(edit.image.saturating_add(1)).unwrap_or(u32::MAX);
        xml.subtract(number, edit.less)?;
    }
    // The table as it will be; what is new has no place yet.
    let touched: HashSet<Hash> = touched_hashes(wim, &pending, &renamed);
    let mut table: Vec<(Blob, Option<Packed>)> = Vec::new();
    for (index, blob) in file.blobs.iter().enumerate() {
        if blob.is_metadata() {
            match new_metadata.remove(&index) {
                Some(packed) => {
                    let entry = Blob {
                        resource: packed.resource,
                        hash: packed.hash,
                        ..*blob
                    };
                    table.push((entry, Some(packed)));
                }
                // Metadata of no image is left from an earlier state: it goes.
                None if blob.refs == 0 => {}
                None => table.push((*blob, None)),
            }
            continue;
        }
        let count = refs.get(&blob.hash).copied().unwrap_or(0);
        // A wrong count stays as it is, but contents that a file has never go.
        let refs = match (touched.contains(&blob.hash), blob.refs) {
            (true, _) | (false, 0) => count,
            (false, listed) => listed,
        };
        if refs > 0 {
            table.push((Blob { refs, ..*blob }, None));
        }
        // New contents stand where the old ones stood.
        let mut rest = Vec::new();
        for (of, packed) in new_blobs {
            match of == index {
                true => {
                    let entry = Blob {
                        resource: packed.resource,
                        part: blob.part,
                        refs: refs_of(&packed.hash, wim, &edits),
                        hash: packed.hash,
                    };
                    table.push((entry, Some(packed)));
                }
                false => rest.push((of, packed)),
            }
        }
        new_blobs = rest;
    }
    lay_out(wim, table, xml)?;
    Ok(kept_contents(wim, &pending, &renamed, &edits))
}

/// A remark for each old contents of a changed or removed file that another file has, too.
fn kept_contents(
    wim: &Wim,
    pending: &Pending,
    renamed: &HashMap<(usize, usize), Hash>,
    edits: &[ImageEdit],
) -> Vec<String> {
    let name = |image: usize, number: usize| {
        let tree = wim.trees.get(image);
        let path = tree.map(|tree| tree.metadata.path(number));
        let path = WinPath(path.unwrap_or_default());
        format!("{path} of image {}", image.saturating_add(1))
    };
    let mut old: HashMap<Hash, (usize, usize)> = HashMap::new();
    for key in pending.gone.iter().chain(renamed.keys()) {
        let tree = wim.trees.get(key.0);
        let Some(one) = tree.and_then(|tree| tree.metadata.dentries.get(key.1)) else {
            continue;
        };
        let streams = match pending.gone.contains(key) {
            true => one.streams.as_slice(),
            false => {
                let data = one.data.and_then(|at| one.streams.get(at));
                data.map(std::slice::from_ref).unwrap_or_default()
            }
        };
        for stream in streams
            .iter()
            .filter(|stream| stream.hash != format::NO_HASH)
        {
            if renamed.get(key) != Some(&stream.hash) {
                let first = old.entry(stream.hash).or_insert(*key);
                *first = (*first).min(*key);
            }
        }
    }
    let mut out = BTreeMap::new();
    for (image, tree) in wim.trees.iter().enumerate() {
        let edit = edits.iter().find(|edit| edit.image == image);
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            if edit.is_some_and(|edit| edit.gone.contains(&number)) {
                continue;
            }
            for stream in &one.streams {
                let new = edit.is_some_and(|edit| {
                    let mut places = edit.hashes.iter();
                    places.any(|(at, _)| *at == stream.hash_at)
                });
                if let Some(of) = old.get(&stream.hash).filter(|_| !new) {
                    let said = || {
                        format!(
                            "the old contents of {} are still in the file: {} has the same",
                            name(of.0, of.1),
                            name(image, number)
                        )
                    };
                    out.entry(*of).or_insert_with(said);
                }
            }
        }
    }
    let more = out.len().saturating_sub(MAX_KEPT);
    let mut said: Vec<String> = out.into_values().take(MAX_KEPT).collect();
    if more > 0 {
        said.push(format!("so are those of {more} more files"));
    }
    said
}

fn refs_of(hash: &Hash, wim: &Wim, edits: &[ImageEdit]) -> u32 {
    count_refs(wim, edits).get(hash).copied().unwrap_or(0)
}

/// Contents of which a reference comes or goes.
fn touched_hashes(
    wim: &Wim,
    pending: &Pending,
    renamed: &HashMap<(usize, usize), Hash>,
) -> HashSet<Hash> {
    let mut touched: HashSet<Hash> = renamed.values().copied().collect();
    for (image, first) in pending.gone.iter().chain(renamed.keys()) {
        let one = wim
            .trees
            .get(*image)
            .and_then(|tree| tree.metadata.dentries.get(*first));
        touched.extend(
            one.into_iter()
                .flat_map(|one| &one.streams)
                .map(|stream| stream.hash),
        );
    }
    touched
}

type NewContents = (HashMap<(usize, usize), Hash>, Vec<(usize, Packed)>);

/// New contents of written files: the hash of each file's, and those that the archive does not have,
/// with the index of the old ones.
fn new_contents(wim: &Wim, pending: &Pending) -> Result<NewContents> {
    let mut changes: BTreeMap<(usize, Change), Vec<(usize, usize)>> = BTreeMap::new();
    let mut files: Vec<(usize, usize)> = pending.writes.keys().copied().collect();
    files.extend(
        pending
            .zeroed
            .iter()
            .filter(|key| !pending.writes.contains_key(key)),
    );
    for key in files {
        if pending.gone.contains(&key) {
            continue;
        }
        let one = wim.tree(key.0)?.metadata.dentries.get(key.1);
        let hash = one
            .and_then(|one| one.streams.get(one.data?))
            .map(|stream| stream.hash);
        let blob = hash.and_then(|hash| wim.file.blob(&hash));
        let (index, _) = blob.ok_or_else(|| Error::internal("WIM: contents that were written"))?;
        let change = match (pending.zeroed.contains(&key), pending.writes.get(&key)) {
            (false, Some(writes)) => Change::Bytes(writes.clone()),
            _ => Change::Zeros,
        };
        changes.entry((index, change)).or_default().push(key);
    }
    let mut renamed = HashMap::new();
    let mut new: Vec<(usize, Packed)> = Vec::new();
    for ((index, change), keys) in changes {
        let packed = changed(&wim.file, index, &change)?;
        renamed.extend(keys.into_iter().map(|key| (key, packed.hash)));
        let known = wim.file.blob(&packed.hash).is_some()
            || new.iter().any(|(_, other)| other.hash == packed.hash);
        if !known {
            new.push((index, packed));
        }
    }
    Ok((renamed, new))
}

/// Free ranges of the file: where a resource can be put.
struct Room {
    free: Vec<Range<u64>>,
    /// Behind the last resource that stays.
    end: u64,
}

impl Room {
    /// `taken` are the ranges that stay; everything from the last one on is open.
    fn new(mut taken: Vec<Range<u64>>) -> Self {
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| range.start);
        let mut free = Vec::new();
        let mut at = format::HEADER_END;
        for range in taken {
            if at < range.start {
                free.push(at..range.start);
            }
            at = at.max(range.end);
        }
        Self { free, end: at }
    }

    /// A place for `size` bytes: where the old ones were, in the smallest gap, or at the end.
    fn take(&mut self, size: u64, old: u64) -> u64 {
        if size == 0 {
            return format::HEADER_END;
        }
        let fits = |range: &Range<u64>, from: u64| range.end.saturating_sub(from) >= size;
        let same = self
            .free
            .iter()
            .position(|range| range.contains(&old) && fits(range, old));
        if let Some(index) = same {
            return self.cut(index, old, size);
        }
        // Where the old ones were is the end of the file now.
        if old >= self.end && old < self.end.saturating_add(PAGE) {
            let at = self.end;
            self.end = at.saturating_add(size);
            return at;
        }
        let gaps = self.free.iter().enumerate();
        let smallest = gaps
            .filter(|(_, range)| fits(range, range.start))
            .min_by_key(|(_, range)| range.end.saturating_sub(range.start))
            .map(|(index, range)| (index, range.start));
        match smallest {
            Some((index, start)) => self.cut(index, start, size),
            None => {
                let at = self.end;
                self.end = at.saturating_add(size);
                at
            }
        }
    }

    fn cut(&mut self, index: usize, at: u64, size: u64) -> u64 {
        let range = self.free.swap_remove(index);
        let end = at.saturating_add(size);
        if range.start < at {
            self.free.push(range.start..at);
        }
        if end < range.end {
            self.free.push(end..range.end);
        }
        at
    }
}

/// Finds places, writes everything, zeros the rest.
fn lay_out(wim: &Wim, mut table: Vec<(Blob, Option<Packed>)>, mut xml: Xml) -> Result<()> {
    let file = &wim.file;
    let header = &file.header;
    let kept = table.iter().filter(|(blob, new)| {
        new.is_none() && (!blob.resource.is(res::SOLID) || blob.is_solid_resource())
    });
    let mut room = Room::new(kept.map(|(blob, _)| blob.resource.range()).collect());
    // The largest first: it has the fewest places.
    let mut order: Vec<usize> = (0..table.len()).collect();
    order.sort_by_key(|at| {
        let size = table
            .get(*at)
            .and_then(|(_, new)| new.as_ref())
            .map_or(0, |new| new.resource.size);
        std::cmp::Reverse(size)
    });
    for at in order {
        if let Some((blob, Some(new))) = table.get_mut(at) {
            blob.resource.offset = room.take(new.resource.size, new.old);
        }
    }
    let mut bytes = Vec::with_capacity(table.len().saturating_mul(BLOB_LEN));
    for (blob, _) in &table {
        bytes.extend(blob.bytes());
    }
    // Twice: the place of the XML is a number in the XML.
    let integrity = Integrity::read(file)?;
    let old_len = file.host.len();
    let table_len = wide(bytes.len());
    let mut table_at = room.end;
    let mut xml_bytes = xml.bytes();
    let mut new_len = old_len;
    for _ in 0..4 {
        let tail = |start: u64, xml_len: u64| {
            let covered = start.saturating_add(table_len);
            table_len
                .saturating_add(xml_len)
                .saturating_add(integrity.as_ref().map_or(0, |one| one.len_for(covered)))
        };
        let needed = room
            .end
            .saturating_add(tail(room.end, wide(xml_bytes.len())));
        new_len = old_len.max(needed);
        // The tables end where the file ends.
        table_at = new_len
            .saturating_sub(tail(new_len, wide(xml_bytes.len())))
            .max(room.end);
        xml.set_start(table_at.saturating_add(table_len))?;
        xml_bytes = xml.bytes();
    }
    let xml_at = table_at.saturating_add(table_len);
    let integrity_at = xml_at.saturating_add(wide(xml_bytes.len()));
    let integrity_len = integrity.as_ref().map_or(0, |one| one.len_for(xml_at));
    let end = integrity_at.saturating_add(integrity_len);
    if end > new_len {
        new_len = end;
    }
    if new_len > old_len {
        file.host
            .grow(new_len)
            .map_err(|error| error.at("image offset", format_args!("{old_len:#x}")))?;
    }

    let mut dirty: Vec<Range<u64>> = Vec::new();
    for (blob, new) in &table {
        if let Some(new) = new {
            file.host.write_at(blob.resource.offset, &new.bytes)?;
            dirty.push(blob.resource.range());
        }
    }
    file.host.write_at(table_at, &bytes)?;
    dirty.push(table_at..xml_at);
    file.host.write_at(xml_at, &xml_bytes)?;
    let plain = |one: Resource, offset: u64, len: u64| Resource {
        size: len,
        flags: one.flags & !res::COMPRESSED,
        offset,
        len,
    };
    let boot = usize::try_from(header.boot_index).unwrap_or(0);
    let new_boot = table
        .iter()
        .filter(|(blob, _)| blob.is_metadata())
        .nth(boot.wrapping_sub(1))
        .map_or(header.boot, |(blob, _)| blob.resource);
    let new_header = header.with(
        plain(header.table, table_at, table_len),
        plain(header.xml, xml_at, wide(xml_bytes.len())),
        new_boot,
        match &integrity {
            Some(_) => plain(header.integrity, integrity_at, integrity_len),
            None => header.integrity,
        },
    )?;
    file.host.write_at(0, &new_header)?;

    let mut used: Vec<Range<u64>> = table
        .iter()
        .filter(|(blob, _)| !blob.resource.is(res::SOLID) || blob.is_solid_resource())
        .map(|(blob, _)| blob.resource.range())
        .collect();
    used.push(table_at..end);
    for gap in gaps(used, new_len) {
        zero(file, gap, &mut dirty)?;
    }
    if let Some(integrity) = integrity {
        integrity.write(file, xml_at, &dirty, integrity_at)?;
    }
    Ok(())
}

/// What of the file nothing takes.
fn gaps(mut used: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    used.push(0..format::HEADER_END);
    used.push(len..len.saturating_add(1));
    let room = Room::new(used);
    room.free
}

/// Zeros a range, where it is not zero already.
fn zero(file: &File, range: Range<u64>, dirty: &mut Vec<Range<u64>>) -> Result<()> {
    let mut at = range.start;
    let mut buffer = vec![0; narrow(STEP, "WIM gap")?];
    while at < range.end {
        let take = range.end.saturating_sub(at).min(STEP);
        let piece = buffer
            .get_mut(..narrow(take, "WIM gap")?)
            .ok_or_else(|| Error::internal("WIM gap: its piece"))?;
        file.host.read_at(at, piece)?;
        let mut from = at;
        for part in piece.chunks(narrow(PAGE, "WIM gap")?) {
            if !all_zero(part) {
                file.host.zero_at(from, wide(part.len()))?;
                dirty.push(from..from.saturating_add(wide(part.len())));
            }
            from = from.saturating_add(wide(part.len()));
        }
        at = at.saturating_add(take);
    }
    Ok(())
}

/// The integrity table: SHA-1 of each piece of the file between the header and the end of the blob
/// table.
struct Integrity {
    chunk: u64,
    old: Vec<Hash>,
    /// Where what it covers ended.
    covered: u64,
}

impl Integrity {
    fn read(file: &File) -> Result<Option<Self>> {
        let one = file.header.integrity;
        if one.size == 0 {
            return Ok(None);
        }
        let bytes = file.integrity()?;
        let view = View::new(&bytes, "WIM integrity table");
        let at = |error: Error| error.at("image offset", format_args!("{:#x}", one.offset));
        let chunk = u64::from(view.u32(8).map_err(at)?);
        let (old, rest) = bytes
            .get(format::INTEGRITY_HEAD..)
            .unwrap_or_default()
            .as_chunks::<HASH_LEN>();
        if chunk < PAGE
            || !rest.is_empty()
            || wide(old.len()) != u64::from(view.u32(4).map_err(at)?)
        {
            return Err(at(Error::malformed(format!(
                "WIM integrity table: whole hashes of pieces of at least {PAGE} bytes expected, \
                 found {} bytes for pieces of {chunk}",
                bytes.len()
            ))));
        }
        Ok(Some(Self {
            chunk,
            old: old.to_vec(),
            covered: file.header.table.range().end,
        }))
    }

    fn count(&self, covered: u64) -> u64 {
        covered
            .saturating_sub(format::HEADER_END)
            .div_ceil(self.chunk)
    }

    fn len_for(&self, covered: u64) -> u64 {
        let hashes = self.count(covered).saturating_mul(wide(HASH_LEN));
        hashes.saturating_add(wide(format::INTEGRITY_HEAD))
    }

    /// Hashes again what was written, and what ends elsewhere than before.
    fn write(&self, file: &File, covered: u64, dirty: &[Range<u64>], at: u64) -> Result<()> {
        let count = self.count(covered);
        let len = u32::try_from(self.len_for(covered)).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        out.extend(len.to_le_bytes());
        out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(u32::try_from(self.chunk).unwrap_or(u32::MAX).to_le_bytes());
        for index in 0..count {
            let start = format::HEADER_END.saturating_add(index.saturating_mul(self.chunk));
            let end = start.saturating_add(self.chunk).min(covered);
            let was = start.saturating_add(self.chunk).min(self.covered);
            let touched = dirty
                .iter()
                .any(|range| range.start < end && start < range.end);
            let old = usize::try_from(index)
                .ok()
                .and_then(|index| self.old.get(index));
            match old.filter(|_| !touched && was == end) {
                Some(hash) => out.extend(hash),
                None => out.extend(hash_of(file, start..end)?),
            }
        }
        file.host.write_at(at, &out)
    }
}

fn hash_of(file: &File, range: Range<u64>) -> Result<Hash> {
    let mut hash = Sha1::new();
    let mut at = range.start;
    let mut buffer = vec![0; narrow(STEP, "WIM integrity table")?];
    while at < range.end {
        let take = range.end.saturating_sub(at).min(STEP);
        let piece = buffer
            .get_mut(..narrow(take, "WIM integrity table")?)
            .ok_or_else(|| Error::internal("WIM integrity table: its piece"))?;
        file.host.read_at(at, piece)?;
        hash.update(&*piece);
        at = at.saturating_add(take);
    }
    Ok(hash.finalize().into())
}

/// What is wrong with an archive that was written: references, places, hashes, gaps.
pub(super) fn problems(wim: &Wim, image: usize) -> Result<Vec<String>> {
    let file = &wim.file;
    let mut out = Vec::new();
    if image > 0 {
        // The file is one; the first image's turn was enough.
        return Ok(out);
    }
    let refs = count_refs(wim, &[]);
    for blob in &file.blobs {
        if blob.is_metadata() || blob.is_solid_resource() {
            continue;
        }
        let found = refs.get(&blob.hash).copied().unwrap_or(0);
        if found != blob.refs {
            out.push(format!(
                "WIM blob {}: {} references expected, found {found}",
                hex::encode(blob.hash),
                blob.refs
            ));
        }
    }
    for hash in refs.keys().filter(|hash| file.blob(hash).is_none()) {
        out.push(format!(
            "WIM: contents {} expected, not listed",
            hex::encode(hash)
        ));
    }
    let used = file.resources().map(|one| one.range()).collect();
    for gap in gaps(used, file.host.len()) {
        let mut dirty = 0_u64;
        let mut at = gap.start;
        while at < gap.end {
            let take = gap.end.saturating_sub(at).min(STEP);
            let mut piece = vec![0; narrow(take, "WIM gap")?];
            file.host.read_at(at, &mut piece)?;
            dirty = dirty.saturating_add(wide(piece.iter().filter(|byte| **byte != 0).count()));
            at = at.saturating_add(take);
        }
        if dirty > 0 {
            out.push(format!(
                "WIM: zeros from {:#x} to {:#x} expected, where nothing is, found {dirty} other bytes",
                gap.start, gap.end
            ));
        }
    }
    if let Some(integrity) = Integrity::read(file)? {
        let covered = file.header.table.range().end;
        if wide(integrity.old.len()) != integrity.count(covered) {
            out.push(
                "WIM integrity table: a hash for each piece expected, found another number"
                    .to_owned(),
            );
        }
    }
    Ok(out)
}
