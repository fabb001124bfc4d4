//! Builds `fixtures/` from the recipes in `tests/support/fixtures.rs`, README included.
//!
//! `cargo run --release --example fixtures` writes them all;
//! `cargo run --release --example fixtures -- unpack NAME FILE` unpacks one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

#[path = "../tests/support/mod.rs"]
mod support;

use support::{fixtures, pack};

const HEAD: &str = "\
# Fixtures

Made by `cargo run --release --example fixtures` from the recipes in `tests/support/fixtures.rs`; nothing
here comes from anybody's disk. The test `fixtures_are_what_the_recipe_builds` builds them again and
compares every byte. Form of the files: see `tests/support/pack.rs`; to unpack one:

    cargo run --release --example fixtures -- unpack tiny-superfloppy.img /tmp/tiny.img

| name | packed | unpacked | SHA-256 of the unpacked bytes | what is special |
|---|---|---|---|---|
";

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write_all(),
        ["unpack", name, to] => fixtures::unpack_to(name, Path::new(to)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: fixtures [unpack NAME FILE]",
        )),
    }
}

fn write_all() -> io::Result<()> {
    let mut readme = HEAD.to_owned();
    std::fs::create_dir_all(fixtures::folder())?;
    for fixture in &fixtures::ALL {
        let mut image = fixtures::build(fixture)?;
        let packed = pack::pack(&mut image)?;
        let (len, sha) = digest(&mut image)?;
        let path = fixtures::folder().join(format!("{}.pack", fixture.name));
        File::create(path)?.write_all(&packed)?;
        let row = format!(
            "| `{}` | {} | {len} | `{sha}` | {} |\n",
            fixture.name,
            packed.len(),
            fixture.special
        );
        print!("{row}");
        readme.push_str(&row);
    }
    File::create(fixtures::folder().join("README.md"))?.write_all(readme.as_bytes())
}

fn digest(file: &mut File) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    file.seek(SeekFrom::Start(0))?;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((len, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..n]);
        len += n as u64;
    }
}
