//! Arguments as typed -> as meant -> one call -> exit code. The only user of clap and anyhow.
//!
//! In: `argv`. Out: text on the given writer, an exit code. Knows: everything.
//! Never: touches bytes of an image.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{
    error::{Error, Kind, Result},
    image::Options,
    report::{Document, ErrorFacts, ImageReport, text},
    rules::{self, Rule},
};

mod clean;
mod facts;
mod progress;
mod scan;
mod verify;

/// Takes the cloned machine identity out of a captured Windows image, offline, and proves that it
/// is gone.
#[derive(Debug, Parser)]
#[command(name = "declone", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, or nothing found; 1 found something (scan, verify); 2 wrong usage;
3 refused, unsafe state; 4 malformed or unsupported input; 5 I/O error; 6 interrupted;
7 verification failed; 8 limit hit; 70 internal error. All but 0, 1 and 6 mean: the input is
byte-identical to what it was.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look only: partitions, volumes, Windows installations, safety state, findings
    Scan(ScanArgs),
    /// Remove the identity: write a cleaned copy, or with -n only plan and verify
    Clean(CleanArgs),
    /// Look again with fresh eyes: rules, and a raw search of every byte
    Verify(VerifyArgs),
    /// Show what identifies a machine, with sources
    Rules {
        #[command(subcommand)]
        verb: RulesVerb,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
struct Common {
    /// Rule sets (profiles), separated by commas, or a file with rules
    #[arg(long, value_name = "SET[,SET]|FILE", default_value = "sms")]
    rules: String,
    /// Do not probe the container format, take this one
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Look at this partition only
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Write the result as JSON to FILE, or to standard output with "-" (then no text)
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Print no text and no progress
    #[arg(long, short)]
    quiet: bool,
    /// Hash whole files
    #[arg(long, value_enum, value_name = "ALGORITHM")]
    hash: Option<Hash>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Hash {
    Sha256,
}

#[derive(Debug, Args)]
struct ScanArgs {
    /// Disk images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct CleanArgs {
    /// Disk image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Write the cleaned image here; the input stays as it is
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Plan, stage and verify everything; write nothing
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
    /// Clean the image itself (not in this version)
    #[arg(long, conflicts_with = "output")]
    in_place: bool,
    /// Also search every data extent of the image, and zero hits in free clusters
    #[arg(long)]
    prove: bool,
    /// Replace an existing OUT
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Disk image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Also search for what this JSON report of `clean` removed
    #[arg(long, value_name = "REPORT")]
    against: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum RulesVerb {
    /// One line a rule
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Everything about one rule
    Show {
        /// The rule's id
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Load a file of rules and say what is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Common {
    fn options(&self) -> Options {
        Options {
            format: self.format.clone(),
            partition: self.partition,
        }
    }

    fn rules(&self) -> Result<Vec<Rule>> {
        let path = Path::new(&self.rules);
        if self.rules.ends_with(".toml") || self.rules.contains('/') {
            return load_rules(path);
        }
        let sets: Vec<String> = self
            .rules
            .split(',')
            .map(|set| set.trim().to_owned())
            .collect();
        rules::select(&sets)
    }

    /// Refuses a report that would overwrite a file of this run: the report's file is emptied first.
    fn check_report<'a>(&'a self, others: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
        let Some(report) = self.json.as_deref().filter(|path| *path != Path::new("-")) else {
            return Ok(());
        };
        let shown = crate::text::escape(&report.display().to_string());
        let wrong = |what| Error::new(Kind::Usage, format!("--json {shown}: {what}"));
        if report.is_symlink() && !report.exists() {
            return Err(wrong("a file expected, found a link that leads nowhere"));
        }
        let rules = Path::new(&self.rules);
        if others
            .map(PathBuf::as_path)
            .chain([rules])
            .any(|other| same_file(report, other))
        {
            return Err(wrong("a file of its own expected, this run uses it")
                .advise("the report replaces what is in that file"));
        }
        Ok(())
    }

    fn progress(&self) -> progress::Bar {
        progress::Bar::new(self.quiet || self.json.as_deref() == Some(Path::new("-")))
    }
}

fn load_rules(path: &Path) -> Result<Vec<Rule>> {
    let shown = crate::text::escape(&path.display().to_string());
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::new(Kind::Usage, format!("rules {shown}: {e}")))?;
    rules::load(&text, &shown)
}

/// Whether two paths lead to one file, by any name; or will, when it is made.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let made_at = |path: &Path| {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    made_at(a).is_some_and(|at| made_at(b) == Some(at))
}

/// The exit code of a kind of failure.
#[must_use]
pub fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::Refused => 3,
        Kind::Malformed | Kind::Unsupported => 4,
        Kind::Io => 5,
        Kind::Interrupted => 6,
        Kind::Verification => 7,
        Kind::Limit => 8,
        Kind::Internal => 70,
    }
}

