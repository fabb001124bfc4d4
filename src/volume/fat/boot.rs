//! The boot sector: where the FATs, the root directory and the clusters lie.

use super::format::{self, boot};
use crate::{
    bytes::View,
    error::{At, Error, Result},
    volume::{
        clusters::{self, Heap},
        widths::{product, sum},
    },
};

/// Bits of an entry of the FAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// FAT12.
    Bits12,
    /// FAT16.
    Bits16,
    /// FAT32, of which 28 count.
    Bits32,
}

/// Where the root directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Between the FATs and the clusters: volume offset and length.
    Fixed(u64, u64),
    /// A chain of clusters like every other directory.
    Chain(u32),
}

/// What the boot sector says, checked. Offsets are volume offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// FAT12, FAT16 or FAT32.
    pub width: Width,
    /// Bytes a sector.
    pub sector_len: u64,
    /// Where the first FAT starts.
    pub fat_start: u64,
    /// Bytes of one FAT.
    pub fat_len: u64,
    /// How many there are.
    pub fats: u64,
    /// The one that is read.
    pub active: u64,
    /// The root directory.
    pub root: Root,
    /// The clusters.
    pub heap: Heap,
    /// Whether the FAT is too short for all clusters of the volume.
    pub short_fat: bool,
    /// The FSInfo sector.
    pub fsinfo: Option<u64>,
    /// Volume offset of the flags byte, and what it was, where it exists.
    pub flags: Option<(u64, u8)>,
    /// Length of the volume.
    pub volume_len: u64,
}

