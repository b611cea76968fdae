//! The wiring, and the order of starting and stopping. The only module that knows every concrete part.
//!
//! ```text
//! config ▶ locks and journal ▶ vCenter ▶ who am I ▶ settle what is owed ▶ open the port ▶ READY
//! SIGTERM │ SIGINT ▶ STOPPING ▶ refuse new ▶ end sessions and jobs ▶ settle ▶ exit 0 only if nothing is owed
//! ```
use std::{fs::File, path::Path, sync::Arc, time::Duration};

use hotadd_api::v1::EventKind;
use nix::{
    fcntl::Flock,
    sys::{
        prctl::set_dumpable,
        resource::{Resource, setrlimit},
    },
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Door,
    api::{Context, server},
    attach::{Attacher, ProxyVm, Settled, Settler, now},
    audit::Audit,
    config::{Config, OnFailure},
    discover::{Finder, Platform},
    error::{Error, Result},
    hypervisor::{Hypervisor, ProxyFacts, vsphere::Vsphere},
    id::{DutyId, Moref},
    journal::{
        Duty, Journal, JournalError, Opened, Record,
        file::{lock, reconciled},
    },
    metrics::{self, Meter, source::Source},
    plan::Planner,
    reason,
    session::{Manager, Opener, jobs::Jobs},
    systemd,
    transport::{
        Servers,
        vddk::{self, Vddk},
    },
    watchdog,
};

/// Calls that are running get their answers before a fatal end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How long each wait for the settler is before systemd is asked for more time.
const SETTLE_STEP: Duration = Duration::from_secs(15);

/// Everything that runs, before the port is open.
struct Core {
    vm: Arc<ProxyVm>,
    settler: Settler,
    proxy_name: String,
}

/// Runs the daemon until a signal ends it. `platform`: the host; product code has one, tests bring their own.
///
/// # Errors
/// What prevented the start, or what is still owed at the end.
pub async fn serve(config: Config, platform: Arc<dyn Platform>) -> Result<()> {
    // A core would hold the password, ours and that of a child; the unit says so too, other ways to start it don't.
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "a crash may leave a core");
    }
    // The limit does not hold for a core that goes into a pipe (core(5)).
    if let Err(error) = set_dumpable(false) {
        tracing::warn!(%error, "a crash may leave a core");
    }
    let _alone = claim_host(&*platform)?;
    let hangup = heard(SignalKind::hangup())?;
    let core = start(&config, platform, open_journal(&config)?).await?;
    let source = Source::new(Arc::clone(&core.vm), core.settler.clone());
    // Told after the settling: certificates or a port that can't be used leave nothing attached.
    let (connections, meter) = (config.limits.client.connections, core.vm.meter.clone());
    let door = Door::new(&config.tls, config.clients.clone(), connections, meter);
    let metrics = match (&door, config.metrics) {
        (Ok(door), Some(listen)) => metrics::server::open(listen, door, source.clone()).await,
        _ => Ok(()),
    };
    settle_inherited(&core, None).await?;
    // After the settling: what is owed is given back on a system that may take no new disk, or can't serve, too.
    let ready = async {
        hands_off(&core.vm, config.quarantine).await?;
        metrics?;
        Ok((door?, server::bind(config.listen).await?))
    };
    let ready: Result<(Door, TcpListener)> = ready.await;
    if let Err(error) = &ready {
        source.refuses(error);
        // Nobody else settles what is still owed or may still land: a snapshot that is kept, a duty that waits for a person.
        while !core.vm.journal.state().nothing_is_pending() {
            tracing::error!(
                reason = error.reason().code,
                "the port stays closed, and the agent stays for what is owed: {error}"
            );
            systemd::status(&format!("{error}; settling what is owed"));
            systemd::extend(SETTLE_STEP * 4);
            tokio::select! {
                () = sleep(SETTLE_STEP) => {}
                () = core.vm.fatal.cancelled() => return Err(fatal()),
            }
        }
        core.vm.hypervisor.logout().await;
    }
    let (door, listener) = ready?;
    let Core { vm, settler, proxy_name } = core;
    let planner = Arc::new(Planner::new(config.plan.clone(), &config.state_dir));
    let attacher = Attacher::new(Arc::clone(&vm), settler.clone());
    let servers = Servers::new(config.nbd.clone(), vddk(&config, &vm).await);
    let export = config.export.clone();
    let manager = Manager::start(Opener { vm: Arc::clone(&vm), attacher, settler, planner, servers, export });
    let jobs = Jobs::new(manager.clone());
    source.works(manager.clone(), jobs.clone());
    let context = Context { manager, jobs, engines: config.engines.clone(), proxy_name };
    vm.supervise("keep-alive panicked", keep_alive(Arc::clone(&vm)));
    vm.supervise("the watch of certificates panicked", door.clone().watch(hangup));
    vm.supervise("the audit log's reopening panicked", reopen(vm.audit.clone(), heard(SignalKind::hangup())?));
    let ended = run(listener, &config, &door, context).await;
    vm.traces.flush().await;
    vm.audit.flush();
    ended?;
    // Those of jobs that have ended.
    vm.farewells.close();
    if timeout(vm.deadlines.call, vm.farewells.wait()).await.is_err() {
        tracing::warn!("cloned vCenter sessions are left to end by themselves");
    }
    vm.hypervisor.logout().await;
    Ok(())
}

