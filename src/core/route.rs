//! Weights in routes. A rule's backends are never written back as a whole while a rollout runs: only the weights that are ours, and
//! the canary backend. What the rule was in Git is kept in a record on the route, and put back at rest.
//!
//! A rule that also has other backends keeps their shares exactly: all its weights are multiplied by one factor, and what belongs to
//! our two Services by Git's weights is the part that is split.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    canary_rule::{AddedRule, Portion, places},
    observed::{Meta, RouteView, RuleView},
    patch::{Action, Guarded, Kind},
    spec::{Invalid, Weight, invalid},
};
use crate::api::{keys, rollout::RouteRef};

/// The Gateway API's limits.
const MAX_WEIGHT: u64 = 1_000_000;
const MAX_BACKENDS: usize = 16;
/// A part of fewer units than this is too coarse to be split by percents.
const MIN_WHOLE: u64 = 100;

/// What a Rollout keeps on a route: `routes.sluice.dev/<rollout>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub service: String,
    pub canary_service: String,
    pub rules: Vec<RuleRecord>,
    /// Rules of our own: they send requests to the canary whatever its weight, or copies of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<AddedRule>,
    /// The revision that was taken back by the write that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// We set Flux's mark (it was not there before).
    #[serde(default)]
    pub flux: bool,
    /// A backend could not be resolved before our first write: that it cannot is not for us to wait for.
    #[serde(default)]
    pub unresolved: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRecord {
    /// Index of the rule.
    pub at: usize,
    /// Its backends as their author wrote them.
    pub git: Vec<Value>,
    /// What the weights of all backends are multiplied by.
    pub factor: u64,
    /// Rises when the rule is split anew from what Git has: entries of an older edition, of other Rollouts, say nothing any more.
    #[serde(default)]
    pub edition: u64,
    /// The weights of our own backends as we wrote them last, in the order in which they stand.
    pub wrote: Vec<u64>,
}

/// What one Rollout's record says of one rule.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    pair: Pair<'a>,
    rule: &'a RuleRecord,
}

impl Record {
    pub fn pair(&self) -> Pair<'_> {
        Pair { service: &self.service, canary: &self.canary_service }
    }
}

fn entries(record: &Record) -> impl Iterator<Item = Entry<'_>> {
    let pair = record.pair();
    record.rules.iter().map(move |rule| Entry { pair, rule })
}

/// The two Services of a Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    pub service: &'a str,
    pub canary: &'a str,
}

impl Pair<'_> {
    pub fn has(&self, backend: &Value, namespace: &str) -> bool {
        names(backend, namespace, self.service) || names(backend, namespace, self.canary)
    }
}

/// A route together with whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    pub view: &'a RouteView,
    pub rollout: &'a str,
    pub namespace: &'a str,
    pub pair: Pair<'a>,
    pub rule_names: &'a [String],
}

pub fn weight(backend: &Value) -> u64 {
    backend.get("weight").and_then(Value::as_u64).unwrap_or(1)
}

/// Whether a backend is the Service `name` of the route's own namespace.
pub fn names(backend: &Value, namespace: &str, name: &str) -> bool {
    let text = |key: &str| backend.get(key).and_then(Value::as_str);
    text("name") == Some(name)
        && text("kind").unwrap_or("Service") == "Service"
        && text("group").unwrap_or("").is_empty()
        && text("namespace").is_none_or(|ns| ns == namespace)
}

/// Two backends are the same but for their weights.
fn same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let rest = |map: &'_ serde_json::Map<String, Value>| map.len() - usize::from(map.contains_key("weight"));
    rest(one) == rest(other) && one.iter().all(|(key, value)| key == "weight" || other.get(key) == Some(value))
}

/// Each backend of a live rule with the one of Git's, which come in the same order.
fn align<'v>(live: &'v [Value], git: &'v [Value]) -> Vec<(&'v Value, Option<&'v Value>)> {
    let mut rest = git.iter().peekable();
    live.iter().map(|backend| (backend, rest.next_if(|git| same(backend, git)))).collect()
}

pub fn record_key(rollout: &str) -> String {
    format!("{}{rollout}", keys::ROUTE_RECORD_PREFIX)
}

