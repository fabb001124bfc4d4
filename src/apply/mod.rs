//! Stage, clone, patch, journal, commit, recover, undo: the only room that writes to the host.
//!
//! In: a plan and the image over an overlay. Out: a verified file beside the wanted name, renamed
//! into place. Knows: device, tree, hive, image, plan. Facts from: `shared/facts/robustness.md` 6.
//! Never: decides what to remove; parses between the first written byte and the last.

pub mod change;
pub mod clone;
pub mod clone_set;
pub mod directory;
pub mod guard;
pub mod host;
pub mod interrupt;
pub mod journal;
pub mod protocol;
pub mod stage;
pub mod undo;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Kind, Result};

/// Finds out early whether a report can be written there: opens it and leaves what it holds. A
/// name of one of `precious` (image, copy, undo file) is a usage error, under whatever path: a
/// report would replace it.
pub fn check_report(path: &Path, precious: &[PathBuf]) -> Result<()> {
    open_report(path, precious).map(drop)
}

fn open_report(path: &Path, precious: &[PathBuf]) -> Result<File> {
    let shown = crate::text::escape(&path.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("report {shown}"), e);
    if path.is_symlink() && !path.exists() {
        return Err(Error::new(
            Kind::Usage,
            format!("report {shown}: a file expected, found a link that leads nowhere"),
        ));
    }
    let existed = path.exists();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed(&e))?;
    let meta = file.metadata().map_err(|e| failed(&e))?;
    let same = |other: &PathBuf| {
        std::fs::metadata(other)
            .is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
    };
    if precious.iter().any(same) {
        if !existed {
            rustix::fs::unlink(path).ok();
        }
        return Err(Error::new(
            Kind::Usage,
            format!(
                "report {shown}: a file of its own expected, it is the image or another result"
            ),
        ));
    }
    if existed && meta.is_file() && meta.len() > 0 && !is_report(path) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "report {shown}: a new file or an earlier report expected, found something else"
            ),
        )
        .advise("choose another name, or remove the file: it may be a part of an image"));
    }
    Ok(file)
}

/// Whether a file begins as a report does: which files belong to an image is not always known here, and
/// none of them begins so.
fn is_report(path: &Path) -> bool {
    let mut first = [0];
    let read =
        File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut first));
    read.is_ok() && matches!(first, [b'{' | b'<'])
}

/// Writes a report file for its owner only: it holds the removed identity.
pub fn write_report(path: &Path, bytes: &[u8], precious: &[PathBuf]) -> Result<()> {
    let shown = crate::text::escape(&path.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("report {shown}"), e);
    let mut file = open_report(path, precious)?;
    let regular = file.metadata().map_err(|e| failed(&e))?.is_file();
    if regular {
        file.set_len(0).map_err(|e| failed(&e))?;
    }
    file.write_all(bytes).map_err(|e| failed(&e))?;
    // A pipe or terminal has nothing to sync.
    if regular {
        file.sync_all().map_err(|e| failed(&e))?;
    }
    Ok(())
}
