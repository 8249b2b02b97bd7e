//! `lint`: what the API server and the controller would say of manifests, before anybody applies them.
//!
//! Offline a simulated API server with our CRDs takes the place of the real one, and the controller's own plan is asked about the
//! spec. With `--online` the objects that a Rollout names are looked up in the cluster, too, and its metrics are asked once.

mod files;
mod offline;
mod online;
mod report;

use std::path::PathBuf;

use jiff::Timestamp;

use super::{
    error::{Error, Exit},
    output::{Format, Out},
    session::{Connection, Session},
};
pub use report::{Finding, Report, Severity};

#[derive(Clone, Debug, clap::Args)]
#[group(id = "lint")]
pub struct Args {
    /// A file, a directory (with all below it), or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Also look into the cluster: what the Rollouts name, autoscalers, your own rights; and ask the metrics once
    #[arg(long)]
    pub online: bool,
    /// With --online: the Prometheus to ask, as this machine reaches it [default: the one that Sluice was installed with]
    #[arg(long, value_name = "URL", requires = "online")]
    pub prometheus: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

pub async fn run(connection: &Connection, args: &Args, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let session = if args.online { Some(Session::new(connection).await?) } else { None };
    let namespace = session.as_ref().map(|session| session.namespace.clone()).or_else(|| connection.namespace.clone());
    let namespace = namespace.as_deref().unwrap_or("default");
    let report = examine(session.as_ref(), namespace, args, &mut std::io::stdin().lock(), now).await?;
    print(&report, args, out)
}

/// What is found in the files; with a session, also in its cluster.
pub async fn examine(
    session: Option<&Session>,
    namespace: &str,
    args: &Args,
    stdin: &mut dyn std::io::Read,
    now: Timestamp,
) -> Result<Report, Error> {
    let mut report = Report::default();
    let documents = files::read(&args.files, stdin, &mut report)?;
    let mut set = offline::Set::new(documents, namespace, now, &mut report);
    match session {
        Some(session) => online::check(session, &mut set, args.prometheus.as_deref(), now, &mut report).await?,
        None => {
            set.check(None, now, &mut report);
            set.check_templates(false, &mut report);
        }
    }
    Ok(report)
}

/// The documents of files, and what is found in them offline. All templates that Rollouts name must be among them.
pub fn checked(
    paths: &[PathBuf],
    namespace: &str,
    stdin: &mut dyn std::io::Read,
    now: Timestamp,
) -> Result<(Report, Vec<serde_json::Value>), Error> {
    let mut report = Report::default();
    let documents = files::read(paths, stdin, &mut report)?;
    let objects = documents.iter().map(|document| document.object.clone()).collect();
    let mut set = offline::Set::new(documents, namespace, now, &mut report);
    set.check(None, now, &mut report);
    set.check_templates(true, &mut report);
    Ok((report, objects))
}

fn print(report: &Report, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => out.object(format, &report.summary())?,
        _ => {
            for line in report.lines(&out.style) {
                out.line(line)?;
            }
        }
    }
    Ok(if report.problems() == 0 { Exit::Ok } else { Exit::Error })
}

/// What is wrong with manifests, offline: for tests of what we write ourselves.
#[cfg(test)]
pub fn problems(manifests: &str) -> Vec<String> {
    let mut report = Report::default();
    let documents = files::split("manifest.yaml", manifests, &mut report);
    let now = Timestamp::UNIX_EPOCH;
    offline::Set::new(documents, "default", now, &mut report).check(None, now, &mut report);
    report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .map(|finding| format!("{}: {}", finding.field, finding.message))
        .collect()
}

#[cfg(test)]
mod tests;
