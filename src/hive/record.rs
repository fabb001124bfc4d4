//! The records inside cells, parsed from their bytes; nothing is followed from here.

use std::fmt;

use super::format::{BASE_LEN, CELL_ALIGN, CELL_HEADER, NIL, db, index, list, nk, sk, vk};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::{self, registry_upcase},
    units::HiveOffset,
};

/// The place of a cell in the file.
pub(super) fn offset(cell: u32) -> HiveOffset {
    HiveOffset(u64::from(cell).saturating_add(u64::try_from(BASE_LEN).unwrap_or(0)))
}

/// Two bytes of a signature for a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(4) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    if out.is_empty() {
        "nothing".into()
    } else {
        out
    }
}

/// The bins of a hive.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    /// All bytes of the bins.
    pub(super) bins: &'a [u8],
    /// Minor version.
    pub(super) minor: u32,
}

impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes of 1.{})", self.bins.len(), self.minor)
    }
}

impl<'a> Image<'a> {
    /// The size field of the cell here: positive when free.
    pub(super) fn header(&self, cell: u32) -> Option<i32> {
        let at = index(cell);
        let bytes = self.bins.get(at..at.checked_add(4)?)?;
        Some(i32::from_le_bytes(*bytes.first_chunk()?))
    }

    /// The payload of a cell in use. Whether a cell begins here is for the caller to know.
    pub(super) fn cell(&self, cell: u32, what: &'static str) -> Result<View<'a>> {
        let fail = |found: &str| {
            Err(
                Error::malformed(format!("{what}: a cell in use expected, found {found}"))
                    .at("hive offset", offset(cell)),
            )
        };
        if cell == NIL {
            return Err(Error::malformed(format!(
                "{what}: a cell expected, found none (ffffffff)"
            )));
        }
        if !cell.is_multiple_of(CELL_ALIGN) {
            return fail("an unaligned offset");
        }
        let Some(header) = self.header(cell) else {
            return fail("the end of the hive");
        };
        if header >= 0 {
            return fail("a free cell");
        }
        let size = header.unsigned_abs();
        let (Some(start), Some(end)) = (cell.checked_add(CELL_HEADER), cell.checked_add(size))
        else {
            return fail("a cell past the end");
        };
        match self.bins.get(index(start)..index(end)) {
            Some(payload) => Ok(View::new(payload, what)),
            None => fail("a cell past the end"),
        }
    }
}

/// The registry's folding, quick for ASCII.
fn fold(unit: u16) -> u16 {
    match unit {
        0x61..=0x7A => unit & !0x20,
        0..=0x7F => unit,
        _ => registry_upcase(unit),
    }
}

/// A name inside the hive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl<'a> Name<'a> {
    /// Latin-1 when `compressed`, else UTF-16.
    pub(super) fn new(bytes: &'a [u8], compressed: bool) -> Self {
        Self {
            bytes,
            wide: !compressed,
        }
    }

    /// As stored.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether stored as UTF-16.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    /// UTF-16 with half a unit at the end.
    pub(super) fn is_odd(&self) -> bool {
        self.wide && !self.bytes.len().is_multiple_of(2)
    }

    /// The length the hive's "longest name" fields count in.
    pub(super) fn wide_len(&self) -> u32 {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if self.wide {
            len
        } else {
            len.saturating_mul(2)
        }
    }

    /// UTF-16 units.
    pub(super) fn units(&self) -> impl Iterator<Item = u16> + 'a {
        let Self { bytes, wide } = *self;
        let (pairs, _) = bytes.as_chunks::<2>();
        let len = if wide { pairs.len() } else { bytes.len() };
        (0..len).map(move |i| {
            if wide {
                pairs.get(i).map_or(0, |pair| u16::from_le_bytes(*pair))
            } else {
                bytes.get(i).map_or(0, |byte| u16::from(*byte))
            }
        })
    }

    /// Folded units.
    pub(super) fn folded(&self) -> impl Iterator<Item = u16> + 'a {
        self.units().map(fold)
    }

    /// Whether all units are ASCII, where the folding is beyond doubt.
    pub(super) fn is_ascii(&self) -> bool {
        self.units().all(|unit| unit < 0x80)
    }

    /// The hash of an `lh` list.
    pub(super) fn hash(&self) -> u32 {
        self.folded().fold(0u32, |hash, unit| {
            hash.wrapping_mul(37).wrapping_add(u32::from(unit))
        })
    }

    /// The name as the rest of the crate knows it.
    pub(super) fn owned(&self) -> text::Name {
        text::Name(self.units().collect())
    }

    /// Whether it is `name` when both are folded.
    pub(super) fn matches(&self, name: &text::Name) -> bool {
        self.folded()
            .eq(name.units().iter().map(|unit| fold(*unit)))
    }
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nk<'a> {
    pub(super) flags: u16,
    pub(super) time: u64,
    pub(super) parent: u32,
    pub(super) subkeys: u32,
    pub(super) volatile: u32,
    pub(super) list: u32,
    values: u32,
    pub(super) value_list: u32,
    pub(super) security: u32,
    pub(super) class: u32,
    pub(super) class_len: u16,
    pub(super) max_name: u16,
    pub(super) max_class: u32,
    pub(super) max_value_name: u32,
    pub(super) max_value_data: u32,
    pub(super) name: Name<'a>,
}