impl Geometry {
    fn parse_view(view: View<'_>) -> Result<Self> {
        let wrong = |what: &str, found: u64| {
            Error::malformed(format!("FAT boot sector: {what} expected, found {found}"))
        };
        let sector_len = u64::from(view.u16(boot::SECTOR_LEN)?);
        if !matches!(sector_len, 512 | 1024 | 2048 | 4096) {
            return Err(wrong("sectors of 512 to 4096 bytes", sector_len));
        }
        let cluster_sectors = view.u8(boot::CLUSTER_SECTORS)?;
        if !cluster_sectors.is_power_of_two() {
            return Err(wrong(
                "a power of two of sectors a cluster",
                cluster_sectors.into(),
            ));
        }
        let cluster_len = product(sector_len, cluster_sectors.into(), "FAT cluster")?;
        let reserved = u64::from(view.u16(boot::RESERVED)?);
        if reserved == 0 {
            return Err(wrong("a reserved sector", 0));
        }
        let fats = u64::from(view.u8(boot::FATS)?);
        if !matches!(fats, 1 | 2) {
            return Err(wrong("1 or 2 FATs", fats));
        }
        let root_entries = u64::from(view.u16(boot::ROOT_ENTRIES)?);
        let sectors = match view.u16(boot::SECTORS_16)? {
            0 => u64::from(view.u32(boot::SECTORS_32)?),
            some => some.into(),
        };
        // Drivers tell FAT32 by this field, not by the number of clusters: small FAT32 volumes exist.
        let small = u64::from(view.u16(boot::FAT_SECTORS_16)?);
        let is_32 = small == 0;
        let fat_sectors = match is_32 {
            true => u64::from(view.u32(boot::FAT_SECTORS_32)?),
            false => small,
        };
        if fat_sectors == 0 {
            return Err(wrong("a FAT of at least one sector", 0));
        }
        if is_32 && view.u16(boot::VERSION)? != 0 {
            let version = view.u16(boot::VERSION)?;
            return Err(wrong("version 0", version.into()));
        }
        if is_32 != (root_entries == 0) {
            return Err(wrong(
                match is_32 {
                    true => "no fixed root directory (FAT32)",
                    false => "a fixed root directory (FAT12, FAT16)",
                },
                root_entries,
            ));
        }
        let fat_start = product(reserved, sector_len, "FAT")?;
        let fat_len = product(fat_sectors, sector_len, "FAT")?;
        let root_start = sum(fat_start, product(fats, fat_len, "FAT")?, "FAT")?;
        let root_len = product(root_entries, 32, "FAT root directory")?;
        let root_sectors = root_len.div_ceil(sector_len);
        let data_start = sum(
            root_start,
            product(root_sectors, sector_len, "FAT root directory")?,
            "FAT",
        )?;
        let volume_len = product(sectors, sector_len, "FAT volume")?;
        let data_len = volume_len.checked_sub(data_start).ok_or_else(|| {
            Error::malformed(format!(
                "FAT boot sector: a volume longer than {data_start} bytes expected, found \
                 {volume_len}"
            ))
        })?;
        let all = data_len.checked_div(cluster_len).unwrap_or(0);
        if all == 0 {
            return Err(wrong("a cluster", 0));
        }
        let (width, below) = match is_32 {
            true => (Width::Bits32, format::FAT32_BELOW),
            false if all < format::FAT12_BELOW => (Width::Bits12, format::FAT12_BELOW),
            false => (Width::Bits16, format::FAT16_BELOW),
        };
        if all >= below {
            return Err(wrong("fewer clusters", all));
        }
        let room = match width {
            Width::Bits12 => fat_len.saturating_mul(2).checked_div(3).unwrap_or(0),
            Width::Bits16 => fat_len.checked_div(2).unwrap_or(0),
            Width::Bits32 => fat_len.checked_div(4).unwrap_or(0),
        };
        let cluster_count = all.min(room.saturating_sub(2));
        if cluster_count == 0 {
            return Err(wrong("a FAT with room for a cluster", room));
        }
        let mut active = 0;
        let mut root = Root::Fixed(root_start, root_len);
        let mut fsinfo = None;
        if is_32 {
            let mirroring = view.u16(boot::MIRRORING)?;
            if mirroring & 0x80 != 0 {
                active = u64::from(mirroring & 0x0F);
            }
            root = Root::Chain(view.u32(boot::ROOT_CLUSTER)?);
            let at = u64::from(view.u16(boot::FSINFO)?);
            if !matches!(at, 0 | 0xFFFF) {
                fsinfo = Some(product(at, sector_len, "FSInfo")?);
            }
            if at != 0xFFFF && at >= reserved {
                return Err(wrong("FSInfo in a reserved sector", at));
            }
        }
        if active >= fats {
            return Err(wrong("the number of a FAT", active));
        }
        let (signature, at) = match is_32 {
            true => (boot::SIGNATURE_32, boot::FLAGS_32),
            false => (boot::SIGNATURE_16, boot::FLAGS_16),
        };
        let flags = match boot::SIGNATURES.contains(&view.u8(signature)?) {
            true => Some((crate::volume::widths::wide(at), view.u8(at)?)),
            false => None,
        };
        Ok(Self {
            width,
            sector_len,
            fat_start,
            fat_len,
            fats,
            active,
            root,
            heap: Heap {
                start: data_start,
                cluster_len,
                cluster_count,
            },
            short_fat: cluster_count < all,
            fsinfo,
            flags,
            volume_len,
        })
    }

    /// FAT12, FAT16 or FAT32.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.width {
            Width::Bits12 => "FAT12",
            Width::Bits16 => "FAT16",
            Width::Bits32 => "FAT32",
        }
    }

    /// Where a copy of the FAT starts.
    #[must_use]
    pub fn copy_start(&self, copy: u64) -> u64 {
        self.fat_start
            .saturating_add(copy.saturating_mul(self.fat_len))
    }

    /// Bytes of a FAT that say something.
    #[must_use]
    pub fn used_fat_len(&self) -> u64 {
        let entries = self.heap.cluster_count.saturating_add(2);
        let len = match self.width {
            Width::Bits12 => entries.saturating_mul(3).div_ceil(2),
            Width::Bits16 => entries.saturating_mul(2),
            Width::Bits32 => entries.saturating_mul(4),
        };
        len.min(self.fat_len)
    }
}

impl clusters::Geometry for Geometry {
    fn parse(sector: &[u8]) -> Result<Self> {
        Self::parse_view(View::new(sector, "FAT boot sector")).at("volume offset", "0x0")
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
        (self.copy_start(self.active), self.fat_len)
    }
}
