//! The hives besides SOFTWARE: read if a rule names them. Only SYSTEM is written, if a rule takes something
//! out of it: then its copies are looked at, too, and all of them go the road of SOFTWARE.

use std::sync::Mutex;

use super::{Look, both_views, look_at, object, object_to_dirty, open_hive, state_of};
use crate::{
    error::{Error, Kind, Result},
    hive::{self, Probe},
    image::Volume,
    plan::{Gathered, HiveBytes, HivePlan, NotScanned, View, VolumePlan},
    rules::{Action, HiveName, Rule},
    tree::{Extent, FileEntry, FileTree, UnseenClass},
    units::FileOffset,
    windows::Installation,
};

const LOG_ENDINGS: [&str; 3] = [".LOG", ".LOG1", ".LOG2"];

/// The name under which System Restore keeps a copy of SYSTEM.
const RESTORED: &str = "_REGISTRY_MACHINE_SYSTEM";
/// Copies of SYSTEM in the Windows directory, and what they are called.
const SYSTEM_COPIES: [(&[&str], &str); 5] = [
    (&["System32", "config", "RegBack", "SYSTEM"], "RegBack copy"),
    (
        &["System32", "config", "RegBack", "SYSTEM.OLD"],
        "RegBack copy",
    ),
    (&["System32", "config", "SYSTEM.SAV"], "setup's copy (.SAV)"),
    (
        &["System32", "config", "SYSTEM.ALT"],
        "Windows 2000's second copy (.ALT)",
    ),
    (&["repair", "system"], "repair copy"),
];
/// NT 4.0 keeps its repair copy packed.
const PACKED_COPY: [&str; 2] = ["repair", "system._"];

/// Whether a rule of this run takes something out of this hive.
fn is_edited(rules: &[Rule], which: HiveName) -> bool {
    let deletes = |rule: &&Rule| rule.effective_action() == Action::Delete;
    let mut rules = rules.iter().filter(deletes);
    which == HiveName::System && rules.any(|rule| rule.target.hive() == Some(which))
}

/// The names of copies that only a pass over the volume finds.
pub(in crate::plan) fn copy_names(rules: &[Rule]) -> Option<&'static str> {
    is_edited(rules, HiveName::System).then_some(RESTORED)
}

