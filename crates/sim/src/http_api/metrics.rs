//! `GET /metrics`: a page under vLLM's names, with the company of other series that a real one has.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{HeaderValue, StatusCode, header};

use crate::server::{Histogram, MetricsFault, Observed, Shared};

/// A page being written.
struct Page<'a> {
    text: String,
    /// Labels of every series, without braces.
    labels: &'a str,
}

pub(super) async fn serve(State(shared): State<Arc<Shared>>) -> Response {
    let fault = shared.faults.borrow().metrics;
    let page = || render(&shared, &shared.engine.observed().borrow());
    let body = match fault {
        None => Body::from(page()),
        Some(MetricsFault::Html) => {
            let mut response = Response::new(Body::from("<!DOCTYPE html><html><body>Please sign in</body></html>\n"));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            return response;
        }
        Some(MetricsFault::Status500) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(MetricsFault::Hang) => return std::future::pending().await,
        Some(MetricsFault::Nan) => Body::from(spoil(&page())),
        Some(MetricsFault::Huge) => {
            let chunk = Bytes::from("vllm:endless{label=\"value\"} 1\n".repeat(2_048));
            Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
        }
        Some(MetricsFault::Slow) => {
            let bytes = stream::iter(Bytes::from(page())).then(|byte| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(Bytes::from(vec![byte]))
            });
            Body::from_stream(bytes)
        }
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Replaces every value by one that no gauge should have.
fn spoil(page: &str) -> String {
    let mut values = ["NaN", "+Inf", "-Inf", "-1", "1.7976931348623157e+308"].into_iter().cycle();
    let mut spoilt = String::with_capacity(page.len());
    for line in page.lines() {
        match line.rsplit_once(' ').filter(|_| !line.starts_with('#')) {
            Some((series, _)) => {
                let _ = write!(spoilt, "{series} {}", values.next().unwrap_or("NaN"));
            }
            None => spoilt.push_str(line),
        }
        spoilt.push('\n');
    }
    spoilt
}

fn render(shared: &Shared, observed: &Observed) -> String {
    let config = &shared.config;
    let model = config.models.first().map_or("sim", String::as_str);
    let labels = format!("engine=\"0\",model_name=\"{}\"", escape(model));
    let mut page = Page { text: String::with_capacity(32 << 10), labels: &labels };
    let (stats, latencies) = (&observed.engine, &observed.latencies);
    page.process();
    page.gauge("vllm:num_requests_running", "Requests in the batch.", stats.running as f64);
    page.gauge("vllm:num_requests_waiting", "Requests waiting to be processed.", stats.waiting as f64);
    page.gauge("vllm:engine_sleep_state", "Whether the engine sleeps.", 0.0);
    page.gauge("vllm:kv_cache_usage_perc", "KV-cache use, 1 being all of it.", stats.kv_usage);
    for (name, help, value) in [
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
        ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_hits),
        ("vllm:external_prefix_cache_queries", "Prompt tokens looked up in an outside cache.", 0),
        ("vllm:external_prefix_cache_hits", "Prompt tokens found in an outside cache.", 0),
        ("vllm:mm_cache_queries", "Multi-modal items looked up.", 0),
        ("vllm:mm_cache_hits", "Multi-modal items found.", 0),
        ("vllm:num_preemptions", "Preemptions.", 0),
        ("vllm:prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
        ("vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
    ] {
        page.counter(name, help, value as f64);
    }
    page.successes(stats.finished, stats.cancelled);
    for (name, help, histogram) in [
        ("vllm:time_to_first_token_seconds", "Time to first token.", &latencies.time_to_first_token),
        ("vllm:inter_token_latency_seconds", "Time between tokens.", &latencies.inter_token),
        ("vllm:e2e_request_latency_seconds", "Whole time of a request.", &latencies.end_to_end),
        ("vllm:request_queue_time_seconds", "Time in the queue.", &latencies.queue),
        ("vllm:request_prefill_time_seconds", "Time in prefill.", &latencies.prefill),
        ("vllm:request_prompt_tokens", "Prompt tokens of a request.", &latencies.prompt_tokens),
        ("vllm:request_generation_tokens", "Generated tokens of a request.", &latencies.generation_tokens),
    ] {
        page.histogram(name, help, histogram);
    }
    let engine = &config.engine;
    page.describe("vllm:cache_config_info", "Configuration of the KV cache.", "gauge");
    let _ = writeln!(
        page.text,
        "vllm:cache_config_info{{block_size=\"{}\",cache_dtype=\"auto\",calculate_kv_scales=\"False\",\
         cpu_offload_gb=\"0\",enable_prefix_caching=\"True\",engine=\"0\",gpu_memory_utilization=\"0.9\",\
         is_attention_free=\"False\",num_cpu_blocks=\"None\",num_gpu_blocks=\"{}\",num_gpu_blocks_override=\"None\",\
         prefix_caching_hash_algo=\"sha256\",sliding_window=\"None\",swap_space=\"4\"}} 1.0",
        engine.block_tokens,
        engine.kv_blocks(),
    );
    if !config.adapters.is_empty() {
        page.describe("vllm:lora_requests_info", "Running adapters, waiting adapters.", "gauge");
        let names = |numbers: &[usize]| {
            let names = numbers.iter().filter_map(|&number| config.adapters.get(number));
            names.map(|name| escape(name)).collect::<Vec<_>>().join(",")
        };
        for (running, waiting, unix) in &observed.adapter_history {
            let _ = writeln!(
                page.text,
                "vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} \
                 {unix}",
                engine.max_lora,
                names(running),
                names(waiting),
            );
        }
    }
    page.text
}

impl Page<'_> {
    fn describe(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.describe(name, help, "gauge");
        let _ = writeln!(self.text, "{name}{{{}}} {value:?}", self.labels);
    }

    /// A counter and its time of creation, as Python's client library writes both.
    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.describe(&format!("{name}_total"), help, "counter");
        let _ = writeln!(self.text, "{name}_total{{{}}} {value:?}", self.labels);
        self.describe(&format!("{name}_created"), help, "gauge");
        let _ = writeln!(self.text, "{name}_created{{{}}} 1.7546112e+09", self.labels);
    }

    fn successes(&mut self, finished: u64, aborted: u64) {
        self.describe("vllm:request_success_total", "Requests by how they ended.", "counter");
        for (reason, value) in [("stop", 0), ("length", finished), ("abort", aborted), ("error", 0)] {
            let labels = self.labels;
            let _ = writeln!(
                self.text,
                "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {:?}",
                value as f64
            );
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.describe(name, help, "histogram");
        let labels = self.labels;
        for (bound, count) in histogram.buckets() {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{bound}\"}} {:?}", count as f64);
        }
        let _ = writeln!(self.text, "{name}_count{{{labels}}} {:?}", histogram.count() as f64);
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {:?}", histogram.sum());
    }

    /// What every Python server says of itself, ahead of its own series.
    fn process(&mut self) {
        self.describe("python_gc_objects_collected_total", "Objects collected.", "counter");
        for generation in 0..3 {
            let _ = writeln!(self.text, "python_gc_objects_collected_total{{generation=\"{generation}\"}} 1.0");
        }
        self.describe("python_info", "Python platform information.", "gauge");
        let _ = writeln!(
            self.text,
            "python_info{{implementation=\"CPython\",major=\"3\",minor=\"12\",patchlevel=\"11\",version=\"3.12.11\"}} 1.0"
        );
        for (name, help, value) in [
            ("process_virtual_memory_bytes", "Virtual memory size.", "3.1241232384e+010"),
            ("process_resident_memory_bytes", "Resident memory size.", "6.36616704e+09"),
            ("process_open_fds", "Open file descriptors.", "88.0"),
        ] {
            self.describe(name, help, "gauge");
            let _ = writeln!(self.text, "{name} {value}");
        }
    }
}

/// A label's value as the exposition format writes it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
