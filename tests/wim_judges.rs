//! Archives that wimlib made, cleaned, and judged by wimlib and 7-Zip: both test them, both take them
//! apart, and every file with its times and attributes is what went in, without the targets. Run by
//! `tools/test` (DECLONE_WITNESS=1).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{
    judges::{called, tool},
    machine::{self, GUID, HIVES, TARGETS},
    run::{arg, declone, scratch},
    support::{ntfs_builder::Geometry, random::Random, wim_builder as wim},
    wim::{holds, tree},
};

/// Writes a tree into a directory.
pub fn spread(node: &wim::Node, path: &Path) {
    fs::create_dir_all(path).unwrap();
    for child in &node.children {
        let path = path.join(&child.name);
        match child.attributes & wim::DIRECTORY {
            0 => {
                let data = child.streams.first().map(|s| s.1.clone());
                fs::write(&path, data.unwrap_or_default()).unwrap();
            }
            _ => spread(child, &path),
        }
    }
}

/// The files below a directory.
pub fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            out.insert(name, fs::read(&path).unwrap());
        }
    }
    out
}

/// What `wimdir --detailed` says of each file, without what a clean may change.
fn listing(image: &Path, number: &str) -> BTreeMap<String, Vec<String>> {
    let output = tool("wimlib-imagex", &["dir", arg(image), number, "--detailed"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut out = BTreeMap::new();
    for block in text.split("----------------------------------------------------------------") {
        let path = block
            .lines()
            .find_map(|line| line.strip_prefix("Full Path"));
        let Some(path) = path else { continue };
        let path = path.split('"').nth(1).unwrap().to_owned();
        let kept = block.lines().filter(|line| {
            ![
                "Hash",
                "Offset in WIM",
                "Compressed size",
                "Link Group",
                "Link Count",
                "Reference Count",
                "Raw size",
                "Solid resource",
            ]
            .iter()
            .any(|skip| line.trim_start().starts_with(skip))
        });
        out.insert(path, kept.map(str::to_owned).collect());
    }
    assert!(out.len() > 20, "{text}");
    out
}

pub fn is_target(path: &str) -> bool {
    let path = format!("/{path}").replace("//", "/").replace('/', "\\");
    TARGETS
        .iter()
        .any(|target| target.eq_ignore_ascii_case(&path))
}

/// Cleans, and holds what wimlib and 7-Zip say against what they said before.
fn judge(name: &str, image: &Path, images: usize) {
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let out = path("out.wim");
    let before = fs::read(image).unwrap();
    declone(&["clean", arg(image), "-o", arg(&out)]).exits(0);
    let after = fs::read(&out).unwrap();
    tool("wimlib-imagex", &["verify", arg(&out)]);
    tool("7zz", &["t", arg(&out)]);
    for number in 1..=images {
        let number = number.to_string();
        let (was, is, seven) = (
            path(&format!("was{number}")),
            path(&format!("is{number}")),
            path(&format!("seven{number}")),
        );
        tool(
            "wimlib-imagex",
            &["apply", arg(image), &number, arg(&was), "--no-acls"],
        );
        tool(
            "wimlib-imagex",
            &["apply", arg(&out), &number, arg(&is), "--no-acls"],
        );
        tool(
            "7zz",
            &["x", "-y", &format!("-o{}", arg(&seven)), arg(&out)],
        );
        let seven = match images {
            1 => seven,
            _ => seven.join(&number),
        };
        let (was, is) = (files(&was), files(&is));
        let seven: BTreeMap<_, _> = files(&seven)
            .into_iter()
            .filter(|(path, _)| !path.ends_with(".xml") && !path.starts_with("[DELETED]"))
            .collect();
        assert!(is == seven, "{name}: wimlib and 7-Zip agree");
        let want: Vec<_> = was.keys().filter(|path| !is_target(path)).collect();
        assert_eq!(is.keys().collect::<Vec<_>>(), want, "{name}");
        // wimlib does not capture RECYCLER.
        assert_eq!(was.len(), is.len() + TARGETS.len() - 1, "{name}");
        for (path, bytes) in &is {
            let hive = HIVES
                .iter()
                .any(|hive| hive[1..].replace('\\', "/") == *path);
            assert_eq!(*bytes != was[path], hive, "{name}: {path}");
            assert_eq!(bytes.len(), was[path].len());
            assert!(!holds(bytes, GUID.as_bytes()), "{name}: {path}");
        }
        let mut want = listing(image, &number);
        want.retain(|path, _| !is_target(path));
        assert_eq!(listing(&out, &number), want, "{name}");
    }
    // Nothing of the old is left: no changed chunk, no old hash.
    let hive = machine::hive(5).build();
    let old = sha(&hive);
    assert!(
        holds(&before, &old) && !holds(&after, &old),
        "{name}: the hive's hash"
    );
    let (was, is) = (chunks(&before), chunks(&after));
    let gone: Vec<_> = was.iter().filter(|chunk| !is.contains(*chunk)).collect();
    let solid = !solids(&after).is_empty();
    if solid {
        decode_solids(name, image, &out, images);
    }
    assert!(
        gone.len() >= if solid { 1 } else { 4 },
        "{name}: {} chunks",
        gone.len()
    );
    for chunk in gone.iter().filter(|chunk| chunk.len() >= 24) {
        assert!(!holds(&after, chunk), "{name}: a chunk of what is gone");
    }
    // In place, undone, and again.
    let copy = path("copy.wim");
    fs::write(&copy, &before).unwrap();
    let undo = path("undo");
    declone(&["clean", arg(&copy), "--in-place", "--undo", arg(&undo)]).exits(0);
    assert!(fs::read(&copy).unwrap() == after, "{name}: in place");
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(fs::read(&copy).unwrap() == before, "{name}: undone");
    let again = declone(&["clean", arg(&out), "--in-place"]).exits(0);
    assert!(again.out.contains("Nothing to do"), "{name}");
    assert!(fs::read(&out).unwrap() == after, "{name}");
    declone(&["verify", arg(&out)]).exits(0);
}

/// The chunks of all compressed resources, as they lie in the file, and whole resources that are not.
pub fn chunks(file: &[u8]) -> BTreeSet<Vec<u8>> {
    let size = wim::get32(file, 0x14);
    let table = wim::place(file, 0x30);
    let mut out = BTreeSet::new();
    for entry in file[table.at..table.at + table.size].chunks(50) {
        let one = wim::place(entry, 0);
        if one.flags & 0x10 != 0 && one.len != SOLID {
            continue;
        }
        let bytes = &file[one.at..one.at + one.size];
        if one.flags & 0x10 != 0 {
            out.extend(cut(bytes));
            continue;
        }
        if one.flags & 4 == 0 {
            out.insert(bytes.to_vec());
            continue;
        }
        let count = one.len.div_ceil(size);
        let data = &bytes[4 * (count - 1)..];
        let mut starts = vec![0];
        starts.extend((1..count).map(|i| wim::get32(bytes, 4 * (i - 1))));
        starts.push(data.len());
        out.extend(
            starts
                .windows(2)
                .map(|pair| data[pair[0]..pair[1]].to_vec()),
        );
    }
    out
}

/// The chunks of a solid resource.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    let count = wim::get64(bytes, 0).div_ceil(wim::get32(bytes, 8));
    let mut at = 16 + 4 * count;
    let mut out = Vec::new();
    for i in 0..count {
        let len = wim::get32(bytes, 16 + 4 * i);
        out.push(bytes[at..at + len].to_vec());
        at += len;
    }
    assert_eq!(at, bytes.len());
    out
}

/// The length that says "solid resource".
const SOLID: usize = 0x1_0000_0000;

/// Table entries of solid resources and of what is in them, as runs.
fn solids(file: &[u8]) -> Vec<Vec<&[u8]>> {
    let table = wim::place(file, 0x30);
    let mut runs: Vec<Vec<&[u8]>> = Vec::new();
    let mut open = false;
    for entry in file[table.at..table.at + table.size].chunks(50) {
        let solid = wim::place(entry, 0).flags & 0x10 != 0;
        match (solid, open) {
            (true, true) => runs.last_mut().unwrap().push(entry),
            (true, false) => runs.push(vec![entry]),
            (false, _) => {}
        }
        open = solid;
    }
    runs
}

/// wimlib decodes every byte of every solid resource, the gaps included: they are zeros, and the rest
/// is what the files hold. For that the resources get a table in which each is one file.
#[track_caller]
fn decode_solids(name: &str, image: &Path, out: &Path, images: usize) {
    let dir = scratch();
    let after = fs::read(out).unwrap();
    let mut known = BTreeMap::new();
    for number in 1..=images {
        let number = number.to_string();
        let tree = dir.path().join(&number);
        tool(
            "wimlib-imagex",
            &["apply", arg(out), &number, arg(&tree), "--no-acls"],
        );
        known.extend(files(&tree).into_values().map(|data| (sha(&data), data)));
    }
    let (mut gaps, mut runs) = (0, Vec::new());
    for run in solids(&after) {
        let is_resource = |entry: &&&[u8]| wim::place(entry, 0).len == SOLID;
        let mut contents = Vec::new();
        let mut bounds = vec![0];
        for entry in run.iter().filter(is_resource) {
            let at = wim::place(entry, 0).at;
            contents.resize(contents.len() + wim::get64(&after, at), 0_u8);
            bounds.push(contents.len());
        }
        let mut used = 0;
        for entry in run.iter().filter(|entry| !is_resource(entry)) {
            let one = wim::place(entry, 0);
            let data = &known[&entry[30..50]];
            assert_eq!(data.len(), one.size, "{name}");
            contents[one.at..one.at + one.size].copy_from_slice(data);
            used += one.size;
        }
        gaps += contents.len() - used;
        let resources: Vec<Vec<u8>> = run
            .iter()
            .filter(is_resource)
            .map(|entry| entry.to_vec())
            .collect();
        runs.push((resources, contents, bounds));
    }
    assert!(gaps >= 40_200, "{name}: what was removed is a gap: {gaps}");
    let mut root = wim::Node::directory("");
    let (mut file, mut table) = (after.clone(), Vec::new());
    for (r, (resources, contents, bounds)) in runs.iter().enumerate() {
        for resource in resources {
            table.extend(resource);
        }
        for (i, pair) in bounds.windows(2).enumerate() {
            let data = &contents[pair[0]..pair[1]];
            root.add(&format!("\\all{r}-{i}"), data);
            table.extend(wim::resource(data.len(), 0x10, pair[0], 0));
            table.extend([1, 0, 1, 0, 0, 0]);
            table.extend(sha(data));
        }
        // Something else between the runs.
        let stale = b"between";
        table.extend(wim::resource(stale.len(), 0, file.len(), stale.len()));
        table.extend([1, 0, 1, 0, 0, 0]);
        table.extend(sha(&[&stale[..], &[r as u8]].concat()));
        file.extend(stale);
    }
    // As many images as the XML data has.
    let metadata = wim::metadata(&root, &[]);
    for _ in 0..images {
        table.extend(wim::resource(metadata.len(), 2, file.len(), metadata.len()));
        table.extend([1, 0, 1, 0, 0, 0]);
        table.extend(sha(&metadata));
        file.extend(&metadata);
    }
    let place = wim::resource(table.len(), 0, file.len(), table.len());
    file[0x30..0x48].copy_from_slice(&place);
    file.extend(&table);
    file[0x60..0x94].fill(0);
    let all = dir.path().join("all.wim");
    fs::write(&all, &file).unwrap();
    tool(
        "wimlib-imagex",
        &[
            "extract",
            arg(&all),
            "1",
            "--no-acls",
            &format!("--dest-dir={}", arg(&dir.path().join("all"))),
        ],
    );
    // The old table on the new file gives nothing of what is gone.
    let before = fs::read(image).unwrap();
    let old = wim::place(&before, 0x30);
    let mut back = after;
    let place = wim::resource(old.size, 0, back.len(), old.size);
    back.extend(&before[old.at..old.at + old.size]);
    back[0x30..0x48].copy_from_slice(&place);
    back[0x7C..0x94].fill(0);
    fs::write(&all, &back).unwrap();
    let ran = std::process::Command::new("wimlib-imagex")
        .args(["verify", arg(&all)])
        .output()
        .unwrap();
    assert!(!ran.status.success(), "{name}: the old hashes are not met");
}

fn sha(bytes: &[u8]) -> Vec<u8> {
    wim::sha1(bytes).to_vec()
}

#[test]
fn archives_of_wimlib_in_every_compression() {
    if !called("archives_of_wimlib_in_every_compression") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source");
    spread(&tree(), &source);
    for (name, options) in [
        ("none", &["--compress=none"][..]),
        ("lzx", &["--compress=LZX"]),
        ("lzx checked", &["--compress=LZX", "--check"]),
        ("lzx boot", &["--compress=LZX", "--boot", "--check"]),
        ("lzx 64K", &["--compress=LZX", "--chunk-size=64K"]),
        ("lzx fast", &["--compress=LZX:20"]),
        ("xpress", &["--compress=XPRESS"]),
        ("xpress 4K", &["--compress=XPRESS", "--chunk-size=4K"]),
        (
            "xpress 64K",
            &["--compress=XPRESS", "--chunk-size=64K", "--check"],
        ),
        ("lzms", &["--compress=LZMS"]),
        ("lzms 32K", &["--compress=LZMS", "--chunk-size=32K"]),
    ] {
        let image = dir.path().join(format!("{}.wim", name.replace(' ', "-")));
        tool(
            "wimlib-imagex",
            &[&["capture", arg(&source), arg(&image)], options].concat(),
        );
        judge(name, &image, 1);
    }
}

#[test]
fn solid_archives_of_wimlib() {
    if !called("solid_archives_of_wimlib") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source");
    spread(&tree(), &source);
    for (name, options) in [
        ("lzms 64M", &["--solid"][..]),
        (
            "lzms 1M checked",
            &["--solid-chunk-size=1M", "--check", "--boot"],
        ),
        ("lzms 32K", &["--solid-chunk-size=32K", "--check"]),
        (
            "lzx 64K",
            &["--solid-compress=LZX", "--solid-chunk-size=64K"],
        ),
        (
            "xpress 64K",
            &["--solid-compress=XPRESS", "--solid-chunk-size=64K"],
        ),
    ] {
        let image = dir.path().join(format!("{}.esd", name.replace(' ', "-")));
        tool(
            "wimlib-imagex",
            &[
                &["capture", arg(&source), arg(&image), "one", "--solid"],
                options,
            ]
            .concat(),
        );
        judge(name, &image, 1);
        // A second run with what is only in the second image, and gaps of a removed file.
        fs::write(
            source.join("second.txt"),
            "only in the second image\n".repeat(3000),
        )
        .unwrap();
        tool(
            "wimlib-imagex",
            &[
                &["append", arg(&source), arg(&image), "two", "--solid"],
                &options[..1],
            ]
            .concat(),
        );
        judge(&format!("{name}, two images"), &image, 2);
        tool(
            "wimlib-imagex",
            &["update", arg(&image), "2", "--command=delete /second.txt"],
        );
        judge(&format!("{name}, updated"), &image, 2);
        fs::remove_file(source.join("second.txt")).unwrap();
    }
}

/// The chunks of the one solid resource of an archive, as they lie in the file.
fn solid_chunks(file: &[u8]) -> Vec<Vec<u8>> {
    let runs = solids(file);
    let entry = runs[0][0];
    assert!(runs.len() == 1 && wim::get64(entry, 16) == SOLID);
    let one = wim::place(entry, 0);
    cut(&file[one.at..one.at + one.size])
}

/// Of the chunks that change some keep their length, are written where they were, and move with the others.
#[test]
fn solid_chunks_that_keep_their_length_beside_some_that_do_not() {
    if !called("solid_chunks_that_keep_their_length_beside_some_that_do_not") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source");
    spread(&tree(), &source);
    // Smsuid.dat and what lies beside it cannot be compressed: chunks of it are stored as they are.
    let mut random = Random(6);
    for (name, len) in [
        ("RMSUID.DAT", 150_000),
        ("WINDOWS/MS/SMS/CORE/DATA/Smsuid.dat", 40_000),
        ("TMSUID.DAT", 150_000),
    ] {
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        fs::write(source.join(name), bytes).unwrap();
    }
    for method in ["LZX", "XPRESS"] {
        let image = dir.path().join(format!("{method}.esd"));
        let method = format!("--solid-compress={method}");
        tool(
            "wimlib-imagex",
            &[
                "capture",
                arg(&source),
                arg(&image),
                "one",
                "--solid",
                &method,
                "--solid-chunk-size=64K",
            ],
        );
        judge(&method, &image, 1);
        let out = dir.path().join("out.esd");
        declone(&["clean", arg(&image), "-o", arg(&out), "--force"]).exits(0);
        let (was, is) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
        let (was, is) = (solid_chunks(&was), solid_chunks(&is));
        assert_eq!(was.len(), is.len());
        let differ = || was.iter().zip(&is).filter(|(was, is)| was != is);
        let kept = differ().filter(|(was, is)| was.len() == is.len()).count();
        let moved = differ().count() - kept;
        assert!(
            kept > 0 && moved > 0,
            "{method}: {kept} kept, {moved} moved"
        );
    }
}

#[test]
fn compressed_contents_are_searched_whichever_image_is_chosen() {
    if !called("compressed_contents_are_searched_whichever_image_is_chosen") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("WINDOWS")).unwrap();
    let text = format!(
        "{}{}",
        machine::ini(),
        "so that it is compressed\n".repeat(300)
    );
    fs::write(source.join("WINDOWS/Smscfg.ini"), machine::ini()).unwrap();
    fs::write(source.join("notes.txt"), text).unwrap();
    let image = dir.path().join("a.wim");
    for (verb, name) in [("capture", "one"), ("append", "two")] {
        tool("wimlib-imagex", &[verb, arg(&source), arg(&image), name]);
    }
    assert!(!holds(
        &fs::read(&image).unwrap(),
        b"so that it is compressed\nso that it"
    ));
    for number in ["1", "2", "all"] {
        let ran = declone(&["verify", arg(&image), "--image-index", number]).exits(1);
        assert!(ran.out.contains(r"in \notes.txt of image 1"), "{}", ran.out);
    }
}

