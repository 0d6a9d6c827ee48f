//! Who shares a commit: callers that wait, callers that are expected to come right back, and commands that nobody
//! waits for, which are run while there is nothing else to do.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::Urgency;

/// How many commands share one commit.
const GROUP_MAX: usize = 512;
/// The longest that a commit waits for callers who are expected back.
const PATIENCE_MAX: Duration = Duration::from_micros(250);
/// How long a command that nobody waits for is held back, so that its commit is shared.
const LINGER: Duration = Duration::from_millis(2);
/// After how long without anybody who waits it is run. Its commit still lingers.
const QUIET: Duration = Duration::from_micros(50);

/// What comes to the thread of a queue.
pub(super) enum Message<W> {
    Work(W),
    Close(oneshot::Sender<()>),
}

/// Does anybody wait for it?
pub(super) trait Urgent {
    fn urgency(&self) -> Urgency;
}

/// Callers that were just answered often come right back; going on without them would make two groups take turns, each
/// with a sync of its own. As an iterator: the commands of one group, as they come.
pub(super) struct Crowd<'a, W> {
    inbox: &'a Receiver<Message<W>>,
    waiting: VecDeque<W>,
    /// Nobody waits for these, and when each came.
    idle: VecDeque<(W, Instant)>,
    /// When there is nothing else to do, how long these wait before they are run.
    quiet: Duration,
    expected: usize,
    patience: Duration,
    group: Gathering,
    /// Who asked for the end; nothing that comes after that is taken.
    closing: Option<oneshot::Sender<()>>,
}

/// The group that is being gathered.
struct Gathering {
    size: usize,
    urgency: Urgency,
    /// When its first one came.
    came: Instant,
    /// When it was whole.
    left: Instant,
}

impl<'a, W: Urgent> Crowd<'a, W> {
    pub(super) fn new(inbox: &'a Receiver<Message<W>>) -> Self {
        Self {
            inbox,
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
            quiet: QUIET,
            expected: 1,
            patience: Duration::ZERO,
            group: Gathering::begun(Instant::now()),
            closing: None,
        }
    }

    /// Waits until a group can begin. False when there is nobody left who could come. A group of an engine that is shared
    /// keeps others out from its begin, so it does not linger after that.
    pub(super) fn wait(&mut self, is_shared: bool) -> bool {
        self.quiet = if is_shared { LINGER } else { QUIET };
        self.take_all();
        while self.waiting.is_empty() && self.closing.is_none() {
            let first = match self.idle.front() {
                Some((_, came)) if came.elapsed() >= self.quiet => break,
                Some((_, came)) => self.inbox.recv_timeout(self.quiet - came.elapsed()).ok(),
                None => match self.inbox.recv() {
                    Ok(first) => Some(first),
                    Err(_) => return false,
                },
            };
            first.into_iter().for_each(|first| self.take(first));
        }
        let idle_since = self.idle.front().map(|(_, came)| *came);
        self.group = Gathering::begun(match self.waiting.is_empty() {
            true => idle_since.unwrap_or_else(Instant::now),
            false => Instant::now(),
        });
        !(self.waiting.is_empty() && self.idle.is_empty())
    }

    /// To be called before a group is answered: those who wait by now, and those who may come back.
    pub(super) fn expect_back(&mut self, answered: usize) {
        self.take_all();
        self.expected = (answered + self.waiting.len()).min(GROUP_MAX);
        self.patience = (self.group.left.elapsed() / 4).min(PATIENCE_MAX);
    }

    pub(super) fn into_closing(self) -> Option<oneshot::Sender<()>> {
        self.closing
    }

    fn take(&mut self, message: Message<W>) {
        match message {
            _ if self.closing.is_some() => {}
            Message::Close(done) => self.closing = Some(done),
            Message::Work(work) if work.urgency() == Urgency::Now => self.waiting.push_back(work),
            Message::Work(work) => self.idle.push_back((work, Instant::now())),
        }
    }

    fn take_all(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
    }

    /// One that nobody waits for. A group that somebody waits for takes only what was held back for long.
    fn pop_idle(&mut self) -> Option<W> {
        let (_, came) = self.idle.front()?;
        let held = match self.group.urgency {
            _ if self.closing.is_some() => Duration::ZERO,
            Urgency::Now => LINGER,
            Urgency::Soon => self.quiet,
        };
        let is_due = came.elapsed() >= held;
        self.idle.pop_front_if(|_| is_due).map(|(work, _)| work)
    }

