//! Keeps the connection of one server: connects, restores what was open, and does so again after
//! each loss, for as long as the hub is open. It holds no rule; how long to wait is
//! [`Backoff`]'s.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::backends::Backend;
use super::failover::backoff::Backoff;
use super::Shared;
use crate::config::Connect;
use crate::error::{Error, Kind, Result};
use crate::sync::{Bell, Deadline, Mutex};

/// A connection that is lost sooner counts as one more failed attempt: a server that comes and goes
/// is asked less and less often.
const STANDS: Duration = Duration::from_secs(10);

/// The program's end of a driver.
#[derive(Debug, Default)]
pub(super) struct Driver {
    /// The connection is lost, or the hub closes.
    woken: Notify,
    first: Mutex<Option<Result<()>>>,
    answered: Bell,
}

impl Driver {
    /// Makes it look again: at once, if it waits.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits for the first attempt that succeeds; answers why there was none in time.
    pub fn wait_connected(&self, deadline: Deadline) -> Result<()> {
        loop {
            let heard = self.answered.heard();
            let first = self.first.lock().clone();
            match first {
                Some(Ok(())) => return Ok(()),
                Some(Err(denied)) if denied.kind() == Kind::Refused => return Err(denied),
                failed if deadline.has_passed() => {
                    let none = || Error::new(Kind::Timeout, "the first attempt to connect has not ended yet");
                    return failed.unwrap_or_else(|| Err(none()));
                }
                _ => self.answered.wait(heard, deadline),
            }
        }
    }

    fn answer(&self, answer: &Result<()>) {
        let mut first = self.first.lock();
        if !matches!(&*first, Some(Ok(()))) {
            *first = Some(answer.clone());
        }
        drop(first);
        self.answered.ring();
    }
}

impl Shared {
    /// Makes the backends of the servers that are configured.
    pub(super) fn make_servers(self: &Arc<Self>) -> Result<()> {
        #[cfg(feature = "rabbitmq")]
        if let Some(rabbitmq) = &self.config.rabbitmq {
            let backend = self.make_server(|context| self.rabbitmq((**rabbitmq).clone(), context))?;
            self.roles.lock().tasks = Some(backend);
        }
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &self.config.kafka {
            let backend = self.make_server(|context| self.kafka((**kafka).clone(), context))?;
            self.roles.lock().events = Some(backend);
        }
        Ok(())
    }

    #[cfg(any(feature = "rabbitmq", feature = "kafka"))]
    fn make_server(
        self: &Arc<Self>,
        open: impl FnOnce(crate::broker::Context) -> Result<Arc<dyn crate::broker::Broker>>,
    ) -> Result<Arc<Backend>> {
        let relay = Arc::new(super::backends::Relay::default());
        let sink = Arc::clone(&relay) as Arc<dyn crate::broker::BackendSink>;
        let broker = open(crate::broker::Context { sink, ..self.context.clone() })?;
        let backend = Backend::new(broker, self.context.id_prefix, self.config.message_bytes_max);
        relay.connect(self, &backend);
        Ok(backend)
    }

    /// What messages name as their source.
    #[cfg(any(feature = "rabbitmq", feature = "kafka"))]
    fn name(&self) -> String {
        self.config.name.clone().unwrap_or_else(|| "helixmq".into())
    }

    #[cfg(feature = "rabbitmq")]
    fn rabbitmq(
        &self,
        rabbitmq: crate::config::RabbitmqConfig,
        context: crate::broker::Context,
    ) -> Result<Arc<dyn crate::broker::Broker>> {
        let settings = crate::broker::rabbitmq::Settings {
            rabbitmq,
            name: self.name(),
            confirm_timeout: self.config.failover.confirm_timeout,
            message_bytes_max: self.config.message_bytes_max,
            publish_window: self.config.publish_window,
            routes: self.config.routes.clone(),
        };
        Ok(crate::broker::rabbitmq::RabbitMq::open(settings, context)?)
    }

