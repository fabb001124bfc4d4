//! What an image names is not believed: whatever a parent, an extent, a backing file or another part
//! of the image is called, nothing outside the image's own directory is opened or even asked about.
//! strace is the witness; a file that the user allows shows each time that it would have been seen.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{
    containers::fixture,
    containers_ewf::disk,
    containers_qcow2::backed,
    judges::called,
    run::{arg, scratch},
    support::{
        aff4_builder as aff4, ewf_builder as ewf, ex01_builder as ex01, qcow2_builder as qcow2,
        tables::put, vdi_builder as vdi, vhd_builder as vhd, vhdx_builder as vhdx,
        vmdk_builder as vmdk, wim_builder as wim,
    },
    wim::tree,
};

/// The paths of a run: those it gave to the kernel, and those behind the descriptors it got.
struct Touched {
    code: i32,
    paths: BTreeSet<String>,
    network: bool,
}

/// A path without `.`, `..` and `//`, by its text alone.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The quoted strings of a line of strace, with their places.
fn quoted(line: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            continue;
        }
        let mut text = String::new();
        while let Some((_, c)) = chars.next() {
            match c {
                '"' => break,
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c => text.push(c),
            }
        }
        out.push((at, text));
    }
    out
}

/// Runs declone under strace in `cwd`.
fn touched(cwd: &Path, args: &[&str]) -> Touched {
    let log = cwd.with_extension("log");
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "8192", "-o", arg(&log)])
        .args(["-e", "trace=%file,%network", "-e", "signal=none"])
        .arg(env!("CARGO_BIN_EXE_declone"))
        .args(args)
        .current_dir(cwd)
        .output()
        .expect("strace")
        .status;
    let text = fs::read_to_string(&log).unwrap();
    let mut out = Touched {
        code: status.code().unwrap_or(-1),
        paths: BTreeSet::new(),
        network: false,
    };
    for line in text.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call).trim();
        let name = call.split('(').next().unwrap_or_default();
        out.network |= ["socket", "connect", "sendto"].contains(&name);
        // What came back: `= 3</path>`, also in the line that ends an interrupted call.
        if let Some((_, back)) = call.rsplit_once(") = ")
            && let Some((_, path)) = back.split_once("</")
        {
            out.paths.insert(plain(path.trim_end_matches('>')));
        }
        if name.is_empty() || name.starts_with('<') || ["getcwd", "execve"].contains(&name) {
            continue;
        }
        let mut given = quoted(call);
        if name.starts_with("readlink") {
            // The second one is what stands in the link.
            given.truncate(1);
        }
        for (at, path) in given {
            let dir = call[..at]
                .rsplit_once('<')
                .and_then(|(_, dir)| dir.split_once('>'))
                .map_or(arg(cwd), |(dir, _)| dir);
            out.paths.insert(match path.starts_with('/') {
                true => plain(&path),
                false => plain(&format!("{dir}/{path}")),
            });
        }
    }
    assert!(!out.paths.is_empty(), "{text}");
    out
}

/// Numbers of processes and descriptors differ from run to run.
fn numberless(path: &str) -> String {
    let mut out = String::new();
    for c in path.chars() {
        match (c.is_ascii_digit(), out.ends_with('0')) {
            (true, true) => {}
            (true, false) => out.push('0'),
            (false, _) => out.push(c),
        }
    }
    out
}

/// An image that names a file as it is told.
type Names<'a> = dyn Fn(&str) -> Vec<u8> + 'a;

/// An image that names a file.
struct Case<'a> {
    what: &'a str,
    /// The image's name.
    image: &'a str,
    /// The file outside: what the image would be read with.
    far: (&'a str, Vec<u8>),
    /// The image that names a file so.
    names: Box<Names<'a>>,
    /// Whether it is read when the user allows the file.
    allowed: bool,
}

