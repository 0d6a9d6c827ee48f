//! The plot: arrivals at the server, second by second, against its capacity.

use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::simulation::{Fleet, Outcome};

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 110, 60),
    RGBColor(200, 60, 40),
    RGBColor(220, 150, 20),
    RGBColor(120, 70, 170),
    RGBColor(60, 130, 200),
    RGBColor(130, 130, 130),
];

/// What is shown, in ideal times.
const SHOWN: f64 = 2.0;

/// The height of the plot, in capacities: what is higher leaves it.
const HIGHEST: f64 = 8.0;

pub(crate) fn draw(file: &Path, fleet: &Fleet, outcomes: &[Outcome]) -> Result {
    let root = SVGBackend::new(file, (860, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let shown = fleet.ideal_s() * SHOWN;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!(
                "{} clients after an outage of {} s",
                fleet.clients, fleet.outage_s
            ),
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..shown, 0.0..HIGHEST)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the server came back")
        .y_desc("arrivals / capacity")
        .draw()?;
    let capacity = LineSeries::new([(0.0, 1.0), (shown, 1.0)], BLACK);
    chart.draw_series(capacity)?;
    for (outcome, colour) in outcomes.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(
                points(fleet, outcome),
                colour.stroke_width(2),
            ))?
            .label(outcome.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .draw()?;
    root.present()?;
    Ok(())
}

/// One point for each two seconds: a small file. What leaves the plot is cut at its edge.
fn points(fleet: &Fleet, outcome: &Outcome) -> Vec<(f64, f64)> {
    let capacity = f64::from(fleet.capacity());
    let pairs = (0_u32..).step_by(2).zip(outcome.arrivals.chunks(2));
    pairs
        .take_while(|(second, _)| f64::from(*second) <= fleet.ideal_s() * SHOWN)
        .map(|(second, pair)| {
            let most = pair.iter().max().copied().unwrap_or(0);
            (f64::from(second), (f64::from(most) / capacity).min(HIGHEST))
        })
        .collect()
}
