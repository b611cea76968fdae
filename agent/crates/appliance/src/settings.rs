//! What the properties mean: typed settings, or every fault at once. Pure. Nothing that passes here can end a line or a string of a file
//! that is written from it. Network and host name stand apart: they are used also when the rest is wrong, so that the appliance is reachable.
use std::{collections::BTreeMap, net::IpAddr};

use ring::digest;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    environment::Environment,
    properties as p,
    reasons::{self, Fault},
};

/// An address and how many of its bits are the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

/// How the appliance is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Without one: DHCP.
    pub address: Option<Prefix>,
    pub gateway: Option<IpAddr>,
    pub dns: Vec<IpAddr>,
    pub search: Vec<String>,
    /// Names or addresses.
    pub ntp: Vec<String>,
}

/// Whom to believe to be vCenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// PEM.
    Authority(String),
    /// SHA-256 of the certificate, hexadecimal digits.
    Pin(String),
}

/// Everything that agent.toml needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Service {
    pub port: u16,
    /// PEM.
    pub client_ca: String,
    /// `https://host[:port]`
    pub vcenter: String,
    pub trust: Trust,
    pub user: String,
    pub password: String,
    /// Key of agent.toml → number.
    pub limits: BTreeMap<&'static str, u64>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("vcenter", &self.vcenter).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What can be done with an environment.
#[derive(Debug)]
pub struct Settings {
    pub hostname: String,
    pub network: Network,
    /// Of root on the console.
    pub console: Option<Console>,
    /// No password has a value, though the console's has its place: none was given, or they were blanked after they were taken.
    pub blanked: bool,
    /// `None`: something is missing or wrong, see the faults.
    pub service: Option<Service>,
    pub generation: u16,
    pub faults: Vec<Fault>,
}

/// A password that prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Console(pub String);

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[REDACTED]")
    }
}

pub const DEFAULT_HOSTNAME: &str = "hotadd-proxy";
const DEFAULT_PORT: u16 = 7443;

/// Reads everything, whatever is wrong with some of it.
#[must_use]
pub fn read(environment: &Environment) -> Settings {
    let mut reader = Reader { environment, faults: Vec::new() };
    let hostname = reader.value(p::HOSTNAME, host_name).unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned());
    let network = reader.network();
    let console = reader.value(p::CONSOLE, |text| one_line(text).map(Console));
    let generation = reader.value(p::GENERATION, number).unwrap_or(1);
    let service = reader.service();
    // Also for a wrong address: who asked for another one would not find the service, and it would count as configured.
    let whole = reader.faults.is_empty();
    for key in environment.keys().filter(|key| p::ALL.iter().all(|property| property.key != *key)) {
        let key: String = key.chars().filter(|c| c.is_ascii_graphic()).take(60).collect();
        reader.faults.push(Fault::new(reasons::NO_MATCH, format!("{}.{key}", p::CLASS)));
    }
    Settings {
        hostname,
        network,
        console,
        blanked: environment.is_blank(p::CONSOLE) && environment.get(p::PASSWORD).is_none(),
        service: service.filter(|_| whole),
        generation,
        faults: reader.faults,
    }
}

struct Reader<'a> {
    environment: &'a Environment,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// A value that is there and can be used.
    fn value<T>(&mut self, key: &str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.environment.get(key)?;
        match check(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.faults.push(Fault::new(reasons::INVALID, format!("{}.{key}: {why}", p::CLASS)));
                None
            }
        }
    }

    fn required<T>(&mut self, key: &str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if self.environment.get(key).is_none() {
            self.faults.push(Fault::new(reasons::MISSING, format!("{}.{key}", p::CLASS)));
        }
        self.value(key, check)
    }

    /// All or DHCP: half a static network reaches nobody.
    fn network(&mut self) -> Network {
        let before = self.faults.len();
        let address = self.value(p::ADDRESS, prefix);
        let gateway = self.value(p::GATEWAY, |text| gateway(text, address));
        let dns = self.value(p::DNS, |text| list(text, |item| item.parse().map_err(|_| "no address".to_owned())));
        let search = self.value(p::SEARCH, |text| list(text, host_name));
        let ntp = self.value(p::NTP, |text| list(text, host));
        let network = Network {
            address,
            gateway,
            dns: dns.unwrap_or_default(),
            search: search.unwrap_or_default(),
            ntp: ntp.unwrap_or_default(),
        };
        if self.faults.len() == before { network } else { Network::default() }
    }

    fn service(&mut self) -> Option<Service> {
        let vcenter = self.required(p::VCENTER, url);
        let user = self.required(p::USER, one_line);
        let password = self.required(p::PASSWORD, one_line);
        let client_ca = self.required(p::CLIENT_CA, certificates);
        let port = self.value(p::PORT, |text| match number(text)? {
            0 => Err("0 is no port".to_owned()),
            port => Ok(port),
        });
        let trust = self.trust();
        let mut limits = BTreeMap::new();
        for key in [p::PARALLEL_READS, p::READS, p::MEMORY, p::SNAPSHOTS, p::BYTES] {
            limits.extend(self.value(key, number::<u64>).map(|value| (key, value)));
        }
        Some(Service {
            port: port.unwrap_or(DEFAULT_PORT),
            client_ca: client_ca?,
            vcenter: vcenter?,
            trust: trust?,
            user: user?,
            password: password?,
            limits,
        })
    }

    fn trust(&mut self) -> Option<Trust> {
        let authority = self.environment.get(p::VCENTER_CA).is_some();
        let pin = self.environment.get(p::VCENTER_PIN).is_some();
        let both = format!("{}.{} or {}", p::CLASS, p::VCENTER_CA, p::VCENTER_PIN);
        match (authority, pin) {
            (true, false) => self.value(p::VCENTER_CA, certificates).map(Trust::Authority),
            (false, true) => self.value(p::VCENTER_PIN, fingerprint).map(Trust::Pin),
            (false, false) => {
                self.faults.push(Fault::new(reasons::MISSING, both));
                None
            }
            (true, true) => {
                self.faults.push(Fault::new(reasons::INVALID, format!("{both}: one of them, not both")));
                None
            }
        }
    }
}

