//! The map of the crates, held to what `cargo metadata` says: who may know whom, and what each must not even reach.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Every crate of the workspace and those of its crates that it names, for any purpose (code, tests, build).
const EDGES: &[(&str, &[&str])] = &[
    (
        "pointsman",
        &[
            "pointsman-core",
            "pointsman-envoy",
            "pointsman-extproc",
            "pointsman-gateway",
            "pointsman-k8s",
            "pointsman-sim",
            "pointsman-telemetry",
        ],
    ),
    ("pointsman-core", &[]),
    ("pointsman-envoy", &["pointsman-core"]),
    ("pointsman-extproc", &["pointsman-core"]),
    ("pointsman-gateway", &["pointsman-envoy"]),
    ("pointsman-k8s", &["pointsman-core"]),
    ("pointsman-sim", &[]),
    ("pointsman-telemetry", &["pointsman-core"]),
    (
        "pointsman-tests",
        &[
            "pointsman",
            "pointsman-core",
            "pointsman-envoy",
            "pointsman-extproc",
            "pointsman-gateway",
            "pointsman-k8s",
            "pointsman-sim",
        ],
    ),
    ("xtask", &[]),
];

/// What a crate must not reach, directly or through others. `kube` stands for all crates of that family.
const UNREACHABLE: &[(&str, &[&str])] = &[
    ("pointsman-core", &["clap", "hyper", "kube", "tokio", "tonic"]),
    ("pointsman-envoy", &["kube"]),
    ("pointsman-extproc", &["kube"]),
    ("pointsman-gateway", &["kube"]),
    ("pointsman-k8s", &["tonic"]),
    ("pointsman-sim", &["kube"]),
    ("pointsman-telemetry", &["kube", "tonic"]),
];

/// The workspace as cargo resolves it for this machine; that needs no download beyond what was compiled.
static WORKSPACE: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--locked", "--filter-platform", "host-tuple"].map(str::to_owned))
        .exec()
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"))
});

/// The names that a package's normal dependencies reach, each with the path that leads there.
fn reached_by(package: &str) -> BTreeMap<&'static str, String> {
    let nodes: HashMap<&PackageId, _> =
        WORKSPACE.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let root = WORKSPACE.workspace_packages().into_iter().find(|candidate| candidate.name == package).unwrap();
    let mut reached = BTreeMap::new();
    let mut ahead = vec![(&root.id, package.to_owned())];
    while let Some((id, path)) = ahead.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            let name: &'static str = WORKSPACE[&dependency.pkg].name.as_str();
            if normal && !reached.contains_key(name) {
                let path = format!("{path} -> {name}");
                reached.insert(name, path.clone());
                ahead.push((&dependency.pkg, path));
            }
        }
    }
    reached
}

/// Whether a crate's name is the banned one or, for Kubernetes, of its family.
fn is_banned(name: &str, banned: &str) -> bool {
    name == banned || (banned == "kube" && (name.starts_with("kube-") || name.starts_with("k8s-")))
}

#[test]
fn crates_know_exactly_whom_the_map_lets_them_know() {
    let members: BTreeSet<&str> = WORKSPACE.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let found: BTreeSet<(&str, &str)> = WORKSPACE
        .workspace_packages()
        .into_iter()
        .flat_map(|package| {
            let of_ours = package.dependencies.iter().map(|dependency| dependency.name.as_str());
            of_ours.filter(|name| members.contains(name)).map(|name| (package.name.as_str(), name))
        })
        .collect();
    let drawn: BTreeSet<(&str, &str)> =
        EDGES.iter().flat_map(|(from, all)| all.iter().map(|to| (*from, *to))).collect();
    let drawn_members: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();

    let show = |edges: Vec<&(&str, &str)>| {
        edges.iter().map(|(from, to)| format!("{from} -> {to}")).collect::<Vec<_>>().join(", ")
    };
    let added = show(found.difference(&drawn).collect());
    assert!(
        added.is_empty(),
        "new edges between our crates: {added}. Who knows whom is a reviewed decision: do without the edge, or get it \
         reviewed and draw it in EDGES and in ARCHITECTURE.md"
    );
    let gone = show(drawn.difference(&found).collect());
    assert!(gone.is_empty(), "edges that are gone from the manifests: {gone}. Take them out of EDGES too");
    assert_eq!(members, drawn_members, "the workspace's crates are not those that EDGES draws");
}

#[test]
fn crates_reach_nothing_that_they_must_know_nothing_of() {
    let mut offences = Vec::new();
    for (package, all_banned) in UNREACHABLE {
        let reached = reached_by(package);
        for banned in *all_banned {
            offences.extend(reached.iter().filter(|(name, _)| is_banned(name, banned)).map(|(_, path)| path.clone()));
        }
    }
    assert!(
        offences.is_empty(),
        "dependencies that the map forbids, a reviewed decision each:\n  {}",
        offences.join("\n  ")
    );
}

#[test]
fn edges_are_followed_through_other_crates() {
    let reached = reached_by("pointsman-extproc");
    assert_eq!(reached.get("tonic").map(String::as_str), Some("pointsman-extproc -> tonic"));
    assert!(reached.contains_key("h2"), "tonic's HTTP/2 is not in sight: {:?}", reached.keys());
    assert!(is_banned("kube-client", "kube") && is_banned("k8s-openapi", "kube") && !is_banned("kubelet", "kube"));
}
