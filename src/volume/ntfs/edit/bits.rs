//! Clearing bits of `$Bitmap` and `$MFT:$BITMAP`; a bit that is not set is never passed over.
//!
//! Facts: facts/ntfs.md 1, rows 5 and 6.

use std::ops::Range;

use super::place::{read, write_stream};
use crate::{
    bytes::View,
    error::{Error, Result},
    volume::{
        ntfs::{Content, Ntfs, Stream},
        widths::{narrow, wide},
    },
};

/// Sorts ranges and merges neighbours; an overlap gives its first number.
pub(super) fn merge(mut ranges: Vec<Range<u64>>) -> std::result::Result<Vec<Range<u64>>, u64> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start < last.end => return Err(range.start),
            Some(last) if range.start == last.end => last.end = range.end,
            _ => out.push(range),
        }
    }
    Ok(out)
}

/// The part of a bitmap that holds these bits: byte offset and bytes.
fn load(vol: &Ntfs, bitmap: &Stream, bits: &Range<u64>, what: &str) -> Result<(u64, Vec<u8>)> {
    let first = bits.start >> 3;
    let last = bits.end.saturating_sub(1) >> 3;
    if last >= bitmap.data_len || last >= bitmap.initialised {
        return Err(Error::refused(format!(
            "{what}: bit {} expected inside it, it has {} bytes",
            bits.end.saturating_sub(1),
            bitmap.data_len
        )));
    }
    let len = last.saturating_sub(first).saturating_add(1);
    let bytes = match &bitmap.content {
        Content::Runs(_) => read(vol, bitmap, first, len, what)?,
        Content::Resident { bytes, .. } => View::new(bytes, "bitmap")
            .get(narrow(first, "bitmap")?, narrow(len, "bitmap")?)?
            .to_vec(),
    };
    Ok((first, bytes))
}

/// The bits of one byte of a loaded part that belong to a range.
fn mask(byte: u64, bits: &Range<u64>) -> u8 {
    let start = byte.saturating_mul(8);
    let low = bits.start.saturating_sub(start).min(8);
    let high = bits.end.saturating_sub(start).min(8);
    // low <= high <= 8, so neither shift leaves 16 bits.
    let ones = |n: u64| {
        u32::try_from(n)
            .ok()
            .and_then(|n| 1_u16.checked_shl(n))
            .unwrap_or(0)
            .wrapping_sub(1)
    };
    u8::try_from((ones(high) & !ones(low)) & 0xFF).unwrap_or(0)
}

/// The first bit of the range that is not set, if any.
pub(super) fn first_clear(
    vol: &Ntfs,
    bitmap: &Stream,
    bits: &Range<u64>,
    what: &str,
) -> Result<Option<u64>> {
    let (first, bytes) = load(vol, bitmap, bits, what)?;
    Ok(first_clear_in(first, &bytes, bits))
}

fn first_clear_in(first: u64, bytes: &[u8], bits: &Range<u64>) -> Option<u64> {
    bytes.iter().enumerate().find_map(|(i, byte)| {
        let place = first.saturating_add(wide(i));
        let missing = !byte & mask(place, bits);
        (missing != 0).then(|| {
            place
                .saturating_mul(8)
                .saturating_add(u64::from(missing.trailing_zeros()))
        })
    })
}

/// Whether one bit is set.
pub(super) fn is_set(vol: &Ntfs, bitmap: &Stream, bit: u64, what: &str) -> Result<bool> {
    Ok(first_clear(vol, bitmap, &(bit..bit.saturating_add(1)), what)?.is_none())
}

/// Clears bits that must all be set.
pub(super) fn clear(vol: &Ntfs, bitmap: &Stream, bits: &Range<u64>, what: &str) -> Result<()> {
    let (first, mut bytes) = load(vol, bitmap, bits, what)?;
    if let Some(bit) = first_clear_in(first, &bytes, bits) {
        return Err(Error::refused(format!(
            "{what}: bit {bit} expected set, found clear"
        )));
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte &= !mask(first.saturating_add(wide(i)), bits);
    }
    write_stream(vol, bitmap, first, &bytes, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
    use super::*;

    #[test]
    fn masks_cover_exactly_their_range() {
        for start in 0..30_u64 {
            for end in start + 1..40 {
                let mut set = Vec::new();
                for byte in 0..5 {
                    for bit in 0..8 {
                        if mask(byte, &(start..end)) >> bit & 1 == 1 {
                            set.push(byte * 8 + bit);
                        }
                    }
                }
                assert_eq!(set, (start..end).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_clear_bit_is_found() {
        assert_eq!(first_clear_in(2, &[0xFF, 0b1111_0111], &(17..28)), Some(27));
        assert_eq!(first_clear_in(2, &[0xFF, 0b1111_0111], &(17..27)), None);
    }

    #[test]
    fn ranges_merge_and_overlaps_are_found() {
        assert_eq!(merge(vec![5..7, 0..2, 2..3, 9..9]).unwrap(), [0..3, 5..7]);
        assert_eq!(merge(vec![5..7, 6..8]).unwrap_err(), 6);
    }
}
