//! Claims about the service: over a real connection, and over a stream in memory where time matters.

use std::net::SocketAddr;
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::exchange::tests::fixture::*;
use crate::metrics::Metrics;
use crate::pb::{ExternalProcessorClient, ExternalProcessorServer, ProtocolConfiguration, Request as Part};
use crate::settings::{Limits, PoolDirectory, Trust};

/// How long an answer may take to come, or counters to come to rest after their streams; some milliseconds were seen.
const REST: Duration = Duration::from_secs(5);

/// A server over a fixture, on a port of its own, for as long as it is kept.
struct Running {
    fixture: Fixture,
    address: SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(fixture: Fixture) -> Self {
        let stop = CancellationToken::new();
        let service = PickerService::new(Arc::clone(&fixture.shared), std::time::Instant::now(), stop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(ExternalProcessorServer::new(service));
        let server =
            tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Self { fixture, address, stop, server }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn connect(&self) -> ExternalProcessorClient<Channel> {
        ExternalProcessorClient::new(self.endpoint().connect().await.unwrap())
    }

    async fn come_to_rest(&self) {
        let is_busy = || {
            let streams = self.fixture.shared.metrics.streams.get() > 0;
            streams || self.fixture.cells().iter().any(|cell| cell.in_flight() > 0)
        };
        let rested = async {
            while is_busy() {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(REST, rested).await;
        self.fixture.assert_at_rest();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The gateway's end of a stream over a connection.
struct Call {
    parts: mpsc::Sender<ProcessingRequest>,
    answers: tonic::Streaming<ProcessingResponse>,
    modes: Option<ProtocolConfiguration>,
}

impl Call {
    async fn open(client: &mut ExternalProcessorClient<Channel>) -> Result<Self, Status> {
        Self::open_with(client, &[]).await
    }

    async fn open_with(
        client: &mut ExternalProcessorClient<Channel>,
        metadata: &[(&'static str, &'static str)],
    ) -> Result<Self, Status> {
        let (parts, outbound) = mpsc::channel(16);
        let mut request = Request::new(outbound);
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let answers = client.process(request).await?.into_inner();
        Ok(Self { parts, answers, modes: DUPLEX })
    }

    async fn send(&mut self, part: Part) {
        let message =
            ProcessingRequest { request: Some(part), protocol_config: self.modes.take(), ..Default::default() };
        // A stream that has ended takes no more.
        let _ = self.parts.send(message).await;
    }

    async fn told(&mut self) -> Result<String, Status> {
        let answer = tokio::time::timeout(REST, self.answers.message()).await.expect("an answer is due");
        Ok(answer?.map_or_else(|| "end".to_owned(), |answer| say(&answer)))
    }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = pointsman_core::prefix::mix(self.0, below);
        self.0 % below
    }
}

#[tokio::test]
async fn streams_dropped_at_any_moment_leave_nothing_behind() {
    const STREAMS: u64 = 300;
    let running = Running::start(Fixture::with_endpoints(&[HOME, "10.0.0.2:8000"])).await;
    let client = running.connect().await;
    let whole = chat(&"x".repeat(100_000));
    let script = [
        post(CHAT),
        body(whole[..50_000].to_vec(), false),
        body(whole[50_000..].to_vec(), true),
        answered("200", "text/event-stream", false),
        answer_body("data: {}\n\n", false),
        answer_body("data: [DONE]\n\n", true),
    ];
    let calls = (0..STREAMS).map(|seed| {
        let (mut client, script) = (client.clone(), &script);
        async move {
            let mut dice = Dice(seed);
            let mut call = Call::open(&mut client).await.unwrap();
            let len = dice.roll(script.len() as u64 + 1) as usize;
            for part in &script[..len] {
                call.send(part.clone()).await;
            }
            // Headers and two pieces come for a whole request, then one answer a part.
            let due = if len < 3 { 0 } else { len as u64 };
            for _ in 0..dice.roll(due + 1) {
                call.told().await.unwrap();
            }
        }
    });
    let calls: Vec<_> = calls.collect();
    join_all(calls).await;
    running.come_to_rest().await;
    let picked: f64 = ["ok", "disconnected", "aborted"].iter().map(|outcome| running.fixture.outcomes(outcome)).sum();
    assert!(picked > 50.0, "only {picked} of the streams came as far as a decision");
    assert!(running.fixture.outcomes("disconnected") > 0.0);
    assert_eq!(running.fixture.series("panics_total"), 0.0);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_places_become_free_again() {
    let running = Running::start(Fixture::with_limits(Limits { max_streams: 2, ..Limits::default() })).await;
    let mut client = running.connect().await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut call = Call::open(&mut client).await.unwrap();
        call.send(get("/")).await;
        assert_eq!(call.told().await.unwrap(), "request-headers to 10.0.0.1:8000");
        open.push(call);
    }
    let refused = Call::open(&mut client).await.err().expect("two is the limit");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(running.fixture.series("streams_refused_total{reason=\"limit\"}"), 1.0);
    assert_eq!(running.fixture.series("streams"), 2.0);
    drop(open);
    running.come_to_rest().await;
    assert!(Call::open(&mut client).await.is_ok());
}

#[tokio::test]
async fn a_panic_in_a_plugin_costs_that_request_and_the_server_goes_on() {
    let running = Running::start(Fixture::new()).await;
    let mut client = running.connect().await;
    let mut bystander = Call::open(&mut client).await.unwrap();
    bystander.send(post(CHAT)).await;
    for (model, told) in [(POISON, "immediate 500 internal"), ("m", "request-headers to 10.0.0.1:8000")].repeat(3) {
        let mut call = Call::open(&mut client).await.unwrap();
        call.send(post(CHAT)).await;
        call.send(body(chat_of(model, "hi"), true)).await;
        assert_eq!(call.told().await.unwrap(), told);
    }
    bystander.send(body(chat("hi"), true)).await;
    assert_eq!(bystander.told().await.unwrap(), "request-headers to 10.0.0.1:8000");
    drop(bystander);
    running.come_to_rest().await;
    assert_eq!(running.fixture.series("panics_total"), 3.0);
    assert_eq!(running.fixture.series(r#"errors_total{reason="internal"}"#), 3.0);
}

#[tokio::test]
async fn a_gateway_that_pings_all_the_time_keeps_its_silent_streams() {
    /// Gateways ping each second; fifty times as often here, and more of them than strict servers bear.
    const PING_EVERY: Duration = Duration::from_millis(20);
    const PINGS: u32 = 25;
    let running = Running::start(Fixture::new()).await;
    let endpoint = running.endpoint().http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(REST);
    let channel = endpoint.keep_alive_while_idle(true).connect().await.unwrap();
    let mut client = ExternalProcessorClient::new(channel);
    let mut call = Call::open(&mut client).await.unwrap();
    call.send(get("/")).await;
    call.told().await.unwrap();
    call.send(answered("200", "text/event-stream", false)).await;
    assert_eq!(call.told().await.unwrap(), "response-headers");
    tokio::time::sleep(PING_EVERY * PINGS).await;
    call.send(answer_body("data: {}\n\n", true)).await;
    assert_eq!(call.told().await.unwrap(), "response-piece 10 end");
}

#[tokio::test]
async fn the_calls_metadata_names_the_pool_and_says_whether_a_list_is_of_use() {
    let pools: &[(&str, &[&str])] = &[("a/p", &[HOME, "10.0.0.2:8000"]), ("b/p", &["[fd00::2]:8000"])];
    let running = Running::start(Fixture::with(Limits::default(), pools)).await;
    let mut client = running.connect().await;
    for (metadata, listed) in [
        (&[(POOL, "a/p")] as &[_], 1),
        (&[(POOL, "a/p"), (DESTINATIONS_TAKEN, LIST)], 2),
        (&[(POOL, "a/p"), (DESTINATIONS_TAKEN, "yes")], 1),
        (&[(POOL, "b/p"), (DESTINATIONS_TAKEN, LIST)], 1),
        (&[(POOL, "c/p")], 0),
        (&[], 0),
    ] {
        let mut call = Call::open_with(&mut client, metadata).await.unwrap();
        call.send(get("/")).await;
        let told = call.told().await.unwrap();
        let destinations = told.strip_prefix("request-headers to ").map_or(0, |list| list.split(',').count());
        assert_eq!(destinations, listed, "{metadata:?}: {told}");
        assert!(listed > 0 || told == "immediate 500 pool-unknown", "{told}");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_no_good_end_even_as_the_first() {
    let running = Running::start(Fixture::new()).await;
    let mut client = running.connect().await;
    let mut call = Call::open(&mut client).await.unwrap();
    let too_long = "x".repeat(5 << 20);
    call.send(post_with(CHAT, &[("x-long", &too_long)])).await;
    assert_eq!(call.told().await.unwrap_err().code(), Code::Aborted);
    running.come_to_rest().await;
}

#[tokio::test]
async fn streams_end_with_the_process_each_in_its_way() {
    let running = Running::start(Fixture::new()).await;
    let mut client = running.connect().await;
    let mut calls = Vec::new();
    for script in
        [vec![get("/"), answered("200", "text/event-stream", false)], vec![get("/"), answered("200", "", true)]]
    {
        let mut call = Call::open(&mut client).await.unwrap();
        for part in script {
            call.send(part).await;
            call.told().await.unwrap();
        }
        calls.push(call);
    }
    let mut held = Call::open(&mut client).await.unwrap();
    held.send(post(CHAT)).await;
    held.send(body("{", false)).await;
    let arrived = async {
        while running.fixture.shared.budget.held() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(REST, arrived).await.unwrap();
    let mut fresh = Call::open(&mut client).await.unwrap();
    running.stop.cancel();
    let [mut streaming, mut done] = <[Call; 2]>::try_from(calls).ok().unwrap();
    assert_eq!(held.told().await.unwrap(), "immediate 503 shutting-down");
    assert_eq!(held.told().await.unwrap(), "end");
    assert_eq!(streaming.told().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(done.told().await.unwrap(), "end");
    assert_eq!(fresh.told().await.unwrap_err().code(), Code::Unavailable);
    drop((held, streaming, done, fresh));
    running.come_to_rest().await;
}

type Inbound = mpsc::UnboundedReceiver<Result<ProcessingRequest, Status>>;

/// A stream in memory, on the paused clock.
fn converse(fixture: &Fixture) -> (mpsc::UnboundedSender<Result<ProcessingRequest, Status>>, Conversation<Inbound>) {
    let start = Instant::now().into_std();
    let service = PickerService::new(Arc::clone(&fixture.shared), start, CancellationToken::new());
    let (gateway, inbound) = mpsc::unbounded();
    (gateway, service.converse(Opening::default(), inbound).unwrap())
}

#[tokio::test]
async fn who_does_not_know_its_pools_yet_leaves_the_answer_to_others() {
    let ask = |pools| {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let shared = Shared::new(Limits::default(), Trust::default(), Arc::new(pools), metrics, 7);
        let service = PickerService::new(Arc::new(shared), Instant::now().into_std(), CancellationToken::new());
        let (_gateway, inbound) = mpsc::unbounded::<Result<ProcessingRequest, Status>>();
        service.converse(Opening::default(), inbound).map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(ask(PoolDirectory::default()), Err(Code::Unavailable));
    let none = PoolDirectory::default();
    none.set([]);
    assert_eq!(ask(none), Ok(()), "that there are none is known");
}

fn message(part: Part) -> Result<ProcessingRequest, Status> {
    Ok(ProcessingRequest { request: Some(part), protocol_config: DUPLEX, ..Default::default() })
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stands_still_ends_by_the_pickers_own_clock() {
    let fixture = Fixture::new();
    let (gateway, mut conversation) = converse(&fixture);
    let began = Instant::now();
    gateway.unbounded_send(message(post(CHAT))).unwrap();
    for _ in 0..3 {
        // Each chunk comes within the limit, all of them together do not.
        assert!(tokio::time::timeout(Duration::from_secs(50), conversation.next()).await.is_err());
        gateway.unbounded_send(message(body(" ", false))).unwrap();
    }
    assert_eq!(say(&conversation.next().await.unwrap().unwrap()), "immediate 408 request-timeout");
    let idle = began.elapsed() - Duration::from_secs(150);
    assert!((60_000..60_010).contains(&idle.as_millis()), "{idle:?} after the last chunk");
    assert!(conversation.next().await.is_none());
    drop(conversation);
    fixture.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_grows_shorter_is_kept() {
    let fixture = Fixture::with_limits(Limits {
        request_idle: Duration::from_secs(300),
        response_idle: Duration::from_secs(20),
        ..Limits::default()
    });
    let (gateway, mut conversation) = converse(&fixture);
    gateway.unbounded_send(message(post(CHAT))).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), conversation.next()).await.is_err());
    gateway.unbounded_send(message(body(chat("hi"), true))).unwrap();
    gateway.unbounded_send(message(answered("200", "", false))).unwrap();
    let began = Instant::now();
    let told: Vec<_> = conversation.by_ref().take(3).map(|answer| say(&answer.unwrap())).collect().await;
    assert_eq!(told.last().unwrap(), "response-headers");
    let status = conversation.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!((20_000..20_010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}
