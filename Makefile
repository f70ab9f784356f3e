# Two commands set up everything on a machine that has Python 3.11-3.13 and make:
#   make quickstart   the main job: train, label, verify, reinforce, evaluate
#   make test         the tests
# PYTHON=python3.12 make test uses another interpreter; each interpreter gets its own environment.

PYTHON ?= python3
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
RUN := $(VENV)/bin/python
CONFIG ?= configs/quickstart.yaml

.PHONY: quickstart test test-slow test-gpu test-peers lint clean

quickstart: $(VENV)/.tasks
	$(RUN) -m rlvr_jax.train --config $(CONFIG) $(ARGS)

test: $(VENV)/.test lint
	$(RUN) -m pytest $(ARGS)

test-slow test-gpu test-peers: $(VENV)/.test
	$(RUN) -m pytest -m $(@:test-%=%) $(ARGS)

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv-* build *.egg-info
