//! `list`: one line for each Rollout.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use serde_json::json;

use super::{
    error::{Asked, Error, Exit},
    load::ROLLOUTS,
    output::{Format, Out, tidy},
    printer::{Style, Tone, clip, columns, percent, since},
    session::Session,
    view::phase_tone,
    words,
};
use crate::api::Rollout;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rollouts of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

pub async fn run(session: &Session, args: &Args, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollouts = ApiResource::erase::<Rollout>(&());
    let (api, namespace): (Api<DynamicObject>, _) = match args.all_namespaces {
        true => (Api::all_with(session.client.clone(), &rollouts), ""),
        false => (Api::namespaced_with(session.client.clone(), &session.namespace, &rollouts), session.namespace.as_str()),
    };
    let found = api.list(&ListParams::default()).await;
    let found = found.map_err(|error| Asked::new("list", ROLLOUTS, namespace).explain(error, &session.url))?;
    let objects: Vec<DynamicObject> =
        found.items.into_iter().map(|object| DynamicObject { types: Some(types()), ..tidy(object) }).collect();
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        out.object(format, &json!({ "apiVersion": "v1", "kind": "List", "items": objects }))?;
        return Ok(Exit::Ok);
    }
    let rollouts = objects.into_iter().map(|object| object.try_parse::<Rollout>()).collect::<Result<Vec<_>, _>>();
    let rollouts = rollouts.map_err(|error| Error::Answer(error.to_string()))?;
    if rollouts.is_empty() {
        let place =
            if namespace.is_empty() { "in any namespace".into() } else { format!("in the namespace {namespace:?} (-A looks into all)") };
        out.note(format!("There are no Rollouts {place}."))?;
    }
    for line in table(&rollouts, args.all_namespaces, now, &out.style) {
        out.line(out.columns.map_or(line.clone(), |columns| clip(&line, columns)))?;
    }
    Ok(Exit::Ok)
}

fn types() -> kube::core::TypeMeta {
    kube::core::TypeMeta::resource::<Rollout>()
}

/// The table, its head first; nothing for no Rollouts.
pub fn table(rollouts: &[Rollout], namespaces: bool, now: Timestamp, style: &Style) -> Vec<String> {
    if rollouts.is_empty() {
        return Vec::new();
    }
    let cells = |namespace: String, name: String, middle: Vec<String>, revisions: [String; 2], message: String| {
        let revisions = revisions.into_iter().filter(|_| style.wide);
        namespaces.then_some(namespace).into_iter().chain([name]).chain(middle).chain(revisions).chain([message]).collect::<Vec<_>>()
    };
    let head = ["PHASE", "STEP", "CANARY", "READY", "AGE"].map(|word| style.paint(Tone::Dim, word)).to_vec();
    let [namespace, name, stable, canary, message] =
        ["NAMESPACE", "NAME", "STABLE-REVISION", "PRESENT-REVISION", "MESSAGE"].map(|word| style.paint(Tone::Dim, word));
    let mut rows = vec![cells(namespace, name, head, [stable, canary], message)];
    let missing = || "-".to_owned();
    rows.extend(rollouts.iter().map(|rollout| {
        let status = rollout.status.clone().unwrap_or_default();
        let tone = phase_tone(status.phase);
        let middle = vec![
            style.paint(tone, format!("{} {}", tone.mark(), status.phase.map_or("Unknown".into(), |phase| phase.to_string()))),
            words::step_label(rollout).unwrap_or_else(missing),
            status.weights.as_ref().map_or_else(missing, |weights| format!("{} %", percent(weights.canary))),
            format!("{}/{}", status.ready_replicas, status.replicas),
            rollout.creation_timestamp().map_or_else(missing, |time| since(time.0, now)),
        ];
        let revisions = [status.stable_revision.unwrap_or_else(missing), status.canary_revision.unwrap_or_else(missing)];
        cells(rollout.namespace().unwrap_or_default(), rollout.name_any(), middle, revisions, words::waits_for(rollout))
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    fn rollouts() -> Vec<Rollout> {
        fixtures::all().into_iter().map(|(_, view)| view.rollout).collect()
    }

    #[test]
    fn each_rollout_is_one_line() {
        insta::assert_snapshot!("list", table(&rollouts(), false, fixtures::now(), &fixtures::plain()).join("\n"));
    }

    #[test]
    fn wide_and_all_namespaces_add_columns() {
        let style = Style { wide: true, ..fixtures::plain() };
        insta::assert_snapshot!("list_wide", table(&rollouts(), true, fixtures::now(), &style).join("\n"));
    }

    #[test]
    fn no_rollouts_have_no_head() {
        assert!(table(&[], false, fixtures::now(), &fixtures::plain()).is_empty());
    }
}
