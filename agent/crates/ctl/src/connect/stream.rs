//! A job's stream at full speed: BackupVm over the connection of tonic, its answer read as HTTP/2 brings it instead of by
//! tonic's decoder, which copies each message into a buffer of its own. How the stream ended is told by tonic.
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use hotadd_api::v1::BackupVmRequest;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use prost::Message as _;
use tonic::{
    Code, Status, Streaming,
    body::Body,
    client::GrpcService as _,
    codec::{DecodeBuf, Decoder},
};

use super::{
    Agent,
    wire::{Event, Flaw, Inbox, event},
};

const BACKUP_VM: &str = "/hotadd.v1.JobService/BackupVm";
const DETAILS: &str = "grpc-status-details-bin";
/// As tonic reads [`DETAILS`].
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a stream has no next event.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The server's word, or that of the connection.
    Status(Status),
    Flaw(Flaw),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Flaw> for Ended {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// The events of one job.
#[derive(Debug)]
pub(crate) struct JobStream {
    body: Body,
    status: StatusCode,
    inbox: Inbox,
    ended: bool,
}

impl Agent {
    /// Starts a job. Dropping the stream ends it.
    ///
    /// # Errors
    /// The status of a server that has no stream for us.
    pub(crate) async fn backup_vm(&self, request: &BackupVmRequest) -> Result<JobStream, Status> {
        let mut channel = self.channel.clone();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|error| Status::from_error(error.into()))?;
        let answer = channel.call(http_request(request)?).await.map_err(|error| Status::from_error(error.into()))?;
        begun(answer).await
    }
}

async fn begun(answer: Response<Body>) -> Result<JobStream, Status> {
    let (head, body) = answer.into_parts();
    let status = head.status;
    match Status::from_header_map(&readable(head.headers)) {
        // Headers that say OK are an end without an event.
        Some(told) if told.code() == Code::Ok => Ok(JobStream { body, status, inbox: Inbox::default(), ended: true }),
        Some(refused) => Err(refused),
        None if status == StatusCode::OK => Ok(JobStream { body, status, inbox: Inbox::default(), ended: false }),
        // What such an answer holds is no gRPC; without trailers tonic never calls it good.
        None => Err(verdict(None, status).await.err().unwrap_or_else(|| Status::unknown(status.to_string()))),
    }
}

fn http_request(request: &BackupVmRequest) -> Result<Request<Body>, Status> {
    let length = request.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).map_err(|_| Status::out_of_range("the request is too long"))?);
    request.encode(&mut message).map_err(|error| Status::internal(error.to_string()))?;
    // Scheme and authority are the channel's.
    Request::post(BACKUP_VM)
        .version(http::Version::HTTP_2)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Body::new(Full::new(message.freeze())))
        .map_err(|error| Status::internal(error.to_string()))
}

impl JobStream {
    /// The next event; `None`: the stream ended well.
    pub(crate) async fn message(&mut self) -> Result<Option<Event>, Ended> {
        while !self.ended {
            if let Some(message) = self.inbox.next()? {
                match event(message)? {
                    Some(event) => return Ok(Some(event)),
                    // One that this version does not know: evolution is additive.
                    None => continue,
                }
            }
            match self.body.frame().await.transpose()? {
                None => return self.end(None).await,
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.inbox.push(data),
                    Err(other) => return self.end(other.into_trailers().ok()).await,
                },
            }
        }
        Ok(None)
    }

    async fn end(&mut self, trailers: Option<HeaderMap>) -> Result<Option<Event>, Ended> {
        self.ended = true;
        verdict(trailers, self.status).await?;
        if self.inbox.is_empty() { Ok(None) } else { Err(Flaw::Truncated.into()) }
    }
}

/// How tonic would judge a stream that ends so.
async fn verdict(trailers: Option<HeaderMap>, status: StatusCode) -> Result<(), Status> {
    let end = Empty::<Bytes>::new().with_trailers(async move { trailers.map(|trailers| Ok(readable(trailers))) });
    Streaming::new_response(Nothing, end, status, None, None).message().await.map(drop)
}

/// Without details that are no base64, at which tonic panics.
fn readable(mut headers: HeaderMap) -> HeaderMap {
    if headers.get(DETAILS).is_some_and(|details| BASE64.decode(details).is_err()) {
        headers.remove(DETAILS);
    }
    headers
}

