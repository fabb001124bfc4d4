//! What Sysprep does to a Windows, by the list in the image itself:
//! `System32\Sysprep\ActionFiles\Generalize.xml`.
//!
//! Only read: each value or key that the list deletes and that is still there is a line of evidence.
//!
//! Facts from: `shared/facts/identity.md` 4; component manifests of Windows 11, whose
//! `registryActions` (`deleteValue` with `name` and `path`, `deleteKey` with `path`), `fileActions` and
//! `sysprepModule` (`methodName`, `moduleName`) are compiled into this file.

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

use super::{
    generalization::{Evidence, line},
    ini::text_of,
    machine::{Source, control_set},
    registry::{Registry, shown},
};
use crate::error::{Error, Result};

/// Longest list read; real ones have some hundred KiB.
pub const LIMIT: u64 = 8 << 20;
/// Most pieces of XML read of one list.
const MAX_EVENTS: usize = 500_000;
/// Most attributes looked at in one element.
const MAX_ATTRIBUTES: usize = 32;
/// Most actions kept of one sort.
const MAX_ACTIONS: usize = 5_000;
/// Most lines about what is still there.
pub const MAX_LINES: usize = 50;

/// What the list names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Functions called: module and method, escaped.
    pub modules: Vec<String>,
    /// Registry values deleted: key and name.
    pub values: Vec<(String, String)>,
    /// Registry keys deleted.
    pub keys: Vec<String>,
    /// How many files and directories are deleted.
    pub files: usize,
}

/// A hive that the list speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hive {
    /// HKEY_LOCAL_MACHINE\SOFTWARE.
    Software,
    /// HKEY_LOCAL_MACHINE\SYSTEM.
    System,
}

fn malformed(what: impl Into<String>) -> Error {
    Error::malformed(format!("Generalize.xml: {}", what.into()))
}

