//! Claims about readings.

use pointsman_core::prefix::hash_name;
use proptest::prelude::*;

use super::*;

/// A vLLM server's whole answer.
const VLLM: &str = include_str!("../../fixtures/vllm.prom");

fn read(engine: &str, text: &str) -> Result<Reading, ReadingError> {
    let mut reader = Reader::new(Arc::new(Mapping::builtin(engine).unwrap()));
    reader.push(text.as_bytes());
    reader.finish()
}

/// `(waiting, running, kv_cache_usage, kv_cache_tokens)` of what `engine` says in `text`.
fn figures(engine: &str, text: &str) -> (f32, f32, f32, Option<u64>) {
    let load = read(engine, text).unwrap().load;
    (load.waiting, load.running, load.kv_cache_usage, load.kv_cache_tokens)
}

#[test]
fn reads_a_whole_vllm_exposition_however_it_is_cut() {
    let whole = read("vllm", VLLM).unwrap();
    assert_eq!((whole.malformed_lines, whole.clamps), (0, Clamps::default()));
    assert_eq!(figures("vllm", VLLM), (3.0, 7.0, 0.4375, Some(16 * 27_450)));
    let adapters = whole.load.adapters.clone().unwrap();
    assert_eq!(adapters.max, 4);
    for (name, running, waiting) in
        [("sql-lora", true, false), ("tweet-summary", true, false), ("support-v2", false, true), ("", false, false)]
    {
        let hash = hash_name(name.as_bytes());
        assert_eq!((adapters.is_running(hash), adapters.is_waiting(hash)), (running, waiting), "{name:?}");
    }
    for piece in [1, 100, 1448, 16 << 10] {
        let mut reader = Reader::new(Arc::new(Mapping::builtin("vllm").unwrap()));
        VLLM.as_bytes().chunks(piece).for_each(|piece| reader.push(piece));
        assert_eq!(reader.finish().as_ref(), Ok(&whole), "in pieces of {piece}");
    }
}

#[test]
fn every_builtin_engine_is_read() {
    let cases = [
        (
            "vllm",
            "vllm:num_requests_waiting 2\nvllm:num_requests_running 3\nvllm:gpu_cache_usage_perc 0.25\n\
             vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n",
            (2.0, 3.0, 0.25, None),
        ),
        (
            "sglang",
            "sglang:num_queue_reqs{model_name=\"m\"} 4\nsglang:num_running_reqs 5\nsglang:token_usage 0.5\n\
             sglang:cache_config_info{num_pages=\"1000\",page_size=\"64\"} 1.0\n",
            (4.0, 5.0, 0.5, Some(64_000)),
        ),
        (
            "trtllm-serve",
            "trtllm_num_requests_waiting 6\ntrtllm_num_requests_running 7\ntrtllm_kv_cache_utilization 0.75\n\
             trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n",
            (6.0, 7.0, 0.75, Some(3_200)),
        ),
        (
            "triton-tensorrt-llm",
            "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\",version=\"1\"} 8\n\
             nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\",version=\"1\"} 9\n\
             nv_trt_llm_request_metrics{model=\"m\",request_type=\"max\",version=\"1\"} 512\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.125\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\"} 64\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 10\n",
            (8.0, 9.0, 0.125, Some(640)),
        ),
    ];
    for (engine, text, expected) in cases {
        assert_eq!(figures(engine, text), expected, "{engine}");
    }
}

#[test]
fn several_engines_behind_one_port_add_up_and_the_fullest_cache_counts() {
    let text = "vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"1\"} 2\n\
                vllm:num_requests_running{engine=\"0\"} 10\nvllm:num_requests_running{engine=\"1\"} 20\n\
                vllm:kv_cache_usage_perc{engine=\"0\"} 0.9\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.1\n\
                vllm:cache_config_info{engine=\"0\",block_size=\"16\",num_gpu_blocks=\"10\"} 1\n\
                vllm:cache_config_info{engine=\"1\",block_size=\"16\",num_gpu_blocks=\"20\"} 1\n";
    assert_eq!(figures("vllm", text), (3.0, 30.0, 0.9, Some(480)));
}

