//! The tables in the documentation of the core, and which of their rows were met.

use std::collections::{BTreeSet, HashSet};

use helixmq::hub::failover::lane::{Lane, LaneAction, Place};

const TEXT: &str = include_str!("../../src/hub/failover/mod.rs");

/// A row in short: machine, from, input, to.
pub type Key = (u8, u8, usize, u8);

/// Rows met.
#[derive(Debug, Default)]
pub struct Marks {
    rows: BTreeSet<String>,
    met: BTreeSet<String>,
    /// What was looked up before: nearly every step is one of these.
    known: HashSet<Key>,
}

impl Marks {
    /// A step of a machine; `Err` if it is in no table. One without effect need not be.
    pub fn met(&mut self, key: Key, effect: bool, row: impl FnOnce() -> String) -> Result<(), String> {
        if self.known.contains(&key) {
            return Ok(());
        }
        if self.rows.is_empty() {
            self.rows = rows();
        }
        let row = row();
        if self.rows.contains(&row) {
            self.met.insert(row);
            self.known.insert(key);
            return Ok(());
        }
        match effect {
            true => Err(format!("I9: no table has the step `{row}`")),
            false => Ok(()),
        }
    }

    /// An operation on a lane: each record that it moved, and those that it did something about.
    pub fn moved(
        &mut self,
        before: &[(u64, Place)],
        name: &'static str,
        lane: &Lane,
        actions: &[LaneAction],
    ) -> Result<(), String> {
        let mut after = lane.places().peekable();
        for (seq, from) in before {
            let to = after.next_if(|(own, _)| own == seq).map(|(_, place)| place);
            let touched = || actions.iter().any(|action| about(action) == Some(*seq));
            if to != Some(*from) || touched() {
                self.place(Some(*from), name, to)?;
            }
        }
        for (_, place) in after {
            self.place(None, name, Some(place))?;
        }
        Ok(())
    }

    fn place(&mut self, from: Option<Place>, name: &'static str, to: Option<Place>) -> Result<(), String> {
        let short = |place: Option<Place>| place.map_or(u8::MAX, |place| place as u8);
        let text = |place: Option<Place>| place.map_or("-".to_owned(), |place| format!("{place:?}"));
        let key = (2, short(from), name.as_ptr() as usize, short(to));
        self.met(key, true, || format!("record: {} | {name} | {}", text(from), text(to)))
    }

    pub fn merge(&mut self, other: Marks) {
        self.met.extend(other.met);
    }

    pub fn missing(&self) -> Vec<String> {
        rows().difference(&self.met).cloned().collect()
    }
}

const STATES: [&str; 8] = ["Init", "Up", "Suspect", "Down", "Probing", "Forwarding", "Blocked", "Refused"];

/// `machine: state | input | state` of all tables; what tells cases apart is left out.
fn rows() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for machine in ["backend", "destination", "record"] {
        let begin = format!("table of the {machine}: begin");
        let end = format!("table of the {machine}: end");
        let text = TEXT.split(&begin).nth(1).and_then(|rest| rest.split(&end).next());
        for line in text.unwrap_or_else(|| panic!("no {begin}")).lines().skip(2) {
            let mut cells: Vec<&str> = line.trim_start_matches("//!").split('|').map(str::trim).collect();
            if machine == "record" && cells.len() > 1 {
                cells.remove(0);
            }
            let [states, input, to, _] = cells[..] else { continue };
            let input = input.split(',').next().unwrap_or_default();
            let states = if states == "any" { STATES.join(" ") } else { states.to_owned() };
            for from in states.split_whitespace() {
                out.insert(format!("{machine}: {from} | {input} | {}", if to == "=" { from } else { to }));
            }
        }
    }
    out
}

/// The record that an action is about.
fn about(action: &LaneAction) -> Option<u64> {
    match *action {
        LaneAction::Append { seq, .. }
        | LaneAction::Mark { seq }
        | LaneAction::Send { seq, .. }
        | LaneAction::Remove { seq }
        | LaneAction::Withdraw { seq }
        | LaneAction::Note { seq, .. }
        | LaneAction::Complete { seq, .. }
        | LaneAction::Fate { seq, .. }
        | LaneAction::DeadLetter { seq }
        | LaneAction::Alarm { seq } => Some(seq),
        LaneAction::Wake => None,
    }
}
