//! The texts of the files that the first boot writes. Pure; every value came through `settings`.
use serde::Serialize;

use crate::settings::{Network, Service, Trust};

/// Names of the files of a configuration.
pub const CERTIFICATE: &str = "server.pem";
pub const KEY: &str = "server.key";
pub const CLIENT_CA: &str = "client-ca.pem";
pub const VCENTER_CA: &str = "vcenter-ca.pem";
pub const PASSWORD: &str = "vcenter-password";
pub const FILES: [&str; 5] = [CERTIFICATE, KEY, CLIENT_CA, VCENTER_CA, PASSWORD];

#[derive(Serialize)]
struct Agent {
    listen: String,
    tls: Tls,
    vcenter: Vcenter,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    limits: toml::Table,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pace: toml::Table,
}

#[derive(Serialize)]
struct Tls {
    certificate_file: String,
    key_file: String,
    client_ca_file: String,
}

#[derive(Serialize)]
struct Vcenter {
    url: String,
    user: String,
    password_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin_sha256: Option<String>,
}

/// agent.toml. `etc`: folder of the files that it names.
///
/// # Errors
/// A number that TOML can't hold.
pub fn agent(service: &Service, etc: &str) -> Result<String, String> {
    let file = |name: &str| format!("{etc}/{name}");
    let (ca_file, pin_sha256) = match &service.trust {
        Trust::Authority(_) => (Some(file(VCENTER_CA)), None),
        Trust::Pin(pin) => (None, Some(pin.clone())),
    };
    let (mut limits, mut pace) = (toml::Table::new(), toml::Table::new());
    for (key, value) in &service.limits {
        let value = toml::Value::Integer(i64::try_from(*value).map_err(|_| format!("{key} is too large"))?);
        match key.split_once('_') {
            Some(("limits", key)) => limits.insert(key.to_owned(), value),
            Some((_, key)) => {
                let agent = pace.entry("agent").or_insert_with(|| toml::Value::Table(toml::Table::new()));
                agent.as_table_mut().and_then(|agent| agent.insert(key.to_owned(), value))
            }
            None => None,
        };
    }
    let agent = Agent {
        // IPv6 sockets take IPv4 as well.
        listen: format!("[::]:{}", service.port),
        tls: Tls { certificate_file: file(CERTIFICATE), key_file: file(KEY), client_ca_file: file(CLIENT_CA) },
        vcenter: Vcenter {
            url: service.vcenter.clone(),
            user: service.user.clone(),
            password_file: file(PASSWORD),
            ca_file,
            pin_sha256,
        },
        limits,
        pace,
    };
    toml::to_string(&agent).map_err(|error| error.to_string())
}

/// Every key that [`agent`] can write, tables included.
const WRITTEN: [&str; 14] = [
    "listen",
    "tls.certificate_file",
    "tls.key_file",
    "tls.client_ca_file",
    "vcenter.url",
    "vcenter.user",
    "vcenter.password_file",
    "vcenter.ca_file",
    "vcenter.pin_sha256",
    "limits.parallel_reads",
    "limits.reads",
    "limits.memory_mib",
    "limits.snapshots_per_datastore",
    "pace.agent.bytes_per_second",
];

/// Keys of a configuration that [`agent`] would not write: who replaces it loses them.
#[must_use]
pub fn beyond(table: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    collect(table, "", &mut found);
    found
}

fn collect(table: &toml::Table, above: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{above}{key}");
        match value {
            // A table without a key says nothing.
            toml::Value::Table(inner) => collect(inner, &format!("{path}."), found),
            _ if WRITTEN.contains(&&*path) => {}
            _ => found.push(path),
        }
    }
}

/// `.network` of systemd-networkd for the one adapter.
#[must_use]
pub fn network(network: &Network) -> String {
    let mut text = String::from("# Written by hotadd-firstboot.\n[Match]\nType=ether\n\n[Network]\n");
    let mut put = |key: &str, value: &str| text.push_str(&format!("{key}={value}\n"));
    match network.address {
        None => put("DHCP", "yes"),
        Some(prefix) => {
            put("Address", &format!("{}/{}", prefix.address, prefix.length));
            // Who asks for an address wants that one, not also what a router offers.
            put("IPv6AcceptRA", "no");
        }
    }
    if let Some(gateway) = network.gateway {
        put("Gateway", &gateway.to_string());
    }
    for server in &network.dns {
        put("DNS", &server.to_string());
    }
    if !network.search.is_empty() {
        put("Domains", &network.search.join(" "));
    }
    for server in &network.ntp {
        put("NTP", server);
    }
    if network.address.is_none() {
        // Clones must not share a lease: the machine id is theirs only after their first boot, the address of the card at once.
        text.push_str("\n[DHCPv4]\nClientIdentifier=mac\n");
    }
    text
}

/// /etc/hosts.
#[must_use]
pub fn hosts(hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname { hostname.to_owned() } else { format!("{hostname} {short}") };
    format!("127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost ip6-loopback\n")
}

/// TCP port of the agent, out of its configuration.
#[must_use]
pub fn port(agent: &str) -> Option<u16> {
    agent.parse::<toml::Table>().ok()?.get("listen")?.as_str()?.rsplit_once(':')?.1.parse().ok()
}
