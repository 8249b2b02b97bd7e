//! The evidence over time, as a picture: for a terminal, and as SVG.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::verdict::Report;

/// Rows of the picture on a terminal.
const ROWS: usize = 8;
const MOST_COLUMNS: usize = 64;

/// The logarithms of the odds, and of those that are needed; at each end of an interval.
struct Course {
    points: Vec<(Timestamp, f64)>,
    needed: f64,
    least: f64,
    most: f64,
}

impl Course {
    fn of(report: &Report) -> Self {
        let points: Vec<(Timestamp, f64)> = report.intervals.iter().map(|step| (step.until, step.odds.ln())).collect();
        let needed = report.needed.ln();
        // What speaks against it is not followed further down than what is needed lies above.
        let least = points.iter().map(|(_, log)| *log).fold(0.0, f64::min).max(-needed);
        let most = points.iter().map(|(_, log)| *log).fold(needed, f64::max).min(2.0 * needed);
        Self { points, needed, least, most }
    }

    /// 0 at the bottom, 1 at the top.
    fn height(&self, log: f64) -> f64 {
        ((log - self.least) / (self.most - self.least)).clamp(0.0, 1.0)
    }
}

/// Lines of text: the odds that are needed as a dotted line, the evidence as points.
pub fn plot(report: &Report, width: usize) -> Vec<String> {
    let course = Course::of(report);
    let columns = course.points.len().min(width.saturating_sub(12).clamp(8, MOST_COLUMNS));
    if columns == 0 {
        return vec![];
    }
    let row = |log: f64| ((1.0 - course.height(log)) * (ROWS - 1) as f64).round() as usize;
    // A column shows the last of its intervals.
    let last = |column: usize| course.points[(column + 1) * course.points.len() / columns - 1].1;
    let (top, even) = (row(course.needed), row(0.0));
    let mut lines: Vec<String> = (0..ROWS)
        .map(|at| {
            let label = match at {
                _ if at == top => format!("1 in {:.0}", report.needed),
                _ if at == even => "even".to_owned(),
                _ => String::new(),
            };
            let axis = if label.is_empty() { '│' } else { '┤' };
            let cell = |column| match row(last(column)) {
                here if here == at => '●',
                _ if at == top => '┄',
                _ => ' ',
            };
            format!("{label:>10} {axis}{}", (0..columns).map(cell).collect::<String>()).trim_end().to_owned()
        })
        .collect();
    lines.push(format!("{:>10} └{}", "", "─".repeat(columns)));
    lines
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
/// What is left for words: left, top, right, bottom.
const MARGINS: (f64, f64, f64, f64) = (72.0, 32.0, 16.0, 32.0);

pub fn svg(report: &Report) -> String {
    let course = Course::of(report);
    let (left, top, right, bottom) = MARGINS;
    let (begin, end) = match (report.intervals.first(), report.intervals.last()) {
        (Some(first), Some(last)) => (first.since, last.until),
        _ => (report.at, report.at),
    };
    let length = end.duration_since(begin).as_secs_f64().max(1.0);
    let x = |at: Timestamp| left + (WIDTH - left - right) * at.duration_since(begin).as_secs_f64() / length;
    let y = |log: f64| top + (HEIGHT - top - bottom) * (1.0 - course.height(log));
    let points = [(begin, 0.0)].into_iter().chain(course.points.iter().copied());
    let points: Vec<String> = points.map(|(at, log)| format!("{:.1},{:.1}", x(at), y(log))).collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |text: String| {
        let _infallible = writeln!(svg, "{text}");
    };
    line(format!("<text x=\"{left}\" y=\"20\" font-weight=\"bold\">Evidence that the canary is worse: odds against chance</text>"));
    for (log, label, colour) in [(course.needed, format!("1 in {:.0}", report.needed), "#c0392b"), (0.0, "even".to_owned(), "#888888")] {
        let (at, end) = (y(log), WIDTH - right);
        line(format!("<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"{colour}\" stroke-dasharray=\"4 3\"/>"));
        line(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{label}</text>", left - 6.0, at + 4.0));
    }
    line(format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#2c6fbb\" stroke-width=\"2\"/>", points.join(" ")));
    for (at, anchor) in [(begin, "start"), (end, "end")] {
        let time = at.strftime("%Y-%m-%d %H:%M:%S UTC");
        line(format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{time}</text>", x(at), HEIGHT - 10.0));
    }
    svg + "</svg>"
}
