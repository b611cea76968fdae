//! What a connection that does not come about, or breaks, means in words for people, and what to do. The libraries' own text is for
//! the detail of `--json`. Nothing is asked here: only errors are read.
use std::{error::Error as StdError, io};

use rustls::{AlertDescription as Alert, CertificateError as Verdict};

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Refused,
    NoWay,
    NoName,
    Silent,
    /// By the other side, before both agreed on TLS.
    Closed,
}

impl Cause {
    /// Of a connection that does not come about; `None`: something rare, whose own text says more than a guess.
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        find(error, &|error| Self::of_io(error.downcast_ref::<io::Error>()?))
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
            TimedOut, UnexpectedEof,
        };
        match error.kind() {
            ConnectionRefused => Some(Self::Refused),
            HostUnreachable | NetworkUnreachable => Some(Self::NoWay),
            TimedOut => Some(Self::Silent),
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Some(Self::Closed),
            // The standard library gives the resolver's errors no kind that can be named.
            _ => error.to_string().starts_with("failed to lookup address information").then_some(Self::NoName),
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Refused => "the connection was refused: nothing listens on that port, or a firewall refuses it",
            Self::NoWay => "that address is unreachable from here",
            Self::NoName => "the name of the host can't be resolved",
            Self::Silent => "nothing answered in time",
            Self::Closed => {
                "the other side closed the connection during the TLS handshake: perhaps it wants another client certificate, or is no agent"
            }
        }
    }

    pub(super) fn next(self) -> &'static str {
        match self {
            Self::Refused => {
                "check the port of --agent and systemctl status hotadd-agent on the proxy; the port stays closed while the agent settles what an earlier run left"
            }
            Self::NoWay => "check the address in --agent, and routing from here to the proxy",
            Self::NoName => "check the host in --agent, or name it in DNS or /etc/hosts",
            Self::Silent => "check the address in --agent, firewalls that drop, and that the proxy is on",
            Self::Closed => "check that a hotadd-agent listens there, and --cert against its client CA",
        }
    }
}

/// A connection that was there and broke.
pub(crate) fn broken(error: &(dyn StdError + 'static)) -> &'static str {
    match Cause::of(error) {
        Some(Cause::Silent) => "the agent did not answer any more",
        _ => "the connection to the agent broke",
    }
}

/// Why the agent's certificate is not accepted here.
pub(super) fn of_server(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::UnknownIssuer => "it is not signed by the CA of --ca",
        Verdict::NotValidForName | Verdict::NotValidForNameContext { .. } => {
            "it is not for the name of --server-name or, without that, for the host of --agent"
        }
        Verdict::Expired | Verdict::ExpiredContext { .. } => "it has expired, or the clock here is wrong",
        Verdict::NotValidYet | Verdict::NotValidYetContext { .. } => "it is not valid yet, or the clock here is wrong",
        Verdict::BadSignature => "its signature is wrong: another CA of the same name?",
        _ => "it can't be used",
    }
}

/// Why the agent refuses ours.
pub(super) fn of_client(alert: Alert) -> &'static str {
    match alert {
        Alert::UnknownCA => "it is not signed by the agent's client CA",
        Alert::CertificateExpired => "it has expired",
        Alert::CertificateRevoked => "it was revoked",
        Alert::CertificateRequired => "none was shown",
        Alert::DecryptError => "its signature is wrong: another CA of the same name?",
        _ => "it can't be used there",
    }
}

/// The first answer of a chain of causes, also inside I/O errors, which hide what they wrap from `source`.
pub(super) fn find<T>(
    error: &(dyn StdError + 'static),
    look: &dyn Fn(&(dyn StdError + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = look(error) {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find(inner, look)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};

    use super::*;

    #[test]
    fn real_errors_are_told_apart() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = TcpStream::connect(free).unwrap_err();
        assert_eq!(Cause::of(&refused), Some(Cause::Refused), "{refused}");
        // A label that is too long: the resolver itself says so, and asks nobody.
        let unknown = ("x".repeat(64), 1).to_socket_addrs().unwrap_err();
        assert_eq!(Cause::of(&unknown), Some(Cause::NoName), "{unknown}");
        // EHOSTUNREACH, ETIMEDOUT.
        for (number, cause) in [(113, Cause::NoWay), (110, Cause::Silent)] {
            assert_eq!(Cause::of(&io::Error::from_raw_os_error(number)), Some(cause));
        }
    }

    #[test]
    fn what_an_error_wraps_is_found_and_what_is_rare_is_not_guessed() {
        let inner = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        assert_eq!(Cause::of(&io::Error::other(inner)), Some(Cause::Closed));
        assert_eq!(Cause::of(&io::Error::other("something else")), None);
    }
}
