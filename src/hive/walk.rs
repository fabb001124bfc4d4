//! The walk itself: who owns which cell, and whether it is sound.

use super::{
    bins::{bins, cells, nonzero},
    bits::Bits,
    check::{Descriptor, Problem, Summary},
    digest::{self, Digest},
    format::{
        CELL_ALIGN, CELL_HEADER, MAX_DEPTH, MAX_KEY_CELL, NIL, SEGMENT, db, dword, index, nk,
    },
    record::{Data, Image, List, ListKind, Name, Nk, Sk, Vk, cell_at, offset, parse_db},
};
use crate::{
    bytes::View,
    error::{Error, Result},
    units::HiveOffset,
};

/// Warnings kept; further ones are only counted.
const KEPT_WARNINGS: usize = 200;

/// A key whose subkeys are being walked.
struct Frame<'a> {
    cell: u32,
    path: u128,
    nk: Nk<'a>,
    /// The `ri`, if there is one, and the next of its leaves.
    root: Option<(List<'a>, u32)>,
    leaf: List<'a>,
    next: u32,
    previous: Option<Name<'a>>,
    is_bad: bool,
    longest_name: u32,
    longest_class: u32,
}

/// The state of a walk; its public fields are the result.
pub(super) struct Walk<'a> {
    image: Image<'a>,
    starts: Bits,
    owned: Bits,
    used_cells: u64,
    owned_cells: u64,
    pub(super) sum: Summary,
    pub(super) warnings: Vec<Problem>,
    pub(super) stale_free: Vec<u32>,
    pub(super) stale_slack: Vec<(u32, u32)>,
    pub(super) leaked: Vec<u32>,
    pub(super) bad_lists: Vec<u32>,
    pub(super) descriptors: Vec<Descriptor>,
    last_descriptor: usize,
}

fn at_cell<T>(result: Result<T>, cell: u32) -> Result<T> {
    result.map_err(|e| {
        if e.trail().is_empty() {
            e.at("hive offset", offset(cell))
        } else {
            e
        }
    })
}

impl<'a> Walk<'a> {
    pub(super) fn new(image: Image<'a>) -> Self {
        let len = dword(image.bins.len());
        Self {
            image,
            starts: Bits::new(len),
            owned: Bits::new(len),
            used_cells: 0,
            owned_cells: 0,
            sum: Summary {
                minor: image.minor,
                ..Summary::default()
            },
            warnings: Vec::new(),
            stale_free: Vec::new(),
            stale_slack: Vec::new(),
            leaked: Vec::new(),
            bad_lists: Vec::new(),
            descriptors: Vec::new(),
            last_descriptor: 0,
        }
    }

    pub(super) fn warn(&mut self, offset: HiveOffset, what: impl FnOnce() -> String) {
        self.sum.warnings = self.sum.warnings.saturating_add(1);
        if self.warnings.len() < KEPT_WARNINGS {
            self.warnings.push(Problem {
                what: what(),
                offset,
            });
        }
    }

    fn add(&mut self, digest: u128) {
        self.sum.digest = self.sum.digest.wrapping_add(digest);
    }

    /// Where cells begin, and what is left in the free ones.
    pub(super) fn bins(&mut self) -> Result<()> {
        let image = self.image;
        let mut free_neighbours = 0u64;
        let mut first_neighbour = None;
        for bin in bins(image) {
            let bin = bin?;
            self.sum.bins = self.sum.bins.saturating_add(1);
            let mut was_free = false;
            for cell in cells(image, bin) {
                let (cell, size, in_use) = cell?;
                self.sum.cells = self.sum.cells.saturating_add(1);
                self.starts.set(cell);
                if in_use {
                    self.used_cells = self.used_cells.saturating_add(1);
                    was_free = false;
                    continue;
                }
                self.sum.free_bytes = self.sum.free_bytes.saturating_add(u64::from(size));
                let (from, to) = (cell.saturating_add(CELL_HEADER), cell.saturating_add(size));
                let stale = nonzero(image.bins.get(index(from)..index(to)).unwrap_or(&[]));
                if stale != 0 {
                    self.sum.free_nonzero = self.sum.free_nonzero.saturating_add(stale);
                    self.stale_free.push(cell);
                }
                if was_free {
                    free_neighbours = free_neighbours.saturating_add(1);
                    first_neighbour.get_or_insert(cell);
                }
                was_free = true;
            }
        }
        if let Some(cell) = first_neighbour {
            self.warn(offset(cell), || {
                format!(
                    "free cells: no two side by side expected, found {free_neighbours} \
                     (a foreign tool wrote here)"
                )
            });
        }
        Ok(())
    }

