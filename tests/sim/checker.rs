//! The invariants, checked from outside: what the programs, the server, the disk and the workers saw,
//! and never what the machines say of themselves (but where they are compared).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use helixmq::clock::Moment;
use helixmq::hub::failover::backend::Backend;
use helixmq::hub::failover::lane::{Completed, Fate, Lane, Place, Verdict};
use helixmq::hub::failover::{Ending, Level};

use crate::broker_model::{Wire, WINDOW};
use crate::clients::{Call, SLACK};
use crate::setup::Setup;
use crate::store_model::Store;
use crate::world::Hub;
use crate::LaneId;

type Checked = Result<(), String>;

/// Whom to tell how a record ended.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// `usize::MAX`: its process is gone.
    pub call: usize,
    pub require: Option<Level>,
    /// It is late after this.
    pub late: Moment,
}

/// What is known of one record.
#[derive(Debug, Clone)]
struct Record {
    lane: LaneId,
    told: Told,
    expires: u64,
    due: u64,
    bad: bool,
    completed: Option<Completed>,
    fate: Option<Fate>,
    /// Sent in this run and epoch, and not known to have failed.
    copies: Vec<(u32, u64)>,
    /// The server has it; so often it came.
    sightings: u32,
    flagged: bool,
    leased: bool,
    /// Without a key: leased once, so it may have been passed.
    passed: bool,
    done: bool,
    in_spool: bool,
    dead_letters: u32,
    shown: u64,
    handled: u64,
    /// Given up while a copy was open, or lost with its process: it may come late.
    given_up: bool,
    /// A crash undid its removal: what was done with it may be done again.
    revived: bool,
}

pub struct Checker {
    /// By number.
    records: Vec<Option<Record>>,
    spooled: BTreeMap<LaneId, BTreeSet<u64>>,
    counts: Vec<usize>,
    /// The newest first sighting of each lane.
    newest: BTreeMap<LaneId, u64>,
    /// Success was reported, and the record is not settled yet.
    receipts: BTreeSet<u64>,
    removed: Vec<u64>,
    open: usize,
    steps: u64,
    evicts: bool,
    cap: usize,
    /// Of which topics records have one copy at a time.
    one_copy: Vec<bool>,
}

impl Checker {
    pub fn new(setup: &Setup) -> Self {
        Self {
            records: Vec::new(),
            spooled: BTreeMap::new(),
            counts: vec![0; setup.rules.len()],
            newest: BTreeMap::new(),
            receipts: BTreeSet::new(),
            removed: Vec::new(),
            open: 0,
            steps: 0,
            evicts: setup.evicts,
            cap: setup.cap,
            one_copy: setup.rules.iter().map(|rules| rules.one_copy).collect(),
        }
    }

    fn of(&mut self, seq: u64) -> &mut Record {
        self.records[seq as usize].as_mut().unwrap()
    }

