//! `declone verify`: fresh eyes: the rules again, and a raw search of every data extent.

use std::path::Path;

use md5::Md5;
use sha1::{Digest, Sha1};

use super::{VerifyArgs, facts, place, progress::Bar, scan};
use crate::{
    device::Access,
    error::{Error, Kind, Result},
    image::{self, Image},
    plan::{self, tokens, tokens::Token},
    report::{ImageReport, Searched},
    rules::Rule,
    tree::UnseenClass,
    verify::{residue, search::MAX_LISTED},
};

pub(super) fn run(args: &VerifyArgs, rules: &[Rule], report: &mut ImageReport) -> Result<()> {
    let terms = args.required.terms(&args.common.accepted);
    report.against = args.against.is_some();
    let common = &args.common;
    let bar = common.progress();
    let mut against = args
        .against
        .as_deref()
        .map(read_tokens)
        .transpose()?
        .unwrap_or_default();
    against.extend(args.seek.tokens()?);
    if super::directory::is_one(&args.image, common)? {
        return super::directory::verify(&args.image, common, (rules, &terms), against, report);
    }
    let options = common.options(&args.image);
    let host = image::open_files(&args.image, Access::Look, &options)?;
    report.remarks.extend(host.remarks());
    place::refuse_pending(&host, common.journal.path.as_deref())?;
    let image = image::open(host.clone(), &options)?;
    let plan = plan::make(&image, rules, &mut |stage, done, total| {
        bar.tick(stage, done, total)
    })?;
    facts::fill(report, &image, &plan)?;
    report.tokens.extend(against);
    tokens::tidy(&mut report.tokens);
    let map = host.single();
    let raw = residue::raw(
        &image,
        host.as_ref(),
        map,
        &report.tokens,
        true,
        MAX_LISTED,
        &|done, total| {
            bar.tick("searching", done, total);
        },
    )?;
    report.searched.push(Searched {
        what: "every data extent of the file".into(),
        bytes: raw.searched,
    });
    if raw.contents > 0 {
        report.searched.push(Searched {
            what: "contents of the archive, decompressed".into(),
            bytes: raw.contents,
        });
    }
    if raw.unlisted() > 0 {
        report.not_scanned.push(plan::NotScanned::new(
            UnseenClass::Unsearched,
            format!("{} more hits", raw.unlisted()),
            "only the first few thousand are listed with their owner",
        ));
    }
    report.residues = raw.residues;
    report.residues.extend(residue::unreferenced(&image)?);
    for (volume, tree) in image
        .volumes
        .iter()
        .filter_map(|volume| Some((volume, volume.tree()?)))
    {
        let wrong = tree.wrong_contents().map_err(|error| volume.climb(error))?;
        for (whose, reason) in wrong {
            let mut unseen = plan::NotScanned::new(UnseenClass::Damaged, whose.clone(), reason)
                .remedy(
                    "take another copy of the file: what stands there is not what was captured",
                );
            unseen.path = Some(whose);
            report.not_scanned.push(unseen);
        }
    }
    place::name_residues(&host, &mut report.residues);
    if common.hash.is_some() {
        let digest = place::digest_of(&host, &bar)?;
        if let Some(facts) = &mut report.image {
            facts.sha256 = Some(digest);
        }
    }
    place::remark_changes(&host, report)?;
    scan::settle(report, &image, &plan, (rules, &terms));
    if common.hash.is_some() {
        compare_digests(&image, &bar, report)?;
    }
    options.near.check_reads()?;
    host.check_reads()
}

/// The digests of the disk that the container holds, against the disk.
fn compare_digests(image: &Image, bar: &Bar, report: &mut ImageReport) -> Result<()> {
    let (md5, sha1) = (&image.facts.md5, &image.facts.sha1);
    if md5.is_none() && sha1.is_none() {
        return Ok(());
    }
    let mut hashes = (Md5::new(), Sha1::new());
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < image.disk_len {
        let len = (image.disk_len - at).min(buffer.len() as u64) as usize;
        let part = &mut buffer[..len];
        image.disk.read_at(at, part)?;
        hashes.0.update(&part);
        if sha1.is_some() {
            hashes.1.update(&part);
        }
        at += len as u64;
        bar.tick("hashing", at, image.disk_len);
    }
    let is = [
        hex::encode(hashes.0.finalize()),
        hex::encode(hashes.1.finalize()),
    ];
    for (kind, says, is) in [("MD5", md5, &is[0]), ("SHA-1", sha1, &is[1])] {
        match says {
            None => {}
            Some(says) if says == is => {
                let remark = format!("the stored {kind} {says} is that of the disk");
                report.remarks.push(remark);
            }
            Some(says) => {
                let error = Error::malformed(format!(
                    "{}: a disk with the stored {kind} {says} expected, found {is}",
                    image.format
                ))
                .advise("the image is damaged, or was changed after the acquisition");
                report.errors.push((&error).into());
                report.exit_code = report.exit_code.max(super::exit_code(error.kind()));
            }
        }
    }
    Ok(())
}

/// The tokens of an earlier JSON report.
fn read_tokens(path: &Path) -> Result<Vec<Token>> {
    let shown = crate::text::escape(&path.display().to_string());
    let wrong = |what: String| Error::new(Kind::Usage, format!("--against {shown}: {what}"));
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| wrong(format!("JSON report expected: {e}")))?;
    if json["redacted"] == true {
        return Err(wrong(
            "a report with ids expected, found the marks of --redact: what was removed is not in it"
                .into(),
        ));
    }
    let mut all = Vec::new();
    for image in json["images"]
        .as_array()
        .ok_or_else(|| wrong("no images in it".into()))?
    {
        let tokens: Vec<Token> = serde_json::from_value(image["tokens"].clone())
            .map_err(|e| wrong(format!("tokens: {e}")))?;
        if let Some(short) = tokens
            .iter()
            .find(|token| token.bytes.len() < tokens::MIN_LEN)
        {
            return Err(wrong(format!(
                "token {} is too short",
                crate::text::escape(&short.label)
            )));
        }
        all.extend(tokens);
    }
    Ok(all)
}
