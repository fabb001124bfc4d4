//! A typed writer of markup. Names of elements and attributes are `'static`; everything else gets in
//! escaped, so that no text of an image can become markup.

use std::fmt::Display;

use crate::{report::redact::Redactor, text::escape};

/// A page being written.
#[derive(Debug, Default)]
pub(super) struct Html<'a> {
    out: String,
    redactor: Option<&'a Redactor>,
}

/// Attributes: a name and whatever can be shown.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// Elements without an end.
const VOID: &[&str] = &["meta"];

impl<'a> Html<'a> {
    /// An empty page; every text goes through `redactor`, if there is one.
    pub(super) fn new(redactor: Option<&'a Redactor>) -> Self {
        Self {
            out: String::new(),
            redactor,
        }
    }

    /// An element with what is in it.
    pub(super) fn with(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        inside(self);
        if !VOID.contains(&name) {
            self.out.push_str("</");
            self.out.push_str(name);
            self.out.push('>');
        }
    }

    /// An element of a class with what is in it.
    pub(super) fn class(
        &mut self,
        name: &'static str,
        class: &'static str,
        inside: impl FnOnce(&mut Self),
    ) {
        self.with(name, &[("class", &class)], inside);
    }

    /// An element without attributes with what is in it.
    pub(super) fn el(&mut self, name: &'static str, inside: impl FnOnce(&mut Self)) {
        self.with(name, &[], inside);
    }

    /// An element of a class that holds one text.
    pub(super) fn line(&mut self, name: &'static str, class: &'static str, text: impl Display) {
        self.class(name, class, |h| h.text(text));
    }

    /// An element that holds nothing.
    pub(super) fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.with(name, attributes, |_| {});
    }

    /// A cell of a table; `label` stands before it where the table is shown as a list.
    pub(super) fn cell(&mut self, label: &'static str, inside: impl FnOnce(&mut Self)) {
        self.with("td", &[("data-label", &label)], |h| h.el("div", inside));
    }

    /// Text.
    pub(super) fn text(&mut self, text: impl Display) {
        self.push(&text.to_string());
    }

    /// A text as it will be shown, for whoever has to cut it.
    pub(super) fn shown(&self, text: &str) -> String {
        match self.redactor {
            Some(redactor) => redactor.text(text),
            None => text.to_owned(),
        }
    }

    /// Whether marks stand in the place of identities.
    pub(super) fn has_marks(&self) -> bool {
        self.redactor.is_some()
    }

    /// The document type, before everything else.
    pub(super) fn doctype(&mut self) {
        self.out.push_str("<!DOCTYPE html>\n");
    }

    /// The style sheet, as it is: its digest stands in the page's policy.
    pub(super) fn style(&mut self, sheet: &'static str) {
        self.out.push_str("<style>");
        self.out.push_str(sheet);
        self.out.push_str("</style>");
    }

    /// The page.
    pub(super) fn finish(mut self) -> String {
        self.out.push('\n');
        self.out
    }

    fn open(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.out.push('<');
        self.out.push_str(name);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.push(&value.to_string());
            self.out.push('"');
        }
        self.out.push('>');
    }

    fn push(&mut self, text: &str) {
        match self.redactor {
            Some(redactor) => push_escaped(&mut self.out, &redactor.text(text)),
            None => push_escaped(&mut self.out, text),
        }
    }
}

/// As text and as an attribute's value between quotes; whatever is hidden or turns the direction of
/// reading is spelled out.
fn push_escaped(out: &mut String, text: &str) {
    for c in escape(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '`' => out.push_str("&#96;"),
            c => out.push(c),
        }
    }
}

/// Share of a whole in percent, for places and lengths in a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percent(pub f64);

impl Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.0.clamp(0.0, 100.0);
        write!(f, "{value:.3}%")
    }
}

/// Standard base64 with padding (RFC 4648, 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let group = part
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for i in 0..4 {
            let digit = (group >> (18 - 6 * i)) & 0x3F;
            match i <= part.len() {
                true => out.push(char::from(DIGITS[digit as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let mut h = Html::default();
        let hostile = "</td><script>alert('x')</script> \" onload=\"\u{202e}\0`&";
        h.with("p", &[("title", &hostile)], |h| h.text(hostile));
        let page = h.finish();
        let inner = page.strip_prefix("<p title=\"").unwrap();
        let (value, rest) = inner.split_once('"').unwrap();
        assert!(!value.contains(['<', '>', '\'', '\u{202e}', '\0', '`']));
        let text = rest
            .strip_prefix('>')
            .unwrap()
            .strip_suffix("</p>\n")
            .unwrap();
        assert!(!text.contains(['<', '>', '"', '\u{202e}', '\0']), "{text}");
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
