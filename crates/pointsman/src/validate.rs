//! `pointsman validate`: every problem of a configuration file at once.

use std::process::ExitCode;

use pointsman_core::registry::Registry;

use crate::args::ValidateArgs;
use crate::config_file::{load, render_problems};

/// Checks the file; exit code 1 when anything is wrong with it.
pub(crate) fn run(args: &ValidateArgs, registry: &Registry) -> ExitCode {
    let name = args.file.display().to_string();
    match load(&args.file, registry) {
        Ok(config) => {
            let endpoints: usize = config.pools.iter().map(|pool| pool.endpoints.len()).sum();
            println!("{name}: good; {} pool(s), {endpoints} endpoint(s)", config.pools.len());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprint!("{}", render_problems(&name, &problems));
            eprintln!("{name}: {} problem(s)", problems.len());
            ExitCode::FAILURE
        }
    }
}
