//! Where Envoy's binary lies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The version that `make tools` fetches.
pub(super) const ENVOY_VERSION: &str = include_str!("../../../../tools/envoy.version").trim_ascii();

/// The binary that is named, or else the one in the cache of `make tools`.
pub(super) fn envoy(named: Option<&Path>) -> Result<PathBuf> {
    // An empty variable is unset.
    if let Some(named) = named.filter(|named| !named.as_os_str().is_empty()) {
        if !named.is_file() {
            bail!("there is no Envoy at {} (named by --envoy or POINTSMAN_ENVOY)", named.display());
        }
        return Ok(std::path::absolute(named)?);
    }
    let Some(cache) = cache(&|name| std::env::var_os(name)) else {
        bail!("no folder for tools: set HOME or POINTSMAN_CACHE, or name an Envoy with --envoy");
    };
    let binary = cache.join(format!("envoy-{ENVOY_VERSION}")).join("envoy");
    if !binary.is_file() {
        bail!(
            "Envoy {ENVOY_VERSION} is not at {}: run `make tools` to fetch it, or name one with --envoy or POINTSMAN_ENVOY",
            binary.display()
        );
    }
    Ok(std::path::absolute(binary)?)
}

/// The folder of tools; here, too, an empty variable is unset.
fn cache(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("POINTSMAN_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|caches| caches.join("pointsman")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/pointsman")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_first_that_is_set() {
        let all = ["POINTSMAN_CACHE", "XDG_CACHE_HOME", "HOME"];
        let cases = [
            (["/a", "/b", "/c"], Some("/a")),
            (["", "/b", "/c"], Some("/b/pointsman")),
            (["", "", "/c"], Some("/c/.cache/pointsman")),
            (["", "", ""], None),
        ];
        for (set, expected) in cases {
            let variable = |name: &str| all.iter().zip(set).find(|(is, _)| **is == name).map(|(_, value)| value.into());
            assert_eq!(cache(&variable), expected.map(PathBuf::from), "{set:?}");
        }
    }

    #[test]
    fn a_named_binary_that_is_not_there_is_told() {
        let error = envoy(Some(Path::new("/nowhere/envoy"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/envoy") && error.contains("POINTSMAN_ENVOY"), "{error}");
    }
}
