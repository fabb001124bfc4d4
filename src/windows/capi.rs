//! Which file holds the private key of a certificate: CryptoAPI's machine key store, or the newer one.
//!
//! In: a certificate as the registry stores it, a container's name, a key file. Out: names.
//! Facts from: MS-GPEF 2.2.1.1.1.1 (list of properties) and 2.2.1.1.1.1.1 (KEY_PROV_INFO); the file's
//! name: `shared/facts/identity.md` 2.3, measured with seven published names; the newer store's files
//! name their container inside (`identity.md` 9).

use md5::{Digest, Md5};
use sha1::Sha1;

use crate::{
    bytes::View,
    error::{Error, Result},
};

/// The directory of the machine's RSA keys; what stands before it depends on version and language
/// (`ProgramData`; `Documents and Settings\All Users\Application Data`).
pub const MACHINE_KEYS: [&str; 4] = ["Microsoft", "Crypto", "RSA", "MachineKeys"];

/// The directory of the machine's keys of the newer store (CNG); files are not called by container.
pub const CNG_KEYS: [&str; 3] = ["Microsoft", "Crypto", "Keys"];
/// How much of a key file is read to learn whose it is: the name stands in its head.
pub const KEY_FILE_HEAD: usize = 4096;

/// Longest stored certificate that is read; real ones have some KiB.
pub const BLOB_LIMIT: u32 = 1 << 20;
/// Most properties of one certificate; there are about a hundred kinds.
const MAX_PROPERTIES: usize = 1024;
/// A part of the shortest signatures in use (RSA with 1,024 bits: 128 bytes; ECDSA: some 70).
const END_LEN: usize = 64;
/// Windows: a container's name has at most MAX_PATH characters.
const MAX_CONTAINER_UNITS: usize = 260;

/// A property: 0x00 u32 id; 0x04 u32, 1; 0x08 u32 length; then the value.
mod property {
    pub(super) const ID: usize = 0;
    pub(super) const LEN: usize = 8;
    pub(super) const VALUE: usize = 12;
    /// CERT_KEY_PROV_INFO_PROP_ID.
    pub(super) const KEY_PROV_INFO: u32 = 2;
    /// CERT_CERT_PROP_ID: the certificate, DER.
    pub(super) const CERTIFICATE: u32 = 32;
}

/// KEY_PROV_INFO: 0x00 u32 offset of the container's name; 0x04 u32 offset of the provider's name; 0x08
/// u32 provider type; 0x0c u32 flags; 0x10 8 bytes reserved; 0x18 u32 key specification; then names,
/// UTF-16, each ended by a zero.
mod provider {
    pub(super) const CONTAINER_AT: usize = 0x00;
    pub(super) const NAME_AT: usize = 0x04;
    pub(super) const KIND: usize = 0x08;
    pub(super) const FLAGS: usize = 0x0c;
    /// CRYPT_MACHINE_KEYSET: the key is the machine's, not a user's.
    pub(super) const MACHINE: u32 = 0x20;
    /// The provider types that keep RSA keys (wincrypt.h: PROV_RSA_FULL, PROV_RSA_SIG,
    /// PROV_RSA_SCHANNEL, PROV_RSA_AES).
    pub(super) const RSA: [u32; 4] = [1, 2, 12, 24];
    /// No type: the provider's name decides.
    pub(super) const NO_KIND: u32 = 0;
    /// How the names of CryptoAPI's providers with RSA keys begin; a version may follow (wincrypt.h,
    /// MS_DEF_PROV and those after it).
    pub(super) const RSA_NAMES: [&str; 6] = [
        "Microsoft Base Cryptographic Provider",
        "Microsoft Enhanced Cryptographic Provider",
        "Microsoft Strong Cryptographic Provider",
        "Microsoft RSA Signature Cryptographic Provider",
        "Microsoft RSA SChannel Cryptographic Provider",
        "Microsoft Enhanced RSA and AES Cryptographic Provider",
    ];
    /// The newer store's provider that keeps keys in files (ncrypt.h, MS_KEY_STORAGE_PROVIDER).
    pub(super) const CNG_NAME: &str = "Microsoft Software Key Storage Provider";
}

