//! The disk drawn to scale: volumes, what lies in them, findings and writes; and below, the places
//! where something is, magnified.
//!
//! Horizontal places are percent of the picture's width; what is too small to be seen keeps the width
//! of its outline.

use std::ops::Range;

use super::{
    card, count,
    tag::{Html, Percent},
};
use crate::report::{ImageReport, text::size};

/// Most rectangles of one lane: more cannot be told apart.
const MAX_MARKS: usize = 2_000;
/// Most magnified windows.
const MAX_WINDOWS: usize = 8;
/// Narrowest rectangle that a label fits into, in percent.
const MIN_LABEL: f64 = 12.0;

/// Something that lies somewhere in the disk.
struct Mark {
    class: &'static str,
    lane: Lane,
    range: Range<u64>,
    what: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Structures,
    Findings,
    Writes,
}

const LANES: [(Lane, &str); 3] = [
    (Lane::Structures, "$MFT, hives and logs"),
    (Lane::Findings, "findings"),
    (Lane::Writes, "writes"),
];

/// What is drawn.
struct Scene {
    len: u64,
    volumes: Vec<(Range<u64>, String, bool)>,
    marks: Vec<Mark>,
}

/// The picture, if there is a disk.
pub(super) fn write(h: &mut Html<'_>, report: &ImageReport) {
    let Some(scene) = Scene::of(report) else {
        return;
    };
    let title = match scene.volumes.is_empty() {
        true => "The file, to scale",
        false => "The disk, to scale",
    };
    card(h, title, |h| {
        h.el("figure", |h| {
            let windows = scene.windows();
            scene.draw(h, &windows);
            scene.key(h);
            scene.caption(h, &windows);
        });
    });
}

impl Scene {
    fn of(report: &ImageReport) -> Option<Self> {
        let image = report.image.as_ref()?;
        let archive = report.volumes.iter().any(|volume| volume.unit == "image");
        let len = match archive {
            true => image.file_len,
            false => image.disk_len,
        };
        // An archive of several files has no one space of bytes.
        if len == 0 || (archive && !image.container.files.is_empty()) {
            return None;
        }
        let mut scene = Self {
            len,
            volumes: Vec::new(),
            marks: Vec::new(),
        };
        if !archive {
            for volume in &report.volumes {
                let range = volume.disk_offset..volume.disk_offset.saturating_add(volume.len);
                let what = format!("{} {}", volume.partition, volume.filesystem);
                scene.volumes.push((range, what, volume.closed.is_some()));
            }
        }
        for area in report.volumes.iter().flat_map(|volume| &volume.areas) {
            let (class, what) = match area.kind {
                "hive" => ("s-hive", format!("hive {}", area.what)),
                "log" => ("s-log", format!("log {}", area.what)),
                _ => ("s-mft", area.what.clone()),
            };
            let range = area.disk_offset..area.disk_offset.saturating_add(area.len);
            scene.push(class, Lane::Structures, range, what);
        }
        for finding in &report.findings {
            let wanted = match archive {
                true => "image offset",
                false => "disk offset",
            };
            let place = finding.places.iter().find(|place| place.space == wanted);
            let at = place.and_then(|place| {
                u64::from_str_radix(place.value.trim_start_matches("0x"), 16).ok()
            });
            if let Some(at) = at {
                let range = at..at.saturating_add(1);
                scene.push("s-find", Lane::Findings, range, finding.title.clone());
            }
        }
        for patch in report.done.iter().flat_map(|done| &done.patches) {
            let at = match archive {
                true => Some(patch.offset),
                false => patch.disk_offset,
            };
            if let Some(at) = at {
                let what = format!("{} bytes", patch.len);
                scene.push(
                    "s-write",
                    Lane::Writes,
                    at..at.saturating_add(patch.len),
                    what,
                );
            }
        }
        (!scene.volumes.is_empty() || !scene.marks.is_empty()).then_some(scene)
    }

    fn push(&mut self, class: &'static str, lane: Lane, range: Range<u64>, what: String) {
        if range.start < self.len {
            let range = range.start..range.end.min(self.len);
            self.marks.push(Mark {
                class,
                lane,
                range,
                what,
            });
        }
    }

    fn percent(&self, at: u64) -> f64 {
        share(at, &(0..self.len))
    }

    /// Where something is, merged until there are few enough to be drawn side by side.
    fn windows(&self) -> Vec<Range<u64>> {
        let mut all: Vec<Range<u64>> = self.marks.iter().map(|mark| mark.range.clone()).collect();
        all.sort_unstable_by_key(|range| (range.start, range.end));
        let mut gap = (self.len / 400).max(1);
        let merged = loop {
            let mut merged: Vec<Range<u64>> = Vec::new();
            for range in &all {
                match merged.last_mut() {
                    Some(last) if range.start.saturating_sub(last.end) < gap => {
                        last.end = last.end.max(range.end);
                    }
                    _ => merged.push(range.clone()),
                }
            }
            if merged.len() <= MAX_WINDOWS {
                break merged;
            }
            gap = gap.saturating_mul(2);
        };
        let shown: u64 = merged.iter().map(|range| range.end - range.start).sum();
        if shown > self.len / 2 {
            return Vec::new();
        }
        merged
            .into_iter()
            .map(|range| {
                let margin = ((range.end - range.start) / 20).max(512);
                range.start.saturating_sub(margin)..range.end.saturating_add(margin).min(self.len)
            })
            .collect()
    }

