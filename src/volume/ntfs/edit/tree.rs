//! Deletion from an index B+tree that is held in memory; never needs a block more than it has.
//!
//! Facts: facts/ntfs.md 1.2. Small edits where they suffice (leaf, neighbour of an inner key,
//! emptied leaf), otherwise all remaining keys are packed anew into the blocks already owned.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Entry, Node, Order};
use crate::error::{Error, Result};

/// Deeper trees are hostile: a tree of 4 KiB blocks with 8 levels names a billion files.
pub(super) const MAX_DEPTH: usize = 32;

/// A node of the tree: the root, or the block with this number (not VCN).
pub(super) type At = Option<u64>;

/// The way to an entry: node and position, from the root on; the last step is the entry itself,
/// the others are the children taken.
pub(super) type Path = Vec<(At, usize)>;

/// A whole index in memory. Children are block numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) root: Node,
    pub(super) blocks: BTreeMap<u64, Node>,
    /// Blocks that the index owns, used or not.
    pub(super) owned: u64,
    /// Bytes for entries in a block and in the root.
    pub(super) block_room: usize,
    pub(super) root_room: usize,
    pub(super) root_changed: bool,
    pub(super) changed: BTreeSet<u64>,
}

/// What an edit changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes<'a> {
    /// The root, if it changed.
    pub(super) root: Option<&'a Node>,
    /// Changed blocks in use.
    pub(super) blocks: Vec<(u64, &'a Node)>,
}

impl Tree {
    /// Starts a tree of a root and no blocks yet.
    pub(super) fn new(root: Node, owned: u64, block_room: usize, root_room: usize) -> Self {
        Self {
            root,
            owned,
            block_room,
            root_room,
            ..Self::default()
        }
    }

    /// Reads every reachable block with `read` (block number to node with block numbers as
    /// children); a block reached twice or a depth over the limit is an error.
    pub(super) fn load(&mut self, mut read: impl FnMut(u64) -> Result<Node>) -> Result<()> {
        let mut level = self.root.children.clone();
        let mut depth = 0_usize;
        while !level.is_empty() {
            depth = depth.saturating_add(1);
            if depth > MAX_DEPTH {
                return Err(Error::limit(format!(
                    "index: deeper than {MAX_DEPTH} levels"
                )));
            }
            let mut next = Vec::new();
            for block in &level {
                if *block >= self.owned {
                    return Err(Error::malformed(format!(
                        "index: block below {} expected, found {block}",
                        self.owned
                    )));
                }
                let node = read(*block)?;
                if node.is_leaf() && node.entries.is_empty() {
                    return Err(Error::malformed(format!(
                        "index: leaf block {block} without keys"
                    )));
                }
                next.extend_from_slice(&node.children);
                if self.blocks.insert(*block, node).is_some() {
                    return Err(Error::malformed(format!(
                        "index: block {block} reached twice"
                    )));
                }
            }
            level = next;
        }
        Ok(())
    }

    /// Sets how many bytes of entries a block holds.
    pub(super) fn set_block_room(&mut self, room: usize) {
        self.block_room = room;
    }

    /// Overwrites bytes of one entry; the key is the caller's to keep.
    pub(super) fn patch(&mut self, path: &Path, at: usize, bytes: &[u8]) -> Result<()> {
        let (node, i) = last(path)?;
        let entry = self
            .edit(node)?
            .entries
            .get_mut(i)
            .ok_or_else(|| Error::internal("index: entry missing"))?;
        entry.patch(at, bytes)
    }

