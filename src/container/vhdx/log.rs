//! The log: a ring of entries that say what metadata looks like once all of it is written.
//!
//! # Why
//! - **Replayed over the file, in memory.** What reads the disk sees it as the next Hyper-V would
//!   after its own replay; nothing is written before a clean decides to.
//! - **A file that had to grow is looked at only.** Blocks behind its end are zeros by the
//!   specification; declone does not make files longer.

use std::{ops::Range, sync::Arc};

use super::{
    facts,
    header::{Guid, Header, checksum},
};
use crate::{
    bytes::{View, put},
    device::{BlockDevice, Device, Overlay, Page},
    error::{At, Error, Result},
};

/// Longest log that is read. Hyper-V, Disk2vhd and qemu make logs of 1 MiB.
const LOG_LIMIT: u64 = 64 << 20;
/// Most bytes of zeros that a log may write: what it holds is metadata.
const ZEROS_LIMIT: u64 = 1 << 30;
/// How many times the log's length is summed up while entries are looked for.
const SUM_LIMIT: u64 = 16;
const SECTOR: u64 = 4096;

/// What was found in the log.
#[derive(Debug)]
pub(super) enum Log {
    /// Nothing to do.
    Empty,
    /// Entries, replayed in memory.
    Replayed(Replayed),
    /// The header says that there are entries, and there are none.
    Lost,
}

/// A file as it is after the replay of its log. It is read, never written.
#[derive(Debug)]
pub(super) struct Replayed {
    pages: Arc<Overlay>,
    /// How many entries there were.
    pub(super) entries: usize,
    /// How long the file must be.
    pub(super) needed: u64,
}

/// A file with zeros behind it.
#[derive(Debug)]
struct Longer {
    file: Device,
    len: u64,
}

impl BlockDevice for Longer {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let there = self.file.len().saturating_sub(offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        let (bytes, zeros) = buf
            .split_at_mut_checked(there)
            .ok_or_else(|| Error::internal("VHDX log: a piece leaves the buffer"))?;
        zeros.fill(0);
        match bytes.is_empty() {
            true => Ok(()),
            false => self.file.read_at(offset, bytes),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        match from < self.file.len() {
            true => self.file.next_data(from),
            false => Ok(None),
        }
    }
}

/// Reads only: what is written to a replay would be lost.
#[derive(Debug)]
struct ReadOnly(Arc<Overlay>);

impl BlockDevice for ReadOnly {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        self.0.next_data(from)
    }
}

/// An entry with a right checksum.
#[derive(Clone, Debug)]
struct Entry {
    /// Where it begins in the log.
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    flushed: u64,
    last: u64,
}

struct Ring {
    bytes: Vec<u8>,
    guid: Guid,
    /// Bytes that may still be summed up.
    budget: u64,
    /// What was found at each sector.
    seen: Vec<Option<Option<Entry>>>,
}

