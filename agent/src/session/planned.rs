//! What the opener does with the plan: asks for the facts, decides, attaches what gets HotAdd, tries once where that is
//! configured, and turns a fault into the next step for that disk only.
//!
//! ```text
//! decided HotAdd ─▶ attach ──fault──▶ retry: facts anew, once ─▶ attach ──fault──▶ next transport (none: both reasons)
//!                                └─▶ next │ refused
//! ```
use std::{collections::BTreeSet, future::Future, sync::Arc};

use hotadd_api::v1::Cleanup;
use tokio::time::{Instant, sleep};

use super::opener::{Opened, Opener, Preflight, Ways};
use crate::{
    attach::{Actor, Attached, Wanted, free_units, now},
    config::NoSlot,
    error::{Error, Result},
    hypervisor::{PlanFacts, TargetFacts, views::Fact},
    id::Moref,
    journal::{Record, Tried, TryOutcome},
    plan::{
        self, After, Decision, Question, Route,
        facts::Tries,
        faults::after_error,
        rates::{Rates, Sample},
    },
    reason,
    transport::{Disk, ExportDisk, Of, reach},
};

/// Pause before the proxy's units are counted again.
const SLOT_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// The answer of Explain, before it is told.
#[derive(Debug)]
pub struct Explained {
    pub facts: PlanFacts,
    pub decisions: Vec<Decision>,
    pub rates: Rates,
}

/// What one disk cost, by its transport: bytes and seconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Measured {
    HotAdd(Sample),
    Nbd(u64, f64),
    Export(u64, f64),
}

type Answer = Result<Arc<Attached>>;

impl Opener {
    /// How each disk would be read, and why. Reads only.
    ///
    /// # Errors
    /// Unknown VM, snapshot or disk keys; facts that vCenter does not give.
    pub async fn explain(
        &self,
        what: &str,
        snapshot: Option<&Moref>,
        keys: &[i32],
        ways: &Ways,
        bytes: Option<u64>,
    ) -> Result<Explained> {
        let target = self.vm.hypervisor.find_target(what).await?;
        if let Some(snapshot) = snapshot
            && !self.vm.hypervisor.has_snapshot(&target.moref, snapshot).await?
        {
            return Err(Error::new(&reason::SNAP_UNKNOWN, format!("{snapshot} is no snapshot of {}", target.name)));
        }
        let mut facts = self.plan_facts(&target, snapshot, keys, ways).await?;
        // A VM is known to be the proxy before anything of it is asked.
        facts.target.is_proxy |= target.moref == self.vm.moref;
        let decisions = self.judge(&facts, ways, bytes).await;
        Ok(Explained { facts, decisions, rates: self.planner.rates.now() })
    }

    /// Decides for every wanted disk.
    pub(super) async fn decide(
        &self,
        target: &TargetFacts,
        snapshot: Option<&Moref>,
        keys: &[i32],
        ways: &Ways,
    ) -> Result<(PlanFacts, Vec<Decision>)> {
        let facts = self.plan_facts(target, snapshot, keys, ways).await?;
        let decisions = self.judge(&facts, ways, None).await;
        for decision in &decisions {
            for spoken in &decision.spoken {
                tracing::debug!(disk = decision.disk.label, rule = spoken.rule.id(), verdict = ?spoken.verdict, "plan");
            }
        }
        Ok((facts, decisions))
    }

    async fn plan_facts(
        &self,
        target: &TargetFacts,
        snapshot: Option<&Moref>,
        keys: &[i32],
        ways: &Ways,
    ) -> Result<PlanFacts> {
        let mut facts = self.vm.hypervisor.planning(&self.vm.moref, &target.moref, snapshot).await?;
        // A server of a disk that is not there would be missed only when it is needed.
        if let Some(key) = keys
            .iter()
            .chain(ways.servers.keys())
            .find(|key| !facts.disks.iter().any(|view| view.disk.device_key == **key))
        {
            return Err(Error::new(&reason::VM_DISK_UNKNOWN, format!("{}: key {key}", target.name)));
        }
        facts.disks.retain(|view| keys.is_empty() || keys.contains(&view.disk.device_key));
        Ok(facts)
    }

