//! Developer commands that the Makefile and CI call: generated code, and the tools that tests and the demo use.

mod codegen;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Developer commands of Pointsman.
#[derive(Parser)]
#[command(name = "xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate Rust from `proto/` into the crates that use it.
    Codegen(codegen::Arguments),
    /// Fetch the tools that the tests and the demo run, or say where one lies.
    Tools(tools::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Tools(arguments) => tools::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line of causes, and never a backtrace: what fails here is the machine, not this program.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root, found from where this crate was compiled: the commands are run from a checkout.
fn repository() -> anyhow::Result<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().with_context(|| format!("the checkout that xtask was built in is gone: {}", root.display()))
}
