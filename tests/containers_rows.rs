//! `shared/facts/containers.md` section 8, rows 27-34, and `robustness.md` rows C1-C18: where each is.
//!
//! Rows 1-26 and W1-W11 are in [`crate::wim_rows`]; row 35 is `tools/bench wim`.
//!
//! | row | test |
//! |---|---|
//! | 27 | `containers::fixed_vhds_are_cleaned_like_the_raw_disk_inside`, `containers::dynamic_vhds_are_cleaned_like_the_raw_disk_inside`, `containers::a_footer_of_511_bytes_is_read_and_kept`, `containers::damaged_vhds_are_refused_and_stay_as_they_are` (end footer, checksum), here: `a_vhd_is_as_long_as_its_current_size_whatever_its_geometry`, `containers::samples_read_as_qemu_reads_them` |
//! | 28 | `containers::dynamic_vhds_are_cleaned_like_the_raw_disk_inside` (bytes under clear bits), `containers::an_identity_that_the_disk_does_not_show_is_wiped`, `containers::a_write_sets_the_bit_of_its_sector_and_needs_a_block` |
//! | 29 | `containers::a_child_is_read_over_its_parent_and_written_alone`, `containers::a_chain_that_does_not_hold_is_refused` (wrong, missing, cycle), `containers_vhdx::a_differencing_disk_is_cleaned_and_its_parent_stays`, `containers_vhdx::a_chain_is_followed_by_identity_and_only_beside_the_image` (wrong, missing, cycle), `containers_vdi_vmdk::a_chain_of_vdi_images_that_does_not_hold_is_refused` |
//! | 30 | `containers_vhdx_damage::a_log_is_replayed_in_memory`, `containers_vhdx_damage::a_disk_with_a_log_is_scanned_as_it_is_and_cleaned_settled`, `containers_vhdx_damage::logs_that_cannot_be_replayed_are_refused` (CRC, GUID), `containers_vhdx::one_header_or_two_alike_will_do`, `containers_vhdx::the_sample_with_a_log_reads_as_qemu_repairs_it` |
//! | 31 | `containers_vhdx::every_shape_and_state_reads_as_built` (4096; 1 and 256 MiB; states 1, 3, 5), `containers_vhdx_damage::damaged_files_are_refused_and_stay_as_they_are` (unknown region), `containers_vhdx::sectors_of_4096_bytes_and_parents_read_as_7zip_reads_them` |
//! | 32 | `containers_vhdx::vhdx_disks_are_cleaned_like_the_raw_disk_inside` (`check_headers`), `containers_vhdx::vhdx_files_read_as_qemu_and_7zip_read_them` (`qemu-img check`) |
//! | 33 | `containers_vdi_vmdk::vdi_and_vmdk_by_qemu_are_read_and_cleaned`, `sets::sets_by_qemu_are_cleaned_in_place` (flat, 2GbSparse, 2GbFlat), `containers_vdi_vmdk::streams_and_deltas_of_vmdk_are_read_only`, `containers_qcow2::qcow2_images_by_qemu_are_read_and_cleaned`, `containers_qcow2::compressed_backed_and_snapshotted_qcow2_by_qemu_are_read_only`, `containers_qcow2::states_in_which_a_write_is_unsafe_are_looked_at_only` (LUKS) |
//! | 34 | `clean::holes_mode_and_owner_are_kept`, here: `holes_of_a_container_stay_holes`, `a_copy_on_btrfs_shares_what_did_not_change`; `faults::a_full_disk_is_an_io_error_and_leaves_nothing`, `faults::a_directory_that_takes_no_files_is_an_io_error` |
//! | C1 | `container::tests::a_raw_disk_that_begins_like_another_format_needs_to_be_named`, here: `a_raw_disk_that_begins_like_a_container_is_cleaned_when_it_is_named` |
//! | C2 | `cli::things_that_are_no_image_are_named_and_never_block`, `locks::what_is_no_image_is_refused_for_every_use` (a directory) |
//! | C3 | `containers::damaged_vhds_are_refused_and_stay_as_they_are`, `containers_vdi_vmdk::damaged_vdi_images_are_refused_and_stay_as_they_are`, `containers_vdi_vmdk::damaged_vmdk_images_are_refused_and_stay_as_they_are`, here: `a_vhd_is_as_long_as_its_current_size_whatever_its_geometry` |
//! | C4 | `containers::damaged_vhds_are_refused_and_stay_as_they_are` |
//! | C5, C6 | the `damaged_` tests of `containers`, `containers_vhdx`, `containers_qcow2` and `containers_vdi_vmdk` |
//! | C7 | `containers::two_blocks_in_one_place_are_not_written`, `containers_vhdx_damage::damaged_files_are_refused_and_stay_as_they_are`, `containers_qcow2::two_clusters_in_one_place_are_not_written`, `containers_vdi_vmdk::damaged_vdi_images_are_refused_and_stay_as_they_are`, here: `two_grains_in_one_place_are_not_written` |
//! | C8 | `containers::damaged_vhds_are_refused_and_stay_as_they_are`, `containers::a_chain_that_does_not_hold_is_refused` (a loop) |
//! | C9 | `containers_outside::parents_outside_are_never_opened` |
//! | C10, C11 | `containers_vhdx_damage::damaged_files_are_refused_and_stay_as_they_are` |
//! | C12 | `containers_vhdx_damage::logs_that_cannot_be_replayed_are_refused`, `containers_vhdx_damage::a_log_is_replayed_in_memory` |
//! | C13 | `containers_outside::extents_outside_are_never_opened`, `containers_vdi_vmdk::extents_are_opened_beside_the_descriptor_only`, here: `descriptors_without_measure_are_refused_at_once` |
//! | C14 | `containers_outside::backing_and_data_files_outside_are_never_opened` |
//! | C15 | `containers_qcow2::states_in_which_a_write_is_unsafe_are_looked_at_only` |
//! | C16 | the same, `containers_qcow2::damaged_qcow2_images_are_refused_and_stay_as_they_are`, here: `refcount_blocks_that_lead_astray` |
//! | C17 | here: `a_container_cut_anywhere_is_whole_or_refused`; raw disks: `refuse::a_truncated_image_is_refused` |
//! | C18 | here: `vast_disks_with_little_in_them_are_looked_at_at_once`, `tools/bench containers` |

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::Arc,
};

