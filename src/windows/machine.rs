//! Who an installation is: facts with their sources, gathered from its hives and files.
//!
//! The structures are what the JSON report shows; their field names are stable.
//!
//! Facts from: `shared/facts/identity.md` 4 and 5 (`win.sid`, `win.domain`, `win.hostname`), Q246793.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    registry::{Registry, Value, shown},
    sid::{parse_sid, policy_text, sid_of_account_domain},
};

/// Where a fact was read, so that a person can look there with another tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Source {
    /// Path of the hive or file.
    pub file: String,
    /// Key path from the hive's root, or section of an ini file.
    pub key: Option<String>,
    /// Value name (empty: the default value), or name of an ini file's entry.
    pub value: Option<String>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        match self.value.as_deref() {
            None => Ok(()),
            Some("") => f.write_str(", default value"),
            Some(value) => write!(f, ", value {value}"),
        }
    }
}

/// One thing that tells who the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fact {
    /// Stable short name: `computer_sid`, `computer_name`, `machine_guid` ...
    pub kind: String,
    /// The same for a person.
    pub title: String,
    /// In normal form: GUIDs and thumbprints in upper case and without decoration.
    pub value: String,
    /// What the value itself tells.
    pub decoded: Option<String>,
    /// Whether two installations with this value are one machine, or were cloned from one. Names and
    /// domains are not of that sort.
    pub identifies: bool,
    /// Where it was read.
    pub source: Source,
}

/// Two places that should agree and do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mismatch {
    /// In words.
    pub what: String,
    /// Where the two are.
    pub sources: Vec<Source>,
}

/// The Windows, as its SOFTWARE hive names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Version {
    /// `nt4`, `2000`, `xp`, `2003`, `vista`, `7`, `8`, `8.1`, `10`, `11`; a server has that of its
    /// client, from Vista on. Null: not known.
    pub generation: Option<Generation>,
    /// ProductName.
    pub product: Option<String>,
    /// CurrentVersion, or the major and minor number of Windows 10 and later.
    pub version: Option<String>,
    /// Build number.
    pub build: Option<String>,
}

/// A generation of Windows: which evidence there is depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum Generation {
    /// Windows NT 4.0.
    #[serde(rename = "nt4")]
    Nt4,
    /// Windows 2000.
    #[serde(rename = "2000")]
    Win2000,
    /// Windows XP.
    #[serde(rename = "xp")]
    Xp,
    /// Windows Server 2003, XP x64.
    #[serde(rename = "2003")]
    Server2003,
    /// Windows Vista, Server 2008.
    #[serde(rename = "vista")]
    Vista,
    /// Windows 7, Server 2008 R2.
    #[serde(rename = "7")]
    Win7,
    /// Windows 8, Server 2012.
    #[serde(rename = "8")]
    Win8,
    /// Windows 8.1, Server 2012 R2.
    #[serde(rename = "8.1")]
    Win8_1,
    /// Windows 10, Server 2016 to 2022.
    #[serde(rename = "10")]
    Win10,
    /// Windows 11, Server 2025.
    #[serde(rename = "11")]
    Win11,
}

/// First build of Windows 11.
const WIN11_BUILD: u32 = 22_000;

impl Generation {
    /// By the version number and the build.
    #[must_use]
    pub fn of(version: &str, build: Option<u32>) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return None;
        };
        Some(match (major, minor) {
            (4, 0) => Self::Nt4,
            (5, 0) => Self::Win2000,
            (5, 1) => Self::Xp,
            (5, 2) => Self::Server2003,
            (6, 0) => Self::Vista,
            (6, 1) => Self::Win7,
            (6, 2) => Self::Win8,
            (6, 3) => Self::Win8_1,
            (10, _) if build.is_some_and(|build| build >= WIN11_BUILD) => Self::Win11,
            (10, _) => Self::Win10,
            _ => return None,
        })
    }

    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nt4 => "Windows NT 4.0",
            Self::Win2000 => "Windows 2000",
            Self::Xp => "Windows XP",
            Self::Server2003 => "Windows Server 2003",
            Self::Vista => "Windows Vista",
            Self::Win7 => "Windows 7",
            Self::Win8 => "Windows 8",
            Self::Win8_1 => "Windows 8.1",
            Self::Win10 => "Windows 10",
            Self::Win11 => "Windows 11",
        }
    }

    /// Whether setup keeps an image state (Vista and later).
    #[must_use]
    pub fn has_image_state(self) -> bool {
        self >= Self::Vista
    }
}

