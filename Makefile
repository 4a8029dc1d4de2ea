# `make demo` and `make lab` are for users, the rest is for developers. All of them set up first.

.DEFAULT_GOAL := help
BIN := .venv/bin
# Not PYTHON: where that is set, it is the interpreter to make .venv with.
VENV_PYTHON := $(BIN)/python

COVERED := tests/core tests/wire tests/notebook_ext/test_conversation.py
# Random histories, and simulations that take long where every line is counted.
CHANCE := tests/core/test_invariants.py::TestAnyHistory \
  tests/core/test_virtual_day.py \
  tests/core/test_virtual_week.py \
  tests/core/test_scaling.py::test_a_floor_beyond_all_measure_starts_a_thousand_workers \
  tests/core/test_scaling.py::test_an_hour_of_recorded_bursts_breaks_no_invariant \
  tests/core/test_scaling.py::test_many_functions_share_two_cores_and_none_starves \
  tests/core/test_scaling.py::test_pools_that_compete_for_the_only_device_take_turns \
  tests/core/test_granting.py::test_equal_inputs_keep_both_workers_busy
COMPUTING := tests/test_capture.py
PATIENT := tests/notebooks tests/documentation tests/suites
# What pyproject leaves out, which an `-m` replaces.
USUAL := not chaos and not fuzz and not large and not engine
ELSEWHERE := $(patsubst %,--ignore=%,$(COVERED) $(COMPUTING) $(PATIENT))

.PHONY: help setup quick demo lab test lint format pytest chance notebooks pages standards conformance acceptance browser rooms clock engines providers suites chaos fuzz large coverage docs screenshot bench bench-quick wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with everything in it (quick when nothing has changed)
	@tools/setup.sh

quick:
	@tools/setup.sh --quick

engines: setup
	@tools/setup.sh --engines

demo: quick ## run notebooks/quickstart.ipynb here, in the terminal
	@$(VENV_PYTHON) -m tools.run_notebook notebooks/quickstart.ipynb

lab: quick ## open the quickstart in JupyterLab
	@$(VENV_PYTHON) -m jupyterlab notebooks/quickstart.ipynb

# What computes shares the cores, then what mostly waits, the longest first; `clock` runs alone.
test: setup engines ## everything that CI checks
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target coverage lint chance
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target acceptance rooms browser notebooks pages conformance standards
	@$(MAKE) --no-print-directory clock

lint: setup ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

pytest: setup ## all tests, the quick ones first
	$(VENV_PYTHON) -m pytest

# What `coverage` leaves out of its folders, and what computes alone outside of them.
chance: setup
	$(VENV_PYTHON) -m pytest $(CHANCE) $(COMPUTING)

notebooks: setup
	$(VENV_PYTHON) -m pytest tests/notebooks

pages: setup
	$(VENV_PYTHON) -m pytest tests/documentation

standards: setup
	$(VENV_PYTHON) -m pytest tests/suites

conformance: setup
	$(VENV_PYTHON) -m pytest -m engine -k "(ray and not client) or dask" tests/providers/test_conformance.py

acceptance: setup
	$(VENV_PYTHON) -m pytest -m "not clock and $(USUAL)" tests/acceptance

browser: setup
	$(VENV_PYTHON) -m pytest -m "not clock and $(USUAL)" tests/browser

rooms: setup
	$(VENV_PYTHON) -m pytest -m "not clock and $(USUAL)" \
	  --ignore=tests/acceptance --ignore=tests/browser $(ELSEWHERE)

clock: setup
	$(VENV_PYTHON) -m pytest -m "clock and $(USUAL)" $(ELSEWHERE)

large: setup ## the tests' largest sizes, for some minutes
	$(VENV_PYTHON) -m pytest -m 'large and not engine'

providers: setup ## what needs real Ray, Dask and Slurm clusters, in minutes
	$(VENV_PYTHON) -m pip install --quiet --editable ".[ray,dask,slurm]"
	$(VENV_PYTHON) -m pytest -m engine tests/providers tests/acceptance

suites: setup ## CPython's, cloudpickle's, dask's, joblib's and scikit-learn's own tests on our workers
	$(VENV_PYTHON) -m pip install --quiet --editable ".[suites]"
	$(VENV_PYTHON) -m pytest tests/suites
	$(VENV_PYTHON) -m tests.suites

chaos: setup ## press and kill at random moments, for about 7 minutes
	$(VENV_PYTHON) -m pytest -m chaos -s

fuzz: setup ## a million mutated messages, and thousands of cut journals
	$(VENV_PYTHON) -m pytest -m fuzz -s

# What is covered must not depend on chance.
coverage: setup ## the pure rooms by their own test files, every branch
	$(VENV_PYTHON) -m pytest --cov --cov-report=term-missing $(COVERED) $(CHANCE:%=--deselect=%)

docs: setup ## build the documentation into docs/_build/html
	$(VENV_PYTHON) -m sphinx -W --keep-going -d docs/_build/cache docs docs/_build/html

screenshot: setup ## take the pictures of all notebooks anew
	$(VENV_PYTHON) -m tests.browser.screenshot

bench: setup ## measure against the peers, into benchmarks/results: a table, a JSON, a plot
	$(VENV_PYTHON) -m pip install --quiet --editable ".[bench]"
	$(VENV_PYTHON) -m benchmarks

bench-quick: setup ## the same beside the standard library and joblib alone, in 3 minutes
	$(VENV_PYTHON) -m benchmarks --quick --rounds 2 --results .bench-quick

wheel: setup ## build the wheel into dist/
	$(VENV_PYTHON) -m pip install --quiet build
	$(VENV_PYTHON) -m build --wheel

clean: ## remove everything that the above made
	rm -rf .venv dist build docs/_build docs/notebooks .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .pictures .bench-quick
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
