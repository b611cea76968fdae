//! Where the environment comes from and how it is blanked there: VMware's guestinfo by its own tool, or QEMU's fw_cfg, which can't be written.
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::environment::{self, MAX_BYTES};

const VARIABLE: &str = "guestinfo.ovfEnv";
/// Linux refuses longer arguments of a program.
const LONGEST_ARGUMENT: usize = 120 << 10;
/// What stands in for an environment that is too long to be written back without its secrets.
const EMPTIED: &str = "<Environment/>";

/// How often it is asked, and how long between: what is not ready at this moment of a boot may be soon.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A place that may hold an environment.
#[derive(Debug, Clone)]
pub enum Source {
    /// `vmware-rpctool`, or what stands for it.
    Guestinfo(PathBuf),
    /// A file that is only read.
    File(PathBuf),
}

impl Source {
    /// The file where there is one: QEMU has it, vSphere does not.
    #[must_use]
    pub fn choose(file: &Path, tool: &Path) -> Self {
        if file.exists() { Self::File(file.to_owned()) } else { Self::Guestinfo(tool.to_owned()) }
    }

    /// As [`Self::read`], and again if there was no answer.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn ask(&self) -> io::Result<Option<Vec<u8>>> {
        let mut answer = self.read();
        for _ in 1..TRIES {
            if answer.is_ok() {
                break;
            }
            thread::sleep(PAUSE);
            answer = self.read();
        }
        answer
    }

    /// `None`: nobody gave this VM anything.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let bytes = match self {
            Self::File(path) => bounded(fs::File::open(path)?)?,
            Self::Guestinfo(tool) => {
                let mut child = bounded_tool(tool)
                    .arg(format!("info-get {VARIABLE}"))
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()?;
                let bytes = child.stdout.take().map(bounded).transpose()?.unwrap_or_default();
                match child.wait()?.code() {
                    Some(0) => bytes,
                    // Its reader had enough; the excess is seen later.
                    _ if bytes.len() > MAX_BYTES => bytes,
                    // "No value found" is an answer.
                    Some(1) => return Ok(None),
                    _ => return Err(io::Error::other(format!("{} did not answer", tool.display()))),
                }
            }
        };
        Ok((!bytes.trim_ascii().is_empty()).then_some(bytes))
    }

    /// Blanks the secrets of `bytes`, which were read before, and looks whether they are gone. True: nothing secret is to be seen there any more.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn blank(&self, bytes: &[u8]) -> io::Result<bool> {
        let clean = match environment::redacted(bytes) {
            Ok(None) => return Ok(true),
            Ok(Some(clean)) if clean.len() <= LONGEST_ARGUMENT => clean,
            // Nobody can say what a document that can't be read holds.
            Ok(Some(_)) | Err(_) => EMPTIED.to_owned(),
        };
        let Self::Guestinfo(tool) = self else { return Ok(false) };
        let set = bounded_tool(tool)
            .arg(format!("info-set {VARIABLE} {clean}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let now = self.read()?.unwrap_or_default();
        Ok(set.success() && matches!(environment::redacted(&now), Ok(None) | Err(environment::Refused::Empty)))
    }
}

/// The tool asks the hypervisor, which may never answer; the unit has four minutes for five questions.
fn bounded_tool(tool: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "25"]).arg(tool);
    command
}

/// One byte more than is accepted, so that too much is seen.
fn bounded(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(from, MAX_BYTES as u64 + 1), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "source_tests.rs"]
pub(crate) mod tests;
