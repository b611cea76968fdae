//! ProxyService.
use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use hotadd_api::v1::{self, proxy_service_server::ProxyService, set_limits_request::What};
use hotadd_blockio::{Arena, Device, Refusal, engine};
use tonic::{Request, Response, Status};

use super::{Context, capacity::count, gate::caller, text};
use crate::{
    audit::Entry,
    error::{Error, Result},
    events::Since,
    id::Moref,
    plan, reason,
    session::{live::seconds, opener::Ways},
    transport::throttle::{Rate, Scope},
};

#[tonic::async_trait]
impl ProxyService for Context {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let v1::WatchEventsRequest { run, after } = request.into_inner();
        let run = text("run", &run, false)?;
        let since = if run.is_empty() { Since::Now } else { Since::After { run, sequence: after } };
        let events = self.manager.opener().vm.events.watch(&since);
        Ok(Response::new(Box::pin(events.map(Ok))))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        let vm = text("vm", &request.vm, true)?;
        let snapshot = text("snapshot_moref", &request.snapshot_moref, false)?;
        let snapshot = Some(snapshot).filter(|moref| !moref.is_empty()).map(Moref::new);
        let ways = Ways { export: true, ..self.ways(request.transport, &request.nbd_servers, None)? };
        let bytes = (request.bytes > 0).then_some(request.bytes);
        let opener = self.manager.opener();
        let explained = opener.explain(&vm, snapshot.as_ref(), &request.device_keys, &ways, bytes).await?;
        let policy = &opener.planner.policy;
        let answer = plan::explain::to_api(&explained.facts, &explained.decisions, policy, &explained.rates);
        Ok(Response::new(answer))
    }

    async fn set_limits(&self, r: Request<v1::SetLimitsRequest>) -> Result<Response<v1::SetLimitsResponse>, Status> {
        let caller = caller(&r)?;
        let request = r.into_inner();
        let throttle = &self.manager.opener().vm.throttle;
        if let Some(scope) = scope(request.what)? {
            let name = scope.to_string();
            let ttl = (request.ttl_seconds > 0).then(|| Duration::from_secs(request.ttl_seconds.into()));
            match request.pace {
                Some(pace) => {
                    let refused = |fault| Error::new(&reason::SES_REQUEST, format!("pace of {scope}: {fault}"));
                    let rate = rate(&pace).checked(&scope).map_err(refused)?;
                    tracing::info!(%scope, ?rate, ?ttl, "limits set");
                    throttle.set(scope, rate, ttl);
                }
                None => {
                    tracing::info!(%scope, "limits as configured");
                    throttle.unset(&scope);
                }
            }
            let about = vec![name.clone(), format!("{:?} for {} s", request.pace, request.ttl_seconds)];
            let entry = Entry { what: "SetLimits", about, ..Entry::default() };
            self.audited(&caller, entry, Ok(()))?;
            self.manager.opener().vm.events.send(v1::EventKind::Limits, name, "", None);
        }
        let limits = throttle.now().into_iter().map(|(scope, rate, left)| v1::Limit {
            what: scope.to_string(),
            pace: Some(v1::Pace {
                bytes_per_second: rate.bytes_per_second.unwrap_or(0),
                reads_per_second: rate.reads_per_second.unwrap_or(0),
                latency_us: rate.latency.map_or(0, |l| u32::try_from(l.as_micros()).unwrap_or(u32::MAX)),
            }),
            // One that ends within this second has not ended.
            seconds_left: left.map_or(0, |left| seconds(left).max(1)),
        });
        Ok(Response::new(v1::SetLimitsResponse { limits: limits.collect() }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let caller = caller(&request)?;
        if let Some(drain) = request.into_inner().drain {
            self.manager.close_to_new(drain);
            let entry = Entry { what: "Drain", about: vec![drain.to_string()], ..Entry::default() };
            self.audited(&caller, entry, Ok(()))?;
        }
        // Work before duties: what ends between the two looks still owes, or is over.
        let (running_jobs, open_sessions) = (count(self.jobs.running()), count(self.manager.open_sessions()));
        let open_duties = count(self.manager.opener().vm.journal.state().duties().count());
        let draining = self.manager.is_closed_to_new();
        let idle = draining && running_jobs == 0 && open_sessions == 0 && open_duties == 0;
        Ok(Response::new(v1::DrainResponse { draining, running_jobs, open_sessions, open_duties, idle }))
    }

    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Result<Response<v1::ReserveResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let about = vec![request.reservation_id.clone(), format!("{} slots", request.slots)];
        let reserved = self.reserve_slots(&request, &caller).await;
        Ok(Response::new(self.audited(&caller, Entry { what: "Reserve", about, ..Entry::default() }, reserved)?))
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::GetInfoResponse>, Status> {
        let vm = &self.manager.opener().vm;
        let about = vm.hypervisor.about();
        let (engine, engine_refusals) = self.probe_engines();
        Ok(Response::new(v1::GetInfoResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy_name: self.proxy_name.clone(),
            proxy_moref: vm.moref.to_string(),
            vcenter_name: about.name,
            vcenter_api_version: about.api_version,
            negotiated_version: about.negotiated,
            engine,
            engine_refusals,
            kernel: kernel(),
            open_duties: count(vm.journal.state().duties().count()),
            draining: self.manager.is_closed_to_new(),
            clone_tickets: true,
        }))
    }

    async fn get_capacity(
        &self,
        _: Request<v1::GetCapacityRequest>,
    ) -> Result<Response<v1::GetCapacityResponse>, Status> {
        Ok(Response::new(self.capacity().await?))
    }
}

fn scope(what: Option<What>) -> Result<Option<Scope>> {
    Ok(match what {
        Some(What::Agent(true)) => Some(Scope::Agent),
        Some(What::Disk(true)) => Some(Scope::Disk),
        Some(What::Datastore(name)) => Some(Scope::Datastore(text("datastore", &name, true)?)),
        Some(What::Agent(false) | What::Disk(false)) => {
            return Err(Error::new(&reason::SES_REQUEST, "agent and disk are named by true"));
        }
        None => None,
    })
}

fn rate(pace: &v1::Pace) -> Rate {
    let above_zero = |value: u64| (value > 0).then_some(value);
    Rate {
        bytes_per_second: above_zero(pace.bytes_per_second),
        reads_per_second: above_zero(pace.reads_per_second),
        latency: (pace.latency_us > 0).then(|| Duration::from_micros(pace.latency_us.into())),
    }
}

impl Context {
    /// Probes on /dev/null, so that no device is touched: it is the set-up of an engine that kernels refuse.
    fn probe_engines(&self) -> (String, Vec<String>) {
        let probe = || {
            let file = std::fs::File::open("/dev/null").ok()?;
            let device = std::sync::Arc::new(Device::from_file(file).ok()?);
            let arena = Arena::new(1, 4096).ok()?;
            Some(engine::select(&self.engines, &device, &arena, 1))
        };
        let texts = |refused: &[Refusal]| refused.iter().map(Refusal::to_string).collect();
        match probe() {
            Some(Ok(selected)) => (selected.engine.kind().name().to_owned(), texts(&selected.refused)),
            Some(Err(refused)) => (String::new(), texts(&refused)),
            None => (String::new(), Vec::new()),
        }
    }
}

fn kernel() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}