impl<'a> Nk<'a> {
    /// Parses a cell's payload.
    pub(super) fn parse(view: View<'a>) -> Result<Self> {
        signature(&view, *b"nk")?;
        let flags = view.u16(nk::FLAGS)?;
        let name_len = view.u16(nk::NAME_LEN)?;
        Ok(Self {
            flags,
            time: view.u64(nk::TIME)?,
            parent: view.u32(nk::PARENT)?,
            subkeys: view.u32(nk::SUBKEYS)?,
            volatile: view.u32(nk::VOLATILE)?,
            list: view.u32(nk::LIST)?,
            values: view.u32(nk::VALUES)?,
            value_list: view.u32(nk::VALUE_LIST)?,
            security: view.u32(nk::SECURITY)?,
            class: view.u32(nk::CLASS)?,
            class_len: view.u16(nk::CLASS_LEN)?,
            max_name: view.u16(nk::MAX_NAME)?,
            max_class: view.u32(nk::MAX_CLASS)?,
            max_value_name: view.u32(nk::MAX_VALUE_NAME)?,
            max_value_data: view.u32(nk::MAX_VALUE_DATA)?,
            name: Name::new(
                view.get(nk::NAME, usize::from(name_len))?,
                flags & nk::FLAG_COMPRESSED != 0,
            ),
        })
    }

    /// Number of values; none in a key with a predefined handle.
    pub(super) fn value_count(&self) -> u32 {
        if self.flags & nk::FLAG_PREDEFINED == 0 {
            self.values
        } else {
            0
        }
    }

    /// Bytes of the cell that mean something.
    pub(super) fn used(&self) -> usize {
        nk::NAME.saturating_add(self.name.bytes().len())
    }
}

fn signature(view: &View<'_>, expected: [u8; 2]) -> Result<()> {
    let found: [u8; 2] = view.array(0)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{}: signature {} expected, found {}",
        view.what(),
        String::from_utf8_lossy(&expected),
        shown(&found)
    )))
}

/// A value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vk<'a> {
    pub(super) name: Name<'a>,
    pub(super) kind: u32,
    /// As stored, with the resident bit.
    pub(super) raw_len: u32,
    pub(super) data: u32,
    /// The bytes of the data field.
    inline: &'a [u8],
}

/// Where a value's data is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data<'a> {
    /// In the value itself.
    Resident(&'a [u8]),
    /// There is none.
    Empty,
    /// In a cell of its own.
    Plain { cell: u32, len: u32 },
    /// In segments (or, in a hive that a foreign tool wrote, in one large cell all the same).
    Big { cell: u32, len: u32 },
}

impl<'a> Vk<'a> {
    /// Parses a cell's payload.
    pub(super) fn parse(view: View<'a>) -> Result<Self> {
        signature(&view, *b"vk")?;
        let name_len = view.u16(vk::NAME_LEN)?;
        Ok(Self {
            kind: view.u32(vk::KIND)?,
            raw_len: view.u32(vk::DATA_LEN)?,
            data: view.u32(vk::DATA)?,
            inline: view.get(vk::DATA, 4)?,
            name: Name::new(
                view.get(vk::NAME, usize::from(name_len))?,
                view.u16(vk::FLAGS)? & 1 != 0,
            ),
        })
    }

    /// Length of the data.
    pub(super) fn len(&self) -> u32 {
        self.raw_len & !vk::RESIDENT
    }

    /// Bytes of the cell that mean something.
    pub(super) fn used(&self) -> usize {
        vk::NAME.saturating_add(self.name.bytes().len())
    }

