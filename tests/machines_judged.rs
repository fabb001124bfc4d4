//! Who a machine is, as independent readers of hives see it: reglookup, hivex and libregf, over real hives
//! and over the installations of every generation (`cases_machines/`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use declone::windows::{
    machine::{Fact, of_sam, of_security, of_system},
    registry::Registry,
};

use crate::{
    judges::{called, tool},
    machines::{case_names, case_of},
    run::{arg, samples, scratch},
};

pub fn unpack(dir: &Path, name: &str) -> Vec<u8> {
    let packed = dir.join("hives").join(format!("{name}.xz"));
    tool("xz", &["-dc", arg(&packed)]).stdout
}

fn value_of<'a>(facts: &'a [Fact], kind: &str) -> &'a str {
    let found = facts.iter().find(|fact| fact.kind == kind);
    &found
        .unwrap_or_else(|| panic!("no {kind} in {facts:?}"))
        .value
}

/// The bytes of reglookup's notation.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    out
}

/// A value's data as reglookup prints it.
fn reglookup(hive: &Path, key: &str, value: &str) -> Vec<u8> {
    let out = tool("reglookup", &["-p", key, arg(hive)]);
    let text = String::from_utf8(out.stdout).expect("reglookup prints ASCII");
    let start = format!("{key}/{value},");
    let line = text.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("reglookup shows no {start}"));
    let mut fields = line[start.len()..].splitn(2, ',');
    fields.next();
    unescape(fields.next().expect("a value").trim_end_matches(','))
}

/// A value as hivex prints it: text as text, binary data as it is.
fn hivexget(hive: &Path, key: &str, value: &str) -> Vec<u8> {
    tool("hivexget", &[arg(hive), key, value]).stdout
}

