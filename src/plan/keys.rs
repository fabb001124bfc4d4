//! Files with private keys: found by the containers that certificates name.

use super::{
    Container, Finding, NotScanned, Subject, VolumePlan, file_evidence, file_places, tokens,
};
use crate::{
    error::{Kind, Result},
    image::Volume,
    rules::{Action, Rule, Target},
    text::{Name, WinPath, eq_ascii, escape},
    tree::{FileEntry, FileTree, UnseenClass},
    windows::capi::{self, MACHINE_KEYS},
};

/// Whether a directory is one of the machine's RSA keys, whatever stands before it.
pub(super) fn is_machine_keys(entry: &FileEntry) -> bool {
    entry.is_directory
        && entry
            .paths
            .iter()
            .any(|path| ends_with(path, &MACHINE_KEYS))
}

/// Whether a path ends with these names.
pub(super) fn ends_with(path: &WinPath, tail: &[impl AsRef<str>]) -> bool {
    let skip = path.0.len().checked_sub(tail.len());
    skip.and_then(|skip| path.0.get(skip..)).is_some_and(|end| {
        let mut pairs = end.iter().zip(tail);
        pairs.all(|(name, want)| name.eq_ascii(want.as_ref()))
    })
}

/// Whether rules want files in there.
pub(super) fn are_wanted(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| {
        matches!(
            rule.target,
            Target::CertificateKeys { .. } | Target::KeyContainer { .. }
        )
    })
}

/// Plans the removal of the key files in these directories.
pub(super) fn plan(
    volume: &Volume,
    tree: &dyn FileTree,
    directories: &[FileEntry],
    rules: &[Rule],
    containers: &[Container],
    found: &mut tokens::Tokens,
    part: &mut VolumePlan,
) -> Result<()> {
    let mut wanted: Vec<(&Rule, &str, String)> = Vec::new();
    for rule in rules {
        match &rule.target {
            Target::KeyContainer { container } => wanted.push((
                rule,
                container,
                format!("key container `{}`", escape(container)),
            )),
            Target::CertificateKeys { .. } => {
                for container in containers.iter().filter(|of| of.rule == rule.id) {
                    let known = |(other, name, _): &(&Rule, &str, String)| {
                        other.id == rule.id && name.eq_ignore_ascii_case(&container.name)
                    };
                    if !wanted.iter().any(known) {
                        let what = format!(
                            "key container `{}`, named by certificate {}",
                            escape(&container.name),
                            escape(&container.certificate)
                        );
                        wanted.push((rule, &container.name, what));
                    }
                }
            }
            _ => {}
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    for directory in directories {
        let entries = match tree.list(directory.id) {
            Ok(entries) => entries,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let reason = format!("key files not looked for: {error}");
                part.skip(NotScanned::of_file(UnseenClass::Damaged, directory, reason));
                continue;
            }
        };
        for (rule, container, what) in &wanted {
            let prefix = capi::file_prefix(container);
            for entry in entries.iter().filter(|entry| begins_so(entry, &prefix)) {
                if entry.is_directory {
                    let reason = "it has a key file's name and is a directory";
                    let unseen = NotScanned::of_file(UnseenClass::Unsupported, entry, reason);
                    part.skip(unseen.harmless());
                } else {
                    plan_file(volume, tree, entry, rule, container, what, found, part);
                }
            }
        }
    }
    Ok(())
}

fn begins_so(entry: &FileEntry, prefix: &str) -> bool {
    let mut names = entry.paths.iter().filter_map(|path| path.0.last());
    names.any(|name: &Name| {
        let start = name.units().get(..prefix.len());
        start.is_some_and(|start| eq_ascii(start, prefix))
    })
}

#[expect(clippy::too_many_arguments, reason = "a file, and why it is one")]
fn plan_file(
    volume: &Volume,
    tree: &dyn FileTree,
    entry: &FileEntry,
    rule: &Rule,
    container: &str,
    what: &str,
    found: &mut tokens::Tokens,
    part: &mut VolumePlan,
) {
    // By another rule, or in a directory with two names.
    if part.removals.iter().any(|other| other.id == entry.id) {
        return;
    }
    let seen = |finding: &Finding| {
        finding.rule == rule.id
            && matches!(&finding.subject, Subject::File { path, .. } if *path == entry.path())
    };
    if part.findings.iter().any(seen) {
        return;
    }
    let (evidence, bytes) = file_evidence(tree, entry);
    let mut action = rule.effective_action();
    let mut evidence = format!("{what}, {evidence}");
    if let Some(other) = bytes.as_deref().and_then(capi::container_of)
        && !other.eq_ignore_ascii_case(container)
    {
        action = Action::Report;
        evidence.push_str(&format!(
            "; NOT REMOVED: it says that it is of container `{}`",
            escape(&other)
        ));
    }
    if action == Action::Delete {
        if let Some(bytes) = &bytes {
            tokens::of_content(&entry.path(), bytes, found);
        }
        if let Some(name) = entry.paths.first().and_then(|path| path.0.last()) {
            let name = String::from_utf16_lossy(name.units());
            tokens::of_text(&name, tokens::Class::Name, found);
        }
        part.removals.push(entry.clone());
    }
    let places = file_places(volume, tree, entry);
    let mut finding = Finding::new(rule, volume, Subject::file(entry), evidence, places);
    finding.action = action;
    part.findings.push(finding);
}
