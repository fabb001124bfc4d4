//! The files of reports: whole or as they were, whatever stands under their names.

use std::{
    fs,
    io::Read as _,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    machine,
    run::{arg, declone, names, scratch},
    support::{
        fixtures, ntfs_builder::Geometry, vdi_builder as vdi, vhdx_builder as vhdx,
        vmdk_builder as vmdk,
    },
};

const OLD: &str = "{\"images\": [], \"old\": true}\n";

fn image(dir: &Path) -> PathBuf {
    let path = dir.join("a.img");
    machine::write(&machine::volume(8 << 20, Geometry::default(), 5), &path);
    path
}

/// Runs declone in a shell.
fn shell(script: &str, args: &[&str]) -> std::process::Output {
    let program = env!("CARGO_BIN_EXE_declone");
    let mut all = vec!["-c", script, program];
    all.extend(args);
    Command::new("bash").args(all).output().unwrap()
}

#[test]
fn a_report_is_a_new_file_in_the_place_of_the_old_one() {
    let dir = scratch();
    let image = image(dir.path());
    let reports = dir.path().join("reports");
    fs::create_dir(&reports).unwrap();
    let (json, page) = (reports.join("a.json"), reports.join("a.html"));
    let long = reports.join(format!("{}.json", "n".repeat(250)));
    let run = |json: &Path| {
        declone(&[
            "scan",
            arg(&image),
            "--json",
            arg(json),
            "--html",
            arg(&page),
        ])
        .exits(1);
    };
    run(&json);
    for path in [&json, &page] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds the identity");
    }
    let whole = fs::read(&json).unwrap();
    // Another name of the same file, and a reader in the middle of it, keep the old report.
    let twin = reports.join("twin");
    fs::write(&json, OLD).unwrap();
    fs::set_permissions(&json, fs::Permissions::from_mode(0o644)).unwrap();
    fs::hard_link(&json, &twin).unwrap();
    let mut reader = fs::File::open(&json).unwrap();
    run(&json);
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, OLD);
    assert_eq!(fs::read_to_string(&twin).unwrap(), OLD);
    assert_eq!(fs::read(&json).unwrap(), whole);
    let mode = fs::metadata(&json).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "whoever could read the old one, can");
    // A link stays one: what it leads to is replaced.
    fs::remove_file(&twin).unwrap();
    let link = reports.join("link.json");
    symlink("../real.json", &link).unwrap();
    fs::write(dir.path().join("real.json"), OLD).unwrap();
    run(&link);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(dir.path().join("real.json")).unwrap(), whole);
    run(&long);
    assert_eq!(fs::read(&long).unwrap(), whole);
    let long = long.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(names(&reports), ["a.html", "a.json", "link.json", &long]);
}

#[test]
fn a_run_that_fails_leaves_the_old_report_and_no_other_file() {
    let dir = scratch();
    let image = image(dir.path());
    let json = dir.path().join("a.json");
    let before = |json: &Path| fs::write(json, OLD).unwrap();
    let args = ["scan", arg(&image), "--json", arg(&json)];
    // No room: the first bytes can be written, the rest cannot.
    before(&json);
    let ran = shell("ulimit -f 1; exec \"$0\" \"$@\"", &args);
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    assert_eq!(fs::read_to_string(&json).unwrap(), OLD);
    assert_eq!(names(dir.path()), ["a.img", "a.json"]);
    // A usage error, found before or after the report's name was looked at.
    for more in [&["--rules", "nosuch"][..], &["--partition", "x"]] {
        let mut args = args.to_vec();
        args.extend(more);
        declone(&args).exits(2);
        assert_eq!(fs::read_to_string(&json).unwrap(), OLD);
    }
    // Nor does it leave an empty file where there was none.
    fs::remove_file(&json).unwrap();
    let ran = shell("ulimit -f 1; exec \"$0\" \"$@\"", &args);
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    let missing = dir.path().join("missing.img");
    declone(&[
        "clean",
        arg(&missing),
        "-n",
        "--rules",
        "nosuch",
        "--json",
        arg(&json),
    ])
    .exits(2);
    assert_eq!(names(dir.path()), ["a.img"]);
}

