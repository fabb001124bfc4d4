//! One pass over everything beneath the root: every name looked at without opening what it names,
//! directories opened one at a time.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{Dir, FileType},
    io::Errno,
};
use sha1::{Digest, Sha1};

use super::beneath::{Root, Stat, failed, stat};
use crate::{
    error::{Error, Kind, Result},
    text::{Name, WinPath},
    tree::Listing,
};

/// Windows has paths of 32,767 units at most: of that many names, each with a separator.
const MAX_DEPTH: u32 = 4096;
/// Names looked at. A large Windows has some 600,000.
const MAX_NAMES: u64 = 20_000_000;
/// Names in one directory, which are held in memory while it is read.
const MAX_IN_ONE: usize = 4_000_000;
/// Directories, and files with several names, which are held in memory during a pass.
const MAX_HELD: usize = 4_000_000;
/// What is skipped is named one by one up to here, and counted.
const MAX_SKIPPED: usize = 1000;

/// What a temporary file of declone is called: this, 16 hexadecimal digits, [`TEMPORARY_END`].
pub const TEMPORARY: &str = ".declone-";
/// How its name ends.
pub const TEMPORARY_END: &str = ".tmp";

/// Whether a name is one that declone gives its temporary files.
#[must_use]
pub fn is_temporary(name: &[u8]) -> bool {
    let digits = name
        .strip_prefix(TEMPORARY.as_bytes())
        .and_then(|rest| rest.strip_suffix(TEMPORARY_END.as_bytes()));
    let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(hex))
}

/// A name as UTF-16. Bytes that are no UTF-8 become the lone surrogates U+DC80 to U+DCFF, which no
/// UTF-8 makes: two names that differ stay different.
#[must_use]
pub fn name_of(bytes: &[u8]) -> Name {
    let mut units = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        units.extend(chunk.valid().encode_utf16());
        units.extend(chunk.invalid().iter().map(|b| u16::from(*b) | 0xDC00));
    }
    Name(units)
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Inode number of the directory.
    pub parent: u64,
    /// The name, as the host has it.
    pub name: Box<[u8]>,
}

/// A directory that was read.
#[derive(Clone, Debug)]
pub(super) struct DirNode {
    pub(super) link: Link,
    pub(super) stat: Stat,
    depth: u32,
    /// Of all names from the root on.
    path: u128,
}

/// A file that is held in memory.
#[derive(Clone, Debug)]
pub(super) struct FileNode {
    pub(super) stat: Stat,
    pub(super) links: Vec<Link>,
    pub(super) listing: Listing,
}

/// Why something was not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A symbolic link, and where it leads; on a mounted NTFS volume also a junction.
    Link(String),
    /// Something else is mounted there.
    Mount,
    /// A FIFO, a socket, a device.
    Special(&'static str),
    /// The host does not show it: the sort of failure and what the host said.
    Unread(Kind, String),
}

/// What was not looked at.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// Where.
    pub path: WinPath,
    /// Why.
    pub why: Why,
    /// Whether its name is one that was looked for.
    pub named_so: bool,
}

/// What a pass knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) dirs: HashMap<u64, DirNode>,
    pub(super) files: HashMap<u64, FileNode>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) skipped_count: u64,
    pub(super) temporaries: Vec<(Link, Stat)>,
    names: u64,
}

/// A regular file or directory as the pass meets it.
pub(super) struct Item<'a> {
    /// The open directory.
    pub(super) dir: BorrowedFd<'a>,
    pub(super) link: Link,
    pub(super) name: Name,
    pub(super) stat: Stat,
    pub(super) listing: Listing,
}

impl Known {
    /// Takes over where another pass saw files that this one did not look for: a reader may hold their
    /// handles.
    pub(super) fn take_files(&mut self, other: &Self) {
        for (ino, file) in &other.files {
            self.files.entry(*ino).or_insert_with(|| file.clone());
        }
        for (ino, dir) in &other.dirs {
            self.dirs.entry(*ino).or_insert_with(|| dir.clone());
        }
    }

