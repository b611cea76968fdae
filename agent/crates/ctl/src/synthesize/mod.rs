//! `synthesize`: a full backup out of a chain. Every source block is hashed before it is copied, the new images get hashes
//! of their own, and the manifest comes last, as with a backup. The chain is only read.
use std::{fs::File, os::unix::fs::FileExt as _};

use hotadd_api::manifest::{Digest, DiskRecord, FORMAT, Manifest, Scope};
use indicatif::ProgressBar;
use serde_json::json;

use crate::{
    backup::staging::{Staging, image_name},
    chain::{Chain, ChainDisk, compose::Composer},
    cli::SynthesizeArgs,
    error::Failure,
    exit::Exit,
    interrupt::Stop,
    output::{Output, bytes, table},
    reasons,
    sign::SigningKey,
    verify,
};

/// # Errors
/// Exit 2 for input that can't be used, 7 when writing fails, 130 when stopped, 8 when the chain is not what its manifests say.
pub fn run(args: &SynthesizeArgs, out: &Output, stop: &Stop) -> Result<Exit, Failure> {
    let key = args.sign.as_deref().map(SigningKey::load).transpose()?;
    let chain = Chain::load(verify::signed(&args.manifest, args.public_key.as_deref())?, Exit::VerifyFailed)?;
    let mut staging = Staging::open(&args.out, args.force)?;
    keep_sources(&chain, args)?;
    let mut disks = Vec::new();
    for disk in chain.disks() {
        disks.push(compose(&chain, &disk, &mut staging, out, stop)?);
    }
    let manifest = describe(&chain, disks);
    manifest.check().map_err(|flaw| Failure::internal(format!("the manifest would be wrong: {flaw}")))?;
    stop.check()?;
    let path = staging.commit(&manifest, key.as_ref())?;
    let data = |disk: &DiskRecord| disk.capacity_bytes - disk.zero.iter().map(|(_, length)| length).sum::<u64>();
    let row = |disk: &DiskRecord| vec![disk.file.clone(), bytes(disk.capacity_bytes), bytes(data(disk))];
    out.result(&table(&["image", "capacity", "data"], &manifest.disks.iter().map(row).collect::<Vec<_>>()));
    out.result(&format!("manifest: {}; composed of {} backups", path.display(), chain.layers().len()));
    out.event(|| {
        json!({"event": "synthesized", "manifest": path, "vm": manifest.vm_name, "disks": manifest.disks.len(),
            "backups": chain.layers().len()})
    });
    Ok(Exit::Ok)
}

/// `--force` must not take away what is read here.
fn keep_sources(chain: &Chain, args: &SynthesizeArgs) -> Result<(), Failure> {
    let folder = args.out.canonicalize().ok();
    if chain.layers().iter().all(|layer| layer.path.parent() != folder.as_deref()) {
        return Ok(());
    }
    let what = format!("{} holds a backup that the new one is made of", args.out.display());
    Err(Failure::new(Exit::Usage, reasons::FOLDER, what))
}

fn describe(chain: &Chain, disks: Vec<DiskRecord>) -> Manifest {
    let top = chain.top();
    Manifest {
        format: FORMAT.to_owned(),
        created: jiff::Timestamp::now().to_string(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        base: None,
        synthesized_from: Some(top.id),
        disks,
        ..top.manifest.clone()
    }
}

fn compose(
    chain: &Chain,
    disk: &ChainDisk<'_>,
    staging: &mut Staging,
    out: &Output,
    stop: &Stop,
) -> Result<DiskRecord, Failure> {
    let top = disk.top();
    let mut source = Composer::open(disk)?;
    let file = image_name(&chain.top().manifest.vm_name, top.device_key, Scope::Whole);
    let image = staging.create(&file, top.capacity_bytes)?;
    let bar = out.bar(&top.label, top.capacity_bytes);
    let (data, zero) = copy(&mut source, (&image, &file), disk.root().block_bytes, &bar, stop)?;
    // Delayed allocation tells of a full file system only here.
    image.sync_all().map_err(|error| Failure::write(&format!("{file}: sync"), &error))?;
    bar.finish_and_clear();
    let mut record = DiskRecord {
        file,
        block_bytes: disk.root().block_bytes,
        scope: Scope::Whole,
        wider: None,
        base_change_id: String::new(),
        sampled_blocks: 0,
        parts: Vec::new(),
        data,
        zero,
        base: Vec::new(),
        ..top.clone()
    };
    record.root = record.compute_root();
    Ok(record)
}

type Coverage = (Vec<(u64, Digest)>, Vec<(u64, u64)>);

/// Block by block, as a full backup would have read it.
fn copy(
    source: &mut Composer,
    (image, file): (&File, &str),
    size: u32,
    bar: &ProgressBar,
    stop: &Stop,
) -> Result<Coverage, Failure> {
    let (capacity, size) = (source.capacity(), u64::from(size));
    let (mut data, mut zero) = (Vec::new(), Vec::<(u64, u64)>::new());
    let mut block = vec![0; usize::try_from(size.min(capacity)).unwrap_or(usize::MAX)];
    let mut offset = 0;
    while offset < capacity {
        stop.check()?;
        let whole = size.min(capacity - offset);
        let zeros = source.zeros_until(offset);
        // Whole blocks only, but for the disk's end.
        let skipped = if zeros == capacity { capacity - offset } else { (zeros - offset) / size * size };
        let block = &mut block[..usize::try_from(whole).unwrap_or(usize::MAX)];
        let length = if skipped > 0 {
            skipped
        } else {
            source.read(offset, block)?;
            whole
        };
        if skipped > 0 || block.iter().all(|byte| *byte == 0) {
            match zero.last_mut() {
                Some((start, run)) if *start + *run == offset => *run += length,
                _ => zero.push((offset, length)),
            }
        } else {
            data.push((offset, Digest::of(block)));
            let what = || format!("{file}: write at byte {offset}");
            image.write_all_at(block, offset).map_err(|error| Failure::write(&what(), &error))?;
        }
        offset += length;
        bar.inc(length);
    }
    Ok((data, zero))
}

#[cfg(test)]
mod tests;
