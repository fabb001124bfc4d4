//! Writes a verified change into a directory of the host.
//!
//! # Why
//!
//! - *No journal.* A file is replaced by a rename, which is one step; a file is removed by another.
//!   Every step is harmless alone and is not needed twice, so that after a crash a second run plans
//!   what is left, and does it.
//! - *The order makes that true.* First the hives that only hold stale bytes: what tells those is
//!   found elsewhere, and goes later. A dirty hive is first replaced by what Windows would make of it
//!   (its logs replayed, nothing taken out), then its logs are zeroed, then comes the edited hive: at no
//!   moment is there a hive that needs a log that is gone, and until the last rename a second run
//!   finds the identity in the hive and so comes by the logs again. Files go last.
//! - *All new files are complete before the first rename*, with owner, mode, times and attributes, so
//!   that a full disk or a directory that must not be written is met while nothing has changed.
//! - *A rename needs no trust in names*: the directory is held open, it was reached beneath the root,
//!   and the name in it still is the planned inode. Who swaps it in that moment loses the link that
//!   he put there; nothing outside is reached.

mod keep;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{
    error::{At, Error, Kind, Result},
    hive,
    image::{
        self,
        directory::{Directory, Link, Stat, TEMPORARY, TEMPORARY_END, failed, is_temporary, stat},
    },
    plan::{self, HiveBytes, VolumePlan},
    tree::{FileEntry, FileId, FileTree},
};

type Sha = [u8; 32];

/// Names tried for a temporary file before it is an error.
const TRIES: u64 = 100;

/// What happens to one file.
#[derive(Debug)]
enum What {
    /// A leftover of an interrupted clean goes.
    Leftover(Link, Stat),
    /// The file is replaced by these bytes.
    Replace { id: FileId, bytes: Vec<u8> },
    /// The file is filled with zeros where it lies.
    Blank { id: FileId },
    /// All names of the file go.
    Remove { id: FileId },
}

#[derive(Debug)]
struct Step {
    what: What,
    shown: String,
}

/// Everything that is to be done, in its order.
#[derive(Debug, Default)]
pub struct Work {
    steps: Vec<Step>,
    /// What each replaced file is before.
    old: HashMap<FileId, (Stat, Sha)>,
    /// What each hive has to be afterwards.
    new: Vec<(FileId, Sha, String)>,
    changed_bytes: u64,
}

/// For each dirty hive that is to be written: what Windows would make of it before anything is taken
/// out. Read before anything is staged.
pub fn settled(tree: &dyn FileTree, part: &VolumePlan) -> Result<HashMap<FileId, Vec<u8>>> {
    let mut all = HashMap::new();
    for plan in part.hives.iter().filter(|hive| hive.is_written()) {
        let path = plan.entry.path();
        let climb = |error: Error| error.at("file", &path);
        let (primary, bytes) =
            match plan::open_hive(tree, &plan.entry, &plan.logs).map_err(climb)? {
                HiveBytes::Clean(_) => continue,
                HiveBytes::Replayed {
                    primary,
                    mut bytes,
                    replay,
                } => {
                    hive::seal(&mut bytes, &replay, plan.entry.len).map_err(climb)?;
                    (primary, bytes)
                }
                HiveBytes::Stuck { primary, .. } => {
                    let mut bytes = primary.clone();
                    hive::settle(&mut bytes).map_err(climb)?;
                    (primary, bytes)
                }
            };
        // The file keeps its length, whatever the hive in it needs.
        let mut whole = primary.clone();
        for range in hive::differences(&primary, &bytes) {
            let piece = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok());
            let (to, from) = piece
                .and_then(|(a, b)| Some((whole.get_mut(a..b)?, bytes.get(a..b)?)))
                .ok_or_else(|| Error::internal("hive: a range that leaves it"))?;
            to.copy_from_slice(from);
        }
        hive::check(&whole).map_err(climb)?;
        all.insert(plan.entry.id, whole);
    }
    Ok(all)
}

