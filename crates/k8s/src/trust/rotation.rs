//! When a CA gives way to the next one: the rules alone, without an API server or a clock.
//!
//! ```text
//!  published   [old]      [old, new]                  [old, new]                  [new]
//!  signing      old          old          overlap        new         overlap       new
//!               ├─ the old one ends soon ───┤ gateways took over ─┤ all leaves are new ─┤
//! ```

use std::time::{Duration, SystemTime};

use super::authority::{Authority, Certificate, Leaf};

/// How long everything lasts.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// A CA that is made.
    pub authority: Duration,
    /// How long before its end the next CA is made; several times `overlap`.
    pub authority_ahead: Duration,
    /// A replica's certificate.
    pub leaf: Duration,
    /// How long before its end the next certificate is made.
    pub leaf_ahead: Duration,
    /// How long a CA is published before anything is signed by it, and for how long after nothing is any more. It is
    /// what gateways have to take a changed `ca.crt` over, and people who copied it by hand.
    pub overlap: Duration,
    /// How often the Secret and the ConfigMap are looked at.
    pub look: Duration,
}

/// The CAs in the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    /// The one that signs.
    pub(super) signing: Authority,
    /// The one that will.
    pub(super) next: Option<Authority>,
    /// Certificates above the signing one that gateways need too.
    pub(super) roots: Vec<Certificate>,
    /// When the signing one began to sign; long ago when nobody wrote that down.
    pub(super) signing_since: SystemTime,
    /// Whether the Secret is of our making: one that a person or cert-manager brought is read and never written.
    pub(super) is_ours: bool,
}

/// What gateways are told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// In the ConfigMap.
    pub(super) certificates: Vec<Certificate>,
    /// Since when exactly these.
    pub(super) since: SystemTime,
}

/// What is to be done with the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the next CA.
    MakeNext,
    /// Let the next CA sign.
    Promote,
}

impl Default for Periods {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            authority: day * 3650,
            authority_ahead: day * 365,
            leaf: day * 90,
            leaf_ahead: day * 60,
            overlap: day,
            look: Duration::from_secs(30),
        }
    }
}

impl Published {
    fn holds(&self, certificate: &Certificate) -> bool {
        self.certificates.contains(certificate)
    }
}

/// What is to be done with a Secret of ours, if anything.
pub(super) fn step(has: &Authorities, published: &Published, periods: &Periods, now: SystemTime) -> Option<Step> {
    if !has.is_ours {
        return None;
    }
    let ends = has.signing.certificate().ends;
    match &has.next {
        None => (now + periods.authority_ahead >= ends).then_some(Step::MakeNext),
        Some(next) => {
            let is_known = published.holds(next.certificate()) && now >= published.since + periods.overlap;
            (is_known || now >= ends).then_some(Step::Promote)
        }
    }
}

/// The certificates that gateways should trust: those in use and to come, and whatever they trusted before for as long
/// as a leaf of it may be about.
pub(super) fn bundle(has: &Authorities, published: &Published, periods: &Periods, now: SystemTime) -> Vec<Certificate> {
    let next = has.next.iter().flat_map(|next| &next.chain);
    let mut wanted: Vec<Certificate> = Vec::new();
    for certificate in has.signing.chain.iter().chain(&has.roots).chain(next) {
        if !wanted.contains(certificate) {
            wanted.push(certificate.clone());
        }
    }
    let is_whole = wanted.iter().all(|certificate| published.holds(certificate));
    let switched = has.signing_since.max(published.since + periods.overlap);
    if !is_whole || now < switched + periods.overlap {
        let former = published.certificates.iter().filter(|former| former.ends > now);
        let former: Vec<_> = former.filter(|former| !wanted.contains(former)).cloned().collect();
        wanted.extend(former);
    }
    in_order(wanted)
}

/// The certificates that a server and its clients verify each other by: the published ones, and the signing one where
/// they are not ours to publish. A function of the objects alone, so that all replicas say the same.
pub(super) fn in_force(has: &Authorities, published: &Published) -> Vec<Certificate> {
    let mut certificates = published.certificates.clone();
    for certificate in has.signing.chain.iter().chain(&has.roots) {
        if !certificates.contains(certificate) {
            certificates.push(certificate.clone());
        }
    }
    in_order(certificates)
}

/// In an order that does not change when another one signs: gateways need not hear of that.
fn in_order(mut certificates: Vec<Certificate>) -> Vec<Certificate> {
    certificates.sort_by(|a, b| (a.ends, &a.pem).cmp(&(b.ends, &b.pem)));
    certificates
}

/// Whether a new certificate should be made in that one's place.
pub(super) fn is_leaf_due(
    leaf: Option<&Leaf>,
    has: &Authorities,
    published: &Published,
    periods: &Periods,
    now: SystemTime,
) -> bool {
    let Some(leaf) = leaf else { return true };
    let ends_soon = now + periods.leaf_ahead.min(periods.leaf / 2) >= leaf.ends;
    let signing = has.signing.certificate();
    if leaf.issuer == *signing {
        // A leaf ends with its CA: another one of the same CA would end no later.
        return ends_soon && leaf.ends < signing.ends;
    }
    let is_known = published.holds(signing) && now >= published.since + periods.overlap;
    is_known || now >= leaf.ends
}
