//! Requests to the API server: how long one may take, how failures are told apart, how long to wait before the next.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

/// The longest pause that an API server may ask for and get.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer came in time. What was asked for may have happened all the same.
    #[error("no answer from the API server within {0:?}")]
    TimedOut(Duration),
    /// The API server answered, with an error.
    #[error("{message} ({code} {reason})")]
    Answered {
        /// The HTTP status.
        code: u16,
        /// The API server's word for it.
        reason: String,
        /// The API server's sentence for it.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Duration,
    },
    /// There was no whole answer.
    #[error("{0}")]
    Broken(#[source] Box<kube::Error>),
}

/// What a failure means to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such object, or no such kind.
    Absent,
    /// There is such an object already, or it has changed since it was read.
    Conflict,
    /// It will be refused again until somebody changes something: a permission, a schema, the request.
    Refused,
    /// The API server is busy or ill, or away.
    Away,
}

impl CallError {
    /// What it means.
    pub fn kind(&self) -> Failure {
        match self {
            Self::Answered { code: 404, .. } => Failure::Absent,
            Self::Answered { code: 409, .. } => Failure::Conflict,
            Self::Answered { code: 429, .. } => Failure::Away,
            Self::Answered { code: 400..=499, .. } => Failure::Refused,
            Self::TimedOut(_) | Self::Answered { .. } | Self::Broken(_) => Failure::Away,
        }
    }

    /// How long the API server asks to be left alone; zero when it does not say.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Answered { retry_after, .. } => *retry_after,
            Self::TimedOut(_) | Self::Broken(_) => Duration::ZERO,
        }
    }
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let retry_after = Duration::from_secs(asked.into()).min(RETRY_AFTER_MAX);
                Self::Answered { code: status.code, reason: status.reason, message: status.message, retry_after }
            }
            error => Self::Broken(Box::new(error)),
        }
    }
}

/// The answer to a request, if it comes in time: kube itself waits for one as long as the connection lives.
pub async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::TimedOut(limit)),
    }
}

/// Pauses that differ from replica to replica, so that a hundred of them do not ask all at once.
#[derive(Debug)]
pub(crate) struct Jitter(SmallRng);

impl Jitter {
    /// One that differs from process to process.
    pub(crate) fn new() -> Self {
        Self(SmallRng::seed_from_u64(RandomState::new().hash_one(0_u8)))
    }

    /// Between 90 and 110 % of `pause`.
    pub(crate) fn around(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.0.random_range(0.9..1.1))
    }

    /// The pause after the given number of failures in a row: `first`, then twice as long each time up to `longest`,
    /// and of that between half and all.
    pub(crate) fn backoff(&mut self, first: Duration, longest: Duration, failures: u32) -> Duration {
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(longest).mul_f64(self.0.random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16) -> CallError {
        CallError::Answered { code, reason: String::new(), message: String::new(), retry_after: Duration::ZERO }
    }

    #[test]
    fn failures_are_told_apart_by_what_to_do_about_them() {
        let table = [
            (answered(404), Failure::Absent),
            (answered(409), Failure::Conflict),
            (answered(403), Failure::Refused),
            (answered(422), Failure::Refused),
            (answered(429), Failure::Away),
            (answered(500), Failure::Away),
            (answered(503), Failure::Away),
            (CallError::TimedOut(Duration::from_secs(1)), Failure::Away),
        ];
        for (error, kind) in table {
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }

    #[test]
    fn pauses_grow_to_their_maximum_and_never_beyond() {
        let mut jitter = Jitter::new();
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(30));
        for failures in 0..200 {
            let pause = jitter.backoff(first, longest, failures);
            assert!(pause >= first / 2 && pause <= longest, "{failures}: {pause:?}");
        }
        assert!(jitter.backoff(first, longest, 199) >= longest / 2);
    }
}
