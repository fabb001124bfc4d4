//! Windows' files on exFAT: scan, clean, refuse; alone and beside NTFS and FAT.

use std::{collections::BTreeSet, fs, process::Command, sync::Arc};

use declone::{
    device::{Device, Memory, Overlay},
    tree::{FileTree, Owner},
    units::{FileOffset, VolumeOffset},
    volume::exfat::Exfat,
};

use crate::{
    clusters::{Flips, cleaned_to_the_byte, read, refused, wide},
    machine::{self, GUID},
    oracle,
    run::{arg, declone, digest, scratch},
    support::{
        disk_builder::DiskBuilder,
        exfat_builder::{BuiltExfat, ExfatBuilder, reseal},
        fixtures,
        ntfs_builder::Geometry,
        put, qcow2_builder, vhd_builder,
    },
};

const HIVES: [&str; 2] = [
    r"\WINDOWS\system32\config\SOFTWARE",
    r"\WINDOWS\repair\software",
];
const TARGETS: [&str; 8] = [
    r"\WINDOWS\Smscfg.ini",
    r"\WINDOWS\SMS1X.INI",
    r"\WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat",
    r"\Documents and Settings\All Users\SMSUID.DAT",
    r"\RECYCLER\smscfg.INI",
    r"\RECYCLER\empty\smscfg.ini",
    r"\TEMP\half\Smsuid.dat",
    r"\TEMP\vendor\Sms1x.ini",
];
/// Entries that were deleted before the capture; their names are left.
const DELETED: [&str; 2] = [r"\TEMP\Smscfg.ini", r"\TEMP\SMSUID.DAT"];

/// A small Windows with the whole identity.
fn windows(len: usize, sector: usize, cluster: usize) -> ExfatBuilder {
    let mut v = ExfatBuilder::new(len, sector, cluster);
    v.file(HIVES[0], machine::hive(5).build()).fragmented();
    v.file(HIVES[1], machine::hive(3).build());
    v.file(TARGETS[0], machine::ini()).chained();
    v.file(TARGETS[1], "[SMS]\r\nUniqueID=ABC0000F\r\n");
    v.file(TARGETS[2], vec![0x5A; 9000]).fragmented();
    v.file(TARGETS[3], vec![0x5B; 200]);
    v.file(TARGETS[4], machine::ini()).tail(&wide(GUID));
    v.file(TARGETS[5], "");
    v.file(TARGETS[6], [vec![0x5D; 900], wide(GUID)].concat())
        .valid(100);
    v.file(TARGETS[7], "x").vendor(&wide(GUID));
    for (i, decoy) in ["Smscfg.ini.bak", "Xsmscfg.ini", "Sms1x.in"]
        .iter()
        .enumerate()
    {
        v.file(&format!(r"\WINDOWS\{decoy}"), vec![i as u8 + 1; 900]);
    }
    for i in 0..60_usize {
        let name = format!(r"\WINDOWS\system32\library number {i:02} with a long name.dll");
        v.file(&name, vec![i as u8 + 9; 100 + i * 37]);
    }
    // The root in pieces, too.
    for i in 0..12_u16 {
        v.file(&format!(r"\root {i}"), vec![7; 10]).named(
            &[
                &[0x0416 + i, 0xD83D, 0xDE00, 0xD800],
                [0x62; 251].as_slice(),
            ]
            .concat(),
        );
    }
    v.file(r"\WINDOWS\slack.txt", "short").tail(&wide(GUID));
    let unwritten = [vec![0x20; 300], wide(GUID), vec![0; 200]].concat();
    v.file(r"\WINDOWS\unwritten.txt", unwritten).valid(300);
    v.file(r"\WINDOWS\empty.txt", "");
    v.file(r"\TEMP\kept.tmp", "kept");
    v.file(DELETED[0], machine::ini()).deleted();
    v.file(DELETED[1], vec![0x5C; 10]).deleted();
    v.file(r"\TEMP\last.tmp", "kept too").vendor(b"a vendor's");
    v.plant(machine::ini().as_bytes())
        .plant(&wide("Smsuid.dat"));
    v.behind("Smsuid.dat").behind("kept by nobody");
    v
}

fn shapes() -> Vec<(&'static str, ExfatBuilder)> {
    vec![
        ("512-512", windows(3 << 20, 512, 512)),
        ("512-4k", windows(4 << 20, 512, 4096)),
        ("4k-4k", windows(4 << 20, 4096, 4096)),
        ("1k-32k", windows(16 << 20, 1024, 32 << 10)),
    ]
}

