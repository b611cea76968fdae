//! One of the engine's connections over its life.
//!
//! ```text
//! Up ── lost ──▶ Down until `at` ── dialled ──▶ Up        a finished reply sets the strikes back to 0
//!                     └── more than `reconnects` strikes ──▶ Dead
//! ```
use std::time::Instant;

use super::{Limits, NbdError, conn::Conn};

#[derive(Debug)]
pub enum State {
    Up(Box<Conn>),
    Down { at: Instant },
    Dead,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    pub state: State,
    pub strikes: u32,
}

impl Link {
    pub fn up(conn: Conn) -> Self {
        Self { state: State::Up(Box::new(conn)), strikes: 0 }
    }

    pub fn conn(&mut self) -> Option<&mut Conn> {
        match &mut self.state {
            State::Up(conn) => Some(conn),
            State::Down { .. } | State::Dead => None,
        }
    }

    /// When it is to be dialled.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Down { at } => Some(at),
            State::Up(_) | State::Dead => None,
        }
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    /// One more failure in a row; gives back the connection that broke, if there was one.
    pub fn strike(&mut self, limits: &Limits, why: &NbdError) -> Option<Box<Conn>> {
        self.strikes += 1;
        let next = if self.strikes > limits.reconnects {
            State::Dead
        } else {
            State::Down { at: Instant::now() + limits.pause(self.strikes) }
        };
        tracing::warn!(error = %why, strikes = self.strikes, dead = matches!(next, State::Dead), "lost an NBD connection");
        match std::mem::replace(&mut self.state, next) {
            State::Up(conn) => Some(conn),
            State::Down { .. } | State::Dead => None,
        }
    }
}
