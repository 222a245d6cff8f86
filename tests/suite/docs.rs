mod gateways;
mod install;

use std::fmt::Write;

use anyhow::Result;
use pointsman::config_file;
use pointsman_core::reason::Reason;
use pointsman_core::registry::{PluginDef, Registry};
use pointsman_tests::process::repository;

use crate::cluster::plane;

const BEGIN: &str = "<!-- plugins: written by the suite with POINTSMAN_UPDATE_DOCS=1 -->\n";
const END: &str = "<!-- end of plugins -->\n";

fn rows<P: ?Sized>(kind: &str, plugins: &[PluginDef<P>], table: &mut String) {
    for plugin in plugins {
        let schema = serde_json::to_value((plugin.schema)()).unwrap();
        let parameters = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| format!("`{name}`"));
        let parameters: Vec<_> = parameters.collect();
        writeln!(table, "| {kind} | `{}` | {} | {} |", plugin.name, plugin.summary, parameters.join(", ")).unwrap();
    }
}

#[test]
fn the_readme_lists_every_plugin() {
    let registry = Registry::default();
    let mut table = "| kind | type | what it does | parameters |\n|---|---|---|---|\n".to_owned();
    rows("filter", registry.filters(), &mut table);
    rows("scorer", registry.scorers(), &mut table);
    rows("picker", registry.pickers(), &mut table);
    let file = repository().join("README.md");
    let readme = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has no place for the plugins");
    let (listed, after) = rest.split_once(END).expect("README.md does not end its list of plugins");
    if std::env::var_os("POINTSMAN_UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(listed == table, "README.md lists other plugins: run this test with POINTSMAN_UPDATE_DOCS=1");
    }
}

#[test]
fn the_readme_tells_every_reason() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    for reason in Reason::ALL {
        assert!(readme.contains(&format!("`{reason}`")), "{reason} is not explained");
    }
}

/// The documents whose examples are tried here.
const PAGES: [&str; 2] = ["README.md", "docs/gateways.md"];

/// All YAML of a document.
fn yaml_blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(page)).unwrap();
    text.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next()).map(str::to_owned).collect()
}

fn is_manifest(yaml: &str) -> bool {
    yaml.starts_with("apiVersion:")
}

/// Whether it is for others than the picker: Envoy, Helm.
fn is_others(yaml: &str) -> bool {
    yaml.contains("static_resources:") || yaml.starts_with("config:")
}

#[tokio::test]
async fn every_manifest_in_the_documents_is_taken_by_the_api_server() -> Result<()> {
    plane().await;
    let plane = pointsman_tests::envoy_gateway::plane().await?;
    for namespace in ["ai", "pointsman"] {
        plane.kubectl(&["create", "namespace", namespace], "").await?;
    }
    for page in PAGES {
        let manifests: Vec<_> = yaml_blocks(page).into_iter().filter(|yaml| is_manifest(yaml)).collect();
        assert!(!manifests.is_empty(), "{page}");
        for manifest in manifests {
            // Kept, they would be found by whoever looks at all of the cluster.
            plane.kubectl(&["apply", "--dry-run=server", "-f", "-"], &manifest).await?;
        }
    }
    Ok(())
}

#[test]
fn every_configuration_in_the_documents_loads() {
    for page in PAGES {
        let mut found = 0;
        for yaml in yaml_blocks(page).iter().filter(|yaml| !is_manifest(yaml) && !is_others(yaml)) {
            let endpoints = "endpoints: [{name: a, address: 10.0.0.1, port: 8000}]\n";
            let whole = if yaml.starts_with("endpoints:") { yaml.clone() } else { format!("{endpoints}{yaml}") };
            if let Err(problems) = config_file::parse(&whole, &Registry::default()) {
                panic!("{}\n{yaml}", config_file::render_problems(page, &problems));
            }
            found += 1;
        }
        assert!(found > 0, "{page}");
    }
}
