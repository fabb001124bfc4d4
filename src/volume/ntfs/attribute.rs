//! Attributes of a file record: header, name, value or runs.

use super::{
    format::{attribute, file_name},
    runs::{Run, parse_runs},
};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::Name,
    units::{MftReference, Vcn},
    volume::widths::{index, wide},
};

/// One attribute, or one piece of a non-resident attribute that is spread over several records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Number of the record that holds it.
    pub record: u64,
    /// Where it starts in that record.
    pub offset: usize,
    /// Bytes, header included.
    pub len: usize,
    /// Type code.
    pub code: u32,
    /// Name; empty for the unnamed stream.
    pub name: Name,
    /// Flags: compressed, encrypted, sparse.
    pub flags: u16,
    /// Id, unique in the record.
    pub id: u16,
    /// Value or runs.
    pub body: Body,
}

/// Where an attribute's value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the record.
    Resident {
        /// Offset of the value in the record.
        value_offset: usize,
        /// Bytes of the value.
        value_len: usize,
        /// Whether the value is a key of an index.
        indexed: bool,
    },
    /// In clusters.
    NonResident {
        /// First cluster of this piece.
        first_vcn: Vcn,
        /// Last cluster of this piece; `None` when the piece is empty.
        last_vcn: Option<Vcn>,
        /// Offset of the runs in the record.
        runs_offset: usize,
        /// The runs of this piece.
        runs: Vec<Run>,
        /// log2 of clusters a compression unit; 0: none.
        compression_unit: u8,
        /// Bytes of all clusters, holes included; valid in the piece of VCN 0 only.
        allocated: u64,
        /// Bytes of the stream; valid in the piece of VCN 0 only.
        data_len: u64,
        /// Bytes behind which everything reads as zeros; valid in the piece of VCN 0 only.
        initialised: u64,
        /// Bytes of real clusters, if the attribute says so (sparse or compressed).
        total_allocated: Option<u64>,
    },
}

impl Attribute {
    /// Parses the attribute at `at`; it must end before `used`.
    pub fn parse(
        record: u64,
        bytes: &[u8],
        at: usize,
        used: usize,
        cluster_count: u64,
    ) -> Result<Self> {
        let room =
            View::new(bytes, "file record").sub(at, used.saturating_sub(at), "attribute header")?;
        let code = room.u32(attribute::CODE)?;
        let len = index(room.u32(attribute::LEN)?);
        if len < attribute::RESIDENT_LEN || !len.is_multiple_of(8) || len > room.len() {
            return Err(Error::malformed(format!(
                "attribute {code:#x}: length of 24 to {}, a multiple of 8, expected, found {len}",
                room.len()
            )));
        }
        let view = room.sub(0, len, "attribute")?;
        let name_len = usize::from(view.u8(attribute::NAME_LEN)?);
        let name = if name_len == 0 {
            Name::default()
        } else {
            Name(view.units(usize::from(view.u16(attribute::NAME_OFFSET)?), name_len)?)
        };
        if name.units().contains(&0) {
            return Err(Error::malformed(format!(
                "attribute {code:#x}: a name without NUL expected, found {name}"
            )));
        }
        let flags = view.u16(attribute::FLAGS)?;
        let body = match view.u8(attribute::NON_RESIDENT)? {
            0 => Self::resident(view, at)?,
            1 => Self::non_resident(view, at, flags, cluster_count)?,
            other => {
                return Err(Error::malformed(format!(
                    "attribute {code:#x}: residence 0 or 1 expected, found {other}"
                )));
            }
        };
        Ok(Self {
            record,
            offset: at,
            len,
            code,
            name,
            flags,
            id: view.u16(attribute::ID)?,
            body,
        })
    }

    fn resident(view: View<'_>, at: usize) -> Result<Body> {
        let value_len = index(view.u32(attribute::VALUE_LEN)?);
        let value_offset = usize::from(view.u16(attribute::VALUE_OFFSET)?);
        view.get(value_offset, value_len)?;
        if value_offset < attribute::RESIDENT_LEN && value_len != 0 {
            return Err(Error::malformed(format!(
                "attribute: value behind the header expected, found at +{value_offset:#x}"
            )));
        }
        Ok(Body::Resident {
            value_offset: at.saturating_add(value_offset),
            value_len,
            indexed: view.u8(attribute::INDEXED)? & 1 != 0,
        })
    }

