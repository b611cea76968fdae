//! Export leases: files, waiting, and hosts that answer other than they should.

use std::time::Duration;

use hotadd_vsphere::{Client, Error, ErrorKind, LeaseInfo, LeaseState};

use crate::support::{Reply, Seen, Server, vim};

const LONG: Duration = Duration::from_secs(60);

fn file(server: &Server, more: &str) -> String {
    format!(
        "<deviceUrl><key>/vm-42/ParaVirtualSCSIController0:1</key><importKey>k</importKey>\
         <url>https://localhost:{}/nfc/secret/disk-0.vmdk</url>{more}</deviceUrl>",
        server.addr.port()
    )
}

/// A vCenter whose lease names files of `host`.
async fn vcenter(files: String) -> (Server, Client) {
    let server = Server::start(move |seen| match seen.op.as_str() {
        "RetrievePropertiesEx" if seen.body.contains("type=\"HttpNfcLease\"") => vim::lease("ready", &files),
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    (server, client)
}

async fn ready(client: &Client) -> Result<LeaseInfo, Error> {
    client.lease_ready(&vim::lease_ref(), LONG, None).await
}

async fn host(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(answer).await
}

/// Downloads from a host that answers so.
async fn download(answer: Reply, stall: Duration) -> Result<Vec<u8>, Error> {
    let esx = host(move |_| answer.clone()).await;
    let pin: String = esx.pin.iter().map(|b| format!("{b:02X}:")).collect();
    let thumbprint = format!("<sslThumbprint>{}</sslThumbprint>", pin.trim_end_matches(':'));
    let (_vcenter, client) = vcenter(file(&esx, &thumbprint)).await;
    let info = ready(&client).await?;
    let mut stream = client.lease_download(&info.files[0], stall).await?;
    let seen = esx.seen.lock().unwrap()[0].clone();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/nfc/secret/disk-0.vmdk"));
    assert_eq!(seen.cookie, "", "the session's cookie is the vCenter's");
    let mut all = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    assert_eq!(stream.received(), all.len() as u64);
    Ok(all)
}

#[tokio::test]
async fn the_files_of_a_lease() {
    let files = "<deviceUrl><key>/vm-42/nvram</key><importKey>n</importKey><url>https://esx1.lab/nfc/52d/x.nvram</url>\
                 <sslThumbprint></sslThumbprint><disk>false</disk></deviceUrl>";
    let (_server, client) = vcenter(format!("{}{files}", vim::LEASE_FILES)).await;
    let info = ready(&client).await.unwrap();
    assert_eq!((info.timeout, info.capacity_bytes, info.files.len()), (Duration::from_secs(300), 1 << 20, 2));
    assert_eq!((info.entity, info.files[0].host().as_deref()), (vim::vm_ref(), Some("esx1.lab")));
    assert_eq!((info.files[0].disk, info.files[1].disk, info.files[0].size), (Some(true), Some(false), None));
    assert!(!format!("{:?}", info.files).contains("52d"), "a URL opens the disk for whoever reads the log");
}

#[tokio::test]
async fn a_lease_that_fails_or_is_gone() {
    let (_server, client) = vcenter(String::new()).await;
    assert_eq!(client.lease_state(&vim::lease_ref()).await.unwrap(), LeaseState::Ready);
    for op in ["CreateFilter", "WaitForUpdatesEx", "RetrievePropertiesEx"] {
        let gone = "<obj type=\"HttpNfcLease\">session[1]lease</obj>";
        let server = Server::start(move |seen| match seen.op == op {
            true => vim::fault("ManagedObjectNotFound", gone, "gone"),
            false => vim::happy(seen, "8.0.2.0", &[]),
        })
        .await;
        let client = Client::connect(server.config()).await.unwrap();
        assert_eq!(*ready(&client).await.unwrap_err().kind(), ErrorKind::LeaseGone, "{op}");
        if op == "RetrievePropertiesEx" {
            assert_eq!(client.lease_state(&vim::lease_ref()).await.unwrap(), LeaseState::Gone);
        }
    }
    let server = Server::start(|seen| match seen.op.as_str() {
        "HttpNfcLeaseProgress" => vim::fault("InvalidState", "", "over"),
        _ => vim::happy(seen, "8.0.2.0", &[]),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    assert_eq!(*client.lease_progress(&vim::lease_ref(), 5).await.unwrap_err().kind(), ErrorKind::LeaseGone);
}

#[tokio::test]
async fn answers_of_a_host() {
    let whole = download(Reply::Xml(200, "stream".into()), LONG).await.unwrap();
    assert_eq!(whole, b"stream");
    let chunked = download(Reply::Flood("a".into(), "bc".into(), 3), LONG).await.unwrap();
    assert_eq!(chunked, b"abcbcbc");
    let kind = |r: Result<Vec<u8>, Error>| r.unwrap_err().kind().clone();
    let elsewhere = Reply::XmlWith(302, "Location: https://elsewhere.lab/\r\n".into(), String::new());
    assert_eq!(kind(download(elsewhere, LONG).await), ErrorKind::Protocol);
    assert_eq!(kind(download(Reply::Xml(404, String::new()), LONG).await), ErrorKind::LeaseGone);
    assert_eq!(kind(download(Reply::Xml(403, String::new()), LONG).await), ErrorKind::Unauthorized);
    assert_eq!(kind(download(Reply::Xml(206, "part".into()), LONG).await), ErrorKind::Protocol);
    assert_eq!(kind(download(Reply::Hangup, LONG).await), ErrorKind::Unreachable);
    assert_eq!(kind(download(Reply::Silence, Duration::from_millis(300)).await), ErrorKind::Deadline);
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec();
    assert_eq!(kind(download(Reply::Raw(cut), LONG).await), ErrorKind::Unreachable);
    let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec();
    assert_eq!(kind(download(Reply::Raw(cut), LONG).await), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_url_that_is_no_https_is_refused() {
    for url in ["http://localhost/nfc/x", "file:///etc/passwd", "not a url"] {
        let files = format!(
            "<deviceUrl><key>/vm-42/ParaVirtualSCSIController0:1</key><importKey>k</importKey><url>{url}</url>\
             <sslThumbprint></sslThumbprint></deviceUrl>"
        );
        let (_server, client) = vcenter(files).await;
        let info = ready(&client).await.unwrap();
        let error = client.lease_download(&info.files[0], LONG).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{url}: {error}");
    }
}
