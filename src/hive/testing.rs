//! Tiny hives, made cell by cell, for the tests of this room.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used
)]

use super::{
    Checked, EditOutcome, HiveEdit, KeyPath, check, edit,
    format::{BASE_LEN, NIL, SEGMENT, base, list, nk, sk, vk},
    read::checksum,
    record::Name as Stored,
};
use crate::text::{Name, registry_upcase};

/// A hive under construction.
pub(super) struct Builder {
    bins: Vec<u8>,
    next: usize,
    minor: u32,
    descriptors: Vec<u32>,
    /// The descriptor of the next keys.
    pub(super) descriptor: u32,
    pub(super) root: u32,
}

pub(super) fn get32(hive: &[u8], cell: u32, at: usize) -> u32 {
    let at = BASE_LEN + cell as usize + 4 + at;
    u32::from_le_bytes(hive[at..at + 4].try_into().unwrap())
}

pub(super) fn put32(hive: &mut [u8], cell: u32, at: usize, value: u32) {
    let at = BASE_LEN + cell as usize + 4 + at;
    hive[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put16(hive: &mut [u8], cell: u32, at: usize, value: u16) {
    let at = BASE_LEN + cell as usize + 4 + at;
    hive[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// The size field of a cell.
pub(super) fn size(hive: &[u8], cell: u32) -> i32 {
    let at = BASE_LEN + cell as usize;
    i32::from_le_bytes(hive[at..at + 4].try_into().unwrap())
}

pub(super) fn put_size(hive: &mut [u8], cell: u32, value: i32) {
    let at = BASE_LEN + cell as usize;
    hive[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_header(hive: &mut [u8], at: usize, value: u32) {
    hive[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fix_checksum(hive);
}

pub(super) fn fix_checksum(hive: &mut [u8]) {
    let sum = checksum(hive);
    hive[base::CHECKSUM..base::CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
}

fn folded(name: &str) -> Vec<u16> {
    name.encode_utf16().map(registry_upcase).collect()
}

impl Builder {
    /// A hive with a root key; `before_root` bytes of it come first.
    pub(super) fn new(minor: u32, before_root: usize) -> Self {
        let mut this = Self {
            bins: Vec::new(),
            next: 0,
            minor,
            descriptors: Vec::new(),
            descriptor: NIL,
            root: NIL,
        };
        if before_root != 0 {
            let cell = this.alloc(&vec![0; before_root - 4]);
            this.release(cell);
        }
        let root = this.key(NIL, "ROOT");
        this.root = root;
        this.set16(root, nk::FLAGS, 0x2C);
        this.add_descriptor(1);
        this.set32(root, nk::SECURITY, this.descriptor);
        this
    }

    fn set32(&mut self, cell: u32, at: usize, value: u32) {
        let at = cell as usize + 4 + at;
        self.bins[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn set16(&mut self, cell: u32, at: usize, value: u16) {
        let at = cell as usize + 4 + at;
        self.bins[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn set_dword(&mut self, cell: u32, at: usize, value: u32) {
        self.set32(cell, at, value);
    }

    fn close_bin(&mut self) {
        let rest = self.bins.len() - self.next;
        if rest != 0 {
            let next = self.next;
            self.bins[next..next + 4].copy_from_slice(&(rest as i32).to_le_bytes());
        }
        self.next = self.bins.len();
    }

    /// Begins another bin.
    pub(super) fn open_bin(&mut self, least: usize) {
        self.close_bin();
        let start = self.bins.len();
        let len = (least + 32).next_multiple_of(4096);
        self.bins.resize(start + len, 0);
        self.bins[start..start + 4].copy_from_slice(b"hbin");
        self.bins[start + 4..start + 8].copy_from_slice(&(start as u32).to_le_bytes());
        self.bins[start + 8..start + 12].copy_from_slice(&(len as u32).to_le_bytes());
        self.next = start + 32;
    }

    /// A cell in use with this payload; what rounding adds is zero.
    pub(super) fn alloc(&mut self, payload: &[u8]) -> u32 {
        let len = (payload.len() + 4).next_multiple_of(8);
        if self.bins.len() - self.next < len {
            self.open_bin(len);
        }
        let cell = self.next;
        self.bins[cell..cell + 4].copy_from_slice(&(-(len as i32)).to_le_bytes());
        self.bins[cell + 4..cell + 4 + payload.len()].copy_from_slice(payload);
        self.next += len;
        cell as u32
    }

    /// Marks a cell free; its content stays.
    pub(super) fn release(&mut self, cell: u32) {
        let at = cell as usize;
        let size = i32::from_le_bytes(self.bins[at..at + 4].try_into().unwrap()).abs();
        self.bins[at..at + 4].copy_from_slice(&size.to_le_bytes());
    }

    /// A descriptor of its own; the next keys use it.
    pub(super) fn add_descriptor(&mut self, mark: u8) -> u32 {
        let mut bytes = vec![0; sk::DESCRIPTOR];
        bytes[..2].copy_from_slice(b"sk");
        bytes[sk::LEN] = 24;
        bytes.extend([1, 0, 4, 0x80]);
        bytes.extend([0; 16]);
        bytes.extend([mark; 4]);
        self.descriptor = self.alloc(&bytes);
        self.descriptors.push(self.descriptor);
        self.descriptor
    }

    /// A key without values and subkeys; not in any list yet.
    pub(super) fn key(&mut self, parent: u32, name: &str) -> u32 {
        let units: Vec<u16> = name.encode_utf16().collect();
        let is_narrow = units.iter().all(|unit| *unit < 0x100);
        self.raw_key(parent, &units, is_narrow)
    }

    pub(super) fn raw_key(&mut self, parent: u32, units: &[u16], is_narrow: bool) -> u32 {
        let mut bytes = vec![0; nk::NAME];
        bytes[..2].copy_from_slice(b"nk");
        bytes[nk::FLAGS] = if is_narrow { 0x20 } else { 0 };
        bytes[nk::TIME] = 77;
        bytes[nk::PARENT..nk::PARENT + 4].copy_from_slice(&parent.to_le_bytes());
        for at in [nk::LIST, 32, nk::VALUE_LIST, nk::CLASS] {
            bytes[at..at + 4].copy_from_slice(&NIL.to_le_bytes());
        }
        bytes[nk::SECURITY..nk::SECURITY + 4].copy_from_slice(&self.descriptor.to_le_bytes());
        for unit in units {
            if is_narrow {
                bytes.push(*unit as u8);
            } else {
                bytes.extend(unit.to_le_bytes());
            }
        }
        let len = (bytes.len() - nk::NAME) as u16;
        bytes[nk::NAME_LEN..nk::NAME_LEN + 2].copy_from_slice(&len.to_le_bytes());
        self.alloc(&bytes)
    }

    pub(super) fn class(&mut self, key: u32, class: &str) -> u32 {
        let bytes: Vec<u8> = class.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cell = self.alloc(&bytes);
        self.set32(key, nk::CLASS, cell);
        self.set16(key, nk::CLASS_LEN, bytes.len() as u16);
        cell
    }

    fn stored_name(&self, key: u32) -> (Vec<u8>, bool) {
        let at = key as usize + 4;
        let len = u16::from_le_bytes([
            self.bins[at + nk::NAME_LEN],
            self.bins[at + nk::NAME_LEN + 1],
        ]);
        let is_narrow = self.bins[at + nk::FLAGS] & 0x20 != 0;
        let name = &self.bins[at + nk::NAME..at + nk::NAME + usize::from(len)];
        (name.to_vec(), is_narrow)
    }

    /// One leaf of a subkey list. `kind` is lf, lh or li.
    pub(super) fn leaf(&mut self, kind: &[u8; 2], children: &[u32]) -> u32 {
        let mut bytes = kind.to_vec();
        bytes.extend((children.len() as u16).to_le_bytes());
        for child in children {
            bytes.extend(child.to_le_bytes());
            let (name, is_narrow) = self.stored_name(*child);
            let name = Stored::new(&name, is_narrow);
            match kind {
                b"lh" => bytes.extend(name.hash().to_le_bytes()),
                b"lf" => {
                    let mut hint = [0; 4];
                    for (to, unit) in hint.iter_mut().zip(name.units()) {
                        *to = u8::try_from(unit).unwrap_or(0);
                    }
                    bytes.extend(hint);
                }
                _ => {}
            }
        }
        self.alloc(&bytes)
    }

    /// Gives a key its subkeys, in leaves of at most `split`; more than one leaf needs an `ri`.
    pub(super) fn adopt(
        &mut self,
        parent: u32,
        kind: &[u8; 2],
        children: &[u32],
        split: usize,
    ) -> Vec<u32> {
        if children.is_empty() {
            return Vec::new();
        }
        let leaves: Vec<u32> = children
            .chunks(split)
            .map(|part| self.leaf(kind, part))
            .collect();
        let top = if leaves.len() == 1 {
            leaves[0]
        } else {
            let mut bytes = b"ri".to_vec();
            bytes.extend((leaves.len() as u16).to_le_bytes());
            bytes.extend(leaves.iter().flat_map(|leaf| leaf.to_le_bytes()));
            self.alloc(&bytes)
        };
        self.set32(parent, nk::SUBKEYS, children.len() as u32);
        self.set32(parent, nk::LIST, top);
        let longest = children
            .iter()
            .map(|child| {
                let (name, is_narrow) = self.stored_name(*child);
                name.len() * if is_narrow { 2 } else { 1 }
            })
            .max()
            .unwrap();
        self.set16(parent, nk::MAX_NAME, longest as u16);
        self.set32(parent, nk::MAX_CLASS, 200);
        leaves
    }

    /// New subkeys by name, sorted, in one leaf of the version's kind.
    pub(super) fn subkeys(&mut self, parent: u32, names: &[&str]) -> Vec<u32> {
        let mut names = names.to_vec();
        names.sort_by_key(|name| folded(name));
        let children: Vec<u32> = names.iter().map(|name| self.key(parent, name)).collect();
        let kind = if self.minor >= 5 { b"lh" } else { b"lf" };
        self.adopt(parent, kind, &children, 500);
        children
    }

    /// A value, stored as this version does.
    pub(super) fn value(&mut self, name: &str, data: &[u8]) -> u32 {
        let units: Vec<u16> = name.encode_utf16().collect();
        let is_narrow = units.iter().all(|unit| *unit < 0x100);
        let mut bytes = vec![0; vk::NAME];
        bytes[..2].copy_from_slice(b"vk");
        let mut len = data.len() as u32;
        let place = if data.len() <= 4 {
            len |= if data.is_empty() { 0 } else { vk::RESIDENT };
            let mut inline = [0; 4];
            inline[..data.len()].copy_from_slice(data);
            if data.is_empty() {
                NIL
            } else {
                u32::from_le_bytes(inline)
            }
        } else if data.len() > SEGMENT as usize && self.minor >= 4 {
            let mut cells = Vec::new();
            for part in data.chunks(SEGMENT as usize) {
                cells.extend(self.alloc(part).to_le_bytes());
            }
            let list = self.alloc(&cells);
            let mut db = b"db".to_vec();
            db.extend((cells.len() as u16 / 4).to_le_bytes());
            db.extend(list.to_le_bytes());
            self.alloc(&db)
        } else {
            self.alloc(data)
        };
        bytes[vk::DATA_LEN..vk::DATA_LEN + 4].copy_from_slice(&len.to_le_bytes());
        bytes[vk::DATA..vk::DATA + 4].copy_from_slice(&place.to_le_bytes());
        bytes[vk::KIND] = 3;
        bytes[vk::FLAGS] = u8::from(is_narrow);
        for unit in &units {
            if is_narrow {
                bytes.push(*unit as u8);
            } else {
                bytes.extend(unit.to_le_bytes());
            }
        }
        let name_len = (bytes.len() - vk::NAME) as u16;
        bytes[vk::NAME_LEN..vk::NAME_LEN + 2].copy_from_slice(&name_len.to_le_bytes());
        self.alloc(&bytes)
    }

    /// Gives a key its values; the list has room for `spare` more.
    pub(super) fn values_with_room(
        &mut self,
        key: u32,
        values: &[(&str, &[u8])],
        spare: usize,
    ) -> u32 {
        let mut cells = Vec::new();
        for (name, data) in values {
            cells.extend(self.value(name, data).to_le_bytes());
        }
        cells.resize(cells.len() + 4 * spare, 0);
        let list = self.alloc(&cells);
        self.set32(key, nk::VALUES, values.len() as u32);
        self.set32(key, nk::VALUE_LIST, list);
        let name = values.iter().map(|v| v.0.encode_utf16().count() * 2).max();
        let data = values.iter().map(|v| v.1.len()).max();
        self.set32(key, nk::MAX_VALUE_NAME, name.unwrap() as u32);
        self.set32(key, nk::MAX_VALUE_DATA, data.unwrap() as u32);
        list
    }

    /// Gives a key its values.
    pub(super) fn values(&mut self, key: u32, values: &[(&str, &[u8])]) -> u32 {
        self.values_with_room(key, values, 0)
    }

    /// The file: descriptors linked and counted, header written.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close_bin();
        let ring = self.descriptors.clone();
        let count = ring.len();
        for (i, cell) in ring.iter().enumerate() {
            self.set32(*cell, sk::FLINK, ring[(i + 1) % count]);
            self.set32(*cell, sk::BLINK, ring[(i + count - 1) % count]);
            let users = self.users(*cell);
            self.set32(*cell, sk::COUNT, users);
        }
        let mut hive = vec![0; BASE_LEN];
        hive[..4].copy_from_slice(b"regf");
        for (at, value) in [
            (base::SEQ1, 7),
            (base::SEQ2, 7),
            (base::MAJOR, 1),
            (base::MINOR, self.minor),
            (base::FORMAT, 1),
            (base::ROOT, self.root),
            (base::BINS_LEN, self.bins.len() as u32),
            (base::CLUSTERING, 1),
        ] {
            hive[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        fix_checksum(&mut hive);
        hive.extend(&self.bins);
        hive
    }

    /// Keys in use with this descriptor, found as the bins say.
    fn users(&self, descriptor: u32) -> u32 {
        let mut users = 0;
        let mut bin = 0;
        let dword = |at: usize| u32::from_le_bytes(self.bins[at..at + 4].try_into().unwrap());
        while bin < self.bins.len() {
            let end = bin + dword(bin + 8) as usize;
            let mut cell = bin + 32;
            while cell < end {
                let size = dword(cell) as i32;
                let is_key = size < 0 && self.bins[cell + 4..cell + 6] == *b"nk";
                if is_key && dword(cell + 4 + nk::SECURITY) == descriptor {
                    users += 1;
                }
                cell += size.unsigned_abs() as usize;
            }
            bin = end;
        }
        users
    }
}

/// A path from text; empty text is the root.
pub(super) fn path(text: &str) -> KeyPath {
    text.split('\\')
        .filter(|name| !name.is_empty())
        .map(Name::new)
        .collect()
}

pub(super) fn del_value(key: &str, value: &str) -> HiveEdit {
    HiveEdit::DeleteValue {
        key: path(key),
        value: Name::new(value),
    }
}

pub(super) fn del_subkeys(key: &str) -> HiveEdit {
    HiveEdit::DeleteSubkeys { key: path(key) }
}

pub(super) fn del_key(key: &str) -> HiveEdit {
    HiveEdit::DeleteKey { key: path(key) }
}

/// What every edit must keep true; the edited hive and what was done.
pub(super) fn run(old: &[u8], edits: &[HiveEdit]) -> (Vec<u8>, EditOutcome, Checked) {
    run_tokens(old, edits, &[])
}

pub(super) fn run_tokens(
    old: &[u8],
    edits: &[HiveEdit],
    tokens: &[Vec<u8>],
) -> (Vec<u8>, EditOutcome, Checked) {
    let before = check(old).unwrap();
    let mut new = old.to_vec();
    let outcome = edit(&mut new, &before, edits, tokens).unwrap();
    let mut twin = old.to_vec();
    assert_eq!(edit(&mut twin, &before, edits, tokens).unwrap(), outcome);
    assert!(twin == new, "same input, other output");
    let after = check(&new).unwrap();
    let (was, is) = (before.summary(), after.summary());
    assert_eq!(was.digest.wrapping_sub(outcome.removed_digest), is.digest);
    assert_eq!(was.keys - outcome.keys, is.keys);
    assert_eq!(was.values - outcome.values, is.values);
    assert_eq!(old.len(), new.len());
    for (i, (a, b)) in old.iter().zip(&new).enumerate() {
        let i = i as u64;
        assert!(a == b || outcome.changed.iter().any(|range| range.contains(&i)));
    }
    if outcome.keys + outcome.values == 0 {
        assert!(old == new && outcome == EditOutcome::default());
    } else {
        assert_eq!(
            (is.free_nonzero, is.slack_nonzero, is.tail_nonzero),
            (0, 0, 0)
        );
        let sequence = |hive: &[u8], at| u32::from_le_bytes(hive[at..at + 4].try_into().unwrap());
        let next = sequence(old, base::SEQ1).wrapping_add(1);
        assert_eq!(sequence(&new, base::SEQ1), next);
        assert_eq!(sequence(&new, base::SEQ2), next);
        let again = edit(&mut new.clone(), &after, edits, tokens).unwrap();
        assert_eq!(again, EditOutcome::default(), "the second run does nothing");
    }
    assert!(is.warnings <= was.warnings, "{:?}", after.warnings());
    (new, outcome, after)
}

/// How often the text stands in the hive behind its header, as Latin-1 or UTF-16.
pub(super) fn hits(hive: &[u8], text: &str) -> usize {
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [text.as_bytes(), wide.as_slice()]
        .iter()
        .map(|token| memchr::memmem::find_iter(&hive[BASE_LEN..], *token).count())
        .sum()
}

/// Offset of entry `i` in a list with hints, in the payload.
pub(super) fn slot(i: usize) -> usize {
    list::ENTRIES + 8 * i
}