/// Names that lead elsewhere; the file is `far`.
fn hostile(far: &Path) -> Vec<String> {
    let (path, last) = (arg(far), far.file_name().unwrap().to_str().unwrap());
    vec![
        path.to_owned(),
        format!("../far/{last}"),
        format!("..\\far\\{last}"),
        format!("./../far/{last}"),
        format!(".\\..\\far\\{last}"),
        // Beside the image there is a link to the file, and one to its directory.
        format!("link-{last}"),
        format!("links/{last}"),
        format!("links\\{last}"),
        format!("file:{path}"),
        format!("file://{path}"),
        format!("json:{{\"driver\":\"file\",\"filename\":\"{path}\"}}"),
        "nbd:127.0.0.1:10809".to_owned(),
        "nbd://127.0.0.1/x".to_owned(),
        format!("nbd+unix:///x?socket={path}"),
        format!("\\\\127.0.0.1\\c$\\{last}"),
        format!("//127.0.0.1/c/{last}"),
        format!("\\\\?\\C:\\{last}"),
        format!("C:\\{last}"),
        format!("C:{last}"),
        format!("{last}:stream"),
        "\\\\.\\PhysicalDrive0".to_owned(),
        "/dev/zero".to_owned(),
        "/proc/self/environ".to_owned(),
        "/etc/passwd".to_owned(),
        "..".to_owned(),
        ".".to_owned(),
        "/".to_owned(),
        String::new(),
    ]
}

impl Case<'_> {
    fn check(&self) {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for name in ["in", "far", "cwd"] {
            fs::create_dir(at(name)).unwrap();
        }
        let (inside, cwd) = (at("in"), at("cwd"));
        let (image, far) = (inside.join(self.image), at("far").join(self.far.0));
        fs::write(&far, &self.far.1).unwrap();
        let link = inside.join(format!("link-{}", self.far.0));
        std::os::unix::fs::symlink(&far, link).unwrap();
        std::os::unix::fs::symlink(at("far"), inside.join("links")).unwrap();
        // What a run touches that has nothing to do with the image.
        fs::write(&image, fixture("tiny-superfloppy.img")).unwrap();
        let scan = ["scan", arg(&image)];
        let usual = touched(&cwd, &scan);
        assert_eq!(usual.code, 1, "{}", self.what);
        let usual: BTreeSet<String> = usual.paths.iter().map(|path| numberless(path)).collect();
        let elsewhere = |seen: &Touched| -> Vec<String> {
            let own = format!("{}/", arg(&inside));
            seen.paths
                .iter()
                .filter(|path| !path.starts_with(&own) && !usual.contains(&numberless(path)))
                .cloned()
                .collect()
        };
        for name in hostile(&far) {
            fs::write(&image, (self.names)(&name)).unwrap();
            let out = at("out");
            let args: [&[&str]; 2] = [&scan, &["clean", arg(&image), "-o", arg(&out)]];
            // Every name for the look, one for the others.
            let args = if name.contains("../far") {
                &args[..]
            } else {
                &args[..1]
            };
            for args in args {
                let seen = touched(&cwd, args);
                let what = format!("{}, `{name}`, {args:?}", self.what);
                assert!([3, 4].contains(&seen.code), "{what}: {}", seen.code);
                let mut elsewhere = elsewhere(&seen);
                // The place of OUT was tried with a file that has no name.
                let unnamed = format!("{}/#", arg(dir.path()));
                elsewhere.retain(|path| {
                    let is_trial = path.starts_with(&unnamed) && path.ends_with("(deleted)");
                    !path.starts_with(arg(&out)) && !is_trial
                });
                assert!(elsewhere.is_empty(), "{what}: {elsewhere:?}");
                assert!(!seen.network, "{what}");
                assert!(!out.exists(), "{what}");
            }
        }
        // The witness sees it when it is opened.
        fs::write(&image, (self.names)(&format!("../far/{}", self.far.0))).unwrap();
        let seen = touched(&cwd, &[&scan[..], &["--allow-file", arg(&far)]].concat());
        let found = elsewhere(&seen).iter().any(|path| path == arg(&far));
        assert_eq!(found, self.allowed, "{}: {:?}", self.what, seen.paths);
        assert_eq!(seen.code == 3, !self.allowed, "{}", self.what);
    }
}

