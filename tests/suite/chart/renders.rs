use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use pointsman_tests::helm::{chart, lint, template};
use pointsman_tests::process::{printed, repository};
use serde_json::Value;

use super::{AT_ONCE, NAMESPACE, RELEASE, Values, objects, title, values_files};

/// Has the committed renders written anew.
const UPDATE: &str = "POINTSMAN_UPDATE_GOLDEN";

#[tokio::test]
async fn every_set_of_values_renders_what_is_committed() -> Result<()> {
    let golden = chart().join("tests/golden");
    let files = values_files()?;
    let names: BTreeSet<String> = files.iter().map(|values| format!("{}.yaml", values.name)).collect();
    let compare = async |values: Values| {
        lint(&values.text).await.with_context(|| format!("{}: helm lint --strict", values.name))?;
        let rendered = template(RELEASE, NAMESPACE, &values.text).await.with_context(|| values.name.clone())?;
        let path = golden.join(format!("{}.yaml", values.name));
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, &rendered)?;
            return anyhow::Ok(None);
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        Ok((committed != rendered).then(|| format!("{}: {}", values.name, first_difference(&committed, &rendered))))
    };
    let compared = stream::iter(files).map(compare).buffered(AT_ONCE);
    let differences: Vec<_> = compared.try_collect::<Vec<Option<String>>>().await?.into_iter().flatten().collect();
    ensure!(differences.is_empty(), "run with {UPDATE}=1, and look at what changes:\n{}", differences.join("\n"));
    for file in fs::read_dir(&golden)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        ensure!(names.contains(&name), "tests/golden/{name} belongs to no set of values");
    }
    Ok(())
}

#[tokio::test]
async fn the_plain_manifests_are_what_the_chart_renders() -> Result<()> {
    for (name, release, namespace, values) in [
        ("picker", "chat", "ai", "one-pool"),
        ("standalone", "chat", "ai", "standalone"),
        ("extension-server", "pointsman", "pointsman", "extension-server"),
    ] {
        let values = fs::read_to_string(chart().join(format!("tests/values/{values}.yaml")))?;
        let rendered = template(release, namespace, &values).await?;
        let path = repository().join(format!("deploy/manifests/{name}.yaml"));
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, &rendered)?;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        ensure!(committed == rendered, "{}: {}", path.display(), first_difference(&committed, &rendered));
    }
    Ok(())
}

fn first_difference(committed: &str, rendered: &str) -> String {
    let (mut left, mut right) = (committed.lines(), rendered.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (left, right) if left == right => {}
            (left, right) => {
                return format!(
                    "line {number}: {:?} is committed, {:?} rendered",
                    left.unwrap_or_default(),
                    right.unwrap_or_default()
                );
            }
        }
    }
    "ends of lines".to_owned()
}

#[tokio::test]
async fn what_is_misspelt_or_does_not_fit_is_refused_by_its_name() -> Result<()> {
    let table = [
        ("{picker: {replcas: 2}}", "replcas"),
        ("{pickers: {replicas: 2}}", "pickers"),
        ("{pools: [{nam: chat}]}", "nam"),
        ("{pools: [{name: Chat, selector: {app: chat}}]}", "/pools/0/name"),
        ("{pools: [{name: chat, selector: {app: chat}, targetPorts: [0]}]}", "/pools/0/targetPorts/0"),
        ("{pools: [{name: chat, selector: {app: chat}, failureMode: Open}]}", "/pools/0/failureMode"),
        ("{pools: [{name: chat, selector: {app: chat}, policy: {targetRefs: []}}]}", "/pools/0/policy"),
        ("{pools: [{name: chat, selector: {app: chat}, route: {}}]}", "parentRefs"),
        ("{pools: [{name: chat}]}", "chat.selector is missing"),
        ("{pools: [{name: chat, selector: {app: a}}, {name: chat, selector: {app: b}}]}", "\"chat\" is there twice"),
        ("{mode: sidecar}", "/mode"),
        ("{provider: nginx}", "/provider"),
        ("{mode: standalone}", "exactly one entry"),
        (
            "{mode: standalone, pools: [{name: a, selector: {a: b}, route: {parentRefs: [{name: g}]}}]}",
            "needs mode gateway",
        ),
        ("{picker: {enabled: false}}", "nothing is enabled"),
        ("{provider: none, tls: {mode: certManager}}", "tls.certManager.issuerRef"),
        ("{tls: {mode: certManager, certManager: {issuerRef: {kind: Issuer}}}}", "/tls/certManager/issuerRef"),
        ("{provider: none, tls: {mode: secret}}", "tls.secret.name"),
        ("{tls: {mode: secret, secret: {name: own}}}", "tls.caConfigMap"),
        ("{tls: {clientCaSecret: own}}", "tls.clientCaSecret"),
        ("{provider: none, tls: {mode: disabled, clientCaSecret: own}}", "needs TLS"),
        ("{mode: standalone, pools: [{name: a, selector: {a: b}}], tls: {mode: secret}}", "mode gateway"),
        ("{poolNamespace: elsewhere}", "poolNamespace"),
        ("{provider: istio, picker: {haMode: leader}}", "haMode"),
        ("{picker: {haMode: null}}", "haMode"),
        ("{commonLabels: {app.kubernetes.io/component: mine}}", "commonLabels"),
        ("{tls: {mode: disabled}}", "over TLS alone"),
        ("{tls: {ca: hello}}", "/tls/ca"),
        ("{image: {digest: latest}}", "/image/digest"),
        ("{picker: {drain: {preStopSeconds: 0}}}", "/picker/drain/preStopSeconds"),
        ("{picker: {serviceAccount: {create: false}}}", "picker.serviceAccount.name"),
        ("{metrics: {auth: true}, monitoring: {podMonitor: {enabled: true}}}", "serviceMonitor"),
        ("{fullnameOverride: chat.v1}", "fullnameOverride"),
        ("{fullnameOverride: a-name-that-is-far-too-long-for-the-names-of-services-in-a-cluster}", "fullnameOverride"),
    ];
    let refuse = async |(values, expected): (&str, &str)| match template(RELEASE, NAMESPACE, values).await {
        Ok(_) => bail!("{values} is rendered"),
        Err(error) => {
            ensure!(error.to_string().contains(expected), "{values}: {error:#} does not say {expected:?}");
            Ok(())
        }
    };
    stream::iter(table).map(refuse).buffered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// What an account may do by the rules of Roles: place, group, resource, verb and name of the object.
type Right = (String, String, String, String, String);

/// What Roles and ClusterRoles allow, each by its kind, namespace and name.
fn rights(all: &[Value]) -> BTreeSet<Right> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let mut rights = BTreeSet::new();
    for role in all.iter().filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole") {
        let place = format!("{} in {}", title(role), role["metadata"]["namespace"].as_str().unwrap_or("the cluster"));
        for rule in role["rules"].as_array().into_iter().flatten() {
            let mut names = words(&rule["resourceNames"]);
            names.resize_with(names.len().max(1), String::new);
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        for name in &names {
                            let right = (place.clone(), group.clone(), resource.clone(), verb.clone(), name.clone());
                            rights.insert(right);
                        }
                    }
                }
            }
        }
    }
    rights
}

