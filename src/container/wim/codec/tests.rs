//! The codecs against wimlib's (DECLONE_WITNESS=1, as `tools/test` sets it), and against damage.
//!
//! `DECLONE_MUTATIONS=1000000 cargo test --release --lib -- codec::tests::damaged` is the long run.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use sha1::{Digest, Sha1};

use super::{
    super::{
        chunks::Chunks,
        format::res,
        read::{File, Header},
        split::Part,
    },
    Decoder, Encoder, Fault, Method,
};
use crate::device::{Device, Memory};

/// Damaged chunks of each method in an ordinary run.
const MUTATIONS: u64 = 10_000;

struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 8).unwrap() % limit.max(1)
    }
}

/// Text, records, machine code by its looks, noise, zeros.
fn contents(len: usize, draw: &mut Draw) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        match draw.below(5) {
            0 => (0..60).for_each(|_| out.extend([b"key ", b"nk\x20\0", b"data"][draw.below(3)])),
            1 => (0..30_u32).for_each(|i| out.extend((i * 0x0101 + 7).to_le_bytes())),
            2 => (0..40).for_each(|_| {
                out.extend([
                    0xE8,
                    u8::try_from(draw.below(256)).unwrap(),
                    1,
                    0,
                    0,
                    0x48,
                    0x8D,
                    5,
                ]);
            }),
            3 => (0..200).for_each(|_| out.push(draw.next().to_le_bytes()[3])),
            _ => out.resize(out.len() + draw.below(400), 0),
        }
    }
    out.truncate(len);
    out
}

fn called(test: &str) -> bool {
    let called = std::env::var_os("DECLONE_WITNESS").is_some();
    if !called {
        eprintln!("{test}: NOT RUN, needs independent tools: tools/test runs it");
    }
    called
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is missing ({e})"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output.stdout
}

/// What wimlib makes of a directory, opened.
fn captured(source: &Path, name: &str, options: &[&str]) -> File {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join(name);
    let paths = [source.to_str().unwrap(), image.to_str().unwrap()];
    run(
        "wimlib-imagex",
        &[&["capture"], &paths[..], options].concat(),
    );
    let host: Device = Arc::new(Memory::new(std::fs::read(&image).unwrap()));
    let header = Header::read(host.as_ref()).unwrap();
    let alone = Part {
        header,
        range: 0..host.len(),
        file: 0,
        name: String::new(),
    };
    File::open(&host, vec![alone]).unwrap()
}

/// The compressed resources of a file.
fn compressed(file: &File) -> Vec<Arc<Chunks>> {
    let solid = file.solids.iter().map(|solid| Arc::clone(&solid.chunks));
    let plain = file.blobs.iter().map(|blob| blob.resource);
    plain
        .filter(|one| one.is(res::COMPRESSED) && !one.is(res::SOLID))
        .map(|one| Arc::new(file.chunks(&one, "a resource").unwrap()))
        .chain(solid)
        .collect()
}

/// Chunks that are compressed: as they stand in the file, and what they hold.
fn packed(file: &File, chunks: &Chunks) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    for index in 0..chunks.count() {
        let place = chunks.place(index).unwrap();
        let mut packed = vec![0; usize::try_from(place.end - place.start).unwrap()];
        file.host.read_at(place.start, &mut packed).unwrap();
        let plain = file.chunk(chunks, index).unwrap();
        if packed.len() < plain.len() {
            out.push((packed, plain));
        }
    }
    out
}

fn decoded(decoder: &mut Decoder, packed: &[u8], len: usize) -> Result<Vec<u8>, Fault> {
    let mut out = vec![0; len];
    decoder.decode(packed, &mut out).map(|()| out)
}

