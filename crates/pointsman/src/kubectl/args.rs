//! The arguments of the commands that look into a cluster, named as kubectl names its own.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Uri};

use crate::args::{ENVOY_GATEWAY_ACCOUNT, ENVOY_GATEWAY_CONTROLLER, ENVOY_GATEWAY_NAMESPACE, parse_duration};

/// The longest reason for a cordon: it stands in tables and in an Event.
const REASON_MAX: usize = 256;

/// The commands that look into a cluster; as `kubectl-pointsman`, a plugin of kubectl.
#[derive(Clone, Debug, Subcommand)]
pub enum KubectlCommand {
    /// Show pools, their endpoints, and how busy each is.
    Top(TopArgs),
    /// Tell why a request went where it went.
    Explain(ExplainArgs),
    /// Verify an installation, and tell for each fault what mends it.
    Check(Box<CheckArgs>),
    /// Take a pod out of new picks; requests in flight go on.
    Cordon(CordonArgs),
    /// Put a pod back into new picks.
    Uncordon(UncordonArgs),
}

/// Which cluster, as who, and how patiently.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The namespace; by default that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The kubeconfig's context; by default the current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig; by default those of KUBECONFIG, or ~/.kube/config, or the pod's own ServiceAccount.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How long one request may take, to the API server or to a picker.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub request_timeout: Duration,
}

/// How to reach the pickers' admin listeners.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Pickers")]
pub struct PickerArgs {
    /// A picker's admin listener, like http://127.0.0.1:9091; may be given again, once a replica. Without it the pickers
    /// are found by the pools' endpointPickerRef, and reached by port-forwarding.
    #[arg(long = "admin-url", value_name = "URL", value_parser = parse_plain_url)]
    pub admin_urls: Vec<Uri>,
    /// The labels of the pickers' pods, where the pool's endpointPickerRef does not lead to them.
    #[arg(long, value_name = "LABELS", conflicts_with = "admin_urls")]
    pub picker_selector: Option<String>,
    /// The port of the admin listener in the pickers' pods.
    #[arg(long, default_value_t = 9091, value_name = "PORT")]
    pub admin_port: u16,
}

/// Where Envoy Gateway and its extension server are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Envoy Gateway")]
pub struct EnvoyGatewayArgs {
    /// The controller name of Envoy Gateway: it is looked at where a GatewayClass bears it.
    #[arg(long, default_value = ENVOY_GATEWAY_CONTROLLER, value_name = "NAME")]
    pub controller_name: String,
    /// Its namespace.
    #[arg(long, default_value = ENVOY_GATEWAY_NAMESPACE, value_name = "NAMESPACE")]
    pub envoy_gateway_namespace: String,
    /// The ServiceAccount that it runs as.
    #[arg(long, default_value = ENVOY_GATEWAY_ACCOUNT, value_name = "NAME")]
    pub envoy_gateway_service_account: String,
    /// The Service of `pointsman gateway`; by default the one that Envoy Gateway's configuration names, or
    /// pointsman/pointsman-gateway.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub extension_server: Option<String>,
}

/// For whom the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// `pointsman top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// One pool; by default all.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pool: Option<String>,
    /// Show it anew each second, until interrupted.
    #[arg(short, long)]
    pub watch: bool,
    /// How to write it; with --watch, JSON is a line each second.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Which pickers.
    #[command(flatten)]
    pub pickers: PickerArgs,
}

/// `pointsman explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The request's id: its header `x-request-id`.
    pub request_id: String,
    /// The pool that it was for; by default any.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pool: Option<String>,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Which pickers.
    #[command(flatten)]
    pub pickers: PickerArgs,
}

/// `pointsman check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// One pool; by default all of the namespace.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pool: Option<String>,
    /// The pickers' ServiceAccount, whose permissions are verified; by default that of their pods.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub as_service_account: Option<String>,
    /// The Lease that the pickers share; by default the one that they name, or else
    /// pointsman.NAMESPACE.POOL.
    #[arg(long, value_name = "NAME")]
    pub lease_name: Option<String>,
    /// The gateway: one tiny completion is sent through it, to see whether it asks the picker.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub gateway_url: Option<Uri>,
    /// The model that the completion names; by default the first of the gateway's /v1/models.
    #[arg(long, value_name = "NAME", requires = "gateway_url")]
    pub model: Option<String>,
    /// A header of that request, like "Host: llm.example.com"; may be given again.
    #[arg(long = "gateway-header", value_name = "NAME: VALUE", value_parser = parse_header, requires = "gateway_url")]
    pub gateway_headers: Vec<(HeaderName, HeaderValue)>,
    /// A CA file for an https gateway; by default the system's CAs.
    #[arg(long, value_name = "FILE", requires = "gateway_url")]
    pub gateway_ca: Option<PathBuf>,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Which pickers.
    #[command(flatten)]
    pub pickers: PickerArgs,
    /// Which Envoy Gateway.
    #[command(flatten)]
    pub envoy_gateway: EnvoyGatewayArgs,
}

/// `pointsman cordon`.
#[derive(Clone, Debug, Args)]
pub struct CordonArgs {
    /// The pod.
    pub pod: String,
    /// Why, for whoever wonders later: shown by `top` and in an Event.
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub reason: Option<String>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `pointsman uncordon`.
#[derive(Clone, Debug, Args)]
pub struct UncordonArgs {
    /// The pod.
    pub pod: String,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

fn parse_url(text: &str) -> Result<Uri, String> {
    let url = text.parse::<Uri>().ok().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
    url.filter(|url| url.host().is_some_and(|host| !host.is_empty()))
        .ok_or_else(|| format!("{text:?} is no URL: write it like http://10.0.0.1:8080"))
}

fn parse_plain_url(text: &str) -> Result<Uri, String> {
    let url = parse_url(text)?;
    match url.scheme_str() {
        Some("https") => Err(format!("{text:?}: the admin listener speaks plaintext: write http://")),
        _ => Ok(url),
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let no_header = || format!("{text:?} is no header: write it like \"Host: llm.example.com\"");
    let (name, value) = text.split_once(':').ok_or_else(no_header)?;
    let name = name.trim().parse().map_err(|_| no_header())?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| no_header())?;
    // It may be a key; nothing prints it then.
    value.set_sensitive(true);
    Ok((name, value))
}

fn parse_reason(text: &str) -> Result<String, String> {
    match text.chars().count() {
        length if length > REASON_MAX => {
            Err(format!("a reason has {REASON_MAX} characters at most, this has {length}"))
        }
        _ if text.chars().any(char::is_control) => Err("a reason has no control characters".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_headers_are_told_from_nonsense() {
        for good in ["http://127.0.0.1:9091", "http://picker.prod.svc:9091/prefix", "http://[::1]:9091"] {
            parse_plain_url(good).unwrap();
        }
        for bad in ["127.0.0.1:9091", "picker", "ftp://a", "http://", "https://a:1", ""] {
            assert!(parse_plain_url(bad).is_err(), "{bad}");
        }
        parse_url("https://llm.example.com/base").unwrap();
        let (name, value) = parse_header("Host:  llm.example.com ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("host", "llm.example.com"));
        for bad in ["no colon", ": x", "a b: c", "a: \u{7}"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reason_fits_a_table() {
        parse_reason("wrong answers since 14:00").unwrap();
        assert!(parse_reason("a\u{1b}[31m").unwrap_err().contains("control"));
        assert!(parse_reason(&"a".repeat(REASON_MAX + 1)).unwrap_err().contains("257"));
    }
}
