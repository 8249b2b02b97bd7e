//! Prometheus, and what speaks its HTTP API: instant queries.

use futures::future::try_join;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    access::Credentials,
    flights::Flights,
    http::{Call, Http, To, beginning},
};
use crate::core::{
    analysis::{ErrorKind, ProviderError},
    counters::{quantile_sample, ratio},
    judge::Sample,
    query::{Template, Values},
    source::What,
};

/// Bytes of one answer.
const MOST: usize = 1 << 20;
/// Series of one answer that are judged; a query for more is meant for people, not for a judge.
const MOST_SERIES: usize = 100;
/// Series of one answer that are kept: buckets of a histogram, too, are not more.
const MOST_KEPT: usize = 1000;

/// A server, and when its data is looked at.
pub struct Server<'a> {
    pub http: &'a Http,
    pub flights: &'a Flights<Question, Answered>,
    pub address: &'a str,
    /// The address that Sluice was installed with.
    pub trusted: bool,
    pub credentials: &'a Credentials,
    pub timeout: SignedDuration,
    /// All queries of a measurement are evaluated at the same moment: the end of the window.
    pub edge: Timestamp,
}

/// What makes two requests the same.
#[derive(PartialEq, Eq, Hash)]
pub struct Question {
    address: String,
    trusted: bool,
    credentials: [u8; 32],
    timeout: SignedDuration,
    query: String,
    edge: Timestamp,
}

/// The series of an instant query: label `le`, value.
pub type Answered = Result<Vec<(Option<String>, f64)>, ProviderError>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<R> {
    status: String,
    data: Option<Data<R>>,
    error_type: Option<String>,
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Data<R> {
    pub result_type: String,
    pub result: R,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: serde_json::Map<String, Value>,
    value: Option<(f64, String)>,
}

impl Server<'_> {
    /// Asks what is to be computed, and computes it. Queries are noted as they are sent.
    pub async fn measure(&self, what: &What, values: &Values, queries: &mut Vec<String>) -> Result<Sample, ProviderError> {
        let mut render = |template: &Template| {
            let query = template.render(values).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
            queries.push(query.clone());
            Ok::<_, ProviderError>(query)
        };
        match what {
            What::Value(query) => {
                let query = render(query)?;
                let series = self.query(&query).await?;
                if series.len() > MOST_SERIES {
                    return Err(too_many(series.len(), MOST_SERIES));
                }
                Ok(Sample { values: series.into_iter().map(|(_, value)| value).collect(), ..Sample::default() })
            }
            What::Ratio { numerator, denominator } => {
                let (numerator, denominator) = (render(numerator)?, render(denominator)?);
                let (numerator, denominator) =
                    try_join(self.single(&numerator, "numerator"), self.single(&denominator, "denominator")).await?;
                Ok(ratio(numerator, denominator, "Where it is absent before the first event, write: ... or vector(0)"))
            }
            What::Quantile { histogram, quantile, scale } => {
                let query = render(histogram)?;
                buckets_quantile(*quantile, *scale, self.query(&query).await?)
            }
        }
    }

    /// The value of a query that returns one series or none.
    async fn single(&self, query: &str, what: &str) -> Result<Option<f64>, ProviderError> {
        match self.query(query).await?.as_slice() {
            [] => Ok(None),
            [(_, value)] => Ok(Some(*value)),
            more => {
                Err(ErrorKind::Malformed
                    .error(format!("the {what} returns {} series, it must be one: write sum(...) around it", more.len())))
            }
        }
    }

    /// Asks, or waits for the answer to somebody else who asks the same.
    async fn query(&self, query: &str) -> Answered {
        let question = Question {
            address: self.address.to_owned(),
            trusted: self.trusted,
            credentials: self.credentials.identity(),
            timeout: self.timeout,
            query: query.to_owned(),
            edge: self.edge,
        };
        self.flights.share(question, async { series(self.ask(query, MOST).await?) }).await
    }

    /// Asks, and reads an answer of at most so many bytes.
    pub(super) async fn ask<R: DeserializeOwned>(&self, query: &str, most: usize) -> Result<Data<R>, ProviderError> {
        let url = format!("{}/api/v1/query", self.address.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| ErrorKind::Invalid.error(format!("{:?} is not a URL: {error}", self.address)))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let to = if self.trusted { To::Installation } else { To::Host(&host) };
        let time = format!("{}.{:03}", self.edge.as_second(), self.edge.subsec_millisecond());
        let call = Call { url, to, credentials: self.credentials, timeout: self.timeout, most };
        let answer = self.http.send(call, |client, url| client.post(url).form(&[("query", query), ("time", &time)])).await?;
        let reply: Reply<R> = match serde_json::from_str(&answer.body) {
            Ok(reply) => reply,
            Err(_) if !answer.status.is_success() => {
                let message = format!("Prometheus answers HTTP {}: {}", answer.status.as_u16(), beginning(&answer.body));
                return Err(ErrorKind::Refused.error(message.trim_end_matches([' ', ':'])));
            }
            Err(error) => {
                return Err(
                    ErrorKind::Malformed.error(format!("the answer is not one of Prometheus ({error}): {}", beginning(&answer.body)))
                );
            }
        };
        complete(reply, answer.status.is_success())
    }
}

