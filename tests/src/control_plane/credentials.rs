//! Who the API server is, and who its clients are: certificates, keys, tokens and kubeconfig files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::API_SERVER_HOST;
use crate::netns::Network;

pub(super) const API_SERVER_PORT: u16 = 6443;

/// The files and secrets of one control plane. They live as long as it does and lie in its folder.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The API server's URL.
    pub(super) url: String,
    /// The token of a member of `system:masters`.
    pub(super) admin_token: String,
    /// A file that leads there with that token.
    pub(super) kubeconfig: PathBuf,
    /// Holds the files that [`Credentials::api_server_flags`] names.
    folder: PathBuf,
}

impl Credentials {
    /// Makes all of it.
    pub(super) fn make(control_plane: &Path, network: Network) -> Result<Self> {
        let folder = control_plane.join("credentials");
        std::fs::create_dir(&folder)?;
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text);

        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "kubernetes");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().context("making the CA's key")?;
        write("ca.crt", ca.self_signed(&ca_key).context("signing the CA")?.pem())?;

        let ip = network.ip(API_SERVER_HOST).to_string();
        let names = [ip.as_str(), "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let server = CertificateParams::new(names.map(str::to_owned)).context("naming the API server")?;
        let server_key = KeyPair::generate().context("making the API server's key")?;
        let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key)).context("signing the API server")?;
        write("server.crt", server.pem())?;
        write("server.key", server_key.serialize_pem())?;

        let tokens = KeyPair::generate().context("making the key of ServiceAccounts' tokens")?;
        write("service-accounts.key", tokens.serialize_pem())?;
        write("service-accounts.pub", tokens.public_key_pem())?;

        // A secret only by name: nobody but this test reaches the address.
        let admin_token = "administrator".to_owned();
        write("tokens.csv", format!("{admin_token},admin,admin,\"system:masters\"\n"))?;

        let url = format!("https://{ip}:{API_SERVER_PORT}");
        let kubeconfig = folder.join("kubeconfig");
        let made = Self { url, admin_token, kubeconfig, folder };
        std::fs::write(&made.kubeconfig, made.kubeconfig_text(&made.admin_token))?;
        Ok(made)
    }

    /// What makes the API server use them.
    pub(super) fn api_server_flags(&self) -> Vec<String> {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.folder.join(name).display());
        vec![
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("token-auth-file", "tokens.csv"),
            file("service-account-key-file", "service-accounts.pub"),
            file("service-account-signing-key-file", "service-accounts.key"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        ]
    }

    /// A kubeconfig for the bearer of `token`, as JSON, which is YAML.
    pub(super) fn kubeconfig_text(&self, token: &str) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "test",
                "cluster": {"server": self.url, "certificate-authority": self.folder.join("ca.crt")},
            }],
            "users": [{"name": "bearer", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "bearer"}}],
            "current-context": "test",
        })
        .to_string()
    }

    /// A client for the bearer of `token`, on the runtime that calls.
    pub(super) async fn client(&self, token: &str) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_text(token))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}
