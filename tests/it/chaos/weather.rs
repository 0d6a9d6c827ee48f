//! What the server does in a run: one kind of weather at a time, changed by the run while requests come in.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::chaos_server::{Behaviour, Break, ChaosServer, Received, noise};
use crate::dice::Dice;

/// One kind of weather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sky {
    Clear,
    /// A bit of everything.
    Random(u64),
    Hang,
    ResetAnswer,
    Truncate,
    Trickle,
    /// The request takes effect and the answer is lost; then "still processing".
    LoseAnswer,
    Throttle,
    Unavailable,
    Broken,
    Refuse,
}

const SKIES: [Sky; 11] = [
    Sky::Clear,
    Sky::Random(0),
    Sky::Hang,
    Sky::ResetAnswer,
    Sky::Truncate,
    Sky::Trickle,
    Sky::LoseAnswer,
    Sky::Throttle,
    Sky::Unavailable,
    Sky::Broken,
    Sky::Refuse,
];

/// The weather of a server, shared with its script.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    sky: Arc<Mutex<Sky>>,
    /// The token that the server takes; zero = it takes everything.
    token: Arc<AtomicU64>,
}

/// What the script remembers of paths.
struct Memory {
    dice: Dice,
    known: HashSet<String>,
    unanswered: HashSet<String>,
}

impl Weather {
    /// Makes the weather of `server`.
    pub(super) fn over(server: &ChaosServer, has_auth: bool, mut dice: Dice) -> Self {
        let weather = Self {
            sky: Arc::new(Mutex::new(Sky::Clear)),
            token: Arc::new(AtomicU64::new(u64::from(has_auth))),
        };
        let mut memory = Memory {
            dice: dice.split(),
            known: HashSet::new(),
            unanswered: HashSet::new(),
        };
        let its = weather.clone();
        server.script(move |request, _| Some(its.answer(request, &mut memory)));
        weather
    }

    pub(super) fn set(&self, sky: Sky) {
        *self.sky.lock().unwrap_or_else(PoisonError::into_inner) = sky;
    }

    /// Another kind, by chance.
    pub(super) fn change(&self, dice: &mut Dice) {
        let sky = match dice.pick(&SKIES) {
            Sky::Random(_) => Sky::Random(dice.next()),
            sky => sky,
        };
        self.set(sky);
    }

    /// The tokens that were given out are no longer taken.
    pub(super) fn expire_tokens(&self) {
        if self.token.load(Ordering::SeqCst) > 0 {
            self.token.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token.load(Ordering::SeqCst)
    }

    fn answer(&self, request: &Received, memory: &mut Memory) -> Behaviour {
        if request.method == "HEAD" {
            return Behaviour::status(200);
        }
        let token = self.token();
        let stamp = format!("Bearer {token}");
        if token > 0 && request.header("authorization") != Some(&*stamp) {
            return Behaviour::status(401);
        }
        let sky = *self.sky.lock().unwrap_or_else(PoisonError::into_inner);
        let path = request.path.clone();
        // To itself, and once: a redirect elsewhere would change the request that a key stands for.
        if memory.known.insert(path.clone()) && sky != Sky::Clear && memory.dice.percent(5) {
            return Behaviour::redirect(308, path);
        }
        if memory.unanswered.remove(&path) && memory.dice.percent(60) {
            return Behaviour::status(409);
        }
        memory.under(sky, path)
    }
}

impl Memory {
    fn under(&mut self, sky: Sky, path: String) -> Behaviour {
        let cut = self.dice.place(120);
        let how = self.dice.pick(&[Break::Close, Break::Reset]);
        let is_bad = self.dice.percent(70);
        if !is_bad {
            return Behaviour::status(201);
        }
        match sky {
            Sky::Clear => Behaviour::status(201),
            Sky::Random(seed) => Behaviour::random(seed),
            Sky::Hang => Behaviour::hang(),
            Sky::ResetAnswer => Behaviour::cut_response(cut, how),
            Sky::Truncate => Behaviour::cut_response(300 + cut, how).body(noise(2000)),
            Sky::Trickle => Behaviour::trickle(9, Duration::from_millis(1)),
            Sky::LoseAnswer => {
                self.unanswered.insert(path);
                Behaviour::drop_answer()
            }
            Sky::Throttle => Behaviour::status(429).header("retry-after", "1"),
            Sky::Unavailable => {
                let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1));
                Behaviour::status(503).header("retry-after", &date)
            }
            Sky::Broken => Behaviour::status(500),
            Sky::Refuse => Behaviour::status(422),
        }
    }
}
