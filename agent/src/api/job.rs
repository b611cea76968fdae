//! JobService.
use std::{collections::BTreeMap, ops::Range, time::Duration};

use hotadd_api::v1::{self, get_job_request::By, job_service_server::JobService};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Context, block_size, compression,
    disk::ranges,
    gate::caller,
    text, ticket,
    wanted::{shown, wanted},
};
use crate::{
    audit::Entry,
    error::{Error, Result},
    journal::history,
    reason,
    session::{jobs::JobRequest, opener::Ways, snapshot::Wish},
    traces::Parent,
};

/// An empty list is refused: for a read it would mean the whole disk.
fn disk_ranges(disks: &[v1::DiskRanges]) -> Result<BTreeMap<i32, Vec<Range<u64>>>> {
    let mut wanted = BTreeMap::new();
    for disk in disks {
        let key = disk.device_key;
        if disk.ranges.is_empty() || wanted.insert(key, ranges(&disk.ranges)?).is_some() {
            return Err(Error::new(&reason::READ_RANGE, format!("disk {key}: no ranges, or listed twice")));
        }
    }
    Ok(wanted)
}

#[tonic::async_trait]
impl JobService for Context {
    type BackupVmStream = ReceiverStream<Result<v1::JobEvent, Status>>;

    async fn backup_vm(&self, r: Request<v1::BackupVmRequest>) -> Result<Response<Self::BackupVmStream>, Status> {
        let (caller, parent) = (caller(&r)?, Parent::of(r.metadata()));
        let mut request = r.into_inner();
        let ticket = ticket(&mut request.vcenter_clone_ticket)?;
        let asked = v1::BackupVmRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let longest = self.manager.opener().vm.limits.resume_max;
        let resume_job = text("resume_job", &request.resume_job, false)?;
        // What was sent of an export counts only with its end: nothing of it may be built upon.
        let export = resume_job.is_empty() && request.resume_window_seconds == 0 && request.ranges.is_empty();
        let reservation = self.reservation(&request.reservation_id, &caller)?;
        let request = JobRequest {
            caller: caller.clone(),
            asked: history::asked(&asked),
            wanted: wanted(&request)?,
            ranges: disk_ranges(&request.ranges)?,
            shown: shown(&request, block_size(request.block_bytes)?)?,
            resume_window: Duration::from_secs(request.resume_window_seconds.into()).min(longest),
            resume_job: (!resume_job.is_empty()).then_some(resume_job),
            request_id: text("request_id", &request.request_id, false)?,
            vm: text("vm", &request.vm, true)?,
            wish: Wish::from_api(request.snapshot.unwrap_or_default()),
            keys: request.device_keys,
            block_bytes: block_size(request.block_bytes)?,
            compression: compression(request.compression)?,
            partial: request.allow_partial,
            engines: self.engines.clone(),
            ways: Ways {
                export,
                ticket: ticket.is_some(),
                ..self.ways(request.transport, &request.nbd_servers, reservation)?
            },
            ticket,
            back: request.back_to_hotadd,
            parent,
        };
        let entry = Entry {
            what: "BackupVm",
            vm: request.vm.clone(),
            about: vec![format!("request_id={}", request.request_id)],
            ..Entry::default()
        };
        let started = self.jobs.start(request);
        Ok(Response::new(ReceiverStream::new(self.audited(&caller, entry, started)?)))
    }

    async fn get_job(&self, r: Request<v1::GetJobRequest>) -> Result<Response<v1::JobResult>, Status> {
        let result = match r.into_inner().by {
            Some(By::JobId(id)) => self.jobs.get(|job| job.job_id == id, &id),
            Some(By::RequestId(id)) if !id.is_empty() => self.jobs.get(|job| job.request_id == id, &id),
            _ => Err(Error::new(&reason::SES_REQUEST, "give job_id or request_id")),
        };
        Ok(Response::new(result?))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        Ok(Response::new(v1::ListJobsResponse { jobs: self.jobs.list() }))
    }
}
