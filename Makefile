# Everything builds .venv first if it is missing or older than what defines it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo-out
SITE := site
# Python of an environment with TensorFlow; where it is given, `make bench` also runs Dynamic World's network.
TENSORFLOW ?=
# Python of an environment with torchgeo, odc-stac and geoai; where it is given, `make bench` also maps with these.
# `python -m tests.benchmarks.peers --install FOLDER` makes one, in a quarter of an hour.
PEERS ?=
# Processes that share the tests: one more than there are cores, since one often waits, but no more than eight, as
# each takes about 1.5 GB; whoever is done takes over tests of the others. `make test TESTS="-x tests/unit"` runs some
# tests in one process.
CORES := $(or $(shell getconf _NPROCESSORS_ONLN),2)
TESTS := -n $(shell expr $(CORES) + 1) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test fast bench check docs qgis qgis-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## map a simulated area into demo-out/, without a network
	$(BIN)/landuse demo --out $(DEMO) --overwrite
	@echo "open    $(DEMO)/map/index.html in a browser"
	@echo "next    . $(VENV)/bin/activate    puts \`landuse\` on the path of this shell"

test: $(INSTALLED) ## every test but those that need a public service
	$(BIN)/python -m pytest $(TESTS)

fast: $(INSTALLED) ## the tests that take no more than a few seconds each
	$(BIN)/python -m pytest $(TESTS) -m "not slow and not online"

bench: $(INSTALLED) ## timings as ratios and how true maps are, in 20 minutes on two quiet cores; not part of the tests
	$(BIN)/python -m tests.benchmarks.reading
	$(BIN)/python -m tests.benchmarks.reading --jpeg2000 --latencies 0.05 --rounds 1
	$(BIN)/python tests/benchmarks/vectors.py
	$(BIN)/python -m tests.benchmarks.dense_loop --side-px 2048
	$(BIN)/python -m tests.benchmarks.scaling --rounds 5
	$(BIN)/python -m tests.benchmarks.many_areas --areas 60 --every 10
	$(BIN)/python -m tests.benchmarks.viewing
	$(BIN)/python -m tests.benchmarks.cover --model balanced-pixel
	$(BIN)/python -m tests.benchmarks.cover_widths --model balanced-pixel
	$(if $(TENSORFLOW),$(BIN)/python -m tests.benchmarks.cover_speed --model balanced-pixel --bands rgb-nir \
		--tensorflow-python $(TENSORFLOW))
	$(if $(PEERS),$(BIN)/python -m tests.benchmarks.peers --python $(PEERS) --side-px 1024 --window-px 584 --rounds 5)
	$(BIN)/python tests/benchmarks/startup.py

check: $(INSTALLED) ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict landuse

docs: $(INSTALLED) ## the documentation, into site/; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(SITE)

qgis: $(INSTALLED) ## the plugin for QGIS as a zip, into dist/
	$(BIN)/python qgis/make_zip.py dist

qgis-test: $(INSTALLED) ## the plugin in QGIS of the distribution, without a window (Debian: apt install qgis python3-qgis)
	$(BIN)/python -m pytest -rs tests/qgis

clean: ## remove what the other targets made
	rm -rf $(VENV) $(DEMO) $(SITE) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find landuse tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an install that was interrupted is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "landuse needs Python 3.11 or newer; '$(PYTHON)' is" \
		"$$($(PYTHON) --version 2>&1 || true). Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@
