//! The lines of evidence that the rules data names.

use crate::{
    rules::{HiveName, Rule, Target, is_guid},
    windows::{
        generalization::{Evidence, line, some_names},
        machine::control_set,
        registry::Registry,
    },
};

/// Stands for every control set in rules; evidence is of the one that Windows last ran with.
const CONTROL_SETS: &str = "{CS}";
/// Stands for every key named by a GUID.
const ANY_GUID: &str = "{GUID}";
/// Most keys that `{GUID}` stands for.
const MAX_KEYS: usize = 64;

/// What one hive holds of what the rules call evidence: a line a rule.
pub(super) fn of_hive(rules: &[Rule], name: HiveName, hive: &Registry<'_>) -> Vec<Evidence> {
    let about = |rule: &&Rule| rule.evidence.is_some() && rule.target.hive() == Some(name);
    rules
        .iter()
        .filter(about)
        .filter_map(|rule| of_rule(rule, hive))
        .collect()
}

fn of_rule(rule: &Rule, hive: &Registry<'_>) -> Option<Evidence> {
    let mut keys: Vec<String> = rule
        .target
        .key_paths()
        .iter()
        .map(|path| path.join("\\"))
        .collect();
    if keys.iter().any(|key| key.contains(CONTROL_SETS)) {
        let set = control_set(hive).unwrap_or_else(|| "ControlSet001".to_owned());
        keys = keys.iter().map(|k| k.replace(CONTROL_SETS, &set)).collect();
    }
    let found = keys.iter().find_map(|key| look(rule, hive, key));
    let (source, value) = match found {
        Some((source, value)) => (source, Some(value)),
        None => {
            let key = keys.first()?.replace(&format!("\\{ANY_GUID}"), "");
            (hive.source(&key, rule.target.values().next()), None)
        }
    };
    let meaning = format!("{}: {}", rule.title, rule.rationale);
    let mut out = line(rule.evidence.clone()?, source, value, meaning);
    out.rule = Some(rule.id.clone());
    Some(out)
}

fn look(
    rule: &Rule,
    hive: &Registry<'_>,
    key: &str,
) -> Option<(crate::windows::machine::Source, String)> {
    if let Some((above, below)) = key.split_once(&format!("\\{ANY_GUID}")) {
        let mut names = hive.subkeys(above);
        names.retain(|name| is_guid(name));
        names.truncate(MAX_KEYS);
        names.retain(|name| look(rule, hive, &format!("{above}\\{name}{below}")).is_some());
        return Some((hive.source(above, None), some_names(&names)?));
    }
    match &rule.target {
        Target::Value { value, .. } => {
            let found = hive.value(key, value)?;
            let shown = found.show();
            Some((found.source, shown))
        }
        Target::Key { .. } | Target::Subkeys { .. } | Target::Certificates { .. } => {
            let value = match some_names(&hive.subkeys(key)) {
                Some(names) => names,
                None => match hive.values(key).len() {
                    0 => return None,
                    1 => "1 value".to_owned(),
                    n => format!("{n} values"),
                },
            };
            Some((hive.source(key, None), value))
        }
        _ => None,
    }
}

/// Tells of which rules the other lines speak.
pub(super) fn name_rules(rules: &[Rule], lines: &mut [Evidence]) {
    for line in lines.iter_mut().filter(|line| line.rule.is_none()) {
        let same = |rule: &&Rule| rule.evidence.as_deref() == Some(&line.id);
        line.rule = rules.iter().find(same).map(|rule| rule.id.clone());
    }
}
