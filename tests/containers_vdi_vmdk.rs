//! VDI and VMDK: the disk inside is read as qemu reads it, cleaned as the raw disk is, and nothing
//! else of the file changes but the identifier of its contents.

use std::{fs, path::Path, sync::Arc};

use declone::{
    container,
    device::{BlockDevice, Device, Memory, Neighbours, Overlay},
};

use crate::{
    containers::{findings, fixture, machine_disk},
    containers_qcow2::{
        Format, by_7zip, by_qemu, flip_and_cut, own_reading, refused, write_in_the_middle,
    },
    judges::{called, other_reading_over, tool},
    run::{arg, declone, digest, samples, scratch},
    support::{
        tables::{self, le32, put},
        vdi_builder as vdi,
        vmdk_builder::{self as vmdk, Shape},
    },
};

const VDI: Format = Format {
    name: "vdi",
    pieces: vdi::pieces,
    sealed: |_| vec![vdi::MODIFIED],
};

const VMDK: Format = Format {
    name: "vmdk",
    pieces: vmdk::pieces,
    sealed: |file| {
        let at = vmdk::cid_at(file);
        let end = file[at..].iter().position(|byte| *byte == b'\n').unwrap();
        vec![at..at + end]
    },
};

#[test]
fn vdi_images_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    for (block, backwards, zeros, fixed) in [
        (1 << 20, false, false, false),
        (1 << 20, true, true, false),
        (4096, true, false, false),
        (1 << 20, false, false, true),
    ] {
        let file = vdi::image(&raw, block, backwards, zeros, fixed);
        VDI.check(&format!("{block} {backwards} {zeros} {fixed}"), &raw, &file);
    }
}

/// What a change of these bytes makes of the file, sealed.
fn changed(format: &Format, file: &[u8], byte: u8) -> Vec<u8> {
    let overlay = Arc::new(Overlay::new(Arc::new(Memory::new(file.to_vec()))));
    let host: Device = overlay.clone();
    let opened = container::open(host, Some(format.name), &Neighbours::default()).unwrap();
    opened.disk.write_at(0, &[byte; 8]).unwrap();
    opened.places.seal().unwrap();
    let mut now = vec![0; file.len()];
    overlay.read_at(0, &mut now).unwrap();
    now
}

/// The identifiers follow from the file and from what is written: the same twice, others for others.
#[test]
fn two_changes_of_one_vdi_or_vmdk_never_share_an_identifier() {
    let (raw, _) = tiny();
    let shape = Shape {
        grain: 1,
        ..Shape::default()
    };
    for (format, file) in [
        (&VDI, vdi::image(&raw, 512, false, false, false)),
        (&VMDK, vmdk::sparse(&raw, shape)),
    ] {
        let id = |file: &[u8]| -> Vec<u8> {
            (format.sealed)(file)
                .into_iter()
                .flat_map(|part| file[part].to_vec())
                .collect()
        };
        let [one, again, other] = [1, 1, 2].map(|byte| changed(format, &file, byte));
        assert!(one == again, "{}", format.name);
        assert_ne!(id(&one), id(&file), "{}", format.name);
        assert_ne!(id(&one), id(&other), "{}", format.name);
        assert_eq!(id(&one).len(), id(&file).len(), "{}", format.name);
    }
}

/// VirtualBox does so, too: a differencing image must not open over a parent that was changed.
#[test]
fn a_cleaned_vdi_has_another_modification_uuid_always_the_same() {
    let file = vdi::image(&machine_disk(), 1 << 20, false, false, false);
    let dir = scratch();
    let mut all = Vec::new();
    for name in ["a.vdi", "b.vdi"] {
        let image = dir.path().join(name);
        fs::write(&image, &file).unwrap();
        declone(&["clean", arg(&image), "--in-place"]).exits(0);
        let now = fs::read(&image).unwrap();
        let uuid = now[vdi::MODIFIED].to_vec();
        assert_ne!(uuid, file[vdi::MODIFIED]);
        // Version 8 in the third field, which is little-endian, and the variant.
        assert_eq!((uuid[7] >> 4, uuid[8] >> 6), (8, 2));
        all.push(now);
        // Clean already: nothing is written.
        let before = digest(&image);
        declone(&["clean", arg(&image), "--in-place"]).exits(0);
        assert_eq!(digest(&image), before);
    }
    assert!(all[0] == all[1]);
}

