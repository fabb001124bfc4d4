//! Who an image's machine is, and whether it was generalized: installations of every generation
//! (`cases_machines/`, one file a case), contradictions, hostile hives, real hives against independent
//! readers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use declone::windows::{
    machine::{of_sam, of_security, of_system},
    registry::Registry,
};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    machine,
    machines_judged::unpack,
    run::{Ran, arg, declone, samples, scratch},
    support::{
        hive_builder::HiveBuilder, hive_log_builder as logs, machine_builder::Machine,
        ntfs_builder::NtfsBuilder, random::Random,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    machine: Machine,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    generation: Option<String>,
    status: String,
    /// A part of each contradiction, in order.
    #[serde(default)]
    contradictions: Vec<String>,
    #[serde(default)]
    mismatches: Vec<String>,
    /// Kind of a fact, and every value of it.
    #[serde(default)]
    facts: BTreeMap<String, Vec<String>>,
    /// Evidence that must be there, with a part of its value.
    #[serde(default)]
    evidence: BTreeMap<String, String>,
    /// Evidence that must be looked for and not be there.
    #[serde(default)]
    absent: Vec<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases_machines")
}

/// The names of all cases.
pub fn case_names() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("the cases");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<String> = paths
        .map(|path| {
            let stem = path.file_stem().expect("a name");
            stem.to_str().expect("text").to_owned()
        })
        .collect();
    names.sort();
    names
}

/// The machine of a case, and its generation.
pub fn case_of(name: &str) -> (Machine, Option<String>) {
    let Case { machine, expect } = case(name);
    (machine, expect.generation)
}

fn case(name: &str) -> Case {
    let path = folder().join(format!("{name}.toml"));
    let text = fs::read_to_string(&path).expect("the case");
    toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn scan(volume: &NtfsBuilder) -> (Ran, Json) {
    let dir = scratch();
    let image = dir.path().join("image");
    machine::write(volume, &image);
    let ran = declone(&["scan", "--json", "-", arg(&image)]);
    let json = ran.json()["images"][0].clone();
    (ran, json)
}

fn texts(list: &Json) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|v| v.as_str().expect("text").to_owned())
        .collect()
}

/// What was found, without where on the disk: a file less moves the others.
fn findings(image: &Json) -> Vec<[String; 3]> {
    let found = image["findings"].as_array().expect("findings").iter();
    found
        .map(|f| ["rule", "evidence", "subject"].map(|field| f[field].to_string()))
        .collect()
}

fn facts(machine: &Json, kind: &str) -> Vec<String> {
    let facts = machine["identity"]["facts"].as_array().expect("facts");
    let facts = facts.iter().filter(|fact| fact["kind"] == kind);
    facts
        .map(|f| f["value"].as_str().expect("text").to_owned())
        .collect()
}

#[track_caller]
fn parts(name: &str, what: &str, found: &[String], wanted: &[String]) {
    let fits = found.len() == wanted.len()
        && found
            .iter()
            .zip(wanted)
            .all(|(found, part)| found.contains(part.as_str()));
    assert!(fits, "{name}: {what}: wanted {wanted:#?}, found {found:#?}");
}

