//! Packs one file as `compress.exe` (SZDD) or as a cabinet does, without declone's unpacker.
//!
//! Layouts: libmspack's `szddd.c`, [MS-CAB].

use std::collections::HashMap;

const RING: usize = 4096;
const LONGEST: usize = 16;

/// SZDD, mode A, with matches of 3 to 16 bytes, as Microsoft's (7-Zip takes no longer ones).
pub fn szdd(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"SZDD\x88\xf0\x27\x33A\0".to_vec();
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    let mut last: HashMap<[u8; 3], usize> = HashMap::new();
    let mut at = 0;
    while at < bytes.len() {
        let flags_at = out.len();
        out.push(0);
        for bit in 0..8 {
            if at >= bytes.len() {
                break;
            }
            let key = bytes[at..].first_chunk::<3>().copied();
            let found = key.and_then(|key| last.get(&key).copied());
            let found = found.filter(|from| at - from <= RING - LONGEST);
            let len = found.map_or(0, |from| {
                let same = (0..LONGEST).take_while(|i| bytes.get(at + i) == bytes.get(from + i));
                same.take_while(|i| at + i < bytes.len()).count()
            });
            let step = if len >= 3 {
                let place = (found.unwrap() + RING - 16) % RING;
                out.push((place & 0xff) as u8);
                out.push(((place >> 4) & 0xf0) as u8 | (len - 3) as u8);
                len
            } else {
                out[flags_at] |= 1 << bit;
                out.push(bytes[at]);
                1
            };
            for from in at..at + step {
                if let Some(key) = bytes[from..].first_chunk::<3>() {
                    last.insert(*key, from);
                }
            }
            at += step;
        }
    }
    out
}

/// A cabinet with one file, MSZIP in blocks of 32 KiB.
pub fn cabinet(name: &str, bytes: &[u8]) -> Vec<u8> {
    let blocks: Vec<(Vec<u8>, usize)> = bytes
        .chunks(0x8000)
        .map(|chunk| {
            let mut packed = b"CK".to_vec();
            packed.extend(miniz_oxide::deflate::compress_to_vec(chunk, 6));
            (packed, chunk.len())
        })
        .collect();
    let files_at = 0x2c_u32;
    let data_at = files_at + 16 + u32::try_from(name.len()).unwrap() + 1;
    let mut out = b"MSCF\0\0\0\0".to_vec();
    let total: usize = data_at as usize + blocks.iter().map(|(b, _)| b.len() + 8).sum::<usize>();
    out.extend(u32::try_from(total).unwrap().to_le_bytes());
    out.extend([0; 4]);
    out.extend(files_at.to_le_bytes());
    out.extend([0; 4]);
    // Version 1.3, one folder, one file, no flags, set 0, cabinet 0.
    out.extend([3, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(data_at.to_le_bytes());
    out.extend(u16::try_from(blocks.len()).unwrap().to_le_bytes());
    out.extend(1_u16.to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend([0; 4 + 2]);
    // 2000-01-01, an ordinary file.
    out.extend([0x21, 0x28, 0, 0, 0x20, 0]);
    out.extend(name.as_bytes());
    out.push(0);
    for (packed, len) in blocks {
        // No checksum.
        out.extend([0; 4]);
        out.extend(u16::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(len).unwrap().to_le_bytes());
        out.extend(packed);
    }
    out
}
