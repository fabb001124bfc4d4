//! Cleaning the image itself: interrupted at every page, finished, taken back; and journals and
//! undo files that must not be believed.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use declone::{
    apply::{
        change::{Change, FileLen},
        journal::{self, Bond, Role},
    },
    device::{Page, Patch},
};

use crate::{
    machine,
    run::{arg, declone, digest, scratch},
    support::ntfs_builder::Geometry,
};

const PAGE: usize = 4096;

/// An image, the same image cleaned, and the change between them.
pub(crate) struct Case {
    dir: tempfile::TempDir,
    pub(crate) image: PathBuf,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    pub(crate) change: Change,
}

impl Case {
    fn new() -> Self {
        Self::of(|image| machine::write(&machine::volume(8 << 20, Geometry::default(), 3), image))
    }

    /// Of the image that `write` makes.
    pub(crate) fn of<T>(write: impl FnOnce(&Path) -> T) -> Self {
        let dir = scratch();
        let image = dir.path().join("a.img");
        write(&image);
        let cleaned = dir.path().join("cleaned.img");
        declone(&["clean", arg(&image), "-o", arg(&cleaned)]).exits(0);
        let (old, new) = (fs::read(&image).unwrap(), fs::read(&cleaned).unwrap());
        fs::remove_file(&cleaned).unwrap();
        let patches = patches(&old, &new);
        let change = Change::prepare(
            &patches,
            &[FileLen::fixed(old.len() as u64)],
            &mut |at, out| {
                out.copy_from_slice(&old[at as usize..][..out.len()]);
                Ok(())
            },
        )
        .unwrap();
        assert!(change.pages().len() > 10, "a change worth interrupting");
        Self {
            dir,
            image,
            old,
            new,
            change,
        }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.path().join("a.img.declone-journal")
    }

    fn bond(&self) -> Bond {
        Bond {
            image_len: self.old.len() as u64,
            path: arg(&self.image).as_bytes().to_vec(),
            ..Bond::default()
        }
    }

    fn journal_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        journal::write(Role::Journal, &self.bond(), &self.change, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        bytes
    }

    /// As a crash leaves it after `pages` pages, with the next one torn after `sectors` sectors.
    pub(crate) fn interrupt(&self, pages: usize, sectors: usize) {
        let mut image = self.old.clone();
        for (number, page) in self.change.pages().iter().enumerate().take(pages + 1) {
            let at = page.offset as usize;
            let len = if number < pages {
                page.len
            } else {
                sectors * 512
            };
            image[at..at + len].copy_from_slice(&self.new[at..at + len]);
        }
        fs::write(&self.image, image).unwrap();
        write_private(&self.journal(), &self.journal_bytes());
    }

    pub(crate) fn now(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }
}

fn patches(old: &[u8], new: &[u8]) -> Vec<Patch> {
    old.chunks(PAGE)
        .zip(new.chunks(PAGE))
        .enumerate()
        .filter(|(_, (old, new))| old != new)
        .map(|(number, (_, new))| Patch {
            offset: (number * PAGE) as u64,
            len: new.len() as u64,
            page: Page::Data(new.into()),
        })
        .collect()
}

