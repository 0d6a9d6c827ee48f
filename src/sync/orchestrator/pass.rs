//! Which sync starts next, and who hears of its end. A pass is what one call, or one trigger, asked for; passes share runs.
//! Values in, values out: no clock, no I/O.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::graph::Graph;
use super::report::{End, SyncReport};
use super::run::Need;

/// What was asked for: which syncs, and how much.
pub(super) type Wants = BTreeMap<usize, Need>;

#[derive(Debug)]
struct Want {
    need: Need,
    end: Option<End>,
}

/// One call, or one trigger.
#[derive(Debug)]
struct Pass {
    wants: BTreeMap<usize, Want>,
    /// Nothing for a trigger.
    reply: Option<oneshot::Sender<SyncReport>>,
}

/// All that are not over.
#[derive(Debug, Default)]
pub(super) struct Passes {
    open: Vec<Pass>,
}

impl Passes {
    pub(super) fn add(&mut self, wants: Wants, reply: Option<oneshot::Sender<SyncReport>>) {
        let want = |(at, need)| (at, Want { need, end: None });
        let wants = wants.into_iter().map(want).collect();
        self.open.push(Pass { wants, reply });
    }

    /// The sync that starts next: of those whose dependencies are in step and that are not `busy`, the one with the highest
    /// priority, and how much it is wanted.
    pub(super) fn next(
        &self,
        graph: &Graph,
        is_busy: impl Fn(usize) -> bool,
    ) -> Option<(usize, Need)> {
        let ready = self.open.iter().flat_map(|pass| pass.ready(graph));
        let at = ready
            .filter(|at| !is_busy(*at))
            .min_by_key(|at| (-i64::from(graph.nodes[*at].priority), *at))?;
        let wants = self.open.iter().filter_map(|pass| pass.wants.get(&at));
        let open = wants.filter(|want| want.end.is_none());
        open.map(|want| want.need).max().map(|need| (at, need))
    }

    /// True when somebody waits for this sync.
    pub(super) fn is_wanted(&self, at: usize) -> bool {
        let wants = self.open.iter().filter_map(|pass| pass.wants.get(&at));
        wants.into_iter().any(|want| want.end.is_none())
    }

    /// True when a trigger asked for this sync and has not got it.
    pub(super) fn is_triggered(&self) -> bool {
        self.open.iter().any(|pass| pass.reply.is_none())
    }

    /// A sync that was wanted so much has ended: whoever wanted it no more than that has got it.
    pub(super) fn ended(&mut self, at: usize, need: Need, end: &End) {
        for want in self
            .open
            .iter_mut()
            .filter_map(|pass| pass.wants.get_mut(&at))
        {
            if want.end.is_none() && want.need <= need {
                want.end = Some(end.clone());
            }
        }
    }

    /// Ends what waits for something that failed. Tells what was ended.
    pub(super) fn block(&mut self, graph: &Graph) -> Vec<(usize, End)> {
        let passes = self.open.iter_mut();
        passes.flat_map(|pass| pass.block(graph)).collect()
    }

    /// Ends everything that has not ended. Tells what.
    pub(super) fn cancel(&mut self) -> Vec<usize> {
        let wants = self.open.iter_mut().flat_map(|pass| &mut pass.wants);
        let open = wants.filter(|(_, want)| want.end.is_none());
        let cancelled = open.map(|(at, want)| {
            want.end = Some(End::Cancelled);
            *at
        });
        cancelled.collect()
    }

    /// Answers the passes that are over.
    pub(super) fn answer(&mut self, graph: &Graph) {
        for mut pass in self.open.extract_if(.., |pass| pass.is_over()) {
            if let Some(reply) = pass.reply.take() {
                // The caller may be gone.
                drop(reply.send(pass.report(graph)));
            }
        }
    }
}

impl Pass {
    fn is_over(&self) -> bool {
        self.wants.values().all(|want| want.end.is_some())
    }

    fn end_of(&self, at: usize) -> Option<&End> {
        self.wants.get(&at).and_then(|want| want.end.as_ref())
    }

    fn ready(&self, graph: &Graph) -> impl Iterator<Item = usize> {
        let open = self.wants.iter().filter(|(_, want)| want.end.is_none());
        open.map(|(at, _)| *at).filter(|at| {
            let mut waits_for = graph.waits_for(*at).iter();
            waits_for.all(|on| self.end_of(*on).is_some_and(End::is_success))
        })
    }

    fn block(&mut self, graph: &Graph) -> Vec<(usize, End)> {
        let mut blocked = Vec::new();
        while let Some((at, end)) = self.next_blocked(graph) {
            if let Some(want) = self.wants.get_mut(&at) {
                want.end = Some(end.clone());
            }
            blocked.push((at, end));
        }
        blocked
    }

    fn next_blocked(&self, graph: &Graph) -> Option<(usize, End)> {
        let open = self.wants.iter().filter(|(_, want)| want.end.is_none());
        open.map(|(at, _)| *at).find_map(|at| {
            graph.waits_for(at).iter().find_map(|on| {
                let end = self.end_of(*on).filter(|end| !end.is_success())?;
                Some((at, blocked_by(graph, *on, end)))
            })
        })
    }

    fn report(&self, graph: &Graph) -> SyncReport {
        let mut report = SyncReport::default();
        for (at, want) in &self.wants {
            let node = &graph.nodes[*at];
            if let Some(end) = &want.end {
                report.add(&node.feature, node.phase, end.clone());
            }
        }
        report.features.sort_by(|a, b| a.feature.cmp(&b.feature));
        report
    }
}

fn blocked_by(graph: &Graph, on: usize, end: &End) -> End {
    match end {
        End::Cancelled => End::Cancelled,
        _ => End::Blocked {
            by: graph.nodes[on].feature.clone(),
        },
    }
}
