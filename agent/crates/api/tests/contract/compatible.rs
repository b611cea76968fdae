//! What was released stays: every line of `proto/released.txt` is still true. New elements are allowed; a removed, renamed or renumbered
//! one, another type, label or oneof, and an rpc that streams otherwise are not, neither on the wire nor in JSON.
use std::collections::BTreeSet;

use prost_types::{FileDescriptorSet, field_descriptor_proto::Label};

use crate::{
    elements::{elements, ours},
    read, write,
};

const RELEASED: &str = "agent/crates/api/proto/released.txt";
const HEADER: &str = "# hotadd.v1 as it was released last. Every line has to stay true: a client was built on it. Written once per release.\n";

fn lines(set: &FileDescriptorSet) -> BTreeSet<String> {
    elements(set).into_iter().map(|element| element.line).filter(|line| !line.is_empty()).collect()
}

/// Released lines that are not true of this set.
fn broken(released: &str, set: &FileDescriptorSet) -> Vec<String> {
    let now = lines(set);
    let released = released.lines().filter(|line| !line.starts_with('#'));
    released.filter(|line| !now.contains(*line)).map(str::to_owned).collect()
}

#[test]
fn nothing_that_was_released_is_taken_away() {
    let all: String = lines(&ours()).into_iter().map(|line| line + "\n").collect();
    write(RELEASED, &["released"], &format!("{HEADER}{all}"));
    let released = read(RELEASED);
    assert!(released.lines().count() > 100, "the list of the last release is not there");
    assert_eq!(broken(&released, &ours()), [""; 0], "clients of the last release depend on these");
}

#[test]
fn a_new_field_message_value_or_rpc_breaks_nothing() {
    let now: String = lines(&ours()).into_iter().map(|line| line + "\n").collect();
    let mut more = ours();
    let file = more.file.iter_mut().find(|file| file.name() == "hotadd/v1/proxy.proto").unwrap();
    let mut field = file.message_type[0].field[0].clone();
    (field.name, field.number) = (Some("brand_new".to_owned()), Some(99));
    file.message_type[0].field.push(field);
    let mut rpc = file.service[0].method[0].clone();
    rpc.name = Some("BrandNew".to_owned());
    file.service[0].method.push(rpc);
    let mut message = file.message_type[0].clone();
    message.name = Some("BrandNew".to_owned());
    file.message_type.push(message);
    let mut value = file.enum_type[0].value[1].clone();
    (value.name, value.number) = (Some("BRAND_NEW".to_owned()), Some(99));
    file.enum_type[0].value.push(value);
    assert!(lines(&more).len() > lines(&ours()).len());
    assert_eq!(broken(&now, &more), [""; 0]);
}

/// Each change that breaks a client, made to the set of today, is seen and named.
#[test]
fn every_breaking_change_is_seen() {
    type Change = fn(&mut FileDescriptorSet);
    let changes: [(&str, Change, &str); 11] = [
        ("field removed", |set| drop(message(set, "Frame").field.remove(1)), "field hotadd.v1.Frame.offset = 2 uint64"),
        ("field renumbered", |set| message(set, "Frame").field[1].number = Some(77), "hotadd.v1.Frame.offset"),
        ("field renamed", |set| message(set, "Frame").field[1].name = Some("at".into()), "hotadd.v1.Frame.offset"),
        (
            "type changed",
            |set| message(set, "Frame").field[1].set_type(prost_types::field_descriptor_proto::Type::Uint32),
            "hotadd.v1.Frame.offset",
        ),
        ("label changed", |set| message(set, "Frame").field[1].set_label(Label::Repeated), "hotadd.v1.Frame.offset"),
        ("left its oneof", |set| message(set, "JobEvent").field[0].oneof_index = None, "hotadd.v1.JobEvent.job_id"),
        ("message removed", |set| message(set, "Range").name = Some("Span".into()), "message hotadd.v1.Range"),
        ("value renumbered", |set| of_common(set).enum_type[0].value[1].number = Some(9), "value hotadd.v1.Cleanup"),
        ("value removed", |set| drop(of_common(set).enum_type[0].value.pop()), "value hotadd.v1.Cleanup"),
        ("rpc removed", |set| drop(of_disk(set).service[0].method.remove(1)), "rpc hotadd.v1.DiskService.ReadDisk"),
        (
            "rpc streams otherwise",
            |set| of_disk(set).service[0].method[1].server_streaming = Some(false),
            "rpc hotadd.v1.DiskService.ReadDisk",
        ),
    ];
    let now: String = lines(&ours()).into_iter().map(|line| line + "\n").collect();
    for (what, change, expected) in changes {
        let mut set = ours();
        change(&mut set);
        let told = broken(&now, &set);
        assert!(told.iter().any(|line| line.contains(expected)), "{what}: {told:?}");
    }
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut prost_types::DescriptorProto {
    set.file.iter_mut().flat_map(|file| &mut file.message_type).find(|message| message.name() == name).unwrap()
}

fn file<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut prost_types::FileDescriptorProto {
    set.file.iter_mut().find(|file| file.name() == name).unwrap()
}

fn of_common(set: &mut FileDescriptorSet) -> &mut prost_types::FileDescriptorProto {
    file(set, "hotadd/v1/common.proto")
}

fn of_disk(set: &mut FileDescriptorSet) -> &mut prost_types::FileDescriptorProto {
    file(set, "hotadd/v1/disk.proto")
}
