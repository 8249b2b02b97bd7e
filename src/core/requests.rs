//! Which requests a rule of a route is about, in the words of the Gateway API: its `matches`, and how they are narrowed.

use std::cmp::Reverse;

use serde_json::{Map, Value, json};

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// Requests by what they must be; all of it must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub method: Option<String>,
    pub path: Option<Text>,
    /// By name, which small and capital letters do not tell apart.
    pub headers: Vec<(String, Text)>,
}

/// A match cannot be narrowed to these requests, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inexpressible(pub String);

impl Requests {
    /// The match of those of its requests that are these, too: nothing where there are none.
    pub fn narrow(&self, matched: &Value) -> Result<Option<Value>, Inexpressible> {
        let mut narrow = matched.as_object().cloned().unwrap_or_default();
        if let Some(method) = &self.method {
            match narrow.get("method").and_then(Value::as_str) {
                Some(other) if other != method => return Ok(None),
                _ => narrow.insert("method".to_owned(), json!(method)),
            };
        }
        if let Some(path) = &self.path {
            match narrow_path(narrow.get("path"), path)? {
                Some(path) => narrow.insert("path".to_owned(), path),
                None => return Ok(None),
            };
        }
        for (name, value) in &self.headers {
            if !narrow_header(&mut narrow, name, value)? {
                return Ok(None);
            }
        }
        Ok(Some(Value::Object(narrow)))
    }
}

fn narrow_path(matched: Option<&Value>, wanted: &Text) -> Result<Option<Value>, Inexpressible> {
    let text = |key: &str, default: &'static str| matched.and_then(|path| path.get(key)).and_then(Value::as_str).unwrap_or(default);
    let (kind, value) = (text("type", "PathPrefix"), text("value", "/"));
    let path = |kind: &str, value: &str| Ok(Some(json!({"type": kind, "value": value})));
    match (kind, wanted) {
        ("PathPrefix", Text::Exact(exact)) if is_within(exact, value) => path("Exact", exact),
        ("PathPrefix", Text::Prefix(prefix)) if is_within(prefix, value) => path("PathPrefix", prefix),
        ("PathPrefix", Text::Prefix(prefix)) if is_within(value, prefix) => path("PathPrefix", value),
        ("PathPrefix", Text::Regex(regex)) if value == "/" => path("RegularExpression", regex),
        ("Exact", Text::Exact(exact)) if exact == value => path("Exact", exact),
        ("Exact", Text::Prefix(prefix)) if is_within(value, prefix) => path("Exact", value),
        ("RegularExpression", Text::Regex(regex)) if regex == value => path("RegularExpression", regex),
        ("PathPrefix" | "Exact", Text::Exact(_) | Text::Prefix(_)) => Ok(None),
        _ => Err(Inexpressible(format!(
            "its path is {kind} {value}, and nothing says which of these requests have the path that is asked for"
        ))),
    }
}

