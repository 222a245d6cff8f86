//! What the gateway is told: the messages of our side of the stream.

use bytes::Bytes;
use pointsman_core::control_headers::{DESTINATION, METADATA_NAMESPACE};
use pointsman_core::decision::Picked;

use crate::pb::{
    BodyMutation, BodyResponse, CommonResponse, Duration, HeaderAppendAction, HeaderMutation, HeaderValue,
    HeaderValueOption, HeadersResponse, Kind, Mutation, ProcessingResponse, Response, StreamedBodyResponse, Struct,
    TrailersResponse, Value,
};

/// The longest body piece that is sent in one message: Envoy refuses 64 KiB.
pub(crate) const PIECE_MAX: usize = 62_000;

/// Where a request goes, as header and as metadata, both with the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination(Bytes);

impl Destination {
    /// The pick, and its fallbacks where the gateway can use a list: `ip:port[,ip:port...]`, IPv6 in brackets.
    pub(crate) fn of(picked: &Picked, with_fallbacks: bool) -> Self {
        let wanted = if with_fallbacks { usize::MAX } else { 1 };
        let mut list = String::with_capacity(64);
        for choice in picked.decode.choices.iter().take(wanted) {
            if !list.is_empty() {
                list.push(',');
            }
            // Writing to a string cannot fail.
            let _ = std::fmt::Write::write_fmt(&mut list, format_args!("{}", choice.endpoint.address));
        }
        Self(list.into())
    }

    fn header(&self) -> HeaderValueOption {
        set_header(DESTINATION, self.0.clone())
    }

    fn metadata(&self) -> Struct {
        let value = String::from_utf8_lossy(&self.0).into_owned();
        let of = |key: &str, kind| Struct { fields: [(key.to_owned(), Value { kind: Some(kind) })].into() };
        of(METADATA_NAMESPACE, Kind::StructValue(of(DESTINATION, Kind::StringValue(value))))
    }
}

/// Sets a header, whatever it was.
pub(crate) fn set_header(key: &str, value: impl Into<Bytes>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), raw_value: value.into(), ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn answer(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

fn mutation(destination: Option<&Destination>, removed: Vec<String>) -> Option<HeaderMutation> {
    if destination.is_none() && removed.is_empty() {
        return None;
    }
    let set_headers = destination.map(Destination::header).into_iter().collect();
    Some(HeaderMutation { set_headers, remove_headers: removed })
}

/// Lets the request's headers go on: to a destination once there is one, without what the client may not say.
pub(crate) fn request_headers(destination: Option<&Destination>, mut removed: Vec<String>) -> ProcessingResponse {
    if destination.is_some() {
        removed.retain(|key| key != DESTINATION);
    }
    let common = CommonResponse { header_mutation: mutation(destination, removed), ..CommonResponse::default() };
    ProcessingResponse {
        dynamic_metadata: destination.map(Destination::metadata),
        ..answer(Response::RequestHeaders(HeadersResponse { response: Some(common) }))
    }
}

/// Lets a chunk or a buffered body go on, in a mode other than full duplex: to the destination where it is known only
/// now, and with other bytes where there are any.
pub(crate) fn request_body(
    destination: Option<&Destination>,
    removed: Vec<String>,
    bytes: Option<Bytes>,
) -> ProcessingResponse {
    let common = CommonResponse {
        header_mutation: mutation(destination, removed),
        body_mutation: bytes.map(|bytes| BodyMutation { mutation: Some(Mutation::Body(bytes)) }),
        ..CommonResponse::default()
    };
    ProcessingResponse {
        dynamic_metadata: destination.map(Destination::metadata),
        ..answer(Response::RequestBody(BodyResponse { response: Some(common) }))
    }
}

/// Lets the request's trailers go on.
pub(crate) fn request_trailers() -> ProcessingResponse {
    answer(Response::RequestTrailers(TrailersResponse::default()))
}

/// Lets the response's headers go on.
pub(crate) fn response_headers() -> ProcessingResponse {
    answer(Response::ResponseHeaders(HeadersResponse { response: Some(CommonResponse::default()) }))
}

/// Lets a response's chunk go on, in a mode other than full duplex.
pub(crate) fn response_body() -> ProcessingResponse {
    answer(Response::ResponseBody(BodyResponse { response: Some(CommonResponse::default()) }))
}

/// Lets the response's trailers go on.
pub(crate) fn response_trailers() -> ProcessingResponse {
    answer(Response::ResponseTrailers(TrailersResponse::default()))
}

/// Asks for more time than the gateway's own message timeout, in the modes in which that acts.
pub(crate) fn more_time(time: std::time::Duration) -> ProcessingResponse {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let timeout = Duration { seconds, nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0) };
    ProcessingResponse { override_message_timeout: Some(timeout), ..ProcessingResponse::default() }
}

/// Which way a body flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Response,
}

/// Returns a chunk in full duplex, by reference, in pieces that the gateway takes. An empty chunk is returned too: it
/// may carry the end of the stream.
pub(crate) fn pieces(way: Way, mut body: Bytes, end_of_stream: bool, mut send: impl FnMut(ProcessingResponse)) {
    loop {
        let piece = body.split_to(body.len().min(PIECE_MAX));
        let is_last = body.is_empty();
        let streamed = StreamedBodyResponse {
            body: piece,
            end_of_stream: end_of_stream && is_last,
            ..StreamedBodyResponse::default()
        };
        let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
        let common = CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() };
        let response = BodyResponse { response: Some(common) };
        send(answer(match way {
            Way::Request => Response::RequestBody(response),
            Way::Response => Response::ResponseBody(response),
        }));
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::fixture::piece;

    #[test]
    fn chunks_are_cut_where_the_gateway_would_refuse_them_and_nowhere_else() {
        for (len, lens) in [
            (0, vec![0]),
            (1, vec![1]),
            (PIECE_MAX, vec![PIECE_MAX]),
            (PIECE_MAX + 1, vec![PIECE_MAX, 1]),
            (2 * PIECE_MAX, vec![PIECE_MAX, PIECE_MAX]),
            (1 << 20, [vec![PIECE_MAX; 16], vec![(1 << 20) - 16 * PIECE_MAX]].concat()),
        ] {
            for ends in [false, true] {
                let body = Bytes::from(vec![7; len]);
                let mut sent = Vec::new();
                pieces(Way::Response, body, ends, |answer| sent.push(piece(&answer).unwrap()));
                assert_eq!(sent.iter().map(|piece| piece.1.len()).collect::<Vec<_>>(), lens);
                let last = sent.len() - 1;
                assert!(sent.iter().enumerate().all(|(at, piece)| piece.2 == (ends && at == last)));
            }
        }
    }

    #[test]
    fn more_time_is_told_in_the_gateways_terms() {
        let asked = more_time(std::time::Duration::from_millis(1_500));
        assert_eq!(asked.override_message_timeout, Some(Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(asked.response, None);
    }
}
