//! What has to be known before anything is collected: the settings, where the journal is, and the secrets of this host, for the search.
use std::path::{Path, PathBuf};

use super::{
    bound::{PART, within},
    records,
    scrub::Scrubber,
    settings::{self, Settings},
};

/// See the module.
pub(super) struct Known {
    pub(super) settings: Result<Settings, String>,
    pub(super) state_dir: PathBuf,
    pub(super) scrubber: Scrubber,
    /// Secrets that are not known, so that nothing is searched for them.
    pub(super) blind: Vec<String>,
}

pub(super) async fn look(config: &Path) -> Known {
    let mut scrubber = Scrubber::default();
    scrubber.environment(std::env::vars_os());
    let path = config.to_owned();
    let read = within(PART, move || Ok(Settings::read(&path))).await;
    let (settings, files) = read.unwrap_or_else(|why| (Err(why), settings::usual_secrets()));
    let mut blind = Vec::new();
    for path in files {
        let (named, mut known) = (path.display().to_string(), scrubber.clone());
        match within(PART, move || known.file(&path).map(|()| known)).await {
            Ok(known) => scrubber = known,
            Err(why) => blind.push(format!("what is in {named} is unknown: {why}")),
        }
    }
    let state_dir = settings.as_ref().map_or_else(|_| settings::default_state_dir(), Settings::state_dir);
    let dir = state_dir.clone();
    match within(PART, move || records::logins(&dir)).await {
        Ok(logins) => logins.iter().for_each(|login| _ = scrubber.secret(login)),
        Err(why) => blind.push(format!("keys of vCenter sessions are unknown: {why}")),
    }
    Known { settings, state_dir, scrubber, blind }
}
