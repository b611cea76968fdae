//! One connection in its transmission phase: requests out, replies in, and when its patience ends.
use std::{
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use nix::poll::PollFlags;

use super::{
    Export, Limits, NbdError, Options, Target,
    channel::{Channel, Patience, Patient},
    handshake,
    reply::{Landing, Part, Replies},
    wire::{self, Command, Headers},
};

/// See the module.
#[derive(Debug)]
pub struct Conn {
    channel: Channel,
    headers: Headers,
    replies: Replies,
    /// Requests that the socket did not take yet.
    out: Vec<u8>,
    /// When the server last sent a byte, or began to owe one, on the engine's clock.
    moved: Duration,
}

impl Conn {
    /// Connects and negotiates, within the limits for both.
    pub fn dial(target: &Target, options: &Options) -> Result<(Self, Export), NbdError> {
        options.stopped()?;
        let connecting = |error| match error {
            NbdError::Io(source) => NbdError::Connect { target: target.to_string(), source },
            other => other,
        };
        let mut channel = Channel::connect(&target.address, options).map_err(connecting)?;
        let after = options.limits.handshake;
        let patience = Patience { what: "negotiating", after, until: Instant::now() + after, options };
        handshake::greet(&mut Patient { channel: &mut channel, patience: &patience })?;
        if target.tls {
            let tls = options.tls.as_ref();
            let tls = tls.ok_or_else(|| NbdError::TlsConfig("nbds needs a CA to trust".to_owned()))?;
            handshake::start_tls(&mut Patient { channel: &mut channel, patience: &patience })?;
            channel = channel.secure(tls, &target.address, &patience)?;
        }
        let mut wire = Patient { channel: &mut channel, patience: &patience };
        let export = handshake::negotiate(&mut wire, &target.export, options.block_status)?;
        let replies = Replies::new(export.headers, export.allocation);
        let conn = Self { channel, headers: export.headers, replies, out: Vec::new(), moved: Duration::ZERO };
        Ok((conn, export))
    }

    /// Requests that the server owes an answer to.
    pub fn load(&self) -> usize {
        self.replies.pending.len()
    }

    /// Puts one request on its way; [`Conn::flush`] moves it.
    pub fn send(&mut self, mut part: Part, cookie: u64, now: Duration) {
        if self.replies.pending.is_empty() {
            self.moved = now;
        }
        wire::request(&mut self.out, self.headers, part.command, cookie, part.offset, part.length);
        part.cookie = cookie;
        part.sent = now;
        self.replies.pending.push(part);
    }

    pub fn flush(&mut self) -> Result<(), NbdError> {
        while !self.out.is_empty() {
            match self.channel.write(&self.out)? {
                0 => return Ok(()),
                sent => drop(self.out.drain(..sent)),
            }
        }
        self.channel.flush().map(drop)
    }

    /// What to poll for; `None` while nothing is owed.
    pub fn wants(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let events = if self.out.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        (self.load() > 0).then(|| (self.channel.as_fd(), events))
    }

    /// Takes what the server sent; parts that it finished go to `done`, also when an error follows them.
    pub fn receive(&mut self, landing: &mut dyn Landing, now: Duration, done: &mut Vec<Part>) -> Result<(), NbdError> {
        let (channel, moved) = (&mut self.channel, &mut self.moved);
        let input = &mut |room: &mut [u8]| {
            let got = channel.read(room)?;
            if got.is_some() {
                *moved = now;
            }
            Ok(got)
        };
        while !self.replies.pending.is_empty() {
            match self.replies.advance(input, landing)? {
                Some(part) => done.push(part),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// When patience ends, on the engine's clock, and with what error.
    pub fn deadline(&self, limits: &Limits) -> Option<(Duration, NbdError)> {
        let oldest = self.replies.pending.iter().map(|part| part.sent).min()?;
        let (idle, reply) = (self.moved + limits.idle, oldest + limits.reply);
        Some(if idle <= reply {
            (idle, NbdError::Timeout { what: "waiting for a byte of the server", after: limits.idle })
        } else {
            (reply, NbdError::Timeout { what: "waiting for the end of a reply", after: limits.reply })
        })
    }

    /// What was not answered, as new requests.
    pub fn into_unanswered(self) -> impl DoubleEndedIterator<Item = Part> {
        self.replies.pending.into_iter().map(|part| part.renewed())
    }

    /// NBD_CMD_DISC and TLS's good-bye, as far as that goes without waiting.
    pub fn hang_up(mut self) {
        wire::request(&mut self.out, self.headers, Command::Disconnect, 0, 0, 0);
        if let Err(error) = self.flush() {
            tracing::debug!(%error, "the server left before us");
        }
        self.channel.close();
    }
}
