//! Errors as OpenAI's and Anthropic's clients expect them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::engine::SubmitError;
use crate::server::LinkError;

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    /// The machine-readable name.
    code: &'static str,
    message: String,
    /// Whether the body has Anthropic's shape rather than OpenAI's.
    anthropic: bool,
}

impl ApiError {
    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into(), anthropic: false }
    }

    pub(crate) fn bad_json(error: &serde_json::Error) -> Self {
        Self::bad_request("bad-json", format!("the request's body is not the JSON that this path takes: {error}"))
    }

    pub(crate) fn too_large() -> Self {
        let message = format!("the request's body is larger than {} bytes", super::MAX_BODY);
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "body-too-large", message, anthropic: false }
    }

    pub(crate) fn unknown_model(model: &str) -> Self {
        let message = format!("the model `{model}` does not exist");
        Self { status: StatusCode::NOT_FOUND, code: "model_not_found", message, anthropic: false }
    }

    pub(crate) fn injected(status: StatusCode) -> Self {
        let message = format!("injected fault, status {}", status.as_u16());
        Self { status, code: "injected", message, anthropic: false }
    }

    /// The same error in Anthropic's shape.
    pub(crate) fn for_anthropic(self) -> Self {
        Self { anthropic: true, ..self }
    }
}

impl From<LinkError> for ApiError {
    fn from(error: LinkError) -> Self {
        let message = error.to_string();
        match error {
            LinkError::Refused(SubmitError::TooLong { .. }) => Self::bad_request("context_length_exceeded", message),
            LinkError::Refused(SubmitError::QueueFull(_)) => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "queue-full", message, anthropic: false }
            }
            LinkError::Gone => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "shutting-down", message, anthropic: false }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        let body = if self.anthropic {
            json!({"type": "error", "error": {"type": kind, "message": self.message}})
        } else {
            json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}})
        };
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
