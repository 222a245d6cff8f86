use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use pointsman_sim::{SimConfig, SimHandle, SimServer};
use pointsman_tests::envoy_gateway::{EnvoyGateway, LISTEN_PORT, Options, Proxy, is_true};
use pointsman_tests::manifests::{self, headless_service, rule};
use pointsman_tests::netns::Network;
use pointsman_tests::stack::fast;
use serde_json::{Value, json};

/// The port of a second Gateway's listener.
const OTHER_PORT: u16 = LISTEN_PORT + 1;
/// How long Envoy Gateway stays away under load.
const AWAY: Duration = Duration::from_secs(1);

/// How long a change is held back at least, when it is: many times what one takes to arrive.
const HELD_BACK: Duration = Duration::from_secs(3);

/// An HTTPRoute of the Gateway `gateway`: requests whose path begins with `prefix` to the Service `service`.
fn route(name: &str, prefix: &str, service: &str) -> String {
    manifests::route(name, &[rule(prefix, &[json!({"name": service, "port": 8000})])])
}

fn gateway(of: &EnvoyGateway, name: &str, port: u16) -> String {
    manifests::gateway(of.class(), name, port)
}

fn service(name: &str, servers: &[SocketAddr]) -> String {
    headless_service(name, 8000, servers)
}

async fn server(of: &EnvoyGateway, name: &str, host: u8) -> Result<SimHandle> {
    let config = SimConfig { name: name.to_owned(), ..fast() };
    Ok(SimServer::start(config, of.namespace.network.address(host, 8000)).await?)
}

/// An extension server that nobody is, and that may fail.
fn absent_extension_server() -> Result<Options> {
    let absent = Network::take()?.address(1, 9004);
    let extension_manager = json!({
        "failOpen": true,
        "hooks": {"xdsTranslator": {
            "post": ["Translation"],
            "translation": {"listener": {"includeAll": true}, "route": {"includeAll": true}},
        }},
        "service": {"ip": {"address": absent.ip(), "port": absent.port()}},
    });
    Ok(Options { extension_manager: Some(extension_manager), ..Options::default() })
}

/// Waits until Envoy Gateway says that it has accepted a route.
async fn until_accepted(of: &EnvoyGateway, route: &str) -> Result<Value> {
    of.until("httproute", route, |route| is_true(&route["status"]["parents"][0]["conditions"], "Accepted")).await
}

/// Runs `during` while requests go through the proxy without a pause; how many were sent, and how those were answered
/// that `server` did not.
async fn under_load<T>(
    proxy: &Proxy,
    server: &str,
    during: impl Future<Output = Result<T>>,
) -> Result<(T, usize, Vec<String>)> {
    let (mut sent, mut failed) = (0, Vec::new());
    let mut during = pin!(during);
    loop {
        tokio::select! {
            result = &mut during => return Ok((result?, sent, failed)),
            served = proxy.served_by("/v1/models") => {
                sent += 1;
                failed.extend((served != server).then_some(served));
            }
        }
    }
}

#[tokio::test]
async fn routes_are_served_and_changes_arrive() -> Result<()> {
    let envoy_gateway = EnvoyGateway::start(Options::default()).await?;
    let servers = [server(&envoy_gateway, "server-a", 20).await?, server(&envoy_gateway, "server-b", 21).await?];
    envoy_gateway.apply(&gateway(&envoy_gateway, "gateway", LISTEN_PORT)).await?;
    envoy_gateway.apply(&(service("a", &[servers[0].addr()]) + &route("a", "/", "a"))).await?;
    let proxy = envoy_gateway.own_proxy("gateway").await?;
    proxy.until_served_by("/v1/models", "server-a").await?;

    // Another route, another endpoint, one that is gone.
    envoy_gateway.apply(&(service("b", &[servers[1].addr()]) + &route("b", "/b", "b"))).await?;
    proxy.until_served_by("/b", "server-b").await?;
    envoy_gateway.apply(&service("a", &[servers[1].addr()])).await?;
    proxy.until_served_by("/v1/models", "server-b").await?;
    envoy_gateway.apply(&service("a", &[])).await?;
    proxy.until_served_by("/v1/models", "503").await?;
    until_accepted(&envoy_gateway, "b").await?;

    // Another Gateway has an Envoy of its own.
    envoy_gateway.apply(&gateway(&envoy_gateway, "other", OTHER_PORT)).await?;
    envoy_gateway.apply(&route("b", "/", "b").replace("\"gateway\"", "\"other\"")).await?;
    let other = envoy_gateway.own_proxy("other").await?.on_port(OTHER_PORT);
    other.until_served_by("/v1/models", "server-b").await?;
    proxy.until_served_by("/b", "503").await?;
    other.assert_no_rejections().await?;
    proxy.assert_no_rejections().await
}

