//! Where results will go, looked at before the image is read: hours of work must not end in a directory
//! that is not there. Nothing stays of the look.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{host, interrupt};
use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

fn shown(path: &Path) -> String {
    escape(&path.display().to_string())
}

fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A usage error unless the directory of `path` is there. `option` is what named the path.
pub fn check_above(option: &str, path: &Path) -> Result<()> {
    is_directory(&format!("{option} {}", shown(path)), above(path))
}

/// As [`check_above`], and a new file can be made in it.
pub fn check_place(option: &str, path: &Path) -> Result<()> {
    check_above(option, path)?;
    probe(above(path)).map_err(|e| unwritable(&format!("{option} {}", shown(path)), above(path), e))
}

/// Whether the journal of an image that is a file can be made beside it. Of an image that is not there,
/// opening it says more.
pub fn check_beside(image: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(image) else {
        return Ok(());
    };
    let dir = above(&real);
    match real.is_file() {
        true => probe(dir).map_err(|e| unwritable(&format!("journal *{}", host::SUFFIX), dir, e)),
        false => Ok(()),
    }
}

fn is_directory(what: &str, dir: &Path) -> Result<()> {
    let wrong = |found: &str| {
        let dir = shown(dir);
        Error::new(Kind::Usage, format!("{what}: {found} {dir}"))
            .advise("make the directory first, or choose another place")
    };
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(wrong("a directory expected, found the file")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(wrong("there is no directory")),
        Err(e) => Err(Error::io(
            format!("{what}: its directory {}", shown(dir)),
            &e,
        )),
    }
}

fn unwritable(what: &str, dir: &Path, error: Errno) -> Error {
    Error::io(
        format!("{what}: no file can be made in {}", shown(dir)),
        &error.into(),
    )
}

/// Makes a file without a name, or where the host has no such files, one that goes again at once.
fn probe(dir: &Path) -> rustix::io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    let unnamed = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    if rustix::fs::open(dir, unnamed, mode).is_ok() {
        return Ok(());
    }
    let at = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let own: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&at, 0)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for attempt in 0..1000 {
        let name = format!(".declone-probe-{}-{attempt}.tmp", std::process::id());
        // No signal between the file's creation and its registration.
        let hold = interrupt::hold();
        match rustix::fs::openat(&at, &name, flags, mode) {
            Ok(file) => {
                let scratch = interrupt::scratch(own, name.clone());
                hold.release();
                drop(file);
                let gone = rustix::fs::unlinkat(&at, &name, AtFlags::empty());
                drop(scratch);
                return gone;
            }
            Err(e) => {
                hold.release();
                if e != Errno::EXIST {
                    return Err(e);
                }
            }
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_and_nothing_stays_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no").join("out.img");
        let error = check_place("-o", &missing).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(
            error.what().contains(&shown(missing.parent().unwrap())),
            "{error}"
        );
        let file = dir.path().join("file");
        std::fs::File::create(&file).unwrap();
        let error = check_place("-o", &file.join("out.img")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        check_place("-o", &dir.path().join("out.img")).unwrap();
        check_beside(&file).unwrap();
        check_beside(&dir.path().join("nothing")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
