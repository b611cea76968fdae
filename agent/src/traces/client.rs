//! The way to the collector: OTLP over gRPC, in mutual TLS with the agent's own certificate. The files are read for each connection, so one
//! that was renewed is used from the next on. A connection on which anything failed is not used again. What the collector says is bounded,
//! and its messages stay out of the log.
use std::{fs, time::Duration};

use secrecy::ExposeSecret as _;
use tonic::{
    Code, Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    otlp::{EXPORT, ExportTraceServiceRequest, ExportTraceServiceResponse},
    queue::{Failed, Way},
};
use crate::config::TracesSettings;

/// Bytes of a reason in the log: what TLS says quotes the collector's certificate.
const TEXT: usize = 300;
/// Of an answer, and of its headers: an honest one is some bytes.
const ANSWER: usize = 16 << 10;
const HEADERS: u32 = 8 << 10;
/// A collector that is gone without a word is noticed.
const ALIVE: Duration = Duration::from_secs(30);

/// Codes after which the same request can't succeed (OTLP specification, "Failures"). What tonic makes of a connection that breaks is among
/// the others.
const FINAL: [Code; 7] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::FailedPrecondition,
    Code::Unimplemented,
    Code::Unauthenticated,
];

/// See the module.
pub(super) struct Collector {
    settings: TracesSettings,
    /// One that worked.
    channel: Option<Channel>,
}

impl Collector {
    pub(super) fn new(settings: &TracesSettings) -> Self {
        Self { settings: settings.clone(), channel: None }
    }

    async fn connect(&self) -> Result<Channel, String> {
        let settings = self.settings.clone();
        let endpoint = tokio::task::spawn_blocking(move || endpoint(&settings)).await.map_err(|e| e.to_string())??;
        endpoint.connect().await.map_err(|e| lost(&e))
    }
}

impl Way for Collector {
    async fn send(&mut self, batch: ExportTraceServiceRequest) -> Result<(), Failed> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.connect().await.map_err(Failed::Again)?,
        };
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER);
        grpc.ready().await.map_err(|e| Failed::Again(lost(&e)))?;
        let codec = ProstCodec::<_, ExportTraceServiceResponse>::default();
        let answer = grpc.unary(Request::new(batch), PathAndQuery::from_static(EXPORT), codec).await;
        let answer = answer.map_err(|status| match status.code() {
            code if FINAL.contains(&code) => Failed::Final(format!("it answers {code:?}")),
            code => Failed::Again(format!("it answers {code:?}")),
        })?;
        self.channel = Some(channel);
        match answer.into_inner().partial_success {
            Some(part) if part.rejected_spans > 0 => Err(Failed::Final("it takes a part of the spans only".into())),
            _ => Ok(()),
        }
    }
}

/// Its Display has no cause.
fn lost(error: &tonic::transport::Error) -> String {
    let mut text = format!("no connection: {error:?}");
    text.truncate(text.floor_char_boundary(TEXT));
    text
}

fn endpoint(settings: &TracesSettings) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from(settings.endpoint.clone())
        .connect_timeout(settings.timeout)
        .http2_max_header_list_size(HEADERS)
        .http2_keep_alive_interval(ALIVE)
        // A connection that was given up while the other side reads nothing ends by it, too.
        .keep_alive_while_idle(true)
        .keep_alive_timeout(settings.timeout);
    let Some(ca) = &settings.ca_file else { return Ok(endpoint) };
    let ca = fs::read(ca).map_err(|e| format!("traces.ca_file: {}: {e}", ca.display()))?;
    let own = settings.tls.read().map_err(|faults| faults.join("; "))?;
    let identity = Identity::from_pem(own.certificate, own.key.expose_secret());
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).identity(identity);
    endpoint.tls_config(tls).map_err(|e| format!("traces: {e:?}"))
}
