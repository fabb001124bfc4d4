//! Bit streams in 16-bit little-endian words, most significant bit first: the form LZX and XPRESS share.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; reads go through `get`, shifts stay below 64 by the `have` bound

use super::Fault;

/// Reader. Bits wait left-aligned in `buf`; past the end zeros are supplied and counted in `phantom`,
/// so that the hot loops need no end check and `overran` tells afterwards.
pub(super) struct WordReader<'a> {
    data: &'a [u8],
    pos: usize,
    buf: u64,
    have: u32,
    phantom: u32,
}

impl<'a> WordReader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        WordReader {
            data,
            pos: 0,
            buf: 0,
            have: 0,
            phantom: 0,
        }
    }

    /// After this at least 48 bits are in `buf`.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.have < 48 {
            if let Some(eight) = self
                .data
                .get(self.pos..)
                .and_then(|rest| rest.first_chunk::<8>())
            {
                // four words at once, the first on top; what does not fit comes again, the same bits
                const ODD: u64 = 0x0000_FFFF_0000_FFFF;
                let pairs = u64::from_le_bytes(*eight).rotate_left(32);
                let words = (pairs & ODD) << 16 | (pairs >> 16) & ODD;
                let count = 64_u32.wrapping_sub(self.have) / 16;
                self.buf |= words >> (self.have % 64);
                self.have = self.have.wrapping_add(count * 16);
                self.pos = self.pos.wrapping_add(2 * count as usize);
            } else {
                self.refill_at_end();
            }
        }
    }

    #[cold]
    fn refill_at_end(&mut self) {
        while self.have < 48 {
            match self
                .data
                .get(self.pos..)
                .and_then(|rest| rest.first_chunk::<2>())
            {
                Some(two) => {
                    self.buf |= u64::from(u16::from_le_bytes(*two)) << (48 - self.have);
                    self.pos += 2;
                }
                None => self.phantom += 16,
            }
            self.have += 16;
        }
        // all phantoms: forget those already read, else the counter could wrap on long garbage
        if self.phantom > 1 << 20 {
            self.phantom = 1 << 20;
        }
    }

    /// The left-aligned bits.
    #[inline(always)]
    pub(super) fn window(&self) -> u64 {
        self.buf
    }

    /// `count` is never more than what a refill leaves; no check, every symbol comes by here.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.buf = self.buf.wrapping_shl(count);
        self.have = self.have.wrapping_sub(count);
    }

    /// `count` (0..=32) bits; the caller has refilled.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let value = (self.buf >> 1) >> (63 - count);
        self.skip(count);
        value as u32
    }

    /// Refill and take.
    pub(super) fn read(&mut self, count: u32) -> u32 {
        self.refill();
        self.take(count)
    }

    /// Were bits read that the data does not hold?
    pub(super) fn overran(&self) -> bool {
        self.phantom > self.have
    }

    /// Gives words back to the data until `keep` whole words and the begun one remain.
    fn unread(&mut self, keep: u32) {
        let surplus = (self.have / 16).saturating_sub(keep);
        let hollow = surplus.min(self.phantom / 16);
        self.phantom -= hollow * 16;
        self.pos -= 2 * (surplus - hollow) as usize;
        self.have -= surplus * 16;
        self.buf = if self.have == 0 {
            0
        } else {
            self.buf >> (64 - self.have) << (64 - self.have)
        };
    }

    /// A whole byte lying between the words, where XPRESS puts long lengths:
    /// its place is right after the word that leaves 16..=31 bits unread.
    #[cold]
    pub(super) fn byte_between(&mut self) -> Result<u8, Fault> {
        self.refill();
        self.unread(1);
        let byte = *self.data.get(self.pos).ok_or(Fault::Truncated)?;
        self.pos += 1;
        Ok(byte)
    }

    /// Leaves bit mode at the next word border; at a border a whole word is dropped, as LZX wants.
    pub(super) fn leave_bits(&mut self) -> Result<(), Fault> {
        self.refill();
        let begun = self.have % 16;
        self.skip(if begun == 0 { 16 } else { begun });
        self.unread(0);
        if self.phantom > 0 {
            Err(Fault::Truncated)
        } else {
            Ok(())
        }
    }

    /// Bytes after `leave_bits`.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let data: &'a [u8] = self.data;
        let found = self
            .pos
            .checked_add(count)
            .and_then(|end| data.get(self.pos..end));
        let found = found.ok_or(Fault::Truncated)?;
        self.pos += count;
        Ok(found)
    }
}

/// Writer for LZX.
#[derive(Default)]
pub(super) struct WordWriter {
    out: Vec<u8>,
    acc: u64,
    held: u32,
}

/// A point of a `WordWriter` to go back to.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    len: usize,
    acc: u64,
    held: u32,
}

impl WordWriter {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            len: self.out.len(),
            acc: self.acc,
            held: self.held,
        }
    }

    /// Whole bytes written since `mark`.
    pub(super) fn since(&self, mark: Mark) -> usize {
        self.out.len() - mark.len
    }

    pub(super) fn rewind(&mut self, mark: Mark) {
        self.out.truncate(mark.len);
        self.acc = mark.acc;
        self.held = mark.held;
    }

    /// The counterpart of `WordReader::leave_bits`.
    pub(super) fn leave_bits(&mut self) {
        self.put(0, 16 - self.held);
    }

    /// Bytes after `leave_bits`.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends the low `count` (0..=32) bits of `value`.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u32, count: u32) {
        self.acc = (self.acc << count) | u64::from(value);
        self.held += count;
        while self.held >= 16 {
            self.held -= 16;
            self.out
                .extend_from_slice(&((self.acc >> self.held) as u16).to_le_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.held > 0 {
            self.put(0, 16 - self.held);
        }
        self.out
    }
}
