//! Reading every NTFS sample: opening, census, entries, contents, owners, damage.
//! Needs `DECLONE_SAMPLES` (the directory that holds `ntfs/`); prints and returns without it.

#![allow(clippy::disallowed_methods)] // tests make their own files
#![allow(clippy::single_range_in_vec_init)] // ranges of bytes are meant

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use declone::{
    device::{Device, HostFile, Memory, Overlay, Slice},
    tree::{FileTree, NamePattern},
    units::{FileOffset, VolumeOffset},
    volume::{
        self, Kind,
        ntfs::{Ntfs, format::code},
    },
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
    for start in [0, 63 * 512, 65536, 1 << 20] {
        let Some(len) = disk.len().checked_sub(start) else {
            continue;
        };
        let slice: Device = Arc::new(Slice::new(disk.clone(), start, len).ok()?);
        if volume::probe(&slice).ok()?.kind == Kind::Ntfs {
            return Some(slice);
        }
    }
    None
}

/// Calls `check` for each NTFS volume; the two of 1 GiB only where `large` says so.
fn each_sample(large: bool, mut check: impl FnMut(&str, &Device)) {
    let Ok(samples) = std::env::var("DECLONE_SAMPLES") else {
        println!("DECLONE_SAMPLES is not set: nothing was tested");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(Path::new(&samples).join("ntfs")).unwrap() {
        let path = entry.unwrap().path();
        if !large && path.extension().is_some_and(|e| e == "gz") {
            continue;
        }
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
    assert!(seen >= 9, "only {seen} samples were NTFS volumes");
}

#[test]
fn every_sample_opens_and_every_file_reads() {
    each_sample(true, |name, device| {
        let ntfs = Ntfs::open(device.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut records = 0;
        let census = ntfs
            .census(&[NamePattern::prefix("")], &mut |chunk| {
                records += chunk.bytes.len() / chunk.record_len;
            })
            .unwrap();
        assert_eq!(records as u64, ntfs.record_count(), "{name}");
        assert_eq!(census.problems, Vec::<String>::new(), "{name}");
        let mut sum = declone::tree::Listing::default();
        for entry in &census.found {
            assert!(!entry.orphan, "{name}: {}", entry.path());
            assert!(!entry.path().contains('?'), "{name}: {}", entry.path());
            let parts: Vec<String> = entry.paths[0]
                .0
                .iter()
                .map(|part| String::from_utf16_lossy(part.units()))
                .collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            if entry.paths[0].0 != [declone::text::Name::new(".")] {
                let again = ntfs.lookup(&parts).unwrap().unwrap();
                assert_eq!(again.id, entry.id, "{name}: {}", entry.path());
            }
            let file = ntfs
                .file_at(declone::units::MftReference(entry.id.0))
                .unwrap();
            for (code, title) in file.stream_titles() {
                if code == code::DATA && file.reference.record() != 8 {
                    let stream = file.stream_named(code, &title).unwrap().unwrap();
                    let mut bytes = vec![0; stream.data_len.min(1 << 22) as usize];
                    ntfs.read_stream(&stream, FileOffset(0), &mut bytes)
                        .unwrap();
                }
            }
            sum.add(&entry.listing);
        }
        // Records without a name (12 to 15) are in the listing and cannot be found by name.
        assert!(census.listing.files - sum.files <= 4, "{name}");
        assert_eq!(census.listing.names, sum.names, "{name}");
    });
}

#[test]
fn every_byte_of_a_small_volume_has_an_owner() {
    each_sample(false, |name, device| {
        if device.len() > 8 << 20 {
            return;
        }
        let ntfs = Ntfs::open(device.clone()).unwrap();
        let offsets: Vec<VolumeOffset> = (0..device.len()).step_by(512).map(VolumeOffset).collect();
        let owners = ntfs.owners(&offsets, &[]).unwrap();
        for (offset, owner) in offsets.iter().zip(owners) {
            if let declone::tree::Owner::File { stream, .. } = owner {
                assert!(!stream.contains("no file owns"), "{name}: {offset}");
            }
        }
        // An untouched volume has no problems anywhere.
        assert_eq!(
            ntfs.check_touched(&[0..device.len()]).unwrap(),
            Vec::<String>::new(),
            "{name}"
        );
    });
}

#[test]
fn damage_never_panics_and_never_hangs() {
    let rounds: u64 = std::env::var("DECLONE_DAMAGE")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(6);
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    each_sample(false, |name, device| {
        if device.len() > 64 << 20 {
            return;
        }
        let Ok(ntfs) = Ntfs::open(device.clone()) else {
            panic!("{name}");
        };
        let mut targets = vec![0..512];
        targets.extend(ntfs.real_ranges(ntfs.mft()));
        let root = ntfs.file(5).unwrap();
        for (code, title) in root.stream_titles() {
            let stream = root.stream_named(code, &title).unwrap().unwrap();
            targets.extend(ntfs.real_ranges(&stream));
        }
        for round in 0..rounds {
            let overlay: Device = Arc::new(Overlay::new(device.clone()));
            for _ in 0..1 + round * 8 {
                let range = &targets[next() as usize % targets.len()];
                let at = range.start + next() % (range.end - range.start);
                overlay.write_at(at, &[next() as u8]).unwrap();
            }
            let start = std::time::Instant::now();
            let Ok(ntfs) = Ntfs::open(overlay) else {
                continue;
            };
            let census = ntfs
                .census(&[NamePattern::prefix("")], &mut |_| {})
                .unwrap();
            ntfs.obstacles().unwrap();
            let mut ids = Vec::new();
            for entry in &census.found {
                let mut bytes = vec![0; entry.len.min(1 << 16) as usize];
                ntfs.read_at(entry.id, FileOffset(0), &mut bytes).ok();
                ntfs.extents(entry.id).ok();
                ids.push(entry.id);
            }
            ntfs.trace_areas(&ids).ok();
            ntfs.cross_linked(&ids).ok();
            ntfs.check_touched(&[0..1 << 20]).ok();
            ntfs.owners(&[VolumeOffset(0), VolumeOffset(1 << 20)], &[])
                .ok();
            assert!(start.elapsed().as_secs() < 20, "{name}: round {round}");
        }
    });
}

#[test]
fn other_file_systems_are_told_apart() {
    let Ok(samples) = std::env::var("DECLONE_SAMPLES") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    for (file, kind) in [
        ("exfat.img.xz", Kind::Exfat),
        ("fat.img.xz", Kind::Fat),
        ("refs_boot.bin.xz", Kind::Refs),
    ] {
        let image = unpack(&Path::new(&samples).join("ntfs").join(file), scratch.path()).unwrap();
        let device: Device = Arc::new(Memory::new(std::fs::read(image).unwrap()));
        assert_eq!(volume::probe(&device).unwrap().kind, kind, "{file}");
    }
}

#[test]
fn a_second_reader_agrees_on_every_sample() {
    use declone::verify::ntfs_witness::{Kept, Verdict, witness};
    use sha2::Digest;
    each_sample(true, |name, device| {
        let ntfs = Ntfs::open(device.clone()).unwrap();
        let census = ntfs
            .census(&[NamePattern::prefix("")], &mut |_| {})
            .unwrap();
        let mut kept = Vec::new();
        for entry in &census.found {
            let is_plain = matches!(
                entry.storage,
                declone::tree::Storage::Resident | declone::tree::Storage::Plain
            );
            // The crate reads cluster 0 ($Boot) as a hole.
            let is_boot = entry.id.0 & 0xFFFF_FFFF_FFFF == 7;
            if !is_plain || is_boot || entry.len > 1 << 20 {
                continue;
            }
            let mut bytes = vec![0; entry.len as usize];
            ntfs.read_at(entry.id, FileOffset(0), &mut bytes).unwrap();
            kept.push(Kept {
                path: entry.paths[0].clone(),
                ranges: vec![0..entry.len / 2, entry.len / 2..entry.len],
                digest: sha2::Sha256::digest(&bytes).into(),
            });
        }
        let gone = declone::text::WinPath(vec![declone::text::Name::new("no such file")]);
        match witness(device, &[gone], &kept) {
            Verdict::Agrees(_) => {}
            Verdict::Abstains(why) => println!("{name}: {why}"),
            Verdict::Disagrees(why) => panic!("{name}: {why}"),
        }
        if let Some(first) = kept.iter().find(|kept| kept.ranges[1].end > 0) {
            let verdict = witness(device, std::slice::from_ref(&first.path), &[]);
            assert!(!matches!(verdict, Verdict::Agrees(_)), "{name}");
            let verdict = witness(
                device,
                &[],
                &[Kept {
                    digest: [0; 32],
                    ..first.clone()
                }],
            );
            assert!(!matches!(verdict, Verdict::Agrees(_)), "{name}");
        }
    });
}

/// The obstacles after some writes, the mirror's apart.
fn obstacles_after(device: &Device, writes: &[(u64, Vec<u8>)]) -> Vec<&'static str> {
    let overlay: Device = Arc::new(Overlay::new(device.clone()));
    for (at, bytes) in writes {
        overlay.write_at(*at, bytes).unwrap();
    }
    let ntfs = Ntfs::open(overlay).unwrap();
    let found = ntfs.obstacles().unwrap();
    found
        .iter()
        .map(|o| o.id)
        .filter(|id| *id != "mirror-mismatch")
        .collect()
}

#[test]
fn only_a_cleanly_dismounted_log_is_accepted() {
    each_sample(false, |name, device| {
        let ntfs = Ntfs::open(device.clone()).unwrap();
        let log = ntfs.file(2).unwrap().require(code::DATA, "").unwrap();
        let ranges = ntfs.real_ranges(&log);
        let at = ranges[0].start;
        let mut page = [0; 4];
        device.read_at(at, &mut page).unwrap();
        let no = Vec::<&'static str>::new();
        assert_eq!(obstacles_after(device, &[]), no, "{name}");
        let whole = |byte: u8| -> Vec<(u64, Vec<u8>)> {
            ranges
                .iter()
                .map(|r| (r.start, vec![byte; (r.end - r.start) as usize]))
                .collect()
        };
        assert_eq!(obstacles_after(device, &whole(0xFF)), no, "{name}");
        assert_eq!(
            obstacles_after(device, &whole(0)),
            ["log-not-clean"],
            "{name}"
        );
        let dirty = |writes: &[(u64, Vec<u8>)]| obstacles_after(device, writes);
        let mut late = whole(0xFF);
        late.push((at + 0x5000, b"RCRD".to_vec()));
        assert_eq!(dirty(&late), ["log-not-clean"], "{name}");
        // A clone of the metadata alone has zeros where nobody looked.
        let mut cloned = whole(0xFF);
        cloned.push((at + 0x5200, vec![0; 0x200]));
        assert_eq!(dirty(&cloned), no, "{name}");
        cloned.push((at + 0x4000, vec![0; 0x200]));
        assert_eq!(dirty(&cloned), ["log-not-clean"], "{name}");
        if &page != b"RSTR" {
            return;
        }
        let both = |inside: u64, bytes: &[u8]| {
            vec![
                (at + inside, bytes.to_vec()),
                (at + 4096 + inside, bytes.to_vec()),
            ]
        };
        assert_eq!(dirty(&both(0x3E, &[0])), ["log-not-clean"], "{name}");
        assert_eq!(dirty(&both(0x3C, &[0xFF, 0xFF, 0, 0])), no, "{name}");
        assert_eq!(dirty(&both(0, b"CHKD")), ["log-not-clean"], "{name}");
        assert_eq!(dirty(&both(0x1A, &[0, 0, 2, 0])), ["log-version"], "{name}");
        assert_eq!(dirty(&both(0x1A, &[0, 0, 3, 0])), ["log-version"], "{name}");
        assert_eq!(dirty(&both(0x1FE, &[0xAA])), ["log-not-clean"], "{name}");
        let newer_dirty = [(at + 4096 + 0x37, vec![1]), (at + 4096 + 0x3E, vec![0])];
        assert_eq!(dirty(&newer_dirty), ["log-not-clean"], "{name}");
    });
}

#[test]
fn volume_flags_that_ask_for_a_repair_are_obstacles() {
    each_sample(false, |name, device| {
        if device.len() > 64 << 20 {
            return;
        }
        let ntfs = Ntfs::open(device.clone()).unwrap();
        let volume = ntfs.file(3).unwrap();
        let attribute = volume.attribute(code::VOLUME_INFORMATION, "").unwrap();
        let declone::volume::ntfs::Body::Resident { value_offset, .. } = attribute.body else {
            panic!("{name}");
        };
        let at = ntfs
            .record_offset(3, value_offset as u64 + 10)
            .unwrap()
            .get();
        for bit in 0..16 {
            let flags = 1u16 << bit;
            let found = obstacles_after(device, &[(at, flags.to_le_bytes().to_vec())]);
            let expected: &[&str] = match flags {
                1 => &["dirty-flag"],
                2 | 4 | 0x10 | 0x20 | 0x4000 | 0x8000 => &["volume-flags"],
                _ => &[],
            };
            assert_eq!(found, expected, "{name}: {flags:#x}");
        }
        let flags = ntfs.volume_information().unwrap().1;
        let overlay: Device = Arc::new(Overlay::new(device.clone()));
        overlay.write_at(at, &(flags ^ 0x80).to_le_bytes()).unwrap();
        let changed = Ntfs::open(overlay).unwrap().obstacles().unwrap();
        assert!(changed.iter().any(|o| o.id == "mirror-mismatch"), "{name}");
        let short: Device =
            Arc::new(Slice::new(device.clone(), 0, ntfs.geometry().volume_len() - 512).unwrap());
        let found = Ntfs::open(short).unwrap().obstacles().unwrap();
        assert!(found.iter().any(|o| o.id == "volume-truncated"), "{name}");
    });
}

#[test]
fn a_hibernated_session_is_an_obstacle() {
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("volume");
    let content = scratch.path().join("content");
    for (bytes, hibernated) in [
        (&b"hibr"[..], true),
        (b"HIBR....", true),
        (b"RSTR", true),
        (b"link", true),
        (b"what", true),
        (b"wake", false),
        (b"\0\0\0\0", false),
        (b"", false),
    ] {
        std::fs::File::create(&image)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let made = Command::new("mkntfs")
            .args(["-F", "-Q", "-q"])
            .arg(&image)
            .output();
        if !made.is_ok_and(|output| output.status.success()) {
            println!("mkntfs is not installed: nothing was tested");
            return;
        }
        std::fs::write(&content, bytes).unwrap();
        let copied = Command::new("ntfscp")
            .arg(&image)
            .arg(&content)
            .arg("HiberFil.sys")
            .output();
        if !copied.is_ok_and(|output| output.status.success()) {
            println!("ntfscp is not installed: nothing was tested");
            return;
        }
        let device: Device = Arc::new(HostFile::open(&image).unwrap());
        let ids: Vec<_> = Ntfs::open(device)
            .unwrap()
            .obstacles()
            .unwrap()
            .iter()
            .map(|o| o.id)
            .collect();
        assert_eq!(ids == ["hibernated"], hibernated, "{bytes:?}: {ids:?}");
        assert_eq!(ids.is_empty(), !hibernated, "{bytes:?}: {ids:?}");
    }
}

#[test]
fn injected_faults_are_problems() {
    each_sample(false, |name, device| {
        let ntfs = Ntfs::open(device.clone()).unwrap();
        let census = ntfs
            .census(&[NamePattern::prefix("")], &mut |_| {})
            .unwrap();
        let is_user = |id: u64| id & 0xFFFF_FFFF_FFFF >= 24;
        let Some(target) = census
            .found
            .iter()
            .find(|e| is_user(e.id.0) && !e.is_directory)
        else {
            return;
        };
        let number = target.id.0 & 0xFFFF_FFFF_FFFF;
        let in_record = |inside: u64| ntfs.record_offset(number, inside).unwrap().get();
        let start_of = |record: u64, code: u32| {
            let stream = ntfs.file(record).unwrap().require(code, "").unwrap();
            match ntfs.real_ranges(&stream).first() {
                Some(range) => range.start,
                None => panic!("{name}: resident"),
            }
        };
        let faults = [
            ("link count", in_record(0x12), 1u8),
            ("sequence", in_record(0x10), 1),
            ("in use", in_record(0x16), 1),
            ("directory", in_record(0x16), 2),
            ("bytes in use", in_record(0x18), 8),
            ("update sequence", in_record(510), 1),
            ("a used cluster free", start_of(6, code::DATA), 1),
            ("a record in use free", start_of(0, code::BITMAP), 1),
            (
                "a free record in use",
                start_of(0, code::BITMAP) + ntfs.record_count() / 8,
                0x80,
            ),
            ("mirror", ntfs.record_offset(1, 8).unwrap().get(), 1),
        ];
        for (what, at, mask) in faults {
            let overlay = Arc::new(Overlay::new(device.clone()));
            let mut byte = [0];
            device.read_at(at, &mut byte).unwrap();
            declone::device::BlockDevice::write_at(&*overlay, at, &[byte[0] ^ mask]).unwrap();
            let changed = Ntfs::open(overlay.clone()).unwrap();
            let problems = changed.check_touched(&overlay.touched().unwrap());
            let seen = problems.map_or(1, |problems| problems.len());
            // A bit behind the last record belongs to nobody where the count fills its byte.
            assert!(
                seen != 0 || what == "a free record in use",
                "{name}: {what}"
            );
        }
    });
}