impl Work {
    /// Puts the steps in order. `tree` shows the staged bytes; nothing is read again afterwards.
    pub fn new(
        directory: &Directory,
        tree: &dyn FileTree,
        part: &VolumePlan,
        mut settled: HashMap<FileId, Vec<u8>>,
    ) -> Result<Self> {
        let mut work = Self::default();
        for (link, stat) in directory.temporaries() {
            let shown = directory.path(&link).to_string();
            work.push(shown, What::Leftover(link, stat));
        }
        let written = || part.hives.iter().filter(|hive| hive.is_written());
        let stale_first = written()
            .filter(|hive| hive.edits.is_empty())
            .chain(written().filter(|hive| !hive.edits.is_empty()));
        let mut blanked = HashSet::new();
        for hive in stale_first {
            let id = hive.entry.id;
            let shown = hive.entry.path();
            let old = work.read_old(directory, &hive.entry)?;
            if let Some(bytes) = settled.remove(&id) {
                work.push(shown.clone(), What::Replace { id, bytes });
            }
            for log in &hive.logs {
                let wiped = part.log_wipes.iter().any(|other| other.id == log.id);
                if wiped && log.len > 0 && blanked.insert(log.id) {
                    work.blank(directory, log)?;
                }
            }
            let bytes = image::read_whole(tree, &hive.entry)?;
            let differing = old.iter().zip(&bytes).filter(|(a, b)| a != b).count();
            work.changed_bytes += differing as u64;
            work.new.push((id, sha(&bytes), shown.clone()));
            work.push(shown, What::Replace { id, bytes });
        }
        for entry in &part.removals {
            work.push(entry.path(), What::Remove { id: entry.id });
        }
        Ok(work)
    }

    fn push(&mut self, shown: String, what: What) {
        self.steps.push(Step { what, shown });
    }

    fn read_old(&mut self, directory: &Directory, entry: &FileEntry) -> Result<Vec<u8>> {
        let (stat, _) = directory.file(entry.id)?;
        let bytes = read(&directory.look(entry.id)?, stat.len).at("file", entry.path())?;
        self.old.insert(entry.id, (stat, sha(&bytes)));
        Ok(bytes)
    }

