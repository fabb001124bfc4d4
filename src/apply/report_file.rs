//! The files that a report is written to: a whole report or the one that was there before, never a part.
//!
//! A report is written beside its name and renamed into place. What cannot be replaced so is written as it
//! is: pipes, terminals and descriptors (`/dev/stdout`, `>(...)`), and an earlier report in a directory
//! that allows no new file, or that is a mount point of its own.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
    process::Pid,
};

use super::interrupt::{self, Scratch};
use crate::error::{Error, Kind, Result};

/// Bytes of the report's name that the temporary name repeats; a file name may have 255.
const NAME_SHOWN: usize = 200;
/// Longest intent read.
const MAX_INTENT: u64 = 1 << 30;
/// Most links followed from a name; Linux follows as many.
const MAX_LINKS: usize = 40;

/// What stands under a report's name.
enum Place {
    /// Written as it is.
    Stream,
    /// Made, or replaced: its path without links, and the file that is there.
    File(PathBuf, Option<Metadata>),
}

/// Finds out early whether a report can be written there, and leaves what is there. A name of one of
/// `precious` (image, copy, undo file) is a usage error, under whatever path: a report would replace it.
pub fn check_report(path: &Path, precious: &[PathBuf]) -> Result<()> {
    place(path, precious).map(drop)
}

/// Writes a report. A new file is for its owner only: it holds the removed identity; an earlier report's
/// mode and owner are kept.
pub fn write_report(path: &Path, bytes: &[u8], precious: &[PathBuf]) -> Result<()> {
    let failed = |e: &std::io::Error| Error::io(title(path), e);
    match place(path, precious)? {
        Place::Stream => {
            let mut file = OpenOptions::new()
                .append(true)
                .open(path)
                .map_err(|e| failed(&e))?;
            file.write_all(bytes).map_err(|e| failed(&e))
        }
        Place::File(at, old) => match replace(&at, bytes, old.as_ref()) {
            Err(e) if old.is_some() && cannot_be_replaced(&e) => {
                rewrite(&at, bytes).map_err(|e| failed(&e))
            }
            other => other.map_err(|e| failed(&e)),
        },
    }
}

fn title(path: &Path) -> String {
    format!(
        "report {}",
        crate::text::escape(&path.display().to_string())
    )
}

fn usage(path: &Path, what: &str) -> Error {
    Error::new(Kind::Usage, format!("{}: {what}", title(path)))
}

fn place(path: &Path, precious: &[PathBuf]) -> Result<Place> {
    let failed = |e: &std::io::Error| Error::io(title(path), e);
    if path.is_symlink() && !path.exists() {
        return Err(usage(
            path,
            "a file expected, found a link that leads nowhere",
        ));
    }
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            try_name(path, precious)?;
            return Ok(Place::File(path.to_path_buf(), None));
        }
        Err(e) => return Err(failed(&e)),
    };
    refuse_precious(path, &meta, precious)?;
    if meta.file_type().is_block_device() {
        return Err(usage(path, "a file expected, found a block device"));
    }
    if meta.is_file() && meta.len() > 0 && !is_report(path) {
        return Err(usage(
            path,
            "a new file or an earlier report expected, found something else",
        )
        .advise("choose another name, or remove the file: it may be a part of an image"));
    }
    // A pipe is opened once: its reader takes the end of the first writer for the end.
    if !meta.file_type().is_fifo() {
        let open = OpenOptions::new().write(true).open(path);
        open.map_err(|e| failed(&e))?;
    }
    if !meta.is_file() || is_descriptor(path) {
        return Ok(Place::Stream);
    }
    let at = std::fs::canonicalize(path).map_err(|e| failed(&e))?;
    Ok(Place::File(at, Some(meta)))
}

fn refuse_precious(path: &Path, meta: &Metadata, precious: &[PathBuf]) -> Result<()> {
    let same = |other: &PathBuf| {
        std::fs::metadata(other)
            .is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
    };
    match precious.iter().any(same) {
        true => Err(usage(
            path,
            "a file of its own expected, it is the image or another result",
        )),
        false => Ok(()),
    }
}

/// Makes a temporary file beside the name and takes it away again: the only way to know that one can be
/// made there. The name itself is not made: a run that is killed must not leave an empty report. That it
/// is no other spelling of a name that somebody else is about to make is seen by the names.
fn try_name(path: &Path, precious: &[PathBuf]) -> Result<()> {
    let failed = |e: &std::io::Error| Error::io(title(path), e);
    if precious.iter().any(|other| is_spelling(path, other)) {
        return Err(usage(
            path,
            "a file of its own expected, it is the image or another result",
        ));
    }
    let (dir, name) = directory_of(path).map_err(|e| failed(&e))?;
    let (_, temporary, scratch) = temporary(&dir, &name).map_err(|e| failed(&e))?;
    let gone = rustix::fs::unlinkat(&dir, &temporary, AtFlags::empty());
    drop(scratch);
    gone.map_err(|e| failed(&e.into()))
}

