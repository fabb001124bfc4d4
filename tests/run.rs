//! Runs the binary as a user would, and keeps scratch files in a directory of its own.

use std::{
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

/// A directory that goes away with the test.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
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
