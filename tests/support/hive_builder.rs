//! Builds registry hives (regf 1.3 to 1.6) from a description, without any registry library.
//!
//! The layout follows what Windows writes: bins of 4,096 bytes, a cell that does not fit gets a bin
//! of its own size, cells above 16 KiB are powers of two, values above 16,344 bytes become a `db`
//! record from version 1.4 on, subkey lists are sorted by upper-cased name, security cells form a
//! ring with exact reference counts. The same description always gives the same bytes.
//!
//! Residue (what a careless tool would leave behind) is planted on request: see [`Residue`].
//!
//! Layout source: msuhanov/regf specification; limits of lists: Windows' own (511 `lf`, 1,012 `lh`).

use std::collections::HashMap;

use super::{put, sd, upcase};

/// "no cell".
const NIL: u32 = 0xffff_ffff;
/// Where the cells start in the file.
const BASE: usize = 4096;
/// Most bytes a plain data cell carries from version 1.4 on.
const BIG: usize = 16_344;
/// The time stamp of everything: 2005-04-03 01:56:29 UTC.
pub const TIME: u64 = 0x01c5_37f0_5a2b_4e00;

/// A registry value type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// REG_NONE
    None = 0,
    /// REG_SZ
    Sz = 1,
    /// REG_EXPAND_SZ
    ExpandSz = 2,
    /// REG_BINARY
    Binary = 3,
    /// REG_DWORD
    Dword = 4,
    /// REG_MULTI_SZ
    MultiSz = 7,
}

/// The signature of a leaf list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Four letters of the name as hint (NT4 on).
    Lf,
    /// Hash of the name as hint (1.5 on).
    Lh,
    /// Offsets alone.
    Li,
}

/// How the subkeys of a key are listed.
#[derive(Clone, Copy, Debug)]
pub struct Lists {
    /// Signature of the leaves.
    pub kind: ListKind,
    /// Most subkeys in one leaf; more than one leaf brings an `ri`.
    pub leaf: usize,
    /// An `ri` even over a single leaf (Windows leaves such lists behind).
    pub always_ri: bool,
}

/// Bytes that belong to nobody.
#[derive(Clone, Debug)]
pub enum Residue {
    /// A free cell holding these bytes.
    FreeCell(Vec<u8>),
    /// An allocated cell nobody refers to (check_hive.py: `--allow leaked_cell`).
    LeakedCell(Vec<u8>),
    /// Bytes after the last bin.
    Tail(Vec<u8>),
    /// Bytes in the base block, at this offset (512 or more).
    Header(usize, Vec<u8>),
}

#[derive(Debug)]
struct Value {
    name: String,
    kind: u32,
    data: Vec<u8>,
    slack: Vec<u8>,
}

#[derive(Debug)]
struct Node {
    name: String,
    parent: usize,
    children: Vec<usize>,
    values: Vec<Value>,
    class: Option<String>,
    security: usize,
    flags: u16,
    time: u64,
    lists: Option<Lists>,
    list_slack: Vec<u8>,
}

/// A hive being described; [`HiveBuilder::build`] gives its bytes.
#[derive(Debug)]
pub struct HiveBuilder {
    minor: u32,
    nodes: Vec<Node>,
    by_name: HashMap<(usize, Vec<u16>), usize>,
    descriptors: Vec<Vec<u8>>,
    lists: Lists,
    residue: Vec<Residue>,
    sequence: (u32, u32),
    spare_bins: usize,
    before_root: Vec<u8>,
    file_name: String,
}

impl HiveBuilder {
    /// An empty hive of version 1.`minor`.
    pub fn new(minor: u32) -> Self {
        let root = Node {
            name: "$$$PROTO.HIV".into(),
            parent: usize::MAX,
            children: Vec::new(),
            values: Vec::new(),
            class: None,
            security: 0,
            flags: 0x2c,
            time: TIME,
            lists: None,
            list_slack: Vec::new(),
        };
        let lists = if minor >= 5 {
            Lists {
                kind: ListKind::Lh,
                leaf: 1012,
                always_ri: false,
            }
        } else {
            Lists {
                kind: ListKind::Lf,
                leaf: 511,
                always_ri: false,
            }
        };
        Self {
            minor,
            nodes: vec![root],
            by_name: HashMap::new(),
            descriptors: vec![sd::descriptor(0)],
            lists,
            residue: Vec::new(),
            sequence: (1, 1),
            spare_bins: 0,
            before_root: Vec::new(),
            file_name: r"emRoot\System32\Config\SOFTWARE".into(),
        }
    }

