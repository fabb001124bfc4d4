//! WIM archives without compression, and a reader that finds everything that is wrong with one.
//!
//! [`Wim`] writes what Windows' and other programs write: directories, named streams, hard links,
//! short names, descriptors, reparse points, a boot image, an integrity table, gaps with stale bytes,
//! metadata that nothing counts. [`read`] is strict: every hash, count and gap is looked at.

use std::collections::{BTreeMap, HashMap};

use sha1::{Digest, Sha1};

use super::{
    put::{self, round_up},
    sd,
};

pub type Hash = [u8; 20];

pub const HEADER: usize = 208;
/// Attributes.
pub const DIRECTORY: u32 = 0x10;
pub const REPARSE: u32 = 0x400;
/// Header flags.
pub const READONLY: u32 = 4;
pub const SPANNED: u32 = 8;
pub const WRITE_IN_PROGRESS: u32 = 0x40;

pub fn sha1(bytes: &[u8]) -> Hash {
    Sha1::digest(bytes).into()
}

/// A file or directory.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub short: String,
    pub attributes: u32,
    /// Number of a descriptor.
    pub security: Option<u32>,
    /// Hard-link group, 0 for none; for a reparse point its tag.
    pub link: u64,
    /// The stream without a name is the data; that of a reparse point comes after its target.
    pub streams: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

impl Node {
    pub fn file(name: &str, data: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            attributes: 0x20,
            security: Some(1),
            streams: match data.is_empty() {
                true => Vec::new(),
                false => vec![(String::new(), data.to_vec())],
            },
            ..Self::default()
        }
    }

    pub fn directory(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            attributes: DIRECTORY,
            security: Some(0),
            ..Self::default()
        }
    }

    pub fn short(mut self, name: &str) -> Self {
        name.clone_into(&mut self.short);
        self
    }

    pub fn link(mut self, group: u64) -> Self {
        self.link = group;
        self
    }

    pub fn stream(mut self, name: &str, data: &[u8]) -> Self {
        self.streams.push((name.to_owned(), data.to_vec()));
        self
    }

    pub fn reparse(mut self, tag: u32, target: &[u8]) -> Self {
        self.attributes |= REPARSE;
        self.link = u64::from(tag);
        self.streams.insert(0, (String::new(), target.to_vec()));
        self
    }

    /// The directory with this path, made if it is not there.
    pub fn at(&mut self, path: &str) -> &mut Self {
        let mut node = self;
        for part in path.split('\\').filter(|part| !part.is_empty()) {
            let known = node.children.iter().position(|child| child.name == part);
            let index = known.unwrap_or_else(|| {
                node.children.push(Self::directory(part));
                node.children.len() - 1
            });
            node = &mut node.children[index];
        }
        node
    }

    /// Adds a file by its path.
    pub fn add(&mut self, path: &str, data: &[u8]) -> &mut Self {
        let (folder, name) = path.rsplit_once('\\').unwrap();
        self.put(folder, Self::file(name, data))
    }

    pub fn put(&mut self, folder: &str, node: Self) -> &mut Self {
        self.at(folder).children.push(node);
        self
    }

    /// Bytes of the dentry and its extra streams; `below` is the offset of its list.
    fn bytes(&self, below: u64, mark: u64) -> Vec<u8> {
        let name = put::utf16(&self.name);
        let short = put::utf16(&self.short);
        let ended = |text: &[u8]| match text.len() {
            0 => 0,
            len => len + 2,
        };
        let len = round_up((102 + ended(&name) + ended(&short)) as u64, 8) as usize;
        let mut out = vec![0; len];
        put::u64(&mut out, 0, len as u64);
        put::u32(&mut out, 8, self.attributes);
        put::u32(&mut out, 0xC, self.security.unwrap_or(u32::MAX));
        put::u64(&mut out, 0x10, below);
        // Reserved fields and the unknown one hold something: it must stay.
        put::u64(&mut out, 0x18, 0xAAAA_0000 + mark);
        put::u64(&mut out, 0x20, 0xBBBB_0000 + mark);
        for (i, at) in [0x28, 0x30, 0x38].into_iter().enumerate() {
            put::u64(&mut out, at, 0x01C5_0000_0000_0000 + mark * 16 + i as u64);
        }
        put::u32(&mut out, 0x54, 0xCC00 + mark as u32);
        put::u64(&mut out, 0x58, self.link);
        put::u16(&mut out, 0x62, short.len() as u16);
        put::u16(&mut out, 0x64, name.len() as u16);
        put::bytes(&mut out, 0x66, &name);
        put::bytes(&mut out, 0x66 + ended(&name), &short);
        let plain = self.attributes & REPARSE == 0 && self.streams.iter().all(|s| s.0.is_empty());
        if plain {
            if let Some((_, data)) = self.streams.first() {
                put::bytes(&mut out, 0x40, &sha1(data));
            }
            return out;
        }
        put::u16(&mut out, 0x60, self.streams.len() as u16);
        for (name, data) in &self.streams {
            let name = put::utf16(name);
            let start = out.len();
            let len = round_up((38 + ended(&name)) as u64, 8) as usize;
            out.resize(start + len, 0);
            put::u64(&mut out, start, len as u64);
            if !data.is_empty() {
                put::bytes(&mut out, start + 0x10, &sha1(data));
            }
            put::u16(&mut out, start + 0x24, name.len() as u16);
            put::bytes(&mut out, start + 0x26, &name);
        }
        out
    }
}

