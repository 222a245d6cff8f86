use clap::Parser;
use serde_json::Value;

use super::*;
use crate::args::{Cli, Command};

fn parse(flags: &[&str]) -> clap::error::Result<EnvoyBootstrapArgs> {
    match Cli::try_parse_from(["pointsman", "envoy-bootstrap"].iter().chain(flags))?.command {
        Command::EnvoyBootstrap(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

fn printed(flags: &[&str]) -> Result<String> {
    text(&parse(flags).unwrap(), &Registry::default())
}

/// Port and name of each pool: the name by which Envoy asks EDS.
fn wired(text: &str) -> Vec<(u64, String)> {
    let bootstrap: Value = serde_saphyr::from_str(text).unwrap();
    let resources = &bootstrap["static_resources"];
    let ports = resources["listeners"].as_array().unwrap().iter().map(|listener| {
        let port = &listener["address"]["socket_address"]["port_value"];
        port.as_u64().unwrap()
    });
    let clusters = resources["clusters"].as_array().unwrap().iter();
    let names = clusters.filter_map(|cluster| cluster["eds_cluster_config"]["service_name"].as_str());
    ports.zip(names.map(str::to_owned)).collect()
}

#[test]
fn pools_of_a_cluster_are_wired_as_those_of_a_file_are() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, server) = (dir.path().join("whole.yaml"), dir.path().join("server.yaml"));
    let limits = "server: {limits: {maxStreams: 77, maxBodySize: 1Mi}}\n";
    let pools = "pools: [{name: ai/chat, endpoints: []}, {name: ai/code, endpoints: []}]\n";
    fs::write(&whole, format!("{limits}{pools}")).unwrap();
    fs::write(&server, limits).unwrap();
    let named = ["--pool", "ai/chat", "--pool", "ai/code"];
    let of_file = printed(&["--config", whole.to_str().unwrap()]).unwrap();
    let of_flags = printed(&[&named[..], &["--config", server.to_str().unwrap()]].concat()).unwrap();
    assert_eq!(of_file, of_flags);
    assert!(of_flags.contains("77") && of_flags.contains("1048576"), "{of_flags}");
    assert_eq!(wired(&of_flags), [(8080, "ai/chat".to_owned()), (8081, "ai/code".to_owned())]);

    fs::write(&whole, pools).unwrap();
    assert_eq!(printed(&["--config", whole.to_str().unwrap()]).unwrap(), printed(&named).unwrap());
    let both = printed(&[&named[..], &["--config", whole.to_str().unwrap()]].concat()).unwrap_err();
    assert!(format!("{both:#}").contains("pools"), "{both:#}");
}

#[test]
fn what_is_no_pool_or_has_no_port_is_told() {
    for name in ["chat", "ai/", "/chat", "ai/chat/x", "AI/chat", "a.i/chat", ""] {
        let error = parse(&["--pool", name]).unwrap_err().to_string();
        assert!(error.contains("NAMESPACE/NAME"), "{name}: {error}");
    }
    assert!(parse(&[]).unwrap_err().to_string().contains("--config"));
    let error = printed(&["--listen", "127.0.0.1:65535", "--pool", "ai/chat", "--pool", "ai/code"]).unwrap_err();
    assert!(error.to_string().contains("ai/code"), "{error:#}");
}

#[test]
fn a_file_is_replaced_whole_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("envoy.yaml");
    fs::write(&file, "older").unwrap();
    let args = parse(&["--pool", "ai/chat", "--output", file.to_str().unwrap()]).unwrap();
    run(&args, &Registry::default()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text(&args, &Registry::default()).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let nowhere = dir.path().join("nowhere/envoy.yaml");
    let error = write_whole(&nowhere, "").unwrap_err();
    assert!(format!("{error:#}").contains("nowhere/envoy.yaml"), "{error:#}");
    fs::create_dir(dir.path().join("folder")).unwrap();
    write_whole(&dir.path().join("folder"), "").unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
