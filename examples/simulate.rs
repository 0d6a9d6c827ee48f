//! Runs whole vaults in a simulated world, seed by seed, and says which promise a seed broke.
//!
//! `cargo run --release --features test-util --example simulate -- --seeds 100000`
//!
//! `--from S` begins at another seed, `--requests N` makes the runs longer, `--threads N` uses so many threads,
//! `--first` ends with the first seed that breaks a promise.
//! `--seed X --trace` runs one and prints everything that happened in it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use syncvault::testing::simulation::{Injected, Report, Simulation, Trouble};

type Failure = Box<dyn std::error::Error>;

/// How many failing seeds are shown.
const SHOWN_MAX: usize = 20;

#[derive(Debug)]
struct Options {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    requests: u64,
    threads: usize,
    is_traced: bool,
    ends_with_first: bool,
}

/// What all runs together came to.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    requests: u64,
    attempts: u64,
    lives: u64,
    store_steps: u64,
    injected: Injected,
    failed: Vec<Report>,
}

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    }
}

impl Options {
    fn read() -> Result<Self, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self {
            seeds: 2_000,
            from: 0,
            seed: None,
            requests: Simulation::REQUESTS,
            threads: cores,
            is_traced: false,
            ends_with_first: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, Failure> {
                let text = words.next().ok_or("a number is missing")?;
                Ok(text.parse()?)
            };
            match word.as_str() {
                "--seeds" => options.seeds = number()?,
                "--from" => options.from = number()?,
                "--seed" => options.seed = Some(number()?),
                "--requests" => options.requests = number()?,
                "--threads" => options.threads = usize::try_from(number()?)?.max(1),
                "--first" => options.ends_with_first = true,
                "--trace" => options.is_traced = true,
                _ => return Err(format!("{word} is not known: see the head of the file").into()),
            }
        }
        Ok(options)
    }
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let simulation = Simulation::new(seed).requests(options.requests);
    let report = match options.is_traced {
        true => simulation.traced().run(),
        false => simulation.run(),
    };
    for line in &report.trace {
        println!("{line}");
    }
    println!("{report}");
    println!("trace {:016x}", report.trace_hash);
    code(report.is_clean())
}

fn code(is_clean: bool) -> ExitCode {
    match is_clean {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn many(options: &Options) -> ExitCode {
    let bar = bar(options.seeds);
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let (is_over, begun) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= options.seeds || is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let simulation = Simulation::new(options.from + nth).requests(options.requests);
                    let report = simulation.run();
                    let is_enough = options.ends_with_first && !report.is_clean();
                    is_over.fetch_or(is_enough, Ordering::Relaxed);
                    sum.lock().expect("no thread panics").add(report);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().expect("no thread panics");
    sum.print(options, begun.elapsed());
    code(sum.failed.is_empty())
}

fn bar(seeds: u64) -> ProgressBar {
    let look = "{bar:30} {pos}/{len} seeds, {per_sec}, {eta} to go";
    let style = ProgressStyle::with_template(look).expect("a good template");
    let bar = ProgressBar::new(seeds).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.requests += report.requests;
        self.attempts += report.attempts;
        self.lives += report.lives;
        self.store_steps += report.store_steps;
        self.injected.add(&report.injected);
        if !report.is_clean() {
            self.failed.push(report);
        }
    }

    fn print(&self, options: &Options, took: Duration) {
        let seconds = took.as_secs_f64();
        let (runs, per_second) = (self.runs, self.runs as f64 / seconds);
        println!("{runs} seeds in {seconds:.1} s, {per_second:.0} seeds/s");
        println!(
            "{} requests, {} attempts, {} lives, {} store steps, {} troubles:",
            self.requests,
            self.attempts,
            self.lives,
            self.store_steps,
            self.injected.total()
        );
        for trouble in Trouble::ALL {
            println!("  {trouble:<26}{:>12}", self.injected.of(trouble));
        }
        for report in self.failed.iter().take(SHOWN_MAX) {
            println!("{report}");
            println!(
                "  again: cargo run --release --features test-util --example simulate -- --seed {} --requests {} --trace",
                report.seed, options.requests
            );
        }
        println!("{} of {runs} seeds broke a promise", self.failed.len());
    }
}
