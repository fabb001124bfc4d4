//! What `scan` shows of a container: every field that its format has, in JSON and in the text, for
//! files by the builders and by qemu-img.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    containers::fixture,
    containers_outside::vhd_child,
    containers_qcow2::backed,
    judges::{called, tool},
    run::{arg, declone, scratch},
    support::{
        aff4_builder as aff4, ewf_builder as ewf, ex01_builder as ex01, qcow2_builder as qcow2,
        tables::put, vdi_builder as vdi, vhd_builder as vhd, vhdx_builder as vhdx,
        vmdk_builder as vmdk,
    },
};

const MIB: usize = 1 << 20;

/// What a format of this kind says, where it says nothing else.
fn says(more: Value) -> Value {
    let mut all = json!({
        "kind": null, "creator": null, "block_size": null, "blocks": null, "allocated": null,
        "log": null, "chain": [], "files": [], "id": null,
    });
    for (key, value) in more.as_object().unwrap() {
        assert!(all.get(key).is_some(), "{key}");
        all[key] = value.clone();
    }
    all
}

/// A size as the text shows it.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Scans an image: its facts, and the line about the container in the text.
fn scan(image: &Path) -> (Value, String) {
    let said = declone(&["scan", arg(image), "--json", "-"]).json();
    let text = declone(&["scan", arg(image)]).out;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("container: "))
        .unwrap_or_default()
        .to_owned();
    (said["images"][0]["image"].clone(), line)
}

/// Everything that the JSON says stands in the text.
fn in_text(what: &str, facts: &Value, line: &str) {
    let container = &facts["container"];
    let mut words = vec![format!(
        "file of {}",
        size(facts["file_len"].as_u64().unwrap())
    )];
    for key in ["kind", "creator", "log", "id"] {
        words.extend(container[key].as_str().map(str::to_owned));
    }
    let number = |key: &str| container[key].as_u64();
    words.extend(number("block_size").map(|len| format!("blocks of {}", size(len))));
    if let (Some(allocated), Some(blocks)) = (number("allocated"), number("blocks")) {
        words.push(format!("{allocated} of {blocks} allocated"));
    }
    for name in container["chain"].as_array().unwrap() {
        words.push(format!("on top of {}", name.as_str().unwrap()));
    }
    let files = container["files"].as_array().unwrap();
    words.extend(files.last().map(|name| name.as_str().unwrap().to_owned()));
    for word in words {
        assert!(line.contains(&word), "{what}: `{word}` in `{line}`");
    }
}

/// Blocks of this size that are not all zeros.
fn used(raw: &[u8], block: usize) -> usize {
    raw.chunks(block)
        .filter(|part| part.iter().any(|byte| *byte != 0))
        .count()
}

