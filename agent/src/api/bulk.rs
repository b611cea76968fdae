//! The streams that carry frames, without tonic's encoder: a frame's payload goes from the arena's buffer to TLS as it lies there. tonic
//! would copy every message into a buffer that is allocated for it. Everything else of a call (request, refusal, headers) stays tonic's.
//!
//! ```text
//! event ─▶ 5 bytes of gRPC │ envelope with every field but the payload │ payload, untouched
//!          └────────────── one DATA chunk ───────────────────────────┘   └── another ──┘
//! ```
//! Protobuf lets fields come in any order, so that the payload can be the last one.
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Task, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, future::BoxFuture};
use hotadd_api::{
    MAX_REQUEST_BYTES,
    v1::{self, disk_service_server::DiskService, job_service_server::JobService},
};
use http_body::{Body as HttpBody, Frame as Chunk};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tokio_stream::empty;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::Context;

const BACKUP_VM: &str = "/hotadd.v1.JobService/BackupVm";
const READ_DISK: &str = "/hotadd.v1.DiskService/ReadDisk";
/// `Frame.data`.
const DATA: u32 = 5;
/// Length of gRPC's prefix: a flag and the message's length.
const PREFIX: usize = 5;

/// A message of a stream that may be a frame.
pub(super) trait Envelope: Message {
    /// Number of the field that holds the frame.
    const FRAME: u32;
    /// The frame, if it is one.
    fn frame(&mut self) -> Option<&mut v1::Frame>;
}

impl Envelope for v1::JobEvent {
    const FRAME: u32 = 6;

    fn frame(&mut self) -> Option<&mut v1::Frame> {
        match &mut self.item {
            Some(v1::job_event::Item::Frame(frame)) => Some(frame),
            _ => None,
        }
    }
}

impl Envelope for v1::ReadDiskResponse {
    const FRAME: u32 = 1;

    fn frame(&mut self) -> Option<&mut v1::Frame> {
        match &mut self.item {
            Some(v1::read_disk_response::Item::Frame(frame)) => Some(frame),
            _ => None,
        }
    }
}

/// The message with gRPC's prefix, its payload apart.
fn cut<M: Envelope>(mut message: M) -> (Bytes, Bytes) {
    let Some(frame) = message.frame().filter(|frame| !frame.data.is_empty()) else {
        return (whole(&message), Bytes::new());
    };
    let payload = std::mem::take(&mut frame.data);
    let data = key_len(DATA) + encoded_len_varint(payload.len() as u64);
    let inner = frame.encoded_len() + data + payload.len();
    let length = key_len(M::FRAME) + encoded_len_varint(inner as u64) + inner;
    let mut head = prefixed(length, PREFIX + length - payload.len());
    encode_key(M::FRAME, WireType::LengthDelimited, &mut head);
    encode_varint(inner as u64, &mut head);
    head.extend_from_slice(&frame.encode_to_vec());
    encode_key(DATA, WireType::LengthDelimited, &mut head);
    encode_varint(payload.len() as u64, &mut head);
    (head.freeze(), payload)
}

fn whole(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut head = prefixed(length, PREFIX + length);
    head.extend_from_slice(&message.encode_to_vec());
    head.freeze()
}

/// Not compressed, and so long.
fn prefixed(length: usize, capacity: usize) -> BytesMut {
    let mut head = BytesMut::with_capacity(capacity);
    head.put_u8(0);
    head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    head
}

/// The body of an answer. Dropping it drops the stream, which is how a client that went away is seen.
struct Outgoing<S> {
    /// `None`: its end was told.
    stream: Option<S>,
    payload: Bytes,
}

