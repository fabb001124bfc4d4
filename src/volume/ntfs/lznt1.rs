//! LZNT1: NTFS's own compression, bounded. Source: [MS-XCA] 2.5.
//!
//! A unit of 16 clusters is stored plain (16 real clusters), as zeros (none) or compressed (some
//! real clusters, then holes). Compressed data is chunks of at most 4096 bytes.

use super::{Ntfs, runs::Run, stream::Stream};
use crate::{
    error::{Error, Result},
    units::Vcn,
    volume::widths::{narrow, wide},
};

/// Bytes a chunk decodes to at most.
const CHUNK_LEN: usize = 4096;
/// Windows compresses only on clusters up to 4 KiB, so a unit has 64 KiB; other writers go on to
/// 64 KiB clusters. More would let one byte of a file cost megabytes.
const MAX_UNIT_LEN: u64 = 1 << 20;

/// Reads `buf` from `start` of a compressed stream; all of it is below the initialised size.
pub(super) fn read_compressed(
    ntfs: &Ntfs,
    stream: &Stream,
    runs: &[Run],
    start: u64,
    buf: &mut [u8],
) -> Result<()> {
    let cluster_len = u64::from(ntfs.geometry.cluster_len);
    let unit_clusters = 1u64
        .checked_shl(u32::from(stream.compression_unit))
        .unwrap_or(0);
    let unit_len = cluster_len.saturating_mul(unit_clusters);
    if unit_len == 0 || unit_len > MAX_UNIT_LEN {
        return Err(Error::limit(format!(
            "compressed stream: a unit of at most {MAX_UNIT_LEN} bytes expected, found {unit_len}"
        )));
    }
    let unit_bytes = narrow(unit_len, "compression unit")?;
    let mut raw = vec![0; unit_bytes];
    let mut plain = vec![0; unit_bytes];
    let mut at = start;
    let mut rest = buf;
    while !rest.is_empty() {
        let unit = at.checked_div(unit_len).unwrap_or(0);
        let unit_start = unit.saturating_mul(unit_len);
        let first_vcn = unit.saturating_mul(unit_clusters);
        let inside = narrow(at.saturating_sub(unit_start), "compression unit")?;
        let now_len = unit_bytes.saturating_sub(inside).min(rest.len());
        let (now, later) = rest.split_at_mut(now_len);
        let real = real_clusters(runs, Vcn(first_vcn), unit_clusters)?;
        if real == 0 {
            now.fill(0);
        } else {
            let stored = narrow(real.saturating_mul(cluster_len), "compression unit")?;
            let Some(target) = raw.get_mut(..stored) else {
                return Err(Error::internal("compression unit: too long"));
            };
            ntfs.read_pieces(stream, unit_start, target)?;
            let source = if real == unit_clusters {
                &raw
            } else {
                decode(target, &mut plain)
                    .map_err(|e| e.at("file offset", format_args!("{unit_start:#x}")))?;
                &plain
            };
            match source.get(inside..inside.saturating_add(now_len)) {
                Some(part) => now.copy_from_slice(part),
                None => return Err(Error::internal("compression unit: range")),
            }
        }
        at = at.saturating_add(wide(now_len));
        rest = later;
    }
    Ok(())
}

/// How many clusters at the start of a unit are real; a real one behind a hole is an error.
fn real_clusters(runs: &[Run], first: Vcn, count: u64) -> Result<u64> {
    let end = first.get().saturating_add(count);
    let mut real = 0u64;
    let mut hole = false;
    let start = runs.partition_point(|run| run.end_vcn() <= first);
    for run in runs.get(start..).unwrap_or_default() {
        if run.vcn.get() >= end {
            break;
        }
        let from = run.vcn.get().max(first.get());
        let to = run.end_vcn().get().min(end);
        if run.lcn.is_none() {
            hole = true;
        } else if hole {
            return Err(Error::malformed(
                "compression unit: real clusters before holes expected, found them after",
            )
            .at("cluster of the stream", first));
        } else {
            real = real.saturating_add(to.saturating_sub(from));
        }
    }
    Ok(real)
}

/// Decodes chunks from `from` into `to`; what no chunk fills is zero. Never reads or writes
/// outside, whatever the input says.
pub fn decode(from: &[u8], to: &mut [u8]) -> Result<()> {
    let mut source = from;
    let mut chunks = to.chunks_mut(CHUNK_LEN);
    while let Some((header, rest)) = source.split_first_chunk::<2>() {
        let header = u16::from_le_bytes(*header);
        if header == 0 {
            break;
        }
        let len = usize::from(header & 0x0FFF).saturating_add(1);
        let Some(target) = chunks.next() else {
            break;
        };
        let Some((data, later)) = rest.split_at_checked(len) else {
            return Err(bad(
                "a chunk inside the unit",
                format_args!("{len} bytes, {} left", rest.len()),
            ));
        };
        let filled = if header & 0x8000 == 0 {
            let len = data.len().min(target.len());
            if let (Some(to), Some(from)) = (target.get_mut(..len), data.get(..len)) {
                to.copy_from_slice(from);
            }
            len
        } else {
            decode_chunk(data, target)?
        };
        if let Some(tail) = target.get_mut(filled..) {
            tail.fill(0);
        }
        source = later;
    }
    for target in chunks {
        target.fill(0);
    }
    Ok(())
}