/// An archive to be.
#[derive(Clone, Debug, Default)]
pub struct Wim {
    pub images: Vec<Node>,
    pub boot: u32,
    /// Bytes of a piece of the integrity table.
    pub integrity: Option<u32>,
    /// Stale bytes before each of the first resources.
    pub stale: Vec<Vec<u8>>,
    /// Metadata of no image, before that of the first.
    pub stale_metadata: Option<Node>,
    /// Stale bytes in the metadata: between the lists, and behind them.
    pub metadata_gaps: Vec<u8>,
    pub flags: u32,
    /// (part, parts)
    pub part: Option<(u16, u16)>,
    /// Goes into the XML data before its end.
    pub xml: String,
    /// No counts in the XML data.
    pub no_counts: bool,
    /// Contents lie in solid resources with chunks of this length, all stored as they are.
    pub solid: Option<u32>,
    /// Into how many runs they are dealt, with metadata of no image between them.
    pub runs: usize,
    /// Stale bytes in each solid resource, before and behind its contents.
    pub solid_stale: Vec<u8>,
}

/// The length that says "solid resource".
pub const SOLID: usize = 0x1_0000_0000;

/// A solid resource with chunks stored as they are.
pub fn solid(contents: &[u8], chunk: u32) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((contents.len() as u64).to_le_bytes());
    out.extend(chunk.to_le_bytes());
    out.extend(3_u32.to_le_bytes());
    for piece in contents.chunks(chunk as usize) {
        out.extend((piece.len() as u32).to_le_bytes());
    }
    out.extend(contents);
    out
}

/// The parts of an archive: metadata in the first, contents dealt out.
pub fn split(file: &[u8], parts: u16) -> Vec<Vec<u8>> {
    let cut = Cut {
        parts,
        ..Cut::default()
    };
    cut.of(file)
}

/// How an archive is split.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    pub parts: u16,
    /// Bytes of a piece of the integrity tables.
    pub integrity: Option<u32>,
    /// Stale bytes before the first resource of each part.
    pub stale: Vec<u8>,
    /// The XML data of the second part say where they begin there, not where in the whole.
    pub own_total: bool,
}

impl Cut {
    pub fn of(&self, file: &[u8]) -> Vec<Vec<u8>> {
        (1..=self.parts).map(|part| self.part(file, part)).collect()
    }

    fn part(&self, file: &[u8], part: u16) -> Vec<u8> {
        let [table, xml] = [0x30, 0x48].map(|at| place(file, at));
        let mut bytes = file[..HEADER].to_vec();
        bytes.extend(&self.stale);
        let mut entries = Vec::new();
        let all = file[table.at..table.at + table.size].chunks(50);
        for (i, entry) in all.enumerate() {
            let one = place(entry, 0);
            let mine = match one.flags & 0x12 {
                0 => i as u16 % self.parts + 1,
                _ => 1,
            };
            if mine != part {
                continue;
            }
            let mut entry = entry.to_vec();
            put::u16(&mut entry, 24, part);
            if one.flags & 0x10 != 0 && one.len != SOLID {
                // In a solid resource: its place is one in that.
                entries.extend(entry);
                continue;
            }
            put::u64(&mut entry, 8, bytes.len() as u64);
            if one.flags & 2 != 0 && place(file, 0x60).at == one.at {
                let boot = entry[..24].to_vec();
                put::bytes(&mut bytes, 0x60, &boot);
            }
            bytes.extend(&file[one.at..one.at + one.size]);
            entries.extend(entry);
        }
        let flags = get32(file, 0x10) as u32 | SPANNED;
        put::u32(&mut bytes, 0x10, flags);
        put::u16(&mut bytes, 0x28, part);
        put::u16(&mut bytes, 0x2A, self.parts);
        let at = bytes.len();
        let whole = |len: usize, at: usize| resource(len, 0, at, len);
        put::bytes(&mut bytes, 0x30, &whole(entries.len(), at));
        put::bytes(&mut bytes, 0x48, &whole(xml.size, at + entries.len()));
        bytes[0x7C..0x94].fill(0);
        bytes.extend(&entries);
        let covered = bytes.len();
        let mut text = file[xml.at..xml.at + xml.size].to_vec();
        if self.own_total && part == 2 {
            text = with_total(&text, covered);
        }
        bytes.extend(text);
        if let Some(piece) = self.integrity {
            let table = integrity_table(&bytes[HEADER..covered], piece);
            let at = bytes.len();
            put::bytes(&mut bytes, 0x7C, &whole(table.len(), at));
            bytes.extend(table);
        }
        bytes
    }
}

