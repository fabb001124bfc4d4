//! Encodes a chunk anew that differs in few bytes from one that is there, so that it does not become longer.
//!
//! All models of LZMS adapt, and code lengths are renewed at every 512th or 1024th symbol. With one symbol more
//! or less every later renewal falls elsewhere, and items that were chosen for the old code lengths cost more by
//! chance: hundreds of bytes in a large chunk, though it holds less. So items stay as they were, down to whether
//! a recent source was said again; and where they could not, the number of symbols of each code is made even
//! again afterwards by items that cost little. From there on every item costs what it cost.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; items lie inside the chunk, `at` stays below its end

use std::{
    ops::Range,
    sync::mpsc::{SyncSender, sync_channel},
};

use super::{
    super::{
        Fault,
        matches::{Finder, Recent, agree},
    },
    read::{Copied, Decoder, Sink, Source},
    write::{BIT, RULES, Writer},
};

/// Pieces of fewer bytes seldom pay.
const SHORTEST: usize = 2;
/// Matches of fewer bytes are not split.
const LONG: usize = 5;

/// When and at what cost the numbers of symbols are made even. Costs in [`BIT`]s.
pub(super) struct Pace {
    /// Bytes behind the last change from which on.
    quiet: usize,
    /// What another item may cost more than the one that was.
    cheap: i64,
    /// What one more match may cost: with its offset, and a literal with a repeat.
    split: i64,
    parted: i64,
    /// What one more literal may cost.
    literal: i64,
}

const PACE: Pace = Pace {
    quiet: 1 << 14,
    cheap: 8 * BIT,
    split: 24 * BIT,
    parted: 100 * BIT,
    literal: 10 * BIT,
};

/// Tried until one does not make the chunk longer: what each of them gives is partly chance.
pub(super) const PACES: [Pace; 4] = [
    PACE,
    Pace {
        parted: 16 * BIT,
        ..PACE
    },
    Pace {
        quiet: 1 << 17,
        split: 16 * BIT,
        parted: 16 * BIT,
        ..PACE
    },
    Pace {
        quiet: 1 << 20,
        ..PACE
    },
];

/// How many more symbols of each code there are than the old chunk had up to here.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Surplus {
    literals: i64,
    offsets: i64,
    lengths: i64,
    /// Offsets of deltas, and powers.
    deltas: i64,
}

/// Which pages of a chunk hold something else: a bit each.
pub(super) struct Pages(Vec<u64>);

/// Their length is 2 to the power of this.
const PAGE_BITS: u32 = 12;

impl Pages {
    pub(super) fn new(len: usize, changed: &[Range<usize>]) -> Self {
        let mut bits = vec![0; (len >> PAGE_BITS) / 64 + 1];
        for range in changed {
            for page in range.start >> PAGE_BITS..=range.end.saturating_sub(1) >> PAGE_BITS {
                bits[page / 64] |= 1 << (page % 64);
            }
        }
        Pages(bits)
    }

    /// Whether any of them is in these ranges, none of which is empty.
    fn any(&self, ranges: &[Range<usize>]) -> bool {
        ranges.iter().any(|range| {
            let mut pages = range.start >> PAGE_BITS..=(range.end - 1) >> PAGE_BITS;
            pages.any(|page| self.0[page / 64] >> (page % 64) & 1 != 0)
        })
    }
}

