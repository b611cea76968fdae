//! The wiring, and the order of starting and stopping. The only module that knows every concrete part.
//!
//! ```text
//! config ▶ lock and journal ▶ vCenter ▶ who am I ▶ settle what is owed ▶ open the port ▶ READY
//! SIGTERM │ SIGINT ▶ STOPPING ▶ refuse new ▶ end sessions and jobs ▶ settle ▶ exit 0 only if nothing is owed
//! ```
use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Context, server},
    attach::{Attacher, ProxyVm, Settled, Settler, now},
    config::Config,
    discover::{Finder, Platform},
    error::{Error, Result},
    hypervisor::{Hypervisor, vsphere::Vsphere},
    id::DutyId,
    journal::{Journal, Opened, Record},
    reason,
    session::{Manager, Opener, job::Jobs},
    systemd,
};

/// Between two tries to reach vCenter while starting.
const RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// Default idle limit of a vCenter session is 30 minutes; well below it.
const KEEP_ALIVE: Duration = Duration::from_secs(300);
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
    let core = start(&config, platform).await?;
    settle_inherited(&core, None).await?;
    let listener = server::bind(config.listen).await?;
    let Core { vm, settler, proxy_name } = core;
    let attacher = Attacher::new(Arc::clone(&vm), settler.clone());
    let manager = Manager::start(Opener { vm: Arc::clone(&vm), attacher, settler });
    let jobs = Jobs::new(manager.clone());
    let context = Context { manager, jobs, engines: config.engines.clone(), proxy_name };
    tokio::spawn(keep_alive(Arc::clone(&vm)));
    run(listener, &config, context).await?;
    vm.hypervisor.logout().await;
    Ok(())
}

/// Settles what an agent that died left behind, at most `patience`; opens no port.
///
/// # Errors
/// What prevented it, or [`reason::DUTY_OWED`].
pub async fn reap(config: Config, platform: Arc<dyn Platform>, patience: Duration) -> Result<()> {
    // Nothing owed: vCenter need not be asked, so that stopping a service never depends on the network.
    {
        let (journal, opened) = open_journal(&config)?;
        if journal.state().is_empty() && opened.damage.is_none() {
            return Ok(());
        }
    }
    let work = async {
        let core = start(&config, platform).await?;
        settle_inherited(&core, Some(patience)).await?;
        core.vm.hypervisor.logout().await;
        Ok(())
    };
    let owed = || Error::new(&reason::DUTY_OWED, format!("not settled within {} s", patience.as_secs())).owing();
    timeout(patience, work).await.unwrap_or_else(|_| Err(owed()))
}

fn open_journal(config: &Config) -> Result<(Journal, Opened)> {
    Journal::open(&config.state_dir).map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))
}

async fn start(config: &Config, platform: Arc<dyn Platform>) -> Result<Core> {
    let (journal, opened) = open_journal(config)?;
    report(&opened);
    let started = Record::Started { at: now(), version: env!("CARGO_PKG_VERSION").to_owned() };
    journal.append(&[started]).map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))?;
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(connect(config).await?);
    let host = platform.identity().map_err(|e| Error::new(&reason::CFG_IDENTITY, "DMI").with_source(e))?;
    let moref = hypervisor.identify(&host).await?;
    let proxy_name = hypervisor.proxy(&moref).await?.name;
    tracing::info!(proxy = proxy_name, %moref, vcenter = hypervisor.about().name, "this is the proxy");
    let finder = Finder::new(Arc::clone(&platform))?;
    let (limits, deadlines) = (config.limits.clone(), config.deadlines.clone());
    let own = config.own_disks.clone();
    let vm = Arc::new(ProxyVm::new(moref, hypervisor, platform, journal, finder, limits, deadlines, own));
    if opened.damage.is_some() {
        warn_of_strangers(&vm).await?;
    }
    Ok(Core { settler: Settler::start(Arc::clone(&vm)), vm, proxy_name })
}

