//! A raw gRPC client, for tests that need to misbehave.
use std::time::Duration;

use anyhow::Result;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Pki;

/// Connects with the named identity of the scene's PKI.
pub async fn connect(agent: &str, pki: &Pki, identity: &str) -> Result<Channel> {
    let read = |name: &str| std::fs::read(pki.file(name));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(Identity::from_pem(read(&format!("{identity}.pem"))?, read(&format!("{identity}.key"))?))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(agent.to_owned())?.tls_config(tls)?.connect_timeout(Duration::from_secs(10));
    Ok(endpoint.connect().await?)
}
