//! XPRESS: one code of 512 symbols per chunk, its lengths first as 256 bytes of nibbles.
//! Symbols: 0..=255 literals; above, high nibble = log2 of the offset, low nibble = length - 3 (15: bytes follow).
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; `at` < out.len() by the loop, symbols < 512 by the table

use super::Fault;
use super::bits::WordReader;
use super::huffman::{Planner, Table, codewords};
use super::matches::{self, Finder, Forgetful, Parse, Rules, Step, Watch};
use super::optimal::{self, BIT, Candidates, Chooser, Limits, Prices, Trees};

const SYMBOLS: usize = 512;
const NIBBLES: usize = SYMBOLS / 2;
const SHORTEST: u32 = 3;
/// WIMGAPI wants it after the data (it would read as a match of 3 at offset 1).
const END_OF_DATA: usize = 256;

pub(super) struct Decoder {
    code: Table<11, 2048>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder { code: Table::new() }
    }

    pub(super) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        self.watched(input, out, &mut ())
    }

    fn watched<W: Watch>(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        let (nibbles, rest) = input.split_at_checked(NIBBLES).ok_or(Fault::Truncated)?;
        let mut lens = [0u8; SYMBOLS];
        for (pair, byte) in lens.chunks_exact_mut(2).zip(nibbles) {
            pair[0] = byte & 15;
            pair[1] = byte >> 4;
        }
        self.code.build(&lens)?;
        let mut bits = WordReader::new(rest);
        let result = self.symbols(&mut bits, out, watch);
        // past the end zeros were read, which may have been at fault in any way
        if bits.overran() {
            Err(Fault::Truncated)
        } else {
            result
        }
    }

    #[inline(always)]
    fn symbols<W: Watch>(
        &self,
        bits: &mut WordReader<'_>,
        out: &mut [u8],
        watch: &mut W,
    ) -> Result<(), Fault> {
        let mut at = 0usize;
        while at < out.len() {
            bits.refill();
            let (symbol, len) = self.code.look(bits.window())?;
            bits.skip(len);
            if symbol < 256 {
                out[at] = symbol as u8;
                at += 1;
                continue;
            }
            let mut len = symbol & 15;
            if len == 15 {
                len = long_length(bits)?;
                bits.refill();
            }
            let log = symbol >> 4 & 15;
            let offset = (1 << log) + bits.take(log);
            let len = (len + SHORTEST) as usize;
            matches::copy(out, at, offset as usize, len)?;
            watch.copied(at, len, offset);
            at += len;
        }
        Ok(())
    }
}

/// Length - 3 beyond the nibble: a byte to add, or 255 and the whole in a word.
#[cold]
fn long_length(bits: &mut WordReader<'_>) -> Result<u32, Fault> {
    let byte = bits.byte_between()?;
    if byte < 255 {
        return Ok(15 + u32::from(byte));
    }
    let low = bits.byte_between()?;
    let high = bits.byte_between()?;
    Ok(u32::from(u16::from_le_bytes([low, high])))
}

pub(super) struct Encoder {
    finder: Finder,
    planner: Planner,
    trees: Trees,
    found: Candidates,
    chooser: Chooser<Forgetful>,
}

const RULES: Rules = Rules {
    longest: 65_535,
    farthest: 65_535,
    depth: 16,
    enough: 128,
    literal: 48,
    explicit: 52,
    repeat: 0,
};

const LIMITS: Limits = Limits {
    shortest: SHORTEST as usize,
    longest: 65_535,
    farthest: 65_535,
    nice: 32,
    depth: 16,
};

/// For the few chunks of which the size matters more than the time.
const THOROUGH: Limits = Limits {
    nice: 32,
    depth: 64,
    ..LIMITS
};

/// Rounds of choosing by price.
const ROUNDS: usize = 1;
const THOROUGH_ROUNDS: usize = 3;

impl Encoder {
    pub(super) fn new() -> Self {
        Encoder {
            finder: Finder::new(1 << 16),
            planner: Planner::default(),
            trees: Trees::default(),
            found: Candidates::default(),
            chooser: Chooser::new(),
        }
    }

    pub(super) fn encode(&mut self, data: &[u8]) -> Vec<u8> {
        let mut steps = Vec::new();
        self.finder
            .parse(data, &RULES, &mut Forgetful, |_, step| steps.push(step));
        self.trees.gather(data, &LIMITS, &mut self.found);
        self.refine(data, &mut steps, &[], &LIMITS, ROUNDS);
        self.write(data, &steps)
    }

    /// Encodes `data` with the matches of `old` where they still hold.
    pub(super) fn encode_like(&mut self, old: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let mut was = vec![0; data.len()];
        let mut parse = Parse::default();
        Decoder::new().watched(old, &mut was, &mut parse).ok()?;
        let mut steps = Vec::new();
        self.finder.patch(
            data,
            &was,
            &parse,
            &RULES,
            SHORTEST,
            &mut Forgetful,
            |_, step| steps.push(step),
        );
        let mut best = self.write(data, &steps);
        let also = matches::offsets(&steps);
        self.trees.gather(data, &THOROUGH, &mut self.found);
        for _ in 0..THOROUGH_ROUNDS {
            self.refine(data, &mut steps, &also, &THOROUGH, 1);
            matches::shorter(&mut best, self.write(data, &steps));
        }
        Some(best)
    }

