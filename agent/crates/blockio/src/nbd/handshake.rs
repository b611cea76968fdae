//! Negotiation: fixed newstyle, options one after the other, then `NBD_OPT_GO`.
//!
//! ```text
//! greeting ─▶ [STARTTLS ─▶ TLS] ─▶ EXTENDED_HEADERS ─no▶ STRUCTURED_REPLY ─no▶ simple replies
//!                                         └────────┬──────────┘
//!                                SET_META_CONTEXT base:allocation (if wanted)
//!                                                  ▼
//!                                    GO (with block sizes) ─▶ transmission
//! ```
//! With TLS wanted, STARTTLS is the first option and anything but yes ends it: no fall back to the clear.
//! Everything that the server sends is bounded: replies per option, bytes per reply.
use super::{
    NbdError,
    wire::{self, Fields, Headers, Opt},
};

/// Replies to one option, at most.
const REPLIES_MOST: usize = 64;
/// Bytes of one reply, at most: a string of 4096 and some fields.
const REPLY_BYTES_MOST: u32 = 4096 + 64;
/// Largest minimum block that a server may have (proto.md, "Block size constraints").
const MINIMUM_MOST: u32 = 64 << 10;
/// What a client should not exceed when the server names no maximum (same chapter).
const MAXIMUM_DEFAULT: u32 = 32 << 20;

/// What was negotiated. Must be the same on every connection to one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags as the server sent them.
    pub flags: u16,
    /// Smallest unit of offsets and lengths in bytes.
    pub minimum: u32,
    /// What the server likes best, in bytes.
    pub preferred: u32,
    /// Longest request in bytes.
    pub maximum: u32,
    pub headers: Headers,
    /// The id of `base:allocation`, if the server tells block status.
    pub allocation: Option<u32>,
}

impl Export {
    /// All connections see the same bytes.
    #[must_use]
    pub fn multi_conn(&self) -> bool {
        self.flags & wire::CAN_MULTI_CONN != 0
    }

    /// The first difference to `now` that matters for a read that goes on, as an error.
    pub(super) fn same(&self, now: &Self) -> Result<(), NbdError> {
        let differs = |what, before: u64, after: u64| {
            let error = NbdError::Changed { what, before: before.to_string(), after: after.to_string() };
            if before == after { Ok(()) } else { Err(error) }
        };
        differs("size", self.size, now.size)?;
        differs("flags", self.flags.into(), now.flags.into())?;
        differs("minimum block", self.minimum.into(), now.minimum.into())?;
        differs("maximum block", self.maximum.into(), now.maximum.into())?;
        differs("block status", self.allocation.is_some().into(), now.allocation.is_some().into())
    }
}

/// Whole messages to and from the server, within a deadline.
pub trait Wire {
    fn get(&mut self, buf: &mut [u8]) -> Result<(), NbdError>;
    fn put(&mut self, buf: &[u8]) -> Result<(), NbdError>;
}

/// The server's greeting and our flags.
pub fn greet(wire: &mut dyn Wire) -> Result<(), NbdError> {
    let mut hello = [0; 16];
    wire.get(&mut hello)?;
    let mut fields = Fields(&hello);
    if fields.u64() != Some(wire::MAGIC) {
        return Err(NbdError::NotNbd("no NBD greeting"));
    }
    if fields.u64() != Some(wire::OPTION_MAGIC) {
        return Err(NbdError::NotNbd("oldstyle negotiation"));
    }
    let mut flags = [0; 2];
    wire.get(&mut flags)?;
    let flags = u16::from_be_bytes(flags);
    if flags & wire::FIXED_NEWSTYLE == 0 {
        return Err(NbdError::NotNbd("newstyle negotiation without the fixed flag"));
    }
    let ours = u32::from(wire::FIXED_NEWSTYLE | (flags & wire::NO_ZEROES));
    wire.put(&ours.to_be_bytes())
}

