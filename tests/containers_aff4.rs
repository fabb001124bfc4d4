//! AFF4: the disk inside is read whatever the archive's form, damage is refused, an image that is not
//! whole in one file is refused, evidence is never written, and `--to raw` cleans.

use std::{fs, sync::Arc};

use declone::{
    container::{self, Opened},
    device::{Memory, Neighbours},
    error::{Kind, Result},
};

use crate::{
    containers_ewf::{check_to_raw, disk, look_at_evidence, raw_and_clean},
    judges::{called, other_reading},
    run::scratch,
    support::aff4_builder::{self as aff4, Member, Method, Shape, VOLUME},
};

fn open(bytes: &[u8]) -> Result<Opened> {
    let host = Arc::new(Memory::new(bytes.to_vec()));
    container::open(host, Some("aff4"), &Neighbours::default())
}

fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let opened = open(bytes)?;
    let mut bytes = vec![0; opened.virtual_len as usize];
    opened.disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A disk with gaps, zeros, runs of one byte, and a short last chunk.
fn patched(sectors: usize, chunk: usize) -> Vec<u8> {
    let mut raw = disk(sectors);
    for (index, part) in raw.chunks_mut(chunk).enumerate() {
        match index % 5 {
            1 | 2 => part.fill(0),
            3 => part.fill(0x5A),
            _ => {}
        }
    }
    raw
}

#[test]
fn aff4_files_of_every_shape_are_read() {
    use Method::{Deflate, Lz4, Snappy, Stored, Zlib};
    for method in [Stored, Deflate, Zlib, Snappy, Lz4] {
        for (chunk, bevy) in [(512, 7), (4096, 64), (32 << 10, 2)] {
            for bits in 0..16_u32 {
                let has = |bit: u32| bits >> bit & 1 == 1;
                let shape = Shape {
                    chunk,
                    bevy,
                    method,
                    map: has(0),
                    zip64: has(1),
                    deflated: has(2),
                    relative: has(3),
                };
                let raw = patched(331, chunk);
                let bytes = read(&aff4::image(&raw, &shape));
                assert!(bytes.unwrap() == raw, "{shape:?}");
            }
        }
    }
}

#[test]
fn a_machine_in_an_aff4_is_scanned_and_cleaned_to_raw() {
    let dir = scratch();
    let (raw, clean) = raw_and_clean(dir.path());
    let image = dir.path().join("disk.aff4");
    let file = aff4::image(&raw, &Shape::default());
    assert!(file.len() < raw.len());
    fs::write(&image, &file).unwrap();
    let plain = dir.path().join("plain.img");
    let facts = look_at_evidence(&image, &plain, "aff4");
    let container = &facts["container"];
    assert_eq!(container["kind"], "map, snappy");
    assert_eq!(container["creator"], "Tester 9.9");
    assert_eq!(container["block_size"], 32 << 10);
    assert_eq!(container["id"], VOLUME);
    check_to_raw(dir.path(), &image, &clean);
    assert!(fs::read(&image).unwrap() == file);
}

const KNOWN: [Kind; 4] = [
    Kind::Malformed,
    Kind::Unsupported,
    Kind::Refused,
    Kind::Limit,
];

