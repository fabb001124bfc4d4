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
            let Some(found) = next(&data[at..=end]) else {
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

/// Pairs of bytes that are looked at together.
const BLOCK: usize = 32;

/// Whether two bytes can begin an instruction the translation looks at. E8 and E9 alone say it.
#[inline(always)]
fn is_lead(first: u8, second: u8) -> bool {
    (first & 0xFE == 0xE8)
        | (first & 0xFB == 0x48) & ((second == 0x8B) | (second == 0x8D))
        | (first == 0xF0) & (second == 0x83)
        | (first == 0xFF) & (second == 0x15)
}

/// Where the first pair of bytes is that can.
#[inline(always)]
fn next(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Without a branch per byte, so that all of a block are compared at once.
    while let Some(block) = data[at..].first_chunk::<{ BLOCK + 1 }>()
        && !(0..BLOCK).fold(false, |has, i| has | is_lead(block[i], block[i + 1]))
    {
        at += BLOCK;
    }
    let rest = &data[at..];
    let found = rest.windows(2).position(|pair| is_lead(pair[0], pair[1]));
    found.map(|found| at + found)
}