    /// The key at `path` (parts separated by a backslash), made with its parents if needed.
    /// The empty path is the root key.
    pub fn key(&mut self, path: &str) -> Key<'_> {
        let mut at = 0;
        for part in path.split('\\').filter(|p| !p.is_empty()) {
            at = self.child(at, part);
        }
        Key {
            hive: self,
            node: at,
        }
    }

    fn child(&mut self, parent: usize, name: &str) -> usize {
        let key = (parent, upcase::key(name));
        if let Some(found) = self.by_name.get(&key) {
            return *found;
        }
        let at = self.nodes.len();
        self.nodes.push(Node {
            name: name.into(),
            parent,
            children: Vec::new(),
            values: Vec::new(),
            class: None,
            security: self.nodes[parent].security,
            flags: 0,
            time: TIME,
            lists: None,
            list_slack: Vec::new(),
        });
        self.nodes[parent].children.push(at);
        self.by_name.insert(key, at);
        at
    }

    /// How subkeys are listed where a key does not say otherwise.
    pub fn lists(&mut self, lists: Lists) -> &mut Self {
        self.lists = lists;
        self
    }

    /// Plants residue.
    pub fn residue(&mut self, residue: Residue) -> &mut Self {
        self.residue.push(residue);
        self
    }

    /// The two sequence numbers of the base block; unequal means dirty.
    pub fn sequence(&mut self, primary: u32, secondary: u32) -> &mut Self {
        self.sequence = (primary, secondary);
        self
    }

    /// Adds wholly free bins at the end, as Windows leaves them.
    pub fn spare_bins(&mut self, count: usize) -> &mut Self {
        self.spare_bins = count;
        self
    }

    /// Puts a free cell with these bytes in front of the root key, which then does not begin at 0x20.
    pub fn before_root(&mut self, bytes: &[u8]) -> &mut Self {
        self.before_root = bytes.into();
        self
    }

    /// The tail of the path that the base block remembers (31 characters at most).
    pub fn file_name(&mut self, name: &str) -> &mut Self {
        self.file_name = name.into();
        self
    }

    /// How many keys the hive has.
    pub fn key_count(&self) -> usize {
        self.nodes.len()
    }

    /// The hive's bytes.
    pub fn build(&self) -> Vec<u8> {
        Writer::new(self).write()
    }
}

/// One key of a hive being described.
#[derive(Debug)]
pub struct Key<'a> {
    hive: &'a mut HiveBuilder,
    node: usize,
}

impl Key<'_> {
    fn node(&mut self) -> &mut Node {
        &mut self.hive.nodes[self.node]
    }

    /// A subkey of this key.
    pub fn key(&mut self, path: &str) -> Key<'_> {
        let mut at = self.node;
        for part in path.split('\\').filter(|p| !p.is_empty()) {
            at = self.hive.child(at, part);
        }
        Key {
            hive: self.hive,
            node: at,
        }
    }

    /// Adds a value.
    pub fn value(self, name: &str, kind: Kind, data: &[u8]) -> Self {
        self.value_with_slack(name, kind, data, &[])
    }

    /// Adds a value whose last data cell is larger than the data, with `slack` behind it.
    pub fn value_with_slack(mut self, name: &str, kind: Kind, data: &[u8], slack: &[u8]) -> Self {
        let value = Value {
            name: name.into(),
            kind: kind as u32,
            data: data.into(),
            slack: slack.into(),
        };
        self.node().values.push(value);
        self
    }

    /// Adds a REG_SZ value.
    pub fn string(self, name: &str, text: &str) -> Self {
        self.value(name, Kind::Sz, &put::utf16z(text))
    }

    /// Adds a REG_DWORD value.
    pub fn dword(self, name: &str, number: u32) -> Self {
        self.value(name, Kind::Dword, &number.to_le_bytes())
    }

    /// Gives the key a class name.
    pub fn class(mut self, name: &str) -> Self {
        self.node().class = Some(name.into());
        self
    }

    /// Gives the key the `n`th security descriptor; subkeys made later inherit it.
    pub fn security(mut self, n: u32) -> Self {
        let descriptor = sd::descriptor(n);
        let at = match self.hive.descriptors.iter().position(|d| *d == descriptor) {
            Some(at) => at,
            None => {
                self.hive.descriptors.push(descriptor);
                self.hive.descriptors.len() - 1
            }
        };
        self.node().security = at;
        self
    }

    /// Sets key flags in addition (0x08 no-delete, 0x10 symbolic link).
    pub fn flags(mut self, flags: u16) -> Self {
        self.node().flags |= flags;
        self
    }

    /// Sets the last-written time (FILETIME).
    pub fn time(mut self, time: u64) -> Self {
        self.node().time = time;
        self
    }

    /// How this key's subkeys are listed.
    pub fn lists(mut self, lists: Lists) -> Self {
        self.node().lists = Some(lists);
        self
    }

    /// Leaves `bytes` behind the last list element, as a removed element would.
    pub fn list_slack(mut self, bytes: &[u8]) -> Self {
        self.node().list_slack = bytes.into();
        self
    }
}