use declone::{
    container,
    device::{Memory, Neighbours},
    error::Kind,
};

use crate::{
    containers::{fixture, machine_disk},
    containers_qcow2::refused,
    judges::{called, tool},
    run::{arg, declone, digest, scratch},
    support::{
        qcow2_builder as qcow2,
        tables::{be64, le32, put},
        vdi_builder as vdi, vhd_builder as vhd, vhdx_builder as vhdx, vmdk_builder as vmdk,
    },
};

const MIB: usize = 1 << 20;

#[test]
fn a_vhd_is_as_long_as_its_current_size_whatever_its_geometry() {
    let raw = fixture("tiny-superfloppy.img");
    for file in [vhd::fixed(&raw), vhd::dynamic(&raw, vhd::Shape::default())] {
        for geometry in [
            [0; 4],
            [0xFF; 4],
            [0, 0, 16, 63],
            [0, 1, 0, 0],
            [0, 1, 1, 1],
        ] {
            let mut file = file.clone();
            let end = file.len() - 512;
            let places = if file.len() == raw.len() + 512 {
                vec![end]
            } else {
                vec![0, end]
            };
            for at in places {
                put(&mut file, at + 56, &geometry);
                vhd::seal(&mut file[at..at + 512], 64);
            }
            let opened = container::open(
                Arc::new(Memory::new(file.clone())),
                None,
                &Neighbours::default(),
            )
            .unwrap();
            assert_eq!(opened.virtual_len, raw.len() as u64, "{geometry:?}");
            let mut bytes = vec![0; raw.len()];
            opened.disk.read_at(0, &mut bytes).unwrap();
            assert!(bytes == raw && opened.scan_only.is_none(), "{geometry:?}");
        }
    }
}

