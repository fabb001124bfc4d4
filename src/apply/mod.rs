//! Stage, clone, patch: the only room that writes to the host.
//!
//! In: a plan and the image over an overlay. Out: a verified file beside the wanted name, renamed
//! into place. Knows: device, tree, hive, image, plan. Facts from: `shared/facts/robustness.md` 6.
//! Never: decides what to remove; parses between the first written byte and the last.

pub mod clone;
pub mod guard;
pub mod interrupt;
pub mod stage;

use std::{io::Write, path::Path};

use crate::error::{Error, Result};

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
        .and_then(|()| match file.sync_all() {
            // A pipe or a device has nothing to sync.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        })
        .map_err(|e| failed(&e))
}
