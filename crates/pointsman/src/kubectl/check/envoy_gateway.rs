//! Whether Envoy Gateway, where there is one, is told of the extension server, may do what that asks of it, and reaches it.
//!
//! Definitions and permissions come first, and that is the order to mend things in: without them Envoy Gateway starts no
//! workers, whatever else is right.

mod extension;
mod read;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use pointsman_k8s::api::{GROUP, PoolGroup, VERSION};
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::rbac::envoy_gateway_grants;

use self::extension::Extension;
use self::read::Configured;
use super::definitions::Served;
use super::permissions;
use super::report::{Finding, Mark, Report};
use super::service::{Backend, backends};
use crate::args::{EXTENSION_SERVER, OWN_NAMESPACE};
use crate::gateway::install::{ExtensionServer, extension_manager};
use crate::kubectl::args::EnvoyGatewayArgs;
use crate::kubectl::cluster::{Cluster, pool_key};
use crate::kubectl::table::count;

/// The port of the extension server, where nothing says another.
const DEFAULT_PORT: u16 = 9004;

/// What Envoy Gateway is to us.
enum Relation {
    /// It is told of an extension server of ours, or has Gateways whose routes name pools.
    Used(Option<Extension>),
    /// It is told of another's.
    Others(String),
    /// It is told of none, and no route names a pool.
    Unused,
}

/// Looks at Envoy Gateway. Says nothing where no GatewayClass is its own.
pub(super) async fn check(cluster: &Cluster, args: &EnvoyGatewayArgs, served: Option<&Served>, report: &mut Report) {
    let Some(classes) = report.known(read::classes(cluster, &args.controller_name).await) else { return };
    if classes.is_empty() {
        return;
    }
    let Some(gateways) = report.known(read::gateways_with_pools(cluster, &classes).await) else { return };
    let Some(configured) = report.known(read::configuration(cluster, &args.envoy_gateway_namespace).await) else {
        return;
    };
    let named = args.extension_server.as_deref();
    let ours = pool_key(named.unwrap_or(EXTENSION_SERVER), OWN_NAMESPACE);
    let extension = match &configured {
        Configured::As(configuration) => Extension::of(configuration, &ours),
        Configured::Not(_) => None,
    };
    let extension = match relation(extension, &ours, !gateways.is_empty()) {
        Relation::Used(extension) => extension,
        Relation::Others(host) => {
            let text =
                format!("it asks another extension server, {host}: InferencePools are for that one to understand");
            let mend = "nothing, where that one asks the pools' pickers. In its place, the values that `pointsman gateway \
                        --print-values` prints";
            return report.warn(text, mend);
        }
        Relation::Unused => return report.ok("no route of its Gateways names an InferencePool"),
    };
    // Where nobody named the server, the configuration does.
    let service = extension.as_ref().filter(|_| named.is_none()).and_then(Extension::service).unwrap_or(ours);
    let port = extension.as_ref().and_then(|extension| Some(extension.address.as_ref()?.1)).unwrap_or(DEFAULT_PORT);
    let server = ExtensionServer { service, port, is_secure: true };

    if let Some(served) = served {
        definitions(served).into_iter().for_each(|finding| report.add(finding));
    }
    check_permissions(cluster, args, &server, report).await;
    match configured {
        Configured::Not(obstacle) => report.add(obstacle),
        Configured::As(_) => told(extension.as_ref(), &server).into_iter().for_each(|finding| report.add(finding)),
    }
    for (name, keys, what) in extension.iter().flat_map(Extension::secrets) {
        let found = report.known(read::secret_keys(cluster, &args.envoy_gateway_namespace, &name).await);
        let found = found.map(|found| secret(&args.envoy_gateway_namespace, &name, keys, what, found.as_ref()));
        found.into_iter().for_each(|finding| report.add(finding));
    }
    check_service(cluster, &server, report).await;
    if let Some(syncs) = report.known(read::syncs(cluster).await) {
        judge_syncs(&gateways, &syncs).into_iter().for_each(|finding| report.add(finding));
    }
}

fn relation(extension: Option<Extension>, ours: &ObjectKey, has_routes: bool) -> Relation {
    match extension {
        Some(extension) if !extension.is_ours(ours) => {
            let host = extension.address.map(|(host, _)| host);
            Relation::Others(host.unwrap_or_else(|| "without a host name".to_owned()))
        }
        None if !has_routes => Relation::Unused,
        extension => Relation::Used(extension),
    }
}

/// Whether both kinds are served that Envoy Gateway watches for us.
fn definitions(served: &Served) -> Vec<Finding> {
    let stable = PoolGroup::Stable;
    let kinds = [
        (
            stable.as_str(),
            stable.version(),
            "inferencepools",
            "install the CRDs of the Gateway API Inference Extension",
        ),
        (GROUP, VERSION, "gatewaysyncs", "`pointsman crds --output crds && kubectl apply --server-side -f crds`"),
    ];
    let judge = |(group, version, plural, mend): (&str, &str, &str, &str)| {
        let names = served.get(&(group.to_owned(), version.to_owned()));
        match names.is_some_and(|names| names.iter().any(|name| name == plural)) {
            true => Finding::ok(format!("{plural}.{group} is served as {version}")),
            false => Finding::fail(
                format!("{plural}.{group} is not served as {version}: Envoy Gateway calls no extension server"),
                mend,
            ),
        }
    };
    kinds.into_iter().map(judge).collect()
}

