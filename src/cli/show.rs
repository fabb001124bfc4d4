//! `declone rules`: what identifies a machine, with sources; and what is wrong with a file of rules.

use std::{
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;

use super::print;
use crate::{
    error::{Error, Kind, Result},
    rules::{self, Action, Problem, Rule, Target},
    text::escape,
};

#[derive(Debug, Subcommand)]
pub(super) enum RulesVerb {
    /// One line a rule, by set
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Everything about one rule
    Show {
        /// The rule's id
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Load a file of rules and say everything that is wrong with it
    Check {
        /// The file
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whether an item of `--rules` is a file of rules.
pub(super) fn is_file(named: &str) -> bool {
    named.ends_with(".toml") || named.contains(['/', '\\'])
}

pub(super) fn load_rules(path: &Path) -> Result<Vec<Rule>> {
    rules::load(&read(path)?, &path.display().to_string())
}

fn read(path: &Path) -> Result<String> {
    let shown = escape(&path.display().to_string());
    std::fs::read_to_string(path)
        .map_err(|e| Error::new(Kind::Usage, format!("rules {shown}: {e}")))
}

pub(super) fn run(verb: &RulesVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let (shown, code) = match verb {
        RulesVerb::List { json } => {
            let all = rules::embedded()?;
            match json {
                true => (
                    serde_json::to_string_pretty(&all).context("JSON")? + "\n",
                    0,
                ),
                false => (list(&all), 0),
            }
        }
        RulesVerb::Show { id, json } => {
            let all = rules::embedded()?;
            let rule = all.iter().find(|rule| rule.id == *id).ok_or_else(|| {
                Error::new(
                    Kind::Usage,
                    format!("rule: no rule has the id {}", escape(id)),
                )
                .advise("declone rules list shows them")
            })?;
            match json {
                true => (
                    serde_json::to_string_pretty(rule).context("JSON")? + "\n",
                    0,
                ),
                false => (describe(rule), 0),
            }
        }
        RulesVerb::Check { file, json } => check(file, *json)?,
    };
    print(out, shown.as_bytes())?;
    Ok(code)
}

/// What `rules check --json` says.
#[derive(Serialize)]
struct Checked {
    file: String,
    exit_code: u8,
    rules: usize,
    deleting: Vec<String>,
    problems: Vec<Problem>,
}

fn check(file: &Path, json: bool) -> anyhow::Result<(String, u8)> {
    let (rules, problems) = rules::check_text(&read(file)?);
    let checked = Checked {
        file: escape(&file.display().to_string()),
        exit_code: if problems.is_empty() { 0 } else { 4 },
        rules: rules.len(),
        deleting: rules
            .iter()
            .filter(|rule| rule.action != Action::Report)
            .map(|rule| rule.id.clone())
            .collect(),
        problems,
    };
    let code = checked.exit_code;
    if json {
        return Ok((
            serde_json::to_string_pretty(&checked).context("JSON")? + "\n",
            code,
        ));
    }
    let mut out = String::new();
    for problem in &checked.problems {
        writeln!(out, "{}:{problem}", checked.file)?;
    }
    match checked.problems.len() {
        0 => writeln!(
            out,
            "{} rules, all good; {} of them delete{}",
            checked.rules,
            checked.deleting.len(),
            match checked.deleting.is_empty() {
                true => String::new(),
                false => format!(": {}", checked.deleting.join(", ")),
            }
        )?,
        n => {
            let s = if n == 1 { "" } else { "s" };
            writeln!(out, "{n} problem{s}; {} rules are right", checked.rules)?;
        }
    }
    Ok((out, code))
}

fn list(all: &[Rule]) -> String {
    let mut out = String::new();
    let mut last = "";
    let width = all.iter().map(|rule| rule.id.chars().count()).max();
    let width = width.unwrap_or(0);
    for rule in all {
        if rule.profile != last {
            let blank = if last.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{blank}{}\n", rule.profile));
            last = &rule.profile;
        }
        let also = match rule.also_in.is_empty() {
            true => String::new(),
            false => format!(" (also in {})", rule.also_in.join(", ")),
        };
        out.push_str(&format!(
            "  {:<width$} {:<15} {}  {}{also}\n",
            rule.id,
            rule.action.name(),
            format_args!("{:?}", rule.confidence),
            rule.title
        ));
    }
    out
}

/// What an action means for a person.
fn meaning(action: Action) -> &'static str {
    match action {
        Action::Delete => "delete",
        Action::DeleteIfNamed => "report; delete if asked for by its id (--rules sms,ID)",
        Action::Report => "report",
    }
}

fn describe(rule: &Rule) -> String {
    let target = match &rule.target {
        Target::Value { .. } => {
            let values: Vec<String> = rule.target.values().map(|v| format!("\"{v}\"")).collect();
            let word = if values.len() == 1 { "value" } else { "values" };
            paths(rule, &format!(", {word} {}", values.join(", ")))
        }
        Target::Subkeys { .. } => paths(rule, ", every subkey"),
        Target::Key { .. } => paths(rule, " with everything in it"),
        Target::Certificates { .. } => paths(rule, ", every certificate"),
        Target::CertificateKeys { .. } => {
            paths(rule, ", the file with the private key of every certificate")
        }
        Target::KeyContainer { container } => {
            format!("the files of the machine's key container {container}")
        }
        Target::FileAnywhere { name } => format!("every file named {name}, in any case"),
        Target::FileAtRoot { name } => format!("the file {name} in a volume's root"),
        Target::FileAt { path } => format!("every file ...\\{}", path.join("\\")),
        Target::Folder { path } => {
            format!(
                "the files in every directory ...\\{}, and below it",
                path.join("\\")
            )
        }
        Target::Mentions { path } => {
            format!(
                "ids found elsewhere, searched in every file ...\\{}",
                path.join("\\")
            )
        }
    };
    let mut profiles = vec![rule.profile.as_str()];
    profiles.extend(rule.also_in.iter().map(String::as_str));
    format!(
        "{}: {}\n  profile     {}\n  target      {target}\n  action      {}\n  confidence  {}\n  \
         sources     {}\n  identity    {}\n  step        {}\n  why         {}\n",
        rule.id,
        rule.title,
        profiles.join(", "),
        meaning(rule.action),
        match rule.confidence {
            rules::Confidence::A => "A (a primary document, or an own measurement)",
            rules::Confidence::B => "B (several independent tools or scripts agree)",
            rules::Confidence::C => "C (general knowledge)",
        },
        rule.sources.join("\n              "),
        rule.identity.as_deref().unwrap_or("-"),
        rule.step,
        rule.rationale
    )
}

fn paths(rule: &Rule, tail: &str) -> String {
    let hive = rule.target.hive().map_or("?", rules::HiveName::file_name);
    let all: Vec<String> = rule
        .target
        .key_paths()
        .iter()
        .map(|path| format!("{hive}\\{}{tail}", path.join("\\")))
        .collect();
    all.join("\n              ")
}
