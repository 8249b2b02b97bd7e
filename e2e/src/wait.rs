//! Waiting for what must become true, with a limit and with words for what was seen instead.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What one look found.
pub enum Seen<T = ()> {
    Done(T),
    /// Not yet; what is there instead, for the message when the time is over.
    NotYet(String),
}

/// `Done` if it is true.
pub fn when(is_true: bool, otherwise: impl FnOnce() -> String) -> Seen {
    if is_true { Seen::Done(()) } else { Seen::NotYet(otherwise()) }
}

/// Looks until it is done. An error of the look, or the limit, ends it.
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await.with_context(|| format!("while waiting for: {what}"))? {
            Seen::Done(found) => return Ok(found),
            Seen::NotYet(seen) if Instant::now() >= deadline => bail!("not within {} s: {what}\nlast seen: {seen}", limit.as_secs()),
            Seen::NotYet(_) => sleep(LOOK).await,
        }
    }
}

/// Holds for all of `time`: the first look that finds otherwise ends it.
pub async fn holds_for(what: &str, time: Duration, mut look: impl AsyncFnMut() -> Result<Seen>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Seen::NotYet(seen) = look().await.with_context(|| format!("while watching that: {what}"))? {
            bail!("it did not stay so: {what}\nseen: {seen}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
