//! Scenes: a Windows XP installation that carries the whole identity of an SMS 2003 Legacy Client,
//! with copies, leftovers, and neighbours that only look like it.
//!
//! What belongs to the identity and where it lives: KB 828367, Q257808; value names inside
//! `AbExprtDB`: Q235873, Q195944. The contents of `Smsuid.dat` and `Sms1x.ini` are made up.

use super::disk_builder::DiskBuilder;
use super::hive_builder::{HiveBuilder, Kind, Residue, old_log};
use super::ntfs_builder::{Content, Geometry, Log, Names, NtfsBuilder};
use super::put;

const MIB: u64 = 1 << 20;

/// The GUID of the main scene, without its `GUID:` prefix.
pub const GUID: &str = "6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312";
/// The GUID of the second installation.
pub const SECOND_GUID: &str = "0B7D4A90-5E61-4F28-A3C7-19D2C85F6E04";

/// The site whose servers `AbExprtDB` lists.
pub const SITE: &str = "XYZ";

/// What a scene looks like.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The identity.
    pub guid: String,
    /// `WINDOWS` or `WINNT`.
    pub root: String,
    /// Ordinary registry keys in SOFTWARE.
    pub keys: u32,
    /// Ordinary files in the Windows directory.
    pub files: u32,
    /// Length of the large `Smsuid.dat`.
    pub uid_len: usize,
    /// Copies of the hive and of the files in other places.
    pub copies: bool,
    /// Leftovers in slack, free cells, free clusters and free records.
    pub residue: bool,
    /// Hive version (1.`minor`).
    pub minor: u32,
    /// The machine SID's three numbers.
    pub sid: [u32; 3],
    /// The computer's name.
    pub computer: String,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            guid: GUID.into(),
            root: "WINDOWS".into(),
            keys: 240,
            files: 90,
            uid_len: 200_000,
            copies: true,
            residue: true,
            minor: 5,
            sid: [1_409_082_233, 1_767_777_339, 725_345_543],
            computer: "MASTER-XP".into(),
        }
    }
}

impl Scene {
    /// As little as still is the whole identity.
    pub fn small() -> Self {
        Self {
            keys: 12,
            files: 6,
            uid_len: 9_000,
            copies: false,
            ..Self::default()
        }
    }

    /// `GUID:` and the GUID.
    pub fn full_guid(&self) -> String {
        format!("GUID:{}", self.guid)
    }

    /// The SOFTWARE hive; `copy` makes other bytes of the same kind.
    pub fn software(&self, copy: u32) -> HiveBuilder {
        let mut h = HiveBuilder::new(self.minor);
        h.sequence(240 + copy, 240 + copy);
        h.key(r"Microsoft").security(1);
        h.key(r"Microsoft\Windows NT\CurrentVersion")
            .string("ProductName", "Microsoft Windows XP")
            .string("CurrentVersion", "5.1")
            .string("CurrentBuildNumber", "2600")
            .string("CSDVersion", "Service Pack 2")
            .string("SystemRoot", &format!(r"C:\{}", self.root))
            .string("RegisteredOwner", "Desktop Engineering")
            .string("ProductId", "55274-640-1234567-23456")
            .dword("InstallDate", 0x424f_4e80);
        h.key(r"Microsoft\Windows\CurrentVersion")
            .string("ProgramFilesDir", r"C:\Program Files");
        self.identity(&mut h);
        for i in 0..self.keys {
            let key = format!(
                r"Classes\CLSID\{{{:08X}-0000-0000-C000-000000000046}}",
                i * 0x1357
            );
            h.key(&key)
                .string("", &format!("Ordinary class {i}"))
                .security(i % 3);
            if i % 3 == 0 {
                h.key(&format!(r"{key}\InprocServer32"))
                    .string("", &format!(r"C:\{}\system32\part{i}.dll", self.root))
                    .string("ThreadingModel", "Both");
            }
            if i % 50 == 7 {
                h.key(&key)
                    .value("Blob", Kind::Binary, &vec![0x5a; 700])
                    .class("Ordinary");
            }
        }
        h.key(r"ODBC\ODBCINST.INI\SQL Server")
            .dword("UsageCount", 1);
        if self.residue {
            let old = put::utf16z(&self.full_guid());
            h.residue(Residue::FreeCell(old.clone()));
            h.residue(Residue::FreeCell(b"CAP List for site OLD".to_vec()));
            h.residue(Residue::Tail(vec![0; 4096]));
            h.key(r"Classes\.txt")
                .string("", "txtfile")
                .value_with_slack("Content Type", Kind::Sz, &put::utf16z("text/plain"), &old);
        }
        h
    }

