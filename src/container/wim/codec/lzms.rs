//! LZMS. Two streams of 16-bit words share the chunk: from the front a range coder decides what each item is,
//! from the back come Huffman symbols and raw bits. All models adapt; afterwards x86 addresses are translated back.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; states are masked to their tables, `at` stays below out.len() by the loop and the copy checks

use super::Fault;
use super::huffman::{Planner, Table, codewords};
use super::matches::{self, Finder, Patcher, Recent, Rules, Step, Watch};

const LITERALS: usize = 256;
const POWERS: usize = 8;
const MOST_OFFSETS: usize = 799;
const LENGTHS: usize = 54;
const LIMIT: usize = 15;
/// Matches of one byte exist but never pay.
const SHORTEST: u32 = 2;

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

static OFFSET_SLOTS: [(u32, u8); MOST_OFFSETS] = slots(&OFFSET_SHAPE);
static LENGTH_SLOTS: [(u32, u8); LENGTHS] = slots(&LENGTH_SHAPE);

/// `value` >= 1.
fn slot_of(table: &[(u32, u8)], value: u32) -> usize {
    table
        .partition_point(|&(base, _)| base <= value)
        .saturating_sub(1)
}

/// The offset codes only have the symbols that a chunk of this size can need.
fn offset_symbols(size: usize) -> usize {
    if size < 2 {
        0
    } else {
        1 + slot_of(&OFFSET_SLOTS, (size - 1) as u32)
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

    #[inline(always)]
    fn read(&mut self, range: &mut RangeReader<'_>) -> bool {
        let odds = &mut self.odds[self.past % N];
        let bit = range.bit(odds.of_zero());
        odds.learn(bit);
        self.past = (self.past << 1 | bit as usize) % N;
        bit == 1
    }

    fn write(&mut self, range: &mut RangeWriter, bit: bool) {
        let odds = &mut self.odds[self.past % N];
        range.put(bit, odds.of_zero());
        odds.learn(u32::from(bit));
        self.past = (self.past << 1 | usize::from(bit)) % N;
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

struct RangeReader<'a> {
    words: std::slice::ChunksExact<'a, u8>,
    range: u32,
    code: u32,
}

impl<'a> RangeReader<'a> {
    fn new(input: &'a [u8]) -> Self {
        let mut reader = RangeReader {
            words: input.chunks_exact(2),
            range: u32::MAX,
            code: 0,
        };
        reader.code = reader.word() << 16;
        reader.code |= reader.word();
        reader
    }

    /// Past the end zeros: the back stream notices missing data.
    #[inline(always)]
    fn word(&mut self) -> u32 {
        match self.words.next() {
            Some(&[low, high]) => u32::from(u16::from_le_bytes([low, high])),
            _ => 0,
        }
    }

    #[inline(always)]
    fn bit(&mut self, of_zero: u32) -> u32 {
        if self.range <= 0xFFFF {
            self.range <<= 16;
            self.code = self.code << 16 | self.word();
        }
        let border = (self.range >> 6) * of_zero;
        if self.code < border {
            self.range = border;
            0
        } else {
            self.range -= border;
            self.code -= border;
            1
        }
    }
}

/// The back stream: like `bits::WordReader`, towards the front.
struct BackReader<'a> {
    input: &'a [u8],
    buf: u64,
    have: u32,
    phantom: u32,
}

impl<'a> BackReader<'a> {
    fn new(input: &'a [u8]) -> Self {
        BackReader {
            input,
            buf: 0,
            have: 0,
            phantom: 0,
        }
    }

    #[inline(always)]
    fn refill(&mut self) {
        if self.have <= 32 {
            if let Some((rest, four)) = self.input.split_last_chunk::<4>() {
                self.buf |= u64::from(u32::from_le_bytes(*four)) << (32 - self.have);
                self.have += 32;
                self.input = rest;
            } else {
                self.refill_at_end();
            }
        }
    }

    #[cold]
    fn refill_at_end(&mut self) {
        while self.have <= 32 {
            if let Some((rest, two)) = self.input.split_last_chunk::<2>() {
                self.buf |= u64::from(u16::from_le_bytes(*two)) << (48 - self.have);
                self.input = rest;
            } else {
                self.phantom = (self.phantom + 16).min(1 << 20);
            }
            self.have += 16;
        }
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buf <<= count;
        self.have -= count;
    }

    /// `count` (0..=30) bits.
    #[inline(always)]
    fn read(&mut self, count: u32) -> u32 {
        self.refill();
        let value = (self.buf >> 1) >> (63 - count);
        self.skip(count);
        value as u32
    }

    fn overran(&self) -> bool {
        self.phantom > self.have
    }
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

struct ReadCode<const BITS: u32, const SIZE: usize> {
    model: Adapting,
    table: Table<BITS, SIZE>,
}

impl<const BITS: u32, const SIZE: usize> ReadCode<BITS, SIZE> {
    fn new(period: u32) -> Self {
        ReadCode {
            model: Adapting::new(period),
            table: Table::new(),
        }
    }

    fn start(&mut self, symbols: usize, planner: &mut Planner) -> Result<(), Fault> {
        self.model.start(symbols, planner);
        self.table.build(&self.model.lens)
    }

    #[inline(always)]
    fn read(&mut self, back: &mut BackReader<'_>, planner: &mut Planner) -> Result<usize, Fault> {
        back.refill();
        let (symbol, len) = self.table.look(back.buf)?;
        back.skip(len);
        if self.model.count(symbol as usize, planner) {
            self.table.build(&self.model.lens)?;
        }
        Ok(symbol as usize)
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

impl<T: Copy> Queue<T> {
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

pub(super) struct Decoder {
    planner: Planner,
    literal: ReadCode<10, 1024>,
    offset: ReadCode<10, 1024>,
    length: ReadCode<9, 512>,
    delta_offset: ReadCode<9, 512>,
    power: ReadCode<7, 128>,
    x86: X86,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder {
            planner: Planner::default(),
            literal: ReadCode::new(1024),
            offset: ReadCode::new(1024),
            length: ReadCode::new(512),
            delta_offset: ReadCode::new(1024),
            power: ReadCode::new(512),
            x86: X86::default(),
        }
    }

    pub(super) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        self.watched(input, out, &mut ())?;
        self.x86.undo(out);
        Ok(())
    }

    /// Leaves the x86 addresses translated.
    fn watched<W: Watch>(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        if input.len() < 4 || !input.len().is_multiple_of(2) {
            return Err(Fault::Truncated);
        }
        let mut back = BackReader::new(input);
        let result = self.items(input, &mut back, out, watch);
        if back.overran() {
            return Err(Fault::Truncated);
        }
        result
    }

    fn items<W: Watch>(
        &mut self,
        input: &[u8],
        back: &mut BackReader<'_>,
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        let Decoder {
            planner,
            literal,
            offset,
            length,
            delta_offset,
            power,
            ..
        } = self;
        let offsets = offset_symbols(out.len());
        literal.start(LITERALS, planner)?;
        offset.start(offsets, planner)?;
        length.start(LENGTHS, planner)?;
        delta_offset.start(offsets, planner)?;
        power.start(POWERS, planner)?;
        let mut range = RangeReader::new(input);
        let mut decide = Decisions::NEW;
        let mut recent = Queue::new([1u32, 2, 3, 4]);
        let mut recent_deltas = Queue::new([(0usize, 1u32), (0, 2), (0, 3), (0, 4)]);
        let mut at = 0usize;
        while at < out.len() {
            if !decide.is_match.read(&mut range) {
                out[at] = literal.read(back, planner)? as u8;
                at += 1;
            } else if !decide.is_delta.read(&mut range) {
                recent.settle(at);
                let distance = if decide.repeats.read(&mut range) {
                    recent.pick(which(&mut decide.not_first, &mut range))
                } else {
                    read_value(offset, &OFFSET_SLOTS, back, planner)?
                };
                let len = read_value(length, &LENGTH_SLOTS, back, planner)? as usize;
                matches::copy(out, at, distance as usize, len)?;
                watch.copied(at, len, distance, None);
                at += len;
                recent.used(distance, at);
            } else {
                recent_deltas.settle(at);
                let (shift, raw) = if decide.delta_repeats.read(&mut range) {
                    recent_deltas.pick(which(&mut decide.delta_not_first, &mut range))
                } else {
                    let shift = power.read(back, planner)?;
                    (
                        shift,
                        read_value(delta_offset, &OFFSET_SLOTS, back, planner)?,
                    )
                };
                let len = read_value(length, &LENGTH_SLOTS, back, planner)? as usize;
                let reach = (u64::from(raw) + 1) << shift;
                if reach > at as u64 {
                    return Err(Fault::BadMatch);
                }
                if len > out.len() - at {
                    return Err(Fault::Overrun);
                }
                let span = 1usize << shift;
                let distance = (raw as usize) << shift;
                for here in at..at + len {
                    out[here] = out[here - distance]
                        .wrapping_add(out[here - span])
                        .wrapping_sub(out[here - distance - span]);
                }
                watch.copied(at, len, raw, Some(shift as u8));
                at += len;
                recent_deltas.used((shift, raw), at);
            }
            // hostile data could otherwise make a large chunk out of nothing but zeros read past the end
            if back.overran() {
                return Err(Fault::Truncated);
            }
        }
        Ok(())
    }
}

/// Which of the first three recent sources.
#[inline(always)]
fn which(not: &mut [Decision<64>; 2], range: &mut RangeReader<'_>) -> usize {
    if !not[0].read(range) {
        0
    } else if !not[1].read(range) {
        1
    } else {
        2
    }
}

#[inline(always)]
fn read_value<const BITS: u32, const SIZE: usize>(
    code: &mut ReadCode<BITS, SIZE>,
    slots: &[(u32, u8)],
    back: &mut BackReader<'_>,
    planner: &mut Planner,
) -> Result<u32, Fault> {
    let (base, raw) = slots[code.read(back, planner)?];
    Ok(if raw == 0 {
        base
    } else {
        base + back.read(u32::from(raw))
    })
}

/// Translation of x86 addresses. It guesses what is code: two instructions referring to the same address (its low
/// 16 bits) within 64 KiB make the following bytes count as code.
#[derive(Default)]
struct X86 {
    last_use: Vec<i32>,
}

const SAME_CODE: i32 = 65_535;
const STILL_CODE: i32 = 1023;
/// Nothing is translated from here to the end, nor at the very start.
const TAIL: usize = 16;

impl X86 {
    fn undo(&mut self, data: &mut [u8]) {
        self.run::<false>(data);
    }

    fn apply(&mut self, data: &mut [u8]) {
        self.run::<true>(data);
    }

    fn run<const ABSOLUTE: bool>(&mut self, data: &mut [u8]) {
        if data.len() <= TAIL + 1 {
            return;
        }
        let end = data.len() - TAIL;
        self.last_use.clear();
        self.last_use.resize(1 << 16, -SAME_CODE - 1);
        let mut last_code = -STILL_CODE - 1;
        let mut at = 1usize;
        while at < end {
            let Some(found) = data[at..end]
                .iter()
                .position(|&byte| LEADS[usize::from(byte)])
            else {
                return;
            };
            at += found;
            let (opcode, reach) = match [data[at], data[at + 1], data[at + 2]] {
                [0xFF, 0x15, _] => (2, STILL_CODE),
                [0xF0, 0x83, 0x05] => (3, STILL_CODE),
                [0x48 | 0x4C, 0x8D, mode] if mode & 7 == 5 => (3, STILL_CODE),
                [0x48, 0x8B, 0x05 | 0x0D] => (3, STILL_CODE),
                // so common in other data that it needs fresher evidence
                [0xE8, ..] => (1, STILL_CODE / 2),
                // jumps are left alone, operand included
                [0xE9, ..] => {
                    at += 5;
                    continue;
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            let start = at as i32;
            at += opcode;
            // end is 16 before the end of data: the operand is always inside
            let Some(operand) = data[at..].first_chunk_mut::<4>() else {
                return;
            };
            let stored = u32::from_le_bytes(*operand);
            let is_code = start - last_code <= reach;
            let (relative, translated) = match (ABSOLUTE, is_code) {
                (true, true) => (stored, stored.wrapping_add(start as u32)),
                (false, true) => (
                    stored.wrapping_sub(start as u32),
                    stored.wrapping_sub(start as u32),
                ),
                (_, false) => (stored, stored),
            };
            *operand = translated.to_le_bytes();
            let target = relative.wrapping_add(start as u32) as u16;
            at += 4;
            let last = at as i32 - 1;
            let used = &mut self.last_use[usize::from(target)];
            if last - *used <= SAME_CODE {
                last_code = last;
            }
            *used = last;
        }
    }
}

/// Bytes that can begin an instruction the translation looks at.
static LEADS: [bool; 256] = {
    let mut leads = [false; 256];
    let bytes = [0x48, 0x4C, 0xE8, 0xE9, 0xF0, 0xFF];
    let mut index = 0;
    while index < bytes.len() {
        leads[bytes[index]] = true;
        index += 1;
    }
    leads
};

struct RangeWriter {
    out: Vec<u16>,
    low: u32,
    range: u32,
}

impl RangeWriter {
    fn new() -> Self {
        RangeWriter {
            out: Vec::new(),
            low: 0,
            range: u32::MAX,
        }
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range <= 0xFFFF {
            self.range <<= 16;
            self.out.push((self.low >> 16) as u16);
            self.low <<= 16;
        }
    }

    fn put(&mut self, bit: bool, of_zero: u32) {
        self.normalize();
        let border = (self.range >> 6) * of_zero;
        if !bit {
            self.range = border;
            return;
        }
        self.range -= border;
        let (low, carry) = self.low.overflowing_add(border);
        self.low = low;
        if carry {
            for word in self.out.iter_mut().rev() {
                *word = word.wrapping_add(1);
                if *word != 0 {
                    break;
                }
            }
        }
    }

    /// 7-Zip wants to see the exact lower bound, in a normalized state.
    fn finish(mut self) -> Vec<u16> {
        self.normalize();
        self.out.push((self.low >> 16) as u16);
        self.out.push(self.low as u16);
        self.out
    }
}

/// Words of the shortest chunk.
const LEAST_WORDS: usize = 4;

#[derive(Default)]
struct BackWriter {
    out: Vec<u16>,
    acc: u64,
    held: u32,
}

impl BackWriter {
    fn put(&mut self, value: u32, count: u32) {
        self.acc = self.acc << count | u64::from(value);
        self.held += count;
        while self.held >= 16 {
            self.held -= 16;
            self.out.push((self.acc >> self.held) as u16);
        }
    }

    fn finish(mut self) -> Vec<u16> {
        if self.held > 0 {
            self.put(0, 16 - self.held);
        }
        self.out
    }
}

struct WriteCode {
    model: Adapting,
    words: Vec<u16>,
}

impl WriteCode {
    fn new(period: u32) -> Self {
        WriteCode {
            model: Adapting::new(period),
            words: Vec::new(),
        }
    }

    fn start(&mut self, symbols: usize, planner: &mut Planner) {
        self.model.start(symbols, planner);
        self.words.clear();
        self.words.resize(symbols, 0);
        codewords(&self.model.lens, &mut self.words);
    }

    fn put(&mut self, symbol: usize, back: &mut BackWriter, planner: &mut Planner) {
        back.put(
            u32::from(self.words[symbol]),
            u32::from(self.model.lens[symbol]),
        );
        if self.model.count(symbol, planner) {
            codewords(&self.model.lens, &mut self.words);
        }
    }

    fn put_value(
        &mut self,
        slots: &[(u32, u8)],
        value: u32,
        back: &mut BackWriter,
        planner: &mut Planner,
    ) {
        let slot = slot_of(slots, value);
        let (base, raw) = slots[slot];
        self.put(slot, back, planner);
        back.put(value - base, u32::from(raw));
    }
}

impl Recent for Queue<u32> {
    fn offered(&self, at: usize) -> [u32; 3] {
        let mut then = *self;
        then.settle(at);
        [then.slots[0], then.slots[1], then.slots[2]]
    }

    fn take(&mut self, at: usize, end: usize, repeat: Option<u8>, offset: u32) {
        self.settle(at);
        if let Some(which) = repeat {
            self.pick(usize::from(which));
        }
        self.used(offset, end);
    }
}

pub(super) struct Encoder {
    chunk_size: u32,
    /// For whole chunks; large, so only made when it is needed.
    finder: Option<Finder>,
    local: Option<Finder>,
    codes: Codes,
    x86: X86,
}

const RULES: Rules = Rules {
    longest: 1 << 30,
    farthest: u32::MAX - 1,
    depth: 48,
    enough: 128,
    literal: 48,
    explicit: 60,
    repeat: 36,
};

impl Encoder {
    pub(super) fn new(chunk_size: u32) -> Self {
        Encoder {
            chunk_size,
            finder: None,
            local: None,
            codes: Codes {
                planner: Planner::default(),
                literal: WriteCode::new(1024),
                offset: WriteCode::new(1024),
                length: WriteCode::new(512),
                delta_offset: WriteCode::new(1024),
                power: WriteCode::new(512),
            },
            x86: X86::default(),
        }
    }

    /// LZ matches and repeats only: deltas hardly ever pay.
    pub(super) fn encode(&mut self, input: &[u8]) -> Vec<u8> {
        let mut data = input.to_vec();
        self.x86.apply(&mut data);
        let mut writer = Writer::new(&mut self.codes, data.len());
        let finder = self
            .finder
            .get_or_insert_with(|| Finder::new(self.chunk_size));
        finder.parse(
            &data,
            &RULES,
            &mut Queue::new([1, 2, 3, 4]),
            |start, step| writer.put(&data, start, &step),
        );
        writer.finish(0)
    }

    /// Encodes `data` with the matches of `old` where they still hold. What is shorter than `least` gets zeros
    /// between its two streams.
    pub(super) fn encode_like(
        &mut self,
        old: &[u8],
        mut data: Vec<u8>,
        least: usize,
    ) -> Option<Vec<u8>> {
        let mut was = vec![0; data.len()];
        let mut decoder = Decoder::new();
        decoder.watched(old, &mut was, &mut ()).ok()?;
        self.x86.apply(&mut data);
        let changed = matches::differences(&was, &data);
        let finder = match self.chunk_size > LOCAL_FROM {
            true => self.local.get_or_insert_with(Finder::local),
            false => self
                .finder
                .get_or_insert_with(|| Finder::new(self.chunk_size)),
        };
        let mut recent = Queue::new([1, 2, 3, 4]);
        let mut writer = Writer::new(&mut self.codes, data.len());
        let sink = |start, step| writer.put(&data, start, &step);
        let mut patcher =
            Patcher::new(finder, &data, &changed, &RULES, SHORTEST, &mut recent, sink);
        // the matches of a large chunk are too many to be kept: a second decoding tells them one by one
        decoder.watched(old, &mut was, &mut patcher).ok()?;
        patcher.finish();
        drop(was);
        Some(writer.finish(least))
    }
}

/// Chunks above this are searched only around what changed.
const LOCAL_FROM: u32 = 1 << 20;

struct Codes {
    planner: Planner,
    literal: WriteCode,
    offset: WriteCode,
    length: WriteCode,
    delta_offset: WriteCode,
    power: WriteCode,
}

struct Writer<'a> {
    codes: &'a mut Codes,
    range: RangeWriter,
    back: BackWriter,
    decide: Decisions,
    recent_deltas: Queue<(usize, u32)>,
}

impl<'a> Writer<'a> {
    fn new(codes: &'a mut Codes, size: usize) -> Self {
        let planner = &mut codes.planner;
        let offsets = offset_symbols(size);
        codes.literal.start(LITERALS, planner);
        codes.offset.start(offsets, planner);
        codes.length.start(LENGTHS, planner);
        codes.delta_offset.start(offsets, planner);
        codes.power.start(POWERS, planner);
        Writer {
            codes,
            range: RangeWriter::new(),
            back: BackWriter::default(),
            decide: Decisions::NEW,
            recent_deltas: Queue::new([(0, 1), (0, 2), (0, 3), (0, 4)]),
        }
    }

    fn put(&mut self, data: &[u8], start: usize, step: &Step) {
        let Writer {
            codes,
            range,
            back,
            decide,
            recent_deltas,
        } = self;
        let planner = &mut codes.planner;
        let at = start + step.literals as usize;
        for &byte in &data[start..at] {
            decide.is_match.write(range, false);
            codes.literal.put(usize::from(byte), back, planner);
        }
        if step.len == 0 {
            return;
        }
        decide.is_match.write(range, true);
        decide.is_delta.write(range, step.power.is_some());
        if let Some(power) = step.power {
            recent_deltas.settle(at);
            let source = (usize::from(power), step.offset);
            let repeat = recent_deltas.slots[..3]
                .iter()
                .position(|&slot| slot == source);
            decide.delta_repeats.write(range, repeat.is_some());
            if let Some(which) = repeat {
                put_which(&mut decide.delta_not_first, range, which);
                recent_deltas.pick(which);
            } else {
                codes.power.put(source.0, back, planner);
                codes
                    .delta_offset
                    .put_value(&OFFSET_SLOTS, step.offset, back, planner);
            }
            recent_deltas.used(source, at + step.len as usize);
        } else {
            decide.repeats.write(range, step.repeat.is_some());
            if let Some(which) = step.repeat {
                put_which(&mut decide.not_first, range, usize::from(which));
            } else {
                codes
                    .offset
                    .put_value(&OFFSET_SLOTS, step.offset, back, planner);
            }
        }
        codes
            .length
            .put_value(&LENGTH_SLOTS, step.len, back, planner);
    }

    /// At least `least` bytes.
    fn finish(self, least: usize) -> Vec<u8> {
        let front = self.range.finish();
        let behind = self.back.finish();
        // 7-Zip takes nothing shorter than that; what is between the two streams is not read.
        let words = (front.len() + behind.len()).max(LEAST_WORDS);
        let len = (words * 2).max(least & !1);
        let mut out = Vec::with_capacity(len);
        out.extend(front.iter().flat_map(|word| word.to_le_bytes()));
        out.resize(len - behind.len() * 2, 0);
        out.extend(behind.iter().rev().flat_map(|word| word.to_le_bytes()));
        out
    }
}

/// The counterpart of `which`.
fn put_which(not: &mut [Decision<64>; 2], range: &mut RangeWriter, which: usize) {
    not[0].write(range, which > 0);
    if which > 0 {
        not[1].write(range, which > 1);
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
            [1, 2, 8, 9, 12, 13].map(|offset| slot_of(&OFFSET_SLOTS, offset)),
            [0, 1, 7, 8, 8, 9]
        );
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
