//! A certificate as the registry stores it: a list of properties, one of them the certificate itself.

use sha1::{Digest, Sha1};

use crate::bytes::View;

/// Property: SHA-1 of the certificate (wincrypt.h, CERT_SHA1_HASH_PROP_ID).
const SHA1_HASH: u32 = 3;
/// Property: which key belongs to it (CERT_KEY_PROV_INFO_PROP_ID).
const KEY_PROVIDER: u32 = 2;
/// Property: the certificate, DER (CERT_CERT_PROP_ID).
const CERTIFICATE: u32 = 32;
/// Most properties looked at; real ones have a dozen.
const MAX_PROPERTIES: usize = 1000;

/// What a stored certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-1 as stored beside it, upper-case hex.
    pub stored: Option<String>,
    /// SHA-1 of the certificate itself, upper-case hex.
    pub computed: Option<String>,
    /// Name of the container of its private key.
    pub container: Option<String>,
}

/// The properties in a `Blob` value: id (4 bytes), 1 (4 bytes), length (4 bytes), data. What is cut off is
/// left out.
#[must_use]
pub fn parse_certificate(blob: &[u8]) -> Certificate {
    let mut out = Certificate::default();
    let view = View::new(blob, "certificate");
    let mut at = 0_usize;
    for _ in 0..MAX_PROPERTIES {
        let head = (
            view.u32(at),
            at.checked_add(8).map(|at| view.u32(at)),
            at.checked_add(12),
        );
        let (Ok(id), Some(Ok(len)), Some(start)) = head else {
            break;
        };
        let Ok(data) = usize::try_from(len).map_err(|_| ()).and_then(|len| {
            let data = view.get(start, len).map_err(|_| ())?;
            at = start.saturating_add(len);
            Ok(data)
        }) else {
            break;
        };
        match id {
            SHA1_HASH => out.stored = Some(hex::encode_upper(data)),
            CERTIFICATE => out.computed = Some(hex::encode_upper(Sha1::digest(data))),
            KEY_PROVIDER => out.container = container(data),
            _ => {}
        }
    }
    out
}

/// CRYPT_KEY_PROV_INFO as stored: begins with the offset of the container's name (UTF-16, ends with 0).
fn container(data: &[u8]) -> Option<String> {
    let view = View::new(data, "key provider");
    let at = usize::try_from(view.u32(0).ok()?).ok()?;
    let (pairs, _) = data.get(at..)?.as_chunks::<2>();
    let units: Vec<u16> = pairs
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0)
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(id: u32, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap_or(0);
        let mut out: Vec<u8> = [id, 1, len].iter().flat_map(|n| n.to_le_bytes()).collect();
        out.extend(data);
        out
    }

    #[test]
    fn a_stored_certificate_tells_thumbprint_and_container() {
        let mut info = 32_u32.to_le_bytes().to_vec();
        info.resize(32, 0);
        info.extend("SMS\0rest".encode_utf16().flat_map(u16::to_le_bytes));
        let mut blob = property(2, &info);
        blob.extend(property(3, &[0xAB; 20]));
        blob.extend(property(32, b"abc"));
        let certificate = parse_certificate(&blob);
        assert_eq!(certificate.container.as_deref(), Some("SMS"));
        assert_eq!(certificate.stored, Some("AB".repeat(20)));
        // FIPS 180-2, the example for "abc".
        assert_eq!(
            certificate.computed.as_deref(),
            Some("A9993E364706816ABA3E25717850C26C9CD0D89D")
        );
        for len in 0..blob.len() {
            let _ = parse_certificate(blob.get(..len).unwrap_or_default());
        }
        assert_eq!(parse_certificate(&[0xFF; 400]), Certificate::default());
    }
}
