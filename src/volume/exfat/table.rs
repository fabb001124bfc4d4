//! Chains of clusters: those the FAT describes, and those without links.

use super::{ExfatFormat, format::fat};
use crate::{
    bytes::View,
    error::Result,
    volume::clusters::{Chain, Geometry, Run, Table, Tortoise},
};

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

impl Table<'_, ExfatFormat> {
    /// The entry of a cluster.
    pub(super) fn value(&mut self, cluster: u32) -> Result<u32> {
        let at = u64::from(cluster).saturating_mul(4);
        let bytes = self.bytes(at, 4)?;
        View::new(bytes, "exFAT FAT").u32(0)
    }

    /// The clusters of an allocation, which must have exactly as many as its length needs.
    pub(super) fn chain(&mut self, of: Allocation) -> Result<Chain> {
        let heap = self.volume().geometry.heap;
        let need = heap.clusters_for(of.len);
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
        let mut chain = Chain {
            unlinked: true,
            ..Chain::default()
        };
        let last = u64::from(of.first)
            .saturating_add(need)
            .checked_sub(1)
            .and_then(|last| u32::try_from(last).ok())
            .filter(|last| need > 0 && heap.has(of.first) && heap.has(*last));
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
                    heap.cluster_count.saturating_add(1),
                    of.first
                ));
            }
        }
        Ok(chain)
    }

    /// The chain of the root directory, whose length nothing else says.
    pub(super) fn root(&mut self) -> Result<Chain> {
        self.follow(self.volume().geometry.root, None)
    }

    /// Follows links. A loop is noticed, and no more clusters than `most` and one are read.
    fn follow(&mut self, first: u32, most: Option<u64>) -> Result<Chain> {
        let heap = self.volume().geometry.heap;
        let mut chain = Chain::default();
        if !heap.has(first) {
            chain.problem = Some(format!(
                "chain: a first cluster from 2 to {} expected, found {first}",
                heap.cluster_count.saturating_add(1)
            ));
            return Ok(chain);
        }
        let mut tortoise = Tortoise::default();
        let mut at = first;
        loop {
            if tortoise.meets(at) {
                chain.problem = Some(format!(
                    "chain: an end expected, found a loop at cluster {at} (volume offset {:#x})",
                    heap.offset_of(at)
                ));
                return Ok(chain);
            }
            chain.push(at);
            if most.is_some_and(|most| chain.clusters > most) {
                return Ok(chain);
            }
            let next = self.value(at)?;
            if next == fat::END {
                return Ok(chain);
            }
            if !heap.has(next) {
                let (fat_start, _) = self.volume().geometry.active_fat();
                let entry = fat_start.saturating_add(u64::from(at).saturating_mul(4));
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