/// Asks for TLS; after Ok the next byte of both sides is TLS.
pub fn start_tls(wire: &mut dyn Wire) -> Result<(), NbdError> {
    ask(wire, Opt::StartTls, &[])?;
    match answer(wire, Opt::StartTls)? {
        Answer { kind: wire::REP_ACK, data } if data.is_empty() => Ok(()),
        Answer { kind, .. } if kind & wire::REP_ERROR != 0 => Err(NbdError::TlsRefused),
        _ => Err(NbdError::Protocol("an odd answer to NBD_OPT_STARTTLS")),
    }
}

/// Everything from the greeting (or TLS) to transmission.
pub fn negotiate(wire: &mut dyn Wire, name: &str, block_status: bool) -> Result<Export, NbdError> {
    let headers = if granted(wire, Opt::ExtendedHeaders)? {
        Headers::Extended
    } else if granted(wire, Opt::StructuredReply)? {
        Headers::Structured
    } else {
        Headers::Simple
    };
    let allocation = if block_status && headers != Headers::Simple { allocation(wire, name)? } else { None };
    let (info, block) = go(wire, name)?;
    let export = Export {
        size: info.size,
        flags: info.flags,
        minimum: block.map_or(if info.size.is_multiple_of(512) { 512 } else { 1 }, |b| b.minimum),
        preferred: block.map_or(4096, |b| b.preferred),
        maximum: block.map_or(MAXIMUM_DEFAULT, |b| b.maximum),
        headers,
        allocation,
    };
    if !export.size.is_multiple_of(u64::from(export.minimum)) {
        return Err(NbdError::Protocol("the size is no multiple of its smallest block, so its end can't be read"));
    }
    Ok(export)
}

struct Answer {
    kind: u32,
    data: Vec<u8>,
}

fn ask(wire: &mut dyn Wire, option: Opt, data: &[u8]) -> Result<(), NbdError> {
    let mut message = Vec::with_capacity(16 + data.len());
    message.extend(wire::OPTION_MAGIC.to_be_bytes());
    message.extend((option as u32).to_be_bytes());
    message.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(data);
    wire.put(&message)
}

fn answer(wire: &mut dyn Wire, option: Opt) -> Result<Answer, NbdError> {
    let mut head = [0; 20];
    wire.get(&mut head)?;
    let mut fields = Fields(&head);
    let echo = (fields.u64(), fields.u32());
    if echo != (Some(wire::OPTION_REPLY_MAGIC), Some(option as u32)) {
        return Err(NbdError::Protocol("a reply to an option that was not asked"));
    }
    let (kind, length) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
    if length > REPLY_BYTES_MOST {
        let (got, most) = (length.into(), REPLY_BYTES_MOST.into());
        return Err(NbdError::TooMuch { what: "bytes of a reply to an option", got, most });
    }
    let mut data = vec![0; length as usize];
    wire.get(&mut data)?;
    Ok(Answer { kind, data })
}

/// All replies to one option up to its ACK or error; `each` sees those between.
fn answers(
    wire: &mut dyn Wire,
    option: Opt,
    each: &mut dyn FnMut(&Answer) -> Result<(), NbdError>,
) -> Result<Result<(), NbdError>, NbdError> {
    for _ in 0..REPLIES_MOST {
        let answer = answer(wire, option)?;
        match answer.kind {
            wire::REP_ACK => return Ok(Ok(())),
            wire::REP_ERR_TLS_REQD => return Err(NbdError::TlsRequired),
            kind if kind & wire::REP_ERROR != 0 => {
                let (reason, message) = (wire::refusal(kind), wire::words(&answer.data));
                return Ok(Err(NbdError::Refused { option: option.name(), reason, message }));
            }
            _ => each(&answer)?,
        }
    }
    let most = REPLIES_MOST as u64;
    Err(NbdError::TooMuch { what: "replies to an option", got: most + 1, most })
}

