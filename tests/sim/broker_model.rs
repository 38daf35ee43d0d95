//! The server, and the network to it. It loses, delays and repeats confirms, freezes, falls silent,
//! asks to stop, refuses, and reads what was written to a connection long after that was given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use helixmq::clock::Moment;
use helixmq::hub::failover::Ending;

use crate::rng::Rng;
use crate::LaneId;

/// A record on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    pub lane: LaneId,
    pub seq: u64,
    /// The lane's epoch: its ending carries it.
    pub epoch: u64,
    pub maybe_dup: bool,
    /// The server refuses it, whatever comes.
    pub bad: bool,
}

/// How one destination does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dead {
    No,
    /// Gone, and the client says so; what is sent there is thrown away.
    Gone,
    /// Without leader: the client keeps what is sent there, and says so.
    Leaderless,
    /// It takes records and confirms nothing.
    Silent,
}

/// What a sick server does on a connection, which looks alive. It never gets well again: a server that
/// loses one record and takes a later one of the same connection is one that nobody can keep order with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ill {
    /// It takes records, and confirms nothing.
    Mute,
    /// It throws away what it reads.
    Deaf,
}

#[derive(Debug)]
pub struct Conn {
    pub epoch: u32,
    /// The run of the process that made it.
    pub run: u32,
    /// The client still has it.
    pub open: bool,
    /// The server has closed it: nothing more is read from it.
    pub cut: bool,
    /// The server reads nothing from it for now.
    pub frozen: bool,
    /// The server is sick on it, and stays so.
    pub ill: Option<Ill>,
    /// Written, not read by the server yet.
    pipe: VecDeque<Wire>,
    /// Handed over, no ending told yet.
    pub inflight: Vec<Wire>,
    /// Since when the window is full.
    pub full_since: Option<Moment>,
}

/// Records in flight on one connection, in most runs.
pub const WINDOW: usize = 64;

/// What the client made of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    On(u32),
    NoConnection,
    WindowFull,
}

/// What the server made of a record.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    pub wire: Wire,
    pub conn: u32,
    /// It is in the server's log now.
    pub accepted: bool,
    /// What the server says, if it says anything.
    pub says: Option<Ending>,
    /// It says that there is no such destination.
    pub nowhere: bool,
}

#[derive(Debug)]
pub struct Server {
    pub window: usize,
    pub up: bool,
    pub denies: bool,
    pub blocked: bool,
    /// New connections begin like this.
    pub sick: Option<Ill>,
    /// Nothing comes through, in either direction.
    pub hole: bool,
    /// Per cent of confirms that are lost, and repeated.
    pub lossy: u64,
    /// Per cent of confirms that take their time.
    pub late: u64,
    pub dead: Vec<Dead>,
    /// What was sent to a destination in these runs and epochs, or before, finds nothing there.
    pub deleted: Vec<Option<(u32, u32)>>,
    pub conns: BTreeMap<u32, Conn>,
    pub current: Option<u32>,
    next: u32,
    /// What the client keeps for destinations without leader.
    kept: Vec<(u32, Wire)>,
    /// The client ends all that it was handed: what was on a connection that is gone goes first on the next, and the
    /// server knows what it has.
    pub keeps: bool,
    carried: Vec<Wire>,
    taken: BTreeSet<(u32, u64, u64)>,
}

impl Server {
    pub fn new(destinations: usize, window: usize, keeps: bool) -> Self {
        Self {
            window,
            keeps,
            up: true,
            denies: false,
            blocked: false,
            sick: None,
            hole: false,
            lossy: 0,
            late: 4,
            dead: vec![Dead::No; destinations],
            deleted: vec![None; destinations],
            conns: BTreeMap::new(),
            current: None,
            next: 0,
            kept: Vec::new(),
            carried: Vec::new(),
            taken: BTreeSet::new(),
        }
    }

    pub fn connect(&mut self, epoch: u32, run: u32) -> u32 {
        self.next += 1;
        let carried = std::mem::take(&mut self.carried);
        let conn = Conn {
            epoch,
            run,
            open: true,
            cut: false,
            frozen: false,
            ill: self.sick,
            pipe: carried.clone().into(),
            inflight: carried,
            full_since: None,
        };
        self.conns.insert(self.next, conn);
        self.current = Some(self.next);
        self.next
    }

    /// The client is handed a record. It knows nothing of epochs: what comes goes out on the connection
    /// that it has.
    pub fn send(&mut self, now: Moment, wire: Wire) -> Sent {
        let conn = self.current.and_then(|id| Some((id, self.conns.get_mut(&id)?)));
        match conn.filter(|(_, conn)| conn.open) {
            None => Sent::NoConnection,
            Some((_, conn)) if conn.inflight.len() >= self.window => {
                conn.full_since = conn.full_since.or(Some(now));
                Sent::WindowFull
            }
            Some((id, conn)) => {
                conn.pipe.push_back(wire);
                conn.inflight.push(wire);
                Sent::On(id)
            }
        }
    }