    /// Takes a cell for its one owner.
    fn claim(&mut self, cell: u32, what: &'static str) -> Result<View<'a>> {
        if cell != NIL && !(cell.is_multiple_of(CELL_ALIGN) && self.starts.get(cell)) {
            return Err(Error::malformed(format!(
                "{what}: a cell expected, found an offset where none begins"
            ))
            .at("hive offset", offset(cell)));
        }
        let view = self.image.cell(cell, what)?;
        if !self.owned.set(cell) {
            return Err(Error::malformed(format!(
                "{what}: a cell of its own expected, found one with another owner"
            ))
            .at("hive offset", offset(cell)));
        }
        self.owned_cells = self.owned_cells.saturating_add(1);
        Ok(view)
    }

    /// Notes what stands behind the first `used` bytes of a cell.
    fn slack(&mut self, cell: u32, view: &View<'a>, used: usize) {
        let rest = view.bytes().get(used..).unwrap_or(&[]);
        if rest.iter().any(|byte| *byte != 0) {
            self.sum.slack_nonzero = self.sum.slack_nonzero.saturating_add(nonzero(rest));
            self.stale_slack.push((cell, dword(used)));
        }
    }

    /// All descriptors, from the root's on.
    pub(super) fn ring(&mut self, root: u32) -> Result<()> {
        if !self.starts.get(root) || !root.is_multiple_of(CELL_ALIGN) {
            return Err(Error::malformed(
                "hive header: the cell of the root key expected, found an offset where none begins",
            )
            .at("hive offset", offset(root)));
        }
        let key = at_cell(self.image.cell(root, "root key").and_then(Nk::parse), root)?;
        let first = key.security;
        let mut cell = first;
        let mut previous = None;
        let mut head_blink = first;
        loop {
            let view = self.claim(cell, "security descriptor")?;
            let sk = at_cell(Sk::parse(view), cell)?;
            self.slack(cell, &view, sk.used());
            if let Err(what) = check_descriptor(sk.descriptor) {
                self.warn(offset(cell), || format!("security descriptor: {what}"));
            }
            match previous {
                None => head_blink = sk.blink,
                Some(previous) if previous != sk.blink => {
                    return Err(link_error(cell, previous, sk.blink));
                }
                Some(_) => {}
            }
            self.descriptors.push(Descriptor {
                cell,
                users: 0,
                stored: sk.count,
                digest: digest::descriptor(sk.descriptor),
            });
            previous = Some(cell);
            cell = sk.flink;
            if cell == first {
                break;
            }
        }
        if let Some(last) = previous.filter(|last| *last != head_blink) {
            return Err(link_error(first, last, head_blink));
        }
        self.descriptors
            .sort_unstable_by_key(|descriptor| descriptor.cell);
        Ok(())
    }

    fn use_descriptor(&mut self, cell: u32) -> Result<u128> {
        let hit = |d: &&mut Descriptor| d.cell == cell;
        if self
            .descriptors
            .get_mut(self.last_descriptor)
            .filter(hit)
            .is_none()
        {
            self.last_descriptor = self
                .descriptors
                .binary_search_by_key(&cell, |d| d.cell)
                .map_err(|_| {
                    Error::malformed(format!(
                        "security descriptor: one in the root's ring expected, found {}",
                        if cell == NIL {
                            "none (ffffffff)".to_owned()
                        } else {
                            format!("hive offset {}", offset(cell))
                        }
                    ))
                })?;
        }
        match self.descriptors.get_mut(self.last_descriptor) {
            Some(descriptor) => {
                descriptor.users = descriptor.users.saturating_add(1);
                Ok(descriptor.digest)
            }
            None => Err(Error::internal("security descriptor: lost")),
        }
    }

    /// All keys, without recursion.
    pub(super) fn tree(&mut self, root: u32) -> Result<()> {
        let mut frames: Vec<Frame<'a>> = Vec::new();
        let top = self
            .key(root, None, 0)
            .map_err(|e| self.place(e, &frames, root))?;
        frames.extend(top);
        while let Some(frame) = frames.last_mut() {
            match frame.step(self.image) {
                Ok(Some((child, hint))) => {
                    if frames.len() > MAX_DEPTH {
                        let error = Error::limit(format!(
                            "key: at most {MAX_DEPTH} levels expected, found more"
                        ))
                        .at("hive offset", offset(child));
                        return Err(self.place(error, &frames, child));
                    }
                    let depth = frames.len();
                    let below = self
                        .child(frames.last_mut(), child, hint, depth)
                        .map_err(|e| self.place(e, &frames, child))?;
                    frames.extend(below);
                }
                Ok(None) => {
                    if let Some(done) = frames.pop() {
                        self.finish(&done);
                    }
                }
                Err(e) => {
                    let cell = frame.cell;
                    return Err(self.place(e, &frames, cell));
                }
            }
        }
        Ok(())
    }

    /// Adds the key's path to an error.
    fn place(&self, error: Error, frames: &[Frame<'a>], cell: u32) -> Error {
        let mut path = String::new();
        let inner = self
            .image
            .cell(cell, "key")
            .and_then(Nk::parse)
            .map(|nk| nk.name)
            .ok();
        let is_inside = frames.last().is_some_and(|frame| frame.cell == cell);
        let names = frames.iter().skip(1).map(|frame| frame.nk.name);
        let own = inner.filter(|_| !is_inside && !frames.is_empty());
        for name in names.chain(own) {
            path.push('\\');
            path.push_str(&name.owned().to_string());
        }
        if path.is_empty() {
            path.push('\\');
        }
        error.at("key", path)
    }

    fn child(
        &mut self,
        frame: Option<&mut Frame<'a>>,
        cell: u32,
        hint: u32,
        depth: usize,
    ) -> Result<Option<Frame<'a>>> {
        let Some(frame) = frame else {
            return Err(Error::internal("subkey list: no parent"));
        };
        let parent = Some((frame.cell, frame.path));
        let below = self.key(cell, parent, depth)?;
        let nk = Nk::parse(self.image.cell(cell, "key")?)?;
        frame.longest_name = frame.longest_name.max(nk.name.wide_len());
        frame.longest_class = frame.longest_class.max(u32::from(nk.class_len));
        let is_sorted = frame
            .previous
            .is_none_or(|previous| previous.folded().lt(nk.name.folded()));
        let is_hashed = frame.leaf.kind != ListKind::Lh || hint == nk.name.hash();
        if !is_sorted || !is_hashed {
            let what = if is_sorted { "hash" } else { "order" };
            self.warn(offset(frame.nk.list), || {
                format!(
                    "subkey list: right {what} expected, found wrong at {}",
                    nk.name.owned()
                )
            });
            // Above ASCII our folding table may be the one that is wrong.
            let is_sure =
                nk.name.is_ascii() && frame.previous.is_none_or(|previous| previous.is_ascii());
            if is_sure && !frame.is_bad {
                frame.is_bad = true;
                self.bad_lists.push(frame.cell);
            }
        }
        frame.previous = Some(nk.name);
        Ok(below)
    }

    /// A key with all it owns but its subkeys; a frame if there are any.
    fn key(
        &mut self,
        cell: u32,
        parent: Option<(u32, u128)>,
        depth: usize,
    ) -> Result<Option<Frame<'a>>> {
        let view = self.claim(cell, "key")?;
        at_cell(self.key_in(cell, view, parent, depth), cell)
    }

