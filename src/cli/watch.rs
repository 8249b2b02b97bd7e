//! `watch`: the tree of `get`, kept up to date by watch events. The clock only moves the times that are shown.

use std::{
    io::{self, IsTerminal as _, Write},
    pin::pin,
    time::Duration,
};

use crossterm::{
    cursor, event, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use event::{Event as Input, EventStream, KeyCode, KeyModifiers};
use futures::StreamExt;
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::MissedTickBehavior;

use super::{
    error::{Error, Exit},
    load::{self, Watched},
    output::Out,
    printer::{Style, Tone, clip},
    render::render,
    session::Session,
    view::View,
    words,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Leave nothing out
    #[arg(short, long, value_parser = ["wide"], value_name = "FORM")]
    pub output: Option<String>,
}

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollout = session.rollout(&args.name).await?;
    let changes = load::watch(session, &rollout);
    if io::stdout().is_terminal() && io::stdin().is_terminal() { on_terminal(changes, out).await } else { as_lines(changes, out).await }
}

/// Where the output is no terminal: one line for each change.
pub(super) async fn as_lines(changes: impl futures::Stream<Item = Result<load::Change, Error>>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let (mut changes, mut watched, mut before) = (pin!(changes), Watched::default(), None::<View>);
    while let Some(change) = changes.next().await {
        match change {
            Ok(change) => watched.apply(change),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => out.note(format!("{error} (trying again)"))?,
        }
        if !watched.is_complete() {
            continue;
        }
        let now = Timestamp::now();
        let Some(view) = watched.view() else {
            out.line(format!("{} the Rollout was deleted", out.style.moment(now, now)))?;
            return Ok(Exit::Ok);
        };
        for line in happened(before.as_ref(), &view) {
            out.line(format!("{} {line}", out.style.moment(now, now)))?;
        }
        out.out.flush()?;
        before = Some(view);
    }
    Ok(Exit::Ok)
}

/// What is new in `after`: a change of state, and each new measurement.
fn happened(before: Option<&View>, after: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let state = words::progress(&after.rollout);
    if before.is_none_or(|before| words::progress(&before.rollout) != state) {
        lines.push(state);
    }
    for run in after.current_runs() {
        let known = before.and_then(|before| before.runs.iter().find(|known| known.name_any() == run.name_any()));
        let known = known.and_then(|run| run.status.as_ref());
        for result in run.status.iter().flat_map(|status| &status.metric_results) {
            let old = known.and_then(|status| status.metric_results.iter().find(|known| known.name == result.name));
            let last = old.and_then(|old| old.measurements.last()).map(|measurement| &measurement.at);
            for measurement in result.measurements.iter().filter(|measurement| last.is_none_or(|last| measurement.at > *last)) {
                lines.push(format!("{}: {:?}, {}", result.name, measurement.verdict, measurement.message));
            }
        }
    }
    lines
}

/// On a terminal: the tree, drawn again in place where it changes, until `q` or Ctrl-C.
async fn on_terminal(changes: impl futures::Stream<Item = Result<load::Change, Error>>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let (mut changes, mut watched, mut trouble) = (pin!(changes), Watched::default(), None::<String>);
    let style = out.style.clone();
    let mut screen = Screen::open(&mut *out.out)?;
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut terminated = pin!(terminated());
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(change)) => {
                    watched.apply(change);
                    trouble = None;
                }
                Some(Err(error)) if error.is_final() => return Err(error),
                Some(Err(error)) => trouble = Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
                None => return Ok(Exit::Ok),
            },
            _ = tick.tick() => {}
            key = keys.next() => match key.transpose()? {
                None => return Ok(Exit::Ok),
                Some(input) => match meaning(&input) {
                    Some(Wish::Quit) => return Ok(Exit::Ok),
                    Some(Wish::Scroll(lines)) => screen.scroll(lines),
                    None if matches!(input, Input::Resize(..)) => screen.forget()?,
                    None => continue,
                },
            },
            () = &mut terminated => return Ok(Exit::Ok),
        }
        if watched.is_complete() {
            let now = Timestamp::now();
            let Some(view) = watched.view() else {
                drop(screen);
                out.line("the Rollout was deleted")?;
                return Ok(Exit::Ok);
            };
            screen.show(&render(&view, now, &style), &footer(trouble.as_deref(), now, &style))?;
        }
    }
}

fn footer(trouble: Option<&str>, now: Timestamp, style: &Style) -> String {
    let keys = style.paint(Tone::Dim, format!("{}  q quits, ↑ ↓ scroll", style.moment(now, now)));
    trouble.map_or(keys.clone(), |trouble| format!("{keys}  {}", style.paint(Tone::Bad, format!("{trouble}: trying again"))))
}

/// What someone wants who presses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    /// So many lines further down.
    Scroll(isize),
}

fn meaning(input: &Input) -> Option<Wish> {
    let key = input.as_key_press_event()?;
    Some(match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::PageUp => Wish::Scroll(-10),
        KeyCode::PageDown => Wish::Scroll(10),
        KeyCode::Home => Wish::Scroll(isize::MIN),
        _ => return None,
    })
}

/// Ends when the process is asked to: the terminal is put back before it goes.
async fn terminated() {
    #[cfg(unix)]
    if let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        signal.recv().await;
        return;
    }
    std::future::pending().await
}

/// The terminal while we own it: an own screen in raw mode. Dropping it puts everything back.
struct Screen<W: Write> {
    out: W,
    /// What stands on the screen, line by line.
    shown: Vec<String>,
    /// The first line of the text that is shown.
    top: usize,
}

