//! What the tests of FAT and exFAT share: the same steps on a volume of either, and the tools that
//! judge the result.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use declone::{
    device::{Device, Memory, Overlay},
    error::Result,
    tree::{FileEntry, FileId, FileTree, Listing, NamePattern},
    units::{FileOffset, VolumeOffset},
};
use serde_json::Value;

use crate::{
    machine::GUID,
    oracle,
    run::{arg, declone, digest, scratch},
    support::{exfat_builder::BuiltExfat, fat_builder::BuiltFat, put},
};

/// A volume of one of the two builders.
pub trait Built {
    fn bytes(&self) -> &[u8];
    /// Where a file's clusters lie.
    fn clusters(&self, path: &str) -> Vec<Range<usize>>;
    /// A file's bytes in a volume of this shape.
    fn contents(&self, volume: &[u8], path: &str) -> Vec<u8>;
}

macro_rules! built {
    ($built:ty) => {
        impl Built for $built {
            fn bytes(&self) -> &[u8] {
                &self.bytes
            }

            fn clusters(&self, path: &str) -> Vec<Range<usize>> {
                let starts = self.files[path].clusters.iter().map(|one| self.at(*one));
                starts.map(|at| at..at + self.cluster).collect()
            }

            fn contents(&self, volume: &[u8], path: &str) -> Vec<u8> {
                self.read(volume, path)
            }
        }
    };
}

built!(BuiltFat);
built!(BuiltExfat);

pub fn wide(text: &str) -> Vec<u8> {
    put::utf16(text)
}

/// The volume with zeros for these files.
pub fn without(built: &dyn Built, paths: &[&str], volume: &[u8]) -> Vec<u8> {
    let mut bytes = volume.to_vec();
    for path in paths {
        for range in built.clusters(path) {
            bytes[range].fill(0);
        }
    }
    bytes
}

#[track_caller]
pub fn same(name: &str, found: &[u8], want: &[u8]) {
    assert_eq!(found.len(), want.len(), "{name}");
    let other: Vec<String> = (0..found.len())
        .filter(|at| found[*at] != want[*at])
        .map(|at| format!("{at:#x}: {:#x} for {:#x}", found[at], want[at]))
        .take(20)
        .collect();
    assert!(other.is_empty(), "{name}: {other:#?}");
}

#[track_caller]
pub fn no_identity(name: &str, bytes: &[u8]) {
    for form in oracle::guid_forms(GUID) {
        let found = oracle::find_all(bytes, &form);
        assert!(found.is_empty(), "{name}: {form:x?} at {found:x?}");
    }
    for text in ["SID=S-1-5-21-1111111111", "UniqueID=ABC0000F"] {
        assert!(
            oracle::find_all(bytes, text.as_bytes()).is_empty(),
            "{name}: {text}"
        );
    }
    // 8.3 without its first byte.
    for short in ["MSCFG  INI", "MS1X   INI", "MSUID  DAT"] {
        let found = oracle::find_all(bytes, short.as_bytes());
        assert!(found.is_empty(), "{name}: {short} at {found:x?}");
    }
}

/// Scanned, cleaned into a new file, looked at again, cleaned again, cleaned in place and undone: the
/// volume is `want` apart from the hives, and every hive has lost its identity and nothing else.
pub fn cleaned_to_the_byte(
    name: &str,
    built: &dyn Built,
    hives: &[&str],
    want: &[u8],
    look: &dyn Fn(&Value),
) {
    let dir = scratch();
    let path = |end: &str| dir.path().join(format!("{name}.{end}"));
    let (image, out, again, own, undo, report) = (
        path("img"),
        path("out"),
        path("again"),
        path("own"),
        path("undo"),
        path("json"),
    );
    fs::write(&image, built.bytes()).unwrap();
    let before = digest(&image);
    let scan = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let rules: BTreeSet<&str> = scan["images"][0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["rule"].as_str().unwrap())
        .collect();
    let all = ["sms.1x", "sms.abexprt", "sms.cfg", "sms.uid", "sms.uidfile"];
    assert_eq!(rules, all.into(), "{name}");
    look(&scan);
    declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        arg(&report),
    ])
    .exits(0);
    assert_eq!(digest(&image), before, "{name}");

    let new = fs::read(&out).unwrap();
    same(
        name,
        &without(built, hives, &new),
        &without(built, hives, want),
    );
    no_identity(name, &new);
    for hive in hives {
        let old = oracle::hive_lines(&built.contents(built.bytes(), hive));
        let new = oracle::hive_lines(&built.contents(&new, hive));
        let lost = old.iter().filter(|line| !new.contains(line)).count();
        assert_eq!(lost, 1 + 2 * 4, "{name} {hive}");
        assert!(new.iter().all(|line| old.contains(line)), "{name} {hive}");
    }
    declone(&["scan", arg(&out)]).exits(0);
    declone(&["verify", arg(&out), "--against", arg(&report)]).exits(0);
    let ran = declone(&["clean", arg(&out), "-o", arg(&again)]).exits(0);
    assert!(ran.out.contains("Nothing to do"), "{name}: {}", ran.out);
    assert_eq!(digest(&out), digest(&again), "{name}");

    fs::copy(&image, &own).unwrap();
    declone(&[
        "clean",
        arg(&own),
        "--in-place",
        "--prove",
        "--undo",
        arg(&undo),
    ])
    .exits(0);
    assert_eq!(digest(&own), digest(&out), "{name}");
    declone(&["undo", arg(&undo)]).exits(0);
    assert_eq!(digest(&own), before, "{name}");
}

