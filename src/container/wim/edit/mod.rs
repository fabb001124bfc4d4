//! Writes a WIM whose trees were edited: new contents, metadata, tables, and zeros where nothing is
//! any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use sha1::{Digest, Sha1};

use super::{
    Pending, Tree, Wim, Written,
    chunks::Chunks,
    codec::{Encoder, Method},
    format::{self, res},
    links_of,
    read::{Blob, File, Hash, Resource, narrow, wide},
    xml::Less,
};
use crate::{
    bytes::{View, all_zero, put},
    error::{Error, Result},
    text::WinPath,
};

mod check;
mod integrity;
mod layout;
mod solid;

pub(super) use check::{problems, wrong_contents};
use solid::Inside;

/// Bytes compared and hashed in one go.
const STEP: u64 = 1 << 20;
/// Bytes of contents that are decoded in one go.
const AHEAD: u64 = 4 << 20;
/// Most remarks on contents that stay.
const MAX_KEPT: usize = 10;
/// Zeros are written in pages, so that what is zero already stays untouched.
const PAGE: u64 = 4096;

/// An entry of the blob table to be.
struct Entry {
    /// Index of the entry it is made of.
    of: usize,
    blob: Blob,
    /// None: it stays where it is.
    new: Option<Packed>,
}

/// New contents of a file.
struct Fresh {
    /// Index of the old contents.
    of: usize,
    hash: Hash,
    kind: Kind,
}

enum Kind {
    Packed(Packed),
    /// In a solid resource: they can stand where the old ones stand.
    Solid(Change),
}

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
            Some(old) => encoder.encode_like(old, None, plain.to_vec()),
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
    /// Applies itself to the bytes `at..at + plain.len()` of the contents; whether any became another.
    fn apply(&self, at: u64, plain: &mut [u8]) -> Result<bool> {
        let mut changed = false;
        match self {
            Self::Zeros => {
                changed = !all_zero(plain);
                plain.fill(0);
            }
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
                    let place = narrow(from.saturating_sub(at), "WIM file")?;
                    changed |= View::new(plain, "WIM file").get(place, take)? != new;
                    put(plain, place, new, "WIM file")?;
                }
            }
        }
        Ok(changed)
    }
}

/// New contents of a blob: the old ones with a change.
fn changed(file: &File, index: usize, change: &Change) -> Result<Packed> {
    let blob = blob_of(file, index)?;
    let solid = blob.resource.is(res::SOLID);
    let (chunks, _) = file.place_of(index)?;
    let mut was = Sha1::new();
    let mut ahead = std::collections::VecDeque::new();
    let mut contents = |at: usize, range: Range<u64>| {
        if solid {
            // Its chunks are others': it gets some of its own.
            let mut plain = vec![0; narrow(range.end.saturating_sub(range.start), "WIM file")?];
            file.read_blob(index, range.start, &mut plain)?;
            was.update(&plain);
            change.apply(range.start, &mut plain)?;
            return Ok((plain, Old::None));
        }
        if ahead.is_empty() {
            let size = u64::from(chunks.chunk_size).max(1);
            let count = narrow(AHEAD.div_ceil(size), "WIM chunk")?;
            let end = at.saturating_add(count).min(chunks.count());
            ahead.extend(file.chunks_from(&chunks, at..end)?);
        }
        let plain = ahead.pop_front();
        let mut plain = plain.ok_or_else(|| Error::internal("WIM chunk: its number"))?;
        was.update(&plain);
        let same = !change.apply(range.start, &mut plain)?;
        let packed = packed_chunk(file, &chunks, at)?;
        Ok((plain, old_of(packed, same)))
    };
    let mut packer = Packer::new(file);
    let compress = blob.resource.is(res::COMPRESSED) || solid;
    let mut again = |range: Range<u64>| {
        let mut plain = vec![0; narrow(range.end.saturating_sub(range.start), "WIM file")?];
        file.read_blob(index, range.start, &mut plain)?;
        change.apply(range.start, &mut plain)?;
        Ok(plain)
    };
    let (bytes, resource, hash) = packer.resource(
        blob.len(),
        compress,
        blob.resource.flags & !(res::COMPRESSED | res::SOLID),
        &mut contents,
        &mut again,
    )?;
    was_right(blob, &was.finalize().into())?;
    Ok(Packed {
        hash,
        resource,
        bytes,
        old: match solid {
            true => u64::MAX,
            false => blob.resource.offset,
        },
    })
}

