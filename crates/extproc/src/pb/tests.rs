//! `envoy-types` is generated from Envoy's own protos: an oracle for our numbers that knows nothing of ours. Every
//! message is written out twice, field by field with values of its own, and each side must read the other's bytes.

use std::collections::HashMap;
use std::fmt::Debug;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as their_core;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3 as their_mode;
use envoy_types::pb::envoy::service::ext_proc::v3 as theirs;
use envoy_types::pb::envoy::r#type::v3::HttpStatus as TheirStatus;
use envoy_types::pb::google::protobuf as their_google;
use prost::Message;

use super::*;

/// Both directions. No field of ours may be left at its default by a caller: a default is not on the wire.
#[track_caller]
fn agree<O, T>(ours: O, theirs: T)
where
    O: Message + Default + PartialEq + Debug,
    T: Message + Default + PartialEq + Debug,
{
    assert_eq!(O::decode(theirs.encode_to_vec().as_slice()).unwrap(), ours, "we misread Envoy's encoding");
    assert_eq!(T::decode(ours.encode_to_vec().as_slice()).unwrap(), theirs, "Envoy misreads our encoding");
}

fn our_struct(text: &str) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
    Struct { fields: [("k".to_owned(), value)].into() }
}

fn their_struct(text: &str) -> their_google::Struct {
    let value = their_google::Value { kind: Some(their_google::value::Kind::StringValue(text.to_owned())) };
    their_google::Struct { fields: HashMap::from([("k".to_owned(), value)]) }
}

fn our_map(key: &str) -> HeaderMap {
    let header = HeaderValue { key: key.to_owned(), value: "v".to_owned(), raw_value: Bytes::from_static(b"\xffraw") };
    HeaderMap { headers: vec![header, HeaderValue { key: "second".to_owned(), ..HeaderValue::default() }] }
}

fn their_map(key: &str) -> their_core::HeaderMap {
    let header = their_core::HeaderValue { key: key.to_owned(), value: "v".to_owned(), raw_value: b"\xffraw".to_vec() };
    let second = their_core::HeaderValue { key: "second".to_owned(), ..their_core::HeaderValue::default() };
    their_core::HeaderMap { headers: vec![header, second] }
}

fn our_mutation(key: &str) -> HeaderMutation {
    let set = HeaderValueOption {
        header: our_map(key).headers.into_iter().next(),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
    };
    HeaderMutation { set_headers: vec![set], remove_headers: vec!["gone".to_owned(), "gone-too".to_owned()] }
}

fn their_mutation(key: &str) -> theirs::HeaderMutation {
    let set = their_core::HeaderValueOption {
        header: their_map(key).headers.into_iter().next(),
        append_action: their_core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
        ..their_core::HeaderValueOption::default()
    };
    theirs::HeaderMutation { set_headers: vec![set], remove_headers: vec!["gone".to_owned(), "gone-too".to_owned()] }
}

fn our_common(mutation: Mutation) -> CommonResponse {
    CommonResponse {
        status: ResponseStatus::ContinueAndReplace.into(),
        header_mutation: Some(our_mutation("set")),
        body_mutation: Some(BodyMutation { mutation: Some(mutation) }),
        trailers: Some(our_map("trailer")),
        clear_route_cache: true,
    }
}

fn their_common(mutation: theirs::body_mutation::Mutation) -> theirs::CommonResponse {
    theirs::CommonResponse {
        status: theirs::common_response::ResponseStatus::ContinueAndReplace.into(),
        header_mutation: Some(their_mutation("set")),
        body_mutation: Some(theirs::BodyMutation { mutation: Some(mutation) }),
        trailers: Some(their_map("trailer")),
        clear_route_cache: true,
    }
}

