//! Whether a proxy and the owners of its disks are at rest: no job can be running, and no agent. Not knowing is not rest.
use std::time::Duration;

use jiff::Timestamp;
use tokio::{net::TcpStream, time::timeout};

use super::FixArgs;
use crate::{
    facts::{Estate, Vm},
    finding::Finding,
};

/// Port of an agent that was configured as documented.
const PORT: u16 = 7443;
const KNOCK: Duration = Duration::from_secs(5);

/// Where the agent of the proxy would answer, as the operator says.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    /// `host:port`.
    pub address: Option<String>,
}

/// Checks everything that stands against a change of this proxy.
pub(super) async fn at_rest(
    estate: &Estate,
    findings: &[&Finding],
    args: &FixArgs,
    agent: &Agent,
) -> Result<(), String> {
    let Some(first) = findings.first() else { return Err("nothing to do".into()) };
    let vm = |moref: &str| estate.vms.iter().find(|vm| vm.object.moref == moref).ok_or("a VM of it is not shown");
    let proxy = vm(&first.object.moref)?;
    seen(estate, proxy)?;
    no_task(proxy)?;
    let changed = proxy.tasks.and_then(|tasks| tasks.reconfigured);
    long_ago(estate, args, "the proxy was reconfigured", changed)?;
    for proof in findings.iter().filter_map(|finding| finding.ours.as_ref()) {
        let owner = vm(&proof.owner)?;
        seen(estate, owner)?;
        no_task(owner)?;
        let snapshot = owner.known_snapshots().find(|s| s.moref == proof.snapshot).ok_or("its snapshot is gone")?;
        let taken = snapshot.taken.ok_or("nobody tells when its snapshot was taken")?;
        long_ago(estate, args, "its snapshot was taken", Some(taken))?;
    }
    nobody_serves(proxy, args, agent).await
}

fn seen(estate: &Estate, vm: &Vm) -> Result<(), String> {
    match estate.blind.iter().find(|blind| blind.object == vm.object) {
        Some(blind) => Err(format!("{} of {} could not be looked at: {}", blind.what, vm.object.name, blind.why)),
        None => Ok(()),
    }
}

fn no_task(vm: &Vm) -> Result<(), String> {
    match vm.tasks {
        None => Err(format!("the tasks of {} can't be read", vm.object.name)),
        Some(tasks) if tasks.running => Err(format!("a task runs on {}", vm.object.name)),
        Some(_) => Ok(()),
    }
}

fn long_ago(estate: &Estate, args: &FixArgs, what: &str, at: Option<Timestamp>) -> Result<(), String> {
    let Some(at) = at else { return Ok(()) };
    let minutes = (estate.now.as_second() - at.as_second()).div_euclid(60);
    if minutes >= i64::from(args.quiet_minutes) {
        return Ok(());
    }
    Err(format!("{what} less than {} min ago: a job may have begun (--quiet-minutes)", args.quiet_minutes))
}

