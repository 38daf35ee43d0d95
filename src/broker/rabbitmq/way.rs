//! Messages on their way through the client library: being written, then waiting for a confirm.
//!
//! None of them is awaited by itself. What is written is written in order, so only the first of those
//! is asked whether it is; confirms come in any order, and all are looked at together.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::stream::FuturesUnordered;
use futures_util::StreamExt;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, PublisherConfirm};

use super::confirms::Serial;
use super::publish::To;
use super::wire::Outgoing;

/// Places kept for later, some 2 KiB each.
const FREE_MAX: usize = 256;

/// The channel that a message was published on: of which line, and which of those it has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct On {
    pub to: To,
    pub number: u32,
}

/// How the server answered a publish.
pub(super) struct Answer {
    pub on: On,
    pub serial: Serial,
    pub result: lapin::Result<Confirmation>,
}

/// A message and where it goes.
pub(super) struct Letter {
    pub channel: Arc<Channel>,
    pub exchange: ShortString,
    pub key: ShortString,
    pub outgoing: Box<Outgoing>,
    /// Comes back where no queue takes it ...
    pub mandatory: bool,
    /// ... and with it this.
    pub serial: Option<Serial>,
}

/// Hands a message to the client library at its first poll; ends when it is written to the socket.
async fn write(letter: Letter) -> lapin::Result<PublisherConfirm> {
    let Letter { channel, exchange, key, outgoing, mandatory, serial } = letter;
    let options = BasicPublishOptions { mandatory, immediate: false };
    let (body, properties) = outgoing.finished(serial);
    channel.basic_publish(exchange, key, options, &body, properties).await
}

/// A place for a [`write`] that is used again and again: it is larger than what allocators are quick with.
trait Place: Send {
    fn start(&mut self, letter: Letter);
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<PublisherConfirm>>;
}

struct Placed<M, F> {
    write: M,
    future: Pin<Box<Option<F>>>,
    /// It ended at its first poll.
    early: Option<lapin::Result<PublisherConfirm>>,
}

impl<M, F> Place for Placed<M, F>
where
    M: Fn(Letter) -> F + Send,
    F: Future<Output = lapin::Result<PublisherConfirm>> + Send,
{
    fn start(&mut self, letter: Letter) {
        self.future.set(Some((self.write)(letter)));
        if let Poll::Ready(early) = self.poll(&mut Context::from_waker(Waker::noop())) {
            self.early = Some(early);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<PublisherConfirm>> {
        if let Some(early) = self.early.take() {
            return Poll::Ready(early);
        }
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = future.poll(context);
        if polled.is_ready() {
            self.future.set(None);
        }
        polled
    }
}

fn place() -> Box<dyn Place> {
    Box::new(Placed { write, future: Box::pin(None), early: None })
}

/// A message that is written, and waits for its confirm.
struct Flying {
    on: On,
    serial: Serial,
    confirm: PublisherConfirm,
}

impl Future for Flying {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let (on, serial) = (self.on, self.serial);
        Pin::new(&mut self.confirm).poll(context).map(|result| Answer { on, serial, result })
    }
}

/// Whether somebody was woken during a poll.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A message that is not written yet.
struct Writing {
    on: On,
    serial: Serial,
    place: Box<dyn Place>,
}

/// All that are on their way.
pub(super) struct Way {
    /// First in, first out.
    writing: VecDeque<Writing>,
    free: Vec<Box<dyn Place>>,
    flying: FuturesUnordered<Flying>,
    woken: Arc<Flag>,
}

impl Way {
    pub fn new() -> Self {
        Self {
            writing: VecDeque::new(),
            free: Vec::new(),
            flying: FuturesUnordered::new(),
            woken: Arc::new(Flag(AtomicBool::new(false))),
        }
    }

    pub fn len(&self) -> usize {
        self.writing.len() + self.flying.len()
    }

    /// Sends a message; whatever is sent next is written behind it.
    pub fn send(&mut self, on: On, serial: Serial, letter: Letter) {
        let mut place = self.free.pop().unwrap_or_else(place);
        place.start(letter);
        self.writing.push_back(Writing { on, serial, place });
    }

    /// Takes every answer that is there into `answers`: one that was resolved before another that is
    /// taken is taken, too. If there is none, the next one wakes the task.
    pub fn drain(&mut self, context: &mut Context<'_>, answers: &mut Vec<Answer>) {
        let before = answers.len();
        loop {
            let taken = (self.flying.len(), answers.len());
            self.take_written(context, answers);
            if answers.len() == before {
                if let Poll::Ready(Some(answer)) = self.flying.poll_next_unpin(context) {
                    answers.push(answer);
                }
            }
            if answers.len() > before {
                self.take_confirms(answers);
            }
            // What was written meanwhile may have been confirmed before one that was taken.
            if taken == (self.flying.len(), answers.len()) {
                return;
            }
        }
    }

    fn take_written(&mut self, context: &mut Context<'_>, answers: &mut Vec<Answer>) {
        while let Some(first) = self.writing.front_mut() {
            let (on, serial) = (first.on, first.serial);
            match first.place.poll(context) {
                Poll::Ready(Ok(confirm)) => self.flying.push(Flying { on, serial, confirm }),
                Poll::Ready(Err(failed)) => answers.push(Answer { on, serial, result: Err(failed) }),
                Poll::Pending => return,
            }
            let place = self.writing.pop_front().map(|first| first.place);
            self.free.extend(place.filter(|_| self.free.len() < FREE_MAX));
        }
    }

    /// The set yields early at times, waking itself, and is then asked again.
    fn take_confirms(&mut self, answers: &mut Vec<Answer>) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut context = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::SeqCst);
            match self.flying.poll_next_unpin(&mut context) {
                Poll::Ready(Some(answer)) => answers.push(answer),
                Poll::Ready(None) => return,
                Poll::Pending if self.woken.0.load(Ordering::SeqCst) => {}
                Poll::Pending => return,
            }
        }
    }
}
