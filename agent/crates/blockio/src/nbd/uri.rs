//! NBD URIs (doc/uri.md of the NBD project): `nbd://host[:port]/export`, `nbds://…`, `nbd+unix:///export?socket=PATH`,
//! `nbds+unix://…`. Which hosts are allowed is the caller's business.
use std::{fmt, path::PathBuf, str::FromStr};

use super::NbdError;

/// Port that IANA gave to NBD.
pub const PORT: u16 = 10809;
/// Longest export name (proto.md, "Terminology": strings are at most 4096 bytes).
pub const NAME_MOST: usize = 4096;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A parsed URI. Holds no secret, so it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub address: Address,
    /// Read only through TLS, or not at all.
    pub tls: bool,
    /// May be empty: the server's default export.
    pub export: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}/")?,
            Address::Tcp { host, port } => write!(f, "{scheme}://{host}:{port}/")?,
            Address::Unix(_) => write!(f, "{scheme}+unix:///")?,
        }
        encode(f, self.export.as_bytes())?;
        if let Address::Unix(path) = &self.address {
            f.write_str("?socket=")?;
            encode(f, path.as_os_str().as_encoded_bytes())?;
        }
        Ok(())
    }
}

/// RFC 3986, unreserved characters and `/`.
fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => write!(f, "{}", byte as char),
        _ => write!(f, "%{byte:02X}"),
    })
}

impl FromStr for Target {
    type Err = NbdError;

    /// # Errors
    /// [`NbdError::BadUri`] with what is wrong, also for user names and parameters that this client does not know:
    /// ignoring one could mean less security than was asked for.
    fn from_str(uri: &str) -> Result<Self, NbdError> {
        parse(uri).map_err(|why| NbdError::BadUri { uri: uri.chars().take(200).collect(), why })
    }
}

fn parse(uri: &str) -> Result<Target, &'static str> {
    let (scheme, rest) = uri.split_once("://").ok_or("no scheme")?;
    let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        _ => return Err("the scheme is none of nbd, nbds, nbd+unix, nbds+unix"),
    };
    if rest.contains('#') {
        return Err("it has a fragment");
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = String::from_utf8(decode(path)?).map_err(|_| "the export's name is not UTF-8")?;
    if export.len() > NAME_MOST || export.contains('\0') {
        return Err("the export's name is longer than 4096 bytes or has a NUL");
    }
    let socket = socket(query)?;
    let address = match (unix, socket) {
        (true, Some(path)) if authority.is_empty() => Address::Unix(path),
        (true, Some(_)) => return Err("a host and a socket"),
        (true, None) => return Err("the parameter socket is missing"),
        (false, Some(_)) => return Err("a socket without +unix"),
        (false, None) => tcp(authority)?,
    };
    Ok(Target { address, tls, export })
}

fn socket(query: Option<&str>) -> Result<Option<PathBuf>, &'static str> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut found = None;
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter without a value")?;
        let path = decode(value)?;
        if key != "socket" {
            return Err("a parameter that is not socket");
        }
        if path.is_empty() || path.contains(&0) || found.is_some() {
            return Err("the parameter socket is empty, has a NUL or is there twice");
        }
        found = Some(PathBuf::from(std::ffi::OsString::from_vec(path)));
    }
    Ok(found)
}

fn tcp(authority: &str) -> Result<Address, &'static str> {
    if authority.contains('@') {
        return Err("a user name");
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("no ] after [")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address between [ and ]")?;
        (host, port)
    } else {
        let at = authority.find(':').unwrap_or(authority.len());
        authority.split_at(at)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT,
        Some("") => PORT,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err("the port is not 1 to 65535"),
        },
        _ => return Err("the port is no number"),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || host.len() > 255 || !host.bytes().all(legal) {
        return Err("the host is empty or has characters that no host has");
    }
    Ok(Address::Tcp { host: host.to_owned(), port })
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err("% without two hexadecimal digits"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn what_the_specification_allows() {
        for (uri, address, tls, export) in [
            ("nbd://localhost", tcp("localhost", 10809), false, ""),
            ("NBDS://esx-1.example.org:902/disk%20one/a", tcp("esx-1.example.org", 902), true, "disk one/a"),
            ("nbd://[::1]:7/", tcp("::1", 7), false, ""),
            ("nbd+unix:///?socket=/run/x.sock", Address::Unix("/run/x.sock".into()), false, ""),
            ("nbds+unix:///%E2%82%AC?socket=%2Frun%2Fa%20b", Address::Unix("/run/a b".into()), true, "€"),
        ] {
            let target: Target = uri.parse().unwrap();
            assert_eq!(target, Target { address, tls, export: export.to_owned() }, "{uri}");
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target, "{target}");
        }
    }

    #[test]
    fn what_must_be_refused() {
        for uri in [
            "",
            "http://host/",
            "nbd+vsock://2/",
            "nbd://",
            "nbd:///x",
            "nbd://user@host/",
            "nbd://host:0/",
            "nbd://host:65536/",
            "nbd://host:+5/",
            "nbd://[::1/",
            "nbd://[nonsense]/",
            "nbd://ho st/",
            "nbd://host/%zz",
            "nbd://host/%c3%28",
            "nbd://host/%00",
            "nbd://host/#part",
            "nbd://host/?socket=/x",
            "nbds://host/?tls-verify-peer=0",
            "nbd+unix:///",
            "nbd+unix://host/?socket=/x",
            "nbd+unix:///?socket=",
            "nbd+unix:///?socket=/a&socket=/b",
        ] {
            assert!(matches!(uri.parse::<Target>(), Err(NbdError::BadUri { .. })), "{uri}");
        }
        assert!(format!("nbd://host/{}", "a".repeat(NAME_MOST + 1)).parse::<Target>().is_err());
    }
}
