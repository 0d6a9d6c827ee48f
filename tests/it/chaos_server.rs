//! A scripted HTTP/1.1 server on 127.0.0.1 that misbehaves on request and remembers everything it saw.
//!
//! It honours idempotency keys, so a story can ask what really happened: `effects()` lists what was done, in order,
//! `received()` what came in, `violations()` what no client may do. What it does with a request comes from the first of:
//! the queue of the path, the common queue, the script, the path's standing behaviour, the server's.

mod behaviour;
mod connection;
mod ledger;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use behaviour::{Behaviour, Break};
pub(crate) use ledger::{Effect, Received};

use ledger::Ledger;

/// How long a story waits for the server to have seen something.
const WAIT_MAX: Duration = Duration::from_secs(20);

type Script = Box<dyn FnMut(&Received, usize) -> Option<Behaviour> + Send>;

/// The server. Dropping it closes every connection and ends every task.
pub(crate) struct ChaosServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    port: Mutex<Port>,
    /// Holds the port from start to end, listening or not: a port that is let go for a moment may become the
    /// local port of some other test's connection.
    _held: TcpSocket,
}

/// Bound sockets that do not listen refuse.
enum Port {
    Up {
        stop: oneshot::Sender<()>,
        accepting: JoinHandle<()>,
    },
    Down(TcpSocket),
    Moving,
}

struct Shared {
    book: Mutex<Book>,
    seen: Notify,
}

/// What to do, and what was done.
struct Book {
    next: VecDeque<Behaviour>,
    next_on: HashMap<String, VecDeque<Behaviour>>,
    script: Option<Script>,
    always: Behaviour,
    always_on: HashMap<String, Behaviour>,
    keeps_digests: bool,
    ledger: Ledger,
}

impl ChaosServer {
    /// Starts on a free port; answers 200 to everything.
    pub(crate) async fn start() -> Self {
        let book = Book {
            next: VecDeque::new(),
            next_on: HashMap::new(),
            script: None,
            always: Behaviour::status(200),
            always_on: HashMap::new(),
            keeps_digests: false,
            ledger: Ledger::default(),
        };
        let shared = Arc::new(Shared {
            book: Mutex::new(book),
            seen: Notify::new(),
        });
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        let server = Self {
            shared,
            address,
            port: Mutex::new(Port::Down(bind(address))),
            _held: socket,
        };
        server.up().await;
        server
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a path.
    pub(crate) fn at(&self, path: &str) -> Url {
        Url::parse(&self.url())
            .and_then(|base| base.join(path))
            .expect("a URL")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, this status to every request that nothing else is planned for.
    pub(crate) fn answers(&self, status: u16) -> &Self {
        self.always(Behaviour::status(status))
    }

    /// From now on, this to every request that nothing else is planned for.
    pub(crate) fn always(&self, behaviour: Behaviour) -> &Self {
        self.book().always = behaviour;
        self
    }

    /// This to the next request; several calls make a queue.
    pub(crate) fn next(&self, behaviour: Behaviour) -> &Self {
        self.book().next.push_back(behaviour);
        self
    }

    /// From now on, this to every request with this path.
    pub(crate) fn on(&self, path: &str, behaviour: Behaviour) -> &Self {
        self.book().always_on.insert(path.to_owned(), behaviour);
        self
    }

    /// This to the next request with this path; several calls make a queue.
    pub(crate) fn next_on(&self, path: &str, behaviour: Behaviour) -> &Self {
        self.book()
            .next_on
            .entry(path.to_owned())
            .or_default()
            .push_back(behaviour);
        self
    }

    /// Asks a closure what to do with a request, and the how many-th it is (from 0); `None` leaves it to the rest.
    pub(crate) fn script(
        &self,
        script: impl FnMut(&Received, usize) -> Option<Behaviour> + Send + 'static,
    ) -> &Self {
        self.book().script = Some(Box::new(script));
        self
    }

    /// From now on, keeps the [`digest`] of each body in its place, and no raw bytes: for long runs.
    pub(crate) fn keep_digests(&self) -> &Self {
        self.book().keeps_digests = true;
        self
    }

    /// Every whole request, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.book().ledger.received.clone()
    }

    /// Everything that was done, in order. At a key that was honoured: once.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        self.book().ledger.effects.clone()
    }

    /// For each of [`effects`](Self::effects), the place in [`received`](Self::received) of the request that had it.
    pub(crate) fn effects_at(&self) -> Vec<usize> {
        self.book().ledger.effects_at.clone()
    }

