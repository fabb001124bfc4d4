//! Disks inside containers: the same findings, the same cleaned disk as raw, and a container that
//! is otherwise the same, byte for byte.

use std::{fs, path::Path, sync::Arc};

use declone::{
    container,
    device::{BlockDevice, Memory, Neighbours, Overlay},
    error::Kind,
};
use serde_json::Value;

use crate::{
    contained::Contained,
    containers_qcow2,
    judges::{called, other_reading, tool},
    machine::{self, GUID},
    oracle,
    run::{Ran, arg, declone, digest, samples, scratch},
    support::{
        fixtures,
        ntfs_builder::Geometry,
        vhd_builder::{self as vhd, HEADER, Shape, TABLE},
    },
};

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;

pub fn machine_disk() -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("a.img");
    machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), &path);
    fs::read(path).unwrap()
}

pub fn fixture(name: &str) -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("a.img");
    fixtures::unpack_to(name, &path).unwrap();
    fs::read(path).unwrap()
}

fn shapes() -> Vec<Shape> {
    vec![
        Shape::default(),
        Shape {
            block: 512 * KIB,
            backwards: true,
            ..Shape::default()
        },
        // Every hive and nearly every file crosses blocks here.
        Shape {
            block: 4 * KIB,
            backwards: true,
            clear: true,
            under: 0xCC,
        },
        Shape {
            block: 64 * KIB,
            clear: true,
            under: 0x5A,
            ..Shape::default()
        },
    ]
}

/// Every place of every finding, without the image offsets; and the image offsets with the disk
/// offsets they belong to.
pub fn findings(json: &Value) -> (Vec<Value>, Vec<(u64, u64)>) {
    let number = |place: &Value| {
        let text = place["value"].as_str().unwrap().to_owned();
        u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
    };
    let mut pairs = Vec::new();
    let mut all = json["images"][0]["findings"].as_array().unwrap().clone();
    for finding in &mut all {
        let text = finding.to_string();
        let mut stack = vec![&mut *finding];
        while let Some(value) = stack.pop() {
            match value {
                Value::Array(list) => {
                    let at = |space: &str| list.iter().find(|p| p["space"] == space).map(number);
                    if let (Some(disk), Some(image)) = (at("disk offset"), at("image offset")) {
                        pairs.push((disk, image));
                        list.retain(|place| place["space"] != "image offset");
                    }
                    stack.extend(list);
                }
                Value::Object(map) => stack.extend(map.values_mut()),
                _ => {}
            }
        }
        assert!(!text.is_empty());
    }
    (all, pairs)
}

fn check(name: &str, raw: &[u8], file: &[u8]) {
    let rest = |before: &[u8], after: &[u8]| {
        assert!(
            vhd::metadata(after) == vhd::metadata(before),
            "{name}: footer, header, table or bitmaps were changed"
        );
    };
    Contained {
        format: "vhd",
        guest: &vhd::guest,
        rest: &rest,
    }
    .check(name, raw, file);
}

#[test]
fn fixed_vhds_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    check("fixed", &raw, &vhd::fixed(&raw));
    let raw = fixture("gpt-4kn.img");
    check("fixed GPT", &raw, &vhd::fixed(&raw));
    // The guest owns the first sector: a footer there decides nothing.
    let mut file = vhd::fixed(&machine_disk());
    file[..512].copy_from_slice(&vhd::footer(vhd::DYNAMIC, 1 << 20));
    let opened = open(&file).unwrap();
    assert_eq!(opened.virtual_len, file.len() as u64 - 512);
    assert_eq!(opened.facts.kind.as_deref(), Some("fixed"));
}

#[test]
fn dynamic_vhds_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    for shape in shapes() {
        check(&format!("{shape:?}"), &raw, &vhd::dynamic(&raw, shape));
    }
}

