//! What deletion does to an index tree beyond one node: emptied leaves go, nodes without keys get
//! one from a neighbour, two leaves share their keys anew. Every method says `false` when the
//! blocks at hand do not suffice; no key is lost then, and the caller packs the tree anew.
//!
//! Facts: facts/ntfs.md 1.2, steps 2 and 3.

use super::{
    node::{Entry, Node},
    tree::{At, Path, Tree, last, take},
};
use crate::error::{Error, Result};

impl Tree {
    /// Takes an empty subtree out; the last step of `path` is the child that is empty.
    pub(super) fn unlink_empty(&mut self, mut path: Path) -> Result<bool> {
        let mut climbed = false;
        loop {
            let (at, i) = last(&path)?;
            let empty = self.child(at, i)?;
            let keys = self.node(at)?.entries.len();
            if keys == 0 {
                if let Some(block) = empty {
                    self.free(block);
                }
                if at.is_none() {
                    self.edit(at)?.children.clear();
                    return Ok(true);
                }
                path.pop();
                climbed = true;
                continue;
            }
            // The key between the empty child and a neighbour goes into the neighbour.
            for left in [true, false] {
                let key = if left { i.checked_sub(1) } else { Some(i) };
                let Some(key) = key.filter(|key| *key < keys) else {
                    continue;
                };
                let mut step = path.clone();
                step.pop();
                step.push((at, key));
                // The neighbour's leaf is where the key's own neighbour lives.
                let beside = self.outermost(&step, !left)?;
                let (leaf, position) = last(&beside)?;
                let entry = self.entry(at, key)?.clone();
                if self.node(leaf)?.entries_len().saturating_add(entry.len()) > self.room(leaf) {
                    continue;
                }
                let place = if left { position.saturating_add(1) } else { 0 };
                let node = self.edit(leaf)?;
                let place = place.min(node.entries.len());
                node.entries.insert(place, entry);
                let node = self.edit(at)?;
                take(&mut node.entries, key)?;
                take(&mut node.children, i)?;
                if let Some(block) = empty {
                    self.free(block);
                }
                return self.fill_keyless(path);
            }
            if climbed {
                return Ok(false);
            }
            path.pop();
            path.push((at, if i < keys { i } else { i.saturating_sub(1) }));
            return self.respread(path, true);
        }
    }

    /// A node above the leaves that has lost its last key takes one from a neighbour or goes into
    /// it. The last step of `path` names the node.
    fn fill_keyless(&mut self, mut path: Path) -> Result<bool> {
        loop {
            let (at, _) = last(&path)?;
            if !self.node(at)?.entries.is_empty() {
                return Ok(true);
            }
            let Some(poor) = at else {
                return self.pull_up();
            };
            path.pop();
            let (above, k) = last(&path)?;
            let child = self.node(at)?.children.first().copied();
            let Some(child) = child else {
                return Err(Error::internal("index: node without children"));
            };
            let keys = self.node(above)?.entries.len();
            if keys == 0 {
                // Only the root may be left out: all leaves must stay at one depth.
                if above.is_some() {
                    return Ok(false);
                }
                self.edit(above)?.children = vec![child];
                self.free(poor);
                return self.pull_up();
            }
            if !self.merge_keyless(above, k, poor, child)? {
                return self.borrow_key(above, k, poor, child);
            }
        }
    }

