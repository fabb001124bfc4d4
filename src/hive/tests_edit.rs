//! Deleting: the cases of `facts/hive.md` section 8.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used
)]

use super::{
    Hive, HiveEdit, check, edit,
    format::{BASE_LEN, NIL, base, nk, sk},
    testing::*,
};
use crate::{error::Kind, text::Name};

const GUID: &str = "GUID:1b4f8c1e-6f0a-4d8e-9f0e-0123456789ab";
const SMS: &str = "SMS Unique Identifier";

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn names(hive: &[u8], key: &str) -> Vec<String> {
    let hive = Hive::open(hive).unwrap();
    let key = hive.find_names(&path(key)).unwrap()[0];
    hive.values(key)
        .unwrap()
        .iter()
        .map(|v| v.name.to_string())
        .collect()
}

fn children(hive: &[u8], key: &str) -> Vec<String> {
    let hive = Hive::open(hive).unwrap();
    let key = hive.find_names(&path(key)).unwrap()[0];
    let subkeys = hive.subkeys(key).unwrap();
    subkeys.iter().map(|(_, name)| name.to_string()).collect()
}

fn with_values(minor: u32, values: &[(&str, &[u8])]) -> (Vec<u8>, u32, u32) {
    let mut b = Builder::new(minor, 0);
    let sms = b.subkeys(b.root, &["SMS"])[0];
    let list = b.values(sms, values);
    (b.finish(), sms, list)
}

#[test]
fn a_value_goes_from_every_place_of_its_list() {
    for minor in [3, 5, 6] {
        for place in 0..3 {
            let guid = wide(GUID);
            let mut values: Vec<(&str, &[u8])> =
                vec![("Alpha", b"12345678"), ("Omega", b"x"), ("", b"default")];
            values.insert(place, (SMS, &guid));
            let (hive, _, _) = with_values(minor, &values);
            let (new, outcome, _) = run(&hive, &[del_value("sms", "sms unique identifier")]);
            assert_eq!((outcome.values, outcome.keys), (1, 0));
            assert_eq!(names(&new, "SMS"), ["Alpha", "Omega", ""]);
            assert_eq!(hits(&new, GUID) + hits(&new, SMS), 0);
        }
    }
}

#[test]
fn the_only_value_takes_list_and_maxima_along() {
    let guid = wide(GUID);
    let (hive, sms, list) = with_values(5, &[(SMS, &guid)]);
    let (new, _, _) = run(&hive, &[del_value("SMS", SMS)]);
    assert_eq!(get32(&new, sms, nk::VALUES), 0);
    assert_eq!(get32(&new, sms, nk::VALUE_LIST), NIL);
    assert_eq!(get32(&new, sms, nk::MAX_VALUE_NAME), 0);
    assert_eq!(get32(&new, sms, nk::MAX_VALUE_DATA), 0);
    assert!(size(&hive, list) < 0);
    assert_eq!(size(&new, list), 0, "merged into the free cell before it");
}

#[test]
fn case_twins_go_together_and_neighbours_stay() {
    let (hive, _, _) = with_values(
        5,
        &[
            ("ärger", b"12345"),
            (SMS, b"first"),
            ("", b"default value"),
            ("sms UNIQUE identifier", b"second"),
            ("日本", b"wide"),
        ],
    );
    let (new, outcome, _) = run(&hive, &[del_value("SMS", SMS)]);
    assert_eq!(outcome.values, 2);
    assert_eq!(names(&new, "SMS"), ["ärger", "", "日本"]);
    let (new, _, _) = run(&new, &[del_value("SMS", "ÄRGER"), del_value("SMS", "日本")]);
    assert_eq!(names(&new, "SMS"), [""]);
    let (new, _, _) = run(&new, &[del_value("SMS", "")]);
    assert_eq!(names(&new, "SMS").len(), 0);
}