    fn key_in(
        &mut self,
        cell: u32,
        view: View<'a>,
        parent: Option<(u32, u128)>,
        depth: usize,
    ) -> Result<Option<Frame<'a>>> {
        let nk = Nk::parse(view)?;
        self.sum.keys = self.sum.keys.saturating_add(1);
        self.sum.max_depth = self.sum.max_depth.max(depth);
        self.slack(cell, &view, nk.used());
        if nk.name.bytes().is_empty() {
            return Err(Error::malformed("key: a name expected, found none"));
        }
        if nk.name.is_odd() {
            return Err(Error::malformed(
                "key: a name of whole UTF-16 units expected, found half a unit",
            ));
        }
        let path = match parent {
            None => digest::root_path(),
            Some((parent, path)) => {
                if nk.parent != parent {
                    return Err(Error::malformed(format!(
                        "key: parent at {} expected, found {}",
                        offset(parent),
                        offset(nk.parent)
                    )));
                }
                if nk.name.units().any(|unit| unit == 0x5C) {
                    return Err(Error::malformed(
                        "key: a name without backslash expected, found one with",
                    ));
                }
                digest::child_path(path, nk.name)
            }
        };
        if view.len() > index(MAX_KEY_CELL) {
            self.warn(offset(cell), || {
                format!(
                    "key: a cell up to 1116 bytes expected, found {}",
                    view.len()
                )
            });
        }
        if nk.flags & nk::FLAG_PREDEFINED != 0 {
            self.sum.predefined_keys = self.sum.predefined_keys.saturating_add(1);
        }
        let class = if nk.class_len == 0 {
            &[]
        } else {
            let view = self.claim(nk.class, "class name")?;
            let class = at_cell(view.get(0, usize::from(nk.class_len)), nk.class)?;
            self.slack(nk.class, &view, class.len());
            class
        };
        let descriptor = self.use_descriptor(nk.security)?;
        self.add(digest::key(path, &nk, class, descriptor));
        if nk.value_count() != 0 {
            self.values(cell, &nk, path)?;
        }
        if nk.subkeys == 0 {
            return Ok(None);
        }
        self.lists(cell, nk, path).map(Some)
    }

    fn values(&mut self, key: u32, nk: &Nk<'a>, path: u128) -> Result<()> {
        let stored = nk.value_count();
        let view = self.claim(nk.value_list, "value list")?;
        let len = index(stored).saturating_mul(4);
        let cells = at_cell(view.get(0, len), nk.value_list)?;
        self.slack(nk.value_list, &view, len);
        self.sum.values = self.sum.values.saturating_add(u64::from(stored));
        let (mut longest_name, mut longest_data) = (0, 0);
        for i in 0..stored {
            let cell = cell_at(cells, i).unwrap_or(NIL);
            let view = self.claim(cell, "value")?;
            let vk = at_cell(self.value(cell, view, path), cell)?;
            longest_name = longest_name.max(vk.name.wide_len());
            longest_data = longest_data.max(vk.len());
        }
        if nk.max_value_name < longest_name || nk.max_value_data < longest_data {
            self.warn(offset(key), || {
                format!(
                    "key: longest value name and data {longest_name} and {longest_data} expected, \
                     found {} and {}",
                    nk.max_value_name, nk.max_value_data
                )
            });
        }
        Ok(())
    }

    fn value(&mut self, cell: u32, view: View<'a>, path: u128) -> Result<Vk<'a>> {
        let vk = Vk::parse(view)?;
        self.slack(cell, &view, vk.used());
        if vk.name.is_odd() {
            return Err(Error::malformed(
                "value: a name of whole UTF-16 units expected, found half a unit",
            ));
        }
        let digest = digest::value(path, vk.name, vk.kind, vk.raw_len);
        let digest = match vk.place(self.image.minor)? {
            Data::Resident(bytes) => digest.bytes(bytes),
            Data::Empty => {
                if vk.data != NIL {
                    return Err(Error::malformed(format!(
                        "value: no data cell for 0 bytes expected, found {}",
                        offset(vk.data)
                    )));
                }
                digest
            }
            Data::Plain { cell, len } => {
                let view = self.claim(cell, "value data")?;
                let bytes = at_cell(view.get(0, index(len)), cell)?;
                self.slack(cell, &view, bytes.len());
                digest.bytes(bytes)
            }
            Data::Big { cell, len } => self.big_data(cell, len, digest)?,
        };
        self.add(digest.finish());
        Ok(vk)
    }

    fn big_data(&mut self, cell: u32, len: u32, mut digest: Digest) -> Result<Digest> {
        let view = self.claim(cell, "big data")?;
        let (segments, list) = at_cell(parse_db(view), cell)?;
        self.slack(cell, &view, db::LEN);
        if segments != len.div_ceil(SEGMENT) {
            return Err(Error::malformed(format!(
                "big data: {} segments for {len} bytes expected, found {segments}",
                len.div_ceil(SEGMENT)
            ))
            .at("hive offset", offset(cell)));
        }
        let view = self.claim(list, "big data list")?;
        let list_len = index(segments).saturating_mul(4);
        let cells = at_cell(view.get(0, list_len), list)?;
        self.slack(list, &view, list_len);
        let mut left = len;
        for i in 0..segments {
            let part = left.min(SEGMENT);
            left = left.saturating_sub(part);
            let segment = cell_at(cells, i).unwrap_or(NIL);
            let view = self.claim(segment, "big data segment")?;
            let bytes = at_cell(view.get(0, index(part)), segment)?;
            self.slack(segment, &view, bytes.len());
            digest = digest.bytes(bytes);
        }
        Ok(digest)
    }

    fn list(&mut self, cell: u32) -> Result<List<'a>> {
        let view = self.claim(cell, "subkey list")?;
        let list = at_cell(List::parse(view), cell)?;
        if list.count == 0 {
            return Err(
                Error::malformed("subkey list: entries expected, found none")
                    .at("hive offset", offset(cell)),
            );
        }
        self.slack(cell, &view, list.used());
        Ok(list)
    }

    /// The lists of a key's subkeys: owned, sound, and of the right length in sum.
    fn lists(&mut self, cell: u32, nk: Nk<'a>, path: u128) -> Result<Frame<'a>> {
        let top = self.list(nk.list)?;
        let (root, leaf, entries) = if top.kind == ListKind::Ri {
            let mut entries = 0u32;
            for i in 0..top.count {
                let (cell, _) = top.entry(i).unwrap_or((NIL, 0));
                let leaf = self.list(cell)?;
                if leaf.kind == ListKind::Ri {
                    return Err(Error::malformed(
                        "subkey list: a leaf (lf, lh or li) below ri expected, found ri",
                    )
                    .at("hive offset", offset(cell)));
                }
                entries = entries.saturating_add(leaf.count);
            }
            (Some((top, 0)), List::empty(), entries)
        } else {
            (None, top, top.count)
        };
        if entries != nk.subkeys {
            return Err(Error::malformed(format!(
                "subkey list: {} entries expected, found {entries}",
                nk.subkeys
            ))
            .at("hive offset", offset(nk.list)));
        }
        Ok(Frame {
            cell,
            path,
            nk,
            root,
            leaf,
            next: 0,
            previous: None,
            is_bad: false,
            longest_name: 0,
            longest_class: 0,
        })
    }

    fn finish(&mut self, frame: &Frame<'a>) {
        let (name, class) = (u32::from(frame.nk.max_name), frame.nk.max_class);
        if name < frame.longest_name || class < frame.longest_class {
            self.warn(offset(frame.cell), || {
                format!(
                    "key: longest subkey name and class {} and {} expected, found {name} and \
                     {class}",
                    frame.longest_name, frame.longest_class
                )
            });
        }
    }

    /// Users of descriptors, and cells that nobody claimed.
    pub(super) fn balance(&mut self) -> Result<()> {
        for descriptor in self.descriptors.clone() {
            if descriptor.users != descriptor.stored {
                self.warn(offset(descriptor.cell), || {
                    format!(
                        "security descriptor: a count of {} users expected, found {}",
                        descriptor.users, descriptor.stored
                    )
                });
            }
        }
        self.sum.leaked_cells = self.used_cells.saturating_sub(self.owned_cells);
        if self.sum.leaked_cells == 0 {
            return Ok(());
        }
        for bin in bins(self.image) {
            for cell in cells(self.image, bin?) {
                let (cell, size, in_use) = cell?;
                if in_use && !self.owned.get(cell) {
                    self.leaked.push(cell);
                    self.sum.leaked_bytes = self.sum.leaked_bytes.saturating_add(u64::from(size));
                    self.warn(offset(cell), || {
                        format!("cell: an owner expected, found none ({size} bytes leaked)")
                    });
                }
            }
        }
        Ok(())
    }
}

