//! Takes identities out of a report: each becomes a mark, the same one for the same value.
//!
//! In: a report, or any text of it. Out: the same with marks. Facts from: the forms in which GUIDs,
//! SIDs, MAC addresses and thumbprints are written.
//!
//! # Why
//! - **A salt of each run**: the short digest of a value that can be guessed (a computer's name, a
//!   serial number) could otherwise be found by trying. The marks therefore mean nothing outside the
//!   report, and reports cannot be compared by them.
//! - **By form and by value**: what looks like an id is one wherever it stands; what has no form of its
//!   own (names, file contents) is learned from the findings first and then replaced everywhere.

use std::{collections::BTreeSet, ops::Range};

use aho_corasick::{AhoCorasick, MatchKind};
use sha2::{Digest, Sha256};

use super::{Document, ImageReport};
use crate::{
    error::{Error, Result},
    plan::{Subject, machines::MachineFacts},
    text::escape,
};

/// Shortest value that is learned: anything shorter stands everywhere by accident.
const MIN_LEARNED: usize = 3;
/// A value shorter than this is replaced only where it stands alone as a word.
const WORD: usize = 8;
/// A user's own hive.
const USER_HIVE: &str = "NTUSER.DAT";

/// Replaces identities.
#[derive(Debug)]
pub struct Redactor {
    salt: [u8; 32],
    learned: BTreeSet<String>,
    finder: Option<AhoCorasick>,
}

impl Redactor {
    /// One for this run only.
    pub fn new() -> Result<Self> {
        let mut salt = [0; 32];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::io("random numbers", &e.into()))?;
        Ok(Self {
            salt,
            learned: BTreeSet::new(),
            finder: None,
        })
    }

    /// One that knows what stands in these reports; what they say in full is taken out of them.
    pub fn of(reports: &mut [ImageReport]) -> Result<Self> {
        let mut redactor = Self::new()?;
        for report in reports {
            redactor.report(report);
        }
        redactor.settle()?;
        Ok(redactor)
    }

    /// Remembers a value that has no form of its own.
    pub fn learn(&mut self, value: &str) {
        let value = escape(value.trim());
        if value.chars().count() >= MIN_LEARNED {
            self.learned.insert(value.to_ascii_lowercase());
        }
    }

    /// To be called when everything was learned.
    pub fn settle(&mut self) -> Result<()> {
        if self.learned.is_empty() {
            return Ok(());
        }
        let finder = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(&self.learned)
            .map_err(|e| Error::internal(format!("redaction: {e}")))?;
        self.finder = Some(finder);
        Ok(())
    }

    /// What a value becomes.
    #[must_use]
    pub fn mark(&self, value: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(value.to_lowercase().as_bytes());
        let digest = hash.finalize();
        format!("redacted:{}", hex::encode(&digest[..5]))
    }

    /// A text with marks for every identity in it.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            let Some((range, value)) = self.next(text, at) else {
                break;
            };
            out.push_str(&text[at..range.start]);
            out.push_str(&self.mark(&value));
            at = range.end;
        }
        out.push_str(&text[at..]);
        out
    }

    /// The next identity from `at` on, and the value by which it is marked.
    fn next(&self, text: &str, at: usize) -> Option<(Range<usize>, String)> {
        let known = self.finder.as_ref().and_then(|finder| {
            finder
                .find_iter(&text[at..])
                .map(|found| at + found.start()..at + found.end())
                .find(|range| range.len() >= WORD || stands_alone(text, range))
        });
        let shaped = next_shaped(text, at);
        match (known, shaped) {
            (Some(known), Some((range, value))) => {
                // What begins first; of two at one place, the longer.
                let first = known.start < range.start
                    || (known.start == range.start && known.end > range.end);
                match first {
                    true => {
                        let value = text[known.clone()].to_owned();
                        Some((known, value))
                    }
                    false => Some((range, value)),
                }
            }
            (Some(known), None) => {
                let value = text[known.clone()].to_owned();
                Some((known, value))
            }
            (None, shaped) => shaped,
        }
    }

    /// Names of users stand in paths; the id of a user's device has no form of its own.
    fn learn_users(&mut self, machine: &MachineFacts) {
        for hive in &machine.hives {
            let mut parts = hive.path.as_deref().unwrap_or_default().rsplit('\\');
            if let (USER_HIVE, Some(user)) = (hive.name, parts.nth(1)) {
                self.learn(user);
            }
        }
        let lines = machine.generalization.iter().flat_map(|of| &of.evidence);
        for line in lines {
            let Some(value) = &line.value else { continue };
            match line.id.as_ref() {
                "shell_user_directories" => {
                    let (_, names) = value.split_once(": ").unwrap_or_default();
                    names.split(", ").for_each(|name| self.learn(name));
                }
                "user_device_id" | "user_network_proxy" => self.learn(value),
                _ => {}
            }
        }
    }

    /// Takes out what a report says in full, and learns what may stand elsewhere in it.
    fn report(&mut self, report: &mut ImageReport) {
        for finding in &mut report.findings {
            for id in &finding.ids {
                self.learn(&id.value);
            }
            finding.evidence = match &mut finding.subject {
                // The value's data is the identity, whatever it looks like.
                Subject::Value { .. } => {
                    let bare = finding.evidence.trim_start_matches("GUID:").to_owned();
                    self.learn(&bare);
                    self.mark(&canonical(&bare))
                }
                // The names below it are those of servers and sites.
                Subject::Key { key, .. } => {
                    if let Some((_, name)) = key.rsplit_once('\\') {
                        self.learn(name);
                    }
                    let (counts, names) = match finding.evidence.split_once(": ") {
                        Some((counts, names)) => (counts.to_owned(), Some(names.to_owned())),
                        None => (finding.evidence.clone(), None),
                    };
                    for name in names.iter().flat_map(|names| names.split(", ")) {
                        self.learn(name);
                    }
                    match names {
                        Some(names) => format!("{counts}: {}", self.mark(&names)),
                        None => counts,
                    }
                }
                Subject::File { .. } => finding.evidence.clone(),
            };
        }
        for machine in &report.machines {
            self.learn_users(machine);
            let Some(identity) = &machine.identity else {
                continue;
            };
            let named = [
                &identity.computer_name,
                &identity.computer_sid,
                &identity.domain,
                &identity.domain_sid,
            ];
            named
                .into_iter()
                .flatten()
                .for_each(|value| self.learn(value));
            for fact in &identity.facts {
                self.learn(&fact.value);
                fact.decoded.iter().for_each(|value| self.learn(value));
            }
        }
        // The bytes that were searched for are the identity.
        report.tokens.clear();
        // Whoever guesses the identity could try whether the page was what he thinks.
        for patch in report.done.iter_mut().flat_map(|done| &mut done.patches) {
            patch.sha256_old = self.mark(&patch.sha256_old);
        }
    }

    /// Every text of a JSON document.
    pub fn json(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = self.text(text),
            serde_json::Value::Array(all) => all.iter_mut().for_each(|value| self.json(value)),
            serde_json::Value::Object(all) => {
                all.values_mut().for_each(|value| self.json(value));
            }
            _ => {}
        }
    }
}