#[test]
fn data_of_every_size_goes() {
    for minor in [3, 5] {
        for len in [0, 1, 4, 5, 16_344, 16_345, 32_688, 40_000, 1 << 20] {
            let data = vec![0xA7; len];
            let big = vec![0x5C; 50_000];
            let (hive, _, _) = with_values(minor, &[("Big", &big), (SMS, &data), ("Small", b"1")]);
            let opened = Hive::open(&hive).unwrap();
            let key = opened.find_keys(&["sms"]).unwrap()[0];
            let values = opened.values(key).unwrap();
            assert_eq!(opened.value_data(&values[1]).unwrap(), data);
            assert_eq!(opened.value_data(&values[0]).unwrap(), big);
            let (new, _, _) = run(&hive, &[del_value("SMS", SMS)]);
            assert!(!new[BASE_LEN..].windows(4).any(|w| w == [0xA7; 4]));
            let opened = Hive::open(&new).unwrap();
            let values = opened.values(key).unwrap();
            assert_eq!(opened.value_data(&values[0]).unwrap(), big);
        }
    }
}

fn with_children(minor: u32, kind: &[u8; 2], count: usize, split: usize) -> Vec<u8> {
    let mut b = Builder::new(minor, 0);
    let above = b.subkeys(b.root, &["AbExprtDB", "Other"]);
    let children: Vec<u32> = (0..count)
        .map(|i| {
            let key = b.key(above[0], &format!("Host{i:05}"));
            if i % 3 == 0 {
                b.class(key, "Klasse");
                b.values(key, &[("Blob", &[0xB1; 40]), ("Flag", &[1])]);
            }
            key
        })
        .collect();
    b.adopt(above[0], kind, &children, split);
    b.finish()
}

#[test]
fn all_children_of_every_kind_of_list_go() {
    for (minor, kind, split) in [
        (3, b"lf", 511),
        (3, b"li", 1012),
        (5, b"lh", 1012),
        (5, b"lf", 511),
        (5, b"lh", 100),
        (6, b"li", 1),
    ] {
        for count in [0, 1, 2, 511, 512, 1012, 1013, 2100] {
            let hive = with_children(minor, kind, count, split);
            let (new, outcome, _) = run(&hive, &[del_subkeys("ABEXPRTDB")]);
            assert_eq!(outcome.keys, count as u64);
            assert_eq!(children(&new, "").len(), 2);
            assert_eq!(hits(&new, "Host0"), 0);
            assert_eq!(hits(&new, "Klasse"), 0);
        }
    }
}

#[test]
fn what_is_not_there_changes_nothing() {
    let mut hive = with_children(5, b"lh", 3, 500);
    let len = hive.len();
    hive[len - 1] = 7;
    for edits in [
        vec![],
        vec![del_subkeys("NAL\\Client\\AbExprtDB")],
        vec![del_subkeys("Other"), del_value("Other", SMS)],
        vec![del_value("AbExprtDB\\Host00000", SMS), del_key("AbExprtD")],
        vec![del_subkeys("AbExprtDB\\Host00000")],
    ] {
        let (new, outcome, _) = run(&hive, &edits);
        assert!(new == hive && outcome.changed.is_empty());
    }
}

#[test]
fn leaves_of_an_ri_empty_one_by_one() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut hive = with_children(5, b"lh", 6, 2);
        let parent = Hive::open(&hive)
            .unwrap()
            .find_keys(&["AbExprtDB"])
            .unwrap()[0];
        for (round, leaf) in order.into_iter().enumerate() {
            let first = format!("AbExprtDB\\Host{:05}", 2 * leaf);
            let second = format!("AbExprtDB\\Host{:05}", 2 * leaf + 1);
            hive = run(&hive, &[del_key(&first)]).0;
            hive = run(&hive, &[del_key(&second)]).0;
            assert_eq!(children(&hive, "AbExprtDB").len(), 4 - 2 * round);
        }
        let cell = parent.cell().get();
        assert_eq!(get32(&hive, cell, nk::LIST), NIL);
        assert_eq!(get32(&hive, cell, nk::MAX_NAME), 0);
        assert_eq!(get32(&hive, cell, nk::MAX_CLASS), 0);
    }
}

