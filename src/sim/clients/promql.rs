//! The few forms of PromQL of which it can be told offline what they count: a quotient of two sums of counters, and a quantile of a
//! histogram, with numbers around them.

use jiff::SignedDuration;

use crate::{api::quantity::Span, core::selector::Selector};

/// A query that is understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Number(f64),
    /// So many times what a counter has grown by.
    Count {
        times: f64,
        counter: Counter,
    },
    /// `offset + times * numerator / denominator`.
    Share {
        offset: f64,
        times: f64,
        numerator: Counter,
        denominator: Counter,
    },
    Quantile {
        times: f64,
        quantile: f64,
        /// Its buckets.
        counter: Counter,
    },
}

/// `sum(increase(name{...}[window]))`
#[derive(Clone, Debug, PartialEq)]
pub struct Counter {
    pub name: String,
    pub window: SignedDuration,
    /// `rate`: for each second.
    pub rate: bool,
}

impl Counter {
    /// What a true number of requests reads as.
    pub fn reads(&self, requests: f64) -> f64 {
        if self.rate { requests / self.window.as_secs_f64() } else { requests }
    }
}

/// What a query says, or which part of it is not understood.
pub fn parse(query: &str) -> Result<Form, String> {
    let mut input = Input { rest: query.trim() };
    let form = input.sum()?;
    if input.rest.is_empty() { Ok(form) } else { Err(input.not_understood()) }
}

struct Input<'a> {
    rest: &'a str,
}

impl Input<'_> {
    fn not_understood(&self) -> String {
        let beginning: String = self.rest.chars().take(40).collect();
        if beginning.is_empty() { "the query ends too early".to_owned() } else { format!("{beginning:?} is not understood") }
    }

    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        // A name is eaten as a whole or not at all.
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if token.ends_with(name) && rest.starts_with(name) {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.not_understood()) }
    }

    fn sum(&mut self) -> Result<Form, String> {
        let mut form = self.product()?;
        while self.eat("-") {
            form = match (form, self.product()?) {
                (Form::Number(a), Form::Number(b)) => Form::Number(a - b),
                (Form::Number(a), Form::Share { offset, times, numerator, denominator }) => {
                    Form::Share { offset: a - offset, times: -times, numerator, denominator }
                }
                _ => return Err("a difference is understood of a number and a quotient alone".to_owned()),
            };
        }
        Ok(form)
    }

    fn product(&mut self) -> Result<Form, String> {
        let mut form = self.factor()?;
        loop {
            form = if self.eat("*") {
                times(form, self.factor()?)?
            } else if self.eat("/") {
                quotient(form, self.factor()?)?
            } else {
                return Ok(form);
            };
        }
    }

    fn factor(&mut self) -> Result<Form, String> {
        let form = if self.eat("(") {
            let inner = self.sum()?;
            self.expect(")")?;
            inner
        } else if self.eat("histogram_quantile") {
            self.quantile()?
        } else if self.eat("sum") {
            self.expect("(")?;
            let counter = self.counter()?;
            self.expect(")")?;
            Form::Count { times: 1.0, counter }
        } else {
            Form::Number(self.number()?)
        };
        if self.eat("or") {
            self.expect("vector")?;
            self.expect("(")?;
            self.number()?; // what is absent has not been counted yet
            self.expect(")")?;
        }
        Ok(form)
    }

    fn number(&mut self) -> Result<f64, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let number = self.rest[..end].parse().map_err(|_| self.not_understood())?;
        self.rest = self.rest[end..].trim_start();
        Ok(number)
    }

    /// `(0.99, sum by (le) (rate(name_bucket{...}[window])))`
    fn quantile(&mut self) -> Result<Form, String> {
        self.expect("(")?;
        let quantile = self.number()?;
        for token in [",", "sum"] {
            self.expect(token)?;
        }
        let by = ["by", "(", "le", ")"];
        let before = self.eat(by[0]);
        if before {
            by[1..].iter().try_for_each(|token| self.expect(token))?;
        }
        self.expect("(")?;
        let counter = self.counter()?;
        self.expect(")")?;
        if !before {
            by.iter().try_for_each(|token| self.expect(token))?;
        }
        self.expect(")")?;
        Ok(Form::Quantile { times: 1.0, quantile, counter })
    }

    /// `increase(name{...}[window])`
    fn counter(&mut self) -> Result<Counter, String> {
        let rate = self.eat("rate");
        if !rate && !self.eat("increase") {
            return Err(self.not_understood());
        }
        self.expect("(")?;
        let end = end_of_selector(self.rest).ok_or_else(|| self.not_understood())?;
        let selector = Selector::parse(&self.rest[..end]).map_err(|error| error.to_string())?;
        self.rest = &self.rest[end..];
        self.expect("[")?;
        let end = self.rest.find(']').ok_or_else(|| self.not_understood())?;
        let window: Span = self.rest[..end].trim().parse()?;
        if window.get().is_zero() {
            return Err("a window of no length holds nothing".to_owned());
        }
        self.rest = &self.rest[end..];
        self.expect("]")?;
        self.expect(")")?;
        Ok(Counter { name: selector.name().to_owned(), window: window.get(), rate })
    }
}