#[test]
fn every_generation_gets_the_verdict_of_its_case() {
    let mut generations = Vec::new();
    let mut statuses = Vec::new();
    for name in case_names() {
        let Case { machine, expect } = case(&name);
        let (_, json) = scan(&machine.volume(|_, bytes| Some(bytes)));
        let machines = json["machines"].as_array().expect("machines");
        assert_eq!(machines.len(), 1, "{name}");
        let found = &machines[0];
        let verdict = &found["generalization"];
        let generation = found["identity"]["windows"]["generation"].as_str();
        assert_eq!(generation, expect.generation.as_deref(), "{name}");
        assert_eq!(
            verdict["status"],
            expect.status.as_str(),
            "{name}: {verdict:#}"
        );
        let reason = verdict["reason"].as_str().expect("a reason");
        assert!(!reason.is_empty(), "{name}");
        let advised = verdict["advice"]
            .as_str()
            .is_some_and(|text| text.contains("Sysprep"));
        assert_eq!(advised, expect.status != "generalized", "{name}");
        let mut said = texts(&verdict["contradictions"]);
        parts(&name, "contradictions", &said, &expect.contradictions);
        let list = found["identity"]["mismatches"].as_array().expect("a list");
        said = list
            .iter()
            .map(|m| m["what"].as_str().expect("text").to_owned())
            .collect();
        parts(&name, "mismatches", &said, &expect.mismatches);
        for (kind, wanted) in &expect.facts {
            assert_eq!(&facts(found, kind), wanted, "{name}: {kind}");
        }
        let lines = verdict["evidence"].as_array().expect("evidence");
        let line = |id: &str| {
            let found = lines.iter().find(|line| line["id"] == id);
            found.unwrap_or_else(|| panic!("{name}: no line {id}"))
        };
        for (id, part) in &expect.evidence {
            let value = line(id)["value"].as_str().unwrap_or("absent");
            assert!(value.contains(part.as_str()), "{name}: {id}: {value}");
        }
        for id in &expect.absent {
            assert_eq!(line(id)["present"], false, "{name}: {id}");
        }
        for line in lines {
            assert_eq!(line["present"], !line["value"].is_null(), "{name}: {line}");
            assert!(
                line["source"]["file"]
                    .as_str()
                    .is_some_and(|f| f.starts_with('\\')),
                "{line}"
            );
            assert!(
                !line["meaning"].as_str().expect("text").is_empty(),
                "{name}: {line}"
            );
        }
        generations.extend(expect.generation);
        statuses.push(expect.status);
    }
    for generation in [
        "nt4", "2000", "xp", "2003", "vista", "7", "8", "8.1", "10", "11",
    ] {
        assert!(
            generations.iter().any(|g| g == generation),
            "no case of {generation}"
        );
    }
    for status in [
        "generalized",
        "generalized-not-armed",
        "specialized",
        "deployed",
        "undeployable",
        "unknown",
    ] {
        assert!(statuses.iter().any(|s| s == status), "no case of {status}");
    }
}

#[test]
fn a_persons_report_has_ten_lines_an_installation_and_then_the_evidence() {
    let Case { machine, .. } = case("xp-mismatches");
    let volume = machine.volume(|_, bytes| Some(bytes));
    let dir = scratch();
    let image = dir.path().join("image");
    machine::write(&volume, &image);
    let ran = declone(&["scan", arg(&image)]);
    let block: Vec<&str> = ran
        .out
        .lines()
        .skip_while(|line| !line.starts_with("Machine in "))
        .take_while(|line| !line.contains("evidence of generalization"))
        .collect();
    assert!((5..=10).contains(&block.len()), "{}", ran.out);
    let text = block.join("\n");
    assert!(text.contains("generalized: NO (deployed)"), "{text}");
    assert!(text.contains("MISMATCH: "), "{text}");
    assert!(text.contains("declone changes no SID"), "{text}");
}

#[test]
fn clean_and_verify_say_who_the_machine_is_and_change_nothing_of_it() {
    let Case { machine, .. } = case("xp-deployed-with-sms");
    let volume = machine.volume(|_, bytes| Some(bytes));
    let dir = scratch();
    let (image, out) = (dir.path().join("image"), dir.path().join("out"));
    machine::write(&volume, &image);
    let cleaned = declone(&["clean", "--json", "-", arg(&image), "-o", arg(&out)]).exits(0);
    let before = &cleaned.json()["images"][0]["machines"][0];
    assert_eq!(facts(before, "sms_guid").len(), 2);
    let after = declone(&["verify", "--json", "-", arg(&out)])
        .exits(0)
        .json();
    let after = &after["images"][0]["machines"][0];
    assert!(facts(after, "sms_guid").is_empty());
    for kind in ["computer_sid", "computer_name", "machine_guid"] {
        assert!(!facts(before, kind).is_empty(), "{kind}");
        assert_eq!(facts(before, kind), facts(after, kind), "{kind}");
    }
    assert_eq!(
        before["generalization"]["status"],
        after["generalization"]["status"]
    );
}

