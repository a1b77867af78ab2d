# Everything a newcomer needs. `make` alone lists it.

.PHONY: help up down test slow soak check sim mutations fuzz bench bench-network bench-etcd failover lock
.DEFAULT_GOAL := help

help:
	@echo 'make up      install what is missing, raise a three-host lab, run a web service in it'
	@echo 'make down    remove every trace of the lab'
	@echo 'make test    install what the tests need and run all of them'
	@echo 'make slow    the slow proofs that make test leaves out (about six minutes)'
	@echo 'make soak    ten minutes of random cuts, deaths and changes of a lab; no difference may be left (SOAK_S=600)'
	@echo 'make check   style, types and house rules only'
	@echo 'make sim     whole clusters of masters on virtual time, with faults (SEEDS=2000, or SEED=42)'
	@echo 'make mutations  put known bugs into copies of the code; the simulator must find each'
	@echo 'make fuzz    hostile bytes for every decoder (EXAMPLES=3000 for each)'
	@echo 'make bench   Essaim, Docker Swarm and plain calls side by side (ROUNDS=3, about 15 minutes)'
	@echo 'make bench-network  the overlay beside Swarm and a VXLAN by hand; tables, names, the shim (ROUNDS=3)'
	@echo 'make bench-etcd  the masters as a key-value store beside etcd (needs etcd-server, etcd-client)'
	@echo 'make failover  the leader is cut off: how long until a write is accepted (RUNS=10)'
	@echo 'make lock    pin the newest allowed versions again (needs uv)'

up:
	@tools/bootstrap runtime
	@./essaim lab up
	@./essaim lab demo

down:
	@tools/bootstrap runtime
	@./essaim lab down

test:
	@tools/bootstrap dev
	.venv/bin/python -m pytest

slow:
	@tools/bootstrap dev
	.venv/bin/python -m pytest -m slow

soak:
	@tools/bootstrap dev
	.venv/bin/python -m pytest -m soak -s tests/integration

check:
	@tools/bootstrap dev
	.venv/bin/python -m pytest tests/test_house_rules.py

SEEDS ?= 2000
FIRST ?= 0
SIM_PROCESSES ?= 2
RUN_SIM = cd tests && ../.venv/bin/python -m sim.run --processes $(SIM_PROCESSES) \
	$(if $(PHASE_ONE_S),--phase-one-s $(PHASE_ONE_S))

sim:
	@tools/bootstrap dev
	@$(RUN_SIM) $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

mutations:
	@tools/bootstrap dev
	@cd tests && ../.venv/bin/python -m sim.mutation_gate $(MUTATION)

ROUNDS ?= 3

bench:
	@tools/bootstrap dev
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python bench/compare_swarm.py --rounds $(ROUNDS)

EXAMPLES ?= 3000

fuzz:
	@tools/bootstrap dev
	ESSAIM_FUZZ_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest -q tests/fuzz

RUNS ?= 10

failover:
	@tools/bootstrap dev
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python bench/failover.py --runs $(RUNS)

bench-network:
	@tools/bootstrap dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python bench/network_speed.py --rounds $(ROUNDS)
	@.venv/bin/python bench/network_tables.py
	@.venv/bin/python bench/dns_answers.py
	@.venv/bin/python bench/shim_start.py

bench-etcd:
	@tools/bootstrap dev
	@command -v etcd etcdctl >/dev/null || { echo 'make bench-etcd: the peer is missing (apt-get install --no-install-recommends etcd-server etcd-client)' >&2; exit 1; }
	@.venv/bin/python bench/compare_etcd.py --rounds $(ROUNDS)

UV_COMPILE = uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-header

lock:
	@command -v uv >/dev/null || { echo 'make lock: uv is not installed (pip install uv)' >&2; exit 1; }
	$(UV_COMPILE) --extra dev pyproject.toml -o requirements/dev.txt
	$(UV_COMPILE) -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) -c requirements/dev.txt requirements/build.in -o requirements/build.txt
