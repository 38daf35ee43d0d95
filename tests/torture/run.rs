//! One run: warm-up, load under faults, healing, rest, and the check.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::faults::Field;
use crate::history::{History, Partition, Traits, Usage};
use crate::host::{now_us, pass};
use crate::nemesis::{plan, Fault, Step, Target};
use crate::options::Options;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::report::Report;
use crate::setup::{data_dir, Mutant, Setup, Side, DISK_BYTES};
use crate::{host, logs, rules, servers};

const WARM_UP: Duration = Duration::from_secs(5);
/// After the last fault, before the publishers stop: time to show that publishing goes on.
const AFTERMATH: Duration = Duration::from_secs(5);
/// So long without a delivery is rest ...
const REST: Duration = Duration::from_secs(3);
/// ... which must come within this.
const REST_CAP: Duration = Duration::from_secs(120);
/// Connections that a fault left behind end within this.
const SETTLING: Duration = Duration::from_secs(15);

/// Carries out a run, and says what came of it.
pub fn run(options: &Options) -> Result<Report, String> {
    let run = format!("{:x}", now_us());
    let dir = Dir::new(&run);
    for side in options.pairing.sides() {
        servers::server(*side, &["start"])?;
    }
    let proxy = options.pairing.sides().contains(&Side::Rabbitmq).then(|| Proxy::to(servers::rabbitmq_port()));
    let setup = Setup {
        run,
        seed: options.seed,
        pairing: options.pairing,
        disk: options.disk,
        mutant: options.mutant,
        rabbitmq_port: proxy.as_ref().map_or(0, Proxy::port),
        kafka_port: servers::kafka_port(),
    };
    let steps = steps(options, &dir);
    setup.write(&dir.path);
    println!("torture: {}", replay_line(options));
    let host = Process::start(&dir.path, 1)?;
    pass(WARM_UP);
    let (run, before, slack) = (setup.run.clone(), host.usage(), options.slack);
    let mut history = History { run, before, slack, ..History::default() };
    history.kinds[0] = host.descriptors();
    let field = Field {
        dir: dir.path.clone(),
        proxy,
        host: Mutex::new(host),
        breaks: Mutex::default(),
        kills: Mutex::default(),
        failed: Mutex::default(),
        start: Instant::now(),
    };
    history.load.0 = now_us();
    load(&field, options, &steps);
    let mut host = field.host.into_inner().unwrap();
    history.load.1 = now_us();
    if let Some(why) = field.failed.into_inner().unwrap() {
        dir.keep();
        return Err(format!("{why}; the logs are in {}", dir.path.display()));
    }
    host.tell("stop");
    host.tell("calm");
    history.stuck = rest(&host, &setup, &mut history);
    history.after = settled(&host, history.before);
    history.kinds[1] = host.descriptors();
    history.spool_bytes_most = host.status().bytes_most;
    if let Err(why) = host.finish() {
        history.stuck = history.stuck.take().or(Some(why));
    }
    history.breaks = field.breaks.into_inner().unwrap();
    history.kills = field.kills.into_inner().unwrap().into_iter().collect();
    let traits = |topic: crate::setup::Topic| (topic.name, Traits { side: topic.side, ordered: topic.ordered });
    history.topics = setup.topics().into_iter().map(traits).collect();
    logs::read(&dir.path, &mut history);
    let broken = rules::check(&history);
    if broken.is_empty() || options.mutant.is_some() {
        servers::clean(&setup.run, setup.pairing.sides());
    }
    if options.keep || (!broken.is_empty() && options.mutant.is_none()) {
        dir.keep();
    }
    Ok(Report { history, broken, dir: dir.path.clone() })
}

/// How to do the same again.
pub fn replay_line(options: &Options) -> String {
    let spool = if options.disk { "disk" } else { "memory" };
    let mut line = format!(
        "--pairing {} --spool {spool} --minutes {} --seed {}",
        options.pairing.name(),
        options.minutes,
        options.seed
    );
    if !options.faults.is_empty() {
        line += &format!(" --faults {}", options.faults.join(","));
    }
    if let Some(mutant) = options.mutant {
        line += &format!(" --mutant {}", mutant.name());
    }
    line
}

/// A mutant is to be found by itself; but one that tells success too early is found by a kill of the host alone.
fn steps(options: &Options, dir: &Dir) -> Vec<Step> {
    let load = (options.minutes * 60_000.0) as u64;
    if let Some(mutant) = options.mutant {
        let kill = Step { target: Target::Host, fault: Fault::HostKill, at: load / 2, lasts: 0, variant: 0 };
        return if mutant == Mutant::EarlyAck { vec![kill] } else { Vec::new() };
    }
    let mut steps = plan(options.seed, load, options.pairing, options.disk, &options.faults);
    if options.disk && !dir.mount() {
        println!("torture: skipped: disk-full, as this user may not mount a tmpfs");
        steps.retain(|step| step.fault != Fault::DiskFull);
    }
    steps
}

