//! Matches: copying them when decoding, finding and choosing them when encoding.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; copy checks its bounds first, search positions are below the data length

use super::Fault;
use std::ops::Range;

/// Repeats `len` bytes from `offset` back at `at`.
#[inline(always)]
pub(super) fn copy(out: &mut [u8], at: usize, offset: usize, len: usize) -> Result<(), Fault> {
    if offset == 0 || offset > at {
        return Err(Fault::BadMatch);
    }
    if len > out.len() - at {
        return Err(Fault::Overrun);
    }
    let from = at - offset;
    if offset >= 16 && len <= 32 && out.len() - at >= 32 {
        // short and near the common case: two fixed copies; what they write too much is written again later
        for step in [0, 16] {
            if let Some(piece) = out[from + step..].first_chunk::<16>().copied() {
                out[at + step..at + step + 16].copy_from_slice(&piece);
            }
        }
    } else if offset >= len {
        out.copy_within(from..from + len, at);
    } else if offset == 1 {
        let byte = out[from];
        out[at..at + len].fill(byte);
    } else if len < 24 {
        for step in 0..len {
            out[at + step] = out[from + step];
        }
    } else {
        // overlapping: each round can copy the whole of what repeats so far
        let mut done = 0;
        while done < len {
            let piece = (offset + done).min(len - done);
            out.copy_within(from..from + piece, at + done);
            done += piece;
        }
    }
    Ok(())
}

/// How many bytes from `a` and `b` (a < b) on agree, at most `limit` (b + limit <= data.len()).
#[inline(always)]
pub(super) fn agree(data: &[u8], a: usize, b: usize, limit: usize) -> usize {
    let left = &data[a..a + limit];
    let right = &data[b..b + limit];
    let mut len = 0;
    while let (Some(x), Some(y)) = (
        left[len..].first_chunk::<8>(),
        right[len..].first_chunk::<8>(),
    ) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return len + differ.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    while len < limit && left[len] == right[len] {
        len += 1;
    }
    len
}

/// A run of literals followed by a match (`len` 0: no match, the end).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Step {
    pub(super) literals: u32,
    pub(super) len: u32,
    pub(super) offset: u32,
    /// Which recent offset it repeats.
    pub(super) repeat: Option<u8>,
}

/// Told by a decoder what it does.
pub(super) trait Watch {
    fn copied(&mut self, _at: usize, _len: usize, _offset: u32) {}
    /// A block begins.
    fn block(&mut self, _at: usize) {}
}

impl Watch for () {}

/// The matches of a chunk and where its blocks begin.
#[derive(Debug, Default)]
pub(super) struct Parse {
    items: Vec<Copied>,
    pub(super) borders: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Copied {
    at: usize,
    end: usize,
    offset: u32,
}

impl Watch for Parse {
    fn copied(&mut self, at: usize, len: usize, offset: u32) {
        self.items.push(Copied {
            at,
            end: at + len,
            offset,
        });
    }
    fn block(&mut self, at: usize) {
        self.borders.push(at);
    }
}

impl Copied {
    /// For how many bytes from `at` (inside of it) on the match gives what `data` has.
    fn holds(&self, data: &[u8], at: usize, farthest: u32) -> usize {
        let left = self.end - at;
        let offset = self.offset as usize;
        match self.offset <= farthest && offset <= at {
            true => agree(data, at - offset, at, left),
            false => 0,
        }
    }
}

/// The recent offsets of a format.
pub(super) trait Recent {
    /// What could be repeated by a match at `at`; 0 = nothing.
    fn offered(&self, at: usize) -> [u32; 3];
    /// A match was chosen, ending before `end`.
    fn take(&mut self, at: usize, end: usize, repeat: Option<u8>, offset: u32);
}

/// XPRESS remembers nothing.
#[derive(Clone, Copy)]
pub(super) struct Forgetful;

impl Recent for Forgetful {
    fn offered(&self, _at: usize) -> [u32; 3] {
        [0; 3]
    }
    fn take(&mut self, _at: usize, _end: usize, _repeat: Option<u8>, _offset: u32) {}
}

/// What the format allows, how hard to look, and what things cost (in eighths of a bit).
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) longest: u32,
    pub(super) farthest: u32,
    /// Candidates looked at per position.
    pub(super) depth: u32,
    /// A match this long is taken without looking further.
    pub(super) enough: u32,
    /// Bits a literal is taken to cost, in eighths.
    pub(super) literal: i64,
    /// Eighths of a bit of a match besides the raw bits of its offset; of a repeat.
    pub(super) explicit: i64,
    pub(super) repeat: i64,
}

