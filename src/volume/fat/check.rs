//! What forbids writing besides a broken tree, and whether the counts are right.

use super::{
    Fat, FatFormat,
    boot::Width,
    format::{CLEAN_16, CLEAN_32, boot, fsinfo},
    table::Link,
};
use crate::{
    bytes::View,
    error::{At, Result},
    tree::{FileTree, Obstacle},
    units::FileOffset,
    volume::{
        clusters::{Format, Table, Walk},
        widths::{narrow, wide},
    },
};

const BOOT_WINDOWS: &str =
    "start the machine once, shut it down properly and capture it again; or chkdsk /f";

/// Bytes compared at a time.
const PIECE: u64 = 1 << 20;

/// Judges whether the FAT has an entry for every cluster.
pub(super) fn check_fat_length(fat: &Fat, found: &mut Vec<Obstacle>) -> Result<()> {
    if fat.geometry.short_fat {
        found.push(Obstacle {
            id: "fat-length",
            what: format!(
                "FAT: an entry for every cluster expected, found only {}",
                fat.geometry.heap.cluster_count
            ),
            advice: FatFormat::CHKDSK.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_flags(fat: &Fat, found: &mut Vec<Obstacle>) -> Result<()> {
    let clean = match fat.geometry.width {
        Width::Bits12 => 0,
        Width::Bits16 => CLEAN_16,
        Width::Bits32 => CLEAN_32,
    };
    let value = Table::new(fat).value(1)?;
    if value & clean != clean {
        found.push(Obstacle {
            id: "dirty-flag",
            what: format!(
                "FAT entry 1: the bits {clean:#x} of a volume that was dismounted without \
                 errors expected, found {value:#x} (volume offset {:#x})",
                fat.geometry.copy_start(fat.geometry.active)
            ),
            advice: BOOT_WINDOWS.to_owned(),
        });
    }
    if let Some((at, flags)) = fat.geometry.flags
        && flags & (boot::DIRTY | boot::HARD_ERROR) != 0
    {
        found.push(Obstacle {
            id: "dirty-flag",
            what: format!(
                "boot sector: flags without 0x3 (dirty, errors) expected, found {flags:#04x} \
                 (volume offset {at:#x})"
            ),
            advice: BOOT_WINDOWS.to_owned(),
        });
    }
    Ok(())
}

/// Where the copies of the FAT begin to differ.
fn difference(fat: &Fat) -> Result<Option<u64>> {
    let len = fat.geometry.used_fat_len();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for copy in 1..fat.geometry.fats {
        let mut at = 0;
        while at < len {
            let take = narrow(len.saturating_sub(at).min(PIECE), "FAT")?;
            one.resize(take, 0);
            two.resize(take, 0);
            let place = fat.geometry.copy_start(copy).saturating_add(at);
            fat.device
                .read_at(fat.geometry.copy_start(0).saturating_add(at), &mut one)?;
            fat.device
                .read_at(place, &mut two)
                .at("volume offset", format!("{place:#x}"))?;
            if one != two {
                let inside = one.iter().zip(&two).position(|(a, b)| a != b);
                let inside = wide(inside.unwrap_or(0));
                return Ok(Some(place.saturating_add(inside)));
            }
            at = at.saturating_add(PIECE);
        }
    }
    Ok(None)
}

pub(super) fn check_copies(fat: &Fat, found: &mut Vec<Obstacle>) -> Result<()> {
    if let Some(at) = difference(fat)? {
        found.push(Obstacle {
            id: "fat-copies",
            what: format!("FAT: equal copies expected, found a difference (volume offset {at:#x})"),
            advice: FatFormat::CHKDSK.to_owned(),
        });
    }
    Ok(())
}

/// The FSInfo's free count and hint, and whether they are possible.
pub(super) fn read_fsinfo(fat: &Fat) -> Result<Option<(u64, u32, u32, bool)>> {
    let Some(at) = fat.geometry.fsinfo else {
        return Ok(None);
    };
    let mut sector = [0; 512];
    fat.device
        .read_at(at, &mut sector)
        .at("volume offset", format!("{at:#x}"))?;
    let view = View::new(&sector, "FSInfo");
    let (free, next) = (view.u32(fsinfo::FREE)?, view.u32(fsinfo::NEXT)?);
    let possible = view.u32(0)? == fsinfo::LEAD
        && view.u32(fsinfo::STRUCTURE_AT)? == fsinfo::STRUCTURE
        && (free == fsinfo::UNKNOWN || u64::from(free) <= fat.geometry.heap.cluster_count)
        && (matches!(next, 0 | fsinfo::UNKNOWN) || fat.geometry.heap.has(next));
    Ok(Some((at, free, next, possible)))
}

pub(super) fn check_fsinfo(fat: &Fat, found: &mut Vec<Obstacle>) -> Result<()> {
    if let Some((at, free, next, false)) = read_fsinfo(fat)? {
        found.push(Obstacle {
            id: "fsinfo",
            what: format!(
                "FSInfo: two signatures, at most {} free clusters and the number of one \
                 expected, found free {free:#x}, next {next:#x} (volume offset {at:#x})",
                fat.geometry.heap.cluster_count
            ),
            advice: FatFormat::CHKDSK.to_owned(),
        });
    }
    Ok(())
}

/// A session in \hiberfil.sys (Windows 2000, XP) knows the volume as it was.
pub(super) fn check_hibernation(fat: &Fat, found: &mut Vec<Obstacle>) -> Result<()> {
    let Some(file) = fat.lookup(&["hiberfil.sys"])? else {
        return Ok(());
    };
    let mut signature = [0; 4];
    if file.len < 4 || file.is_directory {
        return Ok(());
    }
    fat.read_at(file.id, FileOffset(0), &mut signature)?;
    signature.make_ascii_lowercase();
    if !matches!(&signature, b"wake" | b"brkp" | [0, 0, 0, 0]) {
        found.push(Obstacle {
            id: "hibernated",
            what: format!(
                "\\hiberfil.sys: no hibernated session expected, found signature {}",
                crate::text::escape(&String::from_utf8_lossy(&signature))
            ),
            advice: "resume the machine, turn hibernation off, shut it down and capture it \
                     again"
                .to_owned(),
        });
    }
    Ok(())
}

/// Clusters in use and in no chain, and the free count of the FSInfo.
pub(super) fn check_counts(
    fat: &Fat,
    walk: &Walk<FatFormat>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let mut table = Table::new(fat);
    let (mut free, mut used) = (0_u64, 0_u64);
    let end = u32::try_from(fat.geometry.heap.cluster_count.saturating_add(2)).unwrap_or(u32::MAX);
    for cluster in 2..end {
        match table.link(cluster)? {
            Link::Free => free = free.saturating_add(1),
            Link::Bad => {}
            _ => used = used.saturating_add(1),
        }
    }
    if used != walk.seen.owned {
        lines.push(format!(
            "FAT: no cluster without an owner expected, found {}",
            used.abs_diff(walk.seen.owned)
        ));
    }
    if let Some((_, count, _, _)) = read_fsinfo(fat)?
        && count != fsinfo::UNKNOWN
        && u64::from(count) != free
    {
        let wrong = i128::from(count).saturating_sub(i128::from(free));
        lines.push(format!(
            "FSInfo: the free clusters of the FAT expected, found {wrong:+} of them"
        ));
    }
    Ok(())
}