/// Runs declone with these arguments (the first is the program's name). Text goes to `out`,
/// errors and progress to standard error.
pub fn run<I, T>(args: I, out: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe must not turn help into a panic.
            if error.use_stderr() {
                write!(std::io::stderr(), "{}", error.render()).ok();
            } else {
                write!(out, "{}", error.render()).ok();
            }
            return code;
        }
    };
    match dispatch(&cli, out) {
        Ok(code) => code,
        Err(error) => {
            writeln!(std::io::stderr(), "declone: {error:#}").ok();
            error
                .downcast_ref::<Error>()
                .map_or(5, |e| exit_code(e.kind()))
        }
    }
}

fn dispatch(cli: &Cli, out: &mut dyn Write) -> anyhow::Result<u8> {
    if let Verb::Scan(_) | Verb::Clean(_) | Verb::Verify(_) = &cli.verb {
        crate::apply::interrupt::install()?;
    }
    match &cli.verb {
        Verb::Scan(args) => {
            args.common.check_report(args.images.iter())?;
            let rules = args.common.rules()?;
            let reports: Vec<ImageReport> = args
                .images
                .iter()
                .map(|image| scan::run(image, &args.common, &rules))
                .collect();
            finish(&args.common, &reports, &rules, out)
        }
        Verb::Clean(args) => {
            let rules = args.common.rules()?;
            clean::check_usage(args)?;
            args.common
                .check_report([&args.image].into_iter().chain(&args.output))?;
            let report = guarded("clean", &args.image, |report| {
                clean::run(args, &rules, report)
            });
            finish(&args.common, &[report], &rules, out)
        }
        Verb::Verify(args) => {
            args.common
                .check_report([&args.image].into_iter().chain(&args.against))?;
            let rules = args.common.rules()?;
            let report = guarded("verify", &args.image, |report| {
                verify::run(args, &rules, report)
            });
            finish(&args.common, &[report], &rules, out)
        }
        Verb::Rules { verb } => show_rules(verb, out),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "declone", &mut script);
            print(out, &script)?;
            Ok(0)
        }
        Verb::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .context("manual page")?;
            print(out, &page)?;
            Ok(0)
        }
    }
}

/// Runs one image; an error, or a bug caught as a panic, becomes part of its report.
fn guarded(
    verb: &'static str,
    path: &Path,
    work: impl FnOnce(&mut ImageReport) -> Result<()>,
) -> ImageReport {
    let mut report = ImageReport {
        path: crate::text::escape(&path.display().to_string()),
        verb,
        ..ImageReport::default()
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut report)));
    let error = match result {
        Ok(Ok(())) => return report,
        Ok(Err(error)) => error,
        Err(cause) => Error::internal(format!("a bug of declone was caught: {}", said(&*cause)))
            .advise("nothing was written; please report it"),
    };
    report.exit_code = exit_code(error.kind());
    report.result = if error.kind() == Kind::Refused {
        "refused"
    } else {
        "failed"
    };
    report.errors.push(ErrorFacts::from(&error));
    report
}

