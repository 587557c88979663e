# The commands of the README. Every one makes what it needs first; none needs root except for apt in `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FUZZ_S ?= 600
SOAK_S ?= 600
SEEDS  ?= 1-200

.PHONY: demo test lint bench conformance sim load soak fuzz fuzz-fixed apt clean

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "csvd needs Python 3.11 or newer: make PYTHON=python3.11 demo")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

## demo: three nodes, one shared disk, an initiator, a live migration, a killed coordinator
demo: $(VENV)/.run
	$(BIN)/csvd demo

## test: every test; installs the interop peers from apt when it is root or can sudo, and says what it left out when not
test: $(VENV)/.dev
	.ci/test $(BIN)

## lint: ruff, mypy strict, the import contracts
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

## bench: csvd and tgtd side by side; writes docs/benchmarks.md
bench: $(VENV)/.dev
	-.ci/apt tgt libiscsi-bin qemu-utils qemu-block-extra
	$(BIN)/python -m tests.bench --json build/bench.jsonl

## conformance: libiscsi's test suite on every kind of logical unit, and on tgtd; writes docs/conformance.md
conformance: $(VENV)/.dev
	.ci/apt tgt libiscsi-bin
	$(BIN)/python -m tests.conformance

## failover: kills, stops and cuts off the coordinator of a real cluster, again and again; writes docs/failover.md; as root
failover: $(VENV)/.dev
	-.ci/apt iproute2 nftables
	$(BIN)/python -m tests.failover

## load: ten thousand changes through the coordinator of a real cluster, by many initiators; writes docs/cluster-load.md; as root
load: $(VENV)/.dev
	-.ci/apt iproute2 nftables
	$(BIN)/python -m tests.cluster_load

## soak: 16 sessions of mixed work with verify, resets, cuts and restarts of the daemon; SOAK_S seconds
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak --seconds $(SOAK_S)

## sim: the cluster on simulated clocks, networks and disks, with faults and checks; SEEDS such as 1-1000 or 17
sim: $(VENV)/.dev
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

## fuzz: the engines of target and initiator under atheris, each for FUZZ_S seconds; what it finds is kept in .fuzz
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S)
	$(BIN)/python -m tests.fuzz --of initiator --seconds $(FUZZ_S) --found .fuzz/initiator

## fuzz-fixed: a short run that is the same every time, for CI
fuzz-fixed: $(VENV)/.fuzz
	rm -rf build/fuzz
	$(BIN)/python -m tests.fuzz --seconds 300 --runs 3000 --seed 1 --found build/fuzz
	$(BIN)/python -m tests.fuzz --of initiator --seconds 300 --runs 6000 --seed 1 --found build/fuzz/initiator

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
