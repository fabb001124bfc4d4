//! Rules x image -> findings and edits. Pure: nothing is written, nothing is printed.
//!
//! In: an [`Image`] and rules. Out: a [`Plan`], serialisable, that says what was found where, what
//! would be done, what stands in the way, and what was not looked at.
//! Knows: tree, hive, image, windows, rules. Never: writes.

use std::{collections::HashSet, sync::Mutex};

use crate::{
    error::{Error, Place, Result},
    hive::HiveEdit,
    image::{Content, Image, Volume},
    rules::{self, Action, Rule, Target},
    text::{Name, WinPath},
    tree::{
        FileEntry, FileId, FileTree, Listing, MetadataChunk, NamePattern, Obstacle, Opaque,
        Storage, UnseenClass,
    },
    units::{FileOffset, VolumeOffset},
    windows::{
        self, Store, StoreKind,
        capi::{CNG_KEYS, MACHINE_KEYS},
        packed::Packing,
        recycled::Recycled,
    },
};

mod finding;
mod folders;
mod hidden;
mod hives;
mod keys;
pub mod machines;
mod mentions;
mod opening;
mod other_ids;
mod stale;
pub mod tokens;
mod unreadable;
mod unseen;

pub use finding::{Finding, Identifier, Subject, View};
pub use hives::climb_hive;
pub use opening::{HiveBytes, LogFact, LogFacts, open_hive};
pub use other_ids::OtherIds;
pub use unseen::{Left, LeftClass, NotScanned};

use tokens::{Class, Token, Tokens};

/// Largest file whose content is read as evidence; a Smsuid.dat or Smscfg.ini is far smaller.
const EVIDENCE_LIMIT: u64 = 16 << 20;
/// GUIDs of a file that its evidence names.
const MAX_GUIDS: usize = 20;

/// What was found, and what would be done about it.
#[derive(Debug, Default)]
pub struct Plan {
    /// One per volume of the image, in its order.
    pub volumes: Vec<VolumePlan>,
    /// Everything to search for afterwards.
    pub tokens: Vec<Token>,
}

/// One volume's part.
#[derive(Debug, Default)]
pub struct VolumePlan {
    /// Partition number.
    pub partition: u32,
    /// What the number counts: "partition", "image" or "directory".
    pub unit: &'static str,
    /// Windows directories.
    pub installations: Vec<String>,
    /// The same directories, with what their SOFTWARE hives say of the machine.
    pub seeds: Vec<machines::Seed>,
    /// Hives and copies, with what was read of them.
    pub hives: Vec<HivePlan>,
    /// Everything a rule matched.
    pub findings: Vec<Finding>,
    /// What only rules of other sets matched: see [`Plan::other_ids`].
    pub watched: Vec<Finding>,
    /// Files to remove.
    pub removals: Vec<FileEntry>,
    /// Why the volume must not be written; matters only if there is something to write.
    pub obstacles: Vec<Obstacle>,
    /// Damage that forbids a clean of this volume.
    pub blockers: Vec<Error>,
    /// What was not looked at, and why.
    pub not_scanned: Vec<NotScanned>,
    /// What holds the identity and is not removed, found by other ways than the search.
    pub left: Vec<Left>,
    /// All files of the volume.
    pub listing: Listing,
    /// What the pass over the file records could not read.
    pub problems: Vec<String>,
    /// Hives that are dirty while no log finishes them: they forbid a clean, unless the user wants
    /// them as they are (`--accept-dirty`).
    pub dirty: Vec<Error>,
    /// Transaction logs that stay as they are, to be searched for leftovers.
    pub logs: Vec<FileEntry>,
    /// Transaction logs of hives that are edited: afterwards Windows needs them no more, and they
    /// hold old copies of what is taken out. They are filled with zeros, length kept.
    pub log_wipes: Vec<FileEntry>,
}