    /// A log that has a name outside of the tree gets a file of its own: what others see stays.
    fn blank(&mut self, directory: &Directory, log: &FileEntry) -> Result<()> {
        let id = log.id;
        let old = self.read_old(directory, log)?;
        let used = old.iter().filter(|byte| **byte != 0).count();
        if used == 0 {
            return Ok(());
        }
        self.changed_bytes += used as u64;
        let what = match directory.names_outside(id)? {
            0 => What::Blank { id },
            _ => What::Replace {
                id,
                bytes: vec![0; old.len()],
            },
        };
        self.push(log.path(), what);
        Ok(())
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes of hives and logs that become others.
    #[must_use]
    pub fn changed_bytes(&self) -> u64 {
        self.changed_bytes
    }

    /// After the work: every replaced hive holds what was verified.
    pub fn check(&self, directory: &Directory) -> Result<()> {
        for (id, want, shown) in &self.new {
            let (_, links) = directory.file(*id)?;
            for link in &links {
                let parent = directory.parent(link)?;
                let file = open_in(directory, &parent, link).at("file", shown)?;
                let now = stat(&file, b"").map_err(|e| failed("file: its attributes", e))?;
                if sha(&read(&file, now.len)?) != *want {
                    return Err(Error::refused(
                        "hive: the bytes that were verified expected, found others",
                    )
                    .at("file", shown));
                }
            }
        }
        Ok(())
    }
}

fn sha(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

fn read(file: &File, len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| Error::limit("file: too long for memory"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("file: read", &e))?;
    Ok(bytes)
}

fn open_in(directory: &Directory, parent: &OwnedFd, link: &Link) -> Result<File> {
    directory
        .root()
        .look_in(parent.as_fd(), &link.name)
        .map_err(|e| failed("file: open", e))
}

/// Some file systems cannot sync a directory; what they do at a rename is all there is.
fn sync_directory(fd: &OwnedFd) -> Result<()> {
    match rustix::fs::fsync(fd) {
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(failed("directory: sync", e)),
    }
}

/// A new file that waits beside the old one.
struct Waiting {
    parent: OwnedFd,
    link: Link,
    name: String,
    file: File,
    later: keep::Later,
    stat: Stat,
}

/// How the work ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Remarks.
    pub notes: Vec<String>,
    /// What could not be done, each with its file; the rest was done all the same.
    pub failed: Vec<Error>,
    /// Why not all of it was done: [`Kind::Interrupted`] if anything was changed.
    pub error: Option<Error>,
}

/// Does all of it. `gate` is called before each call that changes anything, with a word for it; it
/// is for tests that stop there.
///
/// A hive or a log that fails ends the work: what stays tells the second run what is stale. A file
/// that cannot be removed keeps no other from going.
pub fn commit(directory: &Directory, work: &Work, gate: &mut dyn FnMut(&str)) -> Outcome {
    let mut run = Run {
        directory,
        old: work.old.clone(),
        waiting: HashMap::new(),
        notes: Vec::new(),
        failed: Vec::new(),
        changed: false,
        gate,
    };
    let stopped = run.all(work).err();
    run.clear();
    let (mut failed, changed) = (run.failed, run.changed);
    let notes = run.notes;
    let error = match stopped {
        None if failed.is_empty() => None,
        Some((_, error)) if !changed => Some(error),
        None if !changed => Some(failed.remove(0)),
        Some((at, error)) => Some(in_part(at, work, &error.to_string())),
        None => {
            let done = work.steps.len().saturating_sub(failed.len());
            let count = match failed.len() {
                1 => "1 file was not removed".to_owned(),
                n => format!("{n} files were not removed"),
            };
            Some(in_part(done, work, &count))
        }
    };
    Outcome {
        notes,
        failed,
        error,
    }
}

fn in_part(done: usize, work: &Work, why: &str) -> Error {
    let all = work.steps.len();
    Error::new(
        Kind::Interrupted,
        format!("directory: done in part ({done} of {all} steps): {why}"),
    )
    .advise("each file is either old or new: run the same command again")
}

struct Run<'a> {
    directory: &'a Directory,
    old: HashMap<FileId, (Stat, Sha)>,
    waiting: HashMap<usize, Waiting>,
    notes: Vec<String>,
    failed: Vec<Error>,
    /// Whether a second look would see anything else than before.
    changed: bool,
    gate: &'a mut dyn FnMut(&str),
}

