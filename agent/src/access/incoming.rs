//! From sockets to connections: handshakes run beside each other, each with a deadline, and so many at a time that a flood of them holds
//! nobody else up for long. A connection whose peer was put out breaks.
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    door::Door,
    peer::Peer,
    places::{Place, Places, network},
};
use crate::reason;

/// How long a connection may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time, of all and of one address: a controller opens a few, a flood thousands.
const HANDSHAKES: usize = 512;
const HANDSHAKES_EACH: usize = 64;
/// The same of connections: descriptors are left for vCenter, devices and the journal, whoever has a certificate. Of one client the
/// configuration says how many.
pub(super) const CONNECTIONS: usize = 1024;
const CONNECTIONS_EACH: usize = 256;
/// After an accept that failed, e.g. for want of descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn handshakes() -> Places<IpAddr> {
    Places::new(HANDSHAKES, HANDSHAKES_EACH)
}

pub(super) fn connections() -> Places<IpAddr> {
    Places::new(CONNECTIONS, CONNECTIONS_EACH)
}

/// Why a connection is not let in.
enum Refused {
    Broken(String),
    /// Its client has as many as it may.
    Crowded(Arc<str>),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

impl Door {
    /// Connections that are let in, of protocols that this port speaks (ALPN). Ends with the sockets; dropping it closes them.
    pub fn incoming(
        &self,
        sockets: impl Stream<Item = io::Result<TcpStream>> + Send + 'static,
        protocols: &'static [&'static [u8]],
    ) -> ReceiverStream<io::Result<Connection>> {
        let (tx, rx) = mpsc::channel(1);
        let door = self.clone();
        tokio::spawn(async move {
            let mut sockets = pin!(sockets);
            loop {
                let next = tokio::select! {
                    biased;
                    () = tx.closed() => return,
                    next = sockets.next() => next,
                };
                match next {
                    Some(Ok(socket)) => door.begin(socket, protocols, &tx),
                    Some(Err(error)) => {
                        door.tell_refused(None, &error.to_string());
                        sleep(ACCEPT_PAUSE).await;
                    }
                    None => return,
                }
            }
        });
        ReceiverStream::new(rx)
    }

    fn begin(&self, socket: TcpStream, protocols: &'static [&'static [u8]], tx: &mpsc::Sender<io::Result<Connection>>) {
        let Ok(address) = socket.peer_addr() else { return };
        let Some(place) = self.shared.places.take(network(address.ip())) else {
            return self.tell_refused(Some(address), "too many handshakes at the same time");
        };
        let (door, tx) = (self.clone(), tx.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE, door.shake(socket, address, protocols)).await;
            drop(place);
            match shaken.unwrap_or_else(|_| Err(format!("no handshake within {} s", HANDSHAKE.as_secs()).into())) {
                // Nobody takes it: the port closes.
                Ok(connection) => drop(tx.send(Ok(connection)).await),
                Err(Refused::Broken(why)) => door.tell_refused(Some(address), &why),
                Err(Refused::Crowded(client)) => door.tell_crowded(address, &client),
            }
        });
    }

    async fn shake(&self, socket: TcpStream, address: SocketAddr, protocols: &[&[u8]]) -> Result<Connection, Refused> {
        let mut config = self.material().server.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Peer::new(chain.iter().map(|der| der.clone().into_owned()).collect(), address)?;
        self.remember(&peer);
        // Files that were read meanwhile have judged only those that were remembered.
        self.material().judge(peer.chain())?;
        let crowd = || "too many connections at the same time".to_owned();
        let by_address = self.shared.connections.take(network(address.ip())).ok_or_else(crowd)?;
        let client = self.client(&peer);
        let by_client = self.shared.clients.take(Arc::clone(&client)).ok_or(Refused::Crowded(client))?;
        Ok(Connection { stream, out: Box::pin(peer.when_out()), peer, _places: (by_address, by_client) })
    }

    /// With lines of its own: a client that opens connections without end keeps nothing else out of the log.
    fn tell_crowded(&self, address: SocketAddr, client: &str) {
        self.shared.meter.limited("connections");
        if let Some(kept_back) = self.shared.crowded.ask() {
            let (reason, most) = (reason::LIM_CLIENT.code, self.shared.clients.each());
            tracing::warn!(reason, client, %address, most, kept_back, "a connection was not let in: its client has as many as it may");
        }
    }

    fn tell_refused(&self, address: Option<SocketAddr>, why: &str) {
        if let Some(kept_back) = self.shared.refused.ask() {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(address, why, kept_back, "a connection was not let in");
        }
    }
}

/// A connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    out: Pin<Box<WaitForCancellationFutureOwned>>,
    peer: Arc<Peer>,
    _places: (Place<IpAddr>, Place<Arc<str>>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection of {:?}", self.peer)
    }
}

impl Connection {
    #[must_use]
    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    fn broken(&self) -> Option<io::Error> {
        self.peer
            .is_out()
            .then(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the client's certificate holds no longer"))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Asked on every read, so that one that waits for bytes is woken when its peer is put out.
        if self.peer.is_out() || self.out.as_mut().poll(task).is_ready() {
            return Poll::Ready(self.broken().map_or(Ok(()), Err));
        }
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.broken() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write(task, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.broken() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write_vectored(task, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
