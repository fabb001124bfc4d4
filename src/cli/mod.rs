//! Arguments as typed -> as meant -> one call -> exit code. The only user of clap and anyhow.
//!
//! In: `argv`. Out: text on the given writer, an exit code. Knows: everything.
//! Never: touches bytes of an image.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{
    device::Neighbours,
    error::{Error, Kind, Result},
    image::{ImageIndex, Options},
    report::{Document, ErrorFacts, ImageReport, Phase, schema},
    rules::{self, Rule},
};

mod clean;
mod compare;
mod directory;
mod evidence;
mod facts;
mod fleet;
mod foresee;
mod pages;
mod place;
mod present;
mod progress;
mod recover;
mod scan;
mod seek;
mod show;
mod terms;
mod undo;
mod verify;
mod voice;

use voice::{Voice, finish, finish_comparison, print};

/// Takes the cloned machine identity out of a captured Windows image, offline, and proves that it
/// is gone.
#[derive(Debug, Parser)]
#[command(name = "declone", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, or nothing found; 1 found something (scan, verify, compare); 2 wrong usage;
3 refused, unsafe state; 4 malformed or unsupported input; 5 I/O error; 6 interrupted, an
in-place change waits for `declone recover` (a directory is done in part: run the same again);
7 verification failed; 8 limit hit; 70 internal error. All but 0, 1 and 6 mean: the input is
byte-identical to what it was.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look only: partitions, volumes, Windows installations, safety state, findings
    Scan(ScanArgs),
    /// Remove the identity: write a cleaned copy, or clean the image itself, or only plan and verify
    Clean(CleanArgs),
    /// Look again with fresh eyes: rules, and a raw search of every byte
    Verify(VerifyArgs),
    /// Say which images carry the identity of the same machine
    Compare(CompareArgs),
    /// Finish an in-place change that was interrupted; every verb that writes does it first, too
    Recover(RecoverArgs),
    /// Put back what `clean --in-place --undo FILE` changed, byte for byte
    Undo(UndoArgs),
    /// Show what identifies a machine, with sources
    Rules {
        #[command(subcommand)]
        verb: show::RulesVerb,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Write all pages, those of the commands too, into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the JSON Schema of what --json writes
    Schema,
}

#[derive(Debug, Args)]
struct Common {
    /// Rule sets (profiles), ids of rules, and files with rules (*.toml), separated by commas; a rule asked
    /// for by its id may delete where its set only reports [default: sms; for compare, all]
    #[arg(long, value_name = "SET|ID|FILE,...")]
    rules: Option<String>,
    /// Do not probe the container format, take this one
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// A file that the image may name although it lies elsewhere (a parent disk, an extent)
    #[arg(long, value_name = "PATH")]
    allow_file: Vec<PathBuf>,
    /// Look at this partition only
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Look at this image of an archive (WIM) only, or at all of them, as without it
    #[arg(long, value_name = "N|all", value_parser = image_index, conflicts_with = "partition")]
    image_index: Option<ImageIndex>,
    /// Hash whole files
    #[arg(long, value_enum, value_name = "ALGORITHM")]
    hash: Option<Hash>,
    #[command(flatten)]
    accepted: terms::Accepted,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, Args)]
