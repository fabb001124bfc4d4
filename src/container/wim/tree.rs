//! [`FileTree`] for one image of a WIM. What is edited waits in [`super::Pending`].

use std::{ops::Range, sync::Arc};

use sha1::{Digest, Sha1};

use super::{
    Tree, Wim,
    format::{self, res},
    metadata::Dentry,
    read::{Hash, narrow, wide},
};
use crate::{
    bytes::all_zero,
    error::{At, Error, Result},
    text::{Name, WinPath, ascii_upcase},
    tree::{
        Census, Contents, Disposition, Extent, FileEntry, FileId, FileTree, Listing, MetadataChunk,
        NamePattern, Obstacle, Owner, Removal, Storage,
    },
    units::{FileOffset, VolumeOffset},
};

/// Bytes of contents that are shown in one go.
const PIECE: u64 = 1 << 20;
/// Most problems that are listed one by one.
const MAX_PROBLEMS: usize = 100;

/// An image of an archive.
#[derive(Debug)]
pub(super) struct ImageTree {
    wim: Arc<Wim>,
    index: usize,
}

impl ImageTree {
    pub(super) fn new(wim: Arc<Wim>, index: usize) -> Self {
        Self { wim, index }
    }

    fn tree(&self) -> Result<&Tree> {
        self.wim.tree(self.index)
    }

    /// The first dentry of a file.
    fn first(&self, id: FileId) -> Result<(usize, &Dentry)> {
        let tree = self.tree()?;
        let number = tree.by_id.get(&id.0).copied();
        let number = number.filter(|number| tree.first.get(*number) == Some(number));
        let found = number.and_then(|number| Some((number, tree.metadata.dentries.get(number)?)));
        found.ok_or_else(|| Error::internal("WIM: a file's id"))
    }

    fn id(tree: &Tree, number: usize) -> FileId {
        FileId(tree.ids.get(number).copied().unwrap_or(0))
    }

    /// The contents of a file's main stream: index in the blob table, length.
    fn data(&self, one: &Dentry) -> Result<Option<(usize, u64)>> {
        let Some(stream) = one.data.and_then(|at| one.streams.get(at)) else {
            return Ok(None);
        };
        if stream.hash == format::NO_HASH {
            return Ok(None);
        }
        match self.wim.file.blob(&stream.hash) {
            Some((index, blob)) => Ok(Some((index, blob.len()))),
            None => Err(Error::malformed(format!(
                "WIM blob table: contents {} expected, not listed",
                hex::encode(stream.hash)
            ))),
        }
    }

    fn storage(one: &Dentry, data: Option<(usize, u64)>) -> Storage {
        if one.is_directory() {
            Storage::None
        } else if one.is_encrypted() {
            Storage::Encrypted
        } else if one.is_reparse() && data.is_none() {
            Storage::Redirected(0)
        } else {
            Storage::Plain
        }
    }

    fn entry_of(&self, first: usize) -> Result<FileEntry> {
        let tree = self.tree()?;
        let one = tree
            .metadata
            .dentries
            .get(first)
            .ok_or_else(|| Error::internal("WIM: a dentry's number"))?;
        let numbers = tree.dentries_of(first);
        let mut names = Vec::new();
        let mut paths = Vec::new();
        let mut parents = Vec::new();
        for number in &numbers {
            let Some(link) = tree.metadata.dentries.get(*number) else {
                continue;
            };
            names.push(link.name.clone());
            if !link.short.units().is_empty() {
                names.push(link.short.clone());
            }
            paths.push(WinPath(tree.metadata.path(*number)));
            let above = tree.first.get(link.parent).copied().unwrap_or(0);
            parents.push(Self::id(tree, above));
        }
        // Contents that the archive does not have lie in another file, as those of a delta do: the name
        // counts all the same.
        let (data, missing) = match self.data(one) {
            Ok(data) => (data, false),
            Err(_) => (None, true),
        };
        Ok(FileEntry {
            id: Self::id(tree, first),
            listing: self.listing_of(tree, &numbers),
            paths,
            names,
            parents,
            len: data.map_or(0, |(_, len)| len),
            storage: match missing {
                true => Storage::Redirected(0),
                false => Self::storage(one, data),
            },
            is_directory: one.is_directory(),
            orphan: false,
        })
    }

