//! The report as one page that needs nothing else: no script, no network, no other file.
//!
//! The page's policy forbids everything but its own style sheet, which it names by digest. Text of an
//! image gets in through `tag::Html` only, which escapes it.
//!
//! # Why
//! - **No script**: a report travels by mail and is opened by people who did not make it. Folding is
//!   `<details>`, pictures are inline SVG, and what the reader hovers over is `<title>`.
//! - **No style attributes**: a policy with a digest forbids them. Lengths in pictures are attributes
//!   of SVG in percent, so that they follow the width of the window while the text keeps its size.

use std::{collections::HashSet, fmt::Display};

use sha2::{Digest, Sha256};

use super::{Document, Done, ImageReport, count, redact::Redactor};
use crate::rules::Rule;

mod clones;
mod disk;
mod facts;
mod findings;
mod machines;
mod tag;
mod verdict;

pub use clones::{CloneGroup, Clones, ComparedImage, SharedId};
use tag::Html;

const STYLE: &str = include_str!("style.css");

/// Where the rest is, for whoever reads a list that was cut.
const IN_JSON: &str = "the JSON report (--json) has them all";

/// The page about some images.
#[must_use]
pub fn images(document: &Document<'_>, rules: &[Rule], redactor: Option<&Redactor>) -> String {
    let title = match document.images {
        [one] => format!("{}: {}", said(one.verb), base_name(&one.path)),
        many => format!("declone: {} images", many.len()),
    };
    page(&title, redactor, |h| {
        head(h, &title, document.time.as_deref(), redactor.is_some());
        h.el("main", |h| {
            if document.images.len() > 1 {
                contents(h, document.images);
            }
            for (number, report) in document.images.iter().enumerate() {
                image(h, number, report, rules);
            }
        });
        foot(h);
    })
}

/// The page of a comparison.
#[must_use]
pub fn clones(all: &Clones, time: Option<&str>, redactor: Option<&Redactor>) -> String {
    let title = format!("Clones among {} images", all.images.len());
    page(&title, redactor, |h| {
        head(h, &title, time, redactor.is_some());
        h.el("main", |h| clones::write(h, all));
        foot(h);
    })
}

/// How the section of an image begins which tells of a clean, and where the sections end. No text of an
/// image can look so: it is escaped.
const TOLD: &str = "<section class=\"image told";
const TOLD_PLAIN: &str = "<section class=\"image told\"";
const TOLD_MARKED: &str = "<section class=\"image told marked\"";
const IMAGE: &str = "<section class=\"image";
const MAIN: &str = "<main>";
const END: &str = "</main>";

/// The sections of a page that tell of cleans, and whether marks stand in the place of what was removed.
#[must_use]
pub fn told(page: &str) -> Vec<(&str, bool)> {
    let mut all = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find(TOLD) {
        let (_, section) = rest.split_at(start);
        let after = section.get(TOLD.len()..).unwrap_or_default();
        // Sections follow one another, and nothing but the end follows the last.
        let Some(end) = after.find(IMAGE).or_else(|| after.find(END)) else {
            break;
        };
        let (section, next) = section.split_at(TOLD.len() + end);
        all.push((section, section.starts_with(TOLD_MARKED)));
        rest = next;
    }
    all
}

/// The page with these sections of others before its own, but for those that it has.
#[must_use]
pub fn with_kept(page: String, kept: &[(&str, bool)]) -> String {
    let mut known: HashSet<&str> = told(&page).iter().map(|(told, _)| body(told)).collect();
    let mut more = String::new();
    for (section, has_marks) in kept {
        let section = body(section);
        if known.insert(section) {
            // Without an id: those of this page's own images are what its contents lead to.
            more.push_str(match has_marks {
                true => TOLD_MARKED,
                false => TOLD_PLAIN,
            });
            more.push('>');
            more.push_str(section);
        }
    }
    match page.split_once(MAIN) {
        Some((before, after)) if !more.is_empty() => format!("{before}{MAIN}{more}{after}"),
        _ => page,
    }
}

/// A section without its first tag.
fn body(section: &str) -> &str {
    section.split_once('>').map_or("", |(_, body)| body)
}

