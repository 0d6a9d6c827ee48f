//! The embedded stores side by side, each beside the bare log of the same round.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::bare;
use crate::queue::{Lanes, MANY, ONE, Runs, WORKERS, WRITERS, interleave_all};
use crate::queue::{shared_store_cycles, store_appends, store_cycles};
use crate::report::Run;
use crate::row::Row;
use crate::stores::SEALED;
use crate::work::{Noise, Outcome};

/// What a sealed store shall reach of its plain one.
const SEALED_WANTED: f64 = 0.8;

/// What a section measures, and what is wanted of it: of sled, SQLite and fjall.
struct Subject {
    what: &'static str,
    wanted: [Option<f64>; 3],
}

impl Subject {
    fn wanted(&self, name: &str) -> Option<f64> {
        let places = ["sled", "sqlite", "fjall"];
        let place = places.into_iter().position(|store| store == name)?;
        self.wanted[place]
    }

    /// The log, and then the stores.
    fn rows(&self, names: &[String], runs: &[Runs]) -> Vec<Row> {
        let Some((log, stores)) = runs.split_first() else {
            return Vec::new();
        };
        let mut rows = Vec::new();
        for (name, runs) in names.iter().zip(stores) {
            let what = format!("{}, {name}", self.what);
            rows.push(Row::rates(&what, runs, log, self.wanted(name)));
        }
        for (name, sealed) in names.iter().zip(stores) {
            let plain = name.strip_suffix(SEALED);
            let plain = plain.and_then(|plain| names.iter().position(|name| name == plain));
            if let Some(place) = plain {
                let what = format!("{}, {name} beside its plain one", self.what);
                let row = Row::rates(&what, sealed, &stores[place], SEALED_WANTED);
                rows.push(row);
            }
        }
        rows
    }
}

/// Runs the log and every store once in each round.
fn measure(
    names: &[String],
    log: &dyn Fn(&Path) -> Outcome<Run>,
    store: &dyn Fn(&str, &Path) -> Outcome<Run>,
) -> Outcome<Vec<Runs>> {
    let on = |name: &str| {
        let name = name.to_owned();
        move |dir: &Path| store(&name, dir)
    };
    let stores: Vec<_> = names.iter().map(|name| on(name)).collect();
    let mut contenders = vec![log];
    for store in &stores {
        contenders.push(store);
    }
    interleave_all(&contenders)
}

/// Durable enqueues.
pub(crate) fn enqueue(runtime: &Runtime, names: &[String]) -> Outcome<Vec<Row>> {
    let noise = Arc::new(Noise::new());
    let one = Subject {
        what: "enqueue, 1 writer",
        wanted: [Some(0.35), None, None],
    };
    let runs = measure(
        names,
        &|dir| bare::appends(dir, &noise, ONE),
        &|name, dir| runtime.block_on(store_appends((name, dir), &noise, (1, Lanes::One), ONE)),
    )?;
    let mut rows = one.rows(names, &runs);
    let many = Subject {
        what: "enqueue, 64 writers",
        wanted: [Some(0.25), Some(0.3), Some(0.45)],
    };
    rows.extend(many.rows(names, &many_appends(runtime, names, Lanes::One)?));
    Ok(rows)
}

/// Durable enqueues of many writers, each with a lane of its own: their places lie far apart in an ordered engine.
pub(crate) fn lanes(runtime: &Runtime, names: &[String]) -> Outcome<Vec<Row>> {
    let many = Subject {
        what: "enqueue, 64 writers, 64 lanes",
        wanted: [None, None, None],
    };
    Ok(many.rows(names, &many_appends(runtime, names, Lanes::Each)?))
}

fn many_appends(runtime: &Runtime, names: &[String], lanes: Lanes) -> Outcome<Vec<Runs>> {
    let noise = Arc::new(Noise::new());
    measure(
        names,
        &|dir| bare::shared_appends(dir, &noise, WRITERS, MANY),
        &|name, dir| runtime.block_on(store_appends((name, dir), &noise, (WRITERS, lanes), MANY)),
    )
}

/// Full durable cycles: enqueue, lease, settle.
pub(crate) fn cycle(runtime: &Runtime, names: &[String]) -> Outcome<Vec<Row>> {
    let noise = Arc::new(Noise::new());
    let one = Subject {
        what: "cycle, 1 worker",
        wanted: [Some(0.4), Some(0.72), Some(0.72)],
    };
    let runs = measure(
        names,
        &|dir| bare::cycles(dir, &noise, ONE),
        &|name, dir| runtime.block_on(store_cycles((name, dir), &noise, ONE)),
    )?;
    let mut rows = one.rows(names, &runs);
    let many = Subject {
        what: "cycle, 64 writers + 8 workers",
        wanted: [Some(0.2), Some(0.175), Some(0.175)],
    };
    let runs = measure(
        names,
        &|dir| bare::shared_cycles(dir, &noise, (WRITERS, WORKERS), MANY),
        &|name, dir| runtime.block_on(shared_store_cycles((name, dir), &noise, MANY)),
    )?;
    rows.extend(many.rows(names, &runs));
    Ok(rows)
}
