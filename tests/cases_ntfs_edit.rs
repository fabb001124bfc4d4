//! Removing, overwriting and wiping on real volumes made by Windows and by others.
//! Needs `DECLONE_SAMPLES` (the directory that holds `ntfs/`); prints and returns without it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use declone::{
    device::{Device, HostFile, Overlay, Slice},
    error::Kind as ErrorKind,
    tree::{Disposition, FileEntry, FileId, FileTree, Listing, NamePattern, Storage},
    units::{FileOffset, MftReference},
    volume::{self, Kind, ntfs::Ntfs},
};

/// Unpacks a sample into a scratch directory.
fn unpack(from: &Path, to: &Path) -> Option<PathBuf> {
    let name = from.file_name()?.to_str()?;
    let (tool, stem) = match name.rsplit_once('.')? {
        (stem, "xz") => ("xz", stem),
        (stem, "gz") => ("gzip", stem),
        (stem, "bz2") => ("bzip2", stem),
        _ => return None,
    };
    let target = to.join(stem);
    let file = std::fs::File::create(&target).ok()?;
    let done = Command::new(tool)
        .arg("-dkc")
        .arg(from)
        .stdout(file)
        .status();
    done.ok()?.success().then_some(target)
}

/// The NTFS volume in an image: at 0, or in an MBR's first partition.
fn volume_of(path: &Path) -> Option<Device> {
    let disk: Device = Arc::new(HostFile::open(path).ok()?);
    for start in [0, 63 * 512, 65536] {
        let len = disk.len().checked_sub(start)?;
        let slice: Device = Arc::new(Slice::new(disk.clone(), start, len).ok()?);
        if volume::probe(&slice).ok()?.kind == Kind::Ntfs {
            return Some(slice);
        }
    }
    None
}

fn each_sample(mut check: impl FnMut(&str, &Device)) {
    let Ok(samples) = std::env::var("DECLONE_SAMPLES") else {
        println!("DECLONE_SAMPLES is not set: nothing was tested");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(Path::new(&samples).join("ntfs")).unwrap() {
        let path = entry.unwrap().path();
        let Some(image) = unpack(&path, scratch.path()) else {
            continue;
        };
        let name = image.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(device) = volume_of(&image) {
            check(&name, &device);
            seen += 1;
        }
        std::fs::remove_file(image).ok();
    }
    assert!(seen >= 10, "only {seen} samples were NTFS volumes");
}

fn open(under: &Device) -> (Arc<Overlay>, Ntfs) {
    let overlay = Arc::new(Overlay::new(under.clone()));
    let ntfs = Ntfs::open(overlay.clone()).unwrap();
    (overlay, ntfs)
}

fn files_of(ntfs: &Ntfs) -> (Vec<FileEntry>, Listing) {
    let census = ntfs
        .census(&[NamePattern::prefix("")], &mut |_| {})
        .unwrap();
    assert_eq!(census.problems, Vec::<String>::new());
    let mut found: Vec<FileEntry> = census
        .found
        .into_iter()
        .filter(|f| MftReference(f.id.0).record() >= 24 && !f.is_directory)
        .collect();
    found.sort_by_key(|f| f.id);
    found.dedup_by_key(|f| f.id);
    (found, census.listing)
}

/// Removes and checks everything that the reading half can check. `false`: refused.
fn remove(name: &str, device: &Device, targets: &[&FileEntry], before: Listing) -> bool {
    let (overlay, ntfs) = open(device);
    let ids: Vec<FileId> = targets.iter().map(|f| f.id).collect();
    let shown = targets[0].path();
    let removal = match ntfs.remove(&ids) {
        Ok(removal) => removal,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Refused, "{name} {shown}: {error}");
            assert!(error.to_string().contains("file record"), "{error}");
            return false;
        }
    };
    let names: usize = targets.iter().map(|f| f.names.len()).sum();
    assert!(removal.index_entries >= names as u64, "{name} {shown}");
    assert!(removal.records >= ids.len() as u64, "{name} {shown}");
    let touched = overlay.touched().unwrap();
    assert_eq!(
        ntfs.check_touched(&touched).unwrap(),
        Vec::<String>::new(),
        "{name} {shown}"
    );
    // Opened anew: nothing that was kept in memory may hide what the disk says.
    let ntfs = Ntfs::open(overlay.clone()).unwrap();
    let (left, after) = files_of(&ntfs);
    let mut want = before;
    for target in targets {
        want.subtract(&target.listing);
        assert!(!left.iter().any(|f| f.id == target.id), "{name} {shown}");
        assert!(ntfs.entry(target.id).is_err(), "{name} {shown}");
    }
    assert_eq!(after, want, "{name} {shown}");
    let again = ntfs.remove(&ids[..1]).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused, "{name} {shown}: {again}");
    true
}

