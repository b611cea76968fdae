//! The SOAP face: transport (http), envelopes, and the calls by managed object.

mod call;
mod envelope;
pub(crate) mod http;
mod pc;
mod search;
pub(crate) mod session;
pub(crate) mod versions;

pub(crate) use search::{entity_type, view_members};

use crate::value::Val;

/// What a method answers: nothing, or a value with its declared type.
#[derive(Debug)]
pub(crate) struct Reply {
    pub declared: &'static str,
    pub val: Option<Val>,
    /// Set by Login: the cookie's value.
    pub cookie: Option<String>,
}

impl Reply {
    pub(crate) fn none() -> Reply {
        Reply { declared: "-", val: None, cookie: None }
    }

    pub(crate) fn of(declared: &'static str, val: impl crate::value::IntoVal) -> Reply {
        Reply { declared, val: val.into_val(), cookie: None }
    }
}
