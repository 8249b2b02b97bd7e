//! The scenarios, in the order in which they run.

mod actions;
mod argo_cd;
mod at_rest;
mod autoscaler;
mod bad_canary;
mod chart;
mod compare;
mod crashes;
mod credentials;
mod flux;
mod frozen;
mod git;
mod give_back;
mod good_canary;
mod helm;
mod killed;
mod neighbours;
mod never_ready;
mod outage;
mod requests;
mod routes;
mod routes_in_git;
mod scaling;
mod take_over;
mod template_mode;
mod undo;

use crate::test::Scenario;

/// A `Scenario` from a module's `run`.
macro_rules! scenario {
    ($module:ident, $name:literal, alone: $alone:literal, $shows:literal) => {
        Scenario { name: $name, shows: $shows, alone: $alone, run: |test| Box::pin($module::run(test)) }
    };
}

/// What stops a part of the cluster, looks into its audit log or adds something to it: only on the cluster of `e2e/cluster/up`.
pub const ON_OUR_CLUSTER: [&str; 8] = ["outage", "at-rest", "argo-cd", "flux", "credentials", "autoscaler", "killed", "frozen"];

/// What the controller is installed with there, beside what it has everywhere.
pub use credentials::VALUES;

pub fn all() -> Vec<Scenario> {
    vec![
        // The longest of those that run beside others comes first.
        scenario!(outage, "outage", alone: false, "a minute without Prometheus is never a pass"),
        scenario!(argo_cd, "argo-cd", alone: false, "Argo CD itself leaves a rollout alone, sees its health, and is named where it cannot be lived with"),
        scenario!(flux, "flux", alone: false, "Flux itself leaves a rollout alone, brings what is committed meanwhile after it, and waits for it"),
        scenario!(helm, "helm", alone: false, "Helm 4 is refused in mid-rollout unless it forces conflicts; waits, and what they wait for"),
        scenario!(credentials, "credentials", alone: false, "metrics servers that want to know who asks; what may not be sent is sent nowhere; a collector gets the traces"),
        scenario!(compare, "compare", alone: false, "compared with stable by its pods' own counters, a worse version is taken back in seconds, and one as good goes on at its proof"),
        scenario!(take_over, "take-over", alone: false, "a running Deployment is taken over under load without a restart, and given back likewise"),
        scenario!(at_rest, "at-rest", alone: false, "20 Rollouts at rest for a minute: no request, no change, nothing left behind"),
        scenario!(git, "git", alone: false, "what Git tools put back by force is repaired within a second; who does it again and again is named, and holds the step"),
        scenario!(give_back, "give-back", alone: false, "deleted, lost and restored: the Deployment has its pods back, and nothing that was rejected is released"),
        scenario!(scaling, "scaling", alone: false, "scaled in mid-rollout, restarted as PodDisruptionBudgets allow, and a canary by the number of pods alone"),
        scenario!(undo, "undo", alone: false, "a promoted version is undone, at rest and right after the promotion, by old pods that are still warm, and to one by name"),
        scenario!(never_ready, "never-ready", alone: false, "a version that never becomes ready, and one that crashes after 20 s, are taken back; stable is untouched"),
        scenario!(neighbours, "neighbours", alone: false, "what others have in the same route stays untouched, while two Rollouts roll in it"),
        scenario!(requests, "requests", alone: false, "testers reach the canary by a header while it has no weight, and copies of requests do; an abort ends both at once"),
        scenario!(routes, "routes", alone: false, "gRPC, other namespaces, several parents, rules at their limits, and policies of a Service, on a real gateway"),
        scenario!(routes_in_git, "routes-in-git", alone: false, "routes that list both Services, with and without weights; several routes; rules by name"),
        scenario!(actions, "actions", alone: false, "the plugin steers; stale commands are refused; new templates in the middle of a rollout"),
        scenario!(template_mode, "template-mode", alone: false, "a Rollout with its own template, judged by its pods' own numbers"),
        scenario!(good_canary, "good-canary", alone: true, "a good version goes live by its weights, without a failed request"),
        scenario!(bad_canary, "bad-canary", alone: true, "a bad version is taken back by Prometheus, and stays so until a person or Git goes on"),
        scenario!(autoscaler, "autoscaler", alone: true, "an autoscaler on CPU holds the take-over of a Deployment, and scales a Rollout up and down in mid-rollout"),
        scenario!(killed, "killed", alone: true, "the controller is killed after each of its writes, in a life of its own each: the same end"),
        scenario!(frozen, "frozen", alone: true, "a leader that freezes in a write, and wakes up after another has taken over, changes nothing"),
        scenario!(chart, "chart", alone: true, "upgraded in mid-rollout; who may give which command; not uninstalled while Rollouts exist"),
        scenario!(crashes, "crashes", alone: true, "the controller is killed five times in one rollout: the same end"),
    ]
}
