//! Spans of time as users write them.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A span of time as users write it: whole numbers with the units `ms`, `s`, `m`, `h`, largest first: `30s`, `5m`, `1h30m`.
///
/// It keeps the words of its author; [`Span::get`] gives the value. At most 366 days (8784h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    text: String,
    value: SignedDuration,
}

/// The rules that the CRD checks, so that the API server refuses what [`Span`] cannot parse.
pub const SPAN_RULES: [(&str, &str); 2] = [
    (
        "self.matches('^([0-9]{1,7}h)?([0-9]{1,7}m)?([0-9]{1,7}s)?([0-9]{1,7}ms)?$')",
        "write whole numbers with units (h, m, s, ms), largest first: 30s, 5m, 1h30m",
    ),
    (
        "!self.matches('^([0-9]{1,7}h)?([0-9]{1,7}m)?([0-9]{1,7}s)?([0-9]{1,7}ms)?$') || duration(self) <= duration('8784h')",
        "a span of time is at most 366 days (8784h): write a shorter one",
    ),
];

const MAX: SignedDuration = SignedDuration::from_hours(8784);

impl Span {
    pub fn get(&self) -> SignedDuration {
        self.value
    }

    pub fn from_secs(secs: u32) -> Self {
        Self { text: format!("{secs}s"), value: SignedDuration::from_secs(i64::from(secs)) }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a span of time: write whole numbers with units, largest first, like 30s, 5m or 1h30m");
        let units: [(&str, i64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let (mut rest, mut millis, mut from) = (text, 0_i64, 0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| (1..=7).contains(n)).ok_or_else(bad)?;
            let number: i64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = &rest[digits..];
            let unit = &unit[..unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len())];
            let at = units.iter().position(|(name, _)| *name == unit).filter(|at| *at >= from).ok_or_else(bad)?;
            millis += number * units[at].1;
            from = at + 1;
            rest = &rest[digits + unit.len()..];
        }
        if text.is_empty() {
            return Err(bad());
        }
        let value = SignedDuration::from_millis(millis);
        if value > MAX {
            return Err(format!("{text:?} is longer than 366 days (8784h)"));
        }
        Ok(Self { text: text.to_owned(), value })
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.text
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rules = SPAN_RULES.map(|(rule, message)| serde_json::json!({ "rule": rule, "message": message }));
        json_schema!({ "type": "string", "minLength": 2, "maxLength": 32, "x-kubernetes-validations": rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("1m5s500ms", 65_500), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.get().as_millis(), millis, "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn refuses_the_rest_and_says_how_to_mend_it() {
        for text in ["", "5", "m", "5 m", "1.5h", "-3s", "5m1h", "5d", "1m1m", "99999999s", "9999999h"] {
            let error = text.parse::<Span>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
