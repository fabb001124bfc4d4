//! Transaction logs: what a hive is once the write that was interrupted is finished.
//!
//! In: the bytes of a primary file and of the logs beside it. Out: [`Opened`]. Everything happens in
//! memory; the primary's bytes are copied once, and only when a log applies (twice for a moment when
//! its base block is damaged and it has two logs).
//!
//! Two rules decide every doubt:
//! 1. A log that Windows ignores (empty, damaged header, older than the primary) is ignored, and said
//!    to be; so is everything behind the last whole entry.
//! 2. Nothing is ever put together that was never there: a log that Windows might apply but that
//!    does not look like this hive's, logs that contradict each other, entries known to be missing
//!    in front of the ones at hand, bins that do not follow one another afterwards: refused.

mod format;
mod header;
mod marvin;
mod new;
mod old;
mod replay;

use std::ops::Range;

use super::{
    format::{BASE_LEN, base, count},
    read::{State, checksum, read_base},
};
use crate::{
    bytes::{View, put},
    error::{Error, Result},
};

/// What opening a hive with its logs gave. Never a boolean "dirty".
#[derive(Debug)]
pub enum Opened {
    /// The primary file is clean. Its logs, if any, are stale and were not applied.
    Clean {
        /// Each log, in the order given.
        logs: Vec<LogReport>,
    },
    /// It was dirty, and this is what Windows would see.
    Replayed {
        /// The whole file, both sequence numbers equal and the checksum right. Longer than the
        /// primary file if the hive has grown, never shorter.
        bytes: Vec<u8>,
        /// What was done.
        replay: Replay,
    },
    /// It is dirty, and no log applies, or the logs cannot be trusted.
    Refused {
        /// Why; of kind [`Refused`](crate::error::Kind::Refused).
        why: Error,
        /// Each log, in the order given.
        logs: Vec<LogReport>,
    },
}

/// What a replay did.
#[derive(Debug)]
pub struct Replay {
    /// What was wrong with the primary file.
    pub state: State,
    /// The format of the logs applied.
    pub format: LogFormat,
    /// The log whose copy of the base block was taken, because the primary's was damaged.
    pub base_block_from: Option<String>,
    /// The sequence numbers of the result.
    pub sequence: u32,
    /// Length of the primary file.
    pub len_before: u64,
    /// Length of the result: more than `len_before` if the hive has grown out of its file.
    pub len_after: u64,
    /// Length of bins as the primary's base block has it; meaningless when that is damaged.
    pub bins_len_before: u32,
    /// Length of bins of the result.
    pub bins_len_after: u32,
    /// Each log, in the order given.
    pub logs: Vec<LogReport>,
}

impl Replay {
    /// Number of log entries applied; a log of the old format counts as one.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.applied().fold(0, |sum, _| sum.saturating_add(1))
    }

    /// Number of pages written, each as often as it was.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.applied()
            .fold(0, |sum, entry| sum.saturating_add(u64::from(entry.pages)))
    }

    fn applied(&self) -> impl Iterator<Item = &AppliedEntry> {
        self.logs.iter().flat_map(|log| match &log.fate {
            Fate::Applied { entries, .. } => entries.as_slice(),
            _ => &[],
        })
    }
}

/// The two families of transaction logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Dirty vector and pages: NT 4.0 to 8.0 (file types 1 and 2).
    Old,
    /// Entries with sequence numbers and hashes: 8.1 and later (file type 6).
    New,
}

/// One log and what became of it.
#[derive(Debug)]
pub struct LogReport {
    /// As given by the caller.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// The format, if the header is valid.
    pub format: Option<LogFormat>,
    /// The sequence number of the header, if that is valid.
    pub sequence: Option<u32>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a log.
#[derive(Debug)]
pub enum Fate {
    /// No bytes, or only zeroes: nothing to apply.
    Empty,
    /// Not a valid log; Windows ignores it, too. Says what is wrong with it.
    Unusable(Error),
    /// A valid log of writes that the primary file already has, or of a hive that is clean.
    Stale(String),
    /// A valid log that does not follow what was applied; says why.
    NotUsed(String),
    /// Applied.
    Applied {
        /// What was applied, in order.
        entries: Vec<AppliedEntry>,
        /// Why nothing more was: an old or torn entry behind the last one is normal.
        end: String,
    },
}

/// An applied entry; a log of the old format is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Its sequence number.
    pub sequence: u32,
    /// Where it begins in the log, in bytes.
    pub log_offset: u64,
    /// Number of pages.
    pub pages: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Length of bins after it.
    pub bins_len: u32,
}

