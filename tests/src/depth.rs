//! How deep a run goes: `make test` is small, `make soak` is long.

/// Whether this run is `make soak`.
pub fn is_soak() -> bool {
    std::env::var("POINTSMAN_DEPTH").is_ok_and(|depth| depth == "soak")
}

/// `small` in `make test`, `long` in `make soak`.
pub fn at<T>(small: T, long: T) -> T {
    if is_soak() { long } else { small }
}
