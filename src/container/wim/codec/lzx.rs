//! LZX as WIM has it: the window is the chunk, no stream header, x86 call translation always on.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; symbols are below the table sizes, `at` below the block end

use super::Fault;
use super::bits::{WordReader, WordWriter};
use super::huffman::{Planner, Table, codewords};
use super::matches::{self, Finder, Parse, Recent, Rules, Step, Watch};
use super::optimal::{self, BIT, Candidates, Chooser, Limits, Prices, Trees};

const LITERALS: usize = 256;
/// Each offset slot has eight main symbols: lengths 2..=8, and "a length symbol follows".
const HEADERS: usize = 8;
const SHORTEST: u32 = 2;
const LONGEST: u32 = 257;
const PRIMARY: u32 = 7;
const LENGTHS: usize = 249;
const ALIGNED: usize = 8;
const PRETREE: usize = 20;
const MOST_SLOTS: usize = 50;
const MOST_MAIN: usize = LITERALS + MOST_SLOTS * HEADERS;
/// Slots 0..3 name the recent offsets, so explicit ones are stored two higher.
const ADJUST: u32 = 2;

const VERBATIM: u32 = 1;
const ALIGNED_BLOCK: u32 = 2;
const UNCOMPRESSED: u32 = 3;
const USUAL_BLOCK: usize = 1 << 15;

/// The "file size" CAB would give the call translation; WIM fixes it.
const CALL_SPAN: i32 = 12_000_000;

const fn extra_bits(slot: usize) -> u32 {
    match slot {
        0..=3 => 0,
        4..=37 => slot as u32 / 2 - 1,
        _ => 17,
    }
}

/// First stored offset of each slot, and the raw bits that follow.
const SLOTS: [(u32, u32); MOST_SLOTS] = {
    let mut table = [(0, 0); MOST_SLOTS];
    let mut base = 0;
    let mut slot = 0;
    while slot < MOST_SLOTS {
        let extra = extra_bits(slot);
        table[slot] = (base, extra);
        base += 1 << extra;
        slot += 1;
    }
    table
};

/// Main symbols for a window size.
fn main_symbols(window: u32) -> usize {
    let slots = match window.trailing_zeros() {
        order @ 0..=19 => order as usize * 2,
        20 => 42,
        _ => MOST_SLOTS,
    };
    LITERALS + slots * HEADERS
}

pub(super) struct Decoder {
    window: u32,
    lens: Lens,
    main: Table<11, 2048>,
    length: Table<10, 1024>,
    aligned: Table<7, 128>,
    pretree: Table<7, 128>,
}

/// Code lengths, kept from block to block: each block stores differences.
#[derive(Clone)]
struct Lens {
    main: [u8; MOST_MAIN],
    length: [u8; LENGTHS],
}

impl Decoder {
    pub(super) fn new(chunk_size: u32) -> Self {
        Decoder {
            window: chunk_size,
            lens: Lens {
                main: [0; MOST_MAIN],
                length: [0; LENGTHS],
            },
            main: Table::new(),
            length: Table::new(),
            aligned: Table::new(),
            pretree: Table::new(),
        }
    }