/// Where the window begins, past the quoted values of labels.
fn end_of_selector(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '[') => return Some(at),
            _ => {}
        }
        None
    })
}

fn times(a: Form, b: Form) -> Result<Form, String> {
    match (a, b) {
        (Form::Number(a), Form::Number(b)) => Ok(Form::Number(a * b)),
        (Form::Number(by), Form::Count { times, counter }) | (Form::Count { times, counter }, Form::Number(by)) => {
            Ok(Form::Count { times: by * times, counter })
        }
        (Form::Number(by), Form::Share { offset, times, numerator, denominator })
        | (Form::Share { offset, times, numerator, denominator }, Form::Number(by)) => {
            Ok(Form::Share { offset: by * offset, times: by * times, numerator, denominator })
        }
        (Form::Number(by), Form::Quantile { times, quantile, counter })
        | (Form::Quantile { times, quantile, counter }, Form::Number(by)) => Ok(Form::Quantile { times: by * times, quantile, counter }),
        _ => Err("a product is understood with a number alone".to_owned()),
    }
}

fn quotient(a: Form, b: Form) -> Result<Form, String> {
    match (a, b) {
        (Form::Count { times, counter: numerator }, Form::Count { times: parts, counter: denominator }) => {
            Ok(Form::Share { offset: 0.0, times: times / parts, numerator, denominator })
        }
        (form, Form::Number(by)) if by != 0.0 => times(form, Form::Number(1.0 / by)),
        _ => Err("a quotient is understood of two sums of counters, or with a number below it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, rate: bool) -> Counter {
        Counter { name: name.to_owned(), window: SignedDuration::from_secs(30), rate }
    }

    fn share(offset: f64, times: f64, rate: bool) -> Form {
        Form::Share { offset, times, numerator: counter("hits", rate), denominator: counter("hits", rate) }
    }

    #[test]
    fn quotients_of_counters_are_understood_however_they_are_written() {
        let (good, all) = (r#"sum(rate(hits{code!~"5..[)\"]",pod=~'.+-x-.+'}[30s]))"#, "sum(rate(hits[30s]))");
        for (query, form) in [
            (format!("{good} / {all}"), share(0.0, 1.0, true)),
            (format!("100 * {good} / {all}"), share(0.0, 100.0, true)),
            (format!("({good} / {all}) * 100"), share(0.0, 100.0, true)),
            (format!("1 - ({good} or vector(0)) / {all}"), share(1.0, -1.0, true)),
            (format!("(1 - {good}/{all})*100"), share(100.0, -100.0, true)),
            (format!("{good} / {all}").replace("rate", "increase"), share(0.0, 1.0, false)),
        ] {
            assert_eq!(parse(&query), Ok(form), "{query}");
        }
        assert_eq!(parse("sum(increase(hits[30s]))"), Ok(Form::Count { times: 1.0, counter: counter("hits", false) }));
    }

    #[test]
    fn quantiles_are_understood() {
        let form = |times| Form::Quantile { times, quantile: 0.99, counter: counter("lag_seconds_bucket", true) };
        assert_eq!(parse("histogram_quantile(0.99, sum by (le) (rate(lag_seconds_bucket{a=\"b\"}[30s])))"), Ok(form(1.0)));
        assert_eq!(parse("1000 * histogram_quantile(0.99, sum(rate(lag_seconds_bucket[30s])) by (le))"), Ok(form(1000.0)));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (query, why) in [
            ("up", r#""up" is not understood"#),
            ("summary / 2", r#""summary / 2" is not understood"#),
            ("sum(up)", r#""up)" is not understood"#),
            ("sum(rate(a[30s])) / count(b)", r#""count(b)" is not understood"#),
            ("sum(rate(a[30s])) > 5", r#""> 5" is not understood"#),
            ("sum(rate(a[30s])", "the query ends too early"),
            ("sum(rate(a[0s]))", "a window of no length holds nothing"),
            ("2 / sum(rate(a[30s]))", "a quotient is understood of two sums of counters, or with a number below it"),
        ] {
            assert_eq!(parse(query), Err(why.to_owned()), "{query}");
        }
    }
}
