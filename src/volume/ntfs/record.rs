//! File records: update sequences undone and applied, the header, the attribute chain.

use super::{
    attribute::Attribute,
    format::{attribute, fixup, record},
};
use crate::{
    bytes::{View, put},
    error::{Error, Result},
    units::MftReference,
    volume::widths::index,
};

/// Whether a protected structure could be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixup {
    /// Every stride carried the number; the originals are back in place.
    Valid,
    /// A stride carries another number: a torn write. The bytes are as found.
    Torn,
    /// The array lies outside the structure or has the wrong length. The bytes are as found.
    Broken,
    /// A DAX volume's checksum instead of update sequences.
    Crc4,
}

impl Fixup {
    /// What was found, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fixup::Valid => "a valid update sequence",
            Fixup::Torn => "a torn write (update sequence mismatch)",
            Fixup::Broken => "a broken update sequence array",
            Fixup::Crc4 => "a DAX checksum instead of an update sequence",
        }
    }
}

/// Where the update sequence array lies: (offset, strides). The array has strides + 1 numbers.
fn array_of(bytes: &[u8]) -> Option<(usize, usize)> {
    let (head, _) = bytes.split_first_chunk::<8>()?;
    let [_, _, _, _, o0, o1, c0, c1] = *head;
    let offset = usize::from(u16::from_le_bytes([o0, o1]));
    let count = usize::from(u16::from_le_bytes([c0, c1]));
    let strides = bytes.len().checked_div(fixup::STRIDE)?;
    // The count must be exactly that of the structure (CVE-2021-46790), and the array must end
    // before the first protected place (it would overwrite itself).
    let end = offset.checked_add(count.checked_mul(2)?)?;
    let sane = count == strides.checked_add(1)?
        && strides >= 1
        && bytes.len().checked_rem(fixup::STRIDE) == Some(0)
        && offset >= 8
        && offset.is_multiple_of(2)
        && end <= fixup::STRIDE.saturating_sub(2);
    sane.then_some((offset, strides))
}

/// Undoes the update sequence in place. Nothing is changed unless the answer is `Valid`.
#[must_use]
pub fn undo_fixup(bytes: &mut [u8]) -> Fixup {
    let Some((offset, strides)) = array_of(bytes) else {
        let crc = bytes
            .get(4..6)
            .and_then(|raw| <[u8; 2]>::try_from(raw).ok())
            .map(|raw| usize::from(u16::from_le_bytes(raw)))
            .and_then(|at| bytes.get(at.checked_add(4)?..at.checked_add(8)?))
            .is_some_and(|mark| mark == fixup::CRC4);
        return if crc { Fixup::Crc4 } else { Fixup::Broken };
    };
    // 4096 / 512 strides in a record, 128 in a 64 KiB block; the head holds the whole array.
    let (head, _) = bytes.split_at(bytes.len().min(fixup::STRIDE));
    let mut array = [0; fixup::STRIDE];
    for (to, from) in array.iter_mut().zip(head) {
        *to = *from;
    }
    let Some((usn, originals)) = array.get(offset..).and_then(<[u8]>::split_first_chunk::<2>)
    else {
        return Fixup::Broken;
    };
    if originals.get(2..6) == Some(&fixup::CRC4[..]) {
        return Fixup::Crc4;
    }
    let (chunks, _) = bytes.as_chunks_mut::<{ fixup::STRIDE }>();
    if chunks
        .iter()
        .any(|chunk| chunk.last_chunk::<2>() != Some(usn))
    {
        return Fixup::Torn;
    }
    let (originals, _) = originals.as_chunks::<2>();
    for (chunk, original) in chunks.iter_mut().zip(originals.iter().take(strides)) {
        if let Some(tail) = chunk.last_chunk_mut::<2>() {
            *tail = *original;
        }
    }
    Fixup::Valid
}

