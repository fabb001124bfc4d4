//! `declone compare`: which images carry the identity of the same machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Common, CompareArgs, scan};
use crate::{
    error::{Error, Kind, Result},
    plan::tokens::guids_in,
    report::{
        ErrorFacts,
        html::{CloneGroup, Clones, ComparedImage, SharedId},
    },
    rules::Rule,
    text::escape,
};

/// Longest report that is read.
const REPORT_LIMIT: u64 = 1 << 30;

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
    images: Vec<Compared>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Group {
    images: Vec<String>,
    shared: Vec<Shared>,
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

/// One input.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Compared {
    path: String,
    ids: Vec<Id>,
    /// Why it could not be looked at, or not wholly.
    errors: Vec<String>,
    #[serde(skip)]
    exit_code: u8,
}

#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
struct Id {
    identity: String,
    value: String,
    what: String,
}

/// The parts of a finding that a comparison needs, from a report or from a look.
struct Seen<'a> {
    rule: &'a str,
    evidence: &'a str,
    subject: &'a serde_json::Value,
}

pub(super) fn run(
    inputs: &[std::path::PathBuf],
    args: &CompareArgs,
    rules: &[Rule],
) -> Result<Comparison> {
    let mut images = Vec::new();
    for path in inputs {
        images.extend(look(path, &args.common, rules)?);
    }
    let groups = group(&images);
    let worst = images.iter().map(|image| image.exit_code).max();
    Ok(Comparison {
        declone: env!("CARGO_PKG_VERSION"),
        schema: 1,
        exit_code: worst.unwrap_or(0).max(u8::from(!groups.is_empty())),
        redacted: false,
        time: None,
        groups,
        images,
    })
}

