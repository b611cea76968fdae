//! The signature of an archive (DSP0243 1.1, 5.1): RSA with SHA-256 over the manifest, and the certificate that proves it. Of a file with
//! certificates nothing else is published, least of all a key that stands in it.
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
    /// `key`: RSA, PKCS #8, PEM. `certificate`: PEM, the key's own first, and no section of another kind.
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
        let text = certificates(&text).map_err(|why| refused(certificate, &why))?;
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

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates, and nothing of what stands between them.
fn certificates(text: &str) -> Result<String, String> {
    let (mut kept, mut inside) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        match (line, inside) {
            (BEGIN, false) => inside = true,
            (END, true) => inside = false,
            (body, true) if body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)) => {}
            (_, true) => return Err("a certificate in it is not whole".to_owned()),
            (other, false) if other.contains("-----BEGIN") => {
                let what = other.split("-----").find(|part| part.starts_with("BEGIN ")).unwrap_or_default();
                return Err(format!(
                    "holds something else than certificates ({what}), which the archive would publish"
                ));
            }
            // Remarks, as OpenSSL writes them.
            (_, false) => continue,
        }
        kept.push_str(line);
        kept.push('\n');
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(kept.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() && !inside => Ok(kept),
        _ => Err("no certificate, or one that is not whole".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

    #[test]
    fn nothing_but_certificates_is_published() {
        assert_eq!(certificates(ONE).unwrap(), ONE);
        let remarks = format!("subject=CN = a\n{ONE}\nissuer=CN = b\r\n{}", ONE.replace('\n', "\r\n"));
        assert_eq!(certificates(&remarks).unwrap(), ONE.repeat(2));
        for text in [format!("{KEY}{ONE}"), format!("{ONE}{KEY}"), format!("{ONE}  {KEY}"), format!("x{KEY}{ONE}")] {
            let why = certificates(&text).unwrap_err();
            assert!(why.contains("PRIVATE KEY") && !why.contains("c2VjcmV0"), "{why}");
        }
    }

    #[test]
    fn a_key_without_its_first_line_is_not_published_either() {
        assert_eq!(certificates(&format!("{ONE}c2VjcmV0\n-----END PRIVATE KEY-----\n")).unwrap(), ONE);
        for text in ["", "c2VjcmV0", &ONE[..40], &ONE.replace("BBBB", KEY), &ONE.replace("AAAA", "no base64!")] {
            assert!(certificates(text).is_err(), "{text}");
        }
    }
}
