//! Translation of x86 addresses in LZMS chunks.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; positions stay below the end, which is 16 bytes before that of the data

/// Translation of x86 addresses. It guesses what is code: two instructions referring to the same address (its low
/// 16 bits) within 64 KiB make the following bytes count as code.
#[derive(Default)]
pub(super) struct X86 {
    last_use: Vec<i32>,
}

const SAME_CODE: i32 = 65_535;
const STILL_CODE: i32 = 1023;
/// Nothing is translated from here to the end, nor at the very start.
const TAIL: usize = 16;

impl X86 {
    pub(super) fn undo(&mut self, data: &mut [u8]) {
        self.run::<false>(data);
    }

    pub(super) fn apply(&mut self, data: &mut [u8]) {
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
            while let Some(block) = data[at..end].first_chunk::<BLOCK>()
                && !has_lead(block)
            {
                at += BLOCK;
            }
            let Some(found) = data[at..end].iter().position(|&byte| is_lead(byte)) else {
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

/// Bytes that are looked at together.
const BLOCK: usize = 32;

/// Whether a byte can begin an instruction the translation looks at: 48, 4C, E8, E9, F0, FF.
#[inline(always)]
fn is_lead(byte: u8) -> bool {
    (byte & 0xFB == 0x48) | (byte & 0xFE == 0xE8) | (byte == 0xF0) | (byte == 0xFF)
}

/// Without a branch per byte, so that all are compared at once.
#[inline(always)]
fn has_lead(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(false, |has, &byte| has | is_lead(byte))
}
