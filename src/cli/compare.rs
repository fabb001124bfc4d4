//! `declone compare`: which images carry the identity of the same machine.
//!
//! # Why
//! - **A name is a hint, never an id**: clones get their own names, and computers are renamed (Q254735).
//!   Disk signatures, volume serials and drive letters are copied with the disk, so they tell nothing.
//!   What hardware it ran on does: Windows notes the SMBIOS UUID at every start, the SMS client the SMBIOS
//!   serial number and a hardware id of its own. Images of one id and two names that ran on one hardware are
//!   a renamed computer; those that ran on two are clones; without either, the answer says that it cannot
//!   be told.
//! - **An image is no clone of itself**: two systems of one computer share what belongs to the computer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    path::Path,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Common, CompareArgs, exit_code, scan, voice::complain};
use crate::{
    error::{Error, Kind, Result},
    plan::tokens::guids_in,
    report::html::{CloneGroup, Clones, ComparedImage, SharedId},
    report::verdict::Terms,
    rules::Rule,
    text::escape,
};

/// Longest report that is read.
const REPORT_LIMIT: u64 = 1 << 30;
/// Places of one shared id that are shown to a person; the JSON has all.
const MAX_PLACES: usize = 40;

/// What `compare` says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Comparison {
    declone: &'static str,
    schema: u32,
    pub(super) exit_code: u8,
    /// Whether marks stand in the place of identities (`--redact`).
    pub(super) redacted: bool,
    /// When the report was made, in UTC (RFC 3339); only with `--timestamp`.
    pub(super) time: Option<String>,
    /// Images that share an id, those that share one with the same image together.
    groups: Vec<Group>,
    /// Images in which several systems share an id: no clones.
    multi_boot: Vec<MultiBoot>,
    images: Vec<Compared>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Group {
    images: Vec<String>,
    verdict: Verdict,
    /// The verdict in words.
    why: String,
    /// Computer names: a hint, no id.
    names: Vec<Named>,
    shared: Vec<Shared>,
}

/// What images that share an id are to each other, as far as they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// They were set up or generalized apart, or ran on different hardware, and carry one identity.
    Clones,
    /// One computer under several names: it ran on the same hardware under each. No clones.
    Renamed,
    /// One computer under several names, or clones that were renamed.
    RenamedOrClones,
    /// One computer, or copies of it: nothing differs.
    SameMachine,
    /// They share an id; what would tell more was not found.
    SharedIdentity,
}

