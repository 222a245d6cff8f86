// Generated from `proto/` by `cargo run -p xtask -- codegen`; not to be edited.
pub mod envoygateway {
    pub mod extension;
}
