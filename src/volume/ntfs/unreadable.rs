//! Files that something names or counts and that cannot be read: their names and paths, from whatever
//! structure still gives them.
//!
//! A record that is lost takes its names with it; the directories' indexes, the other records of the
//! file and what is left of the record itself still have them. Where nothing is lost, only the
//! directories of hives are compared with the records that they name, and all if they are few.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    Ntfs,
    attribute::{Attribute, FileName},
    entry::Parents,
    file::File,
    format::{code, file_name, number, record},
    index::{DIRECTORY_INDEX, Index},
    scan::{Problems, Scanned, resident_value},
};
use crate::{
    error::{Error, Result},
    tree::{FileEntry, Unreadable},
    units::MftReference,
};

/// The directory that every Windows has.
pub(super) const ANCHOR: &str = "System32";
/// Below it and beside it: where hives and their copies are.
const BELOW: [&str; 4] = [ANCHOR, "config", "RegBack", "repair"];
/// A disk has a handful of installations, and some copies of the directory's name.
pub(super) const MAX_ANCHORS: usize = 1000;
/// So few directories are all compared with their records, damage or not.
pub(super) const FEW_DIRECTORIES: usize = 2048;
/// Directories that are looked at although nothing is known to be lost.
const MAX_PLACES: usize = 20_000;
/// Lost files that are named one by one; those with a name looked for always are.
const MAX_LOST: usize = 2000;

/// What is known of the files that cannot be read.
pub(super) struct Losses<'a> {
    ntfs: &'a Ntfs,
    is_wanted: &'a dyn Fn(&FileName) -> bool,
    problems: &'a mut Problems,
    parents: Parents,
    /// By number of the base record, or of the record itself if its base is not known.
    lost: BTreeMap<u64, Unreadable>,
    /// Records of zeros, in order.
    empty: Vec<Range<u64>>,
    /// Files in no index under their own name: some index may have them under another.
    orphans: BTreeSet<MftReference>,
    /// The directories of these files.
    places: Vec<MftReference>,
    /// Whether a record in use is lost.
    damaged: bool,
    /// Lost files that are only counted.
    more: u64,
}

impl<'a> Losses<'a> {
    /// Sorts what the pass over $MFT could not use: records in use are lost files.
    pub(super) fn new(
        ntfs: &'a Ntfs,
        is_wanted: &'a dyn Fn(&FileName) -> bool,
        problems: &'a mut Problems,
    ) -> Self {
        let mut empty = std::mem::take(&mut problems.empty);
        empty.sort_by_key(|range| range.start);
        let mut unusable = std::mem::take(&mut problems.unusable);
        unusable.sort_unstable();
        unusable.dedup();
        let mut losses = Self {
            ntfs,
            is_wanted,
            problems,
            parents: Parents::default(),
            lost: BTreeMap::new(),
            empty,
            orphans: BTreeSet::new(),
            places: Vec::new(),
            damaged: false,
            more: 0,
        };
        let bitmap = losses.bitmap();
        losses.sort_unusable(&unusable, &bitmap);
        losses.sort_empty(&bitmap);
        losses
    }

    /// Which records $MFT has as used. Without it only the records themselves and the indexes say so.
    fn bitmap(&mut self) -> Vec<u8> {
        let file = self.ntfs.file(number::MFT);
        let stream = file.and_then(|mft| mft.require(code::BITMAP, ""));
        let read = stream.and_then(|stream| self.ntfs.read_whole(&stream));
        read.unwrap_or_else(|error| {
            self.problems.add(format_args!("$MFT:$Bitmap: {error}"));
            Vec::new()
        })
    }

    fn sort_unusable(&mut self, unusable: &[u64], bitmap: &[u8]) {
        for number in unusable.iter().copied() {
            let Ok(bytes) = self.ntfs.read_record(number) else {
                continue;
            };
            let in_use = is_set(bitmap, number) || bytes.is_in_use();
            if !in_use {
                continue;
            }
            let magic = bytes.magic();
            let reason = if magic != record::MAGIC {
                format!("FILE expected, found {}", hex::encode(magic))
            } else if bytes.fixup_ok {
                "a sound chain of attributes expected, found a broken one".to_owned()
            } else {
                "a valid update sequence expected, found a torn write or a broken array".to_owned()
            };
            let base = bytes.base().record();
            let of = if bytes.is_extension() { base } else { number };
            self.lose(of, number, format!("file record {number}: {reason}"));
        }
    }

    fn sort_empty(&mut self, bitmap: &[u8]) {
        for range in self.empty.clone() {
            for number in range.start.max(number::FIRST_USER)..range.end {
                if is_set(bitmap, number) {
                    let reason =
                        format!("file record {number}: in use by $MFT's bitmap, all zeros");
                    self.lose(number, number, reason);
                }
            }
        }
    }

