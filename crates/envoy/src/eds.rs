//! The endpoint discovery service: the members of pools, told to Envoy when they change.
//!
//! One stream of the state-of-the-world protocol serves any number of pools. A pool is looked at every
//! [`EdsOptions::interval`]; that its members are the same `Arc` as before is all that is read of it then.
//!
//! **Invariant.** A pool that is not there, or whose members nobody published yet, is not answered: Envoy then keeps
//! what it has. A pool that is there and has no members is answered with no endpoints: Envoy then drops what it has.

mod assignment;
mod stream;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_server::{
    EndpointDiscoveryService, EndpointDiscoveryServiceServer,
};
use pointsman_core::pool::Pool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use assignment::ENDPOINT_TYPE;

/// The most bytes of one request of an Envoy.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Responses that may wait for an Envoy to read them; beyond that its stream waits.
const RESPONSES_IN_FLIGHT: usize = 4;

/// Who knows the pools by name.
pub trait PoolDirectory: Send + Sync + 'static {
    /// The pool of that name, `None` while there is none.
    fn pool(&self, name: &str) -> Option<Arc<Pool>>;
}

impl<F> PoolDirectory for F
where
    F: Fn(&str) -> Option<Arc<Pool>> + Send + Sync + 'static,
{
    fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self(name)
    }
}

/// Limits of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdsOptions {
    /// How often each pool is looked at.
    pub interval: Duration,
    /// Streams open at once. Envoy opens one a cluster.
    pub max_streams: usize,
    /// Pools of one stream.
    pub max_names: usize,
}

impl Default for EdsOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(10), max_streams: 1024, max_names: 1024 }
    }
}

/// How much is going on in the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdsActivity {
    /// Streams that are open.
    pub streams: usize,
    /// The version of the last response of any stream, which counts them.
    pub version: u64,
}

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct Eds {
    shared: Arc<Shared>,
    streams: Arc<Semaphore>,
    closing: Arc<watch::Sender<bool>>,
}

/// What all streams use.
struct Shared {
    pools: Arc<dyn PoolDirectory>,
    options: EdsOptions,
    /// The version of the last response of any stream; also its nonce.
    version: AtomicU64,
}

impl Shared {
    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Eds {
    /// A service over those pools.
    pub fn new(pools: Arc<dyn PoolDirectory>, options: EdsOptions) -> Self {
        let streams = Arc::new(Semaphore::new(options.max_streams));
        let shared = Arc::new(Shared { pools, options, version: AtomicU64::new(0) });
        Self { shared, streams, closing: Arc::new(watch::Sender::new(false)) }
    }

    /// The service as tonic's server takes it.
    pub fn into_server(self) -> EndpointDiscoveryServiceServer<Self> {
        EndpointDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Ends every stream, and those that come after, so that a server can shut down. Envoy keeps its endpoints and
    /// asks again elsewhere.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// How much is going on.
    pub fn activity(&self) -> EdsActivity {
        let Shared { options, version, .. } = &*self.shared;
        EdsActivity {
            streams: options.max_streams - self.streams.available_permits(),
            version: version.load(Ordering::Relaxed),
        }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| {
            let limit = self.shared.options.max_streams;
            tracing::warn!(limit, "refused a stream of endpoints: too many are open");
            Status::resource_exhausted(format!("{limit} streams of endpoints are open: that is the limit"))
        };
        Arc::clone(&self.streams).try_acquire_owned().map_err(full)
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EndpointDiscoveryService for Eds {
    type StreamEndpointsStream = Responses<DiscoveryResponse>;
    type DeltaEndpointsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_endpoints(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamEndpointsStream>, Status> {
        let permit = self.admit()?;
        let (responses, received) = mpsc::channel(RESPONSES_IN_FLIGHT);
        let stream = stream::EdsStream::new(Arc::clone(&self.shared), responses);
        let closing = self.closing.subscribe();
        tokio::spawn(async move {
            stream.run(request.into_inner(), closing).await;
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn delta_endpoints(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaEndpointsStream>, Status> {
        Err(Status::unimplemented("only the state of the world is served: set api_type GRPC, not DELTA_GRPC"))
    }

    async fn fetch_endpoints(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("only streams are served: set api_type GRPC, not REST"))
    }
}

#[cfg(test)]
mod tests;
