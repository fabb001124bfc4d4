//! Rows X1 and X2 of robustness.md, for the formats that `hostile_names` does not speak of: forty hostile
//! names in every file system, container and source of evidence, and in every output.

use std::{fs, os::unix::ffi::OsStrExt as _, path::PathBuf};

use crate::{
    hostile_names::{MIB, check, check_shown, names},
    machine,
    run::{arg, scratch},
    support::{
        aff4_builder as aff4, ewf_builder as ewf, ex01_builder as ex01,
        exfat_builder::ExfatBuilder,
        fat_builder::{FatBuilder, Width},
        hive_builder::HiveBuilder,
        machine_builder::evtx,
        ntfs_builder::{Names, NtfsBuilder},
        qcow2_builder as qcow2, vdi_builder as vdi,
        wim_builder::{self as wim, Node, Wim},
    },
};

/// Every verb that looks at an image and changes nothing.
fn look(dir: &std::path::Path, path: &std::path::Path) -> (serde_json::Value, String) {
    for args in [
        &["clean", arg(path), "-n"][..],
        &["verify", arg(path)],
        &["compare", arg(path), arg(path)],
        &["scan", arg(path), "--redact"],
    ] {
        check(dir, args);
    }
    check(dir, &["scan", arg(path), "--rules", "all"])
}

#[test]
fn names_in_fat_and_exfat_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    for width in [Width::Fat12, Width::Fat16, Width::Fat32] {
        let (len, cluster) = match width {
            Width::Fat12 => (2 << 20, 1024),
            Width::Fat16 => (12 << 20, 1024),
            Width::Fat32 => (48 << 20, 512),
        };
        let mut v = FatBuilder::new(width, len, cluster);
        for name in &names {
            v.file(&format!("\\{name}\\Smscfg.ini"), machine::ini());
        }
        let path = dir.path().join("fat.img");
        fs::write(&path, v.build().bytes).unwrap();
        let (json, page) = look(dir.path(), &path);
        check_shown(&names, &json, &page);
    }
    let mut v = ExfatBuilder::new(4 << 20, 512, 1024);
    for name in &names {
        v.file(&format!("\\{name}\\Smscfg.ini"), machine::ini());
    }
    let path = dir.path().join("exfat.img");
    fs::write(&path, v.build().bytes).unwrap();
    let (json, page) = look(dir.path(), &path);
    check_shown(&names, &json, &page);
}

#[test]
fn names_in_directories_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    let root = dir.path().join("root");
    for name in &names {
        let at = root.join(name.replace('/', "_"));
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("Smscfg.ini"), machine::ini()).unwrap();
    }
    let odd = root.join(std::ffi::OsStr::from_bytes(b"odd\xff\xfe\x1b[31m"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("Smsuid.dat"), "x").unwrap();
    let (json, page) = look(dir.path(), &root);
    check_shown(&names, &json, &page);
}

#[test]
fn texts_in_more_containers_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    let raw = vec![0; 2 * MIB];
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut add = |name: String, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        paths.push(path);
    };
    let members = aff4::members(&raw, &aff4::Shape::default());
    for (i, name) in names.iter().take(40).enumerate() {
        // The name of the image below stands behind the header.
        let mut disk = qcow2::image(&raw, qcow2::Shape::default());
        disk[8..16].copy_from_slice(&0x200_u64.to_be_bytes());
        disk[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        disk[0x200..0x200 + name.len()].copy_from_slice(name.as_bytes());
        add(format!("{i}.qcow2"), &disk);
        let mut disk = vdi::image(&raw, MIB, false, false, false);
        let text = format!("<<< {name} >>>\n");
        disk[..64].fill(0);
        let text = &text.as_bytes()[..text.len().min(64)];
        disk[..text.len()].copy_from_slice(text);
        add(format!("{i}.vdi"), &disk);
        let plain = name.replace(['\t', '\n', '\r'], " ");
        let values = format!(
            "{plain}\t{plain}\t{plain}\t{plain}\t{plain}\t{plain}\t{plain}\t1700000000\t1700000000\t0"
        );
        let e01 = ewf::set_saying(&raw, &ewf::Shape::default(), &values);
        add(format!("{i}.E01"), &e01[0]);
        let ex01 = ex01::set_by(&raw, &ex01::Shape::default(), &plain);
        add(format!("{i}.Ex01"), &ex01[0]);
        let mut members = members.clone();
        for (member, bytes, _) in &mut members {
            if member == "version.txt" {
                *bytes = format!("major=1\nminor=0\ntool={plain}\n").into_bytes();
            }
        }
        members.push((format!("x{name}"), vec![1], true));
        add(format!("{i}.aff4"), &aff4::zip(&members, true, true));
    }
    let mut args = vec!["scan"];
    args.extend(paths.iter().map(|path| arg(path)));
    let (json, page) = check(dir.path(), &args);
    assert_eq!(json["images"].as_array().unwrap().len(), 200);
    for word in ["onerror=alert", "alert(1)", "red", "gnp.exe"] {
        assert!(json.to_string().contains(word), "{word}");
        assert!(page.contains(word), "{word}");
    }
    let mut args = vec!["compare"];
    args.extend(paths.iter().map(|path| arg(path)));
    check(dir.path(), &args);
    for path in paths.iter().step_by(7) {
        check(dir.path(), &["clean", arg(path), "-n"]);
        check(dir.path(), &["recover", arg(path), "--status"]);
    }
}

