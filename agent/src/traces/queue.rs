//! Between the end of a job and the collector: a bounded queue, and the one task that empties it in batches. A collector that is away or
//! hangs costs time of that task only; what it does not take in [`TRIES`] tries is dropped and counted, and so is what finds the queue full.
use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans, Span,
};
use crate::metrics::Meter;

/// Traces that wait. With at most some 400 spans each it bounds the memory to a few dozen MiB in the worst case.
const WAITING: usize = 128;
/// Traces of one request: collectors take 4 MiB by default, and a trace is far below 0.5.
const BATCH: usize = 8;
/// How often a batch is sent before it is dropped.
const TRIES: u32 = 4;
/// Longest pause between two tries. The first is a tenth of what a try may take.
const PAUSE: Duration = Duration::from_secs(60);
/// What stopping the agent waits for the collector.
const FLUSH: Duration = Duration::from_secs(2);

/// Why a collector did not take a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// It may take it later.
    Again(String),
    /// It never will.
    Final(String),
}

/// Who takes batches.
pub(super) trait Way: Send + 'static {
    fn send(&mut self, batch: ExportTraceServiceRequest) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: mpsc::Sender<Vec<Span>>,
    stop: CancellationToken,
    /// Cancelled when the task has ended, however.
    ended: CancellationToken,
    meter: Meter,
}

impl Queue {
    /// `patience`: of one try.
    pub(super) fn start(way: impl Way, patience: Duration, proxy: &str, meter: Meter) -> Self {
        let (waiting, queued) = mpsc::channel(WAITING);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let sender = Sender {
            queued,
            way,
            patience,
            pause: patience / 10,
            resource: resource(proxy),
            stop: stop.clone(),
            meter: meter.clone(),
            failing: false,
        };
        let over = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _over = over;
            sender.run().await;
        });
        Self { waiting, stop, ended, meter }
    }

    /// Never waits.
    pub(super) fn push(&self, trace: Vec<Span>) {
        if self.waiting.try_send(trace).is_err() {
            self.meter.traces_dropped(1);
        }
    }

    /// Nothing that comes after this is sent.
    pub(super) async fn flush(&self) {
        self.stop.cancel();
        if timeout(FLUSH, self.ended.cancelled()).await.is_err() {
            tracing::warn!("the collector of traces took too long; the last ones are dropped");
        }
    }
}

struct Sender<W> {
    queued: mpsc::Receiver<Vec<Span>>,
    way: W,
    patience: Duration,
    /// Before the next try after one that failed; doubled with each, also from batch to batch.
    pause: Duration,
    resource: Resource,
    stop: CancellationToken,
    meter: Meter,
    /// Told once, not with each batch.
    failing: bool,
}

impl<W: Way> Sender<W> {
    async fn run(mut self) {
        while let Some(batch) = self.next().await {
            let number = batch.len() as u64;
            let why = match self.deliver(batch.into_iter().flatten().collect()).await {
                Ok(()) if self.failing => {
                    tracing::info!("the collector takes traces again");
                    self.failing = false;
                    continue;
                }
                Ok(()) => continue,
                Err(why) => why,
            };
            self.meter.traces_dropped(number);
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(why, "the collector does not take traces; they are dropped until it does");
            }
        }
    }

    /// `None`: the agent stops, and nothing is queued any more.
    async fn next(&mut self) -> Option<Vec<Vec<Span>>> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            number = self.queued.recv_many(&mut batch, BATCH) => (number > 0).then_some(batch),
            () = self.stop.cancelled() => None,
        }
    }

    async fn deliver(&mut self, spans: Vec<Span>) -> Result<(), String> {
        let request = self.request(spans);
        let mut tries = 0;
        loop {
            let failed = match timeout(self.patience, self.way.send(request.clone())).await {
                Ok(Ok(())) => {
                    self.pause = self.patience / 10;
                    return Ok(());
                }
                Ok(Err(failed)) => failed,
                Err(_) => Failed::Again(format!("no answer within {:?}", self.patience)),
            };
            tries += 1;
            match failed {
                Failed::Again(why) if tries == TRIES || self.stop.is_cancelled() => return Err(why),
                Failed::Again(_) => {}
                Failed::Final(why) => return Err(why),
            }
            tokio::select! {
                () = sleep(self.pause) => {}
                // The last try.
                () = self.stop.cancelled() => {}
            }
            self.pause = (self.pause * 2).min(PAUSE);
        }
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let (name, version) = ("hotadd-agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let scope = Some(InstrumentationScope { name, version });
        let resource = Some(self.resource.clone());
        let scope_spans = vec![ScopeSpans { scope, spans }];
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans }] }
    }
}

/// By OpenTelemetry's semantic conventions for services.
fn resource(proxy: &str) -> Resource {
    let attributes = vec![
        KeyValue::text("service.name", "hotadd-agent"),
        KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::text("service.instance.id", proxy),
    ];
    Resource { attributes }
}
