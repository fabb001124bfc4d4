//! The recipes of `fixtures/`: one row per fixture.
//!
//! `cargo run --example fixtures` builds them all; the test `fixtures_are_what_the_recipe_builds`
//! builds them again and compares.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::exfat_builder::{BuiltExfat, ExfatBuilder};
use super::fat_builder::{BuiltFat, FatBuilder, Width};
use super::hive_builder::{HiveBuilder, Kind, ListKind, Lists, Residue};
use super::sms::{self, Scene};
use super::{pack, put};

/// One fixture.
#[derive(Clone, Copy)]
pub struct Fixture {
    /// File name in `fixtures/`, without `.pack`.
    pub name: &'static str,
    /// What is special about it.
    pub special: &'static str,
    /// Builds it into an empty file.
    pub build: fn(&mut File),
}

/// Every fixture.
pub const ALL: [Fixture; 10] = [
    Fixture {
        name: "xp-sms2003.img",
        special: "the whole identity of an SMS 2003 Legacy Client on an XP disk (MBR, partition at \
                  sector 63), with copies, leftovers and decoys; the demo runs on it",
        build: |f| drop(sms::sms2003_disk(&Scene::default()).write_to(f)),
    },
    Fixture {
        name: "tiny-superfloppy.img",
        special: "the same identity on a 2 MiB volume without partitions; byte flips start here",
        build: |f| drop(sms::tiny_superfloppy().write_to(f)),
    },
    Fixture {
        name: "tiny-fat.img",
        special: "the same identity on FAT12, deleted names and a free cluster included",
        build: |f| f.write_all(&tiny_fat().bytes).expect("write the volume"),
    },
    Fixture {
        name: "tiny-exfat.img",
        special: "the same on exFAT: chains and contiguous files, a file that was not wholly written",
        build: |f| f.write_all(&tiny_exfat().bytes).expect("write the volume"),
    },
    Fixture {
        name: "gpt-4kn.img",
        special: "GPT, sectors and records of 4,096 bytes, hives of version 1.6",
        build: |f| drop(sms::gpt_4kn().write_to(f)),
    },
    Fixture {
        name: "two-installations.img",
        special: "two installations with identities of their own: WINDOWS on a primary partition, \
                  WINNT (hives of version 1.3) on a logical one with clusters of 1,024 bytes",
        build: |f| drop(sms::two_installations().write_to(f)),
    },
    Fixture {
        name: "software-1.3.hive",
        special: "version 1.3 (Windows 2000): `lf` lists, large values in one cell",
        build: |f| {
            hive(
                f,
                &Scene {
                    minor: 3,
                    keys: 30,
                    ..Scene::default()
                }
                .software(0),
            )
        },
    },
    Fixture {
        name: "software-1.5.hive",
        special: "version 1.5 (Windows XP and later): `lh` lists",
        build: |f| {
            hive(
                f,
                &Scene {
                    keys: 30,
                    ..Scene::default()
                }
                .software(0),
            )
        },
    },
    Fixture {
        name: "long-lists.hive",
        special: "2,100 subkeys of AbExprtDB in an `ri` of `lh` leaves, nested ones, class names, \
                  nine security descriptors, values in `db` records",
        build: |f| hive(f, &long_lists()),
    },
    Fixture {
        name: "residue.hive",
        special: "the GUID in free cells, in slack of values and lists, in the tail, in the base \
                  block, and in a cell nobody owns",
        build: |f| hive(f, &residue()),
    },
];

fn hive(file: &mut File, hive: &HiveBuilder) {
    file.write_all(&hive.build()).expect("write the hive");
}

