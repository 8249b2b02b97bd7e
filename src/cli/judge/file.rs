//! What was counted, from a file: CSV with a line of names, or a JSON list of objects with the same names.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::{
    cli::error::Error,
    core::{
        counters::{Counters, DENOMINATOR, Look, NUMERATOR, known_increase},
        source::{Numerator, What},
    },
};

/// Bytes of a file.
const MOST: u64 = 32 << 20;
const MOST_ROWS: usize = 100_000;
/// Beyond one row in so many, counters that run backwards are no restarts.
const RESTARTS: usize = 10;

const TIME: &str = "time";
const VERSIONS: [&str; 2] = ["canary", "stable"];
const COLUMNS: &str =
    "time, canary_requests, canary_failures (or canary_successes), stable_requests, stable_failures (or stable_successes)";

/// A row: where it stands, its moment, and the counters of canary and stable; `None`: it has none.
struct Row {
    /// `line 3`, or `object 3`.
    place: String,
    at: Timestamp,
    counters: [Option<Counters>; 2],
}

/// What was counted from one row to the next, and what is worth knowing about it.
#[derive(Debug)]
pub struct Recorded {
    pub looks: Vec<Look>,
    pub notes: Vec<String>,
}

/// Reads all of it, up to a bound.
pub fn text(name: &str, source: &mut dyn std::io::Read) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut bounded = std::io::Read::take(source, MOST + 1);
    std::io::Read::read_to_end(&mut bounded, &mut bytes).map_err(|error| Error::Pointless(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > MOST {
        return Err(Error::Pointless(format!("{name} is larger than {} MiB: record fewer rows, one for each minute say", MOST >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Error::Pointless(format!("{name} is no text in UTF-8: it must be CSV or JSON")))
}

/// `per_row`: each row says what was counted since the one before it; else they are counters, which only grow.
pub fn recorded(name: &str, text: &str, per_row: bool, what: &What) -> Result<Recorded, Error> {
    let fail = |why: String| Error::Pointless(format!("{name}: {why}"));
    let cells = if text.trim_start().starts_with(['[', '{']) { json(text) } else { csv(text) }.map_err(fail)?;
    if cells.len() > MOST_ROWS {
        return Err(fail(format!("{} rows are more than {MOST_ROWS}: record fewer, one for each minute say", cells.len())));
    }
    let rows = cells.into_iter().map(|(place, cells)| row(place, &cells)).collect::<Result<Vec<Row>, String>>().map_err(fail)?;
    if let Some(pair) = rows.windows(2).find(|pair| pair[1].at <= pair[0].at) {
        return Err(fail(format!("{}: {} is not after {}, the time of the row before it", pair[1].place, pair[1].at, pair[0].at)));
    }
    if rows.len() < 2 {
        return Err(fail(format!("{} row, but a comparison needs two at least", rows.len())));
    }
    if per_row { counts(&rows, what) } else { counters(&rows, what) }.map_err(fail)
}

/// Rows that say what was counted since the one before. The first is taken to be as long as the second.
fn counts(rows: &[Row], what: &What) -> Result<Recorded, String> {
    let begin = rows[0].at - rows[1].at.duration_since(rows[0].at);
    let mut looks = vec![look(&Row { place: String::new(), at: begin, counters: [None, None] }, None, what, [None, None])?];
    let befores = [begin].into_iter().chain(rows.iter().map(|row| row.at));
    for (row, since) in rows.iter().zip(befores) {
        looks.push(look(row, Some(since), what, row.counters.clone())?);
    }
    Ok(Recorded { looks, notes: vec![] })
}

fn counters(rows: &[Row], what: &What) -> Result<Recorded, String> {
    let notes = backwards(rows)?.into_iter().collect();
    let mut looks = vec![look(&rows[0], None, what, [None, None])?];
    for pair in rows.windows(2) {
        let grown = [0, 1].map(|version| {
            let source = |row: &Row| Some(BTreeMap::from([(String::new(), row.counters[version].clone()?)]));
            known_increase(&source(&pair[0])?, &source(&pair[1])?)
        });
        looks.push(look(&pair[1], Some(pair[0].at), what, grown)?);
    }
    Ok(Recorded { looks, notes })
}

/// Where counters run backwards they have begun anew, and that is noted; where they do so often, they are none.
fn backwards(rows: &[Row]) -> Result<Option<String>, String> {
    let falls = |pair: &[Row], version: usize| {
        let (before, now) = (pair[0].counters[version].as_ref(), pair[1].counters[version].as_ref());
        now.into_iter().flatten().any(|(key, count)| before.and_then(|before| before.get(key)).is_some_and(|before| count < before))
    };
    let fallen = rows.windows(2).filter(|pair| falls(pair, 0) || falls(pair, 1)).map(|pair| pair[1].place.as_str());
    let fallen: Vec<&str> = fallen.collect();
    let places = fallen.iter().take(5).copied().collect::<Vec<_>>().join(", ") + if fallen.len() > 5 { ", ..." } else { "" };
    match fallen.len() {
        0 => Ok(None),
        many if many > 1 + rows.len() / RESTARTS => Err(format!(
            "counters run backwards in {many} of {} rows ({places}): if each row says what was counted since the one before it, give --per-row",
            rows.len()
        )),
        _ => Ok(Some(format!("counters run backwards at {places}: they are taken to have begun anew at 0 (a restart)"))),
    }
}

fn look(row: &Row, since: Option<Timestamp>, what: &What, grown: [Option<Counters>; 2]) -> Result<Look, String> {
    Look::new((since, row.at), (what, Numerator::Failures), grown).map_err(|error| format!("{}: {error}", row.place))
}

type Cells = Vec<(String, BTreeMap<String, String>)>;

/// One line for each row, after one with the names of the columns; separated by commas, semicolons or tabs.
fn csv(text: &str) -> Result<Cells, String> {
    let mut lines = (1_usize..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let (_, head) = lines.next().ok_or_else(|| format!("it is empty: the first line names the columns: {COLUMNS}"))?;
    let separator = [',', ';', '\t'].into_iter().find(|separator| head.contains(*separator)).unwrap_or(',');
    let split = |line: &str| line.split(separator).map(|cell| cell.trim().trim_matches('"').trim().to_owned()).collect::<Vec<String>>();
    let names = split(head.trim_start_matches('\u{feff}'));
    check_names(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    lines
        .map(|(line, text)| {
            let cells = split(text);
            match cells.len() == names.len() {
                true => Ok((format!("line {line}"), names.iter().cloned().zip(cells).collect())),
                false => Err(format!("line {line} has {} cells, but there are {} columns", cells.len(), names.len())),
            }
        })
        .collect()
}

/// A list of objects, or one for each line.
fn json(text: &str) -> Result<Cells, String> {
    let objects: Vec<Map<String, Value>> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text).map_err(|error| format!("it is no list of objects: {error}"))?,
        false => {
            let lines = serde_json::Deserializer::from_str(text).into_iter();
            lines.collect::<Result<_, _>>().map_err(|error| format!("it is no object on each line: {error}"))?
        }
    };
    (1..)
        .zip(objects)
        .map(|(number, object): (usize, Map<String, Value>)| {
            check_names(&object.keys().map(String::as_str).collect::<Vec<_>>())?;
            let cell = |value: Value| match value {
                Value::String(text) => text,
                Value::Null => String::new(),
                other => other.to_string(),
            };
            Ok((format!("object {number}"), object.into_iter().map(|(name, value)| (name, cell(value))).collect()))
        })
        .collect()
}

fn check_names(names: &[&str]) -> Result<(), String> {
    let has = |name: &str| names.contains(&name);
    let both = |version: &str| has(&format!("{version}_failures")) && has(&format!("{version}_successes"));
    let missing = [TIME.to_owned()].into_iter().chain(VERSIONS.map(|version| format!("{version}_requests")));
    let counted = |version: &&str| has(&format!("{version}_failures")) || has(&format!("{version}_successes"));
    match (missing.into_iter().find(|name| !has(name)), VERSIONS.iter().find(|version| !counted(version))) {
        (Some(name), _) => Err(format!("there is no column {name}: the columns are {COLUMNS}")),
        (None, Some(version)) => Err(format!("there is neither {version}_failures nor {version}_successes: the columns are {COLUMNS}")),
        (None, None) => match VERSIONS.iter().find(|version| both(version)) {
            Some(version) => Err(format!("there are {version}_failures and {version}_successes: leave one of them out")),
            None => Ok(()),
        },
    }
}

fn row(place: String, cells: &BTreeMap<String, String>) -> Result<Row, String> {
    let number = |name: &str| -> Result<Option<f64>, String> {
        let Some(text) = cells.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0 && number.fract() == 0.0);
        number.map(Some).ok_or_else(|| format!("{place}, {name}: {text:?} is no number of requests"))
    };
    let version = |version: &str| -> Result<Option<Counters>, String> {
        let of = |what: &str| number(&format!("{version}_{what}"));
        let (requests, failures, successes) = (of("requests")?, of("failures")?, of("successes")?);
        let (Some(requests), Some(counted)) = (requests, failures.or(successes)) else { return Ok(None) };
        if counted > requests {
            let what = if failures.is_some() { "failures" } else { "successes" };
            return Err(format!("{place}: {version} has {counted} {what} of {requests} requests"));
        }
        let failures = failures.unwrap_or(requests - counted);
        Ok(Some(Counters::from([(NUMERATOR.to_owned(), failures), (DENOMINATOR.to_owned(), requests)])))
    };
    let time = cells.get(TIME).map(String::as_str).unwrap_or_default();
    let at =
        moment(time).ok_or_else(|| format!("{place}, time: {time:?} is no time: write 2026-01-31T12:00:00Z, or seconds since 1970"))?;
    let counters = [version(VERSIONS[0])?, version(VERSIONS[1])?];
    Ok(Row { place, at, counters })
}

/// RFC 3339, or seconds since 1970.
pub fn moment(text: &str) -> Option<Timestamp> {
    let seconds = || {
        let seconds = SignedDuration::try_from_secs_f64(text.parse().ok()?).ok()?;
        let rounded = SignedDuration::from_millis(i64::try_from(seconds.as_millis()).ok()?);
        Timestamp::UNIX_EPOCH.checked_add(rounded).ok()
    };
    let at: Timestamp = text.parse().ok().or_else(seconds)?;
    Timestamp::from_microsecond(at.as_microsecond()).ok()
}