    /// The names from the root to a directory, joined by `/`.
    pub(super) fn raw_path(&self, dir: u64) -> Result<Vec<u8>> {
        let mut names = self.names_of(dir)?;
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// The path of a name.
    /// What a file of this name adds to the listing.
    pub(super) fn listing_of(&self, link: &Link, stat: &Stat) -> Listing {
        match self.dirs.get(&link.parent) {
            Some(above) => listing(hash(above.path, &link.name), stat),
            None => Listing::default(),
        }
    }

    pub(super) fn path(&self, link: &Link) -> WinPath {
        let mut path: Vec<Name> = match self.names_of(link.parent) {
            Ok(names) => names.iter().rev().map(|name| name_of(name)).collect(),
            Err(_) => vec![Name::new("?")],
        };
        path.push(name_of(&link.name));
        WinPath(path)
    }

    /// From the directory up, the root without its name.
    fn names_of(&self, dir: u64) -> Result<Vec<&[u8]>> {
        let mut names = Vec::new();
        let mut at = dir;
        loop {
            let node = self
                .dirs
                .get(&at)
                .ok_or_else(|| Error::internal("directory: an inode that was read"))?;
            if node.depth == 0 {
                return Ok(names);
            }
            names.push(node.link.name.as_ref());
            at = node.link.parent;
        }
    }

    /// Counts one thing that is not looked at, and names it.
    fn skip(&mut self, link: &Link, why: Why, named_so: bool) {
        self.skipped_count = self.skipped_count.saturating_add(1);
        if self.skipped.len() < MAX_SKIPPED || matches!(why, Why::Unread(..)) && named_so {
            let path = self.path(link);
            self.skipped.push(Skipped {
                path,
                why,
                named_so,
            });
        }
    }

    /// A pass. `gone` are files that a staged change takes away; `named_so` says whether a name is
    /// looked for; `each` sees every file and directory but the root.
    pub(super) fn walk(
        &mut self,
        root: &Root,
        gone: &HashSet<u64>,
        named_so: &dyn Fn(&Name) -> bool,
        each: &mut dyn FnMut(&mut Self, Item<'_>) -> Result<()>,
    ) -> Result<()> {
        let top = root.stat().ino;
        self.dirs.insert(
            top,
            DirNode {
                link: Link {
                    parent: top,
                    name: Box::default(),
                },
                stat: *root.stat(),
                depth: 0,
                path: 0,
            },
        );
        let mut waiting = vec![top];
        while let Some(dir) = waiting.pop() {
            self.read_one(root, dir, gone, named_so, each, &mut waiting)?;
        }
        Ok(())
    }

    fn read_one(
        &mut self,
        root: &Root,
        dir: u64,
        gone: &HashSet<u64>,
        named_so: &dyn Fn(&Name) -> bool,
        each: &mut dyn FnMut(&mut Self, Item<'_>) -> Result<()>,
        waiting: &mut Vec<u64>,
    ) -> Result<()> {
        let node = self
            .dirs
            .get(&dir)
            .ok_or_else(|| Error::internal("directory: one that waits"))?;
        let (above, depth, own) = (node.link.clone(), node.depth, node.path);
        let opened = self
            .raw_path(dir)
            .and_then(|path| open_as(root, &path, &node.stat))
            .and_then(|fd| names_in(&fd).map(|names| (fd, names)));
        let (fd, names) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == Kind::Internal => return Err(error),
            Err(error) => {
                let why = Why::Unread(error.kind(), error.what().to_owned());
                self.skip(&above, why, true);
                return Ok(());
            }
        };
        for raw in names {
            self.names = self.names.saturating_add(1);
            if self.names > MAX_NAMES {
                return Err(Error::limit(format!(
                    "directory: at most {MAX_NAMES} names expected, found more"
                )));
            }
            let name = name_of(&raw);
            let link = Link {
                parent: dir,
                name: raw,
            };
            let stat = match stat(&fd, &link.name) {
                Ok(stat) => stat,
                // It went while the directory was read.
                Err(Errno::NOENT) => continue,
                Err(e) => {
                    let error = failed("file: its attributes", e);
                    let why = Why::Unread(error.kind(), error.what().to_owned());
                    self.skip(&link, why, true);
                    continue;
                }
            };
            if gone.contains(&stat.ino) && stat.kind == FileType::RegularFile {
                continue;
            }
            let why = match stat.kind {
                _ if root.is_elsewhere(&stat) => Some(Why::Mount),
                FileType::RegularFile | FileType::Directory => None,
                FileType::Symlink => Some(Why::Link(target(&fd, &link.name))),
                FileType::Fifo => Some(Why::Special("a FIFO")),
                FileType::Socket => Some(Why::Special("a socket")),
                FileType::CharacterDevice | FileType::BlockDevice => Some(Why::Special("a device")),
                _ => Some(Why::Special("of an unknown kind")),
            };
            if let Some(why) = why {
                self.skip(&link, why, named_so(&name));
                continue;
            }
            let path = hash(own, &link.name);
            let mut listing = listing(path, &stat);
            if stat.kind == FileType::Directory {
                let depth = depth.saturating_add(1);
                let new = !self.dirs.contains_key(&stat.ino);
                if depth > MAX_DEPTH || self.dirs.len() >= MAX_HELD || !new {
                    // Two places: it was moved while the tree was read.
                    let (kind, what) = match new {
                        true => (
                            Kind::Limit,
                            format!("directory: at most {MAX_DEPTH} levels expected, found more"),
                        ),
                        false => (
                            Kind::Refused,
                            "directory: one place in the tree expected, it has two".to_owned(),
                        ),
                    };
                    self.skip(&link, Why::Unread(kind, what), true);
                    continue;
                }
                let link = link.clone();
                self.dirs.insert(
                    stat.ino,
                    DirNode {
                        link,
                        stat,
                        depth,
                        path,
                    },
                );
                waiting.push(stat.ino);
            } else if is_temporary(&link.name) {
                self.temporaries.push((link.clone(), stat));
                listing = Listing::default();
            } else if self.files.len() >= MAX_HELD {
                return Err(Error::limit(format!(
                    "directory: at most {MAX_HELD} files with several names expected, found more"
                )));
            }
            each(
                self,
                Item {
                    dir: fd.as_fd(),
                    link,
                    name,
                    stat,
                    listing,
                },
            )?;
        }
        Ok(())
    }
}

/// Opens a directory and makes sure that it is the one that was seen.
pub(super) fn open_as(root: &Root, path: &[u8], seen: &Stat) -> Result<std::os::fd::OwnedFd> {
    let fd = root
        .directory(path)
        .map_err(|e| failed("directory: open", e))?;
    let now = stat(&fd, b"").map_err(|e| failed("directory: its attributes", e))?;
    match now.same_file(seen) && now.kind == FileType::Directory {
        true => Ok(fd),
        false => Err(Error::refused(
            "directory: the one that was found expected, another has taken its name",
        )
        .advise("make sure that no other program changes the directory, then try again")),
    }
}

/// All names but `.` and `..`, sorted: the host's order is none.
pub(super) fn names_in(fd: impl AsFd) -> Result<Vec<Box<[u8]>>> {
    let fail = |e: Errno| failed("directory: read", e);
    let mut dir = Dir::read_from(fd).map_err(fail)?;
    let mut names: Vec<Box<[u8]>> = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || name.is_empty() || name.contains(&b'/') {
            continue;
        }
        if names.len() >= MAX_IN_ONE {
            return Err(Error::limit(format!(
                "directory: at most {MAX_IN_ONE} names expected, found more"
            )));
        }
        names.push(name.into());
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Where a link leads, for the report.
fn target(dir: impl AsFd, name: &[u8]) -> String {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => name_of(target.to_bytes()).to_string(),
        Err(e) => format!("an unknown place ({e})"),
    }
}

fn front(hash: Sha1) -> u128 {
    let digest: [u8; 20] = hash.finalize().into();
    u128::from_le_bytes(std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0)))
}

