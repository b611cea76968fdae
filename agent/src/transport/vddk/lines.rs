//! What nbdkit and VDDK write to standard error: line by line into the log, cleaned and bounded, and the two codes that mean
//! that the host leaves service.
//!
//! nbdkit prints VDDK's texts, and codes only as far as VDDK's own lines have them (its plug-in asks GetErrorText), so the
//! codes are looked for beside the word that announces them, never as bare numbers: sectors are numbers too.
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::watch,
};

/// Bytes of a line that are kept while it comes in, and characters of it that are logged.
const LINE_MOST: usize = 8192;
const SHOWN_MOST: usize = 1000;
/// Lines of an error that go into a message.
const SAID_MOST: usize = 3;
/// Lines of one child that are logged in a second; a start of VDDK writes some dozens.
const LINES_MOST: u32 = 200;
/// Below this many bytes a password may be part of any word; replacing it would only show where.
const REDACTED_LEAST: usize = 4;

/// The ESXi host ends its NFC service, from vSphere 7.0 on while it enters maintenance mode (VDDK 7.0.1 release notes): the
/// same signal as the host's own state, only earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostLeaving {
    /// 14014, VIX_E_HOST_SERVER_SHUTDOWN: the connection will be closed.
    Shutdown,
    /// 14015, VIX_E_HOST_SERVER_NOT_AVAILABLE: no new connections.
    NotAvailable,
}

/// The signal in a line, if it has one.
pub(super) fn leaving(line: &str) -> Option<HostLeaving> {
    let lower = line.to_ascii_lowercase();
    if lower.contains("vix_e_host_server_shutdown") {
        return Some(HostLeaving::Shutdown);
    }
    if lower.contains("vix_e_host_server_not_available") {
        return Some(HostLeaving::NotAvailable);
    }
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let signal = match *word {
            "14014" => HostLeaving::Shutdown,
            "14015" => HostLeaving::NotAvailable,
            _ => return None,
        };
        let announced = words[at.saturating_sub(2)..at]
            .iter()
            .any(|w| matches!(*w, "error" | "err" | "code" | "vixerror" | "status"));
        announced.then_some(signal)
    })
}

/// Where the lines of one disk go.
#[derive(Debug)]
pub(super) struct Log {
    session: String,
    disk: String,
    password: SecretString,
    last: Mutex<Last>,
    leaving: watch::Sender<Option<(HostLeaving, u64)>>,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Last {
    line: Option<String>,
    /// The newest few that call themselves errors, each with its number: one failure of VDDK is told in up to three.
    said: VecDeque<(u64, String)>,
    errors: u64,
}

/// Lines of the second that is under way.
#[derive(Debug)]
struct Pace {
    since: Instant,
    lines: u32,
}

impl Pace {
    /// Whether one more is logged, and how many were not in the second before.
    fn admit(&mut self, now: Instant) -> (bool, u32) {
        let mut missed = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            missed = self.lines.saturating_sub(LINES_MOST);
            *self = Self { since: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= LINES_MOST, missed)
    }
}

impl Log {
    pub(super) fn new(session: &str, disk: &str, password: SecretString) -> Self {
        Self {
            session: session.to_owned(),
            disk: disk.to_owned(),
            password,
            last: Mutex::default(),
            leaving: watch::Sender::new(None),
            pace: Mutex::new(Pace { since: Instant::now(), lines: 0 }),
        }
    }

    pub(super) fn leaving(&self) -> watch::Receiver<Option<(HostLeaving, u64)>> {
        self.leaving.subscribe()
    }

    /// The newest lines after number `mark` that nbdkit marks as errors, else the last line.
    pub(super) fn last(&self, mark: u64) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<&str> =
            last.said.iter().filter(|(number, _)| *number > mark).map(|(_, line)| line.as_str()).collect();
        if said.is_empty() { last.line.clone() } else { Some(said.join("; ")) }
    }

