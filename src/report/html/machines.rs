//! Who the machine is, and whether it was generalized.

use super::{
    IN_JSON, card,
    facts::{header, pairs},
    tag::Html,
};
use crate::{
    plan::machines::{Generalization, Identity, MachineFacts, Status},
    report::ImageReport,
};

/// Most lines of one table.
const MAX_ROWS: usize = 200;

/// One card an installation.
pub(super) fn write(h: &mut Html<'_>, report: &ImageReport) {
    for machine in report.machines.iter().take(MAX_ROWS) {
        let title = format!(
            "Machine in {} ({} {})",
            machine.root, machine.unit, machine.partition
        );
        card(h, &title, |h| one(h, machine));
    }
}

fn one(h: &mut Html<'_>, machine: &MachineFacts) {
    for hive in &machine.hives {
        if let Some(reason) = &hive.reason {
            h.class("p", "note warn", |h| {
                h.text(format_args!("{}: {}: {reason}", hive.name, hive.state));
            });
        }
    }
    if let Some(identity) = &machine.identity {
        cluster(h, identity);
    }
    if let Some(generalization) = &machine.generalization {
        generalized(h, generalization);
    }
}

fn cluster(h: &mut Html<'_>, identity: &Identity) {
    let windows = &identity.windows;
    let version = [&windows.product, &windows.version, &windows.build];
    let version: Vec<&str> = version.into_iter().flatten().map(String::as_str).collect();
    let not_found = || "not found".to_owned();
    let mut lines = vec![
        (
            "computer".to_owned(),
            identity.computer_name.clone().unwrap_or_else(not_found),
        ),
        (
            "SID".to_owned(),
            identity.computer_sid.clone().unwrap_or_else(not_found),
        ),
    ];
    let more = [
        ("domain or workgroup", identity.domain.clone()),
        ("SID of the domain", identity.domain_sid.clone()),
        ("Windows", (!version.is_empty()).then(|| version.join(", "))),
    ];
    lines.extend(
        more.into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?))),
    );
    pairs(h, &lines);
    for mismatch in identity.mismatches.iter().take(MAX_ROWS) {
        h.class("div", "note bad", |h| {
            h.el("b", |h| h.text("MISMATCH: "));
            h.text(&mismatch.what);
            for source in &mismatch.sources {
                h.line("div", "mono", source);
            }
        });
    }
    if identity.facts.is_empty() {
        return;
    }
    h.el("h4", |h| h.text("Identity"));
    h.class("table", "list", |h| {
        header(h, &["What", "Value", "Found in"]);
        h.el("tbody", |h| {
            for fact in identity.facts.iter().take(MAX_ROWS) {
                h.el("tr", |h| {
                    h.cell("What", |h| {
                        h.el("b", |h| h.text(&fact.title));
                        if fact.identifies {
                            h.text(" ");
                            h.line("span", "chip c-info", "identifies");
                        }
                    });
                    h.cell("Value", |h| {
                        h.line("div", "mono", &fact.value);
                        if let Some(decoded) = &fact.decoded {
                            h.line("div", "soft small", decoded);
                        }
                    });
                    h.cell("Found in", |h| h.line("span", "mono", &fact.source));
                });
            }
        });
    });
}

fn generalized(h: &mut Html<'_>, found: &Generalization) {
    h.el("h4", |h| {
        h.text("Generalized? ");
        let class = match found.status {
            Status::Generalized => "chip c-good",
            Status::GeneralizedNotArmed | Status::Specialized => "chip c-warn",
            Status::Deployed | Status::Undeployable => "chip c-bad",
            Status::Unknown => "chip c-soft",
        };
        h.line("span", class, found.status.name());
    });
    h.el("p", |h| h.text(&found.reason));
    if let Some(advice) = found.advice {
        h.line("p", "note", advice);
    }
    for contradiction in found.contradictions.iter().take(MAX_ROWS) {
        h.class("div", "note bad", |h| {
            h.el("b", |h| h.text("CONTRADICTION: "));
            h.text(contradiction);
        });
    }
    if found.evidence.is_empty() {
        return;
    }
    h.class("table", "list even", |h| {
        header(h, &["Evidence", "Means", "Looked for in"]);
        h.el("tbody", |h| {
            for line in found.evidence.iter().take(MAX_ROWS) {
                h.el("tr", |h| {
                    h.cell("Evidence", |h| match (&line.value, line.present) {
                        (Some(value), _) => h.el("b", |h| h.text(value)),
                        (None, true) => h.line("span", "chip c-info", "present"),
                        (None, false) => h.line("span", "soft", "absent"),
                    });
                    h.cell("Means", |h| {
                        h.text(&line.meaning);
                        if let Some(rule) = &line.rule {
                            h.line("div", "soft small", format_args!("rule {rule}"));
                        }
                    });
                    h.cell("Looked for in", |h| h.line("span", "mono", &line.source));
                });
            }
        });
    });
    if found.evidence.len() > MAX_ROWS {
        let more = found.evidence.len() - MAX_ROWS;
        h.line("p", "soft", format_args!("... and {more} more: {IN_JSON}"));
    }
}
