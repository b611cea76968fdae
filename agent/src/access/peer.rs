//! Who is at the other end of a connection: what its certificate proves, and whether that still holds. A certificate is read only after
//! TLS has verified it.
use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use ring::digest;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, X509Error},
};

use super::name::{Kind, Name};
use crate::{
    error::{Error, Result},
    reason,
};

/// Names of one certificate that are looked at: more are a mistake or a burden.
const MAX_NAMES: usize = 64;
/// Longest of them.
const MAX_NAME: usize = 1024;

/// One connection's certificate. Shared by the connection and by all that was begun over it.
pub struct Peer {
    names: Vec<Name>,
    /// SHA-256 of the certificate, lower-case hex.
    fingerprint: String,
    address: SocketAddr,
    /// Seconds since 1970.
    not_after: u64,
    chain: Vec<CertificateDer<'static>>,
    /// Why its certificate holds no longer.
    why: OnceLock<String>,
    out: CancellationToken,
}

impl Peer {
    /// `chain`: as the client sent it, its own certificate first.
    ///
    /// # Errors
    /// A certificate that can't be read.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, address: SocketAddr) -> Result<Arc<Self>, String> {
        let own = chain.first().ok_or("no certificate")?;
        let (_, certificate) = X509Certificate::from_der(own).map_err(|error| format!("its certificate: {error}"))?;
        let names = names(&certificate).map_err(|error| format!("the names of its certificate: {error}"))?;
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let hash = digest::digest(&digest::SHA256, own);
        let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let (why, out) = (OnceLock::new(), CancellationToken::new());
        Ok(Arc::new(Self { names, fingerprint, address, not_after, chain, why, out }))
    }

    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to call it where no rule has chosen one of its names.
    #[must_use]
    pub fn label(&self) -> String {
        self.names.first().map_or_else(|| format!("SHA256:{}", self.fingerprint), Name::to_string)
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn has_expired(&self, now: UnixTime) -> bool {
        self.not_after < now.as_secs()
    }

    /// Its certificate holds no longer: whatever it has here ends. The first reason stands.
    pub(super) fn put_out(&self, why: String) {
        // Before the bell: who hears it finds the reason.
        self.why.set(why).ok();
        self.out.cancel();
    }

    #[must_use]
    pub fn is_out(&self) -> bool {
        self.why.get().is_some()
    }

    /// Why it may do nothing any more.
    #[must_use]
    pub fn out(&self) -> Option<Error> {
        let why = self.why.get()?;
        Some(Error::new(&reason::AUT_OUT, format!("{}: {why}", self.label())))
    }

    pub(super) fn when_out(&self) -> WaitForCancellationFutureOwned {
        self.out.clone().cancelled_owned()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({} at {})", self.label(), self.address)
    }
}

/// Alternative names in the certificate's order, then common names.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<Name>, X509Error> {
    let alternative = certificate.subject_alternative_name()?.map(|extension| extension.value);
    let alternative = alternative.into_iter().flat_map(|names| &names.general_names).filter_map(of_san);
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let all = alternative.chain(common.map(|name| (Kind::Cn, name.to_owned())));
    let usable = all.filter(|(_, value)| !value.is_empty() && value.len() <= MAX_NAME);
    Ok(usable.take(MAX_NAMES).map(|(kind, value)| Name::new(kind, &value)).collect())
}

fn of_san(name: &GeneralName<'_>) -> Option<(Kind, String)> {
    match name {
        GeneralName::DNSName(name) => Some((Kind::Dns, (*name).to_owned())),
        GeneralName::URI(uri) => Some((Kind::Uri, (*uri).to_owned())),
        GeneralName::RFC822Name(address) => Some((Kind::Email, (*address).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
            Some((Kind::Ip, address.ok()?.to_string()))
        }
        _ => None,
    }
}
