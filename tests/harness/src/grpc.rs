//! A raw gRPC client, for tests that need to misbehave.
use std::time::Duration;

use anyhow::Result;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Pki;

/// What HTTP/2 allows on its way when nobody says otherwise.
const NARROW: u32 = (64 << 10) - 1;

/// Connects with the named identity of the scene's PKI.
pub async fn connect(agent: &str, pki: &Pki, identity: &str) -> Result<Channel> {
    Ok(endpoint(agent, pki, identity)?.connect().await?)
}

/// The same with small windows: an agent can't run far ahead of a controller that takes nothing.
pub async fn connect_narrow(agent: &str, pki: &Pki, identity: &str) -> Result<Channel> {
    let endpoint = endpoint(agent, pki, identity)?;
    Ok(endpoint.initial_stream_window_size(NARROW).initial_connection_window_size(NARROW).connect().await?)
}

fn endpoint(agent: &str, pki: &Pki, identity: &str) -> Result<Endpoint> {
    let read = |name: &str| std::fs::read(pki.file(name));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(Identity::from_pem(read(&format!("{identity}.pem"))?, read(&format!("{identity}.key"))?))
        .domain_name("localhost");
    Ok(Endpoint::from_shared(agent.to_owned())?.tls_config(tls)?.connect_timeout(Duration::from_secs(10)))
}