    /// Puts the child of a keyless node into a neighbour, with the key between.
    fn merge_keyless(&mut self, above: At, k: usize, poor: u64, child: u64) -> Result<bool> {
        let keys = self.node(above)?.entries.len();
        for left in [true, false] {
            let key = if left { k.checked_sub(1) } else { Some(k) };
            let Some(key) = key.filter(|key| *key < keys) else {
                continue;
            };
            let beside = self.child(above, if left { key } else { k.saturating_add(1) })?;
            let entry = self.entry(above, key)?.clone();
            let node = self.node(beside)?;
            let len = node
                .entries_len()
                .saturating_add(entry.len())
                .saturating_add(8);
            if node.is_leaf() || len > self.room(beside) {
                continue;
            }
            let node = self.edit(beside)?;
            if left {
                node.entries.push(entry);
                node.children.push(child);
            } else {
                node.entries.insert(0, entry);
                node.children.insert(0, child);
            }
            let node = self.edit(above)?;
            take(&mut node.entries, key)?;
            take(&mut node.children, k)?;
            self.free(poor);
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives a keyless node the key above it, and the neighbour's nearest key that place.
    fn borrow_key(&mut self, above: At, k: usize, poor: u64, child: u64) -> Result<bool> {
        let keys = self.node(above)?.entries.len();
        for left in [true, false] {
            let key = if left { k.checked_sub(1) } else { Some(k) };
            let Some(key) = key.filter(|key| *key < keys) else {
                continue;
            };
            let beside = self.child(above, if left { key } else { k.saturating_add(1) })?;
            let node = self.node(beside)?;
            if node.is_leaf() || node.entries.len() < 2 {
                continue;
            }
            let (entry_at, child_at) = if left {
                let last = node.entries.len().saturating_sub(1);
                (last, last.saturating_add(1))
            } else {
                (0, 0)
            };
            let down = self.entry(above, key)?.clone();
            let up = self.entry(beside, entry_at)?;
            let len = self
                .node(above)?
                .entries_len()
                .saturating_sub(down.len())
                .saturating_add(up.len());
            if len > self.room(above) {
                continue;
            }
            let node = self.edit(beside)?;
            let up = take(&mut node.entries, entry_at)?;
            let moved = take(&mut node.children, child_at)?;
            let node = self.edit(Some(poor))?;
            node.entries = vec![down];
            node.children = if left {
                vec![moved, child]
            } else {
                vec![child, moved]
            };
            if let Some(place) = self.edit(above)?.entries.get_mut(key) {
                *place = up;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// A root with nothing but one child takes the child's keys if they fit.
    fn pull_up(&mut self) -> Result<bool> {
        while self.root.entries.is_empty() && self.root.children.len() == 1 {
            let child = self.child(None, 0)?;
            let node = self.node(child)?;
            if node.entries_len() > self.root_room {
                break;
            }
            let node = node.clone();
            *self.edit(None)? = node;
            if let Some(block) = child {
                self.free(block);
            }
        }
        Ok(true)
    }

    /// Distributes the keys of two neighbouring leaves (with or without the key between them)
    /// anew: one leaf if they fit, else two with the separator that fits and moves least.
    /// The last step of `path` is that key.
    pub(super) fn respread(&mut self, path: Path, keep: bool) -> Result<bool> {
        let (at, i) = last(&path)?;
        let (left, right) = (self.child(at, i)?, self.child(at, i.saturating_add(1))?);
        let (Some(_), Some(right_block)) = (left, right) else {
            return Ok(false);
        };
        if !self.node(left)?.is_leaf() || !self.node(right)?.is_leaf() {
            return Ok(false);
        }
        let mut all = self.node(left)?.entries.clone();
        let middle = all.len();
        if keep {
            all.push(self.entry(at, i)?.clone());
        }
        all.extend_from_slice(&self.node(right)?.entries);
        let leaf = |entries: &[Entry]| Node {
            entries: entries.to_vec(),
            children: Vec::new(),
        };
        if leaf(&all).entries_len() <= self.block_room {
            self.edit(left)?.entries = all;
            let node = self.edit(at)?;
            take(&mut node.entries, i)?;
            take(&mut node.children, i.saturating_add(1))?;
            self.free(right_block);
            return self.fill_keyless(path);
        }
        let others = self
            .node(at)?
            .entries_len()
            .saturating_sub(self.entry(at, i)?.len());
        let mut order: Vec<usize> = (1..all.len().saturating_sub(1)).collect();
        order.sort_by_key(|j| j.abs_diff(middle));
        for j in order {
            let Some((separator, head, tail)) = split(&all, j) else {
                continue;
            };
            let (head, tail) = (leaf(head), leaf(tail));
            if head.entries_len() <= self.block_room
                && tail.entries_len() <= self.block_room
                && others.saturating_add(separator.len()) <= self.room(at)
            {
                let separator = separator.clone();
                *self.edit(left)? = head;
                *self.edit(right)? = tail;
                if let Some(place) = self.edit(at)?.entries.get_mut(i) {
                    *place = separator;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The entry at `j` with what is before and behind it.
fn split(all: &[Entry], j: usize) -> Option<(&Entry, &[Entry], &[Entry])> {
    let (head, rest) = all.split_at_checked(j)?;
    let (separator, tail) = rest.split_first()?;
    Some((separator, head, tail))
}
