//! Certificates: given in files, or made under a CA of our own that gateways can verify.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use pointsman_k8s::trust::authority::{Authority, Leaf, to_text};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use super::incoming::TlsConfig;
use crate::args::ServeArgs;

/// How often certificate files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// The names in a certificate that is made.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long a certificate that is made holds; it is made anew at each start and each [`RENEWAL`].
const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
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
    /// Issued elsewhere, under the CA that the replicas in a cluster share; until then as if ephemeral, which no gateway
    /// accepts that verifies.
    Issued(watch::Receiver<Option<Arc<Leaf>>>),
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
        Source::Ephemeral => make_ephemeral()?,
        Source::Issued(issued) => match issued.borrow().as_deref() {
            Some(leaf) => pair_of(leaf)?,
            None => make_ephemeral()?,
        },
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
    let mut issued = match &source {
        Source::Issued(issued) => Some(issued.clone()),
        Source::Files(_) | Source::Made(_) | Source::Ephemeral => None,
    };
    loop {
        let is_issued = tokio::select! {
            Ok(()) = next(issued.as_mut()) => true,
            () = tokio::time::sleep(RELOAD_INTERVAL) => false,
        };
        let now = fingerprint(&source, client_ca.as_deref());
        let is_due = matches!(source, Source::Made(_) | Source::Ephemeral) && made.elapsed() >= RENEWAL;
        if now == seen && !is_due && !is_issued {
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

/// Waits until another certificate is issued, for ever where none is.
pub(crate) async fn next<T>(issued: Option<&mut watch::Receiver<T>>) -> Result<(), watch::error::RecvError> {
    match issued {
        Some(issued) => issued.changed().await,
        None => std::future::pending().await,
    }
}

/// The files' contents, for comparison; what cannot be read compares as absent.
fn fingerprint(source: &Source, client_ca: Option<&Path>) -> Vec<Option<Vec<u8>>> {
    let mut files = Vec::new();
    match source {
        Source::Files(dir) => files.extend([dir.join("tls.crt"), dir.join("tls.key")]),
        Source::Made(dir) => files.extend([dir.join("ca.crt"), dir.join("ca.key")]),
        Source::Ephemeral | Source::Issued(_) => {}
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

fn pair_of(leaf: &Leaf) -> Result<Pair> {
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes());
    Ok((chain.context("reading the certificate that was made")?, key.context("reading its key")?))
}

fn make_ephemeral() -> Result<Pair> {
    make_leaf(&Authority::make(CA_LIFE, SystemTime::now()).context("making a CA")?)
}

fn make_leaf(ca: &Authority) -> Result<Pair> {
    let names = NAMES.map(|name| name.to_owned());
    pair_of(&ca.issue(&names, LEAF_LIFE, SystemTime::now()).context("making a certificate")?)
}

/// The CA in `dir`, made when there is none. The key on disk is the truth: of two processes that make one at once both
/// sign with the key that was there first.
fn read_or_make_ca(dir: &Path) -> Result<Authority> {
    let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
    fs::create_dir_all(dir).with_context(|| format!("making the folder {}", dir.display()))?;
    let read = |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
    if !key_file.exists() {
        let made = Authority::make(CA_LIFE, SystemTime::now()).context("making a CA")?;
        write_new(&key_file, &made.key, 0o600)?;
    }
    let key = read(&key_file)?;
    if !certificate_file.exists() {
        let made = Authority::of_key(key.clone(), CA_LIFE, SystemTime::now());
        let made = made.with_context(|| format!("making a CA of the key {}", key_file.display()))?;
        write_new(&certificate_file, &to_text(&made.chain), 0o644)?;
        tracing::info!(ca = %certificate_file.display(), "made a CA for gateways to verify this picker by");
    }
    Authority::read(&read(&certificate_file)?, &key).with_context(|| format!("reading the CA in {}", dir.display()))
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

    #[tokio::test(start_paused = true)]
    async fn an_issued_certificate_takes_the_place_of_the_ephemeral_one() {
        let now = SystemTime::now();
        let (issue, issued) = watch::channel(None);
        let source = Source::Issued(issued);
        let config = replaceable(load(&source, None).unwrap());
        let first = config.load_full();
        let kept = tokio::spawn(keep_fresh(source, None, Arc::clone(&config)));
        let leaf = Authority::make(CA_LIFE, now).unwrap().issue(&["picker".to_owned()], LEAF_LIFE, now).unwrap();
        issue.send_replace(Some(Arc::new(leaf)));
        tokio::time::sleep(RELOAD_INTERVAL / 2).await;
        assert!(!Arc::ptr_eq(&config.load(), &first));
        let second = config.load_full();
        tokio::time::sleep(RENEWAL * 2).await;
        assert!(Arc::ptr_eq(&config.load(), &second), "whoever issues it renews it");
        kept.abort();
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
