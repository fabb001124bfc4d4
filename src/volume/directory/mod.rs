//! A directory of the host as a file tree: a mounted volume, or a copy of one.
//!
//! In: a path. Out: a [`FileTree`] over everything beneath it, and [`Directory`] for who writes.
//! Knows: units, error, text, tree. Facts from: the host's manual pages, `shared/facts/robustness.md` 5.
//! Never: opens what is not beneath; follows a link; enters another mount; opens what is neither a
//! file nor a directory; writes.
//!
//! # Why
//!
//! - *Everything starts at one descriptor.* A path that is looked up twice can lead to two places. All
//!   opens go through [`Root`]: `openat2` with `BENEATH`, `NO_SYMLINKS`, `NO_MAGICLINKS` and `NO_XDEV`, name
//!   by name with `O_NOFOLLOW` where the kernel has no `openat2`; after each, device and mount are
//!   compared.
//! - *A file is its inode.* One with several names is one file, as on NTFS. A name that the tree does
//!   not show (a hard link from outside) is known by the count of names only.
//! - *One descriptor at a time.* The pass keeps names, not open directories: a tree of 4,000 levels
//!   must not need 4,000 descriptors.
//! - *What editors write stays in memory* ([`Pending`]) until `apply` has seen it verified. A second
//!   [`Directory`] over the same pending change reads it with fresh eyes: [`Directory::again`].

mod beneath;
mod tree;
mod walk;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use beneath::{Root, Stat, failed, stat};
pub use tree::Tree;
pub use walk::{Link, Skipped, TEMPORARY, TEMPORARY_END, Why, is_temporary, name_of};

use walk::{Known, open_as};

use crate::{
    error::{At, Error, Result},
    tree::{FileId, FileTree},
};

/// What editors wrote, for files by their inode's number.
#[derive(Debug, Default)]
pub struct Pending {
    /// Bytes at offsets.
    writes: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    /// Files that are all zeros before these.
    zeroed: HashSet<u64>,
    /// Files that are gone with all their names.
    gone: HashSet<u64>,
}

/// What is mounted where the directory is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Type of the file system, e.g. `ext4`, `fuseblk`.
    pub kind: String,
    /// What it stands on, escaped.
    pub source: String,
}

/// A directory of the host.
#[derive(Debug)]
pub struct Directory {
    root: Arc<Root>,
    pending: Arc<Mutex<Pending>>,
    known: Mutex<Known>,
    /// The file that was read last.
    open: Mutex<Option<(u64, Arc<File>)>>,
}

