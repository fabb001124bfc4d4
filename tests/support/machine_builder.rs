//! Installations of every generation of Windows, from a description: the hives that say who the machine
//! is, and whatever registry values and files a case wants. The forms are those of real hives (SAM of NT
//! 4.0 and Server 2012, SECURITY of Server 2016, SYSTEM of NT 4.0, XP and Windows 10).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    hive_builder::{HiveBuilder, Kind},
    ntfs_builder::NtfsBuilder,
    put,
};

/// Registry data of a case: a number is REG_DWORD, text REG_SZ, a list of numbers REG_BINARY.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Data {
    Number(u32),
    Text(String),
    Bytes(Vec<u8>),
}

/// An installation. Values are named `key|value`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Windows directory.
    pub root: String,
    /// Version of its hives (1.`minor`).
    pub minor: u32,
    pub computer: Option<String>,
    /// The three numbers of the computer's SID.
    pub sid: Option<[u32; 3]>,
    /// Those in SECURITY, if they are others.
    pub security_sid: Option<[u32; 3]>,
    /// Domain or workgroup.
    pub domain: Option<String>,
    /// The domain's SID; without it, `domain` is a workgroup.
    pub domain_sid: Option<[u32; 3]>,
    #[serde(default)]
    pub software: BTreeMap<String, Data>,
    #[serde(default)]
    pub system: BTreeMap<String, Data>,
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Homes of users, each with the values of its own hive.
    #[serde(default)]
    pub users: BTreeMap<String, BTreeMap<String, Data>>,
    /// Event logs, each with how many records it holds.
    #[serde(default)]
    pub event_logs: BTreeMap<String, u32>,
}

/// Seconds since 1970 of the oldest record of every event log: 2020-09-13 12:26:40 UTC.
const OLDEST: u64 = 1_600_000_000;

/// A log of Windows Vista and later: one chunk of records, then one that is empty.
pub fn evtx(records: u32) -> Vec<u8> {
    let mut log = vec![0; 4096 + 2 * 65_536];
    log[..8].copy_from_slice(b"ElfFile\0");
    for (at, first, last) in [
        (4096, 5, u64::from(records) + 4),
        (4096 + 65_536, 1, u64::MAX),
    ] {
        log[at..at + 8].copy_from_slice(b"ElfChnk\0");
        let last = if records == 0 { u64::MAX } else { last };
        put::u64(&mut log, at + 8, first);
        put::u64(&mut log, at + 16, last);
    }
    if records > 0 {
        let at = 4096 + 0x200;
        log[at..at + 4].copy_from_slice(b"**\0\0");
        put::u64(&mut log, at + 16, (OLDEST + 11_644_473_600) * 10_000_000);
    }
    log
}

/// A log of Windows before Vista.
pub fn evt(records: u32) -> Vec<u8> {
    let mut log = vec![0; 65_536];
    for at in [0, 44] {
        put::u32(&mut log, at, 0x30);
    }
    for at in [4, 0x104] {
        log[at..at + 4].copy_from_slice(b"LfLe");
    }
    let oldest = u32::from(records > 0) * 7;
    for (at, number) in [(16, 0x100), (24, 7 + records), (28, oldest)] {
        put::u32(&mut log, at, number);
    }
    put::u32(&mut log, 0x10c, u32::try_from(OLDEST).unwrap());
    log
}

