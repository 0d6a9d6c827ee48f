//! Who runs the queue: the caller under a mutex, or a thread of its own that takes everything that waits,
//! makes it durable in one step, and answers all. A full disk costs a group; any other failure behind a commit poisons:
//! nothing is taken any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::Engine;
use super::crowd::{Crowd, Message, Urgent};
use super::ladder::Started;
use super::marks::Marks;
use super::queue::{Before, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::Bodies;
use crate::store::{Totals, Urgency};

/// A command that waits for its turn, and then for its commit.
pub(super) trait Work<E>: Send {
    /// Runs it. An error here costs the group; what the caller did wrong is part of the answer.
    fn run(&mut self, queue: &mut Queue<E>) -> Result<()>;
    /// Does anybody wait for it?
    fn urgency(&self) -> Urgency;
    /// Takes the names of the files that were written for it, if it came to nothing.
    fn take_undone(&mut self, group: &Result<()>) -> Vec<String>;
    /// Answers it: with its result, or with the failure of the commit.
    fn answer(self: Box<Self>, failure: Option<&Error>);
}

/// Does a command make grow what is kept?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    Grows,
    Stays,
}

/// What is to be known of a command besides what it does.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) urgency: Urgency,
    pub(super) growth: Growth,
    /// Files that were written for it.
    pub(super) written: Vec<String>,
}

impl Order {
    pub(super) fn now() -> Self {
        Self {
            urgency: Urgency::Now,
            growth: Growth::Stays,
            written: Vec::new(),
        }
    }
}

impl<E> Urgent for Box<dyn Work<E>> {
    fn urgency(&self) -> Urgency {
        self.as_ref().urgency()
    }
}

struct Verb<F, T> {
    verb: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    order: Order,
    is_refused: bool,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

pub(super) fn work<E, T, F>(verb: F, reply: Reply<T>, order: Order) -> Box<dyn Work<E>>
where
    E: Engine,
    T: Send + 'static,
    F: FnOnce(&mut Queue<E>) -> Result<T> + Send + 'static,
{
    Box::new(Verb {
        verb: Some(verb),
        result: None,
        reply,
        order,
        is_refused: false,
    })
}

impl<E, T, F> Work<E> for Verb<F, T>
where
    E: Engine,
    T: Send,
    F: FnOnce(&mut Queue<E>) -> Result<T> + Send,
{
    fn run(&mut self, queue: &mut Queue<E>) -> Result<()> {
        let Some(verb) = self.verb.take() else {
            return Ok(());
        };
        if self.order.growth == Growth::Grows
            && let Err(error) = queue.txn.check_room()
        {
            // The engine may have found out here that it failed: that is no refusal.
            if error.kind() != ErrorKind::StorageFull {
                return Err(error);
            }
            self.is_refused = true;
            self.result = Some(Err(error));
            return Ok(());
        }
        match verb(queue) {
            Err(error) if costs_the_group(&error) => Err(error),
            result => {
                self.result = Some(result);
                Ok(())
            }
        }
    }

    fn urgency(&self) -> Urgency {
        self.order.urgency
    }

    fn take_undone(&mut self, group: &Result<()>) -> Vec<String> {
        let is_undone = match group {
            Ok(()) => self.is_refused,
            Err(error) => error.kind() == ErrorKind::StorageFull,
        };
        match is_undone {
            true => std::mem::take(&mut self.order.written),
            false => Vec::new(),
        }
    }

    fn answer(self: Box<Self>, failure: Option<&Error>) {
        let result = match (failure, self.result) {
            (Some(failure), _) => Err(copy(failure)),
            (None, Some(result)) => result,
            (None, None) => Err(Error::closed()),
        };
        // Nobody waits for it when the caller dropped the future; it happened all the same.
        drop(self.reply.send(result));
    }
}

/// Errors that leave memory and disk apart; the others were found before anything changed.
fn costs_the_group(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Storage | ErrorKind::StorageFull | ErrorKind::Poisoned
    )
}

fn copy(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    match std::error::Error::source(error) {
        Some(source) => copy.with_source(source.to_string()),
        None => copy,
    }
}

/// What can be known without a trip to the queue.
#[derive(Debug, Default)]
pub(super) struct Status {
    published: Mutex<Published>,
}

#[derive(Debug, Default)]
struct Published {
    totals: Totals,
    end: Option<Error>,
    /// Somebody else changed what is stored, and nobody took notice of it yet.
    has_news: bool,
    /// What another process holds must be looked at again after a while.
    must_watch: bool,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn totals(&self) -> Result<Totals> {
        let published = self.lock();
        match &published.end {
            Some(end) => Err(copy(end)),
            None => Ok(published.totals),
        }
    }

