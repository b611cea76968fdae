//! Cuts, flips, illegal edges and random histories.
use std::{collections::BTreeSet, fs};

use proptest::prelude::*;

use super::{file::read_state, *};
use crate::id::{BackingPath, Moref, Slot};

fn attach(id: DutyId) -> Duty {
    Duty {
        id,
        session: SessionId::new(),
        vm: Moref::new("vm-42"),
        vm_name: "web 01 [ä] %2f".into(),
        vm_uuid: None,
        vcenter: Some("vc-1".into()),
        proxy: Some(Moref::new("vm-7")),
        login: Some("52a0".into()),
        ticket: false,
        since: "2026-01-01T00:00:00Z".into(),
        phase: DutyPhase::Intended,
        kind: DutyKind::Attach(AttachDuty {
            backing: BackingPath::new("[ds 1] a & b/<c>.vmdk"),
            uuid: "6000c29abcdef0123456789abcdef012".parse().unwrap(),
            capacity_bytes: 1 << 30,
            slot: Slot { controller_key: 1001, unit: 3 },
            device_key: None,
        }),
    }
}

fn confirmed(duty: DutyId) -> Record {
    Record::Confirmed { duty, device_key: Some(2016), moref: None }
}

fn retired(duty: DutyId) -> Record {
    Record::Retired { duty, at: "2026-01-01T00:00:01Z".into(), proof: "test".into(), late_until: None }
}

fn history() -> (Vec<Record>, DutyId) {
    let (a, b) = (DutyId::new(), DutyId::new());
    (vec![Record::Began(attach(a)), confirmed(a), Record::Began(attach(b)), retired(a), confirmed(b)], b)
}

/// Three kept snapshots are let go, and one of them was retired meanwhile.
#[test]
fn a_refused_record_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let ids: Vec<DutyId> = (0..3).map(|_| DutyId::new()).collect();
    let until = Some("2026-01-01T01:00:00Z".to_owned());
    let kept = |id: DutyId, until: &Option<String>| Record::Kept { duty: id, until: until.clone() };
    for id in &ids {
        let snapshot =
            SnapshotDuty { name: format!("hotadd-agent {id}"), moref: None, keep_until: None, stores: BTreeSet::new() };
        let kind = DutyKind::Snapshot(snapshot);
        let confirmed = Record::Confirmed { duty: *id, device_key: None, moref: Some(Moref::new("snapshot-1")) };
        journal.append(&[Record::Began(Duty { kind, ..attach(*id) }), confirmed, kept(*id, &until)]).unwrap();
    }
    journal.append(&[retired(ids[1])]).unwrap();
    let release: Vec<Record> = ids.iter().map(|id| kept(*id, &None)).collect();
    assert!(journal.append(&release).is_err(), "as a whole it is refused");
    let refused: Vec<usize> = journal.append_each(&release).into_iter().map(|(at, _)| at).collect();
    assert_eq!(refused, [1]);
    drop(journal);
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let state = journal.state();
    let left: Vec<_> = state.duties().map(|duty| (duty.id, duty.snapshot().unwrap().keep_until.clone())).collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|(id, until)| ids.contains(id) && until.is_none()), "{left:?}");
}

#[test]
fn what_was_appended_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (records, open) = history();
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened::default());
    journal.append(&records).unwrap();
    let before = journal.state();
    drop(journal);
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened::default());
    assert_eq!(journal.state(), before);
    let ids: Vec<_> = before.duties().map(|d| (d.id, d.phase)).collect();
    assert_eq!(ids, [(open, DutyPhase::Held)]);
}

#[test]
fn a_second_agent_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Journal::open(dir.path()).unwrap();
    assert!(matches!(Journal::open(dir.path()), Err(JournalError::Locked { .. })));
}

#[test]
fn every_cut_leaves_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let (records, _) = history();
    Journal::open(dir.path()).unwrap().0.append(&records).unwrap();
    let path = dir.path().join("journal");
    let whole = fs::read(&path).unwrap();
    let prefixes: Vec<State> = (0..=records.len())
        .map(|n| {
            let mut state = State::default();
            records[..n].iter().for_each(|r| state.apply(r).unwrap());
            state
        })
        .collect();
    let mut last = 0;
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert!(opened.damage.is_none(), "cut at {cut}: {opened:?}");
        let state = journal.state();
        let n = prefixes.iter().position(|p| *p == *state).expect("not a prefix");
        assert!(n >= last, "a longer file must not know less");
        last = n;
        // The cut tail is gone for good: what is appended next is found again.
        journal.append(&[Record::Started { at: String::new(), version: String::new() }]).unwrap();
        drop(journal);
        assert_eq!(Journal::open(dir.path()).unwrap().0.state(), state);
    }
    assert_eq!(last, records.len());
}