impl Verdict {
    /// For a heading.
    const fn label(self) -> &'static str {
        match self {
            Self::Clones => "CLONES",
            Self::Renamed => "one machine, renamed",
            Self::RenamedOrClones => "a renamed machine, or clones",
            Self::SameMachine => "one machine, or copies of it",
            Self::SharedIdentity => "what they are to each other is not known",
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Named {
    image: String,
    installation: String,
    name: String,
}

/// An id that more than one image has.
#[derive(Debug, Serialize, JsonSchema)]
struct Shared {
    identity: String,
    value: String,
    places: Vec<Place>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Place {
    image: String,
    /// The file, key or value.
    what: String,
}

/// Several systems of one image with the same id.
#[derive(Debug, Serialize, JsonSchema)]
struct MultiBoot {
    image: String,
    installations: Vec<String>,
    identity: String,
    value: String,
    why: &'static str,
}

const MULTI_BOOT: &str = "several systems in one image: a computer that starts more than one Windows, \
                          or an old one that was kept, is no clone of itself";

/// One input.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Compared {
    path: String,
    /// Its Windows installations.
    machines: Vec<Machine>,
    ids: Vec<Id>,
    /// Why it could not be looked at, or not wholly.
    errors: Vec<String>,
    #[serde(skip)]
    exit_code: u8,
}

/// A Windows installation: what is no id, or an id that is missing.
#[derive(Clone, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
struct Machine {
    installation: String,
    name: Option<String>,
    sid: Option<String>,
    /// The SMBIOS UUID of its last start.
    hardware_uuid: Option<String>,
    /// The SMBIOS serial number that the SMS client noted last.
    smbios_serial: Option<String>,
    /// The hardware id that the SMS client noted last.
    hardware_id: Option<String>,
}

/// UUIDs that makers forgot to set, as 32 digits: many computers have them.
const NOBODYS_UUIDS: [&str; 3] = [
    "03000200040005000006000700080009",
    "00020003000400050006000700080009",
    "12345678123456789012345678901234",
];

#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
struct Id {
    identity: String,
    value: String,
    what: String,
    /// The installation whose it is, if that is known.
    installation: Option<String>,
}

/// Of a report, what a comparison needs; every other field may be anything.
mod document {
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct Image {
        #[serde(default)]
        pub(super) path: String,
        #[serde(default)]
        pub(super) findings: Vec<Finding>,
        #[serde(default)]
        pub(super) machines: Vec<Machine>,
        #[serde(default)]
        pub(super) errors: Vec<Failure>,
    }

    #[derive(Deserialize)]
    pub(super) struct Finding {
        #[serde(default)]
        pub(super) rule: String,
        #[serde(default)]
        pub(super) evidence: String,
        /// Absent in reports of older versions.
        #[serde(default)]
        pub(super) ids: Option<Vec<Id>>,
        #[serde(default)]
        pub(super) subject: Subject,
    }

    #[derive(Deserialize)]
    pub(super) struct Id {
        pub(super) identity: String,
        pub(super) value: String,
    }

    #[derive(Default, Deserialize)]
    pub(super) struct Subject {
        #[serde(default)]
        pub(super) hive: String,
        #[serde(default)]
        pub(super) key: String,
        #[serde(default)]
        pub(super) value: String,
        #[serde(default)]
        pub(super) path: String,
    }

    #[derive(Deserialize)]
    pub(super) struct Machine {
        #[serde(default)]
        pub(super) root: String,
        #[serde(default)]
        pub(super) unit: String,
        #[serde(default)]
        pub(super) partition: u32,
        #[serde(default)]
        pub(super) identity: Option<Identity>,
    }

    #[derive(Default, Deserialize)]
    pub(super) struct Identity {
        #[serde(default)]
        pub(super) computer_name: Option<String>,
        #[serde(default)]
        pub(super) computer_sid: Option<String>,
        #[serde(default)]
        pub(super) facts: Vec<Fact>,
    }

    #[derive(Deserialize)]
    pub(super) struct Fact {
        #[serde(default)]
        pub(super) kind: String,
        #[serde(default)]
        pub(super) title: String,
        #[serde(default)]
        pub(super) value: String,
        #[serde(default)]
        pub(super) identifies: bool,
        #[serde(default)]
        pub(super) source: Source,
    }

    #[derive(Default, Deserialize)]
    pub(super) struct Source {
        #[serde(default)]
        pub(super) file: String,
        #[serde(default)]
        pub(super) key: Option<String>,
        #[serde(default)]
        pub(super) value: Option<String>,
    }

    #[derive(Deserialize)]
    pub(super) struct Failure {
        #[serde(default)]
        pub(super) what: String,
    }
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    redacted: bool,
    images: Vec<serde_json::Value>,
}

pub(super) fn run(
    inputs: &[std::path::PathBuf],
    args: &CompareArgs,
    rules: &[Rule],
) -> Result<Comparison> {
    let known: HashMap<&str, &str> = rules
        .iter()
        .filter_map(|rule| Some((rule.id.as_str(), rule.identity.as_deref()?)))
        .collect();
    let (mut images, mut seen) = (Vec::new(), Seen::default());
    for path in inputs {
        match look(path, &args.common, rules, &known, &mut seen) {
            Ok(some) => images.extend(some),
            // One report that cannot be read does not keep the others from being compared.
            Err(error) => images.push(Compared {
                path: escape(&path.display().to_string()),
                exit_code: exit_code(error.kind()),
                errors: vec![escape(error.what())],
                ..Compared::default()
            }),
        }
    }
    let groups = group(&images);
    let worst = images.iter().map(|image| image.exit_code).max();
    // A computer that was renamed is no duplicate of itself.
    let has_duplicates = groups.iter().any(|group| group.verdict != Verdict::Renamed);
    Ok(Comparison {
        declone: env!("CARGO_PKG_VERSION"),
        schema: 1,
        exit_code: worst.unwrap_or(0).max(u8::from(has_duplicates)),
        redacted: false,
        time: None,
        groups,
        multi_boot: images.iter().flat_map(multi_boot).collect(),
        images,
    })
}

impl Comparison {
    /// What kept images from being looked at, each with its image.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.images.iter().flat_map(|image| {
            let errors = image.errors.iter();
            errors.map(|error| (image.path.as_str(), error.as_str()))
        })
    }

    /// Every id in it, and what else names a machine.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.images.iter().flat_map(|image| {
            let machines = image.machines.iter();
            let names = machines.flat_map(|machine| {
                let Machine {
                    installation: _,
                    name,
                    sid,
                    hardware_uuid,
                    smbios_serial,
                    hardware_id,
                } = machine;
                let all = [name, sid, hardware_uuid, smbios_serial, hardware_id];
                all.into_iter().flatten()
            });
            let ids = image.ids.iter().map(|id| id.value.as_str());
            ids.chain(names.map(String::as_str))
        })
    }

    /// For the page.
    pub(super) fn picture(&self) -> Clones {
        let groups = self.groups.iter().map(|group| CloneGroup {
            images: group.images.clone(),
            label: group.verdict.label(),
            is_duplicate: group.verdict != Verdict::Renamed,
            shared: group
                .shared
                .iter()
                .map(|shared| SharedId {
                    identity: shared.identity.clone(),
                    value: usual(&shared.value),
                    places: shared
                        .places
                        .iter()
                        .map(|place| (place.image.clone(), place.what.clone()))
                        .collect(),
                })
                .collect(),
            remarks: vec![group.why.clone()],
        });
        let images = self.images.iter().map(|image| ComparedImage {
            path: image.path.clone(),
            ids: image.ids.len(),
            errors: image.errors.clone(),
        });
        Clones {
            groups: groups.collect(),
            images: images.collect(),
        }
    }
}