/// One rule that is split, as it stands and as Git has it.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    pub at: usize,
    pub live: &'a [Value],
    git: Cow<'a, [Value]>,
    factor: u64,
    edition: u64,
    /// Live is what Git has (we have not written it yet, or somebody has put it back).
    as_in_git: bool,
}

/// What Rollouts keep on a route, by their names.
pub fn records(route: &Meta) -> BTreeMap<String, Record> {
    let records = route.annotations.iter().filter_map(|(key, value)| {
        let rollout = key.strip_prefix(keys::ROUTE_RECORD_PREFIX)?;
        Some((rollout.to_owned(), serde_json::from_str(value).ok()?))
    });
    records.collect()
}

impl<'a> Route<'a> {
    pub fn record(&self) -> Option<&'a Record> {
        self.view.records.get(self.rollout)
    }

    pub fn others(&self) -> impl Iterator<Item = &'a Record> + use<'a> {
        let own = self.rollout;
        self.view.records.iter().filter(move |(rollout, _)| *rollout != own).map(|(_, record)| record)
    }

    /// Places of the rules that Rollouts have added.
    pub fn added_places(&self) -> Vec<usize> {
        places(self.view.records.values(), &self.view.rules)
    }

    fn is_ours(&self, backend: &Value) -> bool {
        self.pair.has(backend, self.namespace)
    }

    fn is_service(&self, backend: &Value) -> bool {
        names(backend, self.namespace, self.pair.service)
    }

    /// Where the rules are that are split: those that the spec chooses, and those that a record says we have split.
    fn chosen(&self) -> impl Iterator<Item = (usize, &'a RuleView)> + '_ {
        let record = self.record();
        let named = |rule: &RuleView| self.rule_names.is_empty() || rule.name.as_ref().is_some_and(|name| self.rule_names.contains(name));
        let recorded = move |at: usize| record.is_some_and(|r| r.rules.iter().any(|entry| entry.at == at));
        let added = self.added_places();
        let rules = self.view.rules.iter().enumerate().filter(move |(at, _)| !added.contains(at));
        rules.filter(move |(at, rule)| (named(rule) || recorded(*at)) && rule.refs.iter().any(|backend| self.is_service(backend)))
    }

    /// The rules that are split.
    pub fn rules(&self, denominator: u64) -> Vec<Rule<'a>> {
        self.chosen().map(|(at, rule)| self.rule(at, rule, denominator)).collect()
    }

    /// What a rule is in Git, and what it is multiplied by. All Rollouts that split it agree on that: it is what the newest edition says,
    /// if live is what was written after it. Else its author wrote it, or a tool has put it back.
    fn rule(&self, at: usize, rule: &'a RuleView, denominator: u64) -> Rule<'a> {
        let live = rule.refs.as_slice();
        let all: Vec<Entry<'a>> = self.record().into_iter().chain(self.others()).flat_map(entries).collect();
        let edition = all.iter().filter(|entry| entry.rule.at == at).map(|entry| entry.rule.edition).max().unwrap_or(0);
        // By its place; or where rules were moved, by what it says.
        let (here, elsewhere): (Vec<&Entry<'a>>, Vec<&Entry<'a>>) = all.iter().partition(|entry| entry.rule.at == at);
        let mut newest = here.iter().filter(|entry| entry.rule.edition == edition).chain(&elsewhere);
        if let Some(RuleRecord { git, factor, edition, .. }) =
            newest.find(|entry| self.is_written(live, entry.rule, &all)).map(|entry| entry.rule)
        {
            return Rule { at, live, git: git.into(), factor: *factor, edition: *edition, as_in_git: false };
        }
        // Where somebody edited the live rule, the canary's backend in it is what its Rollout added, if both stand as that wrote them.
        let left =
            |entry: &&&Entry| live.iter().filter(|b| entry.pair.has(b, self.namespace)).map(weight).eq(entry.rule.wrote.iter().copied());
        let left = here.iter().filter(left).map(|entry| entry.pair);
        let known = here.iter().find(|entry| entry.rule.edition == edition).map_or(live, |entry| &entry.rule.git);
        let git = left.fold(live.to_vec(), |backends, pair| self.without_added(backends, pair, known));
        let factor = factor_for(&git, denominator);
        Rule { at, live, git: git.into(), factor, edition: edition + 1, as_in_git: true }
    }

    /// Backends without the canaries that a Rollout added to those of Git; what those have belongs to its Service.
    fn without_added(&self, backends: Vec<Value>, pair: Pair, git: &[Value]) -> Vec<Value> {
        let is_added = |backend: &Value| names(backend, self.namespace, pair.canary) && !git.iter().any(|git| same(git, backend));
        let (added, mut kept): (Vec<Value>, Vec<Value>) = backends.into_iter().partition(is_added);
        let services = kept.iter_mut().filter(|backend| names(backend, self.namespace, pair.service));
        for (service, canary) in services.zip(&added) {
            service["weight"] = json!(weight(service) + weight(canary));
        }
        kept
    }

    /// Live is what Rollouts have made of an entry: Git's backends in Git's order with their weights multiplied, and canaries anywhere
    /// between them. Each Rollout's own two stand as it wrote them, or (when another one split the rule, or it has left) as in Git.
    fn is_written(&self, live: &[Value], entry: &RuleRecord, all: &[Entry]) -> bool {
        let pairs: Vec<Pair> = all.iter().map(|entry| entry.pair).chain([self.pair]).collect();
        let aligned = align(live, &entry.git);
        let is_multiplied = |(backend, git): &(&Value, Option<&Value>)| weight(backend) == git.map_or(0, |git| weight(git) * entry.factor);
        let belongs = |backend: &Value, pair: &Pair| pair.has(backend, self.namespace);
        let is_known = |(backend, git): &(&Value, Option<&Value>)| {
            git.is_some() || pairs.iter().any(|pair| names(backend, self.namespace, pair.canary))
        };
        let stands = |pair: &Pair| {
            let own = || aligned.iter().filter(|(backend, _)| belongs(backend, pair));
            let of_pair = all.iter().filter(|e| e.pair == *pair && e.rule.edition == entry.edition && e.rule.git == entry.git);
            let wrote = |of: &Entry| own().map(|(backend, _)| weight(backend)).eq(of.rule.wrote.iter().copied());
            own().all(is_multiplied) || of_pair.clone().any(wrote)
        };
        let foreign = || aligned.iter().filter(|(backend, _)| !pairs.iter().any(|pair| belongs(backend, pair)));
        let complete = aligned.iter().filter(|(_, git)| git.is_some()).count() == entry.git.len();
        complete && aligned.iter().all(is_known) && foreign().all(is_multiplied) && pairs.iter().all(stands)
    }

    /// Whether the spec can be carried out on this route.
    pub fn check(&self) -> Result<(), Invalid> {
        for rule in self.rules(1000) {
            let wholes = self.split(&rule, Weight::FULL).into_iter().map(|b| b.weight).filter(|whole| *whole > 0);
            let (least, most) = wholes.fold((MAX_WEIGHT, 0), |(least, most), whole| (least.min(whole), most.max(whole)));
            if most > MAX_WEIGHT || least < MIN_WHOLE {
                let (kind, name, service) = (self.view.kind, &self.view.meta.name, self.pair.service);
                return Err(invalid(
                    "spec.traffic.routes",
                    format!(
                        "the weights of spec.rules[{}] of {kind} {name} cannot be multiplied so that the part of {service} can be split into percents, as no weight may be above 1,000,000: divide them all by the same number, or give {service} a larger part",
                        rule.at
                    ),
                ));
            }
            let added = self.split(&rule, Weight::ZERO).iter().filter(|b| b.live.is_none()).count();
            if rule.live.len() + added > MAX_BACKENDS {
                return Err(invalid(
                    "spec.traffic.routes",
                    format!(
                        "spec.rules[{}] of {} {} has {} backends; with the canary's it would have more than {MAX_BACKENDS}, the Gateway API's limit: take one out, or give some of them a rule of their own",
                        rule.at,
                        self.view.kind,
                        self.view.meta.name,
                        rule.live.len()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether any rule points at the Service.
    pub fn is_relevant(&self) -> bool {
        !self.rules(1000).is_empty()
    }

    /// Our backends of a rule as they are to be at a weight of the canary.
    pub fn split<'r>(&self, rule: &'r Rule<'a>, canary: Weight) -> Vec<Backend<'r>> {
        let position = |list: &[Value], name: &str| -> Vec<usize> {
            list.iter().enumerate().filter(|(_, b)| names(b, self.namespace, name)).map(|(i, _)| i).collect()
        };
        let (git_services, git_canaries) = (position(&rule.git, self.pair.service), position(&rule.git, self.pair.canary));
        let (live_services, live_canaries) = (position(rule.live, self.pair.service), position(rule.live, self.pair.canary));
        let mut backends = vec![];
        for (nth, git_at) in git_services.iter().enumerate() {
            // The canary's part in Git belongs to the pair; with more canaries than Services, the rest to the last.
            let last = if nth + 1 == git_services.len() { git_canaries.len() } else { (nth + 1).min(git_canaries.len()) };
            let in_git: u64 = git_canaries.get(nth..last).into_iter().flatten().map(|at| weight(&rule.git[*at])).sum();
            let whole = (weight(&rule.git[*git_at]) + in_git) * rule.factor;
            let part = canary.share(whole);
            let (like, pair) = (&rule.git[*git_at], self.pair);
            backends.push(Backend { live: live_services.get(nth).copied(), weight: whole - part, like, name: pair.service });
            backends.push(Backend { live: live_canaries.get(nth).copied(), weight: part, like, name: pair.canary });
        }
        // A canary backend beyond those of `service` gets nothing while a rollout runs.
        for at in live_canaries.iter().skip(git_services.len()) {
            backends.push(Backend { live: Some(*at), weight: 0, like: &rule.live[*at], name: self.pair.canary });
        }
        backends
    }

    /// The backends of a rule as they are to stand at a weight of the canary.
    pub fn placed(&self, rule: &Rule<'a>, canary: Weight) -> Vec<Value> {
        let mut backends = rule.live.to_vec();
        for (at, weight) in self.multiplied(rule) {
            backends[at]["weight"] = json!(weight);
        }
        for backend in self.split(rule, canary) {
            match backend.live {
                Some(at) => backends[at]["weight"] = json!(backend.weight),
                None => backends.push(backend.placed(rule.live)),
            }
        }
        backends
    }

    /// Whether every rule has our backends with just this split, and our rules beside them stand.
    pub fn has(&self, portion: &Portion, denominator: u64) -> bool {
        let split = self.rules(denominator).iter().all(|rule| {
            let placed = |b: &Backend| b.live.is_some_and(|at| weight(&rule.live[at]) == b.weight);
            !rule.as_in_git && self.split(rule, portion.weight).iter().all(placed)
        });
        split && self.has_rules(portion, denominator)
    }

    /// Whether no rule gives the canary anything: as we wrote it, or because the rule is as in Git, without the canary.
    pub fn is_off(&self, denominator: u64) -> bool {
        self.has(&Portion::default(), denominator) || !self.is_on() && self.rules(denominator).iter().all(|r| r.as_in_git)
    }

    /// Somebody has put a rule back (or written it anew) that we had split.
    pub fn was_put_back(&self, denominator: u64) -> bool {
        let split = self.record().is_some_and(|record| !record.rules.is_empty());
        split && (self.has_lost_rules() || self.rules(denominator).iter().any(|rule| rule.as_in_git))
    }

    /// Whether the canary backend is in every rule.
    pub fn has_entered(&self, denominator: u64) -> bool {
        self.rules(denominator).iter().all(|rule| !rule.as_in_git && self.split(rule, Weight::ZERO).iter().all(|b| b.live.is_some()))
    }

    /// The largest share that any rule gives the canary now.
    pub fn canary_weight(&self) -> Weight {
        let share = |rule: &RuleView| {
            let sum = |name: &str| rule.refs.iter().filter(|b| names(b, self.namespace, name)).map(weight).sum::<u64>();
            Weight::of(sum(self.pair.canary), sum(self.pair.canary) + sum(self.pair.service))
        };
        self.chosen().map(|(_, rule)| share(rule)).max().unwrap_or_default()
    }

    /// The patch that gives the canary this weight in every rule, and just these rules beside it. `rejected` records an abort in the same
    /// write.
    pub fn set(&self, portion: &Portion, denominator: u64, rejected: Option<&str>, epoch: u64) -> Action {
        let before = self.record();
        let flux_set = self.view.meta.annotations.get(keys::FLUX_RECONCILE).map(String::as_str);
        let others_flux = self.others().any(|r| r.flux);
        let mut record = Record {
            service: self.pair.service.to_owned(),
            canary_service: self.pair.canary.to_owned(),
            rules: vec![],
            added: vec![],
            rejected: rejected.map(str::to_owned),
            flux: before.map_or(flux_set != Some(keys::FLUX_DISABLED) || others_flux, |r| r.flux),
            unresolved: before.map_or_else(|| self.is_unresolved(), |r| r.unresolved),
        };
        let mut patch = Guarded::new(Kind::Route(self.view.kind), &self.view.meta);
        for rule in self.rules(denominator) {
            let path = format!("/spec/rules/{}/backendRefs", rule.at);
            let backends = self.split(&rule, portion.weight);
            // An abort must not wait for anything but the backends being where they are.
            patch = match rejected {
                Some(_) => rule.live.iter().enumerate().fold(patch, |p, (i, b)| p.test(format!("{path}/{i}/name"), b["name"].clone())),
                None => patch.test(path.clone(), rule.live.to_vec()),
            };
            for (at, weight) in self.multiplied(&rule) {
                patch = patch.add(format!("{path}/{at}/weight"), weight);
            }
            let mut placed: Vec<(usize, u64)> = vec![];
            let mut end = rule.live.len();
            for backend in backends {
                let at = match backend.live {
                    Some(at) => {
                        patch = patch.add(format!("{path}/{at}/weight"), backend.weight);
                        at
                    }
                    None => {
                        patch = patch.add(format!("{path}/-"), backend.placed(rule.live));
                        end += 1;
                        end - 1
                    }
                };
                placed.push((at, backend.weight));
            }
            placed.sort_unstable();
            record.rules.push(RuleRecord {
                at: rule.at,
                git: rule.git.into_owned(),
                factor: rule.factor,
                edition: rule.edition,
                wrote: placed.into_iter().map(|(_, w)| w).collect(),
            });
        }
        (patch, record.added) = self.write_rules(patch, portion, denominator);
        if flux_set != Some(keys::FLUX_DISABLED) {
            patch = patch.annotate(keys::FLUX_RECONCILE, keys::FLUX_DISABLED);
        }
        let text = serde_json::to_string(&record).unwrap_or_default();
        let what = match rejected {
            Some(revision) => format!("take all traffic of {} back to stable, and reject {revision}", self.view.meta.name),
            None => format!("give the canary {portion} in {}", self.view.meta.name),
        };
        patch.annotate(&record_key(self.rollout), text).fenced(what, epoch)
    }

    /// Everybody else's weights in a rule that stands as in Git: other Rollouts' parts, too, go on from there. What Git has not is a canary
    /// of another Rollout, left over: it gets its traffic back from its own Rollout.
    fn multiplied(&self, rule: &Rule) -> Vec<(usize, u64)> {
        let all = align(rule.live, &rule.git).into_iter().enumerate().filter(|_| rule.as_in_git);
        let others = all.filter(|(_, (backend, _))| !self.is_ours(backend));
        others.map(|(at, (_, git))| (at, git.map_or(0, |git| weight(git) * rule.factor))).collect()
    }

    /// The patch that puts the route back as its author wrote it, and takes our marks away. Both Services select the same pods by
    /// now, so any weights are right.
    pub fn restore(&self, denominator: u64) -> Option<Action> {
        let record = self.record()?;
        let mut patch = Guarded::new(Kind::Route(self.view.kind), &self.view.meta);
        for rule in self.rules(denominator).into_iter().filter(|rule| !rule.as_in_git) {
            let path = format!("/spec/rules/{}/backendRefs", rule.at);
            patch = patch.test(path.clone(), rule.live.to_vec());
            let shared = self.others().flat_map(entries).any(|entry| entry.rule.at == rule.at && entry.rule.edition == rule.edition);
            let back = if shared { self.without_us(&rule) } else { rule.git.into_owned() };
            patch = patch.replace(path, back);
        }
        (patch, _) = self.write_rules(patch, &Portion::default(), denominator);
        patch = patch.unannotate(&record_key(self.rollout));
        let what = format!("put {} back as it was", self.view.meta.name);
        if self.others().next().is_none() {
            if record.flux {
                patch = patch.unannotate(keys::FLUX_RECONCILE);
            }
            return Some(patch.unfenced(what));
        }
        Some(patch.kept_fenced(what))
    }

    /// The rule as it stands, with our part as in Git (times the factor that another Rollout still needs).
    fn without_us(&self, rule: &Rule<'a>) -> Vec<Value> {
        let of =
            |list: &'_ [Value], name: &str| -> Vec<u64> { list.iter().filter(|b| names(b, self.namespace, name)).map(weight).collect() };
        let mut git_services = of(&rule.git, self.pair.service).into_iter();
        let mut git_canaries = of(&rule.git, self.pair.canary).into_iter();
        let mut back = vec![];
        for backend in rule.live {
            let in_git = match self.is_ours(backend) {
                false => {
                    back.push(backend.clone());
                    continue;
                }
                true if self.is_service(backend) => git_services.next(),
                true => git_canaries.next(),
            };
            if let Some(weight) = in_git {
                let mut kept = backend.clone();
                kept["weight"] = json!(weight * rule.factor);
                back.push(kept);
            }
        }
        back
    }

    /// Kind and name, as messages tell it.
    pub fn named(&self) -> String {
        format!("{} {}", self.view.kind, self.view.meta.name)
    }

    fn is_unresolved(&self) -> bool {
        self.view.parents.iter().filter_map(|parent| parent.resolved.as_ref()).any(|resolved| !resolved.status)
    }

    /// Every parent that reports has taken up the route as it stands. The error says who has not, or refuses it.
    pub fn accepted(&self) -> Result<(), String> {
        self.taken_up()?;
        let generation = self.view.meta.generation;
        let ours = self.record().is_some_and(|record| !record.unresolved);
        for parent in self.view.parents.iter().filter(|_| ours) {
            let reports = parent.accepted.as_ref().is_some_and(|accepted| accepted.observed_generation != 0);
            if let Some(resolved) = parent.resolved.as_ref().filter(|r| reports && !r.status && r.observed_generation >= generation) {
                return Err(format!("{} cannot resolve the backends of {}: {}", parent.name, self.named(), resolved.message));
            }
        }
        Ok(())
    }

    /// The same, whether its backends can be resolved or not.
    pub fn taken_up(&self) -> Result<(), String> {
        let generation = self.view.meta.generation;
        for parent in &self.view.parents {
            let Some(accepted) = &parent.accepted else { continue };
            if accepted.observed_generation == 0 {
                continue; // a parent that does not report generations: it gets the grace time
            }
            if accepted.observed_generation < generation {
                return Err(format!("{} has not taken up the last change of {} yet", parent.name, self.named()));
            }
            if !accepted.status {
                return Err(format!("{} does not accept {}: {}", parent.name, self.named(), accepted.message));
            }
        }
        Ok(())
    }
}

/// One of our backends in a rule: where it stands, and its weight to be.
#[derive(Clone, Debug)]
pub struct Backend<'r> {
    live: Option<usize>,
    pub weight: u64,
    /// What it is made after, if it does not stand there yet.
    like: &'r Value,
    name: &'r str,
}

impl Backend<'_> {
    /// As it is to stand in a rule.
    pub fn placed(&self, live: &[Value]) -> Value {
        let mut value = self.live.map_or(self.like, |at| &live[at]).clone();
        value["name"] = json!(self.name);
        value["weight"] = json!(self.weight);
        value
    }
}

/// The factor for a rule: fine enough for every step, within the Gateway API's largest weight.
fn factor_for(git: &[Value], denominator: u64) -> u64 {
    let largest: u64 = git.iter().map(weight).sum::<u64>().max(1);
    denominator.min(MAX_WEIGHT / largest).max(1)
}

/// The names of rules that a route reference restricts itself to, but the route has not.
pub fn missing_rules(reference: &RouteRef, view: &RouteView) -> Vec<String> {
    let has = |name: &String| view.rules.iter().any(|rule| rule.name.as_ref() == Some(name));
    reference.rule_names.iter().filter(|name| !has(name)).cloned().collect()
}
