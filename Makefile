# Everything a newcomer needs: `make demo` and `make test` do their own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $(STAMP)

.PHONY: help setup demo test test-slow mutants lint fmt types check bench results clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment

demo: $(STAMP) ## train a small model in minutes; report in runs/demo/report.html
	$(RUN) -m objectwise demo

test: $(STAMP) ## run the tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

test-slow: $(STAMP) ## run the tests that take long as well
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m ''

mutants: $(STAMP) ## plant bugs and see that the tests catch each
	OMP_NUM_THREADS=1 $(RUN) tests/mutants/run.py

fmt: $(STAMP) ## format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lint: $(STAMP) ## check style
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

types: $(STAMP) ## check types
	$(RUN) -m mypy

check: lint types ## style and types

bench: $(STAMP) ## measure every claim about speed (needs an idle machine)
	for script in bench/*.py; do echo "# $$script"; $(RUN) $$script || exit 1; done

results: $(STAMP) ## write docs/results.md from the result files in results/
	$(RUN) docs/results_page.py

clean: ## remove the virtual environment and caches, not your runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
