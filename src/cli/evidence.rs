//! What a clean removed is told, whatever ends the run that removed it: nothing else knows it any more.
//!
//! Before an image is changed in place, the report as it will be lies beside the report's name. The next
//! run of the image with the same report finishes it. And a report that tells of a clean is not replaced
//! by one that tells of none.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::voice::Voice;
use crate::{
    apply::{self, Intent, change::Change},
    device::{BlockDevice, HostSet},
    error::{Error, Kind, Result},
    report::{Earlier, ImageReport},
    rules::Rule,
    text::escape,
};

/// Longest report that is looked into before it is replaced.
const MAX_REPORT: u64 = 1 << 30;

/// A page of the image after the change.
#[derive(Serialize, Deserialize)]
struct Page {
    at: u64,
    len: usize,
    sha256: String,
}

/// What lies beside the report.
#[derive(Serialize, Deserialize)]
struct Promise {
    declone_intent: u32,
    /// The image's path, without links.
    path: String,
    /// What was asked for.
    asked: String,
    pages: Vec<Page>,
    earlier: Earlier,
}

fn real(host: &HostSet) -> String {
    let path = host.first().path();
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    escape(&real.display().to_string())
}

/// Writes down what `report` says, before `change` is made. The report is as it will be.
pub(super) fn promise(
    voice: &Voice,
    asked: &str,
    host: &HostSet,
    change: &Change,
    rules: &[Rule],
    report: &ImageReport,
) -> Result<Option<Intent>> {
    let Some(path) = voice.json_file().filter(|_| !voice.redacts()) else {
        return Ok(None);
    };
    // What is cut off cannot be read again.
    let pages = change.pages().iter().filter(|page| page.len > 0);
    let pages = pages.map(|page| Page {
        at: page.offset,
        len: page.len,
        sha256: hex::encode(page.new),
    });
    let promise = Promise {
        declone_intent: 1,
        path: real(host),
        asked: asked.to_owned(),
        pages: pages.collect(),
        earlier: voice.earlier(report, rules)?,
    };
    let bytes = serde_json::to_vec(&promise)
        .map_err(|e| Error::internal(format!("report: what it will be: {e}")))?;
    apply::write_intent(path, &bytes)
}

/// Finds what an earlier run of this image wrote down. If that run changed the image, its result is
/// `report.earlier`; true if it was asked for the same, so that nothing is left to do. If it changed
/// nothing, what it wrote down is removed.
pub(super) fn resume(
    voice: &Voice,
    asked: Option<&str>,
    host: &HostSet,
    report: &mut ImageReport,
) -> Result<bool> {
    // With marks in it, nothing could be told in full: a later run without them does that.
    let Some(path) = voice.json_file().filter(|_| !voice.redacts()) else {
        return Ok(false);
    };
    let Some((intent, bytes)) = apply::read_intent(path)? else {
        return Ok(false);
    };
    let promise: Promise = serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(
            Kind::Usage,
            format!("the report's .intent file: what a clean wrote down expected, found: {e}"),
        )
        .advise("choose another name for the report, and look what that file is")
    })?;
    if promise.path != real(host) {
        return Ok(false);
    }
    let (mut new, mut buffer) = (0, Vec::new());
    for page in &promise.pages {
        buffer.resize(page.len.min(1 << 20), 0);
        // A page that cannot be read proves nothing: what was written down stays.
        if host.read_at(page.at, &mut buffer).is_err() {
            return Ok(false);
        }
        new += usize::from(hex::encode(Sha256::digest(&buffer)) == page.sha256);
    }
    // Not all: somebody wrote to it since, and yet only that run can tell what is gone.
    if new == 0 {
        intent.remove();
        return Ok(false);
    }
    let all = new == promise.pages.len();
    let mut earlier = promise.earlier;
    if let Some(image) = earlier.image.as_object_mut() {
        image.insert("resumed".to_owned(), Value::Bool(true));
    }
    let code = earlier.image.get("exit_code").and_then(Value::as_u64);
    report.earlier = Some(earlier);
    if !all || asked.is_some_and(|asked| asked != promise.asked) {
        return Ok(false);
    }
    report.resumed = true;
    if asked.is_some() {
        report.result = "cleaned";
        report.exit_code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
    }
    Ok(true)
}

/// After the report was written: what was written down for it is not needed any more.
pub(super) fn fulfilled(voice: &Voice, reports: &[ImageReport]) {
    let told = |image: &Value| {
        let same = |report: &ImageReport| {
            let done = report.done.as_ref();
            let done = done.filter(|done| done.in_place && done.written);
            let patches = done.and_then(|done| serde_json::to_value(&done.patches).ok());
            report.earlier.is_some() || patches.is_some() && patches == patches_of(image)
        };
        reports.iter().any(same)
    };
    if let Some(path) = voice.json_file().filter(|_| !voice.redacts())
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

/// Whether this result of JSON tells what a clean removed.
fn tells_of_a_clean(image: &Value) -> bool {
    let done = image.get("done");
    let is = |name: &str| done.and_then(|done| done.get(name));
    image.get("verb").and_then(Value::as_str) == Some("clean")
        && is("written") == Some(&Value::Bool(true))
        && is("changed_bytes").and_then(Value::as_u64) > Some(0)
}

fn same(one: &Value, other: &Value, name: &str) -> bool {
    one.get(name) == other.get(name)
}

fn read_old(path: &Path) -> Option<Value> {
    let small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_REPORT);
    let bytes = small.then(|| std::fs::read(path).ok()).flatten()?;
    serde_json::from_slice(&bytes).ok()
}

/// Whether a report that is there tells of a clean, and holds what was removed.
pub(super) fn tells_plainly(path: &Path) -> bool {
    read_old(path).is_some_and(|old| {
        let images = old.get("images").and_then(Value::as_array);
        old.get("redacted") != Some(&Value::Bool(true))
            && images.is_some_and(|images| images.iter().any(tells_of_a_clean))
    })
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
            (true, true) => !news
                .iter()
                .any(|new| same(old, new, "path") && patches_of(new) == patches_of(old)),
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
