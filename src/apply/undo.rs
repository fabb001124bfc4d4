//! The undo file: what a change in place replaced, written before the first byte changes.
//!
//! It is the reverse change in the journal's format, so taking it back is a change like any other:
//! checked, journaled, committed. It holds the removed identity; it is for its owner only.

use std::{
    fs::File,
    io::Write,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{
    change::{Change, State},
    journal::{self, Bond, Role},
};
use crate::{
    device::{HostFile, PAGE_LEN},
    error::{Error, Kind, Result},
    text::escape,
};

/// Writes `change` reversed to a new file, mode 0600, durable together with its name. It gets the
/// name when it is complete, where the host can do that. An existing file is never replaced; the one
/// that a killed run left for this very change is as good as a new one.
pub fn write(path: &Path, bond: &Bond, change: &Change) -> Result<()> {
    let shown = escape(&path.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("undo file {shown}"), e);
    let reversed = change.reversed()?;
    if path.symlink_metadata().is_ok() {
        return match read(path) {
            Ok((_, found, owner)) if is_same(&found, &reversed) && is_own(owner) => sync(path),
            _ => Err(taken(path)),
        };
    }
    let (mut file, unnamed) = match create_unnamed(path) {
        Some(file) => (file, true),
        None => (create(path).map_err(|e| failed(&e))?, false),
    };
    let written = journal::write(Role::Undo, &bond.reversed(), &reversed, &mut |piece| {
        file.write_all(piece)
    })
    .and_then(|()| file.sync_all());
    let remove_ours = || {
        if is_file_at(&file, path) {
            remove(path);
        }
    };
    written
        .and_then(|()| match unnamed {
            true => give_name(&file, path),
            false => Ok(()),
        })
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => taken(path),
            _ => failed(&e),
        })
        .and_then(|()| sync(path))
        .and_then(|()| read_back(path, &file, &reversed))
        .inspect_err(|_| remove_ours())
}

fn create(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A file without a name, of which a killed run leaves nothing. None if the host has no such files,
/// or no way to give it a name later.
fn create_unnamed(path: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = File::from(rustix::fs::open(parent(path), flags, mode).ok()?);
    Path::new(&descriptor(&file)).exists().then_some(file)
}

fn give_name(file: &File, path: &Path) -> std::io::Result<()> {
    let (from, to) = (descriptor(file), path);
    rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}

fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Whether the name is this file's: a link can fail after its work.
fn is_file_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Makes the file and its name durable.
fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .and_then(|()| File::open(parent(path))?.sync_all())
        .map_err(|e| {
            let shown = escape(&path.display().to_string());
            Error::io(format!("undo file {shown}"), &e)
        })
}

fn is_own(owner: u32) -> bool {
    owner == rustix::process::geteuid().as_raw()
}

/// Whether both write the same bytes to the same places.
fn is_same(found: &Change, wanted: &Change) -> bool {
    let pages = found.pages().iter().zip(wanted.pages());
    found.pages().len() == wanted.pages().len()
        && pages.fold(true, |same, (a, b)| {
            same && (a.offset, a.new) == (b.offset, b.new)
        })
        && found.seal() == wanted.seal()
}

/// A write can lie, and this file is the only way back.
fn read_back(path: &Path, file: &File, written: &Change) -> Result<()> {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).ok();
    match read(path) {
        Ok((_, found, _)) if is_same(&found, written) => Ok(()),
        // A host that gives files another owner or mode says so here, before it matters.
        Err(error) if [Kind::Io, Kind::Refused].contains(&error.kind()) => Err(error),
        _ => Err(Error::new(
            Kind::Io,
            format!(
                "undo file {}: what was written expected, read other bytes back",
                escape(&path.display().to_string())
            ),
        )
        .advise("do not trust the disk that holds it; choose another place for --undo")),
    }
}

/// Refuses a name that is taken by anything but an undo file, before the work that would be lost. Of
/// an undo file only [`fn@write`] can tell whether it is the way back from this very change.
pub fn check_new(path: &Path) -> Result<()> {
    match path.symlink_metadata().is_err() || read(path).is_ok() {
        true => Ok(()),
        false => Err(taken(path)),
    }
}

fn taken(path: &Path) -> Error {
    let shown = escape(&path.display().to_string());
    Error::new(
        Kind::Usage,
        format!("--undo {shown}: a new file expected, it exists"),
    )
    .advise("an undo file is never replaced: it may be the only way back; choose another name")
}

/// Removes an undo file of a run that changed nothing: it holds the identity.
pub fn remove(path: &Path) {
    if rustix::fs::unlink(path).is_ok() {
        File::open(parent(path)).and_then(|dir| dir.sync_all()).ok();
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads and checks an undo file: a regular file, no link, that nobody else may write. Also gives
/// the user id of its owner, see [`check_owner`].
pub fn read(path: &Path) -> Result<(Bond, Change, u32)> {
    let shown = escape(&path.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("undo file {shown}"), e);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|e| failed(&e))?;
    let meta = file.metadata().map_err(|e| failed(&e))?;
    if !meta.is_file() || meta.mode() & 0o022 != 0 {
        return Err(Error::refused(format!(
            "undo file {shown}: a file that only its owner may write expected, found mode {:o}",
            meta.mode()
        ))
        .advise("whoever can change it decides what is written; check where it comes from"));
    }
    if meta.len() > journal::MAX_LEN {
        return Err(Error::malformed(format!(
            "undo file {shown}: at most {} bytes expected, found {}",
            journal::MAX_LEN,
            meta.len()
        )));
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, meta.len().saturating_add(1)),
        &mut bytes,
    )
    .map_err(|e| failed(&e))?;
    let (bond, change) = journal::read(Role::Undo, &bytes)?;
    Ok((bond, change, meta.uid()))
}