#[test]
fn names_in_split_archives_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    let mut root = Node::directory("");
    for name in &names {
        root.add(&format!("\\{name}\\Smscfg.ini"), machine::ini().as_bytes());
    }
    let whole = Wim::new(vec![root]).build();
    for (i, part) in wim::split(&whole, 2).iter().enumerate() {
        let name = if i == 0 {
            "a.swm".to_owned()
        } else {
            format!("a{}.swm", i + 1)
        };
        fs::write(dir.path().join(name), part).unwrap();
    }
    let path = dir.path().join("a.swm");
    let (json, page) = look(dir.path(), &path);
    check_shown(&names, &json, &page);
}

/// Users, their hives, event logs and what Sysprep's own list names.
#[test]
fn names_in_the_evidence_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    let mut v = NtfsBuilder::new(32 << 20);
    let mut software = HiveBuilder::new(5);
    software
        .key(r"Microsoft\Windows NT\CurrentVersion")
        .string("CurrentVersion", "6.3")
        .string("CurrentBuildNumber", "9600");
    let mut list = "<sysprepInformation><imaging>".to_owned();
    let in_xml = |text: &str| {
        let plain: String = text.chars().filter(|c| *c >= ' ').collect();
        plain
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;")
    };
    for (i, name) in names.iter().enumerate() {
        let key = format!(r"Evil\{i} {name}");
        software.key(&key).string(name, name);
        let (path, name) = (in_xml(&key), in_xml(name));
        list += &format!(
            "<deleteValue path=\"HKLM\\SOFTWARE\\{path}\" name=\"{name}\"/>\
             <sysprepModule methodName=\"{name}\" moduleName=\"{name}\"/>\
             <deleteKey path=\"HKLM\\SOFTWARE\\{path}\"/>"
        );
    }
    list += "</imaging></sysprepInformation>";
    v.file(r"\Windows\System32\config\SOFTWARE", software.build());
    let mut system = HiveBuilder::new(5);
    system.key("Select").dword("Current", 1);
    system.key("Setup").dword("SetupType", 0);
    v.file(r"\Windows\System32\config\SYSTEM", system.build());
    v.file(
        r"\Windows\System32\Sysprep\ActionFiles\Generalize.xml",
        list.as_bytes().to_vec(),
    );
    for name in names.iter().take(8) {
        let mut hive = HiveBuilder::new(5);
        hive.key(r"Software\Microsoft\Windows\CurrentVersion\Internet Settings")
            .string("ProxyServer", name);
        hive.key(&format!(r"Network\{name}")).string("x", name);
        v.dir(&format!(r"\Users\{name}")).names(Names::Posix);
        v.file(&format!(r"\Users\{name}\NTUSER.DAT"), hive.build());
        v.file(
            &format!(r"\Windows\System32\winevt\Logs\{name}.evtx"),
            evtx(3),
        )
        .names(Names::Posix);
    }
    let path = dir.path().join("evidence.img");
    machine::write(&v, &path);
    let (json, page) = look(dir.path(), &path);
    check_shown(&names[..8], &json, &page);
    let lines = json["images"][0]["machines"][0]["generalization"]["evidence"].to_string();
    for id in ["user_network_proxy", "event_log", "sysprep_undone_key"] {
        assert!(lines.contains(id), "{id}");
    }
}
