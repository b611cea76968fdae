//! The bytes of a job's stream: gRPC messages out of HTTP/2 data however it is cut, and events out of messages. A frame's
//! payload stays in the pieces that it came in; everything else is prost's to decode. Pure: no connection, no clock.
//!
//! ```text
//! data … ─▶ Inbox: flag 1 byte │ length 4 bytes │ message ─▶ event: JobEvent.frame (6) ─┬─ Frame.data (5) ─▶ Pieces
//!                                                                other fields ─▶ prost   └─ other fields ─▶ prost
//! ```
//! Fields may come in any order and again, as Protocol Buffers allow: of a number or bytes the last one holds, of the `oneof`
//! the last member; what is not known is skipped. What no sender of hotadd.v1 sends is a [`Flaw`].
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hotadd_api::{
    MAX_MESSAGE_BYTES,
    v1::{self, Compression, JobEvent, job_event::Item},
};
use prost::{
    DecodeError, Message as _,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};

use super::pieces::Pieces;

/// Flag and length before each message (gRPC over HTTP/2, Length-Prefixed-Message).
const HEADER: usize = 5;
/// `JobEvent.frame` and `Frame.data`; a test holds them to the generated code.
const FRAME: u32 = 6;
const DATA: u32 = 5;

/// What hotadd.v1 forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("a message of {0} bytes; the limit is {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    #[error("a message with the flag {0}; none was to be compressed")]
    Flag(u8),
    #[error("the last message lacks its end")]
    Truncated,
    #[error("an event that is no hotadd.v1: {0}")]
    Event(#[from] DecodeError),
    #[error("an event that holds a group, or ends within a field")]
    Field,
    #[error("a frame is compressed by the unknown method {0}")]
    Method(i32),
}

/// A [`v1::Frame`] whose payload was not copied.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pub device_key: i32,
    pub offset: u64,
    pub length: u32,
    pub zero: bool,
    pub compression: Compression,
    pub blake3: Bytes,
    pub data: Pieces,
}

#[derive(Debug)]
pub enum Event {
    Frame(Frame),
    /// Never [`Item::Frame`].
    Told(Box<Item>),
}

/// Data of the stream that was not taken yet: at most one message and what came with its end.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    came: Pieces,
    /// Length of the message whose header was read.
    due: Option<usize>,
}

impl Inbox {
    pub(super) fn push(&mut self, data: Bytes) {
        self.came.push(data);
    }

    /// True between two messages.
    pub(super) fn is_empty(&self) -> bool {
        self.came.is_empty() && self.due.is_none()
    }

    /// The next message, once it is whole.
    pub(super) fn next(&mut self) -> Result<Option<Pieces>, Flaw> {
        let due = match self.due {
            Some(due) => due,
            None if self.came.len() < HEADER => return Ok(None),
            None => *self.due.insert(header(&mut self.came)?),
        };
        let message = self.came.cut(due);
        if message.is_some() {
            self.due = None;
        }
        Ok(message)
    }
}

fn header(came: &mut Pieces) -> Result<usize, Flaw> {
    match came.get_u8() {
        0 => {}
        flag => return Err(Flaw::Flag(flag)),
    }
    let length = came.get_u32() as usize;
    if length > MAX_MESSAGE_BYTES { Err(Flaw::TooLong(length)) } else { Ok(length) }
}

/// The event that a message holds; `None`: one that this version does not know.
pub(super) fn event(mut message: Pieces) -> Result<Option<Event>, Flaw> {
    let mut frame: Option<Partial> = None;
    let mut others = BytesMut::new();
    while !message.is_empty() {
        match decode_key(&mut message)? {
            (FRAME, WireType::LengthDelimited) => {
                // Another member of the `oneof` lies between: what was before it is replaced, not merged.
                if told(&mut others)?.is_some() {
                    finished(frame.take())?;
                }
                frame.get_or_insert_default().merge(delimited(&mut message)?)?;
            }
            (tag, wire) => copy_field(tag, wire, &mut message, &mut others)?,
        }
    }
    let (later, frame) = (told(&mut others)?, finished(frame)?);
    Ok(later.map(|item| Event::Told(Box::new(item))).or(frame.map(Event::Frame)))
}

fn told(fields: &mut BytesMut) -> Result<Option<Item>, Flaw> {
    Ok(JobEvent::decode(fields.split())?.item)
}

fn finished(frame: Option<Partial>) -> Result<Option<Frame>, Flaw> {
    frame.map(Partial::finish).transpose()
}

/// A frame while its fields are gathered.
#[derive(Default)]
struct Partial {
    data: Pieces,
    others: BytesMut,
}

impl Partial {
    fn merge(&mut self, mut fields: Pieces) -> Result<(), Flaw> {
        while !fields.is_empty() {
            match decode_key(&mut fields)? {
                (DATA, WireType::LengthDelimited) => self.data = delimited(&mut fields)?,
                (tag, wire) => copy_field(tag, wire, &mut fields, &mut self.others)?,
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Frame, Flaw> {
        let v1::Frame { device_key, offset, length, zero, blake3, compression, data: _ } =
            v1::Frame::decode(self.others.freeze())?;
        // A method that is not known must not pass as none.
        let compression = Compression::try_from(compression).map_err(|_| Flaw::Method(compression))?;
        Ok(Frame { device_key, offset, length, zero, compression, blake3, data: self.data })
    }
}

fn delimited(fields: &mut Pieces) -> Result<Pieces, Flaw> {
    let length = decode_varint(fields)?;
    usize::try_from(length).ok().and_then(|length| fields.cut(length)).ok_or(Flaw::Field)
}

/// Hands one field on to what prost will decode, or skip.
fn copy_field(tag: u32, wire: WireType, from: &mut Pieces, to: &mut BytesMut) -> Result<(), Flaw> {
    encode_key(tag, wire, to);
    let value = match wire {
        WireType::Varint => {
            encode_varint(decode_varint(from)?, to);
            return Ok(());
        }
        WireType::LengthDelimited => {
            let value = delimited(from)?;
            encode_varint(value.len() as u64, to);
            Some(value)
        }
        WireType::SixtyFourBit => from.cut(8),
        WireType::ThirtyTwoBit => from.cut(4),
        // Not in proto3.
        WireType::StartGroup | WireType::EndGroup => None,
    };
    to.put(value.ok_or(Flaw::Field)?);
    Ok(())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