#[tokio::test]
async fn a_proxy_serves_on_while_envoy_gateway_is_killed_and_started_again() -> Result<()> {
    let mut envoy_gateway = EnvoyGateway::start(Options::default()).await?;
    let servers = [server(&envoy_gateway, "server-a", 20).await?, server(&envoy_gateway, "server-b", 21).await?];
    envoy_gateway.apply(&gateway(&envoy_gateway, "gateway", LISTEN_PORT)).await?;
    envoy_gateway.apply(&(service("a", &[servers[0].addr()]) + &route("a", "/", "a"))).await?;
    let proxy = envoy_gateway.own_proxy("gateway").await?;
    proxy.until_served_by("/v1/models", "server-a").await?;

    let killed = async {
        envoy_gateway.kill().await?;
        tokio::time::sleep(AWAY).await;
        envoy_gateway.restart().await
    };
    let ((), sent, failed) = under_load(&proxy, "server-a", killed).await?;
    assert!(sent > 100, "only {sent} requests in all");
    assert_eq!(failed, Vec::<String>::new(), "of {sent}");

    // What changes while it is away arrives when it is back.
    envoy_gateway.kill().await?;
    envoy_gateway.apply(&service("a", &[servers[1].addr()])).await?;
    assert_eq!(proxy.served_by("/v1/models").await, "server-a");
    envoy_gateway.restart().await?;
    proxy.until_served_by("/v1/models", "server-b").await?;

    // The proxy's own restart needs nothing else.
    proxy.restart().await?;
    proxy.until_served_by("/v1/models", "server-b").await?;
    proxy.assert_no_rejections().await
}

#[tokio::test]
async fn an_absent_extension_server_holds_every_change_back_even_where_it_may_fail() -> Result<()> {
    let mut envoy_gateway = EnvoyGateway::start(Options::default()).await?;
    let servers = [server(&envoy_gateway, "server-a", 20).await?, server(&envoy_gateway, "server-b", 21).await?];
    envoy_gateway.apply(&gateway(&envoy_gateway, "gateway", LISTEN_PORT)).await?;
    envoy_gateway.apply(&(service("a", &[servers[0].addr()]) + &route("a", "/", "a"))).await?;
    let proxy = envoy_gateway.own_proxy("gateway").await?;
    proxy.until_served_by("/v1/models", "server-a").await?;

    // The route is accepted, and what is there is served on; but Envoy is not told of the route. `failOpen` is about
    // answers that are errors: for one that does not come, Envoy Gateway waits.
    let held_back = async {
        envoy_gateway.kill().await?;
        envoy_gateway.restart_with(&absent_extension_server()?).await?;
        envoy_gateway.apply(&(service("b", &[servers[1].addr()]) + &route("b", "/b", "b"))).await?;
        until_accepted(&envoy_gateway, "b").await?;
        tokio::time::sleep(HELD_BACK).await;
        Ok(proxy.served_by("/b").await)
    };
    let (held_back, sent, failed) = under_load(&proxy, "server-a", held_back).await?;
    assert_eq!((held_back.as_str(), failed), ("server-a", Vec::<String>::new()), "of {sent}");

    envoy_gateway.kill().await?;
    envoy_gateway.restart_with(&Options::default()).await?;
    proxy.until_served_by("/b", "server-b").await?;
    proxy.assert_no_rejections().await
}
