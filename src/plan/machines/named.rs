//! The facts that the rules data names: registry values, certificates, entries of ini files.

use crate::{
    error::{Error, Kind, Result},
    image,
    rules::{
        HiveName,
        identity::{CURRENT_SET, Form, IdPlace, Place},
    },
    text::WinPath,
    tree::{FileEntry, FileTree, Storage},
    windows::{
        capi::{KeyPlace, parse_stored},
        ini,
        machine::{Fact, Mismatch, Source, control_set},
        registry::{Registry, Value, shown},
        sid::is_sid,
        uuid::{describe_duid, describe_uuid},
    },
};

/// Longest ini file read; those that matter have a few KiB.
const INI_LIMIT: u64 = 1 << 20;

/// A value in normal form, and what it tells.
fn normal(form: Form, raw: &str) -> (String, Option<String>) {
    let text = raw.trim();
    match form {
        Form::Guid => {
            let text = match text.get(..5) {
                Some(prefix) if prefix.eq_ignore_ascii_case("GUID:") => &text[5..],
                _ => text,
            };
            let text = text.trim_matches(['{', '}']).to_ascii_uppercase();
            let decoded = describe_uuid(&text).or_else(|| Some("not a GUID".to_owned()));
            (shown(&text), decoded)
        }
        Form::Sid => {
            let decoded = (!is_sid(text)).then(|| "not a SID".to_owned());
            (shown(&text.to_ascii_uppercase()), decoded)
        }
        Form::Thumbprint => {
            let (store, digits) = text.rsplit_once(';').unwrap_or(("", text));
            let decoded = (!store.is_empty()).then(|| format!("in store {}", shown(store)));
            (shown(&digits.trim().to_ascii_uppercase()), decoded)
        }
        Form::Text => (shown(text), None),
        Form::Duid => {
            let bytes = hex::decode(text).unwrap_or_default();
            (shown(text), describe_duid(&bytes))
        }
        Form::HexText => {
            let bytes = hex::decode(text).ok();
            let decoded = bytes.map(|bytes| {
                let (pairs, _) = bytes.as_chunks::<2>();
                let units: Vec<u16> = pairs.iter().map(|p| u16::from_le_bytes(*p)).collect();
                shown(String::from_utf16_lossy(&units).trim_matches(['\0', ' ']))
            });
            (shown(text), decoded)
        }
    }
}

fn fact(id: &IdPlace, raw: &str, source: Source) -> Option<Fact> {
    let (value, decoded) = normal(id.form, raw);
    (!value.is_empty()).then(|| Fact {
        kind: id.kind.clone(),
        title: id.title.clone(),
        value,
        decoded,
        identifies: id.identifies,
        source,
    })
}

fn of_value(id: &IdPlace, value: &Value) -> Option<Fact> {
    let raw = match id.form {
        Form::Duid => hex::encode_upper(&value.data),
        _ => value.raw_text()?,
    };
    fact(id, &raw, value.source.clone())
}

/// What one hive holds of it, and what in it does not fit together.
pub(super) fn of_hive(
    places: &[IdPlace],
    name: HiveName,
    hive: &Registry<'_>,
) -> (Vec<Fact>, Vec<Mismatch>) {
    let (mut facts, mut mismatches) = (Vec::new(), Vec::new());
    for id in places.iter().filter(|id| id.hive() == Some(name)) {
        for key in id.key_paths() {
            let key = match key.strip_prefix(CURRENT_SET) {
                None => key,
                Some(rest) => match control_set(hive) {
                    Some(set) => format!("{set}{rest}"),
                    None => continue,
                },
            };
            match &id.place {
                Place::Value { value, .. } => {
                    let found = hive.value(&key, value);
                    facts.extend(found.and_then(|value| of_value(id, &value)));
                }
                Place::Certificates { .. } => {
                    certificates(id, hive, &key, &mut facts, &mut mismatches);
                }
                Place::Ini { .. } => {}
            }
        }
    }
    (facts, mismatches)
}

/// Most certificates of one store put into a report.
const MAX_CERTIFICATES: usize = 50;

fn certificates(
    id: &IdPlace,
    hive: &Registry<'_>,
    store: &str,
    facts: &mut Vec<Fact>,
    mismatches: &mut Vec<Mismatch>,
) {
    for name in hive.subkeys(store).iter().take(MAX_CERTIFICATES) {
        let key = format!("{store}\\{name}");
        let Some(mut fact) = fact(id, name, hive.source(&key, None)) else {
            continue;
        };
        if let Some(blob) = hive.value(&key, "Blob") {
            let Ok(certificate) = parse_stored(&blob.data) else {
                fact.decoded = Some("its contents are damaged".to_owned());
                facts.push(fact);
                continue;
            };
            fact.decoded = certificate.key.map(|place| match place {
                KeyPlace::Machine(name) | KeyPlace::Cng(name) => {
                    format!("private key in container {}", shown(&name))
                }
                KeyPlace::Elsewhere(what) => format!("private key: {}", shown(&what)),
            });
            let computed = certificate
                .thumbprint
                .map(|digits| digits.to_ascii_uppercase());
            if let Some(computed) = computed.filter(|digits| *digits != fact.value) {
                mismatches.push(Mismatch {
                    what: format!(
                        "the certificate stored as {} has the thumbprint {computed}",
                        fact.value
                    ),
                    sources: vec![blob.source],
                });
            }
        }
        facts.push(fact);
    }
}

