//! The active FAT, read through a window.

use super::{Format, Geometry, Volume};
use crate::{
    error::{At, Error, Result},
    volume::widths::{narrow, wide},
};

/// Bytes of the FAT that are read at a time.
const WINDOW: u64 = 4096;
/// Longest entry: one that begins at the window's end is in it, too.
const ENTRY: u64 = 4;

/// Reads the active FAT.
#[derive(Debug)]
pub struct Table<'a, F: Format> {
    volume: &'a Volume<F>,
    window: Vec<u8>,
    at: u64,
}

impl<'a, F: Format> Table<'a, F> {
    /// Nothing read yet.
    #[must_use]
    pub fn new(volume: &'a Volume<F>) -> Self {
        Self {
            volume,
            window: Vec::new(),
            at: 0,
        }
    }

    /// The volume it is of.
    #[must_use]
    pub fn volume(&self) -> &'a Volume<F> {
        self.volume
    }

    /// Bytes of the FAT, counted from its start; no more than an entry.
    pub fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = at.saturating_add(wide(len));
        let have = self.at.saturating_add(wide(self.window.len()));
        if at < self.at || end > have {
            let (fat_start, fat_len) = self.volume.geometry.active_fat();
            let start = at.saturating_sub(at & WINDOW.saturating_sub(1));
            let want = fat_len
                .saturating_sub(start)
                .min(WINDOW.saturating_add(ENTRY));
            self.window.resize(narrow(want, "FAT")?, 0);
            self.at = start;
            let place = fat_start.saturating_add(start);
            self.volume
                .device
                .read_at(place, &mut self.window)
                .at("volume offset", format!("{place:#x}"))?;
        }
        let from = narrow(at.saturating_sub(self.at), "FAT")?;
        from.checked_add(len)
            .and_then(|to| self.window.get(from..to))
            .ok_or_else(|| Error::internal(format!("{}: an entry outside of its FAT", F::NAME)))
    }
}