/// Ends the program while it works: nothing of a report is to be seen.
#[test]
fn a_signal_leaves_the_old_report_and_no_other_file() {
    let dir = scratch();
    let image = image(dir.path());
    let json = dir.path().join("a.json");
    for wait in [0, 2, 5, 10, 20, 40, 80] {
        fs::write(&json, OLD).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
            .args(["scan", arg(&image), "--json", arg(&json)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        let status = child.wait().unwrap();
        let code = status.code();
        assert!(
            status.signal().is_some() || matches!(code, Some(1 | 5)),
            "{status}"
        );
        let text = fs::read_to_string(&json).unwrap();
        let whole: Result<serde_json::Value, _> = serde_json::from_str(&text);
        assert!(whole.is_ok(), "{text}");
        assert_eq!(names(dir.path()), ["a.img", "a.json"], "after {wait} ms");
    }
}

#[test]
fn what_is_no_file_is_written_as_it_is() {
    let dir = scratch();
    let image = image(dir.path());
    for flag in ["--json", "--html"] {
        declone(&["scan", arg(&image), flag, "/dev/null"]).exits(1);
    }
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let whole = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let parsed = |bytes: &[u8]| -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {bytes:?}"))
    };
    // A pipe behind a descriptor, a file behind one, a substituted process, a named pipe.
    let ran = shell(
        "\"$0\" \"$@\" | cat",
        &["scan", arg(&image), "-q", "--json", "/dev/stdout"],
    );
    assert_eq!(parsed(&ran.stdout), whole);
    let out = dir.path().join("out.json");
    fs::write(&out, "").unwrap();
    let inode = fs::metadata(&out).unwrap().ino();
    let script = format!("exec \"$0\" \"$@\" 3>{}", arg(&out));
    shell(&script, &["scan", arg(&image), "-q", "--json", "/dev/fd/3"]);
    assert_eq!(parsed(&fs::read(&out).unwrap()), whole);
    assert_eq!(fs::metadata(&out).unwrap().ino(), inode);
    let ran = shell("\"$0\" scan \"$1\" -q --json >(cat) | cat", &[arg(&image)]);
    assert_eq!(parsed(&ran.stdout), whole);
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let script = "cat \"$2\" & \"$0\" scan \"$1\" -q --json \"$2\"; wait";
    let ran = shell(script, &[arg(&image), arg(&pipe)]);
    assert_eq!(parsed(&ran.stdout), whole);
    assert_eq!(names(dir.path()), ["a.img", "out.json", "pipe"]);
}

#[test]
fn what_is_no_report_is_not_replaced() {
    let dir = scratch();
    let image = image(dir.path());
    let part = dir.path().join("part");
    fs::write(&part, [7; 100]).unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let dangling = dir.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for flag in ["--json", "--html"] {
        for (path, code) in [(&part, 2), (&dangling, 2), (&folder, 5), (&image, 2)] {
            declone(&["scan", arg(&image), flag, arg(path)]).exits(code);
        }
        // An empty file is nobody's; the next round replaces this report.
        declone(&["scan", arg(&image), flag, arg(&empty)]).exits(1);
        assert!(fs::metadata(&empty).unwrap().len() > 1000);
    }
    assert_eq!(fs::read(&part).unwrap(), [7; 100]);
    assert_eq!(
        names(dir.path()),
        ["a.img", "dangling", "empty", "folder", "part"]
    );
}

fn json(path: &Path) -> serde_json::Value {
    let text = fs::read(path).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}: {}", text.len()))
}

#[test]
fn a_report_of_a_clean_is_not_replaced_by_one_of_nothing_done() {
    let dir = scratch();
    let image = image(dir.path());
    let report = dir.path().join("a.json");
    let args = ["clean", arg(&image), "--in-place", "--json", arg(&report)];
    declone(&args).exits(0);
    let first = json(&report);
    assert_eq!(first["images"][0]["resumed"], false);
    let tokens = first["images"][0]["tokens"].as_array().unwrap().len();
    assert!(tokens > 3, "{tokens}");
    for _ in 0..3 {
        declone(&args);
        declone(&["scan", arg(&image), "--json", arg(&report)]);
        let now = json(&report);
        // The newest of each verb, behind the clean.
        assert_eq!(now["images"].as_array().unwrap().len(), 3);
        assert_eq!(now["images"][0], first["images"][0]);
        assert_eq!(now["images"][2]["verb"], "scan");
    }
    assert_eq!(names(dir.path()), ["a.img", "a.json"]);
}