    pub(super) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        self.watched(input, out, &mut ())?;
        calls_to_relative(out);
        Ok(())
    }

    /// Leaves the calls absolute.
    fn watched<W: Watch>(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        self.lens = Lens {
            main: [0; MOST_MAIN],
            length: [0; LENGTHS],
        };
        let mut bits = WordReader::new(input);
        let result = self.blocks(&mut bits, out, watch);
        // past the end zeros were read, which may have been at fault in any way
        if bits.overran() {
            return Err(Fault::Truncated);
        }
        result
    }

    fn blocks<W: Watch>(
        &mut self,
        bits: &mut WordReader<'_>,
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        let mut recent = [1u32; 3];
        let mut at = 0usize;
        while at < out.len() {
            let kind = bits.read(3);
            let size = if bits.read(1) == 1 {
                USUAL_BLOCK
            } else if self.window > 1 << 15 {
                bits.read(24) as usize
            } else {
                bits.read(16) as usize
            };
            if size == 0 || size > out.len() - at {
                return Err(Fault::BadBlock);
            }
            let end = at + size;
            watch.block(at);
            match kind {
                VERBATIM => {
                    self.read_codes(bits)?;
                    self.block::<false, W>(bits, &mut recent, &mut out[..end], at, watch)?;
                }
                ALIGNED_BLOCK => {
                    let mut lens = [0u8; ALIGNED];
                    lens.fill_with(|| bits.read(3) as u8);
                    self.aligned.build(&lens)?;
                    self.read_codes(bits)?;
                    self.block::<true, W>(bits, &mut recent, &mut out[..end], at, watch)?;
                }
                UNCOMPRESSED => {
                    bits.leave_bits()?;
                    for offset in &mut recent {
                        let four = bits.bytes(4)?.first_chunk::<4>().ok_or(Fault::Truncated)?;
                        *offset = u32::from_le_bytes(*four);
                    }
                    out[at..end].copy_from_slice(bits.bytes(size)?);
                    if size % 2 == 1 && end < out.len() {
                        bits.bytes(1)?;
                    }
                }
                _ => return Err(Fault::BadBlock),
            }
            if bits.overran() {
                return Err(Fault::Truncated);
            }
            at = end;
        }
        Ok(())
    }

    fn read_codes(&mut self, bits: &mut WordReader<'_>) -> Result<(), Fault> {
        let symbols = main_symbols(self.window);
        let (literals, matches) = self.lens.main[..symbols].split_at_mut(LITERALS);
        read_lens(&mut self.pretree, bits, literals)?;
        read_lens(&mut self.pretree, bits, matches)?;
        self.main.build(&self.lens.main[..symbols])?;
        read_lens(&mut self.pretree, bits, &mut self.lens.length)?;
        self.length.build(&self.lens.length)
    }

    /// Fills `out[at..]`.
    #[inline(always)]
    fn block<const ALIGN: bool, W: Watch>(
        &self,
        bits: &mut WordReader<'_>,
        recent: &mut [u32; 3],
        out: &mut [u8],
        mut at: usize,
        watch: &mut W,
    ) -> Result<(), Fault> {
        while at < out.len() {
            bits.refill();
            let (mut symbol, mut width) = self.main.look(bits.window())?;
            bits.skip(width);
            if symbol < LITERALS as u32 {
                out[at] = symbol as u8;
                at += 1;
                if at == out.len() {
                    break;
                }
                // a refill is good for three symbols: one more literal, or a match and its length
                (symbol, width) = self.main.look(bits.window())?;
                bits.skip(width);
                if symbol < LITERALS as u32 {
                    out[at] = symbol as u8;
                    at += 1;
                    continue;
                }
            }
            let symbol = symbol - LITERALS as u32;
            let mut len = symbol % HEADERS as u32;
            if len == PRIMARY {
                let (more, width) = self.length.look(bits.window())?;
                bits.skip(width);
                len += more;
            }
            len += SHORTEST;
            let slot = (symbol / HEADERS as u32) as usize;
            let offset = if slot < 3 {
                // not a queue: the used one trades places with the first
                recent.swap(0, slot);
                recent[0]
            } else {
                bits.refill();
                let (base, extra) = SLOTS[slot.min(MOST_SLOTS - 1)];
                let raw = if ALIGN && extra >= 3 {
                    let high = bits.take(extra - 3) << 3;
                    let (low, width) = self.aligned.look(bits.window())?;
                    bits.skip(width);
                    high + low
                } else {
                    bits.take(extra)
                };
                *recent = [base + raw - ADJUST, recent[0], recent[1]];
                recent[0]
            };
            matches::copy(out, at, offset as usize, len as usize)?;
            watch.copied(at, len as usize, offset);
            at += len as usize;
        }
        Ok(())
    }
}

/// Reads code lengths given as differences (modulo 17) to `lens`.
fn read_lens(
    pretree: &mut Table<7, 128>,
    bits: &mut WordReader<'_>,
    lens: &mut [u8],
) -> Result<(), Fault> {
    let mut widths = [0u8; PRETREE];
    widths.fill_with(|| bits.read(4) as u8);
    pretree.build(&widths)?;
    let mut at = 0usize;
    while at < lens.len() {
        let mut symbol = next_symbol(pretree, bits)?;
        let run = match symbol {
            17 => 4 + bits.read(4),
            18 => 20 + bits.read(5),
            19 => 4 + bits.read(1),
            _ => 1,
        };
        if symbol == 19 {
            symbol = next_symbol(pretree, bits)?;
            if symbol > 17 {
                return Err(Fault::BadCode);
            }
        } else if symbol > 16 {
            symbol = u32::MAX;
        }
        let len = if symbol == u32::MAX {
            0
        } else {
            ((u32::from(lens[at]) + 17 * 2 - symbol) % 17) as u8
        };
        // real encoders never let a run leave its section; like others we only cut it
        let end = (at + run as usize).min(lens.len());
        lens[at..end].fill(len);
        at = end;
    }
    Ok(())
}

