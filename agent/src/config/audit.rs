//! The table `[audit]`.
use std::path::PathBuf;

use serde::Deserialize;

use crate::audit::AuditPolicy;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAudit {
    file: Option<PathBuf>,
    required: bool,
}

impl RawAudit {
    /// Faults are added to `faults`, one line each.
    pub(super) fn check(self, faults: &mut Vec<String>) -> AuditPolicy {
        if self.required && self.file.is_none() {
            faults.push("audit.required: needs audit.file".to_owned());
        }
        if let Some(path) = self.file.as_ref().filter(|path| !path.is_absolute()) {
            faults.push(format!("audit.file: {} is not absolute", path.display()));
        }
        AuditPolicy { file: self.file, required: self.required }
    }
}
