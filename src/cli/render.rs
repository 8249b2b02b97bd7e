//! A Rollout as a tree: `get` prints it once, `watch` keeps it on the screen.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;

use super::{
    printer::{Node, Style, Tone, columns, percent, plural, since, span, tree},
    view::{PodView, Revision, Role, View, images_of},
    words,
};
use crate::api::{AnalysisRun, Phase, RunPhase, Verdict, analysis::Metric, rollout::WorkloadKind, run::MetricResult};

/// So many pods of a revision are shown where `-o wide` is not given; those that are not ready come first.
const PODS_SHOWN: usize = 8;

/// The whole tree, with a line feed at its end.
pub fn render(view: &View, now: Timestamp, style: &Style) -> String {
    let sections = [header(view, now, style), steps(view, now, style), revisions(view, now, style), analysis(view, now, style)];
    sections.iter().filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n") + "\n").collect::<Vec<_>>().join("\n")
}

fn header(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let (status, tone) = (view.status(), view.tone());
    let phase = status.phase.map_or("no status yet".into(), |phase| phase.to_string());
    let mut rows: Vec<(&str, String)> = vec![
        ("Rollout", style.paint(Tone::Strong, format!("{}/{}", view.rollout.namespace().unwrap_or_default(), view.rollout.name_any()))),
        ("Phase", style.paint(tone, format!("{} {phase}", tone.mark()))),
    ];
    let waits = words::waits_for_now(view, now);
    if !waits.is_empty() {
        let ended = matches!(status.phase, Some(Phase::Healthy | Phase::Aborted | Phase::Degraded)) && !view.is_behind();
        rows.push((if ended { "Message" } else { "Now" }, waits));
    }
    rows.extend(words::next(&view.rollout).map(|next| ("Next", next)));
    rows.push(("Strategy", strategy(view)));
    for (i, line) in columns(&images(view, style)).into_iter().enumerate() {
        rows.push((if i == 0 { "Images" } else { "" }, line));
    }
    rows.extend(weights(view).map(|weights| ("Weights", weights)));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(label, value)| vec![style.paint(Tone::Dim, label), value]).collect();
    columns(&rows)
}

fn strategy(view: &View) -> String {
    let spec = &view.rollout.spec;
    let mut text = format!("canary, {}", plural(view.steps().len(), "step"));
    match &spec.traffic {
        None => text += ", by the number of pods",
        Some(traffic) => {
            let routes: Vec<String> = traffic.routes.iter().map(|route| format!("{} {}", route.kind, route.name)).collect();
            text += &format!(", Service {} by {}", traffic.service, routes.join(", "));
        }
    }
    if let Some(workload) = &spec.workload_ref {
        let WorkloadKind::Deployment = workload.kind;
        text += &format!(", Deployment {}", workload.name);
    }
    text
}

/// The images of the revisions that matter, each once.
fn images(view: &View, style: &Style) -> Vec<Vec<String>> {
    let revisions = view.revisions();
    let shown = revisions.iter().filter(|revision| matches!(revision.role, Role::Canary | Role::Stable) || is_present(view, revision));
    shown.map(|revision| vec![style.paint(Tone::Dim, revision.role.word()), images_of(revision.replica_set).join(", ")]).collect()
}

fn is_present(view: &View, revision: &Revision<'_>) -> bool {
    view.status().canary_revision.as_deref() == Some(&revision.hash)
}

fn weights(view: &View) -> Option<String> {
    let weights = view.status().weights?;
    let wanted = format!("stable {} %, canary {} %", percent(weights.stable), percent(weights.canary));
    let observed =
        weights.observed.map_or("not taken up by every route yet".into(), |observed| format!("observed: canary {} %", percent(observed)));
    Some(format!("{wanted}; {observed}"))
}

