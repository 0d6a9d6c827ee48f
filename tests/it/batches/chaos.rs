//! Seeded chaos on batches: lost answers, refusals, outages, crashes and other limits in each life; then it must drain, each
//! once and in order.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncvault::testing::Reply;

use super::*;

const LANES: [&str; 3] = ["orders/1", "orders/2", "alone"];

struct Chaos {
    shop: Shop,
    dice: StdRng,
    /// The keys of each lane, as they were queued, and how many were refused for good.
    queued: [Vec<String>; 3],
    poison: Vec<String>,
}

impl Chaos {
    fn of(seed: u64) -> Self {
        Self {
            shop: Shop::open(),
            dice: StdRng::seed_from_u64(seed),
            queued: Default::default(),
            poison: Vec::new(),
        }
    }

    async fn open(&mut self) -> SyncVault {
        let limit = self.dice.random_range(2..8);
        let builder = self.shop.builder().max_retries(1_000);
        let builder = builder.batcher("orders/*", Orders::at_most(limit));
        builder.build().await.expect("vault")
    }

    fn mood(&mut self) -> Mood {
        match self.dice.random_range(0..8) {
            0 | 1 => Mood::Lose,
            2 => Mood::Answer(Reply::status(500)),
            3 => Mood::Answer(Reply::status(503)),
            4 => Mood::Answer(Reply::unreachable()),
            5 => Mood::Answer(Reply::fails(FailureKind::Timeout)),
            6 => Mood::Answer(Reply::hangs()),
            _ => Mood::Answer(Reply::status(400)),
        }
    }

    /// The app works, troubles come, and the process ends in the middle of it.
    async fn live(&mut self) {
        let vault = self.open().await;
        for _ in 0..self.dice.random_range(0..6) {
            let mood = self.mood();
            self.shop.next(mood);
        }
        for _ in 0..self.dice.random_range(0..25) {
            let lane = self.dice.random_range(0..LANES.len());
            let key = format!("{lane}-{:03}", self.queued[lane].len());
            if self.dice.random_range(0..20) == 0 {
                self.shop.says(&key, 422);
                self.poison.push(key.clone());
            }
            order(&vault, LANES[lane], &key).await;
            self.queued[lane].push(key);
            let pause = self.dice.random_range(0..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        // A crash: nobody says goodbye.
        drop(vault);
    }

    async fn heal(mut self) {
        self.shop.books().moods.clear();
        let vault = self.open().await;
        drained(&vault).await;
        let applied = self.shop.applied();
        for (lane, queued) in self.queued.iter().enumerate() {
            let own = applied
                .iter()
                .filter(|key| key.starts_with(&format!("{lane}-")));
            let own: Vec<_> = own.cloned().collect();
            let want: Vec<_> = queued
                .iter()
                .filter(|key| !self.poison.contains(key))
                .cloned()
                .collect();
            assert_eq!(own, want, "each once, in the order of {}", LANES[lane]);
        }
        let ledger = vault.ledger().await.expect("ledger");
        assert_eq!(ledger.dead, self.poison.len() as u64, "nobody else died");
        assert_eq!(ledger.delivered, applied.len() as u64);
        self.shop.is_in_order(&vault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn batches_survive_chaos() {
    for seed in 0..60 {
        let chaos = async {
            let mut chaos = Chaos::of(seed);
            for _ in 0..5 {
                chaos.live().await;
            }
            chaos.heal().await;
        };
        let chaos = std::panic::AssertUnwindSafe(chaos);
        let survived = futures_util::FutureExt::catch_unwind(chaos).await;
        assert!(survived.is_ok(), "seed {seed}: what broke is told above");
    }
}
