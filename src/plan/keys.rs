//! Files with private keys: found by the containers that certificates name. A certificate whose key stays
//! stays, too: alone it is all that tells where the key is.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Certificate, Container, Finding, KeyOf, Left, LeftClass, NotScanned, Plan, Subject, VolumePlan,
    file_evidence, file_places, tokens,
};
use crate::{
    error::{Kind, Result},
    hive::HiveEdit,
    image::Volume,
    rules::{Action, Rule, Target},
    text::{Name, WinPath, eq_ascii, escape},
    tree::{FileEntry, FileTree, UnseenClass},
    units::FileOffset,
    windows::capi::{self, CNG_KEYS, KEY_FILE_HEAD, MACHINE_KEYS},
};

/// Most files of one directory of the newer store whose heads are read.
const MAX_KEY_FILES: usize = 100_000;

/// Most certificates that stay and are named one by one.
const MAX_NAMED: usize = 20;

/// Whether a directory is one of the machine's keys, whatever stands before it.
pub(super) fn is_key_store(entry: &FileEntry) -> bool {
    let mut paths = entry.paths.iter();
    entry.is_directory
        && paths.any(|path| ends_with(path, &MACHINE_KEYS) || ends_with(path, &CNG_KEYS))
}

/// The containers whose key files go, in lower case.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeSet<String>);

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
#[expect(
    clippy::too_many_arguments,
    reason = "what is known, and what is found"
)]
pub(super) fn plan(
    volume: &Volume,
    tree: &dyn FileTree,
    directories: &[FileEntry],
    rules: &[Rule],
    containers: &[Container],
    found: &mut tokens::Tokens,
    gone: &mut Gone,
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
        let is_rsa = directory
            .paths
            .iter()
            .any(|path| ends_with(path, &MACHINE_KEYS));
        let heads = match is_rsa {
            true => Vec::new(),
            false => heads(tree, directory, &entries, part)?,
        };
        for (rule, container, what) in &wanted {
            let prefix = capi::file_prefix(container);
            let by_name = entries
                .iter()
                .filter(|entry| is_rsa && begins_so(entry, &prefix));
            let by_head = heads.iter();
            let by_head = by_head.filter(|(_, head)| capi::is_cng_file_of(head, container));
            for entry in by_name.chain(by_head.map(|(entry, _)| *entry)) {
                if entry.is_directory {
                    let reason = "it has a key file's name and is a directory";
                    let unseen = NotScanned::of_file(UnseenClass::Unsupported, entry, reason);
                    part.skip(unseen.harmless());
                } else {
                    plan_file(volume, tree, entry, rule, container, what, found, part);
                    if part.removals.iter().any(|other| other.id == entry.id) {
                        gone.0.insert(container.to_lowercase());
                    }
                }
            }
        }
    }
    Ok(())
}

/// The first bytes of every file of a directory of the newer store.
fn heads<'e>(
    tree: &dyn FileTree,
    directory: &FileEntry,
    entries: &'e [FileEntry],
    part: &mut VolumePlan,
) -> Result<Vec<(&'e FileEntry, Vec<u8>)>> {
    let mut out = Vec::new();
    let files = entries.iter().filter(|entry| !entry.is_directory);
    for (index, entry) in files.enumerate() {
        if index >= MAX_KEY_FILES {
            let reason = format!("key files: only the first {MAX_KEY_FILES} were looked at");
            part.skip(NotScanned::of_file(
                UnseenClass::Unsearched,
                directory,
                reason,
            ));
            break;
        }
        let len = usize::try_from(entry.len).unwrap_or(usize::MAX);
        let mut head = vec![0; len.min(KEY_FILE_HEAD)];
        match tree.read_at(entry.id, FileOffset(0), &mut head) {
            Ok(()) => out.push((entry, head)),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let reason = format!("whose key it is cannot be told: {error}");
                part.skip(NotScanned::of_file(UnseenClass::Damaged, entry, reason));
            }
        }
    }
    Ok(out)
}

