//! What clean has called clean is clean to verify, too: both search for the same.

use std::{fs, path::Path};

use crate::{
    machine::{self, GUID},
    run::{arg, declone, scratch},
    support::{
        fixtures,
        ntfs_builder::{Content, Geometry},
    },
};

const MIB: u64 = 1 << 20;
/// Of another machine: no finding tells it.
const OTHER: &str = "9D0C2B1A-7E6F-4A5B-8C9D-0E1F2A3B4C5D";

/// Cleans and verifies; the residues of both, and the codes.
fn both(image: &Path) -> [(i32, serde_json::Value); 2] {
    let (out, report) = (image.with_extension("out"), image.with_extension("json"));
    let clean = declone(&[
        "clean",
        arg(image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        "-",
    ]);
    fs::write(&report, &clean.out).unwrap();
    let again = declone(&[
        "verify",
        arg(&out),
        "--against",
        arg(&report),
        "--json",
        "-",
    ]);
    [clean, again].map(|ran| (ran.code, ran.json()["images"][0]["residues"].clone()))
}

/// Place, owner and `generic` of what was found by a token that begins so.
fn found(residues: &serde_json::Value, token: &str) -> Vec<(String, String, bool)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let residues = residues.as_array().unwrap().iter();
    residues
        .filter(|residue| text(&residue["token"]).starts_with(token))
        .map(|r| {
            (
                text(&r["place"]),
                text(&r["owner"]),
                r["generic"].as_bool().unwrap(),
            )
        })
        .collect()
}

#[test]
fn whatever_clean_calls_clean_verify_calls_clean() {
    let dir = scratch();
    let mut cleaned = 0;
    for fixture in fixtures::ALL.iter().filter(|f| f.name.ends_with(".img")) {
        let image = dir.path().join(fixture.name);
        fixtures::unpack_to(fixture.name, &image).unwrap();
        let [(clean, _), (verify, residues)] = both(&image);
        if clean == 0 {
            assert_eq!(verify, 0, "{}: {residues:#}", fixture.name);
            cleaned += 1;
        }
    }
    assert!(cleaned > 2, "{cleaned}");
}

#[test]
fn the_line_of_an_ini_is_an_identity_under_any_name_and_a_lone_guid_where_nothing_is_alive() {
    let dir = scratch();
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let line =
        format!("[Configuration - Client Properties]\r\nSMS Unique Identifier=GUID:{OTHER}\r\n");
    let wide = Content::from(
        line.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>(),
    );
    volume.file(r"\WINDOWS\smscfg.old", line.as_str());
    volume.file(r"\WINDOWS\Copy of Smscfg.ini", wide);
    volume.file(
        r"\WINDOWS\some.log",
        format!("seen GUID:{OTHER} today").as_str(),
    );
    volume.plant_free_cluster(format!("GUID:{OTHER}").as_bytes());
    let image = dir.path().join("in.img");
    machine::write(&volume, &image);
    let [(_, clean), (code, verify)] = both(&image);
    assert_eq!(code, 1);
    for residues in [&clean, &verify] {
        let lines = found(residues, "SMS Unique Identifier=GUID:<any>");
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (place, owner, generic) in lines {
            assert_eq!((place.as_str(), generic), ("live_file", false));
            assert!(
                owner.contains("smscfg.old") || owner.contains("Copy of"),
                "{owner}"
            );
        }
        // What a log says of some GUID is a mention; in the free cluster it is gone.
        let shapes = found(residues, "GUID:<any>");
        let [(place, owner, true)] = shapes.as_slice() else {
            panic!("{shapes:?}");
        };
        assert!(
            place == "live_file" && owner.contains("some.log"),
            "{owner}"
        );
    }
}

#[test]
fn what_was_never_written_of_a_file_is_stale() {
    let dir = scratch();
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let mut bytes = vec![b'x'; 60_000];
    bytes[40_000..40_036].copy_from_slice(GUID.as_bytes());
    volume
        .file(r"\WINDOWS\reserved.bin", bytes)
        .initialised(20_000);
    let image = dir.path().join("in.img");
    machine::write(&volume, &image);
    let [(code, clean), (again, verify)] = both(&image);
    assert_eq!((code, again), (0, 0), "{clean:#} {verify:#}");
    let out = fs::read(image.with_extension("out")).unwrap();
    let kept = vec![b'x'; 4096];
    assert!(out.chunks(4096).any(|cluster| cluster == kept));
    assert!(!out.windows(36).any(|bytes| bytes == GUID.as_bytes()));
}
