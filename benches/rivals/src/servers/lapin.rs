//! lapin as a peer, on tokio's default runtime as in its documentation. Once as most programs use
//! it, and once with futures that are polled once and awaited when the window is full, which is the
//! fastest way that it has.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use ::lapin::types::FieldTable;
use ::lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Result};
use futures_lite::StreamExt;
use helixmq_rivals::pairs::{Meter, Sample};
use tokio::runtime::{Builder, Runtime};

use super::load::{median, Consumes, Load, Publishes, RoundTrips, Server, FRAME_MAX, HOST, PREFETCH, VHOST};

/// A connection with one channel in confirm mode.
pub struct Client {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
}

impl Client {
    /// On the runtime that `#[tokio::main]` makes.
    pub fn open(server: Server) -> Self {
        Self::on(Runtime::new().expect("a runtime"), server)
    }

    /// On a runtime of the calling thread alone.
    pub fn open_on_one_thread(server: Server) -> Self {
        Self::on(Builder::new_current_thread().enable_all().build().expect("a runtime"), server)
    }

    fn on(runtime: Runtime, server: Server) -> Self {
        let uri = format!("amqp://guest:guest@{HOST}:{}/{VHOST}?frame_max={FRAME_MAX}", server.port);
        let (connection, channel) = runtime
            .block_on(async {
                let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Result::Ok((connection, channel))
            })
            .expect("lapin connects");
        Self { runtime, connection, channel }
    }
}

/// `basic_publish().await`, and confirms awaited in a window: the usual code.
pub struct Usual<'a>(pub &'a Client);

/// Each future polled once, then awaited when the window is full.
pub struct PolledOnce<'a>(pub &'a Client);

fn properties() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// One message; the answer is its confirm, still to be awaited.
async fn publish(
    channel: &Channel,
    load: &Load,
    body: &[u8],
) -> Result<impl Future<Output = Result<Confirmation>> + use<>> {
    let options = BasicPublishOptions { mandatory: load.mandatory(), immediate: false };
    channel.basic_publish(load.exchange().into(), load.topic.into(), options, body, properties()).await
}

fn confirmed(answer: Result<Confirmation>) {
    let answer = answer.expect("lapin: publishing failed");
    assert!(answer.is_ack() && answer.take_message().is_none(), "lapin: not confirmed");
}

impl Publishes for Usual<'_> {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let (channel, body) = (&self.0.channel, load.body());
        let meter = Meter::start();
        let count = self.0.runtime.block_on(async {
            let (mut open, mut count) = (VecDeque::with_capacity(load.window), 0);
            let end = Instant::now() + time;
            while Instant::now() < end {
                for _ in 0..STRIDE {
                    if open.len() == load.window {
                        if let Some(oldest) = open.pop_front() {
                            confirmed(oldest.await);
                        }
                    }
                    open.push_back(publish(channel, load, &body).await.expect("lapin: publishing failed"));
                    count += 1;
                }
            }
            for rest in open {
                confirmed(rest.await);
            }
            count
        });
        meter.rate(count)
    }
}

/// Messages between two looks at the clock.
const STRIDE: usize = 64;

impl Publishes for PolledOnce<'_> {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let (channel, body) = (&self.0.channel, load.body());
        let meter = Meter::start();
        let count = self.0.runtime.block_on(async {
            let mut open: VecDeque<Pin<Box<dyn Future<Output = Result<Confirmation>> + '_>>> =
                VecDeque::with_capacity(load.window);
            let mut count = 0;
            let end = Instant::now() + time;
            while Instant::now() < end {
                for _ in 0..STRIDE {
                    if open.len() == load.window {
                        if let Some(oldest) = open.pop_front() {
                            confirmed(oldest.await);
                        }
                    }
                    let mut next: Pin<Box<dyn Future<Output = _>>> =
                        Box::pin(async { publish(channel, load, &body).await?.await });
                    count += 1;
                    // Nobody is woken for it: it is asked again when it is the oldest.
                    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(answer) => confirmed(answer),
                        Poll::Pending => open.push_back(next),
                    }
                }
            }
            for rest in open {
                confirmed(rest.await);
            }
            count
        });
        meter.rate(count)
    }
}

impl RoundTrips for Usual<'_> {
    fn round_trips(&mut self, load: &Load, time: Duration) -> Sample {
        let (channel, body) = (&self.0.channel, load.body());
        let mut micros = Vec::new();
        let meter = Meter::start();
        self.0.runtime.block_on(async {
            let mut started = Instant::now();
            let end = started + time;
            while started < end {
                confirmed(publish(channel, load, &body).await.expect("lapin: publishing failed").await);
                let done = Instant::now();
                micros.push((done - started).as_secs_f64() * 1e6);
                started = done;
            }
        });
        meter.sample(micros.len() as u64, median(&micros))
    }
}

/// `Delivery::ack` of each.
pub struct DeliveryAck<'a>(pub &'a Client);

/// `Channel::basic_ack` of each.
pub struct ChannelAck<'a>(pub &'a Client);

impl Consumes for DeliveryAck<'_> {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        self.0.consume(topic, count, false)
    }
}

impl Consumes for ChannelAck<'_> {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        self.0.consume(topic, count, true)
    }
}

impl Client {
    fn consume(&self, topic: &str, count: usize, by_channel: bool) -> Sample {
        self.runtime
            .block_on(async {
                // A channel for each round: closing it ends the consumer.
                let channel = self.connection.create_channel().await?;
                channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
                let (none, options) = (FieldTable::default(), BasicConsumeOptions::default());
                let mut consumer = channel.basic_consume(topic.into(), "bench".into(), options, none).await?;
                let mut meter = None;
                for _ in 0..count {
                    let delivery = consumer.next().await.expect("the consumer goes on")?;
                    meter.get_or_insert_with(Meter::start);
                    if by_channel {
                        channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
                    } else {
                        delivery.ack(BasicAckOptions::default()).await?;
                    }
                }
                let sample = meter.expect("a message").rate(count as u64);
                channel.close(200, "done".into()).await?;
                Result::Ok(sample)
            })
            .expect("lapin: consuming failed")
    }
}
