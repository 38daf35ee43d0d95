//! What the program is asked to do, by its command line.

use std::path::PathBuf;

use crate::setup::{Mutant, Pairing};

pub const HELP: &str = "\
The torture checker: a hub under faults of its servers, its network and its own process, and what came of every message.

    cargo test --test torture                                    the checker's own test, on made-up histories
    cargo test --test torture -- --pairing rabbitmq --minutes 1  one run
    cargo test --test torture -- --mutant all                    hubs with a defect, which must be found

    --pairing rabbitmq|kafka|both  which servers the hub has (default: rabbitmq)
    --spool memory|disk            disk: the hub has a directory, and the host may be killed (default: memory)
    --minutes N                    how long messages are published while faults happen; may be a fraction (default: 1)
    --seed N                       chooses faults, their order and times; printed by every run (default: by the clock)
    --faults LIST                  only these, of: kill,stop,pause,reset,blackhole,alarm,reopen,host-kill,disk-full
    --mutant NAME                  early-ack, drop, swap or double: a layer before the hub that breaks a promise; all: each in turn
    --slack N                      times the limits of C8 and C9, for debug builds on a busy machine (default: 1)
    --report FILE                  adds the line of the results table to this file
    --keep                         keeps the logs of a run that passes, too

kill, stop, pause: of RabbitMQ and Kafka.  reset, blackhole, alarm: of RabbitMQ alone; a Kafka broker tells its clients
where it really is, so a proxy would carry the first connection only.  reopen: the hub is closed and opened again.
host-kill, disk-full: with --spool disk; disk-full needs the right to mount a tmpfs, and is left out without it.

The servers are those of tools/rabbitmq.sh and tools/kafka.sh. Ends with 0 when all rules hold, 1 when one is broken.
";

/// One run.
#[derive(Debug, Clone)]
pub struct Options {
    pub pairing: Pairing,
    pub disk: bool,
    pub minutes: f64,
    pub seed: u64,
    /// Empty: all that fit.
    pub faults: Vec<String>,
    pub mutant: Option<Mutant>,
    pub slack: u64,
    pub report: Option<PathBuf>,
    pub keep: bool,
}

/// What to do.
#[derive(Debug)]
pub enum Job {
    SelfTest,
    Help,
    /// The process that has the hub; not for people.
    Host {
        dir: PathBuf,
        life: u32,
    },
    Run(Options),
    Mutants(Options),
}

pub const FAULTS: [&str; 9] =
    ["kill", "stop", "pause", "reset", "blackhole", "alarm", "reopen", "host-kill", "disk-full"];
const OWN: [&str; 12] = [
    "--pairing",
    "--spool",
    "--minutes",
    "--seed",
    "--faults",
    "--mutant",
    "--slack",
    "--report",
    "--keep",
    "--help",
    "--host",
    "--life",
];

/// Reads the arguments. Those of the test harness alone (`--test-threads 4`, a filter) ask for the self-test.
pub fn parse(arguments: &[String]) -> Result<Job, String> {
    if !arguments.iter().any(|argument| OWN.contains(&argument.as_str())) {
        return Ok(Job::SelfTest);
    }
    let mut options = Options {
        pairing: Pairing::Rabbitmq,
        disk: false,
        minutes: 1.0,
        seed: crate::host::now_us() % 1_000_000,
        faults: Vec::new(),
        mutant: None,
        slack: 1,
        report: None,
        keep: false,
    };
    let (mut host, mut life, mut all_mutants) = (None, 1, false);
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--help" => return Ok(Job::Help),
            "--keep" => {
                options.keep = true;
                continue;
            }
            _ => {}
        }
        let value = rest.next().ok_or_else(|| format!("{name} needs a value; see --help"))?;
        let wrong = || format!("{name}: `{value}` is not one of its values; see --help");
        match name.as_str() {
            "--pairing" => options.pairing = Pairing::parse(value).ok_or_else(wrong)?,
            "--spool" => {
                options.disk = match value.as_str() {
                    "memory" => false,
                    "disk" => true,
                    _ => return Err(wrong()),
                }
            }
            "--minutes" => {
                options.minutes = value.parse().ok().filter(|minutes| *minutes > 0.0).ok_or_else(wrong)?;
            }
            "--seed" => options.seed = value.parse().map_err(|_| wrong())?,
            "--faults" => {
                options.faults = value.split(',').map(str::to_owned).collect();
                if let Some(other) = options.faults.iter().find(|fault| !FAULTS.contains(&fault.as_str())) {
                    return Err(format!("--faults: there is no `{other}`; see --help"));
                }
            }
            "--mutant" if value == "all" => all_mutants = true,
            "--mutant" => options.mutant = Some(Mutant::parse(value).ok_or_else(wrong)?),
            "--slack" => options.slack = value.parse().ok().filter(|slack| *slack > 0).ok_or_else(wrong)?,
            "--report" => options.report = Some(PathBuf::from(value)),
            "--host" => host = Some(PathBuf::from(value)),
            "--life" => life = value.parse().map_err(|_| wrong())?,
            // The harness's own, beside ours.
            "--test-threads" => {}
            _ => return Err(format!("`{name}` is not an option; see --help")),
        }
    }
    Ok(match host {
        Some(dir) => Job::Host { dir, life },
        None if all_mutants => Job::Mutants(options),
        None => Job::Run(options),
    })
}
