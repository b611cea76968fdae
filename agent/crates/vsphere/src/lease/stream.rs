//! Reading a file of a lease: chunks as they come, with a deadline for the next one. Nothing is gathered here.

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio_util::sync::CancellationToken;

use super::file::LeaseFile;
use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::http::classify;
use crate::soap;

const OP: &str = "lease_download";

/// A file that is being read.
#[derive(Debug)]
pub struct LeaseStream {
    response: reqwest::Response,
    stall: Duration,
    received: u64,
    lost: Option<CancellationToken>,
}

impl Client {
    /// Opens a file of a lease. It is served by an ESXi host whose certificate the lease names; redirects are refused.
    ///
    /// `stall` is the longest time without a byte, for the answer's head and for each chunk.
    ///
    /// # Errors
    /// `Tls`, `Unreachable`, `Unauthorized`, `Deadline`; `LeaseGone` when the host does not know the file (any more).
    pub async fn lease_download(&self, file: &LeaseFile, stall: Duration) -> Result<LeaseStream, Error> {
        let response = self.session.open_file(OP, &file.url, file.fingerprint(OP)?, stall).await?;
        match response.status() {
            StatusCode::OK => Ok(LeaseStream { response, stall, received: 0, lost: None }),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(Error::new(ErrorKind::LeaseGone, OP, format!("{}: HTTP status {}", file.key, response.status())))
            }
            other => Err(soap::status_error(OP, other)),
        }
    }
}

impl LeaseStream {
    /// The next bytes; `None` at the end of what the server announced. Whether the disk was whole, the decoder says.
    ///
    /// # Errors
    /// `Deadline` when no byte came in time, `Unreachable` when the connection broke, `LeaseGone` when the lease ended.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let lost = self.lost.clone();
        let lost = async move {
            match lost {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let at = self.received;
        let next = tokio::select! {
            next = tokio::time::timeout(self.stall, self.response.chunk()) => next,
            () = lost => return Err(Error::new(ErrorKind::LeaseGone, OP, format!("after {at} bytes"))),
        };
        match next {
            Ok(Ok(chunk)) => {
                self.received += chunk.as_ref().map_or(0, |c| c.len() as u64);
                Ok(chunk)
            }
            Ok(Err(e)) => {
                let cause = classify(OP, e).error;
                Err(Error::new(cause.kind().clone(), OP, format!("after {at} bytes: {}", cause.context()))
                    .with_source(cause))
            }
            Err(_) => Err(Error::new(ErrorKind::Deadline, OP, format!("no byte in {:?} after {at} bytes", self.stall))),
        }
    }

    /// Bytes so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Ends reading when the token is cancelled.
    pub(super) fn until(mut self, lost: CancellationToken) -> LeaseStream {
        self.lost = Some(lost);
        self
    }
}