    /// Why there is no answer.
    pub(super) fn gone(&self) -> Error {
        self.lock().end.as_ref().map_or_else(Error::closed, copy)
    }

    fn publish(&self, totals: Totals, must_watch: bool) {
        let mut published = self.lock();
        published.totals = totals;
        published.must_watch = must_watch;
    }

    fn tell_news(&self) {
        self.lock().has_news = true;
    }

    pub(super) fn must_watch(&self) -> bool {
        self.lock().must_watch
    }

    /// Did somebody else change what is stored since the last call?
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.lock().has_news)
    }

    fn end(&self, error: Error) {
        self.lock().end.get_or_insert(error);
    }

    fn close(&self) {
        self.lock().end = Some(Error::closed());
    }
}

/// Commands that share a commit.
type Group<E> = Vec<Box<dyn Work<E>>>;

/// A group whose commit is over, one way or the other.
struct Ran<E> {
    group: Group<E>,
    failure: Option<Error>,
    /// Files that nothing refers to any more.
    garbage: Vec<String>,
}

impl<E> Ran<E> {
    fn over(mut group: Group<E>, end: Result<()>, mut garbage: Vec<String>) -> Self {
        for work in &mut group {
            garbage.extend(work.take_undone(&end));
        }
        Self {
            group,
            failure: end.err(),
            garbage,
        }
    }
}

/// A queue that can fail for good.
#[derive(Debug)]
pub(super) struct Runner<E> {
    queue: Option<Queue<E>>,
    status: Arc<Status>,
    bodies: Option<Arc<Bodies>>,
    marks: Option<Marks>,
}

impl<E: Engine> Runner<E> {
    fn open(
        make: impl FnOnce() -> Result<Started<E>>,
        status: Arc<Status>,
        bodies: Option<Arc<Bodies>>,
    ) -> Self {
        let opened = catch_unwind(AssertUnwindSafe(make));
        let mut marks = None;
        let queue = match opened.unwrap_or_else(|_| Err(panicked(ErrorKind::Corrupt))) {
            Ok(started) => {
                status.publish(started.queue.totals(), false);
                marks = started.marks.map(Marks::new);
                Some(started.queue)
            }
            Err(error) => {
                // Nothing was opened yet that could disagree with the disk: it is damaged, and that is all.
                let error = match error.kind() {
                    ErrorKind::Poisoned => {
                        Error::new(ErrorKind::Corrupt, error.to_string()).with_source(error)
                    }
                    _ => error,
                };
                tracing::error!(%error, "the store could not be opened");
                status.end(error);
                None
            }
        };
        Self {
            queue,
            status,
            bodies,
            marks,
        }
    }

    /// Runs the commands of a group, each as it comes, in one commit. What is left to do is to answer them.
    fn run(&mut self, commands: impl Iterator<Item = Box<dyn Work<E>>>) -> Ran<E> {
        if let Some(Err(error)) = self.bodies.as_ref().map(|bodies| bodies.check()) {
            self.poison(&error);
        }
        let Some(queue) = &mut self.queue else {
            return Ran::over(commands.collect(), Err(self.status.gone()), Vec::new());
        };
        let is_changed = match queue.txn.begin() {
            Ok(is_changed) => is_changed,
            // Nothing has begun, and nothing is lost: the next group may have better luck.
            Err(error) => return Ran::over(commands.collect(), Err(error), Vec::new()),
        };
        let before = queue.before();
        let mut group = Group::new();
        let done = catch_unwind(AssertUnwindSafe(|| {
            if is_changed {
                self.status.tell_news();
            }
            queue.catch_up(is_changed)?;
            for work in commands {
                group.push(work);
                group.last_mut().map_or(Ok(()), |work| work.run(queue))?;
            }
            queue.commit()
        }));
        match done.unwrap_or_else(|_| Err(panicked(ErrorKind::Poisoned))) {
            Ok(()) => {
                self.status.publish(queue.totals(), queue.must_watch);
                if let Some(marks) = &mut self.marks {
                    marks.note(queue);
                }
                let garbage = std::mem::take(&mut queue.garbage);
                Ran::over(group, Ok(()), garbage)
            }
            Err(error) => {
                self.take_back(&error, before);
                Ran::over(group, Err(error), Vec::new())
            }
        }
    }

    /// After a group that came to nothing: a full disk passes, everything else is final.
    fn take_back(&mut self, error: &Error, before: Before) {
        let is_full = error.kind() == ErrorKind::StorageFull;
        let taken_back = match self.queue.as_mut().filter(|_| is_full) {
            Some(queue) => queue.take_back(before),
            None => Err(copy(error)),
        };
        if let Err(error) = taken_back {
            self.poison(&error);
        }
    }

    fn is_shared(&self) -> bool {
        let queue = self.queue.as_ref();
        queue.is_some_and(|queue| queue.txn.is_shared())
    }

