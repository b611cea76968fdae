//! What the fake agent says: events, results, and whole scripts of them.
use super::*;

pub const BLOCK: u32 = 64 << 10;
pub const B: u64 = BLOCK as u64;
pub const CAPACITY: u64 = 4 * B + 512;

/// What the fake does on BackupVm, one after the other.
#[derive(Debug, Clone)]
pub enum Step {
    Say(Box<JobEvent>),
    /// Waits until the client has gone.
    Hang,
    Cut(Status),
}

/// The run of the fake.
pub const RUN: &str = "3f6c2f0e-run";

pub fn say(item: Item) -> Step {
    Step::Say(Box::new(JobEvent { item: Some(item) }))
}

/// All answers of the fake.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub refuse: Option<Status>,
    pub steps: Vec<Step>,
    /// Of every BackupVm after the first; empty: the same.
    pub again: Vec<Step>,
    /// Answer of GetJob; `None`: no such job.
    pub job: Option<JobResult>,
    /// GetJob says "running" this often first.
    pub running: usize,
    pub duties: usize,
    /// GetInfo announces clone tickets.
    pub tickets: bool,
    /// What WatchEvents tells, numbered from 1, before it ends.
    pub events: Vec<EventKind>,
}

pub fn reason(code: &str, cleanup: Cleanup) -> Reason {
    Reason {
        code: code.into(),
        message: format!("{code} happened"),
        next_step: "mend it".into(),
        cleanup: cleanup.into(),
        ..Reason::default()
    }
}

pub fn typed(code: Code, id: &str, cleanup: Cleanup) -> Status {
    to_status(code, &reason(id, cleanup), None)
}

pub fn facts(key: i32) -> DiskFacts {
    DiskFacts {
        device_key: key,
        label: format!("Hard disk {}", key - 1999),
        backing: format!("[ds] web01/web01_{key}.vmdk"),
        capacity_bytes: CAPACITY,
        uuid: "6000c29".into(),
        change_id: String::new(),
        datastore: "ds".into(),
        controller: "scsi0:1".into(),
    }
}

/// The frame number `index` of the disks of the good script: blocks 1 and 2 are zero, the last one is short.
pub fn frame(key: i32, index: u64) -> Frame {
    let length = if index == 4 { 512 } else { BLOCK };
    let zero = matches!(index, 1 | 2);
    let content = content(key, index);
    let blake3 = blake3::hash(&content).as_bytes().to_vec().into();
    let data = if zero { Vec::new() } else { content };
    Frame { device_key: key, offset: index * B, length, zero, data: data.into(), blake3, ..Frame::default() }
}

fn content(key: i32, index: u64) -> Vec<u8> {
    let length = if index == 4 { 512 } else { BLOCK as usize };
    let byte = if matches!(index, 1 | 2) { 0 } else { u8::try_from((key as u64 + index) % 255 + 1).unwrap() };
    vec![byte; length]
}

/// What the image of a disk must be.
pub fn image(key: i32) -> Vec<u8> {
    (0..5).flat_map(|index| content(key, index)).collect()
}

pub fn disk_ok(key: i32) -> DiskResult {
    DiskResult {
        disk: Some(facts(key)),
        ok: true,
        engine: "preadv".into(),
        engine_refusals: vec!["io_uring: EPERM (kernel.io_uring_disabled=2)".into()],
        bytes_read: CAPACITY,
        bytes_sent: 2 * B + 512,
        zero_bytes: 2 * B,
        timings: Some(Timings {
            attach_us: 1000,
            discover_us: 200,
            first_byte_us: 30,
            transfer_us: 4_000_000,
            detach_us: 500,
        }),
        transport: Transport::Hotadd.into(),
        ..Default::default()
    }
}

pub fn disk_failed(key: i32) -> DiskResult {
    DiskResult { disk: Some(facts(key)), reasons: vec![reason("HA-ATT-009", Cleanup::Done)], ..Default::default() }
}