/// A SID below S-1-5-21, as bytes.
pub fn sid(numbers: [u32; 3]) -> Vec<u8> {
    let mut out = vec![1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    out
}

/// Text as the LSA keeps it.
pub fn policy_text(text: &str) -> Vec<u8> {
    let units = put::utf16z(text);
    let whole = u16::try_from(units.len()).unwrap();
    let mut out = (whole - 2).to_le_bytes().to_vec();
    out.extend(whole.to_le_bytes());
    out.extend(8_u32.to_le_bytes());
    out.extend(units);
    out
}

fn set(hive: &mut HiveBuilder, values: &BTreeMap<String, Data>) {
    for (path, data) in values {
        let (key, name) = path.split_once('|').expect("key|value");
        let key = hive.key(key);
        match data {
            Data::Number(number) => key.dword(name, *number),
            Data::Text(text) => key.string(name, text),
            Data::Bytes(bytes) => key.value(name, Kind::Binary, bytes),
        };
    }
}

impl Machine {
    pub fn software(&self) -> HiveBuilder {
        let mut hive = HiveBuilder::new(self.minor);
        hive.key("Microsoft");
        set(&mut hive, &self.software);
        hive
    }

    pub fn system(&self) -> HiveBuilder {
        let mut hive = HiveBuilder::new(self.minor);
        hive.file_name(r"SYSTEM");
        hive.key("Select").dword("Current", 1).dword("Default", 1);
        if let Some(name) = &self.computer {
            hive.key(r"ControlSet001\Control\ComputerName\ComputerName")
                .string("ComputerName", name);
            let host = r"ControlSet001\Services\Tcpip\Parameters|Hostname";
            if !self.system.contains_key(host) {
                hive.key(r"ControlSet001\Services\Tcpip\Parameters")
                    .string("Hostname", &name.to_lowercase());
            }
        }
        // The control set of the last good start is another machine's in no case: a decoy.
        hive.key(r"ControlSet002\Control\ComputerName\ComputerName")
            .string("ComputerName", "DECOY");
        set(&mut hive, &self.system);
        hive
    }

    pub fn sam(&self) -> HiveBuilder {
        let mut hive = HiveBuilder::new(self.minor);
        hive.file_name(r"\SystemRoot\System32\Config\SAM");
        // A table of offset and length, from 0x30 on; NT 4.0 keeps the computer's name behind the SID.
        let mut v = vec![0; 0x30 + 0xf8];
        put::u32(&mut v, 4, 0xf8);
        put::u32(&mut v, 0x0c, 0xf8);
        put::u32(&mut v, 0x10, 24);
        v.extend(sid(self.sid.unwrap_or_default()));
        if self.minor <= 3 {
            v.extend(put::utf16(self.computer.as_deref().unwrap_or_default()));
        }
        let account = hive.key(r"SAM\Domains\Account");
        let account = account.value("F", Kind::Binary, &[2, 0, 1, 0, 0, 0, 0, 0]);
        if self.sid.is_some() {
            account.value("V", Kind::Binary, &v);
        }
        hive.key(r"SAM\Domains\Builtin")
            .value("V", Kind::Binary, &[7; 64]);
        hive
    }

    pub fn security(&self) -> HiveBuilder {
        let mut hive = HiveBuilder::new(self.minor);
        hive.file_name(r"emRoot\System32\Config\SECURITY");
        if let Some(numbers) = self.security_sid.or(self.sid) {
            hive.key(r"Policy\PolAcDmS")
                .value("", Kind::None, &sid(numbers));
        }
        if let Some(name) = &self.computer {
            hive.key(r"Policy\PolAcDmN")
                .value("", Kind::None, &policy_text(name));
        }
        if let Some(name) = &self.domain {
            hive.key(r"Policy\PolPrDmN")
                .value("", Kind::None, &policy_text(name));
        }
        let domain = self.domain_sid.map(sid).unwrap_or_default();
        hive.key(r"Policy\PolPrDmS").value("", Kind::None, &domain);
        hive
    }

    /// Its hives and files, by path from the volume's root.
    pub fn hives(&self) -> Vec<(String, Vec<u8>)> {
        [
            ("SOFTWARE", self.software().build()),
            ("SYSTEM", self.system().build()),
            ("SAM", self.sam().build()),
            ("SECURITY", self.security().build()),
        ]
        .map(|(name, bytes)| (self.config(name), bytes))
        .to_vec()
    }

    /// Path of a file beside the hives.
    pub fn config(&self, name: &str) -> String {
        format!(r"{}\System32\config\{name}", self.root)
    }

    /// Adds everything but the hives to a volume.
    pub fn files(&self, volume: &mut NtfsBuilder) {
        for (path, text) in &self.files {
            volume.file(path, text.as_str());
        }
        for (home, values) in &self.users {
            let mut hive = HiveBuilder::new(self.minor);
            hive.key("Software");
            set(&mut hive, values);
            volume.file(&format!(r"{home}\NTUSER.DAT"), hive.build());
        }
        for (path, records) in &self.event_logs {
            let log = match path.ends_with(".evtx") {
                true => evtx(*records),
                false => evt(*records),
            };
            volume.file(path, log);
        }
    }

    /// A small volume with it; `change` sees the hives first.
    pub fn volume(&self, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> NtfsBuilder {
        let mut volume = NtfsBuilder::new(8 << 20);
        for (path, bytes) in self.hives() {
            if let Some(bytes) = change(&path, bytes) {
                volume.file(&path, bytes);
            }
        }
        self.files(&mut volume);
        volume
    }
}
