//! The copy of the base block that a log begins with.

use super::{
    LogFormat,
    format::{MAX_BINS_LEN, copy},
};
use crate::{
    bytes::View,
    error::{At, Error, Result},
    hive::{
        format::{BIN_ALIGN, base},
        read::checksum,
        record::shown,
    },
    text::Name,
};

/// What tells one hive from another; no write changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    root: u32,
    minor: u32,
    name: Name,
}

impl Identity {
    /// Of a base block, or of a copy of one.
    pub(super) fn read(view: View<'_>) -> Result<Self> {
        let mut units = view.units(copy::NAME, copy::NAME_UNITS)?;
        if let Some(end) = units.iter().position(|unit| *unit == 0) {
            units.truncate(end);
        }
        Ok(Self {
            root: view.u32(base::ROOT)?,
            minor: view.u32(base::MINOR)?,
            name: Name(units),
        })
    }

    /// The first thing in which `other` differs, expected and found.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        if !self.name.eq_registry(&other.name) {
            return Some(format!(
                "file name {} expected, found {}",
                self.name, other.name
            ));
        }
        if self.root != other.root {
            let (root, other) = (self.root, other.root);
            return Some(format!("root key {root:#x} expected, found {other:#x}"));
        }
        (self.minor != other.minor)
            .then(|| format!("version 1.{} expected, found 1.{}", self.minor, other.minor))
    }
}

/// A valid header: the log was written to its end.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) format: LogFormat,
    pub(super) sequence: u32,
    pub(super) time: u64,
    pub(super) bins_len: u32,
    pub(super) identity: Identity,
}

/// Whether this length of bins is possible.
pub(super) fn is_bins_len(len: u32) -> bool {
    len != 0 && len <= MAX_BINS_LEN && len.is_multiple_of(BIN_ALIGN)
}

/// Reads and checks the header. Errors say why Windows does not take this log either.
pub(super) fn read_header(bytes: &[u8]) -> Result<Header> {
    header_of(bytes).at("log offset", "0x0")
}

fn header_of(bytes: &[u8]) -> Result<Header> {
    let view = View::new(bytes, "log header").sub(0, copy::LEN, "log header")?;
    let fail = |what: String| Err(Error::malformed(format!("log header: {what}")));
    let signature = view.get(0, 4)?;
    if signature != b"regf" {
        return fail(format!(
            "signature regf expected, found {}",
            shown(signature)
        ));
    }
    let (stored, computed) = (view.u32(base::CHECKSUM)?, checksum(view.bytes()));
    if stored != computed {
        return fail(format!(
            "checksum {computed:#010x} expected, found {stored:#010x}"
        ));
    }
    let format = match view.u32(base::TYPE)? {
        copy::TYPE_OLD | copy::TYPE_VERY_OLD => LogFormat::Old,
        copy::TYPE_NEW => LogFormat::New,
        other => return fail(format!("file type 1, 2 or 6 expected, found {other}")),
    };
    let (sequence, finished) = (view.u32(base::SEQ1)?, view.u32(base::SEQ2)?);
    if sequence != finished {
        return fail(format!(
            "equal sequence numbers expected, found {sequence} and {finished}"
        ));
    }
    for (name, at) in [
        ("major version", base::MAJOR),
        ("format", base::FORMAT),
        ("clustering factor", base::CLUSTERING),
    ] {
        let found = view.u32(at)?;
        if found != 1 {
            return fail(format!("{name} 1 expected, found {found}"));
        }
    }
    let minor = view.u32(base::MINOR)?;
    if !(3..=6).contains(&minor) {
        return fail(format!("version 1.3 to 1.6 expected, found 1.{minor}"));
    }
    let bins_len = view.u32(base::BINS_LEN)?;
    if !is_bins_len(bins_len) {
        return fail(format!(
            "length of bins as a multiple of 4096 expected, found {bins_len:#x}"
        ));
    }
    Ok(Header {
        format,
        sequence,
        time: view.u64(base::TIME)?,
        bins_len,
        identity: Identity::read(view)?,
    })
}