/// Bevies have no checksum but the digests of the disk: what is flipped in them may be read.
#[test]
fn hostile_aff4_files_are_refused_or_read() {
    let raw = patched(60, 4096);
    let shape = Shape {
        chunk: 4096,
        bevy: 2,
        ..Shape::default()
    };
    let file = aff4::image(&raw, &shape);
    let (mut read_as, mut refused) = (0, 0);
    for at in 0..file.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = file.clone();
            bad[at] ^= flip;
            match read(&bad) {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), raw.len(), "{at}");
                    read_as += 1;
                }
                Err(error) => {
                    assert!(KNOWN.contains(&error.kind()), "{at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read_as > 1000 && refused > 1000, "{read_as} {refused}");
    for len in 0..file.len() {
        let error = open(&file[..len]).unwrap_err();
        assert!(KNOWN.contains(&error.kind()), "cut to {len}: {error}");
    }
}

#[test]
fn aff4_files_that_are_not_one_whole_disk_are_refused() {
    let raw = patched(120, 4096);
    let shape = Shape {
        chunk: 4096,
        bevy: 2,
        ..Shape::default()
    };
    let members = aff4::members(&raw, &shape);
    let refuse = |what: &str, kind: Kind, word: &str, change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = members.clone();
        change(&mut members);
        let error = read(&aff4::zip(&members, true, false)).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
    };
    let text = |members: &mut Vec<Member>, from: &str, to: &str| {
        let turtle = &mut members.last_mut().unwrap().1;
        let old = String::from_utf8(turtle.clone()).unwrap();
        assert!(old.contains(from), "{from}");
        *turtle = old.replace(from, to).into_bytes();
    };
    let gone = |members: &mut Vec<Member>, end: &str| {
        let before = members.len();
        members.retain(|(name, ..)| !name.ends_with(end));
        assert!(members.len() < before, "{end}");
    };
    let (refused, malformed) = (Kind::Refused, Kind::Malformed);
    refuse("bevy", refused, "all of the image in this file", &|m| {
        gone(m, "/00000001");
    });
    refuse("index", refused, "all of the image in this file", &|m| {
        gone(m, ".index");
    });
    refuse("stripe", refused, "of which it says nothing", &|m| {
        text(m, "a aff4:ImageStream", "a aff4:Other");
    });
    refuse("map", refused, "all of the image in this file", &|m| {
        gone(m, "/map");
    });
    refuse("turtle", malformed, "information.turtle", &|m| {
        gone(m, ".turtle");
    });
    refuse("encrypted", refused, "not encrypted", &|m| {
        text(m, "a aff4:Map", "a aff4:EncryptedStream");
    });
    refuse("logical", Kind::Unsupported, "single files", &|m| {
        text(
            m,
            "a aff4:DiskImage, aff4:ContiguousImage",
            "a aff4:FileImage",
        );
        text(m, "a aff4:ImageStream", "a aff4:FileImage");
        text(m, "a aff4:Map", "a aff4:FileImage");
    });
    refuse("two", Kind::Unsupported, "one DiskImage", &|m| {
        text(
            m,
            "<aff4://aaaaaaaa-0000-0000-0000-000000000002> a aff4:Map",
            "<a:b> a aff4:DiskImage .\n<x:y> a aff4:Map",
        );
    });
    refuse("method", Kind::Unsupported, "snappy, lz4", &|m| {
        text(
            m,
            "http://code.google.com/p/snappy/",
            "http://example.org/brotli",
        );
    });
    refuse("version", Kind::Unsupported, "major version 1", &|m| {
        m[1].1 = b"major=2\nminor=0\n".to_vec();
    });
    for (from, to) in [
        ("chunkSize \"4096\"", "chunkSize \"0\""),
        ("chunkSize \"4096\"", "chunkSize \"99999999999\""),
        ("chunkSize \"4096\"", "chunkSize \"x\""),
        ("chunksInSegment \"2\"", "chunksInSegment \"0\""),
        (
            "aff4:Map ;\n\taff4:size \"61440\"",
            "aff4:Map ;\n\taff4:size \"-1\"",
        ),
        (
            "aff4:Map ;\n\taff4:size \"61440\"",
            "aff4:Map ;\n\taff4:size \"100\"",
        ),
    ] {
        refuse(to, malformed, "AFF4", &|m| text(m, from, to));
    }
    // The map: out of the disk, twice the same, out of the targets, out of the stream, torn.
    let map = |place: usize, value: u64| {
        move |members: &mut Vec<Member>| {
            let at = members.len() - 2;
            let bytes = &mut members[at].1;
            let len = if place == 24 { 4 } else { 8 };
            bytes[28 + place..28 + place + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
    };
    refuse("disk", malformed, "AFF4 map", &map(0, 1 << 40));
    refuse("overlap", malformed, "one entry for each part", &map(0, 0));
    refuse("len", malformed, "AFF4 map", &map(8, u64::MAX));
    refuse("target", malformed, "AFF4 map", &map(24, 3));
    refuse("torn", malformed, "entries of 28 bytes", &|m| {
        let at = m.len() - 2;
        m[at].1.pop();
    });
    let at = members.len() - 2;
    assert_eq!(members[at].1[24..28], [0; 4], "the first is in the stream");
    refuse("stream", malformed, "parts of a stream", &|m| {
        let at = m.len() - 2;
        m[at].1[16..24].copy_from_slice(&(1_u64 << 30).to_le_bytes());
    });
    // The index: out of the bevy, a chunk that swells.
    for (place, value) in [(0, u64::MAX - 5), (0, 1 << 30), (4, u64::MAX)] {
        refuse("index", malformed, "AFF4 index", &|m| {
            let index = m.iter_mut().find(|(name, ..)| name.ends_with(".index"));
            let bytes = &mut index.unwrap().1;
            bytes[place..place + 8].copy_from_slice(&u64::to_le_bytes(value));
        });
    }
    // The same name twice; a bevy that is deflated.
    refuse("twice", malformed, "each name once", &|m| {
        m.push(m[0].clone())
    });
    let mut deflated = members.clone();
    for member in &mut deflated {
        member.2 = true;
    }
    let error = read(&aff4::zip(&deflated, false, true)).unwrap_err();
    assert!(
        error.to_string().contains("a bevy that is stored"),
        "{error}"
    );
}

// --- others' eyes ---

/// pyaff4 is by the authors of the format. It knows no Deflate without the frame of zlib.
#[test]
fn aff4_files_read_as_pyaff4_reads_them() {
    use Method::{Lz4, Snappy, Stored, Zlib};
    if !called("aff4_files_read_as_pyaff4_reads_them") {
        return;
    }
    let dir = scratch();
    let image = dir.path().join("a.aff4");
    for method in [Stored, Zlib, Snappy, Lz4] {
        for (map, zip64, relative) in [(true, true, false), (false, false, true)] {
            let shape = Shape {
                chunk: 4096,
                bevy: 16,
                method,
                map,
                zip64,
                relative,
                ..Shape::default()
            };
            let raw = patched(331, shape.chunk);
            let file = aff4::image(&raw, &shape);
            assert!(read(&file).unwrap() == raw, "{shape:?}");
            fs::write(&image, &file).unwrap();
            assert!(other_reading("pyaff4", &image) == raw, "{shape:?}");
        }
    }
    let (raw, _) = raw_and_clean(dir.path());
    let file = aff4::image(&raw, &Shape::default());
    fs::write(&image, &file).unwrap();
    assert!(read(&file).unwrap() == other_reading("pyaff4", &image));
}
