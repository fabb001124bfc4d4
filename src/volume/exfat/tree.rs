//! [`FileTree`] for exFAT: each method hands over to the file that knows.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Exfat, edit,
    entry::Raw,
    format::slot,
    table::{Chain, Table},
    walk::{Node, Walk},
};
use crate::{
    error::{At, Error, Result},
    text::{Name, ascii_upcase},
    tree::{
        Census, Disposition, Extent, FileEntry, FileId, FileTree, Listing, MetadataChunk,
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

impl FileTree for Exfat {
    fn label(&self) -> String {
        "exFAT".to_owned()
    }

    fn obstacles(&self) -> Result<Vec<Obstacle>> {
        self.find_obstacles()
    }

    /// The records shown are the names of deleted entries, as UTF-16: the volume holds longer ones
    /// in pieces.
    fn census(
        &self,
        patterns: &[NamePattern],
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        self.forget_walk()?;
        let walk = self.walk()?;
        let mut census = Census {
            listing: Listing {
                sum: walk.fixed_sum,
                ..Listing::default()
            },
            problems: walk.problems.clone(),
            problem_count: walk.problem_count,
            ..Census::default()
        };
        for (index, node) in walk.nodes.iter().enumerate().skip(1) {
            census.listing.add(&listing_of(&walk, node));
            let folded = folded(&walk, &node.set.name);
            if !patterns
                .iter()
                .any(|pattern| pattern.matches_folded(&folded))
            {
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
            let units = stale.name.units().iter();
            let mut bytes: Vec<u8> = units.flat_map(|unit| unit.to_le_bytes()).collect();
            bytes.extend([0, 0]);
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
            let want: Vec<u16> = want.encode_utf16().map(ascii_upcase).collect();
            let mut nodes = walk.nodes.iter().enumerate().skip(1);
            let child =
                nodes.find(|(_, node)| node.parent == at && folded(&walk, &node.set.name) == want);
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
            .filter(|(_, node)| node.parent == above)
            .map(|(index, _)| entry_of(&walk, index))
            .collect()
    }

    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let (node, chain) = self.data_of(id)?;
        let end = sum(offset.get(), wide(buf.len()), "file")?;
        if end > node.len() {
            return Err(Error::malformed(format!(
                "file: {} bytes expected at {offset}, it has only {}",
                buf.len(),
                node.len()
            ))
            .at("directory entry", shown(id)));
        }
        // What was never written reads as zeros, whatever its clusters hold (section 7.6.5).
        let written = node.set.valid.clamp(offset.get(), end);
        let known = narrow(written.saturating_sub(offset.get()), "file")?;
        buf.iter_mut().skip(known).for_each(|byte| *byte = 0);
        chain.each_piece(&self.geometry, offset.get(), written, |place, from, to| {
            let part = buf
                .get_mut(narrow(from, "file")?..narrow(to, "file")?)
                .ok_or_else(|| Error::internal("exFAT file: its piece"))?;
            self.device
                .read_at(place, part)
                .at("volume offset", format!("{place:#x}"))
        })
    }

    fn extents(&self, id: FileId) -> Result<Vec<Extent>> {
        let (node, chain) = self.data_of(id)?;
        let mut extents = Vec::new();
        chain.each_piece(&self.geometry, 0, node.len(), |place, from, to| {
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

    /// A record is a slot; what was found in its name stands somewhere in the slots behind it.
    fn record_offset(&self, record: u64, _inside: u64) -> Result<VolumeOffset> {
        slot_offset(record).map(VolumeOffset)
    }
}

/// Where a slot stands.
pub(super) fn slot_offset(number: u64) -> Result<u64> {
    number
        .checked_mul(SLOT_LEN)
        .ok_or_else(|| Error::malformed("directory entry: an offset of 64 bits expected"))
}

/// How a message names an entry: by its place in the volume.
pub(super) fn shown(id: FileId) -> String {
    entry_place(id.0)
}

pub(super) fn no_entry(id: FileId) -> Error {
    Error::malformed("directory entry: a file or directory expected, found none")
        .at("directory entry", shown(id))
}

fn folded(walk: &Walk, name: &Name) -> Vec<u16> {
    let units = name.units().iter();
    units.map(|unit| walk.upcase.unit(*unit)).collect()
}

fn entry_of(walk: &Walk, index: usize) -> Result<FileEntry> {
    let node = walk
        .nodes
        .get(index)
        .ok_or_else(|| Error::internal("exFAT: a node's number"))?;
    let parent = walk.nodes.get(node.parent).map_or(0, |parent| parent.id);
    Ok(FileEntry {
        id: FileId(node.id),
        paths: vec![walk.path(index)],
        names: vec![node.set.name.clone()],
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

/// Where the entries stand, everything in them, and whose directory they are in.
fn listing_of(walk: &Walk, node: &Node) -> Listing {
    let parent = walk.nodes.get(node.parent).map_or(0, |parent| parent.id);
    let sum = u128::from_le_bytes(node.digest);
    Listing {
        files: 1,
        names: 1,
        sum: sum.wrapping_mul(u128::from(parent).wrapping_mul(2).wrapping_add(1)),
    }
}

impl Exfat {
    /// A slot as it is now.
    pub(super) fn slot(&self, number: u64) -> Result<Raw> {
        let at = slot_offset(number)?;
        let mut raw = [0; slot::LEN];
        self.device
            .read_at(at, &mut raw)
            .at("volume offset", format!("{at:#x}"))?;
        Ok(raw)
    }

    /// A file and the clusters of its data.
    pub(super) fn data_of(&self, id: FileId) -> Result<(Node, Chain)> {
        let walk = self.walk()?;
        let node = walk
            .find(id.0)
            .and_then(|index| walk.nodes.get(index))
            .filter(|node| !node.is_directory())
            .ok_or_else(|| no_entry(id))?;
        let chain = Table::new(self).chain(node.set.data)?;
        if let Some(problem) = &chain.problem {
            return Err(Error::malformed(problem.clone()).at("directory entry", shown(id)));
        }
        Ok((node.clone(), chain))
    }
}
