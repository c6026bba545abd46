# Commands for people who work with or on the exporter. `make help` lists them.

CARGO ?= cargo
# for each fuzz target
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help demo test lint mutants coverage deny docs deb rpm image release bench memory fuzz prometheus drill rules dashboards preview programs

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the exporter watching a simulated Atlas, on http://127.0.0.1:10064
	$(CARGO) run --release --locked -- demo

# programs that stand behind one of the same name that does not work
test: export PATH := $(CURDIR)/target/programs:$(PATH)
test: programs lint ## installs what the tests need, then runs all of them
	RUST_TEST_THREADS=8 $(CARGO) test --locked --features real-programs --no-fail-fast
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

lint: ## formatting and clippy, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features real-programs -- -D warnings

mutants: ## which changes of the branch's code no test notices (FILES="src/..." for whole files)
	nice -n 19 packages/mutants $(FILES)

coverage: ## which lines the tests reach (needs LLVM tools of rustc's version, such as Debian's llvm-22)
	packages/coverage

deny: ## licences, sources and known faults of the dependencies (`make release` asks for it)
	packages/tools cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	@if timeout 60 $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --locked check advisories; \
	  else echo 'The database of advisories cannot be reached from here: known faults were not looked for.'; fi

docs: ## docs/metrics.md and the flags in docs/configuration.md, from the sources
	@touch docs/metrics.md
	WRITE_DOCS=1 $(CARGO) test --locked --test it docs_in_sync

deb: ## Build the Debian package in target/debian
	RUSTFLAGS="$$(packages/remap)" $(CARGO) build --release --locked
	packages/deb target/release/atlas-ai-keys-exporter target/debian

rpm: ## Build the RPM package in target/generate-rpm
	RUSTFLAGS="$$(packages/remap)" $(CARGO) build --release --locked
	packages/rpm target/release/atlas-ai-keys-exporter target/generate-rpm
	@! command -v rpm >/dev/null || rpm -qlp target/generate-rpm/*.rpm

image: ## Build the container image in target/image, without a container engine (needs buildah)
	packages/static
	packages/image "$$(packages/static --where)" target/image

release: ## Build and check all release files in target/release-files (needs skopeo)
	packages/release

bench: ## what a scrape and a walk cost, each as a ratio in one run
	$(CARGO) bench --locked --benches

memory: ## whether 1,200 keys still fit into 16 MiB (release build)
	$(CARGO) test --release --locked --features real-programs --test e2e resident_memory -- --ignored

fuzz: ## looks for bad inputs, FUZZ_SECONDS for each target (needs cargo-fuzz and a nightly compiler)
	@cd fuzz && for target in $$($(CARGO) +nightly fuzz list); do \
	  $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 || exit 1; done

prometheus: programs ## Prometheus with all alerts beside `make demo`, on http://127.0.0.1:19090
	@mkdir -p target/drill
	@jsonnet -S -m target/drill --tla-code-file config=dashboards/drill/parameters.jsonnet dashboards/mixin/render.jsonnet >/dev/null
	@cp dashboards/drill/prometheus.yml dashboards/alertmanager.example.yml target/drill
	@prometheus-alertmanager --config.file=target/drill/alertmanager.example.yml --storage.path=target/drill/alertmanager \
	  --web.listen-address=127.0.0.1:19093 --cluster.listen-address= & trap "kill $$!" EXIT INT TERM; \
	  prometheus --config.file=target/drill/prometheus.yml --storage.tsdb.path=target/drill/data --web.listen-address=127.0.0.1:19090

dashboards: ## the Grafana dashboards, from the mixin
	jsonnet -m dashboards dashboards/mixin/render-dashboards.jsonnet

preview: programs ## draws the dashboards with Grafana's own components, into target/preview
	$(CARGO) build --release --locked
	@dashboards/preview/draw

drill: programs ## every situation on the simulated Atlas, and the alerts that it raises
	$(CARGO) test --locked --features real-programs --test e2e drill -- --include-ignored --skip each_alert_fires_in_its_case --nocapture

rules: ## the rule files of dashboards/rules, from the mixin
	@jsonnet -S -m dashboards/rules dashboards/mixin/render.jsonnet

programs:
	@tests/install-programs
