//! The picture of a comparison: which images share which id.

use std::collections::BTreeMap;

use super::{
    card, count,
    facts::header,
    tag::{Html, Percent},
};

/// Most images of a group, and most of its ids, that are drawn; the tables go further.
const MAX_DRAWN: usize = 40;
/// Most rows of one table.
const MAX_ROWS: usize = 500;
/// Most places of one id in one image.
const MAX_PLACES: usize = 20;
/// Longest label in a picture, in characters.
const MAX_LABEL: usize = 52;
/// The same in a narrow window.
const MAX_NARROW: usize = 18;

/// What a comparison found, as the page needs it.
#[derive(Debug, Default)]
pub struct Clones {
    /// Images that share an id.
    pub groups: Vec<CloneGroup>,
    /// Every image that was looked at.
    pub images: Vec<ComparedImage>,
}

/// Images with one identity.
#[derive(Debug, Default)]
pub struct CloneGroup {
    /// What they are to each other, in a few words.
    pub label: &'static str,
    /// Whether more than one computer may carry the identity.
    pub is_duplicate: bool,
    /// Their paths.
    pub images: Vec<String>,
    /// The ids that more than one of them has.
    pub shared: Vec<SharedId>,
    /// What else is to be said about the group.
    pub remarks: Vec<String>,
}

/// An id that more than one image has.
#[derive(Debug, Default)]
pub struct SharedId {
    /// What sort of id.
    pub identity: String,
    /// The id.
    pub value: String,
    /// Image and place, each.
    pub places: Vec<(String, String)>,
}

/// One image.
#[derive(Debug, Default)]
pub struct ComparedImage {
    /// Its path.
    pub path: String,
    /// How many ids were found in it.
    pub ids: usize,
    /// Why it could not be looked at, or not wholly.
    pub errors: Vec<String>,
}

/// The whole comparison.
pub(super) fn write(h: &mut Html<'_>, all: &Clones) {
    let broken = all.images.iter().any(|image| !image.errors.is_empty());
    let duplicates = all.groups.iter().any(|group| group.is_duplicate);
    let class = match (duplicates, all.groups.is_empty(), broken) {
        (true, ..) => "verdict v-bad",
        (false, false, _) | (false, true, true) => "verdict v-warn",
        (false, true, false) => "verdict v-good",
    };
    h.line(
        "div",
        class,
        match all.groups.len() {
            0 => format!(
                "No two of {} images share an id that was looked for.",
                all.images.len()
            ),
            1 => "1 group of images carries the identity of one machine.".to_owned(),
            n => format!("{n} groups of images carry the identity of one machine each."),
        },
    );
    let grouped: usize = all.groups.iter().map(|group| group.images.len()).sum();
    let unread = all
        .images
        .iter()
        .filter(|image| !image.errors.is_empty())
        .count();
    h.class("div", "tiles", |h| {
        for (number, what) in [
            (all.images.len(), "images compared"),
            (all.groups.len(), "groups with one identity"),
            (grouped, "images in a group"),
            (unread, "not wholly looked at"),
        ] {
            h.class("div", "tile", |h| {
                h.el("b", |h| h.text(number));
                h.el("span", |h| h.text(what));
            });
        }
    });
    for (number, one) in all.groups.iter().take(MAX_ROWS).enumerate() {
        let images = count(one.images.len(), "image");
        card(
            h,
            &format!(
                "Group {}: {images} with one identity: {}",
                number + 1,
                one.label
            ),
            |h| group(h, one),
        );
    }
    if all.groups.len() > MAX_ROWS {
        let more = all.groups.len() - MAX_ROWS;
        h.line(
            "p",
            "note warn",
            format_args!("... and {more} more groups, see --json"),
        );
    }
    card(h, "All images", |h| images(h, all));
}

fn group(h: &mut Html<'_>, group: &CloneGroup) {
    for remark in &group.remarks {
        h.line("p", "note", remark);
    }
    h.el("figure", |h| {
        picture(h, group);
        if group.images.len() > MAX_DRAWN || group.shared.len() > MAX_DRAWN {
            h.el("figcaption", |h| {
                h.text(format_args!(
                    "Drawn: the first {MAX_DRAWN} of {} and of {}.",
                    count(group.images.len(), "image"),
                    count(group.shared.len(), "id")
                ));
            });
        }
    });
    h.class("table", "list", |h| {
        header(h, &["Id", "Image", "Found in"]);
        h.el("tbody", |h| {
            for (id, image, places) in rows(group).into_iter().take(MAX_ROWS) {
                h.el("tr", |h| {
                    h.cell("Id", |h| {
                        h.el("b", |h| h.text(&id.identity));
                        h.line("div", "mono", &id.value);
                    });
                    h.cell("Image", |h| h.text(image));
                    h.cell("Found in", |h| {
                        for place in places.iter().take(MAX_PLACES) {
                            h.line("div", "mono", place);
                        }
                        if places.len() > MAX_PLACES {
                            let more = places.len() - MAX_PLACES;
                            h.line(
                                "div",
                                "soft",
                                format_args!("... and {more} more, see --json"),
                            );
                        }
                    });
                });
            }
        });
    });
    let all = rows(group).len();
    if all > MAX_ROWS {
        let more = all - MAX_ROWS;
        h.line(
            "p",
            "soft",
            format_args!("... and {more} more rows, see --json"),
        );
    }
}

