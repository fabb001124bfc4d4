//! The boot sector: where the FAT, the clusters and the root directory lie.

use super::format::{boot, sum32};
use crate::{
    bytes::{View, all_zero},
    device::Device,
    error::{At, Error, Result},
    volume::{
        clusters::{self, Heap},
        widths::{narrow, product, sum},
    },
};

/// What the boot sector says, checked. Offsets are volume offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes a sector.
    pub sector_len: u64,
    /// Where the first FAT starts.
    pub fat_start: u64,
    /// Bytes of one FAT.
    pub fat_len: u64,
    /// How many there are.
    pub fats: u64,
    /// The one that counts, and its bitmap.
    pub active: u64,
    /// First cluster of the root directory.
    pub root: u32,
    /// The clusters.
    pub heap: Heap,
    /// Flags of the volume as they were.
    pub flags: u16,
    /// Length of the volume.
    pub volume_len: u64,
}

impl Geometry {
    fn parse_view(view: View<'_>) -> Result<Self> {
        let wrong = |what: &str, found: u64| {
            Error::malformed(format!("exFAT boot sector: {what} expected, found {found}"))
        };
        let signature = view.u16(boot::SIGNATURE)?;
        if signature != boot::SIGNATURE_IS {
            return Err(wrong("signature 0xaa55", signature.into()));
        }
        if !all_zero(view.get(boot::MUST_BE_ZERO, boot::MUST_BE_ZERO_LEN)?) {
            return Err(Error::malformed(
                "exFAT boot sector: zeros expected at 0xb, found a parameter block of FAT",
            ));
        }
        let revision = view.u16(boot::REVISION)?;
        if revision >> 8 != 1 {
            return Err(Error::unsupported(format!(
                "exFAT boot sector: revision 1.x expected, found {revision:#06x}"
            )));
        }
        let sector_shift = view.u8(boot::SECTOR_SHIFT)?;
        if !matches!(sector_shift, 9..=12) {
            return Err(wrong("sectors of 2^9 to 2^12 bytes", sector_shift.into()));
        }
        let cluster_shift = view.u8(boot::CLUSTER_SHIFT)?;
        let shift = sector_shift.saturating_add(cluster_shift);
        if shift > 25 {
            return Err(wrong("clusters of at most 2^25 bytes", shift.into()));
        }
        let sector_len = 1_u64.wrapping_shl(sector_shift.into());
        let cluster_len = 1_u64.wrapping_shl(shift.into());
        let fats = u64::from(view.u8(boot::FATS)?);
        if !matches!(fats, 1 | 2) {
            return Err(wrong("1 or 2 FATs", fats));
        }
        let sectors = view.u64(boot::VOLUME_LENGTH)?;
        let volume_len = product(sectors, sector_len, "exFAT volume")?;
        let fat_offset = u64::from(view.u32(boot::FAT_OFFSET)?);
        if fat_offset < boot::FAT_OFFSET_LEAST {
            return Err(wrong("a FAT behind the boot regions", fat_offset));
        }
        let fat_start = product(fat_offset, sector_len, "exFAT FAT")?;
        let fat_len = product(view.u32(boot::FAT_LENGTH)?.into(), sector_len, "exFAT FAT")?;
        let heap_offset = u64::from(view.u32(boot::HEAP_OFFSET)?);
        let heap_start = product(heap_offset, sector_len, "exFAT cluster heap")?;
        let fat_end = sum(fat_start, product(fats, fat_len, "exFAT FAT")?, "exFAT FAT")?;
        if heap_start < fat_end {
            return Err(wrong("a cluster heap behind the FAT", heap_offset));
        }
        let cluster_count = u64::from(view.u32(boot::CLUSTER_COUNT)?);
        let heap_len = product(cluster_count, cluster_len, "exFAT cluster heap")?;
        let end = sum(heap_start, heap_len, "exFAT cluster heap")?;
        if cluster_count == 0 || cluster_count > boot::MOST_CLUSTERS || end > volume_len {
            return Err(wrong("clusters within the volume", cluster_count));
        }
        let entries = fat_len.checked_div(4).unwrap_or(0);
        if entries < cluster_count.saturating_add(2) {
            return Err(wrong("a FAT with room for all clusters", entries));
        }
        let flags = view.u16(boot::FLAGS)?;
        let active = u64::from(flags & boot::ACTIVE_FAT);
        if active >= fats {
            return Err(wrong("the number of a FAT", active));
        }
        let found = Self {
            sector_len,
            fat_start,
            fat_len,
            fats,
            active,
            root: view.u32(boot::ROOT_CLUSTER)?,
            heap: Heap {
                start: heap_start,
                cluster_len,
                cluster_count,
            },
            flags,
            volume_len,
        };
        if !found.heap.has(found.root) {
            return Err(wrong("a cluster of the root directory", found.root.into()));
        }
        Ok(found)
    }
}

impl clusters::Geometry for Geometry {
    fn parse(sector: &[u8]) -> Result<Self> {
        Self::parse_view(View::new(sector, "exFAT boot sector")).at("volume offset", "0x0")
    }

    fn heap(&self) -> &Heap {
        &self.heap
    }

    fn sector_len(&self) -> u64 {
        self.sector_len
    }

    fn volume_len(&self) -> u64 {
        self.volume_len
    }

    fn active_fat(&self) -> (u64, u64) {
        let before = self.active.saturating_mul(self.fat_len);
        (self.fat_start.saturating_add(before), self.fat_len)
    }
}

/// What is wrong with the boot region that starts at a sector: its checksum.
pub(super) fn region_problem(
    device: &Device,
    geometry: &Geometry,
    sector: u64,
) -> Result<Option<String>> {
    let start = product(sector, geometry.sector_len, "boot region")?;
    let len = narrow(
        product(boot::REGION_SECTORS, geometry.sector_len, "boot region")?,
        "boot region",
    )?;
    let mut region = vec![0; len];
    device
        .read_at(start, &mut region)
        .at("volume offset", format!("{start:#x}"))?;
    let sector_len = narrow(geometry.sector_len, "boot region")?;
    let (summed, sums) = region.split_at(len.saturating_sub(sector_len));
    let mut want = 0;
    for (at, byte) in summed.iter().enumerate() {
        if !boot::NOT_SUMMED.contains(&at) {
            want = sum32(want, *byte);
        }
    }
    let (sums, _) = sums.as_chunks::<4>();
    let other = sums.iter().find(|sum| u32::from_le_bytes(**sum) != want);
    Ok(other.map(|found| {
        format!(
            "exFAT boot region: checksum {want:#010x} expected, found {:#010x} (volume offset \
             {start:#x})",
            u32::from_le_bytes(*found)
        )
    }))
}
