//! QCOW2: the disk inside is read as qemu reads it, cleaned as the raw disk is, and nothing else of
//! the file changes.

use std::{fs, ops::Range, path::Path, sync::Arc};

use declone::{
    container,
    device::{BlockDevice, Memory, Neighbours, Overlay},
    error::Kind,
};

use crate::{
    contained::Contained,
    containers::{fixture, machine_disk},
    judges::{called, tool},
    machine::GUID,
    oracle,
    run::{arg, declone, digest, samples, scratch},
    support::{
        qcow2_builder::{self as qcow2, Shape},
        tables::{self, Piece, be32, be64, put},
    },
};

/// A kind of container, as the tests know it.
pub struct Format {
    pub name: &'static str,
    /// Where the disk's bytes lie, by the test's own reader.
    pub pieces: fn(&[u8]) -> (usize, Vec<Piece>),
    /// What a clean changes beside the disk's bytes.
    pub sealed: fn(&[u8]) -> Vec<Range<usize>>,
}

pub const QCOW2: Format = Format {
    name: "qcow2",
    pieces: qcow2::pieces,
    sealed: |file| match be32(file, 4) {
        3 => vec![88..96],
        _ => Vec::new(),
    },
};

impl Format {
    pub fn guest(&self, file: &[u8]) -> Vec<u8> {
        tables::guest(file, (self.pieces)(file))
    }

    pub fn open(&self, bytes: &[u8]) -> declone::error::Result<container::Opened> {
        container::open(
            Arc::new(Memory::new(bytes.to_vec())),
            Some(self.name),
            &Neighbours::default(),
        )
    }

    /// As [`Contained::check`], and as many blocks as there are.
    pub fn check(&self, name: &str, raw: &[u8], file: &[u8]) {
        let rest = |before: &[u8], after: &[u8]| self.same_rest(name, before, after);
        let contained = Contained {
            format: self.name,
            guest: &|file| self.guest(file),
            rest: &rest,
        };
        let facts = contained.check(name, raw, file);
        let blocks = facts["container"]["allocated"].as_u64().unwrap();
        assert_eq!(blocks as usize, (self.pieces)(file).1.len(), "{name}");
    }

    /// What is not the disk's is the same in both files, but for what a clean seals.
    pub fn same_rest(&self, name: &str, before: &[u8], after: &[u8]) {
        let mut rests = [before, after].map(|file| tables::rest(file, (self.pieces)(file)));
        for rest in &mut rests {
            for part in (self.sealed)(before) {
                rest[part].fill(0);
            }
        }
        assert!(
            rests[0] == rests[1],
            "{name}: header or tables were changed"
        );
    }
}

/// Expects the codes of a scan and of cleans, a word in what was said, advice, and an unchanged
/// directory. `files` lie beside the first one, which is the image.
#[track_caller]
pub fn refused(what: &str, files: &[(&str, &[u8])], scan: i32, clean: i32, word: &str) {
    let dir = scratch();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (image, out) = (dir.path().join(files[0].0), dir.path().join("out.bin"));
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
        assert!(ran.out.contains("what to do:"), "{what}: {}", ran.out);
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        files.len(),
        "{what}"
    );
    for (name, bytes) in files {
        let now = fs::read(dir.path().join(name)).unwrap();
        assert!(now == *bytes, "{what}: {name} was written");
    }
}

#[test]
fn qcow2_images_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    for shape in [
        Shape::default(),
        // Every hive and nearly every file crosses clusters here; tables of 64 entries.
        Shape {
            bits: 9,
            version: 2,
            backwards: true,
            ..Shape::default()
        },
        Shape {
            bits: 12,
            backwards: true,
            order: 0,
            zeros: true,
            spare: 3,
            ..Shape::default()
        },
        Shape {
            bits: 21,
            order: 6,
            ..Shape::default()
        },
    ] {
        QCOW2.check(&format!("{shape:?}"), &raw, &qcow2::image(&raw, shape));
    }
}

