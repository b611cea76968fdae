//! DiskService.
use std::{ops::Range, time::Duration};

use hotadd_api::v1::{self, disk_service_server::DiskService, open_disks_request::From};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, gate::caller, text, ticket};
use crate::{
    access::Caller,
    attach::Settler,
    audit::Entry,
    error::{Error, Result},
    id::Moref,
    journal::{Duty, DutyKind, DutyPhase, history},
    reason,
    session::{OpenRequest, Source, live::seconds, opener::Ways, snapshot::Wish},
    traces::Parent,
};

/// Frames between a read thread and its stream.
const FRAMES: usize = 4;

#[tonic::async_trait]
impl DiskService for Context {
    type ReadDiskStream = ReceiverStream<Result<v1::ReadDiskResponse, Status>>;

    async fn open_disks(&self, r: Request<v1::OpenDisksRequest>) -> Result<Response<v1::OpenDisksResponse>, Status> {
        let (caller, parent) = (caller(&r)?, Parent::of(r.metadata()));
        let mut request = r.into_inner();
        let ticket = ticket(&mut request.vcenter_clone_ticket)?;
        let reservation = self.reservation(&request.reservation_id, &caller)?;
        let ways = self.ways(request.transport, &request.nbd_servers, reservation)?;
        let ways = Ways { ticket: ticket.is_some(), ..ways };
        let request = OpenRequest { ticket, parent, ..open_request(request, ways, caller.clone())? };
        let entry = Entry { what: "OpenDisks", vm: request.vm.clone(), ..Entry::default() };
        let opened = self.manager.open(request).await;
        let session = opened.as_ref().map(|opened| opened.session_id.clone()).unwrap_or_default();
        Ok(Response::new(self.audited(&caller, Entry { session, ..entry }, opened)?))
    }

    async fn read_disk(&self, r: Request<v1::ReadDiskRequest>) -> Result<Response<Self::ReadDiskStream>, Status> {
        let caller = caller(&r)?;
        let request = r.into_inner();
        let session = self.manager.get(&request.session_id, &caller)?;
        let order = self.order(&request)?;
        let (tx, rx) = mpsc::channel(FRAMES);
        session.read(self.manager.opener(), request.device_key, order, tx)?;
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn close_disks(&self, r: Request<v1::CloseDisksRequest>) -> Result<Response<v1::CloseDisksResponse>, Status> {
        let caller = caller(&r)?;
        let session = r.into_inner().session_id;
        let closed = self.manager.close_by_id(&session, &caller).await;
        Ok(Response::new(self.audited(&caller, Entry { what: "CloseDisks", session, ..Entry::default() }, closed)?))
    }

    async fn keep_alive(&self, r: Request<v1::KeepAliveRequest>) -> Result<Response<v1::KeepAliveResponse>, Status> {
        let caller = caller(&r)?;
        let left = self.manager.get(&r.into_inner().session_id, &caller)?.keep_alive()?;
        Ok(Response::new(v1::KeepAliveResponse { lease_seconds: seconds(left) }))
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        Ok(Response::new(v1::ListSessionsResponse { sessions: self.manager.list() }))
    }

    async fn list_duties(&self, _: Request<v1::ListDutiesRequest>) -> Result<Response<v1::ListDutiesResponse>, Status> {
        let opener = self.manager.opener();
        let state = opener.vm.journal.state();
        let duties = state.duties().map(|duty| {
            let owner = if opener.settler.is_inherited(duty.id) { String::new() } else { duty.session.to_string() };
            to_api(duty, &opener.settler, owner)
        });
        let duties = duties.collect();
        Ok(Response::new(v1::ListDutiesResponse { duties }))
    }
}

fn open_request(request: v1::OpenDisksRequest, ways: Ways, caller: Caller) -> Result<OpenRequest> {
    let asked = v1::OpenDisksRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
    let source = match request.from {
        Some(From::SnapshotMoref(moref)) => Source::Existing(Moref::new(text("snapshot_moref", &moref, true)?)),
        Some(From::Take(take)) => Source::Take(Wish::from_api(take)),
        None => Source::Take(Wish::from_api(v1::SnapshotRequest::default())),
    };
    Ok(OpenRequest {
        caller,
        request_id: text("request_id", &request.request_id, false)?,
        asked: history::asked(&asked),
        vm: text("vm", &request.vm, true)?,
        source,
        keys: request.device_keys,
        ways,
        ticket: None,
        parent: None,
        lease: (request.lease_seconds > 0).then(|| Duration::from_secs(request.lease_seconds.into())),
    })
}

pub(super) fn ranges(ranges: &[v1::Range]) -> Result<Vec<Range<u64>>> {
    ranges
        .iter()
        .map(|range| {
            let end = range.offset.checked_add(range.length);
            let wrong = || Error::new(&reason::READ_RANGE, format!("{} + {}", range.offset, range.length));
            end.map(|end| range.offset..end).ok_or_else(wrong)
        })
        .collect()
}

fn to_api(duty: &Duty, settler: &Settler, owner: String) -> v1::Duty {
    let why = settler.why(duty.id);
    let (kind, backing, moref) = match &duty.kind {
        DutyKind::Attach(attach) => ("attach", attach.backing.to_string(), String::new()),
        DutyKind::Snapshot(snapshot) => {
            ("snapshot", String::new(), snapshot.moref.as_ref().map(ToString::to_string).unwrap_or_default())
        }
        DutyKind::Guard(guard) => ("guard", guard.methods.join(","), String::new()),
        DutyKind::Export(export) => {
            ("export", String::new(), export.moref.as_ref().map(ToString::to_string).unwrap_or_default())
        }
    };
    let state = match duty.phase {
        _ if settler.progress(duty.id).is_some() => "settling",
        DutyPhase::Intended => "intended",
        DutyPhase::Held => "held",
    };
    v1::Duty {
        duty_id: duty.id.to_string(),
        kind: kind.to_owned(),
        vm: duty.vm_name.clone(),
        backing,
        moref,
        state: state.to_owned(),
        since: duty.since.clone(),
        last_error: why.unwrap_or_default(),
        owner,
        keep_until: duty.snapshot().and_then(|s| s.keep_until.clone()).unwrap_or_default(),
    }
}
