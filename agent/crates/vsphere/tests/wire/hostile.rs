//! A hostile or broken server: typed errors, bounded memory, no panic.

use std::time::Duration;

use crate::support::{Reply, Seen, Server, vim};
use hotadd_vsphere::{Client, Error, ErrorKind, MoRef, Trust};

const MIB: usize = 1 << 20;

fn happy(seen: &Seen) -> Reply {
    vim::happy(seen, "8.0.2.0", &[])
}

/// Connects to a server that answers every property read with `reply`, and reads a VM.
async fn read_vm(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Error {
    let server = Server::start(move |seen| if seen.op == "RetrievePropertiesEx" { reply() } else { happy(seen) }).await;
    let mut config = server.config();
    config.max_response_bytes = 8 * MIB;
    let client = Client::connect(config).await.unwrap();
    client.vm(&vim::vm_ref()).await.unwrap_err()
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_in_bounded_memory() {
    let before = peak_memory_kib();
    let piece = "<x>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa</x>".repeat(1000);
    let times = 100 * MIB / piece.len();
    let error = read_vm(move || Reply::Flood("<a>".to_owned(), piece.clone(), times)).await;
    assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error}");
    let grown = peak_memory_kib() - before;
    assert!(grown < 60 * 1024, "{grown} KiB for a limit of 8 MiB");
}

#[tokio::test]
async fn an_announced_giant_is_refused_before_it_is_read() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 107374182400\r\n\r\n<a>";
    let error = read_vm(|| Reply::Raw(head.as_bytes().to_vec())).await;
    assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn many_small_elements_are_refused_in_bounded_memory() {
    let before = peak_memory_kib();
    let error = read_vm(|| Reply::Xml(200, format!("<a>{}</a>", "<b/>".repeat(1_900_000)))).await;
    assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error}");
    let grown = peak_memory_kib() - before;
    assert!(grown < 200 * 1024, "{grown} KiB for 7.6 MB of tags");
}

