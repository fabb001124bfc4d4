//! What stands in the first MiB: headers and region tables, and the checksum of both.
//!
//! The checksum is CRC-32C, in a table of its own: it covers 136 KiB of a file, so a crate with the
//! processor's instruction for it would be one more dependency and no time saved.

use std::{fmt, ops::Range, sync::LazyLock};

use sha2::{Digest, Sha256};

use super::facts;
use crate::{
    bytes::{View, put, zero},
    device::Device,
    error::{At, Error, Result},
};

const WHAT: &str = "VHDX header";
const REGION_WHAT: &str = "VHDX region table";

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

static TABLE: LazyLock<[u32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        (0..8).fold(u32::try_from(byte).unwrap_or(0), |crc, _| {
            match crc & 1 == 1 {
                true => (crc >> 1) ^ POLYNOMIAL,
                false => crc >> 1,
            }
        })
    })
});

/// CRC-32C of these bytes, those of the checksum at `field` taken as zeros.
pub(super) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let own = field..field.saturating_add(4);
    let table = &*TABLE;
    !bytes.iter().enumerate().fold(u32::MAX, |crc, (at, byte)| {
        let byte = if own.contains(&at) { 0 } else { *byte };
        let [low, ..] = crc.to_le_bytes();
        let step = table.get(usize::from(low ^ byte)).copied().unwrap_or(0);
        (crc >> 8) ^ step
    })
}

/// Magic and checksum: without them a structure was torn, and its copy counts.
fn sound(view: &View<'_>, magic: &[u8]) -> Result<()> {
    if view.get(0, magic.len())? != magic {
        return Err(Error::malformed(format!(
            "{}: {} expected, not found",
            view.what(),
            String::from_utf8_lossy(magic)
        )));
    }
    let want = checksum(view.bytes(), facts::CHECKSUM);
    let is = view.u32(facts::CHECKSUM)?;
    if want == is {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{}: checksum {want:#010x} expected, found {is:#010x}",
        view.what()
    )))
}

/// An identifier as the file has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Guid(pub(super) [u8; 16]);

impl Guid {
    pub(super) const ZERO: Self = Self([0; 16]);
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [d, c, b, a, g, e, i, h, rest @ ..] = self.0;
        let first = [a, b, c, d, e, g, h, i];
        for (at, byte) in first.iter().chain(&rest).enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of the two headers, with a right checksum.
#[derive(Clone, Debug)]
pub(super) struct Header {
    bytes: Vec<u8>,
    /// Which one it is.
    pub(super) index: usize,
    pub(super) sequence: u64,
    pub(super) data_write: Guid,
    pub(super) log: Guid,
    pub(super) log_version: u16,
    /// The log's place; empty when there is none.
    pub(super) log_place: Range<u64>,
}

/// Both headers.
#[derive(Debug)]
pub(super) struct Headers {
    /// The one that counts.
    pub(super) current: Header,
    /// Why the other does not, if it is damaged.
    pub(super) damaged: Option<Error>,
}

/// The bytes of a structure; the inner error says why its copy has to do.
fn read(
    host: &Device,
    at: u64,
    len: usize,
    what: &'static str,
    magic: &[u8],
) -> Result<Result<Vec<u8>>> {
    let mut bytes = vec![0; len];
    host.read_at(at, &mut bytes)
        .at("image offset", format_args!("{at:#x}"))?;
    let sound = sound(&View::new(&bytes, what), magic);
    Ok(sound
        .at("image offset", format_args!("{at:#x}"))
        .map(|()| bytes))
}

impl Header {
    fn parse(bytes: Vec<u8>, index: usize) -> Result<Self> {
        let view = View::new(&bytes, WHAT);
        let version = view.u16(facts::VERSION)?;
        if version != 1 {
            return Err(Error::unsupported(format!(
                "VHDX header: version 1 expected, found {version}"
            )));
        }
        let start = view.u64(facts::LOG_OFFSET)?;
        let len = u64::from(view.u32(facts::LOG_LEN)?);
        let log_place = match (len, start.checked_add(len)) {
            (0, _) => 0..0,
            (_, Some(end))
                if start >= facts::MIB
                    && start.is_multiple_of(facts::MIB)
                    && len.is_multiple_of(facts::MIB) =>
            {
                start..end
            }
            _ => {
                return Err(Error::malformed(format!(
                    "VHDX header: a log of whole MiB behind the first expected, found {len} bytes \
                     at {start:#x}"
                )));
            }
        };
        let sequence = view.u64(facts::SEQUENCE)?;
        if sequence > u64::MAX >> 1 {
            return Err(Error::malformed(format!(
                "VHDX header: a sequence number that can be counted up expected, found {sequence}"
            )));
        }
        Ok(Self {
            index,
            sequence,
            data_write: Guid(view.array(facts::DATA_WRITE)?),
            log: Guid(view.array(facts::LOG_GUID)?),
            log_version: view.u16(facts::LOG_VERSION)?,
            log_place,
            bytes,
        })
    }
}

impl Headers {
    /// Reads both and takes the one that counts: the valid one of the higher sequence number.
    pub(super) fn read(host: &Device) -> Result<Self> {
        let mut both = Vec::new();
        for (index, at) in facts::HEADERS.into_iter().enumerate() {
            let bytes = read(host, at, facts::HEADER_LEN, WHAT, facts::HEADER)?;
            both.push(match bytes {
                Ok(bytes) => {
                    Ok(Header::parse(bytes, index).at("image offset", format_args!("{at:#x}"))?)
                }
                Err(torn) => Err(torn),
            });
        }
        let second = both.pop();
        let (current, damaged) = match (both.pop(), second) {
            (Some(Ok(a)), Some(Ok(b))) => {
                if a.sequence == b.sequence && a.bytes != b.bytes {
                    return Err(Error::malformed(format!(
                        "VHDX header: two sequence numbers or the same bytes expected, found \
                         different headers of sequence number {}",
                        a.sequence
                    ))
                    .at(
                        "image offset",
                        format_args!("{:#x}", facts::HEADERS.last().copied().unwrap_or(0)),
                    ));
                }
                let first = a.sequence >= b.sequence;
                (if first { a } else { b }, None)
            }
            (Some(Ok(good)), Some(Err(bad))) | (Some(Err(bad)), Some(Ok(good))) => {
                (good, Some(bad))
            }
            (Some(Err(first)), _) => return Err(first),
            _ => return Err(Error::internal("VHDX header: two of them")),
        };
        Ok(Self { current, damaged })
    }