    fn draw(&self, h: &mut Html<'_>, windows: &[Range<u64>]) {
        let lanes: Vec<_> = LANES
            .iter()
            .filter(|(lane, _)| self.marks.iter().any(|mark| mark.lane == *lane))
            .collect();
        let overview = 46 + 36 * lanes.len();
        let height = match windows.is_empty() {
            true => overview,
            false => overview + 54 + 22 * (lanes.len() + 1) + 20,
        };
        let label = format!(
            "{} of {}: {}, {}",
            match self.volumes.is_empty() {
                true => "File",
                false => "Disk",
            },
            size(self.len),
            count(self.volumes.len(), "volume"),
            count(self.marks.len(), "mark")
        );
        h.with(
            "svg",
            &[
                ("role", &"img"),
                ("height", &height),
                ("aria-label", &label),
            ],
            |h| {
                lane_name(h, 10, &format!("0 to {:#x} ({})", self.len, size(self.len)));
                rect(h, "s-free", (0.0, 100.0), (16, 26), "not in a volume");
                self.draw_volumes(h);
                for (number, (lane, name)) in lanes.iter().enumerate() {
                    let top = 46 + 36 * number;
                    let marks = self.marks.iter().filter(|mark| mark.lane == *lane);
                    lane_name(h, top + 14, &format!("{name} ({})", marks.clone().count()));
                    rect(h, "s-track", (0.0, 100.0), (top + 20, 12), name);
                    for mark in marks.take(MAX_MARKS) {
                        let (from, to) =
                            (self.percent(mark.range.start), self.percent(mark.range.end));
                        rect(
                            h,
                            mark.class,
                            (from, to - from),
                            (top + 20, 12),
                            &mark.title(),
                        );
                    }
                }
                self.draw_windows(h, windows, &lanes, overview);
            },
        );
    }

    fn draw_volumes(&self, h: &mut Html<'_>) {
        for (range, what, closed) in &self.volumes {
            let (from, to) = (self.percent(range.start), self.percent(range.end));
            let class = match closed {
                true => "s-shut",
                false => "s-part",
            };
            let len = size(range.end - range.start);
            let title = format!("{what}, {len} at disk offset {:#x}", range.start);
            rect(h, class, (from, to - from), (16, 26), &title);
            if to - from >= MIN_LABEL {
                let x = Percent(from + 1.0);
                h.with("text", &[("class", &"onbar"), ("x", &x), ("y", &33)], |h| {
                    h.text(what)
                });
            }
        }
    }

    fn draw_windows(
        &self,
        h: &mut Html<'_>,
        windows: &[Range<u64>],
        lanes: &[&(Lane, &str)],
        overview: usize,
    ) {
        if windows.is_empty() {
            return;
        }
        let top = overview + 50;
        let width = 100.0 / windows.len() as f64;
        lane_name(h, overview + 18, "magnified, each stretch to its own scale");
        for (number, window) in windows.iter().enumerate() {
            let left = width * number as f64 + 0.4;
            let inner = width - 0.8;
            let bottom = top + 22 * lanes.len() + 4;
            let middle = self.percent(window.start / 2 + window.end / 2);
            let ends = [
                (self.percent(window.start).min(middle), left),
                (self.percent(window.end).max(middle), left + inner),
            ];
            for (from, to) in ends {
                h.with(
                    "line",
                    &[
                        ("class", &"s-wire"),
                        ("x1", &Percent(from)),
                        ("y1", &(overview + 24)),
                        ("x2", &Percent(to)),
                        ("y2", &(top - 4)),
                    ],
                    |_| {},
                );
            }
            rect(
                h,
                "s-track",
                (left, inner),
                (top - 4, bottom - top + 4),
                &span(window),
            );
            for (lane, marks) in lanes.iter().enumerate() {
                let inside = self.marks.iter().filter(|mark| {
                    mark.lane == marks.0
                        && mark.range.start < window.end
                        && mark.range.end > window.start
                });
                for mark in inside.take(MAX_MARKS) {
                    let from = share(mark.range.start.max(window.start), window) * inner / 100.0;
                    let to = share(mark.range.end.min(window.end), window) * inner / 100.0;
                    let place = (left + from, to - from);
                    rect(h, mark.class, place, (top + 22 * lane, 14), &mark.title());
                }
            }
            rect(
                h,
                "s-frame",
                (left, inner),
                (top - 4, bottom - top + 4),
                &span(window),
            );
            let x = Percent(left + inner / 2.0);
            h.with(
                "text",
                &[
                    ("class", &"onbar"),
                    ("x", &x),
                    ("y", &(bottom + 16)),
                    ("text-anchor", &"middle"),
                ],
                |h| h.text(letter(number)),
            );
        }
    }

