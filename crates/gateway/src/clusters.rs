//! Clusters: one a pool and rule, made of Envoy Gateway's own, so that what policies say of it goes on counting; and one
//! a picker.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_envoy::bootstrap::Peer;
use pointsman_envoy::protobuf::EncodeError;
use pointsman_envoy::wire::{Change, Message, WireError, any, put_bytes, read_any};
use pointsman_envoy::wiring::EndpointProtocol;
use pointsman_envoy::xds::{self, EdsServer, HTTP_PROTOCOL_OPTIONS, PoolCluster};

use crate::picture::{PickerRef, PickerState, Picture};
use crate::rule::{PoolShare, Rule};
use crate::stamp::{StampedPicker, StampedPool, unstamp};

/// The cluster of pickers that are nowhere: it has no host, so that whatever asks it is refused at once.
pub const NO_PICKER: &str = "pointsman/picker/none";

/// Fields of a Cluster.
mod field {
    pub(super) const CIRCUIT_BREAKERS: u32 = 10;
    pub(super) const METADATA: u32 = 25;
    pub(super) const COMMON_LB_CONFIG: u32 = 27;
    pub(super) const TYPED_EXTENSION_PROTOCOL_OPTIONS: u32 = 36;
    /// What says where hosts come from and who chooses among them, in every form there is: type (2, 38), its
    /// configuration (3, 33), the balancer (6, 22, 23, 34, 37, 41, 52, 56); and the name.
    pub(super) const REPLACED: [u32; 13] = [1, 2, 3, 6, 22, 23, 33, 34, 37, 38, 41, 52, 56];
    /// TLS by what is known of a host, which for a pool's hosts is nothing.
    pub(super) const TRANSPORT_SOCKET_MATCHES: u32 = 43;
    /// The name in statistics. It is the rule's, and several clusters under it would be one.
    pub(super) const ALT_STAT_NAME: u32 = 28;
}

