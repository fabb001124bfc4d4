//! exFAT as others see it: samples, volumes of `mkfs.exfat` and exfat-fuse, `fsck.exfat`, the Sleuth Kit.

use std::{fs, path::Path, process::Command};

use declone::tree::FileTree;

use crate::{
    clusters::{
        all_files, no_identity, not_listed, only_targets_went, output, read, same_in_place, sample,
        succeeds, tree, wanted, wide,
    },
    exfat::open,
    machine, oracle,
    run::{arg, declone, scratch},
    support::fixtures,
};

#[test]
fn the_sample_made_by_others_is_read() {
    let Some(bytes) = sample("the_sample_made_by_others_is_read", "exfat.img.xz") else {
        return;
    };
    let (exfat, _) = open(bytes.clone());
    let obstacles = exfat.obstacles().unwrap();
    assert!(obstacles.is_empty(), "{obstacles:?}");
    let lines = exfat.check_touched(&[0..bytes.len() as u64]).unwrap();
    assert!(
        lines.iter().all(|line| line.contains("zeros expected")),
        "{lines:?}"
    );
    let dir = scratch();
    let image = dir.path().join("exfat.img");
    fs::write(&image, &bytes).unwrap();
    declone(&["scan", arg(&image), "--allow-no-windows"]).exits(0);
    let files = all_files(&exfat);
    assert_eq!(files.len(), 6);
    if !wanted("the_sample_made_by_others_is_read") {
        return;
    }
    for entry in files {
        let path = entry.path().trim_start_matches('\\').replace('\\', "/");
        assert!(
            cat(&image, &path) == read(&exfat, &entry),
            "{path}: the Sleuth Kit reads something else"
        );
    }
}

/// The same volume with an identity put on it through exfat-fuse.
#[test]
fn the_sample_made_by_others_is_cleaned() {
    let test = "the_sample_made_by_others_is_cleaned";
    let Some(bytes) = sample(test, "exfat.img.xz").filter(|_| wanted(test)) else {
        return;
    };
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (image, out, own, mount) = (
        path("in.img"),
        path("out.img"),
        path("own.img"),
        path("mount"),
    );
    fs::write(&image, bytes).unwrap();
    let before = {
        let mounted = Mounted::new(&image, &mount);
        let before = tree(&mounted.at);
        for to in ["subdir/Smscfg.ini", "SMSUID.DAT", "sms1x.ini"] {
            fs::write(mounted.at.join(to), machine::ini()).unwrap();
        }
        fs::remove_file(mounted.at.join("sms1x.ini")).unwrap();
        before
    };
    fsck(&image);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    fsck(&out);
    fs::copy(&out, &own).unwrap();
    let mounted = Mounted::new(&own, &mount);
    assert_eq!(tree(&mounted.at), before);
    drop(mounted);
    no_identity("sample", &fs::read(&out).unwrap());
    not_listed(&out, &["sms"]);
}

/// A file's bytes as the Sleuth Kit reads them.
fn cat(image: &Path, path: &str) -> Vec<u8> {
    let listed = succeeds("fls", &["-r", "-p", arg(image)]);
    let line = listed
        .lines()
        .find(|line| line.ends_with(&format!("\t{path}")))
        .unwrap_or_else(|| panic!("{path}: {listed}"));
    let number = line.split([' ', ':']).nth(1).unwrap().trim_end_matches(':');
    output("icat", &[arg(image), number]).stdout
}

#[track_caller]
fn fsck(image: &Path) {
    let text = succeeds("/usr/sbin/fsck.exfat", &["-n", arg(image)]);
    assert!(text.contains(": clean."), "{text}");
    // Entries that may be ignored and that fsck.exfat does not know: the GUID of the volume.
    let known = |line: &&str| !line.contains("unknown entry type 0xa0");
    let wrong: Vec<&str> = text
        .lines()
        .filter(known)
        .filter(|line| line.contains("ERROR"))
        .collect();
    assert!(wrong.is_empty(), "{text}");
}

