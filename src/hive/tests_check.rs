//! Bad input: the rows of `facts/hive.md` section 7.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used
)]

use super::{
    Hive, HiveEdit, Probe, State, check, edit,
    format::{BASE_LEN, NIL, base, db, list, nk, sk, vk},
    probe, read_base,
    testing::*,
};
use crate::{error::Kind, text::Name};

/// A hive with one of everything, and where it is.
struct House {
    hive: Vec<u8>,
    root: u32,
    /// Subkeys of the root: A (with an ri), B (an lh), C (values).
    a: u32,
    b: u32,
    c: u32,
    ri: u32,
    leaf: u32,
    leaf_b: u32,
    key_b: u32,
    class: u32,
    values: u32,
    plain: u32,
    data: u32,
    db: u32,
    segments: u32,
    small: u32,
    descriptor: u32,
    second: u32,
}

fn house() -> House {
    let mut b = Builder::new(5, 0);
    let root = b.root;
    let descriptor = b.descriptor;
    let top = b.subkeys(root, &["A", "B", "C"]);
    let below: Vec<u32> = (0..6).map(|i| b.key(top[0], &format!("A{i}"))).collect();
    let leaves = b.adopt(top[0], b"lh", &below, 2);
    let second = b.add_descriptor(2);
    let key_b = b.subkeys(top[1], &["B0", "B1"])[0];
    let class = b.class(key_b, "Class");
    let data = [7; 100];
    let bytes = vec![9; 40_000];
    let values = b.values(
        top[2],
        &[("Plain", &data), ("Big", &bytes), ("Small", b"1")],
    );
    let hive = b.finish();
    let opened = Hive::open(&hive).unwrap();
    let found = opened.values(opened.find_keys(&["C"]).unwrap()[0]).unwrap();
    let cell_of = |i: usize| found[i].data_offset.unwrap().get() as u32 - 4 - BASE_LEN as u32;
    let (data, db) = (cell_of(0), cell_of(1));
    let (plain, small) = (found[0].cell.0, found[2].cell.0);
    let ri = get32(&hive, top[0], nk::LIST);
    let leaf_b = get32(&hive, top[1], nk::LIST);
    let segments = get32(&hive, db, db::LIST);
    House {
        root,
        a: top[0],
        b: top[1],
        c: top[2],
        ri,
        leaf: leaves[1],
        leaf_b,
        key_b,
        class,
        values,
        plain,
        data,
        db,
        segments,
        small,
        descriptor,
        second,
        hive,
    }
}

/// Changes the house, expects this kind and text, and the same answer from an edit: none.
fn refuses(kind: Kind, text: &str, change: impl FnOnce(&mut House)) {
    let mut house = house();
    let sound = check(&house.hive).unwrap();
    change(&mut house);
    let error = check(&house.hive).unwrap_err();
    let shown = error.to_string();
    assert_eq!(error.kind(), kind, "{shown}");
    assert!(shown.contains(text), "{text:?} expected in {shown:?}");
    // Whatever the damage: lookups and edits end, and do not panic.
    if let Ok(opened) = Hive::open(&house.hive) {
        for name in ["A", "B", "C"] {
            for key in opened.find_keys(&[name]).unwrap_or_default() {
                let _ = opened.subkeys(key);
                for value in opened.values(key).unwrap_or_default() {
                    let _ = opened.value_data(&value);
                }
            }
        }
    }
    let edits = [
        HiveEdit::DeleteSubkeys { key: vec![] },
        HiveEdit::DeleteValue {
            key: vec![Name::new("C")],
            value: Name::new("Big"),
        },
    ];
    let mut bytes = house.hive.clone();
    if edit(&mut bytes, &sound, &edits, &[]).is_err() {
        assert!(bytes == house.hive);
    }
}

fn malformed(text: &str, change: impl FnOnce(&mut House)) {
    refuses(Kind::Malformed, text, change);
}

fn accepts(warnings: u64, change: impl FnOnce(&mut House)) {
    let mut house = house();
    change(&mut house);
    let checked = check(&house.hive).unwrap();
    assert_eq!(
        checked.summary().warnings,
        warnings,
        "{:?}",
        checked.warnings()
    );
}

