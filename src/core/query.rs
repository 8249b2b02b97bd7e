//! Queries and selectors are templates: `sum(rate(http_requests_total{namespace="{{namespace}}"}[{{interval}}]))`.
//!
//! A value is put where it cannot change what the author of the query meant:
//! - inside a string literal (`"..."` or `'...'`) its backslashes, quotes and line breaks are escaped; inside backquotes, where PromQL
//!   knows no escapes, a value that holds a backquote is refused;
//! - anywhere else only names, numbers and durations are allowed (letters, digits and `_ : . + -`), everything else is refused.
//!
//! Inside a regular expression (`=~"..."`) a value is still part of the regular expression: `.` in it matches any character.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use thiserror::Error;

/// The variables that every query may use, besides `args.<name>`.
pub const VARIABLES: [&str; 7] = ["namespace", "rollout", "service", "canary.service", "stable.hash", "canary.hash", "interval"];

/// Why a template is not usable. The words say how to mend it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("{{{{ without }}}} at character {at}: write {{{{name}}}}")]
    Unclosed { at: usize },
    #[error("a \\ stands right before {{{{{name}}}}}: write \\\\ if the text shall hold one")]
    Escaped { name: String },
    #[error("unknown variable {{{{{name}}}}}: known are {known}")]
    UnknownVariable { name: String, known: String },
    #[error("{{{{args.{name}}}}} is not declared: declare it under args, or mend its name ({known})")]
    UnknownArgument { name: String, known: String },
    #[error("{{{{{name}}}}} has no value here: {why}")]
    NoValue { name: String, why: &'static str },
    #[error(
        "{{{{{name}}}}} stands outside of quotes, where only a name, a number or a duration may be put, but its value is {value:?}: put it into quotes or change the value"
    )]
    Unquoted { name: String, value: String },
    #[error("{{{{{name}}}}} stands in backquotes, but its value {value:?} holds a backquote: use \"...\" instead")]
    Backquote { name: String, value: String },
}

/// The values of the variables. What is `None` is an error where it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    pub namespace: String,
    pub rollout: String,
    pub service: Option<String>,
    pub canary_service: Option<String>,
    pub stable_hash: Option<String>,
    pub canary_hash: String,
    /// The window that a query looks back over.
    pub interval: SignedDuration,
    pub args: BTreeMap<String, String>,
}

/// What a template may use, as far as it is known before there is a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Whether there are Services of the two roles (`spec.traffic` is set).
    pub traffic: bool,
    /// The arguments; `None`: not known yet, so each may be one.
    pub args: Option<BTreeMap<String, String>>,
}

/// A parsed template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { name: String, quote: Option<char> },
}

const NO_TRAFFIC: &str = "the Rollout has no spec.traffic, so it has no Services; tell the canary's pods by {{canary.hash}} instead";
const NO_STABLE: &str = "there is no stable revision";

impl Template {
    /// Splits a text at its `{{...}}`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut literal, mut state, mut rest) = (Vec::new(), String::new(), Literal::default(), text);
        while let Some(c) = rest.chars().next() {
            let Some(inside) = rest.strip_prefix("{{") else {
                state.step(c);
                literal.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            };
            let at = text.len() - rest.len() + 1;
            let end = inside.find("}}").ok_or(TemplateError::Unclosed { at })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            let name = inside[..end].trim().to_owned();
            if state.escaped {
                return Err(TemplateError::Escaped { name });
            }
            parts.push(Part::Variable { name, quote: state.quote });
            rest = &inside[end + 2..];
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// The text, if it is the same whatever the values are.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Checks that everything that is used is known, can have a value, and may stand where it does. Returns the text with values that
    /// stand for those that are not known yet; `None` if nothing can stand for them.
    pub fn check(&self, scope: &Scope) -> Result<Option<String>, TemplateError> {
        for name in self.variables() {
            match name.strip_prefix("args.") {
                None if !VARIABLES.contains(&name) => {
                    return Err(TemplateError::UnknownVariable {
                        name: name.to_owned(),
                        known: format!("{}, args.<name>", VARIABLES.join(", ")),
                    });
                }
                None if !scope.traffic && ["service", "canary.service"].contains(&name) => {
                    return Err(TemplateError::NoValue { name: name.to_owned(), why: NO_TRAFFIC });
                }
                _ => {}
            }
        }
        let known = scope.args.is_some() || self.variables().all(|name| !name.starts_with("args."));
        known.then(|| self.render(&Values::stand_in(scope))).transpose()
    }

    /// Puts the values in.
    pub fn render(&self, values: &Values) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Variable { name, quote } => escape(name, &values.get(name)?, *quote, &mut text)?,
            }
        }
        Ok(text)
    }

    /// Whether it says something else of the canary than of stable.
    pub fn is_about_canary(&self) -> bool {
        self.variables().any(|name| ["canary.service", "canary.hash"].contains(&name))
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }
}

