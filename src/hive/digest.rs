//! A 128-bit fingerprint of keys and values, fast enough for every byte of a hive.
//!
//! It guards against mistakes of our own (a neighbour damaged by an edit), not against an
//! adversary who chooses the bytes.

use super::record::{Name, Nk};

const K1: u64 = 0x9E37_79B9_7F4A_7C15;
const K2: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// A running fingerprint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest {
    a: u64,
    b: u64,
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b)).to_le_bytes();
    let (words, _) = product.as_chunks::<8>();
    words
        .iter()
        .fold(0, |acc, word| acc ^ u64::from_le_bytes(*word))
}

impl Digest {
    /// Begins; different purposes take different seeds.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            a: seed ^ K2,
            b: seed.rotate_left(32) ^ K1,
        }
    }

    fn pair(&mut self, x: u64, y: u64) {
        let a = multiply(self.a ^ x, y ^ K1).wrapping_add(x ^ self.b.rotate_left(23));
        let b = multiply(self.b ^ y, x ^ K2).wrapping_add(y ^ self.a.rotate_left(41));
        self.a = a;
        self.b = b;
    }

    /// Takes two numbers in.
    pub(super) fn numbers(mut self, x: u64, y: u64) -> Self {
        self.pair(x, y);
        self
    }

    /// Takes another fingerprint in.
    pub(super) fn other(self, digest: u128) -> Self {
        let bytes = digest.to_le_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        self.numbers(words.next().unwrap_or(0), words.next().unwrap_or(0))
    }

    /// Takes bytes in; their number counts, so that pieces cannot run into each other.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<16>();
        for chunk in chunks {
            let n = u128::from_le_bytes(*chunk);
            self.pair(low(n), low(n >> 64));
        }
        let mut last = [0; 16];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let n = u128::from_le_bytes(last);
        self.pair(low(n), low(n >> 64));
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.pair(len, K1);
        self
    }

    /// The fingerprint.
    pub(super) fn finish(mut self) -> u128 {
        self.pair(K2, K1);
        self.pair(K1, K2);
        (u128::from(self.a) << 64) | u128::from(self.b)
    }
}

fn low(n: u128) -> u64 {
    u64::try_from(n & u128::from(u64::MAX)).unwrap_or(0)
}

/// The path of the root: its own name is not part of any path.
pub(super) fn root_path() -> u128 {
    Digest::new(1).finish()
}

/// The path of a key below the key with path `parent`.
pub(super) fn child_path(parent: u128, name: Name<'_>) -> u128 {
    Digest::new(2)
        .other(parent)
        .numbers(u64::from(name.is_wide()), 0)
        .bytes(name.bytes())
        .finish()
}

/// A key without its values and subkeys, and without the counts and pointers to them.
pub(super) fn key(path: u128, nk: &Nk<'_>, class: &[u8], descriptor: u128) -> u128 {
    Digest::new(3)
        .other(path)
        .other(descriptor)
        .numbers(nk.time, u64::from(nk.flags))
        .bytes(nk.name.bytes())
        .bytes(class)
        .finish()
}

/// A value up to its data, which the caller adds piece by piece.
pub(super) fn value(path: u128, name: Name<'_>, kind: u32, raw_len: u32) -> Digest {
    Digest::new(4)
        .other(path)
        .numbers(u64::from(kind), u64::from(raw_len))
        .numbers(u64::from(name.is_wide()), 0)
        .bytes(name.bytes())
}

/// The bytes of a security descriptor.
pub(super) fn descriptor(bytes: &[u8]) -> u128 {
    Digest::new(5).bytes(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_boundary_counts() {
        let one = |bytes: &[u8]| Digest::new(9).bytes(bytes).finish();
        let base: Vec<u8> = (0..70).collect();
        for i in 0..base.len() {
            let mut other = base.clone();
            if let Some(byte) = other.get_mut(i) {
                *byte ^= 0x80;
            }
            assert_ne!(one(&base), one(&other), "byte {i}");
        }
        assert_ne!(one(&[0; 15]), one(&[0; 16]));
        assert_ne!(
            Digest::new(9).bytes(b"ab").bytes(b"c").finish(),
            Digest::new(9).bytes(b"a").bytes(b"bc").finish()
        );
        assert_ne!(one(b""), Digest::new(8).bytes(b"").finish());
    }
}
