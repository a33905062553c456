# Everything a newcomer needs: `make demo`, `make serve`, `make test`. A virtual environment is made in .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto

.PHONY: demo serve test check bench install install-serve install-dev clean

demo: install
	$(BIN)/bitroute demo

serve: install-serve
	$(BIN)/bitroute serve --demo

test: install-dev check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

check: install-dev
	$(BIN)/ruff format --check src tests benchmarks scripts examples
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python benchmarks/alfworld_speed.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/quantization.py models/alfworld-agent
	$(BIN)/python benchmarks/alfworld.py

install: $(VENV)/installed
install-serve: $(VENV)/installed-serve
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[torch,report]'
	touch $@

$(VENV)/installed-serve: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[torch,report,gateway,serve-demo]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[torch,report,gateway,postgresql,redis,telemetry,serve-demo,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