/// The disk below: the same, but for some sectors.
fn below(raw: &[u8]) -> Vec<u8> {
    let mut out = raw.to_vec();
    for sector in out.chunks_mut(512).step_by(3) {
        if sector.iter().any(|byte| *byte != 0) {
            sector.iter_mut().for_each(|byte| *byte ^= 0x5C);
        }
    }
    out
}

/// A VHD whose parent has this name wherever a VHD can say it.
pub fn vhd_child(raw: &[u8], below: &[u8], name: &str) -> Vec<u8> {
    let mut out = vhd::differencing(raw, below, "x.vhd", vhd::Shape::default());
    let head = vhd::HEADER;
    let text = out.len() - 1024;
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    out[text..text + 512].fill(0);
    put(&mut out, text, &units);
    for (number, code) in [b"W2ru", b"W2ku"].into_iter().enumerate() {
        let entry = head + 576 + number * 24;
        put(&mut out, entry, code);
        put(&mut out, entry + 4, &512_u32.to_be_bytes());
        put(&mut out, entry + 8, &(units.len() as u32).to_be_bytes());
        put(&mut out, entry + 16, &(text as u64).to_be_bytes());
    }
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    out[head + 64..head + 576].fill(0);
    put(&mut out, head + 64, &units);
    vhd::seal(&mut out[head..head + 1024], 36);
    out
}

#[test]
fn parents_outside_are_never_opened() {
    if !called("parents_outside_are_never_opened") {
        return;
    }
    let raw = fixture("tiny-superfloppy.img");
    let below = below(&raw);
    Case {
        what: "VHD parent locators and name",
        image: "a.vhd",
        far: ("far.vhd", vhd::dynamic(&below, vhd::Shape::default())),
        names: Box::new(|name| vhd_child(&raw, &below, name)),
        allowed: true,
    }
    .check();
    let shape = vhdx::Shape {
        block: 1 << 20,
        ..vhdx::Shape::default()
    };
    for keys in [
        &["relative_path"][..],
        &["volume_path"],
        &["absolute_win32_path"],
        &["relative_path", "volume_path", "absolute_win32_path"],
    ] {
        Case {
            what: &format!("VHDX parent locator {keys:?}"),
            image: "a.vhdx",
            far: ("far.vhdx", vhdx::build(&below, shape)),
            names: Box::new(|name| {
                let linkage = format!("{{{}}}", vhdx::DATA_WRITE);
                let mut all = vec![("parent_linkage", linkage)];
                all.extend(keys.iter().map(|key| (*key, name.to_owned())));
                let parent = vhdx::Parent {
                    raw: &below,
                    keys: all,
                    partial: true,
                };
                vhdx::differencing(&raw, shape, &parent)
            }),
            allowed: true,
        }
        .check();
    }
    Case {
        what: "VMDK parent hint",
        image: "a.vmdk",
        far: ("far.vmdk", vmdk::sparse(&below, vmdk::Shape::default())),
        names: Box::new(|name| {
            let mut out = vmdk::sparse(&raw, vmdk::Shape::default());
            let line = format!("RW {} SPARSE \"a.vmdk\"", raw.len() / 512);
            let hint = format!("parentCID=1a2b3c4d\nparentFileNameHint=\"{name}\"");
            let text =
                vmdk::descriptor("monolithicSparse", &[line]).replace("parentCID=ffffffff", &hint);
            out[512..512 + 20 * 512].fill(0);
            put(&mut out, 512, text.as_bytes());
            out
        }),
        allowed: true,
    }
    .check();
    let block = 64 << 10;
    let parent = vdi::image(&below, block, false, false, false);
    let child = vdi::differencing(&raw, &parent, block);
    Case {
        what: "VDI parent, which has no name",
        image: "a.vdi",
        far: ("far.vdi", parent),
        names: Box::new(|_| child.clone()),
        allowed: true,
    }
    .check();
}

