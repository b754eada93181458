# Two commands matter: `make serve` and `make test`. Both install what they need into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The engines that `make serve` installs; `make serve ENGINES=cpu,sentence_transformers` adds one.
ENGINES ?= cpu
TEST_ENGINES := cpu,diffusers,kokoro,sentence_transformers,transformers,whisper,huggingface,modelscope
# More make no sense on a machine of a few cores: the tests start processes of their own.
TEST_WORKERS ?= 2
# Where `make test-vllm` keeps vLLM's environment from one run to the next.
VLLM_HOME ?= $(HOME)/.cache/ekiben-tests/vllm
VLLM_PYTHON := $(VLLM_HOME)/engines/vllm/current/bin/python

.DEFAULT_GOAL := help
.PHONY: help serve install test test-slow test-vllm lint format bench bench-cold bench-families bench-text clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

serve: $(VENV)/.installed-$(ENGINES) ## install, and run the platform in the foreground
	@$(BIN)/ekiben up

install: $(VENV)/.installed-$(ENGINES) ## install only

test: $(VENV)/.installed-test ## install what the tests need, and run them all
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not slow and not vllm" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-vllm: $(VENV)/.installed-test ## the tests with vLLM, in an environment of its own, which they build
	$(BIN)/python -m tests.smollm2_folder
	$(BIN)/ekiben engine install vllm --home $(VLLM_HOME)
	$(BIN)/python -m pip --python $(VLLM_PYTHON) install -q hypothesis pytest pytest-asyncio pytest-timeout
	$(VLLM_PYTHON) -m pytest -W ignore::pytest.PytestUnraisableExceptionWarning -m vllm \
		tests/integration/test_vllm.py $(PYTEST_ARGS) # vLLM leaves sockets to the end of the process
	EKIBEN_TEST_VLLM_HOME=$(VLLM_HOME) $(BIN)/python -m pytest -m vllm tests/e2e $(PYTEST_ARGS)

lint: $(VENV)/.installed-test ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test ## the numbers of the README, as JSON lines
	$(BIN)/python -m tests.bench

bench-cold: $(VENV)/.installed-test ## cold starts beside other servers, which it installs in a cache folder
	$(BIN)/python -m tests.bench.cold $(SECTIONS)

bench-families: $(VENV)/.installed-test ## embeddings, audio, pictures and the batcher beside libraries and peers
	$(BIN)/python -m tests.bench.families $(SECTIONS)

bench-text: $(VENV)/.installed-test ## text through the platform beside the engines' own servers
	$(BIN)/python -m tests.bench.text $(SECTIONS)

clean: ## remove the virtual environment
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[$(TEST_ENGINES)]'
	$(BIN)/python -m pip install --quiet --no-deps 'timm>=1.0.20' # without torchvision: see plugins/timm/README.md
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Ekiben with: $*"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@
