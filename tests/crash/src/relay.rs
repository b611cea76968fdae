//! A TCP relay between controller and agent that can stop forwarding without closing anything: a cable that was cut.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// See the module. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    pub port: u16,
    cut: Arc<AtomicBool>,
    accept: JoinHandle<()>,
}

impl Relay {
    /// Forwards to `port` of this host.
    pub async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let here = listener.local_addr()?.port();
        let cut = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cut);
        let accept = tokio::spawn(async move {
            let mut pumps = Pumps(Vec::new());
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                pumps.0.push(tokio::spawn(pump(near_in, far_out, Arc::clone(&flag))));
                pumps.0.push(tokio::spawn(pump(far_in, near_out, Arc::clone(&flag))));
            }
        });
        Ok(Self { port: here, cut, accept })
    }

    /// From now on nothing passes, in both directions; nobody is told.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
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

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if cut.load(Ordering::Relaxed) {
            // Both sockets stay open and silent until the relay goes.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if cut.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
