//! The body of an answer whose call counts until its end: a stream until its last message, or until its client takes no more, an ordinary
//! call until its answer is sent. Looks at no byte.
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::access::Running;

/// The body; `running` ends with it.
pub(super) fn until_its_end(body: Body, running: Option<Running>) -> Body {
    match running {
        Some(running) if !body.is_end_stream() => Body::new(Counted { body, running: Some(running) }),
        _ => body,
    }
}

struct Counted {
    body: Body,
    /// `None`: its end was told. The place is free before the client sees it, so that one that waits for each answer holds one place.
    running: Option<Running>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        if !matches!(&frame, Some(Ok(frame)) if !frame.is_trailers()) {
            self.running = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::Arc,
        time::{Duration, Instant},
    };

    use tonic::codegen::http::HeaderMap;

    use super::*;
    use crate::access::{Allowed, Over, Shares};

    /// What is in the stream, then its trailers.
    struct Message(Vec<Frame<Bytes>>);

    impl HttpBody for Message {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    fn one_at_a_time() -> (Shares, Arc<str>) {
        (Shares::new(Allowed { calls: 1, calls_per_second: 1.0, burst: 100.0 }), Arc::from("a"))
    }

    fn answer(shares: &Shares, name: &Arc<str>) -> Body {
        let running = shares.begin(name, Instant::now()).unwrap();
        let frames = vec![Frame::trailers(HeaderMap::new()), Frame::data(Bytes::from_static(b"1"))];
        until_its_end(Body::new(Message(frames)), Some(running))
    }

    fn is_full(shares: &Shares, name: &Arc<str>) -> bool {
        shares.begin(name, Instant::now() + Duration::from_secs(1)).is_err_and(|over| over == Over::Calls)
    }

    #[tokio::test]
    async fn a_call_counts_until_its_trailers() {
        let (shares, name) = one_at_a_time();
        let mut body = answer(&shares, &name);
        let mut next = async || poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await.unwrap().unwrap();
        assert!(next().await.is_data() && is_full(&shares, &name));
        assert!(next().await.is_trailers() && !is_full(&shares, &name));
    }

    #[test]
    fn a_call_that_nobody_takes_to_its_end_counts_no_longer() {
        let (shares, name) = one_at_a_time();
        let body = answer(&shares, &name);
        assert!(is_full(&shares, &name));
        drop(body);
        assert!(!is_full(&shares, &name));
    }

    #[test]
    fn an_answer_without_a_body_is_over() {
        let (shares, name) = one_at_a_time();
        let running = shares.begin(&name, Instant::now()).unwrap();
        let body = until_its_end(Body::empty(), Some(running));
        assert!(body.is_end_stream() && !is_full(&shares, &name));
    }
}
