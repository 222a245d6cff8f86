//! What a cluster costs: how soon requests follow a change, what pods that change all the time take of the picker, and how
//! soon an Envoy Gateway with many rules has them in Envoy; and what the chart's default installation takes. Part of
//! `make bench`; see `pointsman_tests::follow`, `churn`, `rules` and `footprint`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use pointsman_tests::churn::{ChurnPlan, churn};
use pointsman_tests::control_plane::ControlPlane;
use pointsman_tests::follow::{follow, report};
use pointsman_tests::footprint::{self, FootprintPlan};
use pointsman_tests::rules::{self, RulesPlan};
use tokio::signal::unix::{SignalKind, signal};

/// Measures what a cluster costs the picker, with a real API server.
#[derive(Debug, Parser)]
#[command(name = "cluster-bench", max_term_width = 100)]
struct Cli {
    /// Only one of the four.
    #[arg(long)]
    only: Option<Part>,
    /// Changes whose following is timed.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Pools of the churn.
    #[arg(long, default_value_t = 20)]
    pools: usize,
    /// Pods of all of them together.
    #[arg(long, default_value_t = 5000)]
    pods: usize,
    /// Changes of pods a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Seconds of churn.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of each of the times that the churn is compared with.
    #[arg(long, default_value_t = 30)]
    comparison: u64,
    /// Rules of the Gateway, over a tenth as many pools.
    #[arg(long, default_value_t = 300)]
    rules: usize,
    /// Endpoints of the default installation.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=200))]
    endpoints: u8,
    /// Requests a second that it gets.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Follow,
    Churn,
    Rules,
    Footprint,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cfg!(debug_assertions) {
        bail!("what it measures would not be optimised: run it with --release");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Unwinding from here ends the processes that were started, too.
        tokio::select! {
            measured = measure(&cli) => measured,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })
}

async fn measure(cli: &Cli) -> Result<()> {
    let began = Instant::now();
    let progress = |what: &str| eprintln!("{:>4} s: {what}", began.elapsed().as_secs());
    let wants = |part| cli.only.is_none_or(|only| only == part);
    if wants(Part::Rules) {
        progress("starting an API server, Envoy Gateway and the extension server");
        let churn = Duration::from_secs(10);
        let plan = RulesPlan { rules: cli.rules, pools: cli.rules.div_ceil(10), changes: 10, churn };
        print!("\n{}\n", rules::run(plan).await?);
    }
    if wants(Part::Footprint) {
        progress("installing the chart, and asking");
        let time = Duration::from_secs(cli.comparison);
        let plan = FootprintPlan { endpoints: cli.endpoints.into(), rate: cli.requests, time };
        print!("\n{}\n", footprint::run(plan).await?);
    }
    if !wants(Part::Follow) && !wants(Part::Churn) {
        return Ok(());
    }
    progress("starting an API server");
    let plane = ControlPlane::start().await?;
    for version in ["1.5.0", "1.6.0"] {
        plane.install_upstream_crds(version).await?;
    }
    plane.install_our_crds().await?;
    if wants(Part::Follow) {
        let tell = |number: usize, followed: &_| progress(&format!("change {}: {followed:?}", number + 1));
        print!("\n{}\n", report(&follow(&plane, cli.changes, tell).await?));
    }
    if wants(Part::Churn) {
        let plan = ChurnPlan {
            pools: cli.pools,
            pods: cli.pods,
            rate: cli.rate,
            churn: Duration::from_secs(cli.seconds),
            comparison: Duration::from_secs(cli.comparison),
        };
        print!("\n{}", churn(&plane, plan, progress).await?.report());
    }
    Ok(())
}
