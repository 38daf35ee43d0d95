//! The table: to the screen and, where asked, into a markdown file.

use std::fmt::Write;

use crate::pairs::{Comparison, Quartiles};

/// One comparison, ready to print.
pub struct Row {
    pub id: &'static str,
    pub workload: String,
    pub peer: String,
    pub ours_value: String,
    pub peer_value: String,
    pub ratio: String,
    pub minimum: String,
    pub verdict: String,
    pub cost: String,
    pub peer_cost: String,
}

impl Row {
    /// A row whose ratio is better the higher it is; `ratio` is given the right way round.
    pub fn of_ratio(
        id: &'static str,
        (workload, peer): (&str, &str),
        (ours, theirs): (String, String),
        comparison: &Comparison,
        ratio: Quartiles,
        minimum: f64,
    ) -> Self {
        Self {
            id,
            workload: workload.into(),
            peer: peer.into(),
            ours_value: ours,
            peer_value: theirs,
            ratio: format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high),
            minimum: format!("{minimum}"),
            verdict: verdict(ratio.median, minimum),
            cost: cost(&comparison.ours),
            peer_cost: cost(&comparison.peer),
        }
    }

    pub fn print(&self) {
        println!(
            "{:4} {:44} ours {:>22}   {:26} {:>22}   ratio {:>18}   minimum {:>8}: {}   [{} | {}]",
            self.id,
            self.workload,
            self.ours_value,
            self.peer,
            self.peer_value,
            self.ratio,
            self.minimum,
            self.verdict,
            self.cost,
            self.peer_cost
        );
    }
}

/// Measures the groups of these names, all if there are none. `names`: those that there are.
pub fn measure<R>(rows: &mut R, groups: &[(&str, fn(&mut R))], only: &[String], names: &str) {
    let wanted = |(id, _): &&(&str, fn(&mut R))| only.is_empty() || only.iter().any(|word| word == id);
    assert!(groups.iter().any(|group| wanted(&group)), "no row of that name: {names}");
    groups.iter().filter(wanted).for_each(|(_, measure)| measure(rows));
}

/// Whether `value` reaches `minimum`, and how far it is from it.
pub fn verdict(value: f64, minimum: f64) -> String {
    let percent = (value / minimum - 1.0) * 100.0;
    if value >= minimum {
        format!("met (+{percent:.0} %)")
    } else {
        format!("missed by {:.0} %", -percent)
    }
}

/// As [`verdict`], for a value that should be low.
pub fn verdict_low(value: f64, maximum: f64) -> String {
    if value <= maximum {
        format!("met ({:.0} % below)", (1.0 - value / maximum) * 100.0)
    } else {
        format!("missed by {:.0} %", (value / maximum - 1.0) * 100.0)
    }
}

fn cost(sample: &crate::pairs::Sample) -> String {
    format!("{:.3} µs, {:.1}", sample.cpu_us, sample.switches)
}

/// The table in markdown, under the machine and a description of the protocol.
pub fn markdown(rows: &[Row], intro: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n\n{intro}\n", machine());
    text.push_str("| # | workload | ours | peer | peer's | ratio | minimum | | our cost | peer's cost |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.id,
            row.workload,
            row.ours_value,
            row.peer,
            row.peer_value,
            row.ratio,
            row.minimum,
            row.verdict,
            row.cost,
            row.peer_cost
        );
    }
    text
}

/// The document with the table between the two marks of that name, which are put at its end where they are
/// missing.
pub fn placed(document: Option<&str>, table: &str, name: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let parts = document.and_then(|text| {
        let (before, rest) = text.split_once(&begin)?;
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    match parts {
        Some((before, after)) => format!("{before}{begin}\n{table}\n{end}{after}"),
        None => format!("{}{begin}\n{table}\n{end}\n", document.unwrap_or_default()),
    }
}

/// Processor, cores, kernel, and how busy it is with other work.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    format!("Machine: {model}, {cores} cores, Linux {}; load of the machine {load}.", kernel.trim())
}
