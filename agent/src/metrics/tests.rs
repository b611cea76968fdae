//! The text that is served, as Prometheus reads it.
use hotadd_vsphere::ErrorKind;

use super::*;
use crate::{
    error::Error,
    journal::{State, history::End},
    reason,
};

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|known| known == line), "no {line:?} in\n{text}");
}

#[test]
fn what_was_counted_is_told_with_units_and_labels() {
    let meter = Meter::default();
    meter.handed_over(Transport::Hotadd, false, 4096);
    meter.handed_over(Transport::Hotadd, false, 4096);
    meter.handed_over(Transport::Nbd, true, 512);
    let stages = Stages { source_us: 1_500_000, ..Stages::default() };
    let report = Report { engine: Some("io_uring"), stages, ..Report::failed(Error::new(&reason::READ_GONE, "")) };
    meter.read_ended(Transport::Hotadd, 32, &report);
    meter.attached(Duration::from_millis(70));
    meter.limited("calls");
    meter.called(&Call { method: "ReconfigVM_Task", took: Duration::from_secs(1), error: Some(&ErrorKind::Deadline) });
    let text = meter.text(&gauges::Snapshot::default());
    has(&text, r#"hotadd_read_bytes_total{transport="hotadd",kind="data"} 8192"#);
    has(&text, r#"hotadd_read_bytes_total{transport="nbd",kind="zero"} 512"#);
    has(&text, r#"hotadd_read_stage_seconds_total{stage="source"} 1.5"#);
    let code = reason::READ_GONE.code;
    has(&text, &format!(r#"hotadd_reads_total{{transport="hotadd",engine="io_uring",outcome="{code}"}} 1"#));
    has(&text, r#"hotadd_attach_seconds_bucket{le="0.1"} 1"#);
    has(&text, r#"hotadd_attach_seconds_bucket{le="0.05"} 0"#);
    has(&text, r#"hotadd_vcenter_call_errors_total{method="ReconfigVM_Task",kind="deadline"} 1"#);
    has(&text, r#"hotadd_limited_total{limit="calls"} 1"#);
    has(&text, r#"hotadd_limited_total{limit="connections"} 0"#);
    has(&text, "# EOF");
}

#[test]
fn a_reason_of_another_release_makes_no_new_series() {
    let meter = Meter::default();
    for code in ["", "HA-XXX-999", "HA-XXX-998", reason::READ_GONE.code] {
        let end = End::new(crate::attach::now(), code, "");
        meter.recorded(&[Record::JobEnded { job: crate::id::JobId::new(), end }], &State::default());
    }
    let text = meter.text(&gauges::Snapshot::default());
    has(&text, r#"hotadd_jobs_total{outcome="ok"} 1"#);
    has(&text, r#"hotadd_jobs_total{outcome="unknown"} 2"#);
    assert!(!text.contains("XXX"));
}

#[test]
fn what_is_owed_is_told_by_kind_and_a_kind_without_any_is_zero() {
    let mut now = gauges::Snapshot { late: 2, draining: true, ..gauges::Snapshot::default() };
    now.settling.insert("attach", gauges::Kind { number: 3, oldest: Duration::from_millis(61_900) });
    let meter = Meter::default();
    let text = meter.text(&now);
    has(&text, r#"hotadd_duty_settling_oldest_seconds{kind="attach"} 61"#);
    has(&text, r#"hotadd_duties_settling{kind="attach"} 3"#);
    has(&text, r#"hotadd_duty_settling_oldest_seconds{kind="snapshot"} 0"#);
    has(&text, "hotadd_draining 1");
    has(&text, "hotadd_late_requests 2");
    // What is gone is gone at the next look.
    has(&meter.text(&gauges::Snapshot::default()), r#"hotadd_duties_settling{kind="attach"} 0"#);
}

/// Everything that can be served, with one sample of each.
fn all() -> String {
    let meter = Meter::default();
    meter.read_ended(Transport::Hotadd, 8, &Report::failed(Error::new(&reason::READ_GONE, "")));
    meter.attached(Duration::ZERO);
    meter.detached(Duration::ZERO);
    meter.called(&Call { method: "Login", took: Duration::ZERO, error: Some(&ErrorKind::Tls) });
    let nfc = vec![(crate::id::Moref::new("host-1"), 2)];
    meter.text(&gauges::Snapshot { nfc, ..gauges::Snapshot::default() })
}

/// Rows of the table in docs/metrics.md: name, type, labels, text.
fn rows(text: &str) -> Vec<String> {
    let name = |line: &str, suffix: &str| format!("{}{suffix}", line.split(' ').next().unwrap_or_default());
    let mut rows = Vec::new();
    for block in text.split("# HELP ").skip(1) {
        let (first, rest) = block.split_once('\n').unwrap();
        let help = first.split_once(' ').unwrap().1.trim_end_matches('.');
        let kind =
            rest.lines().find_map(|line| line.strip_prefix("# TYPE ")).and_then(|t| t.split(' ').nth(1)).unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let sample = rest.lines().find(|line| !line.starts_with('#') && line.contains('{'));
        let inner = sample.and_then(|s| s.split_once('{')).and_then(|(_, s)| s.split_once('}')).map_or("", |(s, _)| s);
        let labels: Vec<&str> =
            inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, _)| k).filter(|k| *k != "le").collect();
        rows.push(format!("| `{}` | {kind} | {} | {help} |", name(first, suffix), labels.join(", ")));
    }
    rows
}

#[test]
fn the_documents_table_is_what_is_served() {
    let page = include_str!("../../../docs/metrics.md");
    let written: Vec<&str> = page.lines().filter(|line| line.starts_with("| `hotadd_")).collect();
    let served = rows(&all());
    assert!(served.len() > 20, "{served:#?}");
    assert_eq!(written, served, "write these lines into docs/metrics.md:\n{}", served.join("\n"));
}

#[test]
fn dashboard_and_alerts_ask_for_what_is_served() {
    let text = all();
    let samples = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next());
    let families = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next());
    let known: Vec<&str> = samples.chain(families).collect();
    for file in [
        include_str!("../../../docs/metrics/alerts.yml"),
        include_str!("../../../docs/metrics/alerts-test.yml"),
        include_str!("../../../docs/metrics/grafana-dashboard.json"),
    ] {
        let words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("hotadd_"));
        let mut asked = 0;
        for word in words {
            assert!(known.contains(&word), "nothing is called {word}");
            asked += 1;
        }
        assert!(asked > 3);
    }
}

#[test]
fn vcenter_is_silent_from_a_call_without_an_answer_to_the_next_with_one() {
    let (meter, long) = (Meter::default(), Duration::from_secs(3600));
    let call = |error: Option<&ErrorKind>| meter.called(&Call { method: "CurrentTime", took: Duration::ZERO, error });
    assert_eq!(meter.unheard(long), None);
    for error in [ErrorKind::Unreachable, ErrorKind::Tls, ErrorKind::Deadline] {
        call(Some(&error));
        assert!(meter.unheard(long).is_some(), "{error:?}");
        // Nobody was asked.
        call(Some(&ErrorKind::LoginHeld));
        assert!(meter.unheard(long).is_some(), "{error:?}");
        call(None);
        assert_eq!(meter.unheard(long), None, "{error:?}");
    }
    assert!(meter.unheard(Duration::ZERO).is_some(), "nothing was heard for longer than that");
}