#[test]
fn autoclear_bits_are_cleared_by_a_clean_and_by_nothing_else() {
    let raw = machine_disk();
    let mut file = qcow2::image(&raw, Shape::default());
    // Unknown ones: a program that does not know them clears them when it writes.
    put(&mut file, 88, &(1_u64 << 40 | 1).to_be_bytes());
    QCOW2.check("autoclear", &raw, &file);
    let dir = scratch();
    let image = dir.path().join("a.qcow2");
    fs::write(&image, &file).unwrap();
    declone(&["clean", arg(&image), "--in-place"]).exits(0);
    let mut now = fs::read(&image).unwrap();
    assert_eq!(be64(&now, 88), 0);
    // Set again on a clean disk: no reason to write.
    put(&mut now, 88, &1_u64.to_be_bytes());
    fs::write(&image, &now).unwrap();
    declone(&["clean", arg(&image), "--in-place"]).exits(0);
    assert!(fs::read(&image).unwrap() == now);
}

/// What nothing references is searched and zeroed; what something unknown may reference stays.
#[test]
fn an_identity_in_a_cluster_that_nothing_references_is_zeroed() {
    let raw = machine_disk();
    let shape = Shape {
        spare: 2,
        ..Shape::default()
    };
    let mut file = qcow2::image(&raw, shape);
    let spare = qcow2::spare_at(&file, shape) + 77;
    put(&mut file, spare, GUID.as_bytes());
    let cleaned = |file: &[u8], exit| {
        let dir = scratch();
        let (image, out) = (dir.path().join("a.bin"), dir.path().join("b.bin"));
        fs::write(&image, file).unwrap();
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(exit);
        (fs::read(&out).unwrap(), ran.out)
    };
    let (now, said) = cleaned(&file, 0);
    assert!(
        now[spare..spare + 36].iter().all(|byte| *byte == 0),
        "{said}"
    );
    // A refcount without a reference is a leak, and nobody's.
    let mut leaked = file.clone();
    qcow2::set_refcount(&mut leaked, spare >> 16, 1);
    let (now, said) = cleaned(&leaked, 0);
    assert!(
        now[spare..spare + 36].iter().all(|byte| *byte == 0),
        "{said}"
    );
    // So is what lies under a cluster that reads as zeros and keeps its place.
    let mut under = leaked.clone();
    let absent = (0..raw.len() >> 16)
        .map(|number| qcow2::entry_at(&under, number))
        .find(|at| be64(&under, *at) == 0)
        .unwrap();
    let entry = (spare as u64 & !0xFFFF) | 1 << 63 | 1;
    put(&mut under, absent, &entry.to_be_bytes());
    assert!(QCOW2.guest(&under) == raw);
    let (now, said) = cleaned(&under, 0);
    assert!(
        now[spare..spare + 36].iter().all(|byte| *byte == 0),
        "{said}"
    );
    assert_eq!(be64(&now, absent), entry);
    // With an extension that declone does not know it may be that one's.
    put(&mut leaked, 104, &[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]);
    let (now, said) = cleaned(&leaked, 1);
    assert_eq!(&now[spare..spare + 36], GUID.as_bytes());
    assert!(said.contains("LEFT"), "{said}");
}

/// The identity split by a seam of the clusters: no search of the file can see it.
#[test]
fn an_identity_across_two_clusters_is_found_and_wiped() {
    let mut raw = machine_disk();
    let text = GUID.as_bytes();
    let seam = (0..raw.len() - 8192)
        .step_by(4096)
        .rev()
        .find(|at| raw[*at - 4096..*at + 4096].iter().all(|byte| *byte == 0))
        .unwrap();
    raw[seam - 18..seam + 18].copy_from_slice(text);
    let shape = Shape {
        bits: 12,
        backwards: true,
        ..Shape::default()
    };
    QCOW2.check("seam", &raw, &qcow2::image(&raw, shape));
}

// --- refusals and damage ---

fn small() -> Vec<u8> {
    qcow2::image(&fixture("tiny-superfloppy.img"), Shape::default())
}

