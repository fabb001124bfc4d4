//! Editing NTFS: overwriting in place, removing files, wiping residue.
//!
//! In: an [`Ntfs`] whose device is an overlay. Out: writes to that device, all checked first.
//! Knows: units, error, bytes, text, device, tree, the reading half of this volume.
//! Never: allocates, repairs, follows a reparse point, changes a time stamp, an LSN or the log,
//! or writes anything when a structure it needs is not sound. On an error the caller throws the
//! overlay away.

mod balance;
mod bits;
mod claims;
mod index;
mod node;
mod overwrite;
mod pack;
mod place;
mod record;
mod remove;
mod target;
mod tree;
mod view_index;
mod wipe;

use std::ops::Range;

use super::Ntfs;
use crate::{
    error::Result,
    tree::{Disposition, FileId, Removal},
    units::FileOffset,
};

/// Overwrites bytes of a file's main data stream without changing anything else.
pub fn overwrite(vol: &Ntfs, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
    overwrite::overwrite(vol, id, offset, bytes)
}

/// Fills a file's main data stream with zeros, to the end of its last cluster.
pub fn erase(vol: &Ntfs, id: FileId) -> Result<u64> {
    overwrite::erase(vol, id)
}

/// Whether everything that is to be written belongs to one file alone.
pub fn sole_owners(vol: &Ntfs, written: &[FileId], removed: &[FileId]) -> Result<()> {
    if written.is_empty() && removed.is_empty() {
        return Ok(());
    }
    claims::check_claims(vol, &target::load(vol, removed)?, written)
}

/// Removes files with all their names and streams.
pub fn remove(vol: &Ntfs, ids: &[FileId]) -> Result<Removal> {
    remove::remove(vol, ids)
}

/// Zeroes stale bytes at the hits; live data is left.
pub fn wipe_residue(vol: &Ntfs, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
    wipe::wipe_residue(vol, hits)
}
