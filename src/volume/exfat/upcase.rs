//! The up-case table: which names are the same.

use super::format::{sum32, upcase};
use crate::text::ascii_upcase;

/// What every unit is in upper case; ASCII only, if the volume's own table is not to be trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Upcase(Vec<u16>);

impl Upcase {
    /// Reads a table, compressed or not; says what is wrong with it.
    pub(super) fn parse(bytes: &[u8], checksum: u32) -> Result<Self, String> {
        let sum = bytes.iter().fold(0, |sum, byte| sum32(sum, *byte));
        if sum != checksum {
            return Err(format!(
                "checksum {checksum:#010x} expected, found {sum:#010x}"
            ));
        }
        let (pairs, _) = bytes.as_chunks::<2>();
        let mut units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
        let mut table: Vec<u16> = (0..=u16::MAX).collect();
        let mut at = 0_usize;
        while let Some(unit) = units.next() {
            if at >= table.len() {
                return Err("65536 units expected, found more".to_owned());
            }
            if unit == upcase::SKIP
                && let Some(count) = units.next()
            {
                at = at.saturating_add(count.into());
                continue;
            }
            if let Some(place) = table.get_mut(at) {
                *place = unit;
            }
            at = at.saturating_add(1);
        }
        let ascii = table.iter().zip(0..128_u16);
        if let Some((found, unit)) = ascii
            .into_iter()
            .find(|(upper, unit)| **upper != ascii_upcase(*unit))
        {
            return Err(format!(
                "{:#06x} expected for {unit:#06x}, found {found:#06x}",
                ascii_upcase(unit)
            ));
        }
        Ok(Self(table))
    }

    /// A unit in upper case.
    #[must_use]
    pub(super) fn unit(&self, unit: u16) -> u16 {
        match self.0.get(usize::from(unit)) {
            Some(upper) => *upper,
            None => ascii_upcase(unit),
        }
    }

    /// Whether it is the volume's own.
    #[must_use]
    pub(super) fn is_known(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The beginning of the recommended table, as the specification's 7.2.5 writes it.
    #[test]
    fn a_compressed_table_is_understood() {
        let units: Vec<u16> = [0xFFFF, 0x61]
            .into_iter()
            .chain(0x41..=0x5A)
            .chain([0xFFFF, 0x65, 0xC0])
            .collect();
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let sum = bytes.iter().fold(0, |sum, byte| sum32(sum, *byte));
        let table = Upcase::parse(&bytes, sum).unwrap();
        assert_eq!(table.unit(0x7A), 0x5A);
        assert_eq!(table.unit(0x7B), 0x7B);
        assert_eq!(table.unit(0xE0), 0xC0);
        assert!(Upcase::parse(&bytes, sum ^ 1).is_err());
        assert_eq!(Upcase::default().unit(0xE0), 0xE0);
        assert!(Upcase::parse(&[0x01, 0x00], 1).is_err());
    }
}