fn next_symbol(pretree: &Table<7, 128>, bits: &mut WordReader<'_>) -> Result<u32, Fault> {
    bits.refill();
    let (symbol, len) = pretree.look(bits.window())?;
    bits.skip(len);
    Ok(symbol)
}

/// Visits the 4 bytes behind each E8 that the translation covers: none in the last ten bytes, none inside
/// another's operand.
fn each_call(data: &mut [u8], translate: impl Fn(i32, i32) -> Option<i32>) {
    let end = data.len().saturating_sub(10);
    let mut at = 0usize;
    while let Some(found) = data
        .get(at..end)
        .and_then(|rest| rest.iter().position(|&byte| byte == 0xE8))
    {
        let call = at + found;
        if let Some(operand) = data
            .get_mut(call + 1..)
            .and_then(|rest| rest.first_chunk_mut::<4>())
            && let Some(new) = translate(i32::from_le_bytes(*operand), call as i32)
        {
            *operand = new.to_le_bytes();
        }
        at = call + 5;
    }
}

fn calls_to_relative(data: &mut [u8]) {
    each_call(data, |target, at| match target {
        0.. if target < CALL_SPAN => Some(target - at),
        ..0 if target >= -at => Some(target + CALL_SPAN),
        _ => None,
    });
}

fn calls_to_absolute(data: &mut [u8]) {
    each_call(data, |relative, at| match relative {
        _ if relative < -at || relative >= CALL_SPAN => None,
        _ if relative < CALL_SPAN - at => Some(relative + at),
        _ => Some(relative - CALL_SPAN),
    });
}

/// The three recent offsets; using one swaps it to the front.
#[derive(Clone, Copy)]
struct Swapped([u32; 3]);

impl Recent for Swapped {
    fn offered(&self, _at: usize) -> [u32; 3] {
        self.0
    }
    fn take(&mut self, _at: usize, _end: usize, repeat: Option<u8>, offset: u32) {
        match repeat {
            Some(which) => self.0.swap(0, usize::from(which.min(2))),
            None => self.0 = [offset, self.0[0], self.0[1]],
        }
    }
}

pub(super) struct Encoder {
    window: u32,
    finder: Finder,
    planner: Planner,
    trees: Trees,
    found: Candidates,
    chooser: Chooser<Swapped>,
}

/// Symbol counts of a piece of the chunk.
#[derive(Clone)]
struct Counts {
    main: Vec<u32>,
    length: [u32; LENGTHS],
    aligned: [u32; ALIGNED],
    /// Steps and bytes covered.
    steps: usize,
    bytes: usize,
}

