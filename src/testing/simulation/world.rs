//! The one thing that outlives every crash of a run: time, the network and the server, what the disk is told to do,
//! and what was seen. Single-threaded: the lock is never contended.

use std::fmt;
use std::future::pending;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::dice::Dice;
use super::disk::DiskWeather;
use super::history::History;
use super::network::Network;
use super::plan::Plan;
use super::report::{Breach, Promise, Report};
use super::server::Server;
use super::trouble::{Injected, Trouble};
use crate::clock::{Clock, Timestamp};

/// When a run begins, on the wall clock.
const START: Timestamp = Timestamp::from_millis(1_760_000_000_000);

#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    time: Mutex<Time>,
    crashed: Notify,
    /// The system says that the network changed.
    pub(super) network_changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    pub(super) history: History,
    pub(super) network: Network,
    pub(super) server: Server,
    pub(super) disk: DiskWeather,
    pub(super) injected: Injected,
    pub(super) breaches: Vec<Breach>,
    /// From the crash to the next life nothing happens any more.
    pub(super) is_crashed: bool,
    /// No more trouble: everything works from now on.
    pub(super) is_healed: bool,
    /// How many times the vault was opened.
    pub(super) life: u64,
    /// Who uses the app.
    pub(super) active: Option<&'static str>,
    /// The wall clock was set in this life.
    pub(super) has_jumped: bool,
    /// It was set in any life.
    pub(super) has_ever_jumped: bool,
    trace: Trace,
}

/// Time goes on from life to life; each has a runtime with a clock of its own.
#[derive(Debug)]
struct Time {
    before: Duration,
    born: Option<Instant>,
    offset_ms: i64,
    /// The latest that the wall clock ever showed when it was set.
    latest: Timestamp,
}

#[derive(Debug, Default)]
struct Trace {
    hasher: DefaultHasher,
    line: String,
    lines: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, requests: u64, is_traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(&mut dice, requests);
        let trace = Trace {
            lines: is_traced.then(Vec::new),
            ..Trace::default()
        };
        let state = State {
            dice: dice.split(),
            plan,
            history: History::default(),
            network: Network::default(),
            server: Server::default(),
            disk: DiskWeather::default(),
            injected: Injected::default(),
            breaches: Vec::new(),
            is_crashed: false,
            is_healed: false,
            life: 0,
            active: None,
            has_jumped: false,
            has_ever_jumped: false,
            trace,
        };
        let time = Time {
            before: Duration::ZERO,
            born: None,
            offset_ms: 0,
            latest: START,
        };
        Self {
            state: Mutex::new(state),
            time: Mutex::new(time),
            crashed: Notify::new(),
            network_changed: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the run lasts so far: no jump of the wall clock changes it.
    pub(super) fn elapsed(&self) -> Duration {
        let time = self.time();
        time.before + time.born.map_or(Duration::ZERO, |born| born.elapsed())
    }

    /// A life begins, in the runtime that calls this.
    pub(super) fn begin_life(&self) {
        self.time().born = Some(Instant::now());
        let mut state = self.state();
        state.is_crashed = false;
        state.has_jumped = false;
        state.life += 1;
        state.network.forget_waits();
        state.server.end_refreshes();
        let life = state.life;
        drop(state);
        self.note(format_args!("life {life} begins"));
    }

    /// It is over, and nobody runs for this long.
    pub(super) fn end_life(&self, down_for: Duration) {
        let elapsed = self.elapsed();
        let mut time = self.time();
        time.before = elapsed + down_for;
        time.born = None;
    }

    /// Sets the wall clock; nothing else notices.
    pub(super) fn set_clock(&self, by_ms: i64) {
        let before = self.wall_clock();
        let mut time = self.time();
        time.latest = time.latest.max(before);
        time.offset_ms += by_ms;
        drop(time);
        let mut state = self.state();
        (state.has_jumped, state.has_ever_jumped) = (true, true);
        state.network.forget_all_waits();
    }

    fn wall_clock(&self) -> Timestamp {
        let offset = self.time().offset_ms;
        let passed = START.after(self.elapsed()).as_millis();
        Timestamp::from_millis(passed.saturating_add_signed(offset))
    }

    /// The wall clock shows a time that it has shown before: what was written then may lie ahead.
    pub(super) fn is_clock_behind(&self) -> bool {
        self.wall_clock() < self.time().latest
    }

    /// By how much the wall clock is wrong, in milliseconds.
    pub(super) fn clock_off_ms(&self) -> i64 {
        self.time().offset_ms
    }

    /// From now on nothing happens any more in this life.
    pub(super) fn crash(&self, trouble: Trouble) {
        self.note(format_args!("{trouble}"));
        let mut state = self.state();
        state.injected.count(trouble);
        state.is_crashed = true;
        drop(state);
        self.crashed.notify_one();
    }

    pub(super) async fn wait_crashed(&self) {
        self.crashed.notified().await;
    }

    /// What runs on after a crash gets no further than here.
    pub(super) async fn stop_if_crashed(&self) {
        if self.state().is_crashed {
            pending::<()>().await;
        }
    }

    /// Writes down that something happened.
    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        let mut state = self.state();
        if !state.is_crashed {
            state.trace.add(at, what);
        }
    }

    pub(super) fn breach(&self, promise: Promise, text: String) {
        self.note(format_args!("BROKEN {promise}: {text}"));
        self.state().breaches.push(Breach::new(promise, text));
    }

    /// What the run came to.
    pub(super) fn report(&self, seed: u64) -> Report {
        let mut state = self.state();
        let state = &mut *state;
        Report {
            seed,
            breaches: std::mem::take(&mut state.breaches),
            injected: std::mem::take(&mut state.injected),
            requests: state.history.calls.len() as u64,
            attempts: state.history.attempts.len() as u64,
            lives: state.life,
            store_steps: state.disk.steps,
            trace_hash: state.trace.hasher.finish(),
            trace: state.trace.lines.take().unwrap_or_default(),
        }
    }
}

impl Trace {
    fn add(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.line.clear();
        let line = format_args!("{:>9.3} {what}", at.as_secs_f64());
        // Writing to a string does not fail.
        fmt::Write::write_fmt(&mut self.line, line).ok();
        self.hasher.write(self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
    }
}

/// The wall clock of a run.
#[derive(Clone, Debug)]
pub(super) struct WorldClock(pub(super) std::sync::Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.wall_clock()
    }
}
