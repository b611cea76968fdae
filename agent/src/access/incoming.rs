//! From sockets to connections: handshakes run beside each other, each with a deadline, and so many at a time that a flood of them holds
//! nobody else up for long. A connection whose peer was put out breaks.
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
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

use super::{door::Door, peer::Peer};

/// How long a connection may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time, of all and of one address: a controller opens a few, a flood thousands.
const HANDSHAKES: usize = 512;
const HANDSHAKES_EACH: usize = 64;
/// The same of connections: descriptors are left for vCenter, devices and the journal, whoever has a certificate.
const CONNECTIONS: usize = 1024;
const CONNECTIONS_EACH: usize = 256;
/// After an accept that failed, e.g. for want of descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let Some(place) = self.shared.places.take(address.ip()) else {
            return self.tell_refused(Some(address), "too many handshakes at the same time");
        };
        let (door, tx) = (self.clone(), tx.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE, door.shake(socket, address, protocols)).await;
            drop(place);
            match shaken.unwrap_or_else(|_| Err(format!("no handshake within {} s", HANDSHAKE.as_secs()))) {
                // Nobody takes it: the port closes.
                Ok(connection) => drop(tx.send(Ok(connection)).await),
                Err(why) => door.tell_refused(Some(address), &why),
            }
        });
    }

    async fn shake(&self, socket: TcpStream, address: SocketAddr, protocols: &[&[u8]]) -> Result<Connection, String> {
        let mut config = self.material().server.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Peer::new(chain.iter().map(|der| der.clone().into_owned()).collect(), address)?;
        self.remember(&peer);
        // Files that were read meanwhile have judged only those that were remembered.
        self.material().judge(peer.chain())?;
        let place = self.shared.connections.take(address.ip()).ok_or("too many connections at the same time")?;
        Ok(Connection { stream, out: Box::pin(peer.when_out()), peer, _place: place })
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
    _place: Place,
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

/// Counts handshakes that run, or connections, by where they come from.
#[derive(Debug, Clone)]
pub(super) struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    all: usize,
    each: usize,
}

/// Gives its place back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    address: IpAddr,
}

/// Whoever has one IPv6 address usually has a /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            v6.to_ipv4_mapped().map_or_else(|| IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()), IpAddr::V4)
        }
    }
}

impl Places {
    pub(super) fn handshakes() -> Self {
        Self { taken: Arc::default(), all: HANDSHAKES, each: HANDSHAKES_EACH }
    }

    pub(super) fn connections() -> Self {
        Self { taken: Arc::default(), all: CONNECTIONS, each: CONNECTIONS_EACH }
    }

    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let own = all.get(&address).copied().unwrap_or(0);
        if total >= self.all || own >= self.each {
            return None;
        }
        all.insert(address, own + 1);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_host_are_one() {
        let places = Places::connections();
        let held: Vec<_> =
            (0..CONNECTIONS_EACH).map(|n| places.take(format!("2001:db8::{n:x}").parse().unwrap()).unwrap()).collect();
        assert!(places.take("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_some());
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), network("10.0.0.1".parse().unwrap()));
        drop(held);
    }

    #[test]
    fn one_address_can_not_take_every_handshake() {
        let places = Places::handshakes();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..HANDSHAKES_EACH).map(|_| places.take(one).unwrap()).collect();
        assert!(places.take(one).is_none() && places.take(other).is_some());
        held.pop();
        held.push(places.take(one).unwrap());
        for n in 0..HANDSHAKES {
            let address = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            held.extend(places.take(address));
        }
        assert_eq!(held.len(), HANDSHAKES);
        drop(held);
        assert!(places.taken.lock().unwrap().is_empty(), "what ended is not remembered");
    }
}
