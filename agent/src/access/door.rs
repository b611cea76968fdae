//! What is in force: TLS, rules and peers. Files are read again at SIGHUP and when they change; what can't be used changes nothing and is
//! told until it can. Whoever is let in and holds no longer is put out.
use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hotadd_api::roles::Role;
use rustls::pki_types::UnixTime;
use tokio::{
    signal::unix::Signal,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Caller, Rules,
    incoming::{self, CONNECTIONS},
    material::Material,
    peer::Peer,
    places::Places,
    rare::Rare,
};
use crate::{
    config::{Stamp, Tls, TlsFiles},
    error::{Error, Result},
    metrics::Meter,
    reason,
};

/// What is wrong, or will be, is said again after this.
const AGAIN: Duration = Duration::from_secs(3600);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    files: TlsFiles,
    /// Of the files as they were read at the start.
    stamp: Stamp,
    rules: Rules,
    material: Mutex<Arc<Material>>,
    /// Every peer that somebody still holds.
    peers: Mutex<Vec<Weak<Peer>>>,
    pub(super) places: Places<IpAddr>,
    pub(super) connections: Places<IpAddr>,
    /// The same connections, by whose they are.
    pub(super) clients: Places<Arc<str>>,
    pub(super) refused: Rare,
    pub(super) crowded: Rare,
    pub(super) meter: Meter,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// With the files as the configuration read them. `connections`: of one client.
    ///
    /// # Errors
    /// [`reason::CFG_INVALID`] for files that can't serve.
    pub fn new(tls: &Tls, rules: Rules, connections: usize, meter: Meter) -> Result<Self> {
        let material = Material::new(tls).map_err(|why| Error::new(&reason::CFG_INVALID, why))?;
        tell(&material.remarks);
        if rules.are_none() {
            tracing::warn!("no [[client]] in the configuration: every certificate of tls.client_ca_file is an admin's");
        }
        let shared = Shared {
            files: tls.files.clone(),
            stamp: tls.stamp.clone(),
            rules,
            material: Mutex::new(Arc::new(material)),
            peers: Mutex::default(),
            places: incoming::handshakes(),
            connections: incoming::connections(),
            clients: Places::new(CONNECTIONS, connections),
            refused: Rare::default(),
            crowded: Rare::default(),
            meter,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(super) fn material(&self) -> Arc<Material> {
        Arc::clone(&lock(&self.shared.material))
    }

    /// Will be looked after until nobody holds it any more.
    pub(super) fn remember(&self, peer: &Arc<Peer>) {
        let mut peers = lock(&self.shared.peers);
        // Room is made before the list would grow: it is as long as what lives, not as what was.
        if peers.len() == peers.capacity() {
            peers.retain(|peer| peer.strong_count() > 0);
        }
        peers.push(Arc::downgrade(peer));
    }

    /// Who this is and what it may.
    ///
    /// # Errors
    /// [`reason::AUT_OUT`], [`reason::AUT_NONE`].
    pub fn caller(&self, peer: &Arc<Peer>) -> Result<Caller> {
        if !peer.is_out() && peer.has_expired(UnixTime::now()) {
            put_out(peer, "its certificate has expired");
        }
        if let Some(why) = peer.out() {
            return Err(why);
        }
        let (name, role) = self.known(peer).ok_or_else(|| Error::new(&reason::AUT_NONE, named(peer)))?;
        Ok(Caller { name, role, peer: Arc::clone(peer) })
    }

    fn known(&self, peer: &Peer) -> Option<(Arc<str>, Role)> {
        let rules = &self.shared.rules;
        match rules.judge(peer.names()) {
            Some((name, role)) => Some((name.to_string().into(), role)),
            None if rules.are_none() => Some((peer.label().into(), Role::Admin)),
            None => None,
        }
    }

    /// Whose its connections are. All who may do nothing are one, so that none of them takes a name that is another's.
    pub(super) fn client(&self, peer: &Peer) -> Arc<str> {
        self.known(peer).map_or_else(|| Arc::from("all without a role"), |(name, _)| name)
    }

    /// Looks after files and peers as long as the agent runs. `hangup`: SIGHUP.
    pub async fn watch(self, mut hangup: Signal) {
        let mut look = interval(self.shared.files.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut read, mut seen) = (self.shared.stamp.clone(), None);
        let mut trouble = Trouble::default();
        loop {
            let asked = tokio::select! {
                _ = look.tick() => false,
                _ = hangup.recv() => true,
            };
            let stamp = self.stamp().await;
            // Two files are never replaced at once: what still changes is waited for, unless somebody says that it is complete.
            let settled = seen.replace(stamp.clone()).is_some_and(|before| before == stamp);
            if asked || (settled && stamp != read) {
                let reloaded = self.reload().await;
                // What failed may be right the next time, with the same files: a passing error must not lose a revocation.
                if reloaded.is_ok() {
                    read = stamp;
                }
                trouble.is(reloaded);
            }
            trouble.say_again(&self);
            self.look_for_expired();
        }
    }

    async fn stamp(&self) -> Stamp {
        let files = self.shared.files.clone();
        tokio::task::spawn_blocking(move || files.stamp()).await.unwrap_or_default()
    }

    /// Reads the files again. What can't be used changes nothing.
    async fn reload(&self) -> Result<()> {
        let files = self.shared.files.clone();
        let read = move || files.read().map_err(|faults| faults.join("; ")).and_then(|tls| Material::new(&tls));
        let material = tokio::task::spawn_blocking(read).await?;
        let material = material.map_err(|why| Error::new(&reason::AUT_FILES, why))?;
        tracing::info!("the files of [tls] were read again and hold from now on");
        tell(&material.remarks);
        *lock(&self.shared.material) = Arc::new(material);
        self.judge_again();
        Ok(())
    }

    fn live(&self) -> Vec<Arc<Peer>> {
        lock(&self.shared.peers).iter().filter_map(Weak::upgrade).filter(|peer| !peer.is_out()).collect()
    }

    /// By what is in force now: revoked, expired, or of a CA that is not believed any more.
    fn judge_again(&self) {
        let material = self.material();
        for peer in self.live() {
            if let Err(why) = material.judge(peer.chain()) {
                put_out(&peer, &why);
            }
        }
    }

    fn look_for_expired(&self) {
        let now = UnixTime::now();
        self.live()
            .iter()
            .filter(|peer| peer.has_expired(now))
            .for_each(|peer| put_out(peer, "its certificate has expired"));
    }
}

fn put_out(peer: &Peer, why: &str) {
    peer.put_out(why.to_owned());
    tracing::warn!(
        reason = reason::AUT_OUT.code,
        client = peer.label(),
        address = %peer.address(),
        why,
        "a client's certificate holds no longer: what it has here ends"
    );
}

fn named(peer: &Peer) -> String {
    let names: Vec<String> = peer.names().iter().map(ToString::to_string).collect();
    format!("it has {}", if names.is_empty() { "no name".to_owned() } else { names.join(", ") })
}

fn tell(remarks: &[String]) {
    for remark in remarks {
        tracing::warn!("{remark}");
    }
}

/// What is wrong now, or soon.
#[derive(Default)]
struct Trouble {
    failed: Option<Error>,
    told: Option<Instant>,
}

impl Trouble {
    /// The same trouble is not told again at each look.
    fn is(&mut self, reloaded: Result<()>) {
        let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
        let failed = reloaded.err();
        if failed.is_none() || text(&failed) != text(&self.failed) {
            self.told = None;
        }
        self.failed = failed;
    }

    fn say_again(&mut self, door: &Door) {
        // What came with good files was told as they were read.
        let first = self.told.is_none();
        if self.told.is_some_and(|told| told.elapsed() < AGAIN) {
            return;
        }
        self.told = Some(Instant::now());
        if let Some(error) = &self.failed {
            tracing::error!(reason = error.reason().code, "{error}; what was read before stays in force");
        }
        if !first {
            tell(&door.material().remarks);
        }
    }
}
