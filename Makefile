# What can be done here: each target does its whole set-up, given make and a Python >= 3.10 with pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One stamp a set of extras: a target installs what it needs, once a change of setup.cfg.
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs
BENCH_READY := $(VENV)/.ready-bench
# The oldest versions that setup.cfg admits, in an environment of their own.
OLDEST := .venv-oldest
OLDEST_PINS := jupyterhub==5.4.0 oauthenticator==17.4.0 pyfirecrest==3.10.0

.PHONY: help demo smoke test check bench chaos docs oldest clean

help:
	@echo 'make demo    a whole site on this machine: issuer, FirecREST, proxy, Hub'
	@echo 'make smoke   the demo, with a made-up user who goes through it all (a minute)'
	@echo 'make test    every tier of tests this machine can run; as root on Debian: all of them'
	@echo 'make check   format, lint, types, import layers'
	@echo 'make bench   benchmarks'
	@echo 'make chaos   seeded schedules of faults: is anything lost? SEED=17 RUNS=1000 REAL=10'
	@echo 'make docs    the documentation, warnings being errors'
	@echo 'make oldest  the unit tier, and journeys of refreshes, against the oldest supported JupyterHub'

demo: $(READY)
	$(BIN)/firecrestspawner demo $(ARGS)

smoke: $(READY)
	$(BIN)/firecrestspawner demo --smoke $(ARGS)

test: $(READY)
	$(BIN)/python tests/run.py $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(wildcard firecrestspawner tests benchmarks)
	$(BIN)/lint-imports

bench: $(BENCH_READY)
	$(BIN)/python -m benchmarks $(ARGS)

# RUNS in virtual time, REAL with a real Hub; from SEED on, which the clock gives if nobody does.
chaos: $(READY)
	$(BIN)/python -m tests.chaos $(SEED:%=--seed %) $(RUNS:%=--runs %) $(REAL:%=--real %) $(ARGS)

docs: $(DOCS_READY)
	$(BIN)/sphinx-build -n -W --keep-going -b html docs docs/_build/html

# The journeys: before JupyterHub 6.1 who asks, and what a refusal means, is told in other ways.
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python tests/run.py unit
	$(OLDEST)/bin/python -m pytest tests/journeys/test_refreshes.py -k 'program or admin_does or browser'

# An environment with pip in it. Debian's Python has no ensurepip without python3-venv: there the
# pip beside it puts another one in (with --target, which every pip knows; Ubuntu 22.04's lacks --python).
%/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=...")'
	$(PYTHON) -m venv --without-pip $*
	$*/bin/python -m ensurepip --default-pip >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --upgrade \
	  --target "$$($*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip
	touch $@

$(READY): setup.cfg pyproject.toml | $(VENV)/.pip
	$(BIN)/python -m pip install --quiet -e '.[demo,test,dev]'
	$(BIN)/python -m firecrestspawner.demo.proxy
	touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

$(OLDEST)/.ready: setup.cfg pyproject.toml Makefile | $(OLDEST)/.pip
	$(OLDEST)/bin/python -m pip install --quiet -e '.[demo,test]' $(OLDEST_PINS)
	$(OLDEST)/bin/python -m firecrestspawner.demo.proxy
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
