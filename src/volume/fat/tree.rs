//! [`FileTree`] for FAT: each method hands over to the file that knows.

use std::{collections::BTreeMap, ops::Range};

use sha1::{Digest, Sha1};

use super::{
    Fat, edit,
    format::slot,
    name::{Raw, as_short, byte, short_bytes, short_name},
    table::{Chain, Table},
    walk::{Node, Stale, Walk, first_cluster, len_of},
};
use crate::{
    error::{At, Error, Result},
    text::{Name, ascii_upcase},
    tree::{
        Census, Disposition, Extent, FileEntry, FileId, FileTree, Listing, MetadataChunk, NamePart,
        NamePattern, Obstacle, Owner, Removal, Storage,
    },
    units::{FileOffset, VolumeOffset},
    volume::{
        entry_place,
        widths::{narrow, sum, wide},
    },
};

/// A machine has a handful of files of the names declone looks for; a million only cost time.
const MAX_FOUND: usize = 20_000;

/// Bytes a slot.
const SLOT_LEN: u64 = 32;

impl FileTree for Fat {
    fn label(&self) -> String {
        self.geometry.label().to_owned()
    }

    fn obstacles(&self) -> Result<Vec<Obstacle>> {
        self.find_obstacles()
    }

    /// The records shown are the names of deleted entries, as UTF-16: the volume holds them in
    /// pieces.
    fn census(
        &self,
        patterns: &[NamePattern],
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        self.forget_walk()?;
        let walk = self.walk()?;
        let mut census = Census {
            problems: walk.problems.clone(),
            problem_count: walk.problem_count,
            ..Census::default()
        };
        for (index, node) in walk.nodes.iter().enumerate().skip(1) {
            census.listing.add(&listing_of(&walk, node));
            let is_named = |name: &Name| {
                let folded = folded(name);
                patterns
                    .iter()
                    .any(|pattern| pattern.matches_folded(&folded))
            };
            if node.is_label() || !node.names().iter().any(is_named) {
                continue;
            }
            if census.found.len() >= MAX_FOUND {
                return Err(Error::limit(format!(
                    "files: at most {MAX_FOUND} of the searched names expected, found more"
                )));
            }
            census.found.push(entry_of(&walk, index)?);
        }
        for stale in &walk.stale {
            let bytes = remains(stale, patterns);
            search(MetadataChunk {
                first_record: stale.slots.first().copied().unwrap_or(0),
                record_len: bytes.len(),
                bytes: &bytes,
            });
        }
        Ok(census)
    }

    fn entry(&self, id: FileId) -> Result<FileEntry> {
        let walk = self.walk()?;
        let index = walk.find(id.0).ok_or_else(|| no_entry(id))?;
        entry_of(&walk, index)
    }

    fn lookup(&self, path: &[&str]) -> Result<Option<FileEntry>> {
        let walk = self.walk()?;
        let mut at = 0;
        for want in path {
            let mut nodes = walk.nodes.iter().enumerate().skip(1);
            let child = nodes.find(|(_, node)| {
                node.parent == at
                    && !node.is_label()
                    && node.names().iter().any(|name| name.eq_ascii(want))
            });
            match child {
                Some((index, _)) => at = index,
                None => return Ok(None),
            }
        }
        entry_of(&walk, at).map(Some)
    }