/// A hive file and the edits to it.
#[derive(Debug)]
pub struct HivePlan {
    /// The file.
    pub entry: FileEntry,
    /// "live hive of \WINDOWS", "RegBack copy" ...
    pub role: String,
    /// Clean, dirty ...
    pub state: String,
    /// What its logs did, if it is dirty.
    pub replay: Option<LogFacts>,
    /// Its transaction logs.
    pub logs: Vec<FileEntry>,
    /// What to take out; empty if nothing matched.
    pub edits: Vec<HiveEdit>,
    /// Whether its stale bytes hold the identity, although no rule matches: they are zeroed.
    pub wipe: bool,
    /// How it is packed; such a copy is only read.
    pub packed: Option<Packing>,
    /// The bytes as read, kept for the first hive that is to be edited, so that a large hive is not
    /// read twice; taken by the stage.
    pub bytes: Mutex<Option<HiveBytes>>,
}

impl HivePlan {
    /// Whether it is to be written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.wipe || !self.edits.is_empty()
    }
}

/// What the pass over all volumes leaves for afterwards.
#[derive(Debug, Default)]
struct Gathered {
    tokens: Tokens,
    containers: Vec<Container>,
    certificates: Vec<Certificate>,
    /// The hive whose bytes are kept in any case.
    keep: Option<(u32, FileId)>,
}

/// A container with the private key of a certificate.
#[derive(Debug)]
struct Container {
    /// The rule that asks for it.
    rule: String,
    name: String,
    /// The certificate, by the name of its key.
    certificate: String,
}

/// A certificate that a rule wants removed: it goes if its private key goes.
#[derive(Debug)]
struct Certificate {
    rule: String,
    partition: u32,
    /// What its finding is about.
    subject: Subject,
    /// Path of the hive.
    hive: String,
    /// The key of its store.
    store: Vec<Name>,
    /// The name of its own key.
    name: Name,
    key: KeyOf,
    /// What to search for when it is gone.
    tokens: Vec<Token>,
}

/// Where the private key of a certificate is.
#[derive(Debug)]
enum KeyOf {
    /// It has none.
    None,
    /// In this container.
    Container(String),
    /// In no file that can be told.
    Unknown,
}

/// What of one volume is looked at when all volumes were.
#[derive(Debug, Default)]
struct Later {
    /// What the search does not see.
    opaque: Vec<Opaque>,
    stores: Vec<Store>,
    key_directories: Vec<FileEntry>,
    mentions: Vec<mentions::Wanted>,
    /// The files of the removals: there may be many.
    removed: HashSet<FileId>,
}

impl VolumePlan {
    /// Whether anything is to be written to this volume.
    #[must_use]
    pub fn has_edits(&self) -> bool {
        !self.removals.is_empty() || self.hives.iter().any(HivePlan::is_written)
    }

    fn skip(&mut self, unseen: NotScanned) {
        self.not_scanned.push(unseen);
    }
}

impl Plan {
    /// Whether anything is to be written.
    #[must_use]
    pub fn has_edits(&self) -> bool {
        self.volumes.iter().any(VolumePlan::has_edits)
    }

    /// All findings.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.volumes.iter().flat_map(|volume| &volume.findings)
    }

    /// Findings that the rules want removed.
    #[must_use]
    pub fn to_delete(&self) -> usize {
        self.findings()
            .filter(|finding| finding.action == Action::Delete)
            .count()
    }

    /// Everything that was not looked at.
    pub fn not_scanned(&self) -> impl Iterator<Item = &NotScanned> {
        self.volumes.iter().flat_map(|volume| &volume.not_scanned)
    }
}

/// Obstacles that say that a volume's files may not be what they seem.
const UNSETTLED: [&str; 5] = [
    "hibernated",
    "log-not-clean",
    "dirty-flag",
    "mirror-mismatch",
    "structure",
];