    /// A file of which a record in use is lost; `from` may still hold names.
    fn lose(&mut self, base: u64, from: u64, reason: String) {
        self.damaged = true;
        let mut names = self.names_in(from);
        if base != from {
            names.extend(self.names_in(base));
        }
        self.add(base, names, reason);
    }

    /// Adds names to a lost file. Only so many are kept if none of their names is looked for.
    fn add(&mut self, record: u64, names: Vec<FileName>, reason: String) {
        let wanted = names.iter().any(|name| (self.is_wanted)(name));
        let limit = MAX_LOST.saturating_mul(if wanted { 10 } else { 1 });
        if !self.lost.contains_key(&record) && self.lost.len() >= limit {
            self.more = self.more.saturating_add(1);
            return;
        }
        let named: Vec<_> = names
            .into_iter()
            .map(|name| {
                let path = self.ntfs.path_of(&name, &mut self.parents);
                let is_directory = name.attributes & file_name::DIRECTORY != 0;
                (name.name, path, is_directory)
            })
            .collect();
        let lost = self.lost.entry(record).or_default();
        lost.record = Some(record);
        if lost.reason.is_empty() {
            lost.reason = reason;
        }
        for (name, path, is_directory) in named {
            lost.add_name(name, path);
            lost.is_directory |= is_directory;
        }
    }

    /// The names that stand in a record, whatever else is wrong with it.
    fn names_in(&self, number: u64) -> Vec<FileName> {
        let mut names = Vec::new();
        let Ok(bytes) = self.ntfs.read_record(number) else {
            return names;
        };
        let scanned = Scanned {
            number,
            bytes: &bytes.bytes,
            valid: bytes.fixup_ok,
        };
        // What is left of it counts, up to where it breaks off.
        let _ = scanned.each_attribute(|code, attribute| {
            if code == code::FILE_NAME
                && let Some(value) = resident_value(attribute)
            {
                names.extend(FileName::parse(value));
            }
        });
        names
    }

    /// The file of a base record in which, or in whose extensions, a name looked for stands. Each pair
    /// has the record of the name; all have the same base.
    pub(super) fn entry(&mut self, same: &[(MftReference, u64)]) -> Option<FileEntry> {
        let (base, _) = *same.first()?;
        let read = self.ntfs.file_at(base).and_then(|file| {
            let entry = self.ntfs.entry_of_file(&file, &mut self.parents)?;
            Ok((file, entry))
        });
        let (file, entry) = match read {
            Ok(read) => read,
            Err(error) => {
                let mut names = self.names_in(base.record());
                for (_, number) in same {
                    names.extend(self.names_in(*number));
                }
                names.dedup();
                self.add_error(base, names, &error);
                return None;
            }
        };
        let is_lists = |number: u64| file.record(number).is_some();
        for (_, number) in same.iter().filter(|(_, number)| !is_lists(*number)) {
            let names = self.names_in(*number);
            let reason = format!(
                "file record {number}: it says that it belongs to file record {}, which does not list it",
                base.record()
            );
            self.problems.add(&reason);
            self.add(base.record(), names, reason);
        }
        if entry.orphan {
            self.orphans.insert(base);
            if self.places.len() < MAX_PLACES {
                self.places
                    .extend(file.names.iter().map(|name| name.parent));
            }
        }
        let matched = same.iter().any(|(_, number)| is_lists(*number));
        matched.then_some(entry)
    }

    /// A file that matched and could not be read must be seen even if the list is full.
    fn add_error(&mut self, reference: MftReference, names: Vec<FileName>, error: &Error) {
        self.problems.count = self.problems.count.saturating_add(1);
        self.problems
            .lines
            .push(format!("file {reference} has a name looked for: {error}"));
        self.add(reference.record(), names, error.to_string());
    }

    /// Compares directories with the records that they name: all if a record in use is lost or there
    /// are few, those of hives otherwise.
    pub(super) fn compare_indexes(
        &mut self,
        anchors: Vec<MftReference>,
        few: Vec<MftReference>,
    ) -> Result<()> {
        let mut queue = match (self.damaged, few.len() <= FEW_DIRECTORIES) {
            (true, _) => self.all_directories()?,
            (false, true) => few,
            (false, false) => {
                let mut places = std::mem::take(&mut self.places);
                for anchor in anchors {
                    places.push(anchor);
                    if let Ok(file) = self.ntfs.file_at(anchor) {
                        places.extend(file.names.iter().map(|name| name.parent));
                    }
                }
                places
            }
        };
        if let Ok(root) = self.ntfs.file(number::ROOT) {
            queue.push(root.reference);
        }
        let mut seen = BTreeSet::new();
        while let Some(directory) = queue.pop() {
            if !seen.insert(directory) || seen.len() > MAX_PLACES && !self.damaged {
                continue;
            }
            let Ok(file) = self.ntfs.file_at(directory) else {
                // Whoever names it has said so.
                continue;
            };
            if file.is_directory() {
                self.compare(&file, &mut queue);
            }
        }
        Ok(())
    }