/// An image is scanned; a report of an earlier run has been.
fn look(
    path: &Path,
    common: &Common,
    rules: &[Rule],
    known: &HashMap<&str, &str>,
    seen: &mut Seen,
) -> Result<Vec<Compared>> {
    if let Some(report) = read_report(path)? {
        let shown = escape(&path.display().to_string());
        if report.redacted {
            return Err(Error::unsupported(format!(
                "report {shown}: ids expected, found the marks of --redact, which mean nothing outside it"
            ))
            .advise("compare the image itself, or a report made without --redact"));
        }
        let new = report.images.into_iter().filter(|image| {
            let new = seen.is_new(image);
            if !new {
                complain(&format!(
                    "report {shown}: an image that was compared already, taken once"
                ));
            }
            new
        });
        let images: std::result::Result<Vec<document::Image>, _> =
            new.map(serde_json::from_value).collect();
        let images = images.map_err(|e| no_report(&shown, &e))?;
        let images = images.into_iter().map(|image| {
            let path = match image.path.as_str() {
                "" => shown.clone(),
                // It was escaped when it was written, by whoever wrote the report.
                name => format!("{} (report {shown})", escape(name)),
            };
            compared(path, &image, known)
        });
        return Ok(images.collect());
    }
    let report = scan::run(
        path,
        common,
        (
            rules,
            &Terms {
                no_windows: true,
                ..Terms::default()
            },
        ),
        scan::Aim::Ids,
    );
    let json = serde_json::to_value(&report);
    let image: document::Image = json
        .and_then(serde_json::from_value)
        .map_err(|e| Error::internal(format!("compare: {e}")))?;
    let mut image = compared(report.path.clone(), &image, known);
    // Findings are what is looked for here: they are no reason for another exit code.
    image.exit_code = match report.exit_code {
        1 => 0,
        code => code,
    };
    Ok(vec![image])
}

/// A file that begins like JSON is a report; no image begins so.
fn read_report(path: &Path) -> Result<Option<Report>> {
    use std::io::Read;
    let shown = escape(&path.display().to_string());
    let Ok(mut file) = std::fs::File::open(path) else {
        return Ok(None);
    };
    let is_small = |meta: std::fs::Metadata| meta.is_file() && meta.len() <= REPORT_LIMIT;
    if !file.metadata().is_ok_and(is_small) {
        return Ok(None);
    }
    let mut bytes = vec![0; 1];
    if file.read(&mut bytes).unwrap_or(0) == 0 || bytes != *b"{" {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)
        .map_err(|e| Error::io(format!("report {shown}"), &e))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| no_report(&shown, &e))
}

fn no_report(shown: &str, e: &serde_json::Error) -> Error {
    Error::new(
        Kind::Malformed,
        format!(
            "report {shown}: JSON with a list of images expected: {}",
            escape(&e.to_string())
        ),
    )
}

/// The results that were taken, by image.
#[derive(Default)]
struct Seen(HashMap<String, HashSet<String>>);

