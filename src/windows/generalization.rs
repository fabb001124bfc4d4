//! Whether an installation was generalized (prepared with Sysprep to become many machines).
//!
//! In: what the setup keys, the setup state and a few files say. Out: a [`Generalization`]: a status,
//! every line of evidence, every contradiction. It changes nothing, a SID least of all.
//!
//! Facts from: `shared/facts/identity.md` 4; 314828 (the policy), Q180962 (CloneTag), Q241048 and Q196018
//! (answer files), the documentation of Windows Setup States.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    machine::{Generation, Source, control_set},
    registry::{Registry, shown},
};

/// What the evidence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Prepared, and set up to become a machine of its own at the next start.
    Generalized,
    /// Prepared, but the next start does not finish the preparation.
    GeneralizedNotArmed,
    /// On its way from generalized to deployed: tied to one hardware.
    Specialized,
    /// A machine in use.
    Deployed,
    /// Setup failed: it will not start as a machine.
    Undeployable,
    /// The evidence is missing or contradicts itself.
    Unknown,
}

impl Status {
    /// As in the JSON report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generalized => "generalized",
            Self::GeneralizedNotArmed => "generalized-not-armed",
            Self::Specialized => "specialized",
            Self::Deployed => "deployed",
            Self::Undeployable => "undeployable",
            Self::Unknown => "unknown",
        }
    }
}

/// One line of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Evidence {
    /// Stable short name, snake_case: `image_state_registry`, `setup_type`, `event_logs` ...
    pub id: Cow<'static, str>,
    /// The rule that names the same thing; null if none does.
    pub rule: Option<String>,
    /// Where was looked.
    pub source: Source,
    /// Whether anything was there.
    pub present: bool,
    /// What was there, in short.
    pub value: Option<String>,
    /// What that means.
    pub meaning: String,
}

/// The verdict on one installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Generalization {
    /// What the evidence comes to.
    pub status: Status,
    /// Why, in one sentence.
    pub reason: String,
    /// What to do about it, in the sense of Microsoft's policy; null if there is nothing.
    pub advice: Option<&'static str>,
    /// Every line of evidence, what is absent included.
    pub evidence: Vec<Evidence>,
    /// Pieces of evidence that cannot both be right.
    pub contradictions: Vec<String>,
}

/// What the policy says of domain controllers, in our words.
const NO_CONTROLLER: &str = "a domain controller (ProductType LanmanNT) is never supported as an image: \
     capture the server before it becomes one (before DCPromo), and promote each copy by itself; declone \
     changes no SID";

/// What Microsoft's policy asks for, in our words.
const RECAPTURE: &str = "if many machines are to be made of this image: run Sysprep on the master and \
     capture it again; Sysprep or a program that changes SIDs on the copies is no supported substitute. \
     declone changes no SID";

/// Image states of Windows Vista and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImageState {
    Generalized,
    Specialized,
    Complete,
    Undeployable,
    Other,
}

impl ImageState {
    fn of(text: &str) -> Self {
        let text = text.to_ascii_uppercase();
        match text.as_str() {
            "IMAGE_STATE_COMPLETE" => Self::Complete,
            "IMAGE_STATE_UNDEPLOYABLE" => Self::Undeployable,
            "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE" | "IMAGE_STATE_GENERALIZE_RESEAL_TO_AUDIT" => {
                Self::Generalized
            }
            "IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE" | "IMAGE_STATE_SPECIALIZE_RESEAL_TO_AUDIT" => {
                Self::Specialized
            }
            _ => Self::Other,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Generalized => "prepared with Sysprep; the next start makes a new machine of it",
            Self::Specialized => "tied to one hardware; setup goes on at the next start",
            Self::Complete => "setup is complete: a machine in use, not to be copied",
            Self::Undeployable => "setup did not come to its end: it will not start as a machine",
            Self::Other => "no state that setup is known to write",
        }
    }
}

const IMAGE_STATE: &str = r"Microsoft\Windows\CurrentVersion\Setup\State";
const SETUP: &str = "Setup";
const SYSPREP_STATUS: &str = r"Setup\Status\SysprepStatus";
/// Most names listed in one line of evidence.
const MAX_NAMES: usize = 8;

