//! One nonblocking socket, bare or inside TLS, and the waits on it. Bare bytes go from the socket into the caller's
//! memory without a stop on the way. Knows nothing of NBD.
use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect, getsockopt,
        recv, send, setsockopt, socket, sockopt,
    },
};
use rustls::ClientConnection;

use super::{Address, NbdError, Options, Tls, handshake::Wire, options::STOP_POLL};

/// Bytes of TLS records taken from the socket at once.
const INBOX: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    tls: Option<Box<Session>>,
}

/// TLS and the records that were received and not yet decrypted.
struct Session {
    connection: ClientConnection,
    inbox: Vec<u8>,
    start: usize,
    end: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a OwnedFd);

impl io::Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl io::Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(send(self.0.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The outcome of an operation that does not block: `None` means "not now".
fn later<T>(result: io::Result<T>) -> Result<Option<T>, NbdError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(NbdError::Closed),
        Err(e) => Err(NbdError::Io(e)),
    }
}

impl Channel {
    /// Connects within `limits.connect`.
    pub fn connect(address: &Address, options: &Options) -> Result<Self, NbdError> {
        let until = Instant::now() + options.limits.connect;
        let fd = match address {
            Address::Unix(path) => {
                let address = UnixAddr::new(path.as_path()).map_err(|e| NbdError::Io(e.into()))?;
                open(AddressFamily::Unix, &address, until, options)?
            }
            Address::Tcp { host, port } => tcp(host, *port, until, options)?,
        };
        Ok(Self { fd, tls: None })
    }

    /// Reads what is there, at least one byte; `None` when nothing is.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, NbdError> {
        let got = match &mut self.tls {
            None => later(io::Read::read(&mut Raw(&self.fd), buf))?,
            Some(session) => session.read(&self.fd, buf)?,
        };
        if got == Some(0) { Err(NbdError::Closed) } else { Ok(got) }
    }

    /// Writes what fits; 0 when nothing does.
    pub fn write(&mut self, buf: &[u8]) -> Result<usize, NbdError> {
        let Some(session) = &mut self.tls else {
            return Ok(later(io::Write::write(&mut Raw(&self.fd), buf))?.unwrap_or(0));
        };
        session.flush(&self.fd)?;
        let taken = io::Write::write(&mut session.connection.writer(), buf).map_err(NbdError::Io)?;
        session.flush(&self.fd)?;
        Ok(taken)
    }

    /// Sends what TLS still holds; true when nothing is left.
    pub fn flush(&mut self) -> Result<bool, NbdError> {
        self.tls.as_mut().map_or(Ok(true), |session| session.flush(&self.fd))
    }

    /// Goes over to TLS and finishes its handshake.
    pub fn secure(mut self, tls: &Tls, address: &Address, patience: &Patience<'_>) -> Result<Self, NbdError> {
        let connection = tls.session(address)?;
        let mut session = Box::new(Session { connection, inbox: vec![0; INBOX], start: 0, end: 0 });
        while session.connection.is_handshaking() {
            let sent = session.flush(&self.fd)?;
            if session.connection.is_handshaking() && !session.receive(&self.fd)? {
                let events = if sent { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
                patience.wait(self.fd.as_fd(), events)?;
            }
        }
        session.flush(&self.fd)?;
        self.tls = Some(session);
        Ok(self)
    }

    /// Says good-bye in TLS as far as that goes without waiting.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.tls {
            session.connection.send_close_notify();
            // The peer may be gone already; there is nobody left to tell.
            let _sent = session.flush(&self.fd);
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Session {
    fn read(&mut self, fd: &OwnedFd, buf: &mut [u8]) -> Result<Option<usize>, NbdError> {
        loop {
            if let Some(got) = later(io::Read::read(&mut self.connection.reader(), buf))? {
                return Ok(Some(got));
            }
            if !self.receive(fd)? {
                return Ok(None);
            }
        }
    }

    /// Feeds records to TLS; false when the socket has nothing.
    fn receive(&mut self, fd: &OwnedFd) -> Result<bool, NbdError> {
        if self.start == self.end {
            match later(io::Read::read(&mut Raw(fd), &mut self.inbox))? {
                None => return Ok(false),
                Some(0) => return Err(NbdError::Closed),
                Some(got) => (self.start, self.end) = (0, got),
            }
        }
        let mut records = self.inbox.get(self.start..self.end).unwrap_or_default();
        self.start += self.connection.read_tls(&mut records).map_err(NbdError::Io)?;
        let state = self.connection.process_new_packets();
        // Alerts, key updates and the last flight of a handshake want out even when that failed.
        let flushed = self.flush(fd);
        state.map_err(|e| NbdError::Tls(e.to_string()))?;
        flushed.map(|_| true)
    }

    fn flush(&mut self, fd: &OwnedFd) -> Result<bool, NbdError> {
        while self.connection.wants_write() {
            if later(self.connection.write_tls(&mut Raw(fd)))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A deadline with a name, and the caller's wish to stop.
#[derive(Debug)]
pub struct Patience<'a> {
    pub what: &'static str,
    pub after: Duration,
    pub until: Instant,
    pub options: &'a Options,
}

impl Patience<'_> {
    /// Waits until `fd` can do one of `events`.
    pub fn wait(&self, fd: BorrowedFd<'_>, events: PollFlags) -> Result<(), NbdError> {
        loop {
            self.options.stopped()?;
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NbdError::Timeout { what: self.what, after: self.after });
            }
            let slice = if self.options.stop.is_some() { left.min(STOP_POLL) } else { left };
            if poll_for(&mut [PollFd::new(fd, events)], slice)? > 0 {
                return Ok(());
            }
        }
    }
}

