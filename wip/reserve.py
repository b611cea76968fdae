import os
os.chdir('.')
def sub(p, pairs):
    s=open(p).read()
    for a,b in pairs:
        assert a in s, (p,a)
        s=s.replace(a,b,1)
    open(p,'w').write(s)
P='agent/crates/api/proto/hotadd/v1/'
sub(P+'proxy.proto',[('''  rpc Drain(DrainRequest) returns (DrainResponse);
}''','''  rpc Drain(DrainRequest) returns (DrainResponse);
  // Keeps slots free for work that will be sent: other sessions and jobs are not admitted for them. OpenDisks and BackupVm that name the
  // reservation use it up, disk by disk. It lives in memory: a restart of the agent forgets it.
  // Errors: HA-ATT-001 (fewer slots are free), HA-SES-006 (no id, or too long a time), HA-SES-007 and HA-SES-010 (no new work is taken),
  // HA-VC-001 to 012, HA-DSC-001.
  // Idempotent: by `reservation_id`: the last one holds, in place of the one before.
  // Deadline: two minutes; a read of vCenter, at most 60 s, and one of the guest's devices.
  rpc Reserve(ReserveRequest) returns (ReserveResponse);
}

// Which slots to keep free, and how long.
message ReserveRequest {
  string reservation_id = 1;  // required: chosen by the caller, to be named by OpenDisks and BackupVm; of an earlier one: it is replaced
  uint32 slots = 2;           // number of disks. 0: the reservation is given up
  uint32 ttl_seconds = 3;     // seconds, at most 3600 (HA-SES-006). 0: 120
}

// What is reserved.
message ReserveResponse {
  uint32 slots = 1;         // number of slots that this reservation keeps
  uint32 free_slots = 2;    // number of slots that are neither taken nor reserved by anybody
  uint32 seconds_left = 3;  // seconds until it is over. 0: it is
}'''),('''  uint32 free_slots = 2;           // number of disks that can still be attached, on controllers included that the agent may add
''','''  uint32 free_slots = 2;           // number of disks that can still be attached, on controllers included that the agent may add; what is reserved is not among them
'''),('''here; unset: never measured
}''','''here; unset: never measured
  uint32 reserved_slots = 18;      // number of slots that reservations keep (Reserve)
}''')])
sub(P+'disk.proto',[('''  Transport transport = 8;        // for all disks; unspecified: the planner decides per disk
}''','''  Transport transport = 8;        // for all disks; unspecified: the planner decides per disk
  string reservation_id = 9;      // whose slots may be used (Reserve); one that is over is not missed. Empty: none
}''')])
sub(P+'job.proto',[('''  Compression compression = 17;     // of the frames; unspecified: none
''','''  Compression compression = 17;     // of the frames; unspecified: none
  string reservation_id = 18;       // whose slots may be used (Reserve); one that is over is not missed. Empty: none
''')])
open('agent/src/attach/reservations.rs','w').write('''//! Slots that a controller reserved for work that it will send: others are not admitted for them. Counted, never chosen: which unit a
//! disk gets is decided when it is attached, so a reservation can be in nobody's way but at admission. In memory only: it owes nothing.
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<BTreeMap<String, Reserved>>);

#[derive(Debug)]
struct Reserved {
    slots: usize,
    end: Instant,
}

impl Reservations {
    /// Reserves in place of what this id had; none: gives it up. False: of `room` fewer are free, and nothing was changed.
    #[must_use]
    pub fn set(&self, id: &str, slots: usize, ttl: Duration, room: usize) -> bool {
        let mut all = self.alive();
        let others: usize = all.iter().filter(|(other, _)| *other != id).map(|(_, one)| one.slots).sum();
        if slots > 0 && others + slots > room {
            return false;
        }
        all.remove(id);
        if slots > 0 {
            all.insert(id.to_owned(), Reserved { slots, end: Instant::now() + ttl });
        }
        true
    }

    /// How many slots are kept from work that names this reservation, or none.
    #[must_use]
    pub fn kept_from(&self, id: Option<&str>) -> usize {
        self.alive().iter().filter(|(other, _)| Some(other.as_str()) != id).map(|(_, one)| one.slots).sum()
    }

    /// So many of its disks are attached: they hold real slots now.
    pub fn used(&self, id: &str, disks: usize) {
        let mut all = self.alive();
        if let Some(one) = all.get_mut(id) {
            one.slots = one.slots.saturating_sub(disks);
        }
        all.retain(|_, one| one.slots > 0);
    }

    fn alive(&self) -> MutexGuard<'_, BTreeMap<String, Reserved>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, one| one.end > now);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_is_reserved_is_kept_from_others_and_used_up() {
        let all = Reservations::default();
        assert!(all.set("a", 3, LONG, 5) && !all.set("b", 3, LONG, 5) && all.set("b", 2, LONG, 5));
        assert_eq!((all.kept_from(None), all.kept_from(Some("a")), all.kept_from(Some("b"))), (5, 2, 3));
        assert!(all.set("a", 1, LONG, 5), "in place of its three");
        assert_eq!(all.kept_from(None), 3);
        all.used("b", 1);
        assert_eq!(all.kept_from(Some("a")), 1);
        all.used("b", 5);
        all.used("unknown", 5);
        assert!(all.set("a", 0, LONG, 0));
        assert_eq!(all.kept_from(None), 0);
    }

    #[test]
    fn one_that_is_over_keeps_nothing() {
        let all = Reservations::default();
        assert!(all.set("a", 3, Duration::ZERO, 5));
        assert_eq!(all.kept_from(None), 0);
    }
}
''')
sub('agent/src/attach/mod.rs',[('mod readers;\n','mod readers;\nmod reservations;\n'),('    readers::{Reader, Readers},\n','    readers::{Reader, Readers},\n    reservations::Reservations,\n'),('[`readers`] tells','[`reservations`] counts what is kept for whom, [`readers`] tells')])
sub('agent/src/attach/proxy_vm.rs',[('use super::{Readers, Turns,','use super::{Readers, Reservations, Turns,'),('    pub readers: Readers,\n','    pub readers: Readers,\n    pub reservations: Reservations,\n'),('            readers: Readers::default(),\n','            readers: Readers::default(),\n            reservations: Reservations::default(),\n')])
sub('agent/src/session/opener.rs',[('''    /// Admitted servers, by device key.
''','''    /// Whose slots may be used.
    pub reservation: Option<String>,
    /// Admitted servers, by device key.
'''),('''    /// On which a snapshot's deltas may be.
    pub stores: BTreeSet<Moref>,
''','''    /// On which a snapshot's deltas may be.
    pub stores: BTreeSet<Moref>,
    /// Whose slots may be used.
    pub reservation: Option<String>,
'''),('Ok(Preflight { target, decisions, build, stores: facts.stores })','Ok(Preflight { target, decisions, build, stores: facts.stores, reservation: ways.reservation.clone() })'),
('''        let room = self.vm.room(&proxy, &map);
''','''        let reserved = self.vm.reservations.kept_from(preflight.reservation.as_deref());
        let room = self.vm.room(&proxy, &map).saturating_sub(reserved);
'''),('format!("{able} disks, {room} free units")','format!("{able} disks, {room} free units, {reserved} reserved")')])
sub('agent/src/session/planned.rs',[('(self.room(facts).await, self.planner.rates.now())','(self.room(facts, ways).await, self.planner.rates.now())'),
('async fn room(&self, facts: &PlanFacts) -> Fact<usize> {','async fn room(&self, facts: &PlanFacts, ways: &Ways) -> Fact<usize> {'),
('''                Fact::Known(map.usable().filter_map(|key| free.get(&key)).map(Vec::len).sum())
''','''                let free: usize = map.usable().filter_map(|key| free.get(&key)).map(Vec::len).sum();
                Fact::Known(free.saturating_sub(self.vm.reservations.kept_from(ways.reservation.as_deref())))
'''),
('''        self.open_exports(session, target, snapshot, &mut opened).await;
        Ok(opened)''','''        if let Some(reservation) = &ways.reservation {
            let attached = opened.iter().filter(|one| one.disk.as_ref().is_ok_and(Disk::is_attached)).count();
            self.vm.reservations.used(reservation, attached);
        }
        self.open_exports(session, target, snapshot, &mut opened).await;
        Ok(opened)''')])
