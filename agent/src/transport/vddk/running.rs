//! A disk's nbdkit for as long as somebody needs it: started again when it dies, a bounded number of times, on the same
//! socket, so that the NBD client only has to connect anew.
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    DiskSpec, HostLeaving, VddkSettings,
    child::{Nbdkit, Recipe},
    command,
    lines::Log,
    place::Place,
};
use crate::{
    error::{Error, Result},
    reason,
};

/// First pause before it is started again, doubled each time up to the last: what killed it may need a moment to pass.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// How long nbdkit's words about a refusal are waited for, and how often they are looked for.
const WORDS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// State of one disk's nbdkit.
#[derive(Debug, Clone)]
pub enum Life {
    Serving {
        pid: u32,
    },
    /// It died and is started again.
    Restarting,
    /// It will not be started again: HA-VDK-006, or `None` after it was stopped.
    Ended(Option<Arc<Error>>),
}

/// See the module. Dropped, it is stopped without waiting.
pub struct Running {
    /// Where the disk is served: `nbd+unix:///?socket=…`.
    pub socket: PathBuf,
    life: watch::Receiver<Life>,
    recipe: Arc<Recipe>,
    end: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

pub(super) async fn start(
    settings: VddkSettings,
    spec: DiskSpec,
    password: SecretString,
    runtime_dir: &Path,
) -> Result<Running> {
    let log = Arc::new(Log::new(&spec.session, spec.file.as_str(), password.clone()));
    let config = command::config_file(&settings, "hotadd-proxy", env!("CARGO_PKG_VERSION"));
    let (runtime_dir, tmp_dir) = (runtime_dir.to_owned(), settings.tmp_dir.clone());
    let place = tokio::task::spawn_blocking(move || Place::make(&runtime_dir, &tmp_dir, &config))
        .await?
        .map_err(|error| Error::new(&reason::VDK_START, "").with_source(error))?;
    let recipe = Arc::new(Recipe { settings, spec, password, log });
    let nbdkit = recipe.start(&place).await?;
    let (state, life) = watch::channel(Life::Serving { pid: nbdkit.pid });
    let (socket, end) = (place.socket(), CancellationToken::new());
    let keeper = Keeper { recipe: Arc::clone(&recipe), state, end: end.clone(), place };
    Ok(Running { socket, life, recipe, end, keeper: Mutex::new(Some(tokio::spawn(keeper.keep(nbdkit)))) })
}

impl Running {
    /// Whether it serves now.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(*self.life.borrow(), Life::Serving { .. })
    }

    /// Follows its state.
    #[must_use]
    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    /// Set when VDDK said that the host leaves service.
    #[must_use]
    pub fn host_leaving(&self) -> watch::Receiver<Option<HostLeaving>> {
        self.recipe.log.leaving()
    }

    /// As [`Running::open_refused`], after a short wait for words that are on their way: they come by another channel than
    /// the refusal. Blocking.
    pub fn open_refused_soon(&self, cause: impl fmt::Display) -> Error {
        let end = Instant::now() + WORDS;
        while !self.recipe.log.has_error() && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
        self.open_refused(cause)
    }

    /// The reason for an NBD client that was refused or lost its server: what VDDK said, or that nbdkit was given up.
    #[must_use]
    pub fn open_refused(&self, cause: impl fmt::Display) -> Error {
        if let Life::Ended(Some(error)) = &*self.life.borrow() {
            return error.copy();
        }
        if let Some(signal) = *self.recipe.log.leaving().borrow() {
            return Error::new(&reason::VDK_HOST, format!("{signal:?}; {cause}"));
        }
        self.recipe.failed(&reason::VDK_OPEN, &cause.to_string())
    }

    /// Ends it; returns when it has ended and its folder is gone.
    pub async fn stop(&self) {
        self.end.cancel();
        let keeper = self.keeper.lock().await.take();
        if let Some(keeper) = keeper
            && let Err(error) = keeper.await
        {
            tracing::error!(%error, "the keeper of an nbdkit failed");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("socket", &self.socket)
            .field("life", &*self.life.borrow())
            .finish_non_exhaustive()
    }
}

struct Keeper {
    recipe: Arc<Recipe>,
    state: watch::Sender<Life>,
    end: CancellationToken,
    place: Place,
}

impl Keeper {
    async fn keep(self, mut nbdkit: Nbdkit) {
        let mut starts = 0;
        let ended = loop {
            tokio::select! {
                biased;
                () = self.end.cancelled() => {
                    nbdkit.end(self.recipe.settings.stop_deadline).await;
                    break None;
                }
                death = nbdkit.death() => match self.again(death, &mut starts).await {
                    Some(Ok(next)) => {
                        self.state.send_replace(Life::Serving { pid: next.pid });
                        nbdkit = next;
                    }
                    Some(Err(error)) => break Some(Arc::new(error)),
                    None => break None,
                },
            }
        };
        // The folder goes before the state says so.
        drop(self.place);
        self.state.send_replace(Life::Ended(ended));
    }

    /// Another one, the reason why there is none, or `None` when nobody wants it any more.
    async fn again(&self, mut death: String, starts: &mut u32) -> Option<Result<Nbdkit>> {
        let Recipe { settings, spec, .. } = &*self.recipe;
        self.state.send_replace(Life::Restarting);
        loop {
            tracing::warn!(session = spec.session, disk = %spec.file, death, starts, "nbdkit died");
            if *starts >= settings.restarts {
                let what = format!("{death}, and was started anew {starts} times");
                return Some(Err(self.recipe.failed(&reason::VDK_DIED, &what)));
            }
            let pause = PAUSE_LAST.min(PAUSE_FIRST * 2u32.saturating_pow(*starts));
            *starts += 1;
            tokio::select! {
                () = self.end.cancelled() => return None,
                next = async { sleep(pause).await; self.recipe.start(&self.place).await } => match next {
                    Ok(next) => return Some(Ok(next)),
                    Err(error) => death = error.message(),
                },
            }
        }
    }
}