fn write_private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn an_interrupted_change_is_seen_by_every_verb_and_finished_by_recover() {
    let case = Case::new();
    let pages = case.change.pages().len();
    for (done, sectors) in [
        (0, 0),
        (0, 3),
        (1, 0),
        (pages / 2, 5),
        (pages - 1, 7),
        (pages - 1, 8),
    ] {
        case.interrupt(done, sectors);
        let torn = case.now();
        let out = case.dir.path().join("out.img");
        let journal = fs::read(case.journal()).unwrap();
        for args in [
            &["scan", arg(&case.image)][..],
            &["verify", arg(&case.image)],
            &["clean", arg(&case.image), "-n"],
            &["clean", arg(&case.image), "-n", "--in-place"],
            &["clean", arg(&case.image), "-o", arg(&out)],
            &["recover", arg(&case.image), "--status"],
        ] {
            let ran = declone(args).exits(6);
            assert!(ran.out.contains("declone recover"), "{args:?}: {}", ran.out);
            assert!(case.now() == torn, "{args:?} writes nothing");
            assert!(!out.exists());
        }
        assert_eq!(fs::read(case.journal()).unwrap(), journal);
        let ran = declone(&["recover", arg(&case.image)]).exits(0);
        assert!(ran.out.contains("Recovered"), "{}", ran.out);
        assert!(
            case.now() == case.new,
            "after {done} pages and {sectors} sectors"
        );
        assert!(!case.journal().exists());
        declone(&["recover", arg(&case.image)]).exits(0);
        declone(&["recover", arg(&case.image), "--status"]).exits(0);
        declone(&["scan", arg(&case.image)]).exits(0);
    }
}

#[test]
fn a_clean_in_place_finishes_first_what_was_interrupted() {
    let case = Case::new();
    case.interrupt(7, 1);
    let json = declone(&["clean", arg(&case.image), "--in-place", "--json", "-"])
        .exits(0)
        .json();
    let remark = json["images"][0]["remarks"][0].as_str().unwrap();
    assert!(remark.contains("was finished first"), "{remark}");
    assert_eq!(json["images"][0]["result"], "clean");
    assert!(case.now() == case.new);
}

#[test]
fn the_journal_is_found_through_a_symbolic_link_too() {
    let case = Case::new();
    let elsewhere = scratch();
    let link = elsewhere.path().join("link.img");
    symlink(&case.image, &link).unwrap();
    case.interrupt(3, 2);
    declone(&["scan", arg(&link)]).exits(6);
    declone(&["recover", arg(&link)]).exits(0);
    assert!(case.now() == case.new && !case.journal().exists());
}

#[test]
fn a_temporary_journal_is_ignored_and_removed() {
    let case = Case::new();
    let temporary = case.dir.path().join("a.img.declone-journal.tmp");
    let half = &case.journal_bytes()[..5000];
    write_private(&temporary, half);
    declone(&["scan", arg(&case.image)]).exits(1);
    assert!(temporary.exists(), "a scan writes nothing");
    declone(&["recover", arg(&case.image)]).exits(0);
    assert!(!temporary.exists() && case.now() == case.old);
    write_private(&temporary, half);
    declone(&["clean", arg(&case.image), "--in-place"]).exits(0);
    assert!(!temporary.exists() && case.now() == case.new);
}

/// Recovery must refuse with `code`, and change neither image nor journal.
fn is_not_believed(case: &Case, code: i32, what: &str) {
    let (image, journal) = (case.now(), fs::read(case.journal()).unwrap());
    for args in [
        &["recover", arg(&case.image)][..],
        &["clean", arg(&case.image), "--in-place"],
    ] {
        let ran = declone(args);
        assert_eq!(ran.code, code, "{what}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains("what to do"), "{what}: {}", ran.out);
    }
    declone(&["scan", arg(&case.image)]).exits(6);
    assert!(case.now() == image, "{what}: the image was written");
    assert_eq!(fs::read(case.journal()).unwrap(), journal, "{what}");
}

#[test]
fn a_journal_that_is_damaged_or_foreign_is_never_applied() {
    let case = Case::new();
    case.interrupt(4, 0);
    let good = case.journal_bytes();
    for (what, at) in [("header", 20), ("record", 4100), ("page", 4096 + 300)] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        write_private(&case.journal(), &bad);
        is_not_believed(&case, 4, what);
    }
    for cut in [0, 100, 4096, good.len() / 2, good.len() - 1] {
        write_private(&case.journal(), &good[..cut]);
        is_not_believed(&case, 4, "cut");
    }
    let mut longer = good.clone();
    longer.extend_from_slice(&[0; 512]);
    write_private(&case.journal(), &longer);
    is_not_believed(&case, 4, "appended garbage");

    // Whole, but for other bytes: one page is neither old nor new, the image has another length.
    write_private(&case.journal(), &good);
    let torn = case.now();
    let mut other = torn.clone();
    other[case.change.pages()[9].offset as usize + 77] ^= 1;
    fs::write(&case.image, &other).unwrap();
    is_not_believed(&case, 3, "a page of somebody else");
    let mut longer = torn.clone();
    longer.extend_from_slice(&[0; PAGE]);
    fs::write(&case.image, &longer).unwrap();
    is_not_believed(&case, 3, "a resized image");
    // With the right bytes again it is.
    fs::write(&case.image, &torn).unwrap();
    declone(&["recover", arg(&case.image)]).exits(0);
    assert!(case.now() == case.new);
}

