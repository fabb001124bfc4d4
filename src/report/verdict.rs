//! What may be said of an image: three lists, what the user takes into account, and one word.
//!
//! *Removed*, *left* and *not looked at* are never merged. "Clean" needs the last two to be empty, or
//! accepted by the user class by class.

use sha2::{Digest, Sha256};

use super::{ErrorFacts, ImageReport};
use crate::{
    error::{Error, Kind},
    plan::{Left, LeftClass, machines::MachineFacts},
    rules::{Action, Rule},
    tree::UnseenClass,
    verify::residue::{Residue, Where},
};

/// What the user takes into account.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Classes of what was not looked at.
    pub unseen: Vec<UnseenClass>,
    /// Classes of what is left.
    pub left: Vec<LeftClass>,
    /// An image without Windows is no mistake: a data disk.
    pub no_windows: bool,
    /// What an image must be, whatever the rules say.
    pub require: Vec<Requirement>,
}

/// What a user wants to be sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Every Windows installation was prepared with Sysprep.
    Generalized,
    /// No installation belongs to a domain.
    Workgroup,
    /// Every byte was searched, and nothing of an identity was found.
    NoTraces,
    /// Nothing was passed over.
    AllRead,
}

/// Most traces listed in one image; the rest is counted in the last one.
const MAX_LEFT: usize = 1000;

impl ImageReport {
    /// Lists what the search found and what is only reported, and marks what the user takes into account.
    pub fn list_left(&mut self, terms: &Terms, rules: &[Rule]) {
        let mut all: Vec<Left> = std::mem::take(&mut self.left);
        for residue in self.residues.iter().filter(|residue| residue.is_identity()) {
            add(&mut all, trace(residue));
        }
        for finding in &self.findings {
            let rule = rules.iter().find(|rule| rule.id == finding.rule);
            if finding.action != Action::Delete && rule.is_some() {
                let remedy = match rule.map(|rule| rule.action) {
                    Some(Action::Delete | Action::DeleteIfNamed) => format!(
                        "it is removed if the rule is asked for by its id: --rules {}",
                        finding.rule
                    ),
                    _ => "look yourself; no rule removes it".to_owned(),
                };
                add(
                    &mut all,
                    Left {
                        class: LeftClass::Reported,
                        what: format!("{} ({})", finding.title, finding.rule),
                        owner: finding.subject.path().to_owned(),
                        image_offset: None,
                        count: 1,
                        remedy,
                        accepted: false,
                    },
                );
            }
        }
        for left in &mut all {
            left.accepted |= terms.left.contains(&left.class);
        }
        all.sort_by_key(|left| (left.accepted, left.class));
        self.left = all;
        for unseen in &mut self.not_scanned {
            unseen.accepted |= terms.unseen.contains(&unseen.class);
        }
        self.accepted = terms
            .unseen
            .iter()
            .map(|class| class.name().to_owned())
            .chain(terms.left.iter().map(|class| class.name().to_owned()))
            .collect();
    }

    /// Names the rules that the verdict speaks of.
    pub fn name_rules(&mut self, rules: &[Rule]) {
        self.rules = rules.iter().map(|rule| rule.id.clone()).collect();
        self.rule_sets = rules.iter().map(|rule| rule.profile.clone()).collect();
        self.rule_sets.sort();
        self.rule_sets.dedup();
        self.rules_digest = serde_json::to_vec(rules)
            .ok()
            .map(|bytes| hex::encode(Sha256::digest(bytes)));
    }

    /// How many things are left that the user does not take into account.
    #[must_use]
    pub fn left_count(&self) -> usize {
        self.left.iter().filter(|left| !left.accepted).count()
    }

    /// How many things that could hold the identity were not looked at.
    #[must_use]
    pub fn unseen_count(&self) -> usize {
        let unseen = self.not_scanned.iter();
        unseen.filter(|unseen| unseen.counts()).count()
    }