/// A line about something that is there, or is not.
#[must_use]
pub fn line(
    id: impl Into<Cow<'static, str>>,
    source: Source,
    value: Option<String>,
    meaning: impl Into<String>,
) -> Evidence {
    Evidence {
        id: id.into(),
        rule: None,
        source,
        present: value.is_some(),
        value,
        meaning: meaning.into(),
    }
}

/// Some names, and how many more.
#[must_use]
pub fn some_names(names: &[String]) -> Option<String> {
    let first: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    match (first.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("{}: {}", names.len(), first.join(", "))),
        (false, _) => Some(format!("{}: {}, ...", names.len(), first.join(", "))),
    }
}

/// The evidence in SOFTWARE.
#[must_use]
pub fn of_software(software: &Registry<'_>) -> Vec<Evidence> {
    let value = |key: &str, name: &str| {
        let found = software.value(key, name);
        let shown = found.map(|value| value.show());
        (software.source(key, Some(name)), shown)
    };
    let names = |key: &str| {
        (
            software.source(key, None),
            some_names(&software.subkeys(key)),
        )
    };
    let mut out = Vec::new();
    let (source, state) = value(IMAGE_STATE, "ImageState");
    let meaning = state.as_deref().map_or(
        "no image state: Windows before Vista, or never set up",
        |state| ImageState::of(state).meaning(),
    );
    out.push(line("image_state_registry", source, state, meaning));
    let (source, providers) =
        names(r"Microsoft\Windows\CurrentVersion\Setup\SysPrepExternal\Generalize");
    out.push(line(
        "sysprep_providers",
        source,
        providers,
        "programs of other makers that Sysprep calls",
    ));
    let key = r"Microsoft\Windows NT\CurrentVersion\ProfileList";
    let mut users = software.subkeys(key);
    users.retain(|name| {
        ["S-1-5-21-", "S-1-12-1-"]
            .iter()
            .any(|p| name.starts_with(p))
    });
    out.push(line(
        "shell_profiles",
        software.source(key, None),
        some_names(&users),
        "shell settings: profiles of users; a user who signed in has settings and device ids of this \
         machine",
    ));
    let (source, found) = names(r"Microsoft\Windows NT\CurrentVersion\NetworkList\Profiles");
    out.push(line(
        "network_profiles",
        source,
        found,
        "network settings: networks that this machine met",
    ));
    let (source, found) = names(r"Microsoft\Windows NT\CurrentVersion\NetworkCards");
    out.push(line(
        "network_cards",
        source,
        found,
        "network settings: cards that were installed",
    ));
    let (source, found) = names(r"Microsoft\Windows Media Player NSS\3.0\Servers");
    out.push(line(
        "media_player_servers",
        source,
        found,
        "media player settings: ids under which it offers media to the network",
    ));
    out
}

/// Most network cards asked for their address.
const MAX_INTERFACES: usize = 64;

