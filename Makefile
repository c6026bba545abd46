# Development commands. `make help` lists them.

CARGO ?= cargo
# Duration of each fuzz target.
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help demo test lint mutants coverage deny docs deb rpm image release bench memory fuzz prometheus drill rules dashboards preview programs

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the exporter with a simulated Atlas on http://127.0.0.1:10064
	$(CARGO) run --locked -- demo

# tests/install-programs links working programs here if PATH has a non-working one of the same name first.
test: export PATH := $(CURDIR)/target/programs:$(PATH)
test: programs lint ## install the programs that the tests use, then run all tests
	RUST_TEST_THREADS=8 $(CARGO) test --locked --features real-programs --no-fail-fast
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

lint: ## check formatting and clippy, with warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features real-programs -- -D warnings

mutants: ## list changes of the branch's code that no test detects (FILES="src/..." for whole files)
	nice -n 19 packages/mutants $(FILES)

coverage: ## list lines that no test reaches (needs LLVM tools of rustc's version, such as Debian's llvm-22)
	packages/coverage

deny: ## check licenses, sources and known vulnerabilities of dependencies (part of `make release`)
	packages/tools cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	@if timeout 60 $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --locked check advisories; \
	  else echo 'advisory database unavailable: skipping the check for known vulnerabilities'; fi

docs: ## generate docs/metrics.md and the flags in docs/configuration.md from the sources
	@touch docs/metrics.md
	WRITE_DOCS=1 $(CARGO) test --locked --test it docs_in_sync

deb: ## build the Debian package in target/debian
	CARGO_ENCODED_RUSTFLAGS="$$(packages/remap)" $(CARGO) build --release --locked
	packages/deb target/release/atlas-ai-keys-exporter target/debian

rpm: ## build the RPM package in target/generate-rpm
	CARGO_ENCODED_RUSTFLAGS="$$(packages/remap)" $(CARGO) build --release --locked
	packages/rpm target/release/atlas-ai-keys-exporter target/generate-rpm
	@! command -v rpm >/dev/null || rpm -qlp target/generate-rpm/*.rpm

image: ## build the container image in target/image, without a container engine (needs buildah)
	packages/static
	packages/image "$$(packages/static --where)" target/image

release: ## build and check all release files in target/release-files (needs skopeo)
	packages/release

bench: ## run the benchmarks of scrapes and walks
	$(CARGO) bench --locked --benches

memory: ## check that 1,200 keys need at most 16 MiB (static release build, or EXPORTER="path of a binary")
	$(if $(EXPORTER),,packages/static)
	EXPORTER="$${EXPORTER:-$$(packages/static --where)}" $(CARGO) test --locked --features real-programs --test e2e resident_memory -- --ignored

fuzz: ## fuzz each target for FUZZ_SECONDS (needs cargo-fuzz and a nightly compiler)
	@cd fuzz && for target in $$($(CARGO) +nightly fuzz list); do \
	  $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 || exit 1; done

prometheus: programs ## run Prometheus with all alerts for `make demo`, on http://127.0.0.1:19090
	@mkdir -p target/drill
	@jsonnet -S -m target/drill --tla-code-file config=dashboards/drill/parameters.jsonnet dashboards/mixin/render.jsonnet >/dev/null
	@cp dashboards/drill/prometheus.yml dashboards/alertmanager.example.yml target/drill
	@prometheus-alertmanager --config.file=target/drill/alertmanager.example.yml --storage.path=target/drill/alertmanager \
	  --web.listen-address=127.0.0.1:19093 --cluster.listen-address= & trap "kill $$!" EXIT INT TERM; \
	  prometheus --config.file=target/drill/prometheus.yml --storage.tsdb.path=target/drill/data --web.listen-address=127.0.0.1:19090

dashboards: ## render the Grafana dashboards from the mixin
	jsonnet -m dashboards dashboards/mixin/render-dashboards.jsonnet

preview: programs ## draw the dashboards with Grafana's components into target/preview
	$(CARGO) build --release --locked
	@dashboards/preview/draw

drill: programs ## run every alert in its case on the simulated Atlas
	$(CARGO) test --locked --features real-programs --test e2e drill -- --include-ignored --skip each_alert_fires_in_its_case --nocapture

rules: ## render the rule files of dashboards/rules from the mixin
	@jsonnet -S -m dashboards/rules dashboards/mixin/render.jsonnet

programs:
	@tests/install-programs
