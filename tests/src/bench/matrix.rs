//! What is measured, in which order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::args::Plan;
use super::exposition::Page;
use super::load::{Arrivals, Load, Round, idle};
use super::picker::{Pace, Picker, Servers};
use super::process::ServerProcess;
use super::report::{Cell, IdleRow, Report};
use super::script::{KINDS, Kind, SHARED, Script};

/// Sizes of the pools.
const ENDPOINTS: [usize; 2] = [10, 200];
/// Requests under way for each endpoint, where all share a prompt.
const SHARED_STREAMS: usize = 2;
/// How long a picker settles before it is watched: first scrapes, connections.
const SETTLE: Duration = Duration::from_secs(2);

/// Pickers that are watched while idle: endpoints, pace, and the pages that they scrape.
const IDLE: [(usize, Pace, Page); 4] = [
    (10, Pace::Default, Page::Short),
    (200, Pace::Default, Page::Short),
    (200, Pace::Fast, Page::Short),
    (200, Pace::Fast, Page::Whole),
];

/// Measures all that `plan` asks for.
pub async fn run(plan: &Plan, servers: &Servers) -> Result<Report> {
    let mut report = Report { notes: servers.machine.notes.clone(), ..Report::default() };
    let mut scripts = BTreeMap::new();
    // Idle cost in cores, by the pool's size, to be taken off what a request costs.
    let mut idle_cores = BTreeMap::new();
    for (endpoints, pace, page) in IDLE {
        let is_base = pace == Pace::Default;
        let is_needed = is_base && cells(plan).any(|(cell_endpoints, ..)| cell_endpoints == endpoints);
        let name = format!("idle/{endpoints}/{}", if is_base { "default" } else { "50ms" });
        if !is_needed && !plan.wants(&name) {
            continue;
        }
        eprintln!("{name}: a picker that is asked nothing, for {} s", plan.idle_window().as_secs());
        let row = idle_row(plan, servers, endpoints, pace, page).await?;
        if is_base {
            idle_cores.insert(endpoints, row.cores);
        }
        report.idle.push(row);
    }
    for tls in [false, true] {
        let mut noop = None;
        for endpoints in ENDPOINTS {
            let mut picker = None;
            for (_, _, kind, arrivals, name) in cells(plan).filter(|cell| (cell.0, cell.1) == (endpoints, tls)) {
                if noop.is_none() {
                    noop = Some(servers.noop(tls)?);
                }
                if picker.is_none() {
                    picker = Some(servers.picker(endpoints, tls, Pace::Default, Page::Short).await?);
                }
                let (Some(noop), Some(picker)) = (&noop, &picker) else { continue };
                let scripts = scripts.entry(kind.name).or_insert_with(|| Arc::new(kind.scripts()));
                let idle = idle_cores.get(&endpoints).copied().unwrap_or(0.0);
                report.cells.push(measure(plan, servers, (picker, noop), scripts, arrivals, name, idle).await?);
            }
        }
    }
    ensure!(!report.cells.is_empty() || !report.idle.is_empty(), "nothing is called {:?}", plan.only);
    Ok(report)
}

type CellPlan = (usize, bool, &'static Kind, Arrivals, String);

/// The lines of the table that are wanted: the closed loops; one open loop, for latency where nobody queues; and one
/// prompt that all share, under so many requests that they spread over all endpoints.
fn cells(plan: &Plan) -> impl Iterator<Item = CellPlan> {
    let streams = plan.streams;
    let open = Arrivals::Open { rate: plan.rate };
    let each = [false, true].into_iter().flat_map(|tls| ENDPOINTS.map(|endpoints| (endpoints, tls)));
    each.flat_map(move |(endpoints, tls)| {
        let name = move |kind: &Kind| format!("{}/{endpoints}/{}", kind.name, if tls { "tls" } else { "plain" });
        let closed = move |kind, streams| (endpoints, tls, kind, Arrivals::Closed { streams }, name(kind));
        let once = [
            closed(&SHARED, streams.max(SHARED_STREAMS * endpoints)),
            (endpoints, tls, &KINDS[0], open, format!("{}/open", name(&KINDS[0]))),
        ];
        KINDS.iter().map(move |kind| closed(kind, streams)).chain(once.into_iter().filter(move |_| !tls))
    })
    .filter(|cell| plan.wants(&cell.4))
}

async fn idle_row(plan: &Plan, servers: &Servers, endpoints: usize, pace: Pace, page: Page) -> Result<IdleRow> {
    let picker = servers.picker(endpoints, false, pace, page).await?;
    tokio::time::sleep(SETTLE).await;
    let scrapes = picker.pages.served();
    let window = plan.idle_window();
    let cores = idle(&picker.server, window).await?;
    Ok(IdleRow {
        endpoints,
        pace: if pace == Pace::Default { "default" } else { "every 50 ms" },
        page_bytes: picker.pages.page_bytes,
        scrapes_per_second: (picker.pages.served() - scrapes) as f64 / window.as_secs_f64(),
        cores,
        resident: picker.server.resident()? as f64 / f64::from(1 << 20),
    })
}

async fn measure(
    plan: &Plan,
    servers: &Servers,
    (picker, noop): (&Picker, &ServerProcess),
    scripts: &Arc<Vec<Script>>,
    arrivals: Arrivals,
    name: String,
    idle_cores: f64,
) -> Result<Cell> {
    let is_tls = name.split('/').any(|word| word == "tls");
    let load = |server, is_picker| Load {
        server,
        tls: is_tls.then_some(&servers.tls),
        scripts,
        arrivals,
        connections: plan.connections,
        is_picker,
    };
    let (mut of_picker, mut of_noop): (Vec<Round>, Vec<Round>) = Default::default();
    for round in 1..=plan.rounds() {
        let (machine, warm_up, window) = (&servers.machine, plan.warm_up(), plan.window());
        of_noop.push(load(noop, false).measure(machine, warm_up, window).await?);
        of_picker.push(load(&picker.server, true).measure(machine, warm_up, window).await?);
        let (noop, picker) = (of_noop[round - 1].cpu, of_picker[round - 1].cpu);
        eprintln!("{name}: round {round} of {}: no-op {noop:.0} µs, picker {picker:.0} µs", plan.rounds());
    }
    Ok(Cell { name, picker: of_picker, noop: of_noop, idle_cores })
}
