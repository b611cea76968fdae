//! Properties of the reply assembler against a model server: honest replies in any order, cut and interleaved in any
//! way, give exactly the bytes; one lie anywhere never gives a finished part.
#![allow(clippy::cast_possible_truncation, reason = "numbers of tests are small")]
use proptest::prelude::*;

use super::{
    NbdError,
    reply::{Landing, Part, Replies},
    wire::{self, Command, Headers},
};

struct Buffers(Vec<Vec<u8>>);

impl Landing for Buffers {
    fn land(&mut self, slot: usize, at: usize, length: usize) -> Option<&mut [u8]> {
        self.0.get_mut(slot)?.get_mut(at..at + length)
    }
}

fn content(offset: u64) -> u8 {
    (offset % 251) as u8 | 1
}

/// A request and how the model answers it.
#[derive(Debug, Clone)]
struct Question {
    length: u32,
    cuts: Vec<u32>,
    order: u64,
    holes: u64,
    closing_none: bool,
}

impl Question {
    fn strategy() -> impl Strategy<Value = Self> {
        (1_u32..3000, prop::collection::vec(1_u32..3000, 0..7), any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(length, cuts, order, holes, closing_none)| Self { length, cuts, order, holes, closing_none })
    }

    /// (start, end, hole) in the order of sending.
    fn pieces(&self) -> Vec<(u32, u32, bool)> {
        let mut at: Vec<u32> = self.cuts.iter().copied().filter(|&cut| cut < self.length).collect();
        at.extend([0, self.length]);
        at.sort_unstable();
        at.dedup();
        let mut pieces: Vec<_> =
            at.windows(2).enumerate().map(|(i, w)| (w[0], w[1], self.holes >> i & 1 == 1)).collect();
        pieces.sort_by_key(|piece| self.order.rotate_left(piece.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        pieces
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    Repeat,
    Omit,
    Beyond,
    Before,
    StrangeCookie,
    TooLong,
    NoneWithoutDone,
    ZeroError,
    EmptyHole,
    StatusForRead,
}

const LIES: [Lie; 10] = [
    Lie::Repeat,
    Lie::Omit,
    Lie::Beyond,
    Lie::Before,
    Lie::StrangeCookie,
    Lie::TooLong,
    Lie::NoneWithoutDone,
    Lie::ZeroError,
    Lie::EmptyHole,
    Lie::StatusForRead,
];

struct Model {
    headers: Headers,
    out: Vec<u8>,
}

impl Model {
    fn chunk(&mut self, cookie: u64, kind: u16, done: bool, payload: &[u8]) {
        let extended = self.headers == Headers::Extended;
        let magic = if extended { wire::EXTENDED_MAGIC } else { wire::STRUCTURED_MAGIC };
        self.out.extend(magic.to_be_bytes());
        self.out.extend(u16::from(done).to_be_bytes());
        self.out.extend(kind.to_be_bytes());
        self.out.extend(cookie.to_be_bytes());
        if extended {
            self.out.extend((cookie << 20).to_be_bytes());
            self.out.extend((payload.len() as u64).to_be_bytes());
        } else {
            self.out.extend((payload.len() as u32).to_be_bytes());
        }
        self.out.extend(payload);
    }

    fn piece(&mut self, cookie: u64, piece: (u32, u32, bool), done: bool) {
        let start = (cookie << 20) + u64::from(piece.0);
        let mut payload = start.to_be_bytes().to_vec();
        if piece.2 {
            payload.extend((piece.1 - piece.0).to_be_bytes());
            self.chunk(cookie, wire::CHUNK_HOLE, done, &payload);
        } else {
            payload.extend((start..).take((piece.1 - piece.0) as usize).map(content));
            self.chunk(cookie, wire::CHUNK_DATA, done, &payload);
        }
    }

    fn answer(&mut self, cookie: u64, question: &Question, lie: Option<Lie>) {
        let mut pieces = question.pieces();
        let length = question.length;
        match lie {
            Some(Lie::Repeat) => pieces.push(pieces[0]),
            Some(Lie::Omit) => drop(pieces.pop()),
            Some(Lie::Beyond) => pieces.push((length, length + 1, false)),
            Some(Lie::StrangeCookie) => self.piece(cookie + 1000, pieces[0], false),
            Some(Lie::TooLong) => self.piece(cookie, (0, length + 1, true), false),
            Some(Lie::NoneWithoutDone) => self.chunk(cookie, wire::CHUNK_NONE, false, &[]),
            Some(Lie::ZeroError) => self.chunk(cookie, wire::CHUNK_ERROR, false, &[0; 6]),
            Some(Lie::EmptyHole) => {
                let mut payload = (cookie << 20).to_be_bytes().to_vec();
                payload.extend([0; 4]);
                self.chunk(cookie, wire::CHUNK_HOLE, false, &payload);
            }
            Some(Lie::Before) => {
                let mut payload = ((cookie << 20) - 1).to_be_bytes().to_vec();
                payload.push(1);
                self.chunk(cookie, wire::CHUNK_DATA, false, &payload);
            }
            Some(Lie::StatusForRead) => self.chunk(cookie, wire::CHUNK_STATUS, false, &[0; 12]),
            None => {}
        }
        let none = question.closing_none || pieces.is_empty();
        let last = pieces.len().wrapping_sub(1);
        for (i, &piece) in pieces.iter().enumerate() {
            self.piece(cookie, piece, i == last && !none);
        }
        if none {
            self.chunk(cookie, wire::CHUNK_NONE, true, &[]);
        }
    }
}

fn asked(questions: &[Question], headers: Headers) -> (Replies, Buffers) {
    let mut replies = Replies::new(headers, None);
    let mut buffers = Buffers(Vec::new());
    for (slot, question) in questions.iter().enumerate() {
        let cookie = slot as u64 + 1;
        let mut part = Part::new(Command::Read, cookie << 20, question.length, slot, 0);
        part.cookie = cookie;
        replies.pending.push(part);
        buffers.0.push(vec![0xff; question.length as usize]);
    }
    (replies, buffers)
}

/// Feeds everything, `step` bytes at a time with a pause after each; the finished parts, or the error.
fn feed(
    replies: &mut Replies,
    buffers: &mut Buffers,
    bytes: &[u8],
    step: usize,
) -> Result<Vec<Part>, (Vec<Part>, NbdError)> {
    let mut finished = Vec::new();
    let mut rest = bytes;
    loop {
        let mut budget = step;
        let before = rest.len();
        let mut input = |room: &mut [u8]| {
            let got = room.len().min(rest.len()).min(budget);
            let (taken, more) = rest.split_at(got);
            room[..got].copy_from_slice(taken);
            rest = more;
            budget -= got;
            Ok((got > 0).then_some(got))
        };
        match replies.advance(&mut input, buffers) {
            Ok(Some(part)) => finished.push(part),
            Ok(None) if rest.len() == before => return Ok(finished),
            Ok(None) => {}
            Err(error) => return Err((finished, error)),
        }
    }
}

proptest! {
    #[test]
    fn honest_replies_give_exactly_the_bytes(
        questions in prop::collection::vec(Question::strategy(), 1..5),
        extended in any::<bool>(),
        step in 1_usize..5000,
    ) {
        let headers = if extended { Headers::Extended } else { Headers::Structured };
        let (mut replies, mut buffers) = asked(&questions, headers);
        // Chunks of different replies take turns.
        let mut model = Model { headers, out: Vec::new() };
        let mut all: Vec<Vec<_>> = questions.iter().map(Question::pieces).collect();
        while all.iter().any(|pieces| !pieces.is_empty()) {
            for (i, pieces) in all.iter_mut().enumerate() {
                if let Some(piece) = pieces.pop() {
                    let closing = questions[i].closing_none;
                    model.piece(i as u64 + 1, piece, pieces.is_empty() && !closing);
                    if pieces.is_empty() && closing {
                        model.chunk(i as u64 + 1, wire::CHUNK_NONE, true, &[]);
                    }
                }
            }
        }
        let finished = feed(&mut replies, &mut buffers, &model.out, step).map_err(|(_, e)| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(finished.len(), questions.len());
        prop_assert!(finished.iter().all(|part| part.error.is_none()));
        for (slot, question) in questions.iter().enumerate() {
            let start = (slot as u64 + 1) << 20;
            for (from, to, hole) in question.pieces() {
                for at in from..to {
                    let wanted = if hole { 0 } else { content(start + u64::from(at)) };
                    prop_assert_eq!(buffers.0[slot][at as usize], wanted);
                }
            }
        }
    }

    #[test]
    fn one_lie_never_finishes_the_part_it_is_told_about(
        questions in prop::collection::vec(Question::strategy(), 1..4),
        liar in any::<prop::sample::Index>(),
        lie in prop::sample::select(&LIES[..]),
        extended in any::<bool>(),
        step in 1_usize..5000,
    ) {
        let headers = if extended { Headers::Extended } else { Headers::Structured };
        let (mut replies, mut buffers) = asked(&questions, headers);
        let liar = liar.index(questions.len());
        let mut model = Model { headers, out: Vec::new() };
        for (i, question) in questions.iter().enumerate() {
            model.answer(i as u64 + 1, question, (i == liar).then_some(lie));
        }
        let Err((finished, error)) = feed(&mut replies, &mut buffers, &model.out, step) else {
            return Err(TestCaseError::fail("the lie was believed"));
        };
        prop_assert!(matches!(error, NbdError::Protocol(_)), "{}", error);
        prop_assert!(finished.iter().all(|part| part.slot != liar));
    }

    #[test]
    fn an_error_ends_its_part_only(
        questions in prop::collection::vec(Question::strategy(), 2..4),
        at in any::<bool>(),
        errno in 1_u32..200,
    ) {
        let (mut replies, mut buffers) = asked(&questions, Headers::Structured);
        let mut model = Model { headers: Headers::Structured, out: Vec::new() };
        let mut payload = errno.to_be_bytes().to_vec();
        payload.extend([0, 3]);
        payload.extend(b"bad");
        if at {
            payload.extend(((1_u64 << 20) + u64::from(questions[0].length) - 1).to_be_bytes());
        }
        model.chunk(1, if at { wire::CHUNK_ERROR_OFFSET } else { wire::CHUNK_ERROR }, true, &payload);
        for (i, question) in questions.iter().enumerate().skip(1) {
            model.answer(i as u64 + 1, question, None);
        }
        let finished = feed(&mut replies, &mut buffers, &model.out, 1 << 20).map_err(|(_, e)| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(finished.len(), questions.len());
        for part in finished {
            prop_assert_eq!(part.error, (part.slot == 0).then(|| wire::errno(errno)));
        }
    }
}

#[test]
fn simple_replies_bring_bytes_or_an_errno() {
    let question = Question { length: 10, cuts: vec![], order: 0, holes: 0, closing_none: false };
    let (mut replies, mut buffers) = asked(&[question.clone(), question], Headers::Simple);
    let mut out = Vec::new();
    for (cookie, error) in [(2_u64, 0_u32), (1, 5)] {
        out.extend(wire::SIMPLE_MAGIC.to_be_bytes());
        out.extend(error.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend(if error == 0 { &[9_u8; 10][..] } else { &[] });
    }
    let finished = feed(&mut replies, &mut buffers, &out, 7).unwrap();
    assert_eq!(finished.iter().map(|part| (part.cookie, part.error)).collect::<Vec<_>>(), [(2, None), (1, Some(5))]);
    assert_eq!(buffers.0[1], [9; 10]);
    let (mut replies, mut buffers) = (Replies::new(Headers::Simple, None), Buffers(Vec::new()));
    assert!(matches!(feed(&mut replies, &mut buffers, &out, 7), Err((_, NbdError::Protocol(_)))));
}

/// A small generator, so that the corpus is the same on every machine.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Honest messages, then damaged at a few places: random bytes alone never come past the first magic number.
#[test]
fn the_fuzz_targets_hold_over_a_seeded_corpus() {
    let mut state = 0x5eed_u64;
    let mut greeting = wire::MAGIC.to_be_bytes().to_vec();
    greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend([0, 3]);
    for round in 0..4000_u32 {
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][(round % 3) as usize];
        let mut model = Model { headers, out: vec![(round % 12) as u8] };
        let requests = (round % 12) / 3 + 1;
        for _ in 0..requests {
            model.out.extend([(noise(&mut state) % 16) as u8, noise(&mut state) as u8]);
        }
        for cookie in 1..=u64::from(requests) {
            let length =
                u32::from(u16::from_be_bytes([model.out[cookie as usize * 2 - 1], model.out[cookie as usize * 2]])) + 1;
            let cuts = (0..noise(&mut state) % 5).map(|_| noise(&mut state) as u32 % 4096).collect();
            let (order, holes) = (noise(&mut state), noise(&mut state));
            model.answer(cookie, &Question { length, cuts, order, holes, closing_none: round % 2 == 0 }, None);
        }
        let mut negotiation = greeting.clone();
        for option in [11_u32, 8, 10, 7] {
            let kind = [1_u32, 3, 4, wire::REP_ERROR + 1][(noise(&mut state) % 4) as usize];
            let length = [0_u32, 12, 14, 19, 5000][(noise(&mut state) % 5) as usize];
            negotiation.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
            negotiation.extend([option.to_be_bytes(), kind.to_be_bytes(), length.to_be_bytes()].concat());
            negotiation.extend((0..length).map(|_| (noise(&mut state) % 4) as u8));
        }
        for data in [&mut model.out, &mut negotiation] {
            for _ in 0..noise(&mut state) % 4 {
                let at = noise(&mut state) as usize % data.len();
                data[at] = noise(&mut state) as u8;
            }
        }
        super::fuzz::replies(&model.out);
        super::fuzz::negotiation(&negotiation);
        let text: Vec<u8> = (0..noise(&mut state) % 40)
            .map(|_| b"nbds+unix:/?socket=%&@[]#host10"[noise(&mut state) as usize % 31])
            .collect();
        super::fuzz::uri(&[b"nbd://", &text[..]].concat());
    }
}
