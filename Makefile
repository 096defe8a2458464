# make evolve   set up, then run the quickstart        make test    set up, then run all tests
# make setup    only set up (.venv, model, sandbox)    make lint    style and strict types
# make vllm     vLLM in an environment of its own      make clean   remove what was set up and built;
#                                                                   runs/ and vLLM stay

PYTHON ?= python3
RUN ?= runs/quickstart
BIN := .venv/bin
export PYTHON

# The converted model is kept in the user's cache folder; in the clone where that cannot be written.
ifndef INSTAR_CACHE
ifneq ($(shell d="$${XDG_CACHE_HOME:-$$HOME/.cache}/instar"; mkdir -p "$$d" 2>/dev/null && test -w "$$d" && echo ok),ok)
export INSTAR_CACHE := $(CURDIR)/.cache
endif
endif

.PHONY: evolve setup vllm test lint clean
.DEFAULT_GOAL := evolve

evolve: setup
	$(BIN)/instar evolve agent/recipes/quickstart.yaml --run "$(RUN)"

setup:
	@bash .ci/setup.sh

vllm:
	@bash .ci/vllm.sh $(VLLM)

# A process a core, each with one thread; four at most, since each may hold a model.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --max-worker-restart 0 \
		--durations 40 $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .cache build dist .coverage .mypy_cache .ruff_cache .pytest_cache
	find . -path ./runs -prune -o -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
