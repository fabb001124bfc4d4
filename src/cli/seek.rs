//! Ids that the user knows: searched for like those that were found.

use std::path::Path;

use clap::Args;

use crate::{
    error::{Error, Kind, Result},
    plan::tokens::{self, Token},
    text::escape,
};

/// Longest list of ids.
const MAX_LIST: u64 = 1 << 20;
/// Most ids: as many as one shelf of machines has.
const MAX_IDS: usize = 10_000;

/// What `clean` and `verify` search for besides.
#[derive(Debug, Args)]
pub(super) struct Seek {
    /// Also search for this id (a GUID in every form, other text as ASCII and UTF-16; at least 8 characters),
    /// or for those in FILE, one a line; can be given again
    #[arg(long, value_name = "GUID|TEXT|@FILE")]
    seek: Vec<String>,
}

impl Seek {
    /// The byte strings to search for.
    pub(super) fn tokens(&self) -> Result<Vec<Token>> {
        let mut ids: Vec<String> = Vec::new();
        for given in &self.seek {
            match given.strip_prefix('@') {
                Some(path) => ids.extend(read(Path::new(path))?),
                None => ids.push(given.clone()),
            }
        }
        if ids.len() > MAX_IDS {
            return Err(usage(format!(
                "at most {MAX_IDS} ids can be searched for at once, these are {}",
                ids.len()
            )));
        }
        let mut all = Vec::new();
        for id in &ids {
            let before = all.len();
            tokens::of_identifier(id, &mut all);
            if all.len() == before {
                return Err(usage(format!(
                    "{} is too short: it would be found by accident; at least {} characters are needed",
                    escape(id),
                    tokens::MIN_LEN
                )));
            }
        }
        tokens::tidy(&mut all);
        Ok(all)
    }
}

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, format!("--seek: {what}"))
}

fn read(path: &Path) -> Result<Vec<String>> {
    let shown = escape(&path.display().to_string());
    let wrong = |what: String| usage(format!("{shown}: {what}"));
    let len = std::fs::metadata(path)
        .map_err(|e| wrong(e.to_string()))?
        .len();
    if len > MAX_LIST {
        return Err(wrong(format!("a list of ids has at most {MAX_LIST} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let lines = text.lines().map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}