/// Whether both name the same file, which is not there yet, on a file system that minds the case of
/// letters or on one that does not.
fn is_spelling(one: &Path, other: &Path) -> bool {
    let at = |path: &Path| {
        let (above, name) = (directory_above(path), path.file_name()?);
        let meta = std::fs::metadata(above).ok()?;
        let name = name.to_string_lossy().to_lowercase();
        Some((meta.dev(), meta.ino(), name))
    };
    !other.exists() && at(one).is_some_and(|at_one| at(other) == Some(at_one))
}

/// Whether a name leads to an open descriptor (`/dev/stdout`, `/dev/fd/63`): what is behind it belongs to
/// whoever opened it.
fn is_descriptor(path: &Path) -> bool {
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let above = match at.parent() {
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
            None => return false,
        };
        let Ok(above) = std::fs::canonicalize(above) else {
            return false;
        };
        if above.starts_with("/proc") {
            return true;
        }
        match std::fs::read_link(&at) {
            Ok(target) => at = above.join(target),
            Err(_) => return false,
        }
    }
    false
}

/// Whether a file begins as a report does: which files belong to an image is not always known here, and
/// none of them begins so.
fn is_report(path: &Path) -> bool {
    let mut first = [0];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && matches!(first, [b'{' | b'<'])
}

fn cannot_be_replaced(error: &std::io::Error) -> bool {
    let known = [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::BUSY];
    Errno::from_io_error(error).is_some_and(|e| known.contains(&e))
}

fn directory_above(at: &Path) -> &Path {
    match at.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

/// The directory of a name, and the name there.
fn directory_of(at: &Path) -> std::io::Result<(OwnedFd, OsString)> {
    let name = at
        .file_name()
        .ok_or_else(|| std::io::Error::from(ErrorKind::InvalidInput))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(directory_above(at), flags, Mode::empty())?;
    Ok((dir, name.to_owned()))
}

/// How the names of temporary files for this name begin.
fn prefix(name: &OsStr) -> String {
    let shown = String::from_utf8_lossy(name.as_bytes());
    let start = shown.get(..shown.floor_char_boundary(NAME_SHOWN));
    format!(".{}.declone-", start.unwrap_or_default())
}

/// A new temporary file for this name. It is locked while its maker lives.
fn temporary(dir: &OwnedFd, name: &OsStr) -> std::io::Result<(File, String, Scratch)> {
    let prefix = prefix(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut attempt = 0;
    loop {
        let temporary = format!("{prefix}{}-{attempt}.tmp", std::process::id());
        // No signal between the file's creation and its registration.
        let hold = interrupt::hold();
        let made = rustix::io::fcntl_dupfd_cloexec(dir, 0).and_then(|own| {
            let mode = Mode::RUSR | Mode::WUSR;
            Ok((rustix::fs::openat(dir, &temporary, flags, mode)?, own))
        });
        match made {
            Ok((fd, own)) => {
                let scratch = interrupt::scratch(own, temporary.clone());
                hold.release();
                // Where there are no locks, the number of the process has to do.
                rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).ok();
                return Ok((File::from(fd), temporary, scratch));
            }
            Err(e) => {
                hold.release();
                if e != Errno::EXIST || attempt == 1000 {
                    return Err(e.into());
                }
                attempt += 1;
            }
        }
    }
}

/// Removes the temporary files of runs that were killed: they hold the identity.
fn sweep(dir: &OwnedFd, name: &OsStr) {
    let prefix = prefix(name);
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(found) = entry.file_name().to_str() else {
            continue;
        };
        let maker = found
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(".tmp"))
            .and_then(|rest| rest.split_once('-'))
            .filter(|(_, attempt)| attempt.parse::<u32>().is_ok())
            .and_then(|(pid, _)| Pid::from_raw(pid.parse().ok()?));
        let Some(maker) = maker else {
            continue;
        };
        // A number that is used again (in a container it always is) tells nothing: its lock does.
        let is_dead = maker == rustix::process::getpid()
            || rustix::process::test_kill_process(maker) == Err(Errno::SRCH);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if is_dead
            && let Ok(fd) = rustix::fs::openat(dir, found, flags, Mode::empty())
            && rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
                != Err(Errno::WOULDBLOCK)
        {
            rustix::fs::unlinkat(dir, found, AtFlags::empty()).ok();
        }
    }
}

/// What may have the name already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    /// It is replaced.
    Over,
    /// Nothing has it.
    New,
}

