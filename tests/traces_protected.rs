//! Traces that run over the end of 512 bytes in a structure of NTFS: the last two bytes of each 512
//! stand elsewhere, and no search of raw bytes sees them whole.

use std::{fs, path::Path};

use crate::{
    machine::{self, GUID},
    run::{arg, declone, scratch},
    support::ntfs_builder::{Content, Geometry, Log, NtfsBuilder},
};

const MIB: u64 = 1 << 20;

fn wide() -> Vec<u8> {
    GUID.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Where the update sequence array is, and how many sectors it protects.
fn array(block: &[u8]) -> (usize, usize) {
    (number(block, 4), number(block, 6) - 1)
}

/// The block as Windows has it in memory.
fn undone(block: &[u8]) -> Vec<u8> {
    let (at, sectors) = array(block);
    let mut out = block.to_vec();
    for i in 0..sectors {
        assert_eq!(block[i * 512 + 510..i * 512 + 512], block[at..at + 2]);
        let from = at + 2 + 2 * i;
        out[i * 512 + 510..i * 512 + 512].copy_from_slice(&block[from..from + 2]);
    }
    out
}

/// Puts the wide GUID over the end of sector `sector` of the block at `start`: where it begins.
fn plant(image: &mut [u8], start: usize, len: usize, sector: usize) -> u64 {
    let block = &mut image[start..start + len];
    let mut whole = undone(block);
    let inside = sector * 512 + 512 - 30;
    whole[inside..inside + 72].copy_from_slice(&wide());
    let (at, sectors) = array(block);
    for i in 0..sectors {
        let end = i * 512 + 510;
        let original = [whole[end], whole[end + 1]];
        whole.copy_within(at..at + 2, end);
        whole[at + 2 + 2 * i..at + 4 + 2 * i].copy_from_slice(&original);
    }
    block.copy_from_slice(&whole);
    (start + inside) as u64
}

/// An empty block with this magic.
fn block(magic: &[u8; 4], len: usize) -> Vec<u8> {
    let mut block = vec![0; len];
    block[..4].copy_from_slice(magic);
    block[4..6].copy_from_slice(&0x28_u16.to_le_bytes());
    block[6..8].copy_from_slice(&(len as u16 / 512 + 1).to_le_bytes());
    block[0x28..0x2A].copy_from_slice(&[9, 0]);
    for end in (512..=len).step_by(512) {
        block[end - 2..end].copy_from_slice(&[9, 0]);
    }
    block
}

fn long(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// A volume with the GUID over a sector's end in everything that has an update sequence; the places,
/// with what each is.
fn planted(path: &Path) -> Vec<(u64, &'static str)> {
    let mut volume: NtfsBuilder = machine::volume(24 * MIB, Geometry::default(), 5);
    volume.deleted_file(r"\WINDOWS\gone.txt", Content::filler(5, 10));
    let free = [
        block(b"FILE", 1024),
        block(b"INDX", 4096),
        block(b"RCRD", 4096),
    ];
    for dead in &free {
        volume.plant_free_cluster(dead);
    }
    let page = block(b"RCRD", 4096);
    volume.log(Log::Clean11).plant_in_log(0xA000, &page);
    let (mut image, built) = volume.to_vec();
    let mut places = Vec::new();
    let plants = &built.free_plants[built.free_plants.len() - 3..];
    for (at, dead) in plants.iter().zip(&free) {
        let at = plant(&mut image, *at as usize, dead.len(), 0);
        places.push((at, "free_cluster"));
    }
    // The page of the log is the one that is in no free cluster.
    let pages = (0..image.len()).step_by(4096);
    let pages: Vec<usize> = pages
        .filter(|at| image[*at..].starts_with(b"RCRD") && !plants.contains(&(*at as u64)))
        .collect();
    assert_eq!(pages.len(), 1);
    places.push((plant(&mut image, pages[0], 4096, 2), "journal"));
    let room = (0..image.len()).step_by(4096).find(|at| {
        image[*at..].starts_with(b"INDX")
            && !plants.contains(&(*at as u64))
            && long(&image, at + 0x1C) + 0x18 < 7 * 512 - 40
    });
    places.push((plant(&mut image, room.unwrap(), 4096, 6), "file_slack"));
    let mft = long(&image, 0x30) * usize::from(image[13]) * number(&image, 11);
    let live = mft + built.records[r"WINDOWS\Xsmscfg.ini"] as usize * 1024;
    let record = |at: usize, flags: usize| {
        image[at..].starts_with(b"FILE")
            && number(&image, at + 0x16) == flags
            && long(&image, at + 0x18) < 440
    };
    let dead = (mft..mft + built.record_count as usize * 1024)
        .step_by(1024)
        .find(|at| record(*at, 0));
    assert!(record(live, 1));
    for at in [live, dead.unwrap()] {
        places.push((plant(&mut image, at, 1024, 0), "record_slack"));
    }
    for (at, _) in &places {
        let at = *at as usize;
        assert_ne!(image[at..at + 72], wide());
    }
    fs::write(path, &image).unwrap();
    places
}

/// Where the wide GUID was found, and what sort of place that is.
fn found(json: &serde_json::Value) -> Vec<(u64, String)> {
    let residues = json["images"][0]["residues"].as_array().unwrap();
    let is_wide = |residue: &&serde_json::Value| {
        let token = residue["token"].as_str().unwrap().to_uppercase();
        token.contains(&GUID.replace('-', "")) || token.contains(GUID)
    };
    let place = |residue: &serde_json::Value| {
        let at = residue["image_offset"].as_u64().unwrap();
        assert_eq!(residue["volume_offset"].as_u64(), Some(at));
        (at, residue["place"].as_str().unwrap().to_owned())
    };
    residues.iter().filter(is_wide).map(place).collect()
}

#[test]
fn a_guid_over_the_end_of_512_bytes_is_found_wherever_it_is_and_wiped_where_it_is_stale() {
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    let report = dir.path().join("report.json");
    let places = planted(&image);
    let json = declone(&["verify", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let seen = found(&json);
    for (at, place) in &places {
        assert!(
            seen.contains(&(*at, (*place).to_owned())),
            "{at:#x} {place}"
        );
    }
    let made = declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        "-",
    ]);
    let json = made.json();
    fs::write(&report, made.out).unwrap();
    let left = places.iter().filter(|(_, place)| *place == "journal");
    let left: Vec<u64> = left.map(|(at, _)| *at).collect();
    let is: Vec<u64> = found(&json).iter().map(|(at, _)| *at).collect();
    assert_eq!(is, left);
    let json = declone(&[
        "verify",
        arg(&out),
        "--against",
        arg(&report),
        "--json",
        "-",
    ])
    .exits(1)
    .json();
    let is: Vec<u64> = found(&json).iter().map(|(at, _)| *at).collect();
    assert_eq!(is, left);
    // The two bytes that end a sector are the update sequence, as before.
    let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
    for (at, place) in places {
        let at = at as usize;
        let (was, is) = (&before[at..at + 28], &after[at..at + 28]);
        match place {
            "journal" => assert_eq!(was, is),
            _ => assert_eq!(is, [0; 28], "{at:#x} {place}"),
        }
    }
}
