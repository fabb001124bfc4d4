//! Directories whose files are removed: a client's cache. The directories stay, empty: taking one out is
//! another operation than taking out a file, and an empty one says nothing.

use std::collections::HashSet;

use super::{Finding, Left, LeftClass, NotScanned, Subject, VolumePlan, file_places};
use crate::{
    error::{Error, Kind, Result},
    image::Volume,
    rules::{Action, Rule},
    text::WinPath,
    tree::{FileEntry, FileId, FileTree, Storage, UnseenClass},
};

/// Most files and directories looked at below one directory.
const MAX_ENTRIES: usize = 200_000;
/// Deepest directory looked into, counted from the root: no path of Windows is longer than 32,767 units.
const MAX_DEPTH: usize = 512;
/// Most files that stay and are named one by one.
const MAX_NAMED: usize = 20;

/// What is below a directory.
#[derive(Default)]
struct Below {
    files: Vec<FileEntry>,
    directories: usize,
    bytes: u64,
    /// What could not be listed, and why.
    unlisted: Vec<(String, String)>,
}

/// Whether a path is below a directory.
fn is_below(path: &WinPath, directory: &FileEntry) -> bool {
    directory
        .paths
        .iter()
        .any(|above| path.0.len() > above.0.len() && path.0.starts_with(&above.0))
}

fn walk(tree: &dyn FileTree, directory: &FileEntry) -> Result<Below> {
    let mut out = Below::default();
    let mut seen: HashSet<FileId> = HashSet::from([directory.id]);
    let mut left = vec![directory.clone()];
    while let Some(at) = left.pop() {
        let entries = match tree.list(at.id) {
            Ok(entries) => entries,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                out.unlisted.push((at.path(), error.to_string()));
                continue;
            }
        };
        for entry in entries {
            if !seen.insert(entry.id) {
                continue;
            }
            if seen.len() > MAX_ENTRIES {
                return Err(Error::limit(format!(
                    "directory: at most {MAX_ENTRIES} entries below it expected, found more"
                )));
            }
            if !entry.is_directory {
                out.bytes = out.bytes.saturating_add(entry.len);
                out.files.push(entry);
                continue;
            }
            out.directories = out.directories.saturating_add(1);
            let depth = entry.paths.first().map_or(0, |path| path.0.len());
            if depth > MAX_DEPTH {
                let reason = format!("at most {MAX_DEPTH} directories in a path expected");
                out.unlisted.push((entry.path(), reason));
            } else {
                left.push(entry);
            }
        }
    }
    Ok(out)
}

/// Why a file stays, if it does.
fn why_kept(file: &FileEntry, directory: &FileEntry) -> Option<&'static str> {
    if !file.paths.iter().all(|path| is_below(path, directory)) {
        return Some("it has another name outside the directory (a hard link)");
    }
    match file.storage {
        Storage::Encrypted => Some("it is encrypted (EFS)"),
        _ => None,
    }
}

/// Plans a directory: shows what is in it, or takes the files out.
pub(super) fn plan(
    volume: &Volume,
    tree: &dyn FileTree,
    entry: &FileEntry,
    rule: &Rule,
    part: &mut VolumePlan,
) -> Result<()> {
    if !entry.is_directory {
        return Ok(());
    }
    let mut action = rule.effective_action();
    let below = match walk(tree, entry) {
        Ok(below) => below,
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => {
            let reason = format!("not emptied: {error}");
            part.skip(NotScanned::of_file(UnseenClass::Damaged, entry, reason));
            action = Action::Report;
            Below::default()
        }
    };
    for (what, why) in below.unlisted.iter().take(MAX_NAMED) {
        let reason = format!("cannot be listed: {why}");
        part.skip(NotScanned::new(UnseenClass::Damaged, what.clone(), reason));
    }
    let mut evidence = format!(
        "a directory with {} files and {} directories below it, {} bytes",
        below.files.len(),
        below.directories,
        below.bytes
    );
    if action == Action::Delete {
        let holds_hive = part.hives.iter().any(|hive| {
            let mut paths = hive.entry.paths.iter();
            paths.any(|path| is_below(path, entry))
        });
        if holds_hive {
            part.left.push(Left {
                class: LeftClass::Live,
                what: "not emptied: there is a registry hive below it".to_owned(),
                owner: entry.path(),
                image_offset: None,
                count: 1,
                remedy: "look whether it is a client's, and remove its files by hand".to_owned(),
                accepted: false,
            });
            evidence.push_str("; NOT EMPTIED: there is a registry hive below it");
            action = Action::Report;
        }
    }
    if action == Action::Delete {
        let mut known: HashSet<FileId> = part.removals.iter().map(|file| file.id).collect();
        let (mut kept, mut goes) = (0_usize, 0_usize);
        for file in below.files {
            if let Some(why) = why_kept(&file, entry) {
                kept = kept.saturating_add(1);
                if kept <= MAX_NAMED {
                    part.left.push(Left {
                        class: LeftClass::Live,
                        what: format!("not removed: {why}"),
                        owner: file.path(),
                        image_offset: None,
                        count: 1,
                        remedy: "remove it in Windows before the capture".to_owned(),
                        accepted: false,
                    });
                }
                continue;
            }
            goes = goes.saturating_add(1);
            if known.insert(file.id) {
                part.removals.push(file);
            }
        }
        if kept > 0 {
            evidence.push_str(&format!("; {kept} of the files stay"));
        }
        match (goes, kept) {
            // What was asked for is so already.
            (0, 0) => return Ok(()),
            (0, _) => action = Action::Report,
            _ => evidence.push_str("; the directories stay, empty"),
        }
    }
    let places = file_places(volume, tree, entry);
    let mut finding = Finding::new(rule, volume, Subject::file(entry), evidence, places);
    finding.action = action;
    part.findings.push(finding);
    Ok(())
}
