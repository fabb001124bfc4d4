//! Writing: links of clusters that become free, and their count.

use super::{Fat, boot::Width, check::read_fsinfo, format::fsinfo, table::place_of};
use crate::{
    error::{At, Result},
    volume::{clusters::Taken, widths::wide},
};

/// Marks clusters as free in every copy; what an entry's other bits say stays.
pub(super) fn free(fat: &Fat, freed: &Taken) -> Result<()> {
    let mut count = 0_u64;
    for cluster in freed.runs().flat_map(|(first, end)| first..end) {
        let (at, len) = place_of(fat.geometry.width, cluster);
        for copy in 0..fat.geometry.fats {
            let place = fat.geometry.copy_start(copy).saturating_add(at);
            let mut raw = [0_u8; 4];
            let part = raw.get_mut(..len).unwrap_or_default();
            fat.device
                .read_at(place, part)
                .at("volume offset", format!("{place:#x}"))?;
            let keep: [u8; 4] = match fat.geometry.width {
                Width::Bits12 if cluster & 1 == 1 => [0x0F, 0, 0, 0],
                Width::Bits12 => [0, 0xF0, 0, 0],
                Width::Bits16 => [0; 4],
                Width::Bits32 => [0, 0, 0, 0xF0],
            };
            for (byte, keep) in part.iter_mut().zip(keep) {
                *byte &= keep;
            }
            fat.device.write_at(place, part)?;
        }
        count = count.saturating_add(1);
    }
    count_free(fat, count)
}

/// Adds to the free count of the FSInfo, if it knows one. The hint where to look for free clusters
/// stays: it is as good as before.
fn count_free(fat: &Fat, freed: u64) -> Result<()> {
    let Some((at, free, _, _)) = read_fsinfo(fat)? else {
        return Ok(());
    };
    if free == fsinfo::UNKNOWN || freed == 0 {
        return Ok(());
    }
    let sum = u64::from(free).saturating_add(freed);
    let new = match u32::try_from(sum) {
        Ok(new) if sum <= fat.geometry.heap.cluster_count => new,
        _ => fsinfo::UNKNOWN,
    };
    let place = at.saturating_add(wide(fsinfo::FREE));
    fat.device.write_at(place, &new.to_le_bytes())
}
