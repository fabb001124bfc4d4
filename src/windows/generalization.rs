//! Whether an installation was generalized (prepared with Sysprep to become many machines).
//!
//! In: what the setup keys, the setup state and a few files say. Out: a [`Generalization`]: a status,
//! every line of evidence, every contradiction. It changes nothing, a SID least of all.
//!
//! Facts from: `shared/facts/identity.md` 4; 314828 (the policy), Q180962 (CloneTag), Q241048 and Q196018
//! (answer files), the documentation of Windows Setup States.

use serde::Serialize;

use super::machine::Source;

/// What the evidence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Stable short name, snake_case: `image_state_registry`, `setup_type`, `event_logs` ...
    pub id: &'static str,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
