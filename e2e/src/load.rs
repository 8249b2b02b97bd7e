//! Constant load through the gateway, with a record of each request.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::cluster::{run, state};

/// A load that runs until it is stopped.
pub struct Load {
    attack: Child,
    file: PathBuf,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    pub at: Timestamp,
    pub latency: SignedDuration,
    /// 0 if there was no answer.
    pub code: u16,
    pub version: String,
    pub pod: String,
    pub error: String,
}

/// All requests of a load, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Record>);

#[derive(Deserialize)]
struct Line {
    code: u16,
    timestamp: Timestamp,
    /// In nanoseconds.
    latency: i64,
    #[serde(default)]
    error: String,
    #[serde(default)]
    headers: Option<BTreeMap<String, Vec<String>>>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Load {
    /// `rate` requests a second for this host and path, with these lines of a header.
    pub fn start(gateway: &str, host: &str, path: &str, header: &str, rate: u32) -> Result<Self> {
        // The state of this cluster: another run on the same machine may have the same pid in its own namespace.
        let file = state().join(format!("load-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let targets = file.with_extension("targets");
        std::fs::write(&targets, format!("GET {gateway}{path}\nHost: {host}\n{header}")).context("write the target of the load")?;
        let mut command = Command::new("vegeta");
        command.args(["attack", "-duration=0", "-timeout=5s", "-max-body=0", &format!("-rate={rate}/s")]);
        command.arg(format!("-targets={}", targets.display())).arg(format!("-output={}", file.display()));
        let attack = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("cannot run vegeta")?;
        Ok(Self { attack, file })
    }

    /// Ends it; requests that are on their way are waited for.
    pub async fn stop(mut self) -> Result<Records> {
        let pid = self.attack.id().context("the load has ended by itself")?;
        run("kill", ["-INT", &pid.to_string()]).await?;
        let status = self.attack.wait().await?;
        ensure!(status.success(), "vegeta: {status}");
        let text = run("vegeta", ["encode", "--to", "json", &self.file.display().to_string()]).await?;
        let records = text.lines().map(|line| serde_json::from_str::<Line>(line).map(Record::from));
        let mut records = Records(records.collect::<Result<_, _>>().context("vegeta's records")?);
        records.0.sort_by_key(|record| record.at);
        Ok(records)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for file in [self.file.clone(), self.file.with_extension("targets")] {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                eprintln!("{} stays behind: {error}", file.display());
            }
        }
    }
}

impl From<Line> for Record {
    fn from(line: Line) -> Self {
        let header = |name: &str| {
            let values = line.headers.iter().flat_map(|headers| headers.get(name)).flatten();
            values.last().cloned().unwrap_or_default()
        };
        let (version, pod) = (header("X-Version"), header("X-Pod"));
        let latency = SignedDuration::from_nanos(line.latency);
        Self { at: line.timestamp, latency, code: line.code, version, pod, error: line.error }
    }
}

impl Record {
    pub fn failed(&self) -> bool {
        self.code != 200 || !self.error.is_empty()
    }
}

impl Records {
    pub fn sent(&self) -> usize {
        self.0.len()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().filter(|record| record.failed())
    }

    /// The requests that were sent in this time.
    pub fn within(&self, from: Timestamp, to: Timestamp) -> Self {
        Self(self.0.iter().filter(|record| record.at >= from && record.at < to).cloned().collect())
    }

    /// Requests that this version answered.
    pub fn of(&self, version: &str) -> usize {
        self.0.iter().filter(|record| record.version == version).count()
    }

    /// Share of the answers that came from this version, in percent.
    pub fn share(&self, version: &str) -> f64 {
        100.0 * self.of(version) as f64 / self.sent().max(1) as f64
    }

    pub fn last_of(&self, version: &str) -> Option<&Record> {
        self.0.iter().rev().find(|record| record.version == version)
    }

    pub fn first_of(&self, version: &str) -> Option<&Record> {
        self.0.iter().find(|record| record.version == version)
    }

    /// No request failed; else the first failures in words.
    pub fn ensure_no_failures(&self) -> Result<()> {
        let failed = self.failures().count();
        let first: Vec<String> = self.failures().take(5).map(ToString::to_string).collect();
        ensure!(failed == 0, "{failed} of {} requests failed, the first of them:\n  {}", self.sent(), first.join("\n  "));
        Ok(())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, code, version, pod, error, latency } = self;
        write!(f, "{at} {code} after {} ms, version {version:?}, pod {pod:?} {error}", latency.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(second: i64, code: u16, version: &str) -> Record {
        let at = Timestamp::from_second(second).unwrap();
        Record { at, latency: SignedDuration::ZERO, code, version: version.into(), pod: String::new(), error: String::new() }
    }

    #[test]
    fn a_line_of_vegeta_is_read() {
        let line = r#"{"attack":"","seq":1,"code":503,"timestamp":"2026-01-02T03:04:05.000000006Z","latency":2000000,"bytes_out":0,"bytes_in":3,"error":"503 Service Unavailable","body":null,"method":"GET","url":"http://x/","headers":{"X-Version":["v1"],"X-Pod":["a"]}}"#;
        let record = Record::from(serde_json::from_str::<Line>(line).unwrap());
        assert_eq!((record.code, record.version.as_str(), record.pod.as_str(), record.latency.as_millis()), (503, "v1", "a", 2));
        assert!(record.failed());
        let line = r#"{"code":0,"timestamp":"2026-01-02T03:04:05Z","latency":1,"error":"dial tcp","headers":null}"#;
        assert!(Record::from(serde_json::from_str::<Line>(line).unwrap()).failed(), "no answer is a failure");
    }

    #[test]
    fn shares_are_those_of_the_window() {
        let all = Records(vec![record(1, 200, "v1"), record(2, 200, "v2"), record(3, 503, "v1"), record(4, 200, "v2")]);
        let window = all.within(Timestamp::from_second(2).unwrap(), Timestamp::from_second(4).unwrap());
        assert_eq!((window.sent(), window.share("v2"), window.failures().count()), (2, 50.0, 1));
        assert!(window.ensure_no_failures().unwrap_err().to_string().starts_with("1 of 2 requests failed"));
        assert_eq!(all.last_of("v1").unwrap().at.as_second(), 3);
    }
}
