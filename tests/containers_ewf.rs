//! E01: the disk inside is read as libewf reads it, damage is refused or made good by a second copy,
//! evidence is never written, and `--to raw` writes what a clean of the raw disk writes.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use declone::{
    container::{self, Opened},
    device::{Memory, Neighbours},
    error::{Kind, Result},
};

use crate::{
    containers::{findings, machine_disk},
    containers_qcow2::own_reading,
    judges::{called, tool},
    machine::GUID,
    oracle,
    run::{arg, declone, digest, samples, scratch},
    support::{
        ewf_builder::{self as ewf, Shape},
        qcow2_builder as qcow2, sms,
        tables::{le32, le64, put},
        vdi_builder as vdi,
    },
};

/// A disk that differs everywhere and is compressible in parts.
pub fn disk(sectors: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u32;
    let mut bytes: Vec<u8> = (0..sectors * 512)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match at / 4096 % 3 {
                0 => (at / 100) as u8,
                1 => (state >> 24) as u8,
                _ => 0,
            }
        })
        .collect();
    put(&mut bytes, 510, &[0x55, 0xAA]);
    bytes
}

fn write_set(dir: &Path, files: &[Vec<u8>]) -> PathBuf {
    write_files(dir, files, "E")
}

/// Writes the files of a set, whose names end so and with a number; the path of the first.
pub fn write_files(dir: &Path, files: &[Vec<u8>], ending: &str) -> PathBuf {
    for (number, file) in (1..).zip(files) {
        fs::write(dir.join(format!("disk.{ending}{number:02}")), file).unwrap();
    }
    dir.join(format!("disk.{ending}01"))
}

/// A scan finds what it finds in the raw disk, a verify both digests right, and nothing writes it.
/// What the scan says of the image.
pub fn look_at_evidence(image: &Path, plain: &Path, format: &str) -> serde_json::Value {
    let scan = |image: &Path| {
        declone(&["scan", arg(image), "--json", "-"])
            .exits(1)
            .json()
    };
    let (want, _) = findings(&scan(plain));
    let mut said = scan(image);
    let (found, pairs) = findings(&said);
    assert_eq!(found, want);
    assert!(pairs.is_empty(), "no byte of the disk lies in the file");
    let facts = said["images"][0]["image"].take();
    assert_eq!(facts["format"], format);
    let ran = declone(&["verify", arg(image), "--hash", "sha256"]).exits(1);
    for kind in ["MD5", "SHA-1"] {
        let line = format!("the stored {kind} ");
        let line = ran.out.lines().find(|text| text.contains(&line)).unwrap();
        assert!(line.ends_with("is that of the disk"), "{line}");
    }
    for args in [
        &["clean", arg(image), "-o", "OUT"][..],
        &["clean", arg(image), "--in-place"],
        &["clean", arg(image), "-n"],
    ] {
        let ran = declone(args).exits(3);
        assert!(ran.out.contains("never writes evidence"), "{}", ran.out);
        assert!(ran.out.contains("--to raw"), "{}", ran.out);
    }
    facts
}

fn open(bytes: &[u8]) -> Result<Opened> {
    container::open(
        Arc::new(Memory::new(bytes.to_vec())),
        Some("e01"),
        &Neighbours::default(),
    )
}

