use std::sync::{Arc, Mutex};

use axum::{Router, response::IntoResponse};
use clap::Parser as _;
use serde_json::Value;

use super::{verdict::Finding, *};
use crate::cli::fixtures;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parsed(words: &str) -> Result<Args, String> {
    let line = ["judge"].into_iter().chain(words.split_whitespace());
    Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
}

async fn report(words: &str, text: &str) -> Result<Report, String> {
    let args = parsed(words)?;
    judge(&args, "shop", &mut text.as_bytes(), fixtures::now()).await.map_err(|error| error.to_string())
}

/// What is said of a file, and the exit code.
async fn said(words: &str, text: &str) -> (String, Exit) {
    let report = report(&format!("--file - {words}"), text).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut printed = Out { out: &mut out, err: &mut err, style: fixtures::plain(), columns: None };
    let exit = tell(&report, &parsed(&format!("--file - {words}")).unwrap(), &mut printed).unwrap();
    (String::from_utf8(out).unwrap(), exit)
}

const HEAD: &str = "time,canary_requests,canary_failures,stable_requests,stable_failures\n";

/// Rows 10 s apart, each of which says what was counted in them: so many failures of 100 requests of the canary, 9 of 900 of stable.
fn rows(failures: &[u64]) -> String {
    let row = |(at, failures): (usize, &u64)| format!("2026-03-01T12:{:02}:{:02}Z,100,{failures},900,9\n", (at + 1) / 6, (at + 1) % 6 * 10);
    HEAD.to_owned() + &failures.iter().enumerate().map(row).collect::<String>()
}

/// The same as counters, which only grow.
fn counters(failures: &[u64]) -> String {
    let row = |at: usize| {
        let failed: u64 = failures[..at].iter().sum();
        format!("2026-03-01T12:{:02}:{:02}Z,{},{failed},{},{}\n", at / 6, at % 6 * 10, at * 100, at * 900, at * 9)
    };
    HEAD.to_owned() + &(0..=failures.len()).map(row).collect::<String>()
}

/// As a whole rollout says it in tests/rollouts/compare.rs.
const FOUR_TIMES: &str =
    "canary fails 4 times as often as stable (20 of 500 against 45 of 4,500); the odds against that being chance passed 1 in 20 after 50 s";

#[tokio::test]
async fn a_worse_canary_is_taken_back_in_the_words_of_a_rollout() {
    let (text, exit) = said("--rule-window 20s --rule-failures 3", &counters(&[4; 30])).await;
    assert!(text.contains(FOUR_TIMES), "{text}");
    assert_eq!(exit, Exit::Failed);
    insta::assert_snapshot!("judge_worse", text);
}

#[tokio::test]
async fn a_good_canary_stays_and_may_be_proven() {
    let (text, exit) = said("", &counters(&[1; 90])).await;
    assert_eq!(exit, Exit::Ok);
    insta::assert_snapshot!("judge_good", text);
    let proven = report("--file - --prove 3", &counters(&[1; 90])).await.unwrap();
    assert_eq!(proven.finding, Finding::NoWorse);
    assert!(proven.at < fixtures::at("12:14:00") && proven.message.contains("odds against it being 3 times or more"), "{proven:?}");
    let unproven = report("--file - --prove 3", &counters(&[1; 5])).await.unwrap();
    assert_eq!(unproven.finding, Finding::NoEvidence);
}

