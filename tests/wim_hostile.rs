//! Damaged and hostile archives: an answer within a second of processor time, a code that says which,
//! nothing written.

use std::{fs, time::Duration};

use crate::{
    machine::GUID,
    run::{arg, declone_cpu, scratch},
    support::{
        hive_builder::HiveBuilder,
        put,
        wim_builder::{self as wim, HEADER, Node, Wim, sha1},
    },
};

/// A small machine: one hive, one file of each kind.
fn small() -> Node {
    let mut hive = HiveBuilder::new(5);
    hive.key(crate::machine::CLIENT)
        .string("SMS Unique Identifier", &format!("GUID:{GUID}"));
    let mut root = Node::directory("");
    root.add(crate::machine::HIVE, &hive.build());
    root.put(
        r"\WINDOWS",
        Node::file("Smscfg.ini", b"UniqueID=1")
            .short("SMSCFG.INI")
            .link(5),
    );
    root.put(
        r"\WINDOWS",
        Node::file("other", b"main").stream("x", b"stream"),
    );
    root
}

fn archive() -> Wim {
    let mut archive = Wim::new(vec![small()]);
    archive.integrity = Some(4096);
    archive.boot = 1;
    archive
}

/// Scans and plans; nothing may be written, hang or fall over. Gives both codes.
#[track_caller]
fn looked(name: &str, file: &[u8]) -> (i32, i32) {
    let dir = scratch();
    let image = dir.path().join("a.wim");
    fs::write(&image, file).unwrap();
    let mut codes = Vec::new();
    for args in [vec!["scan", arg(&image)], vec!["clean", arg(&image), "-n"]] {
        let (ran, cpu) = declone_cpu(&args);
        assert!(cpu < Duration::from_secs(1), "{name}, {args:?}: {cpu:?}");
        let known = [0, 1, 3, 4, 8].contains(&ran.code);
        assert!(known, "{name}: {}\n{}{}", ran.code, ran.out, ran.err);
        codes.push(ran.code);
    }
    assert!(fs::read(&image).unwrap() == file, "{name}");
    (codes[0], codes[1])
}

/// The archive with other metadata, and everything that names it right again.
fn with_metadata(new: &[u8]) -> Vec<u8> {
    let mut archive = archive();
    archive.integrity = None;
    archive.boot = 0;
    let file = archive.build();
    let old = wim::metadata(&archive.images[0], &[]);
    let at = memchr::memmem::find(&file, &old).unwrap();
    let table = wim::place(&file, 0x30);
    let xml = wim::place(&file, 0x48);
    let mut out = file[..at].to_vec();
    out.extend(new);
    let table_at = out.len();
    let mut entries = file[table.at..table.at + table.size].to_vec();
    // The metadata is the last one.
    let last = entries.len() - 50;
    put::bytes(
        &mut entries,
        last,
        &wim::resource(new.len(), 2, at, new.len()),
    );
    put::bytes(&mut entries, last + 30, &sha1(new));
    out.extend(&entries);
    let xml_at = out.len();
    out.extend(&file[xml.at..xml.at + xml.size]);
    put::bytes(
        &mut out,
        0x30,
        &wim::resource(entries.len(), 0, table_at, entries.len()),
    );
    put::bytes(
        &mut out,
        0x48,
        &wim::resource(xml.size, 0, xml_at, xml.size),
    );
    out
}

#[test]
fn the_archive_before_it_is_damaged() {
    assert_eq!(looked("whole", &archive().build()), (1, 0));
    let metadata = wim::metadata(&small(), &[]);
    assert_eq!(looked("metadata", &with_metadata(&metadata)), (1, 0));
}

/// Every byte of a range, with all bits turned; with one, in turn, every third time.
fn each_byte(file: &[u8], range: std::ops::Range<usize>, look: impl Fn(usize, Vec<u8>) + Sync) {
    let middle = range.len() / 2 + range.start;
    std::thread::scope(|scope| {
        for half in [range.start..middle, middle..range.end] {
            let look = &look;
            scope.spawn(move || {
                for at in half {
                    let mut bad = file.to_vec();
                    bad[at] ^= if at % 3 == 0 { 1 << (at % 8) } else { 0xFF };
                    look(at, bad);
                }
            });
        }
    });
}