    /// Chooses anew by the prices of what is chosen.
    fn refine(
        &mut self,
        data: &[u8],
        steps: &mut Vec<Step>,
        also: &[u32],
        limits: &Limits,
        rounds: usize,
    ) {
        for _ in 0..rounds {
            let tariff = Tariff::new(&count(data, steps));
            steps.clear();
            self.chooser.choose(
                data,
                0..data.len(),
                &self.found,
                also,
                limits,
                &tariff,
                &mut Forgetful,
                steps,
            );
        }
    }

    fn write(&mut self, data: &[u8], steps: &[Step]) -> Vec<u8> {
        let freqs = count(data, steps);
        let mut lens = [0u8; SYMBOLS];
        let mut words = [0u16; SYMBOLS];
        self.planner.lengths(&freqs, 15, &mut lens);
        codewords(&lens, &mut words);

        let mut to = Writer::new(
            lens.chunks_exact(2)
                .map(|pair| pair[0] | pair[1] << 4)
                .collect(),
        );
        let mut at = 0usize;
        for step in steps {
            for &byte in &data[at..at + step.literals as usize] {
                to.put(
                    u32::from(words[usize::from(byte)]),
                    u32::from(lens[usize::from(byte)]),
                );
            }
            at += (step.literals + step.len) as usize;
            if step.len > 0 {
                let symbol = symbol_of(step);
                to.put(u32::from(words[symbol]), u32::from(lens[symbol]));
                let more = step.len - SHORTEST;
                if more >= 15 + 255 {
                    to.out.push(255);
                    to.out.extend_from_slice(&(more as u16).to_le_bytes());
                } else if more >= 15 {
                    to.out.push((more - 15) as u8);
                }
                let log = log_of(step.offset);
                to.put(step.offset - (1 << log), log);
            }
        }
        to.put(u32::from(words[END_OF_DATA]), u32::from(lens[END_OF_DATA]));
        to.finish()
    }
}

fn count(data: &[u8], steps: &[Step]) -> [u32; SYMBOLS] {
    let mut freqs = [0u32; SYMBOLS];
    let mut at = 0usize;
    for step in steps {
        for &byte in &data[at..at + step.literals as usize] {
            freqs[usize::from(byte)] += 1;
        }
        if step.len > 0 {
            freqs[symbol_of(step)] += 1;
        }
        at += (step.literals + step.len) as usize;
    }
    freqs[END_OF_DATA] += 1;
    freqs
}

struct Tariff([u32; SYMBOLS]);

impl Tariff {
    fn new(freqs: &[u32; SYMBOLS]) -> Self {
        let mut tariff = [0; SYMBOLS];
        optimal::prices(freqs, &mut tariff);
        Tariff(tariff)
    }
}

impl Prices for Tariff {
    #[inline(always)]
    fn literal(&self, byte: u8) -> u32 {
        self.0[usize::from(byte)]
    }

    #[inline(always)]
    fn explicit(&self, offset: u32) -> (usize, u32) {
        let log = log_of(offset);
        (256 + ((log as usize) << 4), log * BIT)
    }

    #[inline(always)]
    fn match_of(&self, row: usize, len: usize) -> u32 {
        let more = len - SHORTEST as usize;
        let bytes = match more {
            0..15 => 0,
            15..270 => 1,
            _ => 3,
        };
        self.0[row + more.min(15)] + bytes * 8 * BIT
    }
}

fn log_of(offset: u32) -> u32 {
    31 - offset.leading_zeros()
}

fn symbol_of(step: &Step) -> usize {
    (256 + (log_of(step.offset) << 4) + (step.len - SHORTEST).min(15)) as usize
}

/// Bits go into words whose places are reserved two ahead, bytes go where writing stands: what the decoder,
/// which keeps more than a word of bits in hand, expects.
struct Writer {
    out: Vec<u8>,
    places: [usize; 2],
    acc: u32,
    held: u32,
}

impl Writer {
    fn new(mut out: Vec<u8>) -> Self {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        Writer {
            out,
            places: [at, at + 2],
            acc: 0,
            held: 0,
        }
    }

    /// The low `count` (0..=15) bits.
    fn put(&mut self, value: u32, count: u32) {
        self.acc = self.acc << count | value;
        self.held += count;
        if self.held > 16 {
            self.held -= 16;
            self.store(self.acc >> self.held);
            self.places = [self.places[1], self.out.len()];
            self.out.extend_from_slice(&[0; 2]);
        }
    }

    fn store(&mut self, word: u32) {
        let place = self.places[0];
        self.out[place..place + 2].copy_from_slice(&(word as u16).to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        self.store(self.acc << (16 - self.held));
        self.out
    }
}