fn page(title: &str, redactor: Option<&Redactor>, body: impl FnOnce(&mut Html<'_>)) -> String {
    let digest = tag::base64(&Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    );
    let mut h = Html::new(redactor);
    h.doctype();
    h.with("html", &[("lang", &"en")], |h| {
        h.el("head", |h| {
            h.void("meta", &[("charset", &"utf-8")]);
            let equiv: &dyn Display = &"Content-Security-Policy";
            h.void("meta", &[("http-equiv", equiv), ("content", &policy)]);
            h.void(
                "meta",
                &[
                    ("name", &"viewport"),
                    ("content", &"width=device-width, initial-scale=1"),
                ],
            );
            h.void(
                "meta",
                &[("name", &"referrer"), ("content", &"no-referrer")],
            );
            h.void(
                "meta",
                &[("name", &"color-scheme"), ("content", &"light dark")],
            );
            h.el("title", |h| h.text(title));
            h.style(STYLE);
        });
        h.el("body", body);
    });
    h.finish()
}

fn head(h: &mut Html<'_>, title: &str, time: Option<&str>, redacted: bool) {
    h.class("header", "top", |h| {
        h.el("h1", |h| h.text(title));
        h.class("p", "soft small", |h| {
            h.text(format_args!("declone {}", env!("CARGO_PKG_VERSION")));
            if let Some(time) = time {
                h.text(format_args!(" · {time}"));
            }
            h.text(match redacted {
                true => {
                    " · identities are redacted: the same value has the same mark within this page"
                }
                false => {
                    " · THIS PAGE HOLDS THE IDENTITY that was found; keep it as you keep the image"
                }
            });
        });
    });
}

fn foot(h: &mut Html<'_>) {
    h.el("footer", |h| {
        h.text(
            "Offsets are hexadecimal, lengths decimal. The page loads nothing and runs nothing. What \
             is removed, and why, is in `declone rules list`.",
        );
    });
}

fn contents(h: &mut Html<'_>, reports: &[ImageReport]) {
    h.class("nav", "card", |h| {
        h.el("h3", |h| h.text("Images"));
        h.class("table", "list", |h| {
            h.el("tbody", |h| {
                for (number, report) in reports.iter().enumerate() {
                    h.el("tr", |h| {
                        h.cell("Image", |h| {
                            let target = format!("#image-{number}");
                            h.with("a", &[("href", &target)], |h| h.text(&report.path));
                        });
                        h.cell("Result", |h| verdict::chip(h, report));
                        h.cell("Findings", |h| {
                            h.text(count(report.findings.len(), "finding"));
                        });
                    });
                }
            });
        });
    });
}

fn image(h: &mut Html<'_>, number: usize, report: &ImageReport, rules: &[Rule]) {
    let id = format!("image-{number}");
    let done = report.done.as_ref();
    let is_clean = report.verb == "clean" && done.is_some_and(Done::removed_anything);
    let class = match (is_clean, h.has_marks()) {
        (false, _) => "image",
        (true, false) => "image told",
        (true, true) => "image told marked",
    };
    h.with("section", &[("class", &class), ("id", &id)], |h| {
        h.el("h2", |h| h.text(&report.path));
        facts::container(h, report);
        verdict::banner(h, report);
        verdict::tiles(h, report);
        facts::errors(h, report);
        disk::write(h, report);
        findings::steps(h, report, rules);
        machines::write(h, report);
        findings::table(h, report);
        facts::done(h, report);
        facts::search(h, report);
        facts::left(h, report);
        facts::not_scanned(h, report);
        facts::volumes(h, report);
        facts::digests(h, report);
    });
}

/// A verb as a heading.
fn said(verb: &str) -> &'static str {
    match verb {
        "scan" => "Scan",
        "clean" => "Clean",
        "verify" => "Verification",
        "recover" => "Recovery",
        "undo" => "Undo",
        _ => "Report",
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A card with a heading.
fn card(h: &mut Html<'_>, title: &str, inside: impl FnOnce(&mut Html<'_>)) {
    h.class("section", "card", |h| {
        h.el("h3", |h| h.text(title));
        inside(h);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_style_sheet_and_nothing_else_is_allowed() {
        let page = page("x", None, |_| {});
        let sheet = page
            .split_once("<style>")
            .and_then(|(_, rest)| rest.split_once("</style>"))
            .unwrap()
            .0;
        let digest = tag::base64(&Sha256::digest(sheet.as_bytes()));
        assert!(page.contains(&format!("sha256-{digest}")), "{page}");
        assert!(page.contains("default-src &#39;none&#39;"));
        for word in [
            "<script", "http://", "https://", "url(", "@import", "style=",
        ] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn sections_of_cleans_are_taken_over_with_their_marks_and_once() {
        let section = |class: &str, id: &str, text: &str| {
            format!("<section class=\"image{class}\"{id}><h2>{text}</h2></section>")
        };
        let page = |all: &[String]| format!("<main>{}</main><footer></footer>", all.concat());
        let old = page(&[
            section(" told", " id=\"image-0\"", "a"),
            section("", " id=\"image-1\"", "b"),
            section(" told marked", " id=\"image-2\"", "c"),
        ]);
        let kept = told(&old);
        let marks: Vec<bool> = kept.iter().map(|(_, has_marks)| *has_marks).collect();
        assert_eq!(marks, [false, true]);
        let own = section(" told", " id=\"image-0\"", "a");
        let new = with_kept(page(&[own]), &kept);
        let want = [
            section(" told marked", "", "c"),
            section(" told", " id=\"image-0\"", "a"),
        ];
        assert_eq!(new, page(&want));
        assert_eq!(with_kept(new.clone(), &told(&new)), new);
        // What is cut off is no section.
        assert!(told("<section class=\"image told\"><h2>a").is_empty());
        assert_eq!(with_kept("no page".to_owned(), &kept), "no page");
    }

    #[test]
    fn the_style_sheet_cannot_end_itself() {
        assert!(!STYLE.contains("</"));
    }
}