impl Counts {
    fn new(symbols: usize) -> Self {
        Counts {
            main: vec![0; symbols],
            length: [0; LENGTHS],
            aligned: [0; ALIGNED],
            steps: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, step: &Step, literals: &[u8]) {
        for &byte in literals {
            self.main[usize::from(byte)] += 1;
        }
        if step.len > 0 {
            let code = Coded::from(step);
            self.main[code.main] += 1;
            if let Some(length) = code.length {
                self.length[length] += 1;
            }
            if code.extra >= 3 {
                self.aligned[code.raw as usize & 7] += 1;
            }
        }
        self.steps += 1;
        self.bytes += (step.literals + step.len) as usize;
    }

    fn join(&mut self, other: &Counts) {
        for (own, more) in [
            (&mut self.main[..], &other.main[..]),
            (&mut self.length[..], &other.length[..]),
            (&mut self.aligned[..], &other.aligned[..]),
        ] {
            for (sum, count) in own.iter_mut().zip(more) {
                *sum += count;
            }
        }
        self.steps += other.steps;
        self.bytes += other.bytes;
    }

    /// Rough size in bits as a block of its own: entropy, and a few bits of header per used symbol.
    fn bits(&self) -> f32 {
        let mut bits = 150.0;
        for counts in [&self.main[..], &self.length[..]] {
            let total: u32 = counts.iter().sum();
            let log = (total.max(1) as f32).log2();
            for &count in counts.iter().filter(|&&count| count > 0) {
                bits += 3.5 + count as f32 * (log - (count as f32).log2());
            }
        }
        bits
    }
}

/// A match in terms of symbols and raw bits.
struct Coded {
    main: usize,
    length: Option<usize>,
    raw: u32,
    extra: u32,
}

impl From<&Step> for Coded {
    fn from(step: &Step) -> Self {
        let (slot, raw, extra) = match step.repeat {
            Some(which) => (usize::from(which), 0, 0),
            None => {
                let stored = step.offset + ADJUST;
                let slot = slot_of(stored);
                let (base, extra) = SLOTS[slot];
                (slot, stored - base, extra)
            }
        };
        let over = step.len - SHORTEST;
        let length = (over >= PRIMARY).then(|| (over - PRIMARY) as usize);
        Coded {
            main: LITERALS + slot * HEADERS + over.min(PRIMARY) as usize,
            length,
            raw,
            extra,
        }
    }
}

struct Coder {
    lens: Lens,
    main: [u16; MOST_MAIN],
    length: [u16; LENGTHS],
    aligned_lens: [u8; ALIGNED],
    aligned: [u16; ALIGNED],
}

/// Rounds of choosing by price.
const ROUNDS: usize = 1;
const THOROUGH_ROUNDS: usize = 3;
/// Bytes per piece when looking for block borders.
const PIECE: usize = 4096;

impl Encoder {
    pub(super) fn new(chunk_size: u32) -> Self {
        Encoder {
            window: chunk_size,
            finder: Finder::new(chunk_size),
            planner: Planner::default(),
            trees: Trees::default(),
            found: Candidates::default(),
            chooser: Chooser::new(),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            longest: LONGEST,
            farthest: self.farthest(),
            // a small chunk is gone through once more, by price
            depth: if self.window as usize > optimal::MOST {
                48
            } else {
                16
            },
            enough: 96,
            literal: 48,
            explicit: 52,
            repeat: 40,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            shortest: SHORTEST as usize,
            longest: LONGEST as usize,
            farthest: self.farthest() as usize,
            nice: 32,
            depth: 16,
        }
    }

    /// There is no slot for farther ones.
    fn farthest(&self) -> u32 {
        self.window - ADJUST - 1
    }

    pub(super) fn encode(&mut self, input: &[u8]) -> Vec<u8> {
        let mut data = input.to_vec();
        calls_to_absolute(&mut data);
        let rules = self.rules();
        let mut steps = Vec::new();
        self.finder
            .parse(&data, &rules, &mut Swapped([1; 3]), |_, step| {
                steps.push(step)
            });
        let blocks = self.split(&data, &steps);
        if data.len() > optimal::MOST {
            return self.write(&data, &steps, &blocks);
        }
        let limits = self.limits();
        self.trees.gather(&data, &limits, &mut self.found);
        let mut blocks = blocks;
        for _ in 0..ROUNDS {
            steps = self.choose(&data, &blocks, &[], &limits);
            blocks = self.split(&data, &steps);
        }
        self.write(&data, &steps, &blocks)
    }

    /// Encodes `input` with the matches of `old` where they still hold.
    pub(super) fn encode_like(&mut self, old: &[u8], input: &[u8]) -> Option<Vec<u8>> {
        let mut data = input.to_vec();
        calls_to_absolute(&mut data);
        let mut was = vec![0; data.len()];
        let mut parse = Parse::default();
        Decoder::new(self.window)
            .watched(old, &mut was, &mut parse)
            .ok()?;
        if parse.borders.len() > 2 + data.len() / 512 {
            // so many blocks are no good, and would take much memory
            parse.borders.clear();
        }
        let rules = self.rules();
        let mut patched = Vec::new();
        self.finder.patch(
            &data,
            &was,
            &parse,
            &rules,
            SHORTEST,
            &mut Swapped([1; 3]),
            |_, step| patched.push(step),
        );
        let old_cut = self.cut(&data, &patched, &parse.borders);
        let mut best = self.write(&data, &patched, &old_cut);
        let new_cut = self.split(&data, &patched);
        matches::shorter(&mut best, self.write(&data, &patched, &new_cut));
        if data.len() > optimal::MOST {
            return Some(best);
        }
        let also = matches::offsets(&patched);
        // the size matters more than the time
        let limits = Limits {
            nice: 32,
            depth: 64,
            ..self.limits()
        };
        self.trees.gather(&data, &limits, &mut self.found);
        for (mut blocks, keep) in [(old_cut, true), (new_cut, false)] {
            for _ in 0..THOROUGH_ROUNDS {
                let steps = self.choose(&data, &blocks, &also, &limits);
                blocks = if keep {
                    self.cut(&data, &steps, &parse.borders)
                } else {
                    self.split(&data, &steps)
                };
                matches::shorter(&mut best, self.write(&data, &steps, &blocks));
            }
        }
        Some(best)
    }