#[test]
fn states_in_which_a_write_is_unsafe_are_looked_at_only() {
    let good = small();
    let at = qcow2::entry_at(&good, 0);
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), scan, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &[("a.qcow2", &file)], scan, 3, word);
    };
    let features = |bits: u64| move |f: &mut Vec<u8>| put(f, 72, &bits.to_be_bytes());
    case("C15 dirty", &features(1), 1, "`dirty`");
    case("C15 corrupt", &features(2), 1, "`corrupt`");
    case("C14 external data", &features(4), 3, "another file");
    case("C15 extended", &features(16), 3, "extended L2");
    case("C15 unknown", &features(1 << 33), 3, "unknown incompatible");
    case("C15 AES", &|f| f[35] = 1, 3, "AES");
    case("C15 LUKS", &|f| f[35] = 2, 3, "LUKS");
    case(
        "C16 snapshots",
        &|f| f[63] = 2,
        1,
        "no snapshots expected, found 2",
    );
    for count in [0, 2] {
        let change = |f: &mut Vec<u8>| {
            let data = (be64(f, at) & 0x00FF_FFFF_FFFF_FE00) >> 16;
            qcow2::set_refcount(f, data as usize, count);
        };
        let word = format!("1 expected for a cluster of the disk, found {count}");
        case("C16 refcount", &change, 1, &word);
    }
    case("bit 63 of L2", &|f| f[at] &= 0x7F, 1, "shared");
    case("bit 63 of L1", &|f| f[1 << 16] &= 0x7F, 1, "shared");
    for (name, word) in [
        ("/etc/passwd", "the name of a file beside it"),
        ("../a.qcow2", "the name of a file beside it"),
        ("nbd://localhost", "the name of a file beside it"),
        ("json:{\"driver\":\"file\"}", "the name of a file beside it"),
        ("gone.img", "not found"),
        ("a.qcow2", "refused"),
    ] {
        case(name, &|f| backed(f, name, Some("qcow2")), 3, word);
    }
    case(
        "C14 no format",
        &|f| backed(f, "b.img", None),
        3,
        "the format of the backing",
    );
}

/// Gives an image of version 3 a backing file.
pub fn backed(file: &mut [u8], name: &str, format: Option<&str>) {
    let mut at = 104;
    if let Some(format) = format {
        put(file, at, &0xE279_2ACA_u32.to_be_bytes());
        put(file, at + 4, &(format.len() as u32).to_be_bytes());
        put(file, at + 8, format.as_bytes());
        at += 8 + format.len().next_multiple_of(8) + 8;
    }
    put(file, at + 8, name.as_bytes());
    put(file, 8, &(at as u64 + 8).to_be_bytes());
    put(file, 16, &(name.len() as u32).to_be_bytes());
}

#[test]
fn damaged_qcow2_images_are_refused_and_stay_as_they_are() {
    let good = small();
    let at = qcow2::entry_at(&good, 0);
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), code, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &[("a.qcow2", &file)], code, code, word);
    };
    for version in [0, 1, 4, u32::MAX] {
        let change = |f: &mut Vec<u8>| put(f, 4, &version.to_be_bytes());
        case("version", &change, 4, "version 2 or 3");
    }
    for bits in [0_u32, 8, 22, 63, u32::MAX] {
        let change = |f: &mut Vec<u8>| put(f, 20, &bits.to_be_bytes());
        case("C16 cluster bits", &change, 4, "clusters of 2^9 to 2^21");
    }
    case("C5 L1 entries", &|f| f[36..40].fill(0xFF), 8, "L1 table");
    case("C5 no L1 entries", &|f| f[36..40].fill(0), 4, "L1 table");
    case("C5 size", &|f| f[24] = 0x7F, 4, "L1 table");
    case("size 0", &|f| f[24..32].fill(0), 4, "whole sectors");
    case(
        "C5 refcount table",
        &|f| f[56..60].fill(0xFF),
        4,
        "refcount table",
    );
    case(
        "no refcount table",
        &|f| f[56..60].fill(0),
        4,
        "refcount table",
    );
    for place in [0, 1, 512, good.len() as u64, u64::MAX] {
        let change = |field: usize| move |f: &mut Vec<u8>| put(f, field, &place.to_be_bytes());
        case("C6 L1 table", &change(40), 4, "L1 table");
        case("C6 refcount table", &change(48), 4, "refcount table");
    }
    let entry = |place: u64| move |f: &mut Vec<u8>| put(f, at, &(place | 1 << 63).to_be_bytes());
    case(
        "C6 data behind the end",
        &entry(good.len() as u64),
        4,
        "L2 table",
    );
    case(
        "C6 data far behind",
        &entry(0x00FF_FFFF_FFFF_0000),
        4,
        "L2 table",
    );
    case("C6 data unaligned", &entry(0x1_0200), 4, "L2 table");
    case("C6 data on the L1 table", &entry(0x1_0000), 4, "on a table");
    case("reserved bits", &entry(1 << 58 | 0x5_0000), 4, "L2 table");
    let l1 = |place: u64| move |f: &mut Vec<u8>| put(f, 1 << 16, &(place | 1 << 63).to_be_bytes());
    case("C6 L2 on the L1 table", &l1(1 << 16), 4, "two that meet");
    case(
        "C6 L2 behind the end",
        &l1(good.len() as u64),
        4,
        "L2 table",
    );
    let extension = |f: &mut Vec<u8>| put(f, 104, &[1, 2, 3, 4, 0xFF, 0xFF, 0xFF, 0xFF]);
    case("extension", &extension, 4, "extensions");
}

