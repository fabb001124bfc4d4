//! Pages, JSON and its schema, redaction, manual pages: what a result looks like to who gets it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    judges::called,
    oracle,
    run::{arg, declone, digest, scratch},
    support::{
        disk_builder::DiskBuilder,
        fixtures,
        sms::{self, Scene},
        vhd_builder as vhd, vhdx_builder as vhdx,
        wim_builder::{Node, Wim},
    },
};

/// A small disk with the whole identity, as a file.
fn image(dir: &Path) -> PathBuf {
    let path = dir.join("tiny.img");
    fixtures::unpack_to("tiny-superfloppy.img", &path).unwrap();
    path
}

fn write(disk: &DiskBuilder, path: &Path) {
    let mut file = fs::File::create_new(path).unwrap();
    disk.write_to(&mut file);
}

/// What a page must be, whatever is in it.
#[track_caller]
pub fn check_page(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"));
    assert!(page.ends_with("</html>\n"));
    assert!(page.contains("default-src &#39;none&#39;; style-src &#39;sha256-"));
    let mut open: Vec<&str> = Vec::new();
    let sheet = page.find("<style>").unwrap()..page.find("</style>").unwrap();
    let start = page.find("<html").unwrap();
    for (at, _) in page
        .match_indices('<')
        .filter(|(at, _)| *at >= start)
        .filter(|(at, _)| !sheet.contains(at) || *at == sheet.start)
    {
        let tag = &page[at + 1..at + page[at..].find('>').unwrap()];
        let name = tag.split(' ').next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "at {at}");
            continue;
        }
        assert!(ELEMENTS.contains(&name), "<{tag}> is not ours");
        let mut rest = &tag[name.len()..];
        while let Some(next) = rest.strip_prefix(' ') {
            let (attribute, value) = next.split_once("=\"").unwrap();
            assert!(
                ATTRIBUTES.contains(&attribute),
                "<{tag}>: {attribute} is not ours"
            );
            rest = &value[value.find('"').unwrap() + 1..];
        }
        assert_eq!(rest, "", "<{tag}>");
        if name != "meta" {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// Elements that a page has; no script, no frame, no image, no form.
const ELEMENTS: &[&str] = &[
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "h1",
    "h2",
    "h3",
    "h4",
    "p",
    "main",
    "section",
    "nav",
    "div",
    "span",
    "b",
    "a",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "details",
    "summary",
    "figure",
    "figcaption",
    "footer",
    "svg",
    "rect",
    "line",
    "circle",
    "text",
];
const ATTRIBUTES: &[&str] = &[
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "id",
    "href",
    "role",
    "height",
    "width",
    "aria-label",
    "aria-hidden",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "cx",
    "cy",
    "r",
    "dx",
    "text-anchor",
    "data-label",
];

#[test]
fn every_verb_writes_a_page_that_needs_nothing() {
    let dir = scratch();
    let image = image(dir.path());
    let (page, out) = (dir.path().join("page.html"), dir.path().join("out.img"));
    let before = digest(&image);
    let undo = dir.path().join("undo");
    for (args, code, words) in [
        (
            vec!["scan", arg(&image), "--hash", "sha256"],
            1,
            vec![
                "Steps of the articles",
                "SMS Unique Identifier",
                "The disk, to scale",
                "$MFT",
                &before,
            ],
        ),
        (
            vec!["clean", arg(&image), "-n"],
            0,
            vec!["would be removed", "What would be done", "writes"],
        ),
        (
            vec![
                "clean",
                arg(&image),
                "-o",
                arg(&out),
                "--prove",
                "--hash",
                "sha256",
            ],
            0,
            vec![
                "removed",
                "What was done",
                "second witness",
                "Search of raw bytes",
                "as it is now",
            ],
        ),
        (
            vec!["verify", arg(&out)],
            0,
            vec!["Nothing of the identity was found", "Not looked at"],
        ),
        (
            vec!["scan", arg(&image), "/nonexistent"],
            5,
            vec!["Images", "the image was not read", "/nonexistent"],
        ),
        (
            vec!["clean", arg(&out), "--in-place", "--undo", arg(&undo)],
            0,
            vec!["Nothing to do"],
        ),
        (vec!["recover", arg(&out)], 0, vec!["Nothing to recover"]),
        (
            vec!["compare", arg(&image), arg(&image)],
            1,
            vec!["ids they share", "Group 1", "SMS GUID"],
        ),
    ] {
        let mut args = args;
        args.extend(["--html", arg(&page), "--json", "-"]);
        // What told of a clean would be kept.
        fs::remove_file(&page).ok();
        let ran = declone(&args).exits(code);
        assert!(ran.out.starts_with('{'));
        let text = fs::read_to_string(&page).unwrap();
        check_page(&text);
        for word in words {
            assert!(text.contains(word), "{args:?}: {word}");
        }
        let mode = fs::metadata(&page).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(digest(&image), before);
}

#[test]
fn a_page_never_replaces_the_image_or_another_result() {
    let dir = scratch();
    let image = image(dir.path());
    let before = digest(&image);
    let json = dir.path().join("a.json");
    let out = dir.path().join("out.img");
    for args in [
        &["scan", arg(&image), "--html", arg(&image)][..],
        &[
            "scan",
            arg(&image),
            "--html",
            arg(&json),
            "--json",
            arg(&json),
        ],
        &["compare", arg(&image), "--html", arg(&image)],
        &["clean", arg(&image), "-o", arg(&out), "--html", arg(&out)],
        &["clean", arg(&image), "--in-place", "--html", arg(&image)],
    ] {
        let ran = declone(args).exits(2);
        assert!(ran.err.contains("a file of its own"), "{}", ran.err);
        assert_eq!(digest(&image), before);
    }
    declone(&["scan", arg(&image), "--html", "-"]).exits(2);
    assert!(!out.exists());
}

#[test]
fn the_same_run_gives_the_same_bytes_and_time_is_told_when_asked() {
    let dir = scratch();
    let image = image(dir.path());
    let pages: Vec<String> = ["a", "b"]
        .iter()
        .map(|name| {
            let path = dir.path().join(name);
            declone(&["scan", arg(&image), "--html", arg(&path)]).exits(1);
            fs::read_to_string(path).unwrap()
        })
        .collect();
    assert_eq!(pages[0], pages[1]);
    let ran = declone(&["scan", arg(&image), "--json", "-"]).exits(1);
    assert_eq!(ran.json()["time"], Value::Null);
    assert_eq!(ran.out, declone(&["scan", arg(&image), "--json", "-"]).out);
    let ran = declone(&["scan", arg(&image), "--json", "-", "--timestamp"]).exits(1);
    let time = ran.json()["time"].as_str().unwrap().to_owned();
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.len() == 20,
        "{time}"
    );
}

/// Thousands of findings: the page stays small enough to be opened, and says what it leaves out.
#[test]
fn ten_thousand_findings_are_cut_and_counted() {
    let mut root = Node::directory("");
    for i in 0..10_000 {
        root.add(
            &format!(r"\Backup\{:02}\{i:05}\Smscfg.ini", i / 100),
            b"UniqueID=1",
        );
    }
    let dir = scratch();
    let path = dir.path().join("many.wim");
    fs::write(&path, Wim::new(vec![root]).build()).unwrap();
    let page = dir.path().join("page.html");
    let ran = declone(&["scan", arg(&path), "--html", arg(&page), "--json", "-"]).exits(1);
    assert_eq!(
        ran.json()["images"][0]["findings"]
            .as_array()
            .unwrap()
            .len(),
        10_000
    );
    let text = fs::read_to_string(&page).unwrap();
    check_page(&text);
    assert!(text.contains("The first 500 of 10000 findings"));
    assert!(text.contains("Smscfg.ini 10000."));
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
}

/// Validates as JSON Schema 2020-12 does, as far as our schema uses it. A word it does not know fails.
fn validate(schema: &Value, root: &Value, value: &Value, path: &str, bad: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else {
        assert_eq!(schema, &Value::Bool(true), "{path}");
        return;
    };
    for (word, rule) in rules {
        let mut fail = |what: String| bad.push(format!("{path}: {what}"));
        match word.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                validate(&root["$defs"][name], root, value, path, bad);
            }
            "anyOf" | "oneOf" => {
                let tries: Vec<Vec<String>> = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| {
                        let mut bad = Vec::new();
                        validate(one, root, value, path, &mut bad);
                        bad
                    })
                    .collect();
                let good = tries.iter().filter(|bad| bad.is_empty()).count();
                if good == 0 || (word == "oneOf" && good > 1) {
                    fail(format!(
                        "{good} of {word} match: {:?}",
                        tries.iter().flatten().next()
                    ));
                }
            }
            "type" => {
                let is = |kind: &Value| match kind.as_str().unwrap() {
                    "null" => value.is_null(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "string" => value.is_string(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("{other}"),
                };
                let good = match rule {
                    Value::Array(all) => all.iter().any(is),
                    one => is(one),
                };
                if !good {
                    fail(format!("{rule} expected, found {value}"));
                }
            }
            "const" if rule != value => fail(format!("{rule} expected, found {value}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                fail(format!("{value} is not known"))
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        fail(format!("{name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        validate(rule, root, value, &format!("{path}.{name}"), bad);
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = rules["properties"].as_object().unwrap();
                for name in value.as_object().iter().flat_map(|value| value.keys()) {
                    if !known.contains_key(name) {
                        fail(format!("{name} is not in the schema"));
                    }
                }
            }
            "items" => {
                for (i, value) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, root, value, &format!("{path}[{i}]"), bad);
                }
            }
            "minimum" => {
                if value
                    .as_f64()
                    .is_some_and(|value| value < rule.as_f64().unwrap())
                {
                    fail(format!("at least {rule} expected"));
                }
            }
            "maximum" => {
                if value
                    .as_f64()
                    .is_some_and(|value| value > rule.as_f64().unwrap())
                {
                    fail(format!("at most {rule} expected"));
                }
            }
            "$schema" | "$defs" | "title" | "description" | "format" | "const" | "enum" => {}
            other => panic!("the schema's word {other} is not known here"),
        }
    }
}

fn problems(schema: &Value, document: &Value) -> Vec<String> {
    let mut bad = Vec::new();
    validate(schema, schema, document, "$", &mut bad);
    bad
}

/// Documents of every verb, over many images.
fn documents(dir: &Path) -> Vec<(String, Value)> {
    let mut images = vec![image(dir)];
    for name in ["xp-sms2003.img", "gpt-4kn.img", "two-installations.img"] {
        let path = dir.join(name);
        fixtures::unpack_to(name, &path).unwrap();
        images.push(path);
    }
    let raw = fixtures::load("tiny-superfloppy.img").unwrap();
    let mut root = Node::directory("");
    root.add(r"\WINDOWS\Smscfg.ini", b"UniqueID=1");
    for (name, bytes) in [
        ("a.vhd", vhd::fixed(&raw)),
        ("a.vhdx", vhdx::build(&raw, vhdx::Shape::default())),
        ("a.wim", Wim::new(vec![root]).build()),
        ("broken.img", raw[..raw.len() / 2].to_vec()),
        ("junk.img", vec![7; 100_000]),
        ("empty.img", Vec::new()),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
        images.push(dir.join(name));
    }
    images.push(dir.join("does-not-exist"));
    let mut found = Vec::new();
    let mut add = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--json", "-"]);
        let ran = declone(&args);
        assert!(ran.code < 9, "{args:?}: {}", ran.err);
        found.push((args.join(" "), ran.json()));
    };
    for (number, image) in images.iter().enumerate() {
        let image = arg(image);
        add(&["scan", image, "--hash", "sha256"]);
        add(&[
            "scan",
            image,
            "--rules",
            "sms,machine",
            "--redact",
            "--timestamp",
        ]);
        add(&["verify", image]);
        add(&["clean", image, "-n", "--prove"]);
        let out = dir.join(format!("{number}.out"));
        add(&["clean", image, "-o", arg(&out), "--hash", "sha256"]);
        let undo = dir.join(format!("{number}.undo"));
        if number == 0 || image.ends_with("a.vhd") {
            let copy = dir.join(format!("{number}.copy"));
            fs::copy(image, &copy).unwrap();
            add(&["clean", arg(&copy), "--in-place", "--undo", arg(&undo)]);
            add(&["recover", arg(&copy)]);
            add(&["recover", arg(&copy), "--status"]);
            add(&["undo", arg(&undo)]);
        }
    }
    let all: Vec<&str> = images.iter().map(|image| arg(image)).collect();
    add(&[&["scan"], &all[..]].concat());
    add(&[&["compare"], &all[..]].concat());
    add(&[&["compare", "--redact", "--timestamp"], &all[..3]].concat());
    found
}

