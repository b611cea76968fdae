//! The server's certificate: a throw-away CA and a leaf with the names that the lab uses.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

pub(crate) struct Identity {
    pub acceptor: TlsAcceptor,
    pub ca_pem: String,
    /// SHA-256 of the leaf certificate, lower-case hex without separators.
    pub sha256: String,
    /// SHA-1 of it in the form of vSphere's thumbprints.
    pub thumbprint: String,
    pub der: Vec<u8>,
}

fn named(names: &[String], cn: &str) -> Result<CertificateParams> {
    let mut p = CertificateParams::new(names.to_vec())?;
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, cn);
    p.distinguished_name = dn;
    Ok(p)
}

pub(crate) fn identity(extra: &[String]) -> Result<Identity> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "10.0.2.2"].map(String::from).to_vec();
    names.extend(extra.iter().filter(|n| !["localhost", "127.0.0.1", "10.0.2.2"].contains(&n.as_str())).cloned());
    let ca_key = KeyPair::generate()?;
    let mut ca = named(&[], "vcenter-sim CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = named(&names, "vcenter-sim")?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let cert = leaf.signed_by(&key, &issuer)?;
    let der: CertificateDer<'static> = cert.der().clone();
    let leaf_der = der.to_vec();
    let sha256: String = Sha256::digest(&der).iter().map(|b| format!("{b:02x}")).collect();
    let pairs: Vec<String> = Sha1::digest(&der).iter().map(|b| format!("{b:02X}")).collect();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der, ca_cert.der().clone()], private)?;
    Ok(Identity {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_pem: ca_cert.pem(),
        sha256,
        thumbprint: pairs.join(":"),
        der: leaf_der,
    })
}
