//! Who each installation is, and whether it was generalized: the facts of its own hives and files.
//!
//! Only what Windows itself loads is looked at (after the replay of its logs), and only single values are
//! read: nothing here decides what is removed. A hive that cannot be read is said, and the rest goes on.

mod audit;
mod files;
mod named;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HiveBytes, Plan, VolumePlan, open_hive};
use crate::{
    error::{Error, Kind, Result},
    image::{Image, Volume},
    rules::{
        self, HiveName, Rule,
        identity::{IdPlace, places},
    },
    text::WinPath,
    tree::{FileEntry, FileTree},
    windows::{
        HiveFile, Role,
        generalization::{self, Circumstances, judge},
        machine,
        registry::Registry,
        sysprep_actions::{Actions, Hive},
        user,
    },
};

pub use crate::windows::{
    generalization::{Evidence, Generalization, Status},
    machine::{Fact, Generation, Mismatch, Source, Version},
};

/// One Windows installation.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
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
    /// Whether it was generalized; null if neither SOFTWARE nor SYSTEM could be read.
    pub generalization: Option<Generalization>,
    /// Files that could not be read, and why: "absent" in the evidence may come from that.
    pub unread: Vec<String>,
}

/// A hive that was asked who the machine is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HiveAsked {
    /// SOFTWARE, SYSTEM, SAM or SECURITY; NTUSER.DAT of a user.
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
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
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
    mismatches: Vec<Mismatch>,
    evidence: Vec<Evidence>,
    /// What Sysprep's list deletes and is still there.
    undone: Vec<Evidence>,
    skipped: u64,
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
pub(super) fn note_software(
    tree: &dyn FileTree,
    file: &HiveFile,
    opened: &HiveBytes,
    part: &mut VolumePlan,
) -> Result<()> {
    let Role::Live(number) = file.role else {
        return Ok(());
    };
    let Some(seed) = part.seeds.get_mut(number) else {
        return Ok(());
    };
    let (bytes, state) = view(opened);
    let path = file.entry.path();
    let Ok(hive) = Registry::open(bytes, &path) else {
        return Ok(());
    };
    let (facts, mismatches) = named::of_hive(&places()?, HiveName::Software, &hive);
    let version = machine::version(&hive);
    let mut evidence = generalization::of_software(&hive);
    evidence.extend(audit::of_hive(
        &rules::embedded()?,
        HiveName::Software,
        &hive,
    ));
    let undone = match files::sysprep_actions(tree, &seed.root)? {
        Some((_, Ok(actions))) => actions.still_there(Hive::Software, &hive),
        _ => Vec::new(),
    };
    seed.software = Some(Software {
        state,
        version,
        facts,
        mismatches,
        evidence,
        undone,
        skipped: hive.skipped(),
    });
    Ok(())
}

/// Every installation of the image. Errors are those of the device alone.
pub fn look(image: &Image, plan: &Plan) -> Result<Vec<MachineFacts>> {
    let mut machines = Vec::new();
    let places = places()?;
    let rules = rules::embedded()?;
    for (volume, part) in image.volumes.iter().zip(&plan.volumes) {
        let Some(tree) = volume.tree() else { continue };
        for seed in &part.seeds {
            machines.push(
                machine_of(volume, tree, part, seed, &places, &rules)
                    .map_err(|e| volume.climb(e))?,
            );
        }
    }
    Ok(machines)
}

