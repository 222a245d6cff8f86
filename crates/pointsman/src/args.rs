//! The command line.

mod envoy_bootstrap;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pointsman_envoy::bootstrap::PeerAddress;

use crate::kubectl::args::KubectlCommand;

pub use envoy_bootstrap::{EnvoyBootstrapArgs, FailureModeArg, ResponsesArg};

/// Our own namespace, where nobody says otherwise.
pub(crate) const OWN_NAMESPACE: &str = "pointsman";
/// The name of the extension server's Service, ServiceAccount and Lease, where nobody says otherwise.
pub(crate) const EXTENSION_SERVER: &str = "pointsman-gateway";
/// Where Envoy Gateway's chart is installed as its documentation says, and the ServiceAccount that it makes.
pub(crate) const ENVOY_GATEWAY_NAMESPACE: &str = "envoy-gateway-system";
pub(crate) const ENVOY_GATEWAY_ACCOUNT: &str = "envoy-gateway";
/// The controller name of Envoy Gateway, where its configuration names no other.
pub(crate) const ENVOY_GATEWAY_CONTROLLER: &str = "gateway.envoyproxy.io/gatewayclass-controller";

/// An endpoint picker for LLM inference: Envoy asks it where each request will be answered soonest.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What Pointsman can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve picks to a gateway.
    Serve(ServeArgs),
    /// Serve Envoy Gateway, so that its HTTPRoutes may name InferencePools.
    Gateway(GatewayArgs),
    /// Check a configuration file, and tell every problem at once.
    Validate(ValidateArgs),
    /// Write the CustomResourceDefinitions as files, or check the files that are there.
    Crds(CrdsArgs),
    /// Print the Roles that a picker or the gateway needs in a cluster, and their bindings, as manifests.
    Roles(RolesArgs),
    /// Print the configuration of an Envoy that asks this picker.
    EnvoyBootstrap(EnvoyBootstrapArgs),
    /// Run one simulated model server.
    SimServer(SimServerArgs),
    /// Show what picking is worth: simulated servers, a real Envoy, the same load with and without the picker.
    Demo(DemoArgs),
    /// What looks into a cluster.
    #[command(flatten)]
    Kubectl(KubectlCommand),
}

/// `pointsman serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The configuration file: endpoints, scheduling, server. It is watched, and taken over when it changes. Beside
    /// --pool-name and --all-pools it holds `server` alone, and is read at the start.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["pool_name", "all_pools"])]
    pub config: Option<PathBuf>,
    /// Serve this InferencePool of the cluster: its pods, and whatever tunes it.
    #[arg(long, value_name = "NAME", conflicts_with = "all_pools")]
    pub pool_name: Option<String>,
    /// The namespace of the pool, or of --all-pools; by default the picker's own.
    #[arg(long, value_name = "NAMESPACE")]
    pub pool_namespace: Option<String>,
    /// Serve every InferencePool of the namespace.
    #[arg(long)]
    pub all_pools: bool,
    /// Whether all replicas serve, or one of them while the others stand by.
    #[arg(long, value_enum, default_value_t = HaModeArg::ActiveActive)]
    pub ha_mode: HaModeArg,
    /// The Lease that the replicas share, in the picker's own namespace; by default pointsman.NAMESPACE.POOL, or
    /// pointsman.NAMESPACE with --all-pools.
    #[arg(long, value_name = "NAME")]
    pub lease_name: Option<String>,
    /// The address that ext_proc, health and metrics listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: std::net::IpAddr,
    /// The address that ext_proc listens on, where it is another than --bind-address: 127.0.0.1 for an Envoy in the same
    /// pod that asks in plaintext, while health and metrics are asked for from outside.
    #[arg(long, value_name = "IP")]
    pub ext_proc_address: Option<std::net::IpAddr>,
    /// The port of ext_proc.
    #[arg(long, default_value_t = 9002)]
    pub grpc_port: u16,
    /// The port of gRPC health alone, in plaintext: "" is readiness, "standby" the same whoever leads, "liveness" whether the
    /// process answers.
    #[arg(long, default_value_t = 9003)]
    pub grpc_health_port: u16,
    /// The port of Prometheus metrics.
    #[arg(long, default_value_t = 9090)]
    pub metrics_port: u16,
    /// Give metrics only to who shows a token (`Authorization: Bearer`) whose bearer may `get` the non-resource URL
    /// /metrics, as the API server says. They are served over TLS then, with ext_proc's certificate; with
    /// --secure-serving=false in plaintext, and the tokens with them. `pointsman roles --metrics-auth` prints the
    /// ClusterRole that this needs.
    #[arg(long)]
    pub metrics_auth: bool,
    /// Where the admin pages listen: decisions, pools, configuration, log level.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS")]
    pub admin_address: SocketAddr,
    /// Where EDS listens, for an Envoy of one's own.
    #[arg(long, default_value = "127.0.0.1:9005", value_name = "ADDRESS")]
    pub eds_address: SocketAddr,
    /// Serve ext_proc over TLS. Off is for a gateway on the same host, or behind a mesh.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub secure_serving: bool,
    /// A folder with `tls.crt` and `tls.key`, taken anew when they change. Without it a certificate is made.
    #[arg(long, value_name = "DIR")]
    pub cert_path: Option<PathBuf>,
    /// The folder that holds the CA of the certificates that are made: `ca.crt`, for gateways to verify, and `ca.key`.
    #[arg(long, value_name = "DIR", conflicts_with = "cert_path")]
    pub tls_dir: Option<PathBuf>,
    /// The picker's own Service. With it, replicas in a cluster share a CA: the Secret NAME-ca holds it, the ConfigMap
    /// NAME-ca publishes `ca.crt`, and gateways verify the name NAME.NAMESPACE.svc.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["cert_path", "tls_dir"])]
    pub service_name: Option<String>,
    /// A CA file: only gateways with a certificate of it may ask.
    #[arg(long, value_name = "FILE")]
    pub client_ca_path: Option<PathBuf>,
    /// How long open streams may go on after SIGTERM.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// What is logged, as `level` or `target=level,...`. `kube_client` would tell of each failed call to an API server
    /// that is away; the picker tells when it goes and comes.
    #[arg(long, default_value = "info,kube_client=off", env = "POINTSMAN_LOG", value_name = "FILTER")]
    pub log: String,
}