/// Killed at any moment, and run once more: the report tells what was removed.
#[test]
fn a_killed_clean_is_told_by_the_next_run() {
    let dir = scratch();
    let image = image(dir.path());
    let report = dir.path().join("a.json");
    let dirty = fs::read(&image).unwrap();
    let mut args = vec!["clean", arg(&image), "--in-place", "--json", arg(&report)];
    args.extend(["--hash", "sha256"]);
    let ran = declone(&args).exits(0);
    let mut want = json(&report)["images"][0].clone();
    // How much of the file is holes depends on how it was written.
    want["searched"] = 0.into();
    let clean = fs::read(&image).unwrap();
    let mut resumed = 0;
    for step in 0..40 {
        fs::write(&image, &dirty).unwrap();
        fs::remove_file(&report).ok();
        let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if step % 2 == 0 {
            std::thread::sleep(ran.took * step / 40);
        } else {
            // What it will be lies there: from now on the image changes.
            let intent = dir.path().join("a.json.intent");
            while !intent.exists() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_micros(u64::from(step) * 300));
        }
        child.kill().ok();
        child.wait().unwrap();
        let text = fs::read(&report).unwrap_or_else(|_| b"{}".to_vec());
        assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        declone(&args);
        assert!(fs::read(&image).unwrap() == clean);
        let mut now = json(&report)["images"][0].clone();
        resumed += u32::from(now["resumed"] == true);
        now["resumed"] = false.into();
        now["searched"] = 0.into();
        assert_eq!(now, want, "step {step}");
        assert_eq!(names(dir.path()), ["a.img", "a.json"], "step {step}");
    }
    assert!(resumed > 0, "no kill met the end");
}

