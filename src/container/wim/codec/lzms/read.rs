//! Decodes LZMS chunks, or only tells what their items are.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; every item is checked against the size before it is made

use super::{
    super::{
        Fault,
        huffman::{Planner, Table},
        matches,
    },
    Adapting, Decision, Decisions, LENGTHS, LENS, LITERALS, OFFSETS, POWERS, Queue, Values,
    offset_symbols,
    x86::X86,
};

impl<const N: usize> Decision<N> {
    #[inline(always)]
    fn read(&mut self, range: &mut RangeReader<'_>) -> bool {
        let bit = range.bit(self.now().of_zero());
        self.learn(bit);
        bit == 1
    }
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

/// Bytes made of earlier ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) source: Source,
    /// Its source was one of those used recently.
    pub(super) repeat: bool,
}

/// Where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// So many bytes back.
    Lz(u32),
    /// Differences of values: log2 of the span between two of them, and how many spans back.
    Delta(u8, u32),
}

/// Takes the items of a chunk.
pub(super) trait Sink {
    fn literal(&mut self, at: usize, byte: u8);
    /// It lies inside the chunk, and so does its source.
    fn copied(&mut self, item: &Copied) -> Result<(), Fault>;
}

/// Makes the contents.
struct Contents<'a>(&'a mut [u8]);

impl Sink for Contents<'_> {
    #[inline(always)]
    fn literal(&mut self, at: usize, byte: u8) {
        self.0[at] = byte;
    }

    #[inline(always)]
    fn copied(&mut self, item: &Copied) -> Result<(), Fault> {
        let (at, len, out) = (item.at, item.len, &mut *self.0);
        match item.source {
            Source::Lz(offset) => matches::copy(out, at, offset as usize, len)?,
            Source::Delta(power, offset) => {
                let span = 1usize << power;
                let distance = (offset as usize) << power;
                for here in at..at + len {
                    out[here] = out[here - distance]
                        .wrapping_add(out[here - span])
                        .wrapping_sub(out[here - distance - span]);
                }
            }
        }
        Ok(())
    }
}

pub(in super::super) struct Decoder {
    planner: Planner,
    literal: ReadCode<10, 1024>,
    offset: ReadCode<10, 1024>,
    length: ReadCode<9, 512>,
    delta_offset: ReadCode<9, 512>,
    power: ReadCode<7, 128>,
    x86: X86,
}

impl Decoder {
    pub(in super::super) fn new() -> Self {
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

    pub(in super::super) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        self.untranslated(input, out)?;
        self.x86.undo(out);
        Ok(())
    }

    /// Leaves the x86 addresses translated.
    pub(super) fn untranslated(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        self.walk(input, out.len(), &mut Contents(out))
    }

    /// Tells the items of a chunk whose contents are `size` bytes.
    pub(super) fn walk<S: Sink>(
        &mut self,
        input: &[u8],
        size: usize,
        sink: &mut S,
    ) -> Result<(), Fault> {
        if input.len() < 4 || !input.len().is_multiple_of(2) {
            return Err(Fault::Truncated);
        }
        let mut back = BackReader::new(input);
        let result = self.items(input, &mut back, size, sink);
        if back.overran() {
            return Err(Fault::Truncated);
        }
        result
    }

    fn items<S: Sink>(
        &mut self,
        input: &[u8],
        back: &mut BackReader<'_>,
        size: usize,
        sink: &mut S,
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
        let offsets = offset_symbols(size);
        literal.start(LITERALS, planner)?;
        offset.start(offsets, planner)?;
        length.start(LENGTHS, planner)?;
        delta_offset.start(offsets, planner)?;
        power.start(POWERS, planner)?;
        let mut range = RangeReader::new(input);
        let mut decide = Decisions::NEW;
        let mut recent = Queue::new([1u32, 2, 3, 4]);
        let mut recent_deltas = Queue::new([(0u8, 1u32), (0, 2), (0, 3), (0, 4)]);
        let mut at = 0usize;
        while at < size {
            if !decide.is_match.read(&mut range) {
                sink.literal(at, literal.read(back, planner)? as u8);
                at += 1;
            } else {
                let is_delta = decide.is_delta.read(&mut range);
                let (source, repeat, reach) = if !is_delta {
                    recent.settle(at);
                    let repeat = decide.repeats.read(&mut range);
                    let distance = if repeat {
                        recent.pick(which(&mut decide.not_first, &mut range))
                    } else {
                        read_value(offset, &OFFSETS, back, planner)?
                    };
                    (Source::Lz(distance), repeat, u64::from(distance))
                } else {
                    recent_deltas.settle(at);
                    let repeat = decide.delta_repeats.read(&mut range);
                    let (shift, raw) = if repeat {
                        recent_deltas.pick(which(&mut decide.delta_not_first, &mut range))
                    } else {
                        let shift = power.read(back, planner)?;
                        let raw = read_value(delta_offset, &OFFSETS, back, planner)?;
                        (shift as u8, raw)
                    };
                    let reach = (u64::from(raw) + 1) << shift;
                    (Source::Delta(shift, raw), repeat, reach)
                };
                let len = read_value(length, &LENS, back, planner)? as usize;
                if reach > at as u64 {
                    return Err(Fault::BadMatch);
                }
                if len > size - at {
                    return Err(Fault::Overrun);
                }
                sink.copied(&Copied {
                    at,
                    len,
                    source,
                    repeat,
                })?;
                at += len;
                match source {
                    Source::Lz(distance) => recent.used(distance, at),
                    Source::Delta(shift, raw) => recent_deltas.used((shift, raw), at),
                }
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
    values: &Values,
    back: &mut BackReader<'_>,
    planner: &mut Planner,
) -> Result<u32, Fault> {
    let (base, raw) = values.slots[code.read(back, planner)?];
    Ok(if raw == 0 {
        base
    } else {
        base + back.read(u32::from(raw))
    })
}