#[test]
fn vmdk_images_are_cleaned_like_the_raw_disk_inside() {
    let raw = machine_disk();
    for shape in [
        Shape::default(),
        Shape {
            grain: 8,
            backwards: true,
            ..Shape::default()
        },
        Shape {
            grain: 1,
            redundant: false,
            zeros: true,
            ..Shape::default()
        },
    ] {
        VMDK.check(&format!("{shape:?}"), &raw, &vmdk::sparse(&raw, shape));
    }
}

/// What a program finds that compares content IDs: another one, of as many digits.
#[test]
fn a_cleaned_vmdk_has_another_content_id_of_as_many_digits() {
    let raw = machine_disk();
    for old in ["1a2b3c4d", "FFFFFFFE", "c", "123"] {
        let mut file = vmdk::sparse(&raw, Shape::default());
        let at = vmdk::cid_at(&file);
        // The rest of the eight digits becomes blanks, as no program writes it.
        put(&mut file, at, format!("{old:<8}").as_bytes());
        let dir = scratch();
        let image = dir.path().join("a.vmdk");
        fs::write(&image, &file).unwrap();
        declone(&["clean", arg(&image), "--in-place"]).exits(0);
        let now = fs::read(&image).unwrap();
        let new = String::from_utf8(now[at..at + 8].to_vec()).unwrap();
        assert_eq!(new.trim_end().len(), old.len(), "{old}: {new}");
        assert!(u32::from_str_radix(new.trim_end(), 16).is_ok(), "{new}");
        assert!(!new.trim_end().eq_ignore_ascii_case(old), "{new}");
        VMDK.same_rest(old, &file, &now);
    }
}

/// A differencing image names the UUID of the one it stands on.
#[test]
fn a_vdi_under_a_differencing_one_is_not_written_in_place() {
    let raw = machine_disk();
    let file = vdi::image(&raw, 1 << 20, false, false, false);
    let mut child = vdi::image(&vec![0; raw.len()], 1 << 20, false, false, false);
    put(&mut child, 0x4C, &4_u32.to_le_bytes());
    put(&mut child, 0x188, &[7; 16]);
    put(&mut child, 0x1A8, &[0xA5; 16]);
    let dir = scratch();
    let (image, over) = (dir.path().join("a.vdi"), dir.path().join("b.vdi"));
    fs::write(&image, &file).unwrap();
    fs::write(&over, &child).unwrap();
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(ran.out.contains("its child b.vdi"), "{}", ran.out);
    assert!(fs::read(&image).unwrap() == file);
    // It stands on another one.
    put(&mut child, 0x1A8, &[0xA6; 16]);
    fs::write(&over, &child).unwrap();
    declone(&["clean", arg(&image), "--in-place"]).exits(0);
}

/// A disk for the parent: other data in every block of `raw`, or in most.
fn spoilt(raw: &[u8], block: usize, some_same: bool) -> Vec<u8> {
    let mut below = raw.to_vec();
    for (n, part) in below.chunks_mut(block).enumerate() {
        let is_zero = part.iter().all(|byte| *byte == 0);
        match (n % 4, is_zero) {
            (0, _) if some_same => {}
            (1, true) => part.fill(0x77),
            (_, true) => {}
            _ => part.iter_mut().for_each(|byte| *byte ^= 0x5C),
        }
    }
    below
}

