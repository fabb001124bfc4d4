//! Ex01 (EWF2): the disk inside is read as libewf reads it, damage is refused, evidence is never
//! written, and `--to raw` writes what a clean of the raw disk writes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use declone::{
    container::{self, Opened},
    device::{Memory, Neighbours},
    error::{Kind, Result},
};

use crate::{
    containers::machine_disk,
    containers_ewf::{check_to_raw, disk, look_at_evidence, raw_and_clean, write_files},
    containers_qcow2::own_reading,
    judges::{called, other_reading},
    run::{arg, declone, scratch},
    support::{
        ewf_builder,
        ex01_builder::{self as ex01, Shape},
        tables::put,
    },
};

fn write_set(dir: &Path, files: &[Vec<u8>]) -> PathBuf {
    write_files(dir, files, "Ex")
}

fn open(bytes: &[u8]) -> Result<Opened> {
    let host = Arc::new(Memory::new(bytes.to_vec()));
    container::open(host, Some("ex01"), &Neighbours::default())
}

fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let opened = open(bytes)?;
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn shapes() -> Vec<Shape> {
    let whole = Shape::default();
    vec![
        whole.clone(),
        Shape {
            chunk: 1,
            table: 7,
            segment: 50,
            aligned: false,
            hashed: false,
            ..whole.clone()
        },
        Shape {
            stored: 1,
            filled: false,
            chunk: 16,
            table: 3,
            ..whole.clone()
        },
        // One chunk is more than the disk, and than the cache.
        Shape {
            chunk: 32_768,
            stored: 0,
            ..whole.clone()
        },
        Shape {
            compression: 0,
            segment: 4,
            ..whole
        },
    ]
}

#[test]
fn ex01_files_of_every_shape_are_read() {
    for sectors in [300, 301, 320] {
        let raw = disk(sectors);
        for shape in shapes() {
            let dir = scratch();
            let image = write_set(dir.path(), &ex01::set(&raw, &shape));
            assert!(own_reading(&image, "ex01") == raw, "{sectors}: {shape:?}");
        }
    }
}

#[test]
fn a_machine_in_an_ex01_is_scanned_and_cleaned_to_raw() {
    let dir = scratch();
    let (raw, clean) = raw_and_clean(dir.path());
    let shape = Shape {
        segment: 300,
        ..Shape::default()
    };
    let files = ex01::set(&raw, &shape);
    assert_eq!(files.len(), 3);
    let image = write_set(dir.path(), &files);
    let plain = dir.path().join("plain.img");
    let facts = look_at_evidence(&image, &plain, "ex01");
    let container = &facts["container"];
    assert_eq!(container["kind"], "EnCase 7, 3 segment files");
    assert_eq!(container["creator"], "9.9, Test");
    assert_eq!(container["block_size"], 32 << 10);
    assert_eq!(container["blocks"], raw.len() / (32 << 10));
    assert_eq!(container["id"], "0102030405060708090a0b0c0d0e0f10");
    let notes = facts["notes"].to_string();
    for word in [
        "case number case 7",
        "serial number S1",
        "SHA-1 is ",
        "scan only: Ex01",
    ] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    assert!(!notes.contains("\\u001b["), "escaped: {notes}");
    check_to_raw(dir.path(), &image, &clean);
    let first = dir.path().join("disk.E01");
    fs::write(
        &first,
        &ewf_builder::set(&raw, &ewf_builder::Shape::default())[0],
    )
    .unwrap();
    let ran = declone(&["compare", arg(&image), arg(&first)]).exits(1);
    assert!(ran.out.contains("Ex01"), "{}", ran.out);
    for (number, file) in (1..).zip(&files) {
        let now = fs::read(dir.path().join(format!("disk.Ex{number:02}"))).unwrap();
        assert!(now == *file, "{number}");
    }
}

const KNOWN: [Kind; 4] = [
    Kind::Malformed,
    Kind::Unsupported,
    Kind::Refused,
    Kind::Limit,
];