impl Seen {
    /// Whether a result of a report tells something new. Two are of one image if path and identity are the
    /// same, and everything that was found; or if the second found nothing, as after a clean. Less would
    /// take clones of one master, under one name in two directories, for one image.
    fn is_new(&mut self, image: &serde_json::Value) -> bool {
        let identity = &image["image"]["identity"];
        let key = match identity.is_object() {
            // Without the container's id: what is written to a VHDX, VDI or VMDK changes it.
            true => ["len", "disk_id", "head_sha256"]
                .iter()
                .fold(image["path"].to_string(), |key, name| {
                    format!("{key}\n{}", identity[*name])
                }),
            // A report of an older version.
            false => ["path", "image", "volumes"]
                .map(|name| image[name].to_string())
                .join("\n"),
        };
        // A clean takes facts away, too, but not the name and the SID.
        let machines = image["machines"].as_array().into_iter().flatten();
        let names: Vec<String> = machines
            .map(|machine| {
                let who = &machine["identity"];
                format!(
                    "{} {} {}",
                    machine["root"], who["computer_name"], who["computer_sid"]
                )
            })
            .collect();
        let names = names.join("\n");
        let found = format!("{}\n{}\n{names}", image["findings"], image["machines"]);
        let before = self.0.entry(key).or_default();
        let is_after = identity.is_object()
            && image["findings"].as_array().is_none_or(Vec::is_empty)
            && before.iter().any(|found| found.ends_with(&names));
        !is_after && before.insert(found)
    }
}

fn compared(path: String, image: &document::Image, known: &HashMap<&str, &str>) -> Compared {
    let mut out = Compared {
        path,
        errors: image.errors.iter().map(|e| escape(&e.what)).collect(),
        ..Compared::default()
    };
    let mut seen = BTreeMap::new();
    let mut add = |identity: &str, value: &str, what: &str, installation: Option<&str>| {
        let id = Id {
            identity: escape(identity),
            value: escape(&normal(value)),
            what: escape(what),
            installation: installation.map(escape),
        };
        // A value that says nothing is everybody's.
        let digits = id.value.trim_start_matches('0').len();
        if digits <= 1 {
            return;
        }
        let known = *seen
            .entry((id.identity.clone(), id.value.clone(), id.what.clone()))
            .or_insert(out.ids.len());
        match out.ids.get_mut(known) {
            // A rule found it, too, and does not know whose it is.
            Some(other) => other.installation = other.installation.take().or(id.installation),
            None => out.ids.push(id),
        }
    };
    let installation_of = |machine: &document::Machine| match image.machines.len() {
        1 => machine.root.clone(),
        _ => format!("{} ({} {})", machine.root, machine.unit, machine.partition),
    };
    for finding in &image.findings {
        let Some(identity) = known.get(finding.rule.as_str()) else {
            continue;
        };
        let subject = &finding.subject;
        let what = match (subject.path.as_str(), subject.value.as_str()) {
            ("", "") => format!("{}: {}", subject.hive, subject.key),
            ("", value) => format!("{}: {}, value {value}", subject.hive, subject.key),
            (path, _) => path.to_owned(),
        };
        match &finding.ids {
            Some(ids) => {
                for id in ids {
                    add(&id.identity, &id.value, &what, None);
                }
            }
            None => {
                for value in guids_in(&finding.evidence) {
                    add(identity, &value, &what, None);
                }
            }
        }
    }
    for machine in &image.machines {
        let Some(identity) = &machine.identity else {
            continue;
        };
        let installation = installation_of(machine);
        for fact in identity.facts.iter().filter(|fact| fact.identifies) {
            let source = &fact.source;
            let mut what = source.file.clone();
            if let Some(key) = &source.key {
                what.push_str(&format!(": {key}"));
            }
            if let Some(value) = source.value.as_ref().filter(|value| !value.is_empty()) {
                what.push_str(&format!(", value {value}"));
            }
            add(&fact.title, &fact.value, &what, Some(&installation));
        }
        let hardware = |kind: &str| {
            let found = identity.facts.iter().find(|fact| fact.kind == kind)?;
            let value = escape(&normal(&found.value));
            let mut digits = value.chars().filter(char::is_ascii_alphanumeric);
            let first = digits.next()?;
            // All the same character says nothing, and nor does what many makers leave there.
            let known = digits.any(|c| c != first) && !NOBODYS_UUIDS.contains(&value.as_str());
            known.then_some(value)
        };
        out.machines.push(Machine {
            hardware_uuid: hardware("hardware_uuid"),
            smbios_serial: hardware("smbios_serial"),
            hardware_id: hardware("hardware_id"),
            installation: escape(&installation),
            name: identity.computer_name.as_deref().map(escape),
            sid: identity.computer_sid.as_deref().map(escape),
        });
    }
    out
}

/// One form for one value, whoever wrote it: a GUID as 32 digits, everything in lower case.
fn normal(value: &str) -> String {
    match guids_in(value).as_slice() {
        [guid] if value.len() <= 48 => guid.clone(),
        _ => value.trim().to_lowercase(),
    }
}

