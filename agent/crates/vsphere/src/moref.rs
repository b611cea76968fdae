//! Managed object references: the only way in which this crate names objects of the server.

use std::fmt;
use std::str::FromStr;

/// A managed object reference: its type and the server's opaque value (vSphere API, ManagedObjectReference).
///
/// Prints and parses as `VirtualMachine:vm-42`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoRef {
    /// Managed object type, for example `VirtualMachine`.
    pub type_name: String,
    /// Opaque value, unique within one vCenter and one session for session-scoped objects.
    pub value: String,
}

impl MoRef {
    /// Names an object by type and value.
    pub fn new(type_name: impl Into<String>, value: impl Into<String>) -> MoRef {
        MoRef { type_name: type_name.into(), value: value.into() }
    }
}

impl fmt::Display for MoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.type_name, self.value)
    }
}

/// The text was not `Type:value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a managed object reference of the form Type:value")]
pub struct ParseMoRefError;

impl FromStr for MoRef {
    type Err = ParseMoRefError;

    fn from_str(s: &str) -> Result<MoRef, ParseMoRefError> {
        match s.split_once(':') {
            Some((t, v)) if !t.is_empty() && !v.is_empty() => Ok(MoRef::new(t, v)),
            _ => Err(ParseMoRefError),
        }
    }
}
