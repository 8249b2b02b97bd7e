//! `watch`: the tree of `get`, kept up to date by watch events. The clock only moves the times that are shown.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use crossterm::event::{Event as Input, EventStream, KeyCode, KeyModifiers};
use futures::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::MissedTickBehavior;

use super::{
    error::{Error, Exit},
    load::{self, Watched},
    output::{Format, Out},
    printer::{Style, Tone},
    render::render,
    screen::Screen,
    session::Session,
    view::View,
    words,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Form of the output; json (one in a line) and yaml: the Rollout after each of its changes
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollout = session.rollout(&args.name).await?;
    let changes = load::watch(session, &rollout);
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => as_objects(changes, format, out).await,
        _ if io::stdout().is_terminal() && io::stdin().is_terminal() => on_terminal(changes, out).await,
        _ => as_lines(changes, out).await,
    }
}

/// What is seen one after the other, until the Rollout is deleted; told twice only where something else has changed.
async fn each(
    changes: impl Stream<Item = Result<load::Change, Error>>,
    out: &mut Out<'_>,
    mut tell: impl FnMut(Option<View>, &mut Out<'_>) -> io::Result<()>,
) -> Result<Exit, Error> {
    let (mut changes, mut watched) = (pin!(changes), Watched::default());
    while let Some(change) = changes.next().await {
        match change {
            Ok(change) => watched.apply(change),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => out.note(format!("{error} (trying again)"))?,
        }
        if !watched.is_complete() {
            continue;
        }
        let view = watched.view();
        let deleted = view.is_none();
        tell(view, out)?;
        out.out.flush()?;
        if deleted {
            return Ok(Exit::Ok);
        }
    }
    Ok(Exit::Ok)
}

/// Where the output is no terminal: one line for each change.
pub(super) async fn as_lines(changes: impl Stream<Item = Result<load::Change, Error>>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let mut before = None::<View>;
    each(changes, out, |view, out| {
        let now = Timestamp::now();
        let lines = match &view {
            None => vec!["the Rollout was deleted".to_owned()],
            Some(view) => happened(before.as_ref(), view),
        };
        before = view;
        lines.iter().try_for_each(|line| out.line(format!("{} {line}", out.style.moment(now, now))))
    })
    .await
}

/// The Rollout itself after each of its changes, for programs.
pub(super) async fn as_objects(
    changes: impl Stream<Item = Result<load::Change, Error>>,
    format: Format,
    out: &mut Out<'_>,
) -> Result<Exit, Error> {
    let mut before = None;
    each(changes, out, |view, out| {
        let Some(mut rollout) = view.map(|view| view.rollout) else { return out.note("the Rollout was deleted") };
        rollout.metadata.managed_fields = None;
        let version = rollout.resource_version();
        if before == version {
            return Ok(()); // something of it has changed, but not the Rollout
        }
        before = version;
        match format {
            Format::Yaml => out.line("---").and_then(|()| out.object(format, &rollout)),
            Format::Json | Format::Wide => out.line(serde_json::to_string(&rollout)?),
        }
    })
    .await
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

/// On a terminal: the tree, drawn again in place where it changes, until `q` or Ctrl-C. Where it ended stays on the terminal.
async fn on_terminal(changes: impl Stream<Item = Result<load::Change, Error>>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let mut last = None;
    let style = out.style.clone();
    let screen = Screen::open(&mut *out.out)?;
    let ended = show(changes, screen, &style, &mut last).await;
    if let Some(last) = last {
        out.line(last)?;
    }
    ended
}

async fn show<W: io::Write>(
    changes: impl Stream<Item = Result<load::Change, Error>>,
    mut screen: Screen<W>,
    style: &Style,
    last: &mut Option<String>,
) -> Result<Exit, Error> {
    let (mut changes, mut watched, mut trouble) = (pin!(changes), Watched::default(), None::<String>);
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut terminated = pin!(terminated());
    loop {
        tokio::select! {
            change = changes.next() => {
                // What has come in together is drawn together.
                let mut next = Some(change);
                while let Some(change) = next {
                    match change {
                        Some(Ok(change)) => {
                            watched.apply(change);
                            trouble = None;
                        }
                        Some(Err(error)) if error.is_final() => return Err(error),
                        Some(Err(error)) => trouble = Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
                        None => return Ok(Exit::Ok),
                    }
                    next = changes.next().now_or_never();
                }
            }
            _ = tick.tick() => {}
            key = keys.next() => match key.transpose()? {
                None => return Ok(Exit::Ok),
                Some(input) => match meaning(&input) {
                    Some(Wish::Quit) => return Ok(Exit::Ok),
                    Some(Wish::Scroll(lines)) => screen.scroll(lines),
                    None if matches!(input, Input::Resize(..)) => screen.forget(),
                    None => continue,
                },
            },
            () = &mut terminated => return Ok(Exit::Ok),
        }
        let now = Timestamp::now();
        let text = match watched.view().filter(|_| watched.is_complete()) {
            Some(view) => {
                *last = Some(words::progress(&view.rollout));
                render(&view, now, style)
            }
            None if watched.is_complete() => {
                *last = Some("the Rollout was deleted".into());
                return Ok(Exit::Ok);
            }
            None => "looking ...\n".into(),
        };
        screen.show(&text, &footer(trouble.as_deref(), now, style))?;
    }
}

fn footer(trouble: Option<&str>, now: Timestamp, style: &Style) -> String {
    let keys = style.paint(Tone::Dim, format!("{}  q quits, ↑ ↓ scroll", style.moment(now, now)));
    trouble.map_or(keys.clone(), |trouble| format!("{}  {keys}", style.paint(Tone::Bad, format!("{trouble}: trying again"))))
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
        KeyCode::PageUp | KeyCode::Char('b') => Wish::Scroll(-10),
        KeyCode::PageDown | KeyCode::Char(' ') => Wish::Scroll(10),
        KeyCode::Home | KeyCode::Char('g') => Wish::Scroll(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => Wish::Scroll(isize::MAX),
        _ => return None,
    })
}

/// Ends when the process is asked to: the terminal is put back before it goes.
async fn terminated() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let wait = async |kind| match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        };
        tokio::select! {
            () = wait(SignalKind::terminate()) => {}
            () = wait(SignalKind::interrupt()) => {}
            () = wait(SignalKind::hangup()) => {}
        }
    }
    #[cfg(not(unix))]
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn keys_mean_what_people_are_used_to() {
        let pressed = |code, modifiers| meaning(&Input::Key(crossterm::event::KeyEvent::new(code, modifiers)));
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(pressed(code, KeyModifiers::NONE), Some(Wish::Quit));
        }
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(pressed(KeyCode::End, KeyModifiers::NONE), Some(Wish::Scroll(isize::MAX)));
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
