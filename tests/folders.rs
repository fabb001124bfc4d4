//! Folders whose files are removed (`kind = "folder"`): what goes, what stays, on every file system.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    machine,
    run::{Ran, arg, declone, digest, scratch},
    support::{
        exfat_builder::ExfatBuilder,
        fat_builder::{FatBuilder, Width},
        ntfs_builder::NtfsBuilder,
        wim_builder::{Node, Wim},
    },
};

const CACHE: &str = r"\Windows\ccmcache";

fn scan(image: &Path) -> Value {
    let ran = declone(&["scan", arg(image), "--rules", "ccm", "--json", "-"]);
    ran.json()["images"][0].clone()
}

fn of_rule<'a>(image: &'a Value, rule: &str) -> Vec<&'a Value> {
    let all = image["findings"].as_array().unwrap();
    all.iter().filter(|one| one["rule"] == rule).collect()
}

/// Cleans with profile ccm; a second time there is nothing to do.
fn clean(image: &Path, out: &Path) -> Ran {
    let ran = declone(&["clean", arg(image), "-o", arg(out), "--rules", "ccm"]);
    // What has another name elsewhere stays, and is named.
    assert_eq!(
        ran.code,
        i32::from(ran.out.contains("hard link")),
        "{}",
        ran.out
    );
    let before = digest(out);
    let code = ran.code;
    let data = "--allow-no-windows";
    declone(&["clean", arg(out), "--in-place", "--rules", "ccm", data]).exits(code);
    assert_eq!(digest(out), before, "the second run writes nothing");
    declone(&["verify", arg(out), "--rules", "ccm", data]).exits(code);
    ran
}

#[test]
fn the_files_of_a_cache_go_and_what_is_not_its_own_stays() {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.img"), dir.path().join("out.img"));
    let mut v = NtfsBuilder::new(16 << 20);
    for i in 0..300_usize {
        let path = format!(r"{CACHE}\{:x}\{}\package number {i}.bin", i % 7, i % 3);
        v.file(&path, vec![b'p'; i * 40]);
    }
    v.dir(&format!(r"{CACHE}\empty"));
    v.file(&format!(r"{CACHE}\shared.dll"), "SHARED-WITH-WINDOWS");
    v.link(
        &format!(r"{CACHE}\shared.dll"),
        r"\Windows\System32\shared.dll",
    );
    v.file(&format!(r"{CACHE}\twice.dll"), "TWICE-IN-THE-CACHE");
    v.link(
        &format!(r"{CACHE}\twice.dll"),
        &format!(r"{CACHE}\1\twice.dll"),
    );
    v.file(&format!(r"{CACHE}\packed.bin"), vec![b'c'; 100_000])
        .compressed();
    v.file(r"\Windows\notepad.exe", "stays");
    machine::write(&v, &image);
    let found = scan(&image);
    let cache = of_rule(&found, "ccm.cache");
    assert_eq!(cache.len(), 1);
    let evidence = cache[0]["evidence"].as_str().unwrap();
    assert!(
        evidence.contains("303 files and 29 directories"),
        "{evidence}"
    );
    assert!(evidence.contains("1 of the files stay"), "{evidence}");
    assert_eq!(cache[0]["confidence"], "A");
    let kept = found["left"].to_string();
    assert!(
        kept.contains("shared.dll") && kept.contains("hard link"),
        "{kept}"
    );
    clean(&image, &out);
    let after = scan(&out);
    let cache = of_rule(&after, "ccm.cache");
    assert_eq!(cache[0]["action"], "report", "{cache:?}");
    let evidence = cache[0]["evidence"].as_str().unwrap();
    assert!(
        evidence.contains("1 files and 29 directories"),
        "{evidence}"
    );
    let bytes = fs::read(&out).unwrap();
    let has = |text: &str| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
    assert!(has("SHARED-WITH-WINDOWS") && !has("TWICE-IN-THE-CACHE"));
    assert!(!has("pppppppppppppppp"));
}

