//! Which file system a volume holds, by evidence in its first bytes. Rows are tried in order.

use crate::{
    bytes::View,
    device::Device,
    error::{At, Result},
};

/// A file system by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// NTFS.
    Ntfs,
    /// A BitLocker volume: encrypted.
    BitLocker,
    /// ReFS.
    Refs,
    /// exFAT.
    Exfat,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// Nothing known.
    Unknown,
}

impl Kind {
    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ntfs => "NTFS",
            Kind::BitLocker => "BitLocker (encrypted)",
            Kind::Refs => "ReFS",
            Kind::Exfat => "exFAT",
            Kind::Fat => "FAT",
            Kind::Unknown => "unknown",
        }
    }
}

/// What a volume turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The file system.
    pub kind: Kind,
    /// What was seen, with its offset.
    pub evidence: String,
    /// What the user can do when it does not open.
    pub advice: Option<&'static str>,
}

/// A row of [`FILESYSTEMS`].
#[derive(Clone, Copy, Debug)]
pub struct FileSystem {
    /// The file system.
    pub kind: Kind,
    /// The evidence in the first 512 bytes, if it is there.
    pub evidence: fn(View<'_>) -> Option<String>,
    /// What the user can do when it does not open.
    pub advice: Option<&'static str>,
}

/// Order matters: FAT has no magic number, so it comes last, after all that look like it.
pub const FILESYSTEMS: &[FileSystem] = &[
    FileSystem {
        kind: Kind::Ntfs,
        evidence: |boot| magic(boot, 3, b"NTFS    "),
        advice: None,
    },
    FileSystem {
        kind: Kind::BitLocker,
        evidence: |boot| {
            magic(boot, 3, b"-FVE-FS-")
                .or_else(|| magic(boot, 3, b"MSWIN4.1").filter(|_| to_go(boot)))
        },
        advice: Some("decrypt the volume first (manage-bde -off), then capture it again"),
    },
    FileSystem {
        kind: Kind::Refs,
        evidence: |boot| magic(boot, 3, b"ReFS\0\0\0\0"),
        advice: Some("ReFS is not read by this version"),
    },
    FileSystem {
        kind: Kind::Exfat,
        evidence: |boot| magic(boot, 3, b"EXFAT   "),
        advice: None,
    },
    FileSystem {
        kind: Kind::Fat,
        evidence: fat,
        advice: None,
    },
];

/// `magic` at `offset`.
fn magic(boot: View<'_>, offset: usize, magic: &[u8]) -> Option<String> {
    (boot.get(offset, magic.len()).ok()? == magic).then(|| {
        format!(
            "{:?} at {offset:#x}",
            String::from_utf8_lossy(magic).trim_end_matches(['\0', ' '])
        )
    })
}

/// BitLocker To Go hides in a FAT boot sector; its volume GUID 4967D63B-... stands at 0x1A8
/// (libbde documentation, "BitLocker To Go").
fn to_go(boot: View<'_>) -> bool {
    const GUID: [u8; 16] = [
        0x3B, 0xD6, 0x67, 0x49, 0x29, 0x2E, 0xD8, 0x4A, 0x83, 0x99, 0xF6, 0xA3, 0x39, 0xE3, 0xD0,
        0x01,
    ];
    boot.get(0x1A8, 16).is_ok_and(|bytes| bytes == GUID)
}

/// A BIOS parameter block that makes sense: FAT's only reliable mark (fatgen103, "FAT type
/// determination"): sector 512..4096, cluster a power of two, 1 or 2 FATs, a media byte, a jump.
fn fat(boot: View<'_>) -> Option<String> {
    let jump = boot.u8(0).ok()?;
    let sector = boot.u16(0x0B).ok()?;
    let cluster = boot.u8(0x0D).ok()?;
    let reserved = boot.u16(0x0E).ok()?;
    let fats = boot.u8(0x10).ok()?;
    let media = boot.u8(0x15).ok()?;
    let sane = matches!(jump, 0xEB | 0xE9)
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved != 0
        && matches!(fats, 1 | 2)
        && matches!(media, 0xF0 | 0xF8..=0xFF);
    if !sane {
        return None;
    }
    let label = if boot.get(0x52, 5).ok()? == b"FAT32" {
        "FAT32 at 0x52"
    } else if boot.get(0x36, 5).ok()? == b"FAT12" {
        "FAT12 at 0x36"
    } else if boot.get(0x36, 5).ok()? == b"FAT16" {
        "FAT16 at 0x36"
    } else {
        "no label"
    };
    Some(format!("a FAT parameter block at 0xb ({label})"))
}

/// Looks at the first sector. A volume too short to have one is unknown, not an error.
pub fn probe(device: &Device) -> Result<Probe> {
    let mut sector = [0; 512];
    if device.len() < 512 {
        return Ok(Probe {
            kind: Kind::Unknown,
            evidence: format!("only {} bytes", device.len()),
            advice: None,
        });
    }
    device.read_at(0, &mut sector).at("volume offset", "0x0")?;
    let boot = View::new(&sector, "boot sector");
    for row in FILESYSTEMS {
        if let Some(evidence) = (row.evidence)(boot) {
            return Ok(Probe {
                kind: row.kind,
                evidence,
                advice: row.advice,
            });
        }
    }
    Ok(Probe {
        kind: Kind::Unknown,
        evidence: if crate::bytes::all_zero(&sector) {
            "the first sector is all zeros".to_owned()
        } else {
            "no known signature in the first sector".to_owned()
        },
        advice: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use std::sync::Arc;

    use super::*;
    use crate::device::Memory;

    fn of(offset: usize, magic: &[u8]) -> Kind {
        let mut sector = vec![0; 512];
        sector[offset..offset + magic.len()].copy_from_slice(magic);
        let device: Device = Arc::new(Memory::new(sector));
        probe(&device).unwrap().kind
    }

    #[test]
    fn each_signature_is_told_apart() {
        assert_eq!(of(3, b"NTFS    "), Kind::Ntfs);
        assert_eq!(of(3, b"-FVE-FS-"), Kind::BitLocker);
        assert_eq!(of(3, b"ReFS\0\0\0\0"), Kind::Refs);
        assert_eq!(of(3, b"EXFAT   "), Kind::Exfat);
        assert_eq!(of(3, b"NTFS"), Kind::Unknown);
        assert_eq!(
            of(
                0,
                b"\xEB\x3C\x90mkfs.fat\0\x02\x04\x01\0\x02\0\x02\0\x50\xF8"
            ),
            Kind::Fat
        );
    }

    #[test]
    fn a_stub_of_a_volume_is_unknown() {
        let device: Device = Arc::new(Memory::new(vec![0; 100]));
        assert_eq!(probe(&device).unwrap().kind, Kind::Unknown);
    }
}
