//! Refusals: what a reason becomes on the wire, once as an HTTP answer of our own and once as a gRPC error.

use pointsman_core::reason::Reason;
use serde_json::json;

use crate::answer::set_header;
use crate::pb::{GrpcStatus, HeaderMutation, HttpStatus, ImmediateResponse, ProcessingResponse, Response};

/// Seconds after which a refused client may try again.
const RETRY_AFTER: &str = "1";

/// A request that is not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// For the client.
    pub message: String,
}

impl Refusal {
    /// A refusal with the reason's usual message.
    pub fn new(reason: Reason) -> Self {
        Self { reason, message: usual_message(reason).to_owned() }
    }

    /// The answer that the client gets: OpenAI-shaped, with the reason in body and header.
    pub fn answer(&self, request_id: &str, is_grpc: bool) -> ProcessingResponse {
        let status = http_status(self.reason);
        let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
        let body = json!({"error": {"message": self.message, "type": kind, "code": self.reason.code()}});
        let mut headers = vec![
            set_header("content-type", "application/json"),
            set_header("x-pointsman-reason", self.reason.code()),
            set_header("x-request-id", request_id.to_owned()),
        ];
        if matches!(status, 429 | 503) {
            headers.push(set_header("retry-after", RETRY_AFTER));
        }
        if is_grpc {
            headers.remove(0);
        }
        let immediate = ImmediateResponse {
            status: Some(HttpStatus { code: i32::from(status) }),
            headers: Some(HeaderMutation { set_headers: headers, remove_headers: Vec::new() }),
            body: if is_grpc { self.message.clone().into() } else { body.to_string().into() },
            grpc_status: is_grpc.then(|| GrpcStatus { status: grpc_code(self.reason) as u32 }),
            details: format!("pointsman_{}", self.reason.code().replace('-', "_")),
        };
        ProcessingResponse { response: Some(Response::ImmediateResponse(immediate)), ..ProcessingResponse::default() }
    }

    /// The error with which a stream ends when it is too late for an answer.
    pub fn error(&self) -> tonic::Status {
        tonic::Status::new(grpc_code(self.reason), format!("{}: {}", self.reason, self.message))
    }
}

/// The HTTP status of a reason.
pub fn http_status(reason: Reason) -> u16 {
    match reason {
        Reason::BadJson | Reason::DuplicateKey | Reason::ModelMissing => 400,
        Reason::RequestTimeout => 408,
        Reason::BodyTooLarge => 413,
        Reason::PoolUnknown | Reason::Internal => 500,
        Reason::BufferFull
        | Reason::NoReadyEndpoint
        | Reason::SubsetEmpty
        | Reason::FilteredOut
        | Reason::ShuttingDown => 503,
        Reason::ResponseTimeout => 504,
    }
}

fn grpc_code(reason: Reason) -> tonic::Code {
    match reason {
        Reason::BadJson | Reason::DuplicateKey | Reason::ModelMissing => tonic::Code::InvalidArgument,
        Reason::RequestTimeout | Reason::ResponseTimeout => tonic::Code::DeadlineExceeded,
        Reason::BodyTooLarge | Reason::BufferFull => tonic::Code::ResourceExhausted,
        Reason::PoolUnknown | Reason::Internal => tonic::Code::Internal,
        Reason::NoReadyEndpoint | Reason::SubsetEmpty | Reason::FilteredOut | Reason::ShuttingDown => {
            tonic::Code::Unavailable
        }
    }
}

fn usual_message(reason: Reason) -> &'static str {
    match reason {
        Reason::BadJson => "the body is not valid JSON",
        Reason::DuplicateKey => "a key stands twice in one object",
        Reason::ModelMissing => "the body names no model",
        Reason::BodyTooLarge => "the body is too large",
        Reason::BufferFull => "too many bodies are being held; try again",
        Reason::NoReadyEndpoint => "the pool has no ready endpoint",
        Reason::SubsetEmpty => "no ready endpoint lies within the gateway's subset",
        Reason::FilteredOut => "no endpoint passes the pool's filters",
        Reason::PoolUnknown => "the gateway named no pool that this picker serves",
        Reason::RequestTimeout => "the request stood still for too long",
        Reason::ResponseTimeout => "the model server stood still for too long",
        Reason::ShuttingDown => "the picker is shutting down; try again",
        Reason::Internal => "the picker failed to decide",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_openai_shaped_and_say_why_in_a_header() {
        for reason in Reason::ALL {
            let answer = Refusal::new(reason).answer("r-1", false);
            let Some(Response::ImmediateResponse(immediate)) = answer.response else { panic!("{answer:?}") };
            let body: serde_json::Value = serde_json::from_slice(&immediate.body).unwrap();
            assert_eq!(body["error"]["code"], reason.code());
            assert!(!body["error"]["message"].as_str().unwrap().is_empty());
            let status = immediate.status.unwrap().code;
            let headers: Vec<_> = immediate.headers.unwrap().set_headers;
            let value = |key: &str| {
                let header = headers.iter().filter_map(|option| option.header.as_ref()).find(|h| h.key == key);
                header.map(|header| String::from_utf8(header.raw_value.to_vec()).unwrap())
            };
            assert_eq!(value("x-pointsman-reason").as_deref(), Some(reason.code()));
            assert_eq!(value("x-request-id").as_deref(), Some("r-1"));
            assert_eq!(value("retry-after").is_some(), matches!(status, 429 | 503), "{reason}");
        }
    }

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        let answer = Refusal::new(Reason::NoReadyEndpoint).answer("r-1", true);
        let Some(Response::ImmediateResponse(immediate)) = answer.response else { panic!("{answer:?}") };
        assert_eq!(immediate.grpc_status.unwrap().status, 14);
    }
}
