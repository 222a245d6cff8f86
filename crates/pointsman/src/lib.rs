//! Pointsman as a library: [`run`] is the whole program, given the plugins that its configuration may name.
//!
//! ```no_run
//! # use pointsman_core::registry::Registry;
//! fn main() -> std::process::ExitCode {
//!     pointsman::run(Registry::default())
//! }
//! ```

pub mod args;
mod bootstrap;
pub mod config_file;
mod crds;
mod demo;
mod gateway;
pub mod kubectl;
mod roles;
pub mod serve;
mod signals;
mod sim_server;
mod validate;

use std::process::ExitCode;

use pointsman_core::registry::Registry;

use args::Command;

/// Runs the command line's command with these plugins; its exit code is the process's.
pub fn run(registry: Registry) -> ExitCode {
    let result = match kubectl::parse_command_line().command {
        Command::Serve(args) => serve::run(args, registry),
        Command::Gateway(args) => gateway::run(args, registry),
        Command::Crds(args) => crds::run(&args, &registry),
        Command::Roles(args) => roles::run(&args),
        Command::Validate(args) => return validate::run(&args, &registry),
        Command::EnvoyBootstrap(args) => bootstrap::run(&args, &registry),
        Command::SimServer(args) => sim_server::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Kubectl(command) => return kubectl::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: {error:#}");
            ExitCode::FAILURE
        }
    }
}