/// Applies the next update sequence in place: the number after the old one, never 0 or 0xFFFF.
pub fn apply_fixup(bytes: &mut [u8]) -> Result<()> {
    let Some((offset, _)) = array_of(bytes) else {
        return Err(Error::internal(
            "update sequence: a valid array expected before writing",
        ));
    };
    let old = View::new(bytes, "update sequence").u16(offset)?;
    let usn = match old.wrapping_add(1) {
        0 | 0xFFFF => 1u16,
        next => next,
    }
    .to_le_bytes();
    let mut array = Vec::with_capacity(bytes.len().checked_div(128).unwrap_or(0));
    array.extend_from_slice(&usn);
    let (chunks, _) = bytes.as_chunks_mut::<{ fixup::STRIDE }>();
    for chunk in chunks {
        if let Some(tail) = chunk.last_chunk_mut::<2>() {
            array.extend_from_slice(tail);
            *tail = usn;
        }
    }
    put(bytes, offset, &array, "update sequence array")
}

/// One file record with its update sequence undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from its place in $MFT.
    pub number: u64,
    /// All its bytes; update sequence undone if `fixup_ok`.
    pub bytes: Vec<u8>,
    /// Whether the update sequence was valid.
    pub fixup_ok: bool,
}

impl Record {
    /// Takes raw bytes, undoes the update sequence, checks nothing else.
    #[must_use]
    pub fn from_raw(number: u64, mut bytes: Vec<u8>) -> (Self, Fixup) {
        let fixup = undo_fixup(&mut bytes);
        (
            Self {
                number,
                bytes,
                fixup_ok: fixup == Fixup::Valid,
            },
            fixup,
        )
    }