#[test]
fn every_part_of_a_request_reads_as_envoy_wrote_it() {
    use theirs::processing_request::Request as Their;
    let our_headers = || HttpHeaders { headers: Some(our_map(":path")), end_of_stream: true };
    let their_headers = || theirs::HttpHeaders {
        headers: Some(their_map(":path")),
        end_of_stream: true,
        ..theirs::HttpHeaders::default()
    };
    let our_trailers = || HttpTrailers { trailers: Some(our_map("grpc-status")) };
    let their_trailers = || theirs::HttpTrailers { trailers: Some(their_map("grpc-status")) };
    let bodies = || {
        let body = |end, without, compressed| {
            (
                HttpBody {
                    body: Bytes::from_static(b"{}"),
                    end_of_stream: end,
                    end_of_stream_without_message: without,
                    grpc_message_compressed: compressed,
                },
                theirs::HttpBody {
                    body: b"{}".to_vec(),
                    end_of_stream: end,
                    end_of_stream_without_message: without,
                    grpc_message_compressed: compressed,
                    ..theirs::HttpBody::default()
                },
            )
        };
        [body(true, false, false), body(false, true, false), body(false, false, true)]
    };
    let mut parts = vec![
        (Request::RequestHeaders(our_headers()), Their::RequestHeaders(their_headers())),
        (Request::ResponseHeaders(our_headers()), Their::ResponseHeaders(their_headers())),
        (Request::RequestTrailers(our_trailers()), Their::RequestTrailers(their_trailers())),
        (Request::ResponseTrailers(our_trailers()), Their::ResponseTrailers(their_trailers())),
    ];
    parts.extend(bodies().map(|(ours, theirs)| (Request::RequestBody(ours), Their::RequestBody(theirs))));
    parts.extend(bodies().map(|(ours, theirs)| (Request::ResponseBody(ours), Their::ResponseBody(theirs))));
    for (ours, theirs) in parts {
        agree(
            ProcessingRequest { request: Some(ours), ..ProcessingRequest::default() },
            theirs::ProcessingRequest { request: Some(theirs), ..theirs::ProcessingRequest::default() },
        );
    }
}

#[test]
fn what_comes_beside_a_part_reads_as_envoy_wrote_it() {
    let configurations = [
        (BodySendMode::FullDuplexStreamed, BodySendMode::None, false),
        (BodySendMode::None, BodySendMode::Buffered, true),
    ];
    for (request_mode, response_mode, send_body) in configurations {
        agree(
            ProcessingRequest {
                request: None,
                metadata_context: Metadata {
                    filter_metadata: [("envoy.lb".to_owned(), our_struct("metadata"))].into(),
                }
                .encode_to_vec()
                .into(),
                observability_mode: true,
                protocol_config: Some(ProtocolConfiguration {
                    request_body_mode: request_mode.into(),
                    response_body_mode: response_mode.into(),
                    send_body_without_waiting_for_header_response: send_body,
                }),
            },
            theirs::ProcessingRequest {
                metadata_context: Some(their_core::Metadata {
                    filter_metadata: HashMap::from([("envoy.lb".to_owned(), their_struct("metadata"))]),
                    ..their_core::Metadata::default()
                }),
                observability_mode: true,
                protocol_config: Some(theirs::ProtocolConfiguration {
                    request_body_mode: request_mode.into(),
                    response_body_mode: response_mode.into(),
                    send_body_without_waiting_for_header_response: send_body,
                }),
                ..theirs::ProcessingRequest::default()
            },
        );
    }
}

#[test]
fn every_answer_reads_as_we_wrote_it() {
    use theirs::body_mutation::Mutation as TheirMutation;
    use theirs::processing_response::Response as Their;
    let streamed = |end, without, compressed| {
        (
            Mutation::StreamedResponse(StreamedBodyResponse {
                body: Bytes::from_static(b"piece"),
                end_of_stream: end,
                end_of_stream_without_message: without,
                grpc_message_compressed: compressed,
            }),
            TheirMutation::StreamedResponse(theirs::StreamedBodyResponse {
                body: b"piece".to_vec(),
                end_of_stream: end,
                end_of_stream_without_message: without,
                grpc_message_compressed: compressed,
                ..theirs::StreamedBodyResponse::default()
            }),
        )
    };
    let mutations = [
        (Mutation::Body(Bytes::from_static(b"whole")), TheirMutation::Body(b"whole".to_vec())),
        (Mutation::ClearBody(true), TheirMutation::ClearBody(true)),
        streamed(true, false, false),
        streamed(false, true, false),
        streamed(false, false, true),
    ];
    let mut answers = Vec::new();
    for (ours, theirs) in mutations {
        let our_headers = || HeadersResponse { response: Some(our_common(ours.clone())) };
        let their_headers = || theirs::HeadersResponse { response: Some(their_common(theirs.clone())) };
        let our_body = || BodyResponse { response: Some(our_common(ours.clone())) };
        let their_body = || theirs::BodyResponse { response: Some(their_common(theirs.clone())) };
        answers.extend([
            (Response::RequestHeaders(our_headers()), Their::RequestHeaders(their_headers())),
            (Response::ResponseHeaders(our_headers()), Their::ResponseHeaders(their_headers())),
            (Response::RequestBody(our_body()), Their::RequestBody(their_body())),
            (Response::ResponseBody(our_body()), Their::ResponseBody(their_body())),
        ]);
    }
    let our_trailers = || TrailersResponse { header_mutation: Some(our_mutation("trailer")) };
    let their_trailers = || theirs::TrailersResponse { header_mutation: Some(their_mutation("trailer")) };
    answers.extend([
        (Response::RequestTrailers(our_trailers()), Their::RequestTrailers(their_trailers())),
        (Response::ResponseTrailers(our_trailers()), Their::ResponseTrailers(their_trailers())),
        (
            Response::ImmediateResponse(ImmediateResponse {
                status: Some(HttpStatus { code: 429 }),
                headers: Some(our_mutation("retry-after")),
                body: Bytes::from_static(b"no"),
                grpc_status: Some(GrpcStatus { status: 8 }),
                details: "pool-unknown".to_owned(),
            }),
            Their::ImmediateResponse(theirs::ImmediateResponse {
                status: Some(TheirStatus { code: 429 }),
                headers: Some(their_mutation("retry-after")),
                body: b"no".to_vec(),
                grpc_status: Some(theirs::GrpcStatus { status: 8 }),
                details: "pool-unknown".to_owned(),
            }),
        ),
    ]);
    for (ours, theirs) in answers {
        agree(
            ProcessingResponse { response: Some(ours), ..ProcessingResponse::default() },
            theirs::ProcessingResponse { response: Some(theirs), ..theirs::ProcessingResponse::default() },
        );
    }
}

