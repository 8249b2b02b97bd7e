//! Rules of our own in a route, for the time of a rollout: they send requests to the canary by their headers, or copies of requests. Each is a
//! copy of a rule that is split, for a narrower match, and stands behind all rules of the route's authors: a narrower match comes first by
//! itself, and where it does not, theirs wins. Which ones are ours is in the record ([`Record::added`](super::route::Record)).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    observed::RuleView,
    patch::Guarded,
    requests::{Inexpressible, Requests, comes_before, takes_from},
    route::{Record, Route, Rule, names},
    spec::{Invalid, Spec, Weight, invalid},
};

/// The Gateway API's limits.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_MATCHES_OF_ROUTE: usize = 128;
const MAX_HEADERS: usize = 16;
const MAX_FILTERS: usize = 16;

/// What becomes of the requests of a [`CanaryRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// All go to the canary.
    Send,
    /// So many percent are copied to the canary, which changes nothing else.
    Mirror(i32),
}

/// Requests that reach the canary whatever its weight, or copies of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryRule {
    /// The field of the step that sets it.
    pub field: String,
    pub name: String,
    pub effect: Effect,
    /// Those that fit any of these.
    pub requests: Vec<Requests>,
}

impl CanaryRule {
    /// Gives the canary all that the other one does.
    fn covers(&self, other: &Self) -> bool {
        let enough = match (self.effect, other.effect) {
            (Effect::Send, Effect::Send) => true,
            (Effect::Mirror(mine), Effect::Mirror(others)) => mine >= others,
            _ => false,
        };
        enough && self.requests == other.requests
    }
}

/// What the canary gets of the traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Portion {
    pub weight: Weight,
    pub rules: Vec<CanaryRule>,
}

impl From<Weight> for Portion {
    fn from(weight: Weight) -> Self {
        Self { weight, rules: vec![] }
    }
}

impl Portion {
    pub fn is_nothing(&self) -> bool {
        self.weight == Weight::ZERO && self.rules.is_empty()
    }

    pub fn gives_more_than(&self, other: &Self) -> bool {
        self.weight > other.weight || self.rules.iter().any(|rule| !other.rules.iter().any(|before| before.covers(rule)))
    }
}

impl std::fmt::Display for Portion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.weight.fmt(f)?;
        let names: Vec<&str> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { write!(f, " and the requests of {}", names.join(", ")) }
    }
}

/// What a record says of one rule of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddedRule {
    /// Index of the rule when it was written.
    at: usize,
    matches: Value,
    /// The Services that it names.
    backends: Vec<String>,
}

impl AddedRule {
    fn of(at: usize, rule: &Value) -> Self {
        let backends = rule.get("backendRefs").and_then(Value::as_array).into_iter().flatten().map(name_of).collect();
        Self { at, matches: rule.get("matches").cloned().unwrap_or_default(), backends }
    }

    /// A live rule is this one, whatever else somebody has changed in it.
    fn is(&self, live: &RuleView) -> bool {
        live.rest.get("matches").is_some_and(|matches| holds(matches, &self.matches))
            && live.refs.iter().map(name_of).eq(self.backends.clone())
    }
}

fn name_of(backend: &Value) -> String {
    backend.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Live is what was written; the API server may have added defaults.
fn holds(live: &Value, written: &Value) -> bool {
    match (live, written) {
        (Value::Object(live), Value::Object(written)) => written.iter().all(|(key, value)| live.get(key).is_some_and(|l| holds(l, value))),
        (Value::Array(live), Value::Array(written)) => live.len() == written.len() && live.iter().zip(written).all(|(l, w)| holds(l, w)),
        _ => live == written,
    }
}

/// Where the rules of a record stand, each with what it says of it.
fn located<'r>(record: &'r Record, rules: &[RuleView]) -> Vec<(Option<usize>, &'r AddedRule)> {
    let mut taken: Vec<usize> = vec![];
    let mut locate = |added: &AddedRule| {
        let is_it = |at: &usize| !taken.contains(at) && rules.get(*at).is_some_and(|rule| added.is(rule));
        let found = std::iter::once(added.at).chain((0..rules.len()).rev()).find(is_it)?;
        taken.push(found);
        Some(found)
    };
    record.added.iter().map(|added| (locate(added), added)).collect()
}