/// XML data whose first count is another, written as the builder writes it.
fn with_total(xml: &[u8], total: usize) -> Vec<u8> {
    let units: Vec<u16> = xml.chunks(2).map(|pair| put::get16(pair, 0)).collect();
    let text = String::from_utf16(&units).unwrap();
    let start = text.find("<TOTALBYTES>").unwrap() + 12;
    let end = start + text[start..].find('<').unwrap();
    put::utf16(&format!("{}{total:>12}{}", &text[..start], &text[end..]))
}

/// One archive of the parts of a set, which are in order: what [`read`] reads.
#[track_caller]
pub fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = parts[0][..HEADER].to_vec();
    let boot = place(&parts[0], 0x60);
    let mut table = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        assert_eq!(get16(part, 0x28), i + 1);
        assert_eq!(get16(part, 0x2A), parts.len());
        assert_eq!(part[0x18..0x28], parts[0][0x18..0x28]);
        let place_of_table = place(part, 0x30);
        let entries = &part[place_of_table.at..][..place_of_table.size];
        for entry in entries.chunks(50) {
            assert_eq!(get16(entry, 24), i + 1, "an entry's part");
            let one = place(entry, 0);
            let mut entry = entry.to_vec();
            put::u64(&mut entry, 8, out.len() as u64);
            put::u16(&mut entry, 24, 1);
            if one.flags & 2 != 0 && one == boot {
                put::bytes(&mut out, 0x60, &entry[..24]);
            }
            out.extend(&part[one.at..one.at + one.size]);
            table.extend(entry);
        }
    }
    let flags = get32(&out, 0x10) as u32 & !SPANNED;
    put::u32(&mut out, 0x10, flags);
    put::u16(&mut out, 0x28, 1);
    put::u16(&mut out, 0x2A, 1);
    let at = out.len();
    put::bytes(&mut out, 0x30, &resource(table.len(), 0, at, table.len()));
    out.extend(&table);
    let one = place(&parts[0], 0x48);
    let xml = with_total(&parts[0][one.at..one.at + one.size], out.len());
    let at = out.len();
    put::bytes(&mut out, 0x48, &resource(xml.len(), 0, at, xml.len()));
    out.extend(xml);
    out[0x7C..0x94].fill(0);
    out
}

/// What one part of a set is, whatever the others are.
#[derive(Debug, PartialEq, Eq)]
pub struct PartRead {
    /// Bytes that nothing takes and that are not zero.
    pub dirt: usize,
    /// Whether there is an integrity table; it is right.
    pub integrity: bool,
    pub xml: String,
    /// Where the XML data begin.
    pub xml_at: usize,
    /// Entries of the blob table.
    pub entries: usize,
}

