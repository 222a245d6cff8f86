//! `pointsman sim-server`: one simulated model server, until it is told to go.

use anyhow::{Context, Result};
use pointsman_sim::engine::EngineConfig;
use pointsman_sim::server::{SimConfig, SimServer};

use crate::args::SimServerArgs;

/// Runs the server until Ctrl-C or SIGTERM.
pub(crate) fn run(args: &SimServerArgs) -> Result<()> {
    let mut engine =
        EngineConfig { speed: args.speed, max_lora: args.max_lora, seed: args.seed, ..EngineConfig::default() };
    engine.kv_tokens = args.kv_cache_tokens.unwrap_or(engine.kv_tokens);
    engine.max_running = args.max_running.unwrap_or(engine.max_running);
    let faults = match &args.faults {
        Some(json) => serde_json::from_str(json).context("reading --faults")?,
        None => Default::default(),
    };
    let config = SimConfig {
        name: args.name.clone(),
        models: vec![args.model.clone()],
        adapters: args.loras.clone(),
        engine,
        faults,
        ..SimConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        let server = SimServer::start(config, args.listen).await?;
        println!("{} serves {} at {}", args.name, args.model, server.url());
        crate::signals::wait().await?;
        server.shutdown().await;
        Ok(())
    })
}
