//! Chains of clusters: those the FAT describes, those without a chain, and who owns which cluster.

use std::collections::BTreeMap;

use super::{Exfat, boot::Geometry, format::fat};
use crate::{
    error::{At, Error, Result},
    volume::widths::{narrow, wide},
};

/// Bytes of the FAT that are read at a time.
const WINDOW: u64 = 4096;

/// Neighbouring clusters of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first.
    pub(super) first: u32,
    /// How many.
    pub(super) count: u32,
}

/// What a directory entry says of its clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocation {
    /// Number of the first; 0: there is none.
    pub(super) first: u32,
    /// Bytes.
    pub(super) len: u64,
    /// They follow each other, and the FAT says nothing of them.
    pub(super) contiguous: bool,
}

/// A chain as far as it could be followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    /// Its clusters in order.
    pub(super) runs: Vec<Run>,
    /// How many they are.
    pub(super) clusters: u64,
    /// Why it could not be followed to its end.
    pub(super) problem: Option<String>,
}

impl Chain {
    fn push(&mut self, cluster: u32) {
        self.clusters = self.clusters.saturating_add(1);
        if let Some(last) = self.runs.last_mut()
            && last.first.checked_add(last.count) == Some(cluster)
        {
            last.count = last.count.saturating_add(1);
            return;
        }
        self.runs.push(Run {
            first: cluster,
            count: 1,
        });
    }

    /// Byte ranges in the volume.
    pub(super) fn ranges(&self, geometry: &Geometry) -> Vec<(u64, u64)> {
        self.runs
            .iter()
            .map(|run| {
                let len = u64::from(run.count).saturating_mul(geometry.cluster_len);
                (geometry.offset_of(run.first), len)
            })
            .collect()
    }

    /// Hands out the pieces of a range of the contents: volume offset, and from where to where
    /// counted from the range's start.
    pub(super) fn each_piece(
        &self,
        geometry: &Geometry,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0_u64;
        for (place, len) in self.ranges(geometry) {
            let next = at.saturating_add(len);
            let (from, to) = (start.max(at), end.min(next));
            if from < to {
                let place = place.saturating_add(from.saturating_sub(at));
                each(place, from.saturating_sub(start), to.saturating_sub(start))?;
            }
            at = next;
        }
        Ok(())
    }
}

/// Clusters that are taken, as disjoint runs: first number, and the one behind the last.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(BTreeMap<u32, u32>);

impl Taken {
    /// Takes a run; says which cluster of it was taken before, and takes nothing then.
    pub(super) fn take(&mut self, run: Run) -> Option<u32> {
        let end = run.first.saturating_add(run.count);
        let before = self.0.range(..end).next_back();
        if let Some((start, stop)) = before
            && *stop > run.first
        {
            return Some(run.first.max(*start));
        }
        let mut first = run.first;
        if let Some((start, stop)) = before
            && *stop == run.first
        {
            first = *start;
        }
        self.0.insert(first, end);
        if let Some(next) = self.0.remove(&end) {
            self.0.insert(first, next);
        }
        None
    }

    /// Whether somebody has it.
    #[must_use]
    pub(super) fn has(&self, cluster: u32) -> bool {
        let before = self.0.range(..=cluster).next_back();
        before.is_some_and(|(_, end)| cluster < *end)
    }

    /// The runs in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

/// Reads the active FAT.
#[derive(Debug)]
pub(super) struct Table<'a> {
    exfat: &'a Exfat,
    window: Vec<u8>,
    at: u64,
}

impl<'a> Table<'a> {
    /// Nothing read yet.
    #[must_use]
    pub(super) fn new(exfat: &'a Exfat) -> Self {
        Self {
            exfat,
            window: Vec::new(),
            at: 0,
        }
    }

