//! Header and lenient lookups: what can be found even in a dirty or damaged hive, in bounded time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    format::{BASE_LEN, BIN_ALIGN, SEGMENT, base, count, index, vk},
    record::{Data, Image, List, ListKind, Nk, Vk, cell_at, offset, parse_db, shown},
};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::Name,
    units::{CellIndex, HiveOffset},
};

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A registry hive of the NT family.
    Regf,
    /// A registry file of Windows 95, 98 or ME.
    Creg,
    /// Anything else, transaction logs included.
    NotAHive,
}

/// Looks at the first bytes of a file; four are enough, 32 tell a log from a hive.
#[must_use]
pub fn probe(head: &[u8]) -> Probe {
    match head.first_chunk::<4>() {
        Some(b"regf") => {
            let file_type = View::new(head, "hive header").u32(base::TYPE).unwrap_or(0);
            if file_type == 0 {
                Probe::Regf
            } else {
                Probe::NotAHive
            }
        }
        Some(b"CREG") => Probe::Creg,
        _ => Probe::NotAHive,
    }
}

/// The header of a hive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseBlock {
    /// Sequence number of the last begun write.
    pub seq1: u32,
    /// Sequence number of the last finished write.
    pub seq2: u32,
    /// FILETIME of the last write; 0 in many hives.
    pub timestamp: u64,
    /// Major version, 1.
    pub major: u32,
    /// Minor version, 3 to 6.
    pub minor: u32,
    /// 0: a primary file.
    pub file_type: u32,
    /// 1: the only format there is.
    pub format: u32,
    /// The root key.
    pub root: CellIndex,
    /// Length of all bins.
    pub bins_len: u32,
    /// Clustering factor, 1.
    pub clustering: u32,
    /// The checksum as stored.
    pub stored_checksum: u32,
    /// The checksum as it should be.
    pub computed_checksum: u32,
}

/// Whether the file was left in the middle of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not.
    Clean,
    /// It was: the newest data is in the logs.
    Dirty {
        /// Number of the last begun write.
        primary: u32,
        /// Number of the last finished write.
        secondary: u32,
    },
    /// It was, or the header is damaged.
    BadChecksum {
        /// As stored.
        stored: u32,
        /// As it should be.
        computed: u32,
    },
}

/// The checksum of a base block: XOR of 127 dwords, with two values that are never stored.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let (dwords, _) = bytes.as_chunks::<4>();
    let sum = dwords
        .iter()
        .take(base::CHECKSUM.wrapping_div(4))
        .fold(0, |sum, dword| sum ^ u32::from_le_bytes(*dword));
    match sum {
        0 => 1,
        u32::MAX => u32::MAX.wrapping_sub(1),
        sum => sum,
    }
}

/// Reads the header. Not a hive, a log, or a version that is not handled: an error that says so.
pub fn read_base(bytes: &[u8]) -> Result<(BaseBlock, State)> {
    let signature = bytes.get(..4).unwrap_or(bytes);
    match signature {
        b"regf" => {}
        b"CREG" => {
            return Err(Error::unsupported(
                "hive header: signature regf expected, found CREG (Windows 95, 98 or ME)",
            ));
        }
        _ => {
            return Err(Error::malformed(format!(
                "hive header: signature regf expected, found {}",
                shown(signature)
            )));
        }
    }
    let view = View::new(bytes, "hive header").sub(0, BASE_LEN, "hive header")?;
    let header = BaseBlock {
        seq1: view.u32(base::SEQ1)?,
        seq2: view.u32(base::SEQ2)?,
        timestamp: view.u64(base::TIME)?,
        major: view.u32(base::MAJOR)?,
        minor: view.u32(base::MINOR)?,
        file_type: view.u32(base::TYPE)?,
        format: view.u32(base::FORMAT)?,
        root: CellIndex(view.u32(base::ROOT)?),
        bins_len: view.u32(base::BINS_LEN)?,
        clustering: view.u32(base::CLUSTERING)?,
        stored_checksum: view.u32(base::CHECKSUM)?,
        computed_checksum: checksum(bytes),
    };
    let BaseBlock { major, minor, .. } = header;
    if header.file_type != 0 {
        return Err(Error::malformed(format!(
            "hive header: file type 0 (primary) expected, found {} (a transaction log)",
            header.file_type
        )));
    }
    if major != 1 || !(3..=6).contains(&minor) {
        let advice = if major == 1 && minor < 3 {
            "; Windows NT 3.x wrote it"
        } else {
            ""
        };
        return Err(Error::unsupported(format!(
            "hive header: version 1.3 to 1.6 expected, found {major}.{minor}{advice}"
        )));
    }
    if header.format != 1 {
        return Err(Error::malformed(format!(
            "hive header: format 1 expected, found {}",
            header.format
        )));
    }
    if header.bins_len == 0 || !header.bins_len.is_multiple_of(BIN_ALIGN) {
        return Err(Error::malformed(format!(
            "hive header: length of bins as a multiple of 4096 expected, found {:#x}",
            header.bins_len
        )));
    }
    let state = if header.stored_checksum != header.computed_checksum {
        State::BadChecksum {
            stored: header.stored_checksum,
            computed: header.computed_checksum,
        }
    } else if header.seq1 != header.seq2 {
        State::Dirty {
            primary: header.seq1,
            secondary: header.seq2,
        }
    } else {
        State::Clean
    };
    Ok((header, state))
}

