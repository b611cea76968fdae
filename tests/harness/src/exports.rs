//! NBD servers with TLS for the disks of a VM's snapshot, as ESXi's NFC service has them: a connection sees the state of the
//! youngest snapshot at its time. nbdkit serves, the simulated vCenter tells the bytes.
use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use vcenter_sim::control::Control;

use crate::{Pki, scene::TARGET};

/// How often it is looked whether the servers may go on.
const LOOK: Duration = Duration::from_millis(50);

/// See the module. Dropped, all servers end.
#[derive(Debug)]
pub struct Exports {
    listener: TcpListener,
    dir: PathBuf,
    over: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Exports {
    /// Takes a port of 127.0.0.1; who connects waits until [`Exports::serve`].
    pub fn bind(dir: &Path) -> Result<Self> {
        let dir = dir.join("exports");
        fs::create_dir_all(&dir)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(Self { listener, dir, over: Arc::default(), accepting: None })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// `nbds://HOST:PORT`: HOST leads to this machine's 127.0.0.1.
    pub fn uri(&self, host: &str) -> Result<String> {
        Ok(format!("nbds://{host}:{}", self.address()?.port()))
    }

    /// `control`: of the simulator. Clients must have a certificate of the scene's CA.
    pub fn serve(&mut self, control: &Path, pki: &Pki, keys: &[i32]) -> Result<()> {
        let certificates = self.dir.join("pki");
        fs::create_dir_all(&certificates)?;
        for (from, to) in
            [("ca.pem", "ca-cert.pem"), ("server.pem", "server-cert.pem"), ("server.key", "server-key.pem")]
        {
            fs::copy(pki.file(from), certificates.join(to))?;
        }
        let server = Server {
            control: control.to_owned(),
            certificates,
            dir: self.dir.clone(),
            keys: keys.to_vec(),
            copied: Mutex::default(),
        };
        let (listener, over) = (self.listener.try_clone()?, Arc::clone(&self.over));
        listener.set_nonblocking(true)?;
        self.accepting = Some(thread::spawn(move || accept(&listener, &over, &Arc::new(server))));
        Ok(())
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, over: &AtomicBool, server: &Arc<Server>) {
    let mut children: Vec<Child> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        match listener.accept() {
            Ok((stream, _)) => match server.child(stream) {
                Ok(child) => children.push(child),
                Err(error) => eprintln!("exports: {error:#}"),
            },
            // Nobody is there yet.
            Err(_) => thread::sleep(LOOK),
        }
    }
    for child in &mut children {
        child.kill().ok();
        child.wait().ok();
    }
}

#[derive(Debug)]
struct Server {
    control: PathBuf,
    certificates: PathBuf,
    dir: PathBuf,
    keys: Vec<i32>,
    /// Snapshots whose disks are there.
    copied: Mutex<BTreeSet<String>>,
}

impl Server {
    /// nbdkit for one connection, which chooses a disk by the export's name.
    fn child(&self, stream: TcpStream) -> Result<Child> {
        stream.set_nonblocking(false)?;
        let disks = self.disks()?;
        let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
        let mut command = Command::new("nbdkit");
        command.args(["--single", "--exit-with-parent", "--readonly", "--tls=require", "--tls-verify-peer"]);
        command.arg(format!("--tls-certificates={}", self.certificates.display()));
        command.arg("file").arg(format!("dir={}", disks.display()));
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).spawn().context("nbdkit")
    }

    /// The folder with the disks of the youngest snapshot.
    fn disks(&self) -> Result<PathBuf> {
        let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut control = Control::connect(&self.control).await?;
            let youngest = control.snapshots(TARGET).await?.pop().context("no snapshot to be served")?;
            let dir = self.dir.join(&youngest);
            if copied.insert(youngest) {
                fs::create_dir_all(&dir)?;
                for key in &self.keys {
                    let out = dir.join(key.to_string());
                    control.call(json!({"cmd": "snapshot_copy", "vm": TARGET, "key": key, "out": out})).await?;
                }
            }
            Ok(dir)
        })
    }
}
