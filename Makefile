# One word for each job. Every target sets up what it needs; a fresh machine needs python3 (3.10+), g++ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv where it is there (torch in 22 s instead of 74 s); otherwise one is put into the virtual environment.
UV := $(shell command -v uv || echo $(BIN)/uv)
SOURCES := $(shell find csrc -name '*.[ch]pp' -o -name '*.inc' -o -name '*.pyx') CMakeLists.txt pyproject.toml

.PHONY: setup demo test bench bench-compare lint sanitize docs clean
.DEFAULT_GOAL := setup

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	command -v uv > /dev/null || $(BIN)/pip install --quiet uv

$(VENV)/.ready: $(BIN)/python $(SOURCES)
	$(UV) pip install --quiet --python $(BIN)/python "scikit-build-core>=0.11" "pybind11>=3.0" "cython>=3.1" ninja cmake
	$(UV) pip install --quiet --python $(BIN)/python --no-build-isolation --reinstall-package aitems-engine -e ".[train,stream,dev]"
	touch $@

setup: $(VENV)/.ready   ## virtual environment with everything, native code built

demo: setup             ## the main job: simulate, train, stream through an embedded broker, report
	$(BIN)/python -m aitems_engine.cli.demo

test: setup             ## all tests that need no service: fast ones first, then the slow
	$(BIN)/python -m pytest -m "not slow and not kafka and not triton"
	$(BIN)/python -m pytest -m "slow and not kafka and not triton"

bench: setup            ## measurements against peers (several minutes); see docs/benchmarks.md
	$(UV) pip install --quiet --python $(BIN)/python -r bench/requirements.txt
	$(BIN)/python -m pytest bench

bench-compare: setup    ## has a ratio to a peer fallen by more than 15 % below bench/baselines.json? (two minutes)
	$(UV) pip install --quiet --python $(BIN)/python -r bench/requirements.txt
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest bench/bench_ratios.py --benchmark-timer time.process_time \
	  --benchmark-columns median,iqr,rounds

lint: setup             ## style and types
	$(BIN)/ruff check python tests bench
	$(BIN)/ruff format --check python tests bench
	$(BIN)/mypy

sanitize:               ## C++ tests and the Python tests of the native parts under address + undefined
	.ci/sanitize

docs: setup             ## checks that what README and docs show is true
	$(BIN)/python -m pytest tests/contract

clean:
	rm -rf $(VENV) .venv-asan build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
