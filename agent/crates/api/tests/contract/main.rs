//! `hotadd.v1` as a product: every element is documented, the reference page is what the protos say, and nothing that was released is
//! taken away. All of it reads the descriptor set, the same that the agent serves by reflection.
//!
//! `HOTADD_WRITE=1 cargo nextest run --cargo-profile ci -p hotadd-api --test contract` writes `docs/api-reference.md`;
//! `HOTADD_WRITE=released` also `proto/released.txt`, once per release.
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

mod compatible;
mod documented;
mod elements;
mod reference;
mod roles;

use std::{fs, path::PathBuf};

/// A file of the repository, from its root.
fn file(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../..")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Writes the file where the environment asks for it.
fn write(path: &str, asked: &[&str], text: &str) {
    if std::env::var("HOTADD_WRITE").is_ok_and(|value| asked.contains(&value.as_str())) {
        fs::write(file(path), text).unwrap();
    }
}