#[test]
fn every_document_is_what_the_schema_says() {
    let schema = declone(&["schema"]).exits(0).json();
    let dir = scratch();
    let documents = documents(dir.path());
    assert!(documents.len() > 50);
    for (args, document) in &documents {
        let bad = problems(&schema, document);
        assert!(bad.is_empty(), "{args}: {bad:#?}");
        assert_eq!(document["schema"], 1, "{args}");
    }
    // A field more, a field less, a word that is not known, a type that is another: each is seen.
    let (_, document) = documents
        .iter()
        .find(|(args, _)| args.starts_with("clean"))
        .unwrap();
    for pointer in [
        "",
        "/images/0",
        "/images/0/image",
        "/images/0/findings/0",
        "/images/0/findings/0/subject",
    ] {
        let mut more = document.clone();
        let object = more.pointer(pointer).unwrap().as_object().unwrap().clone();
        let mut longer = object.clone();
        longer.insert("unknown".into(), Value::Null);
        *more.pointer_mut(pointer).unwrap() = longer.into();
        assert!(!problems(&schema, &more).is_empty(), "{pointer}: more");
        for name in object.keys() {
            let mut shorter = object.clone();
            shorter.remove(name);
            *more.pointer_mut(pointer).unwrap() = shorter.into();
            assert!(
                !problems(&schema, &more).is_empty(),
                "{pointer}: less {name}"
            );
        }
    }
    for (pointer, value) in [
        ("/images/0/findings/0/action", Value::from("destroy")),
        ("/images/0/exit_code", Value::from("0")),
        ("/images/0/errors", Value::Null),
    ] {
        let mut other = document.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        assert!(!problems(&schema, &other).is_empty(), "{pointer}");
    }
}

