PYTHON ?= python3
VENV ?= .venv
DATA ?= data
OLDEST ?= tests/test_common.py tests/test_pipeline.py tests/test_model_selection.py tests/test_caching.py
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format check clean bench-mnist bench-scale bench-codebook bench-random-code bench-spike-slab bench-student bench-uci bench-matrix-gaussian bench-search docs fuzz test-oldest

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(READY)  ## make a virtual environment with the package and everything its tests need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $(READY)

demo: $(READY)  ## the main job on real data: a table, a picture and a student file in results/
	$(BIN)/python examples/quickstart.py

test: $(READY)  ## all tests, the doctests with them
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-oldest:  ## scikit-learn's checks and the pipelines with the oldest versions that are allowed (Python 3.11)
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[test]"
	.venv-oldest/bin/python -m pytest -q $(OLDEST)

docs: $(READY)  ## the documentation as HTML in docs/_build; warnings are errors
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test  ## lint and test

bench-mnist: $(READY)  ## MNIST: accuracy, speed and memory of teacher and student (DATA=folder)
	$(BIN)/python benchmarks/mnist.py --data $(DATA)

bench-scale: $(READY)  ## growth with rows, Dask workers, cost of kills (DATA=folder adds MNIST)
	$(BIN)/python benchmarks/scale.py $(if $(wildcard $(DATA)/mnist),--data $(DATA))

bench-codebook: $(READY)  ## codebooks on MNIST: bytes against error (DATA=folder)
	$(BIN)/python benchmarks/codebook.py --data $(DATA)

bench-random-code: $(READY)  ## random codes on MNIST: bytes against error, Mean-KL against Mean-Var (DATA=folder)
	$(BIN)/python benchmarks/random_code.py --data $(DATA)

bench-spike-slab: $(READY)  ## selection in simulations, pruning on MNIST (DATA=folder)
	$(BIN)/python benchmarks/spike_slab.py --data $(DATA)

bench-student: $(READY)  ## latency, throughput, import time and size of students
	$(BIN)/python benchmarks/student.py

bench-uci: $(READY)  ## UCI regression sets: error and log-likelihood of uncertain networks (DATA=folder)
	$(BIN)/python benchmarks/uci.py --data $(DATA)

bench-matrix-gaussian: $(READY)  ## matrix Gaussian posteriors on MNIST: bytes, error, calibration (DATA=folder)
	$(BIN)/python benchmarks/matrix_gaussian.py --data $(DATA)

bench-search: $(READY)  ## a search over compression against the sum of its parts
	$(BIN)/python benchmarks/search.py

fuzz: $(READY)  ## a million hostile student files
	$(BIN)/python tests/helpers/fuzz_student_file.py --cases 1000000

clean:  ## remove the environment and what was built
	rm -rf $(VENV) .venv-oldest docs/_build build dist *.egg-info results
