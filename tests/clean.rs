//! The main job, end to end, on volumes of every shape: scan, clean, look with other eyes.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    machine::{self, GUID, HIVES, TARGETS},
    oracle,
    run::{arg, declone, digest, scratch},
    support::ntfs_builder::{Content, Fill, Geometry, List, Log, NtfsBuilder, Version},
};

const MIB: u64 = 1 << 20;

fn lower(paths: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    paths.into_iter().map(|path| path.to_lowercase()).collect()
}

/// Cleans `volume` and checks everything that must hold, with readers that are not declone's.
fn clean_and_check(volume: &NtfsBuilder) {
    check(volume, true);
}

/// `walk`: whether the published crate can walk the directories of this volume.
fn check(volume: &NtfsBuilder, walk: bool) {
    let dir = scratch();
    let (image, out, again) = (
        dir.path().join("in.img"),
        dir.path().join("out.img"),
        dir.path().join("again.img"),
    );
    let records = machine::write(volume, &image);
    let before = digest(&image);

    let scan = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let rules: BTreeSet<&str> = scan["images"][0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["rule"].as_str().unwrap())
        .collect();
    assert_eq!(
        rules,
        ["sms.1x", "sms.abexprt", "sms.cfg", "sms.uid", "sms.uidfile"].into()
    );

    let plan = declone(&["clean", arg(&image), "-n"]).exits(0);
    assert!(plan.out.contains("Nothing was written"), "{}", plan.out);
    assert_eq!(digest(&image), before, "a dry run writes nothing");

    let json = dir.path().join("report.json");
    declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        arg(&json),
    ])
    .exits(0);
    assert_eq!(digest(&image), before, "the input stays as it is");
    assert_eq!(
        fs::metadata(&image).unwrap().len(),
        fs::metadata(&out).unwrap().len()
    );

    // Exactly the targets are gone; everything else is the same, byte for byte.
    let (was, is) = (
        oracle::files_by_record(&image, &records),
        oracle::files_by_record(&out, &records),
    );
    if walk {
        // The same through the directories.
        assert_eq!(oracle::files(&out, 0).len(), is.len());
        assert_eq!(oracle::files(&image, 0).len(), was.len());
    }
    let gone = lower(was.keys().filter(|path| !is.contains_key(*path)).cloned());
    assert_eq!(gone, lower(TARGETS.map(str::to_owned)));
    assert!(is.keys().all(|path| was.contains_key(path)));
    let changed = lower(
        is.iter()
            .filter(|(path, now)| was[*path] != **now)
            .map(|(p, _)| p.clone()),
    );
    assert_eq!(changed, lower(HIVES.map(str::to_owned)));

    for hive in HIVES {
        let record = records[hive.trim_start_matches('\\')];
        let old = oracle::read_record(&image, record);
        let new = oracle::read_record(&out, record);
        assert_eq!(old.len(), new.len());
        let (old, new) = (oracle::hive_lines(&old), oracle::hive_lines(&new));
        let lost: Vec<&String> = old.iter().filter(|line| !new.contains(line)).collect();
        // One value; per site a key with a value and a key below it with a value.
        assert_eq!(lost.len(), 1 + 2 * 4, "{lost:#?}");
        assert!(new.iter().all(|line| old.contains(line)));
        let client = format!(r"[\{}]", machine::CLIENT);
        assert!(new.contains(&client), "the key of the value stays");
        assert!(new.contains(&format!(r"[\{}]", machine::ABEXPRT)));
        assert!(
            new.iter()
                .any(|line| line.contains("Preferred AbExprtDB\\CAP List"))
        );
        assert!(
            new.iter()
                .any(|line| line.contains("SMS Unique Identifiers"))
        );
    }

    // No form of the identity is left anywhere, $LogFile included (it is empty here).
    let bytes = fs::read(&out).unwrap();
    for form in oracle::guid_forms(GUID) {
        assert_eq!(
            oracle::find_all(&bytes, &form),
            [0_usize; 0],
            "{}",
            String::from_utf8_lossy(&form)
        );
    }
    for target in ["SID=S-1-5-21-1111111111", "UniqueID=ABC0000F"] {
        assert!(
            oracle::find_all(&bytes, target.as_bytes()).is_empty(),
            "{target}"
        );
    }

    declone(&["scan", arg(&out)]).exits(0);
    declone(&["verify", arg(&out), "--against", arg(&json)]).exits(0);
    // Again: nothing to do, the same bytes.
    let ran = declone(&["clean", arg(&out), "-o", arg(&again)]).exits(0);
    assert!(ran.out.contains("Nothing to do"), "{}", ran.out);
    assert_eq!(digest(&out), digest(&again));
    // The same input gives the same output.
    let twin = dir.path().join("twin.img");
    declone(&["clean", arg(&image), "-o", arg(&twin), "--prove"]).exits(0);
    assert_eq!(digest(&out), digest(&twin));

    // In place: the same bytes as the copy; taken back: the bytes of the original.
    let (own, undo) = (dir.path().join("own.img"), dir.path().join("own.undo"));
    fs::copy(&image, &own).unwrap();
    let run = [
        "clean",
        arg(&own),
        "--in-place",
        "--prove",
        "--undo",
        arg(&undo),
    ];
    declone(&run).exits(0);
    assert_eq!(digest(&own), digest(&out));
    declone(&["undo", arg(&undo)]).exits(0);
    assert_eq!(digest(&own), before);
    assert!(!dir.path().join("own.img.declone-journal").exists());
}

