//! From description to volume: files first, then directories, then the metadata files that need to
//! know what everything else took, then the records.

mod metadata;

use std::collections::HashMap;

use super::attribute::{self, Attr, Body, Head, List, Mapped, Records};
use super::geometry::{Clusters, Geometry, Output, Run, write_stream};
use super::index::{self, Fill};
use super::names::{self, Duplicate, FileName};
use super::{Built, Content, EXTEND, Node, NtfsBuilder, ROOT, Stream, TIME, Version};
use super::{streams, system};
use crate::support::{put, upcase};

/// First record of a volume that is not spoken for.
const FIRST: u64 = 24;
/// Records of `$MFT` extents below it.
const MFT_EXTENTS: std::ops::Range<u64> = 16..24;

struct Child {
    key: Vec<u16>,
    units: Vec<u16>,
    entry: Vec<u8>,
}

struct Build<'a> {
    v: &'a NtfsBuilder,
    g: Geometry,
    out: Output<'a>,
    clusters: Clusters,
    layout: Records,
    records: Vec<Option<Vec<u8>>>,
    slack: HashMap<u64, Vec<u8>>,
    numbers: Vec<u64>,
    names: Vec<Vec<FileName>>,
    children: Vec<Vec<Child>>,
    next: u64,
    extensions: u64,
}

fn reference(number: u64, sequence: u16) -> u64 {
    number | u64::from(sequence) << 48
}

pub(super) fn build(v: &NtfsBuilder, out: Output<'_>) -> Built {
    let g = v.geometry;
    let sectors = v.size / g.sector - 1;
    let count = sectors * g.sector / g.cluster;
    let layout = Records {
        geometry: g,
        numbered: v.version == Version::V31,
    };
    let mut b = Build {
        v,
        g,
        out,
        clusters: Clusters::new(count),
        layout,
        records: Vec::new(),
        slack: HashMap::new(),
        numbers: Vec::new(),
        names: names::resolve(&v.nodes),
        children: v.nodes.iter().map(|_| Vec::new()).collect(),
        next: FIRST,
        extensions: 0,
    };
    b.run(sectors, count)
}

