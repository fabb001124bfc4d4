//! The judges that are other programs: check_hive.py (structure, leftovers, tokens), reglookup and
//! hivexml (the tree). What one of them cannot read before the edit it need not read afterwards,
//! but must not read worse; that is told by name, never silent.

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};

use super::engine::Run;

/// A line of reglookup that is longer holds a value that it may read wrongly.
const LARGE: usize = 16_344;

/// What the judges could not do with a hive even before the edit.
pub type Remarks = std::collections::BTreeSet<String>;

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path)?.write_all(bytes)?;
    Ok(())
}

fn call(program: &str, args: &[&str], file: &Path) -> Result<Output> {
    Command::new(program)
        .args(args)
        .arg(file)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .with_context(|| format!("{program} is needed"))
}

/// Letters and digits among the bytes, folded: what every reader writes alike.
fn plain(bytes: impl Iterator<Item = u8>) -> String {
    bytes
        .filter(u8::is_ascii_alphanumeric)
        .map(|byte| char::from(byte.to_ascii_uppercase()))
        .collect()
}

/// The path of a line of reglookup, `%XX` taken out.
fn plain_line(line: &str) -> String {
    let path = line.split(',').next().unwrap_or_default();
    let mut bytes = path.bytes();
    let mut plain_bytes = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            let code = std::str::from_utf8(&pair).ok();
            plain_bytes.extend(code.and_then(|c| u8::from_str_radix(c, 16).ok()));
        } else {
            plain_bytes.push(byte);
        }
    }
    plain(plain_bytes.into_iter())
}

/// The lines of `before` that `after` lacks, if `after` is `before` with lines left out.
fn left_out(before: &[String], after: &[String]) -> Result<Vec<String>> {
    let mut rest = after.iter().peekable();
    let mut out = Vec::new();
    for line in before {
        if rest.peek().is_some_and(|next| *next == line) {
            rest.next();
        } else {
            out.push(line.clone());
        }
    }
    match rest.next() {
        None => Ok(out),
        Some(line) => anyhow::bail!("a line that was not there, or elsewhere: {line}"),
    }
}

fn reglookup(run: &Run, old: &Path, new: &Path, remarks: &mut Remarks) -> Result<()> {
    let (was, is) = (call("reglookup", &[], old)?, call("reglookup", &[], new)?);
    if !was.status.success() {
        remarks.insert("reglookup refuses it before, too".into());
        return Ok(());
    }
    ensure!(
        is.status.success(),
        "{}",
        String::from_utf8_lossy(&is.stderr)
    );
    let (was, is) = (
        String::from_utf8_lossy(&was.stdout).into_owned(),
        String::from_utf8_lossy(&is.stdout).into_owned(),
    );
    let whole = |text: &str| -> Vec<String> { text.lines().skip(1).map(str::to_owned).collect() };
    let mut before = whole(&was);
    let gone = match left_out(&before, &whole(&is)) {
        Ok(gone) => gone,
        Err(_) => {
            // It misreads big data of hives as captured, too: of long lines the path and type count.
            remarks.insert("reglookup misreads large values: their bytes are not compared".into());
            let path_and_type = |line: &str| -> String {
                let fields = if line.len() > LARGE { 2 } else { usize::MAX };
                line.split(',').take(fields).collect::<Vec<_>>().join(",")
            };
            let cut =
                |text: &str| -> Vec<String> { text.lines().skip(1).map(path_and_type).collect() };
            before = cut(&was);
            left_out(&before, &cut(&is))?
        }
    };
    let mut named: Vec<String> = run
        .removed
        .iter()
        .map(|units| plain(units.iter().flat_map(|unit| unit.to_le_bytes())))
        .collect();
    let mut seen: Vec<String> = gone.iter().map(|line| plain_line(line)).collect();
    let all = run.before.0 + run.before.1;
    if before.len() as u64 == all {
        named.sort();
        seen.sort();
        ensure!(
            seen == named,
            "other keys and values have gone than were named"
        );
    } else {
        remarks.insert(format!("reglookup lists {} of {all} before", before.len()));
        ensure!(
            seen.iter().all(|path| named.contains(path)),
            "more has gone than was named"
        );
    }
    Ok(())
}

fn hivexml(run: &Run, old: &Path, new: &Path, remarks: &mut Remarks) -> Result<()> {
    let counts = |output: &Output| {
        let count = |what: &[u8]| memchr::memmem::find_iter(&output.stdout, what).count() as u64;
        (count(b"<node "), count(b"<value "))
    };
    let (was, is) = (call("hivexml", &[], old)?, call("hivexml", &[], new)?);
    if !was.status.success() {
        remarks.insert("hivexml refuses it before, too".into());
        return Ok(());
    }
    ensure!(
        is.status.success(),
        "{}",
        String::from_utf8_lossy(&is.stderr)
    );
    let ((keys, values), now) = (counts(&was), counts(&is));
    if (keys, values) == run.before {
        let wanted = (keys - run.gone.0, values - run.gone.1);
        ensure!(
            now == wanted,
            "{wanted:?} keys and values expected, found {now:?}"
        );
    } else {
        let text = format!("hivexml lists {keys}, {values} of {:?} before", run.before);
        remarks.insert(text);
        ensure!(
            now.0 + run.gone.0 >= keys && now.1 + run.gone.1 >= values,
            "{now:?}"
        );
    }
    Ok(())
}

