//! The page that a person reads at night: what the agent holds, reads and owes, as one [`Snapshot`], and the page that shows it ([`page`]).
//! Asks neither vCenter nor a disk. Every list is bounded and says what is left out; names are what vCenter and clients say, so whoever shows
//! them treats them as text. Its form is in [`shape`], whether somebody has to act is decided in [`verdict`], whose a
//! slot is in [`slots`].
pub mod page;
mod shape;
pub mod slots;
#[cfg(test)]
mod tests;
pub mod verdict;

use std::time::Duration;

use hotadd_api::v1::{self, EventKind, Stages, Transport};

pub use self::shape::{Agent, Bytes, Disk, Duty, Event, List, Reads, Row, Slots, Snapshot, StageTimes, State};
use self::verdict::{Facts, Settling, judge};
use crate::{
    attach::{ProxyVm, Settler, now},
    journal::{self, DutyKind, DutyPhase},
    metrics::{gauges, kind, way},
    session::{Manager, Work, jobs::Jobs},
    transport::tally::{DiskTally, WAYS},
};

/// How much is shown: what a phone loads every two seconds, and more than a person reads.
mod bound {
    pub(super) const WORK: usize = 64;
    pub(super) const DISKS: usize = 64;
    pub(super) const DUTIES: usize = 128;
    pub(super) const EVENTS: usize = 40;
    /// vSphere allows four.
    pub(super) const CONTROLLERS: usize = 8;
    pub(super) const UNITS: usize = 65;
    /// Bytes of one text. Names in vCenter have 80 characters.
    pub(super) const TEXT: usize = 600;
}

/// Where it is all read from.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    pub vm: &'a ProxyVm,
    pub settler: &'a Settler,
    /// Once the agent takes work.
    pub work: Option<&'a (Manager, Jobs)>,
    pub refused: Option<&'a str>,
    pub up: Duration,
}

impl Snapshot {
    #[must_use]
    pub fn of(places: Places<'_>) -> Self {
        let Places { vm, settler, work, refused, up } = places;
        let state = vm.journal.state();
        let draining = work.is_some_and(|(manager, _)| manager.is_closed_to_new());
        let rows = rows(vm, &state, work);
        let (seen, proxy) = vm.last_seen();
        let (newest, older) = vm.events.newest(bound::EVENTS);
        let late = state.late().count();
        let controllers = slots::map(&proxy, &state, &vm.listed_own);
        let patience = 2 * vm.deadlines.keep_alive + vm.deadlines.call;
        let findings = judge(&Facts {
            refused: refused.map(clip),
            login_refused: vm.meter.login_is_refused(),
            serving: work.is_some(),
            draining,
            up,
            // A login that is refused is an answer, and nobody asks until it is taken again.
            unheard: vm.meter.unheard(patience).filter(|_| !vm.meter.login_is_refused()),
            strangers: slots::strangers(&controllers),
            kept: state.duties().filter(|duty| is_kept(duty)).count(),
            owes: state.duties().next().is_some(),
            running: work.map_or(0, |(manager, jobs)| jobs.running() + manager.open_sessions()),
            late,
            settling: settling(&state, settler),
        });
        Self {
            agent: Agent {
                version: env!("CARGO_PKG_VERSION"),
                host: host(),
                proxy: clip(&proxy.name),
                moref: vm.moref.to_string(),
                vcenter: clip(&vm.hypervisor.about().name),
                time: now(),
                up_ms: u64::try_from(up.as_millis()).unwrap_or(u64::MAX),
            },
            state: match work {
                _ if refused.is_some() => State::Refused,
                None => State::Starting,
                Some(_) if draining => State::Draining,
                Some(_) => State::Serving,
            },
            findings,
            work: rows,
            reads: reads(vm),
            duties: duties(&state, settler),
            late,
            slots: Slots { seen_seconds: seen.as_secs(), reserved: vm.reservations.kept_from(None), controllers },
            events: List { items: newest.into_iter().map(event).collect(), left_out: older },
        }
    }
}

fn settling(state: &journal::State, settler: &Settler) -> Vec<Settling> {
    let of = |duty: &journal::Duty| {
        let (age, _) = gauges::settling(duty, settler)?;
        Some(Settling { kind: kind(duty), age, doubtful: settler.is_doubtful(duty.id) })
    };
    state.duties().filter(|duty| !is_kept(duty)).filter_map(of).collect()
}

fn is_kept(duty: &journal::Duty) -> bool {
    duty.snapshot().is_some_and(|snapshot| snapshot.kept().is_some())
}

fn rows(vm: &ProxyVm, state: &journal::State, work: Option<&(Manager, Jobs)>) -> List<Row> {
    let Some((manager, jobs)) = work else { return List { items: Vec::new(), left_out: 0 } };
    let (running, more) = jobs.work(bound::WORK);
    let (sessions, others) = manager.work(bound::WORK - running.len());
    let items = running.into_iter().chain(sessions).map(|work| row(&work, vm.tally.of(work.session), state));
    List { items: items.collect(), left_out: whole(more + others) }
}