#[test]
fn real_volumes_are_edited_soundly() {
    each_sample(|name, device| {
        remove_alone(name, device);
        remove_together(name, device);
        overwrite(name, device);
        wipe(name, device);
    });
}

/// Every file can be removed alone.
fn remove_alone(name: &str, device: &Device) {
    let (_, ntfs) = open(device);
    let (files, before) = files_of(&ntfs);
    let step = (files.len() / 60).max(1);
    let mut removed = 0;
    let mut refused = Vec::new();
    for file in files.iter().step_by(step) {
        if remove(name, device, &[file], before) {
            removed += 1;
        } else {
            refused.push(file.path());
        }
    }
    println!("{name}: {removed} removed alone, refused: {refused:?}");
    // What is refused is the file system's own, and all of that is.
    for path in refused {
        assert!(path.starts_with("\\$Extend\\"), "{name}: {path}");
    }
}

/// All files can be removed together.
fn remove_together(name: &str, device: &Device) {
    let (_, ntfs) = open(device);
    let (files, before) = files_of(&ntfs);
    let users: Vec<&FileEntry> = files
        .iter()
        .filter(|f| !f.path().starts_with("\\$"))
        .collect();
    if !users.is_empty() {
        assert!(remove(name, device, &users, before), "{name}");
    }
    println!("{name}: {} removed together", users.len());
}

/// Overwriting changes the bytes and nothing else.
fn overwrite(name: &str, device: &Device) {
    let (_, ntfs) = open(device);
    let (files, before) = files_of(&ntfs);
    for file in files.iter().filter(|f| f.len > 0).take(40) {
        let (overlay, ntfs) = open(device);
        let new: Vec<u8> = (0..file.len.min(5000)).map(|i| (i % 253) as u8).collect();
        let at = FileOffset(file.len - new.len() as u64);
        let result = ntfs.overwrite(file.id, at, &new);
        if !matches!(file.storage, Storage::Resident | Storage::Plain) {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Refused);
            continue;
        }
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
            println!("{name}: {error}");
            continue;
        }
        let mut now = vec![0; new.len()];
        ntfs.read_at(file.id, at, &mut now).unwrap();
        assert_eq!(now, new, "{name} {}", file.path());
        let touched = overlay.touched().unwrap();
        assert_eq!(
            ntfs.check_touched(&touched).unwrap(),
            Vec::<String>::new(),
            "{name} {}",
            file.path()
        );
        assert_eq!(files_of(&ntfs).1, before, "{name} {}", file.path());
        let past = ntfs.overwrite(file.id, FileOffset(file.len), b"x");
        assert_eq!(past.unwrap_err().kind(), ErrorKind::Refused);
    }
}

/// Wiping anywhere harms no file.
fn wipe(name: &str, device: &Device) {
    let (_, ntfs) = open(device);
    let (files, before) = files_of(&ntfs);
    let contents = |ntfs: &Ntfs| -> Vec<Vec<u8>> {
        let readable = files
            .iter()
            .filter(|f| matches!(f.storage, Storage::Resident | Storage::Plain));
        readable
            .map(|f| {
                let mut bytes = vec![0; f.len.min(1 << 20) as usize];
                ntfs.read_at(f.id, FileOffset(0), &mut bytes).unwrap();
                bytes
            })
            .collect()
    };
    let old = contents(&ntfs);
    let (overlay, ntfs) = open(device);
    // Every 509 bytes of the first 3 MB, 8 bytes long: records, indexes, free clusters, files.
    let hits: Vec<_> = (0..device.len().min(3 << 20) - 16)
        .step_by(509)
        .map(|at| at..at + 8)
        .collect();
    let answers = ntfs.wipe_residue(&hits).unwrap();
    let wiped = answers
        .iter()
        .filter(|a| matches!(a, Disposition::Wiped(_)))
        .count();
    println!("{name}: {wiped} of {} hits wiped", hits.len());
    let touched = overlay.touched().unwrap();
    assert_eq!(
        ntfs.check_touched(&touched).unwrap(),
        Vec::<String>::new(),
        "{name}"
    );
    let ntfs = Ntfs::open(overlay.clone()).unwrap();
    assert_eq!(files_of(&ntfs).1, before, "{name}");
    assert!(contents(&ntfs) == old, "{name}: contents changed");
}
