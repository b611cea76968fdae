//! The marker in the description of a snapshot of hotadd-agent: `[hotadd-agent/INSTANCE-UUID duty=ID expires=TIME|never]`. Written
//! by the agent (session/snapshot.rs); read here by whoever finds the snapshot. Pure.
use jiff::Timestamp;

/// Name of every snapshot of an agent, followed by the duty's id.
const NAME: &str = "hotadd-agent ";

/// Whose a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Instance UUID of the proxy VM.
    pub proxy: String,
    pub duty: String,
    /// `None`: never.
    pub expires: Option<Timestamp>,
}

/// Reads name and description. Only both together count: a name alone can be given by anybody who wants to be tidy.
pub(crate) fn read(name: &str, description: &str) -> Option<Marker> {
    let id = name.strip_prefix(NAME)?;
    let (_, marker) = description.rsplit_once("[hotadd-agent/")?;
    let mut words = marker.strip_suffix(']')?.split(' ');
    let proxy = words.next().filter(|text| is_uuid(text))?.to_owned();
    let duty = words.next()?.strip_prefix("duty=")?.to_owned();
    let expires = match words.next()?.strip_prefix("expires=")? {
        "never" => None,
        at => Some(at.parse().ok()?),
    };
    (words.next().is_none() && is_uuid(&duty) && duty == id).then_some(Marker { proxy, duty, expires })
}

fn is_uuid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36 && text.bytes().enumerate().all(|(at, b)| if dash(at) { b == b'-' } else { b.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUTY: &str = "0b0e8f2e-1d6b-4b0a-9b39-2a6d1d2f7c11";
    const PROXY: &str = "5012ab34-5678-9abc-def0-123456789abc";

    fn text(expires: &str) -> String {
        format!("Temporary. Made by hotadd-agent. [hotadd-agent/{PROXY} duty={DUTY} expires={expires}]")
    }

    #[test]
    fn a_marker_of_the_agent_is_read() {
        let name = format!("hotadd-agent {DUTY}");
        let marker = read(&name, &text("2026-01-02T03:04:05Z")).unwrap();
        assert_eq!((marker.proxy.as_str(), marker.duty.as_str()), (PROXY, DUTY));
        assert_eq!(marker.expires, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(read(&name, &text("never")).unwrap().expires, None);
    }

    #[test]
    fn half_a_marker_is_none() {
        let name = format!("hotadd-agent {DUTY}");
        let other = "hotadd-agent 0b0e8f2e-1d6b-4b0a-9b39-2a6d1d2f7c12";
        for (name, description) in [
            (name.as_str(), String::new()),
            (name.as_str(), text("soon")),
            (name.as_str(), text("never").replace(PROXY, "me")),
            (name.as_str(), text("never").replace(']', " more=1]")),
            (name.as_str(), format!("{} and more", text("never"))),
            (other, text("never")),
            ("hotadd-agent", text("never")),
            ("web", text("never")),
        ] {
            assert_eq!(read(name, &description), None, "{name} {description}");
        }
    }
}
