//! `pointsman demo`: what picking is worth. The same load over the same simulated servers through the same Envoy, first
//! by its own round robin and least request, then by the picker.
//!
//! The servers and the load run in this process, the picker and Envoy are children: the picker is this program's own
//! `serve`, asked over TLS, as a user would run it.

mod children;
mod cpu;
#[cfg(test)]
mod fixture;
mod outcome;
mod ports;
mod progress;
mod report;
mod requests;
mod saturation;
mod scenario;
mod stage;
mod strategy;
mod table;
mod tools;
mod trial;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::DemoArgs;
use crate::signals::Signals;
use children::Children;
use outcome::{Outcome, Scenario};
use progress::Display;
use stage::Stage;
use strategy::Strategy;
use trial::{Order, Trial, perform};

/// Seconds of load a strategy, when nothing is said.
pub(crate) const DEFAULT_SECONDS: u64 = scenario::SECONDS;
/// How long requests that are open at the end of a load may take to finish.
const GRACE: Duration = Duration::from_secs(10);
/// How long a signal may come after the death of a child that it killed too: Ctrl-C reaches all of a terminal's processes.
const SIGNAL_AFTER_DEATH: Duration = Duration::from_millis(300);
/// How long servers may take to stop at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the demo, or the search for the saturation; a signal ends it, and every child with it.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let envoy = tools::envoy(args.envoy.as_deref())?;
    fs::create_dir_all(&args.output).with_context(|| format!("making the folder {}", args.output.display()))?;
    let folder = args.output.canonicalize().with_context(|| format!("finding {}", args.output.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    let ended = runtime.block_on(async {
        let mut interruption = Interruption::listen()?;
        let mut children = Children::default();
        let ended = tokio::select! {
            biased;
            () = interruption.next() => Err(anyhow!("interrupted")),
            ended = play(args, &envoy, &folder, &mut children) => ended,
        };
        let ended = match ended {
            Ok(Some(stage)) => keep(stage, &mut interruption, &mut children).await,
            Ok(None) => Ok(()),
            Err(error) => {
                let interrupted = tokio::time::timeout(SIGNAL_AFTER_DEATH, interruption.next()).await.is_ok();
                Err(if interrupted { anyhow!("interrupted") } else { error })
            }
        };
        children.end().await;
        Stage::forget_keys(&folder);
        ended
    });
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// What ends the demo early, the terminal's going away included.
struct Interruption {
    signals: Signals,
    hangup: tokio::signal::unix::Signal,
}

impl Interruption {
    fn listen() -> Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        Ok(Self { signals: Signals::listen()?, hangup })
    }

    async fn next(&mut self) {
        tokio::select! {
            () = self.signals.next() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Everything up to the report; returns the stage when it is to be kept.
async fn play(args: &DemoArgs, envoy: &Path, folder: &Path, children: &mut Children) -> Result<Option<Stage>> {
    let mut display = Display::new();
    display.say("starting six simulated servers, the picker and Envoy");
    let stage = Stage::start(envoy, folder, args.seed, children).await?;
    if args.find_saturation {
        let found = saturation::find(args.seed, &stage, children, &mut display).await?;
        stage.end().await;
        write(&folder.join("saturation.json"), &json(&found)?)?;
        if args.json {
            print(&json(&found)?)?;
        } else {
            let (found, rate) = (found.round_robin_saturation, found.demo_rate);
            print(&format!("round robin bears {found:.1} requests/s; the demo's share of it is {rate:.1}\n"))?;
        }
        return Ok(None);
    }
    let duration = Duration::from_secs(args.seconds);
    let workload = Arc::new(scenario::workload(args.seed, args.rate.unwrap_or(scenario::RATE), args.seconds));
    let described = Scenario::new(&workload, duration);
    display.say(&format!(
        "{} conversations that come to {:.1} requests/s once they overlap, for {} s, the same for each strategy",
        described.conversations, described.requests_per_second, described.seconds
    ));
    for earlier in ["index.html", "requests.csv", "result.json"] {
        // An interrupted run leaves no report of the one before; absent the first time.
        let _ = fs::remove_file(folder.join(earlier));
    }
    let mut trials: Vec<Trial> = Vec::new();
    for strategy in Strategy::ALL {
        let order = Order { strategy, workload: Arc::clone(&workload), duration, grace: GRACE };
        trials.push(perform(order, &stage, children, &mut display).await?);
    }
    let outcome = Outcome::new(described, &trials);
    publish(args, folder, &outcome, &trials)?;
    if trials.iter().any(|trial| trial.report.succeeded == 0) {
        bail!("a strategy had no answers at all: see the logs in {}", folder.display());
    }
    if args.keep {
        return Ok(Some(stage));
    }
    stage.end().await;
    Ok(None)
}

/// Writes the report, and prints the table.
fn publish(args: &DemoArgs, folder: &Path, outcome: &Outcome, trials: &[Trial]) -> Result<()> {
    let page = folder.join("index.html");
    write(&page, &report::render(outcome, trials))?;
    write(&folder.join("requests.csv"), &requests::csv(trials))?;
    write(&folder.join("result.json"), &json(outcome)?)?;
    let table = table::render(outcome);
    if args.json {
        eprintln!("\n{table}");
        print(&json(outcome)?)?;
    } else {
        print(&format!("\n{table}"))?;
    }
    for warning in table::warnings(outcome) {
        eprintln!("warning: {warning}");
    }
    eprintln!("report: {}", page.display());
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Prints to stdout; a reader that went away is an error like any other, so that the children are ended.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("printing the result")
}

/// Leaves all running, and says how to try it, until a signal comes: that is how this is meant to end.
async fn keep(stage: Stage, interruption: &mut Interruption, children: &mut Children) -> Result<()> {
    let places = &stage.places;
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"Hello"}}],"max_tokens":16}}"#,
        scenario::MODEL
    );
    let (url, picker) = (stage.url(Strategy::Picker), places.picker_admin);
    let (round_robin, least_request) = (stage.url(Strategy::RoundRobin), stage.url(Strategy::LeastRequest));
    print(&format!(
        "\nEverything is left running until Ctrl-C. Try:\n\n  \
         curl -i {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n\n  \
         why it was sent there   http://{picker}/debug/decisions\n  \
         the picker's admin      http://{picker}/\n  \
         the picker's metrics    http://{}/metrics\n  \
         Envoy's admin           http://{}/\n  \
         by round robin          {round_robin}\n  \
         by least request        {least_request}\n",
        places.metrics, places.envoy_admin
    ))?;
    let ended = tokio::select! {
        biased;
        () = interruption.next() => Ok(()),
        died = children.death() => Err(died),
    };
    children.end().await;
    stage.end().await;
    // A Ctrl-C that killed a child first is no failure.
    match ended {
        Err(_) if tokio::time::timeout(SIGNAL_AFTER_DEATH, interruption.next()).await.is_ok() => Ok(()),
        ended => ended,
    }
}
