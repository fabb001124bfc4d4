//! The file allocation table: links of chains, read through a window, written to every copy.

use super::{
    Fat,
    boot::{Geometry, Width},
};
use crate::{
    error::{At, Error, Result},
    volume::widths::{narrow, wide},
};

/// Bytes of the FAT that are read at a time.
const WINDOW: u64 = 4096;

/// What an entry of the FAT says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Nobody owns it.
    Free,
    /// The chain goes on there.
    Next(u32),
    /// The chain ends here.
    End,
    /// Not to be used.
    Bad,
    /// A number that no cluster has.
    Outside(u32),
}

/// Neighbouring clusters of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first.
    pub(super) first: u32,
    /// How many.
    pub(super) count: u32,
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

    /// The numbers of its clusters.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs
            .iter()
            .flat_map(|run| run.first..run.first.saturating_add(run.count))
    }
}

/// A bit for every cluster.
#[derive(Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// None set.
    pub(super) fn new(geometry: &Geometry) -> Result<Self> {
        let words = narrow(geometry.cluster_count.saturating_add(2).div_ceil(64), "FAT")?;
        let mut bits = Vec::new();
        bits.try_reserve_exact(words)
            .map_err(|_| Error::limit(format!("FAT: memory for {words} words expected")))?;
        bits.resize(words, 0);
        Ok(Self(bits))
    }

    /// Sets one; says whether it was set before.
    pub(super) fn set(&mut self, cluster: u32) -> bool {
        let mask = 1_u64.wrapping_shl(cluster & 63);
        let word = usize::try_from(cluster >> 6).unwrap_or(usize::MAX);
        match self.0.get_mut(word) {
            Some(word) => {
                let was = *word & mask != 0;
                *word |= mask;
                was
            }
            None => true,
        }
    }

    /// How many are set.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, word| sum.saturating_add(word.count_ones().into()))
    }
}

/// Reads the active FAT.
#[derive(Debug)]
pub(super) struct Table<'a> {
    fat: &'a Fat,
    window: Vec<u8>,
    at: u64,
}

impl<'a> Table<'a> {
    /// Nothing read yet.
    #[must_use]
    pub(super) fn new(fat: &'a Fat) -> Self {
        Self {
            fat,
            window: Vec::new(),
            at: 0,
        }
    }

    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = at.saturating_add(wide(len));
        let have = self.at.saturating_add(wide(self.window.len()));
        if at < self.at || end > have {
            let geometry = &self.fat.geometry;
            let start = at.saturating_sub(at & WINDOW.saturating_sub(1));
            let want = geometry
                .fat_len
                .saturating_sub(start)
                .min(WINDOW.saturating_add(4));
            self.window.resize(narrow(want, "FAT")?, 0);
            self.at = start;
            let place = fat_offset(geometry, geometry.active).saturating_add(start);
            self.fat
                .device
                .read_at(place, &mut self.window)
                .at("volume offset", format!("{place:#x}"))?;
        }
        let from = narrow(at.saturating_sub(self.at), "FAT")?;
        from.checked_add(len)
            .and_then(|to| self.window.get(from..to))
            .ok_or_else(|| Error::internal("FAT: an entry outside of it"))
    }

    /// The entry as it stands; of FAT32 the 28 bits that count.
    pub(super) fn value(&mut self, cluster: u32) -> Result<u32> {
        let (at, len) = place_of(self.fat.geometry.width, cluster);
        let bytes = self.bytes(at, len)?;
        let mut raw = [0; 4];
        for (to, from) in raw.iter_mut().zip(bytes) {
            *to = *from;
        }
        let raw = u32::from_le_bytes(raw);
        Ok(match self.fat.geometry.width {
            Width::Bits12 if cluster & 1 == 1 => raw >> 4,
            Width::Bits12 => raw & 0xFFF,
            Width::Bits16 => raw,
            Width::Bits32 => raw & 0x0FFF_FFFF,
        })
    }

    /// What the entry means.
    pub(super) fn link(&mut self, cluster: u32) -> Result<Link> {
        let value = self.value(cluster)?;
        let (bad, end) = match self.fat.geometry.width {
            Width::Bits12 => (0xFF7, 0xFF8),
            Width::Bits16 => (0xFFF7, 0xFFF8),
            Width::Bits32 => (0x0FFF_FFF7, 0x0FFF_FFF8),
        };
        Ok(match value {
            0 => Link::Free,
            next if self.fat.geometry.has(next) => Link::Next(next),
            _ if value == bad => Link::Bad,
            _ if value >= end => Link::End,
            _ => Link::Outside(value),
        })
    }

    /// Follows a chain; ends where `stop` says so, or where it leads to a cluster that it led to
    /// before (`seen`). Every cluster is passed at most once.
    pub(super) fn chain(&mut self, first: u32, seen: &mut Bits) -> Result<Chain> {
        self.follow(first, &mut |cluster| seen.set(cluster))
    }

    /// Follows one chain by itself: a loop is noticed without a bit for every cluster.
    pub(super) fn single(&mut self, first: u32) -> Result<Chain> {
        // Brent: the tortoise is put where the hare is at every power of two.
        let (mut tortoise, mut steps, mut power) = (0_u32, 0_u64, 1_u64);
        self.follow(first, &mut |cluster| {
            if cluster == tortoise {
                return true;
            }
            steps = steps.saturating_add(1);
            if steps == power {
                tortoise = cluster;
                power = power.saturating_mul(2);
            }
            false
        })
    }

    fn follow(&mut self, first: u32, seen: &mut dyn FnMut(u32) -> bool) -> Result<Chain> {
        let mut chain = Chain::default();
        let mut at = first;
        if !self.fat.geometry.has(first) {
            chain.problem = Some(format!(
                "chain: a first cluster from 2 to {} expected, found {first}",
                self.fat.geometry.cluster_count.saturating_add(1)
            ));
            return Ok(chain);
        }
        loop {
            if seen(at) {
                chain.problem = Some(format!(
                    "chain: a cluster of its own expected, found cluster {at}, which is in a chain \
                     already (volume offset {:#x})",
                    self.fat.geometry.offset_of(at)
                ));
                return Ok(chain);
            }
            let link = self.link(at)?;
            let found = match link {
                Link::Next(next) => {
                    chain.push(at);
                    at = next;
                    continue;
                }
                Link::End => {
                    chain.push(at);
                    return Ok(chain);
                }
                Link::Free => "a free cluster".to_owned(),
                Link::Bad => "a bad cluster".to_owned(),
                Link::Outside(value) => {
                    chain.push(at);
                    format!("a link to {value:#x}, which no cluster is")
                }
            };
            let entry = fat_offset(&self.fat.geometry, self.fat.geometry.active)
                .saturating_add(place_of(self.fat.geometry.width, at).0);
            chain.problem = Some(format!(
                "chain: a link or an end expected for cluster {at}, found {found} (volume offset \
                 {entry:#x})"
            ));
            return Ok(chain);
        }
    }
}

/// Where a copy of the FAT starts.
pub(super) fn fat_offset(geometry: &Geometry, copy: u64) -> u64 {
    geometry
        .fat_start
        .saturating_add(copy.saturating_mul(geometry.fat_len))
}

/// Where in the FAT an entry stands, and in how many bytes.
pub(super) fn place_of(width: Width, cluster: u32) -> (u64, usize) {
    let cluster = u64::from(cluster);
    match width {
        Width::Bits12 => (cluster.saturating_add(cluster >> 1), 2),
        Width::Bits16 => (cluster.saturating_mul(2), 2),
        Width::Bits32 => (cluster.saturating_mul(4), 4),
    }
}
