//! The recycle bin: files that have lost their names, and the notes that know them.
//!
//! In: the census. Out: what recycled files were called, and which transaction log belongs to which
//! recycled hive.
//! Facts from: the `$I` files of Windows Vista (version 1) and 10 (version 2), and `INFO2` of earlier
//! systems, as libyal's documentation of the recycle bin formats has them. A hive that `INFO2` knows
//! is judged without its logs.

use std::collections::HashMap;

use super::{HiveFile, LOG_ENDINGS, Role, shape_of, stem};
use crate::{
    bytes::View,
    error::{Kind, Result},
    text::{Name, eq_ascii},
    tree::{Census, FileEntry, FileId, FileTree},
    units::FileOffset,
};

/// The recycle bin: since Vista, before.
const BINS: [&str; 2] = ["$Recycle.Bin", "RECYCLER"];
/// How a recycled file is called since Vista: this, six characters, the old extension.
pub(super) const FILE: &str = "$R";
/// The note on it: the same, but this.
pub(super) const NOTE: &str = "$I";
/// The list of a bin before Vista.
pub(super) const LIST: &str = "INFO2";
/// A header and the longest path of Windows.
const NOTE_LIMIT: u64 = 28 + 2 * 32_768;

/// `$I`: 0x00 u64 version; 0x08 u64 length of the file; 0x10 FILETIME of the deletion; then the path.
mod note {
    pub(super) const VERSION: usize = 0x00;
    /// Version 1: 260 units, ended by a zero.
    pub(super) const PATH_V1: usize = 0x18;
    pub(super) const UNITS_V1: usize = 260;
    /// Version 2: u32 count of units, the final zero included, then these.
    pub(super) const COUNT_V2: usize = 0x18;
    pub(super) const PATH_V2: usize = 0x1c;
}

/// [`LIST`]: 0x0C u32 length of a record; records from 0x14 on: 0x000 the old
/// path in the system's code page (260 bytes), 0x104 u32 index, 0x108 u32 drive (0 is A); since
/// Windows 2000 (800 bytes a record) 0x118 the path in UTF-16. The file is called `D`, the drive's
/// letter, the index, the old extension.
mod list {
    pub(super) const RECORD_LEN: usize = 0x0c;
    pub(super) const RECORDS: usize = 0x14;
    pub(super) const ANSI: usize = 260;
    pub(super) const INDEX: usize = 0x104;
    pub(super) const DRIVE: usize = 0x108;
    pub(super) const WIDE: usize = 0x118;
    pub(super) const UNITS: usize = 260;
    /// The longest one that is read: some ten thousand records.
    pub(super) const LIMIT: u64 = 8 << 20;
}

/// What a file of the recycle bin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recycled {
    /// It was called so.
    File(Name),
    /// The note on a file that was called so.
    Note(Name),
}

impl Recycled {
    /// The name that is meant.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::File(name) | Self::Note(name) => name,
        }
    }
}

/// The name at the end of a path.
fn last_of(path: &Name) -> Name {
    let units = path.units();
    let start = units.iter().rposition(|unit| *unit == u16::from(b'\\'));
    let last = units.get(start.map_or(0, |at| at + 1)..);
    Name(last.unwrap_or_default().to_vec())
}

/// A name without its extension, in capitals.
fn base_of(name: &Name) -> Vec<u16> {
    let units = name.units();
    let dot = units.iter().rposition(|unit| *unit == u16::from(b'.'));
    let base = units.get(..dot.unwrap_or(units.len())).unwrap_or_default();
    base.iter().map(|u| crate::text::ascii_upcase(*u)).collect()
}