#[tokio::test]
async fn every_form_of_the_same_counts_says_the_same() {
    let of = |words: &'static str, text: String| async move { report(&format!("--file - {words}"), &text).await.unwrap().intervals };
    let expected = of("", counters(&[4, 0, 7, 4, 4, 4])).await;
    assert_eq!(expected.len(), 6);
    assert_eq!(of("--per-row", rows(&[4, 0, 7, 4, 4, 4])).await, expected);
    let csv = counters(&[4, 0, 7, 4, 4, 4]);
    assert_eq!(of("", csv.replace(',', ";")).await, expected);
    assert_eq!(of("", csv.replace("12:", "\"12:").replace("Z,", "Z\",").replace("2026-03-01T\"", "\"2026-03-01T")).await, expected);
    let names: Vec<&str> = HEAD.trim().split(',').collect();
    let objects = csv.lines().skip(1).map(|line| {
        let mut object: Value = names.iter().copied().zip(line.split(',')).map(|(name, cell)| (name.to_owned(), json!(cell))).collect();
        let number = |name: &str| object[name].as_str().unwrap().parse::<u64>().unwrap();
        let (requests, failures) = (number("canary_requests"), number("canary_failures"));
        object["canary_successes"] = json!(requests - failures);
        object.as_object_mut().unwrap().remove("canary_failures");
        object["time"] = json!(object["time"].as_str().unwrap().parse::<Timestamp>().unwrap().as_second());
        object
    });
    let objects: Vec<Value> = objects.collect();
    assert_eq!(of("", json!(objects).to_string()).await, expected);
    assert_eq!(of("", objects.iter().map(|object| format!("{object}\n")).collect()).await, expected);
}

#[tokio::test]
async fn all_of_it_is_an_object_and_the_evidence_a_picture() {
    let (text, _) = said("-o json", &counters(&[4; 5])).await;
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&object["finding"], &object["message"], &object["at"]),
        (&json!("Worse"), &json!(FOUR_TIMES), &json!("2026-03-01T12:00:50Z"))
    );
    assert_eq!(object["intervals"][0]["canary"], json!({"requests": 100, "failures": 4}));
    assert!(object["intervals"][4]["odds"].as_f64().unwrap() >= 20.0 && object["intervals"][3]["odds"].as_f64().unwrap() < 20.0);
    assert!(said("-o yaml", &counters(&[4; 5])).await.0.starts_with("finding: Worse\n"));
    insta::assert_snapshot!("judge_svg", said("-o svg", &counters(&[4; 5])).await.0);
}

#[tokio::test]
async fn a_ceiling_takes_back_what_is_no_worse_than_stable() {
    let both: String = counters(&[8; 10]).replace("_failures", "_successes");
    let report = report("--file - --ceiling 20%", &both).await.unwrap();
    assert_eq!(report.finding, Finding::AboveCeiling);
    assert!(report.message.starts_with("92 % is above the maximum of 20 %"), "{}", report.message);
}

#[tokio::test]
async fn without_enough_to_compare_it_says_so() {
    let few = counters(&[0, 0]).replace(",100,", ",10,").replace(",200,", ",20,");
    let report_of_few = report("--file -", &few).await.unwrap();
    assert_eq!(report_of_few.finding, Finding::NoData);
    assert!(report_of_few.message.contains("only 20 requests of the canary were compared, at least 100 are needed"), "{report_of_few:?}");
    let absent = HEAD.to_owned() + "1772366400,,,0,0\n1772366430,,,900,9\n";
    let report = report("--file -", &absent).await.unwrap();
    assert_eq!(report.finding, Finding::NoData);
    assert!(report.message.contains("the canary had no counters"), "{report:?}");
}

#[tokio::test]
async fn counters_that_run_backwards_have_begun_anew_or_are_none() {
    let mut restarted = counters(&[4; 12]);
    // The canary's pod is another one from 12:01:20 on.
    for (at, line) in restarted.clone().lines().skip(1).enumerate().filter(|(at, _)| *at >= 8) {
        let cells: Vec<&str> = line.split(',').collect();
        let anew = format!("{},{},{},{},{}", cells[0], (at - 7) * 100, (at - 7) * 4, cells[3], cells[4]);
        restarted = restarted.replace(line, &anew);
    }
    let report_of_restarted = report("--file -", &restarted).await.unwrap();
    assert_eq!(report_of_restarted.notes, ["counters run backwards at line 10: they are taken to have begun anew at 0 (a restart)"]);
    assert!(report_of_restarted.intervals.iter().all(|step| step.canary.as_ref().unwrap().requests == 100));
    let error = report("--file -", &rows(&[4, 3, 4, 0, 4, 2, 4, 1])).await.unwrap_err();
    assert!(error.contains("counters run backwards in 4 of 8 rows (line 3, line 5, line 7, line 9): if each row says"), "{error}");
}

