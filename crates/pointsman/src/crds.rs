//! `pointsman crds`: the CustomResourceDefinitions as files, and whether those that are there are the ones that this
//! binary knows.
//!
//! Ours stand in the folder itself and the shapes of others' in `upstream` below it, so that `kubectl apply -f DIR`
//! takes ours alone: a cluster that has the others' definitions keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pointsman_core::registry::Registry;
use pointsman_k8s::crds::{self, Crd, Owner};

use crate::args::CrdsArgs;

/// Where the shapes of others' definitions go, below the folder.
const UPSTREAM: &str = "upstream";
/// The first line of every file.
const BANNER: &str = "# Written by `pointsman crds`; not to be edited.\n";
/// Lines shown of each side where a file differs.
const SHOWN_LINES: usize = 8;

/// Writes the files and says so, or compares them.
pub(crate) fn run(args: &CrdsArgs, registry: &Registry) -> Result<()> {
    let files = files(registry)?;
    if args.check {
        return check(&args.output, &files);
    }
    for (path, text) in files {
        let path = args.output.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// What each file holds, by its path below the folder.
fn files(registry: &Registry) -> Result<BTreeMap<PathBuf, String>> {
    crds::all(registry).iter().map(|crd| Ok((path(crd), text(crd)?))).collect()
}

fn path(crd: &Crd) -> PathBuf {
    match crd.owner {
        Owner::Pointsman => crd.file_name().into(),
        Owner::Upstream => Path::new(UPSTREAM).join(crd.file_name()),
    }
}

fn text(crd: &Crd) -> Result<String> {
    let yaml = serde_saphyr::to_string(&crd.document).with_context(|| format!("writing {} as YAML", crd.name()))?;
    Ok(format!("{BANNER}{yaml}"))
}

/// Fails when a file is not there, is another one, or is none of ours.
fn check(output: &Path, files: &BTreeMap<PathBuf, String>) -> Result<()> {
    let mut differences = String::new();
    for (path, wanted) in files {
        let path = output.join(path);
        match fs::read_to_string(&path) {
            Ok(found) if found == *wanted => {}
            Ok(found) => differences += &difference(&path, &found, wanted),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let _ = writeln!(differences, "{} is not there", path.display());
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
    for folder in [output.to_owned(), output.join(UPSTREAM)] {
        for path in definitions_in(&folder)? {
            if !path.strip_prefix(output).is_ok_and(|path| files.contains_key(path)) {
                let _ = writeln!(differences, "{} is no definition that this binary knows", path.display());
            }
        }
    }
    if !differences.is_empty() {
        bail!("the definitions are other ones: run `pointsman crds --output {}`\n{differences}", output.display());
    }
    Ok(())
}

/// The YAML files of a folder, which need not be there.
fn definitions_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading the folder {}", folder.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading the folder {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The lines between what is alike at both ends, as a patch shows them.
fn difference(path: &Path, found: &str, wanted: &str) -> String {
    let (found, wanted): (Vec<_>, Vec<_>) = (found.lines().collect(), wanted.lines().collect());
    let alike = found.iter().zip(&wanted).take_while(|(found, wanted)| found == wanted).count();
    let (found, wanted) = (&found[alike..], &wanted[alike..]);
    let ends = found.iter().rev().zip(wanted.iter().rev()).take_while(|(found, wanted)| found == wanted).count();
    let mut text = format!("{}, line {}:\n", path.display(), alike + 1);
    for (sign, lines) in [('-', found), ('+', wanted)] {
        let lines = &lines[..lines.len() - ends];
        for line in lines.iter().take(SHOWN_LINES) {
            let _ = writeln!(text, "{sign} {line}");
        }
        if lines.len() > SHOWN_LINES {
            let _ = writeln!(text, "{sign} ... and {} lines more", lines.len() - SHOWN_LINES);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(output: &Path, check: bool) -> CrdsArgs {
        CrdsArgs { output: output.to_owned(), check }
    }

    #[test]
    fn what_was_written_passes_the_check_and_what_was_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("crds");
        let registry = Registry::default();
        run(&args(&output, false), &registry).unwrap();
        run(&args(&output, true), &registry).unwrap();

        let ours = output.join("pointsman.dev_schedulingpolicies.yaml");
        let text = fs::read_to_string(&ours).unwrap();
        fs::write(&ours, text.replace("kind: SchedulingPolicy\n", "kind: SchedulingWish\n")).unwrap();
        let model = output.join("upstream/inference.networking.x-k8s.io_inferencemodels.yaml");
        fs::remove_file(&model).unwrap();
        fs::write(output.join("upstream/old.yaml"), "").unwrap();
        let refused = run(&args(&output, true), &registry).unwrap_err().to_string();
        for said in [
            "pointsman.dev_schedulingpolicies.yaml, line ",
            "-     kind: SchedulingWish\n+     kind: SchedulingPolicy\n",
            "inference.networking.x-k8s.io_inferencemodels.yaml is not there\n",
            "old.yaml is no definition that this binary knows\n",
        ] {
            assert!(refused.contains(said), "{said:?} is not in:\n{refused}");
        }
    }

    #[test]
    fn every_definition_reads_back_from_its_yaml() {
        for crd in crds::all(&Registry::default()) {
            let read: serde_json::Value = serde_saphyr::from_str(&text(&crd).unwrap()).unwrap();
            assert_eq!(read, crd.document, "{}", crd.name());
        }
    }
}
