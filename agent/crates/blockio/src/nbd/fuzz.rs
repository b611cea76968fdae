//! What the fuzz targets drive, and normal tests run over a seeded corpus: bytes of a hostile server go in; nothing may
//! panic, write outside its buffer, take memory without bound or run without end.
use super::{
    NbdError, Target,
    handshake::{self, Wire},
    reply::{EXTENTS_MOST, Landing, Part, Replies},
    wire::{self, Command, Headers},
};

const REQUEST_MOST: usize = 4096;

struct Buffers(Vec<Vec<u8>>);

impl Landing for Buffers {
    fn land(&mut self, slot: usize, at: usize, length: usize) -> Option<&mut [u8]> {
        self.0.get_mut(slot)?.get_mut(at..at.checked_add(length)?)
    }
}

/// Replies to a few requests. Byte 0: headers and number of requests; two bytes a request; then the server.
pub fn replies(data: &[u8]) {
    let Some((&first, mut data)) = data.split_first() else { return };
    let headers = [Headers::Simple, Headers::Structured, Headers::Extended][usize::from(first % 3)];
    let mut replies = Replies::new(headers, Some(7));
    let mut buffers = Buffers(Vec::new());
    for cookie in 1..=u64::from(first / 3 % 4) + 1 {
        let Some((size, rest)) = data.split_first_chunk() else { return };
        data = rest;
        let length = usize::from(u16::from_be_bytes(*size)) % REQUEST_MOST + 1;
        let command = if size[0] & 0x80 == 0 { Command::Read } else { Command::BlockStatus };
        let offset = cookie << 20;
        let mut part = Part::new(command, offset, u32::try_from(length).unwrap_or(1), buffers.0.len(), 0);
        part.cookie = cookie;
        replies.pending.push(part);
        buffers.0.push(vec![0xa5; length]);
    }
    let step = usize::from(first) % 61 + 1;
    let mut input = |room: &mut [u8]| -> Result<Option<usize>, NbdError> {
        assert!(!room.is_empty(), "an empty read looks like the end of the connection");
        let got = room.len().min(step).min(data.len());
        let (taken, rest) = data.split_at(got);
        data = rest;
        room[..got].copy_from_slice(taken);
        Ok((got > 0).then_some(got))
    };
    while !replies.pending.is_empty() {
        let before = replies.pending.len();
        match replies.advance(&mut input, &mut buffers) {
            Ok(Some(part)) => {
                assert_eq!(replies.pending.len(), before - 1);
                assert!(part.extents.as_ref().is_none_or(|extents| extents.len() <= EXTENTS_MOST));
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// A server of which all that it will ever say is known.
struct Script<'a>(&'a [u8]);

impl Wire for Script<'_> {
    fn get(&mut self, buf: &mut [u8]) -> Result<(), NbdError> {
        let (taken, rest) = self.0.split_at_checked(buf.len()).ok_or(NbdError::Closed)?;
        buf.copy_from_slice(taken);
        self.0 = rest;
        Ok(())
    }

    fn put(&mut self, _: &[u8]) -> Result<(), NbdError> {
        Ok(())
    }
}

/// A whole negotiation, with and without TLS before it.
pub fn negotiation(data: &[u8]) {
    for tls in [false, true] {
        let mut script = Script(data);
        let outcome = handshake::greet(&mut script)
            .and_then(|()| if tls { handshake::start_tls(&mut script) } else { Ok(()) })
            .and_then(|()| handshake::negotiate(&mut script, "export", true));
        if let Ok(export) = outcome {
            assert!(export.size <= i64::MAX.unsigned_abs() && export.size.is_multiple_of(export.minimum.into()));
            assert!(export.minimum.is_power_of_two() && export.maximum.is_multiple_of(export.minimum));
            assert!(export.maximum >= export.minimum && export.flags & wire::HAS_FLAGS != 0);
        }
    }
}

/// URIs; what is accepted must survive being written and read again.
pub fn uri(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(target) = text.parse::<Target>()
    {
        assert_eq!(target.to_string().parse::<Target>().ok(), Some(target));
    }
}
