//! What becomes of one publish: a pure function of the gate, the lane, the route and the call.
//!
//! ```text
//! gate      lane has no backlog   lane has a backlog
//! open      send                  a short one: wait a moment, so that the lane gets home; else append
//! wait      wait, then as spool   the same
//! spool     by the route: append (local, spool), fail, drop
//! refuse    fail
//! ```
//!
//! A call may ask for more than its route gives, never for less: what cannot reach the level it
//! requires fails, and is not stored first.

use super::{Level, Way};

pub use crate::config::OnOutage;

/// The unsettled spool records of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// None: what is published may go direct.
    None,
    /// So few, and all on their way, that they will be confirmed in a moment.
    Short,
    /// More than that.
    Long,
}

/// Room in the spool, by the caps of hub and destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is room for this record.
    Free,
    /// There is none; the call waits for it.
    Full,
    /// There is none, and the oldest record of the destination may go instead.
    Evict,
}

/// All that a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The gate of backend and destination.
    pub way: Way,
    /// What the lane still has to forward.
    pub backlog: Backlog,
    /// The route's policy.
    pub on_outage: OnOutage,
    /// The level that the call asks for, if it asks.
    pub require: Option<Level>,
    /// The level that the spool gives: memory or disk.
    pub spool_level: Level,
    /// Room in the spool.
    pub room: Room,
    /// The call has not waited for the gate as long as it may.
    pub patient: bool,
    /// The deadline of the call has not come.
    pub in_time: bool,
}

/// Whose word the call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The spool's or the server's, whichever comes first.
    Any,
    /// The server's.
    Server,
}

/// Why a publish fails without having been handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server is away, and nothing that would do may take its place.
    BackendDown,
    /// The spool is full.
    Full,
    /// The hub closes.
    Closing,
}

/// What becomes of the publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Hand it to the server.
    Send,
    /// Ask again when the gate or the lane changes, at the latest when the patience for it ends.
    WaitForGate,
    /// Ask again when there is room, at the latest at the deadline of the call.
    WaitForRoom,
    /// Write it to the spool.
    Append,
    /// Evict the oldest record of the destination, then ask again; if there was none to evict, with
    /// [`Room::Full`].
    MakeRoom,
    /// It fails.
    Fail(Failure),
    /// It is dropped, as the route says.
    Drop,
}

/// Whose word satisfies a call that requires `require` where the spool gives `spool_level`.
pub fn need(require: Option<Level>, spool_level: Level) -> Need {
    match require {
        Some(level) if level > spool_level => Need::Server,
        Some(_) | None => Need::Any,
    }
}

/// Whether records of such a route are kept when their connection is lost.
pub fn keeps(on_outage: OnOutage) -> bool {
    match on_outage {
        OnOutage::Local | OnOutage::Spool => true,
        OnOutage::Fail | OnOutage::Drop => false,
    }
}

/// Decides.
pub fn decide(case: &Case) -> Choice {
    match (case.way, case.backlog) {
        (Way::Refuse, _) => Choice::Fail(Failure::Closing),
        (Way::Open, Backlog::None) => Choice::Send,
        // The record has its place behind the backlog, whatever level its call waits for.
        (Way::Open, Backlog::Short) if case.patient => Choice::WaitForGate,
        (Way::Open, Backlog::Short | Backlog::Long) => store(case),
        (Way::Wait | Way::Blocked, _) if case.patient => Choice::WaitForGate,
        (Way::Wait | Way::Blocked | Way::Spool, _) => match need(case.require, case.spool_level) {
            Need::Server => Choice::Fail(Failure::BackendDown),
            Need::Any => store(case),
        },
    }
}

