//! The disk of a container whose blocks lie anywhere in the file, or not at all.
//!
//! A format answers one question, where a byte of the disk lies ([`Layout`]); reading, writing and
//! walking are done here, once for all formats. Writes go to the device below, which is an overlay
//! whenever anything is edited: this file decides where they land, never whether they may.

use std::{ops::Range, sync::Arc};

use super::TO_RAW;
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
    /// The file has room at this offset, but the disk shows what is below, or zeros, until
    /// [`Layout::reveal`].
    Hidden(u64),
    /// The file has no room for it: the disk shows what is below, or zeros.
    Absent,
    /// The file has no room for it: the disk shows zeros, whatever is below.
    Zero,
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

    /// Makes the hidden bytes `at..at + len` of the disk, and what cannot be shown without them,
    /// come from the file. The disk shows the same as before.
    fn reveal(&self, at: u64, len: u64) -> Result<()>;

    /// The disk that shows through where this one has nothing: the parent's. It may be shorter.
    fn below(&self) -> Option<&Device> {
        None
    }

    /// Puts into the file what was so far done in memory only (a log's replay): before the first
    /// edit. After it, the file is opened anew.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Makes true what the format says about the disk's contents (identifiers, sequence numbers):
    /// after the last edit, once.
    fn seal(&self) -> Result<()> {
        Ok(())
    }

    /// The parts of a range of the file that neither the disk nor the format needs.
    fn loose(&self, _file: &Range<u64>) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Disk to file: where the byte lies, shown or hidden.
    fn file_offset(&self, disk: u64) -> Option<u64>;

    /// File to disk, if the disk shows that byte of the file.
    fn disk_offset(&self, file: u64) -> Option<u64>;

    /// The ranges of the disk that lie in a range of the file, shown or hidden, in any order.
    fn disk_ranges(&self, file: &Range<u64>) -> Vec<Range<u64>>;

    /// Where neighbours on the disk are none in the file.
    fn seams(&self) -> Vec<u64>;
}

/// Where the offsets of bytes that no byte of the file shows begin; see [`Places::hit_offset`].
pub const BELOW: u64 = 1 << 63;

/// The way between offsets of the disk and offsets of the file.
#[derive(Clone, Debug, Default)]
pub struct Places(Way);

#[derive(Clone, Debug, Default)]
enum Way {
    #[default]
    Same,
    By(Arc<dyn Layout>),
    None,
}

impl Places {
    /// The ways of a layout; the default is the same offset in both.
    #[must_use]
    pub fn of(layout: Arc<dyn Layout>) -> Self {
        Self(Way::By(layout))
    }

    /// No way: the file's bytes are not the disk's. Searches are made on the disk, so that its
    /// offsets take the place of the file's.
    #[must_use]
    pub fn none() -> Self {
        Self(Way::None)
    }

    fn layout(&self) -> Option<&dyn Layout> {
        match &self.0 {
            Way::By(layout) => Some(layout.as_ref()),
            Way::Same | Way::None => None,
        }
    }

    /// Disk to file, if the file has room for that byte.
    #[must_use]
    pub fn file_offset(&self, disk: u64) -> Option<u64> {
        match &self.0 {
            Way::By(layout) => layout.file_offset(disk),
            Way::Same => Some(disk),
            Way::None => None,
        }
    }

    /// Where a search finds a byte of the disk: at its offset in the file; or, where the disk shows
    /// what is below, beyond every file, from [`BELOW`] on. [`Self::disk_offset`] knows the way back.
    #[must_use]
    pub fn hit_offset(&self, disk: u64) -> Option<u64> {
        let covered = self.layout().filter(|layout| layout.below().is_some());
        let shown = covered.map(|layout| layout.extent(disk).map(|extent| extent.place));
        match shown {
            Some(Ok(Place::Hidden(_) | Place::Absent)) => BELOW.checked_add(disk),
            _ => self.file_offset(disk),
        }
    }

    /// File to disk, if the disk shows that byte.
    #[must_use]
    pub fn disk_offset(&self, file: u64) -> Option<u64> {
        if file >= BELOW {
            return file.checked_sub(BELOW);
        }
        match &self.0 {
            Way::By(layout) => layout.disk_offset(file),
            Way::Same | Way::None => Some(file),
        }
    }

