//! Tests of the loader and of what ships.

use super::{
    load::{MAX_FILE_LEN, MAX_RULES},
    *,
};
use crate::error::Kind;

const GOOD: &str = r#"
[[rule]]
id = "x.one"
profile = "x"
title = "One"
step = "Remove it."
action = "delete"
confidence = "A"
sources = ["a document"]
rationale = "Because."
target = { kind = "file-anywhere", name = "one.dat" }
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let error = load(&GOOD.replace(from, to), "mine.toml").expect_err(to);
    assert_eq!(error.kind(), Kind::Malformed, "{error}");
    error.to_string()
}

fn sms() -> Vec<Rule> {
    select(&["sms".to_owned()]).unwrap()
}

#[test]
fn every_embedded_rule_loads() {
    let all = embedded().unwrap();
    assert!(all.iter().any(|rule| rule.profile == "sms"));
    for rule in &all {
        let known = ["agents", "audit", "ccm", "machine", "sms", "sms-advanced"];
        assert!(known.contains(&rule.profile.as_str()), "{}", rule.id);
    }
}

#[test]
fn the_default_profile_is_what_the_articles_remove() {
    let deletes: Vec<_> = sms()
        .into_iter()
        .filter(|rule| rule.effective_action() == Action::Delete)
        .map(|rule| (rule.target, rule.sources[0].clone()))
        .collect();
    let key = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let properties = [
        "{SW}",
        "Microsoft",
        "SMS",
        "Client",
        "Configuration",
        "Client Properties",
    ];
    let file = |name: &str| Target::FileAnywhere {
        name: name.to_owned(),
    };
    let want = [
        Target::Value {
            hive: HiveName::Software,
            key: key(&properties),
            value: "SMS Unique Identifier".to_owned(),
            also: Vec::new(),
        },
        Target::Subkeys {
            hive: HiveName::Software,
            key: key(&["{SW}", "Microsoft", "NAL", "Client", "AbExprtDB"]),
        },
        file("Smsuid.dat"),
        file("Smscfg.ini"),
        file("Sms1x.ini"),
    ];
    assert_eq!(deletes, want.map(|target| (target, "KB 828367".to_owned())));
}

#[test]
fn the_ini_of_sms_1_is_only_reported_and_only_at_a_root() {
    let rules = sms();
    let rule = rules.iter().find(|rule| rule.id == "sms.ini").unwrap();
    assert_eq!(rule.effective_action(), Action::Report);
    assert_eq!(
        rule.target,
        Target::FileAtRoot {
            name: "Sms.ini".to_owned()
        }
    );
    assert_eq!(rules.len(), 6);
}

#[test]
fn software_keys_are_looked_for_in_both_views() {
    let rules = sms();
    let paths = rules[1].target.key_paths();
    let joined: Vec<_> = paths.iter().map(|path| path.join("\\")).collect();
    assert_eq!(
        joined,
        [
            r"Microsoft\NAL\Client\AbExprtDB",
            r"Wow6432Node\Microsoft\NAL\Client\AbExprtDB"
        ]
    );
    assert!(rules[2].target.key_paths().is_empty());
}

#[test]
fn hearsay_never_deletes_and_a_script_only_when_asked_for() {
    assert!(refusal("\"A\"", "\"B\"").contains("is for confidence A"));
    let named = GOOD.replace("\"delete\"", "\"delete-if-named\"");
    let mut rule = load(&named.replace("\"A\"", "\"B\""), "x")
        .unwrap()
        .remove(0);
    assert_eq!(rule.effective_action(), Action::Report);
    rule.named = true;
    assert_eq!(rule.effective_action(), Action::Delete);
    rule.confidence = Confidence::C;
    assert_eq!(rule.effective_action(), Action::Report);
    rule.action = Action::Delete;
    assert_eq!(rule.effective_action(), Action::Report);
    let (_, problems) = check_text(&named.replace("\"A\"", "\"C\""));
    assert!(problems[0].what.contains("confidence C"), "{problems:?}");
}

