//! The rustls configuration of a [`Trust`], on one provider (ring), without a process-wide default.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::config::Trust;
use crate::error::{Error, ErrorKind};

const OP: &str = "connect";

/// Names one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    /// As vSphere's thumbprints are. Good enough to name a certificate that an authenticated server told of: to forge it
    /// takes a second preimage, not a collision.
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

impl Fingerprint {
    /// Of a DER certificate.
    pub(crate) fn sha256(der: &[u8]) -> Fingerprint {
        Fingerprint::Sha256(Sha256::digest(der).into())
    }

    /// Reads hex pairs, with or without colons.
    pub(crate) fn parse(text: &str) -> Option<Fingerprint> {
        let hex: Vec<u8> = text.bytes().filter(|b| *b != b':' && !b.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
        let bytes: Vec<u8> = hex.chunks(2).map(byte).collect::<Option<_>>()?;
        match (hex.len(), bytes.as_slice()) {
            (40, b) => b.try_into().ok().map(Fingerprint::Sha1),
            (64, b) => b.try_into().ok().map(Fingerprint::Sha256),
            _ => None,
        }
    }

    fn names(self, der: &[u8]) -> bool {
        match self {
            Fingerprint::Sha1(f) => Sha1::digest(der).as_slice() == f,
            Fingerprint::Sha256(f) => Sha256::digest(der).as_slice() == f,
        }
    }
}

/// What makes a certificate acceptable here: [`Trust`], or what a lease says of a host.
#[derive(Clone, Debug)]
pub(crate) enum Accept {
    Trust(Trust),
    Only(Fingerprint),
}

/// The first certificate of a PEM text, as its fingerprint.
pub(crate) fn certificate(pem: &str) -> Option<Fingerprint> {
    let first = CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()?;
    Some(Fingerprint::sha256(&first))
}

pub(crate) fn client_config(accept: &Accept) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = |e: rustls::Error| Error::new(ErrorKind::Tls, OP, e.to_string());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(tls)?;
    let fingerprint = match accept {
        Accept::Trust(Trust::Ca(pem)) => {
            return Ok(builder.with_root_certificates(roots(pem)?).with_no_client_auth());
        }
        Accept::Trust(Trust::Pin(sha256)) => Fingerprint::Sha256(*sha256),
        Accept::Only(fingerprint) => *fingerprint,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, provider }));
    Ok(builder.with_no_client_auth())
}

fn roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let refuse = |why: String| Error::new(ErrorKind::Tls, OP, format!("CA file: {why}"));
    let mut store = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| refuse(e.to_string()))?;
        store.add(cert).map_err(|e| refuse(e.to_string()))?;
    }
    if store.is_empty() {
        return Err(refuse("no certificate in it".to_owned()));
    }
    Ok(store)
}

/// Accepts exactly one certificate. The handshake signature is still verified, so the peer holds its private key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.fingerprint.names(end_entity.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
