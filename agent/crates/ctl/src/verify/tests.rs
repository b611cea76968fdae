//! Tests of the command: which manifests it takes, what it says of a chain.
use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;
use crate::chain::testing::{B, Backups};

fn verify(manifest: PathBuf, chain: bool) -> Result<Exit, Failure> {
    run(&VerifyArgs { manifest, chain, public_key: None }, &Output::new(false, true))
}

#[track_caller]
fn fails(manifest: PathBuf, chain: bool, exit: Exit, code: reasons::Code) {
    let failure = verify(manifest, chain).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (exit, code.id), "{}", failure.message);
}

#[test]
fn a_manifest_that_was_touched_or_is_empty_is_bad_input() {
    let backups = Backups::full();
    let path = backups.manifest("full");
    assert_eq!(verify(path.clone(), false), Ok(Exit::Ok));
    backups.edit("full", |manifest| manifest.disks[0].data[0].1 = Default::default());
    fails(path.clone(), false, Exit::Usage, reasons::MANIFEST);
    backups.edit("full", |manifest| manifest.disks.clear());
    fails(path.clone(), false, Exit::Usage, reasons::MANIFEST);
    fs::write(&path, "{").unwrap();
    fails(path, false, Exit::Usage, reasons::MANIFEST);
}

#[test]
fn a_chain_is_proven_down_to_its_root() {
    let mut backups = Backups::full();
    backups.incremental(&[(1, 7)]);
    let top = backups.incremental(&[(2, 8)]);
    assert_eq!(verify(top.clone(), true), Ok(Exit::Ok));
    backups.flip("full", 9 * B);
    // Alone it is as true as it was.
    assert_eq!(verify(top.clone(), false), Ok(Exit::Ok));
    fails(top.clone(), true, Exit::VerifyFailed, reasons::MISMATCH);
    backups.flip("full", 9 * B);
    fs::remove_file(backups.image("inc1")).unwrap();
    fails(top, true, Exit::VerifyFailed, reasons::MISMATCH);
}

#[test]
fn a_signature_is_asked_for_when_a_key_is_given() {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    let backups = Backups::full();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let (seed, public_key) = (backups.path("seed"), backups.path("pub"));
    fs::write(&seed, [7; 32]).unwrap();
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&public_key, pair.public_key()).unwrap();
    let manifest = backups.manifest("full");
    let args = VerifyArgs { manifest: manifest.clone(), chain: true, public_key: Some(public_key) };
    let quiet = Output::new(false, true);
    assert_eq!(run(&args, &quiet).unwrap_err().code, reasons::SIGNATURE.id);
    let key = sign::SigningKey::load(&seed).unwrap();
    fs::write(sign::beside(&manifest), key.sign(&fs::read(&manifest).unwrap())).unwrap();
    assert_eq!(run(&args, &quiet), Ok(Exit::Ok));
    backups.edit("full", |manifest| manifest.vm_name.push('x'));
    assert_eq!(run(&args, &quiet).unwrap_err().code, reasons::SIGNATURE.id);
}
