//! Certificates in a hive: what they are, and where their private keys are.

use super::HiveLook;
use crate::{
    error::{Error, Result},
    hive::KeyRef,
    plan::{
        Certificate, Container, Finding, Identifier, KeyOf,
        tokens::{self, Class},
    },
    rules::{Action, Rule},
    text::{Name, escape},
    windows::capi::{BLOB_LIMIT, KeyPlace, Stored, parse_stored},
};

impl HiveLook<'_, '_> {
    /// A certificate as it is stored in this key; none if there is none.
    fn stored(&self, key: KeyRef) -> Result<Option<Result<Stored>>> {
        let values = self.hive.values(key)?;
        let Some(blob) = values
            .iter()
            .find(|v| v.name.eq_registry(&Name::new("Blob")))
        else {
            return Ok(None);
        };
        if blob.data_len > BLOB_LIMIT {
            return Ok(Some(Err(Error::limit(format!(
                "stored certificate: at most {BLOB_LIMIT} bytes expected, found {}",
                blob.data_len
            )))));
        }
        let data = self.hive.value_data(blob);
        Ok(Some(data.and_then(|data| parse_stored(&data))))
    }

    /// Where the private key of a certificate is.
    pub(super) fn key_place(
        &mut self,
        rule: &Rule,
        parent: &str,
        key: KeyRef,
        name: &Name,
    ) -> Result<()> {
        let evidence = match self.stored(key)? {
            None => return Ok(()),
            Some(Ok(stored)) => match stored.key {
                None => return Ok(()),
                Some(KeyPlace::Machine(container) | KeyPlace::Cng(container)) => {
                    self.gathered.containers.push(Container {
                        rule: rule.id.clone(),
                        name: container,
                        certificate: String::from_utf16_lossy(name.units()),
                    });
                    return Ok(());
                }
                Some(KeyPlace::Elsewhere(where_to)) => {
                    format!("{}: not looked for, not removed", escape(&where_to))
                }
            },
            Some(Err(error)) => format!("where its private key is cannot be told: {error}"),
        };
        let finding = self.key_finding(rule, parent, key, name, evidence);
        finding.action = Action::Report;
        Ok(())
    }

    /// A certificate that a rule matches. Whether it goes is known when its key was looked for.
    pub(super) fn certificate(
        &mut self,
        rule: &Rule,
        store: &[String],
        key: KeyRef,
        name: &Name,
    ) -> Result<()> {
        let text = String::from_utf16_lossy(name.units());
        let deletes = rule.effective_action() == Action::Delete;
        let mut own = Vec::new();
        if deletes {
            tokens::of_text(&text, Class::Name, &mut own);
        }
        let content = self.content(key)?;
        let (evidence, key_of) = match self.stored(key)? {
            None => (format!("no certificate in it; {content}"), KeyOf::None),
            Some(Err(error)) => (format!("{error}; {content}"), KeyOf::Unknown),
            Some(Ok(stored)) => {
                if deletes {
                    tokens::of_certificate(&text, &stored, &mut own);
                }
                let evidence = evidence(&text, &stored);
                let key_of = match stored.key {
                    None => KeyOf::None,
                    Some(KeyPlace::Machine(name) | KeyPlace::Cng(name)) => KeyOf::Container(name),
                    Some(KeyPlace::Elsewhere(_)) => KeyOf::Unknown,
                };
                (evidence, key_of)
            }
        };
        let finding: &mut Finding = self.key_finding(rule, &store.join("\\"), key, name, evidence);
        finding.ids = Identifier::in_text(rule, &text);
        if deletes {
            let subject = finding.subject.clone();
            self.gathered.certificates.push(Certificate {
                rule: rule.id.clone(),
                partition: self.volume.partition,
                subject,
                hive: self.path.to_owned(),
                store: store.iter().map(|part| Name::new(part)).collect(),
                name: name.clone(),
                key: key_of,
                tokens: own,
            });
        }
        Ok(())
    }
}

fn evidence(name: &str, stored: &Stored) -> String {
    let mut evidence = match &stored.thumbprint {
        Some(thumbprint) if thumbprint.eq_ignore_ascii_case(name) => "certificate".to_owned(),
        Some(thumbprint) => format!("certificate with another SHA-1 than its key: {thumbprint}"),
        None => "properties without a certificate".to_owned(),
    };
    match &stored.key {
        Some(KeyPlace::Machine(container)) => {
            evidence.push_str(&format!(
                ", private key in container `{}`",
                escape(container)
            ));
        }
        Some(KeyPlace::Cng(container)) => {
            evidence.push_str(&format!(
                ", private key in container `{}` of the newer key store (CNG)",
                escape(container)
            ));
        }
        Some(KeyPlace::Elsewhere(where_to)) => {
            evidence.push_str(&format!(", private key: {}", escape(where_to)));
        }
        None => evidence.push_str(", no private key"),
    }
    evidence
}
