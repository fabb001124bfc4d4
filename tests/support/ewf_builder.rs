//! Builds EnCase evidence files (E01) and SMART ones, without declone's reader.
//!
//! Layout: libewf's "Expert Witness Compression Format specification".

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
    /// Offsets are relative to the section, as EnCase 6.7 and newer write them.
    pub base: bool,
    /// The chunks lie in the tables' sections, one table each, and the volume section is short.
    pub smart: bool,
    /// The last chunk is filled up with zeros.
    pub padded: bool,
    /// MD5 and SHA-1 of the disk.
    pub digests: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            chunk: 64,
            table: 100,
            segment: usize::MAX,
            stored: 3,
            base: true,
            smart: false,
            padded: false,
            digests: true,
        }
    }
}

/// Adler-32, from RFC 1950.
pub fn adler(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

/// Makes the Adler-32 of `bytes[from..to]` true, which stands behind them.
pub fn seal(bytes: &mut [u8], from: usize, to: usize) {
    let sum = adler(&bytes[from..to]);
    bytes[to..to + 4].copy_from_slice(&sum.to_le_bytes());
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(adler(&bytes).to_le_bytes());
    bytes
}

/// A descriptor, and the data behind it; the last section of a file names itself.
fn section(file: &mut Vec<u8>, name: &str, data: &[u8]) {
    let at = file.len() as u64;
    let len = 76 + data.len() as u64;
    let is_last = matches!(name, "next" | "done");
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes.extend((if is_last { at } else { at + len }).to_le_bytes());
    bytes.extend((if is_last { 0 } else { len }).to_le_bytes());
    bytes.extend([0; 40]);
    file.extend(sealed(bytes));
    file.extend(data);
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6)
}

fn volume(disk: usize, shape: &Shape) -> Vec<u8> {
    let sectors = disk / 512;
    let mut bytes = vec![1, 0, 0, 0];
    for value in [sectors.div_ceil(shape.chunk), shape.chunk, 512, sectors] {
        bytes.extend((value as u32).to_le_bytes());
    }
    if shape.smart {
        bytes.resize(85, 0);
        bytes.extend(b"SMART");
    } else {
        bytes.resize(64, 0);
        bytes.extend(1_u8..=16);
        bytes.resize(1048, 0);
    }
    sealed(bytes)
}

fn table(file: &mut Vec<u8>, name: &str, entries: &[u32], base: u64, data: Option<&[u8]>) {
    let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(base.to_le_bytes());
    bytes.extend([0; 4]);
    let mut bytes = sealed(bytes);
    let list: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    bytes.extend(match data {
        Some(data) => [&list, data].concat(),
        None => sealed(list),
    });
    section(file, name, &bytes);
}

/// What the header of [`set`] says: names and values.
pub const ACQUIRED: (&str, &str) = (
    "a\tc\tn\te\tt\tav\tov\tm\tu\tp",
    "a disk\tcase \u{1b}[31m7\tev-1\tExaminer\tn\t9.9\tTest\t1700000000\t1700000000\t0",
);

/// The files of a set that holds `disk`.
pub fn set(disk: &[u8], shape: &Shape) -> Vec<Vec<u8>> {
    set_saying(disk, shape, ACQUIRED.1)
}

/// As [`set`], with other values in its header.
pub fn set_saying(disk: &[u8], shape: &Shape, values: &str) -> Vec<Vec<u8>> {
    assert_eq!(disk.len() % 512, 0);
    let len = shape.chunk * 512;
    let chunks: Vec<(bool, Vec<u8>)> = disk
        .chunks(len)
        .enumerate()
        .map(|(index, part)| {
            let mut part = part.to_vec();
            if shape.padded {
                part.resize(len, 0);
            }
            match shape.stored != 0 && index % shape.stored == 0 {
                true => (false, sealed(part)),
                false => (true, zlib(&part)),
            }
        })
        .collect();
    let count = chunks.len().div_ceil(shape.segment);
    let mut files = Vec::new();
    for (number, part) in chunks.chunks(shape.segment).enumerate() {
        let mut file = b"EVF\x09\x0D\x0A\xFF\x00\x01".to_vec();
        file.extend((number as u16 + 1).to_le_bytes());
        file.extend([0; 2]);
        if number == 0 {
            let text = format!("3\nmain\n{}\n{values}\n\n", ACQUIRED.0);
            if !shape.smart {
                let wide: Vec<u8> = format!("\u{feff}{text}")
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect();
                section(&mut file, "header2", &zlib(&wide));
                section(&mut file, "header2", &zlib(&wide));
            }
            let text = text.replace('\n', "\r\n").replace("Test", "Old");
            section(&mut file, "header", &zlib(text.as_bytes()));
            section(&mut file, "volume", &volume(disk.len(), shape));
        } else if !shape.smart {
            section(&mut file, "data", &volume(disk.len(), shape));
        }
        for group in part.chunks(shape.table) {
            // Behind the descriptor; SMART has the table's header and entries before the chunks.
            let start = match shape.smart {
                true => file.len() + 76 + 24 + 4 * group.len(),
                false => file.len() + 76,
            };
            let base = if shape.base { file.len() } else { 0 };
            let mut at = start - base;
            let mut entries = Vec::new();
            let mut data = Vec::new();
            for (compressed, bytes) in group {
                entries.push(at as u32 | if *compressed { 1 << 31 } else { 0 });
                at += bytes.len();
                data.extend(bytes);
            }
            let base = base as u64;
            if shape.smart {
                table(&mut file, "table", &entries, base, Some(&data));
            } else {
                section(&mut file, "sectors", &data);
                table(&mut file, "table", &entries, base, None);
                table(&mut file, "table2", &entries, base, None);
            }
        }
        if number + 1 < count {
            section(&mut file, "next", &[]);
        } else {
            if count == 1 && !shape.smart {
                section(&mut file, "data", &volume(disk.len(), shape));
            }
            if shape.digests {
                use md5::Digest;
                let md5 = md5::Md5::digest(disk).to_vec();
                let mut hash = md5.clone();
                hash.resize(32, 0);
                let mut digest = [md5, sha1::Sha1::digest(disk).to_vec()].concat();
                digest.resize(76, 0);
                if !shape.smart {
                    section(&mut file, "digest", &sealed(digest));
                }
                section(&mut file, "hash", &sealed(hash));
            }
            section(&mut file, "done", &[]);
        }
        files.push(file);
    }
    files
}

/// The sections of a file: name, where the descriptor lies, where the section ends.
pub fn sections(file: &[u8]) -> Vec<(String, usize, usize)> {
    let mut all = Vec::new();
    let mut at = 13;
    loop {
        let name = String::from_utf8_lossy(&file[at..at + 16]);
        let name = name.trim_end_matches('\0').to_owned();
        let next = u64::from_le_bytes(file[at + 16..at + 24].try_into().unwrap()) as usize;
        if next == at {
            all.push((name, at, at + 76));
            return all;
        }
        all.push((name, at, next));
        at = next;
    }
}

/// Where the n-th section of this name begins.
pub fn at(file: &[u8], name: &str, n: usize) -> usize {
    let mut all = sections(file).into_iter().filter(|(own, ..)| own == name);
    all.nth(n).expect(name).1
}
