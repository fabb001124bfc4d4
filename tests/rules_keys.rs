//! A certificate goes with its private key or stays; what other sets would remove is said; SYSTEM is edited
//! as SOFTWARE is.

use std::fs;

use serde_json::Value;

use crate::{
    rules::{Scene, certificate_of, count, found, key_file},
    run::{arg, declone, scratch},
    support::{hive_builder::Kind, put},
};

const STORE: &str = r"Microsoft\SystemCertificates\SMS\Certificates";
const CAPI: &str = "Microsoft Enhanced RSA and AES Cryptographic Provider";
const CNG: &str = "Microsoft Software Key Storage Provider";

/// A key file of the newer store.
fn cng_file(container: &str, mark: &str) -> Vec<u8> {
    let name = put::utf16(container);
    let mut file = vec![1, 0, 0, 0, 0, 0, 0, 0];
    file.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    file.resize(0x2c, 0);
    file.extend(name);
    file.extend(mark.as_bytes());
    file
}

/// Certificates in the store of the client: those whose keys are there, and those whose keys are not.
fn certificates(scene: &mut Scene) {
    for (digit, container, provider, kind, mark) in [
        ('1', "SMS", CAPI, [0, 0x20], "GOES-CERT-TYPE-0"),
        ('2', "te-1f2e", CNG, [0, 0x20], "GOES-CERT-CNG"),
        ('3', "Nowhere", CAPI, [1, 0x20], "STAYS-CERT-LOST"),
        ('4', "te-gone", CNG, [0, 0x20], "STAYS-CERT-CNG-LOST"),
        ('5', "SMS", CAPI, [1, 0], "STAYS-CERT-USER"),
        (
            '6',
            "SMS",
            "Microsoft Platform Crypto Provider",
            [0, 0x20],
            "STAYS-CERT-TPM",
        ),
    ] {
        let key = format!(r"{STORE}\{}", digit.to_string().repeat(40));
        let blob = certificate_of(container, provider, kind, mark);
        scene.software.key(&key).value("Blob", Kind::Binary, &blob);
    }
    let crypto = r"\ProgramData\Microsoft\Crypto";
    let guid = "50e417e0-e461-474b-96e2-077b80325612";
    let sms = format!(r"{crypto}\RSA\MachineKeys\19c5cf9c7b5dc9de3e548adb70398402_{guid}");
    let files = [
        (sms, key_file("SMS", "GOES-KEY-TYPE-0")),
        (
            format!(r"{crypto}\Keys\0123_{guid}"),
            cng_file("TE-1F2E", "GOES-KEY-CNG"),
        ),
        (
            format!(r"{crypto}\Keys\4567_{guid}"),
            cng_file("te-1f2e-2", "STAYS-KEY-CNG"),
        ),
        (
            format!(r"{crypto}\SystemKeys\89_{guid}"),
            cng_file("te-gone", "STAYS-KEY-SYSTEM"),
        ),
    ];
    for (path, bytes) in files {
        scene.volume.file(&path, bytes).non_resident();
    }
}

#[test]
fn a_certificate_goes_with_its_key_or_stays() {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.img"), dir.path().join("b.img"));
    let mut scene = Scene::new();
    certificates(&mut scene);
    scene.write(&image);
    let ran = declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--rules",
        "ccm",
        "--json",
        "-",
    ]);
    // What is left decides between the two.
    assert!(matches!(ran.code, 0 | 1), "{}{}", ran.out, ran.err);
    let seen = found(&ran.json(), "ccm.cert");
    let (goes, stays): (Vec<&Value>, Vec<&Value>) = seen
        .iter()
        .partition(|finding| finding["action"] == "delete");
    assert_eq!((goes.len(), stays.len()), (2, 4), "{seen:#?}");
    for finding in stays {
        let evidence = finding["evidence"].as_str().unwrap();
        assert!(evidence.contains("NOT REMOVED"), "{evidence}");
    }
    let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
    for mark in [
        "GOES-CERT-TYPE-0",
        "GOES-CERT-CNG",
        "GOES-KEY-TYPE-0",
        "GOES-KEY-CNG",
    ] {
        assert!(
            count(&before, mark) > 0 && count(&after, mark) == 0,
            "{mark}"
        );
    }
    for mark in [
        "STAYS-CERT-LOST",
        "STAYS-CERT-CNG-LOST",
        "STAYS-CERT-USER",
        "STAYS-CERT-TPM",
        "STAYS-KEY-CNG",
        "STAYS-KEY-SYSTEM",
    ] {
        assert!(count(&before, mark) > 0, "{mark}");
        assert_eq!(count(&before, mark), count(&after, mark), "{mark}");
    }
    // Asked for by its id, they go alone.
    let alone = dir.path().join("c.img");
    let rules = "ccm,ccm.cert";
    declone(&["clean", arg(&image), "-o", arg(&alone), "--rules", rules]);
    let alone = fs::read(&alone).unwrap();
    assert_eq!(count(&alone, "STAYS-CERT-LOST"), 0);
    assert_eq!(count(&alone, "STAYS-CERT-TPM"), 0);
}

