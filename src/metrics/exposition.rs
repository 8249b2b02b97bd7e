//! The text formats in which processes expose their metrics: Prometheus text 0.0.4 (with quoted names) and OpenMetrics 1.0.
//!
//! A line that is not understood is an error with its number, never skipped: half an answer must not become a verdict.

use std::borrow::Cow;

use thiserror::Error;

/// One line that says something.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// `# TYPE <name> <kind>`.
    Type { name: Cow<'a, str>, kind: &'a str },
    /// One series with its value. Time stamps and exemplars are checked and left out.
    Series(Series<'a>),
    /// `# EOF`: an OpenMetrics text is whole only with it.
    Eof,
}

/// One series with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series<'a> {
    pub name: Cow<'a, str>,
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub value: f64,
}

impl Series<'_> {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_ref())
    }
}

/// Why a text is not in the format.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    pub message: String,
}

/// The lines of a text, one by one; comments and empty lines are left out. After an error there is nothing more.
pub fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, ParseError>> {
    let (mut ended, mut failed) = (false, false);
    text.lines().enumerate().filter_map(move |(at, line)| {
        if failed {
            return None;
        }
        let parsed = match parse_line(line.trim_matches([' ', '\t', '\r'])) {
            Ok(None) => return None,
            Ok(Some(_)) if ended => Err("there is more after # EOF".to_owned()),
            Ok(Some(line)) => {
                ended = line == Line::Eof;
                Ok(line)
            }
            Err(message) => Err(message),
        };
        failed = parsed.is_err();
        Some(parsed.map_err(|message| ParseError { line: at + 1, message }))
    })
}

fn parse_line(line: &str) -> Result<Option<Line<'_>>, String> {
    let Some(comment) = line.strip_prefix('#') else {
        return if line.is_empty() { Ok(None) } else { Cursor { rest: line }.series().map(|series| Some(Line::Series(series))) };
    };
    let comment = comment.trim_start();
    if comment == "EOF" {
        return Ok(Some(Line::Eof));
    }
    let Some(declaration) = comment.strip_prefix("TYPE").filter(|rest| rest.starts_with([' ', '\t'])) else { return Ok(None) };
    let mut cursor = Cursor { rest: declaration };
    cursor.blanks();
    let name = if cursor.rest.starts_with('"') { cursor.quoted()? } else { cursor.name(true)?.into() };
    cursor.blanks();
    if cursor.rest.is_empty() {
        return Err(format!("# TYPE {name} lacks the type"));
    }
    Ok(Some(Line::Type { name, kind: cursor.rest }))
}