/// The bins behind the header, all of which must be in the file.
pub(super) fn read_image<'a>(bytes: &'a [u8], header: &BaseBlock) -> Result<Image<'a>> {
    let len = index(header.bins_len);
    match bytes.get(BASE_LEN..).and_then(|rest| rest.get(..len)) {
        Some(bins) => Ok(Image {
            bins,
            minor: header.minor,
        }),
        None => Err(Error::malformed(format!(
            "hive: {len} bytes of bins expected, found {} (the file is cut off)",
            bytes.len().saturating_sub(BASE_LEN)
        ))),
    }
}

/// A key found by [`Hive::find_keys`] or [`Hive::subkeys`]. Good for the same hive only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef(pub(super) u32);

impl KeyRef {
    /// The key's cell.
    #[must_use]
    pub fn cell(self) -> CellIndex {
        CellIndex(self.0)
    }
}

/// A value found by [`Hive::values`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRef {
    /// The value's cell.
    pub cell: CellIndex,
    /// Its name; empty for the default value.
    pub name: Name,
    /// REG_* type.
    pub kind: u32,
    /// Length of the data.
    pub data_len: u32,
    /// Where the value's cell is.
    pub offset: HiveOffset,
    /// Where the data is: its bytes, or for big data the record that leads to its segments.
    pub data_offset: Option<HiveOffset>,
}

/// A hive for looking only: works on dirty and damaged hives, never loops, never panics.
#[derive(Debug)]
pub struct Hive<'a> {
    header: BaseBlock,
    state: State,
    image: Image<'a>,
    skipped: AtomicU64,
}

impl<'a> Hive<'a> {
    /// Reads the header and nothing else.
    pub fn open(bytes: &'a [u8]) -> Result<Hive<'a>> {
        let (header, state) = read_base(bytes)?;
        let image = read_image(bytes, &header)?;
        Ok(Self {
            header,
            state,
            image,
            skipped: AtomicU64::new(0),
        })
    }

    /// The header.
    #[must_use]
    pub fn base(&self) -> &BaseBlock {
        &self.header
    }

    /// Whether the newest data may be in a log.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// List entries met so far that led nowhere. While this is not 0, "not found" proves nothing.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The root key.
    #[must_use]
    pub fn root(&self) -> KeyRef {
        KeyRef(self.header.root.get())
    }

    /// Where a key's cell is in the file.
    #[must_use]
    pub fn offset(&self, key: KeyRef) -> HiveOffset {
        offset(key.0)
    }

    /// A key's own name.
    pub fn name(&self, key: KeyRef) -> Result<Name> {
        Ok(self.key(key)?.name.owned())
    }

    fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    fn key(&self, key: KeyRef) -> Result<Nk<'a>> {
        Nk::parse(self.image.cell(key.0, "key")?).map_err(|e| e.at("hive offset", offset(key.0)))
    }

    /// The most list entries the hive has room for: more were met only if lists are shared.
    fn budget(&self) -> u64 {
        count(self.image.bins.len()).wrapping_div(4)
    }

    /// Children as stored, `see` is told each; a list that leads nowhere is skipped and counted.
    fn each_child(
        &self,
        nk: &Nk<'a>,
        budget: &mut u64,
        mut see: impl FnMut(u32, Nk<'a>),
    ) -> Result<()> {
        if nk.subkeys == 0 {
            return Ok(());
        }
        let at = |cell| move |e: Error| e.at("hive offset", offset(cell));
        let top = List::parse(self.image.cell(nk.list, "subkey list")?).map_err(at(nk.list))?;
        let mut leaf = |leaf: &List<'a>| -> Result<()> {
            for i in 0..leaf.count {
                *budget = budget.checked_sub(1).ok_or_else(|| {
                    Error::malformed("subkey lists: fewer entries expected, found shared lists")
                })?;
                let found = leaf
                    .entry(i)
                    .and_then(|(cell, _)| Some((cell, self.key(KeyRef(cell)).ok()?)));
                match found {
                    Some((cell, child)) => see(cell, child),
                    None => self.skip(),
                }
            }
            Ok(())
        };
        if top.kind != ListKind::Ri {
            return leaf(&top);
        }
        for i in 0..top.count {
            let list = top
                .entry(i)
                .and_then(|(cell, _)| self.image.cell(cell, "subkey list").ok())
                .and_then(|view| List::parse(view).ok())
                .filter(|list| list.kind != ListKind::Ri);
            match list {
                Some(list) => leaf(&list)?,
                None => self.skip(),
            }
        }
        Ok(())
    }