#[test]
fn hives_are_read_as_windows_would_see_them() {
    let Case { machine, .. } = case("win10-deployed");
    let renamed = Machine {
        computer: Some("OTHER-NAME-123".into()),
        ..machine.clone()
    };
    let (old, new) = (machine.system().build(), renamed.system().build());
    assert_eq!(old.len(), new.len());
    let mut volume = machine.volume(|path, bytes| {
        let system = path.ends_with("SYSTEM");
        Some(if system {
            logs::with_sequence(&old, 10, 9)
        } else {
            bytes
        })
    });
    let log = logs::new_log(&old, 10, &[logs::step(&old, &new, 10)]);
    volume.file(&machine.config("SYSTEM.LOG1"), log);
    volume.file(&machine.config("SYSTEM.LOG2"), Vec::new());
    let (_, json) = scan(&volume);
    let found = &json["machines"][0];
    assert_eq!(found["identity"]["computer_name"], "OTHER-NAME-123");
    assert_eq!(found["hives"][1]["state"], "replayed", "{}", found["hives"]);

    // Without its log it is read as it is on disk, and that is said.
    let volume = machine.volume(|path, bytes| {
        let system = path.ends_with("SYSTEM");
        Some(if system {
            logs::with_sequence(&old, 10, 9)
        } else {
            bytes
        })
    });
    let (_, json) = scan(&volume);
    let found = &json["machines"][0];
    assert_eq!(found["identity"]["computer_name"], "MASTER-10");
    assert_eq!(found["hives"][1]["state"], "dirty");
    assert!(found["hives"][1]["reason"].is_string());
}

#[test]
fn a_hive_that_is_missing_or_no_hive_is_said_and_the_rest_goes_on() {
    let Case { machine, .. } = case("xp-deployed-with-sms");
    let (whole, all) = scan(&machine.volume(|_, bytes| Some(bytes)));
    type Way = fn(Vec<u8>) -> Option<Vec<u8>>;
    let ways: [(&str, Way); 5] = [
        ("missing", |_| None),
        ("unreadable", |_| Some(Vec::new())),
        ("unreadable", |_| Some(vec![0; 40_000])),
        ("unreadable", |bytes| Some(bytes[..5_000].to_vec())),
        ("unreadable", |mut bytes| {
            bytes[4096..].fill(0xFF);
            Some(bytes)
        }),
    ];
    for (at, name) in [(1, "SYSTEM"), (2, "SAM"), (3, "SECURITY")] {
        for (state, way) in ways {
            let volume = machine.volume(|path, bytes| match path.ends_with(name) {
                true => way(bytes),
                false => Some(bytes),
            });
            let (ran, json) = scan(&volume);
            assert_eq!(ran.code, whole.code, "{name} {state}");
            let hive = &json["machines"][0]["hives"][at];
            assert_eq!(
                (&hive["name"], &hive["state"]),
                (&name.into(), &state.into()),
                "{hive}"
            );
            assert_eq!(findings(&json), findings(&all), "{name}");
            let sid = &json["machines"][0]["identity"]["computer_sid"];
            assert!(sid.is_string(), "the other hive has it: {name} {state}");
        }
    }
    // Without any of them nothing is claimed.
    let mut volume = NtfsBuilder::new(8 << 20);
    volume.file(&machine.config("SOFTWARE"), vec![1; 9000]);
    let (_, json) = scan(&volume);
    let found = &json["machines"][0];
    assert!(
        found["identity"].is_null() && found["generalization"].is_null(),
        "{found}"
    );
    assert_eq!(found["hives"][0]["state"], "unreadable");
}

#[test]
fn flipped_bytes_in_the_other_hives_change_no_finding() {
    let Case { machine, .. } = case("xp-mismatches");
    let (whole, all) = scan(&machine.volume(|_, bytes| Some(bytes)));
    let mut random = Random(823);
    for round in 0..60_u64 {
        let name = ["SYSTEM", "SAM", "SECURITY"][usize::try_from(round % 3).unwrap()];
        let seed = random.next();
        let volume = machine.volume(|path, mut bytes| {
            if path.ends_with(name) {
                let mut random = Random(seed | 1);
                for _ in 0..=round / 3 {
                    let at = usize::try_from(random.next() % bytes.len() as u64).unwrap();
                    // Half of them in the header and the first cells.
                    let at = if random.chance(2) { at } else { at % 4600 };
                    bytes[at] = random.next().to_le_bytes()[0];
                }
            }
            Some(bytes)
        });
        let (ran, json) = scan(&volume);
        assert_eq!(ran.code, whole.code, "{name} round {round}: {}", ran.err);
        assert_eq!(json["findings"], all["findings"], "{name} round {round}");
        assert_eq!(json["machines"].as_array().map(Vec::len), Some(1));
        assert!(
            ran.took.as_secs() < 20,
            "{name} round {round}: {:?}",
            ran.took
        );
    }
}