fn steps(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let Some(current) = view.status().current_step else { return Vec::new() };
    let total = view.steps().len();
    let index = usize::try_from(current.index).unwrap_or(0);
    let count = if index < total { format!("at {} of {total}", index + 1) } else { format!("all {total} done") };
    let full = view.status().canary.is_some_and(|canary| canary.promote_full);
    let mut lines = vec![format!(
        "{}  {count}{}",
        style.paint(Tone::Dim, "Steps"),
        if full { ", full promotion: no more pauses and analysis" } else { "" }
    )];
    let rows: Vec<Vec<String>> = view
        .steps()
        .iter()
        .enumerate()
        .map(|(i, step)| {
            let tone = match i.cmp(&index) {
                std::cmp::Ordering::Less => Tone::Good,
                std::cmp::Ordering::Equal if view.tone() == Tone::Held => Tone::Held,
                std::cmp::Ordering::Equal => Tone::Busy,
                std::cmp::Ordering::Greater => Tone::Dim,
            };
            let text = if i == index { style.paint(Tone::Strong, words::step(step)) } else { words::step(step) };
            vec![style.mark(tone), (i + 1).to_string(), text, if i == index { progress(view, now) } else { String::new() }]
        })
        .collect();
    lines.extend(columns(&rows).into_iter().map(|line| format!("  {line}")));
    lines
}

/// How far the present step is.
fn progress(view: &View, now: Timestamp) -> String {
    let status = view.status();
    let Some(current) = &status.current_step else { return String::new() };
    if let Some((over, left)) = view.pause(now) {
        return format!("{} gone, {} left", span(over), span(left));
    }
    let mut text = format!("for {}", since(current.started_at.0, now));
    if let Some(transition) = &status.transition {
        // What is waited for is in the message; here is for how long.
        text += &match &transition.observed_at {
            None => format!(", waiting for {}", since(transition.since.0, now)),
            Some(observed) => format!(", observed {} ago", since(observed.0, now)),
        };
    }
    text
}

fn revisions(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let all = view.revisions();
    if all.is_empty() {
        return Vec::new();
    }
    let hidden = |revision: &&Revision<'_>| {
        !style.wide && revision.role == Role::Old && revision.pods.is_empty() && wanted(revision.replica_set) == 0
    };
    let mut nodes: Vec<Node> =
        all.iter().filter(|revision| !hidden(revision)).map(|revision| self::revision(revision, now, style)).collect();
    let without_pods = all.iter().filter(hidden).count();
    if without_pods > 0 {
        nodes.push(Node::leaf(vec![style.paint(Tone::Dim, format!("{} without pods", plural(without_pods, "old revision")))]));
    }
    let mut lines = vec![style.paint(Tone::Dim, "Revisions")];
    lines.extend(tree(&nodes, ""));
    lines
}

