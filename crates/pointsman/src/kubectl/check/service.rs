//! Whether the pool's endpointPickerRef leads to pickers: Service, port, EndpointSlices, and what they speak.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use pointsman_k8s::api::PickerRef;
use pointsman_k8s::facts::SliceFacts;
use pointsman_k8s::key::ObjectKey;

use super::pickers::Pickers;
use super::report::{Finding, Report};
use super::tls;
use crate::kubectl::args::CheckArgs;
use crate::kubectl::cluster::{Cluster, PoolObject, selector};
use crate::kubectl::table::count;

/// An address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// With the port that is behind the Service's.
    pub(super) address: SocketAddr,
    pub(super) is_ready: bool,
    /// The pod behind it, where the slice names one.
    pub(super) pod: Option<ObjectKey>,
}

/// Follows the reference as a gateway does. Pickers that stand by are not ready, and need not be.
pub(super) async fn check(
    cluster: &Cluster,
    args: &CheckArgs,
    pool: &PoolObject,
    pickers: &Pickers,
    report: &mut Report,
) {
    let namespace = &*pool.key.namespace;
    let Some(picker) = &pool.spec.picker else {
        let mend = "set spec.endpointPickerRef to the picker's Service";
        match pickers.are_found_apart() {
            // An Envoy beside the picker needs no reference.
            true => report.warn("the pool names no picker: no gateway asks one, but an Envoy of your own may", mend),
            false => report.fail("the pool names no picker", mend),
        }
        return;
    };
    let Some(name) = picker.service() else {
        report.warn(
            format!("endpointPickerRef names a {} {}, which is no Service", picker.kind, picker.name),
            "what that leads to is for the gateway to say",
        );
        return;
    };
    let Some(service) = report.known(cluster.get::<Service>(namespace, name).await) else { return };
    let Some(service) = service else {
        report.fail(
            format!("there is no Service {name} in namespace {namespace}"),
            "create it, or correct the name in the pool's endpointPickerRef",
        );
        return;
    };
    let spec = service.spec.unwrap_or_default();
    let port = match port(picker, name, spec.ports.as_deref().unwrap_or_default()) {
        Ok(port) => port,
        Err(finding) => return report.add(finding),
    };
    let Some(slices) = report.known(cluster.slices(namespace, name).await) else { return };
    let backends = backends(&slices, port.name.as_deref().unwrap_or_default());
    let labels = spec.selector.unwrap_or_default();
    let selected = match (backends.is_empty(), labels.is_empty()) {
        (true, false) => {
            report.known(cluster.pickers_by_labels(namespace, &selector(&labels)).await).map(|pods| pods.len())
        }
        _ => Some(0),
    };
    let service = format!("Service {name}:{}", port.port);
    report.add(leads(&service, &backends, &selector(&labels), selected, pickers.standing_by()));
    let ready: Vec<Backend> = backends.into_iter().filter(|backend| backend.is_ready).collect();
    tls::check(cluster, args, namespace, name, &ready, report).await;
}

/// The Service's port that the reference names.
fn port<'a>(picker: &PickerRef, name: &str, ports: &'a [ServicePort]) -> Result<&'a ServicePort, Finding> {
    let wanted = picker.port.map(i32::from);
    let Some(wanted) = wanted else {
        return Err(Finding::fail(
            "endpointPickerRef names no port",
            "set endpointPickerRef.port.number, 9002 as a rule",
        ));
    };
    ports.iter().find(|port| port.port == wanted).ok_or_else(|| {
        let there: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
        Finding::fail(
            format!("Service {name} has no port {wanted}; it has: {}", there.join(", ")),
            "correct endpointPickerRef.port.number in the pool, or add the port to the Service",
        )
    })
}

/// The addresses of the slices, with the port of that name. A slice's only port is meant whatever its name.
pub(super) fn backends(slices: &[SliceFacts], port: &str) -> Vec<Backend> {
    let of = |slice: &SliceFacts| {
        let named = slice.ports.iter().find(|(name, _)| **name == *port);
        let number = named.or(slice.ports.first().filter(|_| slice.ports.len() == 1)).map(|(_, number)| *number);
        let backend = move |address: &pointsman_k8s::facts::SliceAddress| {
            Some(Backend {
                address: SocketAddr::new(address.ip, number?),
                is_ready: address.is_ready,
                pod: address.pod.as_ref().map(|(pod, _)| pod.clone()),
            })
        };
        slice.addresses.iter().filter_map(backend).collect::<Vec<_>>()
    };
    slices.iter().flat_map(of).collect()
}

