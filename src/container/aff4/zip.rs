//! The members of a zip archive, as far as AFF4 uses them.
//!
//! Source: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.

use std::collections::BTreeMap;

use miniz_oxide::inflate::TINFLStatus;

use crate::{
    bytes::View,
    container::{
        mapped::wide,
        packed::{Wrap, inflate},
    },
    device::Device,
    error::{At, Error, Result},
    text::escape,
};

/// Most members: a disk of 32 TiB in bevies of 64 MiB has a million.
const MEMBERS_LIMIT: u64 = 1 << 20;
/// Longest central directory.
const DIRECTORY_LIMIT: u64 = 256 << 20;
/// Bytes of the end record without its comment.
const END_BYTES: usize = 22;
/// Longest comment.
const COMMENT_LIMIT: u64 = 65_535;
/// End record.
const END: &[u8] = b"PK\x05\x06";
/// Where the end record of zip64 is; 20 bytes, before the end record.
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_BYTES: u64 = 20;
/// End record of zip64.
const END_64: &[u8] = b"PK\x06\x06";
const END_64_BYTES: usize = 56;
/// A member in the central directory.
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
/// A member's own header.
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
/// The value is in the zip64 extra field.
const ELSEWHERE: u32 = u32::MAX;
/// Extra field with values of 64 bits.
const EXTRA_64: u16 = 1;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Where a member lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    method: u16,
    crc: u32,
    packed: u64,
    /// Bytes of its content.
    pub(super) len: u64,
    header: u64,
}

/// The archive.
#[derive(Debug)]
pub(super) struct Archive {
    host: Device,
    /// By name, without percent signs.
    members: BTreeMap<String, Member>,
    /// The archive's own comment.
    pub(super) comment: String,
}

fn damaged(what: &str) -> Error {
    Error::malformed(format!("AFF4 zip archive: {what}"))
        .advise("if the file was cut or the acquisition was broken off, restore it")
}

fn small(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::internal("AFF4: a length"))
}

impl Archive {
    pub(super) fn open(host: &Device) -> Result<Self> {
        let tail_len = host
            .len()
            .min(COMMENT_LIMIT.saturating_add(wide(END_BYTES)));
        let tail_at = host.len().saturating_sub(tail_len);
        let mut tail = vec![0; small(tail_len)?];
        host.read_at(tail_at, &mut tail)?;
        let end = (0..tail.len().saturating_sub(END_BYTES.saturating_sub(1)))
            .rev()
            .find(|at| {
                let record = tail.get(*at..).unwrap_or_default();
                let comment = View::new(record, "zip").u16(20).unwrap_or(u16::MAX);
                record.starts_with(END)
                    && END_BYTES.saturating_add(usize::from(comment)) == record.len()
            })
            .ok_or_else(|| damaged("its end record at the end of the file expected, not found"))?;
        let record = View::new(tail.get(end..).unwrap_or_default(), "AFF4 zip end record");
        let comment = record.get(END_BYTES, record.len().saturating_sub(END_BYTES))?;
        let comment = String::from_utf8_lossy(comment).into_owned();
        let mut count = u64::from(record.u16(10)?);
        let mut len = u64::from(record.u32(12)?);
        let mut at = u64::from(record.u32(16)?);
        let mut limit = tail_at.saturating_add(wide(end));
        if let Some((end, bytes)) = end_64(host, limit)? {
            let view = View::new(&bytes, "AFF4 zip64 end record");
            count = view.u64(32)?;
            len = view.u64(40)?;
            at = view.u64(48)?;
            limit = end;
        }
        if count > MEMBERS_LIMIT || len > DIRECTORY_LIMIT {
            return Err(Error::limit(format!(
                "AFF4 zip archive: at most {MEMBERS_LIMIT} members in {DIRECTORY_LIMIT} bytes \
                 expected, found {count} in {len}"
            )));
        }
        if at.checked_add(len).is_none_or(|end| end > limit) {
            return Err(damaged(&format!(
                "a directory before {limit:#x} expected, found {len} bytes at {at:#x}"
            )));
        }
        let mut directory = vec![0; small(len)?];
        host.read_at(at, &mut directory)?;
        let mut archive = Self {
            host: Device::clone(host),
            members: BTreeMap::new(),
            comment,
        };
        archive
            .read_members(&directory, count)
            .at("image offset", format_args!("{at:#x}"))?;
        Ok(archive)
    }

