//! What lies in `fixtures/` is what the recipes build, byte for byte.

use crate::support::{fixtures, pack};

#[test]
fn fixtures_are_what_the_recipe_builds() {
    for fixture in &fixtures::ALL {
        let packed = fixtures::packed(fixture.name)
            .unwrap_or_else(|e| panic!("{}: {e}; run: cargo run --example fixtures", fixture.name));
        let mut built = fixtures::build(fixture).expect("a temporary file");
        let fresh = pack::pages(&mut built).expect("read back");
        let stored = pack::inflate(&packed).expect("a whole fixture");
        assert!(fresh == stored, "{} differs from its recipe", fixture.name);
    }
}

#[test]
fn the_folder_holds_nothing_else() {
    let mut found: Vec<String> = std::fs::read_dir(fixtures::folder())
        .expect("the fixtures folder")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let mut wanted: Vec<String> = fixtures::ALL
        .iter()
        .map(|f| format!("{}.pack", f.name))
        .collect();
    wanted.push("README.md".into());
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn fixtures_stay_small() {
    for fixture in &fixtures::ALL {
        let len = fixtures::packed(fixture.name).expect("the fixture").len();
        assert!(len <= 100 * 1024, "{}: {len} bytes", fixture.name);
    }
}
