//! A disk as runs of bytes in the file: what the tables of most formats come down to.
//!
//! # Why
//! - **All tables are read when the image is opened**, and kept as runs: eight bytes of table for a
//!   cluster of 64 KiB are 12 MiB for a full disk of 100 GB, and neighbours mostly lie together. So
//!   every entry is checked before anything is believed, the way back from the file to the disk is
//!   there, and nothing is read twice. A virtual size costs nothing, only what is allocated does.

use std::{ops::Range, sync::Arc};

use super::{
    ScanOnly,
    mapped::{Extent, Layout, Place, without},
};
use crate::{
    device::Device,
    error::{Error, Result},
};

/// Most runs that are kept: a disk of 1 TiB in pieces of 128 KiB.
const RUNS_LIMIT: usize = 8 << 20;

/// Bytes of the disk that lie together.
#[derive(Clone, Copy, Debug)]
struct Run {
    disk: u64,
    /// Where in the file; zeros if nowhere.
    file: Option<u64>,
    len: u64,
}

impl Run {
    fn disk_end(&self) -> u64 {
        self.disk.saturating_add(self.len)
    }
}

/// The runs of a disk.
#[derive(Debug, Default)]
pub(super) struct Runs {
    len: u64,
    /// Ascending on the disk.
    runs: Vec<Run>,
    /// Those in the file, ascending there: place, number of the run.
    order: Vec<(u64, u32)>,
    /// What the format keeps for itself, ascending in the file, without overlaps.
    own: Vec<Range<u64>>,
}

impl Runs {
    /// A disk of this length, with nothing in it.
    pub(super) fn new(len: u64) -> Self {
        Self {
            len,
            ..Self::default()
        }
    }

    /// The bytes at `disk` lie at `file`, or are zeros. What is behind the end of the disk is cut.
    pub(super) fn push(&mut self, disk: u64, file: Option<u64>, len: u64) -> Result<()> {
        let len = len.min(self.len.saturating_sub(disk));
        if len == 0 {
            return Ok(());
        }
        if let Some(last) = self.runs.last_mut() {
            if last.disk_end() > disk {
                return Err(Error::internal("container: runs out of order"));
            }
            let follows = match (last.file, file) {
                (Some(before), Some(at)) => before.checked_add(last.len) == Some(at),
                (None, None) => true,
                _ => false,
            };
            if follows && last.disk_end() == disk {
                last.len = last.len.saturating_add(len);
                return Ok(());
            }
        }
        if self.runs.len() >= RUNS_LIMIT {
            return Err(Error::limit(format!(
                "container: a disk in at most {RUNS_LIMIT} pieces expected, found more"
            ))
            .advise("convert the image: a copy is in one piece (qemu-img convert)"));
        }
        self.runs.push(Run { disk, file, len });
        Ok(())
    }

    /// Orders the runs by their place in the file, and holds them against what is the format's own:
    /// `Malformed` if they meet it, or if two of its parts meet. Two runs in one place are an answer.
    pub(super) fn settle(
        &mut self,
        what: &str,
        mut own: Vec<Range<u64>>,
    ) -> Result<Option<ScanOnly>> {
        own.retain(|part| part.start < part.end);
        own.sort_unstable_by_key(|part| (part.start, part.end));
        for pair in own.windows(2) {
            if let [a, b] = pair
                && a.end > b.start
            {
                return Err(Error::malformed(format!(
                    "{what}: a place of its own for each table expected, found two that meet"
                ))
                .at("image offset", format_args!("{:#x}", b.start)));
            }
        }
        self.order = (0_u32..)
            .zip(&self.runs)
            .filter_map(|(number, run)| Some((run.file?, number)))
            .collect();
        self.order.sort_unstable();
        self.own = own;
        let mut twice = None;
        let mut end = 0;
        for (at, number) in &self.order {
            let Some(place) = self.place(*at, *number) else {
                continue;
            };
            if let Some(part) = self.own_in(&place).next() {
                return Err(Error::malformed(format!(
                    "{what}: data in a place of its own expected, found it on a table at {:#x}",
                    part.start
                ))
                .at("image offset", format_args!("{at:#x}")));
            }
            if *at < end {
                twice.get_or_insert_with(|| ScanOnly {
                    reason: format!(
                        "{what}: a place for each piece of the disk expected, found two in one \
                         (image offset {at:#x})"
                    ),
                    advice: "the file is damaged: restore it from a backup",
                });
            }
            end = end.max(place.end);
        }
        Ok(twice)
    }

    /// What else must stay as it is. Parts may meet what is known.
    pub(super) fn keep(&mut self, more: impl IntoIterator<Item = Range<u64>>) {
        let mut all = std::mem::take(&mut self.own);
        all.extend(more);
        all.sort_unstable_by_key(|part| part.start);
        for part in all {
            match self.own.last_mut() {
                Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
                _ => self.own.push(part),
            }
        }
    }

    /// The pieces of the file that the disk shows, ascending.
    pub(super) fn places(&self) -> impl Iterator<Item = Range<u64>> {
        self.order
            .iter()
            .filter_map(|(at, number)| self.place(*at, *number))
    }