#[test]
fn a_sound_house_has_no_warnings() {
    accepts(0, |_| {});
    let summary = check(&house().hive).unwrap().summary().clone();
    assert_eq!((summary.keys, summary.values), (12, 3));
    assert_eq!((summary.leaked_cells, summary.slack_nonzero), (0, 0));
}

#[test]
fn rows_1_to_3_no_hive_or_cut_off() {
    for len in [0, 3, 4, 100, 4095] {
        malformed("hive header", |h| h.hive.truncate(len));
    }
    malformed("cut off", |h| h.hive.truncate(BASE_LEN));
    malformed("cut off", |h| h.hive.truncate(BASE_LEN + 5000));
    malformed("signature regf", |h| h.hive[0] = b'R');
    assert_eq!(probe(b""), Probe::NotAHive);
    assert_eq!(probe(b"regf"), Probe::Regf);
    assert_eq!(probe(b"CREG\0\0\x01\0"), Probe::Creg);
    let mut log = house().hive;
    assert_eq!(probe(&log), Probe::Regf);
    log[base::TYPE] = 6;
    assert_eq!(probe(&log), Probe::NotAHive);
}

#[test]
fn rows_4_to_9_headers() {
    refuses(Kind::Refused, "checksum", |h| h.hive[base::CHECKSUM] ^= 1);
    refuses(Kind::Refused, "found 8 and 7", |h| {
        put_header(&mut h.hive, base::SEQ1, 8)
    });
    for (at, value) in [
        (base::MAJOR, 2),
        (base::MINOR, 1),
        (base::MINOR, 2),
        (base::MINOR, 7),
    ] {
        refuses(Kind::Unsupported, "version", |h| {
            put_header(&mut h.hive, at, value)
        });
    }
    refuses(Kind::Unsupported, "CREG", |h| {
        h.hive[..4].copy_from_slice(b"CREG")
    });
    for value in [1, 2, 6] {
        malformed("file type", |h| put_header(&mut h.hive, base::TYPE, value));
    }
    malformed("format 1", |h| put_header(&mut h.hive, base::FORMAT, 0));
    for value in [0, 4095, 5000] {
        malformed("length of bins", |h| {
            put_header(&mut h.hive, base::BINS_LEN, value)
        });
    }
    for value in [0xFFFF_F000, 0x0100_0000] {
        malformed("cut off", |h| {
            put_header(&mut h.hive, base::BINS_LEN, value)
        });
    }
    accepts(1, |h| put_header(&mut h.hive, base::CLUSTERING, 2));
    let mut hive = house().hive;
    put_header(&mut hive, base::SEQ1, 8);
    let dirty = State::Dirty {
        primary: 8,
        secondary: 7,
    };
    assert_eq!(read_base(&hive).unwrap().1, dirty);
    assert_eq!(
        Hive::open(&hive).unwrap().find_keys(&["c"]).unwrap().len(),
        1
    );
}

#[test]
fn row_10_root() {
    for value in [NIL, 0x21, 0, 0xFFF0, 0x28] {
        malformed("cell", |h| put_header(&mut h.hive, base::ROOT, value));
    }
    malformed("signature nk", |h| {
        let plain = h.plain;
        put_header(&mut h.hive, base::ROOT, plain);
    });
    malformed("signature nk", |h| {
        let data = h.data;
        put_header(&mut h.hive, base::ROOT, data);
    });
}

#[test]
fn rows_11_to_13_and_30_bins_and_cells() {
    malformed("signature hbin", |h| h.hive[BASE_LEN] = b'x');
    malformed("own offset", |h| h.hive[BASE_LEN + 4] = 8);
    for size in [0u32, 4095, 0x1001, 0x7FFF_F000, 0xFFFF_F000] {
        malformed("hbin: size", |h| {
            h.hive[BASE_LEN + 8..BASE_LEN + 12].copy_from_slice(&size.to_le_bytes());
        });
    }
    for size in [0, -4, 4, -12, 8192, -8192, i32::MIN, i32::MAX] {
        malformed("cell: size", |h| put_size(&mut h.hive, h.a, size));
    }
    malformed("free cell", |h| {
        let now = size(&h.hive, h.key_b);
        put_size(&mut h.hive, h.key_b, -now);
    });
}

