//! Logs: one JSON object a line on standard error, with a level that can change at run time.

use std::sync::Arc;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

/// Changes what is logged.
#[derive(Clone)]
pub(crate) struct LogLevel {
    set: Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
    get: Arc<dyn Fn() -> String + Send + Sync>,
}

impl LogLevel {
    /// Logs by `filter` from here on; one that makes no sense changes nothing.
    pub(crate) fn set(&self, filter: &str) -> Result<()> {
        (self.set)(parse(filter)?)
    }

    /// The filter in force.
    pub(crate) fn get(&self) -> String {
        (self.get)()
    }
}

fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter)
        .with_context(|| format!("{filter:?} is no log filter: write \"info\" or \"pointsman_extproc=debug,info\""))
}

/// Starts logging.
pub(crate) fn init(filter: &str) -> Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("starting logs")?;
    let (set, get) = (handle.clone(), handle);
    Ok(LogLevel {
        set: Arc::new(move |filter| set.reload(filter).context("changing the log filter")),
        get: Arc::new(move || get.with_current(ToString::to_string).unwrap_or_default()),
    })
}
