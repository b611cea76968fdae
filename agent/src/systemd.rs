//! What the agent tells systemd. Every call is a no-op outside systemd (no NOTIFY_SOCKET).
use std::time::Duration;

use sd_notify::NotifyState;

/// The port is open and the journal was settled.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Feeds the watchdog; see [`crate::watchdog`] for when.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Asks for more time to start or stop while duties are being settled.
pub fn extend(time: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