/// An independent validator, so that ours is not trusted alone.
#[test]
fn an_independent_validator_agrees_with_the_schema() {
    if !called("an_independent_validator_agrees_with_the_schema") {
        return;
    }
    let dir = scratch();
    let schema = declone(&["schema"]).exits(0).out;
    fs::write(dir.path().join("schema.json"), schema).unwrap();
    let documents: Vec<Value> = documents(dir.path())
        .into_iter()
        .map(|(_, one)| one)
        .collect();
    fs::write(
        dir.path().join("all.json"),
        serde_json::to_vec(&documents).unwrap(),
    )
    .unwrap();
    let script = "import json, jsonschema\n\
        s = json.load(open('schema.json'))\n\
        V = jsonschema.Draft202012Validator\n\
        V.check_schema(s)\n\
        all = json.load(open('all.json'))\n\
        for d in all: V(s).validate(d)\n\
        d = all[0]; d['images'][0]['unknown'] = 1\n\
        assert not V(s).is_valid(d)\n\
        print(len(all), 'valid')\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .current_dir(dir.path())
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "needs python3 with jsonschema (tools/test installs it): {said}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains(" valid"));
}

/// What of a scene must not be in a redacted report, in any spelling.
fn planted(scene: &Scene) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for form in oracle::guid_forms(&scene.guid) {
        all.push(hex::encode(&form).into_bytes());
        all.push(form);
    }
    let words = [
        format!(
            "S-1-5-21-{}-{}-{}",
            scene.sid[0], scene.sid[1], scene.sid[2]
        ),
        "CAP List for site".to_owned(),
        "MSWNET:".to_owned(),
        "SERVER1".to_owned(),
        "SERVER3".to_owned(),
        scene.computer.clone(),
    ];
    for word in words {
        let wide: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
        all.push(hex::encode(&wide).into_bytes());
        all.push(hex::encode(&word).into_bytes());
        all.push(wide);
        all.push(word.into_bytes());
    }
    all
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    let needle = needle.to_ascii_lowercase();
    memchr::memmem::find(&text, &needle).is_some()
}

