//! Volumes and archives of others, cleaned through their mounts: ntfs-3g and wimlib.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    directory::{at, clean, fill, is_clean, report, scan},
    judges::{called, checker, tool},
    machine::{self, HIVE, HIVES, TARGETS},
    run::{arg, declone, scratch},
    support::ntfs_builder::Names,
};

/// A mount by a driver in the foreground; unmounted and waited for at its end.
struct Mount(PathBuf, Option<std::process::Child>);

impl Mount {
    fn new(at: &Path, program: &str, args: &[&str]) -> Self {
        let before = fs::metadata(at).unwrap().dev();
        let mut child = Command::new(program)
            .args(args)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program} is missing ({e})"));
        for _ in 0..500 {
            if fs::metadata(at).is_ok_and(|meta| meta.dev() != before) {
                return Self(at.to_owned(), Some(child));
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{program}: {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{program} does not get ready");
    }

    fn end(mut self) {
        tool("umount", &[arg(&self.0)]);
        let mut child = self.1.take().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut child) = self.1.take() {
            Command::new("umount").arg("-l").arg(&self.0).status().ok();
            child.wait().ok();
        }
    }
}

fn ntfs_attribute(path: &Path, name: &str) -> String {
    let args = ["-h", "--only-values", "-n", name, "--absolute-names"];
    let out = Command::new("getfattr")
        .args(args)
        .arg(path)
        .output()
        .unwrap();
    hex::encode(out.stdout)
}

#[test]
fn an_ntfs_volume_is_cleaned_through_its_mount() {
    if !called("an_ntfs_volume_is_cleaned_through_its_mount") {
        return;
    }
    let (dir, mnt) = (scratch(), scratch());
    let image = dir.path().join("image");
    let geometry = crate::support::ntfs_builder::Geometry::default();
    let mut volume = machine::volume(64 << 20, geometry, 5);
    // ntfs-3g does not remove a file that has a long name and no short one (`rm` fails there, too).
    volume.entry(TARGETS[4]).names(Names::Both);
    machine::write(&volume, &image);
    let options = format!("no_detach,{}", "big_writes");
    let mount = |options: &str| {
        Mount::new(
            mnt.path(),
            "ntfs-3g",
            &["-o", options, arg(&image), arg(mnt.path())],
        )
    };
    // Read-only: looked at, not written.
    let mounted = mount(&format!("{options},ro"));
    scan(mnt.path()).exits(1);
    assert!(clean(mnt.path()).exits(3).out.contains("read-only"));
    mounted.end();

    let mounted = mount(&options);
    let root = mnt.path();
    let hive = at(root, HIVE);
    let names = ["system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_times"];
    let seen = || names.map(|name| ntfs_attribute(&hive, name));
    // Hidden and archive; the creation time of 2001.
    tool(
        "setfattr",
        &[
            "-h",
            "-n",
            "system.ntfs_attrib",
            "-v",
            "0x22000000",
            arg(&hive),
        ],
    );
    let times = format!("0x{}", "00c0f8a5e4c0c001".repeat(4));
    tool(
        "setfattr",
        &["-h", "-n", "system.ntfs_times", "-v", &times, arg(&hive)],
    );
    let before = seen();
    assert!(before.iter().all(|value| !value.is_empty()), "{before:?}");
    let done = report(&clean(root).exits(0));
    assert_eq!(done["result"], "cleaned");
    let after = seen();
    assert_eq!(before[..2], after[..2]);
    // Creation and write; reading it again may have changed that of access.
    assert_eq!(before[2][..32], after[2][..32]);
    is_clean(root);
    let remarks = done["remarks"].to_string();
    assert!(!remarks.contains("not kept"), "{remarks}");
    mounted.end();

    for path in HIVES {
        let out = dir.path().join("hive");
        let bytes = tool("ntfscat", &["-f", arg(&image), &path.replace('\\', "/")]).stdout;
        fs::write(&out, bytes).unwrap();
        if let Some(checker) = checker("check_hive.py") {
            tool("python3", &[arg(&checker), arg(&out)]);
        }
    }
    if let Some(checker) = checker("check_ntfs.py") {
        tool("python3", &[arg(&checker), arg(&image)]);
    }
    // The image itself is clean by declone's other eyes, too; what the driver freed is left.
    declone(&["scan", arg(&image)]).exits(0);
}

/// ntfs-3g looks for the short name of a long one before it removes either, and finds none (`rm` fails
/// there, too). The volume is sound: the independent checker says so, and the image is cleaned.
#[test]
fn what_ntfs_3g_cannot_remove_is_named_and_the_rest_goes() {
    if !called("what_ntfs_3g_cannot_remove_is_named_and_the_rest_goes") {
        return;
    }
    let (dir, mnt) = (scratch(), scratch());
    let (image, out) = (dir.path().join("image"), dir.path().join("out"));
    let mut volume = machine::volume(64 << 20, Default::default(), 5);
    volume.entry(TARGETS[4]).names(Names::Win32);
    machine::write(&volume, &image);
    if let Some(checker) = checker("check_ntfs.py") {
        tool("python3", &[arg(&checker), arg(&image)]);
    }
    let mounted = Mount::new(
        mnt.path(),
        "ntfs-3g",
        &["-o", "no_detach", arg(&image), arg(mnt.path())],
    );
    let root = mnt.path();
    let rm = Command::new("rm")
        .arg(at(root, TARGETS[4]))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&rm.stderr).into_owned();
    assert!(said.contains("No such file"), "{said}");
    let done = report(&clean(root).exits(6));
    let errors = done["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    let (what, trail) = (
        errors[0]["what"].to_string(),
        errors[0]["trail"].to_string(),
    );
    assert!(what.contains("ntfs-3g"), "{errors:?}");
    assert!(trail.contains("smscfg.INI"), "{errors:?}");
    for path in &TARGETS[..4] {
        assert!(!at(root, path).exists(), "{path}");
    }
    assert!(at(root, TARGETS[4]).exists());
    // Nothing else is left; a second run meets the same file, and writes nothing.
    let again = report(&clean(root).exits(5));
    assert_eq!(again["findings"].as_array().unwrap().len(), 1, "{again}");
    mounted.end();
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    if let Some(checker) = checker("check_ntfs.py") {
        tool("python3", &[arg(&checker), arg(&out)]);
    }
}

