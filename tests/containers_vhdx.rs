//! VHDX: the same findings and the same cleaned disk as raw, headers as the specification wants
//! them, everything else as it was; the log replayed; parents read; damage named.

use std::{fs, path::Path, sync::Arc};

use declone::{
    container::{self, Opened},
    device::{BlockDevice, Device, Memory, Neighbours, Overlay},
    error::Kind,
};

use crate::{
    contained::Contained,
    containers::{findings, fixture, machine_disk},
    judges::{called, other_reading, tool},
    machine::GUID,
    run::{arg, declone, digest, samples, scratch},
    support::vhdx_builder::{self as vhdx, Parent, Shape},
};

const MIB: usize = 1 << 20;

/// Both headers are good, say that the disk changed, and agree; nothing else of the format moved.
#[track_caller]
pub fn check_headers(name: &str, before: &[u8], after: &[u8], steps: u64) {
    let old = vhdx::both_headers(before);
    let new = vhdx::both_headers(after);
    let highest = |both: &[vhdx::Header; 2]| both.iter().map(|h| h.sequence).max().unwrap();
    assert_eq!(highest(&new), highest(&old) + steps, "{name}");
    assert_eq!(new[0].sequence.abs_diff(new[1].sequence), 1, "{name}");
    assert_eq!(new[0].data_write, new[1].data_write, "{name}");
    assert_eq!(new[0].file_write, new[1].file_write, "{name}");
    for header in &new {
        assert_ne!(header.data_write, old[0].data_write, "{name}");
        assert_ne!(header.file_write, old[0].file_write, "{name}");
        assert_eq!(header.log, [0; 16], "{name}");
    }
}

/// The identifiers follow from the file and from what is written: the same twice, others for others.
#[test]
fn two_changes_of_one_vhdx_never_share_an_identifier() {
    let raw = machine_disk();
    let file = vhdx::build(&raw, Shape::default());
    let headers = |byte: u8| {
        let overlay = Arc::new(Overlay::new(Arc::new(Memory::new(file.clone()))));
        let host: Device = overlay.clone();
        let opened = container::open(host, Some("vhdx"), &Neighbours::default()).unwrap();
        opened.disk.write_at(1 << 20, &[byte; 8]).unwrap();
        opened.places.seal().unwrap();
        let mut now = vec![0; file.len()];
        overlay.read_at(0, &mut now).unwrap();
        let [a, b] = vhdx::both_headers(&now);
        assert_eq!(a.data_write, b.data_write);
        (a.data_write, a.file_write)
    };
    let (one, again, other) = (headers(1), headers(1), headers(2));
    assert_eq!(one, again);
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

fn check(name: &str, raw: &[u8], file: &[u8]) {
    let rest = |before: &[u8], after: &[u8]| {
        assert!(
            vhdx::metadata(after) == vhdx::metadata(before),
            "{name}: more than the headers was changed"
        );
        check_headers(name, before, after, 2);
    };
    Contained {
        format: "vhdx",
        guest: &vhdx::guest,
        rest: &rest,
    }
    .check(name, raw, file);
}

#[test]
fn vhdx_disks_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    let shapes = [
        Shape::default(),
        Shape {
            block: MIB,
            backwards: true,
            ..Shape::default()
        },
        Shape {
            fixed: true,
            ..Shape::default()
        },
        Shape {
            block: 32 * MIB,
            empty: 2,
            ..Shape::default()
        },
        // What freed blocks keep is no part of the disk.
        Shape {
            block: MIB,
            empty: 3,
            under: Some(0x5A),
            ..Shape::default()
        },
    ];
    for shape in shapes {
        check(&format!("{shape:?}"), &raw, &vhdx::build(&raw, shape));
    }
}

#[test]
fn disks_with_tables_are_cleaned_in_vhdx() {
    for (name, sector, block) in [
        ("xp-sms2003.img", 512, 1),
        ("gpt-4kn.img", 4096, 1),
        ("two-installations.img", 512, 8),
    ] {
        let shape = Shape {
            block: block * MIB,
            sector,
            backwards: true,
            ..Shape::default()
        };
        let raw = fixture(name);
        check(name, &raw, &vhdx::build(&raw, shape));
    }
}

// --- by library ---

pub fn open_device(device: Device) -> declone::error::Result<Opened> {
    container::open(device, Some("vhdx"), &Neighbours::default())
}