/// An undo file decides what is written: its owner must be the one who runs, or who may write the
/// image anyway.
pub fn check_owner(owner: u32, image: &HostFile) -> Result<()> {
    let image = image
        .file()
        .metadata()
        .map_err(|e| Error::io("image: metadata", &e))?;
    if is_own(owner) || owner == image.uid() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "undo file: your own or that of the image's owner expected, found one of user {owner}"
    ))
    .advise("whoever made it decides what is written; check where it comes from"))
}

/// Refuses unless every page is what the clean wrote; an undo over other bytes would tear them.
pub fn check(
    change: &Change,
    lens: &[u64],
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let sum = |lens: &mut dyn Iterator<Item = u64>| lens.fold(0, u64::saturating_add);
    let files = change.files();
    let is = |lens: &mut dyn Iterator<Item = u64>| lens.eq(files.iter().map(|file| file.old));
    if !is(&mut lens.iter().copied()) {
        return Err(Error::refused(format!(
            "undo file: an image of {} bytes expected, found {} bytes",
            sum(&mut files.iter().map(|file| file.old)),
            sum(&mut lens.iter().copied()),
        ))
        .advise(
            "it was taken back already, or belongs to another image, or this one was resized",
        ));
    }
    let mut buffer = vec![0; PAGE_LEN];
    let mut restored = 0_usize;
    let mut other = None;
    for page in change.pages() {
        let found = buffer
            .get_mut(..page.old_len)
            .ok_or_else(|| Error::internal("undo file: a page longer than a page"))?;
        if !found.is_empty() {
            read(page.offset, found)?;
        }
        match page.state(found) {
            State::Old => {}
            State::New => restored = restored.saturating_add(1),
            State::Torn | State::Foreign => other = other.or(Some(page.offset)),
        }
    }
    if let Some(offset) = other {
        return Err(
            Error::refused("image: the bytes that the clean wrote expected, found others")
                .at("image offset", format_args!("{offset:#x}"))
                .advise("the image was changed since it was cleaned; restore it from a backup"),
        );
    }
    if restored == change.pages().len() && restored > 0 {
        return Err(Error::refused(
            "image: the bytes that the clean wrote expected, found the original",
        )
        .advise("it was taken back already, or the clean never happened; nothing to do"));
    }
    if restored > 0 {
        return Err(Error::refused(
            "image: the bytes that the clean wrote expected, found some of the original",
        )
        .advise("the image was changed since it was cleaned; restore it from a backup"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use crate::{
        apply::change::FileLen,
        device::{Page, Patch},
    };

    fn sample() -> (Bond, Change) {
        let patches = [0, 4096].map(|offset| Patch {
            offset,
            len: 4096,
            page: Page::Zero,
        });
        let change = Change::prepare(&patches, &[FileLen::fixed(8192)], &mut |_, out| {
            out.fill(7);
            Ok(())
        })
        .unwrap();
        let bond = Bond {
            image_len: 8192,
            ..Bond::default()
        };
        (bond, change)
    }

    #[test]
    fn it_is_written_once_for_its_owner_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let (bond, change) = sample();
        write(&path, &bond, &change).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // A run that is killed behind it leaves it: the next one finds it good, and as it was.
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let first = inode(&path);
        write(&path, &bond, &change).unwrap();
        assert_eq!(inode(&path), first);
        // For anything else, and for an incomplete one, the name is taken.
        let good = std::fs::read(&path).unwrap();
        let mut read_old = |_: u64, out: &mut [u8]| {
            out.fill(7);
            Ok(())
        };
        let less = Patch {
            offset: 0,
            len: 4096,
            page: Page::Zero,
        };
        let other = Change::prepare(&[less], &[FileLen::fixed(8192)], &mut read_old).unwrap();
        for (bytes, change) in [(&good[..], &other), (&good[..good.len() - 1], &change)] {
            std::fs::write(&path, bytes).unwrap();
            let kind = write(&path, &bond, change).unwrap_err().kind();
            assert_eq!(kind, Kind::Usage);
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::write(&path, &good).unwrap();
        let (again, back, owner) = read(&path).unwrap();
        assert_eq!(owner, rustix::process::geteuid().as_raw());
        assert_eq!(again, bond);
        assert_eq!(back.pages()[0].new_bytes(), &[7; 4096]);
        assert_eq!(back.seal(), change.seal());
    }

    #[test]
    fn only_an_image_as_the_clean_left_it_is_taken_back() {
        let (_, change) = sample();
        let back = change.reversed().unwrap();
        let check = |len: u64, image: &[u8]| {
            super::check(&back, &[len], &mut |at, out| {
                out.copy_from_slice(&image[at as usize..][..out.len()]);
                Ok(())
            })
        };
        check(8192, &[0; 8192]).unwrap();
        let mut half = vec![0; 8192];
        half[..4096].fill(7);
        let mut torn = vec![0; 8192];
        torn[..512].fill(7);
        for (len, image) in [
            (8192, vec![7; 8192]),
            (8192, vec![1; 8192]),
            (8192, half),
            (8192, torn),
            (8193, vec![0; 8193]),
        ] {
            assert_eq!(check(len, &image).unwrap_err().kind(), Kind::Refused);
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let (bond, change) = sample();
        write(&path, &bond, &change).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), Kind::Refused);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
    }
}