fn wanted(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn revision(revision: &Revision<'_>, now: Timestamp, style: &Style) -> Node {
    let rs = revision.replica_set;
    let (wanted, ready) = (wanted(rs), rs.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let tone = match revision.role {
        Role::Rejected => Tone::Bad,
        _ if wanted == 0 => Tone::Dim,
        _ if ready >= wanted => Tone::Good,
        _ => Tone::Busy,
    };
    let mut cells = vec![
        format!("{} {}", style.mark(tone), revision.role.word()),
        rs.name_any(),
        images_of(rs).join(", "),
        format!("{ready}/{wanted} ready"),
    ];
    cells.extend(rs.creation_timestamp().map(|time| since(time.0, now)));
    let shown = if style.wide { revision.pods.len() } else { PODS_SHOWN };
    let mut children: Vec<Node> = revision.pods.iter().take(shown).map(|pod| self::pod(pod, now, style)).collect();
    let rest = &revision.pods[revision.pods.len().min(shown)..];
    if !rest.is_empty() {
        let unready = rest.iter().filter(|pod| !pod.ready).count();
        children.push(Node::leaf(vec![
            style.paint(Tone::Dim, format!("and {}, {unready} not ready (-o wide shows all)", plural(rest.len(), "more pod"))),
        ]));
    }
    Node { cells, children }
}

fn pod(pod: &PodView, now: Timestamp, style: &Style) -> Node {
    let tone = match () {
        () if pod.ready => Tone::Good,
        () if pod.state == "Terminating" => Tone::Dim,
        () if pod.restarts > 0 || !matches!(pod.state.as_str(), "Running" | "Pending" | "ContainerCreating") => Tone::Bad,
        () => Tone::Busy,
    };
    let readiness = if pod.ready { "ready" } else { "not ready" };
    let mut cells = vec![
        format!("{} {}", style.mark(tone), pod.name),
        pod.state.clone(),
        readiness.into(),
        plural(usize::try_from(pod.restarts).unwrap_or(0), "restart"),
    ];
    cells.extend(pod.created.map(|at| since(at, now)));
    let children = pod.trouble.iter().map(|trouble| Node::leaf(vec![style.paint(Tone::Dim, trouble)])).collect();
    Node { cells, children }
}

fn analysis(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let status = view.status();
    let runs = view.current_runs();
    let mut nodes: Vec<Node> = runs.iter().map(|run| self::run(run, now, style)).collect();
    // A run that status names and that is gone (pruned, or not readable) is still shown by its summary.
    let missing = status.analysis.iter().filter(|summary| !runs.iter().any(|run| run.name_any() == summary.name));
    nodes.extend(missing.map(|summary| Node::leaf(run_cells(summary.phase, summary.step, &summary.name, &summary.message, style))));
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![style.paint(Tone::Dim, "Analysis")];
    lines.extend(tree(&nodes, ""));
    lines
}

fn run_cells(phase: RunPhase, step: Option<i32>, name: &str, message: &str, style: &Style) -> Vec<String> {
    let tone = run_tone(phase);
    let place = step.map_or("background".into(), |step| format!("step {}", step + 1));
    vec![format!("{} {place}", style.mark(tone)), name.to_owned(), style.paint(tone, format!("{phase:?}")), message.to_owned()]
}

fn run_tone(phase: RunPhase) -> Tone {
    match phase {
        RunPhase::Running => Tone::Busy,
        RunPhase::Passed => Tone::Good,
        RunPhase::Failed => Tone::Bad,
        RunPhase::Inconclusive => Tone::Held,
        RunPhase::Cancelled => Tone::Dim,
    }
}

pub fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Pass => Tone::Good,
        Verdict::Fail => Tone::Bad,
        Verdict::Inconclusive | Verdict::NoData | Verdict::ProviderError => Tone::Held,
    }
}

fn run(run: &AnalysisRun, now: Timestamp, style: &Style) -> Node {
    let status = run.status.clone().unwrap_or_default();
    let metrics = run.spec.metrics.iter().map(|metric| {
        let result = status.metric_results.iter().find(|result| result.name == metric.name).cloned().unwrap_or_default();
        self::metric(run, metric, &result, now, style)
    });
    Node { cells: run_cells(status.phase, run.spec.step, &run.name_any(), &status.message, style), children: metrics.collect() }
}

fn metric(run: &AnalysisRun, metric: &Metric, result: &MetricResult, now: Timestamp, style: &Style) -> Node {
    let running = run.status.as_ref().is_none_or(|status| status.phase == RunPhase::Running);
    let interval = words::interval(metric);
    let name = format!("{}{}", metric.name, if metric.dry_run { " (dry run)" } else { "" });
    let Some(newest) = result.measurements.last() else {
        let started = run.status.as_ref().and_then(|status| status.started_at.clone()).map(|at| at.0);
        let delay = metric.initial_delay.as_ref().map_or(interval, crate::api::Span::get);
        let first =
            started.map_or("not measured yet".into(), |at| format!("first measurement in {}", span((at + delay).duration_since(now))));
        let text = if running { first } else { "never measured".into() };
        return Node::leaf(vec![format!("{} {name}", style.mark(Tone::Dim)), text]);
    };
    let tone = verdict_tone(newest.verdict);
    let words = match newest.message.as_str() {
        "" => format!("{}, expected {}", newest.value.as_deref().unwrap_or("no value"), newest.limit),
        words => words.to_owned(),
    };
    let mut times = format!("{} ago", since(newest.at.0, now));
    if running && result.phase == RunPhase::Running {
        times += &format!(", next in {}", span((newest.at.0 + interval).duration_since(now)));
    }
    let cells = vec![
        format!("{} {name}", style.mark(tone)),
        style.paint(tone, format!("{:?}", newest.verdict)),
        words,
        style.paint(Tone::Dim, times),
    ];
    let mut children = Vec::new();
    if style.wide {
        children.extend(newest.queries.iter().map(|query| Node::leaf(vec![style.paint(Tone::Dim, format!("asked {query}"))])));
    }
    children.push(Node::leaf(vec![style.paint(Tone::Dim, counts(metric, result))]));
    Node { cells, children }
}

