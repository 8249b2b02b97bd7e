//! The one printer: colours, columns, trees and times, the same for every verb.
//!
//! Everything here is pure: a moment, a width or a time zone comes in as an argument, text goes out. Marks differ in shape, not only
//! in colour, so that the text reads the same without colours.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style as Ansi};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// How text is printed.
#[derive(Clone, Debug)]
pub struct Style {
    pub colour: bool,
    /// `-o wide`: nothing is left out or cut short.
    pub wide: bool,
    /// In which zone moments are shown.
    pub zone: TimeZone,
}

/// What a piece of text means; the colour follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Busy,
    Held,
    Dim,
    Strong,
    Plain,
}

impl Tone {
    fn ansi(self) -> Ansi {
        match self {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Busy => AnsiColor::Cyan.on_default(),
            Tone::Held => AnsiColor::Yellow.on_default(),
            Tone::Dim => Ansi::new().dimmed(),
            Tone::Strong => Ansi::new().bold(),
            Tone::Plain => Ansi::new(),
        }
    }

    /// The mark that says the same as the colour.
    pub fn mark(self) -> &'static str {
        match self {
            Tone::Good => "✔",
            Tone::Bad => "✖",
            Tone::Busy => "▶",
            Tone::Held => "‖",
            Tone::Dim | Tone::Strong | Tone::Plain => "○",
        }
    }
}

impl Style {
    /// Text in the colour of `tone`.
    pub fn paint(&self, tone: Tone, text: impl AsRef<str>) -> String {
        let (text, ansi) = (text.as_ref(), tone.ansi());
        if self.colour && !text.is_empty() && !ansi.is_plain() { format!("{ansi}{text}{ansi:#}") } else { text.to_owned() }
    }

    /// The mark of `tone`, in its colour.
    pub fn mark(&self, tone: Tone) -> String {
        self.paint(tone, tone.mark())
    }

    /// A moment as people read it: the time of day, with the date if it was not today.
    pub fn moment(&self, at: Timestamp, now: Timestamp) -> String {
        let (at, now) = (at.to_zoned(self.zone.clone()), now.to_zoned(self.zone.clone()));
        let format = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
        at.strftime(format).to_string()
    }
}

/// A span in its two largest units: `45s`, `1m5s`, `2h3m`, `3d4h`. Less than a second, or negative: `0s`.
pub fn span(span: SignedDuration) -> String {
    let secs = span.as_secs().max(0);
    let units = [("d", secs / 86_400), ("h", secs / 3600 % 24), ("m", secs / 60 % 60), ("s", secs % 60)];
    let first = units.iter().position(|(_, n)| *n > 0).unwrap_or(3);
    units[first..].iter().take(2).enumerate().filter(|(i, (_, n))| *i == 0 || *n > 0).map(|(_, (unit, n))| format!("{n}{unit}")).collect()
}

/// How long ago: [`span`] from `at` until `now`.
pub fn since(at: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(at))
}

/// A share in percent with at most three decimals, as users write it: `5`, `0.5`.
pub fn percent(share: f64) -> String {
    let text = format!("{share:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 pod`, `2 pods`.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Number of columns that a text takes; colours take none.
pub fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// Rows with aligned columns, two spaces apart. The last cell of a row has no column of its own, and no spaces after it.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |i: usize| rows.iter().filter(move |row| i + 1 < row.len()).map(move |row| width(&row[i]));
    let widths: Vec<usize> = (0..count).map(|i| cells(i).max().unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (cell, wanted) in row.iter().zip(&widths) {
                let _infallible = write!(line, "{cell}{:1$}  ", "", wanted.saturating_sub(width(cell)));
            }
            line.trim_end().to_owned()
        })
        .collect()
}

/// A node of a tree: cells that are aligned with those of its siblings, and what hangs below it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub cells: Vec<String>,
    pub children: Vec<Node>,
}

impl Node {
    pub fn leaf(cells: Vec<String>) -> Self {
        Self { cells, children: Vec::new() }
    }
}

