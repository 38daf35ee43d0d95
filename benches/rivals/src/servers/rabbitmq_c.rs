//! rabbitmq-c as a peer: the loops of `rabbitmq_c.c`.

use std::ffi::{c_char, c_int, c_void, CString};
use std::time::Duration;

use helixmq_rivals::pairs::{Meter, Sample};

use super::load::{median, Load, Publishes, RoundTrips, Server, FRAME_MAX, HOST, VHOST};

#[repr(C)]
struct Peer {
    _opaque: [u8; 0],
}

extern "C" {
    fn rc_open(host: *const c_char, port: c_int, vhost: *const c_char, frame_max: c_int) -> *mut Peer;
    fn rc_close(peer: *mut Peer);
    fn rc_publish(peer: *mut Peer, load: *const CLoad, window: u64, seconds: f64) -> i64;
    fn rc_round_trips(peer: *mut Peer, load: *const CLoad, seconds: f64, micros: *mut f64, max: usize) -> i64;
}

/// `struct rc_load`.
#[repr(C)]
struct CLoad {
    exchange: *const c_char,
    key: *const c_char,
    body: *const c_void,
    size: usize,
    mandatory: i32,
    dressed: i32,
}

/// Runs `call` with the load as C has it.
fn with<T>(load: &Load, call: impl FnOnce(&CLoad) -> T) -> T {
    let (exchange, key, body) = (c(load.exchange()), c(load.topic), load.body());
    call(&CLoad {
        exchange: exchange.as_ptr(),
        key: key.as_ptr(),
        body: body.as_ptr().cast(),
        size: body.len(),
        mandatory: load.mandatory().into(),
        dressed: load.dressed.into(),
    })
}

/// A connection with one channel in confirm mode.
pub struct RabbitmqC(*mut Peer);

impl RabbitmqC {
    pub fn open(server: Server) -> Self {
        // SAFETY: the text outlives the call.
        let peer =
            unsafe { rc_open(c(HOST).as_ptr(), c_int::from(server.port), c(VHOST).as_ptr(), FRAME_MAX as c_int) };
        assert!(!peer.is_null(), "rabbitmq-c did not connect");
        Self(peer)
    }
}

impl Publishes for RabbitmqC {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        with(load, |c_load| {
            let meter = Meter::start();
            // SAFETY: what the load points at outlives the call.
            let count = unsafe { rc_publish(self.0, c_load, load.window as u64, time.as_secs_f64()) };
            meter.rate(u64::try_from(count).expect("rabbitmq-c: publishing failed"))
        })
    }
}

impl RoundTrips for RabbitmqC {
    fn round_trips(&mut self, load: &Load, time: Duration) -> Sample {
        // No round trip takes less than 5 µs.
        let mut micros = vec![0.0; time.as_micros() as usize / 5];
        let (times, room) = (micros.as_mut_ptr(), micros.len());
        with(load, |c_load| {
            let meter = Meter::start();
            // SAFETY: as above; there is room for as many times as the call is told.
            let count = unsafe { rc_round_trips(self.0, c_load, time.as_secs_f64(), times, room) };
            let count = usize::try_from(count).expect("rabbitmq-c: publishing failed");
            meter.sample(count as u64, median(&micros[..count]))
        })
    }
}

impl Drop for RabbitmqC {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { rc_close(self.0) };
    }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL inside")
}
