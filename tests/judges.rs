//! What declone wrote, judged by tools that are not declone's: check_ntfs.py, check_hive.py,
//! ntfs-3g, ntfsfix, fls, hivexml, reglookup. Run by `tools/test` (DECLONE_WITNESS=1); then a tool
//! that is missing fails the test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::{
    machine::{self, GUID, HIVES, TARGETS},
    oracle,
    run::{arg, declone, digest, samples, scratch},
    support::ntfs_builder::{Geometry, NtfsBuilder, Version},
};

const MIB: u64 = 1 << 20;

/// Whether the judges were called; says so when not.
pub fn called(test: &str) -> bool {
    let called = std::env::var_os("DECLONE_WITNESS").is_some();
    if !called {
        eprintln!("{test}: NOT RUN, needs independent tools: tools/test runs it");
    }
    called
}

#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is missing ({e}): run tools/test, it installs it"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The disk in an image, as a library in Python reads it (`tools/read-disk`).
#[track_caller]
pub fn other_reading(library: &str, image: &Path) -> Vec<u8> {
    other_reading_over(library, image, &[])
}

/// The same for an image that stands on others, nearest first.
#[track_caller]
pub fn other_reading_over(library: &str, image: &Path, parents: &[&Path]) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("target/witness/python/bin/python3");
    let script = here.join("tools/read-disk");
    let out = image.with_extension("other");
    tool(
        arg(&python),
        &[
            &[arg(&script), library, arg(image), arg(&out)][..],
            &parents.iter().map(|path| arg(path)).collect::<Vec<_>>(),
        ]
        .concat(),
    );
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(out).unwrap();
    bytes
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The strict checkers, if this machine has them.
pub fn checker(name: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("DECLONE_TOOLS").map(PathBuf::from) else {
        eprintln!("{name}: NOT RUN, DECLONE_TOOLS is not set");
        return None;
    };
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    Some(path)
}

/// A mount that goes away with the test.
struct Mount(tempfile::TempDir, Child);

impl Mount {
    fn new(image: &Path, options: &str) -> Self {
        use std::os::unix::fs::MetadataExt;
        let dir = scratch();
        let device = || fs::metadata(dir.path()).map(|meta| meta.dev()).ok();
        let before = device();
        // In the foreground, so that its end can be waited for: then everything is written.
        let mut driver = Command::new("ntfs-3g")
            .args([
                "-o",
                &format!("{options},no_detach"),
                arg(image),
                arg(dir.path()),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("ntfs-3g is missing ({e}): run tools/test"));
        for _ in 0..500 {
            if device() != before {
                return Self(dir, driver);
            }
            if let Some(status) = driver.try_wait().unwrap() {
                panic!("ntfs-3g does not mount {}: {status}", image.display());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("ntfs-3g does not get ready");
    }

    /// Every file with its content's digest, named streams included.
    fn files(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut stack = vec![self.0.path().to_owned()];
        while let Some(dir) = stack.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let shown = path
                    .strip_prefix(self.0.path())
                    .unwrap()
                    .display()
                    .to_string();
                if path.is_dir() {
                    stack.push(path);
                    all.insert(shown, "directory".to_owned());
                } else {
                    all.insert(shown, digest(&path));
                }
            }
        }
        all
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.0.path()).status();
        if done.is_ok_and(|status| status.success()) {
            self.1.wait().ok();
        }
    }
}

/// The volume at `offset` as a file of its own, with its backup boot sector and no more: ntfsfix
/// wants exactly that.
fn cut_out(image: &Path, offset: u64, to: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(image).unwrap();
    let mut boot = [0; 512];
    file.read_exact_at(&mut boot, offset).unwrap();
    let sector = u64::from(u16::from_le_bytes([boot[11], boot[12]]));
    let sectors = u64::from_le_bytes(boot[40..48].try_into().unwrap());
    let mut bytes = vec![0; ((sectors + 1) * sector) as usize];
    let have = (file.metadata().unwrap().len() - offset).min(bytes.len() as u64) as usize;
    file.read_exact_at(&mut bytes[..have], offset).unwrap();
    fs::write(to, bytes).unwrap();
}