#[test]
fn a_redacted_report_holds_no_identity_in_any_spelling() {
    let dir = scratch();
    let scene = Scene::default();
    let path = dir.path().join("xp.img");
    write(&sms::sms2003_disk(&scene), &path);
    let other = dir.path().join("two.img");
    fixtures::unpack_to("xp-sms2003.img", &other).unwrap();
    let out = dir.path().join("out.img");
    let (json, page) = (dir.path().join("r.json"), dir.path().join("r.html"));
    let mut seen_in_plain = BTreeSet::new();
    for args in [
        vec!["scan", arg(&path)],
        vec!["scan", "--rules", "sms,machine", arg(&path), arg(&other)],
        vec!["clean", arg(&path), "-n"],
        vec!["clean", arg(&path), "-o", arg(&out), "--force", "--prove"],
        vec!["verify", arg(&path)],
        vec!["compare", arg(&path), arg(&other)],
    ] {
        for redact in [false, true] {
            let mut args = args.clone();
            args.extend(["--json", arg(&json), "--html", arg(&page)]);
            args.extend(redact.then_some("--redact"));
            if redact && args[0] == "clean" && args.contains(&"-o") {
                // What the plain report tells is not given up for one without ids, nor mixed with it.
                let ran = declone(&args).exits(2);
                assert!(ran.err.contains("--redact"), "{}", ran.err);
            }
            fs::remove_file(&json).ok();
            fs::remove_file(&page).ok();
            let ran = declone(&args);
            assert!(ran.code <= 1, "{}", ran.err);
            let outputs = [
                ("text", ran.out.into_bytes()),
                ("errors", ran.err.into_bytes()),
                ("json", fs::read(&json).unwrap()),
                ("page", fs::read(&page).unwrap()),
            ];
            for (name, bytes) in &outputs {
                for (number, needle) in planted(&scene).iter().enumerate() {
                    match (redact, holds(bytes, needle)) {
                        (true, true) => panic!("{args:?}: {name} holds {}", needle.escape_ascii()),
                        (false, true) => drop(seen_in_plain.insert((*name, number))),
                        _ => {}
                    }
                }
                let marks = holds(bytes, b"redacted:");
                assert_eq!(marks, redact && *name != "errors", "{args:?}: {name}");
            }
        }
    }
    // The search is good for something: without --redact each output holds several of them.
    for name in ["text", "json", "page"] {
        let found = seen_in_plain.iter().filter(|(at, _)| *at == name).count();
        assert!(found >= 4, "{name}: {found}");
    }
}

