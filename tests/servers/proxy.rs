//! A TCP proxy that breaks what goes through it, for tests of any client and its server.
//!
//! One thread takes connections and two carry each of them, one per way. A fault is set for a way
//! and holds for all connections, also for those that are open already.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// What happens to the bytes of one way. The default does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Toxic {
    /// Wait before each piece that was read is passed on.
    pub latency: Duration,
    /// How much longer or shorter that wait may be.
    pub jitter: Duration,
    /// Writes so many bytes at once; 0: as they come.
    pub slice: usize,
    /// 0: as fast as they come.
    pub bytes_per_s: usize,
    /// Keeps everything back, ends too, as a network does that drops packets.
    pub blackhole: bool,
    /// Ends the connection that carries the byte after these, counted from now over all connections.
    pub cut_after: Option<u64>,
}

/// The proxy, as long as the test has it.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    server: u16,
    state: Mutex<State>,
    changed: Condvar,
    /// Refuses connections.
    down: AtomicBool,
    accepted: AtomicU64,
    bytes: [AtomicU64; 2],
}

#[derive(Default)]
struct State {
    toxics: [Toxic; 2],
    links: Vec<Weak<Link>>,
    random: u64,
}

/// A connection through the proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    dead: AtomicBool,
}

/// The connection is at its end.
struct Ended;

impl Proxy {
    /// A proxy before a port of this machine.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            state: Mutex::new(State { random: 0x9e37_79b9_7f4a_7c15, ..State::default() }),
            changed: Condvar::new(),
            down: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            bytes: Default::default(),
        });
        let accepting = Mutex::new(Some(accept(&shared, listener)));
        Self { shared, port, accepting }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the fault of one way, in place of the one before.
    pub fn set(&self, way: Way, toxic: Toxic) {
        self.shared.lock().toxics[way as usize] = toxic;
        self.shared.changed.notify_all();
    }

    /// Sets the fault of both ways.
    pub fn set_both(&self, toxic: Toxic) {
        self.set(Way::Up, toxic);
        self.set(Way::Down, toxic);
    }

    /// Ends all faults; what was kept back is passed on.
    pub fn heal(&self) {
        self.set_both(Toxic::default());
    }

    /// Resets every connection, both ends of it.
    pub fn reset(&self) {
        self.live().iter().for_each(|link| link.reset());
        self.shared.changed.notify_all();
    }

    /// Resets the `index`-th of the connections that are open, in the order they came.
    pub fn reset_one(&self, index: usize) {
        self.live()[index].reset();
        self.shared.changed.notify_all();
    }

    /// Refuses connections, and resets those that are open.
    pub fn down(&self) {
        self.stop();
        self.reset();
    }

    /// Takes connections again.
    pub fn up(&self) {
        self.stop();
        self.shared.down.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        *self.accepting.lock().unwrap() = Some(accept(&self.shared, listener));
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.live().len()
    }

    /// How many bytes went one way, over all connections.
    pub fn bytes(&self, way: Way) -> u64 {
        self.shared.bytes[way as usize].load(Ordering::SeqCst)
    }

    fn live(&self) -> Vec<Arc<Link>> {
        let mut state = self.shared.lock();
        state.links.retain(|link| link.upgrade().is_some_and(|link| !link.dead.load(Ordering::SeqCst)));
        state.links.iter().filter_map(Weak::upgrade).collect()
    }

    fn stop(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It waits in `accept`.
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
            let _ = accepting.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.down();
    }
}

fn accept(shared: &Arc<Shared>, listener: TcpListener) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            if shared.down.load(Ordering::SeqCst) {
                return;
            }
            shared.accepted.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.server)) else {
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                continue;
            };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
                // A write to a peer that does not read must see that its connection was reset.
                stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            }
            let link = Arc::new(Link { client, server, dead: AtomicBool::new(false) });
            shared.lock().links.push(Arc::downgrade(&link));
            for way in [Way::Up, Way::Down] {
                let (shared, link) = (Arc::clone(&shared), Arc::clone(&link));
                std::thread::spawn(move || shared.carry(&link, way));
            }
        }
    })
}