/// The data of the last value of a key in libregf's hex dump.
fn regfexport(hive: &Path, key: &str) -> Vec<u8> {
    let out = tool("regfexport", &["-K", key, arg(hive)]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let own = text.split("Key path:").nth(1).expect("the key");
    let last = own.rsplit("Data:\n").next().expect("a dump");
    let lines = last.lines().take_while(|line| line.contains(": "));
    let digits: String = lines
        .flat_map(|line| line[10..].chars().take(49))
        .filter(char::is_ascii_hexdigit)
        .collect();
    hex::decode(digits).expect("a dump of whole bytes")
}

/// The last SID of a computer in these bytes, found by how it begins.
fn sid_in(bytes: &[u8]) -> &[u8] {
    const HEAD: [u8; 12] = [1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
    let at = bytes.windows(24).rposition(|w| w.starts_with(&HEAD));
    &bytes[at.expect("a SID")..][..24]
}

/// The numbers of a SID, spelled out here once more.
fn spell(sid: &[u8]) -> String {
    let numbers: Vec<String> = sid[8..]
        .chunks(4)
        .map(|n| u32::from_le_bytes(n.try_into().unwrap()).to_string())
        .collect();
    format!("S-1-5-{}", numbers.join("-"))
}

#[test]
fn reglookup_hivex_and_libregf_read_the_same_sids_and_names() {
    if !called("reglookup_hivex_and_libregf_read_the_same_sids_and_names") {
        return;
    }
    let Some(dir) = samples("reglookup_hivex_and_libregf_read_the_same_sids_and_names") else {
        return;
    };
    let out = scratch();
    let save = |name: &str| {
        let path = out.path().join(name);
        let bytes = unpack(&dir, name);
        fs::write(&path, &bytes).expect("writable");
        (path, bytes)
    };
    for name in [
        "nt4sp3_SAM",
        "win2012_SAM",
        "SAM_DUPENAME",
        "SAM_hasBigEndianDWord",
    ] {
        let (path, bytes) = save(name);
        let hive = Registry::open(&bytes, name).expect("a hive");
        let facts = of_sam(&hive);
        let ours = value_of(&facts, "computer_sid");
        let v = reglookup(&path, "/SAM/Domains/Account", "V");
        assert_eq!(ours, spell(sid_in(&v)), "{name}: reglookup");
        let v = hivexget(&path, r"SAM\Domains\Account", "V");
        assert_eq!(ours, spell(sid_in(&v)), "{name}: hivex");
        let v = regfexport(&path, r"SAM\Domains\Account");
        assert_eq!(ours, spell(sid_in(&v)), "{name}: libregf");
    }
    let (path, bytes) = save("win2016_SECURITY");
    let facts = of_security(&Registry::open(&bytes, "SECURITY").expect("a hive"));
    for (key, kind) in [("PolAcDmS", "computer_sid"), ("PolPrDmS", "domain_sid")] {
        let sid = reglookup(&path, &format!("/Policy/{key}"), "");
        assert_eq!(value_of(&facts, kind), spell(&sid), "{key}: reglookup");
        let key = format!(r"Policy\{key}");
        let sid = hivexget(&path, &key, "@");
        assert_eq!(value_of(&facts, kind), spell(&sid), "{key}: hivex");
        let sid = regfexport(&path, &key);
        assert_eq!(value_of(&facts, kind), spell(&sid), "{key}: libregf");
    }
    let name = reglookup(&path, "/Policy/PolPrDmN", "");
    let name: Vec<u8> = name[8..].iter().copied().filter(|b| *b != 0).collect();
    assert_eq!(value_of(&facts, "domain").as_bytes(), name);

    for name in ["xpsp3_SYSTEM", "nt4sp3_SYSTEM", "dirty_win10_SYSTEM_B"] {
        let (path, bytes) = save(name);
        let facts = of_system(&Registry::open(&bytes, name).expect("a hive"));
        let set = "ControlSet001";
        let places = [
            (
                "computer_name",
                r"Control\ComputerName\ComputerName",
                "ComputerName",
            ),
            ("host_name", r"Services\Tcpip\Parameters", "Hostname"),
        ];
        for (kind, key, value) in places {
            let key = format!(r"{set}\{key}");
            let ours = value_of(&facts, kind);
            let slashes = format!("/{}", key.replace('\\', "/"));
            assert_eq!(
                ours.as_bytes(),
                reglookup(&path, &slashes, value),
                "{name}: reglookup"
            );
            let hivex = hivexget(&path, &key, value);
            assert_eq!(ours.as_bytes(), hivex.trim_ascii(), "{name}: hivex");
        }
    }
}

/// A hive of a case, as a file and as bytes.
fn saved(dir: &Path, case: &str, path: &str, bytes: &[u8]) -> PathBuf {
    let name = path.rsplit('\\').next().expect("a name");
    let file = dir.join(format!("{case}-{name}"));
    fs::write(&file, bytes).expect("writable");
    file
}

#[test]
fn the_judges_see_the_sids_and_names_of_every_generation() {
    if !called("the_judges_see_the_sids_and_names_of_every_generation") {
        return;
    }
    let dir = scratch();
    let mut generations = Vec::new();
    for name in case_names() {
        let (machine, generation) = case_of(&name);
        for (path, bytes) in machine.hives() {
            let file = saved(dir.path(), &name, &path, &bytes);
            let hive = Registry::open(&bytes, &path).expect("a hive");
            let judged = |kind: &str, ours: &str, key: &str, value: &str| {
                let slashes = format!("/{}", key.replace('\\', "/"));
                let seen = reglookup(&file, &slashes, value);
                let text = |bytes: &[u8]| match kind {
                    "computer_sid" | "domain_sid" => spell(sid_in(bytes)),
                    _ => String::from_utf8(bytes.trim_ascii().to_vec()).expect("text"),
                };
                assert_eq!(ours, text(&seen), "{name}: {kind}: reglookup");
                let at = if value.is_empty() { "@" } else { value };
                let seen = hivexget(&file, key, at);
                assert_eq!(ours, text(&seen), "{name}: {kind}: hivex");
                if kind.ends_with("_sid") {
                    let seen = regfexport(&file, key);
                    assert_eq!(ours, text(&seen), "{name}: {kind}: libregf");
                }
            };
            let facts = match path.rsplit('\\').next() {
                Some("SAM") => of_sam(&hive),
                Some("SECURITY") => of_security(&hive),
                Some("SYSTEM") => of_system(&hive),
                _ => continue,
            };
            for fact in &facts {
                let of = path.rsplit('\\').next().unwrap_or_default();
                let (key, value) = match (fact.kind.as_str(), of) {
                    ("computer_sid", "SAM") => (r"SAM\Domains\Account", "V"),
                    ("computer_sid", "SECURITY") => (r"Policy\PolAcDmS", ""),
                    ("domain_sid", "SECURITY") => (r"Policy\PolPrDmS", ""),
                    ("computer_name", "SYSTEM") => (
                        r"ControlSet001\Control\ComputerName\ComputerName",
                        "ComputerName",
                    ),
                    ("host_name", "SYSTEM") => {
                        (r"ControlSet001\Services\Tcpip\Parameters", "Hostname")
                    }
                    _ => continue,
                };
                judged(&fact.kind, &fact.value, key, value);
                generations.push((generation.clone(), fact.kind.clone()));
            }
        }
    }
    for generation in [
        "nt4", "2000", "xp", "2003", "vista", "7", "8", "8.1", "10", "11",
    ] {
        for kind in ["computer_sid", "computer_name"] {
            let one = (Some(generation.to_owned()), kind.to_owned());
            assert!(generations.contains(&one), "{one:?} was not judged");
        }
    }
}