/// The reports' document as JSON: whatever a producer forgot to escape is escaped here.
pub fn document_json(
    document: &Document<'_>,
    redactor: Option<&Redactor>,
) -> serde_json::Result<serde_json::Value> {
    let mut json = serde_json::to_value(document)?;
    make_printable(&mut json);
    if let Some(redactor) = redactor {
        redactor.json(&mut json);
    }
    Ok(json)
}

/// Spells out what is hidden in any text of a document.
pub fn make_printable(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = escape(text),
        serde_json::Value::Array(all) => all.iter_mut().for_each(make_printable),
        serde_json::Value::Object(all) => all.values_mut().for_each(make_printable),
        _ => {}
    }
}

/// One spelling for all forms of a GUID.
fn canonical(value: &str) -> String {
    match next_shaped(value, 0) {
        Some((range, canonical)) if range == (0..value.len()) => canonical,
        _ => value.to_owned(),
    }
}

fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].chars().next_back().is_some_and(word)
        && !text[range.end..].chars().next().is_some_and(word)
}

/// The next GUID, SID, MAC address, MD5 or SHA-1 from `from` on, with one spelling of its value.
fn next_shaped(text: &str, from: usize) -> Option<(Range<usize>, String)> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        if before.is_some_and(u8::is_ascii_alphanumeric) && at > from {
            at += 1;
            continue;
        }
        let found = guid(&bytes[at..])
            .or_else(|| sid(&bytes[at..]))
            .or_else(|| mac(&bytes[at..]));
        if let Some(len) = found {
            let plain: String = text[at..at + len]
                .chars()
                .filter(|c| !['-', ':'].contains(c))
                .collect();
            let value = match bytes[at..].first() {
                // The numbers of a SID mean nothing without what divides them.
                Some(b'S' | b's') => text[at..at + len].to_ascii_lowercase(),
                _ => plain.to_ascii_lowercase(),
            };
            return Some((at..at + len, value));
        }
        at += 1;
    }
    None
}

