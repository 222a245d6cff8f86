//! Certificate authorities and the certificates that they issue: made here once, for the Secret that replicas share and
//! for the folder of a picker without Kubernetes.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

/// By how much a certificate begins before it is made, for clocks that lag behind ours.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// How many certificates one text may hold.
const CERTIFICATES_MAX: usize = 16;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate, read far enough to know what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As it was written, from BEGIN to END.
    pub pem: String,
    /// When it ends.
    pub ends: SystemTime,
    der: Vec<u8>,
}

/// Who issues certificates: a CA's certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// The CA's own certificate, then those of who stands above it, if anybody.
    pub chain: Vec<Certificate>,
    /// The CA's key, as PEM.
    pub key: String,
}

/// The certificate of a server or of its clients, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate, and the CAs between it and the one that the other side trusts; as PEM.
    pub chain: String,
    /// Its key, as PEM.
    pub key: String,
    /// When the certificate ends.
    pub ends: SystemTime,
    /// The CA that issued it.
    pub issuer: Certificate,
}

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificates cannot be read.
    #[error("it holds no certificate that can be read: is it PEM (BEGIN CERTIFICATE)?")]
    Certificate,
    /// The certificate is not a CA's.
    #[error("its certificate may not issue others: it needs basicConstraints CA:TRUE (with cert-manager: isCA: true)")]
    NotAuthority,
    /// The key cannot be read.
    #[error(
        "its key cannot be read: it has to be PKCS#8 (BEGIN PRIVATE KEY; with cert-manager: privateKey.encoding: \
         PKCS8), ECDSA P-256 or P-384, Ed25519 or RSA"
    )]
    Key,
    /// The key is not the certificate's.
    #[error("its key is not the one of its certificate")]
    OtherKey,
    /// The CA's name cannot be written into what it issues.
    #[error("its subject name is one that certificates of ours cannot carry: make it a plain CN")]
    Name,
    /// A name that the certificate should bear is none.
    #[error("{0:?} is no name for a certificate")]
    LeafName(String),
    /// A certificate that somebody brought would not be believed.
    #[error("its certificate is of none of the CAs that are published: issue it by the CA in the Secret {0}")]
    Stranger(String),
    /// Making it failed.
    #[error("making a certificate failed: {0}")]
    Making(#[from] rcgen::Error),
}

impl Certificate {
    /// All certificates in a text; what stands between them is passed over.
    pub fn read_all(text: &str) -> Result<Vec<Self>, AuthorityError> {
        let mut certificates = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find(BEGIN) {
            let end = rest[begin..].find(END).ok_or(AuthorityError::Certificate)? + begin + END.len();
            certificates.push(Self::read(&rest[begin..end])?);
            rest = &rest[end..];
            if certificates.len() > CERTIFICATES_MAX {
                return Err(AuthorityError::Certificate);
            }
        }
        Ok(certificates)
    }

    fn read(pem: &str) -> Result<Self, AuthorityError> {
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let x509 = block.parse_x509().map_err(|_| AuthorityError::Certificate)?;
        // One that ended before 1970 ended.
        let ends = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or_default();
        let ends = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends)).ok_or(AuthorityError::Certificate)?;
        Ok(Self { pem: pem.to_owned(), ends, der: block.contents })
    }

    /// Whether it says that it was issued by itself: such a one is trusted, never sent.
    fn is_root(&self) -> bool {
        self.with(|x509| x509.subject().as_raw() == x509.issuer().as_raw()).unwrap_or_default()
    }

    /// Whether it names that CA as its issuer. Nothing is verified by this.
    pub(super) fn names_issuer(&self, authority: &Self) -> bool {
        let subject = authority.with(|x509| x509.subject().as_raw().to_vec());
        subject.is_some() && self.with(|x509| x509.issuer().as_raw().to_vec()) == subject
    }

    fn is_of_key(&self, pair: &KeyPair) -> bool {
        self.with(|x509| *x509.public_key().subject_public_key.data == *pair.public_key_raw()).unwrap_or_default()
    }

    /// The DNS names that it is for.
    pub fn dns_names(&self) -> Vec<String> {
        let names = self.with(|x509| {
            let names = x509.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
            let names = names.into_iter().flatten().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            });
            names.collect()
        });
        names.unwrap_or_default()
    }

    fn with<T>(&self, read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> Option<T> {
        x509_parser::parse_x509_certificate(&self.der).ok().map(|(_, x509)| read(&x509))
    }
}