/// An option that needs no data: yes, or no for whatever reason.
fn granted(wire: &mut dyn Wire, option: Opt) -> Result<bool, NbdError> {
    ask(wire, option, &[])?;
    let odd = &mut |_: &Answer| Err(NbdError::Protocol("an odd answer to an option"));
    match answers(wire, option, odd)? {
        Ok(()) => Ok(true),
        Err(refused) if refused.is_transient() => Err(refused),
        Err(_) => Ok(false),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

fn allocation(wire: &mut dyn Wire, name: &str) -> Result<Option<u32>, NbdError> {
    let mut data = Vec::new();
    put_text(&mut data, name);
    data.extend(1_u32.to_be_bytes());
    put_text(&mut data, wire::ALLOCATION);
    ask(wire, Opt::SetMetaContext, &data)?;
    let mut id = None;
    let each = &mut |answer: &Answer| {
        let mut fields = Fields(&answer.data);
        match (answer.kind, fields.u32()) {
            (wire::REP_META_CONTEXT, Some(number)) if fields.rest() == wire::ALLOCATION.as_bytes() && id.is_none() => {
                id = Some(number);
                Ok(())
            }
            _ => Err(NbdError::Protocol("a metadata context that was not asked for")),
        }
    };
    match answers(wire, Opt::SetMetaContext, each)? {
        Ok(()) => Ok(id),
        Err(refused) if refused.is_transient() => Err(refused),
        Err(_) => Ok(None),
    }
}

#[derive(Clone, Copy)]
struct Info {
    size: u64,
    flags: u16,
}

#[derive(Clone, Copy)]
struct Block {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

fn go(wire: &mut dyn Wire, name: &str) -> Result<(Info, Option<Block>), NbdError> {
    let mut data = Vec::new();
    put_text(&mut data, name);
    data.extend(1_u16.to_be_bytes());
    data.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
    ask(wire, Opt::Go, &data)?;
    let (mut info, mut block) = (None, None);
    let each = &mut |answer: &Answer| {
        let mut fields = Fields(&answer.data);
        match (answer.kind, fields.u16()) {
            (wire::REP_INFO, Some(wire::INFO_EXPORT)) if info.is_none() => info = Some(export_info(fields)?),
            (wire::REP_INFO, Some(wire::INFO_BLOCK_SIZE)) if block.is_none() => block = Some(block_size(fields)?),
            (wire::REP_INFO, Some(wire::INFO_EXPORT | wire::INFO_BLOCK_SIZE)) => {
                return Err(NbdError::Protocol("the same information about an export twice"));
            }
            // Names, descriptions and what later protocols add.
            (wire::REP_INFO, Some(_)) => {}
            _ => return Err(NbdError::Protocol("an odd answer to NBD_OPT_GO")),
        }
        Ok(())
    };
    answers(wire, Opt::Go, each)??;
    let info = info.ok_or(NbdError::Protocol("transmission without the size of the export"))?;
    Ok((info, block))
}

fn export_info(mut fields: Fields<'_>) -> Result<Info, NbdError> {
    let (Some(size), Some(flags), []) = (fields.u64(), fields.u16(), fields.rest()) else {
        return Err(NbdError::Protocol("NBD_INFO_EXPORT of a wrong length"));
    };
    // Offsets are signed everywhere else.
    if size > i64::MAX.unsigned_abs() {
        return Err(NbdError::TooMuch { what: "size of the export", got: size, most: i64::MAX.unsigned_abs() });
    }
    if flags & wire::HAS_FLAGS == 0 {
        return Err(NbdError::Protocol("transmission flags without NBD_FLAG_HAS_FLAGS"));
    }
    Ok(Info { size, flags })
}

fn block_size(mut fields: Fields<'_>) -> Result<Block, NbdError> {
    let numbers = (fields.u32(), fields.u32(), fields.u32(), fields.rest());
    let (Some(minimum), Some(preferred), Some(maximum), []) = numbers else {
        return Err(NbdError::Protocol("NBD_INFO_BLOCK_SIZE of a wrong length"));
    };
    let sane = minimum.is_power_of_two()
        && minimum <= MINIMUM_MOST
        && preferred.is_power_of_two()
        && preferred >= minimum
        && maximum >= minimum;
    if !sane {
        return Err(NbdError::Protocol("block sizes that make no sense"));
    }
    Ok(Block { minimum, preferred, maximum: maximum - maximum % minimum })
}
