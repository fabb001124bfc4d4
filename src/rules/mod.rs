//! What identifies a machine: data, and the one loader for it.
//!
//! In: TOML text, embedded or the user's. Out: [`Rule`]s that were checked.
//! Knows: error, text. Facts from: the Microsoft articles each rule names.
//! Never: looks at an image, opens a file, matches by pattern.
//!
//! # Why
//! - **Data, not code**: what to remove is a claim about the world and carries its source; a reader
//!   checks it without reading Rust. The embedded rules go through the loader that reads a user's
//!   file, so a check cannot be forgotten for one of them, and a test loads them all.
//! - **No wildcards**: a rule names exactly what it removes. `AbExprtDB` has a neighbour called
//!   `Preferred AbExprtDB` that must survive; a pattern that is one character too wide is a
//!   destroyed image, and nobody sees it in a review.
//! - **Confidence decides**: only what a primary source demands (confidence A) is removed; a rule
//!   from hearsay may say `delete` and still only reports ([`Rule::effective_action`]).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

/// The rule files that ship with declone, with the names used in messages.
const EMBEDDED: &[(&str, &str)] = &[
    ("sms.toml", include_str!("sms.toml")),
    ("machine.toml", include_str!("machine.toml")),
];

/// Stands for the root of SOFTWARE and for its 32-bit view.
const SOFTWARE_ROOTS: &str = "{SW}";

/// A rule file is written by hand; anything longer is not a rule file.
const MAX_FILE_LEN: usize = 1 << 20;
/// Every rule is looked for in every install of every image; a thousand is far beyond any catalogue.
const MAX_RULES: usize = 1024;
/// Longest free text of a rule; it goes into reports.
const MAX_TEXT_LEN: usize = 2000;
/// Windows: a key name has at most 255 characters, a file name 255 UTF-16 units.
const MAX_NAME_UNITS: usize = 255;
/// Windows: a value name has at most 16,383 characters.
const MAX_VALUE_UNITS: usize = 16_383;
/// Windows: a registry tree has at most 512 levels.
const MAX_KEY_DEPTH: usize = 512;
/// A rule that empties a key must name it this far below the root: `{SW}\Microsoft` is a typing
/// error, not a rule.
const MIN_SUBKEYS_DEPTH: usize = 3;

/// A registry hive of a Windows installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiveName {
    /// HKLM\SOFTWARE.
    Software,
    /// HKLM\SYSTEM.
    System,
    /// HKLM\SAM.
    Sam,
    /// HKLM\SECURITY.
    Security,
    /// HKU\.DEFAULT.
    Default,
}

impl HiveName {
    /// The file's name in `System32\config`.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Software => "SOFTWARE",
            Self::System => "SYSTEM",
            Self::Sam => "SAM",
            Self::Security => "SECURITY",
            Self::Default => "DEFAULT",
        }
    }
}

/// What a rule wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Remove it.
    Delete,
    /// Say that it is there.
    Report,
}

/// How well a rule is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Confidence {
    /// A primary document, or an own measurement.
    A,
    /// Several independent tools or scripts agree.
    B,
    /// General knowledge.
    C,
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Target {
    /// One value of a key, whatever its type; the key stays.
    Value {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
        /// The value's name.
        value: String,
    },
    /// Everything below a key; the key and its own values stay.
    Subkeys {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
    },
    /// Every file of this name, in any directory of any volume, in any case.
    FileAnywhere {
        /// The file's name.
        name: String,
    },
    /// A file of this name in a volume's root, in any case.
    FileAtRoot {
        /// The file's name.
        name: String,
    },
}

impl Target {
    /// The keys meant, as names from the hive's root: `{SW}` gives the root of SOFTWARE and its
    /// `Wow6432Node` view. Empty for a file.
    #[must_use]
    pub fn key_paths(&self) -> Vec<Vec<String>> {
        let (Self::Value { key, .. } | Self::Subkeys { key, .. }) = self else {
            return Vec::new();
        };
        match key.split_first() {
            Some((first, rest)) if first == SOFTWARE_ROOTS => {
                let mut narrow = vec!["Wow6432Node".to_owned()];
                narrow.extend_from_slice(rest);
                vec![rest.to_vec(), narrow]
            }
            _ => vec![key.clone()],
        }
    }