/// What the volume must be after a clean, apart from the bytes of the hives.
fn expected(built: &BuiltExfat) -> Vec<u8> {
    let mut want = built.bytes.clone();
    for path in TARGETS.iter().chain(&DELETED) {
        let placed = &built.files[*path];
        for slot in &placed.slots {
            want[*slot] &= 0x7F;
            want[*slot + 1..*slot + 32].fill(0);
        }
        for cluster in placed.clusters.iter().chain(&placed.extra) {
            let at = built.at(*cluster);
            // What a file deleted long ago left is stale only where it holds the identity.
            if !DELETED.contains(path) || path.ends_with("Smscfg.ini") {
                want[at..at + built.cluster].fill(0);
            }
            if !DELETED.contains(path) {
                built.set_bit(&mut want, *cluster, false);
                if placed.chained {
                    built.set_link(&mut want, *cluster, 0);
                }
            }
        }
    }
    for plant in &built.plants {
        let at = built.at(*plant);
        want[at..at + built.cluster].fill(0);
    }
    // Behind the end of the root: the set of the searched name, and not its neighbour.
    for slot in &built.behind[..3] {
        want[*slot..*slot + 32].fill(0);
    }
    for path in [r"\WINDOWS\slack.txt", r"\WINDOWS\unwritten.txt"] {
        let placed = &built.files[path];
        for at in placed.valid..placed.clusters.len() * built.cluster {
            let place = built.place(&placed.clusters, at);
            want[place] = 0;
        }
    }
    want[0x70] = built.percent(&want);
    want
}

#[test]
fn windows_on_exfat_is_cleaned_to_the_byte() {
    for (name, volume) in shapes() {
        let built = volume.build();
        let look = |scan: &serde_json::Value| {
            let entry = format!("{:#x}", built.files[TARGETS[0]].slots[0]);
            let place = serde_json::json!({"space": "directory entry", "value": entry});
            let findings = scan["images"][0]["findings"].as_array().unwrap();
            let named = findings
                .iter()
                .filter_map(|finding| finding["places"].as_array());
            assert!(named.flatten().any(|one| *one == place), "{name}: {scan}");
        };
        cleaned_to_the_byte(name, &built, &HIVES, &expected(&built), &look);
    }
}

#[test]
fn names_of_deleted_sets_go_without_a_search_of_the_whole_image() {
    let built = windows(4 << 20, 512, 4096).build();
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fs::write(&image, &built.bytes).unwrap();
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    let new = fs::read(&out).unwrap();
    for path in DELETED {
        for slot in &built.files[path].slots {
            assert_eq!(new[*slot], built.bytes[*slot], "{path}");
            assert_eq!(new[*slot + 1..*slot + 32], [0; 31], "{path}");
        }
    }
    for slot in &built.behind[..3] {
        assert_eq!(new[*slot..*slot + 32], [0; 32]);
    }
    assert_ne!(new[built.behind[3]], 0, "another's name stays");
}

