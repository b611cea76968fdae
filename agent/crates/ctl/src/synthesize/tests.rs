//! A synthetic full is what a full backup would have been, and comes of a chain that is proven.
use std::{fs, path::Path};

use super::*;
use crate::{
    chain::{
        Stored,
        testing::{B, Backups, CAPACITY},
    },
    cli::VerifyArgs,
};

fn synthesize(manifest: &Path, out: &Path, force: bool) -> Result<Exit, Failure> {
    let args =
        SynthesizeArgs { manifest: manifest.to_owned(), out: out.to_owned(), force, public_key: None, sign: None };
    run(&args, &Output::new(false, true), &Stop::default())
}

#[test]
fn it_is_what_a_full_backup_would_have_been() {
    let mut backups = Backups::full();
    backups.incremental(&[(1, 7), (20, 8)]);
    // Blocks 4 to 7 become one whole zero block of the root's size; 20 is zero again.
    let top = backups.incremental(&[(4, 0), (5, 0), (6, 0), (7, 0), (20, 0), (32, 9)]);
    let out = backups.path("synthetic");
    assert_eq!(synthesize(&top, &out, false), Ok(Exit::Ok));
    let manifest = Stored::open(&out.join("manifest.json")).unwrap().manifest().unwrap();
    let disk = &manifest.disks[0];
    assert!(fs::read(out.join(&disk.file)).unwrap() == backups.disk);
    assert_eq!((disk.scope, u64::from(disk.block_bytes)), (Scope::Whole, 4 * B));
    let data: Vec<_> = disk.data.iter().map(|(offset, _)| offset / B).collect();
    assert_eq!(data, [0, 8, 12, 32]);
    assert_eq!(disk.zero, [(4 * B, 4 * B), (16 * B, 16 * B)]);
    let of = Stored::open(&top).unwrap();
    assert_eq!((manifest.base, manifest.synthesized_from), (None, Some(of.id())));
    let before = of.manifest().unwrap();
    assert_eq!((manifest.job_id, &disk.change_id), (before.job_id, &before.disks[0].change_id));
    let args = VerifyArgs { manifest: out.join("manifest.json"), chain: true, public_key: None };
    assert_eq!(verify::run(&args, &Output::new(false, true)), Ok(Exit::Ok));
    use std::os::unix::fs::MetadataExt as _;
    let stored = fs::metadata(out.join(&disk.file)).unwrap().blocks() * 512;
    assert!(stored < CAPACITY - 16 * B, "{stored} bytes: zeros must stay holes");
}

#[test]
fn nothing_comes_of_a_damaged_chain() {
    for name in ["full", "inc1"] {
        let mut backups = Backups::full();
        let top = backups.incremental(&[(1, 7)]);
        backups.flip(name, if name == "full" { 9 * B } else { B });
        let out = backups.path("synthetic");
        let failure = synthesize(&top, &out, false).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::VerifyFailed, reasons::MISMATCH.id));
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    }
}

#[test]
fn a_signal_leaves_no_file() {
    let mut backups = Backups::full();
    let top = backups.incremental(&[(1, 7)]);
    let stop = Stop::default();
    stop.tell("SIGTERM");
    let out = backups.path("synthetic");
    let args = SynthesizeArgs { manifest: top, out: out.clone(), force: false, public_key: None, sign: None };
    let failure = run(&args, &Output::new(false, true), &stop).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::Interrupted, reasons::INTERRUPTED.id));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn the_chain_is_never_written() {
    let mut backups = Backups::full();
    let top = backups.incremental(&[(1, 7)]);
    for name in ["full", "inc1"] {
        let (folder, before) = (backups.path(name), fs::read(backups.manifest(name)).unwrap());
        assert_eq!(synthesize(&top, &folder, false).unwrap_err().code, reasons::OCCUPIED.id);
        assert_eq!(synthesize(&top, &folder, true).unwrap_err().code, reasons::FOLDER.id);
        assert_eq!(fs::read(backups.manifest(name)).unwrap(), before);
    }
}
