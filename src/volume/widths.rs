//! Numbers between widths, checked: the only place where a volume number changes its type.

use crate::error::{Error, Result};

/// A length in memory as a length on the volume. Lossless on every machine Rust runs on.
#[must_use]
pub fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A 32-bit field as an index. Saturates where an index is narrower, and then fails its bound.
#[must_use]
pub fn index(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A volume length as a length in memory.
pub fn narrow(n: u64, what: &'static str) -> Result<usize> {
    usize::try_from(n).map_err(|_| Error::limit(format!("{what}: {n} bytes do not fit in memory")))
}

/// The sum, or a malformed structure.
pub fn sum(a: u64, b: u64, what: &'static str) -> Result<u64> {
    a.checked_add(b)
        .ok_or_else(|| Error::malformed(format!("{what}: {a:#x} + {b:#x} does not fit 64 bits")))
}

/// The product, or a malformed structure.
pub fn product(a: u64, b: u64, what: &'static str) -> Result<u64> {
    a.checked_mul(b)
        .ok_or_else(|| Error::malformed(format!("{what}: {a:#x} * {b:#x} does not fit 64 bits")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_wraps() {
        assert_eq!(sum(1, 2, "sum").unwrap(), 3);
        assert!(sum(u64::MAX, 1, "sum").is_err());
        assert!(product(u64::MAX, 2, "product").is_err());
        assert_eq!(index(7), 7);
        assert_eq!(wide(7), 7);
    }
}
