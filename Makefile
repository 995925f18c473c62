# make run | test | lint | bench do what they need first; make setup does it all at once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = -m pip install --quiet --disable-pip-version-check --constraint configs/constraints.txt
PINS = pyproject.toml configs/constraints.txt
PEERS = s3dlio obstore s3torchconnector boto3 torch tenacity

.PHONY: help setup run test lint bench clean servers
.DEFAULT_GOAL := help

help:
	@echo "make run    a first look: fetches a data set from a local S3 server, one table at the end"
	@echo "make test   all tests"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  the measurements, against other clients"
	@echo "make setup  all that the four need, at once"
	@echo "make clean  removes the environments and what was built"

setup: .venv/.stamp-dev .venv-peers/.stamp .azurite/.stamp servers

run: .venv/.stamp-demo
	.venv/bin/s3dlio demo

test: .venv/.stamp-dev .azurite/.stamp
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.stamp-dev
	.venv/bin/ruff check .
	tools/lint_wheel.sh .venv/bin/python

bench: .venv/.stamp-dev .venv-peers/.stamp servers
	.venv/bin/python -m benchmarks.run $(ARGS)

# The Azure Blob server of the tests, from npm.
.azurite/.stamp: tools/install_azurite.sh
	tools/install_azurite.sh
	@touch $@

# nginx and wrk are Debian packages: installed where that is allowed; elsewhere a line says what the benchmarks will miss.
servers:
	@tools/install_servers.sh

clean:
	rm -rf .venv .venv-peers .azurite build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache benchmarks/.work

.venv/bin/python .venv-peers/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "s3dlio needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(@D)/..

# setuptools is installed first, at its pin: the isolated build of an editable install would take the newest one.
.venv/.stamp-demo: $(PINS) | .venv/bin/python
	.venv/bin/python $(PIP) setuptools
	.venv/bin/python $(PIP) --no-build-isolation --editable ".[demo]"
	@touch $@

.venv/.stamp-dev: $(PINS) | .venv/bin/python
	.venv/bin/python $(PIP) setuptools
	.venv/bin/python $(PIP) --no-build-isolation --editable ".[dev]"
	@touch .venv/.stamp-demo $@

.venv-peers/.stamp: $(PINS) | .venv-peers/bin/python
	.venv-peers/bin/python $(PIP) $(PEERS)
	@touch $@