#[test]
fn a_folder_with_a_hive_below_it_is_never_emptied() {
    let dir = scratch();
    let image = dir.path().join("a.img");
    let mut v = NtfsBuilder::new(8 << 20);
    let hive = machine::hive(5).build();
    v.file(r"\Windows\System32\config\SOFTWARE", hive);
    v.file(r"\Windows\System32\kernel32.dll", "stays");
    machine::write(&v, &image);
    let rules = dir.path().join("rules.toml");
    fs::write(
        &rules,
        "[[rule]]\nid = \"my.folder\"\nprofile = \"my\"\ntitle = \"t\"\nstep = \"s\"\naction = \"delete\"\n\
         confidence = \"A\"\nsources = [\"x\"]\nrationale = \"r\"\n\
         target = { kind = \"folder\", path = [\"Windows\", \"System32\"] }\n",
    )
    .unwrap();
    let before = digest(&image);
    let args = [
        "clean",
        arg(&image),
        "--in-place",
        "--rules",
        arg(&rules),
        "--json",
        "-",
    ];
    let json = declone(&args).exits(1).json();
    assert_eq!(digest(&image), before);
    let found = &json["images"][0]["findings"][0];
    assert_eq!(found["action"], "report");
    let said = found["evidence"].as_str().unwrap();
    assert!(said.contains("NOT EMPTIED"), "{said}");
}

#[test]
fn a_cache_is_emptied_on_every_file_system() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let files = [
        (format!(r"{CACHE}\1a\setup.msi"), "GOES-1", true),
        (
            format!(r"{CACHE}\1a\deep\deeper\data with a long name.cab"),
            "GOES-2",
            true,
        ),
        (format!(r"{CACHE}2\setup.msi"), "STAYS-1", false),
        (r"\Windows\setup.msi".to_owned(), "STAYS-2", false),
    ];
    for width in [Width::Fat12, Width::Fat16, Width::Fat32] {
        let (len, cluster) = match width {
            Width::Fat12 => (2 << 20, 1024),
            Width::Fat16 => (12 << 20, 1024),
            Width::Fat32 => (48 << 20, 512),
        };
        let mut fat = FatBuilder::new(width, len, cluster);
        for (name, text, _) in &files {
            fat.file(name, text.repeat(100));
        }
        fs::write(path("fat.img"), fat.build().bytes).unwrap();
        check(&path("fat.img"), &path("fat.out"), &files);
    }
    let mut exfat = ExfatBuilder::new(8 << 20, 512, 4096);
    for (name, text, _) in &files {
        exfat.file(name, text.repeat(100));
    }
    fs::write(path("exfat.img"), exfat.build().bytes).unwrap();
    check(&path("exfat.img"), &path("exfat.out"), &files);

    let mut root = Node::directory("");
    for (name, text, _) in &files {
        root.add(name, text.repeat(100).as_bytes());
    }
    fs::write(path("a.wim"), Wim::new(vec![root]).build()).unwrap();
    check(&path("a.wim"), &path("out.wim"), &files);

    let tree = path("tree");
    for (name, text, _) in &files {
        let at = tree.join(name.trim_start_matches('\\').replace('\\', "/"));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }
    // What a link in the cache leads to is not in the cache.
    fs::create_dir(path("outside")).unwrap();
    fs::write(path("outside").join("mine.txt"), "mine").unwrap();
    std::os::unix::fs::symlink(path("outside"), tree.join("Windows/ccmcache/link")).unwrap();
    declone(&["clean", arg(&tree), "--in-place", "--rules", "ccm"]).exits(0);
    for (name, _, goes) in &files {
        let at = tree.join(name.trim_start_matches('\\').replace('\\', "/"));
        assert_eq!(at.exists(), !goes, "{name}");
        assert!(at.parent().unwrap().is_dir(), "{name}");
    }
    assert!(path("outside").join("mine.txt").exists());
}

fn check(image: &Path, out: &Path, files: &[(String, &str, bool)]) {
    fs::remove_file(out).ok();
    let what = image.display();
    assert_eq!(of_rule(&scan(image), "ccm.cache").len(), 1, "{what}");
    clean(image, out);
    assert!(of_rule(&scan(out), "ccm.cache").is_empty(), "{what}");
    let bytes = fs::read(out).unwrap();
    for (name, text, goes) in files {
        let there = memchr::memmem::find(&bytes, text.as_bytes()).is_some();
        assert_eq!(there, !goes, "{what}: {name}");
    }
}