/// Lets the certificates go whose keys go, and keeps the others: a rule that was asked for by its id takes
/// them all, as does one whose keys no rule of this run looks for.
pub(super) fn keep_certificates(
    rules: &[Rule],
    certificates: Vec<Certificate>,
    gone: &Gone,
    found: &mut tokens::Tokens,
    plan: &mut Plan,
) {
    let mut kept: BTreeMap<Place<'_>, String> = BTreeMap::new();
    for certificate in &certificates {
        let why = match &certificate.key {
            KeyOf::None => continue,
            KeyOf::Container(name) if gone.0.contains(&name.to_lowercase()) => continue,
            KeyOf::Container(name) => format!(
                "the file with its private key (container `{}`) was not found, or stays",
                escape(name)
            ),
            KeyOf::Unknown => "where its private key is cannot be told".to_owned(),
        };
        if needs_its_key(rules, &certificate.rule) {
            kept.insert(certificate.place(), why);
        }
    }
    let stays = |one: &&Certificate| kept.contains_key(&one.place());
    // A store of which all go is emptied in one go; of another the certificates go one by one.
    let mut parted: BTreeMap<(u32, &str, &[Name]), Vec<HiveEdit>> = BTreeMap::new();
    for certificate in certificates.iter().filter(stays) {
        parted.entry(certificate.store_place()).or_default();
    }
    for certificate in certificates.iter().filter(|one| !stays(one)) {
        for token in &certificate.tokens {
            tokens::Sink::put(found, token.clone());
        }
        if let Some(edits) = parted.get_mut(&certificate.store_place()) {
            let mut key = certificate.store.clone();
            key.push(certificate.name.clone());
            edits.push(HiveEdit::DeleteKey { key });
        }
    }
    for part in &mut plan.volumes {
        let partition = part.partition;
        for hive in &mut part.hives {
            let path = hive.entry.path();
            let of_hive = parted.range((partition, path.as_str(), [].as_slice())..);
            let of_hive = of_hive.take_while(|((at, of, _), _)| (*at, *of) == (partition, &*path));
            for ((.., store), edits) in of_hive {
                let whole = HiveEdit::DeleteSubkeys {
                    key: store.to_vec(),
                };
                if hive.edits.contains(&whole) {
                    hive.edits.retain(|edit| *edit != whole);
                    hive.edits.extend(edits.iter().cloned());
                }
            }
        }
        let mut said = BTreeSet::new();
        let mut lines = Vec::new();
        for finding in &mut part.findings {
            let Subject::Key { hive, key } = &finding.subject else {
                continue;
            };
            let why = kept.get(&(partition, hive.as_str(), key.as_str())).cloned();
            let Some(why) = why.filter(|_| finding.action == Action::Delete) else {
                continue;
            };
            finding.action = Action::Report;
            finding.evidence.push_str(&format!("; NOT REMOVED: {why}"));
            let place = (key.clone(), hive.clone());
            if said.insert(place.clone()) {
                lines.push((place, why, finding.rule.clone()));
            }
        }
        let more = lines.len().saturating_sub(MAX_NAMED);
        for ((key, hive), why, rule) in lines.into_iter().take(MAX_NAMED) {
            part.left.push(left(
                format!("certificate {key}: {why}, and a certificate alone is not taken"),
                hive,
                1,
                &rule,
            ));
        }
        if more > 0 {
            let count = u64::try_from(more).unwrap_or(u64::MAX);
            let what = "more certificates whose private keys stay".to_owned();
            part.left
                .push(left(what, "the same hives".to_owned(), count, "ID"));
        }
    }
}

fn left(what: String, owner: String, count: u64, rule: &str) -> Left {
    Left {
        class: LeftClass::Live,
        what,
        owner,
        image_offset: None,
        count,
        remedy: format!(
            "delete certificate and key on the master (certlm.msc, store SMS) and capture it again, or \
             ask for the certificate alone by its rule's id (--rules {rule})"
        ),
        accepted: false,
    }
}

/// Volume, path of the hive, path of the key.
type Place<'c> = (u32, &'c str, &'c str);

impl Certificate {
    fn place(&self) -> Place<'_> {
        let key = match &self.subject {
            Subject::Key { key, .. } => key.as_str(),
            _ => "",
        };
        (self.partition, &self.hive, key)
    }

    fn store_place(&self) -> (u32, &str, &[Name]) {
        (self.partition, &self.hive, &self.store)
    }
}

/// Whether a certificate that this rule matches must stay while its key stays.
fn needs_its_key(rules: &[Rule], id: &str) -> bool {
    let store = |rule: &Rule| (rule.target.hive(), rule.target.key_paths());
    let Some(rule) = rules.iter().find(|rule| rule.id == id && !rule.named) else {
        return false;
    };
    rules.iter().any(|other| {
        matches!(other.target, Target::CertificateKeys { .. })
            && other.effective_action() == Action::Delete
            && store(other) == store(rule)
    })
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
