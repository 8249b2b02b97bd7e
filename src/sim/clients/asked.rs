//! Which number of a version's requests a metric asks for, as far as that can be told from its text.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::promql::{self, Counter, Form};
use crate::{
    api::{Metric, Verdict},
    core::{
        analysis::DEFAULT_INTERVAL,
        judge::{self, Sample},
        presets,
        query::{Scope, Template, Values},
        source::{Provider, Source, Surroundings, What},
    },
};

/// What a metric's number is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// `times` the share of requests that succeed, or fail.
    Share { successes: bool, times: f64, read: Read },
    /// `times` the time that a share of the answers stays below.
    Quantile { quantile: f64, times: f64, histogram: Histogram, read: Read },
    /// This number, as somebody says.
    Assumed(f64),
    /// There is no answer.
    Nothing,
}

/// A histogram of latencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    /// Milliseconds in its unit.
    pub unit: f64,
    /// Its first and its last bound, in milliseconds.
    pub bounds: (f64, f64),
}

/// How its requests are counted.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// Over a window up to now. `samples`: what is divided by, or what the histogram holds, is the number of requests.
    Window { counted: Counted, samples: bool },
    /// Between two readings. `behind`: of Prometheus, which is asked about a moment before now.
    Edges { behind: bool },
}

/// What Prometheus makes of a counter.
#[derive(Clone, Debug, PartialEq)]
pub enum Counted {
    /// What it has grown by in one interval of the metric.
    Interval,
    Query(Counter),
}

/// Bounds of the histograms that the Prometheus clients come with.
const CLIENTS: (f64, f64) = (5.0, 10_000.0);
const ENVOY: (f64, f64) = (0.0, f64::INFINITY);

/// What a metric asks for; or why that cannot be told.
pub fn asked(metric: &Metric, args: &BTreeMap<String, String>, traffic: bool) -> Result<Asked, String> {
    let surroundings = Surroundings { prometheus: true, scope: Scope { traffic, args: Some(args.clone()) } };
    let source = Source::parse(metric, &surroundings)
        .map_err(|faults| faults.into_iter().map(|(field, message)| format!("{field}: {message}")).collect::<Vec<_>>().join("; "))?;
    let asking = Asking { metric, surroundings, values: values(metric, args, traffic), source: &source };
    let prometheus = matches!(source.provider, Provider::Prometheus { .. });
    match (&source.what, prometheus) {
        (What::Ratio { .. }, _) if metric.compare.is_some() || metric.preset.is_some() => {
            Ok(Asked::Share { successes: metric.preset.is_some(), times: 100.0, read: asking.read() })
        }
        (What::Ratio { numerator, denominator }, true) => asking.ratio(numerator, denominator),
        (What::Ratio { numerator, denominator }, false) => {
            asking.is_about_canary(&[numerator, denominator])?;
            asking.share(0.0, 100.0, asking.read())
        }
        (What::Quantile { histogram, quantile, scale }, _) => {
            let histogram = match metric.preset {
                Some(preset) if presets::by_service(preset) => Histogram { unit: *scale, bounds: ENVOY },
                Some(_) => Histogram { unit: *scale, bounds: CLIENTS },
                None => {
                    asking.is_about_canary(&[histogram])?;
                    histogram_called(asking.render(histogram)?.split('{').next().unwrap_or_default())?
                }
            };
            Ok(Asked::Quantile { quantile: *quantile, times: *scale, histogram, read: asking.read() })
        }
        (What::Value(query), true) => asking.query(query),
        (What::Value(_), false) => Err("it reads a gauge, and nothing is known of it here".to_owned()),
    }
}

/// Values that stand for those of a rollout.
fn values(metric: &Metric, args: &BTreeMap<String, String>, traffic: bool) -> Values {
    let some = |text: &str| traffic.then(|| text.to_owned());
    Values {
        namespace: "namespace".to_owned(),
        rollout: "rollout".to_owned(),
        service: some("service"),
        canary_service: some("service-canary"),
        stable_hash: Some("stable".to_owned()),
        canary_hash: "canary".to_owned(),
        interval: interval(metric),
        args: args.clone(),
    }
}

fn interval(metric: &Metric) -> SignedDuration {
    metric.interval.as_ref().map_or(DEFAULT_INTERVAL, |interval| interval.get())
}

