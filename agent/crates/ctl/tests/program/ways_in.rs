//! The built program before any job: usage, certificates, folders, dead agents; and the commands that only show.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
};

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
        let refused = info(&agent, "other");
        refused.failed(3, "HA-CTL-008", "done");
        assert!(refused.error().contains("is not signed by the agent's client CA"), "{refused:?}");
    }
    agent.vanish();
    info(&agent, "client").failed(3, "HA-CTL-006", "done");
}

/// The line of a failure with this address, which says it in words, and the JSON of it, which has the library's text besides.
fn no_way_in(agent: &Agent, url: &str, code: &str, told: &[&str]) {
    let ctl = agent.ctl(&["info", "--json", "--server-name", "agent.test", "--agent", url]);
    // Without the helper's own --agent, which comes first: it may be given once.
    let ended = Ended::of(Command::new(ctl.get_program()).args(ctl.get_args().skip(2)));
    ended.failed(3, code, "done");
    for word in told {
        assert!(ended.error().contains(word), "{word}: {ended:?}");
    }
    for word in ["transport", "tcp connect", "os error", "dns error", "UnknownIssuer", "alert"] {
        assert!(!ended.error().contains(word), "{word}: {ended:?}");
    }
    let event: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert!(event["detail"].as_str().is_some_and(|text| !text.is_empty()), "{event}");
}

/// Takes one connection, reads of it and sends `answer`.
fn answering(answer: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = listener.accept() {
            let mut hello = [0; 4096];
            let _ = peer.read(&mut hello);
            let _ = peer.write_all(answer);
        }
    });
    address
}

#[test]
fn what_keeps_from_the_agent_is_said_in_words_with_what_to_do() {
    let agent = Agent::start(Script::good());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    no_way_in(&agent, &format!("https://{free}"), "HA-CTL-006", &["was refused", "next: check the port"]);
    // A label that is too long: the resolver says so without a network.
    let nowhere = format!("https://{}:7443", "x".repeat(64));
    no_way_in(&agent, &nowhere, "HA-CTL-006", &["can't be resolved", "next: check the host"]);
    let deaf = format!("https://{}", answering(b""));
    no_way_in(&agent, &deaf, "HA-CTL-006", &["closed the connection during the TLS handshake", "--cert"]);
    let plain = format!("https://{}", answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    no_way_in(&agent, &plain, "HA-CTL-007", &["does not speak TLS"]);
    fs::copy(agent.pki.path("other-ca.pem"), agent.pki.path("ca.pem")).unwrap();
    let url = format!("https://{}", agent.address);
    no_way_in(&agent, &url, "HA-CTL-007", &["is not signed by the CA of --ca"]);
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
    assert_eq!(info.code, 0, "{info:?}");
    for word in ["preadv", "pvscsi", "esx1.lab", "fast01", "3.00 TiB", "17", "4.2 s", "never measured"] {
        assert!(info.stdout.contains(word), "{word}: {info:?}");
    }
    let json = Ended::of(&mut agent.ctl(&["info", "--json"]));
    let events: Vec<serde_json::Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().find(|event| event["event"] == name).unwrap();
    assert_eq!((&named("datastore")["name"], &named("datastore")["attached"]), (&"fast01".into(), &5.into()));
    assert!(named("capacity")["attach_seconds"] == 4.2 && named("capacity")["detach_seconds"].is_null(), "{json:?}");
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