impl Link {
    /// Both ends see an orderly end, after all that was written.
    fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Both ends see a reset: sent when the last of the threads lets go of the sockets, which a
    /// local shutdown of reading wakes.
    fn reset(&self) {
        self.dead.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                _ if self.dead.load(Ordering::SeqCst) => return Err(Ended),
                Ok(count) => bytes = &bytes[count..],
                Err(late) if matches!(late.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Err(Ended),
            }
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, link: &Link, way: Way) {
        let (mut from, to) = match way {
            Way::Up => (&link.client, &link.server),
            Way::Down => (&link.server, &link.client),
        };
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer);
            let passed = match read {
                _ if link.dead.load(Ordering::SeqCst) => return,
                Ok(0) => {
                    if self.let_through(link, way).is_ok() {
                        let _ = to.shutdown(Shutdown::Write);
                    }
                    return;
                }
                Ok(count) => self.pass(link, way, to, &buffer[..count]),
                Err(_) => self.let_through(link, way).and(Err(Ended)),
            };
            if passed.is_err() {
                if !link.dead.load(Ordering::SeqCst) {
                    link.reset();
                }
                return;
            }
        }
    }

    fn pass(&self, link: &Link, way: Way, to: &TcpStream, mut bytes: &[u8]) -> Result<(), Ended> {
        let Toxic { latency, jitter, .. } = self.let_through(link, way)?;
        self.wait(link, latency.saturating_sub(jitter) + (jitter * 2).mul_f64(self.chance()))?;
        while !bytes.is_empty() {
            let toxic = self.let_through(link, way)?;
            let slice = if toxic.slice == 0 { bytes.len() } else { toxic.slice };
            let burst = if toxic.bytes_per_s == 0 { bytes.len() } else { toxic.bytes_per_s.div_ceil(50) };
            let (count, cut) = self.allowance(way, slice.min(burst).min(bytes.len()));
            // Before it is written: whoever was answered finds its bytes counted.
            self.bytes[way as usize].fetch_add(count as u64, Ordering::SeqCst);
            link.write(to, &bytes[..count])?;
            if cut {
                link.end();
                return Err(Ended);
            }
            bytes = &bytes[count..];
            if toxic.bytes_per_s > 0 {
                self.wait(link, Duration::from_secs_f64(count as f64 / toxic.bytes_per_s as f64))?;
            }
        }
        Ok(())
    }

    /// How many of `count` bytes may still go, and whether that is the end of the connection.
    fn allowance(&self, way: Way, count: usize) -> (usize, bool) {
        let mut state = self.lock();
        let Some(left) = &mut state.toxics[way as usize].cut_after else { return (count, false) };
        let passes = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
        *left -= passes as u64;
        let cut = *left == 0;
        if cut {
            // Once: the connections after this one live.
            state.toxics[way as usize].cut_after = None;
        }
        (passes, cut)
    }

    /// Waits while everything is kept back; answers the fault of now.
    fn let_through(&self, link: &Link, way: Way) -> Result<Toxic, Ended> {
        let mut state = self.lock();
        loop {
            if link.dead.load(Ordering::SeqCst) {
                return Err(Ended);
            }
            let toxic = state.toxics[way as usize];
            if !toxic.blackhole {
                return Ok(toxic);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, link: &Link, time: Duration) -> Result<(), Ended> {
        let until = Instant::now() + time;
        let mut state = self.lock();
        loop {
            if link.dead.load(Ordering::SeqCst) {
                return Err(Ended);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn chance(&self) -> f64 {
        let mut state = self.lock();
        let random = &mut state.random;
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random >> 11) as f64 / (1_u64 << 53) as f64
    }
}
