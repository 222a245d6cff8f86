//! Scraping over real sockets, of servers that misbehave in every way that we know of.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Within this all that a test waits for has happened: about five times what was seen.
const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough for the endless body to reach its limit on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A vLLM server's whole answer.
const VLLM: &str = include_str!("../../../fixtures/vllm.prom");

/// What a server sends once it has read a request's head.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// This, and then waits for the next request.
    Answers(&'static str, &'static str),
    /// This, and then closes.
    ThenCloses(&'static str),
    /// This, and then nothing more.
    ThenHangs(&'static str),
    /// This head, then one byte of this every 20 ms.
    Drips(&'static str, &'static str),
    /// This head, then comment lines without end.
    Endless(&'static str),
}

/// A server on loopback.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

async fn serve_at(host: &str, manner: Manner) -> Option<Server> {
    let listener = TcpListener::bind((host, 0)).await.ok()?;
    let address = listener.local_addr().unwrap();
    let (connections, requests): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let server = Server { address, connections: connections.clone(), requests: requests.clone() };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(converse(stream, manner, requests.clone()));
        }
    });
    Some(server)
}

async fn serve(manner: Manner) -> Server {
    serve_at("127.0.0.1", manner).await.unwrap()
}

/// Talks in `manner` until the scraper has had enough.
async fn converse(mut stream: TcpStream, manner: Manner, requests: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        assert!(head.starts_with(b"GET /metrics HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
        head.clear();
        requests.fetch_add(1, Ordering::Relaxed);
        match manner {
            Manner::Answers(head, body) => {
                let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await?;
            }
            Manner::ThenCloses(bytes) => return stream.write_all(bytes.as_bytes()).await,
            Manner::ThenHangs(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                std::future::pending::<()>().await;
            }
            Manner::Drips(head, body) => {
                stream.write_all(head.as_bytes()).await?;
                for byte in body.bytes().cycle() {
                    stream.write_u8(byte).await?;
                    tokio::time::sleep(MS * 20).await;
                }
            }
            Manner::Endless(head) => {
                stream.write_all(head.as_bytes()).await?;
                loop {
                    stream.write_all("# words without end\n".repeat(1_000).as_bytes()).await?;
                }
            }
        }
    }
}

/// Runs a scraper over servers at `addresses`, whose endpoints are in this order.
fn scrape_servers(addresses: &[SocketAddr], telemetry: TelemetryPolicy) -> Scraped {
    let (pool, mut writer) = Pool::new("default/test", policy(telemetry), 1);
    let endpoints = addresses.iter().map(|address| Endpoint {
        metrics_port: address.port(),
        ..Endpoint::new(&address.to_string(), SocketAddr::new(address.ip(), address.port() ^ 1))
    });
    writer.set_members(endpoints);
    writer.publish();
    let (sender, reports) = mpsc::channel(4096);
    let (statuses, shutdown): (Arc<ScrapeStatuses>, _) = (Arc::default(), CancellationToken::new());
    let mut registry = Registry::default();
    let metrics = TelemetryMetrics::register(&mut registry);
    let began = Instant::now();
    let run = run(pool.clone(), sender, began.into_std(), metrics, statuses.clone(), shutdown.clone());
    let (task, asked) = (tokio::spawn(run), Asked::default());
    Scraped { pool, writer, reports, asked, statuses, shutdown, task, began, registry }
}

/// Waits for readings of endpoint 0 until `enough` says so, and returns how many there were.
async fn until(scraped: &mut Scraped, enough: impl Fn(&Scraped, usize) -> bool) -> usize {
    let mut readings = 0;
    let outcome = tokio::time::timeout(DEADLINE, async {
        while !enough(scraped, readings) {
            let report = scraped.reports.recv().await.unwrap();
            readings += usize::from(report.endpoint == scraped.id(0));
        }
    });
    let outcome = outcome.await;
    let rows = 0..scraped.pool.snapshot().members.len();
    assert!(outcome.is_ok(), "{readings} readings, {:#?}", rows.map(|row| scraped.status(row)).collect::<Vec<_>>());
    readings
}

#[tokio::test]
async fn every_way_to_misbehave_is_told_apart_and_delays_nobody_else() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const UNENDED: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
    let good = serve(Manner::Answers(OK, VLLM)).await;
    let elsewhere = serve(Manner::Answers(OK, VLLM)).await;
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: http://{}/metrics\r\n", elsewhere.address).leak();
    let wide_head = format!("{OK}x-wide: {}\r\n", "y".repeat(100_000)).leak();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let cases = [
        (Manner::ThenHangs(""), ScrapeResult::Timeout, "timed out after 2 s"),
        (Manner::ThenHangs("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nvllm:"), ScrapeResult::Timeout, "timed out"),
        (Manner::Drips(OK, "x-slow: yes\r\n"), ScrapeResult::Timeout, "timed out"),
        (Manner::Drips(UNENDED, "vllm:num_requests_waiting 1\n"), ScrapeResult::Timeout, "timed out"),
        (Manner::Answers("HTTP/1.1 500 Oh\r\n", "no"), ScrapeResult::Status, "answered with status 500"),
        (Manner::Answers(redirect, ""), ScrapeResult::Status, "answered with status 302"),
        (Manner::Answers(OK, "<html>\n<body>{{{</html>"), ScrapeResult::NoSeries, "is the engine right (vllm)?"),
        (Manner::Answers(OK, "vllm:num_requests_waiting NaN\n"), ScrapeResult::NotNumbers, "answered NaN"),
        (Manner::Endless(UNENDED), ScrapeResult::TooLarge, "more than 8388608 bytes"),
        (Manner::Answers(wide_head, ""), ScrapeResult::Broken, "broke off"),
        (Manner::ThenCloses("SSH-2.0-OpenSSH\r\n"), ScrapeResult::Broken, "broke off"),
        (Manner::ThenCloses("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nvllm:"), ScrapeResult::Broken, "broke off"),
    ];
    let mut addresses = vec![good.address, closed];
    for (manner, ..) in &cases {
        addresses.push(serve(*manner).await.address);
    }
    let telemetry = TelemetryPolicy { timeout: TIMEOUT, ..TelemetryPolicy::default() };
    let mut scraped = scrape_servers(&addresses, telemetry);

    let all_failed = |scraped: &Scraped, _| scraped.statuses.failing() == addresses.len() - 1;
    let readings = until(&mut scraped, all_failed).await;
    // The good server is busy, by its own word, so it is asked every 50 ms; the timeouts took two seconds.
    assert!(readings >= 8, "{readings} readings while others hung");

    let refused = scraped.status(1).unwrap().last_error.unwrap();
    assert!(refused.contains("could not connect: Connection refused"), "{refused}");
    for (row, (manner, result, message)) in cases.iter().enumerate() {
        let error = scraped.status(row + 2).unwrap().last_error.unwrap();
        assert!(error.contains(message), "{manner:?}: {error}");
        assert!(error.contains(&addresses[row + 2].to_string()), "{manner:?}: {error}");
        assert!(scraped.count(*result) >= 1, "{result:?}");
    }
    assert_eq!(elsewhere.requests.load(Ordering::Relaxed), 0, "a redirect was followed");
    assert_eq!(good.connections.load(Ordering::Relaxed), 1, "a connection is kept");
    let good = scraped.status(0).unwrap();
    assert_eq!((good.consecutive_failures, good.last_error), (0, None));
}

#[tokio::test]
async fn readings_arrive_over_ipv6_and_after_the_server_closed_the_connection() {
    const CLOSING: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nvllm:num_requests_waiting 3\n";
    let Some(server) = serve_at("::1", Manner::ThenCloses(CLOSING)).await else {
        // A machine without IPv6 shows the second half of the claim.
        let server = serve(Manner::ThenCloses(CLOSING)).await;
        return assert_read_twice(server).await;
    };
    assert_read_twice(server).await;
}

async fn assert_read_twice(server: Server) {
    let mut scraped = scrape_servers(&[server.address], TelemetryPolicy::default());
    until(&mut scraped, |_, readings| readings == 2).await;
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
    assert_eq!(scraped.statuses.failing(), 0);
}