#[test]
fn archives_of_wimlib_with_a_history() {
    if !called("archives_of_wimlib_with_a_history") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source");
    spread(&tree(), &source);
    for method in ["LZX", "XPRESS", "none"] {
        let image = dir.path().join(format!("{method}.wim"));
        let compress = format!("--compress={method}");
        tool(
            "wimlib-imagex",
            &[
                "capture",
                arg(&source),
                arg(&image),
                "one",
                &compress,
                "--check",
            ],
        );
        fs::write(source.join("second.txt"), "only there").unwrap();
        tool(
            "wimlib-imagex",
            &["append", arg(&source), arg(&image), "two", "--boot"],
        );
        judge(&format!("{method}, two images"), &image, 2);
        // Others leave stale bytes when they change a file.
        for command in [
            "delete /second.txt",
            "add /etc/hostname /new.txt",
            "rename /new.txt /newer.txt",
        ] {
            tool(
                "wimlib-imagex",
                &["update", arg(&image), "2", &format!("--command={command}")],
            );
        }
        judge(&format!("{method}, updated"), &image, 2);
        fs::remove_file(source.join("second.txt")).unwrap();
    }
}

#[test]
fn archives_of_wimlib_that_are_refused() {
    if !called("archives_of_wimlib_that_are_refused") {
        return;
    }
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let source = path("source");
    spread(&tree(), &source);
    let image = path("pipable.wim");
    tool(
        "wimlib-imagex",
        &["capture", arg(&source), arg(&image), "--pipable"],
    );
    let before = fs::read(&image).unwrap();
    for args in [
        vec!["scan", arg(&image)],
        vec!["clean", arg(&image), "--in-place"],
        vec!["clean", arg(&image), "-n"],
    ] {
        let ran = declone(&args);
        let said = format!("{}{}", ran.out, ran.err);
        ran.exits(4);
        assert!(said.contains("pipable"), "{said}");
    }
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn what_windows_keeps_in_a_volume_stays_in_its_capture() {
    if !called("what_windows_keeps_in_a_volume_stays_in_its_capture") {
        return;
    }
    let dir = scratch();
    let (volume, image, out) = (
        dir.path().join("a.img"),
        dir.path().join("a.wim"),
        dir.path().join("b.wim"),
    );
    let mut builder = machine::volume(24 << 20, Geometry::default(), 5);
    builder
        .file(r"\WINDOWS\with stream.txt", "main")
        .stream("zone", "a stream that stays");
    builder
        .file(r"\old\sms1x.ini", "main")
        .stream("zone", "a stream that goes");
    builder
        .file(r"\WINDOWS\a point", "")
        .reparse(0xA000_000C, b"\0\0\x08\0\0\0\x08\0\x01\0\0\0a\0b\0c\0d\0");
    machine::write(&builder, &volume);
    for options in [&["--compress=LZX", "--check"][..], &["--solid"]] {
        let _ = fs::remove_file(&image);
        tool(
            "wimlib-imagex",
            &[&["capture", arg(&volume), arg(&image)], options].concat(),
        );
        let gone = |path: &str| is_target(path) || path == "/old/sms1x.ini";
        let mut want = listing(&image, "1");
        let text = format!("{want:?}");
        for word in ["zone", "Security Descriptor", "Short Name", "Reparse"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        declone(&["clean", arg(&image), "-o", arg(&out), "--force"]).exits(0);
        tool("wimlib-imagex", &["verify", arg(&out)]);
        tool("7zz", &["t", arg(&out)]);
        let all = want.len();
        want.retain(|path, _| !gone(path));
        assert!(all >= want.len() + 5, "{all} {}", want.len());
        assert_eq!(listing(&out, "1"), want);
        // The same descriptors, as they are in the metadata.
        let dump = |path: &Path| tool("wimlib-imagex", &["info", arg(path)]).stdout;
        assert!(!dump(&out).is_empty());
    }
}

#[test]
fn the_builders_archives_are_right_for_others_too() {
    if !called("the_builders_archives_are_right_for_others_too") {
        return;
    }
    let dir = scratch();
    for integrity in [None, Some(65_536)] {
        let mut archive = wim::Wim::new(vec![tree(), tree()]);
        archive.boot = 2;
        archive.integrity = integrity;
        let image = dir.path().join(format!("{integrity:?}.wim"));
        let out = dir.path().join(format!("{integrity:?}.cleaned.wim"));
        fs::write(&image, archive.build()).unwrap();
        declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
        for path in [&image, &out] {
            tool("wimlib-imagex", &["verify", arg(path)]);
            tool("7zz", &["t", arg(path)]);
        }
        for number in ["1", "2"] {
            let mut want = listing(&image, number);
            want.retain(|path, _| !is_target(path));
            assert_eq!(listing(&out, number), want);
        }
    }
}
