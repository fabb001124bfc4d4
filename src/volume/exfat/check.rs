//! What forbids writing, and whether everything is sound after it.

use std::ops::Range;

use super::{Exfat, boot::region_problem, format::boot};
use crate::{
    bytes::all_zero,
    error::{At, Result},
    tree::Obstacle,
    volume::widths::narrow,
};

const CHKDSK: &str = "check the volume in Windows (chkdsk /f), then capture it again";
const EJECT: &str =
    "mount the volume once, eject it properly and capture it again; or chkdsk /f in Windows";

/// Broken structures that are named one by one.
const MAX_NAMED: usize = 5;
/// Bytes looked at in one go.
const PIECE: u64 = 1 << 20;

/// Adds what it finds; an error is an obstacle too.
type Judgement = fn(&Exfat, &mut Vec<Obstacle>) -> Result<()>;

impl Exfat {
    /// See [`FileTree::obstacles`](crate::tree::FileTree::obstacles).
    pub(super) fn find_obstacles(&self) -> Result<Vec<Obstacle>> {
        let mut found = Vec::new();
        let checks: [(&'static str, Judgement); 5] = [
            ("volume-truncated", Self::check_length),
            ("dirty-flag", Self::check_flags),
            ("boot-region", Self::check_regions),
            ("texfat", Self::check_copies),
            ("structure", Self::check_structure),
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
        Ok(())
    }

    fn check_flags(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let names = [
            (boot::DIRTY, "VolumeDirty"),
            (boot::MEDIA_FAILURE, "MediaFailure"),
            (boot::CLEAR_TO_ZERO, "ClearToZero"),
        ];
        for (flag, name) in names {
            if self.geometry.flags & flag != 0 {
                found.push(Obstacle {
                    id: "dirty-flag",
                    what: format!(
                        "boot sector: flags without {flag:#x} ({name}) expected, found {:#06x} \
                         (volume offset {:#x})",
                        self.geometry.flags,
                        boot::FLAGS
                    ),
                    advice: EJECT.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check_regions(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        for sector in [0, boot::REGION_SECTORS] {
            if let Some(what) = region_problem(&self.device, &self.geometry, sector)? {
                found.push(Obstacle {
                    id: "boot-region",
                    what,
                    advice: CHKDSK.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// With two FATs every change is a transaction, whose rules only Windows CE knows.
    fn check_copies(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        if self.geometry.fats != 1 {
            found.push(Obstacle {
                id: "texfat",
                what: "volume: one FAT expected, found two (TexFAT)".to_owned(),
                advice: "copy the files to a volume without transactions and clean that".to_owned(),
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
        if walk.lost > 0 {
            lines.push(format!(
                "allocation bitmap: no cluster without an owner expected, found {}",
                walk.lost
            ));
        }
        for range in touched {
            let mut at = range.start;
            while at < range.end {
                let Some(cluster) = self.geometry.cluster_at(at) else {
                    at = at.saturating_add(self.geometry.sector_len);
                    continue;
                };
                let start = self.geometry.offset_of(cluster);
                if walk.is_free(self, cluster)? && !self.is_zero(start)? {
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
        let len = self.geometry.cluster_len;
        let mut bytes = vec![0; narrow(len.min(PIECE), "cluster")?];
        let mut done = 0;
        while done < len {
            let place = start.saturating_add(done);
            self.device
                .read_at(place, &mut bytes)
                .at("volume offset", format!("{place:#x}"))?;
            if !all_zero(&bytes) {
                return Ok(false);
            }
            done = done.saturating_add(PIECE);
        }
        Ok(true)
    }
}
