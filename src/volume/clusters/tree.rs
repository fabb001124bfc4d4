//! [`FileTree`]: each method hands over to the file that knows.

use std::{collections::BTreeMap, ops::Range};

use super::{Chain, Entry, Format, Node, Raw, SLOT_LEN, Table, Volume, Walk, edit, slot_offset};
use crate::{
    error::{At, Error, Result},
    text::{Name, ascii_upcase},
    tree::{
        Census, Disposition, Extent, FileEntry, FileId, FileTree, Listing, MOST_ALIKE, MOST_NAMED,
        MetadataChunk, NamePart, NamePattern, Obstacle, Owner, Removal, Storage,
    },
    units::{FileOffset, VolumeOffset},
    volume::{
        entry_place,
        widths::{narrow, sum, wide},
    },
};

impl<F: Format> FileTree for Volume<F> {
    fn label(&self) -> String {
        F::label(&self.geometry)
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
            listing: F::fixed(&walk),
            problems: walk.problems.clone(),
            problem_count: walk.problem_count,
            unreadable: walk.unreadable(),
            ..Census::default()
        };
        let (mut named, mut alike) = (0_usize, 0_usize);
        for (index, node) in walk.nodes.iter().enumerate().skip(1) {
            census.listing.add(&listing_of(&walk, node));
            if node.is_label() {
                continue;
            }
            // Whole names first: a full recycle bin must not push them out.
            let names = node.entry.names();
            let names: Vec<Vec<u16>> = names.iter().map(|name| folded(&walk, name)).collect();
            let matching = || {
                patterns
                    .iter()
                    .filter(|pattern| names.iter().any(|name| pattern.matches_folded(name)))
            };
            let (count, most) = match matching().any(|pattern| pattern.part == NamePart::Whole) {
                true => (&mut named, MOST_NAMED),
                false if matching().next().is_none() => continue,
                false => (&mut alike, MOST_ALIKE),
            };
            if *count >= most {
                census.cut = census.cut.saturating_add(1);
                continue;
            }
            *count = count.saturating_add(1);
            census.found.push(entry_of(&walk, index)?);
        }
        for stale in &walk.stale {
            let bytes = F::remains(&stale.remains, patterns);
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
            let is_named = |name: &Name| folded(&walk, name) == want;
            let child = walk.nodes.iter().enumerate().skip(1).find(|(_, node)| {
                node.parent == at && !node.is_label() && node.entry.names().iter().any(is_named)
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

    /// What was never written reads as zeros, whatever its clusters hold.
    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let (node, chain) = self.data_of(id)?;
        let end = sum(offset.get(), wide(buf.len()), "file")?;
        if end > node.data_len() {
            return Err(Error::malformed(format!(
                "file: {} bytes expected at {offset}, it has only {}",
                buf.len(),
                node.data_len()
            ))
            .at("directory entry", entry_place(id.0)));
        }
        let written = node.entry.valid().clamp(offset.get(), end);
        let known = narrow(written.saturating_sub(offset.get()), "file")?;
        buf.iter_mut().skip(known).for_each(|byte| *byte = 0);
        self.read_chain(
            &chain,
            offset.get(),
            buf.get_mut(..known).unwrap_or_default(),
        )
    }

    fn extents(&self, id: FileId) -> Result<Vec<Extent>> {
        let (node, chain) = self.data_of(id)?;
        let mut extents = Vec::new();
        chain.each_piece(self.heap(), 0, node.data_len(), |place, from, to| {
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

    /// A record is a slot; what was found in its name stands somewhere in it or behind it.
    fn record_offset(&self, record: u64, _inside: u64) -> Result<VolumeOffset> {
        slot_offset(record).map(VolumeOffset)
    }
}

fn no_entry(id: FileId) -> Error {
    Error::malformed("directory entry: a file or directory expected, found none")
        .at("directory entry", entry_place(id.0))
}

fn folded<F: Format>(walk: &Walk<F>, name: &Name) -> Vec<u16> {
    let units = name.units().iter();
    units.map(|unit| F::upcase(walk, *unit)).collect()
}

fn entry_of<F: Format>(walk: &Walk<F>, index: usize) -> Result<FileEntry> {
    let node = walk
        .nodes
        .get(index)
        .ok_or_else(|| Error::internal(format!("{}: a node's number", F::NAME)))?;
    Ok(FileEntry {
        id: FileId(node.id),
        paths: vec![walk.path(index)],
        names: node.entry.names(),
        parents: vec![FileId(parent_of(walk, node))],
        len: node.data_len(),
        storage: match node.is_directory() {
            true => Storage::None,
            false => Storage::Plain,
        },
        is_directory: node.is_directory(),
        orphan: false,
        listing: listing_of(walk, node),
    })
}

fn parent_of<F: Format>(walk: &Walk<F>, node: &Node<F::Entry>) -> u64 {
    walk.nodes.get(node.parent).map_or(0, |parent| parent.id)
}

fn listing_of<F: Format>(walk: &Walk<F>, node: &Node<F::Entry>) -> Listing {
    F::listing(node, parent_of(walk, node))
}

impl<F: Format> Volume<F> {
    /// A slot as it is now.
    pub(in crate::volume) fn slot(&self, number: u64) -> Result<Raw> {
        let at = slot_offset(number)?;
        let mut raw = [0; SLOT_LEN];
        self.device
            .read_at(at, &mut raw)
            .at("volume offset", format!("{at:#x}"))?;
        Ok(raw)
    }

    /// Reads from the contents of a chain.
    pub(in crate::volume) fn read_chain(
        &self,
        chain: &Chain,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let end = offset.saturating_add(wide(buf.len()));
        chain.each_piece(self.heap(), offset, end, |place, from, to| {
            let part = buf
                .get_mut(narrow(from, "chain")?..narrow(to, "chain")?)
                .ok_or_else(|| Error::internal(format!("{} chain: its piece", F::NAME)))?;
            self.device
                .read_at(place, part)
                .at("volume offset", format!("{place:#x}"))
        })
    }

    /// A file and the clusters of its data, which must hold all its bytes.
    pub(super) fn data_of(&self, id: FileId) -> Result<(Node<F::Entry>, Chain)> {
        let walk = self.walk()?;
        let node = walk
            .find(id.0)
            .and_then(|index| walk.nodes.get(index))
            .filter(|node| !node.is_directory() && !node.is_label())
            .ok_or_else(|| no_entry(id))?;
        let chains = F::chains(&mut Table::new(self), &node.entry)?;
        let chain = chains.into_iter().next().unwrap_or_default();
        if let Some(problem) = &chain.problem {
            return Err(Error::malformed(problem.clone()).at("directory entry", entry_place(id.0)));
        }
        Ok((node.clone(), chain))
    }
}