/// Name bytes as stored, and whether they are the one-byte ("compressed") form.
fn stored_name(name: &str) -> (Vec<u8>, bool) {
    match name
        .chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<Vec<u8>, _>>()
    {
        Ok(latin) => (latin, true),
        Err(_) => (put::utf16(name), false),
    }
}

fn utf16_len(name: &str) -> u32 {
    2 * u32::try_from(name.encode_utf16().count()).unwrap()
}

fn len32(v: &[u8]) -> u32 {
    u32::try_from(v.len()).unwrap()
}

struct Writer<'a> {
    hive: &'a HiveBuilder,
    /// The bins.
    out: Vec<u8>,
    /// Where the next small cell goes, and where its bin ends.
    next: usize,
    end: usize,
    /// Free cells: offset and whole length.
    free: Vec<(usize, usize)>,
}

impl<'a> Writer<'a> {
    fn new(hive: &'a HiveBuilder) -> Self {
        Self {
            hive,
            out: Vec::new(),
            next: 0,
            end: 0,
            free: Vec::new(),
        }
    }

    /// Appends a bin and gives its start.
    fn bin(&mut self, size: usize) -> usize {
        let at = self.out.len();
        self.out.resize(at + size, 0);
        put::bytes(&mut self.out, at, b"hbin");
        put::u32(&mut self.out, at + 4, u32::try_from(at).unwrap());
        put::u32(&mut self.out, at + 8, u32::try_from(size).unwrap());
        if at == 0 {
            put::u64(&mut self.out, at + 20, TIME);
        }
        at
    }

    fn set_free(&mut self, at: usize, len: usize) {
        if len > 0 {
            put::u32(&mut self.out, at, u32::try_from(len).unwrap());
            self.free.push((at, len));
        }
    }

    /// Allocates a cell for `len` bytes and gives its offset.
    fn alloc(&mut self, len: usize) -> usize {
        let mut whole = (len + 4).next_multiple_of(8);
        if whole > 16_384 {
            whole = whole.next_power_of_two();
        }
        let (at, end, own_bin) = if whole <= self.end - self.next {
            (self.next, self.end, false)
        } else {
            let size = (whole + 32).next_multiple_of(4096);
            let at = self.bin(size) + 32;
            // A small cell opens a new current bin; a large one keeps its bin to itself.
            (at, at - 32 + size, size > 4096)
        };
        let rest = end - at - whole;
        // NT4 does not split off a remainder below 16 bytes.
        if rest > 0 && self.hive.minor <= 3 && rest < 16 {
            whole += rest;
        }
        let after = at + whole;
        if own_bin {
            self.set_free(after, end - after);
        } else {
            if end != self.end {
                let (from, to) = (self.next, self.end);
                self.set_free(from, to - from);
            }
            (self.next, self.end) = (after, end);
        }
        let size = -i32::try_from(whole).unwrap();
        self.out[at..at + 4].copy_from_slice(&size.to_le_bytes());
        at
    }

    fn cell(&mut self, body: &[u8], slack: &[u8]) -> u32 {
        let at = self.alloc(body.len() + slack.len());
        put::bytes(&mut self.out, at + 4, body);
        put::bytes(&mut self.out, at + 4 + body.len(), slack);
        u32::try_from(at).unwrap()
    }

