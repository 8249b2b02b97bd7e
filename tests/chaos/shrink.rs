//! The smallest part of a scenario that still fails.

use super::{
    play::{Failure, play},
    scenario::Scenario,
};

/// Drops events as long as it still fails: halves first, then ever smaller parts (delta debugging).
pub fn shrink(scenario: &Scenario, failure: Failure) -> (Scenario, Failure) {
    let (mut smallest, mut last) = (scenario.clone(), failure);
    let mut size = smallest.events.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut dropped = false;
        while at < smallest.events.len() {
            let mut fewer = smallest.clone();
            fewer.events.drain(at..(at + size).min(fewer.events.len()));
            match play(&fewer) {
                Err(failure) => (smallest, last, dropped) = (fewer, failure, true),
                Ok(()) => at += size,
            }
        }
        match (size, dropped) {
            (1, false) => return (smallest, last),
            (1, true) => {}
            _ => size /= 2,
        }
    }
}