#[test]
fn two_clusters_in_one_place_are_not_written() {
    let raw = machine_disk();
    let mut file = qcow2::image(&raw, Shape::default());
    let first = be64(&file, qcow2::entry_at(&file, 0));
    let absent = (1..raw.len() >> 16)
        .map(|number| qcow2::entry_at(&file, number))
        .find(|at| be64(&file, *at) == 0)
        .unwrap();
    put(&mut file, absent, &first.to_be_bytes());
    refused("C7", &[("a.qcow2", &file)], 1, 3, "found two in one");
}

/// A disk of 8 KiB in clusters of 512 bytes, some of them zeros.
fn tiny(shape: Shape) -> (Vec<u8>, Vec<u8>) {
    let mut raw: Vec<u8> = (0..8192).map(|i| (i % 251) as u8 + 1).collect();
    raw[4096..5120].fill(0);
    let file = qcow2::image(&raw, shape);
    (raw, file)
}

/// Flips every byte of the metadata and cuts the file everywhere: what is read is read whole, and
/// what is damaged ends with a known kind of error.
pub fn flip_and_cut(format: &Format, file: &[u8]) {
    let (_, pieces) = (format.pieces)(file);
    let known = [
        Kind::Malformed,
        Kind::Unsupported,
        Kind::Refused,
        Kind::Limit,
    ];
    let look = |bytes: &[u8], what: String| match format.open(bytes) {
        Ok(opened) => {
            // A length that a flip made huge is not read whole.
            let mut now = vec![0; opened.virtual_len.min(1 << 20) as usize];
            match opened.disk.read_at(0, &mut now) {
                Ok(()) => Some(opened),
                Err(error) => {
                    assert!(known.contains(&error.kind()), "{what}: {error}");
                    assert!(opened.scan_only.is_some(), "{what}: {error}");
                    None
                }
            }
        }
        Err(error) => {
            assert!(known.contains(&error.kind()), "{what}: {error}");
            None
        }
    };
    for at in 0..file.len() {
        let data = |piece: &Piece| (piece.file..piece.file + piece.len).contains(&at);
        if pieces.iter().any(data) {
            continue;
        }
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = file.to_vec();
            bad[at] ^= flip;
            look(&bad, format!("{at}"));
        }
    }
    for len in 0..file.len() {
        look(&file[..len], format!("cut to {len}"));
    }
}

#[test]
fn any_flipped_byte_or_cut_of_a_qcow2_is_read_or_refused() {
    for (version, zeros) in [(3, true), (2, false)] {
        let shape = Shape {
            bits: 9,
            version,
            zeros,
            backwards: true,
            ..Shape::default()
        };
        flip_and_cut(&QCOW2, &tiny(shape).1);
    }
}

