//! The report for people.

use super::{
    picture,
    verdict::{Finding, Report, Rule},
};
use crate::cli::printer::{Style, Tone, percent, plural, since, span};
use jiff::{SignedDuration, Timestamp};

pub fn lines(report: &Report, style: &Style, width: usize) -> Vec<String> {
    let (tone, word) = match report.finding {
        Finding::Worse => (Tone::Bad, "worse"),
        Finding::AboveCeiling => (Tone::Bad, "above the ceiling"),
        Finding::NoWorse => (Tone::Good, "proven to be no worse"),
        Finding::NoEvidence => (Tone::Good, "no evidence that it is worse"),
        Finding::NoData => (Tone::Held, "not enough data"),
        Finding::Inconclusive => (Tone::Held, "inconclusive"),
    };
    let mut lines = vec![format!("{} {}: {}", style.mark(tone), style.paint(Tone::Strong, word), report.message)];
    let looked = report.intervals.len();
    if let (Some(first), true) = (report.intervals.first(), report.finding.takes_back()) {
        let when = style.moment(report.at, first.since);
        let rest = report.recorded.saturating_sub(looked);
        let rest = if rest > 0 { format!(", {} before the end of what was recorded", plural(rest, "interval")) } else { String::new() };
        lines.push(format!("  taken back at {when}, {} after the first look{rest}", since(first.since, report.at)));
    }
    if looked > 0 {
        let needed = format!("odds against chance that the canary fails more than {} times as often as stable:", percent(report.tolerate));
        lines.extend([String::new(), needed]);
        lines.extend(picture::plot(report, width));
        lines.push(axis(report, style));
    }
    lines.extend(report.rule.iter().map(|rule| rule_in_words(rule, report, style)));
    lines.extend(report.notes.iter().map(|note| format!("{} {note}", style.mark(Tone::Plain))));
    lines
}

/// The first and the last moment, below the picture.
fn axis(report: &Report, style: &Style) -> String {
    let (Some(first), Some(last)) = (report.intervals.first(), report.intervals.last()) else { return String::new() };
    format!("{:>12}{} to {}", "", style.moment(first.since, first.since), style.moment(last.until, first.since))
}

fn rule_in_words(rule: &Rule, report: &Report, style: &Style) -> String {
    let window = span(SignedDuration::try_from_secs_f64(rule.window_seconds).unwrap_or_default());
    let name =
        format!("a rule (above {} % in {} of {window})", percent(rule.max), plural(usize::try_from(rule.failures).unwrap_or(0), "window"));
    let Some(at) = rule.takes_back_at else {
        let text = format!("{name} leaves it: {} of {} were above", rule.above, plural(rule.windows, "window"));
        return format!("{} {text}", style.mark(Tone::Plain));
    };
    let first: Option<Timestamp> = report.intervals.first().map(|step| step.since);
    let when =
        first.map_or_else(|| at.to_string(), |first| format!("{}, {} after the first look", style.moment(at, first), since(first, at)));
    let compared = match report.finding.takes_back() {
        false => String::new(),
        true if at > report.at => format!(": {} later than the judge", since(report.at, at)),
        true if at < report.at => format!(": {} before the judge", since(at, report.at)),
        true => ": when the judge does".to_owned(),
    };
    format!("{} {name} takes it back at {when}{compared}", style.mark(Tone::Plain))
}
