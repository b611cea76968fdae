//! vCenter away: nobody listens on its port for a while, open connections end, the inventory's work goes on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::Sim;

const BACKLOG: u32 = 1024;
/// The server's own part in going away and coming back takes no longer.
const ACT: Duration = Duration::from_secs(30);

/// A port that stays ours while nobody listens on it: a second socket is bound to it and never listens, so that the system
/// gives the number to no one else meanwhile.
#[derive(Debug)]
pub(crate) struct Port {
    pub addr: SocketAddr,
    _hold: TcpSocket,
}

impl Port {
    pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Port> {
        let hold = bound(addr)?;
        Ok(Port { addr: hold.local_addr()?, _hold: hold })
    }

    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.addr)?.listen(BACKLOG)
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Until when vCenter is away, and whether the server has acted on it.
#[derive(Debug)]
pub(crate) struct Outage {
    until: watch::Sender<Option<Instant>>,
    listening: watch::Sender<bool>,
}

impl Default for Outage {
    fn default() -> Outage {
        Outage { until: watch::channel(None).0, listening: watch::channel(true).0 }
    }
}

fn on(until: Option<Instant>) -> bool {
    until.is_some_and(|t| t > Instant::now())
}

impl Outage {
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.until.subscribe()
    }

    pub(crate) fn closed(&self) {
        self.listening.send_replace(false);
    }

    pub(crate) fn opened(&self) {
        self.listening.send_replace(true);
    }

    /// Begins (or ends, with zero) an outage and returns when connections are refused (or taken again).
    pub(crate) async fn set(&self, ms: u64) -> Result<(), String> {
        let until = (ms > 0).then(|| Instant::now() + Duration::from_millis(ms));
        self.until.send_replace(until);
        let mut listening = self.listening.subscribe();
        let done = async {
            loop {
                // A short outage may be over before this looks.
                if *listening.borrow_and_update() != on(until) || (ms > 0 && !on(until)) {
                    return;
                }
                if listening.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(ACT, done).await.map_err(|_| "the server did not act on it".to_owned())
    }
}

/// Returns when an outage is on.
pub(crate) async fn begins(outage: &mut watch::Receiver<Option<Instant>>) {
    while !on(*outage.borrow_and_update()) {
        if outage.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until the outage is over (true) or the simulator stops (false).
pub(crate) async fn over(sim: &Sim) -> bool {
    let (mut stop, mut outage) = (sim.stopped(), sim.outage.watch());
    loop {
        if *stop.borrow() {
            return false;
        }
        let until = *outage.borrow_and_update();
        match until.filter(|_| on(until)) {
            None => return true,
            Some(t) => tokio::select! {
                () = sleep_until(t) => {}
                _ = outage.changed() => {}
                _ = stop.changed() => {}
            },
        }
    }
}