/// Places of the rules that Rollouts have added to a route.
pub fn places<'r>(records: impl IntoIterator<Item = &'r Record>, rules: &[RuleView]) -> Vec<usize> {
    records.into_iter().flat_map(|record| located(record, rules)).filter_map(|(at, _)| at).collect()
}

fn matches_of(rule: &RuleView) -> Vec<Value> {
    let matches = rule.rest.get("matches").and_then(Value::as_array).filter(|matches| !matches.is_empty());
    matches.cloned().unwrap_or_else(|| vec![json!({})])
}

impl<'a> Route<'a> {
    /// Where our rules stand.
    fn own(&self) -> Vec<usize> {
        let mut own = places(self.record(), &self.view.rules);
        own.sort_unstable();
        own
    }

    /// A rule of ours was taken out by somebody.
    pub fn has_lost_rules(&self) -> bool {
        self.record().is_some_and(|record| located(record, &self.view.rules).iter().any(|(at, _)| at.is_none()))
    }

    /// Whether the canary gets any requests, or copies of them: by weight, or by a rule of ours.
    pub fn is_on(&self) -> bool {
        self.canary_weight() > Weight::ZERO || !self.own().is_empty()
    }

    /// Our rules as they are to stand.
    fn wanted(&self, portion: &Portion, denominator: u64) -> Vec<Value> {
        self.copies(portion, denominator).into_iter().filter_map(Result::ok).collect()
    }

    /// Those that send come first: a request that two rules of the same rank fit goes to the first.
    fn copies(&self, portion: &Portion, denominator: u64) -> Vec<Result<Value, Invalid>> {
        if portion.rules.is_empty() {
            return vec![];
        }
        let split = self.rules(denominator);
        let (send, mirror): (Vec<_>, Vec<_>) = portion.rules.iter().partition(|rule| rule.effect == Effect::Send);
        let mut copies: Vec<Result<Value, Invalid>> = vec![];
        for canary in send.into_iter().chain(mirror) {
            // Their own copies come first where requests fit several rules.
            let copied: Vec<&Rule<'a>> = split.iter().filter(|rule| self.is_copied(canary, rule)).collect();
            for rule in &copied {
                let copy = self.narrowed(canary, rule, &copied, &split).map(|matches| self.copy(canary, rule, portion.weight, matches));
                copies.extend(copy.transpose().filter(|copy| !copies.contains(copy)));
            }
        }
        copies
    }

    /// Not where the rule gives our Services nothing. And what another Rollout has a part in must not stand twice with both parts: each
    /// write of its own moves one rule.
    fn is_copied(&self, canary: &CanaryRule, rule: &Rule<'a>) -> bool {
        !self.canary_backends(rule).is_empty() && (canary.effect == Effect::Send || !self.is_shared(rule))
    }

    /// The canary's backends, with all that belongs to our Services.
    fn canary_backends(&self, rule: &Rule<'a>) -> Vec<Value> {
        let full = self.split(rule, Weight::FULL).into_iter().filter(|b| b.weight > 0).map(|b| b.placed(rule.live));
        full.filter(|b| names(b, self.namespace, self.pair.canary)).collect()
    }

    /// A copy of a rule for these matches; nothing where there are none.
    fn copy(&self, canary: &CanaryRule, rule: &Rule<'a>, weight: Weight, matches: Vec<Value>) -> Option<Value> {
        let canaries = self.canary_backends(rule);
        let mut copied: Map<String, Value> = self.view.rules[rule.at].rest.clone();
        copied.remove("name"); // names are unique
        match canary.effect {
            Effect::Send => copied.insert("backendRefs".to_owned(), json!(canaries)),
            Effect::Mirror(percent) => {
                let filters = copied.entry("filters").or_insert_with(|| json!([]));
                filters.as_array_mut().into_iter().for_each(|filters| filters.extend(canaries.first().map(|b| mirror(b, percent))));
                copied.insert("backendRefs".to_owned(), json!(self.placed(rule, weight)))
            }
        };
        let any = !matches.is_empty();
        copied.insert("matches".to_owned(), json!(matches));
        any.then_some(Value::Object(copied))
    }

    /// Another Rollout has a part in the rule at present.
    fn is_shared(&self, rule: &Rule<'a>) -> bool {
        let has_part = |record: &Record| rule.live.iter().any(|b| record.pair().has(b, self.namespace));
        self.others().any(has_part)
    }