    async fn judge(&self, facts: &PlanFacts, ways: &Ways, bytes: Option<u64>) -> Vec<Decision> {
        let tries = self.tries(facts);
        let vddk = self.servers.vddk().filter(|_| !ways.ticket);
        let library = match vddk {
            Some(vddk) => Some(vddk.release().await),
            None => None,
        };
        let release = library.as_ref().and_then(|library| *library.as_ref().ok()?);
        let mut missing = library.and_then(Result::err);
        let mut by_vddk = missing.is_none() && vddk.is_some();
        if vddk.is_none() && self.servers.vddk().is_some() {
            missing = Some(Error::new(&reason::VC_TICKET_VDDK, ""));
        }
        let (room, rates) = (self.room(facts, ways).await, self.planner.rates.now());
        let mut export_missing: Option<Error> = None;
        loop {
            let keys = facts.disks.iter().map(|view| view.disk.device_key);
            let nbd = keys.filter(|key| by_vddk || ways.servers.contains_key(key)).collect();
            let question = Question {
                policy: &self.planner.policy,
                room: room.clone(),
                asked: ways.asked,
                nbd: &nbd,
                export: self.export.most.filter(|_| ways.export && export_missing.is_none()),
                tries: &tries,
                rates: &rates,
                bytes,
                vddk: release,
            };
            let mut decisions = plan::decide(facts, &question);
            if by_vddk && let Some(why) = self.out_of_reach(facts, &decisions, ways).await {
                // Decided once more, without it.
                (by_vddk, missing) = (false, Some(why));
                continue;
            }
            if export_missing.is_none() {
                export_missing = self.export_too_long(&decisions, &rates);
                if export_missing.is_none() {
                    export_missing = self.export_out_of_reach(facts, &decisions).await;
                }
                if export_missing.is_some() {
                    continue;
                }
            }
            if let Some(missing) = &export_missing {
                for decision in decisions.iter_mut().filter(|decision| decision.lacks_export(ways.asked)) {
                    decision.refusals.retain(|why| *why.reason() != reason::EXP_OFF);
                    decision.refusals.push(missing.copy());
                }
            }
            if let Some(missing) = &missing {
                let lack = decisions.iter_mut().filter(|decision| decision.lacks_nbd(ways.asked));
                lack.for_each(|decision| decision.refusals.push(missing.copy()));
            }
            return decisions;
        }
    }

    /// VDDK's data comes from ESXi hosts themselves, one that vCenter picks: a port that is closed is told before a snapshot
    /// is taken.
    async fn out_of_reach(&self, facts: &PlanFacts, decisions: &[Decision], ways: &Ways) -> Option<Error> {
        let named = |decision: &Decision| ways.servers.contains_key(&decision.disk.device_key);
        let chosen = decisions.iter().filter(|decision| decision.route == Route::Nbd && !named(decision));
        let hosts = self.hosts_of(facts, chosen).await;
        if hosts.is_empty() { None } else { self.servers.vddk()?.reaches(hosts).await.err() }
    }

    /// One lease carries all disks, and lives until the last has been read.
    fn export_too_long(&self, decisions: &[Decision], rates: &Rates) -> Option<Error> {
        let exported = decisions.iter().filter(|decision| decision.route == Route::Export);
        let bytes = exported.map(|decision| decision.disk.capacity_bytes).sum();
        let (seconds, most) = (rates.export_seconds(bytes)?, self.export.most?.as_secs_f64());
        let why = || Error::new(&reason::EXP_LONG, format!("{:.1} hours are expected for all disks", seconds / 3600.0));
        (seconds > most).then(why)
    }

    /// The stream comes from a host, too.
    async fn export_out_of_reach(&self, facts: &PlanFacts, decisions: &[Decision]) -> Option<Error> {
        let port = self.export.port?;
        let hosts = self.hosts_of(facts, decisions.iter().filter(|decision| decision.route == Route::Export)).await;
        reach::all(hosts, port).await.map(|why| Error::new(&reason::EXP_REACH, why))
    }