/// The evidence in SYSTEM.
#[must_use]
pub fn of_system(system: &Registry<'_>) -> Vec<Evidence> {
    let mut out = Vec::new();
    let mut setup = |id, key: &str, name: &str, meaning: &str| {
        let found = system.value(key, name).map(|value| value.show());
        out.push(line(id, system.source(key, Some(name)), found, meaning));
    };
    setup(
        "setup_type",
        SETUP,
        "SetupType",
        "0: the next start is an ordinary one; otherwise CmdLine is run first",
    );
    setup(
        "cmd_line",
        SETUP,
        "CmdLine",
        "what the next start runs if SetupType is not 0",
    );
    for (id, name, meaning) in [
        (
            "system_setup_in_progress",
            "SystemSetupInProgress",
            "1: setup has not come to its end",
        ),
        (
            "mini_setup_in_progress",
            "MiniSetupInProgress",
            "1: the short setup after Sysprep is to be run, or is running",
        ),
        (
            "audit_in_progress",
            "AuditInProgress",
            "1: the machine is being audited before it is sealed",
        ),
        (
            "oobe_in_progress",
            "OOBEInProgress",
            "1: the first start of a user is to come, or is running",
        ),
        (
            "clone_tag",
            "CloneTag",
            "when Sysprep last prepared this image, or the one it was made from",
        ),
    ] {
        setup(id, SETUP, name, meaning);
    }
    setup(
        "generalization_state",
        SYSPREP_STATUS,
        "GeneralizationState",
        "7: nothing is unfinished; 3: Sysprep did not come to its end",
    );
    setup(
        "cleanup_state",
        SYSPREP_STATUS,
        "CleanupState",
        "2: nothing is unfinished",
    );
    let set = control_set(system).unwrap_or_else(|| "ControlSet001".to_owned());
    let manager = format!(r"{set}\Control\Session Manager");
    for (id, name) in [
        ("setup_execute", "SetupExecute"),
        ("boot_execute", "BootExecute"),
    ] {
        setup(
            id,
            &manager,
            name,
            "programs that run before the next start; setupcl among them makes a new SID",
        );
    }
    setup(
        "product_type",
        &format!(r"{set}\Control\ProductOptions"),
        "ProductType",
        "WinNT: a workstation; ServerNT: a server; LanmanNT: a domain controller, of which no image is \
         supported",
    );
    let interfaces = format!(r"{set}\Services\Tcpip\Parameters\Interfaces");
    let mut addresses = Vec::new();
    for card in system.subkeys(&interfaces).iter().take(MAX_INTERFACES) {
        let key = format!("{interfaces}\\{card}");
        for name in ["IPAddress", "DhcpIPAddress"] {
            let text = system.value(&key, name).and_then(|value| value.text());
            addresses.extend(text.filter(|text| !text.is_empty() && text != "0.0.0.0"));
        }
    }
    addresses.sort();
    addresses.dedup();
    out.push(line(
        "network_addresses",
        system.source(&interfaces, None),
        some_names(&addresses),
        "network settings: addresses of this machine",
    ));
    out
}

/// What the setup state file says of the image state.
#[must_use]
pub fn of_state_file(path: String, bytes: Option<&[u8]>) -> Evidence {
    let entries = bytes.map(super::ini::entries).unwrap_or_default();
    let state = entries.into_iter().find(|entry| {
        entry.section.eq_ignore_ascii_case("State") && entry.key.eq_ignore_ascii_case("ImageState")
    });
    let state = state.map(|entry| shown(&entry.value));
    let meaning = match (&state, bytes) {
        (Some(state), _) => ImageState::of(state).meaning(),
        (None, Some(_)) => "the file names no image state",
        (None, None) => "no such file",
    };
    let source = Source {
        file: path,
        key: Some("State".to_owned()),
        value: Some("ImageState".to_owned()),
    };
    line("image_state_file", source, state, meaning)
}

/// What the judge needs besides the lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Which Windows it is.
    pub generation: Option<Generation>,
    /// Whether SYSTEM was read.
    pub has_system: bool,
    /// Whether it is a member of a domain.
    pub in_domain: bool,
}

/// Comes to a verdict.
#[must_use]
pub fn judge(evidence: Vec<Evidence>, about: Circumstances) -> Generalization {
    let case = Case {
        evidence: &evidence,
        about,
    };
    let modern = match about.generation {
        Some(generation) => generation.has_image_state(),
        None => case
            .value("image_state_registry")
            .or(case.value("image_state_file"))
            .is_some(),
    };
    let mut contradictions = Vec::new();
    let (mut status, mut reason) = match modern {
        true => case.by_image_state(&mut contradictions),
        false => case.by_setup_keys(&mut contradictions),
    };
    let prepared = matches!(status, Status::Generalized | Status::GeneralizedNotArmed);
    if prepared && about.in_domain && about.generation != Some(Generation::Nt4) {
        contradictions.push(
            "prepared, yet a member of a domain: Sysprep takes the machine out of its domain"
                .to_owned(),
        );
    }
    let controller = case
        .value("product_type")
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("LanmanNT"));
    if controller {
        if prepared {
            contradictions.push(
                "prepared, yet a domain controller: Sysprep prepares none, its SID is the domain's"
                    .to_owned(),
            );
            status = Status::Unknown;
        }
        reason.push_str("; a domain controller, which is never supported as an image");
    }
    let advice = match (controller, status) {
        (true, _) => Some(NO_CONTROLLER),
        (false, Status::Generalized) => None,
        (false, _) => Some(RECAPTURE),
    };
    Generalization {
        status,
        reason,
        advice,
        evidence,
        contradictions,
    }
}