fn link_error(cell: u32, expected: u32, found: u32) -> Error {
    Error::malformed(format!(
        "security descriptor: link back to {} expected, found {}",
        offset(expected),
        offset(found)
    ))
    .at("hive offset", offset(cell))
}

/// Revision, form and the places of its four parts.
fn check_descriptor(bytes: &[u8]) -> std::result::Result<(), String> {
    let view = View::new(bytes, "security descriptor");
    let parts = [4, 8, 12, 16].map(|at| view.u32(at));
    let control = view.u16(2).unwrap_or(0);
    if bytes.first() != Some(&1) || control & 0x8000 == 0 {
        return Err("revision 1, self-relative expected, found another form".into());
    }
    for part in parts {
        match part {
            Ok(part) if part == 0 || index(part).saturating_add(8) <= bytes.len() => {}
            _ => return Err("its parts inside it expected, found one outside".into()),
        }
    }
    Ok(())
}

impl<'a> Frame<'a> {
    /// The next child: cell and hint.
    fn step(&mut self, image: Image<'a>) -> Result<Option<(u32, u32)>> {
        loop {
            if let Some(entry) = self.leaf.entry(self.next) {
                self.next = self.next.saturating_add(1);
                return Ok(Some(entry));
            }
            let Some((root, next)) = &mut self.root else {
                return Ok(None);
            };
            let Some((cell, _)) = root.entry(*next) else {
                return Ok(None);
            };
            *next = next.saturating_add(1);
            self.leaf = List::parse(image.cell(cell, "subkey list")?)?;
            self.next = 0;
        }
    }
}