/// The interpreter itself: what `python3` names may be a slow script that looks for it.
fn python() -> &'static str {
    static FOUND: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        let args = ["-c", "import sys; print(sys.executable)"];
        let output = Command::new("python3").args(args).output();
        let path = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        path.ok()
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| "python3".into())
    })
}

fn strict(
    run: &Run,
    checker: &Path,
    old: &Path,
    new: &Path,
    allow: &[&str],
    remarks: &mut Remarks,
) -> Result<()> {
    let checker = checker.to_str().context("an ordinary path")?;
    let mut args = vec![checker.to_owned()];
    for rule in allow {
        args.extend(["--allow".into(), (*rule).into()]);
    }
    let look = |args: &[String], file: &Path| -> Result<serde_json::Value> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = call(python(), &args, file)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let was = look(&args, old)?;
    for token in &run.tokens {
        args.extend(["--needle".into(), format!("hex:{}", hex::encode(token))]);
    }
    let is = look(&args, new)?;
    ensure!(
        is["needles"].as_object().is_none_or(|n| n.is_empty()),
        "{}",
        is["needles"]
    );
    for what in ["free_nonzero_bytes", "slack_nonzero_bytes", "tail_nonzero"] {
        let left = is["stats"][what].as_u64().unwrap_or(0);
        ensure!(left == 0, "{what}: {left}");
    }
    let stat = |json: &serde_json::Value, what: &str| json["stats"][what].as_u64().unwrap_or(0);
    if was["verdict"] == "PASS" {
        ensure!(is["verdict"] == "PASS", "{}", is["errors"]);
        let wanted = (run.before.0 - run.gone.0, run.before.1 - run.gone.1);
        let now = (stat(&is, "keys"), stat(&is, "values"));
        ensure!(
            now == wanted,
            "{wanted:?} keys and values expected, found {now:?}"
        );
    } else {
        let rules = was["failed_rules"].as_object().context("failed rules")?;
        let names: Vec<&str> = rules.keys().map(String::as_str).collect();
        remarks.insert(format!("check_hive.py: {} before, too", names.join(" ")));
        for (rule, count) in is["failed_rules"].as_object().context("failed rules")? {
            let before = rules.get(rule).and_then(|n| n.as_u64()).unwrap_or(0);
            ensure!(
                count.as_u64().unwrap_or(0) <= before,
                "new: {rule} {}",
                is["errors"]
            );
        }
    }
    for (rule, count) in is["warnings"].as_object().context("warnings")? {
        let before = was["warnings"][rule].as_u64().unwrap_or(0);
        ensure!(
            count.as_u64().unwrap_or(0) <= before,
            "new warning: {rule} {count}"
        );
    }
    Ok(())
}

/// Whether check_hive.py finds fault with these bytes.
pub fn finds_fault(bytes: &[u8], folder: &Path, checker: &Path) -> Result<bool> {
    let hive = folder.join("alone.hive");
    save(&hive, bytes)?;
    let args = [checker.to_str().context("an ordinary path")?];
    Ok(!call(python(), &args, &hive)?.status.success())
}

/// All of them on one run.
pub fn judge(
    run: &Run,
    folder: &Path,
    checker: Option<&Path>,
    allow: &[&str],
    remarks: &mut Remarks,
) -> Result<()> {
    let (old, new) = (folder.join("old.hive"), folder.join("new.hive"));
    save(&old, &run.old)?;
    save(&new, &run.new)?;
    if let Some(checker) = checker {
        strict(run, checker, &old, &new, allow, remarks).context("check_hive.py")?;
    }
    reglookup(run, &old, &new, remarks).context("reglookup")?;
    hivexml(run, &old, &new, remarks).context("hivexml")
}

/// What notatin, which applies logs of the new format by itself, makes of a hive and its logs: the
/// lines of [`super::engine::Entry::line`], sorted, and what it says about the logs.
pub fn notatin(
    folder: &Path,
    primary: &[u8],
    logs: &[(&str, &[u8])],
) -> Result<(Vec<String>, String)> {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/witness/release/replay-notatin");
    let hive = folder.join("notatin.hive");
    save(&hive, primary)?;
    let mut command = Command::new(program);
    command.arg(&hive);
    for (number, (_, bytes)) in logs.iter().enumerate() {
        let log = folder.join(format!("notatin.log{number}"));
        save(&log, bytes)?;
        command.arg(log);
    }
    let output = command
        .output()
        .context("replay-notatin is needed: tools/install-witnesses builds it")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout)?;
    let (mut lines, mut path) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some((time, of)) = line
            .strip_prefix("K\t")
            .and_then(|rest| rest.split_once('\t'))
        {
            // In front stand a backslash and the root's own name.
            let below = of.splitn(3, r"\\").nth(2).unwrap_or_default();
            path = below.to_owned();
            lines.push(format!("K\t{time}\t{path}"));
        } else {
            let (rest, name) = line.rsplit_once('\t').context("a value's line")?;
            lines.push(format!("{rest}\t{path}\t{name}"));
        }
    }
    lines.sort();
    Ok((lines, said))
}
