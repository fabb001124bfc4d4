//! Stage, clone, patch, journal, commit, recover, undo: the only room that writes to the host.
//!
//! In: a plan and the image over an overlay. Out: a verified file beside the wanted name, renamed
//! into place. Knows: device, tree, hive, image, plan. Facts from: `shared/facts/robustness.md` 6.
//! Never: decides what to remove; parses between the first written byte and the last.

pub mod change;
pub mod clone;
pub mod guard;
pub mod host;
pub mod journal;
pub mod protocol;
pub mod stage;
pub mod undo;

use std::{io::Write, path::Path};

use crate::error::{Error, Result};

/// Finds out early whether a report can be written: opens it, leaves what it holds.
pub fn check_report(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|e| {
            let shown = crate::text::escape(&path.display().to_string());
            Error::io(format!("report {shown}"), &e)
        })
}

/// Writes a report file for its owner only: it holds the removed identity.
pub fn write_report(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let shown = crate::text::escape(&path.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("report {shown}"), e);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed(&e))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|e| failed(&e))
}
