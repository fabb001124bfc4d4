//! The house rules: which room may know which, and who may write, print or be unsafe. Every finding
//! reads `file:line: what is wrong`.
//!
//! The rules are read off the source text, with comments and strings taken out, so the check needs
//! nothing but the standard library. A rule that cannot fail is no rule: each has a test below that
//! plants a violation.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, and which others each of them may name. A room's own name needs no mention.
const MAY_KNOW: &[(&str, &str)] = &[
    ("units", ""),
    ("error", "units"),
    ("bytes", "units error"),
    ("text", "units error bytes"),
    // `text` for one function: a host path in a message is escaped like every other name.
    ("device", "units error bytes text"),
    ("tree", "units error text"),
    ("container", "units error bytes text device tree"),
    ("partition", "units error bytes device"),
    ("volume", "units error bytes text device tree"),
    ("hive", "units error bytes text"),
    (
        "image",
        "units error bytes text device tree container partition volume",
    ),
    ("rules", "units error text"),
    ("windows", "units error bytes text tree hive image"),
    (
        "plan",
        "units error bytes text tree hive image windows rules",
    ),
    (
        "apply",
        "units error bytes text device tree hive image plan rules",
    ),
    (
        "verify",
        "units error bytes text device tree hive image windows rules plan",
    ),
    ("report", "units error text tree rules plan apply verify"),
];

/// The crate's roots and the command line know everything.
const TOP: &[&str] = &["lib", "main", "cli"];

/// Names that say nothing about what lives there.
const BANNED_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "core",
];

/// The map of a host file, and the calls of the host that no safe crate offers.
const UNSAFE_FILES: &[&str] = &["device/map.rs", "device/sys.rs"];

/// Devices outside `device` that pass a write on to the device below, and decide nothing: what a
/// guest writes lands where the container keeps it. (`vhd`: the sector's bit in the bitmap. `vhdx`: the
/// same, new headers, and what its log says. `runs`: an identifier that must change with the contents.)
const FORWARDS: &[&str] = &[
    "container/mapped.rs",
    "container/runs.rs",
    "container/vhd.rs",
    "container/vhdx/mod.rs",
    "container/vhdx/log.rs",
];

/// Functions of `std::fs` and `rustix::fs` that change the host.
const HOST_WRITES: &[&str] = &[
    "write",
    "rename",
    "renameat",
    "renameat_with",
    "copy",
    "copy_file_range",
    "ioctl_ficlone",
    "create_dir",
    "create_dir_all",
    "remove_file",
    "remove_dir",
    "remove_dir_all",
    "hard_link",
    "symlink",
    "set_permissions",
    "unlink",
    "unlinkat",
    "ftruncate",
    "fallocate",
];

#[test]
fn the_house_rules_are_kept() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src);
    assert!(files.len() > 10, "no source found below {}", src.display());
    let mut bad = Vec::new();
    for file in files {
        let rel = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        bad.extend(violations(&rel, &fs::read_to_string(&file).unwrap()));
    }
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}

