//! `declone compare`: a fleet of images whose clones are known.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    machine::{self, GUID},
    oracle,
    run::{arg, declone, digest, scratch},
    support::ntfs_builder::Geometry,
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
        "Group 1: 2 images of one machine",
        "Group 2: 3 images of one machine",
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
