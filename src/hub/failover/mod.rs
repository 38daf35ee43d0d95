//! What a hub does about servers that come and go, as pure machines: no I/O, no threads, time passed
//! in. So far: how long to wait before the next attempt.

pub(super) mod backoff;