#[test]
fn every_byte_of_the_header() {
    let file = archive().build();
    each_byte(&file, 0..HEADER, |at, bad| {
        let codes = looked(&format!("header {at:#x}"), &bad);
        // What says what and where everything is.
        let vital = (0..0x10).contains(&at) || (0x28..0x48).contains(&at);
        assert!(!vital || codes.1 != 0, "header {at:#x}: {codes:?}");
    });
}

#[test]
fn every_byte_of_the_tables() {
    let file = archive().build();
    let table = wim::place(&file, 0x30);
    each_byte(&file, table.at..table.at + table.size, |at, bad| {
        let codes = looked(&format!("blob table +{:#x}", at - table.at), &bad);
        let inside = (at - table.at) % 50;
        // Place and hash of contents that are read.
        let vital = at - table.at < 50 && (8..16).contains(&inside);
        assert!(!vital || codes.1 != 0, "{codes:?}");
    });
    let integrity = wim::place(&file, 0x7C);
    each_byte(&file, integrity.at..integrity.at + 12, |at, bad| {
        looked(&format!("integrity table {at:#x}"), &bad);
    });
}

#[test]
fn every_byte_of_the_metadata() {
    let metadata = wim::metadata(&small(), &[]);
    each_byte(&metadata, 0..metadata.len(), |at, bad| {
        looked(&format!("metadata +{at:#x}"), &with_metadata(&bad));
    });
}

#[test]
fn every_length() {
    let file = archive().build();
    for part in 0..16 {
        let name = format!("{part}/16");
        let (scan, clean) = looked(&name, &file[..file.len() * part / 16]);
        assert_eq!((scan, clean), (4, 4), "{name}");
    }
    for len in [1, 8, 207, 208, 209, 511, 512] {
        assert_eq!(looked("short", &file[..len]), (4, 4), "{len}");
    }
    assert_eq!(looked("a byte less", &file[..file.len() - 1]).1, 4);
}

/// Where in the metadata the dentry with this name begins.
fn dentry(metadata: &[u8], name: &str) -> usize {
    let name = put::utf16(name);
    memchr::memmem::find(metadata, &name).unwrap() - 0x66
}

#[test]
fn lists_that_come_back_and_lengths_that_lie() {
    let good = wim::metadata(&small(), &[]);
    let root = put::round_up(wim::get32(&good, 0) as u64, 8) as usize;
    let windows = dentry(&good, "WINDOWS");
    let system = dentry(&good, "system32");
    let list = |at: usize| wim::get64(&good, at + 0x10) as u64;
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        put::bytes(&mut bad, at, bytes);
        with_metadata(&bad)
    };
    let cases = [
        ("to itself", system + 0x10, list(system)),
        ("to the root's list", system + 0x10, list(root)),
        ("to its parent's list", system + 0x10, list(windows)),
        ("into the security data", system + 0x10, 8),
        ("to the root", system + 0x10, root as u64),
        ("odd", system + 0x10, list(system) + 1),
        ("beyond the end", system + 0x10, good.len() as u64),
        ("far", system + 0x10, u64::MAX - 7),
        ("no length", root, 0),
        ("short length", windows, 7),
        ("length of all", windows, u64::MAX),
        ("length of nearly all", windows, u64::MAX - 7),
        ("length past the end", windows, good.len() as u64),
        ("security data of all", 0, u64::from(u32::MAX)),
    ];
    for (name, at, value) in cases {
        let file = with(at, &value.to_le_bytes());
        let want = if name == "to itself" { (1, 0) } else { (4, 4) };
        assert_eq!(looked(name, &file), want, "{name}");
    }
    // Two directories with one list; names and streams that are longer than the dentry.
    let mut root = small();
    root.at(r"\second\below");
    root.add(r"\second\file", b"x");
    let mut metadata = wim::metadata(&root, &[]);
    let (one, other) = (dentry(&metadata, "second"), dentry(&metadata, "WINDOWS"));
    let list = wim::get64(&metadata, one + 0x10) as u64;
    put::u64(&mut metadata, other + 0x10, list);
    assert_eq!(looked("a diamond", &with_metadata(&metadata)), (4, 4));
    for (name, at) in [("name", 0x64), ("short name", 0x62), ("streams", 0x60)] {
        for value in [0xFFFF_u16, 0xFFFE, 1, 300] {
            let file = with(windows + at, &value.to_le_bytes());
            assert_eq!(looked(name, &file), (4, 4), "{name} {value}");
        }
    }
}