#[track_caller]
pub fn read_part(file: &[u8]) -> PartRead {
    let [table, xml, integrity] = [0x30, 0x48, 0x7C].map(|at| place(file, at));
    let entries = file[table.at..table.at + table.size].chunks(50);
    let mut used: Vec<(usize, usize)> = entries
        .map(|entry| place(entry, 0))
        .chain([table.clone(), xml.clone(), integrity.clone()])
        .filter(|one| one.size > 0)
        .map(|one| (one.at, one.at + one.size))
        .collect();
    used.extend([(0, HEADER), (file.len(), file.len())]);
    used.sort_unstable();
    let mut dirt = 0;
    for pair in used.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "one on top of the other: {pair:x?}");
        let gap = &file[pair[0].1..pair[1].0];
        dirt += gap.iter().filter(|byte| **byte != 0).count();
    }
    if integrity.size > 0 {
        let bytes = &file[integrity.at..integrity.at + integrity.size];
        let piece = get32(bytes, 8) as u32;
        let want = integrity_table(&file[HEADER..table.at + table.size], piece);
        assert!(bytes == want, "integrity table");
    }
    let text = file[xml.at + 2..xml.at + xml.size].chunks(2);
    let units: Vec<u16> = text.map(|pair| put::get16(pair, 0)).collect();
    PartRead {
        dirt,
        integrity: integrity.size > 0,
        xml: String::from_utf16(&units).unwrap(),
        xml_at: xml.at,
        entries: table.size / 50,
    }
}

fn integrity_table(covered: &[u8], piece: u32) -> Vec<u8> {
    let hashes = hashes_of(covered, piece);
    let mut out = Vec::new();
    out.extend((12 + 20 * hashes.len() as u32).to_le_bytes());
    out.extend((hashes.len() as u32).to_le_bytes());
    out.extend(piece.to_le_bytes());
    out.extend(hashes.iter().flatten());
    out
}

/// Metadata of a tree. Lists follow each other as the directories do.
pub fn metadata(root: &Node, gap: &[u8]) -> Vec<u8> {
    let descriptors = [sd::descriptor(1), sd::descriptor(2)];
    let mut out = vec![0; 8 + 8 * descriptors.len()];
    for (i, one) in descriptors.iter().enumerate() {
        put::u64(&mut out, 8 + 8 * i, one.len() as u64);
    }
    out.extend(descriptors.iter().flatten());
    let total = out.len();
    put::u32(&mut out, 0, total as u32);
    put::u32(&mut out, 4, descriptors.len() as u32);
    out.resize(round_up(total as u64, 8) as usize, 0);
    let gap = {
        let mut bytes = gap.to_vec();
        bytes.resize(round_up(gap.len() as u64, 8) as usize, 0);
        bytes
    };
    let mut mark = 1;
    let root_at = out.len();
    out.extend(root.bytes(0, 0));
    out.extend([0; 8]);
    let mut todo = std::collections::VecDeque::from([(root_at, root)]);
    while let Some((at, node)) = todo.pop_front() {
        if node.children.is_empty() {
            continue;
        }
        out.extend(&gap);
        let list = out.len() as u64;
        put::u64(&mut out, at + 0x10, list);
        for child in &node.children {
            if child.attributes & DIRECTORY != 0 {
                todo.push_back((out.len(), child));
            }
            out.extend(child.bytes(0, mark));
            mark += 1;
        }
        out.extend([0; 8]);
    }
    out.extend(&gap);
    out
}

/// Files, directories, bytes of streams, bytes of names beyond the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    pub linked: u64,
}

type Links = Vec<(u64, Vec<(String, Vec<u8>)>)>;

fn count(node: &Node, links: &mut Links, out: &mut Counts) {
    let bytes: u64 = node.streams.iter().map(|s| s.1.len() as u64).sum();
    out.bytes += bytes;
    match node.attributes & DIRECTORY {
        0 => out.files += 1,
        _ => out.directories += 1,
    }
    if node.link != 0 && node.attributes & REPARSE == 0 {
        let key = (node.link, node.streams.clone());
        match links.contains(&key) {
            true => out.linked += bytes,
            false => links.push(key),
        }
    }
    for child in &node.children {
        count(child, links, out);
    }
}

pub fn resource(size: usize, flags: u8, at: usize, len: usize) -> [u8; 24] {
    let mut out = [0; 24];
    put::u64(&mut out, 0, size as u64 | u64::from(flags) << 56);
    put::u64(&mut out, 8, at as u64);
    put::u64(&mut out, 16, len as u64);
    out
}

impl Wim {
    pub fn new(images: Vec<Node>) -> Self {
        Self {
            images,
            integrity: None,
            ..Self::default()
        }
    }

    fn streams(node: &Node, found: &mut Vec<(Vec<u8>, u32)>, known: &mut HashMap<Hash, usize>) {
        for (_, data) in node.streams.iter().filter(|s| !s.1.is_empty()) {
            let at = *known.entry(sha1(data)).or_insert_with(|| {
                found.push((data.clone(), 0));
                found.len() - 1
            });
            found[at].1 += 1;
        }
        for child in &node.children {
            Self::streams(child, found, known);
        }
    }

