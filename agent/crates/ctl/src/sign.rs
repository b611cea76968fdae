//! Signatures of manifests: Ed25519 over the bytes of the file, 64 bytes beside it as `NAME.sig`, so that
//! `openssl pkeyutl -verify -rawin` can check them as well. A manifest commits to its base by hash, so the signature of a
//! backup covers its whole chain. Keys live in files and nowhere else.
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};

use crate::{chain::Stored, error::Failure, exit::Exit, reasons};

/// Bytes of a seed and of a public key.
const RAW: usize = 32;
/// DER of SubjectPublicKeyInfo of an Ed25519 key before the key itself (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A key file is small; /dev/zero is not.
const LARGEST: u64 = 16 << 10;

/// Signs manifests. Shows nothing of itself when printed.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

/// Checks signatures.
#[derive(Debug)]
pub struct PublicKey(Vec<u8>);

/// Where the signature of a file lies.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

impl SigningKey {
    /// Reads a key: PKCS#8 (PEM or DER), or a raw seed of 32 bytes.
    ///
    /// # Errors
    /// Exit 2; also when others may read or write the file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let (bytes, mode) = read(path)?;
        if mode & 0o077 != 0 {
            return Err(unusable(path, format!("others may use it (mode {:03o}); chmod 600 it", mode & 0o777)));
        }
        let pair = if bytes.len() == RAW {
            Ed25519KeyPair::from_seed_unchecked(&bytes)
        } else if bytes.starts_with(b"-----") {
            let der = PrivatePkcs8KeyDer::from_pem_slice(&bytes).map_err(|error| unusable(path, error))?;
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        } else {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes)
        };
        pair.map(Self).map_err(|error| unusable(path, format!("no Ed25519 key ({error})")))
    }

    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }
}

impl PublicKey {
    /// Reads a key: SubjectPublicKeyInfo (PEM or DER), or 32 raw bytes.
    ///
    /// # Errors
    /// Exit 2.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let (bytes, _) = read(path)?;
        let der = if bytes.starts_with(b"-----") {
            SubjectPublicKeyInfoDer::from_pem_slice(&bytes).map_err(|error| unusable(path, error))?.to_vec()
        } else {
            bytes
        };
        match der.strip_prefix(&SPKI).unwrap_or(&der) {
            raw if raw.len() == RAW => Ok(Self(raw.to_vec())),
            _ => Err(unusable(path, "no Ed25519 public key")),
        }
    }

    /// Checks the signature that lies beside the manifest.
    ///
    /// # Errors
    /// Exit 8.
    pub fn check(&self, manifest: &Stored) -> Result<(), Failure> {
        let path = beside(&manifest.path);
        let fail =
            |why: String| Failure::new(Exit::VerifyFailed, reasons::SIGNATURE, format!("{}: {why}", path.display()));
        let signature = fs::read(&path).map_err(|error| fail(error.to_string()))?;
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&manifest.bytes, &signature).map_err(|_| fail("not made over this manifest by this key".to_owned()))
    }
}

/// Content and mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), Failure> {
    let bad = |error: std::io::Error| unusable(path, error);
    // Asked before opening: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(bad)?.is_file() {
        return Err(unusable(path, "not a regular file"));
    }
    let file = File::open(path).map_err(bad)?;
    let mode = file.metadata().map_err(bad)?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(bad)?;
    Ok((bytes, mode))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, reasons::SIGN_KEY, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    fn store(folder: &TempDir, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A signed manifest, and the public key in raw form.
    fn signed(folder: &TempDir, key: &SigningKey) -> (Stored, PathBuf) {
        use ring::signature::KeyPair as _;
        let manifest = store(folder, "manifest.json", b"{}", 0o644);
        store(folder, "manifest.json.sig", &key.sign(b"{}"), 0o644);
        (Stored::open(&manifest).unwrap(), store(folder, "raw.pub", key.0.public_key().as_ref(), 0o644))
    }

    #[test]
    fn a_seed_signs_and_one_changed_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load(&store(&folder, "seed", &[7; 32], 0o600)).unwrap();
        let (mut manifest, public) = signed(&folder, &key);
        let public = PublicKey::load(&public).unwrap();
        assert_eq!(public.check(&manifest), Ok(()));
        manifest.bytes[0] = b'[';
        assert_eq!(public.check(&manifest).unwrap_err().code, reasons::SIGNATURE.id);
        manifest.bytes[0] = b'{';
        fs::remove_file(beside(&manifest.path)).unwrap();
        assert_eq!(public.check(&manifest).unwrap_err().exit, Exit::VerifyFailed);
        let other = SigningKey::load(&store(&folder, "other", &[8; 32], 0o600)).unwrap();
        store(&folder, "manifest.json.sig", &other.sign(b"{}"), 0o644);
        assert_eq!(public.check(&manifest).unwrap_err().code, reasons::SIGNATURE.id);
    }

    #[test]
    fn keys_that_others_may_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o666, 0o610] {
            let failure = SigningKey::load(&store(&folder, "seed", &[7; 32], mode)).unwrap_err();
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, reasons::SIGN_KEY.id), "{mode:o}");
        }
        assert!(SigningKey::load(&store(&folder, "seed", &[7; 32], 0o400)).is_ok());
        for bad in [&b""[..], &[7; 31], &[7; 48], b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(SigningKey::load(&store(&folder, "bad", bad, 0o600)).unwrap_err().code, reasons::SIGN_KEY.id);
        }
        assert!(PublicKey::load(&store(&folder, "bad", &[7; 31], 0o600)).is_err());
        assert!(SigningKey::load(Path::new("/dev/zero")).is_err());
    }

    /// The judge that is not ours: keys made by OpenSSL, a signature checked by it.
    #[test]
    fn openssl_makes_our_keys_and_believes_our_signatures() {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("not run: no openssl here");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let run = |args: &str| {
            let ended = Command::new("openssl").args(args.split(' ')).current_dir(folder.path()).output().unwrap();
            assert!(ended.status.success(), "{args}: {ended:?}");
        };
        run("genpkey -algorithm ed25519 -out key.pem");
        run("pkey -in key.pem -outform DER -out key.der");
        run("pkey -in key.pem -pubout -out pub.pem");
        run("pkey -in key.pem -pubout -outform DER -out pub.der");
        for name in ["key.pem", "key.der"] {
            let path = folder.path().join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let (manifest, _) = signed(&folder, &SigningKey::load(&path).unwrap());
            run("pkeyutl -verify -pubin -inkey pub.pem -rawin -in manifest.json -sigfile manifest.json.sig");
            for public in ["pub.pem", "pub.der", "raw.pub"] {
                assert_eq!(PublicKey::load(&folder.path().join(public)).unwrap().check(&manifest), Ok(()), "{public}");
            }
        }
    }
}