/// Writes it beside the name, then gives it the name.
fn replace(at: &Path, bytes: &[u8], old: Option<&Metadata>) -> std::io::Result<()> {
    put(at, bytes, old, Put::Over)
}

fn put(at: &Path, bytes: &[u8], old: Option<&Metadata>, how: Put) -> std::io::Result<()> {
    let (dir, name) = directory_of(at)?;
    sweep(&dir, &name);
    let (file, temporary, scratch) = temporary(&dir, &name)?;
    let done = fill(&file, bytes, old).and_then(|()| {
        match how {
            Put::Over => rustix::fs::renameat(&dir, &temporary, &dir, &name)?,
            Put::New => rename_new(&dir, &temporary, &name)?,
        }
        Ok(())
    });
    if done.is_err() {
        rustix::fs::unlinkat(&dir, &temporary, AtFlags::empty()).ok();
    }
    drop(scratch);
    done?;
    // The report is whole under either name; a file system without this has its own order.
    rustix::fs::fsync(&dir).ok();
    Ok(())
}

/// Gives the temporary file a name that nothing has, in one step where the file system can.
fn rename_new(dir: &OwnedFd, temporary: &str, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(dir, temporary, dir, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        other => return other,
    }
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(dir, temporary, dir, name),
        Err(e) => Err(e),
    }
}

/// What a clean in place is about to remove, beside the report that will tell it: see [`write_intent`].
fn intent_of(report: &Path) -> PathBuf {
    let at = std::fs::canonicalize(report).unwrap_or_else(|_| report.to_path_buf());
    let mut name = at.file_name().unwrap_or_default().to_os_string();
    name.push(".intent");
    at.with_file_name(name)
}

/// An intent that lies beside its report. A signal that ends the program removes it, as the image is
/// unchanged then.
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
    _scratch: Option<Scratch>,
}

/// Writes durably what the report will be, before the image changes: a run that is killed after the
/// change cannot write it any more, and what the image held is gone. `None` where nothing can lie beside
/// the report: it is a pipe or a terminal. Another image's intent is not replaced.
pub fn write_intent(report: &Path, bytes: &[u8]) -> Result<Option<Intent>> {
    let failed = |e: &std::io::Error| Error::io(format!("{}: what it will be", title(report)), e);
    if !matches!(place(report, &[])?, Place::File(..)) {
        return Ok(None);
    }
    let path = intent_of(report);
    let hold = interrupt::hold();
    let made = put(&path, bytes, None, Put::New).and_then(|()| {
        let (dir, name) = directory_of(&path)?;
        Ok(interrupt::scratch(dir, name.to_string_lossy().into_owned()))
    });
    hold.release();
    match made {
        Ok(scratch) => Ok(Some(Intent {
            path,
            _scratch: Some(scratch),
        })),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(Error::refused(format!(
            "{}: what another clean was about to remove lies next to it",
            title(report)
        ))
        .advise(
            "run that clean again with this report, or choose another name for the report of this one",
        )),
        Err(e) => {
            Err(failed(&e).advise("the image is as it was; choose a report that can be written"))
        }
    }
}

/// Finds out early whether [`write_intent`] can write.
pub fn check_intent(report: &Path) -> Result<()> {
    match place(report, &[])? {
        Place::File(..) => try_name(&intent_of(report), &[]),
        Place::Stream => Ok(()),
    }
}

/// The intent beside a report, if an earlier run left one.
pub fn read_intent(report: &Path) -> Result<Option<(Intent, Vec<u8>)>> {
    let path = intent_of(report);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&path);
    let mut bytes = Vec::new();
    let read = file.and_then(|file| match file.metadata()?.is_file() {
        true => file.take(MAX_INTENT).read_to_end(&mut bytes),
        false => Err(ErrorKind::InvalidInput.into()),
    });
    match read {
        Ok(_) => Ok(Some((
            Intent {
                path,
                _scratch: None,
            },
            bytes,
        ))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("{}: what it will be", title(report)), &e)),
    }
}

impl Intent {
    /// The report is there, or nothing was changed: it is not needed any more.
    pub fn remove(self) {
        if let Ok((dir, name)) = directory_of(&self.path) {
            rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).ok();
            rustix::fs::fsync(&dir).ok();
        }
    }
}

fn fill(mut file: &File, bytes: &[u8], old: Option<&Metadata>) -> std::io::Result<()> {
    file.write_all(bytes)?;
    if let Some(old) = old {
        // Only root may give a file away; anyone else keeps it as his own.
        let (user, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
        rustix::fs::fchown(file, Some(user), Some(group)).ok();
        rustix::fs::fchmod(file, Mode::from_raw_mode(old.mode() & 0o777))?;
    }
    file.sync_all()
}

/// Over the earlier report.
fn rewrite(at: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(at)?;
    file.write_all(bytes)?;
    file.sync_all()
}
