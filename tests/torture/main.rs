//! The torture checker: a hub on real servers under faults, and rules that every history must keep. `--help` tells how
//! to run it; without options it tests the checker itself, on made-up histories.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test says what is wrong by failing"
)]

mod faults;
mod history;
mod host;
mod logs;
mod made_up;
mod nemesis;
mod options;
mod process;
#[allow(dead_code, reason = "shared with the tests of servers, which use the rest")]
#[path = "../servers/proxy.rs"]
mod proxy;
mod report;
#[path = "../sim/rng.rs"]
#[allow(dead_code, reason = "shared with the simulation, which uses the rest")]
mod rng;
mod rules;
mod run;
mod self_test;
mod servers;
mod setup;

use std::io::Write;
use std::process::ExitCode;

use options::{Job, Options};
use setup::Mutant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match options::parse(&arguments) {
        Err(wrong) => {
            eprintln!("torture: {wrong}");
            ExitCode::from(2)
        }
        Ok(Job::Help) => {
            print!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Ok(Job::SelfTest) => code(self_test::run()),
        Ok(Job::Host { dir, life }) => {
            host::run(&dir, life);
            ExitCode::SUCCESS
        }
        Ok(Job::Run(options)) if options.mutant.is_some() => code(mutant(&options)),
        Ok(Job::Run(options)) => code(one(&options)),
        Ok(Job::Mutants(options)) => code(mutants(&options)),
    }
}

fn code(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(options: &Options) -> bool {
    match run::run(options) {
        Ok(report) => {
            report.print();
            if let Some(path) = &options.report {
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
                file.write_all(report.row(options).as_bytes()).unwrap();
            }
            let passed = report.broken.is_empty();
            println!("torture: {}: {}", if passed { "passed" } else { "FAILED" }, run::replay_line(options));
            passed
        }
        Err(why) => {
            println!("torture: could not be carried out: {why}");
            false
        }
    }
}

/// A hub with a defect must be found, by the rule that is about it.
fn mutant(options: &Options) -> bool {
    let Some(mutant) = options.mutant else { return false };
    match run::run(options) {
        Ok(report) => {
            let mut rules: Vec<&str> = report.broken.iter().map(|broken| broken.rule).collect();
            rules.dedup();
            let found = rules.contains(&mutant.rule());
            if !found {
                report.print();
            }
            println!(
                "torture: mutant {} {}, by {}; expected: {}",
                mutant.name(),
                if found { "found" } else { "NOT FOUND" },
                if rules.is_empty() { "no rule".to_owned() } else { rules.join(", ") },
                mutant.rule()
            );
            found
        }
        Err(why) => {
            println!("torture: could not be carried out: {why}");
            false
        }
    }
}

fn mutants(options: &Options) -> bool {
    let found = Mutant::ALL.iter().filter(|own| mutant(&Options { mutant: Some(**own), ..options.clone() })).count();
    println!("torture: {found} of {} mutants found", Mutant::ALL.len());
    found == Mutant::ALL.len()
}