/// How often each verdict was given, and how often the bad ones are tolerated.
pub fn counts(metric: &Metric, result: &MetricResult) -> String {
    let wanted = metric.count.map(|count| format!(" of {count}")).unwrap_or_default();
    let mut parts = vec![
        format!("{}{wanted} passed", result.passed),
        format!("{} failed (tolerated {})", result.failed, metric.failure_limit.unwrap_or(0)),
    ];
    if result.inconclusive > 0 {
        parts.push(format!("{} inconclusive (tolerated {})", result.inconclusive, metric.inconclusive_limit.unwrap_or(0)));
    }
    if result.no_data > 0 {
        parts.push(format!("{} without data (then {:?})", result.no_data, metric.on_no_data.unwrap_or_default()));
    }
    if result.errors > 0 {
        let limit = metric.consecutive_error_limit.unwrap_or(4);
        parts.push(format!("{} provider errors, {} in a row (tolerated {limit})", result.errors, result.consecutive_errors));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn every_state_is_shown_as_agreed() {
        for (name, view) in fixtures::all() {
            insta::assert_snapshot!(name, render(&view, fixtures::now(), &fixtures::plain()));
        }
    }

    #[test]
    fn a_dry_run_is_told_as_one() {
        let mut view = fixtures::progressing();
        view.runs.iter_mut().flat_map(|run| &mut run.spec.metrics).for_each(|metric| metric.dry_run = true);
        let shown = render(&view, fixtures::now(), &fixtures::plain());
        assert!(shown.contains("success-rate (dry run)"), "{shown}");
    }

    #[test]
    fn wide_shows_queries_and_old_revisions() {
        let style = Style { wide: true, ..fixtures::plain() };
        let shown = render(&fixtures::progressing(), fixtures::now(), &style);
        assert!(shown.contains("asked sum(rate("), "{shown}");
        let shown = render(&fixtures::healthy(), fixtures::now(), &style);
        assert!(shown.contains("api-4a4a") && shown.contains("api-4b4b"), "{shown}");
    }

    #[test]
    fn colours_add_nothing_to_the_text() {
        let style = Style { colour: true, ..fixtures::plain() };
        for (name, view) in fixtures::all() {
            let coloured = render(&view, fixtures::now(), &style);
            let stripped = anstream::adapter::strip_str(&coloured).to_string();
            assert_ne!(coloured, stripped, "{name} has no colours");
            assert_eq!(stripped, render(&view, fixtures::now(), &fixtures::plain()), "{name}");
        }
    }

    #[test]
    fn of_many_pods_the_unready_ones_are_shown() {
        let mut view = fixtures::progressing();
        let ready = view.pods.iter().find(|pod| pod.name_any().starts_with("api-7f9b")).cloned().unwrap();
        for i in 0..20 {
            let mut pod = ready.clone();
            pod.metadata.name = Some(format!("api-7f9b-{i:02}"));
            if i == 19 {
                pod.status.as_mut().unwrap().conditions = None;
            }
            view.pods.push(pod);
        }
        let shown = render(&view, fixtures::now(), &fixtures::plain());
        assert!(shown.contains("api-7f9b-19") && !shown.contains("api-7f9b-18"), "{shown}");
        assert!(shown.contains("and 14 more pods, 0 not ready"), "{shown}");
    }
}
