//! The view indexes in `$Extend` that speak of a file: `$ObjId:$O`, `$Reparse:$R`, `$Quota:$Q`.
//!
//! Facts: facts/ntfs.md 1 (rows 7 to 9) and 1.1.

use std::collections::BTreeSet;

use super::{
    index::Index,
    node::Order,
    remove::wipe_record_slack,
    target::{Target, refuse},
};
use crate::{
    bytes::View,
    error::{Error, Kind, Result},
    units::MftReference,
    volume::ntfs::{
        File, FileName, Ntfs,
        format::{code, number},
    },
};

/// Position of the flags in `$Quota:$Q` data, and the flags that matter.
const QUOTA_FLAGS: usize = 4;
const QUOTA_ACTIVE: u32 = 0x10 | 0x40 | 0x800;
const QUOTA_OUT_OF_DATE: u32 = 0x200;

/// A file in `$Extend`, if the volume has it.
fn extend_file(vol: &Ntfs, name: &str) -> Result<Option<File>> {
    let extend = vol.file(number::EXTEND)?;
    if !extend.is_directory() {
        return Ok(None);
    }
    let index = Index::open(vol, &extend, "$I30", Order::Names(vol.upcase().table()))?;
    for entry in index.tree().entries()? {
        if FileName::parse(entry.key()?)?.name.eq_ascii(name) {
            return vol.file_at(MftReference(entry.reference()?)).map(Some);
        }
    }
    Ok(None)
}

/// Removes the entries of all targets; says how many, and how many stale bytes went with them.
pub(super) fn remove_views(vol: &Ntfs, targets: &[Target]) -> Result<(u64, u64)> {
    // Before 3.0 record 11 is no directory, and there are no views.
    if vol.version().0 < 3 {
        return Ok((0, 0));
    }
    let doubt = |name: &str, error: Error| {
        let kind = match error.kind() {
            Kind::Malformed | Kind::Unsupported => Kind::Refused,
            other => other,
        };
        error
            .into_kind(kind)
            .at("file", format!(r"\$Extend\{name}"))
    };
    let mut entries = 0_u64;
    let mut slack = 0_u64;
    for (name, view, kind) in [
        ("$ObjId", "$O", code::OBJECT_ID),
        ("$Reparse", "$R", code::REPARSE_POINT),
    ] {
        let concerned: Vec<&Target> = targets
            .iter()
            .filter(|t| t.file.attributes.iter().any(|a| a.code == kind))
            .collect();
        if concerned.is_empty() {
            continue;
        }
        let one = || -> Result<(u64, u64)> {
            let file = extend_file(vol, name)?.ok_or_else(|| {
                Error::refused(format!(
                    "removal: the index of all {} expected, found none",
                    code::name(kind)
                ))
            })?;
            let index = Index::open(vol, &file, view, Order::Numbers)?;
            remove_entries(vol, &file, index, kind, &concerned)
        };
        let (removed, wiped) = one().map_err(|e| doubt(name, e))?;
        entries = entries.saturating_add(removed);
        slack = slack.saturating_add(wiped);
    }
    mark_quota(vol).map_err(|e| doubt("$Quota", e))?;
    Ok((entries, slack))
}

/// Takes out every entry that speaks of a target, if the key is the one its attribute has.
fn remove_entries(
    vol: &Ntfs,
    file: &File,
    mut index: Index<'_>,
    code: u32,
    targets: &[&Target],
) -> Result<(u64, u64)> {
    let mut doomed: Vec<Vec<u8>> = Vec::new();
    for entry in index.tree().entries()? {
        let key = View::new(entry.key()?, "view index key");
        let reference = if code == code::OBJECT_ID {
            View::new(entry.data()?, "$O entry").u64(0)?
        } else {
            key.u64(4)?
        };
        let number = MftReference(reference).record();
        let Some(target) = targets.iter().find(|t| t.file.reference.record() == number) else {
            continue;
        };
        let len = if code == code::OBJECT_ID { 16 } else { 4 };
        let value = value_of(vol, target, code)?;
        let same = View::new(&value, "attribute value").get(0, len)? == key.get(0, len)?;
        if !same || target.file.reference.0 != reference {
            return Err(refuse(
                vol,
                Error::refused("view index: the entry of the file expected, found another key"),
                target.file.reference,
                &target.file.names,
            ));
        }
        doomed.push(key.bytes().to_vec());
    }
    if doomed.is_empty() {
        return Ok((0, 0));
    }
    let mut removed = 0_u64;
    for key in &doomed {
        index.remove(key)?;
        removed = removed.saturating_add(1);
    }
    let mut slack = index.commit()?;
    let records: BTreeSet<u64> = file.records.iter().map(|record| record.number).collect();
    for record in records {
        slack = slack.saturating_add(wipe_record_slack(vol, record)?);
    }
    Ok((removed, slack))
}

/// The beginning of an attribute's value: object id, or reparse tag.
fn value_of(vol: &Ntfs, target: &Target, code: u32) -> Result<Vec<u8>> {
    let stream = target.file.require(code, "")?;
    vol.read_whole(&stream)
}

/// Where quotas are tracked, Windows must count anew.
fn mark_quota(vol: &Ntfs) -> Result<()> {
    let Some(file) = extend_file(vol, "$Quota")? else {
        return Ok(());
    };
    if file.attribute(code::INDEX_ROOT, "$Q").is_none() {
        return Ok(());
    }
    let mut index = Index::open(vol, &file, "$Q", Order::Numbers)?;
    let Some(path) = index.find(&1_u32.to_le_bytes())? else {
        return Ok(());
    };
    let entry = index.tree().at(&path)?;
    let flags = View::new(entry.data()?, "$Q entry").u32(QUOTA_FLAGS)?;
    if flags & QUOTA_ACTIVE == 0 || flags & QUOTA_OUT_OF_DATE != 0 {
        return Ok(());
    }
    let at = usize::from(View::new(entry.bytes(), "$Q entry").u16(0)?).saturating_add(QUOTA_FLAGS);
    index.patch(&path, at, &(flags | QUOTA_OUT_OF_DATE).to_le_bytes())?;
    index.commit().map(|_| ())
}