#[test]
fn a_differencing_vdi_is_read_over_its_parent_and_written_alone() {
    let raw = machine_disk();
    let block = 64 << 10;
    let parent = vdi::image(&spoilt(&raw, block, false), block, true, true, false);
    let child = vdi::differencing(&raw, &parent, block);
    let below_raw = tables::guest(&parent, vdi::pieces(&parent));
    assert!(vdi::guest_over(&child, &below_raw) == raw, "the builder");
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (image, below, plain) = (path("child.vdi"), path("some name.vdi"), path("raw.img"));
    fs::write(&image, &child).unwrap();
    fs::write(&below, &parent).unwrap();
    fs::write(&plain, &raw).unwrap();
    assert!(own_reading(&image, "vdi") == raw);
    let scan = |image: &Path| {
        declone(&["scan", arg(image), "--json", "-"])
            .exits(1)
            .json()
    };
    let said = scan(&image);
    assert_eq!(findings(&said).0, findings(&scan(&plain)).0);
    let facts = &said["images"][0]["image"]["container"];
    assert_eq!(facts["kind"], "differencing");
    assert_eq!(facts["chain"], serde_json::json!(["some name.vdi"]));

    let (clean_raw, out, undo) = (path("raw.out"), path("child.out"), path("undo"));
    declone(&["clean", arg(&plain), "-o", arg(&clean_raw), "--prove"]).exits(0);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    let cleaned = fs::read(&out).unwrap();
    assert!(vdi::guest_over(&cleaned, &below_raw) == fs::read(&clean_raw).unwrap());
    VDI.same_rest("child", &child, &cleaned);
    assert_ne!(cleaned[vdi::MODIFIED], child[vdi::MODIFIED]);
    let args = [
        "clean",
        arg(&image),
        "--in-place",
        "--prove",
        "--undo",
        arg(&undo),
    ];
    declone(&args).exits(0);
    assert!(fs::read(&image).unwrap() == cleaned, "in place");
    assert!(fs::read(&below).unwrap() == parent, "the parent");
    declone(&["scan", arg(&image)]).exits(0);
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(fs::read(&image).unwrap() == child, "undone");
}

/// A block that only the parent has is read, and nothing is written where there is no room.
#[test]
fn a_differencing_vdi_without_room_is_read_and_not_written() {
    let raw = machine_disk();
    let block = 64 << 10;
    let parent = vdi::image(&spoilt(&raw, block, true), block, false, false, false);
    let child = vdi::differencing(&raw, &parent, block);
    let dir = scratch();
    let (image, below) = (dir.path().join("child.vdi"), dir.path().join("base.vdi"));
    fs::write(&image, &child).unwrap();
    fs::write(&below, &parent).unwrap();
    assert!(own_reading(&image, "vdi") == raw);
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(
        ran.out.contains("an allocated block expected"),
        "{}",
        ran.out
    );
    // The third of the chain, with nothing of its own.
    let mut third = vdi::differencing(&raw, &vdi::image(&raw, block, false, false, false), block);
    put(&mut third, 0x188, &[0xD4; 16]);
    put(&mut third, 0x1A8, &child[0x188..0x198]);
    put(&mut third, 0x1B8, &child[0x198..0x1A8]);
    let top = dir.path().join("top.vdi");
    fs::write(&top, &third).unwrap();
    assert!(own_reading(&top, "vdi") == raw);
    let said = declone(&["scan", arg(&top), "--json", "-"]).exits(1).json();
    let chain = &said["images"][0]["image"]["container"]["chain"];
    assert_eq!(*chain, serde_json::json!(["child.vdi", "base.vdi"]));
    assert!(fs::read(&image).unwrap() == child && fs::read(&below).unwrap() == parent);
}

