//! What a message advises follows the cause, and works: the command that is told is run here wherever
//! the host has the program, and what comes of it is looked at again.

use std::{fs, path::Path, process::Command};

use crate::{
    containers::{fixture, machine_disk},
    run::{Ran, arg, declone, scratch},
    support::{vhd_builder as vhd, vmdk_builder as vmdk},
};

/// The command in what a message advises: behind `start`, up to the next comma, semicolon or line.
#[track_caller]
fn told(ran: &Ran, start: &str) -> String {
    let at = ran
        .out
        .find(start)
        .unwrap_or_else(|| panic!("{start}: {}", ran.out));
    let rest = &ran.out[at..];
    let end = rest.find([',', ';', '\n']).unwrap_or(rest.len());
    rest[..end].to_owned()
}

/// Runs a command as the user would, in the directory of the image.
#[track_caller]
fn shell(dir: &Path, command: &str) {
    let ran = Command::new("sh")
        .args(["-c", command])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{command}: {ran:?}");
}

/// A tar archive with one member.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut file = header.to_vec();
    file.extend(content);
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

#[test]
fn wrappers_are_named_with_what_opens_them() {
    let rows: &[(&str, &[u8], &str, &str)] = &[
        (
            "a.ntfsclone",
            b"\0ntfsclone-image",
            "ntfsclone image",
            "ntfsclone --restore-image -O volume.raw",
        ),
        (
            "a.pc",
            b"partclone-image0002",
            "partclone image",
            "partclone.restore -C --restore_raw_file",
        ),
        (
            "a.pi",
            b"PaRtImAgE-VoLuMe",
            "Partition Image",
            "the program that made it",
        ),
        ("a.lz4", &[4, 0x22, 0x4D, 0x18], "an lz4 file", "lz4 -dc"),
        ("b.lz4", &[2, 0x21, 0x4C, 0x18], "an lz4 file", "lz4 -dc"),
        ("a.lzo", b"\x89LZO\0\r\n\x1A\n", "an lzop file", "lzop -dc"),
        ("a.gz", &[0x1F, 0x8B, 8], "a gzip file", "gzip -dc"),
        (
            "a.xz",
            &[0xFD, b'7', b'z', b'X', b'Z', 0],
            "an xz file",
            "xz -dc",
        ),
        (
            "a.zst",
            &[0x28, 0xB5, 0x2F, 0xFD],
            "a Zstandard file",
            "zstd -dc",
        ),
        ("a.bz2", b"BZh91AY&SY", "a bzip2 file", "bzip2 -dc"),
        ("a.zip", b"PK\x03\x04", "a zip archive", "unzip"),
        (
            "a.7z",
            &[b'7', b'z', 0xBC, 0xAF, 0x27, 0x1C],
            "a 7z archive",
            "7z x",
        ),
        ("a.cab", b"MSCF", "a cabinet", "cabextract"),
        ("a.rar", b"Rar!\x1A\x07\x01\0", "a RAR archive", "unpack"),
        (
            "c.gho",
            &[0xFE, 0xEF, 1, 2],
            "Norton Ghost",
            "the program that made it",
        ),
        (
            "a.tib",
            &[0xB4, 0x6E, 0x68, 0x44],
            "Acronis",
            "the program that made it",
        ),
        (
            "b.tib",
            &[0xCE, 0x24, 0xB9, 0xA2, 0x20],
            "Acronis",
            "the program that made it",
        ),
        // Nothing in it is known: its name is.
        (
            "a.tibx",
            b"ARCH unknown",
            "Acronis archive (TIBX)",
            "the program that made it",
        ),
        (
            "a.mrimg",
            b"\x01unknown",
            "Macrium",
            "the program that made it",
        ),
        ("a.vma", b"VMA\0\0\0\0\x01", "Proxmox", "vma extract"),
        (
            "a-sesparse.vmdk",
            &[0xBE, 0xBA, 0xFE, 0xCA],
            "SESPARSE",
            "qemu-img convert -f vmdk",
        ),
        (
            "a.luks",
            b"LUKS\xBA\xBE\0\x01",
            "LUKS",
            "--image-opts driver=luks",
        ),
        (
            "a.bin",
            b"\x01\x02unknown",
            "begins with 01 02",
            "the program that made it",
        ),
        ("a.img", b"", "bytes are zeros", "empty"),
    ];
    for (name, magic, title, advice) in rows {
        let dir = scratch();
        let image = dir.path().join(name);
        let mut bytes = vec![0; 65_536];
        bytes[..magic.len()].copy_from_slice(magic);
        fs::write(&image, &bytes).unwrap();
        let out = dir.path().join("out");
        for args in [
            &["scan", arg(&image)][..],
            &["clean", arg(&image), "-o", arg(&out)],
            &["verify", arg(&image)],
        ] {
            let ran = declone(args).exits(4);
            let said = format!("{}{}", ran.out, ran.err);
            assert!(
                said.contains(title) && said.contains(advice),
                "{name}: {said}"
            );
            // What shows no disk is not called one, and not called damaged.
            for blame in ["--format raw", "has to be repaired", "damaged"] {
                assert!(!said.contains(blame), "{name}: {blame}: {said}");
            }
        }
        assert!(!out.exists());
    }
}

