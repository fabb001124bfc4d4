//! Whose a byte of the volume is.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Exfat,
    entry::byte,
    format::slot,
    table::{Chain, Table},
    walk::Walk,
};
use crate::{
    error::Result,
    tree::{FileId, Owner},
    units::{FileOffset, VolumeOffset},
};

/// A cluster of a file's data: which file, and how many of its clusters come before. Or of something
/// else, by name.
#[derive(Clone, Debug)]
enum Place {
    Data(usize, u64),
    Other(String),
}

impl Exfat {
    /// See [`FileTree::owners`](crate::tree::FileTree::owners).
    pub(super) fn owners_of(
        &self,
        offsets: &[VolumeOffset],
        likely: &[FileId],
    ) -> Result<Vec<Owner>> {
        let walk = self.walk()?;
        let mut wanted: BTreeMap<u32, Option<Place>> = BTreeMap::new();
        let mut slots: HashMap<u64, Option<usize>> = HashMap::new();
        for at in offsets {
            if walk.directory_at(at.get()).is_some() {
                slots.insert(at.get() >> 5, None);
            } else if let Some(cluster) = self.geometry.cluster_at(at.get())
                && walk.taken.has(cluster)
            {
                wanted.insert(cluster, None);
            }
        }
        let mut stale = HashSet::new();
        if !slots.is_empty() {
            for (index, node) in walk.nodes.iter().enumerate() {
                for slot in &node.slots {
                    if let Some(owner) = slots.get_mut(slot) {
                        *owner = Some(index);
                    }
                }
            }
            let of_stale = walk.stale.iter().flat_map(|stale| stale.slots.iter());
            stale.extend(of_stale.filter(|slot| slots.contains_key(*slot)).copied());
        }
        self.place(&walk, &mut wanted, likely)?;
        offsets
            .iter()
            .map(|at| self.owner_of(&walk, at.get(), &wanted, &slots, &stale))
            .collect()
    }

    /// Finds which file each of these clusters belongs to.
    fn place(
        &self,
        walk: &Walk,
        wanted: &mut BTreeMap<u32, Option<Place>>,
        likely: &[FileId],
    ) -> Result<()> {
        let mut missing = wanted.len();
        let mut take = |chain: &Chain, make: &dyn Fn(u64) -> Place| {
            let mut before = 0_u64;
            for run in &chain.runs {
                let end = run.first.saturating_add(run.count);
                for (cluster, place) in wanted.range_mut(run.first..end) {
                    if place.is_none() {
                        let inside = cluster.saturating_sub(run.first);
                        *place = Some(make(before.saturating_add(inside.into())));
                        missing = missing.saturating_sub(1);
                    }
                }
                before = before.saturating_add(run.count.into());
            }
            missing == 0
        };
        for system in &walk.systems {
            take(&system.chain, &|_| Place::Other(system.name.to_owned()));
        }
        let mut table = Table::new(self);
        let first = likely.iter().filter_map(|id| walk.find(id.0));
        for index in first.chain(1..walk.nodes.len()) {
            let Some(node) = walk.nodes.get(index).filter(|node| !node.is_directory()) else {
                continue;
            };
            if take(&table.chain(node.set.data)?, &|n| Place::Data(index, n)) {
                break;
            }
            for more in &node.set.extra {
                let what = || format!("{}, vendor allocation", walk.path(index));
                take(&table.chain(*more)?, &|_| Place::Other(what()));
            }
        }
        Ok(())
    }

    fn owner_of(
        &self,
        walk: &Walk,
        at: u64,
        wanted: &BTreeMap<u32, Option<Place>>,
        slots: &HashMap<u64, Option<usize>>,
        stale: &HashSet<u64>,
    ) -> Result<Owner> {
        let number = at >> 5;
        if let Some(owner) = slots.get(&number) {
            let live = byte(&self.slot(number)?, 0) & slot::IN_USE != 0;
            return Ok(Owner::Record {
                number,
                in_use: owner.is_some() || (live && !stale.contains(&number)),
                slack: false,
                path: owner.map(|index| walk.path(index).to_string()),
            });
        }
        let Some(cluster) = self.geometry.cluster_at(at) else {
            return Ok(Owner::Outside);
        };
        let start = self.geometry.offset_of(cluster);
        let nobody = |path: &str, stream: &str| Owner::File {
            id: FileId(0),
            path: path.to_owned(),
            stream: stream.to_owned(),
            offset: FileOffset(at.saturating_sub(start)),
            tail: false,
        };
        Ok(match wanted.get(&cluster) {
            None if walk.is_free(self, cluster)? => Owner::Free {
                cluster: start..start.saturating_add(self.geometry.cluster_len),
            },
            Some(Some(Place::Data(index, before))) => {
                let node = walk.nodes.get(*index);
                let offset = before
                    .saturating_mul(self.geometry.cluster_len)
                    .saturating_add(at.saturating_sub(start));
                Owner::File {
                    id: FileId(node.map_or(0, |node| node.id)),
                    path: walk.path(*index).to_string(),
                    stream: "data".to_owned(),
                    offset: FileOffset(offset),
                    // What was never written is no data (section 7.6.5).
                    tail: node.is_some_and(|node| offset >= node.set.valid),
                }
            }
            Some(Some(Place::Other(name))) => nobody(name, "data"),
            _ => nobody("?", "cluster in use by no file"),
        })
    }
}
