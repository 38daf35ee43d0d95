//! The logs that the host writes and the orchestrator reads: one event per line, words with spaces between.
//!
//! A line is one `write`, and what the kernel has survives the death of the process; nothing is synced, as no run
//! takes the machine down.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use crate::history::{Attempt, Break, Counters, Decision, Delivery, Ending, History, Level, Name, Outcome};
use crate::host::now_us;
use crate::setup::Side;

/// A log that threads share.
pub struct Log(Mutex<File>);

impl Log {
    pub fn create(dir: &Path, name: &str) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap();
        Self(Mutex::new(file))
    }

    pub fn line(&self, mut text: String) {
        text.push('\n');
        self.0.lock().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Before the call.
    pub fn intent(&self, name: &Name, id: &str) {
        self.line(format!("I {} {} {}", now_us(), words(name), or_dash(id)));
    }

    /// After it.
    pub fn outcome(&self, name: &Name, outcome: &Outcome) {
        let Outcome { at, ending, level, spooled, id, kind } = outcome;
        let (ending, level, spooled) = (ending.name(), level.name(), u8::from(*spooled));
        self.line(format!("O {at} {} {ending} {level} {spooled} {} {}", words(name), or_dash(id), or_dash(kind)));
    }

    /// Before it is settled.
    pub fn delivery(&self, delivery: &Delivery) {
        let Delivery {
            name, run, at, decision, redelivered, attempt, maybe_dup, partition, offset, id, intact, ..
        } = delivery;
        self.line(format!(
            "D {at} {} {run} {} {} {attempt} {} {partition} {offset} {} {}",
            words(name),
            decision.name(),
            u8::from(*redelivered),
            u8::from(*maybe_dup),
            or_dash(id),
            u8::from(*intact)
        ));
    }

    /// A subscription ended, and is there again.
    pub fn break_(&self, broken: &Break) {
        let side = broken.side.map_or("-", Side::name);
        self.line(format!("B {} {} {side} {}", broken.from, broken.to, broken.what.replace(' ', "_")));
    }

    pub fn counters(&self, own: &Counters) {
        let Counters { hub, spooled, forwarded, expired, evicted, refused, failed, local_done, records } = own;
        self.line(format!(
            "C {hub} {spooled} {forwarded} {expired} {evicted} {refused} {failed} {local_done} {records}"
        ));
    }
}

fn words(name: &Name) -> String {
    format!("{} {} {} {}", name.topic, name.producer, name.key, name.seq)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() {
        "-"
    } else {
        text
    }
}

/// Reads a line, word by word.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl Words<'_> {
    fn text(&mut self) -> Option<String> {
        self.0.next().map(|word| if word == "-" { String::new() } else { word.to_owned() })
    }

    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.0.next()?.parse().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        self.number::<u8>().map(|flag| flag == 1)
    }

    fn one_of<T: Copy>(&mut self, all: &[T], name: impl Fn(T) -> &'static str) -> Option<T> {
        let word = self.0.next()?;
        all.iter().copied().find(|one| name(*one) == word)
    }

    fn name(&mut self) -> Option<Name> {
        Some(Name { topic: self.text()?, producer: self.number()?, key: self.text()?, seq: self.number()? })
    }
}

/// Reads all logs of a directory into `history`. Files are named `<what>.<life>.<who>.log`.
pub fn read(dir: &Path, history: &mut History) {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let parts: Vec<&str> = file.split('.').collect();
        let [_, life, who, "log"] = parts[..] else { continue };
        let Ok(life) = life.parse() else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.split_inclusive('\n') {
            // A process that is killed leaves no half lines, as each is one write; but then it says nothing either.
            if line.ends_with('\n') && read_line(line, life, who, history).is_none() {
                history.strays.push(format!("{file}: {line}"));
            }
        }
    }
    history.deliveries.sort_by_key(|delivery| delivery.at);
    history.breaks.sort_by_key(|broken| broken.from);
    // Files come by name, and so the tenth life before the second.
    let number = |own: &Counters| -> Vec<u32> { own.hub.split('.').filter_map(|part| part.parse().ok()).collect() };
    history.counters.sort_by_key(number);
}

fn read_line(line: &str, life: u32, who: &str, history: &mut History) -> Option<()> {
    let mut words = Words(line.split_whitespace());
    match words.text()?.as_str() {
        "I" => {
            let at = words.number()?;
            let attempt = Attempt { life, at, name: words.name()?, id: words.text()?, outcomes: Vec::new() };
            let before = history.attempts.insert(attempt.name.clone(), attempt);
            before.is_none().then_some(())
        }
        "O" => {
            let at = words.number()?;
            let name = words.name()?;
            let ending = words.one_of(&Ending::ALL, Ending::name)?;
            let level = words.one_of(&Level::ALL, Level::name)?;
            let outcome = Outcome { at, ending, level, spooled: words.flag()?, id: words.text()?, kind: words.text()? };
            history.attempts.get_mut(&name)?.outcomes.push(outcome);
            Some(())
        }
        "D" => {
            let delivery = Delivery {
                at: words.number()?,
                name: words.name()?,
                run: words.text()?,
                decision: words.one_of(&Decision::ALL, Decision::name)?,
                redelivered: words.flag()?,
                attempt: words.number()?,
                maybe_dup: words.flag()?,
                partition: words.number()?,
                offset: words.number()?,
                id: words.text()?,
                intact: words.flag()?,
                life,
                consumer: who.to_owned(),
            };
            history.deliveries.push(delivery);
            Some(())
        }
        "B" => {
            let (from, to) = (words.number()?, words.number()?);
            let side = words.text()?;
            let side = [Side::Rabbitmq, Side::Kafka, Side::Embedded].into_iter().find(|own| own.name() == side);
            history.breaks.push(Break { from, to, side, consumer: true, what: words.text()?.replace('_', " ") });
            Some(())
        }
        "C" => {
            let counters = Counters {
                hub: words.text()?,
                spooled: words.number()?,
                forwarded: words.number()?,
                expired: words.number()?,
                evicted: words.number()?,
                refused: words.number()?,
                failed: words.number()?,
                local_done: words.number()?,
                records: words.number()?,
            };
            history.counters.push(counters);
            Some(())
        }
        _ => None,
    }
}
