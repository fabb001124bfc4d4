//! Chunk codecs of WIM: XPRESS (MS-XCA LZ77 + Huffman), LZX in its WIM flavour, LZMS.
//!
//! A chunk is decoded alone, into a buffer of exactly its size; nothing outside that buffer is written and
//! every loop ends when it is full. Decoders keep their tables between chunks, encoders their search memory.

mod bits;
mod huffman;
mod lzms;
mod lzx;
mod matches;
mod optimal;
#[cfg(test)]
mod tests;
mod xpress;

pub(super) use matches::differences;

use std::fmt;
use std::ops::RangeInclusive;

/// What went wrong in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The compressed data ends before the chunk is full.
    Truncated,
    /// Code lengths that form no prefix code, or a codeword without a symbol.
    BadCode,
    /// A match reaching before the start of the chunk.
    BadMatch,
    /// An LZX block of unknown type, of size zero, or longer than the rest of the chunk.
    BadBlock,
    /// A match running past the end of the chunk.
    Overrun,
    /// A chunk size the method does not have, or a chunk longer than it.
    Size,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Truncated => "compressed data ends too early",
            Fault::BadCode => "invalid Huffman code",
            Fault::BadMatch => "match points before the start of the chunk",
            Fault::BadBlock => "invalid LZX block header",
            Fault::Overrun => "match runs past the end of the chunk",
            Fault::Size => "chunk size not allowed by the compression method",
        })
    }
}

impl std::error::Error for Fault {}

/// A compression method of WIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// MS-XCA LZ77 + Huffman ("fast").
    Xpress,
    /// LZX, WIM flavour ("max").
    Lzx,
    /// LZMS, the usual one of solid resources ("recovery", ESD).
    Lzms,
}

impl Method {
    /// Smallest and largest chunk size; only powers of two between them are legal.
    pub(super) fn chunk_sizes(self) -> RangeInclusive<u32> {
        match self {
            Method::Xpress => 1 << 12..=1 << 16,
            Method::Lzx => 1 << 15..=1 << 21,
            Method::Lzms => 1 << 15..=1 << 30,
        }
    }

    fn allows(self, chunk_size: u32) -> bool {
        chunk_size.is_power_of_two() && self.chunk_sizes().contains(&chunk_size)
    }
}

enum Reading {
    Xpress(Box<xpress::Decoder>),
    Lzx(Box<lzx::Decoder>),
    Lzms(Box<lzms::Decoder>),
}

/// Decodes chunk after chunk of one resource.
pub(super) struct Decoder {
    chunk_size: u32,
    inner: Reading,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("chunk_size", &self.chunk_size)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// `chunk_size` is that of the resource (for LZX also the window); a last chunk may be shorter.
    pub(super) fn new(method: Method, chunk_size: u32) -> Result<Self, Fault> {
        if !method.allows(chunk_size) {
            return Err(Fault::Size);
        }
        let inner = match method {
            Method::Xpress => Reading::Xpress(Box::new(xpress::Decoder::new())),
            Method::Lzx => Reading::Lzx(Box::new(lzx::Decoder::new(chunk_size))),
            Method::Lzms => Reading::Lzms(Box::new(lzms::Decoder::new())),
        };
        Ok(Decoder { chunk_size, inner })
    }

    /// Decodes exactly `out.len()` bytes. After a fault `out` holds rubbish.
    pub(super) fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        if u32::try_from(out.len()).map_or(true, |size| size > self.chunk_size) {
            return Err(Fault::Size);
        }
        match &mut self.inner {
            Reading::Xpress(decoder) => decoder.decode(input, out),
            Reading::Lzx(decoder) => decoder.decode(input, out),
            Reading::Lzms(decoder) => decoder.decode(input, out),
        }
    }
}

enum Writing {
    Xpress(Box<xpress::Encoder>),
    Lzx(Box<lzx::Encoder>),
    Lzms(Box<lzms::Encoder>),
}

/// Encodes chunk after chunk of one resource.
pub(super) struct Encoder {
    chunk_size: u32,
    inner: Writing,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("chunk_size", &self.chunk_size)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// `chunk_size` is that of the resource (for LZX also the window); a last chunk may be shorter.
    pub(super) fn new(method: Method, chunk_size: u32) -> Result<Self, Fault> {
        if !method.allows(chunk_size) {
            return Err(Fault::Size);
        }
        let inner = match method {
            Method::Xpress => Writing::Xpress(Box::new(xpress::Encoder::new())),
            Method::Lzx => Writing::Lzx(Box::new(lzx::Encoder::new(chunk_size))),
            Method::Lzms => Writing::Lzms(Box::new(lzms::Encoder::new(chunk_size))),
        };
        Ok(Encoder { chunk_size, inner })
    }

    /// Encodes one chunk; `None` when it would not get smaller (it is then stored raw).
    pub(super) fn encode(&mut self, input: &[u8]) -> Option<Vec<u8>> {
        if input.is_empty()
            || u32::try_from(input.len()).map_or(true, |size| size > self.chunk_size)
        {
            return None;
        }
        let packed = match &mut self.inner {
            Writing::Xpress(encoder) => encoder.encode(input),
            Writing::Lzx(encoder) => encoder.encode(input),
            Writing::Lzms(encoder) => encoder.encode(input),
        };
        (packed.len() < input.len()).then_some(packed)
    }

    /// Encodes contents that differ in few bytes from what `old` decodes to, with the matches of `old` where they
    /// still hold: hardly ever longer than `old`. If it is, the smaller of this and [`Self::encode`]. `None` as there.
    /// `was` is what `old` decodes to, if that is at hand: it spares LZMS a decoding.
    ///
    /// LZMS makes it just as long as `old` if it can. A fault: `old` is damaged.
    pub(super) fn encode_like(
        &mut self,
        old: &[u8],
        was: Option<Vec<u8>>,
        input: Vec<u8>,
    ) -> Option<Vec<u8>> {
        if input.is_empty()
            || u32::try_from(input.len()).map_or(true, |size| size > self.chunk_size)
        {
            return None;
        }
        let len = input.len();
        let small = len <= FRESH_MOST;
        let kept = small.then(|| input.clone());
        let alike = match &mut self.inner {
            Writing::Xpress(encoder) => encoder.encode_like(old, &input),
            Writing::Lzx(encoder) => encoder.encode_like(old, &input),
            Writing::Lzms(encoder) => encoder.encode_like(old, was, input),
        }
        .filter(|packed| packed.len() < len);
        if alike
            .as_ref()
            .is_some_and(|packed| packed.len() <= old.len())
        {
            return alike;
        }
        match (kept.and_then(|input| self.encode(&input)), alike) {
            (Some(fresh), Some(alike)) if alike.len() < fresh.len() => Some(alike),
            (None, alike) => alike,
            (fresh, _) => fresh,
        }
    }
}

/// Longer chunks are not encoded from scratch when the matches of the old one will do.
const FRESH_MOST: usize = 4 << 20;
