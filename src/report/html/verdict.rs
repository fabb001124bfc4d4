//! How it ended, in one look.

use super::{count, tag::Html};
use crate::{
    report::{
        ImageReport,
        text::{self, size},
    },
    rules::Action,
};

/// The result in one word, with the class of its colour.
fn word(report: &ImageReport) -> (&'static str, &'static str) {
    match report.result {
        "clean" => ("clean", "good"),
        "clean_other_ids" => ("clean, other ids", "good"),
        "cleaned" if report.left_count() > 0 => ("cleaned, traces", "warn"),
        "cleaned" if report.unseen_count() > 0 => ("cleaned, not all seen", "warn"),
        "cleaned" => ("cleaned", "good"),
        "findings" => ("findings", "bad"),
        "planned" => ("planned", "info"),
        "recovered" => ("recovered", "good"),
        "whole" => ("whole", "good"),
        "undone" => ("undone", "warn"),
        "incomplete" => ("not all seen", "warn"),
        "requirements" => ("not as required", "bad"),
        "no_windows" => ("no Windows", "warn"),
        "unread" => ("not looked into", "warn"),
        "pending" => ("pending", "bad"),
        "refused" => ("refused", "warn"),
        "interrupted" => ("interrupted", "bad"),
        _ => ("failed", "bad"),
    }
}

/// The result as a small mark.
pub(super) fn chip(h: &mut Html<'_>, report: &ImageReport) {
    let (word, class) = word(report);
    let class = format!("chip c-{class}");
    h.with("span", &[("class", &class)], |h| h.text(word));
}

/// The result as a sentence.
pub(super) fn banner(h: &mut Html<'_>, report: &ImageReport) {
    let class = format!("verdict v-{}", word(report).1);
    h.with("div", &[("class", &class)], |h| {
        // The text has its details before the verdict, the page after it.
        h.text(text::verdict(report).replace(", see above", ", see below"));
        for remark in &report.remarks {
            h.el("p", |h| h.text(remark));
        }
    });
}

/// The few numbers that matter.
pub(super) fn tiles(h: &mut Html<'_>, report: &ImageReport) {
    let removable = report
        .findings
        .iter()
        .filter(|finding| finding.action == Action::Delete)
        .count();
    let reported = report.findings.len() - removable;
    let left = report.left_count();
    h.class("div", "tiles", |h| {
        let mut tile = |number: String, what: &str| {
            h.class("div", "tile", |h| {
                h.el("b", |h| h.text(number));
                h.el("span", |h| h.text(what));
            });
        };
        if report.image.is_some() {
            tile(
                removable.to_string(),
                match report.result {
                    "cleaned" => "items removed",
                    "planned" => "items would be removed",
                    _ => "items carry the identity",
                },
            );
            if reported > 0 {
                tile(reported.to_string(), "more for a person to look at");
            }
        }
        if let Some(done) = &report.done {
            let what = match done.written {
                true => "written",
                false => "would be written",
            };
            let pages = count(done.patches.len(), "page");
            tile(size(done.changed_bytes), &format!("{what}, in {pages}"));
        }
        if !report.searched.is_empty() {
            let total = report.searched.iter().map(|area| area.bytes).sum();
            tile(size(total), "searched byte by byte");
            tile(left.to_string(), "traces left");
        }
        tile(report.not_scanned.len().to_string(), "things not looked at");
        tile(report.exit_code.to_string(), "exit code");
    });
}
