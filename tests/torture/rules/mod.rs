//! The rules: what must be true of every history, each a function of its own. They read a history and touch nothing.
//!
//! C1 to C7 are about messages (`messages`, `order`), C8 to C12 about the run (`run`).

mod messages;
mod order;
mod run;

pub use run::{unread, worst_recovery};

use crate::history::{History, Name};

/// A rule that does not hold, and where that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub rule: &'static str,
    pub text: String,
    /// The message it is about, where it is about one.
    pub message: Option<Name>,
}

impl Broken {
    fn of(rule: &'static str, message: &Name, text: impl AsRef<str>) -> Self {
        Self { rule, text: format!("{message}: {}", text.as_ref()), message: Some(message.clone()) }
    }

    fn run(rule: &'static str, text: impl Into<String>) -> Self {
        Self { rule, text: text.into(), message: None }
    }
}

/// A rule: its number, what it says, and the check.
pub struct Rule {
    pub number: &'static str,
    pub says: &'static str,
    pub check: fn(&History) -> Vec<Broken>,
}

pub const RULES: &[Rule] = &[
    Rule {
        number: "C1",
        says: "what was confirmed is delivered and acknowledged",
        check: messages::c1_nothing_is_lost,
    },
    Rule { number: "C2", says: "what is delivered was published", check: messages::c2_nothing_is_invented },
    Rule { number: "C3", says: "what was refused or not sent is not delivered", check: messages::c3_no_is_no },
    Rule { number: "C4", says: "each key keeps its order", check: order::c4_order_is_kept },
    Rule { number: "C5", says: "a second copy has a reason and says so", check: order::c5_copies_have_reasons },
    Rule { number: "C6", says: "payload, key, headers and id are intact", check: messages::c6_content_is_intact },
    Rule { number: "C7", says: "each publish has exactly one outcome", check: messages::c7_one_outcome },
    Rule { number: "C8", says: "unknown is only what was under way at a fault", check: run::c8_unknown_has_a_cause },
    Rule { number: "C9", says: "publishing goes on after a fault, and without one", check: run::c9_it_goes_on },
    Rule { number: "C10", says: "memory, descriptors and threads do not grow", check: run::c10_nothing_grows },
    Rule { number: "C11", says: "counters, spool and queues agree", check: run::c11_the_books_agree },
    Rule { number: "C12", says: "Kafka: every offset is read and committed", check: run::c12_offsets_agree },
    Rule { number: "rest", says: "all comes to rest", check: run::it_comes_to_rest },
];

/// Everything that is wrong, rule by rule.
pub fn check(history: &History) -> Vec<Broken> {
    RULES.iter().flat_map(|rule| (rule.check)(history)).collect()
}
