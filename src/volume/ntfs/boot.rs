//! The boot sector: the volume's geometry, validated once, trusted afterwards.

use super::format::boot;
use crate::{
    bytes::View,
    error::{Error, Result},
    units::{Lcn, VolumeOffset},
    volume::widths::{index, product, wide},
};

/// The largest cluster Windows makes (since Windows 10 1709). A larger one only serves to make a
/// reader allocate or shift too far (CVE-2026-48095).
const MAX_CLUSTER_LEN: u64 = 2 << 20;

/// Lengths and places every other structure is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes a sector.
    pub sector_len: u32,
    /// Bytes a cluster.
    pub cluster_len: u32,
    /// Bytes a file record.
    pub record_len: u32,
    /// Bytes an index block of a directory.
    pub index_len: u32,
    /// Sectors of the volume without the backup boot sector.
    pub total_sectors: u64,
    /// Whole clusters of the volume.
    pub cluster_count: u64,
    /// First cluster of $MFT.
    pub mft_lcn: Lcn,
    /// First cluster of $MFTMirr.
    pub mirror_lcn: Lcn,
    /// Volume serial number.
    pub serial: u64,
}

impl Geometry {
    /// Parses and validates a boot sector (at least 512 bytes).
    pub fn parse(sector: &[u8]) -> Result<Self> {
        let view = View::new(sector, "boot sector");
        let signature = view.get(boot::SIGNATURE, 8)?;
        if signature != b"NTFS    " {
            return Err(bad(
                boot::SIGNATURE,
                "signature NTFS",
                hex::encode(signature),
            ));
        }
        let sector_len = u32::from(view.u16(boot::SECTOR_LEN)?);
        if !matches!(sector_len, 256 | 512 | 1024 | 2048 | 4096) {
            return Err(bad(
                boot::SECTOR_LEN,
                "sector of 256 to 4096 bytes",
                sector_len,
            ));
        }
        let raw = view.u8(boot::SECTORS_PER_CLUSTER)?;
        let per_cluster = if raw <= 0x80 {
            u64::from(raw)
        } else {
            // 256 - raw is 1..=127.
            1u64.checked_shl(256u32.saturating_sub(u32::from(raw)))
                .unwrap_or(0)
        };
        let cluster = u64::from(sector_len).saturating_mul(per_cluster);
        if !per_cluster.is_power_of_two() || !(512..=MAX_CLUSTER_LEN).contains(&cluster) {
            return Err(bad(
                boot::SECTORS_PER_CLUSTER,
                "cluster of 512 bytes to 2 MiB, a power of two",
                format_args!("{raw:#04x} for sectors of {sector_len}"),
            ));
        }
        let cluster_len = u32::try_from(cluster).map_err(|_| Error::internal("cluster length"))?;
        let record_len = Self::counted(view, boot::RECORD_LEN, cluster)?;
        if !matches!(record_len, 1024 | 2048 | 4096) {
            return Err(bad(
                boot::RECORD_LEN,
                "file record of 1024, 2048 or 4096 bytes",
                record_len,
            ));
        }
        let index_len = Self::counted(view, boot::INDEX_LEN, cluster)?;
        if !(512..=65536).contains(&index_len) && index_len != cluster_len {
            return Err(bad(
                boot::INDEX_LEN,
                "index block of 512 bytes to 64 KiB",
                index_len,
            ));
        }
        let total_sectors = view.u64(boot::TOTAL_SECTORS)?;
        // Byte offsets must fit an i64, as they do for every driver.
        if total_sectors == 0
            || product(total_sectors, u64::from(sector_len), "volume length")
                .is_ok_and(|len| len > i64::MAX.unsigned_abs())
        {
            return Err(bad(boot::TOTAL_SECTORS, "sector count", total_sectors));
        }
        product(total_sectors, u64::from(sector_len), "volume length")?;
        let cluster_count = total_sectors.checked_div(per_cluster).unwrap_or(0);
        let mft_lcn = Lcn(view.u64(boot::MFT_LCN)?);
        let mirror_lcn = Lcn(view.u64(boot::MIRROR_LCN)?);
        for (lcn, at, what) in [
            (mft_lcn, boot::MFT_LCN, "$MFT inside the volume"),
            (mirror_lcn, boot::MIRROR_LCN, "$MFTMirr inside the volume"),
        ] {
            if lcn.get() == 0 || lcn.get() >= cluster_count {
                return Err(bad(at, what, format_args!("cluster {lcn}")));
            }
        }
        if mft_lcn == mirror_lcn {
            return Err(bad(
                boot::MIRROR_LCN,
                "$MFTMirr apart from $MFT",
                format_args!("both at cluster {mft_lcn}"),
            ));
        }
        Ok(Self {
            sector_len,
            cluster_len,
            record_len,
            index_len,
            total_sectors,
            cluster_count,
            mft_lcn,
            mirror_lcn,
            serial: view.u64(boot::SERIAL)?,
        })
    }