    fn xml_text(&self, start: usize) -> String {
        let mut text = format!("<WIM><TOTALBYTES>{start:>12}</TOTALBYTES>");
        for (i, image) in self.images.iter().enumerate() {
            let mut c = Counts::default();
            count(image, &mut Vec::new(), &mut c);
            // The root is no directory of the count.
            c.directories -= 1;
            text += &format!("<IMAGE INDEX=\"{}\">", i + 1);
            if !self.no_counts {
                text += &format!(
                    "<DIRCOUNT>{}</DIRCOUNT><FILECOUNT>{}</FILECOUNT><TOTALBYTES>{}</TOTALBYTES>\
                     <HARDLINKBYTES>{}</HARDLINKBYTES>",
                    c.directories, c.files, c.bytes, c.linked
                );
            }
            text += &format!(
                "<CREATIONTIME><HIGHPART>0x01D00000</HIGHPART><LOWPART>0x0000000{}</LOWPART>\
                 </CREATIONTIME><WINDOWS><ARCH>9</ARCH><EDITIONID>Professional</EDITIONID><VERSION>\
                 <MAJOR>5</MAJOR><MINOR>1</MINOR><BUILD>2600</BUILD></VERSION></WINDOWS>\
                 <NAME>XP {}</NAME></IMAGE>",
                i + 1,
                i + 1
            );
        }
        text + &self.xml + "</WIM>"
    }

    pub fn build(&self) -> Vec<u8> {
        let mut found = Vec::new();
        let mut known = HashMap::new();
        for image in &self.images {
            Self::streams(image, &mut found, &mut known);
        }
        let mut out = vec![0; HEADER];
        let mut table = Vec::new();
        let mut stale = self.stale.iter();
        let (part, parts) = self.part.unwrap_or((1, 1));
        let runs = self.runs.max(1);
        for run in 0..runs {
            let Some(chunk) = self.solid else { break };
            let mut contents = self.solid_stale.clone();
            let mut inside = Vec::new();
            for (data, refs) in found.iter().skip(run).step_by(runs) {
                inside.push((contents.len(), data, *refs));
                contents.extend(data);
            }
            contents.extend(&self.solid_stale);
            let bytes = solid(&contents, chunk);
            add_as(
                &mut out,
                &mut table,
                (bytes.len(), 0x10, SOLID),
                (part, 1),
                &[0; 20],
                &bytes,
            );
            for (at, data, refs) in inside {
                table.extend(resource(data.len(), 0x10, at, 0));
                table.extend(part.to_le_bytes());
                table.extend(refs.to_le_bytes());
                table.extend(sha1(data));
            }
            if run + 1 < runs {
                let old = metadata(&Node::directory(""), &[]);
                let hash = sha1(&old);
                add_as(
                    &mut out,
                    &mut table,
                    (old.len(), 2, old.len()),
                    (part, 0),
                    &hash,
                    &old,
                );
            }
        }
        let mut add = |out: &mut Vec<u8>, flags: u8, refs: u32, bytes: &[u8]| {
            out.extend(stale.next().into_iter().flatten());
            let whole = (bytes.len(), flags, bytes.len());
            add_as(out, &mut table, whole, (part, refs), &sha1(bytes), bytes)
        };
        for (data, refs) in found.iter().filter(|_| self.solid.is_none()) {
            add(&mut out, 0, *refs, data);
        }
        if let Some(old) = &self.stale_metadata {
            add(&mut out, 2, 0, &metadata(old, &[]));
        }
        let mut boot = [0; 24];
        for (i, image) in self.images.iter().enumerate() {
            let place = add(&mut out, 2, 1, &metadata(image, &self.metadata_gaps));
            if i + 1 == self.boot as usize {
                boot = place;
            }
        }
        let table_at = out.len();
        out.extend(&table);
        let covered = out.len();
        let mut xml = vec![0xFF, 0xFE];
        xml.extend(put::utf16(&self.xml_text(covered)));
        out.extend(&xml);
        let integrity_at = out.len();
        let piece = self.integrity;
        let integrity = piece.map(|piece| integrity_table(&out[HEADER..covered], piece));
        let integrity = integrity.unwrap_or_default();
        out.extend(&integrity);
        put::bytes(&mut out, 0, b"MSWIM\0\0\0");
        put::u32(&mut out, 8, HEADER as u32);
        put::u32(
            &mut out,
            0xC,
            if self.solid.is_some() { 0xE00 } else { 0x10D00 },
        );
        put::u32(&mut out, 0x10, self.flags | 0x80);
        put::bytes(&mut out, 0x18, b"0123456789abcdef");
        put::u16(&mut out, 0x28, part);
        put::u16(&mut out, 0x2A, parts);
        put::u32(&mut out, 0x2C, self.images.len() as u32);
        let whole = |len: usize, at: usize| resource(len, 0, at, len);
        put::bytes(&mut out, 0x30, &whole(table.len(), table_at));
        put::bytes(&mut out, 0x48, &whole(xml.len(), covered));
        put::bytes(&mut out, 0x60, &boot);
        put::u32(&mut out, 0x78, self.boot);
        if self.integrity.is_some() {
            put::bytes(&mut out, 0x7C, &whole(integrity.len(), integrity_at));
        }
        out
    }
}