/// What `enter` saw; of a chain only its head.
struct Found {
    near: [u32; 2],
    list: [u32; WAYS],
}

impl Default for Found {
    fn default() -> Self {
        Found {
            near: [NONE; 2],
            list: [NONE; WAYS],
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) len: u32,
    pub(super) offset: u32,
    repeat: Option<u8>,
    gain: i64,
}

/// Earlier positions by hash: the newest sharing three bytes, the newest sharing four, and several sharing more.
/// The several are a chain in a small chunk. In a large one, where each link would be a cache miss, they are a
/// short list in one place, which also takes less memory.
pub(super) struct Finder {
    heads3: Vec<u32>,
    heads4: Vec<u32>,
    heads: Vec<u32>,
    lists: Vec<[u32; WAYS]>,
    /// Drops from an 8-byte word what the third hash does not look at.
    shift: u32,
    prev: Vec<u32>,
    hash_bits: u32,
    /// Next position to enter.
    entered: usize,
    /// Positions are entered only where matches are looked for, and this far before.
    reach: Option<usize>,
}

const NONE: u32 = u32::MAX;
const BITS3: u32 = 14;
const BITS4: u32 = 16;
const WAYS: usize = 16;
const LOCAL_BITS: u32 = 15;
const LOCAL_REACH: usize = 1 << 16;
/// Chunks above this use lists.
const LARGE: u32 = 1 << 21;
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Finder {
    pub(super) fn new(chunk_size: u32) -> Self {
        let hash_bits = chunk_size.trailing_zeros().clamp(13, 20);
        let large = chunk_size > LARGE;
        let width = if large { 7 } else { 6 };
        Finder {
            heads3: vec![NONE; 1 << BITS3],
            heads4: vec![NONE; 1 << BITS4],
            heads: vec![NONE; if large { 0 } else { 1 << hash_bits }],
            lists: vec![[NONE; WAYS]; if large { 1 << hash_bits } else { 0 }],
            shift: 64 - width * 8,
            prev: vec![NONE; if large { 0 } else { chunk_size as usize }],
            hash_bits,
            entered: 0,
            reach: None,
        }
    }

    /// For the few bytes of a large chunk that changed: a small memory, filled only around them.
    pub(super) fn local() -> Self {
        Finder {
            heads3: vec![NONE; 1 << BITS3],
            heads4: vec![NONE; 1 << BITS4],
            heads: Vec::new(),
            lists: vec![[NONE; WAYS]; 1 << LOCAL_BITS],
            shift: 8,
            prev: Vec::new(),
            hash_bits: LOCAL_BITS,
            entered: 0,
            reach: Some(LOCAL_REACH),
        }
    }

    /// A match at `at`, positions before it entered as far as they ever are.
    pub(super) fn near<R: Recent>(
        &mut self,
        data: &[u8],
        at: usize,
        rules: &Rules,
        recent: &R,
    ) -> Option<Choice> {
        if let Some(reach) = self.reach {
            self.entered = self.entered.max(at.saturating_sub(reach));
        }
        self.best(data, at, rules, recent, rules.depth)
    }

    /// Goes on behind `at`.
    fn pass(&mut self, data: &[u8], at: usize) {
        if self.reach.is_none() {
            self.enter(data, at);
        }
    }

    pub(super) fn reset(&mut self) {
        self.heads.fill(NONE);
        self.lists.fill([NONE; WAYS]);
        self.heads3.fill(NONE);
        self.heads4.fill(NONE);
        self.entered = 0;
    }

    /// Enters positions up to and with `at`; gives the candidates found there: by three bytes, four, more.
    #[inline(always)]
    fn enter(&mut self, data: &[u8], at: usize) -> Found {
        let mut found = Found::default();
        while self.entered <= at {
            let here = self.entered;
            self.entered += 1;
            let rest = &data[here..];
            let word = match rest.first_chunk::<8>() {
                Some(eight) => u64::from_le_bytes(*eight),
                None if rest.len() >= 3 => rest
                    .iter()
                    .rev()
                    .fold(0, |word, &byte| word << 8 | u64::from(byte)),
                None => return Found::default(),
            };
            let slot3 = ((word << 40).wrapping_mul(SPREAD) >> (64 - BITS3)) as usize;
            let slot4 = ((word << 32).wrapping_mul(SPREAD) >> (64 - BITS4)) as usize;
            let slot =
                ((word << self.shift).wrapping_mul(SPREAD) >> (64 - self.hash_bits)) as usize;
            found.near[0] = std::mem::replace(&mut self.heads3[slot3], here as u32);
            found.near[1] = std::mem::replace(&mut self.heads4[slot4], here as u32);
            if let Some(list) = self.lists.get_mut(slot) {
                found.list = *list;
                list.copy_within(..WAYS - 1, 1);
                list[0] = here as u32;
            } else {
                found.list[0] = std::mem::replace(&mut self.heads[slot], here as u32);
                self.prev[here] = found.list[0];
            }
        }
        found
    }

    #[inline(always)]
    fn best<R: Recent>(
        &mut self,
        data: &[u8],
        at: usize,
        rules: &Rules,
        recent: &R,
        depth: u32,
    ) -> Option<Choice> {
        let limit = (data.len() - at).min(rules.longest as usize);
        let mut best = Choice {
            len: 1,
            offset: 0,
            repeat: None,
            gain: 0,
        };
        for (which, offset) in recent.offered(at).into_iter().enumerate() {
            if offset == 0 || offset as usize > at {
                continue;
            }
            let len = agree(data, at - offset as usize, at, limit) as u32;
            if len >= 2 && len > best.len {
                let gain = i64::from(len) * rules.literal - rules.repeat - which as i64 * 8;
                if gain > best.gain {
                    best = Choice {
                        len,
                        offset,
                        repeat: Some(which as u8),
                        gain,
                    };
                }
            }
        }
        if best.len >= rules.enough {
            return Some(best);
        }
        let found = self.enter(data, at);
        let mut longest = best.len.max(2);
        let mut consider = |from: u32, longest: &mut u32| -> bool {
            let offset = at - from as usize;
            let len = agree(data, from as usize, at, limit) as u32;
            if len > *longest {
                *longest = len;
                let raw = 31 - (offset as u32).leading_zeros();
                let gain = i64::from(len) * rules.literal - rules.explicit - i64::from(raw) * 8;
                if gain > best.gain {
                    best = Choice {
                        len,
                        offset: offset as u32,
                        repeat: None,
                        gain,
                    };
                }
            }
            len >= rules.enough || len as usize == limit
        };
        for near in found.near {
            if near != NONE
                && at - near as usize <= rules.farthest as usize
                && limit > 2
                && consider(near, &mut longest)
            {
                return (best.gain > 0).then_some(best);
            }
        }
        let mut link = found.list[0];
        for turn in 1..=depth as usize {
            if link == NONE || at - link as usize > rules.farthest as usize {
                break;
            }
            // the byte that would make it longer decides quickest
            let probe = longest as usize;
            if probe < limit
                && data[link as usize + probe] == data[at + probe]
                && consider(link, &mut longest)
            {
                break;
            }
            link = if self.prev.is_empty() {
                *found.list.get(turn).unwrap_or(&NONE)
            } else {
                self.prev[link as usize]
            };
        }
        (best.gain > 0 && best.len > 1).then_some(best)
    }

    /// Cuts `data` into steps, looking one byte ahead before a match is settled. `sink` gets each with its position.
    pub(super) fn parse<R: Recent>(
        &mut self,
        data: &[u8],
        rules: &Rules,
        recent: &mut R,
        mut sink: impl FnMut(usize, Step),
    ) {
        self.reset();
        let mut start = 0usize;
        let mut at = 0usize;
        while at < data.len() {
            let Some(mut choice) = self.best(data, at, rules, recent, rules.depth) else {
                at += 1;
                continue;
            };
            while choice.len < rules.enough && at + 1 < data.len() {
                match self.best(data, at + 1, rules, recent, rules.depth / 2) {
                    Some(next) if next.gain > choice.gain => {
                        choice = next;
                        at += 1;
                    }
                    _ => break,
                }
            }
            let end = at + choice.len as usize;
            let step = Step {
                literals: (at - start) as u32,
                len: choice.len,
                offset: choice.offset,
                repeat: choice.repeat,
            };
            sink(start, step);
            recent.take(at, end, choice.repeat, choice.offset);
            self.enter(data, end - 1);
            at = end;
            start = end;
        }
        if start < data.len() {
            sink(
                start,
                Step {
                    literals: (data.len() - start) as u32,
                    ..Step::default()
                },
            );
        }
    }

    /// Cuts `data` into steps as `old` cuts `was`, which differs from it in few bytes: matches stay as far as they
    /// hold, only for what else became of their bytes is looked anew. No step crosses a border of `old`.
    #[allow(clippy::too_many_arguments)] // all of them only borrowed parts of the encoder
    pub(super) fn patch<R: Recent>(
        &mut self,
        data: &[u8],
        was: &[u8],
        old: &Parse,
        rules: &Rules,
        shortest: u32,
        recent: &mut R,
        sink: impl FnMut(usize, Step),
    ) {
        let changed = differences(was, data);
        self.reset();
        let mut patcher = Patcher {
            finder: self,
            data,
            changed: &changed,
            borders: &old.borders,
            rules,
            shortest,
            recent,
            sink,
            start: 0,
            at: 0,
        };
        for item in &old.items {
            patcher.item(item);
        }
        patcher.finish();
    }
}

/// Where the two (of one length) differ; ranges close to each other are one.
pub(in super::super) fn differences(was: &[u8], is: &[u8]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let blocks = was.chunks(FAR).zip(is.chunks(FAR));
    let blocks = (0..).step_by(FAR).zip(blocks);
    for (start, (one, other)) in blocks.filter(|(_, (one, other))| one != other) {
        let pieces = one.chunks(CLOSE).zip(other.chunks(CLOSE));
        let pieces = (start..).step_by(CLOSE).zip(pieces);
        for (at, (one, _)) in pieces.filter(|(_, (one, other))| one != other) {
            let end = at + one.len();
            match out.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => out.push(at..end),
            }
        }
    }
    out
}

