//! Why a request was refused: one closed set, used alike in error bodies, headers and metric labels.

/// Why the picker refused a request, or why nothing could be picked.
///
/// Its [`code`](Reason::code) is the error body's `code`, the header `x-pointsman-reason` and the metric's label.
/// What it becomes in HTTP or gRPC is the edges' business, not core's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The body is not the JSON that its path promises.
    BadJson,
    /// A key that the picker reads stands twice in one object, so that picker and server could read two things.
    DuplicateKey,
    /// The path needs a model and the body names none.
    ModelMissing,
    /// The body is longer than the limit.
    BodyTooLarge,
    /// Bodies held by all requests together reached the process's budget.
    BufferFull,
    /// The pool has no ready endpoint.
    NoReadyEndpoint,
    /// The gateway's subset holds no ready endpoint of the pool.
    SubsetEmpty,
    /// Filters left no endpoint.
    FilteredOut,
    /// The stream names no pool that this process serves.
    PoolUnknown,
    /// The request stood still for longer than the idle limit.
    RequestTimeout,
    /// The response, or the wait for it, stood still for longer than the idle limit.
    ResponseTimeout,
    /// The process is going away.
    ShuttingDown,
    /// A defect of ours: a plugin panicked, or an invariant broke.
    Internal,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 13] = [
        Self::BadJson,
        Self::DuplicateKey,
        Self::ModelMissing,
        Self::BodyTooLarge,
        Self::BufferFull,
        Self::NoReadyEndpoint,
        Self::SubsetEmpty,
        Self::FilteredOut,
        Self::PoolUnknown,
        Self::RequestTimeout,
        Self::ResponseTimeout,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The machine-readable name, lower-case with hyphens.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadJson => "bad-json",
            Self::DuplicateKey => "duplicate-key",
            Self::ModelMissing => "model-missing",
            Self::BodyTooLarge => "body-too-large",
            Self::BufferFull => "buffer-full",
            Self::NoReadyEndpoint => "no-ready-endpoint",
            Self::SubsetEmpty => "subset-empty",
            Self::FilteredOut => "filtered-out",
            Self::PoolUnknown => "pool-unknown",
            Self::RequestTimeout => "request-timeout",
            Self::ResponseTimeout => "response-timeout",
            Self::ShuttingDown => "shutting-down",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}
