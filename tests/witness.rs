//! Other people's tools as judges of what the builders build.
//!
//! Only with `DECLONE_WITNESS=1` (set by `tools/test`); then an absent tool is a failure. Mounting
//! needs root. The strict checkers `check_hive.py` and `check_ntfs.py` are looked for in
//! `DECLONE_TOOLS`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::hive_builder::HiveBuilder;
use crate::support::ntfs_builder::NtfsBuilder;
use crate::support::sms::{self, Scene};
use crate::support::{fixtures, volumes};

/// Volumes the Sleuth Kit 4 cannot open: sectors below 512 bytes, clusters above 64 KiB.
const NOT_FOR_FLS: [&str; 3] = ["sectors-256", "clusters-128k", "clusters-2m"];

/// What `check_ntfs.py` says of every NT4 volume: it wants the `$Secure` of later versions.
const NT4_COMPLAINTS: &str = "AUDIT FAIL (2 errors)";

fn wanted() -> bool {
    std::env::var_os("DECLONE_WITNESS").is_some_and(|v| v == "1")
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed: {e}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One of the strict checkers, or nothing where they are not at hand.
fn checker(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("DECLONE_TOOLS")?);
    let path = folder.join(name);
    assert!(
        path.exists(),
        "DECLONE_TOOLS is set, but {} is not there",
        path.display()
    );
    Some(path)
}

fn save(folder: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    File::create(&path)
        .and_then(|mut f| f.write_all(bytes))
        .expect("write to the temporary folder");
    path.to_str().expect("an ordinary path").to_owned()
}

fn write_volume(folder: &TempDir, name: &str, volume: &NtfsBuilder) -> String {
    let path = folder.path().join(format!("{name}.img"));
    volume.write_to(&mut File::create(&path).expect("a temporary file"), 0);
    path.to_str().expect("an ordinary path").to_owned()
}

/// The volumes by name, and the scenes as volumes.
fn all_volumes() -> Vec<(&'static str, NtfsBuilder)> {
    let mut all = volumes::all();
    let mut scene = sms::volume(64 << 20, crate::support::ntfs_builder::Geometry::default());
    Scene::default().install(&mut scene);
    all.push(("sms-2003", scene));
    all
}

#[test]
fn built_volumes_pass_the_strict_checker() {
    let Some(check) = checker("check_ntfs.py").filter(|_| wanted()) else {
        return;
    };
    let folder = TempDir::new().expect("a temporary folder");
    for (name, volume) in all_volumes() {
        let image = write_volume(&folder, name, &volume);
        let out = run(
            "python3",
            &[check.to_str().expect("a path"), &image, "--quiet"],
        );
        let said = text(&out.stdout);
        let verdict = said.lines().last().unwrap_or_default();
        let right = if name == "windows-nt4" {
            verdict == NT4_COMPLAINTS && said.matches("$Secure").count() == 2
        } else {
            verdict == "AUDIT PASS"
        };
        assert!(right, "{name}: {said}{}", text(&out.stderr));
    }
}

#[test]
fn built_disks_pass_the_strict_checker() {
    let Some(check) = checker("check_ntfs.py").filter(|_| wanted()) else {
        return;
    };
    let folder = TempDir::new().expect("a temporary folder");
    let disks = [
        ("xp", sms::sms2003_disk(&Scene::default())),
        ("tiny", sms::tiny_superfloppy()),
        ("gpt", sms::gpt_4kn()),
        ("two", sms::two_installations()),
    ];
    for (name, disk) in disks {
        let path = folder.path().join(name);
        let built = disk.write_to(&mut File::create(&path).expect("a temporary file"));
        for partition in built.iter().filter(|p| p.volume.is_some()) {
            let at = partition.offset.to_string();
            let image = path.to_str().expect("a path");
            let out = run(
                "python3",
                &[
                    check.to_str().expect("a path"),
                    image,
                    at.as_str(),
                    "--quiet",
                ],
            );
            let said = text(&out.stdout);
            assert!(said.ends_with("AUDIT PASS\n"), "{name} at {at}: {said}");
        }
    }
}