/// What a cluster cannot be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// What Envoy Gateway sent is no message.
    #[error("what Envoy Gateway sent is broken: {0}")]
    Wire(#[from] WireError),
    /// What we make of it is none.
    #[error("what was made of it is broken: {0}")]
    Encode(#[from] EncodeError),
}

/// A pool's cluster, made of Envoy Gateway's.
pub(crate) fn pool_cluster(
    base: &Message<'_>,
    rule: &Rule,
    share: &PoolShare,
    eds: &EdsServer,
    max_streams: u32,
) -> Result<Vec<u8>, MakeError> {
    let PoolShare { pool, cluster, .. } = share;
    let picked = (pool.picker != StampedPicker::None).then(|| pool.failure_mode());
    let mut added = PoolCluster { name: cluster, pool: &pool.name, picked, eds }.fields()?;
    if !base.has(field::CIRCUIT_BREAKERS) {
        put_bytes(&mut added, field::CIRCUIT_BREAKERS, &breakers(&Message::read(&[])?, max_streams)?);
    }
    let options = protocol_entries(base)?;
    if !options && pool.protocol() == EndpointProtocol::H2c {
        let entry = protocol_entry(&[], pool.protocol())?;
        put_bytes(&mut added, field::TYPED_EXTENSION_PROTOCOL_OPTIONS, &entry);
    }
    let metadata = unstamp(base)?.map(|stamp| stamp.metadata).unwrap_or_default();
    let mut failure = None;
    let mut or_keep = |made: Result<Option<Vec<u8>>, MakeError>| match made {
        Ok(Some(bytes)) => Change::Set(bytes),
        Ok(None) => Change::Keep,
        Err(error) => {
            failure = Some(error);
            Change::Keep
        }
    };
    let made = base.changed(
        |found| match found.number {
            number if field::REPLACED.contains(&number) => Change::Drop,
            field::TRANSPORT_SOCKET_MATCHES => Change::Drop,
            field::ALT_STAT_NAME if rule.pools.len() > 1 || rule.others > 0 => Change::Drop,
            field::METADATA if metadata.is_empty() => Change::Drop,
            field::METADATA => Change::Set(metadata.clone()),
            field::CIRCUIT_BREAKERS => or_keep(
                base.message(found.number)
                    .map_err(Into::into)
                    .and_then(|present| breakers(&present, max_streams).map(Some)),
            ),
            // Only what the balancer of our own takes note of.
            field::COMMON_LB_CONFIG => or_keep(
                base.message(found.number).map(|common| Some(common.replaced(&[2, 3, 7], &[]))).map_err(Into::into),
            ),
            field::TYPED_EXTENSION_PROTOCOL_OPTIONS => or_keep(protocol_of(found.bytes(), pool.protocol())),
            _ => Change::Keep,
        },
        &added,
    );
    failure.map_or(Ok(made), Err)
}

/// Circuit breakers that say what was said, and of what was not: that there is room for `max_streams`.
fn breakers(present: &Message<'_>, max_streams: u32) -> Result<Vec<u8>, MakeError> {
    let full = xds::breaker_threshold(max_streams)?;
    let full = Message::read(&full)?;
    let mut is_there = false;
    let mut failure = None;
    let mut made = present.changed(
        |found| match Message::read(found.bytes()) {
            // Of the default priority, which alone is used here.
            Ok(threshold) if found.number == 1 && threshold.integer(1) == 0 => {
                is_there = true;
                let missing =
                    full.changed(|wanted| if threshold.has(wanted.number) { Change::Drop } else { Change::Keep }, &[]);
                Change::Set(threshold.changed(|_| Change::Keep, &missing))
            }
            Ok(_) => Change::Keep,
            Err(error) => {
                failure = Some(error);
                Change::Keep
            }
        },
        &[],
    );
    if !is_there {
        put_bytes(&mut made, 1, &full.changed(|_| Change::Keep, &[]));
    }
    failure.map_or(Ok(made), |error| Err(error.into()))
}

/// Whether a cluster says what its hosts speak.
fn protocol_entries(base: &Message<'_>) -> Result<bool, WireError> {
    for entry in base.all(field::TYPED_EXTENSION_PROTOCOL_OPTIONS) {
        if Message::read(entry)?.text(1) == HTTP_PROTOCOL_OPTIONS {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An entry of the protocol options made that of a pool's protocol; `None` where it is that or about something else.
fn protocol_of(entry: &[u8], protocol: EndpointProtocol) -> Result<Option<Vec<u8>>, MakeError> {
    let entry = Message::read(entry)?;
    if entry.text(1) != HTTP_PROTOCOL_OPTIONS {
        return Ok(None);
    }
    let (_, options) = read_any(entry.bytes(2).unwrap_or_default())?;
    let options_read = Message::read(options)?;
    let explicit = options_read.message(3)?;
    let is_so = match protocol {
        EndpointProtocol::Http1 => explicit.has(1),
        EndpointProtocol::H2c => explicit.has(2),
    };
    // A policy may have the client's protocol used.
    if is_so || options_read.has(4) {
        return Ok(None);
    }
    Ok(Some(protocol_entry(options, protocol)?))
}

/// An entry of the protocol options: these, with what the hosts speak.
fn protocol_entry(options: &[u8], protocol: EndpointProtocol) -> Result<Vec<u8>, MakeError> {
    let mut explicit = Vec::new();
    put_bytes(&mut explicit, 3, &xds::explicit_http(protocol)?);
    let options = Message::read(options)?.replaced(&[3, 4, 5], &explicit);
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, HTTP_PROTOCOL_OPTIONS.as_bytes());
    put_bytes(&mut entry, 2, &any(HTTP_PROTOCOL_OPTIONS, &options));
    Ok(entry)
}

/// The name of the cluster that a pool's picker is asked by, and its authority; `None` where nobody picks.
pub(crate) fn picker_of(pool: &StampedPool, picture: &Picture) -> Option<(String, String)> {
    match &pool.picker {
        StampedPicker::None => None,
        StampedPicker::Unsupported => Some((NO_PICKER.to_owned(), NO_PICKER.to_owned())),
        StampedPicker::Service(picker) => match picture.pickers.get(picker) {
            Some(PickerState::Found(_)) => Some((picker.cluster(), picker.authority())),
            Some(PickerState::Missing(_)) | None => Some((NO_PICKER.to_owned(), picker.authority())),
        },
    }
}

/// The clusters of the pickers that these pools name, and the one for those that are nowhere.
pub(crate) fn picker_clusters<'a>(
    pools: impl Iterator<Item = &'a StampedPool>,
    picture: &Picture,
    max_streams: u32,
) -> Result<Vec<Vec<u8>>, EncodeError> {
    let service = |pool: &'a StampedPool| match &pool.picker {
        StampedPicker::Service(picker) => Some(picker),
        StampedPicker::None | StampedPicker::Unsupported => None,
    };
    let named: BTreeSet<&PickerRef> = pools.filter_map(service).collect();
    let found = named.into_iter().filter_map(|picker| match picture.pickers.get(picker) {
        Some(PickerState::Found(peer)) => Some((picker.cluster(), peer.clone())),
        Some(PickerState::Missing(_)) | None => None,
    });
    let mut clusters: BTreeMap<String, Peer> = found.collect();
    clusters.insert(NO_PICKER.to_owned(), Peer::plaintext([]));
    clusters.iter().map(|(name, peer)| xds::picker_cluster(name, peer, max_streams)).collect()
}