/// Takes the items of the old chunk, writes those of the new one.
pub(super) struct Follower<'a> {
    data: &'a [u8],
    /// Where the old chunk holds something else.
    changed: &'a [Range<usize>],
    pages: &'a Pages,
    pace: &'a Pace,
    finder: &'a mut Finder,
    writer: Writer<'a>,
    at: usize,
    /// Where the last item of the old chunk ended.
    old_at: usize,
    /// From where on the numbers of symbols are made even.
    settled: usize,
    surplus: Surplus,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        data: &'a [u8],
        (changed, pages): (&'a [Range<usize>], &'a Pages),
        pace: &'a Pace,
        finder: &'a mut Finder,
        writer: Writer<'a>,
    ) -> Self {
        finder.reset();
        Follower {
            data,
            changed,
            pages,
            pace,
            finder,
            writer,
            at: 0,
            old_at: 0,
            settled: 0,
            surplus: Surplus::default(),
        }
    }

    /// At least `least` bytes.
    fn finish(mut self, least: usize) -> Vec<u8> {
        self.run(self.data.len());
        self.writer.finish(least)
    }

    fn literal(&mut self) {
        self.writer.literal(self.data[self.at]);
        self.surplus.literals += 1;
        self.at += 1;
    }

    fn literals(&mut self, until: usize) {
        while self.at < until {
            self.literal();
        }
    }

    fn copied(&mut self, len: usize, source: Source, repeat: bool) {
        let is_said = self.writer.copied(self.at, len, source, repeat);
        match source {
            Source::Lz(_) => self.surplus.offsets += i64::from(is_said),
            Source::Delta(..) => self.surplus.deltas += i64::from(is_said),
        }
        self.surplus.lengths += 1;
        self.at += len;
    }

    /// All bytes that an item is made of, and it itself; maybe those between.
    fn range(&self, item: &Copied) -> [Range<usize>; 2] {
        let (at, end) = (item.at, item.at + item.len);
        let from = match item.source {
            Source::Lz(offset) => at - offset as usize,
            Source::Delta(power, offset) => at - ((offset as usize + 1) << power),
        };
        match item.source {
            Source::Lz(_) => [from..from + item.len, at..end],
            Source::Delta(..) => [from..end, at..end],
        }
    }

    /// For how many bytes from `self.at` (inside of it) on an item gives what the data are.
    fn holds(&self, item: &Copied) -> usize {
        let at = self.at;
        let end = item.at + item.len;
        match item.source {
            Source::Lz(offset) => agree(self.data, at - offset as usize, at, end - at),
            Source::Delta(power, offset) => {
                let span = 1usize << power;
                let distance = (offset as usize) << power;
                let made = |here: usize| {
                    self.data[here - distance]
                        .wrapping_add(self.data[here - span])
                        .wrapping_sub(self.data[here - distance - span])
                };
                (at..end)
                    .take_while(|&here| self.data[here] == made(here))
                    .count()
            }
        }
    }

    /// Whether the numbers of symbols are to be made even here.
    fn is_uneven(&self) -> bool {
        self.at >= self.settled && self.surplus != Surplus::default()
    }

    /// Looks for items anew; the last may go beyond `until`. `item` is what was there.
    fn anew(&mut self, until: usize, item: Option<&Copied>) {
        while self.at < until {
            self.settled = self.at + self.pace.quiet;
            let own = item.map_or(0, |item| self.holds(item));
            let recent = &self.writer.recent;
            let found = self.finder.near(self.data, self.at, &RULES, recent);
            let other = found.map_or(0, |found| found.len as usize);
            match (item, found) {
                (Some(item), _) if own >= SHORTEST && own >= other => {
                    self.copied(own, item.source, true);
                }
                (_, Some(found)) if other >= SHORTEST => {
                    self.copied(other, Source::Lz(found.offset), true);
                }
                _ => self.literal(),
            }
        }
    }

    /// What was literals up to `until`.
    fn run(&mut self, until: usize) {
        self.surplus.literals -= (until - self.old_at) as i64;
        self.old_at = until;
        while self.at < until {
            while self
                .changed
                .first()
                .is_some_and(|range| range.end <= self.at)
            {
                self.changed = &self.changed[1..];
            }
            let next = self.changed.first();
            if next.is_some_and(|range| range.start <= self.at) {
                self.anew(self.at + 1, None);
            } else if !self.is_uneven() || !self.fewer_literals(until) {
                self.literal();
            }
        }
    }

    /// If there are too many, a repeat instead of some of those up to `until`.
    fn fewer_literals(&mut self, until: usize) -> bool {
        const LEN: usize = 3;
        let (at, left) = (self.at, until - self.at);
        // those up to `until` are counted off already
        if left < LEN || self.surplus.literals + left as i64 <= 0 {
            return false;
        }
        let pair = &self.data[at..at + 2];
        let cost: i64 = pair.iter().map(|&b| self.writer.cost_literal(b)).sum();
        for offset in self.writer.recent.offered(at) {
            let back = offset as usize;
            if offset == 0 || back > at {
                continue;
            }
            // as many as of two would go up when a length too many is taken away
            let len = agree(self.data, at - back, at, left);
            let more = self.writer.cost_lz(at, LEN, offset, true) - cost;
            if len >= LEN && more < self.pace.cheap {
                self.copied(len, Source::Lz(offset), true);
                return true;
            }
        }
        false
    }

    /// An item that still holds.
    fn again(&mut self, item: &Copied) {
        let end = item.at + item.len;
        if self.is_uneven() {
            match item.source {
                Source::Lz(offset) => self.evened(item, offset),
                Source::Delta(..) => self.evened_delta(item),
            }
        }
        if self.at < end {
            let is_lz = matches!(item.source, Source::Lz(_));
            // perhaps it is known
            let spared = is_lz && self.surplus.offsets > 0 && self.is_uneven();
            self.copied(end - self.at, item.source, item.repeat || spared);
        }
    }

    /// Writes a delta, or some of it, so that the surplus becomes smaller.
    fn evened_delta(&mut self, item: &Copied) {
        let Surplus {
            lengths, deltas, ..
        } = self.surplus;
        if deltas < 0 && item.len > LONG {
            self.copied(item.len / 2, item.source, item.repeat);
            // the same again must be said
            self.copied(item.len - item.len / 2, item.source, false);
        } else if deltas < 0 {
            self.copied(item.len, item.source, false);
        } else if deltas > 0 && lengths > 0 && !item.repeat && item.len < LONG {
            self.literals(item.at + item.len);
        }
    }

    /// Writes a match, or some of it, so that the surplus becomes smaller, if that costs little.
    fn evened(&mut self, item: &Copied, offset: u32) {
        let Surplus {
            literals,
            offsets,
            lengths,
            deltas,
        } = self.surplus;
        let (at, len, end) = (item.at, item.len, item.at + item.len);
        let writer = &self.writer;
        let bytes = |range: Range<usize>| -> i64 {
            let bytes = self.data[range].iter();
            bytes.map(|&byte| writer.cost_literal(byte)).sum()
        };
        // dear to reckon: only when the rest holds
        let own = || writer.cost_lz(at, len, offset, item.repeat);
        let said = || writer.cost_lz(at, len, offset, false);
        let half = len / 2;
        let wants_length =
            lengths < 0 && literals < 0 || lengths <= 0 && (offsets > 0 || deltas > 0);
        // a match too many: literals
        let dropped = match item.repeat {
            true => lengths > 0 && offsets <= 0 && len <= 2,
            false => lengths > 0 && offsets > 0 && len <= 3,
        };
        if dropped && bytes(at..end) - own() < self.pace.cheap {
            self.literals(end);
        } else if offsets < 0 && lengths < 0 && len >= LONG && said() < self.pace.split {
            self.copied(half, item.source, item.repeat);
            self.copied(end - self.at, item.source, false);
        } else if offsets < 0 && lengths >= 0 && item.repeat && said() - own() < self.pace.cheap {
            self.copied(len, item.source, false);
        } else if offsets >= 0 && wants_length && len >= LONG {
            let cost = writer.cost_match(half) + writer.cost_repeat(0);
            if cost + bytes(at + half..at + half + 1) < self.pace.parted {
                self.copied(half, item.source, item.repeat);
                self.literal();
                self.copied(end - self.at, item.source, true);
            }
        } else if (offsets, lengths, deltas) == (0, 0, 0) && literals < 0 && len > 3 {
            let cut = (len - 3).min(literals.unsigned_abs() as usize);
            if bytes(end - cut..end) < self.pace.literal * cut as i64 {
                self.copied(len - cut, item.source, item.repeat);
                self.literals(end);
            }
        }
    }
}

