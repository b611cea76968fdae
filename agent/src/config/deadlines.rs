//! The waits that a site may have to tune, by name: its default, its lowest value and its reason in one table. Values are seconds in
//! agent.toml, decimals allowed (a test scales them all by one factor).
use std::time::Duration;

use serde::Deserialize;

/// A day: longer than anything here can mean.
const HIGHEST: f64 = 86_400.0;

macro_rules! deadlines {
    ($($(#[doc = $why:literal])+ $name:ident, $key:ident = $default:literal, at least $low:literal;)+) => {
        /// See the module.
        #[derive(Debug, Clone)]
        pub struct Deadlines { $($(#[doc = $why])+ pub $name: Duration,)+ }

        /// As written in `[deadlines]`.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct RawDeadlines { $($key: f64,)+ }

        impl Default for RawDeadlines {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl RawDeadlines {
            /// Checks all; faults are added to `faults`, one line each.
            pub(super) fn check(&self, faults: &mut Vec<String>) -> Deadlines {
                let mut seconds = |key: &str, value: f64, low: f64| {
                    if (low..=HIGHEST).contains(&value) {
                        return Duration::from_secs_f64(value);
                    }
                    faults.push(format!("deadlines.{key}: {value} is not between {low} and {HIGHEST}"));
                    Duration::ZERO
                };
                let mut deadlines = Deadlines { $($name: seconds(stringify!($key), self.$key, $low),)+ };
                // A detach that takes as long as it may is no hang, nor one that waits for the one before it.
                deadlines.stall = deadlines.stall.max(3 * deadlines.reconfigure);
                if self.settle_seconds <= self.call_seconds {
                    faults.push(format!(
                        "deadlines.settle_seconds: {} is not above call_seconds ({}): a request whose reply was lost may land that late",
                        self.settle_seconds, self.call_seconds
                    ));
                }
                deadlines
            }
        }

        /// Key, default in seconds, reason: what docs/configuration.md has to say of each.
        #[cfg(test)]
        const TABLE: &[(&str, f64, &str)] = &[$((stringify!($key), $default, concat!($($why),+)),)+];
    };
}

deadlines! {
    /// A SOAP call without a task.
    call, call_seconds = 60.0, at least 0.01;
    /// A reconfigure task. Vendors report one to two minutes for attach and detach of a busy VM.
    reconfigure, reconfigure_seconds = 600.0, at least 0.01;
    /// A snapshot task; quiescing may take minutes.
    snapshot, snapshot_seconds = 1800.0, at least 0.01;
    /// How long vCenter may hold the answer of one long poll for a task's end (whole seconds, at least one). An answer that
    /// takes twice as long is lost, and the task is read by itself.
    poll, poll_seconds = 20.0, at least 1.0;
    /// Attached disk until it is proven in the guest.
    discover, discover_seconds = 60.0, at least 0.01;
    /// Silence after which the controller is rescanned for an event that was lost.
    rescan, rescan_seconds = 5.0, at least 0.01;
    /// The whole map of what to read of one disk, page by page; then the disk is read whole.
    areas, areas_seconds = 600.0, at least 0.01;
    /// How long an export lease whose reply was lost may live: nobody reports its progress, and vCenter ends it after 300 s by
    /// default.
    export_unknown, export_unknown_seconds = 360.0, at least 0.01;
    /// Longest time without a byte of an exported disk.
    export_stall, export_stall_seconds = 120.0, at least 0.01;
    /// Pause before an absence is believed for something that was never confirmed. Longer than `call`: a request whose
    /// reply was lost may reach vCenter as late as that.
    settle, settle_seconds = 75.0, at least 0.01;
    /// How long an intent that was retired unconfirmed is looked for again: what lands that late is still given back.
    late, late_seconds = 3600.0, at least 0.0;
    /// Between two such looks.
    sweep, sweep_seconds = 30.0, at least 0.01;
    /// First pause of the settler after a pass that left something open, doubled up to `retry_last`.
    retry_first, retry_first_seconds = 0.25, at least 0.001;
    /// Longest pause of the settler between two passes.
    retry_last, retry_last_seconds = 30.0, at least 0.001;
    /// How long the settler may take for one step before the agent counts as hung and systemd's watchdog is no longer fed. Longer than
    /// several `reconfigure` in a row: the gate may be held by others meanwhile.
    stall, stall_seconds = 3600.0, at least 0.01;
    /// How long a request waits for its clean-up before it answers OWED. The clean-up itself never ends unproven.
    cleanup, cleanup_seconds = 120.0, at least 0.01;
    /// How long the deletion of a SCSI device may take; then the disk is detached all the same.
    delete, delete_seconds = 40.0, at least 0.01;
    /// How long reading the guest's devices may take: a kernel that hangs must not hold the proxy's gate for ever.
    guest, guest_seconds = 60.0, at least 0.01;
    /// How long the removal of our snapshot waits for another VM that holds a file of its VM, or for a younger snapshot
    /// of somebody else, before that is an alarm; it goes on waiting for a holder.
    holder, holder_seconds = 3600.0, at least 0.0;
    /// How long a VM may stay in need of consolidation after our removal before it is consolidated once.
    consolidate, consolidate_seconds = 60.0, at least 0.0;
    /// How long a start waits when all that an earlier run left needs a person, before it serves the rest.
    doubt, doubt_seconds = 600.0, at least 0.0;
    /// How long a client may take to accept an event that is not a frame.
    event, event_seconds = 10.0, at least 0.01;
    /// Between two looks at the leases.
    lease_tick, lease_tick_seconds = 0.5, at least 0.01;
    /// How long SIGTERM waits for everything to be detached.
    drain, drain_seconds = 240.0, at least 0.01;
    /// Silence of a client after which it is pinged; with `ping_timeout` the time after which a connection that was cut
    /// without a FIN is given up.
    ping, ping_seconds = 20.0, at least 0.01;
    /// How long the answer to a ping may take.
    ping_timeout, ping_timeout_seconds = 20.0, at least 0.01;
    /// Between two looks at the hosts and at the target's snapshots while disks are held.
    watch, watch_seconds = 5.0, at least 0.01;
    /// How long a request waits, before it touches anything, for hosts that are leaving service.
    hold, hold_seconds = 900.0, at least 0.0;
    /// How long a job waits for its turn to take a snapshot (`limits.snapshots_per_datastore`): a night, for a controller that sends
    /// all its VMs at once. A session waits `hold`, like its client.
    turn, turn_seconds = 28800.0, at least 0.0;
    /// Pause between two tries to reach vCenter while starting; up to twelve times that while something is owed.
    reconnect, reconnect_seconds = 5.0, at least 0.01;
    /// Pause after a refused login, doubled with each further one: vCenter locks an account after five failures within three
    /// minutes. A changed password is tried at once, but never more than three in twice this time.
    login, login_seconds = 90.0, at least 0.01;
    /// Longest such pause.
    login_last, login_last_seconds = 900.0, at least 0.01;
    /// Between two signs of life to vCenter, whose idle limit is 30 minutes by default.
    keep_alive, keep_alive_seconds = 300.0, at least 0.01;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_decimals_are_taken() {
        let mut faults = Vec::new();
        let deadlines = RawDeadlines::default().check(&mut faults);
        assert_eq!((deadlines.settle, faults.len()), (Duration::from_secs(75), 0), "{faults:?}");
        let scaled: RawDeadlines = toml::from_str("call_seconds = 1.2\nsettle_seconds = 1.5").unwrap();
        assert_eq!(scaled.check(&mut faults).settle, Duration::from_millis(1500));
        assert!(faults.is_empty());
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["call_seconds = nan", "call_seconds = inf", "call_seconds = -1", "call_seconds = 0"] {
            let raw: RawDeadlines = toml::from_str(text).unwrap();
            let mut faults = Vec::new();
            raw.check(&mut faults);
            assert!(faults.iter().any(|fault| fault.contains("call_seconds")), "{text}: {faults:?}");
        }
    }

    #[test]
    fn the_document_names_each_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let document = std::fs::read_to_string(path).unwrap();
        for (key, default, why) in TABLE {
            assert!(!why.is_empty());
            assert!(document.contains(&format!("| `{key}` | {default} |")), "{key} = {default} is not in the table");
        }
    }
}
