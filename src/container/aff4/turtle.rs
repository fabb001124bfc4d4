//! `information.turtle`: what an AFF4 file says about itself, as triples.
//!
//! Source: W3C "RDF 1.1 Turtle", sections 2 and 6.4; without blank nodes and lists, which AFF4 tools
//! do not write.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    text::escape,
};

/// Most triples that are read.
const TRIPLES_LIMIT: usize = 1 << 20;
/// What `a` stands for.
pub(super) const TYPE: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type";

/// The object of a triple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// An IRI, or the text of a literal.
    pub(super) text: String,
    /// The literal's type.
    pub(super) kind: Option<String>,
}

/// What is said of each subject: predicates and objects.
pub(super) type Triples = BTreeMap<String, Vec<(String, Value)>>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Iri(String),
    /// A name with a prefix, `a`, or a directive.
    Word(String),
    Text(String),
    /// `^^`.
    Typed,
    /// `.`, `;` or `,`.
    Stop(char),
}

fn wrong(what: &str) -> Error {
    Error::malformed(format!("AFF4 information.turtle: {what}"))
}

/// Cuts a text into tokens.
struct Tokens<'a> {
    rest: &'a str,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>> {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix('#') {
                Some(comment) => {
                    let end = comment.find('\n').unwrap_or(comment.len());
                    self.rest = comment.get(end..).unwrap_or_default();
                }
                None => break,
            }
        }
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        let token = match first {
            '<' => {
                let end = self.rest.find('>').ok_or_else(|| wrong("a `>` expected"))?;
                Token::Iri(self.take(1, end, 1)?)
            }
            '"' | '\'' => Token::Text(self.text(first)?),
            '^' if self.rest.starts_with("^^") => {
                self.take(0, 2, 0)?;
                Token::Typed
            }
            '@' => {
                let word = self.word();
                match word.as_str() {
                    "@prefix" | "@base" => Token::Word(word),
                    // The language of a text.
                    _ => return self.next(),
                }
            }
            '.' | ';' | ',' => {
                self.take(0, 1, 0)?;
                Token::Stop(first)
            }
            '[' | ']' | '(' | ')' => {
                return Err(Error::unsupported(format!(
                    "AFF4 information.turtle: named subjects and single values expected, found \
                     `{first}`"
                )));
            }
            _ => match self.word() {
                word if word.is_empty() => {
                    return Err(wrong(&format!(
                        "a name expected, found `{}`",
                        escape(&first.to_string())
                    )));
                }
                word => Token::Word(word),
            },
        };
        Ok(Some(token))
    }

    /// The bytes `from..to`, and steps over `more` behind them.
    fn take(&mut self, from: usize, to: usize, more: usize) -> Result<String> {
        let text = self.rest.get(from..to).map(str::to_owned);
        self.rest = self.rest.get(to.saturating_add(more)..).unwrap_or_default();
        text.ok_or_else(|| wrong("a whole token expected"))
    }

    /// Up to white space or punctuation; dots at its end belong to the sentence.
    fn word(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ";,<>\"[]()^".contains(c))
            .unwrap_or(self.rest.len());
        let word = self.rest.get(..end).unwrap_or_default();
        let word = word.trim_end_matches('.').to_owned();
        self.rest = self.rest.get(word.len()..).unwrap_or_default();
        word
    }

    fn text(&mut self, quote: char) -> Result<String> {
        let long: String = [quote; 3].iter().collect();
        let mark = match self.rest.starts_with(&long) {
            true => long,
            false => quote.to_string(),
        };
        self.take(0, mark.len(), 0)?;
        let mut out = String::new();
        loop {
            if self.rest.starts_with(&mark) {
                self.take(0, mark.len(), 0)?;
                return Ok(out);
            }
            let mut chars = self.rest.chars();
            let c = chars
                .next()
                .ok_or_else(|| wrong("the end of a text expected"))?;
            let c = match c {
                '\\' => match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    // Escapes by number are only shown.
                    Some(other) => other,
                    None => return Err(wrong("the end of a text expected")),
                },
                c => c,
            };
            self.rest = chars.as_str();
            out.push(c);
        }
    }
}

/// Reads all triples.
pub(super) fn parse(text: &str) -> Result<Triples> {
    let mut tokens = Tokens { rest: text };
    let mut prefixes: BTreeMap<String, String> = BTreeMap::new();
    let mut triples = Triples::new();
    let mut count = 0_usize;
    while let Some(first) = tokens.next()? {
        if let Token::Word(word) = &first
            && (word == "@prefix" || word.eq_ignore_ascii_case("prefix"))
        {
            let (name, iri) = (tokens.next()?, tokens.next()?);
            let (Some(Token::Word(name)), Some(Token::Iri(iri))) = (name, iri) else {
                return Err(wrong("a prefix and what it stands for expected"));
            };
            prefixes.insert(name, iri);
            if word == "@prefix" {
                stop(&mut tokens)?;
            }
            continue;
        }
        if first == Token::Word("@base".to_owned()) {
            tokens.next()?;
            stop(&mut tokens)?;
            continue;
        }
        let subject = iri_of(first, &prefixes)?;
        let known = triples.entry(subject).or_default();
        'predicates: loop {
            let predicate = match tokens.next()? {
                // An empty one, before the end.
                Some(Token::Stop(';')) => continue,
                Some(Token::Stop('.')) => break,
                Some(token) => iri_of(token, &prefixes)?,
                None => return Err(wrong("a `.` at the end expected")),
            };
            let mut next = tokens.next()?;
            loop {
                let (value, behind) = value_of(next, &mut tokens, &prefixes)?;
                count = count.saturating_add(1);
                if count > TRIPLES_LIMIT {
                    return Err(Error::limit(format!(
                        "AFF4 information.turtle: at most {TRIPLES_LIMIT} statements expected, \
                         found more"
                    )));
                }
                known.push((predicate.clone(), value));
                match behind {
                    Some(Token::Stop(',')) => next = tokens.next()?,
                    Some(Token::Stop(';')) => break,
                    Some(Token::Stop(_)) => break 'predicates,
                    _ => return Err(wrong("`.`, `;` or `,` behind a value expected")),
                }
            }
        }
    }
    Ok(triples)
}