    async fn hosts_of<'a>(&self, facts: &PlanFacts, disks: impl Iterator<Item = &'a Decision>) -> Vec<String> {
        let stores: BTreeSet<Moref> = disks.filter_map(|decision| decision.disk.datastore.clone()).collect();
        if stores.is_empty() {
            return Vec::new();
        }
        let stores: Vec<Moref> = stores.into_iter().collect();
        self.vm.hypervisor.serving_hosts(&stores).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "which hosts may serve is not told; only the VM's own is tried");
            facts.target.host.known().map(|host| host.name.clone()).into_iter().collect()
        })
    }

    /// Units that a disk could get now, on controllers that are known in the guest.
    async fn room(&self, facts: &PlanFacts, ways: &Ways) -> Fact<usize> {
        let proxy = &facts.proxy.vm;
        match self.vm.controller_map(proxy).await {
            Ok(map) => {
                let free = free_units(proxy, &self.vm.journal.state().reserved_slots());
                let free: usize = map.usable().filter_map(|key| free.get(&key)).map(Vec::len).sum();
                Fact::Known(free.saturating_sub(self.vm.reservations.kept_from(ways.reservation.as_deref())))
            }
            Err(error) => Fact::Unknown(error.message()),
        }
    }

    /// Waits for a unit if the policy says so; the first refusal otherwise. `waiting` is told once why.
    ///
    /// # Errors
    /// As [`Opener::admit`]; whatever `go_on` refuses with.
    pub async fn admit_in_time<F: Future<Output = ()>>(
        &self,
        preflight: &Preflight,
        partial: bool,
        waiting: impl FnOnce(Error) -> F,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let policy = &self.planner.policy;
        let end = Instant::now() + policy.slot_wait;
        let mut waiting = Some(waiting);
        loop {
            let refused = match self.admit(preflight, partial).await {
                Err(error) if *error.reason() == reason::ATT_NO_SLOT && policy.no_slot == NoSlot::Queue => error,
                other => return other,
            };
            let now = Instant::now();
            if now >= end {
                return Err(refused);
            }
            if let Some(waiting) = waiting.take() {
                waiting(refused).await;
            }
            sleep(SLOT_PAUSE.min(end - now)).await;
            go_on()?;
        }
    }

    /// Attaches those of the snapshot's disks that get HotAdd; one answer per wanted disk.
    ///
    /// # Errors
    /// When the snapshot's disks can't be read, or a try can't be journalled.
    pub async fn attach(
        &self,
        actor: &Actor,
        target: &TargetFacts,
        snapshot: &Moref,
        keys: &[i32],
        ways: &Ways,
    ) -> Result<Vec<Opened>> {
        let (facts, decisions) = self.decide(target, Some(snapshot), keys, ways).await?;
        self.note_tries(&facts, &decisions, |_| Some(TryOutcome::Begun)).await?;
        let mut tried = self.attach_decided(actor, target, decisions).await;
        let again: Vec<i32> =
            tried.iter().filter(|(_, answer)| is_retry(answer)).map(|(d, _)| d.disk.device_key).collect();
        if !again.is_empty() {
            tracing::warn!(disks = ?again, "HotAdd was refused; once more with facts read anew");
            if let Ok((_, decisions)) = self.decide(target, Some(snapshot), &again, ways).await {
                for (decision, answer) in self.attach_decided(actor, target, decisions).await {
                    let key = decision.disk.device_key;
                    if let Some(place) = tried.iter_mut().find(|(old, _)| old.disk.device_key == key) {
                        let tries = std::mem::take(&mut place.0.tries);
                        *place = (Decision { tries, ..decision }, answer);
                    }
                }
            }
        }
        self.note_outcomes(actor, &facts, &tried).await;
        let of = Of {
            session: actor.session(),
            vm: target.moref.clone(),
            snapshot: snapshot.clone(),
            host: facts.target.host.known().cloned(),
        };
        let mut opened: Vec<Opened> =
            tried.into_iter().map(|(decision, answer)| self.opened(decision, answer, ways, &of)).collect();
        if let Some(reservation) = &ways.reservation {
            let attached = opened.iter().filter(|one| one.disk.as_ref().is_ok_and(Disk::is_attached)).count();
            self.vm.reservations.used(reservation, attached);
        }
        self.open_exports(actor, target, snapshot, &mut opened).await;
        Ok(opened)
    }

    /// What was decided to be exported, and what could not be attached, may be exported, and owes nothing: by one lease.
    async fn open_exports(&self, actor: &Actor, target: &TargetFacts, snapshot: &Moref, opened: &mut [Opened]) {
        // It blocks the VM: not for what may heal, nor for a device that is not what it should be.
        let next = |errors: &Vec<Error>| {
            errors.iter().all(may_go_on)
                && errors.iter().any(|e| matches!(after_error(e), Some(After::Next | After::Retry)))
        };
        let wanted = |disk: &&mut Opened| match disk.decision.route {
            Route::Export => disk.disk.is_err(),
            Route::HotAdd => disk.decision.may_export && disk.disk.as_ref().is_err_and(next),
            Route::Nbd | Route::Refused => false,
        };
        let mut wanted: Vec<&mut Opened> = opened.iter_mut().filter(wanted).collect();
        if wanted.is_empty() {
            return;
        }
        let lease = self.export(actor, target, snapshot, wanted.len()).await;
        for opened in &mut wanted {
            let why = std::mem::replace(&mut opened.disk, Err(Vec::new())).err().unwrap_or_default();
            match &lease {
                Ok(lease) => {
                    let disk = opened.decision.disk.clone();
                    opened.disk = Ok(Disk::Exported(Arc::new(ExportDisk { disk, lease: Arc::clone(lease) })));
                    opened.remarks = why.into_iter().filter(|e| *e.reason() != reason::PLAN_NO_NEXT).collect();
                }
                Err(error) => opened.disk = Err(std::iter::once(error.copy()).chain(why).collect()),
            }
        }
    }

    async fn attach_decided(
        &self,
        actor: &Actor,
        target: &TargetFacts,
        decisions: Vec<Decision>,
    ) -> Vec<(Decision, Option<Answer>)> {
        let wanted: Vec<Wanted> = decisions.iter().filter_map(Decision::wanted).collect();
        let mut attached = self.attacher.attach(actor, target, wanted).await.into_iter();
        let lost = || Err(Error::new(&reason::INTERNAL, "no answer for this disk"));
        let join = |decision: Decision| {
            let answer = decision.wanted().map(|_| attached.next().unwrap_or_else(lost).map(Arc::new));
            (decision, answer)
        };
        decisions.into_iter().map(join).collect()
    }

    /// A fault at the attach leads to the disk's server, if it has one. A disk without a transport carries every reason:
    /// the fault, and that there is no next one.
    fn opened(&self, mut decision: Decision, answer: Option<Answer>, ways: &Ways, of: &Of) -> Opened {
        let server = self.server(ways, &decision, of).filter(|_| decision.may_nbd);
        let next = server.clone().filter(|_| ways.asked.is_none());
        let route = decision.route;
        let (disk, remarks) = match answer {
            Some(Ok(attached)) => (Ok(Disk::Attached(attached)), Vec::new()),
            Some(Err(error)) => match next.clone().filter(|_| may_go_on(&error)) {
                Some(remote) => {
                    tracing::warn!(disk = decision.disk.label, %error, "HotAdd failed; the disk goes by NBD");
                    (Ok(Disk::Remote(remote)), vec![error])
                }
                None => (Err(without_next(error, &decision.disk.label)), Vec::new()),
            },
            None => {
                let why = std::mem::take(&mut decision.refusals);
                match server.filter(|_| route == Route::Nbd) {
                    Some(remote) => (Ok(Disk::Remote(remote)), why),
                    None => (Err(why), Vec::new()),
                }
            }
        };
        Opened { decision, disk, next, remarks }
    }

    fn site_and_build(facts: &PlanFacts) -> (String, String) {
        let site = facts.site.vcenter.known().cloned().unwrap_or_default();
        let build = facts.proxy.host.known().and_then(|host| host.build.known());
        (site, build.map(ToString::to_string).unwrap_or_default())
    }

    fn tries(&self, facts: &PlanFacts) -> Tries {
        let (site, build) = Self::site_and_build(facts);
        let state = self.vm.journal.state();
        let here = state.history().tries().filter(|tried| tried.site == site && tried.build == build);
        here.map(|tried| (tried.rule.clone(), tried.outcome.clone())).collect()
    }

    async fn note_tries(
        &self,
        facts: &PlanFacts,
        decisions: &[Decision],
        outcome: impl Fn(&Decision) -> Option<TryOutcome>,
    ) -> Result<()> {
        let (site, build) = Self::site_and_build(facts);
        let mut records: Vec<Record> = Vec::new();
        for decision in decisions {
            let Some(outcome) = outcome(decision) else { continue };
            records.extend(decision.tries.iter().map(|rule| {
                Record::Tried(Tried {
                    rule: rule.id().to_owned(),
                    site: site.clone(),
                    build: build.clone(),
                    at: now(),
                    outcome: outcome.clone(),
                })
            }));
        }
        if records.is_empty() { Ok(()) } else { self.vm.record(records).await }
    }

    /// An end that is not known stays begun, which counts as failed.
    async fn note_outcomes(&self, actor: &Actor, facts: &PlanFacts, tried: &[(Decision, Option<Answer>)]) {
        let (site, build) = Self::site_and_build(facts);
        let end = |(decision, answer)| Some((decision, outcome(actor, Option::as_ref(answer)?)));
        let mut ends: Vec<(&Decision, TryOutcome)> = tried.iter().map(|(d, a)| (d, a)).filter_map(end).collect();
        // Of several disks under one rule the last record decides: one that failed, before one that worked.
        ends.sort_by_key(|(_, outcome)| match outcome {
            TryOutcome::Withdrawn => 0,
            TryOutcome::Worked => 1,
            _ => 2,
        });
        let mut records = Vec::new();
        for (decision, outcome) in ends {
            records.extend(decision.tries.iter().map(|rule| {
                let (site, build, outcome) = (site.clone(), build.clone(), outcome.clone());
                Record::Tried(Tried { rule: rule.id().to_owned(), site, build, at: now(), outcome })
            }));
        }
        if !records.is_empty()
            && let Err(error) = self.vm.record(records).await
        {
            tracing::warn!(%error, "how a try ended could not be journalled; it counts as failed");
        }
    }

    /// Keeps what disks cost.
    pub(super) async fn measured(&self, samples: Vec<Measured>) {
        let planner = Arc::clone(&self.planner);
        let keep = move || {
            samples.iter().for_each(|sample| match sample {
                Measured::HotAdd(sample) => planner.rates.hotadd(sample),
                Measured::Nbd(bytes, seconds) => planner.rates.nbd(*bytes, *seconds),
                Measured::Export(bytes, seconds) => planner.rates.export(*bytes, *seconds),
            })
        };
        if tokio::task::spawn_blocking(keep).await.is_err() {
            tracing::debug!("measured rates could not be kept");
        }
    }
}