    /// What the colours mean.
    fn key(&self, h: &mut Html<'_>) {
        let all = [
            ("s-mft", "$MFT, $LogFile and other structures"),
            ("s-hive", "registry hive"),
            ("s-log", "log of a hive"),
            ("s-find", "finding"),
            ("s-write", "page written, or to be written"),
        ];
        h.class("ul", "key", |h| {
            for (class, name) in all {
                if self.marks.iter().any(|mark| mark.class == class) {
                    h.el("li", |h| {
                        h.with(
                            "svg",
                            &[("width", &14), ("height", &12), ("aria-hidden", &"true")],
                            |h| {
                                rect(h, class, (0.0, 100.0), (0, 12), name);
                            },
                        );
                        h.text(name);
                    });
                }
            }
        });
    }

    fn caption(&self, h: &mut Html<'_>, windows: &[Range<u64>]) {
        if windows.is_empty() {
            return;
        }
        h.el("figcaption", |h| {
            for (number, window) in windows.iter().enumerate() {
                let inside = |lane| {
                    self.marks
                        .iter()
                        .filter(|mark| {
                            mark.lane == lane
                                && mark.range.start < window.end
                                && mark.range.end > window.start
                        })
                        .count()
                };
                let mut parts = Vec::new();
                if inside(Lane::Findings) > 0 {
                    parts.push(count(inside(Lane::Findings), "finding"));
                }
                if inside(Lane::Writes) > 0 {
                    parts.push(count(inside(Lane::Writes), "write"));
                }
                let mut names: Vec<&str> = Vec::new();
                for mark in &self.marks {
                    let here = mark.range.start < window.end && mark.range.end > window.start;
                    if here && mark.lane == Lane::Structures && !names.contains(&mark.what.as_str())
                    {
                        names.push(&mark.what);
                    }
                }
                parts.extend(names.iter().take(4).map(|name| (*name).to_owned()));
                if names.len() > 4 {
                    parts.push(format!("{} more", names.len() - 4));
                }
                h.el("div", |h| {
                    h.el("b", |h| h.text(letter(number)));
                    h.text(format_args!(" {}: {}", span(window), parts.join(", ")));
                });
            }
        });
    }
}

impl Mark {
    fn title(&self) -> String {
        format!("{} at {:#x}", self.what, self.range.start)
    }
}

fn span(window: &Range<u64>) -> String {
    let len = size(window.end - window.start);
    format!("{:#x} to {:#x} ({len})", window.start, window.end)
}

fn letter(number: usize) -> char {
    u8::try_from(number).map_or('?', |number| char::from(b'A'.saturating_add(number)))
}

/// Where `at` lies in `whole`, in percent.
fn share(at: u64, whole: &Range<u64>) -> f64 {
    let len = (whole.end - whole.start).max(1);
    at.saturating_sub(whole.start) as f64 / len as f64 * 100.0
}

fn lane_name(h: &mut Html<'_>, y: usize, name: &str) {
    h.with("text", &[("class", &"lane"), ("x", &0), ("y", &y)], |h| {
        h.text(name)
    });
}

/// A rectangle with what is shown when a pointer rests on it.
fn rect(
    h: &mut Html<'_>,
    class: &'static str,
    (x, width): (f64, f64),
    (y, height): (usize, usize),
    title: &str,
) {
    let attributes: [(&'static str, &dyn std::fmt::Display); 5] = [
        ("class", &class),
        ("x", &Percent(x)),
        ("y", &y),
        // A width of zero would not be drawn at all, not even its outline.
        ("width", &Percent(width.max(0.01))),
        ("height", &height),
    ];
    h.with("rect", &attributes, |h| h.el("title", |h| h.text(title)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(len: u64, at: &[Range<u64>]) -> Scene {
        let mut scene = Scene {
            len,
            volumes: Vec::new(),
            marks: Vec::new(),
        };
        for range in at {
            scene.push("s-find", Lane::Findings, range.clone(), "x".to_owned());
        }
        scene
    }

    #[test]
    fn every_mark_lies_in_a_window_and_windows_are_few() {
        let marks: Vec<Range<u64>> = (0..300_u64)
            .map(|i| i * i * 11_000..i * i * 11_000 + 9)
            .collect();
        let scene = scene(1 << 32, &marks);
        let windows = scene.windows();
        assert!((1..=MAX_WINDOWS).contains(&windows.len()));
        for mark in &scene.marks {
            let inside = |w: &&Range<u64>| w.start <= mark.range.start && mark.range.end <= w.end;
            assert_eq!(windows.iter().filter(inside).count(), 1);
        }
    }

    #[test]
    fn absurd_places_stay_in_the_picture() {
        let scene = scene(1 << 20, &[u64::MAX - 1..u64::MAX, 5..u64::MAX, 7..8]);
        assert_eq!(scene.marks.len(), 2);
        assert!(scene.marks.iter().all(|mark| mark.range.end <= scene.len));
        let mut h = Html::new(None);
        scene.draw(&mut h, &scene.windows());
        assert!(!h.finish().contains("NaN"));
    }
}