    /// Whether a Windows installation was found.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        let mut volumes = self.volumes.iter();
        volumes.any(|volume| !volume.installations.is_empty())
    }

    /// The word and the code of a look (`scan`, `verify`). `looked`: whether any volume was read.
    pub fn settle_look(&mut self, terms: &Terms, rules: &[Rule], looked: bool) {
        self.list_left(terms, rules);
        let removable = self.findings.iter().any(|f| f.action == Action::Delete);
        // What an earlier report removed is searched for in any image.
        let searched_for = self.verb == "verify" && self.against;
        (self.result, self.exit_code) = if removable {
            ("findings", 1)
        } else if !looked {
            ("unread", 0)
        } else if self.left_count() > 0 {
            ("findings", 1)
        } else if !self.has_windows() && !terms.no_windows && !searched_for {
            self.add_no_windows();
            ("no_windows", super::NO_WINDOWS)
        } else if self.unseen_count() > 0 {
            ("incomplete", 1)
        } else if !self.other_ids.is_empty() {
            ("clean_other_ids", 0)
        } else {
            ("clean", 0)
        };
        self.require(terms);
    }

    /// The word and the code of a clean that did, or would do, what it was asked.
    pub fn settle_clean(&mut self, terms: &Terms, rules: &[Rule]) {
        self.list_left(terms, rules);
        let open = self.left_count() > 0 || self.unseen_count() > 0;
        if self.result == "clean" && open {
            self.result = "incomplete";
        } else if self.result == "clean" && !self.other_ids.is_empty() {
            self.result = "clean_other_ids";
        }
        self.exit_code = u8::from(open);
    }

    /// There is no Windows, so nothing was checked.
    pub fn add_no_windows(&mut self) {
        let error = Error::new(
            Kind::Unsupported,
            "there is no Windows in it: nothing was checked",
        )
        .advise(
            "for a disk that holds data only, pass --allow-no-windows; images and archives inside it \
             stand under \"Not looked at\"",
        );
        self.errors.push(ErrorFacts::from(&error));
    }

    /// What `--require` asks for and is not so.
    fn require(&mut self, terms: &Terms) {
        for requirement in &terms.require {
            let missing = match requirement {
                Requirement::Generalized => missing_of(&self.machines, "generalized", |machine| {
                    match &machine.generalization {
                        Some(found) if found.status.name() == "generalized" => None,
                        Some(found) => Some(found.status.name().to_owned()),
                        None => Some("unknown".to_owned()),
                    }
                }),
                Requirement::Workgroup => missing_of(&self.machines, "workgroup", |machine| {
                    match &machine.identity {
                        Some(who) if who.domain_sid.is_none() => None,
                        Some(who) => Some(format!(
                            "member of the domain {}",
                            who.domain.as_deref().unwrap_or("?")
                        )),
                        None => Some("unknown".to_owned()),
                    }
                }),
                Requirement::NoTraces if self.searched.is_empty() => {
                    vec!["no-traces: not searched; `declone verify` does".to_owned()]
                }
                Requirement::NoTraces => {
                    let found = self.findings.len();
                    match (found, self.left.len()) {
                        (0, 0) => Vec::new(),
                        (found, left) => {
                            vec![format!("no-traces: {found} findings, {left} left")]
                        }
                    }
                }
                Requirement::AllRead => {
                    let unread = self.not_scanned.iter().filter(|unseen| !unseen.harmless);
                    match unread.count() {
                        0 => Vec::new(),
                        n => vec![format!("all-read: {n} not looked at")],
                    }
                }
            };
            self.missing.extend(missing);
        }
        if !self.missing.is_empty() {
            self.exit_code = self.exit_code.max(1);
            if ["clean", "clean_other_ids"].contains(&self.result) {
                self.result = "requirements";
            }
        }
    }
}

/// The installations that are not what is asked.
fn missing_of(
    machines: &[MachineFacts],
    name: &str,
    what_else: impl Fn(&MachineFacts) -> Option<String>,
) -> Vec<String> {
    if machines.is_empty() {
        return vec![format!("{name}: no Windows installation was found")];
    }
    machines
        .iter()
        .filter_map(|machine| {
            let is = what_else(machine)?;
            Some(format!("{name}: {} is {is}", machine.root))
        })
        .collect()
}

/// Traces of one owner are one line.
fn add(all: &mut Vec<Left>, new: Left) {
    let same = |old: &&mut Left| {
        old.class == new.class && old.owner == new.owner && new.class != LeftClass::Reported
    };
    if let Some(old) = all.iter_mut().find(same) {
        old.count = old.count.saturating_add(new.count);
        old.image_offset = old.image_offset.or(new.image_offset);
    } else if all.len() < MAX_LEFT {
        all.push(new);
    } else if let Some(last) = all.last_mut() {
        last.count = last.count.saturating_add(new.count);
    }
}

fn trace(residue: &Residue) -> Left {
    let (class, remedy) = match residue.place {
        Where::LiveFile => (
            LeftClass::Live,
            "remove the file on the master before the capture, or take it into account (--accept live)",
        ),
        Where::Journal => (
            LeftClass::Journal,
            "delete the journal on the master before the capture, or take it into account (--accept \
             journal)",
        ),
        Where::SystemStore => (
            LeftClass::Store,
            "switch off page file, hibernation and restore points on the master before the capture, or \
             take it into account (--accept store)",
        ),
        Where::FreeCluster | Where::RecordSlack | Where::FileSlack | Where::Unreferenced => (
            LeftClass::Unreferenced,
            "`declone clean` zeroes what it may; take the rest into account (--accept unreferenced)",
        ),
        Where::LeakedCluster => (
            LeftClass::Unreferenced,
            "the volume counts it as in use and no file has it: run chkdsk on the master, then capture it \
             again; or take it into account (--accept unreferenced)",
        ),
        Where::Outside => (
            LeftClass::Unreferenced,
            "no volume that declone reads has this place; take it into account (--accept unreferenced)",
        ),
    };
    // The owner without the place in it: all traces of a file are one line.
    let owner = residue.owner.as_str();
    let end = [", file offset ", ", offset "]
        .iter()
        .filter_map(|mark| owner.rfind(mark))
        .min();
    Left {
        class,
        what: residue.token.clone(),
        owner: owner
            .get(..end.unwrap_or(owner.len()))
            .unwrap_or(owner)
            .to_owned(),
        image_offset: residue.image_offset,
        count: 1,
        remedy: remedy.to_owned(),
        accepted: false,
    }
}