/// `pointsman roles`: the flags are those of `pointsman serve`, or with `--gateway` of `pointsman gateway`, where both have
/// them.
#[derive(Clone, Debug, Args)]
pub struct RolesArgs {
    /// Print what `pointsman gateway` needs, and what Envoy Gateway needs beyond its chart, instead of a picker's Roles.
    #[arg(long, conflicts_with_all = ["pool_name", "pool_namespace"])]
    pub gateway: bool,
    /// The picker's own namespace, or the gateway's.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: String,
    /// The ServiceAccount that it runs as, which Roles and bindings are named after; by default pointsman, or
    /// pointsman-gateway with --gateway.
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// The pool that it serves; without it, all of the namespace.
    #[arg(long, value_name = "NAME")]
    pub pool_name: Option<String>,
    /// The namespace of the pools; by default the picker's own.
    #[arg(long, value_name = "NAMESPACE")]
    pub pool_namespace: Option<String>,
    /// The Lease that the replicas share, where `serve` or `gateway` is given one.
    #[arg(long, value_name = "NAME")]
    pub lease_name: Option<String>,
    /// The picker's own Service, where `serve` is given one: for the CA that replicas share. With --gateway the
    /// extension server's, by default pointsman-gateway.
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,
    /// Print too what --metrics-auth needs: to have the API server say whose a token is, and what they may.
    #[arg(long)]
    pub metrics_auth: bool,
    /// The namespace of Envoy Gateway.
    #[arg(long, default_value = ENVOY_GATEWAY_NAMESPACE, requires = "gateway", value_name = "NAMESPACE")]
    pub envoy_gateway_namespace: String,
    /// The ServiceAccount that Envoy Gateway runs as.
    #[arg(long, default_value = ENVOY_GATEWAY_ACCOUNT, requires = "gateway", value_name = "NAME")]
    pub envoy_gateway_service_account: String,
}