fn hex_run(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count()
}

/// A GUID with or without dashes, or 40 digits of a thumbprint. 64 digits are a digest of what was
/// read or written, and stay.
fn guid(bytes: &[u8]) -> Option<usize> {
    match hex_run(bytes) {
        len @ (32 | 40) => return ends(bytes, len),
        8 => {}
        _ => return None,
    }
    let mut at = 8;
    for len in [4, 4, 4, 12] {
        if bytes.get(at) != Some(&b'-') || hex_run(bytes.get(at + 1..)?) < len {
            return None;
        }
        at += 1 + len;
    }
    ends(bytes, at)
}

/// The three numbers that are the machine's or the domain's; what follows them stays.
fn sid(bytes: &[u8]) -> Option<usize> {
    const HEAD: &[u8] = b"s-1-5-21";
    if !bytes.get(..HEAD.len())?.eq_ignore_ascii_case(HEAD) {
        return None;
    }
    let mut at = HEAD.len();
    for _ in 0..3 {
        let digits = bytes
            .get(at + 1..)?
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if bytes.get(at) != Some(&b'-') || digits == 0 {
            return None;
        }
        at += 1 + digits;
    }
    Some(at)
}

/// Six bytes in hex, divided by colons or dashes.
fn mac(bytes: &[u8]) -> Option<usize> {
    let divider = *bytes.get(2)?;
    if ![b':', b'-'].contains(&divider) {
        return None;
    }
    for i in 0..6 {
        let at = 3 * i;
        if hex_run(bytes.get(at..)?) != 2 || (i < 5 && bytes.get(at + 2) != Some(&divider)) {
            return None;
        }
    }
    ends(bytes, 17)
}

fn ends(bytes: &[u8], len: usize) -> Option<usize> {
    let next = bytes.get(len);
    (!next.is_some_and(u8::is_ascii_alphanumeric)).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(learned: &[&str]) -> Redactor {
        let mut redactor = Redactor::new().unwrap();
        learned.iter().for_each(|value| redactor.learn(value));
        redactor.settle().unwrap();
        redactor
    }

    #[test]
    fn the_same_value_has_the_same_mark_in_every_form() {
        let r = redactor(&[]);
        let dashed = r.text("6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312");
        assert!(dashed.starts_with("redacted:"), "{dashed}");
        assert_eq!(r.text("6f2e17c493ab4d0e8c517a64e0b9d312"), dashed);
        assert_eq!(
            r.text("GUID:{6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312}"),
            format!("GUID:{{{dashed}}}")
        );
        assert_ne!(r.text("6F2E17C4-93AB-4D0E-8C51-7A64E0B9D313"), dashed);
        let other = redactor(&[]).text("6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312");
        assert_ne!(other, dashed, "another run, another mark");
    }

    #[test]
    fn sids_macs_and_thumbprints_go_and_digests_stay() {
        let r = redactor(&[]);
        let sid = r.text(r"\RECYCLER\S-1-5-21-1409082233-1767777339-725345543-500\x");
        assert!(
            sid.starts_with(r"\RECYCLER\redacted:") && sid.ends_with(r"-500\x"),
            "{sid}"
        );
        for gone in ["00:0c:29:aa:bb:cc", "00-0C-29-AA-BB-CC", &"ab".repeat(20)] {
            let text = r.text(gone);
            assert!(
                !text.to_lowercase().contains(&gone.to_lowercase()),
                "{text}"
            );
        }
        for stays in [
            &"ab".repeat(32),
            "0x278b00",
            "S-1-5-18",
            "2026-11-21",
            "a1:b2",
        ] {
            assert_eq!(r.text(stays), *stays);
        }
    }

    #[test]
    fn learned_values_go_wherever_they_stand() {
        let r = redactor(&["MASTER-XP", "PC1"]);
        let text = r.text("C:\\images\\master-xp.img of PC1, not of PC12 or EPC1");
        assert!(!text.to_lowercase().contains("master-xp"), "{text}");
        assert!(text.ends_with("not of PC12 or EPC1"), "{text}");
        assert!(!text.contains("of PC1,"), "{text}");
        assert_eq!(
            r.text("Käse PC1").chars().take(5).collect::<String>(),
            "Käse "
        );
    }
}
