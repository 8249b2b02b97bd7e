use super::*;
use crate::cli::fixtures;

/// The report on manifests, for people.
fn report(manifests: &[(&str, &str)]) -> (Report, String) {
    let mut report = Report::default();
    let now = fixtures::now();
    let documents: Vec<_> = manifests.iter().flat_map(|(name, text)| files::split(name, text, &mut report)).collect();
    let mut set = offline::Set::new(documents, "default", now, &mut report);
    set.check(None, now, &mut report);
    set.check_templates(false, &mut report);
    let text = report.lines(&fixtures::plain()).join("\n");
    (report, text)
}

const ROLLOUT: &str = include_str!("../../../examples/rollout.yaml");
const APP: &str = include_str!("../../../examples/app.yaml");
const TEMPLATE: &str = include_str!("../../../examples/analysis-template.yaml");

#[test]
fn the_examples_have_no_problems() {
    let (report, text) = report(&[("rollout.yaml", ROLLOUT), ("app.yaml", APP), ("analysis-template.yaml", TEMPLATE)]);
    assert_eq!(
        text,
        "✔ 2 documents of sluice.dev checked, no problems; 3 documents of other kinds not checked (1 Deployment, 1 HTTPRoute, 1 Service)"
    );
    assert_eq!((report.problems(), report.checked), (0, 2));
}

/// Each of them would be refused by the API server, or by the controller.
const FAULTY: &str = r#"
# a comment
apiVersion: sluice.dev/v1alpha1
kind: Rollout
metadata: {name: fields}
spec:
  workloadRef: {kind: Deployment, name: api}
  traffic:
    service: api
    routs: [{kind: HTTPRoute, name: api}]
  strategy:
    canary:
      steps:
      - setWieght: 5
      - setWeight: 500
      - pause: {duration: 1 minute}
---
apiVersion: sluice.dev/v1alpha1
kind: Rollout
metadata: {name: rules}
spec:
  workloadRef: {kind: Deployment, name: api}
  template: {}
  traffic: {service: api, routes: [{kind: HTTPRoute, name: api}]}
  strategy:
    canary:
      steps:
      - {setWeight: 5, pause: {duration: 1m}}
      analysis:
        metrics:
        - {name: a, preset: contour/success-rate}
---
apiVersion: sluice.dev/v1alpha1
kind: Rollout
metadata: {name: metrics}
spec:
  workloadRef: {kind: Deployment, name: api}
  traffic: {service: api, routes: [{kind: HTTPRoute, name: api}]}
  strategy:
    canary:
      steps:
      - setWeight: 5
      - analysis: {metrics: [{name: a, prometheus: {query: "sum(up{job=\"{{args.job}}\"})"}, successCondition: "result >"}]}
      analysis:
        templates: [{name: web}]
        metrics:
        - {name: b, preset: contour/latency, scrape: {}, max: 100}
---
apiVersion: sluice.dev/v1alpha1
kind: AnalysisTemplate
metadata: {name: web}
spec:
  args: [{name: handler}]
  metrics:
  - {name: latency, preset: pods/latency, parameters: {quantil: "0.9"}, max: 500}
  - {name: errors, prometheus: {query: "sum(errors{handler=\"{{args.handlr}}\"})"}, max: 1}
---
apiVersion: sluice.dev/v1alpha1
kind: Rolout
metadata: {name: api}
---
kind: Rollout
metadata: {name: nothing}
---
a: [
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: another}
"#;

#[test]
fn every_problem_is_told_with_file_field_and_mend() {
    let (report, text) = report(&[("faulty.yaml", FAULTY)]);
    insta::assert_snapshot!("lint_faulty", text);
    insta::assert_json_snapshot!("lint_faulty_json", report.summary());
}

#[test]
fn a_service_that_does_not_fit_the_deployment_in_the_same_files_is_told() {
    let app = APP.replace("selector: {app: api}", "selector: {app: web}");
    let (_, text) = report(&[("rollout.yaml", ROLLOUT), ("app.yaml", &app)]);
    assert!(
        text.contains("✖ spec.traffic.service: Service api selects app=web, but the pod template has no such label: mend one of the two"),
        "{text}"
    );
    let twice = format!("{ROLLOUT}---\n{}", ROLLOUT.replacen("name: api", "name: api-2", 1));
    let (_, text) = report(&[("rollout.yaml", &twice)]);
    assert!(text.contains("✖ spec.workloadRef: Deployment api belongs to Rollout api already"), "{text}");
}

#[test]
fn a_span_of_time_that_the_controller_cannot_read_is_refused_before_it_comes_to_it() {
    let (_, text) = report(&[("rollout.yaml", &ROLLOUT.replacen("duration: 1m", "duration: 9000h", 1))]);
    assert!(text.contains("pause.duration: \"9000h\": a span of time is at most 366 days (8784h): write a shorter one"), "{text}");
}

#[test]
fn a_template_that_is_not_there_is_no_problem_offline_and_one_that_is_is_checked() {
    let using = ROLLOUT.replace(
        "analysis:\n        metrics:\n        - {name: success-rate, preset: contour/success-rate, min: 99}",
        "analysis:\n        templates: [{name: web}]\n        args: [{name: hander, value: /}]",
    );
    assert_ne!(using, ROLLOUT);
    let (found, text) = report(&[("rollout.yaml", &using)]);
    assert!(found.problems() == 0 && text.contains("AnalysisTemplate \"web\" is not among these documents"), "{text}");
    let (_, text) = report(&[("rollout.yaml", &using), ("web.yaml", TEMPLATE)]);
    assert!(text.contains("argument \"hander\" is declared by none of the templates"), "{text}");
}

#[test]
fn files_directories_lists_and_standard_input_are_read() {
    let directory = std::env::temp_dir().join(format!("sluice-lint-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("deep")).unwrap();
    std::fs::write(directory.join("deep/rollout.yaml"), format!("# comment\n---\n{ROLLOUT}")).unwrap();
    std::fs::write(
        directory.join("list.json"),
        r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}]}"#,
    )
    .unwrap();
    std::fs::write(directory.join("README.md"), "no manifest").unwrap();
    let mut report = Report::default();
    let documents = files::read(&[directory.clone(), "-".into()], &mut TEMPLATE.as_bytes(), &mut report).unwrap();
    let file = |document: &files::Document| document.file.trim_start_matches(directory.to_str().unwrap()).to_owned();
    let places: Vec<String> = documents.iter().map(|document| format!("{}:{}", file(document), document.line)).collect();
    assert_eq!(places, ["/deep/rollout.yaml:3", "/list.json:1", "standard input:8"]);
    assert_eq!(documents[1].object["kind"], "Secret");
    std::fs::remove_dir_all(&directory).unwrap();
    let error = files::read(&[directory], &mut std::io::empty(), &mut report).unwrap_err().to_string();
    assert!(error.starts_with("cannot read "), "{error}");
}
