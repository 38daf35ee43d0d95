//! What goes wrong, when, and for how long.

use helixmq::clock::Moment;
use helixmq::hub::failover::backend::{Command, Sign};
use helixmq::hub::failover::destination::Seen;
use helixmq::hub::failover::Ending;

use crate::broker_model::{Dead, Ill};
use crate::store_model::Health;
use crate::world::{Event, World, MS};

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Reset,
    Down,
    Hole,
    Mute,
    Deaf,
    Frozen,
    Blocked,
    Denied,
    Lossy,
    Gone,
    Leaderless,
    Silent,
    SlowStore,
    FullStore,
    ShortStore,
    BadSync,
    Crash,
    Forced,
    Paused,
}

impl Fault {
    pub const ALL: [Fault; 19] = [
        Fault::Reset,
        Fault::Down,
        Fault::Hole,
        Fault::Mute,
        Fault::Deaf,
        Fault::Frozen,
        Fault::Blocked,
        Fault::Denied,
        Fault::Lossy,
        Fault::Gone,
        Fault::Leaderless,
        Fault::Silent,
        Fault::SlowStore,
        Fault::FullStore,
        Fault::ShortStore,
        Fault::BadSync,
        Fault::Crash,
        Fault::Forced,
        Fault::Paused,
    ];
}

impl World {
    pub fn nemesis(&mut self) {
        if self.calm {
            return;
        }
        let fault = self.rng.pick(&Fault::ALL);
        let topic = self.rng.below(self.setup.rules.len() as u64) as usize;
        self.fault(fault, topic);
        let lasts = match self.rng.below(10) {
            0..3 => self.rng.between(1, 40),
            3..6 => self.rng.between(40, 800),
            _ => self.rng.between(800, 9_000),
        };
        self.after(lasts * MS, Event::Heal(fault, topic));
        // Faults like company.
        let often = if self.rng.chance(30) { 10 } else { 1 };
        let next = self.rng.below(self.setup.fault_every * 2 / often);
        self.after(next, Event::Nemesis);
    }

    pub fn fault(&mut self, fault: Fault, topic: usize) {
        match fault {
            Fault::Reset => self.reset_all(),
            Fault::Down => {
                self.server.stop();
                self.tell_lost();
            }
            Fault::Hole => self.server.hole = true,
            Fault::Mute => self.make_ill(Ill::Mute),
            Fault::Deaf => self.make_ill(Ill::Deaf),
            Fault::Frozen => {
                if let Some(conn) = self.server.current.and_then(|id| self.server.conns.get_mut(&id)) {
                    conn.frozen = true;
                }
            }
            Fault::Blocked => {
                self.server.blocked = true;
                self.say(Sign::Blocked);
            }
            Fault::Denied => {
                self.server.denies = true;
                match self.rng.chance(50) {
                    true => self.reset_all(),
                    false => self.say(Sign::Denied),
                }
            }
            Fault::Lossy => self.server.lossy = 30,
            Fault::Gone => self.delete(topic),
            Fault::Leaderless if self.server.dead[topic] == Dead::No => {
                self.server.dead[topic] = Dead::Leaderless;
                self.see(topic, Seen::Away);
            }
            Fault::Silent if self.server.dead[topic] == Dead::No => self.server.dead[topic] = Dead::Silent,
            Fault::Leaderless | Fault::Silent => {}
            Fault::SlowStore => self.store.slow = true,
            Fault::FullStore => self.store.health = Health::Full,
            Fault::ShortStore => self.store.health = Health::Short,
            Fault::BadSync => self.store.health = Health::BadSync,
            Fault::Crash => self.crash(),
            Fault::Forced => self.after(0, Event::Order(Command::ForceDown)),
            Fault::Paused => self.after(0, Event::Order(Command::Pause)),
        }
    }