    /// The cheapest steps by the prices of what `blocks` hold now; none crosses their borders.
    fn choose(
        &mut self,
        data: &[u8],
        blocks: &[Counts],
        also: &[u32],
        limits: &Limits,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut recent = Swapped([1; 3]);
        let mut at = 0usize;
        for block in blocks {
            let tariff = Tariff::new(block);
            let range = at..at + block.bytes;
            at = range.end;
            self.chooser.choose(
                data,
                range,
                &self.found,
                also,
                limits,
                &tariff,
                &mut recent,
                &mut steps,
            );
        }
        steps
    }

    /// Cuts into blocks at `borders`, which no step crosses.
    fn cut(&self, data: &[u8], steps: &[Step], borders: &[usize]) -> Vec<Counts> {
        let fresh = || Counts::new(main_symbols(self.window));
        let mut blocks: Vec<Counts> = Vec::new();
        let mut block = fresh();
        let mut at = 0usize;
        for step in steps {
            if block.bytes > 0 && borders.binary_search(&at).is_ok() {
                blocks.push(std::mem::replace(&mut block, fresh()));
            }
            block.add(step, &data[at..at + step.literals as usize]);
            at += (step.literals + step.len) as usize;
        }
        blocks.push(block);
        blocks
    }

    /// Cuts into blocks of like contents.
    fn split(&self, data: &[u8], steps: &[Step]) -> Vec<Counts> {
        let fresh = || Counts::new(main_symbols(self.window));
        let mut blocks: Vec<Counts> = Vec::new();
        let mut piece = fresh();
        let mut at = 0usize;
        for step in steps {
            if step.literals as usize >= PIECE / 4 && piece.bytes > 0 {
                append(&mut blocks, std::mem::replace(&mut piece, fresh()));
            }
            piece.add(step, &data[at..at + step.literals as usize]);
            at += (step.literals + step.len) as usize;
            if piece.bytes >= PIECE {
                append(&mut blocks, std::mem::replace(&mut piece, fresh()));
            }
        }
        if piece.bytes > 0 {
            append(&mut blocks, piece);
        }
        blocks
    }

    fn write(&mut self, data: &[u8], steps: &[Step], blocks: &[Counts]) -> Vec<u8> {
        let mut to = WordWriter::default();
        let mut coder = Coder {
            lens: Lens {
                main: [0; MOST_MAIN],
                length: [0; LENGTHS],
            },
            main: [0; MOST_MAIN],
            length: [0; LENGTHS],
            aligned_lens: [0; ALIGNED],
            aligned: [0; ALIGNED],
        };
        let mut at = 0usize;
        let mut rest = steps;
        let mut recent = Swapped([1; 3]);
        for block in blocks {
            let (mine, others) = rest.split_at(block.steps);
            let bytes = &data[at..at + block.bytes];
            for step in mine.iter().filter(|step| step.len > 0) {
                recent.take(0, 0, step.repeat, step.offset);
            }
            let start = to.mark();
            let lens = coder.lens.clone();
            coder.write(&mut to, &mut self.planner, self.window, block, mine, bytes);
            if to.since(start) > bytes.len() + 20 {
                to.rewind(start);
                coder.lens = lens;
                write_raw(&mut to, self.window, &recent, bytes);
            }
            rest = others;
            at += block.bytes;
        }
        to.finish()
    }
}

/// Slot of an offset as stored.
#[inline(always)]
fn slot_of(stored: u32) -> usize {
    if stored >= 1 << 18 {
        (34 + (stored >> 17)) as usize
    } else {
        let log = 31 - stored.leading_zeros();
        (log * 2 + (stored >> (log - 1) & 1)) as usize
    }
}

/// What symbols cost in a block.
struct Tariff {
    main: [u32; MOST_MAIN],
    length: [u32; LENGTHS],
    /// Beyond the raw bits: so much more or less than them.
    aligned: [u32; ALIGNED],
    align: bool,
}

impl Tariff {
    fn new(block: &Counts) -> Self {
        let mut tariff = Tariff {
            main: [0; MOST_MAIN],
            length: [0; LENGTHS],
            aligned: [0; ALIGNED],
            align: false,
        };
        optimal::prices(&block.main, &mut tariff.main);
        optimal::prices(&block.length, &mut tariff.length);
        optimal::prices(&block.aligned, &mut tariff.aligned);
        let total = |prices: [u32; ALIGNED]| -> u32 {
            prices
                .iter()
                .zip(block.aligned)
                .map(|(price, count)| price / 4 * count)
                .sum()
        };
        tariff.align =
            total(tariff.aligned) + 3 * ALIGNED as u32 * BIT / 4 < total([3 * BIT; ALIGNED]);
        tariff
    }
}

impl Prices for Tariff {
    #[inline(always)]
    fn literal(&self, byte: u8) -> u32 {
        self.main[usize::from(byte)]
    }

