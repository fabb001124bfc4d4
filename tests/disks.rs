//! Whole disks from `fixtures/`: MBR with a Windows XP, GPT with 4096-byte sectors, two
//! installations, no table at all.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use crate::{
    run::{arg, declone, digest, scratch},
    support::fixtures,
};

const DISKS: [&str; 4] = [
    "xp-sms2003.img",
    "gpt-4kn.img",
    "two-installations.img",
    "tiny-superfloppy.img",
];

#[test]
fn every_disk_is_cleaned_and_stays_clean() {
    for name in DISKS {
        let dir = scratch();
        let path = |end: &str| dir.path().join(format!("{name}.{end}"));
        let (image, out, again, report) =
            (path("in"), path("out"), path("again"), path("report.json"));
        fixtures::unpack_to(name, &image).unwrap();
        let before = digest(&image);
        declone(&["scan", arg(&image)]).exits(1);
        let args = [
            "clean",
            arg(&image),
            "-o",
            arg(&out),
            "--prove",
            "--json",
            arg(&report),
            "--hash",
            "sha256",
        ];
        let ran = declone(&args).exits(0);
        assert!(!ran.out.contains("LEFT"), "{name}: {}", ran.out);
        assert_eq!(digest(&image), before, "{name}");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(json["images"][0]["result"], "cleaned", "{name}");
        assert_eq!(json["images"][0]["done"]["sha256"], digest(&out), "{name}");
        assert_eq!(json["images"][0]["image"]["sha256"], before, "{name}");
        let witnesses = json["images"][0]["done"]["witnesses"].to_string();
        assert!(witnesses.contains("nt-hive agrees"), "{name}: {witnesses}");
        assert!(witnesses.contains("ntfs agrees"), "{name}: {witnesses}");
        // Exactly the bytes of the patches differ.
        let (old, new) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
        let pages: Vec<u64> = json["images"][0]["done"]["patches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|patch| patch["offset"].as_u64().unwrap())
            .collect();
        for (i, (a, b)) in old.chunks(4096).zip(new.chunks(4096)).enumerate() {
            assert_eq!(
                a != b,
                pages.contains(&(i as u64 * 4096)),
                "{name}: page {i}"
            );
        }
        declone(&["scan", arg(&out)]).exits(0);
        declone(&["verify", arg(&out), "--against", arg(&report)]).exits(0);
        declone(&["clean", arg(&out), "-o", arg(&again)]).exits(0);
        assert_eq!(digest(&out), digest(&again), "{name}");
    }
}

#[test]
fn both_installations_are_found() {
    let dir = scratch();
    let image = dir.path().join("two.img");
    fixtures::unpack_to("two-installations.img", &image).unwrap();
    let json = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let roots: usize = json["images"][0]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["installations"].as_array().unwrap().len())
        .sum();
    assert!(roots >= 2, "{json:#}");
}

#[test]
fn a_disk_with_only_its_backup_gpt_is_looked_at_and_not_written() {
    let dir = scratch();
    let image = dir.path().join("gpt.img");
    fixtures::unpack_to("gpt-4kn.img", &image).unwrap();
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut header = [0; 8];
    file.read_exact_at(&mut header, 4096).unwrap();
    assert_eq!(&header, b"EFI PART");
    file.write_all_at(&[0x55; 92], 4096).unwrap();
    // An image that somebody can write to is not cleaned.
    drop(file);
    let before = digest(&image);
    let scan = declone(&["scan", arg(&image)]).exits(1);
    assert!(scan.out.contains("backup"), "{}", scan.out);
    let ran = declone(&["clean", arg(&image), "-n"]).exits(3);
    assert!(ran.out.contains("partition table"), "{}", ran.out);
    assert_eq!(digest(&image), before);
}

#[test]
fn a_log_beside_an_edited_hive_is_zeroed_and_keeps_its_length() {
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fixtures::unpack_to("xp-sms2003.img", &image).unwrap();
    let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    assert!(ran.out.contains("filled with zeros"), "{}", ran.out);
    let (was, is) = (
        crate::oracle::files(&image, 0x7e00),
        crate::oracle::files(&out, 0x7e00),
    );
    let path = r"\WINDOWS\system32\config\software.LOG";
    assert_eq!(was[path].0, is[path].0);
    assert_ne!(was[path].1, is[path].1);
    use sha2::Digest;
    let zeros = hex::encode(sha2::Sha256::digest(vec![0; is[path].0 as usize]));
    assert_eq!(is[path].1, zeros);
}

#[test]
fn one_partition_can_be_chosen() {
    let dir = scratch();
    let image = dir.path().join("xp.img");
    fixtures::unpack_to("xp-sms2003.img", &image).unwrap();
    declone(&["scan", arg(&image), "--partition", "1"]).exits(1);
    let ran = declone(&["scan", arg(&image), "--partition", "7"]).exits(2);
    assert!(ran.out.contains("--partition"), "{} {}", ran.out, ran.err);
}