#[test]
fn disks_with_tables_are_cleaned_in_dynamic_vhds() {
    for (name, block) in [
        ("xp-sms2003.img", 2048),
        ("gpt-4kn.img", 512),
        ("two-installations.img", 2048),
    ] {
        let raw = fixture(name);
        let shape = Shape {
            block: block * KIB,
            backwards: true,
            ..Shape::default()
        };
        check(name, &raw, &vhd::dynamic(&raw, shape));
    }
}

#[test]
fn a_footer_of_511_bytes_is_read_and_kept() {
    let raw = machine_disk();
    for whole in [vhd::fixed(&raw), vhd::dynamic(&raw, Shape::default())] {
        let dir = scratch();
        let image = dir.path().join("a.vhd");
        let file = &whole[..whole.len() - 1];
        fs::write(&image, file).unwrap();
        declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
        let mut now = fs::read(&image).unwrap();
        assert_eq!(now.len(), file.len());
        assert_eq!(now[now.len() - 511..], file[file.len() - 511..]);
        now.push(0);
        let form = GUID
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>();
        assert!(oracle::find_all(&vhd::guest(&now), &form).is_empty());
    }
}

/// The identity split by a seam of the blocks: no search of the file can see it.
#[test]
fn an_identity_across_two_blocks_is_found_and_wiped() {
    let mut raw = machine_disk();
    // The free clusters are at the end; half of the GUID on each side of a block's boundary.
    let text = GUID.as_bytes();
    let seam = (0..raw.len() - 8192)
        .step_by(4096)
        .rev()
        .find(|at| raw[*at - 4096..*at + 4096].iter().all(|byte| *byte == 0))
        .unwrap();
    raw[seam - 18..seam + 18].copy_from_slice(text);
    let shape = Shape {
        block: 4 * KIB,
        backwards: true,
        ..Shape::default()
    };
    let file = vhd::dynamic(&raw, shape);
    let dir = scratch();
    let (image, out) = (dir.path().join("a.vhd"), dir.path().join("b.vhd"));
    fs::write(&image, &file).unwrap();
    let known = oracle::find_all(&file, text).len();
    let ran = declone(&["verify", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let hits = ran["images"][0]["residues"].as_array().unwrap();
    let partition = hits
        .iter()
        .filter(|hit| hit["volume_offset"] == seam as u64 - 18);
    assert_eq!(partition.count(), 1, "beside the {known} in one piece");
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    let now = vhd::guest(&fs::read(&out).unwrap());
    assert!(oracle::find_all(&now, text).is_empty());
    assert!(now[seam - 18..seam + 18].iter().all(|byte| *byte == 0));
}

/// Bytes that neither the disk nor the format needs: under a clear bit, and behind the blocks.
#[test]
fn an_identity_that_the_disk_does_not_show_is_wiped() {
    let raw = machine_disk();
    let shape = Shape {
        clear: true,
        ..Shape::default()
    };
    let mut file = vhd::dynamic(&raw, shape);
    // The first sector of the first block whose bit is clear.
    let bitmap = TABLE + 512;
    let sector = (0..4096)
        .find(|i| file[bitmap + i / 8] & (0x80 >> (i % 8)) == 0)
        .unwrap();
    let hidden = bitmap + 512 + sector * 512;
    file[hidden..hidden + 36].copy_from_slice(GUID.as_bytes());
    // A block that no entry of the table names any more.
    let foot = file.split_off(file.len() - 512);
    let orphan = file.len() + 5000;
    file.resize(file.len() + 8192, 0);
    file[orphan..orphan + 36].copy_from_slice(GUID.as_bytes());
    file.extend(foot);
    assert!(vhd::guest(&file) == raw);
    let dir = scratch();
    let (image, out) = (dir.path().join("a.vhd"), dir.path().join("b.vhd"));
    let report = dir.path().join("report.json");
    fs::write(&image, &file).unwrap();
    let args = [
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        arg(&report),
    ];
    let ran = declone(&args).exits(0);
    assert!(ran.out.contains("nothing references"), "{}", ran.out);
    assert!(!ran.out.contains("LEFT"), "{}", ran.out);
    let now = fs::read(&out).unwrap();
    for at in [hidden, orphan] {
        assert!(now[at..at + 36].iter().all(|b| *b == 0), "{at:#x}");
    }
    assert!(vhd::metadata(&now) == vhd::metadata(&file));
    declone(&["verify", arg(&out), "--against", arg(&report)]).exits(0);
}

// --- chains ---

fn said(ran: &Ran) -> String {
    format!("{}{}", ran.out, ran.err)
}

/// A child of 24 MiB and its parent: the same disk, but every third sector is another one.
fn family(shape: Shape) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let raw = machine_disk();
    let mut below = raw.clone();
    for (i, sector) in below.chunks_mut(512).enumerate() {
        if i % 3 == 0 && sector.iter().any(|b| *b != 0) {
            sector.iter_mut().for_each(|b| *b ^= 0x5C);
        }
    }
    let child = vhd::differencing(&raw, &below, "Parent.vhd", shape);
    assert!(vhd::guest_over(&child, &below) == raw, "the builder");
    (raw, vhd::dynamic(&below, Shape::default()), child)
}

#[test]
fn a_child_is_read_over_its_parent_and_written_alone() {
    for block in [4 * KIB, 64 * KIB, 2048 * KIB] {
        let shape = Shape {
            block,
            under: 0xCC,
            ..Shape::default()
        };
        let (raw, parent, child) = family(shape);
        let dir = scratch();
        let path = |end: &str| dir.path().join(end);
        let (image, below, plain) = (path("child.vhd"), path("parent.vhd"), path("raw.img"));
        fs::write(&image, &child).unwrap();
        fs::write(&below, &parent).unwrap();
        fs::write(&plain, &raw).unwrap();
        let scan = |image: &Path| {
            declone(&["scan", arg(image), "--json", "-"])
                .exits(1)
                .json()
        };
        let said = scan(&image);
        assert_eq!(findings(&said).0, findings(&scan(&plain)).0, "{block}");
        let facts = &said["images"][0]["image"]["container"];
        assert_eq!(facts["kind"], "differencing");
        assert_eq!(facts["chain"], serde_json::json!(["parent.vhd"]));

        let (clean_raw, out, undo) = (path("raw.out"), path("child.out"), path("undo"));
        declone(&["clean", arg(&plain), "-o", arg(&clean_raw), "--prove"]).exits(0);
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        let below_raw = vhd::guest(&parent);
        let cleaned = fs::read(&out).unwrap();
        let (got, want) = (
            vhd::guest_over(&cleaned, &below_raw),
            fs::read(&clean_raw).unwrap(),
        );
        let other = (0..want.len()).find(|at| got[*at] != want[*at]);
        assert_eq!(other, None, "{block}: another disk than raw");
        assert_eq!(cleaned[..HEADER + 1024], child[..HEADER + 1024], "{block}");
        declone(&[
            "clean",
            arg(&image),
            "--in-place",
            "--prove",
            "--undo",
            arg(&undo),
        ])
        .exits(0);
        assert!(fs::read(&image).unwrap() == cleaned, "{block}: in place");
        assert!(fs::read(&below).unwrap() == parent, "{block}: the parent");
        declone(&["scan", arg(&image)]).exits(0);
        declone(&["undo", arg(&undo)]).exits(0);
        assert!(fs::read(&image).unwrap() == child, "{block}: undone");
    }
}

#[test]
fn a_parent_is_not_written_under_its_child() {
    let (_, parent, child) = family(Shape::default());
    let dir = scratch();
    let (image, below) = (dir.path().join("child.vhd"), dir.path().join("parent.vhd"));
    let out = dir.path().join("copy.vhd");
    // Not the machine's disk, where every third sector is spoilt, but one that can be cleaned.
    let clean = vhd::dynamic(&machine_disk(), Shape::default());
    assert_eq!(clean.len(), parent.len());
    fs::write(&image, &child).unwrap();
    fs::write(&below, &clean).unwrap();
    let ran = declone(&["clean", arg(&below), "--in-place"]).exits(3);
    for word in ["child.vhd", "break its children", "nothing was written"] {
        assert!(said(&ran).contains(word), "{word}: {}", said(&ran));
    }
    assert!(fs::read(&below).unwrap() == clean);
    declone(&["clean", arg(&below), "-o", arg(&out)]).exits(0);
    fs::remove_file(&image).unwrap();
    declone(&["clean", arg(&below), "--in-place"]).exits(0);
}

#[test]
fn a_chain_that_does_not_hold_is_refused() {
    let (_, parent, child) = family(Shape::default());
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (image, below) = (path("child.vhd"), path("parent.vhd"));
    fs::write(&image, &child).unwrap();
    let refused = |words: &[&str]| {
        let ran = declone(&["scan", arg(&image)]).exits(3);
        for word in words {
            assert!(said(&ran).contains(word), "{word}: {}", said(&ran));
        }
    };
    refused(&["Parent.vhd", "not found", "--allow-file"]);
    // Another disk under the parent's name.
    let mut other = parent.clone();
    footers(&mut other, 68, &[1; 16]);
    fs::write(&below, &other).unwrap();
    refused(&["a5a5a5a5", "01010101"]);
    // A symbolic link is not followed, wherever it leads.
    fs::create_dir(path("far")).unwrap();
    fs::write(path("far/parent.vhd"), &parent).unwrap();
    fs::remove_file(&below).unwrap();
    std::os::unix::fs::symlink(path("far/parent.vhd"), path("Parent.vhd")).unwrap();
    refused(&["symbolic link"]);
    fs::remove_file(path("Parent.vhd")).unwrap();
    // Where the user says.
    let far = path("far/parent.vhd");
    declone(&["scan", arg(&image), "--allow-file", arg(&far)]).exits(1);
    // A disk on top of itself.
    let mut own = child.clone();
    footers(&mut own, 68, &[0xA5; 16]);
    fs::write(&image, &own).unwrap();
    fs::hard_link(&image, &below).unwrap();
    refused(&["comes back to itself"]);
}

// --- damage ---

fn small() -> Vec<u8> {
    vhd::dynamic(&fixture("tiny-superfloppy.img"), Shape::default())
}

/// Changes the header of a dynamic disk and makes its checksum right again.
fn header(file: &mut [u8], at: usize, new: &[u8]) {
    file[HEADER + at..HEADER + at + new.len()].copy_from_slice(new);
    vhd::seal(&mut file[HEADER..HEADER + 1024], 36);
}

/// Changes both footers and makes their checksums right again.
fn footers(file: &mut [u8], at: usize, new: &[u8]) {
    let end = file.len() - 512;
    for start in [0, end] {
        file[start + at..start + at + new.len()].copy_from_slice(new);
        vhd::seal(&mut file[start..start + 512], 64);
    }
}

/// Expects the codes of a scan and of cleans, a word in what was said, and an unchanged file.
#[track_caller]
fn refused(what: &str, file: &[u8], scan: i32, clean: i32, word: &str) {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.vhd"), dir.path().join("b.vhd"));
    fs::write(&image, file).unwrap();
    let ran = declone(&["scan", arg(&image)]);
    assert_eq!(ran.code, scan, "{what}: scan: {}{}", ran.out, ran.err);
    assert!(ran.out.contains(word), "{what}: {word}: {}", ran.out);
    for args in [
        &["clean", arg(&image), "-o", arg(&out)][..],
        &["clean", arg(&image), "--in-place"],
        &["clean", arg(&image), "-n"],
    ] {
        let ran = declone(args);
        assert_eq!(ran.code, clean, "{what}: {args:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(word), "{what}: {word}: {}", ran.out);
    }
    assert!(fs::read(&image).unwrap() == file, "{what}: it was written");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{what}");
}

#[test]
fn damaged_vhds_are_refused_and_stay_as_they_are() {
    let good = small();
    let end = good.len() - 512;
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), scan, clean, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &file, scan, clean, word);
    };
    for size in [0_u32, 1, 512, 2048, 3 << 20, u32::MAX] {
        let bytes = size.to_be_bytes();
        case(
            "C3 block size",
            &|f| header(f, 32, &bytes),
            4,
            4,
            "block size",
        );
    }
    case(
        "C4 both footers",
        &|f| {
            f[70] ^= 1;
            f[end + 70] ^= 1;
        },
        4,
        4,
        "checksum",
    );
    case("C4 end footer", &|f| f[end + 70] ^= 1, 1, 3, "checksum");
    case(
        "C4 end cookie",
        &|f| f[end] ^= 1,
        1,
        3,
        "copy at the front is good",
    );
    case(
        "C4 cut",
        &|f| f.truncate(end),
        1,
        3,
        "copy at the front is good",
    );
    case("C4 front footer", &|f| f[70] ^= 1, 1, 3, "damaged copy");
    case("C4 front cookie", &|f| f[0] ^= 1, 1, 3, "no copy");
    case(
        "C4 sizes differ",
        &|f| {
            f[48..56].copy_from_slice(&(1_u64 << 20).to_be_bytes());
            vhd::seal(&mut f[..512], 64);
        },
        4,
        4,
        "both copies",
    );
    case(
        "header checksum",
        &|f| f[HEADER + 700] ^= 1,
        4,
        4,
        "checksum",
    );
    for entries in [u32::MAX, 1 << 28] {
        let bytes = entries.to_be_bytes();
        case(
            "C5 entries",
            &|f| header(f, 28, &bytes),
            4,
            4,
            "VHD block table",
        );
    }
    case(
        "C5 no entries",
        &|f| header(f, 28, &[0; 4]),
        4,
        4,
        "table entries",
    );
    for size in [!511_u64, 1 << 62, 1 << 45] {
        let bytes = size.to_be_bytes();
        case(
            "C5 size",
            &|f| footers(f, 48, &bytes),
            4,
            4,
            "table entries",
        );
    }
    case("size 0", &|f| footers(f, 48, &[0; 8]), 4, 4, "current size");
    case(
        "size 513",
        &|f| footers(f, 54, &[2, 1]),
        4,
        4,
        "current size",
    );
    let sectors = (good.len() / 512) as u32;
    for (what, sector) in [
        ("C6 beyond the end", sectors),
        ("C6 far beyond the end", 0xFFFF_FFFE),
        ("C6 on the footer", 0),
        ("C6 on the header", 1),
        ("C6 on the table", 3),
        ("C6 over the end", sectors - 2),
    ] {
        let entry = |f: &mut Vec<u8>| f[TABLE..TABLE + 4].copy_from_slice(&sector.to_be_bytes());
        case(what, &entry, 4, 4, "VHD block table: block 0");
    }
    for at in [
        0,
        1,
        HEADER as u64 + 1,
        512 + 512,
        end as u64,
        good.len() as u64,
        u64::MAX,
    ] {
        case(
            "C8 header",
            &|f| footers(f, 16, &at.to_be_bytes()),
            4,
            4,
            "VHD dynamic header",
        );
    }
    for at in [0, 512, 1024, TABLE as u64 + 4, end as u64, u64::MAX] {
        case(
            "C8 table",
            &|f| header(f, 16, &at.to_be_bytes()),
            4,
            4,
            "VHD block table",
        );
    }
    case(
        "type 7",
        &|f| footers(f, 60, &7_u32.to_be_bytes()),
        4,
        4,
        "disk type",
    );
    case(
        "version 2",
        &|f| footers(f, 12, &0x2_0000_u32.to_be_bytes()),
        4,
        4,
        "version",
    );
    case(
        "saved state",
        &|f| footers(f, 84, &[1]),
        1,
        3,
        "saved state",
    );
    case(
        "C9 differencing",
        &|f| footers(f, 60, &4_u32.to_be_bytes()),
        4,
        4,
        "name of its parent",
    );
    // Fixed: longer than the file.
    let mut file = vhd::fixed(&fixture("tiny-superfloppy.img"));
    let (at, len) = (file.len() - 512, file.len() as u64);
    file[at + 48..at + 56].copy_from_slice(&len.to_be_bytes());
    vhd::seal(&mut file[at..], 64);
    refused("fixed, too long", &file, 4, 4, "current size");
}

