//! The command line itself: usage errors, help, broken pipes, things that are no image.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use crate::run::{arg, declone, scratch};

#[test]
fn clean_without_a_target_explains_both_ways() {
    let ran = declone(&["clean", "some.img"]).exits(2);
    assert!(
        ran.err.contains("-o OUT") && ran.err.contains("-n"),
        "{}",
        ran.err
    );
}

#[test]
fn an_undo_file_needs_a_clean_in_place() {
    declone(&["clean", "some.img", "-o", "x", "--undo", "u"]).exits(2);
    declone(&["clean", "some.img", "-n", "--in-place", "--undo", "u"]).exits(2);
    declone(&["clean", "some.img", "-o", "x", "--in-place"]).exits(2);
}

#[test]
fn unknown_arguments_and_rule_sets_are_usage_errors() {
    declone(&["scan"]).exits(2);
    declone(&["frobnicate"]).exits(2);
    let ran = declone(&["scan", "--rules", "nonsense", "x.img"]).exits(2);
    assert!(
        ran.err.contains("sms"),
        "the known sets are listed: {}",
        ran.err
    );
}

#[test]
fn rules_list_and_show_name_their_sources() {
    let list = declone(&["rules", "list"]).exits(0);
    for id in ["sms.uid", "sms.abexprt", "sms.uidfile", "sms.cfg"] {
        assert!(list.out.contains(id), "{}", list.out);
    }
    let show = declone(&["rules", "show", "sms.uid"]).exits(0);
    assert!(
        show.out.contains("828367") && show.out.contains("Wow6432Node"),
        "{}",
        show.out
    );
    declone(&["rules", "show", "no.such.rule"]).exits(2);
    let json = declone(&["rules", "list", "--json"]).exits(0).json();
    assert!(json.as_array().is_some_and(|rules| rules.len() >= 5));
}

#[test]
fn a_rule_file_is_checked() {
    let dir = scratch();
    let file = dir.path().join("own.toml");
    fs::write(&file, "[[rule]]\nid = 3\n").unwrap();
    let ran = declone(&["rules", "check", arg(&file)]);
    assert_eq!(ran.code, 4, "{}", ran.err);
}

#[test]
fn completions_and_manual_are_generated() {
    assert!(
        declone(&["completions", "bash"])
            .exits(0)
            .out
            .contains("declone")
    );
    assert!(declone(&["man"]).exits(0).out.contains(".TH"));
}

#[test]
fn a_missing_file_is_an_io_error() {
    let ran = declone(&["scan", "/nonexistent/x.img"]).exits(5);
    assert!(ran.out.contains("/nonexistent/x.img"), "{}", ran.out);
}

#[test]
fn things_that_are_no_image_are_named_and_never_block() {
    let dir = scratch();
    for (name, len) in [("zero", 0), ("one", 1), ("short", 511), ("zeros", 1 << 20)] {
        let path = dir.path().join(name);
        fs::write(&path, vec![0; len]).unwrap();
        let ran = declone(&["scan", arg(&path)]).exits(4);
        assert!(ran.took < Duration::from_secs(2));
        assert!(!ran.out.is_empty());
    }
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for path in [fifo.as_path(), "/dev/null".as_ref(), "/dev/zero".as_ref()] {
        let ran = declone(&["scan", arg(path)]).exits(3);
        assert!(ran.took < Duration::from_secs(2), "{}", path.display());
    }
}

#[test]
fn another_containers_magic_is_named_not_taken_for_raw() {
    let dir = scratch();
    for (magic, name) in [
        (&b"QFI\xfb"[..], "QCOW"),
        (b"KDMV", "VMDK"),
        (b"conectix", "VHD"),
        (b"vhdxfile", "VHDX"),
    ] {
        let path = dir.path().join(name);
        let mut bytes = vec![0; 1 << 20];
        bytes[..magic.len()].copy_from_slice(magic);
        fs::write(&path, bytes).unwrap();
        let ran = declone(&["clean", arg(&path), "-n"]).exits(4);
        assert!(ran.out.to_uppercase().contains(name), "{}", ran.out);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_declone"))
        .arg("man")
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(5), "a full disk is an I/O error");
}

#[test]
fn several_images_give_several_results_and_the_worst_code() {
    let dir = scratch();
    let bad = dir.path().join("bad.img");
    fs::write(&bad, [1; 4096]).unwrap();
    let ran = declone(&["scan", arg(&bad), "/nonexistent", "--json", "-"]).exits(5);
    let json = ran.json();
    assert_eq!(json["images"].as_array().unwrap().len(), 2);
    assert_eq!(json["exit_code"], 5);
    assert_eq!(json["images"][0]["errors"][0]["kind"], "malformed");
}

#[test]
fn a_report_never_replaces_the_image_or_the_copy() {
    let dir = scratch();
    let image = dir.path().join("a.img");
    fs::write(&image, vec![7; 100_000]).unwrap();
    let link = dir.path().join("link.json");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let out = dir.path().join("out.img");
    for args in [
        &["scan", arg(&image), "--json", arg(&image)][..],
        &["verify", arg(&image), "--json", arg(&link)],
        &["recover", arg(&image), "--json", arg(&link)],
        &["clean", arg(&image), "-n", "--json", arg(&image)],
        &["clean", arg(&image), "--in-place", "--json", arg(&link)],
    ] {
        let ran = declone(args).exits(2);
        assert!(ran.err.contains("a file of its own"), "{}", ran.err);
        assert_eq!(fs::read(&image).unwrap(), vec![7; 100_000]);
    }
    // Nor what may be a part of an image; an earlier report it does.
    let part = dir.path().join("a-flat.vmdk");
    fs::write(&part, vec![9; 5000]).unwrap();
    for flag in ["--json", "--html"] {
        let ran = declone(&["scan", arg(&image), flag, arg(&part)]).exits(2);
        assert!(
            ran.err.contains("an earlier report expected"),
            "{}",
            ran.err
        );
        assert_eq!(fs::read(&part).unwrap(), vec![9; 5000]);
        let report = dir.path().join(flag);
        for _ in 0..2 {
            declone(&["scan", arg(&image), flag, arg(&report)]).exits(4);
            assert!(fs::metadata(&report).unwrap().len() > 100);
        }
    }
    // The copy does not exist yet when the names are looked at.
    let same = ["clean", arg(&image), "-o", arg(&out), "--json", arg(&out)];
    declone(&same).exits(2);
    assert!(!out.exists());
}