/// Reads the version from SOFTWARE.
#[must_use]
pub fn version(software: &Registry<'_>) -> Version {
    let key = r"Microsoft\Windows NT\CurrentVersion";
    let text = |name: &str| software.value(key, name).and_then(|value| value.text());
    let number = |name: &str| software.value(key, name).and_then(|value| value.dword());
    // CurrentVersion stays 6.3 from Windows 8.1 on.
    let version = match number("CurrentMajorVersionNumber") {
        Some(major) => Some(format!(
            "{major}.{}",
            number("CurrentMinorVersionNumber").unwrap_or(0)
        )),
        None => text("CurrentVersion"),
    };
    let build = text("CurrentBuildNumber").or_else(|| text("CurrentBuild"));
    Version {
        generation: version.as_deref().and_then(|version| {
            let build = build.as_deref().and_then(|build| build.parse().ok());
            Generation::of(version, build)
        }),
        product: text("ProductName"),
        version,
        build,
    }
}

fn fact(kind: &str, title: &str, identifies: bool, value: String, source: &Source) -> Fact {
    Fact {
        kind: kind.to_owned(),
        title: title.to_owned(),
        value,
        decoded: None,
        identifies,
        source: source.clone(),
    }
}

/// The computer's SID from SAM: value `V` of `SAM\Domains\Account`.
#[must_use]
pub fn of_sam(sam: &Registry<'_>) -> Vec<Fact> {
    let value = sam.value(r"SAM\Domains\Account", "V");
    let sid = value.and_then(|v| Some((sid_of_account_domain(&v.data)?, v.source)));
    sid.into_iter()
        .map(|(sid, source)| fact("computer_sid", "Computer SID", true, sid, &source))
        .collect()
}

/// The computer's SID and its domain from SECURITY: default values of keys below `Policy`.
#[must_use]
pub fn of_security(security: &Registry<'_>) -> Vec<Fact> {
    let policy = |key: &str| security.value(&format!(r"Policy\{key}"), "");
    let mut facts = Vec::new();
    let mut add = |kind: &str, title: &str, identifies, text: Option<String>, value: &Value| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            facts.push(fact(kind, title, identifies, shown(&text), &value.source));
        }
    };
    let sids = [
        ("PolAcDmS", "computer_sid", "Computer SID", true),
        ("PolPrDmS", "domain_sid", "SID of the domain", false),
        (
            "PolMachineAccountS",
            "machine_account_domain_sid",
            "Domain of the machine account",
            false,
        ),
    ];
    for (key, kind, title, identifies) in sids {
        if let Some(value) = policy(key) {
            add(kind, title, identifies, parse_sid(&value.data), &value);
        }
    }
    let names = [
        ("PolAcDmN", "account_domain", "Name of the account domain"),
        ("PolPrDmN", "domain", "Domain or workgroup"),
        ("PolDnDDN", "dns_domain", "DNS name of the domain"),
    ];
    for (key, kind, title) in names {
        if let Some(value) = policy(key) {
            add(kind, title, false, policy_text(&value.data), &value);
        }
    }
    facts
}

/// The key of the control set that Windows last ran with; the first one if `Select` does not say.
#[must_use]
pub fn control_set(system: &Registry<'_>) -> Option<String> {
    let current = system.value("Select", "Current").and_then(|v| v.dword());
    let named = current.map(|number| format!("ControlSet{number:03}"));
    if let Some(name) = named.filter(|name| system.key(name).is_some()) {
        return Some(name);
    }
    let mut sets = system.subkeys("");
    sets.retain(|name| name.to_ascii_lowercase().starts_with("controlset"));
    sets.sort();
    sets.into_iter().next()
}

/// The computer's names from SYSTEM. NT 4.0's Sysprep leaves the DNS host name as it is.
#[must_use]
pub fn of_system(system: &Registry<'_>) -> Vec<Fact> {
    let Some(set) = control_set(system) else {
        return Vec::new();
    };
    let tcpip = r"Services\Tcpip\Parameters";
    let places = [
        (
            r"Control\ComputerName\ComputerName",
            "ComputerName",
            "computer_name",
            "Computer name",
        ),
        (tcpip, "Hostname", "host_name", "Host name"),
        (tcpip, "NV Hostname", "nv_host_name", "Host name to come"),
        (tcpip, "Domain", "dns_suffix", "DNS suffix"),
    ];
    let mut facts = Vec::new();
    for (key, name, kind, title) in places {
        let value = system.value(&format!(r"{set}\{key}"), name);
        if let Some((text, value)) = value.and_then(|value| Some((value.text()?, value)))
            && !text.is_empty()
        {
            facts.push(fact(kind, title, false, text, &value.source));
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_by_version_and_build() {
        let of = |version, build| Generation::of(version, build).map(Generation::name);
        assert_eq!(of("4.0", Some(1381)), Some("Windows NT 4.0"));
        assert_eq!(of("5.2", Some(3790)), Some("Windows Server 2003"));
        assert_eq!(of("6.3", Some(9600)), Some("Windows 8.1"));
        assert_eq!(of("10.0", Some(19_045)), Some("Windows 10"));
        assert_eq!(of("10.0", Some(22_000)), Some("Windows 11"));
        assert_eq!(of("10.0", None), Some("Windows 10"));
        assert_eq!(of("", None), None);
        assert_eq!(of("3.51", None), None);
    }
}
