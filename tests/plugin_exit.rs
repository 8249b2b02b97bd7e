//! Exit codes of the plugin's program itself: pipelines rely on them.

use std::process::{Command, Output};

fn plugin(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sluice"));
    command.args(args).env("KUBECONFIG", "/nonexistent/kubeconfig").env_remove("KUBERNETES_SERVICE_HOST");
    command.output().unwrap()
}

#[test]
fn help_and_versions_succeed_without_a_cluster() {
    for args in [&["--help"][..], &["--version"], &["status", "--help"], &["version", "--client"], &["completion", "bash"]] {
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
    for args in [&["list"][..], &["status", "api"], &["version"]] {
        let output = plugin(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(error.contains("/nonexistent/kubeconfig") && error.contains("--kubeconfig"), "{args:?}: {error}");
    }
}
