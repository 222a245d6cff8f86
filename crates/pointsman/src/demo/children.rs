//! The processes that the demo starts, each known by its own id: watched while it runs, ended with it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use futures::future::{pending, select_all};
use tokio::process::{Child, Command};

/// Lines of a dead child's log that are shown, and where in the file they are looked for.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 16 << 10;

/// One child.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    /// Where its output goes.
    log: PathBuf,
}

/// All children. They are killed when this is dropped; [`Children::end`] waits for it too.
#[derive(Debug, Default)]
pub(super) struct Children {
    processes: Vec<Process>,
}

impl Children {
    /// Starts a child whose output is added to `log`.
    pub(super) fn start(&mut self, name: &'static str, mut command: Command, log: &Path) -> Result<()> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening the log {}", log.display()))?;
        let second = file.try_clone().context("opening the log a second time")?;
        command.stdin(Stdio::null()).stdout(file).stderr(second).kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.as_std().get_program().to_string_lossy()))?;
        self.processes.push(Process { name, child, log: log.to_path_buf() });
        Ok(())
    }

    /// Process ids, by name; without those that ended.
    pub(super) fn ids(&self) -> Vec<(&'static str, u32)> {
        self.processes.iter().filter_map(|process| Some((process.name, process.child.id()?))).collect()
    }

    /// Waits until a child dies by itself, and says how, with the end of its log.
    pub(super) async fn death(&mut self) -> anyhow::Error {
        if self.processes.is_empty() {
            return pending().await;
        }
        let waits = self.processes.iter_mut().map(|process| {
            async move {
                let how = match process.child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                let tail = tail(&process.log);
                anyhow!("{} ended ({how}); its log {} ends with:\n{tail}", process.name, process.log.display())
            }
            .boxed()
        });
        select_all(waits).await.0
    }

    /// Does something that fails when a child dies meanwhile.
    pub(super) async fn alive<T>(&mut self, doing: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            died = self.death() => Err(died),
            done = doing => done,
        }
    }

    /// Ends one child and waits until it is gone.
    pub(super) async fn end_one(&mut self, name: &str) {
        while let Some(place) = self.processes.iter().position(|process| process.name == name) {
            kill(self.processes.remove(place)).await;
        }
    }

    /// Ends all children, the last first, and waits until they are gone.
    pub(super) async fn end(&mut self) {
        while let Some(process) = self.processes.pop() {
            kill(process).await;
        }
    }
}

async fn kill(mut process: Process) {
    if let Err(error) = process.child.kill().await {
        // It ended by itself before.
        tracing::debug!(name = process.name, %error, "nothing to kill");
    }
}

/// The last lines of a file; what cannot be read is said instead.
fn tail(file: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut opened = File::open(file)?;
        let size = fs::metadata(file)?.len();
        opened.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        opened.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            let kept = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            kept.iter().map(|line| format!("  {line}\n")).collect()
        }
        Err(error) => format!("  (it cannot be read: {error})\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_child_that_dies_is_named_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut children = Children::default();
        children.start("sleeper", shell("exec sleep 600"), &folder.path().join("sleeper.log")).unwrap();
        let script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line-$i; done; echo broken >&2; exit 3";
        children.start("loser", shell(script), &folder.path().join("loser.log")).unwrap();
        let error = children.alive::<()>(pending()).await.unwrap_err().to_string();
        assert!(error.starts_with("loser ended (exit status: 3)"), "{error}");
        assert!(error.contains("line-50\n  broken\n") && !error.contains("line-1\n"), "{error}");
        children.end().await;
    }

    #[tokio::test]
    async fn children_are_gone_when_they_were_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut children = Children::default();
        for name in ["one", "two"] {
            children.start(name, shell("exec sleep 600"), &folder.path().join(name)).unwrap();
        }
        let ids = children.ids();
        assert_eq!(ids.len(), 2);
        children.end_one("one").await;
        assert_eq!(children.ids(), ids[1..]);
        children.end().await;
        for (name, id) in ids {
            assert!(!Path::new(&format!("/proc/{id}")).exists(), "{name} still runs");
        }
    }
}