    #[inline(always)]
    fn explicit(&self, offset: u32) -> (usize, u32) {
        let stored = offset + ADJUST;
        let slot = slot_of(stored);
        let extra = SLOTS[slot].1;
        let raw = if self.align && extra >= 3 {
            (extra - 3) * BIT + self.aligned[stored as usize & 7]
        } else {
            extra * BIT
        };
        (slot, raw)
    }

    #[inline(always)]
    fn match_of(&self, row: usize, len: usize) -> u32 {
        let over = len - SHORTEST as usize;
        let header = self.main[LITERALS + row * HEADERS + over.min(PRIMARY as usize)];
        match over.checked_sub(PRIMARY as usize) {
            Some(more) => header + self.length[more],
            None => header,
        }
    }
}

/// Adds a piece to the last block if that does not cost more than a new block.
fn append(blocks: &mut Vec<Counts>, piece: Counts) {
    if let Some(last) = blocks.last_mut() {
        let mut joined = last.clone();
        joined.join(&piece);
        if joined.bits() <= last.bits() + piece.bits() {
            *last = joined;
            return;
        }
    }
    blocks.push(piece);
}

impl Coder {
    fn write(
        &mut self,
        to: &mut WordWriter,
        planner: &mut Planner,
        window: u32,
        block: &Counts,
        steps: &[Step],
        data: &[u8],
    ) {
        let symbols = block.main.len();
        let old_main = self.lens.main;
        let old_length = self.lens.length;
        planner.lengths(&block.main, 16, &mut self.lens.main[..symbols]);
        planner.lengths(&block.length, 16, &mut self.lens.length);
        planner.lengths(&block.aligned, 7, &mut self.aligned_lens);
        codewords(&self.lens.main[..symbols], &mut self.main[..symbols]);
        codewords(&self.lens.length, &mut self.length);
        codewords(&self.aligned_lens, &mut self.aligned);
        let plain: u32 = block.aligned.iter().sum::<u32>() * 3;
        let coded: u32 = block
            .aligned
            .iter()
            .zip(self.aligned_lens)
            .map(|(&count, len)| count * u32::from(len))
            .sum();
        let align = coded + 3 * (ALIGNED as u32) < plain;

        write_head(
            to,
            window,
            if align { ALIGNED_BLOCK } else { VERBATIM },
            block.bytes,
        );
        if align {
            for len in self.aligned_lens {
                to.put(u32::from(len), 3);
            }
        }
        write_lens(
            to,
            planner,
            &old_main[..LITERALS],
            &self.lens.main[..LITERALS],
        );
        write_lens(
            to,
            planner,
            &old_main[LITERALS..symbols],
            &self.lens.main[LITERALS..symbols],
        );
        write_lens(to, planner, &old_length, &self.lens.length);

        let mut at = 0usize;
        for step in steps {
            for &byte in &data[at..at + step.literals as usize] {
                to.put(
                    u32::from(self.main[usize::from(byte)]),
                    u32::from(self.lens.main[usize::from(byte)]),
                );
            }
            at += (step.literals + step.len) as usize;
            if step.len == 0 {
                continue;
            }
            let code = Coded::from(step);
            to.put(
                u32::from(self.main[code.main]),
                u32::from(self.lens.main[code.main]),
            );
            if let Some(length) = code.length {
                to.put(
                    u32::from(self.length[length]),
                    u32::from(self.lens.length[length]),
                );
            }
            if align && code.extra >= 3 {
                to.put(code.raw >> 3, code.extra - 3);
                let low = code.raw as usize & 7;
                to.put(
                    u32::from(self.aligned[low]),
                    u32::from(self.aligned_lens[low]),
                );
            } else {
                to.put(code.raw, code.extra);
            }
        }
    }
}

fn write_head(to: &mut WordWriter, window: u32, kind: u32, size: usize) {
    to.put(kind, 3);
    if size == USUAL_BLOCK {
        to.put(1, 1);
    } else {
        to.put(0, 1);
        to.put(size as u32, if window > 1 << 15 { 24 } else { 16 });
    }
}

/// An uncompressed block; `recent` as it is after the block.
fn write_raw(to: &mut WordWriter, window: u32, recent: &Swapped, bytes: &[u8]) {
    write_head(to, window, UNCOMPRESSED, bytes.len());
    to.leave_bits();
    for offset in recent.0 {
        to.bytes(&offset.to_le_bytes());
    }
    to.bytes(bytes);
    if bytes.len() % 2 == 1 {
        to.bytes(&[0]);
    }
}

/// Writes `new` as differences to `old`, with runs.
fn write_lens(to: &mut WordWriter, planner: &mut Planner, old: &[u8], new: &[u8]) {
    // (pretree symbol, run bits, their number, difference after a run of equals)
    let mut items: Vec<(usize, u32, u32, Option<usize>)> = Vec::new();
    let mut at = 0usize;
    while at < new.len() {
        let len = new[at];
        let run = new[at..].iter().take_while(|&&other| other == len).count();
        let difference = usize::from((old[at] + 17 - len) % 17);
        let taken = match run {
            20.. if len == 0 => {
                let taken = run.min(51);
                items.push((18, taken as u32 - 20, 5, None));
                taken
            }
            4.. if len == 0 => {
                items.push((17, run as u32 - 4, 4, None));
                run
            }
            4.. => {
                let taken = run.min(5);
                items.push((19, taken as u32 - 4, 1, Some(difference)));
                taken
            }
            _ => {
                items.push((difference, 0, 0, None));
                1
            }
        };
        at += taken;
    }
    let mut freqs = [0u32; PRETREE];
    for (symbol, _, _, after) in &items {
        freqs[*symbol] += 1;
        if let Some(difference) = after {
            freqs[*difference] += 1;
        }
    }
    let mut lens = [0u8; PRETREE];
    let mut words = [0u16; PRETREE];
    planner.lengths(&freqs, 15, &mut lens);
    codewords(&lens, &mut words);
    for len in lens {
        to.put(u32::from(len), 4);
    }
    for (symbol, raw, count, after) in items {
        to.put(u32::from(words[symbol]), u32::from(lens[symbol]));
        to.put(raw, count);
        if let Some(difference) = after {
            to.put(u32::from(words[difference]), u32::from(lens[difference]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_translation_is_undone() {
        let mut data: Vec<u8> = (0..60_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for at in (0..data.len() - 5).step_by(7) {
            data[at] = 0xE8;
            let operand = (at as i32 * 37 - 1_000_000).to_le_bytes();
            data[at + 1..at + 5].copy_from_slice(&operand);
        }
        let mut copy = data.clone();
        calls_to_absolute(&mut copy);
        assert_ne!(copy, data);
        calls_to_relative(&mut copy);
        assert_eq!(copy, data);
    }

    #[test]
    fn incompressible_blocks_are_stored_in_packed_chunks() {
        let mut state = 1u64;
        for odd in [0, 1] {
            let mut data = vec![b'x'; 16_000];
            data.extend((0..16_000 + odd).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            }));
            let packed = Encoder::new(1 << 15).encode(&data);
            assert!(packed.len() < 16_300);
            assert!(
                packed
                    .windows(64)
                    .any(|bytes| bytes == &data[20_000..20_064])
            );
            let mut out = vec![0; data.len()];
            assert_eq!(Decoder::new(1 << 15).decode(&packed, &mut out), Ok(()));
            assert_eq!(out, data);
        }
    }

    #[test]
    fn slots_cover_every_window() {
        for order in 15..=21 {
            let slots = (main_symbols(1 << order) - LITERALS) / HEADERS;
            let (base, extra) = SLOTS[slots - 1];
            assert_eq!(base + (1 << extra), 1 << order, "order {order}");
        }
    }
}
