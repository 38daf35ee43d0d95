//! The servers of a hub: made from the configuration, each with its machine and its spool, and connected to side by
//! side.

use std::sync::Arc;
use std::time::Duration;

use super::backends::{Backend, Relay};
use super::driver::Driver;
use super::spool::{Passing, Spool, Spooled};
use super::Shared;
use crate::broker::embedded::disk::Durable;
use crate::broker::{BackendSink, Broker, Context};
use crate::config::Connect;
use crate::error::Result;
use crate::sync::Deadline;

impl Shared {
    /// Makes the backends of the servers that are configured.
    pub(super) fn make_servers(self: &Arc<Self>, disk: Option<&Arc<Durable>>) -> Result<()> {
        #[cfg(feature = "rabbitmq")]
        if let Some(rabbitmq) = &self.config.rabbitmq {
            let backend = self.make_server(disk, |context| self.rabbitmq((**rabbitmq).clone(), context))?;
            self.roles.lock().tasks = Some(backend);
        }
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &self.config.kafka {
            let backend = self.make_server(disk, |context| self.kafka((**kafka).clone(), context))?;
            self.roles.lock().events = Some(backend);
        }
        for (server, count) in disk.map(|disk| disk.left_spooled()).into_iter().flatten() {
            let text =
                format!("{count} messages in failover.dir are for {server}, which is not configured; they stay there");
            self.log_warn("spool_without_server", &text);
        }
        Ok(())
    }

    #[cfg(any(feature = "rabbitmq", feature = "kafka"))]
    fn make_server(
        self: &Arc<Self>,
        disk: Option<&Arc<Durable>>,
        open: impl FnOnce(Context) -> Result<Arc<dyn Broker>>,
    ) -> Result<Arc<Backend>> {
        let relay = Arc::new(Relay::default());
        let driver = Driver::new(&self.context.clock, &self.config, self.context.id_prefix);
        let context = Context { sink: Arc::clone(&relay) as Arc<dyn BackendSink>, ..self.context.clone() };
        let passing = Arc::new(Passing::default());
        let broker = open(Context { sink: Arc::clone(&passing) as Arc<dyn BackendSink>, ..context.clone() })?;
        let spool = Spool::before(broker, &passing, &driver, context, self, disk);
        let broker = Arc::new(Spooled(Arc::clone(&spool))) as Arc<dyn Broker>;
        let backend = Backend::server(broker, self.context.id_prefix, self.config.message_bytes_max, driver);
        relay.connect(self, &backend);
        spool.adopt();
        Ok(backend)
    }

    /// What messages name as their source.
    #[cfg(any(feature = "rabbitmq", feature = "kafka"))]
    fn name(&self) -> String {
        self.config.name.clone().unwrap_or_else(|| "helixmq".into())
    }

    #[cfg(feature = "rabbitmq")]
    fn rabbitmq(&self, rabbitmq: crate::config::RabbitmqConfig, context: Context) -> Result<Arc<dyn Broker>> {
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
    fn kafka(&self, kafka: crate::config::KafkaConfig, context: Context) -> Result<Arc<dyn Broker>> {
        let pattern =
            |topic: &crate::config::TopicConfig| Ok((crate::pattern::Pattern::parse(&topic.pattern)?, topic.spec()));
        let routes = Arc::clone(&self.routes);
        let settings = crate::broker::kafka::Settings {
            patience: Arc::new(move |topic: &str| super::failover::policy::keeps(routes.on_outage(topic))),
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
            if let Some(driver) = backend.driver() {
                driver.start(self, backend)?;
            }
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
