//! The file allocation table: what its entries mean, and chains of them.

use super::{FatFormat, boot::Width};
use crate::{
    error::{Error, Result},
    volume::{
        clusters::{Chain, Heap, Table, Tortoise},
        widths::narrow,
    },
};

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

/// A bit for every cluster.
#[derive(Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// None set.
    pub(super) fn new(heap: &Heap) -> Result<Self> {
        let words = narrow(heap.cluster_count.saturating_add(2).div_ceil(64), "FAT")?;
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

impl Table<'_, FatFormat> {
    /// The entry as it stands; of FAT32 the 28 bits that count.
    pub(super) fn value(&mut self, cluster: u32) -> Result<u32> {
        let width = self.volume().geometry.width;
        let (at, len) = place_of(width, cluster);
        let bytes = self.bytes(at, len)?;
        let mut raw = [0; 4];
        for (to, from) in raw.iter_mut().zip(bytes) {
            *to = *from;
        }
        let raw = u32::from_le_bytes(raw);
        Ok(match width {
            Width::Bits12 if cluster & 1 == 1 => raw >> 4,
            Width::Bits12 => raw & 0xFFF,
            Width::Bits16 => raw,
            Width::Bits32 => raw & 0x0FFF_FFFF,
        })
    }

    /// What the entry means.
    pub(super) fn link(&mut self, cluster: u32) -> Result<Link> {
        let value = self.value(cluster)?;
        let geometry = &self.volume().geometry;
        let (bad, end) = match geometry.width {
            Width::Bits12 => (0xFF7, 0xFF8),
            Width::Bits16 => (0xFFF7, 0xFFF8),
            Width::Bits32 => (0x0FFF_FFF7, 0x0FFF_FFF8),
        };
        Ok(match value {
            0 => Link::Free,
            next if geometry.heap.has(next) => Link::Next(next),
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
        let mut tortoise = Tortoise::default();
        self.follow(first, &mut |cluster| tortoise.meets(cluster))
    }

    fn follow(&mut self, first: u32, seen: &mut dyn FnMut(u32) -> bool) -> Result<Chain> {
        let geometry = &self.volume().geometry;
        let mut chain = Chain::default();
        let mut at = first;
        if !geometry.heap.has(first) {
            chain.problem = Some(format!(
                "chain: a first cluster from 2 to {} expected, found {first}",
                geometry.heap.cluster_count.saturating_add(1)
            ));
            return Ok(chain);
        }
        loop {
            if seen(at) {
                chain.met = Some(at);
                chain.problem = Some(format!(
                    "chain: a cluster of its own expected, found cluster {at}, which is in a chain \
                     already (volume offset {:#x})",
                    geometry.heap.offset_of(at)
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
            let entry = geometry
                .copy_start(geometry.active)
                .saturating_add(place_of(geometry.width, at).0);
            chain.problem = Some(format!(
                "chain: a link or an end expected for cluster {at}, found {found} (volume offset \
                 {entry:#x})"
            ));
            return Ok(chain);
        }
    }
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