/// Each of these keeps a volume from being written; a scan finds the same as before.
#[test]
fn what_chkdsk_would_repair_is_refused_and_scanned() {
    type Damage = fn(&BuiltExfat, &mut Vec<u8>);
    fn slots(b: &BuiltExfat) -> Vec<usize> {
        b.files[r"\WINDOWS\Smscfg.ini.bak"].slots.clone()
    }
    fn again(b: &BuiltExfat, v: &mut [u8]) {
        let slots = slots(b);
        let mut set: Vec<u8> = slots
            .iter()
            .flat_map(|at| v[*at..at + 32].to_vec())
            .collect();
        crate::support::exfat_builder::seal(&mut set);
        for (at, slot) in slots.iter().zip(set.chunks(32)) {
            v[*at..at + 32].copy_from_slice(slot);
        }
    }
    let cases: [(&str, Damage, &str); 22] = [
        ("dirty", |_, v| v[0x6A] = 2, "VolumeDirty"),
        ("media failure", |_, v| v[0x6A] = 4, "MediaFailure"),
        ("clear to zero", |_, v| v[0x6A] = 8, "ClearToZero"),
        ("boot code", |_, v| v[200] ^= 1, "checksum"),
        ("backup", |_, v| v[12 * 512 + 0x64] ^= 1, "checksum"),
        ("checksum", |_, v| v[11 * 512 + 300] ^= 1, "checksum"),
        (
            "cross-linked chain",
            |b, v| {
                let other = b.files[HIVES[0]].clusters[1];
                let chain = &b.files[TARGETS[2]].clusters;
                b.set_link(v, chain[chain.len() - 2], other);
            },
            "clusters",
        ),
        (
            "cross-linked run",
            |b, v| {
                let other = b.files[HIVES[0]].clusters[0];
                let stream = slots(b)[1];
                put::u32(v, stream + 20, other);
                again(b, v);
            },
            r"\WINDOWS\system32\config\SOFTWARE and \WINDOWS\Smscfg.ini.bak: clusters of its own",
        ),
        (
            "free and owned",
            |b, v| b.set_bit(v, b.files[HIVES[1]].clusters[0], false),
            "found it free",
        ),
        (
            "set checksum",
            |b, v| v[slots(b)[0] + 9] ^= 1,
            "entry set: checksum",
        ),
        (
            "name hash",
            |b, v| {
                v[slots(b)[1] + 4] ^= 1;
                again(b, v);
            },
            "name hash",
        ),
        (
            "valid",
            |b, v| {
                put::u64(v, slots(b)[1] + 8, 901);
                again(b, v);
            },
            "valid bytes",
        ),
        (
            "no cluster",
            |b, v| {
                put::u32(v, slots(b)[1] + 20, 0);
                again(b, v);
            },
            "found none",
        ),
        (
            "outside",
            |b, v| {
                put::u32(v, slots(b)[1] + 20, b.count as u32 + 2);
                again(b, v);
            },
            "allocation",
        ),
        (
            "loop",
            |b, v| {
                let chain = &b.files[TARGETS[2]].clusters;
                b.set_link(v, *chain.last().unwrap(), chain[0]);
            },
            "chain",
        ),
        (
            "link outside",
            |b, v| {
                let chain = &b.files[TARGETS[2]].clusters;
                b.set_link(v, chain[1], 0xFFFF_FFF0);
            },
            "a link or an end",
        ),
        (
            "up-case table",
            |b, v| v[b.at(b.upcase[0]) + 70] ^= 1,
            "up-case table",
        ),
        (
            "no bitmap",
            |b, v| {
                let at = b.at(b.root[0]) + 32;
                v[at] = 0x01;
            },
            "allocation bitmaps",
        ),
        (
            "bitmap's length",
            |b, v| {
                let at = b.at(b.root[0]) + 32 + 24;
                v[at] ^= 1;
            },
            "allocation bitmap",
        ),
        (
            "unknown entry",
            |b, v| {
                let at = b.at(b.root[0]);
                v[at] = 0x86;
            },
            "primary entry",
        ),
        (
            "name cut off",
            |b, v| {
                v[slots(b)[2]] = 0x41;
            },
            "secondary entries",
        ),
        (
            "attribute",
            |b, v| {
                v[slots(b)[0] + 4] ^= 0x10;
                again(b, v);
            },
            "whole clusters",
        ),
    ];
    for (name, damage, text) in cases {
        let built = windows(4 << 20, 512, 512).build();
        let mut bytes = built.bytes.clone();
        damage(&built, &mut bytes);
        assert_ne!(bytes, built.bytes, "{name}");
        refused(name, &bytes, 12, text);
    }
}

#[test]
fn texfat_is_scanned_and_not_written() {
    let mut volume = windows(4 << 20, 512, 4096);
    let built = volume.texfat().build();
    let dir = scratch();
    let image = dir.path().join("in.img");
    fs::write(&image, &built.bytes).unwrap();
    declone(&["scan", arg(&image)]).exits(1);
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(ran.out.contains("TexFAT"), "{}", ran.out);
    assert!(fs::read(&image).unwrap() == built.bytes);
}

pub fn open(bytes: Vec<u8>) -> (Exfat, Device) {
    let device: Device = Arc::new(Overlay::new(Arc::new(Memory::new(bytes))));
    (Exfat::open(device.clone()).unwrap(), device)
}