/// `pointsman gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// The address that the hooks, EDS and metrics listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: std::net::IpAddr,
    /// The port of the hooks, EDS and gRPC health.
    #[arg(long, default_value_t = 9004)]
    pub grpc_port: u16,
    /// The port of gRPC health alone, in plaintext, for whoever has no certificate: "" is readiness, "liveness" whether
    /// the process answers.
    #[arg(long, default_value_t = 9003)]
    pub grpc_health_port: u16,
    /// The port of Prometheus metrics.
    #[arg(long, default_value_t = 9090)]
    pub metrics_port: u16,
    /// Give metrics only to who shows a token (`Authorization: Bearer`) whose bearer may `get` the non-resource URL
    /// /metrics, as the API server says. They are served over TLS then, with the server's own certificate; with
    /// --secure-serving=false in plaintext, and the tokens with them. `pointsman roles --gateway --metrics-auth` prints the
    /// ClusterRole that this needs.
    #[arg(long)]
    pub metrics_auth: bool,
    /// Where the admin pages listen: what was made of each rule, log level.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS")]
    pub admin_address: SocketAddr,
    /// The server's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = OWN_NAMESPACE, value_name = "NAMESPACE")]
    pub namespace: String,
    /// The server's own Service. Replicas share a CA by it, as with `serve`, and Envoys reach EDS by its name.
    #[arg(long, default_value = EXTENSION_SERVER, value_name = "NAME")]
    pub service_name: String,
    /// The namespace of Envoy Gateway. The Secrets SERVICE-ca and SERVICE-client are kept there, by which it and this
    /// server know each other. Ones that somebody else keeps there (with neither label
    /// app.kubernetes.io/managed-by: pointsman nor pointsman.dev/kept-by: pointsman) are read and never written.
    #[arg(long, default_value = ENVOY_GATEWAY_NAMESPACE, value_name = "NAMESPACE")]
    pub envoy_gateway_namespace: String,
    /// The controller name of Envoy Gateway: Gateways whose GatewayClass bears it are served.
    #[arg(long, default_value = ENVOY_GATEWAY_CONTROLLER, value_name = "NAME")]
    pub controller_name: String,
    /// The Lease that the replicas share, in the server's own namespace: its holder writes statuses and Events.
    #[arg(long, default_value = "pointsman-gateway", value_name = "NAME")]
    pub lease_name: String,
    /// Where Envoys reach EDS; by default the Service.
    #[arg(long, value_name = "ADDRESS")]
    pub eds_address: Option<PeerAddress>,
    /// Serve over TLS, to clients with a certificate of the CA. Off is for an Envoy Gateway and an Envoy on the same host.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub secure_serving: bool,
    /// The domain of the cluster's names.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Requests that Envoy holds open at once, for each pool and each picker, where no policy says otherwise.
    #[arg(long, default_value_t = pointsman_envoy::wiring::DEFAULT_MAX_STREAMS)]
    pub max_streams: u32,
    /// Print what Envoy Gateway's Helm values must say of this server, and do nothing else.
    #[arg(long)]
    pub print_values: bool,
    /// What is logged, as `level` or `target=level,...`.
    #[arg(long, default_value = "info,kube_client=off", env = "POINTSMAN_LOG", value_name = "FILTER")]
    pub log: String,
}

/// What the replicas of one picker are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HaModeArg {
    /// All serve; one of them writes statuses and Events.
    ActiveActive,
    /// One serves, and the others keep their pools warm.
    Leader,
}

/// `pointsman validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// The configuration file.
    pub file: PathBuf,
}

/// `pointsman crds`.
#[derive(Clone, Debug, Args)]
pub struct CrdsArgs {
    /// The folder that the files are in: ours in it, the shapes of others' in `upstream` below it.
    #[arg(long, default_value = "crds", value_name = "DIR")]
    pub output: PathBuf,
    /// Write nothing; fail when the files are not the ones that would be written.
    #[arg(long)]
    pub check: bool,
}

/// `pointsman sim-server`.
#[derive(Clone, Debug, Args)]
pub struct SimServerArgs {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Its name, in the response header `x-sim-server`.
    #[arg(long, default_value = "sim")]
    pub name: String,
    /// The model that it serves.
    #[arg(long, default_value = "sim-8b")]
    pub model: String,
    /// How fast it is: 0.5 takes twice as long.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// LoRA adapters that it can load; may be given again.
    #[arg(long = "lora", value_name = "NAME")]
    pub loras: Vec<String>,
    /// How many adapters fit at once.
    #[arg(long, default_value_t = 4)]
    pub max_lora: usize,
    /// Size of the KV cache in tokens.
    #[arg(long, value_name = "TOKENS")]
    pub kv_cache_tokens: Option<usize>,
    /// Sequences in the batch at most.
    #[arg(long)]
    pub max_running: Option<usize>,
    /// Makes its small irregularities repeatable.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Faults from the start, as JSON; see `POST /sim/faults`.
    #[arg(long, value_name = "JSON")]
    pub faults: Option<String>,
}

/// `pointsman demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Leave servers, picker and Envoy running afterwards, with the line to try them by.
    #[arg(long)]
    pub keep: bool,
    /// The seed of servers and workload.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds of load a strategy.
    #[arg(long, default_value_t = crate::demo::DEFAULT_SECONDS, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub seconds: u64,
    /// Requests a second; by default the committed share of round robin's saturation.
    #[arg(long, value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Where report, configurations and logs go.
    #[arg(long, default_value = "demo-report", value_name = "DIR")]
    pub output: PathBuf,
    /// The Envoy to run; by default the one that `make tools` fetched.
    #[arg(long, env = "POINTSMAN_ENVOY", value_name = "FILE")]
    pub envoy: Option<PathBuf>,
    /// Find the highest rate that round robin bears, instead of the demo.
    #[arg(long, conflicts_with_all = ["keep", "rate", "seconds"])]
    pub find_saturation: bool,
    /// Print the result as JSON; the table goes to stderr then.
    #[arg(long)]
    pub json: bool,
}

/// Requests a second that make sense on one machine.
fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1000.0).contains(rate));
    rate.ok_or_else(|| format!("{text:?} is no rate: give requests a second, 0.1 to 1000"))
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    pointsman_core::config::units::parse_duration(text)
        .ok_or_else(|| format!("{text:?} is no duration: write it like 30s, 500ms or 1m30s"))
}
