# The project's commands. Each one sets up what it needs in .venv by itself; `make` alone lists them.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXAMPLE := .venv-example
PORT ?= 5000
PIP := $(BIN)/pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo live ui test check docs example release benchmarks clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.user ## train a small decoder, capture it, render the video, print the link (about 4 minutes)
	@$(BIN)/python train.py experiment=demo
	@echo "To watch it:  make ui"

live: $(VENV)/.user ## train the same with a page on this machine that shows each capture as it comes, until Ctrl-C
	@directory=$$(mktemp -d) || exit; \
	trap 'trap "" INT TERM; kill $$live $$training 2>/dev/null; wait; rm -rf "$$directory"' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/tracker-viz live spool=$$directory/spool & live=$$!; \
	$(BIN)/python train.py experiment=demo spool=$$directory/spool & training=$$!; \
	wait $$training && wait $$live

ui: $(VENV)/.user ## open the MLflow UI on the demo's store and print the link to its video
	@$(BIN)/tracker-viz ui port=$(PORT)

test: $(VENV)/.dev ## pass the whole test suite
	@$(BIN)/python -m pytest -n 4 --dist worksteal

check: $(VENV)/.dev ## style, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the documentation into build/docs
	@$(BIN)/python docs/assemble.py build/pages
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs.yml
	@echo "Read it:  build/docs/index.html"

# Trackio needs an older Pillow than .venv has: its environment lies on top of .venv, and has its own.
example: $(VENV)/.dev ## test examples/trackio_tracker, the tracker of another distribution
	@test -x $(EXAMPLE)/bin/python || $(BIN)/python -m venv --without-pip $(EXAMPLE)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(EXAMPLE)/lib/python3.11/site-packages/below.pth
	@$(PIP) --python $(EXAMPLE)/bin/python install --quiet -e . -e examples/trackio_tracker
	@cd examples/trackio_tracker && ../../$(EXAMPLE)/bin/python -m pytest

release: $(VENV)/.dev ## build wheel and sdist into dist/, and try the wheel in clean environments
	@PYTHON=$(PYTHON) .ci/release

benchmarks: $(VENV)/.dev ## measure what README and docs claim, and print the headline figures (hours)
	@for benchmark in $(filter-out $(NOT_RUN),$(shell grep -l __main__ benchmarks/*.py)); do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done
	@$(BIN)/python benchmarks/headlines.py

clean: ## remove what set-up and checks made here; runs stay, and spools, which may hold what no tracker has yet
	rm -rf $(VENV) $(EXAMPLE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# opencv-python needs libGL on Linux, which bare server images lack. There the same version without windows takes its place.
$(VENV)/.user: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed and '$(PYTHON)' was not found; name yours: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing tracker_viz and its pinned dependencies into $(VENV) ..."
	@$(PIP) install --quiet -c constraints.txt torch==$(call pinned,torch)
	@$(PIP) install --quiet -c constraints.txt -e '.[all]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  echo "import cv2 needs a system library that is missing here (Debian, Ubuntu: apt-get install libgl1); using opencv-python-headless instead."; \
	  $(PIP) install --quiet --force-reinstall --no-deps opencv-python-headless==$(call pinned,opencv-python); \
	  $(BIN)/python -c 'import cv2'; }
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.user
	@$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# Needs a GPU, or comes last. Modules that others import have no __main__.
NOT_RUN := benchmarks/capture_gpu.py benchmarks/headlines.py

pinned = $(shell sed -n 's/^$(1)==//p' constraints.txt)