/// Reading, writing, the way there and back; on any format without a parent.
pub fn write_in_the_middle(format: &Format, raw: &[u8], file: &[u8], hole: Range<u64>) {
    let host = Arc::new(Memory::new(file.to_vec()));
    let overlay = Arc::new(Overlay::new(host.clone()));
    let opened =
        container::open(overlay.clone(), Some(format.name), &Neighbours::default()).unwrap();
    let disk = &opened.disk;
    assert!(opened.scan_only.is_none(), "{:?}", opened.scan_only);
    let mut now = vec![1; raw.len()];
    disk.read_at(0, &mut now).unwrap();
    assert!(now == raw);
    assert!(disk.read_at(raw.len() as u64 - 1, &mut [0; 2]).is_err());
    assert!(disk.read_at(u64::MAX, &mut [0; 2]).is_err());
    // Zeros where there are zeros already: nothing.
    disk.write_at(hole.start, &[0; 512]).unwrap();
    disk.zero_at(hole.start, hole.end - hole.start).unwrap();
    assert!(overlay.diff().unwrap().is_empty());
    // Bytes where there is no room: refused, and nothing of it is written.
    let error = disk.write_at(hole.start - 6, &[7; 12]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("allocated block"), "{error}");
    assert!(overlay.diff().unwrap().is_empty());
    let mut want = raw.to_vec();
    want[600..2000].fill(9);
    disk.write_at(600, &[9; 1400]).unwrap();
    let mut after = vec![0; file.len()];
    overlay.read_at(0, &mut after).unwrap();
    assert!(format.guest(&after) == want);
    let rest = |file: &[u8]| tables::rest(file, (format.pieces)(file));
    assert!(rest(&after) == rest(file), "no table is touched");
    assert_eq!(host.to_vec(), file);
    for at in (0..raw.len() as u64).filter(|at| !hole.contains(at)) {
        let place = opened.places.file_offset(at).unwrap();
        assert_eq!(opened.places.disk_offset(place), Some(at));
        assert_eq!(after[place as usize], want[at as usize]);
    }
    assert_eq!(opened.places.file_offset(hole.start), None);
    let (_, pieces) = (format.pieces)(file);
    for at in 0..file.len() {
        let data = |piece: &Piece| (piece.file..piece.file + piece.len).contains(&at);
        let shown = opened.places.disk_offset(at as u64).is_some();
        assert_eq!(shown, pieces.iter().any(data), "{at:#x}");
    }
    assert_eq!(disk.next_data(0).unwrap().unwrap().start, 0);
    let next = disk.next_data(hole.start).unwrap().unwrap();
    assert_eq!(next.start, hole.end);
    assert_eq!(disk.next_data(raw.len() as u64).unwrap(), None);
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec(bytes, 6)
}

fn read_all(file: &[u8]) -> declone::error::Result<Vec<u8>> {
    let opened = QCOW2.open(file)?;
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn compressed_clusters_are_read_and_never_written() {
    let raw = machine_disk();
    for (bits, kind) in [(12, false), (12, true), (16, true), (21, true)] {
        let pack = if kind { zstd } else { deflate };
        let file = qcow2::packed(&raw, bits, kind, pack);
        assert!(read_all(&file).unwrap() == raw, "{bits} {kind}");
        let dir = scratch();
        let (image, out) = (dir.path().join("a.qcow2"), dir.path().join("out.raw"));
        fs::write(&image, &file).unwrap();
        for args in [
            &["clean", arg(&image), "--in-place"][..],
            &["clean", arg(&image), "-o", arg(&out)],
        ] {
            let ran = declone(args).exits(3);
            assert!(ran.out.contains("compressed ones"), "{}", ran.out);
        }
        assert!(fs::read(&image).unwrap() == file);
    }
}

/// Damage in what is compressed: an error or other bytes, in bounded time and memory.
#[test]
fn hostile_zstd_clusters_are_refused_or_read() {
    let mut raw = vec![0; 8 << 12];
    for (at, byte) in raw.iter_mut().enumerate().take(6 << 12) {
        *byte = (at / 7 % 251) as u8 ^ (at >> 9) as u8;
    }
    let file = qcow2::packed(&raw, 12, true, zstd);
    let start = 5 << 12;
    let (mut read, mut refused) = (0, 0);
    for at in start..file.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = file.clone();
            bad[at] ^= flip;
            match read_all(&bad) {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), raw.len());
                    read += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Malformed, "{at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} {refused}");
    // What the frame holds is shorter, or longer than the cluster; or it asks for a huge window.
    let short = qcow2::packed(&raw, 12, true, |bytes| zstd(&bytes[..100]));
    let error = read_all(&short).unwrap_err();
    assert!(error.what().contains("found 100"), "{error}");
    let long = qcow2::packed(&raw, 12, true, |bytes| zstd(&bytes.repeat(64)));
    assert!(read_all(&long).unwrap() == raw);
    let window = qcow2::packed(&raw, 12, true, |_| {
        // No single segment, a window of 2^41 bytes, an RLE block.
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xF8];
        frame.extend([0x03, 0x80, 0x00, 0x41]);
        frame
    });
    let error = read_all(&window).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed, "{error}");
    // The header and the features must agree.
    for (feature, kind) in [(0_u64, 1), (1 << 3, 0), (1 << 3, 2)] {
        let mut bad = file.clone();
        put(&mut bad, 72, &feature.to_be_bytes());
        bad[104] = kind;
        assert_eq!(read_all(&bad).unwrap_err().kind(), Kind::Malformed);
    }
}

