//! The rules: every one that deletes has a case directory, and does there what it says and nothing else.
//!
//! `tests/cases/<rule-id>/case.toml` says what is planted: `goes` is what the rule takes out, `stays` are
//! neighbours that only look like it. Every planted thing carries a mark of its own; afterwards the marks
//! of the first sort are nowhere in the image, those of the second all are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    oracle,
    run::{arg, declone, digest, scratch},
    support::{
        hive_builder::{HiveBuilder, Kind},
        ntfs_builder::NtfsBuilder,
        put,
    },
};

const MIB: u64 = 1 << 20;
const HIVE: &str = r"\WINDOWS\system32\config\SOFTWARE";
const KEYS: &str = r"\ProgramData\Microsoft\Crypto\RSA\MachineKeys";

/// What a case plants.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    goes: Vec<Item>,
    stays: Vec<Item>,
}

/// One planted thing: a value of a key, a key alone, a certificate, or a file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    /// A key of SOFTWARE; with `value` that value holds the mark, without it a value of the key does.
    key: Option<String>,
    value: Option<String>,
    /// The key is a certificate whose private key is in this container.
    container: Option<String>,
    /// A file that holds the mark.
    file: Option<String>,
    /// The file is the key file of this container.
    key_file_of: Option<String>,
}

/// What is planted, as a volume under construction.
pub struct Scene {
    pub software: HiveBuilder,
    pub system: HiveBuilder,
    pub volume: NtfsBuilder,
}

impl Scene {
    pub fn new() -> Self {
        let mut software = HiveBuilder::new(5);
        software
            .key(r"Microsoft\Windows\CurrentVersion")
            .dword("n", 1);
        let mut system = HiveBuilder::new(5);
        system.file_name(r"SYSTEM");
        system.key("Select").dword("Current", 1);
        Self {
            software,
            system,
            volume: NtfsBuilder::new(24 * MIB),
        }
    }

    fn plant(&mut self, item: &Item, mark: &str) {
        match item {
            Item {
                key: Some(key),
                container: Some(container),
                ..
            } => {
                let blob = certificate(container, mark);
                self.software.key(key).value("Blob", Kind::Binary, &blob);
            }
            Item {
                key: Some(key),
                value,
                ..
            } => {
                let name = value.as_deref().unwrap_or("anything");
                self.software.key(key).string(name, mark);
            }
            Item {
                file: Some(file),
                key_file_of,
                ..
            } => {
                let bytes = match key_file_of {
                    Some(container) => key_file(container, mark),
                    None => format!("{mark}\r\n").into_bytes(),
                };
                // In clusters: in a record the update sequence would stand in the middle of a mark.
                self.volume.file(file, bytes).non_resident();
            }
            _ => panic!("{item:?}: a key or a file"),
        }
    }

    pub fn write(mut self, path: &Path) {
        self.volume.file(HIVE, self.software.build());
        self.volume
            .file(r"\WINDOWS\system32\config\SYSTEM", self.system.build());
        fs::write(path, self.volume.to_vec().0).unwrap();
    }
}

/// A certificate as the registry stores it (MS-GPEF 2.2.1.1.1.1), with a mark where the DER would be.
fn certificate(container: &str, mark: &str) -> Vec<u8> {
    let provider = "Microsoft Strong Cryptographic Provider";
    certificate_of(container, provider, [1, 0x20], mark)
}

/// As [`certificate`], with this provider and its type and flags.
pub fn certificate_of(container: &str, provider: &str, kind: [u32; 2], mark: &str) -> Vec<u8> {
    let mut info = Vec::new();
    let at = 28 + put::utf16z(container).len();
    for dword in [28, u32::try_from(at).unwrap(), kind[0], kind[1], 0, 0, 1] {
        info.extend(dword.to_le_bytes());
    }
    info.extend(put::utf16z(container));
    info.extend(put::utf16z(provider));
    let mut blob = Vec::new();
    for (id, value) in [(3_u32, vec![0xAB; 20]), (2, info), (32, put::utf16(mark))] {
        blob.extend(id.to_le_bytes());
        blob.extend(1_u32.to_le_bytes());
        blob.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        blob.extend(value);
    }
    blob
}

