//! Little-endian stores into a byte buffer at a fixed offset.
//!
//! The builders write structures field by field at the offset the specification gives, so the code
//! reads like the tables it follows. Writing past the end panics: a builder bug, never an input.

/// Stores `v` at `at`.
pub fn u16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

/// Stores `v` at `at`.
pub fn u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// Stores `v` at `at`.
pub fn u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// Copies `v` to `at`.
pub fn bytes(b: &mut [u8], at: usize, v: &[u8]) {
    b[at..at + v.len()].copy_from_slice(v);
}

/// Reads a `u16` back.
pub fn get16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// The UTF-16LE bytes of `s`, without a terminator.
pub fn utf16(s: &str) -> Vec<u8> {
    s.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The UTF-16LE bytes of `s` with the two zero bytes registry strings end in.
pub fn utf16z(s: &str) -> Vec<u8> {
    let mut v = utf16(s);
    v.extend([0, 0]);
    v
}

/// `v` rounded up to a multiple of `to`.
pub fn round_up(v: u64, to: u64) -> u64 {
    v.div_ceil(to) * to
}
