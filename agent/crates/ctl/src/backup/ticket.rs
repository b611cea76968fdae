//! The clone ticket of a job: read from a file or a descriptor right before the request that uses it up, never from an argument or
//! the environment, which others can see.
use std::{fs::File, io::Read as _, path::PathBuf};

use hotadd_api::v1::{CloneTicket, GetInfoResponse};

use crate::{cli::BackupArgs, error::Failure, exit::Exit, reasons};

/// Longer than any ticket: whoever names another file is told.
const MOST: u64 = 1024;

/// Where it is.
#[derive(Debug, Clone)]
pub(super) struct Ticket(Option<PathBuf>);

impl Ticket {
    pub(super) fn new(args: &BackupArgs) -> Self {
        let descriptor = || args.clone_ticket_fd.map(|fd| PathBuf::from(format!("/dev/fd/{fd}")));
        Self(args.clone_ticket_file.clone().or_else(descriptor))
    }

    pub(super) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this agent would use it: one that does not see it does the whole job with its own account, and says OK.
    ///
    /// # Errors
    /// [`reasons::NO_TICKETS`]; nothing was sent.
    pub(super) fn suits(&self, info: &GetInfoResponse) -> Result<(), Failure> {
        if self.0.is_none() || info.clone_tickets {
            return Ok(());
        }
        let who = format!("agent {} of {}", info.agent_version, info.proxy_name);
        Err(Failure::new(Exit::Refused, reasons::NO_TICKETS, who))
    }

    /// Reads it.
    ///
    /// # Errors
    /// Exit 2: it can't be read, or is none.
    pub(super) fn take(&self) -> Result<Option<CloneTicket>, Failure> {
        let Some(path) = &self.0 else { return Ok(None) };
        let refuse =
            |why: String| Failure::new(Exit::Usage, reasons::USAGE, format!("clone ticket {}: {why}", path.display()));
        let mut text = String::new();
        let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
        // What is read is told nowhere, also if it is no text.
        file.take(MOST + 1).read_to_string(&mut text).map_err(|e| refuse(e.kind().to_string()))?;
        let value = text.trim_end_matches(['\r', '\n']).to_owned();
        if value.trim().is_empty() || value.len() as u64 > MOST {
            return Err(refuse(format!("it is empty or longer than {MOST} bytes")));
        }
        Ok(Some(CloneTicket { value }))
    }
}