#[test]
fn backing_and_data_files_outside_are_never_opened() {
    if !called("backing_and_data_files_outside_are_never_opened") {
        return;
    }
    let raw = fixture("tiny-superfloppy.img");
    let below = below(&raw);
    let shape = qcow2::Shape::default();
    for (format, far) in [
        (Some("raw"), below.clone()),
        (Some("qcow2"), qcow2::image(&below, shape)),
        (Some("vhdx"), vhdx::build(&below, vhdx::Shape::default())),
        // Without a format nothing is opened, allowed or not.
        (None, below.clone()),
    ] {
        Case {
            what: &format!("QCOW2 backing file, {format:?}"),
            image: "a.qcow2",
            far: ("far.img", far),
            names: Box::new(|name| {
                let mut out = qcow2::image(&raw, shape);
                // No name is no backing file.
                backed(&mut out, if name.is_empty() { ".." } else { name }, format);
                out
            }),
            allowed: format.is_some(),
        }
        .check();
    }
    Case {
        what: "QCOW2 external data file",
        image: "a.qcow2",
        far: ("far.img", raw.clone()),
        names: Box::new(|name| {
            let mut out = qcow2::image(&raw, shape);
            put(&mut out, 72, &(1_u64 << 2).to_be_bytes());
            put(&mut out, 104, &0x4441_5441_u32.to_be_bytes());
            put(&mut out, 108, &(name.len() as u32).to_be_bytes());
            put(&mut out, 112, name.as_bytes());
            out
        }),
        allowed: false,
    }
    .check();
}

#[test]
fn extents_outside_are_never_opened() {
    if !called("extents_outside_are_never_opened") {
        return;
    }
    let raw = fixture("tiny-superfloppy.img");
    let sectors = raw.len() / 512;
    let extent = vmdk::Shape {
        descriptor: false,
        ..vmdk::Shape::default()
    };
    for (kind, far) in [
        ("FLAT", raw.clone()),
        ("SPARSE", vmdk::sparse(&raw, extent)),
    ] {
        Case {
            what: &format!("VMDK extent, {kind}"),
            image: "a.vmdk",
            far: ("far.vmdk", far),
            names: Box::new(|name| {
                let line = format!("RW {sectors} {kind} \"{name}\"");
                vmdk::descriptor("custom", &[line]).into_bytes()
            }),
            allowed: true,
        }
        .check();
    }
}

/// The other files of a set have no names but the image's own with another number: all that can lead
/// outside is a link.
#[test]
fn parts_outside_are_never_opened() {
    use std::os::unix::fs::symlink;
    if !called("parts_outside_are_never_opened") {
        return;
    }
    let raw = disk(300);
    let e01 = ewf::Shape {
        segment: 2,
        ..ewf::Shape::default()
    };
    let ex01 = ex01::Shape {
        segment: 2,
        ..ex01::Shape::default()
    };
    let archive = wim::Wim::new(vec![tree()]).build();
    for (what, names, files) in [
        ("E01", ["a.E01", "a.E02", "a.E03"], ewf::set(&raw, &e01)),
        (
            "Ex01",
            ["a.Ex01", "a.Ex02", "a.Ex03"],
            ex01::set(&raw, &ex01),
        ),
        (
            "SWM",
            ["a.swm", "a2.swm", "a3.swm"],
            wim::split(&archive, 3),
        ),
    ] {
        assert_eq!(files.len(), 3, "{what}");
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for name in ["in", "far", "cwd"] {
            fs::create_dir(at(name)).unwrap();
        }
        let place = |number: usize, of: &str| at(of).join(names[number]);
        let image = place(0, "in");
        fs::write(&image, &files[0]).unwrap();
        fs::write(place(1, "in"), &files[1]).unwrap();
        fs::write(place(2, "far"), &files[2]).unwrap();
        symlink(place(2, "far"), place(2, "in")).unwrap();
        for args in [
            &["scan", arg(&image)][..],
            &["verify", arg(&image)],
            &["clean", arg(&image), "-n"],
        ] {
            let seen = touched(&at("cwd"), args);
            assert_eq!(seen.code, 3, "{what}: {args:?}");
            let far = arg(&at("far")).to_owned();
            let found: Vec<&String> = seen.paths.iter().filter(|p| p.starts_with(&far)).collect();
            assert!(found.is_empty(), "{what}: {args:?}: {found:?}");
        }
        // The file itself in place of the link: all is read.
        fs::remove_file(place(2, "in")).unwrap();
        fs::rename(place(2, "far"), place(2, "in")).unwrap();
        let seen = touched(&at("cwd"), &["scan", arg(&image)]);
        assert_ne!(seen.code, 3, "{what}");
        assert!(seen.paths.contains(arg(&place(2, "in"))), "{what}");
    }
}