    fn read_members(&mut self, directory: &[u8], count: u64) -> Result<()> {
        let mut rest = directory;
        for _ in 0..count {
            let view = View::new(rest, "AFF4 zip directory");
            if view.get(0, ENTRY.len())? != ENTRY {
                return Err(damaged("a member in the directory expected, not found"));
            }
            if view.u16(8)? & 1 != 0 {
                return Err(Error::refused(
                    "AFF4 zip archive: members that are not encrypted expected, found one that is",
                )
                .advise("let the tool that made it write a copy that is not encrypted"));
            }
            let [name_len, extra_len, comment_len] = [
                usize::from(view.u16(28)?),
                usize::from(view.u16(30)?),
                usize::from(view.u16(32)?),
            ];
            let name = view.get(ENTRY_BYTES, name_len)?;
            let extra_at = ENTRY_BYTES.saturating_add(name_len);
            let extra = view.get(extra_at, extra_len)?;
            let mut wide = Wide::find(extra)?;
            let len = wide.or(view.u32(24)?)?;
            let packed = wide.or(view.u32(20)?)?;
            let header = wide.or(view.u32(42)?)?;
            let member = Member {
                method: view.u16(10)?,
                crc: view.u32(16)?,
                packed,
                len,
                header,
            };
            let name = unescaped(&String::from_utf8_lossy(name));
            let shown = escape(&name);
            if self.members.insert(name, member).is_some() {
                return Err(damaged(&format!(
                    "each name once expected, found `{shown}` twice"
                )));
            }
            let next = extra_at
                .saturating_add(extra_len)
                .saturating_add(comment_len);
            rest = rest
                .get(next..)
                .ok_or_else(|| damaged("the whole directory expected, it ends too soon"))?;
        }
        Ok(())
    }

    /// A member by its name.
    pub(super) fn find(&self, name: &str) -> Option<Member> {
        self.members.get(name).copied()
    }

    /// Where the bytes of a stored member lie; none if it is compressed.
    pub(super) fn place(&self, name: &str, member: &Member) -> Result<Option<u64>> {
        let mut header = vec![0; LOCAL_BYTES];
        let at = member.header;
        let inside = at.checked_add(wide(LOCAL_BYTES));
        if inside.is_none_or(|end| end > self.host.len()) {
            return Err(outside(name));
        }
        self.host.read_at(at, &mut header)?;
        let view = View::new(&header, "AFF4 zip member");
        if view.get(0, LOCAL.len())? != LOCAL {
            return Err(damaged(&format!(
                "the header of `{}` at {at:#x} expected, not found",
                escape(name)
            )));
        }
        let start = at
            .saturating_add(wide(LOCAL_BYTES))
            .saturating_add(u64::from(view.u16(26)?))
            .saturating_add(u64::from(view.u16(28)?));
        let end = start.checked_add(member.packed);
        if end.is_none_or(|end| end > self.host.len()) {
            return Err(outside(name));
        }
        match member.method {
            STORED if member.len == member.packed => Ok(Some(start)),
            STORED => Err(damaged(&format!(
                "one length of the stored `{}` expected, found {} and {}",
                escape(name),
                member.packed,
                member.len
            ))),
            DEFLATED => Ok(None),
            other => Err(Error::unsupported(format!(
                "AFF4 zip archive: `{}` stored or deflated expected, found method {other}",
                escape(name)
            ))),
        }
    }