/// Who is bound to what.
fn bindings(all: &[Value]) -> BTreeSet<String> {
    let bindings = all.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")));
    bindings
        .map(|binding| {
            let subject = &binding["subjects"][0];
            format!(
                "{} in {}: {} to {}/{}",
                title(binding),
                binding["metadata"]["namespace"],
                binding["roleRef"]["name"],
                subject["namespace"],
                subject["name"]
            )
        })
        .collect()
}

#[tokio::test]
async fn what_is_granted_is_what_pointsman_roles_prints() -> Result<()> {
    let pool = "pools: [{name: chat, selector: {app: chat}}]\n";
    let picker = "roles -n ai --service-account chat-pointsman --lease-name chat-pointsman --pool-name chat";
    let trust = "--service-name chat-pointsman";
    let gateway = "roles --gateway -n ai --service-account chat-pointsman-gateway --service-name chat-pointsman-gateway \
                   --lease-name chat-pointsman-gateway";
    let server = "picker: {enabled: false}\nextensionServer:\n  enabled: true\n";
    let table = [
        (pool.to_owned(), format!("{picker} {trust}")),
        (format!("{pool}mode: standalone\npoolNamespace: models\n"), format!("{picker} --pool-namespace models")),
        (format!("{pool}mode: standalone\n"), picker.to_owned()),
        (format!("{pool}provider: none\ntls: {{mode: secret, secret: {{name: own}}}}\n"), picker.to_owned()),
        (format!("{pool}metrics: {{auth: true}}\n"), format!("{picker} {trust} --metrics-auth")),
        (server.to_owned(), gateway.to_owned()),
        (
            format!("{server}  envoyGateway: {{namespace: ai, serviceAccount: other}}\n"),
            format!("{gateway} --envoy-gateway-namespace ai --envoy-gateway-service-account other"),
        ),
        (format!("{server}metrics: {{auth: true}}\n"), format!("{gateway} --metrics-auth")),
    ];
    for (values, arguments) in table {
        let rendered = objects(&template(RELEASE, NAMESPACE, &values).await?)?;
        let expected = objects(&printed(&arguments.split_ascii_whitespace().collect::<Vec<_>>()).await?)?;
        let (rendered_rights, expected_rights) = (rights(&rendered), rights(&expected));
        let more: Vec<_> = rendered_rights.difference(&expected_rights).collect();
        let less: Vec<_> = expected_rights.difference(&rendered_rights).collect();
        ensure!(more.is_empty() && less.is_empty(), "{values}: beyond {more:#?}, missing {less:#?}");
        ensure!(bindings(&rendered) == bindings(&expected), "{values}: {:#?}", bindings(&rendered));
    }
    Ok(())
}

#[test]
fn the_chart_brings_the_definitions_of_this_repository() -> Result<()> {
    let mut brought = 0;
    for (folder, source) in [("pointsman-crds", "crds"), ("inference-extension-crds", "crds/upstream")] {
        for file in fs::read_dir(chart().join("charts").join(folder).join("crds"))? {
            let file = file?;
            let original = repository().join(source).join(file.file_name());
            let same = fs::read(file.path())? == fs::read(&original)?;
            ensure!(same, "{} is not what {} is: copy it", file.path().display(), original.display());
            brought += 1;
        }
    }
    let ours = fs::read_dir(repository().join("crds"))?.filter_map(std::result::Result::ok);
    let ours = ours.filter(|file| file.path().extension().is_some_and(|it| it == "yaml")).count();
    ensure!(brought == ours + 3, "{ours} definitions are ours, and the chart brings {brought} with three of others'");
    Ok(())
}
