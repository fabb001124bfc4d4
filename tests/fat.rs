//! Windows on FAT12, FAT16 and FAT32: scan, clean, refuse; alone and beside NTFS.

use std::{fs, path::Path, process::Output};

use declone::{
    device::{Device, Memory},
    tree::FileTree,
    volume::fat::Fat,
};

use crate::{
    clusters::{
        Flips, all_files, cleaned_to_the_byte, no_identity, not_listed, only_targets_went, output,
        read, refused, same, same_in_place, sample, succeeds, tree, wanted, wide, without,
    },
    machine::{self, GUID},
    oracle,
    run::{arg, declone, scratch},
    support::{
        disk_builder::DiskBuilder,
        fat_builder::{BuiltFat, FatBuilder, Width},
        ntfs_builder::Geometry,
        put,
    },
};

const HIVES: [&str; 2] = [
    r"\WINNT\system32\config\SOFTWARE",
    r"\WINNT\repair\software",
];
const TARGETS: [&str; 5] = [
    r"\WINNT\Smscfg.ini",
    r"\WINNT\SMS1X.INI",
    r"\WINNT\MS\SMS\CORE\DATA\Smsuid.dat",
    r"\Documents and Settings\All Users\SMSUID.DAT",
    r"\RECYCLER\smscfg.INI",
];
/// Entries that were deleted before the capture; their names are left.
const DELETED: [&str; 2] = [r"\TEMP\Smscfg.ini", r"\TEMP\SMSUID.DAT"];

/// A small Windows NT with the whole identity.
fn windows(width: Width, len: usize, cluster: usize) -> FatBuilder {
    let mut v = FatBuilder::new(width, len, cluster);
    v.file(HIVES[0], machine::hive(3).build()).fragmented();
    v.file(HIVES[1], machine::hive(3).build());
    v.file(TARGETS[0], machine::ini());
    v.file(TARGETS[1], "[SMS]\r\nUniqueID=ABC0000F\r\n");
    v.file(TARGETS[2], vec![0x5A; 9000]).fragmented();
    v.file(TARGETS[3], vec![0x5B; 200]);
    v.file(TARGETS[4], machine::ini());
    for (i, decoy) in ["Smscfg.ini.bak", "Xsmscfg.ini", "SMS1X.IN"]
        .iter()
        .enumerate()
    {
        v.file(&format!(r"\WINNT\{decoy}"), vec![i as u8 + 1; 900]);
    }
    for i in 0..60_usize {
        let name = format!(r"\WINNT\system32\library number {i:02} with a long name.dll");
        v.file(&name, vec![i as u8 + 9; 100 + i * 37]);
    }
    v.file(r"\WINNT\slack.txt", "short").tail(&wide(GUID));
    v.file(r"\TEMP\kept.tmp", "kept");
    v.file(DELETED[0], machine::ini()).deleted();
    v.file(DELETED[1], vec![0x5C; 10]).deleted();
    v.file(r"\TEMP\last.tmp", "kept too");
    v.plant(machine::ini().as_bytes());
    v.plant_slots("Smsuid.dat").plant_slots("SMS1X.INI");
    v
}

fn shapes() -> Vec<(&'static str, FatBuilder)> {
    vec![
        ("fat12", windows(Width::Fat12, 3 << 20, 1024)),
        ("fat16", windows(Width::Fat16, 6 << 20, 1024)),
        ("fat16-512", windows(Width::Fat16, 6 << 20, 512)),
        ("fat32", windows(Width::Fat32, 6 << 20, 512)),
        ("fat32-4096", windows(Width::Fat32, 12 << 20, 4096)),
    ]
}

