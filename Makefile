# Everything runs without Docker and without a registry. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Ctrl-C must reach what ends the cluster.
.ONESHELL:

NICE ?= nice
# Property tests try the same cases each time; another seed (and PROPTEST_CASES=n) tries others.
export PROPTEST_RNG_SEED ?= 1

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A rollout and an abort on the embedded cluster, in under a minute (KEEP=1 leaves it running)
	@cargo build --quiet --bin sluice --bin kubectl-sluice
	target/debug/sluice demo $(if $(KEEP),--keep)

.PHONY: sim
sim: ## Random runs: make sim SEEDS=n SEED_START=m tries so many; SEED=n replays one: what happened, when, by whom, with which weights
ifdef SEED
	@SLUICE_SEED=$(SEED) cargo test --quiet --test chaos -- --nocapture
else
	@SLUICE_SEEDS=$(or $(SEEDS),10000) SLUICE_SEED_START=$(or $(SEED_START),0) cargo test --quiet --profile sim --test chaos -- --nocapture
endif

.PHONY: test
test: ## Format, lints, and all tests that need no cluster
	@cargo fmt --all --check
	$(MAKE) lint
	cargo test --workspace

.PHONY: lint
lint: ## Clippy, warnings are errors
	@cargo clippy --workspace --all-targets -- -D warnings

.PHONY: bench
bench: ## The benchmarks: how long one plan takes, and one look of the judge
	@cargo bench --bench plan --bench judge

.PHONY: judge-study
judge-study: ## How often the judge aborts good versions and how soon it finds bad ones (RUNS=10000 SEED=1)
	@cargo bench --quiet --bench judge_study

.PHONY: crds
crds: ## Generate crds/ and the chart's copy from src/api
	@cargo run --quiet --bin sluice -- crds --out crds --out charts/sluice/files/crds

.PHONY: docs
docs: ## Generate docs/api.md from src/api
	@UPDATE=1 cargo test --quiet --test api_reference

.PHONY: deny
deny: ## Licences, bans and sources of all crates (needs cargo-deny: `cargo install cargo-deny --locked`)
	@cargo deny check licenses bans sources

.PHONY: licences
licences: ## The crates that the programs are built from, with their licences
	@cargo tree --locked --edges normal,build --prefix none --format '{l}: {p}' | sed -E '/\(\/.*\)/d; s/ \((proc-macro|\*)\)//' | sort -u

.PHONY: chart
chart: ## Lint the chart and hold its renderings against golden files (builds Helm once; UPDATE=1 takes them over)
	@charts/check

.PHONY: install-manifest
install-manifest: ## Write target/install.yaml: all that the chart installs, for kubectl (SET="--set a=b")
	@mkdir -p target
	charts/manifest $(SET) > target/install.yaml
	echo "wrote target/install.yaml: kubectl apply --server-side -f target/install.yaml"

.PHONY: parts
parts: ## Build the parts of the end-to-end cluster, once (about 20 minutes; as root: it installs Debian packages)
	@$(NICE) e2e/parts/build

.PHONY: images
images: ## Make the images of the end-to-end scenarios, without Docker
	@e2e/images/build

.PHONY: cluster-up
cluster-up: parts ## Start the end-to-end cluster and leave it running (as root)
	@e2e/cluster/up

.PHONY: cluster-down
cluster-down: ## End it and leave the machine as it was
	@e2e/cluster/down

.PHONY: e2e
e2e: ## The scenarios on a real cluster (E2E_KUBECONFIG=FILE: on that one); SCENARIOS="a b" runs only these
	@e2e/run $(SCENARIOS)

.PHONY: conformance
conformance: ## The simulated API server against a real one (as root): SEQUENCES=n (2000), SEED=m the first one's
	@SLUICE_CONFORMANCE_SEQUENCES=$(or $(SEQUENCES),2000) SLUICE_CONFORMANCE_SEED=$(or $(SEED),0) e2e/run --conformance

.PHONY: bench-cluster
bench-cluster: ## What the controller costs on the end-to-end cluster: memory, requests, times (as root; about 10 minutes, and a release build)
	@SLUICE_E2E_PROFILE=release e2e/run --bench