    /// Ranges of the file as ranges of the disk: ascending, merged where they touch.
    #[must_use]
    pub fn disk_ranges(&self, file: &[Range<u64>]) -> Vec<Range<u64>> {
        let Some(layout) = self.layout() else {
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

    /// As [`Layout::settle`].
    pub fn settle(&self) -> Result<()> {
        self.layout().map_or(Ok(()), |layout| layout.settle())
    }

    /// As [`Layout::seal`].
    pub fn seal(&self) -> Result<()> {
        self.layout().map_or(Ok(()), |layout| layout.seal())
    }

    /// Whether nobody needs any byte of this range of the file: zeros may take its place.
    #[must_use]
    pub fn is_loose(&self, file: &Range<u64>) -> bool {
        let Some(layout) = self.layout().filter(|_| file.end < BELOW) else {
            return false;
        };
        let mut parts = layout.loose(file);
        parts.sort_unstable_by_key(|part| part.start);
        let mut at = file.start;
        for part in parts {
            if part.start > at {
                return false;
            }
            at = at.max(part.end);
        }
        at >= file.end
    }

    /// Offsets of the disk where a search of the file cannot look across.
    #[must_use]
    pub fn seams(&self) -> Vec<u64> {
        self.layout().map_or_else(Vec::new, |layout| layout.seams())
    }
}

/// The disk that a layout describes.
#[derive(Debug)]
pub struct Mapped {
    host: Device,
    layout: Arc<dyn Layout>,
}

/// What is left of a range without those that are taken.
pub(super) fn without(
    range: &Range<u64>,
    taken: impl Iterator<Item = Range<u64>>,
) -> Vec<Range<u64>> {
    let mut taken: Vec<Range<u64>> = taken
        .filter(|other| other.start < range.end && range.start < other.end)
        .collect();
    taken.sort_unstable_by_key(|other| other.start);
    let mut left = Vec::new();
    let mut at = range.start;
    for other in taken {
        if at < other.start {
            left.push(at..other.start);
        }
        at = at.max(other.end);
    }
    if at < range.end {
        left.push(at..range.end);
    }
    left
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

    /// What the disk shows at `at` where the file has nothing to say: the disk below, or zeros.
    fn read_below(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let Some(below) = self.layout.below() else {
            buf.fill(0);
            return Ok(());
        };
        let there = below.len().saturating_sub(at).min(wide(buf.len()));
        let there = usize::try_from(there).unwrap_or(0);
        let (shown, behind) = buf
            .split_at_mut_checked(there)
            .ok_or_else(|| Error::internal("disk: a piece leaves the buffer"))?;
        behind.fill(0);
        match shown.is_empty() {
            true => Ok(()),
            false => below.read_at(at, shown),
        }
    }

    /// Zeros over what a disk below shows.
    fn write_zeros(&self, at: u64, len: u64) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let end = at.saturating_add(len);
        let mut from = at;
        while from < end {
            let take = end.saturating_sub(from).min(STEP);
            self.write_at(from, &vec![0; usize::try_from(take).unwrap_or(0)])?;
            from = from.saturating_add(take);
        }
        Ok(())
    }

    /// Whether the disk shows these bytes at `at`, where the file has nothing to say.
    fn shows(&self, at: u64, bytes: &[u8]) -> Result<bool> {
        if self.layout.below().is_none() {
            return Ok(all_zero(bytes));
        }
        let mut now = vec![0; bytes.len()];
        self.read_below(at, &mut now)?;
        Ok(now == bytes)
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
            let (place, here, take) = piece?;
            let take =
                usize::try_from(take).map_err(|_| Error::internal("disk: a piece too long"))?;
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .ok_or_else(|| Error::internal("disk: a piece leaves the buffer"))?;
            match place {
                Place::File(at) => self.host.read_at(at, now)?,
                Place::Hidden(_) | Place::Absent => self.read_below(here, now)?,
                Place::Zero => now.fill(0),
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
            let shown = match place {
                Place::File(_) | Place::Hidden(_) => true,
                Place::Absent => self.shows(at, new)?,
                Place::Zero => all_zero(new),
            };
            if !shown {
                return Err(Error::refused(format!(
                    "container: an allocated block expected where {take} bytes are to be written, \
                     found none"
                ))
                .at("disk offset", format_args!("{at:#x}"))
                .advise(TO_RAW));
            }
        }
        for piece in self.pieces(offset, len) {
            let (place, at, take) = piece?;
            let new = part(bytes, at.saturating_sub(offset), take)?;
            match place {
                Place::File(to) => self.host.write_at(to, new)?,
                Place::Hidden(to) if !self.shows(at, new)? => {
                    self.layout
                        .reveal(at, take)
                        .at("image offset", format_args!("{to:#x}"))?;
                    self.host.write_at(to, new)?;
                }
                // It shows that already.
                Place::Hidden(_) | Place::Absent | Place::Zero => {}
            }
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_inside(offset, len)?;
        for piece in self.pieces(offset, len) {
            let (place, at, take) = piece?;
            match place {
                Place::File(to) => self.host.zero_at(to, take)?,
                Place::Hidden(_) | Place::Absent if self.layout.below().is_some() => {
                    self.write_zeros(at, take)?;
                }
                Place::Hidden(_) | Place::Absent | Place::Zero => {}
            }
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let rest = self.len().saturating_sub(from);
        for piece in self.pieces(from, rest) {
            let (place, here, len) = piece?;
            // Holes of the host inside a block are skipped, too.
            let (data, at) = match (place, self.layout.below()) {
                (Place::File(at), _) => (self.host.next_data(at)?, at),
                (Place::Hidden(_) | Place::Absent, Some(below)) => (below.next_data(here)?, here),
                _ => continue,
            };
            let Some(data) = data else { continue };
            let end = at.saturating_add(len);
            let (start, stop) = (data.start.max(at), data.end.min(end));
            if start < stop {
                let disk = |file: u64| here.saturating_add(file.saturating_sub(at));
                return Ok(Some(disk(start)..disk(stop)));
            }
        }
        Ok(None)
    }
}