    #[cfg(feature = "kafka")]
    fn kafka(
        &self,
        kafka: crate::config::KafkaConfig,
        context: crate::broker::Context,
    ) -> Result<Arc<dyn crate::broker::Broker>> {
        let pattern =
            |topic: &crate::config::TopicConfig| Ok((crate::pattern::Pattern::parse(&topic.pattern)?, topic.spec()));
        let settings = crate::broker::kafka::Settings {
            token: kafka.token_provider.as_deref().map(super::process::token_provider).transpose()?,
            kafka,
            name: self.name(),
            group_id: self.config.group_id.clone(),
            connection_timeout: self.config.connection_timeout,
            confirm_timeout: self.config.failover.confirm_timeout,
            message_bytes_max: self.config.message_bytes_max,
            publish_window: self.config.publish_window,
            routes: self.config.routes.clone(),
            topics: self.config.topics.iter().map(pattern).collect::<Result<_>>()?,
        };
        Ok(crate::broker::kafka::Kafka::open(settings, context)?)
    }

    /// Connects to the servers that are configured, side by side; what is not there in time is
    /// connected to later.
    pub(super) fn connect_servers(self: &Arc<Self>, deadline: Deadline) -> Result<()> {
        let servers: Vec<_> = self.backends().into_iter().filter(|backend| backend.driver().is_some()).collect();
        for backend in &servers {
            start(self, backend)?;
        }
        for (backend, driver) in servers.iter().filter_map(|backend| Some((backend, backend.driver()?))) {
            if self.config.connect == Connect::Background {
                continue;
            }
            if let Err(failed) = driver.wait_connected(deadline) {
                if self.config.connect == Connect::Require {
                    self.close(Deadline::after(Some(Duration::ZERO))).ok();
                    return Err(failed);
                }
                let text = format!("{} is not connected yet, and is tried again: {failed}", backend.kind.name());
                self.log_warn("connect_failed", &text);
            }
        }
        Ok(())
    }
}

/// Starts the driver of `backend`, which has one.
fn start(hub: &Arc<Shared>, backend: &Arc<Backend>) -> Result<()> {
    let Some(driver) = backend.driver() else { return Ok(()) };
    let (hub, backend, driver) = (Arc::downgrade(hub), Arc::clone(backend), Arc::clone(driver));
    crate::runtime::handle()?.spawn(async move { drive(hub, backend, driver).await });
    Ok(())
}

async fn drive(hub: Weak<Shared>, backend: Arc<Backend>, driver: Arc<Driver>) {
    let mut backoff = Backoff::new(backend.id_prefix);
    loop {
        let Some((clock, timeout)) = hub
            .upgrade()
            .filter(|hub| !hub.is_closing())
            .map(|hub| (hub.context.clock.clone(), hub.config.connection_timeout))
        else {
            return;
        };
        let (_, attempt) = backend.attempt(&clock, timeout);
        let mut answer = limited(timeout, attempt).await;
        if answer.is_ok() {
            answer = limited(timeout, backend.broker.restore()).await;
        }
        let change = backend.concluded(&clock, &answer);
        if let Some(hub) = hub.upgrade() {
            hub.tell(change);
        }
        driver.answer(&answer);
        let denied = match answer {
            Ok(()) => {
                let since = clock.now();
                driver.woken.notified().await;
                if hub.upgrade().is_none_or(|hub| hub.is_closing()) {
                    continue;
                }
                if clock.now().since(since) >= STANDS {
                    backoff.reset();
                }
                false
            }
            Err(failed) => failed.kind() == Kind::Refused,
        };
        // A loss or a close that comes meanwhile ends the wait.
        let _ = tokio::time::timeout(backoff.next(denied), driver.woken.notified()).await;
    }
}

async fn limited(timeout: Duration, pending: crate::runtime::Pending<()>) -> Result<()> {
    let text = "the server did not answer in time";
    tokio::time::timeout(timeout, pending).await.unwrap_or_else(|_| Err(Error::new(Kind::BackendDown, text)))
}