/// A mounted volume, unmounted when it goes.
struct Mount(TempDir);

impl Mount {
    fn new(image: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let at = folder.path().to_str().expect("a path");
        let out = run("ntfs-3g", &["-o", "ro,streams_interface=none", image, at]);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(
            out.status.success() && !said.contains("warn"),
            "ntfs-3g {image}: {said}"
        );
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().expect("a path")]);
    }
}

#[test]
fn ntfs_3g_reads_every_file_of_built_volumes() {
    if !wanted() {
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    for (name, volume) in all_volumes() {
        let image = write_volume(&folder, name, &volume);
        let mount = Mount::new(&image);
        for (path, content) in volume.files() {
            // ntfs-3g hides metadata files, and shows reparse points as links.
            if path.starts_with("$Extend") {
                continue;
            }
            let host = mount.path().join(path.replace('\\', "/"));
            let read = fs::read(&host).unwrap_or_else(|e| panic!("{name}: {path}: {e}"));
            assert!(read == content, "{name}: {path} has other bytes");
        }
    }
}

#[test]
fn fls_and_ntfsfix_have_no_complaint_about_built_volumes() {
    if !wanted() {
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    for (name, volume) in all_volumes() {
        let image = write_volume(&folder, name, &volume);
        let fix = run("ntfsfix", &["-n", &image]);
        let said = text(&fix.stdout) + &text(&fix.stderr);
        for word in ["FAILED", "rror", "warn", "corrupt", "differ"] {
            assert!(!said.contains(word), "{name}: ntfsfix: {said}");
        }
        if NOT_FOR_FLS.contains(&name) || name == "sectors-4k-clusters-128k" {
            continue;
        }
        let fls = run("fls", &["-r", "-p", "-u", &image]);
        assert!(fls.status.success(), "{name}: fls: {}", text(&fls.stderr));
        let listed = text(&fls.stdout);
        for (path, _) in volume.files() {
            let path = path.replace('\\', "/");
            assert!(listed.contains(&path), "{name}: fls does not list {path}");
        }
    }
}

fn hives() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = (3..=6)
        .map(|minor| {
            let hive: HiveBuilder = Scene {
                minor,
                ..Scene::default()
            }
            .software(0);
            (format!("version 1.{minor}"), hive.build())
        })
        .collect();
    for fixture in fixtures::ALL.iter().filter(|f| f.name.ends_with(".hive")) {
        all.push((
            fixture.name.into(),
            fixtures::load(fixture.name).expect("the fixture"),
        ));
    }
    all
}

#[test]
fn built_hives_pass_the_strict_checker() {
    let Some(check) = checker("check_hive.py").filter(|_| wanted()) else {
        return;
    };
    let folder = TempDir::new().expect("a temporary folder");
    for (name, bytes) in hives() {
        let hive = save(&folder, "hive", &bytes);
        let mut args = vec![check.to_str().expect("a path"), hive.as_str()];
        if name == "residue.hive" {
            args.extend(["--allow", "leaked_cell"]);
        }
        let out = run("python3", &args);
        let said = text(&out.stdout);
        assert!(out.status.success(), "{name}: {said}");
        assert!(said.contains(r#""warnings": {}"#), "{name}: {said}");
    }
}

#[test]
fn hivexml_and_reglookup_find_the_identity_in_built_hives() {
    if !wanted() {
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    for (name, bytes) in hives() {
        let hive = save(&folder, "hive", &bytes);
        let xml = run("hivexml", &[&hive]);
        assert!(
            xml.status.success(),
            "{name}: hivexml: {}",
            text(&xml.stderr)
        );
        let said = text(&xml.stdout);
        for word in [sms::GUID, "CAP List for site XYZ", "Preferred AbExprtDB"] {
            assert!(said.contains(word), "{name}: hivexml does not show {word}");
        }
        let list = run("reglookup", &["-p", "/Microsoft/SMS", &hive]);
        assert!(
            list.status.success(),
            "{name}: reglookup: {}",
            text(&list.stderr)
        );
        assert!(
            text(&list.stdout).contains(sms::GUID),
            "{name}: reglookup misses the GUID"
        );
    }
}