#[test]
fn temporaries_of_dead_runs_go_and_others_stay() {
    let dir = scratch();
    let image = image(dir.path());
    let report = dir.path().join("a.json");
    let dead = {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    let own = std::process::id();
    for name in [
        format!(".a.json.declone-{dead}-0.tmp"),
        format!(".a.json.declone-{own}-0.tmp"),
        format!(".b.json.declone-{dead}-0.tmp"),
        ".a.json.declone-x-0.tmp".to_owned(),
    ] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    declone(&["scan", arg(&image), "--json", arg(&report)]).exits(1);
    let mut want = vec![
        format!(".a.json.declone-{own}-0.tmp"),
        ".a.json.declone-x-0.tmp".to_owned(),
        format!(".b.json.declone-{dead}-0.tmp"),
        "a.img".to_owned(),
        "a.json".to_owned(),
    ];
    want.sort();
    assert_eq!(names(dir.path()), want);
}

/// OUT is there: made by a run that was ended before it could say so, or by somebody else.
#[test]
fn an_out_that_is_this_clean_is_done_and_any_other_stays() {
    let dir = scratch();
    let image = image(dir.path());
    let (out, report) = (dir.path().join("out.img"), dir.path().join("a.json"));
    let args = [
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--json",
        arg(&report),
    ];
    declone(&args).exits(0);
    let made = fs::read(&out).unwrap();
    let inode = fs::metadata(&out).unwrap().ino();
    let mut first = json(&report)["images"][0].clone();
    fs::remove_file(&report).unwrap();
    declone(&args).exits(0);
    let mut second = json(&report)["images"][0].clone();
    assert!(fs::read(&out).unwrap() == made && fs::metadata(&out).unwrap().ino() == inode);
    let remarks = second["remarks"].to_string();
    assert!(remarks.contains("byte for byte"), "{remarks}");
    for report in [&mut first, &mut second] {
        report["remarks"] = 0.into();
        report["done"]["method"] = 0.into();
    }
    assert_eq!(first, second);
    // One byte in a page that no clean changes, one in a page that it does, the image itself.
    let same = |at: &usize| fs::read(&image).unwrap()[*at] == made[*at];
    let quiet = (0..made.len()).rev().find(same).unwrap();
    let edited = (0..made.len()).find(|at| !same(at)).unwrap();
    for at in [quiet, edited] {
        let mut other = made.clone();
        other[at] ^= 1;
        fs::write(&out, &other).unwrap();
        let ran = declone(&args).exits(2);
        assert!(ran.err.contains("it exists"), "{}", ran.err);
        assert!(fs::read(&out).unwrap() == other);
    }
    fs::copy(&image, &out).unwrap();
    declone(&args).exits(2);
    fs::write(&out, "notes").unwrap();
    declone(&args).exits(2);
    assert_eq!(fs::read(&out).unwrap(), b"notes");
}

/// A page that tells of a clean keeps doing so, and nothing without the ids replaces it.
#[test]
fn a_page_of_a_clean_is_kept() {
    let dir = scratch();
    let image = image(dir.path());
    let (page, json) = (dir.path().join("a.html"), dir.path().join("a.json"));
    let files = ["--html", arg(&page), "--json", arg(&json)];
    let run = |args: &[&str]| declone(&[args, &files].concat());
    run(&["clean", arg(&image), "--in-place"]).exits(0);
    let text = || fs::read_to_string(&page).unwrap();
    let told = |page: &str| page.matches("<section class=\"image told\"").count();
    let all = |page: &str| page.matches("<section class=\"image").count();
    let first = text();
    assert_eq!((told(&first), all(&first)), (1, 1));
    let start = first.find("<section class=\"image told\"").unwrap();
    let section = &first[start..first.find("</main>").unwrap()];
    let body = section.split_once('>').unwrap().1;
    for verb in ["scan", "verify", "scan"] {
        run(&[verb, arg(&image)]).exits(0);
        let now = text();
        assert_eq!((told(&now), all(&now)), (1, 2), "{verb}");
        assert!(now.contains(body), "{verb}");
    }
    let before = (text(), fs::read(&json).unwrap());
    let ran = run(&["scan", arg(&image), "--redact"]).exits(2);
    assert!(ran.err.contains("tells of a clean"), "{}", ran.err);
    for flag in ["--html", "--json"] {
        let path = if flag == "--html" { &page } else { &json };
        let ran = declone(&["compare", arg(&image), arg(&image), flag, arg(path)]).exits(2);
        assert!(
            ran.err.contains("a comparison must not replace it"),
            "{}",
            ran.err
        );
    }
    assert!((text(), fs::read(&json).unwrap()) == before);
}

/// Reports of one image, before and after its clean, are one image; clones of one name are two.
#[test]
fn reports_of_one_image_are_one_image() {
    let dir = scratch();
    let image = image(dir.path());
    let at = |name: &str| dir.path().join(name);
    let (scan, clean, copy) = (at("scan.json"), at("clean.json"), at("copy.json"));
    declone(&["scan", arg(&image), "--json", arg(&scan)]).exits(1);
    declone(&["clean", arg(&image), "--in-place", "--json", arg(&clean)]).exits(0);
    declone(&["verify", arg(&image), "--json", arg(&clean)]).exits(0);
    fs::copy(&clean, &copy).unwrap();
    let ran = declone(&[
        "compare",
        arg(&scan),
        arg(&clean),
        arg(&copy),
        "--json",
        "-",
    ])
    .exits(0);
    assert_eq!(
        ran.json()["images"].as_array().unwrap().len(),
        1,
        "{}",
        ran.out
    );
    // One path, one disk: results that are no copy of the first are another image, be it that the ids stand
    // elsewhere or that the computer has another name.
    let differs = |change: &dyn Fn(&mut serde_json::Value), of: &Path, code: i32| {
        let mut other = json(of);
        let before = other.to_string();
        change(other["images"].as_array_mut().unwrap().last_mut().unwrap());
        assert_ne!(other.to_string(), before);
        fs::write(&copy, other.to_string()).unwrap();
        let ran = declone(&["compare", arg(&scan), arg(&copy), "--json", "-"]).exits(code);
        ran.json()["images"].as_array().unwrap().len()
    };
    let moved = |image: &mut serde_json::Value| {
        let text = image["findings"].to_string();
        image["findings"] = serde_json::from_str(&text.replace("WINDOWS", "WINNT")).unwrap();
    };
    let renamed = |image: &mut serde_json::Value| {
        image["machines"][0]["identity"]["computer_name"] = "TWO".into();
    };
    let shorter = |image: &mut serde_json::Value| image["image"]["identity"]["len"] = 7.into();
    assert_eq!(differs(&moved, &scan, 1), 2);
    assert_eq!(differs(&renamed, &clean, 0), 2);
    assert_eq!(differs(&shorter, &clean, 0), 2);
}

/// In every format, the report before a clean and the one after it are of one image.
#[test]
fn the_identity_of_an_image_outlasts_its_clean() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let mut images = Vec::new();
    for name in [
        "tiny-exfat",
        "tiny-fat",
        "tiny-superfloppy",
        "gpt-4kn",
        "xp-sms2003",
    ] {
        let image = at(&format!("{name}.img"));
        fixtures::unpack_to(&format!("{name}.img"), &image).unwrap();
        images.push(image);
    }
    let raw = fs::read(at("tiny-superfloppy.img")).unwrap();
    for (name, file) in [
        ("a.vhdx", vhdx::build(&raw, vhdx::Shape::default())),
        ("a.vdi", vdi::image(&raw, 1 << 20, false, false, false)),
        ("a.vmdk", vmdk::sparse(&raw, vmdk::Shape::default())),
    ] {
        fs::write(at(name), file).unwrap();
        images.push(at(name));
    }
    let mut divided = 0;
    for image in &images {
        let report = |verb: &[&str]| {
            let ran = declone(&[verb, &[arg(image), "--json", "-"]].concat());
            assert!(ran.code <= 1, "{}", ran.out);
            let mut identity = ran.json()["images"][0]["image"]["identity"].clone();
            identity["container_id"] = 0.into();
            (ran.out, identity)
        };
        let (before, identity) = report(&["scan"]);
        assert!(identity["head_sha256"].is_string(), "{identity}");
        let is_divided = ["\"scheme\": \"MBR\"", "\"scheme\": \"GPT\""]
            .iter()
            .any(|scheme| before.contains(scheme));
        assert_eq!(is_divided, identity["disk_id"].is_string(), "{identity}");
        divided += u32::from(is_divided);
        report(&["clean", "--in-place"]);
        let (after, still) = report(&["verify"]);
        assert_eq!(identity, still, "{}", image.display());
        fs::write(at("before.json"), before).unwrap();
        fs::write(at("after.json"), after).unwrap();
        let (before, after) = (at("before.json"), at("after.json"));
        let ran = declone(&["compare", arg(&before), arg(&after), "--json", "-"]).exits(0);
        let count = ran.json()["images"].as_array().unwrap().len();
        assert_eq!(count, 1, "{}: {}", image.display(), ran.out);
    }
    assert!(divided >= 2, "an MBR and a GPT expected among them");
}