    pub fn given(&mut self, seq: u64, call: &Call, told: Told) {
        let at = seq as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
        }
        let Call { lane, expires, due, bad, .. } = *call;
        self.open += 1;
        self.records[at] = Some(Record {
            lane,
            told,
            expires: expires.0,
            due: due.0,
            bad,
            completed: None,
            fate: None,
            copies: Vec::new(),
            sightings: 0,
            flagged: false,
            leased: false,
            passed: false,
            done: false,
            in_spool: false,
            dead_letters: 0,
            shown: 0,
            handled: 0,
            given_up: false,
            revived: false,
        });
    }

    pub fn not_given(&mut self, seq: u64) {
        self.records[seq as usize] = None;
        self.open -= 1;
    }

    /// Calls without an outcome.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn lane_of(&mut self, seq: u64) -> LaneId {
        self.of(seq).lane
    }

    pub fn is_bad(&mut self, seq: u64) -> bool {
        self.of(seq).bad
    }

    pub fn times(&mut self, seq: u64) -> (u64, u64) {
        let record = self.of(seq);
        (record.expires, record.due)
    }

    /// Records of a topic in the spool.
    pub fn stored(&self, topic: usize) -> usize {
        self.counts[topic]
    }

    pub fn dropped(&self, require: Option<Level>) -> Checked {
        ensure(require.is_none(), || format!("dropped, though {require:?} was required"))
    }

    pub fn spooled(&mut self, seq: u64) {
        let lane = self.of(seq).lane;
        self.of(seq).in_spool = true;
        if self.spooled.entry(lane).or_default().insert(seq) {
            self.counts[lane.topic] += 1;
        }
    }

    pub fn removed(&mut self, seq: u64) {
        self.leaves(seq);
        self.removed.push(seq);
    }

    fn leaves(&mut self, seq: u64) {
        let record = self.of(seq);
        record.in_spool = false;
        record.leased = false;
        let lane = record.lane;
        if self.spooled.get_mut(&lane).is_some_and(|set| set.remove(&seq)) {
            self.counts[lane.topic] -= 1;
        }
    }

    /// After the actions of one call were executed: what left the spool is settled.
    pub fn all_settled(&mut self) -> Checked {
        for seq in std::mem::take(&mut self.removed) {
            let evicts = self.evicts;
            let record = self.of(seq);
            let success = matches!(record.completed, Some(Completed::Reached(_)));
            let settled = match record.fate {
                Some(Fate::Confirmed) => record.sightings > 0,
                Some(Fate::Evicted) => evicts,
                Some(Fate::Expired) => true,
                Some(Fate::Refused) => record.bad && record.dead_letters > 0,
                Some(Fate::LocalDone) => record.done,
                // Not known, and not stored: right if nobody was told that it is safe.
                Some(Fate::Unknown) => !success,
                None => record.completed.is_some() && (!success || record.sightings > 0),
            };
            self.receipts.remove(&seq);
            ensure(settled, || format!("I1: {seq} has left the spool and is not settled"))?;
        }
        Ok(())
    }

    /// A record is handed to the server.
    pub fn sent(&mut self, seq: u64, epoch: u64, run: u32, maybe_dup: bool, direct: bool) -> Checked {
        let lane = self.of(seq).lane;
        let others = self.spooled.get(&lane);
        if direct {
            let waits = others.is_some_and(|set| !set.is_empty());
            ensure(!waits, || format!("I3: {seq} is sent direct past {others:?}"))?;
        }
        let before: Vec<u64> = others.map(|set| set.range(..seq).copied().collect()).unwrap_or_default();
        for earlier in before {
            let record = self.of(earlier);
            ensure(!(record.leased && lane.key != 0), || format!("I11: {seq} passes {earlier}, which is leased"))?;
            // Without a key, what was leased once may be passed.
            let on_way = record.copies.contains(&(run, epoch)) || record.passed;
            ensure(on_way, || format!("I2: {seq} passes {earlier}, which is not on its way"))?;
        }
        let one_copy = self.one_copy[lane.topic];
        let record = self.of(seq);
        let is_open = record.copies.iter().any(|(of, epoch)| *of == run && *epoch != u64::MAX);
        ensure(!(one_copy && is_open), || format!("I2: {seq} is sent again, and its copy has no ending yet"))?;
        ensure(!record.leased && (!record.done || record.revived), || format!("I4: {seq} is sent and done here"))?;
        ensure(maybe_dup || record.copies.is_empty(), || format!("I2: {seq} is sent again without the flag"))?;
        let twice = record.copies.contains(&(run, epoch));
        ensure(!twice, || format!("I2: {seq} is sent twice in one epoch"))?;
        record.copies.push((run, epoch));
        Ok(())
    }

    /// A record of the spool is handed to the server: its mark is durable, and it tells which groups
    /// have handled it.
    pub fn forwarded(&mut self, seq: u64, handled: u64, store: &Store, now: Moment) -> Checked {
        let marked = store.rows.get(&seq).is_some_and(|row| row.maybe_dup);
        ensure(marked, || format!("I2: {seq} is handed over before its mark is durable"))?;
        let record = self.of(seq);
        // It may have been marked a moment before its time was over.
        ensure(now.0 < record.expires.saturating_add(SLACK), || format!("{seq} is sent, though it has expired"))?;
        ensure(handled & record.handled == record.handled || record.revived, || {
            format!("{seq} does not tell who has handled it")
        })
    }

    /// How a copy ended, as the client tells.
    pub fn ended(&mut self, seq: u64, epoch: u64, run: u32, ending: Ending) {
        let Some(record) = self.records[seq as usize].as_mut() else { return };
        match ending {
            Ending::NotSent | Ending::Refused => record.copies.retain(|copy| *copy != (run, epoch)),
            // Over, but it may have arrived.
            Ending::Unknown => {
                let copies = record.copies.iter_mut().filter(|copy| **copy == (run, epoch));
                copies.for_each(|copy| *copy = (run, u64::MAX));
            }
            Ending::Confirmed => {}
        }
    }

    /// The server has a record in its log.
    pub fn seen(&mut self, wire: &Wire) -> Checked {
        let seq = wire.seq;
        let newest = self.newest.get(&wire.lane).copied().unwrap_or(0);
        let record = self.of(seq);
        record.sightings += 1;
        record.flagged |= wire.maybe_dup;
        let (first, late) = (record.sightings == 1, record.given_up || record.passed || record.revived);
        ensure(record.sightings == 1 || record.flagged, || format!("I2: {seq} came twice and no copy has the flag"))?;
        ensure(!record.done || record.revived, || format!("I4: {seq} was done here and came to the server"))?;
        let honest = !matches!(record.completed, Some(Completed::NotSent | Completed::Refused | Completed::Expired));
        ensure(honest, || format!("I1: {seq} ended as {:?} and came to the server", record.completed))?;
        if first && !late {
            ensure(seq > newest, || format!("I2: {seq} came first after {newest}"))?;
            self.newest.insert(wire.lane, seq);
        }
        Ok(())
    }

    pub fn leased(&mut self, lane: LaneId, seq: u64, now: Moment) -> Checked {
        let oldest = self.spooled.get(&lane).and_then(|set| set.first()).copied();
        let record = self.of(seq);
        ensure(record.sightings == 0 && record.copies.is_empty(), || {
            format!("I4: {seq} may be at the server and is leased")
        })?;
        ensure(!record.leased && (!record.done || record.revived), || format!("I4: {seq} is leased twice"))?;
        ensure(record.due <= now.0 && record.expires > now.0, || format!("{seq} is leased at the wrong time"))?;
        ensure(lane.key == 0 || oldest == Some(seq), || format!("I11: {seq} is leased before {oldest:?}"))?;
        (record.leased, record.passed) = (true, lane.key == 0);
        Ok(())
    }

    pub fn worked(&mut self, seq: u64, verdict: Verdict) -> Checked {
        let record = self.of(seq);
        ensure(record.leased, || format!("I4: the lease of {seq} was broken"))?;
        record.leased = false;
        record.done = matches!(verdict, Verdict::Done | Verdict::Dead);
        ensure(!record.done || record.sightings == 0, || format!("I4: {seq} is done here and at the server"))
    }

    pub fn shown(&mut self, seq: u64, group: u64) -> Checked {
        let record = self.of(seq);
        ensure(record.shown & group == 0, || format!("{seq} is shown twice to a group"))?;
        record.shown |= group;
        ensure(record.sightings == 0 && record.copies.is_empty(), || format!("{seq} may be seen twice by a group"))
    }

    pub fn handled(&mut self, seq: u64, group: u64) {
        let record = self.of(seq);
        if record.in_spool {
            record.handled |= group;
        }
    }

    pub fn completed(&mut self, seq: u64, completed: Completed, store: &Store, now: Moment) -> Checked {
        let spooled = self.of(seq).in_spool;
        let record = self.of(seq);
        ensure(record.completed.is_none(), || format!("I5: {seq} completes twice"))?;
        ensure(now <= record.told.late, || format!("the call of {seq} is late"))?;
        record.completed = Some(completed);
        let (seen, required) = (record.sightings > 0, record.told.require.unwrap_or(Level::None));
        match completed {
            Completed::Reached(level) => {
                ensure(level >= required, || format!("I1: {seq} requires {required:?} and is told {level:?}"))?;
                let true_ = match level {
                    Level::Broker => seen,
                    Level::Disk => store.rows.contains_key(&seq),
                    Level::Memory | Level::None => spooled,
                };
                ensure(true_, || format!("I1: {seq} is told {level:?}, which is not so"))?;
            }
            Completed::NotSent | Completed::Refused | Completed::Expired => {
                ensure(!seen, || format!("I1: {seq} is told {completed:?} and is at the server"))?;
                let gone = completed != Completed::NotSent || !store.rows.contains_key(&seq);
                ensure(gone, || format!("I1: {seq} is told {completed:?} and is in the store"))?;
                let open = matches!(completed, Completed::NotSent | Completed::Expired) && !record.copies.is_empty();
                ensure(!open, || format!("I1: {seq} is told {completed:?} and may be at the server"))?;
                ensure(completed != Completed::Refused || record.bad, || format!("{seq} was not refused"))?;
                ensure(completed != Completed::Expired || record.expires <= now.0, || format!("{seq} is not old"))?;
            }
            Completed::Unknown => {}
        }
        if matches!(completed, Completed::Reached(Level::Memory | Level::Disk)) {
            self.receipts.insert(seq);
        }
        self.open -= 1;
        self.given_up_if_gone(seq);
        Ok(())
    }

    pub fn fate(&mut self, seq: u64, fate: Fate, now: Moment) -> Checked {
        let record = self.of(seq);
        // A process that was killed never told the call; its record was told nothing either.
        let told = record.completed.is_some() || record.revived || record.told.call == usize::MAX;
        ensure(told && record.fate.is_none(), || format!("I5: a second fate of {seq}, or one before its completion"))?;
        ensure(fate != Fate::Expired || record.expires <= now.0, || format!("{seq} is not old"))?;
        record.fate = Some(fate);
        self.given_up_if_gone(seq);
        Ok(())
    }

    pub fn evicted(&mut self, seq: u64) -> Checked {
        let told = self.of(seq).fate == Some(Fate::Evicted);
        ensure(told, || format!("{seq} is evicted while its caller waits"))
    }

    pub fn dead_letter(&mut self, seq: u64) {
        self.of(seq).dead_letters += 1;
    }

    /// Nobody sends it again; a copy on its way may still come.
    fn given_up_if_gone(&mut self, seq: u64) {
        let record = self.of(seq);
        if !record.in_spool && record.sightings == 0 && !record.copies.is_empty() {
            let ended = record.fate.is_some() || !matches!(record.completed, Some(Completed::Reached(_)));
            record.given_up |= ended;
        }
    }

    /// The process is gone. `left`: rows whose removal was asked for and is undone.
    pub fn crashed(&mut self, store: &Store, left: &[u64], keeps: bool) -> Checked {
        for seq in std::mem::take(&mut self.receipts) {
            let record = self.of(seq);
            let disk = record.completed == Some(Completed::Reached(Level::Disk));
            if store.rows.contains_key(&seq) {
                self.receipts.insert(seq);
            } else {
                ensure(!disk && !keeps, || format!("I10: {seq} has a receipt of level disk and is gone"))?;
                record.given_up = true;
            }
        }
        for record in self.records.iter_mut().flatten() {
            if record.completed.is_none() {
                // Its caller is gone too; it stays as it is.
                if record.told.call != usize::MAX {
                    (record.told.call, record.told.late) = (usize::MAX, Moment::NEVER);
                    self.open -= 1;
                }
            }
            record.leased = false;
            record.in_spool = false;
        }
        for seq in left {
            let record = self.of(*seq);
            (record.revived, record.fate) = (true, None);
        }
        self.spooled.clear();
        self.counts.iter_mut().for_each(|count| *count = 0);
        for seq in store.rows.keys() {
            self.spooled(*seq);
            // What was not written down is not known any more.
            self.of(*seq).handled = store.rows[seq].handled;
            let handled = self.of(*seq).handled;
            self.of(*seq).shown = handled;
        }
        for seq in 0..self.records.len() as u64 {
            if let Some(record) = self.records[seq as usize].as_mut() {
                record.given_up |= !record.in_spool && record.sightings == 0;
            }
        }
        Ok(())
    }

    /// The machine of a backend has taken a step.
    pub fn backend(&self, backend: &Backend, now: Moment) -> Checked {
        let view = backend.view();
        let bounded = view.next_try.is_none_or(|at| at.since(now) <= Duration::from_secs(10));
        ensure(bounded, || format!("I7: the next attempt is at {:?}", view.next_try))
    }

    /// Now and then all is compared with all.
    pub fn after_step(&mut self, hub: Option<&Hub>) -> Checked {
        self.steps += 1;
        let Some(hub) = hub.filter(|_| self.steps.is_multiple_of(16)) else { return Ok(()) };
        for seq in &self.receipts {
            let record = self.records[*seq as usize].as_ref().unwrap();
            ensure(record.in_spool, || format!("I1: {seq} was promised and is nowhere"))?;
        }
        for (id, set) in &self.spooled {
            let backlog = hub.lanes.get(id).map_or(0, |lane| lane.backlog());
            let on_way = |lane: &Lane| {
                lane.places().filter(|(_, place)| matches!(place, Place::Flying | Place::Marking)).count()
            };
            let counted = hub.lanes.get(id).is_none_or(|lane| on_way(lane) == lane.forwarded());
            ensure(counted, || format!("{id:?} does not know how many are on their way"))?;
            ensure(backlog == set.len(), || format!("I3: {id:?} has {backlog} of {set:?}"))?;
        }
        // What was in flight at a loss comes back, whatever the cap says.
        let most = self.cap + WINDOW * (1 + hub.last_epoch as usize);
        ensure(self.counts.iter().all(|count| *count <= most), || format!("I6: {:?} of {most}", self.counts))?;
        Ok(())
    }

    /// Everything is over: each call has its outcome, and each promise is kept.
    pub fn at_rest(&self) -> Checked {
        ensure(self.open == 0, || format!("I5: {} calls have no outcome", self.open))?;
        ensure(self.receipts.is_empty(), || format!("I1: {:?} were promised and never settled", self.receipts))
    }
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(text()),
    }
}
