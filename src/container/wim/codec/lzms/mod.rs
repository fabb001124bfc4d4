//! LZMS. Two streams of 16-bit words share the chunk: from the front a range coder decides what each item is,
//! from the back come Huffman symbols and raw bits. All models adapt; afterwards x86 addresses are translated back.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loops; states are masked to their tables, symbols are below the length of their code

use super::huffman::Planner;

mod follow;
mod read;
mod write;
mod x86;

pub(super) use read::Decoder;
pub(super) use write::Encoder;

const LITERALS: usize = 256;
const POWERS: usize = 8;
const MOST_OFFSETS: usize = 799;
const LENGTHS: usize = 54;
const LIMIT: usize = 15;

/// How many slots have 0, 1, 2, ... raw bits; the last slot of each table has 30.
const OFFSET_SHAPE: [usize; 21] = [
    8, 0, 9, 7, 10, 15, 15, 20, 20, 30, 33, 40, 42, 45, 60, 73, 80, 85, 95, 105, 6,
];
const LENGTH_SHAPE: [usize; 17] = [26, 4, 6, 4, 5, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1];

/// First value and raw bits of each slot.
const fn slots<const N: usize>(shape: &[usize]) -> [(u32, u8); N] {
    let mut table = [(0, 30); N];
    let (mut base, mut slot, mut raw) = (1, 0, 0);
    while raw < shape.len() {
        let mut left = shape[raw];
        while left > 0 {
            table[slot] = (base, raw as u8);
            base += 1 << raw;
            slot += 1;
            left -= 1;
        }
        raw += 1;
    }
    table[slot].0 = base;
    table
}

const OFFSET_SLOTS: [(u32, u8); MOST_OFFSETS] = slots(&OFFSET_SHAPE);
const LENGTH_SLOTS: [(u32, u8); LENGTHS] = slots(&LENGTH_SHAPE);

/// Slots of a kind of values, all of them >= 1.
struct Values {
    /// First value and raw bits of each.
    slots: &'static [(u32, u8)],
    /// Where to begin to look for that of a value with these first bits.
    near: [u16; NEAR],
}

static OFFSETS: Values = Values::new(&OFFSET_SLOTS);
static LENS: Values = Values::new(&LENGTH_SLOTS);

/// Values are told apart by where their first bit is, and by so many behind it.
const NEAR_BITS: u32 = 5;
const NEAR: usize = 32 << NEAR_BITS;

impl Values {
    const fn new(slots: &'static [(u32, u8)]) -> Self {
        let mut near = [0; NEAR];
        let (mut slot, mut first) = (0, 0);
        while first < NEAR {
            let (top, next) = ((first >> NEAR_BITS) as u32, first as u64 % 32 + 32);
            let least = (next << top) >> NEAR_BITS;
            while slot + 1 < slots.len() && slots[slot + 1].0 as u64 <= least {
                slot += 1;
            }
            near[first] = slot as u16;
            first += 1;
        }
        Values { slots, near }
    }

    #[inline(always)]
    fn slot_of(&self, value: u32) -> usize {
        let top = (value | 1).ilog2();
        let next = (u64::from(value) << NEAR_BITS) >> top;
        let mut slot = usize::from(self.near[(top << NEAR_BITS) as usize + next as usize % 32]);
        while self
            .slots
            .get(slot + 1)
            .is_some_and(|&(base, _)| base <= value)
        {
            slot += 1;
        }
        slot
    }
}

/// The offset codes only have the symbols that a chunk of this size can need.
fn offset_symbols(size: usize) -> usize {
    if size < 2 {
        0
    } else {
        1 + OFFSETS.slot_of((size - 1) as u32)
    }
}

/// Probability of a 0, in 64ths: how many of the last 64 bits seen here were 0.
#[derive(Clone, Copy)]
struct Odds {
    seen: u64,
    zeros: u32,
}

impl Odds {
    const START: Odds = Odds {
        seen: 0x5555_5555,
        zeros: 48,
    };

    /// Certainty is not representable.
    #[inline(always)]
    fn of_zero(self) -> u32 {
        self.zeros.clamp(1, 63)
    }

    #[inline(always)]
    fn learn(&mut self, bit: u32) {
        self.zeros = self.zeros + (self.seen >> 63) as u32 - bit;
        self.seen = self.seen << 1 | u64::from(bit);
    }
}

/// A kind of decision; its context is its own last log2(`N`) outcomes.
struct Decision<const N: usize> {
    past: usize,
    odds: [Odds; N],
}

impl<const N: usize> Decision<N> {
    const NEW: Self = Decision {
        past: 0,
        odds: [Odds::START; N],
    };

    /// The odds that hold now.
    #[inline(always)]
    fn now(&mut self) -> &mut Odds {
        &mut self.odds[self.past % N]
    }

    #[inline(always)]
    fn learn(&mut self, bit: u32) {
        self.now().learn(bit);
        self.past = (self.past << 1 | bit as usize) % N;
    }
}

