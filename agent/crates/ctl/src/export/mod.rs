//! `export`: a backup, over its whole chain, as an OVA. This file holds the order of things and the disks' way through.
//!
//! ```text
//! FILE.part:  NAME.ovf (room)  NAME.mf (room)  NAME-disk1.vmdk …        streamed, hashed, sizes known at the end
//!             └──────── filled in last ───────┘                         synced, renamed to FILE
//! ```
//! Nothing is written twice: OVF and manifest come first in the archive and are known last, but their size is known
//! before, so room is kept for them.
mod hardware;
mod ovf;
mod tar;
#[cfg(test)]
mod tests;

use std::path::Path;

use hotadd_vmdk::{Error, GRAIN, Head, Writer};
use serde_json::json;

use self::{
    hardware::Hardware,
    ovf::DiskFile,
    tar::{Archive, Slot},
};
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
/// Hex digits of SHA-256.
const DIGITS: usize = 64;

/// # Errors
/// Exit 2 for input that can't be used, 7 when writing fails, 130 when stopped, 8 when the chain is not what its manifests say.
pub fn run(args: &ExportArgs, out: &Output, stop: &Stop) -> Result<Exit, Failure> {
    let chain = Chain::load(verify::signed(&args.manifest, args.public_key.as_deref())?, Exit::VerifyFailed)?;
    let manifest = &chain.top().manifest;
    let hardware = Hardware::of(manifest).map_err(|why| refused(&args.ova, &why))?;
    if manifest.vm_config.is_none() {
        out.warning("the manifest does not tell the VM's hardware: the OVA gets 1 CPU, 1 GiB and its disks on PVSCSI; set them after the import");
    }
    let name = &file_name(&manifest.vm_name).chars().take(LONGEST_NAME).collect::<String>();
    let mut archive = Archive::create(&args.ova)?;
    let mut files: Vec<_> = chain.disks().enumerate().map(|(index, disk)| file_of(name, index, &disk)).collect();
    let room = ovf::largest(manifest, &hardware, &files);
    let descriptor = archive.reserve(&format!("{name}.ovf"), room)?;
    let hashes = archive.reserve(&format!("{name}.mf"), ovf::manifest(name, &"0".repeat(DIGITS), &files).len())?;
    for (disk, file) in chain.disks().zip(&mut files) {
        write(&disk, file, &mut archive, out, stop)?;
    }
    fill(&archive, &descriptor, ovf::padded(manifest, &hardware, &files, room))
        .and_then(|hash| fill(&archive, &hashes, ovf::manifest(name, &hash, &files)))?;
    let size = archive.finish()?;
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

fn file_of(name: &str, index: usize, disk: &ChainDisk<'_>) -> DiskFile {
    let name = format!("{name}-disk{}.vmdk", index + 1);
    let top = disk.top();
    let (capacity, label) = (top.capacity_bytes, top.label.clone());
    DiskFile { name, label, capacity, size: 0, populated: 0, sha256: "0".repeat(DIGITS) }
}

/// One disk into the archive; what became of it goes into `file`.
fn write(
    disk: &ChainDisk<'_>,
    file: &mut DiskFile,
    archive: &mut Archive,
    out: &Output,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut source = Composer::open(disk)?;
    let id = disk.top().root.as_bytes();
    // The two highest ids mean "none".
    let content_id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]) & 0x7fff_ffff;
    let head = Head { capacity_bytes: file.capacity, file_name: &file.name, content_id };
    let bar = out.bar(&disk.top().label, file.capacity);
    let path = archive.path().to_owned();
    let failed = |error| vmdk_failure(&path, error);
    let mut entry = archive.entry(&file.name)?;
    let mut vmdk = Writer::new(&mut entry, &head).map_err(failed)?;
    let (mut offset, mut chunk) = (0, vec![0; CHUNK]);
    while offset < file.capacity {
        stop.check()?;
        let grain = GRAIN as u64;
        let zeros = (source.zeros_until(offset) - offset) / grain * grain;
        let length = if zeros > 0 {
            zeros
        } else {
            let length = (CHUNK as u64).min(file.capacity - offset);
            let chunk = &mut chunk[..usize::try_from(length).unwrap_or(CHUNK)];
            source.read(offset, chunk)?;
            vmdk.write(offset, chunk).map_err(failed)?;
            length
        };
        offset += length;
        bar.inc(length);
    }
    file.populated = vmdk.finish().map_err(failed)?.populated;
    (file.size, file.sha256) = entry.end()?;
    bar.finish_and_clear();
    Ok(())
}

/// Fills a slot and gives the hash of its content.
fn fill(archive: &Archive, slot: &Slot, content: String) -> Result<String, Failure> {
    archive.fill(slot, content.as_bytes())?;
    Ok(tar::hex(ring::digest::digest(&ring::digest::SHA256, content.as_bytes()).as_ref()))
}

fn vmdk_failure(path: &Path, error: Error) -> Failure {
    match error {
        Error::Io(error) => Failure::write(&path.display().to_string(), &error),
        error => refused(path, &error.to_string()),
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Usage, reasons::EXPORT, format!("{}: {why}", path.display()))
}
