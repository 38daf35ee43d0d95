//! A core for each thread, where there are enough: a scheduler that puts sender and receiver on one
//! core in some runs and on two in others compares two different things.

use std::sync::atomic::{AtomicBool, Ordering};

static FREE: AtomicBool = AtomicBool::new(false);

/// Leaves all threads to the scheduler from now on.
pub fn leave_to_scheduler() {
    FREE.store(true, Ordering::Relaxed);
}

/// Keeps the calling thread on the core number `index`, unless `threads` threads are more than cores.
pub fn take(index: usize, threads: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if threads > cores || FREE.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: zero is the empty set; the calls write into it alone. Failing, the thread stays free.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(index, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}