#[test]
fn what_another_set_would_remove_is_said_by_set() {
    let dir = scratch();
    let image = dir.path().join("a.img");
    let mut scene = Scene::new();
    certificates(&mut scene);
    let ini = "[x]\r\nSMS Unique Identifier=GUID:5A3C91D7-0B2E-4F68-9C1D-7E8F60A4B325\r\n";
    scene.volume.file(r"\WINDOWS\SMSCFG.INI", ini);
    scene.write(&image);
    let json = |rules: &str| {
        let ran = declone(&["scan", arg(&image), "--rules", rules, "--json", "-"]).exits(1);
        ran.json()["images"][0].clone()
    };
    let sms = json("sms");
    let others = sms["other_ids"].as_array().unwrap();
    assert_eq!(others.len(), 1, "{others:#?}");
    assert_eq!(others[0]["set"], "ccm");
    assert_eq!(others[0]["count"], 6);
    assert_eq!(others[0]["rules"], serde_json::json!(["ccm.cert"]));
    assert!(found(&serde_json::json!({ "images": [sms] }), "ccm.cert").is_empty());
    assert_eq!(json("sms,ccm")["other_ids"], serde_json::json!([]));
    let cfg = json("machine,ccm.cert")["other_ids"].clone();
    assert_eq!(cfg[0]["rules"], serde_json::json!(["sms.cfg"]), "{cfg:#?}");
}

#[test]
fn rules_remove_in_system_and_its_copies_and_below_names_with_a_dollar() {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.img"), dir.path().join("b.img"));
    let file = dir.path().join("own.toml");
    let rule = |id: &str, target: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\nprofile = \"own\"\ntitle = \"t\"\nstep = \"s\"\n\
             action = \"delete\"\nconfidence = \"A\"\nsources = [\"d\"]\nrationale = \"r\"\n\
             target = {target}\n\n"
        )
    };
    let value =
        r#"{ kind = "value", hive = "system", key = ["{CS}", "Services", "Own"], value = "Id" }"#;
    let path = r#"{ kind = "file-at", path = ["$WINDOWS.~BT", "own.dat"] }"#;
    fs::write(
        &file,
        [rule("own.id", value), rule("own.file", path)].concat(),
    )
    .unwrap();
    let mut scene = Scene::new();
    for set in ["ControlSet001", "ControlSet002"] {
        scene
            .system
            .key(&format!(r"{set}\Services\Own"))
            .string("Id", "GOES-SYSTEM-0123456789")
            .string("Ids", "STAYS-SYSTEM-0123456789");
    }
    let copy = scene.system.build();
    let config = r"\WINDOWS\system32\config";
    scene
        .volume
        .file(&format!(r"{config}\RegBack\SYSTEM"), copy.clone());
    scene.volume.file(
        &format!(r"{config}\SYSTEM.LOG1"),
        [b"regf".to_vec(), put::utf16("GOES-SYSTEM-0123456789")].concat(),
    );
    let restored = r"\System Volume Information\_restore{1}\RP1\snapshot\_REGISTRY_MACHINE_SYSTEM";
    scene.volume.file(restored, copy);
    scene
        .volume
        .file(r"\$WINDOWS.~BT\own.dat", "GOES-FILE-0123456789-0123456789")
        .non_resident();
    scene.write(&image);
    let rules = arg(&file);
    let ran = declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--rules",
        rules,
        "--json",
        "-",
    ])
    .exits(0);
    let json = ran.json();
    assert_eq!(found(&json, "own.id").len(), 6, "{json:#}");
    assert_eq!(found(&json, "own.file").len(), 1);
    assert_eq!(
        json["images"][0]["done"]["hives"].as_array().unwrap().len(),
        3
    );
    let (before, after) = (fs::read(&image).unwrap(), fs::read(&out).unwrap());
    for mark in ["GOES-SYSTEM", "GOES-FILE"] {
        assert!(
            count(&before, mark) > 0 && count(&after, mark) == 0,
            "{mark}"
        );
    }
    assert_eq!(
        count(&before, "STAYS-SYSTEM"),
        count(&after, "STAYS-SYSTEM")
    );
    declone(&["scan", arg(&out), "--rules", rules]).exits(0);
}

#[test]
fn an_old_tag_is_no_promise_and_a_domain_controller_never_an_image() {
    let dir = scratch();
    let image = dir.path().join("a.img");
    let text = |kind: &str, command: &str| {
        let mut scene = Scene::new();
        scene
            .software
            .key(r"Microsoft\Windows NT\CurrentVersion")
            .string("CurrentVersion", "5.2")
            .string("CurrentBuildNumber", "3790");
        scene
            .system
            .key("Setup")
            .dword("SetupType", 2)
            .string("CmdLine", command)
            .string("CloneTag", "Fri Sep 29 06:49:45 2000");
        scene
            .system
            .key(r"ControlSet001\Control\ProductOptions")
            .string("ProductType", kind);
        scene.write(&image);
        declone(&["scan", arg(&image)]).out
    };
    let old = text("ServerNT", "cmd.exe");
    assert!(old.contains("generalized: UNKNOWN (unknown)"), "{old}");
    assert!(old.contains("CloneTag tells of a Sysprep on"), "{old}");
    assert!(text("ServerNT", "setup -newsetup -mini").contains("generalized: yes"));
    let controller = text("LanmanNT", "setup -newsetup -mini");
    assert!(controller.contains("generalized: UNKNOWN"), "{controller}");
    assert!(
        controller.contains("never supported as an image"),
        "{controller}"
    );
}
