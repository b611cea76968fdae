//! The most that the whole way could give on this machine: our engine reads, one TLS connection carries, the receiver drops. No
//! gRPC, no hash, no scan; two threads, blocking calls.
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use hotadd_blockio::EngineKind;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};

use super::{
    measure::{Contender, Sample, cpu},
    ways::{DEPTH, read},
};
use crate::Pki;

/// As a receiver would take it.
const PIECE: usize = 256 << 10;

pub(super) fn contender<'a>(node: &'a Path, pki: &'a Pki, bytes: u64) -> Contender<'a> {
    Contender::new("io_uring into one TLS connection, no gRPC", "", move || round(node, pki, bytes))
}

fn round(node: &Path, pki: &Pki, bytes: u64) -> Result<Sample> {
    let (before, begun) = (cpu()?, Instant::now());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let client = client(pki)?;
    let received = thread::scope(|scope| -> Result<u64> {
        let receiver = scope.spawn(move || receive(client, TcpStream::connect(address)?));
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut stream = StreamOwned::new(ServerConnection::new(server(pki)?)?, socket);
        let mut failed = None;
        read(EngineKind::IoUring, DEPTH, node, bytes, &mut |block| match stream.write_all(block.data.as_ref()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })
        .map_err(|error| failed.take().map_or(error, Into::into))?;
        stream.conn.send_close_notify();
        stream.flush()?;
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    })?;
    ensure!(received == bytes, "received {received} of {bytes}");
    Ok(Sample::new(bytes, begun.elapsed(), cpu()?.saturating_sub(before)))
}

fn receive(client: ClientConnection, socket: TcpStream) -> Result<u64> {
    socket.set_nodelay(true)?;
    let (mut stream, mut buffer, mut total) = (StreamOwned::new(client, socket), vec![0; PIECE], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            got => total += u64::try_from(got)?,
        }
    }
}

fn server(pki: &Pki) -> Result<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_file(pki.file("server.pem"))?];
    let key = PrivateKeyDer::from_pem_file(pki.file("server.key"))?;
    let builder =
        ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13])?;
    Ok(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?))
}

fn client(pki: &Pki) -> Result<ClientConnection> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.file("ca.pem")).context("ca.pem")?)?;
    let builder =
        ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13])?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?)
}
