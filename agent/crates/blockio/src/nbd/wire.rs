//! Numbers and layouts of the NBD protocol (doc/proto.md): constants, requests, reply headers. No I/O, no state.
//! Requests are made from [`Command`], which has no member that writes.

pub const MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const REQUEST_MAGIC_EXTENDED: u32 = 0x21e4_1c71;
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
pub const EXTENDED_MAGIC: u32 = 0x6e8a_278c;

pub const FIXED_NEWSTYLE: u16 = 1;
pub const NO_ZEROES: u16 = 2;

pub const INFO_EXPORT: u16 = 0;
pub const INFO_BLOCK_SIZE: u16 = 3;

pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const REP_ERROR: u32 = 1 << 31;
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR + 5;

pub const HAS_FLAGS: u16 = 1;
pub const CAN_MULTI_CONN: u16 = 1 << 8;

pub const REPLY_DONE: u16 = 1;
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_DATA: u16 = 1;
pub const CHUNK_HOLE: u16 = 2;
pub const CHUNK_STATUS: u16 = 5;
pub const CHUNK_STATUS_EXTENDED: u16 = 6;
pub const CHUNK_ERROR: u16 = 1 << 15 | 1;
pub const CHUNK_ERROR_OFFSET: u16 = 1 << 15 | 2;

pub const STATE_HOLE: u64 = 1;
pub const STATE_ZERO: u64 = 2;

pub const ALLOCATION: &str = "base:allocation";
pub const SHUTTING_DOWN: &str = "it is shutting down";

/// An option of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opt {
    StartTls = 5,
    Go = 7,
    StructuredReply = 8,
    SetMetaContext = 10,
    ExtendedHeaders = 11,
}

impl Opt {
    pub fn name(self) -> &'static str {
        match self {
            Self::StartTls => "NBD_OPT_STARTTLS",
            Self::Go => "NBD_OPT_GO",
            Self::StructuredReply => "NBD_OPT_STRUCTURED_REPLY",
            Self::SetMetaContext => "NBD_OPT_SET_META_CONTEXT",
            Self::ExtendedHeaders => "NBD_OPT_EXTENDED_HEADERS",
        }
    }
}

/// What an error reply to an option means.
pub fn refusal(code: u32) -> &'static str {
    match code.wrapping_sub(REP_ERROR) {
        1 => "it does not know the option",
        2 => "its policy",
        3 => "it calls the request invalid",
        4 => "not on its platform",
        5 => "TLS is required",
        6 => "it has no such export",
        7 => SHUTTING_DOWN,
        8 => "block sizes must be negotiated",
        9 => "the request is too big",
        10 => "extended headers are required",
        _ => "an unknown reason",
    }
}

/// How requests and replies look on this connection; the best that the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// A read is answered by its bytes, or an errno.
    Simple,
    /// In chunks, with holes.
    Structured,
    /// As structured, with 64-bit lengths.
    Extended,
}

impl Headers {
    /// Bytes of a reply's header.
    pub(super) fn reply_bytes(self) -> usize {
        match self {
            Self::Simple => 16,
            Self::Structured => 20,
            Self::Extended => 32,
        }
    }
}

/// What can be asked of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read = 0,
    Disconnect = 2,
    BlockStatus = 7,
}

/// Appends one request.
pub fn request(out: &mut Vec<u8>, headers: Headers, command: Command, cookie: u64, offset: u64, length: u32) {
    let extended = headers == Headers::Extended;
    let magic = if extended { REQUEST_MAGIC_EXTENDED } else { REQUEST_MAGIC };
    out.extend(magic.to_be_bytes());
    out.extend(0_u16.to_be_bytes());
    out.extend((command as u16).to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    if extended {
        out.extend(u64::from(length).to_be_bytes());
    } else {
        out.extend(length.to_be_bytes());
    }
}

/// A reply's header, decoded by [`reply_head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Simple { error: u32, cookie: u64 },
    Chunk { done: bool, kind: u16, cookie: u64, offset: Option<u64>, length: u64 },
}

/// Decodes a header of `headers.reply_bytes()` bytes; `None` for a wrong magic number or length.
pub fn reply_head(headers: Headers, bytes: &[u8]) -> Option<Head> {
    let mut fields = Fields(bytes);
    let magic = fields.u32()?;
    match (headers, magic) {
        (Headers::Simple, SIMPLE_MAGIC) => Some(Head::Simple { error: fields.u32()?, cookie: fields.u64()? }),
        (Headers::Structured, STRUCTURED_MAGIC) => {
            let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
            let length = u64::from(fields.u32()?);
            Some(Head::Chunk { done: flags & REPLY_DONE != 0, kind, cookie, offset: None, length })
        }
        (Headers::Extended, EXTENDED_MAGIC) => {
            let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
            let (offset, length) = (Some(fields.u64()?), fields.u64()?);
            Some(Head::Chunk { done: flags & REPLY_DONE != 0, kind, cookie, offset, length })
        }
        _ => None,
    }
}

/// Big-endian fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A server's words for a person: cut, without control characters.
pub fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>().trim().to_owned()
}

/// The errno of an NBD error number. They are Linux's; others count as EINVAL (proto.md, "Error values").
pub fn errno(error: u32) -> i32 {
    match i32::try_from(error) {
        Ok(
            known @ (libc::EPERM
            | libc::EIO
            | libc::ENOMEM
            | libc::EINVAL
            | libc::ENOSPC
            | libc::EOVERFLOW
            | libc::EOPNOTSUPP
            | libc::ESHUTDOWN),
        ) => known,
        _ => libc::EINVAL,
    }
}
