//! A row of the table: ours beside bare, by the median of the ratios within each round.

use crate::report::{Run, grouped, verdict};

/// One row of the table: ours beside bare, and what is wanted.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
}

impl Row {
    /// Rates: the more the better. One run of each for every round.
    pub(crate) fn rates(
        what: &str,
        ours: &[Run],
        bare: &[Run],
        wanted: impl Into<Option<f64>>,
    ) -> Self {
        let wanted = wanted.into();
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
            wanted.map_or_else(String::new, |wanted| format!("{wanted:.2}")),
            wanted
                .map_or("", |wanted| verdict(ratio >= wanted))
                .to_owned(),
        ];
        Self {
            cells: cells.into(),
        }
    }

    /// Median latencies: the less the better. What `extra` takes may come on top of `wanted` times the bare one.
    pub(crate) fn latency(what: &str, ours: &[Run], bare: &[Run], extra: Option<&[Run]>) -> Self {
        const WANTED: f64 = 1.15;
        let p50 = |run: &Run| run.p50.as_secs_f64();
        let extras = |round: usize| extra.map_or(0.0, |extra| p50(&extra[round]));
        let pairs = || ours.iter().zip(bare).enumerate();
        let ratio = median(
            pairs()
                .map(|(_, (ours, bare))| p50(ours) / p50(bare))
                .collect(),
        );
        let limit = |round: usize, bare: &Run| WANTED * p50(bare) + extras(round);
        let shares = pairs().map(|(round, (ours, bare))| p50(ours) / limit(round, bare));
        let share = median(shares.collect());
        let wanted = match extra {
            None => format!("{WANTED}"),
            Some(extra) => {
                let fsync = median_run(extra, p50).p50.as_micros();
                format!("{WANTED} + one fsync ({fsync} us)")
            }
        };
        let cells = [
            what.to_owned(),
            median_run(ours, p50).latency(),
            median_run(bare, p50).latency(),
            format!("{ratio:.2}"),
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
