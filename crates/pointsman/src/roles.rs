//! `pointsman roles`: the Roles that a picker needs, or Envoy Gateway's extension server, and their bindings, as manifests.

use anyhow::{Context, Result};
use pointsman_k8s::index::Scope;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease;
use pointsman_k8s::rbac::{GatewayInstall, Install, Manifest};
use pointsman_k8s::trust;

use crate::args::{EXTENSION_SERVER, RolesArgs};

/// Prints the manifests.
pub(crate) fn run(args: &RolesArgs) -> Result<()> {
    print!("{}", text(args)?);
    Ok(())
}

fn text(args: &RolesArgs) -> Result<String> {
    let manifests = if args.gateway { gateway(args) } else { picker(args) };
    manifests.iter().map(document).collect()
}

fn picker(args: &RolesArgs) -> Vec<Manifest> {
    let pools_namespace = args.pool_namespace.as_ref().unwrap_or(&args.namespace);
    let scope = match &args.pool_name {
        Some(name) => Scope::Pool(ObjectKey::new(pools_namespace, name)),
        None => Scope::Namespace(pools_namespace.as_str().into()),
    };
    let account = args.service_account.as_deref().unwrap_or("pointsman");
    let install = Install {
        name: account.to_owned(),
        pools_namespace: pools_namespace.clone(),
        picker_namespace: args.namespace.clone(),
        lease: args.lease_name.clone().unwrap_or_else(|| lease::default_name(&scope)),
        trust: args.service_name.as_deref().map(trust::object_name),
        metrics_auth: args.metrics_auth,
    };
    install.manifests(account)
}

fn gateway(args: &RolesArgs) -> Vec<Manifest> {
    let or_default = |given: &Option<String>| given.clone().unwrap_or_else(|| EXTENSION_SERVER.to_owned());
    let service = or_default(&args.service_name);
    let install = GatewayInstall {
        account: ObjectKey::new(&args.namespace, &or_default(&args.service_account)),
        lease: or_default(&args.lease_name),
        trust: trust::object_name(&service),
        client: trust::client_name(&service),
        envoy_gateway: ObjectKey::new(&args.envoy_gateway_namespace, &args.envoy_gateway_service_account),
        metrics_auth: args.metrics_auth,
    };
    install.manifests()
}

fn document(object: &Manifest) -> Result<String> {
    Ok(format!("---\n{}", serde_saphyr::to_string(object).context("writing a manifest as YAML")?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> clap::error::Result<RolesArgs> {
        match Cli::try_parse_from(["pointsman", "roles", "-n", "ours"].iter().chain(flags))?.command {
            Command::Roles(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    /// Kind and name of each document, a manifest that `kubectl apply` takes.
    fn printed(flags: &[&str]) -> Vec<String> {
        let text = text(&parse(flags).unwrap()).unwrap();
        assert!(text.starts_with("---\n") && text.ends_with('\n'), "{text}");
        let documents = text.split("---\n").skip(1).map(|document| {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            assert_eq!(object["apiVersion"], "rbac.authorization.k8s.io/v1", "{document}");
            format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
        });
        documents.collect()
    }

    #[test]
    fn a_picker_and_a_gateway_of_one_account_have_objects_of_their_own() {
        assert_eq!(printed(&[]), ["Role pointsman", "RoleBinding pointsman"]);
        assert_eq!(
            printed(&["--metrics-auth"])[2..],
            ["ClusterRole pointsman:ours:pointsman", "ClusterRoleBinding pointsman:ours:pointsman"]
        );
        let ours = "pointsman-gateway:ours:pointsman";
        assert_eq!(
            printed(&["--gateway", "--service-account", "pointsman"]),
            [
                format!("ClusterRole {ours}"),
                format!("Role {ours}"),
                format!("Role {ours}"),
                format!("ClusterRoleBinding {ours}"),
                format!("RoleBinding {ours}"),
                format!("RoleBinding {ours}"),
                format!("ClusterRole {ours}:envoy-gateway"),
                format!("ClusterRoleBinding {ours}:envoy-gateway"),
            ]
        );
    }

    #[test]
    fn reviews_are_granted_where_they_are_asked_for() {
        for kind in [&[][..], &["--gateway"]] {
            let text = |flags: &[&str]| text(&parse(&[kind, flags].concat()).unwrap()).unwrap();
            for resource in ["tokenreviews", "subjectaccessreviews"] {
                assert!(!text(&[]).contains(resource) && text(&["--metrics-auth"]).contains(resource), "{kind:?}");
            }
        }
    }

    #[test]
    fn flags_of_the_other_kind_of_installation_are_refused() {
        for wrong in [
            &["--gateway", "--pool-name", "chat"][..],
            &["--gateway", "--pool-namespace", "ai"],
            &["--envoy-gateway-namespace", "eg"],
            &["--envoy-gateway-service-account", "eg"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