#[test]
fn a_chain_of_vdi_images_that_does_not_hold_is_refused() {
    let raw = fixture("tiny-superfloppy.img");
    let block = 64 << 10;
    let parent = vdi::image(&spoilt(&raw, block, true), block, false, false, false);
    let child = vdi::differencing(&raw, &parent, block);
    let with = |file: &[u8], at: usize, byte: u8| {
        let mut other = file.to_vec();
        put(&mut other, at, &[byte; 16]);
        other
    };
    let case = |what: &str, below: &[u8], word: &str| {
        let files = [("a.vdi", &child[..]), ("b.vdi", below)];
        refused(what, &files, 3, 3, word);
    };
    case(
        "another one",
        &with(&parent, 0x188, 9),
        "no file with that UUID",
    );
    case(
        "changed",
        &with(&parent, 0x198, 9),
        "one that was changed since",
    );
    // Elsewhere, under any name: where the user says.
    let dir = scratch();
    let far = dir.path().join("far");
    fs::create_dir(&far).unwrap();
    let (image, below) = (dir.path().join("a.vdi"), far.join("base.img"));
    fs::write(&image, &child).unwrap();
    fs::write(&below, &parent).unwrap();
    let ran = declone(&["scan", arg(&image)]).exits(3);
    assert!(ran.out.contains("--allow-file PATH"), "{}", ran.out);
    let args = ["scan", arg(&image), "--allow-file", arg(&below)];
    let said = declone(&[&args[..], &["--json", "-"]].concat()).exits(1);
    let chain = &said.json()["images"][0]["image"]["container"]["chain"];
    assert_eq!(*chain, serde_json::json!(["base.img"]));
    // An allowed file that is no parent does not help, and nothing is written to one that is.
    fs::write(&below, with(&parent, 0x188, 9)).unwrap();
    let ran = declone(&args).exits(3);
    assert!(ran.out.contains("no file with that UUID"), "{}", ran.out);
    // Each stands on the other.
    let mut round = with(&child, 0x188, 0xA5);
    put(&mut round, 0x1A8, &[0xC3; 16]);
    put(&mut round, 0x198, &parent[0x198..0x1A8]);
    put(&mut round, 0x1B8, &child[0x198..0x1A8]);
    let dir = scratch();
    let image = dir.path().join("a.vdi");
    fs::write(&image, &child).unwrap();
    fs::write(dir.path().join("b.vdi"), &round).unwrap();
    let ran = declone(&["scan", arg(&image)]).exits(3);
    assert!(
        ran.out.contains("VDI: the parent") || ran.out.contains("comes back"),
        "{}",
        ran.out
    );
}

/// What no table names is searched and zeroed.
#[test]
fn an_identity_in_a_grain_or_block_that_nothing_references_is_zeroed() {
    let raw = machine_disk();
    let text = crate::machine::GUID.as_bytes();
    for mut file in [
        vdi::image(&raw, 1 << 20, false, false, false),
        vmdk::sparse(&raw, Shape::default()),
    ] {
        let spare = file.len() + 100;
        file.resize(file.len() + (1 << 20), 0);
        put(&mut file, spare, text);
        let dir = scratch();
        let (image, out) = (dir.path().join("a.bin"), dir.path().join("b.bin"));
        fs::write(&image, &file).unwrap();
        declone(&["verify", arg(&image)]).exits(1);
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        assert!(!ran.out.contains("LEFT"), "{}", ran.out);
        let now = fs::read(&out).unwrap();
        assert!(now[spare..spare + 36].iter().all(|byte| *byte == 0));
    }
}

/// A block or grain in the middle of the file that the tables let go: the disk shows zeros there, and
/// what it held is searched and zeroed.
#[test]
fn an_identity_in_a_freed_block_or_grain_is_zeroed() {
    let raw = machine_disk();
    let block = 64 << 10;
    let hole = (4..raw.len() / block)
        .find(|n| {
            raw[n * block..(n + 1) * block]
                .iter()
                .all(|byte| *byte == 0)
        })
        .unwrap();
    // It is there as long as it holds something.
    let mut full = raw.clone();
    full[hole * block..(hole + 1) * block].fill(0x11);
    let mut in_vdi = vdi::image(&full, block, false, false, false);
    let entry = vdi::MAP + hole * 4;
    let vdi_at = le32(&in_vdi, 0x158) + le32(&in_vdi, entry) * block;
    put(&mut in_vdi, entry, &[0xFF; 4]);
    let mut in_vmdk = vmdk::sparse(&full, Shape::default());
    let tables = [48, 56].map(|field| le32(&in_vmdk, le32(&in_vmdk, field) * 512) * 512);
    let vmdk_at = le32(&in_vmdk, tables[0] + hole * 4) * 512;
    for table in tables {
        put(&mut in_vmdk, table + hole * 4, &[0; 4]);
    }
    for (format, mut file, at) in [(&VDI, in_vdi, vdi_at), (&VMDK, in_vmdk, vmdk_at)] {
        assert!(file[at..at + block].iter().all(|byte| *byte == 0x11));
        put(&mut file, at + 5000, crate::machine::GUID.as_bytes());
        assert!(format.guest(&file) == raw, "{}", format.name);
        let dir = scratch();
        let (image, out) = (dir.path().join("a.bin"), dir.path().join("b.bin"));
        fs::write(&image, &file).unwrap();
        declone(&["verify", arg(&image)]).exits(1);
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        assert!(ran.out.contains("nothing references"), "{}", ran.out);
        assert!(!ran.out.contains("LEFT"), "{}", ran.out);
        let now = fs::read(&out).unwrap();
        assert!(now[at + 5000..at + 5036].iter().all(|byte| *byte == 0));
        declone(&["verify", arg(&out)]).exits(0);
        declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
        assert!(fs::read(&image).unwrap() == now, "{}", format.name);
    }
}