#[test]
fn a_journal_that_may_not_be_ours_is_refused() {
    let case = Case::new();
    case.interrupt(4, 0);
    let journal = case.journal();
    let aside = case.dir.path().join("aside");

    fs::set_permissions(&journal, fs::Permissions::from_mode(0o622)).unwrap();
    is_not_believed(&case, 3, "writable by others");
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();

    fs::hard_link(&journal, &aside).unwrap();
    is_not_believed(&case, 3, "hard-linked");
    fs::remove_file(&journal).unwrap();

    symlink(&aside, &journal).unwrap();
    is_not_believed(&case, 3, "a symbolic link");
    fs::remove_file(&journal).unwrap();

    let fifo = std::process::Command::new("mkfifo").arg(&journal).status();
    assert!(fifo.unwrap().success());
    let before = case.now();
    declone(&["recover", arg(&case.image)]).exits(3);
    declone(&["scan", arg(&case.image)]).exits(6);
    assert!(case.now() == before);
}

#[test]
fn an_undo_file_is_believed_once_and_only_for_what_the_clean_wrote() {
    let case = Case::new();
    let undo = case.dir.path().join("a.undo");
    let clean = [
        "clean",
        arg(&case.image),
        "--in-place",
        "--undo",
        arg(&undo),
    ];
    let ran = declone(&clean).exits(0);
    assert!(
        ran.out.contains("HOLDS THE REMOVED IDENTITY"),
        "{}",
        ran.out
    );
    assert_eq!(fs::metadata(&undo).unwrap().mode() & 0o777, 0o600);
    assert!(case.now() == case.new);
    // It is never replaced, and no other file is.
    let written = fs::metadata(&undo).unwrap();
    declone(&clean).exits(0);
    fs::write(&case.image, &case.old).unwrap();
    // As a run leaves it that is killed before its journal: the next one takes it as its own.
    declone(&clean).exits(0);
    assert!(case.now() == case.new);
    let found = fs::metadata(&undo).unwrap();
    assert_eq!(
        (found.ino(), found.mtime_nsec()),
        (written.ino(), written.mtime_nsec())
    );
    // Over an image that this is not the way back from, or under the name of another file.
    let other =
        Case::of(|image| machine::write(&machine::volume(9 << 20, Geometry::default(), 4), image));
    for (image, name) in [(&other.image, &undo), (&case.image, &other.image)] {
        fs::write(&case.image, &case.old).unwrap();
        let before = (fs::read(image).unwrap(), fs::read(name).unwrap());
        declone(&["clean", arg(image), "--in-place", "--undo", arg(name)]).exits(2);
        assert!(before == (fs::read(image).unwrap(), fs::read(name).unwrap()));
    }
    fs::write(&case.image, &case.new).unwrap();

    // Changed since: one bit in one of the pages.
    let mut other = case.new.clone();
    other[case.change.pages()[2].offset as usize] ^= 1;
    fs::write(&case.image, &other).unwrap();
    declone(&["undo", arg(&undo)]).exits(3);
    assert!(case.now() == other);
    // Another length.
    fs::write(&case.image, &case.new[..case.new.len() - 512]).unwrap();
    declone(&["undo", arg(&undo)]).exits(3);
    // A bit of the undo file.
    fs::write(&case.image, &case.new).unwrap();
    let good = fs::read(&undo).unwrap();
    let mut bad = good.clone();
    bad[6000] ^= 1;
    write_private(&undo, &bad);
    declone(&["undo", arg(&undo)]).exits(4);
    // A journal is no undo file.
    write_private(&undo, &case.journal_bytes());
    declone(&["undo", arg(&undo)]).exits(4);
    assert!(case.now() == case.new);

    write_private(&undo, &good);
    let moved = case.dir.path().join("moved.img");
    fs::rename(&case.image, &moved).unwrap();
    declone(&["undo", arg(&undo)]).exits(5);
    declone(&["undo", arg(&undo), "--image", arg(&moved)]).exits(0);
    assert!(fs::read(&moved).unwrap() == case.old);
    fs::rename(&moved, &case.image).unwrap();
    // Twice.
    let ran = declone(&["undo", arg(&undo)]).exits(3);
    assert!(ran.out.contains("taken back already"), "{}", ran.out);
    assert!(case.now() == case.old);
}

