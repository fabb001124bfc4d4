//! Ids that the run's rules leave and those of another set would remove.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Finding, Plan};
use crate::{
    error::Result,
    rules::{self, Action, Rule},
};

/// What another set would remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OtherIds {
    /// The set: what to give to `--rules`.
    pub set: String,
    /// How many ids it would remove.
    pub count: usize,
    /// Its rules that would.
    pub rules: Vec<String>,
}

impl Plan {
    /// The ids that no rule of the run removes, by the set that would: as few sets as do.
    pub fn other_ids(&self) -> Result<Vec<OtherIds>> {
        let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for volume in &self.volumes {
            let goes = |other: &Finding| {
                let mut own = volume.findings.iter();
                own.any(|own| own.action == Action::Delete && own.subject == other.subject)
            };
            for finding in volume.watched.iter().filter(|finding| !goes(finding)) {
                let ids = found.entry(&finding.rule).or_default();
                match finding.ids.as_slice() {
                    [] => {
                        ids.insert(format!("{} {:?}", finding.partition, finding.subject));
                    }
                    some => ids.extend(
                        some.iter()
                            .map(|id| format!("{}={}", id.identity, id.value)),
                    ),
                }
            }
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let all = rules::embedded()?;
        let mut out = Vec::new();
        while !found.is_empty() {
            let covers = |set: &str| -> Vec<&Rule> {
                let mut rules: Vec<&Rule> = all.iter().filter(|rule| rule.is_in(set)).collect();
                rules.retain(|rule| found.contains_key(rule.id.as_str()));
                rules
            };
            let sets: BTreeSet<&str> = all
                .iter()
                .flat_map(|rule| rule.also_in.iter().chain([&rule.profile]))
                .map(String::as_str)
                .collect();
            let size = |set: &str| all.iter().filter(|rule| rule.is_in(set)).count();
            let best = sets
                .into_iter()
                .max_by_key(|set| (covers(set).len(), size(set)))
                .filter(|set| !covers(set).is_empty());
            let Some(set) = best else { break };
            let rules: Vec<String> = covers(set).iter().map(|rule| rule.id.clone()).collect();
            let mut ids = BTreeSet::new();
            for rule in &rules {
                ids.extend(found.remove(rule.as_str()).unwrap_or_default());
            }
            out.push(OtherIds {
                set: set.to_owned(),
                count: ids.len(),
                rules,
            });
        }
        Ok(out)
    }
}
