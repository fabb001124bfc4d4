//! Encodes LZMS chunks.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loops; symbols are below the length of their code

use super::{
    super::{
        huffman::{Planner, codewords},
        matches::{self, Finder, Recent, Rules, Step},
    },
    Adapting, Decision, Decisions, LENGTHS, LENS, LITERALS, OFFSETS, POWERS, Queue, Values,
    follow::{Follower, PACES, Pages},
    offset_symbols,
    read::{Decoder, Source},
    x86::X86,
};

/// Costs are in these fractions of a bit.
pub(super) const BIT: i64 = 64;

/// What a decision costs whose probability is so many 64ths.
static COSTS: [u16; 65] = costs();

const fn costs() -> [u16; 65] {
    let mut table = [0; 65];
    let mut odds = 1;
    while odds <= 64 {
        // log2, its fraction bit by bit: squaring doubles it
        let mut log = (odds as u64).ilog2() as u64;
        let mut rest = ((odds as u64) << 32) >> log;
        let mut bit = 0;
        while bit < 6 {
            rest = ((rest as u128 * rest as u128) >> 32) as u64;
            log <<= 1;
            if rest >= 2 << 32 {
                rest >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        table[odds] = (6 * 64 - log) as u16;
        odds += 1;
    }
    table
}

impl<const N: usize> Decision<N> {
    fn write(&mut self, range: &mut RangeWriter, bit: bool) {
        range.put(bit, self.now().of_zero());
        self.learn(u32::from(bit));
    }

    fn cost(&self, bit: bool) -> i64 {
        let zero = self.odds[self.past % N].of_zero();
        let odds = if bit { 64 - zero } else { zero };
        i64::from(COSTS[odds as usize])
    }
}

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

    /// What a symbol costs now.
    fn cost(&self, symbol: usize) -> i64 {
        i64::from(self.model.lens[symbol]) * BIT
    }

    fn cost_value(&self, values: &Values, value: u32) -> i64 {
        let slot = values.slot_of(value);
        self.cost(slot) + i64::from(values.slots[slot].1) * BIT
    }

    fn put_value(
        &mut self,
        values: &Values,
        value: u32,
        back: &mut BackWriter,
        planner: &mut Planner,
    ) {
        let slot = values.slot_of(value);
        let (base, raw) = values.slots[slot];
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

struct Codes {
    planner: Planner,
    literal: WriteCode,
    offset: WriteCode,
    length: WriteCode,
    delta_offset: WriteCode,
    power: WriteCode,
}

pub(in super::super) struct Encoder {
    chunk_size: u32,
    /// For whole chunks; large, so only made when it is needed.
    finder: Option<Finder>,
    local: Option<Finder>,
    codes: Codes,
    x86: X86,
}

pub(super) const RULES: Rules = Rules {
    longest: 1 << 30,
    farthest: u32::MAX - 1,
    depth: 48,
    enough: 128,
    literal: 48,
    explicit: 60,
    repeat: 36,
};

/// Chunks above this are searched only around what changed.
const LOCAL_FROM: u32 = 1 << 20;

impl Encoder {
    pub(in super::super) fn new(chunk_size: u32) -> Self {
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
    pub(in super::super) fn encode(&mut self, input: &[u8]) -> Vec<u8> {
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

    /// Encodes `data` with the items of `old` where they still hold. `was` is what `old` holds. What becomes
    /// shorter than `old` gets zeros between its two streams. None: `old` is damaged.
    pub(in super::super) fn encode_like(
        &mut self,
        old: &[u8],
        was: Option<Vec<u8>>,
        mut data: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let mut decoder = Decoder::new();
        let was = match was {
            Some(mut was) => {
                self.x86.apply(&mut was);
                was
            }
            None => {
                let mut was = vec![0; data.len()];
                decoder.untranslated(old, &mut was).ok()?;
                was
            }
        };
        self.x86.apply(&mut data);
        let changed = matches::differences(&was, &data);
        drop(was);
        let pages = Pages::new(data.len(), &changed);
        let finder = match self.chunk_size > LOCAL_FROM {
            true => self.local.get_or_insert_with(Finder::local),
            false => self
                .finder
                .get_or_insert_with(|| Finder::new(self.chunk_size)),
        };
        let mut best: Option<Vec<u8>> = None;
        for pace in &PACES {
            let writer = Writer::new(&mut self.codes, data.len());
            let follower = Follower::new(&data, (&changed, &pages), pace, finder, writer);
            // the items of a large chunk are too many to be kept: each round decodes them again
            let made = follower.follow(&mut decoder, old).ok()?;
            let fits = made.len() <= old.len();
            if best.as_ref().is_none_or(|best| made.len() < best.len()) {
                best = Some(made);
            }
            if fits {
                break;
            }
        }
        best
    }
}

/// Writes item after item.
pub(super) struct Writer<'a> {
    codes: &'a mut Codes,
    range: RangeWriter,
    back: BackWriter,
    decide: Decisions,
    pub(super) recent: Queue<u32>,
    recent_deltas: Queue<(u8, u32)>,
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
            recent: Queue::new([1, 2, 3, 4]),
            recent_deltas: Queue::new([(0, 1), (0, 2), (0, 3), (0, 4)]),
        }
    }

    fn put(&mut self, data: &[u8], start: usize, step: &Step) {
        let at = start + step.literals as usize;
        for &byte in &data[start..at] {
            self.literal(byte);
        }
        if step.len > 0 {
            let source = Source::Lz(step.offset);
            self.copied(at, step.len as usize, source, step.repeat.is_some());
        }
    }

    pub(super) fn literal(&mut self, byte: u8) {
        let Codes {
            planner, literal, ..
        } = &mut *self.codes;
        self.decide.is_match.write(&mut self.range, false);
        literal.put(usize::from(byte), &mut self.back, planner);
    }

    /// `repeat`: it need not be said where from if that was used recently. Whether it was said.
    pub(super) fn copied(&mut self, at: usize, len: usize, source: Source, repeat: bool) -> bool {
        let Writer {
            codes,
            range,
            back,
            decide,
            recent,
            recent_deltas,
        } = self;
        let planner = &mut codes.planner;
        let end = at + len;
        decide.is_match.write(range, true);
        let is_said = match source {
            Source::Lz(offset) => {
                decide.is_delta.write(range, false);
                recent.settle(at);
                let known = recent.known(&offset).filter(|_| repeat);
                decide.repeats.write(range, known.is_some());
                if let Some(which) = known {
                    put_which(&mut decide.not_first, range, which);
                    recent.pick(which);
                } else {
                    codes.offset.put_value(&OFFSETS, offset, back, planner);
                }
                recent.used(offset, end);
                known.is_none()
            }
            Source::Delta(power, offset) => {
                decide.is_delta.write(range, true);
                recent_deltas.settle(at);
                let known = recent_deltas.known(&(power, offset)).filter(|_| repeat);
                decide.delta_repeats.write(range, known.is_some());
                if let Some(which) = known {
                    put_which(&mut decide.delta_not_first, range, which);
                    recent_deltas.pick(which);
                } else {
                    codes.power.put(usize::from(power), back, planner);
                    let code = &mut codes.delta_offset;
                    code.put_value(&OFFSETS, offset, back, planner);
                }
                recent_deltas.used((power, offset), end);
                known.is_none()
            }
        };
        codes.length.put_value(&LENS, len as u32, back, planner);
        is_said
    }

    /// What a literal would cost now.
    pub(super) fn cost_literal(&self, byte: u8) -> i64 {
        self.decide.is_match.cost(false) + self.codes.literal.cost(usize::from(byte))
    }

    /// What an LZ match would cost now; `repeat` as for [`Self::copied`].
    pub(super) fn cost_lz(&self, at: usize, len: usize, offset: u32, repeat: bool) -> i64 {
        let mut then = self.recent;
        then.settle(at);
        let source = match then.known(&offset).filter(|_| repeat) {
            Some(which) => self.cost_repeat(which),
            None => {
                let offset = self.codes.offset.cost_value(&OFFSETS, offset);
                self.decide.repeats.cost(false) + offset
            }
        };
        self.cost_match(len) + source
    }

    /// What a repeat of the last source but `which` would cost now besides [`Self::cost_match`].
    pub(super) fn cost_repeat(&self, which: usize) -> i64 {
        let [first, second] = &self.decide.not_first;
        let mut cost = self.decide.repeats.cost(true) + first.cost(which > 0);
        if which > 0 {
            cost += second.cost(which > 1);
        }
        cost
    }

    /// What is the same for every LZ match of a length.
    pub(super) fn cost_match(&self, len: usize) -> i64 {
        let length = &self.codes.length;
        self.decide.is_match.cost(true)
            + self.decide.is_delta.cost(false)
            + length.cost_value(&LENS, len as u32)
    }

    /// At least `least` bytes.
    pub(super) fn finish(self, least: usize) -> Vec<u8> {
        let front = self.range.finish();
        let behind = self.back.finish();
        // 7-Zip takes nothing shorter than that; what is between the two streams is not read.
        let words = (front.len() + behind.len()).max(LEAST_WORDS);
        let len = (words * 2).max(least & !1);
        let mut out = Vec::with_capacity(len);
        out.extend(front.iter().flat_map(|word| word.to_le_bytes()));
        drop(front);
        out.resize(len - behind.len() * 2, 0);
        out.extend(behind.iter().rev().flat_map(|word| word.to_le_bytes()));
        out
    }
}

/// The counterpart of `read::which`.
fn put_which(not: &mut [Decision<64>; 2], range: &mut RangeWriter, which: usize) {
    not[0].write(range, which > 0);
    if which > 0 {
        not[1].write(range, which > 1);
    }
}