#[test]
fn two_blocks_in_one_place_are_not_written() {
    let raw = machine_disk();
    let mut file = vhd::dynamic(
        &raw,
        Shape {
            block: 512 * KIB,
            ..Shape::default()
        },
    );
    // A block of zeros in the place of the block before it.
    let absent = (1..raw.len() / (512 * KIB))
        .find(|i| file[TABLE + i * 4..TABLE + i * 4 + 4] == [0xFF; 4])
        .unwrap();
    let first: [u8; 4] = file[TABLE..TABLE + 4].try_into().unwrap();
    file[TABLE + absent * 4..TABLE + absent * 4 + 4].copy_from_slice(&first);
    refused("C7", &file, 1, 3, "found blocks 0 and");
}

fn open(bytes: &[u8]) -> declone::error::Result<container::Opened> {
    container::open(
        Arc::new(Memory::new(bytes.to_vec())),
        Some("vhd"),
        &Neighbours::default(),
    )
}

/// A dynamic disk of 12 KiB in 4 KiB blocks, the middle one absent.
fn tiny() -> (Vec<u8>, Vec<u8>) {
    let mut raw = vec![0; 12 * KIB];
    for (i, byte) in raw.iter_mut().enumerate() {
        *byte = (i % 251) as u8 + 1;
    }
    raw[4096..8192].fill(0);
    raw[512..1024].fill(0);
    let shape = Shape {
        block: 4096,
        backwards: true,
        clear: true,
        under: 0xEE,
    };
    let file = vhd::dynamic(&raw, shape);
    (raw, file)
}

