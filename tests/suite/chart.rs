//! The chart: what it renders, what the API server says of that, and what becomes of releases.

/// What a real API server says of every set of values.
mod api_server;
/// Releases that come, change and go.
mod releases;
/// What comes of values, as text.
mod renders;
/// An Envoy in the picker's own pods.
mod standalone;
/// An upgrade while requests pass.
mod upgrade;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pointsman_tests::helm::chart;
use serde_json::Value;

/// The namespace that sets of values are rendered for, and the release.
const NAMESPACE: &str = "ai";
const RELEASE: &str = "chat";
/// How many sets of values are looked at at once: there are two cores.
const AT_ONCE: usize = 3;

/// A set of values, by the name of its file.
struct Values {
    name: String,
    text: String,
}

/// The sets of values, in the order of their names.
fn values_files() -> Result<Vec<Values>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(chart().join("tests/values"))?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() >= 25, "only {} sets of values", files.len());
    let read = |file: PathBuf| {
        let name = file.file_stem().and_then(|name| name.to_str()).context("a name that is not UTF-8")?;
        Ok(Values { name: name.to_owned(), text: fs::read_to_string(&file)? })
    };
    files.into_iter().map(read).collect()
}

/// The objects of a rendered text.
fn objects(rendered: &str) -> Result<Vec<Value>> {
    let all: Vec<Option<Value>> = serde_saphyr::from_multiple(rendered)?;
    Ok(all.into_iter().flatten().filter(|object| !object.is_null()).collect())
}

/// What kind of object one is, and its name.
fn title(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("{} {name}", object["kind"].as_str().unwrap_or_default())
}
