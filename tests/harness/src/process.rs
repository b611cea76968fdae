//! Child processes by pid: started with a log file, told to be ready by condition, ended in Drop.
use std::{
    fs::File,
    io,
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a child may take to end after SIGTERM: the agent detaches, the simulator frees loop devices.
const END: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// A binary of this workspace, beside the running one (built by `cargo build --bins` of the same profile). One that lies
/// in the folder `HOTADD_BIN` goes first: so a campaign runs against another build of the agent.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(other) = std::env::var_os("HOTADD_BIN").map(|dir| PathBuf::from(dir).join(name))
        && other.is_file()
    {
        return Ok(other);
    }
    let me = std::env::current_exe()?;
    let dirs = me.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built; run `cargo build --profile ci --workspace --bins`"))
}

/// Waits until `condition` gives something, at most `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(Instant::now() < end, "{what}: not within {} s", patience.as_secs());
        std::thread::sleep(POLL);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error in `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// An error with the log's end if it has ended.
    pub fn must_live(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, tail(&self.log_text()));
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("end of {name}"), patience, || Ok(self.child.try_wait()?))
    }

    /// SIGTERM and wait.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(END)
    }

    /// SIGKILL and wait; it may have ended by itself before.
    pub fn kill_if_alive(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// SIGKILL and wait.
    pub fn kill(&mut self) -> Result<()> {
        let status = self.kill_if_alive()?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "{} ended before the kill: {status}", self.name);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.stop().is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, tail(&self.log_text()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A socket that plays systemd's part of sd_notify.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    pub path: PathBuf,
}

impl Notify {
    pub fn bind(path: &Path) -> Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// What came since the last call, a message each.
    pub fn messages(&self) -> Result<Vec<String>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => all.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for READY=1 and gives the last STATUS before it.
    pub fn ready(&self, process: &mut Process, patience: Duration) -> Result<String> {
        let mut status = String::new();
        wait_for("READY", patience, || {
            process.must_live()?;
            let mut buffer = [0; 4096];
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if let Some(line) = text.lines().find_map(|line| line.strip_prefix("STATUS=")) {
                        line.clone_into(&mut status);
                    }
                    Ok(text.lines().any(|line| line == "READY=1").then(|| status.clone()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }
}
