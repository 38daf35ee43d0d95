//! How messages look at servers, as far as it is the same for all of them: the forms `cloudevents`
//! and `helixagent`, and which topics have which form.

use crate::config::{RouteConfig, Wire};
use crate::error::Result;
use crate::pattern::{Pattern, DEAD_LETTER_SUFFIX};

pub(crate) mod cloudevents;
pub(crate) mod helixagent;

/// Headers under which the program sees what a form has a place of its own for.
pub(crate) const CORRELATION_ID: &str = "correlation-id";
pub(crate) const REPLY_TO: &str = "reply-to";
pub(crate) const CONTENT_TYPE: &str = "content-type";
/// And of the forms that tell of an event's source: its attributes, `ce_source` and so on.
pub(crate) const ATTRIBUTE: &str = "ce_";

/// What is known of a record only where it is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub id: &'a str,
    /// Time of the record.
    pub time_us: i64,
    /// From which its time to live and its delay count.
    pub now_us: i64,
    pub topic: &'a str,
    /// Of one that names none: the hub's name.
    pub source: &'a str,
    /// It came in before, with whatever attributes its publisher gave it.
    pub again: bool,
}

/// The forms of a configuration's routes.
#[derive(Debug, Default)]
pub(crate) struct Forms(Vec<(Pattern, Wire)>);

impl Forms {
    /// The first route that matches decides, as everywhere.
    pub fn new(routes: &[RouteConfig]) -> Result<Self> {
        let forms = routes.iter().map(|route| Ok((Pattern::parse(&route.pattern)?, route.wire)));
        forms.collect::<Result<_>>().map(Self)
    }

    /// Whether topics of `pattern` are shared with the package `helixagent`.
    #[cfg(feature = "rabbitmq")]
    pub fn shares(&self, pattern: &Pattern) -> bool {
        self.0.iter().any(|(own, wire)| *wire == Wire::Helixagent && own.overlaps(pattern))
    }

    /// The form of a topic. Dead letters are this library's own, and `native`.
    pub fn of(&self, topic: &str) -> Wire {
        if topic.ends_with(DEAD_LETTER_SUFFIX) {
            return Wire::Native;
        }
        self.0.iter().find(|(pattern, _)| pattern.matches(topic)).map_or(Wire::Native, |(_, wire)| *wire)
    }
}