impl Ring {
    fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(0)
    }

    fn wrap(&self, at: u64) -> u64 {
        at.checked_rem(self.len()).unwrap_or(0)
    }

    /// `len` bytes at `at`, around the end.
    fn piece(&self, at: u64, len: u64) -> Vec<u8> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(0);
        let behind = self.bytes.get(at..).unwrap_or_default();
        behind
            .iter()
            .chain(&self.bytes)
            .take(len)
            .copied()
            .collect()
    }

    /// The entry at a sector, if there is a valid one.
    fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        let index = usize::try_from(at / SECTOR).unwrap_or(usize::MAX);
        if let Some(Some(known)) = self.seen.get(index) {
            return Ok(known.clone());
        }
        let entry = self.look(at)?;
        if let Some(place) = self.seen.get_mut(index) {
            *place = Some(entry.clone());
        }
        Ok(entry)
    }

    fn look(&mut self, at: u64) -> Result<Option<Entry>> {
        let head = self.piece(at, SECTOR);
        let view = View::new(&head, "VHDX log entry");
        let len = u64::from(view.u32(facts::ENTRY_SIZE)?);
        let tail = u64::from(view.u32(facts::ENTRY_TAIL)?);
        let sequence = view.u64(facts::ENTRY_SEQUENCE)?;
        let good = view.get(0, facts::ENTRY.len())? == facts::ENTRY
            && view.array(facts::ENTRY_GUID)? == self.guid.0
            && len > 0
            && len.is_multiple_of(SECTOR)
            && len <= self.len()
            && tail.is_multiple_of(SECTOR)
            && tail < self.len()
            && sequence > 0;
        if !good {
            return Ok(None);
        }
        self.budget = self.budget.checked_sub(len).ok_or_else(|| {
            Error::limit(
                "VHDX log: entries beside each other expected, found too many in one place",
            )
        })?;
        let bytes = self.piece(at, len);
        let view = View::new(&bytes, "VHDX log entry");
        if view.u32(facts::CHECKSUM)? != checksum(&bytes, facts::CHECKSUM)
            || steps(&view, sequence).is_err()
        {
            return Ok(None);
        }
        Ok(Some(Entry {
            at,
            len,
            tail,
            sequence,
            flushed: view.u64(facts::ENTRY_FLUSHED)?,
            last: view.u64(facts::ENTRY_LAST)?,
        }))
    }

    /// The active sequence, oldest entry first: of all runs of entries with consecutive numbers
    /// that reach back to the tail of their last entry, the one with the highest number.
    fn active(&mut self) -> Result<Vec<Entry>> {
        let mut best: Vec<Entry> = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let mut run: Vec<Entry> = Vec::new();
            let mut used = 0_u64;
            let mut at = start;
            while let Some(entry) = self.entry(at)? {
                let follows = run
                    .last()
                    .is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
                used = used.saturating_add(entry.len);
                if !follows || used > self.len() {
                    break;
                }
                at = self.wrap(at.saturating_add(entry.len));
                run.push(entry);
            }
            let head = run.last().map(|head| (head.sequence, head.tail));
            let from = head.and_then(|(_, tail)| run.iter().position(|entry| entry.at == tail));
            match (head, from) {
                (Some((sequence, _)), Some(from)) => {
                    if best.last().is_none_or(|known| sequence > known.sequence) {
                        best = run.split_off(from);
                    }
                    // Around the end of the ring: every start was seen.
                    start = if at > start { at } else { self.len() };
                }
                _ => start = start.saturating_add(SECTOR),
            }
        }
        Ok(best)
    }
}

/// What an entry does.
enum Step {
    Zeros { at: u64, len: u64 },
    Sector { at: u64, bytes: Vec<u8> },
}

/// The steps of an entry, checked among themselves.
fn steps(view: &View<'_>, sequence: u64) -> Result<Vec<Step>> {
    let wrong =
        || Error::malformed("VHDX log entry: descriptors of its own expected, found others");
    let count = usize::try_from(view.u32(facts::ENTRY_COUNT)?).map_err(|_| wrong())?;
    let end = count
        .checked_mul(facts::DESCRIPTOR_LEN)
        .and_then(|len| len.checked_add(facts::ENTRY_DESCRIPTORS))
        .filter(|end| *end <= view.len())
        .ok_or_else(wrong)?;
    let mut data_at = end.next_multiple_of(facts::LOG_SECTOR);
    let mut out = Vec::new();
    for number in 0..count {
        let at = number
            .saturating_mul(facts::DESCRIPTOR_LEN)
            .saturating_add(facts::ENTRY_DESCRIPTORS);
        let one = view.sub(at, facts::DESCRIPTOR_LEN, "VHDX log descriptor")?;
        let target = one.u64(facts::TARGET)?;
        if one.u64(facts::TARGET_SEQUENCE)? != sequence || !target.is_multiple_of(SECTOR) {
            return Err(wrong());
        }
        let kind = one.get(0, facts::DATA.len())?;
        if kind == facts::ZEROS {
            let len = one.u64(8)?;
            if !len.is_multiple_of(SECTOR) {
                return Err(wrong());
            }
            out.push(Step::Zeros { at: target, len });
        } else if kind == facts::DATA {
            let sector = view.sub(data_at, facts::LOG_SECTOR, "VHDX log data sector")?;
            let high = u64::from(sector.u32(4)?);
            let low = u64::from(sector.u32(facts::LOG_SECTOR.saturating_sub(4))?);
            let magic = sector.get(0, facts::SECTOR_DATA.len())?;
            if magic != facts::SECTOR_DATA || (high << 32 | low) != sequence {
                return Err(wrong());
            }
            let mut bytes = sector.bytes().to_vec();
            put(&mut bytes, 0, one.get(8, 8)?, "VHDX log data sector")?;
            let end = facts::LOG_SECTOR.saturating_sub(4);
            put(&mut bytes, end, one.get(4, 4)?, "VHDX log data sector")?;
            out.push(Step::Sector { at: target, bytes });
            data_at = data_at.saturating_add(facts::LOG_SECTOR);
        } else {
            return Err(wrong());
        }
    }
    Ok(out)
}

