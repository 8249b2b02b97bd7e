//! The controller.

use clap::{Parser, Subcommand};

/// Progressive delivery for Kubernetes on the Gateway API.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crds => {
            for crd in sluice::api::crds() {
                println!("---\n{}", serde_yaml_ng::to_string(&crd)?);
            }
        }
    }
    Ok(())
}