    /// The volume it is of.
    #[must_use]
    pub(super) fn volume(&self) -> &'a Exfat {
        self.exfat
    }

    /// The entry of a cluster.
    pub(super) fn value(&mut self, cluster: u32) -> Result<u32> {
        let at = u64::from(cluster).saturating_mul(4);
        let have = self.at.saturating_add(wide(self.window.len()));
        if at < self.at || at.saturating_add(4) > have {
            let geometry = &self.exfat.geometry;
            let start = at.saturating_sub(at & WINDOW.saturating_sub(1));
            let want = geometry.fat_len.saturating_sub(start).min(WINDOW);
            self.window.resize(narrow(want, "FAT")?, 0);
            self.at = start;
            let place = geometry.active_fat().saturating_add(start);
            self.exfat
                .device
                .read_at(place, &mut self.window)
                .at("volume offset", format!("{place:#x}"))?;
        }
        let from = narrow(at.saturating_sub(self.at), "FAT")?;
        let bytes = from
            .checked_add(4)
            .and_then(|to| self.window.get(from..to))
            .and_then(|bytes| bytes.first_chunk::<4>())
            .ok_or_else(|| Error::internal("exFAT: an entry outside of its FAT"))?;
        Ok(u32::from_le_bytes(*bytes))
    }

    /// The clusters of an allocation, which must have exactly as many as its length needs.
    pub(super) fn chain(&mut self, of: Allocation) -> Result<Chain> {
        let geometry = self.exfat.geometry;
        let need = geometry.clusters_for(of.len);
        if of.first == 0 {
            return Ok(Chain {
                problem: (need > 0).then(|| {
                    format!(
                        "allocation: a cluster for {} bytes expected, found none",
                        of.len
                    )
                }),
                ..Chain::default()
            });
        }
        if !of.contiguous {
            let mut chain = self.follow(of.first, Some(need))?;
            if chain.problem.is_none() && chain.clusters != need {
                chain.problem = Some(format!(
                    "chain: {need} clusters for {} bytes expected, found {}",
                    of.len, chain.clusters
                ));
            }
            return Ok(chain);
        }
        let mut chain = Chain::default();
        let last = u64::from(of.first)
            .saturating_add(need)
            .checked_sub(1)
            .and_then(|last| u32::try_from(last).ok())
            .filter(|last| need > 0 && geometry.has(of.first) && geometry.has(*last));
        match last.and_then(|last| last.checked_sub(of.first)?.checked_add(1)) {
            Some(count) => {
                chain.clusters = need;
                chain.runs.push(Run {
                    first: of.first,
                    count,
                });
            }
            None => {
                chain.problem = Some(format!(
                    "allocation: {need} clusters from 2 to {} expected, found them from {} on",
                    geometry.cluster_count.saturating_add(1),
                    of.first
                ));
            }
        }
        Ok(chain)
    }

    /// The chain of the root directory, whose length nothing else says.
    pub(super) fn root(&mut self) -> Result<Chain> {
        self.follow(self.exfat.geometry.root, None)
    }

    /// Follows links. A loop is noticed, and no more clusters than `most` and one are read.
    fn follow(&mut self, first: u32, most: Option<u64>) -> Result<Chain> {
        let geometry = self.exfat.geometry;
        let mut chain = Chain::default();
        if !geometry.has(first) {
            chain.problem = Some(format!(
                "chain: a first cluster from 2 to {} expected, found {first}",
                geometry.cluster_count.saturating_add(1)
            ));
            return Ok(chain);
        }
        // Brent: the tortoise is put where the hare is at every power of two.
        let (mut tortoise, mut steps, mut power) = (0_u32, 0_u64, 1_u64);
        let mut at = first;
        loop {
            if at == tortoise {
                chain.problem = Some(format!(
                    "chain: an end expected, found a loop at cluster {at} (volume offset {:#x})",
                    geometry.offset_of(at)
                ));
                return Ok(chain);
            }
            steps = steps.saturating_add(1);
            if steps == power {
                tortoise = at;
                power = power.saturating_mul(2);
            }
            chain.push(at);
            if most.is_some_and(|most| chain.clusters > most) {
                return Ok(chain);
            }
            let next = self.value(at)?;
            if next == fat::END {
                return Ok(chain);
            }
            if !geometry.has(next) {
                let entry = geometry
                    .active_fat()
                    .saturating_add(u64::from(at).saturating_mul(4));
                chain.problem = Some(format!(
                    "chain: a link or an end expected for cluster {at}, found {next:#x} (volume \
                     offset {entry:#x})"
                ));
                return Ok(chain);
            }
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_taken_once() {
        let run = |first, count| Run { first, count };
        let mut taken = Taken::default();
        assert_eq!(taken.take(run(10, 5)), None);
        assert_eq!(taken.take(run(20, 5)), None);
        assert_eq!(taken.take(run(14, 1)), Some(14));
        assert_eq!(taken.take(run(8, 4)), Some(10));
        assert_eq!(taken.take(run(5, 100)), Some(20));
        assert_eq!(taken.take(run(15, 5)), None);
        assert_eq!(taken.runs().collect::<Vec<_>>(), [(10, 25)]);
        assert_eq!(taken.take(run(9, 1)), None);
        assert_eq!(taken.runs().collect::<Vec<_>>(), [(9, 25)]);
        assert!(taken.has(9) && taken.has(24) && !taken.has(25) && !taken.has(8));
    }
}
