//! Rule files: TOML in, rules or every problem out, with line and column.

use std::{collections::BTreeSet, fmt, ops::Range};

use serde::Serialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ANY_GUID, Action, CONTROL_SETS, Confidence, HiveName, Rule, SOFTWARE_ROOTS, Target};
use crate::{
    error::{Error, Result},
    text::escape,
};

/// A rule file is written by hand; anything longer is not a rule file.
pub(super) const MAX_FILE_LEN: usize = 1 << 20;
/// Every rule is looked for in every install of every image; a thousand is far beyond any catalogue.
pub(super) const MAX_RULES: usize = 1024;
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
/// One name at the end of a path says nothing about the place; for that there is `file-anywhere`.
const MIN_PATH_DEPTH: usize = 2;
/// The files in which NTFS keeps itself.
const METADATA_NAMES: [&str; 19] = [
    "$MFT",
    "$MFTMirr",
    "$LogFile",
    "$Volume",
    "$AttrDef",
    "$Bitmap",
    "$Boot",
    "$BadClus",
    "$Secure",
    "$UpCase",
    "$Extend",
    "$ObjId",
    "$Quota",
    "$Reparse",
    "$UsnJrnl",
    "$RmMetadata",
    "$Txf",
    "$TxfLog",
    "$Deleted",
];
/// Problems shown of one file.
const MAX_PROBLEMS: usize = 1000;

/// Something wrong with a rule file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The rule, by its id or its number.
    pub rule: Option<String>,
    /// What was expected and found.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if let Some(rule) = &self.rule {
            write!(f, "rule {rule}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Reads the rules of one file; `origin` is its name for messages. The error is the first problem.
pub fn load(toml: &str, origin: &str) -> Result<Vec<Rule>> {
    let origin = escape(origin);
    if toml.len() > MAX_FILE_LEN {
        return Err(Error::limit(format!(
            "rules {origin}: at most {MAX_FILE_LEN} bytes expected, found {}",
            toml.len()
        )));
    }
    let (rules, problems) = check_text(toml);
    if rules.len() > MAX_RULES {
        return Err(Error::limit(format!(
            "rules {origin}: at most {MAX_RULES} rules expected, found {}",
            rules.len()
        )));
    }
    match problems.as_slice() {
        [] => Ok(rules),
        [first, more @ ..] => {
            let error = Error::malformed(format!("rules {origin}:{first}"));
            Err(match more.len() {
                0 => error,
                n => error.advise(format!("declone rules check shows this and {n} more")),
            })
        }
    }
}

/// Reads the rules of one file: those that are right, and every problem of the others.
#[must_use]
pub fn check_text(toml: &str) -> (Vec<Rule>, Vec<Problem>) {
    let mut reader = Reader {
        toml,
        rule: None,
        problems: Vec::new(),
    };
    if toml.len() > MAX_FILE_LEN {
        reader.wrong(
            0..0,
            format!(
                "at most {MAX_FILE_LEN} bytes expected, found {}",
                toml.len()
            ),
        );
        return (Vec::new(), reader.problems);
    }
    let (table, errors) = DeTable::parse_recoverable(toml);
    let spans = errors.iter().filter_map(|error| Some(error.span()?.start));
    let first = spans.min();
    for error in &errors {
        reader.wrong(error.span().unwrap_or(0..0), escape(error.message()));
    }
    let syntax = std::mem::take(&mut reader.problems);
    let rules = reader.file(table.get_ref());
    if let Some(first) = first {
        // From the broken rule on, what was recovered is guesswork; before it nothing is.
        let before = toml.get(..first).unwrap_or_default();
        let broken = before.rfind("[[rule]]").unwrap_or(0);
        let line = 1 + before[..broken]
            .bytes()
            .filter(|byte| *byte == b'\n')
            .count();
        reader.problems.retain(|problem| problem.line < line);
    }
    let rules = if syntax.is_empty() { rules } else { Vec::new() };
    reader.problems.extend(syntax);
    let place = |problem: &Problem| (problem.line, problem.column);
    reader.problems.sort_by_key(place);
    (rules, reader.problems)
}

type Text<'a> = (&'a str, Range<usize>);
type Value<'a, 'i> = (&'a Spanned<DeValue<'i>>, Range<usize>);

struct Reader<'t> {
    toml: &'t str,
    rule: Option<String>,
    problems: Vec<Problem>,
}