/// A key file of the newer store: 0x00 u32, 1 (a version); 0x08 u32 length of the container's name in
/// bytes; 0x2c the name, UTF-16.
mod cng_file {
    pub(super) const VERSION: usize = 0x00;
    pub(super) const NAME_LEN: usize = 0x08;
    pub(super) const NAME: usize = 0x2c;
}

/// A private key file begins with ten dwords, the first 2 (a version), the third the length of the
/// container's name, which follows, ended by a zero.
mod key_file {
    pub(super) const VERSION: usize = 0x00;
    pub(super) const NAME_LEN: usize = 0x08;
    pub(super) const NAME: usize = 0x28;
}

/// A certificate as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// SHA-1 of the certificate, 40 hex digits in lower case.
    pub thumbprint: Option<String>,
    /// How the certificate ends: the last bytes of its signature, which no other has.
    pub end: Vec<u8>,
    /// Where its private key is.
    pub key: Option<KeyPlace>,
}

/// Where a private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// In the machine's RSA keys: the container's name.
    Machine(String),
    /// In the machine's keys of the newer store (CNG): the container's name.
    Cng(String),
    /// In a place where files are not named by the container: says which.
    Elsewhere(String),
}

/// Reads the properties of a stored certificate (the value `Blob`).
pub fn parse_stored(blob: &[u8]) -> Result<Stored> {
    let mut out = Stored::default();
    let mut rest = View::new(blob, "stored certificate");
    for _ in 0..MAX_PROPERTIES {
        if rest.is_empty() {
            return Ok(out);
        }
        let id = rest.u32(property::ID)?;
        let len = usize::try_from(rest.u32(property::LEN)?).unwrap_or(usize::MAX);
        let value = rest.get(property::VALUE, len)?;
        match id {
            property::KEY_PROV_INFO => out.key = Some(parse_key_place(value)?),
            property::CERTIFICATE => {
                out.thumbprint = Some(hex::encode(Sha1::digest(value)));
                let start = value.len().saturating_sub(END_LEN);
                out.end = value.get(start..).unwrap_or_default().to_vec();
            }
            _ => {}
        }
        let used = property::VALUE.saturating_add(len);
        rest = rest.sub(used, rest.len().saturating_sub(used), "stored certificate")?;
    }
    Err(Error::limit(format!(
        "stored certificate: at most {MAX_PROPERTIES} properties expected, found more"
    )))
}