    /// Where the data is, by the rules of this minor version.
    pub(super) fn place(&self, minor: u32) -> Result<Data<'a>> {
        let len = self.len();
        if self.raw_len & vk::RESIDENT != 0 {
            return match self.inline.get(..index(len)) {
                Some(bytes) => Ok(Data::Resident(bytes)),
                None => Err(Error::malformed(format!(
                    "value: at most 4 bytes inside the value expected, found {len}"
                ))),
            };
        }
        Ok(if len == 0 {
            Data::Empty
        } else if len > super::format::SEGMENT && minor >= 4 {
            Data::Big {
                cell: self.data,
                len,
            }
        } else {
            Data::Plain {
                cell: self.data,
                len,
            }
        })
    }
}

/// A security descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sk<'a> {
    pub(super) flink: u32,
    pub(super) blink: u32,
    pub(super) count: u32,
    pub(super) descriptor: &'a [u8],
}

impl<'a> Sk<'a> {
    /// Parses a cell's payload.
    pub(super) fn parse(view: View<'a>) -> Result<Self> {
        signature(&view, *b"sk")?;
        let len = view.u32(sk::LEN)?;
        Ok(Self {
            flink: view.u32(sk::FLINK)?,
            blink: view.u32(sk::BLINK)?,
            count: view.u32(sk::COUNT)?,
            descriptor: view.get(sk::DESCRIPTOR, index(len))?,
        })
    }

    /// Bytes of the cell that mean something.
    pub(super) fn used(&self) -> usize {
        sk::DESCRIPTOR.saturating_add(self.descriptor.len())
    }
}

/// The kind of a subkey list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Cells only.
    Li,
    /// Cells with the first four letters.
    Lf,
    /// Cells with a hash.
    Lh,
    /// Lists of lists.
    Ri,
}

/// A subkey list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    pub(super) kind: ListKind,
    pub(super) count: u32,
    entries: &'a [u8],
}

impl<'a> List<'a> {
    /// Parses a cell's payload; the entries fit into it.
    pub(super) fn parse(view: View<'a>) -> Result<Self> {
        let kind = match &view.array::<2>(0)? {
            b"li" => ListKind::Li,
            b"lf" => ListKind::Lf,
            b"lh" => ListKind::Lh,
            b"ri" => ListKind::Ri,
            found => {
                return Err(Error::malformed(format!(
                    "subkey list: signature lf, lh, li or ri expected, found {}",
                    shown(found)
                )));
            }
        };
        let count = u32::from(view.u16(list::COUNT)?);
        let mut out = Self {
            kind,
            count,
            entries: &[],
        };
        let len = index(count.saturating_mul(out.entry_len()));
        out.entries = view.get(list::ENTRIES, len)?;
        Ok(out)
    }

    /// A list without entries.
    pub(super) fn empty() -> Self {
        Self {
            kind: ListKind::Li,
            count: 0,
            entries: &[],
        }
    }

    /// Bytes of one entry.
    pub(super) fn entry_len(&self) -> u32 {
        match self.kind {
            ListKind::Li | ListKind::Ri => 4,
            ListKind::Lf | ListKind::Lh => 8,
        }
    }

    /// Bytes of the cell that mean something.
    pub(super) fn used(&self) -> usize {
        list::ENTRIES.saturating_add(self.entries.len())
    }

    /// Cell and hint of an entry; the hint is 0 in lists without hints.
    pub(super) fn entry(&self, i: u32) -> Option<(u32, u32)> {
        let entry = match self.kind {
            ListKind::Li | ListKind::Ri => {
                let (all, _) = self.entries.as_chunks::<4>();
                return Some((u32::from_le_bytes(*all.get(index(i))?), 0));
            }
            ListKind::Lf | ListKind::Lh => self.entries.as_chunks::<8>().0.get(index(i))?,
        };
        let (cell, hint) = (entry.first_chunk()?, entry.last_chunk()?);
        Some((u32::from_le_bytes(*cell), u32::from_le_bytes(*hint)))
    }
}

/// The record of a value in segments: their number and the cell of their list.
pub(super) fn parse_db(view: View<'_>) -> Result<(u32, u32)> {
    signature(&view, *b"db")?;
    view.get(0, db::LEN)?;
    Ok((u32::from(view.u16(db::COUNT)?), view.u32(db::LIST)?))
}

/// Number `i` of a list of cells.
pub(super) fn cell_at(cells: &[u8], i: u32) -> Option<u32> {
    let (all, _) = cells.as_chunks::<4>();
    all.get(index(i)).map(|cell| u32::from_le_bytes(*cell))
}
