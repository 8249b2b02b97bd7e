//! Counters from Prometheus, as it keeps them: what lies between two edges is counted here, since `increase()` extrapolates.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::prometheus::{Data, Server};
use crate::core::{
    analysis::{ErrorKind, ProviderError},
    counters::{Counters, DENOMINATOR, Look, NUMERATOR, Series, processes},
    query::{Template, Values, duration},
    selector::Selector,
    source::{Numerator, What},
};

/// Bytes of one answer.
const MOST: usize = 4 << 20;
/// Series of one version.
const MOST_SERIES: usize = 2000;
/// How long before an edge a series may have its last sample: two scrapes, where they are a minute apart.
const LOOKBACK: SignedDuration = SignedDuration::from_mins(2);
/// After a longer break the next interval begins anew.
const LONGEST_BREAK: SignedDuration = SignedDuration::from_mins(10);

/// A selector, and how it is written.
struct Wanted {
    text: String,
    selector: Selector,
}

impl Wanted {
    fn new(template: &Template, values: &Values) -> Result<Self, ProviderError> {
        let text = template.render(values).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
        let selector = Selector::parse(&text).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
        Ok(Self { text: text.trim().to_owned(), selector })
    }

    /// The same labels of the series with this name.
    fn named(&self, name: &str) -> String {
        format!("{name}{}", &self.text[self.selector.name().len()..])
    }
}

#[derive(Deserialize)]
struct Raw {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    histograms: Option<serde::de::IgnoredAny>,
}

impl Server<'_> {
    /// What both versions did between an edge and this one. Queries are noted as they are sent.
    pub async fn look(
        &self,
        what: &What,
        numerator: Numerator,
        versions: [&Values; 2],
        previous: Option<Timestamp>,
        queries: &mut Vec<String>,
    ) -> Result<Look, ProviderError> {
        let longest = LONGEST_BREAK.max(versions[0].interval * 2);
        let since = previous.filter(|previous| *previous < self.edge && self.edge.duration_since(*previous) <= longest);
        let kept = self.kept(what, versions, since.unwrap_or(self.edge), queries).await?;
        kept.look((what, numerator), since, self.edge)
    }

    /// What both versions did from each of these edges, the first ones first, to the next. This server's edge is the last of them.
    pub async fn looks(
        &self,
        what: &What,
        numerator: Numerator,
        versions: [&Values; 2],
        edges: &[Timestamp],
        queries: &mut Vec<String>,
    ) -> Result<Vec<Look>, ProviderError> {
        let kept = self.kept(what, versions, edges.first().copied().unwrap_or(self.edge), queries).await?;
        let befores = [None].into_iter().chain(edges.iter().copied().map(Some));
        befores.zip(edges).map(|(since, until)| kept.look((what, numerator), since, *until)).collect()
    }

    /// The samples of both versions from an edge to this one.
    async fn kept(&self, what: &What, versions: [&Values; 2], since: Timestamp, queries: &mut Vec<String>) -> Result<Both, ProviderError> {
        let (mut of_canary, mut of_stable) = (vec![], vec![]);
        let [canary, stable] = versions;
        let kept =
            try_join(self.of_version(what, canary, since, &mut of_canary), self.of_version(what, stable, since, &mut of_stable)).await;
        queries.append(&mut of_canary);
        queries.append(&mut of_stable);
        kept.map(|(canary, stable)| Both { canary, stable })
    }

    async fn of_version(&self, what: &What, values: &Values, since: Timestamp, queries: &mut Vec<String>) -> Result<Kept, ProviderError> {
        let window = LOOKBACK + self.edge.duration_since(since);
        let mut range = |selector: &str| {
            let query = format!("{selector}[{}]", duration(window));
            queries.push(query.clone());
            query
        };
        match what {
            What::Ratio { numerator, denominator } => {
                let (numerator, denominator) = (Wanted::new(numerator, values)?, Wanted::new(denominator, values)?);
                let same = numerator.selector.name() == denominator.selector.name();
                let (all, other) = (range(&denominator.text), (!same).then(|| range(&numerator.text)));
                let other = async {
                    match &other {
                        Some(query) => self.range(query).await.map(Some),
                        None => Ok(None),
                    }
                };
                let (all, other) = try_join(self.range(&all), other).await?;
                let selected = match other {
                    Some(other) => Selected::Other(other),
                    None => Selected::Same(numerator.selector),
                };
                Ok(Kept { all, selected })
            }
            What::Quantile { histogram, .. } => {
                let histogram = Wanted::new(histogram, values)?;
                let query = range(&histogram.named(&format!("{}_bucket", histogram.selector.name())));
                Ok(Kept { all: self.range(&query).await?, selected: Selected::Buckets })
            }
            What::Value(_) => Err(ErrorKind::Invalid.error("compare needs counters")),
        }
    }

    async fn range(&self, query: &str) -> Result<Vec<Series>, ProviderError> {
        let malformed = |why: String| ErrorKind::Malformed.error(why);
        let Data { result_type, result } = self.ask::<Box<RawValue>>(query, MOST).await?;
        if result_type != "matrix" {
            return Err(malformed(format!("the answer is a {result_type}, not the samples of counters: compare takes plain selectors")));
        }
        let raw: Vec<Raw> =
            serde_json::from_str(result.get()).map_err(|error| malformed(format!("the answer is not one of Prometheus: {error}")))?;
        if raw.len() > MOST_SERIES {
            let message = format!("the selector finds {} series, at most {MOST_SERIES} can be compared: select fewer", raw.len());
            return Err(ErrorKind::TooLarge.error(message));
        }
        raw.into_iter().map(series).collect()
    }
}

