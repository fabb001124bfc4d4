//! What forbids writing, and whether everything is sound after it.

use std::ops::Range;

use super::{Format, Geometry, Table, Volume};
use crate::{
    bytes::all_zero,
    error::{At, Result},
    tree::Obstacle,
    volume::widths::narrow,
};

/// Broken structures that are named one by one.
pub const MAX_NAMED: usize = 5;
/// Bytes looked at in one go.
const PIECE: u64 = 1 << 20;

/// Adds what it finds; an error is an obstacle too.
pub type Judgement<F> = fn(&Volume<F>, &mut Vec<Obstacle>) -> Result<()>;

impl<F: Format> Volume<F> {
    /// See [`FileTree::obstacles`](crate::tree::FileTree::obstacles).
    pub(super) fn find_obstacles(&self) -> Result<Vec<Obstacle>> {
        let mut found = Vec::new();
        for (id, judge) in F::JUDGEMENTS {
            if let Err(error) = judge(self, &mut found) {
                found.push(Obstacle {
                    id,
                    what: error.to_string(),
                    advice: F::CHKDSK.to_owned(),
                });
            }
        }
        Ok(found)
    }

    /// Judges whether the whole volume is there.
    pub(in crate::volume) fn check_length(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let (expected, have) = (self.geometry.volume_len(), self.device.len());
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

    /// Judges what the pass over the directories found.
    pub(in crate::volume) fn check_structure(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let walk = self.walk()?;
        found.extend(walk.problems.iter().take(MAX_NAMED).map(|what| Obstacle {
            id: "structure",
            what: what.clone(),
            advice: F::CHKDSK.to_owned(),
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
        F::check_counts(self, &walk, &mut lines)?;
        let mut table = Table::new(self);
        for range in touched {
            let mut at = range.start;
            while at < range.end {
                let Some(cluster) = self.heap().cluster_at(at) else {
                    at = at.saturating_add(self.geometry.sector_len());
                    continue;
                };
                let start = self.heap().offset_of(cluster);
                if F::is_free(&mut table, &walk, cluster)? && !self.is_zero(start)? {
                    lines.push(format!(
                        "cluster {cluster}: zeros expected in a cluster that became free, found \
                         other bytes (volume offset {start:#x})"
                    ));
                }
                at = start.saturating_add(self.heap().cluster_len);
            }
        }
        Ok(lines)
    }

    fn is_zero(&self, start: u64) -> Result<bool> {
        let len = self.heap().cluster_len;
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