struct Case<'a> {
    evidence: &'a [Evidence],
    about: Circumstances,
}

impl Case<'_> {
    fn value(&self, id: &str) -> Option<&str> {
        let found = self.evidence.iter().find(|line| line.id == id)?;
        found.value.as_deref()
    }

    fn number(&self, id: &str) -> Option<u32> {
        self.value(id)?.parse().ok()
    }

    fn command_has(&self, part: &str) -> bool {
        let command = self.value("cmd_line").unwrap_or_default();
        command.to_ascii_lowercase().contains(part)
    }

    /// Whether setupcl, which makes the new SID, is to run before the next start; none if no list of
    /// programs to run is there.
    fn runs_setupcl(&self) -> Option<bool> {
        let lists = ["setup_execute", "boot_execute"].map(|id| self.value(id));
        let mut there = lists.into_iter().flatten().peekable();
        there.peek()?;
        Some(there.any(|list| list.to_ascii_lowercase().contains("setupcl")))
    }

    /// Vista and later.
    fn by_image_state(&self, contradictions: &mut Vec<String>) -> (Status, String) {
        let registry = self.value("image_state_registry");
        let file = self.value("image_state_file");
        if let (Some(a), Some(b)) = (registry, file)
            && !a.eq_ignore_ascii_case(b)
        {
            contradictions.push(format!(
                "the registry's image state is {a}, State.ini's is {b}"
            ));
        }
        let Some(shown) = registry.or(file) else {
            return (Status::Unknown, "no image state was found".to_owned());
        };
        let (state, other) = (ImageState::of(shown), ImageState::of(file.unwrap_or(shown)));
        let armed = self.number("setup_type") == Some(2) && self.command_has("windeploy.exe");
        if [state, other].contains(&ImageState::Undeployable) {
            return (
                Status::Undeployable,
                ImageState::Undeployable.meaning().to_owned(),
            );
        }
        if state != other {
            let reason = "the registry and State.ini do not name the same image state";
            return (Status::Unknown, reason.to_owned());
        }
        let reason = format!("{shown}: {}", state.meaning());
        match state {
            ImageState::Generalized => self.generalized(armed, reason, contradictions),
            ImageState::Complete => {
                if armed {
                    contradictions.push(
                        "setup is complete, yet the next start is to run windeploy.exe".to_owned(),
                    );
                }
                if self.number("system_setup_in_progress") == Some(1) {
                    contradictions
                        .push("setup is complete, yet SystemSetupInProgress is 1".to_owned());
                }
                (Status::Deployed, reason)
            }
            ImageState::Specialized => (Status::Specialized, reason),
            ImageState::Undeployable | ImageState::Other => (Status::Unknown, reason),
        }
    }

    /// The image state says so: whether the rest agrees.
    fn generalized(
        &self,
        armed: bool,
        reason: String,
        contradictions: &mut Vec<String>,
    ) -> (Status, String) {
        if self.value("sysprep_tag").is_none() {
            contradictions.push(
                "the image state says prepared, yet there is no Sysprep_succeeded.tag".to_owned(),
            );
        }
        if !self.about.has_system {
            let reason = format!(
                "{reason}; but SYSTEM, which would say whether it is set up to, was \
                                  not read"
            );
            return (Status::Unknown, reason);
        }
        let unfinished = match self.number("generalization_state") {
            None | Some(7) => false,
            Some(number) => {
                contradictions.push(format!(
                    "the image state says prepared, yet GeneralizationState is {number}"
                ));
                true
            }
        };
        if let Some(number) = self.number("cleanup_state").filter(|number| *number != 2) {
            contradictions.push(format!(
                "the image state says prepared, yet CleanupState is {number}"
            ));
        }
        match (unfinished, armed) {
            (true, _) => (
                Status::Unknown,
                "Sysprep began to prepare it and did not come to its end".to_owned(),
            ),
            (false, true) => (Status::Generalized, reason),
            (false, false) => (
                Status::GeneralizedNotArmed,
                format!(
                    "{shown}, but the next start does not run windeploy.exe (SetupType is {})",
                    self.value("setup_type").unwrap_or("absent"),
                    shown = "prepared with Sysprep"
                ),
            ),
        }
    }

    /// NT 4.0 to Server 2003: nothing says it in one word.
    fn by_setup_keys(&self, contradictions: &mut Vec<String>) -> (Status, String) {
        if !self.about.has_system {
            return (
                Status::Unknown,
                "SYSTEM, which would say it, was not read".to_owned(),
            );
        }
        let Some(kind) = self.number("setup_type") else {
            return (Status::Unknown, "SYSTEM has no SetupType".to_owned());
        };
        if self.about.generation.is_none() {
            let reason = "which Windows it is was not found, so its marks cannot be judged";
            return (Status::Unknown, reason.to_owned());
        }
        let tag = self.value("clone_tag");
        let mini = self.command_has("-mini") || self.number("mini_setup_in_progress") == Some(1);
        if self.number("audit_in_progress") == Some(1) {
            let reason = "being audited (factory mode) on one hardware, not sealed again";
            return (Status::Specialized, reason.to_owned());
        }
        // A CloneTag stays for ever: alone it tells of a Sysprep long ago, not of the next start.
        if kind != 0 && mini {
            if tag.is_none() {
                contradictions.push(
                    "the next start runs the short setup, yet Sysprep left no CloneTag".to_owned(),
                );
            }
            if self.value("setupcl").is_none() {
                contradictions.push(
                    "the next start runs the short setup, yet setupcl.exe, which makes the new SID, is \
                     not there"
                        .to_owned(),
                );
            }
            if self.runs_setupcl() == Some(false) {
                contradictions.push(
                    "the next start runs the short setup, yet neither SetupExecute nor BootExecute runs \
                     setupcl, which makes the new SID"
                        .to_owned(),
                );
            }
            let when = tag.map_or_else(String::new, |tag| format!(" (Sysprep ran on {tag})"));
            return (
                Status::Generalized,
                format!("the next start runs the short setup of Sysprep{when}"),
            );
        }
        if kind != 0 {
            let command = self.value("cmd_line").unwrap_or_default();
            let old = tag.map_or_else(String::new, |tag| {
                format!("; CloneTag tells of a Sysprep on {tag}, not of this start")
            });
            return (
                Status::Unknown,
                format!(
                    "Windows setup has not come to its end, and it is not Sysprep's: the next start runs \
                     `{command}`{old}"
                ),
            );
        }
        if self.runs_setupcl() == Some(true) {
            contradictions.push(
                "setupcl is to make a new SID before the next start, yet SetupType is 0".to_owned(),
            );
        }
        if self.number("mini_setup_in_progress") == Some(1)
            || (mini && self.number("system_setup_in_progress") == Some(1))
        {
            contradictions.push(
                "the short setup of Sysprep is noted as in progress, yet SetupType is 0".to_owned(),
            );
            return (
                Status::GeneralizedNotArmed,
                "prepared with Sysprep, but the next start is an ordinary one".to_owned(),
            );
        }
        let reason = match tag {
            Some(tag) => {
                format!("in use; it was made from an image that Sysprep prepared on {tag}")
            }
            None => "in use, and Sysprep left no mark on it".to_owned(),
        };
        (Status::Deployed, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(generation: Generation, values: &[(&'static str, &str)]) -> (Status, usize) {
        let lines = values
            .iter()
            .map(|(id, value)| line(*id, Source::default(), Some((*value).to_owned()), ""));
        let about = Circumstances {
            generation: Some(generation),
            has_system: true,
            in_domain: false,
        };
        let verdict = judge(lines.collect(), about);
        assert_eq!(
            verdict.advice.is_none(),
            verdict.status == Status::Generalized
        );
        let controller = values.contains(&("product_type", "LanmanNT"));
        assert_eq!(verdict.advice == Some(NO_CONTROLLER), controller);
        assert_eq!(verdict.reason.contains("never supported"), controller);
        (verdict.status, verdict.contradictions.len())
    }

    const OOBE: &str = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE";

    #[test]
    fn the_image_state_alone_is_not_enough() {
        use Generation::Win11;
        let state = ("image_state_registry", OOBE);
        let tag = ("sysprep_tag", "x");
        let armed = [("setup_type", "2"), ("cmd_line", r"oobe\WinDeploy.exe")];
        assert_eq!(
            verdict(Win11, &[state, tag, armed[0], armed[1]]),
            (Status::Generalized, 0)
        );
        assert_eq!(
            verdict(Win11, &[state, tag]),
            (Status::GeneralizedNotArmed, 0)
        );
        assert_eq!(
            verdict(Win11, &[state, armed[0], armed[1]]),
            (Status::Generalized, 1)
        );
        assert_eq!(
            verdict(
                Win11,
                &[
                    state,
                    tag,
                    armed[0],
                    armed[1],
                    ("generalization_state", "3")
                ]
            ),
            (Status::Unknown, 1)
        );
        assert_eq!(
            verdict(
                Win11,
                &[state, tag, ("image_state_file", "IMAGE_STATE_COMPLETE")]
            ),
            (Status::Unknown, 1)
        );
        assert_eq!(
            verdict(
                Win11,
                &[("image_state_file", "IMAGE_STATE_UNDEPLOYABLE"), state]
            ),
            (Status::Undeployable, 1)
        );
        assert_eq!(verdict(Win11, &[]), (Status::Unknown, 0));
    }

    #[test]
    fn an_installed_windows_keeps_its_command_line_and_is_not_armed() {
        // As real hives have it: NT 4.0 keeps "setup -newsetup", XP keeps msoobe.
        for command in [
            "setup -newsetup",
            r"C:\WINDOWS\System32\oobe\msoobe.exe /update",
            "",
        ] {
            let values = [("setup_type", "0"), ("cmd_line", command)];
            assert_eq!(
                verdict(Generation::Xp, &values),
                (Status::Deployed, 0),
                "{command}"
            );
        }
    }

    #[test]
    fn before_vista_the_setup_keys_say_it() {
        let tag = ("clone_tag", "Fri Sep 29 06:49:45 2000");
        let mini = ("cmd_line", "setup -newsetup -mini");
        let cl = ("setupcl", "x");
        let xp = |values: &[(&'static str, &str)]| verdict(Generation::Xp, values);
        assert_eq!(
            xp(&[("setup_type", "2"), mini, tag, cl]),
            (Status::Generalized, 0)
        );
        assert_eq!(xp(&[("setup_type", "2"), mini]), (Status::Generalized, 2));
        assert_eq!(xp(&[("setup_type", "0"), tag, cl]), (Status::Deployed, 0));
        assert_eq!(
            xp(&[("setup_type", "0"), ("mini_setup_in_progress", "1"), tag]),
            (Status::GeneralizedNotArmed, 1)
        );
        assert_eq!(xp(&[("setup_type", "1")]), (Status::Unknown, 0));
        // A tag of long ago, and somebody's own command.
        let cmd = ("cmd_line", "cmd.exe");
        assert_eq!(
            xp(&[("setup_type", "2"), cmd, tag, cl]),
            (Status::Unknown, 0)
        );
        let (with, without) = (
            ("setup_execute", "setupcl.exe"),
            ("boot_execute", "autocheck autochk *"),
        );
        let armed = [("setup_type", "2"), mini, tag, cl];
        let and = |more: (&'static str, &'static str)| xp(&[&armed[..], &[more]].concat());
        assert_eq!(and(with), (Status::Generalized, 0));
        assert_eq!(and(without), (Status::Generalized, 1));
        assert_eq!(and(("setup_execute", "")), (Status::Generalized, 1));
        assert_eq!(xp(&[("setup_type", "0"), with]), (Status::Deployed, 1));
        let controller = ("product_type", "LanmanNT");
        assert_eq!(and(controller), (Status::Unknown, 1));
        assert_eq!(
            xp(&[("setup_type", "0"), controller]),
            (Status::Deployed, 0)
        );
        assert_eq!(
            xp(&[("setup_type", "0"), ("audit_in_progress", "1")]),
            (Status::Specialized, 0)
        );
        assert_eq!(xp(&[]), (Status::Unknown, 0));
    }
}