    fn write(mut self) -> Vec<u8> {
        let hive = self.hive;
        let count = hive.nodes.len();
        let mut offset = vec![0u32; count];
        let mut refs = vec![0u32; hive.descriptors.len()];
        for node in &hive.nodes {
            refs[node.security] += 1;
        }
        // Children in list order.
        let keys: Vec<Vec<u16>> = hive.nodes.iter().map(|n| upcase::key(&n.name)).collect();
        let sorted: Vec<Vec<usize>> = hive
            .nodes
            .iter()
            .map(|n| {
                let mut c = n.children.clone();
                c.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
                c
            })
            .collect();
        // The root comes first, its security cells right behind it, then the rest depth first.
        let mut order = Vec::with_capacity(count);
        let mut stack = vec![0];
        while let Some(at) = stack.pop() {
            order.push(at);
            stack.extend(sorted[at].iter().rev());
        }
        if !hive.before_root.is_empty() {
            self.plant(Some(&Residue::FreeCell(hive.before_root.clone())));
        }
        let mut security = Vec::new();
        let plant_every = count / (hive.residue.len() + 1) + 1;
        let mut residue = hive.residue.iter();
        for (i, &at) in order.iter().enumerate() {
            let node = &hive.nodes[at];
            let name_len = stored_name(&node.name).0.len();
            offset[at] = u32::try_from(self.alloc(76 + name_len)).unwrap();
            if i == 0 {
                security = self.security(&refs);
            }
            let parent = offset.get(node.parent).copied().unwrap_or(NIL);
            let list = self.values(node);
            self.node(node, offset[at], parent, security[node.security], list);
            if i % plant_every == plant_every - 1 {
                self.plant(residue.next());
            }
        }
        for rest in residue {
            self.plant(Some(rest));
        }
        for &at in order.iter().rev() {
            if !sorted[at].is_empty() {
                self.subkeys(at, offset[at], &sorted[at], &offset, &keys);
            }
        }
        self.finish(offset[0])
    }

    fn plant(&mut self, residue: Option<&Residue>) {
        match residue {
            Some(Residue::FreeCell(bytes)) => {
                let at = self.cell(bytes, &[]) as usize;
                let size = i32::from_le_bytes(self.out[at..at + 4].try_into().unwrap());
                self.set_free(at, usize::try_from(-size).unwrap());
            }
            Some(Residue::LeakedCell(bytes)) => {
                self.cell(bytes, &[]);
            }
            _ => {}
        }
    }

    /// Writes the ring of security cells in use; gives each descriptor's cell.
    fn security(&mut self, refs: &[u32]) -> Vec<u32> {
        let hive = self.hive;
        let mut cells = vec![NIL; refs.len()];
        for (i, descriptor) in hive.descriptors.iter().enumerate() {
            if refs[i] > 0 {
                cells[i] = u32::try_from(self.alloc(20 + descriptor.len())).unwrap();
            }
        }
        let used: Vec<usize> = (0..refs.len()).filter(|i| refs[*i] > 0).collect();
        for (n, &i) in used.iter().enumerate() {
            let at = cells[i] as usize + 4;
            let next = cells[used[(n + 1) % used.len()]];
            let previous = cells[used[(n + used.len() - 1) % used.len()]];
            put::bytes(&mut self.out, at, b"sk");
            put::u32(&mut self.out, at + 4, next);
            put::u32(&mut self.out, at + 8, previous);
            put::u32(&mut self.out, at + 12, refs[i]);
            put::u32(&mut self.out, at + 16, len32(&hive.descriptors[i]));
            put::bytes(&mut self.out, at + 20, &hive.descriptors[i]);
        }
        cells
    }

    /// Writes a key's values; gives the value list cell.
    fn values(&mut self, node: &Node) -> u32 {
        if node.values.is_empty() {
            return NIL;
        }
        let list = self.alloc(4 * node.values.len());
        for (i, value) in node.values.iter().enumerate() {
            let (name, latin) = stored_name(&value.name);
            let at = self.alloc(20 + name.len());
            put::u32(&mut self.out, list + 4 + 4 * i, u32::try_from(at).unwrap());
            let (len, data) = self.data(value);
            let b = &mut self.out[at + 4..];
            put::bytes(b, 0, b"vk");
            put::u16(b, 2, u16::try_from(name.len()).unwrap());
            put::u32(b, 4, len);
            put::u32(b, 8, data);
            put::u32(b, 12, value.kind);
            put::u16(b, 16, u16::from(latin && !name.is_empty()));
            put::bytes(b, 20, &name);
        }
        u32::try_from(list).unwrap()
    }