#[test]
fn figures_that_cannot_be_true_are_clamped_and_counted() {
    use ClampKind::*;
    let cases = [
        ("NaN", (0.0, 0.0), Nan),
        ("+Inf", (1e6, 1.0), Infinite),
        ("-Inf", (0.0, 0.0), Infinite),
        ("-1", (0.0, 0.0), Negative),
        ("1e300", (1e6, 1.0), TooLarge),
    ];
    for (value, (requests, share), kind) in cases {
        let text = format!(
            "vllm:num_requests_running 1\nvllm:num_requests_waiting {value}\nvllm:kv_cache_usage_perc {value}\n\
             vllm:cache_config_info{{block_size=\"16\",num_gpu_blocks=\"{value}\"}} 1\n"
        );
        let reading = read("vllm", &text).unwrap();
        assert_eq!((reading.load.waiting, reading.load.kv_cache_usage), (requests, share), "{value}");
        for field in [Field::Waiting, Field::KvCacheUsage, Field::KvCacheTokens] {
            assert!(reading.clamps.count(field, kind) >= 1, "{value}: {field:?}");
        }
        assert_eq!(reading.clamps.count(Field::Running, kind), 0);
    }
    let sum =
        read("vllm", "vllm:num_requests_waiting{engine=\"0\"} 9e5\nvllm:num_requests_waiting{engine=\"1\"} 9e5\n");
    assert_eq!(sum.unwrap().load.waiting, 1e6, "each could be true, their sum could not");
}

#[test]
fn an_answer_without_the_engines_series_is_a_failure_that_names_them() {
    for text in ["", "<html><body>It works!</body></html>", "up 1\n", "sglang:num_queue_reqs 1\n"] {
        let error = read("vllm", text).unwrap_err().to_string();
        assert!(error.starts_with("answered but has none of vllm:num_requests_waiting, "), "{error}");
        assert!(error.ends_with("is the engine right (vllm)?"), "{error}");
    }
    let only_shape = "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"10\"} 1\n";
    assert!(read("vllm", only_shape).is_err(), "a cache's size says nothing of load");
    let nan = read("vllm", "vllm:num_requests_waiting NaN\n").unwrap_err();
    assert!(matches!(nan, ReadingError::NotNumbers { .. }), "{nan}");
}

#[test]
fn adapter_lists_are_bounded() {
    let names: Vec<_> = (0..1_500).map(|n| format!("adapter-{n}")).collect();
    let text = format!(
        "vllm:num_requests_waiting 0\nvllm:lora_requests_info{{max_lora=\"-3\",running_lora_adapters=\" {} \"}} 5\n",
        names.join(" , ")
    );
    let reading = read("vllm", &text).unwrap();
    let adapters = reading.load.adapters.unwrap();
    let held = names.iter().filter(|name| adapters.is_running(hash_name(name.as_bytes()))).count();
    assert_eq!((held, adapters.max), (MAX_ADAPTERS, 0));
    assert_eq!(reading.clamps.count(Field::Adapters, ClampKind::TooLarge), 1);
    assert_eq!(reading.clamps.count(Field::Adapters, ClampKind::Negative), 1);
}

proptest! {
    #[test]
    fn whatever_a_server_says_the_load_can_be_true(
        values in prop::collection::vec((0usize..6, any::<f64>(), "\\PC{0,20}"), 1..20),
    ) {
        const NAMES: [&str; 6] = ["num_requests_waiting", "num_requests_running", "kv_cache_usage_perc",
            "gpu_cache_usage_perc", "cache_config_info", "lora_requests_info"];
        let line = |(name, value, text): &(usize, f64, String)| {
            let name = NAMES[*name];
            format!("vllm:{name}{{block_size=\"{value}\",num_gpu_blocks=\"{value:e}\",max_lora=\"{text}\",\
                running_lora_adapters=\"{text},{text}\"}} {value}\n")
        };
        let text: String = values.iter().map(line).collect();
        if let Ok(Reading { load, .. }) = read("vllm", &text) {
            prop_assert!((0.0..=1e6).contains(&load.waiting));
            prop_assert!((0.0..=1e6).contains(&load.running));
            prop_assert!((0.0..=1.0).contains(&load.kv_cache_usage));
            prop_assert!(load.kv_cache_tokens.is_none_or(|tokens| (1..=1_000_000_000_000).contains(&tokens)));
        }
    }
}
