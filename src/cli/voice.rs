//! How a result is told: text, JSON, a page; with or without the identity in it.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;

use super::{
    compare::{self, Comparison},
    evidence,
};
use crate::{
    apply::outputs,
    error::{Error, Kind, Result},
    report::{Document, Earlier, ImageReport, Phase, html, redact, redact::Redactor, schema, text},
    rules::Rule,
    text::escape,
};

/// How the result is told.
#[derive(Debug, Args)]
pub(super) struct Voice {
    /// Write the result as JSON to FILE, or to standard output with "-" (then no text)
    #[arg(long, value_name = "FILE|-")]
    pub(super) json: Option<PathBuf>,
    /// Write the result as one self-contained page to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Put marks in the place of ids, SIDs, names and contents, the same mark for the same value of one
    /// run. Marks are salted digests: they tell nothing to who has only the report, and reports with
    /// them cannot be compared or verified against. Paths that you name stay as they are
    #[arg(long)]
    redact: bool,
    /// Say when the report was made; without it, the same run gives the same bytes
    #[arg(long)]
    timestamp: bool,
    /// Print no text and no progress
    #[arg(long, short)]
    pub(super) quiet: bool,
}

impl Voice {
    /// Finds out that a report cannot be written before the work is done.
    pub(super) fn check(&self, precious: &[PathBuf]) -> Result<()> {
        if self.html.as_deref() == Some(Path::new("-")) {
            return Err(Error::new(
                Kind::Usage,
                "--html -: the name of a file expected; only --json writes to standard output",
            ));
        }
        if let Some(path) = self.json_file() {
            outputs::check_above("--json", path)?;
            crate::apply::check_report(path, precious)?;
        }
        if let Some(path) = &self.html {
            outputs::check_above("--html", path)?;
            crate::apply::check_report(path, &self.page_precious(precious))?;
        }
        for path in self.files().filter(|_| self.redact) {
            if evidence::tells(path, true) {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "{}: it tells of a clean, with the ids in it; a report without them must not \
                         replace it",
                        escape(&path.display().to_string())
                    ),
                )
                .advise("choose another name for the report with --redact"));
            }
        }
        Ok(())
    }

    /// As [`Voice::check`], for a comparison: it keeps nothing of the report that it replaces.
    pub(super) fn check_comparison(&self, precious: &[PathBuf]) -> Result<()> {
        self.check(precious)?;
        for path in self.files() {
            if evidence::tells(path, false) {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "{}: it tells of a clean; a comparison must not replace it",
                        escape(&path.display().to_string())
                    ),
                )
                .advise("choose another name for the comparison"));
            }
        }
        Ok(())
    }

    /// The files that reports go to.
    fn files(&self) -> impl Iterator<Item = &Path> {
        self.json_file().into_iter().chain(self.html.as_deref())
    }

    fn to_stdout(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Whether errors go to standard error: nobody sees those in a text that goes elsewhere.
    fn complains(&self) -> bool {
        self.is_silent() || !std::io::stdout().is_terminal()
    }

    /// Whether nothing but JSON goes to standard output, or nothing at all.
    pub(super) fn is_silent(&self) -> bool {
        self.quiet || self.to_stdout()
    }

    pub(super) fn json_file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// Whether marks stand in the place of what the image held: then there is nothing to be kept.
    pub(super) fn redacts(&self) -> bool {
        self.redact
    }

    /// What a run will tell of this image, for whoever has to tell it in its place.
    pub(super) fn earlier(&self, report: &ImageReport, rules: &[Rule]) -> Result<Earlier> {
        let broken = |e: &dyn std::fmt::Display| Error::internal(format!("report: {e}"));
        let document = Document {
            declone: env!("CARGO_PKG_VERSION"),
            schema: schema::VERSION,
            exit_code: report.exit_code,
            redacted: false,
            time: self.time(),
            images: std::slice::from_ref(report),
        };
        let mut json = redact::document_json(&document, None).map_err(|e| broken(&e))?;
        let mut text = String::new();
        text::write(&mut text, report, rules).map_err(|e| broken(&e))?;
        let page = (self.html.is_some()).then(|| html::images(&document, rules, None));
        let image = json["images"][0].take();
        Ok(Earlier { image, text, page })
    }

    /// A document that holds only this result.
    pub(super) fn document_of(&self, image: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "declone": env!("CARGO_PKG_VERSION"),
            "schema": schema::VERSION,
            "exit_code": image["exit_code"],
            "redacted": false,
            "time": self.time(),
            "images": [image],
        })
    }

    /// Writes a report in which nothing is new: what an earlier run wrote down, safe at its place.
    pub(super) fn write_evidence(&self, path: &Path, json: &serde_json::Value) -> Result<()> {
        let mut bytes =
            serde_json::to_vec_pretty(json).map_err(|e| Error::internal(format!("report: {e}")))?;
        bytes.push(b'\n');
        crate::apply::write_report(path, &bytes, &[])
    }

    /// The page must not replace the JSON either.
    fn page_precious(&self, precious: &[PathBuf]) -> Vec<PathBuf> {
        let mut all = precious.to_vec();
        all.extend(self.json_file().map(Path::to_path_buf));
        all
    }

    fn time(&self) -> Option<String> {
        self.timestamp.then(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            rfc3339(since.map_or(0, |since| since.as_secs()))
        })
    }

    fn write_json(
        &self,
        json: &serde_json::Value,
        precious: &[PathBuf],
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(json).context("JSON")?;
        bytes.push(b'\n');
        match self.json_file() {
            None => print(out, &bytes)?,
            Some(path) => crate::apply::write_report(path, &bytes, precious)?,
        }
        Ok(())
    }

    fn write_page(&self, page: &str, earlier: Option<&str>, precious: &[PathBuf]) -> Result<()> {
        match &self.html {
            None => Ok(()),
            Some(path) => {
                let precious = self.page_precious(precious);
                let page = evidence::keep_page(path, page.to_owned(), earlier);
                crate::apply::write_report(path, page.as_bytes(), &precious)
            }
        }
    }
}