#[test]
fn marks_are_the_same_within_a_run_and_mean_nothing_outside_it() {
    let dir = scratch();
    let path = image(dir.path());
    let evidence = |json: &Value, rule: &str| -> BTreeSet<String> {
        json["images"][0]["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["rule"] == rule)
            .map(|finding| finding["evidence"].as_str().unwrap().to_owned())
            .collect()
    };
    let args = ["scan", arg(&path), "--redact", "--json", "-"];
    let (one, two) = (
        declone(&args).exits(1).json(),
        declone(&args).exits(1).json(),
    );
    assert_eq!(one["redacted"], true);
    let uid = evidence(&one, "sms.uid");
    assert_eq!(uid.len(), 1, "one GUID, one mark: {uid:?}");
    let mark = uid.first().unwrap();
    assert!(mark.starts_with("redacted:"), "{mark}");
    let cfg = evidence(&one, "sms.cfg");
    assert!(
        cfg.iter().any(|text| text.contains(mark.as_str())),
        "{cfg:?}: {mark}"
    );
    assert_ne!(uid, evidence(&two, "sms.uid"), "another run, another mark");
    let report = dir.path().join("r.json");
    declone(&["scan", arg(&path), "--redact", "--json", arg(&report)]).exits(1);
    let ran = declone(&["compare", arg(&report), arg(&path)]).exits(4);
    assert!(ran.out.contains("--redact"), "{}", ran.out);
    let ran = declone(&["verify", arg(&path), "--against", arg(&report)]).exits(2);
    assert!(ran.out.contains("--redact"), "{}", ran.out);
}

#[test]
fn a_list_is_divided_and_its_images_are_looked_at_side_by_side() {
    let dir = scratch();
    let first = image(dir.path());
    let mut list = String::new();
    for i in 0..7 {
        let path = dir.path().join(format!("{i}.img"));
        match i % 3 {
            0 => drop(fs::copy(&first, &path).unwrap()),
            _ => fs::write(&path, [i as u8; 4096]).unwrap(),
        }
        list += &format!("{}\r\n\n", path.display());
    }
    let file = dir.path().join("list");
    fs::write(&file, &list).unwrap();
    let one = declone(&["scan", arg(&first), "--list", arg(&file), "--json", "-"]).exits(4);
    assert_eq!(one.json()["images"].as_array().unwrap().len(), 8);
    let many = declone(&[
        "scan",
        arg(&first),
        "--list",
        arg(&file),
        "--json",
        "-",
        "--jobs",
        "4",
    ])
    .exits(4);
    assert_eq!(one.out, many.out);
    let mut paths = BTreeSet::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let ran = declone(&[
            "scan",
            "--list",
            arg(&file),
            "--shard",
            shard,
            "--json",
            "-",
        ]);
        for image in ran.json()["images"].as_array().unwrap() {
            assert!(
                paths.insert(image["path"].as_str().unwrap().to_owned()),
                "{shard}: {image}"
            );
        }
    }
    assert_eq!(paths.len(), 7);
    fs::write(&file, list.replace("\r\n\n", "\0")).unwrap();
    declone(&["compare", "--list", arg(&file)]).exits(4);
    declone(&["scan", "--list", arg(&file), "--json", arg(&file)]).exits(2);
    declone(&["scan", "--list", "/nonexistent"]).exits(2);
    declone(&["scan", arg(&first), "--shard", "4/3"]).exits(2);
    declone(&["scan", arg(&first), "--jobs", "0"]).exits(2);
}

