//! What a run is made of: topics and their rules, how much happens, and how often it goes wrong.

use std::time::Duration;

use helixmq::hub::failover::lane::{Kind, Rules};
use helixmq::hub::failover::policy::{keeps, OnOutage};
use helixmq::hub::failover::Level;

use crate::broker_model::WINDOW;
use crate::rng::Rng;
use crate::world::{MS, SECOND};

/// Seeds beyond this have a client that ends all that it was handed.
pub const ONE_COPY: u64 = 1_000_000_000;

/// What a run is made of.
pub struct Setup {
    pub seed: u64,
    pub rules: Vec<Rules>,
    pub keys: u64,
    pub level: Level,
    pub cap: usize,
    pub evicts: bool,
    /// When faults and publishes stop.
    pub until: u64,
    pub publish_every: u64,
    pub fault_every: u64,
    /// Faults come by chance.
    pub chance: bool,
    /// Records in flight on one connection.
    pub window: usize,
}

impl Setup {
    pub fn random(seed: u64) -> Self {
        let mut setup = if seed.is_multiple_of(3) { Self::dense(seed) } else { Self::wide(seed) };
        for rules in &mut setup.rules {
            rules.one_copy = seed > ONE_COPY && keeps(rules.on_outage);
        }
        setup
    }

    /// Topics of every kind.
    fn wide(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let level = if rng.chance(70) { Level::Disk } else { Level::Memory };
        let mut rules = Vec::new();
        for (kind, on_outage) in [
            (Kind::Task, OnOutage::Local),
            (Kind::Event, OnOutage::Local),
            (Kind::Event, OnOutage::Spool),
            (Kind::Event, rng.pick(&[OnOutage::Fail, OnOutage::Drop])),
        ] {
            let strict = on_outage == OnOutage::Spool && rng.chance(50);
            rules.push(Self::rules(kind, on_outage, strict, level));
        }
        Self::other_waits(&mut rng, &mut rules);
        Self {
            seed,
            rules,
            keys: rng.between(1, 3),
            level,
            cap: rng.pick(&[6, 20, 1_000]),
            evicts: rng.chance(30),
            until: rng.between(5, 20) * SECOND,
            publish_every: rng.between(20, 300) * MS,
            fault_every: rng.between(500, 4_000) * MS,
            chance: true,
            window: rng.pick(&[4, 10, WINDOW]),
        }
    }

    fn other_waits(rng: &mut Rng, rules: &mut [Rules]) {
        let suspect_wait = Duration::from_millis(rng.pick(&[0, 250, 250]));
        let blocked_wait = Duration::from_millis(rng.pick(&[0, 2_000, 2_000]));
        let short_backlog = rng.pick(&[0, 4, 100]);
        for rules in rules {
            (rules.suspect_wait, rules.blocked_wait, rules.short_backlog) = (suspect_wait, blocked_wait, short_backlog);
        }
    }

    /// A second with as many records and faults as elsewhere a minute has: what needs several at a time.
    fn dense(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let on_outage = rng.pick(&[OnOutage::Local, OnOutage::Local, OnOutage::Spool]);
        let kind = rng.pick(&[Kind::Task, Kind::Event]);
        let mut rules = vec![Self::rules(kind, on_outage, rng.chance(20), Level::Disk); 2];
        Self::other_waits(&mut rng, &mut rules);
        Self {
            rules,
            until: rng.between(200, 3_000) * MS,
            publish_every: rng.between(2, 40) * MS,
            fault_every: rng.between(20, 400) * MS,
            chance: true,
            window: rng.pick(&[4, WINDOW]),
            cap: 1_000,
            ..Self::small(seed)
        }
    }

    /// One long outage, many records.
    pub fn long(records: usize) -> Self {
        let rules = vec![Self::rules(Kind::Event, OnOutage::Spool, false, Level::Disk); 1];
        let setup = Self::small(1);
        Self { rules, keys: 8, cap: records * 2, window: 5_000, ..setup }
    }

    /// Two topics, and nothing that happens by chance.
    pub fn quiet() -> Self {
        let rules = vec![Self::rules(Kind::Event, OnOutage::Spool, false, Level::Disk); 2];
        Self { rules, publish_every: 0, ..Self::small(1) }
    }

    /// Two lanes, three records.
    pub fn small(seed: u64) -> Self {
        let rules = vec![Self::rules(Kind::Task, OnOutage::Local, false, Level::Disk); 1];
        let (publish_every, fault_every) = (4 * MS, SECOND);
        let (keys, until) = (1, SECOND);
        let (level, cap) = (Level::Disk, 1_000);
        let (evicts, chance, window) = (false, false, WINDOW);
        Self { seed, rules, keys, level, cap, evicts, until, publish_every, fault_every, chance, window }
    }

    fn rules(kind: Kind, on_outage: OnOutage, strict: bool, spool_level: Level) -> Rules {
        Rules {
            kind,
            on_outage,
            strict,
            spool_level,
            suspect_wait: Duration::from_millis(250),
            blocked_wait: Duration::from_secs(2),
            short_backlog: 4,
            one_copy: false,
        }
    }
}