fn tiny_fat() -> BuiltFat {
    let scene = Scene::small();
    let mut v = FatBuilder::new(Width::Fat12, 2 << 20, 1024);
    v.file(
        r"\WINNT\system32\config\SOFTWARE",
        scene.software(0).build(),
    )
    .fragmented();
    v.file(r"\WINNT\Smscfg.ini", scene.smscfg());
    v.file(r"\WINNT\MS\SMS\CORE\DATA\Smsuid.dat", scene.smsuid(9000))
        .fragmented();
    v.file(r"\Sms1x.ini", "[SMS]\r\nUniqueID=ABC0000F\r\n");
    v.file(r"\WINNT\Smscfg.ini.bak", "a decoy");
    v.file(r"\TEMP\Smscfg.ini", scene.smscfg()).deleted();
    v.plant(scene.smscfg().as_bytes());
    v.build()
}

fn tiny_exfat() -> BuiltExfat {
    let scene = Scene::small();
    let mut v = ExfatBuilder::new(2 << 20, 512, 1024);
    v.file(
        r"\WINDOWS\system32\config\SOFTWARE",
        scene.software(0).build(),
    )
    .fragmented();
    v.file(r"\WINDOWS\Smscfg.ini", scene.smscfg()).chained();
    v.file(r"\WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat", scene.smsuid(9000))
        .valid(5000);
    v.file(r"\Sms1x.ini", "[SMS]\r\nUniqueID=ABC0000F\r\n");
    v.file(r"\WINDOWS\Smscfg.ini.bak", "a decoy");
    v.file(r"\TEMP\Smscfg.ini", scene.smscfg()).deleted();
    v.plant(scene.smscfg().as_bytes());
    v.build()
}

fn long_lists() -> HiveBuilder {
    let mut h = Scene {
        keys: 10,
        residue: false,
        ..Scene::default()
    }
    .software(0);
    let db = r"Microsoft\NAL\Client\AbExprtDB";
    h.key(db).lists(Lists {
        kind: ListKind::Lh,
        leaf: 500,
        always_ri: false,
    });
    for i in 0..2100u32 {
        let key = format!(r"{db}\XYZ{i:05} APM");
        h.key(&key).security(10 + i % 7).dword("Seen", i);
        match i % 100 {
            3 => drop(
                h.key(&format!(r"{key}\Expired\Older"))
                    .class("NAL list")
                    .dword("Seen", 0),
            ),
            5 => drop(h.key(&key).class("NAL list")),
            _ => {}
        }
    }
    let big: Vec<u8> = (0..54_000u32).map(|i| i.to_le_bytes()[1]).collect();
    h.key(&format!(r"{db}\XYZ00042 APM"))
        .value("Map", Kind::Binary, &big);
    h.key(r"Microsoft\NAL\Client")
        .value("Neighbour", Kind::Binary, &big[..40_000]);
    h
}

fn residue() -> HiveBuilder {
    let scene = Scene {
        keys: 20,
        ..Scene::default()
    };
    let mut h = scene.software(0);
    let text = put::utf16(&scene.full_guid());
    h.residue(Residue::LeakedCell(text.clone()));
    h.residue(Residue::Tail(text.clone()));
    h.residue(Residue::Header(600, text.clone()));
    h.key(r"Microsoft\NAL\Client\AbExprtDB")
        .list_slack(b"\x20\x01\x00\x00CAP List");
    h.key(r"Microsoft\SMS")
        .value_with_slack("Version", Kind::Binary, &[2; 12], &text);
    h.spare_bins(2);
    h
}

/// The folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The packed bytes of a fixture, as they lie in the repository.
pub fn packed(name: &str) -> io::Result<Vec<u8>> {
    std::fs::read(folder().join(format!("{name}.pack")))
}

/// The fixture in memory.
pub fn load(name: &str) -> io::Result<Vec<u8>> {
    pack::unpack_to_vec(&packed(name)?)
}

/// Unpacks a fixture to a new sparse file.
pub fn unpack_to(name: &str, path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    pack::unpack(&packed(name)?, &mut file)
}

/// Builds a fixture into an anonymous temporary file.
pub fn build(fixture: &Fixture) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    (fixture.build)(&mut file);
    Ok(file)
}
