//! Listeners: the filters, in every connection manager whose routes lead to pools.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_envoy::wire::{Change, Field, Message, WireError, any, put_bytes, read_any};
use pointsman_envoy::wiring::ROUTER_FILTER;
use pointsman_envoy::xds::{self, EXT_PROC_FILTER, HEADER_MUTATION_FILTER};

use crate::clusters::{MakeError, NO_PICKER};

/// `Listener.filter_chains` and `Listener.default_filter_chain`.
const CHAINS: [u32; 2] = [3, 25];
/// `FilterChain.filters`, and `Filter.typed_config`.
const FILTERS: u32 = 3;
const TYPED_CONFIG: u32 = 4;

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// Fields of a connection manager.
const RDS: u32 = 3;
const HTTP_FILTERS: u32 = 5;
const STREAM_IDLE_TIMEOUT: u32 = 24;
/// `Rds.route_config_name`.
const ROUTE_CONFIG_NAME: u32 = 2;

/// What a connection manager says that its routes have to know, by the name of its routes.
pub(crate) type Managers = BTreeMap<String, bool>;

/// By the name of their routes, the connection managers of these listeners, and whether each has a limit on idle streams.
pub(crate) fn managers<'a>(listeners: impl Iterator<Item = &'a [u8]>) -> Result<Managers, WireError> {
    let mut managers = Managers::new();
    for listener in listeners {
        let listener = Message::read(listener)?;
        for chain in CHAINS.iter().flat_map(|number| listener.all(*number)) {
            for filter in Message::read(chain)?.all(FILTERS) {
                let filter = Message::read(filter)?;
                let (kind, config) = read_any(filter.bytes(TYPED_CONFIG).unwrap_or_default())?;
                if kind == MANAGER {
                    let manager = Message::read(config)?;
                    let routes = manager.message(RDS)?.text(ROUTE_CONFIG_NAME).to_owned();
                    *managers.entry(routes).or_default() |= manager.has(STREAM_IDLE_TIMEOUT);
                }
            }
        }
    }
    Ok(managers)
}

/// The listener with the filters in every connection manager whose routes are among `pooled`; `None` where there is none.
pub(crate) fn with_filters(listener: &[u8], pooled: &BTreeSet<String>) -> Result<Option<Vec<u8>>, MakeError> {
    let change_filter = |filter: &[u8]| {
        let filter = Message::read(filter)?;
        let (kind, config) = read_any(filter.bytes(TYPED_CONFIG).unwrap_or_default())?;
        let manager = Message::read(config)?;
        if kind != MANAGER || !pooled.contains(manager.message(RDS)?.text(ROUTE_CONFIG_NAME)) {
            return Ok(None);
        }
        let manager = any(MANAGER, &manager_with_filters(&manager)?);
        let mut added = Vec::new();
        put_bytes(&mut added, TYPED_CONFIG, &manager);
        Ok(Some(filter.replaced(&[TYPED_CONFIG], &added)))
    };
    let change_chain = |chain: &[u8]| changed(chain, &[FILTERS], change_filter);
    changed(listener, &CHAINS, change_chain)
}

/// A message with `change` made of each field of these numbers; `None` where none changed.
pub(crate) fn changed(
    message: &[u8],
    numbers: &[u32],
    mut change: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, MakeError>,
) -> Result<Option<Vec<u8>>, MakeError> {
    let (mut is_changed, mut failure) = (false, None);
    let made = Message::read(message)?.changed(
        |field| {
            if !numbers.contains(&field.number) || failure.is_some() {
                return Change::Keep;
            }
            match change(field.bytes()) {
                Ok(Some(made)) => {
                    is_changed = true;
                    Change::Set(made)
                }
                Ok(None) => Change::Keep,
                Err(error) => {
                    failure = Some(error);
                    Change::Keep
                }
            }
        },
        &[],
    );
    match failure {
        Some(error) => Err(error),
        None => Ok(is_changed.then_some(made)),
    }
}

/// A connection manager with both filters: one ahead of all others, one right before the router.
fn manager_with_filters(manager: &Message<'_>) -> Result<Vec<u8>, MakeError> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    put_bytes(&mut first, HTTP_FILTERS, &xds::header_mutation_filter()?);
    // Every pool's route names its own picker, so that this filter is the same whatever pools there are: Envoy drains a
    // listener that changed.
    put_bytes(&mut last, HTTP_FILTERS, &xds::ext_proc_filter(NO_PICKER)?);
    let ours = [HEADER_MUTATION_FILTER, EXT_PROC_FILTER];
    let mut is_first = true;
    Ok(manager.changed(
        |field| {
            if field.number != HTTP_FILTERS {
                return Change::Keep;
            }
            let name = name_of(field);
            if ours.contains(&name) {
                return Change::Drop;
            }
            let mut before = if std::mem::take(&mut is_first) { first.clone() } else { Vec::new() };
            if name == ROUTER_FILTER {
                before.extend_from_slice(&last);
            }
            Change::Before(before)
        },
        &[],
    ))
}

/// The name of a filter; empty for what is none.
fn name_of<'a>(filter: &Field<'a>) -> &'a str {
    Message::read(filter.bytes()).map(|filter| filter.text(1)).unwrap_or_default()
}