    fn non_resident(view: View<'_>, at: usize, flags: u16, cluster_count: u64) -> Result<Body> {
        if view.len() < attribute::NON_RESIDENT_LEN {
            return Err(Error::malformed(format!(
                "attribute: a non-resident header of 64 bytes expected, found {}",
                view.len()
            )));
        }
        let first = view.i64(attribute::FIRST_VCN)?;
        let last = view.i64(attribute::LAST_VCN)?;
        let (Ok(first_vcn), true) = (u64::try_from(first), last >= -1) else {
            return Err(Error::malformed(format!(
                "attribute: VCNs above 0 expected, found {first} to {last}"
            )));
        };
        let runs_offset = usize::from(view.u16(attribute::RUNS_OFFSET)?);
        let behind_header = if flags & (attribute::SPARSE | attribute::COMPRESSION_MASK) != 0
            && first == 0
            && runs_offset >= attribute::TOTAL_ALLOCATED.saturating_add(8)
        {
            Some(view.u64(attribute::TOTAL_ALLOCATED)?)
        } else {
            None
        };
        if runs_offset < attribute::NON_RESIDENT_LEN {
            return Err(Error::malformed(format!(
                "attribute: runs behind the header expected, found at +{runs_offset:#x}"
            )));
        }
        let room = view.len().checked_sub(runs_offset).ok_or_else(|| {
            Error::malformed(format!(
                "attribute: runs inside the attribute expected, found at +{runs_offset:#x}"
            ))
        })?;
        let runs = parse_runs(view.get(runs_offset, room)?, Vcn(first_vcn), cluster_count)?;
        let end = runs.last().map_or(first_vcn, |run| run.end_vcn().get());
        // An empty piece says "last = first - 1", some writers say 0.
        let fits = i64::try_from(end).ok() == last.checked_add(1) || (runs.is_empty() && last == 0);
        if !fits {
            return Err(Error::malformed(format!(
                "attribute: runs up to VCN {last:#x} expected, they end before {end:#x}"
            )));
        }
        let compression_unit = view.u8(attribute::COMPRESSION_UNIT)?;
        // Windows knows 0 and 4 only; more serves to shift too far (CVE-2026-48095).
        if !matches!(compression_unit, 0 | 4) && first == 0 {
            return Err(Error::unsupported(format!(
                "attribute: compression unit of 0 or 4 expected, found {compression_unit}"
            )));
        }
        let (allocated, data_len, initialised) = if first == 0 {
            let lens = (
                view.u64(attribute::ALLOCATED)?,
                view.u64(attribute::DATA_LEN)?,
                view.u64(attribute::INITIALISED)?,
            );
            if lens.0 > i64::MAX.unsigned_abs() || lens.1 > lens.0 || lens.2 > lens.1 {
                return Err(Error::malformed(format!(
                    "attribute: initialised <= data <= allocated expected, found {} / {} / {}",
                    lens.2, lens.1, lens.0
                )));
            }
            lens
        } else {
            (0, 0, 0)
        };
        Ok(Body::NonResident {
            first_vcn: Vcn(first_vcn),
            last_vcn: runs
                .last()
                .map(|run| Vcn(run.end_vcn().get().saturating_sub(1))),
            runs_offset: at.saturating_add(runs_offset),
            runs,
            compression_unit,
            allocated,
            data_len,
            initialised,
            total_allocated: behind_header,
        })
    }

    /// Whether the value lies in the record.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        matches!(self.body, Body::Resident { .. })
    }

    /// The resident value, out of the bytes of the record that holds the attribute.
    pub fn value<'a>(&self, record: &'a [u8]) -> Result<&'a [u8]> {
        match self.body {
            Body::Resident {
                value_offset,
                value_len,
                ..
            } => View::new(record, "attribute value").get(value_offset, value_len),
            Body::NonResident { .. } => Err(Error::malformed(format!(
                "attribute {:#x}: a resident value expected, found runs",
                self.code
            ))),
        }
    }

    /// The runs of this piece; none if resident.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        match &self.body {
            Body::Resident { .. } => &[],
            Body::NonResident { runs, .. } => runs,
        }
    }

    /// First VCN of this piece; 0 if resident.
    #[must_use]
    pub fn first_vcn(&self) -> Vcn {
        match self.body {
            Body::Resident { .. } => Vcn(0),
            Body::NonResident { first_vcn, .. } => first_vcn,
        }
    }

    /// Type and name as the field writes them, e.g. `$INDEX_ALLOCATION:$I30`.
    #[must_use]
    pub fn title(&self) -> String {
        title(self.code, &self.name)
    }
}

/// Type and name as the field writes them, e.g. `$INDEX_ALLOCATION:$I30`.
#[must_use]
pub fn title(code: u32, name: &Name) -> String {
    let kind = super::format::code::name(code);
    if name.units().is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}:{name}")
    }
}

