# The two commands: `make demo` shows what the project does, `make test` checks
# it. Both set up what they need.
SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
export TF PYTHON
# TensorFlow's C++ notes on the processor say nothing about a run.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup browser demo test test-fast bench lint clean

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

# Training speed beside a matrix product, ranks beside threads, compiled models beside exports; with
# SQUAD_FILE=... VOCAB_FILE=... also how fast SQuAD files are converted, with SENTENCES_FILE=... VOCAB_FILE=... how
# fast sentences are tokenized, and with EXPORT_DIR=... DATA_FILE=... the server beside the model alone. Figures in README and docs/serving.md.
bench: setup
	@$(PYTHON_BIN) -m tests.benchmarks.train_step
	@$(PYTHON_BIN) -m tests.benchmarks.scaling
	@TF_ENABLE_ONEDNN_OPTS=1 $(PYTHON_BIN) -m tests.benchmarks.compiled_speed
	@$(if $(EXPORT_DIR),$(PYTHON_BIN) -m tests.benchmarks.serving --export_dir="$(EXPORT_DIR)" --data_file="$(DATA_FILE)")
	@$(if $(SQUAD_FILE),$(PYTHON_BIN) -m tests.benchmarks.squad_features --squad_file="$(SQUAD_FILE)" --vocab_file="$(VOCAB_FILE)")
	@$(if $(SENTENCES_FILE),$(PYTHON_BIN) -m tests.benchmarks.tokenization --sentences_file="$(SENTENCES_FILE)" --vocab_file="$(VOCAB_FILE)")

lint: setup
	@$(PYTHON_BIN) -m ruff check .

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