async fn is_open(address: &str) -> bool {
    matches!(timeout(KNOCK, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// A VM that does not run serves nothing. Of one that runs it takes the operator's word; an open port contradicts it. A port that refuses
/// tells nothing: an agent that starts, settles or stops has none open, and it may be another's.
async fn nobody_serves(proxy: &Vm, args: &FixArgs, agent: &Agent) -> Result<(), String> {
    if !proxy.on {
        return Ok(());
    }
    let guessed = match &proxy.address {
        Some(ip) if ip.contains(':') => Some(format!("[{ip}]:{PORT}")),
        Some(ip) => Some(format!("{ip}:{PORT}")),
        None => None,
    };
    for address in agent.address.iter().chain(&guessed) {
        if is_open(address).await {
            return Err(format!("an agent answers at {address}: it detaches by itself; stop it first if it must not"));
        }
    }
    if args.agent_stopped {
        return Ok(());
    }
    Err("the proxy runs, and nobody can tell whether its agent does: stop hotadd-agent there and say so with \
         --agent-stopped"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Blind, Object, Snapshot, Tasks},
        finding::{Proof, Severity},
    };

    const NOW: i64 = 1_800_000_000;

    fn at(minutes_ago: i64) -> Option<Timestamp> {
        Timestamp::from_second(NOW - minutes_ago * 60).ok()
    }

    fn estate() -> Estate {
        let idle = Some(Tasks { running: false, reconfigured: at(60) });
        let vm = |moref: &str| Vm {
            object: Object { name: moref.into(), moref: moref.into() },
            tasks: idle,
            snapshots: Some(vec![Snapshot { moref: "snapshot-1".into(), taken: at(60), ..Snapshot::default() }]),
            ..Vm::default()
        };
        Estate { now: at(0).unwrap(), vms: vec![vm("proxy"), vm("owner")], ..Estate::default() }
    }

    fn hide(estate: &mut Estate, vm: usize) {
        let object = estate.vms[vm].object.clone();
        estate.blind.push(Blind { what: "tasks".into(), object, why: "NoPermission".into() });
    }

    fn finding() -> Finding {
        let object = Object { name: "proxy".into(), moref: "proxy".into() };
        let proof = Proof {
            proxy: "proxy".into(),
            owner: "owner".into(),
            snapshot: "snapshot-1".into(),
            duty: String::new(),
            disk_key: 2000,
            file: String::new(),
        };
        let found = Finding::new(crate::codes::ATTACHED, Severity::Critical, &object, "");
        Finding { ours: Some(proof), ..found }
    }

    fn args() -> FixArgs {
        FixArgs { fix: true, yes: true, agent_stopped: false, quiet_minutes: 10 }
    }

    async fn verdict(change: impl FnOnce(&mut Estate, &mut FixArgs, &mut Agent)) -> Result<(), String> {
        let (mut estate, mut args, mut agent) = (estate(), args(), Agent::default());
        change(&mut estate, &mut args, &mut agent);
        at_rest(&estate, &[&finding()], &args, &agent).await
    }

    #[tokio::test]
    async fn a_proxy_that_is_off_and_idle_is_at_rest() {
        assert_eq!(verdict(|_, _, _| {}).await, Ok(()));
    }

    #[tokio::test]
    async fn each_sign_of_life_and_each_thing_unknown_stands_against_it() {
        type Change = fn(&mut Estate);
        let changes: [(Change, &str); 10] = [
            (|e| hide(e, 0), "of proxy could not be looked at"),
            (|e| hide(e, 1), "of owner could not be looked at"),
            (|e| e.vms[0].tasks = None, "tasks of proxy"),
            (|e| e.vms[1].tasks = None, "tasks of owner"),
            (|e| e.vms[0].tasks = Some(Tasks { running: true, reconfigured: None }), "a task runs on proxy"),
            (|e| e.vms[1].tasks = Some(Tasks { running: true, reconfigured: None }), "a task runs on owner"),
            (|e| e.vms[0].tasks = Some(Tasks { running: false, reconfigured: at(9) }), "reconfigured less than 10 min"),
            (|e| e.vms[1].snapshots.as_mut().unwrap()[0].taken = at(9), "taken less than 10 min"),
            (|e| e.vms[1].snapshots = Some(Vec::new()), "its snapshot is gone"),
            (|e| e.vms[1].snapshots.as_mut().unwrap()[0].taken = None, "nobody tells when"),
        ];
        for (change, told) in changes {
            let why = verdict(|estate, _, _| change(estate)).await.unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_runs_needs_a_dead_agent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let on = |e: &mut Estate| e.vms[0].on = true;
        assert!(verdict(|e, _, _| on(e)).await.unwrap_err().contains("--agent-stopped"));
        assert_eq!(
            verdict(|e, a, _| {
                on(e);
                a.agent_stopped = true;
            })
            .await,
            Ok(())
        );
        let lives = verdict(|e, a, agent| {
            on(e);
            a.agent_stopped = true;
            agent.address = Some(address.clone());
        });
        assert!(lives.await.unwrap_err().contains("an agent answers"));
        drop(listener);
        let refuses = verdict(|e, _, agent| {
            on(e);
            agent.address = Some(address.clone());
        });
        assert!(
            refuses.await.unwrap_err().contains("--agent-stopped"),
            "an agent that settles has no port open either"
        );
    }
}
