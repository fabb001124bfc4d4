//! What a clean removed is told, whatever ends the run that removed it: nothing else knows it any more.
//!
//! Before an image is changed in place, the report as it will be lies beside the report's name. The next
//! run of the image with the same report finishes it. And a report that tells of a clean is not replaced
//! by one that tells of none.

use std::{collections::HashSet, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::voice::Voice;
use crate::{
    apply::{self, Intent, change::Change},
    device::{BlockDevice, HostSet},
    error::{Error, Kind, Result},
    report::{Earlier, ImageReport, Phase, html},
    rules::Rule,
    text::escape,
};

/// Longest report that is looked into before it is replaced.
const MAX_REPORT: u64 = 1 << 30;

/// A page of the image after the change.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Page {
    at: u64,
    len: usize,
    sha256: String,
}

/// What lies beside the report.
#[derive(Debug, Serialize, Deserialize)]
struct Promise {
    declone_intent: u32,
    /// The image's path, without links.
    path: String,
    /// What was asked for.
    asked: String,
    pages: Vec<Page>,
    earlier: Earlier,
}

fn real(path: &Path) -> String {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    escape(&real.display().to_string())
}

/// The report that is kept safe. With marks in it, nothing could be told in full: a later run without
/// them does that.
fn safe(voice: &Voice) -> Option<&Path> {
    voice.json_file().filter(|_| !voice.redacts())
}

/// Finds out early whether [`promise`] can be written.
pub(super) fn check(voice: &Voice) -> Result<()> {
    safe(voice).map_or(Ok(()), apply::check_intent)
}

/// The pages that tell whether a change was made.
pub(super) fn pages(change: &Change) -> Vec<Page> {
    // What is cut off cannot be read again.
    let pages = change.pages().iter().filter(|page| page.len > 0);
    let pages = pages.map(|page| Page {
        at: page.offset,
        len: page.len,
        sha256: hex::encode(page.new),
    });
    pages.collect()
}

/// Writes down what `report` says, before the change is made. The report is as it will be. What an earlier
/// run wrote down and this one goes beyond is put into the report first.
pub(super) fn promise(
    voice: &Voice,
    asked: &str,
    image: &Path,
    pages: Vec<Page>,
    rules: &[Rule],
    report: &mut ImageReport,
) -> Result<Option<Intent>> {
    let Some(path) = safe(voice) else {
        return Ok(None);
    };
    if let Some(earlier) = report.earlier.take() {
        let mut document = voice.document_of(&earlier.image);
        keep(path, &mut document);
        voice.write_evidence(path, &document)?;
        if let Some((intent, _)) = apply::read_intent(path)? {
            intent.remove();
        }
    }
    report.name_errors();
    let promise = Promise {
        declone_intent: 1,
        path: real(image),
        asked: asked.to_owned(),
        pages,
        earlier: voice.earlier(report, rules)?,
    };
    let bytes = serde_json::to_vec(&promise)
        .map_err(|e| Error::internal(format!("report: what it will be: {e}")))?;
    apply::write_intent(path, &bytes)
}

/// What an earlier run of an image wrote down.
#[derive(Debug)]
pub(super) struct Waiting {
    intent: Intent,
    promise: Promise,
}

impl Waiting {
    /// Reads it, if it is this image's.
    fn find(voice: &Voice, image: &Path) -> Result<Option<Self>> {
        let Some(path) = safe(voice) else {
            return Ok(None);
        };
        let Some((intent, bytes)) = apply::read_intent(path)? else {
            return Ok(None);
        };
        let promise: Promise = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(
                Kind::Usage,
                format!("the report's .intent file: what a clean wrote down expected, found: {e}"),
            )
            .advise("choose another name for the report, and look what that file is")
        })?;
        let is_ours = promise.path == real(image);
        Ok(is_ours.then_some(Self { intent, promise }))
    }

    /// That run's result goes into the report, before that of this one. True if that run was asked for the
    /// same, so that its result is this one's if nothing is left to do.
    fn tell(self, asked: Option<&str>, report: &mut ImageReport) -> bool {
        let is_same = asked.is_none_or(|asked| asked == self.promise.asked);
        let mut earlier = self.promise.earlier;
        if let Some(image) = earlier.image.as_object_mut() {
            image.insert("resumed".to_owned(), Value::Bool(true));
        }
        report.earlier = Some(earlier);
        is_same
    }

    /// All that it tells is done now: its result is this run's.
    pub(super) fn finish(self, report: &mut ImageReport) {
        self.tell(None, report);
        resume(report, None);
    }
}