/// A private key file: ten dwords, the container's name, and a mark for the key.
pub fn key_file(container: &str, mark: &str) -> Vec<u8> {
    let len = u32::try_from(container.len() + 1).unwrap();
    let mut file = Vec::new();
    for dword in [2, 0, len, 0, 0, 0, 0, 0, 0, 0_u32] {
        file.extend(dword.to_le_bytes());
    }
    file.extend(container.as_bytes());
    file.push(0);
    file.extend(mark.as_bytes());
    file
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// How often a mark stands in an image, in either encoding.
pub fn count(image: &[u8], mark: &str) -> usize {
    let wide = put::utf16(mark);
    oracle::find_all(image, mark.as_bytes()).len() + oracle::find_all(image, &wide).len()
}

pub fn found(json: &Value, rule: &str) -> Vec<Value> {
    let findings = json["images"][0]["findings"].as_array().unwrap();
    let of_rule = findings.iter().filter(|finding| finding["rule"] == rule);
    of_rule.cloned().collect()
}

fn run_case(rule: &str, dir: &Path) {
    let text = fs::read_to_string(cases().join(rule).join("case.toml"))
        .unwrap_or_else(|e| panic!("tests/cases/{rule}/case.toml: {e}"));
    let case: Case = toml::from_str(&text).unwrap_or_else(|e| panic!("{rule}: {e}"));
    assert!(!case.goes.is_empty() && !case.stays.is_empty(), "{rule}");
    let (image, out) = (
        dir.join(format!("{rule}.img")),
        dir.join(format!("{rule}.out")),
    );
    let mut scene = Scene::new();
    let marks = |kind: &str, items: &[Item]| -> Vec<String> {
        let mark = |i| format!("{kind}-{i:03}-{rule}-0123456789-{kind}-{i:03}");
        (0..items.len()).map(mark).collect()
    };
    let (goes, stays) = (marks("GOES", &case.goes), marks("STAYS", &case.stays));
    for (item, mark) in case
        .goes
        .iter()
        .zip(&goes)
        .chain(case.stays.iter().zip(&stays))
    {
        scene.plant(item, mark);
    }
    scene.write(&image);
    let before = fs::read(&image).unwrap();
    for mark in goes.iter().chain(&stays) {
        assert!(count(&before, mark) > 0, "{rule}: {mark} is planted");
    }
    let ran = declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--rules",
        rule,
        "--json",
        "-",
    ])
    // The certificates beside it are made of the same bytes.
    .exits(i32::from(rule.contains(".cert")));
    let deleted = found(&ran.json(), rule);
    assert_eq!(deleted.len(), case.goes.len(), "{rule}: {deleted:#?}");
    assert!(
        deleted.iter().all(|f| f["action"] == "delete"),
        "{deleted:#?}"
    );
    let after = fs::read(&out).unwrap();
    for mark in &goes {
        assert_eq!(count(&after, mark), 0, "{rule}: {mark} is left");
    }
    for mark in &stays {
        assert_eq!(count(&after, mark), count(&before, mark), "{rule}: {mark}");
    }
    let again = declone(&["scan", arg(&out), "--rules", rule]).exits(0);
    assert!(
        again.out.contains("Clean as far as the rules look"),
        "{}",
        again.out
    );
    assert_eq!(digest(&image), {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&before))
    });
    fs::remove_file(&image).unwrap();
    fs::remove_file(&out).unwrap();
}