    /// The hive, for a registry target.
    #[must_use]
    pub const fn hive(&self) -> Option<HiveName> {
        match self {
            Self::Value { hive, .. } | Self::Subkeys { hive, .. } => Some(*hive),
            Self::FileAnywhere { .. } | Self::FileAtRoot { .. } => None,
        }
    }

    /// The file's name, for a file target.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::FileAnywhere { name } | Self::FileAtRoot { name } => Some(name),
            Self::Value { .. } | Self::Subkeys { .. } => None,
        }
    }
}

/// One thing that identifies a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A stable short name: `sms.uid`.
    pub id: String,
    /// The set it belongs to: `sms`.
    pub profile: String,
    /// What it is, in a few words.
    pub title: String,
    /// The article's step, in our words: what a person ticks off.
    pub step: String,
    /// What it is about.
    pub target: Target,
    /// What it wants done; see [`Rule::effective_action`].
    pub action: Action,
    /// How well it is supported.
    pub confidence: Confidence,
    /// Documents that say so.
    pub sources: Vec<String>,
    /// Why it matters.
    pub rationale: String,
    /// The id that the GUIDs in it are: images that share one carry the identity of one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl Rule {
    /// What is done: only a rule of confidence A deletes, everything else reports.
    #[must_use]
    pub fn effective_action(&self) -> Action {
        match (self.action, self.confidence) {
            (Action::Delete, Confidence::A) => Action::Delete,
            _ => Action::Report,
        }
    }
}

/// All rules that ship with declone.
pub fn embedded() -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for (origin, toml) in EMBEDDED {
        all.extend(load(toml, origin)?);
    }
    check_ids(&all, "embedded rules")?;
    Ok(all)
}

/// Reads the rules of one file; `origin` is its name for messages.
pub fn load(toml: &str, origin: &str) -> Result<Vec<Rule>> {
    let origin = escape(origin);
    if toml.len() > MAX_FILE_LEN {
        return Err(Error::limit(format!(
            "rules {origin}: at most {MAX_FILE_LEN} bytes expected, found {}",
            toml.len()
        )));
    }
    let file: RuleFile = toml::from_str(toml).map_err(|error| {
        let line = error.span().map_or_else(String::new, |span| {
            let before = toml.bytes().take(span.start);
            format!(
                " line {}:",
                1 + before.filter(|byte| *byte == b'\n').count()
            )
        });
        Error::malformed(format!("rules {origin}:{line} {}", escape(error.message())))
    })?;
    if file.rule.len() > MAX_RULES {
        return Err(Error::limit(format!(
            "rules {origin}: at most {MAX_RULES} rules expected, found {}",
            file.rule.len()
        )));
    }
    let mut rules = Vec::with_capacity(file.rule.len());
    for (index, table) in file.rule.into_iter().enumerate() {
        // The name for messages is taken before anything is checked: a broken rule is named too.
        let name = match table.get("id").and_then(toml::Value::as_str) {
            Some(id) => format!("`{}`", escape(id)),
            None => format!("number {}", index + 1),
        };
        let wrong = |what: String| Error::malformed(format!("rules {origin}: rule {name}: {what}"));
        let rule: Rule = toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| wrong(escape(error.message())))?;
        check(&rule).map_err(wrong)?;
        rules.push(rule);
    }
    if rules.is_empty() {
        return Err(Error::malformed(format!(
            "rules {origin}: at least one [[rule]] expected, found none"
        )));
    }
    check_ids(&rules, &origin)?;
    Ok(rules)
}

/// The embedded rules of these profiles.
pub fn select(sets: &[String]) -> Result<Vec<Rule>> {
    let all = embedded()?;
    let known: BTreeSet<&str> = all.iter().map(|rule| rule.profile.as_str()).collect();
    if let Some(stranger) = sets.iter().find(|set| !known.contains(set.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err(Error::new(
            Kind::Usage,
            format!(
                "--rules: the name of a rule set expected, found `{}`",
                escape(stranger)
            ),
        )
        .advise(format!("known sets: {}", known.join(", "))));
    }
    if sets.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "--rules: at least one rule set expected, found none",
        ));
    }
    Ok(all
        .into_iter()
        .filter(|rule| sets.contains(&rule.profile))
        .collect())
}

