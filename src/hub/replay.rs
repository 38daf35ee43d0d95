//! Replay: events of the past, read again by pattern and time.
//!
//! A replay reads beside the groups: their offsets stay where they are, nothing is settled. It ends
//! behind the last event that was there when it began (or never, with `follow`).

use super::inbox::Inbox;
use super::route::Use;
use super::subscribe::{Handler, Making, Subscription, Target};
use super::{Hub, Timeout};
use crate::broker::{Group, Ordered, Start, Stop, SubscribeSpec};
use crate::config::options::ReplayOptions;
use crate::error::{Error, Kind, Result};
use crate::message::TopicKind;

impl Hub {
    /// Replays to a callback; its verdicts are ignored. [`Subscription::wait`] tells the end.
    pub fn replay(&self, options: ReplayOptions, handler: Box<dyn Handler>, timeout: Timeout) -> Result<Subscription> {
        self.open_subscription(self.replay_making(options)?, Target::Callback(handler), timeout)
    }

    /// Replays into an inbox; the last event is the end.
    pub fn replay_inbox(
        &self,
        options: ReplayOptions,
        inbox: &Inbox,
        tag: u64,
        timeout: Timeout,
    ) -> Result<Subscription> {
        self.open_subscription(self.replay_making(options)?, Target::Inbox(inbox, tag), timeout)
    }

    fn replay_making(&self, options: ReplayOptions) -> Result<Making> {
        self.0.check_open()?;
        crate::config::check_pattern("topic", &options.topic)?;
        if options.rate_per_second.is_some() {
            return Err(Error::new(Kind::Unsupported, "`rate_per_second`: replay at a limited rate is not built yet"));
        }
        if let (Some(from), Some(to)) = (options.from, options.to) {
            if from > to {
                return Err(Error::new(Kind::Config, "`from` is later than `to`").at("from", 0, 0));
            }
        }
        self.0.peek_kind(&options.topic, Some((TopicKind::Event, Use::Subscribe)))?;
        let stop = match (options.to, options.follow) {
            (_, true) => Stop::Never,
            (Some(to), false) => Stop::Time(to),
            (None, false) => Stop::Now,
        };
        Ok(Making {
            spec: SubscribeSpec {
                pattern: options.topic.clone(),
                kind: TopicKind::Event,
                group: Group::Private,
                start: options.from.map_or(Start::Earliest, Start::Time),
                stop,
                prefetch: self.0.config.prefetch,
                ordered: Ordered::No,
                lease: None,
                read_only: true,
            },
            topic: options.topic,
            filter: options.filter,
            retry: self.0.config.retry.clone(),
            dead_letter: None,
            manual_credit: false,
            concurrency: 1,
            dry_run: options.dry_run,
            dedup: false,
        })
    }
}
