//! Real NBD servers for tests: nbdkit and qemu-nbd as children that end with their guard, and certificates for TLS.
//! A tool that is not there is told to `$HOTADD_SKIPS`, which counts the test as skipped.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it")]
pub mod fake;

use std::{
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hotadd_blockio::nbd::{NbdEngine, NbdError, Options, Target, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// How long a server may take to start or end; never reached on a healthy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether `tool` can be run; if not, `test` counts as skipped.
pub fn have(tool: &str, test: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: {tool} is not installed");
        if let Some(path) = std::env::var_os("HOTADD_SKIPS") {
            use std::io::Write as _;
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.and_then(|mut file| writeln!(file, "nbd {test}: {tool} is not installed")).ok();
        }
    }
    found
}

/// A running server. Ends with it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub uri: String,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    pub fn target(&self) -> Target {
        self.uri.parse().unwrap()
    }

    pub fn open(&self, options: &Options, depth: u32) -> Result<NbdEngine, NbdError> {
        NbdEngine::open(&self.target(), options, depth)
    }

    /// Waits until the server has ended by itself.
    pub fn wait_end(&mut self) {
        until("the server's end", || self.child.try_wait().unwrap().is_some());
    }

    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// nbdkit with `args` on a Unix socket of its own.
pub fn nbdkit(args: &[&str]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let mut server = nbdkit_at(&socket, args);
    server._dir = Some(dir);
    server
}

/// nbdkit with `args` on the given socket, which a dead server may have left behind.
pub fn nbdkit_at(socket: &Path, args: &[&str]) -> Server {
    std::fs::remove_file(socket).ok();
    let child = Command::new("nbdkit")
        .args(["-f", "--exit-with-parent", "-U"])
        .arg(socket)
        .args(args)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let scheme = if args.contains(&"--tls=require") { "nbds" } else { "nbd" };
    let uri = format!("{scheme}+unix:///?socket={}", socket.display());
    started(child, uri, || UnixStream::connect(socket).is_ok())
}

/// nbdkit with `args` on a free TCP port of this host.
pub fn nbdkit_tcp(args: &[&str]) -> Server {
    let scheme = if args.contains(&"--tls=require") { "nbds" } else { "nbd" };
    for _ in 0..20 {
        // Somebody else may take the port between these two lines: then nbdkit ends at once and another is tried.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("nbdkit")
            .args(["-f", "--exit-with-parent", "-i", "127.0.0.1", "-p", &port.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut ended = false;
        until("nbdkit", || {
            ended = child.try_wait().unwrap().is_some();
            ended || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        if !ended {
            return Server { child, uri: format!("{scheme}://127.0.0.1:{port}/"), _dir: None };
        }
    }
    panic!("nbdkit found no port");
}

/// qemu-nbd over a raw file, read-only, with the given number of clients.
pub fn qemu_nbd(file: &Path, clients: u32) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qemu.sock");
    let child = Command::new("qemu-nbd")
        .args(["--persistent", "--read-only", "-f", "raw", "-x", "disk"])
        .arg(format!("--shared={clients}"))
        .arg(format!("--socket={}", socket.display()))
        .arg(file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    let mut server = started(child, uri, || UnixStream::connect(&socket).is_ok());
    server._dir = Some(dir);
    server
}

fn started(child: Child, uri: String, ready: impl Fn() -> bool) -> Server {
    let mut server = Server { child, uri, _dir: None };
    until("a connection", || {
        assert!(server.child.try_wait().unwrap().is_none(), "the server ended at once");
        ready()
    });
    server
}

/// Certificates in the layout of nbdkit's `--tls-certificates`.
#[derive(Debug)]
pub struct Certificates {
    pub dir: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(this.file("ca-cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let ca = Issuer::new(params, key);
        this.issue(&ca, "server", &["disk.example.org", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        this.issue(&ca, "client", &["proxy"], ExtendedKeyUsagePurpose::ClientAuth);
        this
    }

    fn issue(&self, ca: &Issuer<'_, KeyPair>, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        std::fs::write(self.file(&format!("{name}-cert.pem")), params.signed_by(&key, ca).unwrap().pem()).unwrap();
        std::fs::write(self.file(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// `--tls-certificates=…`.
    pub fn argument(&self) -> String {
        format!("--tls-certificates={}", self.dir.path().display())
    }

    /// Trusts this CA, shows the client certificate if asked to, and expects `name`.
    pub fn tls(&self, client: bool, name: Option<&str>) -> Tls {
        let pair = (self.read("client-cert.pem"), self.read("client-key.pem"));
        Tls::new(&self.read("ca-cert.pem"), client.then_some((&pair.0[..], &pair.1[..])), name).unwrap()
    }
}
