//! The scene in a lab guest: QEMU with real vmw_pvscsi, udev and systemd, the shipped daemon as a service in it, and
//! vcenter-sim attaching through QEMU's monitor.
use std::{
    fs,
    ops::{Deref, DerefMut},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Process, Run, Spec, binary,
    process::wait_for,
    scene::{PROXY, Stage},
};

/// An emulated machine boots in 7 s when idle; a loaded one takes several times that.
const BOOT: Duration = Duration::from_secs(180);
/// The service logs in, identifies itself and settles before it is active.
const SERVICE: Duration = Duration::from_secs(90);
/// Where the guest sees the host's loopback.
pub const HOST: &str = "10.0.2.2";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A guest, running or cut off.
#[derive(Debug)]
pub struct Guest {
    qemu: Process,
    dir: PathBuf,
    payload: PathBuf,
    options: Vec<String>,
    /// Lines LAB-READY of this QEMU so far that were waited for.
    boots: usize,
}

impl Guest {
    /// Becomes ready to log in. `options`: of tests/lab/guest/run.
    pub fn boot(dir: &Path, options: &[String]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let payload = payload(dir)?;
        let qemu = qemu(dir, &payload, options, &[])?;
        Ok(Self { qemu, dir: dir.to_owned(), payload, options: options.to_vec(), boots: 0 })
    }

    /// The machine is gone in the middle of whatever it does.
    pub fn cut_power(&mut self) -> Result<()> {
        self.qemu.kill()
    }

    /// After a power cut: the same machine, its CPUs stopped until [`Self::resume`], so that its disks are there from its first
    /// instruction on. Wait with [`Self::wait_ready`].
    pub fn power_on(&mut self) -> Result<()> {
        let ports = [("--ssh-port", "SSH_PORT"), ("--grpc-port", "GRPC_PORT")];
        let mut options = self.options.clone();
        for (option, name) in ports {
            options.extend([option.to_owned(), self.port(name)?.to_string()]);
        }
        for old in ["serial.log", "qmp.sock", "qmp-lab.sock"] {
            fs::remove_file(self.dir.join(old)).ok();
        }
        self.qemu = qemu(&self.dir, &self.payload, &options, &["-S"])?;
        self.boots = 0;
        self.monitor()?;
        Ok(())
    }

    /// Lets a machine run that [`Self::power_on`] started.
    pub fn resume(&self) -> Result<()> {
        crate::monitor::command(&self.dir.join("qmp-lab.sock"), "cont", &serde_json::json!({})).map(drop)
    }

    /// `reboot -f`: nothing is stopped in order. Wait with [`Self::wait_ready`]; QEMU has to run with `--reboot`.
    pub fn reboot(&self) -> Result<()> {
        // The guest does not close the connection any more: who waited for its end would wait long.
        let mut command = self.login();
        command.arg("reboot -f");
        let mut ssh = Process::start("ssh", &mut command, &self.dir.join("reboot.log"))?;
        let before = self.boots;
        let gone = wait_for("the reset", BOOT, || {
            Ok((self.console().matches("LAB-READY").count() > before || ssh.wait(Duration::ZERO).is_ok()).then_some(()))
        });
        drop(ssh);
        Run::of(self.login().arg("--close"))?;
        gone
    }

    /// `systemctl VERB`, reboot or poweroff, which stops everything in order. Then [`Self::wait_ready`] or [`Self::wait_off`].
    pub fn go_down(&self, verb: &str) -> Result<()> {
        self.sh(&format!("systemctl --no-block {verb}"))?;
        // The shared connection would outlive the machine, and the next command wait for it.
        Run::of(self.login().arg("--close")).map(drop)
    }

    /// The machine has switched itself off.
    pub fn wait_off(&mut self, patience: Duration) -> Result<()> {
        let status = self.qemu.wait(patience)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.join("serial.log")).unwrap_or_default()
    }

    fn login(&self) -> Command {
        let mut command = Command::new(root().join("tests/lab/guest/ssh"));
        command.arg(&self.dir).stdin(std::process::Stdio::null());
        command
    }

    /// The monitor that vcenter-sim uses; exists as soon as QEMU runs.
    pub fn monitor(&mut self) -> Result<PathBuf> {
        let path = self.dir.join("qmp.sock");
        wait_for("QEMU's monitor", BOOT, || {
            self.qemu.must_live()?;
            Ok(path.exists().then(|| path.clone()))
        })
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        let console = self.dir.join("serial.log");
        let boots = wait_for("LAB-READY", BOOT, || {
            self.qemu.must_live()?;
            let seen = fs::read_to_string(&console).unwrap_or_default().matches("LAB-READY").count();
            Ok((seen > self.boots).then_some(seen))
        })?;
        self.boots = boots;
        // On a loaded machine the first key exchange may run into its own time limit.
        wait_for("a login", BOOT, || Ok((self.try_sh("true")?.code == 0).then_some(())))
    }

    /// A port of 127.0.0.1 that leads into the guest: `SSH_PORT` or `GRPC_PORT`.
    pub fn port(&self, name: &str) -> Result<u16> {
        let ports = fs::read_to_string(self.dir.join("ports"))?;
        let value = ports.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Ok(value.with_context(|| format!("{name} not in {ports:?}"))?.trim().parse()?)
    }

    /// Runs a shell command as root in the guest; its output if it succeeds.
    pub fn sh(&self, script: &str) -> Result<String> {
        let run = self.try_sh(script)?;
        ensure!(run.code == 0, "`{script}` in the guest: {} {}{}", run.code, run.stdout, run.stderr);
        Ok(run.stdout)
    }

    pub fn try_sh(&self, script: &str) -> Result<Run> {
        Run::of(self.login().arg(script))
    }

    /// Copies a file of the host into the guest.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let input = fs::File::open(from)?;
        let status = self
            .login()
            .arg(format!("cat > {to}.new && chmod 0600 {to}.new && mv {to}.new {to}"))
            .stdin(input)
            .status()?;
        ensure!(status.success(), "copying {} into the guest: {status}", from.display());
        Ok(())
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn qemu(dir: &Path, payload: &Path, options: &[String], more: &[&str]) -> Result<Process> {
    let mut command = Command::new(root().join("tests/lab/guest/run"));
    command.arg(dir).arg("--payload").arg(payload).args(options).arg("--").args(more);
    Process::start("qemu", &mut command, &dir.join("qemu.log"))
}

