//! The heap, and chains of its clusters.

use std::collections::BTreeMap;

use crate::error::Result;

/// Where the clusters lie. The first one has number 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// Volume offset of cluster 2.
    pub start: u64,
    /// Bytes a cluster.
    pub cluster_len: u64,
    /// Number of clusters; the last one's number is one more.
    pub cluster_count: u64,
}

impl Heap {
    /// Whether there is a cluster of this number.
    #[must_use]
    pub fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && u64::from(cluster) < self.cluster_count.saturating_add(2)
    }

    /// Where a cluster starts; it must exist.
    #[must_use]
    pub fn offset_of(&self, cluster: u32) -> u64 {
        let index = u64::from(cluster).saturating_sub(2);
        self.start
            .saturating_add(index.saturating_mul(self.cluster_len))
    }

    /// Which cluster a byte of the volume is in.
    #[must_use]
    pub fn cluster_at(&self, offset: u64) -> Option<u32> {
        let index = offset
            .checked_sub(self.start)?
            .checked_div(self.cluster_len)?;
        let cluster = u32::try_from(index.checked_add(2)?).ok()?;
        self.has(cluster).then_some(cluster)
    }

    /// Clusters that so many bytes need.
    #[must_use]
    pub fn clusters_for(&self, len: u64) -> u64 {
        len.div_ceil(self.cluster_len)
    }
}

/// Neighbouring clusters of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Run {
    /// The number behind the last one.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }
}

/// A chain as far as it could be followed.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Its clusters in order.
    pub runs: Vec<Run>,
    /// How many they are.
    pub clusters: u64,
    /// The FAT says nothing of them.
    pub unlinked: bool,
    /// Why it could not be followed to its end.
    pub problem: Option<String>,
    /// The cluster where it ran into a chain of before.
    pub met: Option<u32>,
}

impl Chain {
    /// Adds a cluster at the end.
    pub fn push(&mut self, cluster: u32) {
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
    #[must_use]
    pub fn ranges(&self, heap: &Heap) -> Vec<(u64, u64)> {
        self.runs
            .iter()
            .map(|run| {
                let len = u64::from(run.count).saturating_mul(heap.cluster_len);
                (heap.offset_of(run.first), len)
            })
            .collect()
    }

    /// Bytes of all its clusters.
    #[must_use]
    pub fn room(&self, heap: &Heap) -> u64 {
        self.clusters.saturating_mul(heap.cluster_len)
    }

    /// Hands out the pieces of a range of the contents: volume offset, and from where to where
    /// counted from the range's start.
    pub fn each_piece(
        &self,
        heap: &Heap,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0_u64;
        for (place, len) in self.ranges(heap) {
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

/// Notices a loop without a bit for every cluster (Brent): the tortoise is put where the hare is at
/// every power of two.
#[derive(Debug)]
pub struct Tortoise {
    at: u32,
    steps: u64,
    power: u64,
}

impl Default for Tortoise {
    fn default() -> Self {
        Self {
            at: 0,
            steps: 0,
            power: 1,
        }
    }
}

impl Tortoise {
    /// Whether the hare, one step on, meets the tortoise.
    pub fn meets(&mut self, hare: u32) -> bool {
        if hare == self.at {
            return true;
        }
        self.steps = self.steps.saturating_add(1);
        if self.steps == self.power {
            self.at = hare;
            self.power = self.power.saturating_mul(2);
        }
        false
    }
}

/// Clusters that are taken, as disjoint runs: first number, and the one behind the last.
#[derive(Clone, Debug, Default)]
pub struct Taken(BTreeMap<u32, u32>);

impl Taken {
    /// Takes a run; says which cluster of it was taken before, and takes nothing then.
    pub fn take(&mut self, run: Run) -> Option<u32> {
        let end = run.end();
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
    pub fn has(&self, cluster: u32) -> bool {
        let before = self.0.range(..=cluster).next_back();
        before.is_some_and(|(_, end)| cluster < *end)
    }

    /// The runs in order.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().map(|(start, end)| (*start, *end))
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

    #[test]
    fn the_tortoise_meets_only_in_a_loop() {
        let mut tortoise = Tortoise::default();
        assert!((2..100_000).all(|at| !tortoise.meets(at)));
        let mut tortoise = Tortoise::default();
        let round = (2..9).chain((5..9).cycle().take(100));
        assert!(round.into_iter().any(|at| tortoise.meets(at)));
    }
}
