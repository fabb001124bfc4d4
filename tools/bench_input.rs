//! Builds the input of `tools/bench`: a 24 GiB raw NTFS image (sparse on the host) with 400,000
//! files in 4,000 directories, 1.5 GiB of them real data, and a SOFTWARE hive of 80 MB and 220,000
//! keys that carries the identity. The same every time.
//!
//! `cargo run --release --example bench_input -- FILE`; with `hive` in front of FILE only the hive.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::time::Instant;

#[path = "../tests/support/mod.rs"]
mod support;

use support::hive_builder::Kind;
use support::ntfs_builder::{Content, Geometry, NtfsBuilder};
use support::sms::{self, Scene};

/// Files and directories, identity and system files aside.
const DIRECTORIES: u32 = 4_000;
const FILES: u32 = 400_000;
/// Keys in SOFTWARE.
const KEYS: u32 = 220_000;
/// Files of 1 MiB whose bytes are written.
const DATA_FILES: u32 = 1_536;
const MIB: u64 = 1 << 20;

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: bench_input [hive] FILE");
    let mut args = std::env::args().skip(1);
    let mut path = args.next().ok_or_else(usage)?;
    let start = Instant::now();
    if path == "hive" {
        path = args.next().ok_or_else(usage)?;
        return File::create(path)?.write_all(&software(&scene()));
    }
    let volume = describe();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    let built = volume.write_to(&mut file, 0);
    println!(
        "{path}: {} records, {} extension records, {:.1} s",
        built.record_count,
        built.extensions,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn scene() -> Scene {
    Scene {
        copies: false,
        keys: 0,
        ..Scene::default()
    }
}

/// The SOFTWARE hive.
fn software(scene: &Scene) -> Vec<u8> {
    let mut hive = scene.software(0);
    let mut i = 0;
    while hive.key_count() < usize::try_from(KEYS).unwrap() {
        let key = format!(
            r"Classes\CLSID\{{{:08X}-7A3B-11D3-9F5E-00C04FA31A86}}",
            i * 0x9e5
        );
        hive.key(&key)
            .string("", &format!("Registered component number {i}"))
            .security(i % 9);
        hive.key(&format!(r"{key}\InprocServer32"))
            .string(
                "",
                &format!(r"C:\WINDOWS\system32\component{}.dll", i % 977),
            )
            .string("ThreadingModel", "Both")
            .value("Stamp", Kind::Binary, &stamp(i));
        i += 1;
    }
    hive.build()
}

/// Keys, certificates, lists of what was used: bytes that no program compresses. With them the hive
/// becomes as short in an archive as a real one, to about a third (LZX).
fn stamp(number: u32) -> Vec<u8> {
    let mut state = u64::from(number) ^ 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..40 + number % 400).map(|_| next()).collect()
}

fn describe() -> NtfsBuilder {
    let scene = scene();
    let mut v = sms::volume(24 << 30, Geometry::default());
    v.label("BENCH").log_len(64 * MIB);
    scene.install_with(&mut v, software(&scene));
    for i in 0..FILES {
        let directory = i % DIRECTORIES;
        let path = format!(
            r"Program Files\group{:02}\dir{directory:04}\file{i:06}.{}",
            directory % 40,
            ["txt", "dll", "log", "data"][usize::try_from(i / DIRECTORIES % 4).unwrap()]
        );
        let content = if i < DATA_FILES {
            Content::filler(u64::from(i), MIB)
        } else if i % 4 == 0 {
            Content::from("A short file that lives in its record.\r\n")
        } else {
            Content::Unwritten(4096 * u64::from(1 + i % 11))
        };
        v.file(&path, content);
    }
    v
}