#[test]
fn row_14_and_25_keys() {
    malformed("a name expected", |h| {
        put16(&mut h.hive, h.a, nk::NAME_LEN, 0)
    });
    malformed("bytes expected at +0x4c", |h| {
        put16(&mut h.hive, h.a, nk::NAME_LEN, 0xFFFF);
    });
    malformed("signature nk", |h| put16(&mut h.hive, h.a, 0, 0x4141));
    malformed("parent at", |h| {
        let a = h.a;
        put32(&mut h.hive, h.key_b, nk::PARENT, a);
    });
    malformed("backslash", |h| put16(&mut h.hive, h.a, nk::NAME, 0x5C));
    malformed("half a unit", |h| put16(&mut h.hive, h.a, nk::FLAGS, 0));
    malformed("class name", |h| {
        put16(&mut h.hive, h.key_b, nk::CLASS_LEN, 0xFFF0)
    });
    malformed("class name", |h| {
        put32(&mut h.hive, h.key_b, nk::CLASS, NIL)
    });
    malformed("key \\B\\B0", |h| {
        put32(&mut h.hive, h.key_b, nk::CLASS, 0x24)
    });
}

#[test]
fn row_15_counts() {
    for count in [4, 7, 0xFFFF_FFFF] {
        malformed("subkey list", |h| {
            put32(&mut h.hive, h.a, nk::SUBKEYS, count)
        });
    }
    malformed("entries expected", |h| {
        put16(&mut h.hive, h.leaf_b, list::COUNT, 0)
    });
    malformed("subkey list", |h| {
        put16(&mut h.hive, h.leaf_b, list::COUNT, 0xFFFF)
    });
    malformed("signature lf, lh, li or ri", |h| {
        put16(&mut h.hive, h.leaf_b, 0, 0)
    });
    malformed("cell expected", |h| put32(&mut h.hive, h.b, nk::LIST, NIL));
}

#[test]
fn rows_16_17_27_owners_and_loops() {
    let owner = "another owner";
    malformed(owner, |h| {
        let first = get32(&h.hive, h.leaf_b, slot(0));
        put32(&mut h.hive, h.leaf_b, slot(1), first);
    });
    malformed(owner, |h| {
        let list = h.leaf_b;
        put32(&mut h.hive, h.c, nk::LIST, list);
        put32(&mut h.hive, h.c, nk::SUBKEYS, 2);
    });
    malformed(owner, |h| {
        let leaf = h.leaf;
        put32(&mut h.hive, h.ri, list::ENTRIES, leaf);
    });
    for pick in [|h: &House| h.root, |h: &House| h.b] {
        malformed(owner, |h| {
            let target = pick(h);
            put32(&mut h.hive, h.leaf_b, slot(0), target);
        });
    }
    // Forty levels, both entries the same child.
    let mut b = Builder::new(5, 0);
    let mut parent = b.root;
    for _ in 0..40 {
        let child = b.key(parent, "X");
        b.adopt(parent, b"li", &[child, child], 500);
        parent = child;
    }
    let hive = b.finish();
    assert!(check(&hive).unwrap_err().to_string().contains(owner));
    let path = ["x"; 40];
    assert_eq!(
        Hive::open(&hive).unwrap().find_keys(&path).unwrap().len(),
        1
    );
}

#[test]
fn row_18_lists_of_lists() {
    malformed("another owner", |h| {
        let ri = h.ri;
        put32(&mut h.hive, h.ri, list::ENTRIES, ri);
    });
    malformed("below ri expected", |h| {
        put16(&mut h.hive, h.leaf, 0, 0x6972)
    });
    malformed("subkey list", |h| {
        put16(&mut h.hive, h.ri, list::COUNT, 0xFFFF)
    });
}

#[test]
fn row_20_value_lists() {
    for count in [4, 0xFFFF_FFFF] {
        malformed("value", |h| put32(&mut h.hive, h.c, nk::VALUES, count));
    }
    for cell in [NIL, 0x7FFF_FFF8] {
        malformed("value list", |h| {
            put32(&mut h.hive, h.c, nk::VALUE_LIST, cell)
        });
    }
    malformed("another owner", |h| {
        let values = h.values;
        put32(&mut h.hive, h.b, nk::VALUE_LIST, values);
        put32(&mut h.hive, h.b, nk::VALUES, 3);
    });
}