/// Tells the result. Once an image was changed, a report that cannot be told is no reason for a
/// code that promises an unchanged image.
pub(super) fn finish(
    voice: &Voice,
    mut reports: Vec<ImageReport>,
    rules: &[Rule],
    precious: &[PathBuf],
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let code = reports
        .iter()
        .map(|report| report.exit_code)
        .max()
        .unwrap_or(0);
    match tell(voice, &mut reports, rules, precious, code, out) {
        Err(error) if reports.iter().any(|r| r.phase != Phase::Untouched) => {
            let finisher = reports.first().map_or("", ImageReport::finisher);
            let done = match code {
                0 => "the image was changed as asked".to_owned(),
                _ => format!("the image may be changed in part, {finisher}"),
            };
            complain(&format!("{error:#}; {done}"));
            Ok(code)
        }
        other => other.map(|()| code),
    }
}

/// Prints text and JSON, writes the page.
fn tell(
    voice: &Voice,
    reports: &mut [ImageReport],
    rules: &[Rule],
    precious: &[PathBuf],
    code: u8,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    reports.iter_mut().for_each(ImageReport::name_errors);
    let redactor = match voice.redact {
        true => Some(Redactor::of(reports)?),
        false => None,
    };
    let redactor = redactor.as_ref();
    let document = Document {
        declone: env!("CARGO_PKG_VERSION"),
        schema: schema::VERSION,
        exit_code: code,
        redacted: voice.redact,
        time: voice.time(),
        images: reports,
    };
    if voice.json.is_some() {
        let mut json = redact::document_json(&document, redactor).context("JSON")?;
        tell_earlier(&mut json, document.images);
        if let Some(path) = voice.json_file() {
            evidence::keep(path, &mut json);
        }
        voice.write_json(&json, precious, out)?;
        evidence::fulfilled(voice, document.images);
    }
    if voice.html.is_some() {
        let mut earlier = document.images.iter().filter_map(|report| {
            let page = report.earlier.as_ref()?.page.as_deref()?;
            Some((report.resumed, page))
        });
        let earlier = earlier.next();
        let page = match earlier {
            // It is this page, but for what was kept.
            Some((true, page)) => page.to_owned(),
            _ => html::images(&document, rules, redactor),
        };
        voice.write_page(&page, earlier.map(|(_, page)| page), precious)?;
    }
    let shown = |text: &str| match redactor {
        Some(redactor) => printable(&redactor.text(text)),
        None => printable(text),
    };
    if !voice.is_silent() {
        let mut all = String::new();
        for (i, report) in reports.iter().enumerate() {
            if i > 0 {
                all.push('\n');
            }
            match &report.earlier {
                Some(earlier) if report.resumed => {
                    all.push_str(&earlier.text);
                    all.push_str(
                        "An earlier run did this and was ended before it could tell it.\n",
                    );
                }
                _ => text::write(&mut all, report, rules).context("report")?,
            }
        }
        if let Some(time) = &document.time {
            all.push_str(&format!("At {time}.\n"));
        }
        print(out, shown(&all).as_bytes())?;
    }
    if voice.complains() {
        for report in reports.iter() {
            for error in &report.errors {
                // The path was named by the user: it stays, also with marks in the rest.
                let head = match error.foreseen {
                    true => "a clean would be refused: ",
                    false => "",
                };
                complain(&format!("{}: {head}{}", error.image, shown(&error.what)));
            }
        }
    }
    Ok(())
}

