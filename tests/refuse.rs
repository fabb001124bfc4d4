//! Everything that must not be touched: exit 3 (or 4 for damage), nothing written, and `scan`
//! still looks and names the state.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use crate::{
    machine::{self, HIVE},
    run::{Ran, arg, declone, digest, scratch},
    support::{
        disk_builder::DiskBuilder,
        ntfs_builder::{Content, Geometry, Log, NtfsBuilder},
    },
};

const MIB: u64 = 1 << 20;

fn usual() -> NtfsBuilder {
    machine::volume(24 * MIB, Geometry::default(), 5)
}

/// Cleans an image that must be refused with `code`; returns what was said.
#[track_caller]
fn refused(image: &Path, code: i32) -> Ran {
    let before = digest(image);
    let out = image.with_extension("out");
    let ran = declone(&["clean", arg(image), "-o", arg(&out)]).exits(code);
    assert_eq!(declone(&["clean", arg(image), "-n"]).code, code);
    assert!(ran.took < Duration::from_secs(2));
    assert_eq!(digest(image), before, "the input is unchanged");
    let beside: Vec<_> = fs::read_dir(image.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing was written: {beside:?}");
    ran
}

/// Builds, damages and expects a refusal whose text holds `word`.
#[track_caller]
fn case(volume: &NtfsBuilder, damage: impl FnOnce(&File), code: i32, word: &str) {
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(volume, &image);
    damage(&File::options().read(true).write(true).open(&image).unwrap());
    let ran = refused(&image, code);
    assert!(
        ran.out.to_lowercase().contains(&word.to_lowercase()),
        "{word}: {}",
        ran.out
    );
    let scan = declone(&["scan", arg(&image)]);
    assert!([0, 1, 4].contains(&scan.code), "{}", scan.out);
    assert!(
        scan.out.to_lowercase().contains(&word.to_lowercase()),
        "{word}: {}",
        scan.out
    );
}

fn poke(file: &File, offset: u64, bytes: &[u8]) {
    file.write_all_at(bytes, offset).unwrap();
}

fn peek<const N: usize>(file: &File, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn an_unclean_log_file_is_refused() {
    for log in [Log::Dirty11, Log::Dirty20, Log::Clean20] {
        case(usual().log(log), |_| {}, 3, "$LogFile");
    }
}

#[test]
fn every_unsafe_volume_flag_is_refused_and_the_usual_one_is_not() {
    for flag in [0x0001, 0x0002, 0x0004, 0x0010, 0x0020, 0x4000, 0x8000] {
        case(usual().volume_flags(flag), |_| {}, 3, "flag");
    }
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(usual().volume_flags(0x0080), &image);
    declone(&["clean", arg(&image), "-n"]).exits(0);
}

#[test]
fn hibernation_is_refused_a_resumed_file_is_not() {
    for head in ["hibr", "HIBR", "rstr", "RSTR", "link", "LINK"] {
        let mut volume = usual();
        let mut content = vec![0; 20_000];
        content[..4].copy_from_slice(head.as_bytes());
        volume.file(r"\hiberfil.sys", content);
        case(&volume, |_| {}, 3, "hiber");
    }
    for content in [&b"wake"[..], b"\0\0\0\0", b""] {
        let mut volume = usual();
        let mut whole = content.to_vec();
        if !whole.is_empty() {
            whole.resize(20_000, 0);
        }
        volume.file(r"\hiberfil.sys", whole);
        let dir = scratch();
        let image = dir.path().join("image.img");
        machine::write(&volume, &image);
        declone(&["clean", arg(&image), "-n"]).exits(0);
    }
}

#[test]
fn a_mirror_that_differs_is_refused() {
    case(
        &usual(),
        |file| {
            let mirror = u64::from_le_bytes(peek(file, 0x38)) * 4096;
            let attributes: [u8; 1] = peek(file, mirror + 1024 + 0x16);
            poke(file, mirror + 1024 + 0x16, &[attributes[0] ^ 4]);
        },
        3,
        "$MFTMirr",
    );
}

#[test]
fn a_dirty_hive_is_refused_with_both_sequence_numbers() {
    let mut volume = usual();
    let mut hive = machine::hive(5);
    hive.sequence(4711, 4710);
    volume.file(r"\WINNT\system32\config\SOFTWARE", hive.build());
    case(&volume, |_| {}, 3, "4711");
}

#[test]
fn a_hive_with_a_wrong_checksum_is_refused() {
    let mut volume = usual();
    let mut hive = machine::hive(5).build();
    hive[508] ^= 0x55;
    volume.file(r"\WINNT\system32\config\SOFTWARE", hive);
    case(&volume, |_| {}, 3, "checksum");
}

#[test]
fn compressed_and_redirected_hives_are_refused() {
    let mut volume = usual();
    volume.entry(HIVE).compressed();
    case(&volume, |_| {}, 3, "compressed");
    let mut volume = usual();
    volume.file(r"\WINNT\system32\config\SOFTWARE", "").reparse(
        0x8000_0017,
        &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    );
    case(&volume, |_| {}, 3, "WOF");
}

#[test]
fn a_damaged_hive_is_malformed_and_names_every_rung() {
    let mut volume = usual();
    let mut hive = machine::hive(5).build();
    hive[4096 + 32] = 3;
    volume.file(r"\WINNT\system32\config\SOFTWARE", hive);
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(&volume, &image);
    let ran = refused(&image, 4);
    for rung in [
        "hive offset",
        "file \\WINNT",
        "volume offset",
        "partition",
        "disk offset",
        "image offset",
    ] {
        assert!(ran.out.contains(rung), "{rung}: {}", ran.out);
    }
}

#[test]
fn other_file_systems_are_refused_by_name() {
    for (oem, name) in [(&b"-FVE-FS-"[..], "BitLocker"), (b"ReFS\0\0\0\0", "ReFS")] {
        let dir = scratch();
        let image = dir.path().join("image.img");
        machine::write(&usual(), &image);
        poke(&File::options().write(true).open(&image).unwrap(), 3, oem);
        let ran = refused(&image, 3);
        assert!(ran.out.contains(name), "{}", ran.out);
        // Nothing was looked into: that is not "nothing found".
        let scan = declone(&["scan", arg(&image)]).exits(4);
        assert!(scan.out.contains(name), "{}", scan.out);
        for word in ["Clean", "[x]", "Steps"] {
            assert!(!scan.out.contains(word), "{word}: {}", scan.out);
        }
        declone(&["verify", arg(&image)]).exits(4);
        declone(&["compare", arg(&image), arg(&image)]).exits(4);
    }
}

#[test]
fn a_truncated_image_is_refused() {
    for keep in [24 * MIB - 4096, 20 * MIB, 12 * MIB, 4096, 700] {
        let dir = scratch();
        let image = dir.path().join("image.img");
        machine::write(&usual(), &image);
        File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(keep)
            .unwrap();
        let before = digest(&image);
        let ran = declone(&["clean", arg(&image), "-n"]);
        assert!(
            [3, 4].contains(&ran.code),
            "{keep}: {} {}",
            ran.code,
            ran.out
        );
        assert_eq!(digest(&image), before);
    }
}

#[test]
fn a_broken_target_is_refused_not_repaired() {
    // The sequence number in the directory entry of a target no longer fits: a dangling name.
    let dir = scratch();
    let image = dir.path().join("image.img");
    let volume = usual();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)
        .unwrap();
    let built = volume.write_to(&mut file, 0);
    let record = built.records[r"WINDOWS\Smscfg.ini"];
    let mft = u64::from_le_bytes(peek(&file, 0x30)) * 4096;
    let links: [u8; 2] = peek(&file, mft + record * 1024 + 0x12);
    poke(&file, mft + record * 1024 + 0x12, &[links[0] + 3, links[1]]);
    refused(&image, 3);
}

#[test]
fn a_directory_with_a_targets_name_stays() {
    let mut volume = usual();
    volume.file(r"\data\Smscfg.ini\inside.txt", Content::filler(1, 100));
    let dir = scratch();
    let (image, out) = (dir.path().join("image.img"), dir.path().join("out.img"));
    machine::write(&volume, &image);
    let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    assert!(ran.out.contains("is a directory"), "{}", ran.out);
    assert!(crate::oracle::files(&out, 0).contains_key(r"\data\Smscfg.ini\inside.txt"));
}

/// Where the unnamed $DATA attribute of a record is (its base record, one run expected).
fn data_attribute(record: &[u8]) -> std::ops::Range<usize> {
    let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
    loop {
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        assert_ne!(word(at), u32::MAX, "the record has a $DATA attribute");
        let end = at + word(at + 4) as usize;
        if word(at) == 0x80 {
            return at..end;
        }
        at = end;
    }
}

#[test]
fn clusters_that_another_file_claims_too_are_never_freed() {
    let mut volume = usual();
    volume.file(r"\WINDOWS\other.bin", Content::filler(5, 40_000));
    let dir = scratch();
    let image = dir.path().join("image.img");
    let records = machine::write(&volume, &image);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mft = u64::from_le_bytes(peek(&file, 0x30)) * 4096;
    let place = |path: &str| mft + records[path] * 1024;
    let target: [u8; 1024] = peek(&file, place(r"WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat"));
    let mut other: [u8; 1024] = peek(&file, place(r"WINDOWS\other.bin"));
    // The same clusters in both: the attribute's runs are copied, nothing else.
    let (from, to) = (data_attribute(&target), data_attribute(&other));
    assert_eq!(from.len(), to.len());
    assert!(to.end <= 510, "no update sequence in between");
    other[to.start + 0x20..to.end].copy_from_slice(&target[from.start + 0x20..from.end]);
    poke(&file, place(r"WINDOWS\other.bin"), &other);
    drop(file);
    let ran = refused(&image, 3);
    assert!(ran.out.contains("belongs to"), "{}", ran.out);
}

#[test]
fn sms_ini_in_the_root_is_reported_and_stays() {
    let mut volume = usual();
    volume
        .file(r"\Sms.ini", "[SMS]\r\nSMSID=ABC00001\r\n")
        .hidden();
    volume.file(r"\WINDOWS\Sms.ini", "not in the root");
    let dir = scratch();
    let (image, out) = (dir.path().join("image.img"), dir.path().join("out.img"));
    machine::write(&volume, &image);
    let json = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let found: Vec<&serde_json::Value> = json["images"][0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["rule"] == "sms.ini")
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["action"], "report");
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(1);
    let files = crate::oracle::files(&out, 0);
    assert!(files.contains_key(r"\Sms.ini") && files.contains_key(r"\WINDOWS\Sms.ini"));
}

