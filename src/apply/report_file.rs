//! The files that a report is written to: a whole report or the one that was there before, never a part.
//!
//! A report is written beside its name and renamed into place. What cannot be replaced so is written as it
//! is: pipes, terminals and descriptors (`/dev/stdout`, `>(...)`), and an earlier report in a directory
//! that allows no new file, or that is a mount point of its own.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Uid},
    io::Errno,
};

use super::interrupt;
use crate::error::{Error, Kind, Result};

/// Bytes of the report's name that the temporary name repeats; a file name may have 255.
const NAME_SHOWN: usize = 200;
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

/// Makes a file of this name and takes it away again: the only way to know that it can be made, and that
/// it is no other spelling of a name that somebody else is about to make.
fn try_name(path: &Path, precious: &[PathBuf]) -> Result<()> {
    let hold = interrupt::hold();
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.metadata());
    let judged = match made {
        Ok(meta) => {
            let judged = refuse_precious(path, &meta, precious);
            let gone = rustix::fs::unlink(path).map_err(std::io::Error::from);
            judged.and(gone.map_err(|e| Error::io(title(path), &e)))
        }
        Err(e) => Err(Error::io(title(path), &e)),
    };
    hold.release();
    judged
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

/// Writes it beside the name, then gives it the name.
fn replace(at: &Path, bytes: &[u8], old: Option<&Metadata>) -> std::io::Result<()> {
    let name = at
        .file_name()
        .ok_or_else(|| std::io::Error::from(ErrorKind::InvalidInput))?;
    let above = match at.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(above, flags, Mode::empty())?;
    let shown = String::from_utf8_lossy(name.as_bytes());
    let start = &shown[..shown.floor_char_boundary(NAME_SHOWN)];
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut attempt = 0;
    let (file, temporary, scratch) = loop {
        let temporary = format!(".{start}.declone-{}-{attempt}.tmp", std::process::id());
        // No signal between the file's creation and its registration.
        let hold = interrupt::hold();
        let made = rustix::io::fcntl_dupfd_cloexec(&dir, 0).and_then(|own| {
            let mode = Mode::RUSR | Mode::WUSR;
            Ok((rustix::fs::openat(&dir, &temporary, flags, mode)?, own))
        });
        match made {
            Ok((fd, own)) => {
                let scratch = interrupt::scratch(own, temporary.clone());
                hold.release();
                break (File::from(fd), temporary, scratch);
            }
            Err(e) => {
                hold.release();
                if e != Errno::EXIST || attempt == 1000 {
                    return Err(e.into());
                }
                attempt += 1;
            }
        }
    };
    let done = fill(&file, bytes, old).and_then(|()| {
        rustix::fs::renameat(&dir, &temporary, &dir, name)?;
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
