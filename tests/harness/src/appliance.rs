//! The appliance as its OVA holds it, deployed under QEMU: its own kernel, boot loader and first boot, its four disks, properties through
//! fw_cfg. Nobody logs in; what it says is on its console, what it does is seen from outside.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Process, Run, Spec, process::wait_for};

/// From power-on to a line of the console, on an emulated CPU of a loaded machine.
const BOOT: Duration = Duration::from_secs(240);
/// A TLS handshake with the service, or the lack of one.
const ANSWER_SECONDS: &str = "20";
/// Of the disks: the system's and three anchors.
const DISKS: usize = 4;

/// UUID of the n-th disk, as vSphere would give it.
fn uuid(disk: usize) -> String {
    format!("6000c290-0a9b-4c8d-9e7f-00000000000{disk}")
}

fn image_tool() -> String {
    std::env::var("QEMU_IMG").unwrap_or_else(|_| "qemu-img".to_owned())
}

fn overlay(of: &Path, to: &Path) -> Result<()> {
    let made =
        Run::of(Command::new(image_tool()).args(["create", "-q", "-f", "qcow2", "-F", "vmdk", "-b"]).arg(of).arg(to))?;
    ensure!(made.code == 0, "an overlay of {}: {}", of.display(), made.stderr);
    Ok(())
}

/// A deployed appliance, powered on or off.
#[derive(Debug)]
pub struct Appliance {
    dir: PathBuf,
    /// As it is in the OVA.
    system: PathBuf,
    options: Vec<String>,
    qemu: Option<Process>,
}

impl Appliance {
    /// Deploys what an OVA was unpacked to. The proxy of `spec` becomes this virtual machine.
    pub fn deploy(unpacked: &Path, dir: &Path, spec: &mut Spec) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let proxy = spec.proxy();
        let mut options: Vec<String> = ["--bios", "--memory", "1024"].map(str::to_owned).to_vec();
        options.extend(["--uuid".to_owned(), proxy.uuid.clone().unwrap_or_default()]);
        options.extend(["--mac".to_owned(), proxy.macs.first().cloned().unwrap_or_default()]);
        ensure!(proxy.disks.len() == DISKS, "a proxy with {} disks", proxy.disks.len());
        for (n, disk) in proxy.disks.iter_mut().enumerate() {
            let file = unpacked.join(format!("hotadd-proxy-disk{}.vmdk", n + 1));
            let own = dir.join(format!("disk{n}.qcow2"));
            overlay(&file, &own)?;
            disk.uuid = Some(uuid(n));
            options.extend(["--disk".to_owned(), format!("{n}:0:{}:{}", uuid(n), own.display())]);
        }
        Ok(Self { dir: dir.to_owned(), system: unpacked.join("hotadd-proxy-disk1.vmdk"), options, qemu: None })
    }

    /// From the next power-on another appliance's disk is attached, as it is after a deployment: with the same label, UUID and signature as
    /// the system disk, on a controller that the kernel finds before the system's. Gives its file.
    pub fn attach_a_twin(&mut self) -> Result<PathBuf> {
        let twin = self.dir.join("twin.qcow2");
        overlay(&self.system, &twin)?;
        let uuid = uuid(DISKS);
        self.options.extend(["--order", "1,0,2,3", "--disk"].map(str::to_owned));
        self.options.push(format!("1:1:{uuid}:{}", twin.display()));
        Ok(twin)
    }

    /// Whether a disk holds what the system disk held when it was deployed.
    pub fn unchanged(&self, disk: &Path) -> Result<()> {
        let run = Run::of(
            Command::new(image_tool()).args(["compare", "-f", "qcow2", "-F", "vmdk"]).arg(disk).arg(&self.system),
        )?;
        ensure!(run.code == 0, "{}{}", run.stdout, run.stderr);
        Ok(())
    }

    /// `environment`: what vCenter would put into guestinfo.
    pub fn power_on(&mut self, environment: &str) -> Result<()> {
        let properties = self.dir.join("ovfenv.xml");
        fs::write(&properties, environment)?;
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/guest/run"));
        command.arg(self.machine()).args(&self.options).arg("--properties").arg(&properties);
        self.qemu = Some(Process::start("qemu", &mut command, &self.dir.join("qemu.log"))?);
        self.monitor().map(drop)
    }

    /// The machine is gone in the middle of whatever it does.
    pub fn cut_power(&mut self) -> Result<()> {
        let mut qemu = self.qemu.take().context("it is off")?;
        qemu.kill()?;
        fs::remove_file(self.machine().join("serial.log"))?;
        fs::remove_file(self.monitor_path())?;
        Ok(())
    }

    fn machine(&self) -> PathBuf {
        self.dir.join("machine")
    }

    fn monitor_path(&self) -> PathBuf {
        self.machine().join("qmp.sock")
    }

    /// The monitor that vcenter-sim uses.
    pub fn monitor(&mut self) -> Result<PathBuf> {
        let path = self.monitor_path();
        self.wait("QEMU's monitor", |_| path.exists().then(|| path.clone()))
    }

    fn wait<T>(&mut self, what: &str, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        let log = self.machine().join("serial.log");
        let qemu = self.qemu.as_mut().context("it is off")?;
        let console = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).replace('\r', "");
        let found = wait_for(what, BOOT, || {
            qemu.must_live()?;
            Ok(look(&console()))
        });
        found.with_context(|| format!("---- console ----\n{}", console()))
    }

    /// Waits until the console shows this, and gives everything on it.
    pub fn console(&mut self, shows: &str) -> Result<String> {
        self.wait(shows, |text| text.contains(shows).then(|| text.to_owned()))
    }

    /// Port of 127.0.0.1 that leads to the service.
    pub fn port(&self) -> Result<u16> {
        let ports = fs::read_to_string(self.machine().join("ports"))?;
        let port = ports.lines().find_map(|line| line.strip_prefix("GRPC_PORT="));
        Ok(port.context("GRPC_PORT")?.parse()?)
    }

    /// The certificate that the service shows, as OpenSSL gets it; `None`: nobody there speaks TLS.
    pub fn certificate(&self) -> Result<Option<String>> {
        let mut command = Command::new("timeout");
        command.args([ANSWER_SECONDS, "openssl", "s_client", "-showcerts", "-connect"]);
        let shown = Run::of(command.arg(format!("127.0.0.1:{}", self.port()?)).stdin(Stdio::null()))?.stdout;
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let pem = shown.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
        Ok(pem.map(|(body, _)| format!("{begin}{body}{end}\n")))
    }
}