// --- refusals and damage ---

#[test]
fn damaged_vdi_images_are_refused_and_stay_as_they_are() {
    let good = vdi::image(
        &fixture("tiny-superfloppy.img"),
        1 << 20,
        false,
        false,
        false,
    );
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), scan, clean, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &[("a.vdi", &file)], scan, clean, word);
    };
    let field = |at: usize, value: u32| move |f: &mut Vec<u8>| put(f, at, &value.to_le_bytes());
    case("undo", &field(0x4C, 3), 3, 3, "an undo image");
    case(
        "differencing",
        &field(0x4C, 4),
        3,
        3,
        "no file with that UUID",
    );
    case("type", &field(0x4C, 5), 4, 4, "type 1 to 4");
    case("version", &field(0x44, 1), 4, 4, "version 1.1");
    case("header", &field(0x48, 0x17F), 4, 4, "at least 384 bytes");
    case("parent", &field(0x1A8, 7), 1, 3, "the UUID of one");
    for size in [0, 1, 511, 3 << 20, u32::MAX] {
        case("C3 block size", &field(0x178, size), 4, 4, "block size");
    }
    case("C5 blocks", &field(0x180, u32::MAX), 8, 8, "block map");
    case("C5 no blocks", &field(0x180, 0), 4, 4, "0 blocks");
    case("C5 size", &field(0x174, 0x7FFF), 4, 4, "blocks of");
    case(
        "size 0",
        &|f| f[0x170..0x178].fill(0),
        4,
        4,
        "found 0 bytes",
    );
    case("sector", &field(0x168, 4096), 4, 4, "sectors of 512");
    for at in [0, 72, 400, good.len() as u32, u32::MAX] {
        case("C6 map", &field(0x154, at), 4, 4, "block map");
    }
    for at in [0, 512, good.len() as u32 + 1, u32::MAX] {
        case("C6 data", &field(0x158, at), 4, 4, "block map");
    }
    case("C6 entry", &field(vdi::MAP, 0x1000), 4, 4, "block 0 inside");
    case(
        "C6 far entry",
        &field(vdi::MAP, 0xFFFF_FFFD),
        4,
        4,
        "block 0 inside",
    );
    let raw = machine_disk();
    let mut file = vdi::image(&raw, 1 << 20, false, false, false);
    let absent = (1..24)
        .map(|number| vdi::MAP + number * 4)
        .find(|at| le32(&file, *at) == 0xFFFF_FFFF)
        .unwrap();
    put(&mut file, absent, &[0; 4]);
    refused("C7", &[("a.vdi", &file)], 1, 3, "found two in one");
}

