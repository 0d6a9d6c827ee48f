//! Whole vaults in a simulated world: thousands of seeds, and each of them repeats.
//!
//! `SYNCVAULT_SIMULATION_SEEDS=<n>` asks for more seeds. One that fails names the command that shows it again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use syncvault::testing::simulation::{Injected, Report, Simulation, Trouble};

/// How many seeds one test run takes.
const SEEDS: u64 = 2_000;

/// All seeds, spread over the cores.
fn run_all(seeds: u64, simulation: impl Fn(u64) -> Simulation + Sync) -> Vec<Report> {
    let (next, reports) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = simulation(seed).run();
                    reports.lock().expect("no thread panics").push(report);
                }
            });
        }
    });
    reports.into_inner().expect("no thread panics")
}

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = std::env::var("SYNCVAULT_SIMULATION_SEEDS");
    let seeds = seeds.ok().and_then(|text| text.parse().ok());
    let reports = run_all(seeds.unwrap_or(SEEDS), Simulation::new);
    let broken: Vec<String> = reports
        .iter()
        .filter(|report| !report.is_clean())
        .map(Report::to_string)
        .collect();
    assert!(
        broken.is_empty(),
        "{} of {} seeds: {}\nto see one again: cargo run --release --features test-util --example simulate -- --seed <seed> --trace",
        broken.len(),
        reports.len(),
        broken.join("\n")
    );
    let mut injected = Injected::default();
    for report in &reports {
        injected.add(&report.injected);
    }
    for trouble in Trouble::ALL {
        assert!(injected.of(trouble) > 0, "never injected: {trouble}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..60 {
        let (one, two) = (Simulation::new(seed).run(), Simulation::new(seed).run());
        if one.trace_hash == two.trace_hash {
            continue;
        }
        let traces = [(); 2].map(|()| Simulation::new(seed).traced().run().trace);
        let [one, two] = traces;
        let differs = one.iter().zip(&two).find(|(one, two)| one != two);
        panic!("seed {seed} gives two runs, which part at {differs:?}");
    }
}

#[test]
fn different_seeds_give_different_runs() {
    let reports = run_all(50, Simulation::new);
    let hashes: std::collections::BTreeSet<u64> =
        reports.iter().map(|report| report.trace_hash).collect();
    assert_eq!(hashes.len(), reports.len());
}

#[test]
fn long_runs_break_no_promise_either() {
    for report in run_all(10, |seed| Simulation::new(seed).requests(300)) {
        assert!(report.is_clean(), "{report}");
    }
}