#[test]
fn what_goes_beside_an_answer_reads_as_we_wrote_it() {
    // No two fields hold the same values in both rounds, so that exchanged numbers would show.
    let rounds = [[1, 2, 3, 4, 1, 2], [1, 1, 1, 1, 2, 2]];
    for [request_header, response_header, request_body, response_body, request_trailer, response_trailer] in rounds {
        agree(
            ProcessingResponse {
                response: None,
                dynamic_metadata: Some(our_struct("10.0.0.1:8000")),
                mode_override: Some(ProcessingMode {
                    request_header_mode: request_header,
                    response_header_mode: response_header,
                    request_body_mode: request_body,
                    response_body_mode: response_body,
                    request_trailer_mode: request_trailer,
                    response_trailer_mode: response_trailer,
                }),
                override_message_timeout: Some(Duration { seconds: 7, nanos: 8 }),
            },
            theirs::ProcessingResponse {
                dynamic_metadata: Some(their_struct("10.0.0.1:8000")),
                mode_override: Some(their_mode::ProcessingMode {
                    request_header_mode: request_header,
                    response_header_mode: response_header,
                    request_body_mode: request_body,
                    response_body_mode: response_body,
                    request_trailer_mode: request_trailer,
                    response_trailer_mode: response_trailer,
                }),
                override_message_timeout: Some(their_google::Duration { seconds: 7, nanos: 8 }),
                ..theirs::ProcessingResponse::default()
            },
        );
    }
}

/// An enum's value by number, by name: ours and Envoy's must agree, on unknown numbers too.
macro_rules! same_names {
    ($ours:ty, $theirs:ty) => {
        for number in -1..16 {
            let ours = <$ours>::try_from(number).map(|value| value.as_str_name()).ok();
            let theirs = <$theirs>::try_from(number).map(|value| value.as_str_name()).ok();
            assert_eq!(ours, theirs, "{} {number}", stringify!($ours));
        }
    };
}

#[test]
fn enum_values_have_envoys_numbers() {
    same_names!(BodySendMode, their_mode::processing_mode::BodySendMode);
    same_names!(HeaderSendMode, their_mode::processing_mode::HeaderSendMode);
    same_names!(HeaderAppendAction, their_core::header_value_option::HeaderAppendAction);
    same_names!(ResponseStatus, theirs::common_response::ResponseStatus);
}

#[test]
fn a_decoded_body_shares_the_bytes_that_it_came_in() {
    let request = ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody { body: vec![7; 4096].into(), ..HttpBody::default() })),
        ..ProcessingRequest::default()
    };
    let frame = Bytes::from(request.encode_to_vec());
    let decoded = ProcessingRequest::decode(frame.clone()).unwrap();
    let Some(Request::RequestBody(body)) = decoded.request else { panic!("a request body, not {decoded:?}") };
    assert!(frame.as_ptr_range().contains(&body.body.as_ptr()), "the body was copied");
}