#[test]
fn row_21_values() {
    malformed("signature vk", |h| put16(&mut h.hive, h.plain, 0, 0));
    malformed("value", |h| {
        put16(&mut h.hive, h.plain, vk::NAME_LEN, 0xFFFF)
    });
    malformed("big data", |h| {
        put32(&mut h.hive, h.plain, vk::DATA_LEN, 0x7FFF_FFFF)
    });
    malformed("at most 4 bytes", |h| {
        put32(&mut h.hive, h.small, vk::DATA_LEN, 0x8000_0005)
    });
    malformed("value data", |h| put32(&mut h.hive, h.plain, vk::DATA, NIL));
    malformed("another owner", |h| {
        let own = h.plain;
        put32(&mut h.hive, h.plain, vk::DATA, own);
    });
    malformed("no data cell", |h| {
        put32(&mut h.hive, h.plain, vk::DATA_LEN, 0)
    });
    malformed("half a unit", |h| put16(&mut h.hive, h.plain, vk::FLAGS, 0));
    accepts(1, |h| put32(&mut h.hive, h.c, nk::MAX_VALUE_DATA, 3));
}

#[test]
fn rows_22_23_big_data() {
    for count in [0, 1, 0xFFFF] {
        malformed("segments", |h| put16(&mut h.hive, h.db, db::COUNT, count));
    }
    malformed("another owner", |h| {
        let own = h.db;
        put32(&mut h.hive, h.db, db::LIST, own);
    });
    for cell in [0x7FFF_FFF8, NIL] {
        malformed("segment", |h| put32(&mut h.hive, h.segments, 4, cell));
    }
    malformed("segment", |h| {
        let cell = h.class;
        put32(&mut h.hive, h.segments, 4, cell);
    });
    malformed("signature db", |h| put16(&mut h.hive, h.db, 0, 0));
    // What hivex writes: one plain cell in a hive that has big data.
    let mut b = Builder::new(3, 0);
    let key = b.subkeys(b.root, &["Neighbour"])[0];
    b.values(key, &[("Plain", &[5; 16_345])]);
    let mut hive = b.finish();
    check(&hive).unwrap();
    put_header(&mut hive, base::MINOR, 5);
    let error = check(&hive).unwrap_err().to_string();
    assert!(
        error.contains("big data") && error.contains("key \\Neighbour"),
        "{error}"
    );
    let opened = Hive::open(&hive).unwrap();
    let values = opened
        .values(opened.find_keys(&["neighbour"]).unwrap()[0])
        .unwrap();
    assert_eq!(opened.value_data(&values[0]).unwrap().len(), 16_345);
}

#[test]
fn row_24_descriptors() {
    let what = "security descriptor";
    malformed(what, |h| put32(&mut h.hive, h.key_b, nk::SECURITY, NIL));
    malformed(what, |h| {
        let plain = h.plain;
        put32(&mut h.hive, h.key_b, nk::SECURITY, plain);
    });
    malformed("another owner", |h| {
        let own = h.second;
        put32(&mut h.hive, h.second, sk::FLINK, own);
    });
    malformed(what, |h| {
        put32(&mut h.hive, h.second, sk::FLINK, 0x7FFF_FFF8)
    });
    malformed("link back", |h| {
        put32(&mut h.hive, h.second, sk::BLINK, 0x20)
    });
    malformed("link back", |h| {
        put32(&mut h.hive, h.descriptor, sk::BLINK, 0x20)
    });
    malformed(what, |h| put32(&mut h.hive, h.second, sk::LEN, 0xFFFF));
    malformed("signature sk", |h| put16(&mut h.hive, h.second, 0, 0));
    for count in [0, 0xFFFF_FFFF] {
        accepts(1, |h| put32(&mut h.hive, h.second, sk::COUNT, count));
    }
    accepts(1, |h| put16(&mut h.hive, h.second, sk::DESCRIPTOR, 2));
}

