//! Every state that a small world can reach. A shop of two pods rolls a version out in two steps (half of the traffic, then an analysis);
//! at every moment the version may turn bad or good, lose its pods' readiness or get it back, another template may come, a person may give
//! any command, and the controller may crash: before its next look, or after any write of it. Breadth first, until nothing new appears:
//! what is found is the shortest way to it. In each state the promises hold, and from each the world comes to rest by itself.
//!
//! Two states are the same if the controller, the cluster and a person cannot tell them apart: see [`canon`]. By default it ends after the
//! first states, those that come of the fewest moves; `SLUICE_STATES=100000 cargo test --test explore -- --nocapture` goes on.
#![cfg(feature = "sim")]

mod canon;
mod world;

use std::collections::{HashMap, VecDeque};

use canon::{Digest, digest};
use world::{Move, World};

/// Where a state was come to from, and by what.
struct Way {
    from: Digest,
    by: Move,
}

#[derive(Default)]
struct Explored {
    ways: HashMap<Digest, Option<Way>>,
    /// What comes of a state if nobody does anything.
    alone: HashMap<Digest, Digest>,
    transitions: usize,
}

impl Explored {
    /// The moves that lead to a state.
    fn moves_to(&self, state: Digest) -> Vec<Move> {
        let mut moves = vec![];
        let mut at = state;
        while let Some(Some(way)) = self.ways.get(&at) {
            moves.push(way.by);
            at = way.from;
        }
        moves.reverse();
        moves
    }

    /// From everywhere, the world comes to rest by itself: no way of states in which nobody does anything is a circle.
    fn circles(&self) -> Option<Digest> {
        let mut safe: HashMap<Digest, usize> = HashMap::new();
        for (walk, start) in self.alone.keys().enumerate() {
            let mut at = *start;
            while let Some(next) = self.alone.get(&at) {
                match safe.insert(at, walk) {
                    Some(before) if before == walk => return Some(at),
                    Some(_) => break,
                    None => at = *next,
                }
            }
        }
        None
    }
}

fn explore(start: World, moves: &[Move], most: usize) -> Explored {
    let mut explored = Explored::default();
    let first = digest(&start);
    explored.ways.insert(first, None);
    let mut frontier = VecDeque::from([(first, start)]);
    while let Some((from, world)) = frontier.pop_front().filter(|_| explored.ways.len() < most) {
        let mut moves: VecDeque<Move> = moves.iter().copied().collect();
        while let Some(by) = moves.pop_front() {
            let Some(next) = world.after(by) else { continue };
            let to = digest(&next);
            explored.transitions += 1;
            if by == Move::GoOn {
                moves.extend((1..=next.drive.writes - world.drive.writes).map(Move::CrashAfter));
                explored.alone.insert(from, to);
            }
            let new = !explored.ways.contains_key(&to);
            if new {
                explored.ways.insert(to, Some(Way { from, by }));
            }
            let broken = next.broken();
            assert!(broken.is_empty(), "{broken:#?}\nby {:?}, {by:?}\nit did {:#?}", explored.moves_to(from), next.tail());
            if new {
                frontier.push_back((to, next));
                if explored.ways.len().is_multiple_of(1_000) {
                    eprintln!("{} states, {} transitions, {} to go on from", explored.ways.len(), explored.transitions, frontier.len());
                }
            }
        }
    }
    if let Some(circle) = explored.circles() {
        panic!("it does not come to rest by itself after {:?}", explored.moves_to(circle));
    }
    explored
}

#[test]
fn the_promises_hold_in_every_state_that_a_small_world_can_reach() {
    let most = std::env::var("SLUICE_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500);
    let explored = explore(World::open(), &Move::ALL, most);
    println!("{} states, {} transitions", explored.ways.len(), explored.transitions);
}
