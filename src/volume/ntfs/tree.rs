//! [`FileTree`] for NTFS: each method hands over to the file that knows.

use std::ops::Range;

use super::{
    Ntfs, edit,
    file::File,
    format::{code, number},
    index::{DIRECTORY_INDEX, Index},
    stream::{Content, Stream},
};
use crate::{
    error::{At, Error, Result},
    text::Name,
    tree::{
        Census, Disposition, Extent, FileEntry, FileId, FileTree, MetadataChunk, NamePattern,
        Obstacle, Owner, Removal, Storage,
    },
    units::{FileOffset, MftReference, VolumeOffset},
    volume::widths::wide,
};

impl FileTree for Ntfs {
    fn label(&self) -> String {
        format!("NTFS {}.{}", self.version.0, self.version.1)
    }

    fn obstacles(&self) -> Result<Vec<Obstacle>> {
        Ok(self.find_obstacles())
    }

    fn census(
        &self,
        patterns: &[NamePattern],
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        self.take_census(patterns, search)
    }

    fn entry(&self, id: FileId) -> Result<FileEntry> {
        self.entry_of(id)
    }

    fn lookup(&self, path: &[&str]) -> Result<Option<FileEntry>> {
        self.lookup_path(path)
    }

    fn list(&self, directory: FileId) -> Result<Vec<FileEntry>> {
        self.list_directory(directory)
    }

    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let file = self.file_at(MftReference(id.0))?;
        if let Storage::Redirected(tag) = self.storage_of(&file)? {
            return Err(Error::unsupported(format!(
                "file: data in its own stream expected, found a reparse point {tag:#010x}"
            ))
            .at("file record", file.reference.record()));
        }
        let data = file.require(code::DATA, "")?;
        self.read_stream(&data, offset, buf)
            .at("file record", file.reference.record())
    }

    fn extents(&self, id: FileId) -> Result<Vec<Extent>> {
        let file = self.file_at(MftReference(id.0))?;
        let Some(data) = file.stream_named(code::DATA, &Name::default())? else {
            return Ok(Vec::new());
        };
        self.stream_extents(&data)
    }

    fn trace_areas(&self, ids: &[FileId]) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        let mut areas = Vec::new();
        let log = self.file(number::LOG_FILE)?.require(code::DATA, "")?;
        areas.push(("$LogFile".to_owned(), self.real_ranges(&log)));
        if let Some(journal) = self.usn_journal()? {
            areas.push((
                "$Extend\\$UsnJrnl:$J".to_owned(),
                self.real_ranges(&journal),
            ));
        }
        let mut parents: Vec<MftReference> = Vec::new();
        for id in ids {
            let file = self.file_at(MftReference(id.0))?;
            parents.extend(file.names.iter().map(|name| name.parent));
        }
        parents.sort_unstable();
        parents.dedup();
        for parent in parents {
            // A parent that is gone has no index to keep traces in.
            let Ok(directory) = self.file_at(parent) else {
                continue;
            };
            let name = Name::new(DIRECTORY_INDEX);
            if let Some(index) = directory.stream_named(code::INDEX_ALLOCATION, &name)? {
                areas.push((
                    format!("index of {}", self.shown_path(parent)),
                    self.real_ranges(&index),
                ));
            }
        }
        Ok(areas)
    }

    fn structures(&self) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        let mut all = Vec::new();
        for (number, name) in [(number::MFT, "$MFT"), (number::LOG_FILE, "$LogFile")] {
            let data = self.file(number)?.require(code::DATA, "")?;
            all.push((name.to_owned(), self.real_ranges(&data)));
        }
        Ok(all)
    }

    fn owners(&self, offsets: &[VolumeOffset], likely: &[FileId]) -> Result<Vec<Owner>> {
        self.owners_of(offsets, likely)
    }

    fn sole_owners(&self, written: &[FileId], removed: &[FileId]) -> Result<()> {
        edit::sole_owners(self, written, removed)
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

    fn record_offset(&self, record: u64, inside: u64) -> Result<VolumeOffset> {
        let mut rest = inside;
        for (offset, len) in self.record_pieces(record)? {
            match rest.checked_sub(wide(len)) {
                None => {
                    return offset
                        .checked_add(rest)
                        .ok_or_else(|| Error::internal("file record: offset"));
                }
                Some(less) => rest = less,
            }
        }
        Err(Error::malformed(format!(
            "file record: an offset below {} expected, found {inside}",
            self.geometry.record_len
        ))
        .at("file record", record))
    }
}

impl Ntfs {
    /// Where a stream lies: the pieces of its record, or its runs cut at its length. The last two
    /// bytes of each 512 of a resident value stand in the record's update sequence array.
    pub(super) fn stream_extents(&self, stream: &Stream) -> Result<Vec<Extent>> {
        if stream.data_len == 0 {
            return Ok(Vec::new());
        }
        match &stream.content {
            Content::Runs(_) => Ok(stream
                .pieces(self.geometry.cluster_len, 0, stream.data_len)?
                .into_iter()
                .map(|piece| Extent {
                    file_offset: FileOffset(piece.offset),
                    len: piece.len,
                    volume_offset: piece.volume_offset,
                })
                .collect()),
            Content::Resident { record, offset, .. } => {
                let start = wide(*offset);
                let end = start.saturating_add(stream.data_len);
                let mut at = 0u64;
                let mut extents = Vec::new();
                for (place, len) in self.record_pieces(*record)? {
                    let next = at.saturating_add(wide(len));
                    let from = start.max(at);
                    let to = end.min(next);
                    if from < to {
                        extents.push(Extent {
                            file_offset: FileOffset(from.saturating_sub(start)),
                            len: to.saturating_sub(from),
                            volume_offset: place.checked_add(from.saturating_sub(at)),
                        });
                    }
                    at = next;
                }
                Ok(extents)
            }
        }
    }

    /// The volume ranges of all real clusters of a stream.
    #[must_use]
    pub fn real_ranges(&self, stream: &Stream) -> Vec<Range<u64>> {
        stream
            .runs()
            .iter()
            .filter_map(|run| {
                let start = self.cluster_offset(run.lcn?).get();
                let end = self.cluster_offset(run.end_lcn()?).get();
                Some(start..end)
            })
            .collect()
    }

    /// The change journal's records, if the volume has one.
    pub fn usn_journal(&self) -> Result<Option<Stream>> {
        let Some(file) = self.extend_file("$UsnJrnl")? else {
            return Ok(None);
        };
        file.stream_named(code::DATA, &Name::new("$J"))
    }

    /// A file of the directory \$Extend (NTFS 3.0 and later).
    pub fn extend_file(&self, name: &str) -> Result<Option<File>> {
        let Ok(extend) = self.file(number::EXTEND) else {
            return Ok(None);
        };
        let Some(index) = Index::open(self, &extend, DIRECTORY_INDEX)? else {
            return Ok(None);
        };
        let units: Vec<u16> = name.encode_utf16().collect();
        match index.find_name(self, &units)?.first() {
            Some(hit) => self.file_at(hit.reference).map(Some),
            None => Ok(None),
        }
    }
}