/// Settles what an agent that died left behind, at most `patience`; opens no port.
///
/// # Errors
/// What prevented it, or [`reason::DUTY_OWED`].
pub async fn reap(config: Config, platform: Arc<dyn Platform>, patience: Duration) -> Result<()> {
    let _alone = claim_host(&*platform)?;
    let (journal, opened) = open_journal(&config)?;
    // Nothing owed, and nothing may still land: vCenter need not be asked, so that stopping a service never depends on the network.
    if journal.state().nothing_is_pending() && !opened.unreconciled {
        return Ok(());
    }
    let work = async {
        let core = start(&config, platform, (journal, opened)).await?;
        settle_inherited(&core, Some(patience)).await?;
        // What landed late is owed again.
        let looked = core.settler.late_looked_at().await;
        settle_inherited(&core, Some(patience)).await?;
        core.vm.hypervisor.logout().await;
        core.vm.audit.flush();
        looked
    };
    let owed = || Error::new(&reason::DUTY_OWED, format!("not settled within {} s", patience.as_secs())).owing();
    timeout(patience, work).await.unwrap_or_else(|_| Err(owed()))
}

/// Refuses to serve, or warns, when something of this system may touch the disks that the agent attaches.
async fn hands_off(vm: &ProxyVm, on_failure: OnFailure) -> Result<()> {
    let platform = Arc::clone(&vm.platform);
    let findings = tokio::task::spawn_blocking(move || platform.quarantine()).await?;
    for finding in &findings {
        tracing::warn!(reason = finding.code, next = finding.next_step, "quarantine: {}", finding.what);
    }
    if findings.is_empty() || on_failure == OnFailure::Warn {
        return Ok(());
    }
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(Error::new(&reason::QUA_FAILED, told.join("; ")))
}

/// The user's VDDK, if there is a table for it; what an earlier run left of it is removed.
async fn vddk(config: &Config, vm: &ProxyVm) -> Option<Vddk> {
    let runtime = vm.platform.lock_file().parent().map(Path::to_path_buf).unwrap_or_default();
    if let Err(error) = vddk::sweep(&runtime) {
        tracing::warn!(folder = %runtime.display(), %error, "what an earlier run left there stays");
    }
    let settings = config.vddk.clone()?;
    let (hypervisor, readers) = (Arc::clone(&vm.hypervisor), vm.readers.clone());
    let vddk = Vddk::new(settings, config.vcenter.clone(), hypervisor, readers, runtime);
    match vddk.release().await {
        Ok(release) => tracing::info!(release = release.map(|r| r.to_string()), "VDDK is there"),
        Err(error) => tracing::warn!(%error, "disks that can't be attached have no VDDK"),
    }
    Some(vddk)
}

/// The journal's own lock keeps a second agent from the same folder only.
fn claim_host(platform: &dyn Platform) -> Result<Flock<File>> {
    let path = platform.lock_file();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::new(&reason::CFG_INVALID, folder.display().to_string()).with_source(e))?;
    }
    lock(&path).map_err(|e| match e {
        JournalError::Locked { path } => Error::new(&reason::CFG_SECOND, format!("it holds {}", path.display())),
        other => journal_error(other),
    })
}

