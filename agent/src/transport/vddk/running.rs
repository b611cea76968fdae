//! A disk's nbdkit for as long as somebody needs it: started again when it dies, a bounded number of times, on the same
//! socket, so that the NBD client only has to connect anew.
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    DiskSpec, HostLeaving, VddkSettings,
    child::{Nbdkit, Recipe},
    command,
    lines::Log,
    place::Place,
};
use crate::{
    attach::Reader,
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
}

pub(super) async fn start(
    settings: VddkSettings,
    spec: DiskSpec,
    password: SecretString,
    runtime_dir: &Path,
    reader: Option<Reader>,
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
    let keeper = Keeper { recipe: Arc::clone(&recipe), state, end: end.clone(), place, reader };
    tokio::spawn(keeper.keep(nbdkit));
    Ok(Running { socket, life, recipe, end })
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

    /// Set when VDDK said that the host leaves service, with the count of lines that said so or called themselves errors.
    #[must_use]
    pub fn host_leaving(&self) -> watch::Receiver<Option<(HostLeaving, u64)>> {
        self.recipe.log.leaving()
    }

    /// As [`Running::open_refused`], after a short wait for words that are on their way: they come by another channel than
    /// the refusal. Blocking.
    pub fn open_refused_soon(&self, mark: u64, cause: impl fmt::Display) -> Error {
        let end = Instant::now() + WORDS;
        while self.mark() == mark && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
        self.open_refused(mark, cause)
    }

    /// The reason for an NBD client that was refused or lost its server: what VDDK said since `mark`, or that nbdkit was
    /// given up.
    #[must_use]
    pub fn open_refused(&self, mark: u64, cause: impl fmt::Display) -> Error {
        if let Life::Ended(Some(error)) = &*self.life.borrow() {
            return error.copy();
        }
        if let Some((signal, at)) = *self.recipe.log.leaving().borrow()
            && at > mark
        {
            return Error::new(&reason::VDK_HOST, format!("{signal:?}; {cause}"));
        }
        self.recipe.failed(&reason::VDK_OPEN, mark, &cause.to_string())
    }

    /// Tells it to end.
    pub fn leave(&self) {
        self.end.cancel();
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Ends it; returns when it has ended and its folder is gone. Any number of callers may wait.
    pub async fn stop(&self) {
        self.leave();
        // A keeper that is gone has dropped everything.
        self.life().wait_for(|life| matches!(life, Life::Ended(_))).await.ok();
    }

    /// Waits while it is started anew; whether it serves then.
    pub async fn serves(&self) -> bool {
        let mut life = self.life();
        let known = life.wait_for(|life| !matches!(life, Life::Restarting)).await;
        matches!(known.as_deref(), Ok(Life::Serving { .. }))
    }

    /// Counts what nbdkit called an error so far: what comes later is about what happens later.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.recipe.log.errors()
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
    /// The snapshot stays as long as this.
    reader: Option<Reader>,
}

impl Keeper {
    async fn keep(self, mut nbdkit: Nbdkit) {
        let mut starts = 0;
        let ended = loop {
            tokio::select! {
                biased;
                () = self.end.cancelled() => {
                    nbdkit.end(&self.place.socket(), self.recipe.settings.stop_deadline).await;
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
        drop(self.reader);
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
                return Some(Err(self.recipe.failed(&reason::VDK_DIED, 0, &what)));
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
