//! Slots of directories and the sets they make.

use super::{
    format::{name, slot, stream, sum16},
    table::Allocation,
    upcase::Upcase,
};
use crate::{
    text::Name,
    volume::clusters::{Raw, byte, dword, qword, word},
};

/// What an entry says of its clusters, given its flags.
#[must_use]
pub(super) fn allocation(raw: &Raw, flags: u8) -> Allocation {
    Allocation {
        first: dword(raw, slot::FIRST_CLUSTER),
        len: qword(raw, slot::DATA_LENGTH),
        contiguous: flags & slot::CONTIGUOUS != 0,
    }
}

/// The checksum of a set (section 6.3.3).
#[must_use]
pub(super) fn set_checksum<'a>(set: impl Iterator<Item = &'a Raw>) -> u16 {
    let bytes = set.flatten().enumerate();
    bytes.fold(0, |sum, (at, byte)| match at {
        2 | 3 => sum,
        _ => sum16(sum, *byte),
    })
}

/// The hash of a name (section 7.6.4).
#[must_use]
pub(super) fn name_hash(name: &Name, upcase: &Upcase) -> u16 {
    let units = name.units().iter();
    units
        .flat_map(|unit| upcase.unit(*unit).to_le_bytes())
        .fold(0, sum16)
}

/// The name of a set of a stream and the slots behind it, whatever their bits of use say.
#[must_use]
pub(super) fn name_of<'a>(len: Option<usize>, names: impl Iterator<Item = &'a Raw>) -> Name {
    let mut units: Vec<u16> = names
        .flat_map(|raw| {
            (0..name::UNITS).map(|i| word(raw, name::UNITS_AT.saturating_add(i.saturating_mul(2))))
        })
        .collect();
    let end = units.iter().position(|unit| *unit == 0);
    units.truncate(len.or(end).unwrap_or(units.len()));
    Name(units)
}

/// A whole set of a file or directory, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// The name.
    pub(super) name: Name,
    /// Attributes.
    pub(super) attributes: u16,
    /// The stream's clusters.
    pub(super) data: Allocation,
    /// Bytes of it that were written.
    pub(super) valid: u64,
    /// Clusters of entries that nobody here knows.
    pub(super) extra: Vec<Allocation>,
    /// What is wrong with it.
    pub(super) problem: Option<String>,
}

impl Set {
    /// Takes a set apart, the file entry first. Says what is wrong if it makes no file.
    pub(super) fn parse(raws: &[Raw], upcase: &Upcase) -> Result<Self, String> {
        let (Some(file), Some(head)) = (raws.first(), raws.get(1)) else {
            return Err("2 secondary entries expected, found fewer".to_owned());
        };
        if byte(head, 0) != slot::STREAM {
            return Err(format!(
                "a stream extension (0xc0) expected behind a file, found {:#04x}",
                byte(head, 0)
            ));
        }
        let len = usize::from(byte(head, stream::NAME_LENGTH));
        let pieces = len.div_ceil(name::UNITS);
        let behind = raws.get(2..).unwrap_or_default();
        let names = behind.get(..pieces).unwrap_or_default();
        let rest = behind.get(pieces..).unwrap_or_default();
        if len == 0 || names.len() != pieces || names.iter().any(|raw| byte(raw, 0) != slot::NAME) {
            return Err(format!(
                "file names (0xc1) of 1 to 255 units expected, found other entries for {len} units"
            ));
        }
        let name = name_of(Some(len), names.iter());
        let flags = byte(head, slot::SECONDARY_FLAGS);
        let mut set = Self {
            attributes: word(file, slot::ATTRIBUTES),
            data: allocation(head, flags),
            valid: qword(head, stream::VALID_LENGTH),
            extra: Vec::new(),
            problem: None,
            name,
        };
        for raw in rest {
            let benign = byte(raw, 0) & slot::BENIGN != 0;
            if !benign {
                set.wrong(format!(
                    "a benign entry expected behind a name, found {:#04x}",
                    byte(raw, 0)
                ));
            }
            let flags = byte(raw, slot::SECONDARY_FLAGS);
            let more = allocation(raw, flags);
            if flags & slot::ALLOCATION != 0 && more != Allocation::default() {
                set.extra.push(more);
            }
        }
        let want = word(file, slot::SET_CHECKSUM);
        let found = set_checksum(raws.iter());
        if want != found {
            set.wrong(format!("checksum {want:#06x} expected, found {found:#06x}"));
        }
        let want = word(head, stream::NAME_HASH);
        let found = name_hash(&set.name, upcase);
        if upcase.is_known() && want != found {
            set.wrong(format!(
                "name hash {want:#06x} expected, found {found:#06x}"
            ));
        }
        if set.data.first != 0 && flags & slot::ALLOCATION == 0 {
            set.wrong(
                "a stream that may have clusters expected, found one that may not".to_owned(),
            );
        }
        let whole = set.is_directory() && set.valid != set.data.len;
        if set.valid > set.data.len || whole {
            set.wrong(format!(
                "at most {} valid bytes expected (all of a directory's), found {}",
                set.data.len, set.valid
            ));
        }
        Ok(set)
    }

    fn wrong(&mut self, what: String) {
        self.problem.get_or_insert(what);
    }

    /// Whether it is a directory.
    #[must_use]
    pub(super) fn is_directory(&self) -> bool {
        self.attributes & slot::DIRECTORY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_leaves_itself_out() {
        let mut one: Raw = [0; 32];
        one[0] = 0x85;
        let sum = set_checksum([one].iter());
        one[2] = 0x12;
        one[3] = 0x34;
        assert_eq!(set_checksum([one].iter()), sum);
        one[4] = 1;
        assert_ne!(set_checksum([one].iter()), sum);
    }
}
