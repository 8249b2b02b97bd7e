//! Counters straight from whoever counts: two readings, and what lies between them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use futures::future::{try_join, try_join_all};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use reqwest::{
    Url,
    header::{ACCEPT, HOST},
};

use super::{
    Found, MeasureRequest, Outcome, PodTarget,
    access::Credentials,
    exposition::{Line, Series, lines},
    guard::{Allow, Forbidden, lookup},
    http::{Call, Http, To, beginning},
};
use crate::{
    api::run::Reading,
    core::{
        analysis::{ErrorKind, ProviderError},
        counters::{Counters, DENOMINATOR, Look, NUMERATOR, increase, known_increase, quantile_sample, ratio},
        judge::Sample,
        query::{Template, Values},
        selector::Selector,
        source::{Numerator, Source, What},
    },
};

/// Bytes of one answer.
const MOST: usize = 8 << 20;
/// Pods or addresses that one metric reads.
const MOST_SOURCES: usize = 200;
/// Buckets of a histogram.
const MOST_BUCKETS: usize = 200;
const TYPES: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.9,*/*;q=0.1";
/// Counters that are remembered from one look at both versions to the next: they live in a status.
const MOST_REMEMBERED: usize = 500;
const VALUE: &str = "value";

/// What the sources of one version say, by their names.
type BySource = BTreeMap<String, Counters>;

/// One source of counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Stays the same as long as the counters do.
    name: String,
    url: Url,
    /// The host that a user has written; `None`: a pod.
    host: Option<String>,
    /// The header `Host`, where the URL holds the address of that host.
    authority: Option<String>,
}

impl Target {
    pub fn pod(pod: &PodTarget, port: Option<u16>, path: Option<&str>) -> Result<Self, ProviderError> {
        let port = port.or(pod.port).ok_or_else(|| {
            ErrorKind::Invalid.error(format!(
                "pod {} does not say where its metrics are: annotate it with prometheus.io/port, or set scrape.port",
                pod.name
            ))
        })?;
        let path = path.or(pod.path.as_deref()).unwrap_or("/metrics");
        let url = format!("http://{}{}{path}", SocketAddr::new(pod.ip, port), if path.starts_with('/') { "" } else { "/" });
        let url = url.parse().map_err(|error| ErrorKind::Invalid.error(format!("pod {}: {path:?} is not a path: {error}", pod.name)))?;
        Ok(Self { name: pod.name.clone(), url, host: None, authority: None })
    }
}

/// The sources behind a URL. A name that stands for several addresses (a headless Service) is several processes, each with its own counters.
pub async fn resolve(url: &str, allow: &Allow, timeout: SignedDuration) -> Result<Vec<Target>, ProviderError> {
    let bad = |why: String| ErrorKind::Invalid.error(format!("{url:?} is not a URL: {why}"));
    let url: Url = url.parse().map_err(|error| bad(format!("{error}")))?;
    let Some(host) = url.host_str().map(str::to_owned) else { return Err(bad("it has no host".to_owned())) };
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = host.trim_matches(['[', ']']).to_owned();
    let single = Target { name: format!("{host}:{port}"), url: url.clone(), host: Some(bare.clone()), authority: None };
    // Certificates are for names: over https a name is one source.
    if url.scheme() != "http" || bare.parse::<IpAddr>().is_ok() {
        return Ok(vec![single]);
    }
    let limit = std::time::Duration::try_from(timeout).unwrap_or_default();
    let found = tokio::time::timeout(limit, lookup(&host, allow)).await;
    let found = found.map_err(|_| ErrorKind::Timeout.error(format!("the name {host} was not resolved within {timeout:#}")))?;
    let addresses = found.map_err(|error| match error.downcast_ref::<Forbidden>() {
        Some(forbidden) => ErrorKind::Forbidden.error(format!("{host}: {forbidden}")),
        None => ErrorKind::Unreachable.error(format!("the name {host} cannot be resolved: {error}")),
    })?;
    let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    let target = |address| {
        let mut url = url.clone();
        url.set_ip_host(address).map_err(|()| bad("it cannot name a host".to_owned()))?;
        Ok(Target { name: SocketAddr::new(address, port).to_string(), url, host: Some(host.clone()), authority: Some(authority.clone()) })
    };
    one_family(addresses).into_iter().map(target).collect()
}

/// Each address once, and only those of one family: a process with an IPv4 and an IPv6 address counts once.
fn one_family(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let four = addresses.iter().any(IpAddr::is_ipv4);
    addresses.retain(|address| address.is_ipv4() == four);
    addresses.sort();
    addresses.dedup();
    addresses
}

/// One version: what its selectors say, and where it is counted.
pub struct Version<'a> {
    pub values: &'a Values,
    pub targets: Vec<Target>,
}

/// Reads all sources; one that cannot be read makes the whole measurement an error, because what it would say is not known.
pub async fn measure(
    http: &Http,
    source: &Source,
    Version { values, targets }: Version<'_>,
    credentials: &Credentials,
    request: &MeasureRequest<'_>,
    queries: &mut Vec<String>,
) -> Outcome {
    let wanted = [Wanted::new(&source.what, values, queries)?];
    let [current] = read_all(http, source, targets, credentials, &wanted).await?;
    if let What::Value(_) = source.what {
        let values: Vec<f64> = current.values().filter_map(|counters| counters.get(VALUE)).copied().collect();
        let sum = if values.is_empty() { vec![] } else { vec![values.iter().sum()] };
        let sample = Sample { values: sum, caveat: nobody(&current), ..Sample::default() };
        return Ok(Found { sample: Some(sample), ..Found::default() });
    }
    let sample = request.previous.map(|previous| {
        let increase = increase(&previous.counters, &current);
        match source.what {
            What::Quantile { quantile, scale, .. } => {
                let buckets: Vec<_> = increase.iter().filter_map(|(le, count)| Some((le.parse().ok()?, *count))).collect();
                quantile_sample(quantile, scale, &buckets)
            }
            _ => Ok(ratio(increase.get(NUMERATOR).copied(), increase.get(DENOMINATOR).copied(), "No source has a metric of that name.")),
        }
    });
    let sample = sample.transpose()?.map(|sample| Sample { caveat: nobody(&current).or(sample.caveat.clone()), ..sample });
    let counters = remembered(request.previous.map(|previous| &previous.counters), current);
    let reading = Reading { at: MicroTime(request.now), counters, stable: BTreeMap::new() };
    Ok(Found { sample, since: request.previous.map(|previous| previous.at.0), reading: Some(reading), look: None })
}

/// Reads the counters of canary and stable, at the same moment. Where both are counted in the same place, it is read once.
pub async fn look(
    http: &Http,
    (source, numerator): (&Source, Numerator),
    [canary, stable]: [Version<'_>; 2],
    credentials: &Credentials,
    request: &MeasureRequest<'_>,
    queries: &mut Vec<String>,
) -> Outcome {
    let of_canary = Wanted::new(&source.what, canary.values, queries)?;
    let of_stable = Wanted::new(&source.what, stable.values, queries)?;
    let [canary, stable] = if canary.targets == stable.targets {
        read_all(http, source, canary.targets, credentials, &[of_canary, of_stable]).await?
    } else {
        let (of_canary, of_stable) = ([of_canary], [of_stable]);
        let canary = read_all(http, source, canary.targets, credentials, &of_canary);
        let ([canary], [stable]) = try_join(canary, read_all(http, source, stable.targets, credentials, &of_stable)).await?;
        [canary, stable]
    };
    let since = request.previous.map(|previous| previous.at.0);
    let grown = match request.previous {
        Some(previous) => [known_increase(&previous.counters, &canary), known_increase(&previous.stable, &stable)],
        None => [None, None],
    };
    let look = Look::new((since, request.now), (&source.what, numerator), grown)?;
    let reading = Reading {
        at: MicroTime(request.now),
        counters: bounded(request.previous.map(|previous| &previous.counters), canary)?,
        stable: bounded(request.previous.map(|previous| &previous.stable), stable)?,
    };
    Ok(Found { sample: None, since, reading: Some(reading), look: Some(look) })
}

/// The begin of the next interval, which must not take up a status.
fn bounded(previous: Option<&BySource>, current: BySource) -> Result<BySource, ProviderError> {
    let size = |all: &BySource| all.values().map(|counters| counters.len().max(1)).sum::<usize>();
    if size(&current) > MOST_REMEMBERED {
        let message = format!("{} counters are too many to remember: at most {MOST_REMEMBERED}, compare by Prometheus", size(&current));
        return Err(ErrorKind::TooLarge.error(message));
    }
    let all = remembered(previous, current.clone());
    Ok(if size(&all) > MOST_REMEMBERED { current } else { all })
}

/// What a text counts of one version.
pub fn exposed(what: &What, values: &Values, text: &str) -> Result<Counters, ProviderError> {
    Wanted::new(what, values, &mut vec![])?.find(text, false)
}

/// Reads each target once, for everything that is wanted of it.
async fn read_all<const N: usize>(
    http: &Http,
    source: &Source,
    targets: Vec<Target>,
    credentials: &Credentials,
    wanted: &[Wanted; N],
) -> Result<[BySource; N], ProviderError> {
    if targets.len() > MOST_SOURCES {
        let message = format!("{} pods or addresses are too many to read: at most {MOST_SOURCES}, use Prometheus", targets.len());
        return Err(ErrorKind::TooLarge.error(message));
    }
    let read = targets.into_iter().map(|target| read(http, target, credentials, source.timeout, wanted));
    let mut all = std::array::from_fn(|_| BySource::new());
    for (name, found) in try_join_all(read).await? {
        for (all, counters) in all.iter_mut().zip(found) {
            all.insert(name.clone(), counters);
        }
    }
    Ok(all)
}

fn nobody(current: &BySource) -> Option<String> {
    current.is_empty().then(|| "there is no ready pod to read".to_owned())
}

/// The begin of the next window. A pod that is not ready just now may come back with its counters: they are kept, as long as they are few.
fn remembered(previous: Option<&BySource>, current: BySource) -> BySource {
    let mut all = previous.cloned().unwrap_or_default();
    if all.keys().filter(|name| !current.contains_key(*name)).count() + current.len() > MOST_SOURCES {
        all.clear();
    }
    all.extend(current);
    all
}

async fn read<const N: usize>(
    http: &Http,
    target: Target,
    credentials: &Credentials,
    timeout: SignedDuration,
    wanted: &[Wanted; N],
) -> Result<(String, Vec<Counters>), ProviderError> {
    let Target { name, url, host, authority } = target;
    let send = |client: &reqwest::Client, url| {
        let request = client.get(url).header(ACCEPT, TYPES);
        authority.into_iter().fold(request, |request, host| request.header(HOST, host))
    };
    let of = |error: ProviderError| ProviderError { message: format!("{name}: {}", error.message), ..error };
    let call = Call { url, to: host.as_deref().map_or(To::Pod, To::Host), credentials, timeout, most: MOST };
    let answer = http.send(call, send).await.map_err(of)?;
    if !answer.status.is_success() {
        let message = format!("HTTP {}: {}", answer.status.as_u16(), beginning(&answer.body));
        return Err(of(ErrorKind::Refused.error(message.trim_end_matches([' ', ':']))));
    }
    let open_metrics = answer.content_type.starts_with("application/openmetrics-text");
    let found = wanted.iter().map(|wanted| wanted.find(&answer.body, open_metrics)).collect::<Result<_, _>>().map_err(of)?;
    Ok((name, found))
}

/// The selectors of a metric.
enum Wanted {
    Ratio { numerator: Selector, denominator: Selector },
    Buckets { histogram: Selector, bucket: String },
    Value(Selector),
}

impl Wanted {
    fn new(what: &What, values: &Values, queries: &mut Vec<String>) -> Result<Self, ProviderError> {
        let mut selector = |template: &Template| {
            let text = template.render(values).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
            let selector = Selector::parse(&text).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
            queries.push(text);
            Ok::<_, ProviderError>(selector)
        };
        Ok(match what {
            What::Value(value) => Self::Value(selector(value)?),
            What::Ratio { numerator, denominator } => Self::Ratio { numerator: selector(numerator)?, denominator: selector(denominator)? },
            What::Quantile { histogram, .. } => {
                let histogram = selector(histogram)?;
                Self::Buckets { bucket: format!("{}_bucket", histogram.name()), histogram }
            }
        })
    }

    /// The counters of one text. A counter whose name is there, but none of whose series matches, is 0.
    fn find(&self, text: &str, open_metrics: bool) -> Result<Counters, ProviderError> {
        let malformed = |why: String| ErrorKind::Malformed.error(why);
        let (mut counters, mut whole) = (Counters::new(), !open_metrics);
        for line in lines(text) {
            match line.map_err(|error| malformed(error.to_string()))? {
                Line::Series(series) => self.add(&series, &mut counters).map_err(malformed)?,
                Line::Type { name, kind: "gauge" } if self.counts(&name) => {
                    return Err(malformed(format!("{name} is a gauge: a ratio needs counters")));
                }
                Line::Type { .. } => {}
                Line::Eof => whole = true,
            }
        }
        match whole {
            true => Ok(counters),
            false => Err(ErrorKind::Partial.error("the answer is cut off: it does not end with # EOF")),
        }
    }

    fn counts(&self, name: &str) -> bool {
        matches!(self, Self::Ratio { numerator, denominator } if numerator.name() == name || denominator.name() == name)
    }

    fn add(&self, series: &Series<'_>, counters: &mut Counters) -> Result<(), String> {
        let mut add = |key: &str, value: f64| {
            if !value.is_finite() {
                return Err(format!("{} is {value}", series.name));
            }
            *counters.entry(key.to_owned()).or_default() += value;
            Ok(())
        };
        let matches = |selector: &Selector| selector.labels_match(|label| series.label(label));
        match self {
            Self::Value(selector) if series.name == selector.name() && matches(selector) => add(VALUE, series.value),
            Self::Ratio { numerator, denominator } => {
                if series.name == numerator.name() {
                    add(NUMERATOR, if matches(numerator) { series.value } else { 0.0 })?;
                }
                if series.name == denominator.name() && matches(denominator) {
                    add(DENOMINATOR, series.value)?;
                }
                Ok(())
            }
            Self::Buckets { histogram, bucket } if series.name == *bucket && matches(histogram) => {
                let le = series.label("le").ok_or_else(|| format!("a series of {bucket} has no label le"))?;
                let bound: f64 =
                    le.parse().ok().filter(|bound: &f64| !bound.is_nan()).ok_or_else(|| format!("le={le:?} is not a number"))?;
                add(&if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() }, series.value)?;
                if counters.len() > MOST_BUCKETS { Err(format!("{bucket} has more than {MOST_BUCKETS} buckets")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
