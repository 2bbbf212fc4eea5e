# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
CODE   := api_spec storage reports telemetry service worker client examples bench deploy helm tools tests

# A test or a benchmark may load ONNX Runtime before Caveat does, which says so too.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: explain help demo demo-explain test test-all programs check format generate gradients validation truths bench zoo chaos load tamper fuzz
.PHONY: faults neighbours contain site up clean

PROGRAMS := curl jq openssl ps chromium node npm
test: PROGRAMS := curl openssl ps
chart: PROGRAMS := node npm

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps rapidocr-onnxruntime kserve  # only a model and types are read, as files
	@touch $@ $(VENV)/.demo

$(VENV)/.oracle: $(VENV)/.dev
	$(PIP) --editable '.[dev,oracle]'
	@touch $@

$(VENV)/.peers: $(VENV)/.oracle
	$(PIP) --editable '.[dev,peers]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --editable '.[dev,fuzz]'
	@touch $@

$(VENV)/.zoo: $(VENV)/.oracle bench/zoo/packages.txt
	$(PIP) --editable '.[zoo]'
	$(PIP) --no-deps --requirement bench/zoo/packages.txt
	@touch $@

.cache/clients/.ready: $(VENV)/.dev $(wildcard tests/contract/clients/*) tests/npm.py | programs
	$(BIN)/python -m tests.contract.clients.get
	@touch $@

.venv-keras/.ready: constraints.txt
	$(PYTHON) -m venv .venv-keras
	.venv-keras/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	  tensorflow-cpu tf2onnx tf_keras
	@touch $@

demo: $(VENV)/.demo  ## audit a real ImageNet model and real loan decisions (5 minutes, installation included)
	$(BIN)/python -m examples.demo

demo-explain: $(VENV)/.demo  ## explain a real ImageNet model: features, layers, places, made pictures
	$(BIN)/python -m examples.tour

test: programs $(VENV)/.dev  ## the quick tests, against a real broker, database and models
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

test-all: programs $(VENV)/.oracle $(VENV)/.fuzz .cache/chart/.ready .cache/clients/.ready  ## every test: against torch, in a browser, fuzzed
	$(BIN)/python -m pytest -n 2 --dist loadgroup

programs:  ## what tests run beside Python, as Debian's packages: as root they are installed, otherwise named
	@missing=$$(for one in $(PROGRAMS); do command -v $$one > /dev/null || echo $$one; done); \
	packages=$$(echo $$missing | sed 's/\bps\b/procps/; s/\bnode\b/nodejs/'); \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update --quiet && \
	  apt-get install --quiet --yes --no-install-recommends $$packages; } || \
	  echo Some tests will fail without $$missing: apt-get install $$packages

check: $(VENV)/.dev  ## format, lint, types, import contract, generated files
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m caveat_spec.openapi --check
	$(BIN)/python tools/generate_client.py --check
	$(BIN)/python tools/problems.py --check
	$(BIN)/python tools/manual.py --check
	$(BIN)/python helm/generate.py --check

format: $(VENV)/.dev  ## what `check` asks for, as far as a machine can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

generate: $(VENV)/.dev  ## the committed files that are made by code
	$(BIN)/python -m caveat_spec.openapi
	$(BIN)/python tools/generate_client.py
	$(BIN)/python tools/problems.py
	$(BIN)/python -m tests.contract.test_docs
	$(BIN)/python helm/generate.py
	$(BIN)/python -m bench.gradients --operators
	$(BIN)/python -m bench.explain --registry
	REGENERATE_GOLDENS=1 $(BIN)/python -m pytest -q -k "not axe" tests/client/test_docs.py tests/docs/test_methods.py tests/reports
	$(BIN)/python tools/manual.py

gradients: $(VENV)/.oracle  ## docs/gradients.md: correctness and speed of the gradients (KERAS=a Python with tf2onnx)
	$(BIN)/python -m bench.gradients $(if $(KERAS),--keras $(KERAS))

validation: $(VENV)/.dev  ## docs/validation.md: error rate and power of the verdicts
	$(BIN)/python -m bench.validation

truths: $(VENV)/.dev  ## the ground truths of docs/validation.md alone
	$(BIN)/python -m bench.validation truths

bench: $(VENV)/.oracle  ## docs/benchmarks.md and scaling.md: an audit against its bound, against captum, at scale, as a service
	$(BIN)/python -m bench
	$(BIN)/python -m bench.scale_out

explain: $(VENV)/.peers  ## docs/explanations.md, grammar.md, building-blocks.md: explanations against truths and other libraries
	$(BIN)/python -m bench.explain
	$(BIN)/python -m bench.grammar
	$(BIN)/python -m bench.building_blocks

zoo: $(VENV)/.zoo .venv-keras/.ready  ## docs/zoo.md: models that were not written here, each through every command (hours; FIRST="words", RESUME=1)
	KERAS=.venv-keras/bin/python $(BIN)/python -m bench.zoo $(if $(RESUME),--resume) $(if $(FIRST),--first $(FIRST))

chaos: $(VENV)/.dev  ## audits while every part of the service is killed or stopped at random; counts
	$(BIN)/python -m pytest -s -p no:randomly tests/worker/test_chaos.py

load: $(VENV)/.dev  ## two hundred clients for two minutes over PostgreSQL; figures
	$(BIN)/python -m pytest -s tests/service/test_load.py

tamper: $(VENV)/.dev  ## flips 10,000 bits in blobs, cache and reports; counts what came of it
	$(BIN)/python -m pytest -s -m slow tests/hostile/test_tamper.py

faults: $(VENV)/.dev  ## 43 faults of disks, clocks, processes, bytes and networks; what each ended with
	$(BIN)/python -m pytest -s -p no:randomly -m slow tests/worker/test_faults.py

neighbours: $(VENV)/.dev  ## one tenant floods and drips while issuer and broker are silent; what another one notices
	$(BIN)/python -m pytest -s tests/service/test_neighbours.py

contain: $(VENV)/.dev  ## 500 hostile children of 32 kinds, on this kernel and on one without seccomp; what is left of them
	$(BIN)/python -m pytest -s -m slow tests/hostile/test_contain.py

fuzz: $(VENV)/.fuzz  ## readers and model loading, SECONDS each (60)
	for target in $$($(BIN)/python -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)'); do \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(or $(SECONDS),60) -seed=0 || exit 1; done

site: $(VENV)/.dev  ## the documentation as a site, in build/site; a link that leads nowhere is an error
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . build/site

up: $(VENV)/.demo  ## the whole service on this machine
	$(BIN)/caveat up

clean:  ## what was built here; the virtual environment stays
	rm -rf .caveat .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build

include chart.mk