#[test]
fn every_rule_that_deletes_takes_out_its_case_and_leaves_the_neighbours() {
    let rules = declone(&["rules", "list", "--json"]).exits(0).json();
    let rules = rules.as_array().unwrap();
    let id = |rule: &Value| rule["id"].as_str().unwrap().to_owned();
    let deleting: BTreeSet<String> = rules
        .iter()
        .filter(|rule| rule["action"] != "report")
        .map(id)
        .collect();
    // A directory here is a case of a rule; a rule without one fails in run_case.
    for entry in fs::read_dir(cases()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            deleting.contains(&name),
            "tests/cases/{name}: no such rule that deletes"
        );
    }
    assert!(deleting.len() > 30, "{deleting:?}");
    let dir = scratch();
    let all: Vec<&String> = deleting.iter().collect();
    // Two at a time: most of it is waiting for the disk.
    std::thread::scope(|scope| {
        for half in [0, 1] {
            let (all, dir) = (&all, dir.path());
            scope.spawn(move || {
                for rule in all.iter().skip(half).step_by(2) {
                    run_case(rule, dir);
                }
            });
        }
    });
}

/// An Advanced Client: certificates of two containers, their keys in three languages of Windows.
fn advanced(scene: &mut Scene) -> Vec<&'static str> {
    let store = r"Microsoft\SystemCertificates\SMS\Certificates";
    for (thumbprint, container) in [
        ("19A0F1E2D3C4B5A69788796A5B4C3D2E1F00112A", "SMS"),
        (
            "29A0F1E2D3C4B5A69788796A5B4C3D2E1F00112B",
            "Another Container",
        ),
    ] {
        let blob = certificate(container, &format!("GOES-CERT-{thumbprint}"));
        let key = format!(r"{store}\{thumbprint}");
        scene.software.key(&key).value("Blob", Kind::Binary, &blob);
    }
    scene.software.key(store).string("Own", "STAYS-STORE-VALUE");
    scene
        .software
        .key(r"Microsoft\SystemCertificates\SMS\CRLs")
        .string("x", "STAYS-CRL");
    scene
        .software
        .key(r"Microsoft\SystemCertificates\ROOT\Certificates\39A0F1E2D3C4B5A69788796A5B4C3D2E1F00112C")
        .value("Blob", Kind::Binary, &certificate("SMS", "STAYS-ROOT"));
    scene
        .software
        .key(r"Microsoft\SMS\Mobile Client")
        .string("AssignedSiteCode", "GOES-SITE-XYZ")
        .string("AssignedSiteCodes", "STAYS-SITE");
    scene
        .software
        .key(r"Microsoft\CCM\CcmExec")
        .string("ProvisioningMode", "true");
    scene
        .system
        .key(r"ControlSet001\Services\CcmExec")
        .dword("Start", 4);
    scene
        .system
        .key(r"ControlSet002\Services\CcmExec")
        .dword("Start", 2);
    let sms = "19c5cf9c7b5dc9de3e548adb70398402";
    let other = declone::windows::capi::file_prefix("Another Container");
    let rdp = "f686aace6942fb7f7ceb231212eef4a4";
    let guid = "50e417e0-e461-474b-96e2-077b80325612";
    let german =
        r"\Dokumente und Einstellungen\All Users\Anwendungsdaten\Microsoft\Crypto\RSA\MachineKeys";
    let mut file = |path: String, container: &str, mark: &str| {
        scene
            .volume
            .file(&path, key_file(container, mark))
            .non_resident();
    };
    file(format!(r"{KEYS}\{sms}_{guid}"), "SMS", "GOES-KEY-1");
    file(
        format!(r"{german}\{}_{guid}", sms.to_uppercase()),
        "sms",
        "GOES-KEY-2",
    );
    file(
        format!(r"{KEYS}\{other}{guid}"),
        "Another Container",
        "GOES-KEY-3",
    );
    file(
        format!(r"{KEYS}\{rdp}_{guid}"),
        "TSSecKeySet1",
        "STAYS-KEY-RDP",
    );
    // The name of one container, the content of another: somebody's mistake, and not to be repeated.
    file(
        format!(r"{KEYS}\{sms}_other"),
        "Not SMS",
        "STAYS-KEY-FOREIGN",
    );
    file(format!(r"{KEYS}\{sms}"), "SMS", "STAYS-KEY-WITHOUT-GUID");
    file(
        format!(r"\ProgramData\Microsoft\Crypto\RSA\S-1-5-18\{sms}_{guid}"),
        "SMS",
        "STAYS-KEY-OF-A-USER",
    );
    scene.volume.dir(&format!(r"{KEYS}\{sms}_directory"));
    scene.volume.file(
        r"\WINDOWS\Smscfg.ini",
        "[x]\r\nSMS Unique Identifier=GOES-INI\r\n",
    );
    scene
        .volume
        .file(r"\WINDOWS\Smscfg.cpl", "STAYS-CPL")
        .non_resident();
    vec![
        "GOES-CERT-1",
        "GOES-CERT-2",
        "GOES-SITE",
        "GOES-KEY-1",
        "GOES-KEY-2",
        "GOES-KEY-3",
        "GOES-INI",
    ]
}

