//! Whose a byte of the volume is.

use std::collections::{BTreeMap, HashMap};

use super::{
    Fat,
    format::slot,
    table::{Link, Table},
    walk::{Walk, first_cluster},
};
use crate::{
    error::Result,
    tree::{FileId, Owner},
    units::{FileOffset, VolumeOffset},
    volume::widths::wide,
};

/// A file's cluster: which file, and how many of its clusters come before.
type Place = (usize, u64);

impl Fat {
    /// See [`FileTree::owners`](crate::tree::FileTree::owners).
    pub(super) fn owners_of(
        &self,
        offsets: &[VolumeOffset],
        likely: &[FileId],
    ) -> Result<Vec<Owner>> {
        let walk = self.walk()?;
        let mut table = Table::new(self);
        let mut wanted: BTreeMap<u32, Option<Place>> = BTreeMap::new();
        let mut slots: HashMap<u64, Option<usize>> = HashMap::new();
        for at in offsets {
            if walk.directory_at(at.get()).is_some() {
                slots.insert(at.get() >> 5, None);
            } else if let Some(cluster) = self.geometry.cluster_at(at.get())
                && !matches!(table.link(cluster)?, Link::Free | Link::Bad)
            {
                wanted.insert(cluster, None);
            }
        }
        if !slots.is_empty() {
            for (index, node) in walk.nodes.iter().enumerate() {
                for slot in &node.slots {
                    if let Some(owner) = slots.get_mut(slot) {
                        *owner = Some(index);
                    }
                }
            }
        }
        self.place(&walk, &mut table, &mut wanted, likely)?;
        offsets
            .iter()
            .map(|at| self.owner_of(&walk, at.get(), &mut table, &wanted, &slots))
            .collect()
    }

    /// Finds which file each of these clusters belongs to.
    fn place(
        &self,
        walk: &Walk,
        table: &mut Table<'_>,
        wanted: &mut BTreeMap<u32, Option<Place>>,
        likely: &[FileId],
    ) -> Result<()> {
        let mut missing = wanted.len();
        let first = likely.iter().filter_map(|id| walk.find(id.0));
        for index in first.chain(1..walk.nodes.len()) {
            if missing == 0 {
                break;
            }
            let Some(node) = walk.nodes.get(index) else {
                continue;
            };
            let first = first_cluster(self, &node.raw);
            if node.is_directory() || node.is_label() || first == 0 {
                continue;
            }
            let chain = table.single(first)?;
            let mut before = 0_u64;
            for run in &chain.runs {
                let end = run.first.saturating_add(run.count);
                for (cluster, place) in wanted.range_mut(run.first..end) {
                    if place.is_none() {
                        let inside = cluster.saturating_sub(run.first);
                        *place = Some((index, before.saturating_add(inside.into())));
                        missing = missing.saturating_sub(1);
                    }
                }
                before = before.saturating_add(run.count.into());
            }
        }
        Ok(())
    }

    fn owner_of(
        &self,
        walk: &Walk,
        at: u64,
        table: &mut Table<'_>,
        wanted: &BTreeMap<u32, Option<Place>>,
        slots: &HashMap<u64, Option<usize>>,
    ) -> Result<Owner> {
        if let Some(owner) = slots.get(&(at >> 5)) {
            return Ok(Owner::Record {
                number: at >> 5,
                in_use: owner.is_some() || self.is_dot(at >> 5)?,
                slack: false,
                path: owner.map(|index| walk.path(index).to_string()),
            });
        }
        let Some(cluster) = self.geometry.cluster_at(at) else {
            return Ok(Owner::Outside);
        };
        let start = self.geometry.offset_of(cluster);
        match wanted.get(&cluster) {
            None if table.link(cluster)? == Link::Free => Ok(Owner::Free {
                cluster: start..start.saturating_add(self.geometry.cluster_len),
            }),
            Some(Some((index, before))) => {
                let node = walk.nodes.get(*index);
                let offset = before
                    .saturating_mul(self.geometry.cluster_len)
                    .saturating_add(at.saturating_sub(start));
                Ok(Owner::File {
                    id: FileId(node.map_or(0, |node| node.id)),
                    path: walk.path(*index).to_string(),
                    stream: "data".to_owned(),
                    offset: FileOffset(offset),
                    tail: node.is_some_and(|node| offset >= node.len()),
                })
            }
            _ => Ok(Owner::File {
                id: FileId(0),
                path: "?".to_owned(),
                stream: "cluster in use by no file".to_owned(),
                offset: FileOffset(at.saturating_sub(start)),
                tail: false,
            }),
        }
    }

    /// `.` and `..` of a directory.
    fn is_dot(&self, number: u64) -> Result<bool> {
        let mut raw = [0; slot::LEN];
        let at = number.saturating_mul(wide(slot::LEN));
        self.device.read_at(at, &mut raw)?;
        Ok(raw.starts_with(b".          ") || raw.starts_with(b"..         "))
    }
}
