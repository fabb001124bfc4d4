//! `declone compare`: a fleet of images whose clones are known.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    machine::{self, GUID},
    oracle,
    run::{arg, declone, digest, scratch},
    support::{
        hive_builder::{HiveBuilder, Kind},
        ntfs_builder::{Geometry, NtfsBuilder},
    },
};

/// The machine's disk with another GUID in every place of the first one.
fn disk_of(guid: &str, dir: &Path) -> Vec<u8> {
    let path = dir.join("new.img");
    machine::write(&machine::volume(24 << 20, Geometry::default(), 5), &path);
    let mut bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let forms = oracle::guid_forms(GUID)
        .into_iter()
        .zip(oracle::guid_forms(guid));
    let places: Vec<(usize, Vec<u8>)> = forms
        .flat_map(|(old, new)| {
            assert_eq!(old.len(), new.len());
            let found = oracle::find_all(&bytes, &old);
            found
                .into_iter()
                .map(move |at| (at, new.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    for (at, new) in places {
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    bytes
}

fn groups(json: &Value) -> Vec<Vec<String>> {
    let name = |path: &Value| {
        let path = path.as_str().unwrap().split(' ').next().unwrap().to_owned();
        Path::new(&path)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    json["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            group["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(name)
                .collect()
        })
        .collect()
}

#[test]
fn clones_are_found_among_images_and_reports_and_nothing_is_written() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let other = "01234567-89AB-4CDE-8F01-23456789ABCD";
    let third = "FEDCBA98-7654-4321-8FED-CBA987654321";
    for (name, guid) in [
        ("a.img", GUID),
        ("b.img", other),
        ("c.img", GUID),
        ("d.img", third),
        ("e.img", other),
        ("f.img", other),
    ] {
        fs::write(path(name), disk_of(guid, dir.path())).unwrap();
    }
    declone(&["clean", arg(&path("a.img")), "-o", arg(&path("clean.img"))]).exits(0);
    let report = path("e.json");
    declone(&["scan", arg(&path("e.img")), "--json", arg(&report)]).exits(1);
    let inputs: Vec<_> = [
        "a.img",
        "b.img",
        "c.img",
        "d.img",
        "e.json",
        "f.img",
        "clean.img",
    ]
    .map(path)
    .into();
    let before: Vec<String> = inputs.iter().map(|input| digest(input)).collect();
    let mut args = vec!["compare"];
    args.extend(inputs.iter().map(|input| arg(input)));
    let text = declone(&args).exits(1).out;
    args.extend(["--json", "-"]);
    let json = declone(&args).exits(1).json();
    assert_eq!(
        groups(&json),
        [vec!["a.img", "c.img"], vec!["b.img", "e.img", "f.img"]]
    );
    for word in [
        "Group 1: 2 images with one identity",
        "Group 2: 3 images with one identity",
        "the same SMS GUID: ",
        "SMS Unique Identifier",
        "d.img: its ids are its own",
        "clean.img: no id was found in it",
        "2 groups of images",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let shared = json["groups"][0]["shared"].as_array().unwrap();
    let known = shared.iter().any(|one| {
        one["identity"] == "SMS GUID" && one["value"] == GUID.replace('-', "").to_lowercase()
    });
    assert!(known, "{shared:?}");
    let after: Vec<String> = inputs.iter().map(|input| digest(input)).collect();
    assert_eq!(before, after);
}

#[test]
fn strangers_are_no_group_and_what_cannot_be_read_is_said() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.img"), disk_of(GUID, dir.path())).unwrap();
    let other = "01234567-89AB-4CDE-8F01-23456789ABCD";
    fs::write(path("b.img"), disk_of(other, dir.path())).unwrap();
    let (a, b) = (path("a.img"), path("b.img"));
    let ran = declone(&["compare", arg(&a), arg(&b)]).exits(0);
    assert!(ran.out.contains("No two of 2 images"), "{}", ran.out);
    // An image that cannot be read is no reason to call the others strangers.
    fs::write(path("junk.img"), vec![7; 4096]).unwrap();
    let junk = path("junk.img");
    let ran = declone(&["compare", arg(&a), arg(&junk)]).exits(4);
    assert!(ran.out.contains("NOT WHOLLY LOOKED AT"), "{}", ran.out);
    fs::write(path("bad.json"), "{\"images\": 1}").unwrap();
    let bad = path("bad.json");
    declone(&["compare", arg(&a), arg(&bad)]).exits(4);
    declone(&["compare"]).exits(2);
    // A name in a report is a stranger's text.
    let evil = "{\"images\":[{\"path\":\"\\u001b[31mx\\u202e\",\"findings\":[],\"errors\":[{\"what\":\"\\u001b]0;y\"}]}]}";
    fs::write(path("evil.json"), evil).unwrap();
    let evil = path("evil.json");
    let ran = declone(&["compare", arg(&evil)]);
    assert!(!ran.out.contains(['\u{1b}', '\u{202e}']), "{}", ran.out);
    assert!(ran.out.contains("\\u{1b}"), "{}", ran.out);
}

/// A Windows of the fleet.
#[derive(Clone)]
struct Windows {
    root: &'static str,
    guid: Option<u32>,
    sid: u32,
    machine_guid: u32,
    computer: String,
    /// The hardware it last ran on, by Windows and by the SMS client.
    uuid: Option<u32>,
    serial: Option<u32>,
}

/// A GUID of a number; different numbers give GUIDs that have little in common.
fn guid_of(seed: u32, n: u32) -> String {
    let part = |k: u32| {
        (n + 1)
            .wrapping_mul(0x9E37_79B1 ^ k)
            .wrapping_add(seed.wrapping_mul(k | 1))
    };
    let (a, b, c, d) = (part(3), part(71), part(501), part(9001));
    format!(
        "{a:08X}-{:04X}-4{:03X}-8{:03X}-{c:08X}{:04X}",
        b >> 16,
        b & 0xfff,
        d >> 20,
        d & 0xffff
    )
}

/// The ids of everything, one number each.
fn fleet_image(systems: &[Windows]) -> Vec<u8> {
    let mut v = NtfsBuilder::new(6 << 20);
    for (number, system) in systems.iter().enumerate() {
        let config = format!(r"\{}\system32\config", system.root);
        let mut software = HiveBuilder::new(5);
        software.key(r"Microsoft\Cryptography").string(
            "MachineGuid",
            &guid_of(77, system.machine_guid).to_lowercase(),
        );
        if let Some(guid) = system.guid {
            software.key(machine::CLIENT).string(
                "SMS Unique Identifier",
                &format!("GUID:{}", guid_of(5, guid)),
            );
            let mut ini = format!("[x]\r\nSMS Unique Identifier=GUID:{}\r\n", guid_of(5, guid));
            if let Some(serial) = system.serial {
                let hex = hex::encode_upper(format!("S\0E\0R\0{serial}\0"));
                ini = format!(
                    "[Configuration - Client Properties]\r\nSMS Unique Identifier=GUID:{}\r\n\
                     SMS SMBIOS Serial Number Identifier={hex}\r\n\
                     SMS Hardware Identifier=2:{serial:08X}\r\n",
                    guid_of(5, guid)
                );
            }
            v.file(&format!(r"\{}\Smscfg.ini", system.root), ini.as_str());
        }
        let mut hive = HiveBuilder::new(5);
        hive.key("Select").dword("Current", 1);
        hive.key(r"ControlSet001\Control\ComputerName\ComputerName")
            .string("ComputerName", &system.computer);
        if let Some(uuid) = system.uuid {
            hive.key("HardwareConfig")
                .string("LastConfig", &format!("{{{}}}", guid_of(9, uuid)));
        }
        let mut sam = HiveBuilder::new(5);
        let mut account = vec![0; 192];
        for part in [system.sid, system.sid ^ 0x5555, 725_345_543] {
            account.extend(part.wrapping_mul(0x9E37_79B1).to_le_bytes());
        }
        sam.key(r"SAM\Domains\Account")
            .value("V", Kind::Binary, &account);
        for (name, hive) in [("SOFTWARE", software), ("SYSTEM", hive), ("SAM", sam)] {
            v.file(&format!(r"{config}\{name}"), hive.build());
        }
        v.file(&format!(r"\file{number}.txt"), "x");
    }
    v.to_vec().0
}

#[test]
fn a_renamed_machine_alone_is_no_duplicate_and_the_answer_says_why() {
    let before = Windows {
        root: "WINDOWS",
        guid: Some(1),
        sid: 2,
        machine_guid: 3,
        computer: "OLD".to_owned(),
        uuid: Some(4),
        serial: None,
    };
    let after = Windows {
        computer: "NEW".to_owned(),
        ..before.clone()
    };
    let dir = scratch();
    let [a, b] = ["a.img", "b.img"].map(|name| dir.path().join(name));
    fs::write(&a, fleet_image(std::slice::from_ref(&before))).unwrap();
    fs::write(&b, fleet_image(std::slice::from_ref(&after))).unwrap();
    let page = dir.path().join("page.html");
    let ran = declone(&["compare", arg(&a), arg(&b), "--html", arg(&page)]).exits(0);
    let page = fs::read_to_string(&page).unwrap();
    for word in ["one machine, renamed", "SMBIOS UUID", "no clones"] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        assert!(page.contains(word), "{word}");
    }
    // A UUID that many makers left as it was is no evidence.
    let mut bytes = fleet_image(&[after]);
    let own = oracle::guid_forms(&guid_of(9, 4));
    let nobodys = oracle::guid_forms("03000200-0400-0500-0006-000700080009");
    let mut changed = 0;
    for (own, nobodys) in own.iter().zip(&nobodys) {
        for at in oracle::find_all(&bytes, own) {
            bytes[at..at + own.len()].copy_from_slice(nobodys);
            changed += 1;
        }
    }
    assert!(changed > 0);
    fs::write(&b, &bytes).unwrap();
    let json = declone(&["compare", arg(&a), arg(&b), "--json", "-"])
        .exits(1)
        .json();
    assert_eq!(json["groups"][0]["verdict"], "renamed_or_clones");
    assert!(json["images"][0]["machines"][0]["hardware_uuid"].is_string());
    assert!(json["images"][1]["machines"][0]["hardware_uuid"].is_null());
}

#[test]
fn a_fleet_of_forty_is_grouped_exactly_as_it_was_planned() {
    let mut fresh = 1000;
    let mut next = || {
        fresh += 1;
        fresh
    };
    let mut own = |computer: &str| Windows {
        root: "WINDOWS",
        guid: Some(next()),
        sid: next(),
        machine_guid: next(),
        computer: computer.to_owned(),
        uuid: None,
        serial: None,
    };
    let mut fleet: Vec<(String, Vec<Windows>)> = Vec::new();
    let mut plan: Vec<(Vec<String>, &str)> = Vec::new();
    let add = |fleet: &mut Vec<(String, Vec<Windows>)>, kind: &str, systems: Vec<Windows>| {
        let name = format!("{:02}-{kind}.img", fleet.len());
        fleet.push((name.clone(), systems));
        name
    };
    // Copies of one master.
    let master = own("MASTER");
    let copies = (0..4).map(|_| add(&mut fleet, "copy", vec![master.clone()]));
    plan.push((copies.collect(), "same_machine"));
    // Generalized, and the SMS identity stayed.
    let guid = own("x").guid;
    let clones: Vec<Windows> = (0..5)
        .map(|i| Windows {
            guid,
            ..own(&format!("CLONE{i}"))
        })
        .collect();
    let clones = clones
        .into_iter()
        .map(|one| add(&mut fleet, "clone", vec![one]));
    plan.push((clones.collect(), "clones"));
    // Three computers, each renamed between two captures.
    for i in 0..3 {
        let before = own(&format!("OLDNAME{i}"));
        let after = Windows {
            computer: format!("NEWNAME{i}"),
            ..before.clone()
        };
        let pair = [before, after].map(|one| add(&mut fleet, "renamed", vec![one]));
        plan.push((pair.to_vec(), "renamed_or_clones"));
    }
    // What hardware they ran on, by Windows or by the SMS client, tells them apart.
    for (kind, uuids, serials, verdict) in [
        ("same-uuid", [Some(1), Some(1)], [None, None], "renamed"),
        ("same-serial", [None, None], [Some(3), Some(3)], "renamed"),
        (
            "other-uuid",
            [Some(4), Some(5)],
            [Some(6), Some(6)],
            "clones",
        ),
        ("other-serial", [None, None], [Some(7), Some(8)], "clones"),
        (
            "one-uuid",
            [Some(9), None],
            [None, None],
            "renamed_or_clones",
        ),
    ] {
        let before = Windows {
            uuid: uuids[0],
            serial: serials[0],
            ..own(&format!("OLD-{kind}"))
        };
        let after = Windows {
            uuid: uuids[1],
            serial: serials[1],
            computer: format!("NEW-{kind}"),
            ..before.clone()
        };
        let pair = [before, after].map(|one| add(&mut fleet, kind, vec![one]));
        plan.push((pair.to_vec(), verdict));
    }
    // A chain: the first and the last share nothing.
    let (a, b, c) = (own("CHAIN-A"), own("CHAIN-B"), own("CHAIN-C"));
    let b = Windows { guid: a.guid, ..b };
    let c = Windows {
        machine_guid: b.machine_guid,
        ..c
    };
    let chain = [a, b, c].map(|one| add(&mut fleet, "chain", vec![one]));
    plan.push((chain.to_vec(), "clones"));
    // Two systems on one computer share its SMS GUID: alone.
    let mut multi = Vec::new();
    for i in 0..3 {
        let first = own(&format!("BOOT{i}"));
        let second = Windows {
            root: "WINNT",
            guid: first.guid,
            ..own(&format!("BOOT{i}B"))
        };
        multi.push(add(&mut fleet, "multi", vec![first, second]));
    }
    // The second system of one of them is somebody's clone.
    let lone = own("LONE");
    let second = Windows {
        root: "WINNT",
        ..lone.clone()
    };
    let both = [
        add(&mut fleet, "lone", vec![lone]),
        add(&mut fleet, "multi-clone", vec![own("FIRST"), second]),
    ];
    plan.push((both.to_vec(), "same_machine"));
    // Cleaned ones, one name for all of them.
    for _ in 0..3 {
        let clean = Windows {
            guid: None,
            ..own("SAMENAME")
        };
        add(&mut fleet, "clean", vec![clean]);
    }
    while fleet.len() < 40 {
        let stranger = own(&format!("PC{}", fleet.len()));
        add(&mut fleet, "stranger", vec![stranger]);
    }

    let dir = scratch();
    let mut args = vec!["compare".to_owned()];
    for (i, (name, systems)) in fleet.iter().enumerate() {
        let path = dir.path().join(name);
        fs::write(&path, fleet_image(systems)).unwrap();
        let path = match i % 4 {
            // Every fourth one as a report.
            3 => {
                let report = path.with_extension("json");
                let ran = declone(&[
                    "scan",
                    arg(&path),
                    "--rules",
                    "all",
                    "--quiet",
                    "--json",
                    arg(&report),
                ]);
                assert!(ran.code < 2, "{}", ran.err);
                report
            }
            _ => path,
        };
        args.push(arg(&path).to_owned());
    }
    // The order in which they are given does not matter.
    let mut other = args.clone();
    other[1..].reverse();
    for mut args in [args, other] {
        args.extend(["--json", "-"].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let json = declone(&args).exits(1).json();
        let mut found: Vec<(Vec<String>, String)> = groups(&json)
            .into_iter()
            .zip(json["groups"].as_array().unwrap())
            .map(|(mut images, group)| {
                images.sort();
                (images, group["verdict"].as_str().unwrap().to_owned())
            })
            .collect();
        found.sort();
        let mut want: Vec<(Vec<String>, String)> = plan
            .iter()
            .map(|(images, verdict)| (images.clone(), (*verdict).to_owned()))
            .collect();
        want.sort();
        assert_eq!(found, want);
        let mut several: Vec<&str> = json["multi_boot"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["image"].as_str().unwrap())
            .filter_map(|path| multi.iter().find(|name| path.contains(name.as_str())))
            .map(String::as_str)
            .collect();
        several.sort_unstable();
        several.dedup();
        let mut want: Vec<&str> = multi.iter().map(String::as_str).collect();
        want.sort_unstable();
        assert_eq!(several, want);
    }
}