/// Everything the judges say about a volume before and after.
fn judge(before: &Path, after: &Path, offset: u64, gone: &[&str], hives: &[&str], mounts: bool) {
    let at = offset.to_string();
    if let Some(check) = checker("check_ntfs.py") {
        for image in [before, after] {
            let said = text(&tool("python3", &[arg(&check), arg(image), &at]));
            assert!(said.contains("AUDIT PASS"), "{said}");
        }
        let said = text(&tool(
            "python3",
            &[
                arg(&check),
                arg(after),
                &at,
                "--json",
                "--names",
                "smsuid.dat,smscfg.ini,sms1x.ini",
            ],
        ));
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(json["info"]["named"].as_array().unwrap().len(), 0, "{said}");
    }
    let dir = scratch();
    let (old, new) = (dir.path().join("old.ntfs"), dir.path().join("new.ntfs"));
    cut_out(before, offset, &old);
    cut_out(after, offset, &new);
    if !mounts {
        return;
    }
    let said = text(&tool("ntfsfix", &["-n", arg(&new)]));
    assert!(
        said.contains("successfully") && !said.to_lowercase().contains("fail"),
        "{said}"
    );
    let (was, is) = (
        Mount::new(&old, "ro").files(),
        Mount::new(&new, "ro").files(),
    );
    let lower = |p: &str| p.trim_start_matches('\\').replace('\\', "/").to_lowercase();
    let mut lost: Vec<String> = was
        .keys()
        .filter(|p| !is.contains_key(*p))
        .map(|p| p.to_lowercase())
        .collect();
    let mut want: Vec<String> = gone.iter().map(|p| lower(p)).collect();
    lost.sort();
    want.sort();
    assert_eq!(lost, want);
    let mut changed: Vec<String> = is
        .iter()
        .filter(|(path, now)| was[*path] != **now)
        .map(|(path, _)| path.to_lowercase())
        .collect();
    let mut edited: Vec<String> = hives.iter().map(|p| lower(p)).collect();
    changed.sort();
    edited.sort();
    assert_eq!(changed, edited);
    // Sleuth Kit lists deleted entries, too: no name of a target may be among them.
    let listed = text(&tool("fls", &["-r", "-p", arg(&new)])).to_lowercase();
    for name in ["/smscfg.ini\n", "/smsuid.dat\n", "/sms1x.ini\n"] {
        assert!(!listed.contains(name), "{name} in\n{listed}");
    }
    for hive in hives {
        judge_hive(
            &old,
            &new,
            &hive.trim_start_matches('\\').replace('\\', "/"),
            dir.path(),
        );
    }
}