#[tokio::test]
async fn what_cannot_have_been_counted_is_refused_with_its_place() {
    let (first, second) = ("1772366400,0,0,0,0\n", "1772366430,100,4,900,9\n");
    for (text, told) in [
        (String::new(), "it is empty: the first line names the columns: time, canary_requests"),
        (first.to_owned() + second, "there is no column time"),
        (HEAD.replace("stable_failures", "x") + first, "there is neither stable_failures nor stable_successes"),
        (HEAD.replace("time", "canary_successes,time") + first, "there are canary_failures and canary_successes: leave one of them out"),
        (HEAD.to_owned() + first, "1 row, but a comparison needs two at least"),
        (HEAD.to_owned() + first + first, "line 3: 2026-03-01T12:00:00Z is not after 2026-03-01T12:00:00Z"),
        (HEAD.to_owned() + first + "1772366430,many,4,900,9\n", "line 3, canary_requests: \"many\" is no number of requests"),
        (HEAD.to_owned() + first + "1772366430,100,0.5,900,9\n", "line 3, canary_failures: \"0.5\" is no number of requests"),
        (HEAD.to_owned() + first + "1772366430,100,-4,900,9\n", "line 3, canary_failures: \"-4\" is no number of requests"),
        (HEAD.to_owned() + first + "1772366430,100,NaN,900,9\n", "line 3, canary_failures: \"NaN\" is no number of requests"),
        (HEAD.to_owned() + first + "1772366430,1e30,4,900,9\n", "line 3: 1000000000000000000000000000000 is no number of requests"),
        (HEAD.to_owned() + first + "1772366430,100,400,900,9\n", "line 3: canary has 400 failures of 100 requests"),
        (HEAD.to_owned() + first + "1772366430,100,4,900\n", "line 3 has 4 cells, but there are 5 columns"),
        (HEAD.to_owned() + first + "noon,100,4,900,9\n", "line 3, time: \"noon\" is no time: write 2026-01-31T12:00:00Z"),
        (HEAD.to_owned() + first + "1e99,100,4,900,9\n", "line 3, time: \"1e99\" is no time"),
        ("[1, 2]".to_owned(), "it is no list of objects"),
        ("{\"time\": 1".to_owned(), "it is no object on each line"),
        ("[{\"time\": 1}]".to_owned(), "there is no column canary_requests"),
        ("<html>".to_owned(), "there is no column time"),
    ] {
        let error = report("--file -", &text).await.unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
    }
}

#[test]
fn files_are_read_up_to_a_bound() {
    let error = file::text("endless", &mut std::io::repeat(b'1')).unwrap_err().to_string();
    assert_eq!(error, "endless is larger than 32 MiB: record fewer rows, one for each minute say");
    let many = HEAD.to_owned() + &"1,0,0,0,0\n".repeat(100_001);
    let what =
        analysis::source(&spec(&parsed("--file -").unwrap()).unwrap(), &spec(&parsed("--file -").unwrap()).unwrap().metrics[0], true);
    let error = file::recorded("many", &many, false, &what.unwrap().what).unwrap_err().to_string();
    assert_eq!(error, "many: 100001 rows are more than 100000: record fewer, one for each minute say");
    let error = file::text("binary", &mut [0xff, 0xfe].as_slice()).unwrap_err().to_string();
    assert_eq!(error, "binary is no text in UTF-8: it must be CSV or JSON");
}

