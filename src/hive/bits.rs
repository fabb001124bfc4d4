//! A bitmap with one bit for each possible cell (8 bytes of hive).

use super::format::{CELL_ALIGN, index};

/// One bit for every 8 bytes of the bins.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// All bits clear, for bins of this length.
    pub(super) fn new(bins_len: u32) -> Self {
        Self(vec![0; index(bins_len.div_ceil(CELL_ALIGN).div_ceil(64))])
    }

    fn place(cell: u32) -> (usize, u64) {
        let bit = cell.wrapping_div(CELL_ALIGN);
        (index(bit >> 6), 1u64.wrapping_shl(bit & 63))
    }

    /// Whether the bit of this cell is set; false outside.
    pub(super) fn get(&self, cell: u32) -> bool {
        let (word, mask) = Self::place(cell);
        self.0.get(word).is_some_and(|have| have & mask != 0)
    }

    /// Sets the bit and says whether it was clear.
    pub(super) fn set(&mut self, cell: u32) -> bool {
        let (word, mask) = Self::place(cell);
        match self.0.get_mut(word) {
            Some(have) => {
                let was_clear = *have & mask == 0;
                *have |= mask;
                was_clear
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_set_once_and_outside_is_never_set() {
        let mut bits = Bits::new(4096);
        assert!(bits.set(8 * 63) && bits.set(8 * 64));
        assert!(!bits.set(8 * 63));
        assert!(bits.get(8 * 64) && !bits.get(8 * 65));
        assert!(!bits.set(1 << 20) && !bits.get(1 << 20));
    }
}