/// Of a stream without messages.
struct Nothing;

impl Decoder for Nothing {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use hotadd_api::{
        status::{from_status, to_status},
        v1::{Cleanup, JobEvent, Reason, job_event::Item},
    };

    use super::*;

    /// A whole message with a job's id.
    fn said() -> Vec<u8> {
        let message = JobEvent { item: Some(Item::JobId("job-1".into())) }.encode_to_vec();
        [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
    }

    fn trailers(of: &[(&'static str, &str)]) -> Option<HeaderMap> {
        Some(of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    fn ok() -> Option<HeaderMap> {
        trailers(&[("grpc-status", "0")])
    }

    async fn stream(data: Vec<u8>, trailers: Option<HeaderMap>) -> JobStream {
        let body = Full::new(Bytes::from(data)).with_trailers(async move { trailers.map(Ok) });
        begun(Response::new(Body::new(body))).await.unwrap()
    }

    /// How a stream ends that first says its job's id.
    async fn end_after_id(more: &[u8], trailers: Option<HeaderMap>) -> Result<Option<Event>, Ended> {
        let mut stream = stream([&said()[..], more].concat(), trailers).await;
        assert!(matches!(stream.message().await, Ok(Some(Event::Told(_)))));
        stream.message().await
    }

    #[tokio::test]
    async fn a_stream_ends_well_only_with_its_trailers() {
        assert!(matches!(end_after_id(&[], ok()).await, Ok(None)));
        let Err(Ended::Status(status)) = end_after_id(&[], None).await else { panic!("a status") };
        assert_eq!(status.code(), Code::Unknown);
        let Err(Ended::Status(status)) = end_after_id(&[], trailers(&[("x", "y")])).await else { panic!("a status") };
        assert_eq!(status.code(), Code::Unknown);
    }

    #[tokio::test]
    async fn the_reason_of_an_agent_comes_through() {
        let cleanup = Cleanup::Owed.into();
        let reason = Reason { code: "HA-JOB-004".into(), message: "é: 100%".into(), cleanup, ..Reason::default() };
        let mut told = HeaderMap::new();
        to_status(Code::Aborted, &reason, None).add_header(&mut told).unwrap();
        let Err(Ended::Status(status)) = end_after_id(&[], Some(told.clone())).await else { panic!("a status") };
        assert_eq!((status.code(), from_status(&status)), (Code::Aborted, Some(reason.clone())));
        let mut refused = Response::new(Body::empty());
        *refused.headers_mut() = told;
        assert_eq!(from_status(&begun(refused).await.unwrap_err()), Some(reason));
    }

    #[tokio::test]
    async fn what_contradicts_grpc_is_a_flaw() {
        for (more, flaw) in [
            (&[0, 0][..], Flaw::Truncated),
            (&[0, 0, 0, 0, 9, 1], Flaw::Truncated),
            (&[1, 0, 0, 0, 1, 1], Flaw::Flag(1)),
            (&[0, 0xff, 0, 0, 0, 1], Flaw::TooLong(0xff00_0000)),
        ] {
            let Err(Ended::Flaw(seen)) = end_after_id(more, ok()).await else { panic!("{flaw}") };
            assert_eq!(seen, flaw);
        }
        // A stream that is torn within a message is no contract's matter.
        assert!(matches!(end_after_id(&[0, 0], None).await, Err(Ended::Status(_))));
    }

    #[tokio::test]
    async fn answers_that_are_no_stream_are_a_status() {
        for (http, code) in [(502, Code::Unavailable), (404, Code::Unimplemented), (418, Code::Unknown)] {
            let page = Response::builder().status(http).body(Body::new(Full::new(Bytes::from("<html>")))).unwrap();
            assert_eq!(begun(page).await.unwrap_err().code(), code, "{http}");
        }
        let nothing = Response::builder().header("grpc-status", "0").body(Body::empty()).unwrap();
        assert!(matches!(begun(nothing).await.unwrap().message().await, Ok(None)));
    }

    #[tokio::test]
    async fn details_that_are_no_base64_do_not_make_it_panic() {
        let told = trailers(&[("grpc-status", "9"), ("grpc-status-details-bin", "*"), ("grpc-message", "%ff")]);
        let Err(Ended::Status(status)) = end_after_id(&[], told).await else { panic!("a status") };
        assert!(status.details().is_empty());
    }
}
