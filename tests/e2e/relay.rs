//! A TCP relay between a controller and the agent that can be cut like a cable: it stops forwarding in both directions and
//! closes nothing, so neither side gets a FIN or a RST.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use hotadd_harness::{Scene, grpc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};
use tonic::transport::Channel;

/// See the module. Everything ends with the value.
pub struct Relay {
    cut: watch::Sender<bool>,
    pub url: String,
    agent: watch::Sender<String>,
    /// Bytes that came from the agent.
    pub from_agent: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Relay {
    pub async fn start(scene: &Scene) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        let (agent, port) = watch::channel(port_of(scene)?);
        let (cut, state) = watch::channel(false);
        let from_agent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&from_agent);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut pumps = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let to = format!("127.0.0.1:{}", *port.borrow());
                let Ok(server) = TcpStream::connect(to).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                pumps.spawn(pump(from_client, to_server, state.clone(), Arc::default()));
                pumps.spawn(pump(from_server, to_client, state.clone(), Arc::clone(&counter)));
            }
        });
        Ok(Self { cut, url, agent, from_agent, _task: task })
    }

    /// A connection of its own through the relay.
    pub async fn channel(&self, scene: &Scene) -> Result<Channel> {
        grpc::connect(&self.url, &scene.pki, "client").await
    }

    /// The agent was started anew and has another port: new connections go there.
    pub fn follow(&self, scene: &Scene) -> Result<()> {
        self.agent.send_replace(port_of(scene)?);
        Ok(())
    }

    /// From here nothing is forwarded; the sockets stay open.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }
}

fn port_of(scene: &Scene) -> Result<String> {
    Ok(scene.url.rsplit(':').next().context("no port")?.to_owned())
}

async fn pump(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
    count: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = cut.wait_for(|cut| *cut) => break,
        };
        let Ok(length @ 1..) = read else { return };
        count.fetch_add(length as u64, Ordering::Relaxed);
        let written = tokio::select! {
            written = to.write_all(&buffer[..length]) => written,
            _ = cut.wait_for(|cut| *cut) => break,
        };
        if written.is_err() {
            return;
        }
    }
    // Both halves stay open until the relay is dropped.
    std::future::pending::<()>().await;
}
