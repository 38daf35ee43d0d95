//! A plan is carried out: one thread per target, so that no target has two faults at once.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::history::Break;
use crate::host::{now_us, pass};
use crate::nemesis::{Fault, Step, Target, GAP};
use crate::process::Process;
use crate::proxy::{Proxy, Toxic, Way};
use crate::servers;

/// What faults act on, and what they leave behind.
pub struct Field {
    pub dir: PathBuf,
    pub proxy: Option<Proxy>,
    pub host: Mutex<Process>,
    pub breaks: Mutex<Vec<Break>>,
    pub kills: Mutex<Vec<(u32, u64)>>,
    /// Why the run cannot go on.
    pub failed: Mutex<Option<String>>,
    pub start: Instant,
}

/// A hub that keeps messages in memory is not closed; so often it is tried.
const REOPEN_TRIES: usize = 5;
const BLACKHOLE: Toxic = Toxic {
    latency: Duration::ZERO,
    jitter: Duration::ZERO,
    slice: 0,
    bytes_per_s: 0,
    blackhole: true,
    cut_after: None,
};

impl Field {
    /// Carries out the steps of one target, until `end`.
    pub fn run(&self, steps: &[Step], target: Target, end: Duration) {
        let mut free = Duration::ZERO;
        for step in steps.iter().filter(|step| step.target == target) {
            let at = Duration::from_millis(step.at).max(free);
            if at + Duration::from_secs(1) >= end || self.failed.lock().unwrap().is_some() {
                return;
            }
            pass(at.saturating_sub(self.start.elapsed()));
            if let Err(why) = self.carry_out(step) {
                *self.failed.lock().unwrap() = Some(format!("{}: {why}", step.fault.name()));
                return;
            }
            free = self.start.elapsed() + Duration::from_millis(GAP);
        }
    }

    fn carry_out(&self, step: &Step) -> Result<(), String> {
        let from = now_us();
        let lasts = Duration::from_millis(step.lasts);
        self.say(step, "begins");
        match step.fault {
            Fault::Reset => {
                if let Some(proxy) = &self.proxy {
                    proxy.reset();
                }
            }
            Fault::Blackhole => self.swallow(step, lasts),
            Fault::Reopen => {
                if !self.reopen()? {
                    self.say(step, "was not possible");
                    return Ok(());
                }
            }
            Fault::HostKill => self.kill_host()?,
            Fault::DiskFull => self.fill(lasts),
            fault => {
                servers::hurt(fault)?;
                pass(lasts);
                servers::mend(fault)?;
            }
        }
        let to = now_us();
        self.say(step, "is over");
        let what = step.fault.name().to_owned();
        self.breaks.lock().unwrap().push(Break { from, to, side: step.fault.side(), consumer: false, what });
        Ok(())
    }

    fn say(&self, step: &Step, what: &str) {
        let side = step.fault.side().map_or("host", crate::setup::Side::name);
        let at = self.start.elapsed().as_secs_f64();
        let memory = self.host.try_lock().map_or(0, |host| host.usage().rss >> 20);
        println!("  {at:6.1} s  {} of {side} {what} (host: {memory} MiB)", step.fault.name());
    }

    /// A network that drops what the server says, or what both say.
    fn swallow(&self, step: &Step, lasts: Duration) {
        let Some(proxy) = &self.proxy else { return };
        match step.variant % 3 {
            0 => proxy.set(Way::Down, BLACKHOLE),
            1 => proxy.set(Way::Up, BLACKHOLE),
            _ => proxy.set_both(BLACKHOLE),
        }
        pass(lasts);
        proxy.heal();
    }

    /// Answers whether it was done: not while something is kept in memory, as its server is away.
    fn reopen(&self) -> Result<bool, String> {
        for _ in 0..REOPEN_TRIES {
            {
                let mut host = self.host.lock().unwrap();
                host.tell("reopen");
                if host.expect("reopened", Duration::from_secs(90))?["done"] == true {
                    return Ok(true);
                }
            }
            pass(Duration::from_secs(2));
        }
        Ok(false)
    }

    fn kill_host(&self) -> Result<(), String> {
        let mut host = self.host.lock().unwrap();
        host.kill();
        self.kills.lock().unwrap().push((host.life, now_us()));
        let life = host.life + 1;
        *host = Process::start(&self.dir, life)?;
        Ok(())
    }

    /// Leaves no byte on the file system of the hub's directory.
    fn fill(&self, lasts: Duration) {
        let path = crate::setup::data_dir(&self.dir).join("filler");
        if let Ok(mut file) = std::fs::File::create(&path) {
            let chunk = vec![0_u8; 1 << 16];
            while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
        }
        pass(lasts);
        let _ = std::fs::remove_file(&path);
    }
}
