//! The XML data: what a report shows of the images, and the counts that a removal changes. It is
//! patched as text: whatever else stands in it stays.

use std::{collections::HashMap, ops::Range};

use crate::error::{Error, Result};

/// What the XML says of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub name: Option<String>,
    pub edition: Option<String>,
    pub version: Option<String>,
    pub architecture: Option<String>,
}

/// Before the number of an image.
const IMAGE_MARK: &str = "<IMAGE INDEX=\"";

/// The text of the XML data.
#[derive(Clone, Debug)]
pub(super) struct Xml {
    text: String,
}

/// What of an image's counts goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Less {
    pub files: u64,
    pub bytes: u64,
    pub link_bytes: u64,
}

impl Xml {
    /// Takes UTF-16 with its mark.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let (units, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = units.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let fail = |what: &str| Error::malformed(format!("WIM XML data: {what}"));
        if !rest.is_empty() || units.first() != Some(&0xFEFF) {
            return Err(fail(
                "UTF-16 with a byte order mark expected, found something else",
            ));
        }
        let text = String::from_utf16(units.get(1..).unwrap_or_default())
            .map_err(|_| fail("valid UTF-16 expected, found a lone surrogate"))?;
        Ok(Self { text })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mark = std::iter::once(0xFEFF_u16);
        mark.chain(self.text.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect()
    }

