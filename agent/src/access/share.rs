//! What one client may do at the same time and per second, by its name: the counts and the bucket. Knows neither TLS nor gRPC, and no
//! clock: the time is given in.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What each client may.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowed {
    /// Calls at the same time, streams included.
    pub calls: usize,
    pub calls_per_second: f64,
    /// Calls at once after a rest.
    pub burst: f64,
}

/// Why a call may not begin now.
#[derive(Debug, PartialEq)]
pub enum Over {
    Calls,
    /// The next may begin after this.
    Rate(Duration),
}

#[derive(Debug)]
struct Client {
    running: usize,
    tokens: f64,
    at: Instant,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shares {
    allowed: Allowed,
    clients: Arc<Mutex<HashMap<Arc<str>, Client>>>,
}

/// A call that runs; over when this is dropped.
#[derive(Debug)]
pub struct Running {
    shares: Shares,
    name: Arc<str>,
}

impl Client {
    fn fill(&mut self, allowed: Allowed, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = passed.mul_add(allowed.calls_per_second, self.tokens).min(allowed.burst);
        self.at = self.at.max(now);
    }

    /// Forgetting it changes nothing.
    fn is_as_new(&self, allowed: Allowed) -> bool {
        self.running == 0 && self.tokens >= allowed.burst
    }
}

impl Shares {
    #[must_use]
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, clients: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call of this client. One that is refused takes nothing from the bucket.
    ///
    /// # Errors
    /// [`Over`].
    pub fn begin(&self, name: &Arc<str>, now: Instant) -> Result<Running, Over> {
        let allowed = self.allowed;
        let mut clients = self.lock();
        // Room is made before the table would grow: it is as large as what counts, not as what was.
        if clients.len() == clients.capacity() {
            clients.retain(|_, client| {
                client.fill(allowed, now);
                !client.is_as_new(allowed)
            });
        }
        let new = || Client { running: 0, tokens: allowed.burst, at: now };
        let client = clients.entry(Arc::clone(name)).or_insert_with(new);
        client.fill(allowed, now);
        if client.running >= allowed.calls {
            return Err(Over::Calls);
        }
        if client.tokens < 1.0 {
            return Err(Over::Rate(Duration::from_secs_f64((1.0 - client.tokens) / allowed.calls_per_second)));
        }
        client.tokens -= 1.0;
        client.running += 1;
        Ok(Running { shares: self.clone(), name: Arc::clone(name) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(client) = self.shares.lock().get_mut(&self.name) {
            client.running = client.running.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(calls: usize) -> Shares {
        Shares::new(Allowed { calls, calls_per_second: 2.0, burst: 3.0 })
    }

    #[test]
    fn a_burst_then_the_rate_and_another_client_is_not_held_up() {
        let (shares, a, b, start) = (shares(100), Arc::from("a"), Arc::from("b"), Instant::now());
        assert_eq!((0..10).filter(|_| shares.begin(&a, start).is_ok()).count(), 3);
        assert_eq!(shares.begin(&a, start).unwrap_err(), Over::Rate(Duration::from_millis(500)));
        assert!(shares.begin(&b, start).is_ok());
        let later = start + Duration::from_millis(500);
        assert!(shares.begin(&a, later).is_ok());
        assert!(shares.begin(&a, later).is_err());
    }

    #[test]
    fn what_ended_makes_room() {
        let (shares, a, now) = (shares(1), Arc::from("a"), Instant::now());
        let running = shares.begin(&a, now).unwrap();
        assert_eq!(shares.begin(&a, now).unwrap_err(), Over::Calls);
        drop(running);
        assert!(shares.begin(&a, now).is_ok());
    }

    #[test]
    fn who_is_idle_and_full_is_forgotten_and_who_runs_is_not() {
        let (shares, start) = (shares(1), Instant::now());
        let busy: Arc<str> = Arc::from("busy");
        let _running = shares.begin(&busy, start).unwrap();
        for n in 0..1000_u32 {
            shares.begin(&Arc::from(n.to_string()), start + Duration::from_secs(n.into())).unwrap();
        }
        assert!(shares.lock().len() < 50, "{}", shares.lock().len());
        assert_eq!(shares.begin(&busy, start + Duration::from_secs(2000)).unwrap_err(), Over::Calls);
    }
}
