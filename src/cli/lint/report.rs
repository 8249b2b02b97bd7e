//! What was found, and how it is told.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::printer::{Style, Tone, plural};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It will not work so.
    Problem,
    /// Worth knowing; nothing to fail for.
    Note,
}

/// One thing that is worth saying about one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    /// The line at which the document begins; 0: not in a file.
    pub line: usize,
    /// Kind and name.
    pub object: String,
    /// Path of the field; empty: the whole document.
    pub field: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// Where a document stands, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub file: String,
    pub line: usize,
    pub object: String,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Documents of our own kinds.
    pub checked: usize,
    /// Documents of other kinds.
    pub passed_over: BTreeMap<String, usize>,
}

/// The report as an object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary<'a> {
    checked: usize,
    problems: usize,
    passed_over: &'a BTreeMap<String, usize>,
    findings: Vec<&'a Finding>,
}

impl Report {
    pub fn problem(&mut self, subject: &Subject, field: &str, message: impl Into<String>, mend: Option<String>) {
        self.add(Severity::Problem, subject, field, message.into(), mend);
    }

    pub fn note(&mut self, subject: &Subject, field: &str, message: impl Into<String>, mend: Option<String>) {
        self.add(Severity::Note, subject, field, message.into(), mend);
    }

    /// The same is said once.
    fn add(&mut self, severity: Severity, subject: &Subject, field: &str, message: String, mend: Option<String>) {
        let Subject { file, line, object } = subject.clone();
        let finding = Finding { severity, file, line, object, field: field.to_owned(), message, mend };
        let key = |finding: &Finding| {
            (finding.file.clone(), finding.line, finding.object.clone(), finding.field.clone(), finding.message.clone())
        };
        if !self.findings.iter().any(|known| key(known) == key(&finding)) {
            self.findings.push(finding);
        }
    }

    pub fn problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Problem).count()
    }

    /// Something about this document is wrong.
    pub fn is_faulty(&self, subject: &Subject) -> bool {
        let of_it = |finding: &&Finding| (&finding.file, finding.line, &finding.object) == (&subject.file, subject.line, &subject.object);
        self.findings.iter().filter(of_it).any(|finding| finding.severity == Severity::Problem)
    }

    pub fn summary(&self) -> Summary<'_> {
        Summary { checked: self.checked, problems: self.problems(), passed_over: &self.passed_over, findings: self.sorted() }
    }

    /// By document, as they stand in the files; problems before notes.
    fn sorted(&self) -> Vec<&Finding> {
        let mut sorted: Vec<&Finding> = self.findings.iter().collect();
        let file = |finding: &Finding| self.findings.iter().position(|other| other.file == finding.file);
        sorted.sort_by_cached_key(|finding| {
            let note = finding.severity == Severity::Note;
            (finding.line == 0, file(finding), finding.line, finding.object.clone(), note, finding.field.clone(), finding.message.clone())
        });
        sorted
    }

    /// The report for people, line by line.
    pub fn lines(&self, style: &Style) -> Vec<String> {
        let mut lines = Vec::new();
        let mut head = String::new();
        for finding in self.sorted() {
            let place = if finding.line == 0 { finding.file.clone() } else { format!("{}:{}", finding.file, finding.line) };
            let now = format!("{place} {}", finding.object).trim_end().to_owned();
            if now != head {
                lines.push(style.paint(Tone::Strong, &now));
                head = now;
            }
            let tone = if finding.severity == Severity::Problem { Tone::Bad } else { Tone::Dim };
            let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
            lines.push(format!("  {} {field}{}", style.mark(tone), finding.message));
            lines.extend(finding.mend.as_ref().map(|mend| format!("    {}", style.paint(Tone::Dim, mend))));
        }
        lines.push(self.conclusion(style));
        lines
    }

    fn conclusion(&self, style: &Style) -> String {
        let (problems, others) = (self.problems(), self.passed_over.values().sum::<usize>());
        let tone = match (problems, self.checked) {
            (0, 0) => Tone::Held, // perhaps it was the wrong directory
            (0, _) => Tone::Good,
            _ => Tone::Bad,
        };
        let mut text = format!("{} {} of sluice.dev checked, ", style.mark(tone), plural(self.checked, "document"));
        text += &if problems == 0 { "no problems".into() } else { plural(problems, "problem") };
        if others > 0 {
            let kinds: Vec<String> = self.passed_over.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            text += &format!("; {} of other kinds not checked ({})", plural(others, "document"), kinds.join(", "));
        }
        text
    }
}
