# Two commands for a newcomer: `make drill` and `make test`. Each does its own set-up and may be repeated.
SHELL := /bin/sh
PY := .venv/bin/python -P
SEED ?= 1
SECONDS_EACH ?= 60
SIZE ?= 1.3GB
ROUNDS ?= 5
CHUNKS ?= 10000000
CAMPAIGN ?= 20
MUTATIONS ?= 2000
ENTRIES ?= 100000

.PHONY: setup lab-setup drill test check attack fuzz sim wheel docs lock clean bench-backup bench-index bench-wal bench-evidence campaign-backup ransomware-drill test-ceph
.DEFAULT_GOAL := help

help:
	@printf '%s\n' 'make setup   .venv/bin/zaibei from the lock' \
	  'make drill   three sites, a power loss, a verdict with proof (root, Debian 12; ~4 minutes after set-up)' \
	  'make test    everything that guards main (~10 minutes; with root one lab boot is in it)' \
	  'make check   formatting, lint, types, import contracts' \
	  'make attack  the attacks that must fail, and both verifiers fuzzed against each other' \
  'make fuzz    every parser of backups under atheris: make fuzz SECONDS_EACH=60' \
	  'make bench-backup     beside restic and borg: make bench-backup SIZE=1.3GB ROUNDS=5' \
	  'make bench-index      ten million chunks within 512 MiB' \
	  'make bench-evidence   a log of 100,000 entries verified (<= 60 s, 256 MiB)' \
	  'make bench-wal        how old the log in the vaults is (<= 2 s p99)' \
	  'make campaign-backup  every storage call of every step, and the model for longer' \
	  'make ransomware-drill ten minutes of an attacker with the keys of the writer' \
	  'make test-ceph        the backup path on Ceph RGW from Debian (installs it)' \
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

# Quick attacks also run in `make test`; this is the suite alone, with every mutation of a pack (~30 minutes).
attack: lab-setup
	ZAIBEI_MUTATIONS=$(MUTATIONS) $(PY) -m pytest -q -m attack --timeout 7200

fuzz: setup
	@for p in $$($(PY) tests/fuzz/backup_parsers.py); do echo "== $$p"; \
	  $(PY) tests/fuzz/backup_parsers.py $$p $(SECONDS_EACH) >/tmp/zaibei-fuzz.log 2>&1 || { tail -n 40 /tmp/zaibei-fuzz.log; exit 1; }; \
	  grep -E 'DONE|stat::' /tmp/zaibei-fuzz.log | tail -n 1; done

# Long ones: run by hand and reported, not gates.
bench-backup: setup
	$(PY) -m zaibei.cli.main backup bench --size $(SIZE) --rounds $(ROUNDS)

bench-index: setup
	$(PY) -m backup.bench.scale --chunks $(CHUNKS)

bench-evidence: setup
	ZAIBEI_ENTRIES=$(ENTRIES) $(PY) -m pytest -q -s --timeout 1200 tests/evidence/test_long_logs.py

bench-wal: lab-setup
	$(PY) -m backup.bench.wal_lag --seconds 60

campaign-backup: setup
	ZAIBEI_CAMPAIGN=$(CAMPAIGN) ZAIBEI_EVERY_DEATH=1 $(PY) -m pytest -q --timeout 7200 tests/backup/lifecycle/test_lifecycle_machine.py tests/backup/keys/test_rotation.py tests/backup/test_store_faults.py \
	  tests/backup/schedule/test_temporal.py

ransomware-drill: setup
	$(PY) -m zaibei.cli.main backup drill-ransomware

test-ceph: setup
	sh tests/ceph/run.sh

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
