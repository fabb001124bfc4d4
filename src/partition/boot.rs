//! Recognises a volume by its boot sector: enough to tell it from an MBR, not enough to open it.

use super::{format, read_piece};
use crate::{bytes::View, device::Device, error::Result};

/// The name of the one file system whose reader deals with a volume that was cut off.
pub(super) const NTFS: &str = "NTFS";

/// A volume's first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BootSector {
    /// The file system, or what encrypts it.
    pub(super) name: &'static str,
    /// Bytes a sector, 512 or 4096, as the boot sector has it.
    pub(super) sector_len: u32,
    /// Whether the parameters can be true. A name with impossible parameters is a damaged volume, or
    /// what is left of one under an MBR.
    pub(super) plausible: bool,
}

impl BootSector {
    /// Judges by the OEM id at +3 and by whether the parameters after it can be true: an MBR whose
    /// loader leaves room for a parameter block (GRUB, syslinux) must not pass for FAT, whose OEM id
    /// says nothing.
    pub(super) fn recognise(sector: &View<'_>) -> Option<Self> {
        let oem: [u8; 8] = sector.array(3).ok()?;
        let (name, parameters) = match &oem {
            b"NTFS    " => (NTFS, block_sector_len(sector)),
            b"-FVE-FS-" => ("BitLocker", block_sector_len(sector)),
            // +0x6C, u8: the power of two of the sector length.
            b"EXFAT   " => (
                "exFAT",
                match sector.u8(0x6C).ok()? {
                    9 => Some(512),
                    12 => Some(4096),
                    _ => None,
                },
            ),
            // +0x10, the structure's own name; +0x20 u32 bytes a sector.
            b"ReFS\0\0\0\0" if sector.get(0x10, 4).ok()? == b"FSRS" => (
                "ReFS",
                sector
                    .u32(0x20)
                    .ok()
                    .filter(|len| format::SECTOR_LENS.contains(len)),
            ),
            _ => ("FAT", Some(fat_sector_len(sector)?)),
        };
        Some(Self {
            name,
            sector_len: parameters.unwrap_or(512),
            plausible: parameters.is_some(),
        })
    }
}

/// The sector length of the parameter block that FAT, NTFS and BitLocker share, if it is possible:
/// +0x00 jump, +0x0B u16 bytes a sector.
fn block_sector_len(sector: &View<'_>) -> Option<u32> {
    if !matches!(sector.u8(0).ok()?, 0xEB | 0xE9) {
        return None;
    }
    match sector.u16(0x0B).ok()? {
        512 | 1024 | 2048 => Some(512),
        4096 => Some(4096),
        _ => None,
    }
}

/// The same for FAT, which is known by its parameters alone: +0x0D u8 sectors a cluster, +0x0E u16
/// reserved, +0x10 u8 FATs, +0x13 u16 and +0x20 u32 total sectors, +0x15 u8 media.
fn fat_sector_len(sector: &View<'_>) -> Option<u32> {
    let possible = sector.get(format::MBR_SIGNATURE_AT, 2).ok()? == format::MBR_SIGNATURE
        && sector.u8(0x0D).ok()?.is_power_of_two()
        && sector.u16(0x0E).ok()? != 0
        && matches!(sector.u8(0x10).ok()?, 1 | 2)
        && sector.u8(0x15).ok()? >= 0xF0
        && (sector.u16(0x13).ok()? != 0 || sector.u32(0x20).ok()? != 0);
    possible.then(|| block_sector_len(sector)).flatten()
}

/// The volume that begins at this byte of the disk, if any does.
pub(super) fn at(disk: &Device, offset: u64) -> Result<Option<BootSector>> {
    let inside = offset
        .checked_add(format::SECTOR)
        .is_some_and(|end| end <= disk.len());
    if !inside {
        return Ok(None);
    }
    let bytes = read_piece(disk, offset, format::SECTOR_LEN, "boot sector")?;
    Ok(BootSector::recognise(&View::new(&bytes, "boot sector")))
}