/// A rule file: nothing but rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<toml::Table>,
}

fn check_ids(rules: &[Rule], origin: &str) -> Result<()> {
    let mut seen = BTreeSet::new();
    match rules.iter().find(|rule| !seen.insert(&rule.id)) {
        Some(twice) => Err(Error::malformed(format!(
            "rules {origin}: rule `{}`: id: a name used once expected, found it twice",
            twice.id
        ))),
        None => Ok(()),
    }
}

/// What a type cannot say; the message names the field.
fn check(rule: &Rule) -> std::result::Result<(), String> {
    check_word("id", &rule.id)?;
    check_word("profile", &rule.profile)?;
    for (field, text) in [
        ("title", &rule.title),
        ("step", &rule.step),
        ("rationale", &rule.rationale),
    ] {
        check_text(field, text)?;
    }
    if let Some(identity) = &rule.identity {
        check_text("identity", identity)?;
    }
    if rule.sources.is_empty() {
        return Err("sources: at least one document expected, found none".to_owned());
    }
    for source in &rule.sources {
        check_text("sources", source)?;
    }
    match &rule.target {
        Target::Value { hive, key, value } => {
            check_key(*hive, key)?;
            check_name("target.value", value, MAX_VALUE_UNITS)
        }
        Target::Subkeys { hive, key } => {
            check_key(*hive, key)?;
            if key.len() < MIN_SUBKEYS_DEPTH {
                return Err(format!(
                    "target.key: at least {MIN_SUBKEYS_DEPTH} names expected for a key that is \
                     emptied, found {}",
                    key.len()
                ));
            }
            Ok(())
        }
        Target::FileAnywhere { name } | Target::FileAtRoot { name } => {
            check_name("target.name", name, MAX_NAME_UNITS)?;
            if name.starts_with('$') {
                return Err(format!(
                    "target.name: a file's name expected, found `{}`, a name of the file system",
                    escape(name)
                ));
            }
            Ok(())
        }
    }
}

fn check_word(field: &str, word: &str) -> std::result::Result<(), String> {
    let fits = (1..=64).contains(&word.len())
        && word
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'));
    if fits {
        return Ok(());
    }
    Err(format!(
        "{field}: 1 to 64 of a-z, 0-9, `.` and `-` expected, found `{}`",
        escape(word)
    ))
}

fn check_text(field: &str, text: &str) -> std::result::Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("{field}: text expected, found none"));
    }
    if text.len() > MAX_TEXT_LEN {
        return Err(format!(
            "{field}: at most {MAX_TEXT_LEN} bytes expected, found {}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(format!(
            "{field}: one line of text expected, found control characters"
        ));
    }
    Ok(())
}

fn check_key(hive: HiveName, key: &[String]) -> std::result::Result<(), String> {
    let rooted = key.first().is_some_and(|first| first == SOFTWARE_ROOTS);
    if rooted && hive != HiveName::Software {
        return Err(format!(
            "target.key: {SOFTWARE_ROOTS} is expected with hive software only, found {}",
            hive.file_name()
        ));
    }
    let names = if rooted { &key[1..] } else { key };
    if names.is_empty() {
        return Err("target.key: names of keys below the root expected, found none".to_owned());
    }
    if names.len() > MAX_KEY_DEPTH {
        return Err(format!(
            "target.key: at most {MAX_KEY_DEPTH} names expected, found {}",
            names.len()
        ));
    }
    names
        .iter()
        .try_for_each(|name| check_name("target.key", name, MAX_NAME_UNITS))
}

/// Exactly one name: no path, no pattern, no placeholder.
fn check_name(field: &str, name: &str, max_units: usize) -> std::result::Result<(), String> {
    let found = if name.is_empty() {
        "an empty name"
    } else if name == "." || name == ".." {
        "a directory reference"
    } else if name.contains(['*', '?']) {
        "a wildcard"
    } else if name.contains(['\\', '/']) {
        "a path separator"
    } else if name.contains(['{', '}']) {
        // Keys named by a GUID are real, but `{CS}` typed for a rule of another version must not
        // silently find nothing.
        match is_braced_guid(name) {
            true => "",
            false => "an unknown placeholder",
        }
    } else if name.chars().any(char::is_control) {
        "a control character"
    } else if name.encode_utf16().count() > max_units {
        "a longer name than Windows allows"
    } else {
        ""
    };
    if found.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{field}: exactly one name expected, found {found}: `{}`",
        escape(&name.chars().take(80).collect::<String>())
    ))
}

