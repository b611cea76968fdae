//! The VDDK transport with a real nbdkit behind the double of its plug-in: bytes, secrets, deaths and reasons. No session
//! runs here.

mod double;
mod ends;
mod lab;
mod reasons;

use std::{
    fs,
    io::Write,
    sync::{Arc, Mutex},
};

use hotadd_agent::transport::vddk::HostLeaving;
use lab::{Lab, PASSWORD, entries, lives, open, pid, read};
use serde_json::json;

#[tokio::test]
async fn a_snapshot_is_served_byte_for_byte() {
    let mut lab = Lab::new().await;
    for extents in [false, true] {
        lab.settings.extents = extents;
        let running = lab.start().await.unwrap();
        assert!(running.alive());
        let mut engine = open(&running.socket).await.unwrap();
        let size = engine.export().size;
        assert_eq!(size, lab.content.len() as u64);
        // nbdkit always answers; with the filter VDDK is not asked.
        let (told, same) = tokio::task::spawn_blocking(move || (engine.extents(0..size, 1000), engine)).await.unwrap();
        engine = same;
        assert_eq!(told.unwrap().iter().any(|extent| extent.zero), extents);
        assert!(read(engine).await == lab.content, "differs");
        let pid = pid(&running);
        running.stop().await;
        assert!(!lives(pid));
        assert_eq!(entries(&lab.runtime), [""; 0]);
    }
    lab.end().await;
}

/// Takes what a subscriber writes.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn capture() -> (Captured, tracing::subscriber::DefaultGuard) {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    (captured, tracing::subscriber::set_default(subscriber))
}

/// Processes whose command line or environment holds `text`.
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // Processes come and go.
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(format!("{}/{file}", entry.file_name().display()));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_password_is_nowhere() {
    let lab = Lab::new().await;
    lab.cue(json!({"say": [format!("login with {PASSWORD} refused"), "a\u{1b}[31mb"]}));
    let (log, guard) = capture();
    let running = lab.start().await.unwrap();
    let socket = running.socket.to_str().unwrap();
    assert_eq!(processes_with(socket), [format!("{}/cmdline", pid(&running))], "the search finds what is there");
    assert_eq!(processes_with(PASSWORD), [""; 0]);
    for name in entries(running.socket.parent().unwrap()) {
        let bytes = fs::read(running.socket.with_file_name(&name)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD), "{name}");
    }
    let engine = open(&running.socket).await.expect("it arrived as it is");
    drop(engine);
    assert!(!format!("{running:?}").contains(PASSWORD));
    running.stop().await;
    drop(guard);
    let log = log.text();
    assert!(!log.contains(PASSWORD) && !log.contains('\u{1b}'), "{log}");
    assert!(log.contains("login with [REDACTED] refused") && log.contains("session=\"session-1\""), "{log}");
    lab.end().await;
}

#[tokio::test]
async fn a_host_that_leaves_is_a_signal() {
    let lab = Lab::new().await;
    let quiet = lab.start().await.unwrap();
    assert_eq!(*quiet.host_leaving().borrow(), None);
    quiet.stop().await;
    lab.cue(json!({"say": ["nbdkit: vddk[1]: error: VixDiskLib: read failed. Error 14014 at 4512."]}));
    let running = lab.start().await.unwrap();
    let mut leaving = running.host_leaving();
    let signal = tokio::time::timeout(lab::LONG, leaving.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(signal.map(|(signal, _)| signal), Some(HostLeaving::Shutdown));
    drop(signal);
    running.stop().await;
    lab.end().await;
}
