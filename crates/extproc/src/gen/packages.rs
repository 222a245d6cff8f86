// Generated from `proto/` by `cargo run -p xtask -- codegen`; not to be edited.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3;
        }
    }
    pub mod extensions {
        pub mod filters {
            pub mod http {
                pub mod ext_proc {
                    pub mod v3;
                }
            }
        }
    }
    pub mod service {
        pub mod ext_proc {
            pub mod v3;
        }
    }
    pub mod r#type {
        pub mod v3;
    }
}