impl Run<'_> {
    fn all(&mut self, work: &Work) -> std::result::Result<(), (usize, Error)> {
        for step in &work.steps {
            self.precheck(step)
                .map_err(|e| (0, e.at("file", &step.shown)))?;
        }
        for (number, step) in work.steps.iter().enumerate() {
            if let What::Replace { id, bytes } = &step.what {
                self.prepare(number, *id, bytes, &step.shown)
                    .map_err(|e| (0, e.at("file", &step.shown)))?;
            }
        }
        for (number, step) in work.steps.iter().enumerate() {
            let Err(error) = self.step(number, step) else {
                continue;
            };
            let error = error.at("file", &step.shown);
            match step.what {
                What::Leftover(..) | What::Remove { .. } => self.failed.push(error),
                What::Replace { .. } | What::Blank { .. } => return Err((number, error)),
            }
        }
        Ok(())
    }

    /// Everything that can be known to fail, before anything is made.
    fn precheck(&self, step: &Step) -> Result<()> {
        let (seen, links) = match &step.what {
            What::Leftover(link, stat) => (*stat, vec![link.clone()]),
            What::Replace { id, .. } | What::Blank { id } | What::Remove { id } => {
                self.directory.file(*id)?
            }
        };
        for link in &links {
            let parent = self.directory.parent(link)?;
            let above = stat(&parent, b"").map_err(|e| failed("directory: its attributes", e))?;
            let now = stat(&parent, &link.name).map_err(|e| failed("file: its attributes", e))?;
            if !now.is_still(&seen) {
                return Err(swapped());
            }
            if above.immutable || now.immutable {
                return Err(Error::io(
                    "file: one that can be replaced expected, it or its directory is immutable",
                    &std::io::Error::from(Errno::PERM),
                )
                .advise("take the flag off (chattr -i -a), then try again"));
            }
            let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::accessat(&parent, ".", access, AtFlags::EACCESS)
                .map_err(|e| failed("directory: right to write", e))?;
        }
        if let What::Blank { id } = &step.what {
            self.directory.open_to_write(*id)?;
        }
        Ok(())
    }

    /// Writes the new file beside the old one, complete.
    fn prepare(&mut self, number: usize, id: FileId, bytes: &[u8], shown: &str) -> Result<()> {
        let (seen, links) = self.directory.file(id)?;
        let [link] = links.as_slice() else {
            return Err(Error::internal("directory: a file with one name"));
        };
        let parent = self.directory.parent(link)?;
        let old = self.directory.look(id)?;
        (self.gate)("create");
        let (name, file) = create(&parent)?;
        let mut waiting = Waiting {
            parent,
            link: link.clone(),
            name,
            stat: seen,
            later: keep::Later::default(),
            file,
        };
        let made = self.fill(&mut waiting, &old, &seen, bytes, shown);
        // Even half of it has to be found when it is cleared away.
        self.waiting.insert(number, waiting);
        made
    }

    fn fill(
        &mut self,
        waiting: &mut Waiting,
        old: &File,
        seen: &Stat,
        bytes: &[u8],
        shown: &str,
    ) -> Result<()> {
        let failed_to = |what: &str, e: &std::io::Error| {
            Error::io(
                format!("directory: {what} of the new file beside {shown}"),
                e,
            )
        };
        (self.gate)("write");
        waiting
            .file
            .write_all(bytes)
            .map_err(|e| failed_to("writing", &e))?;
        (self.gate)("attributes");
        waiting.later = keep::like(old, seen, &waiting.file, shown, &mut self.notes)?;
        (self.gate)("sync");
        waiting.file.sync_all().map_err(|e| failed_to("sync", &e))?;
        if read(&waiting.file, bytes.len() as u64)? != bytes {
            return Err(Error::new(
                Kind::Io,
                format!(
                    "new file beside {shown}: the bytes that were written expected, found others"
                ),
            ));
        }
        // What a driver keeps back may change the times when it comes to that.
        if let Err(e) = keep::set_times(&waiting.file, seen) {
            self.notes
                .push(format!("{shown}: the times were not kept: {e}"));
        }
        waiting.stat = stat(&waiting.file, b"").map_err(|e| failed("file: its attributes", e))?;
        Ok(())
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<()> {
        match &step.what {
            What::Leftover(link, seen) => {
                let parent = self.directory.parent(link)?;
                self.unlink(&parent, link, seen)?;
                sync_directory(&parent)
            }
            What::Replace { id, bytes } => self.replace(number, *id, bytes, &step.shown),
            What::Blank { id } => self.blank(*id, &step.shown),
            What::Remove { id } => {
                let (seen, links) = self.directory.file(*id)?;
                let mut first = Ok(());
                for link in &links {
                    first = first.and(self.remove(link, &seen));
                }
                first
            }
        }
    }

    fn replace(&mut self, number: usize, id: FileId, bytes: &[u8], shown: &str) -> Result<()> {
        let missing = || Error::internal("directory: a new file that waits");
        let waiting = self.waiting.get(&number).ok_or_else(missing)?;
        let (seen, digest) = self.old.get(&id).ok_or_else(missing)?;
        let now = stat(&waiting.parent, &waiting.link.name)
            .map_err(|e| failed("file: its attributes", e))?;
        if !now.is_still(seen) {
            return Err(swapped());
        }
        let there = open_in(self.directory, &waiting.parent, &waiting.link)?;
        if sha(&read(&there, seen.len)?) != *digest {
            return Err(swapped());
        }
        drop(there);
        let new = stat(&waiting.parent, waiting.name.as_bytes())
            .map_err(|e| failed("file: its attributes", e))?;
        if !new.same_file(&waiting.stat) {
            return Err(swapped());
        }
        (self.gate)("rename");
        rustix::fs::renameat(
            &waiting.parent,
            waiting.name.as_str(),
            &waiting.parent,
            &*waiting.link.name,
        )
        .map_err(|e| failed("file: rename over the old one", e))?;
        self.changed = true;
        let waiting = self.waiting.remove(&number).ok_or_else(missing)?;
        (self.gate)("sync directory");
        sync_directory(&waiting.parent)?;
        waiting.later.set(&waiting.file, shown, &mut self.notes);
        let stat = stat(&waiting.file, b"").map_err(|e| failed("file: its attributes", e))?;
        self.old.insert(id, (stat, sha(bytes)));
        Ok(())
    }

    /// Front to back, so that what is half done still looks like a log.
    fn blank(&mut self, id: FileId, shown: &str) -> Result<()> {
        let (seen, _) = self.directory.file(id)?;
        let file = self.directory.open_to_write(id)?;
        let times = keep::Later::times_of(&file);
        let zeros = vec![0; 1 << 16];
        let mut at = 0_u64;
        while at < seen.len {
            let take = (seen.len - at).min(zeros.len() as u64) as usize;
            (self.gate)("zeros");
            self.changed = true;
            file.write_all_at(zeros.get(..take).unwrap_or_default(), at)
                .map_err(|e| Error::io("log: write", &e))?;
            at += take as u64;
        }
        (self.gate)("sync");
        file.sync_all().map_err(|e| Error::io("log: sync", &e))?;
        if !crate::bytes::all_zero(&read(&file, seen.len)?) {
            return Err(Error::new(
                Kind::Io,
                "log: zeros expected after writing them, found other bytes",
            ));
        }
        if let Err(e) = keep::set_times(&file, &seen) {
            self.notes
                .push(format!("{shown}: the times were not kept: {e}"));
        }
        times.set(&file, shown, &mut self.notes);
        Ok(())
    }

    fn remove(&mut self, link: &Link, seen: &Stat) -> Result<()> {
        let parent = self.directory.parent(link)?;
        self.unlink(&parent, link, seen)?;
        (self.gate)("sync directory");
        sync_directory(&parent)
    }

    fn unlink(&mut self, parent: &OwnedFd, link: &Link, seen: &Stat) -> Result<()> {
        let now = stat(parent, &link.name).map_err(|e| failed("file: its attributes", e))?;
        if !now.is_still(seen) {
            return Err(swapped());
        }
        (self.gate)("unlink");
        let removed = rustix::fs::unlinkat(parent, &*link.name, AtFlags::empty());
        if removed == Err(Errno::NOENT) && stat(parent, &link.name).is_ok() {
            return Err(Error::new(
                Kind::Io,
                "file: a driver that removes it expected, found one that lists it and says that it is \
                 not there (ntfs-3g does so with a long name that has no short one)",
            )
            .advise("unmount the volume and clean the image or the device"));
        }
        removed.map_err(|e| failed("file: remove", e))?;
        self.changed = true;
        Ok(())
    }

    /// Removes the new files that were not needed.
    fn clear(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            let there = stat(&waiting.parent, waiting.name.as_bytes());
            let own = stat(&waiting.file, b"");
            if there.is_ok_and(|a| own.is_ok_and(|b| a.same_file(&b)))
                && is_temporary(waiting.name.as_bytes())
            {
                rustix::fs::unlinkat(&waiting.parent, waiting.name.as_str(), AtFlags::empty()).ok();
            }
        }
    }
}

fn swapped() -> Error {
    Error::refused(
        "file: the one that was planned expected, found another, or it was written since",
    )
    .advise("make sure that no other program changes the directory, then try again")
}

/// A new file for its owner only, in this directory and nowhere else.
fn create(parent: &OwnedFd) -> Result<(String, File)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.map_or(0, |now| now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0..TRIES {
        let name = format!(
            "{TEMPORARY}{:016x}{TEMPORARY_END}",
            seed.wrapping_add(number)
        );
        match rustix::fs::openat(parent, name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok((name, File::from(fd))),
            Err(Errno::EXIST) => {}
            Err(e) => {
                return Err(Error::io(
                    "directory: a new file beside the old one",
                    &std::io::Error::from(e),
                ));
            }
        }
    }
    Err(Error::new(
        Kind::Io,
        "directory: a free name for a temporary file expected, found none",
    ))
}
