//! What the files of `[tls]` must be, and the TLS that is made of them: 1.2 and 1.3 only, suites with forward secrecy and AEAD only (rustls
//! has no others), every client verified. No session is resumed: a resumed one would not be verified again.
use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use secrecy::ExposeSecret as _;
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList, time::ASN1Time,
};

use crate::config::Tls;

/// A certificate that ends this soon is told.
const SOON_DAYS: i64 = 21;
const DAY: i64 = 86_400;

/// What serves, once it was found good.
pub(super) struct Material {
    /// Without a protocol (ALPN): each port has its own.
    pub(super) server: ServerConfig,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    /// What somebody should know of it although it serves.
    pub(super) remarks: Vec<String>,
}

impl Material {
    /// # Errors
    /// What is wrong with which file, one line.
    pub(super) fn new(tls: &Tls) -> Result<Self, String> {
        let provider = Arc::new(default_provider());
        let chain = certificates("tls.certificate_file", &tls.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(tls.key.expose_secret().as_bytes())
            .map_err(|error| format!("tls.key_file: no private key: {error}"))?;
        let mut remarks = of_server(&chain)?;
        let (clients, more) = verifier(tls, &provider)?;
        remarks.extend(more);
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let builder = builder.map_err(|error| format!("tls: {error}"))?;
        let mut server = builder
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_single_cert(chain, key)
            .map_err(|error| format!("tls.certificate_file and tls.key_file: {error}"))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server, clients, remarks })
    }

    /// Whether a client's certificate would be let in now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judge(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let (own, rest) = chain.split_first().ok_or("no certificate")?;
        let verified = self.clients.verify_client_cert(own, rest, UnixTime::now());
        verified.map(drop).map_err(|error| error.to_string())
    }
}

/// For `check-config`: what is remarkable about files that are good.
///
/// # Errors
/// What is wrong with them.
pub fn check(tls: &Tls) -> Result<Vec<String>, String> {
    Material::new(tls).map(|material| material.remarks)
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("{key}: no certificate in it")),
        Err(error) => Err(format!("{key}: {error}")),
    }
}

fn parsed<'a>(key: &str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|error| format!("{key}: {error}"))
}

/// Its dates. One that has expired serves all the same: detaching needs no certificate, and clients say best what they think of it.
fn of_server(chain: &[CertificateDer<'_>]) -> Result<Vec<String>, String> {
    let key = "tls.certificate_file";
    let now = ASN1Time::now().timestamp();
    let mut remarks = Vec::new();
    for der in chain {
        let certificate = parsed(key, der)?;
        let (subject, validity) = (certificate.subject(), certificate.validity());
        let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if end < now {
            remarks.push(format!("{key}: {subject} has expired at {}: clients refuse it", validity.not_after));
        } else if begin > now {
            remarks.push(format!("{key}: {subject} is not valid before {}: clients refuse it", validity.not_before));
        } else if end - now < SOON_DAYS * DAY {
            remarks.push(format!("{key}: {subject} expires at {}", validity.not_after));
        }
    }
    Ok(remarks)
}

type Verifier = Arc<dyn ClientCertVerifier>;

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<(Verifier, Vec<String>), String> {
    let authorities = certificates("tls.client_ca_file", &tls.client_ca)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|error| format!("tls.client_ca_file: {error}"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let (builder, remarks) = match &tls.crl {
        None => (builder, Vec::new()),
        Some(pem) => {
            let lists = lists(pem)?;
            let remarks = of_lists(&lists, &authorities)?;
            (builder.with_crls(lists), remarks)
        }
    };
    let built = builder.build().map_err(|error| format!("tls.client_ca_file or tls.crl_file: {error}"))?;
    Ok((built, remarks))
}

fn lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    all.map_err(|error| format!("tls.crl_file: {error}"))
}

/// Each CA needs a list, signed by it: without one nothing would be known of its clients, and all would be refused. A list that is out of
/// date still counts, since a forgotten update must not end every backup, but it is told.
fn of_lists(
    lists: &[CertificateRevocationListDer<'_>],
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<String>, String> {
    let parse =
        |der| CertificateRevocationList::from_der(der).map(|(_, list)| list).map_err(|e| format!("tls.crl_file: {e}"));
    let lists: Vec<_> = lists.iter().map(|der| parse(der.as_ref())).collect::<Result<_, _>>()?;
    for authority in authorities {
        let authority = parsed("tls.client_ca_file", authority)?;
        let subject = authority.subject();
        let of_it = |list: &&CertificateRevocationList<'_>| list.issuer().as_raw() == subject.as_raw();
        let mut own = lists.iter().filter(of_it).peekable();
        if own.peek().is_none() {
            return Err(format!("tls.crl_file: no list of {subject}"));
        }
        // Lists are found by the CA's name: one of another key under the same name would refuse everybody.
        if !own.all(|list| list.verify_signature(authority.public_key()).is_ok()) {
            return Err(format!("tls.crl_file: a list of {subject} is not signed by it"));
        }
        let usage = authority.key_usage().map_err(|error| format!("tls.client_ca_file: {error}"))?;
        if usage.is_some_and(|usage| !usage.value.crl_sign()) {
            return Err(format!("tls.client_ca_file: {subject} may not sign lists (its key usage lacks cRLSign)"));
        }
    }
    let now = ASN1Time::now().timestamp();
    let over = lists.iter().filter_map(|list| Some((list, list.next_update().filter(|at| at.timestamp() < now)?)));
    Ok(over
        .map(|(list, at)| format!("tls.crl_file: the list of {} should have been renewed at {at}", list.issuer()))
        .collect())
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn every_suite_has_forward_secrecy_and_authenticates_what_it_encrypts() {
        let suites: Vec<CipherSuite> = default_provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert!(!suites.is_empty());
        for suite in suites {
            let name = format!("{suite:?}");
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("GCM") || name.contains("POLY1305"), "{name}");
        }
    }
}