#[test]
fn damage_in_a_neighbours_record_does_not_keep_a_clean_from_passing() {
    let mut volume = usual();
    volume.file(r"\WINDOWS\neighbour.txt", "x");
    let dir = scratch();
    let (image, out) = (dir.path().join("image.img"), dir.path().join("out.img"));
    let records = machine::write(&volume, &image);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mft = u64::from_le_bytes(peek(&file, 0x30)) * 4096;
    // One link too many in the record before a target's: in the same page, not touched by a clean.
    let number = records[r"WINDOWS\Sms1x.ini"] + 1;
    let links: [u8; 1] = peek(&file, mft + number * 1024 + 0x12);
    poke(&file, mft + number * 1024 + 0x12, &[links[0] + 1]);
    drop(file);
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    declone(&["scan", arg(&out)]).exits(0);
}

#[test]
fn a_hive_that_is_also_linked_as_a_target_is_refused() {
    let mut volume = usual();
    volume.link(HIVE, r"\Smscfg.ini");
    case(&volume, |_| {}, 3, "hard link");
}

/// A volume that must not be written is not written because of its neighbour, either: its free
/// clusters may not be free for the driver that comes back.
#[test]
fn a_dirty_volume_beside_the_cleaned_one_keeps_its_stale_bytes() {
    for log in [Log::Clean11, Log::Dirty20] {
        let mut beside = NtfsBuilder::new(10 << 20);
        beside.log(log);
        beside.file(r"\kept.txt", "kept");
        beside.plant_free_cluster(machine::ini().as_bytes());
        let disk = DiskBuilder::mbr(48 << 20)
            .partition(2048, beside)
            .partition(32768, machine::volume(24 << 20, Geometry::default(), 5));
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        let old = disk.to_vec().0;
        fs::write(&image, &old).unwrap();
        let left = i32::from(log == Log::Dirty20);
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(left);
        let first = 2048 * 512..(2048 * 512 + (10 << 20));
        let same = fs::read(&out).unwrap()[first.clone()] == old[first];
        assert_eq!(same, log == Log::Dirty20, "{log:?}: {}", ran.out);
        assert_eq!(ran.out.contains("LEFT"), same, "{log:?}: {}", ran.out);
    }
}