    /// For each of [`received`](Self::received), the status that was planned for it, also if it never left.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.book().ledger.statuses.clone()
    }

    /// The keys of [`effects`](Self::effects), in order; `-` for an effect without a key.
    pub(crate) fn effect_keys(&self) -> Vec<String> {
        let key = |effect: &Effect| effect.key.clone().unwrap_or_else(|| "-".to_owned());
        self.book().ledger.effects.iter().map(key).collect()
    }

    /// What no client may do: one key for two requests.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.book().ledger.violations.clone()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.book().ledger.connections
    }

    /// How many requests broke off before their end, on either side's account.
    pub(crate) fn cut_requests(&self) -> u64 {
        self.book().ledger.cut_requests
    }

    /// True when these bytes came in on any connection, in whatever place.
    pub(crate) fn saw(&self, needle: &str) -> bool {
        self.book().ledger.saw(needle.as_bytes())
    }

    /// Waits until so many whole requests came in.
    pub(crate) async fn wait_received(&self, count: usize) {
        self.wait("requests", count, |ledger| ledger.received.len())
            .await;
    }

    /// Waits until so many effects were applied.
    pub(crate) async fn wait_effects(&self, count: usize) {
        self.wait("effects", count, |ledger| ledger.effects.len())
            .await;
    }

    /// Waits until so many connections were closed by the server's own doing or by the client's.
    pub(crate) async fn wait_closed(&self, count: usize) {
        self.wait("closed connections", count, |ledger| ledger.closed)
            .await;
    }

    async fn wait(&self, what: &str, count: usize, have: impl Fn(&Ledger) -> usize) {
        let enough = async {
            loop {
                let seen = self.shared.seen.notified();
                tokio::pin!(seen);
                seen.as_mut().enable();
                if have(&self.book().ledger) >= count {
                    return;
                }
                seen.await;
            }
        };
        if tokio::time::timeout(WAIT_MAX, enough).await.is_err() {
            panic!(
                "the server has {} {what}, not {count}",
                have(&self.book().ledger)
            );
        }
    }

    /// Goes away: connections break, new ones are refused. The port stays ours.
    pub(crate) async fn down(&self) {
        let port = std::mem::replace(&mut *self.port(), Port::Moving);
        let down = match port {
            Port::Up { stop, accepting } => {
                drop(stop);
                accepting.await.expect("the accept loop ends");
                bind(self.address)
            }
            Port::Down(socket) => socket,
            Port::Moving => panic!("down() and up() at the same time"),
        };
        *self.port() = Port::Down(down);
    }

    /// Comes back, on the same port.
    pub(crate) async fn up(&self) {
        let port = std::mem::replace(&mut *self.port(), Port::Moving);
        let up = match port {
            Port::Down(socket) => {
                let listener = socket.listen(1024).expect("listen");
                let (stop, stopped) = oneshot::channel();
                let accepting = accept(listener, Arc::clone(&self.shared), stopped);
                Port::Up {
                    stop,
                    accepting: tokio::spawn(accepting),
                }
            }
            up @ Port::Up { .. } => up,
            Port::Moving => panic!("down() and up() at the same time"),
        };
        *self.port() = up;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book()
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ChaosServer {
    fn drop(&mut self) {
        let port = std::mem::replace(&mut *self.port(), Port::Moving);
        if let Port::Up { accepting, .. } = port {
            accepting.abort();
        }
    }
}

impl fmt::Debug for ChaosServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a connection and gives its number.
    fn connected(&self) -> u64 {
        self.book().ledger.connected()
    }

    fn heard(&self, connection: u64, bytes: &[u8]) {
        let mut book = self.book();
        if !book.keeps_digests {
            book.ledger.heard(connection, bytes);
        }
    }

    fn cut(&self) {
        self.book().ledger.cut_requests += 1;
    }

    fn closed(&self) {
        self.book().ledger.closed += 1;
        self.seen.notify_waiters();
    }

    /// Takes the plan for a request of which only the first bytes are known, if that plan is to cut it.
    fn take_cut(&self) -> Option<usize> {
        let mut book = self.book();
        if let Some(first) = book.next.front() {
            let after = first.cuts_request()?;
            book.next.pop_front();
            return Some(after);
        }
        book.always
            .cuts_request()
            .filter(|_| book.script.is_none() && book.next_on.is_empty())
    }

    /// Notes a request, applies its effect if that is the plan, and says what goes back.
    fn decide(&self, mut received: Received) -> Behaviour {
        let mut book = self.book();
        if book.keeps_digests {
            received.body = digest(&received.body);
        }
        let nth = book.ledger.received.len();
        let planned = book.plan(&received, nth).resolve(nth);
        let behaviour = book.ledger.enter(received, planned);
        drop(book);
        self.seen.notify_waiters();
        behaviour
    }
}

impl Book {
    fn plan(&mut self, received: &Received, nth: usize) -> Behaviour {
        let path = received.path.split('?').next().unwrap_or_default();
        if let Some(planned) = self.next_on.get_mut(path).and_then(VecDeque::pop_front) {
            return planned;
        }
        if let Some(planned) = self.next.pop_front() {
            return planned;
        }
        if let Some(planned) = self
            .script
            .as_mut()
            .and_then(|script| script(received, nth))
        {
            return planned;
        }
        self.always_on.get(path).unwrap_or(&self.always).clone()
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("reuse the address");
    #[cfg(unix)]
    socket.set_reuseport(true).expect("reuse the port");
    socket.bind(address).expect("bind");
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection::serve(stream, Arc::clone(&shared)));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// What stands for a body where only its sameness matters.
pub(crate) fn digest(body: &[u8]) -> Bytes {
    Bytes::copy_from_slice(blake3::hash(body).as_bytes())
}

/// A body of so many bytes that do not repeat in a simple way.
pub(crate) fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| byte()).collect()
}
