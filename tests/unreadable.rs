//! What a structure names and nobody can read: a clean refuses where a rule asks for the name, and
//! every such file is listed by its path.

use std::{fs, path::Path, sync::Arc};

use declone::{
    device::{Device, Memory},
    volume::ntfs::Ntfs,
};
use serde_json::Value;

use crate::{
    machine::{self, HIVE, TARGETS},
    run::{Ran, arg, declone, digest, scratch},
    support::{
        exfat_builder::ExfatBuilder,
        fat_builder::{FatBuilder, Width},
        ntfs_builder::Geometry,
        put,
    },
};

const MIB: u64 = 1 << 20;
const RECORD: usize = 1024;
const INI: &str = r"\WINDOWS\Smscfg.ini";
const OTHER: &str = r"\WINDOWS\system32\library number 05 with a long name.dll";

fn opened(bytes: &[u8]) -> Ntfs {
    let device: Device = Arc::new(Memory::new(bytes.to_vec()));
    Ntfs::open(device).unwrap()
}

/// Where a record lies, in one piece.
fn place(bytes: &[u8], record: u64) -> usize {
    let pieces = opened(bytes).record_pieces(record).unwrap();
    usize::try_from(pieces[0].0.get()).unwrap()
}

/// Takes a record out of $MFT's bitmap.
fn forget(bytes: &mut [u8], record: u64) {
    let ntfs = opened(bytes);
    let bitmap = ntfs.file(0).unwrap().require(0xB0, "").unwrap();
    let range = ntfs.real_ranges(&bitmap)[0].clone();
    let at = usize::try_from(range.start + record / 8).unwrap();
    bytes[at] &= !(1 << (record % 8));
}

/// What was not looked at.
fn unseen(report: &Value) -> &[Value] {
    report["images"][0]["not_scanned"].as_array().unwrap()
}

/// The lines of what was not looked at that have this path.
fn lines<'a>(report: &'a Value, path: &str) -> Vec<&'a Value> {
    let all = unseen(report).iter();
    all.filter(|line| line["path"] == path).collect()
}

#[track_caller]
fn is_listed(image: &Path, path: &str) {
    let report = declone(&["scan", "--json", "-", arg(image)]).json();
    let found = lines(&report, path);
    assert!(!found.is_empty(), "{path}: {:#?}", unseen(&report));
    assert_eq!(found[0]["class"], "damaged");
    assert_eq!(found[0]["harmless"], false);
}

/// A clean refuses, says the path and writes nothing; a scan lists it.
#[track_caller]
fn refused(image: &Path, path: &str) -> Ran {
    let before = digest(image);
    let out = image.with_extension("out");
    let ran = declone(&["clean", arg(image), "-o", arg(&out)]).exits(3);
    assert!(ran.out.contains(path), "{path}: {}", ran.out);
    assert!(!out.exists());
    assert_eq!(digest(image), before);
    is_listed(image, path);
    ran
}

type Damage = (&'static str, fn(&mut [u8], usize, u64));

const DAMAGES: [Damage; 5] = [
    ("zeros", |v, at, _| v[at..at + RECORD].fill(0)),
    ("half", |v, at, _| v[at + 512..at + RECORD].fill(0)),
    ("other half", |v, at, _| v[at..at + 512].fill(0)),
    ("BAAD", |v, at, _| v[at..at + 4].copy_from_slice(b"BAAD")),
    ("zeros and free", |v, at, record| {
        v[at..at + RECORD].fill(0);
        forget(v, record);
    }),
];

#[test]
fn a_lost_record_of_a_wanted_name_is_refused_by_path() {
    let dir = scratch();
    let whole = dir.path().join("whole.img");
    let volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let records = machine::write(&volume, &whole);
    let bytes = fs::read(&whole).unwrap();
    let image = dir.path().join("image.img");
    for path in [HIVE, INI] {
        for (what, damage) in DAMAGES {
            let mut bytes = bytes.clone();
            let at = place(&bytes, records[path.trim_start_matches('\\')]);
            damage(&mut bytes, at, records[path.trim_start_matches('\\')]);
            fs::write(&image, bytes).unwrap();
            eprintln!("{path}: {what}");
            refused(&image, path);
        }
    }
}

#[test]
fn a_lost_record_of_another_name_is_listed_by_path() {
    let dir = scratch();
    let whole = dir.path().join("whole.img");
    let volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let records = machine::write(&volume, &whole);
    let image = dir.path().join("image.img");
    for (what, damage) in &DAMAGES[..4] {
        let mut bytes = fs::read(&whole).unwrap();
        let at = place(&bytes, records[OTHER.trim_start_matches('\\')]);
        damage(&mut bytes, at, records[OTHER.trim_start_matches('\\')]);
        fs::write(&image, bytes).unwrap();
        eprintln!("{what}");
        is_listed(&image, OTHER);
    }
}

#[test]
fn an_orphan_hive_is_cleaned_and_its_directory_is_listed() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    let volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let records = machine::write(&volume, &image);
    let mut bytes = fs::read(&image).unwrap();
    let config = r"\WINDOWS\system32\config";
    let at = place(&bytes, records[config.trim_start_matches('\\')]);
    bytes[at..at + RECORD].fill(0);
    fs::write(&image, &bytes).unwrap();
    is_listed(&image, config);
    let out = dir.path().join("out.img");
    let ran = declone(&["clean", "--json", "-", arg(&image), "-o", arg(&out)]);
    assert!([0, 1].contains(&ran.code), "{} {}", ran.code, ran.out);
    let report = ran.json();
    assert_eq!(lines(&report, config).len(), 1);
    let cleaned = fs::read(&out).unwrap();
    let id = put::utf16(&format!("GUID:{}", machine::GUID));
    let finds = |bytes: &[u8]| bytes.windows(id.len()).any(|window| window == id);
    assert!(finds(&bytes) && !finds(&cleaned));
}