    /// Paths, attributes, times, descriptors, names and lengths of streams.
    fn listing_of(&self, tree: &Tree, numbers: &[usize]) -> Listing {
        let mut listing = Listing {
            files: 1,
            ..Listing::default()
        };
        for number in numbers {
            let Some(one) = tree.metadata.dentries.get(*number) else {
                continue;
            };
            let mut hash = Sha1::new();
            // Its path, in one number: names all the way up would be slow in a deep tree.
            hash.update(tree.ids.get(*number).copied().unwrap_or(0).to_le_bytes());
            for unit in one.name.units().iter().chain(&[0]).chain(one.short.units()) {
                hash.update(unit.to_le_bytes());
            }
            hash.update(one.attributes.to_le_bytes());
            hash.update(one.security.to_le_bytes());
            hash.update(one.times);
            for stream in &one.streams {
                for unit in stream.name.units() {
                    hash.update(unit.to_le_bytes());
                }
                let len = self
                    .wim
                    .file
                    .blob(&stream.hash)
                    .map_or(0, |(_, blob)| blob.len());
                hash.update(len.to_le_bytes());
            }
            let digest: [u8; 20] = hash.finalize().into();
            let front: [u8; 16] = std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0));
            let names = 1_u64.saturating_add(u64::from(!one.short.units().is_empty()));
            listing.names = listing.names.saturating_add(names);
            listing.sum = listing.sum.wrapping_add(u128::from_le_bytes(front));
        }
        listing
    }

    /// The files that have some contents, by the path of their first name.
    fn paths_of(&self, blob: usize) -> Vec<(FileId, String)> {
        let mut found = Vec::new();
        let Ok(tree) = self.tree() else {
            return found;
        };
        let Some(hash) = self.wim.file.blobs.get(blob).map(|blob| blob.hash) else {
            return found;
        };
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            let own = tree.first.get(number) == Some(&number);
            if own && one.streams.iter().any(|stream| stream.hash == hash) {
                let path = WinPath(tree.metadata.path(number));
                found.push((Self::id(tree, number), path.to_string()));
            }
        }
        found
    }

    fn owner_of(&self, at: u64) -> Owner {
        let file = &self.wim.file;
        let named = |path: &str, from: u64| Owner::File {
            id: FileId(0),
            path: path.to_owned(),
            stream: "of the archive".to_owned(),
            offset: FileOffset(at.saturating_sub(from)),
            tail: false,
        };
        for part in file.parts.iter().filter(|part| part.range.contains(&at)) {
            let start = part.range.start;
            let tables = [
                (
                    "WIM header",
                    start..start.saturating_add(format::HEADER_END),
                ),
                ("WIM blob table", part.table().range()),
                ("WIM XML data", part.xml().range()),
                ("WIM integrity table", part.integrity().range()),
            ];
            let found = tables.into_iter().find(|(_, range)| range.contains(&at));
            if let Some((what, range)) = found {
                return named(&part.of(what), range.start);
            }
        }
        for (index, blob) in file.blobs.iter().enumerate() {
            let range = blob.resource.range();
            let lies_here = !blob.resource.is(res::SOLID) || blob.is_solid_resource();
            if !lies_here || !range.contains(&at) {
                continue;
            }
            if blob.is_metadata() {
                return named("WIM metadata", range.start);
            }
            if blob.is_solid_resource() {
                return named("WIM solid resource", range.start);
            }
            return match self.paths_of(index).into_iter().next() {
                Some((id, path)) => Owner::File {
                    id,
                    path,
                    stream: "$DATA".to_owned(),
                    offset: FileOffset(at.saturating_sub(range.start)),
                    tail: false,
                },
                None => named("WIM resource", range.start),
            };
        }
        Owner::Free {
            cluster: at..at.saturating_add(1),
        }
    }
}

impl FileTree for ImageTree {
    fn label(&self) -> String {
        "WIM image".to_owned()
    }

    fn obstacles(&self) -> Result<Vec<Obstacle>> {
        Ok(self.wim.obstacles.clone())
    }

