//! The peers as sides of a comparison: crossbeam and tokio channels of boxed payloads, ZeroMQ inproc.

use std::ffi::{c_char, c_int, c_void, CString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use crate::transport::{Receiver, Sender};

/// A payload that its message owns.
pub type Boxed = Box<[u8]>;

/// A bounded crossbeam channel; each payload is copied into a box of its own.
pub fn crossbeam(bound: usize) -> (crossbeam_channel::Sender<Boxed>, crossbeam_channel::Receiver<Boxed>) {
    crossbeam_channel::bounded(bound)
}

impl Sender for crossbeam_channel::Sender<Boxed> {
    fn send(&mut self, payload: &[u8]) {
        crossbeam_channel::Sender::send(self, payload.into()).expect("the receiver lives as long");
    }
}

impl Receiver for crossbeam_channel::Receiver<Boxed> {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        on(&self.recv().expect("the sender lives as long"));
    }
}

/// A bounded tokio channel with blocking ends.
pub fn tokio(bound: usize) -> (mpsc::Sender<Boxed>, mpsc::Receiver<Boxed>) {
    mpsc::channel(bound)
}

impl Sender for mpsc::Sender<Boxed> {
    fn send(&mut self, payload: &[u8]) {
        self.blocking_send(payload.into()).expect("the receiver lives as long");
    }
}

impl Receiver for mpsc::Receiver<Boxed> {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        on(&self.blocking_recv().expect("the sender lives as long"));
    }
}

/// Tells a sender how far each receiver is: tokio's broadcast has no back-pressure and would lose.
struct Progress {
    sent: u64,
    bound: u64,
    received: Vec<Arc<AtomicU64>>,
}

/// The sending end of a broadcast channel that loses nothing.
pub struct Broadcaster {
    channel: broadcast::Sender<Arc<[u8]>>,
    progress: Progress,
}

/// One receiving end.
pub struct Listener {
    channel: broadcast::Receiver<Arc<[u8]>>,
    received: Arc<AtomicU64>,
}

/// A tokio broadcast channel to two receivers, whose sender yields at the bound.
pub fn broadcast(bound: usize) -> (Broadcaster, [Listener; 2]) {
    let (sender, receiver) = broadcast::channel(bound);
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let second = sender.subscribe();
    let progress = Progress { sent: 0, bound: bound as u64, received: counts.to_vec() };
    let [first_count, second_count] = counts;
    let listeners =
        [Listener { channel: receiver, received: first_count }, Listener { channel: second, received: second_count }];
    (Broadcaster { channel: sender, progress }, listeners)
}

impl Sender for Broadcaster {
    fn send(&mut self, payload: &[u8]) {
        /// Messages between two looks at the receivers.
        const STRIDE: u64 = 64;
        let progress = &mut self.progress;
        if progress.sent.is_multiple_of(STRIDE) {
            while progress
                .received
                .iter()
                .any(|count| progress.sent - count.load(Ordering::Relaxed) > progress.bound - STRIDE)
            {
                std::thread::yield_now();
            }
        }
        progress.sent += 1;
        assert!(self.channel.send(payload.into()).is_ok(), "the receivers live as long");
    }
}

impl Receiver for Listener {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        on(&self.channel.blocking_recv().expect("nothing is lost, and the sender lives as long"));
        self.received.fetch_add(1, Ordering::Relaxed);
    }
}

/// One end of a ZeroMQ inproc pipe.
pub struct Zmq {
    context: Arc<Context>,
    socket: *mut c_void,
}

// SAFETY: a socket may move to another thread with a full fence, which starting a thread is.
unsafe impl Send for Zmq {}

struct Context(*mut c_void);

// SAFETY: contexts are for all threads (zmq_ctx_new).
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A PUSH and a PULL socket; both marks together are `bound` messages.
pub fn zeromq(bound: usize) -> (Zmq, Zmq) {
    // SAFETY: no arguments.
    let context = Arc::new(Context(unsafe { zmq_ctx_new() }));
    let open = |kind, mark| {
        // SAFETY: the context lives as long as the sockets do.
        let socket = unsafe { zmq_socket(context.0, kind) };
        assert!(!socket.is_null(), "zmq_socket failed");
        let half = c_int::try_from(bound / 2).expect("a small bound");
        // SAFETY: the option is one int.
        let set = unsafe { zmq_setsockopt(socket, mark, (&raw const half).cast(), size_of::<c_int>()) };
        assert_eq!(set, 0, "zmq_setsockopt failed");
        Zmq { context: context.clone(), socket }
    };
    let (push, pull) = (open(ZMQ_PUSH, ZMQ_SNDHWM), open(ZMQ_PULL, ZMQ_RCVHWM));
    let address = CString::new("inproc://bench").expect("no NUL inside");
    // SAFETY: the text outlives the calls.
    let bound = unsafe { (zmq_bind(push.socket, address.as_ptr()), zmq_connect(pull.socket, address.as_ptr())) };
    assert_eq!(bound, (0, 0), "the inproc pipe was not made");
    (push, pull)
}

impl Sender for Zmq {
    fn send(&mut self, payload: &[u8]) {
        // SAFETY: the payload is copied before the call returns.
        let sent = unsafe { zmq_send(self.socket, payload.as_ptr().cast(), payload.len(), 0) };
        assert!(sent >= 0, "zmq_send failed");
    }
}

impl Receiver for Zmq {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        let mut message = Message([0; 8]);
        // SAFETY: the message is made before and closed after its use.
        unsafe {
            zmq_msg_init(&mut message);
            assert!(zmq_msg_recv(&mut message, self.socket, 0) >= 0, "zmq_msg_recv failed");
            on(std::slice::from_raw_parts(zmq_msg_data(&mut message).cast(), zmq_msg_size(&message)));
            zmq_msg_close(&mut message);
        }
    }
}

impl Drop for Zmq {
    fn drop(&mut self) {
        // SAFETY: the socket is ours; the last owner of the context ends it.
        unsafe {
            zmq_close(self.socket);
            if Arc::strong_count(&self.context) == 1 {
                zmq_ctx_term(self.context.0);
            }
        }
    }
}

/// `zmq_msg_t`: 64 bytes, aligned as a pointer.
#[repr(C)]
struct Message([u64; 8]);

const ZMQ_PULL: c_int = 7;
const ZMQ_PUSH: c_int = 8;
const ZMQ_SNDHWM: c_int = 23;
const ZMQ_RCVHWM: c_int = 24;

extern "C" {
    fn zmq_ctx_new() -> *mut c_void;
    fn zmq_ctx_term(context: *mut c_void) -> c_int;
    fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    fn zmq_setsockopt(socket: *mut c_void, option: c_int, value: *const c_void, len: usize) -> c_int;
    fn zmq_bind(socket: *mut c_void, address: *const c_char) -> c_int;
    fn zmq_connect(socket: *mut c_void, address: *const c_char) -> c_int;
    fn zmq_close(socket: *mut c_void) -> c_int;
    fn zmq_send(socket: *mut c_void, data: *const c_void, len: usize, flags: c_int) -> c_int;
    fn zmq_msg_init(message: *mut Message) -> c_int;
    fn zmq_msg_recv(message: *mut Message, socket: *mut c_void, flags: c_int) -> c_int;
    fn zmq_msg_data(message: *mut Message) -> *mut c_void;
    fn zmq_msg_size(message: *const Message) -> usize;
    fn zmq_msg_close(message: *mut Message) -> c_int;
}
