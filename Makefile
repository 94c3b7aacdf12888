# One entry for everything; `make run` and `make test` do all their own set-up on a machine with python3 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# extra arguments for pip, for example PIP_ARGS="--extra-index-url URL" to choose a CPU or CUDA build of torch
PIP_ARGS ?=
# arguments for run.py: make run ARGS="model=tiny_mamba2 seed=0..9"
ARGS   ?=
RERUN  ?= 0
SCALE  ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint bench bench-gpu paper tiny constraints clean

help: ## this list
	@grep -E '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) -m venv failed; install the venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[lora]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev,lora,wandb,ray,slurm]'
	@touch $@

run: $(VENV)/.run ## set up, then run the main job (embedded model and benchmark, CPU, minutes); ARGS="model=... seed=..."
	$(BIN)/python run.py $(ARGS)

test: $(VENV)/.test ## set up, then run the tests (all but those marked slow; under 10 minutes on two cores)
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test-all: $(VENV)/.test ## set up, then run every test (ARGS="-m slow": only what `make test` leaves out)
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.run ## benchmarks on this CPU, side by side, as ratios (experiments/bench/)
	$(BIN)/python scripts/bench.py $(ARGS)

bench-gpu: $(VENV)/.run ## benchmarks on a CUDA device at Qwen3.5-4B's shape (random weights)
	$(BIN)/python scripts/bench_gpu.py $(ARGS)

paper: $(VENV)/.run ## tables, figures and paper/s0_tuning.pdf from records; SCALE=tiny RERUN=1 makes the records again
	$(if $(filter 1,$(RERUN)),$(BIN)/python scripts/replicate.py $(if $(SCALE),scale=$(SCALE)) $(ARGS))
	$(BIN)/python scripts/paper.py

tiny: $(VENV)/.run ## train the embedded models again from scratch, reproducibly, and write their model cards
	$(BIN)/python scripts/pretrain_tiny.py $(ARGS)

constraints: ## write constraints.txt from a fresh install of all extras
	rm -rf build/constraints-venv
	$(PYTHON) -m venv build/constraints-venv
	build/constraints-venv/bin/python -m pip install -q $(PIP_ARGS) $(if $(KEEP),-c constraints.txt) -e '.[dev,lora,wandb,ray,slurm]'
	build/constraints-venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove the virtual environment, caches and outputs (records under experiments/ stay)
	rm -rf $(VENV) build outputs multirun .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