    /// Writes a value's data; gives the length field and the data field of its `vk`.
    fn data(&mut self, value: &Value) -> (u32, u32) {
        let data = &value.data;
        if data.len() <= 4 && value.slack.is_empty() {
            let mut inline = [0; 4];
            inline[..data.len()].copy_from_slice(data);
            return (0x8000_0000 | len32(data), u32::from_le_bytes(inline));
        }
        if data.len() <= BIG || self.hive.minor < 4 {
            return (len32(data), self.cell(data, &value.slack));
        }
        let head = self.alloc(8);
        let count = data.len().div_ceil(BIG);
        let list = self.alloc(4 * count);
        for (i, piece) in data.chunks(BIG).enumerate() {
            let slack: &[u8] = if i + 1 == count { &value.slack } else { &[] };
            let segment = self.cell(piece, slack);
            put::u32(&mut self.out, list + 4 + 4 * i, segment);
        }
        put::bytes(&mut self.out, head + 4, b"db");
        put::u16(&mut self.out, head + 6, u16::try_from(count).unwrap());
        put::u32(&mut self.out, head + 8, u32::try_from(list).unwrap());
        (len32(data), u32::try_from(head).unwrap())
    }

    /// Fills a key cell, all but its subkey fields.
    fn node(&mut self, node: &Node, cell: u32, parent: u32, security: u32, list: u32) {
        let (name, latin) = stored_name(&node.name);
        let class = node.class.as_ref().map(|c| put::utf16(c));
        let class_cell = class.as_ref().map_or(NIL, |c| self.cell(c, &[]));
        let b = &mut self.out[cell as usize + 4..];
        put::bytes(b, 0, b"nk");
        put::u16(b, 2, node.flags | if latin { 0x20 } else { 0 });
        put::u64(b, 4, node.time);
        put::u32(b, 16, parent);
        put::u32(b, 28, NIL);
        put::u32(b, 32, NIL);
        put::u32(b, 36, u32::try_from(node.values.len()).unwrap());
        put::u32(b, 40, list);
        put::u32(b, 44, security);
        put::u32(b, 48, class_cell);
        let name_max = node.values.iter().map(|v| utf16_len(&v.name)).max();
        let data_max = node.values.iter().map(|v| len32(&v.data)).max();
        put::u32(b, 60, name_max.unwrap_or(0));
        put::u32(b, 64, data_max.unwrap_or(0));
        put::u16(b, 72, u16::try_from(name.len()).unwrap());
        put::u16(b, 74, u16::try_from(class.map_or(0, |c| c.len())).unwrap());
        put::bytes(b, 76, &name);
    }

    /// Writes the subkey lists of `at` and fills the subkey fields of its key cell.
    fn subkeys(
        &mut self,
        at: usize,
        cell: u32,
        children: &[usize],
        offset: &[u32],
        keys: &[Vec<u16>],
    ) {
        let hive = self.hive;
        let node = &hive.nodes[at];
        let lists = node.lists.unwrap_or(hive.lists);
        let mut leaves = Vec::new();
        for (i, group) in children.chunks(lists.leaf).enumerate() {
            let mut body = match lists.kind {
                ListKind::Lf => b"lf".to_vec(),
                ListKind::Lh => b"lh".to_vec(),
                ListKind::Li => b"li".to_vec(),
            };
            body.extend(u16::try_from(group.len()).unwrap().to_le_bytes());
            for &child in group {
                body.extend(offset[child].to_le_bytes());
                match lists.kind {
                    ListKind::Li => {}
                    ListKind::Lf => {
                        let mut hint = hive.nodes[child].name.encode_utf16();
                        body.extend(
                            [0; 4].map(|_: u8| u8::try_from(hint.next().unwrap_or(0)).unwrap_or(0)),
                        );
                    }
                    ListKind::Lh => {
                        let hash = keys[child]
                            .iter()
                            .fold(0u32, |h, c| h.wrapping_mul(37).wrapping_add(u32::from(*c)));
                        body.extend(hash.to_le_bytes());
                    }
                }
            }
            let last = (i + 1) * lists.leaf >= children.len();
            leaves.push(self.cell(&body, if last { &node.list_slack } else { &[] }));
        }
        let list = if leaves.len() > 1 || lists.always_ri {
            let mut body = b"ri".to_vec();
            body.extend(u16::try_from(leaves.len()).unwrap().to_le_bytes());
            body.extend(leaves.iter().flat_map(|l| l.to_le_bytes()));
            self.cell(&body, &[])
        } else {
            leaves[0]
        };
        let longest = children
            .iter()
            .map(|c| utf16_len(&hive.nodes[*c].name))
            .max();
        let class = children
            .iter()
            .filter_map(|c| hive.nodes[*c].class.as_ref())
            .map(|c| utf16_len(c))
            .max();
        let b = &mut self.out[cell as usize + 4..];
        put::u32(b, 20, u32::try_from(children.len()).unwrap());
        put::u32(b, 28, list);
        put::u32(b, 52, longest.unwrap_or(0));
        put::u32(b, 56, class.unwrap_or(0));
    }

