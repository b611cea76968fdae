//! The engine: splits operations into parts, spreads them over connections, puts answers together. All I/O happens on
//! the caller's thread, in `submit` (what the socket takes at once) and `complete` (poll(2)).
//!
//! A lost connection is dialled again and what it owed is asked again; the export must be the same. An answer that
//! breaks the protocol ends the engine: a server that contradicts itself is not asked a second time.
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags};

use super::{
    Export, NbdError, Options, Target,
    channel::poll_for,
    conn::Conn,
    link::{Link, State},
    options::STOP_POLL,
    reply::{Landing, Part},
    wire::Command,
};
use crate::{
    Buffer, EngineKind, ReadEngine, Source,
    engine::{Completion, ReadOp, Rejected, admit},
};

/// For replies that are on their way when a read is given up.
const LEAVE: Duration = Duration::from_secs(1);

/// The export as the reader sees it.
#[derive(Debug)]
pub struct NbdSource {
    export: Export,
    lost: AtomicBool,
}

impl NbdSource {
    #[must_use]
    pub fn export(&self) -> &Export {
        &self.export
    }
}

impl Source for NbdSource {
    fn size(&self) -> u64 {
        self.export.size
    }

    fn logical_block(&self) -> u32 {
        self.export.minimum
    }

    fn is_present(&self) -> bool {
        !self.lost.load(Ordering::Relaxed)
    }

    /// Halves a piece that failed with EIO until one unit (512 bytes, or the server's larger minimum) is left.
    fn first_bad(
        &self,
        engine: &mut dyn ReadEngine,
        op: ReadOp,
        result: &io::Result<usize>,
    ) -> Option<(u64, io::Error)> {
        if result.as_ref().err()?.raw_os_error() != Some(libc::EIO) {
            return None;
        }
        while engine.complete().ok()?.is_some() {}
        let unit = u64::from(self.export.minimum.max(512));
        let (mut start, mut buffer) = (op.offset, op.buffer);
        let mut end = self.export.size.min(op.offset + u64::from(op.length));
        loop {
            let units = (end - start).div_ceil(unit);
            let half = if units > 1 { units / 2 * unit } else { end - start };
            let answer;
            (buffer, answer) = read_once(engine, start, u32::try_from(half).ok()?, buffer)?;
            match answer {
                Err(error) if units <= 1 => return Some((start, error)),
                Err(_) => end = start + half,
                Ok(_) if units <= 1 => return None,
                Ok(_) => start += half,
            }
        }
    }
}

fn read_once(
    engine: &mut dyn ReadEngine,
    offset: u64,
    length: u32,
    buffer: Buffer,
) -> Option<(Buffer, io::Result<usize>)> {
    engine.submit(ReadOp { offset, length, buffer }).ok()?;
    engine.complete().ok()?.map(|done| (done.op.buffer, done.result))
}

/// An operation that the caller waits for.
#[derive(Debug)]
struct Slot {
    op: ReadOp,
    /// Bytes until the end of the operation or of the export.
    wanted: u32,
    parts_left: usize,
    error: Option<i32>,
}

#[derive(Debug)]
struct Slots(Vec<Option<Slot>>);

impl Landing for Slots {
    fn land(&mut self, slot: usize, at: usize, length: usize) -> Option<&mut [u8]> {
        let slot = self.0.get_mut(slot)?.as_mut()?;
        slot.op.buffer.spare(slot.wanted as usize).get_mut(at..at.checked_add(length)?)
    }
}

/// See the module, and [`ReadEngine`] for the contract.
#[derive(Debug)]
pub struct NbdEngine {
    source: Arc<NbdSource>,
    target: Target,
    options: Options,
    links: Vec<Link>,
    slots: Slots,
    free: Vec<usize>,
    /// Parts that no connection has.
    queue: VecDeque<Part>,
    ready: VecDeque<Completion>,
    /// The answer of a block status.
    pub(super) answer: Option<Part>,
    /// Time spent waiting for servers; deadlines are on this clock, so that a slow consumer costs no patience.
    clock: Duration,
    cookie: u64,
    fatal: Option<NbdError>,
    over: bool,
}