sub('agent/src/api/mod.rs',[('''    fn ways(&self, transport: i32, servers: &[v1::NbdServer]) -> Result<Ways> {''','''    fn ways(&self, transport: i32, servers: &[v1::NbdServer], reservation: &str) -> Result<Ways> {'''),
('let mut ways = Ways { asked, ..Ways::default() };','''let reservation = Some(text("reservation_id", reservation, false)?).filter(|id| !id.is_empty());
        let mut ways = Ways { asked, reservation, ..Ways::default() };''')])
sub('agent/src/api/job.rs',[('..self.ways(request.transport, &request.nbd_servers)? }','..self.ways(request.transport, &request.nbd_servers, &request.reservation_id)? }')])
sub('agent/src/api/proxy.rs',[('..self.ways(request.transport, &request.nbd_servers)? }','..self.ways(request.transport, &request.nbd_servers, "")? }'),
('''    async fn get_info(''','''    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Result<Response<v1::ReserveResponse>, Status> {
        Ok(Response::new(self.reserve_slots(&request.into_inner()).await?))
    }

    async fn get_info(''')])
sub('agent/src/api/disk.rs',[('self.ways(request.transport, &request.nbd_servers)?','self.ways(request.transport, &request.nbd_servers, &request.reservation_id)?')])
sub('agent/src/api/capacity.rs',[('''//! GetCapacity: what a controller needs to choose a proxy. Counts what others know; decides nothing.
''','''//! GetCapacity and Reserve: what a controller needs to choose a proxy. Counts what others know; decides nothing.
'''),('use super::Context;','use super::{Context, text};'),
('''/// For fields of the API''','''/// Of a reservation, when the request does not say, and at most.
const RESERVED: Duration = Duration::from_secs(120);
const RESERVED_MOST: Duration = Duration::from_secs(3600);

/// For fields of the API'''),
('''            free_slots: count(vm.room(&proxy, &map)),
''','''            free_slots: count(vm.room(&proxy, &map).saturating_sub(reserved)),
            reserved_slots: count(reserved),
'''),
('''        let rates = opener.planner.rates.now();
''','''        let rates = opener.planner.rates.now();
        let reserved = vm.reservations.kept_from(None);
'''),
('''}

fn controllers(''','''
    pub(super) async fn reserve_slots(&self, request: &v1::ReserveRequest) -> Result<v1::ReserveResponse> {
        let vm = &self.manager.opener().vm;
        let id = text("reservation_id", &request.reservation_id, true)?;
        let ttl = Some(Duration::from_secs(request.ttl_seconds.into())).filter(|ttl| !ttl.is_zero()).unwrap_or(RESERVED);
        if ttl > RESERVED_MOST {
            let detail = format!("ttl_seconds: {} is above {}", request.ttl_seconds, RESERVED_MOST.as_secs());
            return Err(Error::new(&reason::SES_REQUEST, detail));
        }
        if request.slots > 0 {
            self.manager.takes_new()?;
        }
        let proxy = vm.facts().await?;
        let room = vm.room(&proxy, &vm.controller_map(&proxy).await?);
        let slots = usize::try_from(request.slots).unwrap_or(usize::MAX);
        if !vm.reservations.set(&id, slots, ttl, room) {
            let others = vm.reservations.kept_from(Some(&id));
            return Err(Error::new(&reason::ATT_NO_SLOT, format!("{slots} slots, {room} free units, {others} reserved")));
        }
        let free = room.saturating_sub(vm.reservations.kept_from(None));
        let seconds_left = if slots > 0 { u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX) } else { 0 };
        Ok(v1::ReserveResponse { slots: request.slots, free_slots: count(free), seconds_left })
    }
}

fn controllers(''')])
sub('agent/src/session/registry.rs',[('    pub(super) fn takes_new(&self)','    pub fn takes_new(&self)')])
sub('agent/crates/ctl/tests/common/mod.rs',[('''    async fn drain(''','''    async fn reserve(&self, _: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn drain(''')])
sub('docs/api.md',[('''| `free_slots` | disks that can still be attached; the proxy with the most, not the first |
''','''| `free_slots` | disks that can still be attached; the proxy with the most, not the first. `Reserve` keeps some for work that is on its way, for a time |
''')])
sub('CHANGELOG.md',['''who waits for its turn''','''`Reserve` keeps slots for work on its way; who waits for its turn'''] and [('who waits for its turn is told','`Reserve` keeps slots for work on its way; who waits for its turn is told')])
sub('tests/e2e/capacity.rs',[('GetInfoRequest,\n    JobState,','GetInfoRequest,\n    JobState, OpenDisksRequest, ReserveRequest, ReserveResponse,'),('''#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that''','''async fn reserve(scene: &Scene, id: &str, slots: u32, ttl_seconds: u32) -> Result<ReserveResponse, tonic::Status> {
    let mut client = proxy(scene).await.map_err(|e| tonic::Status::unknown(e.to_string()))?;
    Ok(client.reserve(ReserveRequest { reservation_id: id.into(), slots, ttl_seconds }).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_slots_are_for_whoever_names_them() -> Result<()> {
    let (_dir, scene) = scene(&[dense(8 * MIB, 1), dense(8 * MIB, 2)], |spec| {
        spec.set("limits", "add_controllers", false);
    })?;
    refused(reserve(&scene, "", 1, 60).await, "HA-SES-006")?;
    refused(reserve(&scene, "a", 1, 3601).await, "HA-SES-006")?;
    refused(reserve(&scene, "a", 29, 60).await, "HA-ATT-001")?;
    let answer = reserve(&scene, "a", 28, 60).await?;
    assert_eq!((answer.slots, answer.free_slots, answer.seconds_left), (28, 0, 60));
    let now = capacity(&scene).await?;
    assert_eq!((now.free_slots, now.reserved_slots), (0, 28));
    refused(disks(&scene).await?.open_disks(open_request(TARGET)).await, "HA-ATT-001")?;
    let named = OpenDisksRequest { reservation_id: "a".into(), ..open_request(TARGET) };
    let opened = disks(&scene).await?.open_disks(named).await?.into_inner();
    assert!(opened.disks.len() == 2 && opened.disks.iter().all(|disk| disk.opened), "{opened:#?}");
    let now = capacity(&scene).await?;
    assert_eq!((now.free_slots, now.reserved_slots), (0, 26), "two are used up");
    assert_eq!(close(&scene, &opened.session_id).await?, Cleanup::Done);
    let free = reserve(&scene, "a", 0, 0).await?;
    assert_eq!((free.slots, free.free_slots, free.seconds_left), (0, 28, 0));
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that'''),('''use hotadd_api::v1::{
    DatastoreCapacity''','''use hotadd_api::v1::{
    Cleanup, DatastoreCapacity'''),('use crate::support::{','use crate::session::close;\nuse crate::support::{')])
