//! Builds EnCase 7 evidence files (Ex01), without declone's reader.
//!
//! Layout: libewf's "Expert Witness Compression Format version 2 specification".

use md5::Digest;

use super::ewf_builder::adler;

/// What is built.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Sectors in a chunk.
    pub chunk: usize,
    /// Chunks in a table.
    pub table: usize,
    /// Chunks in a file of the set.
    pub segment: usize,
    /// Every n-th chunk is stored, the others are compressed; 0: none.
    pub stored: usize,
    /// Chunks of eight bytes again and again are not written.
    pub filled: bool,
    /// Chunks begin at multiples of 16.
    pub aligned: bool,
    /// How: 1 zlib, 0 none.
    pub compression: u16,
    /// Sections of the device, the case and the tables have an MD5.
    pub hashed: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            chunk: 64,
            table: 100,
            segment: usize::MAX,
            stored: 3,
            filled: true,
            aligned: true,
            compression: 1,
            hashed: true,
        }
    }
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &adler(bytes).to_le_bytes()].concat()
}

/// Makes the checksum of the descriptor at `at` true.
pub fn seal(file: &mut [u8], at: usize) {
    super::ewf_builder::seal(file, at, at + 60);
}

/// Data with its padding, and the descriptor behind it.
fn section(file: &mut Vec<u8>, last: &mut u64, kind: u32, data: &[u8], hashed: bool) {
    let mut data = data.to_vec();
    let padding = data.len().next_multiple_of(16) - data.len();
    data.resize(data.len() + padding, 0);
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(u32::from(hashed).to_le_bytes());
    bytes.extend(last.to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(64_u32.to_le_bytes());
    bytes.extend((padding as u32).to_le_bytes());
    match hashed {
        true => bytes.extend(md5::Md5::digest(&data)),
        false => bytes.extend([0; 16]),
    }
    bytes.extend([0; 12]);
    file.extend(data);
    *last = file.len() as u64;
    file.extend(sealed(&bytes));
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6)
}

fn text(pairs: &[(&str, String)], compression: u16) -> Vec<u8> {
    let line = |part: &dyn Fn(&(&str, String)) -> String| -> String {
        let all: Vec<String> = pairs.iter().map(part).collect();
        all.join("\t")
    };
    let names = line(&|(name, _)| (*name).to_owned());
    let values = line(&|(_, value)| value.clone());
    let wide: Vec<u8> = format!("\u{feff}1\nmain\n{names}\n{values}\n\n")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    match compression {
        0 => wide,
        _ => zlib(&wide),
    }
}

/// The files of a set that holds `disk`.
pub fn set(disk: &[u8], shape: &Shape) -> Vec<Vec<u8>> {
    set_by(disk, shape, "9.9")
}

/// As [`set`], made by another program.
pub fn set_by(disk: &[u8], shape: &Shape, program: &str) -> Vec<Vec<u8>> {
    assert_eq!(disk.len() % 512, 0);
    let len = shape.chunk * 512;
    let chunks: Vec<&[u8]> = disk.chunks(len).collect();
    let own = |text: &str| text.to_owned();
    let device = [
        ("sn", own("S1")),
        ("md", own("Model \u{1b}[31m")),
        ("ts", (disk.len() / 512).to_string()),
        ("dt", own("f")),
        ("bp", own("512")),
        ("ph", own("1")),
    ];
    let case = [
        ("nm", own("a disk")),
        ("cn", own("case 7")),
        ("en", own("ev-1")),
        ("ex", own("Examiner")),
        ("nt", own("n")),
        ("av", own(program)),
        ("os", own("Test")),
        ("tt", own("1700000000")),
        ("at", own("1700000000")),
        ("tb", chunks.len().to_string()),
        ("cp", own(if shape.compression == 0 { "" } else { "1" })),
        ("sb", shape.chunk.to_string()),
        ("gr", own("1")),
        ("wb", own("")),
    ];
    let count = chunks.len().div_ceil(shape.segment);
    let mut files = Vec::new();
    let mut first = 0;
    for (number, part) in chunks.chunks(shape.segment).enumerate() {
        let mut file = b"EVF2\x0D\x0A\x81\x00\x02\x01".to_vec();
        file.extend(shape.compression.to_le_bytes());
        file.extend((number as u32 + 1).to_le_bytes());
        file.extend(1_u8..=16);
        let mut last = 0;
        let hashed = shape.hashed;
        section(
            &mut file,
            &mut last,
            1,
            &text(&device, shape.compression),
            hashed,
        );
        section(
            &mut file,
            &mut last,
            2,
            &text(&case, shape.compression),
            hashed,
        );
        for group in part.chunks(shape.table) {
            let (mut data, mut entries) = (Vec::new(), Vec::new());
            for (index, chunk) in (first..).zip(group) {
                let at = (file.len() + data.len()) as u64;
                let mut entry = |at: u64, len: usize, flags: u32| {
                    entries.extend(at.to_le_bytes());
                    entries.extend((len as u32).to_le_bytes());
                    entries.extend(flags.to_le_bytes());
                };
                let (pattern, _) = chunk.as_chunks::<8>();
                if shape.filled && pattern.iter().all(|piece| *piece == pattern[0]) {
                    entry(u64::from_le_bytes(pattern[0]), 0, 5);
                    continue;
                }
                let stored = shape.stored != 0 && index % shape.stored == 0;
                let bytes = if stored || shape.compression == 0 {
                    sealed(chunk)
                } else {
                    zlib(chunk)
                };
                let flags = if stored || shape.compression == 0 {
                    2
                } else {
                    1
                };
                entry(at, bytes.len(), flags);
                data.extend(bytes);
                if shape.aligned {
                    data.resize(data.len().next_multiple_of(16), 0);
                }
            }
            section(&mut file, &mut last, 3, &data, false);
            let mut table = (first as u64).to_le_bytes().to_vec();
            table.extend((group.len() as u32).to_le_bytes());
            table.extend([0; 4]);
            let mut table = sealed(&table);
            table.extend([0; 12]);
            table.extend(sealed(&entries));
            table.extend([0; 12]);
            section(&mut file, &mut last, 4, &table, hashed);
            first += group.len();
        }
        if number + 1 < count {
            section(&mut file, &mut last, 13, &[], false);
        } else {
            let digest = sealed(&md5::Md5::digest(disk));
            section(&mut file, &mut last, 8, &digest, false);
            let digest = sealed(&sha1::Sha1::digest(disk));
            section(&mut file, &mut last, 9, &digest, false);
            section(&mut file, &mut last, 15, &[], false);
        }
        files.push(file);
    }
    files
}

/// The sections of a file: number of their kind, where the data begins, where the descriptor lies.
pub fn sections(file: &[u8]) -> Vec<(u32, usize, usize)> {
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let mut at = file.len() - 64;
    let mut all = Vec::new();
    loop {
        all.push((file[at].into(), at - number(at + 16), at));
        at = number(at + 8);
        if at == 0 {
            all.reverse();
            return all;
        }
    }
}