#[test]
fn damaged_vmdk_images_are_refused_and_stay_as_they_are() {
    let raw = fixture("tiny-superfloppy.img");
    let good = vmdk::sparse(&raw, Shape::default());
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), scan, clean, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &[("a.vmdk", &file)], scan, clean, word);
    };
    let field = |at: usize, value: u32| move |f: &mut Vec<u8>| put(f, at, &value.to_le_bytes());
    case("version", &field(4, 4), 4, 4, "version 1 to 3");
    case("version 3", &field(4, 3), 1, 3, "found version 3");
    case("unclean", &|f| f[72] = 1, 1, 3, "unclean shutdown");
    case("newlines", &|f| f[75] = b'\n', 4, 4, "newline");
    for grain in [0, 3, 1 << 17, u32::MAX] {
        case("C3 grain", &field(20, grain), 4, 4, "a grain of 2^n");
    }
    for count in [0, 513, u32::MAX] {
        case("C5 entries", &field(44, count), 4, 4, "1 to 512 entries");
    }
    case("size 0", &|f| f[12..20].fill(0), 4, 4, "a capacity");
    case("C5 size", &field(16, 0xFFFF), 8, 8, "grain directory");
    case("compression", &|f| f[77] = 2, 4, 4, "compression");
    case("no markers", &|f| (f[10], f[77]) = (1, 1), 4, 4, "markers");
    for at in [0, u32::MAX] {
        case("C6 directory", &field(56, at), 4, 4, "grain directory");
        case("C6 redundant", &field(48, at), 4, 4, "grain directory");
    }
    let directory = le32(&good, 56) * 512;
    let table = le32(&good, directory) * 512;
    let twin = le32(&good, le32(&good, 48) * 512) * 512;
    let end = (good.len() / 512) as u32;
    case("C6 table", &field(directory, end), 4, 4, "grain table");
    for sector in [end, u32::MAX] {
        case(
            "C6 grain",
            &field(table, sector),
            4,
            4,
            "grain 0 of the disk",
        );
    }
    let both = |sector: u32| {
        move |f: &mut Vec<u8>| {
            put(f, table, &sector.to_le_bytes());
            put(f, twin, &sector.to_le_bytes());
        }
    };
    case(
        "C6 on the header",
        &both(0x8000_0000),
        4,
        4,
        "grain 0 of the disk",
    );
    case("C6 on the descriptor", &both(2), 4, 4, "on a table");
    case(
        "redundant table",
        &|f| f[twin] ^= 1,
        1,
        3,
        "the same in both copies",
    );
    case("COWD", &|f| put(f, 0, b"COWD"), 4, 4, "COWD");
    case(
        "no descriptor",
        &|f| f[28] = 0,
        3,
        3,
        "one extent of a split disk",
    );
    let text = |from: &'static str, to: &'static str| {
        move |f: &mut Vec<u8>| {
            let at = f
                .windows(from.len())
                .position(|w| w == from.as_bytes())
                .unwrap();
            put(f, at, to.as_bytes());
        }
    };
    case("no CID", &text("\nCID=", "\nXID="), 1, 3, "content ID");
    case("CID", &text("\nCID=1a", "\nCID=zz"), 4, 4, "hex digits");
    case(
        "delta",
        &text("parentCID=ffff", "parentCID=0000"),
        4,
        4,
        "parentFileNameHint",
    );
    case("extents", &text("\nRW ", "\nRX "), 1, 3, "one extent");
}

/// Names in a descriptor are of files beside it, or nothing is opened.
#[test]
fn extents_are_opened_beside_the_descriptor_only() {
    let raw = fixture("tiny-superfloppy.img");
    let sectors = raw.len() / 512;
    for name in [
        "/etc/passwd",
        "../disk.img",
        "sub/disk.img",
        "C:\\disk.img",
        "nbd:x",
        "gone.img",
    ] {
        let line = format!("RW {sectors} FLAT \"{name}\" 0");
        let text = vmdk::descriptor("monolithicFlat", &[line]);
        let files = [("a.vmdk", text.as_bytes())];
        refused(name, &files, 3, 3, "container: the ");
    }
    let lines = vec!["RW 1 ZERO".to_owned(); 70_000];
    let text = vmdk::descriptor("custom", &lines);
    refused("C13 many", &[("a.vmdk", text.as_bytes())], 8, 8, "extents");
    let mut text = vmdk::descriptor("custom", &[]).into_bytes();
    text.resize(2 << 20, b' ');
    refused("C13 long", &[("a.vmdk", &text)], 8, 8, "descriptor");
    for line in [
        "RW x FLAT \"a\" 0",
        "RW 0 ZERO",
        "RW 18446744073709551615 ZERO",
        "RW 8 FLAT",
        "RW 8 FLAT \"b.img\" x",
    ] {
        let text = vmdk::descriptor("custom", &[line.to_owned()]);
        let files = [("a.vmdk", text.as_bytes()), ("b.img", &raw[..])];
        refused(line, &files, 4, 4, "of an extent");
    }
    let text = vmdk::descriptor("custom", &["RW 8 DEVICE \"b.img\"".to_owned()]);
    let files = [("a.vmdk", text.as_bytes()), ("b.img", &raw[..])];
    refused("device", &files, 4, 4, "extents of type");
}

