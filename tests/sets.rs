//! Images of several files: read and written as one disk, all of the files or none.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use declone::{
    apply::{
        change::{Change, FileLen},
        journal::{self, Bond, BondFile, Role},
    },
    device::{BlockDevice, HostFile, HostSet, PAGE_LEN, Page, Patch},
};

use crate::{
    containers::machine_disk,
    judges::{called, tool},
    run::{arg, declone, scratch},
    support::{
        vmdk_builder::{self as vmdk, Shape},
        wim_builder::Wim,
    },
    wim::tree,
};

/// The files of an image by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A split disk: the files, the first of which is named, and where the disk's bytes lie in them.
struct Split {
    name: &'static str,
    files: Files,
    /// Place on the disk, file, place there, length.
    pieces: Vec<(usize, String, usize, usize)>,
    len: usize,
}

const IMAGE: &str = "disk.vmdk";

impl Split {
    fn new(
        name: &'static str,
        kind: &str,
        lines: &[String],
        parts: Vec<(String, Vec<u8>)>,
    ) -> Self {
        let mut files: Files = parts.into_iter().collect();
        files.insert(IMAGE.to_owned(), vmdk::descriptor(kind, lines).into_bytes());
        Self {
            name,
            files,
            pieces: Vec::new(),
            len: 0,
        }
    }

    fn piece(&mut self, disk: usize, file: &str, at: usize, len: usize) {
        self.pieces.push((disk, file.to_owned(), at, len));
        self.len = self.len.max(disk + len);
    }

    /// The disk in these files.
    fn guest(&self, files: &Files) -> Vec<u8> {
        let mut disk = vec![0; self.len];
        for (to, file, at, len) in &self.pieces {
            disk[*to..to + len].copy_from_slice(&files[file][*at..at + len]);
        }
        disk
    }

    /// Everything that is not the disk, with the content ID blanked.
    fn rest(&self, files: &Files) -> Files {
        let mut rest = files.clone();
        for (_, file, at, len) in &self.pieces {
            rest.get_mut(file).unwrap()[*at..at + len].fill(0);
        }
        let text = rest.get_mut(IMAGE).unwrap();
        let at = vmdk::cid_at(text);
        text[at..at + 8].fill(b'.');
        rest
    }

    fn write_to(&self, dir: &Path) -> PathBuf {
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        dir.join(IMAGE)
    }
}

pub fn read_all(dir: &Path) -> Files {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect()
}

/// Cut where partitions do not end, in grains and in the middle of clusters.
fn cuts(len: usize) -> Vec<Range<usize>> {
    let (a, b) = (
        len / 3 / 65_536 * 65_536,
        (len / 2).next_multiple_of(65_536) + 65_536,
    );
    vec![0..a, a..b, b..len]
}

fn flat(raw: &[u8]) -> Split {
    let line = format!("RW {} FLAT \"disk-flat.vmdk\" 0", raw.len() / 512);
    let parts = vec![("disk-flat.vmdk".to_owned(), raw.to_vec())];
    let mut split = Split::new("monolithicFlat", "monolithicFlat", &[line], parts);
    split.piece(0, "disk-flat.vmdk", 0, raw.len());
    split
}

