//! What a hub tells of itself: health, metrics, and changes of state as they happen.

use std::sync::{Arc, Weak};

use serde_json::{json, Value};

use super::backends::StateChange;
use super::failover::backend::{Command, Input};
use super::inbox::Event;
use super::process::{LogLevel, TextHandler};
use super::{Hub, Shared};
use crate::broker::Description;
use crate::error::{Error, Kind, Result};
use crate::limits::STATE_CHANGES_KEPT;
use crate::metrics::Gauge;
use crate::sync::Deadline;

/// Which text [`Hub::metrics`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// One JSON object.
    Json,
    /// The text format of Prometheus.
    Prometheus,
}

impl Hub {
    /// The state of everything as JSON. `live`: the library works; `ready`: every backend takes
    /// messages; `degraded`: some do not.
    pub fn health(&self) -> Value {
        let hub = &self.0;
        let backends = hub.backends();
        let up = backends.iter().filter(|backend| backend.state().takes()).count();
        let open = !hub.is_closing() && hub.config.enabled;
        let mut warnings = hub.config.warnings.clone();
        warnings.extend(hub.notices.warnings.lock().iter().cloned());
        let changes: Vec<Value> = hub.notices.kept.lock().iter().map(StateChange::to_json).collect();
        json!({
            "name": hub.config.name, "enabled": hub.config.enabled, "closed": hub.is_closing(),
            "live": !hub.is_closing(), "ready": open && up == backends.len(), "degraded": open && up < backends.len(),
            "backends": backends.iter().map(|backend| backend.to_json()).collect::<Vec<_>>(),
            "subscriptions": hub.subscriptions.lock().len(), "inflight": hub.inflight.len(),
            "topics": hub.descriptions(), "warnings": warnings, "state_changes": changes,
        })
    }

    /// All counters and gauges.
    pub fn metrics(&self, format: MetricsFormat) -> String {
        let gauges = self.0.gauges();
        match format {
            MetricsFormat::Json => self.0.metrics.to_json(&gauges).to_string(),
            MetricsFormat::Prometheus => self.0.metrics.to_prometheus(&gauges),
        }
    }

    /// Sets the callback for changes of state, or removes it.
    pub fn on_state(&self, callback: Option<Box<dyn TextHandler>>) -> Result<()> {
        self.0.check_open()?;
        let old = std::mem::replace(&mut *self.0.notices.callback.lock(), callback.map(Arc::from));
        drop(old);
        Ok(())
    }

    /// A drill: treats a backend as down, or lets its own state count again.
    pub fn backend_force(&self, name: &str, down: bool) -> Result<()> {
        self.0.check_open()?;
        let backends = self.0.backends();
        let named = backends.iter().find(|backend| backend.kind.name() == name);
        let backend = named.ok_or_else(|| {
            let all: Vec<&str> = backends.iter().map(|backend| backend.kind.name()).collect();
            Error::new(Kind::NotFound, format!("no backend `{name}`; this hub has {}", all.join(", ")))
        })?;
        let change = backend.force(&self.0.context.clock, down);
        self.0.tell(change);
        Ok(())
    }

    /// Pauses or resumes forwarding of what is kept for servers that were away.
    pub fn forwarding(&self, run: bool) -> Result<()> {
        self.0.check_open()?;
        let order = if run { Command::Resume } else { Command::Pause };
        for backend in self.0.backends() {
            backend.driver().iter().for_each(|driver| driver.input(Input::Command(order)));
        }
        Ok(())
    }

    /// Waits until nothing is kept any more.
    pub fn wait_forwarded(&self, timeout: super::Timeout) -> Result<()> {
        self.0.check_open()?;
        let deadline = Deadline::after(timeout);
        for spool in self.0.backends().iter().filter_map(|backend| backend.driver()?.spool()) {
            if !spool.wait_empty(deadline, || self.0.is_closing()) {
                self.0.check_open()?;
                let (records, bytes) = spool.held();
                let text = format!("{records} messages ({bytes} bytes) are still kept for their server");
                return Err(Error::new(Kind::Timeout, text));
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Keeps a change of state and tells whoever asked.
    pub(super) fn tell(self: &Arc<Self>, change: Option<StateChange>) {
        let Some(change) = change else { return };
        let json = change.to_json().to_string();
        {
            let mut kept = self.notices.kept.lock();
            if kept.len() == STATE_CHANGES_KEPT {
                kept.pop_front();
            }
            kept.push_back(change);
        }
        self.log(LogLevel::Info, "state", &json);
        let line: Arc<str> = Arc::from(json);
        let inboxes: Vec<_> = self.inboxes.lock().iter().filter_map(Weak::upgrade).collect();
        for inbox in inboxes.iter().filter(|inbox| inbox.wants.state) {
            inbox.push_notice(Event::State { json: Arc::clone(&line) });
        }
        let callback = self.notices.callback.lock().clone();
        if let Some(callback) = callback {
            if self.completions.reserve().is_ok() {
                self.completions.push(self.id, Box::new(move || callback.text(LogLevel::Info, &line)));
            }
        }
    }

    fn descriptions(&self) -> Vec<Description> {
        let mut all = Vec::new();
        // Health waits for no server, and asks it nothing each time it is looked at; `hmq_describe` does.
        for backend in self.backends().iter().filter(|backend| !backend.kind.is_server()) {
            let Some(admin) = backend.broker.admin() else { continue };
            let now = self.context.clock.now();
            let described = crate::runtime::wait(admin.describe("#", now), Some(std::time::Duration::from_secs(1)));
            all.extend(described.unwrap_or_default());
        }
        all
    }

    fn gauges(&self) -> Vec<Gauge> {
        let gauge = |name, label: &str, value| Gauge { name, label_value: label.to_owned(), value };
        let mut out = Vec::new();
        for backend in self.backends() {
            out.push(gauge("backend_state", backend.kind.name(), u64::from(backend.state().takes())));
        }
        for backend in self.backends() {
            let Some(spool) = backend.driver().and_then(|driver| driver.spool()) else { continue };
            let (records, bytes) = spool.held();
            out.push(gauge("spool_records", backend.kind.name(), records));
            out.push(gauge("spool_bytes", backend.kind.name(), bytes as u64));
            out.push(gauge("spool_pressure", backend.kind.name(), u64::from(spool.is_pressed())));
        }
        for topic in self.descriptions() {
            out.push(gauge("topic_messages", &topic.name, topic.messages));
            out.push(gauge("topic_unsettled", &topic.name, topic.unsettled));
            out.push(gauge("topic_delayed", &topic.name, topic.delayed));
            out.push(gauge("topic_bytes", &topic.name, topic.bytes));
            out.push(gauge("topic_expired", &topic.name, topic.expired));
            out.push(gauge("topic_dropped", &topic.name, topic.dropped));
        }
        let name = self.config.name.as_deref().unwrap_or("helixmq");
        out.push(gauge("subscriptions", name, self.subscriptions.lock().len() as u64));
        out.push(gauge("inflight", name, self.inflight.len() as u64));
        self.memories.gauges(&mut out);
        out
    }
}