#[tokio::test]
async fn deep_nesting_is_refused() {
    let error = read_vm(|| Reply::Xml(200, "<a>".repeat(1_000_000))).await;
    assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn documents_that_are_no_answer_are_protocol_errors() {
    let bomb = "<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]><l>&b;</l>";
    let external = "<!DOCTYPE l [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><l>&x;</l>";
    let shapes = [
        bomb.to_owned(),
        external.to_owned(),
        String::new(),
        "not xml".to_owned(),
        "<a></b>".to_owned(),
        "<html><body>It works!</body></html>".to_owned(),
        vim::envelope(""),
        vim::envelope("<OtherResponse xmlns=\"urn:vim25\"/>"),
        vim::envelope("<RetrievePropertiesExResponse/>"),
        vim::envelope("<RetrievePropertiesExResponse><returnval/></RetrievePropertiesExResponse>"),
        vim::envelope("<RetrievePropertiesExResponse><returnval><objects/></returnval></RetrievePropertiesExResponse>"),
        vim::envelope("&undefined;"),
    ];
    for text in shapes {
        let shown: String = text.chars().take(300).collect();
        let error = read_vm(move || Reply::Xml(200, text.clone())).await;
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{shown}: {error}");
        assert!(!error.to_string().contains("root:"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_about_another_object_is_refused() {
    let text = vim::VM.replace("vm-42</obj>", "vm-666</obj>");
    let error = read_vm(move || vim::answer("RetrievePropertiesEx", &text)).await;
    assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn wrong_types_name_the_field() {
    for (from, to) in [
        ("<key>2000</key>", "<key>x</key>"),
        ("type=\"xsd:boolean\">true", "type=\"xsd:boolean\">perhaps"),
        ("<createTime>2026-01-02T", "<createTime>soon"),
        ("type=\"HostSystem\" xsi:type", "xsi:type"),
    ] {
        assert!(vim::VM.contains(from), "{from}");
        let text = vim::VM.replace(from, to);
        let error = read_vm(move || vim::answer("RetrievePropertiesEx", &text)).await;
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{to}: {error}");
        assert!(!error.context().is_empty());
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_a_protocol_error() {
    let error = read_vm(|| Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<\xff\xfe>".to_vec())).await;
    assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_truncated_body_is_unreachable_for_a_read() {
    let error = read_vm(|| Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n<a>".to_vec())).await;
    assert_eq!(*error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let away = "Location: https://evil.example/sdk\r\n".to_owned();
    let error = read_vm(move || Reply::XmlWith(302, away.clone(), String::new())).await;
    assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("redirect"), "{error}");
}

#[tokio::test]
async fn statuses_that_are_not_soap() {
    for (status, kind) in [
        (503, ErrorKind::Unreachable),
        (404, ErrorKind::Unreachable),
        (500, ErrorKind::Unreachable),
        (401, ErrorKind::Unauthorized),
        (204, ErrorKind::Protocol),
    ] {
        let error = read_vm(move || Reply::Xml(status, String::new())).await;
        assert_eq!(*error.kind(), kind, "{status}: {error}");
    }
}

#[tokio::test]
async fn a_slow_drip_ends_at_the_deadline() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "RetrievePropertiesEx" => Reply::Drip(Duration::from_millis(50)),
        _ => happy(seen),
    })
    .await;
    let mut config = server.config();
    config.request_timeout = Duration::from_secs(3);
    let client = Client::connect(config).await.unwrap();
    let error = client.vm(&vim::vm_ref()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Deadline, "{error}");
}

#[tokio::test]
async fn endless_paging_is_refused() {
    let endless = |seen: &Seen| match seen.op.as_str() {
        "ContinueRetrievePropertiesEx" => vim::answer(&seen.op, "<returnval><token>t</token></returnval>"),
        _ => happy(seen),
    };
    let server = Server::start(endless).await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.find_vms_by_name("x").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_circle_of_parents_is_refused() {
    let server = Server::start(|seen| match seen.op.as_str() {
        "RetrievePropertiesEx" => vim::answer(
            &seen.op,
            "<returnval><objects><obj type=\"Folder\">f</obj><propSet><name>parent</name><val type=\"Folder\">f</val>\
             </propSet></objects></returnval>",
        ),
        _ => happy(seen),
    })
    .await;
    let client = Client::connect(server.config()).await.unwrap();
    let error = client.datacenter_of(&MoRef::new("Folder", "f")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
}

async fn connect_with(trust: impl FnOnce(&Server) -> Trust) -> (Error, usize) {
    let server = Server::start(happy).await;
    let mut config = server.config();
    config.trust = trust(&server);
    let error = Client::connect(config).await.unwrap_err();
    (error, server.seen.lock().unwrap().len())
}

#[tokio::test]
async fn a_wrong_pin_is_a_tls_error_and_nothing_was_sent() {
    let (error, requests) = connect_with(|s| {
        let mut pin = s.pin;
        pin[31] ^= 1;
        Trust::Pin(pin)
    })
    .await;
    assert_eq!((error.kind(), requests), (&ErrorKind::Tls, 0), "{error}");
    assert!(error.to_string().contains("pinned"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_a_tls_error() {
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    let (error, requests) = connect_with(|_| Trust::Ca(other.into_bytes())).await;
    assert_eq!((error.kind(), requests), (&ErrorKind::Tls, 0), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_name_is_a_tls_error() {
    let server = Server::start_as("vc.example", happy).await;
    let mut config = server.config();
    config.trust = Trust::Ca(server.cert_pem.clone().into_bytes());
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("vc.example"), "{error}");
}

#[tokio::test]
async fn an_unusable_ca_file_is_a_tls_error() {
    for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let (error, _) = connect_with(|_| Trust::Ca(pem.as_bytes().to_vec())).await;
        assert_eq!(*error.kind(), ErrorKind::Tls, "{error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let server = Server::start(happy).await;
    let config = server.config();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut config = config;
    config.url = format!("https://127.0.0.1:{port}");
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unreachable, "{error}");
}