#[test]
fn any_flipped_byte_is_read_or_refused_and_never_believed() {
    let (raw, file) = tiny();
    let metadata = (0..2048).chain(file.len() - 512..file.len());
    for at in metadata {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = file.clone();
            bad[at] ^= flip;
            let opened = match open(&bad) {
                Ok(opened) => opened,
                Err(error) => {
                    let known = [
                        Kind::Malformed,
                        Kind::Unsupported,
                        Kind::Refused,
                        Kind::Limit,
                    ];
                    assert!(known.contains(&error.kind()), "{at}: {error}");
                    continue;
                }
            };
            let mut now = vec![0; opened.virtual_len as usize];
            opened.disk.read_at(0, &mut now).unwrap();
            let footer = at < 512 || at >= file.len() - 512;
            assert!(!footer || opened.scan_only.is_some(), "{at}");
            assert!(!footer || now == raw, "{at}");
            assert!(footer || at >= TABLE, "the header has a checksum: {at}");
        }
    }
    for len in 0..file.len() {
        if let Ok(opened) = open(&file[..len]) {
            // One byte less is a footer of 511 bytes.
            assert!(
                opened.scan_only.is_some() || len == file.len() - 1,
                "cut to {len}"
            );
        }
    }
}

#[test]
fn a_write_sets_the_bit_of_its_sector_and_needs_a_block() {
    let (raw, file) = tiny();
    let host = Arc::new(Memory::new(file.clone()));
    let overlay = Arc::new(Overlay::new(host.clone()));
    let opened = container::open(overlay.clone(), None, &Neighbours::default()).unwrap();
    let disk = &opened.disk;
    let read = |from: usize, len: usize| {
        let mut bytes = vec![1; len];
        disk.read_at(from as u64, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(0, raw.len()), raw);
    assert!(disk.read_at(raw.len() as u64 - 1, &mut [0; 2]).is_err());
    assert!(disk.read_at(u64::MAX, &mut [0; 2]).is_err());
    // Zeros where there are zeros already: nothing.
    disk.write_at(500 + 12, &[0; 512]).unwrap();
    disk.write_at(4096, &[0; 4096]).unwrap();
    disk.zero_at(4096, 4096).unwrap();
    assert!(overlay.diff().unwrap().is_empty());
    // Bytes where there is no block: refused, and nothing of it is written.
    let error = disk.write_at(4090, &[7; 12]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("allocated block"), "{error}");
    assert!(overlay.diff().unwrap().is_empty());
    // Into the sector with the clear bit: what lay under it does not come to light.
    disk.write_at(600, &[9; 4]).unwrap();
    let mut want = raw.clone();
    want[600..604].fill(9);
    assert_eq!(read(0, raw.len()), want);
    let mut now = vec![0; file.len()];
    overlay.read_at(0, &mut now).unwrap();
    assert_eq!(vhd::guest(&now), want);
    // Fresh eyes see it, too; only one bit and one sector differ.
    let again = container::open(overlay.clone(), None, &Neighbours::default()).unwrap();
    let mut seen = vec![0; raw.len()];
    again.disk.read_at(0, &mut seen).unwrap();
    assert_eq!(seen, want);
    let changed = file.iter().zip(&now).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 1 + 512);
    assert_eq!(host.to_vec(), file);
    // The ladder, there and back.
    for at in (0..raw.len() as u64).filter(|at| !(4096..8192).contains(at)) {
        let place = opened.places.file_offset(at).unwrap();
        assert_eq!(opened.places.disk_offset(place), Some(at));
        assert_eq!(now[place as usize], want[at as usize]);
    }
    assert_eq!(opened.places.file_offset(5000), None);
    for at in (0..2048).chain(file.len() as u64 - 512..file.len() as u64) {
        assert_eq!(opened.places.disk_offset(at), None, "{at}");
    }
    assert_eq!(disk.next_data(0).unwrap(), Some(0..4096));
    assert_eq!(disk.next_data(4096).unwrap().unwrap().start, 8192);
    assert_eq!(disk.next_data(12 << 10).unwrap(), None);
}

