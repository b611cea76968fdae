//! Whether hosts answer on a port: what is read from them is told to be out of reach before a snapshot is taken.
use std::time::Duration;

use futures_util::{StreamExt as _, future, stream};
use tokio::{net::TcpStream, time::timeout};

/// For a host that answers at all.
const KNOCK: Duration = Duration::from_secs(5);
/// Hosts that are asked at a time.
const KNOCKS: usize = 16;

/// `None`: all answer. Else those that don't, and why.
pub async fn all(hosts: Vec<String>, port: u16) -> Option<String> {
    let knocks = hosts.into_iter().map(|host| knock(host, port));
    let deaf: Vec<String> = stream::iter(knocks).buffered(KNOCKS).filter_map(future::ready).collect().await;
    (!deaf.is_empty()).then(|| deaf.join("; "))
}

async fn knock(host: String, port: u16) -> Option<String> {
    match timeout(KNOCK, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("{host}, TCP {port}: {error}")),
        Err(_) => Some(format!("{host}, TCP {port}: no answer in {} s", KNOCK.as_secs())),
    }
}