fn load(field: &Field, options: &Options, steps: &[Step]) {
    let end = Duration::from_secs_f64(options.minutes * 60.0);
    let targets = options.pairing.sides().iter().map(|side| Target::Server(*side)).chain([Target::Host]);
    std::thread::scope(|scope| {
        for target in targets {
            scope.spawn(move || field.run(steps, target, end));
        }
    });
    pass(end.saturating_sub(field.start.elapsed()));
    pass(AFTERMATH);
}

/// Waits until nothing is delivered any more and nothing is left anywhere; answers why that did not come.
fn rest(host: &Process, setup: &Setup, history: &mut History) -> Option<String> {
    let deadline = Instant::now() + REST_CAP;
    let asked = now_us();
    loop {
        pass(Duration::from_millis(250));
        let status = host.status();
        let quiet = Duration::from_micros(now_us().saturating_sub(status.last_delivery.max(asked)));
        let fresh = status.heard.is_some_and(|heard| heard.elapsed() < Duration::from_secs(2));
        let late = Instant::now() > deadline;
        let rests = fresh && quiet > REST && status.records == 0 && status.under_way == 0;
        if !late && !rests {
            continue;
        }
        let asked = leftovers(setup, history);
        let left = history.left.iter().map(|(_, count)| count).sum::<u64>();
        let behind = history.partitions.iter().filter(|own| own.committed != Some(own.end) && own.end > 0).count();
        if asked.is_ok() && left == 0 && behind == 0 && status.records == 0 {
            return None;
        }
        if late {
            return Some(format!(
                "not at rest {} s after the load: {} delivered, {} in the spool, {} publishes under way, {left} in queues, \
                 {behind} partitions not read to their end{}",
                REST_CAP.as_secs(),
                status.delivered,
                status.records,
                status.under_way,
                asked.err().map_or_else(String::new, |why| format!("; {why}"))
            ));
        }
    }
}

/// What the servers' own tools tell.
fn leftovers(setup: &Setup, history: &mut History) -> Result<(), String> {
    let sides = setup.pairing.sides();
    if sides.contains(&Side::Rabbitmq) {
        history.left = servers::queues(&setup.run)?;
    }
    if sides.contains(&Side::Kafka) {
        let topics = setup.topics().into_iter().filter(|topic| topic.side == Side::Kafka);
        let named: Vec<(String, String)> = topics.map(|topic| (topic.name.clone(), host::group(&topic))).collect();
        let found: Vec<Partition> = servers::partitions(&named)?;
        if named.iter().any(|(topic, _)| !found.iter().any(|partition| partition.topic == *topic)) {
            return Err("Kafka does not tell where a group is".to_owned());
        }
        history.partitions = found;
    }
    Ok(())
}

/// What the host takes when what a fault left behind has ended.
fn settled(host: &Process, before: Usage) -> Usage {
    let deadline = Instant::now() + SETTLING;
    loop {
        let now = host.usage();
        if (now.descriptors <= before.descriptors && now.threads <= before.threads) || Instant::now() > deadline {
            return now;
        }
        pass(Duration::from_millis(250));
    }
}

/// The directory of a run; removed at its end, unless somebody has to look into it.
struct Dir {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
    mounted: std::cell::Cell<bool>,
}

impl Dir {
    fn new(run: &str) -> Self {
        let path = std::env::temp_dir().join(format!("helixmq-torture-{run}"));
        std::fs::create_dir_all(data_dir(&path)).unwrap();
        Self { path, kept: std::cell::Cell::new(false), mounted: std::cell::Cell::new(false) }
    }

    fn keep(&self) {
        self.kept.set(true);
    }

    /// A file system of its own for the hub's directory, small enough to be filled.
    fn mount(&self) -> bool {
        let size = format!("size={DISK_BYTES}");
        let done = run_quietly("mount", &["-t", "tmpfs", "-o", &size, "helixmq-torture"], &data_dir(&self.path));
        self.mounted.set(done);
        done
    }
}

fn run_quietly(command: &str, arguments: &[&str], path: &Path) -> bool {
    Command::new(command).args(arguments).arg(path).output().is_ok_and(|done| done.status.success())
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.mounted.get() {
            // Its files would keep memory; the logs, beside it, tell what there is to tell.
            run_quietly("umount", &[], &data_dir(&self.path));
        }
        if !self.kept.get() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
