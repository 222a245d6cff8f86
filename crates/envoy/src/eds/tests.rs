//! Claims about the service, seen through a gRPC client.

use std::collections::HashMap;
use std::sync::Mutex;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use pointsman_core::endpoint::Endpoint;
use pointsman_core::policy::Policy;
use pointsman_core::pool::PoolWriter;
use prost::Message;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Server};

use super::*;

/// What a test waits at most for a thing that happens within some intervals.
const SOON: Duration = Duration::from_secs(10);
/// Many intervals: long enough that what would be sent is sent.
const A_WHILE: Duration = Duration::from_millis(200);

struct Fixture {
    pools: Arc<Mutex<HashMap<String, Arc<Pool>>>>,
    eds: Eds,
    client: EndpointDiscoveryServiceClient<Channel>,
}

impl Fixture {
    async fn new(options: EdsOptions) -> Self {
        let pools: Arc<Mutex<HashMap<String, Arc<Pool>>>> = Arc::default();
        let known = Arc::clone(&pools);
        let directory = move |name: &str| known.lock().unwrap().get(name).cloned();
        let eds = Eds::new(Arc::new(directory), EdsOptions { interval: Duration::from_millis(5), ..options });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(eds.clone().into_server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = EndpointDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
        Self { pools, eds, client }
    }

    /// Adds a pool that nobody published yet.
    fn add(&self, name: &str) -> PoolWriter {
        let (pool, writer) = Pool::new(name, Arc::new(Policy::default()), 1);
        self.pools.lock().unwrap().insert(name.to_owned(), pool);
        writer
    }

    async fn subscribe(&mut self, names: &[&str]) -> Subscription {
        let (requests, received) = mpsc::channel(8);
        requests.send(request(names)).await.unwrap();
        let responses = self.client.stream_endpoints(ReceiverStream::new(received)).await.unwrap().into_inner();
        Subscription { requests, responses }
    }
}

struct Subscription {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Subscription {
    async fn next(&mut self) -> DiscoveryResponse {
        timeout(SOON, self.responses.message()).await.expect("an answer").unwrap().expect("no end")
    }

    /// The next response, accepted, as pools and their addresses.
    async fn accept(&mut self, names: &[&str]) -> Vec<(String, Vec<String>)> {
        let response = self.next().await;
        let accepted = DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..request(names)
        };
        self.requests.send(accepted).await.unwrap();
        assignments(&response)
    }

    async fn end(&mut self) -> Code {
        timeout(SOON, self.responses.message()).await.expect("an end").unwrap_err().code()
    }

    async fn assert_silent(&mut self) {
        let heard = timeout(A_WHILE, self.responses.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ENDPOINT_TYPE.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn assignments(response: &DiscoveryResponse) -> Vec<(String, Vec<String>)> {
    assert_eq!(response.type_url, ENDPOINT_TYPE);
    assert_ne!(response.version_info, "");
    let read = |any: &envoy_types::pb::google::protobuf::Any| {
        assert_eq!(any.type_url, ENDPOINT_TYPE);
        let assignment = ClusterLoadAssignment::decode(any.value.as_slice()).unwrap();
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let addresses = endpoints.map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
            let address = endpoint.address.as_ref().unwrap().address.as_ref().unwrap();
            let AddressKind::SocketAddress(socket) = address else { panic!("{address:?}") };
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("{socket:?}") };
            format!("{} {port}", socket.address)
        });
        (assignment.cluster_name.clone(), addresses.collect())
    };
    response.resources.iter().map(read).collect()
}

fn publish(writer: &mut PoolWriter, addresses: &[&str]) {
    let endpoint = |address: &&str| Endpoint::new(address, address.parse().unwrap());
    writer.set_members(addresses.iter().map(endpoint));
    assert!(writer.publish());
}

fn of(pool: &str, addresses: &[&str]) -> (String, Vec<String>) {
    (pool.to_owned(), addresses.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn members_are_sent_at_once_and_again_when_they_change() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000", "[fd00::1]:8001"]);
    let names = ["default/a"];
    let mut stream = fixture.subscribe(&names).await;
    let first = stream.next().await;
    assert_eq!(assignments(&first), [of("default/a", &["10.0.0.1 8000", "fd00::1 8001"])]);
    publish(&mut writer, &["10.0.0.2:8000"]);
    let second = stream.next().await;
    assert_eq!(assignments(&second), [of("default/a", &["10.0.0.2 8000"])]);
    assert_ne!(first.nonce, second.nonce);
    assert_ne!(first.version_info, second.version_info);
}

#[tokio::test]
async fn a_pool_that_lost_its_last_endpoint_is_sent_empty() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    stream.accept(&["default/a"]).await;
    publish(&mut writer, &[]);
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &[])]);
}

