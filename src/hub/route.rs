//! The routing table: which kind a topic has, which backend carries it, what an outage means.
//!
//! An ordered list; the first pattern that matches decides, for publish and subscribe alike. The
//! configured routes come first, then the defaults, then "anything else is an event". A topic has
//! one kind per hub: a configured route fixes it, else its first use does.

use crate::broker::BackendKind;
use crate::config::{Config, OnOutage};
use crate::error::{Error, Kind, Result};
use crate::message::TopicKind;
use crate::pattern::{Pattern, DEAD_LETTER_SUFFIX};

/// Patterns whose topics are tasks where nothing else was said.
const TASK_PATTERNS: [&str; 4] = ["helixagent.tasks.#", "tasks", "tasks.#", "task.#"];

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Route {
    /// The pattern as written.
    pub text: String,
    pattern: Pattern,
    /// The kind it fixes.
    pub kind: Option<TopicKind>,
    /// The backend it names; else the role's.
    pub backend: Option<BackendKind>,
    /// What an outage means for a publish.
    pub on_outage: OnOutage,
}

/// The table.
#[derive(Debug)]
pub struct Routes {
    configured: Vec<Route>,
    tasks: Vec<Pattern>,
    /// Where no route says it.
    on_outage: OnOutage,
}

/// How a topic came by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A publish that named the kind.
    Publish,
    /// A subscription that named the kind.
    Subscribe,
    /// A subscription that named none: the default table did.
    SubscribeByDefault,
    /// A declaration.
    Declare,
    /// Nobody named it; the default table did.
    Default,
}

impl Use {
    const fn text(self) -> &'static str {
        match self {
            Use::Publish => "a publish",
            Use::Subscribe => "a subscription",
            Use::SubscribeByDefault => "a subscription (by the default table, as it named no kind)",
            Use::Declare => "a declaration",
            Use::Default => "the default table",
        }
    }
}

impl Routes {
    /// The table of a configuration.
    pub fn new(config: &Config) -> Result<Self> {
        let configured = config.routes.iter().map(|route| {
            Ok(Route {
                text: route.pattern.clone(),
                pattern: Pattern::parse(&route.pattern)?,
                kind: route.kind,
                backend: route.backend,
                on_outage: config.on_outage(Some(route)),
            })
        });
        let tasks = TASK_PATTERNS.iter().map(|text| Pattern::parse(text));
        Ok(Self {
            configured: configured.collect::<Result<_>>()?,
            tasks: tasks.collect::<Result<_>>()?,
            on_outage: config.on_outage(None),
        })
    }

    /// What happens to publishes of `topic` while its server is away.
    pub fn on_outage(&self, topic: &str) -> OnOutage {
        self.route(topic).map_or(self.on_outage, |route| route.on_outage)
    }

    /// The first configured route that matches.
    pub fn route(&self, topic: &str) -> Option<&Route> {
        let is_dead = topic.ends_with(DEAD_LETTER_SUFFIX);
        // A pattern of events does not mean their dead letters, which are tasks.
        let means = |route: &&Route| {
            !is_dead || route.kind != Some(TopicKind::Event) || route.text.ends_with(DEAD_LETTER_SUFFIX)
        };
        self.configured.iter().filter(means).find(|route| route.pattern.matches(topic))
    }

    /// The kind of `topic`, given what this use asks for and how it was used first.
    pub fn kind(
        &self,
        topic: &str,
        asked: Option<(TopicKind, Use)>,
        first: Option<(TopicKind, Use)>,
    ) -> Result<(TopicKind, Use)> {
        let fixed = self.route(topic).and_then(|route| Some((route, route.kind?)));
        match (fixed, asked, first) {
            (Some((route, kind)), Some((asked, by)), _) if asked != kind => Err(Error::new(
                Kind::TopicKind,
                format!(
                    "`{topic}`: {} wants {}s, but the route `{}` says kind `{}`",
                    by.text(),
                    asked.name(),
                    route.text,
                    kind.name()
                ),
            )),
            (Some((_, kind)), _, _) => Ok((kind, Use::Default)),
            (None, Some((asked, by)), Some((kind, earlier))) if asked != kind => Err(Error::new(
                Kind::TopicKind,
                format!(
                    "`{topic}` was first used for {}s by {}, now {} wants {}s; a topic has one kind per hub: use another \
                     name, say \"kind\": \"{}\" where it is first subscribed, or fix it with a route \
                     {{\"pattern\": \"{topic}\", \"kind\": \"{}\"}}",
                    kind.name(),
                    earlier.text(),
                    by.text(),
                    asked.name(),
                    asked.name(),
                    asked.name()
                ),
            )),
            (None, _, Some(first)) => Ok(first),
            (None, Some(asked), None) => Ok(asked),
            (None, None, None) => Ok((self.default_kind(topic), Use::Default)),
        }
    }

    fn default_kind(&self, topic: &str) -> TopicKind {
        if topic.ends_with(DEAD_LETTER_SUFFIX) || self.tasks.iter().any(|pattern| pattern.matches(topic)) {
            TopicKind::Task
        } else {
            TopicKind::Event
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_of_events_are_tasks_whatever_pattern_their_events_have() {
        let table = routes(r#"{"routes":[{"pattern":"audit.#","kind":"event"},{"pattern":"x.dlq","kind":"event"}]}"#);
        let asked = Some((TopicKind::Task, Use::Publish));
        assert_eq!(table.kind("audit.x.dlq", asked, None).unwrap().0, TopicKind::Task);
        assert_eq!(table.kind("audit.x", None, None).unwrap().0, TopicKind::Event);
        assert_eq!(table.kind("other.dlq", None, None).unwrap().0, TopicKind::Task);
        assert_eq!(table.kind("x.dlq", asked, None).unwrap_err().kind(), Kind::TopicKind);
    }

    fn routes(json: &str) -> Routes {
        Routes::new(&Config::from_json(json).unwrap()).unwrap()
    }

    #[test]
    fn the_names_of_the_original_work_unconfigured() {
        let table = routes("{}");
        for topic in ["helixagent.tasks.llm", "tasks", "tasks.a.b", "task.process"] {
            assert_eq!(table.kind(topic, None, None).unwrap().0, TopicKind::Task, "{topic}");
        }
        for topic in ["helixagent.events.audit", "events.x", "event.completed", "user.created", "taskforce"] {
            assert_eq!(table.kind(topic, None, None).unwrap().0, TopicKind::Event, "{topic}");
        }
    }

    #[test]
    fn first_match_wins_and_fixes_the_kind() {
        let table = routes(r#"{"routes":[{"pattern":"a.b","kind":"event"},{"pattern":"a.#","kind":"task"}]}"#);
        assert_eq!(table.kind("a.b", None, None).unwrap().0, TopicKind::Event);
        assert_eq!(table.kind("a.c", None, None).unwrap().0, TopicKind::Task);
        let error = table.kind("a.c", Some((TopicKind::Event, Use::Publish)), None).unwrap_err();
        assert_eq!(error.kind(), Kind::TopicKind);
        assert!(error.message().contains("a.#"), "{error}");
    }

    #[test]
    fn a_second_use_of_the_other_kind_names_both() {
        let table = routes("{}");
        let first = table.kind("x", Some((TopicKind::Task, Use::Publish)), None).unwrap();
        let error = table.kind("x", Some((TopicKind::Event, Use::Subscribe)), Some(first)).unwrap_err();
        for word in ["a publish", "a subscription", "\"kind\": \"event\""] {
            assert!(error.message().contains(word), "{error}");
        }
        assert_eq!(table.kind("x", None, Some(first)).unwrap().0, TopicKind::Task);
    }
}
