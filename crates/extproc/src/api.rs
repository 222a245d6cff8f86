//! Which API a request speaks, by its path.

/// How a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI `chat/completions`: `messages`.
    Chat,
    /// OpenAI `completions`: `prompt`.
    Completions,
    /// OpenAI `embeddings`: `input`.
    Embeddings,
    /// OpenAI `responses`: `instructions` and `input`.
    Responses,
    /// Anthropic `messages`: `system` and `messages`.
    Messages,
    /// Anything else: passed through byte for byte and picked by its headers.
    Opaque,
}

impl Api {
    /// Reads the path of a request, query included. The longest known ending counts, behind any prefix.
    pub fn of_path(path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let mut segments = path.rsplit('/');
        match (segments.next().unwrap_or_default(), segments.next().unwrap_or_default()) {
            ("completions", "chat") => Self::Chat,
            ("completions", _) => Self::Completions,
            ("embeddings", _) => Self::Embeddings,
            ("responses", _) => Self::Responses,
            ("messages", _) => Self::Messages,
            _ => Self::Opaque,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_apis_by_the_end_of_their_path() {
        for (path, api) in [
            ("/v1/chat/completions", Api::Chat),
            ("/v1/chat/completions?x=/v1/models", Api::Chat),
            ("/tenant/v1/completions/", Api::Completions),
            ("/v1/embeddings", Api::Embeddings),
            ("/v1/responses", Api::Responses),
            ("/v1/messages", Api::Messages),
            ("/v1/messages/count_tokens", Api::Opaque),
            ("/v1/models", Api::Opaque),
            ("/vllm.grpc.engine.VllmEngine/Generate", Api::Opaque),
            ("/", Api::Opaque),
            ("", Api::Opaque),
        ] {
            assert_eq!(Api::of_path(path), api, "{path}");
        }
    }
}
