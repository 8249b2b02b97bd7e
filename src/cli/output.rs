//! Where text goes, and objects as JSON or YAML.

use std::io::{self, IsTerminal as _, Write};

use jiff::tz::TimeZone;
use kube::core::DynamicObject;
use serde::Serialize;

use super::printer::Style;

/// In which form the output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// All of it, as JSON
    Json,
    /// All of it, as YAML
    Yaml,
    /// Text with nothing left out
    Wide,
}

/// Standard output and standard error, and how text is printed on them.
pub struct Out<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub style: Style,
    /// Columns of the terminal; `None` where the output goes elsewhere, and nothing is cut.
    pub columns: Option<usize>,
}

impl Out<'_> {
    /// One line on standard output.
    pub fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())
    }

    /// One line on standard error: progress, and notes for people.
    pub fn note(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.err, "{}", text.as_ref())?;
        self.err.flush()
    }

    /// An object as JSON or YAML.
    pub fn object(&mut self, format: Format, object: &impl Serialize) -> io::Result<()> {
        match format {
            Format::Yaml => write!(self.out, "{}", serde_yaml_ng::to_string(object).map_err(io::Error::other)?),
            Format::Json | Format::Wide => self.line(serde_json::to_string_pretty(object)?),
        }
    }
}

/// The style that fits standard output: colours on a terminal, unless `NO_COLOR` or `--no-color` say otherwise.
pub fn style(wide: bool) -> Style {
    let colour = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    Style { colour, wide, zone: TimeZone::system() }
}

/// Columns of the terminal behind standard output.
pub fn columns() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    // A terminal that does not know its size gets whole lines.
    crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// An object as users want to see it: without the server's own bookkeeping of who wrote which field.
pub fn tidy(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object
}