/// Finds what an earlier run of this image wrote down. If that run changed the image, its result is
/// `report.earlier`; true if all of it holds. If it changed nothing, what it wrote down is removed.
pub(super) fn pick_up(
    voice: &Voice,
    asked: Option<&str>,
    host: &HostSet,
    report: &mut ImageReport,
) -> Result<bool> {
    let Some(waiting) = Waiting::find(voice, host.first().path())? else {
        return Ok(false);
    };
    let (mut new, mut buffer) = (0, Vec::new());
    for page in &waiting.promise.pages {
        buffer.resize(page.len.min(1 << 20), 0);
        // A page that cannot be read proves nothing: what was written down stays.
        if host.read_at(page.at, &mut buffer).is_err() {
            return Ok(false);
        }
        new += usize::from(hex::encode(Sha256::digest(&buffer)) == page.sha256);
    }
    // Not all: somebody wrote to it since, and yet only that run can tell what is gone.
    if new == 0 {
        waiting.intent.remove();
        return Ok(false);
    }
    let all = new == waiting.promise.pages.len();
    Ok(waiting.tell(asked, report) && all)
}

/// As [`pick_up`], for a directory, which has no pages: its findings tell. A run that was asked for the same
/// and finds nothing that the earlier one did not does the rest of it, however far that came. Any other is
/// refused, as nobody could say which of the two removed what.
pub(super) fn rest_of(
    voice: &Voice,
    asked: &str,
    directory: &Path,
    report: &ImageReport,
) -> Result<Option<Waiting>> {
    let Some(waiting) = Waiting::find(voice, directory)? else {
        return Ok(None);
    };
    let now = serde_json::to_value(&report.findings)
        .map_err(|e| Error::internal(format!("findings: {e}")))?;
    let now = subjects(Some(&now));
    let then = subjects(waiting.promise.earlier.image.get("findings"));
    if asked == waiting.promise.asked && now.is_subset(&then) {
        return Ok(Some(waiting));
    }
    Err(Error::refused(
        "report: an earlier clean of this directory, asked for something else, was ended before it could \
         tell what it removed",
    )
    .advise("run that clean again with this report, or choose another name for the report of this one"))
}

/// What findings of JSON are about.
fn subjects(findings: Option<&Value>) -> HashSet<(String, String)> {
    let findings = findings.and_then(Value::as_array);
    findings
        .into_iter()
        .flatten()
        .map(|finding| (finding["rule"].to_string(), finding["subject"].to_string()))
        .collect()
}

/// The earlier run's result stands for this one, which found nothing left to do, or did the rest. Not if
/// this run has seen more than that one told.
pub(super) fn resume(report: &mut ImageReport, sha256: Option<&str>) {
    let Some(earlier) = &mut report.earlier else {
        return;
    };
    let code = earlier.image.get("exit_code").and_then(Value::as_u64);
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
    if report.exit_code > code || !report.errors.is_empty() {
        return;
    }
    if let (Some(digest), Some(done)) = (sha256, earlier.image.get_mut("done")) {
        done["sha256"] = Value::from(digest);
    }
    report.resumed = true;
    report.result = "cleaned";
    report.exit_code = code;
}

/// After the report was written: what was written down for it is not needed any more.
pub(super) fn fulfilled(voice: &Voice, reports: &[ImageReport]) {
    let told = |image: &Value| {
        let same = |report: &ImageReport| {
            let done = report.done.as_ref();
            let done = done.filter(|done| done.in_place && done.written);
            let done = done.filter(|_| report.phase != Phase::Writing);
            let patches = done.and_then(|done| serde_json::to_value(&done.patches).ok());
            let is_it = patches.is_some()
                && patches == patches_of(image)
                && image.get("path").and_then(Value::as_str) == Some(report.path.as_str());
            is_it || report.earlier.is_some() && report.phase != Phase::Writing
        };
        reports.iter().any(same)
    };
    if let Some(path) = safe(voice)
        && let Ok(Some((intent, bytes))) = apply::read_intent(path)
        && let Ok(promise) = serde_json::from_slice::<Promise>(&bytes)
        && told(&promise.earlier.image)
    {
        intent.remove();
    }
}

