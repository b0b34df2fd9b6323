# Everything here runs in .venv, made on first use; .venv/bin/ganger is the command.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := $(BIN)/python -m tools.with_services --
BENCH := .venv-bench

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench bench-placement bench-models bench-peers fuzz lock clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(READY) ## a fleet of unlike workers in one process; needs no servers
	@$(BIN)/ganger demo

test: $(READY) ## the whole suite, with real RabbitMQ and Redis (found, or started)
	$(RUN) $(BIN)/python -m pytest

check: $(READY) ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: bench-placement bench-models bench-peers ## all benchmarks

bench-placement: $(READY) ## placements and label upserts per second, by size of the fleet
	$(BIN)/python bench/placement.py

bench-models: $(READY) $(BENCH)/.ready ## model loads and waits by how steps are routed, and their picture
	$(BIN)/python bench/warm_models.py --json $(BENCH)/warm-models.json
	$(BENCH)/bin/python bench/plot_warm_models.py $(BENCH)/warm-models.json docs/images/warm-models.svg

bench-peers: $(READY) $(BENCH)/.ready ## jobs per second and round trips against Celery, Dramatiq, Taskiq
	$(RUN) $(BIN)/python bench/e2e.py

fuzz: $(READY) ## engine against oracle, 100,000 random cases (about 25 minutes)
	$(BIN)/python -m pytest --hypothesis-profile long --timeout 0 tests/unit/placement/test_engine_is_oracle.py

lock: $(READY) ## compile requirements/*.txt anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --upgrade \
	  --all-extras --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --upgrade \
	  requirements/bench.in -o requirements/bench.txt

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) $(BENCH) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): requirements/dev.txt pyproject.toml tools/make_venv.sh
	@sh tools/make_venv.sh $(VENV) requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH)/.ready: requirements/bench.txt tools/make_venv.sh
	@sh tools/make_venv.sh $(BENCH) requirements/bench.txt
	@touch $@
