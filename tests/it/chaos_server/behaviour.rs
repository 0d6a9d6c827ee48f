//! What the server does with one request: a reply, and what goes wrong with it.

use std::time::Duration;

use bytes::Bytes;

/// A plan for one request: does it take effect, how long does it take, what goes back and how it breaks.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(super) reply: Reply,
    pub(super) takes_effect: bool,
    pub(super) delay: Duration,
    pub(super) fault: Fault,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    None,
    /// Resets after so many bytes of the request.
    CutRequest(usize),
    /// Breaks after so many bytes of the response.
    CutResponse(usize, Break),
    /// Says nothing, for ever.
    Hang,
    /// Sends pieces of so many bytes, with pauses.
    Trickle(usize, Duration),
    /// These 1xx statuses first.
    Informational(Vec<u16>),
    /// 1xx without an end.
    EndlessInformational,
    /// A body without an end.
    EndlessBody,
    /// These bytes in place of an answer.
    Garbage(Bytes),
    /// Answers well, then closes the connection after a pause without having announced it.
    CloseIdle(Duration),
    /// One of all these, chosen by the seed and the number of the request.
    Random(u64),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// With a FIN, as a server that stops.
    Close,
    /// With a RST, as a server that dies.
    Reset,
}

impl Behaviour {
    fn new(reply: Reply) -> Self {
        Self {
            takes_effect: (200..300).contains(&reply.status),
            reply,
            delay: Duration::ZERO,
            fault: Fault::None,
        }
    }

    fn broken(fault: Fault) -> Self {
        Self {
            fault,
            ..Self::status(200)
        }
    }

    /// Answers with a status and a short body. The request takes effect if it is a 2xx.
    pub(crate) fn status(status: u16) -> Self {
        let body = match status {
            204 | 304 => Bytes::new(),
            _ => Bytes::from(format!("{{\"status\":{status}}}")),
        };
        let mut reply = Reply {
            status,
            headers: Vec::new(),
            body,
        };
        if !reply.body.is_empty() {
            reply
                .headers
                .push(("content-type".into(), "application/json".into()));
        }
        Self::new(reply)
    }

    /// Points elsewhere.
    pub(crate) fn redirect(status: u16, to: impl AsRef<str>) -> Self {
        Self::status(status).header("location", to.as_ref())
    }

    /// Does what was asked, and drops the connection in place of an answer.
    pub(crate) fn drop_answer() -> Self {
        Self::cut_response(0, Break::Close)
    }

    /// Resets after so many bytes of the request; at the latest when all of it was read. No effect.
    pub(crate) fn cut_request(after: usize) -> Self {
        Self::broken(Fault::CutRequest(after)).without_effect()
    }

    /// Takes effect, and breaks after so many bytes of the answer, head included.
    pub(crate) fn cut_response(after: usize, how: Break) -> Self {
        Self::broken(Fault::CutResponse(after, how))
    }

    /// Takes no effect and never answers.
    pub(crate) fn hang() -> Self {
        Self::broken(Fault::Hang).without_effect()
    }

    /// Answers in pieces of so many bytes, with a pause before each.
    pub(crate) fn trickle(bytes: usize, pause: Duration) -> Self {
        Self::broken(Fault::Trickle(bytes, pause))
    }

    /// Sends these 1xx statuses before the answer.
    pub(crate) fn informational(statuses: &[u16]) -> Self {
        Self::broken(Fault::Informational(statuses.to_vec()))
    }

    /// Sends 1xx for ever.
    pub(crate) fn endless_informational() -> Self {
        Self::broken(Fault::EndlessInformational).without_effect()
    }

    /// Answers 200 with a chunked body that never ends.
    pub(crate) fn endless_body() -> Self {
        Self::broken(Fault::EndlessBody)
    }

    /// Sends these bytes and closes. No effect.
    pub(crate) fn garbage(bytes: impl Into<Bytes>) -> Self {
        Self::broken(Fault::Garbage(bytes.into())).without_effect()
    }

    /// Answers 200 with keep-alive, and closes the idle connection after a pause.
    pub(crate) fn close_idle(after: Duration) -> Self {
        Self::broken(Fault::CloseIdle(after))
    }

    /// A mix of good answers, refusals and faults, the same for the same seed.
    pub(crate) fn random(seed: u64) -> Self {
        Self::broken(Fault::Random(seed))
    }

    /// Adds a header to the answer.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.reply.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a header of the answer in place of the usual one.
    pub(crate) fn replace_header(mut self, name: &str, value: &str) -> Self {
        self.reply.headers.retain(|(usual, _)| usual != name);
        self.header(name, value)
    }

    /// Another body for the answer.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.reply.body = body.into();
        self
    }

    /// Waits before the first byte of the answer; the effect comes before the wait.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The request takes effect, whatever the answer says.
    pub(crate) fn with_effect(mut self) -> Self {
        self.takes_effect = true;
        self
    }

    /// The request takes no effect, whatever the answer says.
    pub(crate) fn without_effect(mut self) -> Self {
        self.takes_effect = false;
        self
    }

    pub(super) fn cuts_request(&self) -> Option<usize> {
        match self.fault {
            Fault::CutRequest(after) => Some(after),
            _ => None,
        }
    }

    /// Throws the dice of [`random`](Self::random).
    pub(super) fn resolve(self, nth: usize) -> Self {
        let Fault::Random(seed) = self.fault else {
            return self;
        };
        let dice = mix(seed, nth as u64);
        let cut = usize::try_from(dice >> 32 & 0xff).expect("a byte");
        match dice % 100 {
            0..50 => Self::status(200),
            50..58 => Self::status(503),
            58..63 => Self::status(500),
            63..66 => Self::status(429).header("retry-after", "0"),
            66..74 => Self::drop_answer(),
            74..80 => Self::cut_response(cut, Break::Reset),
            80..84 => Self::cut_response(cut, Break::Close),
            84..89 => Self::cut_request(cut),
            89..92 => Self::status(200).after(Duration::from_millis(dice >> 40 & 0x1f)),
            92..94 => Self::informational(&[100, 103]),
            94..96 => Self::garbage("SMTP ready\r\n\r\n"),
            96..98 => Self::close_idle(Duration::from_millis(1)),
            _ => Self::trickle(16, Duration::from_millis(1)),
        }
    }
}

/// SplitMix64: the same number for the same seed and place.
fn mix(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add((nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