const ADVANCED_STAYS: [&str; 9] = [
    "STAYS-STORE-VALUE",
    "STAYS-CRL",
    "STAYS-ROOT",
    "STAYS-SITE",
    "STAYS-KEY-RDP",
    "STAYS-KEY-FOREIGN",
    "STAYS-KEY-WITHOUT-GUID",
    "STAYS-KEY-OF-A-USER",
    "STAYS-CPL",
];

#[test]
fn an_advanced_client_loses_certificates_and_exactly_their_keys() {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.img"), dir.path().join("b.img"));
    let mut scene = Scene::new();
    let goes = advanced(&mut scene);
    scene.write(&image);
    let seen = declone(&[
        "scan",
        arg(&image),
        "--rules",
        "sms-advanced",
        "--json",
        "-",
    ])
    .exits(1);
    let json = seen.json();
    // Service state of every control set and provisioning mode: reported, not changed.
    let service = found(&json, "ccm.service");
    let starts: Vec<&str> = service
        .iter()
        .map(|f| f["evidence"].as_str().unwrap())
        .collect();
    assert_eq!(starts, ["4", "2"], "{service:#?}");
    assert!(service.iter().all(|f| f["action"] == "report"));
    assert_eq!(found(&json, "ccm.prov")[0]["evidence"], "true");
    let certificates = found(&json, "ccm.cert");
    assert_eq!(certificates.len(), 2);
    for certificate in &certificates {
        let evidence = certificate["evidence"].as_str().unwrap();
        assert!(evidence.contains("private key in container"), "{evidence}");
        assert_eq!(certificate["ids"][0]["identity"], "SMS certificate");
    }
    let keys = found(&json, "ccm.key");
    let foreign: Vec<&Value> = keys.iter().filter(|f| f["action"] == "report").collect();
    assert_eq!((keys.len(), foreign.len()), (4, 1), "{keys:#?}");
    assert!(
        foreign[0]["evidence"]
            .as_str()
            .unwrap()
            .contains("NOT REMOVED")
    );
    declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--rules",
        "sms-advanced",
    ])
    .exits(1);
    let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
    for mark in goes {
        assert!(
            count(&before, mark) > 0 && count(&after, mark) == 0,
            "{mark}"
        );
    }
    for mark in ADVANCED_STAYS {
        assert!(count(&before, mark) > 0, "{mark}");
        assert_eq!(count(&before, mark), count(&after, mark), "{mark}");
    }
    let again = declone(&["clean", arg(&out), "--in-place", "--rules", "sms-advanced"]).exits(1);
    assert!(again.out.contains("No rule matches"), "{}", again.out);
    assert_eq!(after, fs::read(&out).unwrap());
    // The default profile does not touch any of it but the ini.
    let third = dir.path().join("c.img");
    declone(&["clean", arg(&image), "-o", arg(&third)]).exits(0);
    let third = fs::read(&third).unwrap();
    for mark in ["GOES-CERT-1", "GOES-KEY-1", "GOES-SITE"] {
        assert_eq!(count(&before, mark), count(&third, mark), "{mark}");
    }
}