/// What the volume must be after a clean, apart from the bytes of the hives.
fn expected(built: &BuiltFat) -> Vec<u8> {
    let mut want = built.bytes.clone();
    let mut freed = 0;
    for path in TARGETS.iter().chain(&DELETED) {
        let placed = &built.files[*path];
        for slot in &placed.slots {
            want[*slot..slot + 32].fill(0);
            want[*slot] = 0xE5;
        }
        for cluster in &placed.clusters {
            let at = built.at(*cluster);
            // What a file deleted long ago left is stale only where it holds the identity.
            if !DELETED.contains(path) || path.ends_with("Smscfg.ini") {
                want[at..at + built.cluster].fill(0);
            }
            if !DELETED.contains(path) {
                built.set_link(&mut want, *cluster, 0);
                freed += 1;
            }
        }
    }
    for plant in &built.plants {
        let at = built.at(*plant);
        want[at..at + built.cluster].fill(0);
    }
    let slack = &built.files[r"\WINNT\slack.txt"];
    let at = built.at(slack.clusters[0]);
    want[at + slack.len..at + built.cluster].fill(0);
    if let Some(fsinfo) = built.fsinfo {
        let free = u32::from_le_bytes(want[fsinfo + 488..fsinfo + 492].try_into().unwrap());
        put::u32(&mut want, fsinfo + 488, free + freed);
    }
    want
}

#[test]
fn windows_on_fat_is_cleaned_to_the_byte() {
    for (name, volume) in shapes() {
        let built = volume.build();
        cleaned_to_the_byte(name, &built, &HIVES, &expected(&built), &|_| {});
    }
}

#[test]
fn names_of_deleted_entries_go_without_a_search_of_the_whole_image() {
    let built = windows(Width::Fat16, 6 << 20, 1024).build();
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fs::write(&image, &built.bytes).unwrap();
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    let new = fs::read(&out).unwrap();
    for path in DELETED {
        for slot in &built.files[path].slots {
            assert_eq!(new[*slot], 0xE5, "{path}");
            assert!(
                new[*slot + 1..*slot + 32].iter().all(|byte| *byte == 0),
                "{path}"
            );
        }
    }
}

/// Each of these keeps a volume from being written; a scan finds the same as before.
#[test]
fn what_scandisk_would_repair_is_refused_and_scanned() {
    type Damage = fn(&BuiltFat, &mut [u8]);
    let cases: [(&str, Width, Damage, &str); 10] = [
        (
            "dirty 16",
            Width::Fat16,
            |b, v| {
                let value = b.link(1) & !0x8000;
                b.set_link(v, 1, value);
            },
            "dismounted",
        ),
        (
            "errors 32",
            Width::Fat32,
            |b, v| {
                let value = b.link(1) & !0x0400_0000;
                b.set_link(v, 1, value);
            },
            "dismounted",
        ),
        ("flag 12", Width::Fat12, |_, v| v[0x25] = 1, "flags"),
        ("flag 32", Width::Fat32, |_, v| v[0x41] = 2, "flags"),
        (
            "copies",
            Width::Fat16,
            |b, v| v[b.fat_at + b.fat_len + 900] ^= 1,
            "equal copies",
        ),
        (
            "cross-linked",
            Width::Fat16,
            |b, v| {
                let other = b.files[HIVES[0]].clusters[1];
                let clusters = &b.files[r"\WINNT\Smscfg.ini.bak"].clusters;
                b.set_link(v, *clusters.last().unwrap(), other);
            },
            r"\WINNT\system32\config\SOFTWARE and \WINNT\Smscfg.ini.bak: chain: a cluster of its own",
        ),
        (
            "cross-linked 32",
            Width::Fat32,
            |b, v| {
                let other = b.files[HIVES[0]].clusters[1];
                let clusters = &b.files[r"\WINNT\Smscfg.ini.bak"].clusters;
                b.set_link(v, *clusters.last().unwrap(), other);
            },
            r"\WINNT\system32\config\SOFTWARE and \WINNT\Smscfg.ini.bak: chain: a cluster of its own",
        ),
        (
            "outside",
            Width::Fat16,
            |b, v| {
                let clusters = &b.files[r"\WINNT\Smscfg.ini.bak"].clusters;
                b.set_link(v, *clusters.last().unwrap(), 0xFFE0);
            },
            "which no cluster is",
        ),
        (
            "fsinfo",
            Width::Fat32,
            |_, v| put::u32(v, 512 + 488, 0x7FFF_FFFF),
            "FSInfo",
        ),
        (
            "loop",
            Width::Fat12,
            |b, v| {
                let clusters = &b.files[r"\WINNT\Smscfg.ini.bak"].clusters;
                b.set_link(v, *clusters.last().unwrap(), clusters[0]);
            },
            "in a chain already",
        ),
    ];
    for (name, width, damage, text) in cases {
        let len = if width == Width::Fat12 {
            3 << 20
        } else {
            6 << 20
        };
        let built = windows(width, len, 1024).build();
        let mut bytes = built.bytes.clone();
        damage(&built, &mut bytes);
        assert_ne!(bytes, built.bytes, "{name}");
        refused(name, &bytes, 9, text);
    }
}

