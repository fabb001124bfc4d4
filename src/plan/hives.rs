//! The hive half of planning: what the rules find in one hive file.

mod certificates;
mod others;
mod packed_copies;

pub(super) use others::{copy_names, plan_others};

use std::sync::Mutex;

use super::{
    Finding, Gathered, HiveBytes, HivePlan, Identifier, NotScanned, Subject, View, VolumePlan,
    ladder, open_hive,
    tokens::{self, Class},
};
use crate::{
    error::{Error, Kind, Place, Result},
    hive::{Hive, HiveEdit, KeyRef, State, ValueRef, read_base},
    image::{Volume, place_in},
    rules::{self, Action, HiveName, Rule, Target},
    text::{Name, escape},
    tree::{Extent, FileEntry, FileTree, Storage, UnseenClass},
    units::{FileOffset, HiveOffset, VolumeOffset},
    windows::{self, HiveFile, Role, Shape},
};

/// Characters of a value that a report shows.
const MAX_SHOWN: usize = 1024;

pub(super) fn plan_hive(
    volume: &Volume,
    tree: &dyn FileTree,
    file: &HiveFile,
    installations: &[String],
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<()> {
    let path = file.entry.path();
    let role = match &file.role {
        Role::Live(i) => format!(
            "hive of {}",
            installations.get(*i).map_or("?", String::as_str)
        ),
        Role::Copy(what) => (*what).to_owned(),
        Role::Log => {
            if file.entry.len > 0 {
                part.logs.push(file.entry.clone());
            }
            return Ok(());
        }
    };
    let live = matches!(file.role, Role::Live(_));
    match &file.shape {
        Shape::Hive => {}
        Shape::Packed(packing) => {
            let reason = format!("it is compressed ({})", packing.name());
            if live {
                part.blockers
                    .push(not_plain(&reason, volume).at("file", &path));
                part.skip(NotScanned::of_file(
                    UnseenClass::Packed,
                    &file.entry,
                    reason,
                ));
                return Ok(());
            }
            return match packed_copies::plan(
                volume, tree, file, *packing, &role, rules, gathered, part,
            ) {
                Err(error) if error.kind() == Kind::Io => Err(error),
                Err(error) => {
                    let reason = format!("{reason}: {error}");
                    part.skip(NotScanned::of_file(
                        UnseenClass::Packed,
                        &file.entry,
                        reason,
                    ));
                    Ok(())
                }
                Ok(()) => Ok(()),
            };
        }
        Shape::Empty if !live => return Ok(()),
        Shape::Empty => {
            part.blockers.push(
                Error::malformed("SOFTWARE hive: a regf file expected, found an empty file")
                    .at("file", &path),
            );
            return Ok(());
        }
        Shape::Other(reason) => {
            let class = class_of(&file.entry.storage);
            part.skip(NotScanned::of_file(class, &file.entry, reason.clone()));
            if live {
                part.blockers
                    .push(not_plain(reason, volume).at("file", path));
            }
            return Ok(());
        }
    }
    match read_hive(volume, tree, file, &role, rules, gathered, part) {
        Ok(hive) => {
            part.hives.extend(hive);
            Ok(())
        }
        Err(error) if error.kind() == Kind::Io => Err(error),
        Err(error) => {
            part.skip(NotScanned::of_file(
                UnseenClass::Damaged,
                &file.entry,
                error.to_string(),
            ));
            if live {
                part.blockers.push(volume.climb(error));
            }
            Ok(())
        }
    }
}

/// Why a file that is no plain hive cannot be read.
fn class_of(storage: &Storage) -> UnseenClass {
    match storage {
        Storage::Encrypted => UnseenClass::Encrypted,
        Storage::Redirected(_) => UnseenClass::Elsewhere,
        Storage::Compressed => UnseenClass::Packed,
        Storage::Resident | Storage::Plain | Storage::Sparse | Storage::None => {
            UnseenClass::Damaged
        }
    }
}

fn not_plain(reason: &str, volume: &Volume) -> Error {
    let unreadable = reason.starts_with(windows::UNREADABLE);
    Error::refused(format!(
        "SOFTWARE hive: a plain regf file expected, {reason}"
    ))
    .advise(match (volume.unit == "image", unreadable) {
        (true, true) => {
            "the archive is damaged there: take another copy of it; wimverify IMAGE tells what else is"
        }
        (true, false) => {
            "decrypt or decompress it in Windows (cipher /d, expand) and capture the image again"
        }
        (false, _) => "decrypt or decompress it in Windows (compact /u, cipher /d, expand)",
    })
}

fn read_hive(
    volume: &Volume,
    tree: &dyn FileTree,
    file: &HiveFile,
    role: &str,
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<Option<HivePlan>> {
    let path = file.entry.path();
    let extents = tree.extents(file.entry.id)?;
    let at_file = |error: Error| climb_hive(error, &path, &extents);
    let opened = open_hive(tree, &file.entry, &file.logs).map_err(at_file)?;
    super::machines::note_software(tree, file, &opened, part)?;
    let mut look = |bytes: &[u8], extents: &[Extent]| {
        look_at(
            volume,
            HiveName::Software,
            &path,
            bytes,
            extents,
            rules,
            gathered,
        )
    };
    let seen = match &opened {
        HiveBytes::Clean(bytes) => look(bytes, &extents)?,
        // Both reasons count: the logs do not finish it, and the file cannot be read as it is.
        HiveBytes::Stuck { primary, why, .. } => look(primary, &extents)
            .map_err(|error| error.advise(format!("it is dirty, too: {}", why.what())))?,
        HiveBytes::Replayed { primary, bytes, .. } => {
            let after = look(bytes, &[]).map_err(|error| error.at("hive", AFTER))?;
            let on_disk = look(primary, &extents).unwrap_or_else(|error| {
                let reason = format!("as it is on disk: {error}");
                part.skip(
                    NotScanned::of_file(UnseenClass::Damaged, &file.entry, reason).harmless(),
                );
                Look::default()
            });
            both_views(on_disk, after)
        }
    };
    // Beside a SOFTWARE hive lie others; what is none is nobody's business.
    if file.is_sibling() && seen.findings.is_empty() && !seen.is_software {
        return Ok(None);
    }
    if seen.skipped > 0 {
        let reason = format!("{} damaged entries of the hive", seen.skipped);
        part.skip(NotScanned::of_file(
            UnseenClass::Damaged,
            &file.entry,
            reason,
        ));
    }
    let Look {
        findings, edits, ..
    } = seen;
    let state = state_of(&opened)?;
    if let HiveBytes::Stuck { why, .. } = &opened {
        let reason = format!("{state}; shown as it is on disk: {}", why.what());
        // Its bytes were looked at, and its logs are searched like every file.
        part.skip(NotScanned::of_file(UnseenClass::Damaged, &file.entry, reason).harmless());
    }
    if !edits.is_empty() || matches!(file.role, Role::Live(_)) {
        object_to_dirty(volume, tree, &file.entry, &file.logs, role, &opened, part);
    }
    if !edits.is_empty() {
        object(volume, &file.entry, role, &opened, part);
    }
    part.findings.extend(findings);
    let first = !edits.is_empty() && part.hives.iter().all(|other| other.edits.is_empty());
    let first = first || gathered.keep == Some((volume.partition, file.entry.id));
    Ok(Some(HivePlan {
        entry: file.entry.clone(),
        role: role.to_owned(),
        state,
        replay: opened.log_facts(),
        logs: file.logs.clone(),
        edits,
        wipe: false,
        packed: None,
        bytes: Mutex::new(first.then_some(opened)),
    }))
}

/// A dirty hive that no log finishes is written only if the user says so.
pub(super) fn object_to_dirty(
    volume: &Volume,
    tree: &dyn FileTree,
    entry: &FileEntry,
    logs: &[FileEntry],
    role: &str,
    opened: &HiveBytes,
    part: &mut VolumePlan,
) {
    let HiveBytes::Stuck { why, .. } = opened else {
        return;
    };
    let what = why.what().trim_start_matches("hive: ");
    let mut error = Error::refused(format!("{role}: {what}"));
    for place in why.trail() {
        error = error.at(place.space, &place.value);
    }
    error = error.at("file", entry.path());
    if let Some(at) = place_in_log(tree, logs, why) {
        error = error.at("volume offset", at);
    }
    part.dirty.push(volume.climb(error).advise(
        "start and shut down Windows once on the master, then capture it again; or clean it as it is \
         on disk with --accept-dirty, which throws away what only its logs hold",
    ));
}

/// What forbids to write this hive at all.
pub(super) fn object(
    volume: &Volume,
    entry: &FileEntry,
    role: &str,
    opened: &HiveBytes,
    part: &mut VolumePlan,
) {
    if let HiveBytes::Replayed { replay, .. } = opened
        && replay.len_after > entry.len
    {
        part.blockers.push(
            Error::refused(format!(
                "{role}: a hive that fits into its file after the replay of its logs expected, found \
                 {} bytes for a file of {}, and declone never allocates",
                replay.len_after, entry.len
            ))
            .at("file", entry.path())
            .at(volume.unit, volume.partition)
            .advise("start and shut down Windows once on the master, then capture it again"),
        );
    }
    if !matches!(entry.storage, Storage::Plain | Storage::Resident) {
        part.blockers.push(
            Error::refused(format!(
                "{role}: plain clusters expected, it is stored compressed or sparse"
            ))
            .at("file", entry.path())
            .advise("uncompress it in Windows (compact /u) before the capture"),
        );
    }
}

/// Where in the volume a fault in a log is.
fn place_in_log(tree: &dyn FileTree, logs: &[FileEntry], why: &Error) -> Option<VolumeOffset> {
    let value = |space| why.trail().iter().find(|place| place.space == space);
    let (name, at) = (value("log")?, value("log offset")?);
    let log = logs.iter().find(|log| log.path() == name.value)?;
    let at = u64::from_str_radix(at.value.trim_start_matches("0x"), 16).ok()?;
    place_in(&tree.extents(log.id).ok()?, FileOffset(at))
}

/// A rung for what is not on disk but in a log.
const AFTER: &str = "after the replay of its logs";

/// The state of the file on disk, and what its logs make of it.
fn state_of(opened: &HiveBytes) -> Result<String> {
    let (state, logs) = match opened {
        HiveBytes::Clean(_) => return Ok("clean".to_owned()),
        HiveBytes::Stuck { primary, .. } => {
            (read_base(primary)?.1, "no log finishes it".to_owned())
        }
        HiveBytes::Replayed { replay, .. } => (
            replay.state,
            format!(
                "finished by its logs (entries {}, pages {})",
                replay.entries(),
                replay.pages()
            ),
        ),
    };
    Ok(match state {
        State::Clean => "clean".to_owned(),
        State::Dirty { primary, secondary } => {
            format!("dirty: sequence numbers {primary} and {secondary}, {logs}")
        }
        State::BadChecksum { stored, computed } => format!(
            "dirty: header checksum {stored:#010x} is wrong, {computed:#010x} expected, {logs}"
        ),
    })
}

/// What the rules see in one view of a hive.
#[derive(Default)]
struct Look {
    findings: Vec<Finding>,
    edits: Vec<HiveEdit>,
    skipped: u64,
    /// Whether there is a key that every SOFTWARE hive has, and no other hive.
    is_software: bool,
}

fn look_at(
    volume: &Volume,
    which: HiveName,
    path: &str,
    bytes: &[u8],
    extents: &[Extent],
    rules: &[Rule],
    gathered: &mut Gathered,
) -> Result<Look> {
    let at_file = |error: Error| climb_hive(error, path, extents);
    let hive = Hive::open(bytes).map_err(at_file)?;
    let mut look = HiveLook {
        volume,
        extents,
        path,
        hive: &hive,
        gathered,
        findings: Vec::new(),
    };
    let mut edits = Vec::new();
    let (mut unsure, mut lost) = (None, 0_u64);
    for rule in rules
        .iter()
        .filter(|rule| rule.target.hive() == Some(which))
    {
        let found = look.rule(rule, &mut edits);
        match found {
            // What another set would remove forbids nothing.
            Err(_) if rule.watched => lost = lost.saturating_add(1),
            Err(error) => unsure = Some(at_file(error)),
            Ok(()) => {}
        }
    }
    if let Some(error) = unsure {
        return Err(error);
    }
    Ok(Look {
        findings: look.findings,
        edits,
        is_software: hive
            .find_keys(&["Microsoft"])
            .is_ok_and(|keys| !keys.is_empty()),
        skipped: hive.skipped().saturating_add(lost),
    })
}

/// One list of both views; what is in one of them only says so.
fn both_views(on_disk: Look, mut after: Look) -> Look {
    let mut out = Look {
        edits: on_disk.edits,
        skipped: on_disk.skipped.saturating_add(after.skipped),
        is_software: on_disk.is_software || after.is_software,
        findings: Vec::new(),
    };
    for edit in after.edits {
        if !out.edits.contains(&edit) {
            out.edits.push(edit);
        }
    }
    for mut finding in on_disk.findings {
        let same = |other: &Finding| {
            (&other.rule, &other.subject, &other.evidence)
                == (&finding.rule, &finding.subject, &finding.evidence)
        };
        finding.view = Some(match after.findings.iter().position(same) {
            Some(at) => {
                after.findings.remove(at);
                View::Both
            }
            None => {
                finding
                    .evidence
                    .push_str(" (on disk only: its logs change it)");
                View::OnDisk
            }
        });
        out.findings.push(finding);
    }
    for mut finding in after.findings {
        finding.view = Some(View::AfterReplay);
        finding
            .evidence
            .push_str(" (after the replay of its logs only: not on disk)");
        out.findings.push(finding);
    }
    out
}

/// Adds the rungs of a hive file to an error from inside the hive.
#[must_use]
pub fn climb_hive(error: Error, path: &str, extents: &[Extent]) -> Error {
    let inside = error
        .trail()
        .iter()
        .find(|place| place.space == "hive offset")
        .and_then(|place| u64::from_str_radix(place.value.trim_start_matches("0x"), 16).ok());
    let error = error.at("file", path);
    match inside.and_then(|at| place_in(extents, FileOffset(at))) {
        Some(volume) => error.at("volume offset", volume),
        None => error,
    }
}

struct HiveLook<'a, 'b> {
    volume: &'a Volume,
    extents: &'a [Extent],
    path: &'a str,
    hive: &'a Hive<'b>,
    gathered: &'a mut Gathered,
    findings: Vec<Finding>,
}

impl HiveLook<'_, '_> {
    fn places(&self, at: HiveOffset) -> Vec<Place> {
        let mut places = vec![
            Place {
                space: "hive offset",
                value: at.to_string(),
            },
            Place {
                space: "file",
                value: self.path.to_owned(),
            },
        ];
        if let Some(volume) = place_in(self.extents, FileOffset(at.get())) {
            ladder(self.volume, volume, &mut places);
        }
        places
    }

    fn rule(&mut self, rule: &Rule, edits: &mut Vec<HiveEdit>) -> Result<()> {
        for key_path in rule.target.key_paths() {
            for key_path in self.resolve(&key_path)? {
                self.rule_at(rule, &key_path, edits)?;
            }
        }
        Ok(())
    }

    /// The paths that a path with placeholders stands for in this hive.
    fn resolve(&self, path: &[String]) -> Result<Vec<Vec<String>>> {
        let mut paths = vec![Vec::with_capacity(path.len())];
        for name in path {
            let fits: fn(&str) -> bool = match name.as_str() {
                rules::CONTROL_SETS => is_control_set,
                rules::ANY_GUID => rules::is_guid,
                _ => {
                    paths.iter_mut().for_each(|path| path.push(name.clone()));
                    continue;
                }
            };
            let mut next = Vec::new();
            for path in paths {
                let parent: Vec<&str> = path.iter().map(String::as_str).collect();
                for key in self.hive.find_keys(&parent)? {
                    for (_, name) in self.hive.subkeys(key)? {
                        let name = String::from_utf16_lossy(name.units());
                        if fits(&name) {
                            next.push([path.as_slice(), &[name]].concat());
                        }
                    }
                }
            }
            paths = next;
        }
        Ok(paths)
    }

    fn rule_at(
        &mut self,
        rule: &Rule,
        key_path: &[String],
        edits: &mut Vec<HiveEdit>,
    ) -> Result<()> {
        let path: Vec<&str> = key_path.iter().map(String::as_str).collect();
        let key_names = || key_path.iter().map(|part| Name::new(part)).collect();
        let shown = key_path.join("\\");
        for key in self.hive.find_keys(&path)? {
            match &rule.target {
                Target::Value { .. } => {
                    for found in self.hive.values(key)? {
                        for value in rule.target.values().map(Name::new) {
                            if found.name.eq_registry(&value) {
                                self.value(rule, &shown, &found);
                                let key = key_names();
                                push_edit(rule, edits, HiveEdit::DeleteValue { key, value });
                            }
                        }
                    }
                }
                Target::Key { .. } => {
                    let name = self.hive.name(key)?;
                    let parent = path
                        .split_last()
                        .map_or_else(String::new, |(_, above)| above.join("\\"));
                    self.subkey(rule, &parent, key, &name)?;
                    push_edit(rule, edits, HiveEdit::DeleteKey { key: key_names() });
                }
                Target::Subkeys { .. } | Target::Certificates { .. } => {
                    let subkeys = self.hive.subkeys(key)?;
                    for (subkey, name) in &subkeys {
                        match rule.target {
                            Target::Certificates { .. } => {
                                self.certificate(rule, key_path, *subkey, name)?;
                            }
                            _ => self.subkey(rule, &shown, *subkey, name)?,
                        }
                    }
                    if !subkeys.is_empty() {
                        push_edit(rule, edits, HiveEdit::DeleteSubkeys { key: key_names() });
                    }
                }
                Target::CertificateKeys { .. } => {
                    for (subkey, name) in self.hive.subkeys(key)? {
                        self.key_place(rule, &shown, subkey, &name)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, rule: &Rule, key: &str, value: &ValueRef) {
        let data = self.hive.value_data(value).unwrap_or_default();
        let text = value_text(value.kind, &data);
        if rule.effective_action() == Action::Delete {
            let tokens = &mut self.gathered.tokens;
            match &text {
                Some(text) => tokens::of_identifier(text, tokens),
                None => {
                    tokens::of_content(&format!("value {}", value.name), &data, tokens);
                }
            }
        }
        let ids = match &text {
            Some(text) => Identifier::in_text(rule, text),
            None => Identifier::of_bytes(rule, &data),
        };
        let shown = match (value.kind, text, data.as_slice()) {
            (_, Some(text), _) => shorten(escape(&text)),
            (4, None, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).to_string(),
            (..) => format!(
                "{} bytes {}",
                data.len(),
                hex::encode(&data[..data.len().min(32)])
            ),
        };
        let subject = Subject::Value {
            hive: self.path.to_owned(),
            key: key.to_owned(),
            value: value.name.to_string(),
            reg_type: value.kind,
            data_len: value.data_len,
        };
        let places = self.places(value.offset);
        let mut finding = Finding::new(rule, self.volume, subject, shown, places);
        finding.ids = ids;
        self.findings.push(finding);
    }

    fn subkey(&mut self, rule: &Rule, parent: &str, key: KeyRef, name: &Name) -> Result<()> {
        if rule.effective_action() == Action::Delete {
            let text = String::from_utf16_lossy(name.units());
            tokens::of_text(&text, Class::Name, &mut self.gathered.tokens);
        }
        let evidence = self.content(key)?;
        self.key_finding(rule, parent, key, name, evidence);
        Ok(())
    }

    /// What is in a key, in words.
    fn content(&self, key: KeyRef) -> Result<String> {
        let values = self.hive.values(key)?;
        let below = self.hive.subkeys(key)?.len();
        let names: Vec<String> = values.iter().take(3).map(|v| v.name.to_string()).collect();
        let more = if values.len() > 3 { ", ..." } else { "" };
        let mut evidence = format!("{} values, {below} subkeys", values.len());
        if !names.is_empty() {
            evidence.push_str(&format!(": {}{more}", names.join(", ")));
        }
        Ok(evidence)
    }

    fn key_finding(
        &mut self,
        rule: &Rule,
        parent: &str,
        key: KeyRef,
        name: &Name,
        evidence: String,
    ) -> &mut Finding {
        let subject = Subject::Key {
            hive: self.path.to_owned(),
            key: match parent {
                "" => name.to_string(),
                parent => format!("{parent}\\{name}"),
            },
        };
        let places = self.places(self.hive.offset(key));
        let at = self.findings.len();
        self.findings
            .push(Finding::new(rule, self.volume, subject, evidence, places));
        &mut self.findings[at]
    }
}

/// A long text as a report shows it.
fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_SHOWN) {
        let len = text.len();
        text.truncate(end);
        text.push_str(&format!("... ({len} bytes in all)"));
    }
    text
}

fn is_control_set(name: &str) -> bool {
    let number = name
        .get(..10)
        .filter(|start| start.eq_ignore_ascii_case("ControlSet"))
        .and(name.get(10..));
    number.is_some_and(|n| n.len() == 3 && n.bytes().all(|byte| byte.is_ascii_digit()))
}

fn push_edit(rule: &Rule, edits: &mut Vec<HiveEdit>, edit: HiveEdit) {
    if rule.effective_action() == Action::Delete && !edits.contains(&edit) {
        edits.push(edit);
    }
}

/// The text of REG_SZ, REG_EXPAND_SZ and REG_MULTI_SZ data; other types may hold text, too.
fn value_text(kind: u32, data: &[u8]) -> Option<String> {
    let wide = |data: &[u8]| {
        let (pairs, _) = data.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        String::from_utf16_lossy(&units)
            .trim_end_matches('\0')
            .to_owned()
    };
    match kind {
        1 | 2 | 7 => Some(wide(data)),
        _ => {
            let text = wide(data);
            let plain = data.len() >= 16 && text.chars().all(|c| (' '..='~').contains(&c));
            plain
                .then_some(text)
                .or_else(|| tokens::as_text(data).filter(|t| t.len() >= 8))
        }
    }
}