#[test]
fn a_flip_in_the_middle_is_reported_and_later_duties_survive() {
    let dir = tempfile::tempdir().unwrap();
    let (records, open) = history();
    Journal::open(dir.path()).unwrap().0.append(&records).unwrap();
    let path = dir.path().join("journal");
    let whole = fs::read(&path).unwrap();
    let first_frame = 4..4 + 9 + 40;
    for at in first_frame {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        let (aside, _) = opened.damage.unwrap_or_else(|| panic!("flip at {at} was not noticed"));
        assert_eq!(fs::read(&aside).unwrap(), bad, "the damaged file is kept");
        assert!(journal.state().get(open).is_some(), "flip at {at}: a later duty was forgotten");
        fs::remove_file(aside).unwrap();
    }
}

/// A frame as the file holds it.
fn raw(version: u8, payload: &[u8]) -> Vec<u8> {
    let checked: Vec<u8> = [&[version], payload].concat();
    [&u32::try_from(payload.len()).unwrap().to_le_bytes()[..], &crc32c::crc32c(&checked).to_le_bytes(), &checked]
        .concat()
}

#[test]
fn records_of_a_newer_agent_are_refused_and_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (records, _) = history();
    Journal::open(dir.path()).unwrap().0.append(&records).unwrap();
    let path = dir.path().join("journal");
    let known = fs::read(&path).unwrap();
    let torn = &known[..known.len() - 3];
    for (before, strange) in [
        (&known[..], raw(2, b"{}")),
        (&known[..], raw(1, br#"{"record":"adopted","duty":"x"}"#)),
        (torn, raw(2, b"{}")),
    ] {
        let whole = [before, &strange].concat();
        fs::write(&path, &whole).unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Newer { .. })));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn damage_is_remembered_until_it_was_compared_with_vcenter() {
    let dir = tempfile::tempdir().unwrap();
    let (records, _) = history();
    Journal::open(dir.path()).unwrap().0.append(&records).unwrap();
    let path = dir.path().join("journal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(Journal::open(dir.path()).unwrap().1.damage.is_some());
    let again = Journal::open(dir.path()).unwrap().1;
    assert!(again.damage.is_none() && again.unreconciled);
    file::reconciled(dir.path()).unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1, Opened::default());
}

#[test]
fn a_large_journal_shrinks_to_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let (records, open) = history();
    journal.append(&records).unwrap();
    let before = journal.state();
    let noise = Record::Started { at: "x".repeat(1 << 19), version: String::new() };
    (0..9).for_each(|_| journal.append(std::slice::from_ref(&noise)).unwrap());
    assert!(fs::metadata(dir.path().join("journal")).unwrap().len() < 1 << 20);
    assert_eq!(journal.state(), before);
    drop(journal);
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!((opened, journal.state()), (Opened::default(), before));
    journal.append(&[retired(open)]).unwrap();
}

#[test]
fn the_state_is_told_while_a_write_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let _writing = journal.file.lock().unwrap();
    assert!(journal.state().is_empty());
}

#[test]
fn a_foreign_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("journal"), b"something else").unwrap();
    assert!(matches!(Journal::open(dir.path()), Err(JournalError::Foreign { .. })));
    assert_eq!(fs::read(dir.path().join("journal")).unwrap(), b"something else");
}

#[test]
fn what_was_never_confirmed_is_looked_for_and_may_be_owed_again() {
    let id = DutyId::new();
    let unconfirmed = |until: &str| Record::Retired {
        duty: id,
        at: "2026-01-01T00:00:01Z".into(),
        proof: "absent twice".into(),
        late_until: Some(until.into()),
    };
    let mut state = State::default();
    state.apply(&Record::Began(attach(id))).unwrap();
    state.apply(&unconfirmed("2026-01-01T01:00:00Z")).unwrap();
    assert!(state.is_empty(), "not owed");
    let again = state.records().iter().fold(State::default(), |mut state, record| {
        state.apply(record).unwrap();
        state
    });
    assert_eq!(again, state, "compaction forgets nothing");
    assert!(state.apply(&Record::Began(attach(id))).is_err());
    state.apply(&Record::Reopened { duty: id, at: "2026-01-01T00:10:00Z".into() }).unwrap();
    assert_eq!((state.duties().count(), state.late().count()), (1, 0));
    state.apply(&unconfirmed("2026-01-01T02:00:00Z")).unwrap();
    state.apply(&Record::Lapsed { duty: id }).unwrap();
    assert_eq!(state, State::default());
    assert!(state.apply(&Record::Reopened { duty: id, at: String::new() }).is_err());
}

