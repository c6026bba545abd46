# Commands for people who work with or on the exporter. `make help` lists them.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench programs

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the exporter watching a simulated Atlas, on http://127.0.0.1:10064
	$(CARGO) run --release --locked -- demo

test: programs lint ## installs what the tests need, then runs all of them
	$(CARGO) build --release --locked
	$(CARGO) test --locked --features real-programs
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

lint: ## formatting and clippy, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets --features real-programs -- -D warnings

bench: ## what a scrape and a walk cost, each as a ratio in one run
	$(CARGO) bench --locked --benches

programs:
	@tests/install-programs