#[test]
fn what_is_packed_is_unpacked_by_the_command_that_is_told() {
    let raw = machine_disk();
    for (name, pack, start) in [
        ("a.img.gz", "gzip -k a.img", "gzip -dc"),
        ("a.img.xz", "xz -0 -k a.img", "xz -dc"),
        ("a.img.bz2", "bzip2 -k a.img", "bzip2 -dc"),
        ("a.img.zst", "zstd -q a.img", "zstd -dc"),
        ("a.img.lz4", "lz4 -q a.img a.img.lz4", "lz4 -dc"),
        ("a.img.lzo", "lzop -o a.img.lzo a.img", "lzop -dc"),
    ] {
        let program = pack.split(' ').next().unwrap();
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("{program}: NOT RUN, it is not installed");
            continue;
        }
        let dir = scratch();
        fs::write(dir.path().join("a.img"), &raw).unwrap();
        shell(dir.path(), pack);
        let ran = declone(&["scan", arg(&dir.path().join(name))]).exits(4);
        shell(dir.path(), &told(&ran, start).replace("IMAGE", name));
        assert!(
            fs::read(dir.path().join("disk.img")).unwrap() == raw,
            "{name}"
        );
    }
}

#[test]
fn an_ova_is_unpacked_and_its_disk_found() {
    let raw = machine_disk();
    let disk = vmdk::sparse(&raw, vmdk::Shape::default());
    for (first, title) in [
        ("x.ovf", "an OVA"),
        ("a.txt", "a tar archive"),
        ("ova.xml", "an XVA"),
    ] {
        let dir = scratch();
        let image = dir.path().join("b.ova");
        let mut file = tar(first, b"<Envelope/>");
        file.extend(tar("x-disk1.vmdk", &disk));
        file.resize(file.len() + 1024, 0);
        fs::write(&image, &file).unwrap();
        let ran = declone(&["scan", arg(&image)]).exits(4);
        assert!(ran.out.contains(title), "{}", ran.out);
        if first == "ova.xml" {
            continue;
        }
        shell(dir.path(), &told(&ran, "tar -xf").replace("IMAGE", "b.ova"));
        declone(&["scan", arg(&dir.path().join("x-disk1.vmdk"))]).exits(1);
    }
}

#[test]
fn a_disk_whose_boot_code_looks_like_a_tar_is_a_disk() {
    let mut raw = fixture("two-installations.img");
    raw[257..262].copy_from_slice(b"ustar");
    let dir = scratch();
    let image = dir.path().join("a.img");
    fs::write(&image, &raw).unwrap();
    declone(&["scan", arg(&image)]).exits(1);
}