/// The tar that is laid over the guest's root: the daemon and its files, as an installation would place them.
fn payload(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("payload");
    let place = |from: PathBuf, to: &str, mode: u32| -> Result<()> {
        let to = tree.join(to);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    };
    place(binary("hotadd-agent")?, "usr/bin/hotadd-agent", 0o755)?;
    run(Command::new(root().join("systemd/install")).arg(&tree))?;
    // Symbols are of no use in the guest and take seconds to unpack there.
    run(Command::new("strip").arg(tree.join("usr/bin/hotadd-agent")))?;
    fs::create_dir_all(tree.join("etc/hotadd"))?;
    let tar = dir.join("payload.tar");
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "-C"])
        .arg(&tree)
        .arg("-cf")
        .arg(&tar)
        .args(["usr", "etc"]))?;
    fs::remove_dir_all(&tree)?;
    Ok(tar)
}

fn run(command: &mut Command) -> Result<()> {
    let done = Run::of(command)?;
    ensure!(done.code == 0, "{command:?}: {}", done.stderr);
    Ok(())
}

/// The scene. Fields drop in order: vCenter first (it lets go of QEMU's monitor), then the machine.
#[derive(Debug)]
pub struct Lab {
    stage: Stage,
    pub guest: Guest,
}

impl Deref for Lab {
    type Target = Stage;
    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }
}

impl Lab {
    /// Boots the guest with vCenter beside it; the agent is installed and configured, not started.
    pub fn boot(dir: &Path, spec: Spec, options: &[&str]) -> Result<Self> {
        let options: Vec<&str> = ["--snapshot"].into_iter().chain(options.iter().copied()).collect();
        let lab = Self::boot_kept(dir, spec, &options)?;
        lab.configure(lab.vcenter.port(), "")?;
        Ok(lab)
    }

    /// As [`Self::boot`] with a root disk that outlives the machine's power, and not configured.
    pub fn boot_kept(dir: &Path, spec: Spec, options: &[&str]) -> Result<Self> {
        let proxy = &spec.inventory.vms[0];
        let mut all = Vec::new();
        all.extend(["--uuid".to_owned(), proxy.uuid.clone().unwrap_or_default()]);
        if let Some(mac) = proxy.macs.first() {
            all.extend(["--mac".to_owned(), mac.clone()]);
        }
        all.extend(options.iter().map(|o| (*o).to_owned()));
        let mut guest = Guest::boot(&dir.join("guest"), &all)?;
        let backend = format!("qemu:{PROXY}:{}", guest.monitor()?.display());
        let stage = Stage::start(dir, spec, &backend)?;
        guest.wait_ready()?;
        let mut lab = Self { stage, guest };
        lab.stage.url = format!("https://localhost:{}", lab.guest.port("GRPC_PORT")?);
        Ok(lab)
    }

    /// Boots and starts the service.
    pub fn start(dir: &Path, spec: Spec, options: &[&str]) -> Result<Self> {
        let lab = Self::boot(dir, spec, options)?;
        lab.start_agent()?;
        Ok(lab)
    }

    /// Writes /etc/hotadd. `vcenter`: port of this host that leads to vCenter; `top`: more lines for agent.toml.
    pub fn configure(&self, vcenter: u16, top: &str) -> Result<()> {
        let url = format!("https://{HOST}:{vcenter}/sdk");
        let text = self.stage.agent_toml("0.0.0.0:7443", &url, "/etc/hotadd", "/var/lib/hotadd", top);
        let config = self.dir.join("guest-agent.toml");
        fs::write(&config, text)?;
        self.guest.put(&config, "/etc/hotadd/agent.toml")?;
        for name in ["server.pem", "server.key", "client.pem", "client.key", "ca.pem", "vc-ca.pem", "vc-password"] {
            self.guest.put(&self.pki.file(name), &format!("/etc/hotadd/{name}"))?;
        }
        Ok(())
    }

    /// `systemctl start`, which returns when the service said READY.
    pub fn start_agent(&self) -> Result<()> {
        let started = self.guest.try_sh(&format!("timeout {} systemctl start hotadd-agent", SERVICE.as_secs()))?;
        ensure!(started.code == 0, "the service did not start: {}\n{}", started.stderr, self.journal()?);
        Ok(())
    }

    /// The service's log.
    pub fn journal(&self) -> Result<String> {
        Ok(self.guest.try_sh("journalctl -u hotadd-agent --no-pager -o short-monotonic | tail -n 80")?.stdout)
    }
}
