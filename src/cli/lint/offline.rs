//! What can be said without a cluster: the schema and rules of the CRDs, as an API server applies them, and what the controller makes
//! of a spec.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{
    files::Document,
    report::{Report, Subject},
};
use crate::{
    api::{self, AnalysisTemplate, AnalysisTemplateSpec, ClusterAnalysisTemplate, Rollout, conditions, rollout::StepAnalysis},
    core::{Settings, analysis, plan},
    sim::api::{ApiServer, Caller, Kind},
    world::{Change, Index, Watched},
};

/// The documents, as far as something can be said of them.
pub struct Set {
    server: ApiServer,
    pub rollouts: Vec<(Subject, String, Rollout)>,
    templates: Vec<(Subject, AnalysisTemplateSpec)>,
    /// What is known of the world: the documents, and what the cluster adds.
    pub index: Index,
    /// Kind, namespace and name of the documents.
    pub known: BTreeSet<(String, String, String)>,
}

impl Set {
    /// Sorts the documents, and says what the API server would say of each.
    pub fn new(documents: Vec<Document>, namespace: &str, now: Timestamp, report: &mut Report) -> Self {
        let (server, index) = (ApiServer::new(1, now), Index::default());
        let mut set = Self { server, rollouts: vec![], templates: vec![], index, known: BTreeSet::new() };
        for crd in api::crds() {
            let crd = serde_json::to_value(crd).unwrap_or_default();
            set.server.install_crd(crd, now).expect("our own CRDs are well-formed: tests/crds.rs");
        }
        for document in documents {
            set.add(document, namespace, now, report);
        }
        set
    }

