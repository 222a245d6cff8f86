//! `pointsman roles`: the Roles that a picker needs, and their bindings, as manifests.

use anyhow::{Context, Result};
use pointsman_k8s::index::Scope;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease;
use pointsman_k8s::rbac::Install;
use pointsman_k8s::trust;
use serde::Serialize;

use crate::args::RolesArgs;

/// Prints the manifests.
pub(crate) fn run(args: &RolesArgs) -> Result<()> {
    print!("{}", manifests(args)?);
    Ok(())
}

fn manifests(args: &RolesArgs) -> Result<String> {
    let pools_namespace = args.pool_namespace.as_ref().unwrap_or(&args.namespace);
    let scope = match &args.pool_name {
        Some(name) => Scope::Pool(ObjectKey::new(pools_namespace, name)),
        None => Scope::Namespace(pools_namespace.as_str().into()),
    };
    let install = Install {
        name: args.service_account.clone(),
        pools_namespace: pools_namespace.clone(),
        picker_namespace: args.namespace.clone(),
        lease: args.lease_name.clone().unwrap_or_else(|| lease::default_name(&scope)),
        trust: args.service_name.as_deref().map(trust::object_name),
    };
    let roles = install.roles().iter().map(document).collect::<Result<String>>()?;
    let bindings = install.bindings(&args.service_account).iter().map(document).collect::<Result<String>>()?;
    Ok(roles + &bindings)
}

fn document(object: &impl Serialize) -> Result<String> {
    Ok(format!("---\n{}", serde_saphyr::to_string(object).context("writing a manifest as YAML")?))
}
