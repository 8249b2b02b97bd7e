//! Series selectors as in Prometheus: `http_requests_total{code=~"5..", handler!="/healthz"}`.

use regex::Regex;
use thiserror::Error;

/// Chooses series by name and labels.
#[derive(Clone, Debug)]
pub struct Selector {
    name: String,
    matchers: Vec<Matcher>,
}

#[derive(Clone, Debug)]
struct Matcher {
    label: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    Match(Regex),
    NoMatch(Regex),
}

/// Why a text is not a selector.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SelectorError {
    #[error("expected {expected} at {at:?}: write a selector such as http_requests_total{{code=~\"5..\"}}")]
    Syntax { expected: &'static str, at: String },
    #[error("{pattern:?} is not a regular expression: {why}")]
    Regex { pattern: String, why: String },
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut input = Input { rest: text.trim() };
        let name = input.name(true).ok_or_else(|| input.expected("the name of a metric"))?.to_owned();
        let matchers = if input.eat("{") { input.matchers()? } else { Vec::new() };
        if input.rest.is_empty() { Ok(Self { name, matchers }) } else { Err(input.expected("the end")) }
    }

    /// The name of the metric.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a series with this name and these labels is chosen. As in Prometheus, a label that is absent is empty.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.name == name && self.labels_match(label)
    }

    /// Whether a series with these labels is chosen, whatever its name.
    pub fn labels_match<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = label(&matcher.label).unwrap_or_default();
            match &matcher.test {
                Test::Equal(wanted) => value == wanted,
                Test::NotEqual(unwanted) => value != unwanted,
                Test::Match(regex) => regex.is_match(value),
                Test::NoMatch(regex) => !regex.is_match(value),
            }
        })
    }
}

struct Input<'a> {
    rest: &'a str,
}

impl<'a> Input<'a> {
    fn expected(&self, expected: &'static str) -> SelectorError {
        SelectorError::Syntax { expected, at: self.rest.chars().take(20).collect() }
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn name(&mut self, colons: bool) -> Option<&'a str> {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
        let (name, rest) = self.rest.split_at(self.rest.find(|c| !part(c)).unwrap_or(self.rest.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.rest = rest.trim_start();
        Some(name)
    }

    fn matchers(&mut self) -> Result<Vec<Matcher>, SelectorError> {
        let mut matchers = Vec::new();
        while !self.eat("}") {
            let label = self.name(false).ok_or_else(|| self.expected("a label or }"))?.to_owned();
            let operator = ["=~", "!~", "!=", "="].into_iter().find(|operator| self.eat(operator));
            let operator = operator.ok_or_else(|| self.expected("=, !=, =~ or !~"))?;
            let value = self.string()?;
            let test = match operator {
                "=" => Test::Equal(value),
                "!=" => Test::NotEqual(value),
                "=~" => Test::Match(anchored(&value)?),
                _ => Test::NoMatch(anchored(&value)?),
            };
            matchers.push(Matcher { label, test });
            if !self.eat(",") && !self.rest.starts_with('}') {
                return Err(self.expected(", or }"));
            }
        }
        Ok(matchers)
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        let quote = self.rest.chars().next().filter(|c| "\"'`".contains(*c)).ok_or_else(|| self.expected("a value in quotes"))?;
        let (mut value, mut chars) = (String::new(), self.rest[1..].char_indices());
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = self.rest[at + 2..].trim_start();
                    return Ok(value);
                }
                '\\' if quote != '`' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, c)) if "\\\"'".contains(c) => value.push(c),
                    _ => return Err(self.expected("a value whose \\ is followed by one of \\ \" ' n r t")),
                },
                c => value.push(c),
            }
        }
        Err(self.expected("a value with a closing quote"))
    }
}

/// Regular expressions match the whole value, as in Prometheus. Bounded, so that a pattern cannot use up the memory.
pub fn anchored(pattern: &str) -> Result<Regex, SelectorError> {
    let bad = |error: regex::Error| SelectorError::Regex { pattern: pattern.to_owned(), why: error.to_string() };
    // Checked by itself first: `a)(b` is only one when it is wrapped.
    Regex::new(pattern).map_err(bad)?;
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$")).size_limit(1 << 20).build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(selector: &str, name: &str, labels: &[(&str, &str)]) -> bool {
        Selector::parse(selector).unwrap().matches(name, |label| labels.iter().find(|(name, _)| *name == label).map(|(_, value)| *value))
    }

    #[test]
    fn chooses_by_name_and_labels() {
        let labels = [("code", "503"), ("path", "/x?y=1,{z}")];
        for (selector, expected) in [
            ("http_requests_total", true),
            (" http_requests_total { } ", true),
            ("http_requests", false),
            (r#"http_requests_total{code="503"}"#, true),
            (r#"http_requests_total{code='503', path="/x?y=1,{z}",}"#, true),
            (r#"http_requests_total{code!="503"}"#, false),
            (r#"http_requests_total{code=~"5.."}"#, true),
            (r#"http_requests_total{code=~"5."}"#, false),
            (r#"http_requests_total{code=~"4..|5.."}"#, true),
            (r#"http_requests_total{code!~"5.."}"#, false),
            (r#"http_requests_total{code!~`4\d\d`}"#, true),
            (r#"http_requests_total{absent=""}"#, true),
            (r#"http_requests_total{absent!=""}"#, false),
        ] {
            assert_eq!(matches(selector, "http_requests_total", &labels), expected, "{selector}");
        }
        assert!(matches("job:errors:rate5m", "job:errors:rate5m", &[]));
        assert!(matches(r#"x{a="q\"\\\n"}"#, "x", &[("a", "q\"\\\n")]));
    }

    #[test]
    fn says_what_it_expected() {
        for (text, expected) in [
            ("", "the name of a metric"),
            ("{a=\"b\"}", "the name of a metric"),
            ("x{", "a label or }"),
            ("x{a}", "=, !=, =~ or !~"),
            ("x{a=b}", "a value in quotes"),
            ("x{a=\"b}", "a value with a closing quote"),
            ("x{a=\"b\" c=\"d\"}", ", or }"),
            ("sum(x)", "the end"),
            ("x{a=~\"(\"}", "is not a regular expression"),
            ("x{a=~\"a)(b\"}", "is not a regular expression"),
        ] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*|[a{}=~!\"'`\\\\,x ]*") {
            drop(Selector::parse(&text));
        }
    }
}