pub fn open(bytes: &[u8]) -> declone::error::Result<Opened> {
    open_device(Arc::new(Memory::new(bytes.to_vec())))
}

pub fn read_all(opened: &Opened) -> Vec<u8> {
    let mut bytes = vec![0xAA; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A disk of five blocks of 1 MiB and a bit: full, zeros, full, zeros, a short one.
pub fn small_raw() -> Vec<u8> {
    let mut raw = vec![0; 4 * MIB + 8192];
    for (i, byte) in raw.iter_mut().enumerate() {
        *byte = (i % 251) as u8 + (i >> 20) as u8 + 1;
    }
    raw[MIB..2 * MIB].fill(0);
    raw[3 * MIB..4 * MIB].fill(0);
    raw
}

pub fn small_shape() -> Shape {
    Shape {
        block: MIB,
        ..Shape::default()
    }
}

#[test]
fn every_shape_and_state_reads_as_built() {
    let raw = small_raw();
    for sector in [512, 4096] {
        for block in [1, 2, 32, 256] {
            for (empty, under) in [
                (0, None),
                (1, None),
                (1, Some(7)),
                (2, None),
                (3, None),
                (3, Some(7)),
                (5, Some(7)),
            ] {
                if block > 2 && empty != 0 {
                    continue;
                }
                let shape = Shape {
                    block: block * MIB,
                    sector,
                    empty,
                    under,
                    backwards: empty % 2 == 1,
                    ..Shape::default()
                };
                let file = vhdx::build(&raw, shape);
                let opened = open(&file).unwrap();
                assert!(read_all(&opened) == raw, "{shape:?}");
                assert!(opened.scan_only.is_none(), "{shape:?}");
                let facts = &opened.facts;
                assert_eq!(facts.block_size, Some(block as u64 * MIB as u64));
                assert_eq!(facts.blocks, Some(raw.len().div_ceil(block * MIB) as u64));
                assert_eq!(facts.kind.as_deref(), Some("dynamic"));
                assert_eq!(facts.creator.as_deref(), Some("vhdx_builder"));
                assert_eq!(facts.log.as_deref(), Some("empty"));
                assert_eq!(facts.id.as_deref(), Some(vhdx::DATA_WRITE));
                if block == 1 {
                    assert_eq!(facts.allocated, Some(3));
                    // Nobody's: the places of freed blocks, and nothing else.
                    let loose: Vec<u64> = (0..file.len() as u64)
                        .step_by(MIB)
                        .filter(|at| opened.places.is_loose(&(*at..at + 16)))
                        .collect();
                    let want: Vec<u64> = [1, 3]
                        .into_iter()
                        .filter(|_| under.is_some())
                        .map(|number| vhdx::get64(&file, vhdx::entry_at(&file, number)) >> 20 << 20)
                        .collect();
                    let mut want = want;
                    want.sort_unstable();
                    assert_eq!(loose, want, "{shape:?}");
                }
            }
        }
    }
}

#[test]
fn a_write_needs_a_block_and_new_headers_come_once() {
    let raw = small_raw();
    let file = vhdx::build(&raw, small_shape());
    let host = Arc::new(Memory::new(file.clone()));
    let overlay = Arc::new(Overlay::new(host.clone()));
    let opened = open_device(overlay.clone()).unwrap();
    let disk = &opened.disk;
    assert!(disk.read_at(raw.len() as u64 - 1, &mut [0; 2]).is_err());
    disk.write_at(MIB as u64, &[0; 4096]).unwrap();
    disk.zero_at(MIB as u64, MIB as u64).unwrap();
    assert!(overlay.diff().unwrap().is_empty());
    let error = disk.write_at(MIB as u64 - 2, &[9; 4]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(overlay.diff().unwrap().is_empty());
    disk.write_at(2 * MIB as u64 + 5, &[9; 4]).unwrap();
    opened.places.seal().unwrap();
    let mut now = vec![0; file.len()];
    overlay.read_at(0, &mut now).unwrap();
    let mut want = raw.clone();
    want[2 * MIB + 5..2 * MIB + 9].fill(9);
    assert!(vhdx::guest(&now) == want);
    check_headers("sealed", &file, &now, 2);
    assert!(vhdx::metadata(&now) == vhdx::metadata(&file));
    // The one that counted is written last: its copy was good before.
    let sequences = vhdx::both_headers(&now).map(|header| header.sequence);
    assert_eq!(sequences, [9, 10]);
    // The ladder, there and back.
    for at in (0..raw.len() as u64).step_by(4099) {
        let block = at as usize / MIB;
        let place = opened.places.file_offset(at);
        assert_eq!(place.is_some(), block.is_multiple_of(2), "{at:#x}");
        if let Some(place) = place {
            assert_eq!(opened.places.disk_offset(place), Some(at));
            assert_eq!(now[place as usize], want[at as usize]);
        }
    }
    assert_eq!(disk.next_data(MIB as u64).unwrap().unwrap().start, 2 << 20);
    assert_eq!(opened.places.seams(), [0_u64; 0]);
    let backwards = Shape {
        backwards: true,
        fixed: true,
        ..small_shape()
    };
    let opened = open(&vhdx::build(&raw, backwards)).unwrap();
    let all = [1, 2, 3, 4].map(|number| number << 20);
    assert_eq!(opened.places.seams(), all);
    assert_eq!(opened.facts.kind.as_deref(), Some("fixed"));
}

/// Disk2vhd writes the same header twice; a torn one is made good again.
#[test]
fn one_header_or_two_alike_will_do() {
    let raw = small_raw();
    let file = vhdx::build(&raw, small_shape());
    let [a, b] = vhdx::HEADERS;
    let mut alike = file.clone();
    alike.copy_within(b..b + 4096, a);
    let mut first_torn = file.clone();
    first_torn[a + 2000] ^= 1;
    let mut second_torn = file.clone();
    second_torn[b + 2000] ^= 1;
    for (name, bytes, want) in [
        ("alike", alike, [10, 9]),
        ("first torn", first_torn, [9, 10]),
        // The older one counts: its number is 7.
        ("second torn", second_torn, [9, 8]),
    ] {
        let overlay = Arc::new(Overlay::new(Arc::new(Memory::new(bytes))));
        let opened = open_device(overlay.clone()).unwrap();
        assert!(read_all(&opened) == raw, "{name}");
        assert!(opened.scan_only.is_none(), "{name}");
        assert_eq!(opened.notes.is_empty(), name == "alike", "{name}");
        opened.places.seal().unwrap();
        let mut now = vec![0; file.len()];
        overlay.read_at(0, &mut now).unwrap();
        let new = vhdx::both_headers(&now);
        assert_eq!(new.each_ref().map(|header| header.sequence), want, "{name}");
        assert_eq!(new[0].data_write, new[1].data_write, "{name}");
    }
}

// --- parents ---

fn keys(relative: &str, linkage: &str) -> Vec<(&'static str, String)> {
    vec![
        ("parent_linkage", format!("{{{}}}", linkage.to_uppercase())),
        ("relative_path", relative.to_owned()),
        (
            "absolute_win32_path",
            format!("C:\\vms\\{}", relative.trim_start_matches(".\\")),
        ),
    ]
}

/// The disk with the first sector of every block of 1 MiB inverted.
fn marked(raw: &[u8], sector: usize) -> Vec<u8> {
    let mut out = raw.to_vec();
    for block in out.chunks_mut(MIB) {
        block.iter_mut().take(sector).for_each(|byte| *byte ^= 0xFF);
    }
    out
}

#[test]
fn a_differencing_disk_is_cleaned_and_its_parent_stays() {
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, plain_out) = (path("raw.img"), path("raw.out"));
    fs::write(&plain, &raw).unwrap();
    declone(&["clean", arg(&plain), "-o", arg(&plain_out), "--prove"]).exits(0);
    let want = fs::read(&plain_out).unwrap();
    let scan = |image: &Path| {
        let said = declone(&["scan", arg(image), "--json", "-"])
            .exits(1)
            .json();
        findings(&said).0
    };
    let expected = scan(&plain);
    for (name, below, sector, partial, empty) in [
        ("all in the child", vec![0x11; raw.len()], 512, false, 2),
        (
            "all sectors in the child",
            vec![0x11; raw.len()],
            512,
            true,
            0,
        ),
        // The identity is the parent's: a write makes room for it in the child's block.
        ("a sector of each block", marked(&raw, 512), 512, true, 0),
        ("4096-byte sectors", marked(&raw, 4096), 4096, true, 0),
        ("a shorter parent", vec![0x11; 3 * MIB], 512, true, 2),
    ] {
        let shape = Shape {
            block: MIB,
            sector,
            empty,
            ..Shape::default()
        };
        let base = vhdx::build(&below, shape);
        let parent = Parent {
            raw: &below,
            keys: keys(".\\Base.vhdx", vhdx::DATA_WRITE),
            partial,
        };
        let file = vhdx::differencing(&raw, shape, &parent);
        assert!(vhdx::guest_over(&file, &below) == raw, "{name}: builder");
        let (base_at, image, out) = (path("base.vhdx"), path("child.vhdx"), path("out.vhdx"));
        vhdx::write(&base_at, &base);
        vhdx::write(&image, &file);
        assert_eq!(scan(&image), expected, "{name}");
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        assert!(!ran.out.contains("LEFT"), "{name}: {}", ran.out);
        let cleaned = fs::read(&out).unwrap();
        assert!(vhdx::guest_over(&cleaned, &below) == want, "{name}");
        assert!(vhdx::metadata(&cleaned) == vhdx::metadata(&file), "{name}");
        check_headers(name, &file, &cleaned, 2);
        declone(&["scan", arg(&out)]).exits(0);
        assert!(fs::read(&base_at).unwrap() == base, "{name}: the parent");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_chain_is_followed_by_identity_and_only_beside_the_image() {
    let raw = small_raw();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let shape = small_shape();
    let (bottom, middle) = (marked(&raw, 512), marked(&raw, 1024));
    let with = |raw: &'static [u8], keys| Parent {
        raw,
        keys,
        partial: true,
    };
    let bottom: &'static [u8] = bottom.leak();
    let middle: &'static [u8] = middle.leak();
    let base = vhdx::build(bottom, shape);
    let second = with(bottom, keys("base.vhdx", vhdx::DATA_WRITE));
    let second = vhdx::differencing(middle, shape, &second);
    let child = |keys| vhdx::differencing(&raw, shape, &with(middle, keys));
    vhdx::write(&path("base.vhdx"), &base);
    vhdx::write(&path("second.vhdx"), &second);
    let image = path("child.vhdx");
    let open_child = |file: &[u8]| {
        vhdx::write(&image, file);
        let near = Neighbours::of(&image, &[]);
        container::open(Arc::new(Memory::new(file.to_vec())), None, &near)
    };
    let good = child(keys(".\\second.vhdx", vhdx::DATA_WRITE));
    let opened = open_child(&good).unwrap();
    assert!(read_all(&opened) == raw);
    assert_eq!(opened.facts.chain, ["second.vhdx", "base.vhdx"]);
    assert_eq!(opened.facts.kind.as_deref(), Some("differencing"));
    // State 0 is the parent's, all others are not.
    for (state, zeros) in [(0, false), (1, true), (2, true), (3, true), (5, true)] {
        let mut file = good.clone();
        vhdx::put(
            &mut file,
            vhdx::entry_at(&good, 2),
            &[state, 0, 0, 0, 0, 0, 0, 0],
        );
        let now = read_all(&open_child(&file).unwrap());
        let block = 2 * MIB..3 * MIB;
        match zeros {
            true => assert!(now[block].iter().all(|byte| *byte == 0), "{state}"),
            false => assert!(now[block.clone()] == middle[block], "{state}"),
        }
    }
    // The second linkage will do, too; another identity will not.
    let other = "99999999-1111-4222-8333-444455556666";
    let mut two = keys("second.vhdx", other);
    let error = open_child(&child(two.clone())).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains(other), "{error}");
    two.push(("parent_linkage2", format!("{{{}}}", vhdx::DATA_WRITE)));
    assert!(open_child(&child(two)).is_ok());
    // The last part of an absolute path, beside the image.
    let mut moved = keys("..\\gone\\second.vhdx", vhdx::DATA_WRITE);
    moved[2].1 = "D:\\old\\SECOND.vhdx".to_owned();
    assert!(read_all(&open_child(&child(moved)).unwrap()) == raw);
    for name in [
        "..\\..\\etc\\passwd",
        "/etc/passwd",
        "\\\\host\\share\\a.vhdx",
        "gone.vhdx",
        "child.vhdx",
        "json:{}",
    ] {
        let mut only = keys(name, vhdx::DATA_WRITE);
        only.truncate(2);
        let error = open_child(&child(only)).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{name}: {error}");
    }
    let none = keys("", vhdx::DATA_WRITE)[..1].to_vec();
    assert_eq!(
        open_child(&child(none)).unwrap_err().kind(),
        Kind::Malformed
    );
    // Without a place to look nothing is opened.
    assert_eq!(open(&good).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn what_only_the_parent_has_room_for_is_refused() {
    let raw = machine_disk();
    let dir = scratch();
    let (base, image) = (dir.path().join("base.vhdx"), dir.path().join("child.vhdx"));
    let shape = Shape::default();
    let parent = Parent {
        raw: &raw,
        keys: keys("base.vhdx", vhdx::DATA_WRITE),
        partial: false,
    };
    vhdx::write(&base, &vhdx::build(&raw, shape));
    vhdx::write(&image, &vhdx::differencing(&raw, shape, &parent));
    let before = digest(&image);
    let scan = declone(&["scan", arg(&image)]).exits(1);
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(ran.out.contains("allocated block"), "{}", ran.out);
    let line = ran
        .out
        .lines()
        .find(|line| line.contains("allocated block"));
    let (_, what) = line.unwrap().split_once("refused: ").unwrap();
    assert!(
        scan.out
            .contains(&format!("a clean would be refused: {what}")),
        "{}",
        scan.out
    );
    assert_eq!(digest(&image), before);
    // The parent would change under its child.
    let below = digest(&base);
    let ran = declone(&["clean", arg(&base), "--in-place"]).exits(3);
    assert!(ran.out.contains("its child child.vhdx"), "{}", ran.out);
    assert_eq!(digest(&base), below);
    fs::remove_file(&base).unwrap();
    let ran = declone(&["scan", arg(&image)]).exits(3);
    assert!(ran.out.contains("--allow-file"), "{}", ran.out);
}

// --- residue ---

/// What freed blocks hold and what nothing references is found, and gone after a clean.
#[test]
fn an_identity_in_a_freed_block_is_wiped() {
    // Undefined, unmapped, and unmapped as the draft of the specification numbers it.
    for empty in [1, 3, 5] {
        freed_block_is_wiped(empty);
    }
}

fn freed_block_is_wiped(empty: u64) {
    let raw = machine_disk();
    let shape = Shape {
        empty,
        under: Some(0),
        ..Shape::default()
    };
    let mut file = vhdx::build(&raw, shape);
    let freed = (0..12)
        .map(|number| vhdx::get64(&file, vhdx::entry_at(&file, number)))
        .find(|entry| entry & 7 == empty)
        .unwrap();
    let orphan = file.len();
    file.resize(orphan + 2 * MIB, 0);
    let places = [(freed >> 20 << 20) as usize + 5000, orphan + 70_000];
    for at in places {
        vhdx::put(&mut file, at, GUID.as_bytes());
    }
    let dir = scratch();
    let (image, out) = (dir.path().join("a.vhdx"), dir.path().join("b.vhdx"));
    vhdx::write(&image, &file);
    declone(&["verify", arg(&image)]).exits(1);
    let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    assert!(ran.out.contains("nothing references"), "{}", ran.out);
    assert!(!ran.out.contains("LEFT"), "{}", ran.out);
    let cleaned = fs::read(&out).unwrap();
    for at in places {
        assert_eq!(cleaned[at..at + 36], [0; 36], "{at:#x}");
    }
    assert!(vhdx::metadata(&cleaned) == vhdx::metadata(&file));
}

// --- others' eyes ---

fn convert(image: &Path, raw: &Path) {
    let args = ["convert", "-f", "vhdx", "-O", "raw", arg(image), arg(raw)];
    tool("qemu-img", &args);
}

/// The disk in an image, as declone reads it, against a raw file.
#[track_caller]
fn reads_as(name: &str, image: &Path, raw: &Path) {
    let host: Device = Arc::new(declone::device::HostFile::open(image).unwrap());
    let near = Neighbours::of(image, &[]);
    let ours = container::open(host, None, &near).unwrap().disk;
    let theirs = declone::device::HostFile::open(raw).unwrap();
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let (mut a, mut b) = (vec![0; MIB], vec![0; MIB]);
    for at in (0..ours.len()).step_by(MIB) {
        let len = (ours.len() - at).min(MIB as u64) as usize;
        ours.read_at(at, &mut a[..len]).unwrap();
        theirs.read_at(at, &mut b[..len]).unwrap();
        assert!(a[..len] == b[..len], "{name}: {at:#x}");
    }
}

#[test]
fn vhdx_files_read_as_qemu_and_7zip_read_them() {
    if !called("vhdx_files_read_as_qemu_and_7zip_read_them") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, plain_out) = (path("plain.img"), path("plain.out"));
    fs::write(&plain, &raw).unwrap();
    declone(&["clean", arg(&plain), "-o", arg(&plain_out), "--prove"]).exits(0);
    let (image, out, back) = (path("in.vhdx"), path("out.vhdx"), path("back.img"));
    let mut done = 0;
    let mut judge = |name: &str| {
        let before = fs::read(&image).unwrap();
        convert(&image, &back);
        reads_as(name, &image, &back);
        let args = ["clean", arg(&image), "-o", arg(&out), "--prove"];
        let ran = declone(&args).exits(0);
        assert!(!ran.out.contains("LEFT"), "{name}: {}", ran.out);
        tool("qemu-img", &["check", "-f", "vhdx", arg(&out)]);
        convert(&out, &back);
        assert_eq!(digest(&back), digest(&plain_out), "{name}");
        reads_as(name, &out, &back);
        assert!(seven_zip(&out) == fs::read(&back).unwrap(), "{name}: 7zz");
        check_headers(name, &before, &fs::read(&out).unwrap(), 2);
        fs::remove_file(&out).unwrap();
        done += 1;
    };
    for options in [
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=dynamic,block_size=1M,block_state_zero=off",
        "subformat=dynamic,block_size=256M,log_size=4M",
    ] {
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            "vhdx",
            "-o",
            options,
            arg(&plain),
            arg(&image),
        ];
        tool("qemu-img", &args);
        judge(options);
    }
    for shape in [
        Shape::default(),
        Shape {
            block: MIB,
            empty: 3,
            under: Some(0x5A),
            backwards: true,
            ..Shape::default()
        },
    ] {
        vhdx::write(&image, &vhdx::build(&raw, shape));
        judge(&format!("{shape:?}"));
    }
    assert_eq!(done, 6);
}

/// The disk as 7-Zip reads it.
fn seven_zip(image: &Path) -> Vec<u8> {
    tool("7zz", &["x", "-so", "-tvhdx", arg(image)]).stdout
}

#[test]
fn sectors_of_4096_bytes_and_parents_read_as_7zip_reads_them() {
    if !called("sectors_of_4096_bytes_and_parents_read_as_7zip_reads_them") {
        return;
    }
    let dir = scratch();
    let (base, image) = (dir.path().join("base.vhdx"), dir.path().join("a.vhdx"));
    for sector in [512, 4096] {
        let raw = small_raw();
        let shape = Shape {
            sector,
            ..small_shape()
        };
        vhdx::write(&image, &vhdx::build(&raw, shape));
        assert!(seven_zip(&image) == raw, "{sector}");
        for library in ["libvhdi", "dissect"] {
            assert!(other_reading(library, &image) == raw, "{library} {sector}");
        }
        let below = marked(&raw, 3 * sector);
        let parent = Parent {
            raw: &below,
            keys: keys(".\\base.vhdx", vhdx::DATA_WRITE),
            partial: true,
        };
        vhdx::write(&base, &vhdx::build(&below, shape));
        vhdx::write(&image, &vhdx::differencing(&raw, shape, &parent));
        let theirs = dir.path().join("theirs.img");
        fs::write(&theirs, seven_zip(&image)).unwrap();
        reads_as("differencing", &image, &theirs);
        assert!(fs::read(&theirs).unwrap() == raw, "{sector}");
        assert!(
            other_reading("dissect", &image) == raw,
            "dissect over a parent, {sector}"
        );
    }
}

#[test]
fn the_sample_with_a_log_reads_as_qemu_repairs_it() {
    let name = "the_sample_with_a_log_reads_as_qemu_repairs_it";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    let packed = samples.join("containers/vhdx-log-replay.vhdx.gz");
    let bytes = tool("gzip", &["-dc", arg(&packed)]).stdout;
    let dir = scratch();
    let (image, repaired) = (dir.path().join("a.vhdx"), dir.path().join("b.vhdx"));
    let back = dir.path().join("b.img");
    fs::write(&image, &bytes).unwrap();
    fs::write(&repaired, &bytes).unwrap();
    tool(
        "qemu-img",
        &["check", "-r", "all", "-f", "vhdx", arg(&repaired)],
    );
    convert(&repaired, &back);
    reads_as("replayed by qemu", &repaired, &back);
    reads_as("replayed by declone", &image, &back);
    assert!(fs::read(&image).unwrap() == bytes);
}