fn open_journal(config: &Config) -> Result<(Journal, Opened)> {
    Journal::open(&config.state_dir).map_err(journal_error)
}

fn journal_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(&reason::DUTY_JOURNAL, "").with_source(error)
}

async fn start(config: &Config, platform: Arc<dyn Platform>, journal: (Journal, Opened)) -> Result<Core> {
    let (journal, opened) = journal;
    report(&opened);
    let started = Record::Started { at: now(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let owing = !journal.state().nothing_is_pending() || opened.unreconciled;
    match journal.append(&[started]).map_err(journal_error) {
        // A disk that is full must not keep what is owed attached: giving back needs no record, only its proof does.
        Err(error) if owing => {
            tracing::error!(%error, "nothing can be journalled; what is owed is given back all the same")
        }
        other => other?,
    }
    let meter = Meter::default();
    let (hypervisor, proxy) = meet(config, &platform, &meter, owing).await?;
    let about = hypervisor.about();
    tracing::info!(proxy = proxy.name, moref = %proxy.moref, vcenter = about.name, "this is the proxy");
    refuse_duties_of_another(&journal, about.instance_uuid.as_deref(), &proxy.moref)?;
    let finder = Finder::new(Arc::clone(&platform))?;
    let vm = Arc::new(ProxyVm::new(&proxy, config, hypervisor, platform, journal, finder, meter));
    vm.supervise("the watch of the login panicked", tell_login(Arc::clone(&vm)));
    if opened.unreconciled {
        warn_of_strangers(&vm).await?;
        reconciled(&config.state_dir).map_err(journal_error)?;
    }
    Ok(Core { settler: Settler::start(Arc::clone(&vm)), vm, proxy_name: proxy.name })
}

fn report(opened: &Opened) {
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "the journal ended in a torn record, which was cut");
    }
    if let Some((aside, what)) = &opened.damage {
        tracing::error!(file = %aside.display(), what, "the journal was damaged; a copy was kept");
    }
}

/// Morefs, device keys and slots mean something in one vCenter and on one proxy only: elsewhere they would name
/// somebody else's disks, and absence there would be no proof.
fn refuse_duties_of_another(journal: &Journal, vcenter: Option<&str>, proxy: &Moref) -> Result<()> {
    let state = journal.state();
    match state.duties().find(|duty| duty.is_of_another(vcenter, proxy)) {
        None => Ok(()),
        Some(duty) => {
            let then =
                (duty.vcenter.as_deref().unwrap_or("unknown"), duty.proxy.as_ref().map_or("unknown", Moref::as_str));
            let detail = format!(
                "duty {} of {} was begun on vCenter {} by proxy {}; this is {} and {proxy}",
                duty.id,
                duty.vm_name,
                then.0,
                then.1,
                vcenter.unwrap_or("unknown")
            );
            Err(Error::new(&reason::VC_OTHER, detail).owing())
        }
    }
}

/// After damage a duty may be forgotten: every nonpersistent disk that no duty names is told to the operator. It is not
/// touched, because nothing proves that it is ours.
async fn warn_of_strangers(vm: &ProxyVm) -> Result<()> {
    let proxy = vm.facts().await?;
    let named = vm.named_slots();
    for disk in proxy.disks.iter().filter(|disk| disk.nonpersistent && disk.slot.is_none_or(|s| !named.contains(&s))) {
        let file = disk.chain.first().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            key = disk.device_key,
            file,
            "an attached disk that no journal record names; detach it by hand if no other program uses it"
        );
    }
    tracing::error!(
        "snapshots of this agent may be forgotten too: look for snapshots named \"hotadd-agent …\" on the VMs that it backed up"
    );
    Ok(())
}