#[test]
fn every_problem_of_a_file_is_said_at_once_with_its_place() {
    let text = r#"[[rule]]
id = "x.one"
profile = "x"
title = ""
step = "Remove it."
action = "delete"
confidence = "B"
sources = ["a document"]
rationale = "Because."
sauce = 1
target = { kind = "value", hive = "software", key = ["HKLM", "SOFTWARE"], value = "a*" }

[[rule]]
id = "x.one"
profile = "x"
title = "Two"
step = "Remove it."
action = "report"
confidence = "A"
sources = []
target = { kind = "registry", hive = "software" }
"#;
    let (rules, problems) = check_text(text);
    assert!(rules.is_empty());
    let found: Vec<(usize, usize, &str)> = problems
        .iter()
        .map(|p| (p.line, p.column, p.what.split(':').next().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (4, 9, "title"),
            (6, 10, "action"),
            (10, 1, "sauce"),
            (11, 54, "target.key"),
            (11, 83, "target.value"),
            (13, 1, "rationale"),
            (14, 6, "id"),
            (20, 11, "sources"),
            (21, 19, "target.kind"),
        ],
        "{problems:#?}"
    );
    // A broken rule hides nothing that stands before it.
    let cut = text.replace(
        "id = \"x.one\"\nprofile = \"x\"\ntitle = \"Two\"",
        "id = \"x.one\ntitle = 1",
    );
    let (_, problems) = check_text(&cut);
    let lines: Vec<usize> = problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [4, 6, 10, 11, 11, 14], "{problems:#?}");
    // Columns are characters.
    let (_, problems) = check_text(&GOOD.replace("\"One\"", "\"\u{e4}\u{1f511}\", x = 1"));
    assert_eq!((problems.len(), problems[0].line), (1, 5), "{problems:?}");
}

#[test]
fn any_bytes_are_a_file_of_rules_or_a_list_of_problems() {
    let whole = include_str!("sms.toml");
    for cut in (0..whole.len()).step_by(7) {
        let (rules, problems) = check_text(&whole[..cut]);
        assert!(!rules.is_empty() || !problems.is_empty(), "{cut}");
    }
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.as_bytes().to_vec();
        bytes[at] = b"=[]{}\"\n0"[at % 8];
        let (_, problems) = check_text(std::str::from_utf8(&bytes).unwrap());
        assert!(problems.iter().all(|p| p.line >= 1 && p.column >= 1));
    }
}

#[test]
fn a_broken_rule_is_refused_by_name_and_field() {
    let unknown = refusal("rationale", "sauce = 1\nrationale");
    assert!(
        unknown.contains("rules mine.toml:10:1: rule `x.one`: "),
        "{unknown}"
    );
    assert!(unknown.contains("`sauce`"), "{unknown}");
    assert!(refusal("name = \"one.dat\"", "name = \"a\", key = []").contains("`key`"));
    assert!(refusal("title = \"One\"\n", "").contains("`title`"));
    assert!(refusal("id = \"x.one\"\n", "").contains("rule number 1: "));
    assert!(refusal("\"delete\"", "\"wipe\"").contains("`wipe`"));
    assert!(refusal("\"A\"", "\"D\"").contains("`D`"));
    assert!(refusal("file-anywhere", "file-somewhere").contains("`file-somewhere`"));
    assert!(refusal("[\"a document\"]", "[]").contains("sources: at least one"));
    assert!(refusal("Remove it.", " ").contains("step: text"));
    assert!(refusal("x.one", "X one").contains("id: 1 to 64"));
    assert!(refusal("Because.", "a\\nb").contains("rationale: one line"));
    assert!(refusal("[[rule]]", "[[rules]]").contains("`rules`"));
    assert!(refusal("title = \"One\"", "title = One").contains(":5:"));
}