/// The samples of both versions.
struct Both {
    canary: Kept,
    stable: Kept,
}

impl Both {
    fn look(&self, (what, numerator): (&What, Numerator), since: Option<Timestamp>, until: Timestamp) -> Result<Look, ProviderError> {
        let edges = (seconds(since.unwrap_or(until)), seconds(until));
        Look::new((since, until), (what, numerator), [self.canary.increase(edges)?, self.stable.increase(edges)?])
    }
}

/// The samples of one version.
struct Kept {
    /// Of the denominator, or of the buckets.
    all: Vec<Series>,
    selected: Selected,
}

/// What the numerator counts.
enum Selected {
    /// Those of all series that fit.
    Same(Selector),
    Other(Vec<Series>),
    /// There is none: the series are the buckets of a histogram.
    Buckets,
}

impl Kept {
    /// What the counters have grown by between two edges. `None`: there were none at the first.
    fn increase(&self, edges: (f64, f64)) -> Result<Option<Counters>, ProviderError> {
        let begin = edges.0 - LOOKBACK.as_secs_f64();
        let within = |all: &[Series]| all.iter().filter_map(|series| series.within(begin, edges.1)).collect::<Vec<Series>>();
        let all = within(&self.all);
        let grown = Grown::new(&all, edges);
        let mut counters = Counters::new();
        match &self.selected {
            Selected::Buckets => {
                for series in &all {
                    let malformed =
                        |le: Option<&str>| ErrorKind::Malformed.error(format!("le={:?} is not a number", le.unwrap_or_default()));
                    let le = series.label("le");
                    let bound: f64 = le.and_then(|le| le.parse().ok()).ok_or_else(|| malformed(le))?;
                    grown.add(&bound.to_string(), &mut std::iter::once(series), &mut counters);
                }
            }
            Selected::Same(selector) => {
                grown.add(DENOMINATOR, &mut all.iter(), &mut counters);
                // All of them are there: that none is selected says that there was none.
                counters.insert(NUMERATOR.to_owned(), 0.0);
                let selects = |series: &&Series| selector.labels_match(|label| series.label(label));
                grown.add(NUMERATOR, &mut all.iter().filter(selects), &mut counters);
            }
            Selected::Other(other) => {
                grown.add(DENOMINATOR, &mut all.iter(), &mut counters);
                grown.add(NUMERATOR, &mut within(other).iter(), &mut counters);
            }
        }
        Ok(grown.known().then_some(counters))
    }
}

fn series(raw: Raw) -> Result<Series, ProviderError> {
    let malformed = |why: String| ErrorKind::Malformed.error(why);
    if raw.histograms.is_some() {
        return Err(malformed("the selector finds native histograms: compare takes those with buckets (le)".to_owned()));
    }
    let sample = |(at, value): (f64, String)| match value.parse::<f64>() {
        Ok(count) if count >= 0.0 && count.fract() == 0.0 => Ok((at, count)),
        _ => Err(malformed(format!("a counter is {value}: compare needs counters of requests"))),
    };
    let samples = raw.values.into_iter().map(sample).collect::<Result<_, _>>()?;
    Ok(Series { labels: raw.metric, samples })
}

/// What series have grown by between two edges.
struct Grown {
    edges: (f64, f64),
    /// The processes that were there at the first.
    known: BTreeSet<(String, String)>,
}

impl Grown {
    fn new(all: &[Series], edges: (f64, f64)) -> Self {
        Self { edges, known: processes(all, edges.0) }
    }

    fn known(&self) -> bool {
        !self.known.is_empty()
    }

    fn add(&self, key: &str, all: &mut dyn Iterator<Item = &Series>, counters: &mut Counters) {
        for increase in all.filter_map(|series| series.increase(self.edges.0, self.edges.1, &self.known)) {
            *counters.entry(key.to_owned()).or_default() += increase;
        }
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}
