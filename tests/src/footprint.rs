//! What the chart's default installation takes: CPU and memory of picker and extension server, beside what their pods
//! request.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::gateway_stack::{EXTENSION_SERVER, GatewayPlan, GatewayStack, PICKER};
use crate::manifests::{pool_backend, route, rule};
use crate::proc::Process;
use crate::process::Program;
use crate::workload::Workload;

/// How long requests pass before anything is counted: caches fill, connections open.
const WARM_UP: Duration = Duration::from_secs(10);
/// The bytes that a turn adds to a conversation's prompt, about; how many there are at once, and of how many turns.
const PROMPT: usize = 1000;
const CONVERSATIONS: usize = 50;
const TURNS: usize = 8;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct FootprintPlan {
    /// Model servers.
    pub endpoints: usize,
    /// Requests a second.
    pub rate: u32,
    /// How long it is measured.
    pub time: Duration,
}

/// One program, and what its pod requests.
#[derive(Clone, Debug)]
pub struct Footprint {
    name: &'static str,
    /// Cores, on average, and what is requested.
    cores: (f64, String),
    /// Resident memory at the end, in bytes, and what is requested.
    memory: (u64, String),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct FootprintReport {
    plan: FootprintPlan,
    programs: Vec<Footprint>,
    requests: usize,
    failures: usize,
}

impl fmt::Display for FootprintReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FootprintPlan { endpoints, rate, time } = self.plan;
        writeln!(f, "the default installation, {endpoints} endpoints, {rate} requests/s for {} s:", time.as_secs())?;
        writeln!(f, "  {:<18} {:>18} {:>18}", "", "cores (requested)", "RSS (requested)")?;
        for Footprint { name, cores, memory } in &self.programs {
            let cores = format!("{:.3} ({})", cores.0, cores.1);
            let memory = format!("{} Mi ({})", memory.0 >> 20, memory.1);
            writeln!(f, "  {name:<18} {cores:>18} {memory:>18}")?;
        }
        write!(f, "  {} of {} requests failed", self.failures, self.requests)
    }
}

/// Measures.
pub async fn run(plan: FootprintPlan) -> Result<FootprintReport> {
    let stack =
        GatewayStack::start(GatewayPlan { servers: plan.endpoints, pickers: 2, ..GatewayPlan::default() }).await?;
    for server in 0..plan.endpoints {
        stack.team.pod(&stack.pod(server, "chat")).await?;
    }
    let manifests = stack.pool("chat", "FailClose") + &route("chat", &[rule("/", &[pool_backend("chat", 1)])]);
    let proxy = stack.open(&manifests).await?;
    stack.until_served(&proxy, "/v1/models", |served| served.starts_with("server-")).await?;
    stack.until_endpoints(plan.endpoints).await?;
    stack.until_all_pickers_serve().await?;
    stack.until_picked(&proxy).await?;

    let picker = requested(&Workload::of(&stack.team, PICKER).await?)?;
    let watched: [(&'static str, &Program, ResourceRequirements); 3] = [
        ("picker 0", &stack.pickers[0], picker.clone()),
        ("picker 1", &stack.pickers[1], picker),
        (
            "extension server",
            &stack.extension_servers[0],
            requested(&Workload::of(&stack.system, EXTENSION_SERVER).await?)?,
        ),
    ];
    let url = format!("{}/v1/chat/completions", proxy.url());
    let asking = ask(&stack, &url, plan.rate, WARM_UP + plan.time);
    let watching = async {
        sleep(WARM_UP).await;
        let mut before = Vec::new();
        for (name, program, _) in &watched {
            before.push(Process::new(name, program.id().context("it has ended")?).cpu()?);
        }
        let began = Instant::now();
        sleep(plan.time).await;
        let mut programs = Vec::new();
        for ((name, program, resources), before) in watched.iter().zip(before) {
            let process = Process::new(name, program.id().context("it has ended")?);
            let cores = (process.cpu()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
            let asked = |what: &str| Some(resources.requests.as_ref()?.get(what)?.0.clone());
            programs.push(Footprint {
                name,
                cores: (cores, asked("cpu").context("no CPU is requested")?),
                memory: (process.resident()?, asked("memory").context("no memory is requested")?),
            });
        }
        anyhow::Ok(programs)
    };
    let ((requests, failures), programs) = tokio::try_join!(asking, watching)?;
    ensure!(requests > 0, "nothing was asked");
    Ok(FootprintReport { plan, programs, requests, failures })
}

fn requested(workload: &Workload<'_>) -> Result<ResourceRequirements> {
    let container = workload.spec.containers.first().context("no container")?;
    container.resources.clone().context("no resources")
}

/// Asks so often a second, whatever becomes of it; how many requests there were, and how many failed.
async fn ask(stack: &GatewayStack, url: &str, rate: u32, time: Duration) -> Result<(usize, usize)> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (until, mut asked, mut number) = (Instant::now() + time, JoinSet::new(), 0_usize);
    while Instant::now() < until {
        ticks.tick().await;
        number += 1;
        // Conversations that grow with each turn, and give way to others.
        let (conversation, turn) = (number % CONVERSATIONS, number / CONVERSATIONS);
        let (generation, turn) = (turn / TURNS, turn % TURNS);
        let prompt = format!("{conversation} {generation} {}", "word ".repeat(PROMPT / 5 * (1 + turn)));
        let body = json!({"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": prompt}]});
        let (client, url) = (stack.client.clone(), url.to_owned());
        asked.spawn(async move {
            let answer = client.post(&url, &[], body.to_string()).await;
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }
    let answers = asked.join_all().await;
    let failures = answers.iter().filter(|is_well| !**is_well).count();
    Ok((answers.len(), failures))
}