fn machine_of(
    volume: &Volume,
    tree: &dyn FileTree,
    part: &VolumePlan,
    seed: &Seed,
    places: &[IdPlace],
    rules: &[Rule],
) -> Result<MachineFacts> {
    let mut out = MachineFacts {
        partition: volume.partition,
        unit: volume.unit,
        root: seed.root.to_string(),
        ..MachineFacts::default()
    };
    let mut identity = Identity::default();
    let (mut evidence, mut undone) = (Vec::new(), Vec::new());
    let actions = files::sysprep_actions(tree, &seed.root)?;
    out.hives.push(asked_software(part, seed));
    if let Some(software) = &seed.software {
        identity.windows = software.version.clone();
        identity.facts.extend(software.facts.iter().cloned());
        identity
            .mismatches
            .extend(software.mismatches.iter().cloned());
        evidence.extend(software.evidence.iter().cloned());
        undone.extend(software.undone.iter().cloned());
    }
    let config = list_config(tree, &seed.root)?;
    let (asked, system) = ask(tree, &config, "SYSTEM", |hive| {
        let (named, mismatches) = named::of_hive(places, HiveName::System, hive);
        let mut facts = machine::of_system(hive);
        facts.extend(named);
        let mut lines = generalization::of_system(hive);
        lines.extend(audit::of_hive(rules, HiveName::System, hive));
        let undone = match &actions {
            Some((_, Ok(actions))) => actions.still_there(Hive::System, hive),
            _ => Vec::new(),
        };
        (facts, mismatches, lines, undone)
    })?;
    out.hives.push(asked);
    let has_system = system.is_some();
    if let Some((facts, mismatches, lines, more)) = system {
        undone.extend(more);
        identity.facts.extend(facts);
        identity.mismatches.extend(mismatches);
        evidence.extend(lines);
    }
    for (asked, facts) in [
        ask(tree, &config, "SAM", machine::of_sam)?,
        ask(tree, &config, "SECURITY", machine::of_security)?,
    ] {
        out.hives.push(asked);
        identity.facts.extend(facts.unwrap_or_default());
    }
    let read = |asked: &HiveAsked| !matches!(asked.state, "missing" | "unreadable");
    if !out.hives.iter().any(read) {
        return Ok(out);
    }
    let named = named::of_files(places, tree, &seed.root, &mut out.unread)?;
    identity.facts.extend(named);
    identity.settle(places);
    if has_system || seed.software.is_some() {
        let generation = identity.windows.generation;
        let config = config.as_deref().unwrap_or_default();
        let (found, homes) =
            files::of_files(tree, &seed.root, generation, config, &mut out.unread)?;
        evidence.extend(found);
        match actions {
            Some((path, Ok(actions))) => evidence.extend(actions.lines(&path, undone)),
            Some((path, Err(why))) => out.unread.push(format!("{path}: {why}")),
            None if generation.is_none_or(|generation| generation >= Generation::Win8) => {
                let none = Actions::absent(&seed.root.to_string());
                evidence.push(none);
            }
            None => {}
        }
        for home in &homes {
            let (asked, lines) = of_user(tree, home)?;
            evidence.extend(lines);
            out.hives.extend(asked);
        }
        // There may be hundreds; what else there is comes first.
        evidence.sort_by_key(|line| line.id == "event_log");
        audit::name_rules(rules, &mut evidence);
        let about = Circumstances {
            generation,
            has_system,
            in_domain: identity.domain_sid.is_some(),
        };
        out.generalization = Some(judge(evidence, about));
    }
    out.identity = Some(identity);
    Ok(out)
}

/// What a user's own hive says; nothing is said of a profile without one.
fn of_user(tree: &dyn FileTree, home: &FileEntry) -> Result<(Option<HiveAsked>, Vec<Evidence>)> {
    let listed = match tree.list(home.id) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    let (asked, lines) = ask(tree, &listed, "NTUSER.DAT", user::of_user)?;
    Ok((
        (asked.state != "missing").then_some(asked),
        lines.unwrap_or_default(),
    ))
}

fn asked_software(part: &VolumePlan, seed: &Seed) -> HiveAsked {
    let path = format!("{}\\System32\\config\\SOFTWARE", seed.root);
    let (state, reason) = match &seed.software {
        Some(software) => (
            software.state,
            (software.skipped > 0).then(|| format!("{} damaged entries", software.skipped)),
        ),
        None => {
            let is_it = |what: &str| what.eq_ignore_ascii_case(&path);
            let skipped = part.not_scanned.iter().find(|item| is_it(&item.what));
            ("unreadable", skipped.map(|item| item.reason.clone()))
        }
    };
    HiveAsked {
        name: "SOFTWARE",
        path: Some(path),
        state,
        reason,
    }
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

/// Longest SYSTEM, SAM or SECURITY that is read; real ones have some ten MiB.
const SMALL_HIVE: u64 = 128 << 20;

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
    if entry.len > SMALL_HIVE {
        let reason = format!("at most {SMALL_HIVE} bytes expected, found {}", entry.len);
        return Ok((asked(path, "unreadable", Some(reason)), None));
    }
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
        _ if hive.gave_up() => Some("its lists are too long: not wholly looked at".to_owned()),
        (_, 0) => None,
        (_, skipped) => Some(format!("{skipped} damaged entries")),
    };
    Ok((asked(path, state, reason), Some(facts)))
}

