//! Who each installation is, and whether it was generalized: the facts of its own hives and files.
//!
//! Only what Windows itself loads is looked at (after the replay of its logs), and only single values are
//! read: nothing here decides what is removed. A hive that cannot be read is said, and the rest goes on.

use serde::Serialize;

use super::{HiveBytes, Plan, VolumePlan, open_hive};
use crate::{
    error::{Error, Kind, Result},
    image::{Image, Volume},
    text::{WinPath, escape},
    tree::{FileEntry, FileTree},
    windows::{HiveFile, Role, machine, registry::Registry},
};

pub use crate::windows::{
    generalization::{Evidence, Generalization, Status},
    machine::{Fact, Generation, Mismatch, Source, Version},
};

/// One Windows installation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MachineFacts {
    /// Partition (or image of an archive) it is in.
    pub partition: u32,
    /// What the number counts: "partition" or "image".
    pub unit: &'static str,
    /// The Windows directory.
    pub root: String,
    /// The hives that were asked, and how that went.
    pub hives: Vec<HiveAsked>,
    /// Who it is; null if no hive could be read.
    pub identity: Option<Identity>,
    /// Whether it was generalized; null if no hive could be read.
    pub generalization: Option<Generalization>,
}

/// A hive that was asked who the machine is.
#[derive(Clone, Debug, Serialize)]
pub struct HiveAsked {
    /// SOFTWARE, SYSTEM, SAM or SECURITY.
    pub name: &'static str,
    /// Its path; null if there is none.
    pub path: Option<String>,
    /// `clean`, `replayed` (from its logs, in memory), `dirty` (read as it is on disk), `missing`,
    /// `unreadable`.
    pub state: &'static str,
    /// Why it was not read, or not wholly.
    pub reason: Option<String>,
}

/// Who an installation is: one cluster of facts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Identity {
    /// Which Windows it is.
    pub windows: Version,
    /// The computer's name.
    pub computer_name: Option<String>,
    /// The computer's SID, if all places agree.
    pub computer_sid: Option<String>,
    /// Name of its domain or workgroup.
    pub domain: Option<String>,
    /// SID of the domain; null in a workgroup.
    pub domain_sid: Option<String>,
    /// Everything, each with its place. Two installations that have a fact with `identifies` in common
    /// (same `kind`, same `value`) are one machine or were cloned from one.
    pub facts: Vec<Fact>,
    /// Places that should agree and do not.
    pub mismatches: Vec<Mismatch>,
}

/// What is kept of an installation while its volume is planned.
#[derive(Clone, Debug, Default)]
pub struct Seed {
    root: WinPath,
    software: Option<Software>,
}

/// What SOFTWARE says, taken while the plan has it in memory: it is the largest hive by far.
#[derive(Clone, Debug, Default)]
struct Software {
    state: &'static str,
    version: Version,
    facts: Vec<Fact>,
}

impl Seed {
    /// An installation of which nothing is known yet.
    #[must_use]
    pub fn new(root: WinPath) -> Self {
        Self {
            root,
            software: None,
        }
    }
}

/// What Windows would see, and a word for how it came about.
fn view(opened: &HiveBytes) -> (&[u8], &'static str) {
    match opened {
        HiveBytes::Clean(bytes) => (bytes, "clean"),
        HiveBytes::Replayed { bytes, .. } => (bytes, "replayed"),
        HiveBytes::Stuck { primary, .. } => (primary, "dirty"),
    }
}

/// Takes the facts out of an installation's SOFTWARE hive in passing.
pub(super) fn note_software(file: &HiveFile, opened: &HiveBytes, part: &mut VolumePlan) {
    let Role::Live(number) = file.role else {
        return;
    };
    let Some(seed) = part.seeds.get_mut(number) else {
        return;
    };
    let (bytes, state) = view(opened);
    let path = file.entry.path();
    let Ok(hive) = Registry::open(bytes, &path) else {
        return;
    };
    seed.software = Some(Software {
        state,
        version: machine::version(&hive),
        facts: Vec::new(),
    });
}

/// Every installation of the image. Errors are those of the device alone.
pub fn look(image: &Image, plan: &Plan) -> Result<Vec<MachineFacts>> {
    let mut machines = Vec::new();
    for (volume, part) in image.volumes.iter().zip(&plan.volumes) {
        let Some(tree) = volume.tree() else { continue };
        for seed in &part.seeds {
            machines.push(machine_of(volume, tree, part, seed).map_err(|e| volume.climb(e))?);
        }
    }
    Ok(machines)
}