    /// The client gives a connection up. Answers what it had in flight, and of these how many, from
    /// the end, were never written. What was written may be read yet.
    pub fn give_up(&mut self, id: u32, rng: &mut Rng) -> (Vec<Wire>, usize) {
        let hole = self.hole;
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else { return (Vec::new(), 0) };
        conn.open = false;
        if self.current == Some(id) {
            self.current = None;
        }
        let unwritten = if rng.chance(60) { rng.below(conn.pipe.len() as u64 + 1) as usize } else { 0 };
        let written = conn.pipe.len() - unwritten;
        conn.pipe.truncate(written);
        // A connection that is gone, but read by nobody yet, may be read much later, or never.
        if !(conn.frozen || hole) || rng.chance(30) {
            let read = rng.below(written as u64 + 1) as usize;
            conn.pipe.truncate(read);
        }
        (std::mem::take(&mut conn.inflight), unwritten)
    }

    /// What was on a connection that is gone waits for the next.
    pub fn carry(&mut self, id: u32, wires: Vec<Wire>) {
        // Read there later, it would be known, or be out of turn.
        self.conns.get_mut(&id).unwrap().pipe.clear();
        self.carried.extend(wires);
    }

    /// The server reads what it can of one connection.
    pub fn read(&mut self, id: u32, rng: &mut Rng) -> Vec<Read> {
        let mut out = Vec::new();
        if !self.up || self.hole || self.blocked {
            return out;
        }
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.frozen && !conn.cut) else { return out };
        let (run, ill) = (conn.run, conn.ill);
        let wires: Vec<Wire> = conn.pipe.drain(..).collect();
        for wire in wires {
            let deleted = self.deleted[wire.lane.topic].is_some_and(|until| (run, wire.epoch as u32) <= until);
            let over = self.keeps.then(|| self.over(run, &wire));
            match self.dead[wire.lane.topic] {
                _ if ill == Some(Ill::Deaf) => {}
                _ if deleted => {
                    let told = Read { wire, conn: id, accepted: false, says: over, nowhere: true };
                    out.extend(self.keeps.then_some(told));
                }
                Dead::Gone => {
                    // Nothing later of this epoch finds it either, though it be made again.
                    let until = Some((run, wire.epoch as u32));
                    self.deleted[wire.lane.topic] = self.deleted[wire.lane.topic].max(until);
                    out.push(Read { wire, conn: id, accepted: false, says: over, nowhere: true });
                }
                Dead::Leaderless => self.kept.push((id, wire)),
                Dead::Silent if self.keeps => self.kept.push((id, wire)),
                Dead::Silent => out.push(Read { says: None, ..self.take(id, wire, rng) }),
                Dead::No => out.push(self.take(id, wire, rng)),
            }
        }
        out
    }

    /// How a record ends that finds nothing where it goes.
    pub fn over(&self, run: u32, wire: &Wire) -> Ending {
        match self.taken.contains(&(run, wire.epoch, wire.seq)) {
            true => Ending::Unknown,
            false => Ending::NotSent,
        }
    }

    fn take(&mut self, conn: u32, wire: Wire, rng: &mut Rng) -> Read {
        let says = if wire.bad { Ending::Refused } else { Ending::Confirmed };
        let mute = self.conns.get(&conn).is_some_and(|conn| conn.ill.is_some());
        let silent = mute || rng.chance(self.lossy) && !self.keeps;
        let run = self.conns.get(&conn).map_or(0, |conn| conn.run);
        let again = self.keeps && !self.taken.insert((run, wire.epoch, wire.seq));
        Read { wire, conn, accepted: !wire.bad && !again, says: (!silent).then_some(says), nowhere: false }
    }

    /// The client throws away what it keeps for a destination.
    pub fn purge(&mut self, topic: usize) -> Vec<(u32, Wire)> {
        let (gone, kept) = std::mem::take(&mut self.kept).into_iter().partition(|(_, wire)| wire.lane.topic == topic);
        self.kept = kept;
        gone
    }

    /// A record has its ending: its place is free.
    pub fn forget(&mut self, id: u32, wire: &Wire) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.inflight.retain(|other| (other.seq, other.epoch) != (wire.seq, wire.epoch));
        }
    }

    /// The process is gone, and what its client kept.
    pub fn forget_client(&mut self) {
        for (id, kept) in self.kept.drain(..) {
            // What came behind it was not written either.
            let conn = self.conns.get_mut(&id).unwrap();
            conn.pipe.retain(|wire| wire.lane.topic != kept.lane.topic);
        }
        self.carried.clear();
    }

    /// A destination is there again: what was kept for it goes there.
    pub fn revive(&mut self, topic: usize, rng: &mut Rng) -> Vec<Read> {
        self.dead[topic] = Dead::No;
        let kept = self.purge(topic);
        // With its connection goes what is kept for it: nothing later comes on that either.
        let there = kept.into_iter().filter(|(id, _)| !self.conns[id].cut).collect::<Vec<_>>();
        there.into_iter().map(|(id, wire)| self.take(id, wire, rng)).collect()
    }

    /// The server closes its connections; other nodes' frozen ones stay as they are.
    pub fn cut_all(&mut self) {
        for conn in self.conns.values_mut().filter(|conn| !conn.frozen) {
            conn.cut = true;
            conn.pipe.clear();
        }
    }

    /// The machine stops: what it had not read is gone.
    pub fn stop(&mut self) {
        self.up = false;
        self.cut_all();
    }
}