/// What the list of a bin knows: a file's name without extension, and its old path.
fn listed(bytes: &[u8]) -> Result<Vec<(Vec<u16>, Name)>> {
    let view = View::new(bytes, "recycle bin list");
    let len = usize::try_from(view.u32(list::RECORD_LEN)?).unwrap_or(0);
    let wide = list::WIDE + 2 * list::UNITS;
    if len != list::WIDE && len != wide {
        return Ok(Vec::new());
    }
    let records = bytes.get(list::RECORDS..).unwrap_or_default();
    let mut out = Vec::new();
    for record in records.chunks_exact(len) {
        let view = View::new(record, "recycle bin list");
        let units = match len == wide {
            true => view.units(list::WIDE, list::UNITS)?,
            false => {
                let ansi = view.get(0, list::ANSI)?;
                ansi.iter().map(|byte| u16::from(*byte)).collect()
            }
        };
        let end = units.iter().position(|unit| *unit == 0);
        let path = units.get(..end.unwrap_or(units.len())).unwrap_or_default();
        let letter = u8::try_from(view.u32(list::DRIVE)?).unwrap_or(u8::MAX);
        if path.is_empty() || letter >= 26 {
            continue;
        }
        let letter = char::from(b'A' + letter);
        let base = format!("D{letter}{}", view.u32(list::INDEX)?);
        out.push((base.encode_utf16().collect(), Name(path.to_vec())));
    }
    Ok(out)
}

/// What the files of the recycle bin were called, and which notes are on them. What cannot be read
/// names nothing.
pub fn names(tree: &dyn FileTree, census: &Census) -> Result<HashMap<FileId, Recycled>> {
    let in_bin = || {
        let found = census.found.iter();
        found.filter(|entry| !entry.is_directory && is_recycled(entry))
    };
    let read = |entry: &FileEntry, limit: u64| -> Result<Option<Vec<u8>>> {
        if entry.len > limit {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(0)];
        match tree.read_at(entry.id, FileOffset(0), &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == Kind::Io => Err(error),
            Err(_) => Ok(None),
        }
    };
    let mut out = HashMap::new();
    let mut by_base: HashMap<(FileId, Vec<u16>), FileId> = HashMap::new();
    let mut notes = HashMap::new();
    for entry in in_bin() {
        for (name, parent) in entry.names.iter().zip(&entry.parents) {
            by_base.insert((*parent, base_of(name)), entry.id);
        }
        if let Some((parent, rest)) = key(entry, NOTE)
            && let Some(bytes) = read(entry, NOTE_LIMIT)?
            && let Ok(Some(path)) = old_path(&bytes)
        {
            notes.insert((parent, rest.units().to_vec()), (entry.id, last_of(&path)));
        }
    }
    for entry in in_bin() {
        if let Some((parent, rest)) = key(entry, FILE)
            && let Some((note, name)) = notes.get(&(parent, rest.units().to_vec()))
        {
            out.insert(entry.id, Recycled::File(name.clone()));
            out.insert(*note, Recycled::Note(name.clone()));
        }
        let is_list = entry.names.iter().any(|name| name.eq_ascii(LIST));
        let bytes = match is_list {
            true => read(entry, list::LIMIT)?,
            false => None,
        };
        let Some((parent, bytes)) = entry.parents.first().zip(bytes) else {
            continue;
        };
        for (base, path) in listed(&bytes).unwrap_or_default() {
            if let Some(id) = by_base.get(&(*parent, base)) {
                out.insert(*id, Recycled::File(last_of(&path)));
            }
        }
    }
    Ok(out)
}

/// A file that lies in a user's recycle bin itself: it has lost its name.
pub(super) fn is_recycled(entry: &FileEntry) -> bool {
    entry.paths.iter().any(|path| match path.0.as_slice() {
        [bin, _, _] => BINS.iter().any(|name| bin.eq_ascii(name)),
        _ => false,
    })
}

/// The directory and what follows `prefix` in the name.
fn key(entry: &FileEntry, prefix: &str) -> Option<(FileId, Name)> {
    // A short alias is a name, too, in the same directory.
    let (parent, others) = entry.parents.split_first()?;
    let [path] = entry.paths.as_slice() else {
        return None;
    };
    let name = path.0.last()?.units();
    if others.iter().any(|other| other != parent) {
        return None;
    }
    let (start, rest) = name.split_at_checked(prefix.len())?;
    eq_ascii(start, prefix).then(|| (*parent, Name(rest.to_vec())))
}

