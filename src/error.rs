//! One error type, one word wide: what went wrong, where on the ladder, what the user can do.
//!
//! Grammar of `what`: *structure: what was expected, what was found*. The trail is innermost first;
//! whoever passes an error on adds the place it knows. [`Kind`] maps one-to-one to exit codes.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure this is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line makes no sense (exit 2).
    Usage,
    /// The input is in a state in which a write would be unsafe (exit 3).
    Refused,
    /// A structure of the input is broken (exit 4).
    Malformed,
    /// The input is something declone knows and does not handle (exit 4).
    Unsupported,
    /// The host could not read or write; the input is unchanged (exit 5).
    Io,
    /// An in-place clean was interrupted; `recover` finishes it (exit 6).
    Interrupted,
    /// The result did not pass verification and was thrown away (exit 7).
    Verification,
    /// A limit against hostile input was hit (exit 8).
    Limit,
    /// A bug of declone, caught before anything was written (exit 70).
    Internal,
}

/// One rung of the address ladder, as a reader of the message needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Place {
    /// What the value counts or names: "hive offset", "file", "volume offset", "partition" ...
    pub space: &'static str,
    /// Offsets in hex, counts in decimal, names escaped by the writer of the output.
    pub value: String,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    trail: Vec<Place>,
    advice: Option<String>,
    passing: bool,
}

/// A failure with its place and, where there is any, advice.
#[derive(Debug)]
pub struct Error(Box<Inner>);

impl Error {
    /// A failure of this kind; `what` follows the grammar of this module.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            trail: Vec::new(),
            advice: None,
            passing: false,
        }))
    }

    /// A broken structure.
    #[must_use]
    pub fn malformed(what: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, what)
    }

    /// A known but unhandled thing.
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, what)
    }

    /// An unsafe state.
    #[must_use]
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// A limit against hostile input.
    #[must_use]
    pub fn limit(what: impl Into<String>) -> Self {
        Self::new(Kind::Limit, what)
    }

    /// A bug of declone.
    #[must_use]
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// A failure of the host's I/O while doing `what`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{what}: {error}"))
    }

    /// Adds the next outer place.
    #[must_use]
    pub fn at(mut self, space: &'static str, value: impl fmt::Display) -> Self {
        self.0.trail.push(Place {
            space,
            value: value.to_string(),
        });
        self
    }

    /// Says what the user can do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// What stood in the way may be gone at the next try: another program that has the image open.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.0.passing = true;
        self
    }

    /// Whether the same command may succeed later although nobody changes the image: it was in use, the
    /// host could not read or write, a change waits to be finished.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.0.passing || matches!(self.0.kind, Kind::Io | Kind::Interrupted)
    }

    /// The same failure as another kind: a broken hive below a finding is a refusal above.
    #[must_use]
    pub fn into_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The sort of failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Structure, expectation, finding.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Places, innermost first.
    #[must_use]
    pub fn trail(&self) -> &[Place] {
        &self.0.trail
    }

    /// What the user can do, if anything.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        for (i, place) in self.0.trail.iter().enumerate() {
            f.write_str(if i == 0 { " (" } else { ", " })?;
            write!(f, "{} {}", place.space, place.value)?;
        }
        if !self.0.trail.is_empty() {
            f.write_str(")")?;
        }
        if let Some(advice) = &self.0.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds a place to the error of a result.
pub trait At<T> {
    /// As [`Error::at`]; `value` is only formatted when there is an error.
    fn at(self, space: &'static str, value: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, space: &'static str, value: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.at(space, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_trail_advice() {
        let error = Error::malformed("subkey list: signature lf expected, found 00 00")
            .at("hive offset", "0x1b2b0")
            .at("file", r"\Windows\System32\config\SOFTWARE")
            .advise("restore the hive from a backup");
        assert_eq!(
            error.to_string(),
            "subkey list: signature lf expected, found 00 00 (hive offset 0x1b2b0, \
             file \\Windows\\System32\\config\\SOFTWARE); restore the hive from a backup"
        );
        assert_eq!(error.kind(), Kind::Malformed);
    }

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
    }
}