fn one_line(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("holds a line end or another control character".to_owned());
    }
    Ok(text.to_owned())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("no whole number".to_owned());
    }
    text.parse().map_err(|_| "too large".to_owned())
}

/// RFC 1123, as a name of one or more labels.
fn host_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("no host name (letters, digits, hyphens, dots)".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// A name or an address, as text that needs no quoting.
fn host(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => host_name(text).map_err(|_| "no host name or address".to_owned()),
    }
}

fn url(text: &str) -> Result<String, String> {
    let text = text.trim();
    let text = text.strip_prefix("https://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let text = text.strip_suffix("/sdk").unwrap_or(text);
    // A bare IPv6 address has colons of its own.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if text.parse::<IpAddr>().is_err() && !text.ends_with(']') => {
            (name, Some(number::<u16>(port).map_err(|why| format!("its port: {why}"))?))
        }
        _ => (text, None),
    };
    let host = host(name)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(port.map_or_else(|| format!("https://{host}"), |port| format!("https://{host}:{port}")))
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let wrong = || "no address with the length of its prefix, as 192.0.2.10/24".to_owned();
    let (address, length) = text.trim().split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length: u8 = number(length).map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length == 0 || length > bits || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(wrong());
    }
    Ok(Prefix { address, length })
}

fn gateway(text: &str, address: Option<Prefix>) -> Result<IpAddr, String> {
    let gateway: IpAddr = text.trim().parse().map_err(|_| "no address".to_owned())?;
    match address {
        None => Err(format!("needs {}.{}", p::CLASS, p::ADDRESS)),
        Some(own) if own.address.is_ipv4() != gateway.is_ipv4() => {
            Err("is of another family than the address".to_owned())
        }
        Some(own) if own.address == gateway => Err("is the appliance's own address".to_owned()),
        Some(_) => Ok(gateway),
    }
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items = text.split([',', ' ', ';']).filter(|part| !part.is_empty());
    let items: Vec<_> = items.map(item).collect::<Result<_, _>>()?;
    if items.len() > 8 { Err("more than eight".to_owned()) } else { Ok(items) }
}

/// 64 digits.
fn fingerprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
    if digits.len() != 2 * digest::SHA256_OUTPUT_LEN || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("no SHA-256: 64 hexadecimal digits, colons allowed".to_owned());
    }
    Ok(digits.to_ascii_lowercase())
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One or more certificates, set anew: vSphere's client makes one line of what is pasted, and only certificates pass.
fn certificates(text: &str) -> Result<String, String> {
    let wrong = || format!("no certificate in PEM ({BEGIN} … {END})");
    let mut pem = String::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let body = rest.strip_prefix(BEGIN).ok_or_else(wrong)?;
        let (body, after) = body.split_once(END).ok_or_else(wrong)?;
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        if body.is_empty() || !body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)) {
            return Err(wrong());
        }
        pem.push_str(BEGIN);
        for (at, c) in body.chars().enumerate() {
            if at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(c);
        }
        pem.push('\n');
        pem.push_str(END);
        pem.push('\n');
        rest = after.trim_start();
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    if all.is_ok_and(|all| !all.is_empty()) { Ok(pem) } else { Err(wrong()) }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