/// Parses and checks a text in one go: what is wrong with it, or nothing.
pub fn validate(text: &str, scope: &Scope) -> Result<(), TemplateError> {
    Template::parse(text)?.check(scope).map(drop)
}

/// Parses a text and puts the values in.
pub fn render(text: &str, values: &Values) -> Result<String, TemplateError> {
    Template::parse(text)?.render(values)
}

/// A span as Prometheus writes it: `30s`, `1m30s`, `250ms`.
pub fn duration(span: SignedDuration) -> String {
    let (mut rest, mut text) = (span.as_millis(), String::new());
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= millis {
            text.push_str(&format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

impl Values {
    /// The same question about stable: the canary's part is played by it. `None`: there is no stable revision.
    pub fn of_stable(&self) -> Option<Self> {
        let canary_hash = self.stable_hash.clone()?;
        Some(Self { canary_service: self.service.clone(), canary_hash, ..self.clone() })
    }

    /// Values that stand for those that are not known yet, to check what a template becomes.
    fn stand_in(scope: &Scope) -> Self {
        let some = || "x".to_owned();
        let service = scope.traffic.then(some);
        Self {
            namespace: some(),
            rollout: some(),
            service: service.clone(),
            canary_service: service,
            stable_hash: Some(some()),
            canary_hash: some(),
            interval: SignedDuration::from_secs(30),
            args: scope.args.clone().unwrap_or_default(),
        }
    }

    fn get(&self, name: &str) -> Result<String, TemplateError> {
        let no_value = |why| TemplateError::NoValue { name: name.to_owned(), why };
        match name {
            "namespace" => Ok(self.namespace.clone()),
            "rollout" => Ok(self.rollout.clone()),
            "service" => self.service.clone().ok_or_else(|| no_value(NO_TRAFFIC)),
            "canary.service" => self.canary_service.clone().ok_or_else(|| no_value(NO_TRAFFIC)),
            "stable.hash" => self.stable_hash.clone().ok_or_else(|| no_value(NO_STABLE)),
            "canary.hash" => Ok(self.canary_hash.clone()),
            "interval" => Ok(duration(self.interval)),
            _ => match name.strip_prefix("args.") {
                Some(arg) => self.args.get(arg).cloned().ok_or_else(|| unknown_argument(arg, self.args.keys())),
                None => {
                    Err(TemplateError::UnknownVariable { name: name.to_owned(), known: format!("{}, args.<name>", VARIABLES.join(", ")) })
                }
            },
        }
    }
}

fn unknown_argument<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> TemplateError {
    let known: Vec<_> = known.map(String::as_str).collect();
    let known = if known.is_empty() { "there are no args".to_owned() } else { format!("known args are {}", known.join(", ")) };
    TemplateError::UnknownArgument { name: name.to_owned(), known }
}

/// Where in PromQL a character stands: in a string literal, in a comment, or outside of both.
#[derive(Default)]
struct Literal {
    quote: Option<char>,
    escaped: bool,
    comment: bool,
}

impl Literal {
    fn step(&mut self, c: char) {
        match (self.quote, c) {
            _ if self.comment => self.comment = c != '\n',
            _ if self.escaped => self.escaped = false,
            (Some('"' | '\''), '\\') => self.escaped = true,
            (Some(open), close) if open == close => self.quote = None,
            (None, '"' | '\'' | '`') => self.quote = Some(c),
            (None, '#') => self.comment = true,
            _ => {}
        }
    }
}

fn escape(name: &str, value: &str, quote: Option<char>, into: &mut String) -> Result<(), TemplateError> {
    match quote {
        Some('`') if value.contains('`') => return Err(TemplateError::Backquote { name: name.to_owned(), value: value.to_owned() }),
        Some('`') => into.push_str(value),
        Some(quote) => {
            for c in value.chars() {
                match c {
                    '\n' => into.push_str("\\n"),
                    '\r' => into.push_str("\\r"),
                    c if c == '\\' || c == quote => into.extend(['\\', c]),
                    c => into.push(c),
                }
            }
        }
        None if value.chars().all(|c| c.is_ascii_alphanumeric() || "_:.+-".contains(c)) && !value.is_empty() => into.push_str(value),
        None => return Err(TemplateError::Unquoted { name: name.to_owned(), value: value.to_owned() }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> Values {
        Values {
            namespace: "shop".into(),
            rollout: "api".into(),
            service: Some("api".into()),
            canary_service: Some("api-canary".into()),
            stable_hash: Some("5d9c".into()),
            canary_hash: "7f6b".into(),
            interval: SignedDuration::from_secs(90),
            args: [("job", "a\"b\\c"), ("limit", "0.5")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }

    #[test]
    fn puts_every_variable_in() {
        let text =
            r#"{{namespace}} {{rollout}} {{service}} {{ canary.service }} {{stable.hash}} {{canary.hash}} {{interval}} {{args.limit}}"#;
        assert_eq!(render(text, &values()).unwrap(), "shop api api api-canary 5d9c 7f6b 1m30s 0.5");
    }

    #[test]
    fn a_value_does_not_break_out_of_a_string() {
        assert_eq!(render(r#"up{job="{{args.job}}"}"#, &values()).unwrap(), r#"up{job="a\"b\\c"}"#);
        assert_eq!(render(r#"up{job='{{args.job}}'}"#, &values()).unwrap(), r#"up{job='a"b\\c'}"#);
        assert!(
            matches!(render(r#"up{a="\{{args.job}}"}"#, &values()), Err(TemplateError::Escaped { .. })),
            "the value's first character would be its victim"
        );
        assert_eq!(render(r#"up{a="\"{{args.job}}"}"#, &values()).unwrap(), r#"up{a="\"a\"b\\c"}"#);
    }

    #[test]
    fn outside_of_a_string_only_names_and_numbers_are_allowed() {
        assert_eq!(render("up > {{args.limit}}", &values()).unwrap(), "up > 0.5");
        let error = render("up > {{args.job}}", &values()).unwrap_err();
        assert!(error.to_string().starts_with("{{args.job}} stands outside of quotes"), "{error}");
        let error = render("up # it's \"{{args.job}}", &values()).unwrap_err();
        assert!(matches!(error, TemplateError::Unquoted { .. }), "a comment is not a string: {error}");
    }

    #[test]
    fn unknown_names_are_named_with_the_known_ones() {
        let scope = Scope { traffic: true, args: Some([("job".to_owned(), "x".to_owned())].into()) };
        let error = |text: &str| validate(text, &scope).unwrap_err().to_string();
        assert_eq!(
            error("{{nmespace}}"),
            "unknown variable {{nmespace}}: known are namespace, rollout, service, canary.service, stable.hash, canary.hash, interval, args.<name>"
        );
        assert_eq!(error("{{args.jb}}"), "{{args.jb}} is not declared: declare it under args, or mend its name (known args are job)");
        assert_eq!(error("a {{interval"), "{{ without }} at character 3: write {{name}}");
        assert_eq!(validate("{{args.job}}", &scope), Ok(()));
        assert_eq!(validate("{{args.later}}", &Scope { traffic: true, args: None }), Ok(()), "not known yet");
    }

    #[test]
    fn without_traffic_there_are_no_services() {
        let error = validate("{{canary.service}}", &Scope::default()).unwrap_err();
        assert!(error.to_string().contains("no spec.traffic"), "{error}");
        let error = render("{{stable.hash}}", &Values { stable_hash: None, ..values() }).unwrap_err();
        assert_eq!(error.to_string(), "{{stable.hash}} has no value here: there is no stable revision");
    }

    #[test]
    fn durations_are_written_as_prometheus_reads_them() {
        for (millis, text) in [(30_000, "30s"), (90_000, "1m30s"), (250, "250ms"), (3_600_000, "1h"), (5_400_500, "1h30m500ms"), (0, "0s")]
        {
            assert_eq!(duration(SignedDuration::from_millis(millis)), text);
        }
    }

    /// Reads a PromQL string literal back.
    fn unquote(text: &str, quote: char) -> Option<String> {
        let (mut value, mut chars) = (String::new(), text.strip_prefix(quote)?.strip_suffix(quote)?.chars());
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    'r' => value.push('\r'),
                    c if c == '\\' || c == quote => value.push(c),
                    _ => return None,
                },
                c if c == quote => return None,
                c => value.push(c),
            }
        }
        Some(value)
    }

    proptest! {
        #[test]
        fn any_value_in_quotes_reads_back_as_itself(value in "\\PC{0,20}|[\"'\\\\\n\r`a]{0,12}", quote in prop::sample::select(vec!['"', '\''])) {
            let values = Values { args: [("x".to_owned(), value.clone())].into(), ..values() };
            let text = render(&format!("{quote}{{{{args.x}}}}{quote}"), &values).unwrap();
            prop_assert_eq!(unquote(&text, quote), Some(value));
        }

        #[test]
        fn parsing_never_panics_and_text_without_braces_stays(text in "\\PC*") {
            if let Ok(template) = Template::parse(&text) && !text.contains("{{") {
                prop_assert_eq!(template.render(&values()).unwrap(), text);
            }
        }
    }
}
