//! Whose a byte of the volume is.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Chain, Entry, Format, Table, Volume, Walk};
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

/// Who owns the places that were asked for.
struct Found {
    /// The clusters of no directory that are in use.
    clusters: BTreeMap<u32, Option<Place>>,
    /// The slots, and the entry that a slot is of.
    slots: HashMap<u64, Option<usize>>,
    /// Those of them that are known not to be in use.
    stale: HashSet<u64>,
}

/// Whose clusters others' are is told of so many: it takes a pass over the files before.
const MAX_HOLDERS: u64 = 5;

impl<F: Format> Walk<F> {
    /// " and PATH": who has a cluster that the node `index` has, too; empty if that is not known.
    pub(in crate::volume) fn holder(
        &self,
        table: &mut Table<'_, F>,
        cluster: u32,
        index: usize,
    ) -> Result<String> {
        let has = |chain: &Chain| {
            let mut runs = chain.runs.iter();
            runs.any(|run| (run.first..run.end()).contains(&cluster))
        };
        if self.problem_count >= MAX_HOLDERS {
            return Ok(String::new());
        }
        let at = table.volume().heap().offset_of(cluster);
        if let Some(directory) = self.directory_at(at) {
            return Ok(format!(" and directory {}", self.path(directory)));
        }
        if let Some(system) = self.systems.iter().find(|system| has(&system.chain)) {
            return Ok(format!(" and the {}", system.name));
        }
        // Those before it were checked: their chains lie apart, and end.
        for (other, node) in self.nodes.iter().enumerate().take(index).skip(1) {
            let is_file = !node.is_directory() && !node.is_label();
            if is_file && other != index && F::chains(table, &node.entry)?.iter().any(has) {
                return Ok(format!(" and {}", self.path(other)));
            }
        }
        Ok(String::new())
    }
}

impl<F: Format> Volume<F> {
    /// See [`FileTree::owners`](crate::tree::FileTree::owners).
    pub(super) fn owners_of(
        &self,
        offsets: &[VolumeOffset],
        likely: &[FileId],
    ) -> Result<Vec<Owner>> {
        let walk = self.walk()?;
        let mut table = Table::new(self);
        let mut found = Found {
            clusters: BTreeMap::new(),
            slots: HashMap::new(),
            stale: HashSet::new(),
        };
        for at in offsets {
            if walk.directory_at(at.get()).is_some() {
                found.slots.insert(at.get() >> 5, None);
            } else if let Some(cluster) = self.heap().cluster_at(at.get())
                && F::is_owned(&mut table, &walk, cluster)?
            {
                found.clusters.insert(cluster, None);
            }
        }
        if !found.slots.is_empty() {
            for (index, node) in walk.nodes.iter().enumerate() {
                for slot in &node.slots {
                    if let Some(owner) = found.slots.get_mut(slot) {
                        *owner = Some(index);
                    }
                }
            }
            let of_stale = walk.stale.iter().flat_map(|stale| stale.slots.iter());
            let wanted = of_stale.filter(|slot| found.slots.contains_key(*slot));
            found.stale = wanted.copied().collect();
        }
        place(&walk, &mut table, &mut found.clusters, likely)?;
        offsets
            .iter()
            .map(|at| self.owner_of(&walk, at.get(), &mut table, &found))
            .collect()
    }

    fn owner_of(
        &self,
        walk: &Walk<F>,
        at: u64,
        table: &mut Table<'_, F>,
        found: &Found,
    ) -> Result<Owner> {
        let number = at >> 5;
        if let Some(owner) = found.slots.get(&number) {
            let in_use = match owner {
                Some(_) => true,
                None => F::is_live(&self.slot(number)?, found.stale.contains(&number)),
            };
            return Ok(Owner::Record {
                number,
                in_use,
                slack: false,
                path: owner.map(|index| walk.path(index).to_string()),
            });
        }
        let Some(cluster) = self.heap().cluster_at(at) else {
            return Ok(Owner::Outside);
        };
        let start = self.heap().offset_of(cluster);
        let cluster_len = self.heap().cluster_len;
        let nobody = |path: &str, stream: &str| Owner::File {
            id: FileId(0),
            path: path.to_owned(),
            stream: stream.to_owned(),
            offset: FileOffset(at.saturating_sub(start)),
            tail: false,
        };
        Ok(match found.clusters.get(&cluster) {
            None if F::is_free(table, walk, cluster)? => Owner::Free {
                cluster: start..start.saturating_add(cluster_len),
            },
            Some(Some(Place::Data(index, before))) => {
                let node = walk.nodes.get(*index);
                let offset = before
                    .saturating_mul(cluster_len)
                    .saturating_add(at.saturating_sub(start));
                Owner::File {
                    id: FileId(node.map_or(0, |node| node.id)),
                    path: walk.path(*index).to_string(),
                    stream: "data".to_owned(),
                    offset: FileOffset(offset),
                    // What was never written is no data.
                    tail: node.is_some_and(|node| offset >= node.entry.valid()),
                }
            }
            Some(Some(Place::Other(name))) => nobody(name, "data"),
            _ => nobody("?", "cluster in use by no file"),
        })
    }
}

/// Finds which file each of these clusters belongs to.
fn place<F: Format>(
    walk: &Walk<F>,
    table: &mut Table<'_, F>,
    wanted: &mut BTreeMap<u32, Option<Place>>,
    likely: &[FileId],
) -> Result<()> {
    let mut missing = wanted.len();
    let mut take = |chain: &Chain, make: &dyn Fn(u64) -> Place| {
        let mut before = 0_u64;
        for run in &chain.runs {
            for (cluster, place) in wanted.range_mut(run.first..run.end()) {
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
    let first = likely.iter().filter_map(|id| walk.find(id.0));
    for index in first.chain(1..walk.nodes.len()) {
        let Some(node) = walk.nodes.get(index) else {
            continue;
        };
        if node.is_directory() || node.is_label() {
            continue;
        }
        for (i, chain) in F::chains(table, &node.entry)?.iter().enumerate() {
            let more = || format!("{}, vendor allocation", walk.path(index));
            let done = match i {
                0 => take(chain, &|n| Place::Data(index, n)),
                _ => take(chain, &|_| Place::Other(more())),
            };
            if done {
                return Ok(());
            }
        }
    }
    Ok(())
}
