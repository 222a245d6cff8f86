//! The picker and the server of endpoints, as Envoy reaches them: addresses, and how they prove who they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde_json::{Value, json};

use super::{socket_address, typed};

/// A gRPC server that Envoy talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its replicas. A DNS name stands for all of its addresses.
    pub addresses: Vec<PeerAddress>,
    /// How it proves who it is; `None` means plaintext, for the same host only.
    pub tls: Option<PeerTls>,
}

impl Peer {
    /// A peer that is spoken to without TLS.
    pub fn plaintext(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { addresses: addresses.into_iter().map(PeerAddress::from).collect(), tls: None }
    }

    /// A peer that must show a certificate.
    pub fn verified(addresses: impl IntoIterator<Item = SocketAddr>, tls: PeerTls) -> Self {
        Self { tls: Some(tls), ..Self::plaintext(addresses) }
    }

    /// Whether every address is an IP address, so that there is nothing to resolve.
    pub(crate) fn is_static(&self) -> bool {
        self.addresses.iter().all(|address| address.host.parse::<IpAddr>().is_ok())
    }

    /// The peer's endpoints, as a cluster's `load_assignment`.
    pub(crate) fn load_assignment(&self, cluster: &str) -> Value {
        let endpoint =
            |address: &PeerAddress| json!({"endpoint": {"address": socket_address(&address.host, address.port)}});
        let endpoints: Vec<_> = self.addresses.iter().map(endpoint).collect();
        json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]})
    }
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// An IP address without brackets, or a DNS name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// What is no `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no address: write host:port, 10.0.0.7:9002 or [fd00::7]:9002")]
pub struct ParsePeerAddressError {
    given: String,
}

impl FromStr for PeerAddress {
    type Err = ParsePeerAddressError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = given.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let named = given.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match named {
            Some((host, port)) if is_dns_name(host) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(ParsePeerAddressError { given: given.to_owned() }),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

fn is_dns_name(host: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(of_a_name)
}

/// TLS towards a peer. It is always verified: there is no way to say that it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authority whose certificates are believed.
    pub ca: Pem,
    /// The name that the certificate must be for: a DNS name, which is also asked for by SNI, or an IP address.
    pub server_name: String,
    /// Certificate and key that Envoy shows, where the peer asks for one.
    pub client: Option<(Pem, Pem)>,
}

impl PeerTls {
    /// The transport socket of a cluster.
    pub(crate) fn transport_socket(&self) -> Value {
        let is_address = self.server_name.parse::<IpAddr>().is_ok();
        let kind = if is_address { "IP_ADDRESS" } else { "DNS" };
        let mut common = json!({
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "validation_context": {
                "trusted_ca": self.ca.data_source(),
                "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": self.server_name}}],
            },
        });
        if let Some((certificate, key)) = &self.client {
            common["tls_certificates"] =
                json!([{"certificate_chain": certificate.data_source(), "private_key": key.data_source()}]);
        }
        let mut context = json!({"common_tls_context": common});
        if !is_address {
            context["sni"] = json!(self.server_name);
        }
        let context = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context);
        json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
    }
}

/// Something in PEM form.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file that Envoy reads when it starts.
    File(String),
    /// In the bootstrap itself.
    Inline(String),
}

impl Pem {
    /// The path, or the PEM itself.
    pub fn text(&self) -> &str {
        match self {
            Self::File(text) | Self::Inline(text) => text,
        }
    }

    pub(crate) fn data_source(&self) -> Value {
        match self {
            Self::File(path) => json!({"filename": path}),
            Self::Inline(pem) => json!({"inline_string": pem}),
        }
    }
}

impl fmt::Debug for Pem {
    /// Leaves out what may be a private key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => formatter.write_str("Inline(..)"),
        }
    }
}