/// Reads the log that a header names, and replays it in memory.
pub(super) fn read(host: &Device, header: &Header) -> Result<Log> {
    if header.log == Guid::ZERO {
        return Ok(Log::Empty);
    }
    if header.log_version != 0 {
        return Err(Error::unsupported(format!(
            "VHDX log: version 0 expected, found {}",
            header.log_version
        )));
    }
    let place = &header.log_place;
    let len = place.end.saturating_sub(place.start);
    if len > LOG_LIMIT {
        return Err(Error::limit(format!(
            "VHDX log: at most {LOG_LIMIT} bytes expected, found {len}"
        )));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    host.read_at(place.start, &mut bytes)
        .at("image offset", format_args!("{:#x}", place.start))?;
    let sectors = bytes.len() / facts::LOG_SECTOR;
    let mut ring = Ring {
        bytes,
        guid: header.log,
        budget: len.saturating_mul(SUM_LIMIT),
        seen: vec![None; sectors],
    };
    let active = ring
        .active()
        .at("image offset", format_args!("{:#x}", place.start))?;
    let Some(head) = active.last() else {
        return Ok(Log::Lost);
    };
    if head.flushed > host.len() {
        return Err(Error::malformed(format!(
            "VHDX log: a file of at least {} bytes expected, found one of {}: it was cut",
            head.flushed,
            host.len()
        ))
        .at(
            "image offset",
            format_args!("{:#x}", place.start.saturating_add(head.at)),
        ));
    }
    let needed = active.iter().map(|entry| entry.last).max().unwrap_or(0);
    let needed = needed.max(host.len());
    let longer: Device = match needed > host.len() {
        true => Arc::new(Longer {
            file: Arc::clone(host),
            len: needed,
        }),
        false => Arc::clone(host),
    };
    let pages = Arc::new(Overlay::new(longer));
    let mut zeros = 0_u64;
    for entry in &active {
        let here = place.start.saturating_add(entry.at);
        replay(&ring, entry, &pages, place, &mut zeros)
            .at("image offset", format_args!("{here:#x}"))?;
    }
    Ok(Log::Replayed(Replayed {
        pages,
        entries: active.len(),
        needed,
    }))
}

fn replay(
    ring: &Ring,
    entry: &Entry,
    pages: &Overlay,
    log: &Range<u64>,
    zeros: &mut u64,
) -> Result<()> {
    let bytes = ring.piece(entry.at, entry.len);
    // Headers and the log itself are never written by the log.
    let fixed = facts::REGIONS.first().copied().unwrap_or(0);
    let check = |at: u64, len: u64| match at.checked_add(len) {
        Some(end) if at >= fixed && end <= pages.len() && !(at < log.end && log.start < end) => {
            Ok(())
        }
        _ => Err(Error::malformed(format!(
            "VHDX log: {len} bytes behind the headers, outside the log and before {:#x} expected, \
             found them at {at:#x}",
            pages.len()
        ))),
    };
    for step in steps(&View::new(&bytes, "VHDX log entry"), entry.sequence)? {
        match step {
            Step::Zeros { at, len } => {
                check(at, len)?;
                *zeros = zeros.saturating_add(len);
                if *zeros > ZEROS_LIMIT {
                    return Err(Error::limit(format!(
                        "VHDX log: at most {ZEROS_LIMIT} bytes of zeros expected, found more"
                    )));
                }
                pages.zero_at(at, len)?;
            }
            Step::Sector { at, bytes } => {
                check(at, SECTOR)?;
                pages.write_at(at, &bytes)?;
            }
        }
    }
    Ok(())
}

impl Replayed {
    /// The file after the replay.
    pub(super) fn view(&self) -> Device {
        Arc::new(ReadOnly(Arc::clone(&self.pages)))
    }

    /// Writes what the replay changed into the file.
    pub(super) fn write(&self, host: &Device) -> Result<()> {
        for patch in self.pages.diff()? {
            match patch.page {
                Page::Zero => host.zero_at(patch.offset, patch.len)?,
                Page::Data(bytes) => host.write_at(patch.offset, &bytes)?,
            }
        }
        Ok(())
    }
}
