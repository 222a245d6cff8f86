//! Certificates: given in files, or made under a CA of our own that gateways can verify.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::incoming::TlsConfig;
use crate::args::ServeArgs;

/// How often certificate files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// The names in a certificate that is made.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long a certificate that is made holds; it is made anew at each start and each [`RENEWAL`].
const LEAF_DAYS: i64 = 90;
const CA_DAYS: i64 = 3650;
const RENEWAL: Duration = Duration::from_secs(30 * 86_400);

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// `tls.crt` and `tls.key` in this folder.
    Files(PathBuf),
    /// Made, under the CA in this folder.
    Made(PathBuf),
    /// Made, under a CA that nobody else knows.
    Ephemeral,
}

impl Source {
    /// What the command line asks for: files, a folder for our own CA, or the user's state folder.
    pub(crate) fn of(args: &ServeArgs) -> Self {
        if let Some(dir) = &args.cert_path {
            return Self::Files(dir.clone());
        }
        let home = |name: &str, rest: &str| {
            std::env::var_os(name).filter(|dir| !dir.is_empty()).map(|dir| PathBuf::from(dir).join(rest))
        };
        let dir = args.tls_dir.clone();
        let dir = dir.or_else(|| home("XDG_STATE_HOME", "pointsman/tls"));
        match dir.or_else(|| home("HOME", ".local/state/pointsman/tls")) {
            Some(dir) => Self::Made(dir),
            None => Self::Ephemeral,
        }
    }
}

/// Builds the TLS configuration, and says where its CA lies, when it is our own.
pub(crate) fn load(source: &Source, client_ca: Option<&Path>) -> Result<ServerConfig> {
    let (chain, key) = match source {
        Source::Files(dir) => read_pair(dir)?,
        Source::Made(dir) => make_leaf(&read_or_make_ca(dir)?)?,
        Source::Ephemeral => make_leaf(&make_ca()?)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(file)? {
                roots.add(certificate).with_context(|| format!("reading a CA from {}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.context("setting up client certificates")?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).context("the certificate and its key do not fit")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes certificate files over when they change, and makes a new leaf before the old one ends; a bad file keeps what
/// was. Never returns.
pub(crate) async fn keep_fresh(source: Source, client_ca: Option<PathBuf>, config: TlsConfig) {
    let mut seen = fingerprint(&source, client_ca.as_deref());
    let mut made = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let now = fingerprint(&source, client_ca.as_deref());
        let is_due = !matches!(source, Source::Files(_)) && made.elapsed() >= RENEWAL;
        if now == seen && !is_due {
            continue;
        }
        match load(&source, client_ca.as_deref()) {
            Ok(fresh) => {
                config.store(Arc::new(fresh));
                made = tokio::time::Instant::now();
                tracing::info!("new certificates are in force");
            }
            Err(error) => tracing::error!("certificates changed, but the old ones stay in force: {error:#}"),
        }
        seen = now;
    }
}

/// The files' contents, for comparison; what cannot be read compares as absent.
fn fingerprint(source: &Source, client_ca: Option<&Path>) -> Vec<Option<Vec<u8>>> {
    let mut files = Vec::new();
    match source {
        Source::Files(dir) => files.extend([dir.join("tls.crt"), dir.join("tls.key")]),
        Source::Made(dir) => files.extend([dir.join("ca.crt"), dir.join("ca.key")]),
        Source::Ephemeral => {}
    }
    files.extend(client_ca.map(Path::to_path_buf));
    files.into_iter().map(|file| fs::read(file).ok()).collect()
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| format!("reading certificates from {}", file.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(certificates)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_pair(dir: &Path) -> Result<Pair> {
    let file = dir.join("tls.key");
    let key = PrivateKeyDer::from_pem_file(&file).with_context(|| format!("reading the key {}", file.display()))?;
    Ok((read_certificates(&dir.join("tls.crt"))?, key))
}

/// A CA: its certificate and key, as PEM.
struct Ca {
    certificate: String,
    key: String,
}

fn make_ca() -> Result<Ca> {
    let key = KeyPair::generate().context("making a CA key")?;
    Ok(Ca { certificate: sign_ca(&key)?, key: key.serialize_pem() })
}

fn sign_ca(key: &KeyPair) -> Result<String> {
    let mut params = params(CA_DAYS);
    params.distinguished_name.push(DnType::CommonName, "Pointsman CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).context("making a CA")?.pem())
}

fn make_leaf(ca: &Ca) -> Result<Pair> {
    let ca_key = KeyPair::from_pem(&ca.key).context("reading the CA's key")?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).context("reading the CA")?;
    let mut params = params(LEAF_DAYS);
    params.distinguished_name.push(DnType::CommonName, "pointsman");
    let names = NAMES.map(|name| name.to_owned());
    params.subject_alt_names = CertificateParams::new(names).context("naming the certificate")?.subject_alt_names;
    let key = KeyPair::generate().context("making a key")?;
    let leaf = params.signed_by(&key, &issuer).context("making a certificate")?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((vec![leaf.der().clone()], key))
}

fn params(days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(86_400);
    params.not_before = (now - day).into();
    params.not_after = (now + day * u32::try_from(days).unwrap_or(1)).into();
    params
}

/// The CA in `dir`, made when there is none. The key on disk is the truth: of two processes that make one at once both
/// sign with the key that was there first.
fn read_or_make_ca(dir: &Path) -> Result<Ca> {
    let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
    fs::create_dir_all(dir).with_context(|| format!("making the folder {}", dir.display()))?;
    let read = |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
    if !key_file.exists() {
        write_new(&key_file, &KeyPair::generate().context("making a CA key")?.serialize_pem(), 0o600)?;
    }
    let key = read(&key_file)?;
    if !certificate_file.exists() {
        let pair = KeyPair::from_pem(&key).with_context(|| format!("reading the key {}", key_file.display()))?;
        write_new(&certificate_file, &sign_ca(&pair)?, 0o644)?;
        tracing::info!(ca = %certificate_file.display(), "made a CA for gateways to verify this picker by");
    }
    Ok(Ca { certificate: read(&certificate_file)?, key })
}

/// Writes a file, whole or not at all, unless it is there already.
fn write_new(file: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
        open.write_all(text.as_bytes())?;
        match fs::hard_link(&part, file) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    let written = write().with_context(|| format!("writing {}", file.display()));
    // Absent when it could not be made.
    let _ = fs::remove_file(&part);
    written
}

/// A configuration that can be replaced.
pub(crate) fn replaceable(config: ServerConfig) -> TlsConfig {
    Arc::new(ArcSwap::from_pointee(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_takes_over_the_first_ones_ca() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::Made(dir.path().join("tls"));
        load(&source, None).unwrap();
        let ca = fs::read(dir.path().join("tls/ca.crt")).unwrap();
        load(&source, None).unwrap();
        assert_eq!(fs::read(dir.path().join("tls/ca.crt")).unwrap(), ca);
        load(&source, Some(&dir.path().join("tls/ca.crt"))).unwrap();
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(&Source::Files(dir.path().into()), None).unwrap_err();
        assert!(format!("{error:#}").contains("tls.key"), "{error:#}");
        fs::write(dir.path().join("ca.crt"), "nonsense").unwrap();
        let error = load(&Source::Ephemeral, Some(&dir.path().join("ca.crt"))).unwrap_err();
        assert!(format!("{error:#}").contains("ca.crt"), "{error:#}");
    }
}
