//! Writing: links, bits and the percentage of clusters that become free.

use super::{Exfat, ExfatFormat, format::boot};
use crate::{
    error::{At, Error, Result},
    volume::{
        clusters::{Chain, Geometry, PIECE, Run, Taken, Walk, zero_range},
        widths::{narrow, wide},
    },
};

/// Marks clusters as free, and unlinks those that the FAT links.
pub(super) fn free(
    exfat: &Exfat,
    walk: &Walk<ExfatFormat>,
    chains: &[Chain],
    freed: &Taken,
) -> Result<()> {
    let mut count = 0_u64;
    for chain in chains {
        if !chain.unlinked {
            for run in &chain.runs {
                zero_links(exfat, *run)?;
            }
        }
        count = count.saturating_add(chain.clusters);
    }
    for (first, end) in freed.runs() {
        clear_bits(exfat, walk, first, end)?;
    }
    set_percent(exfat, walk.seen.used.saturating_sub(count))
}

/// Zeroes the links of clusters in the FAT.
fn zero_links(exfat: &Exfat, run: Run) -> Result<()> {
    let at = u64::from(run.first).saturating_mul(4);
    let place = exfat.geometry.active_fat().0.saturating_add(at);
    let len = u64::from(run.count).saturating_mul(4);
    zero_range(exfat, place, len).map(|_| ())
}

/// Marks clusters as free in the bitmap.
fn clear_bits(exfat: &Exfat, walk: &Walk<ExfatFormat>, first: u32, end: u32) -> Result<()> {
    let (chain, _) = walk
        .seen
        .bitmap
        .as_ref()
        .ok_or_else(|| Error::refused("remove: an allocation bitmap expected, found none"))?;
    let start = u64::from(first).saturating_sub(2);
    let stop = u64::from(end).saturating_sub(2);
    let (from_byte, to_byte) = (start >> 3, stop.div_ceil(8));
    chain.each_piece(
        &exfat.geometry.heap,
        from_byte,
        to_byte,
        |place, from, to| {
            let mut done = from;
            while done < to {
                let take = to.saturating_sub(done).min(PIECE);
                let mut bits = vec![0; narrow(take, "allocation bitmap")?];
                let at = place.saturating_add(done.saturating_sub(from));
                exfat
                    .device
                    .read_at(at, &mut bits)
                    .at("volume offset", format!("{at:#x}"))?;
                for (i, byte) in bits.iter_mut().enumerate() {
                    let index = from_byte.saturating_add(done).saturating_add(wide(i));
                    for bit in 0..8_u8 {
                        let number = index.saturating_mul(8).saturating_add(bit.into());
                        if (start..stop).contains(&number) {
                            *byte &= !1_u8.wrapping_shl(bit.into());
                        }
                    }
                }
                exfat.device.write_at(at, &bits)?;
                done = done.saturating_add(take);
            }
            Ok(())
        },
    )
}

/// Keeps the percentage of the boot sector right, if it knows one (section 3.1.18). No checksum
/// counts it, and the backup's is stale by definition.
fn set_percent(exfat: &Exfat, used: u64) -> Result<()> {
    let at = wide(boot::PERCENT_IN_USE);
    let mut old = [0];
    exfat
        .device
        .read_at(at, &mut old)
        .at("volume offset", format!("{at:#x}"))?;
    let percent = used
        .saturating_mul(100)
        .checked_div(exfat.geometry.heap.cluster_count)
        .unwrap_or(0);
    let new = [u8::try_from(percent).unwrap_or(boot::PERCENT_UNKNOWN)];
    if old == [boot::PERCENT_UNKNOWN] || old == new {
        return Ok(());
    }
    exfat.device.write_at(at, &new)
}