    /// All runs: where on the disk, where in the file, how long.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Option<u64>, u64)> {
        self.runs.iter().map(|run| (run.disk, run.file, run.len))
    }

    /// What the format keeps for itself.
    pub(super) fn own(&self) -> impl Iterator<Item = Range<u64>> {
        self.own.iter().cloned()
    }

    fn get(&self, number: u32) -> Option<&Run> {
        self.runs.get(usize::try_from(number).ok()?)
    }

    fn place(&self, at: u64, number: u32) -> Option<Range<u64>> {
        Some(at..at.saturating_add(self.get(number)?.len))
    }

    /// The format's own parts that meet this range.
    fn own_in(&self, file: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let from = self.own.partition_point(|part| part.end <= file.start);
        let end = file.end;
        self.own
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |part| part.start < end)
            .cloned()
    }

    /// The runs that meet this range of the file. Runs do not overlap where anything is written:
    /// only the one before may still reach in.
    fn runs_in(&self, file: &Range<u64>) -> impl Iterator<Item = (Range<u64>, &Run)> {
        let from = self
            .order
            .partition_point(|(at, _)| *at <= file.start)
            .saturating_sub(1);
        let (start, end) = (file.start, file.end);
        self.order
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(at, _)| *at < end)
            .filter_map(|(at, number)| Some((self.place(*at, *number)?, self.get(*number)?)))
            .filter(move |(place, _)| place.end > start)
    }

    /// As [`Layout::extent`].
    pub(super) fn extent(&self, at: u64) -> Result<Extent> {
        if at >= self.len {
            return Err(Error::malformed(format!(
                "disk: a byte before {:#x} expected, found {at:#x}",
                self.len
            )));
        }
        let next = self.runs.partition_point(|run| run.disk <= at);
        let before = next.checked_sub(1).and_then(|index| self.runs.get(index));
        if let Some(run) = before.filter(|run| run.disk_end() > at) {
            let inside = at.saturating_sub(run.disk);
            return Ok(Extent {
                place: match run.file {
                    Some(file) => Place::File(file.saturating_add(inside)),
                    None => Place::Zero,
                },
                len: run.len.saturating_sub(inside),
            });
        }
        let end = self.runs.get(next).map_or(self.len, |run| run.disk);
        Ok(Extent {
            place: Place::Absent,
            len: end.saturating_sub(at),
        })
    }
}

/// The disk of runs in one file.
#[derive(Debug)]
pub(super) struct Laid {
    /// The file.
    pub(super) host: Device,
    /// The runs, settled.
    pub(super) runs: Runs,
    /// The disk that shows through.
    pub(super) below: Option<Device>,
    /// What the file says of the disk's contents and no longer holds after an edit.
    pub(super) stale: Vec<Stale>,
}

/// A statement about the disk's contents: it is written anew after an edit.
#[derive(Debug)]
pub(super) struct Stale {
    /// Where it stands in the file.
    pub(super) at: u64,
    /// Its bytes.
    pub(super) old: Vec<u8>,
    /// What takes their place: from the old bytes and the digest of what is written.
    pub(super) next: fn(&[u8], &[u8]) -> Vec<u8>,
}

impl Laid {
    /// As a layout.
    pub(super) fn shared(self) -> Arc<dyn Layout> {
        Arc::new(self)
    }
}

impl Layout for Laid {
    fn disk_len(&self) -> u64 {
        self.runs.len
    }

    fn extent(&self, at: u64) -> Result<Extent> {
        self.runs.extent(at)
    }

    fn reveal(&self, _at: u64, _len: u64) -> Result<()> {
        Err(Error::internal("container: nothing is hidden here"))
    }

    fn below(&self) -> Option<&Device> {
        self.below.as_ref()
    }

    fn seal(&self) -> Result<()> {
        let written = self.host.change_digest()?;
        self.stale.iter().try_for_each(|stale| {
            let new = (stale.next)(&stale.old, &written);
            self.host.write_at(stale.at, &new)
        })
    }

    fn loose(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        let shown = self.runs.runs_in(file).map(|(place, _)| place);
        without(file, self.runs.own_in(file).chain(shown))
    }

    fn file_offset(&self, disk: u64) -> Option<u64> {
        match self.runs.extent(disk).ok()?.place {
            Place::File(at) => Some(at),
            _ => None,
        }
    }

    fn disk_offset(&self, file: u64) -> Option<u64> {
        let range = file..file.checked_add(1)?;
        Some(self.disk_ranges(&range).first()?.start)
    }

    fn disk_ranges(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        self.runs
            .runs_in(file)
            .filter_map(|(place, run)| {
                let (start, end) = (place.start.max(file.start), place.end.min(file.end));
                let disk = |at: u64| run.disk.saturating_add(at.saturating_sub(place.start));
                (start < end).then(|| disk(start)..disk(end))
            })
            .collect()
    }

    fn seams(&self) -> Vec<u64> {
        self.runs
            .runs
            .windows(2)
            .filter_map(|pair| match pair {
                [a, b] if a.disk_end() == b.disk && (a.file, b.file) != (None, None) => {
                    Some(b.disk)
                }
                _ => None,
            })
            .collect()
    }
}