/// From this length on a second thread is worth its start.
const FAST_FROM: usize = 1 << 20;
/// How many items it hands over at once, and how often it does before it waits.
const BATCH: usize = 1 << 12;
const WAITING: usize = 4;

/// Hands items over to another thread.
struct Batches {
    items: Vec<Copied>,
    to: SyncSender<Vec<Copied>>,
}

impl Batches {
    fn hand_over(&mut self) -> Result<(), Fault> {
        let items = std::mem::replace(&mut self.items, Vec::with_capacity(BATCH));
        // nobody takes them any more: the other thread has failed
        self.to.send(items).map_err(|_| Fault::Truncated)
    }
}

impl Sink for Batches {
    fn literal(&mut self, _at: usize, _byte: u8) {}

    fn copied(&mut self, item: &Copied) -> Result<(), Fault> {
        self.items.push(*item);
        match self.items.len() {
            BATCH => self.hand_over(),
            _ => Ok(()),
        }
    }
}

impl Follower<'_> {
    /// The new chunk, made of the items of `old`; at least as long as that. Large ones are decoded by another
    /// thread meanwhile.
    pub(super) fn follow(mut self, decoder: &mut Decoder, old: &[u8]) -> Result<Vec<u8>, Fault> {
        let size = self.data.len();
        if size < FAST_FROM {
            decoder.walk(old, size, &mut self)?;
            return Ok(self.finish(old.len()));
        }
        std::thread::scope(|scope| {
            let (to, items) = sync_channel(WAITING);
            let reader = scope.spawn(move || {
                let mut batches = Batches {
                    items: Vec::with_capacity(BATCH),
                    to,
                };
                decoder.walk(old, size, &mut batches)?;
                batches.hand_over()
            });
            for item in items.into_iter().flatten() {
                Sink::copied(&mut self, &item)?;
            }
            match reader.join() {
                Ok(read) => read?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            Ok(self.finish(old.len()))
        })
    }
}

impl Sink for Follower<'_> {
    /// They are counted by where the next item is.
    fn literal(&mut self, _at: usize, _byte: u8) {}

    fn copied(&mut self, item: &Copied) -> Result<(), Fault> {
        let end = item.at + item.len;
        self.run(item.at);
        // most are told by that, without the memory that they would be compared in
        let is_same = || !self.pages.any(&self.range(item)) || self.holds(item) == item.len;
        if self.at == item.at && is_same() {
            self.again(item);
        } else {
            self.anew(end, Some(item));
        }
        self.old_at = end;
        match item.source {
            Source::Lz(_) => self.surplus.offsets -= i64::from(!item.repeat),
            Source::Delta(..) => self.surplus.deltas -= i64::from(!item.repeat),
        }
        self.surplus.lengths -= 1;
        Ok(())
    }
}