/// Progress of long work: what, done, of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Sees every file record in passing.
pub type Search<'a> = &'a mut dyn FnMut(&Volume, MetadataChunk<'_>);

/// Looks at every volume with every rule.
pub fn make(image: &Image, rules: &[Rule], progress: Progress<'_>) -> Result<Plan> {
    make_with(image, rules, progress, &mut |_, _| {}, None)
}

/// As [`make`], and shows every file record to `search` in the same pass. The bytes of the hive `keep`
/// (partition, file) are kept, although nothing of it goes.
pub fn make_with(
    image: &Image,
    rules: &[Rule],
    progress: Progress<'_>,
    search: Search<'_>,
    keep: Option<(u32, FileId)>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let with_others = [rules, &rules::others_than(rules)?].concat();
    let rules = with_others.as_slice();
    let mut gathered = Gathered {
        keep,
        ..Gathered::default()
    };
    let mut later = Vec::new();
    for volume in &image.volumes {
        let (part, rest) = plan_volume(volume, rules, &mut gathered, progress, search)
            .map_err(|error| volume.climb(error))?;
        plan.volumes.push(part);
        later.push(rest);
    }
    let Gathered {
        mut tokens,
        containers,
        certificates,
        ..
    } = gathered;
    let mut gone = keys::Gone::default();
    // A certificate of one volume may belong to a key of another.
    for ((volume, part), rest) in image.volumes.iter().zip(&mut plan.volumes).zip(&later) {
        let Some(tree) = volume.tree() else { continue };
        let directories = &rest.key_directories;
        keys::plan(
            volume,
            tree,
            directories,
            rules,
            &containers,
            &mut tokens,
            &mut gone,
            part,
        )
        .map_err(|error| volume.climb(error))?;
    }
    for rule in rules.iter().filter(|rule| !rule.watched) {
        if let Target::FileAnywhere { name } = &rule.target {
            tokens::of_text(name, Class::Name, &mut tokens);
            if image.volumes.iter().any(Volume::is_fat) {
                tokens::of_fat_name(name, &mut tokens);
            }
        }
    }
    keys::keep_certificates(rules, certificates, &gone, &mut tokens, &mut plan);
    let (tokens, cut) = tokens.into_parts();
    plan.tokens = tokens;
    if let Some(part) = plan.volumes.first_mut().filter(|_| cut > 0) {
        part.skip(
            NotScanned::new(
                UnseenClass::Unsearched,
                format!("{cut} more pieces of what is removed"),
                format!(
                    "at most {} are searched for afterwards: copies of the others may stand elsewhere",
                    plan.tokens.len()
                ),
            )
            .remedy("verify the result afterwards: that finds any client id, known or not"),
        );
    }
    // Only the names as file systems store them: programs are full of the ASCII form.
    plan.tokens
        .retain(|t| t.class != Class::Name || !t.label.ends_with("(ASCII)"));
    tokens::tidy(&mut plan.tokens);
    // What is stale is told by what was found on all volumes.
    let finder = stale::Finder::new(&plan.tokens);
    for ((volume, part), rest) in image.volumes.iter().zip(&mut plan.volumes).zip(later) {
        if let Some(tree) = volume.tree() {
            mentions::search(volume, tree, &rest.mentions, &plan.tokens, part)
                .map_err(|error| volume.climb(error))?;
        }
        finish_volume(volume, &finder, rest, part).map_err(|error| volume.climb(error))?;
    }
    Ok(plan)
}

fn finish_volume(
    volume: &Volume,
    finder: &stale::Finder,
    Later { stores, opaque, .. }: Later,
    part: &mut VolumePlan,
) -> Result<()> {
    if let Some(tree) = volume.tree() {
        stale::find(volume, tree, finder, part)?;
        sort_logs(tree, part)?;
        stale::name_logs(volume, tree, finder, &stores, part)?;
    }
    name_stores(stores, part);
    hidden::name_others(opaque, part);
    refuse_two_faces(part);
    Ok(())
}

fn plan_volume(
    volume: &Volume,
    rules: &[Rule],
    gathered: &mut Gathered,
    progress: Progress<'_>,
    search: Search<'_>,
) -> Result<(VolumePlan, Later)> {
    let mut part = VolumePlan {
        partition: volume.partition,
        unit: volume.unit,
        ..VolumePlan::default()
    };
    let what = format!("{} {}", volume.unit, volume.partition);
    let tree = match &volume.content {
        Content::Files(tree) => tree.as_ref(),
        Content::Closed(reason) => {
            let class = match volume.is_encrypted() {
                true => UnseenClass::Encrypted,
                false => UnseenClass::Unsupported,
            };
            let unseen = NotScanned::new(class, what, reason.clone());
            part.skip(match volume.blank {
                true => unseen.harmless(),
                false => unseen,
            });
            return Ok((part, Later::default()));
        }
        Content::Broken(error) => {
            part.skip(NotScanned::new(
                UnseenClass::Damaged,
                what,
                error.to_string(),
            ));
            return Ok((part, Later::default()));
        }
        Content::Skipped => {
            let reason = format!("another {} was chosen", volume.unit);
            let mut unseen = NotScanned::new(UnseenClass::Unsearched, what, reason);
            unseen.accepted = true;
            part.skip(unseen);
            return Ok((part, Later::default()));
        }
    };
    let mut patterns = windows::patterns();
    let names = rules.iter().filter_map(|rule| rule.target.file_name());
    patterns.extend(names.map(NamePattern::exact));
    let wants_keys = keys::are_wanted(rules);
    if wants_keys {
        let names = MACHINE_KEYS.last().into_iter().chain(CNG_KEYS.last());
        patterns.extend(names.map(|name| NamePattern::exact(name)));
    }
    patterns.extend(hives::copy_names(rules).map(NamePattern::exact));
    let census = tree.census(&patterns, &mut |chunk| {
        progress("reading file records", chunk.first_record, 0);
        search(volume, chunk);
    })?;
    part.listing = census.listing;
    let opaque = census.opaque.clone();
    part.problems = census.problems.clone();
    if census.problem_count > 0 {
        part.skip(NotScanned::new(
            UnseenClass::Damaged,
            format!(
                "{} {} of {} {}",
                census.problem_count,
                match volume.has_entries() {
                    true => "structures",
                    false => "file records",
                },
                volume.unit,
                volume.partition
            ),
            census.problems.first().cloned().unwrap_or_default(),
        ));
    }
    unreadable::judge(volume, &census.unreadable, rules, &mut part);
    if census.cut > 0 {
        part.skip(
            NotScanned::new(
                UnseenClass::Unsearched,
                format!(
                    "{} more files of {} {} with names like those looked for",
                    census.cut, volume.unit, volume.partition
                ),
                "too many to be looked at: the recycle bin or a folder of copies is full of them",
            )
            .remedy("empty the recycle bin on the master, then capture it again"),
        );
    }
    part.obstacles = tree.obstacles()?;
    // A state in which Windows would still change the files, or of which a part is missing: what is seen
    // is not what will be there.
    for obstacle in &part.obstacles {
        let unseen = if obstacle.id == "volume-truncated" {
            let rest = format!("the rest of {} {}", volume.unit, volume.partition);
            NotScanned::new(UnseenClass::OutOfFile, rest, obstacle.what.clone())
        } else if UNSETTLED.contains(&obstacle.id) {
            NotScanned::new(UnseenClass::Damaged, what.clone(), obstacle.what.clone())
        } else {
            continue;
        };
        part.not_scanned
            .push(unseen.remedy(obstacle.advice.clone()));
    }
    let found = windows::recognise(tree, &census)?;
    part.installations = found
        .installations
        .iter()
        .map(|i| i.root.to_string())
        .collect();
    let roots = found.installations.iter().map(|i| i.root.clone());
    part.seeds = roots.map(machines::Seed::new).collect();
    for file in &found.hives {
        hives::plan_hive(
            volume,
            tree,
            file,
            &part.installations.clone(),
            rules,
            gathered,
            &mut part,
        )?;
    }
    hives::plan_others(
        volume,
        tree,
        &found.installations,
        &census.found,
        rules,
        gathered,
        &mut part,
    )?;
    for (directory, error) in &found.unlisted {
        part.skip(NotScanned::new(
            UnseenClass::Damaged,
            format!("other hives in {directory}"),
            format!("the directory cannot be listed: {error}"),
        ));
    }
    let mut later = Later {
        stores: found.stores,
        opaque,
        ..Later::default()
    };
    let recycled = windows::recycled::names(tree, &census)?;
    for entry in &census.found {
        if wants_keys && keys::is_key_store(entry) {
            later.key_directories.push(entry.clone());
        }
        let was = recycled.get(&entry.id);
        plan_file(
            (volume, tree),
            (entry, was),
            rules,
            gathered,
            &mut part,
            &mut later,
        )?;
    }
    let others: Vec<&str> = rules
        .iter()
        .filter(|rule| rule.watched)
        .map(|rule| rule.id.as_str())
        .collect();
    let is_other = |finding: &Finding| others.contains(&finding.rule.as_str());
    (part.watched, part.findings) = std::mem::take(&mut part.findings)
        .into_iter()
        .partition(is_other);
    Ok((part, later))
}

/// A file that is a hive under one name and a target under another (a hard link) is neither edited
/// nor removed: one of the two names is wrong, and only a person can say which.
fn refuse_two_faces(part: &mut VolumePlan) {
    let hives = part.hives.iter().map(|hive| &hive.entry);
    for hive in hives.chain(&part.log_wipes) {
        if part.removals.iter().any(|file| file.id == hive.id) {
            let names: Vec<String> = hive.paths.iter().map(ToString::to_string).collect();
            part.blockers.push(
                Error::refused(format!(
                    "file to remove: one that is no hive and no log expected, found {}",
                    names.join(" = ")
                ))
                .at(part.unit, part.partition)
                .advise("remove the hard link in Windows, then capture again"),
            );
        }
    }
}

/// The logs of a hive that is edited are wiped; the others are left, and listed.
fn sort_logs(tree: &dyn FileTree, part: &mut VolumePlan) -> Result<()> {
    for log in std::mem::take(&mut part.logs) {
        let is_its = |other: &FileEntry| other.id == log.id;
        let mut hives = part.hives.iter().filter(|hive| hive.is_written());
        let hive = hives.find(|hive| hive.logs.iter().any(is_its));
        let reason = match hive {
            None => Some("its hive is not edited".to_owned()),
            Some(_) => opening::why_not_erased(tree, &log)?,
        };
        let Some(reason) = reason else {
            part.log_wipes.push(log);
            continue;
        };
        if let Some(hive) = hive.filter(|hive| hive.replay.is_some()) {
            part.blockers.push(
                Error::refused(format!(
                    "log of a dirty hive: one that can be filled with zeros expected, {reason}"
                ))
                .at("file", log.path())
                .at("hive", hive.entry.path())
                .at(part.unit, part.partition)
                .advise("start and shut down Windows once on the master, then capture it again"),
            );
        }
        if log.len > 0 {
            let reason =
                format!("transaction log: searched for leftovers, left as it is ({reason})");
            part.skip(NotScanned::of_file(UnseenClass::Unsearched, &log, reason).harmless());
            part.logs.push(log);
        }
    }
    Ok(())
}

/// Most files of one sort that are named one by one.
const MAX_STORES: usize = 20;

/// What no rule looks into is named; the kernel's transaction logs are searched, too. They are never
/// written: what Windows makes of one that is all zeros is not known.
fn name_stores(stores: Vec<Store>, part: &mut VolumePlan) {
    let (logs, others): (Vec<Store>, Vec<Store>) = stores
        .into_iter()
        .partition(|store| store.kind == StoreKind::TransactionLog);
    if let Some(first) = logs.first() {
        let unseen = NotScanned::new(
            UnseenClass::Unsearched,
            format!("{} ({} such files)", first.entry.path(), logs.len()),
            "logs of the kernel's transaction manager beside the hives: searched for leftovers, \
             never changed",
        );
        part.skip(unseen.harmless());
    }
    part.logs.extend(logs.into_iter().map(|store| store.entry));
    for store in others.iter().take(MAX_STORES) {
        let (class, reason, remedy) = match store.kind {
            StoreKind::ShadowCopy => (
                UnseenClass::Nested,
                "a shadow copy: an older state of this volume, whatever was in it",
                "delete it in Windows before the capture (vssadmin delete shadows /all)",
            ),
            StoreKind::Registry9x => (
                UnseenClass::Unsupported,
                "Windows 9x registry (CREG): not cleaned, what it holds of the identity stays",
                "delete the values in Windows before the capture",
            ),
            _ => (
                UnseenClass::Nested,
                "an image file inside the volume: not opened",
                "take it out and run declone scan on it; remove it, or accept it (--accept nested)",
            ),
        };
        part.skip(NotScanned::of_file(class, &store.entry, reason).remedy(remedy));
    }
    if others.len() > MAX_STORES {
        let more = others.len() - MAX_STORES;
        part.skip(NotScanned::new(
            UnseenClass::Nested,
            format!("{more} more image files and shadow copies"),
            "not opened",
        ));
    }
}

/// Whether a rule speaks of a file of these names and paths.
fn names_file(rule: &Rule, names: &[Name], paths: &[WinPath]) -> bool {
    match &rule.target {
        Target::FileAnywhere { name } => names.iter().any(|n| n.eq_ascii(name)),
        Target::FileAtRoot { name } => paths
            .iter()
            .any(|path| path.0.len() == 1 && path.0[0].eq_ascii(name)),
        Target::FileAt { path: tail }
        | Target::Folder { path: tail }
        | Target::Mentions { path: tail } => paths.iter().any(|path| keys::ends_with(path, tail)),
        _ => false,
    }
}

/// `was`: what it was before it came into the recycle bin.
fn plan_file(
    (volume, tree): (&Volume, &dyn FileTree),
    (entry, was): (&FileEntry, Option<&Recycled>),
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
    later: &mut Later,
) -> Result<()> {
    for rule in rules {
        let recycled = was.map(Recycled::name).zip(rule.target.file_name());
        let matched = names_file(rule, &entry.names, &entry.paths)
            || matches!(rule.target, Target::FileAnywhere { .. })
                && recycled.is_some_and(|(was, name)| was.eq_ascii(name));
        if !matched {
            continue;
        }
        if let Target::Folder { .. } = rule.target {
            folders::plan(volume, tree, entry, rule, part)?;
            let removed = part.removals.iter().map(|file| file.id);
            later.removed.extend(removed);
            continue;
        }
        if entry.is_directory && rule.watched {
            continue;
        }
        if entry.is_directory {
            let reason = "it has a searched file's name and is a directory";
            part.skip(NotScanned::of_file(UnseenClass::Unsupported, entry, reason).harmless());
            continue;
        }
        if let Target::Mentions { .. } = rule.target {
            later.mentions.push(mentions::Wanted {
                rule: rule.clone(),
                entry: entry.clone(),
            });
            continue;
        }
        if rule.effective_action() == Action::Delete
            && !part.removals.iter().any(|f| f.id == entry.id)
        {
            hidden::name_wanted(entry, part);
        }
        let (mut evidence, mut bytes) = file_evidence(tree, entry);
        match was {
            Some(Recycled::File(name)) => {
                evidence.push_str(&format!("; recycled, it was called {name}"));
            }
            Some(Recycled::Note(name)) => {
                evidence.push_str(&format!("; the recycle bin's note on a {name}"));
                // Its words are a path, no content of the removed file.
                bytes = None;
            }
            None => {}
        }
        if rule.effective_action() == Action::Delete {
            if let Some(bytes) = &bytes {
                tokens::of_content(&entry.path(), bytes, &mut gathered.tokens);
            }
            if let (Target::FileAt { .. }, Some(name)) = (&rule.target, rule.target.file_name()) {
                tokens::of_text(name, Class::Name, &mut gathered.tokens);
            }
            if later.removed.insert(entry.id) {
                part.removals.push(entry.clone());
            }
        }
        let places = file_places(volume, tree, entry);
        let mut finding = Finding::new(rule, volume, Subject::file(entry), evidence, places);
        if let Some(text) = bytes.as_deref().and_then(tokens::as_text) {
            finding.ids = Identifier::in_file(rule, &text);
        }
        part.findings.push(finding);
    }
    Ok(())
}

/// Where a file's record is.
fn file_places(volume: &Volume, tree: &dyn FileTree, entry: &FileEntry) -> Vec<Place> {
    let record = entry.id.0 & 0xFFFF_FFFF_FFFF;
    let mut places = Vec::new();
    match volume.is_image() {
        true => places.push(Place {
            space: volume.unit,
            value: volume.partition.to_string(),
        }),
        false => {
            let (space, value) = volume.record_name(record);
            places.push(Place { space, value });
        }
    }
    if let Ok(at) = tree.record_offset(record, 0) {
        ladder(volume, at, &mut places);
    }
    places
}

fn file_evidence(tree: &dyn FileTree, entry: &FileEntry) -> (String, Option<Vec<u8>>) {
    let stored = match entry.storage {
        Storage::Resident => ", inside its file record",
        Storage::Compressed => ", compressed",
        Storage::Sparse => ", sparse",
        Storage::Encrypted => ", encrypted: content not read",
        Storage::Redirected(_) => ", a reparse point: content not read",
        Storage::Plain | Storage::None => "",
    };
    let lost = if entry.orphan {
        ", in no directory"
    } else {
        ""
    };
    let mut evidence = format!("{} bytes{stored}{lost}", entry.len);
    let readable = !matches!(
        entry.storage,
        Storage::Encrypted | Storage::Redirected(_) | Storage::None
    );
    if !readable || entry.len > EVIDENCE_LIMIT || entry.len == 0 {
        return (evidence, None);
    }
    let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(0)];
    match tree.read_at(entry.id, FileOffset(0), &mut bytes) {
        Ok(()) => {
            if let Some(text) = tokens::as_text(&bytes) {
                let guids = tokens::guids_in(&text);
                for guid in guids.iter().take(MAX_GUIDS) {
                    evidence.push_str(&format!(", holds GUID {}", dashed(guid)));
                }
                if guids.len() > MAX_GUIDS {
                    let more = guids.len() - MAX_GUIDS;
                    evidence.push_str(&format!(", and {more} more"));
                }
            }
            (evidence, Some(bytes))
        }
        Err(error) => {
            evidence.push_str(&format!(", content unreadable: {error}"));
            (evidence, None)
        }
    }
}