#[test]
fn flipped_bytes_in_single_hives_never_panic() {
    let Case { machine, .. } = case("xp-mismatches");
    let hives: [Vec<u8>; 3] = [
        machine.system().build(),
        machine.sam().build(),
        machine.security().build(),
    ];
    let mut random = Random(4_711);
    let mut read = 0_u32;
    for round in 0..6_000_u64 {
        let mut bytes = hives[usize::try_from(round % 3).unwrap()].clone();
        for _ in 0..1 + round % 7 {
            let at = usize::try_from(random.next() % bytes.len() as u64).unwrap();
            bytes[at] ^= 1 << (random.next() % 8);
        }
        if let Ok(hive) = Registry::open(&bytes, "x") {
            let _ = declone::windows::generalization::of_system(&hive);
            let _ = declone::windows::generalization::of_software(&hive);
            for facts in [of_sam(&hive), of_security(&hive), of_system(&hive)] {
                read += u32::try_from(facts.len()).unwrap();
                assert!(facts.iter().all(|fact| fact.value.len() < 4_000));
            }
        }
    }
    assert!(read > 3_000, "most flips hit nothing: {read}");
}

#[test]
fn hostile_names_are_printed_harmlessly() {
    let Case { mut machine, .. } = case("win10-deployed");
    let evil = "A\u{1b}[31m\u{202e}B\u{7}\r\n";
    machine.computer = Some(evil.into());
    machine.domain = Some(evil.repeat(200));
    machine.files.insert(
        r"Windows\Setup\State\State.ini".into(),
        format!("[State]\r\nImageState=\u{202e}{}\r\n", "x".repeat(5000)),
    );
    let dir = scratch();
    let image = dir.path().join("image");
    machine::write(&machine.volume(|_, bytes| Some(bytes)), &image);
    for args in [
        vec!["scan", arg(&image)],
        vec!["scan", "--json", "-", arg(&image)],
    ] {
        let ran = declone(&args);
        let raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!ran.out.chars().any(raw), "{}", ran.out);
        assert!(ran.out.contains("u{202e}"), "{}", ran.out);
    }
}

#[test]
fn each_of_two_installations_is_its_own_machine() {
    let one = case("xp-deployed-with-sms").machine;
    let two = Machine {
        root: "WINNT".into(),
        computer: Some("SECOND".into()),
        sid: Some([7, 8, 9]),
        files: BTreeMap::new(),
        ..case("nt4-deployed").machine
    };
    let mut volume = one.volume(|_, bytes| Some(bytes));
    for (path, bytes) in two.hives() {
        volume.file(&path, bytes);
    }
    let (_, json) = scan(&volume);
    let mut found: Vec<(String, String)> = json["machines"]
        .as_array()
        .expect("machines")
        .iter()
        .map(|m| {
            (
                m["root"].to_string(),
                m["identity"]["computer_sid"].to_string(),
            )
        })
        .collect();
    found.sort();
    let [a, b, c] = one.sid.expect("a SID");
    assert_eq!(
        found,
        [
            (
                r#""\\WINDOWS""#.to_owned(),
                format!("\"S-1-5-21-{a}-{b}-{c}\"")
            ),
            (r#""\\WINNT""#.to_owned(), "\"S-1-5-21-7-8-9\"".to_owned()),
        ]
    );
}

#[test]
fn real_hives_in_an_image_tell_their_machine() {
    let Some(dir) = samples("real_hives_in_an_image_tell_their_machine") else {
        return;
    };
    let real = |name: &str| unpack(&dir, name);
    let mut volume = NtfsBuilder::new(64 << 20);
    let mut software = HiveBuilder::new(5);
    software
        .key(r"Microsoft\Windows NT\CurrentVersion")
        .string("CurrentVersion", "5.1");
    for (name, bytes) in [
        ("SOFTWARE", software.build()),
        ("SYSTEM", real("xpsp3_SYSTEM")),
        ("SAM", real("win2012_SAM")),
        ("SECURITY", real("win2016_SECURITY")),
    ] {
        volume.file(&format!(r"WINDOWS\system32\config\{name}"), bytes);
    }
    let (_, json) = scan(&volume);
    let found = &json["machines"][0];
    assert_eq!(found["identity"]["computer_name"], "IECOMPATVHD");
    assert_eq!(found["identity"]["domain"], "TEST");
    assert_eq!(facts(found, "dns_domain"), ["TEST.corp"]);
    assert_eq!(
        facts(found, "computer_sid").last().map(String::as_str),
        Some("S-1-5-21-161349065-230161307-1850086198")
    );
    // SAM and SECURITY are of two machines.
    assert!(found["identity"]["computer_sid"].is_null());
    assert_eq!(
        found["identity"]["mismatches"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(found["generalization"]["status"], "deployed", "{found:#}");
}