    /// The headers to write when the file changes: place and bytes, in the order in which they
    /// must be written, the one that does not count first.
    ///
    /// The identifiers are made from the old header and `written`, the digest of what is written: the
    /// same input gives the same output, and two changes of one file never give one identifier.
    pub(super) fn next(&self, change: Change, written: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
        let old = &self.current;
        let mut bytes = old.bytes.clone();
        put(
            &mut bytes,
            facts::FILE_WRITE,
            &made("file write", &old.bytes, written).0,
            WHAT,
        )?;
        match change {
            Change::Disk => put(
                &mut bytes,
                facts::DATA_WRITE,
                &made("data write", &old.bytes, written).0,
                WHAT,
            )?,
            Change::Replayed => zero(&mut bytes, facts::LOG_GUID, 16, WHAT)?,
        }
        let mut out = Vec::new();
        let order = [old.index ^ 1, old.index];
        for (step, index) in (1_u64..).zip(order) {
            let sequence = old.sequence.saturating_add(step);
            put(&mut bytes, facts::SEQUENCE, &sequence.to_le_bytes(), WHAT)?;
            let sum = checksum(&bytes, facts::CHECKSUM);
            put(&mut bytes, facts::CHECKSUM, &sum.to_le_bytes(), WHAT)?;
            let at = facts::HEADERS
                .get(index)
                .ok_or_else(|| Error::internal("VHDX header: two of them"))?;
            out.push((*at, bytes.clone()));
        }
        Ok(out)
    }
}

/// What happened to a file whose headers must say so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// The log was replayed: the disk shows the same, the log is empty.
    Replayed,
    /// The disk shows something else.
    Disk,
}

/// An identifier made from the header before it and the change: a UUID of version 8.
fn made(what: &str, header: &[u8], written: &[u8]) -> Guid {
    let mut hash = Sha256::new();
    hash.update(b"declone VHDX ");
    hash.update(what);
    hash.update(header);
    hash.update(written);
    let mut guid = [0; 16];
    for (to, from) in guid.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    // The third group is little-endian: its upper byte, with the version, comes second.
    let [.., version, variant, _, _, _, _, _, _, _] = &mut guid;
    *version = *version & 0x0F | 0x80;
    *variant = *variant & 0x3F | 0x80;
    Guid(guid)
}

