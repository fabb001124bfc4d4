//! The descriptor: what the text says.

use super::{Facts, SECTOR, ScanOnly, Source, TO_RAW, facts, format};
use crate::{
    device::Device,
    error::{Error, Result},
    text::escape,
};

use sha2::{Digest, Sha256};

/// Most extents of a disk: 64 TiB in pieces of 2 GiB are 32,768.
const EXTENTS_LIMIT: usize = 65_536;

/// What the text says.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    /// The content ID: its digits, and where they stand in the text.
    pub(super) cid: Option<(String, usize)>,
    pub(super) parent_cid: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) parent_name: Option<String>,
    pub(super) tracked: bool,
    pub(super) extents: Vec<Line>,
}

/// A line that names an extent.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) access: String,
    pub(super) sectors: u64,
    pub(super) kind: String,
    pub(super) name: String,
    /// Sector of the file at which a flat extent begins.
    pub(super) from: u64,
}

impl Descriptor {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|byte| *byte == 0);
        let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if !bytes.starts_with(format::VMDK_DESCRIPTOR) {
            return Err(Error::malformed(
                "VMDK descriptor: # Disk DescriptorFile expected, not found",
            ));
        }
        let mut out = Self::default();
        let mut at = 0_usize;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let here = at;
            at = at.saturating_add(line.len());
            // Names that are not UTF-8 name no file that would be opened.
            let text = String::from_utf8_lossy(line);
            let trimmed = text.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let word = trimmed.split_whitespace().next().unwrap_or_default();
            if matches!(word, "RW" | "RDONLY" | "NOACCESS") {
                if out.extents.len() >= EXTENTS_LIMIT {
                    return Err(Error::limit(format!(
                        "VMDK descriptor: at most {EXTENTS_LIMIT} extents expected, found more"
                    )));
                }
                out.extents.push(Line::parse(trimmed)?);
                continue;
            }
            let Some((key, value)) = trimmed.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "cid" if out.cid.is_none() => {
                    let digits = !value.is_empty()
                        && value.len() <= 8
                        && value.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let inside = text.find('=').and_then(|equals| {
                        let tail = text.get(equals..)?;
                        Some(equals.saturating_add(tail.find(value)?))
                    });
                    match inside {
                        Some(inside) if digits && text.is_ascii() => {
                            out.cid = Some((value.to_owned(), here.saturating_add(inside)));
                        }
                        _ => {
                            return Err(Error::malformed(format!(
                                "VMDK descriptor: a CID of 1 to 8 hex digits expected, found `{}`",
                                escape(value)
                            )));
                        }
                    }
                }
                "parentcid" => out.parent_cid = Some(value.to_ascii_lowercase()),
                "createtype" => out.kind = Some(value.to_owned()),
                "parentfilenamehint" => out.parent_name = Some(value.to_owned()),
                "changetrackpath" => out.tracked = true,
                _ => {}
            }
        }
        Ok(out)
    }

    /// The content ID that a delta says its parent has.
    pub(super) fn parent(&self) -> Option<&str> {
        self.parent_cid
            .as_deref()
            .filter(|cid| *cid != facts::NO_PARENT)
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            kind: self.kind.clone(),
            id: self.cid.as_ref().map(|(digits, _)| same_cid(digits)),
            ..Facts::default()
        }
    }

    /// Why what it says forbids a write.
    pub(super) fn reason(&self) -> Option<ScanOnly> {
        if self.parent().is_some() {
            return Some(ScanOnly {
                reason: "VMDK descriptor: a disk of its own expected, found a delta: what is \
                         removed would stay in its parent"
                    .to_owned(),
                advice: TO_RAW,
            });
        }
        self.tracked.then(|| ScanOnly {
            reason: "VMDK descriptor: a disk whose changes are not tracked expected, found \
                     changeTrackPath"
                .to_owned(),
            // A copy that names the list of changes of another disk would not start.
            advice: TO_RAW,
        })
    }

    /// The disk of the parent, if it is a delta.
    pub(super) fn open_parent(&self, source: &Source<'_>) -> Result<Option<(Device, Vec<String>)>> {
        let Some(want) = self.parent() else {
            return Ok(None);
        };
        let name = self.parent_name.as_deref().ok_or_else(|| {
            Error::malformed("VMDK descriptor: parentFileNameHint expected in a delta, not found")
        })?;
        let named = source.open_named(name, |format| format.name == "vmdk")?;
        let is = named.disk.facts.id.as_deref().unwrap_or_default();
        if is != same_cid(want) {
            return Err(Error::refused(format!(
                "VMDK: a parent with content ID {} expected, found {}",
                escape(want),
                escape(is)
            ))
            .at("file", escape(name))
            .advise("the parent was changed after the delta was made: restore it from a backup"));
        }
        let chain = named.chain();
        Ok(Some((named.disk.device, chain)))
    }
}

impl Line {
    /// `RW 4192256 SPARSE "disk-s001.vmdk"`, `RW 1024 FLAT "disk-flat.vmdk" 0`, `RW 63 ZERO`.
    fn parse(line: &str) -> Result<Self> {
        let wrong = || {
            Error::malformed(format!(
                "VMDK descriptor: access, sectors, type and name of an extent expected, found `{}`",
                escape(line)
            ))
        };
        let (front, rest) = line.split_once('"').unwrap_or((line, ""));
        let mut words = front.split_whitespace();
        let access = words.next().ok_or_else(wrong)?.to_owned();
        let sectors = words
            .next()
            .and_then(|word| word.parse().ok())
            .filter(|count| (1..=u64::MAX / SECTOR / 2).contains(count))
            .ok_or_else(wrong)?;
        let kind = words.next().ok_or_else(wrong)?.to_owned();
        let (name, behind) = rest.split_once('"').unwrap_or(("", ""));
        if name.is_empty() && kind != "ZERO" {
            return Err(wrong());
        }
        let from = match behind.split_whitespace().next() {
            None => 0,
            Some(word) => word.parse().map_err(|_| wrong())?,
        };
        Ok(Self {
            access,
            sectors,
            kind,
            name: name.to_owned(),
            from,
        })
    }
}

/// A content ID as it is compared: programs write it with and without leading zeros.
pub(super) fn same_cid(digits: &str) -> String {
    format!("{:0>8}", digits.to_ascii_lowercase())
}

/// The content ID behind this one, of as many digits: from it and the digest of what is written.
pub(super) fn next_cid(old: &[u8], written: &[u8]) -> Vec<u8> {
    let old = old.to_ascii_lowercase();
    for round in 0_u8..=u8::MAX {
        let digest = Sha256::new()
            .chain_update(b"declone VMDK content\0")
            .chain_update([round])
            .chain_update(&old)
            .chain_update(written)
            .finalize();
        let digits: Vec<u8> = hex::encode(digest).bytes().take(old.len()).collect();
        let special = digits.starts_with(b"0") || digits.starts_with(b"fffffff");
        if !special && digits != old {
            return digits;
        }
    }
    old
}