#[test]
fn a_hibernated_windows_on_fat_is_refused() {
    let mut volume = windows(Width::Fat16, 6 << 20, 1024);
    volume.file(r"\hiberfil.sys", [b"hibr".as_slice(), &[1; 5000]].concat());
    let dir = scratch();
    let image = dir.path().join("in.img");
    fs::write(&image, &volume.build().bytes).unwrap();
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(
        format!("{}{}", ran.out, ran.err).contains("hibernated"),
        "{}",
        ran.err
    );
}

#[test]
fn ntfs_and_fat_on_one_disk_are_cleaned_in_one_run() {
    let fat = windows(Width::Fat16, 6 << 20, 1024).build();
    let mut esp = FatBuilder::new(Width::Fat32, 2 << 20, 512);
    esp.file(r"\EFI\Microsoft\Boot\bootmgfw.efi", vec![7; 5000]);
    let esp = esp.build();
    let disk = DiskBuilder::mbr(48 << 20)
        .raw(2048, 12288, 0x06, &fat.bytes)
        .partition(16384, machine::volume(24 << 20, Geometry::default(), 5))
        .raw(69632, 4096, 0xEF, &esp.bytes);
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fs::write(&image, disk.to_vec().0).unwrap();
    let args = [
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        "-",
    ];
    let json = declone(&args).exits(0).json();
    let not_scanned = json["images"][0]["not_scanned"].to_string();
    assert!(!not_scanned.contains("partition"), "{not_scanned}");
    let witnesses = json["images"][0]["done"]["witnesses"].to_string();
    assert!(
        witnesses.contains("ntfs agrees on partition 2"),
        "{witnesses}"
    );
    let bytes = fs::read(&out).unwrap();
    let volume = &bytes[2048 * 512..][..fat.bytes.len()];
    same(
        "fat",
        &without(&fat, &HIVES, volume),
        &without(&fat, &HIVES, &expected(&fat)),
    );
    for form in oracle::guid_forms(GUID) {
        assert_eq!(oracle::find_all(&bytes, &form), [0_usize; 0]);
    }
    assert_eq!(&bytes[69632 * 512..][..esp.bytes.len()], esp.bytes);
    declone(&["scan", arg(&out)]).exits(0);
}

/// A volume that must not be written is not written because of its neighbour, either.
#[test]
fn a_dirty_fat_volume_beside_ntfs_keeps_its_stale_bytes() {
    let mut fat = FatBuilder::new(Width::Fat16, 6 << 20, 1024);
    fat.file(r"\TEMP\kept.tmp", "kept")
        .plant(machine::ini().as_bytes());
    let clean = fat.build();
    for dirty in [false, true] {
        let mut bytes = clean.bytes.clone();
        if dirty {
            clean.set_link(&mut bytes, 1, 0x7FFF);
        }
        let disk = DiskBuilder::mbr(40 << 20)
            .raw(2048, 12288, 0x06, &bytes)
            .partition(16384, machine::volume(24 << 20, Geometry::default(), 5));
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        fs::write(&image, disk.to_vec().0).unwrap();
        let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]);
        let left = ran.out.contains("free cluster at volume offset");
        assert_eq!(left, dirty, "{}", ran.out);
        let new = fs::read(&out).unwrap();
        assert_eq!(
            new[2048 * 512..][..bytes.len()] == bytes,
            dirty,
            "{}",
            ran.out
        );
    }
}

