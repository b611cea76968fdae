//! The table `[vddk]`: nbdkit and the VDDK library that the user brings. Without the table there is no such transport.
//! Only what is written is checked here; whether the library is there is found out when a disk is opened, so that an
//! agent starts without it.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// Unit of `nfc_buffer_64k` (VDDK 7.0.1 release notes, `vixDiskLib.nfcAio.Session.BufSizeIn64KB`).
const UNIT: u64 = 64 << 10;
/// Buffers of one NFC session above which VDDK fails to open a disk (VDDK release notes on the nfcAio keys).
const SESSION_MOST: u64 = 16 << 20;

/// Compression between VDDK and ESXi, in the words of nbdkit-vddk-plugin(1). vSphere 6.5 and later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Zlib,
    Fastlz,
    Skipz,
}

impl Compression {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib",
            Self::Fastlz => "fastlz",
            Self::Skipz => "skipz",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VddkSettings {
    /// The unpacked distribution: the folder above `lib64`.
    pub libdir: PathBuf,
    /// Name or path of nbdkit.
    pub nbdkit_program: PathBuf,
    pub compression: Compression,
    /// Size of one NFC buffer, in units of 64 KiB.
    pub nfc_buffer_64k: u32,
    /// Number of NFC buffers of one connection.
    pub nfc_buffers: u32,
    /// Whether the server may be asked which blocks are allocated.
    pub extents: bool,
    /// VDDK's tmpDirectory: one fixed folder, or what a process leaves is never found again.
    pub tmp_dir: PathBuf,
    pub connections_per_host: u32,
    /// How long a disk waits for its share of a host.
    pub queue_deadline: Duration,
    /// TCP port of ESXi's NFC service, tried before the snapshot; `None`: not tried.
    pub nfc_port: Option<u16>,
    /// From the start of nbdkit until it serves.
    pub start_deadline: Duration,
    /// From SIGTERM until SIGKILL.
    pub stop_deadline: Duration,
    /// How often one disk's nbdkit is started again after it died.
    pub restarts: u32,
}

impl VddkSettings {
    /// Settings with every default.
    #[must_use]
    pub fn new(libdir: impl Into<PathBuf>) -> Self {
        RawVddk::new(libdir.into()).settings()
    }

    /// Bytes that one connection may take on its ESXi host.
    #[must_use]
    pub fn session_bytes(&self) -> u64 {
        u64::from(self.nfc_buffer_64k).saturating_mul(u64::from(self.nfc_buffers)).saturating_mul(UNIT)
    }

    /// What is wrong with the NFC buffers, if anything.
    #[must_use]
    pub fn session_fault(&self) -> Option<String> {
        let bytes = self.session_bytes();
        (bytes == 0 || bytes > SESSION_MOST).then(|| {
            format!(
                "nfc_buffer_64k × nfc_buffers: {} × 64 KiB × {} = {bytes} bytes, not between 1 and {SESSION_MOST}: VDDK would refuse to open",
                self.nfc_buffer_64k, self.nfc_buffers
            )
        })
    }
}

/// As written in `[vddk]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVddk {
    libdir: PathBuf,
    #[serde(default = "nbdkit")]
    nbdkit_program: PathBuf,
    #[serde(default)]
    compression: Compression,
    #[serde(default = "buffer")]
    nfc_buffer_64k: u32,
    #[serde(default = "buffers")]
    nfc_buffers: u32,
    #[serde(default)]
    extents: bool,
    #[serde(default = "tmp_dir")]
    tmp_dir: PathBuf,
    #[serde(default = "connections")]
    connections_per_host: u32,
    #[serde(default = "queue_seconds")]
    queue_seconds: f64,
    #[serde(default = "nfc_port")]
    nfc_port: u16,
    #[serde(default = "start_seconds")]
    start_seconds: f64,
    #[serde(default = "stop_seconds")]
    stop_seconds: f64,
    #[serde(default = "restarts")]
    restarts: u32,
}

fn nbdkit() -> PathBuf {
    "nbdkit".into()
}

/// 1 MiB: what VMware found best.
fn buffer() -> u32 {
    16
}

fn buffers() -> u32 {
    4
}

fn tmp_dir() -> PathBuf {
    "/var/lib/hotadd/vddk".into()
}

/// VMware's advice for one host (VDDK 7.0.1 and 8.0 release notes).
fn connections() -> u32 {
    50
}

fn queue_seconds() -> f64 {
    600.0
}

/// Source: VMware Ports and Protocols, ESXi, NFC.
fn nfc_port() -> u16 {
    902
}

fn start_seconds() -> f64 {
    60.0
}

fn stop_seconds() -> f64 {
    10.0
}

fn restarts() -> u32 {
    3
}

impl RawVddk {
    fn new(libdir: PathBuf) -> Self {
        Self {
            libdir,
            nbdkit_program: nbdkit(),
            compression: Compression::None,
            nfc_buffer_64k: buffer(),
            nfc_buffers: buffers(),
            extents: false,
            tmp_dir: tmp_dir(),
            connections_per_host: connections(),
            queue_seconds: queue_seconds(),
            nfc_port: nfc_port(),
            start_seconds: start_seconds(),
            stop_seconds: stop_seconds(),
            restarts: restarts(),
        }
    }