#[test]
fn two_names_for_one_file_are_refused() {
    let dir = scratch();
    let whole = dir.path().join("whole.img");
    let volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let records = machine::write(&volume, &whole);
    let bytes = fs::read(&whole).unwrap();
    let image = dir.path().join("image.img");
    let name = put::utf16("Smscfg.ini");
    let places = |bytes: &[u8]| -> Vec<usize> {
        let all = bytes.windows(name.len()).enumerate();
        // Its length stands before a name.
        all.filter_map(|(at, w)| (w == name && bytes[at - 2] == 10).then_some(at))
            .collect()
    };
    let own = place(&bytes, records[INI.trim_start_matches('\\')]);
    let in_record = own..own + RECORD;
    // The record's own name, then the index's: one letter is another.
    let all = places(&bytes);
    let (records_own, elsewhere): (Vec<usize>, Vec<usize>) =
        all.iter().partition(|at| in_record.contains(at));
    assert_eq!(records_own.len(), 1);
    let mut changed = bytes.clone();
    changed[records_own[0] + 2] = b'n';
    fs::write(&image, &changed).unwrap();
    let report = declone(&["scan", "--json", "-", arg(&image)]).json();
    let damaged = unseen(&report).iter();
    assert!(
        damaged
            .clone()
            .any(|line| line["class"] == "damaged" && line["what"].as_str().unwrap().contains(INI)),
        "{:#?}",
        unseen(&report)
    );
    let ran = declone(&["clean", "-n", arg(&image)]).exits(3);
    assert!(ran.out.contains(INI), "{}", ran.out);
    let mut refusals = 0;
    for at in elsewhere {
        let mut changed = bytes.clone();
        changed[at + 2] = b'n';
        fs::write(&image, &changed).unwrap();
        let ran = declone(&["clean", "-n", arg(&image)]);
        if ran.code == 3 {
            assert!(ran.out.contains(INI), "{}", ran.out);
            refusals += 1;
        }
    }
    assert!(refusals >= 1, "the entry of the index");
}

#[test]
fn a_healthy_volume_has_nothing_of_it() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), &image);
    let report = declone(&["scan", "--json", "-", arg(&image)]).json();
    let all = unseen(&report);
    assert!(
        all.iter().all(|line| line["class"] != "damaged"),
        "{all:#?}"
    );
    assert_eq!(TARGETS[0], INI);
}

#[test]
fn a_broken_chain_of_a_wanted_name_is_refused_on_fat() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    for (width, len, cluster) in [(Width::Fat16, 6 << 20, 1024), (Width::Fat32, 6 << 20, 512)] {
        let mut v = FatBuilder::new(width, len, cluster);
        v.file(r"\WINNT\system32\config\SOFTWARE", machine::hive(3).build());
        v.file(r"\WINNT\Smscfg.ini", machine::ini());
        let bytes = v.build().bytes;
        for (entry, path) in [
            (b"SMSCFG  INI", r"\WINNT\Smscfg.ini"),
            (b"SOFTWARE   ", r"\WINNT\system32\config\SOFTWARE"),
        ] {
            let mut bytes = bytes.clone();
            let at = bytes
                .windows(11)
                .position(|window| window == entry)
                .unwrap();
            bytes[at + 26..at + 28].copy_from_slice(&[0xF0, 0xEE]);
            bytes[at + 20..at + 22].copy_from_slice(&[0xFF, 0x0F]);
            fs::write(&image, &bytes).unwrap();
            refused(&image, path);
        }
    }
}

#[test]
fn a_broken_set_of_a_wanted_name_is_refused_on_exfat() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    let mut v = ExfatBuilder::new(8 << 20, 512, 4096);
    v.file(
        r"\WINDOWS\system32\config\SOFTWARE",
        machine::hive(5).build(),
    );
    v.file(r"\WINDOWS\Smscfg.ini", machine::ini());
    let bytes = v.build().bytes;
    let name = put::utf16("Smscfg.ini");
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() - 2 - 64;
    assert_eq!(
        (bytes[at], bytes[at + 32], bytes[at + 64]),
        (0x85, 0xC0, 0xC1)
    );
    // The checksum, the first cluster, and the type of the entry between file and name.
    let damages: [(usize, [u8; 2]); 3] = [
        (at + 2, [bytes[at + 2] ^ 1, bytes[at + 3]]),
        (at + 32 + 20, [0xFF, 0xFF]),
        (at + 32, [0xE0, bytes[at + 33]]),
    ];
    for (place, value) in damages {
        let mut bytes = bytes.clone();
        bytes[place..place + 2].copy_from_slice(&value);
        fs::write(&image, &bytes).unwrap();
        refused(&image, INI);
    }
}

#[test]
fn a_volume_of_which_a_part_is_missing_is_named() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), &image);
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.set_len(20 * MIB).unwrap();
    drop(file);
    let report = declone(&["scan", "--json", "-", arg(&image)]).json();
    let mut all = unseen(&report).iter();
    assert!(
        all.any(|line| line["class"] == "out_of_file" && line["harmless"] == false),
        "{:#?}",
        unseen(&report)
    );
}

#[test]
fn a_hive_of_the_system_that_is_none_is_named() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let security = r"\WINDOWS\system32\config\SECURITY";
    volume.file(security, vec![0x5A; 9000]);
    machine::write(&volume, &image);
    is_listed(&image, security);
}