    /// How long the group waits for others.
    fn time_left(&self) -> Option<Duration> {
        let patience = match self.group.urgency {
            _ if self.closing.is_some() => Duration::ZERO,
            Urgency::Soon => LINGER,
            Urgency::Now if self.group.size < self.expected && self.expected > 1 => self.patience,
            Urgency::Now => Duration::ZERO,
        };
        patience.checked_sub(self.group.came.elapsed())
    }

    fn next_of_group(&mut self) -> Option<W> {
        loop {
            self.take_all();
            if let Some(work) = self.waiting.pop_front() {
                self.group.urgency = Urgency::Now;
                return Some(work);
            }
            if let Some(work) = self.pop_idle() {
                return Some(work);
            }
            let left = self.time_left()?;
            let left = if self.idle.is_empty() {
                left
            } else {
                left.min(self.quiet)
            };
            if let Ok(message) = self.inbox.recv_timeout(left) {
                self.take(message);
            }
        }
    }
}

impl Gathering {
    fn begun(came: Instant) -> Self {
        Self {
            size: 0,
            urgency: Urgency::Soon,
            came,
            left: came,
        }
    }
}

impl<W: Urgent> Iterator for Crowd<'_, W> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        let is_whole = self.group.size == GROUP_MAX;
        let next = if is_whole { None } else { self.next_of_group() };
        self.group.size += usize::from(next.is_some());
        self.group.left = Instant::now();
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A command by its name.
    #[derive(Debug)]
    struct Named(&'static str, Urgency);

    impl Urgent for Named {
        fn urgency(&self) -> Urgency {
            self.1
        }
    }

    fn awaited(to: &Sender<Message<Named>>, name: &'static str) {
        let work = Named(name, Urgency::Now);
        to.send(Message::Work(work)).expect("inbox");
    }

    fn idle(to: &Sender<Message<Named>>, name: &'static str) {
        let work = Named(name, Urgency::Soon);
        to.send(Message::Work(work)).expect("inbox");
    }

    fn group(crowd: &mut Crowd<'_, Named>) -> Vec<&'static str> {
        assert!(crowd.wait(false));
        let names = crowd.by_ref().map(|work| work.0).collect();
        crowd.expect_back(1);
        names
    }

    #[test]
    fn who_is_waited_for_goes_before_who_is_not_and_without_it() {
        let (to, inbox) = channel();
        let mut crowd = Crowd::new(&inbox);
        idle(&to, "settle");
        awaited(&to, "append");
        assert_eq!(group(&mut crowd), ["append"]);
        assert_eq!(group(&mut crowd), ["settle"]);
    }

    #[test]
    fn what_nobody_waits_for_is_run_in_silence_and_shares_the_next_commit() {
        let (to, inbox) = channel();
        let mut crowd = Crowd::new(&inbox);
        idle(&to, "settle");
        assert!(crowd.wait(false));
        assert_eq!(crowd.next().expect("in silence").0, "settle");
        awaited(&to, "append");
        assert_eq!(crowd.next().expect("in the same group").0, "append");
        assert!(crowd.next().is_none());
    }

    #[test]
    fn what_was_held_back_for_long_joins_who_is_waited_for() {
        let (to, inbox) = channel();
        let mut crowd = Crowd::new(&inbox);
        let long_ago = Instant::now().checked_sub(LINGER).expect("uptime");
        crowd
            .idle
            .push_back((Named("settle", Urgency::Soon), long_ago));
        awaited(&to, "append");
        assert_eq!(group(&mut crowd), ["append", "settle"]);
    }

    #[test]
    fn a_shared_engine_is_not_begun_for_what_may_wait() {
        let (to, inbox) = channel();
        let mut crowd = Crowd::new(&inbox);
        let before = Instant::now();
        idle(&to, "settle");
        assert!(crowd.wait(true));
        assert!(before.elapsed() >= LINGER);
        assert_eq!(crowd.next().expect("due").0, "settle");
        assert!(crowd.next().is_none());
    }

    #[test]
    fn the_end_takes_all_that_came_before_it_and_nothing_after() {
        let (to, inbox) = channel();
        let mut crowd = Crowd::new(&inbox);
        idle(&to, "settle");
        awaited(&to, "append");
        let (done, _) = oneshot::channel();
        to.send(Message::Close(done)).expect("inbox");
        awaited(&to, "late");
        assert_eq!(group(&mut crowd), ["append", "settle"]);
        assert!(!crowd.wait(false));
        assert!(crowd.into_closing().is_some());
    }
}