#[test]
fn a_raw_disk_that_begins_like_a_container_is_cleaned_when_it_is_named() {
    let raw = fixture("two-installations.img");
    for magic in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV\x01\0\0\0", b"conectix"] {
        let mut file = raw.clone();
        // The boot code, which is the guest's to write.
        put(&mut file, 0, magic);
        let dir = scratch();
        let (image, out) = (dir.path().join("a.img"), dir.path().join("b.img"));
        fs::write(&image, &file).unwrap();
        for args in [
            &["scan", arg(&image)][..],
            &["clean", arg(&image), "--in-place"],
            &["clean", arg(&image), "-o", arg(&out)],
        ] {
            let ran = declone(args).exits(4);
            assert!(ran.out.contains("--format raw"), "{}", ran.out);
        }
        let args = ["clean", arg(&image), "-o", arg(&out), "--prove"];
        let ran = declone(&[&args[..], &["--format", "raw"]].concat()).exits(0);
        assert!(ran.out.contains("the file looks like a"), "{}", ran.out);
        assert!(fs::read(&image).unwrap() == file);
        // The same as without the magic.
        let (plain, clean) = (dir.path().join("c.img"), dir.path().join("d.img"));
        fs::write(&plain, &raw).unwrap();
        declone(&["clean", arg(&plain), "-o", arg(&clean), "--prove"]).exits(0);
        let mut want = fs::read(&clean).unwrap();
        put(&mut want, 0, magic);
        assert!(fs::read(&out).unwrap() == want);
    }
}

#[test]
fn two_grains_in_one_place_are_not_written() {
    let raw = machine_disk();
    let mut file = vmdk::sparse(&raw, vmdk::Shape::default());
    // A grain of zeros in the place of the first one, in both tables.
    let tables = [48, 56].map(|field| le32(&file, le32(&file, field) * 512) * 512);
    let absent = (1..raw.len() >> 16)
        .find(|number| le32(&file, tables[0] + number * 4) == 0)
        .unwrap();
    for table in tables {
        let first = file[table..table + 4].to_vec();
        put(&mut file, table + absent * 4, &first);
    }
    refused("C7", &[("a.vmdk", &file)], 1, 3, "found two in one");
}

#[test]
fn descriptors_without_measure_are_refused_at_once() {
    let dir = scratch();
    let image = dir.path().join("a.vmdk");
    let scan = |code: i32, word: &str| {
        let ran = declone(&["scan", arg(&image)]).exits(code);
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
        assert!(ran.took.as_secs() < 5, "{word}: {:?}", ran.took);
    };
    let lines = vec!["RW 1 ZERO".to_owned(); 1_000_000];
    fs::write(&image, vmdk::descriptor("custom", &lines)).unwrap();
    scan(8, "VMDK descriptor");
    // Two gigabytes of nothing behind a good beginning.
    fs::write(&image, vmdk::descriptor("custom", &lines[..1])).unwrap();
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(2 << 30)
        .unwrap();
    scan(8, "VMDK descriptor");
    // One line that does not end.
    let mut text = b"# Disk DescriptorFile".to_vec();
    text.resize(MIB - 1, b'x');
    fs::write(&image, &text).unwrap();
    scan(4, "at least one extent");
    let mut text = vmdk::descriptor("custom", &[]).into_bytes();
    text.extend(b"RW 8 FLAT \"");
    text.resize(MIB - 1, b'x');
    fs::write(&image, &text).unwrap();
    let ran = declone(&["scan", arg(&image)]);
    assert!([3, 4].contains(&ran.code), "{}", ran.code);
    assert!(ran.took.as_secs() < 5, "{:?}", ran.took);
}

#[test]
fn refcount_blocks_that_lead_astray() {
    let good = qcow2::image(&fixture("tiny-superfloppy.img"), qcow2::Shape::default());
    let table = be64(&good, 48) as usize;
    let block = be64(&good, table);
    let with = |entry: u64| {
        let mut file = good.clone();
        put(&mut file, table, &entry.to_be_bytes());
        file
    };
    let case = |what: &str, entry: u64, scan, clean, word: &str| {
        refused(what, &[("a.qcow2", &with(entry))], scan, clean, word);
    };
    case(
        "none",
        0,
        1,
        3,
        "1 expected for a cluster of the disk, found 0",
    );
    case("unaligned", block + 512, 4, 4, "QCOW2 refcount block");
    case("behind", good.len() as u64, 4, 4, "QCOW2 refcount block");
    case("far", !0xFFFF, 4, 4, "QCOW2 refcount block");
    case("on the header", 1, 4, 4, "QCOW2 refcount block");
    case("on the L1 table", 1 << 16, 4, 4, "two that meet");
    case("on its own table", table as u64, 4, 4, "two that meet");
}

