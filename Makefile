# `make help` lists the targets.

.DEFAULT_GOAL := help
.PHONY: demo test lint bench soak tools help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## fetch and build the tools that tests run (Envoy, Envoy Gateway, kube-apiserver, etcd, CoreDNS, helm, Prometheus, CRDs), once
	cargo run -q -p xtask -- tools

demo: ## six simulated model servers behind a real Envoy: its own balancing beside the picker's
	cargo run -q -p xtask -- tools envoy
	cargo build --release -p pointsman
	target/release/pointsman demo

test: tools ## all tests, those through a real Envoy included
	cargo test --workspace

lint: ## formatting, clippy, licences, generated code, edges between crates
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
		echo "cargo deny check" && cargo deny check; \
	else \
		echo "lint: cargo-deny is not installed: licences, bans and advisories are skipped"; \
	fi
	cargo run -q -p xtask -- codegen --check
	cargo build --workspace --bins --tests
	target/debug/pointsman crds --check
	cargo test --workspace --test suite -- edges

bench: tools ## figures: micro-benchmarks, the picker beside a no-op server, a cluster that changes, the demo
	cargo bench -p pointsman-core
	cargo run --release -p pointsman-tests --bin bench
	cargo run --release -p pointsman-tests --bin cluster-bench
	cargo build --release -p pointsman
	for seed in 1 2 3; do \
		echo "demo, seed $$seed" && target/release/pointsman demo --seed $$seed --output demo-report/$$seed || exit 1; \
	done

soak: tools ## the suite at length: more streams, longer responses, longer outages
	POINTSMAN_DEPTH=soak cargo test --release -p pointsman-tests --test suite