    /// A length that is clusters if positive, a power of two bytes if negative.
    fn counted(view: View<'_>, at: usize, cluster: u64) -> Result<u32> {
        let raw = i8::from_le_bytes(view.array(at)?);
        let len = if raw > 0 {
            cluster.saturating_mul(u64::from(raw.unsigned_abs()))
        } else {
            1u64.checked_shl(u32::from(raw.unsigned_abs())).unwrap_or(0)
        };
        match u32::try_from(len) {
            Ok(len) if len.is_power_of_two() && len >= 512 => Ok(len),
            _ => Err(bad(at, "a power of two of bytes", format_args!("{raw}"))),
        }
    }

    /// Bytes of the volume that the boot sector claims.
    #[must_use]
    pub fn volume_len(&self) -> u64 {
        self.total_sectors
            .saturating_mul(u64::from(self.sector_len))
    }

    /// Where a cluster starts. Saturates; a read there fails its bound.
    #[must_use]
    pub fn cluster_offset(&self, lcn: Lcn) -> VolumeOffset {
        VolumeOffset(lcn.get().saturating_mul(u64::from(self.cluster_len)))
    }

    /// Which cluster a byte lies in.
    #[must_use]
    pub fn cluster_of(&self, offset: VolumeOffset) -> Lcn {
        Lcn(offset
            .get()
            .checked_div(u64::from(self.cluster_len))
            .unwrap_or(0))
    }

    /// Clusters that hold `len` bytes.
    #[must_use]
    pub fn clusters_for(&self, len: u64) -> u64 {
        len.checked_add(u64::from(self.cluster_len).saturating_sub(1))
            .and_then(|n| n.checked_div(u64::from(self.cluster_len)))
            .unwrap_or(u64::MAX)
    }

    /// Bytes a file record, as an index.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        index(self.record_len)
    }

    /// How many records $MFTMirr repeats: at least four, or what fills a cluster.
    #[must_use]
    pub fn mirror_records(&self) -> u64 {
        u64::from(self.cluster_len)
            .checked_div(u64::from(self.record_len))
            .unwrap_or(0)
            .max(4)
    }
}

fn bad(at: usize, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::malformed(format!("boot sector: {expected} expected, found {found}"))
        .at("volume offset", format_args!("{:#x}", wide(at)))
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    /// A plausible boot sector: 512-byte sectors, 4 KiB clusters, 1024-byte records.
    pub(crate) fn sector() -> Vec<u8> {
        let mut s = vec![0; 512];
        s[3..11].copy_from_slice(b"NTFS    ");
        s[0x0B..0x0D].copy_from_slice(&512u16.to_le_bytes());
        s[0x0D] = 8;
        s[0x28..0x30].copy_from_slice(&131071u64.to_le_bytes());
        s[0x30..0x38].copy_from_slice(&4u64.to_le_bytes());
        s[0x38..0x40].copy_from_slice(&8191u64.to_le_bytes());
        s[0x40] = 0xF6;
        s[0x44] = 1;
        s
    }

    #[test]
    fn the_usual_volume_parses() {
        let g = Geometry::parse(&sector()).unwrap();
        assert_eq!(
            (g.cluster_len, g.record_len, g.index_len),
            (4096, 1024, 4096)
        );
        assert_eq!(g.cluster_count, 16383);
        assert_eq!(g.mirror_records(), 4);
        assert_eq!(g.clusters_for(4097), 2);
    }

    #[test]
    fn large_clusters_are_powers_counted_backwards() {
        let mut s = sector();
        s[0x0D] = 0xF4;
        s[0x28..0x30].copy_from_slice(&(1u64 << 30).to_le_bytes());
        assert_eq!(Geometry::parse(&s).unwrap().cluster_len, 2 << 20);
        s[0x0D] = 0xF3;
        assert!(Geometry::parse(&s).is_err());
    }

    #[test]
    fn hostile_boot_sectors_are_refused() {
        for (at, bytes) in [
            (0x0B, &[0u8, 0][..]),
            (0x0B, &[1, 0]),
            (0x0B, &[1, 2]),
            (0x0B, &[0xFF, 0xFF]),
            (0x0D, &[0]),
            (0x0D, &[3]),
            (0x0D, &[0x81]),
            (0x0D, &[0xE0]),
            (0x28, &[0; 8]),
            (0x28, &[0xFF; 8]),
            (0x30, &[0; 8]),
            (0x30, &[0xFF; 8]),
            (0x38, &[4, 0, 0, 0, 0, 0, 0, 0]),
            (0x40, &[0]),
            (0x40, &[0x80]),
            (0x40, &[0xF7]),
            (0x44, &[0]),
            (0x03, b"NTFS\0\0\0\0"),
        ] {
            let mut s = sector();
            s[at..at + bytes.len()].copy_from_slice(bytes);
            let error = Geometry::parse(&s).unwrap_err();
            assert_eq!(
                error.kind(),
                crate::error::Kind::Malformed,
                "{at:#x} {bytes:?}"
            );
        }
        assert!(Geometry::parse(&[0; 100]).is_err());
    }
}
