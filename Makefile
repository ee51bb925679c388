# Everything runs from a .venv of its own, made from constraints.txt. Nothing is done twice.
#   make quickstart   the whole of DeMix on CPU: real text -> a mixture and a final model
#   make test         the full test suite            make check   read-only: format, lint, types, import order, docstrings, installed packages
#   make bench        every benchmark (BENCH_ARGS=--quick for the short form)
#   make bridge       .venv-bridge, the environment of backend=bridge
#   make docs         the pages as a site, in site/, by an environment of its own
#   make fix          format and fix what can be fixed        make clean   remove both
#
# Variables: PYTHON           the Python 3.11 to build from; PYTHON_BRIDGE the Python 3.12 of Megatron-Bridge, else the
#                             first that is on PATH, or that pyenv has
#            TORCH_INDEX_URL  set to PyTorch's CPU wheel index where your pip would otherwise fetch the CUDA build
#            RUN_ARGS         more key=value for the quickstart; TEST_ARGS more arguments for pytest
#            TEST_WORKERS     how many tests run at once; 0: one after another, in pytest's own process

PYTHON ?= python3.11
# pyenv's own python3.12 on PATH starts only where that version is chosen, so each is tried.
PYTHON_BRIDGE ?= $(shell for python in python3.12 \
    "$$(pyenv root 2>/dev/null || echo "$${PYENV_ROOT:-$$HOME/.pyenv}")"/versions/3.12*/bin/python; do \
    "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo "$$python" && break; done)
TORCH_INDEX_URL ?=
RUN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
# -qq: pip's warnings about pages it skips run to hundreds of lines; errors still show.
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile
PIP_VERSION := pip==26.3 # the one that came with Python takes twice the time
IMPORTED := nemo_demix.cli, hydra, hydra._internal.hydra, hypothesis, lightgbm, lm_eval, psutil, pytest, rich.table, \
    scipy.stats, sklearn, xdist.workermanage
# Tests run on so many cores at once; nproc would count OMP_NUM_THREADS instead where that is set.
NPROC = $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
TEST_WORKERS ?= $(shell echo $$(( $(NPROC) < 4 ? $(NPROC) : 4 )))

.PHONY: quickstart test slurm check fix bench venv bridge docs clean
.DELETE_ON_ERROR:

quickstart: $(STAMP)
	$(BIN)/nemo-demix run --config-name quickstart $(RUN_ARGS)

# A worker a core, so none is helped by threads of its own.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP) slurm
	$(BIN)/python -m pytest -n $(TEST_WORKERS) $(TEST_ARGS)

# The Slurm that tests/cluster starts. Where it cannot be installed they skip, and say why.
SLURM_PACKAGES := slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins libslurm-dev gcc libc6-dev shellcheck \
    slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core
slurm:
	@export PATH="$$PATH:/usr/sbin" DEBIAN_FRONTEND=noninteractive missing=""; \
	for program in slurmctld slurmd munged sbatch slurmdbd mariadbd gcc shellcheck; do \
	    command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	test -n "$$missing" || exit 0; \
	install="apt-get install -qq -y --no-install-recommends $(SLURM_PACKAGES)"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing a Slurm for tests/cluster ..."; { apt-get -qq update && $$install; } >/dev/null || true; \
	else echo "Tests of the cluster will be skipped for want of$$missing; on Debian, as root: $$install"; fi

# All always run, so that one call shows everything there is to mend.
check: $(STAMP)
	@failed=""; \
	for tool in "ruff format --check --output-format concise" "ruff check --output-format concise" mypy lint-imports \
	        "pytest -q --noconftest tests/test_docstrings.py"; do \
	    echo "== $$tool"; PATH="$(CURDIR)/$(BIN):$$PATH" $$tool || failed="$$failed [$$tool]"; \
	done; \
	echo "== pip check"; $(BIN)/python -m pip check | LC_ALL=C sort | diff .ci/pip_check.txt - || failed="$$failed [pip check]"; \
	if [ -n "$$failed" ]; then echo "check failed:$$failed"; exit 1; fi

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS); done

venv: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt requirements-data.txt
	@echo "Installing into .venv (about 3 GB with the CPU build of torch; a minute or two the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "$(PYTHON): expected Python 3.11, which constraints.txt is for; make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) $(PIP_VERSION) $$(grep '^setuptools==' constraints.txt) wheel
	@# torch brings the libraries of its build; of everything else constraints.txt is complete, so nothing is resolved.
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) -c constraints.txt \
	    $$(grep '^torch==' constraints.txt) cuda-bindings
	@$(PIP) --no-deps --no-build-isolation -r constraints.txt -r requirements-data.txt -e .
	@# Bytecode of what is imported, and of nothing else; some machines are told to keep none.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import nemo_demix.ranks.preloaded, $(IMPORTED)'
	@touch $@

# Megatron-Bridge asks for packages that exclude NeMo's, and for a Python of its own.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.installed: BIN := .venv-docs/bin
.venv-docs/.installed: constraints-docs.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv-docs
	@$(PIP) --no-deps -r constraints-docs.txt
	@touch $@

bridge: .venv-bridge/.installed

.venv-bridge/.installed: BIN := .venv-bridge/bin
.venv-bridge/.installed: pyproject.toml setup.py constraints-bridge.txt requirements-data.txt
	@test -n "$(PYTHON_BRIDGE)" || \
	    { echo "no Python 3.12 on PATH or in pyenv, which Megatron-Bridge asks for; make bridge PYTHON_BRIDGE=/path/to/python3.12"; exit 1; }
	@$(PYTHON_BRIDGE) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || \
	    { echo "$(PYTHON_BRIDGE): expected Python 3.12, which Megatron-Bridge asks for; make bridge PYTHON_BRIDGE=/path/to/python3.12"; exit 1; }
	@echo "Installing into .venv-bridge (6 GB with the CUDA build of torch, 2 GB with the CPU build; some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON_BRIDGE) -m venv .venv-bridge
	@$(PIP) $(PIP_VERSION) $$(grep '^setuptools==' constraints-bridge.txt) wheel
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) -c constraints-bridge.txt \
	    $$(grep '^torch==' constraints-bridge.txt)
	@$(PIP) --no-deps --no-build-isolation -r constraints-bridge.txt -r requirements-data.txt -e .
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -W ignore -c 'import nemo_demix.ranks.preloaded, nemo_demix.cli, \
	    nemo_demix.runtime.bridge.export, nemo_demix.runtime.bridge.importing'
	@touch $@

clean:
	rm -rf .venv .venv-bridge .venv-docs site
