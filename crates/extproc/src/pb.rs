//! The messages of ext_proc, generated from `proto/` (see `proto/README.md`), under the names that the rest of the
//! crate uses.
//!
//! Bodies and raw header values are [`bytes::Bytes`]: what was received is sent on by reference.

#[path = "gen/packages.rs"]
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    reason = "generated: the protos hold the comments, and prost and tonic decide the style"
)]
mod packages;

pub use packages::envoy;

pub use envoy::config::core::v3::header_value_option::HeaderAppendAction;
pub use envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, Metadata};
pub use envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
pub use envoy::extensions::filters::http::ext_proc::v3::processing_mode::{BodySendMode, HeaderSendMode};
pub use envoy::service::ext_proc::v3::body_mutation::Mutation;
pub use envoy::service::ext_proc::v3::common_response::ResponseStatus;
pub use envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
pub use envoy::service::ext_proc::v3::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
pub use envoy::service::ext_proc::v3::processing_request::Request;
pub use envoy::service::ext_proc::v3::processing_response::Response;
pub use envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse, HttpBody, HttpHeaders,
    HttpTrailers, ImmediateResponse, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
    StreamedBodyResponse, TrailersResponse,
};
pub use envoy::r#type::v3::HttpStatus;
pub use prost_types::value::Kind;
pub use prost_types::{Duration, ListValue, Struct, Value};

#[cfg(test)]
mod tests;