    /// The bytes as a view.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(&self.bytes, "file record")
    }

    fn field16(&self, at: usize) -> u16 {
        self.view().u16(at).unwrap_or(0)
    }

    /// The first four bytes.
    #[must_use]
    pub fn magic(&self) -> [u8; 4] {
        self.view().array(0).unwrap_or_default()
    }

    /// $LogFile sequence number of the last change.
    #[must_use]
    pub fn lsn(&self) -> u64 {
        self.view().u64(record::LSN).unwrap_or(0)
    }

    /// How often the record was reused.
    #[must_use]
    pub fn sequence(&self) -> u16 {
        self.field16(record::SEQUENCE)
    }

    /// Number of names.
    #[must_use]
    pub fn links(&self) -> u16 {
        self.field16(record::LINKS)
    }

    /// Flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.field16(record::FLAGS)
    }

    /// Whether it is a FILE record in use.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.magic() == record::MAGIC && self.flags() & record::IN_USE != 0
    }

    /// Whether it has a directory index.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.flags() & record::DIRECTORY != 0
    }

    /// Bytes in use, end marker included. Unchecked: see [`Record::check_header`].
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        index(self.view().u32(record::BYTES_IN_USE).unwrap_or(0))
    }

    /// Reference to the base record; 0 in a base record.
    #[must_use]
    pub fn base(&self) -> MftReference {
        MftReference(self.view().u64(record::BASE).unwrap_or(0))
    }

    /// Whether this is an extension of another record.
    #[must_use]
    pub fn is_extension(&self) -> bool {
        self.base().0 != 0
    }

    /// The next free attribute id.
    #[must_use]
    pub fn next_attribute_id(&self) -> u16 {
        self.field16(record::NEXT_ATTRIBUTE_ID)
    }

    /// Offset of the first attribute. Unchecked: see [`Record::check_header`].
    #[must_use]
    pub fn first_attribute(&self) -> usize {
        usize::from(self.field16(record::FIRST_ATTRIBUTE))
    }

    /// This record's reference.
    #[must_use]
    pub fn reference(&self) -> MftReference {
        MftReference::new(self.number, self.sequence())
    }

    fn bad(&self, what: &str) -> Error {
        Error::malformed(format!("file record: {what}")).at("file record", self.number)
    }

    /// Magic, update sequence, own number, and that the used part lies inside the record.
    pub fn check_header(&self) -> Result<()> {
        let magic = self.magic();
        if magic != record::MAGIC {
            return Err(self.bad(&format!("FILE expected, found {}", hex::encode(magic))));
        }
        if !self.fixup_ok {
            return Err(self.bad("a valid update sequence expected, found a torn or broken one"));
        }
        let array = self.field16(fixup::ARRAY_OFFSET);
        if array >= record::ARRAY_WITH_NUMBER {
            let own = self.view().u32(record::OWN_NUMBER)?;
            if u64::from(own) != self.number & 0xFFFF_FFFF {
                return Err(self.bad(&format!("its own number expected, found {own}")));
            }
        }
        let first = self.first_attribute();
        let used = self.bytes_in_use();
        let allocated = index(self.view().u32(record::BYTES_ALLOCATED)?);
        let array_end = usize::from(array)
            .saturating_add(usize::from(self.field16(fixup::ARRAY_COUNT)).saturating_mul(2));
        if allocated != self.bytes.len() || used > allocated || !used.is_multiple_of(8) {
            return Err(self.bad(&format!(
                "bytes in use within {} expected, found {used} of {allocated}",
                self.bytes.len()
            )));
        }
        if !first.is_multiple_of(8)
            || first < array_end
            || first.saturating_add(attribute::END_LEN) > used
        {
            return Err(self.bad(&format!(
                "first attribute between {array_end:#x} and {used:#x} expected, found {first:#x}"
            )));
        }
        Ok(())
    }

    /// All attributes, strictly: the header is valid, the chain ends with its marker exactly at
    /// the bytes in use, codes ascend, ids are unique, everything lies inside its attribute.
    pub fn attributes(&self, cluster_count: u64) -> Result<Vec<Attribute>> {
        self.check_header()?;
        let used = self.bytes_in_use();
        let view = self.view();
        let mut at = self.first_attribute();
        let mut found: Vec<Attribute> = Vec::new();
        // Bounded: every attribute is at least 24 bytes of a record of at most 4096.
        loop {
            let code = view.u32(at)?;
            if code == attribute::END {
                if at.saturating_add(attribute::END_LEN) != used {
                    return Err(self.bad(&format!(
                        "end marker at the end of the used part ({used:#x}) expected, found at {at:#x}"
                    )));
                }
                return Ok(found);
            }
            let parsed = Attribute::parse(self.number, &self.bytes, at, used, cluster_count)
                .map_err(|e| {
                    e.at("record offset", format_args!("{at:#x}"))
                        .at("file record", self.number)
                })?;
            if found.last().is_some_and(|last| last.code > parsed.code) {
                return Err(self.bad(&format!("ascending attribute codes expected at {at:#x}")));
            }
            if found.iter().any(|other| other.id == parsed.id) {
                return Err(self.bad(&format!("attribute id {} used once expected", parsed.id)));
            }
            at = at.saturating_add(parsed.len);
            found.push(parsed);
            if at.saturating_add(attribute::END_LEN) > used {
                return Err(self.bad(&format!("end marker before {used:#x} expected, found none")));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    /// A 1024-byte record, update sequence undone, with these attributes.
    pub(crate) fn record_of(number: u64, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut r = vec![0u8; 1024];
        r[..4].copy_from_slice(b"FILE");
        r[4] = 0x30;
        r[6] = 3;
        r[0x10] = 1;
        r[0x14] = 0x38;
        r[0x16] = 1;
        r[0x1C..0x20].copy_from_slice(&1024u32.to_le_bytes());
        r[0x28] = attributes.len() as u8;
        r[0x2C..0x30].copy_from_slice(&(number as u32).to_le_bytes());
        r[0x30] = 7;
        let mut at = 0x38;
        for a in attributes {
            r[at..at + a.len()].copy_from_slice(a);
            at += a.len();
        }
        r[at..at + 4].fill(0xFF);
        r[0x18..0x1C].copy_from_slice(&(at as u32 + 8).to_le_bytes());
        r
    }

    /// A resident attribute.
    pub(crate) fn resident(code: u32, id: u16, value: &[u8]) -> Vec<u8> {
        let len = (0x18 + value.len()).next_multiple_of(8);
        let mut a = vec![0; len];
        a[..4].copy_from_slice(&code.to_le_bytes());
        a[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        a[0x0E..0x10].copy_from_slice(&id.to_le_bytes());
        a[0x10..0x14].copy_from_slice(&(value.len() as u32).to_le_bytes());
        a[0x14] = 0x18;
        a[0x18..0x18 + value.len()].copy_from_slice(value);
        a
    }

    #[test]
    fn a_fixup_goes_round() {
        let plain = record_of(9, &[resident(0x80, 0, &[0xAB; 600])]);
        let mut raw = plain.clone();
        apply_fixup(&mut raw).unwrap();
        assert_eq!((raw[510], raw[1022], raw[0x30]), (8, 8, 8));
        assert_eq!(raw[0x32], 0xAB);
        let (record, fixup) = Record::from_raw(9, raw.clone());
        assert_eq!(fixup, Fixup::Valid);
        assert_eq!(record.bytes[..0x30], plain[..0x30]);
        assert_eq!(record.bytes[0x38..], plain[0x38..]);
        assert_eq!(record.attributes(100).unwrap().len(), 1);
        raw[1022] ^= 1;
        let (torn, fixup) = Record::from_raw(9, raw.clone());
        assert_eq!(fixup, Fixup::Torn);
        assert_eq!(torn.bytes, raw);
        assert!(torn.attributes(100).is_err());
    }

    #[test]
    fn the_number_skips_zero_and_all_ones() {
        for (old, new) in [(0xFFFEu16, 1u16), (0xFFFF, 1), (0, 1), (1, 2)] {
            let mut r = record_of(0, &[]);
            r[0x30..0x32].copy_from_slice(&old.to_le_bytes());
            apply_fixup(&mut r).unwrap();
            assert_eq!(r[0x30..0x32], new.to_le_bytes());
        }
    }

    #[test]
    fn hostile_arrays_change_nothing() {
        for (at, value) in [
            (6, 0u16),
            (6, 1),
            (6, 4),
            (6, 0xFFFF),
            (4, 0x31),
            (4, 0xFFFE),
            (4, 0),
        ] {
            let mut r = record_of(0, &[]);
            r[at..at + 2].copy_from_slice(&value.to_le_bytes());
            let before = r.clone();
            assert_eq!(undo_fixup(&mut r), Fixup::Broken);
            assert_eq!(r, before);
            assert!(apply_fixup(&mut r).is_err());
        }
        assert_eq!(undo_fixup(&mut []), Fixup::Broken);
        let mut dax = record_of(0, &[]);
        dax[0x34..0x38].copy_from_slice(b"CRC4");
        assert_eq!(undo_fixup(&mut dax), Fixup::Crc4);
    }

    #[test]
    fn hostile_headers_and_chains_are_refused() {
        let good = record_of(7, &[resident(0x10, 0, &[1; 72]), resident(0x80, 1, b"x")]);
        let parse = |bytes: &[u8]| {
            Record {
                number: 7,
                bytes: bytes.to_vec(),
                fixup_ok: true,
            }
            .attributes(16)
        };
        assert_eq!(parse(&good).unwrap().len(), 2);
        for (at, bytes) in [
            (0x18, &[0xFF, 0xFF, 0, 0][..]),
            (0x18, &[0, 0, 0, 0]),
            (0x18, &[0x40, 0, 0, 0]),
            (0x14, &[0, 0]),
            (0x14, &[0x39, 0]),
            (0x14, &[0xF8, 0xFF]),
            (0x1C, &[0, 8, 0, 0]),
            (0x2C, &[8, 0, 0, 0]),
            (0x3C, &[0, 0, 0, 0]),
            (0x3C, &[7, 0, 0, 0]),
            (0x3C, &[0xFF, 0xFF, 0xFF, 0xFF]),
            (0x38, &[0x90, 0, 0, 0]),
            (0x46, &[1, 0]),
            (0x48, &[0xFF, 0xFF, 0xFF, 0xFF]),
            (0x4C, &[0xFF, 0xFF]),
            (0x41, &[4, 0xF0, 0xFF]),
            (0, b"BAAD"),
        ] {
            let mut r = good.clone();
            r[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(parse(&r).is_err(), "{at:#x} {bytes:x?}");
        }
    }
}