#[test]
fn an_undo_after_an_interrupted_clean_finishes_the_clean_first() {
    let case = Case::new();
    let undo = case.dir.path().join("a.undo");
    declone(&[
        "clean",
        arg(&case.image),
        "--in-place",
        "--undo",
        arg(&undo),
    ])
    .exits(0);
    case.interrupt(5, 5);
    let ran = declone(&["undo", arg(&undo)]).exits(0);
    assert!(ran.out.contains("was finished first"), "{}", ran.out);
    assert!(case.now() == case.old && !case.journal().exists());
}

#[test]
fn an_interrupted_undo_is_finished_by_running_it_again() {
    let case = Case::new();
    let undo = case.dir.path().join("a.undo");
    declone(&[
        "clean",
        arg(&case.image),
        "--in-place",
        "--undo",
        arg(&undo),
    ])
    .exits(0);
    // The journal of the undo, after half of its pages.
    let back = case.change.reversed().unwrap();
    let mut bytes = Vec::new();
    journal::write(Role::Journal, &case.bond(), &back, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    let mut image = case.new.clone();
    for page in back.pages().iter().take(9) {
        image[page.offset as usize..][..page.len].copy_from_slice(page.new_bytes());
    }
    fs::write(&case.image, &image).unwrap();
    write_private(&case.journal(), &bytes);
    let ran = declone(&["undo", arg(&undo)]).exits(0);
    assert!(ran.out.contains("Undone"), "{}", ran.out);
    assert!(case.now() == case.old && !case.journal().exists());
}

#[test]
fn where_nothing_is_found_nothing_is_written() {
    let case = Case::new();
    fs::write(&case.image, &case.new).unwrap();
    let undo = case.dir.path().join("a.undo");
    let before = fs::metadata(&case.image).unwrap();
    let ran = declone(&[
        "clean",
        arg(&case.image),
        "--in-place",
        "--undo",
        arg(&undo),
    ])
    .exits(0);
    assert!(ran.out.contains("Nothing to do"), "{}", ran.out);
    let after = fs::metadata(&case.image).unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec())
    );
    assert!(!undo.exists(), "there is nothing to take back");
    assert_eq!(fs::read_dir(case.dir.path()).unwrap().count(), 1);
}