/// The fields of a table that were not asked for yet.
struct Fields<'a, 'i> {
    left: Vec<(&'a str, Range<usize>, &'a Spanned<DeValue<'i>>)>,
    at: Range<usize>,
    prefix: &'static str,
}

impl<'a, 'i> Fields<'a, 'i> {
    fn of(table: &'a DeTable<'i>, at: Range<usize>, prefix: &'static str) -> Self {
        let left = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
            .collect();
        Self { left, at, prefix }
    }

    fn take(&mut self, name: &str) -> Option<Value<'a, 'i>> {
        let at = self.left.iter().position(|(key, ..)| *key == name)?;
        let (_, span, value) = self.left.swap_remove(at);
        Some((value, span))
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl Reader<'_> {
    fn wrong(&mut self, at: Range<usize>, what: impl Into<String>) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let before = self.toml.get(..at.start).unwrap_or(self.toml);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.problems.push(Problem {
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
            column: 1 + before[line_start..].chars().count(),
            rule: self.rule.clone(),
            what: what.into(),
        });
    }

    fn file(&mut self, table: &DeTable<'_>) -> Vec<Rule> {
        let mut fields = Fields::of(table, 0..0, "");
        let found = fields.take("rule");
        let strangers = std::mem::take(&mut fields.left);
        if found.is_none() && strangers.is_empty() {
            self.wrong(0..0, "at least one [[rule]] expected, found none");
        }
        for (key, span, _) in strangers {
            self.wrong(span, format!("[[rule]] expected, found `{}`", escape(key)));
        }
        let Some((list, span)) = found else {
            return Vec::new();
        };
        let DeValue::Array(list) = list.get_ref() else {
            let what = kind_of(list.get_ref());
            self.wrong(
                span,
                format!("[[rule]], a list of tables, expected, found {what}"),
            );
            return Vec::new();
        };
        if list.is_empty() {
            self.wrong(span, "at least one [[rule]] expected, found none");
        }
        let mut rules = Vec::new();
        let mut ids = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else {
                let what = kind_of(item.get_ref());
                self.wrong(item.span(), format!("a table expected, found {what}"));
                continue;
            };
            // The name for messages is taken before anything is checked: a broken rule is named too.
            let id = table.get("id").map(Spanned::get_ref);
            self.rule = Some(match id {
                Some(DeValue::String(id)) => format!("`{}`", escape(id)),
                _ => format!("number {}", index + 1),
            });
            if let Some(id) = table.get("id")
                && let DeValue::String(text) = id.get_ref()
                && !ids.insert(text.as_ref().to_owned())
            {
                self.wrong(id.span(), "id: a name used once expected, found it twice");
            }
            rules.extend(self.rule(table, item.span()));
            self.rule = None;
        }
        rules
    }

    fn rule(&mut self, table: &DeTable<'_>, at: Range<usize>) -> Option<Rule> {
        let before = self.problems.len();
        let mut fields = Fields::of(table, at, "");
        let id = self.word(&mut fields, "id", true);
        let profile = self.word(&mut fields, "profile", true);
        let also_in = self.words(&mut fields, "also_in");
        let title = self.line(&mut fields, "title", true);
        let step = self.line(&mut fields, "step", true);
        let rationale = self.line(&mut fields, "rationale", true);
        let identity = self.line(&mut fields, "identity", false);
        let evidence = self.evidence(&mut fields);
        let sources = self.sources(&mut fields);
        let confidence = self.confidence(&mut fields);
        let action = self.action(&mut fields, confidence);
        let target = self.target(&mut fields, action);
        self.strangers(fields);
        if self.problems.len() > before {
            return None;
        }
        Some(Rule {
            id: id?,
            profile: profile?,
            also_in,
            title: title?,
            step: step?,
            target: target?,
            action: action?,
            confidence: confidence?,
            sources,
            rationale: rationale?,
            identity,
            evidence,
            named: false,
            watched: false,
        })
    }

    fn evidence(&mut self, fields: &mut Fields<'_, '_>) -> Option<String> {
        let (text, span) = self.text(fields, "evidence", false)?;
        let snake = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
        if text.is_empty() || text.len() > 64 || !text.chars().all(snake) {
            let what = format!(
                "evidence: a snake_case name expected, found `{}`",
                escape(text)
            );
            self.wrong(span, what);
            return None;
        }
        Some(text.to_owned())
    }

