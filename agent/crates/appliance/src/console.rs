//! What stands on the console: state, address, fingerprint, and what to do. Pure. agetty reads backslashes as orders and a
//! terminal reads control characters, so only plain characters get through.
use crate::{
    properties::GENERATION,
    state::{Configured, State},
};

/// Whether the agent serves, as its unit told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Serving,
    Starting,
    Stopped,
}

/// What is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    pub configured: Configured,
    pub port: Option<u16>,
    /// Of its certificate.
    pub fingerprint: Option<String>,
}

/// Text for /etc/issue.d; the addresses are put in by agetty.
#[must_use]
pub fn issue(state: &State, service: &Service, agent: Agent) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("\nhotadd-proxy {version}  {}\n", plain(&state.hostname));
    text.push_str("Address: \\4  \\6\n");
    if let Some(fingerprint) = &service.fingerprint {
        text.push_str(&format!("Certificate SHA-256: {}\n", plain(fingerprint)));
    }
    text.push_str(&format!("State: {}\n", headline(state, service, agent)));
    for fault in &state.faults {
        text.push_str(&format!("  {} {}\n    -> {}\n", plain(&fault.code), plain(&fault.message), plain(&fault.next)));
    }
    text.push('\n');
    text
}

fn headline(state: &State, service: &Service, agent: Agent) -> String {
    let by = match service.configured {
        Configured::No => return "UNCONFIGURED: the agent does not run and its port is closed".to_owned(),
        Configured::Properties(generation) => format!("CONFIGURED ({GENERATION} {generation})"),
        Configured::ByHand => "CONFIGURED (by hand)".to_owned(),
    };
    let remarks = if state.faults.is_empty() { "" } else { ", with remarks" };
    format!("{by}{remarks}; {}", serving(service, agent))
}

fn serving(service: &Service, agent: Agent) -> String {
    match agent {
        Agent::Serving => {
            let port = service.port.map_or_else(String::new, |port| format!(" on port {port}"));
            format!("the agent serves{port}")
        }
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
        let text = issue(&state, &Service::default(), Agent::Stopped);
        let line = text.lines().find(|line| line.contains("hotadd.x")).unwrap_or_default();
        assert_eq!(line, "  HA-APP-004 hotadd.x: ?d ?[2J? fake: line ?");
        assert!(text.contains("State: UNCONFIGURED"));
    }

    #[test]
    fn a_configured_appliance_tells_port_and_fingerprint() {
        let state = State { hostname: "p".into(), ..State::default() };
        let service =
            Service { configured: Configured::Properties(1), port: Some(7443), fingerprint: Some("AA:BB".into()) };
        let text = issue(&state, &service, Agent::Serving);
        assert!(text.contains("State: CONFIGURED (generation 1); the agent serves on port 7443\n"), "{text}");
        assert!(text.contains("Certificate SHA-256: AA:BB\n"));
        assert!(!issue(&state, &service, Agent::Starting).contains("serves on"));
    }
}