/// Differences are told in pieces of this length.
const CLOSE: usize = 16;
/// Where nothing differs, so many bytes are compared at once.
const FAR: usize = 1 << 12;

/// Takes the matches of a chunk one after the other, and makes the steps of a chunk that differs from it in few bytes.
struct Patcher<'a, R, S> {
    finder: &'a mut Finder,
    data: &'a [u8],
    changed: &'a [Range<usize>],
    /// No step crosses one.
    borders: &'a [usize],
    rules: &'a Rules,
    shortest: u32,
    recent: &'a mut R,
    sink: S,
    /// First byte of the step that is being made.
    start: usize,
    at: usize,
}

impl<R: Recent, S: FnMut(usize, Step)> Patcher<'_, R, S> {
    fn item(&mut self, item: &Copied) {
        self.run(item.at, None);
        self.run(item.end, Some(item));
    }

    /// Steps for what is behind the last match.
    fn finish(&mut self) {
        self.run(self.data.len(), None);
    }

    fn run(&mut self, until: usize, item: Option<&Copied>) {
        let (data, rules, shortest) = (self.data, self.rules, self.shortest);
        while self.at < until.min(data.len()) {
            let at = self.at;
            while self.borders.first().is_some_and(|&border| border <= at) {
                self.borders = &self.borders[1..];
            }
            let border = self.borders.first().copied().unwrap_or(data.len());
            while self.changed.first().is_some_and(|range| range.end <= at) {
                self.changed = &self.changed[1..];
            }
            let mut step = match item {
                Some(item) => {
                    let len = item.holds(data, at, rules.farthest) as u32;
                    match len >= shortest {
                        true => Step {
                            len,
                            offset: item.offset,
                            ..Step::default()
                        },
                        false => Step::default(),
                    }
                }
                None => Step::default(),
            };
            let whole = item.is_some_and(|item| at + step.len as usize == item.end);
            let same = item.is_none() && self.changed.first().is_none_or(|range| at < range.start);
            if !whole
                && !same
                && let Some(found) = self.finder.near(data, at, rules, self.recent)
            {
                let len = found.len.min((border - at) as u32);
                // pieces of two bytes seldom pay
                if len >= shortest && (len > step.len || step.len == 2) {
                    step = Step {
                        len,
                        offset: found.offset,
                        ..Step::default()
                    };
                }
            }
            let mut end = at + 1;
            if step.len > 0 {
                end = at + step.len as usize;
                step.literals = (at - self.start) as u32;
                step.repeat = (0u8..)
                    .zip(self.recent.offered(at))
                    .find(|&(_, offset)| offset == step.offset)
                    .map(|(which, _)| which);
                self.recent.take(at, end, step.repeat, step.offset);
                (self.sink)(self.start, step);
                self.start = end;
            } else if end == border {
                let literals = (end - self.start) as u32;
                (self.sink)(
                    self.start,
                    Step {
                        literals,
                        ..Step::default()
                    },
                );
                self.start = end;
            }
            self.finder.pass(data, end - 1);
            self.at = end;
        }
    }
}

/// The offset used at each position, 0 for literals.
pub(super) fn offsets(steps: &[Step]) -> Vec<u32> {
    let mut offsets = Vec::new();
    for step in steps {
        offsets.extend(std::iter::repeat_n(0, step.literals as usize));
        offsets.extend(std::iter::repeat_n(step.offset, step.len as usize));
    }
    offsets
}

/// The shorter one.
pub(super) fn shorter(best: &mut Vec<u8>, other: Vec<u8>) {
    if other.len() < best.len() {
        *best = other;
    }
}