/// A poisoned lock is one whose owner died: what it guards is replaced by each pass.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    /// Opens the root. Nothing beneath is looked at yet.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let root = Arc::new(Root::open(path)?);
        Ok(Self::over(root, Arc::default()))
    }

    fn over(root: Arc<Root>, pending: Arc<Mutex<Pending>>) -> Arc<Self> {
        Arc::new(Self {
            root,
            pending,
            known: Mutex::default(),
            open: Mutex::default(),
        })
    }

    /// The same directory with the same pending change. It remembers where files are, so that they can
    /// be read at once, until its own pass says so.
    #[must_use]
    pub fn again(&self) -> Arc<Self> {
        let again = Self::over(Arc::clone(&self.root), Arc::clone(&self.pending));
        locked(&again.known).take_files(&locked(&self.known));
        again
    }

    /// The same directory as it is on the host.
    #[must_use]
    pub fn on_host(&self) -> Arc<Self> {
        Self::over(Arc::clone(&self.root), Arc::default())
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// As a file tree.
    #[must_use]
    pub fn tree(self: &Arc<Self>) -> Box<dyn FileTree> {
        Box::new(Tree(Arc::clone(self)))
    }

    /// What the last pass did not look at, in its order, and how many of them there were.
    #[must_use]
    pub fn skipped(&self) -> (Vec<Skipped>, u64) {
        let known = locked(&self.known);
        (known.skipped.clone(), known.skipped_count)
    }

    /// Temporary files of an interrupted clean that the last pass met.
    #[must_use]
    pub fn temporaries(&self) -> Vec<(Link, Stat)> {
        locked(&self.known).temporaries.clone()
    }

    /// The path of a name in a directory that the last pass met.
    #[must_use]
    pub fn path(&self, link: &Link) -> crate::text::WinPath {
        locked(&self.known).path(link)
    }

    /// What the last pass knows of a file, and its names.
    pub fn file(&self, id: FileId) -> Result<(Stat, Vec<Link>)> {
        let known = locked(&self.known);
        let node = known
            .files
            .get(&id.0)
            .ok_or_else(|| Error::internal("directory: a file that was found"))?;
        Ok((node.stat, node.links.clone()))
    }

    /// How many names a file has that the tree does not show: hard links from outside. (On a mounted
    /// NTFS volume the short alias of a name counts, and is no link.)
    pub fn names_outside(&self, id: FileId) -> Result<u32> {
        let (stat, links) = self.file(id)?;
        let shown = u32::try_from(links.len()).unwrap_or(u32::MAX);
        let hidden = stat.nlink.saturating_sub(shown);
        if hidden == 0 {
            return Ok(0);
        }
        let file = self.look(id)?;
        let alias = rustix::fs::fgetxattr(&file, DOS_NAME, &mut [0; 64]).is_ok_and(|len| len > 0);
        Ok(hidden.saturating_sub(u32::from(alias)))
    }

    /// Opens the directory that a name is in; the same one that the last pass met.
    pub fn parent(&self, link: &Link) -> Result<OwnedFd> {
        let known = locked(&self.known);
        let node = known
            .dirs
            .get(&link.parent)
            .ok_or_else(|| Error::internal("directory: one that was read"))?;
        open_as(&self.root, &known.raw_path(link.parent)?, &node.stat)
    }

    fn raw_path(&self, link: &Link) -> Result<Vec<u8>> {
        let mut path = locked(&self.known).raw_path(link.parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&link.name);
        Ok(path)
    }

    /// Opens a file for reading; the same one that the last pass met, unwritten since.
    pub fn look(&self, id: FileId) -> Result<File> {
        let (seen, links) = self.file(id)?;
        let link = links
            .first()
            .ok_or_else(|| Error::internal("directory: a file's name"))?;
        let shown = self.path(link);
        let file = self
            .root
            .look(&self.raw_path(link)?)
            .map_err(|e| failed("file: open", e).at("file", &shown))?;
        check_same(&file, &seen).at("file", shown)?;
        Ok(file)
    }

    /// Opens a file for writing into it; the same one that the last pass met.
    pub fn open_to_write(&self, id: FileId) -> Result<File> {
        let (seen, links) = self.file(id)?;
        let link = links
            .first()
            .ok_or_else(|| Error::internal("directory: a file's name"))?;
        let shown = self.path(link);
        let file = self
            .root
            .write(&self.raw_path(link)?)
            .map_err(|e| failed("file: open for writing", e).at("file", &shown))?;
        check_same(&file, &seen).at("file", shown)?;
        Ok(file)
    }

    /// The bytes on the host, whatever is pending.
    fn read_host(&self, id: FileId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let kept = locked(&self.open).clone().filter(|(of, _)| *of == id.0);
        let file = match kept {
            Some((_, file)) => file,
            None => {
                let file = Arc::new(self.look(id)?);
                *locked(&self.open) = Some((id.0, Arc::clone(&file)));
                file
            }
        };
        file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => changed("it became shorter"),
            _ => Error::io("file: read", &e),
        })
    }

    /// Closes what was kept open for reading.
    pub fn close(&self) {
        *locked(&self.open) = None;
    }

    /// What is mounted there, as `/proc` says.
    #[must_use]
    pub fn mounted(&self) -> Mounted {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        mounted(&String::from_utf8_lossy(&text), self.root.mount())
    }

    /// Whether editors wrote anything.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let pending = locked(&self.pending);
        !(pending.writes.is_empty() && pending.zeroed.is_empty() && pending.gone.is_empty())
    }
}

/// The short alias of a name, on volumes that ntfs-3g mounted.
pub const DOS_NAME: &str = "system.ntfs_dos_name";

fn changed(what: &str) -> Error {
    Error::refused(format!(
        "file: the one that was found expected, {what} since"
    ))
    .advise("make sure that no other program changes the directory, then try again")
}

fn check_same(file: &File, seen: &Stat) -> Result<()> {
    let now = stat(file, b"").map_err(|e| failed("file: its attributes", e))?;
    match now.is_still(seen) {
        true => Ok(()),
        false => Err(changed("it was replaced or written")),
    }
}

/// `id parent major:minor root mount-point options [tags] - type source super-options`
fn mounted(table: &str, mount: Option<u64>) -> Mounted {
    let number = mount.map(|id| id.to_string());
    let line = table
        .lines()
        .find(|line| number.is_some() && line.split(' ').next() == number.as_deref());
    let found = line.and_then(|line| {
        let (_, right) = line.split_once(" - ")?;
        let mut words = right.split(' ');
        Some(Mounted {
            kind: crate::text::escape(words.next()?),
            source: crate::text::escape(words.next()?),
        })
    });
    found.unwrap_or_else(|| Mounted {
        kind: "unknown".to_owned(),
        source: "?".to_owned(),
    })
}
