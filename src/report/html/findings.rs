//! The articles' steps ticked off, and every finding with its way down the address ladder.

use std::collections::BTreeMap;

use super::{IN_JSON, card, count, facts::header, tag::Html};
use crate::{
    plan::{Finding, Subject, View},
    report::ImageReport,
    rules::{Action, Rule},
};

/// Most findings shown one by one: a page of ten thousand rows is read by nobody.
const MAX_ROWS: usize = 500;

/// The checklist.
pub(super) fn steps(h: &mut Html<'_>, report: &ImageReport, rules: &[Rule]) {
    if report.image.is_none() || rules.is_empty() {
        return;
    }
    let mut found: BTreeMap<&str, (usize, Option<Action>)> = BTreeMap::new();
    for finding in &report.findings {
        let entry = found.entry(finding.rule.as_str()).or_default();
        entry.0 += 1;
        entry.1 = Some(finding.action);
    }
    card(h, "Steps of the articles", |h| {
        h.class("ol", "steps", |h| {
            for rule in rules {
                let (number, action) = found.get(rule.id.as_str()).copied().unwrap_or_default();
                let items = count(number, "item");
                let (class, mark, said) = match (action, report.result) {
                    (None, _) => ("box done", "✓", "nothing found".to_owned()),
                    (Some(Action::Report), _) => ("box look", "!", format!("{items} to look at")),
                    (_, "cleaned") => ("box done", "✓", format!("{items} removed")),
                    (_, "planned") => ("box plan", "–", format!("{items} would be removed")),
                    _ => ("box open", "✗", format!("{items} found")),
                };
                h.el("li", |h| {
                    h.line("div", class, mark);
                    h.el("div", |h| {
                        h.text(&rule.step);
                        h.class("div", "soft small", |h| {
                            h.text(format_args!(
                                "{said} · {} · {} · {}",
                                rule.title,
                                rule.id,
                                rule.sources.join(", ")
                            ));
                        });
                    });
                });
            }
        });
    });
}

/// Every finding.
pub(super) fn table(h: &mut Html<'_>, report: &ImageReport) {
    if report.findings.is_empty() {
        return;
    }
    card(h, "Findings", |h| {
        if report.findings.len() > MAX_ROWS {
            cut(h, report);
        }
        h.class("table", "list findings", |h| {
            header(h, &["#", "What", "Evidence", "Where"]);
            h.el("tbody", |h| {
                for (number, finding) in report.findings.iter().take(MAX_ROWS).enumerate() {
                    h.el("tr", |h| row(h, number + 1, finding, report));
                }
            });
        });
    });
}

/// Says what is not shown, by rule.
fn cut(h: &mut Html<'_>, report: &ImageReport) {
    let mut by_rule: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &report.findings {
        *by_rule.entry(&finding.title).or_default() += 1;
    }
    h.class("div", "note warn", |h| {
        let all = report.findings.len();
        h.text(format_args!(
            "The first {MAX_ROWS} of {all} findings; {IN_JSON}. By rule: "
        ));
        let counts: Vec<String> = by_rule
            .iter()
            .map(|(rule, n)| format!("{rule} {n}"))
            .collect();
        h.text(counts.join(", "));
        h.text(".");
    });
}

fn row(h: &mut Html<'_>, number: usize, finding: &Finding, report: &ImageReport) {
    h.with("td", &[("class", &"n"), ("data-label", &"#")], |h| {
        h.text(number)
    });
    h.cell("What", |h| {
        h.el("b", |h| h.text(&finding.title));
        h.text(" ");
        fate(h, finding, report);
        h.text(" ");
        h.line(
            "span",
            "soft small",
            format_args!("confidence {:?}", finding.confidence),
        );
        h.class("div", "mono", |h| subject(h, &finding.subject));
        let view = match finding.view {
            None | Some(View::Both) => return,
            Some(View::OnDisk) => "only in the file as it is: its logs take it out or change it",
            Some(View::AfterReplay) => "only after the logs are replayed: what Windows would see",
            Some(View::Packed) => "in a packed copy; the places are those of the unpacked hive",
        };
        h.line("div", "soft small", view);
    });
    h.cell("Evidence", |h| h.text(&finding.evidence));
    h.cell("Where", |h| {
        h.class("dl", "ladder", |h| {
            for place in &finding.places {
                h.el("dt", |h| h.text(place.space));
                h.el("dd", |h| h.text(&place.value));
            }
        });
    });
}

fn fate(h: &mut Html<'_>, finding: &Finding, report: &ImageReport) {
    let (class, word) = match (finding.action, report.result) {
        (Action::Report, _) => ("chip c-warn", "reported only"),
        (_, "cleaned") => ("chip c-good", "removed"),
        (_, "planned") => ("chip c-info", "would be removed"),
        _ => ("chip c-bad", "found"),
    };
    h.line("span", class, word);
}

fn subject(h: &mut Html<'_>, subject: &Subject) {
    match subject {
        Subject::Value {
            hive,
            key,
            value,
            reg_type,
            data_len,
        } => {
            h.el("div", |h| h.text(hive));
            h.el("div", |h| h.text(key));
            h.el("div", |h| {
                h.text(format_args!(
                    "value \"{value}\", {}, {data_len} bytes",
                    reg_name(*reg_type)
                ));
            });
        }
        Subject::Key { hive, key } => {
            h.el("div", |h| h.text(hive));
            h.el("div", |h| h.text(key));
        }
        Subject::File { path, links, len } => {
            h.el("div", |h| h.text(path));
            for link in links.iter().take(20) {
                h.el("div", |h| h.text(format_args!("= {link}")));
            }
            h.el("div", |h| h.text(format_args!("{len} bytes")));
        }
    }
}

/// The registry's name of a type (winnt.h).
fn reg_name(kind: u32) -> String {
    let names = [
        "REG_NONE",
        "REG_SZ",
        "REG_EXPAND_SZ",
        "REG_BINARY",
        "REG_DWORD",
        "REG_DWORD_BIG_ENDIAN",
        "REG_LINK",
        "REG_MULTI_SZ",
        "REG_RESOURCE_LIST",
        "REG_FULL_RESOURCE_DESCRIPTOR",
        "REG_RESOURCE_REQUIREMENTS_LIST",
        "REG_QWORD",
    ];
    usize::try_from(kind)
        .ok()
        .and_then(|kind| names.get(kind))
        .map_or_else(|| format!("type {kind:#x}"), |name| (*name).to_owned())
}
