# Everything a person or CI does here. `make` lists it; `make demo` and `make test`
# do all their own set-up. Kept to what GNU make 3.81 (macOS) understands.

# Another Python: make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?=
VENV ?= .venv
PYTEST_ARGS ?=
WORKERS ?= auto
# Another Kubernetes for the cluster's tests: make test-cluster KUBERNETES=1.37
KUBERNETES ?=
FUZZ_MINUTES ?= 10
# The transport of pymicro's ends with foreign peers: make test-gomicro TRANSPORT=fast
TRANSPORT ?= grpc
# Calls of each shape: make soak SOAK_CALLS=100000
SOAK_CALLS ?= 1000000
BENCH_ARGS ?=
SIMULATE_ARGS ?=
PICTURE ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROTOS := $(wildcard protos/*/v1/*.proto)
GENERATED := examples/greeter/greeter/.generated

# scripts/controlplane reads it.
export KUBERNETES

# Tests run side by side, since much of their time they wait (tests/conftest.py: how many at a
# time); those of one file stay together, and share what the file starts.
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := $(PYTEST) -n $(WORKERS) --dist loadfile
# Without foreign programs, see the marks in pyproject.toml.
HERE := not peers and not cluster and not gomicro and not compat and not soak and not telemetry and not trees

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup gen demo fast test test-all fuzz test-fast test-pairings soak bump-nghttp2 test-peers test-plots test-cluster test-gomicro test-compat test-telemetry test-trees test-all-pythons test-3.11 test-3.12 \
	test-3.13 test-3.14 test-3.15 test-lowest lint format types bench bench-cluster simulate docs papers pictures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## virtual environment with all dependencies (PYTHON=, VENV=)

# A venv that was interrupted, or whose Python is gone, is made anew.
# `--group` needs pip 25.1, and an older Python brings an older pip.
$(INSTALLED): pyproject.toml
	@python="$(PYTHON)"; [ -n "$$python" ] || python=$$(scripts/find-python); \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --editable .
	@touch $@

gen: $(GENERATED) ## Python code of the examples' protos (git-ignored)

$(GENERATED): $(PROTOS) $(INSTALLED)
	$(BIN)/python -m pymicro gen --include protos --out examples/greeter $(PROTOS)
	@touch $@

demo: $(GENERATED) ## three greeters, a client, a crash, a fourth greeter, a clean stop
	@$(BIN)/python examples/greeter/demo.py

test: $(GENERATED) ## the test suite without what is slow (needs Python only; PYTEST_ARGS=, WORKERS=)
	$(SIDE_BY_SIDE) -m '$(HERE) and not once and not wheel and not alone' $(PYTEST_ARGS)

# Where PYTEST_ARGS picks tests, one of the two runs may find none, which pytest ends with 5.
test-all: $(GENERATED) ## the whole test suite, and the table of bars that it measured (needs Python only)
	$(SIDE_BY_SIDE) -m '$(HERE) and not alone' $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? = 5 ])
	$(PYTEST) -m '$(HERE) and alone' $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? = 5 ])

# What was found is shrunk, and kept in .build/fuzz until it goes into tests/fuzz/findings.py.
fuzz: $(GENERATED) ## every parser of what strangers send, with new inputs for ten minutes (FUZZ_MINUTES=)
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(PYTEST) -n $(WORKERS) --maxschedchunk 1 tests/fuzz $(PYTEST_ARGS)

# Whoever asks for transport fast gets it built.
OVER := --transport $(TRANSPORT)
WITH_IT := $(filter fast,$(TRANSPORT))

test-peers: $(GENERATED) $(WITH_IT) ## foreign programs: grpcurl, step, buf curl, grpc-js, grpc-go's interop cases (TRANSPORT=; needs Go and Node.js)
	$(BIN)/python -m pip install --quiet --group peers
	grpcurl=$$(scripts/grpcurl) && js=$$(scripts/grpc-js) && interop=$$(scripts/interop) && \
		step=$$(scripts/step) && peer=$$(scripts/benchpeer) && scripts/valgrind >/dev/null && \
		GRPCURL="$$grpcurl" STEP="$$step" GRPC_JS="$$js" GRPC_GO_INTEROP="$$interop" BENCH_PEER="$$peer" \
		$(BIN)/python -m pytest -m peers $(OVER) tests/peers tests/interop $(PYTEST_ARGS)

fast: $(INSTALLED) ## install pymicro-fast, built here, into the virtual environment (needs a C compiler)
	wheel=$$(scripts/fast $(BIN)/python) && $(BIN)/python -m pip install --quiet --no-deps --force-reinstall "$$wheel"

# The engine; calls and servers of the two seams, each with grpc.aio at the other end; then services and
# chaos with transport fast at both ends, in all programs.
test-fast: $(GENERATED) fast ## the suites of clients, servers, services and chaos over transport `fast` (needs a C compiler)
	$(SIDE_BY_SIDE) -m '$(HERE) and not alone' -k fast tests/fast tests/calling tests/serving tests/sync $(PYTEST_ARGS)
	$(SIDE_BY_SIDE) -m '$(HERE) and not alone and not wheel' --transport fast tests/service tests/chaos $(PYTEST_ARGS)

# `make test` has grpc.aio at both ends; `make test-fast` has fast at both ends of services and chaos, and at our
# end of calls and servers. Here it is at the other end of those, and at one end of services and chaos; with the
# tests of chaos that need the machine for themselves.
PAIRED := $(SIDE_BY_SIDE) -m '$(HERE) and not alone and not wheel'
test-pairings: $(GENERATED) fast ## clients and servers, services and chaos, with each transport against the other (needs a C compiler)
	$(PAIRED) -k 'grpc or fast' --server-transport fast tests/calling $(PYTEST_ARGS)
	$(PAIRED) -k 'grpc or fast' --client-transport fast tests/serving $(PYTEST_ARGS)
	$(PAIRED) --client-transport fast --server-transport grpc tests/service tests/chaos $(PYTEST_ARGS)
	$(PAIRED) --client-transport grpc --server-transport fast tests/service tests/chaos $(PYTEST_ARGS)
	$(PYTEST) -m '$(HERE) and alone' --transport fast tests/chaos $(PYTEST_ARGS)
	$(PYTEST) -m '$(HERE) and alone' --client-transport fast --server-transport grpc tests/chaos $(PYTEST_ARGS)
	$(PYTEST) -m '$(HERE) and alone' --client-transport grpc --server-transport fast tests/chaos $(PYTEST_ARGS)

soak: $(GENERATED) fast ## a million calls of each shape that are cancelled at random, a minute of deadlines (SOAK_CALLS=; 20 minutes)
	SOAK_CALLS=$(SOAK_CALLS) $(PYTEST) -m soak -o faulthandler_timeout=0 --transport fast tests/soak $(PYTEST_ARGS)

bump-nghttp2: $(INSTALLED) ## take nghttp2 of another release of its carrier, and test it (CARRIER=; needs a C compiler)
	$(BIN)/python scripts/bump_nghttp2.py $(CARRIER)
	$(MAKE) test-fast

test-plots: $(GENERATED) ## the simulator and its pictures, which need the group `bench`
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m pytest tests/benchmarks/test_simulate.py $(PYTEST_ARGS)

test-cluster: $(GENERATED) ## pymicro on a real Kubernetes control plane (KUBERNETES=; Linux, root, needs Go)
	assets=$$(scripts/controlplane) && monitor=$$(scripts/custom-resources monitor) && \
		issued=$$(scripts/custom-resources cert-manager) && helm=$$(scripts/helm) && \
		KUBEBUILDER_ASSETS="$$assets" POD_MONITOR="$$monitor" CERT_MANAGER="$$issued" HELM="$$helm" \
		$(BIN)/python -m pytest -m cluster tests/cluster $(PYTEST_ARGS)

test-gomicro: $(GENERATED) $(WITH_IT) ## pymicro and real go-micro 1.18 peers, both ways (TRANSPORT=; Linux, root, needs Go)
	peer=$$(scripts/gomicro) && assets=$$(scripts/controlplane) && GOMICRO_PEER="$$peer" KUBEBUILDER_ASSETS="$$assets" \
		$(BIN)/python -m pytest -m gomicro $(OVER) tests/gomicro $(PYTEST_ARGS)

test-compat: $(GENERATED) ## this checkout and the last release: each calls the other (needs git's history)
	release=$$(PYTHON="$(abspath $(BIN))/python" scripts/last-release) && \
		LAST_RELEASE="$$release" $(BIN)/python -m pytest -m compat tests/compat $(PYTEST_ARGS)

# PICTURE= writes what the dashboard shows of the tests' services, into docs/ say.
test-telemetry: $(GENERATED) ## metrics and spans in a real Prometheus and OpenTelemetry collector (Linux, needs Go; PICTURE=)
	$(BIN)/python -m pip install --quiet --group telemetry --group bench
	tools=$$(scripts/prometheus) && otelcol=$$(scripts/otelcol) && set -- $$tools && \
		PROMETHEUS="$$1" PROMTOOL="$$2" OTELCOL="$$otelcol" PICTURE="$(PICTURE)" \
		$(BIN)/python -m pytest -m telemetry tests/telemetry/real $(PYTEST_ARGS)

# Thousands of files: the tests of `pymicro gen` have each kind that was ever found here.
test-trees: $(GENERATED) ## `pymicro gen` over whole trees of other people's protos (needs Node.js; ten minutes)
	trees=$$(PYTHON="$(abspath $(BIN))/python" scripts/proto-trees) && PROTO_TREES="$$trees" \
		$(PYTEST) -m trees -o faulthandler_timeout=0 tests/trees $(PYTEST_ARGS)

test-all-pythons: test-3.11 test-3.12 test-3.13 test-3.14 test-3.15 ## the test suite under each supported Python

# With the wheel, which depends on the Python; without what does not, which `make test-all` has run.
test-3.11 test-3.12 test-3.13 test-3.14 test-3.15: test-%:
	scripts/with-python $* $(MAKE) test VENV=.venv-$* \
		PYTEST_ARGS="-m '$(HERE) and not once and not alone' $(PYTEST_ARGS)"

test-lowest: ## the test suite with the lowest versions pyproject.toml allows, on Python 3.11
	scripts/test-lowest

lint: $(GENERATED) ## ruff, its formatter, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/lint-imports --config house.toml

format: $(INSTALLED) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(GENERATED) ## mypy, strict; of the examples too, with the types that `pymicro gen` makes
	$(BIN)/mypy
	cd examples/greeter && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml .
	cd examples/plugins && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml .

bench: $(GENERATED) ## the benchmarks; results go to benchmarks/README.md (needs Go and valgrind)
	peer=$$(scripts/benchpeer) && scripts/valgrind >/dev/null && \
		BENCH_PEER="$$peer" $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-cluster: $(GENERATED) ## discovery on a real Kubernetes API server (Linux, root, needs Go)
	$(BIN)/python -m pip install --quiet --group bench
	assets=$$(scripts/controlplane) && KUBEBUILDER_ASSETS="$$assets" $(BIN)/python -m benchmarks.cluster $(BENCH_ARGS)

simulate: $(INSTALLED) ## balancers, ejection and retries in virtual time; writes benchmarks/simulate (plots)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m benchmarks.simulate --write $(SIMULATE_ARGS)

docs: $(GENERATED) ## the documentation as a site, in .build/site/html; a dead link fails
	$(BIN)/python -m pip install --quiet --group docs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m scripts.site .build/site

papers: $(GENERATED) ## write anew what README.md, docs/ and deploy/ have from the code
	$(BIN)/python -m scripts.papers --write
	$(BIN)/python -m scripts.public_names --write

pictures: $(GENERATED) ## draw the commands as they look on a terminal of 80 columns anew, into docs/terminal
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m scripts.pictures docs/terminal

clean: ## remove everything that was made here
	rm -rf .venv .venv-* .build build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf $(foreach proto,$(PROTOS),examples/greeter/$(word 2,$(subst /, ,$(proto))))
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
