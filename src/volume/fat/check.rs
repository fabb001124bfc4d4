//! What forbids writing, and whether everything is sound after it.

use std::ops::Range;

use super::{
    Fat,
    boot::Width,
    format::{CLEAN_16, CLEAN_32, boot, fsinfo},
    table::{Link, Table, fat_offset},
    walk::Walk,
};
use crate::{
    bytes::{View, all_zero},
    error::{At, Result},
    tree::{FileTree, Obstacle},
    units::FileOffset,
    volume::widths::narrow,
};

const CHKDSK: &str = "check the volume in Windows (chkdsk /f, scandisk), then capture it again";
const BOOT_WINDOWS: &str =
    "start the machine once, shut it down properly and capture it again; or chkdsk /f";

/// Broken structures that are named one by one.
const MAX_NAMED: usize = 5;
/// Bytes compared at a time.
const PIECE: u64 = 1 << 20;

/// Adds what it finds; an error is an obstacle too.
type Judgement = fn(&Fat, &mut Vec<Obstacle>) -> Result<()>;

impl Fat {
    /// See [`FileTree::obstacles`].
    pub(super) fn find_obstacles(&self) -> Result<Vec<Obstacle>> {
        let mut found = Vec::new();
        let checks: [(&'static str, Judgement); 6] = [
            ("volume-truncated", Self::check_length),
            ("dirty-flag", Self::check_flags),
            ("fat-copies", Self::check_copies),
            ("fsinfo", Self::check_fsinfo),
            ("structure", Self::check_structure),
            ("hibernated", Self::check_hibernation),
        ];
        for (id, check) in checks {
            if let Err(error) = check(self, &mut found) {
                found.push(Obstacle {
                    id,
                    what: error.to_string(),
                    advice: CHKDSK.to_owned(),
                });
            }
        }
        Ok(found)
    }

    fn check_length(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let (expected, have) = (self.geometry.volume_len, self.device.len());
        if have < expected {
            found.push(Obstacle {
                id: "volume-truncated",
                what: format!(
                    "volume: {expected} bytes expected by the boot sector, found {have} (volume \
                     offset {have:#x})"
                ),
                advice: "the image is incomplete: copy or capture it again".to_owned(),
            });
        }
        if self.geometry.short_fat {
            found.push(Obstacle {
                id: "fat-length",
                what: format!(
                    "FAT: an entry for every cluster expected, found only {}",
                    self.geometry.cluster_count
                ),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    fn check_flags(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let clean = match self.geometry.width {
            Width::Bits12 => 0,
            Width::Bits16 => CLEAN_16,
            Width::Bits32 => CLEAN_32,
        };
        let value = Table::new(self).value(1)?;
        if value & clean != clean {
            found.push(Obstacle {
                id: "dirty-flag",
                what: format!(
                    "FAT entry 1: the bits {clean:#x} of a volume that was dismounted without \
                     errors expected, found {value:#x} (volume offset {:#x})",
                    fat_offset(&self.geometry, self.geometry.active)
                ),
                advice: BOOT_WINDOWS.to_owned(),
            });
        }
        if let Some((at, flags)) = self.geometry.flags
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
    fn difference(&self) -> Result<Option<u64>> {
        let len = self.geometry.used_fat_len();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for copy in 1..self.geometry.fats {
            let mut at = 0;
            while at < len {
                let take = narrow(len.saturating_sub(at).min(PIECE), "FAT")?;
                one.resize(take, 0);
                two.resize(take, 0);
                let place = fat_offset(&self.geometry, copy).saturating_add(at);
                self.device
                    .read_at(fat_offset(&self.geometry, 0).saturating_add(at), &mut one)?;
                self.device
                    .read_at(place, &mut two)
                    .at("volume offset", format!("{place:#x}"))?;
                if one != two {
                    let inside = one.iter().zip(&two).position(|(a, b)| a != b);
                    let inside = crate::volume::widths::wide(inside.unwrap_or(0));
                    return Ok(Some(place.saturating_add(inside)));
                }
                at = at.saturating_add(PIECE);
            }
        }
        Ok(None)
    }

    fn check_copies(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        if let Some(at) = self.difference()? {
            found.push(Obstacle {
                id: "fat-copies",
                what: format!(
                    "FAT: equal copies expected, found a difference (volume offset {at:#x})"
                ),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    /// The FSInfo's free count and hint, and whether they are possible.
    pub(super) fn read_fsinfo(&self) -> Result<Option<(u64, u32, u32, bool)>> {
        let Some(at) = self.geometry.fsinfo else {
            return Ok(None);
        };
        let mut sector = [0; 512];
        self.device
            .read_at(at, &mut sector)
            .at("volume offset", format!("{at:#x}"))?;
        let view = View::new(&sector, "FSInfo");
        let (free, next) = (view.u32(fsinfo::FREE)?, view.u32(fsinfo::NEXT)?);
        let possible = view.u32(0)? == fsinfo::LEAD
            && view.u32(fsinfo::STRUCTURE_AT)? == fsinfo::STRUCTURE
            && (free == fsinfo::UNKNOWN || u64::from(free) <= self.geometry.cluster_count)
            && (matches!(next, 0 | fsinfo::UNKNOWN) || self.geometry.has(next));
        Ok(Some((at, free, next, possible)))
    }

    fn check_fsinfo(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        if let Some((at, free, next, false)) = self.read_fsinfo()? {
            found.push(Obstacle {
                id: "fsinfo",
                what: format!(
                    "FSInfo: two signatures, at most {} free clusters and the number of one \
                     expected, found free {free:#x}, next {next:#x} (volume offset {at:#x})",
                    self.geometry.cluster_count
                ),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    fn check_structure(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let walk = self.walk()?;
        found.extend(walk.problems.iter().take(MAX_NAMED).map(|what| Obstacle {
            id: "structure",
            what: what.clone(),
            advice: CHKDSK.to_owned(),
        }));
        Ok(())
    }

    /// A session in \hiberfil.sys (Windows 2000, XP) knows the volume as it was.
    fn check_hibernation(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let Some(file) = self.lookup(&["hiberfil.sys"])? else {
            return Ok(());
        };
        let mut signature = [0; 4];
        if file.len < 4 || file.is_directory {
            return Ok(());
        }
        self.read_at(file.id, FileOffset(0), &mut signature)?;
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

    /// The whole structure, and that what became free holds nothing. Lines that damage of before
    /// makes are the same before and after.
    pub(super) fn check_ranges(&self, touched: &[Range<u64>]) -> Result<Vec<String>> {
        self.forget_walk()?;
        let walk = self.walk()?;
        let mut lines = walk.problems.clone();
        for obstacle in self.find_obstacles()? {
            if obstacle.id != "structure" {
                lines.push(obstacle.what);
            }
        }
        self.check_counts(&walk, &mut lines)?;
        let mut table = Table::new(self);
        for range in touched {
            let mut at = range.start;
            while at < range.end {
                let Some(cluster) = self.geometry.cluster_at(at) else {
                    at = at.saturating_add(self.geometry.sector_len);
                    continue;
                };
                let start = self.geometry.offset_of(cluster);
                if table.link(cluster)? == Link::Free && !self.is_zero(start)? {
                    lines.push(format!(
                        "cluster {cluster}: zeros expected in a cluster that became free, found \
                         other bytes (volume offset {start:#x})"
                    ));
                }
                at = start.saturating_add(self.geometry.cluster_len);
            }
        }
        Ok(lines)
    }

    fn is_zero(&self, start: u64) -> Result<bool> {
        let mut bytes = vec![0; narrow(self.geometry.cluster_len, "cluster")?];
        self.device.read_at(start, &mut bytes)?;
        Ok(all_zero(&bytes))
    }

    /// Clusters in use and in no chain, and the free count of the FSInfo.
    fn check_counts(&self, walk: &Walk, lines: &mut Vec<String>) -> Result<()> {
        let mut table = Table::new(self);
        let (mut free, mut used) = (0_u64, 0_u64);
        let end = u32::try_from(self.geometry.cluster_count.saturating_add(2)).unwrap_or(u32::MAX);
        for cluster in 2..end {
            match table.link(cluster)? {
                Link::Free => free = free.saturating_add(1),
                Link::Bad => {}
                _ => used = used.saturating_add(1),
            }
        }
        if used != walk.owned {
            lines.push(format!(
                "FAT: no cluster without an owner expected, found {}",
                used.abs_diff(walk.owned)
            ));
        }
        if let Some((_, count, _, _)) = self.read_fsinfo()?
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
}
