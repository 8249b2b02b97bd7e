//! One leader at a time. Whether another's claim has run out is judged by how long its lease has looked the same *here*, never by the
//! other's clock; every write of the lease carries the resourceVersion that was seen, so of two that try, one fails. The claim is
//! checked before each write of the controller, and the epoch on the objects fences what that check cannot.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::Instant};

/// Time for which a claim holds after it was renewed.
pub const DURATION: Duration = Duration::from_secs(15);
/// Time between two renewals.
pub const RENEW: Duration = Duration::from_secs(5);
/// Time between two attempts to get a lease that another one holds, or after an error.
pub const RETRY: Duration = Duration::from_secs(2);
/// A claim ends for us this much before it ends for the others.
const MARGIN: Duration = Duration::from_secs(3);

/// Whether we lead, and in which term.
#[derive(Clone)]
pub struct Claim {
    state: watch::Receiver<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    epoch: u64,
    until: Option<Instant>,
}

impl Claim {
    /// We lead at this very moment.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long we lead for certain: nothing that takes longer may be begun.
    pub fn remaining(&self) -> Duration {
        self.state.borrow().until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The term: rises with each new leader.
    pub fn epoch(&self) -> u64 {
        self.state.borrow().epoch
    }

    /// Waits until we lead.
    pub async fn leading(&self) {
        let mut state = self.state.clone();
        drop(state.wait_for(|s| s.until.is_some()).await);
    }

    /// Waits until we lead no more.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|s| s.until.is_none()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A claim that always holds: for a single process on a cluster of its own.
    pub fn always() -> Self {
        let (sender, state) = watch::channel(State { epoch: 1, until: Some(Instant::now() + Duration::from_secs(86_400 * 365 * 30)) });
        drop(sender);
        Self { state }
    }
}

/// What a lease looked like, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub spec: LeaseSpec,
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is free, or its holder has not renewed it in time: claim it, in a new term.
    Acquire,
    /// It is ours.
    Renew,
    /// Another one holds it.
    Wait,
}

/// What to do about a lease that has looked like `seen`.
pub fn evaluate(seen: Option<&Seen>, me: &str, now: Instant) -> Decision {
    let Some(seen) = seen else { return Decision::Acquire };
    let holder = seen.spec.holder_identity.as_deref().unwrap_or("");
    if holder.is_empty() {
        return Decision::Acquire;
    }
    if holder == me {
        return Decision::Renew;
    }
    let seconds = seen.spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(DURATION.as_secs());
    match now.duration_since(seen.since) >= Duration::from_secs(seconds) {
        true => Decision::Acquire,
        false => Decision::Wait,
    }
}

pub struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    state: watch::Sender<State>,
    seen: Option<Seen>,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> (Self, Claim) {
        let (sender, state) = watch::channel(State::default());
        let elector = Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned(), state: sender, seen: None };
        (elector, Claim { state })
    }

    /// Claims and renews for ever; `stop` releases the lease, so that another one need not wait for it to run out.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = match tokio::time::timeout(RENEW, self.attempt()).await {
                Ok(Ok(true)) => RENEW,
                Ok(Ok(false)) => RETRY,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease could not be read or written");
                    RETRY
                }
                Err(_) => {
                    tracing::warn!("the API server did not answer about the lease in time");
                    RETRY
                }
            };
            self.drop_what_ran_out();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        if let Err(error) = self.release().await {
            tracing::warn!(%error, "the lease could not be released; it runs out by itself");
        }
    }

    fn drop_what_ran_out(&self) {
        self.state.send_if_modified(|state| {
            let over = state.until.is_some_and(|until| Instant::now() >= until);
            if over {
                tracing::warn!("lost the lease");
                state.until = None;
            }
            over
        });
    }

    /// One look at the lease, and what follows from it. True if we lead.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let lease = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        self.seen = lease.as_ref().and_then(|l| l.spec.clone()).map(|spec| match self.seen.take() {
            Some(seen) if seen.spec == spec => seen,
            _ => Seen { spec, since: now },
        });
        let decision = evaluate(self.seen.as_ref(), &self.me, now);
        if decision == Decision::Wait {
            return Ok(false);
        }
        let before = self.seen.as_ref().map(|s| s.spec.clone()).unwrap_or_default();
        let term = before.lease_transitions.unwrap_or(0) + i32::from(decision == Decision::Acquire);
        let time = MicroTime(jiff::Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if decision == Decision::Acquire { Some(time.clone()) } else { before.acquire_time },
            renew_time: Some(time),
            lease_transitions: Some(term),
            ..LeaseSpec::default()
        };
        let written = match lease {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
            Some(lease) => self.api.replace(&self.name, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await,
        };
        match written {
            Ok(lease) => {
                self.seen = lease.spec.map(|spec| Seen { spec, since: now });
                // From before the request was sent: that is the latest moment from which others may count.
                self.lead(u64::try_from(term).unwrap_or(0), now + DURATION - MARGIN);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lead(&self, epoch: u64, until: Instant) {
        self.state.send_modify(|state| {
            if state.until.is_none() {
                tracing::info!(epoch, "leads");
            }
            *state = State { epoch, until: Some(until) };
        });
    }

    async fn release(&mut self) -> kube::Result<()> {
        let leads = self.state.borrow().until.is_some();
        self.state.send_modify(|state| state.until = None);
        if !leads {
            return Ok(());
        }
        let Some(lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let mut spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = None;
        self.api.replace(&self.name, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, since: Instant) -> Seen {
        let spec = LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: Some(15), ..LeaseSpec::default() };
        Seen { spec, since }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_has_looked_the_same_for_its_whole_time() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        assert_eq!(evaluate(None, "me", start), Decision::Acquire);
        assert_eq!(evaluate(Some(&seen("", start)), "me", start), Decision::Acquire);
        assert_eq!(evaluate(Some(&seen("me", start)), "me", after(100)), Decision::Renew);
        assert_eq!(evaluate(Some(&seen("other", start)), "me", after(14)), Decision::Wait);
        assert_eq!(evaluate(Some(&seen("other", start)), "me", after(15)), Decision::Acquire);
    }
}
