use serde_json::{Value, json};

use super::*;

fn server() -> ExtensionServer {
    ExtensionServer { service: ObjectKey::new("pointsman", "pointsman-gateway"), port: 9004, is_secure: true }
}

fn extension(entry: Value) -> Option<Extension> {
    Extension::of(&json!({"extensionManager": entry}), &server().service)
}

fn set(of: &BTreeSet<&str>) -> BTreeSet<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

#[track_caller]
fn expect(findings: &[Finding], expected: &[(Mark, &str)]) {
    assert_eq!(findings.len(), expected.len(), "{findings:?}");
    for (finding, (mark, text)) in findings.iter().zip(expected) {
        assert!(finding.mark == *mark && finding.text.contains(text), "{finding:?}: {text}");
        assert_eq!(finding.mend.is_some(), *mark != Mark::Ok, "{finding:?}");
    }
}

#[test]
fn an_envoy_gateway_that_nobody_uses_and_that_of_another_extension_server_are_no_faults() {
    let ours = server().service;
    let foreign = || extension(json!({"service": {"fqdn": {"hostname": "ai.ai-system.svc", "port": 1063}}}));
    assert!(matches!(relation(None, &ours, false), Relation::Unused));
    assert!(matches!(relation(None, &ours, true), Relation::Used(None)));
    assert!(matches!(relation(foreign(), &ours, true), Relation::Others(host) if host == "ai.ai-system.svc"));
    let printed = extension(extension_manager(&server()));
    assert!(matches!(relation(printed, &ours, false), Relation::Used(Some(_))));
    // The server may stand elsewhere: what it is given says whose it is.
    let elsewhere = ExtensionServer { service: ObjectKey::new("infra", "pm"), ..server() };
    assert!(matches!(relation(extension(extension_manager(&elsewhere)), &ours, false), Relation::Used(Some(_))));
}

#[test]
fn both_kinds_have_to_be_served() {
    let of = |group: &str, version: &str, plural: &str| {
        ((group.to_owned(), version.to_owned()), vec!["other".to_owned(), plural.to_owned()])
    };
    let pools = of("inference.networking.k8s.io", "v1", "inferencepools");
    let syncs = of("pointsman.dev", "v1alpha1", "gatewaysyncs");
    let older = of("inference.networking.x-k8s.io", "v1alpha2", "inferencepools");
    expect(&definitions(&[pools, syncs.clone()].into()), &[(Mark::Ok, "served as v1"), (Mark::Ok, "gatewaysyncs")]);
    expect(
        &definitions(&[older, syncs].into()),
        &[(Mark::Fail, "inferencepools.inference.networking.k8s.io is not served as v1"), (Mark::Ok, "gatewaysyncs")],
    );
    expect(&definitions(&Served::new()), &[(Mark::Fail, "inferencepools"), (Mark::Fail, "gatewaysyncs.pointsman.dev")]);
}

#[test]
fn a_configuration_without_an_extension_manager_is_told_with_all_of_it() {
    let findings = told(None, &server());
    expect(&findings, &[(Mark::Fail, "no extensionManager")]);
    let mend = findings[0].mend.as_deref().unwrap();
    let (_, values) = mend.split_once("config.envoyGateway.extensionManager: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(values).unwrap(), extension_manager(&server()));
}

#[test]
fn the_extension_server_has_to_be_where_it_is_told_to_be() {
    let printed = |server: &ExtensionServer| extension(extension_manager(server));
    expect(&told(printed(&server()).as_ref(), &server()), &[(Mark::Ok, "pointsman-gateway.pointsman.svc:9004")]);
    let elsewhere = ExtensionServer { service: ObjectKey::new("infra", "pm"), ..server() };
    expect(
        &told(printed(&elsewhere).as_ref(), &server()),
        &[(Mark::Fail, "which is not the Service pointsman/pointsman-gateway")],
    );
    let mut by_ip = extension_manager(&server());
    by_ip["service"]["fqdn"].take();
    by_ip["service"]["ip"] = json!({"address": "10.0.0.1", "port": 9004});
    expect(&told(extension(by_ip).as_ref(), &server()), &[(Mark::Warn, "names no Service")]);
}

#[test]
fn a_secret_has_to_be_there_with_its_keys() {
    let keys: &[&str] = &["tls.crt", "tls.key"];
    for (found, mark, text) in [
        (None, Mark::Fail, "there is no Secret eg/client, what for"),
        (Some(set(&["tls.crt"].into())), Mark::Fail, "Secret eg/client has no tls.key"),
        (Some(set(&["ca.crt", "tls.crt", "tls.key"].into())), Mark::Ok, "Secret eg/client holds what for"),
    ] {
        expect(&[secret("eg", "client", keys, "what for", found.as_ref())], &[(mark, text)]);
    }
}

#[test]
fn the_service_has_to_lead_to_extension_servers_and_better_to_two() {
    let ports =
        |numbers: &[i32]| Some(numbers.iter().map(|number| (*number, String::new())).collect::<BTreeMap<_, _>>());
    let backends = |ready: &[bool]| -> Vec<Backend> {
        let backend =
            |is_ready: &bool| Backend { address: ([10, 0, 0, 1], 9004).into(), is_ready: *is_ready, pod: None };
        ready.iter().map(backend).collect()
    };
    for (ports, ready, mark, text) in [
        (None, &[][..], Mark::Fail, "there is no Service pointsman/pointsman-gateway"),
        (ports(&[80, 443]), &[], Mark::Fail, "has no port 9004; it has: 80, 443"),
        (ports(&[9004]), &[], Mark::Fail, "leads to no ready extension server"),
        (ports(&[9004]), &[false, false], Mark::Fail, "leads to no ready extension server"),
        (ports(&[9004]), &[true, false], Mark::Warn, "leads to one extension server alone"),
        (ports(&[80, 9004]), &[true, true], Mark::Ok, "leads to 2 ready extension servers"),
    ] {
        expect(&[judge_service(&server(), ports.as_ref(), &backends(ready))], &[(mark, text)]);
    }
}

#[test]
fn every_gateway_with_pools_has_to_have_its_gateway_sync() {
    let keys = |names: &[&str]| names.iter().map(|name| ObjectKey::new("team", name)).collect::<BTreeSet<_>>();
    expect(&judge_syncs(&keys(&[]), &keys(&["a"])), &[(Mark::Warn, "no route of its Gateways")]);
    expect(
        &judge_syncs(&keys(&["a", "b"]), &keys(&["a", "c"])),
        &[(Mark::Ok, "Gateway team/a has its GatewaySync"), (Mark::Fail, "Gateway team/b has no GatewaySync")],
    );
}