fn parse_key_place(value: &[u8]) -> Result<KeyPlace> {
    let view = View::new(value, "key provider of a certificate");
    let name = text_at(value, view.u32(provider::CONTAINER_AT)?).ok_or_else(|| {
        Error::malformed("key provider of a certificate: a container's name expected, found none")
    })?;
    let maker = text_at(value, view.u32(provider::NAME_AT)?).unwrap_or_default();
    let kind = view.u32(provider::KIND)?;
    let starts = |start: &&str| {
        let head = maker.get(..start.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    let is_rsa = provider::RSA.contains(&kind)
        || kind == provider::NO_KIND && provider::RSA_NAMES.iter().any(starts);
    let is_cng = kind == provider::NO_KIND && maker.eq_ignore_ascii_case(provider::CNG_NAME);
    if !is_rsa && !is_cng {
        return Ok(KeyPlace::Elsewhere(format!(
            "key `{name}` of the provider `{maker}`, which is none of those that keep keys in files of \
             the machine"
        )));
    }
    if view.u32(provider::FLAGS)? & provider::MACHINE == 0 {
        return Ok(KeyPlace::Elsewhere(format!(
            "key container `{name}` of a user"
        )));
    }
    if is_cng {
        return Ok(KeyPlace::Cng(name));
    }
    if !name.is_ascii() {
        return Ok(KeyPlace::Elsewhere(format!(
            "key container `{name}`: what its file is called depends on the code page"
        )));
    }
    Ok(KeyPlace::Machine(name))
}

/// The text at an offset, ended by a zero; none if it is empty, without an end, or too long.
fn text_at(value: &[u8], at: u32) -> Option<String> {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let (units, _) = value.get(at..)?.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let name: Vec<u16> = units.take(MAX_CONTAINER_UNITS.saturating_add(1)).collect();
    let end = name.iter().position(|unit| *unit == 0)?;
    let name = name.get(..end).filter(|name| !name.is_empty())?;
    Some(String::from_utf16_lossy(name))
}

/// How the name of a container's file begins: MD5 of the name in lower case with a final zero, as four
/// little-endian dwords; then follow `_` and the machine's GUID.
#[must_use]
pub fn file_prefix(container: &str) -> String {
    let mut text = container.to_ascii_lowercase().into_bytes();
    text.push(0);
    let digest = Md5::digest(&text);
    let (dwords, _) = digest.as_chunks::<4>();
    let mut out = String::with_capacity(33);
    for dword in dwords {
        out.push_str(&format!("{:08x}", u32::from_le_bytes(*dword)));
    }
    out.push('_');
    out
}

/// The container's name that a key file carries itself, if it looks like one.
#[must_use]
pub fn container_of(file: &[u8]) -> Option<String> {
    let view = View::new(file, "key file");
    if view.u32(key_file::VERSION).ok()? != 2 {
        return None;
    }
    let len = usize::try_from(view.u32(key_file::NAME_LEN).ok()?).ok()?;
    let name = view.get(key_file::NAME, len).ok()?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let plain = (1..=MAX_CONTAINER_UNITS).contains(&name.len())
        && name.iter().all(|byte| (0x20..0x7f).contains(byte));
    plain.then(|| String::from_utf8_lossy(name).into_owned())
}

/// Whether the head of a file of the newer store says that it is this container's. Only the name's own
/// field decides: a private key is not taken out because a name stands somewhere in its file.
#[must_use]
pub fn is_cng_file_of(head: &[u8], container: &str) -> bool {
    cng_name(head).is_some_and(|name| name.to_lowercase() == container.to_lowercase())
}

/// The container's name in its field, if the file has one.
fn cng_name(head: &[u8]) -> Option<String> {
    let view = View::new(head, "key file");
    if view.u32(cng_file::VERSION).ok()? != 1 {
        return None;
    }
    let len = usize::try_from(view.u32(cng_file::NAME_LEN).ok()?).ok()?;
    let (units, odd) = view.get(cng_file::NAME, len).ok()?.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let name = units.strip_suffix(&[0]).unwrap_or(&units);
    let plain = odd.is_empty()
        && (1..=MAX_CONTAINER_UNITS).contains(&name.len())
        && name.iter().all(|unit| *unit >= 0x20);
    plain.then(|| String::from_utf16(name).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn key(container: &str, kind: u32, flags: u32) -> Vec<u8> {
        key_of(container, "A provider", kind, flags)
    }

    fn key_of(container: &str, provider: &str, kind: u32, flags: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let second = 28 + 2 * (u32::try_from(container.encode_utf16().count()).unwrap() + 1);
        for dword in [28, second, kind, flags, 0, 0, 1] {
            out.extend(dword.to_le_bytes());
        }
        for name in [container, provider] {
            out.extend(name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        }
        out
    }

    fn blob(properties: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, value) in properties {
            out.extend(id.to_le_bytes());
            out.extend(1_u32.to_le_bytes());
            out.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            out.extend(*value);
        }
        out
    }

    /// Names of containers and files as published by others (identity.md 2.3).
    #[test]
    fn the_file_of_a_container_is_called_as_windows_calls_it() {
        for (container, prefix) in [
            ("SMS", "19c5cf9c7b5dc9de3e548adb70398402_"),
            ("TSSecKeySet1", "f686aace6942fb7f7ceb231212eef4a4_"),
            ("iisConfigurationKey", "6de9cb26d2b98c01ec4e9e8b34824aa2_"),
            (
                "NetFrameworkConfigurationKey",
                "d6d986f09a1ee04e24c949879fdb506c_",
            ),
            ("iisWasKey", "76944fb33636aeddb9590521c2e8815a_"),
        ] {
            assert_eq!(file_prefix(container), prefix, "{container}");
            assert_eq!(file_prefix(&container.to_uppercase()), prefix);
        }
    }

    #[test]
    fn a_certificate_tells_its_thumbprint_and_where_its_key_is() {
        let der = b"not a certificate, but bytes";
        let info = key("SMS", 1, 0x20);
        let stored = parse_stored(&blob(&[(3, &[7; 20]), (2, &info), (32, der)])).unwrap();
        assert_eq!(stored.key, Some(KeyPlace::Machine("SMS".to_owned())));
        assert_eq!(stored.thumbprint.unwrap(), hex::encode(Sha1::digest(der)));
        assert_eq!(parse_stored(&[]).unwrap(), Stored::default());
        for info in [
            key("SMS", 1, 0),
            key("SMS", 0, 0x20),
            key("Schl\u{fc}ssel", 1, 0x20),
        ] {
            let stored = parse_stored(&blob(&[(2, &info)])).unwrap();
            assert!(
                matches!(stored.key, Some(KeyPlace::Elsewhere(_))),
                "{stored:?}"
            );
        }
        for info in [
            key("", 1, 0x20),
            key(&"x".repeat(300), 1, 0x20),
            vec![0; 28],
        ] {
            assert!(parse_stored(&blob(&[(2, &info)])).is_err());
        }
    }

    #[test]
    fn without_a_type_the_name_of_the_provider_decides() {
        let place = |provider: &str, flags| {
            let stored = parse_stored(&blob(&[(2, &key_of("SMS", provider, 0, flags))]));
            stored.unwrap().key.unwrap()
        };
        for provider in [
            "Microsoft Strong Cryptographic Provider",
            "Microsoft Base Cryptographic Provider v1.0",
            "microsoft enhanced RSA and AES cryptographic provider (Prototype)",
        ] {
            assert_eq!(place(provider, 0x20), KeyPlace::Machine("SMS".to_owned()));
            assert!(matches!(place(provider, 0), KeyPlace::Elsewhere(_)));
        }
        let cng = "Microsoft Software Key Storage Provider";
        assert_eq!(place(cng, 0x20), KeyPlace::Cng("SMS".to_owned()));
        for provider in [
            "Microsoft Platform Crypto Provider",
            "Microsoft Smart Card Key Storage Provider",
            "",
        ] {
            assert!(matches!(place(provider, 0x20), KeyPlace::Elsewhere(_)));
        }
    }

    #[test]
    fn a_file_of_the_newer_store_says_whose_it_is() {
        let name: Vec<u8> = "te-SMS".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut file = vec![1, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0];
        file.resize(0x2c, 0);
        file.extend(&name);
        file.extend(b"A\0\0\0secret");
        assert!(is_cng_file_of(&file, "te-sms") && is_cng_file_of(&file, "te-SMS"));
        for other in ["SMS", "te-SMS2", "te", ""] {
            assert!(!is_cng_file_of(&file, other), "{other}");
        }
        // The name somewhere else is no proof: the key stays, and its certificate with it.
        let mut other = vec![9; 7];
        other.extend(&name);
        assert!(!is_cng_file_of(&other, "te-sms"));
        for cut in 0..file.len() {
            assert!(cut >= 0x2c + name.len() || !is_cng_file_of(&file[..cut], "te-sms"));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_ends_in_an_answer() {
        let info = key("SMS", 1, 0x20);
        let whole = blob(&[(2, &info), (3, &[9; 20]), (32, &[0x30; 200])]);
        let ends = [0, 12 + info.len(), 24 + info.len() + 20, whole.len()];
        for cut in 0..=whole.len() {
            assert_eq!(
                parse_stored(&whole[..cut]).is_ok(),
                ends.contains(&cut),
                "{cut}"
            );
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut other = whole.clone();
                other[at] = byte;
                if let Ok(Stored {
                    key: Some(KeyPlace::Machine(name)),
                    ..
                }) = parse_stored(&other)
                {
                    assert!(name.is_ascii() && name.len() <= MAX_CONTAINER_UNITS);
                }
            }
        }
        let many = blob(&vec![(9, [].as_slice()); MAX_PROPERTIES + 1]);
        assert!(
            parse_stored(&many)
                .unwrap_err()
                .to_string()
                .contains("at most")
        );
    }

    #[test]
    fn a_key_file_says_whose_it_is() {
        let mut file = vec![2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        file.resize(0x28, 0);
        file.extend(b"SMS\0secret");
        assert_eq!(container_of(&file).as_deref(), Some("SMS"));
        for cut in 0..0x2c {
            assert_eq!(container_of(&file[..cut]), None);
        }
        file[8..12].copy_from_slice(&[0xff; 4]);
        assert_eq!(container_of(&file), None);
        file[0] = 1;
        assert_eq!(container_of(&file), None);
    }
}
