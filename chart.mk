# What runs without a cluster and without a daemon; the Makefile includes it.
.PHONY: chart images hashes

CHART_TOOLS := .cache/chart

$(CHART_TOOLS)/.ready: $(VENV)/.dev $(wildcard tests/chart/tools/*) tests/npm.py | programs
	$(BIN)/python -m tests.chart.tools.get
	@touch $@

chart: $(CHART_TOOLS)/.ready  ## the Helm chart, the Dockerfile and the compose file: every set of values, every linter
	$(BIN)/python helm/generate.py --check
	$(BIN)/python -m pytest tests/chart -m slow -n 2 -q

images: $(VENV)/.dev  ## build the images, start them without privileges, audit through them (as root; IMAGES=--gpu for all)
	@which buildah mmdebstrap setpriv > /dev/null || { apt-get update && apt-get install --yes buildah mmdebstrap util-linux; }
	$(BIN)/python -m deploy.images $(IMAGES)

HASHED := service worker worker-gpu signing
hashes: $(VENV)/.dev  ## deploy/hashes: the digests of what the images install, after a change of constraints (asks the index)
	$(PIP) uv==0.13.9
	for extra in $(HASHED); do \
	  { [ $$extra = signing ] || printf '%s\n' 'psycopg[binary]' s3fs; } | $(BIN)/uv pip compile --quiet pyproject.toml - --extra $$extra \
	    --constraint constraints.txt --constraint deploy/constraints.txt --python-version 3.11 --universal \
	    --generate-hashes --no-header --no-annotate --output-file deploy/hashes/$$extra.txt || exit 1; done
