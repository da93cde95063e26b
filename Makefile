# make demo   from nothing to a word error rate
# make test   the whole test suite
# make test-fast   two minutes of it, for while one works
# make reproduce RESULT=demo   a recorded result once more, from nothing: same, within the interval, or different
# make docs   the documentation as a site, in site/
# make lint   style, import direction, workflow format
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CORES ?= all
# many tests wait for a scheduler or a signal; each process may take 1 GiB
TESTS_AT_ONCE ?= 3
BIN := .venv/bin
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
# without a GPU, the constraint chooses a release of torch that has a CPU build
CONSTRAINTS := $(if $(filter 0,$(GPU)),-c constraints-cpu.txt,)
# --no-compile: byte code is made when a module is first used, which halves the time
PIP := $(BIN)/python -m pip --disable-pip-version-check

# ctc-beam-decoder (docs/decoding.md) has no wheel for some machines: there the demo decodes greedily alone
WITHOUT_LM = echo "birq[lm] could not be installed, so without it: decoding is greedy alone (docs/decoding.md)"
LM = $(shell $(BIN)/python -c 'import ctc_beam_decoder' 2>/dev/null || echo "--config 'lm={source: none}'")

# rules of the workflow call `python -m birq`
export PATH := $(CURDIR)/$(BIN):$(PATH)
# where it is set (many containers), each of a run's 20 processes would compile every module that it imports, 5 s on a slow core
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast reproduce docs lint format clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: birq needs Python 3.11 or later, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) -m venv failed; Debian and Ubuntu need the package python3-venv" >&2; exit 1; }

# a stamp is written after a successful installation only
.venv/.installed: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing birq and its packages into .venv $(if $(CONSTRAINTS),(no GPU seen: CPU build of torch),(with the GPU build of torch)): 1 to 5 minutes"
	@$(PIP) install -q --no-compile $(CONSTRAINTS) -e '.[pipeline,lm]' || { $(PIP) install -q --no-compile $(CONSTRAINTS) -e '.[pipeline]' && $(WITHOUT_LM); }
	@touch $@

.venv/.installed-dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing birq, its packages and the test tools into .venv: 1 to 5 minutes"
	@$(PIP) install -q --no-compile $(CONSTRAINTS) -e '.[dev,lm]' || { $(PIP) install -q --no-compile $(CONSTRAINTS) -e '.[dev]' && $(WITHOUT_LM); }
	@touch .venv/.installed $@

demo: .venv/.installed
	@python -m birq plan --time $(if $(filter-out all,$(CORES)),--cores $(CORES))
	@snakemake --cores $(CORES) --quiet host reason rules $(LM)
	@echo
	@python -m birq table
	@echo

test: .venv/.installed-dev
	@python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile $(PYTEST_ARGS)

test-fast: .venv/.installed-dev
	@python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile -m "not slow" $(PYTEST_ARGS)

reproduce: .venv/.installed
	@python -m birq reproduce $(or $(RESULT),$(error name a result: make reproduce RESULT=demo)) --cores $(CORES)

docs: .venv/.installed-dev
	@NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict -q
	@echo "site/index.html"

lint: .venv/.installed-dev
	ruff check .
	ruff format --check .
	lint-imports
	snakemake --lint
	snakefmt --check Snakefile workflow

format: .venv/.installed-dev
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

clean:
	rm -rf .venv .venv-bench build dist site *.egg-info .snakemake .pytest_cache .ruff_cache