impl Build<'_> {
    fn run(&mut self, sectors: u64, count: u64) -> Built {
        let v = self.v;
        let g = self.g;
        let boot_clusters = 8192_u64.div_ceil(g.cluster);
        let mirror_records = (g.cluster / g.record).max(4);
        let mirror_clusters = (4 * g.record).div_ceil(g.cluster);
        self.clusters.reserve(0, boot_clusters);
        let mirror = count / 2;
        self.clusters.reserve(mirror, mirror_clusters);
        let mft_reserve = self.mft_reserve();
        self.next = FIRST + mft_reserve;
        self.number_nodes();
        let free_plants: Vec<u64> = v.free_plants.iter().map(|p| self.plant(p)).collect();

        self.small_system_files(boot_clusters, mirror, mirror_clusters, count);
        for at in 0..v.nodes.len() {
            if !v.nodes[at].dir {
                self.file(at);
            }
        }
        // Children come after their parents, and enter their parents' lists: last ones first.
        for at in (EXTEND + 1..v.nodes.len()).rev() {
            if v.nodes[at].dir {
                self.directory(at);
            }
        }
        if v.version != Version::V12 {
            self.extend_files();
            self.directory(EXTEND);
        }
        // $Bitmap takes its clusters before it is known what it says.
        let bitmap_len = put::round_up(count.div_ceil(8), 8);
        let bitmap = self.plain(bitmap_len, None);
        self.system(6, 6, "$Bitmap", vec![bitmap.clone()]);
        let mft = Duplicate {
            allocated: self.next * g.record,
            size: self.next * g.record,
            attributes: 0x06,
            tag: 0,
        };
        self.add_child(
            ROOT,
            reference(0, 1),
            &"$MFT".encode_utf16().collect::<Vec<_>>(),
            3,
            &mft,
        );
        self.directory(ROOT);
        let (mft_runs, record_count) = self.mft(&mft, mft_reserve);

        // The mirror of large clusters goes beyond the used records; tools want records there.
        if mirror_records > 4 {
            for number in 0..mirror_records.min(record_count) {
                if self
                    .records
                    .get(usize::try_from(number).unwrap())
                    .is_none_or(Option::is_none)
                {
                    let free = self.layout.free(number);
                    self.keep(number, free);
                }
            }
        }
        self.write_mapped(&bitmap, 0, &self.clusters.bitmap());
        self.write_records(&mft_runs, record_count, mirror, mirror_records);
        let mut boot = system::boot_sector(v, sectors, mft_runs[0].0.unwrap(), mirror);
        boot.resize(usize::try_from(g.sector.max(512)).unwrap(), 0);
        self.out.write(0, &boot);
        self.out.write(
            sectors * g.sector,
            &boot[..usize::try_from(g.sector).unwrap()],
        );
        Built {
            records: self.paths(),
            record_count,
            mft_runs: mft_runs.len(),
            len: sectors * g.sector,
            free_plants,
            extensions: self.extensions,
        }
    }

    /// How many records `$MFT` itself may need beyond 16..24 to describe its pieces.
    fn mft_reserve(&self) -> u64 {
        let Some(piece) = self.v.mft_piece else {
            return 0;
        };
        let g = &self.g;
        let mut records = self.v.nodes.len() as u64 + 128;
        for stream in self.v.nodes.iter().flat_map(|n| &n.streams) {
            if let Some(piece) = stream.piece {
                records += stream.content.len() / g.cluster / piece / 50 + 2;
            }
        }
        let pieces = records * g.record / (g.cluster * piece) + 1;
        let per_record = self.layout.room() as u64 / 8 - 10;
        (pieces / per_record + 2).saturating_sub(7)
    }

    fn number_nodes(&mut self) {
        for at in 0..self.v.nodes.len() {
            let number = match at {
                ROOT => 5,
                EXTEND => 11,
                _ => self.take_number(),
            };
            self.numbers.push(number);
        }
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn plant(&mut self, bytes: &[u8]) -> u64 {
        let count = (bytes.len() as u64).div_ceil(self.g.cluster);
        let at = self.clusters.find(count) * self.g.cluster;
        self.out.write(at, bytes);
        at
    }

    fn node_ref(&self, at: usize) -> u64 {
        reference(self.numbers[at], self.v.nodes[at].sequence)
    }

    fn standard_information(&self, attributes: u32) -> Attr {
        let old = self.v.version == Version::V12;
        let mut value = vec![0; if old { 48 } else { 72 }];
        for at in [0, 8, 16, 24] {
            put::u64(&mut value, at, TIME);
        }
        put::u32(&mut value, 32, attributes);
        if !old {
            put::u32(&mut value, 52, system::SECURITY_ID);
        }
        Attr::resident(0x10, "", value)
    }

    /// What every base record starts with.
    fn common(&self, attributes: u32) -> Vec<Attr> {
        let mut attrs = vec![self.standard_information(attributes)];
        if self.v.version == Version::V12 {
            attrs.push(Attr::resident(0x50, "", system::descriptor()));
        }
        attrs
    }

    /// A plain stream of `len` bytes in clusters, not written yet.
    fn plain(&mut self, len: u64, piece: Option<u64>) -> Attr {
        let count = len.div_ceil(self.g.cluster);
        let m = Mapped {
            runs: self.clusters.take_pieces(count, piece),
            allocated: count * self.g.cluster,
            size: len,
            initialised: len,
            ..Mapped::default()
        };
        Attr::mapped(0x80, "", 0, m)
    }

    fn write_mapped(&mut self, attr: &Attr, offset: u64, bytes: &[u8]) {
        let Body::Mapped(m) = &attr.body else {
            unreachable!("only mapped streams are written")
        };
        write_stream(&mut self.out, self.g.cluster, &m.runs, offset, bytes);
    }

    fn data(&mut self, bytes: &[u8]) -> Attr {
        let attr = self.plain(bytes.len() as u64, None);
        self.write_mapped(&attr, 0, bytes);
        attr
    }

    fn add_child(
        &mut self,
        parent: usize,
        reference: u64,
        units: &[u16],
        space: u8,
        duplicate: &Duplicate,
    ) -> Vec<u8> {
        let value = names::value(self.node_ref(parent), units, space, duplicate);
        self.children[parent].push(Child {
            key: units.iter().map(|u| upcase::unit(*u)).collect(),
            units: units.to_vec(),
            entry: index::file_entry(reference, &value),
        });
        value
    }

    /// Packs attributes into records, takes extension records, and keeps their bytes.
    fn place(&mut self, head: Head, attrs: Vec<Attr>, list: List) {
        let packed = attribute::pack(&self.layout, attrs, list, false);
        let extensions: Vec<u64> = (0..packed.extensions())
            .map(|_| self.take_number())
            .collect();
        self.place_packed(head, &packed, &extensions);
    }

    fn place_packed(&mut self, head: Head, packed: &attribute::Packed, extensions: &[u64]) {
        let list_len = packed.list_clusters();
        let list_runs = list_len.map_or(Vec::new(), |len| {
            self.clusters
                .take_pieces((len as u64).div_ceil(self.g.cluster), None)
        });
        let (records, list) = packed.records(&self.layout, head, extensions, list_runs.clone());
        write_stream(&mut self.out, self.g.cluster, &list_runs, 0, &list);
        if head.flags & 1 == 0 {
            self.clusters.release(&list_runs);
        }
        self.extensions += extensions.len() as u64;
        for (number, bytes) in records {
            self.keep(number, bytes);
        }
    }

    fn keep(&mut self, number: u64, bytes: Vec<u8>) {
        let at = usize::try_from(number).unwrap();
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
        }
        self.records[at] = Some(bytes);
    }

    fn file(&mut self, at: usize) {
        let node = &self.v.nodes[at];
        let sparse = node
            .streams
            .first()
            .is_some_and(|s| s.name.is_empty() && matches!(s.content, Content::Sparse { .. }));
        let mut attrs = self.common(node.attributes | if sparse { 0x200 } else { 0 });
        let tag = node.reparse.as_ref().map_or(0, |r| r.0);
        self.more(node, &mut attrs);
        let name_lens: usize = self.names[at]
            .iter()
            .map(|n| 24 + (66 + 2 * n.units.len()).next_multiple_of(8))
            .sum();
        let streams = self.streams(node, &attrs, name_lens);
        let mut duplicate = duplicate(&streams, node.attributes);
        duplicate.tag = tag;
        attrs.extend(streams);
        if node.deleted {
            for attr in &attrs {
                if let Body::Mapped(m) = &attr.body {
                    self.clusters.release(&m.runs);
                }
            }
        }
        self.finish(at, attrs, duplicate);
    }

    /// Object id and reparse point.
    fn more(&self, node: &Node, attrs: &mut Vec<Attr>) {
        if let Some(id) = node.object_id {
            attrs.push(Attr::resident(0x40, "", id.to_vec()));
        }
        if let Some((tag, data)) = &node.reparse {
            let mut value = tag.to_le_bytes().to_vec();
            value.extend(u16::try_from(data.len()).unwrap().to_le_bytes());
            value.extend([0, 0]);
            value.extend(data);
            attrs.push(Attr::resident(0xc0, "", value));
        }
    }

    /// Streams: resident while there is room in the base record.
    fn streams(&mut self, node: &Node, attrs: &[Attr], name_lens: usize) -> Vec<Attr> {
        let used: usize = attrs.iter().map(|a| a.encode(0).len()).sum::<usize>() + name_lens;
        let mut room = self.layout.room().saturating_sub(used);
        let mut list = Vec::new();
        for stream in &node.streams {
            let plain = !stream.compressed && !matches!(stream.content, Content::Sparse { .. });
            let len = 24 + 2 * stream.name.len() + 8;
            if stream.resident && plain && stream.content.len() <= room.saturating_sub(len) as u64 {
                let attr = Attr::resident(0x80, &stream.name, stream.content.bytes());
                room -= attr.encode(0).len();
                list.push(attr);
            } else {
                let attr = self.stream(stream);
                room = room.saturating_sub(attr.encode(0).len());
                list.push(attr);
            }
        }
        list
    }

    fn stream(&mut self, stream: &Stream) -> Attr {
        streams::mapped(&self.g, &mut self.clusters, &mut self.out, stream)
    }

    /// Names the node, enters it into its directories, and packs its records.
    fn finish(&mut self, at: usize, mut attrs: Vec<Attr>, mut duplicate: Duplicate) {
        let node = &self.v.nodes[at];
        let number = self.numbers[at];
        let mut flags = u16::from(!node.deleted);
        if node.dir {
            flags |= 2;
            duplicate.attributes |= 0x1000_0000;
        }
        let names = std::mem::take(&mut self.names[at]);
        for name in &names {
            if name.parent == EXTEND {
                flags |= 4;
            }
            let value = if node.deleted {
                names::value(
                    self.node_ref(name.parent),
                    &name.units,
                    name.space,
                    &duplicate,
                )
            } else {
                let me = reference(number, node.sequence);
                self.add_child(name.parent, me, &name.units, name.space, &duplicate)
            };
            attrs.push(Attr::resident(0x30, "", value));
        }
        let links = u16::try_from(names.len()).unwrap();
        self.names[at] = names;
        let head = Head {
            number,
            sequence: node.sequence,
            links,
            flags,
        };
        self.place(head, attrs, node.list);
        if !node.record_slack.is_empty() {
            self.slack.insert(number, node.record_slack.clone());
        }
    }

    fn directory(&mut self, at: usize) {
        let node = &self.v.nodes[at];
        let mut attrs = self.common(node.attributes);
        self.more(node, &mut attrs);
        let duplicate = Duplicate {
            attributes: node.attributes,
            tag: node.reparse.as_ref().map_or(0, |r| r.0),
            ..Duplicate::default()
        };
        let name_lens: usize = self.names[at]
            .iter()
            .map(|n| 24 + (66 + 2 * n.units.len()).next_multiple_of(8))
            .sum();
        let streams = self.streams(node, &attrs, name_lens);
        attrs.extend(streams);
        if at == ROOT || at == EXTEND {
            let (name, number) = if at == ROOT {
                (".", 5)
            } else {
                ("$Extend", 11)
            };
            let parts = Duplicate {
                attributes: 0x1000_0006,
                ..Duplicate::default()
            };
            let units: Vec<u16> = name.encode_utf16().collect();
            let value = self.add_child(ROOT, reference(number, node.sequence), &units, 3, &parts);
            attrs.push(Attr::resident(0x30, "", value));
        }
        let used: usize = attrs.iter().map(|a| a.encode(0).len()).sum::<usize>() + name_lens;
        let mut children = std::mem::take(&mut self.children[at]);
        children.sort_by(|a, b| (&a.key, &a.units).cmp(&(&b.key, &b.units)));
        let entries: Vec<Vec<u8>> = children.into_iter().map(|c| c.entry).collect();
        let mut room = self.layout.room().saturating_sub(used);
        if room < 250 {
            // The index root will live in an extension record.
            room = self.layout.room() - 100;
        }
        attrs.extend(self.index(
            "$I30",
            (0x30, 1),
            &entries,
            room,
            node.fill,
            (node.index_piece, &node.index_slack),
        ));
        if at == ROOT || at == EXTEND {
            let number = self.numbers[at];
            let head = Head {
                number,
                sequence: node.sequence,
                links: 1,
                flags: 3,
            };
            self.place(head, attrs, node.list);
            if !node.record_slack.is_empty() {
                self.slack.insert(number, node.record_slack.clone());
            }
        } else {
            self.finish(at, attrs, duplicate);
        }
    }

    fn view(&mut self, name: &str, collation: u32, entries: &[Vec<u8>]) -> Vec<Attr> {
        let room = self.layout.room() / 3;
        self.index(
            name,
            (0, collation),
            entries,
            room,
            Fill::default(),
            (None, &[]),
        )
    }

    /// An index: its root, and its blocks and their bitmap if it needs any.
    fn index(
        &mut self,
        name: &str,
        (indexed, collation): (u32, u32),
        entries: &[Vec<u8>],
        room: usize,
        fill: Fill,
        (piece, slack): (Option<u64>, &[u8]),
    ) -> Vec<Attr> {
        let g = self.g;
        let header = 24 + 8 + 32;
        let flat = room.saturating_sub(header + 8);
        let root = room.saturating_sub(header + 8 + 96 + 48).max(24);
        let tree = index::build(&g, entries, flat, root, fill);
        let value = index::root_value(&g, indexed, collation, &tree);
        let mut attrs = vec![Attr::resident(0x90, name, value)];
        if tree.blocks.is_empty() {
            assert!(slack.is_empty(), "no index block to leave something in");
            return attrs;
        }
        let len = tree.blocks.len() as u64 * g.index;
        let mut allocation = self.plain(len, piece);
        (allocation.kind, allocation.name) = (0xa0, name.encode_utf16().collect());
        let mut slack = Some(slack);
        for (i, node) in tree.blocks.iter().enumerate() {
            let fits = slack.is_some_and(|s| s.len() <= index::slack_room(&g, node));
            let left = if fits { slack.take() } else { None };
            let mut block = index::block(&g, i as u64, node, left.unwrap_or_default());
            attribute::protect(&mut block, 3);
            self.write_mapped(&allocation, i as u64 * g.index, &block);
        }
        assert!(
            slack.is_none(),
            "no index block has room for the planted bytes"
        );
        attrs.push(allocation);
        let mut bits = vec![0u8; tree.blocks.len().div_ceil(64) * 8];
        for i in 0..tree.blocks.len() {
            bits[i / 8] |= 1 << (i % 8);
        }
        let mut bitmap = if bits.len() <= 64 {
            Attr::resident(0x80, "", bits)
        } else {
            self.data(&bits)
        };
        (bitmap.kind, bitmap.name) = (0xb0, name.encode_utf16().collect());
        attrs.push(bitmap);
        attrs
    }

    /// Places `$MFT`; gives its runs and how many records it has.
    fn mft(&mut self, duplicate: &Duplicate, reserve: u64) -> (Vec<Run>, u64) {
        let g = self.g;
        let len = put::round_up(self.next.max(32) * g.record, g.cluster.max(g.record));
        let count = len / g.record;
        // The records a reader starts with lie together: the boot sector names one place.
        let whole = len / g.cluster;
        let head = self
            .v
            .mft_piece
            .map_or(whole, |_| (FIRST * g.record).div_ceil(g.cluster));
        let mut runs = self.clusters.take_pieces(head, None);
        runs.extend(self.clusters.take_pieces(whole - head, self.v.mft_piece));
        let m = Mapped {
            runs: runs.clone(),
            allocated: len,
            size: len,
            initialised: len,
            ..Mapped::default()
        };
        let data = Attr::mapped(0x80, "", 0, m);
        let mut bitmap = self.plain(put::round_up(count.div_ceil(8), 8), None);
        bitmap.kind = 0xb0;
        let mut attrs = self.common(0x06);
        let units: Vec<u16> = "$MFT".encode_utf16().collect();
        attrs.push(Attr::resident(
            0x30,
            "",
            names::value(self.node_ref(ROOT), &units, 3, duplicate),
        ));
        attrs.extend([data, bitmap.clone()]);
        let packed = attribute::pack(&self.layout, attrs, List::Auto, true);
        let extensions: Vec<u64> = MFT_EXTENTS
            .chain(FIRST..FIRST + reserve)
            .take(packed.extensions())
            .collect();
        assert_eq!(
            extensions.len(),
            packed.extensions(),
            "too many pieces of $MFT"
        );
        let head = Head {
            number: 0,
            sequence: 1,
            links: 1,
            flags: 1,
        };
        self.place_packed(head, &packed, &extensions);
        let mut bits = vec![0u8; usize::try_from(put::round_up(count.div_ceil(8), 8)).unwrap()];
        for (i, record) in self.records.iter().enumerate() {
            if record.as_ref().is_some_and(|r| r[22] & 1 != 0) {
                bits[i / 8] |= 1 << (i % 8);
            }
        }
        self.write_mapped(&bitmap, 0, &bits);
        (runs, count)
    }

    fn write_records(&mut self, runs: &[Run], count: u64, mirror: u64, mirrored: u64) {
        const BATCH: usize = 1024;
        let size = self.layout.size();
        let records = std::mem::take(&mut self.records);
        let mut buffer = Vec::with_capacity(BATCH * size);
        for (batch, group) in records.chunks(BATCH).enumerate() {
            buffer.clear();
            for (i, record) in group.iter().enumerate() {
                let at = buffer.len();
                buffer.extend(record.as_deref().unwrap_or_default());
                let used = buffer.len() - at;
                buffer.resize(at + size, 0);
                if record.is_some() {
                    let bytes = &mut buffer[at..];
                    if let Some(slack) = self.slack.get(&((batch * BATCH + i) as u64)) {
                        put::bytes(bytes, slack_place(used, slack.len(), size), slack);
                    }
                    attribute::protect(bytes, 2);
                }
            }
            let offset = (batch * BATCH * size) as u64;
            write_stream(&mut self.out, self.g.cluster, runs, offset, &buffer);
            // The mirror repeats the first records byte for byte.
            let end = mirrored.min(count) * size as u64;
            let part = usize::try_from(end.saturating_sub(offset))
                .unwrap()
                .min(buffer.len());
            self.out
                .write(mirror * self.g.cluster + offset, &buffer[..part]);
        }
    }

    /// The first path of every file and directory.
    fn paths(&self) -> HashMap<String, u64> {
        let nodes = self.v.nodes.iter().zip(&self.numbers).skip(EXTEND + 1);
        nodes
            .map(|(node, number)| (self.v.path(&node.names[0]), *number))
            .collect()
    }
}

/// Where `len` bytes fit behind `used`, not across the end of a 512-byte stride if possible.
fn slack_place(used: usize, len: usize, size: usize) -> usize {
    let at = used + 8;
    let at = if at / 512 != (at + len + 2) / 512 && at.next_multiple_of(512) + len + 2 <= size {
        at.next_multiple_of(512)
    } else {
        at
    };
    assert!(
        at + len + 2 <= size,
        "no room for the planted bytes in the record"
    );
    at
}

/// Sizes and DOS attributes for directory entries.
fn duplicate(attrs: &[Attr], attributes: u32) -> Duplicate {
    let mut d = Duplicate {
        attributes,
        ..Duplicate::default()
    };
    for attr in attrs.iter().filter(|a| a.kind == 0x80 && a.name.is_empty()) {
        (d.allocated, d.size) = match &attr.body {
            Body::Resident { value, .. } => {
                let len = value.len() as u64;
                (put::round_up(len, 8), len)
            }
            Body::Mapped(m) => (m.total.unwrap_or(m.allocated), m.size),
        };
        if attr.flags & 0x8000 != 0 {
            d.attributes |= 0x200;
        }
    }
    d
}
