//! Ends that nobody asked for: nbdkit is killed, hangs, or outlives its agent for a moment.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hotadd_agent::transport::vddk::{self, Life, Running};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::lab::{LONG, Lab, entries, lives, open, pid, read, until};

/// Names the file that tells [`a_parent`] what to do.
const PARENT: &str = "HOTADD_TEST_VDDK_PARENT";

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

async fn next(running: &Running, old: u32) -> Life {
    let mut life = running.life();
    let changed = life.wait_for(|life| match life {
        Life::Serving { pid } => *pid != old,
        Life::Restarting => false,
        Life::Ended(_) => true,
    });
    timeout(LONG, changed).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn a_killed_nbdkit_is_started_anew_until_it_was_too_often() {
    let mut lab = Lab::new().await;
    lab.settings.restarts = 2;
    let running = lab.start().await.unwrap();
    let socket = running.socket.clone();
    for _ in 0..2 {
        let old = pid(&running);
        signal(old, Signal::SIGKILL);
        assert!(matches!(next(&running, old).await, Life::Serving { .. }));
        assert_eq!(running.socket, socket);
        assert!(read(open(&socket).await.unwrap()).await == lab.content);
    }
    let old = pid(&running);
    signal(old, Signal::SIGKILL);
    let Life::Ended(Some(error)) = next(&running, old).await else { panic!("{running:?}") };
    assert_eq!(error.reason().code, "HA-VDK-006");
    assert!(error.message().contains("signal: 9"), "{error}");
    assert!(!running.alive() && !lives(old));
    assert_eq!(running.open_refused(0, "lost").reason().code, "HA-VDK-006");
    assert_eq!(entries(&lab.runtime), [""; 0]);
    running.stop().await;
    lab.end().await;
}

#[tokio::test]
async fn a_restart_that_fails_counts() {
    let mut lab = Lab::new().await;
    lab.settings.restarts = 2;
    let running = lab.start().await.unwrap();
    lab.cue(json!({"exit": "VixDiskLib_InitEx: no memory"}));
    let old = pid(&running);
    signal(old, Signal::SIGKILL);
    let Life::Ended(Some(error)) = next(&running, old).await else { panic!("{running:?}") };
    assert_eq!(error.reason().code, "HA-VDK-006");
    assert!(error.message().contains("VixDiskLib_InitEx: no memory"), "{error}");
    drop(running);
    lab.end().await;
}

#[tokio::test]
async fn one_that_hangs_is_killed_and_one_that_is_dropped_ends() {
    let mut lab = Lab::new().await;
    lab.settings.stop_deadline = Duration::from_millis(200);
    let running = lab.start().await.unwrap();
    let hung = pid(&running);
    signal(hung, Signal::SIGSTOP);
    timeout(LONG, running.stop()).await.unwrap();
    assert!(!lives(hung));
    let running = lab.start().await.unwrap();
    let dropped = pid(&running);
    drop(running);
    until("the end of a dropped one", || !lives(dropped) && entries(&lab.runtime).is_empty()).await;
    lab.end().await;
}

/// Not a test by itself: the agent that dies, started by [`nbdkit_ends_with_its_agent`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent() {
    let Some(file) = std::env::var_os(PARENT) else { return };
    let order: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let text = |key: &str| order[key].as_str().unwrap().to_owned();
    let mut settings = vddk::VddkSettings::new(text("libdir"));
    settings.nbdkit_program = text("program").into();
    settings.tmp_dir = text("tmp").into();
    let spec = vddk::DiskSpec {
        vm: hotadd_agent::id::Moref::new(text("vm")),
        snapshot: hotadd_agent::id::Moref::new(text("snapshot")),
        file: hotadd_agent::id::BackingPath::new(text("file")),
        server: text("server"),
        port: None,
        user: text("user"),
        thumbprint: text("thumbprint"),
        session: String::new(),
    };
    let password = secrecy::SecretString::from(super::lab::PASSWORD);
    let running = vddk::start(&settings, spec, &password, Path::new(&text("runtime")), None).await.unwrap();
    let told = Path::new(&file).with_extension("new");
    fs::write(&told, pid(&running).to_string()).unwrap();
    fs::rename(told, Path::new(&file).with_extension("pid")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nbdkit_ends_with_its_agent() {
    let lab = Lab::new().await;
    let file = lab.settings.tmp_dir.with_file_name("order");
    let (settings, spec) = (&lab.settings, &lab.spec);
    let order = json!({"libdir": settings.libdir, "program": settings.nbdkit_program, "tmp": settings.tmp_dir,
        "vm": spec.vm.as_str(), "snapshot": spec.snapshot.as_str(), "file": spec.file.as_str(), "server": spec.server,
        "user": spec.user, "thumbprint": spec.thumbprint, "runtime": lab.runtime});
    fs::write(&file, order.to_string()).unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vddk::ends::a_parent", "--nocapture"])
        .env(PARENT, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = file.with_extension("pid");
    until("the parent's nbdkit", || told.exists()).await;
    let nbdkit: u32 = fs::read_to_string(&told).unwrap().parse().unwrap();
    assert!(lives(nbdkit));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the end of nbdkit", || !lives(nbdkit)).await;
    // nbdkit may have removed its socket; the folder is the next start's to sweep.
    assert_eq!(entries(&lab.runtime).len(), 1);
    vddk::sweep(&lab.runtime).unwrap();
    lab.end().await;
}