/// What was never written reads as zeros, is nobody's data, and is never made to count.
#[test]
fn the_length_of_valid_data_is_kept() {
    let mut volume = ExfatBuilder::new(2 << 20, 512, 1024);
    volume.file(r"\half", vec![0xAA; 3000]).valid(1500);
    let built = volume.build();
    let (exfat, device) = open(built.bytes.clone());
    let entry = exfat.lookup(&["half"]).unwrap().unwrap();
    assert_eq!(read(&exfat, &entry), built.read(&built.bytes, r"\half"));
    let at = |n: usize| VolumeOffset(built.place(&built.files[r"\half"].clusters, n) as u64);
    let owners = exfat.owners(&[at(1499), at(1500)], &[]).unwrap();
    let tails: Vec<bool> = owners
        .iter()
        .map(|owner| matches!(owner, Owner::File { tail: true, .. }))
        .collect();
    assert_eq!(tails, [false, true]);
    exfat
        .overwrite(entry.id, FileOffset(1400), &[[1; 100], [0; 100]].concat())
        .unwrap();
    let new = read(&exfat, &entry);
    assert_eq!(new[1400..1600], [[1; 100], [0; 100]].concat());
    let error = exfat
        .overwrite(entry.id, FileOffset(1499), &[1, 1])
        .unwrap_err();
    assert!(error.to_string().contains("ever written"), "{error}");
    assert!(
        exfat
            .overwrite(entry.id, FileOffset(2999), &[0, 0])
            .is_err()
    );
    assert_eq!(exfat.erase(entry.id).unwrap(), 3000);
    let mut rest = vec![1; 3072];
    device.read_at(at(0).get(), &mut rest).unwrap();
    assert_eq!(rest, [0; 3072]);
}

/// A byte of a boot region, the FAT, the bitmap, the table or the directories flipped in three ways:
/// the volume does not open, is refused, or the files go and everything else stays.
#[test]
fn every_byte_of_metadata_flipped_three_ways() {
    let mut volume = ExfatBuilder::new(200 << 10, 512, 512);
    volume
        .file(r"\WINDOWS\system32\config\SOFTWARE", vec![3; 2000])
        .fragmented();
    volume
        .file(r"\WINDOWS\Smscfg.ini", machine::ini())
        .fragmented();
    volume.file(r"\WINDOWS\a long name of a file.txt", vec![4; 700]);
    volume.file(r"\Smsuid.dat", vec![5; 3000]).valid(1000);
    volume.file(r"\v", vec![5; 30]).vendor(b"vendor");
    volume.file(r"\TEMP\SMSUID.DAT", "x").deleted();
    volume.behind("Sms1x.ini");
    let built = volume.build();
    let mut flips = Flips {
        open: Exfat::open,
        ends: [0; 3],
    };
    flips.all(&built.bytes, &metadata(&built), &|bytes, at| {
        // With a right checksum, too: what the fields say has to be judged by itself.
        if at < 24 * 512 && !matches!(at, 106 | 107 | 112) && at % 3 != 0 {
            reseal(bytes, 512);
        }
    });
    assert!(flips.ends.iter().all(|n| *n > 40), "{:?}", flips.ends);
}

/// Positions of metadata that says something.
fn metadata(built: &BuiltExfat) -> Vec<usize> {
    let mut places: Vec<usize> = (0..0x78).chain(508..516).collect();
    places.extend((11 * 512..11 * 512 + 16).chain(12 * 512..12 * 512 + 0x78));
    places.extend(built.fat_at..built.fat_at + 320);
    let bitmap = built.at(built.bitmap[0]);
    places.extend(bitmap..bitmap + built.count.div_ceil(8) + 2);
    let table = built.at(built.upcase[0]);
    places.extend((table..table + 400).step_by(7));
    for cluster in &built.root {
        let at = built.at(*cluster);
        places.extend(at..at + built.cluster);
    }
    for placed in built.files.values() {
        places.extend(placed.slots.iter().flat_map(|slot| *slot..slot + 32));
    }
    places
}

/// Stopped after every page and inside it, the change is finished by `recover`; killed at any moment,
/// the real binary leaves the old image, the new one, or a journal that makes it new.
#[test]
fn an_interrupted_clean_of_fat_and_exfat_is_finished() {
    for name in ["tiny-fat.img", "tiny-exfat.img"] {
        let case = crate::in_place::Case::of(|image| fixtures::unpack_to(name, image).unwrap());
        let pages = case.change.pages().len();
        for done in 0..pages {
            case.interrupt(done, done % 8);
            if done % 4 == 0 {
                declone(&["scan", arg(&case.image)]).exits(6);
            }
            declone(&["recover", arg(&case.image)]).exits(0);
            assert!(case.now() == case.new, "{name}: {done} of {pages} pages");
            assert!(!case.journal().exists(), "{name}");
        }
        declone(&["scan", arg(&case.image)]).exits(0);

        let clean = ["clean", "--in-place", arg(&case.image)];
        fs::write(&case.image, &case.old).unwrap();
        let took = declone(&clean).exits(0).took;
        let mut ends = [0; 3];
        for step in 0..24 {
            fs::write(&case.image, &case.old).unwrap();
            let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
                .args(clean)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(took * step / 24);
            child.kill().unwrap();
            child.wait().unwrap();
            let journal = case.journal().exists();
            let torn = case.now();
            declone(&["recover", arg(&case.image)]).exits(0);
            let now = case.now();
            assert!(!case.journal().exists(), "{name}");
            if journal {
                assert!(now == case.new, "{name}: step {step}");
                ends[1] += 1;
            } else {
                assert!(now == torn, "{name}: step {step}");
                let is_new = now == case.new;
                assert!(is_new || now == case.old, "{name}: step {step}");
                ends[if is_new { 2 } else { 0 }] += 1;
            }
            declone(&clean).exits(0);
            assert!(case.now() == case.new, "{name}: step {step}");
        }
        println!("{name}: {pages} pages; killed 24 times: {ends:?} old, journal, new");
    }
}

