//! Which kind each topic has: one per hub, fixed by a route or else by its first use. What a pattern
//! of the other kind misses by that is warned of.

use std::sync::{Arc, Weak};

use super::route::Use;
use super::subscribe::SubShared;
use super::Shared;
use crate::error::Result;
use crate::limits::{TOPICS_MAX, WARNINGS_KEPT};
use crate::message::TopicKind;

impl Shared {
    /// The kind of a topic or pattern for a use that fixes nothing.
    pub(super) fn peek_kind(&self, topic: &str, asked: Option<(TopicKind, Use)>) -> Result<TopicKind> {
        let first = self.kinds.lock().get(topic).copied();
        Ok(self.routes.kind(topic, asked, first)?.0)
    }

    /// The kind of a topic or pattern; remembers the first use of a plain name.
    pub(super) fn kind_of(&self, topic: &str, asked: Option<(TopicKind, Use)>, subscribes: bool) -> Result<TopicKind> {
        if crate::config::is_pattern(topic) {
            return self.peek_kind(topic, asked);
        }
        let (kind, first) = {
            let mut kinds = self.kinds.lock();
            let first = kinds.get(topic).copied();
            let (kind, by) = self.routes.kind(topic, asked, first)?;
            if first.is_none() && kinds.len() < TOPICS_MAX {
                let by = if by == Use::Default && subscribes { Use::SubscribeByDefault } else { by };
                kinds.insert(topic.to_owned(), (kind, by));
            }
            (kind, first)
        };
        if first.is_none() {
            self.warn_of_patterns_of_the_other_kind(topic, kind);
        }
        Ok(kind)
    }

    /// A pattern that matches a topic's name, but is subscribed for the other kind, misses it: one
    /// name has one kind, a pattern meets many names.
    fn warn_of_patterns_of_the_other_kind(&self, topic: &str, kind: TopicKind) {
        let all: Vec<_> = self.subscriptions.lock().values().filter_map(Weak::upgrade).collect();
        let misses = |own: &&Arc<SubShared>| {
            own.kind != kind && own.pattern.as_ref().is_some_and(|pattern| pattern.matches(topic))
        };
        if let Some(subscription) = all.iter().find(misses) {
            self.warn_of_kind(topic, kind, subscription);
        }
    }

    /// As above, for a pattern that comes after the topic.
    pub(super) fn warn_of_topics_of_the_other_kind(&self, subscription: &SubShared) {
        let Some(pattern) = &subscription.pattern else { return };
        let missed = {
            let kinds = self.kinds.lock();
            let missed = kinds.iter().find(|(topic, (kind, _))| *kind != subscription.kind && pattern.matches(topic));
            missed.map(|(topic, (kind, _))| (topic.clone(), *kind))
        };
        if let Some((topic, kind)) = missed {
            self.warn_of_kind(&topic, kind, subscription);
        }
    }

    fn warn_of_kind(&self, topic: &str, kind: TopicKind, subscription: &SubShared) {
        let text = format!(
            "`{topic}` carries {}s, so the pattern `{}`, subscribed for {}s, does not receive it; \"kind\": \"{}\" in \
             the subscription would",
            kind.name(),
            subscription.topic,
            subscription.kind.name(),
            kind.name()
        );
        self.log_warn("kind", &text);
        let mut warnings = self.notices.warnings.lock();
        if warnings.len() < WARNINGS_KEPT && !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}