    /// All directories, and the files whose lists name a record that is not theirs, in a second pass.
    fn all_directories(&mut self) -> Result<Vec<MftReference>> {
        #[derive(Default)]
        struct Part {
            directories: Vec<MftReference>,
            lists: Vec<MftReference>,
        }
        let (parts, _) = self.ntfs.scan(
            |part: &mut Part, scanned, _| {
                if !scanned.valid || !scanned.is_in_use() || scanned.u64(record::BASE) != 0 {
                    return;
                }
                let own = MftReference::new(scanned.number, scanned.u16(record::SEQUENCE));
                if scanned.is_directory() {
                    part.directories.push(own);
                }
                let mut has_list = false;
                let walked = scanned.each_attribute(|code, _| {
                    has_list |= code == code::ATTRIBUTE_LIST;
                });
                if has_list && walked.is_ok() {
                    part.lists.push(own);
                }
            },
            &mut |_| {},
        )?;
        let mut directories = Vec::new();
        for part in parts {
            directories.extend(part.directories);
            for listed in part.lists {
                if let Err(error) = self.ntfs.file_at(listed) {
                    let names = self.names_in(listed.record());
                    self.add(listed.record(), names, error.to_string());
                }
            }
        }
        Ok(directories)
    }

    /// Compares one directory; its own directories of hives come next.
    fn compare(&mut self, directory: &File, queue: &mut Vec<MftReference>) {
        let is_root = directory.reference.record() == number::ROOT;
        let is_index = |attribute: &Attribute| attribute.code == code::INDEX_ROOT;
        let mut checks: Vec<(FileName, MftReference)> = Vec::new();
        let walked = Index::open(self.ntfs, directory, DIRECTORY_INDEX).and_then(|index| {
            let Some(index) = index else {
                // What has an index of another sort is no directory of names.
                if directory.attributes.iter().any(is_index) {
                    return Ok(());
                }
                return Err(Error::malformed("directory: an index expected, found none"));
            };
            index.walk(self.ntfs, &mut |buffer, entry, _| {
                let name = FileName::parse(entry.key(buffer)?)?;
                let of = entry.reference;
                let is_directory = name.attributes & file_name::DIRECTORY != 0;
                let is_below = || BELOW.iter().any(|below| name.name.eq_ascii(below));
                if is_directory && of.record() != number::ROOT && (is_root || is_below()) {
                    queue.push(of);
                }
                if is_directory
                    || (self.is_wanted)(&name)
                    || self.orphans.contains(&of)
                    || self.is_known_lost(of.record())
                {
                    checks.push((name, of));
                }
                Ok(())
            })?;
            Ok(())
        });
        for (name, of) in checks {
            self.compare_entry(directory.reference, name, of);
        }
        if let Err(error) = walked {
            let names = directory.names.clone();
            let record = directory.reference.record();
            let reason = format!("its index cannot be read to its end: {error}");
            self.problems
                .add(format_args!("file record {record}: {reason}"));
            self.add(record, names, reason);
        }
    }

    fn is_known_lost(&self, number: u64) -> bool {
        let at = self.empty.partition_point(|range| range.end <= number);
        self.lost.contains_key(&number)
            || self
                .empty
                .get(at)
                .is_some_and(|range| range.contains(&number))
            || number >= self.ntfs.record_count()
    }

    /// One entry of an index: the record must be there and have this name in this directory.
    fn compare_entry(&mut self, directory: MftReference, name: FileName, of: MftReference) {
        let reason = match self.ntfs.file_at(of) {
            Err(error) => error.to_string(),
            Ok(file) => {
                let own = file.names.iter();
                let is_so = |own: &FileName| own.name == name.name && own.parent == directory;
                if own.clone().any(is_so) || of.record() == number::ROOT {
                    return;
                }
                let others: Vec<String> = own.map(|own| own.name.to_string()).collect();
                let reason = format!(
                    "the directory calls it {}, file record {} says {}",
                    name.name,
                    of.record(),
                    others.join(", ")
                );
                let more = file.names.clone();
                self.add(of.record(), more, reason.clone());
                reason
            }
        };
        let name = FileName {
            parent: directory,
            ..name
        };
        self.add(of.record(), vec![name], reason);
    }

    /// The list, and how many are only counted.
    pub(super) fn finish(self) -> Vec<Unreadable> {
        if self.more > 0 {
            self.problems.count = self.problems.count.saturating_add(self.more);
            self.problems
                .lines
                .push(format!("{} more files that cannot be read", self.more));
        }
        self.lost.into_values().collect()
    }
}

/// Whether a bit of a bitmap is set.
fn is_set(bitmap: &[u8], number: u64) -> bool {
    let byte = usize::try_from(number >> 3)
        .ok()
        .and_then(|at| bitmap.get(at));
    let mask = 1u8.wrapping_shl(u32::try_from(number & 7).unwrap_or(0));
    byte.is_some_and(|byte| byte & mask != 0)
}
