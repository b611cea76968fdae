//! What the first boot came to, kept over reboots.
//!
//! ```text
//! UNCONFIGURED ──apply without fault──▶ CONFIGURED(generation) ──another generation, without fault──▶ CONFIGURED(that one)
//!   ▲    │ tried again at each boot                       └── with faults: stays as it was, the faults are shown
//!   └────┘
//! ```
use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::reasons::Fault;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of the properties that the agent runs with.
    pub configured: Option<u16>,
    /// Of the last boot.
    #[serde(default)]
    pub faults: Vec<Fault>,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub port: u16,
}

impl State {
    /// A state that is not there or can't be read is none: then everything is done again.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// # Errors
    /// A write that failed.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        crate::apply::install(path, &text, 0o644)
    }
}