fn dashed(digits: &str) -> String {
    let d = digits.to_uppercase();
    format!(
        "{}-{}-{}-{}-{}",
        &d[..8],
        &d[8..12],
        &d[12..16],
        &d[16..20],
        &d[20..]
    )
}

/// Adds the rungs from the volume down to the image file.
fn ladder(volume: &Volume, at: VolumeOffset, places: &mut Vec<Place>) {
    if !volume.is_image() {
        places.push(Place {
            space: "volume offset",
            value: at.to_string(),
        });
    }
    places.push(Place {
        space: volume.unit,
        value: volume.partition.to_string(),
    });
    if let Some(disk) = volume.disk_offset(at).filter(|_| !volume.is_image()) {
        places.push(Place {
            space: "disk offset",
            value: disk.to_string(),
        });
    }
    if let Some(image) = volume.image_offset(at) {
        places.push(Place {
            space: "image offset",
            value: image.to_string(),
        });
    }
}

/// Everything that forbids a clean of this image, worst first; empty means it may be written. `waived`
/// are ids of obstacles that the user does not mind.
#[must_use]
pub fn refusals(image: &Image, plan: &mut Plan, accept_dirty: bool, waived: &[&str]) -> Vec<Error> {
    let mut out = Vec::new();
    for (volume, part) in image.volumes.iter().zip(&mut plan.volumes) {
        out.append(&mut part.blockers);
        if !accept_dirty {
            out.append(&mut part.dirty);
        }
        if part.has_edits() {
            let minded = part.obstacles.iter();
            let minded = minded.filter(|obstacle| !waived.contains(&obstacle.id));
            out.extend(minded.map(|obstacle| {
                Error::refused(obstacle.what.clone())
                    .at(volume.unit, volume.partition)
                    .advise(obstacle.advice.clone())
            }));
        }
    }
    if let Some(state) = &image.scan_only
        && plan.has_edits()
    {
        out.push(
            Error::refused(state.reason.clone())
                .advise(format!("{}; scan works as it is", state.advice)),
        );
    }
    if let Some(reason) = &image.table.scan_only
        && plan.has_edits()
    {
        out.push(
            Error::refused(format!("partition table: {reason}"))
                .advise("repair the table of a copy first (gdisk, command w); scan works as it is"),
        );
    }
    out
}

/// The ids of all removed files of a volume.
#[must_use]
pub fn removal_ids(part: &VolumePlan) -> Vec<FileId> {
    part.removals.iter().map(|entry| entry.id).collect()
}