#[test]
fn a_write_lands_in_its_cluster_and_needs_one() {
    for zeros in [false, true] {
        let (raw, file) = tiny(Shape {
            bits: 9,
            zeros,
            backwards: true,
            ..Shape::default()
        });
        write_in_the_middle(&QCOW2, &raw, &file, 4096..5120);
    }
}

/// 64 TiB of disk in a file of some kilobytes: nothing that is not there is looked at.
#[test]
fn a_disk_of_64_tib_with_little_in_it_is_opened_at_once() {
    let mut file = small();
    let cluster = 1_u64 << 16;
    let entries = (64_u64 << 40) / (cluster * cluster / 8);
    put(&mut file, 24, &(64_u64 << 40).to_be_bytes());
    put(&mut file, 36, &(entries as u32).to_be_bytes());
    // A longer L1 table at the end of the file; what was the old one has a leaked refcount.
    let at = file.len() as u64;
    let old: [u8; 8] = file[1 << 16..(1 << 16) + 8].try_into().unwrap();
    put(&mut file, 40, &at.to_be_bytes());
    file.resize(file.len() + (entries * 8) as usize, 0);
    put(&mut file, at as usize, &old);
    let dir = scratch();
    let image = dir.path().join("a.qcow2");
    fs::write(&image, &file).unwrap();
    let ran = declone(&["scan", arg(&image), "--json", "-"]).exits(1);
    assert_eq!(ran.json()["images"][0]["image"]["disk_len"], 64_u64 << 40);
    assert!(ran.took.as_secs() < 5, "{:?}", ran.took);
}

// --- others' eyes ---

/// The disk in an image, as declone reads it.
pub fn own_reading(file: &Path, format: &str) -> Vec<u8> {
    let host = Arc::new(declone::device::HostFile::open(file).unwrap());
    let near = Neighbours::of(file, &[]);
    let opened = container::open(host, Some(format), &near).unwrap();
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes).unwrap();
    // And piece by piece, past the caches.
    let mut piece = vec![0; 5000];
    for at in (0..bytes.len().saturating_sub(piece.len())).step_by(70_001) {
        opened.disk.read_at(at as u64, &mut piece).unwrap();
        assert!(piece == bytes[at..at + piece.len()], "{at:#x}");
    }
    bytes
}

/// The disk in an image, as qemu reads it.
pub fn by_qemu(file: &Path, format: &str) -> Vec<u8> {
    let raw = file.with_extension("by-qemu");
    tool(
        "qemu-img",
        &["convert", "-f", format, "-O", "raw", arg(file), arg(&raw)],
    );
    fs::read(&raw).unwrap()
}

/// The disk in an image, as 7-Zip reads it.
pub fn by_7zip(file: &Path, kind: &str) -> Vec<u8> {
    let kind = format!("-t{kind}");
    tool("7zz", &["e", "-so", &kind, arg(file)]).stdout
}

#[test]
fn qcow2_samples_read_as_others_read_them() {
    let name = "qcow2_samples_read_as_others_read_them";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    let dir = scratch();
    for sample in ["plaso_v2.qcow2", "windows_volume.qcow2"] {
        let image = dir.path().join(sample);
        fs::write(
            &image,
            fs::read(samples.join("containers").join(sample)).unwrap(),
        )
        .unwrap();
        let own = own_reading(&image, "qcow2");
        assert!(own == by_qemu(&image, "qcow2"), "{sample}: qemu");
        assert!(own == by_7zip(&image, "qcow"), "{sample}: 7-Zip");
    }
}