    fn list(&self, directory: FileId) -> Result<Vec<FileEntry>> {
        let walk = self.walk()?;
        let above = walk.find(directory.0).ok_or_else(|| no_entry(directory))?;
        let sound = walk
            .nodes
            .get(above)
            .is_some_and(|node| node.sound && node.is_directory());
        if !sound {
            return Err(Error::malformed(format!(
                "{}: a directory expected, found none or a broken chain",
                walk.path(above)
            )));
        }
        let nodes = walk.nodes.iter().enumerate().skip(1);
        nodes
            .filter(|(_, node)| node.parent == above && !node.is_label())
            .map(|(index, _)| entry_of(&walk, index))
            .collect()
    }

    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let (raw, chain) = self.data_of(id)?;
        let end = sum(offset.get(), wide(buf.len()), "file")?;
        if end > u64::from(len_of(&raw)) {
            return Err(Error::malformed(format!(
                "file: {} bytes expected at {offset}, it has only {}",
                buf.len(),
                len_of(&raw)
            ))
            .at("directory entry", entry_place(id.0)));
        }
        self.each_piece(&chain, offset.get(), end, |place, from, to| {
            let part = buf
                .get_mut(narrow(from, "file")?..narrow(to, "file")?)
                .ok_or_else(|| Error::internal("FAT file: its piece"))?;
            self.device
                .read_at(place, part)
                .at("volume offset", format!("{place:#x}"))
        })
    }

    fn extents(&self, id: FileId) -> Result<Vec<Extent>> {
        let (raw, chain) = self.data_of(id)?;
        let mut extents = Vec::new();
        self.each_piece(&chain, 0, u64::from(len_of(&raw)), |place, from, to| {
            extents.push(Extent {
                file_offset: FileOffset(from),
                len: to.saturating_sub(from),
                volume_offset: Some(VolumeOffset(place)),
            });
            Ok(())
        })?;
        Ok(extents)
    }

    fn trace_areas(&self, ids: &[FileId]) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        let walk = self.walk()?;
        let mut areas: BTreeMap<usize, Vec<Range<u64>>> = ids
            .iter()
            .filter_map(|id| walk.nodes.get(walk.find(id.0)?))
            .map(|node| (node.parent, Vec::new()))
            .collect();
        for (at, (len, index)) in &walk.directories {
            if let Some(ranges) = areas.get_mut(index) {
                ranges.push(*at..at.saturating_add(*len));
            }
        }
        Ok(areas
            .into_iter()
            .map(|(parent, ranges)| (format!("directory {}", walk.path(parent)), ranges))
            .collect())
    }

    fn owners(&self, offsets: &[VolumeOffset], likely: &[FileId]) -> Result<Vec<Owner>> {
        self.owners_of(offsets, likely)
    }

    fn overwrite(&self, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        edit::overwrite(self, id, offset, bytes)
    }

    fn erase(&self, id: FileId) -> Result<u64> {
        edit::erase(self, id)
    }

    fn remove(&self, ids: &[FileId]) -> Result<Removal> {
        edit::remove(self, ids)
    }

    fn wipe_residue(&self, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
        edit::wipe_residue(self, hits)
    }

    fn check_touched(&self, touched: &[Range<u64>]) -> Result<Vec<String>> {
        self.check_ranges(touched)
    }

    /// A record is a slot; what was found in its name stands somewhere in it.
    fn record_offset(&self, record: u64, _inside: u64) -> Result<VolumeOffset> {
        slot_offset(record).map(VolumeOffset)
    }
}

/// Where a slot stands.
pub(super) fn slot_offset(number: u64) -> Result<u64> {
    number.checked_mul(SLOT_LEN).ok_or_else(|| {
        Error::malformed("directory entry: offset").at("directory entry", entry_place(number))
    })
}

fn no_entry(id: FileId) -> Error {
    Error::malformed("directory entry: a file or directory expected, found none")
        .at("directory entry", entry_place(id.0))
}

fn folded(name: &Name) -> Vec<u16> {
    name.units()
        .iter()
        .map(|unit| ascii_upcase(*unit))
        .collect()
}

fn entry_of(walk: &Walk, index: usize) -> Result<FileEntry> {
    let node = walk
        .nodes
        .get(index)
        .ok_or_else(|| Error::internal("FAT: a node's number"))?;
    let parent = walk.nodes.get(node.parent).map_or(0, |parent| parent.id);
    Ok(FileEntry {
        id: FileId(node.id),
        paths: vec![walk.path(index)],
        names: node.names(),
        parents: vec![FileId(parent)],
        len: node.len(),
        storage: match node.is_directory() {
            true => Storage::None,
            false => Storage::Plain,
        },
        is_directory: node.is_directory(),
        orphan: false,
        listing: listing_of(walk, node),
    })
}

