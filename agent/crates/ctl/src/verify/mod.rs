//! `verify`: proves images against their manifest by reading every byte again, with `--chain` those of every backup that
//! it builds on, with `--public-key` who wrote it. Knows no agent.
mod prove;

use std::time::Instant;

use hotadd_api::manifest::DiskRecord;
use serde_json::json;

pub use self::prove::{Proof, prove};
use crate::{
    chain::{Chain, ChainDisk, Layer, Stored},
    cli::VerifyArgs,
    error::Failure,
    exit::Exit,
    output::{Output, bytes, table},
    reasons,
    sign::{self, PublicKey},
};

/// # Errors
/// Exit 2 when the manifest can't be used, 8 when an image, a base or the signature differs.
pub fn run(args: &VerifyArgs, out: &Output) -> Result<Exit, Failure> {
    let stored = signed(&args.manifest, args.public_key.as_deref())?;
    if args.public_key.is_none() && sign::beside(&stored.path).exists() {
        out.warning("the manifest is signed; give --public-key to check by whom");
    }
    let chain = if args.chain {
        Chain::load(stored, Exit::VerifyFailed)?
    } else {
        let layer = Layer { id: stored.id(), manifest: stored.manifest()?, path: stored.path };
        Chain::alone(layer)
    };
    let mut rounds = Rounds { out, rows: Vec::new(), first: None };
    for disk in chain.disks() {
        rounds.disk(&disk);
    }
    out.result(&table(
        &["image", "scope", "capacity", "hashed", "zero", "in the base", "time", "result"],
        &rounds.rows,
    ));
    if let Some(flaw) = rounds.first {
        return Err(Failure::new(Exit::VerifyFailed, reasons::MISMATCH, flaw));
    }
    tell(args, &chain, out);
    Ok(Exit::Ok)
}

/// Reads a manifest, and its signature if there is a key for it.
///
/// # Errors
/// Exit 2 when a file can't be used, 8 when the signature is missing or wrong.
pub fn signed(manifest: &std::path::Path, key: Option<&std::path::Path>) -> Result<Stored, Failure> {
    let key = key.map(PublicKey::load).transpose()?;
    let stored = Stored::open(manifest)?;
    key.map_or(Ok(()), |key| key.check(&stored))?;
    Ok(stored)
}

fn tell(args: &VerifyArgs, chain: &Chain, out: &Output) {
    let manifest = &chain.top().manifest;
    let disks = counted(manifest.disks.len(), "disk");
    let backups = chain.layers().len();
    out.event(|| {
        json!({"event": "verified", "vm": manifest.vm_name, "disks": manifest.disks.len(), "chain": args.chain,
            "backups": backups, "signed": args.public_key.is_some()})
    });
    let vm = &manifest.vm_name;
    out.result(&match &manifest.base {
        Some(base) if !args.chain => {
            format!(
                "{disks} of {vm}: every byte matches its manifest; what is in the base {} was not read (--chain)",
                base.file
            )
        }
        _ if args.chain => {
            format!("{disks} of {vm}: every byte matches its manifest, over {}", counted(backups, "backup"))
        }
        _ => format!("{disks} of {vm}: every byte matches its manifest"),
    });
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What was proven so far.
struct Rounds<'a> {
    out: &'a Output,
    rows: Vec<Vec<String>>,
    first: Option<String>,
}

impl Rounds<'_> {
    fn disk(&mut self, disk: &ChainDisk<'_>) {
        for (layer, record) in &disk.layers {
            self.image(layer, record);
        }
    }

    fn image(&mut self, layer: &Layer, disk: &DiskRecord) {
        let started = Instant::now();
        let path = layer.image(disk);
        let bar = self.out.bar(&disk.label, disk.capacity_bytes);
        let proof = prove(&path, disk, &bar);
        bar.finish_and_clear();
        self.out.event(|| {
            json!({"event": "verify_disk", "device_key": disk.device_key, "file": disk.file, "ok": proof.bad == 0,
                "path": path, "scope": disk.scope, "capacity_bytes": disk.capacity_bytes, "data_bytes": proof.data,
                "zero_bytes": proof.zero, "base_bytes": proof.base, "bad_extents": proof.bad,
                "first_flaw": proof.first})
        });
        self.rows.push(vec![
            disk.file.clone(),
            disk.scope.name().to_owned(),
            bytes(disk.capacity_bytes),
            bytes(proof.data),
            bytes(proof.zero),
            bytes(proof.base),
            format!("{:.2} s", started.elapsed().as_secs_f64()),
            proof.first.clone().map_or_else(|| "ok".to_owned(), |flaw| format!("{} bad: {flaw}", proof.bad)),
        ]);
        if let Some(flaw) = proof.first {
            self.first.get_or_insert(format!("{}: {flaw}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests;