/// Connects, logs in and finds out which VM this is. An unreachable vCenter is waited for. While something is owed, so is
/// everything else but a wrong configuration: an agent that gave up would leave it attached. A refused login is tried
/// rarely, since it may lock the account.
async fn meet(
    config: &Config,
    platform: &Arc<dyn Platform>,
    meter: &Meter,
    owing: bool,
) -> Result<(Arc<dyn Hypervisor>, ProxyFacts)> {
    let reconnect = config.deadlines.reconnect;
    let mut pause = reconnect;
    loop {
        let error = match meet_once(config, platform, meter).await {
            Ok(met) => return Ok(met),
            Err(error) => error,
        };
        let why = error.reason();
        if *why == reason::CFG_INVALID || (!owing && *why != reason::VC_UNREACHABLE) {
            return Err(error);
        }
        if *why != reason::VC_UNREACHABLE {
            pause = (pause * 2).min(reconnect * 12);
        }
        let refused = [reason::VC_LOGIN.code, reason::VC_LOGIN_HELD.code].contains(&why.code);
        let wait = if refused { config.deadlines.login } else { pause };
        systemd::status(&format!("waiting for vCenter: {}", error.message()));
        systemd::extend(wait + SETTLE_STEP * 2);
        tracing::warn!(%error, owing, pause_s = wait.as_secs(), "vCenter can't be used yet; trying again");
        tokio::time::sleep(wait).await;
    }
}

async fn meet_once(
    config: &Config,
    platform: &Arc<dyn Platform>,
    meter: &Meter,
) -> Result<(Arc<dyn Hypervisor>, ProxyFacts)> {
    let calls = meter.clone();
    let observer: hotadd_vsphere::Observer = Arc::new(move |call| calls.called(call));
    let connected = Vsphere::connect(&config.vcenter, &config.deadlines, Some(observer)).await?;
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(connected);
    let host = platform.identity().map_err(|e| Error::new(&reason::CFG_IDENTITY, "DMI").with_source(e))?;
    let moref = hypervisor.identify(&host).await?;
    let facts = hypervisor.proxy(&moref).await?;
    Ok((hypervisor, facts))
}

/// Waits until every duty of an earlier run is retired. `patience`: `None` waits as long as waiting can help; what only a
/// person can heal is then listed, and its VM, UUID and slot stay refused while the rest is served.
async fn settle_inherited(core: &Core, patience: Option<Duration>) -> Result<()> {
    let state = core.vm.journal.state();
    let (kept, inherited): (Vec<&Duty>, Vec<&Duty>) =
        state.duties().partition(|duty| duty.snapshot().is_some_and(|snapshot| snapshot.kept().is_some()));
    // Settled when their time is over, or taken over by a job that resumes: not waited for.
    for duty in kept {
        tracing::warn!(duty = %duty.id, vm = duty.vm_name, "a snapshot is kept for a job that resumes");
        core.settler.hand_over(duty.id);
    }
    let inherited: Vec<DutyId> = inherited.iter().map(|duty| duty.id).collect();
    if inherited.is_empty() {
        return Ok(());
    }
    tracing::warn!(duties = inherited.len(), "settling what an earlier run left");
    let end = patience.map(|p| Instant::now() + p);
    let mut doubtful_since = None;
    loop {
        systemd::status(&format!("settling {} duties of an earlier run", inherited.len()));
        systemd::extend(SETTLE_STEP * 4);
        let settled = tokio::select! {
            settled = core.settler.settle(&inherited, SETTLE_STEP) => settled,
            () = core.vm.fatal.cancelled() => return Err(fatal()),
        };
        let Settled::Owed(error) = settled else { return Ok(()) };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(error);
        }
        // Disks keep the port closed as long as waiting can help; a snapshot or a guard of one sick VM does not for ever.
        let state = core.vm.journal.state();
        let disks = inherited.iter().any(|id| state.get(*id).is_some_and(|duty| duty.attach().is_some()));
        if disks && !core.settler.all_doubtful(&inherited) {
            doubtful_since = None;
        } else if doubtful_since.get_or_insert_with(Instant::now).elapsed() >= core.vm.deadlines.doubt && end.is_none()
        {
            tracing::error!(%error, "what an earlier run left needs a person; serving all the same, see ListDuties");
            return Ok(());
        }
        tracing::warn!(%error, "still settling; the port stays closed");
    }
}

fn fatal() -> Error {
    Error::new(&reason::INTERNAL, "the agent can't go on; the next start settles what is owed").owing()
}

/// Log rotation has moved the file when it says SIGHUP.
async fn reopen(audit: Audit, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        audit.reopen();
    }
}

/// From now on this signal ends nothing by itself.
fn heard(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::new(&reason::INTERNAL, "signals").with_source(e))
}