#[test]
fn illegal_edges_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let id = DutyId::new();
    assert!(journal.append(&[retired(id)]).is_err());
    assert!(journal.append(&[confirmed(id)]).is_err());
    journal.append(&[Record::Began(attach(id))]).unwrap();
    assert!(journal.append(&[Record::Began(attach(id))]).is_err());
    let snapshot = Record::Confirmed { duty: id, device_key: None, moref: Some(Moref::new("snapshot-1")) };
    assert!(journal.append(&[snapshot]).is_err());
    drop(journal);
    assert_eq!(Journal::open(dir.path()).unwrap().0.state().duties().count(), 1);
}

#[test]
fn a_full_disk_poisons_the_handle_and_loses_nothing() {
    // /dev/full answers every write with ENOSPC: the real error of a real kernel.
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let id = DutyId::new();
    journal.append(&[Record::Began(attach(id))]).unwrap();
    let before = journal.state();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    journal.file.lock().unwrap().file = full;
    // No new file can be made either while a folder has its name.
    let blocked = dir.path().join("journal.new");
    fs::create_dir(&blocked).unwrap();
    for _ in 0..3 {
        assert!(matches!(journal.append(&[retired(id)]), Err(JournalError::Io { .. })));
        assert_eq!(journal.state(), before, "a retirement that is not durable did not happen");
    }
    fs::remove_dir(&blocked).unwrap();
    let next = DutyId::new();
    journal.append(&[Record::Began(attach(next))]).unwrap();
    let healed = journal.state();
    drop(journal);
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!((opened, journal.state()), (Opened::default(), healed));
    assert!(journal.state().get(id).is_some() && journal.state().get(next).is_some());
}

proptest! {
    #[test]
    fn a_random_history_folds_to_the_same_state_after_every_reopening(steps in prop::collection::vec((0..3_u8, 0..6_usize), 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (0..6).map(|_| DutyId::new()).collect();
        let mut model: BTreeMap<DutyId, DutyPhase> = BTreeMap::new();
        for chunk in steps.chunks(7) {
            let (journal, _) = Journal::open(dir.path()).unwrap();
            for &(verb, index) in chunk {
                let id = ids[index];
                let (record, legal) = match verb {
                    0 => (Record::Began(attach(id)), !model.contains_key(&id)),
                    1 => (confirmed(id), model.contains_key(&id)),
                    _ => (retired(id), model.contains_key(&id)),
                };
                prop_assert_eq!(journal.append(&[record]).is_ok(), legal);
                match (verb, legal) {
                    (0, true) => drop(model.insert(id, DutyPhase::Intended)),
                    (1, true) => drop(model.insert(id, DutyPhase::Held)),
                    (_, true) => drop(model.remove(&id)),
                    _ => {}
                }
            }
            let got: BTreeMap<_, _> = journal.state().duties().map(|d| (d.id, d.phase)).collect();
            prop_assert_eq!(&got, &model);
        }
        let got: BTreeMap<_, _> = Journal::open(dir.path()).unwrap().0.state().duties().map(|d| (d.id, d.phase)).collect();
        prop_assert_eq!(got, model);
    }
}

/// Whoever removes the agent looks at the journal of one that runs, or of one that never ran.
#[test]
fn what_is_open_is_read_beside_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read_state(dir.path()).unwrap(), (State::default(), Opened::default()));
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let (records, open) = history();
    journal.append(&records).unwrap();
    let (state, opened) = read_state(dir.path()).unwrap();
    assert_eq!(state.duties().map(|duty| duty.id).collect::<Vec<_>>(), [open]);
    assert!(!opened.unreconciled);
    journal.append(&[retired(open)]).unwrap();
    assert!(read_state(dir.path()).unwrap().0.is_empty());
}

#[test]
fn damage_that_nobody_compared_with_vcenter_is_not_read_as_nothing_owed() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&history().0).unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(read_state(dir.path()).unwrap().1.unreconciled);
    // The next start cleans the file; what it forgot is unknown all the same.
    drop(Journal::open(dir.path()).unwrap());
    assert!(read_state(dir.path()).unwrap().1.unreconciled);
    file::reconciled(dir.path()).unwrap();
    assert!(!read_state(dir.path()).unwrap().1.unreconciled);
}

/// What an agent before clone tickets wrote is read as it was, and without a ticket the same is written.
#[test]
fn a_duty_without_a_ticket_is_written_as_ever() {
    let duty = attach(DutyId::new());
    let text = serde_json::to_string(&duty).unwrap();
    assert!(!text.contains("ticket"), "{text}");
    assert_eq!(serde_json::from_str::<Duty>(&text).unwrap(), duty);
    let cloned = Duty { ticket: true, ..duty };
    let text = serde_json::to_string(&cloned).unwrap();
    assert_eq!(serde_json::from_str::<Duty>(&text).unwrap(), cloned);
}
