//! LZNT1, the compression of NTFS streams: greedy matching, one 4,096-byte chunk at a time.

/// Bytes per chunk.
const CHUNK: usize = 4096;

/// Compresses one compression unit.
pub(super) fn compress(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in unit.chunks(CHUNK) {
        let packed = chunk_tokens(chunk);
        if packed.len() < chunk.len() {
            let header = 0xb000 | u16::try_from(packed.len() - 1).unwrap();
            out.extend(header.to_le_bytes());
            out.extend(packed);
        } else {
            out.extend(0x3fffu16.to_le_bytes());
            out.extend(chunk);
            out.resize(out.len() + CHUNK - chunk.len(), 0);
        }
    }
    out
}

fn chunk_tokens(chunk: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut latest = vec![usize::MAX; 4096];
    let hash = |at: usize| {
        let v = usize::from(chunk[at]) << 16
            | usize::from(chunk[at + 1]) << 8
            | usize::from(chunk[at + 2]);
        v.wrapping_mul(0x9e37) >> 4 & 0xfff
    };
    let (mut at, mut flag_at, mut bit) = (0, 0, 8);
    while at < chunk.len() {
        if bit == 8 {
            flag_at = out.len();
            out.push(0);
            bit = 0;
        }
        // The split of a token depends on how far back it can reach.
        let mut length_bits = 12;
        while at > 0 && (at - 1) >> (16 - length_bits) > 0 {
            length_bits -= 1;
        }
        let longest = ((1 << length_bits) + 2).min(chunk.len() - at);
        let mut length = 0;
        let mut from = 0;
        if at + 3 <= chunk.len() {
            from = latest[hash(at)];
            if from != usize::MAX {
                length = (0..longest)
                    .take_while(|i| chunk[from + i] == chunk[at + i])
                    .count();
            }
        }
        if length >= 3 {
            out[flag_at] |= 1 << bit;
            let token = (at - from - 1) << length_bits | (length - 3);
            out.extend(u16::try_from(token).unwrap().to_le_bytes());
        } else {
            length = 1;
            out.push(chunk[at]);
        }
        for i in at..at + length {
            if i + 3 <= chunk.len() {
                latest[hash(i)] = i;
            }
        }
        at += length;
        bit += 1;
    }
    out
}
