# Two commands from a bare machine: `make demo` and `make test`. A second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A run of its own every time: training never writes over an earlier one.
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
RUN := $(RUN)
# As many test workers as cores, one thread each: small tensors gain nothing from more.
WORKERS ?= auto

# Sphinx takes a number, or auto.
JOBS ?= auto

.PHONY: demo test coverage lint types docs dist install install-dev clean

demo: install
	$(BIN)/zpyro train --dataset vowels --out $(RUN) --max-minutes 3
	$(BIN)/zpyro evaluate $(RUN) --split test
	$(BIN)/zpyro sample $(RUN) -n 8 --seconds 3 --out $(RUN)/samples
	@echo "The run is in $(RUN); recordings and a picture are in $(RUN)/samples."

test: lint types docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The lines of zpyro and of its commands that no test runs.
coverage: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-fail-under=95

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install-dev
	$(BIN)/pyright

# Every warning is an error, a reference to something of ours that is not there too.
docs: install-dev
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -j $(JOBS) docs docs/_build/html

dist: install-dev
	$(BIN)/python -m build --no-isolation

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "Creating $(VENV) and installing the locked requirements (a few minutes, once)..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing the development requirements (once)..."
	$(PIP) --requirement requirements-dev.lock
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info