    fn answer(&self, ran: Ran<E>) {
        let failure = ran.failure.as_ref();
        let (awaited, others): (Vec<_>, Vec<_>) = ran
            .group
            .into_iter()
            .partition(|work| work.urgency() == Urgency::Now);
        let in_order = awaited.into_iter().chain(others);
        in_order.for_each(|work| work.answer(failure));
        if let Some(bodies) = &self.bodies {
            ran.garbage.iter().for_each(|name| bodies.remove(name));
        }
    }

    fn poison(&mut self, error: &Error) {
        if self.queue.is_none() {
            return;
        }
        tracing::error!(%error, "the store failed and takes nothing more");
        let text = format!("the store failed before ({error}); reopen it");
        self.status.end(Error::new(ErrorKind::Poisoned, text));
        if let Some(marks) = &self.marks {
            marks.suspect();
        }
        self.end(|engine| {
            engine.abandon();
            Ok(())
        });
    }

    fn close(&mut self) {
        self.end(E::close);
        self.status.close();
    }

    fn end(&mut self, end: impl FnOnce(E) -> Result<()>) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        // The mark is written while the directory is still locked.
        drop(self.marks.take());
        let ended = catch_unwind(AssertUnwindSafe(|| end(queue.into_engine())));
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the store did not close cleanly; everything acknowledged is on disk");
        }
    }
}

fn panicked(kind: ErrorKind) -> Error {
    Error::new(kind, "the storage engine panicked")
}

/// The way to the queue.
pub(super) enum Front<E> {
    Inline(Box<Mutex<Runner<E>>>),
    Thread {
        messages: Sender<Message<Box<dyn Work<E>>>>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
}

impl<E> std::fmt::Debug for Front<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inline(_) => "Inline",
            Self::Thread { .. } => "Thread",
        })
    }
}

impl<E: Engine + Send + 'static> Front<E> {
    pub(super) fn inline(engine: E, status: Arc<Status>) -> Self {
        Self::Inline(Box::new(Mutex::new(Runner::open(
            || Started::plain(engine),
            status,
            None,
        ))))
    }

    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when no thread can be started.
    pub(super) fn thread(
        make: impl FnOnce() -> Result<Started<E>> + Send + 'static,
        status: Arc<Status>,
        bodies: Option<Arc<Bodies>>,
    ) -> Result<Self> {
        let (messages, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("syncvault-store".into())
            .spawn(move || serve(Runner::open(make, status, bodies), &inbox))
            .map_err(|e| {
                Error::new(ErrorKind::Storage, "cannot start the store's thread").with_source(e)
            })?;
        let thread = Mutex::new(Some(thread));
        Ok(Self::Thread { messages, thread })
    }

    /// Hands a command over. It is executed even when nobody waits for its answer.
    pub(super) fn send(&self, work: Box<dyn Work<E>>) {
        match self {
            Self::Inline(runner) => {
                let mut runner = runner.lock().unwrap_or_else(PoisonError::into_inner);
                let ran = runner.run(std::iter::once(work));
                runner.answer(ran);
            }
            Self::Thread { messages, .. } => {
                // When the thread is gone, the answer's sender goes with the work, and the caller sees that.
                drop(messages.send(Message::Work(work)));
            }
        }
    }

    /// Lets the queue see that a body could not be synced, so that nothing more is acknowledged.
    pub(super) fn stop_if_broken(&self) {
        let (reply, _) = oneshot::channel();
        self.send(work(|_| Ok(()), reply, Order::now()));
    }

    pub(super) async fn close(&self) {
        let (messages, thread) = match self {
            Self::Inline(runner) => {
                return runner
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .close();
            }
            Self::Thread { messages, thread } => (messages, thread),
        };
        let (done, is_done) = oneshot::channel();
        let is_sent = messages.send(Message::Close(done)).is_ok();
        if is_sent && is_done.await.is_ok() {
            let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // It has answered as its last act, so this does not wait; its panics were caught.
            drop(thread.map(JoinHandle::join));
        }
    }
}

fn serve<E: Engine>(mut runner: Runner<E>, inbox: &Receiver<Message<Box<dyn Work<E>>>>) {
    let mut crowd = Crowd::new(inbox);
    while crowd.wait(runner.is_shared()) {
        let ran = runner.run(&mut crowd);
        let urgencies = ran.group.iter().map(|work| work.urgency());
        let answered = urgencies.filter(|urgency| *urgency == Urgency::Now).count();
        crowd.expect_back(answered);
        runner.answer(ran);
    }
    runner.close();
    if let Some(done) = crowd.into_closing()
        && done.send(()).is_err()
    {
        tracing::debug!("nobody waits for the store to close");
    }
}