fn shape(sector: u64, cluster: u64, record: u64) -> Geometry {
    Geometry {
        sector,
        cluster,
        record,
        index: 4096,
    }
}

#[test]
fn windows_xp_as_it_usually_is() {
    clean_and_check(&machine::volume(24 * MIB, Geometry::default(), 5));
}

#[test]
fn windows_nt4_and_2000_hives_and_volumes() {
    clean_and_check(machine::volume(24 * MIB, Geometry::default(), 3).version(Version::V12));
    clean_and_check(machine::volume(24 * MIB, Geometry::default(), 3).version(Version::V30));
}

#[test]
fn small_clusters() {
    for cluster in [512, 1024, 2048] {
        clean_and_check(&machine::volume(24 * MIB, shape(512, cluster, 1024), 5));
    }
}

#[test]
fn large_clusters() {
    for (cluster, size) in [(8192, 24), (65536, 64)] {
        check(
            &machine::volume(size * MIB, shape(512, cluster, 1024), 5),
            false,
        );
    }
}

#[test]
fn sectors_of_4096_bytes() {
    clean_and_check(&machine::volume(24 * MIB, shape(4096, 4096, 4096), 5));
}

#[test]
fn a_clean_windows_log_is_accepted_and_left() {
    clean_and_check(machine::volume(24 * MIB, Geometry::default(), 5).log(Log::Clean11));
}

#[test]
fn hives_and_targets_in_many_pieces_with_attribute_lists() {
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    volume.entry(machine::HIVE).pieces(1);
    volume.entry(TARGETS[2]).pieces(1).list(List::NonResident);
    clean_and_check(&volume);
}

#[test]
fn a_fragmented_mft() {
    clean_and_check(machine::volume(24 * MIB, Geometry::default(), 5).mft_pieces(3));
}

#[test]
fn a_large_directory_with_full_index_blocks() {
    let mut volume = machine::volume(32 * MIB, Geometry::default(), 5);
    for i in 0..900 {
        volume.file(
            &format!(r"\WINDOWS\MS\SMS\CORE\DATA\some other file number {i:04}.log"),
            "x",
        );
    }
    volume
        .dir(r"\WINDOWS\MS\SMS\CORE\DATA")
        .fill(Fill::default());
    clean_and_check(&volume);
}

#[test]
fn targets_with_streams_object_ids_links_and_reparse_points() {
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    volume
        .entry(TARGETS[2])
        .object_id([7; 16])
        .stream("second", vec![3; 9000])
        .non_resident();
    volume.entry(TARGETS[3]).object_id([8; 16]);
    clean_and_check(&volume);
}

#[test]
fn existing_output_is_never_replaced_unasked() {
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), &image);
    fs::write(&out, "precious").unwrap();
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(2);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    declone(&["clean", arg(&image), "-o", arg(&image)]).exits(2);
    declone(&["clean", arg(&image), "-o", arg(&image), "--force"]).exits(2);
    declone(&["clean", arg(&image), "-o", arg(&out), "--force"]).exits(0);
    declone(&["scan", arg(&out)]).exits(0);
    assert_eq!(leftovers(dir.path()), 0, "no temporary file stays");
}

fn leftovers(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains(".tmp")
        })
        .count()
}

#[test]
fn holes_mode_and_owner_are_kept() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    machine::write(&machine::volume(256 * MIB, Geometry::default(), 5), &image);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).unwrap();
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    let (was, is) = (fs::metadata(&image).unwrap(), fs::metadata(&out).unwrap());
    assert_eq!(is.mode(), was.mode());
    assert_eq!((is.uid(), is.gid()), (was.uid(), was.gid()));
    assert!(
        is.blocks() <= was.blocks() + 64,
        "{} blocks became {}",
        was.blocks(),
        is.blocks()
    );
}

#[test]
fn traces_in_the_journals_are_reported_with_their_owner_and_left() {
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let name: Vec<u8> = "Smscfg.ini"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let guid: Vec<u8> = GUID.encode_utf16().flat_map(u16::to_le_bytes).collect();
    volume
        .file_of_streams(r"\$Extend\$UsnJrnl")
        .stream("$Max", vec![0; 32])
        .stream(
            "$J",
            Content::Sparse {
                len: 3 * MIB,
                pieces: vec![(2 * MIB, [&[0; 60][..], &name].concat())],
            },
        );
    volume.log(Log::Clean11).plant_in_log(40_000, &guid);
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    machine::write(&volume, &image);
    let args = ["clean", arg(&image), "-o", arg(&out), "--json", "-"];
    let json = declone(&args).exits(1).json();
    let report = &json["images"][0];
    assert_eq!(report["left"][0]["class"], "journal");
    let searched = report["searched"].to_string();
    assert!(
        searched.contains("$LogFile") && searched.contains("$UsnJrnl"),
        "{searched}"
    );
    let left: Vec<&serde_json::Value> = report["residues"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|residue| residue["place"] == "journal")
        .collect();
    let owned = |owner: &str| {
        left.iter()
            .filter(|r| r["owner"].as_str().unwrap().contains(owner))
            .count()
    };
    assert_eq!((owned("$LogFile"), owned("$UsnJrnl")), (1, 1), "{left:#?}");
    // A name in a journal is no identity, a GUID is: verify says so.
    let report = dir.path().join("report.json");
    fs::write(&report, serde_json::to_vec(&json).unwrap()).unwrap();
    declone(&["verify", arg(&out), "--against", arg(&report)]).exits(1);
}
