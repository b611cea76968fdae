//! The HTTPS side of a lease: `GET /nfc/<ticket>/<file>`, streamed, as long as the lease lives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::encode::{self, Chain, Out};
use super::{Cues, Phase};
use crate::Sim;

/// Chunks that wait for a slow reader.
const AHEAD: usize = 4;
/// Between two looks of a slow download.
const SLICE: Duration = Duration::from_millis(10);

/// An answer's body: whole, or as it is made.
#[derive(Debug)]
pub(crate) enum Content {
    Whole(Full<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Content::Whole(full) => Pin::new(full).poll_frame(cx).map_err(|e| match e {}),
            Content::Stream(chunks) => chunks.poll_recv(cx).map(|c| c.map(|c| c.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Content::Whole(full) => full.is_end_stream(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(full) => full.size_hint(),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// The file behind a path; None when no ready lease has it.
pub(crate) fn open(sim: &Arc<Sim>, path: &str) -> Option<Content> {
    let (ticket, name) = path.strip_prefix("/nfc/")?.split_once('/')?;
    let (lease, chain, cues) = {
        let s = sim.lock();
        let l = s.leases.values().find(|l| l.ticket == ticket && l.phase == Phase::Ready)?;
        let file = l.files.iter().find(|f| f.name == name)?;
        let Some(path) = &file.path else { return Some(Content::Whole(Full::new(Bytes::from_static(b"nvram")))) };
        match Chain::open(&s.store.layers(path), file.capacity) {
            Ok(chain) => (l.id.clone(), chain, l.cues.clone()),
            Err(error) => {
                tracing::warn!(%error, path, "export");
                return None;
            }
        }
    };
    let (tx, rx) = mpsc::channel(AHEAD);
    let (sim, name) = (Arc::clone(sim), name.to_owned());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&sim, &lease, &chain, &name, &cues, &tx) {
            tracing::info!(%error, lease, "export ended");
            tx.blocking_send(Err(error)).ok();
        }
    });
    Some(Content::Stream(rx))
}

fn send(
    sim: &Sim,
    lease: &str,
    chain: &Chain,
    name: &str,
    cues: &Cues,
    tx: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut total = 0u64;
    let mut put = |mut bytes: Vec<u8>| {
        let cut = cues.disconnect_after.map(|n| n.saturating_sub(total)).filter(|n| *n < bytes.len() as u64);
        if let Some(n) = cut {
            bytes.truncate(usize::try_from(n).unwrap_or(0));
        }
        total += bytes.len() as u64;
        {
            let mut s = sim.lock();
            let l = s.leases.get_mut(lease).filter(|l| l.phase == Phase::Ready);
            l.ok_or_else(|| io::Error::other("the lease is over"))?.sent += bytes.len() as u64;
        }
        if let Some(bps) = cues.bps {
            slow(sim, lease, bytes.len() as u64, bps, tx);
        }
        tx.blocking_send(Ok(Bytes::from(bytes))).map_err(io::Error::other)?;
        if cut.is_some() { Err(io::Error::other("disconnected on cue")) } else { Ok(()) }
    };
    encode::disk(chain, name, cues, &mut Out { position: 0, send: &mut put })
}

/// Takes the time that so many bytes need; a reader or lease that goes away ends it.
fn slow(sim: &Sim, lease: &str, bytes: u64, bps: u64, tx: &mpsc::Sender<io::Result<Bytes>>) {
    let until = Instant::now() + Duration::from_secs(bytes) / u32::try_from(bps.max(1)).unwrap_or(u32::MAX);
    let ready = || sim.lock().leases.get(lease).is_some_and(|l| l.phase == Phase::Ready);
    while Instant::now() < until && !tx.is_closed() && !*sim.stopped().borrow() && ready() {
        std::thread::sleep(SLICE);
    }
}