#[test]
fn every_chunk_that_wimlib_made_comes_round() {
    if !called("every_chunk_that_wimlib_made_comes_round") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut draw = Draw(7);
    for (name, len) in [("a", 300_000), ("b", 70_001), ("c", 32_768), ("d", 5_000)] {
        std::fs::write(dir.path().join(name), contents(len, &mut draw)).unwrap();
    }
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let code = &own[own.len() / 2..][..400_000];
    std::fs::write(dir.path().join("code"), code).unwrap();
    let text = include_str!("lzx.rs").repeat(3);
    std::fs::write(dir.path().join("text"), text).unwrap();
    for (method, options) in [
        (Method::Xpress, &["--compress=XPRESS"][..]),
        (Method::Xpress, &["--compress=XPRESS", "--chunk-size=4K"]),
        (
            Method::Xpress,
            &["--compress=XPRESS:80", "--chunk-size=64K"],
        ),
        (Method::Lzx, &["--compress=LZX"]),
        (Method::Lzx, &["--compress=LZX:20"]),
        (Method::Lzx, &["--compress=LZX:100", "--chunk-size=64K"]),
        (Method::Lzx, &["--compress=LZX", "--chunk-size=2M"]),
        (Method::Lzms, &["--compress=LZMS"]),
        (Method::Lzms, &["--compress=LZMS:20", "--chunk-size=32K"]),
        (Method::Lzms, &["--solid"]),
        (Method::Lzms, &["--solid", "--solid-chunk-size=256K"]),
    ] {
        let file = captured(dir.path(), "a.wim", options);
        let mut count = 0;
        // What wimlib says of the contents: their SHA-1.
        for (index, blob) in file.blobs.iter().enumerate() {
            if blob.is_metadata() || blob.is_solid_resource() {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(blob.len()).unwrap()];
            file.read_blob(index, 0, &mut bytes).unwrap();
            assert_eq!(Sha1::digest(&bytes)[..], blob.hash, "{options:?}");
        }
        for chunks in compressed(&file) {
            assert_eq!(chunks.method, Some(method), "{options:?}");
            let mut decoder = Decoder::new(method, chunks.chunk_size).unwrap();
            let mut encoder = Encoder::new(method, chunks.chunk_size).unwrap();
            for (packed, plain) in packed(&file, &chunks) {
                count += 1;
                if let Some(fresh) = encoder.encode(&plain) {
                    assert!(fresh.len() < plain.len());
                    let back = decoded(&mut decoder, &fresh, plain.len());
                    assert!(back.as_ref() == Ok(&plain), "{options:?}: encoded");
                }
                let mut other = plain.clone();
                let at = draw.below(other.len());
                let end = other.len().min(at + 90);
                other[at..end].fill(0);
                for new in [&plain, &other] {
                    if let Some(alike) = encoder.encode_like(&packed, None, new.clone()) {
                        let back = decoded(&mut decoder, &alike, new.len());
                        assert!(back.as_ref() == Ok(new), "{options:?}: encoded alike");
                    }
                }
            }
        }
        assert!(count > 0, "{options:?}: a compressed chunk expected");
    }
}

/// A large chunk that loses a few unique strings, as a clean makes it: mostly it stays as long.
fn assert_hardly_longer(packed: &[u8], plain: &[u8], size: u32, draw: &mut Draw) {
    let most = packed.len() / 5000;
    let mut encoder = Encoder::new(Method::Lzms, size).unwrap();
    let mut decoder = Decoder::new(Method::Lzms, size).unwrap();
    for count in [0, 1, 6] {
        let mut new = plain.to_vec();
        for _ in 0..count {
            let at = draw.below(plain.len() / STRINGS) * STRINGS;
            new[at..at + STRING].fill(0);
        }
        for was in [None, Some(plain.to_vec())] {
            let alike = encoder.encode_like(packed, was, new.clone()).unwrap();
            let back = decoded(&mut decoder, &alike, new.len());
            assert!(back.as_ref() == Ok(&new), "{count} strings less");
            let longer = alike.len().saturating_sub(packed.len());
            assert!(
                longer <= most * count.min(1),
                "{count} strings less: {longer}"
            );
            assert!(alike.len() >= packed.len(), "{count} strings less");
        }
    }
}

/// Bytes from one unique string to the next, and its length.
const STRINGS: usize = 50_000;
const STRING: usize = 76;

/// As [`contents`], with unique strings.
fn contents_with_strings(len: usize, draw: &mut Draw) -> Vec<u8> {
    let mut out = contents(len, draw);
    for at in (0..len - STRING).step_by(STRINGS) {
        for place in out[at..at + STRING].chunks_exact_mut(2) {
            place.copy_from_slice(&[b"0123456789ABCDEF"[draw.below(16)], 0]);
        }
    }
    out
}

#[test]
fn a_large_chunk_that_holds_less_becomes_hardly_longer() {
    let mut draw = Draw(11);
    let plain = contents_with_strings(5 << 20, &mut draw);
    let size = 8 << 20;
    let packed = Encoder::new(Method::Lzms, size).unwrap().encode(&plain);
    assert_hardly_longer(&packed.unwrap(), &plain, size, &mut draw);
}

#[test]
fn a_large_chunk_of_wimlib_that_holds_less_becomes_hardly_longer() {
    if !called("a_large_chunk_of_wimlib_that_holds_less_becomes_hardly_longer") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut draw = Draw(13);
    let plain = contents_with_strings(6 << 20, &mut draw);
    std::fs::write(dir.path().join("a"), &plain).unwrap();
    let options = ["--solid", "--solid-chunk-size=8M"];
    let file = captured(dir.path(), "a.esd", &options);
    let chunks = compressed(&file).pop().unwrap();
    let all = packed(&file, &chunks);
    let [(packed, whole)] = &all[..] else {
        panic!("one chunk expected, found {}", all.len());
    };
    assert!(*whole == plain);
    assert_hardly_longer(packed, whole, chunks.chunk_size, &mut draw);
}