#[test]
fn a_hostile_certificate_is_said_and_stops_nothing() {
    let dir = scratch();
    let store = r"Microsoft\SystemCertificates\SMS\Certificates";
    let whole = certificate("SMS", "a mark where the certificate would be");
    let mut blobs: Vec<Vec<u8>> = (0..whole.len())
        .step_by(9)
        .map(|n| whole[..n].to_vec())
        .collect();
    for at in (0..whole.len()).step_by(5) {
        let mut other = whole.clone();
        other[at] ^= 0x81;
        blobs.push(other);
    }
    blobs.push(vec![0xFF; 5000]);
    let mut scene = Scene::new();
    for (i, blob) in blobs.iter().enumerate() {
        let key = format!(r"{store}\{i:040X}");
        scene.software.key(&key).value("Blob", Kind::Binary, blob);
    }
    let evil = format!("{store}\\evil\u{1b}[31m\u{202e}");
    scene
        .software
        .key(&evil)
        .value("Blob", Kind::Binary, &certificate("\u{1b}]0;x\u{7}", "y"));
    let image = dir.path().join("a.img");
    scene.write(&image);
    let ran = declone(&["scan", arg(&image), "--rules", "sms-advanced"]).exits(1);
    assert!(!ran.out.contains(['\u{1b}', '\u{202e}', '\u{7}']));
    let out = dir.path().join("b.img");
    // Where their keys are cannot be told: they stay, and that is said.
    declone(&["clean", arg(&image), "-o", arg(&out), "--rules", "ccm"]).exits(1);
    declone(&["scan", arg(&out), "--rules", "ccm"]).exits(1);
}

