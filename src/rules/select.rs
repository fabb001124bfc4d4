//! Which rules a run uses: sets, single rules, files.

use std::collections::BTreeSet;

use super::{Action, Rule, load};
use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

/// The rule files that ship with declone, with the names used in messages.
const EMBEDDED: &[(&str, &str)] = &[
    ("sms.toml", include_str!("sms.toml")),
    ("ccm.toml", include_str!("ccm.toml")),
    ("machine.toml", include_str!("machine.toml")),
    ("audit.toml", include_str!("audit.toml")),
    ("agents.toml", include_str!("agents.toml")),
];

/// The set of all rules that ship with declone.
pub const ALL: &str = "all";

/// All rules that ship with declone.
pub fn embedded() -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for (origin, toml) in EMBEDDED {
        all.extend(load(toml, origin)?);
    }
    check_ids(&all)?;
    Ok(all)
}

/// The embedded rules of these sets, and those of these ids: they are asked for by name.
pub fn select(names: &[String]) -> Result<Vec<Rule>> {
    combine(names, Vec::new())
}

/// As [`select`], and `others`, the rules of files. A name may be the id of one of those.
pub fn combine(names: &[String], mut others: Vec<Rule>) -> Result<Vec<Rule>> {
    if names.is_empty() && others.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "--rules: at least one rule set expected, found none",
        ));
    }
    let mut own = embedded()?;
    let sets: BTreeSet<&str> = own
        .iter()
        .flat_map(|rule| rule.also_in.iter().chain([&rule.profile]))
        .map(String::as_str)
        .collect();
    let is_known = |name: &str| {
        name == ALL || sets.contains(name) || own.iter().chain(&others).any(|rule| rule.id == name)
    };
    if let Some(stranger) = names.iter().find(|name| !is_known(name)) {
        let known: Vec<&str> = sets.into_iter().collect();
        return Err(Error::new(
            Kind::Usage,
            format!(
                "--rules: the name of a rule set, or the id of a rule, expected, found `{}`",
                escape(stranger)
            ),
        )
        .advise(format!(
            "known sets: {}, {ALL}; declone rules list shows the ids",
            known.join(", ")
        )));
    }
    for rule in own.iter_mut().chain(&mut others) {
        rule.named = names.contains(&rule.id);
    }
    own.retain(|rule| rule.named || names.iter().any(|name| name == ALL || rule.is_in(name)));
    own.append(&mut others);
    check_ids(&own)?;
    Ok(own)
}

/// The rules that are not among these and would remove an id of a machine with their set: they are looked
/// for and remove nothing.
pub fn others_than(rules: &[Rule]) -> Result<Vec<Rule>> {
    let mut others = embedded()?;
    others.retain(|rule| {
        rule.identity.is_some()
            && rule.effective_action() == Action::Delete
            && rules.iter().all(|chosen| chosen.id != rule.id)
    });
    for rule in &mut others {
        rule.watched = true;
    }
    Ok(others)
}

fn check_ids(rules: &[Rule]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match rules.iter().find(|rule| !seen.insert(&rule.id)) {
        Some(twice) => Err(Error::malformed(format!(
            "rules: rule `{}`: id: a name used once expected, found it twice",
            twice.id
        ))
        .advise("rename the rule in your file")),
        None => Ok(()),
    }
}
