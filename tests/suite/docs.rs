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

fn yaml_blocks(readme: &str) -> impl Iterator<Item = &str> {
    readme.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next())
}

fn is_manifest(yaml: &str) -> bool {
    yaml.starts_with("apiVersion:")
}

#[tokio::test]
async fn every_manifest_in_the_readme_is_taken_by_the_api_server() -> Result<()> {
    let plane = plane().await;
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    plane.kubectl(&["create", "namespace", "ai"], "").await?;
    let manifests: Vec<_> = yaml_blocks(&readme).filter(|yaml| is_manifest(yaml)).collect();
    assert!(!manifests.is_empty());
    for manifest in manifests {
        plane.apply(manifest).await?;
    }
    Ok(())
}

#[test]
fn every_configuration_in_the_readme_loads() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let mut found = 0;
    for yaml in yaml_blocks(&readme).filter(|yaml| !is_manifest(yaml)) {
        let whole = format!("endpoints: [{{name: a, address: 10.0.0.1, port: 8000}}]\n{yaml}");
        if let Err(problems) = config_file::parse(&whole, &Registry::default()) {
            panic!("{}\n{yaml}", config_file::render_problems("README.md", &problems));
        }
        found += 1;
    }
    assert!(found > 0);
}