fn report(opened: &Opened) {
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "the journal ended in a torn record, which was cut");
    }
    if let Some((aside, what)) = &opened.damage {
        tracing::error!(file = %aside.display(), what, "the journal was damaged; a copy was kept");
    }
}

/// After damage a duty may be forgotten: every nonpersistent disk that no duty names is told to the operator. It is not
/// touched, because nothing proves that it is ours.
async fn warn_of_strangers(vm: &ProxyVm) -> Result<()> {
    let proxy = vm.facts().await?;
    let state = vm.journal.state();
    for disk in proxy.disks.iter().filter(|disk| disk.nonpersistent) {
        let named = state.duties().any(|d| d.attach().is_some_and(|a| Some(a.slot) == disk.slot));
        if !named {
            let file = disk.chain.first().map(ToString::to_string).unwrap_or_default();
            tracing::error!(
                key = disk.device_key,
                file,
                "an attached disk that no journal record names; detach it by hand if no other program uses it"
            );
        }
    }
    Ok(())
}

/// An unreachable vCenter is waited for; a refused login or certificate is not.
async fn connect(config: &Config) -> Result<Vsphere> {
    loop {
        match Vsphere::connect(&config.vcenter, &config.deadlines).await {
            Err(error) if *error.reason() == reason::VC_UNREACHABLE => {
                systemd::status(&format!("waiting for vCenter: {}", error.message()));
                systemd::extend(RECONNECT_PAUSE * 4);
                tracing::warn!(%error, "vCenter is unreachable; trying again");
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Waits until every duty of an earlier run is retired. `patience`: `None` waits as long as it takes.
async fn settle_inherited(core: &Core, patience: Option<Duration>) -> Result<()> {
    let inherited: Vec<DutyId> = core.vm.journal.state().duties().map(|duty| duty.id).collect();
    if inherited.is_empty() {
        return Ok(());
    }
    tracing::warn!(duties = inherited.len(), "settling what an earlier run left");
    let end = patience.map(|p| Instant::now() + p);
    loop {
        systemd::status(&format!("settling {} duties of an earlier run", inherited.len()));
        systemd::extend(SETTLE_STEP * 4);
        match core.settler.settle(&inherited, SETTLE_STEP).await {
            Settled::Done => return Ok(()),
            Settled::Owed(error) if end.is_some_and(|end| Instant::now() >= end) => return Err(error),
            Settled::Owed(error) => tracing::warn!(%error, "still settling; the port stays closed"),
        }
    }
}

async fn run(listener: TcpListener, config: &Config, context: Context) -> Result<()> {
    let stop = CancellationToken::new();
    let failed = |e| Error::new(&reason::INTERNAL, "signals").with_source(e);
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (manager, jobs) = (context.manager.clone(), context.jobs.clone());
    let serving = server::serve(listener, &config.tls, context, stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    systemd::status(&format!("serving on {address}"));
    systemd::ready();
    tracing::info!(%address, "serving");
    tokio::select! {
        ended = &mut serving => {
            tracing::error!(?ended, "the server ended by itself");
            drain(&manager, &jobs, config.deadlines.drain).await?;
            return ended.and(Err(Error::new(&reason::INTERNAL, "the server ended by itself")));
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
    };
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
    match timeout(patience, all).await {
        Ok(Settled::Done) => Ok(()),
        Ok(Settled::Owed(error)) => Err(error),
        Err(_) => Err(Error::new(&reason::DUTY_OWED, "the time to stop ran out; the next start settles").owing()),
    }
}

async fn keep_alive(vm: Arc<ProxyVm>) {
    let mut clock = tokio::time::interval(KEEP_ALIVE);
    loop {
        clock.tick().await;
        if let Err(error) = vm.hypervisor.keep_alive().await {
            tracing::warn!(%error, "keep-alive of the vCenter session failed");
        }
    }
}