/// NTFS, FAT and exFAT on one disk, with MBR and GPT, raw, in a VHD and in a QCOW2: one run, one plan,
/// one journal, one undo.
#[test]
fn three_file_systems_on_one_disk_are_cleaned_in_one_run() {
    let fat = fixtures::load("tiny-fat.img").unwrap();
    let exfat = fixtures::load("tiny-exfat.img").unwrap();
    let alone = |bytes: &[u8]| {
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        fs::write(&image, bytes).unwrap();
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        fs::read(&out).unwrap()
    };
    let (want_fat, want_exfat) = (alone(&fat), alone(&exfat));
    let fill = |disk: DiskBuilder| {
        disk.raw(2048, 4096, 0x06, &fat)
            .raw(6144, 4096, 0x07, &exfat)
            .partition(10240, machine::volume(24 << 20, Geometry::default(), 5))
    };
    let disks = [
        ("mbr", fill(DiskBuilder::mbr(32 << 20))),
        ("gpt", fill(DiskBuilder::gpt(32 << 20, 512))),
    ];
    for (name, disk) in disks {
        let raw = disk.to_vec().0;
        type Unpack = fn(&[u8]) -> Vec<u8>;
        let forms: [(&str, Vec<u8>, Option<Unpack>); 3] = [
            ("img", raw.clone(), Some(<[u8]>::to_vec)),
            ("vhd", vhd_builder::fixed(&raw), Some(vhd_builder::guest)),
            (
                "qcow2",
                qcow2_builder::image(&raw, qcow2_builder::Shape::default()),
                None,
            ),
        ];
        for (form, file, unpack) in forms {
            let dir = scratch();
            let path = |end: &str| dir.path().join(format!("{end}.{form}"));
            let (image, out, undo) = (path("in"), path("out"), path("undo"));
            fs::write(&image, &file).unwrap();
            let args = [
                "clean",
                arg(&image),
                "-o",
                arg(&out),
                "--prove",
                "--json",
                "-",
            ];
            let json = declone(&args).exits(0).json();
            let not_scanned = json["images"][0]["not_scanned"].to_string();
            assert!(!not_scanned.contains("partition"), "{not_scanned}");
            let found = json["images"][0]["findings"].as_array().unwrap().iter();
            let partitions: BTreeSet<u64> =
                found.filter_map(|one| one["partition"].as_u64()).collect();
            assert_eq!(partitions, [1, 2, 3].into(), "{name} {form}");
            if let Some(unpack) = unpack {
                let bytes = unpack(&fs::read(&out).unwrap());
                assert!(
                    bytes[2048 * 512..][..fat.len()] == want_fat,
                    "{name} {form}"
                );
                assert!(
                    bytes[6144 * 512..][..exfat.len()] == want_exfat,
                    "{name} {form}"
                );
                for form in oracle::guid_forms(GUID) {
                    assert_eq!(oracle::find_all(&bytes, &form), [0_usize; 0]);
                }
            }
            declone(&["scan", arg(&out)]).exits(0);
            let args = [
                "clean",
                arg(&image),
                "--in-place",
                "--prove",
                "--undo",
                arg(&undo),
            ];
            declone(&args).exits(0);
            assert_eq!(digest(&image), digest(&out), "{name} {form}");
            let ran = declone(&["clean", arg(&image), "--in-place"]).exits(0);
            assert!(ran.out.contains("Nothing to do"), "{}", ran.out);
            declone(&["undo", arg(&undo)]).exits(0);
            assert!(fs::read(&image).unwrap() == file, "{name} {form}");
        }
    }
}