/// Appends a resource (bytes, flags, length of the contents) with its entry (part, references).
fn add_as(
    out: &mut Vec<u8>,
    table: &mut Vec<u8>,
    (size, flags, len): (usize, u8, usize),
    (part, refs): (u16, u32),
    hash: &Hash,
    bytes: &[u8],
) -> [u8; 24] {
    let place = resource(size, flags, out.len(), len);
    table.extend(place);
    table.extend(part.to_le_bytes());
    table.extend(refs.to_le_bytes());
    table.extend(hash);
    out.extend(bytes);
    place
}

fn hashes_of(bytes: &[u8], piece: u32) -> Vec<Hash> {
    bytes.chunks(piece as usize).map(sha1).collect()
}

// --- the reader ---

pub fn get16(bytes: &[u8], at: usize) -> usize {
    usize::from(put::get16(bytes, at))
}

pub fn get32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub fn get64(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub size: usize,
    pub flags: u8,
    pub at: usize,
    pub len: usize,
}

pub fn place(bytes: &[u8], at: usize) -> Place {
    let first = get64(bytes, at) as u64;
    Place {
        size: (first & 0xFF_FFFF_FFFF_FFFF) as usize,
        flags: (first >> 56) as u8,
        at: get64(bytes, at + 8),
        len: get64(bytes, at + 16),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub place: Place,
    pub refs: u32,
    pub hash: Hash,
}

/// A dentry: its bytes without what a removal may change, and its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dentry {
    pub raw: Vec<u8>,
    /// Name, bytes.
    pub streams: Vec<(String, Vec<u8>)>,
    pub directory: bool,
    pub link: u64,
}

#[derive(Clone, Debug)]
pub struct Read {
    /// For each image the dentries by path, in the order of the lists.
    pub images: Vec<Vec<(String, Dentry)>>,
    pub table: Vec<Entry>,
    pub xml: String,
    pub header: Vec<u8>,
    /// Security data of each image.
    pub security: Vec<Vec<u8>>,
    pub integrity: Option<usize>,
    /// Bytes of the file that nothing takes and that are not zero.
    pub dirt: usize,
}

impl Read {
    pub fn paths(&self, image: usize) -> Vec<&str> {
        let all = self.images[image].iter();
        all.map(|(path, _)| path.as_str()).collect()
    }

    #[track_caller]
    pub fn dentry(&self, image: usize, path: &str) -> &Dentry {
        let mut all = self.images[image].iter();
        let found = all.find(|(known, _)| known == path);
        &found.unwrap_or_else(|| panic!("{path} expected")).1
    }

    #[track_caller]
    pub fn data(&self, image: usize, path: &str) -> &[u8] {
        let streams = &self.dentry(image, path).streams;
        &streams.iter().find(|s| s.0.is_empty()).unwrap().1
    }

    pub fn refs(&self, data: &[u8]) -> Option<u32> {
        let hash = sha1(data);
        let found = self.table.iter().find(|entry| entry.hash == hash);
        found.map(|entry| entry.refs)
    }

    /// A number of the XML data of an image.
    #[track_caller]
    pub fn number(&self, image: usize, tag: &str) -> u64 {
        let mark = format!("<IMAGE INDEX=\"{}\">", image + 1);
        let from = self.xml.find(&mark).unwrap();
        let text = &self.xml[from..];
        let start = text.find(&format!("<{tag}>")).unwrap() + tag.len() + 2;
        let end = start + text[start..].find('<').unwrap();
        text[start..end].parse().unwrap()
    }
}

