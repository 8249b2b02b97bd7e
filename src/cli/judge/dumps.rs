//! What processes have exposed, from a directory of texts: `<time>.txt`, or `<time>_<process>.txt` where there are several processes.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;

use super::file;
use crate::{
    api::AnalysisRunSpec,
    cli::error::Error,
    core::{
        analysis,
        counters::{Counters, Look, known_increase},
        source::{Numerator, Source},
    },
    metrics::exposed,
};

/// Files of a directory.
const MOST_FILES: usize = 5000;

/// What each process counts, of the canary and of stable.
type Reading = [BTreeMap<String, Counters>; 2];

/// What was counted from one moment to the next.
pub fn looks(directory: &Path, spec: &AnalysisRunSpec, source: &Source, namespace: &str) -> Result<Vec<Look>, Error> {
    let fail = |why: String| Error::Pointless(format!("{}: {why}", directory.display()));
    let names = std::fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let mut paths = names.map_err(|error| fail(format!("cannot be read: {error}")))?;
    paths.retain(|path| path.is_file());
    if paths.len() > MOST_FILES {
        return Err(fail(format!("{} files are more than {MOST_FILES}: give those of a shorter time", paths.len())));
    }
    paths.sort();
    let canary = analysis::values(namespace, spec, &spec.metrics[0]);
    let stable = canary.of_stable().unwrap_or_default();
    let mut readings: BTreeMap<Timestamp, Reading> = BTreeMap::new();
    for path in paths {
        let name = path.display().to_string();
        let (at, process) = named(&path).ok_or_else(|| {
            fail(format!(
                "{name}: a file is named by its moment: 2026-01-31T12:00:00Z.txt, or 1772366400_pod-a.txt for one of several processes"
            ))
        })?;
        let mut opened = std::fs::File::open(&path).map_err(|error| fail(format!("cannot read {name}: {error}")))?;
        let text = file::text(&name, &mut opened)?;
        let reading = readings.entry(at).or_default();
        for (version, values) in reading.iter_mut().zip([&canary, &stable]) {
            let counters = exposed(&source.what, values, &text).map_err(|error| fail(format!("{name}: {error}")))?;
            version.insert(process.clone(), counters);
        }
    }
    if readings.len() < 2 {
        return Err(fail(format!("it holds texts of {} moments, but a comparison needs two at least", readings.len())));
    }
    between(&readings, source).map_err(fail)
}

fn between(readings: &BTreeMap<Timestamp, Reading>, source: &Source) -> Result<Vec<Look>, String> {
    let numerator = source.compares.unwrap_or(Numerator::Failures);
    let look = |since: Option<Timestamp>, until: Timestamp, grown: [Option<Counters>; 2]| {
        Look::new((since, until), (&source.what, numerator), grown).map_err(|error| format!("at {until}: {error}"))
    };
    let mut looks = Vec::new();
    let mut before: Option<(Timestamp, &Reading)> = None;
    for (at, reading) in readings {
        let grown = before.map_or([None, None], |(_, before)| [0, 1].map(|version| known_increase(&before[version], &reading[version])));
        looks.push(look(before.map(|(since, _)| since), *at, grown)?);
        before = Some((*at, reading));
    }
    Ok(looks)
}

/// The moment and the process that a file's name says.
fn named(path: &Path) -> Option<(Timestamp, String)> {
    let stem = path.file_stem()?.to_str()?;
    let (time, process) = stem.split_once('_').unwrap_or((stem, ""));
    Some((file::moment(time)?, process.to_owned()))
}
