//! The options that both programs share. Parsing only; nothing is opened or called here.
use std::path::PathBuf;

use clap::Args as ClapArgs;

/// How to reach vCenter, and from where on a fact is a finding.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub vcenter: VcenterArgs,
    #[command(flatten)]
    pub limits: Limits,
}

/// Exactly one way of trust; the password by a file, a descriptor, or typed on the terminal: never in the command line.
#[derive(Debug, Clone, ClapArgs)]
pub struct VcenterArgs {
    /// https://HOST or https://HOST:PORT of vCenter [env: HOTADD_VCENTER]
    #[arg(long, value_name = "URL")]
    pub vcenter: Option<String>,
    /// Account; Read-only on the root folder, propagating, is enough to look [env: HOTADD_VCENTER_USER]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// File that holds the password, for nobody else to read [default: asked on the terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "password_fd")]
    pub password_file: Option<PathBuf>,
    /// Number of an open descriptor that gives the password
    #[arg(long, value_name = "N")]
    pub password_fd: Option<u32>,
    /// CA that signed vCenter's certificate, PEM [env: HOTADD_VCENTER_CA]
    #[arg(long, value_name = "FILE", conflicts_with = "vcenter_pin")]
    pub vcenter_ca: Option<PathBuf>,
    /// SHA-256 fingerprint of vCenter's certificate, 64 hexadecimal digits, instead of a CA
    #[arg(long, value_name = "HEX", value_parser = pin)]
    pub vcenter_pin: Option<[u8; 32]>,
}

/// From where on a fact is a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ClapArgs)]
pub struct Limits {
    /// A disk or snapshot of a backup is taken as left behind after so many hours; longer than the longest backup
    #[arg(long, value_name = "H", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub stale_hours: u32,
    /// Most deltas of a disk that are no finding
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=31))]
    pub deltas: u32,
    /// A datastore that a growing delta fills within so many days is a finding
    #[arg(long, value_name = "D", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub full_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stale_hours: 24, deltas: 3, full_days: 7 }
    }
}

fn pin(text: &str) -> Result<[u8; 32], String> {
    let digits: Vec<char> = text.chars().filter(|c| *c != ':').collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.and_then(|b| b.try_into().ok()).filter(|_| digits.iter().all(char::is_ascii_hexdigit));
    bytes.ok_or_else(|| "not a SHA-256 fingerprint (64 hexadecimal digits)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_64_digits_with_or_without_colons() {
        assert_eq!(pin(&"ab".repeat(32)), Ok([0xab; 32]));
        assert_eq!(pin(&vec!["AB"; 32].join(":")), Ok([0xab; 32]));
        for bad in ["abc".to_owned(), "é".repeat(32), "+a".repeat(32), "ab".repeat(33), String::new()] {
            assert!(pin(&bad).is_err(), "{bad}");
        }
    }
}
