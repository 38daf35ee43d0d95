//! A server that speaks just enough AMQP to get a client where it can be told nonsense.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
const END: u8 = 0xce;

/// A server that runs `script` for each connection.
pub struct Fake {
    pub port: u16,
    pub connections: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Fake {
    pub fn start(script: impl Fn(&mut Peer) -> Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stop, script) = (Arc::clone(&connections), Arc::clone(&ended), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
                    // How a client ends it is the client's.
                    let _ = script(&mut Peer { stream, confirms: 0 });
                });
            }
        });
        Self { port, connections, ended }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// What the server tells a client that logs in.
#[derive(Clone, Copy)]
pub struct Tune {
    pub channel_max: u16,
    pub frame_max: u32,
    pub heartbeat: u16,
}

pub const TUNE: Tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };

/// One connection.
pub struct Peer {
    pub stream: TcpStream,
    confirms: u64,
}

pub fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

pub fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

impl Peer {
    pub fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        let size = payload.len() as u32;
        let frame = [&[kind], &channel.to_be_bytes()[..], &size.to_be_bytes(), payload, &[END]].concat();
        self.stream.write_all(&frame)
    }

    pub fn method(&mut self, channel: u16, class: u16, id: u16, arguments: &[u8]) -> Result<()> {
        self.frame(METHOD, channel, &[&class.to_be_bytes(), &id.to_be_bytes(), arguments].concat())
    }

    /// Kind, channel and payload of the client's next frame.
    pub fn read(&mut self) -> Result<(u8, u16, Vec<u8>)> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head)?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload)?;
        payload.pop();
        Ok((head[0], u16::from_be_bytes([head[1], head[2]]), payload))
    }

    pub fn header(&mut self) -> Result<()> {
        self.stream.read_exact(&mut [0; 8])
    }

    pub fn start(&mut self, mechanisms: &str) -> Result<()> {
        let arguments = [&[0, 9][..], &long(b""), &long(mechanisms.as_bytes()), &long(b"en_US")].concat();
        self.method(0, 10, 10, &arguments)
    }

    /// Lets the client log in.
    pub fn greet(&mut self, tune: Tune) -> Result<()> {
        self.header()?;
        self.start("PLAIN")?;
        self.read()?;
        let Tune { channel_max, frame_max, heartbeat } = tune;
        let all = [&channel_max.to_be_bytes()[..], &frame_max.to_be_bytes(), &heartbeat.to_be_bytes()].concat();
        self.method(0, 10, 30, &all)?;
        self.read()?;
        self.read()?;
        self.method(0, 10, 41, &short(""))
    }

    /// Answers what a client asks, as a server does, until the connection ends; `consumed` gets the
    /// channel of each consumer, whose tag is `tag`.
    pub fn serve(&mut self, mut consumed: impl FnMut(&mut Self, u16) -> Result<()>) -> Result<()> {
        loop {
            let (kind, channel, payload) = self.read()?;
            if kind != METHOD {
                continue;
            }
            let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
            match (word(0), word(2)) {
                (20, 10) => self.method(channel, 20, 11, &long(b""))?,
                (50, 10) => {
                    let name = &payload[6..7 + usize::from(payload[6])];
                    self.method(channel, 50, 11, &[name, &[0; 8]].concat())?;
                }
                (60, 20) => {
                    self.method(channel, 60, 21, &short("tag"))?;
                    consumed(self, channel)?;
                }
                (60, 40) => {
                    self.confirms += 1;
                    let confirm = [&self.confirms.to_be_bytes()[..], &[0]].concat();
                    self.method(channel, 60, 80, &confirm)?;
                }
                (10, 50) => {
                    self.method(0, 10, 51, &[])?;
                    return Err(Error::from(ErrorKind::ConnectionAborted));
                }
                // Closing a channel, declaring an exchange, binding, prefetch, confirms.
                (class @ (20 | 40 | 50 | 60 | 85), id @ (10 | 20 | 40)) => self.method(channel, class, id + 1, &[])?,
                _ => {}
            }
        }
    }

    /// The beginning of a delivery: its method and a header with these flags.
    pub fn deliver(&mut self, channel: u16, number: u64, size: u64, flags: &[u8]) -> Result<()> {
        let arguments = [short("tag"), number.to_be_bytes().to_vec(), vec![0], short(""), short("key")].concat();
        self.method(channel, 60, 60, &arguments)?;
        let header = [&60_u16.to_be_bytes()[..], &[0, 0], &size.to_be_bytes(), flags].concat();
        self.frame(HEADER, channel, &header)
    }

    /// Waits until the client has gone.
    pub fn drain(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        while self.stream.read(&mut buffer)? > 0 {}
        Ok(())
    }
}
