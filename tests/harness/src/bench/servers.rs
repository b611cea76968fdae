//! NBD servers of a device and nbdcopy as their client, as people copy disks today: nbdkit with its file plug-in, qemu-nbd.
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::measure::{Contender, Sample, forget, timed, typed};
use crate::{Pki, process::wait_for, slow::Ended};

const START: Duration = Duration::from_secs(60);

/// A server; it ends with its value.
#[derive(Debug)]
pub(super) struct Server {
    child: Ended,
    /// How it was started.
    command: String,
    uri: String,
    node: PathBuf,
}

/// The folder with the names that GnuTLS users look for.
pub(super) fn certificates(dir: &Path, pki: &Pki) -> Result<PathBuf> {
    let folder = dir.join("nbd-pki");
    fs::create_dir_all(&folder)?;
    let names = [("ca.pem", "ca-cert.pem"), ("server.pem", "server-cert.pem"), ("server.key", "server-key.pem")];
    for (from, to) in names.into_iter().chain([("client.pem", "client-cert.pem"), ("client.key", "client-key.pem")]) {
        fs::copy(pki.file(from), folder.join(to))?;
    }
    Ok(folder)
}

impl Server {
    /// nbdkit over TCP, as between two machines; with TLS in both directions if there are certificates.
    pub(super) fn nbdkit(dir: &Path, node: &Path, tls: Option<&Path>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--readonly", "--exit-with-parent", "--ipaddr=127.0.0.1"]);
        command.arg(format!("--port={port}"));
        if let Some(folder) = tls {
            command.args(["--tls=require", "--tls-verify-peer"]);
            command.arg(format!("--tls-certificates={}", folder.display()));
        }
        command.arg("file").arg(node);
        let uri = match tls {
            Some(folder) => format!("nbds://localhost:{port}/?tls-certificates={}", folder.display()),
            None => format!("nbd://127.0.0.1:{port}"),
        };
        let server = Self::spawned(dir, command, uri, node)?;
        wait_for("nbdkit listens", START, || Ok(TcpStream::connect(("127.0.0.1", port)).ok()))?;
        Ok(server)
    }

    /// qemu-nbd with its defaults, on a Unix socket.
    pub(super) fn qemu(dir: &Path, node: &Path) -> Result<Self> {
        let socket = dir.join("qemu-nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--read-only", "--persistent", "--format=raw"])
            .arg(format!("--socket={}", socket.display()))
            .arg(node);
        let server = Self::spawned(dir, command, format!("nbd+unix:///?socket={}", socket.display()), node)?;
        wait_for("qemu-nbd listens", START, || Ok(socket.exists().then_some(())))?;
        Ok(server)
    }

    fn spawned(dir: &Path, mut command: Command, uri: String, node: &Path) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(dir.join("servers.log"))?;
        let typed = typed(&command);
        let child: Child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().with_context(|| typed.clone())?;
        Ok(Self { child: Ended(child), command: typed, uri, node: node.to_owned() })
    }

    /// nbdcopy with its defaults into nothing.
    pub(super) fn copied<'a>(&'a self, name: &str, bytes: u64) -> Contender<'a> {
        let command = move || {
            let mut command = Command::new("nbdcopy");
            command.args([self.uri.as_str(), "null:"]);
            command
        };
        self.contender(name, command, bytes)
    }

    /// nbdcopy into a new file, which is synced.
    pub(super) fn copied_to<'a>(&'a self, name: &str, out: &'a Path, bytes: u64) -> Contender<'a> {
        let command = move || {
            let mut command = Command::new("nbdcopy");
            command.args(["--flush", self.uri.as_str()]).arg(out);
            command
        };
        let mut copied = self.contender(name, command, bytes);
        let mut inner = copied.round;
        copied.round = Box::new(move || -> Result<Sample> {
            // As ours: into a file that is not there.
            if out.exists() {
                fs::remove_file(out)?;
            }
            inner()
        });
        copied
    }

    fn contender<'a>(&'a self, name: &str, command: impl Fn() -> Command + 'a, bytes: u64) -> Contender<'a> {
        let both = format!("{} & {}", self.command, typed(&command()));
        Contender::new(name, &both, move || {
            forget(&self.node)?;
            timed(&mut command(), Some(self.child.0.id()), bytes)
        })
    }
}
