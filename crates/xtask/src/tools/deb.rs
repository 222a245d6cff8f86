//! A tool out of a Debian package, fetched by apt and unpacked beside the system, which is left as it is: apt knows the
//! user's archive, proxies and keys, and picks the package of this machine.
//!
//! The archive keeps one version of a package for each release of Debian and drops the one before, so a whole version
//! cannot be pinned: what is pinned is the beginning of the upstream version, and what apt offers must begin so.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Programs inside a Debian package.
pub(super) struct Deb {
    /// The package's name.
    pub(super) package: &'static str,
    /// Where the programs lie inside it.
    pub(super) folder: &'static str,
    /// The programs that are taken.
    pub(super) programs: &'static [&'static str],
}

impl Deb {
    /// Downloads and unpacks into `staging`, and leaves the programs in `whole`.
    pub(super) fn fetch(&self, version: &str, staging: &Path, whole: &Path) -> anyhow::Result<()> {
        require("apt-get")?;
        require("apt-cache")?;
        require("dpkg-deb")?;
        let (mut download, unpacked) = (staging.join("download"), staging.join("unpacked"));
        fs::create_dir(&download)?;
        if let Err(error) = self.download(version, &download) {
            eprintln!("tools: {error:#}; trying again with newer lists");
            run(apt_get().arg("update"))
                .context("apt-get update fails: is the archive reachable, and are you root?")?;
            // What the first try left is none of the second's.
            download = staging.join("second-download");
            fs::create_dir(&download)?;
            self.download(version, &download)?;
        }
        let deb = super::only_file(&download)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))
            .with_context(|| format!("cannot unpack {}", deb.display()))?;
        for program in self.programs {
            let inside = unpacked.join(self.folder).join(program);
            fs::rename(&inside, whole.join(program))
                .with_context(|| format!("{} holds no {}/{program}", deb.display(), self.folder))?;
        }
        Ok(())
    }

    /// Downloads the package into a folder, by what apt's lists say. A machine that is new may have none, or old ones,
    /// with versions that the archive has dropped.
    fn download(&self, version: &str, folder: &Path) -> anyhow::Result<()> {
        let package = self.package;
        let offered = candidate(package)?.with_context(|| format!("apt's lists have no {package}"))?;
        if !is_of(&offered, version) {
            bail!("apt's lists have {package} {offered}, which is no {version}");
        }
        eprintln!("tools: downloading {package} {offered}");
        // As whoever runs this: apt's own user may not write into the user's cache.
        let mut command = apt_get();
        command.args(["-o", "APT::Sandbox::User=", "download"]).arg(format!("{package}={offered}"));
        run(command.current_dir(folder)).with_context(|| format!("apt-get cannot download {package} {offered}"))
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").arg("--yes");
    command
}

/// The version that apt would download; `None` where its lists have none.
fn candidate(package: &str) -> anyhow::Result<Option<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["policy", package]).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("apt-cache cannot be started")?;
    if !output.status.success() {
        bail!("apt-cache policy {package} ended with {}", output.status);
    }
    Ok(candidate_of(&String::from_utf8_lossy(&output.stdout)))
}

/// The candidate in what `apt-cache policy` writes.
fn candidate_of(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Whether a version of Debian's (`[EPOCH:]UPSTREAM[-REVISION]`) is one of an upstream version or of its patches.
fn is_of(offered: &str, version: &str) -> bool {
    let upstream = offered.split_once(':').map_or(offered, |(_, upstream)| upstream);
    upstream.strip_prefix(version).is_some_and(|rest| !rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Says that the machine cannot do it, before anything else fails for it.
fn require(program: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    match command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no {program}: this is fetched on Debian and its kin alone, and found on PATH elsewhere")
        }
        Err(error) => Err(error).with_context(|| format!("{program} cannot be started")),
    }
}

/// Runs a command; its output goes to our stderr, since stdout is for the path that was asked for.
fn run(command: &mut Command) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    let status = command.status().with_context(|| format!("{:?} cannot be started", command.get_program()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{candidate_of, is_of};

    #[test]
    fn the_candidate_is_what_apt_would_download() {
        let policy = "prometheus:\n  Installed: (none)\n  Candidate: 2.42.0+ds-5+deb12u1\n  Version table:\n";
        assert_eq!(candidate_of(policy).as_deref(), Some("2.42.0+ds-5+deb12u1"));
        assert_eq!(candidate_of("prometheus:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_of(""), None);
    }

    #[test]
    fn patches_of_a_version_are_of_it_and_other_versions_are_not() {
        for offered in ["2.42.0+ds-5+deb12u1", "1:2.42.1-1", "2.42"] {
            assert!(is_of(offered, "2.42"), "{offered}");
        }
        for offered in ["2.420.0-1", "2.53.3+ds1-2", "12.42.0-1"] {
            assert!(!is_of(offered, "2.42"), "{offered}");
        }
    }
}
