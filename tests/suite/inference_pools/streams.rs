use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use pointsman_sim::{EngineConfig, SimConfig};
use pointsman_tests::client::Client;
use pointsman_tests::depth;
use pointsman_tests::envoy_gateway::Proxy;
use pointsman_tests::gateway_stack::{GatewayPlan, GatewayStack};
use pointsman_tests::proc::Process;
use pointsman_tests::stack::fast;
use serde_json::Value;

use super::chat_pool;
use crate::chat;
use crate::failures::is_whole;

/// How long all of many streams may take. About five times what was seen.
const MANY_STREAMS_DEADLINE: Duration = Duration::from_secs(200);
/// How often it is looked how many are open.
const LOOK: Duration = Duration::from_millis(500);
/// The time between two tokens of the response that lasts.
const STEP: Duration = Duration::from_millis(100);

/// Responses that are open, as a picker's page of its pools says.
fn open_responses(pools: &Value) -> usize {
    let endpoints = pools[0]["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(|endpoint| endpoint["openResponses"].as_u64()).sum::<u64>() as usize
}

/// The processes of a chain, by what each is.
async fn processes(stack: &GatewayStack, proxy: &Proxy) -> Result<Vec<(&'static str, Process)>> {
    let ids = [
        ("Envoy", proxy.program.lock().await.id()),
        ("Envoy Gateway", stack.envoy_gateway.id()),
        ("extension server", stack.extension_servers[0].id()),
        ("picker", stack.pickers[0].id()),
    ];
    ids.into_iter().map(|(name, id)| Ok((name, Process::new(name, id.context(name)?)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_are_open_at_once_and_a_long_one_is_not_cut() -> Result<()> {
    let (streams, tokens) = depth::at((200, 80), (3000, 400));
    let lasts = depth::at(Duration::from_secs(20), Duration::from_secs(90));
    let engine = EngineConfig {
        step_base_ms: STEP.as_millis() as f64,
        step_per_sequence_ms: 0.0,
        step_per_kilotoken_ms: 0.0,
        speed: 1.0,
        max_running: 10_000,
        ..fast().engine
    };
    let server = SimConfig { engine, ..fast() };
    let (stack, proxy) = chat_pool(GatewayPlan { server, ..GatewayPlan::default() }, "FailClose").await?;
    stack.team.pod(&stack.pod(1, "chat")).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-1").await?;
    let processes = processes(&stack, &proxy).await?;
    let resident = |process: &Process| process.resident().map(|bytes| bytes >> 20);
    let before: Vec<_> =
        processes.iter().map(|(_, process)| Ok((resident(process)?, process.cpu()?))).collect::<Result<_>>()?;

    let url = Arc::new(format!("{}/v1/chat/completions", proxy.url()));
    let client = Client::new();
    let ask = |tokens: u32| {
        let (client, url) = (client.clone(), Arc::clone(&url));
        tokio::spawn(async move { client.stream(&url, chat(300, tokens, true).to_string()).await })
    };
    let steps = lasts.as_millis() / STEP.as_millis();
    let long = ask(u32::try_from(steps)?);
    let all: Vec<_> = (0..streams).map(|_| ask(tokens)).collect();
    // The moment when most were open.
    let most = async {
        let (mut most, until) = ((0, Vec::new()), Instant::now() + lasts * 3 / 4);
        while most.0 <= streams && Instant::now() < until {
            let open = open_responses(&stack.picker_page(0, "/debug/pools").await?);
            if open > most.0 {
                most = (open, processes.iter().map(|(_, process)| resident(process)).collect::<Result<Vec<_>>>()?);
            }
            tokio::time::sleep(LOOK).await;
        }
        anyhow::Ok(most)
    };
    let (finished, most) = tokio::join!(tokio::time::timeout(MANY_STREAMS_DEADLINE, join_all(all)), most);
    let (open, resident) = most?;
    for streamed in finished? {
        let streamed = streamed??;
        ensure!(streamed.status == 200 && streamed.error.is_none() && is_whole(&streamed), "{streamed:?}");
    }
    let long = tokio::time::timeout(MANY_STREAMS_DEADLINE, long).await???;
    let took = long.chunks.last().map(|(at, _)| *at).unwrap_or_default();
    ensure!(long.error.is_none() && is_whole(&long) && took >= lasts * 9 / 10, "cut after {took:?}: {:?}", long.error);

    println!("{streams} streams, {open} open at once, and one of {took:.1?}");
    for (((name, process), (mib_before, cpu_before)), mib) in processes.iter().zip(before).zip(resident) {
        let cpu = process.cpu()? - cpu_before;
        println!("  {name:<17} {mib_before:>4} MiB before, {mib:>4} MiB with all open, {cpu:>6.1?} of a core");
    }
    ensure!(open >= streams, "only {open} of {streams} were open at once");
    proxy.assert_no_rejections().await
}