#[test]
fn parts_of_a_split_file_are_named_and_put_together() {
    let raw = machine_disk();
    let disk = vmdk::sparse(&raw, vmdk::Shape::default());
    // OVF's chunks of a VMDK: the first is a VMDK that ends too early, the others are nothing.
    let dir = scratch();
    let half = disk.len() / 2;
    let part = |number: u32| dir.path().join(format!("x.vmdk.{number:09}"));
    fs::write(part(0), &disk[..half]).unwrap();
    fs::write(part(1), &disk[half..]).unwrap();
    for number in [0, 1] {
        let ran = declone(&["scan", arg(&part(number))]);
        assert!(ran.code != 0, "{}", ran.out);
        let other = format!("x.vmdk.{:09} lies beside it", 1 - number);
        assert!(ran.out.contains(&other), "{number}: {}", ran.out);
        shell(dir.path(), &told(&ran, "cat "));
        assert!(fs::read(dir.path().join("x.vmdk")).unwrap() == disk);
        fs::remove_file(dir.path().join("x.vmdk")).unwrap();
    }
}

/// Follows what the refusal of a clean advises, and finds nothing left in what comes of it.
#[track_caller]
fn cleaned_as_told(image: &Path) {
    let dir = image.parent().unwrap();
    let out = dir.join("out");
    let ran = declone(&["clean", arg(image), "-o", arg(&out)]).exits(3);
    assert!(!ran.out.contains("qemu-img"), "{}", ran.out);
    assert!(
        ran.out.contains("declone clean IMAGE -o OUT --to raw"),
        "{}",
        ran.out
    );
    let raw = dir.join("raw.img");
    declone(&["clean", arg(image), "-o", arg(&raw), "--to", "raw"]).exits(0);
    declone(&["verify", arg(&raw)]).exits(0);
    assert!(fs::metadata(&raw).unwrap().len() == machine_disk().len() as u64);
}

#[test]
fn a_differencing_disk_without_blocks_is_cleaned_into_a_raw_file() {
    let raw = machine_disk();
    let zeros = vec![0; raw.len()];
    let dir = scratch();
    let image = dir.path().join("child.vhd");
    let child = vhd::differencing(&zeros, &zeros, "Parent.vhd", vhd::Shape::default());
    fs::write(&image, child).unwrap();
    let parent = vhd::dynamic(&raw, vhd::Shape::default());
    fs::write(dir.path().join("Parent.vhd"), parent).unwrap();
    cleaned_as_told(&image);
}

#[test]
fn a_disk_whose_changes_are_tracked_is_cleaned_into_a_raw_file() {
    let raw = machine_disk();
    let dir = scratch();
    let line = format!("RW {} VMFS \"esx-flat.vmdk\"", raw.len() / 512);
    let text = vmdk::descriptor("vmfs", &[line]);
    let text = format!("{text}changeTrackPath=\"esx-ctk.vmdk\"\n");
    let image = dir.path().join("esx.vmdk");
    fs::write(&image, text).unwrap();
    fs::write(dir.path().join("esx-flat.vmdk"), &raw).unwrap();
    cleaned_as_told(&image);
}

#[test]
fn a_volume_cut_to_whole_clusters_is_made_longer() {
    let raw = machine_disk();
    let sectors = u64::from_le_bytes(raw[0x28..0x30].try_into().unwrap());
    let len = sectors * 512;
    let cut = len / 4096 * 4096;
    assert!(cut < len, "{len}");
    let dir = scratch();
    let (image, out) = (dir.path().join("a.ntfs"), dir.path().join("out"));
    fs::write(&image, &raw[..usize::try_from(cut).unwrap()]).unwrap();
    let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(3);
    let advice = told(&ran, "truncate -s");
    assert!(
        advice.starts_with(&format!("truncate -s +{} FILE", len - cut)),
        "{advice}"
    );
    shell(dir.path(), &format!("truncate -s +{} a.ntfs", len - cut));
    declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    // One cluster less: something may be missing.
    fs::write(&image, &raw[..usize::try_from(cut - 4096).unwrap()]).unwrap();
    let again = dir.path().join("again");
    let ran = declone(&["clean", arg(&image), "-o", arg(&again)]).exits(3);
    assert!(!ran.out.contains("truncate -s"), "{}", ran.out);
}