/// A damaged volume is scanned, refused with this text, and not changed.
#[track_caller]
pub fn refused(name: &str, bytes: &[u8], least: usize, text: &str) {
    let dir = scratch();
    let image = dir.path().join("in.img");
    fs::write(&image, bytes).unwrap();
    let scan = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let found = scan["images"][0]["findings"].as_array().unwrap().len();
    assert!(found >= least, "{name}: {found}");
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    let all = format!("{}{}", ran.out, ran.err);
    assert!(all.contains(text), "{name}: {all}");
    assert!(fs::read(&image).unwrap() == bytes, "{name}");
}

/// Counts how volumes end, one byte of which was changed: not opened, refused, cleaned.
pub struct Flips<V> {
    pub open: fn(Device) -> Result<V>,
    pub ends: [u32; 3],
}

impl<V: FileTree> Flips<V> {
    /// Every byte of `places` in three ways; `mend` may make a checksum right again.
    pub fn all(&mut self, whole: &[u8], places: &[usize], mend: &dyn Fn(&mut [u8], usize)) {
        for at in places {
            for change in [0_u8, 0xFF, whole[*at] ^ 1 << (at % 8)] {
                if change == whole[*at] {
                    continue;
                }
                let mut bytes = whole.to_vec();
                bytes[*at] = change;
                mend(&mut bytes, *at);
                self.ends[self.one(bytes, *at)] += 1;
            }
        }
    }

    /// How it ended: 0 did not open, 1 refused, 2 cleaned.
    fn one(&self, bytes: Vec<u8>, at: usize) -> usize {
        let under: Device = Arc::new(Memory::new(bytes));
        let device: Device = Arc::new(Overlay::new(under.clone()));
        let Ok(volume) = (self.open)(device.clone()) else {
            return 0;
        };
        let patterns = ["Smscfg.ini", "Smsuid.dat", "SOFTWARE"].map(NamePattern::exact);
        let Ok(census) = volume.census(&patterns, &mut |_| {}) else {
            return 0;
        };
        for entry in &census.found {
            let mut buffer = vec![0; entry.len.min(10_000) as usize];
            let _ = volume.read_at(entry.id, FileOffset(0), &mut buffer);
            let _ = volume.extents(entry.id);
            let _ = volume.list(entry.id);
        }
        let all: Vec<VolumeOffset> = (0..under.len()).step_by(97).map(VolumeOffset).collect();
        volume
            .owners(&all, &[])
            .unwrap_or_else(|e| panic!("{at:#x}: {e}"));
        if !volume.obstacles().unwrap().is_empty() {
            return 1;
        }
        let targets: Vec<_> = census
            .found
            .iter()
            .filter(|entry| {
                !entry.is_directory && !entry.names.iter().any(|n| n.eq_ascii("SOFTWARE"))
            })
            .collect();
        let mut want: Listing = census.listing;
        for entry in &targets {
            want.subtract(&entry.listing);
        }
        let before = (self.open)(under.clone()).unwrap();
        let kept: Vec<(FileEntry, Vec<u8>)> = all_files(&volume)
            .into_iter()
            .filter(|entry| !targets.iter().any(|target| target.id == entry.id))
            .map(|entry| (entry.clone(), read(&volume, &entry)))
            .collect();
        let ids: Vec<_> = targets.iter().map(|entry| entry.id).collect();
        volume
            .remove(&ids)
            .unwrap_or_else(|e| panic!("{at:#x}: {e}"));
        let after = (self.open)(device.clone()).unwrap();
        assert_eq!(
            after.census(&patterns, &mut |_| {}).unwrap().listing,
            want,
            "{at:#x}"
        );
        for (entry, bytes) in kept {
            assert_eq!(read(&after, &entry), bytes, "{at:#x}: {}", entry.path());
        }
        let touched = [0..under.len()];
        let old = before.check_touched(&touched).unwrap();
        let new = after.check_touched(&touched).unwrap();
        let more: Vec<_> = new.iter().filter(|line| !old.contains(line)).collect();
        assert!(more.is_empty(), "{at:#x}: {more:?}");
        2
    }
}

