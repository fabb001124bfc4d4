//! Byte flips over whole images: no panic, no hang, no unbounded memory; a result that passes
//! verification or a refusal, never anything else.
//!
//! `DECLONE_DAMAGE=20000` makes a long night of it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    machine,
    run::{arg, scratch},
    support::ntfs_builder::Geometry,
};

/// xorshift64*: the same flips every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % below.max(1)
    }
}

fn rounds(usual: u64) -> u64 {
    std::env::var("DECLONE_DAMAGE")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usual)
}

/// Sectors that hold anything, so that flips hit structures and not emptiness.
fn interesting(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(512)
        .enumerate()
        .filter(|(_, sector)| sector.iter().any(|b| *b != 0 && *b != 0xFF))
        .map(|(i, _)| i as u64 * 512)
        .collect()
}

fn run(args: &[&str]) -> u8 {
    declone::cli::run(args, &mut std::io::sink())
}

/// Flips bytes of `image` again and again, and runs everything that reads it.
fn flip(image: &Path, seed: u64, count: u64) {
    let original = fs::read(image).unwrap();
    let sectors = interesting(&original);
    // Closed between the changes: an image that somebody can write to is not cleaned.
    let poke = |value: u8, at: u64| {
        let file = File::options().write(true).open(image).unwrap();
        file.write_all_at(&[value], at).unwrap();
    };
    let mut dice = Dice(seed);
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..count {
        let mut flipped = Vec::new();
        for _ in 0..=dice.roll(3) {
            let at = sectors[dice.roll(sectors.len() as u64) as usize] + dice.roll(512);
            let value = match dice.roll(4) {
                0 => 0,
                1 => 0xFF,
                2 => dice.roll(256) as u8,
                _ => original[at as usize] ^ (1 << dice.roll(8)),
            };
            poke(value, at);
            flipped.push(at);
        }
        let started = Instant::now();
        for verb in [
            &["declone", "scan", "-q"][..],
            &["declone", "clean", "-n", "-q"],
        ] {
            let mut args = verb.to_vec();
            args.push(arg(image));
            let code = run(&args);
            assert!(
                matches!(code, 0 | 1 | 3 | 4 | 7 | 8),
                "seed {seed} round {round}: exit {code} after flips at {flipped:x?}"
            );
            *codes.entry((verb[1], code)).or_insert(0_u64) += 1;
        }
        assert!(
            started.elapsed() < Duration::from_secs(8),
            "seed {seed} round {round}"
        );
        for at in flipped {
            poke(original[at as usize], at);
        }
    }
    // Flips that all end the same way would mean that nothing was tested.
    assert!(codes.len() >= 2, "{codes:?}");
    assert_eq!(fs::read(image).unwrap(), original);
}

#[test]
fn flips_in_a_usual_volume() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    machine::write(&machine::volume(12 << 20, Geometry::default(), 5), &image);
    flip(&image, 1, rounds(150));
}

#[test]
fn flips_in_a_volume_with_fragments_and_small_clusters() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    let geometry = Geometry {
        cluster: 512,
        ..Geometry::default()
    };
    let mut volume = machine::volume(12 << 20, geometry, 3);
    volume.mft_pieces(3);
    volume.entry(machine::TARGETS[2]).pieces(1);
    machine::write(&volume, &image);
    flip(&image, 2, rounds(100));
}

#[test]
fn flips_in_the_fixtures_disks() {
    let dir = scratch();
    for (i, name) in [
        "tiny-superfloppy.img",
        "gpt-4kn.img",
        "two-installations.img",
    ]
    .into_iter()
    .enumerate()
    {
        let image = dir.path().join(name);
        crate::support::fixtures::unpack_to(name, &image).unwrap();
        flip(&image, 10 + i as u64, rounds(60));
    }
}

#[test]
fn flips_in_the_fixtures_hives() {
    use declone::hive::{HiveEdit, check, edit};
    use declone::text::Name;
    let path = |text: &str| text.split('\\').map(Name::new).collect::<Vec<Name>>();
    let edits = [
        HiveEdit::DeleteValue {
            key: path(machine::CLIENT),
            value: Name::new("SMS Unique Identifier"),
        },
        HiveEdit::DeleteSubkeys {
            key: path(machine::ABEXPRT),
        },
    ];
    for (i, name) in [
        "software-1.3.hive",
        "software-1.5.hive",
        "long-lists.hive",
        "residue.hive",
    ]
    .into_iter()
    .enumerate()
    {
        let original = crate::support::fixtures::load(name).unwrap();
        let mut dice = Dice(20 + i as u64);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..rounds(400) {
            let mut bytes = original.clone();
            for _ in 0..=dice.roll(3) {
                let at = 4096 + dice.roll(bytes.len() as u64 - 4096) as usize;
                bytes[at] = dice.roll(256) as u8;
            }
            let before = bytes.clone();
            let Ok(checked) = check(&bytes) else {
                bad += 1;
                continue;
            };
            match edit(&mut bytes, &checked, &edits, &[]) {
                Ok(outcome) => {
                    good += 1;
                    let again = check(&bytes).expect("an edited hive is sound");
                    let digest = checked
                        .summary()
                        .digest
                        .wrapping_sub(outcome.removed_digest);
                    assert_eq!(again.summary().digest, digest, "{name}");
                }
                Err(_) => assert!(bytes == before, "{name}: an error changes nothing"),
            }
        }
        assert!(good > 0 && bad > 0, "{name}: {good} good, {bad} bad");
    }
}
