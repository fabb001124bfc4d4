//! Entries: what the outside sees of a file, its paths rebuilt through its parents.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ntfs,
    attribute::FileName,
    census::contribution,
    file::File,
    format::{code, file_name, number},
    index::{DIRECTORY_INDEX, Index},
    opaque::form_of,
    scan::Scanned,
};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::{Name, WinPath},
    tree::{FileEntry, FileId, Form, Listing, Storage},
    units::MftReference,
};

/// Windows itself cannot open a path of more than 32,767 units; real ones have a few dozen names.
const MAX_PATH_DEPTH: usize = 1024;

/// Directories already looked at during one call: the name to show and the parent. Files share
/// most of their parents, and damaged volumes must not make every path expensive.
#[derive(Debug, Default)]
pub(super) struct Parents(BTreeMap<MftReference, Option<(Name, MftReference)>>);

/// Tag of a file whose contents lie in a WIM archive, whoever brings them from there.
const WIM_TAG: u32 = 0x8000_0008;

/// Only the directories of hives are listed; one of them has a hundred entries.
const MAX_LISTED: usize = 20_000;

impl Ntfs {
    /// See [`FileTree::entry`](crate::tree::FileTree::entry).
    pub(super) fn entry_of(&self, id: FileId) -> Result<FileEntry> {
        let file = self.file_at(MftReference(id.0))?;
        self.entry_of_file(&file, &mut Parents::default())
    }

    /// The entry of a file already read.
    pub(super) fn entry_of_file(&self, file: &File, parents: &mut Parents) -> Result<FileEntry> {
        let data = file.stream_named(code::DATA, &Name::default())?;
        let mut listing = Listing::default();
        for record in &file.records {
            let scanned = Scanned {
                number: record.number,
                bytes: &record.bytes,
                valid: record.fixup_ok,
            };
            listing.add(&contribution(scanned, |_| {}).0);
        }
        let mut names: Vec<Name> = Vec::new();
        for name in &file.names {
            if !names.contains(&name.name) {
                names.push(name.name.clone());
            }
        }
        Ok(FileEntry {
            id: FileId(file.reference.0),
            paths: self.paths_of(file, parents),
            names,
            parents: file
                .names
                .iter()
                .map(|name| FileId(name.parent.0))
                .collect(),
            len: data.as_ref().map_or(0, |stream| stream.data_len),
            storage: self.storage_of(file)?,
            is_directory: file.is_directory(),
            orphan: self.is_orphan(file),
            listing,
        })
    }

    /// How the main data stream is stored.
    pub(super) fn storage_of(&self, file: &File) -> Result<Storage> {
        if !file.is_directory()
            && let Some(reparse) = file.stream_named(code::REPARSE_POINT, &Name::default())?
        {
            let bytes = self.read_whole(&reparse)?;
            let tag = View::new(&bytes, "reparse point").u32(0)?;
            // What WOF keeps in an archive is not in the file: that is another thing.
            return Ok(Storage::Redirected(match form_of(&bytes) {
                Some(Form::Wim) => WIM_TAG,
                _ => tag,
            }));
        }
        let Some(data) = file.stream_named(code::DATA, &Name::default())? else {
            return Ok(Storage::None);
        };
        Ok(if data.is_encrypted() {
            Storage::Encrypted
        } else if data.is_resident() {
            Storage::Resident
        } else if data.is_compressed() && data.compression_unit != 0 {
            Storage::Compressed
        } else if data.has_holes() {
            Storage::Sparse
        } else {
            Storage::Plain
        })
    }

    /// One path a name, aliases left out; the name to show first.
    fn paths_of(&self, file: &File, parents: &mut Parents) -> Vec<WinPath> {
        if file.reference.record() == number::ROOT {
            return vec![WinPath::default()];
        }
        let mut names: Vec<&FileName> = file.names.iter().filter(|n| !n.is_dos_alias()).collect();
        if names.is_empty() {
            names = file.names.iter().collect();
        }
        names.sort_by_key(|name| name.namespace == file_name::POSIX);
        names
            .into_iter()
            .map(|name| self.path_of(name, parents))
            .collect()
    }