/// The hash of a blob with a change, its old one checked.
fn changed_hash(file: &File, index: usize, change: &Change) -> Result<Hash> {
    let blob = blob_of(file, index)?;
    let (mut was, mut is) = (Sha1::new(), Sha1::new());
    let mut at = 0;
    while at < blob.len() {
        let take = blob.len().saturating_sub(at).min(STEP);
        let mut plain = vec![0; narrow(take, "WIM file")?];
        file.read_blob(index, at, &mut plain)?;
        was.update(&plain);
        change.apply(at, &mut plain)?;
        is.update(&plain);
        at = at.saturating_add(take);
    }
    was_right(blob, &was.finalize().into())?;
    Ok(is.finalize().into())
}

fn blob_of(file: &File, index: usize) -> Result<&Blob> {
    let blob = file.blobs.get(index);
    blob.ok_or_else(|| Error::internal("WIM blob: its number"))
}

/// Fails unless that is the hash of these contents.
pub(super) fn check_old(file: &File, index: usize, hash: &Hash) -> Result<()> {
    was_right(blob_of(file, index)?, hash)
}

fn was_right(blob: &Blob, was: &Hash) -> Result<()> {
    if *was == blob.hash {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "WIM contents: SHA-1 {} expected, found {}",
        hex::encode(blob.hash),
        hex::encode(was)
    ))
    .at("image offset", format_args!("{:#x}", blob.resource.offset))
    .advise("the file is damaged: take another copy of it"))
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

impl ImageEdit {
    fn new(image: usize) -> Self {
        Self {
            image,
            gone: HashSet::new(),
            hashes: Vec::new(),
            less: Less::default(),
        }
    }
}

