//! The live hives besides SOFTWARE: read if a rule names them, never written.

use super::{look_at, open_hive};
use crate::{
    error::{Error, Kind, Result},
    hive::{self, Probe},
    image::Volume,
    plan::{Gathered, HiveBytes, NotScanned, View, VolumePlan},
    rules::{Action, HiveName, Rule},
    tree::{FileEntry, FileTree, UnseenClass},
    units::FileOffset,
    windows::Installation,
};

const LOG_ENDINGS: [&str; 3] = [".LOG", ".LOG1", ".LOG2"];

pub(in crate::plan) fn plan_others(
    volume: &Volume,
    tree: &dyn FileTree,
    installations: &[Installation],
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
        for installation in installations {
            let found = plan_other(volume, tree, installation, which, rules, gathered, part);
            match found {
                Err(error) if error.kind() == Kind::Io => return Err(error),
                Err(error) => part.skip(NotScanned::new(
                    UnseenClass::Damaged,
                    format!("hive {} of {}", which.file_name(), installation.root),
                    error.to_string(),
                )),
                Ok(()) => {}
            }
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

fn plan_other(
    volume: &Volume,
    tree: &dyn FileTree,
    installation: &Installation,
    which: HiveName,
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<()> {
    let Some(entry) = in_config(tree, installation, which.file_name())? else {
        return Ok(());
    };
    let path = entry.path();
    let mut head = [0; 4];
    if entry.len >= 4 {
        tree.read_at(entry.id, FileOffset(0), &mut head)?;
    }
    if hive::probe(&head) != Probe::Regf {
        return Err(Error::malformed("a regf file expected, found none"));
    }
    let mut logs = Vec::new();
    for ending in LOG_ENDINGS {
        let log = format!("{}{ending}", which.file_name());
        logs.extend(in_config(tree, installation, &log)?);
    }
    let opened = open_hive(tree, &entry, &logs)?;
    let extents = tree.extents(entry.id)?;
    let (bytes, extents, view) = match &opened {
        HiveBytes::Clean(bytes) => (bytes, extents.as_slice(), None),
        HiveBytes::Replayed { bytes, .. } => (bytes, [].as_slice(), Some(View::AfterReplay)),
        HiveBytes::Stuck { primary, why, .. } => {
            part.skip(NotScanned::new(
                UnseenClass::Damaged,
                path.clone(),
                format!("dirty; shown as it is on disk: {}", why.what()),
            ));
            (primary, extents.as_slice(), Some(View::OnDisk))
        }
    };
    let seen = look_at(volume, which, &path, bytes, extents, rules, gathered)?;
    if seen.skipped > 0 {
        part.skip(NotScanned::new(
            UnseenClass::Damaged,
            path,
            format!("{} damaged entries of the hive", seen.skipped),
        ));
    }
    part.findings
        .extend(seen.findings.into_iter().map(|mut finding| {
            // The loader lets no rule delete here; this is the second lock on that door.
            finding.action = Action::Report;
            finding.view = view;
            finding
        }));
    Ok(())
}