pub(in crate::plan) fn plan_others(
    volume: &Volume,
    tree: &dyn FileTree,
    installations: &[Installation],
    found: &[FileEntry],
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<()> {
    for which in HiveName::ALL {
        let is_asked = |rule: &Rule| rule.target.hive() == Some(which);
        if which == HiveName::Software {
            continue;
        }
        if !rules.iter().any(is_asked) {
            for installation in installations {
                note_broken(tree, installation, which, part)?;
            }
            continue;
        }
        let edited = is_edited(rules, which);
        for installation in installations {
            let name = which.file_name();
            let root: Vec<String> = installation
                .root
                .0
                .iter()
                .map(|name| String::from_utf16_lossy(name.units()))
                .collect();
            let below = |names: &[&str]| -> Result<Option<FileEntry>> {
                let mut path: Vec<&str> = root.iter().map(String::as_str).collect();
                path.extend(names);
                tree.lookup(&path)
            };
            let live = ["System32", "config", name];
            let mut places: Vec<(&[&str], String, bool)> =
                vec![(&live, format!("{name} hive of {}", installation.root), true)];
            if edited {
                let copies = SYSTEM_COPIES.iter();
                places.extend(copies.map(|(path, what)| (*path, format!("{name}, {what}"), false)));
                if let Some(packed) = below(&PACKED_COPY)?.filter(|entry| entry.len > 0) {
                    let reason = "a packed copy of SYSTEM: not looked into";
                    part.skip(
                        NotScanned::of_file(UnseenClass::Packed, &packed, reason)
                            .remedy("delete it on the master and capture it again"),
                    );
                }
            }
            for (path, role, live) in places {
                let one = One {
                    which,
                    role,
                    live,
                    edited,
                };
                let done = match below(path) {
                    Ok(Some(entry)) => {
                        let mut logs = Vec::new();
                        let (last, directory) = path.split_last().unwrap_or((&name, &[]));
                        for ending in LOG_ENDINGS {
                            let log = format!("{last}{ending}");
                            logs.extend(below(&[directory, &[log.as_str()]].concat())?);
                        }
                        plan_other(volume, tree, &entry, logs, &one, rules, gathered, part)
                    }
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                settle(done, volume, &one, part)?;
            }
        }
        let copies = found.iter().filter(|entry| {
            edited && !entry.is_directory && entry.names.iter().any(|name| name.eq_ascii(RESTORED))
        });
        for entry in copies {
            let one = One {
                which,
                role: format!("{}, System Restore copy", which.file_name()),
                live: false,
                edited,
            };
            let logs = Vec::new();
            let done = plan_other(volume, tree, entry, logs, &one, rules, gathered, part);
            settle(done, volume, &one, part)?;
        }
    }
    Ok(())
}

/// A hive that no rule asks for and that is none: what it holds nobody knows.
fn note_broken(
    tree: &dyn FileTree,
    installation: &Installation,
    which: HiveName,
    part: &mut VolumePlan,
) -> Result<()> {
    let name = which.file_name();
    let unseen = |reason: String| {
        NotScanned::new(
            UnseenClass::Damaged,
            format!("hive {name} of {}", installation.root),
            reason,
        )
    };
    match in_config(tree, installation, name) {
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => part.skip(unseen(error.to_string())),
        Ok(None) => {}
        Ok(Some(entry)) => {
            let mut head = [0; 4];
            let read = match entry.len < 4 {
                true => Ok(()),
                false => tree.read_at(entry.id, FileOffset(0), &mut head),
            };
            match read {
                Err(error) => part.skip(unseen(error.to_string()).file(&entry)),
                Ok(()) if hive::probe(&head) != Probe::Regf => {
                    let reason = "a regf file expected, found none".to_owned();
                    part.skip(unseen(reason).file(&entry));
                }
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// One hive file.
struct One {
    which: HiveName,
    role: String,
    live: bool,
    edited: bool,
}

/// What cannot be read is said; if it was to be written, nothing is.
fn settle(done: Result<()>, volume: &Volume, one: &One, part: &mut VolumePlan) -> Result<()> {
    match done {
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => {
            part.skip(NotScanned::new(
                UnseenClass::Damaged,
                one.role.clone(),
                error.to_string(),
            ));
            if one.live && one.edited {
                part.blockers.push(volume.climb(error));
            }
        }
        Ok(()) => {}
    }
    Ok(())
}

/// A file beside the live hives.
fn in_config(
    tree: &dyn FileTree,
    installation: &Installation,
    name: &str,
) -> Result<Option<FileEntry>> {
    let root: Vec<String> = installation
        .root
        .0
        .iter()
        .map(|name| String::from_utf16_lossy(name.units()))
        .collect();
    let mut path: Vec<&str> = root.iter().map(String::as_str).collect();
    path.extend(["System32", "config", name]);
    tree.lookup(&path)
}

#[expect(clippy::too_many_arguments, reason = "a hive, and what is known of it")]
fn plan_other(
    volume: &Volume,
    tree: &dyn FileTree,
    entry: &FileEntry,
    logs: Vec<FileEntry>,
    one: &One,
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<()> {
    let path = entry.path();
    if !one.live && entry.len == 0 {
        return Ok(());
    }
    let mut head = [0; 4];
    if entry.len >= 4 {
        tree.read_at(entry.id, FileOffset(0), &mut head)?;
    }
    if hive::probe(&head) != Probe::Regf {
        return Err(Error::malformed("a regf file expected, found none").at("file", path));
    }
    let opened = open_hive(tree, entry, &logs)?;
    let extents = tree.extents(entry.id)?;
    let mut look = |bytes: &[u8], extents: &[Extent]| {
        look_at(volume, one.which, &path, bytes, extents, rules, gathered)
    };
    let mut seen = match &opened {
        HiveBytes::Clean(bytes) => look(bytes, &extents)?,
        HiveBytes::Replayed { primary, bytes, .. } if one.edited => {
            let after = look(bytes, &[])?;
            both_views(look(primary, &extents).unwrap_or_default(), after)
        }
        HiveBytes::Replayed { bytes, .. } => {
            let mut seen = look(bytes, &[])?;
            show(&mut seen, View::AfterReplay);
            seen
        }
        HiveBytes::Stuck { primary, why, .. } => {
            let mut seen = look(primary, &extents)?;
            show(&mut seen, View::OnDisk);
            let reason = format!("dirty; shown as it is on disk: {}", why.what());
            part.skip(NotScanned::new(UnseenClass::Damaged, path.clone(), reason).harmless());
            seen
        }
    };
    if seen.skipped > 0 {
        part.skip(NotScanned::new(
            UnseenClass::Damaged,
            path,
            format!("{} damaged entries of the hive", seen.skipped),
        ));
    }
    if !one.edited {
        for finding in &mut seen.findings {
            // The loader lets no rule delete here; this is the second lock on that door.
            finding.action = Action::Report;
        }
        part.findings.append(&mut seen.findings);
        return Ok(());
    }
    // From here on the road of SOFTWARE.
    if !seen.edits.is_empty() {
        object_to_dirty(volume, tree, entry, &logs, &one.role, &opened, part);
        object(volume, entry, &one.role, &opened, part);
    }
    part.findings.append(&mut seen.findings);
    part.logs
        .extend(logs.iter().filter(|log| log.len > 0).cloned());
    part.hives.push(HivePlan {
        entry: entry.clone(),
        role: one.role.clone(),
        state: state_of(&opened)?,
        replay: opened.log_facts(),
        logs,
        edits: seen.edits,
        wipe: false,
        packed: None,
        bytes: Mutex::new(None),
    });
    Ok(())
}

fn show(seen: &mut Look, view: View) {
    for finding in &mut seen.findings {
        finding.view = Some(view);
    }
}
