//! A TCP relay, between controller and agent or between agent and vCenter, that can stop forwarding without closing anything:
//! a cable that was cut. Mended, it goes on with what was on its way, as TCP does.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// See the module. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    pub port: u16,
    cut: watch::Sender<bool>,
    /// When a connection came first since [`Self::await_connection`].
    came: Arc<Mutex<Option<Instant>>>,
    accept: JoinHandle<()>,
}

impl Relay {
    /// Forwards to `port` of this host.
    pub async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let here = listener.local_addr()?.port();
        let (cut, flag) = watch::channel(false);
        let came = Arc::new(Mutex::new(None));
        let first = Arc::clone(&came);
        let accept = tokio::spawn(async move {
            let mut pumps = Pumps(Vec::new());
            while let Ok((near, _)) = listener.accept().await {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                pumps.0.retain(|pump| !pump.is_finished());
                pumps.0.push(tokio::spawn(pump(near_in, far_out, flag.clone())));
                pumps.0.push(tokio::spawn(pump(far_in, near_out, flag.clone())));
            }
        });
        Ok(Self { port: here, cut, came, accept })
    }

    /// From now on nothing passes, in both directions; nobody is told.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// What was held back passes.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }

    /// From now on the next connection is the first.
    pub fn await_connection(&self) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When it came.
    pub fn first_connection(&self) -> Option<Instant> {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

struct Pumps(Vec<JoinHandle<()>>);

impl Drop for Pumps {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        // Both sockets stay open and silent until the cable is mended or the relay goes.
        if cut.wait_for(|cut| !*cut).await.is_err() {
            return;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
