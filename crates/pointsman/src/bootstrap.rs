//! `pointsman envoy-bootstrap`: the configuration of an Envoy that asks this picker, for the pools of a file.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use pointsman_core::registry::Registry;
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PeerAddress, PeerTls, Pem, PoolWiring, bootstrap, to_yaml};
use pointsman_envoy::wiring::{BodyMode, FailureMode, STREAM_IDLE_MARGIN};

use crate::args::{EnvoyBootstrapArgs, FailureModeArg, ResponsesArg};
use crate::config_file::{load, render_problems};

/// Prints the bootstrap.
pub(crate) fn run(args: &EnvoyBootstrapArgs, registry: &Registry) -> Result<()> {
    let config = load(&args.config, registry).map_err(|problems| {
        anyhow!("the configuration is refused:\n{}", render_problems(&args.config.display().to_string(), &problems))
    })?;
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
    for (pool, port) in config.pools.iter().zip(args.listen.port()..) {
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
            retries: u32::try_from(pool.policy.fallbacks).unwrap_or(u32::MAX),
            ..wiring
        });
    }
    let peer = |address: &PeerAddress| Peer { addresses: vec![address.clone()], tls: None };
    let picker = Peer { tls, ..peer(&args.picker) };
    let limits = &config.server.limits;
    let options = BootstrapOptions {
        admin: Some(args.envoy_admin),
        max_streams: limits.max_streams,
        body_buffer_limit: limits.max_body_size,
        stream_idle_timeout: STREAM_IDLE_MARGIN + limits.request_idle_timeout.max(limits.response_idle_timeout),
        ..BootstrapOptions::new(picker, peer(&args.eds), wirings)
    };
    print!("{}", to_yaml(&bootstrap(&options)?));
    Ok(())
}

/// A file as Envoy will find it, wherever that runs from.
fn pem(file: &Path) -> Result<Pem> {
    let whole = file.canonicalize().with_context(|| format!("finding the file {}", file.display()))?;
    Ok(Pem::File(whole.display().to_string()))
}
