# The two commands: `make demo` shows what the project does, `make test` checks
# it. Both set up what they need.
SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
export TF PYTHON
# TensorFlow's C++ notes on the processor say nothing about a run.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup browser demo test test-fast bench bench-peers lint clean

setup:
	@bash demo/setup.sh

# GLUE_DIR=... TASK=MRPC runs it on a real GLUE task.
demo: setup
	@$(PYTHON_BIN) -m demo.quickstart $(if $(GLUE_DIR),--glue_dir="$(GLUE_DIR)") $(if $(TASK),--task_name="$(TASK)")

# Test files are shared out among so many processes; WORKERS=0 makes it one.
WORKERS ?= 2
PYTEST := $(PYTHON_BIN) -m pytest -n $(WORKERS) --dist loadfile

# The page that demo.bert_server has is tested in Chromium.
browser:
	@bash tests/setup_browser.sh

test: setup browser lint
	@$(PYTEST)

test-fast: setup lint
	@$(PYTEST) -m "not slow"

# Speed and memory, ours and others', to build/bench: docs/benchmarks.md. SECTIONS=train,peers takes some of it,
# QUICK=1 a short form, and GLUE_DIR, VOCAB_FILE, SQUAD_FILE, EXPORT_DIR and DATA_FILE real data; the flags in
# BENCH go to it as they are.
bench: setup
	@$(PYTHON_BIN) -m tests.benchmarks.bench $(if $(SECTIONS),--sections=$(SECTIONS)) $(if $(QUICK),--quick) \
	  $(if $(GLUE_DIR),--glue_dir="$(GLUE_DIR)") $(if $(VOCAB_FILE),--vocab_file="$(VOCAB_FILE)") \
	  $(if $(SQUAD_FILE),--squad_file="$(SQUAD_FILE)") $(if $(EXPORT_DIR),--export_dir="$(EXPORT_DIR)") \
	  $(if $(DATA_FILE),--data_file="$(DATA_FILE)") $(BENCH)

# The environments of those that it measures beside; without them it says so.
bench-peers: setup
	@$(PYTHON_BIN) -m tests.benchmarks.peers.environments

lint: setup
	@$(PYTHON_BIN) -m ruff check .

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