/// Reads an archive without compression; panics at whatever is wrong. Gaps are counted, not judged.
#[track_caller]
pub fn read(file: &[u8]) -> Read {
    assert_eq!(&file[..8], b"MSWIM\0\0\0");
    let [table, xml, boot, integrity] = [0x30, 0x48, 0x60, 0x7C].map(|at| place(file, at));
    let bytes_of = |one: &Place| {
        assert_eq!(one.size, one.len, "{one:?}");
        &file[one.at..one.at + one.size]
    };
    let entries: Vec<Entry> = bytes_of(&table)
        .chunks(50)
        .map(|entry| Entry {
            place: place(entry, 0),
            refs: get32(entry, 26) as u32,
            hash: entry[30..50].try_into().unwrap(),
        })
        .collect();
    let mut contents = HashMap::new();
    let mut images = Vec::new();
    let solid_runs = solid_runs(file, &entries);
    let mut dirt = 0;
    for (start, run, bytes) in &solid_runs {
        let mut gaps = bytes.clone();
        for entry in entries[*start..*start + run]
            .iter()
            .filter(|e| e.place.len != SOLID)
        {
            let range = entry.place.at..entry.place.at + entry.place.size;
            let data = &bytes[range.clone()];
            assert_eq!(sha1(data), entry.hash, "{entry:?}");
            assert!(contents.insert(entry.hash, data).is_none(), "twice");
            gaps[range].fill(0);
        }
        dirt += gaps.iter().filter(|byte| **byte != 0).count();
    }
    for entry in entries.iter().filter(|entry| entry.place.flags & 0x10 == 0) {
        let bytes = bytes_of(&entry.place);
        assert_eq!(sha1(bytes), entry.hash, "{entry:?}");
        match entry.place.flags {
            0 => assert!(contents.insert(entry.hash, bytes).is_none(), "twice"),
            2 if entry.refs > 0 => images.push((entry, bytes)),
            2 => {}
            other => panic!("flags {other}"),
        }
    }
    assert_eq!(images.len(), get32(file, 0x2C));
    let boot_index = get32(file, 0x78);
    match boot_index {
        0 => assert_eq!(boot.at, 0),
        index => assert_eq!(boot, images[index - 1].0.place),
    }
    let mut used: Vec<(usize, usize)> = entries
        .iter()
        .map(|entry| &entry.place)
        .filter(|one| one.flags & 0x10 == 0 || one.len == SOLID)
        .chain([&table, &xml, &integrity])
        .filter(|one| one.size > 0)
        .map(|one| (one.at, one.at + one.size))
        .collect();
    used.push((0, HEADER));
    used.push((file.len(), file.len()));
    used.sort_unstable();
    for pair in used.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "one on top of the other: {pair:x?}");
        let gap = &file[pair[0].1..pair[1].0];
        dirt += gap.iter().filter(|byte| **byte != 0).count();
    }
    let mut refs: HashMap<Hash, u32> = HashMap::new();
    let mut out = Read {
        images: Vec::new(),
        xml: {
            let bytes = bytes_of(&xml);
            assert_eq!(&bytes[..2], [0xFF, 0xFE]);
            let units = bytes[2..].chunks(2).map(|pair| put::get16(pair, 0));
            String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
        },
        header: file[..HEADER].to_vec(),
        security: Vec::new(),
        integrity: (integrity.size > 0).then_some(integrity.at),
        table: entries.clone(),
        dirt,
    };
    for (_, bytes) in &images {
        let (security, tree) = walk(bytes, &contents, &mut refs);
        out.security.push(security);
        out.images.push(tree);
    }
    let counted = |entry: &&Entry| entry.place.flags & 2 == 0 && entry.place.len != SOLID;
    for entry in entries.iter().filter(counted) {
        let found = refs.get(&entry.hash).copied().unwrap_or(0);
        assert_eq!(found, entry.refs, "references of {entry:?}");
    }
    if integrity.size > 0 {
        let bytes = bytes_of(&integrity);
        let covered = table.at + table.size;
        assert_eq!(get32(bytes, 0), bytes.len());
        let piece = get32(bytes, 8) as u32;
        let want: Vec<u8> = hashes_of(&file[HEADER..covered], piece).concat();
        assert_eq!(get32(bytes, 4) * 20, want.len());
        assert!(bytes[12..] == want, "integrity table");
    }
    out
}