impl<W: Write> Screen<W> {
    fn open(out: W) -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on, dropping it puts the terminal back, also if the next line fails.
        let mut screen = Self { out, shown: Vec::new(), top: 0 };
        queue!(screen.out, terminal::EnterAlternateScreen, cursor::Hide, Clear(ClearType::All))?;
        screen.out.flush()?;
        Ok(screen)
    }

    fn scroll(&mut self, lines: isize) {
        self.top = self.top.saturating_add_signed(lines);
    }

    /// The screen is no longer as we left it: everything is drawn again.
    fn forget(&mut self) -> io::Result<()> {
        self.shown.clear();
        queue!(self.out, Clear(ClearType::All))
    }

    /// Shows as much of `text` as fits, and `footer` on the last line. Only lines that differ are written.
    fn show(&mut self, text: &str, footer: &str) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let (lines, top) = page(text, footer, usize::from(columns), usize::from(rows), self.top);
        self.top = top;
        queue!(self.out, terminal::BeginSynchronizedUpdate)?;
        for (row, line) in changed(&self.shown, &lines) {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            queue!(self.out, cursor::MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, terminal::EndSynchronizedUpdate)?;
        self.out.flush()?;
        self.shown = lines;
        Ok(())
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        let shown = queue!(self.out, cursor::Show, terminal::LeaveAlternateScreen).and_then(|()| self.out.flush());
        if let Err(error) = terminal::disable_raw_mode().and(shown) {
            eprintln!("the terminal could not be put back ({error}): `reset` does it");
        }
    }
}

/// The lines of a screen, and the first line of the text that is on it: as far down as `top` asks, but not beyond the end.
fn page(text: &str, footer: &str, columns: usize, rows: usize, top: usize) -> (Vec<String>, usize) {
    let (all, room): (Vec<&str>, usize) = (text.lines().collect(), rows.saturating_sub(1));
    let top = top.min(all.len().saturating_sub(room));
    // The last column stays free: clearing behind a full line would take its last character.
    let fit = |line: &str| clip(line, columns.saturating_sub(1));
    let mut lines: Vec<String> = all.iter().skip(top).take(room).map(|line| fit(line)).collect();
    lines.resize(room, String::new());
    let below = all.len().saturating_sub(top + room);
    lines.push(fit(&if below > 0 { format!("{footer}  ({below} more lines below)") } else { footer.to_owned() }));
    (lines, top)
}

/// The rows that differ, with what they are to show.
fn changed<'a>(shown: &[String], wanted: &'a [String]) -> Vec<(usize, &'a str)> {
    let differs = |(row, line): &(usize, &'a String)| shown.get(*row) != Some(*line);
    wanted.iter().enumerate().filter(differs).map(|(row, line)| (row, line.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn a_second_later_only_lines_with_times_are_drawn_again() {
        let at = |seconds| {
            let now = fixtures::now() + jiff::SignedDuration::from_secs(seconds);
            page(&render(&fixtures::timed_pause(), now, &fixtures::plain()), "footer", 120, 50, 0).0
        };
        let (before, after) = (at(0), at(1));
        let rows: Vec<&str> = changed(&before, &after).into_iter().map(|(_, line)| line).collect();
        assert!(!rows.is_empty() && rows.len() < 12, "{rows:#?}");
        for line in &rows {
            assert!(line.contains("left") || line.contains("ago") || line.contains("3m"), "{line:?} has no time in it");
        }
        assert!(changed(&after, &after).is_empty());
    }

    #[test]
    fn lines_that_vanish_are_cleared() {
        let (long, short) = (page("a\nb\nc", "f", 80, 10, 0).0, page("a", "f", 80, 10, 0).0);
        assert_eq!(changed(&long, &short), [(1, ""), (2, "")]);
    }

    #[test]
    fn a_screen_that_is_too_small_scrolls_to_the_end_and_no_further() {
        let (lines, top) = page("1\n2\n3\n4\n5", "f", 40, 3, 0);
        assert_eq!((lines, top), (vec!["1".into(), "2".into(), "f  (3 more lines below)".into()], 0));
        let (lines, top) = page("1\n2\n3\n4\n5", "f", 40, 3, usize::MAX);
        assert_eq!((lines, top), (vec!["4".into(), "5".into(), "f".into()], 3));
    }

    #[test]
    fn lines_leave_the_last_column_free() {
        let (lines, _) = page("0123456789", "0123456789", 10, 2, 0);
        assert_eq!(lines, ["01234567…", "01234567…"]);
    }

    #[test]
    fn each_change_of_state_and_each_measurement_is_told_once() {
        let (first, mut second) = (fixtures::waiting_for_pods(), fixtures::progressing());
        assert_eq!(happened(None, &first).len(), 1);
        assert!(happened(Some(&first), &first).is_empty());
        let lines = happened(Some(&first), &second);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert_eq!(lines[2], "success-rate: Pass, 99.87 % is at least 99 % (1,234 requests)");
        let before = second.clone();
        let result = &mut second.runs[0].status.as_mut().unwrap().metric_results[0];
        let mut newest = result.measurements[1].clone();
        newest.at.0 += jiff::SignedDuration::from_secs(30);
        result.measurements.push(newest);
        assert_eq!(happened(Some(&before), &second), ["success-rate: Pass, 99.87 % is at least 99 % (1,234 requests)"]);
    }
}