/// Puts what earlier runs did in the place of what this one did not do, or before what it did.
fn tell_earlier(json: &mut serde_json::Value, reports: &[ImageReport]) {
    let Some(images) = json
        .get_mut("images")
        .and_then(serde_json::Value::as_array_mut)
    else {
        return;
    };
    for (number, report) in reports.iter().enumerate().rev() {
        if let Some(earlier) = &report.earlier {
            let end = number + usize::from(report.resumed);
            images.splice(number..end, [earlier.image.clone()]);
        }
    }
    let codes = images
        .iter()
        .filter_map(|image| image["exit_code"].as_u64());
    let code = codes.max();
    if let Some(code) = code {
        json["exit_code"] = code.into();
    }
}

/// Tells a comparison.
pub(super) fn finish_comparison(
    voice: &Voice,
    mut all: Comparison,
    precious: &[PathBuf],
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let redactor = match voice.redact {
        true => {
            let mut redactor = Redactor::new()?;
            all.ids().for_each(|id| redactor.learn(id));
            redactor.settle()?;
            Some(redactor)
        }
        false => None,
    };
    all.redacted = voice.redact;
    all.time = voice.time();
    if voice.json.is_some() {
        let mut json = serde_json::to_value(&all).context("JSON")?;
        redact::make_printable(&mut json);
        if let Some(redactor) = &redactor {
            redactor.json(&mut json);
        }
        voice.write_json(&json, precious, out)?;
    }
    if voice.html.is_some() {
        let page = html::clones(&all.picture(), all.time.as_deref(), redactor.as_ref());
        voice.write_page(&page, None, precious)?;
    }
    if !voice.is_silent() {
        let mut shown = compare::text(&all);
        if let Some(time) = &all.time {
            shown.push_str(&format!("At {time}.\n"));
        }
        if let Some(redactor) = &redactor {
            shown = redactor.text(&shown);
        }
        print(out, printable(&shown).as_bytes())?;
    }
    if voice.complains() {
        for (image, error) in all.failures() {
            let error = redactor
                .as_ref()
                .map_or(error.to_owned(), |r| r.text(error));
            complain(&format!("{image}: {error}"));
        }
    }
    Ok(all.exit_code)
}

/// An error for the person at the terminal.
pub(super) fn complain(text: &str) {
    writeln!(std::io::stderr(), "declone: {}", printable(text)).ok();
}

/// The last look at what goes to a terminal: nothing in it is hidden or steers the terminal, whoever
/// forgot to escape it. Lines stay lines.
pub(super) fn printable(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(escape).collect();
    lines.join("\n")
}

/// A closed pipe (`declone scan x | head -1`) is the reader's decision, not an error.
pub(super) fn print(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::io("standard output", &e)),
        Ok(()) => Ok(()),
    }
}

/// Seconds since 1970 as a date and time of UTC (RFC 3339; the Gregorian calendar repeats after 400
/// years, counted here from 1 March 2000).
fn rfc3339(seconds: u64) -> String {
    const ERA: u64 = 146_097;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // 1970-01-01 is 719,468 days after 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
