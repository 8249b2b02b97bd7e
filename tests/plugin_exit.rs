//! Exit codes of the plugin's program itself: pipelines rely on them.

use std::process::{Command, Output};

fn plugin(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sluice"));
    command.args(args).env("KUBECONFIG", "/nonexistent/kubeconfig").env_remove("KUBERNETES_SERVICE_HOST");
    command.output().unwrap()
}

#[test]
fn help_and_versions_succeed_without_a_cluster() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["status", "--help"],
        &["version", "--client"],
        &["completion", "bash"],
        &["lint", "--help"],
        &["simulate", "--help"],
        &["judge", "--help"],
        &["set", "image", "--help"],
    ] {
        let output = plugin(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_command_line_is_an_error_and_not_an_aborted_rollout() {
    for args in [&["status"][..], &["status", "api", "--timeout", "soon"], &["get", "deploy/api"], &["fly"], &[]] {
        let output = plugin(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_kubeconfig_it_says_what_to_do() {
    for args in [&["list"][..], &["status", "api"], &["version"], &["undo", "api"], &["init", "api"], &["lint", "--online", "-f", "-"]] {
        let output = plugin(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(error.contains("/nonexistent/kubeconfig") && error.contains("--kubeconfig"), "{args:?}: {error}");
    }
}

#[test]
fn lint_needs_no_cluster_and_fails_where_there_are_problems() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let output = plugin(&["lint", "-f", example]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let broken = std::env::temp_dir().join(format!("sluice-exit-{}.yaml", std::process::id()));
    std::fs::write(&broken, "apiVersion: sluice.dev/v1alpha1\nkind: Rollout\nmetadata: {name: api}\nspec: {}\n").unwrap();
    let output = plugin(&["lint", "-o", "json", "-f", broken.to_str().unwrap()]);
    std::fs::remove_file(&broken).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report["problems"].as_u64().unwrap() > 0), (Some(1), true), "{report:#}");
}

#[test]
fn simulate_and_judge_need_no_cluster_and_judge_tells_a_canary_that_is_taken_back() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/rollout.yaml");
    let output = plugin(&["simulate", "-f", example, "--runs", "1", "--pods", "2", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["runs"], output.stderr.is_empty()), (Some(0), &1.into(), true), "{report:#}");
    let counts = std::env::temp_dir().join(format!("sluice-exit-{}.csv", std::process::id()));
    for (failures, code) in [(1, 0), (9, 2)] {
        let rows = (0..20).map(|at| format!("{},{},{},{},{}\n", at * 30, at * 100, at * failures, at * 900, at * 9));
        let text = rows.collect::<String>();
        std::fs::write(&counts, format!("time,canary_requests,canary_failures,stable_requests,stable_failures\n{text}")).unwrap();
        let output = plugin(&["judge", "--file", counts.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    }
    std::fs::remove_file(&counts).unwrap();
    assert_eq!(plugin(&["judge", "--file", counts.to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn what_needs_a_decision_is_not_done_where_nobody_can_be_asked() {
    for args in [
        &["release"][..],
        &["release", "api", "--all"],
        &["release", "-A"],
        &["set", "image", "api"],
        &["set", "image", "api", "app"],
        &["lint"],
    ] {
        let output = plugin(args);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{args:?}");
    }
}
