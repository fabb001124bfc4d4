//! What a verdict may say: removed, left and not looked at are three lists, and "clean" needs the last
//! two to be empty or taken into account.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    run::{Ran, arg, declone, digest, scratch},
    support::{
        disk_builder::DiskBuilder,
        ntfs_builder::{Content, Geometry, NtfsBuilder},
        sms::{self, Scene},
    },
};

const MIB: u64 = 1 << 20;
const SECTORS: u64 = MIB / 512;

/// A small machine on a volume that takes further files.
fn machine() -> NtfsBuilder {
    let mut v = sms::volume(8 * MIB, Geometry::default());
    Scene::small().install(&mut v);
    v
}

fn write(disk: &DiskBuilder, path: &Path) {
    fs::write(path, disk.to_vec().0).unwrap();
}

fn json(ran: &Ran) -> Value {
    ran.json()["images"][0].clone()
}

fn look(verb: &str, image: &Path, more: &[&str], code: i32) -> Value {
    let args = [&[verb, arg(image), "--json", "-"], more].concat();
    json(&declone(&args).exits(code))
}

/// Cleans to `out` and says what the report says.
fn clean(image: &Path, out: &Path, more: &[&str], code: i32) -> Value {
    let args = [&["clean", arg(image), "-o", arg(out), "--json", "-"], more].concat();
    json(&declone(&args).exits(code))
}

fn classes(report: &Value, list: &str) -> Vec<String> {
    let lines = report[list].as_array().unwrap().iter();
    let open = lines.filter(|line| line["accepted"] == false && line["harmless"] != true);
    open.map(|line| line["class"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_unknown_partition_is_not_looked_at_and_can_be_accepted() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    let disk = DiskBuilder::mbr(12 * MIB)
        .partition(SECTORS, machine())
        .raw(10 * SECTORS, SECTORS, 0x83, b"something that nobody knows");
    write(&disk, &image);
    let report = clean(&image, &out, &[], 1);
    assert_eq!(report["result"], "cleaned");
    assert_eq!(classes(&report, "not_scanned"), ["unsupported"]);
    assert_eq!(classes(&report, "left"), Vec::<String>::new());
    let text = declone(&["verify", arg(&out)]).exits(1).out;
    assert!(!text.contains("Clean"), "{text}");
    let report = look("verify", &out, &[], 1);
    assert_eq!(report["result"], "incomplete");
    let report = look("verify", &out, &["--accept", "unsupported"], 0);
    assert_eq!(report["result"], "clean");
    assert_eq!(report["accepted"][0], "unsupported");
    // Another class is not this one.
    look("verify", &out, &["--accept", "packed,live"], 1);
}

#[test]
fn a_partition_of_zeros_hides_nothing() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    let disk = DiskBuilder::mbr(12 * MIB)
        .partition(SECTORS, machine())
        .raw(10 * SECTORS, SECTORS, 0x83, b"");
    write(&disk, &image);
    let report = clean(&image, &out, &[], 0);
    let unseen = report["not_scanned"].as_array().unwrap();
    assert!(unseen.iter().any(|line| line["harmless"] == true));
    assert_eq!(look("verify", &out, &[], 0)["result"], "clean");
}

#[test]
fn a_trace_in_a_live_file_is_left_and_named() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    let mut v = machine();
    let guid = Scene::small().full_guid();
    v.file(
        r"WINDOWS\system32\CCM\Logs\ClientIDManagerStartup.log",
        format!("Client is set to use {guid}\r\n")
            .repeat(100)
            .as_str(),
    );
    write(&DiskBuilder::mbr(12 * MIB).partition(SECTORS, v), &image);
    let report = clean(&image, &out, &[], 1);
    assert_eq!(classes(&report, "left"), ["live"]);
    let line = &report["left"][0];
    assert!(
        line["owner"]
            .as_str()
            .unwrap()
            .starts_with(r"\WINDOWS\system32\CCM\Logs\ClientIDManagerStartup.log"),
        "{line}"
    );
    assert!(!line["remedy"].as_str().unwrap().is_empty());
    assert!(line["count"].as_u64().unwrap() >= 100, "{line}");
    clean(&image, &dir.path().join("o2.img"), &["--accept", "live"], 0);
    // Without the search nobody can know of it: the verdict says so.
    let text = declone(&["clean", arg(&image), "-n", "--quick"])
        .exits(0)
        .out;
    assert!(text.contains("were not searched (--quick)"), "{text}");
    let report = json(&declone(&["clean", arg(&image), "-n", "--quick", "--json", "-"]).exits(0));
    let quick = report["not_scanned"].as_array().unwrap().iter();
    assert_eq!(
        quick
            .filter(|line| line["class"] == "unsearched" && line["accepted"] == true)
            .count(),
        1
    );
}

#[test]
fn the_search_is_what_clean_does_by_itself() {
    let dir = scratch();
    let image = dir.path().join("d.img");
    write(
        &DiskBuilder::mbr(12 * MIB).partition(SECTORS, machine()),
        &image,
    );
    let (a, b) = (dir.path().join("a.img"), dir.path().join("b.img"));
    let report = clean(&image, &a, &[], 0);
    let searched = report["searched"].to_string();
    assert!(searched.contains("every data extent"), "{searched}");
    clean(&image, &b, &["--prove"], 0);
    assert_eq!(digest(&a), digest(&b));
    declone(&["clean", arg(&image), "-n", "--prove", "--quick"]).exits(2);
}