fn two_gb_flat(raw: &[u8]) -> Split {
    let (mut lines, mut parts, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    for (number, cut) in cuts(raw.len()).into_iter().enumerate() {
        let name = format!("disk-f{:03}.vmdk", number + 1);
        // Something of its own before and behind.
        let mut bytes = vec![0xEE; 512 * number];
        bytes.extend_from_slice(&raw[cut.clone()]);
        bytes.extend(vec![0xDD; 700 * number]);
        lines.push(format!("RW {} FLAT \"{name}\" {number}", cut.len() / 512));
        parts.push((name.clone(), bytes));
        pieces.push((cut.start, name, 512 * number, cut.len()));
    }
    let mut split = Split::new("twoGbMaxExtentFlat", "twoGbMaxExtentFlat", &lines, parts);
    for (disk, file, at, len) in pieces {
        split.piece(disk, &file, at, len);
    }
    split
}

fn two_gb_sparse(raw: &[u8]) -> Split {
    let (mut lines, mut parts, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    for (number, cut) in cuts(raw.len()).into_iter().enumerate() {
        let name = format!("disk-s{:03}.vmdk", number + 1);
        let shape = Shape {
            descriptor: false,
            backwards: number == 1,
            grain: if number == 2 { 16 } else { 128 },
            ..Shape::default()
        };
        let bytes = vmdk::sparse(&raw[cut.clone()], shape);
        for piece in vmdk::pieces(&bytes).1 {
            pieces.push((cut.start + piece.disk, name.clone(), piece.file, piece.len));
        }
        lines.push(format!("RW {} SPARSE \"{name}\"", cut.len() / 512));
        parts.push((name, bytes));
    }
    let mut split = Split::new(
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentSparse",
        &lines,
        parts,
    );
    for (disk, file, at, len) in pieces {
        split.piece(disk, &file, at, len);
    }
    split.len = raw.len();
    split
}

fn splits(raw: &[u8]) -> [Split; 3] {
    [flat(raw), two_gb_flat(raw), two_gb_sparse(raw)]
}

/// The cleaned disk, as the raw file is cleaned.
fn cleaned(raw: &[u8]) -> Vec<u8> {
    let dir = scratch();
    let (plain, out) = (dir.path().join("a.img"), dir.path().join("b.img"));
    fs::write(&plain, raw).unwrap();
    declone(&["clean", arg(&plain), "-o", arg(&out), "--prove"]).exits(0);
    fs::read(out).unwrap()
}

#[test]
fn a_split_disk_is_cleaned_in_place_like_the_raw_one_and_taken_back() {
    let raw = machine_disk();
    let want = cleaned(&raw);
    for split in splits(&raw) {
        let name = split.name;
        assert!(split.guest(&split.files) == raw, "{name}: the builder");
        let dir = scratch();
        let image = split.write_to(dir.path());
        let undo = scratch();
        let undo = undo.path().join("undo");
        let ran = declone(&["scan", arg(&image), "--json", "-"])
            .exits(1)
            .json();
        let facts = &ran["images"][0]["image"];
        let bytes: usize = split.files.values().map(Vec::len).sum();
        assert_eq!(facts["file_len"], bytes, "{name}");
        assert_eq!(facts["disk_len"], raw.len(), "{name}");
        let named = facts["container"]["files"].as_array().unwrap().len();
        assert_eq!(named, split.files.len() - 1, "{name}");
        declone(&["verify", arg(&image)]).exits(1);
        declone(&["clean", arg(&image), "-n"]).exits(0);
        assert!(read_all(dir.path()) == split.files, "{name}: a look wrote");

        let args = [
            "clean",
            arg(&image),
            "--in-place",
            "--prove",
            "--undo",
            arg(&undo),
        ];
        let ran = declone(&[&args[..], &["--json", "-"]].concat())
            .exits(0)
            .json();
        let patches = ran["images"][0]["done"]["patches"].as_array().unwrap();
        let files: std::collections::BTreeSet<&str> = patches
            .iter()
            .map(|patch| patch["file"].as_str().unwrap())
            .collect();
        assert!(
            files.contains(IMAGE) && files.len() > 1,
            "{name}: {files:?}"
        );
        let after = read_all(dir.path());
        assert!(split.guest(&after) == want, "{name}: the cleaned disk");
        assert!(
            split.rest(&after) == split.rest(&split.files),
            "{name}: the rest"
        );
        assert!(after[IMAGE] != split.files[IMAGE], "{name}: the content ID");
        // Twice: nothing is written.
        declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
        assert!(read_all(dir.path()) == after, "{name}: the second run");
        declone(&["scan", arg(&image)]).exits(0);

        declone(&["undo", arg(&undo)]).exits(0);
        assert!(read_all(dir.path()) == split.files, "{name}: undo");
        let ran = declone(&["undo", arg(&undo)]).exits(3);
        assert!(ran.out.contains("taken back already"), "{}", ran.out);
    }
}

/// An interrupted change of a set, as a crash leaves it.
pub struct Interrupted {
    pub dir: tempfile::TempDir,
    pub image: PathBuf,
    pub old: Files,
    new: Files,
    pub names: Vec<String>,
    starts: Vec<u64>,
    pub change: Change,
}

impl Interrupted {
    fn new(split: &Split) -> Self {
        let done = scratch();
        let image = split.write_to(done.path());
        declone(&["clean", arg(&image), "--in-place"]).exits(0);
        // The image first, then its files in the order of its lines: by name.
        let mut names = vec![IMAGE.to_owned()];
        names.extend(split.files.keys().filter(|name| *name != IMAGE).cloned());
        Self::of(names, split.files.clone(), read_all(done.path()))
    }

    /// A change of the set whose files have these names, in the order in which they are opened, the one
    /// that is named first.
    pub fn of(names: Vec<String>, old: Files, new: Files) -> Self {
        let dir = scratch();
        for (name, bytes) in &old {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let image = dir.path().join(&names[0]);
        let mut files = names.iter().map(|name| {
            let file = HostFile::open(&dir.path().join(name)).unwrap();
            (name.clone(), Arc::new(file))
        });
        let (_, first) = files.next().unwrap();
        let set = HostSet::of(first, files.collect()).unwrap();
        let starts: Vec<u64> = set.parts().iter().map(|part| part.start).collect();
        let mut patches = Vec::new();
        for (name, start) in names.iter().zip(&starts) {
            let was = &old[name];
            for (number, page) in new[name].chunks(PAGE_LEN).enumerate() {
                let at = number * PAGE_LEN;
                if was.get(at..at + page.len()) == Some(page) {
                    continue;
                }
                patches.push(Patch {
                    offset: start + at as u64,
                    len: page.len() as u64,
                    page: match page.iter().all(|byte| *byte == 0) {
                        true => Page::Zero,
                        false => Page::Data(page.into()),
                    },
                });
            }
        }
        let lens: Vec<FileLen> = names
            .iter()
            .zip(&starts)
            .map(|(name, start)| FileLen {
                start: *start,
                old: old[name].len() as u64,
                new: new[name].len() as u64,
            })
            .collect();
        let change = Change::prepare(&patches, &lens, &mut |at, out| set.read_at(at, out)).unwrap();
        assert!(change.pages().len() > 20);
        Self {
            dir,
            image,
            old,
            new,
            names,
            starts,
            change,
        }
    }

    fn journal(&self) -> PathBuf {
        let name = format!("{}.declone-journal", self.names[0]);
        self.dir.path().join(name)
    }

    fn journal_bytes(&self) -> Vec<u8> {
        let files = self.names.iter().zip(self.change.files());
        let bond = Bond {
            image_len: self.old[&self.names[0]].len() as u64,
            path: arg(&self.image).as_bytes().to_vec(),
            files: files
                .map(|(name, len)| BondFile {
                    name: name.as_bytes().to_vec(),
                    device: 0,
                    inode: 0,
                    len: *len,
                })
                .collect(),
            ..Bond::default()
        };
        let mut out = Vec::new();
        journal::write(Role::Journal, &bond, &self.change, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        out
    }

    /// As a crash leaves it after `pages` pages, the next torn after three sectors.
    pub fn interrupt(&self, pages: usize) -> Files {
        let mut files = self.old.clone();
        // Longer already: that comes first.
        for (name, bytes) in &mut files {
            bytes.resize(self.new[name].len(), 0);
        }
        for (number, page) in self.change.pages().iter().enumerate().take(pages + 1) {
            let file = self.starts.partition_point(|start| *start <= page.offset) - 1;
            let at = (page.offset - self.starts[file]) as usize;
            let len = if number < pages {
                page.len
            } else {
                page.len.min(1536)
            };
            let bytes = files.get_mut(&self.names[file]).unwrap();
            bytes[at..at + len].copy_from_slice(&page.new_bytes()[..len]);
        }
        for (name, bytes) in &files {
            fs::write(self.dir.path().join(name), bytes).unwrap();
        }
        fs::write(self.journal(), self.journal_bytes()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.journal(), fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    #[track_caller]
    pub fn is_new(&self) {
        assert!(read_all(self.dir.path()) == self.new);
    }

    #[track_caller]
    pub fn unchanged(&self, files: &Files) {
        let mut all = read_all(self.dir.path());
        all.remove(&format!("{}.declone-journal", self.names[0]))
            .unwrap();
        assert!(all == *files);
    }
}

#[test]
fn a_split_disk_that_was_interrupted_is_finished_by_its_journal() {
    let raw = machine_disk();
    for split in [two_gb_flat(&raw), two_gb_sparse(&raw)] {
        let case = Interrupted::new(&split);
        let pages = case.change.pages().len();
        for done in [0, 1, pages / 2, pages - 1] {
            let files = case.interrupt(done);
            let ran = declone(&["recover", "--status", arg(&case.image)]).exits(6);
            assert!(ran.out.contains(&case.names[2]), "{}", ran.out);
            declone(&["scan", arg(&case.image)]).exits(6);
            let out = case.dir.path().join("out");
            declone(&["clean", arg(&case.image), "-o", arg(&out), "--to", "raw"]).exits(6);
            // A file of the set for itself: not even looked at as if it were whole.
            for name in &case.names[1..] {
                let file = case.dir.path().join(name);
                for args in [
                    &["clean", arg(&file), "--in-place", "--format", "raw"][..],
                    &["clean", arg(&file), "-o", arg(&out), "--format", "raw"],
                    &["recover", arg(&file)],
                ] {
                    let ran = declone(args).exits(6);
                    assert!(ran.out.contains(IMAGE), "{args:?}: {}", ran.out);
                }
                declone(&["recover", "--status", arg(&file)]).exits(6);
            }
            case.unchanged(&files);
            declone(&["recover", arg(&case.image)]).exits(0);
            case.is_new();
            declone(&["recover", arg(&case.image)]).exits(0);
            case.is_new();
        }
        // Every verb that writes finishes it first.
        case.interrupt(3);
        declone(&["clean", arg(&case.image), "--in-place"]).exits(0);
        case.is_new();
    }
}

#[test]
fn a_journal_whose_files_are_not_all_there_or_are_others_writes_nothing() {
    let raw = machine_disk();
    let case = Interrupted::new(&two_gb_flat(&raw));
    for name in &case.names[1..] {
        let path = case.dir.path().join(name);
        // Missing, a link, shorter, longer, another one of the same length, one byte changed.
        let damages: [&dyn Fn(&Path); 6] = [
            &|path| fs::remove_file(path).unwrap(),
            &|path| {
                fs::rename(path, path.with_extension("moved")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("moved"), path).unwrap();
            },
            &|path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap(),
            &|path| fs::write(path, [fs::read(path).unwrap(), vec![0; 512]].concat()).unwrap(),
            &|path| fs::write(path, vec![7; fs::read(path).unwrap().len()]).unwrap(),
            &|path| {
                let number = case.names.iter().position(|n| path.ends_with(n)).unwrap();
                let start = case.starts[number];
                let here = case.change.pages().iter().find(|page| page.offset >= start);
                let mut bytes = fs::read(path).unwrap();
                bytes[(here.unwrap().offset - start) as usize + 5] ^= 0x55;
                fs::write(path, bytes).unwrap();
            },
        ];
        let number = case.names.iter().position(|n| n == name).unwrap();
        let own = |offset: u64| case.starts.partition_point(|start| *start <= offset) - 1;
        let touched = case
            .change
            .pages()
            .iter()
            .any(|page| own(page.offset) == number);
        // A file in which nothing changes may be any of that length: nothing is written to it.
        let which = if touched { 6 } else { 4 };
        for (number, damage) in damages.iter().enumerate().take(which) {
            case.interrupt(2);
            damage(&path);
            let before = read_all(case.dir.path());
            let ran = declone(&["recover", arg(&case.image)]);
            assert_eq!(ran.code, 3, "{name} {number}: {}", ran.out);
            assert!(read_all(case.dir.path()) == before, "{name} {number}");
            fs::remove_file(&path).ok();
            fs::remove_file(path.with_extension("moved")).ok();
        }
        // Put back, it is finished.
        case.interrupt(2);
        declone(&["recover", arg(&case.image)]).exits(0);
        case.is_new();
    }
}

/// Every bit of the part that names files decides what is opened.
#[test]
fn a_damaged_journal_of_a_set_is_refused() {
    let case = Interrupted::new(&two_gb_flat(&machine_disk()));
    let good = case.journal_bytes();
    let (_, change) = journal::read(Role::Journal, &good).unwrap();
    assert_eq!(change.pages(), case.change.pages());
    assert_eq!(change.files(), case.change.files());
    for at in (0..120)
        .chain(4000..4600)
        .chain(good.len() - 40..good.len())
    {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(journal::read(Role::Journal, &bad).is_err(), "flip at {at}");
        assert!(journal::read(Role::Journal, &good[..at]).is_err());
    }
}

#[test]
fn a_file_of_a_set_that_is_in_use_is_refused_by_name() {
    let split = two_gb_flat(&machine_disk());
    let dir = scratch();
    let image = split.write_to(dir.path());
    let member = dir.path().join("disk-f002.vmdk");
    let held = fs::File::options().write(true).open(&member).unwrap();
    held.lock().unwrap();
    let out = dir.path().join("out");
    for args in [
        &["clean", arg(&image), "--in-place"][..],
        &["clean", arg(&image), "-o", arg(&out), "--to", "raw"],
    ] {
        let ran = declone(args).exits(3);
        assert!(ran.out.contains("disk-f002.vmdk"), "{}", ran.out);
    }
    drop(held);
    assert!(read_all(dir.path()) == split.files);
    declone(&["clean", arg(&image), "--in-place"]).exits(0);
}

#[test]
fn what_must_not_be_written_of_a_set_is_refused() {
    let raw = machine_disk();
    let good = two_gb_sparse(&raw);
    let text = |from: &str, to: &str| {
        let text = String::from_utf8(good.files[IMAGE].clone()).unwrap();
        assert!(text.contains(from));
        (IMAGE.to_owned(), text.replacen(from, to, 1).into_bytes())
    };
    let mut unclean = good.files["disk-s002.vmdk"].clone();
    unclean[72] = 1;
    let mut moved = good.files["disk-s003.vmdk"].clone();
    let len = moved.len();
    moved.truncate(len / 2);
    let cases = [
        ("read only", text("RW ", "RDONLY "), "may be written", 3),
        ("no CID", text("\nCID=", "\nXID="), "content ID", 3),
        (
            "tracked",
            text("# The Disk", "changeTrackPath=\"a-ctk.vmdk\"\n# The Disk"),
            "changeTrackPath",
            3,
        ),
        (
            "unclean",
            ("disk-s002.vmdk".to_owned(), unclean),
            "unclean",
            3,
        ),
        (
            "cut",
            ("disk-s003.vmdk".to_owned(), moved),
            "inside the file",
            4,
        ),
        (
            "twice the same",
            text("disk-s002.vmdk", "Disk-S001.vmdk"),
            "of its own",
            3,
        ),
        (
            "missing",
            text("disk-s002.vmdk", "disk-s009.vmdk"),
            "not found",
            3,
        ),
    ];
    for (what, (name, bytes), word, code) in cases {
        let dir = scratch();
        let image = good.write_to(dir.path());
        fs::write(dir.path().join(name), bytes).unwrap();
        let before = read_all(dir.path());
        let ran = declone(&["clean", arg(&image), "--in-place"]);
        assert_eq!(ran.code, code, "{what}: {}", ran.out);
        assert!(ran.out.contains(word), "{what}: {}", ran.out);
        assert!(read_all(dir.path()) == before, "{what}");
    }
}

/// Files that the user allowed lie elsewhere: a recovery would not find them.
#[test]
fn files_in_two_directories_are_not_written_in_place() {
    let raw = machine_disk();
    let split = two_gb_flat(&raw);
    let dir = scratch();
    let image = split.write_to(dir.path());
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let far = sub.join("disk-f002.vmdk");
    fs::rename(dir.path().join("disk-f002.vmdk"), &far).unwrap();
    let before = read_all(dir.path());
    declone(&["scan", arg(&image)]).exits(3);
    declone(&["scan", arg(&image), "--allow-file", arg(&far)]).exits(1);
    let args = ["clean", arg(&image), "--allow-file", arg(&far)];
    let ran = declone(&[&args[..], &["--in-place"]].concat()).exits(3);
    assert!(ran.out.contains("one directory"), "{}", ran.out);
    assert!(read_all(dir.path()) == before);
    let out = dir.path().join("out.raw");
    declone(&[&args[..], &["-o", arg(&out), "--to", "raw", "--prove"]].concat()).exits(0);
    assert!(fs::read(&out).unwrap() == cleaned(&raw));
}

#[test]
fn a_copy_of_a_set_is_a_new_directory_with_all_of_its_files_or_nothing() {
    let raw = machine_disk();
    let want = cleaned(&raw);
    for split in splits(&raw) {
        let name = split.name;
        let dir = scratch();
        let image = split.write_to(dir.path());
        let outer = scratch();
        let out = outer.path().join("copy");
        let args = [
            "clean",
            arg(&image),
            "-o",
            arg(&out),
            "--prove",
            "--hash",
            "sha256",
        ];
        declone(&args).exits(0);
        assert!(read_all(dir.path()) == split.files, "{name}: the source");
        let after = read_all(&out);
        assert_eq!(after.len(), split.files.len(), "{name}");
        assert!(split.guest(&after) == want, "{name}: the cleaned disk");
        assert!(
            split.rest(&after) == split.rest(&split.files),
            "{name}: the rest"
        );
        declone(&["scan", arg(&out.join(IMAGE))]).exits(0);
        // The same as in place.
        declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
        assert!(read_all(dir.path()) == after, "{name}: in place");
        // A name that is taken stays what it is, with force, too.
        let file = outer.path().join("file");
        fs::write(&file, "precious").unwrap();
        for taken in [&out, &file] {
            for force in [&[][..], &["--force"]] {
                let args = ["clean", arg(&image), "-o", arg(taken)];
                let ran = declone(&[&args[..], force].concat()).exits(2);
                assert!(ran.out.contains("--to raw"), "{name}: {}", ran.out);
            }
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(read_all(&out) == after);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2, "{name}");
        // Clean already: still a copy.
        let again = outer.path().join("again");
        declone(&["clean", arg(&out.join(IMAGE)), "-o", arg(&again)]).exits(0);
        assert!(read_all(&again) == after, "{name}");
    }
}

/// A copy whose files would not find each other is not made, and leaves nothing.
#[test]
fn a_copy_that_cannot_be_opened_leaves_nothing() {
    let raw = machine_disk();
    let mut split = two_gb_flat(&raw);
    let text = String::from_utf8(split.files[IMAGE].clone()).unwrap();
    let text = text.replace("disk-f002.vmdk", "C:\\vms\\disk-f002.vmdk");
    split.files.insert(IMAGE.to_owned(), text.into_bytes());
    let dir = scratch();
    let image = split.write_to(dir.path());
    let far = dir.path().join("disk-f002.vmdk");
    let outer = scratch();
    let out = outer.path().join("copy");
    let args = [
        "clean",
        arg(&image),
        "--allow-file",
        arg(&far),
        "-o",
        arg(&out),
    ];
    let ran = declone(&args).exits(3);
    assert!(ran.out.contains("--to raw"), "{}", ran.out);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    assert!(read_all(dir.path()) == split.files);
}

// --- files that grow ---

/// An archive that becomes longer when one of its images is cleaned: before, and after.
fn growing(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let file = Wim::new(vec![tree(), tree()]).build();
    let (image, out) = (dir.join("grow.in"), dir.join("grow.out"));
    fs::write(&image, &file).unwrap();
    // The other image still has it.
    declone(&["clean", arg(&image), "-o", arg(&out), "--image-index", "1"]).exits(1);
    let after = fs::read(&out).unwrap();
    assert!(after.len() > file.len(), "{} {}", after.len(), file.len());
    (file, after)
}

#[test]
fn an_archive_that_grows_is_cleaned_in_place_and_taken_back() {
    let dir = scratch();
    let (old, new) = growing(dir.path());
    let (image, undo) = (dir.path().join("a.wim"), dir.path().join("undo"));
    fs::write(&image, &old).unwrap();
    let args = ["clean", arg(&image), "--in-place", "--image-index", "1"];
    declone(&[&args[..], &["-n"]].concat()).exits(1);
    assert!(fs::read(&image).unwrap() == old);
    declone(&[&args[..], &["--undo", arg(&undo), "--hash", "sha256"]].concat()).exits(1);
    assert!(fs::read(&image).unwrap() == new, "in place is as a copy");
    let other = dir.path().join("b.wim");
    fs::write(&other, &old).unwrap();
    declone(&["undo", arg(&undo), "--image", arg(&other)]).exits(3);
    assert!(fs::read(&other).unwrap() == old);
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(fs::read(&image).unwrap() == old, "undone");
    declone(&["undo", arg(&undo)]).exits(3);
    assert!(fs::read(&image).unwrap() == old);
}

/// No room for what is longer: the archive is as it was, and no journal is left.
#[test]
fn an_archive_that_cannot_grow_stays_as_it_is() {
    let dir = scratch();
    let (old, new) = growing(dir.path());
    let image = dir.path().join("a.wim");
    fs::write(&image, &old).unwrap();
    let count = || fs::read_dir(dir.path()).unwrap().count();
    let before = count();
    let limit = old.len().div_ceil(1024);
    assert!(new.len() > limit * 1024);
    let ran = std::process::Command::new("bash")
        .args(["-c", "ulimit -f $0; exec \"$@\"", &limit.to_string()])
        .args([env!("CARGO_BIN_EXE_declone"), "clean", arg(&image)])
        .args(["--in-place", "--image-index", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(5), "{said}");
    assert!(said.contains("room for what is longer"), "{said}");
    assert!(fs::read(&image).unwrap() == old);
    assert_eq!(count(), before);
}

#[test]
fn an_archive_whose_growth_was_interrupted_is_finished() {
    let dir = scratch();
    let (old, new) = growing(dir.path());
    let lens = [FileLen {
        start: 0,
        old: old.len() as u64,
        new: new.len() as u64,
    }];
    let patches: Vec<Patch> = new
        .chunks(PAGE_LEN)
        .enumerate()
        .filter(|(number, page)| {
            let at = number * PAGE_LEN;
            old.get(at..(at + PAGE_LEN).min(old.len())) != Some(*page)
        })
        .map(|(number, page)| Patch {
            offset: (number * PAGE_LEN) as u64,
            len: page.len() as u64,
            page: Page::Data(page.into()),
        })
        .collect();
    let change = Change::prepare(&patches, &lens, &mut |at, out| {
        out.copy_from_slice(&old[at as usize..][..out.len()]);
        Ok(())
    })
    .unwrap();
    let bond = Bond {
        image_len: old.len() as u64,
        files: vec![BondFile {
            name: b"a.wim".to_vec(),
            device: 0,
            inode: 0,
            len: lens[0],
        }],
        ..Bond::default()
    };
    let image = dir.path().join("a.wim");
    let journal = dir.path().join("a.wim.declone-journal");
    let interrupt = |image_bytes: &[u8]| {
        let mut out = Vec::new();
        journal::write(Role::Journal, &bond, &change, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        fs::write(&image, image_bytes).unwrap();
        fs::write(&journal, out).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let pages = change.pages().len();
    for done in [0, 1, pages / 2, pages] {
        // As long as before, as after, or between; what is new holds zeros or anything.
        let middle = (old.len() + new.len()) / 2;
        for (len, fill) in [
            (old.len(), 0),
            (new.len(), 0),
            (new.len(), 0xA5),
            (middle, 0xA5),
        ] {
            let mut bytes = old.clone();
            bytes.resize(len, fill);
            for page in &change.pages()[..done] {
                let at = page.offset as usize;
                let end = (at + page.len).min(len);
                if at < end {
                    bytes[at..end].copy_from_slice(&page.new_bytes()[..end - at]);
                }
            }
            interrupt(&bytes);
            declone(&["recover", "--status", arg(&image)]).exits(6);
            assert!(fs::read(&image).unwrap() == bytes);
            declone(&["recover", arg(&image)]).exits(0);
            assert!(
                fs::read(&image).unwrap() == new,
                "{done} pages, {len} bytes"
            );
            assert!(!journal.exists());
        }
    }
    for len in [old.len() - 1, new.len() + 1, 0] {
        let mut bytes = old.clone();
        bytes.resize(len, 0);
        interrupt(&bytes);
        declone(&["recover", arg(&image)]).exits(3);
        assert!(fs::read(&image).unwrap() == bytes && journal.exists());
    }
}

// --- others' eyes ---

#[test]
fn sets_by_qemu_are_cleaned_in_place() {
    if !called("sets_by_qemu_are_cleaned_in_place") {
        return;
    }
    let raw = machine_disk();
    let want = cleaned(&raw);
    for kind in [
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "monolithicSparse",
    ] {
        let dir = scratch();
        let (plain, image) = (dir.path().join("plain.img"), dir.path().join(IMAGE));
        fs::write(&plain, &raw).unwrap();
        let option = format!("subformat={kind}");
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &option];
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        let before = read_all(dir.path());
        declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
        let back = dir.path().join("back.img");
        let args = [
            "convert",
            "-f",
            "vmdk",
            "-O",
            "raw",
            arg(&image),
            arg(&back),
        ];
        tool("qemu-img", &args);
        assert!(fs::read(&back).unwrap() == want, "{kind}: by qemu");
        tool("qemu-img", &["check", "-f", "vmdk", arg(&image)]);
        let info = tool("qemu-img", &["info", arg(&image)]).stdout;
        let info = String::from_utf8_lossy(&info).into_owned();
        assert!(info.contains(kind), "{info}");
        let by_7zip = tool("7zz", &["x", "-so", "-tvmdk", arg(&image)]).stdout;
        assert!(by_7zip == want, "{kind}: by 7-Zip");
        let after = read_all(dir.path());
        let lens = |files: &Files, name: &str| files[name].len();
        for name in before.keys() {
            assert_eq!(lens(&before, name), lens(&after, name), "{kind}: {name}");
        }
        let mut text = after[IMAGE].clone();
        let at = vmdk::cid_at(&text);
        if kind != "monolithicSparse" {
            text[at..at + 8].copy_from_slice(&before[IMAGE][at..at + 8]);
            assert!(text == before[IMAGE], "{kind}: the descriptor but its CID");
            assert!(after[IMAGE] != before[IMAGE], "{kind}");
        }
    }
}
