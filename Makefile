# `make` lists what there is. Everything runs in the release profile: one build serves all.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test check golden-check bench stack clean-stack

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Kafka message in, committed and billed rows out, on this machine alone
	$(CARGO) run --release --locked -- demo

test: stack ## Every test, those on a real broker and a real object store included
	$(CARGO) test --release --locked --workspace

check: ## Format, lints, documentation, and the rules of the code base
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps
	$(CARGO) test --release --locked -p integration --test tidy

golden-check: ## Make the golden files again with transformers (downloads 6 GB) and compare
	$(MAKE) -C integration/reference check

bench: ## Measure the kernels, the engine and the pipeline
	$(CARGO) bench --locked --workspace

stack: ## Install broker, object store and readers for the tests
	@sh integration/stack/install.sh $(TARGET)/stack

clean-stack: ## Remove what `make stack` installed, and the logs of test runs
	rm -rf $(TARGET)/stack