    /// The matches of a rule for the requests of `canary`. Those that would take requests from another rule are left out if that is only
    /// for the time in which another Rollout has a part in it; else they are an error.
    fn narrowed(&self, canary: &CanaryRule, rule: &Rule<'a>, copied: &[&Rule<'a>], split: &[Rule<'a>]) -> Result<Vec<Value>, Invalid> {
        let wrong = |why: String| invalid(&canary.field, format!("{} of {}: {why}", canary.name, self.named()));
        let own = matches_of(&self.view.rules[rule.at]);
        let mut narrowed = vec![];
        'next: for (own, requests) in own.iter().flat_map(|own| canary.requests.iter().map(move |requests| (own, requests))) {
            let narrow = requests.narrow(own).map_err(|Inexpressible(why)| {
                wrong(format!(
                    "a match of spec.rules[{}] cannot be narrowed: {why}: choose other requests in this step, or change that match",
                    rule.at
                ))
            })?;
            let Some(narrow) = narrow else { continue };
            for (at, other) in self.authors_matches() {
                if holds(&other, &narrow) && holds(&narrow, &other) {
                    let mend = "is for the same requests, and comes first: take it out, or choose other requests";
                    return Err(wrong(format!("spec.rules[{at}] {mend}")));
                }
                let copy_of_other = || requests.narrow(&other).ok().flatten();
                let keeps = || copied.iter().any(|r| r.at == at) && copy_of_other().is_none_or(|copy| comes_before(&copy, &narrow));
                if at == rule.at || !takes_from(&narrow, (own, rule.at), (&other, at)) || keeps() {
                    continue;
                }
                if split.iter().any(|r| r.at == at && self.is_shared(r)) {
                    continue 'next;
                }
                return Err(wrong(format!(
                    "a copy of spec.rules[{}] for these requests would come before spec.rules[{at}], and take requests from it: choose other requests, or give the two rules paths of their own",
                    rule.at
                )));
            }
            narrowed.push(narrow);
        }
        Ok(narrowed)
    }

    /// The matches of the rules that no Rollout has added, with the places of the rules.
    fn authors_matches(&self) -> impl Iterator<Item = (usize, Value)> {
        let added = self.added_places();
        let authors = self.view.rules.iter().enumerate().filter(move |(at, _)| !added.contains(at));
        authors.flat_map(|(at, rule)| matches_of(rule).into_iter().map(move |matched| (at, matched)))
    }

    /// Whether our rules stand just as they are to.
    pub fn has_rules(&self, portion: &Portion, denominator: u64) -> bool {
        let (own, wanted) = (self.own(), self.wanted(portion, denominator));
        let stands = |rule: &Value| own.iter().any(|at| holds(&self.view.rules[*at].whole(), rule));
        own.len() == wanted.len() && wanted.iter().all(stands)
    }

    /// Whether the canary does not get all that these rules would bring it.
    pub fn lacks(&self, portion: &Portion, denominator: u64) -> bool {
        let own = self.own();
        let is_there = |rule: &Value| {
            let enough = |live: &RuleView| AddedRule::of(0, rule).is(live) && self.mirrors(&live.whole()) >= self.mirrors(rule);
            own.iter().any(|at| enough(&self.view.rules[*at]))
        };
        !self.wanted(portion, denominator).iter().all(is_there)
    }

    /// Whether our rules bring the canary anything that these would not.
    pub fn exceeds(&self, portion: &Portion, denominator: u64) -> bool {
        let wanted = self.wanted(portion, denominator);
        let is_wanted = |at: &usize| {
            let live = &self.view.rules[*at];
            wanted.iter().any(|rule| AddedRule::of(0, rule).is(live) && self.mirrors(&live.whole()) <= self.mirrors(rule))
        };
        !self.own().iter().all(is_wanted)
    }

    /// How many percent of its requests a rule copies to the canary.
    fn mirrors(&self, rule: &Value) -> u64 {
        let filters = rule.get("filters").and_then(Value::as_array).into_iter().flatten().filter_map(|filter| filter.get("requestMirror"));
        let ours = filters.filter(|mirror| mirror.get("backendRef").is_some_and(|b| names(b, self.namespace, self.pair.canary)));
        ours.map(|mirror| mirror.get("percent").and_then(Value::as_u64).unwrap_or(100)).max().unwrap_or(0)
    }

    /// Takes our rules out, changes and appends them, so that those of a portion stand. What the record is to say of them comes with it.
    pub fn write_rules<'g>(&self, patch: Guarded<'g>, portion: &Portion, denominator: u64) -> (Guarded<'g>, Vec<AddedRule>) {
        let own = self.own();
        let mut kept: Vec<(usize, Value)> = vec![];
        let mut missing: Vec<Value> = vec![];
        for rule in self.wanted(portion, denominator) {
            let is_it = |at: &&usize| !kept.iter().any(|(taken, _)| taken == *at) && AddedRule::of(0, &rule).is(&self.view.rules[**at]);
            match own.iter().find(is_it) {
                Some(at) => kept.push((*at, rule)),
                None => missing.push(rule),
            }
        }
        let gone: Vec<usize> = own.into_iter().filter(|at| !kept.iter().any(|(stays, _)| stays == at)).collect();
        let same = |patch: Guarded<'g>, at: usize| {
            patch.test(format!("/spec/rules/{at}/matches"), self.view.rules[at].rest.get("matches").cloned().unwrap_or_default())
        };
        let changed = kept.iter().filter(|(at, rule)| !holds(&self.view.rules[*at].whole(), rule));
        let mut patch = changed.fold(patch, |patch, (at, rule)| same(patch, *at).replace(format!("/spec/rules/{at}"), rule.clone()));
        for at in gone.iter().rev() {
            patch = same(patch, *at).remove(format!("/spec/rules/{at}"));
        }
        let end = self.view.rules.len() - gone.len();
        let mut added: Vec<AddedRule> =
            kept.iter().map(|(at, rule)| AddedRule::of(at - gone.iter().filter(|before| *before < at).count(), rule)).collect();
        for (nth, rule) in missing.into_iter().enumerate() {
            added.push(AddedRule::of(end + nth, &rule));
            patch = patch.add("/spec/rules/-", rule);
        }
        (patch, added)
    }

    /// Whether the canary rules of every step can be carried out on this route.
    pub fn check_rules(&self, spec: &Spec) -> Result<(), Invalid> {
        let mut checked = Portion::default();
        for index in 0..spec.steps.len() {
            let (portion, _) = spec.portion_at(index);
            if portion.rules == checked.rules {
                continue;
            }
            let copies = self.copies(&portion, spec.denominator()).into_iter().collect::<Result<Vec<_>, _>>()?;
            self.check_limits(&portion, &copies)?;
            checked = portion;
        }
        Ok(())
    }

    fn check_limits(&self, portion: &Portion, copies: &[Value]) -> Result<(), Invalid> {
        let Some(rule) = portion.rules.last().filter(|_| !copies.is_empty()) else { return Ok(()) };
        let own = self.own();
        let others = || self.view.rules.iter().enumerate().filter(|(at, _)| !own.contains(at)).map(|(_, rule)| rule);
        let length = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let matches = || copies.iter().flat_map(|copy| copy.get("matches").and_then(Value::as_array).into_iter().flatten());
        let most = |key: &str| copies.iter().map(|copy| length(copy, key)).max().unwrap_or(0);
        let limits = [
            ("rules", others().count() + copies.len(), MAX_RULES),
            ("matches in all", others().map(|rule| matches_of(rule).len()).sum::<usize>() + matches().count(), MAX_MATCHES_OF_ROUTE),
            ("matches in a rule", most("matches"), MAX_MATCHES),
            ("filters in a rule", most("filters"), MAX_FILTERS),
            ("headers in a match", matches().map(|matched| length(matched, "headers")).max().unwrap_or(0), MAX_HEADERS),
        ];
        match limits.into_iter().find(|(_, number, limit)| number > limit) {
            None => Ok(()),
            Some((what, number, limit)) => Err(invalid(
                &rule.field,
                format!(
                    "with a copy of each rule that points at {}, {} would have {number} {what}, and {limit} are the Gateway API's limit: name the rules that are to be split in spec.traffic.routes[].ruleNames, or have fewer of them",
                    self.pair.service,
                    self.named()
                ),
            )),
        }
    }
}

/// The filter that copies requests to a backend.
fn mirror(backend: &Value, percent: i32) -> Value {
    let part = |key: &str| backend.get(key).map(|value| (key.to_owned(), value.clone()));
    let backend: Map<String, Value> = ["group", "kind", "name", "namespace", "port"].into_iter().filter_map(part).collect();
    let mut mirror = json!({"backendRef": backend});
    if percent < 100 {
        mirror["percent"] = json!(percent);
    }
    json!({"type": "RequestMirror", "requestMirror": mirror})
}