    /// All bytes of a member that is no longer than `limit`.
    pub(super) fn read(&self, name: &str, member: &Member, limit: u64) -> Result<Vec<u8>> {
        if member.len > limit || member.packed > limit {
            return Err(Error::limit(format!(
                "AFF4: `{}` of at most {limit} bytes expected, found {}",
                escape(name),
                member.len.max(member.packed)
            )));
        }
        let stored = self.place(name, member)?;
        let bytes = match stored {
            Some(at) => {
                let mut bytes = vec![0; small(member.len)?];
                self.host.read_at(at, &mut bytes)?;
                bytes
            }
            None => {
                let as_stored = Member {
                    method: STORED,
                    len: member.packed,
                    ..*member
                };
                let at = self.place(name, &as_stored)?.unwrap_or(0);
                let mut from = vec![0; small(member.packed)?];
                self.host.read_at(at, &mut from)?;
                let mut to = vec![0; small(member.len)?];
                let (status, len) = inflate(&from, &mut to, Wrap::Deflate);
                if status != TINFLStatus::Done || len != to.len() {
                    return Err(damaged(&format!(
                        "{} deflated bytes of `{}` expected, found {len} ({status:?})",
                        to.len(),
                        escape(name)
                    )));
                }
                to
            }
        };
        let is = crc32(&bytes);
        if is != member.crc {
            return Err(damaged(&format!(
                "`{}` with the CRC-32 {:#010x} expected, found {is:#010x}",
                escape(name),
                member.crc
            )));
        }
        Ok(bytes)
    }
}

fn outside(name: &str) -> Error {
    damaged(&format!(
        "`{}` inside the file expected, it leaves it",
        escape(name)
    ))
}

/// The end record of zip64, and where it lies.
fn end_64(host: &Device, end: u64) -> Result<Option<(u64, Vec<u8>)>> {
    let Some(at) = end.checked_sub(LOCATOR_BYTES) else {
        return Ok(None);
    };
    let mut locator = vec![0; small(LOCATOR_BYTES)?];
    host.read_at(at, &mut locator)?;
    if !locator.starts_with(LOCATOR) {
        return Ok(None);
    }
    let record = View::new(&locator, "AFF4 zip64 locator").u64(8)?;
    let inside = record.checked_add(wide(END_64_BYTES));
    if inside.is_none_or(|end| end > at) {
        return Err(damaged(&format!(
            "the zip64 end record before {at:#x} expected, found it at {record:#x}"
        )));
    }
    let mut bytes = vec![0; END_64_BYTES];
    host.read_at(record, &mut bytes)?;
    if !bytes.starts_with(END_64) {
        return Err(damaged(&format!(
            "the zip64 end record at {record:#x} expected, not found"
        )));
    }
    Ok(Some((record, bytes)))
}

/// The values of a zip64 extra field, in their order.
struct Wide<'a> {
    left: &'a [u8],
}

impl<'a> Wide<'a> {
    fn find(extra: &'a [u8]) -> Result<Self> {
        let mut rest = extra;
        while rest.len() >= 4 {
            let view = View::new(rest, "AFF4 zip extra field");
            let (kind, len) = (view.u16(0)?, usize::from(view.u16(2)?));
            let left = view.get(4, len)?;
            if kind == EXTRA_64 {
                return Ok(Self { left });
            }
            rest = rest.get(len.saturating_add(4)..).unwrap_or_default();
        }
        Ok(Self { left: &[] })
    }

    /// A value, or the next one of the extra field in its place.
    fn or(&mut self, value: u32) -> Result<u64> {
        if value != ELSEWHERE {
            return Ok(value.into());
        }
        let found = View::new(self.left, "AFF4 zip64 extra field").u64(0)?;
        self.left = self.left.get(8..).unwrap_or_default();
        Ok(found)
    }
}

/// A name with its percent signs resolved: `%3A` is `:`.
pub(super) fn unescaped(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let code = behind
            .get(..2)
            .filter(|_| *byte == b'%')
            .and_then(|two| std::str::from_utf8(two).ok())
            .filter(|two| two.bytes().all(|c| c.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// CRC-32 of ISO 3309, reflected.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_checksums_are_those_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(
            unescaped("aff4%3A%2F%2Fa-b/00000000"),
            "aff4://a-b/00000000"
        );
        assert_eq!(unescaped("%zz%4"), "%zz%4");
    }
}
