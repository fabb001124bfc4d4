//! Everything an edit will write, worked out before the first byte changes.
//!
//! As Windows deletes (ReactOS cmlib: cmkeydel, cmindex, cmvalue, cmse, hivecell), but with every
//! byte that loses its owner zeroed: see `facts/hive.md` section 2 for the proof on real hives.

use super::{
    HiveEdit,
    bins::{bins, cells, nonzero},
    bits::Bits,
    check::Checked,
    digest,
    edit::Write,
    format::{
        BIN_ALIGN, CELL_ALIGN, CELL_HEADER, MAX_DEPTH, NIL, SEGMENT, SHRINK_LIMIT, align_cell,
        count, dword, index, list, nk, sk,
    },
    record::{Data, Image, List, ListKind, Nk, Sk, Vk, cell_at, offset, parse_db},
};
use crate::{
    bytes::{View, many::Needles},
    error::{Error, Result},
    text::{Name, WinPath},
};

/// Notes kept; further ones are only counted.
const KEPT_NOTES: usize = 100;

/// The result of planning.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) values: u64,
    pub(super) keys: u64,
    pub(super) removed_digest: u128,
    pub(super) leaked_bytes: u64,
    pub(super) notes: Vec<String>,
}

/// Plans the edits; `None` when none of them finds anything, unless `always`.
pub(super) fn make(
    image: Image<'_>,
    checked: &Checked,
    edits: &[HiveEdit],
    tokens: &[Vec<u8>],
    always: bool,
) -> Result<Option<Plan>> {
    let mut maker = Maker {
        image,
        checked,
        plan: Plan::default(),
        doomed: Bits::new(dword(image.bins.len())),
        freed: Bits::new(dword(image.bins.len())),
        touched: Bits::new(dword(image.bins.len())),
        freed_cells: 0,
        trims: Vec::new(),
        dropped: Vec::new(),
        more_notes: 0,
    };
    let mut values = Vec::new();
    let mut subtrees = Vec::new();
    for edit in edits {
        maker.resolve(edit, &mut values, &mut subtrees)?;
    }
    if values.is_empty() && subtrees.is_empty() && !always {
        return Ok(None);
    }
    let mut parents: Vec<u32> = Vec::with_capacity(subtrees.len());
    for (parent, child) in subtrees {
        parents.push(parent);
        maker.bury(child)?;
    }
    parents.sort_unstable();
    parents.dedup();
    for parent in parents {
        if !maker.doomed.get(parent) {
            maker.unlink(parent)?;
        }
    }
    values.sort_unstable();
    values.dedup();
    for group in values.chunk_by(|a, b| a.0 == b.0) {
        let key = group.first().map_or(NIL, |first| first.0);
        if !maker.doomed.get(key) {
            maker.delete_values(key, group)?;
        }
    }
    maker.release_descriptors()?;
    maker.leaked(tokens)?;
    maker.coalesce()?;
    if maker.more_notes != 0 {
        let more = format!("and {} more notes", maker.more_notes);
        maker.plan.notes.push(more);
    }
    Ok(Some(maker.plan))
}

struct Maker<'a> {
    image: Image<'a>,
    checked: &'a Checked,
    plan: Plan,
    /// Keys that will go.
    doomed: Bits,
    /// Cells that will be free, and the blocks of 4 KiB in which such cells begin.
    freed: Bits,
    touched: Bits,
    freed_cells: u64,
    /// Cells that will be smaller, and their new sizes.
    trims: Vec<(u32, u32)>,
    /// One descriptor for each doomed key.
    dropped: Vec<u32>,
    more_notes: u64,
}

impl<'a> Maker<'a> {
    fn note(&mut self, note: impl FnOnce(&Self) -> String) {
        if self.plan.notes.len() < KEPT_NOTES {
            let note = note(self);
            self.plan.notes.push(note);
        } else {
            self.more_notes = self.more_notes.saturating_add(1);
        }
    }