    fn inside(&self, within: &Range<usize>, tag: &str) -> Option<Range<usize>> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let text = self.text.get(within.clone())?;
        let start = text.find(&open)?.checked_add(open.len())?;
        let len = text.get(start..)?.find(&close)?;
        let from = within.start.checked_add(start)?;
        Some(from..from.checked_add(len)?)
    }

    /// What is said of each image, in one pass.
    pub(super) fn abouts(&self) -> HashMap<u32, About> {
        let mut found = HashMap::new();
        let mut at = 0;
        while let Some(text) = self.text.get(at..)
            && let Some(start) = text.find(IMAGE_MARK)
        {
            let text = text.get(start..).unwrap_or_default();
            let digits = text
                .get(IMAGE_MARK.len()..)
                .and_then(|rest| rest.split('"').next());
            let number = digits.and_then(|digits| digits.parse().ok());
            let (Some(number), Some(len)) = (number, text.find("</IMAGE>")) else {
                break;
            };
            let start = at.saturating_add(start);
            at = start.saturating_add(len);
            found
                .entry(number)
                .or_insert_with(|| self.about(&(start..at)));
        }
        found
    }

    fn image(&self, number: u32) -> Option<Range<usize>> {
        let start = self.text.find(&format!("<IMAGE INDEX=\"{number}\">"))?;
        let len = self.text.get(start..)?.find("</IMAGE>")?;
        Some(start..start.checked_add(len)?)
    }

    fn text_at(&self, range: Option<Range<usize>>) -> Option<String> {
        let text = self.text.get(range?)?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn about(&self, image: &Range<usize>) -> About {
        let get = |tag: &str| self.text_at(self.inside(image, tag));
        let version = self.inside(image, "VERSION").and_then(|version| {
            let part = |tag: &str| self.text_at(self.inside(&version, tag));
            let parts: Vec<String> = ["MAJOR", "MINOR", "BUILD"]
                .iter()
                .filter_map(|tag| part(tag))
                .collect();
            (!parts.is_empty()).then(|| parts.join("."))
        });
        About {
            name: get("NAME"),
            edition: get("EDITIONID"),
            version,
            architecture: get("ARCH").map(|arch| match arch.as_str() {
                "0" => "x86".to_owned(),
                "9" => "x64".to_owned(),
                "5" => "ARM".to_owned(),
                "12" => "ARM64".to_owned(),
                other => format!("architecture {other}"),
            }),
        }
    }

    /// Whether the contents are encrypted (ESD files of Windows Update).
    pub(super) fn is_encrypted(&self) -> bool {
        self.text.contains("<ENCRYPTED>")
    }

    /// Takes these counts off an image's. A count that is not there stays so.
    pub(super) fn subtract(&mut self, number: u32, less: Less) -> Result<()> {
        for (tag, by) in [
            ("FILECOUNT", less.files),
            ("TOTALBYTES", less.bytes),
            ("HARDLINKBYTES", less.link_bytes),
        ] {
            let Some(range) = self
                .image(number)
                .and_then(|image| self.inside(&image, tag))
            else {
                continue;
            };
            self.change(range, tag, |now| now.saturating_sub(by))?;
        }
        Ok(())
    }

    /// The count of the whole archive: before the images, or behind them.
    fn total(&self) -> Option<Range<usize>> {
        let len = self.text.len();
        let first = self.text.find("<IMAGE").unwrap_or(len);
        let behind = self.text.rfind("</IMAGE>").unwrap_or(len);
        self.inside(&(0..first), "TOTALBYTES")
            .or_else(|| self.inside(&(behind..len), "TOTALBYTES"))
    }

    /// Whether the archive's count says that the XML begins here: that of a part of a set may be the
    /// one of the archive that was split.
    pub(super) fn starts_at(&self, at: u64) -> bool {
        self.text_at(self.total())
            .is_some_and(|text| text.parse() == Ok(at))
    }

    /// Sets the count that says where the XML begins.
    pub(super) fn set_start(&mut self, at: u64) -> Result<()> {
        match self.total() {
            Some(range) => self.change(range, "TOTALBYTES", |_| at),
            None => Ok(()),
        }
    }

    fn change(&mut self, range: Range<usize>, tag: &str, new: impl Fn(u64) -> u64) -> Result<()> {
        let old = self.text.get(range.clone()).unwrap_or_default();
        let now: u64 = old.trim().parse().map_err(|_| {
            Error::malformed(format!(
                "WIM XML data: a number in {tag} expected, found another text"
            ))
        })?;
        self.text.replace_range(range, &new(now).to_string());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn xml(text: &str) -> Xml {
        let bytes: Vec<u8> = std::iter::once(0xFEFF)
            .chain(text.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        Xml::parse(&bytes).unwrap()
    }

    #[test]
    fn only_the_counts_of_that_image_change() {
        let text = "<WIM><TOTALBYTES>99</TOTALBYTES><IMAGE INDEX=\"1\"><FILECOUNT>7</FILECOUNT>\
                    <TOTALBYTES>1000</TOTALBYTES></IMAGE><IMAGE INDEX=\"10\">\
                    <FILECOUNT>7</FILECOUNT><TOTALBYTES>1000</TOTALBYTES></IMAGE></WIM>";
        let mut one = xml(text);
        let less = Less {
            files: 2,
            bytes: 995,
            link_bytes: 3,
        };
        one.subtract(10, less).unwrap();
        one.set_start(5).unwrap();
        let want = text
            .replacen(">99<", ">5<", 1)
            .replace("\"10\"><FILECOUNT>7", "\"10\"><FILECOUNT>5");
        let (head, tail) = want.rsplit_once(">1000<").unwrap();
        assert_eq!(one.text, format!("{head}>5<{tail}"));
        assert_eq!(Xml::parse(&one.bytes()).unwrap().text, one.text);
    }

    #[test]
    fn what_is_no_such_xml_is_refused() {
        for bytes in [
            &b""[..],
            b"\xFF",
            b"<\0W\0",
            b"\xFF\xFE\x00\xD8",
            b"\xFF\xFEa",
        ] {
            assert!(Xml::parse(bytes).is_err(), "{bytes:?}");
        }
        let mut odd = xml("<IMAGE INDEX=\"1\"><FILECOUNT>x</FILECOUNT></IMAGE>");
        assert!(odd.subtract(1, Less::default()).is_err());
        assert!(odd.set_start(1).is_ok());
    }

    #[test]
    fn the_archives_count_is_found_before_and_behind_the_images() {
        let image = "<IMAGE INDEX=\"1\"><TOTALBYTES>7</TOTALBYTES></IMAGE>";
        let count = "<TOTALBYTES> 99 </TOTALBYTES>";
        for text in [
            format!("<WIM>{count}{image}</WIM>"),
            format!("<WIM>{image}{count}</WIM>"),
        ] {
            let mut one = xml(&text);
            assert!(one.starts_at(99) && !one.starts_at(7));
            one.set_start(5).unwrap();
            assert_eq!(one.text, text.replace(" 99 ", "5"));
        }
        let mut none = xml(&format!("<WIM>{image}</WIM>"));
        assert!(!none.starts_at(7));
        none.set_start(5).unwrap();
        assert_eq!(none.text, format!("<WIM>{image}</WIM>"));
    }
}