/// A value as people write it: a GUID with its dashes, a SID with a capital S.
fn usual(value: &str) -> String {
    let is_guid = value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    match (is_guid, value.starts_with("s-1-")) {
        (true, _) => {
            let ends = [0, 8, 12, 16, 20, 32];
            let parts = ends.windows(2).filter_map(|at| value.get(at[0]..at[1]));
            parts.collect::<Vec<_>>().join("-").to_uppercase()
        }
        (_, true) => value.to_uppercase(),
        _ => value.to_owned(),
    }
}

/// Whether a value cannot be the same by chance, whatever it is called.
fn speaks_for_itself(value: &str) -> bool {
    let is_hex = value.len() >= 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex || value.starts_with("s-1-5-21-")
}

/// What two ids must have in common to be one.
fn key_of(id: &Id) -> (&str, &str) {
    match speaks_for_itself(&id.value) {
        true => ("", &id.value),
        false => (&id.identity, &id.value),
    }
}

/// Images that share ids, directly or through others.
fn group(images: &[Compared]) -> Vec<Group> {
    let mut owners: BTreeMap<(&str, &str), BTreeSet<usize>> = BTreeMap::new();
    for (number, image) in images.iter().enumerate() {
        for id in &image.ids {
            owners.entry(key_of(id)).or_default().insert(number);
        }
    }
    owners.retain(|_, of| of.len() > 1);
    let mut head: Vec<usize> = (0..images.len()).collect();
    // With the path halved on the way, long chains stay short.
    let find = |head: &mut [usize], mut at: usize| {
        while head[at] != at {
            head[at] = head[head[at]];
            at = head[at];
        }
        at
    };
    for of in owners.values() {
        let mut of = of.iter();
        let Some(first) = of.next() else { continue };
        for number in of {
            // Both anew: the head of the first may just have changed.
            let (one, other) = (find(&mut head, *first), find(&mut head, *number));
            head[one.max(other)] = one.min(other);
        }
    }
    let mut members: BTreeMap<usize, (Vec<usize>, Vec<Shared>)> = BTreeMap::new();
    for (key, of) in &owners {
        let root = of
            .iter()
            .next()
            .map_or(0, |number| find(&mut head, *number));
        members
            .entry(root)
            .or_default()
            .1
            .push(shared(images, *key, of));
    }
    for number in 0..images.len() {
        if let Some((group, _)) = members.get_mut(&find(&mut head, number)) {
            group.push(number);
        }
    }
    members
        .into_values()
        .map(|(numbers, shared)| {
            let members: Vec<&Compared> = numbers.iter().map(|n| &images[*n]).collect();
            let (verdict, why) = judge(&members, &shared);
            let names = members.iter().flat_map(|image| {
                image.machines.iter().filter_map(|machine| {
                    Some(Named {
                        image: image.path.clone(),
                        installation: machine.installation.clone(),
                        name: machine.name.clone()?,
                    })
                })
            });
            Group {
                names: names.collect(),
                images: members.iter().map(|image| image.path.clone()).collect(),
                verdict,
                why,
                shared,
            }
        })
        .collect()
}

fn shared(images: &[Compared], key: (&str, &str), of: &BTreeSet<usize>) -> Shared {
    let mut labels: Vec<&str> = Vec::new();
    let mut places = Vec::new();
    for number in of {
        let image = &images[*number];
        for id in image.ids.iter().filter(|id| key_of(id) == key) {
            if !labels.contains(&id.identity.as_str()) {
                labels.push(&id.identity);
            }
            places.push(Place {
                image: image.path.clone(),
                what: id.what.clone(),
            });
        }
    }
    Shared {
        identity: labels
            .first()
            .map_or_else(String::new, |label| (*label).to_owned()),
        value: key.1.to_owned(),
        places,
    }
}