fn is_braced_guid(name: &str) -> bool {
    name.len() == 38
        && name.bytes().enumerate().all(|(i, byte)| match i {
            0 => byte == b'{',
            37 => byte == b'}',
            9 | 14 | 19 | 24 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[rule]]
id = "x.one"
profile = "x"
title = "One"
step = "Remove it."
action = "delete"
confidence = "A"
sources = ["a document"]
rationale = "Because."
target = { kind = "file-anywhere", name = "one.dat" }
"#;

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        let error = load(&GOOD.replace(from, to), "mine.toml").expect_err(to);
        assert_eq!(error.kind(), Kind::Malformed, "{error}");
        error.to_string()
    }

    fn sms() -> Vec<Rule> {
        select(&["sms".to_owned()]).unwrap()
    }

    #[test]
    fn every_embedded_rule_loads() {
        let all = embedded().unwrap();
        assert!(all.iter().any(|rule| rule.profile == "sms"));
        for rule in &all {
            let known = ["machine", "sms"];
            assert!(known.contains(&rule.profile.as_str()), "{}", rule.id);
        }
    }

    #[test]
    fn the_default_profile_is_what_the_articles_remove() {
        let deletes: Vec<_> = sms()
            .into_iter()
            .filter(|rule| rule.effective_action() == Action::Delete)
            .map(|rule| (rule.target, rule.sources[0].clone()))
            .collect();
        let key = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let properties = [
            "{SW}",
            "Microsoft",
            "SMS",
            "Client",
            "Configuration",
            "Client Properties",
        ];
        let file = |name: &str| Target::FileAnywhere {
            name: name.to_owned(),
        };
        let want = [
            Target::Value {
                hive: HiveName::Software,
                key: key(&properties),
                value: "SMS Unique Identifier".to_owned(),
            },
            Target::Subkeys {
                hive: HiveName::Software,
                key: key(&["{SW}", "Microsoft", "NAL", "Client", "AbExprtDB"]),
            },
            file("Smsuid.dat"),
            file("Smscfg.ini"),
            file("Sms1x.ini"),
        ];
        assert_eq!(deletes, want.map(|target| (target, "KB 828367".to_owned())));
    }

    #[test]
    fn the_ini_of_sms_1_is_only_reported_and_only_at_a_root() {
        let rules = sms();
        let rule = rules.iter().find(|rule| rule.id == "sms.ini").unwrap();
        assert_eq!(rule.effective_action(), Action::Report);
        assert_eq!(
            rule.target,
            Target::FileAtRoot {
                name: "Sms.ini".to_owned()
            }
        );
        assert_eq!(rules.len(), 6);
    }

    #[test]
    fn software_keys_are_looked_for_in_both_views() {
        let rules = sms();
        let paths = rules[1].target.key_paths();
        let joined: Vec<_> = paths.iter().map(|path| path.join("\\")).collect();
        assert_eq!(
            joined,
            [
                r"Microsoft\NAL\Client\AbExprtDB",
                r"Wow6432Node\Microsoft\NAL\Client\AbExprtDB"
            ]
        );
        assert!(rules[2].target.key_paths().is_empty());
    }

    #[test]
    fn hearsay_never_deletes() {
        let rules = load(&GOOD.replace("\"A\"", "\"B\""), "x").unwrap();
        assert_eq!(rules[0].action, Action::Delete);
        assert_eq!(rules[0].effective_action(), Action::Report);
    }

    #[test]
    fn a_broken_rule_is_refused_by_name_and_field() {
        let unknown = refusal("rationale", "sauce = 1\nrationale");
        assert!(
            unknown.contains("rules mine.toml: rule `x.one`: "),
            "{unknown}"
        );
        assert!(unknown.contains("`sauce`"), "{unknown}");
        assert!(refusal("name = \"one.dat\"", "name = \"a\", key = []").contains("`key`"));
        assert!(refusal("title = \"One\"\n", "").contains("`title`"));
        assert!(refusal("id = \"x.one\"\n", "").contains("rule number 1: "));
        assert!(refusal("\"delete\"", "\"wipe\"").contains("`wipe`"));
        assert!(refusal("\"A\"", "\"D\"").contains("`D`"));
        assert!(refusal("file-anywhere", "file-somewhere").contains("`file-somewhere`"));
        assert!(refusal("[\"a document\"]", "[]").contains("sources: at least one"));
        assert!(refusal("Remove it.", " ").contains("step: text"));
        assert!(refusal("x.one", "X one").contains("id: 1 to 64"));
        assert!(refusal("Because.", "a\\nb").contains("rationale: one line"));
        assert!(refusal("[[rule]]", "[[rules]]").contains("`rules`"));
        assert!(refusal("title = \"One\"", "title = One").contains("line 5:"));
    }

    #[test]
    fn a_name_is_one_name() {
        for (name, found) in [
            ("*.dat", "a wildcard"),
            ("one.da?", "a wildcard"),
            ("dir\\\\one.dat", "a path separator"),
            ("dir/one.dat", "a path separator"),
            ("", "an empty name"),
            ("..", "a directory reference"),
            ("{CS}", "an unknown placeholder"),
            ("a\\u0000b", "a control character"),
            ("$MFT", "a name of the file system"),
        ] {
            let text = refusal("one.dat", name);
            assert!(text.contains("target.name: "), "{text}");
            assert!(text.contains(found), "{text}");
        }
        assert!(refusal("one.dat", &"a".repeat(256)).contains("longer name"));
    }

    #[test]
    fn a_key_is_a_list_of_names_below_the_root() {
        let with = |target: &str| {
            let old = "{ kind = \"file-anywhere\", name = \"one.dat\" }";
            load(&GOOD.replace(old, target), "x")
        };
        let refused = |target: &str, why: &str| {
            let text = with(target).expect_err(target).to_string();
            assert!(text.contains(why), "{text}");
        };
        let subkeys = |hive: &str, key: &str| {
            format!("{{ kind = \"subkeys\", hive = \"{hive}\", key = {key} }}")
        };
        refused(
            &subkeys("system", r#"["{SW}", "a", "b"]"#),
            "hive software only",
        );
        refused(&subkeys("software", r#"["{SW}"]"#), "below the root");
        refused(&subkeys("software", "[]"), "below the root");
        refused(
            &subkeys("software", r#"["{SW}", "Microsoft"]"#),
            "that is emptied",
        );
        refused(&subkeys("software", r#"["a", "{SW}", "b"]"#), "placeholder");
        refused(
            &subkeys("software", r#"["a\\b", "c", "d"]"#),
            "path separator",
        );
        refused(&subkeys("software", r#"["a", "b*", "d"]"#), "wildcard");
        refused(&subkeys("hardware", r#"["a", "b", "d"]"#), "`hardware`");
        let guid = r#"["a", "{9b03c1d9-3138-44ed-9fae-d9f4c034b88d}", "d"]"#;
        assert!(with(&subkeys("system", guid)).is_ok());
    }

    #[test]
    fn an_id_is_used_once() {
        let error = load(&GOOD.repeat(2), "x").unwrap_err().to_string();
        assert!(error.contains("rule `x.one`: id: "), "{error}");
    }

    #[test]
    fn limits_are_limits() {
        let long = load(&" ".repeat(MAX_FILE_LEN + 1), "x").unwrap_err();
        assert_eq!(long.kind(), Kind::Limit);
        let many = load(&GOOD.repeat(MAX_RULES + 1), "x").unwrap_err();
        assert_eq!(many.kind(), Kind::Limit);
        assert!(load("", "x").is_err());
    }

    #[test]
    fn an_unknown_set_names_the_known_ones() {
        let error = select(&["sms".to_owned(), "smss\u{1b}".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        let text = error.to_string();
        assert!(
            text.contains("`smss\\u{1b}`") && text.contains("known sets: machine, sms"),
            "{text}"
        );
        assert_eq!(select(&[]).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_rule_survives_json() {
        for rule in embedded().unwrap() {
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
        }
    }
}