fn judge_hive(old: &Path, new: &Path, path: &str, dir: &Path) {
    let pull = |volume: &Path, name: &str| {
        let to = dir.join(name);
        fs::write(
            &to,
            tool("ntfscat", &[arg(volume), &format!("/{path}")]).stdout,
        )
        .unwrap();
        to
    };
    let (was, is) = (pull(old, "old.hive"), pull(new, "new.hive"));
    if let Some(check) = checker("check_hive.py") {
        let needle = format!("guid:{GUID}");
        let args = [
            arg(&check),
            arg(&is),
            "--needle",
            &needle,
            "--needle",
            "utf16:CAP_XYZ\\",
            "--needle",
            "ascii:CAP List for site XYZ",
        ];
        let json: serde_json::Value = serde_json::from_str(&text(&tool("python3", &args))).unwrap();
        assert_eq!(json["verdict"], "PASS", "{json}");
        for clean in ["free_nonzero_bytes", "slack_nonzero_bytes", "tail_nonzero"] {
            assert_eq!(
                json["stats"][clean].as_u64().unwrap_or(0),
                0,
                "{clean}: {json}"
            );
        }
    }
    tool("hivexml", &[arg(&is)]);
    let lines = |hive: &Path| -> Vec<String> {
        text(&tool("reglookup", &[arg(hive)]))
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let (was, is) = (lines(&was), lines(&is));
    let lost: Vec<&String> = was.iter().filter(|line| !is.contains(line)).collect();
    assert!(is.iter().all(|line| was.contains(line)), "nothing new");
    assert_eq!(lost.len(), 9, "{lost:#?}");
    assert!(
        lost.iter()
            .all(|l| l.contains("AbExprtDB/CAP") || l.contains("SMS Unique Identifier,"))
    );
}

/// Builds, cleans, calls the judges.
fn case(volume: &NtfsBuilder, mounts: bool) {
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    machine::write(volume, &image);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    judge(&image, &out, 0, &TARGETS, &HIVES, mounts);
}

#[test]
fn judges_accept_cleaned_volumes_of_every_shape() {
    if !called("judges_accept_cleaned_volumes_of_every_shape") {
        return;
    }
    for (sector, cluster, record, mib) in [
        (512, 512, 1024, 24),
        (512, 4096, 1024, 24),
        (512, 65536, 1024, 64),
        (4096, 4096, 4096, 24),
        (1024, 2048, 1024, 24),
    ] {
        let geometry = Geometry {
            sector,
            cluster,
            record,
            index: 4096,
        };
        case(&machine::volume(mib * MIB, geometry, 5), true);
    }
    case(
        machine::volume(24 * MIB, Geometry::default(), 3).version(Version::V30),
        true,
    );
    case(
        machine::volume(24 * MIB, Geometry::default(), 5).mft_pieces(3),
        true,
    );
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    volume.entry(machine::HIVE).pieces(1);
    volume
        .entry(TARGETS[2])
        .pieces(1)
        .object_id([9; 16])
        .stream("ads", vec![1; 5000]);
    case(&volume, true);
    let mut volume = machine::volume(32 * MIB, Geometry::default(), 5);
    for i in 0..1500 {
        volume.file(
            &format!(r"\WINDOWS\MS\SMS\CORE\DATA\other file of some length {i:04}"),
            "x",
        );
    }
    case(&volume, true);
    // 256-byte sectors and 2 MiB clusters: most tools refuse these themselves.
    let huge = Geometry {
        sector: 512,
        cluster: 2 * MIB,
        record: 1024,
        index: 4096,
    };
    case(&machine::volume(400 * MIB, huge, 5), false);
    let tiny = Geometry {
        sector: 256,
        cluster: 2048,
        record: 1024,
        index: 4096,
    };
    case(&machine::volume(24 * MIB, tiny, 5), false);
}

/// Puts the identity on a volume that others made, with ntfs-3g.
fn populate(volume: &Path) -> (Vec<&'static str>, Vec<&'static str>) {
    let mount = Mount::new(volume, "rw,streams_interface=xattr");
    let root = mount.0.path();
    let put = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let hive = machine::hive(5).build();
    put("WINDOWS/system32/config/SOFTWARE", &hive);
    put("WINDOWS/repair/software", &hive);
    put("WINDOWS/Smscfg.ini", machine::ini().as_bytes());
    put("WINDOWS/SmsUid.dat", &vec![0x5A; 50_000]);
    put("WINDOWS/inf/Sms1x.ini", b"[SMS]\r\nUniqueID=ABC0000F\r\n");
    for i in 0..300 {
        put(
            &format!("WINDOWS/a file among many in this directory {i:03}.txt"),
            &vec![7; i * 13],
        );
    }
    let link = root.join("WINDOWS/inf/Smscfg.ini");
    fs::hard_link(root.join("WINDOWS/Smscfg.ini"), link).unwrap();
    (
        vec![
            r"\WINDOWS\Smscfg.ini",
            r"\WINDOWS\inf\Smscfg.ini",
            r"\WINDOWS\SmsUid.dat",
            r"\WINDOWS\inf\Sms1x.ini",
        ],
        vec![
            r"\WINDOWS\system32\config\SOFTWARE",
            r"\WINDOWS\repair\software",
        ],
    )
}

#[test]
fn judges_accept_volumes_made_by_mkntfs_and_ntfs_3g() {
    if !called("judges_accept_volumes_made_by_mkntfs_and_ntfs_3g") {
        return;
    }
    for (sector, cluster) in [
        ("512", "512"),
        ("512", "4096"),
        ("512", "65536"),
        ("4096", "4096"),
    ] {
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        fs::File::create(&image).unwrap().set_len(64 * MIB).unwrap();
        let args = [
            "-F",
            "-Q",
            "-q",
            "-s",
            sector,
            "-c",
            cluster,
            "-p",
            "0",
            "-H",
            "0",
            "-S",
            "0",
            arg(&image),
        ];
        tool("mkntfs", &args);
        let (gone, hives) = populate(&image);
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        judge(&image, &out, 0, &gone, &hives, true);
        let bytes = fs::read(&out).unwrap();
        for form in oracle::guid_forms(GUID) {
            assert!(oracle::find_all(&bytes, &form).is_empty());
        }
        // The cleaned volume goes on living: ntfs-3g writes to it, the auditor is content.
        populate(&out);
        if let Some(check) = checker("check_ntfs.py") {
            tool("python3", &[arg(&check), arg(&out)]);
        }
    }
}

#[test]
fn judges_accept_cleaned_volumes_made_by_windows() {
    let name = "judges_accept_cleaned_volumes_made_by_windows";
    let (true, Some(samples)) = (called(name), samples(name)) else {
        return;
    };
    for (sample, unpack, offset) in [
        ("grr_ntfs_mbr63.dd.xz", "xz", 32256),
        ("ntfs-ramslack.raw.gz", "gzip", 65536),
        ("colinfinck_testfs1.img.xz", "xz", 0),
    ] {
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        let packed = samples.join("ntfs").join(sample);
        fs::write(&image, tool(unpack, &["-dc", arg(&packed)]).stdout).unwrap();
        // What ntfs-3g writes is put in place of the volume; the sample's own files stay.
        let volume = dir.path().join("volume.ntfs");
        let mut bytes = fs::read(&image).unwrap();
        fs::write(&volume, &bytes[offset as usize..]).unwrap();
        let hive = machine::hive(5).build();
        {
            let mount = Mount::new(&volume, "rw");
            let config = mount.0.path().join("WINNT/system32/config");
            fs::create_dir_all(&config).unwrap();
            fs::write(config.join("software"), &hive).unwrap();
            fs::write(mount.0.path().join("Smscfg.ini"), machine::ini()).unwrap();
            fs::write(config.join("Smsuid.dat"), vec![0x77; 9000]).unwrap();
        }
        bytes.splice(offset as usize.., fs::read(&volume).unwrap());
        fs::write(&image, &bytes).unwrap();
        if sample.contains("ramslack") {
            // Everything on this volume is compressed, the hive too: refused, and said why.
            let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(3);
            assert!(ran.out.contains("stored compressed"), "{}", ran.out);
            continue;
        }
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        let gone = [r"\Smscfg.ini", r"\WINNT\system32\config\Smsuid.dat"];
        judge(
            &image,
            &out,
            offset,
            &gone,
            &[r"\WINNT\system32\config\software"],
            true,
        );
    }
}
