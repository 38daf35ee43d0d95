//! The connection to the cluster, as the hub counts it: the producer's client keeps it, and its word is what
//! counts. And logins, as far as the program has a part in them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::error::{self, closed, error as failure};
use super::publish::Producer;
use super::raw::{self, Client, Role};
use super::{login, Shared};
use crate::broker::{BackendEvent, Epoch};
use crate::error::{Error, Kind, Result};
use crate::sync::Deadline;

/// So many attempts to connect in vain, one after the other, are made by one client.
const CONNECTS_PER_CLIENT: u32 = 4;

impl Shared {
    /// The producer to connect with; a new one, if the one before can do nothing any more.
    fn usable_producer(self: &Arc<Self>) -> Result<Arc<Producer>> {
        let mut producer = self.producer.lock();
        if let Some(usable) = producer.as_ref().filter(|own| own.failed.lock().is_none()) {
            return Ok(Arc::clone(usable));
        }
        let new = Producer::start(self)?;
        if let Some(before) = producer.replace(Arc::clone(&new)) {
            before.stop(Deadline::after(Some(Duration::ZERO)));
        }
        Ok(new)
    }

    pub(super) async fn connect(self: Arc<Self>, epoch: Epoch, timeout: Duration) -> Result<()> {
        if self.is_closed() {
            return Err(closed());
        }
        let producer = self.usable_producer()?;
        let (failed, distrusted) = (producer.has_failed.notified(), producer.distrusted.notified());
        let asking = Arc::clone(&producer);
        // Any answer of any broker will do.
        let asked = crate::runtime::handle()?.spawn_blocking(move || {
            let answer = asking.client.topics(None, timeout);
            answer.map(|_| asking.downs.load(Ordering::Acquire))
        });
        let answer = tokio::select! {
            answer = asked => answer.map_err(|_| failure(Kind::Panic, "an attempt to connect panicked"))?,
            () = failed => Ok(0),
            () = distrusted => Err(raw::Failure::all_down()),
        };
        if let Some(error) = producer.failed.lock().clone() {
            return Err(error);
        }
        let answer = answer.map_err(|late| producer.cause().unwrap_or(late));
        let downs = match answer {
            Ok(downs) => downs,
            Err(why) => {
                self.connect_failed(&producer);
                return Err(error::of("no broker can be reached", &why));
            }
        };
        self.failed_connects.store(0, Ordering::Release);
        if self.is_closed() {
            return Err(closed());
        }
        producer.forget_cause();
        *self.link.lock() = Some(epoch);
        // Said before there was a link to lose, it would be nobody's.
        if producer.downs.load(Ordering::Acquire) != downs && self.link.lock().take_if(|own| *own == epoch).is_some() {
            return Err(failure(Kind::BackendDown, "the connection was lost at once"));
        }
        if let Some(error) = producer.failed.lock().clone() {
            self.link.lock().take_if(|own| *own == epoch);
            return Err(error);
        }
        Ok(())
    }

    /// A client that has found no broker for a while is replaced: a new one begins without the waits, and whatever
    /// else, that the old one has.
    fn connect_failed(&self, producer: &Arc<Producer>) {
        if self.failed_connects.fetch_add(1, Ordering::AcqRel) + 1 < CONNECTS_PER_CLIENT {
            return;
        }
        self.failed_connects.store(0, Ordering::Release);
        self.replace(producer);
    }

    /// The next attempt to connect makes another client.
    fn replace(&self, who: &Producer) {
        who.stop(Deadline::after(Some(Duration::ZERO)));
        drop(self.producer.lock().take_if(|own| std::ptr::eq(&**own, who)));
        let destinations: Vec<_> = self.destinations.lock().values().cloned().collect();
        destinations.iter().for_each(|destination| destination.forget_client(self));
    }

    /// The cluster looks alive, and is given up. The records that its client has are given up with it, all of them.
    pub(super) fn disconnect(&self, epoch: Epoch) {
        if self.link.lock().take_if(|own| *own == epoch).is_none() {
            return;
        }
        let producer = self.producer.lock().clone();
        if let Some(producer) = producer {
            self.replace(&producer);
        }
    }

    /// The cluster is gone, as the producer says.
    pub(super) fn lost(&self, who: &Producer, cause: Error) {
        let is_present = self.producer.lock().as_ref().is_some_and(|own| std::ptr::eq(&**own, who));
        if is_present && self.link.lock().take().is_some() {
            self.context.sink.event(BackendEvent::Lost(cause));
            if let Some(own) = self.own.upgrade() {
                own.tend_kept();
            }
        }
    }

    /// The producer can do nothing any more: it is replaced by the next attempt to connect.
    pub(super) fn give_up(&self, who: &Producer, cause: Error) {
        if cause.kind() == Kind::Refused {
            let is_present = self.producer.lock().as_ref().is_some_and(|own| std::ptr::eq(&**own, who));
            if is_present && self.link.lock().take().is_some() {
                self.context.sink.event(BackendEvent::Denied(cause.clone()));
                self.context.sink.event(BackendEvent::Lost(cause));
            }
        } else {
            self.lost(who, cause);
        }
        // Asked again and again, a server may lock a user out: nobody keeps that client.
        self.replace(who);
    }

    /// Asks the program for a token, on a thread of its own: it may take its time. `without` is set if there is
    /// none.
    pub(super) fn supply_token(&self, client: &Arc<Client>, without: &Arc<AtomicBool>) {
        let Some(provider) = self.settings.token.clone() else { return };
        let (client, without, own) = (Arc::clone(client), Arc::clone(without), self.own.clone());
        let ask = move || {
            let failed = match provider.token() {
                // What librdkafka says of it may hold the token.
                Ok((token, expires_at_ms)) => {
                    client.set_token(&token, expires_at_ms).err().map(|_| "the token is not usable".to_owned())
                }
                Err(error) => Some(error.message().to_owned()),
            };
            if let Some(why) = failed {
                without.store(true, Ordering::Release);
                client.set_token_failure(&why);
                if let Some(own) = own.upgrade() {
                    own.warn(format!("no token to log in with: {why}"));
                }
            }
        };
        if crate::runtime::spawn_thread("hmq-token", ask).is_err() {
            tracing::warn!("no thread to ask for a token");
        }
    }

    /// A client that reads, with a token where logins need one.
    pub(super) fn reading_client(
        &self,
        options: &login::Options,
        without_token: &Arc<AtomicBool>,
    ) -> std::result::Result<Arc<Client>, raw::Failure> {
        let client = Client::new(Role::Consumer, options)?;
        self.supply_token(&client, without_token);
        Ok(client)
    }
}
