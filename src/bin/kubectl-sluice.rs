//! The kubectl plugin: `kubectl sluice`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
