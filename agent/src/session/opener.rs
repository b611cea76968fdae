//! The steps that sessions and jobs share: preflight, snapshot; deciding and attaching are in [`super::planned`].
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hotadd_api::v1::Consistency;
use hotadd_blockio::nbd;

use super::snapshot::{self, HeldSnapshot, Wish};
use crate::{
    attach::{Actor, Attacher, ProxyVm, Settler, Turn, guards},
    config::Export,
    discover::Platform,
    error::{Error, Result},
    hypervisor::{On, TargetFacts, views::Build},
    id::{Moref, SessionId},
    plan::{Decision, Planner, Route, Transport, refusal},
    reason,
    transport::{Disk, Of, Remote, Servers},
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Opener {
    pub vm: Arc<ProxyVm>,
    pub attacher: Attacher,
    pub settler: Settler,
    pub planner: Arc<Planner>,
    pub servers: Servers,
    pub export: Export,
}

/// What a request says of transports.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// For all disks; `None`: the planner decides.
    pub asked: Option<Transport>,
    /// Disks that nothing else brings may be exported, if the configuration allows it.
    pub export: bool,
    /// Whose slots may be used.
    pub reservation: Option<String>,
    /// Admitted servers, by device key.
    pub servers: BTreeMap<i32, nbd::Target>,
    /// With the rights of a ticket: what logs in with the account of the configuration is not used.
    pub ticket: bool,
}

/// Where the disks' state comes from.
#[derive(Debug, Clone)]
pub enum Source {
    Existing(Moref),
    Take(Wish),
    /// The one that is kept for a job that resumes: the session of the job that broke, and what its snapshot was.
    Kept(SessionId, Consistency),
}

/// The target and what can be done with its disks, before anything is touched.
#[derive(Debug)]
pub struct Preflight {
    pub target: TargetFacts,
    pub decisions: Vec<Decision>,
    /// Of the host that runs the target, if that is told.
    pub build: Option<Build>,
    /// On which a snapshot's deltas may be.
    pub stores: BTreeSet<Moref>,
    /// Whose slots may be used.
    pub reservation: Option<String>,
}

/// One disk after attaching.
#[derive(Debug)]
pub struct Opened {
    pub decision: Decision,
    pub disk: Result<Disk, Vec<Error>>,
    /// Where one that is attached goes on when it breaks.
    pub next: Option<Arc<Remote>>,
    /// Of one that can be read: why it is not attached.
    pub remarks: Vec<Error>,
}

impl Opener {
    #[must_use]
    pub fn platform(&self) -> Arc<dyn Platform> {
        Arc::clone(&self.vm.platform)
    }

    /// Finds the VM and decides for every wanted disk. Nothing of a VM is told that the request's ticket does not show.
    ///
    /// # Errors
    /// Unknown VM, one that may not be seen, the proxy itself, unknown disk keys.
    pub async fn preflight(&self, actor: &Actor, what: &str, keys: &[i32], ways: &Ways) -> Result<Preflight> {
        // Whose names they are that are the same is not told to a ticket that may not show them.
        let hidden = |error: Error| match actor.has_ticket() && *error.reason() == reason::VM_AMBIGUOUS {
            true => Error::new(&reason::VM_AMBIGUOUS, format!("{what:?}")),
            false => error,
        };
        let target = self.vm.hypervisor.find_target(what).await.map_err(hidden)?;
        if actor.has_ticket() {
            actor.hypervisor().may_see(&target.moref).await?;
        }
        if target.moref == self.vm.moref {
            return Err(Error::new(&reason::VM_IS_PROXY, target.name));
        }
        let (facts, decisions) = self.decide(&target, None, keys, ways).await?;
        let build = facts.target.host.known().and_then(|host| host.build.known().copied());
        Ok(Preflight { target, decisions, build, stores: facts.stores, reservation: ways.reservation.clone() })
    }

    /// Refuses what can't succeed whatever is waited for; tells how many disks would be attached.
    ///
    /// # Errors
    /// The plan's own reason if there is one for all refused disks, else [`reason::VM_NO_DISKS`], [`reason::JOB_PARTIAL`].
    pub fn able(preflight: &Preflight, partial: bool) -> Result<usize> {
        let decisions = &preflight.decisions;
        let none = decisions.iter().all(|d| d.route == Route::Refused);
        if none {
            let no_disk = || Error::new(&reason::VM_NO_DISKS, preflight.target.name.clone());
            return Err(refusal(decisions, &reason::VM_NO_DISKS).unwrap_or_else(no_disk));
        }
        if let (false, Some(why)) = (partial, refusal(decisions, &reason::JOB_PARTIAL)) {
            return Err(why);
        }
        let able = decisions.iter().filter(|d| d.is_hotadd()).count();
        Ok(able)
    }

