//! The door to the account: who may try to log in, and when. Knows no wire; the session asks it before each login and
//! tells it how that ended.
//!
//! ```text
//!  open ──refused──▶ shut ──pause over, or another password──▶ one try ──passed──▶ open
//!                     ▲                                           │
//!                     └──── refused: pause × 2, or anew from ─────┤
//!                           the first for another password        └── no answer: shut, and may try at once
//! ```
//! Whatever changes, at most [`MOST`] tries fall into any window of twice the first pause: vCenter locks an account after
//! five failures within 180 s by default (VMware Single Sign-On, lockout policy), and others use the account too.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};

const MOST: usize = 3;

/// Reads the password again, from where it is kept; `None`: it can't be read now, the one in use stays.
pub type PasswordSource = Arc<dyn Fn() -> Option<SecretString> + Send + Sync>;

/// A login that was refused, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// The server's words.
    pub why: String,
    /// How long no further login is tried, unless the password changes.
    pub pause: Duration,
}

/// See the module.
pub(crate) struct Door {
    first: Duration,
    last: Duration,
    source: Option<PasswordSource>,
    inner: Mutex<Inner>,
    told: watch::Sender<Option<LoginRefused>>,
}

struct Inner {
    password: SecretString,
    shut: Option<Shut>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("shut", &self.is_shut()).finish_non_exhaustive()
    }
}

impl Door {
    pub(crate) fn new(password: SecretString, source: Option<PasswordSource>, first: Duration, last: Duration) -> Door {
        let inner = Mutex::new(Inner { password, shut: None });
        Door { first, last: last.max(first), source, inner, told: watch::Sender::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last login was refused, and none has passed since.
    pub(crate) fn is_shut(&self) -> bool {
        self.lock().shut.is_some()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<LoginRefused>> {
        self.told.subscribe()
    }

    /// The password for one try, which counts from here on: a caller that goes away after it was sent has tried too.
    pub(crate) async fn knock(&self) -> Result<SecretString, Error> {
        let fresh = match self.source.clone() {
            // A file on a disk that hangs must not take a thread of the runtime with it.
            Some(read) => tokio::task::spawn_blocking(move || read()).await.ok().flatten(),
            None => None,
        };
        let mut inner = self.lock();
        let changed = fresh.filter(|fresh| fresh.expose_secret() != inner.password.expose_secret());
        if let Some(shut) = &mut inner.shut {
            shut.admit(Instant::now(), changed.is_some(), self.first)?;
        }
        if let Some(changed) = changed {
            tracing::info!("the password has changed; trying it");
            inner.password = changed;
        }
        Ok(inner.password.clone())
    }

    pub(crate) fn passed(&self) {
        if self.lock().shut.take().is_some() {
            tracing::info!("vCenter takes the login again");
        }
        self.told.send_if_modified(|told| told.take().is_some());
    }

    pub(crate) fn refused(&self, error: &Error) {
        let why = error.context().to_owned();
        let pause = {
            let mut inner = self.lock();
            let shut = inner.shut.get_or_insert_with(|| Shut::new(Instant::now()));
            shut.refused(Instant::now(), why.clone(), self.first, self.last)
        };
        tracing::error!(why, pause_s = pause.as_secs(), "vCenter refused the login; the next try waits");
        self.told.send_replace(Some(LoginRefused { why, pause }));
    }

    /// The try had no answer: that says nothing of the password.
    pub(crate) fn unanswered(&self) {
        if let Some(shut) = &mut self.lock().shut {
            shut.unanswered();
        }
    }
}

/// Pure over the time that it is given.
#[derive(Debug)]
struct Shut {
    why: String,
    since: Instant,
    pause: Duration,
    until: Instant,
    /// Before the try under way.
    before: Instant,
    /// The try under way has another password than the one before it.
    changed: bool,
    recent: VecDeque<Instant>,
}

impl Shut {
    fn new(now: Instant) -> Shut {
        let recent = VecDeque::from([now]);
        Shut { why: String::new(), since: now, pause: Duration::ZERO, until: now, before: now, changed: true, recent }
    }

    fn admit(&mut self, now: Instant, changed: bool, first: Duration) -> Result<(), Error> {
        let room = match self.recent.iter().rev().nth(MOST - 1) {
            Some(oldest) => *oldest + first * 2,
            None => now,
        };
        let next = if changed { room } else { room.max(self.until) };
        if next > now {
            let context = format!(
                "refused {} s ago ({}); the next try is in {} s, or when the password has changed",
                now.saturating_duration_since(self.since).as_secs(),
                self.why,
                (next - now).as_secs() + 1
            );
            return Err(Error::new(ErrorKind::LoginHeld, "Login", context));
        }
        self.recent.push_back(now);
        while self.recent.len() > MOST {
            self.recent.pop_front();
        }
        (self.before, self.until, self.changed) = (self.until, now + self.pause, changed);
        Ok(())
    }

    fn refused(&mut self, now: Instant, why: String, first: Duration, last: Duration) -> Duration {
        self.pause = if self.changed { first } else { (self.pause * 2).min(last) };
        (self.why, self.since, self.until) = (why, now, now + self.pause);
        self.pause
    }

    fn unanswered(&mut self) {
        self.recent.pop_back();
        self.until = self.before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(90);
    const LAST: Duration = Duration::from_secs(900);

    /// Tries of somebody who asks every second, in seconds since the first; `changes`: when the password is another one.
    fn tries(seconds: u64, changes: impl Fn(u64) -> bool) -> Vec<u64> {
        let start = Instant::now();
        let mut shut = Shut::new(start);
        shut.refused(start, "no".into(), FIRST, LAST);
        let mut tried = vec![0];
        let mut changed = false;
        for second in 1..seconds {
            let now = start + Duration::from_secs(second);
            changed |= changes(second);
            if shut.admit(now, changed, FIRST).is_ok() {
                shut.refused(now, "no".into(), FIRST, LAST);
                tried.push(second);
                changed = false;
            }
        }
        tried
    }

    fn most_in_a_window(tried: &[u64]) -> usize {
        let from = |start: &u64| tried.iter().filter(|t| (*start..start + 180).contains(t)).count();
        tried.iter().map(from).max().unwrap_or(0)
    }

    #[test]
    fn the_pauses_grow_up_to_the_last() {
        assert_eq!(tries(5000, |_| false), [0, 90, 270, 630, 1350, 2250, 3150, 4050, 4950]);
    }

    #[test]
    fn another_password_is_tried_at_once_and_begins_anew() {
        assert_eq!(tries(700, |second| second == 300), [0, 90, 270, 300, 390, 570]);
    }

    #[test]
    fn however_the_password_changes_three_tries_fall_into_a_window() {
        for every in [1, 7, 60, 91] {
            let tried = tries(4000, |second| second % every == 0);
            assert!(most_in_a_window(&tried) <= MOST, "every {every} s: {tried:?}");
        }
    }

    #[test]
    fn a_try_without_answer_is_no_refusal_and_one_that_was_dropped_counts() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut shut = Shut::new(start);
        shut.refused(start, "no".into(), FIRST, LAST);
        for second in 90..100 {
            shut.admit(at(second), false, FIRST).unwrap();
            shut.unanswered();
        }
        shut.admit(at(100), false, FIRST).unwrap();
        let held = shut.admit(at(101), false, FIRST).unwrap_err();
        assert_eq!(*held.kind(), ErrorKind::LoginHeld);
        assert!(held.to_string().contains("in 90 s"), "{held}");
    }
}