fn image_edit(
    wim: &Wim,
    image: usize,
    pending: &Pending,
    renamed: &HashMap<(usize, usize), Hash>,
) -> Result<Option<ImageEdit>> {
    let tree = wim.tree(image)?;
    let mut edit = ImageEdit::new(image);
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

/// Bytes that nothing references and that are not zero: between the resources, in entries that nothing
/// needs, between dentries, and in solid resources.
pub(super) fn leftovers(wim: &Wim) -> Result<u64> {
    let file = &wim.file;
    let refs = count_refs(wim, &[]);
    let mut found = 0_u64;
    for blob in file.blobs.iter().filter(|blob| is_idle(blob, &refs)) {
        // How they are compressed is their own affair: an entry of no bytes is none.
        found = found.saturating_add(blob.resource.size);
    }
    for tree in &wim.trees {
        found = found.saturating_add(tree.metadata.stale());
    }
    for gap in layout::gaps(file) {
        found = found.saturating_add(file.host_dirt(gap)?);
    }
    Ok(found.saturating_add(solid::stale(file)?))
}

/// Whether an entry of the blob table is one that nothing needs.
fn is_idle(blob: &Blob, refs: &HashMap<Hash, u32>) -> bool {
    blob.refs == 0
        && !blob.is_solid_resource()
        && (blob.is_metadata() || !refs.contains_key(&blob.hash))
}

/// Writes what is pending; says what of the old contents stays.
pub(super) fn write(wim: &Wim, scrub: bool) -> Result<Written> {
    let pending = std::mem::take(&mut *wim.pending()?);
    let file = &wim.file;
    let (renamed, new_blobs) = new_contents(wim, &pending)?;
    let mut edits = Vec::new();
    for image in 0..wim.trees.len() {
        edits.extend(image_edit(wim, image, &pending, &renamed)?);
    }
    let scrubbed = edits.is_empty() && scrub && wim.xml.is_some() && leftovers(wim)? > 0;
    if edits.is_empty() && !scrubbed {
        return Ok(Written::default());
    }
    for image in 0..wim.trees.len() {
        // Old dentries between those that are there go, too.
        if edits.iter().all(|edit| edit.image != image) {
            let metadata = &wim.tree(image)?.metadata;
            if metadata.rebuilt(&HashSet::new(), &[])? != metadata.bytes {
                edits.push(ImageEdit::new(image));
            }
        }
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
        for xml in &mut xml {
            xml.subtract(number, edit.less)?;
        }
    }
    // The table as it will be; what is new has no place yet.
    let touched: HashSet<Hash> = touched_hashes(wim, &pending, &renamed);
    let refs_of = |hash: &Hash| refs.get(hash).copied().unwrap_or(0);
    let mut fresh: BTreeMap<usize, Vec<Fresh>> = BTreeMap::new();
    for one in new_blobs {
        fresh.entry(one.of).or_default().push(one);
    }
    let mut table: Vec<Entry> = Vec::new();
    // What solid resources hold afterwards.
    let mut inside: Vec<Inside> = Vec::new();
    // A resource of its own between solid entries would cut their run in two.
    let mut behind: Vec<Entry> = Vec::new();
    for (of, blob) in file.blobs.iter().enumerate() {
        let mut add = |blob: Blob, new: Option<Packed>| table.push(Entry { of, blob, new });
        if blob.is_metadata() {
            match new_metadata.remove(&of) {
                Some(packed) => {
                    let entry = Blob {
                        resource: packed.resource,
                        hash: packed.hash,
                        ..*blob
                    };
                    add(entry, Some(packed));
                }
                // Metadata of no image is left from an earlier state: it goes.
                None if blob.refs == 0 => {}
                None => add(*blob, None),
            }
            continue;
        }
        if blob.is_solid_resource() {
            add(*blob, None);
            continue;
        }
        let count = refs_of(&blob.hash);
        // A wrong count stays as it is, but contents that a file has never go.
        let refs = match (touched.contains(&blob.hash), blob.refs) {
            (true, _) | (false, 0) => count,
            (false, listed) => listed,
        };
        let mut room = file.solid_of(of)?;
        if refs > 0 {
            add(Blob { refs, ..*blob }, None);
            if let Some(place) = room.take() {
                inside.push(Inside::new(place, blob.len(), None));
            }
        }
        // New contents stand where the old ones stood.
        for one in fresh.remove(&of).into_iter().flatten() {
            let refs = refs_of(&one.hash);
            let (packed, solid) = match (one.kind, room.take()) {
                (Kind::Packed(packed), _) => (packed, false),
                (Kind::Solid(change), Some(place)) => {
                    let entry = Blob {
                        refs,
                        hash: one.hash,
                        ..*blob
                    };
                    add(entry, None);
                    inside.push(Inside::new(place, blob.len(), Some(change)));
                    continue;
                }
                (Kind::Solid(change), None) => (changed(file, of, &change)?, true),
            };
            let entry = Blob {
                resource: packed.resource,
                part: blob.part,
                refs,
                hash: packed.hash,
            };
            match solid {
                true => behind.push(Entry {
                    of,
                    blob: entry,
                    new: Some(packed),
                }),
                false => add(entry, Some(packed)),
            }
        }
    }
    table.append(&mut behind);
    let recoded = solid::recode(file, &inside)?;
    solid::renumber(file, &mut table)?;
    layout::write(wim, table, &recoded, xml)?;
    let promises = recoded.into_iter().flat_map(|one| one.promises);
    Ok(Written {
        remarks: kept_contents(wim, &pending, &renamed, &edits),
        scrubbed,
        promises: promises.collect(),
        fresh: renamed.into_values().collect(),
    })
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

type NewContents = (HashMap<(usize, usize), Hash>, Vec<Fresh>);

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
    let mut new: Vec<Fresh> = Vec::new();
    for ((index, change), keys) in changes {
        let (hash, kind) = match blob_of(&wim.file, index)?.resource.is(res::SOLID) {
            true => {
                // Keys of one group become the same.
                let known = keys.iter().find_map(|key| pending.hashes.get(key));
                let hash = match known.filter(|_| change != Change::Zeros) {
                    Some(hash) => *hash,
                    None => changed_hash(&wim.file, index, &change)?,
                };
                (hash, Kind::Solid(change))
            }
            false => {
                let packed = changed(&wim.file, index, &change)?;
                (packed.hash, Kind::Packed(packed))
            }
        };
        renamed.extend(keys.into_iter().map(|key| (key, hash)));
        let known = wim.file.blob(&hash).is_some() || new.iter().any(|other| other.hash == hash);
        if !known {
            let of = index;
            new.push(Fresh { of, hash, kind });
        }
    }
    Ok((renamed, new))
}
