//! The certificate of the service: made once in the appliance, its key never leaves it. Controllers know it by its fingerprint.
use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use ring::digest;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Certificate and key, PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Self-signed, without an end: who trusts it trusts this one certificate, until the appliance is deployed anew.
///
/// # Errors
/// A name that no certificate can hold.
pub fn create(hostname: &str, address: Option<IpAddr>) -> Result<Pair, String> {
    let make = || -> Result<Pair, rcgen::Error> {
        let mut params = CertificateParams::new(vec![hostname.to_owned()])?;
        params.subject_alt_names.extend(address.map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, hostname);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    };
    make().map_err(|error| error.to_string())
}

/// SHA-256 of the first certificate, as OpenSSL prints it.
#[must_use]
pub fn fingerprint(pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let hash = digest::digest(&digest::SHA256, &der);
    Some(hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}
