//! The command line of `pointsman envoy-bootstrap`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pointsman_envoy::bootstrap::PeerAddress;

use super::parse_duration;
use crate::config_file::is_pool_name;

/// `pointsman envoy-bootstrap`.
#[derive(Clone, Debug, Args)]
pub struct EnvoyBootstrapArgs {
    /// The picker's configuration file, whose pools get a listener each. Beside --pool it holds `server` alone.
    #[arg(long, value_name = "FILE", required_unless_present = "pools")]
    pub config: Option<PathBuf>,
    /// An InferencePool that the picker serves by --pool-name or --all-pools; may be given again. Each gets a listener,
    /// whose retries are as many as the default policy has fallbacks.
    #[arg(long = "pool", value_name = "NAMESPACE/NAME", value_parser = parse_pool)]
    pub pools: Vec<String>,
    /// The first pool's listener; each further pool gets the next port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the picker's ext_proc is.
    #[arg(long, default_value = "127.0.0.1:9002", value_name = "ADDRESS")]
    pub picker: PeerAddress,
    /// Where the picker's EDS is.
    #[arg(long, default_value = "127.0.0.1:9005", value_name = "ADDRESS")]
    pub eds: PeerAddress,
    /// Where Envoy's own admin page listens.
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    pub envoy_admin: SocketAddr,
    /// The CA file that the picker's certificate is verified by; without it the picker is asked in plaintext.
    #[arg(long, value_name = "FILE")]
    pub picker_ca: Option<PathBuf>,
    /// The name in the picker's certificate.
    #[arg(long, default_value = "localhost", requires = "picker_ca", value_name = "NAME")]
    pub picker_name: String,
    /// The certificate that Envoy shows to a picker with `--client-ca-path`.
    #[arg(long, requires_all = ["picker_ca", "client_key"], value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "client_cert", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// What happens when the picker is away: requests go on to any endpoint of their pool, or they fail.
    #[arg(long, value_enum, default_value_t = FailureModeArg::FailClose)]
    pub failure_mode: FailureModeArg,
    /// Whether responses pass the picker (for usage and latency), or only its picks are asked for.
    #[arg(long, value_enum, default_value_t = ResponsesArg::Full)]
    pub responses: ResponsesArg,
    /// How long a client's connection is kept, as for an Envoy in a pod that may go: it ends once its answers are whole, and
    /// the client connects anew. By default for ever.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub max_connection_duration: Option<Duration>,
    /// Where it is written, whole or not at all; by default it is printed.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What happens when the picker is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailureModeArg {
    /// Requests go on to any endpoint of their pool.
    FailOpen,
    /// Requests fail.
    FailClose,
}

/// Whether responses pass the picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResponsesArg {
    /// All of them.
    Full,
    /// Their headers alone.
    None,
}

fn parse_pool(text: &str) -> Result<String, String> {
    match is_pool_name(text) {
        true => Ok(text.to_owned()),
        false => Err("write it like NAMESPACE/NAME, as the InferencePool's are".to_owned()),
    }
}
