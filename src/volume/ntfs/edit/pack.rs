//! Packing the keys of an index tree anew into blocks that the index owns already.
//!
//! Facts: facts/ntfs.md 1.2, step 4: the fallback that always leaves a sound tree.

use std::collections::BTreeMap;

use super::{
    node::{Entry, Node, Order},
    tree::{MAX_DEPTH, Tree},
};
use crate::error::{Error, Result};

impl Tree {
    /// Packs everything except one key anew into the owned blocks.
    pub(super) fn rebuild_without(&mut self, order: Order<'_>, key: &[u8]) -> Result<()> {
        let mut rest = Vec::new();
        for entry in self.entries()? {
            if !order.compare(entry.key()?, key)?.is_eq() {
                rest.push(entry.clone());
            }
        }
        self.rebuild(rest)
    }

    /// Packs these entries anew. Few separators may be long: looser packings are tried.
    fn rebuild(&mut self, entries: Vec<Entry>) -> Result<()> {
        let mut supply: Vec<u64> = self.blocks.keys().copied().collect();
        supply.extend(
            (0..self.owned)
                .filter(|block| !self.blocks.contains_key(block))
                .take(64),
        );
        for looseness in [0_usize, 10, 25, 50, 75] {
            if let Some((root, blocks)) = self.pack(&entries, &supply, looseness) {
                self.changed = blocks.keys().copied().collect();
                self.root_changed = true;
                self.root = root;
                self.blocks = blocks;
                return Ok(());
            }
        }
        Err(Error::refused(
            "index: the remaining names do not fit into the blocks that the directory owns",
        ))
    }

    pub(super) fn pack(
        &self,
        entries: &[Entry],
        supply: &[u64],
        looseness: usize,
    ) -> Option<(Node, BTreeMap<u64, Node>)> {
        let mut supply = supply.iter().copied();
        let mut blocks = BTreeMap::new();
        let mut level = Node {
            entries: entries.to_vec(),
            children: Vec::new(),
        };
        for _ in 0..MAX_DEPTH {
            if level.entries_len() <= self.root_room {
                return Some((level, blocks));
            }
            let mut above = Node::default();
            for node in self.pack_level(&level, looseness, &mut above.entries)? {
                let block = supply.next()?;
                above.children.push(block);
                blocks.insert(block, node);
            }
            // A level of one block below END only must fit: it is the smallest inner root.
            if above.entries.is_empty() && above.entries_len() > self.root_room {
                return None;
            }
            level = above;
        }
        None
    }

    /// Cuts a level into blocks; the keys between them go to `separators`.
    fn pack_level(
        &self,
        level: &Node,
        looseness: usize,
        separators: &mut Vec<Entry>,
    ) -> Option<Vec<Node>> {
        let child = if level.is_leaf() { 0_usize } else { 8 };
        let end = 16_usize.checked_add(child)?;
        let room = self.block_room.checked_sub(end)?;
        let floor = room.checked_sub(room.checked_mul(looseness)?.checked_div(100)?)?;
        let mut nodes = Vec::new();
        let mut start = 0_usize;
        loop {
            let rest = level.entries.get(start..)?;
            let mut len = 0_usize;
            let mut fill = Vec::new();
            for entry in rest {
                len = len.checked_add(entry.len())?.checked_add(child)?;
                if len > room {
                    break;
                }
                fill.push(len);
            }
            let mut count = fill.len();
            let last_block = count == rest.len();
            if !last_block {
                // `count` keys fit: the separator is the shortest from the looseness floor on,
                // and a key must remain for the next block.
                let most = count.min(rest.len().checked_sub(2)?);
                let least = fill
                    .iter()
                    .take_while(|len| **len < floor)
                    .count()
                    .min(most)
                    .max(1);
                if most < 1 {
                    return None;
                }
                count = (least..=most)
                    .rev()
                    .min_by_key(|j| rest.get(*j).map_or(usize::MAX, Entry::len))?;
                separators.push(rest.get(count)?.clone());
            }
            let stop = start.checked_add(count)?;
            nodes.push(Node {
                entries: level.entries.get(start..stop)?.to_vec(),
                children: if level.is_leaf() {
                    Vec::new()
                } else {
                    level.children.get(start..=stop)?.to_vec()
                },
            });
            if last_block {
                return Some(nodes);
            }
            start = stop.checked_add(1)?;
        }
    }
}
