//! `pointsman envoy-bootstrap`: the configuration of an Envoy that asks this picker, for the pools of a file.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow};
use pointsman_core::registry::Registry;
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PeerAddress, PeerTls, Pem, PoolWiring, bootstrap, to_yaml};
use pointsman_envoy::wiring::{BodyMode, FailureMode};

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
            let ca = file.canonicalize().with_context(|| format!("finding the CA file {}", file.display()))?;
            let ca = Pem::File(ca.display().to_string());
            Some(PeerTls { ca, server_name: args.picker_name.clone(), client: None })
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
            ..wiring
        });
    }
    let peer = |address: &PeerAddress| Peer { addresses: vec![address.clone()], tls: None };
    let picker = Peer { tls, ..peer(&args.picker) };
    let options = BootstrapOptions {
        admin: Some(args.envoy_admin),
        max_streams: config.server.limits.max_streams,
        body_buffer_limit: config.server.limits.max_body_size,
        ..BootstrapOptions::new(picker, peer(&args.eds), wirings)
    };
    print!("{}", to_yaml(&bootstrap(&options)?));
    Ok(())
}