#[tokio::test]
async fn parameters_without_a_meaning_are_refused() {
    let asked = "--prometheus http://127.0.0.1:1 --from 2h";
    for (words, told) in [
        ("", "required"),
        ("--file a --prometheus http://b --from 1h", "cannot be used with"),
        ("--file a --dumps b", "cannot be used with"),
        ("--file a --preset contour/success-rate", "cannot be used with"),
        ("--prometheus http://b", "--from"),
        ("--per-row", "--file"),
        ("--file - --tolerate 0.5", "0.5 is not a number from 1 to 1000"),
        ("--file - --tolerate NaN", "NaN is not a number from 1 to 1000"),
        ("--file - --max-false-aborts 0", "0 is not a share above 0 and below 1"),
        ("--file - --max-false-aborts 1", "1 is not a share above 0 and below 1"),
        ("--file - --max-false-aborts 2", "is not a share from 0 to 1"),
        ("--file - --prove 0.5", "is not a number from 1 to 1000"),
        ("--file - --method Wald", "[possible values: SharedBetting, IndependentFailures]"),
        ("--file - --rule-window 0s", "a window has some length"),
        ("--file - --rule-failures 0", "0 is not in 1..=1000"),
        ("--file /nonexistent/counts.csv", "cannot read /nonexistent/counts.csv"),
        (&format!("{asked} --to 3h --preset contour/success-rate --service api"), "there is no whole interval of 30s"),
        ("--prometheus http://127.0.0.1:1 --from x", "is no moment: write 2026-01-31T12:00:00Z, or 2h for two hours ago"),
        (asked, "say what is counted: --preset, or --failures and --requests"),
        (&format!("{asked} --preset contour/success-rate"), "the versions are told by their Services: give --service"),
        (
            &format!("{asked} --preset pods/latency --canary a"),
            "the versions are told by the hashes of their pods: give --canary and --stable",
        ),
        (&format!("{asked} --preset contour/latency --service api --ceiling 5%"), "--ceiling is a share of failures"),
        (
            &format!("{asked} --preset nginx --service api"),
            "[possible values: contour/success-rate, contour/latency, istio/success-rate, istio/latency, linkerd/success-rate, linkerd/latency, traefik/success-rate, traefik/latency, pods/success-rate, pods/latency]",
        ),
        (&format!("{asked} --failures a --requests b"), "--failures, --requests: compare counts stable by the same selectors"),
        (
            &format!(
                "{asked} --failures rate(a{{p=~\"{{{{canary.hash}}}}\"}}[1m]) --requests b{{p=~\"{{{{canary.hash}}}}\"}} --canary a --stable b"
            ),
            "--failures, --requests: expected",
        ),
        (
            "--prometheus http://127.0.0.1:1 --from 8000h --interval 1s --preset contour/success-rate --service api",
            "more than 5000: give a longer --interval",
        ),
    ] {
        let error = report(words, "").await.unwrap_err();
        assert!(error.contains(told), "{words}: {error}");
    }
}