    /// Lines so far that called themselves errors, or said that the host leaves.
    pub(super) fn errors(&self) -> u64 {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).errors
    }

    /// Before another child writes.
    pub(super) fn forget(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Last { errors: last.errors, ..Last::default() };
    }

    /// Reads to the end.
    pub(super) async fn follow(&self, mut from: impl AsyncRead + Unpin) {
        let (mut cutter, mut buffer) = (Cutter::default(), vec![0; 4096]);
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => cutter.push(&buffer[..count], &mut |line| self.take(line)),
            }
        }
        cutter.end(&mut |line| self.take(line));
    }

    fn take(&self, raw: &[u8]) {
        let line = self.clean(raw);
        if line.is_empty() {
            return;
        }
        let (session, disk) = (&self.session, &self.disk);
        let is_error = line.contains("error:");
        let (shown, missed) = self.pace.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if missed > 0 {
            tracing::warn!(session, disk, missed, "nbdkit wrote more lines than are logged");
        }
        match (shown, is_error) {
            (false, _) => {}
            (true, true) => tracing::warn!(session, disk, line, "nbdkit"),
            (true, false) => tracing::info!(session, disk, line, "nbdkit"),
        }
        let signal = leaving(&line);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if is_error || signal.is_some() {
            last.errors += 1;
        }
        if let Some(signal) = signal {
            let first = self.leaving.send_replace(Some((signal, last.errors))).is_none();
            if first {
                tracing::warn!(session, disk, ?signal, "VDDK says that the host leaves service");
            }
        }
        if is_error {
            let number = last.errors;
            last.said.push_back((number, line.clone()));
            if last.said.len() > SAID_MOST {
                last.said.pop_front();
            }
        }
        last.line = Some(line);
    }

    /// One line for people: no control characters, no password, not too long.
    fn clean(&self, raw: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(raw).into_owned();
        let password = self.password.expose_secret();
        if password.len() >= REDACTED_LEAST {
            text = text.replace(password, "[REDACTED]");
        }
        let shown = text.trim().chars().take(SHOWN_MOST);
        shown.map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

/// Cuts bytes into lines; of a line that never ends only the beginning is kept.
#[derive(Debug, Default)]
struct Cutter {
    line: Vec<u8>,
}

impl Cutter {
    fn push(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LINE_MOST - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.end(take);
            }
        }
    }

    fn end(&mut self, take: &mut impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            take(&self.line);
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        Log::new("s", "d", SecretString::from("pa$$ wörd"))
    }

    #[test]
    fn codes_count_only_where_they_are_called_errors() {
        for (line, expected) in [
            ("VixDiskLib: Failed to read, Error 14014 at 4512.", Some(HostLeaving::Shutdown)),
            ("nbdkit: vddk[1]: error: [NFC ERROR] error code: 14015", Some(HostLeaving::NotAvailable)),
            ("VixError = 14014", Some(HostLeaving::Shutdown)),
            ("closed (VIX_E_HOST_SERVER_NOT_AVAILABLE)", Some(HostLeaving::NotAvailable)),
            ("read of sector 14014 failed", None),
            ("error: 140145", None),
            ("14014", None),
            ("error: read of 512 bytes at 14014", None),
        ] {
            assert_eq!(leaving(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_are_cleaned_bounded_and_hold_no_password() {
        let log = log();
        assert_eq!(log.clean(b"  a\x1b[31mb\rc\t "), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(log.clean("login with pa$$ wörd refused".as_bytes()), "login with [REDACTED] refused");
        assert_eq!(log.clean(&[b'x'; 5000]).len(), SHOWN_MOST);
        assert_eq!(log.clean(b"\xff"), "\u{fffd}");
    }

    #[tokio::test]
    async fn the_last_error_wins_and_the_signal_is_seen() {
        let log = log();
        let signal = log.leaving();
        let long = "y".repeat(3 * LINE_MOST);
        let text = format!("one\n{long}\nnbdkit: error: cannot\n\nUse 'nbdkit --help'\nno end, Error 14014");
        log.follow(text.as_bytes()).await;
        assert_eq!(log.last(0).as_deref(), Some("nbdkit: error: cannot"));
        assert_eq!(signal.borrow().map(|(signal, _)| signal), Some(HostLeaving::Shutdown));
        assert_eq!(log.errors(), 2);
        log.forget();
        assert_eq!(log.last(0), None);
        log.follow(&b"only this"[..]).await;
        assert_eq!(log.last(0).as_deref(), Some("only this"));
        let mark = log.errors();
        log.follow(&b"error: 1\nerror: 2\nerror: 3\nerror: 4\nhint"[..]).await;
        assert_eq!(log.last(mark).as_deref(), Some("error: 2; error: 3; error: 4"));
        assert_eq!(log.last(log.errors()).as_deref(), Some("hint"));
    }

    #[test]
    fn a_flood_of_lines_is_counted_and_not_logged() {
        let start = Instant::now();
        let mut pace = Pace { since: start, lines: 0 };
        let shown = (0..LINES_MOST + 7).filter(|_| pace.admit(start).0).count();
        assert_eq!(shown, LINES_MOST as usize);
        assert_eq!(pace.admit(start + Duration::from_secs(1)), (true, 7));
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let (mut cutter, mut got) = (Cutter::default(), Vec::new());
        for piece in ["a", "b\nc", "\n", "\n\nd"] {
            cutter.push(piece.as_bytes(), &mut |line| got.push(String::from_utf8(line.to_vec()).unwrap()));
        }
        cutter.end(&mut |line| got.push(String::from_utf8(line.to_vec()).unwrap()));
        assert_eq!(got, ["ab", "c", "d"]);
    }
}