    /// Numbers of the blocks in use.
    pub(super) fn used_blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// What changed since the tree was loaded.
    pub(super) fn changes(&self) -> Changes<'_> {
        Changes {
            root: self.root_changed.then_some(&self.root),
            blocks: self
                .blocks
                .iter()
                .filter(|(block, _)| self.changed.contains(block))
                .map(|(block, node)| (*block, node))
                .collect(),
        }
    }

    pub(super) fn node(&self, at: At) -> Result<&Node> {
        match at {
            None => Ok(&self.root),
            Some(block) => self
                .blocks
                .get(&block)
                .ok_or_else(|| Error::internal("index: block is not loaded")),
        }
    }

    pub(super) fn edit(&mut self, at: At) -> Result<&mut Node> {
        match at {
            None => {
                self.root_changed = true;
                Ok(&mut self.root)
            }
            Some(block) => {
                self.changed.insert(block);
                self.blocks
                    .get_mut(&block)
                    .ok_or_else(|| Error::internal("index: block is not loaded"))
            }
        }
    }

    pub(super) fn free(&mut self, block: u64) {
        self.blocks.remove(&block);
        self.changed.remove(&block);
    }

    pub(super) fn room(&self, at: At) -> usize {
        if at.is_none() {
            self.root_room
        } else {
            self.block_room
        }
    }

    pub(super) fn child(&self, at: At, i: usize) -> Result<At> {
        self.node(at)?
            .children
            .get(i)
            .map(|block| Some(*block))
            .ok_or_else(|| Error::internal("index: child missing"))
    }

    pub(super) fn entry(&self, at: At, i: usize) -> Result<&Entry> {
        self.node(at)?
            .entries
            .get(i)
            .ok_or_else(|| Error::internal("index: entry missing"))
    }

    /// All entries in order.
    pub(super) fn entries(&self) -> Result<Vec<&Entry>> {
        let mut out = Vec::new();
        let mut stack: Vec<(At, usize)> = vec![(None, 0)];
        while let Some((at, i)) = stack.pop() {
            let Ok(node) = self.node(at) else {
                continue;
            };
            if node.is_leaf() {
                out.extend(node.entries.iter());
                continue;
            }
            // Coming back from child i - 1: its key follows it.
            if let Some(before) = i.checked_sub(1) {
                out.extend(node.entries.get(before));
            }
            if let Some(child) = node.children.get(i) {
                stack.push((at, i.saturating_add(1)));
                stack.push((Some(*child), 0));
            }
        }
        Ok(out)
    }

    /// Checks the order of all keys and that no key is there twice.
    pub(super) fn check_order(&self, order: Order<'_>) -> Result<()> {
        let entries = self.entries()?;
        for (a, b) in entries.iter().zip(entries.iter().skip(1)) {
            if order.compare(a.key()?, b.key()?)?.is_ge() {
                return Err(Error::malformed(
                    "index: keys in ascending order expected, found otherwise",
                ));
            }
        }
        Ok(())
    }

    /// The way to the entry with this key.
    pub(super) fn find(&self, order: Order<'_>, key: &[u8]) -> Result<Option<Path>> {
        let mut path = Path::new();
        let mut at: At = None;
        loop {
            if path.len() > MAX_DEPTH {
                return Err(Error::internal("index: too deep"));
            }
            let node = self.node(at)?;
            let (mut low, mut high) = (0_usize, node.entries.len());
            while low < high {
                let middle = low.midpoint(high);
                match order.compare(self.entry(at, middle)?.key()?, key)? {
                    std::cmp::Ordering::Less => low = middle.saturating_add(1),
                    std::cmp::Ordering::Equal => {
                        path.push((at, middle));
                        return Ok(Some(path));
                    }
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
            if node.is_leaf() {
                return Ok(None);
            }
            path.push((at, low));
            at = self.child(at, low)?;
        }
    }

    /// The entry at the end of a path.
    pub(super) fn at(&self, path: &Path) -> Result<&Entry> {
        let (at, i) = last(path)?;
        self.entry(at, i)
    }

    /// Removes the entry with this key. `false`: there is none.
    pub(super) fn remove(&mut self, order: Order<'_>, key: &[u8]) -> Result<bool> {
        let Some(path) = self.find(order, key)? else {
            return Ok(false);
        };
        // A small edit may find out half-way that it needs more room than there is. It has lost no
        // other key then; at most emptied blocks are missing, which `entries` passes over.
        if !self.remove_at(&path)? {
            self.rebuild_without(order, key)?;
        }
        Ok(true)
    }

    fn remove_at(&mut self, path: &Path) -> Result<bool> {
        let (at, i) = last(path)?;
        if self.node(at)?.is_leaf() {
            let node = self.edit(at)?;
            take(&mut node.entries, i)?;
            if node.entries.is_empty() && at.is_some() {
                let mut up = path.clone();
                up.pop();
                return self.unlink_empty(up);
            }
            return Ok(true);
        }
        let next = self.outermost(path, true)?;
        let previous = self.outermost(path, false)?;
        // First choice: a neighbour that fits and leaves its leaf with a key.
        for keep in [true, false] {
            for neighbour in [&next, &previous] {
                let (leaf, _) = last(neighbour)?;
                if (!keep || self.node(leaf)?.entries.len() > 1) && self.fits(at, i, neighbour)? {
                    let entry = self.at(neighbour)?.clone();
                    let place = self
                        .edit(at)?
                        .entries
                        .get_mut(i)
                        .ok_or_else(|| Error::internal("index: entry missing"))?;
                    *place = entry;
                    return self.remove_at(neighbour);
                }
            }
        }
        if self.node(self.child(at, i)?)?.is_leaf() {
            return self.respread(path.clone(), false);
        }
        Ok(false)
    }

    /// Whether the inner entry can be replaced by the one at `path`.
    fn fits(&self, at: At, i: usize, path: &Path) -> Result<bool> {
        let len = self
            .node(at)?
            .entries_len()
            .saturating_sub(self.entry(at, i)?.len())
            .saturating_add(self.at(path)?.len());
        Ok(len <= self.room(at))
    }

    /// The way to the next (or previous) entry of an inner entry: it lies in a leaf.
    pub(super) fn outermost(&self, path: &Path, next: bool) -> Result<Path> {
        let mut path = path.clone();
        let (mut at, mut i) = last(&path)?;
        path.pop();
        if next {
            i = i.saturating_add(1);
        }
        loop {
            path.push((at, i));
            if path.len() > MAX_DEPTH.saturating_add(1) {
                return Err(Error::internal("index: too deep"));
            }
            at = self.child(at, i)?;
            let node = self.node(at)?;
            if node.is_leaf() {
                i = if next {
                    0
                } else {
                    node.entries.len().saturating_sub(1)
                };
                path.push((at, i));
                return Ok(path);
            }
            i = if next { 0 } else { node.entries.len() };
        }
    }
}

/// The last step of a path.
pub(super) fn last(path: &Path) -> Result<(At, usize)> {
    path.last()
        .copied()
        .ok_or_else(|| Error::internal("index: empty path"))
}

/// Takes an element out.
pub(super) fn take<T>(list: &mut Vec<T>, i: usize) -> Result<T> {
    if i < list.len() {
        Ok(list.remove(i))
    } else {
        Err(Error::internal("index: position outside a node"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::panic
    )]
    use super::super::node::tests::entry;
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % n
        }
    }

    fn upcase() -> Vec<u16> {
        (0..=u16::MAX).map(crate::text::ascii_upcase).collect()
    }

    /// Order, room, one more child than keys, no empty leaf, equal depth, everything reachable.
    fn check(tree: &Tree, order: Order<'_>) {
        tree.check_order(order).unwrap();
        assert!(tree.root.entries_len() <= tree.root_room);
        let mut copy = Tree::new(
            tree.root.clone(),
            tree.owned,
            tree.block_room,
            tree.root_room,
        );
        copy.load(|block| Ok(tree.blocks[&block].clone())).unwrap();
        assert_eq!(copy.blocks, tree.blocks);
        for node in tree.blocks.values() {
            assert!(node.entries_len() <= tree.block_room);
            assert!(node.is_leaf() || node.children.len() == node.entries.len() + 1);
            assert!(!node.entries.is_empty(), "a block without keys");
        }
    }

    fn build(entries: &[Entry], block_room: usize, root_room: usize, looseness: usize) -> Tree {
        let mut tree = Tree::new(Node::default(), 4096, block_room, root_room);
        let supply: Vec<u64> = (0..4096).collect();
        let (root, blocks) = tree.pack(entries, &supply, looseness).unwrap();
        tree.owned = blocks.len() as u64;
        tree.root = root;
        tree.blocks = blocks;
        tree
    }

    #[test]
    fn random_deletions_keep_the_tree_sound_until_it_is_empty() {
        let mut random = Random(0x1234_5678_9ABC_DEF1);
        let upcase = upcase();
        let order = Order::Names(&upcase);
        let mut refused = 0;
        for round in 0..60 {
            let longest = [12, 60, 230][round % 3];
            let count = [3, 40, 400][round % 3] + random.below(30);
            let mut names: Vec<String> = (0..count)
                .map(|i| {
                    let len = random.below(longest) + 1;
                    let mut name: String = (0..len)
                        .map(|_| (b'a' + random.below(26) as u8) as char)
                        .collect();
                    name.push_str(&i.to_string());
                    name
                })
                .collect();
            names.sort_by_key(|name| name.to_uppercase());
            let entries: Vec<Entry> = names.iter().map(|name| entry(name, 77)).collect();
            let block_room = [1000, 2024, 4032][random.below(3)];
            let root_room = [100, 700][random.below(2)];
            let mut tree = build(
                &entries,
                block_room,
                root_room,
                [0, 25, 75][random.below(3)],
            );
            check(&tree, order);
            let mut left = entries;
            while !left.is_empty() {
                let victim = left[random.below(left.len())].clone();
                let before = tree.clone();
                match tree.remove(order, victim.key().unwrap()) {
                    Ok(found) => assert!(found),
                    Err(error) => {
                        assert_eq!(error.kind(), crate::error::Kind::Refused);
                        tree = before;
                        refused += 1;
                        break;
                    }
                }
                left.retain(|entry| *entry != victim);
                assert_eq!(tree.entries().unwrap(), left.iter().collect::<Vec<_>>());
                check(&tree, order);
            }
            if left.is_empty() {
                assert!(tree.root.is_leaf());
                assert!(tree.blocks.is_empty());
            }
        }
        assert!(refused <= 2, "{refused} of 60 refused");
    }

    #[test]
    fn a_missing_key_is_not_removed() {
        let upcase = upcase();
        let order = Order::Names(&upcase);
        let entries: Vec<Entry> = (0..50).map(|i| entry(&format!("name{i:03}"), 1)).collect();
        let mut tree = build(&entries, 1000, 100, 0);
        let other = entry("name020x", 1);
        assert!(!tree.remove(order, other.key().unwrap()).unwrap());
        assert!(tree.changes().root.is_none() && tree.changes().blocks.is_empty());
    }

    #[test]
    fn loops_and_empty_leaves_are_found() {
        let root = Node {
            entries: vec![entry("m", 1)],
            children: vec![0, 0],
        };
        let leaf = Node {
            entries: vec![entry("a", 1)],
            children: Vec::new(),
        };
        let mut tree = Tree::new(root.clone(), 2, 1000, 100);
        assert!(tree.load(|_| Ok(leaf.clone())).is_err());
        let mut tree = Tree::new(
            Node {
                children: vec![0, 1],
                ..root
            },
            2,
            1000,
            100,
        );
        assert!(tree.load(|_| Ok(Node::default())).is_err());
    }
}
