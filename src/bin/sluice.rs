//! The controller.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use sluice::{
    controller::Controller,
    core::Settings,
    lease::{Claim, Elector},
    metrics::{self, Providers},
    preflight,
    telemetry::{self, Telemetry, traces::Exporter},
    world::World,
};
use tokio::sync::watch;

/// Gives memory back that lists of large objects took for a moment; the C library's keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Progressive delivery for Kubernetes on the Gateway API.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller.
    Run(Run),
    /// Show what Sluice does: a rollout and an abort on an embedded cluster, with real HTTP traffic, in under a minute.
    #[cfg(feature = "sim")]
    Demo {
        /// Leave the cluster running until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Look whether the cluster is ready for what is planned.
    #[command(subcommand)]
    Preflight(Preflight),
    /// Print the CustomResourceDefinitions as YAML, or write one file for each.
    Crds(Crds),
}

#[derive(Args)]
struct Run {
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, env = "SLUICE_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Prometheus for metrics that name no address, such as http://prometheus.monitoring:9090.
    #[arg(long, env = "SLUICE_PROMETHEUS_ADDRESS")]
    prometheus_address: Option<String>,
    /// Addresses that metrics may name, separated by commas: hosts as they are written in URLs (prometheus.monitoring), patterns for
    /// them (*.monitoring.svc: any name that ends so) and networks in which all addresses of a host must lie (10.0.0.0/8, fd00::/8).
    /// The address above may always be asked, and so may the canary's own pods. Default: all but those that are always refused (the
    /// controller's own host, link-local and metadata services).
    #[arg(long, env = "SLUICE_ANALYSIS_ALLOWED_ADDRESSES", value_delimiter = ',')]
    analysis_allowed_addresses: Vec<metrics::Place>,
    #[command(flatten)]
    scope: Scope,
    /// Namespace that it runs in: of the lease by which one replica leads, and of the Secrets of ClusterAnalysisTemplates.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Name of that lease.
    #[arg(long, env = "SLUICE_LEASE_NAME", default_value = "sluice")]
    lease_name: String,
    /// Lead without a lease: for a single replica on a cluster that nobody else works on.
    #[arg(long)]
    no_lease: bool,
    /// Collector of traces, by OTLP over HTTP, such as http://collector.monitoring:4318. Default: none, no traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How logs are written. What is logged: RUST_LOG (default info).
    #[arg(long, env = "SLUICE_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Preflight {
    /// Fails while Rollouts exist: without the controller, nobody gives back what it has taken over.
    Uninstall(Scope),
}

#[derive(Args)]
struct Scope {
    /// Namespaces to work in, separated by commas. Default: all.
    #[arg(long, env = "SLUICE_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMES")]
    watch_namespaces: Vec<String>,
}

#[derive(Args)]
struct Crds {
    /// Directory for the files, which are named by plural; may be given several times.
    #[arg(long)]
    out: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

fn main() -> anyhow::Result<()> {
    // A page of 2 MiB for a few KiB, many times over, would be most of what the controller takes at rest. Where the kernel
    // cannot be told, it just takes more.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match Cli::parse().command {
        Command::Run(options) => run(options),
        #[cfg(feature = "sim")]
        Command::Demo { keep } => demo(keep),
        Command::Preflight(Preflight::Uninstall(scope)) => preflight_uninstall(&scope.watch_namespaces),
        Command::Crds(options) => crds(&options.out),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn preflight_uninstall(namespaces: &[String]) -> anyhow::Result<()> {
    install_tls();
    let refusal = preflight::uninstall(&connect(true).await?, namespaces).await.context("cannot see whether Rollouts exist")?;
    refusal.map_or(Ok(()), |refusal| Err(anyhow::Error::msg(refusal)))
}

/// `retry`: the client itself sends a request again that the API server was too busy for, or that a PodDisruptionBudget did not allow. The
/// controller must not: it would hold everything else of that Rollout up meanwhile, and it looks again by itself.
async fn connect(retry: bool) -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await.context("no cluster: neither a kubeconfig nor a service account was found")?;
    config.default_retry = retry;
    Client::try_from(config).context("the cluster's configuration cannot be used")
}

fn crds(directories: &[PathBuf]) -> anyhow::Result<()> {
    for crd in sluice::api::crds() {
        let yaml = serde_yaml_ng::to_string(&crd)?;
        if directories.is_empty() {
            println!("---\n{}", yaml.trim_end());
        }
        for directory in directories {
            let path = directory.join(format!("{}.yaml", crd.spec.names.plural));
            std::fs::write(&path, &yaml).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// One thread does all of it: it hardly ever has more to do, and what one thread takes another gives back late.
#[tokio::main(flavor = "current_thread")]
async fn run(options: Run) -> anyhow::Result<()> {
    log_to_stderr(options.log_format);
    install_tls();
    let client = connect(false).await?;
    let world = World::of(options.scope.watch_namespaces);
    let telemetry = options.otlp_endpoint.map_or_else(Telemetry::default, |endpoint| Telemetry::with_traces(Exporter::start(&endpoint)));
    let (stop, stopped) = watch::channel(false);

    let (claim, elector) = match options.no_lease {
        true => (Claim::always(), None),
        false => {
            let me = format!("{}_{:08x}", std::env::var("POD_NAME").unwrap_or_else(|_| "sluice".into()), std::process::id());
            let (elector, claim) = Elector::new(client.clone(), &options.namespace, &options.lease_name, &identity(me));
            (claim, Some(tokio::spawn(elector.run(stopped))))
        }
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    let server = axum::serve(listener, telemetry::router(telemetry.clone(), world.clone(), claim.clone()));
    let allow = metrics::Allow { only: options.analysis_allowed_addresses.into(), ..metrics::Allow::default() };
    let providers = metrics::Settings { prometheus_address: options.prometheus_address.clone(), allow, ..metrics::Settings::default() };
    let measure = Arc::new(Providers::new(providers).map_err(anyhow::Error::msg)?);
    let settings = Settings { prometheus_address: options.prometheus_address };
    let controller = Controller::new(client, world, claim, settings, measure, telemetry, Arc::new(jiff::Timestamp::now));
    let controller = controller.installed_in(&options.namespace);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %options.listen, "starts");
    tokio::select! {
        () = controller.run() => anyhow::bail!("the controller ended by itself"),
        ended = async { server.await } => ended.context("the HTTP server ended")?,
        signal = shutdown() => tracing::info!(signal, "stops"),
    }
    stop.send_replace(true);
    if let Some(elector) = elector {
        elector.await.context("the elector ended")?;
    }
    Ok(())
}

fn install_tls() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
}

#[cfg(feature = "sim")]
#[tokio::main]
async fn demo(keep: bool) -> anyhow::Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        log_to_stderr(LogFormat::Text);
    }
    install_tls();
    sluice::demo::run(keep).await
}

/// Unique for each process: a container that is restarted in the same pod is another candidate.
fn identity(name: String) -> String {
    let nanos = jiff::Timestamp::now().as_nanosecond().unsigned_abs() & 0xffff_ffff;
    format!("{name}_{nanos:08x}")
}

fn log_to_stderr(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.init(),
    }
}

async fn shutdown() -> &'static str {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => "SIGTERM",
        _ = tokio::signal::ctrl_c() => "SIGINT",
    }
}