/// Kinds of facts that every place must give alike, besides those of the rules data.
const AGREE: &str = "computer_sid";
/// NetBIOS: the computer's name has at most 15 characters.
const NETBIOS_LEN: usize = 15;

impl Identity {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Fact> {
        self.facts.iter().filter(move |fact| fact.kind == kind)
    }

    /// The short fields, and what does not fit together.
    fn settle(&mut self, places: &[IdPlace]) {
        let first = |kind: &str| self.of_kind(kind).next().map(|fact| fact.value.clone());
        let (computer_name, domain, domain_sid) =
            (first("computer_name"), first("domain"), first("domain_sid"));
        let mut found = Vec::new();
        let mut kinds = vec![AGREE];
        for id in places.iter().filter(|id| id.agree) {
            if !kinds.contains(&id.kind.as_str()) {
                kinds.push(&id.kind);
            }
        }
        for kind in kinds {
            found.extend(self.disagreement(kind));
        }
        for id in places {
            let Some(wanted) = &id.must_equal else {
                continue;
            };
            let others: Vec<&Fact> = self.of_kind(wanted).collect();
            for fact in self.of_kind(&id.kind) {
                if !others.is_empty() && others.iter().all(|other| other.value != fact.value) {
                    found.push(Mismatch {
                        what: format!(
                            "{} is {}, {} is {}",
                            fact.title,
                            fact.value,
                            others.first().map_or("?", |other| other.title.as_str()),
                            distinct(&others).join(" and ")
                        ),
                        sources: [fact]
                            .into_iter()
                            .chain(others.iter().copied())
                            .map(source)
                            .collect(),
                    });
                }
            }
        }
        found.extend(self.renamed());
        let sids: Vec<&Fact> = self.of_kind(AGREE).collect();
        self.computer_sid = match distinct(&sids).as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        };
        (self.computer_name, self.domain, self.domain_sid) = (computer_name, domain, domain_sid);
        self.mismatches.extend(found);
    }

    fn disagreement(&self, kind: &str) -> Option<Mismatch> {
        let facts: Vec<&Fact> = self.of_kind(kind).collect();
        let values = distinct(&facts);
        (values.len() > 1).then(|| Mismatch {
            what: format!(
                "{} is not the same everywhere: {}",
                facts.first().map_or(kind, |fact| fact.title.as_str()),
                values.join(", ")
            ),
            sources: facts.iter().copied().map(source).collect(),
        })
    }

    /// The host name begins as the computer's name does, unless one of them was left behind.
    fn renamed(&self) -> Option<Mismatch> {
        let computer = self.of_kind("computer_name").next()?;
        let host = self.of_kind("host_name").next()?;
        let short = |name: &str| -> String {
            let upper = name.chars().flat_map(char::to_uppercase);
            upper.take(NETBIOS_LEN).collect()
        };
        (short(&computer.value) != short(&host.value)).then(|| Mismatch {
            what: format!(
                "the computer is called {}, its host name is {}",
                computer.value, host.value
            ),
            sources: vec![computer.source.clone(), host.source.clone()],
        })
    }
}

fn source(fact: &Fact) -> Source {
    fact.source.clone()
}

fn distinct<'a>(facts: &[&'a Fact]) -> Vec<&'a str> {
    let mut values: Vec<&str> = Vec::new();
    for fact in facts {
        if !values.contains(&fact.value.as_str()) {
            values.push(&fact.value);
        }
    }
    values
}