/// Whether a path lies within a prefix, by whole parts.
fn is_within(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds a header to a match; false where no request has both what it has and what is wanted.
fn narrow_header(narrow: &mut Map<String, Value>, name: &str, wanted: &Text) -> Result<bool, Inexpressible> {
    let (kind, value) = match wanted {
        Text::Exact(exact) => ("Exact", exact.clone()),
        Text::Prefix(prefix) => ("RegularExpression", format!("^{}.*", regex::escape(prefix))),
        Text::Regex(regex) => ("RegularExpression", regex.clone()),
    };
    let headers = narrow.entry("headers").or_insert_with(|| json!([]));
    let Some(headers) = headers.as_array_mut() else { return Ok(false) };
    let Some(header) = headers.iter().find(|header| header_name(header).eq_ignore_ascii_case(name)) else {
        headers.push(json!({"type": kind, "name": name, "value": value}));
        return Ok(true);
    };
    let has = |key: &str, default: &'static str| header.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
    match (has("type", "Exact").as_str(), kind) {
        (before, now) if before == now && has("value", "") == value => Ok(true),
        ("Exact", "Exact") => Ok(false),
        _ => Err(Inexpressible(format!("it tells requests by header {name} already, and a match can have only one value for a header"))),
    }
}

fn header_name(header: &Value) -> &str {
    header.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(matched: &'a Value, key: &str) -> &'a [Value] {
    matched.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// By what one match comes before another that fits the same request, as the Gateway API says: the greater one wins. Two equal ones go by
/// the order of their rules.
fn precedence(matched: &Value) -> (bool, usize, usize, usize, usize) {
    let length = |pointer: &str| matched.pointer(pointer).and_then(Value::as_str).map_or(0, str::len);
    let exact = matched.pointer("/path/type").and_then(Value::as_str) == Some("Exact");
    // Of HTTPRoutes the path, then whether there is a method; of GRPCRoutes the service, then the method.
    let path = length("/path/value").max(length("/method/service")).max(1);
    let method = match matched.get("method") {
        Some(Value::String(_)) => 1,
        _ => length("/method/method"),
    };
    (exact, path, method, list(matched, "headers").len(), list(matched, "queryParams").len())
}

/// Whether a request that fits both goes by the first of them, whatever the order of their rules.
pub fn comes_before(one: &Value, other: &Value) -> bool {
    precedence(one) > precedence(other)
}

/// Whether it is certain that no request fits both.
fn are_disjoint(one: &Value, other: &Value) -> bool {
    let method = |matched: &Value| matched.get("method").cloned();
    let methods = matches!((method(one), method(other)), (Some(one), Some(other)) if one != other);
    let headers = list(one, "headers").iter().any(|header| {
        let is_exact = |header: &Value| header.get("type").and_then(Value::as_str).unwrap_or("Exact") == "Exact";
        let same_name = |other: &&Value| header_name(other).eq_ignore_ascii_case(header_name(header));
        let other = list(other, "headers").iter().find(same_name);
        other.is_some_and(|other| is_exact(header) && is_exact(other) && header.get("value") != other.get("value"))
    });
    methods || headers || paths_are_disjoint(one.get("path"), other.get("path"))
}

fn paths_are_disjoint(one: Option<&Value>, other: Option<&Value>) -> bool {
    let parts = |path: Option<&Value>| {
        let text = |key: &str, default: &str| path.and_then(|p| p.get(key)).and_then(Value::as_str).unwrap_or(default).to_owned();
        (text("type", "PathPrefix"), text("value", "/"))
    };
    let ((kind, value), (other_kind, other_value)) = (parts(one), parts(other));
    match (kind.as_str(), other_kind.as_str()) {
        ("Exact", "Exact") => value != other_value,
        ("Exact", "PathPrefix") => !is_within(&value, &other_value),
        ("PathPrefix", "Exact") => !is_within(&other_value, &value),
        ("PathPrefix", "PathPrefix") => !is_within(&value, &other_value) && !is_within(&other_value, &value),
        _ => false,
    }
}

/// Whether a match made from `own` takes requests that another rule of the route had: those that fit both, and that the other one came
/// before in. `at`: the places of their rules.
pub fn takes_from(narrowed: &Value, own: (&Value, usize), other: (&Value, usize)) -> bool {
    let came_first = (precedence(other.0), Reverse(other.1)) > (precedence(own.0), Reverse(own.1));
    came_first && comes_before(narrowed, other.0) && !are_disjoint(narrowed, other.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> Requests {
        Requests { headers: vec![(name.to_owned(), Text::Exact(value.to_owned()))], ..Requests::default() }
    }

    #[test]
    fn a_header_is_added_to_what_a_match_has_and_unknown_fields_stay() {
        let matched =
            json!({"path": {"type": "PathPrefix", "value": "/a"}, "headers": [{"type": "Exact", "name": "a", "value": "1"}], "new": 1});
        let narrow = header("B", "2").narrow(&matched).unwrap().unwrap();
        let headers = json!([{"type": "Exact", "name": "a", "value": "1"}, {"type": "Exact", "name": "B", "value": "2"}]);
        assert_eq!(narrow, json!({"path": matched["path"], "headers": headers, "new": 1}));
        assert_eq!(header("A", "1").narrow(&matched), Ok(Some(matched.clone())), "it has that header already");
        assert_eq!(header("A", "2").narrow(&matched), Ok(None), "no request has both");
        let prefix = Requests { headers: vec![("A".into(), Text::Prefix("x".into()))], ..Requests::default() };
        assert!(prefix.narrow(&matched).is_err(), "a gateway takes only one value of a header");
        let narrow = prefix.narrow(&json!({})).unwrap().unwrap();
        assert_eq!(narrow["headers"], json!([{"type": "RegularExpression", "name": "A", "value": "^x.*"}]));
    }

    #[test]
    fn a_path_becomes_the_narrower_of_the_two() {
        let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
        let (exact, prefix) = (|p: &str| Text::Exact(p.into()), |p: &str| Text::Prefix(p.into()));
        for (matched, wanted, narrow) in [
            (json!({}), prefix("/a"), Some(path("PathPrefix", "/a"))),
            (path("PathPrefix", "/a"), prefix("/a/b"), Some(path("PathPrefix", "/a/b"))),
            (path("PathPrefix", "/a/b"), prefix("/a"), Some(path("PathPrefix", "/a/b"))),
            (path("PathPrefix", "/a"), prefix("/ab"), None),
            (path("PathPrefix", "/a"), exact("/a/b"), Some(path("Exact", "/a/b"))),
            (path("Exact", "/a/b"), prefix("/a"), Some(path("Exact", "/a/b"))),
            (path("Exact", "/a/b"), exact("/a"), None),
        ] {
            let requests = Requests { path: Some(wanted.clone()), ..Requests::default() };
            assert_eq!(requests.narrow(&matched), Ok(narrow), "{matched} and {wanted:?}");
        }
        let regex = Requests { path: Some(Text::Regex("/a.*".into())), ..Requests::default() };
        assert_eq!(regex.narrow(&json!({})), Ok(Some(path("RegularExpression", "/a.*"))));
        assert!(regex.narrow(&path("Exact", "/a")).is_err());
    }

    #[test]
    fn a_narrowed_match_takes_requests_of_a_rule_that_had_come_first() {
        let path = |value: &str| json!({"path": {"type": "PathPrefix", "value": value}});
        let with = |mut matched: Value, key: &str, value: Value| {
            matched[key] = value;
            matched
        };
        let (all, admin) = (path("/"), path("/admin"));
        let by_query = with(path("/"), "queryParams", json!([{"name": "q", "value": "1"}]));
        let by_team = with(path("/"), "headers", json!([{"name": "team", "value": "x"}]));
        let narrowed = header("canary", "yes").narrow(&all).unwrap().unwrap();
        assert!(takes_from(&narrowed, (&all, 0), (&by_query, 1)), "a header comes before a query parameter");
        assert!(!takes_from(&narrowed, (&all, 0), (&by_team, 1)), "as many headers: the user's rule is the earlier one");
        assert!(!takes_from(&narrowed, (&all, 0), (&admin, 1)), "the longer path still comes first");
        let deep = Requests { path: Some(Text::Exact("/admin/x".into())), ..Requests::default() }.narrow(&all).unwrap().unwrap();
        assert!(takes_from(&deep, (&all, 0), (&admin, 1)));
        assert!(!takes_from(&deep, (&all, 0), (&path("/shop"), 1)), "no request fits both");
    }
}
