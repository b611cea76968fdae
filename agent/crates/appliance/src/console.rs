//! What stands on the console: state, address, fingerprint, and what to do. Pure. agetty reads backslashes as orders and a
//! terminal reads control characters, so only plain characters get through.
use crate::{properties::GENERATION, state::State};

/// Whether the agent serves, as its unit told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Serving,
    Starting,
    Stopped,
}

/// Text for /etc/issue.d; the addresses are put in by agetty.
#[must_use]
pub fn issue(state: &State, fingerprint: Option<&str>, agent: Agent) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("\nhotadd-proxy {version}  {}\n", plain(&state.hostname));
    text.push_str("Address: \\4  \\6\n");
    if let Some(fingerprint) = fingerprint {
        text.push_str(&format!("Certificate SHA-256: {}\n", plain(fingerprint)));
    }
    text.push_str(&format!("State: {}\n", headline(state, agent)));
    for fault in &state.faults {
        text.push_str(&format!("  {} {}\n    -> {}\n", plain(&fault.code), plain(&fault.message), plain(&fault.next)));
    }
    text.push('\n');
    text
}

fn headline(state: &State, agent: Agent) -> String {
    match state.configured {
        None => "UNCONFIGURED: the agent does not run and its port is closed".to_owned(),
        Some(generation) if !state.faults.is_empty() => {
            format!("CONFIGURED ({GENERATION} {generation}), with remarks; {}", serving(state, agent))
        }
        Some(_) => format!("CONFIGURED; {}", serving(state, agent)),
    }
}

fn serving(state: &State, agent: Agent) -> String {
    match agent {
        Agent::Serving => format!("the agent serves on port {}", state.port),
        Agent::Starting => {
            "the agent starts; its port opens when vCenter answers and nothing is left of an earlier run".to_owned()
        }
        Agent::Stopped => "the agent does not run: journalctl -u hotadd-agent".to_owned(),
    }
}

fn plain(text: &str) -> String {
    let one = |c: char| if (c.is_ascii_graphic() || c == ' ') && c != '\\' { c } else { '?' };
    text.chars().take(400).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::{self, Fault};

    #[test]
    fn nothing_but_plain_characters_reaches_the_terminal() {
        let fault = Fault::new(reasons::INVALID, "hotadd.x: \\d \x1b[2J\n fake: line ä");
        let state = State { faults: vec![fault], ..State::default() };
        let text = issue(&state, None, Agent::Stopped);
        let line = text.lines().find(|line| line.contains("hotadd.x")).unwrap_or_default();
        assert_eq!(line, "  HA-APP-004 hotadd.x: ?d ?[2J? fake: line ?");
        assert!(text.contains("State: UNCONFIGURED"));
    }

    #[test]
    fn a_configured_appliance_tells_port_and_fingerprint() {
        let state = State { configured: Some(1), port: 7443, hostname: "p".into(), ..State::default() };
        let text = issue(&state, Some("AA:BB"), Agent::Serving);
        assert!(text.contains("State: CONFIGURED; the agent serves on port 7443\n"), "{text}");
        assert!(text.contains("Certificate SHA-256: AA:BB\n"));
        assert!(!issue(&state, None, Agent::Starting).contains("serves on"));
    }
}