/// poll(2), rounded up to a millisecond so that it never spins; an interrupted one counts as nothing ready.
pub fn poll_for(fds: &mut [PollFd<'_>], most: Duration) -> Result<i32, NbdError> {
    let millis = most.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Err(Errno::EINTR) => Ok(0),
        other => other.map_err(|e| NbdError::Io(e.into())),
    }
}

/// A channel during negotiation: waits for whole messages.
#[derive(Debug)]
pub struct Patient<'a> {
    pub channel: &'a mut Channel,
    pub patience: &'a Patience<'a>,
}

impl Wire for Patient<'_> {
    fn get(&mut self, mut buf: &mut [u8]) -> Result<(), NbdError> {
        while !buf.is_empty() {
            match self.channel.read(buf)? {
                Some(got) => buf = buf.get_mut(got..).unwrap_or_default(),
                None => self.patience.wait(self.channel.as_fd(), PollFlags::POLLIN)?,
            }
            // A peer that always has one more byte must not outrun the deadline.
            if self.patience.until <= Instant::now() {
                return Err(NbdError::Timeout { what: self.patience.what, after: self.patience.after });
            }
        }
        Ok(())
    }

    fn put(&mut self, mut buf: &[u8]) -> Result<(), NbdError> {
        while !buf.is_empty() || !self.channel.flush()? {
            match self.channel.write(buf)? {
                0 => self.patience.wait(self.channel.as_fd(), PollFlags::POLLOUT)?,
                sent => buf = buf.get(sent..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}

fn tcp(host: &str, port: u16, until: Instant, options: &Options) -> Result<OwnedFd, NbdError> {
    let addresses = resolve(host, port, until, options)?;
    let mut last = NbdError::Io(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        // An address that swallows packets leaves time for the next.
        let share = until.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        match open(family, &SockaddrStorage::from(address), Instant::now() + share, options) {
            Ok(fd) => {
                setsockopt(&fd, sockopt::TcpNoDelay, &true).map_err(|e| NbdError::Io(e.into()))?;
                return Ok(fd);
            }
            Err(NbdError::Stopped) => return Err(NbdError::Stopped),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Resolves on a thread of its own, because the system's resolver keeps no deadline of ours.
fn resolve(host: &str, port: u16, until: Instant, options: &Options) -> Result<Vec<SocketAddr>, NbdError> {
    if let Ok(literal) = host.parse() {
        return Ok(vec![SocketAddr::new(literal, port)]);
    }
    let (answer, answered) = crossbeam_channel::bounded(1);
    let name = host.to_owned();
    thread::Builder::new()
        .name("nbd-resolve".into())
        .spawn(move || answer.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)))
        .map_err(NbdError::Io)?;
    loop {
        options.stopped()?;
        match answered.recv_deadline(until.min(Instant::now() + STOP_POLL)) {
            Ok(addresses) => return addresses.map_err(NbdError::Io),
            Err(_) if Instant::now() >= until => {
                return Err(NbdError::Timeout { what: "resolving the host's name", after: options.limits.connect });
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Err(NbdError::Closed),
        }
    }
}

fn open(
    family: AddressFamily,
    address: &dyn SockaddrLike,
    until: Instant,
    options: &Options,
) -> Result<OwnedFd, NbdError> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let broken = |e: Errno| NbdError::Io(e.into());
    let fd = socket(family, SockType::Stream, flags, None).map_err(broken)?;
    let patience = Patience { what: "connecting", after: options.limits.connect, until, options };
    loop {
        match connect(fd.as_raw_fd(), address) {
            Ok(()) | Err(Errno::EISCONN) => return Ok(fd),
            Err(Errno::EINTR) => {}
            Err(Errno::EINPROGRESS | Errno::EALREADY) => {
                patience.wait(fd.as_fd(), PollFlags::POLLOUT)?;
                match getsockopt(&fd, sockopt::SocketError).map_err(broken)? {
                    0 => return Ok(fd),
                    error => return Err(NbdError::Io(io::Error::from_raw_os_error(error))),
                }
            }
            // A Unix socket whose queue of connections is full.
            Err(Errno::EAGAIN) => {
                options.stopped()?;
                if Instant::now() >= until {
                    return Err(NbdError::Timeout { what: "connecting", after: options.limits.connect });
                }
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(broken(error)),
        }
    }
}