    fn add(&mut self, Document { file, line, mut object }: Document, namespace: &str, now: Timestamp, report: &mut Report) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
        let subject = Subject { file, line, object: format!("{kind} {name}").trim_end().to_owned() };
        if kind.is_empty() || version.is_empty() {
            report.problem(&subject, "", "this is no Kubernetes object: apiVersion and kind are missing", None);
            return;
        }
        let ours = version.split('/').next() == Some(api::GROUP);
        if ours {
            report.checked += 1;
            self.ask_server(&subject, &version, &kind, &object, now, report);
        } else {
            let namesake = self.server.kinds().iter().any(|known| known.kind == kind && known.group() == api::GROUP);
            let what = if namesake { format!("{kind} of {version}") } else { kind.clone() };
            *report.passed_over.entry(what).or_default() += 1;
        }
        if name.is_empty() || !object["metadata"].is_object() {
            return;
        }
        let at = text(&object["metadata"]["namespace"]);
        let namespace = match kind.as_str() {
            "ClusterAnalysisTemplate" => String::new(),
            _ if at.is_empty() => namespace.to_owned(),
            _ => at,
        };
        object["metadata"]["namespace"] = json!(namespace);
        self.known.insert((kind.clone(), namespace.clone(), name));
        if ours && report.is_faulty(&subject) {
            return;
        }
        self.take(&kind, &object);
        match kind.as_str() {
            "Rollout" if ours => self.rollouts.extend(read(object, &subject, report).map(|rollout| (subject, namespace, rollout))),
            "AnalysisTemplate" if ours => {
                self.templates.extend(read(object, &subject, report).map(|template: AnalysisTemplate| (subject, template.spec)));
            }
            "ClusterAnalysisTemplate" if ours => {
                self.templates
                    .extend(read(object, &subject, report).map(|template: ClusterAnalysisTemplate| (subject, template.spec.template)));
            }
            _ => {}
        }
    }

    /// Something is there.
    pub fn take(&mut self, kind: &str, object: &Value) {
        let watched = Watched::ALL.into_iter().find(|watched| watched.resource().kind == kind);
        if let (Some(watched), Some(object)) = (watched, parsed::<DynamicObject>(object.clone())) {
            self.index.take(watched, &object, Change::Applied);
        }
    }

    /// What an API server says to a new object of one of our kinds.
    fn ask_server(&mut self, subject: &Subject, version: &str, name: &str, object: &Value, now: Timestamp, report: &mut Report) {
        let Some(kind) = self.server.kinds().of(version, name).cloned() else {
            let kinds: Vec<&str> =
                self.server.kinds().iter().filter(|kind| kind.group() == api::GROUP).map(|kind| kind.kind.as_str()).collect();
            let known = format!("{}/{}: {}", api::GROUP, api::VERSION, kinds.join(", "));
            return report.problem(subject, "kind", format!("there is no {name} in {version}"), Some(format!("known are, in {known}")));
        };
        for field in kind.schema.unknown(object) {
            let near = suggestion(&kind, &field);
            report.problem(subject, &field, "there is no such field", Some(near.unwrap_or_else(|| explain(&kind, parent(&field)))));
        }
        let mut object = object.clone();
        if object["metadata"].is_object() {
            object["metadata"]["namespace"] = json!("default");
        }
        let caller = Caller { dry_run: true, ..Caller::new("lint", now) };
        let Err(error) = self.server.create(&kind.id, Some("default"), object, &caller) else { return };
        let causes = error.details["causes"].as_array().cloned().unwrap_or_default();
        if causes.is_empty() {
            report.problem(subject, "", error.message, None);
        }
        for cause in causes {
            let (field, message) = (cause["field"].as_str().unwrap_or_default(), cause["message"].as_str().unwrap_or_default());
            let message = message.trim_start_matches("Invalid value: ").replacen(&format!("{field} in body "), "", 1);
            // The words of a rule say how to mend it; those of a schema do not.
            let mend = match cause["reason"].as_str() {
                Some("FieldValueInvalid") if message.contains("should ") => Some(explain(&kind, field)),
                Some("FieldValueInvalid") => None,
                _ => Some(explain(&kind, parent(field))),
            };
            match field {
                "<nil>" if message.contains("were not checked") => {
                    report.note(subject, "", "further rules are checked when these are mended", None)
                }
                // That was said of its field already.
                "<nil>" if message.contains("Checked value must be of type") => {}
                // What is wrong with the object as a whole has no field.
                "<nil>" => report.problem(subject, "", message, mend),
                _ => report.problem(subject, field, message, mend),
            }
        }
    }

    /// What the controller says of the Rollouts and templates. `prometheus`: whether Sluice was installed with the address of one;
    /// `None`: not known.
    pub fn check(&mut self, prometheus: Option<bool>, now: Timestamp, report: &mut Report) {
        let prometheus = prometheus.unwrap_or(true);
        let defaults = analysis::Defaults { prometheus_address: prometheus, ..analysis::Defaults::default() };
        for (subject, template) in &self.templates {
            // A value that is given where the template is used stands for any that may be.
            let args = template.args.iter().map(|arg| (arg.name.clone(), arg.value.clone().unwrap_or_else(|| "x".into()))).collect();
            check_metrics(&template.metrics, "spec", &defaults, Some(&args), subject, report);
        }
        let settings = Settings { prometheus_address: prometheus.then(|| "http://prometheus".into()) };
        for (subject, namespace, rollout) in &self.rollouts {
            let defaults = analysis::Defaults { without_traffic: rollout.spec.traffic.is_none(), ..defaults };
            for (field, analysis) in analyses(rollout) {
                check_metrics(&analysis.metrics, &field, &defaults, analysis::inline_args(analysis).as_ref(), subject, report);
            }
            if report.is_faulty(subject) {
                continue; // the controller says the same, of the first of them
            }
            let name = rollout.metadata.name.clone().unwrap_or_default();
            let Some(observed) = self.index.observe(namespace, &name, 0) else { continue };
            let status = plan(&observed, &settings, now).status;
            for invalid in
                status.conditions.iter().filter(|condition| condition.type_ == conditions::INVALID_SPEC && condition.status == "True")
            {
                let (field, message) = invalid.message.split_once(": ").unwrap_or(("spec", &invalid.message));
                report.problem(subject, field, message, None);
            }
        }
    }

    /// What the analysis of a Rollout takes from templates. `complete`: a template that is not among the documents does not exist.
    pub fn check_templates(&self, complete: bool, report: &mut Report) {
        for (subject, namespace, rollout) in &self.rollouts {
            let name = rollout.metadata.name.clone().unwrap_or_default();
            let Some(observed) = self.index.observe(namespace, &name, 0) else { continue };
            for (field, analysis) in analyses(rollout) {
                let missing = analysis.templates.iter().find(|template| !observed.analysis_templates.contains_key(template));
                match (missing, analysis::resolve(analysis, &observed.analysis_templates, rollout.spec.traffic.is_some())) {
                    (Some(template), _) if !complete => {
                        let mend = Some("give its file, too, or --online".to_owned());
                        report.note(subject, &field, format!("{template} is not among these documents: not checked"), mend);
                    }
                    // It was told of each metric by itself.
                    (_, Err(why)) if why.starts_with("metric ") && report.is_faulty(subject) => {}
                    (_, Err(why)) => report.problem(subject, &field, why, None),
                    (_, Ok(_)) => {}
                }
            }
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(object: Value) -> Option<T> {
    serde_json::from_value(object).ok()
}

/// As the controller reads it. A schema cannot say everything: a span of time may be too long.
fn read<T: serde::de::DeserializeOwned>(object: Value, subject: &Subject, report: &mut Report) -> Option<T> {
    let why = |error: serde_json::Error| report.problem(subject, "spec", format!("the controller cannot read it: {error}"), None);
    serde_json::from_value(object).map_err(why).ok()
}

/// The analyses of a Rollout by their fields.
pub fn analyses(rollout: &Rollout) -> Vec<(String, &StepAnalysis)> {
    let Some(canary) = &rollout.spec.strategy.canary else { return vec![] };
    let steps = canary.steps.iter().enumerate();
    let steps = steps.filter_map(|(i, step)| Some((format!("spec.strategy.canary.steps[{i}].analysis"), step.analysis.as_ref()?)));
    let background = canary.analysis.iter().map(|analysis| ("spec.strategy.canary.analysis".to_owned(), &analysis.analysis));
    steps.chain(background).collect()
}

fn check_metrics(
    metrics: &[api::Metric],
    field: &str,
    defaults: &analysis::Defaults,
    args: Option<&BTreeMap<String, String>>,
    subject: &Subject,
    report: &mut Report,
) {
    for (i, metric) in metrics.iter().enumerate() {
        for (part, mend) in analysis::validate_metric(metric, defaults, args).err().into_iter().flatten() {
            report.problem(subject, &format!("{field}.metrics[{i}].{part}"), mend, None);
        }
    }
}

fn parent(field: &str) -> &str {
    field.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Where it can be read what a field may be.
fn explain(kind: &Kind, field: &str) -> String {
    let names = field.split('.').map(|part| part.split('[').next().unwrap_or_default()).filter(|part| !part.is_empty());
    let path: String = names.map(|part| format!(".{part}")).collect();
    format!("kubectl explain {}{path} tells what there is", kind.qualified())
}

/// A field beside it that is written much the same.
fn suggestion(kind: &Kind, field: &str) -> Option<String> {
    let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
    let mut schema = &kind.schema;
    for part in parent.split('.').filter(|part| !part.is_empty()) {
        schema = schema.field(part.split('[').next()?)?;
        for _ in 0..part.matches('[').count() {
            schema = schema.items.as_deref()?;
        }
    }
    let distance = |other: &&String| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let near = schema.properties.keys().filter(|other| distance(other) <= 1 + name.len() / 4).min_by_key(distance)?;
    Some(format!("did you mean {near}?"))
}