/// What was or is read, then what is only opened, then what is attached and has not come so far.
fn row(work: &Work, told: Vec<DiskTally>, state: &journal::State) -> Row {
    let (bytes, required) = (told.iter().map(|disk| disk.bytes).sum(), told.iter().map(|disk| disk.required).sum());
    let read = |key: i32| told.iter().any(|disk| disk.device_key == key);
    let opened = work.disks.iter().filter(|disk| !read(disk.device_key)).map(|disk| Disk {
        label: clip(&disk.label),
        backing: clip(&disk.backing),
        transport: way(disk.transport),
        capacity_bytes: disk.capacity_bytes,
        ..Disk::EMPTY
    });
    let mut all: Vec<Disk> = opened.collect();
    let known = |backing: &str| {
        told.iter().any(|disk| disk.backing == backing) || work.disks.iter().any(|disk| disk.backing == backing)
    };
    for attach in state.duties().filter(|duty| duty.session == work.session).filter_map(journal::Duty::attach) {
        if !known(attach.backing.as_str()) {
            let (backing, capacity_bytes) = (clip(attach.backing.as_str()), attach.capacity_bytes);
            all.push(Disk { backing, transport: way(Transport::Hotadd), capacity_bytes, ..Disk::EMPTY });
        }
    }
    let mut disks: Vec<Disk> = told.into_iter().map(Disk::from).chain(all).collect();
    let left_out = whole(disks.len().saturating_sub(bound::DISKS));
    disks.truncate(bound::DISKS);
    Row {
        kind: work.kind,
        id: work.id.clone(),
        session: work.session.to_string(),
        vm: clip(&work.vm),
        client: clip(&work.client),
        stage: work.stage.clone(),
        seconds: gauges::age(&work.since).as_secs(),
        lease_seconds_left: work.lease_seconds_left,
        bytes,
        required,
        disks: List { items: disks, left_out },
    }
}

impl Disk {
    const EMPTY: Self = Self {
        label: String::new(),
        backing: String::new(),
        transport: "",
        capacity_bytes: 0,
        bytes: 0,
        required: 0,
        reading: 0,
    };
}

impl From<DiskTally> for Disk {
    fn from(told: DiskTally) -> Self {
        Self {
            label: clip(&told.label),
            backing: clip(&told.backing),
            transport: way(told.transport),
            capacity_bytes: told.capacity_bytes,
            bytes: told.bytes,
            required: told.required,
            reading: told.reading,
        }
    }
}

fn reads(vm: &ProxyVm) -> Reads {
    let bytes = vm.tally.bytes();
    let Stages { source_us, agent_us, outlet_us, paced_us } = vm.tally.stages();
    Reads {
        running: vm.tally.running(),
        bytes: std::array::from_fn(|n| Bytes { transport: way(WAYS[n]), bytes: bytes[n] }),
        stages: StageTimes { source_us, agent_us, outlet_us, paced_us },
    }
}

/// What is being settled first, each oldest first.
fn duties(state: &journal::State, settler: &Settler) -> List<Duty> {
    let mut items: Vec<Duty> = state.duties().map(|known| duty(known, settler)).collect();
    items.sort_by_key(|duty| (duty.settling_seconds.is_none(), std::cmp::Reverse(duty.seconds)));
    let left_out = whole(items.len().saturating_sub(bound::DUTIES));
    items.truncate(bound::DUTIES);
    List { items, left_out }
}

fn duty(duty: &journal::Duty, settler: &Settler) -> Duty {
    let settling = gauges::settling(duty, settler);
    let what = match &duty.kind {
        DutyKind::Attach(attach) => attach.backing.to_string(),
        DutyKind::Snapshot(snapshot) => snapshot.name.clone(),
        DutyKind::Guard(guard) => guard.methods.join(", "),
        DutyKind::Export(export) => export.snapshot.to_string(),
    };
    Duty {
        id: duty.id.to_string(),
        kind: kind(duty),
        vm: clip(&duty.vm_name),
        state: match duty.phase {
            _ if is_kept(duty) => "kept",
            _ if settling.is_some() => "settling",
            DutyPhase::Intended => "intended",
            DutyPhase::Held => "held",
        },
        seconds: gauges::age(&duty.since).as_secs(),
        settling_seconds: settling.map(|(since, _)| since.as_secs()),
        tries: settling.map_or(0, |(_, tries)| tries),
        next_seconds: settling.and(settler.next_look()).map(|next| next.as_secs()),
        doubtful: settling.is_some() && settler.is_doubtful(duty.id),
        why: clip(&settler.why(duty.id).unwrap_or_default()),
        what: clip(&what),
    }
}

fn event(event: v1::Event) -> Event {
    let kind = EventKind::try_from(event.kind).unwrap_or_default();
    let reason = event.reason.unwrap_or_default();
    Event {
        number: event.sequence,
        time: event.time,
        kind: kind.as_str_name().trim_start_matches("EVENT_KIND_").to_ascii_lowercase().replace('_', " "),
        vm: clip(&event.vm),
        id: clip(&event.id),
        code: reason.code,
        message: clip(&reason.message),
    }
}

/// At most [`bound::TEXT`] bytes, cut between two characters.
fn clip(text: &str) -> String {
    if text.len() <= bound::TEXT {
        return text.to_owned();
    }
    let end = (0..=bound::TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

fn host() -> String {
    nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

fn whole(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
