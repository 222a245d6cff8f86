//! Why a scrape failed, in words for whoever runs the pool.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::metrics::ScrapeResult;
use crate::reading::ReadingError;

/// Why one scrape gave no reading.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScrapeError {
    /// No whole answer in time.
    #[error("scrape of {target} timed out after {}: is the metrics port right?", in_words(*.after))]
    Timeout {
        /// Whom was asked.
        target: SocketAddr,
        /// The policy's timeout.
        after: Duration,
    },
    /// No connection.
    #[error("scrape of {target} could not connect: {cause}: is the server up, and the metrics port right?")]
    Connect {
        /// Whom was asked.
        target: SocketAddr,
        /// What the system said.
        cause: String,
    },
    /// The connection ended early, or did not speak HTTP/1.1.
    #[error("scrape of {target} broke off: {cause}")]
    Broken {
        /// Whom was asked.
        target: SocketAddr,
        /// What was wrong.
        cause: String,
    },
    /// An answer other than 200.
    #[error(
        "scrape of {target} was answered with status {status} where 200 is needed: does the server publish /metrics?"
    )]
    Status {
        /// Whom was asked.
        target: SocketAddr,
        /// The status.
        status: u16,
    },
    /// A longer answer than is read.
    #[error("scrape of {target} was answered with more than {limit} bytes: is the metrics port right?")]
    TooLarge {
        /// Whom was asked.
        target: SocketAddr,
        /// The most that is read.
        limit: usize,
    },
    /// An answer that says nothing of load.
    #[error("scrape of {target}: {error}")]
    Unreadable {
        /// Whom was asked.
        target: SocketAddr,
        /// What was missing.
        error: ReadingError,
    },
    /// An endpoint whose engine nobody described.
    #[error("no scrape of {target}: the engine {engine:?} is neither built in nor among telemetry.engines")]
    UnknownEngine {
        /// Who would have been asked.
        target: SocketAddr,
        /// The engine that the endpoint or the policy names.
        engine: Arc<str>,
    },
}

impl ScrapeError {
    /// How it is counted.
    pub fn result(&self) -> ScrapeResult {
        match self {
            Self::Timeout { .. } => ScrapeResult::Timeout,
            Self::Connect { .. } => ScrapeResult::Connect,
            Self::Broken { .. } => ScrapeResult::Broken,
            Self::Status { .. } => ScrapeResult::Status,
            Self::TooLarge { .. } => ScrapeResult::TooLarge,
            Self::Unreadable { error: ReadingError::NoSeries { .. }, .. } => ScrapeResult::NoSeries,
            Self::Unreadable { error: ReadingError::NotNumbers { .. }, .. } => ScrapeResult::NotNumbers,
            Self::UnknownEngine { .. } => ScrapeResult::UnknownEngine,
        }
    }
}

fn in_words(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_look_at() {
        let target: SocketAddr = ([10, 0, 0, 7], 8000).into();
        let timeout = ScrapeError::Timeout { target, after: Duration::from_secs(1) };
        assert_eq!(timeout.to_string(), "scrape of 10.0.0.7:8000 timed out after 1 s: is the metrics port right?");
        let timeout = ScrapeError::Timeout { target, after: Duration::from_millis(1_250) };
        assert!(timeout.to_string().contains("after 1250 ms"));
        let unknown = ScrapeError::UnknownEngine { target, engine: "vlm".into() };
        let expected = "no scrape of 10.0.0.7:8000: the engine \"vlm\" is neither built in nor among telemetry.engines";
        assert_eq!(unknown.to_string(), expected);
    }
}