type Labels<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn series(mut self) -> Result<Series<'a>, String> {
        let mut name = if self.rest.starts_with('{') { None } else { Some(Cow::Borrowed(self.name(true)?)) };
        self.blanks();
        let labels = if self.eat('{') { self.labels(&mut name)? } else { Vec::new() };
        let name = name.ok_or("the series has no name")?;
        let value = self.number("a value")?;
        if !self.rest.is_empty() && !self.rest.starts_with('#') {
            self.number("a time stamp")?;
        }
        if self.eat('#') {
            self.exemplar()?;
        }
        if self.rest.is_empty() { Ok(Series { name, labels, value }) } else { Err(self.expected("the end of the line")) }
    }

    fn exemplar(&mut self) -> Result<(), String> {
        self.blanks();
        if !self.eat('{') {
            return Err(self.expected("an exemplar's labels"));
        }
        self.labels(&mut None)?;
        self.number("an exemplar's value")?;
        if !self.rest.is_empty() {
            self.number("an exemplar's time stamp")?;
        }
        Ok(())
    }

    /// What stands between `{` and `}`. A quoted string without a value is the name of the metric, as Prometheus 3 writes names in UTF-8.
    fn labels(&mut self, name: &mut Option<Cow<'a, str>>) -> Result<Labels<'a>, String> {
        let mut labels = Vec::new();
        loop {
            self.blanks();
            if self.eat('}') {
                return Ok(labels);
            }
            let quoted = self.rest.starts_with('"');
            let label = if quoted { self.quoted()? } else { Cow::Borrowed(self.name(false)?) };
            self.blanks();
            if self.eat('=') {
                self.blanks();
                let value = self.quoted()?;
                labels.push((label, value));
            } else if quoted && name.is_none() && labels.is_empty() {
                *name = Some(label);
            } else {
                return Err(self.expected("="));
            }
            self.blanks();
            if !self.eat(',') && !self.rest.starts_with('}') {
                return Err(self.expected(", or }"));
            }
        }
    }

    /// A name in the classic alphabet; colons are for names of metrics only.
    fn name(&mut self, colons: bool) -> Result<&'a str, String> {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
        let (name, rest) = self.rest.split_at(self.rest.find(|c| !part(c)).unwrap_or(self.rest.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.expected("a name"));
        }
        self.rest = rest;
        Ok(name)
    }

    /// A string in double quotes with the escapes `\\`, `\"` and `\n`; another backslash stands for itself, as Prometheus reads it.
    fn quoted(&mut self) -> Result<Cow<'a, str>, String> {
        if !self.eat('"') {
            return Err(self.expected("a value in double quotes"));
        }
        let whole = self.rest;
        let mut escaped = false;
        for (at, c) in whole.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.rest = &whole[at + 1..];
                    return Ok(unescape(&whole[..at]));
                }
                _ => {}
            }
        }
        Err(self.expected("a closing double quote"))
    }

    fn number(&mut self, what: &'static str) -> Result<f64, String> {
        self.blanks();
        let (number, rest) = self.rest.split_at(self.rest.find([' ', '\t']).unwrap_or(self.rest.len()));
        let value = number.parse().map_err(|_| self.expected(what))?;
        self.rest = rest;
        self.blanks();
        Ok(value)
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expected(&self, what: &str) -> String {
        let found: String = self.rest.chars().take(30).collect();
        format!("expected {what}, found {found:?}")
    }
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut value, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                other => value.extend(std::iter::once('\\').chain(other)),
            },
            c => value.push(c),
        }
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(text: &str) -> Vec<Series<'_>> {
        lines(text)
            .filter_map(|line| match line.unwrap() {
                Line::Series(series) => Some(series),
                _ => None,
            })
            .collect()
    }

    fn one(line: &str) -> (String, Vec<(&str, String)>, f64) {
        let [series] = series(line).try_into().unwrap_or_else(|all| panic!("{all:?}"));
        let labels = series.labels.into_iter().map(|(name, value)| match name {
            Cow::Borrowed(name) => (name, value.into_owned()),
            Cow::Owned(name) => panic!("{name}"),
        });
        (series.name.into_owned(), labels.collect(), series.value)
    }

    #[test]
    fn reads_what_others_lose() {
        let label = |value: &str| vec![("a", value.to_owned())];
        assert_eq!(one("job:errors:rate5m 3"), ("job:errors:rate5m".into(), vec![], 3.0));
        assert_eq!(one(r#"x{a="/x?y=1"} 1"#).1, label("/x?y=1"));
        assert_eq!(one(r#"x{a="hello, world"} 1"#).1, label("hello, world"));
        assert_eq!(one(r#"x{a="{}}, # {"} 1"#).1, label("{}}, # {"));
        assert_eq!(one(r#"x{a="q\" b\\ n\n d\d"} 1"#).1, label("q\" b\\ n\n d\\d"));
        assert_eq!(one(r#"x{a="",} 1"#).1, label(""));
        assert_eq!(one("x { a = \"b\" , }\t1").1, label("b"));
        assert_eq!(one(r#"x_bucket{a="0.1"} 8 # {trace_id="K}5"} 0.067 1520879607.789"#), ("x_bucket".into(), label("0.1"), 8.0));
        assert_eq!(one(r#"{"my.metric",a="b"} 7"#), ("my.metric".into(), label("b"), 7.0));
        assert_eq!(one(r#"x{"a"="b"} 7"#).1, label("b"));
    }

    #[test]
    fn reads_numbers_and_time_stamps() {
        for (text, value) in
            [("x 1.5e3", 1500.0), ("x +Inf", f64::INFINITY), ("x -Inf 1395066363000", f64::NEG_INFINITY), ("x -1 -5", -1.0)]
        {
            assert_eq!(one(text).2, value);
        }
        assert!(one("x NaN 1520879607.789").2.is_nan());
    }

    #[test]
    fn reads_types_and_the_end_and_skips_comments() {
        let text = "# HELP x {what} it \"is\r\n# TYPE x counter\r\n\r\n#just so\r\nx 1\r\n# EOF\r\n";
        let all: Vec<_> = lines(text).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            all,
            [
                Line::Type { name: "x".into(), kind: "counter" },
                Line::Series(Series { name: "x".into(), labels: vec![], value: 1.0 }),
                Line::Eof
            ]
        );
    }

    #[test]
    fn errors_name_the_line_and_end_the_text() {
        for (text, line, message) in [
            ("a 1\nb\nc 1", 2, "expected a value, found \"\""),
            ("a 1\n\nb{x=\"y} 1", 3, "expected a closing double quote, found \"y} 1\""),
            ("b{x=y} 1", 1, "expected a value in double quotes, found \"y} 1\""),
            ("b{x} 1", 1, "expected =, found \"} 1\""),
            ("b{x=\"y\" z=\"w\"} 1", 1, "expected , or }, found \"z=\\\"w\\\"} 1\""),
            ("b{1=\"y\"} 1", 1, "expected a name, found \"1=\\\"y\\\"} 1\""),
            ("{} 1", 1, "the series has no name"),
            ("my-metric 1", 1, "expected a value, found \"-metric 1\""),
            ("b 1 2 3", 1, "expected the end of the line, found \"3\""),
            ("b 1 # x", 1, "expected an exemplar's labels, found \"x\""),
            ("b one", 1, "expected a value, found \"one\""),
            ("# TYPE b", 1, "# TYPE b lacks the type"),
            ("# EOF\nb 1", 2, "there is more after # EOF"),
        ] {
            let errors: Vec<_> = lines(text).filter_map(Result::err).collect();
            assert_eq!(errors, [ParseError { line, message: message.to_owned() }], "{text}");
            assert!(lines(text).last().unwrap().is_err(), "{text}");
        }
    }

    fn write(series: &Series<'_>, crlf: bool, stamp: Option<i64>) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = series.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let stamp = stamp.map(|stamp| format!(" {stamp}")).unwrap_or_default();
        format!("{}{{{}}} {}{stamp}{}", series.name, labels.join(","), series.value, if crlf { "\r\n" } else { "\n" })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            all in prop::collection::vec(("[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", prop::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,5}", "\\PC{0,8}|[\"\\\\\n,{}= #]{0,6}"), 0..4), prop::num::f64::NORMAL | prop::num::f64::INFINITE | prop::num::f64::ZERO), 0..8),
            crlf: bool,
            stamp: Option<i64>,
        ) {
            let all: Vec<_> = all.into_iter().map(|(name, labels, value)| Series { name: name.into(), labels: labels.into_iter().map(|(a, b)| (a.into(), b.into())).collect(), value }).collect();
            let text: String = all.iter().map(|series| write(series, crlf, stamp)).collect();
            prop_assert_eq!(series(&text), all);
        }

        #[test]
        fn reading_never_panics(text in "\\PC*|[a{}=\"\\\\,# \n1.+]*") {
            for line in lines(&text) {
                drop(line);
            }
        }
    }
}