    fn key(&self, cell: u32) -> Result<Nk<'a>> {
        Nk::parse(self.image.cell(cell, "key")?)
    }

    fn size(&self, cell: u32) -> u32 {
        self.image.header(cell).map_or(0, i32::unsigned_abs)
    }

    /// File offset of a byte of a cell's payload.
    fn payload(cell: u32, at: usize) -> u64 {
        let header = u64::from(CELL_HEADER);
        offset(cell)
            .get()
            .saturating_add(header)
            .saturating_add(count(at))
    }

    fn put(&mut self, cell: u32, at: usize, value: u32) {
        let at = Self::payload(cell, at);
        self.plan.writes.push(Write::Put { at, value });
    }

    fn zero(&mut self, at: u64, len: usize) {
        if len != 0 {
            let len = count(len);
            self.plan.writes.push(Write::Zero { at, len });
        }
    }

    /// Marks a cell; that it is zeroed and joins its neighbours is for `coalesce`.
    fn free(&mut self, cell: u32) -> Result<View<'a>> {
        let view = self.image.cell(cell, "cell to free")?;
        if !self.freed.set(cell) {
            return Err(Error::internal(
                "hive edit: every cell freed once expected, found one freed twice",
            )
            .at("hive offset", offset(cell)));
        }
        self.touched.set(block(cell));
        self.freed_cells = self.freed_cells.saturating_add(1);
        Ok(view)
    }

    /// The path of a key, from its parents.
    fn names(&self, key: u32) -> Result<Vec<super::record::Name<'a>>> {
        let mut names = Vec::new();
        let mut cell = key;
        while cell != self.checked.header.root.get() {
            if names.len() > MAX_DEPTH {
                return Err(Error::internal(
                    "key: a path to the root expected, found none",
                ));
            }
            let nk = self.key(cell)?;
            names.push(nk.name);
            cell = nk.parent;
        }
        names.reverse();
        Ok(names)
    }

    fn path(&self, key: u32) -> String {
        let names = self.names(key).unwrap_or_default();
        WinPath(names.iter().map(|name| name.owned()).collect()).to_string()
    }

    fn path_digest(&self, key: u32) -> Result<u128> {
        Ok(self
            .names(key)?
            .into_iter()
            .fold(digest::root_path(), digest::child_path))
    }

    /// All entries of a key's lists: leaf, entries' cells in order.
    fn children(&self, nk: &Nk<'a>) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        for (_, leaf) in self.leaves(nk)? {
            out.extend((0..leaf.count).filter_map(|i| leaf.entry(i).map(|(cell, _)| cell)));
        }
        Ok(out)
    }

    fn leaves(&self, nk: &Nk<'a>) -> Result<Vec<(u32, List<'a>)>> {
        if nk.subkeys == 0 {
            return Ok(Vec::new());
        }
        let parse = |cell| List::parse(self.image.cell(cell, "subkey list")?);
        let top = parse(nk.list)?;
        if top.kind != ListKind::Ri {
            return Ok(vec![(nk.list, top)]);
        }
        (0..top.count)
            .filter_map(|i| top.entry(i))
            .map(|(cell, _)| Ok((cell, parse(cell)?)))
            .collect()
    }

    fn find(&self, path: &[Name]) -> Result<Vec<u32>> {
        let mut level = vec![self.checked.header.root.get()];
        for name in path {
            let mut next = Vec::new();
            for key in level {
                for child in self.children(&self.key(key)?)? {
                    if self.key(child)?.name.matches(name) {
                        next.push(child);
                    }
                }
            }
            level = next;
        }
        Ok(level)
    }

    fn value_cells(&self, nk: &Nk<'a>) -> Result<&'a [u8]> {
        if nk.value_count() == 0 {
            return Ok(&[]);
        }
        let len = index(nk.value_count()).saturating_mul(4);
        self.image.cell(nk.value_list, "value list")?.get(0, len)
    }

    /// What an edit means here: (key, index in its value list), (parent, child).
    fn resolve(
        &self,
        edit: &HiveEdit,
        values: &mut Vec<(u32, u32)>,
        subtrees: &mut Vec<(u32, u32)>,
    ) -> Result<()> {
        match edit {
            HiveEdit::DeleteValue { key, value } => {
                for cell in self.find(key)? {
                    let nk = self.key(cell)?;
                    let list = self.value_cells(&nk)?;
                    for i in 0..nk.value_count() {
                        let vk = cell_at(list, i).unwrap_or(NIL);
                        if Vk::parse(self.image.cell(vk, "value")?)?
                            .name
                            .matches(value)
                        {
                            values.push((cell, i));
                        }
                    }
                }
            }
            HiveEdit::DeleteSubkeys { key } => {
                for cell in self.find(key)? {
                    let children = self.children(&self.key(cell)?)?;
                    subtrees.extend(children.into_iter().map(|child| (cell, child)));
                }
            }
            HiveEdit::DeleteKey { key } => {
                if key.is_empty() {
                    return Err(Error::refused(
                        "hive edit: a key below the root expected, found the root itself",
                    ));
                }
                for cell in self.find(key)? {
                    subtrees.push((self.key(cell)?.parent, cell));
                }
            }
        }
        Ok(())
    }

    /// Frees a key and everything below it; its parent's list is not touched here.
    fn bury(&mut self, top: u32) -> Result<()> {
        let parent = self.key(top)?.parent;
        let mut pending = vec![(top, self.path_digest(parent)?)];
        while let Some((cell, parent_path)) = pending.pop() {
            if !self.doomed.set(cell) {
                continue;
            }
            let nk = Nk::parse(self.free(cell)?)?;
            let path = digest::child_path(parent_path, nk.name);
            self.plan.keys = self.plan.keys.saturating_add(1);
            self.remark(cell, &nk);
            let class = if nk.class_len == 0 {
                &[]
            } else {
                self.free(nk.class)?.get(0, usize::from(nk.class_len))?
            };
            let descriptor = Sk::parse(self.image.cell(nk.security, "security descriptor")?)?;
            let descriptor = digest::descriptor(descriptor.descriptor);
            self.remove(digest::key(path, &nk, class, descriptor));
            self.dropped.push(nk.security);
            let list = self.value_cells(&nk)?;
            for i in 0..nk.value_count() {
                self.bury_value(cell_at(list, i).unwrap_or(NIL), path)?;
            }
            if nk.value_count() != 0 {
                self.free(nk.value_list)?;
            }
            if nk.subkeys != 0 {
                for (leaf_cell, leaf) in self.leaves(&nk)? {
                    let children = (0..leaf.count).filter_map(|i| leaf.entry(i));
                    pending.extend(children.map(|(child, _)| (child, path)));
                    if leaf_cell != nk.list {
                        self.free(leaf_cell)?;
                    }
                }
                self.free(nk.list)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, digest: u128) {
        self.plan.removed_digest = self.plan.removed_digest.wrapping_add(digest);
    }

    fn remark(&mut self, cell: u32, nk: &Nk<'a>) {
        for (flag, what) in [
            (nk::FLAG_NO_DELETE, "marked as not to be deleted"),
            (nk::FLAG_SYMLINK, "a symbolic link"),
            (nk::FLAG_PREDEFINED, "a predefined handle"),
        ] {
            if nk.flags & flag != 0 {
                self.note(|this| format!("deleted key was {what}: {}", this.path(cell)));
            }
        }
    }

    fn bury_value(&mut self, cell: u32, path: u128) -> Result<()> {
        let vk = Vk::parse(self.free(cell)?)?;
        self.plan.values = self.plan.values.saturating_add(1);
        let mut digest = digest::value(path, vk.name, vk.kind, vk.raw_len);
        match vk.place(self.image.minor)? {
            Data::Empty => {}
            Data::Resident(bytes) => digest = digest.bytes(bytes),
            Data::Plain { cell, len } => {
                digest = digest.bytes(self.free(cell)?.get(0, index(len))?);
            }
            Data::Big { cell, len } => {
                let (segments, list) = parse_db(self.free(cell)?)?;
                let cells = self.free(list)?;
                let mut left = len;
                for i in 0..segments {
                    let part = left.min(SEGMENT);
                    left = left.saturating_sub(part);
                    let segment = self.free(cell_at(cells.bytes(), i).unwrap_or(NIL))?;
                    digest = digest.bytes(segment.get(0, index(part))?);
                }
            }
        }
        self.remove(digest.finish());
        Ok(())
    }

    /// Takes the doomed children out of a key's lists.
    fn unlink(&mut self, parent: u32) -> Result<()> {
        if self.checked.bad_lists.binary_search(&parent).is_ok() {
            return Err(Error::refused(
                "subkey list: sorted names with right hashes expected, found others",
            )
            .at("hive offset", offset(parent))
            .at("key", self.path(parent))
            .advise("the key below which something is to be deleted is damaged"));
        }
        let nk = self.key(parent)?;
        let mut left = 0u32;
        let mut kept_leaves = Vec::new();
        for (cell, leaf) in self.leaves(&nk)? {
            let kept = self.shrink_leaf(cell, &leaf)?;
            left = left.saturating_add(kept);
            kept_leaves.push((cell, kept != 0));
        }
        let top = List::parse(self.image.cell(nk.list, "subkey list")?)?;
        if top.kind == ListKind::Ri {
            let (mut slot, mut last) = (list::ENTRIES, 0u32);
            for (cell, _) in kept_leaves.iter().filter(|(_, is_kept)| *is_kept) {
                self.put(nk.list, slot, *cell);
                slot = slot.saturating_add(4);
                last = last.saturating_add(1);
            }
            self.close_list(nk.list, &top, slot, last)?;
        }
        self.put(parent, nk::SUBKEYS, left);
        if left == 0 {
            self.put(parent, nk::LIST, NIL);
            if nk.volatile == 0 {
                let at = Self::payload(parent, nk::MAX_NAME);
                self.plan.writes.push(Write::PutHalf { at, value: 0 });
                self.put(parent, nk::MAX_CLASS, 0);
            }
        }
        Ok(())
    }

    /// Moves the entries that stay to the front; a leaf without any is freed.
    fn shrink_leaf(&mut self, cell: u32, leaf: &List<'a>) -> Result<u32> {
        let (mut slot, mut kept) = (list::ENTRIES, 0u32);
        for i in 0..leaf.count {
            let Some((child, hint)) = leaf.entry(i) else {
                continue;
            };
            if self.doomed.get(child) {
                continue;
            }
            if kept != i {
                self.put(cell, slot, child);
                if leaf.kind != ListKind::Li {
                    self.put(cell, slot.saturating_add(4), hint);
                }
            }
            slot = slot.saturating_add(index(leaf.entry_len()));
            kept = kept.saturating_add(1);
        }
        self.close_list(cell, leaf, slot, kept)?;
        Ok(kept)
    }

    /// Sets the count and zeroes the slots that became vacant, or frees the list.
    fn close_list(&mut self, cell: u32, old: &List<'a>, slot: usize, kept: u32) -> Result<()> {
        if kept == old.count {
            return Ok(());
        }
        if kept == 0 {
            self.free(cell)?;
            return Ok(());
        }
        let at = Self::payload(cell, list::COUNT);
        let value = u16::try_from(kept).unwrap_or(u16::MAX);
        self.plan.writes.push(Write::PutHalf { at, value });
        self.zero(Self::payload(cell, slot), old.used().saturating_sub(slot));
        Ok(())
    }

    fn delete_values(&mut self, key: u32, doomed: &[(u32, u32)]) -> Result<()> {
        let nk = self.key(key)?;
        let list = self.value_cells(&nk)?;
        let path = self.path_digest(key)?;
        let mut doomed = doomed.iter().map(|(_, i)| *i).peekable();
        let mut kept = 0u32;
        let mut moves = Vec::new();
        for i in 0..nk.value_count() {
            let cell = cell_at(list, i).unwrap_or(NIL);
            if doomed.next_if_eq(&i).is_some() {
                self.bury_value(cell, path)?;
                continue;
            }
            if kept != i {
                moves.push((kept, cell));
            }
            kept = kept.saturating_add(1);
        }
        self.put(key, nk::VALUES, kept);
        if kept == 0 {
            self.free(nk.value_list)?;
            self.put(key, nk::VALUE_LIST, NIL);
            self.put(key, nk::MAX_VALUE_NAME, 0);
            self.put(key, nk::MAX_VALUE_DATA, 0);
            return Ok(());
        }
        for (slot, cell) in moves {
            self.put(nk.value_list, index(slot).saturating_mul(4), cell);
        }
        let used = kept.saturating_mul(4);
        let vacant = Self::payload(nk.value_list, index(used));
        self.zero(vacant, list.len().saturating_sub(index(used)));
        self.trim(nk.value_list, used);
        Ok(())
    }

    /// Frees the end of a list cell, as Windows does when it shrinks one in place.
    fn trim(&mut self, cell: u32, used: u32) {
        let size = self.size(cell);
        let least_rest = if self.image.minor <= 3 { 16 } else { 8 };
        let Some(new_size) = used.checked_add(CELL_HEADER).and_then(align_cell) else {
            return;
        };
        let rest = size.saturating_sub(new_size);
        if rest >= least_rest && size <= SHRINK_LIMIT {
            self.trims.push((cell, new_size));
            self.touched.set(block(cell));
        }
    }

    /// Counts users down; a descriptor without users leaves the ring.
    fn release_descriptors(&mut self) -> Result<()> {
        let checked = self.checked;
        let root = self.key(checked.header.root.get())?.security;
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.sort_unstable();
        let mut gone = Vec::new();
        for group in dropped.chunk_by(|a, b| a == b) {
            let Some(cell) = group.first().copied() else {
                continue;
            };
            let users = checked
                .descriptors
                .binary_search_by_key(&cell, |d| d.cell)
                .ok()
                .and_then(|i| checked.descriptors.get(i))
                .map_or(0, |d| d.users);
            let stored = Sk::parse(self.image.cell(cell, "security descriptor")?)?.count;
            let fewer = dword(group.len());
            let has_users = users > fewer;
            let new = stored.saturating_sub(fewer);
            if stored != users {
                self.note(|_| {
                    format!(
                        "security descriptor at {} said {stored} users and had {users}; now it \
                         says {new}",
                        offset(cell)
                    )
                });
            }
            if new == 0 && !has_users && cell != root {
                gone.push(cell);
            } else {
                self.put(cell, sk::COUNT, new);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.relink(root, &gone)?;
        for cell in gone {
            self.free(cell)?;
        }
        Ok(())
    }

    /// Closes the ring over descriptors that leave it (`gone` is sorted and without the root's).
    fn relink(&mut self, root: u32, gone: &[u32]) -> Result<()> {
        let mut last_kept = root;
        let mut is_gap = false;
        let mut cell = root;
        for _ in 0..self.checked.descriptors.len() {
            cell = Sk::parse(self.image.cell(cell, "security descriptor")?)?.flink;
            if gone.binary_search(&cell).is_ok() {
                is_gap = true;
                continue;
            }
            if is_gap {
                self.put(last_kept, sk::FLINK, cell);
                self.put(cell, sk::BLINK, last_kept);
            }
            is_gap = false;
            last_kept = cell;
        }
        Ok(())
    }

    /// Cells without owner: those with a token go, the others are told.
    fn leaked(&mut self, tokens: &[Vec<u8>]) -> Result<()> {
        let checked = self.checked;
        if checked.leaked.is_empty() {
            return Ok(());
        }
        // A token is written as its searcher wants it; in a hive it stands in either case.
        let finder = Needles::new(tokens.iter().map(|token| (token.as_slice(), true)));
        let mut left = 0u64;
        for cell in &checked.leaked {
            let view = self.image.cell(*cell, "leaked cell")?;
            if finder.is_in(view.bytes()) {
                let stale = nonzero(view.bytes());
                self.plan.leaked_bytes = self.plan.leaked_bytes.saturating_add(stale);
                self.free(*cell)?;
                self.note(|_| {
                    format!("cell without owner held a token, erased: {}", offset(*cell))
                });
            } else {
                left = left.saturating_add(1);
            }
        }
        if left != 0 {
            self.note(|_| format!("{left} cells in use have no owner and were left"));
        }
        Ok(())
    }

    /// Zeroes what is free now and writes the new size fields: free neighbours become one cell,
    /// within their bin.
    fn coalesce(&mut self) -> Result<()> {
        let mut trims = std::mem::take(&mut self.trims);
        trims.sort_unstable();
        let mut trims = trims.into_iter().peekable();
        let mut found = 0u64;
        for bin in bins(self.image) {
            let (start, end) = bin?;
            let mut blocks = (start..end).step_by(index(BIN_ALIGN));
            if !blocks.any(|at| self.touched.get(block(at))) {
                continue;
            }
            let mut run = Run::default();
            for cell in cells(self.image, (start, end)) {
                let (cell, size, in_use) = cell?;
                let is_new = self.freed.get(cell);
                if is_new || !in_use {
                    found = found.saturating_add(u64::from(is_new));
                    run.add(cell, size, is_new);
                    continue;
                }
                run.close(&mut self.plan.writes);
                if let Some((_, kept)) = trims.next_if(|(trimmed, _)| *trimmed == cell) {
                    let value = 0u32.wrapping_sub(kept);
                    let at = offset(cell).get();
                    self.plan.writes.push(Write::Put { at, value });
                    let rest = cell.saturating_add(kept);
                    run.add(rest, size.saturating_sub(kept), true);
                }
            }
            run.close(&mut self.plan.writes);
        }
        if found != self.freed_cells || trims.peek().is_some() {
            return Err(Error::internal(
                "hive edit: every freed cell in a bin expected, found one outside",
            ));
        }
        Ok(())
    }
}

/// A number of its own, in cells, for every 4 KiB.
fn block(cell: u32) -> u32 {
    cell.wrapping_div(BIN_ALIGN).saturating_mul(CELL_ALIGN)
}

/// Free cells side by side.
#[derive(Default)]
struct Run {
    start: u32,
    len: u32,
    is_new: bool,
}

impl Run {
    fn add(&mut self, cell: u32, size: u32, is_new: bool) {
        if self.len == 0 {
            self.start = cell;
        }
        self.len = self.len.saturating_add(size);
        self.is_new |= is_new;
    }

    fn close(&mut self, writes: &mut Vec<Write>) {
        if self.is_new {
            let at = offset(self.start).get();
            writes.push(Write::Zero {
                at,
                len: u64::from(self.len),
            });
            writes.push(Write::Put {
                at,
                value: self.len,
            });
        }
        *self = Self::default();
    }
}
