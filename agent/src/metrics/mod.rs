//! What the agent counts, for Prometheus: names by its conventions (base units, `_total`), labels from closed lists only, so that the
//! number of series is bounded by the code and not by what is backed up. VMs, disks, sessions and paths are never labels. Counted where it
//! happens, by whoever does it; what can be read from the state is read when somebody asks ([`gauges`], [`source`]), so that nothing can
//! drift. Only [`server`] knows a network.
pub mod gauges;
pub mod server;
pub mod source;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hotadd_api::v1::{Stages, Transport};
use hotadd_vsphere::{Call, ErrorKind};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    journal::{Duty, DutyKind, Record},
    transport::Report,
};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Seconds<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// A label for what went well.
const OK: &str = "ok";

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Meter(Arc<Meters>);

struct Meters {
    registry: Mutex<Registry>,
    read_bytes: Counters<2>,
    stages: Family<Labels<1>, Counter<f64, std::sync::atomic::AtomicU64>>,
    reads: Counters<3>,
    depth: Histogram,
    attach: Histogram,
    detach: Histogram,
    duties: Counters<2>,
    alarms: Counters<1>,
    jobs: Counters<1>,
    sessions: Counters<1>,
    limited: Counters<1>,
    traces_dropped: Counter,
    calls: Seconds<1>,
    call_errors: Counters<2>,
    login_refused: Gauge,
    gauges: gauges::Gauges,
    heard: Mutex<Heard>,
}

/// Of vCenter: when it answered last, and whether the newest call got no answer.
#[derive(Debug, Clone, Copy)]
struct Heard {
    last: Instant,
    silent: bool,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

/// 50 ms to 27 min: a reconfigure takes seconds, and minutes on a bad day.
fn long() -> Histogram {
    Histogram::new(exponential_buckets(0.05, 2.0, 16))
}

/// 1 ms to 33 s: an answer of vCenter.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Default for Meter {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hotadd");
        let meters = Meters {
            read_bytes: Family::default(),
            stages: Family::default(),
            reads: Family::default(),
            depth: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            attach: long(),
            detach: long(),
            duties: Family::default(),
            alarms: Family::default(),
            jobs: Family::default(),
            sessions: Family::default(),
            limited: Family::default(),
            traces_dropped: Counter::default(),
            calls: Family::new_with_constructor(short as fn() -> Histogram),
            call_errors: Family::default(),
            login_refused: Gauge::default(),
            gauges: gauges::Gauges::register(&mut registry),
            heard: Mutex::new(Heard { last: Instant::now(), silent: false }),
            registry: Mutex::default(),
        };
        meters.register(&mut registry);
        meters.begin();
        *meters.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        Self(Arc::new(meters))
    }
}

impl Meters {
    /// Series that are there before anything happened: Prometheus sees no increase of a counter that begins with 1.
    fn begin(&self) {
        for kind in gauges::KINDS {
            for step in ["begun", "retired", "reopened"] {
                drop(self.duties.get_or_create(&[("kind", kind), ("step", step)]));
            }
            drop(self.alarms.get_or_create(&[("kind", kind)]));
        }
        for transport in [Transport::Hotadd, Transport::Nbd, Transport::Export] {
            for kind in ["data", "zero"] {
                drop(self.read_bytes.get_or_create(&[("transport", way(transport)), ("kind", kind)]));
            }
        }
        for ended in [&self.jobs, &self.sessions] {
            drop(ended.get_or_create(&[("outcome", OK)]));
        }
        for limit in ["calls", "calls_per_second", "connections"] {
            drop(self.limited.get_or_create(&[("limit", limit)]));
        }
    }

    fn register(&self, to: &mut Registry) {
        let bytes =
            "Bytes handed to clients, by way to the disk and by kind: data, or zeros that are told and not sent";
        to.register_with_unit("read", bytes, Unit::Bytes, self.read_bytes.clone());
        let stages = "Where the time of reads went; known when a read ends";
        to.register_with_unit("read_stage", stages, Unit::Seconds, self.stages.clone());
        to.register("reads", "Reads that ended, by way, engine and reason code", self.reads.clone());
        to.register("read_depth", "Requests in flight that reads began with", self.depth.clone());
        to.register_with_unit("attach", "One reconfigure that adds disks", Unit::Seconds, self.attach.clone());
        to.register_with_unit("detach", "One reconfigure that removes disks", Unit::Seconds, self.detach.clone());
        to.register("duties", "Duties that were begun and retired, by kind", self.duties.clone());
        to.register("duty_alarms", "Duties that somebody should look at, by kind", self.alarms.clone());
        to.register("jobs", "Jobs that ended, by reason code", self.jobs.clone());
        to.register("sessions", "Sessions that ended, by reason code", self.sessions.clone());
        let limited = "Calls and connections that were refused for a limit of their client, by limit";
        to.register("limited", limited, self.limited.clone());
        let dropped = "Traces that no collector got: it did not take them, or the queue was full";
        to.register("traces_dropped", dropped, self.traces_dropped.clone());
        let calls = "Answers of vCenter, by method; a long poll takes its wait";
        to.register_with_unit("vcenter_call", calls, Unit::Seconds, self.calls.clone());
        to.register("vcenter_call_errors", "Calls that failed, by method and kind", self.call_errors.clone());
        let login = "1: vCenter refuses the login, so nothing can be attached or detached";
        to.register("vcenter_login_refused", login, self.login_refused.clone());
    }
}

impl Meter {
    /// As text that Prometheus reads (OpenMetrics 1.0).
    #[must_use]
    pub fn text(&self, now: &gauges::Snapshot) -> String {
        self.0.gauges.set(now);
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String can't fail.
        _ = encode(&mut text, &registry);
        text
    }