/// The installations that take part: those that have a shared id; of an image whose ids lie in files
/// of no installation, all.
fn judge(members: &[&Compared], shared: &[Shared]) -> (Verdict, String) {
    let values: BTreeSet<&str> = shared.iter().map(|shared| shared.value.as_str()).collect();
    let parts: Vec<Vec<&Machine>> = members
        .iter()
        .map(|image| {
            let takes_part = |machine: &&Machine| {
                image.ids.iter().any(|id| {
                    id.installation.as_ref() == Some(&machine.installation)
                        && values.contains(id.value.as_str())
                })
            };
            let taking: Vec<&Machine> = image.machines.iter().filter(takes_part).collect();
            match taking.is_empty() {
                true => image.machines.iter().collect(),
                false => taking,
            }
        })
        .collect();
    let known = |get: fn(&Machine) -> Option<&String>| -> Option<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for part in &parts {
            let of_image: Vec<&String> = part.iter().filter_map(|machine| get(machine)).collect();
            if of_image.is_empty() {
                return None;
            }
            all.extend(of_image.into_iter().map(|text| text.to_lowercase()));
        }
        Some(all)
    };
    let sids = known(|machine| machine.sid.as_ref());
    let names = known(|machine| machine.name.as_ref());
    let uuids = known(|machine| machine.hardware_uuid.as_ref());
    let serials = known(|machine| machine.smbios_serial.as_ref());
    let hardware = known(|machine| machine.hardware_id.as_ref());
    let count = |set: &Option<BTreeSet<String>>| set.as_ref().map(BTreeSet::len);
    let same_uuid = count(&uuids) == Some(1);
    let same_serial = count(&serials) == Some(1) && count(&hardware) == Some(1);
    match (count(&sids), count(&names)) {
        (Some(2..), _) => (
            Verdict::Clones,
            "clones: their computer SIDs differ, so they were set up or generalized apart, and still \
             carry the same identity"
                .to_owned(),
        ),
        _ if count(&uuids) >= Some(2) || count(&serials) >= Some(2) => (
            Verdict::Clones,
            format!(
                "clones: they ran on different hardware ({}), and still carry the same identity; only a \
                 computer whose mainboard was replaced looks so, too",
                match count(&uuids) >= Some(2) {
                    true => "the SMBIOS UUID of the last start differs",
                    false => "the SMBIOS serial number that their SMS clients noted differs",
                }
            ),
        ),
        (Some(1), Some(2..)) if same_uuid || same_serial => (
            Verdict::Renamed,
            format!(
                "one machine, renamed, no clones: computer SID and hardware are the same under every name \
                 ({})",
                match same_uuid {
                    true => "the SMBIOS UUID that Windows noted at its last start",
                    false => {
                        "SMBIOS serial number and hardware id, as the SMS client noted them; a copy whose \
                         client has not run since would look so, too"
                    }
                }
            ),
        ),
        (_, Some(2..)) => (
            Verdict::RenamedOrClones,
            "renamed, or clones: their names differ and nothing else speaks against one computer; a \
             computer that was renamed between two captures looks so, and so does a clone that got \
             its own name without Sysprep; a name is no evidence, ask which hardware they came from"
                .to_owned(),
        ),
        (Some(1), Some(1)) => (
            Verdict::SameMachine,
            "captures of one computer, or copies of one image: computer SID and name are the same"
                .to_owned(),
        ),
        _ => (
            Verdict::SharedIdentity,
            "they share an id; computer SIDs and names that would tell more were not found in all of \
             them"
                .to_owned(),
        ),
    }
}

/// Ids that several systems of one image have.
fn multi_boot(image: &Compared) -> Vec<MultiBoot> {
    let mut owners: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut labels: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for id in &image.ids {
        if let Some(installation) = &id.installation {
            owners.entry(key_of(id)).or_default().insert(installation);
            labels.entry(key_of(id)).or_insert(&id.identity);
        }
    }
    owners
        .into_iter()
        .filter(|(_, of)| of.len() > 1)
        .map(|(key, of)| MultiBoot {
            image: image.path.clone(),
            installations: of.into_iter().map(str::to_owned).collect(),
            identity: labels.get(&key).copied().unwrap_or_default().to_owned(),
            value: key.1.to_owned(),
            why: MULTI_BOOT,
        })
        .collect()
}