/// A volume of the own builder is one to others, too.
#[test]
fn a_built_volume_passes_fsck_before_and_after() {
    if !wanted("a_built_volume_passes_fsck_before_and_after") {
        return;
    }
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fixtures::unpack_to("tiny-exfat.img", &image).unwrap();
    fsck(&image);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    fsck(&out);
    not_listed(&out, &["smscfg.ini\n", "smsuid", "sms1x"]);
    let decoy = "WINDOWS/Smscfg.ini.bak";
    assert_eq!(cat(&out, decoy), b"a decoy");
    assert_eq!(cat(&image, decoy), b"a decoy");
}

/// A loop device and a mount that go with the test.
struct Mounted {
    device: String,
    at: std::path::PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: &Path) -> Self {
        let device = succeeds("losetup", &["-f", "--show", arg(image)]);
        let device = device.trim().to_owned();
        fs::create_dir_all(at).unwrap();
        let mounted = Self {
            device,
            at: at.to_owned(),
        };
        succeeds("mount.exfat-fuse", &[&mounted.device, arg(at)]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Volumes that `mkfs.exfat` and exfat-fuse made; `fsck.exfat`, exfat-fuse and the Sleuth Kit judge.
#[test]
fn volumes_of_mkfs_and_fuse_pass_their_own_checks() {
    if !wanted("volumes_of_mkfs_and_fuse_pass_their_own_checks") {
        return;
    }
    let shapes: [(&str, &[&str], u64); 5] = [
        ("512", &["-c", "512"], 8 << 20),
        ("4k", &["-c", "4K"], 16 << 20),
        ("128k", &["-c", "128K"], 64 << 20),
        ("pack", &["-c", "8K", "--pack-bitmap"], 16 << 20),
        ("32m", &["-c", "32M"], 1 << 30),
    ];
    for (name, options, len) in shapes {
        let dir = scratch();
        let path = |end: &str| dir.path().join(format!("{name}.{end}"));
        let (image, out, own, mount) = (path("img"), path("out"), path("own"), path("mount"));
        fs::File::create(&image).unwrap().set_len(len).unwrap();
        let mut args = options.to_vec();
        args.push(arg(&image));
        succeeds("/usr/sbin/mkfs.exfat", &args);
        let few = name == "32m";
        {
            let mounted = Mounted::new(&image, &mount);
            let put = |file: &str, bytes: &[u8]| {
                let place = mounted.at.join(file);
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(place, bytes).unwrap();
            };
            put(
                "WINDOWS/system32/config/software",
                &machine::hive(3).build(),
            );
            put("WINDOWS/Smscfg.ini", machine::ini().as_bytes());
            for i in 0..if few { 4 } else { 40_usize } {
                let name =
                    format!("WINDOWS/system32/library \u{1F600} {i:02} with a long name.dll");
                put(&name, &vec![i as u8 + 1; 100 + i * 333]);
            }
            // Holes in the free space, so that what follows is in pieces.
            for i in (0..if few { 4 } else { 40_usize }).step_by(2) {
                let name =
                    format!("WINDOWS/system32/library \u{1F600} {i:02} with a long name.dll");
                fs::remove_file(mounted.at.join(name)).unwrap();
            }
            put("WINDOWS/system32/SMSUID.DAT", &[0x5A; 70_000]);
            put("Documents and Settings/All Users/sms1x.ini", &[0x41; 300]);
            put(&format!("long/{}", "n".repeat(255)), b"");
            put("big.bin", &[0x77; 200_000]);
            // A target that was deleted before the capture.
            put("WINDOWS/Smsuid.dat", machine::ini().as_bytes());
            fs::remove_file(mounted.at.join("WINDOWS/Smsuid.dat")).unwrap();
        }
        fsck(&image);
        let old = {
            let mounted = Mounted::new(&image, &mount);
            tree(&mounted.at)
        };
        let before = fs::read(&image).unwrap();
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        assert!(fs::read(&image).unwrap() == before, "{name}");
        fsck(&out);
        fs::copy(&out, &own).unwrap();
        let new = {
            let mounted = Mounted::new(&own, &mount);
            tree(&mounted.at)
        };
        only_targets_went(name, old, &new, "WINDOWS");
        let bytes = fs::read(&out).unwrap();
        no_identity(name, &bytes);
        assert!(oracle::find_all(&bytes, &wide("Smsuid.dat")).is_empty());
        not_listed(&out, &["smscfg", "smsuid", "sms1x"]);
        same_in_place(name, &image, &own, &out);
    }
}
