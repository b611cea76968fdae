//! The signature of an archive (DSP0243 1.1, 5.1): RSA with SHA-256 over the manifest, and the certificate that proves it.
use std::{fs, path::Path};

use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::{Error, archive::hex};

/// A key and its certificate.
pub struct Signer {
    key: RsaKeyPair,
    certificate: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// `key`: RSA, PKCS #8, PEM. `certificate`: PEM, the key's own first.
    ///
    /// # Errors
    /// When one of them can't be read or used, or they don't belong together.
    pub fn open(key: &Path, certificate: &Path) -> Result<Self, Error> {
        let refused = |path: &Path, why: &str| Error::Refused(format!("{}: {why}", path.display()));
        let der = PrivatePkcs8KeyDer::from_pem_file(key)
            .map_err(|error| refused(key, &format!("{error}; a key in PKCS #8 (BEGIN PRIVATE KEY) is needed")))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|error| refused(key, &format!("no RSA key that can be used: {error}")))?;
        let text = fs::read_to_string(certificate).map_err(|error| refused(certificate, &error.to_string()))?;
        let leaf = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| refused(certificate, &format!("no certificate: {error}")))?;
        // A certificate holds its public key as it is, so a certificate that lacks it is another key's.
        let public = pair.public().as_ref();
        if !leaf.windows(public.len()).any(|window| window == public) {
            return Err(refused(certificate, "is not the certificate of this key"));
        }
        Ok(Self { key: pair, certificate: text })
    }

    /// Bytes of what [`Self::sign`] gives for a file of this name.
    pub(crate) fn length(&self, file: &str) -> usize {
        self.text(file, &vec![0; self.key.public().modulus_len()]).len()
    }

    /// The content of the .cert file.
    pub(crate) fn sign(&self, file: &str, content: &[u8]) -> Result<String, Error> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), content, &mut signature)
            .map_err(|_| Error::Internal("the manifest can't be signed".to_owned()))?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.key.public().as_ref())
            .verify(content, &signature)
            .map_err(|_| Error::Internal("the signature does not verify".to_owned()))?;
        Ok(self.text(file, &signature))
    }

    fn text(&self, file: &str, signature: &[u8]) -> String {
        format!("SHA256({file})= {}\n{}\n", hex(signature), self.certificate.trim_end())
    }
}