/// An AFF4 names what it is made of by URNs, and its members by paths.
#[test]
fn streams_of_an_aff4_outside_are_never_opened() {
    if !called("streams_of_an_aff4_outside_are_never_opened") {
        return;
    }
    let raw = disk(60);
    let shape = aff4::Shape {
        chunk: 4096,
        bevy: 2,
        ..aff4::Shape::default()
    };
    let other = "aff4://aaaaaaaa-0000-0000-0000-000000000003";
    for moves in [false, true] {
        Case {
            what: "AFF4 stream",
            image: "a.aff4",
            far: ("far.aff4", raw.clone()),
            names: Box::new(|name| {
                let mut members = aff4::members(&raw, &shape);
                for (member, bytes, _) in &mut members {
                    if let Ok(text) = String::from_utf8(bytes.clone()) {
                        *bytes = text.replace(other, name).into_bytes();
                    }
                    // The members lie under that name, too.
                    if moves {
                        *member = member.replace(&other.replacen("://", "%3A%2F%2F", 1), name);
                    }
                }
                members.retain(|(name, ..)| moves || !name.contains("000000000003"));
                aff4::zip(&members, true, true)
            }),
            allowed: false,
        }
        .check_names_only();
    }
}

impl Case<'_> {
    /// As [`Case::check`], for a format that never opens another file and may read what it has.
    fn check_names_only(&self) {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for name in ["in", "far", "cwd"] {
            fs::create_dir(at(name)).unwrap();
        }
        let (image, far) = (at("in").join(self.image), at("far").join(self.far.0));
        fs::write(&far, &self.far.1).unwrap();
        std::os::unix::fs::symlink(&far, at("in").join(format!("link-{}", self.far.0))).unwrap();
        std::os::unix::fs::symlink(at("far"), at("in").join("links")).unwrap();
        fs::write(&image, fixture("tiny-superfloppy.img")).unwrap();
        let usual = touched(&at("cwd"), &["scan", arg(&image)]);
        let usual: BTreeSet<String> = usual.paths.iter().map(|path| numberless(path)).collect();
        for name in hostile(&far) {
            fs::write(&image, (self.names)(&name)).unwrap();
            let seen = touched(&at("cwd"), &["scan", arg(&image)]);
            assert!([3, 4].contains(&seen.code), "`{name}`: {}", seen.code);
            let elsewhere: Vec<&String> = seen
                .paths
                .iter()
                .filter(|path| !path.starts_with(arg(&at("in"))))
                .filter(|path| !usual.contains(&numberless(path)))
                .collect();
            assert!(elsewhere.is_empty(), "`{name}`: {elsewhere:?}");
            assert!(!seen.network, "`{name}`");
        }
    }
}
