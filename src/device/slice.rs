//! A part of a device as a device of its own: a partition of a disk.

use std::ops::Range;

use super::{BlockDevice, Device, check_inside};
use crate::error::{Error, Result};

/// `len` bytes of a device from `start` on.
#[derive(Debug, Clone)]
pub struct Slice {
    under: Device,
    start: u64,
    len: u64,
}

impl Slice {
    /// Cuts a slice; it must lie inside the device.
    pub fn new(under: Device, start: u64, len: u64) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= under.len() => Ok(Self { under, start, len }),
            _ => Err(Error::malformed(format!(
                "slice: {len} bytes expected at {start:#x}, the device ends at {:#x}",
                under.len()
            ))),
        }
    }

    /// Where the slice starts in the device below.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }
}

impl BlockDevice for Slice {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_inside("volume", offset, buf.len(), self.len)?;
        self.under.read_at(self.start + offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        check_inside("volume", offset, bytes.len(), self.len)?;
        self.under.write_at(self.start + offset, bytes)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => self.under.zero_at(self.start + offset, len),
            _ => Err(Error::internal(format!(
                "volume: zeroing {len} bytes at {offset:#x} leaves it"
            ))),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        if from >= self.len {
            return Ok(None);
        }
        Ok(self.under.next_data(self.start + from)?.and_then(|range| {
            let start = range.start.max(self.start) - self.start;
            let end = range.end.saturating_sub(self.start).min(self.len);
            (start < end).then_some(start..end)
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Memory;
    use super::*;

    #[test]
    fn a_slice_cannot_reach_its_neighbours() {
        let disk = Arc::new(Memory::new((0..100).collect()));
        let slice = Slice::new(disk.clone(), 10, 20).unwrap();
        let mut buf = [0; 2];
        slice.read_at(18, &mut buf).unwrap();
        assert_eq!(buf, [28, 29]);
        assert!(slice.read_at(19, &mut buf).is_err());
        assert!(slice.write_at(20, &[1]).is_err());
        assert!(slice.zero_at(u64::MAX, 2).is_err());
        assert!(Slice::new(disk.clone(), 90, 11).is_err());
        assert!(Slice::new(disk, u64::MAX, 2).is_err());
    }
}
