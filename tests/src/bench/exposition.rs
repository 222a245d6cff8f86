//! Metrics pages of model servers that are not there: what vLLM publishes, on an address for each endpoint.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// All that a vLLM server publishes after a thousand requests.
const WHOLE: &str = include_str!("../../../crates/telemetry/fixtures/vllm.prom");
/// The longest request that is read.
const REQUEST_MAX: usize = 8 << 10;

/// How much the pages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// A few kilobytes: gauges, counters and one histogram.
    Short,
    /// All of it, about 50 KB.
    Whole,
}

impl Page {
    /// The page of the endpoint with this number: no requests, and a cache of its own fullness.
    fn of(self, endpoint: usize) -> String {
        let mut page = String::new();
        let mut histograms = 0;
        for line in WHOLE.lines() {
            histograms += usize::from(line.starts_with("# TYPE") && line.ends_with("histogram"));
            if self == Self::Short && (histograms > 1 || line.contains("_created")) && !line.contains("cache_config") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            let value = match series.split('{').next() {
                // A server that says that it works is asked more often, whatever the picker knows.
                Some("vllm:num_requests_running" | "vllm:num_requests_waiting") => "0.0",
                Some("vllm:kv_cache_usage_perc") => ["0.125", "0.25", "0.375", "0.5"][endpoint % 4],
                _ => value,
            };
            // Writing to a string cannot fail.
            let _ = writeln!(page, "{series} {value}");
        }
        page
    }
}

/// The pages' servers. They end with the runtime that they were started on.
#[derive(Debug)]
pub struct Pages {
    /// One address an endpoint.
    pub addresses: Vec<SocketAddr>,
    /// Bytes of one page.
    pub page_bytes: usize,
    served: Arc<AtomicU64>,
}

impl Pages {
    /// Serves a page on each of so many loopback addresses.
    pub async fn serve(endpoints: usize, page: Page) -> Result<Self> {
        let served = Arc::new(AtomicU64::new(0));
        let mut addresses = Vec::with_capacity(endpoints);
        let mut page_bytes = 0;
        for endpoint in 0..endpoints {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("listening for scrapes")?;
            addresses.push(listener.local_addr().context("reading an address")?);
            let text = page.of(endpoint);
            page_bytes = text.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
                 content-length: {page_bytes}\r\n\r\n{text}"
            );
            tokio::spawn(accept(listener, answer.into(), Arc::clone(&served)));
        }
        Ok(Self { addresses, page_bytes, served })
    }

    /// Pages served so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, answer: Bytes, served: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (answer, served) = (answer.clone(), Arc::clone(&served));
        // A scraper that goes away is no concern of ours.
        tokio::spawn(async move { converse(stream, &answer, &served).await.ok() });
    }
}

/// Answers every request that ends, whatever it asks, until the scraper goes.
async fn converse(mut stream: TcpStream, answer: &[u8], served: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    while request.len() < REQUEST_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            stream.write_all(answer).await?;
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_page_still_says_what_a_picker_reads() {
        let page = Page::Short.of(3);
        for series in ["vllm:num_requests_waiting{", "vllm:num_requests_running{", "vllm:kv_cache_usage_perc{"] {
            assert!(page.lines().any(|line| line.starts_with(series)), "{series}");
        }
        assert!(page.contains("\"} 0.5\n") && page.contains("vllm:cache_config_info"), "{page}");
        assert!((3_000..12_000).contains(&page.len()), "{}", page.len());
    }
}