    fn finish(mut self, root: u32) -> Vec<u8> {
        let (from, to) = (self.next, self.end);
        self.set_free(from, to - from);
        for _ in 0..self.hive.spare_bins {
            let at = self.bin(4096);
            self.set_free(at + 32, 4064);
        }
        // Free neighbours in one bin are always one cell.
        self.free.sort_unstable();
        for i in (1..self.free.len()).rev() {
            let ((a, a_len), (b, b_len)) = (self.free[i - 1], self.free[i]);
            if a + a_len == b {
                put::u32(&mut self.out, a, u32::try_from(a_len + b_len).unwrap());
                put::u32(&mut self.out, b, 0);
                self.free[i - 1].1 = a_len + b_len;
            }
        }
        let mut file = self.base_block(root);
        file.extend(&self.out);
        for residue in &self.hive.residue {
            match residue {
                Residue::Tail(bytes) => file.extend(bytes),
                Residue::Header(at, bytes) => put::bytes(&mut file, *at, bytes),
                _ => {}
            }
        }
        file
    }

    fn base_block(&self, root: u32) -> Vec<u8> {
        let mut b = vec![0; BASE];
        put::bytes(&mut b, 0, b"regf");
        put::u32(&mut b, 4, self.hive.sequence.0);
        put::u32(&mut b, 8, self.hive.sequence.1);
        put::u64(&mut b, 12, TIME);
        put::u32(&mut b, 20, 1);
        put::u32(&mut b, 24, self.hive.minor);
        put::u32(&mut b, 32, 1);
        put::u32(&mut b, 36, root);
        put::u32(&mut b, 40, u32::try_from(self.out.len()).unwrap());
        put::u32(&mut b, 44, 1);
        put::bytes(&mut b, 48, &put::utf16(&self.hive.file_name));
        let checksum = checksum(&b);
        put::u32(&mut b, 508, checksum);
        b
    }
}

/// The checksum of a base block: XOR of its first 127 words; 0 and -1 are replaced.
pub fn checksum(base_block: &[u8]) -> u32 {
    let words = base_block[..508].chunks_exact(4);
    match words.fold(0, |x, w| x ^ u32::from_le_bytes(w.try_into().unwrap())) {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        x => x,
    }
}

/// The log Windows XP keeps beside `hive`, after a good write: one sequence number behind, with
/// the sectors of that write still in it. `stale` stands in the first of them.
pub fn old_log(hive: &[u8], stale: &[u8]) -> Vec<u8> {
    let mut log = hive[..512].to_vec();
    let sequence = u32::from_le_bytes(hive[4..8].try_into().unwrap()) - 1;
    put::u32(&mut log, 4, sequence);
    put::u32(&mut log, 8, sequence);
    put::u32(&mut log, 28, 1);
    let sum = checksum(&log);
    put::u32(&mut log, 508, sum);
    // One bit per sector of the bins; the first eight are there.
    let sectors = (hive.len() - BASE) / 512;
    let mut bitmap = b"DIRT".to_vec();
    bitmap.resize(4 + sectors.div_ceil(8), 0);
    bitmap[4] = 0xff;
    bitmap.resize(bitmap.len().next_multiple_of(512), 0);
    log.extend(bitmap);
    log.extend(&hive[BASE..BASE + 4096]);
    let at = log.len() - 2048;
    put::bytes(&mut log, at, stale);
    log
}