fn hash(above: u128, name: &[u8]) -> u128 {
    let mut hash = Sha1::new();
    hash.update(above.to_le_bytes());
    hash.update(name);
    front(hash)
}

/// Path, kind, owner and mode; of a file also length and time of the last write. Not the inode's
/// number: a file that is replaced by one like it is the same for a reader of the tree.
fn listing(path: u128, stat: &Stat) -> Listing {
    let is_file = stat.kind == FileType::RegularFile;
    let mut hash = Sha1::new();
    hash.update(path.to_le_bytes());
    hash.update([u8::from(is_file)]);
    for number in [stat.mode, stat.uid, stat.gid] {
        hash.update(number.to_le_bytes());
    }
    if is_file {
        hash.update(stat.len.to_le_bytes());
        hash.update(stat.mtime.0.to_le_bytes());
        hash.update(stat.mtime.1.to_le_bytes());
    }
    Listing {
        files: 1,
        names: 1,
        sum: front(hash),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_are_no_utf8_stay_apart_and_are_printed_harmlessly() {
        let (a, b) = (name_of(b"x\xff\xfe"), name_of(b"x\xfe\xff"));
        assert_ne!(a, b);
        assert_eq!(a.to_string(), "x\\u{dcff}\\u{dcfe}");
        assert_eq!(
            name_of("Käse\u{1f600}".as_bytes()),
            Name::new("Käse\u{1f600}")
        );
        assert!(name_of(b"SMSCFG.ini").eq_ascii("Smscfg.ini"));
        assert!(!name_of(b"SMSCFG.ini\x80").eq_ascii("Smscfg.ini"));
    }

    #[test]
    fn only_names_of_the_exact_form_are_taken_for_leftovers() {
        assert!(is_temporary(b".declone-0123456789abcdef.tmp"));
        for name in [
            ".declone-0123456789abcdef.tmp2",
            ".declone-0123456789ABCDEF.tmp",
            ".declone-0123456789abcde.tmp",
            ".declone-.tmp",
            "declone-0123456789abcdef.tmp",
        ] {
            assert!(!is_temporary(name.as_bytes()), "{name}");
        }
    }
}