fn too_many(series: usize, most: usize) -> ProviderError {
    let message = format!("the query returns {series} series, at most {most} can be judged: aggregate them, with sum() say");
    ErrorKind::TooLarge.error(message)
}

fn complete<R>(reply: Reply<R>, success: bool) -> Result<Data<R>, ProviderError> {
    if !success || reply.status != "success" {
        let kind = reply.error_type.unwrap_or_else(|| "error".to_owned());
        return Err(ErrorKind::Refused.error(format!("Prometheus answers {kind}: {}", beginning(&reply.error.unwrap_or_default()))));
    }
    if !reply.warnings.is_empty() {
        let message = format!("the answer is not complete, Prometheus warns: {}", beginning(&reply.warnings.join("; ")));
        return Err(ErrorKind::Partial.error(message));
    }
    reply.data.ok_or_else(|| ErrorKind::Malformed.error("the answer has no data"))
}

fn series(data: Data<Value>) -> Answered {
    let malformed = |why: String| ErrorKind::Malformed.error(why);
    let series = match data.result_type.as_str() {
        "scalar" => serde_json::from_value(data.result).map(|value| vec![Series { metric: serde_json::Map::new(), value: Some(value) }]),
        "vector" => serde_json::from_value::<Vec<Series>>(data.result),
        other => return Err(malformed(format!("the query returns a {other}, it must return a number or an instant vector"))),
    };
    let series = series.map_err(|error| malformed(format!("the answer is not one of Prometheus: {error}")))?;
    if series.len() > MOST_KEPT {
        return Err(too_many(series.len(), MOST_KEPT));
    }
    let number = |series: Series| {
        let le = series.metric.get("le").and_then(Value::as_str).map(str::to_owned);
        let (_, value) = series
            .value
            .ok_or_else(|| malformed("the query returns native histograms: use histogram_quantile() or histogram_count()".to_owned()))?;
        let value = value.parse().map_err(|_| malformed(format!("{value:?} is not a number")))?;
        Ok((le, value))
    };
    series.into_iter().map(number).collect()
}

fn buckets_quantile(q: f64, scale: f64, series: Vec<(Option<String>, f64)>) -> Result<Sample, ProviderError> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (le, count) in series {
        let le =
            le.ok_or_else(|| ErrorKind::Malformed.error("the query for the buckets must keep the label le: write sum by (le) (...)"))?;
        let bound = le.parse().map_err(|_| ErrorKind::Malformed.error(format!("le={le:?} is not a number")))?;
        buckets.push((bound, count));
    }
    quantile_sample(q, scale, &buckets)
}