impl NbdEngine {
    /// Connects, negotiates, and opens more connections if the server allows. `depth`: operations in flight.
    ///
    /// # Errors
    /// Any [`NbdError`] of connecting and negotiating.
    pub fn open(target: &Target, options: &Options, depth: u32) -> Result<Self, NbdError> {
        if options.tls.is_some() && !target.tls {
            return Err(NbdError::TlsConfig("TLS is set up for a URI that does not ask for it".to_owned()));
        }
        let depth = depth.max(1);
        let (first, export) = Conn::dial(target, options)?;
        let mut links = vec![Link::up(first)];
        let connections = if export.multi_conn() { options.connections.clamp(1, depth) } else { 1 };
        while (links.len() as u64) < connections.into() {
            match Conn::dial(target, options) {
                Ok((conn, now)) => {
                    export.same(&now)?;
                    links.push(Link::up(conn));
                }
                Err(NbdError::Stopped) => return Err(NbdError::Stopped),
                Err(error) => {
                    tracing::info!(%error, have = links.len(), wanted = connections, "no more NBD connections");
                    break;
                }
            }
        }
        let depth = depth as usize;
        Ok(Self {
            source: Arc::new(NbdSource { export, lost: AtomicBool::new(false) }),
            target: target.clone(),
            options: options.clone(),
            links,
            slots: Slots((0..depth).map(|_| None).collect()),
            free: (0..depth).rev().collect(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            answer: None,
            clock: Duration::ZERO,
            cookie: 0,
            fatal: None,
            over: false,
        })
    }

    #[must_use]
    pub fn source(&self) -> &Arc<NbdSource> {
        &self.source
    }

    #[must_use]
    pub fn export(&self) -> &Export {
        &self.source.export
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.links.iter().filter(|link| matches!(link.state, State::Up(_))).count()
    }

    pub(super) fn enqueue(&mut self, part: Part) {
        self.queue.push_back(part);
    }

    /// Gives queued parts to the least loaded connections.
    fn dispatch(&mut self) {
        while let Some(part) = self.queue.pop_front() {
            let loads =
                self.links.iter_mut().enumerate().filter_map(|(index, link)| Some((link.conn()?.load(), index)));
            let Some((_, index)) = loads.min() else {
                self.queue.push_front(part);
                break;
            };
            self.cookie += 1;
            let (cookie, now) = (self.cookie, self.clock);
            let Some(conn) = self.links.get_mut(index).and_then(Link::conn) else { return };
            conn.send(part, cookie, now);
        }
        self.flush();
    }

    fn flush(&mut self) {
        for index in 0..self.links.len() {
            if let Some(Err(error)) = self.links.get_mut(index).and_then(Link::conn).map(Conn::flush) {
                self.lose(index, error);
            }
        }
    }

    /// One step towards a completion: dial, send, wait, receive.
    pub(super) fn turn(&mut self) -> Result<(), NbdError> {
        self.options.stopped()?;
        self.revive();
        self.dispatch();
        if self.fatal.is_none() {
            self.wait()?;
        }
        match self.fatal.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Dials connections whose pause is over.
    fn revive(&mut self) {
        for index in 0..self.links.len() {
            let due = self.links.get(index).and_then(Link::due);
            if self.fatal.is_some() || due.is_none_or(|at| at > Instant::now()) {
                continue;
            }
            let dialled = Conn::dial(&self.target, &self.options)
                .and_then(|(conn, now)| self.source.export.same(&now).map(|()| conn));
            match (dialled, self.links.get_mut(index)) {
                (Ok(conn), Some(link)) => link.state = State::Up(Box::new(conn)),
                (Err(error), _) => self.lose(index, error),
                (Ok(_), None) => {}
            }
        }
    }

    /// A connection broke or could not be made: what it owed is queued again.
    fn lose(&mut self, index: usize, why: NbdError) {
        let Some(link) = self.links.get_mut(index) else { return };
        let broken = link.strike(&self.options.limits, &why);
        let attempts = link.strikes;
        for part in broken.into_iter().flat_map(|conn| conn.into_unanswered()).rev() {
            self.queue.push_front(part);
        }
        if !why.is_transient() {
            self.fatal.get_or_insert(why);
        } else if self.links.iter().all(Link::is_dead) {
            self.fatal.get_or_insert(NbdError::GaveUp { attempts, source: Box::new(why) });
        }
    }

    fn wait(&mut self) -> Result<(), NbdError> {
        let slice = self.slice();
        let mut waiting = Vec::with_capacity(self.links.len());
        let mut fds = Vec::with_capacity(self.links.len());
        for (index, link) in self.links.iter().enumerate() {
            if let State::Up(conn) = &link.state
                && let Some((fd, events)) = conn.wants()
            {
                waiting.push(index);
                fds.push(PollFd::new(fd, events));
            }
        }
        let began = Instant::now();
        if fds.is_empty() {
            // Nothing but pauses before dialling: `revive` knows what to do afterwards.
            thread::sleep(slice);
            return Ok(());
        }
        poll_for(&mut fds, slice)?;
        let ready: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        self.clock += began.elapsed();
        for (index, events) in waiting.into_iter().zip(ready) {
            self.serve(index, events);
        }
        Ok(())
    }

    /// How long to wait at most: until the next deadline or dial, and never past a look at the wish to stop.
    fn slice(&self) -> Duration {
        let limits = &self.options.limits;
        let deadlines = self.links.iter().filter_map(|link| match &link.state {
            State::Up(conn) => conn.deadline(limits).map(|(at, _)| at.saturating_sub(self.clock)),
            State::Down { at } => Some(at.saturating_duration_since(Instant::now())),
            State::Dead => None,
        });
        let most = if self.options.stop.is_some() { STOP_POLL } else { limits.idle };
        deadlines.min().unwrap_or(most).min(most)
    }

    fn serve(&mut self, index: usize, events: PollFlags) {
        let mut done = Vec::new();
        let outcome = {
            let Some(conn) = self.links.get_mut(index).and_then(Link::conn) else { return };
            let sent = if events.contains(PollFlags::POLLOUT) { conn.flush() } else { Ok(()) };
            let readable = events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
            let got = if readable { conn.receive(&mut self.slots, self.clock, &mut done) } else { Ok(()) };
            let overdue = conn.deadline(&self.options.limits).filter(|(at, _)| *at <= self.clock);
            sent.and(got).and(overdue.map_or(Ok(()), |(_, error)| Err(error)))
        };
        if !done.is_empty()
            && let Some(link) = self.links.get_mut(index)
        {
            link.strikes = 0;
        }
        let mut leaving = false;
        for part in done {
            leaving |= self.settle(part);
        }
        if let Err(error) = outcome {
            self.lose(index, error);
        } else if leaving {
            self.lose(index, NbdError::Closed);
        }
    }

    /// Books a finished part; true if the server wants to shut down and the part has to be asked elsewhere.
    fn settle(&mut self, part: Part) -> bool {
        if part.error == Some(libc::ESHUTDOWN) {
            self.queue.push_front(part.renewed());
            return true;
        }
        if part.command == Command::BlockStatus {
            self.answer = Some(part);
            return false;
        }
        let Some(place) = self.slots.0.get_mut(part.slot) else { return false };
        let finished = place.as_mut().is_some_and(|slot| {
            slot.error = slot.error.or(part.error);
            slot.parts_left -= 1;
            slot.parts_left == 0
        });
        if finished && let Some(slot) = place.take() {
            self.free.push(part.slot);
            self.ready.push_back(slot.complete());
        }
        false
    }

    /// The end: nothing is in flight any more, and nothing will be.
    pub(super) fn fail(&mut self, error: &NbdError) {
        if !matches!(error, NbdError::Stopped) {
            tracing::warn!(%error, target = %self.target, "the NBD source is lost");
        }
        self.over = true;
        self.source.lost.store(true, Ordering::Relaxed);
        self.leave();
        self.ready.clear();
        self.slots.0.iter_mut().for_each(|slot| *slot = None);
        self.free = (0..self.slots.0.len()).rev().collect();
    }

    /// Takes what is still owed, for a moment, and says good-bye. A server whose client vanishes in the middle of a reply may
    /// die of it (nbdkit 1.32: an assertion in raw_send_socket), and leave open what it has open elsewhere.
    fn leave(&mut self) {
        let end = Instant::now() + LEAVE;
        self.queue.clear();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let owed = |link: &mut Link| link.conn().is_some_and(|conn| conn.load() > 0);
            let Some(index) = self.links.iter_mut().position(owed) else { break };
            if left.is_zero() || !self.take_owed(index, left) {
                self.links.swap_remove(index);
            }
        }
        for link in self.links.drain(..) {
            if let State::Up(conn) = link.state {
                conn.hang_up();
            }
        }
    }

    /// Waits for more of what one connection owes; false when it broke.
    fn take_owed(&mut self, index: usize, left: Duration) -> bool {
        let Some(conn) = self.links.get_mut(index).and_then(Link::conn) else { return false };
        let Some((fd, events)) = conn.wants() else { return true };
        if poll_for(&mut [PollFd::new(fd, events)], left).is_err() {
            return false;
        }
        let mut done = Vec::new();
        conn.flush().and_then(|()| conn.receive(&mut self.slots, self.clock, &mut done)).is_ok()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Slot {
    fn complete(mut self) -> Completion {
        let result = match self.error {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(self.wanted as usize),
        };
        self.op.buffer.set_filled(*result.as_ref().unwrap_or(&0));
        Completion { op: self.op, result }
    }
}

impl ReadEngine for NbdEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Nbd
    }

    fn depth(&self) -> usize {
        self.slots.0.len()
    }

    fn in_flight(&self) -> usize {
        self.slots.0.len() - self.free.len() + self.ready.len()
    }

    fn submit(&mut self, op: ReadOp) -> Result<(), Rejected> {
        let op = admit(op, self.in_flight(), self.depth())?;
        let export = &self.source.export;
        let (size, unit, most) = (export.size, export.minimum, export.maximum);
        let aligned = op.offset.is_multiple_of(unit.into()) && op.length.is_multiple_of(unit);
        if self.over || !aligned {
            let kind = if self.over { io::ErrorKind::BrokenPipe } else { io::ErrorKind::InvalidInput };
            return Err(Rejected { op, error: kind.into() });
        }
        let wanted = size.saturating_sub(op.offset).min(op.length.into());
        let wanted = u32::try_from(wanted).unwrap_or(op.length);
        let (offset, parts_left) = (op.offset, wanted.div_ceil(most) as usize);
        let slot = Slot { op, wanted, parts_left, error: None };
        if wanted == 0 {
            self.ready.push_back(slot.complete());
            return Ok(());
        }
        let Some(index) = self.free.pop() else {
            return Err(Rejected { op: slot.op, error: io::ErrorKind::WouldBlock.into() });
        };
        if let Some(place) = self.slots.0.get_mut(index) {
            *place = Some(slot);
        }
        for at in (0..wanted).step_by(most as usize) {
            let length = most.min(wanted - at);
            self.queue.push_back(Part::new(Command::Read, offset + u64::from(at), length, index, at as usize));
        }
        Ok(())
    }

    fn complete(&mut self) -> io::Result<Option<Completion>> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Ok(Some(completion));
            }
            if self.in_flight() == 0 {
                return Ok(None);
            }
            if let Err(error) = self.turn() {
                self.fail(&error);
                return Err(error.into());
            }
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }
}

impl Drop for NbdEngine {
    fn drop(&mut self) {
        self.leave();
    }
}
