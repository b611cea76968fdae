//! Asks TLS itself why a connection is not wanted: hand-shakes, then listens without a word of HTTP. A server that
//! refuses our certificate answers with an alert; a server that likes it sends its HTTP/2 settings.
use std::{
    io::{self, BufReader},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tonic::transport::Uri;

use super::Credentials;

const LIMIT: Duration = Duration::from_secs(5);

/// The TLS error that the agent or we have with the connection, if that is what is wrong with it.
pub(super) async fn run(uri: &Uri, credentials: &Credentials) -> Option<rustls::Error> {
    let (uri, credentials) = (uri.clone(), credentials.clone());
    let probe = tokio::task::spawn_blocking(move || probe(&uri, &credentials));
    tokio::time::timeout(LIMIT * 2, probe).await.ok()?.ok()?
}

/// Reads the three files as TLS will; the error names the one at fault.
pub(super) fn config(credentials: &Credentials) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for cert in certificates("CA", &credentials.ca)? {
        roots.add(cert).map_err(|error| format!("CA: {error}"))?;
    }
    let chain = certificates("certificate", &credentials.cert)?;
    let key = PrivateKeyDer::from_pem_reader(BufReader::new(credentials.key.as_slice()))
        .map_err(|error| format!("key: {error}"))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("certificate and key: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(pem)).collect();
    let all = all.map_err(|error| format!("{what}: {error}"))?;
    if all.is_empty() {
        return Err(format!("{what}: the file holds no PEM certificate"));
    }
    Ok(all)
}

fn probe(uri: &Uri, credentials: &Credentials) -> Option<rustls::Error> {
    let host = uri.host()?.trim_matches(['[', ']']);
    let name = credentials.server_name.clone().unwrap_or_else(|| host.to_owned());
    let mut tls = ClientConnection::new(Arc::new(config(credentials).ok()?), ServerName::try_from(name).ok()?).ok()?;
    let address = (host, uri.port_u16()?).to_socket_addrs().ok()?.next()?;
    let mut socket = TcpStream::connect_timeout(&address, LIMIT).ok()?;
    socket.set_read_timeout(Some(LIMIT)).ok()?;
    socket.set_write_timeout(Some(LIMIT)).ok()?;
    listen(&mut tls, &mut socket).ok()?
}

fn listen(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<Option<rustls::Error>> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        if tls.read_tls(socket)? == 0 {
            return Ok(None);
        }
        match tls.process_new_packets() {
            Err(error) => return Ok(Some(error)),
            // The server talks HTTP/2 to us: our certificate is not the problem.
            Ok(state) if state.plaintext_bytes_to_read() > 0 => return Ok(None),
            Ok(_) => {}
        }
    }
    Ok(None)
}