pub fn read(volume: &dyn FileTree, entry: &FileEntry) -> Vec<u8> {
    let mut bytes = vec![0; entry.len as usize];
    volume.read_at(entry.id, FileOffset(0), &mut bytes).unwrap();
    bytes
}

pub fn all_files(volume: &dyn FileTree) -> Vec<FileEntry> {
    let mut files = Vec::new();
    let mut directories = vec![FileId(0)];
    while let Some(directory) = directories.pop() {
        for entry in volume.list(directory).unwrap() {
            match entry.is_directory {
                true => directories.push(entry.id),
                false => files.push(entry),
            }
        }
    }
    files
}

// --- the tools that judge ---

/// Whether the tests that need tools of others run; says so if not.
pub fn wanted(test: &str) -> bool {
    let wanted = std::env::var_os("DECLONE_WITNESS").is_some_and(|value| value == "1");
    if !wanted {
        eprintln!("{test}: NOT RUN, DECLONE_WITNESS");
    }
    wanted
}

pub fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed: {e}"))
}

#[track_caller]
pub fn succeeds(program: &str, args: &[&str]) -> String {
    let out = output(program, args);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

/// A sample made by others, unpacked.
pub fn sample(test: &str, name: &str) -> Option<Vec<u8>> {
    let packed = crate::run::samples(test)?.join("ntfs").join(name);
    Some(output("xz", &["-dc", arg(&packed)]).stdout)
}

/// Files by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Every file of a directory of the host.
pub fn tree(root: &Path) -> Files {
    let mut files = BTreeMap::new();
    let mut below = vec![root.to_owned()];
    while let Some(dir) = below.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below.push(path);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// What other tools read before and after a clean: the targets went, the hive is another, everything
/// else is the same.
#[track_caller]
pub fn only_targets_went(name: &str, mut old: Files, new: &Files, windows: &str) {
    for gone in [
        format!("{windows}/Smscfg.ini"),
        format!("{windows}/system32/SMSUID.DAT"),
        "Documents and Settings/All Users/sms1x.ini".to_owned(),
    ] {
        assert!(old.remove(&gone).is_some(), "{name}: {gone}");
    }
    let hive = format!("{windows}/system32/config/software");
    assert!(
        old.remove(&hive).is_some_and(|bytes| bytes != new[&hive]),
        "{name}"
    );
    assert_eq!(new.len(), old.len() + 1, "{name}");
    assert!(
        old.iter().all(|(file, bytes)| new[file] == *bytes),
        "{name}"
    );
}

/// The Sleuth Kit lists no name with one of these pieces.
#[track_caller]
pub fn not_listed(image: &Path, pieces: &[&str]) {
    let listed = succeeds("fls", &["-r", "-p", arg(image)]).to_lowercase();
    for piece in pieces {
        assert!(!listed.contains(piece), "{piece}: {listed}");
    }
}

/// Cleaned in place, an image is what the clean into a new file made of it, and stays so.
#[track_caller]
pub fn same_in_place(name: &str, image: &Path, own: &Path, out: &Path) {
    fs::copy(image, own).unwrap();
    declone(&["clean", arg(own), "--in-place", "--prove"]).exits(0);
    assert_eq!(digest(own), digest(out), "{name}");
    let ran = declone(&["clean", arg(own), "--in-place"]).exits(0);
    assert!(ran.out.contains("Nothing to do"), "{name}: {}", ran.out);
}