/// Bytes for one place of the bins.
#[derive(Clone, Copy, Debug)]
struct Page<'a> {
    /// From the first bin on.
    at: usize,
    bytes: &'a [u8],
}

impl Page<'_> {
    fn end(&self) -> Option<usize> {
        self.at.checked_add(self.bytes.len())
    }
}

/// Opens a hive with the logs beside it: `.LOG`, `.LOG1`, `.LOG2`, in any order, each with a name for
/// messages. What is no hive, or of a version that is not handled, is an error; what cannot be
/// finished safely is [`Opened::Refused`]. Memory: the primary, plus at most the logs.
pub fn open(primary: &[u8], logs: &[(&str, &[u8])]) -> Result<Opened> {
    let view = View::new(primary, "hive header").sub(0, BASE_LEN, "hive header")?;
    let (stored, computed) = (view.u32(base::CHECKSUM)?, checksum(primary));
    // Behind a wrong checksum any field may be wrong: only the signature is believed.
    if view.get(0, 4)? == b"regf" && stored != computed {
        let state = State::BadChecksum { stored, computed };
        return replay::finish(primary, None, state, logs);
    }
    let (header, state) = read_base(primary)?;
    if state == State::Clean {
        let logs = logs.iter().map(|log| replay::describe(*log)).collect();
        return Ok(Opened::Clean { logs });
    }
    replay::finish(primary, Some(&header), state, logs)
}

/// Makes an edited replayed hive a primary file that needs no log: both sequence numbers are one
/// more than the last log entry's (as Windows leaves them), the checksum is right. `space` is the
/// number of bytes that the file can hold where it lies. An error changes nothing.
pub fn seal(bytes: &mut [u8], replay: &Replay, space: u64) -> Result<()> {
    let len = count(bytes.len());
    if len != replay.len_after {
        return Err(Error::internal(format!(
            "hive: {} bytes expected, as replayed, found {len}",
            replay.len_after
        )));
    }
    if len > space {
        return Err(Error::refused(format!(
            "hive: a file of at most {space} bytes expected, found {len} after the replay of its log"
        ))
        .advise("start and shut down Windows once on the master, then capture it again"));
    }
    // The parse refuses what is no primary file, before anything is changed.
    read_base(bytes)?;
    let next = replay.sequence.wrapping_add(1).to_le_bytes();
    for at in [base::SEQ1, base::SEQ2] {
        put(bytes, at, &next, "hive header")?;
    }
    let sum = checksum(bytes).to_le_bytes();
    put(bytes, base::CHECKSUM, &sum, "hive header")
}

/// Declares a dirty primary file finished as it is, although no log finishes it: both sequence
/// numbers are those of the write that was interrupted, the checksum is right. An error changes
/// nothing.
pub fn settle(bytes: &mut [u8]) -> Result<()> {
    let (header, _) = read_base(bytes)?;
    put(bytes, base::SEQ2, &header.seq1.to_le_bytes(), "hive header")?;
    let sum = checksum(bytes).to_le_bytes();
    put(bytes, base::CHECKSUM, &sum, "hive header")
}

/// What has to be written over `old` to make it `new`: sorted ranges of 512-byte sectors, neighbours
/// joined, the last one cut to the length of `new`. What `new` has more than `old` is one of them.
#[must_use]
pub fn differences(old: &[u8], new: &[u8]) -> Vec<Range<u64>> {
    const STEP: usize = 512;
    let mut out: Vec<Range<u64>> = Vec::new();
    let mut at = 0_u64;
    let mut old = old.chunks(STEP);
    for sector in new.chunks(STEP) {
        let end = at.saturating_add(count(sector.len()));
        let is_same = old
            .next()
            .and_then(|old| old.get(..sector.len()))
            .is_some_and(|old| old == sector);
        if !is_same {
            match out.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => out.push(at..end),
            }
        }
        at = end;
    }
    out
}
