//! Which sync waits for which. Checked once, when the orchestrator is built: unknown names and cycles do not get through.

use super::report::Phase;
use crate::error::{Error, Result};
use crate::sync::FeatureKey;

/// One sync of one feature.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) phase: Phase,
    pub(super) feature: FeatureKey,
    pub(super) priority: i32,
    pub(super) depends_on: Vec<FeatureKey>,
}

/// All of them, each with the numbers of those it waits for.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    waits_for: Vec<Vec<usize>>,
}

impl Graph {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown dependency, a name twice, or a cycle, which is named.
    pub(super) fn new(nodes: Vec<Node>) -> Result<Self> {
        let mut graph = Self {
            waits_for: Vec::with_capacity(nodes.len()),
            nodes,
        };
        for at in 0..graph.nodes.len() {
            let waits_for = graph.resolve(at)?;
            graph.waits_for.push(waits_for);
        }
        match graph.cycle() {
            None => Ok(graph),
            Some(names) => {
                let text = format!(
                    "features wait for each other: {}; take one of these dependencies out",
                    names.join(" -> ")
                );
                Err(Error::invalid(text))
            }
        }
    }

    pub(super) fn find(&self, phase: Phase, feature: &FeatureKey) -> Option<usize> {
        let is_it = |node: &Node| node.phase == phase && node.feature == *feature;
        self.nodes.iter().position(is_it)
    }

    pub(super) fn waits_for(&self, at: usize) -> &[usize] {
        &self.waits_for[at]
    }

    /// These, and everything that they wait for.
    pub(super) fn with_dependencies(&self, from: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut open: Vec<usize> = from.into_iter().collect();
        let mut is_in = vec![false; self.nodes.len()];
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut is_in[at], true) {
                open.extend(&self.waits_for[at]);
            }
        }
        (0..is_in.len()).filter(|at| is_in[*at]).collect()
    }

    fn resolve(&self, at: usize) -> Result<Vec<usize>> {
        let node = &self.nodes[at];
        if node.feature.as_str().is_empty() {
            return Err(Error::invalid("a feature needs a name"));
        }
        if self.find(node.phase, &node.feature) != Some(at) {
            let text = format!("the {} feature {} is there twice", node.phase, node.feature);
            return Err(Error::invalid(text));
        }
        let own = match node.phase {
            Phase::Initial => None,
            Phase::Background => self.find(Phase::Initial, &node.feature),
        };
        let named = node
            .depends_on
            .iter()
            .map(|name| self.dependency(node, name));
        let mut waits_for = named.collect::<Result<Vec<_>>>()?;
        waits_for.extend(own);
        Ok(waits_for)
    }

    /// The same sync of the other feature; where it has none, its initial one.
    fn dependency(&self, node: &Node, name: &FeatureKey) -> Result<usize> {
        let found = self.find(node.phase, name);
        found
            .or_else(|| self.find(Phase::Initial, name))
            .ok_or_else(|| {
                let Node { feature, phase, .. } = node;
                let text = format!(
                    "the {phase} feature {feature} depends on {name}, which is no {phase} feature: add it, or correct the name"
                );
                Error::invalid(text)
            })
    }

    /// The names along a cycle, the first one again at the end.
    fn cycle(&self) -> Option<Vec<&str>> {
        let mut is_done = vec![false; self.nodes.len()];
        (0..self.nodes.len()).find_map(|start| self.cycle_from(start, &mut is_done))
    }

    fn cycle_from(&self, start: usize, is_done: &mut [bool]) -> Option<Vec<&str>> {
        // Each with the number of dependencies that were followed.
        let mut path = vec![(start, 0)];
        while let Some((at, followed)) = path.last_mut() {
            let Some(next) = self.waits_for[*at].get(*followed).copied() else {
                is_done[*at] = true;
                path.pop();
                continue;
            };
            *followed += 1;
            if let Some(first) = path.iter().position(|(at, _)| *at == next) {
                let around = path[first..].iter().map(|(at, _)| *at).chain([next]);
                return Some(around.map(|at| self.nodes[at].feature.as_str()).collect());
            }
            if !is_done[next] {
                path.push((next, 0));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Result<Graph> {
        let node = |(name, depends_on): &(&str, &[&str])| Node {
            phase: Phase::Background,
            feature: FeatureKey::from(*name),
            priority: 0,
            depends_on: depends_on
                .iter()
                .map(|name| FeatureKey::from(*name))
                .collect(),
        };
        Graph::new(edges.iter().map(node).collect())
    }

    fn refusal(edges: &[(&str, &[&str])]) -> String {
        graph(edges).expect_err("refused").to_string()
    }

    #[test]
    fn a_cycle_is_named_from_end_to_end() {
        let text = refusal(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
        assert!(text.contains("b -> c -> d -> b;"), "{text}");
        let text = refusal(&[("a", &["a"])]);
        assert!(text.contains("a -> a;"), "{text}");
    }

    #[test]
    fn many_ways_to_one_feature_are_no_cycle() {
        let graph = graph(&[
            ("d", &["b", "c"]),
            ("b", &["a"]),
            ("c", &["a", "b"]),
            ("a", &[]),
        ]);
        let graph = graph.expect("no cycle");
        assert_eq!(graph.with_dependencies([1]), [1, 3]);
        assert_eq!(graph.with_dependencies([0]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_long_chain_is_followed_without_recursion() {
        let names: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        let node = |at: usize| Node {
            phase: Phase::Initial,
            feature: FeatureKey::from(names[at].as_str()),
            priority: 0,
            depends_on: Vec::new(),
        };
        let graph = Graph {
            nodes: (0..names.len()).map(node).collect(),
            waits_for: (1..=names.len())
                .map(|next| vec![next % names.len()])
                .collect(),
        };
        assert_eq!(graph.cycle().map(|names| names.len()), Some(20_001));
    }

    #[test]
    fn unknown_and_double_names_are_refused() {
        let text = refusal(&[("a", &["x"])]);
        assert!(text.contains("a depends on x"), "{text}");
        let text = refusal(&[("a", &[]), ("a", &[])]);
        assert!(text.contains("twice"), "{text}");
        let text = refusal(&[("", &[])]);
        assert!(text.contains("needs a name"), "{text}");
    }
}