    /// The keys and values the articles are about, and their neighbours that stay.
    fn identity(&self, h: &mut HiveBuilder) {
        h.key(r"Microsoft\SMS\Client\Configuration\Client Properties")
            .dword("Log File Size for Debugging", 0x400)
            .string("SMS Unique Identifier", &self.full_guid())
            .string("Local SMS Path", &format!(r"C:\{}\MS\SMS", self.root))
            .dword("SMS Client Identity Check", 1);
        h.key(r"Microsoft\SMS\Client\Configuration")
            .dword("Installed", 1);
        h.key(r"Microsoft\SMS\Client\Sites\System")
            .string("Name", SITE);
        h.key(r"Microsoft\NAL\Client")
            .dword("Use Preferred Servers", 1)
            .dword("Use Random Path Selection", 0)
            .dword("Use Existing Connections", 1);
        let db = r"Microsoft\NAL\Client\AbExprtDB";
        h.key(db).dword("Expiration Minutes", 60);
        let list = format!(r"{db}\CAP List for site {SITE}");
        for server in ["SERVER1", "SERVER2"] {
            let path = format!(r#"MSWNET:["SMS_SITE={SITE}"]\\{server}\CAP_{SITE}\"#);
            h.key(&list).string(&path, "");
        }
        h.key(&list).class("NAL list").security(7);
        let packages = format!(r"{db}\{SITE}00012 APM");
        h.key(&packages).string(
            &format!(r#"MSWNET:["SMS_SITE={SITE}"]\\SERVER3\SMSPKGD$\{SITE}00012\"#),
            "",
        );
        h.key(&format!(r"{packages}\Expired"))
            .value("When", Kind::Binary, &[0x17; 8]);
        let preferred = r"Microsoft\NAL\Client\Preferred AbExprtDB";
        h.key(preferred).dword("Version", 2);
        h.key(&format!(r"{preferred}\CAP List for site {SITE}"))
            .string(
                &format!(r#"MSWNET:["SMS_SITE={SITE}"]\\CHOSEN\CAP_{SITE}\"#),
                "",
            );
    }

    /// SYSTEM, SAM and SECURITY: the machine's own name and SID.
    fn other_hives(&self) -> [(&'static str, Vec<u8>); 3] {
        let mut system = HiveBuilder::new(self.minor);
        system.file_name(r"SystemRoot\System32\Config\SYSTEM");
        system
            .key("Select")
            .dword("Current", 1)
            .dword("Default", 1)
            .dword("LastKnownGood", 1);
        system
            .key(r"ControlSet001\Control\ComputerName\ComputerName")
            .string("ComputerName", &self.computer);
        system
            .key("Setup")
            .dword("SetupType", 0)
            .string("CmdLine", "");
        system.key("MountedDevices");
        let mut sid: Vec<u8> = self.sid.iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut sam = HiveBuilder::new(self.minor);
        sam.file_name(r"SystemRoot\System32\Config\SAM");
        let mut v = vec![0; 192];
        v.extend(&sid);
        sam.key(r"SAM\Domains\Account").value("V", Kind::Binary, &v);
        let mut security = HiveBuilder::new(self.minor);
        security.file_name(r"emRoot\System32\Config\SECURITY");
        let mut whole = vec![1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
        whole.append(&mut sid);
        security
            .key(r"Policy\PolAcDmS")
            .value("", Kind::None, &whole);
        [
            ("SYSTEM", system.build()),
            ("SAM", sam.build()),
            ("SECURITY", security.build()),
        ]
    }

    /// `Smscfg.ini`.
    pub fn smscfg(&self) -> String {
        let [a, b, c] = self.sid;
        format!(
            "[Configuration - Client Properties]\r\nSID=S-1-5-21-{a}-{b}-{c}\r\n\
             SMS Unique Identifier={}\r\n[SMS MultiBoot Configuration]\r\n\
             Number of Opal Installations=1\r\n",
            self.full_guid()
        )
    }

    /// `Smsuid.dat`, made up: records that repeat the GUID.
    pub fn smsuid(&self, len: usize) -> Vec<u8> {
        let mut v = Vec::with_capacity(len + 64);
        let mut n = 0u32;
        while v.len() < len {
            v.extend(b"SMSU");
            v.extend(n.to_le_bytes());
            v.extend(self.full_guid().as_bytes());
            v.resize(v.len().next_multiple_of(64), 0);
            n += 1;
        }
        v.truncate(len);
        v
    }

    /// Adds the installation to a volume.
    pub fn install(&self, v: &mut NtfsBuilder) {
        self.install_with(v, self.software(0).build());
    }

    /// Adds the installation with this SOFTWARE hive.
    pub fn install_with(&self, v: &mut NtfsBuilder, hive: Vec<u8>) {
        let w = self.root.as_str();
        let config = format!(r"{w}\system32\config");
        v.file("boot.ini", "[boot loader]\r\ntimeout=30\r\n")
            .hidden();
        v.file("ntldr", Content::filler(3, 3_000)).attributes(0x07);
        let log = old_log(&hive, &put::utf16(&self.full_guid()));
        v.file(&format!(r"{config}\SOFTWARE"), hive).pieces(5);
        v.file(&format!(r"{config}\software.LOG"), log).hidden();
        for (name, bytes) in self.other_hives() {
            v.file(&format!(r"{config}\{name}"), bytes);
        }
        v.file(&format!(r"{w}\Smscfg.ini"), self.smscfg().as_str());
        v.file(
            &format!(r"{w}\win.ini"),
            "; for 16-bit app support\r\n[fonts]\r\n[extensions]\r\n",
        );
        v.file(
            &format!(r"{w}\Sms1x.ini"),
            "[SMS 1.x]\r\nSMSID=XYZ0001A\r\n",
        )
        .hidden();
        let data = format!(r"{w}\MS\SMS\core\data");
        v.file(&format!(r"{data}\Smsuid.dat"), self.smsuid(self.uid_len))
            .object_id(*b"smsuid-object-id");
        v.file(&format!(r"{w}\MS\SMS\clicomp\SMSUID.DAT"), self.smsuid(64));
        v.file(
            &format!(r"{w}\MS\SMS\logs\smsclint.log"),
            "Client started.\r\n",
        );
        for i in 0..self.files {
            let text =
                format!("Ordinary file {i}.\r\n").repeat(1 + usize::try_from(i % 9).unwrap());
            v.file(&format!(r"{w}\ordinary{i:03}.txt"), text.as_str());
            v.file(
                &format!(r"{w}\system32\part{i}.dll"),
                Content::Unwritten(4096 * u64::from(i % 5 + 1)),
            );
        }
        self.decoys(v);
        if self.copies {
            self.copies(v);
        }
        if self.residue {
            self.leftovers(v);
        }
    }

    /// Names that are nearly the right ones: all of them stay.
    fn decoys(&self, v: &mut NtfsBuilder) {
        let w = self.root.as_str();
        for name in [
            r"Smscfg.ini.bak",
            "Xsmscfg.ini",
            "Smsuid.dat.txt",
            "Sms1x.in",
            "Smscfg_ini",
        ] {
            v.file(
                &format!(r"{w}\{name}"),
                "This file only looks like one of them.\r\n",
            );
        }
        v.dir(&format!(r"{w}\Temp\Smscfg.ini"));
        v.file(
            &format!(r"{w}\Temp\Smscfg.ini\inside.txt"),
            "A directory of that name stays.\r\n",
        );
    }

    fn copies(&self, v: &mut NtfsBuilder) {
        let w = self.root.as_str();
        v.file(&format!(r"{w}\repair\software"), self.software(1).build());
        v.file(
            &format!(r"{w}\system32\config\SOFTWARE.SAV"),
            self.software(2).build(),
        );
        let bin = "RECYCLER\\S-1-5-21-1409082233-1767777339-725345543-500";
        v.file(&format!(r"{bin}\Smscfg.ini"), self.smscfg().as_str());
        v.file(&format!(r"{bin}\Dc1.txt"), "thrown away\r\n");
        let desk = r"Documents and Settings\Administrator\Desktop\old computer";
        v.file(&format!(r"{desk}\smsuid.dat"), self.smsuid(5_000))
            .pieces(1);
        v.file(
            &format!(r"{desk}\SMS1X.INI"),
            "[SMS 1.x]\r\nSMSID=XYZ0001A\r\n",
        )
        .names(Names::Pair("SMS1X~1.INI".into()));
        v.file(&format!(r"{desk}\letter.txt"), "Dear SMS team,\r\n");
        v.file(r"Backup\smscfg.ini", self.smscfg().as_str());
        v.link(r"Backup\smscfg.ini", r"Backup\Monday\Smscfg.ini");
    }

    fn leftovers(&self, v: &mut NtfsBuilder) {
        let w = self.root.as_str();
        let stale = format!("SMS Unique Identifier={}\r\n", self.full_guid());
        v.entry(&format!(r"{w}\win.ini"))
            .record_slack(stale.as_bytes());
        v.plant_free_cluster(format!("[Configuration - Client Properties]\r\n{stale}").as_bytes());
        v.deleted_file(&format!(r"{w}\Smscfg.ini"), stale.as_str());
        if self.files >= 40 {
            let mut entry = put::utf16("Smsuid.dat");
            entry.extend(put::utf16(&self.guid));
            v.dir(w).index_slack(&entry);
        }
    }
}

/// An empty volume as Windows XP formats it.
pub fn volume(size: u64, geometry: Geometry) -> NtfsBuilder {
    let mut v = NtfsBuilder::new(size);
    v.geometry(geometry).log(Log::Clean11).log_len(262_144);
    v
}

/// The main scene: an MBR disk with one partition at sector 63.
pub fn sms2003_disk(scene: &Scene) -> DiskBuilder {
    let mut v = volume(192 * MIB, Geometry::default());
    v.label("XP").log_len(2 * MIB);
    scene.install(&mut v);
    v.file("pagefile.sys", Content::Unwritten(24 * MIB))
        .attributes(0x06);
    DiskBuilder::mbr(200 * MIB).partition(63, v)
}

/// The identity on a disk without partitions, in 2 MiB.
pub fn tiny_superfloppy() -> DiskBuilder {
    let geometry = Geometry {
        cluster: 512,
        ..Geometry::default()
    };
    let mut v = volume(2 * MIB, geometry);
    Scene::small().install(&mut v);
    DiskBuilder::superfloppy(v)
}

/// The identity on a GPT disk with sectors and records of 4,096 bytes.
pub fn gpt_4kn() -> DiskBuilder {
    let geometry = Geometry {
        sector: 4096,
        cluster: 4096,
        record: 4096,
        index: 4096,
    };
    let mut v = volume(8 * MIB, geometry);
    Scene {
        minor: 6,
        ..Scene::small()
    }
    .install(&mut v);
    DiskBuilder::gpt(12 * MIB, 4096)
        .raw(16, 64, 0, b"")
        .partition(256, v)
}

/// Two installations with identities of their own: a primary and a logical partition.
pub fn two_installations() -> DiskBuilder {
    let mut first = volume(8 * MIB, Geometry::default());
    Scene::small().install(&mut first);
    let mut second = volume(
        8 * MIB,
        Geometry {
            cluster: 1024,
            ..Geometry::default()
        },
    );
    let scene = Scene {
        guid: SECOND_GUID.into(),
        root: "WINNT".into(),
        minor: 3,
        sid: [1_123_561_945, 484_763_869, 839_522_115],
        computer: "MASTER-NT".into(),
        ..Scene::small()
    };
    scene.install(&mut second);
    let start = 63 + 8 * MIB / 512;
    DiskBuilder::mbr(20 * MIB)
        .partition(63, first)
        .logical(start + 126, second)
}