// --- others' eyes ---

/// The disk in an image, as declone reads it.
fn own_reading(file: &Path) -> Vec<u8> {
    let opened = open(&fs::read(file).unwrap()).unwrap();
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn samples_read_as_qemu_reads_them() {
    let name = "samples_read_as_qemu_reads_them";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    let dir = scratch();
    for sample in [
        "fixed.vhd.xz",
        "plaso_dynamic.vhd.xz",
        "minimal_dynamic.vhd",
        "original-size-mismatch.vhd",
    ] {
        let packed = samples.join("containers").join(sample);
        let (image, raw) = (dir.path().join("a.vhd"), dir.path().join("a.raw"));
        let bytes = match sample.ends_with(".xz") {
            true => tool("xz", &["-dc", arg(&packed)]).stdout,
            false => fs::read(&packed).unwrap(),
        };
        fs::write(&image, bytes).unwrap();
        tool(
            "qemu-img",
            &["convert", "-f", "vpc", "-O", "raw", arg(&image), arg(&raw)],
        );
        let theirs = fs::read(&raw).unwrap();
        // qemu goes by the geometry here, which is the current size in all of these.
        assert!(own_reading(&image) == theirs, "{sample}");
        for library in ["libvhdi", "dissect"] {
            // libvhdi goes by the original size.
            if (library, sample) != ("libvhdi", "original-size-mismatch.vhd") {
                assert!(
                    other_reading(library, &image) == theirs,
                    "{library} {sample}"
                );
            }
        }
    }
}

#[test]
fn bitmaps_and_chains_read_as_others_read_them() {
    if !called("bitmaps_and_chains_read_as_others_read_them") {
        return;
    }
    let dir = scratch();
    let (parent, image) = (dir.path().join("Parent.vhd"), dir.path().join("a.vhd"));
    for shape in [
        Shape::default(),
        // Over bytes under a clear bit the readers do not agree: no judge for those.
        Shape {
            backwards: true,
            ..Shape::default()
        },
    ] {
        let (raw, below, child) = family(shape);
        fs::write(&image, vhd::dynamic(&raw, shape)).unwrap();
        assert!(other_reading("libvhdi", &image) == raw, "{shape:?}");
        assert!(own_reading(&image) == raw, "{shape:?}");
        fs::write(&parent, below).unwrap();
        fs::write(&image, child).unwrap();
        // libvhdi takes a sector that the child leaves to its parent for zeros: 7-Zip judges here.
        let seven = tool("7zz", &["x", "-so", "-tvhd", arg(&image)]).stdout;
        assert!(seven == raw, "{shape:?} over a parent");
        let ours = containers_qcow2::own_reading(&image, "vhd");
        assert!(ours == raw, "{shape:?} over a parent");
    }
}

#[test]
fn samples_read_as_dissect_reads_them() {
    let name = "samples_read_as_dissect_reads_them";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    let dir = scratch();
    for (sample, format) in [
        ("plaso_v2.qcow2", "qcow2"),
        ("windows_volume.qcow2", "qcow2"),
        ("mono_sparse_min.vmdk.xz", "vmdk"),
    ] {
        let packed = samples.join("containers").join(sample);
        let image = dir.path().join("a").with_extension(format);
        let bytes = match sample.ends_with(".xz") {
            true => tool("xz", &["-dc", arg(&packed)]).stdout,
            false => fs::read(&packed).unwrap(),
        };
        fs::write(&image, bytes).unwrap();
        let ours = containers_qcow2::own_reading(&image, format);
        assert!(!ours.is_empty());
        assert!(other_reading("dissect", &image) == ours, "{sample}");
    }
}

#[test]
fn cleaned_vhds_read_as_qemu_reads_them() {
    if !called("cleaned_vhds_read_as_qemu_reads_them") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, by_qemu) = (path("plain.img"), path("by_qemu.vhd"));
    fs::write(&plain, &raw).unwrap();
    let mut files = vec![
        ("fixed".to_owned(), vhd::fixed(&raw)),
        ("dynamic".to_owned(), vhd::dynamic(&raw, Shape::default())),
    ];
    // And as qemu writes them.
    for kind in ["fixed", "dynamic"] {
        let options = format!("subformat={kind},force_size=on");
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            "vpc",
            "-o",
            &options,
            arg(&plain),
            arg(&by_qemu),
        ];
        tool("qemu-img", &args);
        files.push((format!("{kind} by qemu"), fs::read(&by_qemu).unwrap()));
    }
    for (name, file) in files {
        let (image, out) = (path("in.vhd"), path("out.vhd"));
        let (back, json) = (path("back.img"), path("report.json"));
        fs::write(&image, &file).unwrap();
        let args = [
            "clean",
            arg(&image),
            "-o",
            arg(&out),
            "--prove",
            "--json",
            arg(&json),
        ];
        let ran = declone(&args).exits(0);
        assert!(!ran.out.contains("LEFT"), "{name}: {}", ran.out);
        for image in [&image, &out] {
            tool("qemu-img", &["info", "-f", "vpc", arg(image)]);
            tool(
                "qemu-img",
                &["convert", "-f", "vpc", "-O", "raw", arg(image), arg(&back)],
            );
            let theirs = fs::read(&back).unwrap();
            assert!(own_reading(image) == theirs, "{name}: {}", image.display());
            assert_eq!(theirs.len(), raw.len(), "{name}");
        }
        let cleaned_raw = path("plain.out");
        declone(&["clean", arg(&plain), "-o", arg(&cleaned_raw), "--prove"]).exits(0);
        assert_eq!(digest(&back), digest(&cleaned_raw), "{name}");
        declone(&["verify", arg(&out), "--against", arg(&json)]).exits(0);
        for file in [&out, &cleaned_raw] {
            fs::remove_file(file).unwrap();
        }
    }
}