#[test]
fn the_wmi_repository_is_searched_and_never_written() {
    let dir = scratch();
    let guid = "5A3C91D7-0B2E-4F68-9C1D-7E8F60A4B325";
    let mut scene = Scene::new();
    let ini = format!("[x]\r\nSMS Unique Identifier=GUID:{guid}\r\n");
    scene.volume.file(r"\WINDOWS\SMSCFG.INI", ini.as_str());
    // Across the border of two pieces that are read one after the other.
    let mut objects = vec![0x11; (1 << 20) - 20];
    objects.extend(put::utf16(&format!("GUID:{guid}")));
    objects.resize(3 << 20, 0x22);
    objects.extend(guid.to_lowercase().as_bytes());
    let repository = r"\WINDOWS\system32\wbem\Repository\FS\OBJECTS.DATA";
    scene.volume.file(repository, objects);
    scene.volume.file(
        r"\WINDOWS\system32\wbem\Repository\OBJECTS.DATA",
        "nothing of interest",
    );
    let image = dir.path().join("a.img");
    scene.write(&image);
    let ran = declone(&["scan", arg(&image), "--rules", "ccm", "--json", "-"]).exits(1);
    let json = ran.json();
    let said = |rule: &str| {
        found(&json, rule)[0]["evidence"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let held = said("ccm.wmi-fs");
    assert!(held.contains("HOLDS the identity"), "{held}");
    assert!(
        held.contains("(UTF-16) 1 times") && held.contains("(ASCII) 1 times"),
        "{held}"
    );
    assert!(
        said("ccm.wmi").contains("none of the ids"),
        "{}",
        said("ccm.wmi")
    );
    let text = declone(&["scan", arg(&image), "--rules", "ccm"])
        .exits(1)
        .out;
    assert!(
        text.contains("the trusted root key in it are not touched"),
        "{text}"
    );
    let out = dir.path().join("b.img");
    declone(&["clean", arg(&image), "-o", arg(&out), "--rules", "ccm"]).exits(1);
    let files = |path: &Path| oracle::files(path, 0);
    let is_it =
        |path: &&String| path.ends_with(r"FS\OBJECTS.DATA") || path.ends_with("FS/OBJECTS.DATA");
    let (before, after) = (files(&image), files(&out));
    let path = before.keys().find(is_it).expect("the repository is there");
    assert_eq!(before[path], after[path]);
}

#[test]
fn a_rule_file_is_judged_whole_and_combined() {
    let dir = scratch();
    let file = dir.path().join("mine.toml");
    let rule = |id: &str, action: &str, target: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\nprofile = \"own\"\ntitle = \"t\"\nstep = \"s\"\n\
             action = \"{action}\"\nconfidence = \"A\"\nsources = [\"d\"]\nrationale = \"r\"\n\
             target = {target}\n\n"
        )
    };
    let good =
        "{ kind = \"value\", hive = \"software\", key = [\"Own\", \"Key\"], value = \"Id\" }";
    let bad = [
        rule("own.one", "delete", "{ kind = \"nothing\" }"),
        rule("own.two", "erase", good),
        rule("own.two", "delete", &good.replace("\"Own\"", "\"HKLM\"")),
    ];
    fs::write(&file, bad.concat()).unwrap();
    let ran = declone(&["rules", "check", arg(&file)]).exits(4);
    for place in [
        ":10:19: rule `own.one`: target.kind",
        ":17:10: rule `own.two`: action",
        ":24:6: rule `own.two`: id",
        ":32:54: rule `own.two`: target.key",
        "4 problems; 0 rules are right",
    ] {
        assert!(ran.out.contains(place), "{place}: {}", ran.out);
    }
    let json = declone(&["rules", "check", arg(&file), "--json"])
        .exits(4)
        .json();
    assert_eq!(json["problems"].as_array().unwrap().len(), 4);
    assert_eq!(json["problems"][0]["line"], 10);
    assert_eq!(json["problems"][0]["column"], 19);
    let image = dir.path().join("a.img");
    let ran = declone(&["scan", arg(&image), "--rules", arg(&file)]).exits(4);
    assert!(ran.err.contains("3 more"), "{}", ran.err);

    fs::write(
        &file,
        [
            rule("own.one", "delete", good),
            rule(
                "own.two",
                "delete-if-named",
                &good.replace("\"Id\"", "\"Other\""),
            ),
        ]
        .concat(),
    )
    .unwrap();
    let ran = declone(&["rules", "check", arg(&file)]).exits(0);
    assert!(
        ran.out.contains("2 rules, all good; 2 of them delete"),
        "{}",
        ran.out
    );
    let mut scene = Scene::new();
    scene
        .software
        .key(r"Own\Key")
        .string("Id", "mine, all of it")
        .string("Other", "another one");
    scene.volume.file(r"\x\Sms1x.ini", "[x]");
    scene.write(&image);
    let set = format!("sms,{}", arg(&file));
    let actions = |set: &str| {
        let json = declone(&["scan", arg(&image), "--rules", set, "--json", "-"])
            .exits(1)
            .json();
        let findings = json["images"][0]["findings"].as_array().unwrap().clone();
        let mut out: Vec<String> = findings
            .iter()
            .map(|f| {
                format!(
                    "{} {}",
                    f["rule"].as_str().unwrap(),
                    f["action"].as_str().unwrap()
                )
            })
            .collect();
        out.sort();
        out
    };
    assert_eq!(
        actions(&set),
        ["own.one delete", "own.two report", "sms.1x delete"]
    );
    assert_eq!(
        actions(&format!("{},own.two", arg(&file))),
        ["own.one delete", "own.two delete"]
    );
    // One of declone's own ids, in a file beside the set: which one is meant?
    fs::write(&file, rule("sms.uid", "report", good)).unwrap();
    declone(&["scan", arg(&image), "--rules", &set]).exits(4);
    declone(&["scan", arg(&image), "--rules", "sms,nonsense"]).exits(2);
    let bad = dir.path().join("not there.toml");
    declone(&["scan", arg(&image), "--rules", arg(&bad)]).exits(2);
}