fn patches_of(image: &Value) -> Option<Value> {
    image.get("done")?.get("patches").cloned()
}

/// Whether this result of JSON tells what a clean removed: see [`crate::report::Done::removed_anything`].
fn tells_of_a_clean(image: &Value) -> bool {
    let done = image.get("done");
    let is = |name: &str| done.and_then(|done| done.get(name));
    let has = |name: &str| {
        is(name)
            .and_then(Value::as_array)
            .is_some_and(|all| !all.is_empty())
    };
    image.get("verb").and_then(Value::as_str) == Some("clean")
        && is("written") == Some(&Value::Bool(true))
        && (is("changed_bytes").and_then(Value::as_u64) > Some(0) || has("removals"))
}

fn same(one: &Value, other: &Value, name: &str) -> bool {
    one.get(name) == other.get(name)
}

fn bytes_of_old(path: &Path) -> Option<Vec<u8>> {
    let small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_REPORT);
    small.then(|| std::fs::read(path).ok()).flatten()
}

fn read_old(path: &Path) -> Option<Value> {
    serde_json::from_slice(&bytes_of_old(path)?).ok()
}

fn old_page(path: &Path) -> Option<String> {
    String::from_utf8(bytes_of_old(path)?).ok()
}

/// Whether a report or a page that is there tells of a clean; `plainly`: with what was removed in it.
pub(super) fn tells(path: &Path, plainly: bool) -> bool {
    if let Some(old) = read_old(path) {
        let images = old.get("images").and_then(Value::as_array);
        let has_marks = old.get("redacted") == Some(&Value::Bool(true));
        return !(plainly && has_marks)
            && images.is_some_and(|images| images.iter().any(tells_of_a_clean));
    }
    old_page(path).is_some_and(|page| {
        let mut all = html::told(&page).into_iter();
        all.any(|(_, has_marks)| !(plainly && has_marks))
    })
}

/// The page with the cleans that the one it replaces tells of, and those of `earlier`.
pub(super) fn keep_page(path: &Path, page: String, earlier: Option<&str>) -> String {
    let old = old_page(path).unwrap_or_default();
    let old = html::told(&old);
    let earlier = earlier.map(html::told).unwrap_or_default();
    html::with_kept(page, &[old, earlier].concat())
}

/// Puts before the results of `new` those of the report that it replaces which nothing else tells.
pub(super) fn keep(path: &Path, new: &mut Value) {
    let Some(old) = read_old(path) else {
        return;
    };
    let empty = Vec::new();
    let olds = old
        .get("images")
        .and_then(Value::as_array)
        .unwrap_or(&empty);
    let news = new
        .get("images")
        .and_then(Value::as_array)
        .unwrap_or(&empty);
    let cleans = news.iter().any(tells_of_a_clean);
    if !olds.iter().any(tells_of_a_clean) {
        return;
    }
    let kept: Vec<Value> = olds
        .iter()
        .filter(|old| match (cleans, tells_of_a_clean(old)) {
            (false, true) => true,
            // The newest of its sort is enough.
            (false, false) => !news
                .iter()
                .any(|new| same(old, new, "path") && same(old, new, "verb")),
            // Another clean took away something else.
            (true, true) => !news.iter().any(|new| {
                // A directory has no patches.
                same(old, new, "path")
                    && same(old, new, "findings")
                    && patches_of(new) == patches_of(old)
            }),
            (true, false) => false,
        })
        .cloned()
        .collect();
    let codes = kept
        .iter()
        .filter_map(|image| image.get("exit_code")?.as_u64());
    let code = codes
        .chain(new.get("exit_code").and_then(Value::as_u64))
        .max();
    let redacted = |document: &Value| document.get("redacted") == Some(&Value::Bool(true));
    // A document with any mark in it is no list of ids.
    let any_redacted = redacted(new) || (!kept.is_empty() && redacted(&old));
    if let Some(new) = new.as_object_mut() {
        new.insert("exit_code".to_owned(), code.unwrap_or(0).into());
        new.insert("redacted".to_owned(), any_redacted.into());
        if let Some(images) = new.get_mut("images").and_then(Value::as_array_mut) {
            images.splice(0..0, kept);
        }
    }
}
