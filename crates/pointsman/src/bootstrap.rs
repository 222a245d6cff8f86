//! `pointsman envoy-bootstrap`: the configuration of an Envoy that asks this picker, for the pools of a file or of a
//! cluster.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use pointsman_core::policy::Policy;
use pointsman_core::registry::Registry;
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PeerAddress, PeerTls, Pem, PoolWiring, bootstrap, to_yaml};
use pointsman_envoy::wiring::{BodyMode, FailureMode, STREAM_IDLE_MARGIN};

use crate::args::{EnvoyBootstrapArgs, FailureModeArg, ResponsesArg};
use crate::config_file::{FileProblem, ServerConfig, load, load_server, render_problems};

/// Prints the bootstrap, or writes it.
pub(crate) fn run(args: &EnvoyBootstrapArgs, registry: &Registry) -> Result<()> {
    let text = text(args, registry)?;
    match &args.output {
        None => print!("{text}"),
        Some(file) => write_whole(file, &text)?,
    }
    Ok(())
}

/// What of a pool is in the bootstrap.
struct WiredPool {
    name: String,
    /// How many further endpoints a pick names.
    fallbacks: usize,
}

fn text(args: &EnvoyBootstrapArgs, registry: &Registry) -> Result<String> {
    let (pools, server) = pools(args, registry)?;
    let tls = match &args.picker_ca {
        None => None,
        Some(file) => {
            let client = match (&args.client_cert, &args.client_key) {
                (Some(certificate), Some(key)) => Some((pem(certificate)?, pem(key)?)),
                _ => None,
            };
            Some(PeerTls { ca: pem(file)?, server_name: args.picker_name.clone(), client })
        }
    };
    let mut wirings = Vec::new();
    for (number, pool) in pools.iter().enumerate() {
        let port = u16::try_from(number).ok().and_then(|number| args.listen.port().checked_add(number));
        let port = port.with_context(|| format!("no port is left for {}: let --listen begin lower", pool.name))?;
        let wiring = PoolWiring::new(&pool.name, SocketAddr::new(args.listen.ip(), port));
        wirings.push(PoolWiring {
            failure_mode: match args.failure_mode {
                FailureModeArg::FailOpen => FailureMode::Open,
                FailureModeArg::FailClose => FailureMode::Closed,
            },
            response_body: match args.responses {
                ResponsesArg::Full => BodyMode::FullDuplex,
                ResponsesArg::None => BodyMode::None,
            },
            retries: u32::try_from(pool.fallbacks).unwrap_or(u32::MAX),
            ..wiring
        });
    }
    let peer = |address: &PeerAddress| Peer { addresses: vec![address.clone()], tls: None };
    let picker = Peer { tls, ..peer(&args.picker) };
    let limits = &server.limits;
    let options = BootstrapOptions {
        admin: Some(args.envoy_admin),
        max_streams: limits.max_streams,
        body_buffer_limit: limits.max_body_size,
        max_connection_duration: args.max_connection_duration,
        stream_idle_timeout: STREAM_IDLE_MARGIN + limits.request_idle_timeout.max(limits.response_idle_timeout),
        ..BootstrapOptions::new(picker, peer(&args.eds), wirings)
    };
    Ok(to_yaml(&bootstrap(&options)?))
}

/// The pools that the flags name, or else those of the file; and what the file says of the process.
fn pools(args: &EnvoyBootstrapArgs, registry: &Registry) -> Result<(Vec<WiredPool>, ServerConfig)> {
    let refused = |file: &Path, problems: Vec<FileProblem>| {
        anyhow!("the configuration is refused:\n{}", render_problems(&file.display().to_string(), &problems))
    };
    if args.pools.is_empty() {
        let file = args.config.as_deref().context("give --config FILE or --pool NAMESPACE/NAME")?;
        let config = load(file, registry).map_err(|problems| refused(file, problems))?;
        let pools =
            config.pools.into_iter().map(|pool| WiredPool { name: pool.name, fallbacks: pool.policy.fallbacks });
        return Ok((pools.collect(), config.server));
    }
    let server = match args.config.as_deref() {
        None => ServerConfig::default(),
        Some(file) => load_server(file, registry).map_err(|problems| refused(file, problems))?,
    };
    let fallbacks = Policy::default().fallbacks;
    Ok((args.pools.iter().map(|name| WiredPool { name: name.clone(), fallbacks }).collect(), server))
}

/// A file as Envoy will find it, wherever that runs from.
fn pem(file: &Path) -> Result<Pem> {
    let whole = file.canonicalize().with_context(|| format!("finding the file {}", file.display()))?;
    Ok(Pem::File(whole.display().to_string()))
}

/// Writes a file so that whoever reads it never sees part of it.
fn write_whole(file: &Path, text: &str) -> Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&part);
    let written = fs::write(part, text).and_then(|()| fs::rename(part, file));
    if written.is_err() {
        // Absent when it could not be made.
        let _ = fs::remove_file(part);
    }
    written.with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests;
