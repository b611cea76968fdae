//! JobService.
use hotadd_api::v1::{self, get_job_request::By, job_service_server::JobService};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, block_size, text};
use crate::{
    error::{Error, Result},
    reason,
    session::{job::JobRequest, snapshot::Wish},
};

#[tonic::async_trait]
impl JobService for Context {
    type BackupVmStream = ReceiverStream<Result<v1::JobEvent, Status>>;

    async fn backup_vm(&self, r: Request<v1::BackupVmRequest>) -> Result<Response<Self::BackupVmStream>, Status> {
        let request = r.into_inner();
        let fingerprint = v1::BackupVmRequest { request_id: String::new(), ..request.clone() }.encode_to_vec();
        let request = JobRequest {
            fingerprint,
            request_id: text("request_id", &request.request_id, false)?,
            vm: text("vm", &request.vm, true)?,
            wish: Wish::from_api(request.snapshot.unwrap_or_default()),
            keys: request.device_keys,
            block_bytes: block_size(request.block_bytes)?,
            partial: request.allow_partial,
            engines: self.engines.clone(),
        };
        Ok(Response::new(ReceiverStream::new(self.jobs.start(request)?)))
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
