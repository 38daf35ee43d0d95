//! Hubs with a defect: a layer between the producers and the hub that breaks one promise. A checker that does not find
//! them is worth nothing.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use helixmq::hub::Publisher;

use super::producer::{hand_over, later, Sent};
use super::{now_us, Host};
use crate::history::{Ending, Level, Outcome};
use crate::logs::Log;
use crate::setup::Mutant;

/// One message in so many is harmed. A run of seconds has some thousand.
const ONE_IN: u64 = 300;
/// How long the hub does not have what was confirmed already.
const EARLY: Duration = Duration::from_millis(500);

/// What was confirmed, and when the hub will have it.
type Early = (Instant, Publisher, Sent);

/// The layer of one producer.
pub struct Layer {
    mutant: Option<Mutant>,
    host: Arc<Host>,
    log: Arc<Log>,
    count: u64,
    /// Waits until the next one of its topic and key has gone.
    held: Option<(Publisher, Sent)>,
    early: Option<(Sender<Early>, JoinHandle<()>)>,
}

impl Layer {
    pub fn new(host: &Arc<Host>, log: &Arc<Log>) -> Self {
        let mutant = host.setup.mutant;
        let early = (mutant == Some(Mutant::EarlyAck)).then(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            (sender, std::thread::spawn(move || send_late(&receiver)))
        });
        Self { mutant, host: Arc::clone(host), log: Arc::clone(log), count: 0, held: None, early }
    }

    pub fn send(&mut self, publisher: &Publisher, sent: Sent) {
        self.count += 1;
        let chosen = self.count.is_multiple_of(ONE_IN);
        match self.mutant {
            Some(Mutant::EarlyAck) => self.confirm_early(publisher, sent),
            Some(Mutant::Drop) if chosen => {
                self.log.intent(&sent.name, &sent.id);
                self.log.outcome(&sent.name, &confirmed(&sent));
            }
            Some(Mutant::Double) if chosen => {
                let _ = publisher.send_async(&sent.record(), Box::new(drop));
                later(&self.host, &self.log, publisher, sent);
            }
            Some(Mutant::Swap) if chosen && self.held.is_none() => {
                self.log.intent(&sent.name, &sent.id);
                self.held = Some((publisher.clone(), sent));
            }
            Some(Mutant::Swap) => {
                let partner = self.held.take_if(|(_, held)| lane(held) == lane(&sent));
                later(&self.host, &self.log, publisher, sent);
                self.release(partner);
            }
            _ => later(&self.host, &self.log, publisher, sent),
        }
    }

    fn confirm_early(&self, publisher: &Publisher, sent: Sent) {
        self.log.intent(&sent.name, &sent.id);
        self.log.outcome(&sent.name, &confirmed(&sent));
        if let Some((sender, _)) = &self.early {
            let _ = sender.send((Instant::now() + EARLY, publisher.clone(), sent));
        }
    }

    fn release(&self, held: Option<(Publisher, Sent)>) {
        if let Some((publisher, sent)) = held {
            hand_over(&self.host, &self.log, &publisher, sent);
        }
    }

    /// What is held goes out before the hub is closed.
    pub fn end(mut self) {
        let held = self.held.take();
        self.release(held);
        if let Some((sender, thread)) = self.early.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn send_late(receiver: &Receiver<Early>) {
    while let Ok((due, publisher, sent)) = receiver.recv() {
        super::pass(due.saturating_duration_since(Instant::now()));
        let _ = publisher.send_async(&sent.record(), Box::new(drop));
    }
}

fn lane(sent: &Sent) -> (&str, &str) {
    (&sent.name.topic, &sent.name.key)
}

/// As a server would have it.
fn confirmed(sent: &Sent) -> Outcome {
    let level = Level::Broker;
    Outcome { at: now_us(), ending: Ending::Confirmed, level, spooled: false, id: sent.id.clone(), kind: String::new() }
}