impl Actions {
    /// Reads the list. Declarations of entities are refused, so nothing is expanded.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = text_of(bytes);
        let mut reader = Reader::from_str(&text);
        let mut out = Self::default();
        for _ in 0..MAX_EVENTS {
            let event = reader
                .read_event()
                .map_err(|e| malformed(shown(&e.to_string())))?;
            match event {
                Event::Start(element) | Event::Empty(element) => out.take(&element)?,
                Event::DocType(_) => {
                    return Err(malformed(
                        "no document type declaration expected, found one",
                    ));
                }
                Event::Eof => return Ok(out),
                _ => {}
            }
        }
        Err(Error::limit(format!(
            "Generalize.xml: at most {MAX_EVENTS} pieces expected, found more"
        )))
    }

    fn take(&mut self, element: &BytesStart<'_>) -> Result<()> {
        let attribute = |wanted: &str| -> Result<Option<String>> {
            let mut all = element.attributes();
            for found in all.with_checks(false).take(MAX_ATTRIBUTES) {
                let found = found.map_err(|e| malformed(shown(&e.to_string())))?;
                if found.key.as_ref() == wanted {
                    let value = found.normalized_value(XmlVersion::Implicit1_0);
                    let value = value.map_err(|e| malformed(shown(&e.to_string())))?;
                    return Ok(Some(value.into_owned()));
                }
            }
            Ok(None)
        };
        match element.local_name().as_ref() {
            "sysprepModule" if self.modules.len() < MAX_ACTIONS => {
                let module = attribute("moduleName")?.unwrap_or_default();
                let file = module.rsplit('\\').next().unwrap_or_default();
                let method = attribute("methodName")?.unwrap_or_default();
                self.modules.push(shown(&format!("{file} {method}")));
            }
            "deleteValue" if self.values.len() < MAX_ACTIONS => {
                if let (Some(path), Some(name)) = (attribute("path")?, attribute("name")?) {
                    self.values.push((path, name));
                }
            }
            "deleteKey" if self.keys.len() < MAX_ACTIONS => self.keys.extend(attribute("path")?),
            "deleteFile" | "deleteDirectory" => self.files = self.files.saturating_add(1),
            _ => {}
        }
        Ok(())
    }

    /// The line of a Windows without such a list.
    #[must_use]
    pub fn absent(root: &str) -> Evidence {
        let source = Source {
            file: format!(r"{root}\System32\Sysprep\ActionFiles\Generalize.xml"),
            key: None,
            value: None,
        };
        let meaning = "the list of what Sysprep does to this Windows";
        line("sysprep_actions", source, None, meaning)
    }

    /// In words.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} modules to run, {} registry values, {} registry keys and {} files or directories to \
             delete",
            self.modules.len(),
            self.values.len(),
            self.keys.len(),
            self.files
        )
    }

    /// How many of its registry actions are about other hives than these two.
    #[must_use]
    pub fn elsewhere(&self) -> usize {
        let paths = self.values.iter().map(|(path, _)| path).chain(&self.keys);
        paths.filter(|path| place(path).is_none()).count()
    }

    /// What it deletes and is still there.
    #[must_use]
    pub fn still_there(&self, hive: Hive, registry: &Registry<'_>) -> Vec<Evidence> {
        let set = control_set(registry);
        let key_of = |path: &str| match place(path) {
            Some((found, rest)) if found == hive => in_control_set(&rest, set.as_deref()),
            _ => None,
        };
        let mut out = Vec::new();
        for (path, name) in &self.values {
            let value = key_of(path).and_then(|key| registry.value(&key, name));
            if let Some(value) = value {
                let what = format!("type {}, {} bytes", value.kind, value.data.len());
                out.push(line(
                    "sysprep_undone_value",
                    value.source,
                    Some(what),
                    "Generalize.xml names it as to be deleted, and it is present",
                ));
            }
        }
        for path in &self.keys {
            let Some(key) = key_of(path).filter(|key| registry.key(key).is_some()) else {
                continue;
            };
            let (keys, values) = (registry.subkeys(&key).len(), registry.values(&key).len());
            out.push(line(
                "sysprep_undone_key",
                registry.source(&key, None),
                Some(format!("{keys} keys and {values} values")),
                "Generalize.xml names it as to be deleted, and it is present",
            ));
        }
        for line in &mut out {
            let source = &mut line.source;
            source.key = source.key.as_deref().map(shown);
        }
        out
    }

    /// The lines about the list itself; `undone` are those of [`Actions::still_there`] of every hive that
    /// was read.
    #[must_use]
    pub fn lines(&self, file: &str, mut undone: Vec<Evidence>) -> Vec<Evidence> {
        let source = || Source {
            file: file.to_owned(),
            key: None,
            value: None,
        };
        let modules = super::generalization::some_names(&self.modules);
        let mut out = vec![
            line(
                "sysprep_actions",
                source(),
                Some(self.summary()),
                "the list of what Sysprep does to this Windows",
            ),
            line(
                "sysprep_modules",
                source(),
                modules,
                "modules that Sysprep runs; what they did cannot be told offline",
            ),
        ];
        let all = self.values.len().saturating_add(self.keys.len());
        let looked = all.saturating_sub(self.elsewhere());
        let value = match undone.len() {
            0 => None,
            n => Some(format!("{n} of {looked}")),
        };
        out.push(line(
            "sysprep_undone",
            source(),
            value,
            format!(
                "registry values and keys that the list deletes and that are present; {looked} of {all} \
                 are in SOFTWARE or SYSTEM and were looked for"
            ),
        ));
        undone.truncate(MAX_LINES);
        out.extend(undone);
        out
    }
}

/// The hive that a path of the running Windows leads to, and the rest of the path.
fn place(path: &str) -> Option<(Hive, String)> {
    let parts: Vec<&str> = path.split('\\').filter(|part| !part.is_empty()).collect();
    let (root, rest) = parts.split_first()?;
    match root.to_ascii_uppercase().as_str() {
        "HKEY_CLASSES_ROOT" | "HKCR" => {
            Some((Hive::Software, format!("Classes\\{}", rest.join("\\"))))
        }
        "HKEY_LOCAL_MACHINE" | "HKLM" => {
            let (name, rest) = rest.split_first()?;
            let hive = match name.to_ascii_uppercase().as_str() {
                "SOFTWARE" => Hive::Software,
                "SYSTEM" => Hive::System,
                _ => return None,
            };
            Some((hive, rest.join("\\")))
        }
        _ => None,
    }
}