/// Where a recycled file was, by its note.
fn old_path(bytes: &[u8]) -> Result<Option<Name>> {
    let view = View::new(bytes, "recycle bin note");
    let units = match view.u64(note::VERSION)? {
        1 => view.units(note::PATH_V1, note::UNITS_V1)?,
        2 => {
            let count = usize::try_from(view.u32(note::COUNT_V2)?).unwrap_or(usize::MAX);
            if count > bytes.len() {
                return Ok(None);
            }
            view.units(note::PATH_V2, count)?
        }
        _ => return Ok(None),
    };
    let end = units.iter().position(|unit| *unit == 0);
    let path = units.get(..end.unwrap_or(units.len())).unwrap_or_default();
    Ok((!path.is_empty()).then(|| Name(path.to_vec())))
}

/// Gives recycled hives their recycled logs. Where two files were called the same, nobody can say
/// which belongs to which, and none is taken.
pub(super) fn match_logs(
    tree: &dyn FileTree,
    census: &Census,
    files: &mut Vec<HiveFile>,
) -> Result<()> {
    let is_recycled_hive = |file: &&mut HiveFile| file.role == Role::Copy(super::RECYCLED);
    if files.iter_mut().find(is_recycled_hive).is_none() {
        return Ok(());
    }
    let in_bin = || {
        let found = census.found.iter();
        found.filter(|entry| !entry.is_directory && is_recycled(entry))
    };
    let mut notes = HashMap::new();
    for entry in in_bin().filter(|entry| entry.len <= NOTE_LIMIT) {
        let Some((parent, rest)) = key(entry, NOTE) else {
            continue;
        };
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(0)];
        match tree.read_at(entry.id, FileOffset(0), &mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(_) => continue,
        }
        if let Ok(Some(path)) = old_path(&bytes) {
            notes.insert((parent, rest.units().to_vec()), path);
        }
    }
    let old = |entry: &FileEntry| {
        let (parent, rest) = key(entry, FILE)?;
        notes
            .get(&(parent, rest.units().to_vec()))
            .map(|path| (parent, path))
    };
    let called: Vec<(FileId, &Name, &FileEntry)> = in_bin()
        .filter_map(|entry| old(entry).map(|(parent, path)| (parent, path, entry)))
        .collect();
    let only = |parent: FileId, path: &Name| {
        let mut same = called
            .iter()
            .filter(|(bin, other, _)| *bin == parent && other.eq_registry(path));
        match (same.next(), same.next()) {
            (Some((_, _, entry)), None) => Some(*entry),
            _ => None,
        }
    };
    let mut logs = Vec::new();
    for file in files.iter_mut().filter(is_recycled_hive) {
        let Some((parent, path)) = old(&file.entry) else {
            continue;
        };
        if only(parent, path).is_none() {
            continue;
        }
        for (bin, log, _) in &called {
            let is_own = |end: &&str| stem(log, end).is_some_and(|stem| stem.eq_registry(path));
            if *bin != parent || !LOG_ENDINGS.iter().any(is_own) {
                continue;
            }
            if let Some(entry) = only(parent, log) {
                file.logs.push(entry.clone());
                logs.push(entry.clone());
            }
        }
    }
    for entry in logs {
        if files.iter().all(|file| file.entry.id != entry.id) {
            files.push(HiveFile {
                shape: shape_of(tree, &entry),
                entry,
                role: Role::Log,
                logs: Vec::new(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_either_version_names_the_path_and_no_other_does() {
        let path: Vec<u8> = r"C:\x\SOFTWARE"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut first = vec![1, 0, 0, 0, 0, 0, 0, 0];
        first.resize(24, 7);
        first.extend(&path);
        first.resize(544, 0);
        let mut second = vec![2, 0, 0, 0, 0, 0, 0, 0];
        second.resize(24, 7);
        second.extend(14_u32.to_le_bytes());
        second.extend(&path);
        second.extend([0, 0]);
        for note in [first, second.clone()] {
            let found = old_path(&note).unwrap().unwrap();
            assert_eq!(found.to_string(), r"C:\x\SOFTWARE");
            assert!(old_path(&note[..40]).is_err());
        }
        second[24..28].copy_from_slice(&[0xff; 4]);
        assert_eq!(old_path(&second).unwrap(), None);
        second[0] = 3;
        assert_eq!(old_path(&second).unwrap(), None);
    }
}