#[test]
fn slots_of_deleted_names_are_zero() {
    for (minor, kind) in [(3, b"lf"), (5, b"lh")] {
        let hive = with_children(minor, kind, 5, 500);
        let opened = Hive::open(&hive).unwrap();
        let parent = opened.find_keys(&["AbExprtDB"]).unwrap()[0];
        let leaf = get32(&hive, parent.cell().get(), nk::LIST);
        let (new, _, _) = run(
            &hive,
            &[
                del_key("AbExprtDB\\Host00001"),
                del_key("AbExprtDB\\Host00004"),
            ],
        );
        assert_eq!(size(&new, leaf), size(&hive, leaf), "a leaf is not shrunk");
        assert_eq!(get32(&new, leaf, slot(1)), get32(&hive, leaf, slot(2)));
        assert_eq!(
            get32(&new, leaf, slot(1) + 4),
            get32(&hive, leaf, slot(2) + 4)
        );
        for i in 3..5 {
            assert_eq!(get32(&new, leaf, slot(i)), 0);
            assert_eq!(get32(&new, leaf, slot(i) + 4), 0);
        }
    }
}

fn chain(depth: usize) -> Vec<u8> {
    let mut b = Builder::new(5, 0);
    let mut parent = b.root;
    for _ in 0..depth {
        parent = b.subkeys(parent, &["D"])[0];
    }
    b.finish()
}