#[test]
fn no_windows_is_no_clean_image() {
    let dir = scratch();
    let image = dir.path().join("data.img");
    let mut v = sms::volume(8 * MIB, Geometry::default());
    v.file(r"data\readme.txt", Content::filler(5, 9000));
    write(&DiskBuilder::mbr(12 * MIB).partition(SECTORS, v), &image);
    for verb in ["scan", "verify"] {
        let report = look(verb, &image, &[], 4);
        assert_eq!(report["result"], "no_windows");
        let text = declone(&[verb, arg(&image)]).exits(4).out;
        assert!(text.contains("Nothing was checked"), "{text}");
        let report = look(verb, &image, &["--allow-no-windows"], 0);
        assert_eq!(report["result"], "clean");
    }
    let out = dir.path().join("o.img");
    let report = clean(&image, &out, &[], 4);
    assert_eq!(report["result"], "no_windows");
    assert!(!out.exists());
    // A directory is no other case.
    let empty = dir.path().join("mountpoint");
    fs::create_dir(&empty).unwrap();
    let report = look("scan", &empty, &[], 4);
    assert_eq!(report["result"], "no_windows");
    look("scan", &empty, &["--allow-no-windows"], 0);
    declone(&["clean", arg(&empty), "--in-place"]).exits(4);
}

#[test]
fn what_is_required_and_not_so_is_named() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    write(
        &DiskBuilder::mbr(12 * MIB).partition(SECTORS, machine()),
        &image,
    );
    clean(&image, &out, &[], 0);
    let report = look("verify", &out, &["--require", "no-traces,all-read"], 0);
    assert_eq!(report["missing"].as_array().unwrap().len(), 0);
    let report = look("verify", &out, &["--require", "generalized,no-traces"], 1);
    let missing = report["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0]
            .as_str()
            .unwrap()
            .starts_with("generalized: \\WINDOWS")
    );
    assert_eq!(report["result"], "requirements");
    // A scan does not search: it cannot vouch for that.
    let report = look("scan", &out, &["--require", "no-traces"], 1);
    assert!(report["missing"][0].as_str().unwrap().contains("verify"));
}

#[test]
fn a_verdict_names_its_rules() {
    let dir = scratch();
    let image = dir.path().join("d.img");
    write(
        &DiskBuilder::mbr(12 * MIB).partition(SECTORS, machine()),
        &image,
    );
    let one = look("scan", &image, &[], 1);
    let other = look("scan", &image, &["--rules", "sms,audit"], 1);
    assert_eq!(one["rule_sets"], serde_json::json!(["sms"]));
    assert!(one["rules"].to_string().contains("sms."));
    assert_eq!(one["rules_digest"].as_str().unwrap().len(), 64);
    assert_ne!(one["rules_digest"], other["rules_digest"]);
    let text = declone(&["scan", arg(&image)]).exits(1).out;
    assert!(text.contains("(rules: sms)"), "{text}");
}

#[test]
fn what_is_only_reported_is_no_zero() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    let mut v = machine();
    v.file("Sms.ini", "[Local]\r\nSMSID=XYZ00001\r\n");
    write(&DiskBuilder::mbr(12 * MIB).partition(SECTORS, v), &image);
    let report = clean(&image, &out, &[], 1);
    assert_eq!(classes(&report, "left"), ["reported"]);
    let report = look("scan", &out, &[], 1);
    assert_eq!(report["result"], "findings");
    assert_eq!(
        look("scan", &out, &["--accept", "reported"], 0)["result"],
        "clean"
    );
}

#[test]
fn an_id_that_only_the_user_knows_is_sought() {
    let dir = scratch();
    let (image, out) = (dir.path().join("d.img"), dir.path().join("o.img"));
    let mut v = machine();
    let known = "5D2C1B0A-9F8E-4D7C-8B6A-1234567890AB";
    // The binary form, as a client keeps it, where no file is; and an id of SMS 1.x.
    let guid: Vec<u8> = hex::decode("0a1b2c5d8e9f7c4d8b6a1234567890ab").unwrap();
    v.plant_free_cluster(&[b"....".as_slice(), &guid, b"...."].concat());
    v.plant_free_cluster(b"site=LAX0007B;");
    write(&DiskBuilder::mbr(12 * MIB).partition(SECTORS, v), &image);
    let holds = |path: &Path, what: &[u8]| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(what.len()).any(|at| at == what)
    };
    // Nobody else can know of them.
    clean(&image, &out, &[], 0);
    assert!(holds(&out, &guid) && holds(&out, b"LAX0007B"));
    let list = dir.path().join("ids.txt");
    fs::write(&list, "\n LAX0007B \n").unwrap();
    let listed = format!("@{}", arg(&list));
    let report = look("verify", &out, &["--seek", known, "--seek", &listed], 1);
    assert_eq!(classes(&report, "left"), ["unreferenced", "unreferenced"]);
    let sought = dir.path().join("sought.img");
    clean(&image, &sought, &["--seek", known, "--seek", &listed], 0);
    assert!(!holds(&sought, &guid) && !holds(&sought, b"LAX0007B"));
    look("verify", &sought, &["--seek", known, "--seek", &listed], 0);
    declone(&["verify", arg(&sought), "--seek", "short"]).exits(2);
    declone(&["verify", arg(&sought), "--seek", "@/does/not/exist"]).exits(2);
}