struct Decisions {
    is_match: Decision<16>,
    is_delta: Decision<32>,
    repeats: Decision<64>,
    not_first: [Decision<64>; 2],
    delta_repeats: Decision<64>,
    delta_not_first: [Decision<64>; 2],
}

impl Decisions {
    const NEW: Self = Decisions {
        is_match: Decision::NEW,
        is_delta: Decision::NEW,
        repeats: Decision::NEW,
        not_first: [Decision::NEW; 2],
        delta_repeats: Decision::NEW,
        delta_not_first: [Decision::NEW; 2],
    };
}

/// Counts of an adaptive code, and when to build it anew.
struct Adapting {
    freqs: Vec<u32>,
    lens: Vec<u8>,
    period: u32,
    left: u32,
}

impl Adapting {
    fn new(period: u32) -> Self {
        Adapting {
            freqs: Vec::new(),
            lens: Vec::new(),
            period,
            left: period,
        }
    }

    fn start(&mut self, symbols: usize, planner: &mut Planner) {
        self.freqs.clear();
        self.freqs.resize(symbols, 1);
        self.lens.clear();
        self.lens.resize(symbols, 0);
        self.left = self.period;
        planner.lengths(&self.freqs, LIMIT, &mut self.lens);
    }

    /// True when the code lengths changed.
    #[inline(always)]
    fn count(&mut self, symbol: usize, planner: &mut Planner) -> bool {
        self.freqs[symbol] += 1;
        self.left -= 1;
        self.left == 0 && {
            self.renew(planner);
            true
        }
    }

    #[cold]
    fn renew(&mut self, planner: &mut Planner) {
        self.left = self.period;
        planner.lengths(&self.freqs, LIMIT, &mut self.lens);
        // older symbols fade
        for freq in &mut self.freqs {
            *freq = (*freq >> 1) + 1;
        }
    }
}

/// Recently used sources. A source enters only after one more item: repeating it at once would have been
/// a longer match.
#[derive(Clone, Copy)]
struct Queue<T> {
    slots: [T; 4],
    /// With the position where its item ended.
    waiting: Option<(T, usize)>,
}

impl<T: Copy + PartialEq> Queue<T> {
    fn new(slots: [T; 4]) -> Self {
        Queue {
            slots,
            waiting: None,
        }
    }

    #[inline(always)]
    fn push(&mut self, source: T) {
        self.slots = [source, self.slots[0], self.slots[1], self.slots[2]];
    }

    /// At the start of an item of this kind at `at`.
    #[inline(always)]
    fn settle(&mut self, at: usize) {
        if let Some((source, end)) = self.waiting
            && end != at
        {
            self.push(source);
            self.waiting = None;
        }
    }

    /// Which of those that can be repeated a source is.
    fn known(&self, source: &T) -> Option<usize> {
        self.slots[..3].iter().position(|slot| slot == source)
    }

    /// Takes a source out.
    #[inline(always)]
    fn pick(&mut self, which: usize) -> T {
        let source = self.slots[which % 4];
        self.slots.copy_within(which % 4 + 1.., which % 4);
        source
    }

    /// At the end of an item: `source` will come in.
    #[inline(always)]
    fn used(&mut self, source: T, end: usize) {
        if let Some((earlier, _)) = self.waiting {
            self.push(earlier);
        }
        self.waiting = Some((source, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_formats() {
        assert_eq!(OFFSET_SLOTS[MOST_OFFSETS - 1], (0x065b_e4a5, 30));
        assert_eq!(OFFSET_SLOTS[166], (0xe4a5 - 1024, 10));
        assert_eq!(OFFSET_SLOTS[427], (0x3d_e4a5, 16));
        assert_eq!(LENGTH_SLOTS[LENGTHS - 1], (0x1_08ab, 30));
        assert_eq!(LENGTH_SLOTS[52], (0x8ab, 16));
        assert_eq!(
            [1, 2, 8, 9, 12, 13].map(|offset| OFFSETS.slot_of(offset)),
            [0, 1, 7, 8, 8, 9]
        );
    }

    #[test]
    fn a_values_slot_is_the_last_that_begins_before_it() {
        for values in [&OFFSETS, &LENS] {
            let edges = values.slots.iter().map(|&(base, _)| base);
            let powers = (0..32).map(|bit| 1 << bit);
            let near = edges.chain(powers).flat_map(|at: u32| {
                let from = at.saturating_sub(70).max(1);
                from..at.saturating_add(70)
            });
            for value in near.chain([u32::MAX]) {
                let slot = values.slots.partition_point(|&(base, _)| base <= value) - 1;
                assert_eq!(values.slot_of(value), slot, "{value}");
            }
        }
    }

    #[test]
    fn a_used_source_waits_one_item() {
        let mut queue = Queue::new([1u32, 2, 3, 4]);
        queue.settle(10);
        queue.used(77, 20);
        queue.settle(20);
        assert_eq!(queue.slots, [1, 2, 3, 4]);
        assert_eq!(queue.pick(1), 2);
        queue.used(2, 25);
        assert_eq!(queue.slots, [77, 1, 3, 4]);
        queue.settle(26);
        assert_eq!(queue.slots, [2, 77, 1, 3]);
    }
}
