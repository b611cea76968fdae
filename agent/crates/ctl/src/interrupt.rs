//! SIGINT, SIGTERM, and SIGHUP unless it is ignored (nohup), as something that can be waited for. What an interrupted command does is its own business.
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{error::Failure, exit::Exit, reasons};

#[derive(Debug)]
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
    hangup: Option<Signal>,
}

/// `proc(5)`: the mask of what is ignored, a bit a signal.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub(crate) fn install() -> Result<Self, Failure> {
        let install = |kind| signal(kind).map_err(|e| Failure::internal(format!("no handler for a signal: {e}")));
        let hangup = SignalKind::hangup();
        let hangup = if is_ignored(hangup) { None } else { Some(install(hangup)?) };
        Ok(Self { int: install(SignalKind::interrupt())?, term: install(SignalKind::terminate())?, hangup })
    }

    /// Waits for the next signal and tells its name.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
            Some(()) = async { self.hangup.as_mut()?.recv().await } => "SIGHUP",
        }
    }

    /// Runs `work` unless a signal comes first.
    pub(crate) async fn guard<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            ended = work => ended,
            name = self.wait() => Err(interrupted(name)),
        }
    }
}

/// The name of the signal, for a command that runs on a thread of its own: it looks between two blocks and clears up.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<OnceLock<&'static str>>);

impl Stop {
    pub(crate) fn tell(&self, signal: &'static str) {
        // A second signal says nothing new.
        let _ = self.0.set(signal);
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.0.get().map_or(Ok(()), |signal| Err(interrupted(signal)))
    }
}

pub(crate) fn interrupted(signal: &str) -> Failure {
    Failure::new(Exit::Interrupted, reasons::INTERRUPTED, format!("interrupted by {signal}"))
}