/// Everything that a file (named from `src/` on) does against the rules.
fn violations(rel: &str, source: &str) -> Vec<String> {
    let parts: Vec<&str> = rel.trim_end_matches(".rs").split('/').collect();
    let room = parts[0];
    let mut found: Vec<(usize, String)> = Vec::new();

    let may = MAY_KNOW.iter().find(|(name, _)| *name == room);
    if may.is_none() && !TOP.contains(&room) {
        found.push((1, format!("room `{room}` is not on the plan")));
    }
    if let Some(name) = parts.iter().find(|part| BANNED_NAMES.contains(part)) {
        found.push((1, format!("`{name}` says nothing about what lives there")));
    }

    let tokens = tokens(source);
    let paths = paths(&tokens);
    // `src/hive/mod.rs` and `src/hive.rs` are one module deep, `src/hive/read.rs` is two.
    let depth = parts.len() - usize::from(parts.last() == Some(&"mod"));
    if let Some((_, may)) = may {
        for path in &paths {
            match path.room(depth) {
                Target::Elsewhere => {}
                Target::Everything => found.push((
                    path.line,
                    format!("`{}` takes the whole crate, name the room", path.text()),
                )),
                Target::Room(used) => {
                    if used != room && !may.split(' ').any(|name| name == used) {
                        found.push((path.line, format!("{room} may not know {used}")));
                    }
                }
            }
        }
    }

    // Tests may write to devices and files of their own; what a room knows, its tests know.
    // `hive/tests.rs` and `hive/tests_edit.rs`, declared behind `#[cfg(test)]`.
    let test_file = parts
        .last()
        .is_some_and(|name| *name == "tests" || name.starts_with("tests_"));
    let allowed = |rooms: &[&str]| rooms.contains(&room);
    let editor = parts.contains(&"edit");
    for (i, token) in tokens.iter().enumerate() {
        let before = |n: usize| i.checked_sub(n).map_or("", |at| tokens[at].text);
        let after = |n: usize| tokens.get(i + n).map_or("", |token| token.text);
        let method = before(1) == ".";
        let what = match token.text {
            "unsafe" | "unsafe_code" if !UNSAFE_FILES.contains(&rel) => {
                format!("unsafe code lives in {} only", UNSAFE_FILES.join(" and "))
            }
            _ if test_file || token.in_test => continue,
            name @ ("write_at" | "zero_at")
                if before(1) != "fn"
                    && !editor
                    && !allowed(&["apply", "device"])
                    && !FORWARDS.contains(&rel) =>
            {
                format!("only edit files and apply may call {name}")
            }
            name @ ("println" | "eprintln" | "print" | "eprint" | "dbg")
                if after(1) == "!" && !allowed(&["main", "cli"]) =>
            {
                format!("{name}! is for main and cli only")
            }
            name @ ("overwrite" | "wipe_residue") if method && room == "verify" => {
                format!("verify may not edit: {name}")
            }
            "write" | "append" | "truncate" | "create" | "create_new"
                if method
                    && after(1) == "("
                    && after(2) == "true"
                    && !allowed(&["apply", "device"]) =>
            {
                "only device and apply open host files for writing".to_owned()
            }
            name @ ("set_len" | "write_all_at") if method && !allowed(&["apply", "device"]) => {
                format!("only device and apply write to the host: {name}")
            }
            _ => continue,
        };
        found.push((token.line, what));
    }
    for path in paths.iter().filter(|path| !test_file && !path.in_test) {
        let names: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let first = names[0];
        if matches!(first, "clap" | "clap_complete" | "clap_mangen" | "anyhow")
            && !allowed(&["main", "cli"])
        {
            found.push((path.line, format!("{first} is for main and cli only")));
        }
        if room == "verify" && names.contains(&"edit") {
            found.push((
                path.line,
                format!("verify may not name edit: `{}`", path.text()),
            ));
        }
        let host_write = names.windows(2).any(|pair| match pair {
            ["fs", name] => HOST_WRITES.contains(name),
            ["File", name] => matches!(*name, "create" | "create_new" | "options"),
            _ => false,
        });
        if host_write && !allowed(&["apply", "device"]) {
            found.push((
                path.line,
                format!("only device and apply write to the host: `{}`", path.text()),
            ));
        }
    }
    found.sort();
    found.dedup();
    found
        .into_iter()
        .map(|(line, what)| format!("src/{rel}:{line}: {what}"))
        .collect()
}

// --- paths ---

/// A path as the source names it: `use a::{b, c::d}` is two of them.
#[derive(Debug)]
struct PathUse {
    line: usize,
    segments: Vec<String>,
    /// How many inline modules stand around it.
    inline: usize,
    in_test: bool,
}

