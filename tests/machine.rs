//! A small Windows XP with the whole SMS 2003 Legacy identity, in any shape a test wants.

use std::{collections::HashMap, fs::File, path::Path};

use crate::support::{
    hive_builder::{HiveBuilder, Kind, Residue},
    ntfs_builder::{Content, Geometry, Names, NtfsBuilder},
};

/// The identity of the master.
pub const GUID: &str = "5A3C91D7-0B2E-4F68-9C1D-7E8F60A4B325";
/// An older identity of the same machine, of which only stale copies are left.
pub const CLIENT: &str = r"Microsoft\SMS\Client\Configuration\Client Properties";
/// The key whose subkeys go.
pub const ABEXPRT: &str = r"Microsoft\NAL\Client\AbExprtDB";
/// Where the hive of the usual installation is.
pub const HIVE: &str = r"\WINDOWS\system32\config\SOFTWARE";

/// A SOFTWARE hive with the identity, its decoys, and stale copies of it.
pub fn hive(minor: u32) -> HiveBuilder {
    let mut hive = HiveBuilder::new(minor);
    hive.key(CLIENT)
        .string("Asset", "none")
        .string("SMS Unique Identifier", &format!("GUID:{GUID}"))
        .string("SMS Unique Identifiers", "a decoy")
        .dword("Log File Size for Debugging", 0x400);
    hive.key(ABEXPRT)
        .dword("Last Refresh", 7)
        .string("Own", "stays");
    for site in ["ABC", "XYZ"] {
        hive.key(&format!(r"{ABEXPRT}\CAP List for site {site}"))
            .class("NAL")
            .string(
                &format!(r#"MSWNET:["SMS_SITE={site}"]\\SERVER1\CAP_{site}\"#),
                "",
            );
        hive.key(&format!(r"{ABEXPRT}\CAP List for site {site}\below"))
            .dword("n", 1);
    }
    hive.key(r"Microsoft\NAL\Client\Preferred AbExprtDB\CAP List for site ABC")
        .string(r"\\PREFERRED\CAP_ABC\", "");
    hive.key(r"Microsoft\NAL\Client")
        .dword("Use Preferred Servers", 1);
    for i in 0..60 {
        hive.key(&format!(r"Classes\.ext{i:03}\OpenWithList"))
            .string("", &format!("program {i}"))
            .value("blob", Kind::Binary, &vec![i as u8 + 1; 40 + i * 17]);
    }
    let old: Vec<u8> = GUID.encode_utf16().flat_map(u16::to_le_bytes).collect();
    hive.residue(Residue::FreeCell(old.clone()))
        .residue(Residue::Tail(GUID.as_bytes().to_vec()));
    hive
}

/// The text of a Smscfg.ini.
pub fn ini() -> String {
    format!(
        "[Configuration - Client Properties]\r\nSMS Unique Identifier=GUID:{GUID}\r\n\
         SID=S-1-5-21-1111111111-2222222222-3333333333\r\n\
         [SMS MultiBoot Configuration]\r\nNumber of Opal Installations=1\r\n"
    )
}

/// A volume of `size` bytes with everything on it; `minor` is the hives' version.
pub fn volume(size: u64, geometry: Geometry, minor: u32) -> NtfsBuilder {
    let mut v = NtfsBuilder::new(size);
    v.geometry(geometry);
    v.file(HIVE, hive(minor).build());
    v.file(r"\WINDOWS\repair\software", hive(minor).build());
    v.file(
        r"\WINDOWS\system32\config\SOFTWARE.SAV",
        hive(minor).build(),
    );
    v.file(
        r"\WINDOWS\system32\config\SYSTEM",
        HiveBuilder::new(minor).build(),
    );
    v.file(r"\WINDOWS\Smscfg.ini", ini().as_str());
    v.file(r"\WINDOWS\Sms1x.ini", "[SMS]\r\nUniqueID=ABC0000F\r\n")
        .hidden();
    v.file(
        r"\WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat",
        Content::filler(77, 40_000),
    );
    v.file(
        r"\Documents and Settings\All Users\SMSUID.DAT",
        Content::filler(78, 200),
    );
    v.file(r"\RECYCLER\S-1-5-21-1\smscfg.INI", ini().as_str())
        .names(Names::Win32);
    for (i, decoy) in [
        "Smscfg.ini.bak",
        "Xsmscfg.ini",
        "Smsuid.dat.txt",
        "Sms1x.in",
    ]
    .iter()
    .enumerate()
    {
        v.file(
            &format!(r"\WINDOWS\{decoy}"),
            Content::filler(i as u64, 900),
        );
    }
    for i in 0..40_u64 {
        let name = format!(r"\WINDOWS\system32\library number {i:02} with a long name.dll");
        v.file(&name, Content::filler(i, 300 + i * 700));
    }
    // Stale copies where Windows leaves them.
    let wide: Vec<u8> = GUID.encode_utf16().flat_map(u16::to_le_bytes).collect();
    v.entry(r"\WINDOWS\Xsmscfg.ini")
        .record_slack(GUID.to_lowercase().as_bytes());
    v.dir(r"\WINDOWS\system32").index_slack(&wide);
    v.plant_free_cluster(ini().as_bytes());
    v
}

/// Files that a clean has to remove.
pub const TARGETS: [&str; 5] = [
    r"\WINDOWS\Smscfg.ini",
    r"\WINDOWS\Sms1x.ini",
    r"\WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat",
    r"\Documents and Settings\All Users\SMSUID.DAT",
    r"\RECYCLER\S-1-5-21-1\smscfg.INI",
];

/// Hives that a clean has to edit.
pub const HIVES: [&str; 3] = [
    HIVE,
    r"\WINDOWS\repair\software",
    r"\WINDOWS\system32\config\SOFTWARE.SAV",
];

/// Writes a volume as an image without a partition table; returns every path's record number.
pub fn write(volume: &NtfsBuilder, path: &Path) -> HashMap<String, u64> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    volume.write_to(&mut file, 0).records
}
