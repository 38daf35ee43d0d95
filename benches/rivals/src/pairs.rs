//! The protocol of a comparison: ours and the peer take turns in one process, the order alternates,
//! and the result is the median of the ratios of neighbours. A busy machine moves both sides of a
//! pair alike, so the ratio stays where the absolute figures do not.

use std::time::{Duration, Instant};

/// How long and how often.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Pairs that count; one more goes before them as a warm-up.
    pub pairs: usize,
    /// Length of one side of a pair.
    pub time: Duration,
}

/// What one run of one side came to.
#[derive(Clone, Copy)]
pub struct Sample {
    /// What the ratio is taken of.
    pub value: f64,
    /// Processor time of the whole process per message, microseconds.
    pub cpu_us: f64,
    /// Context switches of the whole process per 1,000 messages.
    pub switches: f64,
}

/// The outcome of all pairs.
pub struct Comparison {
    pub ours: Sample,
    pub peer: Sample,
    /// `ours / peer` of each pair: median and quartiles.
    pub ratio: Quartiles,
    /// The same of the processor time per message.
    pub cpu_ratio: Quartiles,
}

/// Median and the quartiles around it.
#[derive(Clone, Copy)]
pub struct Quartiles {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Quartiles {
    /// The same, of the inverse values.
    pub fn inverse(self) -> Self {
        Self { low: 1.0 / self.high, median: 1.0 / self.median, high: 1.0 / self.low }
    }
}

/// Runs the pairs.
pub fn compare(
    plan: Plan,
    mut ours: impl FnMut(Duration) -> Sample,
    mut peer: impl FnMut(Duration) -> Sample,
) -> Comparison {
    ours(plan.time / 2);
    peer(plan.time / 2);
    let mut pairs = Vec::with_capacity(plan.pairs);
    for index in 0..plan.pairs {
        pairs.push(if index % 2 == 0 {
            let first = ours(plan.time);
            (first, peer(plan.time))
        } else {
            let first = peer(plan.time);
            (ours(plan.time), first)
        });
    }
    let median = |side: fn(&(Sample, Sample)) -> Sample| Sample {
        value: quartiles(pairs.iter().map(|pair| side(pair).value)).median,
        cpu_us: quartiles(pairs.iter().map(|pair| side(pair).cpu_us)).median,
        switches: quartiles(pairs.iter().map(|pair| side(pair).switches)).median,
    };
    Comparison {
        ours: median(|pair| pair.0),
        peer: median(|pair| pair.1),
        ratio: quartiles(pairs.iter().map(|(ours, peer)| ours.value / peer.value)),
        cpu_ratio: quartiles(pairs.iter().map(|(ours, peer)| ours.cpu_us / peer.cpu_us)),
    }
}

/// Quartiles of at least one value.
pub fn quartiles(values: impl Iterator<Item = f64>) -> Quartiles {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    Quartiles { low: at(0.25), median: at(0.5), high: at(0.75) }
}

/// Measures what the process spends from now on.
pub struct Meter {
    started: Instant,
    usage: Usage,
    whose: libc::c_int,
}

#[derive(Clone, Copy)]
struct Usage {
    cpu_us: f64,
    switches: f64,
}

impl Meter {
    pub fn start() -> Self {
        Self::of(libc::RUSAGE_SELF)
    }

    /// Measures children instead, which are started and waited for from now on.
    pub fn of_children() -> Self {
        Self::of(libc::RUSAGE_CHILDREN)
    }

    fn of(whose: libc::c_int) -> Self {
        Self { usage: usage(whose), started: Instant::now(), whose }
    }

    /// Messages per second since the start, and what they cost.
    pub fn rate(self, messages: u64) -> Sample {
        let seconds = self.started.elapsed().as_secs_f64();
        self.sample(messages, messages as f64 / seconds)
    }

    /// A sample of another value than the rate.
    pub fn sample(self, messages: u64, value: f64) -> Sample {
        let (now, count) = (usage(self.whose), messages as f64);
        Sample {
            value,
            cpu_us: (now.cpu_us - self.usage.cpu_us) / count,
            switches: (now.switches - self.usage.switches) / count * 1_000.0,
        }
    }
}

fn usage(whose: libc::c_int) -> Usage {
    // SAFETY: zero is a value of the struct, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(whose, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    Usage {
        cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime),
        switches: (usage.ru_nvcsw + usage.ru_nivcsw) as f64,
    }
}