fn is_retry(answer: &Option<Answer>) -> bool {
    matches!(answer, Some(Err(error)) if after_error(error) == Some(After::Retry))
}

/// Nothing of the disk is owed, and no privilege is missing: that is told, not worked around.
fn may_go_on(error: &Error) -> bool {
    error.cleanup() == Cleanup::Done && after_error(error) != Some(After::Refuse)
}

fn without_next(error: Error, label: &str) -> Vec<Error> {
    let next = match after_error(&error) {
        Some(After::Next | After::Retry) => {
            let fault = error.fault().unwrap_or_default();
            Some(Error::new(&reason::PLAN_NO_NEXT, format!("{label}: {fault}")))
        }
        Some(After::Refuse) | None => None,
    };
    std::iter::once(error).chain(next).collect()
}

/// What one try tells of the place.
fn outcome(actor: &Actor, answer: &Answer) -> TryOutcome {
    match answer {
        Ok(_) => TryOutcome::Worked,
        // Rights that are missing are those of the one who asks; what hung is the place's all the same.
        Err(error)
            if error.cleanup() == Cleanup::Done
                && (actor.ended().is_some() || after_error(error) == Some(After::Refuse)) =>
        {
            TryOutcome::Withdrawn
        }
        Err(error) => TryOutcome::Failed { why: error.message().chars().take(300).collect() },
    }
}
