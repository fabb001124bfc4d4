//! The disk of a container whose blocks lie anywhere in the file, or not at all.
//!
//! A format answers one question, where a byte of the disk lies ([`Layout`]); reading, writing and
//! walking are done here, once for all formats. Writes go to the device below, which is an overlay
//! whenever anything is edited: this file decides where they land, never whether they may.

use std::{ops::Range, sync::Arc};

use crate::{
    bytes::all_zero,
    device::{BlockDevice, Device},
    error::{At, Error, Result},
};

/// Where a run of bytes of the disk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this offset of the file.
    File(u64),
    /// The file has room at this offset, but the disk shows zeros until [`Layout::reveal`].
    Hidden(u64),
    /// The file has no room for it: the disk shows zeros.
    Absent,
}

/// A run of bytes of the disk that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where they lie.
    pub place: Place,
    /// How many they are; never zero.
    pub len: u64,
}

/// What a format knows about where its disk lies in the file.
pub trait Layout: Send + Sync + std::fmt::Debug {
    /// Length of the disk.
    fn disk_len(&self) -> u64;

    /// The run that begins at this offset of the disk.
    fn extent(&self, at: u64) -> Result<Extent>;

    /// Makes the hidden bytes `at..at + len` of the disk shown, as zeros.
    fn reveal(&self, at: u64, len: u64) -> Result<()>;

    /// Disk to file: where the byte lies, shown or hidden.
    fn file_offset(&self, disk: u64) -> Option<u64>;

    /// File to disk, if the disk shows that byte of the file.
    fn disk_offset(&self, file: u64) -> Option<u64>;

    /// The ranges of the disk that lie in a range of the file, shown or hidden, in any order.
    fn disk_ranges(&self, file: &Range<u64>) -> Vec<Range<u64>>;

    /// Where neighbours on the disk are none in the file.
    fn seams(&self) -> Vec<u64>;
}

/// The way between offsets of the disk and offsets of the file.
#[derive(Clone, Debug, Default)]
pub struct Places(Option<Arc<dyn Layout>>);

impl Places {
    /// The ways of a layout; the default is the same offset in both.
    #[must_use]
    pub fn of(layout: Arc<dyn Layout>) -> Self {
        Self(Some(layout))
    }

    /// Disk to file, if the file has room for that byte.
    #[must_use]
    pub fn file_offset(&self, disk: u64) -> Option<u64> {
        match &self.0 {
            Some(layout) => layout.file_offset(disk),
            None => Some(disk),
        }
    }

    /// File to disk, if the disk shows that byte.
    #[must_use]
    pub fn disk_offset(&self, file: u64) -> Option<u64> {
        match &self.0 {
            Some(layout) => layout.disk_offset(file),
            None => Some(file),
        }
    }

    /// Ranges of the file as ranges of the disk: ascending, merged where they touch.
    #[must_use]
    pub fn disk_ranges(&self, file: &[Range<u64>]) -> Vec<Range<u64>> {
        let Some(layout) = &self.0 else {
            return file.to_vec();
        };
        let mut all: Vec<Range<u64>> = file
            .iter()
            .flat_map(|range| layout.disk_ranges(range))
            .collect();
        all.sort_unstable_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Offsets of the disk where a search of the file cannot look across.
    #[must_use]
    pub fn seams(&self) -> Vec<u64> {
        self.0
            .as_ref()
            .map_or_else(Vec::new, |layout| layout.seams())
    }
}

/// The disk that a layout describes.
#[derive(Debug)]
pub struct Mapped {
    host: Device,
    layout: Arc<dyn Layout>,
}

/// A length as a position.
pub(super) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Mapped {
    /// The disk of this layout over this file.
    #[must_use]
    pub fn new(host: Device, layout: Arc<dyn Layout>) -> Self {
        Self { host, layout }
    }

    fn check_inside(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Error::malformed(format!(
                "disk: {len} bytes expected at {offset:#x}, it ends at {:#x}",
                self.len()
            ))),
        }
    }

    /// The runs that `offset..offset + len` consists of: place, position on the disk, length.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Result<(Place, u64, u64)>> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let extent = match self.layout.extent(at) {
                Ok(extent) if extent.len > 0 => extent,
                Ok(_) => {
                    at = end;
                    return Some(Err(Error::internal("disk: a run of no bytes")));
                }
                Err(error) => {
                    at = end;
                    return Some(Err(error));
                }
            };
            let here = at;
            let take = extent.len.min(end.saturating_sub(at));
            at = at.saturating_add(take);
            Some(Ok((extent.place, here, take)))
        })
    }
}

/// The `len` bytes at `from`.
fn part(bytes: &[u8], from: u64, len: u64) -> Result<&[u8]> {
    usize::try_from(from)
        .ok()
        .zip(usize::try_from(len).ok())
        .and_then(|(from, len)| bytes.get(from..from.checked_add(len)?))
        .ok_or_else(|| Error::internal("disk: a piece leaves the buffer"))
}

impl BlockDevice for Mapped {
    fn len(&self) -> u64 {
        self.layout.disk_len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = wide(buf.len());
        self.check_inside(offset, len)?;
        let mut rest = buf;
        for piece in self.pieces(offset, len) {
            let (place, _, take) = piece?;
            let take =
                usize::try_from(take).map_err(|_| Error::internal("disk: a piece too long"))?;
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .ok_or_else(|| Error::internal("disk: a piece leaves the buffer"))?;
            match place {
                Place::File(at) => self.host.read_at(at, now)?,
                Place::Hidden(_) | Place::Absent => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = wide(bytes.len());
        self.check_inside(offset, len)?;
        // All or nothing: first see that there is room.
        for piece in self.pieces(offset, len) {
            let (place, at, take) = piece?;
            let new = part(bytes, at.saturating_sub(offset), take)?;
            if place == Place::Absent && !all_zero(new) {
                return Err(Error::refused(format!(
                    "container: an allocated block expected where {take} bytes are to be written, \
                     found none"
                ))
                .at("disk offset", format_args!("{at:#x}"))
                .advise(
                    "declone does not make a container grow: convert the image to raw (qemu-img \
                     convert -O raw) and clean that",
                ));
            }
        }
        for piece in self.pieces(offset, len) {
            let (place, at, take) = piece?;
            let new = part(bytes, at.saturating_sub(offset), take)?;
            match place {
                Place::File(to) => self.host.write_at(to, new)?,
                Place::Hidden(to) if !all_zero(new) => {
                    self.layout
                        .reveal(at, take)
                        .at("image offset", format_args!("{to:#x}"))?;
                    self.host.write_at(to, new)?;
                }
                // It shows zeros already.
                Place::Hidden(_) | Place::Absent => {}
            }
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_inside(offset, len)?;
        for piece in self.pieces(offset, len) {
            if let (Place::File(to), _, take) = piece? {
                self.host.zero_at(to, take)?;
            }
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let rest = self.len().saturating_sub(from);
        for piece in self.pieces(from, rest) {
            let (Place::File(at), here, len) = piece? else {
                continue;
            };
            let end = at.saturating_add(len);
            // Holes of the host inside a block are skipped, too.
            let Some(data) = self.host.next_data(at)? else {
                continue;
            };
            let (start, stop) = (data.start.max(at), data.end.min(end));
            if start < stop {
                let disk = |file: u64| here.saturating_add(file.saturating_sub(at));
                return Ok(Some(disk(start)..disk(stop)));
            }
        }
        Ok(None)
    }
}
