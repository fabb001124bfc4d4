//! Runs the binary as a user would, and keeps scratch files in a directory of its own.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Wall time.
    pub took: Duration,
}

impl Ran {
    /// Fails with everything that was printed unless the code is `want`.
    #[track_caller]
    pub fn exits(self, want: i32) -> Self {
        assert_eq!(
            self.code, want,
            "\n--- out\n{}\n--- err\n{}",
            self.out, self.err
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Runs `declone` with these arguments.
pub fn declone(args: &[&str]) -> Ran {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

/// As [`declone`], and the processor time that it took, which does not depend on what else runs.
pub fn declone_cpu(args: &[&str]) -> (Ran, Duration) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let text = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).expect("readable output");
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = text(Box::new(child.stdout.take().expect("a pipe")));
    let err = text(Box::new(child.stderr.take().expect("a pipe")));
    let (out, err) = (out.join().expect("text"), err.join().expect("text"));
    // Ended, but not waited for yet: the kernel still knows its times.
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_child(&child);
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .expect("a child");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("its times");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    // proc(5): fields 14 and 15, user and system time, in hundredths of a second.
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    let status = child.wait().expect("its end");
    let ran = Ran {
        code: status.code().unwrap_or(-1),
        out,
        err,
        took: started.elapsed(),
    };
    (ran, Duration::from_millis(ticks * 10))
}

/// A directory that goes away with the test.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("test names are UTF-8"))
        .collect();
    names.sort();
    names
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// SHA-256 of a file.
pub fn digest(path: &Path) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(std::fs::read(path).expect("readable")))
}

/// Where the samples made by others are, if this machine has them. Says so when it has not.
pub fn samples(test: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("DECLONE_SAMPLES").map(PathBuf::from) else {
        eprintln!("{test}: NOT RUN, DECLONE_SAMPLES is not set");
        return None;
    };
    assert!(
        dir.is_dir(),
        "DECLONE_SAMPLES={} is no directory",
        dir.display()
    );
    Some(dir)
}