#[test]
fn row_19_and_stale_things_are_warnings_or_nothing() {
    accepts(1, |h| {
        let hash = get32(&h.hive, h.leaf_b, slot(0) + 4);
        put32(&mut h.hive, h.leaf_b, slot(0) + 4, hash + 1);
    });
    // Unsorted: entries swapped.
    accepts(1, |h| {
        for at in [0, 4] {
            let (x, y) = (slot(0) + at, slot(1) + at);
            let (first, second) = (get32(&h.hive, h.leaf_b, x), get32(&h.hive, h.leaf_b, y));
            put32(&mut h.hive, h.leaf_b, x, second);
            put32(&mut h.hive, h.leaf_b, y, first);
        }
    });
    accepts(0, |h| put32(&mut h.hive, h.a, nk::VOLATILE, 9));
    accepts(0, |h| put32(&mut h.hive, h.a, 32, 0x1234));
    accepts(0, |h| put32(&mut h.hive, h.a, nk::VALUE_LIST, 0x4321));
    accepts(0, |h| put32(&mut h.hive, h.c, nk::LIST, 0x4321));
    accepts(0, |h| put16(&mut h.hive, h.c, nk::MAX_NAME, 0x4321));
    accepts(0, |h| put16(&mut h.hive, h.root, nk::FLAGS, 0x20));
    accepts(0, |h| put16(&mut h.hive, h.data, 98, 1));
    // Row 28: a predefined handle stands where the count of values would.
    accepts(0, |h| {
        put16(&mut h.hive, h.b, nk::FLAGS, 0x60);
        put32(&mut h.hive, h.b, nk::VALUES, 0x8000_0001);
    });
}

#[test]
fn leaked_cells_are_told() {
    let mut b = Builder::new(5, 0);
    b.subkeys(b.root, &["A"]);
    b.alloc(&[1; 20]);
    let checked = check(&b.finish()).unwrap();
    assert_eq!(checked.summary().leaked_cells, 1);
    assert_eq!(checked.summary().leaked_bytes, 24);
    assert_eq!(checked.warnings().len(), 1);
}

#[test]
fn every_single_byte_may_be_wrong() {
    let house = house();
    let edits = [
        HiveEdit::DeleteSubkeys {
            key: vec![Name::new("A")],
        },
        HiveEdit::DeleteValue {
            key: vec![Name::new("C")],
            value: Name::new("Big"),
        },
    ];
    let interesting: Vec<usize> = (0..512)
        .chain(BASE_LEN..BASE_LEN + 4096)
        .chain((BASE_LEN + 4096..house.hive.len()).step_by(509))
        .collect();
    for at in interesting {
        for flip in [0x01, 0x80, 0xFF] {
            let mut hive = house.hive.clone();
            hive[at] ^= flip;
            if at < base::CHECKSUM {
                fix_checksum(&mut hive);
            }
            if let Ok(opened) = Hive::open(&hive) {
                for key in opened.find_keys(&["C"]).unwrap_or_default() {
                    for value in opened.values(key).unwrap_or_default() {
                        let _ = opened.value_data(&value);
                    }
                }
            }
            let Ok(before) = check(&hive) else { continue };
            let old = hive.clone();
            match edit(&mut hive, &before, &edits, &[]) {
                Err(_) => assert!(hive == old, "byte {at:#x}"),
                Ok(outcome) => {
                    let after = check(&hive).unwrap();
                    assert_eq!(
                        before.summary().digest.wrapping_sub(outcome.removed_digest),
                        after.summary().digest,
                        "byte {at:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn lookups_step_over_what_leads_nowhere_and_say_so() {
    let mut h = house();
    put32(&mut h.hive, h.leaf_b, slot(1), 0x7FFF_FFF8);
    put32(&mut h.hive, h.ri, list::ENTRIES, h.ri);
    put32(&mut h.hive, h.values, 0, 0x21);
    let opened = Hive::open(&h.hive).unwrap();
    assert_eq!(opened.find_keys(&["b", "b0"]).unwrap().len(), 1);
    assert_eq!(opened.skipped(), 1);
    assert_eq!(opened.find_keys(&["a", "a5"]).unwrap().len(), 1);
    assert_eq!(opened.skipped(), 2);
    let key = opened.find_keys(&["c"]).unwrap()[0];
    assert_eq!(opened.values(key).unwrap().len(), 2);
    assert_eq!(opened.skipped(), 3);
    assert_eq!(opened.name(key).unwrap(), Name::new("C"));
    assert_eq!(opened.offset(key).get(), u64::from(h.c) + 4096);
}
