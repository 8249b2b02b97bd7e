//! The terminal while a view owns it: an own screen that stays calm. Only rows that differ are written, all at once; and whatever
//! happens, the terminal is put back as it was.

use std::{
    io::{self, Write},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};

use super::printer::{clip, wrap};

/// Raw mode is on, and the screen is ours.
static OPEN: AtomicBool = AtomicBool::new(false);

/// An own screen in raw mode. Dropping it puts everything back.
pub struct Screen<W: Write> {
    out: W,
    /// What stands on the screen, line by line; nothing is known of it where this is empty.
    shown: Vec<String>,
    /// The first line of the text that is shown.
    top: usize,
}

impl<W: Write> Screen<W> {
    pub fn open(out: W) -> io::Result<Self> {
        put_back_before_a_panic_is_told();
        terminal::enable_raw_mode()?;
        OPEN.store(true, Ordering::SeqCst);
        // From here on, dropping it puts the terminal back, also if the next line fails.
        let mut screen = Self { out, shown: Vec::new(), top: 0 };
        queue!(screen.out, terminal::EnterAlternateScreen, cursor::Hide)?;
        screen.out.flush()?;
        Ok(screen)
    }

    pub fn scroll(&mut self, lines: isize) {
        self.top = self.top.saturating_add_signed(lines);
    }

    /// The screen is no longer as we left it: everything is drawn again.
    pub fn forget(&mut self) {
        self.shown.clear();
    }

    /// Shows as much of `text` as fits, and `footer` on the last line.
    pub fn show(&mut self, text: &str, footer: &str) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        self.draw(text, footer, usize::from(columns), usize::from(rows))
    }

    fn draw(&mut self, text: &str, footer: &str, columns: usize, rows: usize) -> io::Result<()> {
        let (lines, top) = page(text, footer, columns, rows, self.top);
        self.top = top;
        let rows = changed(&self.shown, &lines);
        if rows.is_empty() {
            return Ok(());
        }
        queue!(self.out, terminal::BeginSynchronizedUpdate)?;
        if self.shown.is_empty() {
            queue!(self.out, Clear(ClearType::All))?;
        }
        for (row, line) in rows {
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
        put_back(&mut self.out);
    }
}

/// Once: whoever comes second finds it done.
fn put_back(out: &mut impl Write) {
    if !OPEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let shown = queue!(out, terminal::EndSynchronizedUpdate, cursor::Show, terminal::LeaveAlternateScreen).and_then(|()| out.flush());
    if let Err(error) = terminal::disable_raw_mode().and(shown) {
        eprintln!("the terminal could not be put back ({error}): `reset` does it");
    }
}

/// What a panic says would go to a screen that vanishes: the terminal is put back first. Only the view's own thread does it: a panic
/// elsewhere does not end the view, and standard output is locked by it.
fn put_back_before_a_panic_is_told() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let (tell, ours) = (std::panic::take_hook(), std::thread::current().id());
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == ours {
                put_back(&mut io::stdout());
            }
            tell(panic);
        }));
    });
}

/// The lines of a screen, and the first line of the text that is on it: as far down as `top` asks, but not beyond the end. Long lines of
/// the first section, which says what is going on, are wrapped; others are cut.
fn page(text: &str, footer: &str, columns: usize, rows: usize, top: usize) -> (Vec<String>, usize) {
    // The last column stays free: clearing behind a full line would take its last character.
    let columns = columns.saturating_sub(1);
    let (first, rest) = text.split_once("\n\n").map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut all: Vec<String> = first.lines().flat_map(|line| wrap(line, columns)).collect();
    if let Some(rest) = rest {
        all.push(String::new());
        all.extend(rest.lines().map(|line| clip(line, columns)));
    }
    // A screen of one line has no room for a footer.
    let room = if rows > 1 { rows - 1 } else { rows };
    let top = top.min(all.len().saturating_sub(room));
    let mut lines: Vec<String> = all.iter().skip(top).take(room).cloned().collect();
    lines.resize(room, String::new());
    if rows > 1 {
        let hidden = [(top, "above"), (all.len().saturating_sub(top + room), "below")];
        let hidden: Vec<String> =
            hidden.iter().filter(|(count, _)| *count > 0).map(|(count, side)| format!("{count} more {side}")).collect();
        let more = if hidden.is_empty() { String::new() } else { format!("({})  ", hidden.join(", ")) };
        lines.push(clip(&format!("{more}{footer}"), columns));
    }
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
    use crate::cli::{fixtures, render::render};

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
        assert_eq!((lines, top), (vec!["1".into(), "2".into(), "(3 more below)  f".into()], 0));
        let (lines, top) = page("1\n2\n3\n4\n5", "f", 40, 3, usize::MAX);
        assert_eq!((lines, top), (vec!["4".into(), "5".into(), "(3 more above)  f".into()], 3));
        let (lines, _) = page("1\n2\n3", "f", 40, 1, 0);
        assert_eq!(lines, ["1"], "no room for a footer");
    }

    #[test]
    fn lines_leave_the_last_column_free() {
        let (lines, _) = page("0123456789", "0123456789", 10, 2, 0);
        assert_eq!(lines, ["01234567…", "01234567…"]);
    }

    #[test]
    fn what_is_going_on_is_wrapped_on_a_narrow_screen_and_trees_are_cut() {
        let text = render(&fixtures::waiting_for_pods(), fixtures::now(), &fixtures::plain());
        let (lines, _) = page(&text, "12:03:00  q quits, ↑ ↓ scroll", 60, 30, 0);
        insta::assert_snapshot!("narrow", lines.join("\n"));
        assert!(lines.iter().all(|line| crate::cli::printer::width(line) < 60), "{lines:#?}");
    }

    #[test]
    fn nothing_is_written_where_nothing_has_changed_and_all_of_it_after_a_resize() {
        let mut screen = Screen { out: Vec::new(), shown: Vec::new(), top: 0 };
        screen.draw("a\nb\n", "f", 20, 5).unwrap();
        let first = std::mem::take(&mut screen.out);
        screen.draw("a\nb\n", "f", 20, 5).unwrap();
        assert!(screen.out.is_empty());
        screen.draw("a\nc\n", "f", 20, 5).unwrap();
        let text = String::from_utf8(std::mem::take(&mut screen.out)).unwrap();
        assert!(text.contains('c') && !text.contains('a') && !text.contains("\u{1b}[2J"), "{text:?}");
        assert!(text.starts_with("\u{1b}[?2026h") && text.ends_with("\u{1b}[?2026l"), "in one go: {text:?}");
        screen.forget();
        screen.draw("a\nb\n", "f", 20, 5).unwrap();
        assert_eq!(screen.out, first, "as if for the first time");
    }
}