/// Into the spool, if the route has one.
fn store(case: &Case) -> Choice {
    match (case.on_outage, case.room) {
        (OnOutage::Fail, _) => Choice::Fail(Failure::BackendDown),
        (OnOutage::Drop, _) => match case.require {
            None | Some(Level::None) => Choice::Drop,
            Some(Level::Memory | Level::Disk | Level::Broker) => Choice::Fail(Failure::BackendDown),
        },
        (OnOutage::Local | OnOutage::Spool, Room::Free) => Choice::Append,
        (OnOutage::Local | OnOutage::Spool, Room::Evict) => Choice::MakeRoom,
        (OnOutage::Local | OnOutage::Spool, Room::Full) if case.in_time => Choice::WaitForRoom,
        (OnOutage::Local | OnOutage::Spool, Room::Full) => Choice::Fail(Failure::Full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Way; 5] = [Way::Open, Way::Wait, Way::Blocked, Way::Spool, Way::Refuse];
    const BACKLOGS: [Backlog; 3] = [Backlog::None, Backlog::Short, Backlog::Long];
    const POLICIES: [OnOutage; 4] = [OnOutage::Local, OnOutage::Spool, OnOutage::Fail, OnOutage::Drop];
    const REQUIRED: [Option<Level>; 5] =
        [None, Some(Level::None), Some(Level::Memory), Some(Level::Disk), Some(Level::Broker)];
    const LEVELS: [Level; 2] = [Level::Memory, Level::Disk];
    const ROOMS: [Room; 3] = [Room::Free, Room::Full, Room::Evict];

    fn all(mut each: impl FnMut(Case)) {
        for way in WAYS {
            for (backlog, on_outage) in BACKLOGS.iter().flat_map(|one| POLICIES.map(|two| (*one, two))) {
                for (require, spool_level) in REQUIRED.iter().flat_map(|one| LEVELS.map(|two| (*one, two))) {
                    for (room, patient) in ROOMS.iter().flat_map(|one| [true, false].map(|two| (*one, two))) {
                        for in_time in [true, false] {
                            each(Case { way, backlog, on_outage, require, spool_level, room, patient, in_time });
                        }
                    }
                }
            }
        }
    }

    /// The rules once more, as a table of conditions; the first that holds decides.
    #[test]
    fn every_combination_is_decided_by_the_table() {
        type Row = (&'static str, fn(&Case) -> bool, Choice);
        let table: [Row; 12] = [
            ("closing", |c| c.way == Way::Refuse, Choice::Fail(Failure::Closing)),
            ("direct", |c| c.way == Way::Open && c.backlog == Backlog::None, Choice::Send),
            ("home soon", |c| c.way == Way::Open && c.backlog == Backlog::Short && c.patient, Choice::WaitForGate),
            ("back soon", |c| matches!(c.way, Way::Wait | Way::Blocked) && c.patient, Choice::WaitForGate),
            (
                "only the server will do",
                |c| c.way != Way::Open && c.require.is_some_and(|level| level > c.spool_level),
                Choice::Fail(Failure::BackendDown),
            ),
            ("fail", |c| c.on_outage == OnOutage::Fail, Choice::Fail(Failure::BackendDown)),
            (
                "a level is asked of what drops",
                |c| c.on_outage == OnOutage::Drop && c.require.is_some_and(|level| level != Level::None),
                Choice::Fail(Failure::BackendDown),
            ),
            ("drop", |c| c.on_outage == OnOutage::Drop, Choice::Drop),
            ("room", |c| c.room == Room::Free, Choice::Append),
            ("evict", |c| c.room == Room::Evict, Choice::MakeRoom),
            ("full", |c| c.room == Room::Full && c.in_time, Choice::WaitForRoom),
            ("full for too long", |c| c.room == Room::Full && !c.in_time, Choice::Fail(Failure::Full)),
        ];
        let (mut count, mut met) = (0, std::collections::BTreeSet::new());
        all(|case| {
            let (name, _, choice) = table.iter().find(|(_, holds, _)| holds(&case)).unwrap();
            assert_eq!(decide(&case), *choice, "{name}: {case:?}");
            met.insert(*name);
            count += 1;
        });
        assert_eq!((count, met.len()), (5 * 3 * 4 * 5 * 2 * 3 * 2 * 2, table.len()));
    }

    /// What the promises say, whatever the table says.
    #[test]
    fn no_combination_breaks_a_promise() {
        all(|case| {
            let choice = decide(&case);
            if choice == Choice::Send {
                assert!(case.way == Way::Open && case.backlog == Backlog::None, "{case:?}");
            }
            let server = need(case.require, case.spool_level) == Need::Server;
            if choice == Choice::Append && case.way != Way::Open {
                assert!(!server, "stored though only the server will do: {case:?}");
            }
            if choice == Choice::Append {
                assert!(keeps(case.on_outage) && case.room == Room::Free, "{case:?}");
            }
            if choice == Choice::Drop {
                assert!(case.on_outage == OnOutage::Drop, "{case:?}");
            }
            if choice == Choice::WaitForGate {
                assert!(case.patient, "{case:?}");
            }
        });
    }
}
