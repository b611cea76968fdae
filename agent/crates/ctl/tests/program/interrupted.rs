//! The built program in the middle of a backup: signals, and an agent that vanishes.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::common::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::{TempDir, tempdir};

/// Starts a backup that hangs in the middle and waits until its files are there.
fn hanging(agent: &Agent, more: &[&str]) -> (Child, TempDir) {
    // Whoever runs the tests may ignore the hang-up, and a child inherits that.
    hanging_by(agent, more, "--default-signal=HUP")
}

/// As [`hanging`], with an option of env(1) for its signals.
fn hanging_by(agent: &Agent, more: &[&str], signals: &str) -> (Child, TempDir) {
    let folder = tempdir().unwrap();
    let ctl = agent.ctl(&["backup", "--vm", "web01", "--block-size", "65536", "--out"]);
    let mut command = Command::new("env");
    command.arg(signals).arg(ctl.get_program()).args(ctl.get_args());
    let child = command.arg(folder.path()).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while names(folder.path()).len() < 2 {
        assert!(Instant::now() < end, "no files of a running backup: {:?}", names(folder.path()));
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, folder)
}

fn hang() -> Script {
    let mut script = Script::ending(vec![]);
    script.steps.truncate(script.steps.len() - 2);
    script.steps.push(Step::Hang);
    script
}

#[test]
fn an_interrupt_waits_for_the_clean_up_and_tells_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let agent = Agent::start(hang());
        let (child, folder) = hanging(&agent, &[]);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let ended = Ended::from(child.wait_with_output().unwrap());
        ended.failed(130, "HA-CTL-017", "done");
        assert!(ended.error().contains(signal.as_str()), "{ended:?}");
        assert!(agent.state.left.load(Ordering::SeqCst), "the stream must end before the agent is asked");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

/// nohup(1) starts it so.
#[test]
fn a_hang_up_that_is_ignored_ends_nothing() {
    let agent = Agent::start(hang());
    let (child, _folder) = hanging_by(&agent, &[], "--ignore-signal=HUP");
    // That nothing happens can't be waited for; that the kernel throws the signal away can be read.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "{status}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    Ended::from(child.wait_with_output().unwrap()).failed(130, "HA-CTL-017", "done");
}

#[test]
fn an_agent_that_vanishes_leaves_the_clean_up_unknown() {
    let mut agent = Agent::start(hang());
    let (child, folder) = hanging(&agent, &["--settle-timeout", "1"]);
    agent.vanish();
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.failed(6, "HA-CTL-010", "unknown");
    assert!(ended.error().contains("result: the connection to the agent broke; next: "), "{ended:?}");
    assert_eq!(names(folder.path()), [""; 0]);
}