enum Target {
    /// Another crate, or the room itself.
    Elsewhere,
    /// A room of this crate.
    Room(String),
    /// `crate::*` and the like.
    Everything,
}

impl PathUse {
    fn text(&self) -> String {
        self.segments.join("::")
    }

    /// The room meant, seen from a module `depth` levels below the crate.
    fn room(&self, depth: usize) -> Target {
        let mut at = depth + self.inline;
        let mut rest = self.segments.iter().map(String::as_str).peekable();
        match rest.peek() {
            Some(&"crate") => {
                at = 0;
                rest.next();
            }
            Some(&("super" | "self")) => {}
            _ => return Target::Elsewhere,
        }
        while let Some(step @ ("super" | "self")) = rest.peek().copied() {
            at -= usize::from(step == "super" && at > 0);
            rest.next();
        }
        match (at, rest.next()) {
            (0, None | Some("*")) => Target::Everything,
            (0, Some(room)) => Target::Room(room.to_owned()),
            _ => Target::Elsewhere,
        }
    }
}

/// Every path of more than one segment, and every path of a `use`.
fn paths(tokens: &[Token<'_>]) -> Vec<PathUse> {
    let mut out = Vec::new();
    let mut at = 0;
    // The depths of braces at which inline modules end.
    let mut modules: Vec<usize> = Vec::new();
    let mut braces = 0_usize;
    while at < tokens.len() {
        let text = |n: usize| tokens.get(n).map_or("", |token| token.text);
        let used = text(at) == "use";
        let starts = is_name(text(at)) && text(at + 1) == "::";
        let inside = at > 0 && matches!(text(at - 1), "::" | ".");
        if used || (starts && !inside) {
            let mut leaves = Vec::new();
            let from = at + usize::from(used);
            at = tree(tokens, from, &[], &mut leaves).max(at + 1);
            out.extend(leaves.into_iter().map(|(line, segments)| PathUse {
                line,
                segments,
                inline: modules.len(),
                in_test: tokens[from.min(tokens.len() - 1)].in_test,
            }));
            continue;
        }
        match text(at) {
            "mod" if text(at + 2) == "{" => modules.push(braces),
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                if modules.last() == Some(&braces) {
                    modules.pop();
                }
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Reads one path, or a group of them, from `at` on; returns where it ends.
fn tree(
    tokens: &[Token<'_>],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let text = |n: usize| tokens.get(n).map_or("", |token| token.text);
    let mut segments = prefix.to_vec();
    if text(at) == "::" {
        at += 1;
    }
    loop {
        if text(at) == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                let next = tree(tokens, at, &segments, leaves);
                // An alias, a comma, or something that is no use tree after all: go on.
                at = next.max(at + usize::from(next == at));
            }
            return at + 1;
        }
        if !is_name(text(at)) && text(at) != "*" {
            break;
        }
        // `use super::{self as here}`: the path ends at what it renames.
        if text(at) != "as" {
            segments.push(text(at).to_owned());
        }
        at += 1;
        if text(at) == "as" {
            at += 2;
        }
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if segments.len() > prefix.len() {
        let line = tokens
            .get(at.saturating_sub(1))
            .map_or(1, |token| token.line);
        leaves.push((line, segments));
    }
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

// --- tokens ---

/// A name, a `::`, or a single character; comments, strings and numbers are not among them.
#[derive(Debug)]
struct Token<'a> {
    line: usize,
    text: &'a str,
    /// Inside an item marked `#[cfg(test)]`.
    in_test: bool,
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut out: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < source.len() {
        let rest = &source[at..];
        let len = skipped(rest).unwrap_or_else(|| {
            let len = lexeme(rest);
            let text = &rest[..len];
            if !text.trim().is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) {
                out.push(Token {
                    line,
                    text,
                    in_test: false,
                });
            }
            len
        });
        line += rest[..len].matches('\n').count();
        at += len;
    }
    mark_tests(&mut out);
    out
}

/// The length of a comment or a literal that begins here.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        let mut depth = 0;
        for (i, _) in rest.char_indices() {
            match &rest.as_bytes()[i..] {
                [b'/', b'*', ..] => depth += 1,
                // Counted at the slash, so that `/*/` opens and does not close.
                [b'*', b'/', ..] if i > 1 => depth -= 1,
                _ => continue,
            }
            if depth == 0 {
                return Some(i + 2);
            }
        }
        return Some(rest.len());
    }
    let prefix = rest.trim_start_matches(['b', 'c', 'r']);
    let marks = prefix.len() - prefix.trim_start_matches('#').len();
    let body = &prefix[marks..];
    let before = rest.len() - body.len();
    let raw = rest[..before].contains('r');
    if before - marks <= 2 && body.starts_with('"') && (raw || marks == 0) {
        if raw {
            let close = format!("\"{}", "#".repeat(marks));
            return Some(
                body[1..]
                    .find(&close)
                    .map_or(rest.len(), |end| before + 1 + end + close.len()),
            );
        }
        return Some(before + quoted(body, '"')?);
    }
    let body = rest.strip_prefix('b').unwrap_or(rest);
    if let Some(behind) = body.strip_prefix('\'') {
        // A lifetime has no closing mark behind its first character.
        let mut chars = behind.chars();
        let first = chars.next()?;
        if first == '\\' || chars.next() == Some('\'') {
            return Some(rest.len() - body.len() + quoted(body, '\'')?);
        }
    }
    None
}

/// The length of a literal from its opening to its closing mark.
fn quoted(body: &str, mark: char) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// The length of the name, number, `::` or character that begins here.
fn lexeme(rest: &str) -> usize {
    let word = rest
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    match word {
        0 if rest.starts_with("::") => 2,
        0 => rest.chars().next().map_or(1, char::len_utf8),
        len => len,
    }
}

/// Marks the item behind every `#[cfg(test)]`: up to its closing brace, or its semicolon.
fn mark_tests(tokens: &mut [Token<'_>]) {
    let mut at = 0;
    while at < tokens.len() {
        let begins = ["#", "[", "cfg", "(", "test", ")", "]"]
            .iter()
            .enumerate()
            .all(|(i, text)| tokens.get(at + i).is_some_and(|token| token.text == *text));
        if !begins {
            at += 1;
            continue;
        }
        let mut depth = 0;
        while let Some(token) = tokens.get_mut(at) {
            token.in_test = true;
            at += 1;
            match token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => continue,
            }
            if depth == 0 {
                break;
            }
        }
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    out.sort();
    out
}

// --- the rules can fail ---

/// The findings without the file's name.
fn found(rel: &str, source: &str) -> Vec<String> {
    let prefix = format!("src/{rel}:");
    violations(rel, source)
        .iter()
        .map(|text| text.strip_prefix(&prefix).unwrap().to_owned())
        .collect()
}

#[test]
fn an_arrow_that_goes_up_is_found() {
    let clean = "use crate::{error::Result, text::{Name, escape}};\nuse std::fs::File;";
    assert!(found("rules/mod.rs", clean).is_empty());
    let known = ["2: report may not know device"];
    assert_eq!(
        found("report/html.rs", "\nuse crate::device::Memory;"),
        known
    );
    assert_eq!(
        found("report.rs", "\nfn f() { crate::device::open() }"),
        known
    );
    assert_eq!(found("report/mod.rs", "\nuse super::device;"), known);
    assert_eq!(
        found("report/html.rs", "\nuse super::super::device::Memory;"),
        known
    );
    assert_eq!(
        found("report/html.rs", "\nuse super::{super::device, text};"),
        known
    );
    assert_eq!(
        found("report/a/mod.rs", "\nuse super::super::device;"),
        known
    );
    assert_eq!(
        found(
            "report/html.rs",
            "\nuse ::std::io; pub(in crate::device) fn f();"
        ),
        known
    );
}

#[test]
fn groups_are_looked_into() {
    let source = "use crate::{\n    error::{Error, Result},\n    rules::Rule as R,\n    \
                  volume::ntfs::{self, edit},\n};\nuse crate::hive;";
    assert_eq!(
        found("partition/mbr.rs", source),
        [
            "3: partition may not know rules",
            "4: partition may not know volume",
            "6: partition may not know hive",
        ]
    );
}

#[test]
fn inline_modules_are_one_level_more() {
    let source = "mod tests {\n    use super::super::Memory;\n    use super::*;\n}\n\
                  use super::Memory;";
    assert!(found("device/overlay.rs", source).is_empty());
    let up = "mod tests {\n    use super::super::super::rules::Rule;\n}";
    assert_eq!(
        found("device/overlay.rs", up),
        ["2: device may not know rules"]
    );
    let behind = "mod a { mod b {} }\nuse super::rules;";
    assert_eq!(found("tree.rs", behind), ["2: tree may not know rules"]);
}

#[test]
fn taking_the_whole_crate_is_found() {
    for source in [
        "use crate::*;",
        "use super::super::*;",
        "use super::super as up;",
    ] {
        let all = found("hive/read.rs", source);
        assert!(
            all.len() == 1 && all[0].contains("takes the whole crate"),
            "{all:?}"
        );
    }
}

#[test]
fn comments_strings_and_lifetimes_are_not_code() {
    let source = r##"
//! crate::rules
/* crate::rules /* nested */ unsafe */
const A: &str = "crate::rules \" unsafe println!()";
const B: &[u8] = br#"crate::rules "quoted" unsafe"#;
const C: char = '"'; const D: char = '\''; const E: u8 = b'"';
fn f<'a>(x: &'a str) -> &'a str { x } // "
"##;
    assert!(found("hive/read.rs", source).is_empty());
    let behind = format!("{source}\nuse crate::rules;");
    assert_eq!(
        found("hive/read.rs", &behind),
        ["9: hive may not know rules"]
    );
}

#[test]
fn a_room_that_is_not_on_the_plan_is_found() {
    assert_eq!(
        found("cellar/mod.rs", ""),
        ["1: room `cellar` is not on the plan"]
    );
    assert!(found("cli/scan.rs", "use crate::device;").is_empty());
    let vague = found("hive/util.rs", "");
    assert!(
        vague.len() == 1 && vague[0].contains("`util` says nothing"),
        "{vague:?}"
    );
}

#[test]
fn writing_outside_the_editors_is_found() {
    let source =
        "fn f(d: &Device) {\n    d.write_at(0, &[1])?;\n    BlockDevice::zero_at(d, 0, 1)\n}";
    for rel in [
        "volume/ntfs/read.rs",
        "verify/mod.rs",
        "tree.rs",
        "cli/clean.rs",
        "container/raw.rs",
        "main.rs",
    ] {
        let all = found(rel, source);
        assert_eq!(all.len(), 2, "{rel}: {all:?}");
        assert!(
            all[0].starts_with("2: only edit files and apply"),
            "{all:?}"
        );
    }
    for rel in [
        "volume/ntfs/edit.rs",
        "hive/edit/mod.rs",
        "apply/stage.rs",
        "device/slice.rs",
        "container/mapped.rs",
    ] {
        assert!(found(rel, source).is_empty(), "{rel}");
    }
    assert!(found("volume/mod.rs", "fn write_at(&self) {}").is_empty());
}

#[test]
fn tests_may_write_and_what_follows_them_may_not() {
    let call = "fn f(d: &Device) { d.write_at(0, &[1]) }";
    assert!(
        found(
            "volume/fat.rs",
            &format!("#[cfg(test)]\nmod tests {{ {call} }}")
        )
        .is_empty()
    );
    assert!(found("volume/tests.rs", call).is_empty());
    assert!(found("volume/tests_edit.rs", call).is_empty());
    assert_eq!(
        found(
            "volume/fat.rs",
            &format!("#[cfg(test)]\nmod tests;\n{call}")
        )
        .len(),
        1
    );
    assert_eq!(
        found(
            "volume/fat.rs",
            &format!("#[cfg(test)]\nmod t {{ {{}} }}\n{call}")
        )
        .len(),
        1
    );
}

#[test]
fn a_verifier_that_edits_is_found() {
    for source in [
        "use crate::hive::edit;",
        "use crate::{hive::{edit::Editor, Checked}};",
        "fn f() { crate::hive::edit::delete() }",
        "fn f(t: &dyn FileTree) { t.overwrite(id, at, &[]) }",
        "fn f(t: &dyn FileTree) { t.wipe_residue(&[]) }",
    ] {
        let all = found("verify/mod.rs", source);
        assert!(
            all.len() == 1 && all[0].starts_with("1: verify may not"),
            "{source}: {all:?}"
        );
        assert!(found("apply/stage.rs", source).is_empty(), "{source}");
    }
    assert!(
        found(
            "verify/mod.rs",
            "fn f(p: &Plan) { for edit in &p.edits { g(edit.x) } }"
        )
        .is_empty()
    );
}

#[test]
fn unsafe_code_outside_its_two_files_is_found() {
    for source in ["fn f() { unsafe { g() } }", "#![allow(unsafe_code)]"] {
        for rel in ["device/file.rs", "hive/tests.rs", "main.rs"] {
            assert_eq!(
                found(rel, source),
                ["1: unsafe code lives in device/map.rs and device/sys.rs only"]
            );
        }
        for rel in UNSAFE_FILES {
            assert!(found(rel, source).is_empty(), "{rel}");
        }
    }
}

#[test]
fn printing_from_a_room_is_found() {
    for name in ["println", "eprintln", "print", "eprint", "dbg"] {
        let source = format!("fn f() {{ {name}!(\"x\") }}");
        assert_eq!(
            found("plan/mod.rs", &source),
            [format!("1: {name}! is for main and cli only")]
        );
        assert!(found("cli/mod.rs", &source).is_empty());
    }
}

#[test]
fn the_command_line_crates_outside_it_are_found() {
    for (source, name) in [
        ("use clap::Parser;", "clap"),
        ("fn f() -> anyhow::Result<()> { Ok(()) }", "anyhow"),
        ("use anyhow;", "anyhow"),
        ("use {clap_mangen::Man, std::io};", "clap_mangen"),
    ] {
        assert_eq!(
            found("report/text.rs", source),
            [format!("1: {name} is for main and cli only")]
        );
        assert!(found("cli/mod.rs", source).is_empty() && found("main.rs", source).is_empty());
    }
}

#[test]
fn writing_to_the_host_is_found() {
    for source in [
        "fn f() { std::fs::write(a, b) }",
        "use std::fs::{File, rename};",
        "use std::fs;\nfn f() { fs::remove_file(a) }",
        "fn f() { File::create(a) }",
        "fn f() { OpenOptions::new().read(true).write(true).open(a) }",
        "fn f() { OpenOptions::new().create_new(true).open(a) }",
        "fn f(file: &File) { file.set_len(0) }",
        "fn f(file: &File) { file.write_all_at(&[], 0) }",
        "fn f() { rustix::fs::unlink(a) }",
    ] {
        let all = found("report/html.rs", source);
        assert!(
            all.len() == 1 && all[0].contains("only device and apply"),
            "{source}: {all:?}"
        );
        assert!(found("apply/commit.rs", source).is_empty(), "{source}");
        assert!(found("device/file.rs", source).is_empty(), "{source}");
    }
    let reading = "use std::{fs, fs::File}; fn f() { fs::read(a); File::open(a); w.write(&[1]) }";
    assert!(found("report/html.rs", reading).is_empty());
}
