//! The gRPC surface: the only module that names tonic's services. Translates, never decides.
mod bulk;
mod capacity;
mod counted;
mod disk;
mod gate;
mod job;
mod proxy;
pub mod server;
mod wanted;

use hotadd_api::v1;
use hotadd_blockio::EngineKind;
use secrecy::SecretString;

use crate::{
    access::Caller,
    audit::Entry,
    error::{Error, Result},
    plan::Transport,
    reason,
    session::{Manager, jobs::Jobs, opener::Ways},
    transport::ReadOrder,
};

/// What the services share.
#[derive(Debug, Clone)]
pub struct Context {
    pub manager: Manager,
    pub jobs: Jobs,
    pub engines: Vec<EngineKind>,
    pub proxy_name: String,
}

impl Context {
    fn order(&self, request: &v1::ReadDiskRequest) -> Result<ReadOrder> {
        let ranges = disk::ranges(&request.ranges)?;
        let depth = self.manager.opener().vm.limits.depth;
        // Of a session, none is the whole disk.
        let ranges = (!ranges.is_empty()).then_some(ranges);
        Ok(ReadOrder {
            ranges,
            block_bytes: block_size(request.block_bytes)?,
            depth,
            engines: self.engines.clone(),
            compression: compression(request.compression)?,
            any_order: request.any_order,
            // A client that stops reading loses its lease, and that cancels the read.
            patience: None,
        })
    }
}

impl Context {
    /// # Errors
    /// [`reason::SES_REQUEST`] for a transport that is not known, or a disk that is named twice; [`reason::NBD_REFUSED`].
    fn ways(&self, transport: i32, servers: &[v1::NbdServer], reservation: Option<String>) -> Result<Ways> {
        let asked = match v1::Transport::try_from(transport) {
            Ok(v1::Transport::Unspecified) => None,
            Ok(v1::Transport::Hotadd) => Some(Transport::HotAdd),
            Ok(v1::Transport::Nbd) => Some(Transport::Nbd),
            Ok(v1::Transport::Export) => Some(Transport::Export),
            Ok(v1::Transport::San) => Some(Transport::San),
            Err(_) => return Err(Error::new(&reason::SES_REQUEST, format!("transport: {transport} is not known"))),
        };
        let mut ways = Ways { asked, reservation, ..Ways::default() };
        for server in servers {
            let uri = text("nbd_servers", &server.uri, true)?;
            let target = self.manager.opener().servers.admit(&uri)?;
            if ways.servers.insert(server.device_key, target).is_some() {
                let detail = format!("nbd_servers: disk {} is named twice", server.device_key);
                return Err(Error::new(&reason::SES_REQUEST, detail));
            }
        }
        Ok(ways)
    }
}

impl Context {
    /// A call of a client that changes something, in the audit log.
    fn audited<T>(&self, caller: &Caller, entry: Entry, result: Result<T>) -> Result<T> {
        self.manager.opener().vm.audit.tell(&caller.into(), entry.ended(&result));
        result
    }
}

/// Taken out of the request before anything else is made of it: no fingerprint and no repetition of it holds the ticket. That there is one
/// stays in it: with one and without are two requests, which are done with different rights.
///
/// # Errors
/// [`reason::SES_REQUEST`] for an empty one, which must not be taken for none.
fn ticket(asked: &mut Option<v1::CloneTicket>) -> Result<Option<SecretString>> {
    let Some(v1::CloneTicket { value }) = asked else { return Ok(None) };
    let value = std::mem::take(value);
    // What is wrong with it is never told with it.
    let flawed = value.trim().is_empty() || value.len() > MAX_TEXT || value.contains(char::is_control);
    let ticket = SecretString::from(value);
    if flawed {
        let detail = format!("vcenter_clone_ticket: empty, longer than {MAX_TEXT} bytes, or with a control character");
        return Err(Error::new(&reason::SES_REQUEST, detail));
    }
    Ok(Some(ticket))
}

fn compression(asked: i32) -> Result<v1::Compression> {
    v1::Compression::try_from(asked)
        .map_err(|_| Error::new(&reason::SES_REQUEST, format!("compression: {asked} is not known")))
}

/// The default for 0.
fn block_size(asked: u32) -> Result<u32> {
    use hotadd_api::{DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES};
    match asked {
        0 => Ok(DEFAULT_BLOCK_BYTES),
        n if n.is_power_of_two() && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&n) => Ok(n),
        n => Err(Error::new(
            &reason::SES_REQUEST,
            format!("block_bytes: {n} is not a power of two from 64 KiB to 4 MiB"),
        )),
    }
}

/// Longest text that a request may carry in one field.
const MAX_TEXT: usize = 1024;

fn text(field: &str, value: &str, required: bool) -> Result<String> {
    if value.len() > MAX_TEXT || value.contains('\0') || (required && value.trim().is_empty()) {
        return Err(Error::new(
            &reason::SES_REQUEST,
            format!("{field}: empty, longer than {MAX_TEXT} bytes, or with a NUL"),
        ));
    }
    Ok(value.to_owned())
}
