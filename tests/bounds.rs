//! What costs too much, in honest images and in hostile ones: long values, periodic contents, thousands
//! of files. An answer within two seconds of processor time and 128 MiB, nothing forgotten in silence.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::Value;

use crate::{
    machine::{self, GUID},
    run::{arg, scratch},
    support::{
        fat_builder::{FatBuilder, Width},
        hive_builder::{HiveBuilder, Kind},
        ntfs_builder::NtfsBuilder,
        wim_builder::{Node, Wim},
    },
};

/// Runs declone; gives the code, the report, the processor time and the most memory, in MiB.
#[track_caller]
fn run(args: &[&str], dir: &Path) -> (i32, Value, Duration, u64) {
    let out = dir.join("out.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(args)
        .args(["--json", "-"])
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id();
    // proc(5): VmHWM is the most there ever was; a process that ended has none.
    let mut peak = 0;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(Pid::from_child(&child)), options)
        .unwrap()
        .is_none()
    {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(kib.unwrap_or(0_u64) / 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    let text = fs::read_to_string(&out).unwrap();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    (code, json, Duration::from_millis(ticks * 10), peak)
}

/// Scans and plans a clean; both are cheap. Gives the report of the scan.
#[track_caller]
fn cheap(name: &str, image: &Path, dir: &Path) -> Value {
    let mut report = Value::Null;
    for args in [vec!["clean", arg(image), "-n"], vec!["scan", arg(image)]] {
        let (code, json, cpu, peak) = run(&args, dir);
        println!("{name}, {}: {cpu:?}, {peak} MiB, exit {code}", args[0]);
        assert!(code == 0 || code == 1, "{name}, {args:?}: {code} {json}");
        assert!(cpu < Duration::from_secs(2), "{name}, {args:?}: {cpu:?}");
        assert!(peak < 128, "{name}, {args:?}: {peak} MiB");
        report = json;
    }
    report
}

fn wim(hive: Vec<u8>, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut root = Node::directory("");
    root.add(machine::HIVE, &hive);
    for (path, bytes) in files {
        root.add(path, bytes);
    }
    Wim::new(vec![root]).build()
}

fn findings(report: &Value) -> &Vec<Value> {
    report["images"][0]["findings"].as_array().unwrap()
}

#[test]
fn long_values_and_periodic_ones_are_cheap() {
    let dir = scratch();
    for len in [16_345_usize, 81_725, 1 << 20] {
        for (what, unit) in [
            ("run", "A"),
            ("period", "A="),
            ("digits", "0123456789-abcdef"),
        ] {
            let text: String = unit.chars().cycle().take(len / 2 - 1).collect();
            let mut hive = HiveBuilder::new(5);
            hive.key(machine::CLIENT)
                .string("SMS Unique Identifier", &text);
            hive.key(r"Microsoft\Other")
                .value("x", Kind::Binary, &text.as_bytes().repeat(2));
            let image = dir.path().join(format!("{what}{len}.wim"));
            fs::write(&image, wim(hive.build(), &[])).unwrap();
            let report = cheap(&format!("{what} of {len}"), &image, dir.path());
            assert_eq!(findings(&report).len(), 1);
            let tokens = report["images"][0]["tokens"].as_array().unwrap();
            let longest = tokens.iter().map(|t| t["bytes"].as_str().unwrap().len());
            assert!(longest.max().unwrap() <= 2 * 128);
        }
    }
}

#[test]
fn periodic_contents_are_cheap() {
    let dir = scratch();
    for (what, bytes) in [
        ("letters", b"A".repeat(16_000)),
        ("assignments", b"A=".repeat(8_000)),
        ("lines", b"A=AAAAAAAAAAAAAA\r\n".repeat(1_000)),
        ("line", [b"A=".to_vec(), b"B".repeat(1 << 20)].concat()),
    ] {
        let image = dir.path().join(format!("{what}.wim"));
        let files = [
            (r"\WINDOWS\Smscfg.ini".to_owned(), bytes.clone()),
            (r"\WINDOWS\other.txt".to_owned(), bytes),
        ];
        fs::write(&image, wim(machine::hive(5).build(), &files)).unwrap();
        cheap(what, &image, dir.path());
    }
}

/// An ini with an id of its own.
fn ini(i: usize) -> Vec<u8> {
    machine::ini()
        .replace(GUID, &format!("{:08X}-0B2E-4F68-9C1D-{i:012X}", i * 7919))
        .into_bytes()
}

#[test]
fn thousands_of_different_files_are_cheap_and_all_found() {
    let dir = scratch();
    let image = dir.path().join("many.wim");
    let files: Vec<(String, Vec<u8>)> = (0..3_000)
        .map(|i| (format!(r"\Users\u{i:05}\Smscfg.ini"), ini(i)))
        .collect();
    // One folder after another: the builder looks for each by its name.
    fs::write(&image, wim(machine::hive(5).build(), &files)).unwrap();
    let report = cheap("3000 files", &image, dir.path());
    let found = findings(&report).iter();
    assert!(found.filter(|f| f["rule"] != Value::Null).count() >= 3_000);
}

/// Names that resemble those of hives in the recycle bin, more than were allowed once.
fn recycled() -> impl Iterator<Item = (String, &'static str)> {
    (0..20_100).map(|i| (format!(r"\RECYCLER\$R{i:05}.TXT"), ""))
}

#[track_caller]
fn full_bin(name: &str, image: &Path, dir: &Path) {
    let (code, report, cpu, peak) = run(&["scan", arg(image)], dir);
    println!("{name}: {cpu:?}, {peak} MiB");
    assert_eq!(code, 1, "{name}: {report}");
    let path = |f: &&Value| f["path"].as_str().is_some_and(|p| p.ends_with("mscfg.ini"));
    let files = findings(&report).iter().map(|f| &f["subject"]);
    let flat = findings(&report).iter();
    let found = files.chain(flat).filter(|f| path(f)).count();
    assert!(found >= 1, "{name}: {}", report["images"][0]["findings"]);
}

#[test]
fn a_full_recycle_bin_does_not_end_the_run() {
    let dir = scratch();
    let mut v = NtfsBuilder::new(96 << 20);
    v.file(machine::HIVE, machine::hive(5).build());
    for (path, text) in recycled() {
        v.file(&path, text);
    }
    v.file(r"\WINDOWS\Smscfg.ini", machine::ini().as_str());
    let image = dir.path().join("ntfs.img");
    machine::write(&v, &image);
    full_bin("NTFS", &image, dir.path());

    let mut v = FatBuilder::new(Width::Fat32, 64 << 20, 512);
    v.file(machine::HIVE, machine::hive(5).build());
    for (path, text) in recycled() {
        v.file(&path, text);
    }
    v.file(r"\WINDOWS\Smscfg.ini", machine::ini());
    let image = dir.path().join("fat.img");
    fs::write(&image, v.build().bytes).unwrap();
    full_bin("FAT", &image, dir.path());
}