#[test]
fn deep_trees_go_without_recursion() {
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(|| {
            let (new, outcome, after) = run(&chain(511), &[del_subkeys("D")]);
            assert_eq!(outcome.keys, 510);
            assert_eq!(after.summary().max_depth, 1);
            assert_eq!(children(&new, "D").len(), 0);
            assert!(check(&chain(512)).is_ok());
            for depth in [513, 600, 20_000] {
                let error = check(&chain(depth)).unwrap_err();
                assert_eq!(error.kind(), Kind::Limit, "{depth}");
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn descriptors_are_counted_down_and_leave_the_ring() {
    // Ring: root's, A, B, C, D; doomed keys use some of them alone.
    for doomed in [
        [0].as_slice(),
        &[3],
        &[1],
        &[0, 1],
        &[1, 2, 3],
        &[0, 1, 2, 3],
        &[0, 2],
    ] {
        let mut b = Builder::new(5, 0);
        let above = b.subkeys(b.root, &["Keep", "Lose"]);
        let descriptors: Vec<u32> = (0..4).map(|i| b.add_descriptor(i + 10)).collect();
        let (mut keep, mut lose) = (Vec::new(), Vec::new());
        for (i, descriptor) in descriptors.iter().enumerate() {
            b.descriptor = *descriptor;
            lose.push(b.key(above[1], &format!("L{i}")));
            if !doomed.contains(&i) {
                keep.push(b.key(above[0], &format!("K{i}")));
            }
        }
        b.adopt(above[0], b"lh", &keep, 500);
        b.adopt(above[1], b"lh", &lose, 500);
        let hive = b.finish();
        let (new, _, after) = run(&hive, &[del_subkeys("Lose")]);
        assert_eq!(after.warnings().len(), 0);
        assert_eq!(after.descriptors.len(), 5 - doomed.len());
        for (i, cell) in descriptors.iter().enumerate() {
            if doomed.contains(&i) {
                assert!(size(&new, *cell) >= 0);
            } else {
                assert_eq!(get32(&new, *cell, sk::COUNT), 1);
            }
        }
    }
}

#[test]
fn a_wrong_count_of_users_is_never_wrapped() {
    for stored in [0u32, 1, u32::MAX] {
        let mut hive = with_children(5, b"lh", 4, 500);
        let cell = check(&hive).unwrap().descriptors[0].cell;
        put32(&mut hive, cell, sk::COUNT, stored);
        let (new, outcome, after) = run(&hive, &[del_subkeys("AbExprtDB")]);
        assert_eq!(get32(&new, cell, sk::COUNT), stored.saturating_sub(4));
        assert_eq!(after.summary().keys, 3);
        assert_eq!(outcome.notes.len(), 1);
    }
}

#[test]
fn freed_cells_merge_with_both_neighbours_but_not_across_bins() {
    let mut b = Builder::new(5, 0);
    let keys = b.subkeys(b.root, &["SMS"]);
    let guid = wide(GUID);
    let before = b.alloc(&[0x11; 28]);
    let value = b.value(SMS, &[1]);
    let after = b.alloc(&[0x22; 28]);
    let fence = b.value("Fence", &guid);
    let mut list = value.to_le_bytes().to_vec();
    list.extend(fence.to_le_bytes());
    let list = b.alloc(&list);
    b.set_dword(keys[0], nk::VALUES, 2);
    b.set_dword(keys[0], nk::VALUE_LIST, list);
    b.set_dword(keys[0], nk::MAX_VALUE_NAME, 100);
    b.set_dword(keys[0], nk::MAX_VALUE_DATA, 200);
    b.release(before);
    b.release(after);
    let hive = b.finish();
    let (new, outcome, _) = run(&hive, &[del_value("SMS", SMS)]);
    let merged = size(&hive, before) - size(&hive, value) + size(&hive, after);
    assert_eq!(size(&new, before), merged);
    assert_eq!((size(&new, value), size(&new, after)), (0, 0));
    assert_eq!(outcome.wiped.free_bytes, 56);

    // Two neighbouring bins, each filled by one freed cell.
    let mut b = Builder::new(3, 0);
    let sms = b.subkeys(b.root, &["SMS"])[0];
    let data = [0xEE; 4096 - 32 - 4];
    b.values(sms, &[("One", &data), ("Two", &data)]);
    let hive = b.finish();
    let (new, _, after) = run(&hive, &[del_value("SMS", "one"), del_value("SMS", "two")]);
    assert!(!new.windows(8).any(|w| w == [0xEE; 8]));
    assert_eq!(size(&new, 4096 + 32), 4096 - 32);
    assert_eq!(size(&new, 8192 + 32), 4096 - 32);
    assert_eq!(after.summary().bins, check(&hive).unwrap().summary().bins);
}

#[test]
fn the_end_of_a_value_list_is_freed_by_the_rules_of_the_version() {
    // Eleven slots make a cell of 48 bytes.
    for (minor, doomed, new_size) in [(5, 1, -48), (5, 2, -40), (3, 2, -48), (3, 4, -32)] {
        let names: Vec<String> = (0..11).map(|i| format!("V{i:02}")).collect();
        let values: Vec<(&str, &[u8])> = names
            .iter()
            .map(|n| (n.as_str(), b"x".as_slice()))
            .collect();
        let (hive, _, list) = with_values(minor, &values);
        assert_eq!(size(&hive, list), -48);
        let edits: Vec<HiveEdit> = names[..doomed]
            .iter()
            .map(|n| del_value("SMS", n))
            .collect();
        let (new, _, _) = run(&hive, &edits);
        assert_eq!(size(&new, list), new_size, "1.{minor} minus {doomed}");
    }
    let names: Vec<String> = (0..5000).map(|i| format!("V{i:04}")).collect();
    let values: Vec<(&str, &[u8])> = names
        .iter()
        .map(|n| (n.as_str(), b"x".as_slice()))
        .collect();
    let (hive, _, list) = with_values(5, &values);
    let edits: Vec<HiveEdit> = names[..100].iter().map(|n| del_value("SMS", n)).collect();
    let (new, _, _) = run(&hive, &edits);
    assert_eq!(
        size(&new, list),
        size(&hive, list),
        "above 16 KiB nothing is shrunk"
    );
}

#[test]
fn planted_copies_are_gone_wherever_they_are() {
    let guid = wide(GUID);
    let mut b = Builder::new(5, 0);
    let keys = b.subkeys(b.root, &["Other", "SMS"]);
    let free = b.alloc(&guid);
    let leaked = b.alloc(&guid);
    let innocent = b.alloc(&[0x33; 20]);
    let mut padded = vec![0; 200];
    padded[100..100 + guid.len()].copy_from_slice(&guid);
    let big = vec![0x44; 16_344 + 97];
    let list = b.values_with_room(keys[0], &[("Padded", &padded), ("Big", &big)], 20);
    b.values(keys[1], &[(SMS, &guid)]);
    b.release(free);
    let mut hive = b.finish();
    // Slack: of the value's data, of the value list, of the last segment, of the subkey list.
    let opened = Hive::open(&hive).unwrap();
    let values = opened
        .values(opened.find_keys(&["other"]).unwrap()[0])
        .unwrap();
    let vk = values[0].cell.get();
    let db = values[1].data_offset.unwrap().get() as u32 - 4 - BASE_LEN as u32;
    put32(&mut hive, vk, 4, 100);
    let segments = get32(&hive, db, 4);
    let last = get32(&hive, segments, 4);
    put32(&mut hive, vk, 4, 100);
    let at = |cell: u32, at: usize| BASE_LEN + cell as usize + 4 + at;
    hive[at(list, 8)..at(list, 8) + 70].copy_from_slice(&guid[..70]);
    hive[at(last, 97)] = 0x47;
    hive.extend(&guid);
    let before = hits(&hive, GUID);
    let tokens = [guid.clone(), GUID.as_bytes().to_vec()];
    let (new, outcome, after) = run_tokens(&hive, &[del_value("SMS", SMS)], &tokens);
    assert!(before >= 5, "{before}");
    assert_eq!(hits(&new, GUID), 0);
    assert_eq!(hits(&new, "1b4f8c1e"), 0);
    assert_eq!(after.leaked, [innocent]);
    assert_eq!(outcome.notes.len(), 2);
    let nonzero = guid.iter().filter(|b| **b != 0).count() as u64;
    assert_eq!(outcome.wiped.leaked_bytes, nonzero);
    assert_eq!(outcome.wiped.tail_bytes, nonzero);
    assert_eq!(outcome.wiped.free_bytes, nonzero);
    assert!(size(&new, leaked) >= 0);
}

#[test]
fn flags_beside_the_longest_name_stay() {
    for volatile in [0u32, 3] {
        let mut hive = with_children(5, b"lh", 4, 500);
        let opened = Hive::open(&hive).unwrap();
        let parent = opened.find_keys(&["AbExprtDB"]).unwrap()[0].cell().get();
        let longest = get32(&hive, parent, nk::MAX_NAME);
        put32(&mut hive, parent, nk::MAX_NAME, 0x00A5_0000 | longest);
        put32(&mut hive, parent, nk::VOLATILE, volatile);
        let (new, _, _) = run(&hive, &[del_subkeys("AbExprtDB")]);
        let want = if volatile == 0 { 0 } else { longest };
        assert_eq!(get32(&new, parent, nk::MAX_NAME), 0x00A5_0000 | want);
        assert_eq!(get32(&new, parent, nk::MAX_CLASS) == 0, volatile == 0);
        assert_eq!(get32(&new, parent, nk::VOLATILE), volatile);
        assert_eq!(get32(&new, parent, nk::LIST), NIL);
    }
}

#[test]
fn stale_bytes_alone_are_no_reason_to_write() {
    let guid = wide(GUID);
    let mut b = Builder::new(5, 0);
    b.subkeys(b.root, &["SMS"]);
    let free = b.alloc(&guid);
    b.release(free);
    let hive = b.finish();
    assert_ne!(check(&hive).unwrap().summary().free_nonzero, 0);
    let (new, _, _) = run_tokens(&hive, &[del_value("SMS", SMS)], &[guid]);
    assert!(new == hive);
}

#[test]
fn the_root_may_be_anywhere() {
    let guid = wide(GUID);
    let mut b = Builder::new(5, 2000);
    let sms = b.subkeys(b.root, &["SMS"])[0];
    b.values(sms, &[(SMS, &guid)]);
    let root = b.root;
    let hive = b.finish();
    assert_ne!(root, 0x20);
    let (new, _, _) = run(&hive, &[del_value("SMS", SMS)]);
    assert_eq!(hits(&new, GUID), 0);
    let (_, outcome, _) = run(&hive, &[del_subkeys("")]);
    assert_eq!((outcome.keys, outcome.values), (1, 1));
}

#[test]
fn checksums_that_are_never_stored_are_met_before_and_after() {
    let hive = with_children(5, b"lh", 2, 500);
    for (target, stored) in [(0u32, 1), (u32::MAX, u32::MAX - 1)] {
        let mut hive = hive.clone();
        hive[112..116].fill(0);
        let mut sum = hive[..508]
            .as_chunks::<4>()
            .0
            .iter()
            .fold(0, |sum, dword| sum ^ u32::from_le_bytes(*dword));
        sum ^= target;
        put_header(&mut hive, 112, sum);
        assert_eq!(hive[508..512], u32::to_le_bytes(stored));
        let (new, _, _) = run(&hive, &[del_subkeys("AbExprtDB")]);
        assert_eq!(new[508..512], u32::to_le_bytes(stored));
    }
}

#[test]
fn sequence_numbers_wrap() {
    let mut hive = with_children(5, b"lh", 2, 500);
    put_header(&mut hive, base::SEQ1, u32::MAX);
    put_header(&mut hive, base::SEQ2, u32::MAX);
    let (new, _, _) = run(&hive, &[del_subkeys("AbExprtDB")]);
    assert_eq!(new[base::SEQ1..base::SEQ1 + 4], [0; 4]);
}

#[test]
fn long_and_odd_names_go_too() {
    let mut b = Builder::new(5, 0);
    let root = b.root;
    let long: Vec<u16> = std::iter::repeat_n(0x4E00, 255).collect();
    let mut keys = vec![b.raw_key(root, &[u16::from(b'L'); 255], true)];
    keys.push(b.raw_key(root, &long, false));
    keys.push(b.raw_key(root, &[0xD800, 0x41], false));
    keys.push(b.raw_key(root, &[0xD83D, 0xDE00], false));
    b.adopt(root, b"lh", &keys, 500);
    let hive = b.finish();
    let edits = [
        HiveEdit::DeleteKey {
            key: vec![Name(long)],
        },
        HiveEdit::DeleteKey {
            key: vec![Name(vec![0xD800, 0x61])],
        },
    ];
    let (new, outcome, _) = run(&hive, &edits);
    assert_eq!(outcome.keys, 2);
    assert_eq!(children(&new, "").len(), 2);
}

#[test]
fn protected_linked_and_predefined_keys_go_and_are_told() {
    let mut b = Builder::new(5, 0);
    let above = b.subkeys(b.root, &["AbExprtDB"])[0];
    let keys = b.subkeys(above, &["Guarded", "Handle", "Link"]);
    b.set16(keys[0], nk::FLAGS, 0x28);
    b.set16(keys[1], nk::FLAGS, 0x60);
    b.set_dword(keys[1], nk::VALUES, 0x8000_0002);
    b.set16(keys[2], nk::FLAGS, 0x30);
    b.values(keys[2], &[("SymbolicLinkValue", b"target")]);
    let (_, outcome, _) = run(&b.finish(), &[del_subkeys("AbExprtDB")]);
    assert_eq!((outcome.keys, outcome.values), (3, 1));
    assert_eq!(outcome.notes.len(), 3);
    assert!(
        outcome
            .notes
            .iter()
            .any(|n| n.ends_with("\\AbExprtDB\\Guarded"))
    );
}

#[test]
fn edits_that_overlap_are_done_once() {
    let hive = with_children(5, b"lh", 7, 3);
    let (_, outcome, _) = run(
        &hive,
        &[
            del_value("AbExprtDB\\Host00003", "blob"),
            del_key("AbExprtDB\\Host00003"),
            del_subkeys("AbExprtDB"),
            del_key("AbExprtDB"),
            del_subkeys("AbExprtDB"),
            del_value("AbExprtDB\\Host00006", "flag"),
        ],
    );
    assert_eq!((outcome.keys, outcome.values), (8, 6));
}

#[test]
fn a_damaged_list_is_only_edited_elsewhere() {
    let mut hive = with_children(5, b"lh", 4, 500);
    let opened = Hive::open(&hive).unwrap();
    let parent = opened.find_keys(&["AbExprtDB"]).unwrap()[0].cell().get();
    let leaf = get32(&hive, parent, nk::LIST);
    let hash = get32(&hive, leaf, slot(2) + 4);
    put32(&mut hive, leaf, slot(2) + 4, hash ^ 1);
    let checked = check(&hive).unwrap();
    assert_eq!(checked.warnings().len(), 1);
    let mut new = hive.clone();
    let edits = [
        del_value("AbExprtDB\\Host00000", "Blob"),
        del_subkeys("AbExprtDB"),
    ];
    let error = edit(&mut new, &checked, &edits, &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(new == hive, "an error changes nothing");
    run(&hive, &edits[..1]);
    run(&hive, &[del_key("AbExprtDB")]);
}

#[test]
fn only_the_checked_bytes_are_edited() {
    let hive = with_children(5, b"lh", 4, 500);
    let checked = check(&hive).unwrap();
    let mut other = hive.clone();
    put_header(&mut other, base::SEQ1, 9);
    let edits = [del_subkeys("AbExprtDB")];
    assert!(edit(&mut other, &checked, &edits, &[]).is_err());
    let mut longer = hive.clone();
    longer.push(0);
    assert!(edit(&mut longer, &checked, &edits, &[]).is_err());
    let error = edit(&mut hive.clone(), &checked, &[del_key("")], &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

#[test]
fn twin_keys_are_both_found() {
    let mut b = Builder::new(5, 0);
    let root = b.root;
    let keys = [b.key(root, "SMS"), b.key(root, "sms")];
    b.adopt(root, b"lh", &keys, 500);
    for key in keys {
        b.values(key, &[(SMS, b"12345678")]);
    }
    let hive = b.finish();
    let opened = Hive::open(&hive).unwrap();
    assert_eq!(opened.find_keys(&["Sms"]).unwrap().len(), 2);
    let (_, outcome, _) = run(&hive, &[del_value("Sms", SMS)]);
    assert_eq!(outcome.values, 2);
}

#[test]
fn large_but_valid_hives_are_handled() {
    // More than what hivex takes: 70,000 subkeys, 110,000 values, 8,000,000 bytes.
    let mut b = Builder::new(5, 0);
    let top = b.subkeys(b.root, &["Keys", "Values"]);
    let children: Vec<u32> = (0..70_001)
        .map(|i| b.key(top[0], &format!("K{i:06}")))
        .collect();
    b.adopt(top[0], b"lh", &children, 1012);
    let names: Vec<String> = (0..110_001).map(|i| format!("V{i:06}")).collect();
    let large = vec![0x77; 8_000_001];
    let mut values: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    values.push(("Large", &large));
    b.values(top[1], &values);
    let hive = b.finish();
    let (new, outcome, _) = run(
        &hive,
        &[del_key("Keys\\K035000"), del_value("Values", "V055000")],
    );
    assert_eq!((outcome.keys, outcome.values), (1, 1));
    let (_, outcome, _) = run(&new, &[del_subkeys("Keys"), del_value("Values", "large")]);
    assert_eq!((outcome.keys, outcome.values), (70_000, 1));
}
