//! Figures and the table they are printed in.

use std::time::Duration;

/// The latencies of one run, and how long it took as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Run {
    /// From the latencies of what was done, and the time it took as a whole.
    pub(crate) fn of(took: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |percent: usize| {
            let place = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies.get(place).copied().unwrap_or_default()
        };
        let rate = latencies.len() as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        let (p50, p99) = (at(50), at(99));
        Self { rate, p50, p99 }
    }

    /// Median and 99th percentile in microseconds.
    pub(crate) fn latency(&self) -> String {
        format!("{} / {} us", self.p50.as_micros(), self.p99.as_micros())
    }
}

/// A whole number with thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Met or missed, in the words of the table.
pub(crate) fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// Prints rows below their heads, in the columns of a Markdown table.
pub(crate) fn print_table(heads: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(heads[column].len())
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
    };
    println!();
    line(heads.to_vec());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(rules.iter().map(String::as_str).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    println!();
}