/// As qemu writes them: read the same, cleaned the same, and `qemu-img check` finds nothing.
#[test]
fn qcow2_images_by_qemu_are_read_and_cleaned() {
    if !called("qcow2_images_by_qemu_are_read_and_cleaned") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, image, out) = (path("plain.img"), path("a.qcow2"), path("b.qcow2"));
    fs::write(&plain, &raw).unwrap();
    let cleaned_raw = path("plain.out");
    declone(&["clean", arg(&plain), "-o", arg(&cleaned_raw), "--prove"]).exits(0);
    let want = fs::read(&cleaned_raw).unwrap();
    for options in [
        "compat=1.1",
        "compat=0.10",
        "compat=1.1,cluster_size=512",
        "compat=1.1,cluster_size=2M",
        "compat=1.1,lazy_refcounts=on",
        "compat=1.1,refcount_bits=1",
        "compat=1.1,refcount_bits=64",
        "compat=1.1,preallocation=metadata",
        "compat=1.1,preallocation=falloc",
        "compat=1.1,preallocation=full",
    ] {
        let args = ["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        assert!(own_reading(&image, "qcow2") == raw, "{options}");
        assert!(by_7zip(&image, "qcow") == raw, "{options}: 7-Zip");
        let args = ["clean", arg(&image), "-o", arg(&out), "--prove"];
        let ran = declone(&args).exits(0);
        assert!(!ran.out.contains("LEFT"), "{options}: {}", ran.out);
        tool("qemu-img", &["check", "-f", "qcow2", arg(&out)]);
        assert!(by_qemu(&out, "qcow2") == want, "{options}");
        let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
        QCOW2.same_rest(options, &before, &after);
        assert!(before[..512] == after[..512], "{options}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn compressed_backed_and_snapshotted_qcow2_by_qemu_are_read_only() {
    if !called("compressed_backed_and_snapshotted_qcow2_by_qemu_are_read_only") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, image) = (path("plain.img"), path("a.qcow2"));
    fs::write(&plain, &raw).unwrap();
    let known = oracle::find_all(&raw, GUID.as_bytes()).len();
    let look = |image: &Path, word: &str| {
        assert!(
            own_reading(image, "qcow2") == by_qemu(image, "qcow2"),
            "{word}"
        );
        let before = digest(image);
        let ran = declone(&["scan", arg(image)]).exits(1);
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        let ran = declone(&["clean", arg(image), "--in-place"]).exits(3);
        assert!(
            ran.out.contains(word) && ran.out.contains("what to do:"),
            "{}",
            ran.out
        );
        assert_eq!(digest(image), before);
    };
    for (size, kind) in [
        ("512", "zlib"),
        ("65536", "zlib"),
        ("2M", "zlib"),
        ("512", "zstd"),
        ("65536", "zstd"),
        ("2M", "zstd"),
    ] {
        let options = format!("cluster_size={size},compression_type={kind}");
        let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        look(&image, "compressed");
        assert!(own_reading(&image, "qcow2") == raw, "{size} {kind}");
        // The disk is searched, not the file.
        let ran = declone(&["verify", arg(&image), "--json", "-"])
            .exits(1)
            .json();
        let hits = ran["images"][0]["residues"].as_array().unwrap().len();
        assert!(hits >= known.min(1), "{hits}");
    }
    // A snapshot holds what a clean would remove.
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            arg(&plain),
            arg(&image),
        ],
    );
    tool("qemu-img", &["snapshot", "-c", "one", arg(&image)]);
    look(&image, "snapshots");
    tool("qemu-img", &["snapshot", "-d", "one", arg(&image)]);
    declone(&["clean", arg(&image), "-o", arg(&path("c.qcow2")), "--prove"]).exits(0);
    // Over another one, which has what it has not.
    for (below, format) in [("plain.img", "raw"), ("a.qcow2", "qcow2")] {
        let child = path("child.qcow2");
        let args = [
            "create",
            "-f",
            "qcow2",
            "-F",
            format,
            "-b",
            below,
            arg(&child),
            "30M",
        ];
        tool("qemu-img", &args);
        look(&child, "backing file");
        let ran = declone(&["scan", arg(&child), "--json", "-"])
            .exits(1)
            .json();
        assert_eq!(ran["images"][0]["image"]["container"]["chain"][0], below);
        // And the one below is not written under it.
        let ran = declone(&["clean", arg(&path(below)), "--in-place"]).exits(3);
        assert!(ran.out.contains("its child child.qcow2"), "{}", ran.out);
    }
}