impl Comparison {
    /// Every id in it.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.images
            .iter()
            .flat_map(|image| &image.ids)
            .map(|id| id.value.as_str())
    }

    /// For the page.
    pub(super) fn picture(&self) -> Clones {
        let groups = self.groups.iter().map(|group| CloneGroup {
            images: group.images.clone(),
            shared: group
                .shared
                .iter()
                .map(|shared| SharedId {
                    identity: shared.identity.clone(),
                    value: shared.value.clone(),
                    places: shared
                        .places
                        .iter()
                        .map(|place| (place.image.clone(), place.what.clone()))
                        .collect(),
                })
                .collect(),
            remarks: Vec::new(),
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
fn look(path: &Path, common: &Common, rules: &[Rule]) -> Result<Vec<Compared>> {
    match read_report(path)? {
        Some(json) => from_report(path, &json, rules),
        None => {
            let report = scan::run(path, common, rules, false);
            let mut image = Compared {
                path: report.path.clone(),
                errors: report
                    .errors
                    .iter()
                    .map(|e: &ErrorFacts| e.what.clone())
                    .collect(),
                // Findings are what is looked for here: they are no reason for another exit code.
                exit_code: if report.exit_code == 1 {
                    0
                } else {
                    report.exit_code
                },
                ..Compared::default()
            };
            for finding in &report.findings {
                let subject = serde_json::to_value(&finding.subject)
                    .map_err(|e| Error::internal(format!("compare: {e}")))?;
                add(
                    &mut image,
                    rules,
                    &Seen {
                        rule: &finding.rule,
                        evidence: &finding.evidence,
                        subject: &subject,
                    },
                );
            }
            Ok(vec![image])
        }
    }
}

/// A file that begins like JSON is a report; no image begins so.
fn read_report(path: &Path) -> Result<Option<serde_json::Value>> {
    use std::io::Read;
    let shown = escape(&path.display().to_string());
    let fail = |what: String| Error::new(Kind::Malformed, format!("report {shown}: {what}"));
    let Ok(meta) = std::fs::metadata(path) else {
        return Ok(None);
    };
    if !meta.is_file() || meta.len() > REPORT_LIMIT {
        return Ok(None);
    }
    let Ok(mut file) = std::fs::File::open(path) else {
        return Ok(None);
    };
    let mut front = [0; 1];
    if file.read(&mut front).unwrap_or(0) == 0 || front != *b"{" {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(format!("report {shown}"), &e))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| fail(format!("JSON expected: {e}")))
}

fn from_report(path: &Path, json: &serde_json::Value, rules: &[Rule]) -> Result<Vec<Compared>> {
    let shown = escape(&path.display().to_string());
    let images = json["images"].as_array().ok_or_else(|| {
        Error::malformed(format!(
            "report {shown}: a list of images expected, found none"
        ))
    })?;
    if json["redacted"] == true {
        return Err(Error::unsupported(format!(
            "report {shown}: ids expected, found the marks of --redact, which mean nothing outside it"
        ))
        .advise("compare the image itself, or a report made without --redact"));
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(images
        .iter()
        .map(|image| {
            let mut out = Compared {
                path: match text(&image["path"]) {
                    name if name.is_empty() => shown.clone(),
                    // It was escaped when it was written, by whoever wrote the report.
                    name => format!("{} (report {shown})", escape(&name)),
                },
                ..Compared::default()
            };
            for error in image["errors"].as_array().into_iter().flatten() {
                out.errors.push(escape(&text(&error["what"])));
            }
            for finding in image["findings"].as_array().into_iter().flatten() {
                add(
                    &mut out,
                    rules,
                    &Seen {
                        rule: finding["rule"].as_str().unwrap_or_default(),
                        evidence: finding["evidence"].as_str().unwrap_or_default(),
                        subject: &finding["subject"],
                    },
                );
            }
            out
        })
        .collect())
}

/// The ids in a finding of a rule that identifies a machine.
fn add(image: &mut Compared, rules: &[Rule], seen: &Seen<'_>) {
    let rule = rules.iter().find(|rule| rule.id == seen.rule);
    let Some(identity) = rule.and_then(|rule| rule.identity.as_deref()) else {
        return;
    };
    let part = |name: &str| escape(seen.subject[name].as_str().unwrap_or_default());
    let what = match seen.subject["kind"].as_str() {
        Some("value") => format!("{}: {}, value {}", part("hive"), part("key"), part("value")),
        Some("key") => format!("{}: {}", part("hive"), part("key")),
        _ => part("path"),
    };
    for value in guids_in(seen.evidence) {
        let id = Id {
            identity: identity.to_owned(),
            value,
            what: what.clone(),
        };
        if !image.ids.contains(&id) {
            image.ids.push(id);
        }
    }
}

/// Images that share ids, directly or through others.
fn group(images: &[Compared]) -> Vec<Group> {
    let mut owners: BTreeMap<(&str, &str), BTreeSet<usize>> = BTreeMap::new();
    for (number, image) in images.iter().enumerate() {
        for id in &image.ids {
            let key = (id.identity.as_str(), id.value.as_str());
            owners.entry(key).or_default().insert(number);
        }
    }
    owners.retain(|_, of| of.len() > 1);
    let mut head: Vec<usize> = (0..images.len()).collect();
    let find = |head: &[usize], mut at: usize| {
        while head[at] != at {
            at = head[at];
        }
        at
    };
    for of in owners.values() {
        let mut of = of.iter();
        let Some(first) = of.next() else { continue };
        for number in of {
            // Both anew: the head of the first may just have changed.
            let (one, other) = (find(&head, *first), find(&head, *number));
            head[one.max(other)] = one.min(other);
        }
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for ((identity, value), of) in &owners {
        let root = of.iter().next().map_or(0, |number| find(&head, *number));
        let group = groups.entry(root).or_insert_with(|| Group {
            images: Vec::new(),
            shared: Vec::new(),
        });
        let places = of.iter().flat_map(|number| {
            let image = &images[*number];
            let same = move |id: &&Id| id.identity == *identity && id.value == *value;
            image.ids.iter().filter(same).map(|id| Place {
                image: image.path.clone(),
                what: id.what.clone(),
            })
        });
        group.shared.push(Shared {
            identity: (*identity).to_owned(),
            value: (*value).to_owned(),
            places: places.collect(),
        });
    }
    for (number, image) in images.iter().enumerate() {
        if let Some(group) = groups.get_mut(&find(&head, number)) {
            group.images.push(image.path.clone());
        }
    }
    groups.into_values().collect()
}

/// For a person.
pub(super) fn text(all: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |text: String| writeln!(out, "{text}").unwrap_or(());
    for (number, group) in all.groups.iter().enumerate() {
        line(format!(
            "Group {}: {} images of one machine",
            number + 1,
            group.images.len()
        ));
        for image in &group.images {
            line(format!("  {image}"));
        }
        for shared in &group.shared {
            line(format!("  the same {}: {}", shared.identity, shared.value));
            for place in &shared.places {
                line(format!("    {} in {}", place.what, place.image));
            }
        }
        line(String::new());
    }
    let alone = all.images.iter().filter(|image| {
        let grouped = all
            .groups
            .iter()
            .any(|group| group.images.contains(&image.path));
        !grouped && image.errors.is_empty()
    });
    for image in alone {
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
    line(match all.groups.len() {
        0 => format!(
            "No two of {} images share an id that was looked for.",
            all.images.len()
        ),
        1 => "1 group of images carries the identity of one machine.".to_owned(),
        n => format!("{n} groups of images carry the identity of one machine each."),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str, ids: &[(&str, &str)]) -> Compared {
        Compared {
            path: path.to_owned(),
            ids: ids
                .iter()
                .map(|(identity, value)| Id {
                    identity: (*identity).to_owned(),
                    value: (*value).to_owned(),
                    what: "x".to_owned(),
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
}