fn machine_of(
    volume: &Volume,
    tree: &dyn FileTree,
    part: &VolumePlan,
    seed: &Seed,
) -> Result<MachineFacts> {
    let mut out = MachineFacts {
        partition: volume.partition,
        unit: volume.unit,
        root: seed.root.to_string(),
        ..MachineFacts::default()
    };
    let mut identity = Identity::default();
    let path = format!("{}\\System32\\config\\SOFTWARE", seed.root);
    match &seed.software {
        Some(software) => {
            out.hives.push(HiveAsked {
                name: "SOFTWARE",
                path: Some(path),
                state: software.state,
                reason: None,
            });
            identity.windows = software.version.clone();
            identity.facts.extend(software.facts.iter().cloned());
        }
        None => {
            let is_it = |what: &str| what.eq_ignore_ascii_case(&path);
            let skipped = part.not_scanned.iter().find(|item| is_it(&item.what));
            out.hives.push(HiveAsked {
                name: "SOFTWARE",
                path: Some(path.clone()),
                state: "unreadable",
                reason: skipped.map(|item| item.reason.clone()),
            });
        }
    }
    let config = list_config(tree, &seed.root)?;
    let asked = [
        ask(tree, &config, "SYSTEM", machine::of_system)?,
        ask(tree, &config, "SAM", machine::of_sam)?,
        ask(tree, &config, "SECURITY", machine::of_security)?,
    ];
    for (asked, facts) in asked {
        out.hives.push(asked);
        identity.facts.extend(facts.unwrap_or_default());
    }
    let read = |asked: &HiveAsked| !matches!(asked.state, "missing" | "unreadable");
    if out.hives.iter().any(read) {
        identity.settle();
        out.identity = Some(identity);
    }
    Ok(out)
}

/// The files beside the hives; none if the directory cannot be listed.
fn list_config(
    tree: &dyn FileTree,
    root: &WinPath,
) -> Result<std::result::Result<Vec<FileEntry>, String>> {
    let names: Vec<String> = root
        .0
        .iter()
        .map(|name| String::from_utf16_lossy(name.units()))
        .collect();
    let mut path: Vec<&str> = names.iter().map(String::as_str).collect();
    path.extend(["System32", "config"]);
    let listed = tree.lookup(&path).and_then(|found| match found {
        Some(directory) => tree.list(directory.id),
        None => Err(Error::malformed(
            "directory of the hives: not found by its path",
        )),
    });
    match listed {
        Ok(entries) => Ok(Ok(entries)),
        Err(error) if error.kind() == Kind::Io => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Asks one small hive. Its logs are replayed in memory if it is dirty.
fn ask<T>(
    tree: &dyn FileTree,
    config: &std::result::Result<Vec<FileEntry>, String>,
    name: &'static str,
    take: impl Fn(&Registry<'_>) -> T,
) -> Result<(HiveAsked, Option<T>)> {
    let asked = |path: Option<String>, state, reason: Option<String>| HiveAsked {
        name,
        path,
        state,
        reason,
    };
    let config = match config {
        Ok(config) => config,
        Err(why) => return Ok((asked(None, "unreadable", Some(why.clone())), None)),
    };
    let named = |wanted: &str| {
        config.iter().find(|entry| {
            let mut names = entry.names.iter();
            !entry.is_directory && names.any(|name| name.eq_ascii(wanted))
        })
    };
    let Some(entry) = named(name) else {
        return Ok((asked(None, "missing", None), None));
    };
    let path = Some(entry.path());
    let logs = [".LOG", ".LOG1", ".LOG2"].map(|ending| named(&format!("{name}{ending}")));
    let logs: Vec<FileEntry> = logs.into_iter().flatten().cloned().collect();
    let opened = match open_hive(tree, entry, &logs) {
        Ok(opened) => opened,
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => return Ok((asked(path, "unreadable", Some(error.to_string())), None)),
    };
    let (bytes, state) = view(&opened);
    let shown = entry.path();
    let hive = match Registry::open(bytes, &shown) {
        Ok(hive) => hive,
        Err(error) => return Ok((asked(path, "unreadable", Some(error.to_string())), None)),
    };
    let facts = take(&hive);
    let reason = match (&opened, hive.skipped()) {
        (HiveBytes::Stuck { why, .. }, _) => Some(why.what().to_owned()),
        (_, 0) => None,
        (_, skipped) => Some(format!("{skipped} damaged entries")),
    };
    Ok((asked(path, state, reason), Some(facts)))
}

impl Identity {
    /// The short fields, and what does not fit together.
    fn settle(&mut self) {
        let first = |kind: &str| {
            let found = self.facts.iter().find(|fact| fact.kind == kind);
            found.map(|fact| fact.value.clone())
        };
        self.computer_name = first("computer_name");
        self.domain = first("domain");
        self.domain_sid = first("domain_sid");
        let sids: Vec<&Fact> = self
            .facts
            .iter()
            .filter(|f| f.kind == "computer_sid")
            .collect();
        let agree = sids
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.value == b.value));
        self.computer_sid = sids
            .first()
            .filter(|_| agree)
            .map(|fact| fact.value.clone());
        if !agree {
            let values: Vec<&str> = sids.iter().map(|fact| fact.value.as_str()).collect();
            self.mismatches.push(Mismatch {
                what: format!(
                    "the computer SID is not the same everywhere: {}",
                    escape(&values.join(", "))
                ),
                sources: sids.iter().map(|fact| fact.source.clone()).collect(),
            });
        }
    }
}