#[test]
fn the_registry_of_windows_9x_is_named_and_its_files_go() {
    let mut volume = FatBuilder::new(Width::Fat16, 6 << 20, 1024);
    volume.file(
        r"\WINDOWS\SYSTEM.DAT",
        [b"CREG".as_slice(), &[0; 3000]].concat(),
    );
    volume.file(
        r"\WINDOWS\Profiles\me\USER.DAT",
        [b"CREG".as_slice(), &[0; 3000]].concat(),
    );
    volume.file(r"\WINDOWS\USER.DAT", "not a registry");
    volume.file(r"\WINDOWS\SMSCFG.INI", machine::ini());
    let built = volume.build();
    let dir = scratch();
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    fs::write(&image, &built.bytes).unwrap();
    let args = [
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        "-",
    ];
    let json = declone(&args).exits(1).json();
    let named: Vec<&str> = json["images"][0]["not_scanned"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| {
            one["reason"]
                .as_str()
                .unwrap()
                .contains("Windows 9x registry (CREG)")
        })
        .map(|one| one["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        named,
        [r"\WINDOWS\SYSTEM.DAT", r"\WINDOWS\Profiles\me\USER.DAT"]
    );
    no_identity("9x", &fs::read(&out).unwrap());
}

/// A byte of the boot sector, the FATs or the directories flipped in three ways: the volume does not
/// open, is refused, or the files go and everything else stays.
#[test]
fn every_byte_of_metadata_flipped_three_ways() {
    let mut volume = FatBuilder::new(Width::Fat12, 200 << 10, 512);
    volume
        .file(r"\WINNT\system32\config\SOFTWARE", vec![3; 2000])
        .fragmented();
    volume
        .file(r"\WINNT\Smscfg.ini", machine::ini())
        .fragmented();
    volume.file(r"\WINNT\a long name of a file.txt", vec![4; 700]);
    volume.file(r"\Smsuid.dat", vec![5; 3000]);
    volume.file(r"\TEMP\SMSUID.DAT", "x").deleted();
    let twelve = volume.build();
    let mut volume = FatBuilder::new(Width::Fat32, 200 << 10, 512);
    volume
        .file(r"\WINNT\Smscfg.ini", machine::ini())
        .fragmented();
    volume.file(r"\WINNT\a long name of a file.txt", vec![4; 700]);
    volume.file(r"\Smsuid.dat", vec![5; 3000]);
    let thirty_two = volume.build();
    let mut flips = Flips {
        open: Fat::open,
        ends: [0; 3],
    };
    for built in [twelve, thirty_two] {
        flips.all(&built.bytes, &metadata(&built), &|_, _| {});
    }
    assert!(flips.ends.iter().all(|n| *n > 40), "{:?}", flips.ends);
}

/// Positions of metadata that says something.
fn metadata(built: &BuiltFat) -> Vec<usize> {
    let mut places: Vec<usize> = (0..0x5A).collect();
    places.extend(
        built
            .fsinfo
            .into_iter()
            .flat_map(|at| (at..at + 4).chain(at + 484..at + 496)),
    );
    for copy in 0..2 {
        let at = built.fat_at + copy * built.fat_len;
        places.extend(at..at + 96);
    }
    for placed in built.files.values() {
        places.extend(placed.slots.iter().flat_map(|slot| *slot..slot + 32));
    }
    places
}

#[test]
fn the_sample_made_by_others_is_read() {
    let Some(bytes) = sample("the_sample_made_by_others_is_read", "fat.img.xz") else {
        return;
    };
    let device: Device = std::sync::Arc::new(Memory::new(bytes.clone()));
    let fat = Fat::open(device).unwrap();
    assert_eq!(fat.label(), "FAT12");
    assert!(fat.obstacles().unwrap().is_empty());
    let dir = scratch();
    let image = dir.path().join("fat.img");
    fs::write(&image, &bytes).unwrap();
    let files = all_files(&fat);
    assert!(!files.is_empty());
    for entry in files {
        let bytes = read(&fat, &entry);
        if !wanted("the_sample_made_by_others_is_read") {
            continue;
        }
        let path = entry.path().replace('\\', "/");
        let out = mtools(&image, "mtype", &[&format!("::{path}")]);
        assert_eq!(out.stdout, bytes, "{path}");
    }
}

/// The same volume with an identity put on it by mtools.
#[test]
fn the_sample_made_by_others_is_cleaned() {
    let test = "the_sample_made_by_others_is_cleaned";
    let Some(bytes) = sample(test, "fat.img.xz").filter(|_| wanted(test)) else {
        return;
    };
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (image, out, ini, was, is) = (
        path("in.img"),
        path("out.img"),
        path("Smscfg.ini"),
        path("was"),
        path("is"),
    );
    fs::write(&image, bytes).unwrap();
    fs::write(&ini, machine::ini()).unwrap();
    let before = {
        fs::create_dir(&was).unwrap();
        mtools(&image, "mcopy", &["-s", "::*", arg(&was)]);
        tree(&was)
    };
    for to in ["::subdir/Smscfg.ini", "::SMSUID.DAT", "::sms1x.ini"] {
        mtools(&image, "mcopy", &[arg(&ini), to]);
    }
    mtools(&image, "mdel", &["::sms1x.ini"]);
    fsck(&image);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    fsck(&out);
    fs::create_dir(&is).unwrap();
    mtools(&out, "mcopy", &["-s", "::*", arg(&is)]);
    assert_eq!(tree(&is), before);
    no_identity("sample", &fs::read(&out).unwrap());
    not_listed(&out, &["sms", "ms1x"]);
}

fn mtools(image: &Path, program: &str, args: &[&str]) -> Output {
    let mut all = vec!["-i", arg(image)];
    all.extend(args);
    let out = output(program, &all);
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

fn fsck(image: &Path) -> String {
    let text = succeeds("/usr/sbin/fsck.fat", &["-n", arg(image)]);
    // The own builder's FAT32 is smaller than the specification wants it; drivers do not mind.
    let small = [
        "Warning: Filesystem is FAT32 according to",
        "  but has only",
        "  This may lead to problems on some",
    ];
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("fsck.fat") && !line.contains(" clusters"))
        .filter(|line| !line.is_empty() && !small.iter().any(|start| line.starts_with(start)))
        .collect();
    assert!(complaints.is_empty(), "{text}");
    text
}

/// Volumes that `mkfs.fat` and mtools made; `fsck.fat`, mtools and the Sleuth Kit judge the result.
#[test]
fn volumes_of_mkfs_and_mtools_pass_their_own_checks() {
    if !wanted("volumes_of_mkfs_and_mtools_pass_their_own_checks") {
        return;
    }
    let shapes: [(&str, &[&str], u64); 8] = [
        ("12", &["-F", "12", "-s", "1"], 1440 << 10),
        ("12-4k", &["-F", "12", "-s", "8"], 8 << 20),
        ("16", &["-F", "16", "-s", "1"], 12 << 20),
        ("16-4k", &["-F", "16", "-s", "8"], 40 << 20),
        ("16-32k", &["-F", "16", "-s", "64"], 300 << 20),
        ("32", &["-F", "32", "-s", "1"], 40 << 20),
        ("32-4k", &["-F", "32", "-s", "8"], 300 << 20),
        ("32-4kn", &["-F", "32", "-S", "4096", "-s", "1"], 300 << 20),
    ];
    for (name, options, len) in shapes {
        let dir = scratch();
        let path = |end: &str| dir.path().join(format!("{name}.{end}"));
        let (image, out, own, was, is) = (
            path("img"),
            path("out"),
            path("own"),
            path("was"),
            path("is"),
        );
        fs::File::create(&image).unwrap().set_len(len).unwrap();
        let mut args = options.to_vec();
        args.extend(["-n", "MASTER", arg(&image)]);
        succeeds("/usr/sbin/mkfs.fat", &args);
        let source = path("source");
        let mut files: Vec<(String, Vec<u8>)> = vec![
            (
                "WINNT/system32/config/software".into(),
                machine::hive(3).build(),
            ),
            ("WINNT/Smscfg.ini".into(), machine::ini().into()),
            ("WINNT/system32/SMSUID.DAT".into(), vec![0x5A; 70_000]),
            (
                "Documents and Settings/All Users/sms1x.ini".into(),
                vec![0x41; 300],
            ),
        ];
        for i in 0..40_usize {
            let name = format!("WINNT/system32/library number {i:02} with a long name.dll");
            files.push((name, vec![i as u8 + 1; 100 + i * 333]));
        }
        for (file, bytes) in &files {
            let place = source.join(file);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, bytes).unwrap();
        }
        mtools(&image, "mcopy", &["-s", arg(&source.join("WINNT")), "::"]);
        // Holes in the free space, so that what follows is in pieces.
        for i in (0..40).step_by(2) {
            let name = format!("::WINNT/system32/library number {i:02} with a long name.dll");
            mtools(&image, "mdel", &[&name]);
        }
        mtools(
            &image,
            "mcopy",
            &["-s", arg(&source.join("Documents and Settings")), "::"],
        );
        let big = source.join("big.bin");
        fs::write(&big, vec![0x77; 200_000]).unwrap();
        mtools(&image, "mcopy", &[arg(&big), "::"]);
        // A target that was deleted before the capture.
        fs::write(source.join("Smsuid.dat"), machine::ini()).unwrap();
        mtools(
            &image,
            "mcopy",
            &[arg(&source.join("Smsuid.dat")), "::WINNT/Smsuid.dat"],
        );
        mtools(&image, "mdel", &["::WINNT/Smsuid.dat"]);
        fsck(&image);
        fs::create_dir(&was).unwrap();
        mtools(&image, "mcopy", &["-s", "::*", arg(&was)]);

        let args = ["clean", arg(&image), "-o", arg(&out), "--prove"];
        declone(&args).exits(0);
        fsck(&out);
        fs::create_dir(&is).unwrap();
        mtools(&out, "mcopy", &["-s", "::*", arg(&is)]);
        only_targets_went(name, tree(&was), &tree(&is), "WINNT");
        let bytes = fs::read(&out).unwrap();
        no_identity(name, &bytes);
        not_listed(
            &out,
            &["smscfg", "smsuid", "sms1x", "mscfg", "msuid", "ms1x"],
        );
        let deleted = succeeds("fls", &["-r", "-p", arg(&image)]).to_lowercase();
        assert!(deleted.contains("smsuid.dat"), "{name}: {deleted}");
        same_in_place(name, &image, &own, &out);
    }
}

/// The volumes of the own builder are volumes to others, too.
#[test]
fn built_volumes_pass_fsck_before_and_after() {
    if !wanted("built_volumes_pass_fsck_before_and_after") {
        return;
    }
    for (name, volume) in shapes() {
        let dir = scratch();
        let (image, out) = (dir.path().join(name), dir.path().join("out"));
        fs::write(&image, volume.build().bytes).unwrap();
        fsck(&image);
        declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
        fsck(&out);
    }
}
