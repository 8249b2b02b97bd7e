//! The scenarios of the end-to-end tests: each is a team's use of Sluice on a real cluster, from its own manifests to its own load.
//!
//! `sluice-e2e [NAME...]` runs all of them or these; `--list` shows them; `--bench` measures instead (`make bench-cluster`). `e2e/run` builds everything, starts the cluster and calls it.

mod app;
mod audit;
mod bench;
mod calls;
mod cluster;
mod conformance;
mod load;
mod plugin;
mod process;
mod recorder;
mod scenarios;
mod space;
mod test;
mod timeline;
mod trace;
mod wait;

use std::{process::ExitCode, rc::Rc, time::Instant};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, stream};

use cluster::Cluster;
use test::{Report, Scenario, Test};

/// Scenarios that run at the same time, unless they must run alone: on 2 cores more would measure each other.
const BESIDE: usize = 3;
/// A scenario that takes longer has hung.
const LIMIT: std::time::Duration = wait::seconds(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let all = scenarios::all();
    if names.iter().any(|name| name == "--list") {
        all.iter().for_each(|scenario| println!("{:16} {}", scenario.name, scenario.shows));
        return Ok(true);
    }
    if names == ["--conformance"] {
        rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow!("a TLS provider is installed already"))?;
        return conformance::run().await;
    }
    let bench = names == ["--bench"];
    let chosen = if bench { vec![] } else { choose(all, &names)? };
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow!("a TLS provider is installed already"))?;
    let cluster = Rc::new(Cluster::connect().await?);
    if bench {
        return bench::run(cluster).await.map(|()| true);
    }
    let (chosen, elsewhere): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| cluster.own || !scenarios::ON_OUR_CLUSTER.contains(&scenario.name));
    for scenario in &elsewhere {
        println!("{} is skipped: it stops, adds or looks into parts of the cluster, which only e2e/cluster/up's allows", scenario.name);
    }
    let began = Instant::now();
    let values: &[&str] = if cluster.own { &scenarios::VALUES } else { &[] };
    cluster.install_with(values).await.context("install the controller by its chart")?;
    println!("the controller is installed after {:.1} s", began.elapsed().as_secs_f64());

    let (alone, beside): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|scenario| scenario.alone);
    let one = |scenario: Scenario| play(scenario, cluster.clone());
    let mut reports: Vec<Report> = stream::iter(beside).map(one).buffer_unordered(BESIDE).collect().await;
    reports.extend(stream::iter(alone).then(one).collect::<Vec<_>>().await);
    println!("waiting until all namespaces are gone");
    for report in reports.iter_mut().filter(|report| report.left.is_some()) {
        let gone = match report.left.take() {
            Some(space) => space.gone().await,
            None => Ok(()),
        };
        if let (Err(error), true) = (gone, report.result.is_ok()) {
            println!("\nFAILED {}: {error:#}", report.name);
            report.result = Err(error);
        }
    }
    Ok(table(&reports, elsewhere.len(), began))
}

fn choose(all: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>> {
    for name in names {
        ensure!(all.iter().any(|scenario| scenario.name == name), "there is no scenario {name}: sluice-e2e --list shows them");
    }
    Ok(all.into_iter().filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name)).collect())
}

/// Runs one scenario to its end, and begins to clean up behind it.
async fn play(scenario: Scenario, cluster: Rc<Cluster>) -> Report {
    println!("[  0.0 s] {}: {}", scenario.name, scenario.shows);
    let began = Instant::now();
    let test = match Test::new(scenario.name, cluster).await {
        Ok(test) => test,
        Err(error) => return Report { name: scenario.name, result: Err(error), took: began.elapsed(), sent: 0, failed: 0, left: None },
    };
    let ended = tokio::time::timeout(LIMIT, (scenario.run)(&test)).await;
    let result = ended.unwrap_or_else(|_| Err(anyhow!("it was not over after {} s", LIMIT.as_secs())));
    let report = test.report(result);
    if let Err(error) = &report.result {
        println!("\nFAILED {}: {error:#}", test.name);
        match test.explain().await {
            Ok(text) => println!("{text}"),
            Err(error) => println!("and nothing more can be told: {error:#}\n"),
        }
    }
    if report.result.is_err() && std::env::var_os("SLUICE_E2E_KEEP").is_some() {
        return report;
    }
    // Nothing that we made may hold the namespace back; that it is gone is looked at in the end.
    match test.space.delete().await {
        Ok(()) => Report { left: Some(test.space.clone()), ..report },
        Err(error) => Report { result: report.result.and(Err(error)), ..report },
    }
}

fn table(reports: &[Report], skipped: usize, began: Instant) -> bool {
    println!("\n{:16} {:>6} {:>9} {:>14} {:>15}", "scenario", "result", "duration", "requests sent", "requests failed");
    for Report { name, result, took, sent, failed, .. } in reports {
        let word = if result.is_ok() { "passed" } else { "FAILED" };
        println!("{name:16} {word:>6} {:>7.1} s {sent:>14} {failed:>15}", took.as_secs_f64());
    }
    let failed = reports.iter().filter(|report| report.result.is_err()).count();
    println!("all of it took {:.0} s", began.elapsed().as_secs_f64());
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{} passed, {failed} failed{skipped}", reports.len() - failed);
    failed == 0
}
