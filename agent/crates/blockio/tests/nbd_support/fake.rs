//! A scripted NBD server: connection n runs script n, which may say whatever it likes.
//! It fails the test when the client sends anything but read, block status and disconnect.
use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use hotadd_blockio::nbd::Target;

pub type Script = Box<dyn FnOnce(&mut Peer) -> std::io::Result<()> + Send>;

/// Listens until it is dropped; panics then if a script did.
pub struct Fake {
    pub target: Target,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Fake {
    pub fn start(scripts: Vec<Script>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut running = Vec::new();
            for script in scripts {
                let stream = listener.accept().unwrap().0;
                if flag.load(Ordering::SeqCst) {
                    break;
                }
                running.push(thread::spawn(move || {
                    // An error is the client's good-bye: what the client makes of it is what the test looks at.
                    script(&mut Peer { stream, extended: false }).ok();
                }));
            }
            drop(listener);
            for script in running {
                script.join().unwrap();
            }
        });
        let target = format!("nbd+unix:///?socket={}", path.display()).parse().unwrap();
        Self { target, over, thread: Some(thread), dir }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener, if it still listens.
        UnixStream::connect(self.dir.path().join("fake.sock")).ok();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// What the server has.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    pub size: u64,
    pub flags: u16,
    pub structured: bool,
    pub extended: bool,
    pub status: bool,
    /// minimum, preferred, maximum
    pub blocks: Option<(u32, u32, u32)>,
}

impl Default for Offer {
    fn default() -> Self {
        Self { size: 1 << 20, flags: 3, structured: true, extended: false, status: true, blocks: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u64,
}

pub const CONTEXT: u32 = 77;

pub struct Peer {
    pub stream: UnixStream,
    pub extended: bool,
}

impl Peer {
    pub fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn get<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut buf = [0; N];
        self.stream.read_exact(&mut buf)?;
        Ok(buf)
    }

    /// Waits for the client to go, whatever it says before.
    pub fn until_gone(&mut self) -> std::io::Result<()> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(drop)
    }

    pub fn greet(&mut self) -> std::io::Result<()> {
        self.put(b"NBDMAGICIHAVEOPT\0\x03")?;
        self.get::<4>().map(drop)
    }

    pub fn option(&mut self) -> std::io::Result<(u32, Vec<u8>)> {
        assert_eq!(&self.get::<8>()?, b"IHAVEOPT");
        let option = u32::from_be_bytes(self.get()?);
        let mut data = vec![0; u32::from_be_bytes(self.get()?) as usize];
        self.stream.read_exact(&mut data)?;
        Ok((option, data))
    }

    pub fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
        self.reply_of(option, kind, u32::try_from(data.len()).unwrap(), data)
    }

    pub fn reply_of(&mut self, option: u32, kind: u32, length: u32, data: &[u8]) -> std::io::Result<()> {
        let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        out.extend([option.to_be_bytes(), kind.to_be_bytes(), length.to_be_bytes()].concat());
        out.extend(data);
        self.put(&out)
    }

    /// Greets and answers options until the client goes over to transmission.
    pub fn negotiate(&mut self, offer: Offer) -> std::io::Result<()> {
        self.greet()?;
        loop {
            let (option, _) = self.option()?;
            match option {
                11 if offer.extended => {
                    self.extended = true;
                    self.reply(option, 1, &[])?;
                }
                8 if offer.structured => self.reply(option, 1, &[])?,
                10 if offer.status => {
                    let mut data = CONTEXT.to_be_bytes().to_vec();
                    data.extend(b"base:allocation");
                    self.reply(option, 4, &data)?;
                    self.reply(option, 1, &[])?;
                }
                7 => {
                    self.info(offer)?;
                    return self.reply(option, 1, &[]);
                }
                _ => self.reply(option, (1 << 31) + 1, b"no")?,
            }
        }
    }

    pub fn info(&mut self, offer: Offer) -> std::io::Result<()> {
        let mut data = vec![0, 0];
        data.extend(offer.size.to_be_bytes());
        data.extend(offer.flags.to_be_bytes());
        self.reply(7, 3, &data)?;
        if let Some((minimum, preferred, maximum)) = offer.blocks {
            let mut data = vec![0, 3];
            data.extend([minimum.to_be_bytes(), preferred.to_be_bytes(), maximum.to_be_bytes()].concat());
            self.reply(7, 3, &data)?;
        }
        Ok(())
    }

    pub fn request(&mut self) -> std::io::Result<Request> {
        let magic = u32::from_be_bytes(self.get()?);
        assert_eq!(magic, if self.extended { 0x21e4_1c71 } else { 0x2560_9513 });
        assert_eq!(self.get::<2>()?, [0, 0], "no command flags are ever needed");
        let command = u16::from_be_bytes(self.get()?);
        assert!(matches!(command, 0 | 2 | 7), "command {command} is not for a reader");
        let (cookie, offset) = (u64::from_be_bytes(self.get()?), u64::from_be_bytes(self.get()?));
        let length =
            if self.extended { u64::from_be_bytes(self.get()?) } else { u32::from_be_bytes(self.get()?).into() };
        Ok(Request { command, cookie, offset, length })
    }

    /// A chunk that says it has `length` bytes.
    pub fn chunk_of(
        &mut self,
        request: Request,
        kind: u16,
        done: bool,
        length: u64,
        data: &[u8],
    ) -> std::io::Result<()> {
        let magic: u32 = if self.extended { 0x6e8a_278c } else { 0x668e_33ef };
        let mut out = magic.to_be_bytes().to_vec();
        out.extend([u16::from(done).to_be_bytes(), kind.to_be_bytes()].concat());
        out.extend(request.cookie.to_be_bytes());
        if self.extended {
            out.extend([request.offset.to_be_bytes(), length.to_be_bytes()].concat());
        } else {
            out.extend(u32::try_from(length).unwrap().to_be_bytes());
        }
        out.extend(data);
        self.put(&out)
    }

    pub fn chunk(&mut self, request: Request, kind: u16, done: bool, data: &[u8]) -> std::io::Result<()> {
        self.chunk_of(request, kind, done, data.len() as u64, data)
    }

    /// A piece of content at `offset`.
    pub fn data(&mut self, request: Request, offset: u64, length: u64, done: bool) -> std::io::Result<()> {
        let mut payload = offset.to_be_bytes().to_vec();
        payload.extend((offset..offset + length).map(content));
        self.chunk(request, 1, done, &payload)
    }

    pub fn error(&mut self, request: Request, errno: u32) -> std::io::Result<()> {
        let mut payload = errno.to_be_bytes().to_vec();
        payload.extend([0, 0]);
        self.chunk(request, 1 << 15 | 1, true, &payload)
    }

    /// Answers reads well until the client goes; true if it said good-bye.
    pub fn serve(&mut self) -> std::io::Result<bool> {
        loop {
            let request = self.request()?;
            match request.command {
                0 => self.data(request, request.offset, request.length, true)?,
                2 => return Ok(true),
                _ => self.error(request, 22)?,
            }
        }
    }
}

pub fn content(offset: u64) -> u8 {
    (offset / 512 % 251) as u8 ^ (offset % 7) as u8
}