    /// Checks all; faults are added to `faults`, one line each.
    pub(super) fn check(mut self, faults: &mut Vec<String>) -> VddkSettings {
        let mut fault = |key: &str, why: String| faults.push(format!("vddk.{key}: {why}"));
        for (key, path) in [("libdir", &self.libdir), ("tmp_dir", &self.tmp_dir)] {
            if let Some(why) = illegal(path) {
                fault(key, format!("{:?} {why}", path.display().to_string()));
            }
        }
        if self.nbdkit_program.as_os_str().is_empty() {
            fault("nbdkit_program", "empty".into());
        }
        let ranges = [
            ("nfc_buffer_64k", self.nfc_buffer_64k, 1, 256),
            ("nfc_buffers", self.nfc_buffers, 1, 256),
            ("connections_per_host", self.connections_per_host, 1, 50),
            ("restarts", self.restarts, 0, 20),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                fault(key, format!("{value} is not between {low} and {high}"));
            }
        }
        let waits = [
            ("queue_seconds", &mut self.queue_seconds, 86400.0),
            ("start_seconds", &mut self.start_seconds, 3600.0),
            ("stop_seconds", &mut self.stop_seconds, 3600.0),
        ];
        for (key, value, most) in waits {
            if !(0.1..=most).contains(value) {
                fault(key, format!("{value} is not between 0.1 and {most}"));
                *value = 1.0;
            }
        }
        let settings = self.settings();
        faults.extend(settings.session_fault().map(|why| format!("vddk.{why}")));
        settings
    }

    fn settings(self) -> VddkSettings {
        VddkSettings {
            libdir: self.libdir,
            nbdkit_program: self.nbdkit_program,
            compression: self.compression,
            nfc_buffer_64k: self.nfc_buffer_64k,
            nfc_buffers: self.nfc_buffers,
            extents: self.extents,
            tmp_dir: self.tmp_dir,
            connections_per_host: self.connections_per_host,
            queue_deadline: Duration::from_secs_f64(self.queue_seconds),
            nfc_port: Some(self.nfc_port).filter(|port| *port != 0),
            start_deadline: Duration::from_secs_f64(self.start_seconds),
            stop_deadline: Duration::from_secs_f64(self.stop_seconds),
            restarts: self.restarts,
        }
    }
}

/// Both paths go into texts that know no escape: `LD_LIBRARY_PATH` and VDDK's configuration file.
fn illegal(path: &Path) -> Option<&'static str> {
    if !path.is_absolute() {
        return Some("is not absolute");
    }
    let Some(text) = path.to_str() else { return Some("is not UTF-8") };
    text.chars()
        .any(|c| c.is_control() || matches!(c, ':' | ';' | '"' | '\\'))
        .then_some("has a character that VDDK's texts can't hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<VddkSettings, Vec<String>> {
        let raw: RawVddk = toml::from_str(text).map_err(|e| vec![e.message().to_owned()])?;
        let mut faults = Vec::new();
        let settings = raw.check(&mut faults);
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    #[test]
    fn defaults_and_words() {
        assert_eq!(check("libdir = '/opt/vddk'").unwrap(), VddkSettings::new("/opt/vddk"));
        assert_eq!(VddkSettings::new("/x").session_bytes(), 4 << 20);
        let all = check(
            "libdir = '/l'\nnbdkit_program = '/usr/sbin/nbdkit'\ncompression = 'fastlz'\nnfc_buffer_64k = 32\nnfc_buffers = 8\n\
             extents = true\ntmp_dir = '/t'\nconnections_per_host = 7\nnfc_port = 0\nqueue_seconds = 9\nstart_seconds = 1.5\nstop_seconds = 2\nrestarts = 0",
        )
        .unwrap();
        assert_eq!((all.compression.as_str(), all.session_bytes(), all.extents), ("fastlz", 16 << 20, true));
        assert_eq!((all.connections_per_host, all.restarts), (7, 0));
        assert_eq!((all.nfc_port, all.queue_deadline), (None, Duration::from_secs(9)));
        assert_eq!(VddkSettings::new("/x").nfc_port, Some(902));
        assert_eq!((all.start_deadline, all.stop_deadline), (Duration::from_millis(1500), Duration::from_secs(2)));
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (line, key) in [
            ("nfc_buffer_64k = 0", "vddk.nfc_buffer_64k"),
            ("nfc_buffers = 17", "16777216"),
            ("nfc_buffer_64k = 4000000000\nnfc_buffers = 4000000000", "vddk.nfc_buffers"),
            ("connections_per_host = 51", "vddk.connections_per_host"),
            ("queue_seconds = 86401", "vddk.queue_seconds"),
            ("start_seconds = 0", "vddk.start_seconds"),
            ("stop_seconds = nan", "vddk.stop_seconds"),
            ("restarts = 21", "vddk.restarts"),
            ("tmp_dir = 'here'", "vddk.tmp_dir"),
            ("tmp_dir = '/a\"b'", "vddk.tmp_dir"),
            ("nbdkit_program = ''", "vddk.nbdkit_program"),
            ("compression = 'lzma'", "lzma"),
            ("transports = 'nbd'", "transports"),
        ] {
            let faults = check(&format!("libdir = '/l'\n{line}")).unwrap_err();
            assert!(faults.iter().any(|f| f.contains(key)), "{line}: {faults:?}");
        }
        for libdir in ["lib", "/a:b", "/a\\nb"] {
            let faults = check(&format!("libdir = \"{libdir}\"")).unwrap_err();
            assert!(faults[0].contains("vddk.libdir"), "{faults:?}");
        }
    }
}
