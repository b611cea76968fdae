//! The client against a scripted HTTPS server: sessions, requests byte by byte, facts, tasks, and a hostile server.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

#[path = "../support/mod.rs"]
mod support;

mod authorization;
mod events;
mod facts;
mod guard;
mod hostile;
mod lease;
mod login;
mod many;
mod requests;
mod session;
mod tasks;
mod ticket;
mod tracking;
