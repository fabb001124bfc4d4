//! Bytes at positions: host files, slices, memory and the copy-on-write overlay.
//!
//! In: a host path. Out: `Arc<dyn BlockDevice>`, positional reads, and a set of changed pages.
//! Knows: units, error, bytes. Facts from: the host's manual pages.
//! Never: knows what the bytes mean; writes to a host file (that is `apply`).

use std::{fmt, ops::Range, sync::Arc};

use crate::error::{Error, Result};

mod claim;
mod file;
mod in_use;
mod map;
mod memory;
mod neighbours;
mod overlay;
mod set;
mod slice;
mod sys;

pub use claim::Lease;
pub use file::{Access, HostFile, refuse_writers};
pub use map::Mapping;
pub use memory::Memory;
pub use neighbours::Neighbours;
pub use overlay::{Overlay, PAGE_LEN, Page, Patch};
pub use set::{HostSet, Leases, PartOf};
pub use slice::Slice;
pub use sys::give_memory_back;

/// A shared device.
pub type Device = Arc<dyn BlockDevice>;

/// One of the files that a device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name by which the image knows it; empty for the file that the user named.
    pub name: String,
    /// Where it starts in the device's address space.
    pub start: u64,
    /// How long it is.
    pub len: u64,
}

/// Bytes at positions. No short reads: all of `buf` is filled, or it is an error.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes `bytes` at `offset`; a device that is not meant to be written refuses.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Err(Error::internal(format!(
            "device: write of {} bytes at {offset:#x} to a read-only device",
            bytes.len()
        )))
    }

    /// Zeroes `len` bytes at `offset`; an overlay does it without holding the zeros.
    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        Err(Error::internal(format!(
            "device: zeroing {len} bytes at {offset:#x} of a read-only device"
        )))
    }

    /// Makes it longer; what is new reads as zeros. A device that cannot grow refuses.
    fn grow(&self, len: u64) -> Result<()> {
        Err(Error::refused(format!(
            "device: room in {} bytes expected, {len} are needed",
            self.len()
        ))
        .advise("clean into a copy (-o OUT), which may be longer"))
    }

    /// SHA-256 of everything that was written and is not yet below; empty for a device that keeps
    /// nothing back.
    fn change_digest(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The files it is made of; see [`HostSet`]. Nearly always one.
    fn parts(&self) -> Vec<Part> {
        vec![Part {
            name: String::new(),
            start: 0,
            len: self.len(),
        }]
    }

    /// Length of one of [`BlockDevice::parts`].
    fn part_len(&self, number: usize) -> Option<u64> {
        (number == 0).then(|| self.len())
    }

    /// As [`BlockDevice::grow`], for one of [`BlockDevice::parts`].
    fn grow_part(&self, number: usize, len: u64) -> Result<()> {
        match number {
            0 => self.grow(len),
            _ => Err(Error::internal(format!("device: file {number} of one"))),
        }
    }

    /// The next range at or after `from` that may hold anything but zeros; for walks over sparse
    /// images. `None` when only zeros follow.
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        Ok((from < self.len()).then(|| from..self.len()))
    }
}

/// The error for a read or write that leaves the device.
fn outside(what: &str, offset: u64, len: usize, device_len: u64) -> Error {
    Error::malformed(format!(
        "{what}: {len} bytes expected at {offset:#x}, it ends at {device_len:#x}"
    ))
}

/// Checks that `offset + len` lies inside `device_len`.
fn check_inside(what: &str, offset: u64, len: usize, device_len: u64) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= device_len => Ok(()),
        _ => Err(outside(what, offset, len, device_len)),
    }
}
