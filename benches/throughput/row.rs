//! A row of the table: ours beside bare, by the median of the ratios within each round.

use std::time::Duration;

use crate::report::{Run, grouped, verdict};

/// One row of the table: ours beside bare, and what is wanted.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
}

impl Row {
    /// Rates: the more the better. One run of each for every round.
    pub(crate) fn rates(what: &str, ours: &[Run], bare: &[Run], wanted: f64) -> Self {
        let ratios = ours
            .iter()
            .zip(bare)
            .map(|(ours, bare)| ours.rate / bare.rate);
        let ratio = median(ratios.collect());
        let show = |runs: &[Run]| {
            let run = median_run(runs, |run| run.rate);
            format!("{}/s ({})", grouped(run.rate), run.latency())
        };
        let cells = [
            what.to_owned(),
            show(ours),
            show(bare),
            format!("{ratio:.2}"),
            format!("{wanted:.2}"),
            verdict(ratio >= wanted).to_owned(),
        ];
        Self {
            cells: cells.into(),
        }
    }

    /// Median latencies: the less the better. `extra` may come on top of `wanted` times the bare one.
    pub(crate) fn latency(what: &str, ours: &[Run], bare: &[Run], extra: Duration) -> Self {
        const WANTED: f64 = 1.15;
        let p50 = |run: &Run| run.p50.as_secs_f64();
        let ratio = |extra: f64| {
            let limits = bare.iter().map(|bare| WANTED * p50(bare) + extra);
            median(
                ours.iter()
                    .zip(limits)
                    .map(|(ours, limit)| p50(ours) / limit)
                    .collect(),
            )
        };
        let (extra_us, share) = (extra.as_micros(), ratio(extra.as_secs_f64()));
        let wanted = match extra_us {
            0 => format!("{WANTED}"),
            us => format!("{WANTED} + {us} us"),
        };
        let cells = [
            what.to_owned(),
            median_run(ours, p50).latency(),
            median_run(bare, p50).latency(),
            format!("{:.2}", ratio(0.0) * WANTED),
            wanted,
            format!("{} ({share:.2} of it)", verdict(share <= 1.0)),
        ];
        Self {
            cells: cells.into(),
        }
    }
}

/// The middle one, by `key`. The runs must not be empty.
pub(crate) fn median_run(runs: &[Run], key: impl Fn(&Run) -> f64) -> Run {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = runs.len() / 2;
    runs.swap_remove(middle)
}

/// The middle one; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