/// What a panic said.
fn said(cause: &(dyn std::any::Any + Send)) -> &str {
    cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Prints text and JSON; the highest code wins.
fn finish(
    common: &Common,
    reports: &[ImageReport],
    rules: &[Rule],
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let code = reports
        .iter()
        .map(|report| report.exit_code)
        .max()
        .unwrap_or(0);
    let to_stdout = common.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &common.json {
        let document = Document {
            declone: env!("CARGO_PKG_VERSION"),
            schema: 1,
            exit_code: code,
            images: reports,
        };
        let mut json = serde_json::to_vec_pretty(&document).context("JSON")?;
        json.push(b'\n');
        if to_stdout {
            print(out, &json)?;
        } else {
            crate::apply::write_report(path, &json)?;
        }
    }
    if !common.quiet && !to_stdout {
        let mut shown = String::new();
        for (i, report) in reports.iter().enumerate() {
            if i > 0 {
                shown.push('\n');
            }
            text::write(&mut shown, report, rules).context("report")?;
        }
        print(out, shown.as_bytes())?;
    } else if common.quiet {
        for error in reports.iter().flat_map(|report| &report.errors) {
            writeln!(std::io::stderr(), "declone: {}", error.what).ok();
        }
    }
    Ok(code)
}

/// A closed pipe (`declone scan x | head -1`) is the reader's decision, not an error.
fn print(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::io("standard output", &e)),
        Ok(()) => Ok(()),
    }
}

fn show_rules(verb: &RulesVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let mut shown = String::new();
    match verb {
        RulesVerb::List { json } => {
            let all = rules::embedded()?;
            if *json {
                shown = serde_json::to_string_pretty(&all).context("JSON")? + "\n";
            } else {
                for rule in &all {
                    let action = format!("{:?}", rule.effective_action()).to_lowercase();
                    shown.push_str(&format!(
                        "{:<14} {:<8} {:<7} {}\n",
                        rule.id, rule.profile, action, rule.title
                    ));
                }
            }
        }
        RulesVerb::Show { id, json } => {
            let all = rules::embedded()?;
            let rule = all.iter().find(|rule| rule.id == *id).ok_or_else(|| {
                Error::new(
                    Kind::Usage,
                    format!("rule: no rule has the id {}", crate::text::escape(id)),
                )
                .advise("declone rules list shows them")
            })?;
            shown = if *json {
                serde_json::to_string_pretty(rule).context("JSON")? + "\n"
            } else {
                describe_rule(rule)
            };
        }
        RulesVerb::Check { file } => {
            let rules = load_rules(file)?;
            shown.push_str(&format!("{} rules, all good\n", rules.len()));
        }
    }
    print(out, shown.as_bytes())?;
    Ok(0)
}

fn describe_rule(rule: &Rule) -> String {
    use crate::rules::Target;
    let target = match &rule.target {
        Target::Value { value, .. } => paths(rule, &format!(", value \"{value}\"")),
        Target::Subkeys { .. } => paths(rule, ", every subkey"),
        Target::FileAnywhere { name } => format!("every file named {name}, in any case"),
        Target::FileAtRoot { name } => format!("the file {name} in a volume's root"),
    };
    format!(
        "{}: {}\n  profile     {}\n  target      {target}\n  action      {:?}\n  confidence  {:?}\n  \
         sources     {}\n  step        {}\n  why         {}\n",
        rule.id,
        rule.title,
        rule.profile,
        rule.effective_action(),
        rule.confidence,
        rule.sources.join(", "),
        rule.step,
        rule.rationale
    )
}

fn paths(rule: &Rule, tail: &str) -> String {
    let all: Vec<String> = rule
        .target
        .key_paths()
        .iter()
        .map(|path| format!("{}{tail}", path.join("\\")))
        .collect();
    all.join("\n              ")
}

/// Whether standard error is a terminal: only then is there progress.
fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}