async fn run(listener: TcpListener, config: &Config, door: &Door, context: Context) -> Result<()> {
    let stop = CancellationToken::new();
    let failed = |e| Error::new(&reason::INTERNAL, "signals").with_source(e);
    let (mut term, mut interrupt) = (heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?);
    let address = listener.local_addr().map_err(failed)?;
    let (manager, jobs) = (context.manager.clone(), context.jobs.clone());
    let (vm, settler) = (Arc::clone(&manager.opener().vm), manager.opener().settler.clone());
    let serving = server::serve(listener, door, context, stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    systemd::status(&format!("serving on {address}"));
    systemd::ready();
    if let Some(period) = watchdog::period() {
        vm.supervise("the watchdog's feeder panicked", watchdog::feed(period, settler, vm.deadlines.stall));
    }
    tracing::info!(%address, "serving");
    tokio::select! {
        ended = &mut serving => {
            tracing::error!(?ended, "the server ended by itself");
            drain(&manager, &jobs, config.deadlines.drain).await?;
            return ended.and(Err(Error::new(&reason::INTERNAL, "the server ended by itself")));
        }
        () = vm.fatal.cancelled() => {
            stop.cancel();
            drop(timeout(LAST_ANSWERS, serving).await);
            return Err(fatal());
        }
        _ = term.recv() => tracing::info!("SIGTERM: detaching everything"),
        _ = interrupt.recv() => tracing::info!("SIGINT: detaching everything"),
    }
    systemd::stopping();
    systemd::extend(config.deadlines.drain + SETTLE_STEP);
    // Calls go on while draining, so that controllers can read how their jobs ended.
    let drained = tokio::select! {
        drained = drain(&manager, &jobs, config.deadlines.drain) => drained,
        ended = &mut serving => ended,
        () = vm.fatal.cancelled() => Err(fatal()),
    };
    vm.events.close();
    stop.cancel();
    // Streams of clients that do not go away must not hold the exit.
    drop(timeout(SETTLE_STEP, serving).await);
    drained
}

async fn drain(manager: &Manager, jobs: &Jobs, patience: Duration) -> Result<()> {
    let all = async {
        tokio::join!(manager.drain(), async {
            manager.draining().cancelled().await;
            jobs.wait_idle().await;
        });
        let opener = manager.opener();
        let open: Vec<DutyId> = opener.vm.journal.state().duties().map(|duty| duty.id).collect();
        opener.settler.settle(&open, patience).await
    };
    let settled = timeout(patience, all).await;
    // What counts at the end is the journal, whatever the way there told.
    if manager.opener().vm.journal.state().is_empty() {
        return Ok(());
    }
    match settled {
        Ok(Settled::Owed(error)) => Err(error),
        Ok(Settled::Done) => Err(Error::new(&reason::DUTY_OWED, "something was begun while stopping").owing()),
        Err(_) => Err(Error::new(&reason::DUTY_OWED, "the time to stop ran out; the next start settles").owing()),
    }
}

/// A refused login is an alarm: nothing can be detached meanwhile. Into the log, the event stream, and the journal of every
/// open duty.
async fn tell_login(vm: Arc<ProxyVm>) {
    let mut known = None;
    loop {
        known = vm.hypervisor.login_change(known.as_deref()).await;
        vm.meter.login(known.is_some());
        let Some(why) = &known else {
            tracing::info!("vCenter takes the login again");
            vm.events.send(EventKind::Login, "", "", None);
            continue;
        };
        let error = Error::new(&reason::VC_LOGIN_HELD, why);
        tracing::error!(reason = error.reason().code, %error, "nothing can be attached or detached until vCenter takes the login");
        vm.events.send(EventKind::Login, "", "", Some(&error));
        let alarm = |duty: &Duty| Record::Alarm { duty: duty.id, at: now(), why: error.to_string() };
        let alarms = vm.journal.state().duties().map(alarm).collect();
        for (_, error) in vm.record_each(alarms).await {
            tracing::warn!(%error, "an alarm could not be journalled");
        }
    }
}

async fn keep_alive(vm: Arc<ProxyVm>) {
    let mut clock = tokio::time::interval(vm.deadlines.keep_alive);
    loop {
        clock.tick().await;
        if let Err(error) = vm.hypervisor.keep_alive().await {
            tracing::warn!(%error, "keep-alive of the vCenter session failed");
        } else if let Err(error) = vm.facts().await {
            // For who may not ask: the status page.
            tracing::debug!(%error, "the proxy can't be read");
        }
    }
}