#[test]
fn a_name_is_one_name() {
    for (name, found) in [
        ("*.dat", "a wildcard"),
        ("one.da?", "a wildcard"),
        ("dir\\\\one.dat", "a path separator"),
        ("dir/one.dat", "a path separator"),
        ("", "an empty name"),
        ("..", "a directory reference"),
        ("{CS}", "an unknown placeholder"),
        ("a\\u0000b", "a control character"),
        ("$MFT", "a name of the file system"),
    ] {
        let text = refusal("one.dat", name);
        assert!(text.contains("target.name: "), "{text}");
        assert!(text.contains(found), "{text}");
    }
    assert!(refusal("one.dat", &"a".repeat(256)).contains("longer name"));
    assert!(refusal("one.dat", "$logfile").contains("a name of the file system"));
    for name in ["$Recycle.Bin", "$WINDOWS.~BT", "$x"] {
        assert_eq!(
            load(&GOOD.replace("one.dat", name), "mine.toml")
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn a_key_is_a_list_of_names_below_the_root() {
    let with = |target: &str| {
        let old = "{ kind = \"file-anywhere\", name = \"one.dat\" }";
        load(&GOOD.replace(old, target), "x")
    };
    let refused = |target: &str, why: &str| {
        let text = with(target).expect_err(target).to_string();
        assert!(text.contains(why), "{text}");
    };
    let subkeys =
        |hive: &str, key: &str| format!("{{ kind = \"subkeys\", hive = \"{hive}\", key = {key} }}");
    refused(
        &subkeys("system", r#"["{SW}", "a", "b"]"#),
        "hive software only",
    );
    refused(&subkeys("software", r#"["{SW}"]"#), "below the root");
    refused(&subkeys("software", "[]"), "below the root");
    refused(
        &subkeys("software", r#"["{SW}", "Microsoft"]"#),
        "that is emptied",
    );
    refused(&subkeys("software", r#"["a", "{SW}", "b"]"#), "placeholder");
    refused(
        &subkeys("software", r#"["a\\b", "c", "d"]"#),
        "path separator",
    );
    refused(&subkeys("software", r#"["a", "b*", "d"]"#), "wildcard");
    refused(&subkeys("hardware", r#"["a", "b", "d"]"#), "`hardware`");
    let guid = r#"["a", "{9b03c1d9-3138-44ed-9fae-d9f4c034b88d}", "d"]"#;
    assert!(with(&subkeys("software", guid)).is_ok());
}

#[test]
fn an_id_is_used_once() {
    let error = load(&GOOD.repeat(2), "x").unwrap_err().to_string();
    assert!(error.contains("rule `x.one`: id: "), "{error}");
}

#[test]
fn limits_are_limits() {
    let long = load(&" ".repeat(MAX_FILE_LEN + 1), "x").unwrap_err();
    assert_eq!(long.kind(), Kind::Limit);
    let many = load(&GOOD.repeat(MAX_RULES + 1), "x").unwrap_err();
    assert_eq!(many.kind(), Kind::Limit);
    assert!(load("", "x").is_err());
}

#[test]
fn an_unknown_set_names_the_known_ones() {
    let error = select(&["sms".to_owned(), "smss\u{1b}".to_owned()]).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let text = error.to_string();
    assert!(
        text.contains("`smss\\u{1b}`")
            && text.contains("known sets: agents, audit, ccm, machine, sms, sms-advanced, all"),
        "{text}"
    );
    assert_eq!(select(&[]).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_rule_survives_json() {
    for rule in embedded().unwrap() {
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
    }
}

#[test]
fn sets_ids_and_files_are_one_selection() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let both = select(&names(&["sms", "ccm"])).unwrap();
    let cfg = both.iter().filter(|rule| rule.id == "sms.cfg").count();
    assert_eq!(cfg, 1);
    assert!(both.iter().any(|rule| rule.id == "ccm.cert"));
    // Reported with its set, removed by its id.
    let action = |names: &[String]| {
        let rules = select(names).unwrap();
        let rule = rules.iter().find(|rule| rule.id == "mcafee.guid");
        rule.map(Rule::effective_action)
    };
    assert_eq!(action(&names(&["agents"])), Some(Action::Report));
    assert_eq!(action(&names(&["all"])), Some(Action::Report));
    assert_eq!(
        action(&names(&["sms", "mcafee.guid"])),
        Some(Action::Delete)
    );
    assert_eq!(action(&names(&["sms"])), None);
    let own = load(GOOD, "mine.toml").unwrap();
    let all = combine(&names(&["sms"]), own.clone()).unwrap();
    assert_eq!(all.len(), 7);
    assert!(combine(&names(&["sms"]), [own.clone(), own].concat()).is_err());
}

#[test]
fn the_advanced_client_loses_certificates_keys_site_and_ini() {
    let ids = |set: &str| -> Vec<String> {
        let rules = select(&[set.to_owned()]).unwrap();
        let deletes = rules
            .into_iter()
            .filter(|rule| rule.effective_action() == Action::Delete);
        deletes.map(|rule| rule.id).collect()
    };
    let want = ["sms.cfg", "ccm.cert", "ccm.key", "ccm.site"];
    assert_eq!(ids("sms-advanced"), want);
    // The capture step empties the cache, too.
    let caches = ["ccm.cache", "ccm.cache-2007", "ccm.cache-2007-wow"];
    assert_eq!(ids("ccm"), [&want[..], &caches].concat());
    for set in ["agents", "audit", "machine"] {
        assert!(ids(set).is_empty(), "{set}");
    }
}

#[test]
fn control_sets_and_guids_are_for_rules_that_report() {
    let with = |action: &str, target: &str| {
        let old = "{ kind = \"file-anywhere\", name = \"one.dat\" }";
        let text = GOOD.replace(old, target);
        check_text(&text.replace("\"delete\"", &format!("\"{action}\"")))
    };
    let value = |hive: &str, key: &str| {
        format!("{{ kind = \"value\", hive = \"{hive}\", key = {key}, value = \"x\" }}")
    };
    let good = |target: &str| assert_eq!(with("report", target).1, []);
    let bad = |action: &str, target: &str, why: &str| {
        let (_, problems) = with(action, target);
        assert!(
            problems.iter().any(|p| p.what.contains(why)),
            "{problems:?}"
        );
    };
    good(&value("system", r#"["{CS}", "Services", "x"]"#));
    good(&value("software", r#"["Microsoft", "{GUID}"]"#));
    good(&value("sam", r#"["SAM", "Domains"]"#));
    assert_eq!(
        with("delete", &value("system", r#"["{CS}", "Services"]"#)).1,
        []
    );
    bad(
        "delete",
        &value("sam", r#"["SAM", "Domains"]"#),
        "hive software or system expected",
    );
    for key in [r#"["Select"]"#, r#"["ControlSet001", "Services"]"#] {
        bad("delete", &value("system", key), "{CS} expected first");
    }
    bad(
        "delete",
        &value("software", r#"["a", "{GUID}"]"#),
        "exact names",
    );
    bad(
        "report",
        &value("software", r#"["{CS}", "a"]"#),
        "hive system only",
    );
    bad(
        "report",
        &value("system", r#"["CurrentControlSet", "a"]"#),
        "{CS}",
    );
    bad(
        "report",
        &value("software", r#"["software", "a"]"#),
        "hive's root",
    );
    bad(
        "report",
        &value("software", r#""Microsoft""#),
        "a list of texts",
    );
    bad(
        "delete",
        r#"{ kind = "mentions", path = ["a", "b"] }"#,
        "never removed",
    );
    bad(
        "delete",
        r#"{ kind = "folder", path = ["a"] }"#,
        "at least 2 names",
    );
    bad(
        "report",
        r#"{ kind = "file-at", path = ["a"] }"#,
        "at least 2 names",
    );
    bad(
        "report",
        r#"{ kind = "key-container", container = "\u00fc" }"#,
        "ASCII",
    );
}