/// One compressed chunk; returns the bytes written.
fn decode_chunk(data: &[u8], to: &mut [u8]) -> Result<usize> {
    let mut source = data.iter();
    let mut at = 0usize;
    while let Some(flags) = source.next() {
        for bit in 0..8u32 {
            let Some(first) = source.next() else {
                return Ok(at);
            };
            if flags & 1u8.wrapping_shl(bit) == 0 {
                match to.get_mut(at) {
                    Some(place) => *place = *first,
                    None => return Err(bad("at most 4096 bytes in a chunk", "more")),
                }
                at = at.saturating_add(1);
                continue;
            }
            let Some(second) = source.next() else {
                return Err(bad("a whole token", "half of one"));
            };
            let token = u16::from_le_bytes([*first, *second]);
            if at == 0 {
                return Err(bad("a literal first", "a back-reference"));
            }
            // The more is written, the more bits the displacement has: 4 up to 16 bytes, 12 at last.
            let written = u32::try_from(at.saturating_sub(1)).unwrap_or(u32::MAX);
            let bits = 32u32.saturating_sub(written.leading_zeros()).clamp(4, 12);
            let length_bits = 16u32.saturating_sub(bits);
            let back = usize::from(token.wrapping_shr(length_bits)).saturating_add(1);
            let mask = 1u16.wrapping_shl(length_bits).wrapping_sub(1);
            let len = usize::from(token & mask).saturating_add(3);
            let Some(from) = at.checked_sub(back) else {
                return Err(bad(
                    "a back-reference inside the chunk",
                    format_args!("{back} bytes back at {at}"),
                ));
            };
            if at.saturating_add(len) > to.len() {
                return Err(bad("at most 4096 bytes in a chunk", "more"));
            }
            // Overlapping on purpose: a run repeats what it has just written.
            for step in 0..len {
                let byte = to.get(from.saturating_add(step)).copied().unwrap_or(0);
                if let Some(place) = to.get_mut(at.saturating_add(step)) {
                    *place = byte;
                }
            }
            at = at.saturating_add(len);
        }
    }
    Ok(at)
}

fn bad(expected: &str, found: impl std::fmt::Display) -> Error {
    Error::malformed(format!("LZNT1 chunk: {expected} expected, found {found}"))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    #[test]
    fn the_example_of_the_specification_decodes() {
        // [MS-XCA] 3.3: a long run of one sentence.
        let data = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2,
            0x47, 0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0,
            0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58,
            0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01,
            0x18, 0x90, 0x00,
        ];
        let mut out = vec![0xEE; 4096];
        decode(&data, &mut out).unwrap();
        let text = String::from_utf8_lossy(&out);
        assert!(
            text.starts_with(
                "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D"
            )
        );
    }

    #[test]
    fn plain_chunks_ends_and_gaps() {
        let mut data = vec![0x02, 0x30, b'a', b'b', b'c'];
        data.extend_from_slice(&[0x03, 0xB0, 0x02, b'x', 0xFC, 0x0F]);
        let mut out = vec![0xEE; 12288];
        decode(&data, &mut out).unwrap();
        assert_eq!(&out[..4], b"abc\0");
        assert!(out[4..4096].iter().all(|b| *b == 0));
        assert!(out[4096..8192].iter().all(|b| *b == b'x'));
        assert!(out[8192..].iter().all(|b| *b == 0));
    }

    #[test]
    fn garbled_chunks_fail_inside_their_bounds() {
        for data in [
            &[0x00, 0xB0, 0x01][..],
            &[0x02, 0xB0, 0x01, 0x00, 0x00],
            &[0x03, 0xB0, 0x02, b'x', 0xFF, 0xFF],
            &[0xFF, 0xBF, 0],
            &[0xFF, 0x3F, 0],
        ] {
            let mut out = vec![0; 4096];
            let _ = decode(data, &mut out);
        }
        // Every two-byte disturbance of a valid chunk ends without a panic.
        let good = [0x06u8, 0xB0, 0x08, b'a', b'b', b'c', 0x00, 0x20, b'd'];
        for at in 0..good.len() {
            for value in 0..=255u8 {
                let mut data = good;
                data[at] = value;
                let mut out = vec![0; 8192];
                let _ = decode(&data, &mut out);
            }
        }
    }
}
