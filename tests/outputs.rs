//! Errors name their image, wherever they go; and the places of results are looked at before the image.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    run::{Ran, arg, declone, names, scratch},
    support::fixtures,
};

fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fixtures::unpack_to("tiny-superfloppy.img", &path).unwrap();
    path
}

/// How often standard error says it.
fn said(ran: &Ran, line: &str) -> usize {
    ran.err.lines().filter(|one| one.contains(line)).count()
}

#[test]
fn an_error_begins_with_its_image_in_text_json_and_on_standard_error() {
    let dir = scratch();
    let zeros = dir.path().join("zeros.img");
    fs::write(&zeros, [0; 8192]).unwrap();
    let page = dir.path().join("page.html");
    let (shown, report) = (arg(&zeros), dir.path().join("r.json"));
    let missing = dir.path().join("missing.img");
    for (verb, more) in [
        ("scan", vec![]),
        ("verify", vec![]),
        ("clean", vec!["-n"]),
        ("clean", vec!["--in-place"]),
    ] {
        let mut args = vec![verb, shown];
        args.extend(&more);
        let head = format!("{shown}: error: ");
        let line = format!("declone: {shown}: ");
        // As text: in the report, and once on standard error.
        let ran = declone(&args).exits(4);
        assert!(ran.out.lines().any(|l| l.starts_with(&head)), "{}", ran.out);
        assert_eq!(said(&ran, &line), 1, "{verb}: {}", ran.err);
        // As JSON on standard output, in a file, and with nothing else but the page.
        for how in [
            vec!["--json", "-"],
            vec!["--json", arg(&report)],
            vec!["--quiet", "--html", arg(&page)],
        ] {
            let mut args = args.clone();
            args.extend(&how);
            let ran = declone(&args).exits(4);
            assert_eq!(said(&ran, &line), 1, "{args:?}: {}", ran.err);
            let json: serde_json::Value = match how[1] {
                "-" => ran.json(),
                _ => serde_json::from_slice(&fs::read(&report).unwrap()).unwrap(),
            };
            let errors = json["images"][0]["errors"].as_array().unwrap();
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| error["image"] == shown), "{json}");
        }
    }
    // No image at all, several of them, and a comparison.
    let ran = declone(&["scan", arg(&missing), shown]).exits(5);
    for path in [&missing, &zeros] {
        let line = format!("declone: {}: ", arg(path));
        assert_eq!(said(&ran, &line), 1, "{}", ran.err);
        let head = format!("{}: error: ", arg(path));
        assert!(ran.out.contains(&head), "{}", ran.out);
    }
    let ran = declone(&["compare", shown, "--json", "-"]).exits(4);
    assert_eq!(said(&ran, &format!("declone: {shown}: ")), 1, "{}", ran.err);
    // What ends the run before there is a report.
    let ran = declone(&["clean", shown]).exits(2);
    assert!(
        ran.err.contains(&format!("declone: {shown}: ")),
        "{}",
        ran.err
    );
}

#[test]
fn marks_do_not_hide_the_image_of_an_error() {
    let dir = scratch();
    let path = dir.path().join("MASTER-XP.img");
    fs::write(&path, [0; 8192]).unwrap();
    let ran = declone(&["scan", arg(&path), "--redact"]).exits(4);
    assert_eq!(
        said(&ran, &format!("declone: {}: ", arg(&path))),
        1,
        "{}",
        ran.err
    );
}

#[test]
fn a_place_that_is_not_there_is_named_before_the_image_is_read() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    // An image that is not there: what is said first was looked at first.
    let (image, gone) = (at("none.img"), at("gone"));
    let (out, file) = (gone.join("x"), at("file"));
    fs::write(&file, "text").unwrap();
    let below = file.join("x");
    let before = names(dir.path());
    let (image, out, below) = (arg(&image), arg(&out), arg(&below));
    for args in [
        vec!["clean", image, "-o", out],
        vec!["clean", image, "-o", below],
        vec!["clean", image, "-o", out, "--to", "raw"],
        vec!["clean", image, "--in-place", "--undo", out],
        vec!["clean", image, "--in-place", "--journal", out],
        vec!["clean", image, "-n", "--json", out],
        vec!["clean", image, "-n", "--html", out],
        vec!["scan", image, "--json", out],
        vec!["scan", image, "--html", below],
        vec!["verify", image, "--json", out],
        vec!["compare", image, "--html", out],
        vec!["recover", image, "--journal", out],
        vec!["recover", image, "--json", out],
        vec!["undo", image, "--journal", out],
        vec!["undo", image, "--html", out],
    ] {
        let ran = declone(&args).exits(2);
        let named = if args.contains(&below) {
            arg(&file)
        } else {
            arg(&gone)
        };
        assert!(ran.err.contains(named), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
        assert_eq!(names(dir.path()), before, "{args:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named_before_the_image_is_read() {
    let dir = scratch();
    let (image, undo) = (image(dir.path(), "a.img"), dir.path().join("none.img"));
    let none = arg(&undo);
    // Nobody makes a file in `/proc`, not even root.
    for args in [
        vec!["clean", none, "-o", "/proc/out.img"],
        vec!["clean", none, "--in-place", "--undo", "/proc/undo"],
        vec!["clean", none, "--in-place", "--journal", "/proc/journal"],
        vec!["scan", none, "--json", "/proc/r.json"],
        vec!["verify", none, "--html", "/proc/r.html"],
    ] {
        let ran = declone(&args).exits(5);
        assert!(ran.err.contains("/proc"), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("none.img: open"), "{args:?}: {}", ran.err);
    }
    let ran = declone(&["clean", "/proc/version", "--in-place"]).exits(5);
    assert!(ran.err.contains("journal"), "{}", ran.err);
    // What can be written leaves nothing of the look, whatever the verb then finds.
    let before = names(dir.path());
    let report = dir.path().join("r.json");
    declone(&["clean", none, "-o", arg(&dir.path().join("out.img"))]).exits(5);
    declone(&["clean", arg(&image), "-n", "--in-place"]).exits(0);
    assert_eq!(names(dir.path()), before);
    declone(&["clean", arg(&image), "--in-place", "--json", arg(&report)]).exits(0);
    assert_eq!(names(dir.path()), ["a.img", "r.json"]);
}
