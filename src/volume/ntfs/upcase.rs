//! $UpCase: the volume's own table for folding names, and the order of directories.

use std::cmp::Ordering;

use super::{
    Ntfs,
    format::{code, number},
};
use crate::{
    error::Result,
    text::{ascii_upcase, registry_upcase},
};

/// One entry a UTF-16 unit.
const TABLE_UNITS: usize = 65536;

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpCase {
    table: Box<[u16]>,
    problem: Option<String>,
}

impl UpCase {
    /// Reads the volume's table; a damaged one is replaced by the registry's and remembered.
    pub(super) fn read(ntfs: &Ntfs) -> Self {
        let bytes = ntfs.file(number::UPCASE).and_then(|file| {
            let stream = file.require(code::DATA, "")?;
            if stream.data_len > 1 << 20 {
                return Err(crate::error::Error::malformed(format!(
                    "$UpCase: 131072 bytes expected, found {}",
                    stream.data_len
                )));
            }
            ntfs.read_whole(&stream)
        });
        match bytes.map(|bytes| Self::parse(&bytes)) {
            Ok(Ok(table)) => table,
            Ok(Err(error)) | Err(error) => Self {
                problem: Some(error.to_string()),
                ..Self::fallback()
            },
        }
    }

    /// Takes a table of exactly 65,536 units that folds ASCII as everyone does.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        if pairs.len() != TABLE_UNITS || !rest.is_empty() {
            return Err(crate::error::Error::malformed(format!(
                "$UpCase: 131072 bytes expected, found {}",
                bytes.len()
            )));
        }
        let table: Box<[u16]> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let ascii = (0u16..0x80)
            .zip(table.iter())
            .find(|(unit, folded)| ascii_upcase(*unit) != **folded);
        if let Some((unit, folded)) = ascii {
            return Err(crate::error::Error::malformed(format!(
                "$UpCase: ASCII folded as usual expected, found {unit:#x} -> {folded:#x}"
            )));
        }
        Ok(Self {
            table,
            problem: None,
        })
    }

    /// The table used where the volume's is damaged.
    #[must_use]
    pub fn fallback() -> Self {
        Self {
            table: (0..=u16::MAX).map(registry_upcase).collect(),
            problem: None,
        }
    }

    /// No table: folds nothing. For reading what needs no names.
    pub(super) fn empty() -> Self {
        Self {
            table: Box::default(),
            problem: None,
        }
    }

    /// Why the volume's table could not be used.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// All units.
    #[must_use]
    pub fn table(&self) -> &[u16] {
        &self.table
    }

    /// Folds a unit.
    #[must_use]
    pub fn fold(&self, unit: u16) -> u16 {
        self.table.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// Folds a name.
    #[must_use]
    pub fn fold_name(&self, units: &[u16]) -> Vec<u16> {
        units.iter().map(|unit| self.fold(*unit)).collect()
    }

    /// The order of a directory without its tie break: folded, unit by unit, shorter first.
    #[must_use]
    pub fn compare_folded(&self, a: &[u16], b: &[u16]) -> Ordering {
        a.iter()
            .map(|unit| self.fold(*unit))
            .cmp(b.iter().map(|unit| self.fold(*unit)))
    }

    /// The order of a directory: folded, then raw.
    #[must_use]
    pub fn compare(&self, a: &[u16], b: &[u16]) -> Ordering {
        self.compare_folded(a, b).then_with(|| a.cmp(b))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn order_is_folded_then_shorter_then_raw() {
        let table = UpCase::fallback();
        let u = |s: &str| s.encode_utf16().collect::<Vec<_>>();
        assert_eq!(table.compare(&u("abc"), &u("ABD")), Ordering::Less);
        assert_eq!(table.compare(&u("ab"), &u("ABC")), Ordering::Less);
        assert_eq!(table.compare(&u("ABC"), &u("abc")), Ordering::Less);
        assert_eq!(table.compare_folded(&u("ABC"), &u("abc")), Ordering::Equal);
        assert_eq!(table.compare(&u("_"), &u("a")), Ordering::Greater);
    }

    #[test]
    fn strange_tables_are_refused() {
        assert!(UpCase::parse(&[]).is_err());
        assert!(UpCase::parse(&vec![0; 131072]).is_err());
        assert!(UpCase::parse(&vec![0; 131074]).is_err());
        let good: Vec<u8> = UpCase::fallback()
            .table()
            .iter()
            .flat_map(|unit| unit.to_le_bytes())
            .collect();
        assert!(UpCase::parse(&good).is_ok());
    }
}
