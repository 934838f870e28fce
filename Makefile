# `make` lists what there is. Everything runs in the release profile and with the whole workspace's features,
# those of tests included, so that no dependency is built twice.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test check fuzz golden-check bench bench-model bench-peers bench-finance stack clean-stack

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Kafka message in, committed and billed rows out, on this machine alone
	$(CARGO) run --release --locked -- demo

test: stack ## Every test, those on a real broker and a real object store included
	$(CARGO) test --release --locked --workspace

# Documentation is for people who work on the code, so it shows private items, and public ones may link to them.
check: ## Format, lints, documentation, and the rules of the code base
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc --release --locked --workspace --no-deps --document-private-items --lib --bins --examples
	$(CARGO) test --release --locked --workspace --test tidy

FUZZ_TARGETS ?= gguf safetensors config tokenizer bodies
FUZZ_SECONDS ?= 600
# The C code among the dependencies defines things twice, and says so only to the address sanitizer.
FUZZ = PATH="$(abspath $(TARGET)/cargo-fuzz/bin):$$PATH" ASAN_OPTIONS=detect_odr_violation=0 \
	$(CARGO) +nightly fuzz run --fuzz-dir fuzz --target-dir $(abspath $(TARGET)/fuzz)

# What a run finds lies in $(TARGET)/fuzz/corpus, what breaks something in fuzz/artifacts.
fuzz: $(TARGET)/cargo-fuzz/bin/cargo-fuzz ## Feed hostile models and requests to the engine, FUZZ_SECONDS each (needs a nightly Rust)
	for target in $(FUZZ_TARGETS); do \
		mkdir -p $(TARGET)/fuzz/corpus/$$target; \
		$(FUZZ) $$target $(abspath $(TARGET))/fuzz/corpus/$$target fuzz/corpus/$$target -- \
			-dict=fuzz/dictionaries/$$target.dict -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 || exit 1; \
	done

$(TARGET)/cargo-fuzz/bin/cargo-fuzz:
	$(CARGO) install cargo-fuzz --version 0.13.2 --locked --root $(TARGET)/cargo-fuzz

golden-check: ## Compute the golden files again with transformers and compare (installs 6 GB)
	python3 -m venv $(TARGET)/golden
	$(TARGET)/golden/bin/pip install --quiet --requirement integration/reference/requirements.txt
	$(TARGET)/golden/bin/python integration/reference/golden.py --check

bench: ## Measure the kernels against the limits of this machine
	$(CARGO) bench --locked --package kernels --bench limits

bench-model: ## Measure a whole model of random weights against the limits of this machine
	$(CARGO) run --release --locked -- model bench --shape 2b4t

bench-peers: $(TARGET)/peers/installed ## Measure it in turns with llama.cpp (compiles that first, some minutes)
	$(CARGO) build --release --locked --package pipeline
	$(TARGET)/peers/bin/python integration/peers/bench.py $(TARGET)/release/bitnet --work $(TARGET)/peers

$(TARGET)/peers/installed: integration/peers/requirements.txt
	python3 -m venv $(TARGET)/peers
	$(TARGET)/peers/bin/pip install --quiet --requirement integration/peers/requirements.txt
	touch $@

bench-finance: stack ## Report on a year of ten million requests (3 GB of disk), and time it
	BITNET_YEAR_EVENTS=10000000 $(CARGO) test --release --locked --workspace --test finance -- --nocapture

stack: ## Install broker, object store and readers for the tests
	@sh integration/stack/install.sh $(TARGET)/stack

clean-stack: ## Remove what `make stack` installed, and the logs of test runs
	rm -rf $(TARGET)/stack