    pub fn heal(&mut self, fault: Fault, topic: usize) {
        match fault {
            Fault::Reset | Fault::Crash => {}
            Fault::Down => self.server.up = true,
            Fault::Hole => self.server.hole = false,
            Fault::Mute | Fault::Deaf => self.server.sick = None,
            Fault::Frozen => self.server.conns.values_mut().for_each(|conn| conn.frozen = false),
            Fault::Blocked => {
                self.server.blocked = false;
                self.say(Sign::Unblocked);
            }
            Fault::Denied => self.server.denies = false,
            Fault::Lossy => self.server.lossy = 0,
            Fault::Gone | Fault::Leaderless | Fault::Silent => {
                let reads = self.server.revive(topic, &mut self.rng);
                reads.into_iter().for_each(|read| self.was_read(read));
                if self.rng.chance(50) {
                    self.see(topic, Seen::Back);
                }
            }
            Fault::SlowStore => self.store.slow = false,
            Fault::FullStore | Fault::ShortStore | Fault::BadSync => self.store.health = Health::Fine,
            Fault::Forced => self.after(0, Event::Order(Command::Auto)),
            Fault::Paused => self.after(0, Event::Order(Command::Resume)),
        }
        self.read_all();
    }

    /// Everything is well from now on.
    pub fn heal_all(&mut self) {
        for fault in Fault::ALL {
            let topics = match fault {
                Fault::Gone => self.setup.rules.len(),
                _ => 1,
            };
            (0..topics).for_each(|topic| self.heal(fault, topic));
        }
        if self.hub.is_none() {
            self.start_process();
        }
    }

    fn make_ill(&mut self, ill: Ill) {
        self.server.sick = Some(ill);
        for conn in self.server.conns.values_mut().filter(|conn| conn.ill.is_none()) {
            conn.ill = Some(ill);
        }
    }

    fn reset_all(&mut self) {
        if self.rng.chance(50) {
            self.read_all();
        }
        self.server.cut_all();
        self.tell_lost();
    }

    /// The client notices, a little later, what the server has closed.
    fn tell_lost(&mut self) {
        let closed = self.server.conns.iter().filter(|(_, conn)| conn.open && conn.cut);
        let closed: Vec<u32> = closed.map(|(id, _)| *id).collect();
        for conn in closed {
            let noticed = self.rng.between(0, 60) * MS;
            self.after(noticed, Event::Lost { conn });
        }
    }

    /// A topic is deleted. What is on its way there is thrown away, also when it is made again.
    fn delete(&mut self, topic: usize) {
        let Some(hub) = &self.hub else { return };
        let epoch = hub.destinations[topic].gate().epoch;
        self.server.dead[topic] = Dead::Gone;
        self.server.deleted[topic] = Some((self.run, epoch));
        for (conn, wire) in self.server.purge(topic) {
            if self.server.keeps {
                self.server.forget(conn, &wire);
                self.ends_soon(wire, 0, self.server.over(self.run, &wire));
                continue;
            }
            let ending = if self.rng.chance(50) { Ending::NotSent } else { Ending::Unknown };
            self.ends_soon(wire, 0, ending);
        }
        self.see(topic, Seen::Gone);
    }

    fn say(&mut self, sign: Sign) {
        let (Some(id), run) = (self.server.current, self.run) else { return };
        let Some(conn) = self.server.conns.get(&id) else { return };
        let (epoch, late) = (conn.epoch, self.rng.between(0, 20) * MS);
        if conn.run == run {
            // A connection tells one thing after the other.
            self.said = (self.said + 1).max(self.now.0 + late);
            self.at(Moment(self.said), Event::Sign { run, epoch, sign });
        }
    }

    fn see(&mut self, topic: usize, seen: Seen) {
        let (Some(hub), run) = (&self.hub, self.run) else { return };
        let (epoch, late) = (hub.destinations[topic].gate().epoch, self.rng.between(0, 20) * MS);
        self.after(late, Event::Seen { run, topic, epoch, seen });
    }

    /// The process is killed; another one starts a little later.
    fn crash(&mut self) {
        if self.hub.take().is_none() {
            return;
        }
        let keeps = self.setup.level == helixmq::hub::failover::Level::Disk;
        let left = self.store.crash(keeps, &mut self.rng);
        let checked = self.checker.crashed(&self.store, &left, keeps);
        self.check(checked);
        if let Some(id) = self.server.current {
            let _ = self.server.give_up(id, &mut self.rng);
        }
        let later = self.rng.between(1, 3_000) * MS;
        self.after(later, Event::Restart);
    }
}