#[tokio::test]
async fn a_pool_is_not_answered_before_it_is_there_and_published_nor_after_it_went() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut stream = fixture.subscribe(&["default/a"]).await;
    stream.assert_silent().await;
    let mut writer = fixture.add("default/a");
    stream.assert_silent().await;
    publish(&mut writer, &["10.0.0.1:8000"]);
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &["10.0.0.1 8000"])]);
    fixture.pools.lock().unwrap().clear();
    stream.assert_silent().await;
    let mut successor = fixture.add("default/a");
    publish(&mut successor, &["10.0.0.2:8000"]);
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &["10.0.0.2 8000"])]);
}

#[tokio::test]
async fn what_changes_no_address_is_not_sent() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    stream.accept(&["default/a"]).await;
    let mut endpoint = Endpoint::new("renamed", "10.0.0.1:8000".parse().unwrap());
    endpoint.labels.insert("tier".to_owned(), "fast".to_owned());
    writer.set_members(vec![endpoint]);
    writer.publish();
    writer.set_policy(Arc::new(Policy::default()));
    writer.publish();
    stream.assert_silent().await;
}

#[tokio::test]
async fn a_refusal_is_not_answered_with_the_same_again() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    let response = stream.next().await;
    let why = RpcStatus { code: 3, message: "x".repeat(100_000), ..Default::default() };
    let refused =
        DiscoveryRequest { response_nonce: response.nonce, error_detail: Some(why), ..request(&["default/a"]) };
    stream.requests.send(refused).await.unwrap();
    stream.assert_silent().await;
    publish(&mut writer, &["10.0.0.2:8000"]);
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &["10.0.0.2 8000"])]);
}

#[tokio::test]
async fn a_stream_hears_of_the_pools_that_it_names_now_and_no_others() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let (mut a, mut b) = (fixture.add("default/a"), fixture.add("default/b"));
    publish(&mut a, &["10.0.0.1:8000"]);
    publish(&mut b, &["10.0.0.2:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    assert_eq!(stream.accept(&["default/a", "default/b"]).await, [of("default/a", &["10.0.0.1 8000"])]);
    assert_eq!(stream.accept(&["default/b"]).await, [of("default/b", &["10.0.0.2 8000"])]);
    stream.assert_silent().await;
    publish(&mut a, &["10.0.0.3:8000"]);
    stream.assert_silent().await;
    stream.requests.send(request(&["default/a", "default/b"])).await.unwrap();
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &["10.0.0.3 8000"])]);
}

#[tokio::test]
async fn what_is_over_a_limit_or_not_served_is_refused_with_its_code() {
    let mut fixture = Fixture::new(EdsOptions { max_names: 1, max_streams: 1, ..Default::default() }).await;
    let mut many = fixture.subscribe(&["default/a", "default/b"]).await;
    assert_eq!(many.end().await, Code::ResourceExhausted);
    let long = "x".repeat(10_000);
    let cases = [
        (request(&[&long]), Code::InvalidArgument),
        (
            DiscoveryRequest { type_url: "type.googleapis.com/Cluster".to_owned(), ..request(&[]) },
            Code::InvalidArgument,
        ),
    ];
    for (request, code) in cases {
        let mut stream = loop {
            // The place of the stream before is free once its task is done.
            let (requests, received) = mpsc::channel(8);
            requests.send(request.clone()).await.unwrap();
            match fixture.client.stream_endpoints(ReceiverStream::new(received)).await {
                Ok(responses) => break Subscription { requests, responses: responses.into_inner() },
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
        };
        assert_eq!(stream.end().await, code);
    }
    let fetched = fixture.client.fetch_endpoints(request(&["default/a"])).await;
    assert_eq!(fetched.unwrap_err().code(), Code::Unimplemented);
    let delta = fixture.client.delta_endpoints(tokio_stream::iter([DeltaDiscoveryRequest::default()])).await;
    assert_eq!(delta.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_the_others_go_on() {
    let mut fixture = Fixture::new(EdsOptions { max_streams: 1, ..Default::default() }).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    let refused = fixture.client.stream_endpoints(tokio_stream::iter([request(&["default/a"])])).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(stream.accept(&["default/a"]).await, [of("default/a", &["10.0.0.1 8000"])]);
}

#[tokio::test]
async fn closing_ends_streams_with_an_error_that_says_to_come_again() {
    let mut fixture = Fixture::new(EdsOptions::default()).await;
    let mut writer = fixture.add("default/a");
    publish(&mut writer, &["10.0.0.1:8000"]);
    let mut stream = fixture.subscribe(&["default/a"]).await;
    stream.accept(&["default/a"]).await;
    fixture.eds.close();
    assert_eq!(stream.end().await, Code::Unavailable);
    let mut later = fixture.subscribe(&["default/a"]).await;
    assert_eq!(later.end().await, Code::Unavailable);
}