#[test]
fn reports_that_cannot_be_written_are_found_before_the_image_is_changed() {
    let case = Case::new();
    let nowhere = case.dir.path().join("no/such/directory.json");
    declone(&[
        "clean",
        arg(&case.image),
        "--in-place",
        "--json",
        arg(&nowhere),
    ])
    .exits(2);
    let undo = case.dir.path().join("no/such/directory.undo");
    declone(&[
        "clean",
        arg(&case.image),
        "--in-place",
        "--undo",
        arg(&undo),
    ])
    .exits(2);
    assert!(case.now() == case.old && !case.journal().exists());
    // A full disk behind standard output comes too late for that: the code must not promise an
    // unchanged image.
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(["clean", arg(&case.image), "--in-place"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("was changed as asked"));
    assert!(case.now() == case.new);
}

#[test]
fn an_image_whose_name_is_not_text_works_and_is_shown_escaped() {
    use std::os::unix::ffi::OsStrExt;
    let case = Case::new();
    let odd = case
        .dir
        .path()
        .join(std::ffi::OsStr::from_bytes(b"a\x1b[31m\xff\n.img"));
    fs::rename(&case.image, &odd).unwrap();
    let undo = case.dir.path().join("u");
    let run = |args: &[&std::ffi::OsStr]| {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_declone"))
            .args(args)
            .output()
            .unwrap();
        assert!(!ran.stdout.contains(&0x1b), "escaped");
        ran.status.code()
    };
    let clean = ["clean", "--in-place", "--undo"].map(std::ffi::OsStr::new);
    let all = [
        clean[0],
        clean[1],
        clean[2],
        undo.as_os_str(),
        odd.as_os_str(),
    ];
    assert_eq!(run(&all), Some(0));
    assert!(fs::read(&odd).unwrap() == case.new);
    assert_eq!(
        run(&[std::ffi::OsStr::new("undo"), undo.as_os_str()]),
        Some(0)
    );
    assert!(fs::read(&odd).unwrap() == case.old);
    assert_eq!(digest(&odd).len(), 64);
}

/// A loop device over a file, detached when it goes.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        std::process::Command::new("losetup")
            .args(["-d", &self.0])
            .status()
            .ok();
    }
}

#[test]
fn a_block_device_is_cleaned_with_a_journal_that_lies_elsewhere() {
    if std::env::var_os("DECLONE_WITNESS").is_none() {
        eprintln!("a_block_device: NOT RUN, needs losetup and root: tools/test runs it");
        return;
    }
    let case = Case::new();
    let attached = std::process::Command::new("losetup")
        .args(["-f", "--show", arg(&case.image)])
        .output()
        .expect("losetup");
    assert!(attached.status.success(), "{attached:?}");
    let device = Loop(
        String::from_utf8(attached.stdout)
            .unwrap()
            .trim()
            .to_owned(),
    );
    let node = device.0.as_str();
    let journal = case.dir.path().join("the journal");
    let undo = case.dir.path().join("the undo file");
    let (journal_arg, undo_arg) = (arg(&journal), arg(&undo));

    // Where its journal lies is the user's to say, and not in memory.
    declone(&["clean", node, "--in-place"]).exits(2);
    declone(&["clean", node, "--in-place", "--journal", "/dev/shm/journal"]).exits(2);
    assert!(case.now() == case.old);

    let in_place = ["clean", node, "--in-place", "--journal", journal_arg];
    declone(&[&in_place[..], &["--undo", undo_arg]].concat()).exits(0);
    assert!(case.now() == case.new && !journal.exists());
    declone(&["undo", undo_arg, "--journal", journal_arg]).exits(0);
    assert!(case.now() == case.old);

    // A change that was interrupted is seen where the journal is named, and finished.
    fs::write(&journal, case.journal_bytes()).unwrap();
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();
    declone(&["scan", node, "--journal", journal_arg]).exits(6);
    declone(&["clean", node, "-n", "--journal", journal_arg]).exits(6);
    declone(&["recover", node, "--journal", journal_arg]).exits(0);
    assert!(case.now() == case.new && !journal.exists());

    // The file below it is in use.
    let ran = declone(&["recover", arg(&case.image)]).exits(3);
    assert!(ran.out.contains(node), "{}", ran.out);
}
