//! What TLS to a server needs: the authorities that may vouch for it, perhaps our certificate, perhaps another name.
//! rustls on ring, without a process-wide default. There is no way to switch verification off.
use std::{fmt, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};

use super::{Address, NbdError};

/// Ready to use and cheap to clone. Keys live inside rustls and are never shown.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// `authorities`: PEM of the only CAs that are trusted, the system's are not. `client`: PEM of certificate chain
    /// and key. `name`: whom the server's certificate must name; needed on Unix sockets, else the host of the URI.
    ///
    /// # Errors
    /// [`NbdError::TlsConfig`] for PEM that can't be used.
    pub fn new(authorities: &[u8], client: Option<(&[u8], &[u8])>, name: Option<&str>) -> Result<Self, NbdError> {
        let refuse = |what: &str, why: &dyn fmt::Display| NbdError::TlsConfig(format!("{what}: {why}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            let certificate = certificate.map_err(|e| refuse("CA", &e))?;
            roots.add(certificate).map_err(|e| refuse("CA", &e))?;
        }
        if roots.is_empty() {
            return Err(refuse("CA", &"no certificate in it"));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| refuse("versions", &e))?
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| refuse("client certificate", &e))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| refuse("client key", &e))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| refuse("client certificate", &e))?
            }
        };
        let name = name.map(|name| ServerName::try_from(name.to_owned())).transpose();
        Ok(Self { config: Arc::new(config), name: name.map_err(|e| refuse("server name", &e))? })
    }

    pub(super) fn session(&self, address: &Address) -> Result<rustls::ClientConnection, NbdError> {
        let name = match (&self.name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Tcp { host, .. }) => {
                ServerName::try_from(host.clone()).map_err(|e| NbdError::TlsConfig(e.to_string()))?
            }
            (None, Address::Unix(_)) => {
                return Err(NbdError::TlsConfig("a Unix socket has no name to verify; give one".to_owned()));
            }
        };
        rustls::ClientConnection::new(Arc::clone(&self.config), name).map_err(|e| NbdError::Tls(e.to_string()))
    }
}