#[test]
fn a_large_chunk_that_is_damaged_is_a_fault_or_becomes_what_is_asked_for() {
    let mut draw = Draw(17);
    let size = 8 << 20;
    let plain = contents_with_strings(5 << 20, &mut draw);
    let packed = Encoder::new(Method::Lzms, size).unwrap().encode(&plain);
    let packed = packed.unwrap();
    const ROUNDS: usize = 6;
    let mut faults = 0;
    for round in 0..ROUNDS {
        let mut old = packed.clone();
        match round {
            0 => {}
            1 => old.truncate(old.len() / 4 * 2),
            _ => {
                let at = draw.below(old.len());
                old[at] ^= 1 << draw.below(8);
            }
        }
        let mut encoder = Encoder::new(Method::Lzms, size).unwrap();
        match encoder.encode_like(&old, None, plain.clone()) {
            Some(new) => {
                let mut decoder = Decoder::new(Method::Lzms, size).unwrap();
                assert!(decoded(&mut decoder, &new, plain.len()) == Ok(plain.clone()));
            }
            None => faults += 1,
        }
    }
    assert!((1..ROUNDS).contains(&faults), "{faults} of {ROUNDS}");
}

/// Real hives: theirs is what has to stay short.
fn hives() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("DECLONE_SAMPLES")?).join("hives");
    assert!(dir.is_dir(), "{} is no directory", dir.display());
    Some(dir)
}

#[test]
fn hives_become_as_short_as_wimlib_makes_them() {
    let test = "hives_become_as_short_as_wimlib_makes_them";
    if !called(test) {
        return;
    }
    let Some(samples) = hives() else {
        eprintln!("{test}: NOT RUN, DECLONE_SAMPLES is not set");
        return;
    };
    for name in ["software_subtree_partial", "clean_NTUSER.DAT"] {
        let dir = tempfile::tempdir().unwrap();
        let packed_hive = samples.join(format!("{name}.xz"));
        let hive = run("xz", &["-dc", packed_hive.to_str().unwrap()]);
        std::fs::write(dir.path().join("hive"), &hive).unwrap();
        for method in ["XPRESS:20", "LZX:20", "LZMS:20"] {
            let file = captured(dir.path(), "a.wim", &[&format!("--compress={method}")]);
            let blob = file.blobs.iter().find(|blob| !blob.is_metadata()).unwrap();
            let chunks = file.chunks(&blob.resource, "the hive").unwrap();
            let mut encoder = Encoder::new(chunks.method.unwrap(), chunks.chunk_size).unwrap();
            let (mut theirs, mut ours) = (0, 0);
            for (packed, plain) in packed(&file, &chunks) {
                theirs += packed.len();
                ours += encoder.encode(&plain).unwrap_or(plain).len();
            }
            println!("{name}, {method}: wimlib {theirs}, declone {ours}");
            assert!(
                ours * 10 <= theirs * 11,
                "{name}, {method}: {theirs} bytes and a tenth more expected, found {ours}"
            );
        }
    }
}

/// Turns bits, bytes, lengths and order of a chunk.
fn damage(packed: &mut Vec<u8>, draw: &mut Draw) {
    for _ in 0..=draw.below(4) {
        let (at, end) = (draw.below(packed.len()), draw.below(packed.len() + 1));
        let byte = draw.next().to_le_bytes()[2];
        match draw.below(8) {
            0..3 => packed
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|it| *it ^= 1 << (byte % 8)),
            3 => packed.iter_mut().skip(at).take(1).for_each(|it| *it = byte),
            4 => packed
                .iter_mut()
                .take(end)
                .skip(at)
                .for_each(|it| *it = byte),
            5 => packed.truncate(end),
            6 => packed.rotate_left(at),
            _ => packed.resize(packed.len() + usize::from(byte), byte),
        }
    }
}

#[test]
fn damaged_chunks_end_in_a_fault_or_within_their_size() {
    let wanted = std::env::var("DECLONE_MUTATIONS").ok();
    let wanted = wanted.map_or(MUTATIONS, |count| count.parse().unwrap());
    for (method, size) in [
        (Method::Xpress, 1_u32 << 12),
        (Method::Lzx, 1 << 15),
        (Method::Lzms, 1 << 15),
    ] {
        let mut draw = Draw(0x5EED_0001);
        let mut encoder = Encoder::new(method, size).unwrap();
        let mut decoder = Decoder::new(method, size).unwrap();
        let most = usize::try_from(size).unwrap();
        let mut whole = Vec::new();
        for len in [most, most / 2 + 1, 700, most / 4, 1500] {
            let plain = contents(len, &mut draw);
            whole.push((encoder.encode(&plain).unwrap(), plain));
        }
        let mut out = vec![0; most + 16];
        let (mut faults, mut others) = (0_u64, 0_u64);
        for _ in 0..wanted {
            let (packed, plain) = &whole[draw.below(whole.len())];
            let mut bad = packed.clone();
            damage(&mut bad, &mut draw);
            let (to, behind) = out.split_at_mut(plain.len());
            behind.fill(0xA7);
            match decoder.decode(&bad, to) {
                Err(_) => faults += 1,
                Ok(()) => others += u64::from(to != &plain[..]),
            }
            assert!(behind.iter().all(|byte| *byte == 0xA7));
        }
        println!("{method:?}: {wanted} damaged chunks, {faults} faults, {others} other contents");
        assert!(faults > wanted / 10, "{method:?}: {faults} faults");
        // A decoder that met damage still decodes what is whole.
        for (packed, plain) in &whole {
            assert!(decoded(&mut decoder, packed, plain.len()).as_ref() == Ok(plain));
        }
    }
}