/// A name of a file: the value of a $FILE_NAME attribute or the key of a directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The directory that holds the name.
    pub parent: MftReference,
    /// 0 POSIX, 1 Win32, 2 DOS, 3 both.
    pub namespace: u8,
    /// The name.
    pub name: Name,
    /// Bytes allocated; a copy, may be stale.
    pub allocated: u64,
    /// Bytes of the stream; a copy, may be stale.
    pub len: u64,
    /// Attributes.
    pub attributes: u32,
    /// The value as it stands on disk.
    pub raw: Vec<u8>,
}

impl FileName {
    /// Parses a value or key.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let view = View::new(bytes, "file name");
        let name_len = usize::from(view.u8(file_name::NAME_LEN)?);
        let namespace = view.u8(file_name::NAMESPACE)?;
        if name_len == 0 || namespace > file_name::WIN32_AND_DOS {
            return Err(Error::malformed(format!(
                "file name: 1 to 255 units in namespace 0 to 3 expected, found {name_len} in {namespace}"
            )));
        }
        let name = Name(view.units(file_name::NAME, name_len)?);
        let end = file_name::NAME.saturating_add(name_len.saturating_mul(2));
        // Windows pads nothing; a longer value hides bytes that would be lost.
        if wide(bytes.len()).saturating_sub(wide(end)) >= 8 {
            return Err(Error::malformed(format!(
                "file name: {end} bytes expected, found {}",
                bytes.len()
            )));
        }
        Ok(Self {
            parent: MftReference(view.u64(file_name::PARENT)?),
            namespace,
            name,
            allocated: view.u64(file_name::ALLOCATED)?,
            len: view.u64(file_name::DATA_LEN)?,
            attributes: view.u32(file_name::ATTRIBUTES)?,
            raw: bytes.to_vec(),
        })
    }

    /// Whether this is only the 8.3 alias of another name.
    #[must_use]
    pub fn is_dos_alias(&self) -> bool {
        self.namespace == file_name::DOS
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn plain() -> Vec<u8> {
        let mut a = vec![0u8; 0x48];
        a[0] = 0x80;
        a[4] = 0x48;
        a[8] = 1;
        a[0x18] = 7;
        a[0x20] = 0x40;
        a[0x28..0x30].copy_from_slice(&0x8000u64.to_le_bytes());
        a[0x30..0x38].copy_from_slice(&0x7FFFu64.to_le_bytes());
        a[0x38..0x40].copy_from_slice(&0x7FFFu64.to_le_bytes());
        a[0x40..0x44].copy_from_slice(&[0x11, 8, 5, 0]);
        a
    }

    #[test]
    fn a_plain_stream_parses() {
        let a = plain();
        let attribute = Attribute::parse(3, &a, 0, a.len(), 100).unwrap();
        assert_eq!(attribute.runs().len(), 1);
        assert_eq!(attribute.title(), "$DATA");
        assert!(!attribute.is_resident());
    }

    #[test]
    fn lying_headers_are_refused() {
        for (at, bytes) in [
            (4, &[0u8; 4][..]),
            (4, &[0x50, 0, 0, 0]),
            (4, &[0x47, 0, 0, 0]),
            (8, &[2]),
            (9, &[4, 0x46, 0]),
            (0x10, &[0xFF; 8]),
            (0x18, &[8, 0, 0, 0, 0, 0, 0, 0]),
            (0x18, &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
            (0x20, &[0, 0]),
            (0x20, &[0x48, 0]),
            (0x20, &[0xFF, 0xFF]),
            (0x22, &[5]),
            (0x28, &[0xFF; 8]),
            (0x28, &[0; 8]),
            (0x30, &[0xFF; 8]),
            (0x38, &[0xFF; 8]),
        ] {
            let mut a = plain();
            a[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(
                Attribute::parse(3, &a, 0, a.len(), 100).is_err(),
                "{at:#x} {bytes:x?}"
            );
        }
    }

    #[test]
    fn names_keep_lone_surrogates_and_reject_lies() {
        let mut v = vec![0u8; 0x46];
        v[0] = 5;
        v[0x40] = 2;
        v[0x41] = 1;
        v[0x42..0x46].copy_from_slice(&[0x00, 0xD8, 0x41, 0x00]);
        let name = FileName::parse(&v).unwrap();
        assert_eq!(name.name.units(), [0xD800, 0x41]);
        assert_eq!(name.parent.record(), 5);
        v[0x40] = 3;
        assert!(FileName::parse(&v).is_err());
        v[0x40] = 0;
        assert!(FileName::parse(&v).is_err());
    }
}