    /// Every key with this path below the root, in any case; more than one only in odd hives.
    pub fn find_keys(&self, path: &[&str]) -> Result<Vec<KeyRef>> {
        let path: Vec<Name> = path.iter().map(|name| Name::new(name)).collect();
        self.find_names(&path)
    }

    /// As [`Hive::find_keys`], for names that are no text.
    pub fn find_names(&self, path: &[Name]) -> Result<Vec<KeyRef>> {
        let mut level = vec![self.root()];
        self.key(self.root())?;
        for name in path {
            let mut budget = self.budget();
            let mut next = Vec::new();
            for key in level {
                let nk = self.key(key)?;
                self.each_child(&nk, &mut budget, |cell, child| {
                    if child.name.matches(name) {
                        next.push(KeyRef(cell));
                    }
                })?;
            }
            next.sort_unstable();
            next.dedup();
            level = next;
        }
        Ok(level)
    }

    /// The subkeys of a key with their names, in stored order.
    pub fn subkeys(&self, key: KeyRef) -> Result<Vec<(KeyRef, Name)>> {
        let nk = self.key(key)?;
        let mut out = Vec::new();
        self.each_child(&nk, &mut self.budget(), |cell, child| {
            out.push((KeyRef(cell), child.name.owned()));
        })?;
        Ok(out)
    }

    /// The values of a key, in stored order.
    pub fn values(&self, key: KeyRef) -> Result<Vec<ValueRef>> {
        let nk = self.key(key)?;
        let stored = nk.value_count();
        if stored == 0 {
            return Ok(Vec::new());
        }
        let cells = self.image.cell(nk.value_list, "value list")?.bytes();
        let mut out = Vec::new();
        for i in 0..stored {
            let Some(cell) = cell_at(cells, i) else {
                self.skip();
                break;
            };
            match self.value(cell) {
                Ok(value) => out.push(value),
                Err(_) => self.skip(),
            }
        }
        Ok(out)
    }

    fn value(&self, cell: u32) -> Result<ValueRef> {
        let record = Vk::parse(self.image.cell(cell, "value")?)?;
        let here = offset(cell);
        let payload = u64::from(super::format::CELL_HEADER);
        let data_offset = match record.place(self.image.minor)? {
            Data::Empty => None,
            Data::Resident(_) => here.checked_add(payload.saturating_add(count(vk::DATA))),
            Data::Plain { cell, .. } | Data::Big { cell, .. } => offset(cell).checked_add(payload),
        };
        Ok(ValueRef {
            cell: CellIndex(cell),
            name: record.name.owned(),
            kind: record.kind,
            data_len: record.len(),
            offset: here,
            data_offset,
        })
    }

    /// The data of a value: inside the value, in a cell, or in segments.
    pub fn value_data(&self, value: &ValueRef) -> Result<Vec<u8>> {
        let cell = value.cell.get();
        self.data(cell).map_err(|e| e.at("value", &value.name))
    }

    fn data(&self, cell: u32) -> Result<Vec<u8>> {
        let record = Vk::parse(self.image.cell(cell, "value")?)?;
        match record.place(self.image.minor)? {
            Data::Empty => Ok(Vec::new()),
            Data::Resident(bytes) => Ok(bytes.to_vec()),
            Data::Plain { cell, len } => {
                let view = self.image.cell(cell, "value data")?;
                Ok(view.get(0, index(len))?.to_vec())
            }
            Data::Big { cell, len } => self.big_data(cell, len),
        }
    }

    fn big_data(&self, cell: u32, len: u32) -> Result<Vec<u8>> {
        let view = self.image.cell(cell, "big data")?;
        let Ok((segments, list)) = parse_db(view) else {
            // What hivex writes: one large cell.
            return Ok(view.get(0, index(len))?.to_vec());
        };
        if len > self.header.bins_len {
            return Err(Error::malformed(format!(
                "big data: at most the length of the hive expected, found {len}"
            )));
        }
        let cells = self.image.cell(list, "big data list")?.bytes();
        let mut out = Vec::new();
        let mut left = len;
        for i in 0..segments {
            let part = left.min(SEGMENT);
            let segment = cell_at(cells, i).ok_or_else(|| {
                Error::malformed(format!(
                    "big data list: {segments} segments expected, found {i}"
                ))
            })?;
            let bytes = self.image.cell(segment, "big data segment")?;
            out.extend_from_slice(bytes.get(0, index(part))?);
            left = left.saturating_sub(part);
            if left == 0 {
                return Ok(out);
            }
        }
        Err(Error::malformed(format!(
            "big data: segments for {len} bytes expected, found {left} too few"
        )))
    }
}
