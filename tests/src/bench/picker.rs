//! The servers that are measured: the picker as it is released, with a file of endpoints, and the no-op server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;

use super::exposition::{Page, Pages};
use super::process::{Machine, ServerProcess};
use crate::process::cargo;

/// What starts servers.
#[derive(Debug)]
pub struct Servers {
    /// What they run on.
    pub machine: Machine,
    /// How a client verifies them.
    pub tls: Arc<ClientConfig>,
    picker: PathBuf,
    noop: PathBuf,
    /// Certificates and configurations; removed at the end.
    dir: TempDir,
}

/// How often a picker asks its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it comes: once a second while idle.
    Default,
    /// Every 50 ms, idle or not.
    Fast,
}

/// A picker and the endpoints that it watches.
#[derive(Debug)]
pub struct Picker {
    /// The picker.
    pub server: ServerProcess,
    /// The endpoints' metrics.
    pub pages: Pages,
}

impl Servers {
    /// Makes ready to start servers, the picker from `picker` or built from this workspace.
    pub fn prepare(picker: Option<&Path>) -> Result<Self> {
        let picker = match picker {
            Some(file) => file.to_owned(),
            None => build()?,
        };
        ensure!(picker.is_file(), "there is no picker at {}", picker.display());
        let dir = tempfile::tempdir().context("making a folder")?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("making a certificate")?;
        std::fs::write(dir.path().join("tls.crt"), made.cert.pem())?;
        std::fs::write(dir.path().join("tls.key"), made.signing_key.serialize_pem())?;
        let tls = Arc::new(verifying(&made.cert.pem())?);
        Ok(Self { machine: Machine::prepare(), tls, picker, noop: std::env::current_exe()?, dir })
    }

    /// Starts the no-op server.
    pub fn noop(&self, tls: bool) -> Result<ServerProcess> {
        let mut args = vec!["noop-server".to_owned()];
        if tls {
            args.extend(["--tls-dir".to_owned(), self.dir.path().display().to_string()]);
        }
        self.machine.start("no-op", &self.noop.display().to_string(), &args)
    }

    /// Starts a picker over so many endpoints.
    pub async fn picker(&self, endpoints: usize, tls: bool, pace: Pace, page: Page) -> Result<Picker> {
        let pages = Pages::serve(endpoints, page).await?;
        let listed: Vec<_> = (pages.addresses.iter().enumerate())
            .map(|(at, address)| json!({"name": format!("vllm-{at}"), "address": address.ip(), "port": address.port()}))
            .collect();
        let scheduling = match pace {
            Pace::Default => json!({}),
            Pace::Fast => json!({"telemetry": {
                "interval": {"busy": "50ms", "idle": "50ms"}, "maxScrapesPerSecond": 20 * endpoints,
            }}),
        };
        // JSON is YAML.
        let file = self.dir.path().join(format!("pool-{endpoints}.yaml"));
        std::fs::write(&file, json!({"endpoints": listed, "scheduling": scheduling}).to_string())?;
        let mut args: Vec<String> = ["serve", "--bind-address", "127.0.0.1"].map(str::to_owned).into();
        for (flag, value) in [
            ("--config", file.display().to_string()),
            ("--grpc-port", "0".to_owned()),
            ("--grpc-health-port", "0".to_owned()),
            ("--metrics-port", "0".to_owned()),
            ("--admin-address", "127.0.0.1:0".to_owned()),
            ("--eds-address", "127.0.0.1:0".to_owned()),
            ("--cert-path", self.dir.path().display().to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        args.push(format!("--secure-serving={tls}"));
        let program = self.picker.display().to_string();
        let server = tokio::task::block_in_place(|| self.machine.start("picker", &program, &args))?;
        Ok(Picker { server, pages })
    }
}

/// Builds the picker, so that what is measured is what the sources say.
fn build() -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo.args(["build", "--release", "-p", "pointsman"]);
    ensure!(cargo.status().context("running cargo")?.success(), "the picker does not build");
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(2).context("finding the target folder")?;
    Ok(target.join("release/pointsman"))
}

fn verifying(certificate: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).context("reading a certificate")?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
