//! Topics and queues by name: declare, delete, purge, describe.

use serde_json::{json, Value};

use super::route::Use;
use super::{backends, Hub, Shared, Timeout};
use crate::broker::{Admin, Declared};
use crate::clock::Moment;
use crate::config::options::{DeclareOptions, TopicSelector};
use crate::error::{Error, Kind, Result};
use crate::runtime::Pending;

impl Hub {
    /// Makes a topic, or checks that it is as asked.
    pub fn declare(&self, options: &DeclareOptions, timeout: Timeout) -> Result<Declared> {
        let hub = &self.0;
        hub.check_open()?;
        crate::config::check_name("name", &options.name)?;
        hub.mark_used();
        let kind = hub.kind_of(&options.name, options.kind.map(|kind| (kind, Use::Declare)), false)?;
        let backend = hub.backend_for(&options.name, kind)?;
        backend.check_up()?;
        let until = backends::deadline(&hub.context.clock, timeout);
        crate::runtime::wait(backend.broker.declare(&options.name, kind, &options.spec(), until), timeout)
    }

    /// Removes a topic with its messages.
    pub fn delete(&self, selector: &TopicSelector, timeout: Timeout) -> Result<()> {
        let name = one(selector, "hmq_delete")?;
        self.0.administer(selector, timeout, |admin, until| admin.delete(name, until))?;
        self.0.forget(name);
        Ok(())
    }

    /// Removes the waiting messages of a topic; answers how many.
    pub fn purge(&self, selector: &TopicSelector, timeout: Timeout) -> Result<u64> {
        let name = one(selector, "hmq_purge")?;
        self.0.administer(selector, timeout, |admin, until| admin.purge(name, until))
    }

    /// Describes the topics that match a name or pattern.
    pub fn describe(&self, selector: &TopicSelector, timeout: Timeout) -> Result<Value> {
        let pattern = selector.as_pattern();
        let mut found = self.0.administer(selector, timeout, |admin, until| admin.describe(pattern, until))?;
        found.retain(|topic| selector.kind.is_none_or(|kind| kind.name() == topic.kind));
        match &selector.name {
            Some(name) if found.is_empty() => Err(Error::new(Kind::NotFound, format!("there is no topic `{name}`"))),
            _ => Ok(json!(found)),
        }
    }
}

/// The one topic that a call takes: removing by pattern is asking for accidents.
fn one<'a>(selector: &'a TopicSelector, what: &str) -> Result<&'a str> {
    let missing = || Error::new(Kind::Config, format!("{what} takes one topic: set `name`")).at("name", 0, 0);
    selector.name.as_deref().ok_or_else(missing)
}

impl Shared {
    fn administer<T>(
        &self,
        selector: &TopicSelector,
        timeout: Timeout,
        ask: impl FnOnce(&dyn Admin, Moment) -> Pending<T>,
    ) -> Result<T> {
        self.check_open()?;
        let asked = selector.kind.map(|kind| (kind, Use::Declare));
        let topic = selector.as_pattern();
        let kind = self.peek_kind(topic, asked)?;
        let backend = self.backend_for(topic, kind)?;
        let admin = backend.broker.admin().ok_or_else(|| {
            let text = format!("the {} backend has no administration", backend.kind.name());
            Error::new(Kind::Unsupported, text)
        })?;
        let until = backends::deadline(&self.context.clock, timeout);
        crate::runtime::wait(ask(admin, until), timeout)
    }

    /// A deleted name may come back as the other kind.
    fn forget(&self, topic: &str) {
        self.outlets.write().remove(topic);
        self.kinds.lock().remove(topic);
    }
}