    pub(crate) fn handed_over(&self, transport: Transport, zero: bool, bytes: u32) {
        let kind = if zero { "zero" } else { "data" };
        self.0.read_bytes.get_or_create(&[("transport", way(transport)), ("kind", kind)]).inc_by(bytes.into());
    }

    pub(crate) fn read_ended(&self, transport: Transport, depth: u32, report: &Report) {
        let outcome = report.error.as_ref().map_or(OK, |error| error.reason().code);
        let engine = report.engine.unwrap_or("none");
        self.0.reads.get_or_create(&[("transport", way(transport)), ("engine", engine), ("outcome", outcome)]).inc();
        self.0.depth.observe(depth.into());
        let Stages { source_us, agent_us, outlet_us, paced_us } = report.stages;
        for (stage, us) in [("source", source_us), ("agent", agent_us), ("outlet", outlet_us), ("paced", paced_us)] {
            self.0.stages.get_or_create(&[("stage", stage)]).inc_by(Duration::from_micros(us).as_secs_f64());
        }
    }

    pub(crate) fn attached(&self, took: Duration) {
        self.0.attach.observe(took.as_secs_f64());
    }

    pub(crate) fn detached(&self, took: Duration) {
        self.0.detach.observe(took.as_secs_f64());
    }

    /// A call or connection was refused. `limit`: its key in `[limits.client]`.
    pub(crate) fn limited(&self, limit: &'static str) {
        self.0.limited.get_or_create(&[("limit", limit)]).inc();
    }

    pub(crate) fn traces_dropped(&self, number: u64) {
        self.0.traces_dropped.inc_by(number);
    }

    pub(crate) fn login(&self, refused: bool) {
        self.0.login_refused.set(refused.into());
    }

    pub(crate) fn login_is_refused(&self) -> bool {
        self.0.login_refused.get() != 0
    }

    /// Of records that became durable; `before`: what they were folded into.
    pub(crate) fn recorded(&self, records: &[Record], before: &crate::journal::State) {
        let late = |id| before.late().map(|late| &late.duty).find(|duty| duty.id == id);
        let kind_of = |id| before.get(id).or_else(|| late(id)).map_or("unknown", kind);
        let duty = |kind, step| {
            self.0.duties.get_or_create(&[("kind", kind), ("step", step)]).inc();
        };
        for record in records {
            match record {
                Record::Began(begun) => duty(kind(begun), "begun"),
                Record::Retired { duty: id, .. } => duty(kind_of(*id), "retired"),
                Record::Reopened { duty: id, .. } => duty(kind_of(*id), "reopened"),
                Record::Alarm { duty: id, .. } => {
                    self.0.alarms.get_or_create(&[("kind", kind_of(*id))]).inc();
                }
                Record::JobEnded { end, .. } => {
                    self.0.jobs.get_or_create(&[("outcome", outcome(&end.code))]).inc();
                }
                Record::LeaseEnded { end, .. } => {
                    self.0.sessions.get_or_create(&[("outcome", outcome(&end.code))]).inc();
                }
                _ => {}
            }
        }
    }

    /// For [`hotadd_vsphere::Config::observer`].
    pub(crate) fn called(&self, call: &Call<'_>) {
        self.0.calls.get_or_create(&[("method", call.method)]).observe(call.took.as_secs_f64());
        if let Some(error) = call.error {
            self.0.call_errors.get_or_create(&[("method", call.method), ("kind", failure(error))]).inc();
        }
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match call.error {
            None | Some(ErrorKind::Fault(_) | ErrorKind::Unauthorized) => {
                *heard = Heard { last: Instant::now(), silent: false }
            }
            Some(ErrorKind::Unreachable | ErrorKind::Tls | ErrorKind::Deadline) => heard.silent = true,
            // Others say nothing of it, or nobody was asked.
            Some(_) => {}
        }
    }

    /// Since when vCenter has not answered; `None`: its last answer is not older than `patience`, and the newest call got one.
    pub(crate) fn unheard(&self, patience: Duration) -> Option<Duration> {
        let Heard { last, silent } = *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let age = last.elapsed();
        (silent || age > patience).then_some(age)
    }
}

/// Label of a transport.
pub(crate) fn way(transport: Transport) -> &'static str {
    match transport {
        Transport::Hotadd => "hotadd",
        Transport::Nbd => "nbd",
        Transport::Export => "export",
        _ => "other",
    }
}

/// Label of a duty.
pub(crate) fn kind(duty: &Duty) -> &'static str {
    match duty.kind {
        DutyKind::Attach(_) => "attach",
        DutyKind::Snapshot(_) => "snapshot",
        DutyKind::Guard(_) => "guard",
        DutyKind::Export(_) => "export",
    }
}

/// A code from a record, which may be of another release; empty: it went well.
fn outcome(code: &str) -> &'static str {
    if code.is_empty() { OK } else { crate::reason::by_code(code).map_or("unknown", |known| known.code) }
}

fn failure(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Tls => "tls",
        ErrorKind::Unauthorized => "unauthorized",
        ErrorKind::LoginHeld => "login_held",
        ErrorKind::Fault(_) => "fault",
        ErrorKind::Protocol => "protocol",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::Deadline => "deadline",
        ErrorKind::UnknownOutcome => "unknown_outcome",
        ErrorKind::TaskGone => "task_gone",
        ErrorKind::LeaseGone => "lease_gone",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Unsupported => "unsupported",
        _ => "other",
    }
}
