//! The questions that the OVA asks, one row each: what vSphere's client shows and what the first boot reads. docs/appliance.md holds the
//! same table; a test keeps them equal.
use hotadd_ova::{Property, PropertyKind};

/// Class of the product section: the guest sees `hotadd.hostname`.
pub const CLASS: &str = "hotadd";

pub const HOSTNAME: &str = "hostname";
pub const ADDRESS: &str = "network_address";
pub const GATEWAY: &str = "network_gateway";
pub const DNS: &str = "network_dns";
pub const SEARCH: &str = "network_search";
pub const NTP: &str = "network_ntp";
pub const VCENTER: &str = "vcenter_address";
pub const VCENTER_CA: &str = "vcenter_ca";
pub const VCENTER_PIN: &str = "vcenter_pin_sha256";
pub const USER: &str = "vcenter_user";
pub const PASSWORD: &str = "vcenter_password";
pub const PORT: &str = "grpc_port";
pub const CLIENT_CA: &str = "grpc_client_ca";
pub const PARALLEL_READS: &str = "limits_parallel_reads";
pub const READS: &str = "limits_reads";
pub const MEMORY: &str = "limits_memory_mib";
pub const SNAPSHOTS: &str = "limits_snapshots_per_datastore";
pub const BYTES: &str = "pace_bytes_per_second";
pub const CONSOLE: &str = "console_password";
pub const GENERATION: &str = "generation";

const NETWORK: &str = "1. Network";
const VSPHERE: &str = "2. vCenter";
const SERVICE: &str = "3. Service";
const LIMITS: &str = "4. Limits of this site (empty: the agent's defaults)";
const APPLIANCE: &str = "5. Appliance";
/// What a PEM file of a chain needs at most.
const PEM: u16 = 65535;

const fn text(
    key: &'static str,
    most: u16,
    default: &'static str,
    category: &'static str,
    label: &'static str,
    description: &'static str,
) -> Property {
    Property { key, kind: PropertyKind::Text(most), default, category, label, description }
}

const fn password(
    key: &'static str,
    category: &'static str,
    label: &'static str,
    description: &'static str,
) -> Property {
    Property { key, kind: PropertyKind::Password, default: "", category, label, description }
}

const fn number(
    key: &'static str,
    default: &'static str,
    category: &'static str,
    label: &'static str,
    description: &'static str,
) -> Property {
    Property { key, kind: PropertyKind::Number, default, category, label, description }
}

/// Every question, in the order in which it is asked.
pub const ALL: &[Property] = &[
    text(HOSTNAME, 253, "hotadd-proxy", NETWORK, "Host name", "Also the name in the certificate of the service"),
    text(ADDRESS, 49, "", NETWORK, "Address", "With the length of the prefix, 192.0.2.10/24. Empty: DHCP"),
    text(GATEWAY, 45, "", NETWORK, "Gateway", "Only with an address"),
    text(DNS, 255, "", NETWORK, "DNS servers", "Addresses, separated by commas. Empty: those of DHCP"),
    text(SEARCH, 255, "", NETWORK, "DNS search domains", "Separated by commas"),
    text(
        NTP,
        255,
        "",
        NETWORK,
        "Time servers",
        "Names or addresses, separated by commas. Empty: those of DHCP, or Debian's",
    ),
    text(VCENTER, 260, "", VSPHERE, "vCenter", "Name or address, with :port if it is not 443. Required"),
    text(
        VCENTER_CA,
        PEM,
        "",
        VSPHERE,
        "CA of vCenter's certificate",
        "PEM, on one line or several. This or the fingerprint is required",
    ),
    text(
        VCENTER_PIN,
        95,
        "",
        VSPHERE,
        "Fingerprint of vCenter's certificate",
        "SHA-256, 64 hexadecimal digits, colons allowed",
    ),
    text(USER, 255, "", VSPHERE, "User", "For instance hotadd@vsphere.local. Required"),
    password(PASSWORD, VSPHERE, "Password", "Required. Taken at the first boot, then blanked in the guest's view"),
    number(PORT, "7443", SERVICE, "Port", "TCP port of the gRPC service"),
    text(
        CLIENT_CA,
        PEM,
        "",
        SERVICE,
        "CA of client certificates",
        "PEM. Whoever has a certificate of this CA may do everything. Required",
    ),
    text(PARALLEL_READS, 10, "", LIMITS, "Disks read at a time by a job", "limits.parallel_reads"),
    text(READS, 10, "", LIMITS, "Disks read at a time by all jobs", "limits.reads"),
    text(MEMORY, 10, "", LIMITS, "MiB for buffers", "limits.memory_mib"),
    text(SNAPSHOTS, 10, "", LIMITS, "Snapshots at a time on a datastore", "limits.snapshots_per_datastore"),
    text(BYTES, 20, "", LIMITS, "Bytes read in a second", "pace.agent.bytes_per_second"),
    password(CONSOLE, APPLIANCE, "Password of root", "For logging in on the console. Empty: nobody can log in"),
    number(
        GENERATION,
        "1",
        APPLIANCE,
        "Generation",
        "Another number makes the next power-on apply these properties again",
    ),
];

/// Whether a key, class included, holds a secret.
#[must_use]
pub fn secret(key: &str) -> bool {
    key.split_once('.').is_some_and(|(class, key)| {
        class == CLASS && ALL.iter().any(|property| property.key == key && property.kind == PropertyKind::Password)
    })
}

/// The table of docs/appliance.md.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| property | default | meaning |\n|---|---|---|\n");
    for property in ALL {
        let default = if property.default.is_empty() { "–".to_owned() } else { format!("`{}`", property.default) };
        let kind = if property.kind == PropertyKind::Password { " (secret)" } else { "" };
        text.push_str(&format!(
            "| `{CLASS}.{}` | {default} | {}{kind}: {} |\n",
            property.key, property.label, property.description
        ));
    }
    text
}