/// Runs of solid entries: the first one's number, how many, the contents of their resources. All chunks
/// must be stored as they are.
fn solid_runs(file: &[u8], entries: &[Entry]) -> Vec<(usize, usize, Vec<u8>)> {
    let mut out: Vec<(usize, usize, Vec<u8>)> = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let one = &entry.place;
        if one.flags & 0x10 == 0 {
            continue;
        }
        match out.last_mut() {
            Some((start, run, _)) if *start + *run == i => *run += 1,
            _ => out.push((i, 1, Vec::new())),
        }
        if one.len == SOLID {
            let bytes = &file[one.at..one.at + one.size];
            let (len, chunk) = (get64(bytes, 0), get32(bytes, 8));
            let count = len.div_ceil(chunk);
            assert_eq!(bytes.len(), 16 + 4 * count + len, "chunks as they are");
            out.last_mut().unwrap().2.extend(&bytes[16 + 4 * count..]);
        }
    }
    out
}

fn walk(
    bytes: &[u8],
    contents: &HashMap<Hash, &[u8]>,
    refs: &mut HashMap<Hash, u32>,
) -> (Vec<u8>, Vec<(String, Dentry)>) {
    let security = round_up(get32(bytes, 0).max(8) as u64, 8) as usize;
    let mut one = |at: usize| -> (String, Dentry, usize, usize) {
        let len = get64(bytes, at);
        let mut raw = bytes[at..at + len].to_vec();
        let text = |bytes: &[u8]| {
            let units = bytes.chunks(2).map(|pair| put::get16(pair, 0));
            String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
        };
        let name = text(&bytes[at + 0x66..at + 0x66 + get16(bytes, at + 0x64)]);
        let mut end = round_up((at + len) as u64, 8) as usize;
        let mut hashes: Vec<(String, Hash)> = Vec::new();
        let extras = get16(bytes, at + 0x60);
        let main: Hash = bytes[at + 0x40..at + 0x54].try_into().unwrap();
        if extras == 0 || main != [0; 20] {
            hashes.push((String::new(), main));
        }
        for _ in 0..extras {
            let len = get64(bytes, end);
            let mut extra = bytes[end..end + len].to_vec();
            hashes.push((
                text(&extra[0x26..0x26 + get16(&extra, 0x24)]),
                extra[0x10..0x24].try_into().unwrap(),
            ));
            extra[0x10..0x24].fill(0);
            raw.extend(extra);
            end = round_up((end + len) as u64, 8) as usize;
        }
        let list = get64(bytes, at + 0x10);
        raw[0x10..0x18].fill(0);
        raw[0x40..0x54].fill(0);
        let mut streams = Vec::new();
        for (name, hash) in hashes {
            if hash != [0; 20] {
                *refs.entry(hash).or_default() += 1;
                let data = contents.get(&hash).expect("contents that are listed");
                streams.push((name, data.to_vec()));
            }
        }
        let attributes = get32(bytes, at + 8) as u32;
        let dentry = Dentry {
            raw,
            streams,
            directory: attributes & DIRECTORY != 0,
            link: match attributes & REPARSE {
                0 => get64(bytes, at + 0x58) as u64,
                _ => 0,
            },
        };
        (name, dentry, list, end)
    };
    let (_, root, list, _) = one(security);
    let mut out = vec![("\\".to_owned(), root)];
    let mut todo = std::collections::VecDeque::from([(String::new(), list)]);
    while let Some((path, mut at)) = todo.pop_front() {
        if at == 0 {
            continue;
        }
        while get64(bytes, at) != 0 {
            let (name, dentry, list, end) = one(at);
            let path = format!("{path}\\{name}");
            todo.push_back((path.clone(), list));
            out.push((path, dentry));
            at = end;
        }
    }
    (bytes[..security].to_vec(), out)
}

/// What the counts of an image would be, counted from what was read.
pub fn counts(tree: &[(String, Dentry)]) -> BTreeMap<&'static str, u64> {
    let mut out = BTreeMap::from([
        ("DIRCOUNT", 0),
        ("FILECOUNT", 0),
        ("TOTALBYTES", 0),
        ("HARDLINKBYTES", 0),
    ]);
    let mut links: Links = Vec::new();
    for (_, one) in &tree[1..] {
        let bytes: u64 = one.streams.iter().map(|s| s.1.len() as u64).sum();
        *out.get_mut("TOTALBYTES").unwrap() += bytes;
        let tag = match one.directory {
            true => "DIRCOUNT",
            false => "FILECOUNT",
        };
        *out.get_mut(tag).unwrap() += 1;
        if one.link != 0 {
            let key = (one.link, one.streams.clone());
            match links.contains(&key) {
                true => *out.get_mut("HARDLINKBYTES").unwrap() += bytes,
                false => links.push(key),
            }
        }
    }
    out
}
