# What to do with this repository: `make help`.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)) python3)
VENV ?= .venv
ADDRESS ?= 127.0.0.1:8100
# How many processes `make test` runs tests in; 0: in its own, as a debugger wants it.
WORKERS ?= 2
# Further arguments for the tool that a target starts: make test ARGS="tests/cli -x"
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FOR_RUN := $(VENV)/.zeolith-run
FOR_DEV := $(VENV)/.zeolith-dev
# Zope has an environment of its own: without PyPI's ZEO, and away from what the tests import.
FOR_ZOPE := $(VENV)-zope/.zeolith-zope

.DEFAULT_GOAL := help
.PHONY: help run test test-long zope check format bench fuzz reference lock clean same-python

help:
	@echo 'make run        start the server at $(ADDRESS) with the database in ./var'
	@echo 'make test       run the tests (make test-long: the long ones)'
	@echo 'make zope       install the Zope that tests start, beside $(VENV); make test does it by itself'
	@echo 'make check      format, lint, types, and what packages require of each other'
	@echo 'make bench      measure beside ZEO'
	@echo 'make fuzz       feed hostile bytes to decoders, server and client (30 s each; ARGS=seconds)'
	@echo 'make reference  write what docs/ has of the schema of zeo.conf, of transcripts, of the recipe'
	@echo 'make lock       renew the lock files in requirements/'
	@echo 'make clean      remove the virtual environment and the caches, not ./var'
	@echo 'Variables: PYTHON (3.11 or newer), VENV, ADDRESS, ARGS, WORKERS (of make test: $(WORKERS))'

# foreground.py lets Ctrl-C end the server and not make, so that both end with status 0.
run: $(FOR_RUN)
	@mkdir -p var
	@exec $(BIN)/python tools/foreground.py $(BIN)/python -m zeolith serve \
		--address $(ADDRESS) --filename var/Data.fs --blob-dir var/blobs $(ARGS)

test: $(FOR_DEV) $(FOR_ZOPE)
	@$(BIN)/python -m pytest -m 'not long' -n $(WORKERS) --dist loadscope $(ARGS)

test-long: $(FOR_DEV) $(FOR_ZOPE)
	@$(BIN)/python -m pytest -m long $(ARGS)

zope: $(FOR_ZOPE)

check: $(FOR_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd dropin && $(abspath $(BIN))/mypy
	$(BIN)/python -m pip check

format: $(FOR_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(FOR_DEV)
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(FOR_DEV)
	@for each in decoders server client; do $(BIN)/python -m fuzz.fuzz_$$each $(ARGS) || exit; done

reference: $(FOR_DEV)
	@$(BIN)/python -m tools.reference $(ARGS)
	@$(BIN)/python -m tools.examples $(ARGS)
	@$(BIN)/python -m tools.recipe_options $(ARGS)

lock: $(FOR_DEV)
	$(PIP) pip-tools
	$(BIN)/python tools/lock.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-zope .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info \
		dropin/.mypy_cache dropin/build dropin/src/*.egg-info
	find src dropin tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Zeolith needs Python 3.11 or newer; $(PYTHON) is not.' \
			'Name one: make PYTHON=/path/to/python3.13' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A Python named now must not be ignored because another one was named before.
same-python: | $(BIN)/python
ifneq ($(origin PYTHON),file)
	@version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	wanted=$$($(PYTHON) -c "$$version") && found=$$($(BIN)/python -c "$$version") && \
	if [ "$$wanted" != "$$found" ]; then \
		echo "$(VENV) has Python $$found, not $$wanted: add VENV=.venv-$$wanted," \
			"or remove it with 'make clean'" >&2; exit 1; \
	fi
else
	@:
endif

$(FOR_RUN): requirements/run.txt pyproject.toml | same-python
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(FOR_DEV): requirements/dev.txt $(FOR_RUN)
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(FOR_ZOPE): requirements/zope.txt | same-python
	$(BIN)/python -m venv --clear $(VENV)-zope
	$(VENV)-zope/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/zope.txt
	@touch $@
