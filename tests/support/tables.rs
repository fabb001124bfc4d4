//! Disks whose bytes lie in pieces in a file: what the builders of containers share.

/// Bytes of a disk that lie together.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub disk: usize,
    pub file: usize,
    pub len: usize,
}

pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

pub fn be32(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The disk in a file.
pub fn guest(file: &[u8], (len, pieces): (usize, Vec<Piece>)) -> Vec<u8> {
    let mut out = vec![0; len];
    for piece in pieces {
        put(
            &mut out,
            piece.disk,
            &file[piece.file..piece.file + piece.len],
        );
    }
    out
}

/// The file with zeros where the disk's bytes are: what is the container's own, or nobody's.
pub fn rest(file: &[u8], (_, pieces): (usize, Vec<Piece>)) -> Vec<u8> {
    let mut out = file.to_vec();
    for piece in pieces {
        out[piece.file..piece.file + piece.len].fill(0);
    }
    out
}