impl Authority {
    /// A new one.
    pub fn make(life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::of_key(KeyPair::generate()?.serialize_pem(), life, now)
    }

    /// One of a key that is there already.
    pub fn of_key(key: String, life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        let pair = KeyPair::from_pem(&key).map_err(|_| AuthorityError::Key)?;
        let mut params = params(life, now);
        // A name of its own: two CAs of one name would be tried for each other by whoever knows both.
        let mark: String = pair.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Pointsman CA {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = Certificate::read(params.self_signed(&pair)?.pem().trim_end())?;
        Ok(Self { chain: vec![certificate], key })
    }

    /// One that was written down: its certificates as PEM, its own first, and its key.
    pub fn read(certificates: &str, key: &str) -> Result<Self, AuthorityError> {
        let chain = Certificate::read_all(certificates)?;
        let first = chain.first().ok_or(AuthorityError::Certificate)?;
        let pair = KeyPair::from_pem(key).map_err(|_| AuthorityError::Key)?;
        let is_authority = first.with(|x509| x509.is_ca()).ok_or(AuthorityError::Certificate)?;
        match (is_authority, first.is_of_key(&pair)) {
            (false, _) => Err(AuthorityError::NotAuthority),
            (true, false) => Err(AuthorityError::OtherKey),
            (true, true) => Ok(Self { chain, key: key.to_owned() }),
        }
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// Issues a certificate for a server of these names.
    pub fn issue(&self, names: &[String], life: Duration, now: SystemTime) -> Result<Leaf, AuthorityError> {
        self.issue_for(ExtendedKeyUsagePurpose::ServerAuth, names, life, now)
    }

    /// Issues a certificate for the clients of that name; no server can use it.
    pub fn issue_client(&self, name: &str, life: Duration, now: SystemTime) -> Result<Leaf, AuthorityError> {
        self.issue_for(ExtendedKeyUsagePurpose::ClientAuth, &[name.to_owned()], life, now)
    }

    fn issue_for(
        &self,
        usage: ExtendedKeyUsagePurpose,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<Leaf, AuthorityError> {
        let authority = self.certificate();
        let key = KeyPair::from_pem(&self.key).map_err(|_| AuthorityError::Key)?;
        let issuer = Issuer::from_ca_cert_pem(&authority.pem, key)?;
        let until_then = authority.ends.duration_since(now).unwrap_or_default();
        let mut params = params(life.min(until_then), now);
        params.distinguished_name.push(DnType::CommonName, "pointsman");
        for name in names {
            let named = CertificateParams::new([name.clone()]);
            let named = named.map_err(|_| AuthorityError::LeafName(name.clone()))?;
            params.subject_alt_names.extend(named.subject_alt_names);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = Certificate::read(params.signed_by(&key, &issuer)?.pem().trim_end())?;
        if !certificate.names_issuer(authority) {
            return Err(AuthorityError::Name);
        }
        let sent = std::iter::once(&certificate).chain(self.chain.iter().filter(|above| !above.is_root()));
        Ok(Leaf { chain: to_text(sent), key: key.serialize_pem(), ends: certificate.ends, issuer: authority.clone() })
    }
}

impl Leaf {
    /// One that was written down: its certificates as PEM, its own first, its key, and who issued it. Where that was not
    /// written down, the last of its own certificates stands for the issuer.
    pub fn read(certificates: &str, key: &str, issuer: &str) -> Result<Self, AuthorityError> {
        let chain = Certificate::read_all(certificates)?;
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else { return Err(AuthorityError::Certificate) };
        let pair = KeyPair::from_pem(key).map_err(|_| AuthorityError::Key)?;
        if !first.is_of_key(&pair) {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Certificate::read_all(issuer)?.into_iter().next();
        Ok(Self {
            chain: to_text(&chain),
            key: pair.serialize_pem(),
            ends: first.ends,
            issuer: issuer.unwrap_or_else(|| last.clone()),
        })
    }
}

/// Certificates one below the other.
pub fn to_text<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(|certificate| format!("{}\n", certificate.pem)).collect()
}

fn params(life: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    params
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("chain", &self.chain).field("ends", &self.ends).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(1000);

    #[test]
    fn an_authority_survives_being_written_down_and_issues_for_its_names() {
        let now = SystemTime::now();
        let made = Authority::make(LIFE, now).unwrap();
        let read = Authority::read(&to_text(&made.chain), &made.key).unwrap();
        assert_eq!(read, made);
        let names = ["picker.ns.svc".to_owned(), "127.0.0.1".to_owned()];
        let leaf = read.issue(&names, LIFE * 2, now).unwrap();
        assert_eq!(leaf.issuer, made.chain[0]);
        assert!(leaf.ends <= made.chain[0].ends, "no certificate outlives its CA");
        let chain = Certificate::read_all(&leaf.chain).unwrap();
        assert_eq!(chain.len(), 1, "a root is not sent");
        let verified = chain[0]
            .with(|leaf| made.chain[0].with(|ca| leaf.verify_signature(Some(ca.public_key())).is_ok()).unwrap());
        assert_eq!(verified, Some(true));
    }

    #[test]
    fn a_clients_certificate_survives_being_written_down_and_serves_no_server() {
        let now = SystemTime::now();
        let (made, other) = (Authority::make(LIFE, now).unwrap(), Authority::make(LIFE, now).unwrap());
        let leaf = made.issue_client("clients.ns", LIFE, now).unwrap();
        let issuer = to_text(&made.chain);
        assert!(Leaf::read(&leaf.chain, &leaf.key, &issuer).unwrap() == leaf);
        assert!(matches!(Leaf::read(&leaf.chain, &other.key, &issuer), Err(AuthorityError::OtherKey)));
        assert!(matches!(Leaf::read("", &leaf.key, &issuer), Err(AuthorityError::Certificate)));
        let read = Certificate::read_all(&leaf.chain).unwrap();
        assert!(read[0].names_issuer(&made.chain[0]) && !read[0].names_issuer(&other.chain[0]));
        let usages = read[0].with(|x509| {
            let usage = x509.extended_key_usage().unwrap().unwrap().value;
            (usage.client_auth, usage.server_auth)
        });
        assert_eq!(usages, Some((true, false)));
    }

    #[test]
    fn what_cannot_issue_is_refused_with_the_reason() {
        let now = SystemTime::now();
        let (one, other) = (Authority::make(LIFE, now).unwrap(), Authority::make(LIFE, now).unwrap());
        let leaf = one.issue(&["a".to_owned()], LIFE, now).unwrap();
        let text = to_text(&one.chain);
        let table: [(&str, &str, &str); 6] = [
            ("", &one.key, "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nMIIB", &one.key, "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", &one.key, "no certificate"),
            (&text, "nonsense", "PKCS#8"),
            (&text, &other.key, "not the one of its certificate"),
            (&leaf.chain, &leaf.key, "CA:TRUE"),
        ];
        for (certificate, key, reason) in table {
            let error = Authority::read(certificate, key).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = one.issue(&["a name".repeat(100) + "\u{e9}"], LIFE, now).unwrap_err();
        assert!(error.to_string().contains("no name"), "{error}");
    }

    #[test]
    fn two_authorities_have_names_of_their_own_and_keys_are_not_shown() {
        let now = SystemTime::now();
        let (one, other) = (Authority::make(LIFE, now).unwrap(), Authority::make(LIFE, now).unwrap());
        let subject = |authority: &Authority| authority.chain[0].with(|x509| x509.subject().to_string()).unwrap();
        assert_ne!(subject(&one), subject(&other));
        let leaf = one.issue(&["a".to_owned()], LIFE, now).unwrap();
        assert!(!format!("{one:?}{leaf:?}").contains("PRIVATE"));
    }
}