    fn strangers(&mut self, fields: Fields<'_, '_>) {
        for (key, span, _) in fields.left {
            let prefix = fields.prefix;
            self.wrong(
                span,
                format!("{prefix}{}: no such field: `{}`", escape(key), escape(key)),
            );
        }
    }

    fn missing(&mut self, fields: &Fields<'_, '_>, name: &str) {
        let at = fields.at.clone();
        self.wrong(
            at,
            format!(
                "{0}{name}: expected, found no field `{name}`",
                fields.prefix
            ),
        );
    }

    fn text<'a>(
        &mut self,
        fields: &mut Fields<'a, '_>,
        name: &str,
        required: bool,
    ) -> Option<Text<'a>> {
        let Some((value, _)) = fields.take(name) else {
            if required {
                self.missing(fields, name);
            }
            return None;
        };
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            other => {
                let what = format!(
                    "{}{name}: a text expected, found {}",
                    fields.prefix,
                    kind_of(other)
                );
                self.wrong(value.span(), what);
                None
            }
        }
    }

    fn list<'a>(
        &mut self,
        fields: &mut Fields<'a, '_>,
        name: &str,
        required: bool,
    ) -> Option<(Vec<Text<'a>>, Range<usize>)> {
        let Some((value, _)) = fields.take(name) else {
            if required {
                self.missing(fields, name);
            }
            return None;
        };
        let prefix = fields.prefix;
        let DeValue::Array(list) = value.get_ref() else {
            let what = kind_of(value.get_ref());
            self.wrong(
                value.span(),
                format!("{prefix}{name}: a list of texts expected, found {what}"),
            );
            return None;
        };
        let mut out = Vec::new();
        for item in list.iter() {
            match item.get_ref() {
                DeValue::String(text) => out.push((text.as_ref(), item.span())),
                other => {
                    let what = kind_of(other);
                    self.wrong(
                        item.span(),
                        format!("{prefix}{name}: a text expected, found {what}"),
                    );
                    return None;
                }
            }
        }
        Some((out, value.span()))
    }

    fn word(&mut self, fields: &mut Fields<'_, '_>, name: &str, required: bool) -> Option<String> {
        let (word, span) = self.text(fields, name, required)?;
        self.check_word(name, word, span);
        Some(word.to_owned())
    }

    fn words(&mut self, fields: &mut Fields<'_, '_>, name: &str) -> Vec<String> {
        let (words, _) = self.list(fields, name, false).unwrap_or_default();
        for (word, span) in &words {
            self.check_word(name, word, span.clone());
        }
        words.into_iter().map(|(word, _)| word.to_owned()).collect()
    }

    fn check_word(&mut self, field: &str, word: &str, at: Range<usize>) {
        let fits = (1..=64).contains(&word.len())
            && word
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'));
        if !fits {
            let what = format!(
                "{field}: 1 to 64 of a-z, 0-9, `.` and `-` expected, found `{}`",
                escape(word)
            );
            self.wrong(at, what);
        } else if word.ends_with(".toml") {
            self.wrong(
                at,
                format!("{field}: a name that is no file's expected, found `{word}`"),
            );
        }
    }

    fn line(&mut self, fields: &mut Fields<'_, '_>, name: &str, required: bool) -> Option<String> {
        let (text, span) = self.text(fields, name, required)?;
        self.check_line(name, text, span);
        Some(text.to_owned())
    }

    fn check_line(&mut self, field: &str, text: &str, at: Range<usize>) {
        if text.trim().is_empty() {
            self.wrong(at, format!("{field}: text expected, found none"));
        } else if text.len() > MAX_TEXT_LEN {
            let len = text.len();
            self.wrong(
                at,
                format!("{field}: at most {MAX_TEXT_LEN} bytes expected, found {len}"),
            );
        } else if text.chars().any(char::is_control) {
            self.wrong(
                at,
                format!("{field}: one line of text expected, found control characters"),
            );
        }
    }

    fn sources(&mut self, fields: &mut Fields<'_, '_>) -> Vec<String> {
        let Some((sources, span)) = self.list(fields, "sources", true) else {
            return Vec::new();
        };
        if sources.is_empty() {
            self.wrong(span, "sources: at least one document expected, found none");
        }
        for (source, span) in &sources {
            self.check_line("sources", source, span.clone());
        }
        sources
            .into_iter()
            .map(|(text, _)| text.to_owned())
            .collect()
    }

    fn confidence(&mut self, fields: &mut Fields<'_, '_>) -> Option<Confidence> {
        let (text, span) = self.text(fields, "confidence", true)?;
        match text {
            "A" => Some(Confidence::A),
            "B" => Some(Confidence::B),
            "C" => Some(Confidence::C),
            other => {
                self.wrong(
                    span,
                    format!("confidence: A, B or C expected, found `{}`", escape(other)),
                );
                None
            }
        }
    }

    fn action(
        &mut self,
        fields: &mut Fields<'_, '_>,
        confidence: Option<Confidence>,
    ) -> Option<Action> {
        let (text, span) = self.text(fields, "action", true)?;
        let all = [Action::Delete, Action::DeleteIfNamed, Action::Report];
        let Some(action) = all.into_iter().find(|action| action.name() == text) else {
            let what = format!(
                "action: delete, delete-if-named or report expected, found `{}`",
                escape(text)
            );
            self.wrong(span, what);
            return None;
        };
        match (action, confidence) {
            (Action::Delete, Some(Confidence::B | Confidence::C)) => self.wrong(
                span,
                "action: `delete` is for confidence A; what is known less well may be \
                 `delete-if-named` (B) or `report`",
            ),
            (Action::DeleteIfNamed, Some(Confidence::C)) => self.wrong(
                span,
                "action: `report` expected with confidence C, found `delete-if-named`",
            ),
            _ => {}
        }
        Some(action)
    }

    fn target(&mut self, fields: &mut Fields<'_, '_>, action: Option<Action>) -> Option<Target> {
        let Some((value, _)) = fields.take("target") else {
            self.missing(fields, "target");
            return None;
        };
        let DeValue::Table(table) = value.get_ref() else {
            let what = kind_of(value.get_ref());
            self.wrong(
                value.span(),
                format!("target: a table expected, found {what}"),
            );
            return None;
        };
        let mut fields = Fields::of(table, value.span(), "target.");
        let (kind, kind_span) = self.text(&mut fields, "kind", true)?;
        let depth_of_key = match action {
            Some(Action::Report) => 1,
            _ => MIN_SUBKEYS_DEPTH,
        };
        let fields_of = &mut fields;
        let target = match kind {
            "value" => {
                let key = self.key(fields_of, action, 1);
                let value = self.name(fields_of, "value", MAX_VALUE_UNITS);
                let (list, _) = self.list(fields_of, "also", false).unwrap_or_default();
                for (name, span) in &list {
                    self.check_name("target.also", name, MAX_VALUE_UNITS, span.clone());
                }
                let also = list.into_iter().map(|(name, _)| name.to_owned()).collect();
                let (hive, key) = key?;
                Some(Target::Value {
                    hive,
                    key,
                    value: value?,
                    also,
                })
            }
            "subkeys" => self
                .key(fields_of, action, MIN_SUBKEYS_DEPTH)
                .map(|(hive, key)| Target::Subkeys { hive, key }),
            "key" => self
                .key(fields_of, action, depth_of_key)
                .map(|(hive, key)| Target::Key { hive, key }),
            "certificates" => self
                .key(fields_of, action, MIN_SUBKEYS_DEPTH)
                .map(|(hive, key)| Target::Certificates { hive, key }),
            "certificate-keys" => self
                .key(fields_of, action, MIN_SUBKEYS_DEPTH)
                .map(|(hive, key)| Target::CertificateKeys { hive, key }),
            "key-container" => self
                .text(fields_of, "container", true)
                .map(|(name, span)| (name.to_owned(), span))
                .and_then(|(container, span)| self.container(container, span)),
            "file-anywhere" => self
                .file_name(fields_of)
                .map(|name| Target::FileAnywhere { name }),
            "file-at-root" => self
                .file_name(fields_of)
                .map(|name| Target::FileAtRoot { name }),
            "file-at" => self.path(fields_of).map(|path| Target::FileAt { path }),
            "folder" => self.path(fields_of).map(|path| Target::Folder { path }),
            "mentions" => self.path(fields_of).map(|path| Target::Mentions { path }),
            other => {
                let what = format!(
                    "target.kind: value, subkeys, key, certificates, certificate-keys, \
                     key-container, file-anywhere, file-at-root, file-at, folder or mentions \
                     expected, found `{}`",
                    escape(other)
                );
                self.wrong(kind_span, what);
                // Its fields cannot be judged.
                return None;
            }
        };
        let only_shown = matches!(target, Some(Target::Mentions { .. }));
        if only_shown && action.is_some_and(|action| action != Action::Report) {
            let what =
                format!("action: `report` expected with kind `{kind}`, which is never removed");
            self.wrong(kind_span, what);
        }
        // With the key wrong, what else there is was not asked for.
        if target.is_some() {
            self.strangers(fields);
        }
        target
    }

    fn container(&mut self, container: String, at: Range<usize>) -> Option<Target> {
        if container.is_empty() || !container.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            let what = format!(
                "target.container: printable ASCII characters expected, found `{}`",
                escape(&container)
            );
            self.wrong(at, what);
            return None;
        }
        Some(Target::KeyContainer { container })
    }

    fn name(
        &mut self,
        fields: &mut Fields<'_, '_>,
        field: &str,
        max_units: usize,
    ) -> Option<String> {
        let (name, span) = self.text(fields, field, true)?;
        let shown = format!("{}{field}", fields.prefix);
        self.check_name(&shown, name, max_units, span)
            .then(|| name.to_owned())
    }

    fn file_name(&mut self, fields: &mut Fields<'_, '_>) -> Option<String> {
        let (name, span) = self.text(fields, "name", true)?;
        self.check_file_name("target.name", name, span)
            .then(|| name.to_owned())
    }

    fn check_file_name(&mut self, field: &str, name: &str, at: Range<usize>) -> bool {
        if !self.check_name(field, name, MAX_NAME_UNITS, at.clone()) {
            return false;
        }
        // Windows has names of its own that begin so ($Recycle.Bin, $WINDOWS.~BT).
        if METADATA_NAMES
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
        {
            let what = format!(
                "{field}: a file's name expected, found `{}`, a name of the file system",
                escape(name)
            );
            self.wrong(at, what);
            return false;
        }
        true
    }

    fn path(&mut self, fields: &mut Fields<'_, '_>) -> Option<Vec<String>> {
        let (names, span) = self.list(fields, "path", true)?;
        if names.len() < MIN_PATH_DEPTH {
            let what = format!(
                "target.path: at least {MIN_PATH_DEPTH} names expected, found {} (for a name in any \
                 place there is the kind file-anywhere)",
                names.len()
            );
            self.wrong(span, what);
            return None;
        }
        let mut good = true;
        for (name, span) in &names {
            good &= self.check_file_name("target.path", name, span.clone());
        }
        good.then(|| names.into_iter().map(|(name, _)| name.to_owned()).collect())
    }

    fn hive(&mut self, fields: &mut Fields<'_, '_>) -> Option<HiveName> {
        let (text, span) = self.text(fields, "hive", true)?;
        let known = HiveName::ALL
            .into_iter()
            .find(|hive| hive.file_name().to_ascii_lowercase() == text);
        if known.is_none() {
            let what = format!(
                "target.hive: software, system, sam, security or default expected, found `{}`",
                escape(text)
            );
            self.wrong(span, what);
        }
        known
    }

    /// Hive and key; a key that is emptied or removed must be `depth` names deep.
    fn key(
        &mut self,
        fields: &mut Fields<'_, '_>,
        action: Option<Action>,
        depth: usize,
    ) -> Option<(HiveName, Vec<String>)> {
        let hive = self.hive(fields);
        let (names, span) = self.list(fields, "key", true)?;
        let hive = hive?;
        let wrong = self.wrong_key(hive, &names, action, depth);
        if let Some((at, what)) = wrong {
            self.wrong(at.unwrap_or(span), format!("target.key: {what}"));
            return None;
        }
        let (first, rest) = names.split_first()?;
        let placed = [SOFTWARE_ROOTS, CONTROL_SETS].contains(&first.0);
        let mut good = true;
        for (name, span) in if placed { rest } else { &names } {
            if *name != ANY_GUID {
                good &= self.check_name("target.key", name, MAX_NAME_UNITS, span.clone());
            }
        }
        good.then(|| {
            let names = names.iter().map(|(name, _)| (*name).to_owned());
            (hive, names.collect())
        })
    }

    fn wrong_key(
        &self,
        hive: HiveName,
        names: &[Text<'_>],
        action: Option<Action>,
        depth: usize,
    ) -> Option<(Option<Range<usize>>, String)> {
        let first = names.first();
        let is_first = |name: &str| first.is_some_and(|(first, _)| *first == name);
        let at_first = || first.map(|(_, span)| span.clone());
        let placed = is_first(SOFTWARE_ROOTS) || is_first(CONTROL_SETS);
        let below = names.len().saturating_sub(usize::from(placed));
        let deletes = action.is_some_and(|action| action != Action::Report);
        let loose = names.iter().find(|(name, _)| *name == ANY_GUID);
        let roots = [
            "HKLM",
            "HKCR",
            "HKCU",
            "HKU",
            "HKEY_LOCAL_MACHINE",
            "HKEY_CLASSES_ROOT",
            "HKEY_CURRENT_USER",
            "HKEY_USERS",
            "CurrentControlSet",
            hive.file_name(),
        ];
        if is_first(SOFTWARE_ROOTS) && hive != HiveName::Software {
            let hive = hive.file_name();
            return Some((
                at_first(),
                format!("{SOFTWARE_ROOTS} is expected with hive software only, found {hive}"),
            ));
        }
        if is_first(CONTROL_SETS) && hive != HiveName::System {
            let hive = hive.file_name();
            return Some((
                at_first(),
                format!("{CONTROL_SETS} is expected with hive system only, found {hive}"),
            ));
        }
        // SAM has a key SAM below its root.
        if let Some((name, span)) = first.filter(|_| hive != HiveName::Sam)
            && roots.iter().any(|root| root.eq_ignore_ascii_case(name))
        {
            return Some((
                Some(span.clone()),
                format!(
                    "names from the hive's root expected ({CONTROL_SETS} for CurrentControlSet), found \
                     `{}`",
                    escape(name)
                ),
            ));
        }
        if below == 0 {
            return Some((
                None,
                "names of keys below the root expected, found none".to_owned(),
            ));
        }
        if below > MAX_KEY_DEPTH {
            return Some((
                None,
                format!("at most {MAX_KEY_DEPTH} names expected, found {below}"),
            ));
        }
        if names.len() < depth {
            return Some((
                None,
                format!(
                    "at least {depth} names expected for a key that is emptied, found {}",
                    names.len()
                ),
            ));
        }
        if deletes && !matches!(hive, HiveName::Software | HiveName::System) {
            let hive = hive.file_name();
            return Some((
                None,
                format!("hive software or system expected for a rule that deletes, found {hive}"),
            ));
        }
        // Select, Setup, MountedDevices: without them Windows does not start.
        if deletes && hive == HiveName::System && !is_first(CONTROL_SETS) {
            return Some((
                at_first(),
                format!("{CONTROL_SETS} expected first for a rule that deletes in SYSTEM"),
            ));
        }
        loose.filter(|_| deletes).map(|(_, span)| {
            (
                Some(span.clone()),
                format!("exact names expected for a rule that deletes, found {ANY_GUID}"),
            )
        })
    }

    /// Exactly one name: no path, no pattern, no placeholder.
    fn check_name(&mut self, field: &str, name: &str, max_units: usize, at: Range<usize>) -> bool {
        let found = if name.is_empty() {
            "an empty name"
        } else if name == "." || name == ".." {
            "a directory reference"
        } else if name.contains(['*', '?']) {
            "a wildcard"
        } else if name.contains(['\\', '/']) {
            "a path separator"
        } else if name.contains(['{', '}']) {
            // Keys named by a GUID are real, but `{CS}` in a place where it means nothing must not
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
            return true;
        }
        let what = format!(
            "{field}: exactly one name expected, found {found}: `{}`",
            escape(&name.chars().take(80).collect::<String>())
        );
        self.wrong(at, what);
        false
    }
}

/// Whether a name is a GUID, in braces or without: Windows names keys either way (`Enrollments` has them
/// bare).
#[must_use]
pub fn is_guid(name: &str) -> bool {
    is_braced_guid(name) || is_braced_guid(&format!("{{{name}}}"))
}

/// Whether a name is a GUID in braces.
fn is_braced_guid(name: &str) -> bool {
    name.len() == 38
        && name.bytes().enumerate().all(|(i, byte)| match i {
            0 => byte == b'{',
            37 => byte == b'}',
            9 | 14 | 19 | 24 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