/// A Prometheus whose counters grow by so much each second.
async fn server(of: fn(&str) -> f64) -> (String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let answer = move |body: String| async move {
        seen.lock().unwrap().push(body.clone());
        let end = fixtures::now().as_second();
        let samples = (0..=120).map(|at| json!([end - 600 + at * 5, (at as f64 * 5.0 * of(&body)).floor().to_string()]));
        let series = json!({"metric": {"job": "api", "instance": "a"}, "values": samples.collect::<Vec<_>>()});
        axum::Json(json!({"status": "success", "data": {"resultType": "matrix", "result": [series]}})).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (address, asked)
}

#[tokio::test]
async fn prometheus_is_asked_once_for_each_counter_and_judged_look_by_look() {
    let (address, asked) = server(|query| match (query.contains("failed"), query.contains("canary-hash")) {
        (true, true) => 0.5,
        (true, false) => 0.5,
        (false, true) => 10.0,
        (false, false) => 90.0,
    })
    .await;
    let selectors = "--failures failed{pod=~\".+-{{canary.hash}}-.+\"} --requests all{pod=~\".+-{{canary.hash}}-.+\"}";
    let words = format!("--prometheus {address} --from 10m --interval 10s {selectors} --canary canary-hash --stable stable-hash");
    let report = report(&words, "").await.unwrap();
    assert_eq!((report.finding, report.recorded), (Finding::Worse, 60));
    let seen = |seen: &Option<verdict::Seen>| seen.as_ref().map(|seen| (seen.requests, seen.failures));
    assert_eq!((seen(&report.intervals[1].canary), seen(&report.intervals[1].stable)), (Some((100, Some(5))), Some((900, Some(5)))));
    assert_eq!(report.intervals[0].since, fixtures::at("11:53:00"));
    assert_eq!(asked.lock().unwrap().len(), 4);
    assert!(report.notes[0].starts_with("asked: all{pod=~\".+-canary-hash-.+\"}[12m"), "{:?}", report.notes);
}

#[tokio::test]
async fn a_prometheus_that_is_not_there_is_told() {
    let error = report("--prometheus http://127.0.0.1:1 --from 10m --preset contour/success-rate --service api", "").await.unwrap_err();
    assert!(error.contains("asked was: envoy_cluster_upstream_rq_xx{envoy_cluster_name=~\"shop_api-canary_"), "{error}");
}

/// A directory with these files, which is removed when this is dropped.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str, files: impl IntoIterator<Item = (String, String)>) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        files.into_iter().for_each(|(file, text)| std::fs::write(path.join(file), text).unwrap());
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// What Envoy exposes of both versions at the n-th look.
fn envoy(n: u64) -> String {
    let series = |service: &str, class: u64, count: u64| {
        format!("envoy_cluster_upstream_rq_xx{{envoy_response_code_class=\"{class}\",envoy_cluster_name=\"shop_{service}_80\"}} {count}\n")
    };
    ["# TYPE envoy_cluster_upstream_rq_xx counter\n".to_owned(), series("api", 2, 891 * n), series("api", 5, 9 * n)].concat()
        + &series("api-canary", 2, 96 * n)
        + &series("api-canary", 5, 4 * n)
}

#[tokio::test]
async fn texts_as_they_were_exposed_are_judged_too() {
    let file = |n: u64| (format!("2026-03-01T12:{:02}:{:02}Z.txt", n / 6, n % 6 * 10), envoy(n));
    let directory = Directory::new("dumps", (0..12).map(file));
    let of_preset = format!("--dumps {} --preset contour/success-rate --service api", directory.0.display());
    assert_eq!(report(&of_preset, "").await.unwrap().message, FOUR_TIMES);
    let selector = "envoy_cluster_upstream_rq_xx{envoy_cluster_name=\"shop_{{canary.service}}_80\"";
    let own = format!(
        "--dumps {} --failures {selector},envoy_response_code_class=\"5\"}} --requests {selector}}} --service api",
        directory.0.display()
    );
    assert_eq!(report(&own, "").await.unwrap().message, FOUR_TIMES);
    let pods = format!("--dumps {} --preset pods/success-rate --canary a --stable b", directory.0.display());
    assert!(report(&pods, "").await.unwrap_err().contains("nobody can tell whose pod they are"));
}

#[tokio::test]
async fn of_several_processes_each_counts_by_itself() {
    // The second Envoy begins anew in the middle, and a third one comes.
    let file = |n: u64, process: &str, counted: u64| (format!("{}_{process}.txt", 1_772_366_400 + n * 10), envoy(counted));
    let two = (0..12).flat_map(|n| [file(n, "a", n), file(n, "b", if n < 6 { n } else { n - 5 })]);
    let directory = Directory::new("processes", two.chain([file(9, "c", 1000)]));
    let words = format!("--dumps {} --preset contour/success-rate --service api --max-false-aborts 0.0000001", directory.0.display());
    let intervals = report(&words, "").await.unwrap().intervals;
    assert!(intervals.iter().all(|step| step.canary.as_ref().unwrap().requests == 200), "{intervals:#?}");
}

#[tokio::test]
async fn texts_that_say_nothing_are_refused() {
    for (name, files, told) in [
        ("one", vec![("1772366400.txt", envoy(1))], "it holds texts of 1 moments, but a comparison needs two at least"),
        ("named", vec![("first.txt", envoy(1))], "first.txt: a file is named by its moment"),
        ("text", vec![("1772366400.txt", "a b c".to_owned())], "1772366400.txt: line 1: "),
    ] {
        let directory = Directory::new(name, files.into_iter().map(|(file, text)| (file.to_owned(), text)));
        let error =
            report(&format!("--dumps {} --preset contour/success-rate --service api", directory.0.display()), "").await.unwrap_err();
        assert!(error.contains(told), "{error}");
    }
    let error = report("--dumps /nonexistent --preset contour/success-rate --service api", "").await.unwrap_err();
    assert!(error.starts_with("/nonexistent: cannot be read: "), "{error}");
}

#[test]
fn presets_and_methods_are_those_of_a_metric() {
    for preset in crate::core::presets::TELLING {
        assert_eq!(json!(preset), crate::core::presets::name(preset));
    }
    for name in METHODS {
        let method: crate::api::analysis::Method = serde_json::from_value(json!(name)).unwrap();
        assert_eq!(json!(method), name);
    }
}
