//! Label and field selectors, in the query's notation and as `LabelSelector` objects.

use serde_json::Value;

use super::error::ApiError;

/// A conjunction of requirements on labels; empty selects everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            requirements.push(Requirement::parse(part.trim())?);
        }
        Ok(Self(requirements))
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub fn from_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let values = value.as_str().map(str::to_owned).into_iter().collect();
            requirements.push(Requirement { key: key.clone(), test: Test::In(values) });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            let test = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                _ => Test::Absent,
            };
            requirements.push(Requirement { key, test });
        }
        Self(requirements)
    }

    /// Reads a plain map, as a Service's selector.
    pub fn from_map(map: &Value) -> Self {
        Self::from_object(&serde_json::json!({ "matchLabels": map }))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `labels` is an object's `metadata.labels`, or null.
    pub fn matches(&self, labels: &Value) -> bool {
        self.0.iter().all(|r| r.matches(labels[&r.key].as_str()))
    }
}

impl std::fmt::Display for LabelSelector {
    /// The query's notation, as a scale subresource shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match &r.test {
                Test::In(v) if v.len() == 1 => write!(f, "{}={}", r.key, v[0])?,
                Test::In(v) => write!(f, "{} in ({})", r.key, v.join(","))?,
                Test::NotIn(v) => write!(f, "{} notin ({})", r.key, v.join(","))?,
                Test::Exists => write!(f, "{}", r.key)?,
                Test::Absent => write!(f, "!{}", r.key)?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request(format!("unable to parse requirement: {text:?}"));
        let requirement = |key: &str, test| Ok(Self { key: key.trim().to_owned(), test });
        if let Some(key) = text.strip_prefix('!') {
            return requirement(key, Test::Absent);
        }
        if let Some((head, values)) = text.split_once('(') {
            let values = values.strip_suffix(')').ok_or_else(bad)?;
            let values = values.split(',').map(|v| v.trim().to_owned()).collect();
            let mut words = head.split_whitespace();
            return match (words.next(), words.next(), words.next()) {
                (Some(key), Some("in"), None) => requirement(key, Test::In(values)),
                (Some(key), Some("notin"), None) => requirement(key, Test::NotIn(values)),
                _ => Err(bad()),
            };
        }
        let one = |v: &str| vec![v.trim().to_owned()];
        if let Some((key, value)) = text.split_once("!=") {
            return requirement(key, Test::NotIn(one(value)));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return requirement(key, Test::In(one(value)));
        }
        if let Some(second) = text.split_whitespace().nth(1) {
            let message = format!("unable to parse requirement: found '{second}', expected: in, notin, =, ==, !=, gt, lt");
            return Err(ApiError::bad_request(message));
        }
        if text.is_empty() {
            return Err(bad());
        }
        requirement(text, Test::Exists)
    }

    fn matches(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => !value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

/// A conjunction of `path=value` and `path!=value`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector(Vec<(Vec<String>, bool, String)>);

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (path, equal, value) = if let Some((p, v)) = part.split_once("!=") {
                (p, false, v)
            } else if let Some((p, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (p, true, v)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")));
            };
            terms.push((path.split('.').map(str::to_owned).collect(), equal, value.to_owned()));
        }
        Ok(Self(terms))
    }

    /// An absent field counts as the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, equal, wanted)| {
            let found = path.iter().try_fold(object, |at, key| at.get(key));
            let found = match found {
                Some(Value::String(s)) => s.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (found == *wanted) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn set_based_selectors_are_understood() {
        let selector = LabelSelector::parse("app=api,tier in (web, edge),env notin (dev),team,!old,x!=1").unwrap();
        assert!(selector.matches(&json!({"app": "api", "tier": "edge", "team": "a"})));
        assert!(!selector.matches(&json!({"app": "api", "tier": "edge", "team": "a", "old": ""})));
        assert!(!selector.matches(&json!({"app": "api", "tier": "db", "team": "a"})));
        assert!(!selector.matches(&json!({"app": "api", "tier": "web", "team": "a", "env": "dev"})));
        assert!(!selector.matches(&Value::Null));
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        assert_eq!(LabelSelector::parse("a b").unwrap_err().code, 400);
        assert_eq!(FieldSelector::parse("a").unwrap_err().code, 400);
    }

    #[test]
    fn field_selectors_compare_by_path() {
        let selector = FieldSelector::parse("metadata.name=a,spec.node!=b").unwrap();
        assert!(selector.matches(&json!({"metadata": {"name": "a"}})));
        assert!(!selector.matches(&json!({"metadata": {"name": "a"}, "spec": {"node": "b"}})));
    }
}