pub fn job(state: JobState, cleanup: Cleanup, disks: Vec<DiskResult>) -> JobResult {
    let failed = state == JobState::Failed;
    JobResult {
        job_id: "job-1".into(),
        request_id: "req".into(),
        state: state.into(),
        vm_moref: "vm-42".into(),
        vm_name: "web 01/é".into(),
        snapshot: Some(SnapshotResult {
            moref: "snapshot-7".into(),
            reached: Consistency::Crash.into(),
            fault: None,
            ours: true,
        }),
        disks,
        reasons: if failed { vec![reason("HA-JOB-003", cleanup)] } else { Vec::new() },
        cleanup: cleanup.into(),
        started: "2026-01-01T00:00:00Z".into(),
        ended: "2026-01-01T00:01:00Z".into(),
        phase: if failed { Phase::Attach } else { Phase::Done }.into(),
        ..JobResult::default()
    }
}

pub const NAME: &str = "web_01__";

/// Job id, preflight, snapshot.
pub fn prologue(keys: &[i32]) -> Vec<Step> {
    let disks = keys
        .iter()
        .map(|&key| DiskPlan { disk: Some(facts(key)), transport: Transport::Hotadd.into(), reasons: Vec::new() })
        .collect();
    let phase = |phase: Phase, finished| {
        say(Item::Phase(PhaseEvent { phase: phase.into(), finished, duration_us: 1500, note: String::new() }))
    };
    vec![
        say(Item::JobId("job-1".into())),
        phase(Phase::Preflight, false),
        say(Item::Preflight(Preflight {
            vm_moref: "vm-42".into(),
            vm_name: "web 01/é".into(),
            power_state: "poweredOn".into(),
            disks,
        })),
        phase(Phase::Preflight, true),
    ]
}

pub fn opened(key: i32) -> Step {
    opened_by(key, Transport::Hotadd, "preadv", CAPACITY)
}

pub fn opened_by(key: i32, transport: Transport, engine: &str, bytes_required: u64) -> Step {
    let (disk, engine, transport) = (Some(facts(key)), engine.to_owned(), transport.into());
    say(Item::Opened(DiskOpened { disk, engine, bytes_required, transport, map: None }))
}

impl Script {
    /// As the agent does: of its own run what came after, of another run all that it has.
    pub fn watched(&self, request: &WatchEventsRequest) -> Vec<Event> {
        let last = self.events.len() as u64;
        let after = match request.run.as_str() {
            "" => last,
            RUN => request.after,
            _ => 0,
        };
        let watching = Event { kind: EventKind::Watching.into(), sequence: after, run: RUN.into(), ..Event::default() };
        let event = |(sequence, kind): (u64, &EventKind)| Event {
            kind: (*kind).into(),
            sequence,
            id: format!("id-{sequence}"),
            ..Event::default()
        };
        let rest = (1..).zip(&self.events).filter(|(sequence, _)| *sequence > after).map(event);
        std::iter::once(watching).chain(rest).collect()
    }

    /// A whole backup of two disks, frames interleaved.
    pub fn good() -> Self {
        let mut steps = prologue(&[2000, 2001]);
        steps.extend([opened(2000), opened(2001)]);
        for index in 0..5 {
            steps.extend([2000, 2001].map(|key| say(Item::Frame(frame(key, index)))));
        }
        steps.extend([2000, 2001].map(|key| say(Item::DiskRead(disk_ok(key)))));
        let result = job(JobState::Ok, Cleanup::Done, vec![disk_ok(2000), disk_ok(2001)]);
        steps.push(say(Item::Result(result)));
        // A client that gives up is told by GetJob that everything was detached.
        let job = Some(job(JobState::Failed, Cleanup::Done, Vec::new()));
        Self { steps, job, running: 1, ..Self::default() }
    }

    /// The good script with the frame `index` of disk 2000 replaced by these.
    pub fn with_frames(index: u64, frames: Vec<Frame>) -> Self {
        let mut script = Self::good();
        let at =
            script.position(|item| matches!(item, Item::Frame(f) if f.device_key == 2000 && f.offset == index * B));
        script.steps.splice(at..=at, frames.into_iter().map(|frame| say(Item::Frame(frame))));
        script
    }

    /// The good script up to its result, which is replaced.
    pub fn ending(end: Vec<Step>) -> Self {
        let mut script = Self::good();
        script.steps.pop();
        script.steps.extend(end);
        script
    }

    pub fn position(&self, wanted: impl Fn(&Item) -> bool) -> usize {
        let found = self.steps.iter().position(|step| match step {
            Step::Say(event) => event.item.as_ref().is_some_and(&wanted),
            _ => false,
        });
        found.unwrap()
    }
}
