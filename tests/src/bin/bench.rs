//! `make bench`; see `pointsman_tests::bench`.

use anyhow::{Context, Result, bail};
use clap::Parser;
use pointsman_tests::bench::args::{Cli, Command, Plan};
use pointsman_tests::bench::picker::Servers;
use pointsman_tests::bench::{matrix, noop};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::NoopServer(args)) => noop::run(&args),
        None => measure(&cli.plan),
    }
}

fn measure(plan: &Plan) -> Result<()> {
    if cfg!(debug_assertions) {
        bail!("the no-op server is this binary, and not optimised: run it with --release");
    }
    let servers = Servers::prepare(plan.picker.as_deref())?;
    // One worker: the client has one core. The runtime is made only now, so that its threads stay there.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Unwinding from here ends the servers, too.
        tokio::select! {
            report = matrix::run(plan, &servers) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })?;
    print!("{}", report.table());
    if let Some(file) = &plan.json {
        let text = format!("{:#}\n", report.json());
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