/// A histogram, by its name.
fn histogram_called(name: &str) -> Result<Histogram, String> {
    let name = name.trim().trim_end_matches("_bucket");
    match name {
        _ if name.ends_with("_seconds") => Ok(Histogram { unit: 1000.0, bounds: CLIENTS }),
        _ if name.starts_with("envoy_") && name.ends_with("_time") => Ok(Histogram { unit: 1.0, bounds: ENVOY }),
        _ if name.ends_with("_milliseconds") || name.ends_with("_ms") => Ok(Histogram { unit: 1.0, bounds: CLIENTS }),
        _ => Err(format!(
            "its histogram {name} does not end in _seconds, _milliseconds or _ms, so nobody can tell whether it holds latencies"
        )),
    }
}

struct Asking<'a> {
    metric: &'a Metric,
    surroundings: Surroundings,
    values: Values,
    source: &'a Source,
}

impl Asking<'_> {
    /// How a preset, or what is given as selectors, is counted.
    fn read(&self) -> Read {
        let prometheus = matches!(self.source.provider, Provider::Prometheus { .. });
        match prometheus && self.metric.compare.is_none() {
            true => Read::Window { counted: Counted::Interval, samples: true },
            false => Read::Edges { behind: prometheus },
        }
    }

    fn render(&self, template: &Template) -> Result<String, String> {
        template.render(&self.values).map_err(|error| error.to_string())
    }

    fn is_about_canary(&self, templates: &[&Template]) -> Result<(), String> {
        let tells = match &self.source.provider {
            Provider::Pods { .. } => true,
            Provider::Url(url) if url.is_about_canary() => true,
            _ => templates.iter().all(|template| template.is_about_canary()),
        };
        let why = "it uses neither {{canary.service}} nor {{canary.hash}}, so it is not about the canary alone";
        if tells { Ok(()) } else { Err(why.to_owned()) }
    }

    fn ratio(&self, numerator: &Template, denominator: &Template) -> Result<Asked, String> {
        self.is_about_canary(&[numerator, denominator])?;
        let both = (promql::parse(&self.render(numerator)?)?, promql::parse(&self.render(denominator)?)?);
        let (Form::Count { times, counter: upper }, Form::Count { times: parts, counter: lower }) = both else {
            return Err("its numerator and denominator are not understood: they are to be sum(increase(...)), each of a counter".to_owned());
        };
        same_window(&upper, &lower)?;
        self.share(0.0, 100.0 * times / parts, Read::Window { counted: Counted::Query(lower), samples: true })
    }

    fn query(&self, query: &Template) -> Result<Asked, String> {
        self.is_about_canary(&[query])?;
        match promql::parse(&self.render(query)?)? {
            Form::Share { offset, times, numerator, denominator } => {
                same_window(&numerator, &denominator)?;
                self.share(offset, times, Read::Window { counted: Counted::Query(denominator), samples: false })
            }
            Form::Quantile { times, quantile, counter } => {
                let histogram = histogram_called(&counter.name)?;
                let read = Read::Window { counted: Counted::Query(counter), samples: false };
                Ok(Asked::Quantile { quantile, times, histogram, read })
            }
            Form::Number(_) | Form::Count { .. } => Err("it is no share of requests and no quantile of their latencies".to_owned()),
        }
    }

    /// A share by what is expected of it: all of it and none of it cannot both be good.
    fn share(&self, offset: f64, times: f64, read: Read) -> Result<Asked, String> {
        let full = times.abs();
        if !(offset == 0.0 && times > 0.0 || (offset - full).abs() < 1e-9 && times < 0.0) {
            return Err("it is no share from 0 to 1 or to 100".to_owned());
        }
        let passes = |value: f64| {
            let sample = Sample { samples: Some(1e9), ..Sample::of(value) };
            judge::judge(self.metric, &self.surroundings, &sample).verdict == Verdict::Pass
        };
        match (passes(full), passes(0.0)) {
            (true, false) => Ok(Asked::Share { successes: true, times: full, read }),
            (false, true) => Ok(Asked::Share { successes: false, times: full, read }),
            _ => Err("what it is held against does not tell whether it is the share of requests that succeed, or that fail".to_owned()),
        }
    }
}

fn same_window(numerator: &Counter, denominator: &Counter) -> Result<(), String> {
    let same = numerator.window == denominator.window && numerator.rate == denominator.rate;
    if same { Ok(()) } else { Err("its numerator and denominator are counted over different windows".to_owned()) }
}
