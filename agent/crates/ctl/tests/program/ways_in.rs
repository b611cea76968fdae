//! The built program before any job: usage, certificates, folders, dead agents; and the commands that only show.

use std::{fs, process::Command};

use crate::common::*;
use tempfile::tempdir;

fn bare(args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotaddctl"));
    for name in ["HOTADD_AGENT", "HOTADD_CA", "HOTADD_CERT", "HOTADD_KEY"] {
        command.env_remove(name);
    }
    Ended::of(command.args(args))
}

#[test]
fn wrong_usage_is_code_2() {
    bare(&[]).failed(2, "HA-CTL-002", "done");
    bare(&["backup", "--vm", "a"]).failed(2, "HA-CTL-002", "done");
    bare(&["info"]).failed(2, "HA-CTL-002", "done");
    bare(&["info", "--agent", "http://localhost:1"]).failed(2, "HA-CTL-002", "done");
    bare(&["info", "--agent", "https://localhost:1"]).failed(2, "HA-CTL-003", "done");
    bare(&["verify", "/nowhere/manifest.json"]).failed(2, "HA-CTL-018", "done");
    let help = bare(&["--help"]);
    assert!(help.code == 0 && help.stdout.contains("Exit codes"), "{help:?}");
}

#[test]
fn a_file_that_is_no_certificate_is_code_2() {
    let agent = Agent::start(Script::good());
    fs::write(agent.pki.path("client.pem"), "hello").unwrap();
    Ended::of(&mut agent.ctl(&["info"])).failed(2, "HA-CTL-003", "done");
    fs::remove_file(agent.pki.path("client.pem")).unwrap();
    Ended::of(&mut agent.ctl(&["info"])).failed(2, "HA-CTL-003", "done");
}

#[test]
fn a_refused_client_certificate_is_told_from_a_dead_agent() {
    let mut agent = Agent::start(Script::good());
    let info = |agent: &Agent, client: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotaddctl"));
        agent.reach(&mut command, client);
        Ended::of(command.arg("info"))
    };
    assert_eq!(info(&agent, "client").code, 0);
    // The race between alert and reset must not matter.
    for _ in 0..10 {
        info(&agent, "other").failed(3, "HA-CTL-008", "done");
    }
    agent.vanish();
    info(&agent, "client").failed(3, "HA-CTL-006", "done");
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let agent = Agent::start(Script::good());
    let mut command = agent.ctl(&["info", "--server-name", "agent.test"]);
    assert_eq!(Ended::of(&mut command).code, 0);
    Ended::of(&mut agent.ctl(&["info", "--server-name", "else.test"])).failed(3, "HA-CTL-007", "done");
    fs::copy(agent.pki.path("other-ca.pem"), agent.pki.path("ca.pem")).unwrap();
    Ended::of(&mut agent.ctl(&["info"])).failed(3, "HA-CTL-007", "done");
}

#[test]
fn a_folder_that_can_not_be_written_is_found_before_the_agent_is_asked() {
    let agent = Agent::start(Script::good());
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for out in [folder.path().join("file"), folder.path().join("file/below"), "/proc".into()] {
        agent.backup(&out, &[]).failed(2, "HA-CTL-004", "done");
    }
    assert!(agent.state.requests.lock().unwrap().is_empty());
}

#[test]
fn options_come_from_the_environment_too() {
    let agent = Agent::start(Script::good());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotaddctl"));
    command
        .env("HOTADD_AGENT", format!("https://{}", agent.address))
        .env("HOTADD_CA", agent.pki.path("ca.pem"))
        .env("HOTADD_CERT", agent.pki.path("client.pem"))
        .env("HOTADD_KEY", agent.pki.path("client.key"));
    assert_eq!(Ended::of(command.arg("info")).code, 0);
}

#[test]
fn info_ls_and_job_show_what_the_agent_says() {
    let agent = Agent::start(Script { duties: 1, running: 0, ..Script::good() });
    let info = Ended::of(&mut agent.ctl(&["info"]));
    assert!(info.code == 0 && info.stdout.contains("preadv") && info.stdout.contains("pvscsi"), "{info:?}");
    let ls = Ended::of(&mut agent.ctl(&["ls"]));
    assert!(ls.code == 0 && ls.stdout.contains("sessions: none") && ls.stdout.contains("job-1"), "{ls:?}");
    assert!(ls.stdout.contains("attach"), "{ls:?}");
    let job = Ended::of(&mut agent.ctl(&["job", "--request-id", "req"]));
    assert!(job.code == 0 && job.stdout.contains("HA-JOB-003"), "{job:?}");
    let json = Ended::of(&mut agent.ctl(&["ls", "--json"]));
    for line in json.stdout.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["event"].is_string());
    }
    assert_eq!(json.stdout.lines().count(), 2);
    let nothing = Agent::start(Script { job: None, ..Script::good() });
    let unknown = Ended::of(&mut nothing.ctl(&["job", "job-9"]));
    unknown.failed(4, "HA-JOB-001", "done");
}
