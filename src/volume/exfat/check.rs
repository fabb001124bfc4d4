//! What forbids writing besides a broken tree.

use super::{Exfat, ExfatFormat, boot::region_problem, format::boot};
use crate::{error::Result, tree::Obstacle, volume::clusters::Format};

const EJECT: &str =
    "mount the volume once, eject it properly and capture it again; or chkdsk /f in Windows";

pub(super) fn check_flags(exfat: &Exfat, found: &mut Vec<Obstacle>) -> Result<()> {
    let names = [
        (boot::DIRTY, "VolumeDirty"),
        (boot::MEDIA_FAILURE, "MediaFailure"),
        (boot::CLEAR_TO_ZERO, "ClearToZero"),
    ];
    for (flag, name) in names {
        if exfat.geometry.flags & flag != 0 {
            found.push(Obstacle {
                id: "dirty-flag",
                what: format!(
                    "boot sector: flags without {flag:#x} ({name}) expected, found {:#06x} \
                     (volume offset {:#x})",
                    exfat.geometry.flags,
                    boot::FLAGS
                ),
                advice: EJECT.to_owned(),
            });
        }
    }
    Ok(())
}

pub(super) fn check_regions(exfat: &Exfat, found: &mut Vec<Obstacle>) -> Result<()> {
    for sector in [0, boot::REGION_SECTORS] {
        if let Some(what) = region_problem(&exfat.device, &exfat.geometry, sector)? {
            found.push(Obstacle {
                id: "boot-region",
                what,
                advice: ExfatFormat::CHKDSK.to_owned(),
            });
        }
    }
    Ok(())
}

/// With two FATs every change is a transaction, whose rules only Windows CE knows.
pub(super) fn check_copies(exfat: &Exfat, found: &mut Vec<Obstacle>) -> Result<()> {
    if exfat.geometry.fats != 1 {
        found.push(Obstacle {
            id: "texfat",
            what: "volume: one FAT expected, found two (TexFAT)".to_owned(),
            advice: "copy the files to a volume without transactions and clean that".to_owned(),
        });
    }
    Ok(())
}