fn read(opened: &Opened) -> Result<Vec<u8>> {
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn shapes() -> Vec<Shape> {
    let whole = Shape::default();
    vec![
        whole.clone(),
        Shape {
            base: false,
            stored: 0,
            digests: false,
            ..whole.clone()
        },
        Shape {
            chunk: 1,
            table: 7,
            stored: 1,
            segment: 50,
            ..whole.clone()
        },
        Shape {
            chunk: 16,
            table: 3,
            segment: 4,
            padded: true,
            ..whole.clone()
        },
        Shape {
            padded: true,
            stored: 1,
            ..whole.clone()
        },
        // One chunk is more than the disk, and than the cache.
        Shape {
            chunk: 32_768,
            ..whole.clone()
        },
        Shape {
            smart: true,
            base: false,
            chunk: 8,
            table: 5,
            segment: 12,
            ..whole
        },
    ]
}

#[test]
fn e01_files_of_every_shape_are_read() {
    for sectors in [300, 301, 320] {
        let raw = disk(sectors);
        for shape in shapes() {
            let dir = scratch();
            let image = write_set(dir.path(), &ewf::set(&raw, &shape));
            assert!(own_reading(&image, "e01") == raw, "{sectors}: {shape:?}");
        }
    }
}

#[test]
fn a_machine_in_an_e01_is_scanned_and_verified_but_not_written() {
    let raw = machine_disk();
    let dir = scratch();
    let shape = Shape {
        segment: 300,
        ..Shape::default()
    };
    let files = ewf::set(&raw, &shape);
    assert_eq!(files.len(), 3);
    let image = write_set(dir.path(), &files);
    let plain = dir.path().join("plain.img");
    fs::write(&plain, &raw).unwrap();
    let facts = look_at_evidence(&image, &plain, "e01");
    let container = &facts["container"];
    assert_eq!(container["kind"], "EnCase, 3 segment files");
    assert_eq!(container["creator"], "9.9, Test", "header2, not header");
    assert_eq!(container["block_size"], 32 << 10);
    assert_eq!(container["blocks"], raw.len() / (32 << 10));
    assert_eq!(container["id"], "0102030405060708090a0b0c0d0e0f10");
    let notes = facts["notes"].to_string();
    for word in [
        "case number case ",
        "examiner Examiner",
        "time 1700000000",
        "MD5 is ",
        "SHA-1 is ",
        "scan only: E01",
    ] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    assert!(
        !notes.contains("\\u001b["),
        "escaped for a terminal: {notes}"
    );

    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    for (number, file) in (1..).zip(&files) {
        let now = fs::read(dir.path().join(format!("disk.E{number:02}"))).unwrap();
        assert!(now == *file, "{number}");
    }
}

/// Cleans an image to a raw file: as the clean of the raw disk, byte for byte, and the image stays.
pub fn check_to_raw(dir: &Path, image: &Path, clean: &[u8]) {
    let before = digest(image);
    let out = dir.join("to.raw");
    let report = dir.join("to.json");
    let args = [
        "clean",
        arg(image),
        "-o",
        arg(&out),
        "--to",
        "raw",
        "--prove",
    ];
    let more = ["--json", arg(&report)];
    let ran = declone(&[&args[..], &more].concat()).exits(0);
    assert!(!ran.out.contains("LEFT"), "{}", ran.out);
    assert_eq!(digest(image), before);
    assert!(fs::read(&out).unwrap() == clean, "{}", image.display());
    let holes = fs::metadata(&out).unwrap().blocks() * 512;
    let data = clean
        .chunks(4096)
        .filter(|c| c.iter().any(|b| *b != 0))
        .count() as u64
        * 4096;
    assert!(holes <= data + (1 << 20), "sparse: {holes} of {data}");
    declone(&["verify", arg(&out), "--against", arg(&report)]).exits(0);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    // Reports of other images that were cleaned with this name stand before it.
    let said = json["images"].as_array().unwrap().last().unwrap();
    assert_eq!(said["result"], "cleaned");
    assert_eq!(said["image"]["format"], container_of(image));
    // The places of what changed are those of OUT.
    for patch in said["done"]["patches"].as_array().unwrap() {
        let at = patch["offset"].as_u64().unwrap() as usize;
        let len = patch["len"].as_u64().unwrap() as usize;
        use sha2::Digest;
        let now = hex::encode(sha2::Sha256::digest(&clean[at..at + len]));
        assert_eq!(patch["sha256_new"], now, "{at:#x}");
    }
    // Again is refused, and so is the image itself; with --force it is replaced by the same.
    declone(&args).exits(2);
    let same = [
        "clean",
        arg(image),
        "-o",
        arg(image),
        "--to",
        "raw",
        "--force",
    ];
    declone(&same).exits(2);
    declone(&[&args[..], &["--force"]].concat()).exits(0);
    assert!(fs::read(&out).unwrap() == clean);
    fs::remove_file(&out).unwrap();
    declone(&[&args[..], &["-n"]].concat()).exits(0);
    assert!(!out.exists());
    assert_eq!(digest(image), before);
}

fn container_of(image: &Path) -> &str {
    match image.extension().unwrap().to_str().unwrap() {
        "E01" => "e01",
        "Ex01" => "ex01",
        other => other,
    }
}

/// The raw disk, and what a clean makes of it.
pub fn raw_and_clean(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let raw = machine_disk();
    let (plain, out) = (dir.join("plain.img"), dir.join("plain.out"));
    fs::write(&plain, &raw).unwrap();
    declone(&["clean", arg(&plain), "-o", arg(&out), "--prove"]).exits(0);
    let clean = fs::read(&out).unwrap();
    assert!(clean != raw);
    for guid in [GUID, sms::GUID, sms::SECOND_GUID] {
        for form in oracle::guid_forms(guid) {
            assert_eq!(oracle::find_all(&clean, &form), [0_usize; 0]);
        }
    }
    // What is a raw disk already is copied as ever.
    let again = dir.join("again.out");
    declone(&[
        "clean",
        arg(&plain),
        "-o",
        arg(&again),
        "--to",
        "raw",
        "--prove",
    ])
    .exits(0);
    assert_eq!(digest(&again), digest(&out));
    (raw, clean)
}

#[test]
fn to_raw_writes_the_cleaned_disk_of_any_container() {
    let dir = scratch();
    let (raw, clean) = raw_and_clean(dir.path());
    let shape = Shape {
        segment: 300,
        ..Shape::default()
    };
    let files = ewf::set(&raw, &shape);
    let image = write_set(dir.path(), &files);
    check_to_raw(dir.path(), &image, &clean);
    // A file of the set is never replaced.
    for (number, file) in (1..).zip(&files) {
        let path = dir.path().join(format!("disk.E{number:02}"));
        let args = ["clean", arg(&image), "-o", arg(&path), "--to", "raw"];
        declone(&[&args[..], &["--force"]].concat()).exits(2);
        assert!(fs::read(&path).unwrap() == *file, "{number}");
    }
    let image = dir.path().join("disk.qcow2");
    fs::write(&image, qcow2::image(&raw, qcow2::Shape::default())).unwrap();
    check_to_raw(dir.path(), &image, &clean);
    let image = dir.path().join("disk.vdi");
    fs::write(&image, vdi::image(&raw, 4096, true, true, false)).unwrap();
    check_to_raw(dir.path(), &image, &clean);
}

#[test]
fn to_raw_is_the_only_target_and_only_for_a_copy() {
    let dir = scratch();
    let image = write_set(dir.path(), &ewf::set(&disk(300), &Shape::default()));
    let before = digest(&image);
    for args in [
        &["clean", arg(&image), "--in-place", "--to", "raw"][..],
        &["clean", arg(&image), "--to", "raw"],
        &["clean", arg(&image), "-o", "OUT", "--to", "vhd"],
        &["scan", arg(&image), "--to", "raw"],
    ] {
        declone(args).exits(2);
    }
    assert_eq!(digest(&image), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Every byte has a checksum over it, or does not matter.
#[test]
fn a_flipped_byte_is_refused_or_changes_nothing() {
    let raw = disk(40);
    let shape = Shape {
        chunk: 8,
        table: 3,
        ..Shape::default()
    };
    let file = ewf::set(&raw, &shape).remove(0);
    let known = [
        Kind::Malformed,
        Kind::Unsupported,
        Kind::Refused,
        Kind::Limit,
    ];
    let (mut same, mut refused) = (0, 0);
    for at in 0..file.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = file.clone();
            bad[at] ^= flip;
            match open(&bad).and_then(|opened| read(&opened)) {
                Ok(bytes) => {
                    assert!(bytes == raw, "{at}: another disk");
                    same += 1;
                }
                Err(error) => {
                    assert!(known.contains(&error.kind()), "{at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(same > 1000 && refused > 10_000, "{same} {refused}");
    let smart = Shape {
        smart: true,
        base: false,
        ..shape
    };
    let mut smart = ewf::set(&raw, &smart).remove(0);
    for file in [&mut smart, &mut file.clone()] {
        for len in 0..file.len() {
            let error = open(&file[..len]).unwrap_err();
            assert!(known.contains(&error.kind()), "cut to {len}: {error}");
        }
        // What follows the last section is not looked at.
        file.extend([7; 100]);
        assert!(read(&open(file).unwrap()).unwrap() == raw);
    }
}

/// Checksums that are right over nonsense.
#[test]
fn lies_under_right_checksums_are_refused() {
    let raw = disk(40);
    let shape = Shape {
        chunk: 8,
        table: 3,
        ..Shape::default()
    };
    let file = ewf::set(&raw, &shape).remove(0);
    let section = |name, n| ewf::at(&file, name, n);
    let refuse = |what: &str, bad: &[u8], word: &str| {
        let error = open(bad).and_then(|opened| read(&opened)).unwrap_err();
        assert!(error.to_string().contains(word), "{what}: {error}");
        assert!(
            error.to_string().contains("image offset"),
            "{what}: {error}"
        );
    };
    // The chain: to itself, back, out of the file, into the next descriptor; a length past the next.
    let at = section("sectors", 0);
    for next in [at, 13, 0, at + 75, file.len() + 1, usize::MAX] {
        let mut bad = file.clone();
        put(&mut bad, at + 16, &(next as u64).to_le_bytes());
        ewf::seal(&mut bad, at, at + 72);
        refuse(&format!("next {next:#x}"), &bad, "E01 section `sectors`");
    }
    for len in [1, 75, usize::MAX, le64(&file, at + 24) as usize + 1] {
        let mut bad = file.clone();
        put(&mut bad, at + 24, &(len as u64).to_le_bytes());
        ewf::seal(&mut bad, at, at + 72);
        refuse(&format!("length {len:#x}"), &bad, "E01 section `sectors`");
    }
    // No length: Expert Witness 1.35.
    let mut fine = file.clone();
    for (_, at, _) in ewf::sections(&file) {
        put(&mut fine, at + 24, &[0; 8]);
        ewf::seal(&mut fine, at, at + 72);
    }
    assert!(read(&open(&fine).unwrap()).unwrap() == raw);
    // The volume: counts, chunks, sectors.
    let at = section("volume", 0) + 76;
    for (field, values) in [
        (4, &[0, 1, 4, 6, u32::MAX][..]),
        (8, &[0, 7, 10, u32::MAX]),
        (12, &[0, 1, 511, 513, 8192, u32::MAX]),
        (16, &[0, 1, 32, 41, u32::MAX]),
        (20, &[1, u32::MAX]),
    ] {
        for value in values {
            let mut bad = file.clone();
            put(&mut bad, at + field, &value.to_le_bytes());
            ewf::seal(&mut bad, at, at + 1048);
            refuse(&format!("volume +{field}: {value}"), &bad, "E01 volume");
        }
    }
    // The tables, both copies alike.
    let two = |change: &dyn Fn(&mut Vec<u8>, usize)| {
        let mut bad = file.clone();
        for name in ["table", "table2"] {
            let at = section(name, 0) + 76;
            change(&mut bad, at);
            ewf::seal(&mut bad, at, at + 20);
            ewf::seal(&mut bad, at + 24, at + 36);
        }
        bad
    };
    for count in [4_u32, 5, 1 << 20, u32::MAX] {
        let bad = two(&|bytes, at| put(bytes, at, &count.to_le_bytes()));
        refuse(&format!("{count} entries"), &bad, "E01 table");
    }
    for base in [0_u64, 1 << 31, u64::MAX] {
        let bad = two(&|bytes, at| put(bytes, at + 8, &base.to_le_bytes()));
        refuse(&format!("base {base:#x}"), &bad, "offsets of chunks");
    }
    let entry = le32(&file, section("table", 0) + 76 + 28) as u32;
    for value in [0, 1, u32::MAX, entry & !(1 << 31) | 1 << 30, 76] {
        let bad = two(&|bytes, at| put(bytes, at + 28, &value.to_le_bytes()));
        refuse(&format!("entry {value:#x}"), &bad, "offsets of chunks");
    }
    // Stored for compressed, and the other way round: the chunk's own checksum tells.
    for index in [0, 1, 2] {
        let at = 24 + 4 * index + 3;
        let bad = two(&|bytes, table| bytes[table + at] ^= 0x80);
        refuse(&format!("entry {index}"), &bad, "E01 chunk");
    }
    // One chunk fewer than the volume says, and no tables at all.
    let mut bad = file.clone();
    for name in ["table", "table2"] {
        let at = section(name, 1);
        put(&mut bad, at, b"x\0\0\0\0\0");
        ewf::seal(&mut bad, at, at + 72);
    }
    let error = open(&bad).unwrap_err();
    assert!(error.what().contains("5 chunks expected"), "{error}");
    // The two copies say different things, each with its checksum.
    let mut bad = file.clone();
    let at = section("table2", 0) + 76;
    bad[at + 24 + 7] ^= 0x80;
    ewf::seal(&mut bad, at + 24, at + 36);
    refuse("copies", &bad, "two copies");
}

/// A stream of zeros that is as long as it likes: no more than a chunk comes out.
#[test]
fn a_chunk_that_swells_is_refused() {
    let shape = Shape {
        chunk: 8,
        stored: 0,
        ..Shape::default()
    };
    // Chunks of another size, under a volume that says 8 sectors each.
    let big = vec![7; 4 << 20];
    let shape_big = Shape {
        chunk: 8192,
        ..shape.clone()
    };
    let small = ewf::set(&vec![7; 4096], &shape).remove(0);
    let file = ewf::set(&big, &shape_big).remove(0);
    let mut bad = file.clone();
    for (name, n) in [("volume", 0), ("data", 0)] {
        let (to, from) = (ewf::at(&file, name, n), ewf::at(&small, name, n));
        put(&mut bad, to + 76, &small[from + 76..from + 76 + 1052]);
    }
    let opened = open(&bad).unwrap();
    let error = read(&opened).unwrap_err();
    assert!(
        error.what().contains("4096 compressed bytes expected"),
        "{error}"
    );
}

#[test]
fn a_damaged_table_is_made_good_by_its_copy() {
    let raw = disk(40);
    let shape = Shape {
        chunk: 8,
        table: 3,
        ..Shape::default()
    };
    let file = ewf::set(&raw, &shape).remove(0);
    let (first, second) = (ewf::at(&file, "table", 1), ewf::at(&file, "table2", 1));
    // Header, an entry, the entries' checksum.
    for at in [76, 76 + 10, 76 + 24, 76 + 24 + 8] {
        let spoil = |places: &[usize]| {
            let mut bad = file.clone();
            for place in places {
                bad[place + at] ^= 0x10;
            }
            bad
        };
        let opened = open(&spoil(&[first])).unwrap();
        assert!(read(&opened).unwrap() == raw, "{at}");
        let notes = opened.notes.join("\n");
        assert!(notes.contains("second copy is used"), "{at}: {notes}");
        let opened = open(&spoil(&[second])).unwrap();
        assert!(read(&opened).unwrap() == raw, "{at}");
        let notes = opened.notes.join("\n");
        assert!(notes.contains("the first one is good"), "{at}: {notes}");
        let error = open(&spoil(&[first, second])).unwrap_err();
        assert!(error.what().starts_with("E01 table"), "{at}: {error}");
        // A damaged one without a copy behind it.
        let mut bad = spoil(&[first]);
        put(&mut bad, second, b"tablex");
        ewf::seal(&mut bad, second, second + 72);
        let error = open(&bad).unwrap_err();
        assert!(error.what().starts_with("E01 table"), "{at}: {error}");
    }
    // A table whose only copy is the second.
    let mut bad = file.clone();
    put(&mut bad, first, b"gone\0");
    ewf::seal(&mut bad, first, first + 72);
    assert!(read(&open(&bad).unwrap()).unwrap() == raw);
}

#[test]
fn a_file_of_the_set_that_is_missing_or_foreign_is_named() {
    let raw = disk(300);
    let shape = Shape {
        segment: 2,
        ..Shape::default()
    };
    let files = ewf::set(&raw, &shape);
    assert_eq!(files.len(), 3);
    let name = |number: usize| format!("disk.E{number:02}");
    let scan = |change: &dyn Fn(&Path), image: &str, more: &[&str], word: &str| {
        let dir = scratch();
        write_set(dir.path(), &files);
        change(dir.path());
        let ran = declone(&[&["scan", arg(&dir.path().join(image))], more].concat());
        assert!([3, 4].contains(&ran.code), "{word}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        assert!(ran.out.contains("what to do:"), "{word}: {}", ran.out);
    };
    let first = name(1);
    for number in [2, 3] {
        let gone = |dir: &Path| fs::remove_file(dir.join(name(number))).unwrap();
        scan(&gone, &first, &[], &name(number));
        // A link may lead anywhere.
        let link = |dir: &Path| {
            fs::rename(dir.join(name(number)), dir.join("other")).unwrap();
            std::os::unix::fs::symlink("other", dir.join(name(number))).unwrap();
        };
        scan(&link, &first, &[], &name(number));
    }
    let swap = |dir: &Path| {
        fs::rename(dir.join(name(2)), dir.join("other")).unwrap();
        fs::rename(dir.join(name(3)), dir.join(name(2))).unwrap();
        fs::rename(dir.join("other"), dir.join(name(3))).unwrap();
    };
    scan(
        &swap,
        &first,
        &[],
        "segment 2 of the set expected, found segment 3",
    );
    scan(&|_| {}, &name(2), &[], "found segment 2");
    let rename = |dir: &Path| fs::rename(dir.join(name(1)), dir.join("disk.img")).unwrap();
    scan(&rename, "disk.img", &[], "a name that ends in .E01");
    let foreign = |dir: &Path| {
        let mut other = files[1].clone();
        let at = ewf::at(&other, "data", 0) + 76;
        other[at + 64] ^= 1;
        ewf::seal(&mut other, at, at + 1048);
        fs::write(dir.join(name(2)), other).unwrap();
    };
    scan(&foreign, &first, &[], "files of one set expected");
    let cut = |dir: &Path| fs::write(dir.join(name(3)), &files[2][..1200]).unwrap();
    scan(&cut, &first, &[], &name(3));

    // In lower case, and from another directory if that is allowed.
    let dir = scratch();
    let image = write_set(dir.path(), &files);
    fs::rename(dir.path().join(name(2)), dir.path().join("disk.e02")).unwrap();
    assert!(own_reading(&image, "e01") == raw);
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::rename(dir.path().join(name(3)), sub.join(name(3))).unwrap();
    declone(&["scan", arg(&image)]).exits(3);
    // The set is read: what is wrong then is the disk's, which has no partition table.
    let ran = declone(&["scan", arg(&image), "--allow-file", arg(&sub.join(name(3)))]).exits(4);
    assert!(ran.out.contains("error: MBR: entry 1"), "{}", ran.out);
}

#[test]
fn a_stored_digest_that_is_not_the_disks_is_said() {
    let raw = machine_disk();
    let dir = scratch();
    let mut file = ewf::set(&raw, &Shape::default()).remove(0);
    let at = ewf::at(&file, "digest", 0) + 76;
    file[at + 20] ^= 1;
    ewf::seal(&mut file, at, at + 76);
    let image = write_set(dir.path(), &[file]);
    let ran = declone(&["verify", arg(&image), "--hash", "sha256"]).exits(4);
    assert!(
        ran.out.contains("a disk with the stored SHA-1"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("the stored MD5"), "{}", ran.out);
    // Not asked for, not computed.
    let ran = declone(&["verify", arg(&image)]).exits(1);
    assert!(!ran.out.contains("the stored"), "{}", ran.out);
}

// --- judges ---

/// The disk in a set, as libewf reads it.
fn by_libewf(image: &Path, dir: &Path) -> Vec<u8> {
    let to = dir.join("by-libewf");
    tool(
        "ewfexport",
        &["-u", "-q", "-f", "raw", "-t", arg(&to), arg(image)],
    );
    let out = to.with_extension("raw");
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(out).unwrap();
    bytes
}

#[test]
fn the_e01_sample_reads_as_libewf_reads_it() {
    let name = "the_e01_sample_reads_as_libewf_reads_it";
    let Some(samples) = samples(name) else {
        return;
    };
    let dir = scratch();
    let image = dir.path().join("plaso.E01");
    fs::write(
        &image,
        fs::read(samples.join("containers/plaso_image.E01")).unwrap(),
    )
    .unwrap();
    let own = own_reading(&image, "e01");
    use md5::Digest;
    let md5 = hex::encode(md5::Md5::digest(&own));
    assert_eq!(md5, "d73c51f10c7ee6a681b7b619ccc6f1c4");
    let host = declone::device::HostFile::open(&image).unwrap();
    let opened = container::open(Arc::new(host), None, &Neighbours::default()).unwrap();
    assert_eq!(opened.facts.md5.as_deref(), Some(&*md5));
    assert_eq!(opened.facts.creator.as_deref(), Some("20131210, Linux"));
    let notes = opened.notes.join("\n");
    assert!(notes.contains("case number PyVFS"), "{notes}");
    if called(name) {
        assert!(own == by_libewf(&image, dir.path()));
    }
}

#[test]
fn e01_files_by_libewf_are_read_and_cleaned_to_raw() {
    if !called("e01_files_by_libewf_are_read_and_cleaned_to_raw") {
        return;
    }
    let dir = scratch();
    let (raw, clean) = raw_and_clean(dir.path());
    let plain = dir.path().join("plain.img");
    for (format, compression, chunk) in [
        ("encase6", "fast", "64"),
        ("encase6", "none", "64"),
        ("encase2", "best", "16"),
        ("encase5", "empty-block", "1024"),
        ("linen6", "fast", "128"),
        ("ftk", "best", "64"),
        ("ewfx", "fast", "64"),
    ] {
        let what = format!("{format} {compression} {chunk}");
        let dir = scratch();
        let to = dir.path().join("disk");
        // Files of 1 MiB, the smallest that it makes.
        let args = [
            "-q",
            "-f",
            format,
            "-c",
            compression,
            "-b",
            chunk,
            "-S",
            "1048576",
        ];
        let status = Command::new("ewfacquirestream")
            .args(args)
            .args(["-d", "sha1", "-t", arg(&to)])
            .stdin(fs::File::open(&plain).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap_or_else(|e| panic!("ewfacquirestream is missing ({e}): run tools/test"));
        assert!(status.success(), "{what}");
        let made = to.with_extension(if format == "ewfx" { "e01" } else { "E01" });
        let image = to.with_extension("E01");
        if made != image {
            fs::rename(&made, &image).unwrap();
        }
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert!(files > 1 || compression != "none", "{what}: {files}");
        let own = own_reading(&image, "e01");
        assert!(own == raw, "{what}");
        if format != "ewfx" {
            assert!(by_libewf(&image, dir.path()) == raw, "{what}");
        }
        let ran = declone(&["verify", arg(&image), "--hash", "sha256"]).exits(1);
        let right = ran.out.matches("is that of the disk").count();
        assert!(right >= 1, "{what}: {}", ran.out);
        check_to_raw(dir.path(), &image, &clean);
    }
}

/// The sets that the tests make are what libewf takes for E01.
#[test]
fn made_up_e01_files_are_read_by_libewf() {
    if !called("made_up_e01_files_are_read_by_libewf") {
        return;
    }
    let raw = disk(301);
    for shape in shapes() {
        // libewf wants a last chunk that is not filled up.
        if shape.padded {
            continue;
        }
        let dir = scratch();
        let image = write_set(dir.path(), &ewf::set(&raw, &shape));
        assert!(by_libewf(&image, dir.path()) == raw, "{shape:?}");
    }
}

/// Containers by qemu that are compressed: read only as they are, cleaned with `--to raw`.
#[test]
fn compressed_images_by_qemu_are_cleaned_to_raw() {
    if !called("compressed_images_by_qemu_are_cleaned_to_raw") {
        return;
    }
    let dir = scratch();
    let (_, clean) = raw_and_clean(dir.path());
    let plain = dir.path().join("plain.img");
    for (format, options) in [
        ("qcow2", &["-c"][..]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vhdx", &[]),
    ] {
        let image = dir.path().join(format!("disk.{format}"));
        let args = [&["convert", "-f", "raw", "-O", format], options].concat();
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        check_to_raw(dir.path(), &image, &clean);
    }
}