#[test]
fn completions_and_manual_pages_know_every_command_and_flag() {
    let help = declone(&["--help"]).exits(0).out;
    let commands: Vec<String> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect();
    for name in [
        "scan", "clean", "verify", "compare", "recover", "undo", "rules", "schema", "man",
    ] {
        assert!(
            commands.iter().any(|command| command == name),
            "{name}: {commands:?}"
        );
    }
    let dir = scratch();
    declone(&["man", "--dir", arg(dir.path())]).exits(0);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = declone(&["completions", shell]).exits(0).out;
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
    }
    let bash = declone(&["completions", "bash"]).exits(0).out;
    let top = declone(&["man"]).exits(0).out;
    for command in &commands {
        assert!(
            top.contains(&format!("declone\\-{command}(1)")),
            "{command}"
        );
        let page = fs::read_to_string(dir.path().join(format!("declone-{command}.1"))).unwrap();
        let help = declone(&[command, "--help"]).exits(0).out;
        let flags = help
            .split_whitespace()
            .map(|word| word.trim_end_matches([',', '.', ';', ')', ':']))
            .filter(|word| word.starts_with("--") && word.len() > 4);
        for flag in flags.filter(|flag| flag.chars().all(|c| c == '-' || c.is_ascii_lowercase())) {
            assert!(page.contains(&flag.replace('-', "\\-")), "{command} {flag}");
            assert!(bash.contains(flag), "{command} {flag}");
        }
    }
    for name in ["declone", "declone-rules-list", "declone-rules-check"] {
        assert!(dir.path().join(format!("{name}.1")).exists(), "{name}");
    }
    declone(&["man", "--dir", "/nonexistent/x"]).exits(5);
}

/// The pages in a real browser: nothing on the console, no request, no element from a name.
#[test]
fn a_browser_shows_the_pages_without_a_complaint() {
    if !called("a_browser_shows_the_pages_without_a_complaint") {
        return;
    }
    let dir = scratch();
    let path = image(dir.path());
    let page = dir.path().join("page.html");
    declone(&["scan", arg(&path), "--html", arg(&page)]).exits(1);
    let hostile = crate::hostile_names::pages(dir.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/report-look.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(dir.path())
        .arg("--no-shots")
        .arg(&page)
        .args(&hostile)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(said.matches(": good").count(), 1 + hostile.len(), "{said}");
}
