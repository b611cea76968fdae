//! Feeds systemd's watchdog as long as the agent can still do what it must never stop doing: settle.
//!
//! ```text
//! the runtime turns ─▶ tick ─▶ journal and settler answer ─▶ the settler's last step is younger than `stall_seconds`
//!         │                              │                              ├─ yes ─▶ WATCHDOG=1
//!         └── no ──▶ silence ◀── no ─────┘                              └─ no ──▶ an error in the log, silence
//! silence for WatchdogSec ─▶ systemd kills ─▶ ExecStopPost (reap) detaches ─▶ restart
//! ```
//! A pass of the settler may honestly wait for vCenter for minutes, so it is judged by its steps, not by the clock of the watchdog.
//! Fed from READY on: systemd does not watch a service that starts or stops, but a ping arms the clock in any state (service.c of
//! systemd 252, `service_start_watchdog`). Hence none before READY, and no end after SIGTERM: one that crossed it has armed it.
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::{attach::Settler, systemd};

/// Half of the time that systemd gives, as sd_watchdog_enabled(3) advises. `None`: nobody watches this process.
#[must_use]
pub fn period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())
}

/// Never ends. `stall`: how long the settler may take for one step.
pub async fn feed(period: Duration, settler: Settler, stall: Duration) {
    let mut clock = interval(period);
    // After a pause of the whole machine one ping says as much as many.
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let silent = settler.silent_for();
        if silent < stall {
            // It waits as long as systemd does not read: that may hold this task, never a thread of the runtime.
            drop(tokio::task::spawn_blocking(systemd::alive).await);
        } else {
            tracing::error!(silent_s = silent.as_secs(), "the settler takes no step; systemd's watchdog is not fed");
        }
        // Answered by the next tick, if the loop has nothing else to do.
        settler.ask();
    }
}