/// For a person.
pub(super) fn text(all: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |text: String| writeln!(out, "{text}").unwrap_or(());
    let mut grouped = BTreeSet::new();
    for (number, group) in all.groups.iter().enumerate() {
        line(format!(
            "Group {}: {} images with one identity: {}",
            number + 1,
            group.images.len(),
            group.verdict.label()
        ));
        for image in &group.images {
            grouped.insert(image.as_str());
            let names = group.names.iter().filter(|named| named.image == *image);
            let names: Vec<&str> = names.map(|named| named.name.as_str()).collect();
            line(match names.is_empty() {
                true => format!("  {image}"),
                false => format!("  {image} (computer {})", names.join(", ")),
            });
        }
        line(format!("  {}", group.why));
        for shared in &group.shared {
            line(format!(
                "  the same {}: {}",
                shared.identity,
                usual(&shared.value)
            ));
            for place in shared.places.iter().take(MAX_PLACES) {
                line(format!("    {} in {}", place.what, place.image));
            }
            if shared.places.len() > MAX_PLACES {
                line(format!("    and {} more", shared.places.len() - MAX_PLACES));
            }
        }
        line(String::new());
    }
    for several in &all.multi_boot {
        line(format!(
            "{}: {} have the same {}: {}\n  no clones: {}",
            several.image,
            several.installations.join(" and "),
            several.identity,
            usual(&several.value),
            several.why
        ));
    }
    let is_alone = |image: &&Compared| !grouped.contains(image.path.as_str());
    for image in all
        .images
        .iter()
        .filter(is_alone)
        .filter(|i| i.errors.is_empty())
    {
        let what = match image.ids.len() {
            0 => "no id was found in it",
            _ => "its ids are its own",
        };
        line(format!("{}: {what}", image.path));
    }
    for image in &all.images {
        for error in &image.errors {
            line(format!("{}: NOT WHOLLY LOOKED AT: {error}", image.path));
        }
    }
    let renamed = all.groups.iter().filter(|g| g.verdict == Verdict::Renamed);
    let renamed = renamed.count();
    line(match all.groups.len() {
        0 => format!(
            "No two of {} images share an id that was looked for.",
            all.images.len()
        ),
        1 => "1 group of images carries the identity of one machine.".to_owned(),
        n => format!("{n} groups of images carry the identity of one machine each."),
    });
    if renamed > 0 {
        line(format!(
            "{renamed} of them: a machine that was renamed, not cloned."
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_write_them() {
        for (value, shown) in [
            (
                "6f2e17c493ab4d0e8c517a64e0b9d312",
                "6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312",
            ),
            ("s-1-5-21-1-2-3", "S-1-5-21-1-2-3"),
            ("a certificate", "a certificate"),
        ] {
            assert_eq!(usual(value), shown);
        }
    }

    fn image(path: &str, ids: &[(&str, &str)]) -> Compared {
        Compared {
            path: path.to_owned(),
            ids: ids
                .iter()
                .map(|(identity, value)| Id {
                    identity: (*identity).to_owned(),
                    value: (*value).to_owned(),
                    what: "x".to_owned(),
                    installation: None,
                })
                .collect(),
            ..Compared::default()
        }
    }

    fn members(images: &[Compared]) -> Vec<Vec<String>> {
        group(images)
            .into_iter()
            .map(|group| group.images)
            .collect()
    }

    #[test]
    fn images_that_share_an_id_are_together_and_others_alone() {
        let all = [
            image("a", &[("sms", "1")]),
            image("b", &[("mg", "9")]),
            image("c", &[("sms", "2"), ("mg", "7")]),
            image("d", &[("sms", "1"), ("mg", "7")]),
            image("e", &[("mg", "1")]),
            image("f", &[("mg", "9")]),
            image("g", &[]),
        ];
        assert_eq!(members(&all), [vec!["a", "c", "d"], vec!["b", "f"]]);
    }

    #[test]
    fn an_id_joins_all_groups_that_have_it() {
        // Three groups with heads 0, 1, 2; one id in the third, the second and the first, in this order
        // of numbers.
        let all = [
            image("a", &[("x", "0")]),
            image("b", &[("x", "1")]),
            image("c", &[("x", "2")]),
            image("d", &[("x", "2"), ("y", "all")]),
            image("e", &[("x", "1"), ("y", "all")]),
            image("f", &[("x", "0"), ("y", "all")]),
        ];
        assert_eq!(members(&all), [vec!["a", "b", "c", "d", "e", "f"]]);
    }

    #[test]
    fn one_image_with_an_id_twice_is_no_clone_of_itself() {
        let all = [image("a", &[("sms", "1"), ("sms", "1")]), image("b", &[])];
        assert!(members(&all).is_empty());
    }

    #[test]
    fn long_chains_end_in_one_group() {
        let names: Vec<String> = (0..200).map(|i| i.to_string()).collect();
        let mut all: Vec<Compared> = Vec::new();
        // In an order in which every new image joins two groups.
        for i in (0..200).step_by(2).chain((1..199).step_by(2)) {
            let next = if i % 2 == 0 { i } else { i + 1 };
            let last = if i % 2 == 0 { i } else { i - 1 };
            all.push(image(
                &names[i],
                &[("x", &names[last]), ("x", &names[next])],
            ));
        }
        assert_eq!(members(&all).len(), 1);
        assert_eq!(members(&all)[0].len(), 199);
    }

    fn machine(image: Compared, name: Option<&str>, sid: Option<&str>) -> Compared {
        let machine = Machine {
            installation: "w".to_owned(),
            name: name.map(str::to_owned),
            sid: sid.map(str::to_owned),
            ..Machine::default()
        };
        Compared {
            machines: vec![machine],
            ..image
        }
    }

    #[test]
    fn a_verdict_says_what_the_images_can_tell() {
        let guid = "0123456789abcdef0123456789abcdef";
        let pair = |one: (Option<&str>, Option<&str>), other: (Option<&str>, Option<&str>)| {
            let all = [
                machine(image("a", &[("g", guid)]), one.0, one.1),
                machine(image("b", &[("g", guid)]), other.0, other.1),
            ];
            group(&all)[0].verdict
        };
        let (s, t) = (Some("s-1-5-21-1-2-3"), Some("s-1-5-21-4-5-6"));
        let (pc, pd) = (Some("PC"), Some("PD"));
        assert_eq!(pair((pc, s), (pd, t)), Verdict::Clones);
        assert_eq!(pair((pc, s), (pc, t)), Verdict::Clones);
        assert_eq!(pair((pc, s), (pd, s)), Verdict::RenamedOrClones);
        assert_eq!(pair((pc, s), (Some("pc"), s)), Verdict::SameMachine);
        assert_eq!(pair((pc, s), (None, s)), Verdict::SharedIdentity);
        assert_eq!(pair((pc, None), (pd, None)), Verdict::RenamedOrClones);
        assert_eq!(pair((None, None), (None, None)), Verdict::SharedIdentity);
    }

    #[test]
    fn hardware_tells_a_renamed_machine_from_clones() {
        let guid = "0123456789abcdef0123456789abcdef";
        let sid = Some("s-1-5-21-1-2-3");
        // UUID, serial number and hardware id of each.
        type Hardware = [Option<&'static str>; 3];
        let verdict = |names: [&str; 2], sids: [Option<&str>; 2], hardware: [Hardware; 2]| {
            let one = |n: usize, path: &str| {
                let mut image = machine(image(path, &[("g", guid)]), Some(names[n]), sids[n]);
                let [uuid, serial, id] = hardware[n].map(|text| text.map(str::to_owned));
                let machine = &mut image.machines[0];
                (machine.hardware_uuid, machine.smbios_serial) = (uuid, serial);
                machine.hardware_id = id;
                image
            };
            let all = [one(0, "a"), one(1, "b")];
            group(&all)[0].verdict
        };
        let (two, same) = (["PC", "PD"], [sid, sid]);
        let uuid = |text| [Some(text), None, None];
        let ini = |serial, id| [None, Some(serial), Some(id)];
        assert_eq!(verdict(two, same, [uuid("u"), uuid("u")]), Verdict::Renamed);
        assert_eq!(verdict(two, same, [uuid("u"), uuid("v")]), Verdict::Clones);
        assert_eq!(
            verdict(["PC", "PC"], same, [uuid("u"), uuid("v")]),
            Verdict::Clones
        );
        assert_eq!(
            verdict(two, same, [uuid("u"), [None; 3]]),
            Verdict::RenamedOrClones
        );
        assert_eq!(
            verdict(two, same, [ini("s", "h"), ini("s", "h")]),
            Verdict::Renamed
        );
        assert_eq!(
            verdict(two, same, [ini("s", "h"), ini("s", "i")]),
            Verdict::RenamedOrClones
        );
        assert_eq!(
            verdict(two, same, [ini("s", "h"), ini("t", "h")]),
            Verdict::Clones
        );
        // Without the same SID, or without any, hardware alone does not make them one machine.
        for sids in [[sid, Some("s-1-5-21-9-9-9")], [None, None]] {
            let found = verdict(two, sids, [uuid("u"), uuid("u")]);
            assert_ne!(found, Verdict::Renamed, "{sids:?}");
        }
        assert_eq!(
            verdict(["PC", "pc"], same, [uuid("u"), uuid("u")]),
            Verdict::SameMachine
        );
    }

    #[test]
    fn one_value_under_two_names_is_one_id_and_a_short_one_is_not() {
        let guid = "0123456789abcdef0123456789abcdef";
        let all = [image("a", &[("g", guid)]), image("b", &[("h", guid)])];
        assert_eq!(members(&all).len(), 1);
        let all = [image("a", &[("g", "12345")]), image("b", &[("h", "12345")])];
        assert!(members(&all).is_empty());
        for form in [
            "{01234567-89AB-CDEF-0123-456789ABCDEF}",
            "GUID:01234567-89ab-cdef-0123-456789abcdef",
            "01234567-89AB-CDEF-0123-456789ABCDEF",
            "0123456789ABCDEF0123456789ABCDEF",
        ] {
            assert_eq!(normal(form), guid);
        }
    }
}