async fn check_permissions(cluster: &Cluster, args: &EnvoyGatewayArgs, server: &ExtensionServer, report: &mut Report) {
    let account = ObjectKey::new(&args.envoy_gateway_namespace, &args.envoy_gateway_service_account);
    let does = "Envoy Gateway does with InferencePools and GatewaySyncs";
    for mut finding in permissions::of_account(cluster, &account, does, envoy_gateway_grants()).await {
        if finding.mark == Mark::Fail {
            let ObjectKey { namespace, name } = &server.service;
            finding.mend = Some(format!(
                "`pointsman roles --gateway -n {namespace} --service-name {name} --envoy-gateway-namespace {} \
                 --envoy-gateway-service-account {}` prints it, with what the extension server needs; {}",
                account.namespace,
                account.name,
                finding.mend.unwrap_or_default()
            ));
        }
        report.add(finding);
    }
}

/// What Envoy Gateway's configuration says of the extension server.
fn told(extension: Option<&Extension>, server: &ExtensionServer) -> Vec<Finding> {
    let expected = extension_manager(server);
    let Some(extension) = extension else {
        let text = "its configuration has no extensionManager, so it refuses InferencePools";
        return vec![Finding::fail(text, extension::whole(&expected))];
    };
    let mut findings = extension.judge(&expected);
    match (&extension.address, extension.service()) {
        (Some((host, _)), Some(service)) if service != server.service => findings.push(Finding::fail(
            format!("extensionManager.service names {host}, which is not the Service {}", server.service),
            format!("set it to {}", expected["service"]["fqdn"]),
        )),
        (Some((host, port)), Some(_)) if findings.is_empty() => {
            findings.push(Finding::ok(format!("it is told of the extension server at {host}:{port}")));
        }
        (_, None) => findings.push(Finding::warn(
            "extensionManager.service names no Service of this cluster, so whether anybody is there cannot be told",
            format!("set it to {}", expected["service"]["fqdn"]),
        )),
        (_, Some(_)) => {}
    }
    findings
}

fn secret(namespace: &str, name: &str, keys: &[&str], what: &str, found: Option<&BTreeSet<String>>) -> Finding {
    let mend = "the extension server makes it: its log says what is in the way, as a rule that it may not (`pointsman roles \
                --gateway`)";
    let Some(found) = found else {
        return Finding::fail(format!("there is no Secret {namespace}/{name}, {what}"), mend);
    };
    let missing: Vec<&str> = keys.iter().copied().filter(|key| !found.contains(*key)).collect();
    match missing.is_empty() {
        true => Finding::ok(format!("Secret {namespace}/{name} holds {what}")),
        false => Finding::fail(
            format!("Secret {namespace}/{name} has no {}, and should hold {what}", missing.join(", ")),
            format!("delete it, if nobody else needs it; {mend}"),
        ),
    }
}

async fn check_service(cluster: &Cluster, server: &ExtensionServer, report: &mut Report) {
    let ObjectKey { namespace, name } = &server.service;
    let Some(service) = report.known(cluster.get::<Service>(namespace, name).await) else { return };
    let Some(slices) = report.known(cluster.slices(namespace, name).await) else { return };
    let ports = service.map(|service| service.spec.and_then(|spec| spec.ports).unwrap_or_default());
    let ports: Option<BTreeMap<i32, String>> =
        ports.map(|ports| ports.into_iter().map(|port| (port.port, port.name.unwrap_or_default())).collect());
    let port = ports.as_ref().and_then(|ports| ports.get(&server.port.into()));
    let backends = port.map(|port| backends(&slices, port)).unwrap_or_default();
    report.add(judge_service(server, ports.as_ref(), &backends));
}

/// Where the extension server's Service leads; its ports are those of the Service, with their names.
fn judge_service(server: &ExtensionServer, ports: Option<&BTreeMap<i32, String>>, backends: &[Backend]) -> Finding {
    let ExtensionServer { service, port, .. } = server;
    let Some(ports) = ports else {
        return Finding::fail(
            format!("there is no Service {service}, where Envoy Gateway should find the extension server"),
            "create it, headless, over the pods that run `pointsman gateway`; or name the right one by --extension-server",
        );
    };
    if !ports.contains_key(&i32::from(*port)) {
        let there: Vec<String> = ports.keys().map(i32::to_string).collect();
        return Finding::fail(
            format!("Service {service} has no port {port}; it has: {}", there.join(", ")),
            "add it to the Service, or correct the port in extensionManager.service",
        );
    }
    let ready = backends.iter().filter(|backend| backend.is_ready).count();
    match ready {
        0 => Finding::fail(
            format!(
                "Service {service}:{port} leads to no ready extension server: all that Envoy Gateway would change waits"
            ),
            "does the Service select the pods that run `pointsman gateway`? Their logs say what they wait for",
        ),
        1 => Finding::warn(
            format!("Service {service}:{port} leads to one extension server alone"),
            "run two: while none answers, all that Envoy Gateway would change waits, of Gateways without pools too",
        ),
        _ => Finding::ok(format!("Service {service}:{port} leads to {}", count(ready, "ready extension server"))),
    }
}

/// Whether every Gateway whose routes name pools has its GatewaySync.
fn judge_syncs(gateways: &BTreeSet<ObjectKey>, syncs: &BTreeSet<ObjectKey>) -> Vec<Finding> {
    if gateways.is_empty() {
        return vec![Finding::warn(
            "no route of its Gateways names an InferencePool",
            "apply an HTTPRoute with backendRefs [{group: inference.networking.k8s.io, kind: InferencePool, name: ...}]",
        )];
    }
    let judge = |gateway: &ObjectKey| match syncs.contains(gateway) {
        true => Finding::ok(format!("Gateway {gateway} has its GatewaySync")),
        false => Finding::fail(
            format!("Gateway {gateway} has no GatewaySync: no extension server knows of its routes"),
            "the extension server writes it: its log says what is in the way",
        ),
    };
    gateways.iter().map(judge).collect()
}

#[cfg(test)]
mod tests;