/// The lines of a tree, each after `indent`.
pub fn tree(nodes: &[Node], indent: &str) -> Vec<String> {
    let rows: Vec<Vec<String>> = nodes.iter().map(|node| node.cells.clone()).collect();
    let mut lines = Vec::new();
    for (i, (node, line)) in nodes.iter().zip(columns(&rows)).enumerate() {
        let (branch, below) = if i + 1 == nodes.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push(format!("{indent}{branch}{line}"));
        lines.extend(tree(&node.children, &format!("{indent}{below}")));
    }
    lines
}

/// The first `columns` columns of a line. Colours are kept, and ended where the line is cut.
pub fn clip(line: &str, columns: usize) -> String {
    if width(line) <= columns {
        return line.to_owned();
    }
    let (mut out, mut used, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        match c {
            '\u{1b}' => escape = true,
            'm' if escape => {
                escape = false;
                out.push(c);
                continue;
            }
            _ => {}
        }
        if !escape {
            used += 1;
            if used >= columns {
                out.push('…');
                break;
            }
        }
        out.push(c);
    }
    if out.contains('\u{1b}') {
        let _infallible = write!(out, "{}", anstyle::Reset);
    }
    out
}

/// The line in pieces of at most `columns`, broken between words. Later pieces are indented as far as the second column of the line (what
/// follows its first two spaces in a row).
pub fn wrap(line: &str, columns: usize) -> Vec<String> {
    if width(line) <= columns {
        return vec![line.to_owned()];
    }
    let plain = anstream::adapter::strip_str(line).to_string();
    let gap = plain.find("  ").filter(|gap| *gap > 0).unwrap_or(0);
    let indent = plain[gap..].find(|c| c != ' ').map_or(0, |spaces| plain[..gap + spaces].chars().count());
    let indent = if indent < columns / 2 { indent } else { 0 };
    let mut pieces: Vec<String> = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let piece = pieces.last_mut().map_or("", |piece| piece.as_str());
        if width(piece) + width(word.trim_end()) > columns && width(piece) > indent {
            pieces.push(" ".repeat(indent));
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(word);
        }
    }
    pieces.iter().map(|piece| clip(piece.trim_end(), columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        for (secs, text) in
            [(-5, "0s"), (0, "0s"), (45, "45s"), (60, "1m"), (65, "1m5s"), (3_600, "1h"), (3_605, "1h"), (7_380, "2h3m"), (273_600, "3d4h")]
        {
            assert_eq!(span(SignedDuration::from_secs(secs)), text);
        }
    }

    #[test]
    fn shares_are_shown_as_users_write_them() {
        for (share, text) in [(5.0, "5"), (0.5, "0.5"), (100.0, "100"), (33.333, "33.333"), (0.0, "0")] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn colours_do_not_move_columns() {
        let style = Style { colour: true, wide: false, zone: TimeZone::UTC };
        let rows = |style: &Style| {
            columns(&[vec![style.paint(Tone::Good, "ok"), "x".into()], vec![style.paint(Tone::Bad, "failed"), "y".into()]]).join("\n")
        };
        let coloured = rows(&style);
        assert_ne!(coloured, anstream::adapter::strip_str(&coloured).to_string());
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), rows(&Style { colour: false, ..style }));
    }

    #[test]
    fn a_clipped_line_fits_and_ends_its_colours() {
        let style = Style { colour: true, wide: false, zone: TimeZone::UTC };
        let line = format!("ab{}ef", style.paint(Tone::Bad, "cdcdcd"));
        let clipped = clip(&line, 5);
        assert_eq!(anstream::adapter::strip_str(&clipped).to_string(), "abcd…");
        assert!(clipped.ends_with("\u{1b}[0m"), "{clipped:?}");
        assert_eq!(clip(&line, 10), line);
    }

    #[test]
    fn a_long_line_is_wrapped_under_its_second_column() {
        assert_eq!(wrap("Now  one two three four", 13), ["Now  one two", "     three", "     four"]);
        assert_eq!(wrap("Now  short", 13), ["Now  short"]);
        assert_eq!(wrap("Now  averyveryverylongword x", 13), ["Now  averyve…", "     x"]);
    }

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let style = Style { colour: false, wide: false, zone: TimeZone::UTC };
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(style.moment(at, at + SignedDuration::from_hours(1)), "03:04:05");
        assert_eq!(style.moment(at, at + SignedDuration::from_hours(24)), "2026-01-02 03:04:05");
    }
}
