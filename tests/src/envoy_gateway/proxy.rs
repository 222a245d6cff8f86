//! The Envoys that Envoy Gateway asks for, run by the harness in its stead.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::settings::{Homes, envoy_version};
use super::{CHANGE_DEADLINE, LISTEN_PORT, LOOK};
use crate::client::Client;
use crate::process::{Program, envoy};

/// The argument that names the Gateway, and the one that names the file that the admin listener's address is written to.
const GATEWAY: &str = "--service-cluster";
const ADMIN_FILE: &str = "--admin-address-path";

/// The Envoy of one Gateway. Clones are of the same one; it ends with its Envoy Gateway.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Envoy itself, for signals; locked, so that a test can restart it under whoever uses it.
    pub program: Arc<Mutex<Program>>,
    gateway: String,
    /// The port of the listener that is asked.
    port: u16,
    /// What Envoy Gateway wants it to be started with, the bootstrap among it.
    arguments: Vec<String>,
    /// Of its log.
    folder: PathBuf,
    client: Client,
}

impl Proxy {
    /// Starts one and waits until its admin listener answers.
    pub(super) async fn start(gateway: &str, arguments: Vec<String>, folder: &Path) -> Result<Self> {
        let folder = folder.join("proxies").join(gateway);
        fs::create_dir_all(&folder)?;
        let program = Arc::new(Mutex::new(run(&arguments, &folder).await?));
        let (gateway, client) = (gateway.to_owned(), Client::new());
        let started = Self { program, gateway, port: LISTEN_PORT, arguments, folder, client };
        started.until_admin_answers().await?;
        Ok(started)
    }

    /// Its Gateway, `namespace/name`.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The same, asked on another port than [`LISTEN_PORT`].
    pub fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The base URL of the listener that is asked.
    pub fn url(&self) -> String {
        format!("http://{}", SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port))
    }

    /// The server that answers a GET of a path; the status where none does; the error where Envoy
    /// does not listen yet.
    pub async fn served_by(&self, path: &str) -> String {
        match self.client.get(&format!("{}{path}", self.url()), &[]).await {
            Ok(answer) if answer.status == 200 => answer.header("x-sim-server").to_owned(),
            Ok(answer) => answer.status.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Waits until a GET of a path is answered by `expected`, as [`Self::served_by`] says it.
    pub async fn until_served_by(&self, path: &str, expected: &str) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let served = self.served_by(path).await;
            if served == expected {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{path}: got {served}, not {expected}\n{}", self.log().await);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A page of its admin listener, such as `/stats?filter=ext_proc`.
    pub async fn admin(&self, page: &str) -> Result<String> {
        let file = self.admin_file()?;
        let address = fs::read_to_string(file).with_context(|| format!("no address in {file}"))?;
        let answer = self.client.get(&format!("http://{}{page}", address.trim_ascii()), &[]).await?;
        ensure!(answer.status == 200, "{page} says {}: {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// Everything that it was configured with, endpoints too.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.admin("/config_dump?include_eds").await?)?)
    }

    /// The counters and gauges whose names match a regular expression, each with its value.
    pub async fn stats(&self, filter: &str) -> Result<Vec<(String, u64)>> {
        let text = self.admin(&format!("/stats?filter={filter}")).await?;
        let parse = |line: &str| {
            // Histograms are no numbers, and names hold colons.
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Fails when it has refused any configuration since it started, with what it said of it.
    pub async fn assert_no_rejections(&self) -> Result<()> {
        let stats = self.stats("update_rejected$").await?;
        ensure!(!stats.is_empty(), "no stat of updates at all: is the name another one now?");
        let rejected: Vec<_> = stats.into_iter().filter(|(_, count)| *count > 0).collect();
        if rejected.is_empty() {
            return Ok(());
        }
        let mut why = Vec::new();
        collect_errors(&self.config_dump().await?, &mut why);
        anyhow::bail!("{} refused {rejected:?}:\n{}\n{}", self.gateway, why.join("\n"), self.log().await)
    }

    /// Kills it and starts it again with the same arguments, as a kubelet would.
    pub async fn restart(&self) -> Result<()> {
        let mut program = self.program.lock().await;
        program.kill().await?;
        // It would be taken for the new one's.
        match fs::remove_file(self.admin_file()?) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        *program = run(&self.arguments, &self.folder).await?;
        drop(program);
        self.until_admin_answers().await
    }

    /// What it wrote.
    pub async fn log(&self) -> String {
        self.program.lock().await.log()
    }

    /// Ends it and waits until it is gone.
    pub(super) fn end(&self) {
        // Whoever holds the lock has it in hand, and drops it.
        if let Ok(mut program) = self.program.try_lock() {
            program.end();
        }
    }

    fn admin_file(&self) -> Result<&str> {
        value(&self.arguments, ADMIN_FILE).context("the proxy's arguments name no file for the admin's address")
    }

    async fn until_admin_answers(&self) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            self.program.lock().await.must_run()?;
            let Err(error) = self.admin("/server_info").await else { return Ok(()) };
            ensure!(Instant::now() < deadline, "Envoy's admin never answers: {error:#}\n{}", self.log().await);
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Puts a program in the place of Envoy's that hands over its arguments and waits. Envoy Gateway's own child dies with
/// it, which a proxy in a cluster does not.
pub(super) fn put_stand_in(homes: &Homes<'_>) -> Result<()> {
    let wanted = homes.wanted();
    fs::create_dir(&wanted)?;
    let programs = homes.data().join(format!("envoy-versions/{}/bin", envoy_version()));
    fs::create_dir_all(&programs)?;
    // What is handed over is whole when its name has no suffix.
    let script = format!(
        r#"#!/bin/sh
file='{}'/$$
printf '%s\0' "$@" >"$file.part"
mv "$file.part" "$file"
exec sleep infinity
"#,
        wanted.display()
    );
    let program = programs.join("envoy");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What stand-ins handed over for the proxy of a Gateway, if any did. All of them are given the same.
pub(super) fn wanted(homes: &Homes<'_>, gateway: &str) -> Result<Option<Vec<String>>> {
    for file in fs::read_dir(homes.wanted())? {
        let file = file?.path();
        if file.extension().is_none() {
            let text = fs::read_to_string(file)?;
            let arguments: Vec<_> = text.split_terminator('\0').map(str::to_owned).collect();
            if value(&arguments, GATEWAY) == Some(gateway) {
                return Ok(Some(arguments));
            }
        }
    }
    Ok(None)
}

/// The argument after `name`.
fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().skip_while(|argument| *argument != name).nth(1).map(String::as_str)
}

async fn run(arguments: &[String], folder: &Path) -> Result<Program> {
    let mut command = Command::new(envoy()?);
    command.args(arguments);
    Program::keep("envoy", command, folder).await
}

/// What a config dump says of refused updates.
fn collect_errors(page: &Value, found: &mut Vec<String>) {
    match page {
        Value::Object(fields) => {
            found.extend(
                fields
                    .get("error_state")
                    .map(|error| format!("{}: {}", error["last_update_attempt"], error["details"])),
            );
            fields.values().for_each(|field| collect_errors(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_errors(item, found)),
        _ => {}
    }
}
