//! Self-relative security descriptors for hives and for `$Secure`.

use super::put;

/// A SID of the NT authority (S-1-5-...).
fn sid(parts: &[u32]) -> Vec<u8> {
    let mut v = vec![1, u8::try_from(parts.len()).unwrap(), 0, 0, 0, 0, 0, 5];
    v.extend(parts.iter().flat_map(|p| p.to_le_bytes()));
    v
}

/// The `n`th descriptor: owner Administrators, group SYSTEM, full control for SYSTEM and
/// Administrators; `n` sets the rights of Users, so that different numbers differ.
pub fn descriptor(n: u32) -> Vec<u8> {
    let administrators = sid(&[32, 544]);
    let system = sid(&[18]);
    let users = sid(&[32, 545]);
    let aces = [
        (0x000f_003f, &system),
        (0x000f_003f, &administrators),
        (0x0002_0019 | (n & 0xff) << 8, &users),
    ];
    let mut acl = vec![2, 0, 0, 0, 0, 0, 0, 0];
    for (mask, who) in aces {
        acl.extend([0, 2]);
        acl.extend(u16::try_from(8 + who.len()).unwrap().to_le_bytes());
        acl.extend(u32::to_le_bytes(mask));
        acl.extend(who);
    }
    let acl_len = u16::try_from(acl.len()).unwrap();
    put::u16(&mut acl, 2, acl_len);
    put::u16(&mut acl, 4, 3);
    let mut v = vec![0; 20];
    v[0] = 1;
    put::u16(&mut v, 2, 0x8004); // self-relative, DACL present
    put::u32(&mut v, 16, 20);
    v.extend(&acl);
    let owner = u32::try_from(v.len()).unwrap();
    v.extend(&administrators);
    let group = u32::try_from(v.len()).unwrap();
    v.extend(&system);
    put::u32(&mut v, 4, owner);
    put::u32(&mut v, 8, group);
    v
}