struct Journal {
    /// Where the journal of a block device lies (that of a file lies beside it)
    #[arg(long = "journal", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl Journal {
    /// A place that is not there is known before the image is read.
    fn check(&self) -> Result<()> {
        match &self.path {
            Some(path) => crate::apply::outputs::check_place("--journal", path),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Hash {
    Sha256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Raw,
}

#[derive(Debug, Args)]
struct ScanArgs {
    /// Disk images, or directories: the root of a mounted volume or of a copy of one
    #[arg(required_unless_present = "list", value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    list: fleet::List,
    /// Look at N images at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Look at every Nth image only, beginning with the Ith: part I of N for one of N hosts
    #[arg(long, value_name = "I/N", value_parser = fleet::Shard::parse)]
    shard: Option<fleet::Shard>,
    #[command(flatten)]
    required: terms::Required,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct CleanArgs {
    /// Disk image, or a directory (then with --in-place)
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Write the cleaned image here; the input stays as it is
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Plan, stage and verify everything; write nothing
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
    /// Clean the image itself; a crash at any moment leaves what `declone recover` finishes
    #[arg(long, conflicts_with = "output")]
    in_place: bool,
    /// Write OUT in this format: the disk inside the image, as a raw file
    #[arg(long, value_name = "FORMAT", conflicts_with = "in_place")]
    to: Option<To>,
    /// With --in-place: first write what changes to FILE, for `declone undo FILE`; it holds the
    /// removed identity
    #[arg(
        long,
        value_name = "FILE",
        requires = "in_place",
        conflicts_with = "dry_run"
    )]
    undo: Option<PathBuf>,
    /// Search every data extent of the image, and zero hits in free clusters; of a WIM, zero whatever
    /// nothing references. This is what clean does unless --quick is given
    #[arg(long, conflicts_with = "quick")]
    prove: bool,
    /// Do not search free space and unchanged files: the verdict says so
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    seek: seek::Seek,
    /// Clean a hive that was not written back completely as it is on disk when no log finishes it;
    /// what only its logs hold is lost
    #[arg(long)]
    accept_dirty: bool,
    /// Clean a WIM with the READONLY flag in its header; the flag stays
    #[arg(long)]
    force_readonly: bool,
    /// Clean a WIM whose header says that another program is writing it, when that program crashed;
    /// the flag stays
    #[arg(long)]
    force_unfinished: bool,
    /// Replace an existing OUT (and nothing else: refusals stay)
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

impl CleanArgs {
    /// Ids of obstacles that the user does not mind, and the option that says so.
    fn waived(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            (self.force_readonly, "wim-readonly", "--force-readonly"),
            (
                self.force_unfinished,
                "wim-write-in-progress",
                "--force-unfinished",
            ),
        ];
        let named = all.into_iter().filter(|(given, _, _)| *given);
        named.map(|(_, id, option)| (id, option)).collect()
    }
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Disk image, or a directory
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Also search for what this JSON report of `clean` removed
    #[arg(long, value_name = "REPORT")]
    against: Option<PathBuf>,
    #[command(flatten)]
    seek: seek::Seek,
    #[command(flatten)]
    required: terms::Required,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct RecoverArgs {
    /// Disk image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Only say whether something waits to be finished (then exit 6)
    #[arg(long)]
    status: bool,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, Args)]
struct UndoArgs {
    /// The file that `clean --in-place --undo FILE` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The image, if it was moved since
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Images, directories, or reports that `scan --json FILE` wrote
    #[arg(required_unless_present = "list", value_name = "IMAGE|REPORT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    list: fleet::List,
    #[command(flatten)]
    common: Common,
}

fn image_index(text: &str) -> std::result::Result<ImageIndex, String> {
    match text {
        "all" => Ok(ImageIndex::All),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(ImageIndex::One(number)),
            _ => Err("a number from 1, or `all`, expected".to_owned()),
        },
    }
}

impl Common {
    fn options(&self, image: &Path) -> Options {
        Options {
            format: self.format.clone(),
            partition: self.partition,
            image_index: self.image_index,
            near: Arc::new(Neighbours::of(image, &self.allow_file)),
        }
    }

    fn rules(&self) -> Result<Vec<Rule>> {
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for named in self.named_rules() {
            match show::is_file(named) {
                true => files.append(&mut show::load_rules(Path::new(named))?),
                false => names.push(named.to_owned()),
            }
        }
        rules::combine(&names, files)
    }

    fn named_rules(&self) -> impl Iterator<Item = &str> {
        self.rules
            .as_deref()
            .unwrap_or("sms")
            .split(',')
            .map(str::trim)
    }

    /// The files that a report must not replace: those named, and the rules.
    fn precious(&self, named: &[&PathBuf]) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = named.iter().map(|path| (*path).clone()).collect();
        let files = self.named_rules().filter(|named| show::is_file(named));
        all.extend(files.map(PathBuf::from));
        all
    }

    fn progress(&self) -> progress::Bar {
        progress::Bar::new(self.voice.is_silent())
    }
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
            let shown = voice::printable(&error.render().to_string());
            if error.use_stderr() {
                write!(std::io::stderr(), "{shown}").ok();
            } else {
                write!(out, "{shown}").ok();
            }
            return code;
        }
    };
    match dispatch(&cli, out) {
        Ok(code) => code,
        Err(error) => {
            voice::complain(&format!("{error:#}"));
            error
                .downcast_ref::<Error>()
                .map_or(5, |e| exit_code(e.kind()))
        }
    }
}