/// Every id with every image that has it, and all places in that image.
fn rows(group: &CloneGroup) -> Vec<(&SharedId, &String, Vec<&String>)> {
    let mut rows: Vec<(&SharedId, &String, Vec<&String>)> = Vec::new();
    for id in &group.shared {
        for (image, what) in &id.places {
            match rows.last_mut() {
                Some((last, of, places)) if std::ptr::eq(*last, id) && *of == image => {
                    places.push(what)
                }
                _ => rows.push((id, image, vec![what])),
            }
        }
    }
    rows
}

/// Images on the left, ids on the right, a line for each that has it.
fn picture(h: &mut Html<'_>, group: &CloneGroup) {
    let images: Vec<&String> = group.images.iter().take(MAX_DRAWN).collect();
    let ids: Vec<&SharedId> = group.shared.iter().take(MAX_DRAWN).collect();
    let height = 26 * images.len().max(ids.len()) + 24;
    let place = |number: usize, of: usize| {
        let room = (height - 24) as f64;
        let y = 24.0 + room * (number as f64 + 0.5) / of.max(1) as f64;
        y.round()
    };
    let numbers: BTreeMap<&str, usize> = images
        .iter()
        .enumerate()
        .map(|(number, image)| (image.as_str(), number))
        .collect();
    let label = format!(
        "{} share {}",
        count(group.images.len(), "image"),
        count(group.shared.len(), "id")
    );
    let (left, right) = (Percent(42.0), Percent(58.0));
    h.with(
        "svg",
        &[
            ("role", &"img"),
            ("height", &height),
            ("aria-label", &label),
        ],
        |h| {
            for (x, anchor, name) in [(left, "end", "images"), (right, "start", "ids they share")] {
                h.with(
                    "text",
                    &[
                        ("class", &"lane"),
                        ("x", &x),
                        ("y", &12),
                        ("text-anchor", &anchor),
                    ],
                    |h| h.text(name),
                );
            }
            for (number, id) in ids.iter().enumerate() {
                let mut owners: Vec<usize> = id
                    .places
                    .iter()
                    .filter_map(|(image, _)| numbers.get(image.as_str()).copied())
                    .collect();
                owners.sort_unstable();
                owners.dedup();
                for owner in owners {
                    h.with(
                        "line",
                        &[
                            ("class", &"s-link"),
                            ("x1", &left),
                            ("y1", &place(owner, images.len())),
                            ("x2", &right),
                            ("y2", &place(number, ids.len())),
                        ],
                        |_| {},
                    );
                }
            }
            for (number, image) in images.iter().enumerate() {
                let base = image.split(" (report ").next().unwrap_or(image);
                let base = base.rsplit('/').next().unwrap_or(base);
                node(
                    h,
                    "s-node",
                    (left, "end"),
                    place(number, images.len()),
                    base,
                    image,
                );
            }
            for (number, id) in ids.iter().enumerate() {
                let full = format!("{} {}", id.identity, id.value);
                let y = place(number, ids.len());
                node(h, "s-id", (right, "start"), y, &full, &full);
            }
        },
    );
}

fn node(
    h: &mut Html<'_>,
    class: &'static str,
    (x, anchor): (Percent, &'static str),
    y: f64,
    label: &str,
    full: &str,
) {
    h.with(
        "circle",
        &[("class", &class), ("cx", &x), ("cy", &y), ("r", &5)],
        |h| h.el("title", |h| h.text(full)),
    );
    let dx = match anchor {
        "end" => -12,
        _ => 12,
    };
    // Redacted before it is cut: half an id would not be recognised.
    let label = h.shown(label);
    for (class, room) in [("wide", MAX_LABEL), ("narrow", MAX_NARROW)] {
        let mut short: String = label.chars().take(room).collect();
        if label.chars().count() > room {
            short.push('…');
        }
        h.with(
            "text",
            &[
                ("class", &class),
                ("x", &x),
                ("y", &(y + 4.0)),
                ("dx", &dx),
                ("text-anchor", &anchor),
            ],
            |h| h.text(&short),
        );
    }
}

fn images(h: &mut Html<'_>, all: &Clones) {
    let mut member: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, group) in all.groups.iter().enumerate() {
        for image in &group.images {
            member.insert(image, number + 1);
        }
    }
    h.class("table", "list", |h| {
        header(h, &["Image", "Group", "Ids", "Remarks"]);
        h.el("tbody", |h| {
            for image in all.images.iter().take(MAX_ROWS) {
                h.el("tr", |h| {
                    h.cell("Image", |h| h.text(&image.path));
                    h.cell("Group", |h| match member.get(image.path.as_str()) {
                        Some(number) => {
                            h.line("span", "chip c-bad", format_args!("group {number}"))
                        }
                        None if image.errors.is_empty() => h.line("span", "chip c-good", "alone"),
                        None => h.line("span", "chip c-warn", "unknown"),
                    });
                    h.cell("Ids", |h| h.text(image.ids));
                    h.cell("Remarks", |h| {
                        for error in &image.errors {
                            h.el("div", |h| {
                                h.text(format_args!("not wholly looked at: {error}"));
                            });
                        }
                        if image.ids == 0 && image.errors.is_empty() {
                            h.line("span", "soft", "no id was found in it");
                        }
                    });
                });
            }
        });
    });
    if all.images.len() > MAX_ROWS {
        let more = all.images.len() - MAX_ROWS;
        h.line(
            "p",
            "soft",
            format_args!("... and {more} more images, see --json"),
        );
    }
}
