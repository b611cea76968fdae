//! `export`: a backup, over its whole chain, as an OVA. This file holds the order of things and the disks' way through; what an OVA is
//! made of is known by hotadd-ova.
mod hardware;
#[cfg(test)]
mod tests;

use std::path::Path;

use hotadd_ova::{Archive, DiskFile, DiskWriter, Error, Machine, Package};
use hotadd_vmdk::GRAIN;
use serde_json::json;

use self::hardware::Hardware;
use crate::{
    backup::staging::file_name,
    chain::{Chain, ChainDisk, compose::Composer},
    cli::ExportArgs,
    error::Failure,
    exit::Exit,
    interrupt::Stop,
    output::{Output, bytes, table},
    reasons, verify,
};

/// How much is composed and compressed at once: enough grains for every core.
const CHUNK: usize = 64 * GRAIN;
/// Names in a tar header end at 100 bytes.
const LONGEST_NAME: usize = 60;

/// # Errors
/// Exit 2 for input that can't be used, 7 when writing fails, 130 when stopped, 8 when the chain is not what its manifests say.
pub fn run(args: &ExportArgs, out: &Output, stop: &Stop) -> Result<Exit, Failure> {
    let chain = Chain::load(verify::signed(&args.manifest, args.public_key.as_deref())?, Exit::VerifyFailed)?;
    let manifest = &chain.top().manifest;
    let hardware = Hardware::of(manifest).map_err(|why| refused(&args.ova, &why))?;
    if manifest.vm_config.is_none() {
        out.warning("the manifest does not tell the VM's hardware: the OVA gets 1 CPU, 1 GiB and its disks on PVSCSI; set them after the import");
    }
    let failed = |error| failure(&args.ova, error);
    let name = &file_name(&manifest.vm_name).chars().take(LONGEST_NAME).collect::<String>();
    let machine: Machine<'_> = hardware.machine(manifest);
    let disks: Vec<_> = chain.disks().map(|disk| (disk.top().label.clone(), disk.top().capacity_bytes)).collect();
    let archive = Archive::create(&args.ova).map_err(failed)?;
    let mut package = Package::begin(archive, name, &machine, &disks, None).map_err(failed)?;
    for disk in chain.disks() {
        let id = disk.top().root.as_bytes();
        // The two highest ids mean "none".
        let content_id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]) & 0x7fff_ffff;
        let mut writer = package.disk(content_id).map_err(failed)?;
        write(&disk, &mut writer, &args.ova, out, stop)?;
        writer.end().map_err(failed)?;
    }
    let (size, files) = package.finish().map_err(failed)?;
    tell(args, &chain, &files, size, out);
    Ok(Exit::Ok)
}

fn tell(args: &ExportArgs, chain: &Chain, files: &[DiskFile], size: u64, out: &Output) {
    let row = |file: &DiskFile| vec![file.name.clone(), bytes(file.capacity), bytes(file.populated), bytes(file.size)];
    out.result(&table(&["disk", "capacity", "data", "compressed"], &files.iter().map(row).collect::<Vec<_>>()));
    out.result(&format!("{}: {}", args.ova.display(), bytes(size)));
    out.event(|| {
        json!({"event": "exported", "ova": args.ova, "bytes": size, "vm": chain.top().manifest.vm_name,
            "disks": files.len(), "hardware_known": chain.top().manifest.vm_config.is_some()})
    });
}

/// One disk into the archive.
fn write(
    disk: &ChainDisk<'_>,
    writer: &mut DiskWriter<'_>,
    ova: &Path,
    out: &Output,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut source = Composer::open(disk)?;
    let capacity = disk.top().capacity_bytes;
    let bar = out.bar(&disk.top().label, capacity);
    let (mut offset, mut chunk) = (0, vec![0; CHUNK]);
    while offset < capacity {
        stop.check()?;
        let grain = GRAIN as u64;
        let zeros = (source.zeros_until(offset) - offset) / grain * grain;
        let length = if zeros > 0 {
            zeros
        } else {
            let length = (CHUNK as u64).min(capacity - offset);
            let chunk = &mut chunk[..usize::try_from(length).unwrap_or(CHUNK)];
            source.read(offset, chunk)?;
            writer.write(offset, chunk).map_err(|error| failure(ova, error))?;
            length
        };
        offset += length;
        bar.inc(length);
    }
    bar.finish_and_clear();
    Ok(())
}

fn failure(path: &Path, error: Error) -> Failure {
    match error {
        Error::Refused(why) => refused(path, &why),
        Error::Io { path, error } => Failure::write(&path, &error),
        error => Failure::internal(error.to_string()),
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Usage, reasons::EXPORT, format!("{}: {why}", path.display()))
}