/// Where the Service leads. `selected` is how many pods its selector picks, asked where it leads nowhere.
fn leads(service: &str, backends: &[Backend], labels: &str, selected: Option<usize>, standing_by: usize) -> Finding {
    let ready = backends.iter().filter(|backend| backend.is_ready).count();
    match (ready, backends.len(), selected) {
        (1.., all, _) if ready == all => Finding::ok(format!("{service} leads to {}", count(ready, "ready picker"))),
        (1.., all, _) if ready + standing_by >= all => Finding::ok(format!(
            "{service} leads to {}, and {} that stand by",
            count(ready, "ready picker"),
            all - ready
        )),
        (1.., all, _) => Finding::warn(
            format!("{service} leads to {ready} ready of {all} pickers"),
            "the logs of the others say why they are not: `kubectl logs`",
        ),
        (0, 1.., _) => Finding::fail(
            format!("{service} leads to {}, none of them ready", count(backends.len(), "picker")),
            "their logs say why: `kubectl logs`; each obstacle also stands below, where their admin pages can be read",
        ),
        (_, _, _) if labels.is_empty() => Finding::fail(
            format!("{service} has neither a selector nor EndpointSlices"),
            "give it the labels of the pickers' pods as its selector",
        ),
        (_, _, Some(0) | None) => Finding::fail(
            format!("{service} leads nowhere: no pod has the labels {labels}"),
            "correct the Service's selector, or start the pickers",
        ),
        (_, _, Some(selected)) => Finding::fail(
            format!("{service} selects {}, and has no EndpointSlice with this port", count(selected, "pod")),
            "does its targetPort name a port of the pods, and does the cluster's endpointslice controller run?",
        ),
    }
}

#[cfg(test)]
mod tests {
    use pointsman_k8s::facts::SliceAddress;

    use super::super::report::Mark;
    use super::*;

    fn slice(ready: &[bool]) -> SliceFacts {
        let address = |(host, is_ready): (usize, &bool)| SliceAddress {
            ip: format!("10.0.0.{host}").parse().unwrap(),
            is_ready: *is_ready,
            is_terminating: false,
            zone: None,
            node: None,
            for_zones: Vec::new(),
            pod: None,
        };
        SliceFacts {
            service: Some("picker".into()),
            ports: vec![("health".into(), 9003), ("grpc".into(), 19002)],
            addresses: ready.iter().enumerate().map(address).collect(),
        }
    }

    #[test]
    fn where_a_service_leads_is_told_with_what_to_do() {
        let table = [
            (slice(&[true, true]), "app=picker", Some(0), Mark::Ok, "leads to 2 ready pickers"),
            (slice(&[true, false]), "app=picker", Some(0), Mark::Warn, "1 ready of 2"),
            (slice(&[false]), "app=picker", Some(0), Mark::Fail, "leads to 1 picker, none of them ready"),
            (slice(&[]), "", Some(0), Mark::Fail, "neither a selector nor EndpointSlices"),
            (slice(&[]), "app=picker", Some(0), Mark::Fail, "no pod has the labels app=picker"),
            (slice(&[]), "app=picker", Some(2), Mark::Fail, "selects 2 pods, and has no EndpointSlice"),
        ];
        for (slice, labels, selected, mark, expected) in table {
            let finding = leads("Service picker:9002", &backends(&[slice], "grpc"), labels, selected, 0);
            assert!(finding.mark == mark && finding.text.contains(expected), "{finding:?}");
        }
        let finding = leads("Service picker:9002", &backends(&[slice(&[true, false])], "grpc"), "app=picker", None, 1);
        assert!(finding.mark == Mark::Ok && finding.text.contains("1 ready picker, and 1 that stand"), "{finding:?}");
    }

    #[test]
    fn the_port_is_the_slices_own_of_that_name() {
        assert_eq!(backends(&[slice(&[true])], "grpc")[0].address, "10.0.0.0:19002".parse().unwrap());
        assert_eq!(backends(&[slice(&[true])], "other"), []);
    }

    #[test]
    fn a_port_that_the_service_lacks_is_told_beside_those_that_it_has() {
        let service = |number| ServicePort { port: number, ..ServicePort::default() };
        let mut picker = PickerRef {
            group: String::new(),
            kind: "Service".into(),
            name: "picker".into(),
            port: Some(9002),
            failure_mode: Default::default(),
        };
        assert_eq!(port(&picker, "picker", &[service(9003), service(9002)]).unwrap().port, 9002);
        let finding = port(&picker, "picker", &[service(9003)]).unwrap_err();
        assert_eq!(finding.text, "Service picker has no port 9002; it has: 9003");
        picker.port = None;
        assert!(port(&picker, "picker", &[]).unwrap_err().text.contains("names no port"));
    }
}
