//! The report for people.

use super::report::{Harm, Outcome, Reason, Report, Spread, Version, seconds};
use crate::cli::printer::{Style, Tone, columns, percent, plural, span};

pub fn lines(report: &Report, style: &Style) -> Vec<String> {
    let mut lines = vec![heading(report, style)];
    lines.extend(report.metrics.iter().map(|answer| {
        let step = answer.step.map(|step| format!(" of step {}", step + 1)).unwrap_or_default();
        format!("  {} metric {}{step}: {}", style.mark(Tone::Plain), answer.metric, answer.answers)
    }));
    lines.extend(report.notes.iter().map(|note| format!("  {} {note}", style.mark(Tone::Plain))));
    lines.push(String::new());
    lines.extend(table(report, style));
    for version in &report.versions {
        lines.extend(reasons(version, style));
    }
    lines
}

fn heading(report: &Report, style: &Style) -> String {
    let text = format!(
        "Rollout {}, {} of each version in virtual time: {} requests/s, {}, ready after {}; seed {}",
        report.rollout,
        plural(report.runs, "rollout"),
        percent(report.requests_per_second),
        plural(usize::try_from(report.pods).unwrap_or(0), "pod"),
        span(seconds(report.pods_ready_after_seconds)),
        report.seed
    );
    style.paint(Tone::Strong, text)
}

type Cell = Box<dyn Fn(&Version) -> String>;

fn table(report: &Report, style: &Style) -> Vec<String> {
    let limit = span(seconds(report.limit_seconds));
    let rows: [(&str, Cell); 11] = [
        ("answers", Box::new(answers)),
        ("promoted", Box::new(|version| share(&version.promoted))),
        ("  after", Box::new(|version| time(&version.promoted))),
        ("aborted", Box::new(aborted)),
        ("  after", Box::new(|version| time(&version.aborted))),
        ("  with failed requests", Box::new(|version| harm(version, |harm| &harm.failed_requests, |requests| percent(requests.round())))),
        ("  with all traffic for", Box::new(|version| harm(version, |harm| &harm.traffic_minutes, |minutes| brief(minutes * 60.0)))),
        ("waits for a person", Box::new(|version| share(&version.waiting))),
        ("  after", Box::new(|version| time(&version.waiting))),
        ("still going", Box::new(|version| share(&version.going))),
        ("  after", Box::new(move |version| if version.going.runs > 0 { limit.clone() } else { String::new() })),
    ];
    let heads = report.versions.iter().map(|version| style.paint(Tone::Strong, &version.name));
    let mut cells = vec![[String::new()].into_iter().chain(heads).collect::<Vec<_>>()];
    for (name, cell) in rows {
        let values: Vec<String> = report.versions.iter().map(&cell).collect();
        if values.iter().any(|value| !value.is_empty()) {
            cells.push([name.to_owned()].into_iter().chain(values).collect());
        }
    }
    columns(&cells)
}

fn answers(version: &Version) -> String {
    format!("{} % fail, half take {} ms", percent(version.error_rate * 100.0), percent(version.latency_milliseconds))
}

/// What a version worse than stable did before it was taken back.
fn harm(version: &Version, of: impl Fn(&Harm) -> &Spread, words: fn(f64) -> String) -> String {
    let harm = version.harm.as_ref().filter(|_| !version.as_good_as_stable).map(of);
    harm.map(|Spread { median, p90 }| format!("{}, p90 {}", words(*median), words(*p90))).unwrap_or_default()
}

/// A time that may be less than a second.
fn brief(time: f64) -> String {
    if time < 10.0 { format!("{time:.1}s") } else { span(seconds(time)) }
}

/// What is a false abort is told with what chance may have hidden.
fn aborted(version: &Version) -> String {
    let most = percent((version.aborted.at_most * 1000.0).ceil() / 10.0);
    if version.as_good_as_stable { format!("{} (at 95 %: at most {most} %)", share(&version.aborted)) } else { share(&version.aborted) }
}

fn share(outcome: &Outcome) -> String {
    format!("{} %", percent((outcome.share * 1000.0).round() / 10.0))
}

fn time(outcome: &Outcome) -> String {
    let text = |Spread { median, p90 }: &Spread| format!("{}, p90 {}", span(seconds(*median)), span(seconds(*p90)));
    outcome.seconds.as_ref().map(text).unwrap_or_default()
}

fn reasons(version: &Version, style: &Style) -> Vec<String> {
    let mut lines = Vec::new();
    for (tone, what, outcome) in
        [(Tone::Bad, "aborted", &version.aborted), (Tone::Held, "waits", &version.waiting), (Tone::Busy, "still going", &version.going)]
    {
        if let Some(Reason { runs, example }) = outcome.reasons.first() {
            let (often, step) = (frequency(*runs, outcome.runs), outcome.steps.first());
            let at = step.map(|step| format!(", {} at step {}", frequency(step.runs, outcome.runs), step.step)).unwrap_or_default();
            lines.push(format!("{} {}, {what}{at}; why, {often}: {example}", style.mark(tone), version.name));
        }
    }
    lines
}

fn frequency(runs: usize, of: usize) -> String {
    if runs == of { "always".to_owned() } else { format!("{runs} of {of} times") }
}
