//! The proxy itself, before a server that says everything back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::proxy::{Proxy, Toxic, Way};
use super::until;

fn echo() -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    Proxy::to(port)
}

fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends so many bytes and reads them back; answers how long that took.
fn round(mut stream: &TcpStream, count: usize) -> Duration {
    let (start, sent) = (Instant::now(), vec![7; count]);
    let mut back = vec![0; count];
    stream.write_all(&sent).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(sent, back);
    start.elapsed()
}

#[test]
fn bytes_pass_whole_and_are_counted() {
    let proxy = echo();
    let (first, second) = (client(&proxy), client(&proxy));
    round(&first, 100_000);
    round(&second, 10);
    assert_eq!((proxy.connections(), proxy.open()), (2, 2));
    assert_eq!((proxy.bytes(Way::Up), proxy.bytes(Way::Down)), (100_010, 100_010));
    drop(first);
    until("the end of one", || proxy.open() == 1);
}

#[test]
fn bytes_come_late_in_slices_and_slowly() {
    let proxy = echo();
    let stream = client(&proxy);
    let (latency, jitter) = (Duration::from_millis(100), Duration::from_millis(50));
    proxy.set_both(Toxic { latency, jitter, slice: 1, ..Toxic::default() });
    let took = round(&stream, 20);
    assert!((Duration::from_millis(100)..Duration::from_secs(3)).contains(&took), "{took:?}");
    proxy.heal();
    proxy.set(Way::Up, Toxic { bytes_per_s: 100_000, ..Toxic::default() });
    let took = round(&stream, 50_000);
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "{took:?}");
    proxy.heal();
    let took = round(&stream, 50_000);
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_blackhole_keeps_bytes_and_ends_back() {
    let proxy = echo();
    let mut stream = client(&proxy);
    round(&stream, 1);
    proxy.set(Way::Down, Toxic { blackhole: true, ..Toxic::default() });
    stream.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let nothing = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{nothing}");
    assert_eq!((proxy.bytes(Way::Up), proxy.bytes(Way::Down)), (2, 1));
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    proxy.heal();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"x");
}

#[test]
fn connections_are_cut_reset_and_refused() {
    let proxy = echo();
    let mut stream = client(&proxy);
    proxy.set(Way::Down, Toxic { cut_after: Some(3), ..Toxic::default() });
    stream.write_all(b"abcdef").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"abc");

    let (mut first, mut second) = (client(&proxy), client(&proxy));
    round(&first, 10);
    round(&second, 10);
    proxy.reset_one(1);
    assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    round(&first, 10);
    proxy.down();
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.up();
    round(&client(&proxy), 10);
}