    /// Refuses what can't succeed before a snapshot is taken.
    ///
    /// # Errors
    /// As [`Opener::able`]; [`reason::ATT_NO_SLOT`], [`reason::ATT_CONTROLLER`].
    pub async fn admit(&self, preflight: &Preflight, partial: bool) -> Result<()> {
        let able = Self::able(preflight, partial)?;
        if able == 0 {
            return Ok(());
        }
        let proxy = self.vm.facts().await?;
        let map = self.vm.controller_map(&proxy).await?;
        let reserved = self.vm.reservations.kept_from(preflight.reservation.as_deref());
        let room = self.vm.room(&proxy, &map).saturating_sub(reserved);
        if room == 0 && map.usable().next().is_none() {
            let why: Vec<String> = proxy
                .controllers
                .iter()
                .filter_map(|c| map.address(c.key).err().map(|refused| format!("scsi{}: {refused}", c.bus)))
                .collect();
            return Err(Error::new(&reason::ATT_CONTROLLER, why.join("; ")));
        }
        if room == 0 || (!partial && room < able) {
            return Err(Error::new(
                &reason::ATT_NO_SLOT,
                format!("{able} disks, {room} free units, {reserved} reserved"),
            ));
        }
        Ok(())
    }

    /// The server of a disk, if there is one.
    pub(super) fn server(&self, ways: &Ways, decision: &Decision, of: &Of) -> Option<Arc<Remote>> {
        let named = ways.servers.contains_key(&decision.disk.device_key);
        if ways.ticket && !named {
            return None;
        }
        self.servers.disk(&decision.disk, ways.servers.get(&decision.disk.device_key), of)
    }

    /// Refuses what the account could not give back: with a ticket another one begins it.
    ///
    /// # Errors
    /// [`reason::VC_TICKET_BACK`]; of a vCenter that does not answer. Nothing was begun.
    pub async fn can_give_back(&self, actor: &Actor, target: &TargetFacts, source: &Source) -> Result<()> {
        if !actor.has_ticket() {
            return Ok(());
        }
        let snapshot = (On::Vm(&target.moref), "VirtualMachine.State.RemoveSnapshot", target.name.as_str());
        let snapshot = (!matches!(source, Source::Existing(_))).then_some(snapshot);
        let disk = (On::Vm(&self.vm.moref), "VirtualMachine.Config.RemoveDisk", "the proxy");
        for (on, privilege, name) in snapshot.into_iter().chain([disk]) {
            if !self.vm.hypervisor.account_may(on, privilege).await? {
                return Err(Error::new(&reason::VC_TICKET_BACK, format!("{privilege} on {name}")));
            }
        }
        Ok(())
    }

    /// The turn to take a snapshot, where one is to be taken: waited for. `waiting` is told why, and of each other place in the queue.
    ///
    /// # Errors
    /// As [`ProxyVm::snapshot_turn`].
    pub async fn turn<F: Future<Output = ()>>(
        &self,
        session: SessionId,
        of: &Preflight,
        source: &Source,
        patience: Duration,
        waiting: impl Fn(Error) -> F,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Option<Turn>> {
        if !matches!(source, Source::Take(_)) {
            return Ok(None);
        }
        self.vm.snapshot_turn(session, &of.stores, patience, waiting, go_on).await.map(Some)
    }

    /// Takes the snapshot, or takes note of the caller's.
    ///
    /// # Errors
    /// See [`snapshot::take`] and [`snapshot::adopt`]; [`reason::SNAP_UNKNOWN`].
    pub async fn snapshot(&self, actor: &Actor, of: &Preflight, source: &Source) -> Result<HeldSnapshot> {
        let target = &of.target;
        match source {
            Source::Existing(moref) => {
                // A snapshot of another VM would be read under this VM's name.
                if !self.vm.hypervisor.has_snapshot(&target.moref, moref).await? {
                    let detail = format!("{moref} is no snapshot of {}", target.name);
                    return Err(Error::new(&reason::SNAP_UNKNOWN, detail));
                }
                let guard = guards::target(&self.vm, &self.settler, actor, target).await?;
                Ok(HeldSnapshot::foreign(moref.clone(), guard))
            }
            Source::Kept(broken, reached) => {
                snapshot::adopt(&self.vm, &self.settler, actor, target, *broken, *reached).await
            }
            Source::Take(wish) => snapshot::take(&self.vm, &self.settler, actor, target, &of.stores, *wish).await,
        }
    }
}