/// What the ini files in the Windows directory hold of it. A file that cannot be read is said.
pub(super) fn of_files(
    places: &[IdPlace],
    tree: &dyn FileTree,
    root: &WinPath,
    unread: &mut Vec<String>,
) -> Result<Vec<Fact>> {
    let mut names: Vec<&str> = Vec::new();
    for id in places {
        if let Place::Ini { file, .. } = &id.place
            && !names.contains(&file.as_str())
        {
            names.push(file);
        }
    }
    let mut facts = Vec::new();
    for name in names {
        let (entry, bytes) = match read_file(tree, root, &[name], INI_LIMIT) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                unread.push(format!("{name}: {error}"));
                continue;
            }
        };
        let path = entry.path();
        let found = ini::entries(&bytes);
        for id in places {
            let Place::Ini {
                file,
                section,
                entry,
            } = &id.place
            else {
                continue;
            };
            let mut same = found.iter().filter(|e| {
                file == name
                    && e.section.eq_ignore_ascii_case(section)
                    && e.key.eq_ignore_ascii_case(entry)
            });
            let source = Source {
                file: path.clone(),
                key: Some(section.clone()),
                value: Some(entry.clone()),
            };
            // Windows takes the first.
            facts.extend(same.next().and_then(|e| fact(id, &e.value, source)));
        }
    }
    Ok(facts)
}

/// The units of a path's names as text, with more names behind them.
pub(super) fn path_of(root: &WinPath, below: &[&str]) -> Vec<String> {
    let names = root.0.iter();
    let mut path: Vec<String> = names
        .map(|name| String::from_utf16_lossy(name.units()))
        .collect();
    path.extend(below.iter().map(|name| (*name).to_owned()));
    path
}

/// A file or directory below a directory.
pub(super) fn find(
    tree: &dyn FileTree,
    root: &WinPath,
    below: &[&str],
) -> Result<Option<FileEntry>> {
    let path = path_of(root, below);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    tree.lookup(&path)
}

/// A small file below a directory.
pub(super) fn read_file(
    tree: &dyn FileTree,
    root: &WinPath,
    below: &[&str],
    limit: u64,
) -> Result<Option<(FileEntry, Vec<u8>)>> {
    let Some(entry) = find(tree, root, below)?.filter(|entry| !entry.is_directory) else {
        return Ok(None);
    };
    match entry.storage {
        Storage::Encrypted => {
            return Err(Error::unsupported("a plain file expected, it is encrypted"));
        }
        Storage::Redirected(_) => {
            return Err(Error::unsupported(
                "a plain file expected, its data is elsewhere",
            ));
        }
        Storage::None => return Ok(Some((entry, Vec::new()))),
        _ if entry.len > limit => {
            return Err(Error::limit(format!(
                "at most {limit} bytes expected, found {}",
                entry.len
            )));
        }
        _ => {}
    }
    let bytes = image::read_whole(tree, &entry)?;
    Ok(Some((entry, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(form: Form, raw: &str) -> (String, String) {
        let (value, decoded) = normal(form, raw);
        (value, decoded.unwrap_or_default())
    }

    #[test]
    fn ids_come_into_normal_form() {
        let guid = "6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312";
        for raw in [
            format!(" guid:{{{guid}}}"),
            guid.to_lowercase(),
            format!("GUID:{guid}"),
        ] {
            assert_eq!(
                both(Form::Guid, &raw),
                (guid.into(), "UUID version 4".into())
            );
        }
        assert_eq!(
            both(Form::Guid, "abc0000f"),
            ("ABC0000F".into(), "not a GUID".into())
        );
        assert_eq!(
            both(Form::Thumbprint, "SMS;ab12"),
            ("AB12".into(), "in store SMS".into())
        );
        assert_eq!(
            both(Form::HexText, "56004D00770061007200650000"),
            ("56004D00770061007200650000".into(), "VMware".into())
        );
        assert_eq!(both(Form::HexText, "zz").1, "");
        assert_eq!(both(Form::Sid, "none").1, "not a SID");
        assert_eq!(both(Form::Text, "a\u{202e}b").0, "a\\u{202e}b");
        assert_eq!(both(Form::Guid, "GUI\u{e4}:").0, "GUI\u{e4}:");
    }
}