#[test]
fn a_wim_is_cleaned_through_its_mount() {
    if !called("a_wim_is_cleaned_through_its_mount") {
        return;
    }
    let (dir, mnt) = (scratch(), scratch());
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    // A name that is no UTF-8 cannot be captured.
    fs::remove_dir_all(tree.join("WINDOWS/Temp")).unwrap();
    let wim = dir.path().join("image.wim");
    tool(
        "wimcapture",
        &[arg(&tree), arg(&wim), "--compress=LZX", "--no-acls"],
    );
    let before = fs::metadata(mnt.path()).unwrap().dev();
    tool("wimmountrw", &[arg(&wim), "1", arg(mnt.path())]);
    assert_ne!(fs::metadata(mnt.path()).unwrap().dev(), before);
    let ran = clean(mnt.path());
    let seen = scan(mnt.path());
    tool("wimunmount", &["--commit", arg(mnt.path())]);
    ran.exits(0);
    seen.exits(0);
    // The other program left the old contents behind.
    let ran = declone(&["scan", arg(&wim)]).exits(1);
    assert!(ran.out.contains("nothing references"), "{}", ran.out);
    let out = dir.path().join("out");
    tool("wimapply", &[arg(&wim), "1", arg(&out)]);
    is_clean(&out);
    for path in HIVES {
        if let Some(checker) = checker("check_hive.py") {
            tool("python3", &[arg(&checker), arg(&at(&out, path))]);
        }
    }
    tool("wimverify", &[arg(&wim)]);
}