    fn census(
        &self,
        patterns: &[NamePattern],
        _search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        let tree = self.tree()?;
        let mut census = Census::default();
        let matches = |name: &Name| {
            let folded: Vec<u16> = name
                .units()
                .iter()
                .map(|unit| ascii_upcase(*unit))
                .collect();
            !folded.is_empty()
                && patterns
                    .iter()
                    .any(|pattern| pattern.matches_folded(&folded))
        };
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            if tree.first.get(number) != Some(&number) {
                continue;
            }
            let numbers = tree.dentries_of(number);
            census.listing.add(&self.listing_of(tree, &numbers));
            let named = numbers.iter().any(|link| {
                let link = tree.metadata.dentries.get(*link);
                link.is_some_and(|link| matches(&link.name) || matches(&link.short))
            });
            if let Err(error) = self.data(one) {
                census.problem_count = census.problem_count.saturating_add(1);
                if census.problems.len() < MAX_PROBLEMS {
                    let path = WinPath(tree.metadata.path(number));
                    census.problems.push(format!("{path}: {error}"));
                }
            }
            if named {
                census.found.push(self.entry_of(number)?);
            }
        }
        Ok(census)
    }

    fn entry(&self, id: FileId) -> Result<FileEntry> {
        let (first, _) = self.first(id)?;
        self.entry_of(first)
    }

    fn lookup(&self, path: &[&str]) -> Result<Option<FileEntry>> {
        let tree = self.tree()?;
        let mut at = 0;
        for want in path {
            let list = tree
                .metadata
                .lists
                .iter()
                .find(|(_, directory, _)| *directory == at);
            let child = list.and_then(|(_, _, children)| {
                children.iter().find(|number| {
                    let one = tree.metadata.dentries.get(**number);
                    one.is_some_and(|one| one.name.eq_ascii(want) || one.short.eq_ascii(want))
                })
            });
            match child {
                Some(number) => at = *number,
                None => return Ok(None),
            }
        }
        let first = tree.first.get(at).copied().unwrap_or(at);
        self.entry_of(first).map(Some)
    }

    fn list(&self, directory: FileId) -> Result<Vec<FileEntry>> {
        let tree = self.tree()?;
        let (number, _) = self.first(directory)?;
        let mut found = Vec::new();
        let mut lists = tree.metadata.lists.iter();
        let list = lists.find(|(_, of, _)| *of == number);
        for child in list.map(|(_, _, children)| children).into_iter().flatten() {
            let first = tree.first.get(*child).copied().unwrap_or(*child);
            let entry = self.entry_of(first)?;
            if !found.iter().any(|known: &FileEntry| known.id == entry.id) {
                found.push(entry);
            }
        }
        Ok(found)
    }

    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let (_, one) = self.first(id)?;
        match self.data(one)? {
            Some((blob, _)) => self.wim.file.read_blob(blob, offset.get(), buf),
            None if buf.is_empty() => Ok(()),
            None => Err(Error::malformed(format!(
                "WIM file: {} bytes expected, it is empty",
                buf.len()
            ))),
        }
    }

    fn is_read_in_order(&self, id: FileId) -> Result<bool> {
        let (_, one) = self.first(id)?;
        match self.data(one)? {
            Some((blob, _)) => self.wim.file.is_read_in_order(blob),
            None => Ok(false),
        }
    }

    fn extents(&self, id: FileId) -> Result<Vec<Extent>> {
        let (_, one) = self.first(id)?;
        let Some((index, len)) = self.data(one)? else {
            return Ok(Vec::new());
        };
        let blob = self.wim.file.blobs.get(index);
        let plain = blob.filter(|blob| !blob.resource.is(res::COMPRESSED | res::SOLID));
        // Compressed bytes have no place of their own.
        Ok(plain
            .map(|blob| Extent {
                file_offset: FileOffset(0),
                len,
                volume_offset: Some(VolumeOffset(blob.resource.offset)),
            })
            .into_iter()
            .collect())
    }

    fn trace_areas(&self, _ids: &[FileId]) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        Ok(Vec::new())
    }

    fn owners(&self, offsets: &[VolumeOffset], _likely: &[FileId]) -> Result<Vec<Owner>> {
        Ok(offsets.iter().map(|at| self.owner_of(at.get())).collect())
    }

    fn note(&self, id: FileId, bytes: &[u8]) -> Result<()> {
        let (first, one) = self.first(id)?;
        let Some((index, len)) = self.data(one)? else {
            return Ok(());
        };
        if wide(bytes.len()) != len || !self.wim.file.is_read_in_order(index)? {
            return Ok(());
        }
        let hash: Hash = Sha1::digest(bytes).into();
        let key = (self.index, first);
        let mut pending = self.wim.pending()?;
        if !pending.writes.contains_key(&key) {
            super::edit::check_old(&self.wim.file, index, &hash)?;
            pending.checked.insert(key);
        } else if pending.checked.contains(&key) {
            pending.hashes.insert(key, hash);
        }
        Ok(())
    }

    fn overwrite(&self, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        let (first, one) = self.first(id)?;
        let len = self.data(one)?.map_or(0, |(_, len)| len);
        if offset.get().saturating_add(wide(bytes.len())) > len {
            return Err(Error::internal("WIM file: a write behind its end"));
        }
        let mut pending = self.wim.pending()?;
        pending.hashes.remove(&(self.index, first));
        let writes = pending.writes.entry((self.index, first)).or_default();
        writes.insert(offset.get(), bytes.to_vec());
        Ok(())
    }

    fn erase(&self, id: FileId) -> Result<u64> {
        let (first, one) = self.first(id)?;
        let Some((blob, len)) = self.data(one)? else {
            return Ok(0);
        };
        let mut stale = 0_u64;
        let mut at = 0_u64;
        let mut buffer = vec![0; 1 << 16];
        while at < len {
            let take = len.saturating_sub(at).min(wide(buffer.len()));
            let piece = buffer
                .get_mut(..narrow(take, "WIM file")?)
                .ok_or_else(|| Error::internal("WIM file: its piece"))?;
            self.wim.file.read_blob(blob, at, piece)?;
            if !all_zero(piece) {
                stale = stale.saturating_add(wide(piece.iter().filter(|byte| **byte != 0).count()));
            }
            at = at.saturating_add(take);
        }
        if stale > 0 {
            self.wim.pending()?.zeroed.insert((self.index, first));
        }
        Ok(stale)
    }

    fn remove(&self, ids: &[FileId]) -> Result<Removal> {
        let tree = self.tree()?;
        let mut removal = Removal::default();
        let mut pending = self.wim.pending()?;
        for id in ids {
            let (first, one) = self.first(*id)?;
            if one.is_directory() || first == 0 {
                return Err(Error::refused("WIM: a file expected, found a directory")
                    .at("file", WinPath(tree.metadata.path(first))));
            }
            pending.gone.insert((self.index, first));
            removal.records = removal.records.saturating_add(1);
            let names = wide(tree.dentries_of(first).len());
            removal.index_entries = removal.index_entries.saturating_add(names);
        }
        Ok(removal)
    }

    fn wipe_residue(&self, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
        // Nothing stale is left in a file that declone wrote; in others, writing wipes it.
        Ok(hits
            .iter()
            .map(|_| Disposition::Left("a part of the archive that is in use".to_owned()))
            .collect())
    }

    fn wrong_contents(&self) -> Result<Vec<(String, String)>> {
        super::edit::wrong_contents(&self.wim, self.index)
    }

    fn contents(&self, tail: usize, look: &mut dyn FnMut(Contents<'_>)) -> Result<u64> {
        let mut total = 0_u64;
        let metadata = format!("the records of image {}", self.index.saturating_add(1));
        let bytes = &self.tree()?.metadata.bytes;
        look(Contents {
            owner: &metadata,
            offset: 0,
            bytes,
        });
        total = total.saturating_add(wide(bytes.len()));
        if !self.wim.speaks(self.index) {
            // Images share their contents: another showed them.
            return Ok(total);
        }
        let file = &self.wim.file;
        let mut order = Vec::new();
        for (index, blob) in file.blobs.iter().enumerate() {
            let packed = blob.resource.is(res::COMPRESSED | res::SOLID);
            if packed && !blob.is_metadata() && !blob.is_solid_resource() {
                order.push((file.solid_of(index)?, index));
            }
        }
        // One chunk after the other: each is decoded once.
        order.sort_unstable();
        for (_, index) in order {
            let Some(blob) = file.blobs.get(index) else {
                continue;
            };
            let owner = self.wim.owner_of(index);
            let mut piece = Vec::new();
            let mut at = 0;
            while at < blob.len() {
                let take = blob.len().saturating_sub(at).min(PIECE);
                let kept = piece.len().min(tail);
                piece.drain(..piece.len().saturating_sub(kept));
                piece.resize(kept.saturating_add(narrow(take, "WIM file")?), 0);
                if let Some(new) = piece.get_mut(kept..) {
                    file.read_blob(index, at, new)?;
                }
                look(Contents {
                    owner: &owner,
                    offset: at.saturating_sub(wide(kept)),
                    bytes: &piece,
                });
                at = at.saturating_add(take);
            }
            total = total.saturating_add(blob.len());
        }
        Ok(total)
    }

    fn check_touched(&self, touched: &[Range<u64>]) -> Result<Vec<String>> {
        super::edit::problems(&self.wim, self.index, touched)
    }

    fn record_offset(&self, record: u64, _inside: u64) -> Result<VolumeOffset> {
        Err(Error::internal("WIM: a file has no record")).at("file record", record)
    }
}