/// A region table with a right checksum.
#[derive(Debug)]
pub(super) struct Regions {
    /// Identifier and place of every region.
    pub(super) all: Vec<(Guid, Range<u64>)>,
}

impl Regions {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let view = View::new(bytes, REGION_WHAT);
        let count = view.u32(facts::REGION_COUNT)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= facts::MAX_ENTRIES)
            .ok_or_else(|| {
                Error::malformed(format!(
                    "VHDX region table: at most {} entries expected, found {count}",
                    facts::MAX_ENTRIES
                ))
            })?;
        let mut all: Vec<(Guid, Range<u64>)> = Vec::new();
        for number in 0..count {
            let at = number
                .saturating_mul(facts::ENTRY_LEN)
                .saturating_add(facts::REGION_ENTRIES);
            let entry = view.sub(at, facts::ENTRY_LEN, "VHDX region table entry")?;
            let guid = Guid(entry.array(0)?);
            let start = entry.u64(16)?;
            let len = u64::from(entry.u32(24)?);
            let end = start.checked_add(len).filter(|_| {
                start >= facts::MIB
                    && len > 0
                    && start.is_multiple_of(facts::MIB)
                    && len.is_multiple_of(facts::MIB)
            });
            let Some(end) = end else {
                return Err(Error::malformed(format!(
                    "VHDX region table: whole MiB behind the first expected for region {guid}, \
                     found {len} bytes at {start:#x}"
                )));
            };
            let required = entry.u32(28)? & 1 == 1;
            if required && ![facts::BAT, facts::METADATA].contains(&guid.0) {
                return Err(Error::unsupported(format!(
                    "VHDX region table: known regions expected, found {guid}, which is required"
                )));
            }
            if all.iter().any(|(known, _)| *known == guid) {
                return Err(Error::malformed(format!(
                    "VHDX region table: each region once expected, found {guid} twice"
                )));
            }
            all.push((guid, start..end));
        }
        Ok(Self { all })
    }

    /// Reads both tables. The second value says why the file must not be written.
    pub(super) fn read(host: &Device) -> Result<(Self, Option<String>)> {
        let mut both = Vec::new();
        for at in facts::REGIONS {
            let bytes = read(host, at, facts::TABLE_LEN, REGION_WHAT, facts::REGION)?;
            both.push(match bytes {
                Ok(bytes) => Ok(Self::parse(&bytes).at("image offset", format_args!("{at:#x}"))?),
                Err(torn) => Err(torn),
            });
        }
        let second = both.pop();
        match (both.pop(), second) {
            (Some(Ok(a)), Some(Ok(b))) if a.all == b.all => Ok((a, None)),
            (Some(Ok(_)), Some(Ok(_))) => Err(Error::malformed(
                "VHDX region table: the same regions in both copies expected, found others",
            )
            .at(
                "image offset",
                format_args!("{:#x}", facts::REGIONS.last().copied().unwrap_or(0)),
            )),
            (Some(Ok(good)), Some(Err(bad))) | (Some(Err(bad)), Some(Ok(good))) => Ok((
                good,
                Some(format!(
                    "VHDX region table: two good copies expected, found a damaged one: {bad}"
                )),
            )),
            (Some(Err(first)), _) => Err(first),
            _ => Err(Error::internal("VHDX region table: two of them")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the catalogue of parametrised CRC algorithms, and RFC 3720 B.4.
        assert_eq!(checksum(b"123456789", 99), 0xE306_9283);
        assert_eq!(checksum(&[0; 32], 99), 0x8A91_36AA);
        assert_eq!(checksum(&[0xFF; 32], 99), 0x62A8_AB43);
        // The field itself counts as zeros.
        let mut bytes = [0; 32];
        put(&mut bytes, 4, &[1, 2, 3, 4], "x").unwrap();
        assert_eq!(checksum(&bytes, 4), 0x8A91_36AA);
    }

    #[test]
    fn identifiers_are_written_as_the_specification_writes_them() {
        assert_eq!(
            Guid(facts::BAT).to_string(),
            "2dc27766-f623-4200-9d64-115e9bfd4a08"
        );
        let text = made("x", &[1]).to_string();
        assert_eq!(text.chars().nth(14), Some('8'), "{text}");
        assert!(
            text.chars().nth(19).is_some_and(|c| "89ab".contains(c)),
            "{text}"
        );
        assert_ne!(made("x", &[1]), made("x", &[2]));
        assert_ne!(made("x", &[1]), made("y", &[1]));
    }
}