/// What is left of a file shows the whole disk, or it is refused; its owner never hears that it is
/// clean.
#[test]
fn a_container_cut_anywhere_is_whole_or_refused() {
    let raw = fixture("tiny-superfloppy.img");
    let shape = vhdx::Shape {
        block: MIB,
        ..vhdx::Shape::default()
    };
    let dir = scratch();
    for (name, file) in [
        ("fixed.vhd", vhd::fixed(&raw)),
        ("a.vhd", vhd::dynamic(&raw, vhd::Shape::default())),
        ("a.vhdx", vhdx::build(&raw, shape)),
        ("a.qcow2", qcow2::image(&raw, qcow2::Shape::default())),
        ("a.vdi", vdi::image(&raw, 64 << 10, false, false, false)),
        ("a.vmdk", vmdk::sparse(&raw, vmdk::Shape::default())),
    ] {
        for part in 0..64 {
            let cut = &file[..file.len() * part / 64];
            let host = Arc::new(Memory::new(cut.to_vec()));
            // A fixed VHD without its footer looks like a raw disk that was cut.
            let forced = (name == "fixed.vhd").then_some("vhd");
            let what = format!("{name}, {part}/64");
            let whole = match container::open(host, forced, &Neighbours::default()) {
                Ok(opened) => {
                    let mut bytes = vec![0; opened.virtual_len as usize];
                    let read = opened.disk.read_at(0, &mut bytes);
                    assert!(read.is_ok() && bytes == raw, "{what}: {read:?}");
                    opened.scan_only.is_none()
                }
                Err(error) => {
                    let known = [Kind::Malformed, Kind::Refused, Kind::Unsupported];
                    assert!(known.contains(&error.kind()), "{what}: {error}");
                    false
                }
            };
            if part % 8 != 5 {
                continue;
            }
            let (image, out) = (dir.path().join(name), dir.path().join("out"));
            fs::write(&image, cut).unwrap();
            let before = digest(&image);
            let scan = declone(&["scan", arg(&image)]).code;
            assert!([1, 3, 4].contains(&scan), "{what}: {scan}");
            for args in [
                &["clean", arg(&image), "-o", arg(&out)][..],
                &["clean", arg(&image), "--in-place"],
            ] {
                let ran = declone(args);
                match whole {
                    true => assert_eq!(ran.code, 0, "{what}: {}", ran.out),
                    false => assert!([3, 4].contains(&ran.code), "{what}: {}", ran.out),
                }
            }
            assert_eq!(out.exists(), whole, "{what}");
            assert_eq!(digest(&image) == before, !whole, "{what}");
            fs::remove_file(&out).ok();
        }
    }
}

/// Runs a scan with at most this much address space; its code, and what it said.
fn scan_within(image: &Path, kib: u64) -> (Option<i32>, String, std::time::Duration) {
    let started = std::time::Instant::now();
    let script = format!("ulimit -v {kib}; exec \"$0\" scan \"$1\"");
    let ran = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_declone"), arg(image)])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    (ran.status.code(), out, started.elapsed())
}

#[test]
fn vast_disks_with_little_in_them_are_looked_at_at_once() {
    // On a file system of memory: others have no files of 8 PiB.
    let place = Path::new("/dev/shm");
    let dir = match place.is_dir() {
        true => tempfile::tempdir_in(place).unwrap(),
        false => scratch(),
    };
    let image = dir.path().join("a.img");
    let mut mbr = vec![0; 512];
    // One partition of Linux, all over the disk.
    put(&mut mbr, 446, &[0, 0, 2, 0, 0x83, 0xFF, 0xFF, 0xFF]);
    put(&mut mbr, 454, &1_u32.to_le_bytes());
    put(&mut mbr, 458, &0x00FF_FFFF_u32.to_le_bytes());
    put(&mut mbr, 510, &[0x55, 0xAA]);
    fs::write(&image, &mbr).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    let len = [8_u64 << 50, 8 << 40]
        .into_iter()
        .find(|len| file.set_len(*len).is_ok())
        .expect("a file of 8 TiB");
    assert!(
        len == 8 << 50 || !place.is_dir(),
        "tmpfs has files of 8 PiB"
    );
    let usual = 512 << 10;
    let (code, said, took) = scan_within(&image, usual);
    assert!([Some(0), Some(4)].contains(&code), "{code:?}: {said}");
    assert!(took.as_secs() < 5, "{took:?}");
    // 64 TiB with one small machine, as QCOW2.
    let raw = fixture("tiny-superfloppy.img");
    let mut file = qcow2::image(&raw, qcow2::Shape::default());
    let entries = (64_u64 << 40 >> 29).to_be_bytes();
    put(&mut file, 24, &(64_u64 << 40).to_be_bytes());
    put(&mut file, 36, &entries[4..]);
    let l1 = file.len();
    let old = file[qcow2::L1_CLUSTER << 16..][..8].to_vec();
    file.extend(vec![0; 1 << 20]);
    put(&mut file, l1, &old);
    put(&mut file, 40, &(l1 as u64).to_be_bytes());
    let image = dir.path().join("a.qcow2");
    fs::write(&image, &file).unwrap();
    let (code, said, took) = scan_within(&image, usual);
    assert_eq!(code, Some(1), "{said}");
    assert!(took.as_secs() < 5, "{took:?}");
}