#[test]
fn every_field_that_a_format_has_is_shown() {
    let raw = fixture("tiny-superfloppy.img");
    let below: Vec<u8> = raw.iter().map(|byte| byte ^ u8::from(*byte != 0)).collect();
    let blocks = |block: usize| raw.len().div_ceil(block);
    let vhd_shape = vhd::Shape {
        block: 64 << 10,
        ..vhd::Shape::default()
    };
    let shape = vhdx::Shape {
        block: MIB,
        ..vhdx::Shape::default()
    };
    let keys = vec![
        ("parent_linkage", format!("{{{}}}", vhdx::DATA_WRITE)),
        ("relative_path", "below.vhdx".to_owned()),
    ];
    let parent = vhdx::Parent {
        raw: &below,
        keys,
        partial: true,
    };
    let mut logged = vhdx::build(&raw, shape);
    let page = logged[vhdx::BAT..vhdx::BAT + 4096].to_vec();
    let entry = vhdx::Entry::new(
        7,
        0,
        vec![vhdx::Step::Data(vhdx::BAT as u64, page)],
        &logged,
    );
    vhdx::log(&mut logged, 0, &[entry]);
    let mut over = qcow2::image(&raw, qcow2::Shape::default());
    backed(&mut over, "below.img", Some("raw"));
    let vdi_below = vdi::image(&below, 64 << 10, false, false, false);
    let delta = |name: &str| {
        let mut out = vmdk::sparse(&raw, vmdk::Shape::default());
        let line = format!("RW {} SPARSE \"a\"", raw.len() / 512);
        let hint = format!("parentCID=1a2b3c4d\nparentFileNameHint=\"{name}\"");
        let text = vmdk::descriptor("monolithicSparse", &[line]);
        put(
            &mut out,
            512,
            text.replace("parentCID=ffffffff", &hint).as_bytes(),
        );
        out
    };
    let half = raw.len() / 2 / 512 * 512;
    let flat = [("a-f001.vmdk", 0..half), ("a-f002.vmdk", half..raw.len())];
    let lines = flat
        .clone()
        .map(|(name, part)| format!("RW {} FLAT \"{name}\" 0", part.len() / 512));
    let e01 = ewf::Shape::default();
    let ex01 = ex01::Shape::default();
    let aff4_shape = aff4::Shape::default();
    let a5 = "a5".repeat(16);
    let vdi_id = "a5a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5";
    type Row<'a> = (&'a str, &'a str, Vec<u8>, Vec<(&'a str, Vec<u8>)>, Value);
    let rows: Vec<Row<'_>> = vec![
        ("raw", "a.img", raw.clone(), vec![], json!({})),
        (
            "vhd",
            "fixed.vhd",
            vhd::fixed(&raw),
            vec![],
            json!({"kind": "fixed", "creator": "win", "id": a5}),
        ),
        (
            "vhd",
            "dynamic.vhd",
            vhd::dynamic(&raw, vhd_shape),
            vec![],
            json!({
                "kind": "dynamic", "creator": "win", "id": a5, "block_size": 64 << 10,
                "blocks": blocks(64 << 10), "allocated": used(&raw, 64 << 10),
            }),
        ),
        (
            "vhd",
            "child.vhd",
            vhd_child(&raw, &below, "below.vhd"),
            vec![("below.vhd", vhd::dynamic(&below, vhd_shape))],
            json!({
                "kind": "differencing", "creator": "win", "id": "5a".repeat(16),
                "block_size": 2 << 20, "blocks": blocks(2 << 20),
                "allocated": used(&raw, 2 << 20), "chain": ["below.vhd"],
            }),
        ),
        (
            "vhdx",
            "dynamic.vhdx",
            vhdx::build(&raw, shape),
            vec![],
            json!({
                "kind": "dynamic", "creator": "vhdx_builder", "id": vhdx::DATA_WRITE,
                "block_size": MIB, "blocks": blocks(MIB), "allocated": used(&raw, MIB),
                "log": "empty",
            }),
        ),
        (
            "vhdx",
            "fixed.vhdx",
            vhdx::build(
                &raw,
                vhdx::Shape {
                    fixed: true,
                    ..shape
                },
            ),
            vec![],
            json!({
                "kind": "fixed", "creator": "vhdx_builder", "id": vhdx::DATA_WRITE,
                "block_size": MIB, "blocks": blocks(MIB), "allocated": blocks(MIB),
                "log": "empty",
            }),
        ),
        (
            "vhdx",
            "child.vhdx",
            vhdx::differencing(&raw, shape, &parent),
            vec![("below.vhdx", vhdx::build(&below, shape))],
            json!({
                "kind": "differencing", "creator": "vhdx_builder", "id": vhdx::DATA_WRITE,
                "block_size": MIB, "blocks": blocks(MIB), "allocated": used(&raw, MIB),
                "log": "empty", "chain": ["below.vhdx"],
            }),
        ),
        (
            "vhdx",
            "logged.vhdx",
            logged,
            vec![],
            json!({
                "kind": "dynamic", "creator": "vhdx_builder", "id": vhdx::DATA_WRITE,
                "block_size": MIB, "blocks": blocks(MIB), "allocated": used(&raw, MIB),
                "log": "1 entry, replayed in memory",
            }),
        ),
        (
            "qcow2",
            "a.qcow2",
            qcow2::image(&raw, qcow2::Shape::default()),
            vec![],
            json!({
                "kind": "version 3", "block_size": 64 << 10, "blocks": blocks(64 << 10),
                "allocated": used(&raw, 64 << 10),
            }),
        ),
        (
            "qcow2",
            "over.qcow2",
            over,
            vec![("below.img", below.clone())],
            json!({
                "kind": "version 3", "block_size": 64 << 10, "blocks": blocks(64 << 10),
                "allocated": used(&raw, 64 << 10), "chain": ["below.img"],
            }),
        ),
        (
            "vdi",
            "a.vdi",
            vdi::image(&raw, 64 << 10, false, false, false),
            vec![],
            json!({
                "kind": "dynamic", "creator": "Oracle VM VirtualBox Disk Image", "id": vdi_id,
                "block_size": 64 << 10, "blocks": blocks(64 << 10),
                "allocated": used(&raw, 64 << 10),
            }),
        ),
        (
            "vdi",
            "static.vdi",
            vdi::image(&raw, MIB, false, false, true),
            vec![],
            json!({
                "kind": "static", "creator": "Oracle VM VirtualBox Disk Image", "id": vdi_id,
                "block_size": MIB, "blocks": blocks(MIB), "allocated": blocks(MIB),
            }),
        ),
        (
            "vdi",
            "child.vdi",
            vdi::differencing(&raw, &vdi_below, 64 << 10),
            vec![("below.vdi", vdi_below)],
            json!({
                "kind": "differencing", "creator": "Oracle VM VirtualBox Disk Image",
                "id": "c3c3c3c3-c3c3-c3c3-c3c3-c3c3c3c3c3c3", "block_size": 64 << 10,
                "blocks": blocks(64 << 10), "allocated": used(&raw, 64 << 10),
                "chain": ["below.vdi"],
            }),
        ),
        (
            "vmdk",
            "a.vmdk",
            vmdk::sparse(&raw, vmdk::Shape::default()),
            vec![],
            json!({
                "kind": "monolithicSparse", "id": "1a2b3c4d", "block_size": 64 << 10,
                "blocks": blocks(64 << 10), "allocated": used(&raw, 64 << 10),
            }),
        ),
        (
            "vmdk",
            "delta.vmdk",
            delta("below.vmdk"),
            vec![("below.vmdk", vmdk::sparse(&below, vmdk::Shape::default()))],
            json!({
                "kind": "monolithicSparse", "id": "1a2b3c4d", "block_size": 64 << 10,
                "blocks": blocks(64 << 10), "allocated": used(&raw, 64 << 10),
                "chain": ["below.vmdk"],
            }),
        ),
        (
            "vmdk",
            "set.vmdk",
            vmdk::descriptor("twoGbMaxExtentFlat", &lines).into_bytes(),
            flat.map(|(name, part)| (name, raw[part].to_vec())).into(),
            json!({
                "kind": "twoGbMaxExtentFlat", "id": "1a2b3c4d",
                "files": ["a-f001.vmdk", "a-f002.vmdk"],
            }),
        ),
        (
            "e01",
            "a.E01",
            ewf::set(&raw, &e01).remove(0),
            vec![],
            json!({
                "kind": "EnCase, 1 segment file", "block_size": e01.chunk * 512,
                "blocks": blocks(e01.chunk * 512), "allocated": blocks(e01.chunk * 512),
            }),
        ),
        (
            "ex01",
            "a.Ex01",
            ex01::set(&raw, &ex01).remove(0),
            vec![],
            json!({
                "kind": "EnCase 7, 1 segment file", "block_size": ex01.chunk * 512,
                "blocks": blocks(ex01.chunk * 512), "allocated": blocks(ex01.chunk * 512),
            }),
        ),
        (
            "aff4",
            "a.aff4",
            aff4::image(&raw, &aff4_shape),
            vec![],
            json!({
                "kind": "map, snappy", "creator": "Tester 9.9", "id": aff4::VOLUME,
                "block_size": aff4_shape.chunk, "blocks": blocks(aff4_shape.chunk),
            }),
        ),
    ];
    for (format, name, file, beside, want) in rows {
        let dir = scratch();
        let image = dir.path().join(name);
        fs::write(&image, &file).unwrap();
        let mut file_len = file.len();
        for (other, bytes) in &beside {
            fs::write(dir.path().join(other), bytes).unwrap();
            if want["files"].as_array().is_some() {
                file_len += bytes.len();
            }
        }
        let (mut facts, line) = scan(&image);
        assert_eq!(facts["format"], format, "{name}");
        assert_eq!(facts["disk_len"], raw.len(), "{name}: the virtual size");
        assert_eq!(facts["file_len"], file_len, "{name}: the size of the file");
        match name {
            "a.img" => assert_eq!(line, "", "nothing to say of a raw disk"),
            _ => in_text(name, &facts, &line),
        }
        if ["e01", "ex01", "aff4"].contains(&format) {
            // What the builders put into them is the other tests' affair.
            let container = &mut facts["container"];
            for key in ["creator", "id", "allocated"] {
                if want.get(key).is_none() {
                    assert!(!container[key].is_null(), "{name}: {key}");
                    container[key] = Value::Null;
                }
            }
        }
        assert_eq!(facts["container"], says(want), "{name}");
    }
}