/// As for an image: a directory has no pages, its findings tell what the killed run did.
#[test]
fn a_killed_clean_of_a_directory_is_told_by_the_next_run() {
    let dir = scratch();
    let report = dir.path().join("a.json");
    let root = dir.path().join("root");
    let fresh = || {
        fs::remove_dir_all(&root).ok();
        fs::remove_file(&report).ok();
        crate::directory::fill(&root);
    };
    fresh();
    let args = ["clean", arg(&root), "--in-place", "--json", arg(&report)];
    let ran = declone(&args);
    let code = ran.code;
    let want = json(&report)["images"][0].clone();
    assert_eq!(want["done"]["written"], true, "{}", ran.out);
    let (mut resumed, mut refused) = (0, 0);
    for step in 0..30 {
        fresh();
        let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let intent = dir.path().join("a.json.intent");
        while !intent.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(
            u64::from(step as u32) * 150,
        ));
        child.kill().ok();
        child.wait().unwrap();
        if intent.exists() && !report.exists() {
            // Nobody could say what that run removed and what this one does.
            let other = ["clean", arg(&root), "--in-place", "--rules", "sms,ccm"];
            let before = crate::directory::listing(&root);
            let ran = declone(&[&other[..], &["--json", arg(&report)]].concat()).exits(3);
            assert!(ran.out.contains("asked for something else"), "{}", ran.out);
            assert!(crate::directory::listing(&root) == before && intent.exists());
            fs::remove_file(&report).unwrap();
            refused += 1;
        }
        declone(&args).exits(code);
        let mut now = json(&report)["images"][0].clone();
        resumed += u32::from(now["resumed"] == true);
        now["resumed"] = false.into();
        assert_eq!(now, want, "step {step}");
        assert_eq!(names(dir.path()), ["a.json", "root"], "step {step}");
    }
    assert!(resumed > 0 && refused > 0, "no kill met the change");
}

/// What comes into a directory after its clean, and goes with another, does not take the first one's place.
#[test]
fn two_cleans_of_a_directory_are_two_results() {
    let dir = scratch();
    let (report, root) = (dir.path().join("a.json"), dir.path().join("root"));
    crate::directory::fill(&root);
    let args = ["clean", arg(&root), "--in-place", "--json", arg(&report)];
    declone(&args);
    let first = json(&report)["images"][0].clone();
    crate::directory::put(&root, machine::TARGETS[0], machine::ini());
    declone(&args);
    let both = json(&report);
    let images = both["images"].as_array().unwrap();
    assert_eq!(images.len(), 2, "{both}");
    assert_eq!(images[0], first);
    // Only a file goes: no byte of another one changes, and yet nothing else tells of it.
    assert_eq!(images[1]["done"]["changed_bytes"], 0);
    assert_eq!(images[1]["done"]["written"], true);
    assert_ne!(images[1]["findings"], first["findings"]);
    let second = images[1].clone();
    for _ in 0..2 {
        declone(&["scan", arg(&root), "--json", arg(&report)]);
        let now = json(&report);
        let images = now["images"].as_array().unwrap();
        assert_eq!((images.len(), &images[0], &images[1]), (3, &first, &second));
        assert_eq!(images[2]["verb"], "scan");
    }
}
