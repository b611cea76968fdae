//! The elements of a descriptor set, flat and in order of the source, each with its comment and with the line by which releases are
//! compared. Judges nothing.
use std::collections::HashMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

// Numbers of fields in google/protobuf/descriptor.proto, of which paths in SourceCodeInfo are made.
const FILE_SYNTAX: i32 = 12;
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SERVICE: i32 = 6;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUM: i32 = 4;
const MESSAGE_ONEOF: i32 = 8;
const ENUM_VALUE: i32 = 2;
const SERVICE_METHOD: i32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Service,
    Rpc,
    Message,
    Oneof,
    Field,
    Enum,
    Value,
}

#[derive(Debug, Clone)]
pub struct Element {
    pub kind: Kind,
    /// `hotadd.v1.Frame.offset`; of a file its path.
    pub name: String,
    /// What a client depends on: name, number, type, label. Empty for what holds others only.
    pub line: String,
    pub comment: String,
    /// Of a field: its number and type as a person reads them. Of a value: its number. Of an rpc: request and response.
    pub number: i32,
    pub of: String,
}

pub fn ours() -> FileDescriptorSet {
    FileDescriptorSet::decode(hotadd_api::DESCRIPTOR).unwrap()
}

pub fn elements(set: &FileDescriptorSet) -> Vec<Element> {
    set.file.iter().flat_map(of_file).collect()
}

struct Walk {
    comments: HashMap<Vec<i32>, String>,
    found: Vec<Element>,
}

fn of_file(file: &FileDescriptorProto) -> Vec<Element> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let comments = locations.map(|at| {
        let detached = if at.path == [FILE_SYNTAX] { at.leading_detached_comments.concat() } else { String::new() };
        let parts = [&detached, at.leading_comments(), at.trailing_comments()].map(tidy);
        (at.path.clone(), parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n"))
    });
    let mut walk = Walk { comments: comments.collect(), found: Vec::new() };
    walk.push(Kind::File, file.name(), &[FILE_SYNTAX], 0, String::new(), String::new());
    let package = file.package();
    for (at, service) in (0..).zip(&file.service) {
        let name = format!("{package}.{}", service.name());
        walk.push(Kind::Service, &name, &[FILE_SERVICE, at], 0, String::new(), String::new());
        for (n, method) in (0..).zip(&service.method) {
            let of = signature(method);
            let line = format!("rpc {name}.{} {of}", method.name());
            walk.push(
                Kind::Rpc,
                &format!("{name}.{}", method.name()),
                &[FILE_SERVICE, at, SERVICE_METHOD, n],
                0,
                of,
                line,
            );
        }
    }
    for (at, message) in (0..).zip(&file.message_type) {
        walk.message(package, message, &[FILE_MESSAGE, at]);
    }
    for (at, of) in (0..).zip(&file.enum_type) {
        walk.enumeration(package, of, &[FILE_ENUM, at]);
    }
    walk.found
}

impl Walk {
    fn push(&mut self, kind: Kind, name: &str, path: &[i32], number: i32, of: String, line: String) {
        let comment = self.comments.get(path).cloned().unwrap_or_default();
        self.found.push(Element { kind, name: name.to_owned(), line, comment, number, of });
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto, path: &[i32]) {
        let name = format!("{scope}.{}", message.name());
        self.push(Kind::Message, &name, path, 0, String::new(), format!("message {name}"));
        let at = |kind: i32, n: i32| [path, &[kind, n]].concat();
        // A field that is `optional` has a oneof of the compiler's own.
        let hidden = |n: i32| message.field.iter().any(|f| f.proto3_optional() && f.oneof_index == Some(n));
        for (n, oneof) in (0..).zip(&message.oneof_decl).filter(|(n, _)| !hidden(*n)) {
            let name = format!("{name}.{}", oneof.name());
            self.push(Kind::Oneof, &name, &at(MESSAGE_ONEOF, n), 0, String::new(), String::new());
        }
        for (n, field) in (0..).zip(&message.field) {
            let mut of = type_of(field);
            if let Some(oneof) = field.oneof_index.filter(|_| !field.proto3_optional()) {
                let index = usize::try_from(oneof).unwrap();
                of = format!("{of} in {}", message.oneof_decl[index].name());
            }
            let name = format!("{name}.{}", field.name());
            let line = format!("field {name} = {} {of}", field.number());
            self.push(Kind::Field, &name, &at(MESSAGE_FIELD, n), field.number(), of, line);
        }
        for (n, nested) in (0..).zip(&message.nested_type) {
            self.message(&name, nested, &at(MESSAGE_NESTED, n));
        }
        for (n, nested) in (0..).zip(&message.enum_type) {
            self.enumeration(&name, nested, &at(MESSAGE_ENUM, n));
        }
    }

    fn enumeration(&mut self, scope: &str, of: &EnumDescriptorProto, path: &[i32]) {
        let name = format!("{scope}.{}", of.name());
        self.push(Kind::Enum, &name, path, 0, String::new(), format!("enum {name}"));
        for (n, value) in (0..).zip(&of.value) {
            let path = [path, &[ENUM_VALUE, n]].concat();
            let line = format!("value {name}.{} = {}", value.name(), value.number());
            let name = format!("{name}.{}", value.name());
            self.push(Kind::Value, &name, &path, value.number(), String::new(), line);
        }
    }
}

/// Without the blank after `//`, and without the line end of the last line.
fn tidy(comment: &str) -> String {
    let lines = comment.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn signature(method: &MethodDescriptorProto) -> String {
    let side = |stream: bool, name: &str| format!("{}{}", if stream { "stream " } else { "" }, bare(name));
    let asks = side(method.client_streaming(), method.input_type());
    format!("({asks}) returns ({})", side(method.server_streaming(), method.output_type()))
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => bare(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ if field.proto3_optional() => format!("optional {name}"),
        _ => name,
    }
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('.')
}