fn dispatch(cli: &Cli, out: &mut dyn Write) -> anyhow::Result<u8> {
    if !matches!(
        &cli.verb,
        Verb::Rules { .. } | Verb::Completions { .. } | Verb::Man { .. } | Verb::Schema
    ) {
        crate::apply::interrupt::install()?;
    }
    match &cli.verb {
        Verb::Scan(args) => {
            let rules = args.common.rules()?;
            let mut images = args.list.inputs(&args.images)?;
            let mut precious = args.common.precious(&images.iter().collect::<Vec<_>>());
            precious.extend(args.list.list.iter().cloned());
            args.common.voice.check(&precious)?;
            if let Some(shard) = args.shard {
                images = shard.take(images);
            }
            let jobs = usize::from(args.jobs);
            let reports = fleet::all(&images, jobs, |image| {
                let terms = args.required.terms(&args.common.accepted);
                let aim = match jobs > 1 {
                    true => scan::Aim::AmongOthers,
                    false => scan::Aim::Alone,
                };
                scan::run(image, &args.common, (&rules, &terms), aim)
            });
            finish(&args.common.voice, reports, &rules, &precious, out)
        }
        Verb::Clean(args) => {
            let rules = args.common.rules()?;
            clean::check_usage(args).map_err(|error| of_image(&args.image, error))?;
            let mut precious = args.common.precious(&[&args.image]);
            precious.extend(args.output.iter().chain(&args.undo).cloned());
            args.common.voice.check(&precious)?;
            let report = guarded("clean", &args.image, |report| {
                report.name_rules(&rules);
                clean::run(args, &rules, report)
            });
            finish(&args.common.voice, vec![report], &rules, &precious, out)
        }
        Verb::Recover(args) => {
            let precious = [args.image.clone()];
            if !args.status {
                args.journal.check()?;
            }
            args.voice.check(&precious)?;
            let report = guarded("recover", &args.image, |report| recover::run(args, report));
            finish(&args.voice, vec![report], &[], &precious, out)
        }
        Verb::Undo(args) => {
            let mut precious = vec![args.file.clone()];
            precious.extend(undo::image_path(args));
            args.journal.check()?;
            args.voice.check(&precious)?;
            let report = guarded("undo", &args.file, |report| undo::run(args, report));
            finish(&args.voice, vec![report], &[], &precious, out)
        }
        Verb::Verify(args) => {
            let rules = args.common.rules()?;
            let mut precious = args.common.precious(&[&args.image]);
            precious.extend(args.against.iter().cloned());
            args.common.voice.check(&precious)?;
            let mut report = guarded("verify", &args.image, |report| {
                verify::run(args, &rules, report)
            });
            report.name_rules(&rules);
            finish(&args.common.voice, vec![report], &rules, &precious, out)
        }
        Verb::Compare(args) => {
            let rules = match &args.common.rules {
                // What identifies nothing cannot be shared.
                None => rules::embedded()?
                    .into_iter()
                    .filter(|rule| rule.identity.is_some())
                    .collect(),
                Some(_) => args.common.rules()?,
            };
            let inputs = args.list.inputs(&args.inputs)?;
            let mut precious = args.common.precious(&inputs.iter().collect::<Vec<_>>());
            precious.extend(args.list.list.iter().cloned());
            args.common.voice.check_comparison(&precious)?;
            let all = compare::run(&inputs, args, &rules)?;
            finish_comparison(&args.common.voice, all, &precious, out)
        }
        Verb::Rules { verb } => show::run(verb, out),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "declone", &mut script);
            print(out, &script)?;
            Ok(0)
        }
        Verb::Man { dir: Some(dir) } => {
            pages::write_all(dir, Cli::command())?;
            Ok(0)
        }
        Verb::Man { dir: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .context("manual page")?;
            print(out, &page)?;
            Ok(0)
        }
        Verb::Schema => {
            let schema = schema::of(&[
                schema::part::<Document<'static>>,
                schema::part::<compare::Comparison>,
            ]);
            let text = serde_json::to_string_pretty(&schema).context("JSON")? + "\n";
            print(out, text.as_bytes())?;
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
        Err(cause) => {
            let what = format!("a bug of declone was caught: {}", said(&*cause));
            if report.phase == Phase::Writing {
                Error::new(Kind::Interrupted, what)
                    .advise(format!("{}, and please report it", report.finisher()))
            } else {
                Error::internal(what).advise("nothing was written; please report it")
            }
        }
    };
    // The image is new and durable: what failed afterwards is told, but the code must not promise
    // that it is unchanged.
    if report.phase != Phase::Changed {
        report.exit_code = exit_code(error.kind());
        report.result = match error.kind() {
            Kind::Refused => "refused",
            Kind::Interrupted => "interrupted",
            _ => "failed",
        };
    }
    report.errors.push(ErrorFacts::from(&error));
    report
}

/// An error that ends the run before there is a report begins with its image, too.
fn of_image(image: &Path, error: Error) -> anyhow::Error {
    let shown = crate::text::escape(&image.display().to_string());
    anyhow::Error::new(error).context(shown)
}

/// What a panic said.
fn said(cause: &(dyn std::any::Any + Send)) -> &str {
    cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Whether standard error is a terminal: only then is there progress.
fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}
