//! The built program that watches: every line has its number, and a watch goes on by it.

use hotadd_api::v1::EventKind;
use serde_json::Value;

use crate::common::*;

fn agent() -> Agent {
    let events = vec![EventKind::JobBegan, EventKind::DutyOpened, EventKind::DutyRetired, EventKind::JobEnded];
    Agent::start(Script { events, ..Script::default() })
}

/// Numbers of the lines after the first, which is WATCHING's; run and number of each request.
fn watch(agent: &Agent, more: &[&str]) -> (Vec<u64>, Vec<(String, u64)>, Ended) {
    let ended = Ended::of(agent.ctl(&["watch", "--json"]).args(more));
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((events[0]["event"].as_str(), events[0]["run"].as_str()), (Some("watching"), Some(RUN)), "{ended:?}");
    let told = events.iter().skip(1).filter(|event| event["event"] != "error");
    let numbers = told.map(|event| event["sequence"].as_u64().unwrap()).collect();
    let asked = std::mem::take(&mut *agent.state.watches.lock().unwrap());
    (numbers, asked.into_iter().map(|request| (request.run, request.after)).collect(), ended)
}

#[test]
fn a_watch_goes_on_after_the_number_that_is_given() {
    let agent = agent();
    let none: [u64; 0] = [];
    let (numbers, asked, _) = watch(&agent, &[]);
    assert_eq!((numbers.as_slice(), asked), (none.as_slice(), vec![(String::new(), 0)]), "from now on");
    let (numbers, asked, _) = watch(&agent, &["--since", "2", "--run", RUN]);
    assert_eq!((numbers, asked), (vec![3, 4], vec![(RUN.to_owned(), 2)]));
    // Without a run the agent is asked for its own.
    let (numbers, asked, _) = watch(&agent, &["--since", "0"]);
    assert_eq!((numbers, asked), (vec![1, 2, 3, 4], vec![(String::new(), 0), (RUN.to_owned(), 0)]));
    let (_, asked, _) = watch(&agent, &["--since", "2", "--run", "another"]);
    assert_eq!(asked, [("another".to_owned(), 2)], "whether it is another run is the agent's to tell");
}

#[test]
fn each_line_has_its_number_and_the_end_tells_how_to_go_on() {
    let agent = agent();
    let ended = Ended::of(&mut agent.ctl(&["watch", "--since", "2"]));
    ended.failed(3, "HA-CTL-006", "done");
    let lines: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let starts: Vec<(&str, &str)> = lines.iter().map(|words| (words[0], words[1])).collect();
    assert_eq!(starts, [("2", "watching"), ("3", "duty_retired"), ("4", "job_ended")], "{ended:?}");
    assert!(lines[0].ends_with(&["run", RUN]), "{ended:?}");
    let next = format!("; next: hotaddctl watch --since 4 --run {RUN} goes on from there; ");
    assert!(ended.error().contains(&next), "{ended:?}");
}

#[test]
fn a_run_without_a_number_is_wrong_usage() {
    Ended::of(&mut agent().ctl(&["watch", "--run", RUN])).failed(2, "HA-CTL-002", "done");
}
