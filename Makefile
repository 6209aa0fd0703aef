# Two commands for a newcomer: `make drill` and `make test`. Each does its own set-up and may be repeated.
SHELL := /bin/sh
PY := .venv/bin/python -P
SEED ?= 1
SECONDS_EACH ?= 60

.PHONY: setup lab-setup drill test check fuzz sim wheel docs lock clean
.DEFAULT_GOAL := help

help:
	@printf '%s\n' 'make setup   .venv/bin/zaibei from the lock' \
	  'make drill   three sites, a power loss, a verdict with proof (root, Debian 12; ~4 minutes after set-up)' \
	  'make test    everything that guards main (~10 minutes; with root one lab boot is in it)' \
	  'make check   formatting, lint, types, import contracts' \
	  'make fuzz    every parser of backups under atheris: make fuzz SECONDS_EACH=60' \
	  'make sim     the seeded simulation: make sim SEED=7' \
	  'make wheel   the wheel, and the tests of its layout' \
	  'make docs    the generated pages of docs/reference' \
	  'make lock    uv.lock and the hash-pinned requirements of the sites'

setup:
	@sh setup.sh

lab-setup:
	@sh setup.sh --lab

drill: lab-setup
	.venv/bin/zaibei drill run site-power-loss --prepare

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: lab-setup check
	$(PY) -m pytest -q -n 2 --dist loadfile --ignore tests/lab
	$(PY) -m pytest -q tests/lab

fuzz: setup
	@for p in $$($(PY) tests/fuzz/backup_parsers.py); do echo "== $$p"; \
	  $(PY) tests/fuzz/backup_parsers.py $$p $(SECONDS_EACH) >/tmp/zaibei-fuzz.log 2>&1 || { tail -n 40 /tmp/zaibei-fuzz.log; exit 1; }; \
	  grep -E 'DONE|stat::' /tmp/zaibei-fuzz.log | tail -n 1; done

sim: setup
	ZAIBEI_SEED=$(SEED) $(PY) -m pytest -q tests/simulation

wheel: setup
	.tools/bin/uv build -q --wheel --out-dir dist
	$(PY) -m pytest -q tests/test_wheel.py

docs: setup
	$(PY) -m zaibei.cli.reference

lock: setup
	.tools/bin/uv lock -q
	.tools/bin/uv export -q --frozen --only-group services --no-emit-project --no-header --no-annotate \
	  -o infra/ansible/roles/python_env/files/requirements.txt

clean:
	rm -rf .venv .tools dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