#[test]
fn fields_are_those_that_qemu_img_shows() {
    if !called("fields_are_those_that_qemu_img_shows") {
        return;
    }
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let raw = fixture("tiny-superfloppy.img");
    let plain = path("plain.img");
    fs::write(&plain, &raw).unwrap();
    for (theirs, ours, options, kind) in [
        ("vpc", "vhd", "subformat=fixed,force_size=on", "fixed"),
        ("vpc", "vhd", "subformat=dynamic,force_size=on", "dynamic"),
        ("vhdx", "vhdx", "subformat=fixed", "fixed"),
        ("vhdx", "vhdx", "subformat=dynamic,block_size=1M", "dynamic"),
        ("qcow2", "qcow2", "compat=1.1,cluster_size=4k", "version 3"),
        ("qcow2", "qcow2", "compat=0.10", "version 2"),
        ("vdi", "vdi", "static=off", "dynamic"),
        ("vdi", "vdi", "static=on", "static"),
        (
            "vmdk",
            "vmdk",
            "subformat=monolithicSparse",
            "monolithicSparse",
        ),
        ("vmdk", "vmdk", "subformat=monolithicFlat", "monolithicFlat"),
        (
            "vmdk",
            "vmdk",
            "subformat=twoGbMaxExtentSparse",
            "twoGbMaxExtentSparse",
        ),
        (
            "vmdk",
            "vmdk",
            "subformat=twoGbMaxExtentFlat",
            "twoGbMaxExtentFlat",
        ),
        (
            "vmdk",
            "vmdk",
            "subformat=streamOptimized",
            "streamOptimized",
        ),
    ] {
        let image = path("a.img");
        let args = ["convert", "-f", "raw", "-O", theirs, "-o", options];
        tool(
            "qemu-img",
            &[&args[..], &[arg(&plain), arg(&image)]].concat(),
        );
        let info = tool(
            "qemu-img",
            &["info", "-f", theirs, "--output=json", arg(&image)],
        );
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        let map = tool(
            "qemu-img",
            &["map", "-f", theirs, "--output=json", arg(&image)],
        );
        let map: Value = serde_json::from_slice(&map.stdout).unwrap();
        let (facts, line) = scan(&image);
        let container = &facts["container"];
        assert_eq!(facts["format"], ours, "{options}");
        assert_eq!(facts["disk_len"], info["virtual-size"], "{options}");
        assert_eq!(container["kind"], kind, "{options}");
        in_text(options, &facts, &line);
        let special = &info["format-specific"]["data"];
        let cluster = [
            &info["cluster-size"],
            &special["extents"][0]["cluster-size"],
        ]
        .into_iter()
        .find_map(Value::as_u64);
        // qemu-img names no block size for a VHD, and its own for what has none.
        if theirs != "vpc" && !container["block_size"].is_null() {
            assert_eq!(
                container["block_size"].as_u64(),
                cluster,
                "{options}: {info}"
            );
        }
        if let Some(block) = container["block_size"].as_u64() {
            let blocks = facts["disk_len"].as_u64().unwrap().div_ceil(block);
            assert_eq!(container["blocks"].as_u64(), Some(blocks), "{options}");
            // Blocks of which qemu knows a place.
            let mut there = std::collections::BTreeSet::new();
            for run in map.as_array().unwrap() {
                let number = |key: &str| run[key].as_u64();
                let has_place = run["present"] != json!(false) && run["data"] == json!(true);
                if let (true, Some(start), Some(len)) =
                    (has_place, number("start"), number("length"))
                {
                    there.extend(start / block..(start + len).div_ceil(block));
                }
            }
            // In a static VDI or fixed VHDX zeros have a place, too.
            let all = ["static", "fixed"].contains(&kind);
            let want = if all { blocks } else { there.len() as u64 };
            assert_eq!(
                container["allocated"].as_u64(),
                Some(want),
                "{options}: {map}"
            );
        }
        match theirs {
            "vpc" => assert_eq!(container["creator"], "qem2", "{options}"),
            "vhdx" => {
                assert!(
                    container["creator"].as_str().unwrap().starts_with("QEMU"),
                    "{options}"
                );
                assert_eq!(container["log"], "empty", "{options}");
            }
            "vdi" => assert!(
                container["creator"].as_str().unwrap().contains("QEMU"),
                "{options}"
            ),
            "qcow2" => {
                let compat = special["compat"].as_str().unwrap();
                assert_eq!(kind == "version 3", compat == "1.1", "{options}");
            }
            _ => {
                let cid = format!("{:08x}", special["cid"].as_u64().unwrap());
                assert_eq!(container["id"], cid, "{options}");
                let extents = special["extents"].as_array().unwrap();
                let files = container["files"].as_array().unwrap();
                if kind.contains("Flat") || kind.contains("twoGb") {
                    assert_eq!(files.len(), extents.len(), "{options}");
                }
            }
        }
        let beside = fs::read_dir(dir.path()).unwrap().flatten();
        let own = beside.filter(|entry| entry.file_name() != "plain.img");
        let len: u64 = own.map(|entry| entry.metadata().unwrap().len()).sum();
        assert_eq!(facts["file_len"].as_u64(), Some(len), "{options}");
        for entry in fs::read_dir(dir.path()).unwrap().flatten() {
            if entry.file_name() != "plain.img" {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    // A chain, as qemu-img shows it.
    for (format, ours) in [("qcow2", "qcow2"), ("vmdk", "vmdk")] {
        let (below, image) = (path("below.img"), path("over.img"));
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            format,
            arg(&plain),
            arg(&below),
        ];
        tool("qemu-img", &args);
        let args = [
            "create",
            "-f",
            format,
            "-F",
            format,
            "-b",
            "below.img",
            arg(&image),
        ];
        tool("qemu-img", &args);
        let info = tool(
            "qemu-img",
            &["info", "-f", format, "--output=json", arg(&image)],
        );
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        let (facts, line) = scan(&image);
        assert_eq!(facts["format"], ours);
        let chain = facts["container"]["chain"].as_array().unwrap().clone();
        assert_eq!(chain, [info["backing-filename"].clone()], "{info}");
        assert!(line.contains("on top of below.img"), "{line}");
        fs::remove_file(below).unwrap();
        fs::remove_file(image).unwrap();
    }
}