impl<M: Envelope, S: Stream<Item = Result<M, Status>> + Unpin> HttpBody for Outgoing<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Chunk<Bytes>, Status>>> {
        if !self.payload.is_empty() {
            return Poll::Ready(Some(Ok(Chunk::data(std::mem::take(&mut self.payload)))));
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let end = match ready!(Pin::new(stream).poll_next(task)) {
            Some(Ok(message)) => {
                let (head, payload) = cut(message);
                self.payload = payload;
                return Poll::Ready(Some(Ok(Chunk::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.stream = None;
        let mut trailers = http::HeaderMap::new();
        end.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Chunk::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none() && self.payload.is_empty()
    }
}

/// A generated service, with the answers of its stream of frames sent as above.
#[derive(Debug, Clone)]
pub(super) struct Bulk<S> {
    inner: S,
    context: Context,
}

impl<S> Bulk<S> {
    pub(super) fn new(inner: S, context: Context) -> Self {
        Self { inner, context }
    }
}

impl<S: NamedService> NamedService for Bulk<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Bulk<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let context = self.context.clone();
        match request.uri().path() {
            BACKUP_VM => Box::pin(async move { Ok(answer(request, |request| context.backup_vm(request)).await) }),
            READ_DISK => Box::pin(async move { Ok(answer(request, |request| context.read_disk(request)).await) }),
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

/// Lets tonic read the request and say what is refused; the stream of what is not refused is sent by [`Outgoing`].
async fn answer<R, M, S, F>(request: http::Request<Body>, call: impl Fn(Request<R>) -> F + Send) -> http::Response<Body>
where
    R: Message + Default + 'static,
    M: Envelope + 'static,
    S: Stream<Item = Result<M, Status>> + Send + Unpin + 'static,
    F: Future<Output = Result<Response<S>, Status>> + Send,
{
    let taken = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (answer, taken) = (call(request), Arc::clone(&taken));
        async move {
            let stream = answer.await?.into_inner();
            *lock(&taken) = Some(stream);
            Ok::<_, Status>(Response::new(empty::<Result<M, Status>>()))
        }
    });
    let mut grpc = Grpc::new(ProstCodec::<M, R>::default()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let response = grpc.server_streaming(service, request).await;
    let stream = lock(&taken).take();
    match stream {
        Some(stream) => response.map(|_| Body::new(Outgoing { stream: Some(stream), payload: Bytes::new() })),
        None => response,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, reason};

    fn frame(data: &[u8], zero: bool) -> v1::Frame {
        let blake3 = blake3::hash(data).as_bytes().to_vec().into();
        let length = u32::try_from(data.len()).unwrap_or(0);
        v1::Frame {
            device_key: 2000,
            offset: 1 << 40,
            length,
            zero,
            data: data.to_vec().into(),
            blake3,
            compression: v1::Compression::Lz4.into(),
        }
    }

    /// What a client makes of it.
    fn received<M: Envelope + Default>(message: M) -> (M, usize) {
        let (head, payload) = cut(message);
        let all = [head, payload.clone()].concat();
        let (prefix, body) = all.split_at(PREFIX);
        assert_eq!(prefix[0], 0, "not compressed by gRPC");
        assert_eq!(prefix[1..], u32::try_from(body.len()).unwrap().to_be_bytes());
        (M::decode(body).unwrap(), payload.len())
    }

    #[test]
    fn what_is_cut_is_decoded_as_what_it_was() {
        for size in [0, 1, 127, 128, 65_536, 4 << 20] {
            let frame = frame(&vec![7; size], size == 0);
            let item = v1::read_disk_response::Item::Frame(frame.clone());
            let read = v1::ReadDiskResponse { item: Some(item) };
            assert_eq!(received(read.clone()), (read, size));
            let event = v1::JobEvent { item: Some(v1::job_event::Item::Frame(frame)) };
            assert_eq!(received(event.clone()), (event, size));
        }
        let other = v1::JobEvent { item: Some(v1::job_event::Item::JobId("a".into())) };
        assert_eq!(received(other.clone()), (other, 0));
    }

    #[test]
    fn a_payload_is_not_copied() {
        let frame = frame(&[7; 4096], false);
        let at = frame.data.as_ptr();
        let (_, payload) = cut(v1::JobEvent { item: Some(v1::job_event::Item::Frame(frame)) });
        assert_eq!(payload.as_ptr(), at);
    }

    async fn sent(events: Vec<Result<v1::JobEvent, Status>>) -> (Vec<Bytes>, http::HeaderMap) {
        let mut body = Outgoing { stream: Some(tokio_stream::iter(events)), payload: Bytes::new() };
        let (mut data, mut trailers) = (Vec::new(), None);
        while let Some(chunk) = std::future::poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            match chunk.unwrap().into_data() {
                Ok(bytes) => data.push(bytes),
                Err(chunk) => trailers = chunk.into_trailers().ok(),
            }
        }
        assert!(body.is_end_stream());
        (data, trailers.unwrap())
    }

    #[tokio::test]
    async fn an_answer_ends_with_its_status() {
        let event = || v1::JobEvent { item: Some(v1::job_event::Item::Frame(frame(&[7; 512], false))) };
        let (data, trailers) = sent(vec![Ok(event()), Ok(event())]).await;
        assert_eq!((data.len(), trailers.get("grpc-status").unwrap().as_bytes()), (4, &b"0"[..]));
        let refused = Error::new(&reason::JOB_STREAM, "it took nothing").into();
        let (data, trailers) = sent(vec![Ok(event()), Err(refused), Ok(event())]).await;
        assert_eq!(data.len(), 2, "nothing comes after an error");
        let told = hotadd_api::status::from_status(&Status::from_header_map(&trailers).unwrap()).unwrap();
        assert_eq!(told.code, reason::JOB_STREAM.code);
    }
}