#[test]
fn any_flipped_byte_or_cut_of_a_vdi_or_vmdk_is_read_or_refused() {
    let (raw, _) = tiny();
    flip_and_cut(&VDI, &vdi::image(&raw, 512, true, true, false));
    let shape = Shape {
        grain: 1,
        backwards: true,
        ..Shape::default()
    };
    flip_and_cut(&VMDK, &vmdk::sparse(&raw, shape));
}

/// 8 KiB with a hole.
fn tiny() -> (Vec<u8>, std::ops::Range<u64>) {
    let mut raw: Vec<u8> = (0..8192).map(|i| (i % 251) as u8 + 1).collect();
    raw[4096..5120].fill(0);
    (raw, 4096..5120)
}

#[test]
fn a_write_lands_in_its_block_or_grain_and_needs_one() {
    let (raw, hole) = tiny();
    for zeros in [false, true] {
        let file = vdi::image(&raw, 512, true, zeros, false);
        write_in_the_middle(&VDI, &raw, &file, hole.clone());
        let shape = Shape {
            grain: 1,
            backwards: true,
            zeros,
            ..Shape::default()
        };
        write_in_the_middle(&VMDK, &raw, &vmdk::sparse(&raw, shape), hole.clone());
    }
}

// --- others' eyes ---

/// A chain of three, with blocks that are free, zeros, and there: as dissect reads it, and once more
/// after a clean.
#[test]
fn chains_of_vdi_images_read_as_dissect_reads_them() {
    if !called("chains_of_vdi_images_read_as_dissect_reads_them") {
        return;
    }
    let raw = machine_disk();
    let block = 64 << 10;
    let middle = spoilt(&raw, block, false);
    let parent = vdi::image(&spoilt(&middle, block, true), block, true, true, false);
    let second = vdi::differencing(&middle, &parent, block);
    let mut second_id = second.clone();
    put(&mut second_id, 0x188, &[0xB7; 16]);
    let flat = vdi::image(&middle, block, false, false, false);
    let mut child = vdi::differencing(&raw, &flat, block);
    put(&mut child, 0x1A8, &second_id[0x188..0x198]);
    put(&mut child, 0x1B8, &second_id[0x198..0x1A8]);
    let dir = scratch();
    let [image, below, base] = ["c.vdi", "b.vdi", "a.vdi"].map(|name| dir.path().join(name));
    fs::write(&image, &child).unwrap();
    fs::write(&below, &second_id).unwrap();
    fs::write(&base, &parent).unwrap();
    let same = || {
        let own = own_reading(&image, "vdi");
        assert!(own == other_reading_over("dissect", &image, &[&below, &base]));
        own
    };
    assert!(same() == raw);
    declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
    assert!(same() != raw);
}

#[test]
fn vmdk_samples_read_as_others_read_them() {
    let name = "vmdk_samples_read_as_others_read_them";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    let dir = scratch();
    let there = samples.join("containers");
    for sample in [
        "mono_sparse_min.vmdk.xz",
        "plaso_monosparse.vmdk.xz",
        "stream_opt.vmdk.xz",
        "tw_sparse-s001.vmdk.xz",
    ] {
        let bytes = tool("xz", &["-dc", arg(&there.join(sample))]).stdout;
        fs::write(dir.path().join(sample.trim_end_matches(".xz")), bytes).unwrap();
    }
    let set = fs::read(there.join("tw_sparse.vmdk")).unwrap();
    fs::write(dir.path().join("tw_sparse.vmdk"), set).unwrap();
    for sample in [
        "mono_sparse_min.vmdk",
        "plaso_monosparse.vmdk",
        "stream_opt.vmdk",
        "tw_sparse.vmdk",
    ] {
        let image = dir.path().join(sample);
        let own = own_reading(&image, "vmdk");
        assert!(own == by_qemu(&image, "vmdk"), "{sample}: qemu");
        // 7-Zip does not open this one ("Cannot open the file as [VMDK] archive").
        if sample != "stream_opt.vmdk" {
            assert!(own == by_7zip(&image, "vmdk"), "{sample}: 7-Zip");
        }
    }
}