/// `CurrentControlSet` is a link that only a running Windows has.
fn in_control_set(path: &str, set: Option<&str>) -> Option<String> {
    const LINK: &str = "CurrentControlSet";
    match path.split_once('\\') {
        Some((first, rest)) if first.eq_ignore_ascii_case(LINK) => {
            Some(format!("{}\\{rest}", set?))
        }
        _ if path.is_empty() || path.eq_ignore_ascii_case(LINK) => None,
        _ => Some(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<sysprepInformation version="1.0" xmlns="urn:x">
  <imaging exclude="">
    <assemblyIdentity name="Windows-SenseClient-Service"/>
    <sysprepOrder order="0x1A00"/>
    <registryActions>
      <deleteValue path="HKEY_LOCAL_MACHINE\Software\A &amp; B\" name="senseGuid"/>
      <deleteKey path="HKLM\SYSTEM\CurrentControlSet\Control\X"></deleteKey>
      <deleteValue name="y" path="HKEY_USERS\.DEFAULT\Software"/>
      <setValue name="z" path="HKEY_LOCAL_MACHINE\Software" value="1"/>
    </registryActions>
    <fileActions><deleteFile path="$(runtime.windows)\a"/><deleteDirectory path="b"/></fileActions>
    <sysprepModule methodName="Generalize" moduleName="$(runtime.system32)\AppxSysprep.dll"/>
  </imaging>
</sysprepInformation>"#;

    #[test]
    fn a_list_names_modules_values_keys_and_files() {
        let wide: Vec<u8> = [0xFEFF]
            .into_iter()
            .chain(LIST.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        for bytes in [LIST.as_bytes(), &wide] {
            let actions = Actions::parse(bytes).unwrap();
            assert_eq!(actions.modules, ["AppxSysprep.dll Generalize"]);
            assert_eq!(
                actions.values[0],
                (
                    r"HKEY_LOCAL_MACHINE\Software\A & B\".to_owned(),
                    "senseGuid".to_owned()
                )
            );
            assert_eq!((actions.values.len(), actions.keys.len()), (2, 1));
            assert_eq!((actions.files, actions.elsewhere()), (2, 1));
        }
    }

    #[test]
    fn a_path_leads_to_a_hive_or_nowhere() {
        let at = |path: &str| place(path).map(|(hive, rest)| (hive, rest.to_lowercase()));
        assert_eq!(
            at(r"HKEY_LOCAL_MACHINE\Software\A & B\"),
            Some((Hive::Software, "a & b".into()))
        );
        assert_eq!(
            at(r"\hklm\system\Setup"),
            Some((Hive::System, "setup".into()))
        );
        assert_eq!(at(r"HKCR\x"), Some((Hive::Software, r"classes\x".into())));
        for path in ["", r"\", "HKLM", r"HKLM\SAM\x", r"HKEY_USERS\x"] {
            assert_eq!(at(path), None, "{path}");
        }
        let link = |path| in_control_set(path, Some("ControlSet001"));
        assert_eq!(
            link(r"currentcontrolset\a"),
            Some(r"ControlSet001\a".to_owned())
        );
        assert_eq!(link("CurrentControlSet"), None);
        assert_eq!(link(r"Setup\a"), Some(r"Setup\a".to_owned()));
    }

    #[test]
    fn what_is_no_list_is_refused_and_nothing_is_expanded() {
        for text in [
            "<!DOCTYPE a [<!ENTITY b \"c\">]><sysprepInformation>&b;</sysprepInformation>",
            "<deleteValue path=\"&b;\" name=\"x\"/>",
            "<deleteValue path=\"a",
            "<a></b>",
            "<a",
        ] {
            assert!(Actions::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Actions::parse(b"").unwrap(), Actions::default());
        for len in 0..LIST.len() {
            let _ = Actions::parse(&LIST.as_bytes()[..len]);
        }
        // Deep, wide and long, all in one breath.
        let deep = "<a>".repeat(100_000);
        assert!(Actions::parse(deep.as_bytes()).is_ok());
        let wide = format!("<deleteValue {}/>", "a=\"b\" ".repeat(100_000));
        assert!(Actions::parse(wide.as_bytes()).unwrap().values.is_empty());
        let long = "<deleteKey path='HKLM\\SOFTWARE\\a'/>".repeat(10_000);
        assert_eq!(
            Actions::parse(long.as_bytes()).unwrap().keys.len(),
            MAX_ACTIONS
        );
        let endless = "<a/>".repeat(MAX_EVENTS);
        assert!(Actions::parse(endless.as_bytes()).is_err());
    }
}
