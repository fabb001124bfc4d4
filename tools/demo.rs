//! The demonstration: a captured Windows XP disk with a cloned SMS identity, looked at, planned,
//! cleaned, verified. Needs nothing but Rust.
//!
//! `cargo run --release --example demo [-- DIRECTORY]`

use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use sha2::{Digest, Sha256};

#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let declone = declone(root)?;
    let folder = match env::args_os().nth(1).map(PathBuf::from) {
        // Somebody's own directory is not emptied.
        Some(named) => named,
        None => {
            let own = root.join("target/demo");
            if own.exists() {
                fs::remove_dir_all(&own)?;
            }
            own
        }
    };
    fs::create_dir_all(&folder)?;
    if fs::read_dir(&folder)?.next().is_some() {
        let what = format!("{}: a new or empty directory expected", folder.display());
        return Err(io::Error::other(what));
    }
    env::set_current_dir(&folder)?;
    let image = Path::new("xp-sms2003.img");
    support::fixtures::unpack_to("xp-sms2003.img", image)?;
    println!(
        "A Windows XP disk of {} MiB, captured from a machine that ran an SMS 2003 client:\n{}\n",
        fs::metadata(image)?.len() >> 20,
        folder.join(image).display()
    );
    let before = sha256(image)?;
    let steps: [(&str, &[&str], i32); 4] = [
        ("What is in it?", &["scan", "xp-sms2003.img"], 1),
        (
            "What would be done? (writes nothing)",
            &["clean", "xp-sms2003.img", "-n"],
            0,
        ),
        (
            "Clean a copy, and prove it.",
            &["clean", "xp-sms2003.img", "-o", "clean.img"],
            0,
        ),
        ("Look again, with fresh eyes.", &["verify", "clean.img"], 0),
    ];
    let mut good = true;
    for (title, args, wanted) in steps {
        println!("# {title}\n$ declone {}", args.join(" "));
        let status = Command::new(&declone).args(args).status()?;
        let code = status.code().unwrap_or(-1);
        println!("[exit code {code}]\n");
        if code != wanted {
            println!("demo: exit code {wanted} expected\n");
            good = false;
        }
    }
    let same = sha256(image)? == before;
    println!(
        "The captured image is {}.",
        if same { "unchanged" } else { "CHANGED" }
    );
    println!("Both images are in {}", folder.display());
    Ok(good && same)
}

/// The program, built if need be: examples do not bring it along.
fn declone(root: &Path) -> io::Result<PathBuf> {
    let mut folder = env::current_exe()?;
    folder.pop();
    folder.pop();
    let release = folder.ends_with("release");
    let program = folder.join(format!("declone{}", env::consts::EXE_SUFFIX));
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "--bin", "declone"])
            .current_dir(root);
        if release {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err(io::Error::other("cargo build failed"));
        }
    }
    if program.exists() {
        return Ok(program);
    }
    Err(io::Error::other(format!(
        "no program at {}; run: cargo build --release",
        program.display()
    )))
}

fn sha256(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..n]);
    }
}