#[test]
fn deep_trees_and_many_names() {
    for (depth, want) in [(2_000, (1, 0)), (20_000, (8, 8))] {
        let mut root = small();
        let bottom = put::round_up(wim::metadata(&root, &[]).len() as u64, 8);
        root.children.push(Node::directory("d"));
        let mut metadata = wim::metadata(&root, &[]);
        let at = dentry(&metadata, "d\0");
        assert!(metadata.len() as u64 > bottom);
        let start = metadata.len() as u64;
        put::u64(&mut metadata, at + 0x10, start);
        let one = wim::metadata(
            &Node {
                children: vec![Node::directory("d")],
                ..Node::directory("")
            },
            &[],
        );
        let child = dentry(&one, "d\0");
        let len = wim::get64(&one, child);
        for i in 0..depth {
            let list = metadata.len();
            metadata.extend(&one[child..child + len]);
            metadata.extend([0; 8]);
            if i + 1 < depth {
                let next = metadata.len() as u64;
                put::u64(&mut metadata, list + 0x10, next);
            }
        }
        assert_eq!(looked("deep", &with_metadata(&metadata)), want, "{depth}");
    }
    let mut root = small();
    for i in 0..30_000 {
        root.children
            .push(Node::file(&format!("{i}"), b"x").link(9));
    }
    assert_eq!(
        looked("links", &with_metadata(&wim::metadata(&root, &[]))),
        // Contents that the archive does not have are not taken out of it.
        (1, 3)
    );
}

#[test]
fn names_that_lead_elsewhere() {
    for name in ["..", ".", r"a\b", "a/b", "C:", "a\0b", "", "x"] {
        let mut root = small();
        root.put(r"\WINDOWS\sub", Node::file(name, b"sub"));
        root.put(r"\WINDOWS\sub", Node::file(name, b"sub"));
        let (scan, clean) = looked(name, &Wim::new(vec![root]).build());
        assert_eq!((scan, clean), (1, 0), "{name:?}");
    }
}

/// A compressed archive around one resource: chunk table as given.
fn chunked(method: u32, len: u64, table: &[u32], data: usize) -> Vec<u8> {
    let mut file = archive().build();
    put::u32(&mut file, 0x10, method | 2);
    put::u32(&mut file, 0x14, 32_768);
    let at = file.len() as u64;
    for entry in table {
        file.extend(entry.to_le_bytes());
    }
    file.extend(vec![0xA5; data]);
    let size = file.len() as u64 - at;
    // The hive is the first.
    let entry = wim::place(&file, 0x30).at;
    put::u64(&mut file, entry, size | 4 << 56);
    put::u64(&mut file, entry + 8, at);
    put::u64(&mut file, entry + 16, len);
    file
}

#[test]
fn chunk_tables_that_lie() {
    for method in [0x2_0000, 0x4_0000, 0x8_0000] {
        for (name, len, table, data) in [
            ("garbage", 98_304, &[300, 600][..], 900),
            ("an empty chunk", 98_304, &[0, 600], 900),
            ("decreasing", 98_304, &[600, 300], 900),
            ("beyond the end", 98_304, &[300, 6000], 900),
            (
                "longer than its contents",
                98_304,
                &[40_000, 40_300],
                41_000,
            ),
            ("2^60", 1 << 60, &[300, 600], 900),
            ("2^56 - 1", (1 << 56) - 1, &[300, 600], 900),
            ("no contents", 0, &[], 900),
            ("no chunk at all", 98_304, &[], 4),
            ("one chunk of garbage", 4096, &[], 500),
        ] {
            let (scan, clean) = looked(name, &chunked(method, len, table, data));
            // The other files are found all the same.
            assert!([1, 4, 8].contains(&scan), "{name}: {scan}");
            assert!([3, 4, 8].contains(&clean), "{name}: {clean}");
        }
    }
    // Chunk sizes that are none, and methods that are none.
    let good = chunked(0x4_0000, 98_304, &[300, 600], 900);
    for size in [0_u32, 1, 3, 4096, 1 << 22, 1 << 31, u32::MAX] {
        let mut file = good.clone();
        put::u32(&mut file, 0x14, size);
        assert_eq!(looked("chunk size", &file), (4, 4), "{size}");
    }
    let mut file = good.clone();
    put::u32(&mut file, 0x10, 0xE_0002);
    assert_eq!(looked("three methods", &file), (4, 4));
    put::u32(&mut file, 0x10, 0);
    assert_eq!(looked("no method", &file), (1, 3));
}