fn stop(tokens: &mut Tokens<'_>) -> Result<()> {
    match tokens.next()? {
        Some(Token::Stop('.')) => Ok(()),
        _ => Err(wrong("a `.` behind a prefix expected")),
    }
}

fn iri_of(token: Token, prefixes: &BTreeMap<String, String>) -> Result<String> {
    match token {
        Token::Iri(iri) => Ok(iri),
        Token::Word(word) if word == "a" => Ok(TYPE.to_owned()),
        Token::Word(word) => {
            let at = word.find(':').map(|at| at.saturating_add(1));
            let (prefix, name) = at
                .and_then(|at| word.split_at_checked(at))
                .ok_or_else(|| wrong(&format!("a name expected, found `{}`", escape(&word))))?;
            let iri = prefixes.get(prefix).ok_or_else(|| {
                wrong(&format!(
                    "a known prefix expected, found `{}`",
                    escape(prefix)
                ))
            })?;
            Ok(format!("{iri}{name}"))
        }
        _ => Err(wrong("a name expected, found a text or a stop")),
    }
}

/// A value, and the token behind it.
fn value_of(
    token: Option<Token>,
    tokens: &mut Tokens<'_>,
    prefixes: &BTreeMap<String, String>,
) -> Result<(Value, Option<Token>)> {
    let plain = |text: String| Value { text, kind: None };
    match token {
        Some(Token::Text(text)) => match tokens.next()? {
            Some(Token::Typed) => {
                let kind = tokens.next()?.ok_or_else(|| wrong("a type expected"))?;
                let kind = Some(iri_of(kind, prefixes)?);
                Ok((Value { text, kind }, tokens.next()?))
            }
            behind => Ok((plain(text), behind)),
        },
        // Numbers and truth values are words without a prefix.
        Some(Token::Word(word)) if !word.contains(':') && word != "a" => {
            Ok((plain(word), tokens.next()?))
        }
        Some(token) => Ok((plain(iri_of(token, prefixes)?), tokens.next()?)),
        None => Err(wrong("a value expected, found the end")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const TEXT: &str = "@prefix aff4: <http://aff4.org/Schema#> . # a comment\n\
        @prefix xsd: <http://x#> .\n@prefix : <aff4://v> .\n\
        <aff4://a> a aff4:DiskImage, aff4:Image ;\n  aff4:size \"12\"^^xsd:long ;\n\
        aff4:note \"\"\"it's \"so\" \\n\"\"\"@en , 5 ; aff4:dataStream <aff4://b>; .\n\
        <aff4://b> aff4:size 7.\n:c aff4:size 1 .";

    #[test]
    fn what_tools_write_is_read() {
        let all = parse(TEXT).unwrap();
        let said = |subject: &str, name: &str| -> Vec<String> {
            all[subject]
                .iter()
                .filter(|(known, _)| known.ends_with(name))
                .map(|(_, value)| value.text.clone())
                .collect()
        };
        assert_eq!(
            said("aff4://a", "type"),
            [
                "http://aff4.org/Schema#DiskImage",
                "http://aff4.org/Schema#Image"
            ]
        );
        assert_eq!(said("aff4://a", "size"), ["12"]);
        assert_eq!(said("aff4://a", "note"), ["it's \"so\" \n", "5"]);
        assert_eq!(said("aff4://a", "dataStream"), ["aff4://b"]);
        assert_eq!(said("aff4://b", "size"), ["7"]);
        assert_eq!(said("aff4://vc", "size"), ["1"]);
        let size = &all["aff4://a"][2].1;
        assert_eq!(size.kind.as_deref(), Some("http://x#long"));
    }

    #[test]
    fn no_cut_or_flip_panics() {
        for len in 0..TEXT.len() {
            drop(parse(&TEXT[..len]));
            for byte in [b'"', b'<', b'.', b'[', b':', 0x80, b'^', b'@'] {
                let mut bad = TEXT.as_bytes().to_vec();
                bad[len] = byte;
                drop(parse(&String::from_utf8_lossy(&bad)));
            }
        }
        assert!(parse("<a> <b> <c>").is_err());
        assert!(parse("x:a x:b x:c .").is_err());
        assert!(parse("<a> <b> [ <c> <d> ] .").is_err());
    }
}