    /// The path of a name: up through the parents, sequence numbers checked, each visited once.
    pub(super) fn path_of(&self, name: &FileName, parents: &mut Parents) -> WinPath {
        let mut path = vec![name.name.clone()];
        let mut parent = name.parent;
        let mut seen = BTreeSet::new();
        loop {
            let above = if path.len() > MAX_PATH_DEPTH || !seen.insert(parent) {
                None
            } else {
                parents
                    .0
                    .entry(parent)
                    .or_insert_with(|| self.directory_name(parent))
                    .clone()
            };
            let Some((name, next)) = above else {
                path.push(Name::new("?"));
                break;
            };
            if parent.record() == number::ROOT {
                break;
            }
            path.push(name);
            parent = next;
        }
        path.reverse();
        WinPath(path)
    }

    /// The name to show of a directory and its parent.
    fn directory_name(&self, reference: MftReference) -> Option<(Name, MftReference)> {
        let directory = self.file_at(reference).ok().filter(File::is_directory)?;
        let best = best_name(&directory)?;
        Some((best.name.clone(), best.parent))
    }

    /// The path to show of a file, for messages; `?` if it cannot be read.
    pub(super) fn shown_path(&self, reference: MftReference) -> String {
        self.file_at(reference).map_or_else(
            |_| "?".to_owned(),
            |file| {
                self.paths_of(&file, &mut Parents::default())
                    .first()
                    .map_or_else(
                        || format!("? (file record {reference})"),
                        ToString::to_string,
                    )
            },
        )
    }

    /// Whether some name is in no directory's index. The system's records without names are none.
    fn is_orphan(&self, file: &File) -> bool {
        if file.names.is_empty() {
            return file.reference.record() >= number::FIRST_USER;
        }
        !file
            .names
            .iter()
            .all(|name| self.is_indexed(file.reference, name).unwrap_or(false))
    }

    /// Whether a name stands in its parent's index: the same units, namespace and file.
    pub fn is_indexed(&self, file: MftReference, name: &FileName) -> Result<bool> {
        let directory = self.file_at(name.parent)?;
        let Some(index) = Index::open(self, &directory, DIRECTORY_INDEX)? else {
            return Ok(false);
        };
        let hits = index.find_name(self, name.name.units())?;
        Ok(hits.iter().any(|hit| {
            hit.reference == file
                && hit.name.name == name.name
                && hit.name.namespace == name.namespace
        }))
    }

    /// See [`FileTree::lookup`](crate::tree::FileTree::lookup).
    pub(super) fn lookup_path(&self, path: &[&str]) -> Result<Option<FileEntry>> {
        let mut here = self.file(number::ROOT)?;
        for part in path {
            let wanted: Vec<u16> = part.encode_utf16().collect();
            let Some(index) = Index::open(self, &here, DIRECTORY_INDEX)? else {
                return Ok(None);
            };
            let hits = index.find_name(self, &wanted)?;
            let Some(hit) = hits
                .iter()
                .find(|hit| hit.name.name.units() == wanted)
                .or_else(|| hits.first())
            else {
                return Ok(None);
            };
            here = self.file_at(hit.reference).map_err(|e| {
                Error::malformed(format!("directory entry {}: {e}", hit.name.name))
                    .at("file record", here.reference.record())
            })?;
        }
        self.entry_of_file(&here, &mut Parents::default()).map(Some)
    }

    /// See [`FileTree::list`](crate::tree::FileTree::list).
    pub(super) fn list_directory(&self, directory: FileId) -> Result<Vec<FileEntry>> {
        let file = self.file_at(MftReference(directory.0))?;
        let Some(index) = Index::open(self, &file, DIRECTORY_INDEX)? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        index.walk(self, &mut |_, entry, _| {
            if found.len() >= MAX_LISTED {
                return Err(Error::limit(format!(
                    "directory: at most {MAX_LISTED} entries expected, found more"
                ))
                .at("file record", file.reference.record()));
            }
            found.push(entry.reference);
            Ok(())
        })?;
        found.sort_unstable();
        found.dedup();
        let mut parents = Parents::default();
        found
            .into_iter()
            .map(|reference| self.entry_of_file(&self.file_at(reference)?, &mut parents))
            .collect()
    }
}

/// The name of a directory to show: Win32 before POSIX before DOS.
fn best_name(file: &File) -> Option<&FileName> {
    file.names.iter().min_by_key(|name| match name.namespace {
        file_name::WIN32 | file_name::WIN32_AND_DOS => 0,
        file_name::POSIX => 1,
        _ => 2,
    })
}
