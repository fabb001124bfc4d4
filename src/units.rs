//! Addresses and counts, a type for each space, so that no two can be mixed up.
//!
//! The ladder: hive -> file -> volume -> disk -> image offset. Edits go down it, errors climb it.
//! Arithmetic is checked only: every number here may come from a hostile image.

use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// This plus `n`, or `None` when the sum does not fit.
            #[must_use]
            pub const fn checked_add(self, n: $inner) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// This minus `n`, or `None` when the difference would be negative.
            #[must_use]
            pub const fn checked_sub(self, n: $inner) -> Option<Self> {
                match self.0.checked_sub(n) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

unit!(
    /// A byte of the image file on the host.
    ImageOffset(u64)
);
unit!(
    /// A byte of the disk that a container holds; for a raw image the same number as [`ImageOffset`].
    DiskOffset(u64)
);
unit!(
    /// A byte of a volume, counted from its boot sector.
    VolumeOffset(u64)
);
unit!(
    /// A byte of a file's data stream.
    FileOffset(u64)
);
unit!(
    /// A byte of a hive file, counted from its base block (`CellIndex` + 4096).
    HiveOffset(u64)
);
unit!(
    /// Logical cluster number: a cluster of the volume.
    Lcn(u64)
);
unit!(
    /// Virtual cluster number: a cluster of a stream.
    Vcn(u64)
);
unit!(
    /// A cell of a hive, in bytes from the first hbin, as the hive itself stores it.
    CellIndex(u32)
);

/// A file record number with its sequence number, as NTFS stores it: 48 bits + 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MftReference(pub u64);

impl MftReference {
    /// Puts a reference together; bits of `record` above 48 are dropped.
    #[must_use]
    pub const fn new(record: u64, sequence: u16) -> Self {
        Self((record & 0xFFFF_FFFF_FFFF) | ((sequence as u64) << 48))
    }

    /// The record number (48 bits).
    #[must_use]
    pub const fn record(self) -> u64 {
        self.0 & 0xFFFF_FFFF_FFFF
    }

    /// The sequence number the record must have for the reference to be alive.
    #[must_use]
    pub const fn sequence(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

impl fmt::Display for MftReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.record(), self.sequence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_do_not_fit_are_none() {
        assert_eq!(VolumeOffset(u64::MAX).checked_add(1), None);
        assert_eq!(Lcn(2).checked_sub(3), None);
        assert_eq!(CellIndex(0x20).checked_add(4096), Some(CellIndex(0x1020)));
    }

    #[test]
    fn a_reference_keeps_record_and_sequence_apart() {
        let reference = MftReference::new(0x1234_5678_9ABC, 0xFFEE);
        assert_eq!(reference.record(), 0x1234_5678_9ABC);
        assert_eq!(reference.sequence(), 0xFFEE);
        assert_eq!(MftReference::new(5, 5).to_string(), "5-5");
    }
}