#[test]
fn holes_of_a_container_stay_holes() {
    let raw = machine_disk();
    let dir = scratch();
    for (name, file) in [
        ("fixed.vhd", vhd::fixed(&raw)),
        ("fixed.vdi", vdi::image(&raw, MIB, false, false, true)),
        (
            "fixed.vhdx",
            vhdx::build(
                &raw,
                vhdx::Shape {
                    fixed: true,
                    ..vhdx::Shape::default()
                },
            ),
        ),
    ] {
        let (dense, image) = (dir.path().join("dense"), dir.path().join(name));
        fs::write(&dense, &file).unwrap();
        let made = Command::new("cp")
            .args(["--sparse=always", arg(&dense), arg(&image)])
            .status();
        assert!(made.unwrap().success());
        let out = dir.path().join(format!("{name}.out"));
        let was = fs::metadata(&image).unwrap();
        assert!(was.blocks() * 512 < was.len() / 2, "{name}: the test's own");
        declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
        let is = fs::metadata(&out).unwrap();
        assert_eq!(is.len(), was.len(), "{name}");
        assert!(
            is.blocks() <= was.blocks() + 64,
            "{name}: {} blocks",
            is.blocks()
        );
        declone(&["clean", arg(&image), "--in-place"]).exits(0);
        let is = fs::metadata(&image).unwrap();
        assert!(
            is.blocks() <= was.blocks() + 64,
            "{name}: {} blocks",
            is.blocks()
        );
    }
}

/// A mount that goes away with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0).status());
    }
}

#[test]
fn a_copy_on_btrfs_shares_what_did_not_change() {
    if !called("a_copy_on_btrfs_shares_what_did_not_change") {
        return;
    }
    let dir = scratch();
    let (disk, mount) = (dir.path().join("disk"), dir.path().join("mount"));
    File::create(&disk).unwrap().set_len(300 << 20).unwrap();
    tool("mkfs.btrfs", &["-q", arg(&disk)]);
    fs::create_dir(&mount).unwrap();
    tool("mount", &["-o", "loop", arg(&disk), arg(&mount)]);
    let _mounted = Mounted(&mount);
    let (image, out) = (mount.join("a.vhdx"), mount.join("b.vhdx"));
    let raw = machine_disk();
    let shape = vhdx::Shape {
        fixed: true,
        ..vhdx::Shape::default()
    };
    fs::write(&image, vhdx::build(&raw, shape)).unwrap();
    let space = || {
        tool("sync", &["-f", arg(&mount)]);
        let space = rustix::fs::statvfs(&mount).unwrap();
        space.f_bfree * space.f_frsize
    };
    let before = space();
    let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    assert!(ran.out.contains("reflink"), "{}", ran.out);
    let taken = before.saturating_sub(space());
    assert!(taken < 8 << 20, "{taken} bytes");
    declone(&["scan", arg(&image)]).exits(1);
    declone(&["scan", arg(&out)]).exits(0);
    // The same as where nothing can be shared.
    let far = dir.path().join("c.vhdx");
    declone(&["clean", arg(&image), "-o", arg(&far), "--prove"]).exits(0);
    assert_eq!(digest(&far), digest(&out));
}
