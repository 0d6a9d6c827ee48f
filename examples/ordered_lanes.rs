//! Lanes: what belongs together keeps its order, the rest runs side by side. And what a refused request does to its lane.
//!
//! ```text
//! cargo run --example ordered_lanes
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use syncvault::{ConnectivityMode, DeadLane, Paging, Stopped, SyncVault, Ticket, WhyPending};

use support::{Result, Server, impatient};

const THINK: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result {
    let done = Done::default();
    let router = Router::new()
        .route("/jobs/{job}/{step}", post(step))
        .with_state(done.clone());
    let mut server = Server::start(router).await?;
    side_by_side(&server, &done).await?;
    a_dead_letter(&server, &done, DeadLane::Skip).await?;
    a_dead_letter(&server, &done, DeadLane::Block).await?;
    server.go_down().await
}

/// The lane of a request is its job: `/jobs/7/start` and `/jobs/7/done` keep their order, job 8 does not wait for them.
async fn open(server: &Server, dir: &std::path::Path, dead_lane: DeadLane) -> Result<SyncVault> {
    let vault = SyncVault::builder(server.url())
        .storage_path(dir)
        .retry_policy(impatient())
        .lane_by(|request| request.url.path().split('/').nth(2).map(str::to_owned))
        .dead_lane(dead_lane)
        .build();
    Ok(vault.await?)
}

async fn side_by_side(server: &Server, done: &Done) -> Result {
    let dir = tempfile::tempdir()?;
    let vault = open(server, dir.path(), DeadLane::Skip).await?;
    vault.set_connectivity(ConnectivityMode::Offline);
    for step in 1..=5 {
        for job in ["anna", "ben", "carla", "dan"] {
            drop(vault.post(format!("/jobs/{job}/{step}")).enqueue().await?);
        }
    }
    println!("20 requests in 4 lanes wait, {THINK:?} each");

    let start = Instant::now();
    vault.set_connectivity(ConnectivityMode::Auto);
    vault.wait_idle().await?;
    let took = start.elapsed();
    println!("delivered in {} ms", took.as_millis());
    for job in ["anna", "ben", "carla", "dan"] {
        println!("  {job:5} {:?}", done.steps_of(job));
        assert_eq!(done.steps_of(job), ["1", "2", "3", "4", "5"]);
    }
    assert!(
        took < THINK * 20,
        "one after the other would take {:?}",
        THINK * 20
    );
    Ok(vault.shutdown(Duration::from_secs(1)).await?)
}

async fn a_dead_letter(server: &Server, done: &Done, dead_lane: DeadLane) -> Result {
    println!("\nthe server refuses the second of three, and the lane is to {dead_lane:?}");
    let dir = tempfile::tempdir()?;
    let vault = open(server, dir.path(), dead_lane).await?;
    vault.set_connectivity(ConnectivityMode::Offline);
    let job = format!("{dead_lane:?}");
    let mut tickets: Vec<Ticket> = Vec::new();
    for step in ["start", "refused", "done"] {
        tickets.push(vault.post(format!("/jobs/{job}/{step}")).enqueue().await?);
    }
    vault.set_connectivity(ConnectivityMode::Auto);
    let report = vault.process_queue().await?;
    println!(
        "  delivered {:?}, {} left, {:?}",
        done.steps_of(&job),
        report.remaining,
        report.stopped
    );

    let letters = vault.dead_letters().list(Paging::default()).await?.items;
    for letter in &letters {
        println!(
            "  dead letter: {}: {}",
            letter.action.url.path(),
            letter.reason
        );
    }
    assert_eq!(letters.len(), 1);
    let last = tickets[2].id();
    match dead_lane {
        DeadLane::Block => {
            let dead = letters[0].action.id;
            assert_eq!(report.stopped, Stopped::Blocked);
            assert_eq!(
                vault.why_pending(last).await?,
                WhyPending::LaneBlocked { by: dead }
            );
            println!("  somebody looks at it and forgets it: the lane goes on");
            vault.dead_letters().discard(dead).await?;
            vault.wait_idle().await?;
        }
        _ => assert_eq!(report.stopped, Stopped::Drained),
    }
    println!("  delivered {:?}", done.steps_of(&job));
    assert_eq!(done.steps_of(&job), ["start", "done"]);
    Ok(vault.shutdown(Duration::from_secs(1)).await?)
}

/// What the server did: job and step, in the order of arrival.
#[derive(Clone, Default)]
struct Done(Arc<Mutex<Vec<(String, String)>>>);

impl Done {
    fn steps_of(&self, job: &str) -> Vec<String> {
        let done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        done.iter()
            .filter(|(of, _)| of == job)
            .map(|(_, step)| step.clone())
            .collect()
    }
}

async fn step(State(done): State<Done>, Path((job, step)): Path<(String, String)>) -> StatusCode {
    tokio::time::sleep(THINK).await;
    if step == "refused" {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    done.0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((job, step));
    StatusCode::CREATED
}
