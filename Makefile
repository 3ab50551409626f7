# Two commands do everything on a fresh machine: `make repro` and `make test`. `make` alone lists the targets.
PYTHON ?= python3
PROFILE ?= laptop
DEVICE ?= cpu
ifeq ($(CACHE),off)
export SUPCL_RUNS := off
endif
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv and install everything pinned in requirements.txt

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "python3 is $$($(PYTHON) --version); expected 3.11 or newer. Name another with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@python -m study.pipeline prepare
	@git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true
	@touch $@

data: $(READY)  ## fetch Fashion-MNIST and check it against data.dvc; PROFILE=colour fetches CIFAR-10
	@python -m study.data.fetch $(PROFILE)

# Nothing that is to test the runs may take them from the cache. Only in `make test` do the notebooks take the runs that its pipeline
# has just executed and stored: see tests/pipeline/typed.py and the fixture that empties the folder.
RUNS := off
cells notebooks: export SUPCL_RUNS := $(RUNS)
# At toy size a worker takes longer to start than to do its part, and the two lanes of `make test` keep two cores busy.
pipeline cells: export LOKY_MAX_CPU_COUNT := 1
cells: export OMP_NUM_THREADS := 1

repro: data  ## every notebook, figure, table and the paper from real data; PROFILE=colour on CIFAR-10, PROFILE=paper [PART=...] on GPUs
ifeq ($(PROFILE),laptop)
	@python -m study.pipeline check
	dvc repro
	@python -m study.pipeline summary
else
	python -m study.profiles $(PROFILE) $(PART)
endif

smoke: $(READY)  ## the same pipeline at toy size, into build/smoke-run
	python -m study.pipeline smoke build/smoke-run

# The first two start together, and the notebooks when one of them ends: the pipeline takes as long as the other two.
test: $(READY)  ## lint, unit tests, notebooks as tests, and beside both the whole pipeline at toy size
	ruff check .
	ruff format --check .
	$(MAKE) --jobs 2 pipeline units cells RUNS="$(CURDIR)/build/test-runs"

units: $(READY)  ## the tests of supcl and study
	pytest tests/supcl tests/study

pipeline: $(READY)  ## the tests of the pipeline, which run it at toy size
	pytest tests/pipeline

cells: $(READY)  ## the notebooks as tests, one after another, as each reads what earlier ones wrote
	pytest --nbval --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval.cfg $$(python -m study.pipeline list)

tiny: $(READY)  ## the whole profile of the papers at toy size
	pytest -m tiny --durations 1 tests

bench: $(READY)  ## time and memory of the losses beside other implementations, speed of training; DEVICE=cuda for the losses on a GPU
	python -m study.benchmarks.losses --device $(DEVICE)
ifeq ($(DEVICE),cpu)
	python -m study.benchmarks.training
endif

compat:  ## the tests of the losses on the oldest and the newest torch, on each Python this machine has
	$(PYTHON) tests/compat.py

verdicts: $(READY)  ## tables, figures and verdicts of the analysis again from what Git holds, and what differs
	python -m study.pipeline verdicts

verify: $(READY)  ## after `make repro`: does every table and claim agree with what Git holds?
	python -m study.pipeline verify

mutants: $(READY)  ## do the tests of the losses notice when the code is changed? (half an hour)
	mutmut run
	mutmut results

notebooks: $(READY)  ## run the source notebooks in place at toy size, refreshing their stored outputs
	python -m study.pipeline refresh

lab: $(READY)  ## open JupyterLab
	jupyter lab --notebook-dir notebooks

readme: $(READY)  ## put the tables of results/ into README.md
	python -m study.benchmarks.estimate
	python -m study.readme

lock:  ## recompile requirements.txt from pyproject.toml
	uv pip compile --universal --python-version 3.11 --no-header --extra study --extra dev pyproject.toml -o requirements.txt

.PHONY: help setup data repro smoke test units pipeline cells tiny bench compat verdicts verify mutants notebooks lab readme lock
