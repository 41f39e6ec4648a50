# `make demo` and `make test` need nothing but Python, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Material for MkDocs prints at each build that it is maintained until May 2027.
export NO_MKDOCS_2_WARNING = 1

.DEFAULT_GOAL := help
.PHONY: help demo test check docs format clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1#/p' $(MAKEFILE_LIST) | \
		while IFS='#' read -r name what; do printf '  make %-8s %s\n' "$$name" "$$what"; done

demo: $(VENV)/.installed-demo  ## install, explain the bundled photos, say where the pictures are
	$(BIN)/multicam demo

test: $(VENV)/.installed-test  ## install, run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed-dev  ## install, check format, lint, types and docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mkdocs build --strict

docs: $(VENV)/.installed-docs  ## install, build the site of the docs, say where it is
	$(BIN)/mkdocs build --strict
	@echo "The site begins at $(CURDIR)/site/index.html"

format: $(VENV)/.installed-dev  ## put the format right, and what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and everything that was built or cached
	rm -rf $(VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: a second run installs nothing unless pyproject.toml changed.
# An extra holds smaller ones, whose stamps it sets as well.
HOLDS_demo = demo
HOLDS_test = test demo
HOLDS_docs = docs
HOLDS_dev  = dev docs test demo

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing multicam-xai[$*] into $(VENV); the first time this takes some minutes."
	@$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $(HOLDS_$*:%=$(VENV)/.installed-%)
