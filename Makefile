# Every target makes what it needs: a machine with only Python 3.11 or newer is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := bioaudio_mamba kernels recipes data_prep tests
DEMO_RUN ?= demo-run
DEMO_AUDIO_RUN ?= demo-audio-run

.PHONY: demo demo-audio test check format clean

demo: $(VENV)/.installed-demo  ## the main job on real DNA, on the CPU, in a few minutes; ends with a report
	$(BIN)/bioaudio demo --out $(DEMO_RUN)

demo-audio: $(VENV)/.installed-demo  ## synthetic speech: train on it, generate more, on the CPU, in a few minutes
	$(BIN)/bioaudio demo-audio --out $(DEMO_AUDIO_RUN)

test: check  ## style, types, import contracts, and every claim
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.installed-dev  ## ruff, pyright, import-linter
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## rewrite files in the house style
	$(BIN)/ruff check --fix $(PACKAGES)
	$(BIN)/ruff format $(PACKAGES)

clean:  ## remove the environment and the demos' runs
	rm -rf $(VENV) $(DEMO_RUN) $(DEMO_AUDIO_RUN)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bioaudio-mamba needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