#[test]
fn vdi_and_vmdk_by_qemu_are_read_and_cleaned() {
    if !called("vdi_and_vmdk_by_qemu_are_read_and_cleaned") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, cleaned_raw) = (path("plain.img"), path("plain.out"));
    fs::write(&plain, &raw).unwrap();
    declone(&["clean", arg(&plain), "-o", arg(&cleaned_raw), "--prove"]).exits(0);
    let want = fs::read(&cleaned_raw).unwrap();
    for (format, options) in [
        (&VDI, "static=off"),
        (&VDI, "static=on"),
        (&VMDK, "subformat=monolithicSparse"),
        (&VMDK, "subformat=monolithicSparse,zeroed_grain=on"),
    ] {
        let (image, out) = (path("in.bin"), path("out.bin"));
        let args = ["convert", "-f", "raw", "-O", format.name, "-o", options];
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        assert!(own_reading(&image, format.name) == raw, "{options}");
        assert!(by_7zip(&image, format.name) == raw, "{options}: 7-Zip");
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        assert!(!ran.out.contains("LEFT"), "{options}: {}", ran.out);
        tool("qemu-img", &["check", "-f", format.name, arg(&out)]);
        assert!(by_qemu(&out, format.name) == want, "{options}");
        let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
        format.same_rest(options, &before, &after);
        fs::remove_file(&out).unwrap();
    }
}

/// Streams and deltas: read whole, never written.
#[test]
fn streams_and_deltas_of_vmdk_are_read_only() {
    if !called("streams_and_deltas_of_vmdk_are_read_only") {
        return;
    }
    let raw = machine_disk();
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, image) = (path("plain.img"), path("a.vmdk"));
    fs::write(&plain, &raw).unwrap();
    let look = |image: &Path, word: &str| {
        assert!(
            own_reading(image, "vmdk") == by_qemu(image, "vmdk"),
            "{word}"
        );
        let all = || {
            let mut all: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (digest(&path), path))
                .collect();
            all.sort();
            all
        };
        let before = all();
        let ran = declone(&["scan", arg(image)]).exits(1);
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        declone(&["verify", arg(image)]).exits(1);
        let ran = declone(&["clean", arg(image), "--in-place"]).exits(3);
        assert!(
            ran.out.contains(word) && ran.out.contains("what to do:"),
            "{}",
            ran.out
        );
        assert_eq!(all(), before);
    };
    let kind = "streamOptimized";
    let options = format!("subformat={kind}");
    let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options];
    tool(
        "qemu-img",
        &[&args[..], &[arg(&plain), arg(&image)]].concat(),
    );
    assert!(own_reading(&image, "vmdk") == raw, "{kind}");
    look(&image, kind);
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(ran.out.contains("-o OUT --to raw"), "{}", ran.out);
    // A delta over a disk: read through, and refused when the disk below is another one.
    let (parent, child) = (path("p.vmdk"), path("c.vmdk"));
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            arg(&plain),
            arg(&parent),
        ],
    );
    tool(
        "qemu-img",
        &[
            "create",
            "-f",
            "vmdk",
            "-F",
            "vmdk",
            "-b",
            "p.vmdk",
            arg(&child),
        ],
    );
    look(&child, "delta");
    let ran = declone(&["clean", arg(&parent), "--in-place"]).exits(3);
    assert!(ran.out.contains("its child c.vmdk"), "{}", ran.out);
    let copy = path("copy.vmdk");
    declone(&["clean", arg(&parent), "-o", arg(&copy)]).exits(0);
    fs::rename(&copy, &parent).unwrap();
    let ran = declone(&["scan", arg(&child)]).exits(3);
    assert!(ran.out.contains("content ID"), "{}", ran.out);
}