/// Every byte has a checksum over it, or does not matter.
#[test]
fn a_flipped_byte_of_an_ex01_is_refused_or_changes_nothing() {
    let raw = disk(40);
    let shape = Shape {
        chunk: 8,
        table: 3,
        ..Shape::default()
    };
    let file = ex01::set(&raw, &shape).remove(0);
    let (mut same, mut refused) = (0, 0);
    for at in 0..file.len() {
        for flip in [0x01, 0x80] {
            let mut bad = file.clone();
            bad[at] ^= flip;
            match read(&bad) {
                Ok(bytes) => {
                    assert!(bytes == raw, "{at}: another disk");
                    same += 1;
                }
                Err(error) => {
                    assert!(KNOWN.contains(&error.kind()), "{at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(same > 100 && refused > 10_000, "{same} {refused}");
    for len in 0..file.len() {
        let error = open(&file[..len]).unwrap_err();
        assert!(KNOWN.contains(&error.kind()), "cut to {len}: {error}");
    }
}

/// Checksums that are right over nonsense.
#[test]
fn lies_under_right_checksums_of_an_ex01_are_refused() {
    let raw = disk(40);
    let shape = Shape {
        chunk: 8,
        table: 3,
        hashed: false,
        ..Shape::default()
    };
    let file = ex01::set(&raw, &shape).remove(0);
    let all = ex01::sections(&file);
    let (_, data, table) = *all.iter().find(|(kind, ..)| *kind == 4).unwrap();
    let refuse = |what: &str, bad: &[u8], word: &str| {
        let error = read(bad).unwrap_err();
        assert!(KNOWN.contains(&error.kind()), "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
    };
    // The chain: to itself, forwards, into the header, into the data.
    for previous in [table, table + 64, file.len(), 1, 31, data - 1, usize::MAX] {
        let mut bad = file.clone();
        put(&mut bad, table + 8, &(previous as u64).to_le_bytes());
        ex01::seal(&mut bad, table);
        refuse(&format!("previous {previous:#x}"), &bad, "Ex01 section");
    }
    for len in [table, usize::MAX] {
        let mut bad = file.clone();
        put(&mut bad, table + 16, &(len as u64).to_le_bytes());
        ex01::seal(&mut bad, table);
        refuse(&format!("length {len:#x}"), &bad, "Ex01 section");
    }
    for (at, value, word) in [
        (table + 24, 76, "a descriptor of 64 bytes"),
        (table + 4, 2, "not encrypted"),
        (table, 11, "not encrypted"),
        (table, 33, "single files"),
        (table, 99, "single files"),
        (table, 3, "Ex01 table"),
        (file.len() - 64, 3, "at the end expected"),
        (12, 2, "segment 1 of the set expected"),
        (8, 0x0001_0103, "version 2 expected"),
        (8, 0x0002_0102, "found bzip2"),
        (8, 0x0007_0102, "compression 0, 1 or 2"),
    ] {
        let mut bad = file.clone();
        put(&mut bad, at, &u32::to_le_bytes(value));
        if at >= 32 {
            // The descriptor that holds the field.
            let descriptor = all.iter().find(|(.., own)| (*own..*own + 64).contains(&at));
            ex01::seal(&mut bad, descriptor.unwrap().2);
        }
        refuse(&format!("{at:#x}: {value:#x}"), &bad, word);
    }
    // The table: first chunk, count, entries.
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut bad = file.clone();
        change(&mut bad[data..]);
        ewf_builder::seal(&mut bad, data, data + 16);
        ewf_builder::seal(&mut bad, data + 32, data + 32 + 48);
        bad
    };
    for first in [1_u64, 3, u64::MAX] {
        let bad = with(&|table| put(table, 0, &first.to_le_bytes()));
        refuse("first", &bad, "chunk 0 as its first");
    }
    for count in [4_u32, 1 << 20, u32::MAX] {
        let bad = with(&|table| put(table, 8, &count.to_le_bytes()));
        refuse("count", &bad, "Ex01 table");
    }
    for (field, value) in [(0, 0_u64), (0, 31), (0, file.len() as u64), (0, u64::MAX)] {
        let bad = with(&|table| put(table, 32 + field, &value.to_le_bytes()));
        refuse("offset", &bad, "a chunk in the file");
    }
    for (field, value) in [(8, u32::MAX), (12, 8), (12, u32::MAX)] {
        let bad = with(&|table| put(table, 32 + field, &value.to_le_bytes()));
        refuse("entry", &bad, "a chunk in the file");
    }
    for (len, flags) in [
        (0_u32, 2_u32),
        (4095, 2),
        (4099, 2),
        (4100, 1),
        (8, 1),
        (100, 0),
    ] {
        let bad = with(&|table| {
            put(table, 32 + 8, &len.to_le_bytes());
            put(table, 32 + 12, &flags.to_le_bytes());
        });
        refuse(&format!("{len} {flags}"), &bad, "Ex01 chunk");
    }
    // An MD5 over a section that is another one.
    let hashed = Shape {
        hashed: true,
        ..shape
    };
    let mut bad = ex01::set(&raw, &hashed).remove(0);
    put(&mut bad, table + 32, &[7; 16]);
    ex01::seal(&mut bad, table);
    refuse("MD5", &bad, "data with the MD5");
}

#[test]
fn a_file_of_an_ex01_set_that_is_missing_or_foreign_is_named() {
    let raw = disk(300);
    let shape = Shape {
        segment: 2,
        ..Shape::default()
    };
    let files = ex01::set(&raw, &shape);
    assert_eq!(files.len(), 3);
    let scan = |change: &dyn Fn(&Path), image: &str, word: &str| {
        let dir = scratch();
        write_set(dir.path(), &files);
        change(dir.path());
        let ran = declone(&["scan", arg(&dir.path().join(image))]);
        assert!([3, 4].contains(&ran.code), "{word}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        assert!(ran.out.contains("what to do:"), "{word}: {}", ran.out);
    };
    let gone = |dir: &Path| fs::remove_file(dir.join("disk.Ex03")).unwrap();
    scan(&gone, "disk.Ex01", "disk.Ex03");
    scan(&|_| {}, "disk.Ex02", "found segment 2");
    let rename = |dir: &Path| fs::rename(dir.join("disk.Ex01"), dir.join("disk.img")).unwrap();
    scan(&rename, "disk.img", "a name that ends in .Ex01");
    let foreign = |dir: &Path| {
        let mut other = files[1].clone();
        other[16] ^= 1;
        fs::write(dir.join("disk.Ex02"), other).unwrap();
    };
    scan(&foreign, "disk.Ex01", "files of one set expected");
    let cut = |dir: &Path| fs::write(dir.join("disk.Ex02"), &files[1][..900]).unwrap();
    scan(&cut, "disk.Ex01", "disk.Ex02");
}

#[test]
fn made_up_ex01_files_are_read_by_libewf() {
    if !called("made_up_ex01_files_are_read_by_libewf") {
        return;
    }
    let raw = [disk(301), machine_disk()[..1 << 20].to_vec()].concat();
    for shape in shapes() {
        // libewf knows no Ex01 without compression.
        if shape.compression == 0 {
            continue;
        }
        let dir = scratch();
        let image = write_set(dir.path(), &ex01::set(&raw, &shape));
        assert!(other_reading("libewf", &image) == raw, "{shape:?}");
        assert!(own_reading(&image, "ex01") == raw, "{shape:?}");
    }
}
