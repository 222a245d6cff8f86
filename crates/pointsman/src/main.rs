//! The binary: Pointsman with the plugins that come with it. One with plugins of its own is as short.

fn main() -> std::process::ExitCode {
    pointsman::run(pointsman_core::registry::Registry::default())
}
