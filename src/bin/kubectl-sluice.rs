//! The kubectl plugin: `kubectl sluice`.
#![forbid(unsafe_code)]

/// `simulate` makes and drops objects by the million.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