/// Where the entry stands and everything in it; a name more for a long one.
fn listing_of(walk: &Walk, node: &Node) -> Listing {
    let mut hash = Sha1::new();
    hash.update(node.id.to_le_bytes());
    let parent = walk.nodes.get(node.parent).map_or(0, |parent| parent.id);
    hash.update(parent.to_le_bytes());
    hash.update(node.raw);
    for unit in node.long.iter().flat_map(Name::units) {
        hash.update(unit.to_le_bytes());
    }
    let digest: [u8; 20] = hash.finalize().into();
    let front: [u8; 16] = std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0));
    Listing {
        files: u64::from(!node.is_label()),
        names: 1_u64.saturating_add(u64::from(node.long.is_some())),
        sum: u128::from_le_bytes(front),
    }
}

/// What can be read of a deleted entry. The first byte of its short name is lost: it is taken from
/// the searched names that the rest fits.
fn remains(stale: &Stale, patterns: &[NamePattern]) -> Vec<u8> {
    let mut names = vec![stale.long.clone()];
    if let Some(raw) = &stale.short {
        names.push(short_name(raw));
        let found = short_bytes(raw);
        for pattern in patterns {
            let whole = pattern.part == NamePart::Whole;
            let wanted = as_short(&pattern.folded).filter(|_| whole);
            if wanted.is_some_and(|wanted| wanted.get(1..) == found.get(1..)) {
                names.push(Name(pattern.folded.clone()));
            }
        }
    }
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend(name.units().iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend([0, 0]);
    }
    bytes
}

impl Fat {
    /// A slot as it is now.
    pub(super) fn slot(&self, number: u64) -> Result<Raw> {
        let at = slot_offset(number)?;
        let mut raw = [0; slot::LEN];
        self.device
            .read_at(at, &mut raw)
            .at("volume offset", format!("{at:#x}"))?;
        Ok(raw)
    }

    /// A file's entry and its whole chain, which must hold all its bytes.
    pub(super) fn data_of(&self, id: FileId) -> Result<(Raw, Chain)> {
        let raw = self.slot(id.0)?;
        let attributes = byte(&raw, slot::ATTRIBUTES);
        if id.0 == 0
            || attributes & (slot::DIRECTORY | slot::LABEL) != 0
            || matches!(byte(&raw, 0), 0 | slot::DELETED)
        {
            return Err(no_entry(id));
        }
        let first = first_cluster(self, &raw);
        let len = u64::from(len_of(&raw));
        if first == 0 && len == 0 {
            return Ok((raw, Chain::default()));
        }
        let chain = Table::new(self).single(first)?;
        let room = chain.clusters.saturating_mul(self.geometry.cluster_len);
        if let Some(problem) = &chain.problem {
            return Err(Error::malformed(problem.clone()).at("directory entry", entry_place(id.0)));
        }
        if room < len {
            return Err(Error::malformed(format!(
                "chain: clusters for {len} bytes expected, found {room} bytes"
            ))
            .at("directory entry", entry_place(id.0)));
        }
        Ok((raw, chain))
    }

    /// Hands out the pieces of a range of a chain: volume offset, and from where to where counted
    /// from the range's start.
    pub(super) fn each_piece(
        &self,
        chain: &Chain,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0_u64;
        for (place, len) in chain.ranges(&self.geometry) {
            let next = at.saturating_add(len);
            let (from, to) = (start.max(at), end.min(next));
            if from < to {
                let place = place.saturating_add(from.saturating_sub(at));
                each(place, from.saturating_sub(start), to.saturating_sub(start))?;
            }
            at = next;
        }
        Ok(())
    }
}
