//! Independent readings of images: the published `ntfs` and `nt-hive` crates, and plain byte
//! searches. None of declone's own readers is used here.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use ntfs::{Ntfs, NtfsFile, NtfsReadSeek};
use sha2::{Digest, Sha256};

/// A window of a file as a volume.
#[derive(Debug)]
struct Window {
    file: File,
    start: u64,
}

impl Read for Window {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for Window {
    fn seek(&mut self, pos: SeekFrom) -> std::io::Result<u64> {
        let to = match pos {
            SeekFrom::Start(n) => SeekFrom::Start(n + self.start),
            other => other,
        };
        Ok(self.file.seek(to)? - self.start)
    }
}

/// Every file of a volume: path -> (length, SHA-256 of its data), through the directories.
pub fn files(image: &Path, volume_offset: u64) -> BTreeMap<String, (u64, String)> {
    let mut window = Window {
        file: File::open(image).unwrap(),
        start: volume_offset,
    };
    window.seek(SeekFrom::Start(0)).unwrap();
    let mut volume = Ntfs::new(&mut window).unwrap();
    volume.read_upcase_table(&mut window).unwrap();
    let mut all = BTreeMap::new();
    let mut stack = vec![(5_u64, String::new())];
    while let Some((record, path)) = stack.pop() {
        let dir = volume.file(&mut window, record).unwrap();
        let index = dir.directory_index(&mut window).unwrap();
        let mut entries = index.entries();
        let mut below = Vec::new();
        while let Some(entry) = entries.next(&mut window) {
            let entry = entry.unwrap();
            let key = entry.key().unwrap().unwrap();
            let name = key.name().to_string_lossy();
            let number = entry.file_reference().file_record_number();
            let dos = key.namespace() == ntfs::structured_values::NtfsFileNamespace::Dos;
            if number >= 24 && !dos {
                below.push((number, format!("{path}\\{name}"), key.is_directory()));
            }
        }
        for (number, path, is_directory) in below {
            if is_directory {
                all.insert(path.clone(), (0, "directory".to_owned()));
                stack.push((number, path));
            } else {
                let file = volume.file(&mut window, number).unwrap();
                let data = content(&file, &mut window);
                all.insert(
                    path,
                    (data.len() as u64, hex::encode(Sha256::digest(&data))),
                );
            }
        }
    }
    all
}

/// As [`files`], by record number: the published crate cannot walk directories whose index blocks
/// are smaller than a cluster. A record that is not in use is not listed.
pub fn files_by_record(
    image: &Path,
    records: &std::collections::HashMap<String, u64>,
) -> BTreeMap<String, (u64, String)> {
    let mut window = Window {
        file: File::open(image).unwrap(),
        start: 0,
    };
    let volume = Ntfs::new(&mut window).unwrap();
    let mut all = BTreeMap::new();
    for (path, number) in records {
        let file = volume.file(&mut window, *number).unwrap();
        if *number < 24 || !file.flags().contains(ntfs::NtfsFileFlags::IN_USE) {
            continue;
        }
        let data = if file.is_directory() {
            Vec::new()
        } else {
            content(&file, &mut window)
        };
        let path = format!("\\{}", path.trim_start_matches('\\'));
        all.insert(
            path,
            (data.len() as u64, hex::encode(Sha256::digest(&data))),
        );
    }
    all
}

/// The content of one record's file.
pub fn read_record(image: &Path, number: u64) -> Vec<u8> {
    let mut window = Window {
        file: File::open(image).unwrap(),
        start: 0,
    };
    let volume = Ntfs::new(&mut window).unwrap();
    let file = volume.file(&mut window, number).unwrap();
    content(&file, &mut window)
}

fn content(file: &NtfsFile<'_>, window: &mut Window) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(item) = file.data(window, "") {
        let item = item.unwrap();
        let attribute = item.to_attribute().unwrap();
        let mut value = attribute.value(window).unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = value.read(window, &mut buffer).unwrap();
            if got == 0 {
                break;
            }
            out.extend_from_slice(&buffer[..got]);
        }
    }
    out
}

/// Every key and value of a hive, one line each, as `nt-hive` reads it.
pub fn hive_lines(bytes: &[u8]) -> Vec<String> {
    let hive = nt_hive::Hive::new(bytes).expect("nt-hive opens it");
    let mut lines = Vec::new();
    let mut stack = vec![(String::new(), hive.root_key_node().unwrap())];
    while let Some((path, key)) = stack.pop() {
        lines.push(format!("[{path}]"));
        if let Some(values) = key.values() {
            for value in values.unwrap() {
                let value = value.unwrap();
                let data = value.data().unwrap().into_vec().unwrap();
                // Device properties in SYSTEM have types that only Windows knows.
                let kind = match value.data_type() {
                    Ok(kind) => format!("{kind:?}"),
                    Err(error) => error.to_string(),
                };
                lines.push(format!(
                    "[{path}] {} = {kind} {}",
                    value.name().unwrap(),
                    hex::encode(data)
                ));
            }
        }
        if let Some(subkeys) = key.subkeys() {
            for subkey in subkeys.unwrap() {
                let subkey = subkey.unwrap();
                stack.push((format!("{path}\\{}", subkey.name().unwrap()), subkey));
            }
        }
    }
    lines.sort();
    lines
}

/// Every way a GUID can be written: ASCII and UTF-16, both cases, with and without dashes, and as
/// bytes in both orders.
pub fn guid_forms(guid: &str) -> Vec<Vec<u8>> {
    let digits = guid.replace('-', "").to_lowercase();
    let big = hex::decode(&digits).unwrap();
    let mut little = big.clone();
    little[..4].reverse();
    little[4..6].reverse();
    little[6..8].reverse();
    let mut forms = vec![big, little];
    for text in [
        guid.to_lowercase(),
        guid.to_uppercase(),
        digits.clone(),
        digits.to_uppercase(),
    ] {
        forms.push(text.bytes().collect());
        forms.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
    }
    forms
}

/// Where `needle` is in `hay`, every place.
pub fn find_all(hay: &[u8], needle: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(hay, needle).collect()
}
